//! Training of one lane.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use shared::ids::Lane;
use shared::job::{JobSpec, Reveal};
use shared::share::Share;
use shared::wire::Calibration;

use crate::collective::{Collective, CollectiveError};
use crate::compute::{Compute, Key};
use crate::meter::{LaneCounters, Snapshot};
use crate::transport::{Transport, TransportError};

/// Keys shared with the next and the previous party.
pub type PairKeys = [Key; 2];

/// A party's shares of the data.
pub struct PartyData {
    /// Training rows.
    pub train_x: Share,
    /// Their targets.
    pub train_y: Share,
    /// Test rows.
    pub test_x: Share,
    /// Their targets.
    pub test_y: Share,
}

/// What a lane needs.
pub struct LaneSetup {
    /// The agreed job.
    pub job: Arc<JobSpec>,
    /// Which lane.
    pub lane: Lane,
    /// To the two peers.
    pub transport: Box<dyn Transport>,
    /// For the next peer, for the previous peer.
    pub keys: PairKeys,
    /// Where it computes.
    pub device: Arc<dyn Compute>,
    /// To the other lanes.
    pub collective: Box<dyn Collective>,
    /// Training jobs only.
    pub data: Option<Arc<PartyData>>,
    /// Read by `/metrics`.
    pub counters: Arc<LaneCounters>,
    /// Set when the job must stop.
    pub stop: Arc<AtomicBool>,
    /// Step, steps; lane 0 calls it.
    pub progress: Box<dyn Fn(usize, usize) + Send>,
}

/// What a lane brings back.
pub struct LaneOutcome {
    /// Opened values.
    pub opened: Vec<(Reveal, f64)>,
    /// Wall seconds of each step.
    pub step_seconds: Vec<f64>,
    /// Wall seconds of training.
    pub train_seconds: f64,
    /// Phases, rounds, bytes of the training steps only.
    pub during: Snapshot,
    /// Speed of one lane and of all.
    pub calibration: Option<Calibration>,
    /// The trained model's share.
    pub parameters: Option<Share>,
}

/// Why a lane gave up.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// Peers.
    #[error("{source}")]
    Transport {
        /// At which step.
        step: Option<usize>,
        /// Why.
        source: TransportError,
    },
    /// Own lanes.
    #[error("{source}")]
    Collective {
        /// At which step.
        step: Option<usize>,
        /// Why.
        source: CollectiveError,
    },
    /// Asked to.
    #[error("stopped")]
    Stopped,
    /// Not allowed.
    #[error("{0}")]
    Policy(String),
    /// Broken.
    #[error("{what}")]
    Protocol {
        /// At which step.
        step: Option<usize>,
        /// What.
        what: String,
    },
}

/// Runs a lane.
pub fn run_lane(setup: LaneSetup) -> Result<LaneOutcome, LaneError> {
    drop(setup);
    Err(LaneError::Policy("training is not part of this build".into()))
}
