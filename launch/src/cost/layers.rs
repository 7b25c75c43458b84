//! What layers cost on their way forward and back, node after node as a tile computes them.

use shared::model::{Layer, Loss, Model, Source, Wiring};

use super::functions::{self, GELU, Parts, SILU, SOFTPLUS};
use super::walk::{Sizes, Walk};

/// Fraction bits of a variance beyond the usual ones.
const GUARD_BITS: u32 = 4;
/// Bits of a rate that divides by the size of a group.
const RATE_BITS: u32 = 31;

/// Of a share: two components.
const SHARE_BYTES: f64 = 16.0;
/// Of a shared bit that serves again: halves of its mask at two of three tiles' parties, and the bit itself.
const KEPT_BIT_BYTES: f64 = 6.0;

/// Bytes that a node keeps of a row for its way back.
#[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
pub(super) fn kept_bytes(model: &Model, wiring: &Wiring, node: usize) -> f64 {
    let (from, to) = (wiring.input(node).len() as f64, wiring.output(node).len() as f64);
    match model.nodes[node].layer {
        Layer::Linear { .. } | Layer::Conv(_) | Layer::ConvTranspose { .. } | Layer::Scale | Layer::LogSoftmax => {
            SHARE_BYTES * from
        }
        Layer::Multiply => 2.0 * SHARE_BYTES * from,
        Layer::MaxPool(pool) => {
            let comparisons: usize = functions::pool_levels(wiring.input(node), &pool).iter().sum();
            KEPT_BIT_BYTES * comparisons as f64
        }
        Layer::Relu | Layer::Clip { .. } | Layer::LeakyRelu { .. } | Layer::Dropout { .. } => KEPT_BIT_BYTES * to,
        Layer::BatchNorm { .. } | Layer::LayerNorm { .. } | Layer::GroupNorm { .. } => SHARE_BYTES * to,
        Layer::Gelu | Layer::Silu | Layer::Softplus => SHARE_BYTES * to,
        Layer::Sigmoid | Layer::Tanh | Layer::Softmax => SHARE_BYTES * to,
        Layer::Flatten | Layer::Reshape { .. } | Layer::Concat | Layer::Add | Layer::Subtract => 0.0,
        Layer::AveragePool { .. } | Layer::AdaptiveAveragePool { .. } => 0.0,
    }
}

/// A network, and the rows that pass through it.
pub(super) struct Pass<'a> {
    pub(super) model: &'a Model,
    pub(super) wiring: &'a Wiring,
    pub(super) rows: usize,
}

/// Values whose statistics belong together.
struct Groups {
    /// All rows, so that tiles meet.
    batch: bool,
    /// Groups in each tile.
    count: Sizes,
    /// Groups where all tiles meet.
    channels: usize,
    /// Values of a group.
    len: usize,
}

impl Pass<'_> {
    /// Forward through a node; with what training adds, or as evaluation has it, where batch-norms are folded away.
    pub(super) fn forward(&self, walk: &mut Walk, node: usize, training: bool) {
        let (from, to) = (self.wiring.input(node), self.wiring.output(node));
        let n = walk.each(to.len());
        let parts = if training { Parts::Both } else { Parts::Value };
        match self.model.nodes[node].layer {
            Layer::Linear { .. } | Layer::Conv(_) | Layer::ConvTranspose { .. } | Layer::Scale | Layer::Multiply => {
                walk.product(n)
            }
            Layer::MaxPool(pool) => {
                for matches in functions::pool_levels(from, &pool) {
                    walk.relu(walk.each(matches));
                }
            }
            Layer::AveragePool { .. } | Layer::AdaptiveAveragePool { .. } => walk.scaled(n, false),
            Layer::BatchNorm { .. } if !training => {}
            Layer::BatchNorm { .. } | Layer::LayerNorm { .. } | Layer::GroupNorm { .. } => self.norm(walk, node),
            Layer::Dropout { probability, .. } if !training || probability == 0.0 => {}
            Layer::Dropout { probability, secret: false } => walk.scaled(n, probability == 0.5),
            Layer::Dropout { probability, secret: true } => {
                walk.biased_bits(n, 1.0 - probability);
                walk.scaled(n, functions::keeps_half(1.0 - probability));
                walk.inject(n);
            }
            Layer::Relu => walk.relu(n),
            Layer::Clip { low, high } => walk.clamp(n, low, high),
            Layer::LeakyRelu { .. } => walk.leaky_relu(n),
            Layer::Gelu => walk.bend(n, GELU, parts),
            Layer::Silu => walk.bend(n, SILU, parts),
            Layer::Softplus => walk.bend(n, SOFTPLUS, parts),
            Layer::Sigmoid | Layer::Tanh => walk.sigmoid(n),
            Layer::Softmax => walk.softmax(walk.each(to.positions()), to.channels),
            Layer::LogSoftmax => walk.log_softmax(walk.each(to.positions()), to.channels),
            Layer::Flatten | Layer::Reshape { .. } | Layer::Concat | Layer::Add | Layer::Subtract => {}
        }
    }

    /// The loss's gradient by the scores.
    pub(super) fn loss(&self, walk: &mut Walk) {
        let outputs = self.wiring.output(self.model.nodes.len() - 1).len();
        let n = walk.each(outputs);
        match self.model.loss {
            Loss::MeanSquared => {}
            Loss::BinaryCrossEntropy => walk.sigmoid(n),
            Loss::SoftmaxCrossEntropy => walk.softmax(walk.each(1), outputs),
            Loss::MeanAbsolute => {
                walk.sign(n);
                walk.inject_sum(n, 0, 1);
            }
        }
    }

    /// Whether each node has a gradient: the last one does, and what a node with one reads, if it learns.
    pub(super) fn gradients(&self) -> Vec<bool> {
        let mut reached = vec![false; self.model.nodes.len()];
        if let Some(last) = reached.last_mut() {
            *last = true;
        }
        for (index, node) in self.model.nodes.iter().enumerate().rev() {
            reached[index] &= self.wiring.learns(index);
            for source in &node.inputs {
                if let Source::Node(before) = source {
                    reached[*before] |= reached[index];
                }
            }
        }
        reached
    }

    /// Whether a product hands a gradient on.
    pub(super) fn hands_on(&self, node: usize) -> bool {
        matches!(self.model.nodes[node].inputs[0], Source::Node(before) if self.wiring.learns(before))
    }

    /// Back through a node that has a gradient.
    pub(super) fn backward(&self, walk: &mut Walk, node: usize) {
        let (from, to) = (self.wiring.input(node), self.wiring.output(node));
        let n = walk.each(to.len());
        match self.model.nodes[node].layer {
            Layer::Linear { .. } | Layer::Conv(_) | Layer::ConvTranspose { .. } => {
                if self.hands_on(node) {
                    walk.product(walk.each(from.len()));
                }
            }
            Layer::Scale | Layer::Gelu | Layer::Silu | Layer::Softplus => walk.product(n),
            Layer::Multiply | Layer::Sigmoid | Layer::Tanh | Layer::Softmax => {
                walk.product(n);
                walk.product(n);
            }
            Layer::MaxPool(pool) => {
                for matches in functions::pool_levels(from, &pool).into_iter().rev() {
                    walk.inject_again(walk.each(matches));
                }
            }
            Layer::AveragePool { .. } | Layer::AdaptiveAveragePool { .. } => walk.scaled(n, false),
            Layer::BatchNorm { .. } | Layer::LayerNorm { .. } | Layer::GroupNorm { .. } => {
                self.norm_backward(walk, node);
            }
            Layer::Dropout { probability: 0.0, .. } => {}
            Layer::Dropout { probability, secret: false } => walk.scaled(n, probability == 0.5),
            Layer::Dropout { probability, secret: true } => {
                walk.scaled(n, functions::keeps_half(1.0 - probability));
                walk.inject_again(n);
            }
            Layer::Relu | Layer::Clip { .. } => walk.inject_again(n),
            Layer::LeakyRelu { .. } => walk.leaky_relu_backward(n),
            Layer::LogSoftmax => {
                walk.softmax(walk.each(to.positions()), to.channels);
                walk.product(n);
            }
            Layer::Flatten | Layer::Reshape { .. } | Layer::Concat | Layer::Add | Layer::Subtract => {}
        }
    }

    fn groups(&self, walk: &Walk, node: usize) -> Groups {
        let shape = self.wiring.input(node);
        let (batch, per_row, len) = match self.model.nodes[node].layer {
            Layer::BatchNorm { .. } => (true, 0, self.rows * shape.positions()),
            Layer::GroupNorm { groups, .. } => (false, groups, shape.len() / groups),
            _ => (false, shape.positions(), shape.channels),
        };
        let count = if batch { walk.each(1).replaced(shape.channels) } else { walk.each(per_row) };
        Groups { batch, count, channels: shape.channels, len }
    }

    fn norm(&self, walk: &mut Walk, node: usize) {
        let (groups, n) = (self.groups(walk, node), walk.each(self.wiring.output(node).len()));
        groups.settle(walk, |walk, count| groups.divide(walk, count));
        groups.settle(walk, |walk, count| walk.trunc_exact(count, walk.fraction() + 1 - GUARD_BITS));
        groups.settle(walk, |walk, count| {
            groups.divide(walk, count);
            walk.inverse_sqrt(count);
        });
        walk.product(if groups.batch { groups.count } else { n });
        walk.product(n);
    }

    fn norm_backward(&self, walk: &mut Walk, node: usize) {
        let (groups, n) = (self.groups(walk, node), walk.each(self.wiring.output(node).len()));
        let along = |walk: &mut Walk, count| walk.trunc_exact(count, walk.fraction() + 1);
        if groups.batch {
            groups.settle(walk, along);
            walk.product(groups.count);
        } else {
            walk.product(n);
            walk.product(n);
            along(walk, groups.count);
        }
        groups.settle(walk, |walk, count| groups.divide(walk, count));
        walk.product(groups.count);
        walk.product(groups.count);
        groups.divide(walk, groups.count);
        walk.product(groups.count);
        walk.product(groups.count);
        walk.product(n);
    }
}

impl Groups {
    /// Statistics of each tile's own groups, or of the batch's where the tiles meet.
    fn settle(&self, walk: &mut Walk, conclude: impl FnOnce(&mut Walk, Sizes)) {
        if self.batch {
            walk.meet(|walk| conclude(walk, Sizes::first(self.channels)));
        } else {
            conclude(walk, self.count);
        }
    }

    /// Sums over the size of a group.
    fn divide(&self, walk: &mut Walk, count: Sizes) {
        let shift = if self.len.is_power_of_two() { self.len.ilog2() } else { RATE_BITS };
        if shift > 0 {
            walk.trunc_exact(count, shift + 1);
        }
    }
}
