//! A model from a file on rows of a user, with three real party processes; and everything that is refused beforehand.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use model_files::npy::{self, Array, Values};
use serde_json::Value;
use tempfile::TempDir;

mod onnx;

use onnx::{Linear, network};

fn launch(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mpc-launch"));
    command.current_dir(folder).args(arguments).output().expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const HIDDEN: [f32; 12] = [1.0, -0.5, 0.25, 0.5, 2.0, -1.5, -1.0, 0.75, 0.125, 0.1, -0.2, 0.3];
const LAST: [f32; 8] = [1.5, -2.0, 0.5, 1.0, -0.75, 0.25, 0.05, -0.15];

/// A folder with a network of 3 inputs, 3 hidden units and 2 scores.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let layers = [Linear { inputs: 3, outputs: 3, weights: &HIDDEN }, Linear { inputs: 3, outputs: 2, weights: &LAST }];
    fs::write(folder.path().join("m.onnx"), network(&layers)).expect("the folder can be written");
    folder
}

fn rows(count: usize) -> Vec<f64> {
    (0..3 * count).map(|i| 2.0 * (i as f64 * 0.37).sin()).collect()
}

/// The network in float64.
fn scores(rows: &[f64]) -> Vec<f64> {
    let linear = |x: &[f64], weights: &[f32], outputs: usize| -> Vec<f64> {
        let (weights, biases) = weights.split_at(x.len() * outputs);
        let sum = |out: usize| -> f64 {
            x.iter().enumerate().map(|(i, x)| x * f64::from(weights[i * outputs + out])).sum::<f64>()
        };
        (0..outputs).map(|out| sum(out) + f64::from(biases[out])).collect()
    };
    let score = |row: &[f64]| {
        let hidden: Vec<f64> = linear(row, &HIDDEN, 3).into_iter().map(|value| value.max(0.0)).collect();
        linear(&hidden, &LAST, 2)
    };
    rows.chunks(3).flat_map(score).collect()
}

fn largest_difference(one: &[f64], two: &[f64]) -> f64 {
    assert_eq!(one.len(), two.len());
    one.iter().zip(two).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

#[test]
fn predictions_are_those_of_float64_and_come_to_the_owner_alone() {
    let folder = folder();
    #[allow(clippy::cast_possible_truncation, reason = "rows in single precision")]
    let values = rows(40).into_iter().map(|x| x as f32).collect();
    npy::write(&folder.path().join("x.npy"), &Array { dims: vec![40, 3], values: Values::F32(values) })
        .expect("the folder can be written");
    let base = ["infer", "--model", "m.onnx", "--data", "x.npy", "--out", "y.npy", "--output", "json"];
    for more in [&["--name", "secret", "--gpus", "2"][..], &["--name", "public", "--public-model"]] {
        let output = launch(folder.path(), &[&base, more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object on standard output");
        let array = npy::read(&folder.path().join("y.npy")).expect("results");
        assert_eq!(array.dims, [40, 2]);
        assert!(matches!(array.values, Values::F32(_)), "as the rows came");
        let difference = largest_difference(&array.to_f64(), &scores(&rows(40)));
        assert!(difference < 1e-3, "off by {difference}");
        assert_eq!(report["opened"], serde_json::json!(["predictions"]));
        assert_eq!((report["rows"].as_u64(), report["public_model"].as_bool()), (Some(40), Some(more[1] == "public")));
        for key in ["seconds", "rows_per_second", "bytes_per_party", "rounds", "share_seconds", "startup_seconds"] {
            assert!(report[key].as_f64().expect(key) > 0.0, "{key}: {report}");
        }
        let difference = report["max_difference"].as_f64().expect("the launcher has model and rows");
        assert!(difference < 1e-3, "{report}");
    }
    // Nothing but the owner's file holds a result: no party sealed anything.
    for party in ["p0", "p1", "p2"] {
        assert_eq!(fs::read_dir(folder.path().join("runs/secret").join(party)).expect("a folder").count(), 0);
    }
    assert!(!folder.path().join("y.npy.unfinished").exists());
}

#[test]
fn tables_go_in_and_out() {
    let folder = folder();
    let lines: String = rows(7).chunks(3).map(|row| format!("{},{},{}\n", row[0], row[1], row[2])).collect();
    fs::write(folder.path().join("x.csv"), format!("a,b,c\n{lines}")).expect("the folder can be written");
    let output = launch(folder.path(), &["infer", "--model", "m.onnx", "--data", "x.csv", "--out", "y.csv"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = fs::read_to_string(folder.path().join("y.csv")).expect("results");
    let found: Vec<f64> =
        text.lines().skip(1).flat_map(|line| line.split(',')).map(|cell| cell.parse().expect("a number")).collect();
    assert!(largest_difference(&found, &scores(&rows(7))) < 1e-3, "{text}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("to the owner of the data alone") && said.contains("rows per second"), "{said}");
}

#[test]
fn training_goes_on_from_a_file() {
    let folder = folder();
    let rows: String = rows(150)
        .chunks(3)
        .map(|row| format!("{},{},{},{}\n", row[0], row[1], row[2], if row[0] > row[2] { "up" } else { "down" }))
        .collect();
    fs::write(folder.path().join("t.csv"), format!("a,b,c,way\n{rows}")).expect("the folder can be written");
    // Knows the answer; what a step of this rate learns, no weight of a seed would make up for.
    let weights = [-4.0, 4.0, 0.0, 0.0, 4.0, -4.0, 0.0, 0.0];
    let model = network(&[Linear { inputs: 3, outputs: 2, weights: &weights }]);
    fs::write(folder.path().join("way.onnx"), model).expect("the folder can be written");
    let train = ["train", "--model", "way.onnx", "--loss", "cross-entropy", "--data", "t.csv", "--label", "way"];
    let briefly = ["--set", "train.epochs=1", "--set", "train.lr=0.001", "--gpus", "2", "--output", "json"];
    let output = launch(folder.path(), &[&train[..], &briefly].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((report["task"].as_str(), report["parameters"].as_u64()), (Some("multiclass"), Some(8)));
    let (mpc, plain) = (report["accuracy"].as_f64().expect("opened"), report["plaintext_accuracy"].as_f64());
    assert!(mpc > 0.9 && (mpc - plain.expect("the twin begins with the file too")).abs() < 0.04, "{report}");
}

#[test]
fn a_trained_model_leaves_only_under_a_policy_that_names_weights() {
    let folder = folder();
    let table: String =
        rows(60).chunks(3).map(|row| format!("{},{},{},{}\n", row[0], row[1], row[2], row[0])).collect();
    fs::write(folder.path().join("t.csv"), format!("a,b,c,d\n{table}")).expect("the folder can be written");
    let model = network(&[Linear { inputs: 3, outputs: 1, weights: &[0.25, -0.5, 1.0, 0.125] }]);
    fs::write(folder.path().join("line.onnx"), model).expect("the folder can be written");
    let train = ["train", "--model", "line.onnx", "--loss", "mse", "--data", "t.csv", "--label", "d", "--set"];
    let briefly = ["train.epochs=1", "--set", "train.lr=0.001", "--set", "train.batch=64"];
    let base = [&train[..], &briefly].concat();

    let error = launch(folder.path(), &[&base[..], &["--export", "out.onnx"]].concat());
    assert_eq!(error.status.code(), Some(5), "{}", stderr(&error));
    assert!(stderr(&error).contains("reveal.open does not name weights"), "{}", stderr(&error));
    assert!(!folder.path().join("out.onnx").exists() && !folder.path().join("runs").exists());

    for file in ["out.onnx", "out.safetensors"] {
        let open = ["--set", "reveal.open=[\"weights\"]", "--export", file];
        let output = launch(folder.path(), &[&base[..], &open].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(fs::metadata(folder.path().join(file)).expect("the model").len() > 100);
    }
    // One step of this rate changes little: the model is what it was, on its way through shares.
    npy::write(&folder.path().join("x.npy"), &Array::f64(&[20, 3], rows(20))).expect("the folder can be written");
    let output = launch(folder.path(), &["infer", "--model", "out.onnx", "--data", "x.npy", "--out", "y.npy"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let found = npy::read(&folder.path().join("y.npy")).expect("results").to_f64();
    let expected: Vec<f64> = rows(20).chunks(3).map(|row| 0.25 * row[0] - 0.5 * row[1] + row[2] + 0.125).collect();
    assert!(largest_difference(&found, &expected) < 0.03, "{found:?} {expected:?}");
}

/// The error of a refused run with this exit code, which must leave nothing behind.
fn refused(code: i32, csv: &str, arguments: &[&str]) -> String {
    let folder = folder();
    fs::write(folder.path().join("x.csv"), csv).expect("the folder can be written");
    let output = launch(folder.path(), arguments);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert_eq!(fs::read_dir(folder.path()).expect("the folder exists").count(), 2, "{arguments:?} left something");
    error
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is_shared() {
    let infer = |more: &[&'static str]| -> Vec<&'static str> { [&["infer", "--model", "m.onnx"], more].concat() };
    let whole = infer(&["--data", "x.csv", "--out", "y.npy"]);
    let with = |more: &[&'static str]| [whole.as_slice(), more].concat();
    let good = "1,2,3\n";
    let cases: [(i32, &str, Vec<&str>, &str); 13] = [
        (2, good, vec!["infer", "--data", "x.csv", "--out", "y.npy"], "infer needs a model: give --model FILE"),
        (2, good, infer(&["--out", "y.npy"]), "infer needs rows: give --data FILE"),
        (2, good, infer(&["--data", "x.csv"]), "infer needs a place for its results: give --out FILE"),
        (2, good, infer(&["--data", "none.npy", "--out", "y.npy"]), "none.npy"),
        (2, good, infer(&["--data", "x.csv", "--out", "no/y.npy"]), "cannot write no/y.npy: No such file"),
        (2, good, infer(&["--data", "x.csv", "--out", "y.txt"]), "its name must end in .npy or .csv"),
        (2, good, vec!["infer", "--model", "none.onnx", "--data", "x.csv", "--out", "y.npy"], "none.onnx"),
        (2, good, vec!["infer", "--model", "x.csv", "--data", "x.csv", "--out", "y.npy"], "read from .onnx files"),
        (2, "1,2\n", whole.clone(), "x.csv: 2 columns where the model takes [N, 3]"),
        (2, "1,2,nan\n", whole.clone(), "x.csv, line 1, column \"column 3\": the value is missing"),
        (2, "1,2,1e9\n", whole.clone(), "x.csv, line 1, column \"column 3\": the value's magnitude is too large"),
        (2, good, with(&["--gpus", "4"]), "4 lanes for 1 rows"),
        (5, good, with(&["--set", "reveal.open=[]"]), "reveal.open does not name predictions"),
    ];
    for (code, csv, arguments, message) in cases {
        let error = refused(code, csv, &arguments);
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
    let error = refused(2, good, &with(&["--set", "reveal.open=[\"test-accuracy\"]"]));
    assert!(error.contains("reveal.open names test-accuracy, which this task (inference) does not have"), "{error}");
}

#[test]
fn a_model_that_does_not_fit_the_records_is_refused() {
    let table: String = (0..40).map(|i| format!("{},{},{},{}\n", i % 7, i % 5, i % 3, i % 2)).collect();
    let base = ["train", "--model", "m.onnx", "--data", "x.csv", "--label", "4"];
    let with = |more: &[&'static str]| [base.as_slice(), more].concat();
    let error = refused(2, &table, &base);
    assert!(error.contains("m.onnx: it gives 2 scores per sample where the target column of two classes"), "{error}");
    let error = refused(2, &table, &with(&["--task", "binary", "--loss", "mse"]));
    assert!(error.contains("model.loss = \"mse\" is not for a binary task"), "{error}");
    let wide: String = (0..40).map(|i| format!("{},{},{}\n", i % 7, i % 5, i % 2)).collect();
    let arguments = ["train", "--model", "m.onnx", "--data", "x.csv", "--label", "3", "--loss", "cross-entropy"];
    let error = refused(2, &wide, &arguments);
    assert!(error.contains("m.onnx: it takes 3 features (3), the records have 2"), "{error}");
}
