//! The way of a tile forward through the graph.

use std::ops::Range;

use shared::model::{Layer, Model, Source, Wiring};

use super::activation::Slope;
use super::dropout::Mask;
use super::norm::{Grouping, Normed};
use super::pool::{Means, windows};
use super::{Network, Step, arrange, dropout, fixed_product, repeated};
use crate::ops::{
    PoolKept, clip, gelu, gelu_and_slope, leaky_relu, log_softmax, max_pool, relu, sigmoid, silu, silu_and_slope,
    softmax, softplus, softplus_and_slope, tanh,
};
use crate::protocol::{Kept, ProtocolError, Tile, TileShare};

/// What a layer keeps of its forward pass for its backward pass.
pub(super) enum Cache {
    /// Nothing.
    Empty,
    /// Its inputs.
    Inputs(Vec<TileShare>),
    /// Where its input lay: above zero, or between two bounds.
    Bits(Kept),
    /// Its slope.
    Slope(TileShare),
    /// Which values stayed.
    Mask(Mask),
    /// Its result, from which the slope follows.
    Result(TileShare, Slope),
    /// Who won.
    Pool(PoolKept),
    /// Deviations from the mean, and what scaled them.
    Norm(Normed),
}

/// What [`Network::backward`] needs of [`Network::forward`].
pub struct Trace {
    pub(super) caches: Vec<Cache>,
    /// Samples of the tile.
    pub(super) rows: usize,
}

impl Network<'_> {
    /// Scores of a tile's samples, and what [`Network::backward`] needs. With a step, of whose samples these are `rows`,
    /// layers do what they do in training; without one, the network must have no batch-norm (see
    /// [`fold_batch_norms`](super::fold_batch_norms)).
    pub async fn forward(
        &self,
        tile: &Tile<'_>,
        x: TileShare,
        rows: Range<usize>,
        step: Option<&Step>,
    ) -> Result<(TileShare, Trace), ProtocolError> {
        let mut values = Values::new(self.model, &self.wiring, x);
        let mut caches = Vec::with_capacity(self.model.nodes.len());
        for (index, node) in self.model.nodes.iter().enumerate() {
            let inputs: Vec<TileShare> = node.inputs.iter().map(|source| values.take(*source)).collect();
            let (output, cache) = self.layer(tile, index, inputs, rows.clone(), step).await?;
            // Without a step there is no way back.
            caches.push(if step.is_some() { cache } else { Cache::Empty });
            values.put(index, output);
        }
        Ok((values.scores(), Trace { caches, rows: rows.len() }))
    }

    async fn layer(
        &self,
        tile: &Tile<'_>,
        index: usize,
        mut inputs: Vec<TileShare>,
        samples: Range<usize>,
        step: Option<&Step>,
    ) -> Result<(TileShare, Cache), ProtocolError> {
        let (from, to) = (self.wiring.input(index), self.wiring.output(index));
        let (layer, training) = (self.model.nodes[index].layer, step.is_some());
        if inputs.len() > 1 {
            return self.joined(tile, index, inputs).await;
        }
        let (x, rows) = (inputs.pop().expect("every layer has an input"), samples.len());
        Ok(match layer {
            Layer::Linear { .. } => (self.linear(tile, index, &x, rows).await?, Cache::Inputs(vec![x])),
            Layer::Conv(conv) => (self.conv(tile, index, (&conv, false), &x, rows).await?, Cache::Inputs(vec![x])),
            Layer::ConvTranspose { conv, .. } => {
                (self.conv(tile, index, (&conv, true), &x, rows).await?, Cache::Inputs(vec![x]))
            }
            Layer::MaxPool(pool) => {
                let (output, kept) = max_pool(tile, &x, &windows(from, &pool, rows)).await?;
                (output, Cache::Pool(kept))
            }
            Layer::AveragePool { .. } | Layer::AdaptiveAveragePool { .. } => {
                (self.means(index).of(tile, &x).await?, Cache::Empty)
            }
            Layer::BatchNorm { .. } | Layer::LayerNorm { .. } | Layer::GroupNorm { .. } => {
                let (output, normed) = self.norm(tile, index, self.grouping(index), x, step).await?;
                (output, Cache::Norm(normed))
            }
            Layer::Scale => (self.scale(tile, index, &x).await?, Cache::Inputs(vec![x])),
            Layer::Flatten | Layer::Reshape { .. } => (arrange::reshape(x, from, to), Cache::Empty),
            Layer::Relu => {
                let (output, kept) = relu(tile, &x).await?;
                (output, Cache::Bits(kept))
            }
            Layer::Sigmoid => with_result(sigmoid(tile, &x).await?, Slope::Sigmoid, training),
            Layer::Tanh => with_result(tanh(tile, &x).await?, Slope::Tanh, training),
            Layer::Softmax => with_result(softmax(tile, &x, from.channels).await?, Slope::Softmax, training),
            Layer::LogSoftmax => (log_softmax(tile, &x, from.channels).await?, Cache::Inputs(vec![x])),
            Layer::Clip { low, high } => {
                let fixed = tile.party().fixed();
                let [low, high] = [low, high].map(|end| fixed.constant(end).cast_signed());
                let (output, kept) = clip(tile, &x, low, high).await?;
                (output, Cache::Bits(kept))
            }
            Layer::LeakyRelu { slope } => {
                let (output, kept) = leaky_relu(tile, &x, slope).await?;
                (output, Cache::Bits(kept))
            }
            Layer::Gelu if training => with_slope(gelu_and_slope(tile, &x).await?),
            Layer::Gelu => (gelu(tile, &x).await?, Cache::Empty),
            Layer::Silu if training => with_slope(silu_and_slope(tile, &x).await?),
            Layer::Silu => (silu(tile, &x).await?, Cache::Empty),
            Layer::Softplus if training => with_slope(softplus_and_slope(tile, &x).await?),
            Layer::Softplus => (softplus(tile, &x).await?, Cache::Empty),
            Layer::Dropout { probability, secret } => match step.filter(|_| probability > 0.0) {
                None => (x, Cache::Empty),
                Some(_) if secret => with_mask(dropout::secret(tile, &x, probability).await?),
                Some(step) => {
                    let kept = step.dropout_mask(index, probability, samples, from.len());
                    let factor = 1.0 / (1.0 - probability);
                    let factors = kept.into_iter().map(|kept| if kept { factor } else { 0.0 }).collect();
                    with_mask(dropout::public(tile, &x, factors).await?)
                }
            },
            Layer::Concat | Layer::Add | Layer::Subtract | Layer::Multiply => unreachable!("layers of several inputs"),
        })
    }

    /// Layers of several inputs.
    async fn joined(
        &self,
        tile: &Tile<'_>,
        index: usize,
        inputs: Vec<TileShare>,
    ) -> Result<(TileShare, Cache), ProtocolError> {
        Ok(match self.model.nodes[index].layer {
            Layer::Multiply => (fixed_product(tile, &inputs[0], &inputs[1]).await?, Cache::Inputs(inputs)),
            Layer::Concat => (arrange::concat(tile, &inputs, &self.widths(index)), Cache::Empty),
            Layer::Subtract => {
                let mut inputs = inputs.into_iter();
                let first = inputs.next().expect("two inputs");
                (inputs.fold(first, |difference, x| difference.minus(&x)), Cache::Empty)
            }
            _ => (inputs.into_iter().reduce(|sum, x| sum.plus(&x)).expect("several inputs"), Cache::Empty),
        })
    }

    /// Channels of each input.
    pub(super) fn widths(&self, index: usize) -> Vec<usize> {
        let shape = |source: &Source| match *source {
            Source::Input => self.model.input,
            Source::Node(node) => self.wiring.output(node),
        };
        self.model.nodes[index].inputs.iter().map(|source| shape(source).channels).collect()
    }

    pub(super) fn means(&self, index: usize) -> Means {
        let (from, to) = (self.wiring.input(index), self.wiring.output(index));
        match self.model.nodes[index].layer {
            Layer::AveragePool { pool, count_padding } => Means::pooled(from, to, &pool, count_padding),
            _ => Means::adaptive(from, to),
        }
    }

    /// Which values a normalisation takes together, and what it adds to their variance.
    pub(super) fn grouping(&self, index: usize) -> (Grouping, f64) {
        let shape = self.wiring.input(index);
        match self.model.nodes[index].layer {
            Layer::LayerNorm { epsilon } => (Grouping::Position { channels: shape.channels }, epsilon),
            Layer::GroupNorm { groups, epsilon } => (Grouping::Sample { shape, groups }, epsilon),
            Layer::BatchNorm { epsilon, .. } => (Grouping::Batch { channels: shape.channels }, epsilon),
            _ => unreachable!("only normalisations have groups"),
        }
    }

    async fn scale(&self, tile: &Tile<'_>, index: usize, x: &TileShare) -> Result<TileShare, ProtocolError> {
        let place = self.wiring.place(index);
        let mut output = fixed_product(tile, x, &self.scales(tile, index, x.len())).await?;
        output.add_row(self.view(tile, &place.biases));
        Ok(output)
    }

    /// The learned scales of a layer, repeated for every position.
    pub(super) fn scales(&self, tile: &Tile<'_>, index: usize, len: usize) -> TileShare {
        repeated(&self.view(tile, &self.wiring.place(index).weights).to_owned(), len)
    }
}

/// Only the way back needs a copy.
fn with_result(output: TileShare, slope: Slope, training: bool) -> (TileShare, Cache) {
    let cache = if training { Cache::Result(output.clone(), slope) } else { Cache::Empty };
    (output, cache)
}

fn with_slope((output, slope): (TileShare, TileShare)) -> (TileShare, Cache) {
    (output, Cache::Slope(slope))
}

fn with_mask((output, mask): (TileShare, Mask)) -> (TileShare, Cache) {
    (output, Cache::Mask(mask))
}

/// Results of the forward pass, each kept until the last layer that takes it has done so.
struct Values {
    input: Slot,
    nodes: Vec<Slot>,
}

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
