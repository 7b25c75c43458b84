//! Training of one lane: batches, steps, the sum of gradients over the lanes, evaluation. Knows no processes.

mod bench;
mod evaluate;
mod infer;
mod lane;
mod optimiser;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use shared::ids::Lane;
use shared::job::{JobSpec, Reveal};
use shared::share::{Addend, Share};
use shared::wire::Calibration;

pub use lane::run_lane;

use crate::collective::{Collective, CollectiveError};
use crate::compute::{Compute, DeviceError};
use crate::meter::{LaneCounters, Snapshot};
use crate::protocol::{PairKeys, ProtocolError, Replicated};
use crate::transport::{Transport, TransportError};

/// A party's shares of what a job works on.
pub enum PartyData {
    /// Of a training.
    Training(TrainingData),
    /// Of an inference.
    Inference(InferenceData),
}

/// A party's shares of rows and a model to run on them.
pub struct InferenceData {
    /// Row-major features.
    pub x: Share,
    /// The model.
    pub weights: StoredWeights,
}

/// A party's shares of a model, as they came or will leave.
#[derive(Clone)]
pub struct StoredWeights {
    /// Parameters of all layers.
    pub parameters: Share,
    /// Running averages of batch-norms.
    pub averages: Share,
}

/// A party's shares of a model on the device of a lane.
struct Weights {
    parameters: Replicated,
    /// In training every lane has those of its own slices.
    averages: Replicated,
}

impl StoredWeights {
    /// A copy on a device.
    fn on(&self, device: &dyn Compute) -> Weights {
        let on = |share: &Share| Replicated::on(device, share.clone());
        Weights { parameters: on(&self.parameters), averages: on(&self.averages) }
    }
}

/// A party's shares of a data set: row-major features and targets.
pub struct TrainingData {
    /// Training rows.
    pub train_x: Share,
    /// Their targets.
    pub train_y: Share,
    /// Test rows.
    pub test_x: Share,
    /// Their targets.
    pub test_y: Share,
    /// What training begins with; the public initial parameters of the job's seed if none.
    pub start: Option<StoredWeights>,
}

/// What a lane needs.
pub struct LaneSetup {
    /// The agreed job.
    pub job: Arc<JobSpec>,
    /// Which lane.
    pub lane: Lane,
    /// To the same lane of the two other parties.
    pub transport: Box<dyn Transport>,
    /// Fresh keys of this lane and epoch.
    pub keys: PairKeys,
    /// Where it computes.
    pub device: Arc<dyn Compute>,
    /// To the other lanes of this party.
    pub collective: Box<dyn Collective>,
    /// The party's data; none for benchmarks.
    pub data: Option<Arc<PartyData>>,
    /// What `/metrics` and the report read.
    pub counters: Arc<LaneCounters>,
    /// Set when the job must stop.
    pub stop: Arc<AtomicBool>,
    /// Called with the steps (rows, in an inference) done and those in all, by lane 0.
    pub progress: Box<dyn Fn(usize, usize) + Send>,
}

/// What a lane brings back.
#[derive(Debug, Default)]
pub struct LaneOutcome {
    /// Values opened under the reveal policy (lane 0).
    pub opened: Vec<(Reveal, Vec<f64>)>,
    /// This lane's part of a result for whoever started the job. Lanes' parts follow one another.
    pub result: Option<(Reveal, Addend)>,
    /// Wall seconds of each training step, timed repetition or block of rows.
    pub step_seconds: Vec<f64>,
    /// Wall seconds of all of them.
    pub train_seconds: f64,
    /// Phases, rounds and bytes during them.
    pub during: Snapshot,
    /// Speed of one lane and of all (lane 0).
    pub calibration: Option<Calibration>,
    /// This party's share of the trained model (lane 0).
    pub parameters: Option<Share>,
}

/// Why a lane gave up. Steps are training steps; `None` before the first.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// A peer is gone, late, or cannot be understood.
    #[error("{source}")]
    Transport {
        /// At which step.
        step: Option<usize>,
        /// What happened.
        source: TransportError,
    },
    /// A peer broke the protocol.
    #[error("{source}")]
    Protocol {
        /// At which step.
        step: Option<usize>,
        /// What happened.
        source: ProtocolError,
    },
    /// The lane's device failed.
    #[error("{source}")]
    Device {
        /// At which step.
        step: Option<usize>,
        /// What happened.
        source: DeviceError,
    },
    /// Another lane of this party is gone or late.
    #[error("{source}")]
    Collective {
        /// At which step.
        step: Option<usize>,
        /// What happened.
        source: CollectiveError,
    },
    /// Someone asked the lane to stop.
    #[error("stopped on request")]
    Stopped,
    /// The job asks for what it does not bring along.
    #[error("{0}")]
    Job(String),
}

impl LaneError {
    /// The error of a protocol step.
    pub(crate) fn at(step: Option<usize>, source: ProtocolError) -> Self {
        match source {
            ProtocolError::Transport(source) => Self::Transport { step, source },
            ProtocolError::Device(source) => Self::Device { step, source },
            ProtocolError::Stopped => Self::Stopped,
            source => Self::Protocol { step, source },
        }
    }
}
