//! The logistic function, by a Fourier series that needs no product of shares.

use std::f64::consts::TAU;
use std::sync::LazyLock;

use super::clamp::above;
use crate::protocol::{DoubledPartial, ProtocolError, Purpose, Term, Tile, TileShare, inject_sum, join, trunc_exact};

/// Half the period: beyond it the function is within 3.4e-4 of 0 or 1.
const HALF_PERIOD: f64 = 8.0;
/// Sine coefficients of `sigmoid(x) - 1/2 - x/16` on one period; the next would be 1.1e-4.
const COEFFICIENTS: [f64; HARMONICS] = [
    0.249_883_341_311_442,
    0.067_128_893_480_057,
    0.019_366_899_992_350,
    0.005_686_769_991_449,
    0.001_611_012_795_440,
    0.000_509_174_340_508,
];
/// Harmonics of the series.
const HARMONICS: usize = 6;
/// Fraction bits of the tabulated sines, on either side.
const TABLE_BITS: u32 = 20;

/// `1 / (1 + exp(-x))`.
///
/// | | |
/// |---|---|
/// | Computes | the logistic function, absolute error below 4e-4 everywhere (`f = 16`); 0 and 1 beyond +-8 |
/// | Holds | `x` of `n` elements in the comparison window -> `z` |
/// | Rounds | those of [`sign`](crate::protocol::sign), and 1 |
/// | Bytes | over the three parties `96 n` for the tables, [`trunc_exact`] by `40 - f` bits, two signs, and `40 n` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | series on a masked argument as in Chen et al., "Secure Softmax/Sigmoid for Machine-Learning Computation", ACSAC 2023; the linear ramp that makes it periodic is ours |
///
/// `sigmoid(x) - 1/2 - x/16` is smooth with period 16, so `x mod 16` will do, and `sin k(t + l)` splits into what the
/// evaluators know of `t` and what the helper tabulates of `l`.
pub async fn sigmoid(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let fixed = tile.party().fixed();
    let edge = fixed.constant(HALF_PERIOD).cast_signed();
    let side = tile.fork();
    let (inner, (above_low, above_high)) = join(series(tile, x), above(&side, x, -edge, edge)).await?;
    tile.rejoin(&side);
    let inside = above_low.xor(&above_high);
    let terms = [Term::Share(&inside, &inner, None), Term::Public(&above_high, fixed.constant(1.0))];
    inject_sum(tile, &terms, x.len()).await
}

/// `tanh(x)`.
///
/// | | |
/// |---|---|
/// | Computes | `2 sigmoid(2x) - 1`, absolute error below 8e-4 everywhere (`f = 16`) |
/// | Holds | `x` of `n` elements, `2x` in the comparison window -> `z` |
/// | Rounds | those of [`sigmoid`] |
/// | Bytes | those of [`sigmoid`] |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`sigmoid`] |
pub async fn tanh(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let sigmoid = sigmoid(tile, &x.clone().times(2)).await?;
    Ok(sigmoid.times(2).plus_public(tile, tile.party().fixed().constant(-1.0)))
}

/// The series, valid for `abs(x) < 8`.
async fn series(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let (op, n, fixed) = (tile.op(), x.len(), tile.party().fixed());
    let mut sum = DoubledPartial::from_share(tile, x, 1 << (2 * TABLE_BITS - fixed.bits() - 5));
    let known = x.known(tile);
    if tile.is_helper() {
        let mut table = vec![0; 2 * HARMONICS * n];
        for (i, &l) in known.iter().enumerate() {
            harmonics(angle(l, fixed.bits()), |k, sin, cos| {
                table[2 * k * n + i] = to_table(sin);
                table[(2 * k + 1) * n + i] = to_table(cos);
            });
        }
        op.deal(Purpose::Table, table);
    } else {
        let table = op.dealt(Purpose::Table, 2 * HARMONICS * n).await?;
        for (i, &t) in known.iter().enumerate() {
            let mut addend = 0_u64;
            harmonics(angle(t, fixed.bits()), |k, sin, cos| {
                let with_sin = to_table(COEFFICIENTS[k] * cos).wrapping_mul(table[2 * k * n + i]);
                let with_cos = to_table(COEFFICIENTS[k] * sin).wrapping_mul(table[(2 * k + 1) * n + i]);
                addend = addend.wrapping_add(with_sin).wrapping_add(with_cos);
            });
            let sum = &mut sum.addends()[i];
            *sum = sum.wrapping_add(addend);
        }
    }
    let series = trunc_exact(tile, sum, 2 * TABLE_BITS - fixed.bits()).await?;
    Ok(series.plus_public(tile, fixed.constant(0.5)))
}

/// Calls `each(k, sin, cos)` for the multiples of an angle, the first as number 0.
fn harmonics((sin1, cos1): (f64, f64), mut each: impl FnMut(usize, f64, f64)) {
    let (mut sin, mut cos) = (sin1, cos1);
    for k in 0..HARMONICS {
        each(k, sin, cos);
        (sin, cos) = (sin * cos1 + cos * sin1, cos * cos1 - sin * sin1);
    }
}

/// Pieces into which a turn is cut for the table of sines.
const PIECES_BITS: u32 = 8;

/// Sine and cosine at the start of every piece.
static TURN: LazyLock<Vec<(f64, f64)>> = LazyLock::new(|| {
    let step = small_angle(TAU / f64::from(1 << PIECES_BITS));
    let next = |&(sin, cos): &(f64, f64)| Some((sin * step.1 + cos * step.0, cos * step.1 - sin * step.0));
    std::iter::successors(Some((0.0, 1.0)), next).take(1 << PIECES_BITS).collect()
});

/// Sine and cosine of a word's angle: one turn is one period.
///
/// Both evaluators must arrive at the same words on every machine, so this uses additions and products alone; the
/// library's sine may differ in the last bit between systems.
fn angle(word: u64, fraction_bits: u32) -> (f64, f64) {
    let period_bits = fraction_bits + 4;
    let within = word & ((1 << period_bits) - 1);
    let rest_bits = period_bits - PIECES_BITS;
    #[allow(clippy::cast_possible_truncation, reason = "a period has at most 2^24 words")]
    let (piece, rest) = ((within >> rest_bits) as usize, (within & ((1 << rest_bits) - 1)) as u32);
    let (sin, cos) = TURN[piece];
    let (sin_rest, cos_rest) = small_angle(f64::from(rest) * (TAU / f64::from(1_u32 << period_bits)));
    (sin * cos_rest + cos * sin_rest, cos * cos_rest - sin * sin_rest)
}

/// Taylor series, good to 1e-17 below 1/40.
fn small_angle(x: f64) -> (f64, f64) {
    let square = x * x;
    let sin = x * (1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0)));
    let cos = 1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0));
    (sin, cos)
}

#[allow(clippy::cast_possible_truncation, reason = "magnitudes are below 2^21")]
fn to_table(value: f64) -> u64 {
    ((value * f64::from(1_u32 << TABLE_BITS)).round() as i64).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;

    use super::*;
    use crate::protocol::carry_bytes;
    use crate::world::{World, assert_masked};

    #[test]
    fn sigmoid_is_close_to_float64_everywhere() {
        let fixed = FixedPoint::DEFAULT;
        let mut values: Vec<f64> = (-2560..2560).map(|i| f64::from(i) / 256.0).collect();
        values.extend([-16_000.0, -600.0, -17.0, -8.0, 7.99999, 8.0, 25.0, 16_000.0]);
        let x: Vec<u64> = values.iter().map(|&x| fixed.constant(x)).collect();
        let (z, run) = World::new(4).tile(1, [&x], async |tile, [x]| sigmoid(tile, &x).await);
        for (x, z) in values.iter().zip(z) {
            let error = (fixed.decode(z) - 1.0 / (1.0 + (-x).exp())).abs();
            assert!(error < 4e-4, "sigmoid({x}) is off by {error}");
        }
        let n = x.len();
        let (sign, depth) = carry_bytes(31);
        let want =
            96 * n + 24 * n + 3 * (24 * n).div_ceil(8) + sign * (n.next_multiple_of(64) + n).div_ceil(64) + 40 * n;
        assert_eq!(run.cost.sent_bytes, want);
        assert_eq!(run.cost.rounds, 1 + depth + 1);
    }

    #[test]
    fn tanh_is_close_to_float64_everywhere() {
        let fixed = FixedPoint::DEFAULT;
        let values: Vec<f64> = (-1000..1000).map(|i| f64::from(i) * 0.013).chain([-8_000.0, 8_000.0]).collect();
        let x: Vec<u64> = values.iter().map(|&x| fixed.constant(x)).collect();
        let (z, _) = World::new(4).tile(2, [&x], async |tile, [x]| tanh(tile, &x).await);
        for (x, z) in values.iter().zip(z) {
            assert!((fixed.decode(z) - x.tanh()).abs() < 8e-4, "tanh({x})");
        }
    }

    #[test]
    fn sigmoid_sends_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 14).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], async |t, [x]| sigmoid(t, &x).await).1;
        assert_masked(&run(2), &run(3));
    }
}
