//! Ordered, authenticated frames between the three parties of one lane. Knows bytes, no shares.
//!
//! One transport serves one lane: it reaches the same lane of the two other parties and nobody else.

mod memory;

use std::time::Duration;

use shared::ids::PartyId;

pub use memory::{MemoryTransport, memory_triangle};

/// Carries frames to and from the two other parties of a lane.
///
/// Frames of one sender arrive complete, once, and in order, or an error says why not.
pub trait Transport: Send {
    /// The party on whose behalf this transport speaks.
    fn me(&self) -> PartyId;
    /// Queues a frame for `to`; blocks only while the queue is full.
    fn send(&mut self, to: PartyId, frame: Vec<u8>) -> Result<(), TransportError>;
    /// Waits for the next frame of either peer; an error after `timeout` without any.
    fn recv(&mut self, timeout: Duration) -> Result<(PartyId, Vec<u8>), TransportError>;
    /// Takes a frame that has already arrived.
    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError>;
    /// Says goodbye to both peers, waits until they have done the same, and closes.
    fn close(&mut self) -> Result<(), TransportError>;
}

/// Why a lane can no longer talk to a peer.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum TransportError {
    /// The peer closed the connection or its process ended.
    #[error("{peer} is gone: {reason}")]
    PeerGone {
        /// Who.
        peer: PartyId,
        /// What the connection said.
        reason: String,
    },
    /// No frame came in time.
    #[error("no word from {waiting_for} for {} s", .after.as_secs())]
    Timeout {
        /// Whose message was due; both peers' names when either would have done.
        waiting_for: String,
        /// How long we waited.
        after: Duration,
    },
    /// A frame broke the framing rules: length, epoch, sequence number.
    #[error("{peer} sent a bad frame: {reason}")]
    BadFrame {
        /// Who.
        peer: PartyId,
        /// Which rule.
        reason: String,
    },
    /// The connection could not be made or the peer is not who the roster says.
    #[error("cannot connect to {peer}: {reason}")]
    Connect {
        /// Who.
        peer: PartyId,
        /// Likely cause.
        reason: String,
    },
}
