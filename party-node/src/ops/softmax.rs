//! Softmax over short rows.

use super::max::row_max;
use super::{divide_bounded, exp_negative};
use crate::protocol::{ProtocolError, Term, Tile, TileShare, inject_sum, join, sign};

/// `exp(x_i) / sum exp(x_j)` over each row.
///
/// | | |
/// |---|---|
/// | Computes | softmax, absolute error below 1e-3; terms more than 15 below the largest count as zero |
/// | Holds | `x` of `rows x cols`, row-major, `cols >= 2` -> probabilities |
/// | Rounds | those of [`row_max`], of a [`sign`] beside [`exp_negative`], 1, and those of [`divide_bounded`] |
/// | Bytes | those of its parts |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | the usual shift by the largest value; parts as named |
pub async fn softmax(tile: &Tile<'_>, x: &TileShare, cols: usize) -> Result<TileShare, ProtocolError> {
    let largest = row_max(tile, x, cols).await?;
    let repeated = largest.map(|max| max.iter().flat_map(|max| std::iter::repeat_n(*max, cols)).collect());
    let below = x.clone().minus(&repeated);
    let terms = exp_clamped(tile, &below).await?;
    let sums =
        terms.map(|terms| terms.chunks(cols).map(|row| row.iter().copied().fold(0, u64::wrapping_add)).collect());
    #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 classes")]
    divide_bounded(tile, &terms, &sums, cols, cols as f64).await
}

/// `exp(x)` for `x <= 0`; zero below -15.
async fn exp_clamped(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let side = tile.fork();
    let in_range = x.clone().plus_public(tile, tile.party().fixed().constant(15.0));
    let (exp, in_range) = join(exp_negative(tile, x), sign(&side, &in_range)).await?;
    tile.rejoin(&side);
    inject_sum(tile, &[Term::Share(&in_range, &exp, None)], x.len()).await
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;

    use super::*;
    use crate::world::{World, assert_masked};

    #[test]
    fn softmax_is_close_to_float64() {
        let fixed = FixedPoint::DEFAULT;
        for cols in [2, 3, 10] {
            let values: Vec<f64> = (0..cols * 40)
                .map(|i| (f64::from(u32::try_from(i).unwrap()) * 1.7).sin() * [0.0, 1.0, 8.0, 40.0, 3000.0][i / 8 % 5])
                .collect();
            let x: Vec<u64> = values.iter().map(|&x| fixed.constant(x)).collect();
            let (z, _) = World::new(4).tile(1, [&x], async |tile, [x]| softmax(tile, &x, cols).await);
            for (row, z) in values.chunks(cols).zip(z.chunks(cols)) {
                let max = row.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
                for (x, z) in row.iter().zip(z) {
                    let error = (fixed.decode(*z) - (x - max).exp() / sum).abs();
                    assert!(error < 1e-3, "softmax {x} in {row:?} is off by {error}");
                }
            }
        }
    }

    #[test]
    fn softmax_sends_only_masked_words() {
        let x: Vec<u64> = (0..256).map(|i| (i * 37) << 14 & 0x3f_ffff).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], async |t, [x]| softmax(t, &x, 4).await).1;
        assert_masked(&run(2), &run(3));
    }
}
