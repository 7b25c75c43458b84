//! Gradients of activations whose slope follows from their result.

use super::{fixed_product, sums_by_position};
use crate::protocol::{ProtocolError, Tile, TileShare};

/// How the slope of an activation follows from its result `y`.
#[derive(Clone, Copy)]
pub(super) enum Slope {
    /// `y (1 - y)`.
    Sigmoid,
    /// `1 - y^2 = (1 - y) (1 + y)`.
    Tanh,
    /// `y (g - sum(y g))`, the sum over the channels of a position.
    Softmax,
}

impl Slope {
    /// Gradient of the input from that of the result.
    pub(super) async fn back(
        self,
        tile: &Tile<'_>,
        y: &TileShare,
        gradient: TileShare,
        channels: usize,
    ) -> Result<TileShare, ProtocolError> {
        let one = tile.party().fixed().constant(1.0);
        let complement = || y.clone().times(u64::MAX).plus_public(tile, one);
        match self {
            Self::Sigmoid => {
                let slope = fixed_product(tile, y, &complement()).await?;
                fixed_product(tile, &slope, &gradient).await
            }
            Self::Tanh => {
                let slope = fixed_product(tile, &complement(), &y.clone().plus_public(tile, one)).await?;
                fixed_product(tile, &slope, &gradient).await
            }
            Self::Softmax => {
                let products = fixed_product(tile, y, &gradient).await?;
                let sums = sums_by_position(&products, channels);
                Ok(products.minus(&fixed_product(tile, y, &sums).await?))
            }
        }
    }
}
