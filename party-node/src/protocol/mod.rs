//! The protocol core: the only code that sends shares.
//!
//! For one tile of an operation, one party is the *helper* H and the two others are the *evaluators* A = P_{h-1} and
//! B = P_{h+1}. A shared value is `x = t + a + b`: A and B know `t`, H and A know `a`, H and B know `b`. The helper
//! never receives anything, so it can run ahead; what it deals depends on masks alone. The helper rotates by tile, so
//! that every party carries a third of the bytes and of the products.
//!
//! It agrees with the executable specification `tools/protocols.py` in bytes, rounds and results (`tests/spec.rs`);
//! `docs/protocols.md` has the security argument.

mod compare;
mod gathering;
mod inject;
mod input;
mod mul;
mod open;
mod prss;
mod random;
mod tile;
mod trunc;
mod value;
mod wire;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::fixed::FixedPoint;
use shared::ids::PartyId;
use shared::job::ProtocolSpec;

pub use compare::{and, carries_bytes, carry, carry_bytes, sign, signs};
pub use gathering::Gathering;
pub use inject::{
    Factor, Kept, Term, inject, inject_again, inject_forms, inject_sum, inject_sum_keeping, inject_sums, to_arithmetic,
};
pub use input::input;
pub use mul::{
    Matrix, conv, conv_doubled, conv_images_doubled, conv_weights_doubled, matmul, matmul_doubled, mul, mul_doubled,
    square_doubled,
};
pub use open::{open, open_to_owner};
pub use prss::{PairKeys, Purpose};
pub use random::{biased, biased_bits, random_bits};
pub use tile::{Op, Role, Tile, join, split_in_three, tile_ranges};
pub use trunc::{trunc, trunc_exact, trunc_floor};
pub use value::{Bits, DoubledPartial, Known, Replicated, ReplicatedView, TileShare, View};
pub use wire::{FRAME_HEADER_BYTES, MESSAGE_HEADER_BYTES, parse_frame};

#[cfg(any(test, feature = "test-world"))]
pub use prss::Recorder;

use self::wire::Wire;
use crate::compute::{Compute, DeviceError};
use crate::meter::Meter;
use crate::transport::{Transport, TransportError};

/// Why a protocol step could not be finished.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum ProtocolError {
    /// The peer cannot be reached any more.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A message had the wrong length.
    #[error("{peer} sent {got} bytes where {expected} were due")]
    Length {
        /// Who sent it.
        peer: PartyId,
        /// Bytes that the protocol expects.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A frame did not split into messages.
    #[error("{peer} sent a frame whose messages do not add up")]
    Malformed {
        /// Who sent it.
        peer: PartyId,
    },
    /// A frame was lost, repeated or overtaken.
    #[error("{peer} sent frame {got} where frame {expected} was due")]
    Sequence {
        /// Who sent it.
        peer: PartyId,
        /// Number that is next.
        expected: u32,
        /// Number that the frame bears.
        got: u32,
    },
    /// The lane's own device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Someone asked this party to stop.
    #[error("stopped on request")]
    Stopped,
}

impl ProtocolError {
    /// The peer at fault, if one is.
    pub fn peer(&self) -> Option<PartyId> {
        match self {
            Self::Length { peer, .. } | Self::Malformed { peer } | Self::Sequence { peer, .. } => Some(*peer),
            Self::Transport(_) | Self::Device(_) | Self::Stopped => None,
        }
    }
}

/// One lane of one party: all that a protocol step may touch. No clock, no global state, no other randomness.
pub struct Party {
    me: PartyId,
    keys: PairKeys,
    wire: RefCell<Wire>,
    device: Arc<dyn Compute>,
    meter: Meter,
    spec: ProtocolSpec,
    stop: Arc<AtomicBool>,
    calls: Cell<u32>,
    depth: Cell<u32>,
    nudged: Cell<bool>,
    #[cfg(any(test, feature = "test-world"))]
    recorder: Option<Arc<Recorder>>,
}

impl Party {
    /// A lane that speaks through `transport` under fresh keys.
    pub fn new(
        transport: Box<dyn Transport>,
        keys: PairKeys,
        device: Arc<dyn Compute>,
        meter: Meter,
        spec: ProtocolSpec,
        timeout: Duration,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            me: transport.me(),
            keys,
            wire: RefCell::new(Wire::new(transport, timeout)),
            device,
            meter,
            spec,
            stop,
            calls: Cell::new(0),
            depth: Cell::new(0),
            nudged: Cell::new(false),
            #[cfg(any(test, feature = "test-world"))]
            recorder: None,
        }
    }

    /// Panics from now on if a stream position repeats.
    #[cfg(any(test, feature = "test-world"))]
    pub fn record(&mut self, recorder: Arc<Recorder>) {
        self.recorder = Some(recorder);
    }

    /// Which party this is.
    pub fn me(&self) -> PartyId {
        self.me
    }

    /// Where the arithmetic runs.
    pub fn device(&self) -> &dyn Compute {
        &*self.device
    }

    /// The lane's stop-watch.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Number formats and protocol variants of the job.
    pub fn spec(&self) -> ProtocolSpec {
        self.spec
    }

    /// The fixed-point format of the job.
    pub fn fixed(&self) -> FixedPoint {
        self.spec.fraction_bits
    }

    /// Longest chain of dependent receives so far.
    pub fn rounds(&self) -> u32 {
        self.depth.get()
    }

    /// Says goodbye to both peers.
    pub fn close(&self) -> Result<(), ProtocolError> {
        self.wire.borrow_mut().close()
    }

    /// Sends what is queued, unless it comes from a device that has failed.
    fn flush(&self, now: bool) -> Result<(), ProtocolError> {
        self.device.check()?;
        let mut wire = self.wire.borrow_mut();
        if now { wire.flush_now(&self.meter) } else { wire.flush(&self.meter) }
    }

    fn check_stop(&self) -> Result<(), ProtocolError> {
        if self.stop.load(Ordering::Relaxed) { Err(ProtocolError::Stopped) } else { Ok(()) }
    }
}
