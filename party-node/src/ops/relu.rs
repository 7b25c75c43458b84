//! ReLU, leaky ReLU, and their gradients.

use super::{unit, word};
use crate::protocol::{
    DoubledPartial, Kept, ProtocolError, Tile, TileShare, inject, inject_again, join, sign, trunc_exact,
};

/// `max(x, 0)`.
///
/// | | |
/// |---|---|
/// | Computes | `z = [x >= 0] x`, exact in the comparison window |
/// | Holds | `x` of `n` elements -> `z`, and what [`relu_backward`] needs |
/// | Rounds | those of [`sign`], and 1 |
/// | Bytes | those of [`sign`], and `32 n` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`sign`] and [`inject`] |
pub async fn relu(tile: &Tile<'_>, x: &TileShare) -> Result<(TileShare, Kept), ProtocolError> {
    let positive = sign(tile, x).await?;
    inject(tile, &positive, x).await
}

/// Gradient of [`relu`]: lets `gradient` through where the input was not negative.
///
/// | | |
/// |---|---|
/// | Computes | `[x >= 0] gradient`, no comparison |
/// | Holds | what [`relu`] kept, `gradient` of `n` elements -> its product |
/// | Rounds | 1 |
/// | Bytes | `24 n` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`inject_again`] |
pub async fn relu_backward(tile: &Tile<'_>, kept: &Kept, gradient: &TileShare) -> Result<TileShare, ProtocolError> {
    inject_again(tile, kept, gradient).await
}

/// Fraction bits of a leaky ReLU's slope.
const SLOPE_BITS: u32 = 20;

/// `max(x, 0) + slope min(x, 0)`.
///
/// | | |
/// |---|---|
/// | Computes | `x` exactly for `x >= 0`; else `slope x`, an error below one unit in the last place and `2^-21 abs(x)` |
/// | Holds | `x` of `n` elements in the comparison window, public `abs(slope) <= 2^9` -> `z`, and what [`leaky_relu_backward`] needs |
/// | Rounds | those of [`sign`], and 1 |
/// | Bytes | those of [`relu`], and of [`trunc_exact`] by 21 bits: `31.9 n` more over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | `s x + b (x - s x)`: the multiple is truncated beside the comparison |
pub async fn leaky_relu(tile: &Tile<'_>, x: &TileShare, slope: f64) -> Result<(TileShare, Kept), ProtocolError> {
    let side = tile.fork();
    let (positive, low) = join(sign(tile, x), multiple(&side, x, slope)).await?;
    tile.rejoin(&side);
    let (gain, kept) = inject(tile, &positive, &x.clone().minus(&low)).await?;
    Ok((gain.plus(&low), kept))
}

/// Gradient of [`leaky_relu`]: `gradient` where the input was not negative, else its multiple.
///
/// | | |
/// |---|---|
/// | Computes | `[x >= 0] gradient + slope [x < 0] gradient`, errors as [`leaky_relu`], no comparison |
/// | Holds | what [`leaky_relu`] kept, `gradient` of `n` elements -> its product |
/// | Rounds | 3 |
/// | Bytes | `24 n` over the three parties, and those of [`trunc_exact`] by 21 bits |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`leaky_relu`], with [`inject_again`] |
pub async fn leaky_relu_backward(
    tile: &Tile<'_>,
    kept: &Kept,
    gradient: &TileShare,
    slope: f64,
) -> Result<TileShare, ProtocolError> {
    let low = multiple(tile, gradient, slope).await?;
    Ok(inject_again(tile, kept, &gradient.clone().minus(&low)).await?.plus(&low))
}

/// `slope x` for a public number.
async fn multiple(tile: &Tile<'_>, x: &TileShare, slope: f64) -> Result<TileShare, ProtocolError> {
    assert!(slope.abs() <= unit(9), "the product fits");
    let product = DoubledPartial::from_share(tile, x, word(slope * unit(SLOPE_BITS)));
    trunc_exact(tile, product, SLOPE_BITS + 1).await
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;

    use super::*;
    use crate::ops::trunc_bytes;
    use crate::protocol::carry_bytes;
    use crate::world::{Cost, World, assert_masked};

    #[test]
    fn leaky_relu_and_its_gradient_are_close_to_float64() {
        let fixed = FixedPoint::DEFAULT;
        let mut values: Vec<f64> = (-500..500).map(|i| f64::from(i) * 0.37).collect();
        values.extend([0.0, -1.0 / 65536.0, -32_000.0, 32_000.0]);
        let x: Vec<u64> = values.iter().map(|x| fixed.constant(*x)).collect();
        let g: Vec<u64> = values.iter().rev().map(|g| fixed.constant(*g)).collect();
        let n = x.len();
        for (helper, slope) in [(0, 0.01), (1, 0.2), (2, -1.5)] {
            let (z, run) = World::new(3).tile(helper, [&x, &g], async |tile, [x, g]| {
                let (z, kept) = leaky_relu(tile, &x, slope).await?;
                Ok(TileShare::concat(&[&z, &leaky_relu_backward(tile, &kept, &g, slope).await?]))
            });
            for i in 0..n {
                let (x, g) = (fixed.decode(x[i]), fixed.decode(g[i]));
                let factor = if x < 0.0 { slope } else { 1.0 };
                let bound = |x: f64| 1.01 / 65536.0 + x.abs() / unit(21);
                assert!((fixed.decode(z[i]) - factor * x).abs() < bound(x), "{slope}: {x}");
                assert!((fixed.decode(z[n + i]) - factor * g).abs() < bound(g), "{slope}: {x} {g}");
                assert!(x < 0.0 || fixed.decode(z[i]) == x);
            }
            let (sign, depth) = carry_bytes(&Default::default(), 31);
            let sent_bytes = sign * n.div_ceil(64) + 32 * n + 24 * n + 2 * trunc_bytes(n, 21);
            assert_eq!(run.cost, Cost { rounds: 1 + depth + 1 + 3, sent_bytes });
        }
    }

    #[test]
    fn gradient_passes_where_the_input_was_not_negative() {
        let x: Vec<u64> = [-3_i64, 0, 5, -1, 1 << 30].map(i64::cast_unsigned).to_vec();
        let g: Vec<u64> = vec![7; 5];
        for helper in 0..3 {
            let (z, run) = World::new(3).tile(helper, [&x, &g], async |tile, [x, g]| {
                let (_, kept) = relu(tile, &x).await?;
                relu_backward(tile, &kept, &g).await
            });
            assert_eq!(z, [0, 7, 7, 0, 7]);
            assert_eq!(run.cost.rounds, 8);
        }
    }

    #[test]
    fn relu_and_its_gradient_send_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 16).collect();
        let program = async |tile: &Tile<'_>, [x, g]: [TileShare; 2]| {
            let (_, kept) = relu(tile, &x).await?;
            relu_backward(tile, &kept, &g).await
        };
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x, &x], program).1;
        assert_masked(&run(2), &run(3));
        let program = async |tile: &Tile<'_>, [x, g]: [TileShare; 2]| {
            let (_, kept) = leaky_relu(tile, &x, 0.01).await?;
            leaky_relu_backward(tile, &kept, &g, 0.01).await
        };
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x, &x], program).1;
        assert_masked(&run(2), &run(3));
    }
}
