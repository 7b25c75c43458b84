//! A job: everything the three parties must agree on before the first share moves.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fixed::FixedPoint;
use crate::model::{Model, TrainSpec};

/// Version that peers compare; it changes whenever bytes on the wire or results change.
pub const PROTOCOL_VERSION: &str = concat!("trefoil-", env!("CARGO_PKG_VERSION"));

/// What the parties compute.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JobSpec {
    /// [`PROTOCOL_VERSION`] of whoever wrote it.
    pub version: String,
    /// Lanes, each a data-parallel replica with a device of its own.
    pub lanes: u16,
    /// Threads that one lane's device may use.
    pub threads: usize,
    /// Number formats and protocol variants.
    pub protocol: ProtocolSpec,
    /// What to do.
    pub work: Work,
    /// The openings that are allowed; anything else stays in shares.
    pub reveal: Vec<Reveal>,
    /// A peer that says nothing for this many seconds ends the job.
    pub peer_timeout_seconds: u32,
}

/// Number formats and protocol variants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProtocolSpec {
    /// Fraction bits of fixed-point numbers, 8 to 20.
    pub fraction_bits: FixedPoint,
    /// Low bits that a comparison looks at: 32 (exact below 2^15 at 16 fraction bits) or 64.
    pub compare_bits: u32,
    /// How products are truncated.
    pub trunc: Truncation,
}

impl Default for ProtocolSpec {
    fn default() -> Self {
        Self { fraction_bits: FixedPoint::DEFAULT, compare_bits: 32, trunc: Truncation::Exact }
    }
}

/// How products are truncated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// Never fails in range: two hops, 30.4 bytes per element for the three parties together.
    #[default]
    Exact,
    /// One hop, 24 bytes, but a catastrophic error with probability `|2xy| / 2^64` per element.
    Fast,
}

/// What a job computes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Trains a model and evaluates it on the test rows.
    Train(Training),
    /// Times one operation on generated data.
    Bench(Micro),
}

/// A training run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Training {
    /// Network and loss.
    pub model: Model,
    /// Optimiser.
    pub train: TrainSpec,
    /// Training rows.
    pub train_rows: usize,
    /// Test rows; none means no evaluation.
    pub test_rows: usize,
    /// SHA-256 over the encoded data set, so that all parties agree which data this is.
    pub data_digest: [u8; 32],
    /// Stop after this many steps (benchmarks); all epochs otherwise.
    pub max_steps: Option<usize>,
    /// Steps of each calibration run that measure the speed-up of many lanes over one; 0 for none.
    pub calibration_steps: usize,
}

/// Operations of the micro-benchmark, on generated data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Micro {
    /// Which operation.
    pub operation: Operation,
    /// Rows, or elements of an element-wise operation.
    pub rows: usize,
    /// Columns (softmax), or inner and outer size (matmul).
    pub cols: usize,
    /// Timed repetitions, after one warm-up.
    pub repetitions: usize,
}

/// An operation of the micro-benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Truncated matrix product `rows x cols` times `cols x cols`.
    Matmul,
    /// ReLU of `rows` elements.
    Relu,
    /// Maximum over windows of 2x2, `rows` inputs.
    Maxpool,
    /// Sigmoid of `rows` elements.
    Sigmoid,
    /// Softmax of `rows` rows of `cols` classes.
    Softmax,
}

/// An opening that a job may make.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reveal {
    /// Share of test rows classified correctly.
    TestAccuracy,
    /// Area under the ROC curve on the test rows.
    TestAuroc,
    /// Mean squared error on the test rows (regression).
    TestLoss,
    /// Largest deviation of a benchmark's result from float64 on its generated (not secret) data.
    BenchError,
}

impl Reveal {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::TestAccuracy, Self::TestAuroc, Self::TestLoss, Self::BenchError];

    /// Name in policies, reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::TestAccuracy => "test-accuracy",
            Self::TestAuroc => "test-auroc",
            Self::TestLoss => "test-loss",
            Self::BenchError => "bench-error",
        }
    }
}

impl JobSpec {
    /// What every party compares before the first share moves.
    pub fn digest(&self) -> [u8; 32] {
        let bytes = postcard::to_stdvec(self).expect("a job holds nothing that cannot be encoded");
        Sha256::digest(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_changes_the_digest() {
        let job = JobSpec {
            version: PROTOCOL_VERSION.into(),
            lanes: 4,
            threads: 1,
            protocol: ProtocolSpec::default(),
            work: Work::Bench(Micro { operation: Operation::Relu, rows: 10, cols: 1, repetitions: 3 }),
            reveal: vec![],
            peer_timeout_seconds: 8,
        };
        let changed = JobSpec { reveal: vec![Reveal::TestAuroc], ..job.clone() };
        assert_eq!(job.digest(), job.clone().digest());
        assert_ne!(job.digest(), changed.digest());
    }
}
