//! The verb `bench`: the reference workloads, with the same processes and the same wire as `run`.

use rand::Rng;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;
use shared::config::{BuiltIn, JobFile};
use shared::job::{Inference, JobSpec, Micro, Operation, PROTOCOL_VERSION, Reveal, Work};
use shared::model::{ModelName, Shape};
use shared::wire::PartyReport;

use crate::args::{BenchArgs, BenchCommand, BenchVerb, JobArgs, Output, Workload};
use crate::data::{self, Dataset, Rows, Task};
use crate::exit::LaunchError;
use crate::folder::{RunFolder, fresh_name};
use crate::follow::Follower;
use crate::local::{self, Completed, Interrupt, Start};
use crate::metrics::median;
use crate::report::{largest, opened, peak_rss, smallest, traffic_per_step};
use crate::{device, job, plain, print, settings};

mod micro;
mod scaling;
mod table;

/// Layout of a bench line; it changes when a key changes its meaning or goes away.
const SCHEMA: &str = "trefoil-bench/1";

/// The lines of w4: name, operation, rows, columns.
const MICRO: [(&str, Operation, usize, usize); 6] = [
    ("matmul-512", Operation::Matmul, 512, 512),
    ("matmul-1024", Operation::Matmul, 1024, 1024),
    ("relu-1e6", Operation::Relu, 1_000_000, 1),
    ("maxpool-1e6", Operation::Maxpool, 1_000_000, 1),
    ("sigmoid-1e6", Operation::Sigmoid, 1_000_000, 1),
    ("softmax-1e5x10", Operation::Softmax, 100_000, 10),
];

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    schema: &'static str,
    workload: &'static str,
    parties: usize,
    lanes: u16,
    device: String,
    threads: usize,
    runs: usize,
    seconds: f64,
    seconds_min: f64,
    seconds_max: f64,
    bytes_sent_per_party: f64,
    rounds: f64,
    accuracy: Option<f64>,
    plaintext_accuracy: Option<f64>,
    accuracies: Vec<f64>,
    plaintext_accuracies: Vec<f64>,
    max_error: Option<f64>,
    peak_rss_bytes: u64,
    startup_seconds: f64,
    version: &'static str,
}

/// Measures what was asked for.
pub(crate) fn run(command: &BenchCommand) -> Result<(), LaunchError> {
    match (&command.verb, &command.workload) {
        (Some(BenchVerb::Scaling(args)), _) => scaling::run(args),
        (None, Some(args)) => workload(args),
        (None, None) => Err(LaunchError::Usage("bench needs a workload, or the verb scaling; see bench --help".into())),
    }
}

/// Runs a workload and prints its lines.
fn workload(args: &BenchArgs) -> Result<(), LaunchError> {
    if args.runs == Some(0) {
        return Err(LaunchError::Usage("--runs 0: at least one run is needed".into()));
    }
    if args.workload == Workload::Micro {
        return micro::run(args);
    }
    let bench = Bench::new(args)?;
    let show = |line: Line| {
        if args.output == Output::Json {
            print(&(serde_json::to_string(&line).expect("a line holds nothing that JSON cannot") + "\n"));
        }
        line
    };
    let lines: Vec<Line> = match args.workload {
        Workload::W1 => vec![show(bench.trainings("w1", BuiltIn::BreastCancer)?)],
        Workload::W2 => vec![show(bench.steps("w2", 30)?)],
        Workload::W3 => {
            check_only(args, "w3", &["w3-train", "w3-infer"])?;
            let asked = |name: &str| args.only.as_ref().is_none_or(|only| only == name);
            let train = asked("w3-train").then(|| bench.steps("w3-train", 10).map(show)).transpose()?;
            let infer = asked("w3-infer").then(|| bench.inference("w3-infer", 10).map(show)).transpose()?;
            train.into_iter().chain(infer).collect()
        }
        Workload::Resnet18 => vec![show(bench.steps("resnet18-train", 3)?)],
        Workload::W4 => bench.micro_lines()?.map(|micro| bench.micro(micro).map(show)).collect::<Result<_, _>>()?,
        Workload::W5 => vec![show(bench.trainings("w5", BuiltIn::Digits)?)],
        Workload::Micro => unreachable!("it has lines of its own"),
    };
    if args.output == Output::Text {
        print(&table::text(&lines));
    }
    Ok(())
}

/// Refuses a name that no line of a workload has.
fn check_only(args: &BenchArgs, workload: &str, lines: &[&str]) -> Result<(), LaunchError> {
    match args.only.as_deref().filter(|only| !lines.contains(only)) {
        Some(only) => {
            let lines = lines.join(", ");
            Err(LaunchError::Usage(format!("--only {only}: the lines of {workload} are {lines}")))
        }
        None => Ok(()),
    }
}

struct Bench<'a> {
    args: &'a BenchArgs,
    job: JobFile,
    interrupt: Interrupt,
}

impl<'a> Bench<'a> {
    fn new(args: &'a BenchArgs) -> Result<Self, LaunchError> {
        let bench = Self::with(args, Interrupt::install())?;
        device::remarks(args.lanes).iter().for_each(|remark| eprintln!("{remark}"));
        Ok(bench)
    }

    fn with(args: &'a BenchArgs, interrupt: Interrupt) -> Result<Self, LaunchError> {
        let flags = JobArgs {
            gpus: Some(args.lanes),
            parties: Some(args.parties),
            threads: Some(args.threads),
            set: args.set.clone(),
            ..JobArgs::default()
        };
        let job = settings::load(&flags, std::env::vars())?.job;
        Ok(Self { args, job, interrupt })
    }

    /// W1 and W5: whole trainings on real data, each with a seed of its own.
    fn trainings(&self, workload: &'static str, set: BuiltIn) -> Result<Line, LaunchError> {
        let mut job = settings::overlay(&trained_on(&self.job, set), &self.args.set)?;
        let (mut runs, mut accuracies, mut plaintext) = (Vec::new(), Vec::new(), Vec::new());
        for seed in 1..=self.args.runs.unwrap_or(5) as u64 {
            (job.train.seed, job.data.seed) = (seed, seed);
            let data = job::load(&job, None)?;
            let completed = self.train(&job, &data, None)?;
            accuracies.extend(opened(&completed.reports[0], Reveal::TestAccuracy));
            plaintext.extend(plain::run(&job::model(&job, &data, None)?, &job.train, &data).accuracy);
            runs.push(completed);
        }
        let seconds: Vec<f64> = runs.iter().map(|run| run.reports[0].train_seconds).collect();
        let steps: Vec<f64> = runs.iter().map(|run| count(run.reports[0].step_seconds.len())).collect();
        let traffic: Vec<(f64, f64)> = runs.iter().map(|run| traffic_per_step(&run.reports)).collect();
        let totals =
            |of: fn(&(f64, f64)) -> f64| traffic.iter().zip(&steps).map(|(t, steps)| of(t) * steps).collect::<Vec<_>>();
        Ok(Line {
            bytes_sent_per_party: mean(&totals(|traffic| traffic.0)).unwrap_or(0.0),
            rounds: largest(&totals(|traffic| traffic.1)),
            accuracy: mean(&accuracies),
            plaintext_accuracy: mean(&plaintext),
            accuracies,
            plaintext_accuracies: plaintext,
            ..self.line(workload, &seconds, &runs)
        })
    }

    /// Training steps on generated images.
    fn steps(&self, workload: &'static str, runs: usize) -> Result<Line, LaunchError> {
        let run = self.image_steps(runs)?;
        let (bytes_sent_per_party, rounds) = traffic_per_step(&run.reports);
        let line = self.line(workload, &run.reports[0].step_seconds.clone(), &[run]);
        Ok(Line { bytes_sent_per_party, rounds, ..line })
    }

    /// The run behind them: as many steps as were asked for, or else `runs`.
    fn image_steps(&self, runs: usize) -> Result<Completed, LaunchError> {
        let steps = self.args.runs.unwrap_or(runs);
        let (job, image) = on_images(&self.job, self.args.workload);
        let mut job = settings::overlay(&job, &self.args.set)?;
        let data = generated_images(10 * job.train.batch, image, job.train.seed);
        job.train.epochs = u32::try_from(steps.div_ceil(10)).unwrap_or(u32::MAX);
        job.reveal.open = Some(Vec::new());
        self.train(&job, &data, Some(steps))
    }

    /// Batches of generated images through a network with secret weights.
    fn inference(&self, workload: &'static str, runs: usize) -> Result<Line, LaunchError> {
        let (job, image) = on_images(&self.job, self.args.workload);
        let job = settings::overlay(&job, &self.args.set)?;
        let batch = job.train.batch;
        let data = generated_images(batch * self.args.runs.unwrap_or(runs), image, job.train.seed);
        let model = job::model(&job, &data, None)?;
        let (parameters, buffers) = (model.initial_parameters(job.train.seed), model.initial_buffers());
        let weights = data::Weights { parameters: &parameters, buffers: &buffers };
        let encoded = data::encode_inference(&data.train.x, weights, false, job.protocol.fraction_bits)?;
        let work = Inference {
            model,
            rows: data.train.count,
            public_model: false,
            batch,
            data_digest: encoded.digests.data,
            model_digest: encoded.digests.model,
        };
        let spec = self.spec(Work::Infer(Box::new(work)), Reveal::Predictions);
        let run = self.perform(&spec, Some(encoded.messages))?;
        let (bytes_sent_per_party, rounds) = traffic_per_step(&run.reports);
        let line = self.line(workload, &run.reports[0].step_seconds.clone(), &[run]);
        Ok(Line { bytes_sent_per_party, rounds, ..line })
    }

    fn spec(&self, work: Work, reveal: Reveal) -> JobSpec {
        JobSpec {
            version: PROTOCOL_VERSION.into(),
            lanes: self.job.job.lanes,
            threads: device::threads_per_lane(self.job.job.lanes, self.job.job.threads),
            protocol: self.job.protocol,
            work,
            reveal: vec![reveal],
            peer_timeout_seconds: self.job.job.peer_timeout_seconds,
        }
    }

    /// The lines of w4 that were asked for.
    fn micro_lines(&self) -> Result<impl Iterator<Item = (&'static str, Micro)>, LaunchError> {
        let repetitions = self.args.runs.unwrap_or(5);
        let only = self.args.only.clone();
        check_only(self.args, "w4", &MICRO.map(|(line, ..)| line))?;
        let chosen = MICRO.into_iter().filter(move |(name, ..)| only.as_ref().is_none_or(|only| only == name));
        Ok(chosen.map(move |(name, operation, rows, cols)| (name, Micro { operation, rows, cols, repetitions })))
    }

    /// One operation of w4.
    fn micro(&self, (name, micro): (&'static str, Micro)) -> Result<Line, LaunchError> {
        let run = self.perform(&self.spec(Work::Bench(micro), Reveal::BenchError), None)?;
        let (bytes_sent_per_party, rounds) = traffic_per_step(&run.reports);
        let max_error = opened(&run.reports[0], Reveal::BenchError);
        let line = self.line(name, &run.reports[0].step_seconds.clone(), &[run]);
        Ok(Line { bytes_sent_per_party, rounds, max_error, ..line })
    }

    fn train(&self, job: &JobFile, data: &Dataset, max_steps: Option<usize>) -> Result<Completed, LaunchError> {
        let encoded = data::encode(data, None, job.protocol.fraction_bits)?;
        let mut spec = job::spec(job, data, None, encoded.digests)?;
        if let Work::Train(training) = &mut spec.work {
            (training.max_steps, training.calibration_steps) = (max_steps, 0);
        }
        self.perform(&spec, Some(encoded.messages))
    }

    /// Runs one job in a folder that goes away again, unless the job fails.
    fn perform(&self, spec: &JobSpec, data: Option<[shared::wire::ToParty; 3]>) -> Result<Completed, LaunchError> {
        let folder = RunFolder::create(&std::env::temp_dir(), &format!("mpc-launch-bench-{}", fresh_name()))?;
        let mut follower = Follower::new(&folder, self.args.verbose, true)?;
        let start = Start {
            program: self.args.party_program.clone(),
            metrics: false,
            startup_timeout_seconds: self.job.job.startup_timeout_seconds,
            progress_timeout_seconds: self.job.job.progress_timeout_seconds,
        };
        let completed = local::run(spec, data, &start, &folder, &mut follower, &self.interrupt);
        if !matches!(&completed, Err(LaunchError::Job { .. })) {
            folder.remove();
        }
        completed
    }

    fn line(&self, workload: &'static str, seconds: &[f64], runs: &[Completed]) -> Line {
        let first: &PartyReport = &runs[0].reports[0];
        let startups: Vec<f64> = runs.iter().map(|run| run.startup_seconds).collect();
        Line {
            schema: SCHEMA,
            workload,
            parties: runs[0].reports.len(),
            lanes: self.job.job.lanes,
            device: first.device.clone(),
            threads: device::threads_per_lane(self.job.job.lanes, self.job.job.threads),
            runs: seconds.len(),
            seconds: median(seconds),
            seconds_min: smallest(seconds),
            seconds_max: largest(seconds),
            bytes_sent_per_party: 0.0,
            rounds: 0.0,
            accuracy: None,
            plaintext_accuracy: None,
            accuracies: Vec::new(),
            plaintext_accuracies: Vec::new(),
            max_error: None,
            peak_rss_bytes: runs.iter().map(|run| peak_rss(&run.reports)).max().unwrap_or(0),
            startup_seconds: median(&startups),
            version: PROTOCOL_VERSION,
        }
    }
}

/// The job and the data of a workload that trains, for a plan; `set` stands over what the workload sets.
pub(crate) fn training(workload: Workload, job: &JobFile, set: &[String]) -> Result<(JobFile, Dataset), LaunchError> {
    let job = match workload {
        Workload::W1 => trained_on(job, BuiltIn::BreastCancer),
        Workload::W2 | Workload::W3 | Workload::Resnet18 => on_images(job, workload).0,
        Workload::W5 => trained_on(job, BuiltIn::Digits),
        Workload::W4 => return Err(LaunchError::Usage("--workload w4: single operations have no plan".into())),
        Workload::Micro => return Err(LaunchError::Usage("--workload micro: kernels have no plan".into())),
    };
    let job = settings::overlay(&job, set)?;
    let data = match workload {
        Workload::W2 | Workload::W3 | Workload::Resnet18 => {
            generated_images(10 * job.train.batch, on_images(&job, workload).1, job.train.seed)
        }
        _ => data::load(&job.data, &job.protocol)?,
    };
    Ok((job, data))
}

/// W1 and W5.
fn trained_on(job: &JobFile, set: BuiltIn) -> JobFile {
    let mut job = job.clone();
    job.data.set = set;
    if set == BuiltIn::Digits {
        (job.model.kind, job.model.hidden) = (ModelName::Mlp, vec![64]);
        (job.train.epochs, job.train.lr) = (15, 0.1);
    }
    job
}

/// The networks that are timed on generated images, and what these look like.
fn on_images(job: &JobFile, workload: Workload) -> (JobFile, Shape) {
    let (model, batch, image) = match workload {
        Workload::W3 => (ModelName::Lenet, 128, Shape::image(1, 28, 28)),
        Workload::Resnet18 => (ModelName::Resnet18, 8, Shape::image(3, 32, 32)),
        _ => (ModelName::Mlp, 128, Shape::image(1, 28, 28)),
    };
    let mut job = job.clone();
    (job.model.kind, job.model.hidden) = (model, vec![128, 128]);
    (job.train.lr, job.train.batch) = (0.1, batch);
    (job, image)
}

/// Images with values in [0, 1) and random labels of ten classes.
fn generated_images(rows: usize, shape: Shape, seed: u64) -> Dataset {
    let mut stream = ChaCha12Rng::seed_from_u64(seed);
    let x = (0..rows * shape.len()).map(|_| stream.random::<f64>()).collect();
    let y = (0..rows).flat_map(|_| {
        let label = stream.random_range(0..10);
        (0..10).map(move |class| f64::from(u8::from(class == label)))
    });
    let y = y.collect();
    Dataset {
        name: "generated images".into(),
        task: Task::Multiclass,
        features: (0..shape.len()).map(|pixel| format!("pixel {pixel}")).collect(),
        shape,
        classes: (0..10).map(|class| class.to_string()).collect(),
        target_scale: 1.0,
        missing: Vec::new(),
        train: Rows { count: rows, x, y },
        test: Rows::default(),
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / count(values.len()))
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_images_have_one_label_each() {
        let data = generated_images(20, Shape::image(1, 28, 28), 1);
        assert_eq!(data.train.x.len(), 20 * 784);
        assert!(data.train.y.chunks(10).all(|row| row.iter().sum::<f64>() == 1.0));
        assert_eq!(data, generated_images(20, Shape::image(1, 28, 28), 1));
    }

    #[test]
    fn the_line_has_the_documented_keys() {
        let line = Line {
            schema: SCHEMA,
            workload: "w2",
            parties: 3,
            lanes: 1,
            device: "cpu".into(),
            threads: 1,
            runs: 3,
            seconds: 0.02,
            seconds_min: 0.01,
            seconds_max: 0.03,
            bytes_sent_per_party: 3e6,
            rounds: 70.0,
            accuracy: None,
            plaintext_accuracy: None,
            accuracies: vec![],
            plaintext_accuracies: vec![],
            max_error: None,
            peak_rss_bytes: 1,
            startup_seconds: 0.3,
            version: PROTOCOL_VERSION,
        };
        let documented = include_str!("../../docs/formats.md");
        let section = documented.split("## Bench lines").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut expected: Vec<&str> = rows.collect();
        let value = serde_json::to_value(&line).unwrap();
        let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(table::text(&[line]).contains("3.00 MB"));
    }
}
