//! Products of float64 matrices: blocks that stay in the cache, and a small square of sums that stays in registers.

use std::ops::Range;

/// Edge of the square of sums: eight registers of two numbers, of the sixteen that every x86-64 has.
const EDGE: usize = 4;
/// Terms of a sum that are added before the square goes back to memory.
const DEPTH: usize = 256;

/// A matrix inside a slice, with any distances between its rows and between its columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f64],
    rows: usize,
    columns: usize,
    steps: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Row after row.
    pub(crate) fn new(values: &'a [f64], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "as many values as rows and columns say");
        Self { values, rows, columns, steps: [columns, 1] }
    }

    pub(crate) fn transposed(self) -> Self {
        let (rows, columns, [down, across]) = (self.columns, self.rows, self.steps);
        Self { rows, columns, steps: [across, down], ..self }
    }

    /// Some of the columns.
    pub(crate) fn columns(self, range: &Range<usize>) -> Self {
        Self { values: &self.values[range.start * self.steps[1]..], columns: range.len(), ..self }
    }

    /// Rows in strips of [`EDGE`], of which the columns in `range` lie one after another; zeros fill the last strip.
    fn pack(self, range: &Range<usize>, into: &mut Vec<[f64; EDGE]>) {
        into.clear();
        for first in (0..self.rows).step_by(EDGE) {
            let height = EDGE.min(self.rows - first);
            into.extend(range.clone().map(|column| {
                let start = first * self.steps[0] + column * self.steps[1];
                let mut cells = [0.0; EDGE];
                (0..height).for_each(|row| cells[row] = self.values[start + row * self.steps[0]]);
                cells
            }));
        }
    }
}

/// Adds `a b` to a matrix whose rows are `step` apart.
pub(crate) fn add_product(sums: &mut [f64], step: usize, a: Matrix<'_>, b: Matrix<'_>) {
    assert_eq!(a.columns, b.rows, "inner sizes agree");
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for start in (0..a.columns).step_by(DEPTH) {
        let range = start..(start + DEPTH).min(a.columns);
        a.pack(&range, &mut left);
        b.transposed().pack(&range, &mut right);
        for (strip, left) in left.chunks_exact(range.len()).enumerate() {
            let (top, height) = (strip * EDGE, EDGE.min(a.rows - strip * EDGE));
            for (strip, right) in right.chunks_exact(range.len()).enumerate() {
                let (first, width) = (strip * EDGE, EDGE.min(b.columns - strip * EDGE));
                let square = square(left, right);
                for (row, terms) in square.iter().enumerate().take(height) {
                    let at = (top + row) * step + first;
                    sums[at..at + width].iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                }
            }
        }
    }
}

/// `a b`, row after row.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f64> {
    let mut result = vec![0.0; a.rows * b.columns];
    add_product(&mut result, b.columns, a, b);
    result
}

fn square(left: &[[f64; EDGE]], right: &[[f64; EDGE]]) -> [[f64; EDGE]; EDGE] {
    let mut sums = [[0.0; EDGE]; EDGE];
    for (left, right) in left.iter().zip(right) {
        for (sums, a) in sums.iter_mut().zip(left) {
            for (sum, b) in sums.iter_mut().zip(right) {
                *sum += a * b;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_sums_of_products_for_every_size_and_order() {
        for (rows, inner, columns) in [(1_u32, 1_u32, 1_u32), (3, 5, 2), (4, 256, 4), (9, 300, 7), (2, 513, 13)] {
            let values = |n: u32, seed: u32| (0..n).map(|i| f64::from((i * 7 + seed) % 11) - 5.0).collect();
            let (a, b): (Vec<f64>, Vec<f64>) = (values(rows * inner, 1), values(inner * columns, 2));
            let [rows, inner, columns] = [rows, inner, columns].map(|size| size as usize);
            let (left, right) = (Matrix::new(&a, rows, inner), Matrix::new(&b, inner, columns));
            let result = product(left, right);
            for row in 0..rows {
                for column in 0..columns {
                    let sum: f64 = (0..inner).map(|k| a[row * inner + k] * b[k * columns + column]).sum();
                    assert_eq!(result[row * columns + column], sum, "{rows} {inner} {columns}");
                }
            }
            let transposed = product(right.transposed(), left.transposed());
            assert!((0..rows * columns).all(|i| transposed[i % columns * rows + i / columns] == result[i]));
            let last = columns - 1..columns;
            let column = product(left, right.columns(&last));
            assert!((0..rows).all(|row| column[row] == result[row * columns + columns - 1]));
        }
    }
}
