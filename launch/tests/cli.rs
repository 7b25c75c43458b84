//! The program as a user meets it: help, completions, configuration, and what it says about bad input. Every refused
//! input must leave nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs `mpc-launch` in an empty folder.
fn launch(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mpc-launch"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MPC_") || name == "COLUMNS") {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments).output().expect("the program starts")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The error of a refused run, which must exit with 2 and leave the folder as it was.
fn refused(arguments: &[&str], csv: Option<&str>) -> String {
    let folder = folder();
    if let Some(csv) = csv {
        std::fs::write(folder.path().join("t.csv"), csv).expect("the folder can be written");
    }
    let output = launch(folder.path(), arguments);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}: errors go to standard error");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder exists").collect();
    assert_eq!(left.len(), usize::from(csv.is_some()), "{arguments:?} left something behind: {left:?}");
    error
}

fn refused_csv(csv: &str) -> String {
    refused(&["--data", "t.csv", "--label", "y"], Some(csv))
}

#[test]
fn help_is_as_recorded() {
    let snapshot = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/help.txt");
    let mut text = String::new();
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["infer", "--help"],
        &["plan", "--help"],
        &["bench", "--help"],
        &["bench", "scaling", "--help"],
    ] {
        let output = launch(folder().path(), arguments);
        assert!(output.status.success());
        text += &format!("$ mpc-launch {}\n{}\n", arguments.join(" "), stdout(&output));
    }
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&snapshot, &text).expect("the snapshot can be written");
    }
    let recorded = std::fs::read_to_string(&snapshot).expect("the snapshot is in the repository");
    assert!(recorded == text, "the help changed; UPDATE_SNAPSHOTS=1 records it:\n{text}");
}

#[test]
fn completions_name_verbs_and_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let text = stdout(&launch(folder().path(), &["completions", shell]));
        for word in ["mpc-launch", "bench", "test-fraction", "print-config"] {
            assert!(text.contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn the_version_names_the_protocol() {
    let text = stdout(&launch(folder().path(), &["version"]));
    assert!(text.contains("mpc-launch 0.") && text.contains("protocol trefoil-0."), "{text}");
}

#[test]
fn print_config_shows_origins_and_runs_nothing() {
    let folder = folder();
    std::fs::write(folder.path().join("job.toml"), "[train]\nbatch = 32\n").expect("the folder can be written");
    let output =
        launch(folder.path(), &["--config", "job.toml", "--gpus", "2", "--set", "train.lr=0.1", "--print-config"]);
    let text = stdout(&output);
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(line("train.lr ").contains("0.1") && line("train.lr ").ends_with("# flag --set"), "{text}");
    assert!(line("train.batch").ends_with("# file job.toml"), "{text}");
    assert!(line("job.lanes").ends_with("# flag --gpus"), "{text}");
    assert!(line("train.epochs").ends_with("# default"), "{text}");
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn a_plan_shows_cost_and_openings_and_runs_nothing() {
    let folder = folder();
    let text = stdout(&launch(folder.path(), &["plan", "--set", "model.kind=mlp"]));
    for part in ["linear-1 -> 64", "predicted time per step", "will be opened", "test-accuracy, test-auroc"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = launch(folder.path(), &["plan", "--output", "json"]);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let documented = include_str!("../../docs/formats.md");
    let section = documented.split("## Plan").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("documented");
    // Every name in backquotes of a row's first cell.
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let mut expected: Vec<&str> =
        cells.flat_map(|cell| cell.split('`').step_by(2)).filter(|key| !key.is_empty()).collect();
    let mut found: Vec<&str> = plan.as_object().expect("an object").keys().map(String::as_str).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder exists").count(), 0);
}

#[test]
fn an_inference_is_planned_block_by_block() {
    let folder = folder();
    let plan = |more: &[&str]| -> serde_json::Value {
        let arguments = [&["plan", "--infer", "--workload", "w3", "--output", "json"], more].concat();
        serde_json::from_slice(&launch(folder.path(), &arguments).stdout).expect("one JSON object")
    };
    let number = |plan: &serde_json::Value, key: &str| plan[key].as_f64().expect("a number");
    let near = plan(&[]);
    assert_eq!((number(&near, "steps"), number(&near, "batch")), (10.0, 128.0));
    assert!(near["train_seconds"].is_null() && near["public_model"] == false && near["reveal"][0] == "predictions");
    let sum = number(&near, "seconds_once") + 10.0 * number(&near, "seconds_per_step");
    assert!((number(&near, "infer_seconds") - sum).abs() < 1e-9, "{near}");
    let far = plan(&["--rtt-ms", "40", "--bandwidth-mbit", "100", "--public-model"]);
    assert!(number(&far, "seconds_per_step") > 2.0 * number(&near, "seconds_per_step") && far["public_model"] == true);
    let text = stdout(&launch(folder.path(), &["plan", "--infer", "--workload", "resnet18"]));
    for part in ["before the first row", "linear-1", "predicted inference time", "predictions, to their owner alone"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder exists").count(), 0);
}

#[test]
fn every_kernel_of_a_lane_has_a_line_with_its_floor() {
    let folder = folder();
    let output = launch(folder.path(), &["bench", "micro", "--runs", "1", "--output", "json"]);
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("a JSON object per line")).collect();
    for kernel in ["gemm", "gemm_of_sums", "conv", "keystream", "keystream_add", "sign", "bit_planes", "pack", "unpack"]
    {
        assert!(lines.iter().any(|line| line["kernel"] == kernel), "{kernel}: {}", stderr(&output));
    }
    for line in &lines {
        let number = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
        for key in ["achieved", "floor", "ratio", "seconds", "seconds_min", "seconds_max"] {
            assert!(number(key).is_finite() && number(key) > 0.0, "{key}: {line}");
        }
        assert!(line["runs"] == 1 && number("threads") >= 1.0, "{line}");
    }
    let text = stdout(&launch(folder.path(), &["bench", "micro", "--runs", "1", "--only", "pack"]));
    assert_eq!(text.lines().count(), 2, "a head and a line: {text}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder exists").count(), 0);
}

#[test]
fn a_shadow_shows_every_layer_and_leaves_nothing_behind() {
    let folder = folder();
    let job = ["--set", "model.kind=mlp", "--set", "train.epochs=2"];
    let text = stdout(&launch(folder.path(), &[&["run", "--shadow"], &job[..]].concat()));
    for part in ["in plaintext, nothing shared", "linear-1", "relu-1", "linear-2", "16 bits", "test AUROC", "benign"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = launch(folder.path(), &[&["plan", "--shadow", "--output", "json"], &job[..]].concat());
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(plan["shadow"]["layers"].as_array().map(Vec::len), Some(3), "{plan}");
    assert_eq!(plan["shadow"]["excesses"].as_array().map(Vec::len), Some(0), "{plan}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder exists").count(), 0);
}

#[test]
fn bad_usage_is_refused() {
    let cases: [(&[&str], &str); 19] = [
        (&["--gpus", "0"], "job.lanes = 0 is out of range: 1 to 64 lanes"),
        (&["--parties", "2"], "3 is supported; 2 (with a dealer) and 4 or more are planned"),
        (&["--parties", "4"], "3 is supported; 2 (with a dealer) and 4 or more are planned"),
        (&["bench", "w2", "--parties", "2"], "3 is supported"),
        (&["--set", "train.epoch=3"], "did you mean \"train.epochs\"?"),
        (&["--set", "train.lr=-1"], "train.lr = -1"),
        (&["--test-fraction", "1.5"], "data.test_fraction = 1.5 is out of range: above 0 and below 1"),
        (&["--config", "none.toml"], "none.toml"),
        (&["--data", "none.csv", "--label", "y"], "cannot read none.csv"),
        (&["bench", "w4", "--only", "matmul-7"], "the lines of w4 are matmul-512"),
        (&["bench", "w3", "--only", "w3"], "the lines of w3 are w3-train, w3-infer"),
        (&["bench", "micro", "--only", "fft"], "the lines of micro are gemm_of_sums, gemm, conv, keystream"),
        (&["bench", "micro", "--runs", "0"], "at least one run is needed"),
        (&["plan", "--workload", "micro"], "kernels have no plan"),
        (&["plan", "--infer"], "plan --infer needs a model: give --model FILE or set model.file"),
        (&["plan", "--infer", "--model", "m.onnx"], "plan --infer needs rows: give --data FILE or set data.file"),
        (&["plan", "--infer", "--workload", "w4"], "single operations have no plan"),
        (&["plan", "--public-model"], "--infer"),
        (&["--set", "reveal.open=[\"test-loss\"]"], "reveal.open names test-loss"),
    ];
    for (arguments, message) in cases {
        let error = refused(arguments, None);
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
    assert!(refused(&["--gpus", "many"], None).contains("invalid value"));
    assert!(refused(&["bench", "w9"], None).contains("possible values"));
}

#[test]
fn what_cannot_be_scaled_or_predicted_is_refused() {
    let elsewhere = folder();
    let own = elsewhere.path().join("own.toml");
    std::fs::write(&own, "name = 3").expect("the folder can be written");
    let own = own.display().to_string();
    let cases: [(&[&str], &str); 14] = [
        (&["bench"], "required arguments were not provided"),
        (&["bench", "scaling", "--gpus", "0"], "--gpus 0: 0 is out of range: 1 to 64 lanes (GPUs) per party"),
        (&["bench", "scaling", "--gpus", "1,4,2"], "--gpus 1,4,2: the counts must grow, as in 1,2,4"),
        (&["bench", "scaling", "--gpus", "1,1"], "the counts must grow"),
        (&["bench", "scaling", "--gpus", "1,many"], "invalid value 'many'"),
        (&["bench", "scaling", "--workload", "w4"], "possible values: w2, w3"),
        (&["bench", "scaling", "--repeat", "0"], "at least one run is needed"),
        (&["bench", "scaling", "--set", "train.batch=2"], "4 lanes for 2 samples of a batch"),
        (&["bench", "scaling", "--out", "none/a.svg"], "none/a.svg"),
        (&["plan", "--net", "100gbit"], "RATE,ROUND-TRIP[,LOSS] is due, as in 100gbit,0.1ms"),
        (&["plan", "--net", "fast,1ms"], "the rate \"fast\" is no number with a unit (kbit, mbit, gbit)"),
        (&["plan", "--net", "1gbit,5ms", "--rtt-ms", "5"], "cannot be used with"),
        (&["plan", "--device", "b200"], "--device b200: cpu and h200 come with the program"),
        (&["plan", "--calibration", &own], "own.toml"),
    ];
    for (arguments, message) in cases {
        let error = refused(arguments, None);
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
}

#[test]
fn a_plan_for_another_machine_says_what_it_takes_for_granted() {
    let arguments = ["plan", "--workload", "w2", "--gpus", "8", "--device", "h200", "--net", "100gbit,0.1ms"];
    let text = stdout(&launch(folder().path(), &arguments));
    for part in
        ["not measured", "per step, party and lane", "sum among lanes", "a GPU for each lane", "100 Gbit/s, 0.1 ms"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = launch(folder().path(), &[&arguments[..], &["--output", "json"]].concat());
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&plan["device"], &plan["device_measured"], &plan["lanes"]), (&"h200".into(), &false.into(), &8.into()));
    let rows = plan["scaling"].as_array().expect("a row for each lane count");
    let lanes: Vec<u64> = rows.iter().filter_map(|row| row["lanes"].as_u64()).collect();
    assert_eq!(lanes, [1, 2, 4, 8, 16, 32, 64]);
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    for row in rows {
        for way in [&row["weak"], &row["strong"]] {
            let keys = ["seconds_compute", "seconds_transfer", "seconds_rounds", "seconds_allreduce"];
            let sum: f64 = keys.iter().map(|key| number(&way[*key])).sum();
            assert!((sum / number(&way["seconds_per_step"]) - 1.0).abs() < 1e-9, "{way}");
            assert!((number(&way["efficiency"]) * number(&row["lanes"]) / number(&way["speedup"]) - 1.0).abs() < 1e-9);
        }
    }
    // What is planned is one of them.
    let planned = rows.iter().find(|row| row["lanes"] == 8).expect("the planned lanes");
    assert_eq!(planned["strong"]["seconds_per_step"], plan["seconds_per_step"]);
    assert!(plan["assumptions"].as_array().is_some_and(|lines| lines.len() >= 4), "{plan}");
}

#[test]
fn bad_records_are_refused_by_line_and_column() {
    let rows = |special: &str| {
        let rows: String = (0..20).map(|i| format!("{i}.5,{}\n", i % 2)).collect();
        format!("a,y\n{rows}{special}\n")
    };
    let cases = [
        (rows("1,2,3"), "t.csv, line 22: 3 cells where the first row has 2"),
        (rows("high,1"), "t.csv, line 22, column \"a\": \"high\" is not a number"),
        (rows("inf,1"), "t.csv, line 22, column \"a\": \"inf\" is not a finite number"),
        (rows("1,"), "t.csv, line 22: the target column \"y\" is empty"),
        (String::new(), "t.csv holds no records"),
        ("a,y\n1,0\n2,0\n3,0\n4,0\n".into(), "every row is \"0\"; training needs at least two classes"),
        ("a,b\n1,0\n2,1\n".into(), "t.csv has no column \"y\"; the columns are: a, b"),
    ];
    for (csv, message) in cases {
        let error = refused_csv(&csv);
        assert!(error.contains(message), "{error}");
    }
    let unnamed = refused(&["--data", "t.csv"], Some("a,y\n1,0\n2,1\n"));
    assert!(unnamed.contains("name the target column with --label"), "{unnamed}");
    let strict = ["--data", "t.csv", "--label", "y", "--set", "data.missing=refuse"];
    let error = refused(&strict, Some(&rows("NaN,1")));
    assert!(error.contains("t.csv, line 22, column \"a\": the value is missing"), "{error}");
    let lanes = refused(&["--data", "t.csv", "--label", "y", "--gpus", "40"], Some(&rows("1,1")));
    assert!(lanes.contains("40 lanes for 16 training rows"), "{lanes}");
}

#[test]
fn a_value_too_large_for_fixed_point_is_refused() {
    // With every seed of the split one of these two rows or none is a test row.
    let rows: String = (0..20).map(|i| format!("0.{i},{}\n", i % 2)).collect();
    let csv = format!("a,y\n{rows}1e9,0\n1e9,1\n");
    let seed = |seed: u64| {
        let folder = folder();
        std::fs::write(folder.path().join("t.csv"), &csv).expect("the folder can be written");
        let seed = seed.to_string();
        let output = launch(folder.path(), &["plan", "--data", "t.csv", "--label", "y", "--seed", &seed]);
        (output.status.code(), stderr(&output))
    };
    let found = (0..60).map(seed).find(|(code, _)| *code == Some(2)).expect("some split tests on both rows");
    assert!(
        found.1.contains("column \"a\": even after standardisation the value's magnitude is too large"),
        "{}",
        found.1
    );
}

#[test]
fn a_run_folder_that_cannot_be_written_is_named() {
    let folder = folder();
    std::fs::write(folder.path().join("runs"), "").expect("the folder can be written");
    let output = launch(folder.path(), &[]);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("run folder runs") && error.contains("job.folder"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder exists").count(), 1);
}
