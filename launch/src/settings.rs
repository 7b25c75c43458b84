//! Layers of configuration: default < job file < `MPC_*` environment < flags and `--set`. Every value keeps its origin.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use shared::config::{JobFile, OutOfRange};

use crate::args::{JobArgs, Overrides};

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
    /// Of the wrong type, or not one of the names.
    #[error("{key} = {value} ({origin}): {reason}")]
    WrongType { key: String, value: String, origin: String, reason: String },
    /// Not readable, or not TOML.
    #[error("{0}")]
    Unusable(#[from] ConfigError),
}

/// Value as text and origin, by dotted key.
type Origins = BTreeMap<String, (String, String)>;

/// A job file with all layers applied, and where each value came from.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The values.
    pub(crate) job: JobFile,
    origins: Origins,
}

/// Reads all layers and checks keys and ranges.
pub(crate) fn load(
    args: &impl Overrides,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    let mut layers = Config::builder().add_source(Base(Box::default()));
    if let Some(path) = args.job().job_file() {
        layers = layers.add_source(File::from(path.as_path()).format(FileFormat::Toml).required(true));
    }
    layers = layers.add_source(from_environment(environment)?);
    layers = layers.add_source(from_flags(args)?);
    finish(&layers.build()?)
}

/// A job with some values changed, `key=value` each.
pub(crate) fn overlay(job: &JobFile, set: &[String]) -> Result<JobFile, SettingsError> {
    let args = JobArgs { set: set.to_vec(), ..JobArgs::default() };
    let layers = Config::builder().add_source(Base(Box::new(job.clone()))).add_source(from_flags(&args)?);
    Ok(finish(&layers.build()?)?.job)
}

fn finish(config: &Config) -> Result<Settings, SettingsError> {
    let sections = config.collect()?;
    let mut origins = BTreeMap::new();
    for (section, value) in &sections {
        flatten(section, value, &mut origins);
    }
    for (key, (_, origin)) in &origins {
        if !is_known(key) {
            let (key, origin) = (key.clone(), origin.clone());
            return Err(SettingsError::UnknownKey { advice: advice(&key), key, origin });
        }
    }
    let job = strict(sections, &origins)?;
    job.check().map_err(|source| {
        let origin = origins.get(source.key).map_or("default".into(), |(_, origin)| origin.clone());
        SettingsError::OutOfRange { source, origin }
    })?;
    Ok(Settings { job, origins })
}

/// Reads the sections without the conversions that `config` would make (2.5 to 3, true to 1), key by key, so that an
/// error names its key and origin.
fn strict(sections: Map<String, Value>, origins: &Origins) -> Result<JobFile, SettingsError> {
    let mut whole = toml::Table::new();
    for (section, value) in sections {
        let toml::Value::Table(fields) = to_toml(value) else { continue };
        let known = JobFile::KEYS.iter().any(|key| key.split('.').next() == Some(&section));
        if !known {
            let origin = "the job file".to_owned();
            return Err(SettingsError::UnknownKey { advice: advice(&section), key: section, origin });
        }
        for (field, value) in &fields {
            let only = toml::Table::from_iter([(field.clone(), value.clone())]);
            let only = toml::Table::from_iter([(section.clone(), only.into())]);
            only.try_into::<JobFile>().map_err(|error| {
                let key = format!("{section}.{field}");
                let below = |known: &&String| **known == key || known.starts_with(&format!("{key}."));
                let origin =
                    origins.iter().find(|(known, _)| below(known)).map_or("default", |(_, (_, origin))| origin);
                let (value, origin) = (value.to_string(), origin.to_owned());
                SettingsError::WrongType { key, value, origin, reason: error.message().to_owned() }
            })?;
        }
        whole.insert(section, fields.into());
    }
    Ok(whole.try_into().expect("every key was read above"))
}

fn to_toml(value: Value) -> toml::Value {
    match value.kind {
        ValueKind::Boolean(flag) => flag.into(),
        ValueKind::I64(number) => number.into(),
        ValueKind::Float(number) => number.into(),
        ValueKind::String(text) => text.into(),
        ValueKind::Array(items) => items.into_iter().map(to_toml).collect::<Vec<_>>().into(),
        ValueKind::Table(table) => {
            table.into_iter().map(|(key, value)| (key, to_toml(value))).collect::<toml::Table>().into()
        }
        // TOML has no wider integers and no nil; as text they are refused where a number is due.
        other => other.to_string().into(),
    }
}

impl Settings {
    /// The job file that would repeat this run.
    pub(crate) fn effective(&self) -> String {
        toml::to_string(&self.job).expect("a job file holds nothing that TOML cannot")
    }

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

fn from_flags(args: &impl Overrides) -> Result<Values, SettingsError> {
    let flags = args
        .overrides()
        .into_iter()
        .map(|(flag, key, value)| (key.to_owned(), convert(&format!("flag {flag}"), value)));
    let mut values = Values(flags.collect());
    for assignment in &args.job().set {
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
    const TEXTS: [&str; 8] = [
        "job.name",
        "job.folder",
        "model.file",
        "model.export",
        "infer.out",
        "data.file",
        "data.label",
        "data.positive",
    ];
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

fn flatten(key: &str, value: &Value, out: &mut Origins) {
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
        None => "the sections are job, model, train, infer, protocol, data and reveal; see examples/job.toml".into(),
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
mod tests;
