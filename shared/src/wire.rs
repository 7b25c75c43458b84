//! Control messages between whoever starts a party and the party itself: versioned, length-prefixed postcard.
//!
//! In local mode they travel over the party's standard input and output. Secret shares of the input data travel here
//! too, so the channel must reach that party alone.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, Lane, PartyId};
use crate::job::{JobSpec, Reveal};
use crate::share::{Addend, SealedShare};

/// Longest control message; the words of one data set's share must fit.
pub const CONTROL_MESSAGE_MAX: usize = 1 << 30;

/// To a party.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToParty {
    /// First message: who you are and what to do.
    Setup(Box<Setup>),
    /// Where the peers' lanes listen, and their certificates. Follows [`FromParty::Listening`] of all parties.
    Roster(Roster),
    /// The party's share of what the job works on (none for benchmarks).
    Data(Box<DataShare>),
    /// Stop cleanly now.
    Stop,
}

/// Who a party is and what it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Name of the run.
    pub job_id: JobId,
    /// The agreed job.
    pub job: JobSpec,
    /// Which party this is.
    pub party: PartyId,
    /// Incarnation of the job.
    pub epoch: u64,
    /// What its lanes compute with.
    pub device: DeviceChoice,
    /// Whether lanes may share a GPU where there are more lanes than GPUs.
    pub oversubscribe: bool,
    /// Folder for this party's own output (sealed model); it must exist.
    pub folder: String,
    /// Address for `/metrics`, `127.0.0.1:0` for any port; none for no metrics.
    pub metrics: Option<String>,
}

/// Devices that a party may compute with. All give the same results, so each party may choose for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// GPUs if there are any that can be used, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// GPUs; without one that can be used the job fails.
    Cuda,
}

/// All parties' addresses and pinned certificates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Roster {
    /// In party order.
    pub parties: [RosterEntry; 3],
}

/// One party in the roster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RosterEntry {
    /// Its certificate (DER); peers accept this one and no other.
    pub certificate: Vec<u8>,
    /// Where each lane listens, `127.0.0.1:40001`.
    pub lanes: Vec<String>,
}

/// A party's share of what a job works on, encoded in fixed point.
#[derive(Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "one per job, and its message boxes it")]
pub enum DataShare {
    /// Of a training.
    Training(TrainingShare),
    /// Of an inference.
    Inference(InferenceShare),
}

/// A party's share of rows and a model to run on them.
#[derive(Debug, Serialize, Deserialize)]
pub struct InferenceShare {
    /// `rows x inputs`.
    pub x: SealedShare,
    /// Parameters and running averages.
    pub weights: WeightsShare,
}

/// What a party receives of a model: parameters in the order of `Model::initial_parameters`, then running averages in
/// that of `Model::initial_buffers`.
#[derive(Debug, Serialize, Deserialize)]
pub enum WeightsShare {
    /// In the clear, the same for all parties.
    Public {
        /// Parameters of all layers.
        parameters: Vec<u64>,
        /// Running averages of all layers.
        buffers: Vec<u64>,
    },
    /// In shares.
    Secret {
        /// Parameters of all layers.
        parameters: SealedShare,
        /// Running averages of all layers.
        buffers: SealedShare,
    },
}

/// A party's share of a data set: row-major features, then targets.
#[derive(Debug, Serialize, Deserialize)]
pub struct TrainingShare {
    /// `train_rows x inputs`.
    pub train_x: SealedShare,
    /// `train_rows x outputs`.
    pub train_y: SealedShare,
    /// `test_rows x inputs`.
    pub test_x: SealedShare,
    /// `test_rows x outputs`.
    pub test_y: SealedShare,
    /// What training begins with, if the job says [`Start::Shared`](crate::job::Start::Shared).
    pub start: Option<WeightsShare>,
}

/// From a party.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromParty {
    /// Answer to [`ToParty::Setup`]: where the lanes listen, and the certificate made for this run. The key stays.
    Listening {
        /// Goes into the roster.
        entry: RosterEntry,
        /// Where `/metrics` is served, if it is.
        metrics: Option<String>,
    },
    /// All lanes are connected to both peers.
    Connected,
    /// Training goes on.
    Progress {
        /// Steps done.
        step: usize,
        /// Steps in all.
        steps: usize,
    },
    /// This party's part of a result for whoever started the job; before [`FromParty::Finished`].
    Result {
        /// Which result; the reveal policy names it.
        what: Reveal,
        /// One word per element. The three parties' words add up to the result; two of them say nothing.
        addend: Addend,
    },
    /// The job is done.
    Finished(Box<PartyReport>),
    /// The job cannot go on.
    Failed(Failure),
}

/// Why a party gave up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Lane that noticed.
    pub lane: Option<Lane>,
    /// Peer at fault, if one is.
    pub peer: Option<PartyId>,
    /// Step at which it happened; `None` before the first.
    pub step: Option<usize>,
    /// What happened, and the likely cause.
    pub reason: String,
    /// Exit code class.
    pub kind: FailureKind,
}

/// Classes of failure, each with an exit code of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FailureKind {
    /// The computation failed.
    Job,
    /// A deadline passed.
    Timeout,
    /// No connection, or not the peer that the roster names.
    Connection,
    /// The reveal policy forbids it.
    Policy,
}

/// What one party measured and was allowed to open.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PartyReport {
    /// Device of the lanes, `cpu (avx512, 1 thread)`.
    pub device: String,
    /// Opened values, by [`crate::job::Reveal`] name.
    pub opened: Vec<(String, Vec<f64>)>,
    /// Wall seconds of every training step (or benchmark repetition), as lane 0 saw them.
    pub step_seconds: Vec<f64>,
    /// Wall seconds of training, without start-up, calibration and evaluation.
    pub train_seconds: f64,
    /// Bytes sent to peers during those steps, all lanes.
    pub sent_bytes: u64,
    /// Longest chain of dependent receives over those steps, worst lane.
    pub rounds: u64,
    /// Mean seconds per step in each phase, all lanes together, by phase name.
    pub phase_seconds: Vec<(String, f64)>,
    /// Calibration: samples per second of one lane, of all lanes on the same batch, of all lanes with a batch each.
    pub calibration: Option<Calibration>,
    /// Peak resident memory of the process.
    pub peak_rss_bytes: u64,
    /// Shortest round trip to a peer that a lane measured, seconds.
    pub peer_rtt_seconds: f64,
}

/// Speed of one lane and of all lanes, measured in one run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Calibration {
    /// Seconds per step: one lane, the job's batch.
    pub one_lane: f64,
    /// Seconds per step: all lanes, the same batch split among them.
    pub strong: f64,
    /// Seconds per step: all lanes, the job's batch on each.
    pub weak: f64,
    /// Of the one-lane step, seconds spent computing (not sending or waiting).
    pub one_lane_compute: f64,
}
