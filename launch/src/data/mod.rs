//! Records as numbers: from a CSV file or a built-in table to a standardised training and test split.
//! Knows nothing of shares before [`mod@encode`].

mod builtin;
mod columns;
mod encode;
mod error;
mod samples;
mod split;
mod table;
mod targets;

pub(crate) use encode::{Digests, Weights, encode, encode_inference};
pub(crate) use error::DataError;
pub(crate) use samples::{Samples, load_samples};

use shared::config::{BuiltIn, DataSection, Missing};
use shared::job::ProtocolSpec;
use shared::model::Shape;

use columns::Features;
use split::Split;
use table::Table;
use targets::Targets;

/// What the targets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    /// One target column in {0, 1}.
    Binary,
    /// One-hot targets.
    Multiclass,
    /// One standardised number.
    Regression,
}

/// A data set, ready to train on.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Dataset {
    /// Where it came from, for reports.
    pub(crate) name: String,
    /// What the targets are.
    pub(crate) task: Task,
    /// Names of the features, after one-hot encoding.
    pub(crate) features: Vec<String>,
    /// Shape of a sample; its elements lie in memory order, channels last.
    pub(crate) shape: Shape,
    /// Names of the classes; the last of two is the positive one. Empty for regression.
    pub(crate) classes: Vec<String>,
    /// Standard deviation of the training targets before they were standardised (regression); 1 otherwise.
    pub(crate) target_scale: f64,
    /// Columns with missing values and how many.
    pub(crate) missing: Vec<(String, usize)>,
    /// Rows to train on.
    pub(crate) train: Rows,
    /// Rows to test on.
    pub(crate) test: Rows,
}

/// Row-major samples.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Rows {
    /// Number of samples.
    pub(crate) count: usize,
    /// `count x features`.
    pub(crate) x: Vec<f64>,
    /// `count x outputs`.
    pub(crate) y: Vec<f64>,
}

impl Dataset {
    /// Width of the targets.
    pub(crate) fn outputs(&self) -> usize {
        if self.task == Task::Multiclass { self.classes.len() } else { 1 }
    }
}

/// Reads, splits and standardises the records that a job names; refuses values that its number formats cannot bear.
pub(crate) fn load(section: &DataSection, protocol: &ProtocolSpec) -> Result<Dataset, DataError> {
    if let Some(file) = &section.file {
        return parse(file, &table::read(file)?, section, protocol);
    }
    let table = builtin::table(section.set);
    let label = match &section.label {
        Some(label) => table.column(label)?,
        None => table.header.len() - 1,
    };
    prepare(&table, label, section, protocol)
}

/// As [`load`], from the bytes of a CSV file.
pub(crate) fn parse(
    file: &str,
    bytes: &[u8],
    section: &DataSection,
    protocol: &ProtocolSpec,
) -> Result<Dataset, DataError> {
    let table = table::parse(file, bytes, section.header, section.label.as_deref())?;
    let Some(label) = &section.label else { return Err(DataError::NoLabel { columns: table.header.join(", ") }) };
    prepare(&table, table.column(label)?, section, protocol)
}

fn prepare(table: &Table, label: usize, section: &DataSection, protocol: &ProtocolSpec) -> Result<Dataset, DataError> {
    let targets = Targets::read(table, label, section)?;
    let split = Split::stratified(&targets.strata, section.test_fraction, section.seed);
    if split.test.is_empty() || !targets.learnable(&split.train) {
        return Err(DataError::TooFewRows { file: table.name.clone(), rows: table.rows.len() });
    }
    let features = Features::read(table, label, &split.train, section.missing == Missing::Refuse)?;
    let shape = shape(section, features.names().len())?;
    let memory_order = inverse(shape);
    let (target_mean, target_scale) = targets.moments(&split.train);
    let rows = |rows: &[usize]| -> Result<Rows, DataError> {
        let mut out = Rows { count: rows.len(), ..Rows::default() };
        for &row in rows {
            let mut sample = Vec::with_capacity(shape.len());
            features.push(table, row, protocol, &mut sample)?;
            out.x.extend(memory_order.iter().map(|&column| sample[column]));
            targets.push(table, row, target_mean, target_scale, protocol, &mut out.y)?;
        }
        Ok(out)
    };
    Ok(Dataset {
        name: table.name.clone(),
        task: targets.task,
        train: rows(&split.train)?,
        test: rows(&split.test)?,
        features: features.names(),
        shape,
        missing: features.missing(),
        classes: targets.classes,
        target_scale,
    })
}

/// What the columns of a sample stand for.
fn shape(section: &DataSection, features: usize) -> Result<Shape, DataError> {
    let shape = match section.image {
        Some([channels, height, width]) => Shape::image(channels, height, width),
        None if section.file.is_none() && section.set == BuiltIn::Digits => Shape::image(1, 8, 8),
        None => Shape::vector(features),
    };
    if shape.len() == features { Ok(shape) } else { Err(DataError::Image { shape, features }) }
}

/// For each element of a sample in memory, the column that it comes from: columns are channel by channel.
fn inverse(shape: Shape) -> Vec<usize> {
    let mut columns = vec![0; shape.len()];
    shape.channels_first().enumerate().for_each(|(column, at)| columns[at] = column);
    columns
}

#[cfg(test)]
mod tests;
