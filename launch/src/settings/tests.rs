//! Layers, origins, and what is refused.

use proptest::prelude::*;
use shared::model::Schedule;

use super::*;
use crate::args::TrainingArgs;

fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    pairs.into_iter()
}

fn set(assignments: &[&str]) -> JobArgs {
    JobArgs { set: assignments.iter().map(|&text| text.to_owned()).collect(), ..JobArgs::default() }
}

fn refused(args: &JobArgs, variables: &[(&str, &str)]) -> String {
    load(args, env(variables)).unwrap_err().to_string()
}

#[test]
fn nothing_given_means_defaults() {
    let settings = load(&JobArgs::default(), env(&[("HOME", "/"), ("MPC_PARTY", "1")])).unwrap();
    assert_eq!(settings.job, JobFile::default());
    assert!(settings.describe().contains("train.lr"), "{}", settings.describe());
}

#[test]
fn later_layers_win_and_origins_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.toml");
    std::fs::write(&path, "[train]\nlr = 0.25\nbatch = 32\nmomentum = 0.9\n").unwrap();
    let args = TrainingArgs {
        job: JobArgs { config: Some(path), ..set(&["train.batch=16"]) },
        seed: Some(9),
        ..TrainingArgs::default()
    };
    let settings = load(&args, env(&[("MPC_TRAIN_BATCH", "8"), ("MPC_TRAIN_MOMENTUM", "0.5")])).unwrap();
    let train = &settings.job.train;
    assert_eq!((train.lr, train.batch, train.momentum, train.seed), (0.25, 16, 0.5, 9));
    let text = settings.describe();
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("train.batch").ends_with("# flag --set"), "{text}");
    assert!(line("train.momentum").ends_with("# environment MPC_TRAIN_MOMENTUM"), "{text}");
    assert!(line("train.lr").contains("# file ") && line("train.lr").ends_with("job.toml"), "{text}");
    assert!(line("train.epochs").ends_with("# default") && line("data.seed").ends_with("# flag --seed"), "{text}");
}

#[test]
fn values_of_every_kind_can_be_set() {
    let args = set(&[
        "model.kind=mlp",
        "model.hidden=[32, 16]",
        "train.schedule={step = {every = 3, factor = 0.5}}",
        "reveal.open=[\"test-accuracy\"]",
        "data.label=3",
        "train.clip=1",
        "protocol.fraction_bits=18",
    ]);
    let job = load(&args, env(&[])).unwrap().job;
    assert_eq!(job.model.hidden, [32, 16]);
    assert_eq!(job.train.schedule, Schedule::Step { every: 3, factor: 0.5 });
    assert_eq!((job.data.label.as_deref(), job.train.clip), (Some("3"), Some(1.0)));
    assert_eq!(job.protocol.fraction_bits.bits(), 18);
    assert_eq!(load(&set(&["train.schedule=cosine"]), env(&[])).unwrap().job.train.schedule, Schedule::Cosine);
}

#[test]
fn unknown_keys_name_the_nearest() {
    let text = refused(&set(&["train.epoch=3"]), &[]);
    assert_eq!(text, "unknown key \"train.epoch\" (flag --set); did you mean \"train.epochs\"?");
    let text = refused(&JobArgs::default(), &[("MPC_TRIAN_LR", "1")]);
    assert_eq!(text, "unknown key \"trian.lr\" (environment MPC_TRIAN_LR); did you mean \"train.lr\"?");
    assert!(refused(&set(&["zzz.qqq=1"]), &[]).contains("the sections are"));
    assert!(refused(&set(&["train.lr"]), &[]).contains("KEY=VALUE"));
}

#[test]
fn unknown_keys_and_wrong_types_in_a_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.toml");
    let with = |text: &str| {
        std::fs::write(&path, text).unwrap();
        refused(&JobArgs { config: Some(path.clone()), ..JobArgs::default() }, &[])
    };
    let text = with("[train]\nlearning_rate = 1.0\n");
    assert!(text.contains("unknown key \"train.learning_rate\"") && text.contains("job.toml"), "{text}");
    assert!(with("[train]\nlr = \"fast\"\n").contains("train.lr"), "{}", with("[train]\nlr = \"fast\"\n"));
    assert!(with("[train\n").contains("job.toml"));
    assert!(
        with("[protocol]\nfraction_bits = 40\n").contains("8 to 20"),
        "{}",
        with("[protocol]\nfraction_bits = 40\n")
    );
    let missing = JobArgs { config: Some("/no/such.toml".into()), ..JobArgs::default() };
    assert!(refused(&missing, &[]).contains("/no/such.toml"));
}

#[test]
fn values_are_not_bent_into_another_type() {
    let cases = [
        ("train.batch=2.5", "train.batch = 2.5 (flag --set): invalid type: floating point `2.5`, expected usize"),
        ("train.batch=true", "train.batch = true (flag --set): invalid type: boolean"),
        ("train.batch=-1", "train.batch = -1 (flag --set): "),
        ("train.batch=many", "train.batch = \"many\" (flag --set): invalid type: string"),
        ("train.nesterov=3", "train.nesterov = 3 (flag --set): "),
        ("job.lanes=70000", "job.lanes = 70000 (flag --set): "),
        (
            "model.kind=cnn",
            "model.kind = \"cnn\" (flag --set): unknown variant `cnn`, expected one of `logreg`, `mlp`, ",
        ),
        ("train.schedule={step = {every = 3}}", "train.schedule = "),
        ("protocol.fraction_bits=7", "protocol.fraction_bits = 7 (flag --set): 7 fraction bits: 8 to 20 are supported"),
    ];
    for (assignment, message) in cases {
        let text = refused(&set(&[assignment]), &[]);
        assert!(text.starts_with(message), "{text}");
    }
    assert_eq!(load(&set(&["train.lr=1"]), env(&[])).unwrap().job.train.lr, 1.0);
}

#[test]
fn values_out_of_range_name_key_value_range_and_origin() {
    let text = refused(&JobArgs { gpus: Some(0), ..JobArgs::default() }, &[]);
    assert_eq!(text, "job.lanes = 0 is out of range: 1 to 64 lanes (GPUs) per party (flag --gpus)");
    let text = refused(&JobArgs { parties: Some(4), ..JobArgs::default() }, &[]);
    assert!(text.contains("3 is supported; 2 (with a dealer) and 4 or more are planned"), "{text}");
    assert!(refused(&JobArgs::default(), &[("MPC_TRAIN_LR", "-1")]).contains("train.lr = -1"));
}

#[test]
fn the_sample_job_file_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/job.toml").into();
    let job = load(&JobArgs { config: Some(path), ..JobArgs::default() }, env(&[])).unwrap().job;
    assert_eq!(job, JobFile::default(), "the sample shows the defaults");
}

/// Loads a job file of this text; the body of the fuzz target `job_file`.
fn from_file(text: &[u8]) -> Result<Settings, SettingsError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    load(&JobArgs { config: Some(file.path().to_owned()), ..JobArgs::default() }, env(&[]))
}

proptest! {
    #[test]
    fn any_bytes_give_settings_in_range_or_an_error(bytes: Vec<u8>) {
        if let Ok(settings) = from_file(&bytes) {
            prop_assert_eq!(settings.job.check(), Ok(()));
        }
    }

    #[test]
    fn a_damaged_line_gives_settings_in_range_or_an_error(line in 0_usize..48, damage in "[]\\[{}=\"a-z0-9.e-]{0,12}", at in 0_usize..20) {
        let mut lines: Vec<String> = include_str!("../../../examples/job.toml").lines().map(str::to_owned).collect();
        let line = line % lines.len();
        let at = at.min(lines[line].len());
        lines[line].replace_range(at.., &damage);
        if let Ok(settings) = from_file(lines.join("\n").as_bytes()) {
            prop_assert_eq!(settings.job.check(), Ok(()));
        }
    }
}
