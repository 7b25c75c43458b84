//! What functions on shares cost: each is the walk that the function of the same name in the party's code takes.

use std::collections::BTreeMap;
use std::ops::Range;

use shared::model::{Pool, Shape};

use super::walk::{Sizes, Walk};

/// Bits of public factors, and of rates that divide.
const FACTOR_BITS: u32 = 20;
/// Fraction bits inside of roots, of their slopes, and of their scales.
const ROOT_BITS: u32 = 22;
const ROOT_SLOPE_BITS: u32 = 8;
const ROOT_SCALE_BITS: u32 = 30;
/// Factors of a root.
const ROOT_FACTORS: usize = 3;
/// Fraction bits inside of logarithms, and of their higher coefficients.
const LOG_BITS: u32 = 22;
const LOG_COEFFICIENT_BITS: u32 = 16;
/// Fraction bits inside of quotients, and of a product of two numbers and a slope.
const QUOTIENT_BITS: u32 = 24;
const QUOTIENT_PRODUCT_BITS: u32 = 59;
/// Fraction bits of tabulated sines and cosines.
const TABLE_BITS: u32 = 20;
/// Bits of a random bit's probability.
const PROBABILITY_BITS: u32 = 8;

/// A function that bends from 0 to `x`.
#[derive(Clone, Copy)]
pub(super) struct Bend {
    reach_bits: u32,
    edge: f64,
    harmonics: usize,
}

pub(super) const SOFTPLUS: Bend = Bend { reach_bits: 3, edge: 8.0, harmonics: 5 };
pub(super) const GELU: Bend = Bend { reach_bits: 2, edge: 4.0, harmonics: 4 };
pub(super) const SILU: Bend = Bend { reach_bits: 6, edge: 9.0, harmonics: 7 };

/// What is asked of a bend.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Parts {
    Value,
    Slope,
    Both,
}

/// Powers of two between which numbers are told apart.
struct Range2 {
    highest: i32,
    lowest: i32,
    stride: i32,
}

impl Walk {
    /// Products with public factors, all the same or not.
    pub(super) fn scaled(&mut self, n: Sizes, factors_are_two_or_none: bool) {
        if !factors_are_two_or_none {
            self.trunc_exact(n, FACTOR_BITS + 1);
        }
    }

    pub(super) fn relu(&mut self, n: Sizes) {
        self.sign(n);
        self.inject(n);
    }

    pub(super) fn leaky_relu(&mut self, n: Sizes) {
        self.join(|walk| walk.sign(n), |walk| walk.trunc_exact(n, FACTOR_BITS + 1));
        self.inject(n);
    }

    pub(super) fn leaky_relu_backward(&mut self, n: Sizes) {
        self.trunc_exact(n, FACTOR_BITS + 1);
        self.inject_again(n);
    }

    pub(super) fn clamp(&mut self, n: Sizes, low: f64, high: f64) {
        let ends = [low, high].map(|end| self.spec().fraction_bits.constant(end));
        self.signs(n, &ends);
        self.inject_sum(n, 1, 1);
    }

    pub(super) fn bend(&mut self, n: Sizes, bend: Bend, parts: Parts) {
        let (f, count) = (self.fraction(), if parts == Parts::Both { 2 } else { 1 });
        let values = usize::from(parts != Parts::Slope);
        let square = if values > 0 { 2 * f + bend.reach_bits + 3 } else { 0 };
        let product_bits = square.max(2 * TABLE_BITS);
        let ends = [-bend.edge, bend.edge].map(|edge| self.spec().fraction_bits.constant(edge));
        let series = |walk: &mut Self| {
            walk.table(n, 2 * bend.harmonics);
            walk.trunc_exact(n.times(count), product_bits - f);
        };
        self.join(series, |walk| walk.signs(n, &ends));
        self.inject_sums(n, 2, count, count + values);
    }

    pub(super) fn sigmoid(&mut self, n: Sizes) {
        self.bend(n, SOFTPLUS, Parts::Slope);
    }

    /// `n` numbers placed between powers of two, and so many forms of the place.
    fn normalise(&mut self, n: Sizes, range: &Range2, forms: usize) {
        let ends: Vec<i32> =
            (0..).map(|i| range.highest - i * range.stride).take_while(|end| *end > range.lowest).collect();
        let power = |end: &i32| self.spec().fraction_bits.constant(f64::from(*end).exp2());
        let edges: Vec<u64> = std::iter::once(&range.lowest).chain(ends.iter().rev()).map(power).collect();
        self.signs(n, &edges);
        self.join(|walk| walk.inject_sums(n, ends.len(), forms, 0), |walk| walk.inject_sum(n, 2, 0));
    }

    pub(super) fn inverse_sqrt(&mut self, n: Sizes) {
        let f = self.fraction();
        let highest = (self.spec().compare_bits - 2 - f).min(14).cast_signed();
        self.normalise(n, &Range2 { highest, lowest: -f.min(16).cast_signed(), stride: 2 }, 2);
        self.trunc_exact(n, f + ROOT_SCALE_BITS + 1 - ROOT_BITS);
        for _ in 1..ROOT_FACTORS {
            self.trunc_exact(n.times(2), ROOT_BITS + ROOT_SLOPE_BITS + 1);
            self.trunc_exact(n, ROOT_BITS + ROOT_SLOPE_BITS + 1);
        }
        self.trunc_exact(n, 2 * ROOT_BITS + ROOT_SLOPE_BITS + 1 - f);
    }

    /// The largest of each row, by all pairs.
    fn row_max(&mut self, rows: Sizes, cols: usize) {
        self.sign(rows.times(cols * (cols - 1) / 2));
        let mut slots = cols - 1;
        while slots > 1 {
            // Planes of bits end to end: the rows of all columns, to whole words.
            let words = rows.times(cols).words();
            self.and(words.times(64 * (slots / 2)));
            slots -= slots / 2;
        }
        self.inject_sum(rows, cols, 0);
    }

    fn exp_clamped(&mut self, n: Sizes) {
        let f = self.fraction();
        let exp = |walk: &mut Self| {
            walk.carries(n, f + 4, &[0]);
            walk.table(n, 2);
            walk.trunc_exact(n, 60 - f);
        };
        self.join(exp, |walk| walk.sign(n));
        self.inject(n);
    }

    pub(super) fn softmax(&mut self, rows: Sizes, cols: usize) {
        self.row_max(rows, cols);
        self.exp_clamped(rows.times(cols));
        let f = self.fraction();
        let factors = match cols {
            ..=3 => 3,
            4..=10 => 4,
            11..=40 => 5,
            _ => 6,
        };
        let mut bits = f;
        for factor in 1..=factors {
            let slope_bits = (QUOTIENT_PRODUCT_BITS - 2 * bits).min(24);
            let last = factor == factors;
            let next = if last { f } else { QUOTIENT_BITS };
            self.trunc_exact(rows.times(if last { cols } else { cols + 1 }), 2 * bits + slope_bits + 1 - next);
            bits = QUOTIENT_BITS;
        }
    }

    pub(super) fn log_softmax(&mut self, rows: Sizes, cols: usize) {
        self.row_max(rows, cols);
        self.exp_clamped(rows.times(cols));
        let highest = cols.next_power_of_two().ilog2().cast_signed() + 1;
        let f = self.fraction();
        self.normalise(rows, &Range2 { highest, lowest: -1, stride: 1 }, 2);
        self.trunc_exact(rows, f + 1);
        self.trunc_exact(rows, LOG_BITS + 1);
        self.trunc_exact(rows.times(2), LOG_BITS + 1);
        self.trunc_exact(rows, LOG_COEFFICIENT_BITS + 2 * LOG_BITS + 1 - f);
    }

    /// Bits that are set with a probability.
    pub(super) fn biased_bits(&mut self, n: Sizes, probability: f64) {
        let bound = probability_bound(probability);
        let gates = (PROBABILITY_BITS - 1).saturating_sub(bound.trailing_zeros());
        (0..gates).for_each(|_| self.and(n));
    }
}

/// A probability in units of 1/256, at least one of them.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a probability lies between 0 and 1")]
fn probability_bound(probability: f64) -> u32 {
    ((probability * f64::from(1 << PROBABILITY_BITS)).round() as u32).clamp(1, 1 << PROBABILITY_BITS)
}

/// Whether kept values double in a secret dropout.
pub(super) fn keeps_half(keep: f64) -> bool {
    probability_bound(keep) == 1 << (PROBABILITY_BITS - 1)
}

/// Comparisons for each image of a max-pooling layer, level by level: along the columns, then along the rows.
pub(super) fn pool_levels(input: Shape, pool: &Pool) -> Vec<usize> {
    let rows = windows(input.height, pool, 0);
    let needed: Vec<usize> = (0..input.height).filter(|y| rows.iter().any(|window| window.contains(y))).collect();
    let place = |y: usize| needed.partition_point(|&row| row < y);
    let among: Vec<_> = rows.iter().map(|window| place(window.start)..place(window.end)).collect();
    let columns = windows(input.width, pool, 1);
    let across = tournament(&columns).into_iter().map(|matches| matches * needed.len() * input.channels);
    let down = tournament(&among).into_iter().map(|matches| matches * columns.len() * input.channels);
    across.chain(down).collect()
}

/// The cells of every window along an axis, without padding.
fn windows(cells: usize, pool: &Pool, axis: usize) -> Vec<Range<usize>> {
    let (kernel, before, after) = (pool.kernel[axis], pool.padding[axis], pool.padding[axis + 2]);
    let room = cells + before + after - kernel;
    let window = |start: usize| start.saturating_sub(before)..(start + kernel - before).min(cells);
    (0..=room / pool.stride[axis]).map(|i| window(i * pool.stride[axis])).collect()
}

/// Matches of each level, with windows that overlap sharing what they can.
fn tournament(windows: &[Range<usize>]) -> Vec<usize> {
    let (mut levels, mut met) = (Vec::new(), BTreeMap::new());
    for window in windows {
        play(window.clone(), &mut levels, &mut met);
    }
    levels
}

/// The level of the winner among some neighbours.
fn play(range: Range<usize>, levels: &mut Vec<usize>, met: &mut BTreeMap<(usize, usize), usize>) -> usize {
    if range.len() == 1 {
        return 0;
    }
    if let Some(level) = met.get(&(range.start, range.end)) {
        return *level;
    }
    let middle = range.start + range.len().next_power_of_two() / 2;
    let level = 1 + play(range.start..middle, levels, met).max(play(middle..range.end, levels, met));
    levels.resize(levels.len().max(level), 0);
    levels[level - 1] += 1;
    met.insert((range.start, range.end), level);
    level
}
