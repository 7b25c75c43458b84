//! Layers and losses on shares: one tile of a batch, forward and backward. Knows no batches and no optimiser.

mod loss;

use std::cell::RefCell;
use std::ops::Range;

use shared::model::{Layer, Model};
use shared::share::Share;

pub use loss::loss_gradient;

use crate::compute::elementwise;
use crate::ops::{relu, relu_backward, sigmoid, tanh};
use crate::protocol::{
    DoubledPartial, Kept, Matrix, ProtocolError, Tile, TileShare, View, matmul, matmul_doubled, mul_doubled, trunc,
};

/// A model with its parameters in shares: for each linear layer `W` row-major, then `b`.
#[derive(Clone, Copy)]
pub struct Network<'a> {
    model: &'a Model,
    parameters: &'a Share,
}

/// What the forward pass keeps for the backward pass.
pub enum Cache {
    /// Its input, and where its parameters lie.
    Linear {
        /// The input.
        input: TileShare,
        /// Weights and biases.
        place: LinearPlace,
    },
    /// The signs of its input.
    Relu(Kept),
    /// Its output.
    Sigmoid(TileShare),
    /// Its output.
    Tanh(TileShare),
}

/// Where a linear layer's parameters lie among all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearPlace {
    inputs: usize,
    outputs: usize,
    weights: Range<usize>,
    biases: Range<usize>,
}

fn linear_places(model: &Model) -> impl Iterator<Item = LinearPlace> {
    model.linear_shapes().into_iter().scan(0, |start, (inputs, outputs)| {
        let weights = *start..*start + inputs * outputs;
        let biases = weights.end..weights.end + outputs;
        *start = biases.end;
        Some(LinearPlace { inputs, outputs, weights, biases })
    })
}

impl<'a> Network<'a> {
    /// Joins a model with its parameters.
    ///
    /// # Panics
    /// If the number of parameters is not the model's.
    pub fn new(model: &'a Model, parameters: &'a Share) -> Self {
        assert_eq!(model.parameters(), parameters.len(), "parameters of this model");
        Self { model, parameters }
    }

    fn view(&self, tile: &Tile<'_>, range: &Range<usize>) -> View<'a> {
        tile.view(&self.parameters.first[range.clone()], &self.parameters.second[range.clone()])
    }

    /// Scores of a tile of `rows` samples, and what [`Network::backward`] needs.
    pub async fn forward(
        &self,
        tile: &Tile<'_>,
        mut x: TileShare,
        rows: usize,
    ) -> Result<(TileShare, Vec<Cache>), ProtocolError> {
        let mut places = linear_places(self.model);
        let mut caches = Vec::with_capacity(self.model.layers.len());
        for layer in &self.model.layers {
            let (output, cache) = match layer {
                Layer::Linear { .. } => {
                    let place = places.next().expect("a place for every linear layer");
                    (self.linear(tile, &x, rows, &place).await?, Cache::Linear { input: x, place })
                }
                Layer::Relu => {
                    let (output, kept) = relu(tile, &x).await?;
                    (output, Cache::Relu(kept))
                }
                Layer::Sigmoid => {
                    let output = sigmoid(tile, &x).await?;
                    (output.clone(), Cache::Sigmoid(output))
                }
                Layer::Tanh => {
                    let output = tanh(tile, &x).await?;
                    (output.clone(), Cache::Tanh(output))
                }
            };
            caches.push(cache);
            x = output;
        }
        Ok((x, caches))
    }

    async fn linear(
        &self,
        tile: &Tile<'_>,
        x: &TileShare,
        rows: usize,
        place: &LinearPlace,
    ) -> Result<TileShare, ProtocolError> {
        let input = Matrix::new(x.view(), rows, place.inputs);
        let weights = Matrix::new(self.view(tile, &place.weights), place.inputs, place.outputs);
        let mut output = matmul(tile, input, weights).await?;
        output.add_row(self.view(tile, &place.biases));
        Ok(output)
    }

    /// Takes the gradient of the scores back through the layers and adds this tile's gradient of every parameter, an
    /// additive sharing of twice its sum over the tile's samples, to `into`.
    pub async fn backward(
        &self,
        tile: &Tile<'_>,
        caches: Vec<Cache>,
        mut gradient: TileShare,
        rows: usize,
        into: &RefCell<Vec<u64>>,
    ) -> Result<(), ProtocolError> {
        let last = caches.len();
        for (below, cache) in caches.into_iter().rev().enumerate() {
            gradient = match cache {
                Cache::Linear { input, place } => {
                    accumulate(tile, &input, &gradient, rows, &place, &mut into.borrow_mut());
                    if below + 1 == last {
                        return Ok(());
                    }
                    let weights = Matrix::new(self.view(tile, &place.weights), place.inputs, place.outputs);
                    matmul(tile, Matrix::new(gradient.view(), rows, place.outputs), weights.t()).await?
                }
                Cache::Relu(kept) => relu_backward(tile, &kept, &gradient).await?,
                Cache::Sigmoid(output) => {
                    let slope = times_one_minus(tile, &output).await?;
                    fixed_product(tile, &slope, &gradient).await?
                }
                Cache::Tanh(output) => {
                    // 1 - tanh^2 = (1 - tanh)(1 + tanh).
                    let one = tile.party().fixed().constant(1.0);
                    let minus = output.clone().times(u64::MAX).plus_public(tile, one);
                    let slope = fixed_product(tile, &minus, &output.plus_public(tile, one)).await?;
                    fixed_product(tile, &slope, &gradient).await?
                }
            };
        }
        Ok(())
    }
}

/// Adds a linear layer's gradients: `X^T G` for the weights, column sums of `G` for the biases. Local.
fn accumulate(
    tile: &Tile<'_>,
    input: &TileShare,
    gradient: &TileShare,
    rows: usize,
    place: &LinearPlace,
    into: &mut [u64],
) {
    let input = Matrix::new(input.view(), rows, place.inputs).t();
    let columns = Matrix::new(gradient.view(), rows, place.outputs);
    matmul_doubled(tile, input, columns, &mut into[place.weights.clone()]);
    let sums = gradient.map(|gradient| {
        let mut sums = vec![0_u64; place.outputs];
        for row in gradient.chunks(place.outputs) {
            elementwise::add_assign(&mut sums, row);
        }
        sums
    });
    let scale = 1 << tile.party().fixed().bits();
    let mut sums = DoubledPartial::from_share(tile, &sums, scale);
    elementwise::add_assign(&mut into[place.biases.clone()], sums.addends());
}

/// Truncated product of fixed-point numbers.
async fn fixed_product(tile: &Tile<'_>, x: &TileShare, y: &TileShare) -> Result<TileShare, ProtocolError> {
    trunc(tile, mul_doubled(tile, x, y), tile.party().fixed().bits() + 1).await
}

/// `s (1 - s)`.
async fn times_one_minus(tile: &Tile<'_>, s: &TileShare) -> Result<TileShare, ProtocolError> {
    let complement = s.clone().times(u64::MAX).plus_public(tile, tile.party().fixed().constant(1.0));
    fixed_product(tile, s, &complement).await
}
