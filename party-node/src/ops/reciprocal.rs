//! Reciprocals and quotients by Goldschmidt's iteration with Chebyshev factors.
//!
//! Numerator and denominator are multiplied by the same factors until the denominator is 1. A factor is the linear
//! function of the denominator that leaves the least error over the interval in which the denominator is known to
//! lie; that takes one step less than Newton's, and both products of a step share a truncation.

use super::normalise::{BinaryRange, normalise};
use super::{balanced, unit, word};
use crate::compute::elementwise;
use crate::protocol::{
    ProtocolError, Term, Tile, TileShare, inject, inject_again, inject_sum, join, mul_doubled, sign, signs, trunc_exact,
};

/// What the factors may leave of `abs(1 - d)`.
const RESIDUE_MAX: f64 = 1e-4;
/// Reciprocals stay below `2^8`.
const RECIPROCAL_LIMIT: u32 = 8;
/// Where a normalised divisor lies, with its rounding.
const MANTISSA: [f64; 2] = [0.5 - 1e-5, 1.0 + 1e-5];
/// Fraction bits with which the size of a numerator is compared.
const COARSE_BITS: u32 = 8;
/// A bounded denominator may miss its interval by this much: rounding of whoever computed it.
const SLACK: f64 = 1.0 / 64.0;
/// Where a bounded denominator may lie: beyond, the errors stated here have not been looked at.
const BOUNDED: [f64; 2] = [0.5, 128.0];
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
    let factors = plan(bounded(low, high), f, working_bits(1), 1);
    converge(tile, ones, s.clone(), 1, &factors).await
}

/// `1 / x` for either sign.
///
/// | | |
/// |---|---|
/// | Computes | `1 / x`, relative error `2^-16` and 1.1 units in the last place; `abs(x)` is clamped to `[2^-l, 2^h]` first, `l = min(f/2, 8)`, `h = min(14, k-2-f)`, so that `1/0 = 2^l` |
/// | Holds | `x` of `n` elements, `-2^h <= x < 2^(h+1)` -> `n` |
/// | Rounds | two [`sign`], and 10: 20 for `k = 32`; one more if nothing before lets the helper run ahead |
/// | Bytes | over the three parties, `f = 16`: a [`sign`], [`signs`] against 23 powers of two, and about `507 n`: 222 per element and party |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | normalisation to `[1/2, 1]`, then Goldschmidt's iteration as in [`divide_bounded`] with the scale as numerator |
pub async fn reciprocal(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let f = tile.party().fixed().bits();
    let positive = sign(tile, x).await?;
    let (part, kept) = inject(tile, &positive, x).await?;
    let range = divisors(tile);
    let bits = working_bits(RECIPROCAL_LIMIT);
    let normal = normalise(tile, &part.times(2).minus(x), &range, &[range.scale(bits)]).await?;
    let [scale] = &normal.forms[..] else { unreachable!("one form was asked for") };
    let beside = tile.fork();
    let mantissa = trunc_exact(tile, mul_doubled(tile, &normal.clamped, scale), f + 1);
    let (mantissa, part) = join(mantissa, inject_again(&beside, &kept, scale)).await?;
    tile.rejoin(&beside);
    let numerator = part.times(2).minus(scale);
    converge(tile, numerator, mantissa, 1, &plan(MANTISSA, bits, bits, RECIPROCAL_LIMIT)).await
}

/// `x / y` for either sign of both.
///
/// | | |
/// |---|---|
/// | Computes | `x / y`, relative error `2^-15` and two units in the last place (16 for `f = 20`), while `abs(x/y) < 2^q`, `q = min(12, 29-f)`; beyond, a value of the right sign with magnitude `2^q` to `2^(q+1)`. `abs(y)` is clamped as in [`reciprocal`] |
/// | Holds | `x`, `y` of `n` elements, `abs(x) <= 2^h`, `-2^h <= y < 2^(h+1)` for `h = min(14, k-2-f)` -> `n` |
/// | Rounds | three [`sign`], and 7: 22 for `k = 32`; one more if nothing before lets the helper run ahead |
/// | Bytes | over the three parties, `f = 16`: a [`sign`], [`signs`] against 23 powers of two and against two ends, and about `615 n`: 265 per element and party |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`reciprocal`] with the scaled `x` as numerator; whether that is too large is compared meanwhile |
pub async fn divide(tile: &Tile<'_>, x: &TileShare, y: &TileShare) -> Result<TileShare, ProtocolError> {
    let (fixed, n) = (tile.party().fixed(), x.len());
    let f = fixed.bits();
    let positive = sign(tile, y).await?;
    let beside = tile.fork();
    let ((part_y, _), (part_x, _)) = join(inject(tile, &positive, y), inject(&beside, &positive, x)).await?;
    tile.rejoin(&beside);
    let (x, y) = (part_x.times(2).minus(x), part_y.times(2).minus(y));
    let range = divisors(tile);
    let quotient_bits = 12.min(29 - f);
    let bits = working_bits(quotient_bits + 1);
    let normal = normalise(tile, &y, &range, &[range.scale(bits)]).await?;
    let [scale] = &normal.forms[..] else { unreachable!("one form was asked for") };
    let numerator = mul_doubled(tile, &x, scale);

    let beside = tile.fork();
    let quotient = async {
        let both = mul_doubled(tile, &normal.clamped, scale).followed_by(&numerator);
        let both = trunc_exact(tile, both, f + 1).await?;
        let factors = plan(MANTISSA, bits, bits, quotient_bits + 1);
        converge(tile, both.slice(n..2 * n), both.slice(0..n), 1, &factors).await
    };
    let limits = async {
        // The numerator reaches 2^21 and must fit the comparison window.
        let coarse = trunc_exact(&beside, numerator.clone(), f + bits + 1 - COARSE_BITS).await?;
        let limit = 1_u64 << (quotient_bits + COARSE_BITS);
        signs(&beside, &coarse, &[limit.wrapping_neg(), limit]).await
    };
    let (quotient, above) = join(quotient, limits).await?;
    tile.rejoin(&beside);
    let largest = 1_u64 << (quotient_bits + 1 + f);
    let inside = above[0].clone().xor(&above[1]);
    let over_lowest = quotient.plus_public(tile, largest);
    let terms = [Term::Share(&inside, &over_lowest, None), Term::Public(&above[1], 2 * largest)];
    Ok(inject_sum(tile, &terms, n).await?.plus_public(tile, largest.wrapping_neg()))
}

/// Magnitudes that a divisor is clamped to.
fn divisors(tile: &Tile<'_>) -> BinaryRange {
    BinaryRange::new(tile, tile.party().fixed().bits().div_euclid(2).min(RECIPROCAL_LIMIT), 1)
}

/// `numerators / s` for `s` in `[1, high]`, `group` numerators in a row for each `s`.
///
/// | | |
/// |---|---|
/// | Computes | `x / s`, `abs(x) <= 2`, `1 <= s <= high <= 128`; relative error `2^-13`, and one unit in the last place. Other `s`: garbage |
/// | Holds | `x` of `g n` elements, `s` of `n` -> `g n` |
/// | Rounds | 2 per factor: 3 factors up to `high = 3`, 4 up to 10, 5 up to 40, 6 up to 128 |
/// | Bytes | over the three parties, those of [`trunc_exact`] on `(g+1) n` elements for each factor but the last, on `g n` for that: with 24 bits between steps, about `36 (k (g+1) - 1) n` for `k` factors |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | Goldschmidt's iteration as in Catrina, Saxena, "Secure Computation with Fixed-Point Numbers", FC 2010; Chebyshev factors are ours |
pub async fn divide_bounded(
    tile: &Tile<'_>,
    numerators: &TileShare,
    s: &TileShare,
    group: usize,
    high: f64,
) -> Result<TileShare, ProtocolError> {
    let factors = plan(bounded(1.0, high), tile.party().fixed().bits(), working_bits(1), 1);
    converge(tile, numerators.clone(), s.clone(), group, &factors).await
}

/// The interval of a denominator that somebody else computed.
///
/// # Panics
/// If the interval is none, or goes beyond [`BOUNDED`].
fn bounded(low: f64, high: f64) -> [f64; 2] {
    let [lowest, highest] = BOUNDED;
    assert!(
        lowest <= low && low <= high && high <= highest,
        "a denominator between {low} and {high}: the interval must lie between {lowest} and {highest}"
    );
    [low - SLACK, high + SLACK]
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
    // The rounded slope asks for another constant than the textbook's.
    let constant = balanced(slope * sum, range);
    (slope, constant, range(constant))
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
        let of_numerators = mul_doubled(tile, &numerators, &repeated(&factor, group));
        let products = mul_doubled(tile, &d, &factor).followed_by(&of_numerators);
        let both = trunc_exact(tile, products, step.shift_to(step.next_bits)).await?;
        (d, numerators) = (both.slice(0..d.len()), both.slice(d.len()..both.len()));
    }
    let factor = repeated(&last.of(tile, &d), group);
    trunc_exact(tile, mul_doubled(tile, &numerators, &factor), last.shift_to(tile.party().fixed().bits())).await
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
    x.map(|part| elementwise::each_repeated(part, group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{spec, trunc_bytes};
    use crate::protocol::{carries_bytes, carry_bytes};
    use crate::world::{Cost, World, assert_masked};

    #[test]
    #[should_panic(expected = "must lie between 0.5 and 128")]
    fn a_denominator_beyond_128_is_refused() {
        assert_eq!(bounded(1.0, 128.0).map(f64::to_bits), [1.0 - SLACK, 128.0 + SLACK].map(f64::to_bits));
        bounded(1.0, 129.0);
    }

    #[test]
    #[should_panic(expected = "must lie between 0.5 and 128")]
    fn a_denominator_below_a_half_is_refused() {
        bounded(0.49, 2.0);
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
            let fixed = spec(bits).fraction_bits;
            for (low, high) in [(1.0, 2.0), (1.0, 10.0), (0.5, 1.0), (1.0, 100.0), (1.0, 128.0)] {
                let n = 999;
                let s: Vec<u64> = (0..=n).map(|i| fixed.constant(low + (high - low) * i as f64 / n as f64)).collect();
                let x: Vec<u64> = (0..2 * s.len()).map(|i| fixed.constant(2.0 - i as f64 / 700.0)).collect();
                let world = World::new(u64::from(bits)).with_spec(spec(bits));
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

    fn sign_bytes(n: usize) -> usize {
        carry_bytes(&Default::default(), 31).0 * n.div_ceil(64)
    }

    #[test]
    fn reciprocals_are_close_and_clamped() {
        for bits in [8, 11, 16, 17, 20] {
            let fixed = spec(bits).fraction_bits;
            let high = f64::from(1 << (30 - bits).min(14));
            let low = 1.0 / f64::from(1 << (bits / 2).min(8));
            let mut x: Vec<f64> = (0..1500).map(|i| low * 1.0127_f64.powi(i)).filter(|x| *x <= high).collect();
            x.extend([low, high, 1.5 * high, 0.0, low / 2.0, 1.0, 400.0, 3.0]);
            x.extend(x.clone().iter().map(|x| -x.min(high)));
            let x: Vec<u64> = x.into_iter().map(|x| fixed.constant(x)).collect();
            let (z, run) =
                World::new(7).with_spec(spec(bits)).tile(0, [&x], async |tile, [x]| reciprocal(tile, &x).await);
            let mut worst = 0.0_f64;
            for (z, x) in z.iter().zip(&x) {
                let (z, x) = (fixed.decode(*z), fixed.decode(*x));
                let want = x.abs().clamp(low, high).recip().copysign(if x < 0.0 { -1.0 } else { 1.0 });
                worst = worst.max(((z - want).abs() - 1.1 / fixed.scale()) / want.abs());
            }
            println!("f {bits}: relative error beyond one unit {worst:e}");
            assert!(worst < 1.0 / 65536.0, "{worst}");
            let factors = plan(MANTISSA, 22, 22, 8);
            let n = x.len();
            let range = BinaryRange {
                highest: (30 - bits.cast_signed()).min(14),
                lowest: -(bits / 2).min(8).cast_signed(),
                stride: 1,
            };
            let sent_bytes = sign_bytes(n)
                + range.bytes(n, fixed, 1)
                + 32 * n
                + 24 * n
                + trunc_bytes(n, bits + 1)
                + cost(&factors, n, 1, bits).sent_bytes;
            assert_eq!(run.cost, Cost { rounds: 5 + 1 + 5 + 1 + 2 + 6 + 1, sent_bytes });
        }
    }

    #[test]
    fn quotients_are_close_and_clamped() {
        for bits in [8, 11, 16, 20] {
            let fixed = spec(bits).fraction_bits;
            let high = f64::from(1 << (30 - bits).min(14));
            let low = 1.0 / f64::from(1 << (bits / 2).min(8));
            let limit = f64::from(1 << (29 - bits).min(12));
            let edges = [high, -high, 1.0, -1.0, 0.0, low, 3.0, -400.0];
            let wave = |i: u32, by: f64| (f64::from(i) * by).sin() * high * (-f64::from(i % 17)).exp2();
            let pairs: Vec<(f64, f64)> = (0..2000)
                .map(|i| (wave(i, 1.3), wave(i / 3, 2.9)))
                .chain(edges.iter().flat_map(|x| edges.map(|y| (*x, y))))
                .collect();
            let (x, y): (Vec<u64>, Vec<u64>) =
                pairs.into_iter().map(|(x, y)| (fixed.constant(x), fixed.constant(y))).unzip();
            let (z, run) =
                World::new(7).with_spec(spec(bits)).tile(2, [&x, &y], async |tile, [x, y]| divide(tile, &x, &y).await);
            let (mut worst, units) = (0.0_f64, if bits > 18 { 16.0 } else { 2.0 });
            for i in 0..x.len() {
                let [x, y, z] = [x[i], y[i], z[i]].map(|word| fixed.decode(word));
                let want = x / y.abs().clamp(low, high).copysign(if y < 0.0 { -1.0 } else { 1.0 });
                if want.abs() < limit {
                    worst = worst.max(((z - want).abs() - units / fixed.scale()) / want.abs().max(1e-3));
                } else {
                    assert!((limit * 0.999..=2.001 * limit).contains(&(z * want.signum())), "{x} / {y} = {z}");
                }
            }
            println!("f {bits}: relative error beyond {units} units {worst:e}");
            assert!(worst < 1.0 / 32768.0, "{worst}");
            let (n, highest) = (x.len(), (30 - bits.cast_signed()).min(14));
            let range = BinaryRange { highest, lowest: -(bits / 2).min(8).cast_signed(), stride: 1 };
            let limit_bits = (29 - bits).min(12) + 1;
            let limit = 1_u64 << (limit_bits - 1 + COARSE_BITS);
            let working = working_bits(limit_bits);
            let sent_bytes = sign_bytes(n)
                + carries_bytes(&Default::default(), 31, &[limit.wrapping_neg(), limit]).0 * n.div_ceil(64)
                + range.bytes(n, fixed, 1)
                + (64 + 40) * n
                + trunc_bytes(2 * n, bits + 1)
                + trunc_bytes(n, bits + working + 1 - COARSE_BITS)
                + cost(&plan(MANTISSA, working, working, limit_bits), n, 1, bits).sent_bytes;
            assert_eq!(run.cost, Cost { rounds: 5 + 1 + 5 + 1 + 2 + 6 + 1 + 1, sent_bytes });
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
        for divided in [false, true] {
            let run = |keys| {
                let program = async |tile: &Tile<'_>, [s]: [TileShare; 1]| {
                    if divided { divide(tile, &s, &s).await } else { reciprocal(tile, &s).await }
                };
                World::new(1).with_keys(keys).tile(1, [&s], program).1
            };
            assert_masked(&run(2), &run(3));
        }
    }
}
