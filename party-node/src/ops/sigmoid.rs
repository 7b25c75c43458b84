//! The logistic function and the hyperbolic tangent.

use super::series::{Part, bend};
use super::smooth::SOFTPLUS;
use crate::protocol::{ProtocolError, Tile, TileShare};

/// `1 / (1 + exp(-x))`.
///
/// | | |
/// |---|---|
/// | Computes | the logistic function, absolute error below 5.6e-4 everywhere (`f = 16`); 0 and 1 beyond +-8 |
/// | Holds | `x` of `n` elements, `x +- 8` in the comparison window -> `z` |
/// | Rounds | those of [`signs`](crate::protocol::signs), and 1 |
/// | Bytes | over the three parties `80 n` for the tables, [`trunc_exact`](crate::protocol::trunc_exact) by `40 - f` bits, two signs of which the bits below 16 are shared, and `40 n`: `178 n` for `f = 16` |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | the slope of [`softplus`](super::softplus) |
pub async fn sigmoid(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    Ok(bend(tile, x, &SOFTPLUS, &[Part::Slope]).await?.remove(0))
}

/// `tanh(x)`.
///
/// | | |
/// |---|---|
/// | Computes | `2 sigmoid(2x) - 1`, absolute error below 1.1e-3 everywhere (`f = 16`) |
/// | Holds | `x` of `n` elements, `2x +- 8` in the comparison window -> `z` |
/// | Rounds | those of [`sigmoid`] |
/// | Bytes | those of [`sigmoid`] |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`sigmoid`] |
pub async fn tanh(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let sigmoid = sigmoid(tile, &x.clone().times(2)).await?;
    Ok(sigmoid.times(2).plus_public(tile, tile.party().fixed().constant(-1.0)))
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;

    use super::*;
    use crate::protocol::carries_bytes;
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
            assert!(error < 5.6e-4, "sigmoid({x}) is off by {error}");
        }
        let n = x.len();
        let (sign, depth) = carries_bytes(&Default::default(), 31, &[-8.0, 8.0].map(|edge| fixed.constant(edge)));
        assert_eq!(run.cost.sent_bytes, (80 + 24 + 40) * n + 3 * (24 * n).div_ceil(8) + sign * n.div_ceil(64));
        // A million of them take 60 megabytes from each party.
        assert!(run.cost.sent_bytes <= 180 * n.next_multiple_of(64));
        assert_eq!(run.cost.rounds, 1 + depth + 1);
    }

    #[test]
    fn tanh_is_close_to_float64_everywhere() {
        let fixed = FixedPoint::DEFAULT;
        let values: Vec<f64> = (-1000..1000).map(|i| f64::from(i) * 0.013).chain([-8_000.0, 8_000.0]).collect();
        let x: Vec<u64> = values.iter().map(|&x| fixed.constant(x)).collect();
        let (z, _) = World::new(4).tile(2, [&x], async |tile, [x]| tanh(tile, &x).await);
        for (x, z) in values.iter().zip(z) {
            assert!((fixed.decode(z) - x.tanh()).abs() < 1.1e-3, "tanh({x})");
        }
    }

    #[test]
    fn sigmoid_sends_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 14).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], async |t, [x]| sigmoid(t, &x).await).1;
        assert_masked(&run(2), &run(3));
    }
}
