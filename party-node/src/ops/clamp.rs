//! Clamping to a public interval.

use crate::protocol::{Bits, ProtocolError, Term, Tile, TileShare, inject_sum, sign};

/// `min(max(x, low), high)`.
///
/// | | |
/// |---|---|
/// | Computes | `x` limited to `[low, high]` (ring units, `low <= high`), exact in the comparison window |
/// | Holds | `x` of `n` elements -> `z` |
/// | Rounds | those of [`sign`], and 1 |
/// | Bytes | those of two [`sign`], and `48 n` over the three parties |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`sign`] against both ends side by side, [`inject_sum`] |
pub async fn clamp(tile: &Tile<'_>, x: &TileShare, low: i64, high: i64) -> Result<TileShare, ProtocolError> {
    let n = x.len();
    let (above_low, above_high) = above(tile, x, low, high).await?;
    let inside = above_low.clone().xor(&above_high);
    let below_low = above_low.negated();
    let terms = [
        Term::Share(&inside, x, None),
        Term::Public(&above_high, high.cast_unsigned()),
        Term::Public(&below_low, low.cast_unsigned()),
    ];
    inject_sum(tile, &terms, n).await
}

/// `[x >= low]` and `[x >= high]`, side by side.
pub(super) async fn above(tile: &Tile<'_>, x: &TileShare, low: i64, high: i64) -> Result<(Bits, Bits), ProtocolError> {
    let n = x.len();
    // Each half starts on a word of its own, so that the planes can be cut apart.
    let padded = n.next_multiple_of(64);
    let shifted = |by: i64| x.clone().plus_public(tile, by.wrapping_neg().cast_unsigned());
    let gap = TileShare::zeros(padded - n);
    let both = TileShare::concat(&[&shifted(low), &gap, &shifted(high)]);
    let bits = sign(tile, &both).await?;
    let low = bits.gather(n, |i| i);
    let high = bits.gather(n, |i| padded + i);
    Ok((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, assert_masked};

    #[test]
    fn values_are_limited_to_the_interval() {
        let x: Vec<u64> = [-900_i64, -10, -9, 0, 4, 5, 6, 1 << 29].map(i64::cast_unsigned).to_vec();
        let (z, run) = World::new(9).tile(1, [&x], async |tile, [x]| clamp(tile, &x, -10, 5).await);
        assert_eq!(z, [-10_i64, -10, -9, 0, 4, 5, 5, 5].map(i64::cast_unsigned));
        assert_eq!(run.cost.rounds, 7);
    }

    #[test]
    fn clamp_sends_only_masked_words() {
        let x: Vec<u64> = (0..64).map(|i| i << 16).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], async |t, [x]| clamp(t, &x, -5, 1 << 18).await).1;
        assert_masked(&run(2), &run(3));
    }
}
