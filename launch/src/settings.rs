//! Layers of configuration: default < job file < `MPC_*` environment < flags and `--set`. Every value keeps its origin.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use shared::config::{JobFile, OutOfRange};

use crate::args::RunArgs;

/// Environment of a party, not configuration.
const RESERVED: [&str; 3] = ["MPC_PARTY", "MPC_EPOCH", "MPC_RANK"];

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// No such key.
    #[error("unknown key {key:?} ({origin}); {advice}")]
    UnknownKey { key: String, origin: String, advice: String },
    /// `--set` without `=`.
    #[error("--set {0}: expected KEY=VALUE, such as train.lr=0.1")]
    NotAnAssignment(String),
    /// Outside its range.
    #[error("{source} ({origin})")]
    OutOfRange { source: OutOfRange, origin: String },
    /// Not readable, not TOML, or of the wrong type.
    #[error("{0}")]
    Unusable(#[from] ConfigError),
}

/// A job file with all layers applied, and where each value came from.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The values.
    pub(crate) job: JobFile,
    /// Value as text and origin, by dotted key.
    origins: BTreeMap<String, (String, String)>,
}

/// Reads all layers and checks keys and ranges.
pub(crate) fn load(
    args: &RunArgs,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    let mut layers = Config::builder().add_source(Base(Box::default()));
    if let Some(path) = args.job_file() {
        layers = layers.add_source(File::from(path.as_path()).format(FileFormat::Toml).required(true));
    }
    layers = layers.add_source(from_environment(environment)?);
    layers = layers.add_source(from_flags(args)?);
    finish(layers.build()?)
}

/// A job with some values changed, `key=value` each.
pub(crate) fn overlay(job: &JobFile, set: &[String]) -> Result<JobFile, SettingsError> {
    let args = RunArgs { set: set.to_vec(), ..RunArgs::default() };
    let layers = Config::builder().add_source(Base(Box::new(job.clone()))).add_source(from_flags(&args)?);
    Ok(finish(layers.build()?)?.job)
}

fn finish(config: Config) -> Result<Settings, SettingsError> {
    let mut origins = BTreeMap::new();
    for (section, value) in config.collect()? {
        flatten(&section, &value, &mut origins);
    }
    for (key, (_, origin)) in &origins {
        if !is_known(key) {
            let (key, origin) = (key.clone(), origin.clone());
            return Err(SettingsError::UnknownKey { advice: advice(&key), key, origin });
        }
    }
    let job: JobFile = config.try_deserialize()?;
    job.check().map_err(|source| {
        let origin = origins.get(source.key).map_or("default".into(), |(_, origin)| origin.clone());
        SettingsError::OutOfRange { source, origin }
    })?;
    Ok(Settings { job, origins })
}

impl Settings {
    /// One line per key: value, then origin.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        let width = JobFile::KEYS.iter().map(|key| key.len()).max().unwrap_or(0);
        for key in JobFile::KEYS {
            let Some((value, origin)) = self.origins.get(*key) else { continue };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{key:width$} = {value:24} # {origin}");
        }
        text
    }
}

/// Lowest layer: a whole job.
#[derive(Clone, Debug)]
struct Base(Box<JobFile>);

impl Source for Base {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let value = toml::Value::try_from(&*self.0).map_err(|error| ConfigError::Foreign(Box::new(error)))?;
        match convert("default", value).kind {
            ValueKind::Table(table) => Ok(table),
            _ => Ok(Map::new()),
        }
    }
}

/// Layer of single values with an origin each.
#[derive(Clone, Debug, Default)]
struct Values(Vec<(String, Value)>);

impl Source for Values {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.iter().cloned().collect())
    }
}

/// `MPC_TRAIN_LR` and `MPC_TRAIN__LR` are both `train.lr`: the first word is the section, the rest the key.
fn from_environment(environment: impl Iterator<Item = (String, String)>) -> Result<Values, SettingsError> {
    let mut values = Values::default();
    for (name, text) in environment {
        let Some(rest) = name.strip_prefix("MPC_").filter(|_| !RESERVED.contains(&name.as_str())) else { continue };
        let lower = rest.to_lowercase();
        let key = match lower.split_once('_') {
            Some((section, key)) => format!("{section}.{}", key.trim_start_matches('_').replace("__", ".")),
            None => lower,
        };
        let origin = format!("environment {name}");
        if !is_known(&key) {
            return Err(SettingsError::UnknownKey { advice: advice(&key), key, origin });
        }
        let value = interpret(&key, &text);
        values.0.push((key, convert(&origin, value)));
    }
    Ok(values)
}

fn from_flags(args: &RunArgs) -> Result<Values, SettingsError> {
    let flags = args
        .overrides()
        .into_iter()
        .map(|(flag, key, value)| (key.to_owned(), convert(&format!("flag {flag}"), value)));
    let mut values = Values(flags.collect());
    for assignment in &args.set {
        let (key, text) =
            assignment.split_once('=').ok_or_else(|| SettingsError::NotAnAssignment(assignment.clone()))?;
        let (key, origin) = (key.trim().to_owned(), "flag --set".to_owned());
        if !is_known(&key) {
            return Err(SettingsError::UnknownKey { advice: advice(&key), key, origin });
        }
        let value = interpret(&key, text.trim());
        values.0.push((key, convert(&origin, value)));
    }
    Ok(values)
}

/// Text of a flag or variable as TOML; what is no TOML, or belongs to a text key, is a string.
fn interpret(key: &str, text: &str) -> toml::Value {
    const TEXTS: [&str; 5] = ["job.name", "job.folder", "data.file", "data.label", "data.positive"];
    let parsed = || toml::from_str::<toml::Table>(&format!("value = {text}")).ok()?.remove("value");
    let text_key = TEXTS.contains(&key);
    parsed().filter(|value| !text_key || value.is_str()).unwrap_or_else(|| text.into())
}

fn convert(origin: &str, value: toml::Value) -> Value {
    let kind = match value {
        toml::Value::String(text) => ValueKind::String(text),
        toml::Value::Integer(number) => ValueKind::I64(number),
        toml::Value::Float(number) => ValueKind::Float(number),
        toml::Value::Boolean(flag) => ValueKind::Boolean(flag),
        toml::Value::Datetime(time) => ValueKind::String(time.to_string()),
        toml::Value::Array(items) => ValueKind::Array(items.into_iter().map(|item| convert(origin, item)).collect()),
        toml::Value::Table(table) => {
            ValueKind::Table(table.into_iter().map(|(key, value)| (key, convert(origin, value))).collect())
        }
    };
    Value::new(Some(&origin.to_owned()), kind)
}

fn flatten(key: &str, value: &Value, out: &mut BTreeMap<String, (String, String)>) {
    match &value.kind {
        ValueKind::Table(table) => {
            for (name, value) in table {
                flatten(&format!("{key}.{name}"), value, out);
            }
        }
        kind => {
            let origin = match value.origin() {
                None => "default".to_owned(),
                Some(origin) if ["default", "flag ", "environment "].iter().any(|own| origin.starts_with(own)) => {
                    origin.into()
                }
                Some(path) => format!("file {path}"),
            };
            out.insert(key.to_owned(), (render(kind), origin));
        }
    }
}

fn render(kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(items) => {
            format!("[{}]", items.iter().map(|item| render(&item.kind)).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn is_known(key: &str) -> bool {
    JobFile::KEYS.contains(&key)
}

/// The nearest known key, or the sections.
fn advice(key: &str) -> String {
    let nearest = JobFile::KEYS.iter().min_by_key(|known| distance(key, known)).expect("there are keys");
    let near = distance(key, nearest) <= 2 + nearest.len() / 4;
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    let same_name = JobFile::KEYS.iter().find(|known| last(known) == last(key));
    match same_name.or(near.then_some(nearest)) {
        Some(known) => format!("did you mean {known:?}?"),
        None => "the sections are job, model, train, protocol, data and reveal; see examples/job.toml".into(),
    }
}

/// Edits between two texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use shared::model::Schedule;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        pairs.into_iter()
    }

    fn set(assignments: &[&str]) -> RunArgs {
        RunArgs { set: assignments.iter().map(|&text| text.to_owned()).collect(), ..RunArgs::default() }
    }

    fn refused(args: &RunArgs, variables: &[(&str, &str)]) -> String {
        load(args, env(variables)).unwrap_err().to_string()
    }

    #[test]
    fn nothing_given_means_defaults() {
        let settings = load(&RunArgs::default(), env(&[("HOME", "/"), ("MPC_PARTY", "1")])).unwrap();
        assert_eq!(settings.job, JobFile::default());
        assert!(settings.describe().contains("train.lr"), "{}", settings.describe());
    }

    #[test]
    fn later_layers_win_and_origins_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.toml");
        std::fs::write(&path, "[train]\nlr = 0.25\nbatch = 32\nmomentum = 0.9\n").unwrap();
        let args = RunArgs { config: Some(path), seed: Some(9), ..set(&["train.batch=16"]) };
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
        let text = refused(&RunArgs::default(), &[("MPC_TRIAN_LR", "1")]);
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
            refused(&RunArgs { config: Some(path.clone()), ..RunArgs::default() }, &[])
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
        let missing = RunArgs { config: Some("/no/such.toml".into()), ..RunArgs::default() };
        assert!(refused(&missing, &[]).contains("/no/such.toml"));
    }

    #[test]
    fn values_out_of_range_name_key_value_range_and_origin() {
        let text = refused(&RunArgs { gpus: Some(0), ..RunArgs::default() }, &[]);
        assert_eq!(text, "job.lanes = 0 is out of range: 1 to 64 lanes (GPUs) per party (flag --gpus)");
        let text = refused(&RunArgs { parties: Some(4), ..RunArgs::default() }, &[]);
        assert!(text.contains("3 is supported; 2 (with a dealer) and 4 or more are planned"), "{text}");
        assert!(refused(&RunArgs::default(), &[("MPC_TRAIN_LR", "-1")]).contains("train.lr = -1"));
    }

    #[test]
    fn the_sample_job_file_is_valid() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/job.toml").into();
        let job = load(&RunArgs { config: Some(path), ..RunArgs::default() }, env(&[])).unwrap().job;
        assert_eq!(job, JobFile::default(), "the sample shows the defaults");
    }
}
