//! Reciprocals and quotients by Goldschmidt's iteration with Chebyshev factors.
//!
//! Numerator and denominator are multiplied by the same factors until the denominator is 1. A factor is the linear
//! function of the denominator that leaves the least error over the interval in which the denominator is known to
//! lie; that takes one step less than Newton's, and both products of a step share a truncation.

use super::{unit, word};
use crate::protocol::{DoubledPartial, ProtocolError, Tile, TileShare, mul_doubled, trunc};

/// What the factors may leave of `abs(1 - d)`.
const RESIDUE_MAX: f64 = 1e-4;
/// A bounded denominator may miss its interval by this much: rounding of whoever computed it.
const SLACK: f64 = 1.0 / 64.0;
/// Products and their limit stay below `2^60`: a factor reaches 2 and a bit, and truncation takes `2^61`.
const PRODUCT_BITS: u32 = 60;

/// `1 / s` for `s` in a public interval.
///
/// | | |
/// |---|---|
/// | Computes | `1 / s` for `low <= s <= high`, `1/2 <= low`, `high <= 128`; relative error `2^-13`, and one unit in the last place. Outside of the interval: garbage |
/// | Holds | `s` of `n` elements -> `n` |
/// | Rounds | 2 per factor: 3 factors up to `high / low = 3`, 4 up to 10, 5 up to 40, 6 up to 128 |
/// | Bytes | those of [`divide_bounded`] with `group = 1` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`divide_bounded`] |
pub async fn reciprocal_bounded(
    tile: &Tile<'_>,
    s: &TileShare,
    low: f64,
    high: f64,
) -> Result<TileShare, ProtocolError> {
    let f = tile.party().fixed().bits();
    let ones = TileShare::public(tile, vec![1 << f; s.len()]);
    let factors = plan([low - SLACK, high + SLACK], f, working_bits(1), 1);
    converge(tile, ones, s.clone(), 1, &factors).await
}

/// `numerators / s` for `s` in `[1, high]`, `group` numerators in a row for each `s`.
///
/// | | |
/// |---|---|
/// | Computes | `x / s`, `abs(x) <= 2`, `1 <= s <= high <= 128`; relative error `2^-13`, and one unit in the last place. Other `s`: garbage |
/// | Holds | `x` of `g n` elements, `s` of `n` -> `g n` |
/// | Rounds | 2 per factor: 3 factors up to `high = 3`, 4 up to 10, 5 up to 40, 6 up to 128 |
/// | Bytes | over the three parties, those of [`trunc`] on `(g+1) n` elements for each factor but the last, on `g n` for that: with 24 bits between steps, about `36 (k (g+1) - 1) n` for `k` factors |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | Goldschmidt's iteration as in Catrina, Saxena, "Secure Computation with Fixed-Point Numbers", FC 2010, section 3.3; Chebyshev factors are ours |
pub async fn divide_bounded(
    tile: &Tile<'_>,
    numerators: &TileShare,
    s: &TileShare,
    group: usize,
    high: f64,
) -> Result<TileShare, ProtocolError> {
    let factors = plan([1.0 - SLACK, high + SLACK], tile.party().fixed().bits(), working_bits(1), 1);
    converge(tile, numerators.clone(), s.clone(), group, &factors).await
}

/// A factor `constant - slope d` and the formats around it.
struct Factor {
    constant: u64,
    slope: u64,
    /// Fraction bits of numerator and denominator before the step.
    bits: u32,
    /// Fraction bits that the slope adds.
    slope_bits: u32,
    /// Fraction bits after the step.
    next_bits: u32,
}

/// Fraction bits between steps for quotients below `2^limit`.
fn working_bits(limit: u32) -> u32 {
    ((PRODUCT_BITS - 8 - limit) / 2).min(24)
}

/// The factors that take a denominator with `bits` fraction bits from an interval to 1.
fn plan(mut interval: [f64; 2], mut bits: u32, working_bits: u32, limit: u32) -> Vec<Factor> {
    let mut factors = Vec::new();
    while (interval[0] - 1.0).abs().max((interval[1] - 1.0).abs()) > RESIDUE_MAX {
        let slope_bits = (PRODUCT_BITS - limit - 2 * bits).min(24);
        let (slope, constant, next) = chebyshev_factor(interval, unit(slope_bits));
        factors.push(Factor {
            constant: word(constant * unit(bits + slope_bits)),
            slope: word(slope * unit(slope_bits)),
            bits,
            slope_bits,
            next_bits: working_bits,
        });
        // A few units of rounding at either end.
        interval = [next[0] - 4.0 / unit(working_bits), next[1] + 4.0 / unit(working_bits)];
        bits = working_bits;
    }
    factors
}

/// The factor `constant - slope d` that brings `d` closest to 1 over an interval, its slope a multiple of `1/unit`;
/// and where it brings it.
fn chebyshev_factor([low, high]: [f64; 2], unit: f64) -> (f64, f64, [f64; 2]) {
    let (sum, width) = (low + high, high - low);
    let slope = (8.0 / (2.0 * sum * sum - width * width) * unit).round().max(1.0) / unit;
    let range = |constant: f64| {
        let at = |d: f64| d * (constant - slope * d);
        let vertex = (constant / (2.0 * slope)).clamp(low, high);
        [at(low).min(at(high)), at(vertex)]
    };
    // The rounded slope asks for another constant than the textbook's: the one with equal errors at both ends.
    let (mut below, mut above) = (0.0, 4.0 * slope * sum);
    for _ in 0..60 {
        let middle = 0.5 * (below + above);
        let [min, max] = range(middle);
        if min + max < 2.0 { below = middle } else { above = middle }
    }
    (slope, above, range(above))
}

/// `numerators / d`, `group` numerators in a row for each denominator; all with the first factor's fraction bits.
async fn converge(
    tile: &Tile<'_>,
    mut numerators: TileShare,
    mut d: TileShare,
    group: usize,
    factors: &[Factor],
) -> Result<TileShare, ProtocolError> {
    let (last, before) = factors.split_last().expect("no interval starts at 1");
    for step in before {
        let factor = step.of(tile, &d);
        let mut products = mul_doubled(tile, &d, &factor).0;
        products.extend(mul_doubled(tile, &numerators, &repeated(&factor, group)).0);
        let both = trunc(tile, DoubledPartial(products), step.shift_to(step.next_bits)).await?;
        (d, numerators) = (both.slice(0..d.len()), both.slice(d.len()..both.len()));
    }
    let factor = repeated(&last.of(tile, &d), group);
    trunc(tile, mul_doubled(tile, &numerators, &factor), last.shift_to(tile.party().fixed().bits())).await
}

impl Factor {
    fn of(&self, tile: &Tile<'_>, d: &TileShare) -> TileShare {
        d.clone().times(self.slope.wrapping_neg()).plus_public(tile, self.constant)
    }

    fn shift_to(&self, bits: u32) -> u32 {
        2 * self.bits + self.slope_bits + 1 - bits
    }
}

/// Every element `group` times.
fn repeated(x: &TileShare, group: usize) -> TileShare {
    x.map(|part| part.iter().flat_map(|&word| std::iter::repeat_n(word, group)).collect())
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;
    use shared::job::ProtocolSpec;

    use super::*;
    use crate::world::{Cost, World, assert_masked};

    fn trunc_bytes(n: usize, shift: u32) -> usize {
        24 * n + 3 * (n * shift as usize).div_ceil(8)
    }

    fn cost(factors: &[Factor], n: usize, group: usize, f: u32) -> Cost {
        let (last, before) = factors.split_last().unwrap();
        let steps: usize = before.iter().map(|s| trunc_bytes((group + 1) * n, s.shift_to(s.next_bits))).sum();
        Cost {
            rounds: 2 * u32::try_from(factors.len()).unwrap(),
            sent_bytes: steps + trunc_bytes(group * n, last.shift_to(f)),
        }
    }

    #[test]
    fn few_factors_suffice() {
        let factors = |ratio: f64| plan([1.0 - SLACK, ratio + SLACK], 16, working_bits(1), 1).len();
        assert_eq!([3.0, 10.0, 40.0, 128.0].map(factors), [3, 4, 5, 6]);
    }

    #[test]
    fn quotients_in_an_interval_are_close() {
        for bits in [8, 12, 16, 20] {
            let spec = ProtocolSpec { fraction_bits: FixedPoint::new(bits).unwrap(), ..ProtocolSpec::default() };
            let fixed = spec.fraction_bits;
            for (low, high) in [(1.0, 2.0), (1.0, 10.0), (0.5, 1.0), (1.0, 100.0), (1.0, 128.0)] {
                let n = 999;
                let s: Vec<u64> = (0..=n).map(|i| fixed.constant(low + (high - low) * i as f64 / n as f64)).collect();
                let x: Vec<u64> = (0..2 * s.len()).map(|i| fixed.constant(2.0 - i as f64 / 700.0)).collect();
                let world = World::new(u64::from(bits)).with_spec(spec);
                let (z, run) = world.tile(1, [&s], async |tile, [s]| reciprocal_bounded(tile, &s, low, high).await);
                let mut worst = 0.0_f64;
                let mut check = |z: &u64, x: f64, s: &u64| {
                    let want = x / fixed.decode(*s);
                    let error = (fixed.decode(*z) - want).abs() - 1.01 / fixed.scale();
                    worst = worst.max(error / want.abs().max(1e-3));
                };
                z.iter().zip(&s).for_each(|(z, s)| check(z, 1.0, s));
                let factors = plan([low - SLACK, high + SLACK], bits, working_bits(1), 1);
                assert_eq!(run.cost, cost(&factors, s.len(), 1, bits));
                if low == 1.0 {
                    let (z, run) =
                        world.tile(2, [&x, &s], async |tile, [x, s]| divide_bounded(tile, &x, &s, 2, high).await);
                    z.iter().enumerate().for_each(|(i, z)| check(z, fixed.decode(x[i]), &s[i / 2]));
                    assert_eq!(run.cost, cost(&factors, s.len(), 2, bits));
                }
                println!("f {bits} [{low}, {high}]: {} factors, relative error {worst:e}", factors.len());
                assert!(worst < 1.0 / 8192.0, "{worst}");
            }
        }
    }

    #[test]
    fn quotients_send_only_masked_words() {
        let s: Vec<u64> = (0..64).map(|i| (i + 10) << 13).collect();
        let run = |keys| {
            let program = async |tile: &Tile<'_>, [s]: [TileShare; 1]| divide_bounded(tile, &s, &s, 1, 10.0).await;
            World::new(1).with_keys(keys).tile(2, [&s], program).1
        };
        assert_masked(&run(2), &run(3));
    }
}
