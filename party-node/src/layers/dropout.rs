//! Dropout in training: some values become zero, the others grow so that sums keep their mean.

use super::scaled;
use crate::protocol::{Kept, ProtocolError, Tile, TileShare, biased, biased_bits, inject, inject_again};

/// Which values a dropout kept.
pub(super) enum Mask {
    /// Factors that all parties know.
    Public(Vec<f64>),
    /// Bits that nobody knows, and the factor of those that are set.
    Secret(Kept, f64),
}

/// With factors that all parties know.
pub(super) async fn public(
    tile: &Tile<'_>,
    x: &TileShare,
    factors: Vec<f64>,
) -> Result<(TileShare, Mask), ProtocolError> {
    Ok((scaled(tile, x, &factors).await?, Mask::Public(factors)))
}

/// With a mask that nobody knows. Probabilities are multiples of 1/256.
pub(super) async fn secret(
    tile: &Tile<'_>,
    x: &TileShare,
    probability: f64,
) -> Result<(TileShare, Mask), ProtocolError> {
    let keep = 1.0 - probability;
    let factor = 1.0 / biased(keep);
    let bits = biased_bits(tile, x.len(), keep).await?;
    let (output, kept) = inject(tile, &bits, &scaled(tile, x, &vec![factor; x.len()]).await?).await?;
    Ok((output, Mask::Secret(kept, factor)))
}

impl Mask {
    /// Lets the gradient through where values were kept.
    pub(super) async fn back(&self, tile: &Tile<'_>, gradient: &TileShare) -> Result<TileShare, ProtocolError> {
        match self {
            Self::Public(factors) => scaled(tile, gradient, factors).await,
            Self::Secret(kept, factor) => {
                let gradient = scaled(tile, gradient, &vec![*factor; gradient.len()]).await?;
                inject_again(tile, kept, &gradient).await
            }
        }
    }
}
