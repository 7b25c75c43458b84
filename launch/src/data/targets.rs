//! The target column: two classes, several classes, or a number.

use shared::config::{DataSection, TaskChoice};
use shared::job::{ProtocolSpec, SOFTMAX_CLASSES_MAX};

use super::columns::{in_range, moments, number, standardise};
use super::table::{Cell, Table};
use super::{DataError, Task};

/// A numeric target with more different values than this is taken for a regression.
const CLASSES_MAX: usize = 20;

/// The target column, read.
pub(super) struct Targets {
    pub(super) task: Task,
    /// In order; the last of two is the positive one.
    pub(super) classes: Vec<String>,
    /// Class of each row, to stratify by; all zero for regression.
    pub(super) strata: Vec<usize>,
    /// The numbers, for regression.
    values: Vec<f64>,
    column: usize,
}

impl Targets {
    pub(super) fn read(table: &Table, column: usize, section: &DataSection) -> Result<Self, DataError> {
        let empty = |row: usize| Cell::read(table.cell(row, column)) == Cell::Missing;
        if let Some(row) = (0..table.rows.len()).find(|&row| empty(row)) {
            let (file, line, column) = (table.name.clone(), table.rows[row].line, table.header[column].clone());
            return Err(DataError::MissingTarget { file, line, column });
        }
        let classes = classes(table, column);
        let task = match section.task {
            TaskChoice::Auto => guess(&classes),
            TaskChoice::Binary => Task::Binary,
            TaskChoice::Multiclass => Task::Multiclass,
            TaskChoice::Regression => Task::Regression,
        };
        if let [class] = classes.as_slice() {
            let (file, column, class) = (table.name.clone(), table.header[column].clone(), class.clone());
            return Err(DataError::OneClass { file, column, class });
        }
        if task == Task::Regression {
            return Self::regression(table, column);
        }
        check_classes(table, column, task, classes.len())?;
        let classes = with_positive_last(classes, section, &table.header[column])?;
        let class_of = |row: usize| classes.iter().position(|class| class == table.cell(row, column));
        let strata = (0..table.rows.len()).map(|row| class_of(row).expect("classes were read from these rows"));
        Ok(Self { task, strata: strata.collect(), classes, values: Vec::new(), column })
    }

    fn regression(table: &Table, column: usize) -> Result<Self, DataError> {
        let value = |row| Ok::<_, DataError>(number(table, row, column)?.expect("rows without a target were refused"));
        let values: Vec<f64> = (0..table.rows.len()).map(value).collect::<Result<_, _>>()?;
        Ok(Self { task: Task::Regression, classes: Vec::new(), strata: vec![0; values.len()], values, column })
    }

    /// Whether these rows hold two classes, or any rows for a regression.
    pub(super) fn learnable(&self, train: &[usize]) -> bool {
        let Some(&first) = train.first() else { return false };
        self.task == Task::Regression || train.iter().any(|&row| self.strata[row] != self.strata[first])
    }

    /// Mean and deviation of the training targets (regression); 0 and 1 for classes.
    pub(super) fn moments(&self, train: &[usize]) -> (f64, f64) {
        if self.task != Task::Regression {
            return (0.0, 1.0);
        }
        let values: Vec<f64> = train.iter().map(|&row| self.values[row]).collect();
        moments(&values)
    }

    /// Appends one row's targets.
    pub(super) fn push(
        &self,
        table: &Table,
        row: usize,
        mean: f64,
        deviation: f64,
        protocol: &ProtocolSpec,
        out: &mut Vec<f64>,
    ) -> Result<(), DataError> {
        match self.task {
            Task::Binary => out.push(f64::from(u8::from(self.strata[row] == 1))),
            Task::Multiclass => out.extend((0..self.classes.len()).map(|class| f64::from(self.strata[row] == class))),
            Task::Regression => {
                let value = standardise(self.values[row], mean, deviation);
                out.push(in_range(table, row, self.column, value, protocol)?);
            }
        }
        Ok(())
    }
}

/// Different texts of the column: numbers in numeric order, then texts in alphabetical order.
fn classes(table: &Table, column: usize) -> Vec<String> {
    let mut classes: Vec<String> = table.rows.iter().map(|row| row.cells[column].clone()).collect();
    classes.sort_unstable();
    classes.dedup();
    classes.sort_by(|a, b| match (Cell::read(a), Cell::read(b)) {
        (Cell::Number(a), Cell::Number(b)) => a.total_cmp(&b),
        (Cell::Number(_), _) => std::cmp::Ordering::Less,
        (_, Cell::Number(_)) => std::cmp::Ordering::Greater,
        _ => a.cmp(b),
    });
    classes
}

fn guess(classes: &[String]) -> Task {
    let numeric = classes.iter().all(|class| matches!(Cell::read(class), Cell::Number(_)));
    let fractional =
        classes.iter().any(|class| matches!(Cell::read(class), Cell::Number(value) if value.fract() != 0.0));
    match classes.len() {
        2 => Task::Binary,
        count if numeric && (fractional || count > CLASSES_MAX) => Task::Regression,
        _ => Task::Multiclass,
    }
}

fn check_classes(table: &Table, column: usize, task: Task, classes: usize) -> Result<(), DataError> {
    let wrong = |task, needed: String| {
        let (file, column) = (table.name.clone(), table.header[column].clone());
        Err(DataError::Classes { file, column, classes, task, needed })
    };
    match task {
        Task::Binary if classes != 2 => wrong("binary", "exactly 2".into()),
        Task::Multiclass if classes > SOFTMAX_CLASSES_MAX => {
            wrong("multiclass", format!("at most {SOFTMAX_CLASSES_MAX}"))
        }
        _ => Ok(()),
    }
}

fn with_positive_last(mut classes: Vec<String>, section: &DataSection, column: &str) -> Result<Vec<String>, DataError> {
    let Some(positive) = &section.positive else { return Ok(classes) };
    let Some(index) = classes.iter().position(|class| class == positive) else {
        let (positive, column, classes) = (positive.clone(), column.into(), classes.join(", "));
        return Err(DataError::Positive { positive, column, classes });
    };
    let class = classes.remove(index);
    classes.push(class);
    Ok(classes)
}
