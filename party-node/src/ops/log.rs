//! The natural logarithm.

use super::normalise::{BinaryRange, normalise};
use super::{unit, word};
use crate::protocol::{DoubledPartial, ProtocolError, Tile, TileShare, mul_doubled, square_doubled, trunc_exact};

/// `ln(3/4 + u)` on `[-1/4, 1/4]` by interpolation at Chebyshev's nodes: error below `2e-7`.
const COEFFICIENTS: [f64; 8] = [
    -0.287_681_893_354_133_4,
    1.333_333_120_177_484_7,
    -0.888_980_330_199_740_8,
    0.790_232_280_525_683_4,
    -0.782_918_657_339_361,
    0.834_226_792_831_957_4,
    -1.113_921_497_886_998_6,
    1.281_189_071_082_708_3,
];
/// Fraction bits of the mantissa and its powers.
const POWER_BITS: u32 = 22;
/// Fraction bits of the higher coefficients; the lower ones have more.
const COEFFICIENT_BITS: u32 = 16;

/// `ln x`.
///
/// | | |
/// |---|---|
/// | Computes | `ln x`, absolute error `2^-19` and two units in the last place, for every positive `x <= 2^h`, `h = min(14, k-2-f)`; clamped to `-f ln 2` for `x <= 0` and to `h ln 2` above |
/// | Holds | `x` of `n` elements, `-2^h <= x < 2^(h+1)` -> `n` |
/// | Rounds | those of [`signs`](crate::protocol::signs), and 9: 14 for `k = 32`; one more if nothing before lets the helper run ahead |
/// | Bytes | over the three parties, `f = 16`: [`signs`](crate::protocol::signs) against 31 powers of two, and about `489 n`: 236 per element and party |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | normalisation to `[1/2, 1]`, then a polynomial of degree 7 by Estrin's scheme |
pub async fn log(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    log_within(tile, x, &BinaryRange::new(tile, tile.party().fixed().bits(), 1)).await
}

/// [`log`] of what lies in a range that may be narrower: fewer comparisons.
pub(super) async fn log_within(
    tile: &Tile<'_>,
    x: &TileShare,
    range: &BinaryRange,
) -> Result<TileShare, ProtocolError> {
    let fixed = tile.party().fixed();
    let exponents = range.form(fixed.bits(), |end| f64::from(end) * std::f64::consts::LN_2);
    let normal = normalise(tile, x, range, &[range.scale(POWER_BITS), exponents]).await?;
    let [scale, exponent] = &normal.forms[..] else { unreachable!("two forms were asked for") };
    let mantissa = trunc_exact(tile, mul_doubled(tile, &normal.clamped, scale), fixed.bits() + 1).await?;
    Ok(log_mantissa(tile, &mantissa).await?.plus(exponent))
}

/// `ln y` for `1/2 <= y <= 1` with [`POWER_BITS`].
async fn log_mantissa(tile: &Tile<'_>, y: &TileShare) -> Result<TileShare, ProtocolError> {
    let n = y.len();
    let u = y.clone().plus_public(tile, word(-0.75 * unit(POWER_BITS)));
    let u2 = trunc_exact(tile, square_doubled(tile, &u), POWER_BITS + 1).await?;
    let powers = mul_doubled(tile, &u, &u2).followed_by(&square_doubled(tile, &u2));
    let powers = trunc_exact(tile, powers, POWER_BITS + 1).await?;
    let (u3, u4) = (powers.slice(0..n), powers.slice(n..2 * n));

    let coefficient = |k: usize, bits: u32| word(COEFFICIENTS[k] * unit(bits));
    let high = u
        .clone()
        .times(coefficient(5, COEFFICIENT_BITS))
        .plus(&u2.clone().times(coefficient(6, COEFFICIENT_BITS)))
        .plus(&u3.clone().times(coefficient(7, COEFFICIENT_BITS)))
        .plus_public(tile, coefficient(4, COEFFICIENT_BITS + POWER_BITS));
    let mut sum = mul_doubled(tile, &u4, &high);
    for (k, power) in [(1, &u), (2, &u2), (3, &u3)] {
        sum = sum.plus(&DoubledPartial::from_share(tile, power, coefficient(k, COEFFICIENT_BITS + POWER_BITS)));
    }
    let all_bits = COEFFICIENT_BITS + 2 * POWER_BITS;
    let constant = TileShare::public(tile, vec![coefficient(0, all_bits); n]);
    let sum = sum.plus(&DoubledPartial::from_share(tile, &constant, 1));
    trunc_exact(tile, sum, all_bits + 1 - tile.party().fixed().bits()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{spec, trunc_bytes};
    use crate::world::{Cost, World, assert_masked};

    #[test]
    fn log_is_close_and_clamped() {
        for bits in 8..=20 {
            let fixed = spec(bits).fraction_bits;
            let high = f64::from(1 << (30 - bits).min(14));
            let low = 1.0 / fixed.scale();
            let mut x: Vec<f64> = (0..3000).map(|i| low * 1.0127_f64.powi(i)).filter(|x| *x <= high).collect();
            x.extend([0.0, low, -1.0, -high, high, 1.9 * high, 0.5, 1.0, 2.0, 400.0]);
            let x: Vec<u64> = x.into_iter().map(|x| fixed.constant(x)).collect();
            let (z, run) = World::new(7).with_spec(spec(bits)).tile(0, [&x], async |tile, [x]| log(tile, &x).await);
            let errors =
                z.iter().zip(&x).map(|(z, x)| (fixed.decode(*z) - fixed.decode(*x).clamp(low, high).ln()).abs());
            let worst = errors.fold(0.0, f64::max);
            println!("f {bits}: absolute error {worst:e}, {} units", worst * fixed.scale());
            assert!(worst < 2.0 / fixed.scale() + 1.0 / f64::from(1 << 19), "{worst}");
            let (n, range) = (
                x.len(),
                BinaryRange { highest: (30 - bits.cast_signed()).min(14), lowest: -bits.cast_signed(), stride: 1 },
            );
            let sent_bytes = range.bytes(n, fixed, 2)
                + trunc_bytes(n, bits + 1)
                + trunc_bytes(n, 23)
                + trunc_bytes(2 * n, 23)
                + trunc_bytes(n, 61 - bits);
            assert_eq!(run.cost, Cost { rounds: 5 + 1 + 8 + 1, sent_bytes });
        }
    }

    #[test]
    fn log_sends_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 12).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(2, [&x], async |tile, [x]| log(tile, &x).await).1;
        assert_masked(&run(2), &run(3));
    }
}
