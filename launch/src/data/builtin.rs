//! The data sets in `launch/data`; source and licence stand in the README there.

use shared::config::{BuiltIn, Header};

use super::table::{Table, parse};

const BREAST_CANCER: &str = include_str!("../../data/breast_cancer.csv");
const DIGITS: &str = include_str!("../../data/digits.csv");

/// A built-in set as a table; the target column is the last.
pub(super) fn table(set: BuiltIn) -> Table {
    match set {
        BuiltIn::BreastCancer => parse("breast-cancer", BREAST_CANCER.as_bytes(), Header::Yes, None)
            .expect("the built-in table is well formed, which a test checks"),
        BuiltIn::Digits => digits(),
    }
}

/// Unpacks the pixels: one character each, in base 17.
fn digits() -> Table {
    let packed = parse("digits", DIGITS.as_bytes(), Header::Yes, None)
        .expect("the built-in table is well formed, which a test checks");
    let mut header: Vec<String> = (0..64).map(|pixel| format!("pixel_{}_{}", pixel / 8, pixel % 8)).collect();
    header.push("digit".into());
    let mut rows = packed.rows;
    for row in &mut rows {
        let pixels = row.cells[0].chars().filter_map(|pixel| pixel.to_digit(17));
        let mut cells: Vec<String> = pixels.map(|pixel| pixel.to_string()).collect();
        cells.push(row.cells[1].clone());
        row.cells = cells;
    }
    Table { name: packed.name, header, rows }
}
