//! From a job file and its data to the job that the parties agree on.

use shared::config::{Activation, JobFile, LossName, TaskChoice};
use shared::job::{JobSpec, PROTOCOL_VERSION, Reveal, Start, Training, Work};
use shared::model::{Layer, Loss, Model};

use crate::data::{self, DataError, Dataset, Digests, Task};
use crate::device;
use crate::exit::LaunchError;
use crate::model_file::ModelFile;

/// The records of a job, with the targets that it trains on: those of classes smoothed, if it asks for that, once for
/// the parties and for the plaintext twin.
pub(crate) fn load(job: &JobFile, file: Option<&ModelFile>) -> Result<Dataset, LaunchError> {
    let mut data = records(job, file)?;
    let smoothing = job.train.label_smoothing;
    if smoothing > 0.0 {
        if data.task == Task::Regression {
            return Err(LaunchError::NoClasses { smoothing });
        }
        // One column stands for two classes.
        #[allow(clippy::cast_precision_loss, reason = "there are at most 128 classes")]
        let classes = data.outputs().max(2) as f64;
        data.train.y.iter_mut().for_each(|y| *y = *y * (1.0 - smoothing) + smoothing / classes);
    }
    Ok(data)
}

/// The network that a job file asks for, fitted to the data.
pub(crate) fn model(job: &JobFile, data: &Dataset, file: Option<&ModelFile>) -> Result<Model, LaunchError> {
    let loss = loss(job, data.task)?;
    if let Some(file) = file {
        return fit(file, loss, data);
    }
    if job.model.kind.takes_images() && data.shape.positions() == 1 {
        return Err(LaunchError::NotImages { kind: job.model.kind.name() });
    }
    let mut model = job.model.kind.build(data.shape, &job.model.hidden, data.outputs(), loss);
    let activation = match job.model.activation {
        Activation::Relu => Layer::Relu,
        Activation::Sigmoid => Layer::Sigmoid,
        Activation::Tanh => Layer::Tanh,
    };
    model
        .nodes
        .iter_mut()
        .map(|node| &mut node.layer)
        .filter(|layer| **layer == Layer::Relu)
        .for_each(|layer| *layer = activation);
    model.wiring()?;
    Ok(model.pool_before_relu())
}

/// The network of a file, if it takes and gives what the data has.
fn fit(file: &ModelFile, loss: Loss, data: &Dataset) -> Result<Model, LaunchError> {
    let model = Model { loss, ..file.model().clone() };
    let wrong = |reason: String| Err(LaunchError::Unfit { file: file.name.clone(), reason });
    let last = model.nodes.last().map(|node| (node.name.as_str(), node.layer));
    match (last, loss) {
        (Some((name, layer @ (Layer::Softmax | Layer::LogSoftmax))), Loss::SoftmaxCrossEntropy)
        | (Some((name, layer @ Layer::Sigmoid)), Loss::BinaryCrossEntropy) => wrong(format!(
            "its last layer {name:?} is a {}, which the loss contains: export the model without it",
            layer.kind()
        )),
        _ if model.outputs() != data.outputs() => wrong(format!(
            "it gives {} per sample where the target column {} needs {}; see --task and --loss",
            count(model.outputs(), "score"),
            match data.task {
                Task::Multiclass => format!("of {} classes", data.classes.len()),
                Task::Binary => "of two classes, with binary-cross-entropy,".into(),
                Task::Regression => "of numbers".into(),
            },
            data.outputs()
        )),
        _ => Ok(model.pool_before_relu()),
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What training minimises: as the job file says, or what goes with the task.
fn loss(job: &JobFile, task: Task) -> Result<Loss, LaunchError> {
    let (name, default, other) = match task {
        Task::Binary => ("binary", Loss::BinaryCrossEntropy, None),
        Task::Multiclass => ("multiclass", Loss::SoftmaxCrossEntropy, None),
        Task::Regression => ("regression", Loss::MeanSquared, Some(Loss::MeanAbsolute)),
    };
    match job.model.loss {
        Some(chosen) if chosen.loss() != default && Some(chosen.loss()) != other => {
            Err(LaunchError::LossForTask { loss: chosen.name(), task: name })
        }
        chosen => Ok(chosen.map_or(default, LossName::loss)),
    }
}

/// The records of a job, shaped and with targets as its model and loss take them.
fn records(job: &JobFile, file: Option<&ModelFile>) -> Result<Dataset, LaunchError> {
    let mut section = job.data.clone();
    if section.task == TaskChoice::Auto {
        section.task = match job.model.loss {
            Some(LossName::CrossEntropy) => TaskChoice::Multiclass,
            Some(LossName::BinaryCrossEntropy) => TaskChoice::Binary,
            Some(LossName::Mse | LossName::L1) => TaskChoice::Regression,
            None => TaskChoice::Auto,
        };
    }
    let Some(file) = file.filter(|_| section.image.is_none()) else {
        return Ok(data::load(&section, &job.protocol)?);
    };
    let shape = file.model().input;
    if !shape.channels_first().eq(file.input().order.iter().copied()) {
        let reason = "its samples are neither vectors nor images of channels, rows and columns".into();
        return Err(LaunchError::Unfit { file: file.name.clone(), reason });
    }
    section.image = Some([shape.channels, shape.height, shape.width]);
    data::load(&section, &job.protocol).map_err(|error| match error {
        DataError::Image { features, .. } => {
            let reason = format!("it takes {} features ({shape}), the records have {features}", shape.len());
            LaunchError::Unfit { file: file.name.clone(), reason }
        }
        error => error.into(),
    })
}

/// The openings that the job may make: those of the job file, or the test metrics of the task.
pub(crate) fn reveal(job: &JobFile, task: Task) -> Result<Vec<Reveal>, LaunchError> {
    let (name, possible) = match task {
        Task::Binary => ("binary", &[Reveal::TestAccuracy, Reveal::TestAuroc][..]),
        Task::Multiclass => ("multiclass", &[Reveal::TestAccuracy][..]),
        Task::Regression => ("regression", &[Reveal::TestLoss][..]),
    };
    let mut reveal = job.reveal.open.clone().unwrap_or_else(|| possible.to_vec());
    reveal.sort_unstable();
    reveal.dedup();
    let classes = task != Task::Regression;
    let has = |wanted: &Reveal| match wanted {
        Reveal::Weights => true,
        Reveal::TestConfusion => classes,
        other => possible.contains(other),
    };
    match (reveal.iter().find(|wanted| !has(wanted)), &job.model.export) {
        (Some(wanted), _) => Err(LaunchError::NoSuchMetric { name: wanted.name(), task: name }),
        (None, Some(_)) if !reveal.contains(&Reveal::Weights) => {
            Err(LaunchError::NotRevealed { what: "weights", who: "--export" })
        }
        (None, None) if reveal.contains(&Reveal::Weights) => Err(LaunchError::Missing {
            verb: "reveal.open = weights",
            what: "a file",
            flag: "--export FILE",
            key: "model.export",
        }),
        (None, _) => Ok(reveal),
    }
}

/// The whole job, with the digest of the data as encoded.
pub(crate) fn spec(
    job: &JobFile,
    data: &Dataset,
    file: Option<&ModelFile>,
    digests: Digests,
) -> Result<JobSpec, LaunchError> {
    let (lanes, rows) = (job.job.lanes, data.train.count);
    if usize::from(lanes) > rows {
        return Err(LaunchError::MoreLanesThanSamples { lanes, rows, what: "training rows" });
    }
    let training = Training {
        model: model(job, data, file)?,
        train: job.train.clone(),
        train_rows: rows,
        test_rows: data.test.count,
        data_digest: digests.data,
        start: file.map_or(Start::Seeded, |_| Start::Shared { model_digest: digests.model }),
        max_steps: None,
        calibration_steps: if lanes > 1 { job.job.calibration_steps } else { 0 },
    };
    Ok(JobSpec {
        version: PROTOCOL_VERSION.into(),
        lanes,
        threads: device::threads_per_lane(lanes, job.job.threads),
        protocol: job.protocol,
        reveal: reveal(job, data.task)?,
        work: Work::Train(Box::new(training)),
        peer_timeout_seconds: job.job.peer_timeout_seconds,
    })
}

#[cfg(test)]
mod tests {
    use shared::config::{BuiltIn, DataSection};
    use shared::job::ProtocolSpec;

    use super::*;
    use crate::data;

    #[test]
    fn the_default_job_is_logistic_regression_that_opens_test_metrics() {
        let (job, data) = (JobFile::default(), data::load(&DataSection::default(), &ProtocolSpec::default()).unwrap());
        let spec = spec(&job, &data, None, Digests::default()).unwrap();
        let Work::Train(training) = &spec.work else { panic!("it trains") };
        assert_eq!(training.model, Model::logistic(30));
        assert_eq!((training.train_rows, training.test_rows, training.calibration_steps), (455, 114, 0));
        assert_eq!(spec.reveal, [Reveal::TestAccuracy, Reveal::TestAuroc]);
    }

    #[test]
    fn layers_follow_the_job_file() {
        let data =
            data::load(&DataSection { set: BuiltIn::Digits, ..DataSection::default() }, &ProtocolSpec::default())
                .unwrap();
        let mut job = JobFile::default();
        (job.model.kind, job.model.activation, job.model.hidden) =
            (shared::model::ModelName::Mlp, Activation::Tanh, vec![5]);
        let layers: Vec<_> = model(&job, &data, None).unwrap().nodes.into_iter().map(|node| node.layer).collect();
        let linear = |outputs| Layer::Linear { outputs, bias: true };
        assert_eq!(layers, [linear(5), Layer::Tanh, linear(10)]);
        job.reveal.open = Some(vec![Reveal::TestAuroc]);
        let error = reveal(&job, data.task).unwrap_err().to_string();
        assert_eq!(error, "reveal.open names test-auroc, which this task (multiclass) does not have");
    }

    #[test]
    fn smoothing_spreads_part_of_the_training_targets_alone() {
        let mut job = JobFile::default();
        job.train.label_smoothing = 0.1;
        let (data, sharp) = (load(&job, None).unwrap(), data::load(&job.data, &job.protocol).unwrap());
        let near = |y: f64, other: f64| (y - other).abs() < 1e-12;
        assert!(data.train.y.iter().zip(&sharp.train.y).all(|(y, sharp)| near(*y, 0.05 + 0.9 * sharp)));
        assert_eq!(data.test, sharp.test);
        job.data.set = BuiltIn::Digits;
        let data = load(&job, None).unwrap();
        assert!(data.train.y.iter().all(|y| near(*y, 0.01) || near(*y, 0.91)));
        assert!(data.train.y.chunks(10).all(|row| near(row.iter().sum(), 1.0)));
        (job.data.set, job.data.task) = (BuiltIn::BreastCancer, shared::config::TaskChoice::Regression);
        (job.data.label, job.data.missing) = (Some("1".into()), shared::config::Missing::Impute);
        let error = load(&job, None).unwrap_err().to_string();
        assert_eq!(error, "train.label_smoothing = 0.1 spreads class targets, but the target is a number");
    }

    #[test]
    fn more_lanes_than_samples_are_refused() {
        let mut data = data::load(&DataSection::default(), &ProtocolSpec::default()).unwrap();
        data.train.count = 3;
        let mut job = JobFile::default();
        job.job.lanes = 4;
        let error = spec(&job, &data, None, Digests::default()).unwrap_err().to_string();
        assert_eq!(error, "4 lanes for 3 training rows: every lane needs at least one; use --gpus 3 or fewer");
    }
}
