//! The way of a tile's gradient back through the graph.

use shared::model::{Layer, Source};

use super::forward::{Cache, Trace};
use super::{Network, Step, arrange, column_sums, fixed_product, sums_by_position};
use crate::ops::{clip_backward, leaky_relu_backward, max_pool_backward, relu_backward, softmax};
use crate::protocol::{ProtocolError, Tile, TileShare, mul_doubled};

impl Network<'_> {
    /// Takes the gradient of the scores back through the layers and adds this tile's gradient of every parameter, an
    /// additive sharing of twice its sum over the tile's samples, to the step's.
    pub async fn backward(
        &self,
        tile: &Tile<'_>,
        trace: Trace,
        gradient: TileShare,
        step: &Step,
    ) -> Result<(), ProtocolError> {
        let Trace { caches, rows } = trace;
        let mut gradients = Gradients::new(self.model.nodes.len(), gradient);
        for (index, cache) in caches.into_iter().enumerate().rev() {
            let Some(gradient) = gradients.take(index).filter(|_| self.wiring.learns(index)) else { continue };
            let sources = &self.model.nodes[index].inputs;
            let back = if sources.len() > 1 {
                self.parted(tile, index, cache, gradient).await?
            } else {
                let wanted = matches!(sources[0], Source::Node(node) if self.wiring.learns(node));
                self.layer_back(tile, index, cache, gradient, (rows, wanted), step).await?.into_iter().collect()
            };
            for (source, gradient) in sources.iter().zip(back) {
                gradients.add(*source, gradient);
            }
        }
        Ok(())
    }

    /// Gradient of a layer's input, if anybody wants it.
    async fn layer_back(
        &self,
        tile: &Tile<'_>,
        index: usize,
        cache: Cache,
        gradient: TileShare,
        (rows, wanted): (usize, bool),
        step: &Step,
    ) -> Result<Option<TileShare>, ProtocolError> {
        let (from, to) = (self.wiring.input(index), self.wiring.output(index));
        Ok(Some(match (self.model.nodes[index].layer, cache) {
            (Layer::Linear { .. }, Cache::Inputs(x)) => {
                self.linear_gradients(tile, index, &x[0], &gradient, rows, step.gradient.borrow_mut().all_mut());
                if !wanted {
                    return Ok(None);
                }
                self.linear_backward(tile, index, &gradient, rows).await?
            }
            (Layer::Conv(conv) | Layer::ConvTranspose { conv, .. }, Cache::Inputs(x)) => {
                let conv = (&conv, matches!(self.model.nodes[index].layer, Layer::ConvTranspose { .. }));
                self.conv_gradients(tile, index, conv, &x[0], &gradient, rows, step.gradient.borrow_mut().all_mut());
                if !wanted {
                    return Ok(None);
                }
                self.conv_backward(tile, index, conv, &gradient, rows).await?
            }
            (_, Cache::Norm(normed)) => {
                self.norm_backward(tile, index, self.grouping(index).0, &normed, &gradient, step).await?
            }
            (Layer::Scale, Cache::Inputs(x)) => {
                self.scale_gradients(tile, index, &x[0], &gradient, step);
                fixed_product(tile, &gradient, &self.scales(tile, index, gradient.len())).await?
            }
            (_, Cache::Pool(kept)) => max_pool_backward(tile, &kept, &gradient).await?,
            (Layer::LeakyRelu { slope }, Cache::Bits(kept)) => {
                leaky_relu_backward(tile, &kept, &gradient, slope).await?
            }
            (Layer::Clip { .. }, Cache::Bits(kept)) => clip_backward(tile, &kept, &gradient).await?,
            (_, Cache::Bits(kept)) => relu_backward(tile, &kept, &gradient).await?,
            (_, Cache::Slope(slope)) => fixed_product(tile, &slope, &gradient).await?,
            (_, Cache::Mask(mask)) => mask.back(tile, &gradient).await?,
            (Layer::Dropout { .. }, _) => gradient,
            (_, Cache::Result(result, slope)) => slope.back(tile, &result, gradient, to.channels).await?,
            (Layer::AveragePool { .. } | Layer::AdaptiveAveragePool { .. }, _) => {
                self.means(index).back(tile, &gradient).await?
            }
            (Layer::Flatten | Layer::Reshape { .. }, _) => arrange::reshape(gradient, to, from),
            (Layer::LogSoftmax, Cache::Inputs(x)) => {
                // g - softmax(x) sum(g), the sum over the channels of a position.
                let sums = sums_by_position(&gradient, to.channels);
                let shares = softmax(tile, &x[0], to.channels).await?;
                gradient.minus(&fixed_product(tile, &shares, &sums).await?)
            }
            (other, _) => unreachable!("{} keeps what its gradient needs", other.kind()),
        }))
    }

    /// Gradients of the inputs of a layer that has several.
    async fn parted(
        &self,
        tile: &Tile<'_>,
        index: usize,
        cache: Cache,
        gradient: TileShare,
    ) -> Result<Vec<TileShare>, ProtocolError> {
        let count = self.model.nodes[index].inputs.len();
        Ok(match (self.model.nodes[index].layer, cache) {
            (Layer::Multiply, Cache::Inputs(x)) => {
                vec![fixed_product(tile, &gradient, &x[1]).await?, fixed_product(tile, &gradient, &x[0]).await?]
            }
            (Layer::Concat, _) => {
                let mut start = 0;
                let mut part = |width: usize| {
                    start += width;
                    arrange::channels(&gradient, self.wiring.output(index).channels, start - width..start)
                };
                self.widths(index).into_iter().map(&mut part).collect()
            }
            (Layer::Subtract, _) => vec![gradient.clone(), gradient.times(u64::MAX)],
            _ => vec![gradient; count],
        })
    }

    fn scale_gradients(&self, tile: &Tile<'_>, index: usize, x: &TileShare, gradient: &TileShare, step: &Step) {
        let place = self.wiring.place(index);
        let channels = place.weights.len();
        let products = mul_doubled(tile, x, gradient);
        step.add_gradient(&place.weights, &products.column_sums(channels));
        step.add_gradient(&place.biases, &column_sums(tile, gradient, channels));
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
