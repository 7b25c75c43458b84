//! The simulator against everything that was measured: `launch/tests/data/measured-points.jsonl`, a line for each
//! measurement, and the table in docs/benchmarks.md that is made from it.

use std::fmt::Write as _;

use serde::Deserialize;
use shared::config::JobFile;
use shared::job::{ProtocolSpec, Work as JobWork};

use super::*;
use crate::args::Workload;
use crate::report::seconds;
use crate::{bench, cost, data, job};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");
const BEGIN: &str = "<!-- predictions: made from launch/tests/data/measured-points.jsonl by a test -->\n";
const END: &str = "<!-- end of predictions -->";

/// One measurement.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    /// Name in the table.
    name: String,
    workload: String,
    /// Changes to it, as `--set` takes them.
    #[serde(default)]
    set: Vec<String>,
    /// Rows that pass through the trained network at a time; none for a training.
    inference_rows: Option<usize>,
    lanes: u16,
    /// Samples of a step, all lanes together; the mean where a pass ends with a smaller batch.
    batch: usize,
    /// Steps behind the seconds.
    steps: u32,
    /// Cores that all three parties shared.
    cores: f64,
    /// As `--net` takes it; none on one machine.
    network: Option<String>,
    seconds: f64,
    seconds_min: f64,
    seconds_max: f64,
    /// In all steps.
    bytes_sent_per_party: f64,
    rounds: f64,
    date: String,
}

impl Point {
    fn network(&self) -> Network {
        self.network.as_ref().map_or(Network::Local, |link| Network::Remote(link.parse().unwrap()))
    }

    fn work(&self) -> Work {
        let workload = match self.workload.as_str() {
            "w1" => Workload::W1,
            "w2" => Workload::W2,
            "w3" => Workload::W3,
            "w5" => Workload::W5,
            "resnet18" => Workload::Resnet18,
            other => panic!("{other} is no workload"),
        };
        let set = [self.set.clone(), vec![format!("train.batch={}", self.batch)]].concat();
        let (job, data) = bench::training(workload, &JobFile::default(), &set).unwrap();
        let spec = job::spec(&job, &data, None, data::Digests::default()).unwrap();
        let JobWork::Train(training) = &spec.work else { panic!("it trains") };
        let model = &training.model;
        match self.inference_rows {
            Some(rows) => Work::new(&cost::inference(model, rows, &spec.protocol).block, 0),
            None => {
                let parts = cost::lane_step(model, &training.train, &spec.protocol, self.lanes.into());
                Work::new(&parts, model.parameters())
            }
        }
    }

    /// What the simulator says of it, with the calibration of the machine that it was measured on.
    fn predicted(&self) -> Work {
        let work = self.work();
        let factor = f64::from(self.steps);
        let cost =
            cost::Cost { bytes: f64::from(self.lanes) * work.cost.bytes * factor, rounds: work.cost.rounds * factor };
        Work { cost, ..work }
    }

    fn predicted_seconds(&self) -> f64 {
        let calibration = Calibration::shipped("cpu").unwrap();
        let (cores, network) = (self.cores / 3.0, self.network());
        let simulator = Simulator { calibration: &calibration, network, cores, threads: 1.0 };
        f64::from(self.steps) * simulator.forecast(&self.work(), self.lanes).seconds()
    }
}

fn points() -> Vec<Point> {
    let lines = include_str!("../../tests/data/measured-points.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn table(points: &[Point]) -> String {
    let mut text = String::from(
        "| workload | network | lanes | measured (fastest to slowest) | predicted | error |\n|---|---|---|---|---|---|\n",
    );
    for point in points {
        let network = match point.network() {
            Network::Local => "one machine".into(),
            Network::Remote(link) => link.to_string(),
        };
        let predicted = point.predicted_seconds();
        let error = 100.0 * (predicted / point.seconds - 1.0);
        let (middle, least, most) = (seconds(point.seconds), seconds(point.seconds_min), seconds(point.seconds_max));
        let (name, lanes) = (&point.name, point.lanes);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {network} | {lanes} | {middle} ({least} to {most}) | {} | {error:+.0} % |",
            seconds(predicted)
        );
    }
    text
}

/// The table in the documents is what the simulator says today.
#[test]
fn the_error_table_is_as_recorded() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the document has a place for the table");
    let (recorded, after) = rest.split_once(END).expect("the table ends");
    let table = table(&points());
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(DOCUMENT, [before, BEGIN, &table, END, after].concat()).unwrap();
        return;
    }
    assert!(recorded == table, "predictions changed; UPDATE_SNAPSHOTS=1 records them:\n{table}");
}

#[test]
fn predictions_are_near_what_was_measured() {
    let points = points();
    let off = |point: &Point| (point.predicted_seconds() / point.seconds).ln().abs();
    let mut errors: Vec<f64> = points.iter().map(off).collect();
    errors.sort_unstable_by(f64::total_cmp);
    let (median, largest) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    assert!(points.len() >= 29 && median.exp() < 1.15 && largest.exp() < 1.5, "{median} {largest}: {errors:?}");
}

/// Bytes and rounds are no matter of calibration.
#[test]
fn bytes_and_rounds_are_those_that_were_counted() {
    for point in points() {
        let cost = point.predicted().cost;
        let bytes = cost.bytes / point.bytes_sent_per_party - 1.0;
        assert!(bytes.abs() < 0.02, "{}: {cost:?} where {} were sent", point.name, point.bytes_sent_per_party);
        assert!((cost.rounds / point.rounds - 1.0).abs() < 0.02, "{}: {cost:?}", point.name);
        assert!(point.seconds_min <= point.seconds && point.seconds <= point.seconds_max && point.date.len() == 10);
        assert_eq!(ProtocolSpec::default().round_trip_ms, 0, "points were measured with the default protocol");
    }
}
