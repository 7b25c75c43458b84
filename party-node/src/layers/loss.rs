//! Losses: the gradient that training starts from. The loss itself is never computed, let alone opened.

use shared::model::Loss;

use crate::ops::{sigmoid, softmax};
use crate::protocol::{ProtocolError, Tile, TileShare, sign, to_arithmetic};

/// Gradient of the loss with respect to the scores, per sample (not averaged over the batch).
///
/// | | |
/// |---|---|
/// | Computes | `sigmoid(s) - y`, `softmax(s) - y`, `s - y`, or the sign of `s - y` |
/// | Holds | scores and targets of `rows x cols` -> gradient |
/// | Rounds | those of the activation |
/// | Bytes | those of the activation |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | [`sigmoid`], [`softmax`] |
pub async fn loss_gradient(
    tile: &Tile<'_>,
    loss: Loss,
    scores: TileShare,
    targets: &TileShare,
    cols: usize,
) -> Result<TileShare, ProtocolError> {
    let predicted = match loss {
        Loss::BinaryCrossEntropy => sigmoid(tile, &scores).await?,
        Loss::SoftmaxCrossEntropy => softmax(tile, &scores, cols).await?,
        Loss::MeanSquared => scores,
        Loss::MeanAbsolute => {
            // 1 where the score is not below the target, else -1.
            let above = sign(tile, &scores.minus(targets)).await?;
            let one = tile.party().fixed().constant(1.0);
            let above = to_arithmetic(tile, &above, targets.len()).await?;
            return Ok(above.times(2 * one).plus_public(tile, one.wrapping_neg()));
        }
    };
    Ok(predicted.minus(targets))
}
