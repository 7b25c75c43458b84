//! Functions that bend from 0 to `x`, and their slopes, by a Fourier series that needs no product of shares.
//!
//! In a window `f(x) = x/2 + x^2/4L + a_0 + sum a_k cos(k pi x / L)`: the square takes the corner out of the periodic
//! rest, so that few harmonics do, and costs nothing, since a square is an additive share as it stands. The slope
//! `f'(x) = 1/2 + x/2L - sum a_k (k pi / L) sin(k pi x / L)` uses the same sines and cosines.
//!
//! `sin k(t + l)` and `cos k(t + l)` split into what the evaluators know of `t` and what the helper tabulates of `l`.

use std::f64::consts::{PI, TAU};
use std::sync::LazyLock;

use super::{unit, word};
use crate::protocol::{
    DoubledPartial, Factor, ProtocolError, Purpose, Tile, TileShare, inject_sums, join, signs, square_doubled,
    trunc_exact,
};

/// A function that is 0 far to the left, `x` far to the right, and whose slope goes from 0 to 1.
pub(super) struct Bend {
    /// The window reaches `L = 2^reach_bits / turns` to either side; `turns` is odd.
    pub(super) reach_bits: u32,
    /// See [`Bend::reach_bits`].
    pub(super) turns: u32,
    /// Where the straight lines begin, at most `L`. The fewer bits it has, the cheaper the comparison with both ends.
    pub(super) edge: f64,
    /// `a_0`, `a_1` and so on.
    pub(super) cosines: &'static [f64],
}

/// What is asked of a [`Bend`].
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Part {
    Value,
    Slope,
}

/// Fraction bits of the tabulated sines and cosines.
const TABLE_BITS: u32 = 20;

/// Value or slope of a bend, or both.
///
/// | | |
/// |---|---|
/// | Computes | for each part, the series inside `[-edge, edge)`; below 0; above `x`, or 1 for the slope |
/// | Holds | `x` of `n` elements, `x +- edge` in the comparison window -> `p` parts of `n` |
/// | Rounds | those of [`signs`], and 1 |
/// | Bytes | over the three parties `16 n` for each of the harmonics, two [`signs`], [`trunc_exact`] by [`Bend::product_bits`] less `f` for each part, and `(16 + 24 p + 8 v) n` with `v` of the parts a value |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | series on a masked argument as in Chen et al., "Secure Softmax/Sigmoid for Machine-Learning Computation", ACSAC 2023; the polynomial that makes it periodic, and value and slope from one table, are ours |
pub(super) async fn bend(
    tile: &Tile<'_>,
    x: &TileShare,
    bend: &Bend,
    parts: &[Part],
) -> Result<Vec<TileShare>, ProtocolError> {
    let (fixed, side) = (tile.party().fixed(), tile.fork());
    let ends = [-bend.edge, bend.edge].map(|edge| fixed.constant(edge));
    let (inner, above) = join(series(tile, x, bend, parts), signs(&side, x, &ends)).await?;
    tile.rejoin(&side);
    let inside = above[0].clone().xor(&above[1]);
    let sum = |(inner, part)| {
        let beyond = if part == Part::Value { Factor::Share(x) } else { Factor::Public(fixed.constant(1.0)) };
        vec![(0, Factor::Share(inner)), (1, beyond)]
    };
    let sums: Vec<_> = inner.iter().zip(parts.iter().copied()).map(sum).collect();
    inject_sums(tile, &[&inside, &above[1]], &sums, x.len()).await
}

impl Bend {
    /// `L`.
    fn reach(&self) -> f64 {
        unit(self.reach_bits) / f64::from(self.turns)
    }

    fn harmonics(&self) -> usize {
        self.cosines.len() - 1
    }

    /// Fraction bits before truncation: as many as the square needs to be added without being divided.
    fn product_bits(&self, fraction_bits: u32, parts: &[Part]) -> u32 {
        let square = if parts.contains(&Part::Value) { 2 * fraction_bits + self.reach_bits + 3 } else { 0 };
        square.max(2 * TABLE_BITS)
    }

    /// The polynomial of a part but for its constant.
    fn polynomial(&self, tile: &Tile<'_>, x: &TileShare, part: Part, product_bits: u32) -> DoubledPartial {
        let (f, turns) = (tile.party().fixed().bits(), u64::from(self.turns));
        match part {
            Part::Value => square_doubled(tile, x)
                .times(turns << (product_bits - 2 * f - self.reach_bits - 3))
                .plus(&DoubledPartial::from_share(tile, x, 1 << (product_bits - f - 2))),
            Part::Slope => DoubledPartial::from_share(tile, x, turns << (product_bits - f - self.reach_bits - 2)),
        }
    }

    /// The constant of a part.
    fn constant(&self, part: Part) -> f64 {
        if part == Part::Value { self.cosines[0] } else { 0.5 }
    }

    /// What a harmonic adds to a part: multiples of `cos k(t + l)`, of `sin k(t + l)`.
    fn coefficient(&self, harmonic: usize, part: Part) -> f64 {
        let cosine = self.cosines[harmonic];
        #[allow(clippy::cast_precision_loss, reason = "a few harmonics")]
        let slope = -cosine * (harmonic as f64) * PI / self.reach();
        if part == Part::Value { cosine } else { slope }
    }
}

/// The parts inside the window; anything beyond it.
async fn series(tile: &Tile<'_>, x: &TileShare, bend: &Bend, parts: &[Part]) -> Result<Vec<TileShare>, ProtocolError> {
    let (op, n, fixed) = (tile.op(), x.len(), tile.party().fixed());
    let (harmonics, product_bits) = (bend.harmonics(), bend.product_bits(fixed.bits(), parts));
    let known = x.known(tile);
    let circle = Circle { turns: u64::from(bend.turns), period_bits: fixed.bits() + bend.reach_bits + 1 };
    let mut sums: Vec<u64> = parts.iter().flat_map(|part| bend.polynomial(tile, x, *part, product_bits).0).collect();
    if tile.is_helper() {
        let mut table = vec![0; 2 * harmonics * n];
        circle.multiples(&known, harmonics, |k, start, sin, cos| {
            let (sines, cosines) = table[2 * (k - 1) * n..2 * k * n].split_at_mut(n);
            for (into, from) in [(sines, sin), (cosines, cos)] {
                for (into, from) in into[start..].iter_mut().zip(from) {
                    *into = nearest(from * unit(TABLE_BITS));
                }
            }
        });
        op.deal(Purpose::Table, table);
    } else {
        let table = op.dealt(Purpose::Table, 2 * harmonics * n).await?;
        let scale = unit(product_bits - TABLE_BITS);
        circle.multiples(&known, harmonics, |k, start, sin, cos| {
            let (sines, cosines) = table[2 * (k - 1) * n..2 * k * n].split_at(n);
            for (part, sums) in parts.iter().zip(sums.chunks_mut(n)) {
                let coefficient = bend.coefficient(k, *part) * scale;
                // cos(t + l) = cos t cos l - sin t sin l; sin(t + l) = sin t cos l + cos t sin l.
                let (by_sine, by_cosine, sign) =
                    if *part == Part::Value { (sin, cos, -coefficient) } else { (cos, sin, coefficient) };
                let dealt = sines[start..].iter().zip(&cosines[start..]);
                for ((sum, (sine, cosine)), (by_sine, by_cosine)) in
                    sums[start..].iter_mut().zip(dealt).zip(by_sine.iter().zip(by_cosine))
                {
                    let with_sine = nearest(by_sine * sign).wrapping_mul(*sine);
                    let with_cosine = nearest(by_cosine * coefficient).wrapping_mul(*cosine);
                    *sum = sum.wrapping_add(with_sine).wrapping_add(with_cosine);
                }
            }
        });
    }
    let all = trunc_exact(tile, DoubledPartial(sums), product_bits - fixed.bits()).await?;
    let part = |(i, part): (usize, &Part)| {
        all.slice(i * n..(i + 1) * n).plus_public(tile, word(bend.constant(*part) * fixed.scale()))
    };
    Ok(parts.iter().enumerate().map(part).collect())
}

/// Words as angles: `turns` times a word, modulo `2^period_bits`, is a part of a full turn.
struct Circle {
    turns: u64,
    period_bits: u32,
}

/// Words that are turned into sines at a time: small enough for the cache, and for loops of a known length.
const BLOCK: usize = 64;
/// Pieces into which a turn is cut for the table of sines.
const PIECES_BITS: u32 = 8;

/// Sine and cosine at the start of every piece.
static TURN: LazyLock<Vec<(f64, f64)>> = LazyLock::new(|| {
    let step = small_angle(TAU / unit(PIECES_BITS));
    let next = |&(sin, cos): &(f64, f64)| Some((sin * step.1 + cos * step.0, cos * step.1 - sin * step.0));
    std::iter::successors(Some((0.0, 1.0)), next).take(1 << PIECES_BITS).collect()
});

impl Circle {
    /// Calls `each(k, start, sines, cosines)` with those of `k` times the angles, for `k` from 1, block by block.
    fn multiples(&self, words: &[u64], harmonics: usize, mut each: impl FnMut(usize, usize, &[f64], &[f64])) {
        for (block, words) in words.chunks(BLOCK).enumerate() {
            let (mut sin1, mut cos1) = ([0.0; BLOCK], [0.0; BLOCK]);
            for (word, (sin, cos)) in words.iter().zip(sin1.iter_mut().zip(&mut cos1)) {
                (*sin, *cos) = self.angle(*word);
            }
            let (mut sin, mut cos) = (sin1, cos1);
            for k in 1..=harmonics {
                each(k, block * BLOCK, &sin[..words.len()], &cos[..words.len()]);
                for i in 0..BLOCK {
                    let (s, c) = (sin[i], cos[i]);
                    sin[i] = s * cos1[i] + c * sin1[i];
                    cos[i] = c * cos1[i] - s * sin1[i];
                }
            }
        }
    }

    /// Sine and cosine of a word's angle.
    ///
    /// Both evaluators must arrive at the same words on every machine, so this uses additions and products alone; the
    /// library's sine may differ in the last bit between systems.
    fn angle(&self, word: u64) -> (f64, f64) {
        let within = word.wrapping_mul(self.turns) & ((1 << self.period_bits) - 1);
        let rest_bits = self.period_bits - PIECES_BITS;
        #[allow(clippy::cast_possible_truncation, reason = "a period has at most 2^30 words")]
        let (piece, rest) = ((within >> rest_bits) as usize, (within & ((1 << rest_bits) - 1)) as u32);
        let (sin, cos) = TURN[piece];
        let (sin_rest, cos_rest) = small_angle(f64::from(rest) * (TAU / unit(self.period_bits)));
        (sin * cos_rest + cos * sin_rest, cos * cos_rest - sin * sin_rest)
    }
}

/// Taylor series, good to 1e-17 below 1/40.
fn small_angle(x: f64) -> (f64, f64) {
    let square = x * x;
    let sin = x * (1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0)));
    let cos = 1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0));
    (sin, cos)
}

/// The ring element nearest to a number below 2^51: beside `1.5 2^52` a double counts units, and its bits with them.
fn nearest(value: f64) -> u64 {
    const UNITS: f64 = 6_755_399_441_055_744.0;
    (value + UNITS).to_bits().wrapping_sub(UNITS.to_bits())
}

#[cfg(test)]
impl Bend {
    /// Payload bytes of [`bend`] over the three parties with a comparison window of 32.
    pub(super) fn bytes(&self, n: usize, fixed: shared::fixed::FixedPoint, parts: &[Part]) -> usize {
        let ends = [-self.edge, self.edge].map(|edge| fixed.constant(edge));
        let signs = crate::protocol::carries_bytes(&Default::default(), 31, &ends).0 * n.div_ceil(64);
        let trunc = super::trunc_bytes(parts.len() * n, self.product_bits(fixed.bits(), parts) - fixed.bits());
        let values = parts.iter().filter(|part| **part == Part::Value).count();
        16 * self.harmonics() * n + signs + trunc + (16 + 24 * parts.len() + 8 * values) * n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_close_and_numbers_rounded_to_the_nearest() {
        for (turns, period_bits) in [(1, 20), (7, 23), (1, 11), (7, 27)] {
            let circle = Circle { turns, period_bits };
            let words: Vec<u64> = (0..1000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            circle.multiples(&words, 7, |k, start, sin, cos| {
                for (i, (sin, cos)) in sin.iter().zip(cos).enumerate() {
                    let part = words[start + i].wrapping_mul(turns) & ((1 << period_bits) - 1);
                    #[allow(clippy::cast_precision_loss, reason = "below 2^52")]
                    let angle = k as f64 * TAU * (part as f64 / unit(period_bits));
                    assert!((sin - angle.sin()).abs() < 1e-13 && (cos - angle.cos()).abs() < 1e-13);
                }
            });
        }
        let big = 1_000_000_000_000_000_i64;
        for (value, want) in [(0.4, 0), (0.6, 1), (-0.6, -1), (1e15 + 0.3, big), (-1e15 - 0.3, -big)] {
            assert_eq!(nearest(value).cast_signed(), want);
        }
    }
}
