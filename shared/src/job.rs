//! A job: everything the three parties must agree on before the first share moves.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fixed::{FixedError, FixedPoint};
use crate::model::{Layer, LayerError, Loss, Model, ModelError, TrainSpec};

/// Version that peers compare; it changes whenever bytes on the wire or results change.
pub const PROTOCOL_VERSION: &str = concat!("trefoil-", env!("CARGO_PKG_VERSION"));

/// Classes that a softmax can tell apart: its quotient is exact enough for sums up to this number.
pub const SOFTMAX_CLASSES_MAX: usize = 128;

/// Values stay below this whatever the formats allow: quotients, roots and logarithms are made for that range.
const MAGNITUDE_MAX: f64 = 16_384.0;

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
    /// Low bits that a comparison looks at: 32 (exact below 2^(31-f) at `f` fraction bits) or 64.
    pub compare_bits: u32,
    /// How products are truncated.
    pub trunc: Truncation,
    /// Milliseconds there and back between two parties, as known before the job; 0 for one machine or one network.
    /// From [`ROUND_TRIP_LONG_MS`] on, comparisons take fewer rounds and somewhat more bytes.
    pub round_trip_ms: u32,
}

/// A round trip from which on a round costs more than the bytes that it saves.
pub const ROUND_TRIP_LONG_MS: u32 = 2;

/// The longest round trip that a job may state.
pub const ROUND_TRIP_MAX_MS: u32 = 10_000;

impl Default for ProtocolSpec {
    fn default() -> Self {
        Self { fraction_bits: FixedPoint::DEFAULT, compare_bits: 32, trunc: Truncation::Exact, round_trip_ms: 0 }
    }
}

impl ProtocolSpec {
    /// Whether variants with fewer rounds are worth their bytes.
    pub fn saves_rounds(&self) -> bool {
        self.round_trip_ms >= ROUND_TRIP_LONG_MS
    }

    /// Below this magnitude the difference of any two values can still be compared: half of what the window holds.
    pub fn comparable_max(&self) -> f64 {
        let spare = self.compare_bits.saturating_sub(2 + self.fraction_bits.bits());
        f64::from(spare).exp2()
    }

    /// Bound of data values and of gradients after clipping: [`ProtocolSpec::comparable_max`], and at most 2^14.
    pub fn magnitude_max(&self) -> f64 {
        self.comparable_max().min(MAGNITUDE_MAX)
    }

    /// Refuses a data value that the protocols could not compute with.
    pub fn check_value(&self, value: f64) -> Result<(), FixedError> {
        if !value.is_finite() {
            return Err(FixedError::NotFinite(value));
        }
        let max = self.magnitude_max();
        if value.abs() < max {
            return Ok(());
        }
        let remedy = if max < MAGNITUDE_MAX {
            "rescale or standardise the column, or set protocol.compare_bits = 64 or fewer protocol.fraction_bits"
        } else {
            "rescale or standardise the column"
        };
        Err(FixedError::TooLarge { max, remedy })
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
    Train(Box<Training>),
    /// Runs a trained model on rows of data.
    Infer(Box<Inference>),
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
    /// SHA-256 over the encoded data set behind a secret salt, so that all parties agree which data this is and none
    /// can test a guess of it.
    pub data_digest: [u8; 32],
    /// Which parameters training begins with.
    pub start: Start,
    /// Stop after this many steps (benchmarks); all epochs otherwise.
    pub max_steps: Option<usize>,
    /// Steps of each calibration run that measure the speed-up of many lanes over one; 0 for none.
    pub calibration_steps: usize,
}

/// Which parameters training begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Public ones, from [`TrainSpec::seed`].
    #[default]
    Seeded,
    /// Those of a model that its owner shares with the data.
    Shared {
        /// As [`Inference::model_digest`] of a secret model.
        model_digest: [u8; 32],
    },
}

/// A trained model at work.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Inference {
    /// The network; its loss plays no part.
    pub model: Model,
    /// Rows that the model is run on.
    pub rows: usize,
    /// Whether all parties may know parameters and running averages.
    pub public_model: bool,
    /// Rows that pass through the network at a time; 0 for as many as memory has room for.
    pub batch: usize,
    /// SHA-256 over the encoded rows behind a secret salt.
    pub data_digest: [u8; 32],
    /// SHA-256 over the encoded parameters and running averages: [`public_digest`] of a public model, which the parties
    /// recompute; behind a secret salt otherwise.
    pub model_digest: [u8; 32],
}

impl Inference {
    /// Rows that a lane takes through the network at a time.
    pub fn block_rows(&self) -> usize {
        let most = block_rows(&self.model);
        if self.batch == 0 { most } else { self.batch.min(most) }
    }
}

/// Rows of a block at most: enough to fill every round.
const BLOCK_ROWS_MAX: usize = 1536;
/// Results of all layers together that a block of rows may have, so that large images fit in memory: 64 MiB for each
/// component.
const BLOCK_ELEMENTS_MAX: usize = 1 << 23;

/// Rows that pass through a network at a time, where nothing else is asked for. Batch-norms do not count: they are
/// folded into other layers before.
///
/// # Panics
/// If the network does not fit together.
pub fn block_rows(model: &Model) -> usize {
    let wiring = model.wiring().expect("a model that was checked");
    let nodes = model.nodes.iter().enumerate();
    let kept = nodes.filter(|(_, node)| !matches!(node.layer, Layer::BatchNorm { .. }));
    let widths: usize = kept.map(|(index, _)| wiring.output(index).len()).sum();
    (BLOCK_ELEMENTS_MAX / (model.inputs() + widths)).clamp(1, BLOCK_ROWS_MAX)
}

/// Digest of words that all parties see.
pub fn public_digest(parts: &[&[u64]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        part.iter().for_each(|word| hash.update(word.to_le_bytes()));
    }
    hash.finalize().into()
}

impl Training {
    /// Refuses a network that does not fit together, and statistics of a single value: a lane's part of a batch, or of
    /// the smaller one at the end of an epoch, must give a batch-norm at least two values per channel.
    fn check_batches(&self, lanes: u16) -> Result<(), ModelError> {
        let (wiring, lanes) = (self.model.wiring()?, usize::from(lanes.max(1)));
        let whole = self.train.batch.clamp(1, self.train_rows.max(1));
        let batches = [whole, self.train_rows % whole];
        let single = batches.iter().any(|rows| rows / lanes == 1 || rows.div_ceil(lanes) == 1);
        let norm = |node: &usize| {
            let normalises = matches!(self.model.nodes[*node].layer, Layer::BatchNorm { .. });
            normalises && wiring.input(*node).positions() == 1
        };
        match (0..self.model.nodes.len()).find(norm).filter(|_| single) {
            Some(node) => {
                let node = &self.model.nodes[node];
                let (name, kind) = (node.name.clone(), node.layer.kind());
                Err(ModelError::Layer { name, kind, why: LayerError::SingleValue })
            }
            None => Ok(()),
        }
    }
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

/// A result that a job may give away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reveal {
    /// Share of test rows classified correctly.
    TestAccuracy,
    /// Test rows of each class by the class that they are taken for.
    TestConfusion,
    /// Area under the ROC curve on the test rows.
    TestAuroc,
    /// Mean squared error on the test rows (regression).
    TestLoss,
    /// Largest deviation of a benchmark's result from float64 on its generated (not secret) data.
    BenchError,
    /// The model's results, to the owner of the data alone.
    Predictions,
    /// The trained parameters and running averages, to whoever submitted the job alone.
    Weights,
}

impl Reveal {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::TestAccuracy,
        Self::TestConfusion,
        Self::TestAuroc,
        Self::TestLoss,
        Self::BenchError,
        Self::Predictions,
        Self::Weights,
    ];

    /// Name in policies, reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::TestAccuracy => "test-accuracy",
            Self::TestConfusion => "test-confusion",
            Self::TestAuroc => "test-auroc",
            Self::TestLoss => "test-loss",
            Self::BenchError => "bench-error",
            Self::Predictions => "predictions",
            Self::Weights => "weights",
        }
    }

    /// Whether no party learns it: each hands a masked addend to whoever started the job, who joins them.
    pub fn is_for_its_owner(self) -> bool {
        matches!(self, Self::Predictions | Self::Weights)
    }

    /// Whether this work has such a result.
    pub fn fits(self, work: &Work) -> bool {
        match (self, work) {
            (Self::BenchError, Work::Bench(_)) | (Self::Predictions, Work::Infer(_)) => true,
            (_, Work::Bench(_) | Work::Infer(_)) | (Self::BenchError | Self::Predictions, Work::Train(_)) => false,
            (Self::Weights, Work::Train(_)) => true,
            (Self::TestAccuracy | Self::TestConfusion, Work::Train(training)) => !training.model.loss.is_regression(),
            (Self::TestAuroc, Work::Train(training)) => training.model.loss == Loss::BinaryCrossEntropy,
            (Self::TestLoss, Work::Train(training)) => training.model.loss.is_regression(),
        }
    }
}

/// Why nobody should compute a job.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum JobError {
    /// No such comparison window.
    #[error("a comparison window of {0} bits: 32 and 64 are supported")]
    CompareBits(u32),
    /// Not a number of classes for a softmax.
    #[error("a softmax over {classes} classes: 2 to {SOFTMAX_CLASSES_MAX} are supported")]
    Classes {
        /// Columns of the scores.
        classes: usize,
    },
    /// Gradients could not be compared with their bound.
    #[error("gradients clipped to +-{clip}: the bound must lie above 0 and below {max} with these number formats")]
    Clip {
        /// What was given.
        clip: f64,
        /// [`ProtocolSpec::magnitude_max`].
        max: f64,
    },
    /// The network does not fit together.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Nothing to run the model on.
    #[error("an inference on no rows: at least one is needed")]
    NoRows,
    /// An inference that would tell nobody anything.
    #[error("the reveal policy does not name predictions, and an inference has no other result")]
    NoPredictions,
    /// The reveal policy names what the job does not have.
    #[error("the reveal policy names {}, which this job does not have", .0.name())]
    NoSuchResult(Reveal),
    /// The reveal policy names something twice.
    #[error("the reveal policy names {} twice: each result is opened once", .0.name())]
    RevealedTwice(Reveal),
}

impl JobSpec {
    /// What every party compares before the first share moves.
    pub fn digest(&self) -> [u8; 32] {
        let bytes = postcard::to_stdvec(self).expect("a job holds nothing that cannot be encoded");
        Sha256::digest(bytes).into()
    }

    /// Refuses what the protocols are not made for, and a reveal policy that does not fit the work.
    pub fn check(&self) -> Result<(), JobError> {
        if !matches!(self.protocol.compare_bits, 32 | 64) {
            return Err(JobError::CompareBits(self.protocol.compare_bits));
        }
        let classes = match &self.work {
            Work::Train(training) => {
                training.check_batches(self.lanes)?;
                let max = self.protocol.magnitude_max();
                if let Some(clip) = training.train.clip.filter(|clip| !(*clip > 0.0 && *clip < max)) {
                    return Err(JobError::Clip { clip, max });
                }
                (training.model.loss == Loss::SoftmaxCrossEntropy).then(|| training.model.outputs())
            }
            Work::Infer(inference) => {
                inference.model.wiring()?;
                if inference.rows == 0 {
                    return Err(JobError::NoRows);
                }
                if !self.reveal.contains(&Reveal::Predictions) {
                    return Err(JobError::NoPredictions);
                }
                None
            }
            Work::Bench(micro) => (micro.operation == Operation::Softmax).then_some(micro.cols),
        };
        if let Some(classes) = classes.filter(|classes| !(2..=SOFTMAX_CLASSES_MAX).contains(classes)) {
            return Err(JobError::Classes { classes });
        }
        for (i, reveal) in self.reveal.iter().enumerate() {
            if !reveal.fits(&self.work) {
                return Err(JobError::NoSuchResult(*reveal));
            }
            if self.reveal[..i].contains(reveal) {
                return Err(JobError::RevealedTwice(*reveal));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(operation: Operation, cols: usize) -> JobSpec {
        JobSpec {
            version: PROTOCOL_VERSION.into(),
            lanes: 4,
            threads: 1,
            protocol: ProtocolSpec::default(),
            work: Work::Bench(Micro { operation, rows: 10, cols, repetitions: 3 }),
            reveal: vec![],
            peer_timeout_seconds: 8,
        }
    }

    fn training(loss: Loss, outputs: usize, reveal: &[Reveal]) -> JobSpec {
        let work = Training {
            model: Model::mlp(3, &[], outputs, loss),
            train: TrainSpec::default(),
            train_rows: 10,
            test_rows: 10,
            data_digest: [0; 32],
            start: Start::Seeded,
            max_steps: None,
            calibration_steps: 0,
        };
        JobSpec { work: Work::Train(Box::new(work)), reveal: reveal.to_vec(), ..bench(Operation::Relu, 1) }
    }

    fn formats(bits: u32, compare_bits: u32) -> ProtocolSpec {
        let fraction_bits = FixedPoint::new(bits).unwrap();
        ProtocolSpec { fraction_bits, compare_bits, ..ProtocolSpec::default() }
    }

    #[test]
    fn values_leave_room_for_their_differences_in_the_window() {
        for (bits, compare_bits, exponent) in [(8, 32, 14), (16, 32, 14), (17, 32, 13), (20, 32, 10), (20, 64, 14)] {
            let (spec, max) = (formats(bits, compare_bits), f64::from(1 << exponent));
            assert_eq!(spec.magnitude_max().to_bits(), max.to_bits(), "{bits} {compare_bits}");
            // The largest difference, in units, against the sign bit of the window.
            assert!(2.0 * max * spec.fraction_bits.scale() <= f64::from(compare_bits - 1).exp2());
            assert_eq!(spec.check_value(max - 1.0), Ok(()));
            for value in [max, -max, f64::NAN, f64::INFINITY, -1e300] {
                assert!(spec.check_value(value).is_err(), "{value}");
            }
        }
        let narrow = formats(20, 32).check_value(2000.0).unwrap_err().to_string();
        assert!(narrow.contains("+-1024;") && narrow.contains("compare_bits = 64"), "{narrow}");
        let wide = formats(20, 64).check_value(20_000.0).unwrap_err().to_string();
        assert!(wide.contains("+-16384;") && !wide.contains("compare_bits"), "{wide}");
    }

    #[test]
    fn a_job_that_the_protocols_are_not_made_for_is_refused() {
        for classes in [2, SOFTMAX_CLASSES_MAX] {
            assert_eq!(bench(Operation::Softmax, classes).check(), Ok(()));
            assert_eq!(training(Loss::SoftmaxCrossEntropy, classes, &[]).check(), Ok(()));
        }
        for classes in [0, 1, SOFTMAX_CLASSES_MAX + 1] {
            assert_eq!(bench(Operation::Softmax, classes).check(), Err(JobError::Classes { classes }));
        }
        let classes = SOFTMAX_CLASSES_MAX + 1;
        assert_eq!(training(Loss::SoftmaxCrossEntropy, classes, &[]).check(), Err(JobError::Classes { classes }));
        assert_eq!(training(Loss::MeanSquared, classes, &[]).check(), Ok(()));

        for (compare_bits, known) in [(0, false), (8, false), (32, true), (48, false), (64, true), (65, false)] {
            let job = JobSpec { protocol: formats(16, compare_bits), ..bench(Operation::Relu, 1) };
            assert_eq!(job.check().is_ok(), known, "{compare_bits}");
        }
        for (clip, fits) in [(1023.0, true), (1024.0, false), (0.0, false), (f64::NAN, false)] {
            let mut job = JobSpec { protocol: formats(20, 32), ..training(Loss::MeanSquared, 1, &[]) };
            let Work::Train(work) = &mut job.work else { unreachable!("it trains") };
            work.train.clip = Some(clip);
            assert_eq!(job.check().is_ok(), fits, "{clip}");
        }
    }

    #[test]
    fn statistics_of_a_single_value_are_refused() {
        use crate::model::Shape;
        let linear = |outputs| Layer::Linear { outputs, bias: true };
        let layers = [linear(4), Layer::BatchNorm { epsilon: 1e-5, momentum: 0.1 }, linear(2)];
        let model = Model::sequence(Shape::vector(3), &layers, Loss::SoftmaxCrossEntropy);
        let job = |rows, batch, lanes| {
            let mut job = JobSpec { lanes, ..training(Loss::SoftmaxCrossEntropy, 2, &[]) };
            let Work::Train(work) = &mut job.work else { unreachable!("it trains") };
            (work.model, work.train_rows, work.train.batch) = (model.clone(), rows, batch);
            job.check()
        };
        for (rows, batch, lanes, fits) in [
            (64, 8, 1, true),
            (65, 8, 1, false),
            (64, 1, 1, false),
            (64, 8, 4, true),
            (64, 8, 8, false),
            (5, 8, 1, true),
        ] {
            assert_eq!(job(rows, batch, lanes).is_ok(), fits, "{rows} {batch} {lanes}");
        }
        let error = job(65, 8, 1).unwrap_err().to_string();
        assert!(error.contains("batch-norm-1") && error.contains("at least two values"), "{error}");
    }

    #[test]
    fn a_policy_names_only_what_the_job_has_and_only_once() {
        use Reveal::{BenchError, TestAccuracy, TestAuroc, TestConfusion, TestLoss, Weights};
        let cases = [
            (Loss::BinaryCrossEntropy, 1, &[TestAccuracy, TestConfusion, TestAuroc, Weights][..]),
            (Loss::SoftmaxCrossEntropy, 3, &[TestAccuracy, TestConfusion, Weights]),
            (Loss::MeanSquared, 1, &[TestLoss, Weights]),
        ];
        for (loss, outputs, fitting) in cases {
            assert_eq!(training(loss, outputs, fitting).check(), Ok(()));
            for other in Reveal::ALL.into_iter().filter(|reveal| !fitting.contains(reveal)) {
                assert_eq!(training(loss, outputs, &[other]).check(), Err(JobError::NoSuchResult(other)));
            }
        }
        let policy = |reveal: &[Reveal]| JobSpec { reveal: reveal.to_vec(), ..bench(Operation::Relu, 1) }.check();
        assert_eq!(policy(&[BenchError]), Ok(()));
        assert_eq!(policy(&[TestAccuracy]), Err(JobError::NoSuchResult(TestAccuracy)));
        assert_eq!(policy(&[BenchError, BenchError]), Err(JobError::RevealedTwice(BenchError)));
    }

    #[test]
    fn an_inference_gives_predictions_on_at_least_one_row() {
        let job = |rows, reveal: &[Reveal]| {
            let model = Model::mlp(3, &[4], 2, Loss::MeanSquared);
            let work =
                Inference { model, rows, public_model: false, batch: 0, data_digest: [0; 32], model_digest: [0; 32] };
            JobSpec { work: Work::Infer(Box::new(work)), reveal: reveal.to_vec(), ..bench(Operation::Relu, 1) }
        };
        assert_eq!(job(1, &[Reveal::Predictions]).check(), Ok(()));
        assert_eq!(job(0, &[Reveal::Predictions]).check(), Err(JobError::NoRows));
        assert_eq!(job(1, &[]).check(), Err(JobError::NoPredictions));
        for other in Reveal::ALL.into_iter().filter(|reveal| *reveal != Reveal::Predictions) {
            let error = job(1, &[Reveal::Predictions, other]).check();
            assert_eq!(error, Err(JobError::NoSuchResult(other)));
        }
    }

    #[test]
    fn large_images_come_in_small_blocks() {
        use crate::model::{Conv, Shape};
        assert_eq!(block_rows(&Model::mlp(784, &[128, 128], 10, Loss::SoftmaxCrossEntropy)), BLOCK_ROWS_MAX);
        let image = Shape::image(3, 224, 224);
        let model = Model::sequence(image, &[Layer::Conv(Conv::square(64, 7).padded(3))], Loss::MeanSquared);
        assert_eq!(block_rows(&model), (1 << 23) / (67 * 224 * 224));
        let vast = Model::sequence(Shape::image(3, 4096, 4096), &[Layer::Relu], Loss::MeanSquared);
        assert_eq!(block_rows(&vast), 1);
        let batch = |batch| {
            let model = Model::mlp(784, &[], 10, Loss::MeanSquared);
            Inference { model, rows: 1, public_model: false, batch, data_digest: [0; 32], model_digest: [0; 32] }
        };
        assert_eq!([0, 64, 10_000].map(|rows| batch(rows).block_rows()), [BLOCK_ROWS_MAX, 64, BLOCK_ROWS_MAX]);
    }

    #[test]
    fn a_public_digest_tells_where_a_part_ends() {
        assert_ne!(public_digest(&[&[1, 2], &[]]), public_digest(&[&[1], &[2]]));
        assert_ne!(public_digest(&[&[1], &[2]]), public_digest(&[&[1], &[3]]));
    }

    #[test]
    fn any_change_changes_the_digest() {
        let job = bench(Operation::Relu, 1);
        let changed = JobSpec { reveal: vec![Reveal::TestAuroc], ..job.clone() };
        assert_eq!(job.digest(), job.clone().digest());
        assert_ne!(job.digest(), changed.digest());
    }
}
