//! What a run found: one structure, printed as text or as JSON (docs/formats.md).

use std::collections::BTreeMap;

use serde::Serialize;
use shared::ids::PartyId;
use shared::job::{JobSpec, Reveal, Training};
use shared::wire::{Calibration, PartyReport};

use crate::data::{Dataset, Task};
use crate::device;
use crate::local::Completed;
use crate::metrics::median;
use crate::plain::Outcome;

mod text;

pub(crate) use text::{bytes, confusion_text, phase_text, row, seconds};

/// Layout of the JSON report; it changes when a key changes its meaning or goes away.
const SCHEMA: &str = "trefoil-report/1";

/// A finished training run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    job_id: String,
    version: String,
    parties: usize,
    lanes: u16,
    threads: usize,
    device: String,
    data: String,
    task: &'static str,
    features: usize,
    train_rows: usize,
    test_rows: usize,
    missing_values: BTreeMap<String, usize>,
    classes: Vec<String>,
    parameters: usize,
    epochs: u32,
    batch: usize,
    steps: usize,
    accuracy: Option<f64>,
    auroc: Option<f64>,
    test_loss: Option<f64>,
    plaintext_accuracy: Option<f64>,
    plaintext_auroc: Option<f64>,
    plaintext_test_loss: Option<f64>,
    confusion: Option<Vec<Vec<usize>>>,
    plaintext_confusion: Option<Vec<Vec<usize>>>,
    weight_difference: Option<f64>,
    target_scale: f64,
    opened: Vec<String>,
    seconds_per_step: f64,
    seconds_per_step_min: f64,
    seconds_per_step_max: f64,
    train_seconds: f64,
    startup_seconds: f64,
    bytes_per_step_per_party: f64,
    rounds_per_step: f64,
    peer_rtt_seconds: f64,
    speedup_strong: Option<f64>,
    speedup_weak: Option<f64>,
    speedup_predicted: Option<f64>,
    peak_rss_bytes: u64,
    phases: BTreeMap<String, f64>,
    phase_seconds: BTreeMap<String, f64>,
    run_folder: String,
    model: Vec<String>,
    remarks: Vec<String>,
}

/// What a report is made from.
pub(crate) struct Findings<'a> {
    pub(crate) job_id: &'a str,
    pub(crate) spec: &'a JobSpec,
    pub(crate) training: &'a Training,
    pub(crate) data: &'a Dataset,
    pub(crate) completed: &'a Completed,
    pub(crate) plain: &'a Outcome,
    /// Largest difference of a revealed weight from the plaintext twin's.
    pub(crate) weight_difference: Option<f64>,
    pub(crate) run_folder: String,
    pub(crate) model: Vec<String>,
    pub(crate) remarks: Vec<String>,
}

impl Report {
    pub(crate) fn new(findings: &Findings<'_>) -> Self {
        let Findings { spec, training, data, completed, plain, .. } = *findings;
        let first = &completed.reports[0];
        let (bytes, rounds) = traffic_per_step(&completed.reports);
        let phase_seconds = phase_seconds(&completed.reports);
        let speedups = first
            .calibration
            .filter(|_| spec.lanes > 1)
            .and_then(|measured| Speedups::new(&measured, spec.lanes, spec.threads, device::cores()));
        Self {
            schema: SCHEMA,
            job_id: findings.job_id.into(),
            version: spec.version.clone(),
            parties: PartyId::ALL.len(),
            lanes: spec.lanes,
            threads: spec.threads,
            device: first.device.clone(),
            data: data.name.clone(),
            task: task_name(data.task),
            features: data.features.len(),
            train_rows: training.train_rows,
            test_rows: training.test_rows,
            missing_values: data.missing.iter().cloned().collect(),
            classes: data.classes.clone(),
            parameters: training.model.parameters(),
            epochs: training.train.epochs,
            batch: training.train.batch,
            steps: first.step_seconds.len(),
            accuracy: opened(first, Reveal::TestAccuracy),
            auroc: opened(first, Reveal::TestAuroc),
            test_loss: opened(first, Reveal::TestLoss),
            plaintext_accuracy: plain.accuracy,
            plaintext_auroc: plain.auroc,
            plaintext_test_loss: plain.loss,
            confusion: opened_confusion(first, data.classes.len()),
            plaintext_confusion: plain.confusion.clone(),
            weight_difference: findings.weight_difference,
            target_scale: data.target_scale,
            opened: first.opened.iter().map(|(name, _)| name.clone()).collect(),
            seconds_per_step: median(&first.step_seconds),
            seconds_per_step_min: smallest(&first.step_seconds),
            seconds_per_step_max: largest(&first.step_seconds),
            train_seconds: first.train_seconds,
            startup_seconds: completed.startup_seconds,
            bytes_per_step_per_party: bytes,
            rounds_per_step: rounds,
            peer_rtt_seconds: first.peer_rtt_seconds,
            speedup_strong: speedups.map(|speedups| speedups.strong),
            speedup_weak: speedups.map(|speedups| speedups.weak),
            speedup_predicted: speedups.map(|speedups| speedups.predicted),
            peak_rss_bytes: peak_rss(&completed.reports),
            phases: shares(&phase_seconds),
            phase_seconds,
            run_folder: findings.run_folder.clone(),
            model: findings.model.clone(),
            remarks: findings.remarks.clone(),
        }
    }

    /// One JSON object, keys in a fixed order.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds nothing that JSON cannot")
    }
}

/// Name of a task in reports.
pub(crate) fn task_name(task: Task) -> &'static str {
    match task {
        Task::Binary => "binary",
        Task::Multiclass => "multiclass",
        Task::Regression => "regression",
    }
}

/// A number that the parties opened.
pub(crate) fn opened(report: &PartyReport, what: Reveal) -> Option<f64> {
    opened_values(report, what)?.first().copied()
}

fn opened_values(report: &PartyReport, what: Reveal) -> Option<&[f64]> {
    report.opened.iter().find(|(name, _)| name == what.name()).map(|(_, values)| &values[..])
}

/// The counts that the parties opened, a row for each class.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of rows")]
fn opened_confusion(report: &PartyReport, classes: usize) -> Option<Vec<Vec<usize>>> {
    let counts = opened_values(report, Reveal::TestConfusion)?;
    Some(counts.chunks(classes.max(1)).map(|row| row.iter().map(|count| count.round() as usize).collect()).collect())
}

/// Bytes that a party sent per step (mean of the three) and rounds per step (longest of the three).
#[allow(clippy::cast_precision_loss, reason = "counters of a run fit a double's 53 bits")]
pub(crate) fn traffic_per_step(reports: &[PartyReport; 3]) -> (f64, f64) {
    let steps = reports[0].step_seconds.len().max(1) as f64;
    let sent: f64 = reports.iter().map(|report| report.sent_bytes as f64 / 3.0).sum();
    let rounds = reports.iter().map(|report| report.rounds).max().unwrap_or(0);
    (sent / steps, rounds as f64 / steps)
}

/// Largest of the three processes.
pub(crate) fn peak_rss(reports: &[PartyReport; 3]) -> u64 {
    reports.iter().map(|report| report.peak_rss_bytes).max().unwrap_or(0)
}

pub(crate) fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().reduce(f64::min).unwrap_or(0.0)
}

pub(crate) fn largest(values: &[f64]) -> f64 {
    values.iter().copied().reduce(f64::max).unwrap_or(0.0)
}

/// Mean over the parties, by phase.
pub(crate) fn phase_seconds(reports: &[PartyReport; 3]) -> BTreeMap<String, f64> {
    let mut phases = BTreeMap::new();
    for (name, seconds) in reports.iter().flat_map(|report| &report.phase_seconds) {
        *phases.entry(name.clone()).or_insert(0.0) += seconds / 3.0;
    }
    phases
}

/// Of the sum, by phase.
pub(crate) fn shares(seconds: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let sum: f64 = seconds.values().sum();
    seconds.iter().map(|(name, value)| (name.clone(), if sum > 0.0 { value / sum } else { 0.0 })).collect()
}

/// Throughput of all lanes over that of one.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Speedups {
    strong: f64,
    weak: f64,
    predicted: f64,
}

impl Speedups {
    /// Strong: the same batch split among the lanes. Weak: a batch for each. Predicted, for the strong case:
    /// `one / (compute / r + (one - compute))`, as only computing can be shared out: the bytes of a party stay the same
    /// and the rounds follow one another. `r = min(lanes x threads, cores / 3) / min(threads, cores / 3)`, at least 1:
    /// how many times more cores `lanes` lanes can keep busy than one, when three parties share this machine.
    fn new(measured: &Calibration, lanes: u16, threads: usize, cores: usize) -> Option<Self> {
        let Calibration { one_lane, strong, weak, one_lane_compute } = *measured;
        if one_lane <= 0.0 || strong <= 0.0 || weak <= 0.0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss, reason = "core and thread counts are small")]
        let (threads, cores) = (threads.max(1) as f64, cores as f64 / 3.0);
        let lanes = f64::from(lanes);
        let more = ((lanes * threads).min(cores) / threads.min(cores)).max(1.0);
        let compute = one_lane_compute.clamp(0.0, one_lane);
        let predicted = one_lane / (compute / more + (one_lane - compute));
        Some(Self { strong: one_lane / strong, weak: lanes * one_lane / weak, predicted })
    }
}

#[cfg(test)]
mod tests;
