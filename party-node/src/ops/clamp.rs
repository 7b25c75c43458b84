//! Clamping to a public interval, and its gradient: ReLU6, the hard hyperbolic tangent.

use crate::protocol::{Kept, ProtocolError, Term, Tile, TileShare, inject_again, inject_sum_keeping, signs};

/// `min(max(x, low), high)`.
///
/// | | |
/// |---|---|
/// | Computes | `x` limited to `[low, high]` (ring units, `low <= high`), exact where `x - low` and `x - high` are in the comparison window |
/// | Holds | `x` of `n` elements -> `z` |
/// | Rounds | those of [`signs`], and 1 |
/// | Bytes | those of two [`signs`], and `40 n` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`signs`] against both ends; `low`, what is inside above it, and the rest of the way where `x` is above |
pub async fn clamp(tile: &Tile<'_>, x: &TileShare, low: i64, high: i64) -> Result<TileShare, ProtocolError> {
    Ok(clip(tile, x, low, high).await?.0)
}

/// [`clamp`], and what [`clip_backward`] needs: with the ends 0 and 6 ReLU6, with -1 and 1 the hard tangent.
///
/// | | |
/// |---|---|
/// | Computes, Rounds, Bytes, Secure against, Reveals, Source | as [`clamp`] |
/// | Holds | `x` of `n` elements -> `z`, and the bits `[low <= x < high]` |
pub async fn clip(tile: &Tile<'_>, x: &TileShare, low: i64, high: i64) -> Result<(TileShare, Kept), ProtocolError> {
    let ends = [low, high].map(i64::cast_unsigned);
    let above = signs(tile, x, &ends).await?;
    let inside = above[0].clone().xor(&above[1]);
    let over_low = x.clone().plus_public(tile, ends[0].wrapping_neg());
    let terms = [Term::Share(&inside, &over_low, None), Term::Public(&above[1], ends[1].wrapping_sub(ends[0]))];
    let (over_low, mut kept) = inject_sum_keeping(tile, &terms, x.len()).await?;
    Ok((over_low.plus_public(tile, ends[0]), kept.swap_remove(0)))
}

/// Gradient of [`clip`]: lets `gradient` through where the input was inside.
///
/// | | |
/// |---|---|
/// | Computes | `[low <= x < high] gradient`, no comparison. (At `x = high` PyTorch's `clamp` lets it through, at `x = low` its `hardtanh` does not; each end is one value of the ring.) |
/// | Holds | what [`clip`] kept, `gradient` of `n` elements -> its product |
/// | Rounds | 1 |
/// | Bytes | `24 n` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`inject_again`] |
pub async fn clip_backward(tile: &Tile<'_>, kept: &Kept, gradient: &TileShare) -> Result<TileShare, ProtocolError> {
    inject_again(tile, kept, gradient).await
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;

    use super::*;
    use crate::protocol::carries_bytes;
    use crate::world::{Cost, World, assert_masked};

    #[test]
    fn values_are_limited_to_the_interval() {
        let x: Vec<u64> = [-900_i64, -10, -9, 0, 4, 5, 6, 1 << 29].map(i64::cast_unsigned).to_vec();
        let (z, run) = World::new(9).tile(1, [&x], async |tile, [x]| clamp(tile, &x, -10, 5).await);
        assert_eq!(z, [-10_i64, -10, -9, 0, 4, 5, 5, 5].map(i64::cast_unsigned));
        let (sign, depth) = carries_bytes(&Default::default(), 31, &[10_u64.wrapping_neg(), 5]);
        assert_eq!(run.cost, Cost { rounds: 1 + depth + 1, sent_bytes: sign + 40 * x.len() });
    }

    #[test]
    fn gradient_passes_inside_the_interval() {
        let fixed = FixedPoint::DEFAULT;
        for (low, high) in [(0.0, 6.0), (-1.0, 1.0)] {
            let (low, high) = (fixed.constant(low).cast_signed(), fixed.constant(high).cast_signed());
            let x: Vec<i64> =
                (-20..20).map(|i| i << 15).chain([low - 1, low, low + 1, high - 1, high, high + 1]).collect();
            let words: Vec<u64> = x.iter().map(|x| x.cast_unsigned()).collect();
            let gradient: Vec<u64> = (1..=x.len() as u64).map(u64::wrapping_neg).collect();
            let (z, run) = World::new(9).tile(2, [&words, &gradient], async |tile, [x, gradient]| {
                let (z, kept) = clip(tile, &x, low, high).await?;
                Ok(TileShare::concat(&[&z, &clip_backward(tile, &kept, &gradient).await?]))
            });
            let n = x.len();
            for i in 0..n {
                let inside = (low..high).contains(&x[i]);
                assert_eq!(
                    (z[i].cast_signed(), z[n + i]),
                    (x[i].clamp(low, high), if inside { gradient[i] } else { 0 })
                );
            }
            let (sign, depth) = carries_bytes(&Default::default(), 31, &[low.cast_unsigned(), high.cast_unsigned()]);
            let sent_bytes = sign * n.div_ceil(64) + 40 * n + 24 * n;
            assert_eq!(run.cost, Cost { rounds: 1 + depth + 2, sent_bytes });
        }
    }

    #[test]
    fn clamp_sends_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 16).collect();
        let program = async |tile: &Tile<'_>, [x]: [TileShare; 1]| {
            let (z, kept) = clip(tile, &x, -5, 1 << 18).await?;
            clip_backward(tile, &kept, &z).await
        };
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], program).1;
        assert_masked(&run(2), &run(3));
    }
}
