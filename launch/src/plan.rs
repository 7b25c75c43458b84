//! The verb `plan`: what a job will cost and reveal, without running it.

use std::fmt::Write as _;

use serde::Serialize;
use shared::job::{JobSpec, Training, Work};
use shared::model::TrainSpec;

use crate::args::{Output, PlanArgs};
use crate::cost::{self, Cost, Part};
use crate::data::{Dataset, Digests};
use crate::device;
use crate::exit::LaunchError;
use crate::model_file::ModelFile;
use crate::plain::Shadow;
use crate::report::{bytes, seconds};
use crate::time::{Network, Prediction};
use crate::{bench, job, print, settings};

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
    train_seconds: f64,
    reveal: Vec<&'static str>,
    remarks: Vec<String>,
    shadow: Option<Shadow>,
}

/// Plans a job and prints the plan.
pub(crate) fn run(args: &PlanArgs) -> Result<(), LaunchError> {
    if !(args.rtt_ms >= 0.0 && args.bandwidth_mbit > 0.0 && (0.0..1.0).contains(&args.packet_loss)) {
        let ranges = "--rtt-ms must not be negative, --bandwidth-mbit must be above 0, --packet-loss from 0 to below 1";
        return Err(LaunchError::Usage(ranges.into()));
    }
    let settings = settings::load(&args.run, std::env::vars())?;
    if args.run.job.print_config {
        print(&settings.describe());
        return Ok(());
    }
    let file = settings.job.model.file.as_ref().filter(|_| args.workload.is_none());
    let file = file.map(|file| ModelFile::read(file, &settings.job.protocol)).transpose()?;
    let (job, data) = match args.workload {
        Some(workload) => bench::training(workload, &settings.job, &args.run.job.set)?,
        None => (settings.job.clone(), job::load(&settings.job, file.as_ref())?),
    };
    let spec = job::spec(&job, &data, file.as_ref(), Digests::default())?;
    let Work::Train(training) = &spec.work else { unreachable!("a job file describes a training") };
    let train = TrainSpec { batch: training.train.batch.min(training.train_rows), ..training.train.clone() };
    let parts = cost::step(&training.model, &train, &spec.protocol);
    let start = file.as_ref().map(ModelFile::weights);
    let shadow = args.run.shadow.then(|| Shadow::new(&spec, training, &data, start));
    let plan = Plan { shadow, ..Plan::new(args, &spec, training, &parts) };
    print(&match args.run.job.output {
        Output::Json => serde_json::to_string_pretty(&plan).expect("a plan holds nothing that JSON cannot") + "\n",
        Output::Text => plan.text(&data, &parts),
    });
    Ok(())
}

impl Plan {
    #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    fn new(args: &PlanArgs, spec: &JobSpec, training: &Training, parts: &[Part]) -> Self {
        let total = parts.iter().fold(Cost::default(), |sum, part| sum + part.cost);
        let products: f64 = parts.iter().map(|part| part.products).sum();
        let steps = training.train.steps(training.train_rows);
        // Three parties share this machine.
        let cores = (device::cores() as f64 / 3.0).min(f64::from(spec.lanes) * spec.threads as f64);
        let prediction = Prediction::new(total, products, cores, network(args));
        let step = prediction.seconds();
        Self {
            schema: SCHEMA,
            parties: 3,
            lanes: spec.lanes,
            threads: spec.threads,
            parameters: training.model.parameters(),
            steps,
            batch: training.train.batch,
            bytes_per_step_per_party: total.bytes,
            rounds_per_step: total.rounds,
            gemms_per_step: parts.iter().map(|part| part.gemms).sum(),
            products_per_step: products,
            memory_bytes_per_party: memory(spec, training),
            seconds_per_step: step,
            seconds_compute: prediction.compute,
            seconds_transfer: prediction.transfer,
            seconds_rounds: prediction.rounds,
            train_seconds: step * steps as f64,
            reveal: spec.reveal.iter().map(|reveal| reveal.name()).collect(),
            remarks: device::remarks(spec.lanes),
            shadow: None,
        }
    }

    fn text(&self, data: &Dataset, parts: &[Part]) -> String {
        let mut text = format!(
            "plan: {} parties, lanes {} each with threads {}, {} ({} training and {} test rows)\n\n",
            self.parties, self.lanes, self.threads, data.name, data.train.count, data.test.count
        );
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:34}{:>14}{:>8}{:>7}{:>16}",
            "per step and party", "sent", "rounds", "GEMMs", "multiply-adds"
        );
        for part in parts {
            let (sent, rounds) = (bytes(part.cost.bytes), part.cost.rounds);
            let _ = writeln!(text, "{:34}{sent:>14}{rounds:>8.0}{:>7}{:>16.3e}", part.name, part.gemms, part.products);
        }
        let sent = bytes(self.bytes_per_step_per_party);
        let (rounds, gemms, products) = (self.rounds_per_step, self.gemms_per_step, self.products_per_step);
        let _ = writeln!(text, "{:34}{sent:>14}{rounds:>8.0}{gemms:>7}{products:>16.3e}\n", "sum");
        let (compute, transfer) = (seconds(self.seconds_compute), seconds(self.seconds_transfer));
        let rows = [
            (
                "predicted time per step",
                format!(
                    "{} = compute {compute} + transfer {transfer} + round trips {}",
                    seconds(self.seconds_per_step),
                    seconds(self.seconds_rounds)
                ),
            ),
            (
                "predicted training time",
                format!("{} for {} steps of {} samples", seconds(self.train_seconds), self.steps, self.batch),
            ),
            ("memory per party", bytes(self.memory_bytes_per_party)),
            ("will be opened", if self.reveal.is_empty() { "nothing".into() } else { self.reveal.join(", ") }),
            ("stays in shares", "records, labels, weights, gradients, scores, the model".into()),
            ("is public", "shapes, timing, hyper-parameters, batch order, the seeds".into()),
        ];
        for (name, value) in rows {
            let _ = writeln!(text, "{name:26}{value}");
        }
        for remark in &self.remarks {
            let _ = writeln!(text, "{:26}{remark}", "note");
        }
        if let Some(shadow) = &self.shadow {
            let _ = write!(text, "\n{}", shadow.text());
        }
        text
    }
}

fn network(args: &PlanArgs) -> Network {
    if args.rtt_ms == 0.0 {
        return Network::Local;
    }
    Network::Remote { round_trip: args.rtt_ms / 1e3, bandwidth: args.bandwidth_mbit * 1e6, loss: args.packet_loss }
}

/// Two components of data, weights, momentum, activations and their gradients, and the masks in flight.
#[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn memory(spec: &JobSpec, training: &Training) -> f64 {
    let (model, lanes) = (&training.model, f64::from(spec.lanes));
    let rows = (training.train_rows + training.test_rows) as f64;
    let data = rows * (model.inputs() + model.outputs()) as f64;
    let wiring = model.wiring().expect("a job that was checked");
    let widths: usize = (0..model.nodes.len()).map(|node| wiring.output(node).len()).sum();
    let batch = training.train.batch.min(training.train_rows) as f64;
    let activations = batch * (model.inputs() + 6 * widths) as f64;
    let states = if training.train.momentum > 0.0 { 4.0 } else { 3.0 };
    let process = 12e6;
    process + 16.0 * (data + activations + lanes * states * model.parameters() as f64)
}
