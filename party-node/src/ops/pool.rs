//! Max-pooling of images whose channels lie together.
//!
//! The largest cell of a window is found along one axis and then along the other: windows that overlap share what their
//! rows have in common, and a tree along each axis keeps the rounds few.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::compute::moves::Pieces;
use crate::protocol::{Kept, ProtocolError, Tile, TileShare, inject, inject_again, sign};

/// Images, and the windows that slide over them. Element `(image, y, x, channel)` lies at
/// `((image height + y) width + x) channels + channel`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows {
    /// Images.
    pub images: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Channels of a cell.
    pub channels: usize,
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// Rows and columns from one window to the next.
    pub stride: [usize; 2],
    /// Cells by which windows may stick out: top, left, bottom, right; fewer than the kernel has.
    pub padding: [usize; 4],
}

impl Windows {
    /// Rows of the result.
    pub fn out_height(&self) -> usize {
        self.ranges(0).len()
    }

    /// Columns of the result.
    pub fn out_width(&self) -> usize {
        self.ranges(1).len()
    }

    /// Differences that [`max_pool`] compares, level by level.
    pub fn comparisons(&self) -> Vec<usize> {
        let (columns, rows, needed) = self.brackets();
        let along_columns = self.images * needed.len() * self.channels;
        let along_rows = self.images * self.out_width() * self.channels;
        let of = |bracket: &Bracket, each: usize| {
            bracket.levels.iter().map(|matches| matches.len() * each).collect::<Vec<_>>()
        };
        [of(&columns, along_columns), of(&rows, along_rows)].concat()
    }

    /// The cells of every window along an axis, without those that are padding.
    fn ranges(&self, axis: usize) -> Vec<Range<usize>> {
        let (cells, kernel, stride) = ([self.height, self.width][axis], self.kernel[axis], self.stride[axis]);
        let [before, after] = [self.padding[axis], self.padding[axis + 2]];
        assert!(cells > 0 && stride > 0, "an image has cells and windows move on");
        assert!(before.max(after) < kernel, "no window holds padding alone");
        let Some(room) = (cells + before + after).checked_sub(kernel) else { return vec![] };
        let window = |start: usize| start.saturating_sub(before)..(start + kernel - before).min(cells);
        (0..=room / stride).map(|i| window(i * stride)).collect()
    }

    /// The tournament along the columns, the one along the rows that some window covers, and these rows.
    fn brackets(&self) -> (Bracket, Bracket, Vec<usize>) {
        let rows = self.ranges(0);
        let needed: Vec<usize> = (0..self.height).filter(|y| rows.iter().any(|window| window.contains(y))).collect();
        let place = |y: usize| needed.partition_point(|&row| row < y);
        let among = rows.iter().map(|window| place(window.start)..place(window.end)).collect();
        (Bracket::new(self.width, self.ranges(1)), Bracket::new(needed.len(), among), needed)
    }

    /// Elements of all images.
    fn len(&self) -> usize {
        self.images * self.height * self.width * self.channels
    }
}

/// What [`max_pool`] leaves for its gradient.
pub struct PoolKept {
    windows: Windows,
    columns: Vec<Kept>,
    rows: Vec<Kept>,
}

/// The largest cell of every window, channel by channel.
///
/// | | |
/// |---|---|
/// | Computes | `max` over each window's cells that are no padding, exact where any two of them differ by what the comparison window holds |
/// | Holds | `x`: images as [`Windows`] describes -> images of `out_height x out_width`, and what [`max_pool_backward`] needs |
/// | Rounds | `ceil(log2 kernel)` levels along each axis, each with those of [`sign`], and 1 |
/// | Bytes | those of [`sign`], and `32` over the three parties, for every difference of [`Windows::comparisons`] |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | a tournament of [`maximum`](super::maximum), first along the columns, then along the rows |
///
/// Of equal cells the first in row-major order wins, as in PyTorch: the left one of each pair takes a tie, and rows
/// meet after their columns.
pub async fn max_pool(
    tile: &Tile<'_>,
    x: &TileShare,
    windows: &Windows,
) -> Result<(TileShare, PoolKept), ProtocolError> {
    assert_eq!(x.len(), windows.len(), "images have the size that is stated");
    let (columns, rows, needed) = windows.brackets();
    let line = windows.width * windows.channels;
    let covered = (needed.len() < windows.height).then(|| {
        let mut covered = TileShare::zeros(tile, windows.images * needed.len() * line);
        let places: Vec<[usize; 2]> = needed.iter().enumerate().map(|(to, &from)| [to, from]).collect();
        let rows = Pieces { from_count: windows.height, into_count: needed.len(), inner: line, places: &places };
        covered.update(x, |into, from| rows.copy(into, from));
        covered
    });
    let (narrow, kept_columns) = columns.play(tile, covered.as_ref().unwrap_or(x), windows.channels).await?;
    let (winners, kept_rows) = rows.play(tile, &narrow, windows.out_width() * windows.channels).await?;
    Ok((winners, PoolKept { windows: *windows, columns: kept_columns, rows: kept_rows }))
}

/// Gradient of [`max_pool`]: each window's goes to the cell that won it; windows that share a cell add up.
///
/// | | |
/// |---|---|
/// | Computes | for each cell the sum of `gradient` over the windows that it won, no comparison. Exact |
/// | Holds | what [`max_pool`] kept, `gradient` of the size of its result -> one of the size of its input |
/// | Rounds | 1 per level |
/// | Bytes | `24` over the three parties for every difference of [`Windows::comparisons`] |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`inject_again`]: `b g` to the first of a pair, `g - b g` to the second |
pub async fn max_pool_backward(
    tile: &Tile<'_>,
    kept: &PoolKept,
    gradient: &TileShare,
) -> Result<TileShare, ProtocolError> {
    let windows = &kept.windows;
    let (columns, rows, needed) = windows.brackets();
    let line = windows.width * windows.channels;
    let narrow = rows.back(tile, &kept.rows, gradient, windows.out_width() * windows.channels).await?;
    let covered = columns.back(tile, &kept.columns, &narrow, windows.channels).await?;
    if needed.len() == windows.height {
        return Ok(covered);
    }
    let mut all = TileShare::zeros(tile, windows.len());
    let places: Vec<[usize; 2]> = needed.iter().enumerate().map(|(from, &to)| [to, from]).collect();
    let rows = Pieces { from_count: needed.len(), into_count: windows.height, inner: line, places: &places };
    all.update(&covered, |into, from| rows.copy(into, from));
    Ok(all)
}

/// A tournament along one axis. What takes part lies as `[lines][entries][inner]`; a match is between two entries of
/// the same line, for each of the `inner` numbers by itself.
struct Bracket {
    /// Entries that take part: level 0.
    cells: usize,
    /// Who meets whom, level by level.
    levels: Vec<Vec<[Entry; 2]>>,
    /// Who has won each window.
    winners: Vec<Entry>,
}

/// A cell (level 0), or the winner of a match.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    level: usize,
    index: usize,
}

impl Bracket {
    fn new(cells: usize, windows: Vec<Range<usize>>) -> Self {
        let mut bracket = Self { cells, levels: vec![], winners: vec![] };
        let mut met = BTreeMap::new();
        bracket.winners = windows.into_iter().map(|window| bracket.best(window, &mut met)).collect();
        bracket
    }

    /// The winner among some neighbours, and the matches that takes. A power of two of them to the left, the rest to
    /// the right: no deeper than it must be, and windows that overlap often meet in the same pairs.
    fn best(&mut self, range: Range<usize>, met: &mut BTreeMap<(usize, usize), Entry>) -> Entry {
        if range.len() == 1 {
            return Entry { level: 0, index: range.start };
        }
        if let Some(entry) = met.get(&(range.start, range.end)) {
            return *entry;
        }
        let middle = range.start + range.len().next_power_of_two() / 2;
        let pair = [self.best(range.start..middle, met), self.best(middle..range.end, met)];
        let level = 1 + pair[0].level.max(pair[1].level);
        self.levels.resize_with(self.levels.len().max(level), Vec::new);
        let matches = &mut self.levels[level - 1];
        let entry = Entry { level, index: matches.len() };
        matches.push(pair);
        met.insert((range.start, range.end), entry);
        entry
    }

    /// Entries of every level.
    fn sizes(&self) -> Vec<usize> {
        std::iter::once(self.cells).chain(self.levels.iter().map(Vec::len)).collect()
    }

    /// The winner of every window, and what each level leaves for the gradient.
    async fn play(
        &self,
        tile: &Tile<'_>,
        cells: &TileShare,
        inner: usize,
    ) -> Result<(TileShare, Vec<Kept>), ProtocolError> {
        let lines = cells.len() / (self.cells * inner).max(1);
        let (mut won, mut kept) = (Vec::with_capacity(self.levels.len()), Vec::with_capacity(self.levels.len()));
        for matches in &self.levels {
            let side = |side: usize| self.gather(tile, cells, &won, &one_side(matches, side), lines);
            let (first, second) = (side(0), side(1));
            let difference = first.minus(&second);
            let first_wins = sign(tile, &difference).await?;
            let (gain, bits) = inject(tile, &first_wins, &difference).await?;
            won.push(second.plus(&gain));
            kept.push(bits);
        }
        let level = self.levels.len();
        let in_order = (0..self.sizes()[level]).map(|index| Entry { level, index });
        let winners = if level > 0 && self.winners.iter().copied().eq(in_order) { won.pop() } else { None };
        let winners = winners.unwrap_or_else(|| self.gather(tile, cells, &won, &self.winners, lines));
        Ok((winners, kept))
    }

    /// The gradient of every cell from that of every window's winner.
    async fn back(
        &self,
        tile: &Tile<'_>,
        kept: &[Kept],
        gradient: &TileShare,
        inner: usize,
    ) -> Result<TileShare, ProtocolError> {
        let lines = gradient.len() / (self.winners.len() * inner).max(1);
        let mut levels: Vec<TileShare> =
            self.sizes().iter().map(|size| TileShare::zeros(tile, lines * size * inner)).collect();
        self.scatter(&mut levels, &self.winners, gradient, lines);
        for (matches, kept) in self.levels.iter().zip(kept).rev() {
            let gradient = levels.pop().expect("a gradient per level");
            let of_first = inject_again(tile, kept, &gradient).await?;
            let of_second = gradient.minus(&of_first);
            self.scatter(&mut levels, &one_side(matches, 0), &of_first, lines);
            self.scatter(&mut levels, &one_side(matches, 1), &of_second, lines);
        }
        Ok(levels.pop().expect("the cells are left"))
    }

    /// Entries in a new order, line by line.
    fn gather(
        &self,
        tile: &Tile<'_>,
        cells: &TileShare,
        won: &[TileShare],
        picked: &[Entry],
        lines: usize,
    ) -> TileShare {
        let (sizes, count) = (self.sizes(), picked.len());
        let inner = cells.len() / (lines * self.cells).max(1);
        let mut gathered = TileShare::zeros(tile, lines * count * inner);
        for (level, from) in std::iter::once(cells).chain(won).enumerate() {
            let places = places(picked, level);
            let pieces = Pieces { from_count: sizes[level], into_count: count, inner, places: &places };
            gathered.update(from, |into, from| pieces.copy(into, from));
        }
        gathered
    }

    /// Undoes a [`Bracket::gather`]: adds every number to the entry that it came from.
    fn scatter(&self, levels: &mut [TileShare], picked: &[Entry], from: &TileShare, lines: usize) {
        let (sizes, count) = (self.sizes(), picked.len());
        let inner = from.len() / (lines * count).max(1);
        for (level, into) in levels.iter_mut().enumerate() {
            let places: Vec<[usize; 2]> = places(picked, level).iter().map(|&[to, from]| [from, to]).collect();
            let pieces = Pieces { from_count: count, into_count: sizes[level], inner, places: &places };
            into.update(from, |into, from| pieces.add(into, from));
        }
    }
}

/// The first or the second of every match.
fn one_side(matches: &[[Entry; 2]], side: usize) -> Vec<Entry> {
    matches.iter().map(|pair| pair[side]).collect()
}

/// Which of the picked entries come from a level: their number in the pick, and in the level.
fn places(picked: &[Entry], level: usize) -> Vec<[usize; 2]> {
    picked.iter().enumerate().filter(|(_, entry)| entry.level == level).map(|(to, entry)| [to, entry.index]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::carry_bytes;
    use crate::world::{Cost, World, assert_masked};

    fn square(images: usize, side: usize, channels: usize, kernel: usize, stride: usize, padding: usize) -> Windows {
        Windows {
            images,
            height: side,
            width: side,
            channels,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 4],
        }
    }

    /// The cells of every window, in row-major order, as indices into the input; windows in the order of the result.
    fn cells(w: &Windows) -> Vec<Vec<usize>> {
        let mut all = vec![];
        for (image, top) in (0..w.images).flat_map(|i| (0..w.out_height()).map(move |y| (i, y))) {
            for (left, channel) in (0..w.out_width()).flat_map(|x| (0..w.channels).map(move |c| (x, c))) {
                let cell = |dy: usize, dx: usize| {
                    let y = (top * w.stride[0] + dy).checked_sub(w.padding[0]).filter(|y| *y < w.height)?;
                    let x = (left * w.stride[1] + dx).checked_sub(w.padding[1]).filter(|x| *x < w.width)?;
                    Some(((image * w.height + y) * w.width + x) * w.channels + channel)
                };
                let window = (0..w.kernel[0]).flat_map(|dy| (0..w.kernel[1]).map(move |dx| (dy, dx)));
                all.push(window.filter_map(|(dy, dx)| cell(dy, dx)).collect());
            }
        }
        all
    }

    /// The first of a window's largest cells.
    fn winner(window: &[usize], x: &[u64]) -> usize {
        let largest = window.iter().map(|&at| x[at].cast_signed()).max().unwrap();
        *window.iter().find(|at| x[**at].cast_signed() == largest).unwrap()
    }

    fn cost(windows: &Windows) -> [Cost; 2] {
        let (sign, depth) = carry_bytes(&Default::default(), 31);
        let levels = windows.comparisons();
        let rounds = u32::try_from(levels.len()).unwrap();
        let forward = levels.iter().map(|n| sign * n.div_ceil(64) + 32 * n).sum();
        // Nothing comes before the first comparison, so the evaluators wait once for what the helper deals.
        let first = u32::from(rounds > 0);
        [
            Cost { rounds: first + rounds * (depth + 1), sent_bytes: forward },
            Cost { rounds, sent_bytes: levels.iter().map(|n| 24 * n).sum() },
        ]
    }

    /// Runs both directions and compares values, gradients, rounds and bytes.
    fn check(windows: &Windows, x: &[u64], helper: usize) {
        let expected = cells(windows);
        let (z, run) = World::new(3).tile(helper, [x], async |tile, [x]| Ok(max_pool(tile, &x, windows).await?.0));
        let winners: Vec<usize> = expected.iter().map(|window| winner(window, x)).collect();
        assert_eq!(z, winners.iter().map(|&at| x[at]).collect::<Vec<_>>());
        let [forward, backward] = cost(windows);
        assert_eq!(run.cost, forward);

        let gradient: Vec<u64> = (0..z.len() as u64).map(|i| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let (into_input, run) = World::new(4).tile(helper, [x, &gradient], async |tile, [x, gradient]| {
            let (_, kept) = max_pool(tile, &x, windows).await?;
            max_pool_backward(tile, &kept, &gradient).await
        });
        let mut want = vec![0_u64; x.len()];
        for (&at, g) in winners.iter().zip(&gradient) {
            want[at] = want[at].wrapping_add(*g);
        }
        assert_eq!(into_input, want);
        let both =
            Cost { rounds: forward.rounds + backward.rounds, sent_bytes: forward.sent_bytes + backward.sent_bytes };
        assert_eq!(run.cost, both);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn pools_match_plaintext(
            (images, channels) in (1_usize..3, 1_usize..4),
            sizes in [1_usize..10, 1_usize..10], kernel in [1_usize..5, 1_usize..5], stride in [1_usize..4, 1_usize..4],
            padding in [0_usize..4, 0_usize..4, 0_usize..4, 0_usize..4], few: bool, helper in 0_usize..3, seed: u64,
        ) {
            let [height, width] = [sizes[0].max(kernel[0]), sizes[1].max(kernel[1])];
            let padding = std::array::from_fn(|i| padding[i].min(kernel[i % 2] - 1));
            let windows = Windows { images, height, width, channels, kernel, stride, padding };
            // With few different values most windows have ties.
            let spread = if few { 3 } else { 1 << 29 };
            let x: Vec<u64> = (0..windows.len() as u64)
                .map(|i| {
                    let mixed = (i + 1).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                    ((mixed % (2 * spread)).cast_signed() - spread.cast_signed()).cast_unsigned()
                })
                .collect();
            check(&windows, &x, helper);
        }
    }

    #[test]
    fn a_pool_of_two_by_two_compares_three_quarters_of_its_input() {
        let windows = square(4, 16, 8, 2, 2, 0);
        assert_eq!(windows.comparisons(), [4 * 16 * 8 * 8, 4 * 8 * 8 * 8]);
        let [forward, _] = cost(&windows);
        // Per input and party.
        assert!(forward.sent_bytes <= 13 * 3 * windows.len());
        assert_eq!(forward.rounds, 1 + 2 * 6);
    }

    #[test]
    fn windows_that_overlap_share_their_comparisons() {
        // Three by three, stride 2, as at the start of a residual network: 1.5 comparisons per cell, eight for a window.
        let windows = square(1, 112, 1, 3, 2, 1);
        assert_eq!((windows.out_height(), windows.out_width()), (56, 56));
        let total: usize = windows.comparisons().iter().sum();
        assert_eq!(total, 112 * (55 * 2 + 1) + 56 * (55 * 2 + 1));
        // Every pair of a long window meets once for all windows.
        assert_eq!(Bracket::new(10, (0..7).map(|i| i..i + 4).collect()).sizes(), [10, 9, 7]);
    }

    #[test]
    fn rows_that_no_window_covers_are_not_compared() {
        let windows = Windows { height: 7, kernel: [2, 2], stride: [3, 2], ..square(1, 4, 1, 2, 2, 0) };
        assert_eq!(windows.comparisons(), [2 * 2 * 2, 2 * 2]);
        check(&windows, &(0..28).map(|i| i * 5 % 17).collect::<Vec<_>>(), 1);
    }

    #[test]
    fn a_window_of_one_cell_costs_nothing() {
        let windows = square(1, 3, 2, 1, 2, 0);
        assert_eq!(windows.comparisons(), [0; 0]);
        check(&windows, &(0..18).collect::<Vec<_>>(), 0);
    }

    #[test]
    fn pools_send_only_masked_words() {
        let windows = square(2, 8, 2, 3, 2, 1);
        let x: Vec<u64> = (0..256).map(|i| (i * 37) << 14 & 0x3f_ffff).collect();
        let gradient: Vec<u64> = (0..64).map(|i| i << 10).collect();
        let program = async |tile: &Tile<'_>, [x, gradient]: [TileShare; 2]| {
            let (_, kept) = max_pool(tile, &x, &windows).await?;
            max_pool_backward(tile, &kept, &gradient).await
        };
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x, &gradient], program).1;
        assert_masked(&run(2), &run(3));
    }
}
