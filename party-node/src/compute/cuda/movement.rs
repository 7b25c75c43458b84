//! Values that move on a device, and sums of them. Lists of places are public; one that comes again is copied there once.

use std::ops::Range;

use super::{Gpu, Memory, Span, SpanMut};

/// Rows that a block of threads adds up before it adds to a column's sum.
const COLUMN_ROWS: usize = 256;
/// Terms that a thread adds up before it adds to a sum over the middle, at least; and threads that share a sum, at most.
const MIDDLE_TERMS: usize = 16;
const SHARES_MAX: usize = 1024;
/// From so many columns on, a warp adds up a row.
const WARP_COLUMNS: usize = 16;

impl Gpu {
    /// Adds a row to every row.
    pub fn add_row(&self, x: SpanMut<'_>, row: Span<'_>) {
        if !row.is_empty() {
            self.each("add_row", x.len(), &[x.address, row.address, row.len() as u64, x.len() as u64]);
        }
    }

    /// All of `x`, so many times.
    pub fn repeat(&self, x: Span<'_>, times: usize) -> Memory {
        self.repeated(x, 1, x.len() * times)
    }

    /// Every element so many times in a row.
    pub fn repeat_each(&self, x: Span<'_>, times: usize) -> Memory {
        self.repeated(x, times, x.len() * times)
    }

    fn repeated(&self, x: Span<'_>, each: usize, len: usize) -> Memory {
        let out = self.uninitialised(len);
        let sizes = [each, x.len(), len].map(|size| size as u64);
        self.each("repeat", len, &[&[out.span().address, x.address][..], &sizes].concat());
        out
    }

    /// The elements at some places.
    pub fn gather(&self, x: Span<'_>, places: &[u64]) -> Memory {
        self.gather_rows(x, places, 1)
    }

    /// Rows of `width` words at some places.
    pub fn gather_rows(&self, x: Span<'_>, rows: &[u64], width: usize) -> Memory {
        check(rows, x.len().checked_div(width).unwrap_or(0));
        let (list, out) = (self.constant(rows), self.uninitialised(rows.len() * width));
        let sizes = [width as u64, out.len() as u64];
        let arguments = [&[out.span().address, x.address, list.address][..], &sizes].concat();
        self.each("gather_rows", out.len(), &arguments);
        out
    }

    /// Every line of `line` words rearranged into one that has the words at `places`.
    pub fn gather_lines(&self, x: Span<'_>, line: usize, places: &[u64]) -> Memory {
        check(places, line);
        let lines = x.len().checked_div(line).unwrap_or(0);
        let (list, out) = (self.constant(places), self.uninitialised(lines * places.len()));
        let sizes = [line, places.len(), out.len()].map(|size| size as u64);
        let arguments = [&[out.span().address, x.address, list.address][..], &sizes].concat();
        self.each("gather_lines", out.len(), &arguments);
        out
    }

    /// `into[places[i]] += from[i]`; places may come more than once.
    pub fn scatter_add(&self, into: SpanMut<'_>, from: Span<'_>, places: &[u64]) {
        check(places, into.len());
        assert_eq!(from.len(), places.len(), "a place for every element");
        let list = self.constant(places);
        self.each("scatter_add", from.len(), &[into.address, from.address, list.address, from.len() as u64]);
    }

    /// Pieces of `inner` words from lines of `from_count` pieces to lines of `into_count`: `places` has pairs of a piece
    /// of `into`, each at most once, and a piece of `from`.
    pub fn copy_places(
        &self,
        into: SpanMut<'_>,
        into_count: usize,
        from: Span<'_>,
        from_count: usize,
        inner: usize,
        places: &[[u64; 2]],
    ) {
        self.places("copy_places", into, into_count, from, from_count, inner, places);
    }

    /// As [`Gpu::copy_places`], adding; pieces of `into` may come more than once.
    pub fn add_places(
        &self,
        into: SpanMut<'_>,
        into_count: usize,
        from: Span<'_>,
        from_count: usize,
        inner: usize,
        places: &[[u64; 2]],
    ) {
        self.places("add_places", into, into_count, from, from_count, inner, places);
    }

    #[allow(clippy::too_many_arguments, reason = "two matrices of pieces, and what goes where")]
    fn places(
        &self,
        kernel: &'static str,
        into: SpanMut<'_>,
        into_count: usize,
        from: Span<'_>,
        from_count: usize,
        inner: usize,
        places: &[[u64; 2]],
    ) {
        let (into_line, from_line) = (into_count * inner, from_count * inner);
        let lines = |len: usize, line: usize| len.checked_div(line).unwrap_or(0);
        let count = lines(into.len(), into_line).min(lines(from.len(), from_line));
        let inside = |[to, at]: &[u64; 2]| *to < into_count as u64 && *at < from_count as u64;
        assert!(places.iter().all(inside), "places lie within {into_count} and {from_count} pieces");
        let list = self.constant(places.as_flattened());
        let n = count * places.len() * inner;
        let sizes = [places.len(), into_line, from_line, inner, n].map(|size| size as u64);
        self.each(kernel, n, &[&[into.address, from.address, list.address][..], &sizes].concat());
    }

    /// Some columns of a matrix that has `columns` of them.
    pub fn columns(&self, x: Span<'_>, columns: usize, range: Range<usize>) -> Memory {
        let rows = x.len().checked_div(columns).unwrap_or(0);
        let mut out = self.uninitialised(rows * range.len());
        self.copy_columns(out.span_mut(), range.len(), 0, x, columns, range);
        out
    }

    /// Copies columns `range` of one matrix to those of another from `into_first` on.
    pub fn copy_columns(
        &self,
        into: SpanMut<'_>,
        into_columns: usize,
        into_first: usize,
        from: Span<'_>,
        from_columns: usize,
        range: Range<usize>,
    ) {
        let width = range.len();
        assert!(range.end <= from_columns && into_first + width <= into_columns, "columns lie within their matrices");
        let rows = |len: usize, columns: usize| len.checked_div(columns).unwrap_or(0);
        let n = rows(into.len(), into_columns).min(rows(from.len(), from_columns)) * width;
        let [into_columns, into_first, from_columns, from_first, width] =
            [into_columns, into_first, from_columns, range.start, width].map(|size| size as u64);
        let from = [from.address, from_columns, from_first, width, n as u64];
        self.each("copy_columns", n, &[&[into.address, into_columns, into_first][..], &from].concat());
    }

    /// For every pair `(i, j)` of columns and every row, pair by pair, `x_i - x_j`.
    pub fn pair_differences(&self, x: Span<'_>, columns: usize, pairs: &[[u64; 2]]) -> Memory {
        check(pairs.as_flattened(), columns);
        let rows = x.len().checked_div(columns).unwrap_or(0);
        let (list, out) = (self.constant(pairs.as_flattened()), self.uninitialised(pairs.len() * rows));
        let sizes = [rows, columns, out.len()].map(|size| size as u64);
        let arguments = [&[out.span().address, x.address, list.address][..], &sizes].concat();
        self.each("pair_differences", out.len(), &arguments);
        out
    }

    /// The sum of every channel over all positions: of every column of a matrix.
    pub fn sums_by_channel(&self, x: Span<'_>, channels: usize) -> Memory {
        let mut sums = self.zeros(channels);
        self.add_sums_by_channel(sums.span_mut(), x);
        sums
    }

    /// Adds the sum of every column of a matrix that has as many of them as `sums` has words.
    pub fn add_sums_by_channel(&self, sums: SpanMut<'_>, x: Span<'_>) {
        let columns = sums.len();
        let rows = x.len().checked_div(columns).unwrap_or(0);
        // A grid has fewer than 2^16 layers.
        let share = COLUMN_ROWS.max(rows.div_ceil((1 << 16) - 1));
        let grid = [columns.div_ceil(32), 1, rows.div_ceil(share)];
        let grid = grid.map(|blocks| u32::try_from(blocks).expect("fewer than 2^32 columns"));
        let sizes = [rows, columns, share].map(|size| size as u64);
        self.start("column_sums", grid, &[&[sums.address, x.address][..], &sizes].concat());
    }

    /// The sum of every row of a matrix.
    pub fn row_sums(&self, x: Span<'_>, columns: usize) -> Memory {
        let rows = x.len().checked_div(columns).unwrap_or(0);
        let sums = self.uninitialised(rows);
        let (rows_word, columns_word) = (rows as u64, columns as u64);
        let spans = [sums.span().address, x.address];
        if columns < WARP_COLUMNS {
            self.each("short_row_sums", rows, &[&spans[..], &[columns_word, rows_word]].concat());
        } else {
            self.tiles("row_sums", rows.div_ceil(8), &[&spans[..], &[rows_word, columns_word]].concat());
        }
        sums
    }

    /// The sum of all words.
    pub fn total(&self, x: Span<'_>) -> Memory {
        if x.is_empty() { self.zeros(1) } else { self.sum_middle(x, x.len(), 1) }
    }

    /// For `x` of shape `outer x middle x inner`, the sums over its middle: `outer x inner`.
    pub fn sum_middle(&self, x: Span<'_>, middle: usize, inner: usize) -> Memory {
        let outer = x.len().checked_div(middle * inner).unwrap_or(0);
        let sums = self.zeros(outer * inner);
        let share = MIDDLE_TERMS.max(middle.div_ceil(SHARES_MAX));
        let shares = middle.div_ceil(share).max(1);
        let n = outer * shares * inner;
        let sizes = [middle, inner, shares, n].map(|size| size as u64);
        self.each("sum_middle", n, &[&[sums.span().address, x.address][..], &sizes].concat());
        sums
    }

    /// Undoes the shape of [`Gpu::sum_middle`]: every `inner` words of `x` repeated `middle` times.
    pub fn repeat_middle(&self, x: Span<'_>, middle: usize, inner: usize) -> Memory {
        let out = self.uninitialised(x.len() * middle);
        let sizes = [middle, inner, out.len()].map(|size| size as u64);
        self.each("repeat_middle", out.len(), &[&[out.span().address, x.address][..], &sizes].concat());
        out
    }

    /// Single bits of a plane, packed: bit `i` of the result is bit `places[i]`.
    pub fn gather_bits(&self, plane: Span<'_>, places: &[u64]) -> Memory {
        check(places, 64 * plane.len());
        let (list, out) = (self.constant(places), self.uninitialised(places.len().div_ceil(64)));
        let sizes = [places.len() as u64, out.len() as u64];
        let arguments = [&[out.span().address, plane.address, list.address][..], &sizes].concat();
        self.each("gather_bits", out.len(), &arguments);
        out
    }

    /// Bits `range` of a plane, packed.
    pub fn bit_range(&self, plane: Span<'_>, range: Range<usize>) -> Memory {
        assert!(range.end <= 64 * plane.len(), "bits {range:?} of {} words", plane.len());
        let out = self.uninitialised(range.len().div_ceil(64));
        let sizes = [range.start, range.len(), out.len()].map(|size| size as u64);
        self.each("bit_range", out.len(), &[&[out.span().address, plane.address][..], &sizes].concat());
        out
    }

    /// A round of a comparison of all pairs of columns: bit `(i, row)` says whether column `i` wins against its opponent
    /// number `slot` (column `slot`, or the next one unless that is before `i`). `wins` has a bit for every pair `i < j`,
    /// pair by pair in order, and every row; where `i` is the second of a pair, its bit is turned if `turns` says so.
    pub fn argmax_slot(&self, wins: Span<'_>, rows: usize, columns: usize, slot: usize, turns: bool) -> Memory {
        assert!(slot + 1 < columns.max(1), "a column has {columns} - 1 opponents");
        let bits = rows * columns * (columns - 1) / 2;
        assert!(bits <= 64 * wins.len(), "{bits} pairs in {} words", wins.len());
        let out = self.uninitialised((rows * columns).div_ceil(64));
        let sizes = [rows, columns, slot, usize::from(turns), out.len()].map(|size| size as u64);
        self.each("argmax_slot", out.len(), &[&[out.span().address, wins.address][..], &sizes].concat());
        out
    }
}

fn check(places: &[u64], len: usize) {
    assert!(places.iter().all(|place| *place < len as u64), "places lie within {len}");
}
