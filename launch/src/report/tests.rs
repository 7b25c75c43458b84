//! The report's figures and its schema.

use shared::config::{DataSection, JobFile};
use shared::job::Work;

use super::*;
use crate::{data, job};

fn report(lanes: u16) -> Report {
    let data = data::load(&DataSection::default(), &shared::job::ProtocolSpec::default()).unwrap();
    let mut file = JobFile::default();
    file.job.lanes = lanes;
    let spec = job::spec(&file, &data, None, data::Digests::default()).unwrap();
    let Work::Train(training) = spec.work.clone() else { panic!("it trains") };
    let party = PartyReport {
        device: "cpu (test)".into(),
        opened: vec![("test-accuracy".into(), vec![0.97]), ("test-auroc".into(), vec![0.99])],
        step_seconds: vec![0.001, 0.003, 0.002, 0.010],
        train_seconds: 0.016,
        sent_bytes: 4_000,
        rounds: 40,
        phase_seconds: vec![("compute".into(), 0.003), ("open_wait".into(), 0.001)],
        calibration: Some(Calibration { one_lane: 0.04, strong: 0.02, weak: 0.05, one_lane_compute: 0.03 }),
        peak_rss_bytes: 5_000_000,
        peer_rtt_seconds: 1e-4,
    };
    let completed = Completed { reports: [party.clone(), party.clone(), party], startup_seconds: 0.5, result: None };
    let confusion = Some(vec![vec![40, 2], vec![1, 71]]);
    let plain = Outcome { complete: true, accuracy: Some(0.96), auroc: Some(0.98), confusion, ..Outcome::default() };
    Report::new(&Findings {
        job_id: "test",
        spec: &spec,
        training: &training,
        data: &data,
        completed: &completed,
        plain: &plain,
        weight_difference: None,
        run_folder: "runs/test".into(),
        model: vec!["runs/test/p0".into()],
        remarks: vec!["no GPU found".into()],
    })
}

#[test]
fn figures_are_medians_means_and_shares() {
    let report = report(4);
    assert!((report.seconds_per_step - 0.0025).abs() < 1e-12);
    assert!((report.bytes_per_step_per_party - 1000.0).abs() < 1e-9);
    assert!((report.rounds_per_step - 10.0).abs() < 1e-12);
    assert!((report.phases["compute"] - 0.75).abs() < 1e-12);
    assert_eq!((report.accuracy, report.plaintext_auroc), (Some(0.97), Some(0.98)));
    assert_eq!(report.speedup_strong, Some(2.0));
    assert!((report.speedup_weak.unwrap() - 3.2).abs() < 1e-12);
}

#[test]
fn the_ceiling_counts_cores_a_party_has() {
    let measured = Calibration { one_lane: 0.04, strong: 0.02, weak: 0.05, one_lane_compute: 0.03 };
    let predicted = |cores| Speedups::new(&measured, 4, 1, cores).unwrap().predicted;
    assert!((predicted(12) - 0.04 / (0.03 / 4.0 + 0.01)).abs() < 1e-12);
    assert!((predicted(6) - 0.04 / (0.03 / 2.0 + 0.01)).abs() < 1e-12);
    assert!((predicted(2) - 1.0).abs() < 1e-12);
    assert_eq!(Speedups::new(&Calibration::default(), 4, 1, 12), None);
}

/// Every key of the report stands in docs/formats.md, and every key there is one of the report.
#[test]
fn the_json_report_has_the_documented_keys() {
    let value: serde_json::Value = serde_json::from_str(&report(4).json()).unwrap();
    let documented = include_str!("../../../docs/formats.md");
    let section = documented.split("## Report").nth(1).unwrap().split("\n## ").next().unwrap();
    let keys: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = keys.clone();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(value["schema"], SCHEMA);
}

#[test]
fn one_lane_has_no_speedup() {
    let report = report(1);
    let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert!(value["speedup_strong"].is_null() && !report.text().contains("over 1"));
}

#[test]
fn the_text_stands_mpc_beside_plaintext() {
    let text = report(4).text();
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    assert!(line("test accuracy").ends_with("0.9700        0.9600"), "{text}");
    assert!(line("4 lanes over 1").contains("strong 2.00, weak 3.20; predicted ceiling"), "{text}");
    assert!(line("per step and party").contains("1.0 kB sent, 10 rounds"), "{text}");
    assert!(line("where the time goes").contains("compute 75 %, send 0 %, wait 25 %"), "{text}");
    assert!(line("opened").contains("test-accuracy, test-auroc"), "{text}");
}
