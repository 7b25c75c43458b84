//! Three real party processes on this machine: accuracy beside plaintext, and every way a run can be cut short.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mpc-launch"));
    command.current_dir(folder).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn launch(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the program starts")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn report(arguments: &[&str]) -> (TempDir, Value) {
    let folder = folder();
    let output = launch(folder.path(), &[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = serde_json::from_slice(&output.stdout).expect("one JSON object on standard output");
    (folder, report)
}

/// Process ids of the parties that a launcher started, in order of their start.
fn parties(launcher: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn alive(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().expect("kill runs").success());
}

fn wait_for(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < limit, "{what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A run that goes on for minutes, in its training.
fn long_run(folder: &Path) -> (Child, Vec<u32>) {
    let arguments =
        ["--name", "long", "--gpus", "2", "--set", "train.epochs=100000", "--set", "job.calibration_steps=0"];
    let child = command(folder, &arguments).spawn().expect("the program starts");
    let mut pids = Vec::new();
    wait_for("three parties", Duration::from_secs(20), || {
        pids = parties(child.id());
        pids.len() == 3
    });
    // Past the start-up, which takes well under two seconds.
    std::thread::sleep(Duration::from_secs(3));
    (child, pids)
}

fn end(child: Child, limit: Duration) -> Output {
    let begin = Instant::now();
    let output = child.wait_with_output().expect("the program ends");
    assert!(begin.elapsed() < limit, "took {:?}", begin.elapsed());
    output
}

#[test]
fn logistic_regression_is_as_accurate_as_in_plaintext() {
    let (folder, report) = report(&["--gpus", "4", "--parties", "3", "--name", "first"]);
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
    // One test record of 114, and the AUROC to one percent.
    assert!((number("accuracy") - number("plaintext_accuracy")).abs() <= 1.0 / 114.0 + 1e-9, "{report}");
    assert!((number("auroc") - number("plaintext_auroc")).abs() <= 0.01, "{report}");
    for key in ["speedup_strong", "speedup_weak", "speedup_predicted", "bytes_per_step_per_party", "rounds_per_step"] {
        assert!(number(key) > 0.0, "{key}: {report}");
    }
    let shares: f64 = report["phases"].as_object().expect("phases").values().filter_map(Value::as_f64).sum();
    assert!((shares - 1.0).abs() < 1e-6);
    assert_eq!(report["opened"], serde_json::json!(["test-accuracy", "test-auroc"]));
    for file in ["job.toml", "report.txt", "report.json", "p0.log", "p2.log", "p0", "p1", "p2"] {
        assert!(folder.path().join("runs/first").join(file).exists(), "{file}");
    }
}

#[test]
fn records_of_a_user_are_trained_on() {
    let folder = folder();
    let rows: String = (0..120)
        .map(|i| {
            let sick = i % 3 == 0;
            let age = if i % 10 == 9 { String::new() } else { (40 + i % 7 + 20 * i32::from(sick)).to_string() };
            format!("{age},{},{}\n", if i % 2 == 0 { "f" } else { "m" }, if sick { "sick" } else { "well" })
        })
        .collect();
    fs::write(folder.path().join("t.csv"), format!("age,sex,state\n{rows}")).expect("the folder can be written");
    let arguments = ["--data", "t.csv", "--label", "state", "--set", "data.positive=sick", "--output", "json"];
    let output = launch(folder.path(), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["missing_values"], serde_json::json!({ "age": 12 }));
    let (mpc, plain) = (report["accuracy"].as_f64(), report["plaintext_accuracy"].as_f64());
    assert!((mpc.expect("opened") - plain.expect("computed")).abs() <= 1.0 / 24.0 + 1e-9, "{report}");
}

#[test]
fn a_killed_party_ends_the_job_within_ten_seconds_and_is_named() {
    let folder = folder();
    let (child, pids) = long_run(folder.path());
    signal("-KILL", pids[1]);
    let output = end(child, Duration::from_secs(10));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("error: P1") && error.contains("step ") && error.contains("signal 9"), "{error}");
    assert!(pids.iter().all(|&pid| !alive(pid)), "orphans");
}

#[test]
fn a_stopped_party_ends_the_job_by_its_peers_timeout() {
    let folder = folder();
    let (child, pids) = long_run(folder.path());
    signal("-STOP", pids[2]);
    let output = end(child, Duration::from_secs(20));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(3 | 4)) && error.contains("P2"), "{error}");
    assert!(pids.iter().all(|&pid| !alive(pid)), "orphans");
}

#[test]
fn an_interrupt_stops_all_parties_in_order() {
    let folder = folder();
    let (child, pids) = long_run(folder.path());
    signal("-INT", child.id());
    let output = end(child, Duration::from_secs(5));
    assert_eq!(output.status.code(), Some(130));
    assert!(pids.iter().all(|&pid| !alive(pid)), "orphans");
}

#[test]
fn a_killed_launcher_leaves_no_orphans() {
    let folder = folder();
    let (mut child, pids) = long_run(folder.path());
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    wait_for("parties end", Duration::from_secs(10), || pids.iter().all(|&pid| !alive(pid)));
}

/// Three processes for each lane count; what is counted must be what the dry run says, and the chart and the numbers
/// are of one run.
#[test]
fn lanes_are_measured_and_drawn() {
    let folder = folder();
    let arguments =
        ["bench", "scaling", "--gpus", "1,2", "--runs", "2", "--output", "json,svg", "--out", "scaling.svg"];
    let output = launch(folder.path(), &[&arguments[..], &["--set", "train.batch=16"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object on standard output");
    let points = report["points"].as_array().expect("points");
    let number = |point: &Value, key: &str| point[key].as_f64().expect("a number");
    assert_eq!(points.len(), 4);
    for point in points {
        let counted = number(point, "bytes_predicted") / number(point, "bytes_sent_per_party");
        assert!((counted - 1.0).abs() < 0.01 && number(point, "rounds") > 10.0, "{point}");
        assert!(number(point, "seconds_min") > 0.0 && number(point, "seconds_least") > 0.0, "{point}");
    }
    assert_eq!((points[1]["mode"].as_str(), points[1]["batch"].as_u64()), (Some("weak"), Some(32)));
    let chart = fs::read_to_string(folder.path().join("scaling.svg")).expect("the chart is there");
    assert!(chart.contains("<title") && chart.trim_end().ends_with("</svg>"));
    assert_eq!(fs::read_dir(folder.path()).expect("the folder exists").count(), 1, "nothing else is left");
}
