//! The verb `plan`: what a job will cost and reveal, without running it.

use std::fmt::Write as _;

use serde::Serialize;
use shared::config::JobFile;
use shared::job::{JobSpec, ROUND_TRIP_LONG_MS, Training, Work};
use shared::model::{Optimizer, TrainSpec};

use crate::args::{Output, PlanArgs};
use crate::cost::{self, Part};
use crate::data::Digests;
use crate::device;
use crate::exit::LaunchError;
use crate::model_file::ModelFile;
use crate::plain::Shadow;
use crate::report::{bytes, seconds};
use crate::scaling::{Calibration, CalibrationError, Link, Network, Simulator, Work as LaneWork};
use crate::{bench, job, print, settings};

mod inference;
mod scaling;

/// Layout of the JSON plan.
const SCHEMA: &str = "trefoil-plan/1";

/// A plan, as JSON shows it.
#[derive(Debug, Serialize)]
struct Plan {
    schema: &'static str,
    parties: usize,
    lanes: u16,
    threads: usize,
    parameters: usize,
    steps: usize,
    batch: usize,
    bytes_per_step_per_party: f64,
    rounds_per_step: f64,
    gemms_per_step: usize,
    products_per_step: f64,
    memory_bytes_per_party: f64,
    seconds_per_step: f64,
    seconds_compute: f64,
    seconds_transfer: f64,
    seconds_rounds: f64,
    seconds_allreduce: f64,
    train_seconds: Option<f64>,
    public_model: Option<bool>,
    bytes_once_per_party: f64,
    rounds_once: f64,
    seconds_once: f64,
    infer_seconds: Option<f64>,
    device: String,
    device_measured: bool,
    network_share: f64,
    hosts_per_party: u16,
    scaling: Vec<scaling::Row>,
    assumptions: Vec<String>,
    reveal: Vec<&'static str>,
    remarks: Vec<String>,
    shadow: Option<Shadow>,
    /// Whether the text does.
    #[serde(skip)]
    shows_scaling: bool,
}

/// A plan, and what a person wants to know besides: what the job works on, and where the cost of a step comes from.
struct Planned {
    plan: Plan,
    data: String,
    /// What a lane has of it.
    parts: Vec<Part>,
}

/// Plans a job and prints the plan.
pub(crate) fn run(args: &PlanArgs) -> Result<(), LaunchError> {
    if !(args.rtt_ms >= 0.0 && args.bandwidth_mbit > 0.0 && (0.0..1.0).contains(&args.packet_loss)) {
        let ranges = "--rtt-ms must not be negative, --bandwidth-mbit must be above 0, --packet-loss from 0 to below 1";
        return Err(LaunchError::Usage(ranges.into()));
    }
    let calibration = calibration(args)?;
    let settings = settings::load(args, std::env::vars())?;
    if args.training.job.print_config {
        print(&settings.describe());
        return Ok(());
    }
    let planned = if args.infer {
        inference::plan(args, &calibration, &settings.job)
    } else {
        training(args, &calibration, &settings.job)
    }?;
    print(&match args.training.job.output {
        Output::Json => serde_json::to_string_pretty(&planned.plan).expect("it holds nothing that JSON cannot") + "\n",
        Output::Text => planned.text(),
    });
    Ok(())
}

fn training(args: &PlanArgs, calibration: &Calibration, job: &JobFile) -> Result<Planned, LaunchError> {
    let file = job.model.file.as_ref().filter(|_| args.workload.is_none());
    let file = file.map(|file| ModelFile::read(file, &job.protocol)).transpose()?;
    let (job, data) = match args.workload {
        Some(workload) => bench::training(workload, job, &args.training.job.set)?,
        None => (job.clone(), job::load(job, file.as_ref())?),
    };
    let spec = job::spec(&job, &data, file.as_ref(), Digests::default())?;
    let Work::Train(training) = &spec.work else { unreachable!("a job file describes a training") };
    let parameters = training.model.parameters();
    let step = |batch: usize, lanes: u16| {
        let train = TrainSpec { batch, ..training.train.clone() };
        cost::lane_step(&training.model, &train, &spec.protocol, lanes.into())
    };
    let batch = training.train.batch.min(training.train_rows);
    let parts = step(batch, spec.lanes);
    let simulator = simulator(args, calibration, &spec);
    let start = file.as_ref().map(ModelFile::weights);
    let plan = Plan::new(args, &simulator, &job, &spec, &LaneWork::new(&parts, parameters));
    #[allow(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
    let plan = Plan {
        parameters,
        steps: training.train.steps(training.train_rows),
        batch: training.train.batch,
        memory_bytes_per_party: memory(&spec, training),
        train_seconds: Some(plan.seconds_per_step * training.train.steps(training.train_rows) as f64),
        scaling: scaling::rows(&simulator, spec.lanes, batch, |batch, lanes| {
            LaneWork::new(&step(batch, lanes), parameters)
        }),
        shadow: args.training.shadow.then(|| Shadow::new(&spec, training, &data, start)),
        ..plan
    };
    let rows = format!("{} training and {} test rows", data.train.count, data.test.count);
    Ok(Planned { plan, data: format!("{} ({rows})", data.name), parts })
}

impl Plan {
    /// What any job's plan holds.
    fn new(args: &PlanArgs, simulator: &Simulator<'_>, job: &JobFile, spec: &JobSpec, step: &LaneWork) -> Self {
        let (lanes, calibration) = (f64::from(spec.lanes), simulator.calibration);
        let forecast = simulator.forecast(step, spec.lanes);
        let is_this_machine = args.device.is_none() && args.calibration.is_none();
        let mut remarks = if is_this_machine { device::remarks(job.job.device, spec.lanes) } else { Vec::new() };
        if is_this_machine && device::has_gpus(job.job.device) {
            remarks.push("the seconds are those of processors; --device h200 gives those of a model of a GPU".into());
        }
        let round_trip_ms = round_trip_ms(args, spec);
        if round_trip_ms >= f64::from(ROUND_TRIP_LONG_MS) && !spec.protocol.saves_rounds() {
            remarks.push(format!("protocol.round_trip_ms={round_trip_ms:.0} would take fewer rounds"));
        }
        Self {
            schema: SCHEMA,
            parties: 3,
            lanes: spec.lanes,
            threads: spec.threads,
            parameters: 0,
            steps: 0,
            batch: 0,
            bytes_per_step_per_party: lanes * step.cost.bytes,
            rounds_per_step: step.cost.rounds,
            gemms_per_step: usize::from(spec.lanes) * step.gemms,
            products_per_step: lanes * step.products,
            memory_bytes_per_party: 0.0,
            seconds_per_step: forecast.seconds(),
            seconds_compute: forecast.compute,
            seconds_transfer: forecast.transfer,
            seconds_rounds: forecast.rounds,
            seconds_allreduce: forecast.allreduce,
            train_seconds: None,
            public_model: None,
            bytes_once_per_party: 0.0,
            rounds_once: 0.0,
            seconds_once: 0.0,
            infer_seconds: None,
            device: calibration.name.clone(),
            device_measured: calibration.measured,
            network_share: forecast.network_share(),
            hosts_per_party: simulator.hosts(spec.lanes),
            scaling: Vec::new(),
            assumptions: scaling::assumptions(simulator, &spec.work),
            reveal: spec.reveal.iter().map(|reveal| reveal.name()).collect(),
            remarks,
            shadow: None,
            shows_scaling: spec.lanes > 1 || !is_this_machine || args.net.is_some(),
        }
    }
}

impl Planned {
    fn text(&self) -> String {
        let Self { plan, data, parts } = self;
        let mut text = format!(
            "plan: {} parties, lanes {} each with threads {}, {data}\n\n",
            plan.parties, plan.lanes, plan.threads
        );
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:34}{:>14}{:>8}{:>7}{:>16}",
            if plan.lanes == 1 { "per step and party" } else { "per step, party and lane" },
            "sent",
            "rounds",
            "GEMMs",
            "multiply-adds"
        );
        for part in parts {
            let (sent, rounds) = (bytes(part.cost.bytes), part.cost.rounds);
            let _ = writeln!(text, "{:34}{sent:>14}{rounds:>8.0}{:>7}{:>16.3e}", part.name, part.gemms, part.products);
        }
        let LaneWork { cost, gemms, products, .. } = LaneWork::new(parts, 0);
        let (sent, rounds) = (bytes(cost.bytes), cost.rounds);
        let _ = writeln!(text, "{:34}{sent:>14}{rounds:>8.0}{gemms:>7}{products:>16.3e}\n", "sum");
        for (name, value) in plan.rows() {
            let _ = writeln!(text, "{name:26}{value}");
        }
        for remark in &plan.remarks {
            let _ = writeln!(text, "{:26}{remark}", "note");
        }
        if plan.shows_scaling {
            text += &scaling::text(&plan.scaling, &plan.assumptions);
        }
        if let Some(shadow) = &plan.shadow {
            let _ = write!(text, "\n{}", shadow.text());
        }
        text
    }
}

impl Plan {
    /// Names and values of what a plan says about time, memory and secrecy.
    fn rows(&self) -> Vec<(&'static str, String)> {
        let (compute, transfer) = (seconds(self.seconds_compute), seconds(self.seconds_transfer));
        // Lanes of an inference have nothing to sum.
        let sums = match self.seconds_allreduce {
            0.0 => String::new(),
            allreduce => format!(" + sum among lanes {}", seconds(allreduce)),
        };
        let step = format!(
            "{} = compute {compute} + transfer {transfer} + round trips {}{sums}",
            seconds(self.seconds_per_step),
            seconds(self.seconds_rounds)
        );
        let steps = |what: &str| format!("for {} steps of {} {what}", self.steps, self.batch);
        let opened = if self.reveal.is_empty() { "nothing".into() } else { self.reveal.join(", ") };
        let memory = ("memory per party", bytes(self.memory_bytes_per_party));
        let mut rows = vec![("predicted time per step", step)];
        if let Some(all) = self.train_seconds {
            rows.extend([
                ("predicted training time", format!("{} {}", seconds(all), steps("samples"))),
                memory,
                ("will be opened", opened),
                ("stays in shares", "records, labels, weights, gradients, scores, the model".into()),
                ("is public", "shapes, timing, hyper-parameters, batch order, the seeds".into()),
            ]);
        } else if let Some(all) = self.infer_seconds {
            let public = self.public_model == Some(true);
            if self.rounds_once > 0.0 {
                let (sent, rounds) = (bytes(self.bytes_once_per_party), self.rounds_once);
                rows.push(("before the first row", format!("{}, {sent}, rounds {rounds}", seconds(self.seconds_once))));
            }
            rows.extend([
                ("predicted inference time", format!("{} {}", seconds(all), steps("rows"))),
                memory,
                ("will be opened", format!("{opened}, to their owner alone")),
                ("stays in shares", if public { "rows, results" } else { "rows, weights, results" }.into()),
                ("is public", if public { "shapes, timing, the model" } else { "shapes, timing" }.into()),
            ]);
        }
        rows
    }
}

/// What the machines can do: as a file says, as comes with the program, or as this machine's instruction set has it.
fn calibration(args: &PlanArgs) -> Result<Calibration, LaunchError> {
    match (&args.calibration, args.device.as_deref()) {
        (Some(path), _) => {
            let from = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| CalibrationError::Malformed { from: from.clone(), reason: error.to_string() })?;
            Ok(Calibration::read(&text, &from)?)
        }
        (None, None | Some("cpu")) => Ok(Calibration::here()),
        (None, Some(name)) => Ok(Calibration::shipped(name)?),
    }
}

/// Machines as the calibration has them; where it leaves the cores open, a third of this one's for each party.
#[allow(clippy::cast_precision_loss, reason = "core and thread counts are small")]
fn simulator<'a>(args: &PlanArgs, calibration: &'a Calibration, spec: &JobSpec) -> Simulator<'a> {
    let cores = calibration.host.cores;
    let cores = if cores > 0.0 { cores } else { device::cores() as f64 / 3.0 };
    Simulator { calibration, network: network(args, round_trip_ms(args, spec)), cores, threads: spec.threads as f64 }
}

/// What was asked for, or else what the job states.
fn round_trip_ms(args: &PlanArgs, spec: &JobSpec) -> f64 {
    match args.net {
        Some(link) => 1e3 * link.round_trip,
        None if args.rtt_ms > 0.0 => args.rtt_ms,
        None => spec.protocol.round_trip_ms.into(),
    }
}

fn network(args: &PlanArgs, round_trip_ms: f64) -> Network {
    match args.net {
        Some(link) => Network::Remote(link),
        None if round_trip_ms == 0.0 => Network::Local,
        None => Network::Remote(Link {
            round_trip: round_trip_ms / 1e3,
            bandwidth: args.bandwidth_mbit * 1e6,
            loss: args.packet_loss,
        }),
    }
}

/// Rows of an evaluation that pass through the network at a time.
const EVALUATION_ROWS: usize = 1536;
/// A process without data: program, connections, threads.
const PROCESS_BYTES: f64 = 12e6;
/// Of a number of the data, once it has arrived: its share, and half of that as the message that brought it.
const DATA_BYTES: f64 = 24.0;

/// Of each parameter: its share, and its gradient.
const PARAMETER_BYTES: f64 = 24.0;

/// Largest memory of a party: data and parameters; with them either what a pass through the network keeps and has in
/// flight, or what the optimiser does, whose tiles are all at work at the same time.
#[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn memory(spec: &JobSpec, training: &Training) -> f64 {
    let (model, train) = (&training.model, &training.train);
    let data = (training.train_rows + training.test_rows) * (model.inputs() + model.outputs());
    let batch = train.batch.min(training.train_rows) as f64;
    let evaluated = if spec.reveal.is_empty() { 0 } else { training.test_rows.min(EVALUATION_ROWS) };
    let (kept, in_flight) = cost::row_memory(model);
    let pass = batch * kept + in_flight * batch.max(evaluated as f64);
    // For each parameter, as measured.
    let update = match train.optimizer {
        Optimizer::Adam | Optimizer::Adamw => 500.0,
        Optimizer::Sgd => {
            68.0 + if train.momentum > 0.0 { 30.0 } else { 0.0 } + if train.clip.is_some() { 80.0 } else { 0.0 }
        }
    };
    let parameters = model.parameters() as f64;
    let held = DATA_BYTES * data as f64 + f64::from(spec.lanes) * PARAMETER_BYTES * parameters;
    PROCESS_BYTES + held + pass.max(update * parameters)
}

#[cfg(test)]
mod tests {
    use shared::job::{PROTOCOL_VERSION, ProtocolSpec, Start};
    use shared::model::{Loss, ModelName, Shape, TrainSpec};

    use super::*;

    /// Largest memory of the three processes, as `bench` gives it for w2 (also with Adam, and with momentum and clipped
    /// gradients), w3 and resnet18.
    #[test]
    fn memory_is_within_a_quarter_of_measurements() {
        let train = |batch| TrainSpec { batch, ..TrainSpec::default() };
        let adam = TrainSpec { optimizer: Optimizer::Adam, ..train(128) };
        let clipped = TrainSpec { momentum: 0.9, nesterov: true, clip: Some(1.0), ..train(128) };
        let moving = TrainSpec { momentum: 0.9, ..train(8) };
        let (small, large) = (Shape::image(1, 28, 28), Shape::image(3, 32, 32));
        let cases = [
            (ModelName::Mlp, small, train(128), 52.4e6),
            (ModelName::Mlp, small, adam, 98.5e6),
            (ModelName::Mlp, small, clipped, 60.7e6),
            (ModelName::Lenet, small, train(128), 239.1e6),
            (ModelName::Resnet18, large, train(8), 1042.6e6),
            (ModelName::Resnet18, large, moving, 1374.5e6),
        ];
        for (name, image, train, measured) in cases {
            let model = name.build(image, &[128, 128], 10, Loss::SoftmaxCrossEntropy).pool_before_relu();
            let training = Training {
                model,
                train_rows: 10 * train.batch,
                train,
                test_rows: 0,
                data_digest: [0; 32],
                max_steps: None,
                calibration_steps: 0,
                start: Start::Seeded,
            };
            let spec = JobSpec {
                version: PROTOCOL_VERSION.into(),
                lanes: 1,
                threads: 1,
                protocol: ProtocolSpec::default(),
                work: Work::Train(Box::new(training.clone())),
                reveal: vec![],
                peer_timeout_seconds: 8,
            };
            let predicted = memory(&spec, &training);
            assert!((predicted / measured - 1.0).abs() < 0.25, "{name}: {predicted:e} where {measured:e} were taken");
        }
    }
}
