//! Ordered, authenticated frames between the three parties of one lane. Knows bytes, no shares.
//!
//! One transport serves one lane: it reaches the same lane of the two other parties and nobody else.

#[cfg(test)]
mod conformance;
#[cfg(any(test, feature = "test-world"))]
pub mod faulty;
pub mod frame;
pub mod handshake;
pub mod identity;
mod memory;
pub mod quic;
pub mod secrets;
mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use shared::ids::PartyId;

pub use identity::{Identity, Roster, RosterEntry};
pub use memory::{MemoryTransport, memory_triangle};
pub use quic::tuning::WireTuning;
pub use quic::{QuicListener, QuicTransport, SessionParams, WireMeter};
pub use secrets::SessionSecrets;

/// Carries frames to and from the two other parties of a lane.
///
/// Frames of one sender arrive complete, once, and in order, or an error says why not.
pub trait Transport: Send {
    /// The party on whose behalf this transport speaks.
    fn me(&self) -> PartyId;
    /// Queues a frame for `to`; blocks only while the queue is full.
    fn send(&mut self, to: PartyId, frame: Vec<u8>) -> Result<(), TransportError>;
    /// Hands queued frames to the network now. [`Transport::recv`] does so too; call this before a long computation.
    fn flush(&mut self) -> Result<(), TransportError> {
        Ok(())
    }
    /// Waits for the next frame of either peer; an error after `timeout` without any.
    fn recv(&mut self, timeout: Duration) -> Result<(PartyId, Vec<u8>), TransportError>;
    /// Takes a frame that has already arrived.
    fn try_recv(&mut self) -> Result<Option<(PartyId, Vec<u8>)>, TransportError>;
    /// Says goodbye to both peers, waits until they have done the same, and closes.
    fn close(&mut self) -> Result<(), TransportError>;
    /// What has passed so far; zeros from a transport that does not count.
    fn stats(&self) -> WireStats {
        WireStats::default()
    }
}

/// Counters of a lane, by peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireStats {
    peers: [PeerStats; 3],
}

impl WireStats {
    /// Counters of the connection with one peer.
    pub fn with(&self, peer: PartyId) -> PeerStats {
        self.peers[peer.index()]
    }

    /// Bytes sent to both peers, frame headers included.
    pub fn sent_bytes(&self) -> u64 {
        self.peers.iter().map(|peer| peer.sent_bytes).sum()
    }

    /// Bytes received from both peers, frame headers included.
    pub fn received_bytes(&self) -> u64 {
        self.peers.iter().map(|peer| peer.received_bytes).sum()
    }
}

/// Counters of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Data frames queued for this peer.
    pub sent_frames: u64,
    /// Their bytes, headers included; handshake, goodbye and what QUIC adds are not counted.
    pub sent_bytes: u64,
    /// Complete data frames of this peer.
    pub received_frames: u64,
    /// Their bytes, headers included.
    pub received_bytes: u64,
    /// Smoothed round-trip time.
    pub round_trip: Duration,
    /// UDP packets sent.
    pub sent_packets: u64,
    /// Of these, taken for lost and sent again.
    pub lost_packets: u64,
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
    /// The port for a lane cannot be had.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Likely cause.
        reason: String,
    },
    /// This party's own machine refused something.
    #[error("this machine cannot run the lane: {reason}")]
    Local {
        /// What the operating system said.
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
