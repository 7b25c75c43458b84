//! CSV as text cells with line numbers; nothing is interpreted beyond the header.

use shared::config::Header;

use super::DataError;

/// Cells as they stand in a file.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Table {
    /// File name, or name of the built-in set.
    pub(super) name: String,
    /// Column names.
    pub(super) header: Vec<String>,
    /// Records.
    pub(super) rows: Vec<Record>,
}

/// One line.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Record {
    /// Counted from 1.
    pub(super) line: u64,
    /// Trimmed text.
    pub(super) cells: Vec<String>,
}

/// What a cell of a numeric column holds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Cell {
    /// Nothing: empty, `NA`, `N/A`, `nan`, `null` or `?`.
    Missing,
    /// A number, perhaps an infinite one.
    Number(f64),
    /// Anything else.
    Text,
}

impl Cell {
    pub(super) fn read(cell: &str) -> Self {
        let missing = ["", "?", "na", "n/a", "nan", "null"].iter().any(|text| cell.eq_ignore_ascii_case(text));
        match cell.parse() {
            _ if missing => Self::Missing,
            Ok(number) => Self::Number(number),
            Err(_) => Self::Text,
        }
    }
}

impl Table {
    /// Index of a column by name, or by number counted from 1.
    pub(super) fn column(&self, label: &str) -> Result<usize, DataError> {
        let numbered = || label.parse::<usize>().ok().filter(|number| (1..=self.header.len()).contains(number));
        let named = self.header.iter().position(|name| name == label);
        named.or_else(|| numbered().map(|number| number - 1)).ok_or_else(|| DataError::UnknownLabel {
            file: self.name.clone(),
            label: label.into(),
            columns: self.header.join(", "),
        })
    }

    /// Text of one cell.
    pub(super) fn cell(&self, row: usize, column: usize) -> &str {
        &self.rows[row].cells[column]
    }
}

/// The bytes of a CSV file.
pub(super) fn read(file: &str) -> Result<Vec<u8>, DataError> {
    std::fs::read(file).map_err(|error| DataError::Unreadable { file: file.into(), reason: error.to_string() })
}

/// Parses the bytes of a CSV file.
pub(super) fn parse(name: &str, bytes: &[u8], header: Header, label: Option<&str>) -> Result<Table, DataError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(bytes);
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| of_csv(name, &error))?;
        let line = record.position().map_or(0, csv::Position::line);
        rows.push(Record { line, cells: record.iter().map(str::to_owned).collect() });
    }
    let Some(first) = rows.first() else { return Err(DataError::Empty { file: name.into() }) };
    let named = match header {
        Header::Yes => true,
        Header::No => false,
        Header::Auto => starts_with_names(&rows, label),
    };
    let header = if named {
        rows.remove(0).cells
    } else {
        (1..=first.cells.len()).map(|number| format!("column {number}")).collect()
    };
    if rows.is_empty() {
        return Err(DataError::Empty { file: name.into() });
    }
    Ok(Table { name: name.into(), header, rows })
}

/// Names are texts, and either one of them is the label or numbers follow below.
fn starts_with_names(rows: &[Record], label: Option<&str>) -> bool {
    let first = &rows[0].cells;
    let is_number = |cell: &String| matches!(Cell::read(cell), Cell::Number(_));
    if first.iter().any(|cell| label == Some(cell.as_str()) && !is_number(cell)) {
        return true;
    }
    let numbers_below = rows.iter().skip(1).any(|row| row.cells.iter().any(is_number));
    !first.iter().any(is_number) && numbers_below
}

fn of_csv(name: &str, error: &csv::Error) -> DataError {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => DataError::Ragged {
            file: name.into(),
            line: pos.as_ref().map_or(0, csv::Position::line),
            expected: *expected_len,
            found: *len,
        },
        _ => DataError::Unreadable { file: name.into(), reason: error.to_string() },
    }
}
