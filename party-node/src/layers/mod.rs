//! Layers and losses on shares: one tile of a batch, forward and backward. Knows no batches and no optimiser.

mod activation;
mod linear;
mod loss;

use std::cell::RefCell;
use std::ops::Range;

use shared::model::{Layer, Model, Source, Wiring};
use shared::share::Share;

pub use loss::loss_gradient;

use self::activation::Slope;
use crate::ops::{relu, relu_backward, sigmoid, tanh};
use crate::protocol::{DoubledPartial, Kept, ProtocolError, Tile, TileShare, View, mul_doubled, trunc};

/// A model with its parameters in shares.
pub struct Network<'a> {
    model: &'a Model,
    wiring: Wiring,
    parameters: &'a Share,
}

/// What a layer keeps of its forward pass for its backward pass.
enum Cache {
    /// Its input.
    Input(TileShare),
    /// The signs of its input.
    Relu(Kept),
    /// Its result, from which the slope follows.
    Output(TileShare, Slope),
}

/// What [`Network::backward`] needs of [`Network::forward`].
pub struct Trace(Vec<Cache>);

impl<'a> Network<'a> {
    /// Joins a model with its parameters: layer by layer weights (or scales), then biases (or shifts).
    ///
    /// # Panics
    /// If the model does not fit together, or the number of parameters is not the model's.
    pub fn new(model: &'a Model, parameters: &'a Share) -> Self {
        let wiring = model.wiring().expect("a model that was checked");
        assert_eq!(wiring.parameters(), parameters.len(), "parameters of this model");
        Self { model, wiring, parameters }
    }

    fn view(&self, tile: &Tile<'_>, range: &Range<usize>) -> View<'a> {
        tile.view(&self.parameters.first[range.clone()], &self.parameters.second[range.clone()])
    }

    /// Scores of a tile of `rows` samples, and what [`Network::backward`] needs.
    pub async fn forward(
        &self,
        tile: &Tile<'_>,
        x: TileShare,
        rows: usize,
    ) -> Result<(TileShare, Trace), ProtocolError> {
        let mut values = Values::new(self.model, &self.wiring, x);
        let mut caches = Vec::with_capacity(self.model.nodes.len());
        for (index, node) in self.model.nodes.iter().enumerate() {
            let inputs: Vec<TileShare> = node.inputs.iter().map(|source| values.take(*source)).collect();
            let (output, cache) = self.layer_forward(tile, index, inputs, rows).await?;
            caches.push(cache);
            values.put(index, output);
        }
        Ok((values.scores(), Trace(caches)))
    }

    async fn layer_forward(
        &self,
        tile: &Tile<'_>,
        index: usize,
        mut inputs: Vec<TileShare>,
        rows: usize,
    ) -> Result<(TileShare, Cache), ProtocolError> {
        let x = inputs.swap_remove(0);
        Ok(match &self.model.nodes[index].layer {
            Layer::Linear { .. } => (self.linear(tile, index, &x, rows).await?, Cache::Input(x)),
            Layer::Relu => {
                let (output, kept) = relu(tile, &x).await?;
                (output, Cache::Relu(kept))
            }
            Layer::Sigmoid => {
                let output = sigmoid(tile, &x).await?;
                (output.clone(), Cache::Output(output, Slope::Sigmoid))
            }
            Layer::Tanh => {
                let output = tanh(tile, &x).await?;
                (output.clone(), Cache::Output(output, Slope::Tanh))
            }
            other => unimplemented!("{}", other.kind()),
        })
    }

    /// Takes the gradient of the scores back through the layers and adds this tile's gradient of every parameter, an
    /// additive sharing of twice its sum over the tile's samples, to `into`.
    pub async fn backward(
        &self,
        tile: &Tile<'_>,
        trace: Trace,
        gradient: TileShare,
        rows: usize,
        into: &RefCell<Vec<u64>>,
    ) -> Result<(), ProtocolError> {
        let mut gradients = Gradients::new(self.model.nodes.len(), gradient);
        for (index, cache) in trace.0.into_iter().enumerate().rev() {
            let Some(gradient) = gradients.take(index).filter(|_| self.wiring.learns(index)) else { continue };
            let node = &self.model.nodes[index];
            let wanted: Vec<bool> = node.inputs.iter().map(|source| self.is_wanted(*source)).collect();
            let back = self.layer_backward(tile, index, cache, gradient, rows, &wanted, into).await?;
            for (source, gradient) in node.inputs.iter().zip(back) {
                gradients.add(*source, gradient);
            }
        }
        Ok(())
    }

    /// Whether anything learns from the gradient of a value.
    fn is_wanted(&self, source: Source) -> bool {
        matches!(source, Source::Node(node) if self.wiring.learns(node))
    }

    /// Gradients of a layer's inputs; those that nobody wants may be missing at the end.
    #[allow(clippy::too_many_arguments, reason = "a layer's backward pass is exactly what these name")]
    async fn layer_backward(
        &self,
        tile: &Tile<'_>,
        index: usize,
        cache: Cache,
        gradient: TileShare,
        rows: usize,
        wanted: &[bool],
        into: &RefCell<Vec<u64>>,
    ) -> Result<Vec<TileShare>, ProtocolError> {
        let back = match (cache, &self.model.nodes[index].layer) {
            (Cache::Input(x), Layer::Linear { .. }) => {
                self.linear_gradients(tile, index, &x, &gradient, rows, &mut into.borrow_mut());
                if !wanted[0] {
                    return Ok(vec![]);
                }
                self.linear_backward(tile, index, &gradient, rows).await?
            }
            (Cache::Relu(kept), _) => relu_backward(tile, &kept, &gradient).await?,
            (Cache::Output(output, slope), _) => {
                fixed_product(tile, &slope.of(tile, &output).await?, &gradient).await?
            }
            (_, other) => unimplemented!("{}", other.kind()),
        };
        Ok(vec![back])
    }
}

/// Results of the forward pass, each kept until the last layer that takes it has done so.
struct Values {
    input: Slot,
    nodes: Vec<Slot>,
}

#[derive(Clone, Default)]
struct Slot {
    value: Option<TileShare>,
    readers: usize,
}

impl Values {
    fn new(model: &Model, wiring: &Wiring, x: TileShare) -> Self {
        let readers = model.nodes.iter().flat_map(|node| &node.inputs).filter(|s| **s == Source::Input).count();
        let nodes = (0..model.nodes.len()).map(|node| Slot { value: None, readers: wiring.consumers(node) }).collect();
        Self { input: Slot { value: Some(x), readers }, nodes }
    }

    /// A copy for the next reader; the last one gets the value itself.
    fn take(&mut self, source: Source) -> TileShare {
        let slot = match source {
            Source::Input => &mut self.input,
            Source::Node(node) => &mut self.nodes[node],
        };
        slot.readers -= 1;
        let value = if slot.readers == 0 { slot.value.take() } else { slot.value.clone() };
        value.expect("a layer comes after those that it reads")
    }

    fn put(&mut self, node: usize, value: TileShare) {
        self.nodes[node].value = Some(value);
    }

    fn scores(mut self) -> TileShare {
        let last = self.nodes.pop().map_or(self.input.value, |slot| slot.value);
        last.expect("nobody reads the scores of a network")
    }
}

/// Gradients on their way back, summed where a value was read more than once.
struct Gradients(Vec<Option<TileShare>>);

impl Gradients {
    fn new(nodes: usize, scores: TileShare) -> Self {
        let mut gradients = vec![None; nodes];
        if let Some(last) = gradients.last_mut() {
            *last = Some(scores);
        }
        Self(gradients)
    }

    fn take(&mut self, node: usize) -> Option<TileShare> {
        self.0[node].take()
    }

    fn add(&mut self, source: Source, gradient: TileShare) {
        let Source::Node(node) = source else { return };
        match &mut self.0[node] {
            Some(sum) => sum.add_assign(&gradient),
            none => *none = Some(gradient),
        }
    }
}

/// Truncated product of fixed-point numbers.
async fn fixed_product(tile: &Tile<'_>, x: &TileShare, y: &TileShare) -> Result<TileShare, ProtocolError> {
    trunc(tile, mul_doubled(tile, x, y), tile.party().fixed().bits() + 1).await
}

/// Twice the sums of the columns of a matrix, with twice the fraction bits: a gradient of biases. Local.
fn column_sums(tile: &Tile<'_>, gradient: &TileShare, columns: usize) -> DoubledPartial {
    let sums = gradient.map(|gradient| {
        let mut sums = vec![0_u64; columns];
        for row in gradient.chunks(columns) {
            crate::compute::elementwise::add_assign(&mut sums, row);
        }
        sums
    });
    DoubledPartial::from_share(tile, &sums, 1 << tile.party().fixed().bits())
}
