//! Functions that bend from 0 to `x`, and their slopes, by a Fourier series that needs no product of shares.
//!
//! In a window `f(x) = x/2 + x^2/4L + a_0 + sum a_k cos(k pi x / L)`: the square takes the corner out of the periodic
//! rest, so that few harmonics do, and costs nothing, since a square is an additive share as it stands. The slope
//! `f'(x) = 1/2 + x/2L - sum a_k (k pi / L) sin(k pi x / L)` uses the same sines and cosines.
//!
//! `sin k(t + l)` and `cos k(t + l)` split into what the evaluators know of `t` and what the helper tabulates of `l`.

use std::f64::consts::PI;

use super::{unit, word};
use crate::compute::Words;
use crate::compute::curves::{Circle, Series};
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

    /// What the harmonics add to a part, at so many times its scale.
    fn harmonic_part(&self, part: Part, scale: f64) -> Series {
        let coefficient = |(harmonic, cosine): (u32, &f64)| match part {
            Part::Value => cosine * scale,
            Part::Slope => -cosine * f64::from(harmonic) * PI / self.reach() * scale,
        };
        let coefficients = (1..).zip(&self.cosines[1..]).map(coefficient).collect();
        Series { of_sines: part == Part::Slope, coefficients }
    }
}

/// The parts inside the window; anything beyond it.
async fn series(tile: &Tile<'_>, x: &TileShare, bend: &Bend, parts: &[Part]) -> Result<Vec<TileShare>, ProtocolError> {
    let (op, n, fixed) = (tile.op(), x.len(), tile.party().fixed());
    let (harmonics, product_bits) = (bend.harmonics(), bend.product_bits(fixed.bits(), parts));
    let known = x.known(tile);
    let circle = Circle { turns: u64::from(bend.turns), period_bits: fixed.bits() + bend.reach_bits + 1 };
    let polynomials: Vec<_> = parts.iter().map(|part| bend.polynomial(tile, x, *part, product_bits)).collect();
    let mut sums = Words::concat(polynomials.iter().map(DoubledPartial::addends));
    if tile.is_helper() {
        op.deal(Purpose::Table, circle.tabulate(known.words(), harmonics, unit(TABLE_BITS)));
    } else {
        let table = op.dealt(Purpose::Table, 2 * harmonics * n).await?;
        let series: Vec<_> =
            parts.iter().map(|part| bend.harmonic_part(*part, unit(product_bits - TABLE_BITS))).collect();
        circle.add_series(sums.all_mut(), known.words(), table.all(), &series);
    }
    let all = trunc_exact(tile, DoubledPartial(sums), product_bits - fixed.bits()).await?;
    let part = |(i, part): (usize, &Part)| {
        all.slice(i * n..(i + 1) * n).plus_public(tile, word(bend.constant(*part) * fixed.scale()))
    };
    Ok(parts.iter().enumerate().map(part).collect())
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
