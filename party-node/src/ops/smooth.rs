//! Smooth relatives of ReLU, with their slopes for the backward pass.

use super::series::{Bend, Part, bend};
use crate::protocol::{ProtocolError, Tile, TileShare};

/// `ln(1 + exp(x))`; its slope is the logistic function.
pub(super) const SOFTPLUS: Bend = Bend {
    reach_bits: 3,
    turns: 1,
    edge: 8.0,
    cosines: &[1.436_080_654, -0.636_312_421, -0.085_481_673, -0.016_428_234, -0.003_631_779, -0.000_892_792],
};

/// `x` times the distribution function of the normal distribution.
const GELU: Bend = Bend {
    reach_bits: 2,
    turns: 1,
    edge: 4.0,
    cosines: &[0.604_180_259, -0.481_397_860, -0.102_285_891, -0.018_400_453, -0.001_967_133],
};

/// `x` times the logistic function. Its window of `64/7` is the narrowest that keeps the slope.
const SILU: Bend = Bend {
    reach_bits: 6,
    turns: 7,
    edge: 9.0,
    cosines: &[
        1.433_978_193,
        -1.045_964_976,
        -0.259_272_423,
        -0.085_185_498,
        -0.028_710_016,
        -0.009_834_462,
        -0.003_275_435,
        -0.001_350_428,
    ],
};

/// `ln(1 + exp(x))`.
///
/// | | |
/// |---|---|
/// | Computes | the soft maximum of `x` and 0, absolute error below 3.5e-4 (`f = 16`); 0 below -8, `x` above 8 |
/// | Holds | `x` of `n` elements, `x +- 8` in the comparison window -> `z` |
/// | Rounds | those of [`signs`](crate::protocol::signs), and 1 |
/// | Bytes | over the three parties `80 n` for the tables, [`trunc_exact`](crate::protocol::trunc_exact) by 24 bits (`f = 16`), two signs, and `48 n`: `186 n` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | the series of `ops/series.rs` |
pub async fn softplus(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    Ok(bend(tile, x, &SOFTPLUS, &[Part::Value]).await?.remove(0))
}

/// [`softplus`] and its slope, the logistic function.
///
/// | | |
/// |---|---|
/// | Computes | as [`softplus`]; the slope with an absolute error below 5.6e-4 (`f = 16`) |
/// | Holds | as [`softplus`] -> `z` and its slope, by which the backward pass multiplies |
/// | Rounds, Secure against, Reveals, Source | as [`softplus`] |
/// | Bytes | those of [`softplus`], another [`trunc_exact`](crate::protocol::trunc_exact), and `24 n`: `243 n` for `f = 16` |
pub async fn softplus_and_slope(tile: &Tile<'_>, x: &TileShare) -> Result<(TileShare, TileShare), ProtocolError> {
    both(tile, x, &SOFTPLUS).await
}

/// `x Phi(x)`, where `Phi` is the distribution function of the normal distribution.
///
/// | | |
/// |---|---|
/// | Computes | GELU as it is defined (PyTorch's `approximate="none"`), absolute error below 2e-4 (`f = 16`); 0 below -4, `x` above 4 |
/// | Holds | `x` of `n` elements, `x +- 4` in the comparison window -> `z` |
/// | Rounds | those of [`signs`](crate::protocol::signs), and 1 |
/// | Bytes | over the three parties `64 n` for the tables, [`trunc_exact`](crate::protocol::trunc_exact) by 24 bits (`f = 16`), two signs, and `48 n`: `170 n` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | function: Hendrycks, Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415; the series of `ops/series.rs` |
pub async fn gelu(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    Ok(bend(tile, x, &GELU, &[Part::Value]).await?.remove(0))
}

/// [`gelu`] and its slope.
///
/// | | |
/// |---|---|
/// | Computes | as [`gelu`]; the slope with an absolute error below 6e-4 (`f = 16`) |
/// | Holds | as [`gelu`] -> `z` and its slope, by which the backward pass multiplies |
/// | Rounds, Secure against, Reveals, Source | as [`gelu`] |
/// | Bytes | those of [`gelu`], another [`trunc_exact`](crate::protocol::trunc_exact), and `24 n`: `227 n` for `f = 16` |
pub async fn gelu_and_slope(tile: &Tile<'_>, x: &TileShare) -> Result<(TileShare, TileShare), ProtocolError> {
    both(tile, x, &GELU).await
}

/// `x / (1 + exp(-x))`.
///
/// | | |
/// |---|---|
/// | Computes | SiLU, also called swish, absolute error below 1.3e-3 (`f = 16`), and below 5e-4 for `abs(x) < 8`; 0 below -9, `x` above 9 |
/// | Holds | `x` of `n` elements, `x +- 9` in the comparison window -> `z` |
/// | Rounds | those of [`signs`](crate::protocol::signs), and 1 |
/// | Bytes | over the three parties `112 n` for the tables, [`trunc_exact`](crate::protocol::trunc_exact) by 25 bits (`f = 16`), two signs, and `48 n`: `220 n` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | function: Ramachandran, Zoph, Le, "Searching for Activation Functions", arXiv 1710.05941; the series of `ops/series.rs` |
pub async fn silu(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    Ok(bend(tile, x, &SILU, &[Part::Value]).await?.remove(0))
}

/// [`silu`] and its slope.
///
/// | | |
/// |---|---|
/// | Computes | as [`silu`]; the slope with an absolute error below 1.3e-3 (`f = 16`) |
/// | Holds | as [`silu`] -> `z` and its slope, by which the backward pass multiplies |
/// | Rounds, Secure against, Reveals, Source | as [`silu`] |
/// | Bytes | those of [`silu`], another [`trunc_exact`](crate::protocol::trunc_exact), and `24 n`: `277 n` for `f = 16` |
pub async fn silu_and_slope(tile: &Tile<'_>, x: &TileShare) -> Result<(TileShare, TileShare), ProtocolError> {
    both(tile, x, &SILU).await
}

async fn both(tile: &Tile<'_>, x: &TileShare, function: &Bend) -> Result<(TileShare, TileShare), ProtocolError> {
    let mut parts = bend(tile, x, function, &[Part::Value, Part::Slope]).await?.into_iter();
    Ok((parts.next().expect("a value"), parts.next().expect("a slope")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::spec;
    use crate::protocol::carries_bytes;
    use crate::world::{World, assert_masked};

    /// A function, its value and its slope in double precision, and the errors that it may have.
    struct Reference {
        bend: &'static Bend,
        exact: fn(f64) -> [f64; 2],
        errors: [f64; 2],
    }

    const ALL: [Reference; 3] = [
        Reference {
            bend: &SOFTPLUS,
            exact: |x| [x.max(0.0) + (-x.abs()).exp().ln_1p(), logistic(x)],
            errors: [3.5e-4, 5.6e-4],
        },
        Reference { bend: &GELU, exact: |x| [x * normal(x), normal(x) + x * density(x)], errors: [2e-4, 6e-4] },
        Reference {
            bend: &SILU,
            exact: |x| [x * logistic(x), logistic(x) * (1.0 + x * (1.0 - logistic(x)))],
            errors: [1.3e-3, 1.3e-3],
        },
    ];

    fn logistic(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn density(x: f64) -> f64 {
        (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
    }

    /// The normal distribution function: half, and the integral from 0 as a series; 0 or 1 where that is 1e-15 off.
    fn normal(x: f64) -> f64 {
        if x.abs() > 8.0 {
            return if x > 0.0 { 1.0 } else { 0.0 };
        }
        let terms = (1..200).scan(x, |term, k| {
            let now = *term;
            *term *= x * x / f64::from(2 * k + 1);
            Some(now)
        });
        0.5 + density(x) * terms.sum::<f64>()
    }

    #[test]
    fn values_and_slopes_are_close_to_float64_everywhere() {
        for bits in [8, 12, 16, 20] {
            let fixed = spec(bits).fraction_bits;
            let far = f64::from(1 << (30 - bits)) - 16.0;
            let mut values: Vec<f64> = (-3000..3000).map(|i| f64::from(i) / 250.0).collect();
            values.extend([-far, -200.0, -9.001, -4.0, 3.9999, 8.0, 9.0, 100.0, far]);
            let x: Vec<u64> = values.iter().map(|&x| fixed.constant(x)).collect();
            let n = x.len();
            for (i, Reference { bend: function, exact, errors }) in ALL.iter().enumerate() {
                let world = || World::new(bits.into()).with_spec(spec(bits));
                let (z, run) = world().tile(i, [&x], async |tile, [x]| {
                    let (value, slope) = both(tile, &x, function).await?;
                    Ok(TileShare::concat(&[&value, &slope]))
                });
                let mut worst = [0.0_f64; 2];
                for (at, x) in x.iter().enumerate() {
                    let want = exact(fixed.decode(*x));
                    for part in [0, 1] {
                        worst[part] = worst[part].max((fixed.decode(z[part * n + at]) - want[part]).abs());
                    }
                }
                println!("f {bits}, function {i}: errors {worst:?}");
                // Truncation and the constant round to a unit in the last place each.
                let rounding = (2.0 / fixed.scale() - 2.0 / 65536.0).max(0.0);
                assert!(worst[0] < errors[0] + rounding && worst[1] < errors[1] + rounding, "{i}: {worst:?}");
                let depth = carries_bytes(&Default::default(), 31, &[0]).1;
                assert_eq!(run.cost.rounds, 1 + depth + 1);
                assert_eq!(run.cost.sent_bytes, function.bytes(n, fixed, &[Part::Value, Part::Slope]));
            }
        }
    }

    #[test]
    fn functions_cost_what_their_tables_say() {
        let x: Vec<u64> = (0..640_u64).map(|i| i << 10).collect();
        let cost = |helper: usize, function: &Bend, parts: &'static [Part]| {
            let (_, run) = World::new(1)
                .tile(helper, [&x], async |tile, [x]| Ok(bend(tile, &x, function, parts).await?.remove(0)));
            run.cost.sent_bytes.div_ceil(x.len())
        };
        assert_eq!([&SOFTPLUS, &GELU, &SILU].map(|f| cost(0, f, &[Part::Value])), [186, 170, 220]);
        assert_eq!([&SOFTPLUS, &GELU, &SILU].map(|f| cost(1, f, &[Part::Value, Part::Slope])), [243, 227, 277]);
        assert_eq!(cost(2, &SOFTPLUS, &[Part::Slope]), 178);
    }

    #[test]
    fn values_and_slopes_send_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 14).collect();
        for function in [&SOFTPLUS, &GELU, &SILU] {
            let program = async |tile: &Tile<'_>, [x]: [TileShare; 1]| {
                let (value, slope) = both(tile, &x, function).await?;
                Ok(value.plus(&slope))
            };
            let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], program).1;
            assert_masked(&run(2), &run(3));
        }
    }
}
