//! The job file of `mpc-launch`: sections, defaults, ranges. Data only: who reads files and environment fills it in.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::job::{ProtocolSpec, ROUND_TRIP_MAX_MS, Reveal};
use crate::model::{Loss, ModelName, Optimizer, Schedule, TrainSpec};
use crate::wire::DeviceChoice;

/// Lanes per party that one job may have.
pub const LANES_MAX: u16 = 64;

/// A whole `job.toml`. Every key has a default, so an empty file is a valid job.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobFile {
    /// Who computes, where the output goes, how long to wait.
    pub job: JobSection,
    /// The network.
    pub model: ModelSection,
    /// The optimiser.
    pub train: TrainSpec,
    /// What an inference does.
    pub infer: InferSection,
    /// Number formats and protocol variants.
    pub protocol: ProtocolSpec,
    /// The records.
    pub data: DataSection,
    /// What may be opened.
    pub reveal: RevealSection,
}

/// `[job]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobSection {
    /// Name of the run and of its folder; made from the time and a random part when empty (default).
    pub name: String,
    /// Parties; 3 is what this version supports (default 3).
    pub parties: u16,
    /// Lanes, each with a device of its own, per party (default 1).
    pub lanes: u16,
    /// What lanes compute with: `auto` (GPUs if any can be used), `cpu` or `cuda` (default `auto`).
    pub device: DeviceChoice,
    /// Compute threads per lane; 0 means all cores shared evenly among the lanes on this machine (default 0).
    pub threads: usize,
    /// Folder that holds a folder per run (default `runs`).
    pub folder: String,
    /// Whether each party serves `/metrics` on loopback (default true).
    pub metrics: bool,
    /// Steps of each run that measures many lanes against one; 0 for none (default 10; skipped with one lane).
    pub calibration_steps: usize,
    /// A peer silent for this many seconds ends the job (default 8).
    pub peer_timeout_seconds: u32,
    /// All lanes must be connected within this many seconds (default 30).
    pub startup_timeout_seconds: u32,
    /// A job without progress for this many seconds ends (default 300).
    pub progress_timeout_seconds: u32,
}

impl Default for JobSection {
    fn default() -> Self {
        Self {
            name: String::new(),
            parties: 3,
            lanes: 1,
            device: DeviceChoice::Auto,
            threads: 0,
            folder: "runs".into(),
            metrics: true,
            calibration_steps: 10,
            peer_timeout_seconds: 8,
            startup_timeout_seconds: 30,
            progress_timeout_seconds: 300,
        }
    }
}

/// `[model]`. Inputs and outputs follow from the data, or from the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// ONNX file with a trained model: what `infer` runs and training goes on from. `kind`, `hidden` and `activation`
    /// are ignored then. None by default.
    pub file: Option<String>,
    /// What training minimises; by default what fits the task.
    pub loss: Option<LossName>,
    /// Where the trained model goes, `.onnx` or `.safetensors`; `reveal.open` must name `weights`. None by default.
    pub export: Option<String>,
    /// `logreg` (default), `mlp`, `lenet`, `alexnet-cifar`, `vgg16-cifar` or `resnet18`.
    pub kind: ModelName,
    /// Widths of the hidden layers of an `mlp` (default `[64]`).
    pub hidden: Vec<usize>,
    /// Between the layers of an `mlp`: `relu` (default), `sigmoid` or `tanh`.
    pub activation: Activation,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            file: None,
            loss: None,
            export: None,
            kind: ModelName::default(),
            hidden: vec![64],
            activation: Activation::default(),
        }
    }
}

/// Losses, as PyTorch's functions are called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossName {
    /// Softmax and cross-entropy, a score per class.
    CrossEntropy,
    /// Sigmoid and cross-entropy, one score.
    BinaryCrossEntropy,
    /// Half the squared difference.
    Mse,
    /// The magnitude of the difference.
    L1,
}

impl LossName {
    /// What it stands for.
    pub fn loss(self) -> Loss {
        match self {
            Self::CrossEntropy => Loss::SoftmaxCrossEntropy,
            Self::BinaryCrossEntropy => Loss::BinaryCrossEntropy,
            Self::Mse => Loss::MeanSquared,
            Self::L1 => Loss::MeanAbsolute,
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
            Self::BinaryCrossEntropy => "binary-cross-entropy",
            Self::Mse => "mse",
            Self::L1 => "l1",
        }
    }
}

/// `[infer]`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferSection {
    /// Where the results go, `.npy` or `.csv`.
    pub out: Option<String>,
    /// Whether all parties may know the model's weights (default false).
    pub public_model: bool,
    /// Rows that pass through the network at a time; 0 for as many as memory has room for (default 0).
    pub batch: usize,
}

/// What stands between two linear layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `max(x, 0)`.
    #[default]
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
}

/// `[data]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSection {
    /// Built-in set: `breast-cancer` (default) or `digits`. Ignored when `file` is given.
    pub set: BuiltIn,
    /// CSV file with the records, for `infer` also `.npy` or `.npz`; none by default.
    pub file: Option<String>,
    /// Channels, height and width of a sample, if samples are images; by default those of the built-in set, or a vector.
    pub image: Option<[usize; 3]>,
    /// Target column of `file`: its name, or its number counted from 1.
    pub label: Option<String>,
    /// Which of two classes counts as positive; by default the last in alphabetical or numeric order.
    pub positive: Option<String>,
    /// `auto` (default: from the target column), `binary`, `multiclass` or `regression`.
    pub task: TaskChoice,
    /// Whether `file` starts with column names: `auto` (default), `yes` or `no`.
    pub header: Header,
    /// Missing values: `impute` (default: training mean, or a category of their own) or `refuse`.
    pub missing: Missing,
    /// Share of the rows kept for the test (default 0.2).
    pub test_fraction: f64,
    /// Seed of the split (default 1).
    pub seed: u64,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            set: BuiltIn::default(),
            file: None,
            image: None,
            label: None,
            positive: None,
            task: TaskChoice::default(),
            header: Header::default(),
            missing: Missing::default(),
            test_fraction: 0.2,
            seed: 1,
        }
    }
}

/// Data sets that come with the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuiltIn {
    /// Breast Cancer Wisconsin (diagnostic), 569 x 30, two classes.
    #[default]
    BreastCancer,
    /// Handwritten digits, 1797 x 64, ten classes.
    Digits,
}

/// What the targets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskChoice {
    /// Decided from the target column.
    #[default]
    Auto,
    /// Two classes.
    Binary,
    /// Three or more classes.
    Multiclass,
    /// A number.
    Regression,
}

/// Whether a CSV file starts with column names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Header {
    /// Decided from the first rows.
    #[default]
    Auto,
    /// It does.
    Yes,
    /// It does not; columns are named `column 1` and so on.
    No,
}

/// What happens to missing values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// Replaced by the training rows' mean, or by a category of their own; counted and reported.
    #[default]
    Impute,
    /// An error that names line and column.
    Refuse,
}

/// `[reveal]`: the openings that the job may make.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RevealSection {
    /// Names of openings; by default the final test metrics of the task, or the predictions. `[]` opens nothing.
    pub open: Option<Vec<Reveal>>,
}

/// A value that this version cannot work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} is out of range: {allowed}")]
pub struct OutOfRange {
    /// Dotted key, `train.lr`.
    pub key: &'static str,
    /// What was given.
    pub value: String,
    /// What would be accepted.
    pub allowed: Cow<'static, str>,
}

impl JobFile {
    /// Every key that a job file may hold, dotted.
    pub const KEYS: &'static [&'static str] = &[
        "job.name",
        "job.parties",
        "job.lanes",
        "job.device",
        "job.threads",
        "job.folder",
        "job.metrics",
        "job.calibration_steps",
        "job.peer_timeout_seconds",
        "job.startup_timeout_seconds",
        "job.progress_timeout_seconds",
        "model.file",
        "model.loss",
        "model.export",
        "model.kind",
        "model.hidden",
        "model.activation",
        "train.optimizer",
        "train.epochs",
        "train.batch",
        "train.lr",
        "train.momentum",
        "train.nesterov",
        "train.weight_decay",
        "train.schedule",
        "train.schedule.step.every",
        "train.schedule.step.factor",
        "train.clip",
        "train.beta1",
        "train.beta2",
        "train.epsilon",
        "train.label_smoothing",
        "train.seed",
        "infer.out",
        "infer.public_model",
        "infer.batch",
        "protocol.fraction_bits",
        "protocol.compare_bits",
        "protocol.trunc",
        "protocol.round_trip_ms",
        "data.set",
        "data.file",
        "data.image",
        "data.label",
        "data.positive",
        "data.task",
        "data.header",
        "data.missing",
        "data.test_fraction",
        "data.seed",
        "reveal.open",
    ];

    /// Refuses the first value that lies outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        self.check_job()?;
        let compare = self.protocol.compare_bits;
        within(matches!(compare, 32 | 64), "protocol.compare_bits", compare, "32 or 64")?;
        let trip = self.protocol.round_trip_ms;
        within(trip <= ROUND_TRIP_MAX_MS, "protocol.round_trip_ms", trip, "0 to 10000 milliseconds")?;
        self.check_train()?;
        let hidden = &self.model.hidden;
        let widths = hidden.len() <= 16 && hidden.iter().all(|width| (1..=65_536).contains(width));
        within(widths, "model.hidden", format!("{hidden:?}"), "at most 16 layers of 1 to 65536 units")?;
        let fraction = self.data.test_fraction;
        within(fraction > 0.0 && fraction < 1.0, "data.test_fraction", fraction, "above 0 and below 1")
    }

    fn check_job(&self) -> Result<(), OutOfRange> {
        let job = &self.job;
        let parties = "3 is supported; 2 (with a dealer) and 4 or more are planned";
        within(job.parties == 3, "job.parties", job.parties, parties)?;
        within((1..=LANES_MAX).contains(&job.lanes), "job.lanes", job.lanes, "1 to 64 lanes (GPUs) per party")?;
        within(job.threads <= 1024, "job.threads", job.threads, "0 (automatic) to 1024")?;
        let steps = job.calibration_steps;
        within(steps <= 10_000, "job.calibration_steps", steps, "0 (none) to 10000")?;
        let named = job.name.len() <= 64 && job.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let named = named && !job.name.starts_with('.');
        within(named, "job.name", &job.name, "at most 64 letters, digits, '-', '_' and '.', not starting with '.'")?;
        let seconds = [
            ("job.peer_timeout_seconds", job.peer_timeout_seconds),
            ("job.startup_timeout_seconds", job.startup_timeout_seconds),
            ("job.progress_timeout_seconds", job.progress_timeout_seconds),
        ];
        seconds.iter().try_for_each(|&(key, value)| within((1..=86_400).contains(&value), key, value, "1 to 86400"))
    }

    fn check_train(&self) -> Result<(), OutOfRange> {
        let train = &self.train;
        within((1..=100_000).contains(&train.epochs), "train.epochs", train.epochs, "1 to 100000")?;
        within((1..=65_536).contains(&train.batch), "train.batch", train.batch, "1 to 65536 samples")?;
        within(train.lr > 0.0 && train.lr <= 100.0, "train.lr", train.lr, "above 0, at most 100")?;
        within((0.0..1.0).contains(&train.momentum), "train.momentum", train.momentum, "from 0 to below 1")?;
        let nesterov = !train.nesterov || train.momentum > 0.0;
        within(nesterov, "train.nesterov", train.nesterov, "true needs train.momentum above 0")?;
        let decay = train.weight_decay;
        within((0.0..=1.0).contains(&decay), "train.weight_decay", decay, "0 to 1")?;
        let plain = train.optimizer == Optimizer::Sgd || train.momentum == 0.0;
        within(plain, "train.momentum", train.momentum, "0 with adam and adamw, which have train.beta1 instead")?;
        within((0.0..1.0).contains(&train.beta1), "train.beta1", train.beta1, "from 0 to below 1")?;
        within((0.0..1.0).contains(&train.beta2), "train.beta2", train.beta2, "from 0 to below 1")?;
        within(train.epsilon > 0.0 && train.epsilon < 1.0, "train.epsilon", train.epsilon, "above 0 and below 1")?;
        let smoothing = train.label_smoothing;
        within((0.0..1.0).contains(&smoothing), "train.label_smoothing", smoothing, "from 0 to below 1")?;
        if let Some(clip) = train.clip {
            let max = self.protocol.magnitude_max();
            let allowed = format!(
                "above 0 and below {max} for protocol.fraction_bits = {} and protocol.compare_bits = {}",
                self.protocol.fraction_bits.bits(),
                self.protocol.compare_bits
            );
            within(clip > 0.0 && clip < max, "train.clip", clip, allowed)?;
        }
        if let Schedule::Step { every, factor } = train.schedule {
            within(every >= 1, "train.schedule.step.every", every, "1 epoch or more")?;
            let falls = factor > 0.0 && factor <= 1.0;
            within(falls, "train.schedule.step.factor", factor, "above 0, at most 1")?;
        }
        Ok(())
    }
}

fn within(
    holds: bool,
    key: &'static str,
    value: impl std::fmt::Display,
    allowed: impl Into<Cow<'static, str>>,
) -> Result<(), OutOfRange> {
    if holds { Ok(()) } else { Err(OutOfRange { key, value: value.to_string(), allowed: allowed.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_in_range() {
        assert_eq!(JobFile::default().check(), Ok(()));
    }

    #[test]
    fn every_field_is_a_known_key() {
        let value = serde_json::to_value(JobFile::default()).unwrap();
        for (section, fields) in value.as_object().unwrap() {
            for field in fields.as_object().unwrap().keys() {
                assert!(JobFile::KEYS.contains(&format!("{section}.{field}").as_str()), "{section}.{field}");
            }
        }
    }

    #[test]
    fn gradients_are_clipped_only_to_what_can_be_compared() {
        let clipped = |clip: f64, bits: u32, compare_bits: u32| {
            let mut file = JobFile::default();
            file.protocol.fraction_bits = crate::fixed::FixedPoint::new(bits).unwrap();
            (file.train.clip, file.protocol.compare_bits) = (Some(clip), compare_bits);
            file.check()
        };
        assert_eq!(clipped(16_383.0, 16, 32), Ok(()));
        assert!(clipped(16_384.0, 16, 32).is_err());
        assert_eq!(clipped(1024.0, 20, 64), Ok(()));
        let error = clipped(1024.0, 20, 32).unwrap_err().to_string();
        let range = "above 0 and below 1024 for protocol.fraction_bits = 20 and protocol.compare_bits = 32";
        assert_eq!(error, format!("train.clip = 1024 is out of range: {range}"));
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_key_value_and_range() {
        type Change = fn(&mut JobFile);
        let changes: [(Change, &str); 10] = [
            (|file| file.job.lanes = 0, "job.lanes = 0 is out of range: 1 to 64 lanes (GPUs) per party"),
            (|file| file.job.parties = 2, "job.parties = 2 is out of range: 3 is supported; 2 (with a dealer)"),
            (|file| file.job.name = "../x".into(), "job.name"),
            (|file| file.train.lr = f64::NAN, "train.lr = NaN"),
            (|file| file.train.batch = 0, "train.batch = 0"),
            (|file| file.train.nesterov = true, "train.nesterov"),
            (|file| file.protocol.compare_bits = 48, "protocol.compare_bits = 48"),
            (|file| file.protocol.round_trip_ms = 10_001, "protocol.round_trip_ms = 10001 is out of range: 0 to 10000"),
            (|file| file.data.test_fraction = 1.0, "data.test_fraction = 1"),
            (|file| file.train.clip = Some(-1.0), "train.clip = -1"),
        ];
        for (change, message) in changes {
            let mut file = JobFile::default();
            change(&mut file);
            let error = file.check().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
