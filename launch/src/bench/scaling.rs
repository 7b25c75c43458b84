//! `bench scaling`: the same steps on one lane and on more, with the same processes and the same wire as `run`, beside
//! the ideal, the ceiling that the one-lane run sets, and what the simulator predicts.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use shared::config::JobFile;
use shared::job::{PROTOCOL_VERSION, Work as JobWork};

use super::{Bench, generated_images, on_images};
use crate::args::{BenchArgs, Output, ScalingArgs, ScalingOutput, ScalingWorkload, Workload};
use crate::exit::LaunchError;
use crate::folder::RunFolder;
use crate::local::{Completed, Interrupt};
use crate::metrics::median;
use crate::out::OutFile;
use crate::report::{largest, peak_rss, phase_seconds, shares, smallest, traffic_per_step};
use crate::scaling::{Calibration, Mode, Network, Observed, Simulator, Work};
use crate::{cost, data, device, job, print, settings};

mod chart;
mod prometheus;
mod text;

/// Layout of the report; it changes when a key changes its meaning or goes away.
const SCHEMA: &str = "trefoil-scaling/1";
/// Lanes that a job can have.
const LANES_MAX: u16 = 64;

/// What was found.
#[derive(Clone, Debug, Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    workload: &'static str,
    parties: usize,
    device: String,
    threads: usize,
    cores: usize,
    /// Samples of a one-lane step.
    batch: usize,
    network: NetworkUsed,
    points: Vec<Point>,
    remarks: Vec<String>,
}

/// What lay between the parties.
#[derive(Clone, Copy, Debug, Serialize)]
struct NetworkUsed {
    /// As the parties measured it.
    round_trip_seconds: f64,
    /// As `--net` says; none where all is this machine.
    bandwidth_bits_per_second: Option<f64>,
    /// Likewise.
    loss: Option<f64>,
}

/// One lane count and one way to scale.
#[derive(Clone, Debug, Serialize)]
struct Point {
    mode: Mode,
    lanes: u16,
    /// Samples of a step, all lanes together.
    batch: usize,
    /// Steps behind the figures.
    runs: usize,
    seconds: f64,
    seconds_min: f64,
    seconds_max: f64,
    seconds_predicted: f64,
    seconds_least: f64,
    samples_per_second: f64,
    speedup: f64,
    speedup_ideal: f64,
    speedup_ceiling: f64,
    speedup_predicted: f64,
    efficiency: f64,
    network_share: f64,
    network_share_predicted: f64,
    bytes_sent_per_party: f64,
    bytes_predicted: f64,
    rounds: f64,
    phases: BTreeMap<String, f64>,
    phase_seconds: BTreeMap<String, f64>,
    startup_seconds: f64,
    peak_rss_bytes: u64,
}

/// Runs what was asked for and shows it.
pub(super) fn run(args: &ScalingArgs) -> Result<(), LaunchError> {
    let lanes = lane_counts(&args.gpus)?;
    if args.runs == Some(0) || args.repeat == 0 {
        return Err(LaunchError::Usage("--runs and --repeat: at least one run is needed".into()));
    }
    let modes = match (args.weak, args.strong) {
        (true, false) => vec![Mode::Weak],
        (false, true) => vec![Mode::Strong],
        _ => vec![Mode::Weak, Mode::Strong],
    };
    let out = args.out.as_ref().map(|path| OutFile::create(path, &["svg"])).transpose()?;
    let bench = Scaling::new(args, &lanes)?;
    let rows = bench.job.train.batch;
    if modes.contains(&Mode::Strong) && rows < bench.most.into() {
        return Err(LaunchError::MoreLanesThanSamples { what: "samples of a batch", lanes: bench.most, rows });
    }
    let report = bench.report(&lanes, &modes)?;
    show(&report, args, out)
}

fn show(report: &Report, args: &ScalingArgs, out: Option<OutFile>) -> Result<(), LaunchError> {
    for output in &args.output {
        match output {
            ScalingOutput::Text => print(&text::text(report)),
            ScalingOutput::Json => print(&(report.json() + "\n")),
            ScalingOutput::Prometheus => print(&prometheus::page(report)),
            ScalingOutput::Svg => {}
        }
    }
    let wanted = args.output.contains(&ScalingOutput::Svg) || out.is_some();
    match out {
        Some(out) => out.complete(|path| std::fs::write(path, chart::svg(report))),
        None if wanted => {
            let job = JobFile::default().job;
            let folder = RunFolder::create(Path::new(&job.folder), &job.name)?;
            folder.write("scaling.json", &(report.json() + "\n"))?;
            folder.write("scaling.svg", &chart::svg(report))?;
            eprintln!("chart: {}", folder.path().join("scaling.svg").display());
            Ok(())
        }
        None => Ok(()),
    }
}

/// Lane counts from the smallest to the largest; one lane is what all others are measured against.
fn lane_counts(asked: &[u16]) -> Result<Vec<u16>, LaunchError> {
    let refuse = |reason: String| Err(LaunchError::Usage(format!("--gpus {}: {reason}", list(asked))));
    if let Some(count) = asked.iter().find(|count| !(1..=LANES_MAX).contains(count)) {
        return refuse(format!("{count} is out of range: 1 to {LANES_MAX} lanes (GPUs) per party"));
    }
    if asked.windows(2).any(|pair| pair[0] >= pair[1]) {
        return refuse("the counts must grow, as in 1,2,4".into());
    }
    let first = (asked.first() != Some(&1)).then_some(1);
    Ok(first.into_iter().chain(asked.iter().copied()).collect())
}

fn list(lanes: &[u16]) -> String {
    lanes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A workload that is run on so many lanes.
struct Scaling<'a> {
    args: &'a ScalingArgs,
    workload: Workload,
    name: &'static str,
    /// Of one lane.
    job: JobFile,
    /// Most lanes of all.
    most: u16,
    threads: usize,
    /// Of this machine, which all parties share.
    cores: usize,
    interrupt: Interrupt,
    calibration: Calibration,
}

/// All runs of one lane count and one way to scale.
#[derive(Default)]
struct Runs(Vec<Completed>);

impl<'a> Scaling<'a> {
    fn new(args: &'a ScalingArgs, lanes: &[u16]) -> Result<Self, LaunchError> {
        let (workload, name) = match args.workload {
            ScalingWorkload::W2 => (Workload::W2, "w2"),
            ScalingWorkload::W3 => (Workload::W3, "w3"),
        };
        let most = *lanes.last().expect("one lane at least");
        let job = settings::overlay(&on_images(&JobFile::default(), workload).0, &args.set)?;
        // A lane stands for a device, so it is as strong alone as among all others.
        let threads = device::threads_per_lane(most, args.threads);
        let calibration = Calibration::here();
        let (cores, interrupt) = (device::cores(), Interrupt::install());
        Ok(Self { args, workload, name, job, most, threads, cores, interrupt, calibration })
    }

    fn report(&self, lanes: &[u16], modes: &[Mode]) -> Result<Report, LaunchError> {
        let remarks = device::remarks(self.job.job.device, self.most);
        remarks.iter().for_each(|remark| eprintln!("{remark}"));
        // One lane is the same in both ways.
        let mut cases: Vec<(Mode, u16)> = vec![(modes[0], 1)];
        cases.extend(modes.iter().flat_map(|mode| lanes[1..].iter().map(|lanes| (*mode, *lanes))));
        let mut runs: Vec<Runs> = cases.iter().map(|_| Runs::default()).collect();
        // Turn by turn, so that a neighbour's busy minute does not hit one lane count alone.
        for turn in 0..self.args.repeat {
            for ((mode, lanes), runs) in cases.iter().zip(&mut runs) {
                let batch = mode.batch(self.job.train.batch, *lanes);
                if self.args.repeat > 1 {
                    eprintln!("turn {} of {}: lanes {lanes}, batch {batch}", turn + 1, self.args.repeat);
                }
                runs.0.push(self.measure(*lanes, batch)?);
            }
        }
        let one = &runs[0];
        let round_trip = smallest(&runs.iter().flat_map(Runs::round_trips).collect::<Vec<_>>());
        let mut points = Vec::new();
        for mode in modes {
            points.push(self.point(*mode, 1, one, one)?);
            let of_mode = cases.iter().zip(&runs).skip(1).filter(|((of, _), _)| of == mode);
            for ((_, lanes), runs) in of_mode {
                points.push(self.point(*mode, *lanes, one, runs)?);
            }
        }
        Ok(Report {
            schema: SCHEMA,
            version: PROTOCOL_VERSION,
            workload: self.name,
            parties: one.0[0].reports.len(),
            device: one.0[0].reports[0].device.clone(),
            threads: self.threads,
            cores: self.cores,
            batch: self.job.train.batch,
            network: NetworkUsed {
                round_trip_seconds: round_trip,
                bandwidth_bits_per_second: self.args.net.map(|link| link.bandwidth),
                loss: self.args.net.map(|link| link.loss),
            },
            points,
            remarks,
        })
    }

    /// Real steps of three processes.
    fn measure(&self, lanes: u16, batch: usize) -> Result<Completed, LaunchError> {
        let args = BenchArgs {
            workload: self.workload,
            lanes,
            threads: self.threads,
            parties: 3,
            runs: self.args.runs,
            only: None,
            set: [self.args.set.clone(), vec![format!("train.batch={batch}")]].concat(),
            output: Output::Text,
            verbose: self.args.verbose,
            party_program: self.args.party_program.clone(),
        };
        let steps = if self.workload == Workload::W3 { 10 } else { 30 };
        Bench::with(&args, self.interrupt.clone())?.image_steps(steps)
    }

    fn point(&self, mode: Mode, lanes: u16, one: &Runs, runs: &Runs) -> Result<Point, LaunchError> {
        let (work, batch) = self.work(mode, lanes)?;
        let simulator = self.simulator();
        let (alone, _) = self.work(mode, 1)?;
        let (forecast, first_forecast) = (simulator.forecast(&work, lanes), simulator.forecast(&alone, 1));
        let least = simulator.least_seconds(&one.observed(), &alone, &work, lanes);
        let (seconds, first) = (runs.seconds(), one.seconds());
        let gained = f64::from(u32::try_from(batch / self.job.train.batch).unwrap_or(u32::MAX));
        let phase_seconds = runs.phase_seconds();
        let phases = shares(&phase_seconds);
        let of = |names: &[&str]| names.iter().filter_map(|name| phases.get(*name)).sum();
        let (bytes, rounds) = runs.traffic();
        let times = runs.step_seconds();
        Ok(Point {
            mode,
            lanes,
            batch,
            runs: times.len(),
            seconds,
            seconds_min: smallest(&times),
            seconds_max: largest(&times),
            seconds_predicted: forecast.seconds(),
            seconds_least: least,
            samples_per_second: count(batch) / seconds,
            speedup: gained * first / seconds,
            speedup_ideal: f64::from(lanes),
            speedup_ceiling: gained * first / least,
            speedup_predicted: gained * first_forecast.seconds() / forecast.seconds(),
            efficiency: gained * first / seconds / f64::from(lanes),
            network_share: of(&["open_send", "open_wait"]),
            network_share_predicted: forecast.network_share(),
            bytes_sent_per_party: bytes,
            bytes_predicted: f64::from(lanes) * work.cost.bytes,
            rounds,
            phases,
            phase_seconds,
            startup_seconds: median(&runs.0.iter().map(|run| run.startup_seconds).collect::<Vec<_>>()),
            peak_rss_bytes: runs.0.iter().map(|run| peak_rss(&run.reports)).max().unwrap_or(0),
        })
    }

    /// What a lane does in a step, and the samples of all lanes.
    fn work(&self, mode: Mode, lanes: u16) -> Result<(Work, usize), LaunchError> {
        let batch = mode.batch(self.job.train.batch, lanes);
        let mut job = self.job.clone();
        (job.train.batch, job.job.lanes) = (batch, lanes);
        let data = generated_images(batch, on_images(&job, self.workload).1, job.train.seed);
        let spec = job::spec(&job, &data, None, data::Digests::default())?;
        let JobWork::Train(training) = &spec.work else { unreachable!("a job file describes a training") };
        let parts = cost::lane_step(&training.model, &training.train, &spec.protocol, lanes.into());
        Ok((Work::new(&parts, training.model.parameters()), batch))
    }

    #[allow(clippy::cast_precision_loss, reason = "core and thread counts are small")]
    fn simulator(&self) -> Simulator<'_> {
        Simulator {
            calibration: &self.calibration,
            network: self.args.net.map_or(Network::Local, Network::Remote),
            cores: self.cores as f64 / 3.0,
            threads: self.threads as f64,
        }
    }
}

impl Runs {
    fn step_seconds(&self) -> Vec<f64> {
        self.0.iter().flat_map(|run| run.reports[0].step_seconds.iter().copied()).collect()
    }

    fn seconds(&self) -> f64 {
        median(&self.step_seconds())
    }

    fn round_trips(&self) -> Vec<f64> {
        let measured = self.0.iter().flat_map(|run| run.reports.iter().map(|report| report.peer_rtt_seconds));
        measured.filter(|seconds| *seconds > 0.0).collect()
    }

    /// Mean over the runs.
    fn phase_seconds(&self) -> BTreeMap<String, f64> {
        let mut phases = BTreeMap::new();
        for (name, seconds) in self.0.iter().flat_map(|run| phase_seconds(&run.reports)) {
            *phases.entry(name).or_insert(0.0) += seconds / count(self.0.len());
        }
        phases
    }

    /// Bytes of a party and rounds in a step, which no run differs in.
    fn traffic(&self) -> (f64, f64) {
        traffic_per_step(&self.0[0].reports)
    }

    fn observed(&self) -> Observed {
        let phases = shares(&self.phase_seconds());
        let waiting: f64 = ["open_wait", "allreduce", "idle"].iter().filter_map(|name| phases.get(*name)).sum();
        let seconds = self.seconds();
        Observed { seconds, computing: (1.0 - waiting) * seconds }
    }
}

impl Report {
    /// One JSON object, keys in a fixed order.
    fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds nothing that JSON cannot")
    }

    /// The points of one way to scale, from one lane on.
    fn of(&self, mode: Mode) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(move |point| point.mode == mode)
    }

    fn modes(&self) -> Vec<Mode> {
        [Mode::Weak, Mode::Strong].into_iter().filter(|mode| self.of(*mode).next().is_some()).collect()
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
