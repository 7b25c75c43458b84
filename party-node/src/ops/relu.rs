//! ReLU and its gradient.

use crate::protocol::{Kept, ProtocolError, Tile, TileShare, inject, inject_again, sign};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, assert_masked};

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
    }
}
