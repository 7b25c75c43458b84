//! Feature columns: numeric ones standardised with the training rows' moments, text ones as one column per category.

use std::collections::BTreeSet;

use shared::job::ProtocolSpec;

use super::DataError;
use super::table::{Cell, Table};

/// Texts beyond this many per column are taken for identifiers.
const CATEGORIES_MAX: usize = 64;

/// Category of missing cells in a text column.
const MISSING: &str = "(missing)";

/// How each feature column becomes numbers.
pub(super) struct Features {
    columns: Vec<Column>,
}

struct Column {
    index: usize,
    name: String,
    missing: usize,
    kind: Kind,
}

enum Kind {
    Numeric { mean: f64, deviation: f64 },
    Categorical { categories: Vec<String> },
}

impl Features {
    /// Decides the kind of every column but the label; moments come from the training rows alone.
    pub(super) fn read(table: &Table, label: usize, train: &[usize], refuse_missing: bool) -> Result<Self, DataError> {
        let indices = (0..table.header.len()).filter(|&index| index != label);
        let columns: Vec<_> = indices.map(|index| Column::read(table, index, train)).collect::<Result<_, _>>()?;
        if columns.is_empty() {
            return Err(DataError::NoFeatures { file: table.name.clone() });
        }
        match columns.iter().find(|column| refuse_missing && column.missing > 0) {
            Some(column) => Err(column.first_missing(table)),
            None => Ok(Self { columns }),
        }
    }

    /// Appends one row's features.
    pub(super) fn push(
        &self,
        table: &Table,
        row: usize,
        protocol: &ProtocolSpec,
        out: &mut Vec<f64>,
    ) -> Result<(), DataError> {
        self.columns.iter().try_for_each(|column| column.push(table, row, protocol, out))
    }

    /// Names after one-hot encoding.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.columns.iter().flat_map(|column| match &column.kind {
            Kind::Numeric { .. } => vec![column.name.clone()],
            Kind::Categorical { categories } => {
                categories.iter().map(|text| format!("{}={text}", column.name)).collect()
            }
        });
        names.collect()
    }

    /// Columns with missing cells, and how many.
    pub(super) fn missing(&self) -> Vec<(String, usize)> {
        let missing = self.columns.iter().filter(|column| column.missing > 0);
        missing.map(|column| (column.name.clone(), column.missing)).collect()
    }
}

impl Column {
    fn read(table: &Table, index: usize, train: &[usize]) -> Result<Self, DataError> {
        let cells = || table.rows.iter().map(|row| Cell::read(&row.cells[index]));
        let count = |wanted: fn(&Cell) -> bool| cells().filter(wanted).count();
        let missing = count(|cell| *cell == Cell::Missing);
        let numbers = count(|cell| matches!(cell, Cell::Number(_)));
        let texts = count(|cell| *cell == Cell::Text);
        let kind =
            if numbers >= texts { Self::numeric(table, index, train)? } else { Self::categorical(table, index)? };
        Ok(Self { index, name: table.header[index].clone(), missing, kind })
    }

    fn numeric(table: &Table, index: usize, train: &[usize]) -> Result<Kind, DataError> {
        for row in 0..table.rows.len() {
            number(table, row, index)?;
        }
        let known: Vec<f64> = train.iter().filter_map(|&row| number(table, row, index).ok().flatten()).collect();
        let (mean, deviation) = moments(&known);
        Ok(Kind::Numeric { mean, deviation })
    }

    fn categorical(table: &Table, index: usize) -> Result<Kind, DataError> {
        let texts: BTreeSet<&str> = table.rows.iter().map(|row| category(&row.cells[index])).collect();
        if texts.len() > CATEGORIES_MAX {
            return Err(DataError::Identifier {
                file: table.name.clone(),
                column: table.header[index].clone(),
                categories: texts.len(),
                rows: table.rows.len(),
            });
        }
        Ok(Kind::Categorical { categories: texts.into_iter().map(str::to_owned).collect() })
    }

    fn push(&self, table: &Table, row: usize, protocol: &ProtocolSpec, out: &mut Vec<f64>) -> Result<(), DataError> {
        match &self.kind {
            Kind::Categorical { categories } => {
                let text = category(table.cell(row, self.index));
                out.extend(categories.iter().map(|category| f64::from(category == text)));
            }
            Kind::Numeric { mean, deviation } => {
                let value = number(table, row, self.index)?.unwrap_or(*mean);
                let value = standardise(value, *mean, *deviation);
                out.push(in_range(table, row, self.index, value, protocol)?);
            }
        }
        Ok(())
    }

    fn first_missing(&self, table: &Table) -> DataError {
        let row = table.rows.iter().find(|row| Cell::read(&row.cells[self.index]) == Cell::Missing);
        let line = row.map_or(0, |row| row.line);
        DataError::MissingValue { file: table.name.clone(), line, column: self.name.clone() }
    }
}

/// Mean and standard deviation (of the population); 0 and 1 without values.
#[allow(clippy::cast_precision_loss, reason = "row counts are far below 2^52")]
pub(super) fn moments(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 1.0);
    }
    let count = values.len() as f64;
    let mean = values.iter().map(|value| value / count).sum::<f64>();
    let variance = values.iter().map(|value| (value - mean) * (value - mean) / count).sum::<f64>();
    (mean, variance.sqrt())
}

/// A column that never varies carries nothing: it becomes zero in rows that share its value.
pub(super) fn standardise(value: f64, mean: f64, deviation: f64) -> f64 {
    let scale = if deviation > 1e-12 * mean.abs().max(f64::MIN_POSITIVE) { deviation } else { 1.0 };
    (value - mean) / scale
}

/// Number in a cell of a numeric column; `None` if missing.
pub(super) fn number(table: &Table, row: usize, column: usize) -> Result<Option<f64>, DataError> {
    let text = table.cell(row, column);
    let (file, line, name) = (table.name.clone(), table.rows[row].line, table.header[column].clone());
    match Cell::read(text) {
        Cell::Missing => Ok(None),
        Cell::Number(value) if value.is_finite() => Ok(Some(value)),
        Cell::Number(_) => Err(DataError::NotFinite { file, line, column: name, cell: text.into() }),
        Cell::Text => Err(DataError::NotANumber { file, line, column: name, cell: text.into() }),
    }
}

/// Refuses what the protocols could not compute with.
pub(super) fn in_range(
    table: &Table,
    row: usize,
    column: usize,
    value: f64,
    protocol: &ProtocolSpec,
) -> Result<f64, DataError> {
    protocol.check_value(value).map(|()| value).map_err(|source| DataError::TooLarge {
        file: table.name.clone(),
        line: table.rows[row].line,
        column: table.header[column].clone(),
        source,
    })
}

fn category(cell: &str) -> &str {
    if Cell::read(cell) == Cell::Missing { MISSING } else { cell }
}
