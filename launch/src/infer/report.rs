//! What an inference found: one structure, printed as text or as JSON (docs/formats.md).

use std::collections::BTreeMap;

use serde::Serialize;
use shared::ids::PartyId;
use shared::job::{JobSpec, Work};

use crate::data::Samples;
use crate::local::Completed;
use crate::model_file::ModelFile;
use crate::report::{bytes, peak_rss, phase_seconds, phase_text, row, seconds, shares};

/// Layout of the JSON report; it changes when a key changes its meaning or goes away.
const SCHEMA: &str = "trefoil-inference/1";

/// A finished inference.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    job_id: String,
    version: String,
    parties: usize,
    lanes: u16,
    threads: usize,
    device: String,
    model: String,
    public_model: bool,
    parameters: usize,
    data: String,
    rows: usize,
    input: Vec<usize>,
    output: Vec<usize>,
    opened: Vec<&'static str>,
    opened_to: &'static str,
    out: String,
    max_difference: f64,
    compared_rows: usize,
    share_seconds: f64,
    startup_seconds: f64,
    seconds: f64,
    rows_per_second: f64,
    total_seconds: f64,
    bytes_per_party: f64,
    rounds: u64,
    peer_rtt_seconds: f64,
    peak_rss_bytes: u64,
    phases: BTreeMap<String, f64>,
    run_folder: String,
    remarks: Vec<String>,
}

/// What a report is made from.
pub(super) struct Findings<'a> {
    pub(super) job_id: &'a str,
    pub(super) spec: &'a JobSpec,
    pub(super) model: &'a ModelFile,
    pub(super) samples: &'a Samples,
    pub(super) completed: &'a Completed,
    pub(super) difference: (f64, usize),
    pub(super) share_seconds: f64,
    pub(super) total_seconds: f64,
    pub(super) out: &'a str,
    pub(super) run_folder: String,
    pub(super) remarks: Vec<String>,
}

impl Report {
    #[allow(clippy::cast_precision_loss, reason = "counters of a run fit a double's 53 bits")]
    pub(super) fn new(findings: &Findings<'_>) -> Self {
        let Findings { spec, model, samples, completed, .. } = *findings;
        let first = &completed.reports[0];
        let public_model = matches!(&spec.work, Work::Infer(work) if work.public_model);
        let parties = PartyId::ALL.len();
        Self {
            schema: SCHEMA,
            job_id: findings.job_id.into(),
            version: spec.version.clone(),
            parties,
            lanes: spec.lanes,
            threads: spec.threads,
            device: first.device.clone(),
            model: model.name.clone(),
            public_model,
            parameters: model.imported.parameters.len(),
            data: samples.name.clone(),
            rows: samples.count,
            input: model.input().dims.clone(),
            output: model.output().dims.clone(),
            opened: spec.reveal.iter().map(|reveal| reveal.name()).collect(),
            opened_to: "owner of the data",
            out: findings.out.into(),
            max_difference: findings.difference.0,
            compared_rows: findings.difference.1,
            share_seconds: findings.share_seconds,
            startup_seconds: completed.startup_seconds,
            seconds: first.train_seconds,
            rows_per_second: samples.count as f64 / first.train_seconds,
            total_seconds: findings.total_seconds,
            bytes_per_party: completed.reports.iter().map(|report| report.sent_bytes as f64).sum::<f64>()
                / parties as f64,
            rounds: completed.reports.iter().map(|report| report.rounds).max().unwrap_or(0),
            peer_rtt_seconds: first.peer_rtt_seconds,
            peak_rss_bytes: peak_rss(&completed.reports),
            phases: shares(&phase_seconds(&completed.reports)),
            run_folder: findings.run_folder.clone(),
            remarks: findings.remarks.clone(),
        }
    }

    /// One JSON object, keys in a fixed order.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds nothing that JSON cannot")
    }

    /// A screenful.
    pub(super) fn text(&self) -> String {
        let secrecy = if self.public_model { "public weights" } else { "secret weights" };
        #[allow(clippy::cast_precision_loss, reason = "memory sizes fit a double's 53 bits")]
        let peak = bytes(self.peak_rss_bytes as f64);
        let mut lines = vec![
            format!("job {}: {} parties, lanes: {} each, {}", self.job_id, self.parties, self.lanes, self.device),
            format!("{}: {} parameters, {secrecy}; {}: {} rows", self.model, self.parameters, self.data, self.rows),
            String::new(),
            row(
                "time",
                &format!(
                    "{} for all rows, {:.1} rows per second; start-up {}, {} from call to result",
                    seconds(self.seconds),
                    self.rows_per_second,
                    seconds(self.startup_seconds),
                    seconds(self.total_seconds)
                ),
            ),
            row("rows into shares", &seconds(self.share_seconds)),
            row("sent per party", &format!("{}, {} rounds", bytes(self.bytes_per_party), self.rounds)),
            row("where the time goes", &phase_text(&self.phases)),
            row("peak memory", &format!("{peak} (largest party)")),
            row("opened", &format!("{} to the {} alone; no party learned any", self.opened.join(", "), self.opened_to)),
            row("results", &self.out),
        ];
        let (difference, rows) = (self.max_difference, self.compared_rows);
        lines.push(row("against float64", &format!("largest difference {difference:.2e} on {rows} rows")));
        lines.extend(self.remarks.iter().map(|remark| row("note", remark)));
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of the report stands in docs/formats.md, and every key there is one of the report.
    #[test]
    fn the_json_report_has_the_documented_keys() {
        let report = Report {
            schema: SCHEMA,
            job_id: "test".into(),
            version: "trefoil".into(),
            parties: 3,
            lanes: 2,
            threads: 1,
            device: "cpu (test)".into(),
            model: "m.onnx".into(),
            public_model: false,
            parameters: 20,
            data: "x.npy".into(),
            rows: 40,
            input: vec![3],
            output: vec![2],
            opened: vec!["predictions"],
            opened_to: "owner of the data",
            out: "y.npy".into(),
            max_difference: 2e-5,
            compared_rows: 40,
            share_seconds: 0.001,
            startup_seconds: 0.5,
            seconds: 0.25,
            rows_per_second: 160.0,
            total_seconds: 1.0,
            bytes_per_party: 2e6,
            rounds: 12,
            peer_rtt_seconds: 1e-4,
            peak_rss_bytes: 5_000_000,
            phases: BTreeMap::from([("compute".into(), 1.0)]),
            run_folder: "runs/test".into(),
            remarks: vec!["no GPU found".into()],
        };
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        let documented = include_str!("../../../docs/formats.md");
        let section = documented.split("## Inference report").nth(1).unwrap().split("\n## ").next().unwrap();
        let mut keys: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, keys);
        let text = report.text();
        for part in
            ["secret weights", "160.0 rows per second", "2.00 MB, 12 rounds", "2.00e-5 on 40 rows", "compute 100 %"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
