//! Slopes of activations that follow from their results.

use super::fixed_product;
use crate::protocol::{ProtocolError, Tile, TileShare};

/// How the slope of an activation follows from its result `y`.
#[derive(Clone, Copy)]
pub(super) enum Slope {
    /// `y (1 - y)`.
    Sigmoid,
    /// `1 - y^2 = (1 - y) (1 + y)`.
    Tanh,
}

impl Slope {
    /// The slope, one truncated product.
    pub(super) async fn of(self, tile: &Tile<'_>, y: &TileShare) -> Result<TileShare, ProtocolError> {
        let one = tile.party().fixed().constant(1.0);
        let complement = y.clone().times(u64::MAX).plus_public(tile, one);
        match self {
            Self::Sigmoid => fixed_product(tile, y, &complement).await,
            Self::Tanh => fixed_product(tile, &complement, &y.clone().plus_public(tile, one)).await,
        }
    }
}
