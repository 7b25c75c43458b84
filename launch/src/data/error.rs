//! What can be wrong with the records: every message names the file, and where it can, line and column.

use shared::fixed::FixedError;

/// Why a data set was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    /// Columns and image do not match.
    #[error("data.image is {shape}, that is {} values, but a record has {features} features", .shape.len())]
    Image {
        /// What was asked for.
        shape: shared::model::Shape,
        /// Columns, after one-hot encoding.
        features: usize,
    },
    /// The file cannot be read.
    #[error("cannot read {file}: {reason}")]
    Unreadable { file: String, reason: String },
    /// Nothing in it.
    #[error("{file} holds no records")]
    Empty { file: String },
    /// A row with another number of cells than the first.
    #[error("{file}, line {line}: {found} cells where the first row has {expected}")]
    Ragged { file: String, line: u64, expected: u64, found: u64 },
    /// No target column named.
    #[error("name the target column with --label NAME (or its number); the columns are: {columns}")]
    NoLabel { columns: String },
    /// No such column.
    #[error("{file} has no column {label:?}; the columns are: {columns}")]
    UnknownLabel { file: String, label: String, columns: String },
    /// A row without a target.
    #[error("{file}, line {line}: the target column {column:?} is empty; remove the row or fill it in")]
    MissingTarget { file: String, line: u64, column: String },
    /// Text among numbers.
    #[error(
        "{file}, line {line}, column {column:?}: {cell:?} is not a number, though most of the column is; correct it, or \
         leave it empty if the value is missing"
    )]
    NotANumber { file: String, line: u64, column: String, cell: String },
    /// An infinity.
    #[error("{file}, line {line}, column {column:?}: {cell:?} is not a finite number")]
    NotFinite { file: String, line: u64, column: String, cell: String },
    /// A missing value where none is allowed.
    #[error("{file}, line {line}, column {column:?}: the value is missing, and data.missing is \"refuse\"")]
    MissingValue { file: String, line: u64, column: String },
    /// A value that fixed point cannot hold.
    #[error("{file}, line {line}, column {column:?}: even after standardisation the value's {source}")]
    TooLarge { file: String, line: u64, column: String, source: FixedError },
    /// A text column that names rows rather than describing them.
    #[error(
        "{file}, column {column:?}: {categories} different texts in {rows} rows look like an identifier; remove the column"
    )]
    Identifier { file: String, column: String, categories: usize, rows: usize },
    /// Nothing to learn.
    #[error("{file}, target column {column:?}: every row is {class:?}; training needs at least two classes")]
    OneClass { file: String, column: String, class: String },
    /// Not the number of classes that the task needs.
    #[error("{file}, target column {column:?}: {classes} classes; --task {task} needs {needed}")]
    Classes { file: String, column: String, classes: usize, task: &'static str, needed: String },
    /// `data.positive` names no class.
    #[error("data.positive = {positive:?} is no class of column {column:?}: {classes}")]
    Positive { positive: String, column: String, classes: String },
    /// Too few rows to split.
    #[error("{file}: {rows} rows cannot be split into training and test rows with two classes to learn from")]
    TooFewRows { file: String, rows: usize },
    /// No feature left.
    #[error("{file} has no column besides the target")]
    NoFeatures { file: String },
    /// NumPy arrays.
    #[error(transparent)]
    Array(#[from] model_files::npy::NpyError),
    /// Several arrays, none of which is named as the rows.
    #[error("{file} holds the arrays {names}: name the one with the rows {input:?} or \"x\"")]
    WhichArray { file: String, input: String, names: String },
    /// Rows that the model cannot take.
    #[error("{file}: {} where the model takes {due}", if .got.starts_with('[') { format!("shape {got}") } else { got.clone() })]
    SampleShape { file: String, got: String, due: String },
    /// A value of an array that fixed point cannot hold.
    #[error("{file}, row {row}, element {element}: {source}")]
    Element { file: String, row: usize, element: String, source: FixedError },
    /// A value of a table that fixed point cannot hold.
    #[error("{file}, line {line}, column {column:?}: the value's {source}")]
    Cell { file: String, line: u64, column: String, source: FixedError },
    /// A missing value, where the model needs all of them.
    #[error("{file}, line {line}, column {column:?}: the value is missing, and the model needs every one")]
    MissingInput { file: String, line: u64, column: String },
    /// More data than one message of the local mode carries.
    #[error("the data set's shares need {bytes} bytes; the limit of local mode is {max}")]
    TooMuch { bytes: usize, max: usize },
}
