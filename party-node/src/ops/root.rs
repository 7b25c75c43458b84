//! Square roots.

use super::normalise::{BinaryRange, normalise};
use super::{balanced, power, unit, word};
use crate::protocol::{ProtocolError, Tile, TileShare, mul_doubled, trunc_exact};

/// Fraction bits between steps.
const WORKING_BITS: u32 = 22;
/// Fraction bits that a slope adds.
const SLOPE_BITS: u32 = 8;
/// Fraction bits of the scales that a number is multiplied with.
const SCALE_BITS: u32 = 30;
/// What the factors may leave of `abs(1 - sqrt(t))`.
const RESIDUE_MAX: f64 = 1e-4;
/// Where a number lies once it is scaled by an even power of two, with its rounding.
const MANTISSA: [f64; 2] = [0.25 - 1e-5, 1.0 + 1e-5];

/// The square root.
///
/// | | |
/// |---|---|
/// | Computes | `sqrt(x)`, relative error `2^-14` and 1.1 units in the last place, for `0 <= x <= 2^h`, `h = min(14, k-2-f)`; 0 for `x < 0`, `2^(h/2)` above |
/// | Holds | `x` of `n` elements, `-2^h <= x < 2^(h+1)` -> `n` |
/// | Rounds | those of [`sign`](crate::protocol::sign), and 13: 18 for `k = 32`; one more if nothing before lets the helper run ahead |
/// | Bytes | over the three parties, `f = 16`: [`signs`](crate::protocol::signs) against 16 powers of two, and about `520 n`: 214 per element and party |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | normalisation by even powers, then the product form of Newton's iteration as in Liedel, "Secure Distributed Computation of the Square Root and Applications"; factors balanced over the interval that is known are ours |
pub async fn sqrt(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let f = tile.party().fixed().bits();
    let range = BinaryRange::new(tile, f, 2);
    let mut root = range.form(SCALE_BITS, |end| power(-end).sqrt());
    root[0] = 0;
    let normal = normalise(tile, x, &range, &[range.scale(SCALE_BITS), root]).await?;
    let [scale, root] = &normal.forms[..] else { unreachable!("two forms were asked for") };
    let both = mul_doubled(tile, &normal.clamped, scale).followed_by(&mul_doubled(tile, &normal.clamped, root));
    let both = trunc_exact(tile, both, f + SCALE_BITS + 1 - WORKING_BITS).await?;
    converge(tile, both.slice(x.len()..2 * x.len()), both.slice(0..x.len())).await
}

/// The inverse square root.
///
/// | | |
/// |---|---|
/// | Computes | `1 / sqrt(x)`, relative error `2^-14` and 1.1 units in the last place, for `2^-l <= x <= 2^h`, `l = min(f, 16)`, `h = min(14, k-2-f)`; clamped to `2^(l/2)` below and `2^(-h/2)` above |
/// | Holds | `x` of `n` elements, `-2^h <= x < 2^(h+1)` -> `n` |
/// | Rounds | those of [`sign`](crate::protocol::sign), and 13: 18 for `k = 32`; one more if nothing before lets the helper run ahead |
/// | Bytes | over the three parties, `f = 16`: [`signs`](crate::protocol::signs) against 16 powers of two, and about `485 n`: 202 per element and party |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`sqrt`] |
pub async fn inverse_sqrt(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let f = tile.party().fixed().bits();
    let range = BinaryRange::new(tile, f.min(16), 2);
    let root = range.form(WORKING_BITS, |end| power(-end).sqrt());
    let normal = normalise(tile, x, &range, &[range.scale(SCALE_BITS), root]).await?;
    let [scale, root] = &normal.forms[..] else { unreachable!("two forms were asked for") };
    let product = mul_doubled(tile, &normal.clamped, scale);
    let mantissa = trunc_exact(tile, product, f + SCALE_BITS + 1 - WORKING_BITS).await?;
    converge(tile, root.clone(), mantissa).await
}

/// A factor `constant - slope t`.
struct Factor {
    constant: u64,
    slope: u64,
}

/// The factors whose product is `1 / sqrt(t)`, `t` being multiplied by the square of each.
fn plan() -> Vec<Factor> {
    let (mut interval, mut factors) = (MANTISSA, Vec::new());
    let done = |[low, high]: [f64; 2]| (low.sqrt() - 1.0).abs().max((high.sqrt() - 1.0).abs()) < RESIDUE_MAX;
    while !done(interval) {
        let [low, high] = interval;
        let sum = low + high + (low * high).sqrt();
        // Equal errors at both ends and at the vertex, then a slope that has few bits.
        let slope = 2.0 / (low.sqrt() * (sum - low) + sum * (2.0 / 3.0) * (sum / 3.0).sqrt());
        let slope = (slope * unit(SLOPE_BITS)).round() / unit(SLOPE_BITS);
        let range = |constant: f64| {
            let at = |t: f64| t.sqrt() * (constant - slope * t);
            [at(low).min(at(high)), at((constant / (3.0 * slope)).clamp(low, high))]
        };
        let constant = balanced(slope * sum, range);
        factors.push(Factor {
            constant: word(constant * unit(WORKING_BITS + SLOPE_BITS)),
            slope: word(slope * unit(SLOPE_BITS)),
        });
        // A few units of rounding at either end.
        let [min, max] = range(constant);
        interval = [min * min - 4.0 / unit(WORKING_BITS), max * max + 4.0 / unit(WORKING_BITS)];
    }
    factors
}

/// `x / sqrt(t)` for `t` in [`MANTISSA`].
async fn converge(tile: &Tile<'_>, mut x: TileShare, mut t: TileShare) -> Result<TileShare, ProtocolError> {
    let (factors, n) = (plan(), x.len());
    let (last, before) = factors.split_last().expect("the interval does not start at 1");
    let of = |factor: &Factor, t: &TileShare| {
        t.clone().times(factor.slope.wrapping_neg()).plus_public(tile, factor.constant)
    };
    for step in before {
        let factor = of(step, &t);
        let both = mul_doubled(tile, &t, &factor).followed_by(&mul_doubled(tile, &x, &factor));
        let both = trunc_exact(tile, both, WORKING_BITS + SLOPE_BITS + 1).await?;
        x = both.slice(n..2 * n);
        t = trunc_exact(tile, mul_doubled(tile, &both.slice(0..n), &factor), WORKING_BITS + SLOPE_BITS + 1).await?;
    }
    let shift = 2 * WORKING_BITS + SLOPE_BITS + 1 - tile.party().fixed().bits();
    trunc_exact(tile, mul_doubled(tile, &x, &of(last, &t)), shift).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{spec, trunc_bytes};
    use crate::world::{Cost, World, assert_masked};

    #[test]
    fn roots_are_close_and_clamped() {
        assert_eq!(plan().len(), 3);
        for bits in 8..=20 {
            let fixed = spec(bits).fraction_bits;
            let high = f64::from(1 << (30 - bits).min(14));
            let low = 1.0 / fixed.scale();
            let mut x: Vec<f64> = (0..3000).map(|i| low * 1.0127_f64.powi(i)).filter(|x| *x <= high).collect();
            x.extend([0.0, low, -1.0, -high, high, 1.9 * high, 0.5, 1.0, 2.0, 200.0, 400.0]);
            let x: Vec<u64> = x.into_iter().map(|x| fixed.constant(x)).collect();
            for inverse in [false, true] {
                let (z, run) = World::new(7).with_spec(spec(bits)).tile(0, [&x], async |tile, [x]| {
                    if inverse { inverse_sqrt(tile, &x).await } else { sqrt(tile, &x).await }
                });
                let (mut worst, below) = (0.0_f64, bits.min(if inverse { 16 } else { 20 }).cast_signed());
                for (z, x) in z.iter().zip(&x) {
                    let (z, x) = (fixed.decode(*z), fixed.decode(*x));
                    let want =
                        if inverse { x.clamp(power(-below), high).sqrt().recip() } else { x.clamp(0.0, high).sqrt() };
                    worst = worst.max(((z - want).abs() - 1.1 / fixed.scale()) / want.max(1e-9));
                }
                println!("f {bits} inverse {inverse}: relative error beyond one unit {worst:e}");
                assert!(worst < 1.0 / 16384.0, "{worst}");
                let n = x.len();
                let range = BinaryRange { highest: (30 - bits.cast_signed()).min(14), lowest: -below, stride: 2 };
                let sent_bytes = range.bytes(n, fixed, 2)
                    + trunc_bytes(if inverse { n } else { 2 * n }, bits + 9)
                    + 2 * (trunc_bytes(2 * n, 31) + trunc_bytes(n, 31))
                    + trunc_bytes(n, 53 - bits);
                assert_eq!(run.cost, Cost { rounds: 5 + 1 + 12 + 1, sent_bytes });
            }
        }
    }

    #[test]
    fn roots_send_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 12).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(2, [&x], async |tile, [x]| sqrt(tile, &x).await).1;
        assert_masked(&run(2), &run(3));
    }
}
