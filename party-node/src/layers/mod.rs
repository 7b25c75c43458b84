//! Layers and losses on shares: one tile of a batch, forward and backward. Knows no batches and no optimiser.

mod activation;
mod arrange;
mod backward;
mod conv;
mod dropout;
mod fold;
mod forward;
mod linear;
mod loss;
mod norm;
mod pool;
mod step;

use std::ops::Range;

use shared::model::{Model, Wiring};

pub use fold::fold_batch_norms;
pub use forward::Trace;
pub use loss::loss_gradient;
pub use step::Step;

use crate::compute::elementwise;
use crate::protocol::{
    DoubledPartial, ProtocolError, Replicated, ReplicatedView, Tile, TileShare, View, mul_doubled, trunc, trunc_exact,
};

/// A model with its parameters in shares.
pub struct Network<'a> {
    model: &'a Model,
    wiring: Wiring,
    parameters: &'a Replicated,
}

impl<'a> Network<'a> {
    /// Joins a model with its parameters: layer by layer weights (or scales), then biases (or shifts).
    ///
    /// # Panics
    /// If the model does not fit together, or the number of parameters is not the model's.
    pub fn new(model: &'a Model, parameters: &'a Replicated) -> Self {
        let wiring = model.wiring().expect("a model that was checked");
        assert_eq!(wiring.parameters(), parameters.len(), "parameters of this model");
        Self { model, wiring, parameters }
    }

    fn view(&self, tile: &Tile<'_>, range: &Range<usize>) -> View<'a> {
        tile.view(ReplicatedView::from(self.parameters).at(range.clone()))
    }
}

/// Truncated product of fixed-point numbers.
async fn fixed_product(tile: &Tile<'_>, x: &TileShare, y: &TileShare) -> Result<TileShare, ProtocolError> {
    trunc(tile, mul_doubled(tile, x, y), tile.party().fixed().bits() + 1).await
}

/// Truncated products with public factors from 0 to 256, element by element.
async fn scaled(tile: &Tile<'_>, x: &TileShare, factors: &[f64]) -> Result<TileShare, ProtocolError> {
    const FACTOR_BITS: u32 = 20;
    if factors.iter().all(|factor| *factor == 0.0 || *factor == 2.0) {
        let factors: Vec<u64> = factors.iter().map(|factor| if *factor == 0.0 { 0 } else { 2 }).collect();
        return Ok(x.clone().times_each(&factors));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "factors lie between 0 and 256")]
    let factors: Vec<u64> = factors.iter().map(|x| (x * f64::from(1_u32 << FACTOR_BITS)).round() as u64).collect();
    let products = DoubledPartial::from_share(tile, x, 1).times_each(&factors);
    trunc_exact(tile, products, FACTOR_BITS + 1).await
}

/// Twice the sums of the columns of a matrix, with twice the fraction bits: a gradient of biases. Local.
fn column_sums(tile: &Tile<'_>, gradient: &TileShare, columns: usize) -> DoubledPartial {
    let sums = gradient.map(|gradient| elementwise::column_sums(gradient, columns));
    DoubledPartial::from_share(tile, &sums, 1 << tile.party().fixed().bits())
}

/// The sum over the channels of every position, at each of its channels.
fn sums_by_position(x: &TileShare, channels: usize) -> TileShare {
    x.map(|x| elementwise::each_repeated(&elementwise::row_sums(x, channels), channels))
}

/// A row of channels for every position.
fn repeated(row: &TileShare, len: usize) -> TileShare {
    row.map(|part| elementwise::repeated(part, len / part.len()))
}
