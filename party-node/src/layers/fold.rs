//! Batch-norms with their running averages, folded away for evaluation: into the product before them where it feeds
//! nothing else, else into a scale and a shift.

use shared::model::{Conv, Layer, Model, Node, Source};

use super::fixed_product;
use super::norm::{GUARD_BITS, inverse_deviation};
use crate::compute::elementwise;
use crate::protocol::{Party, ProtocolError, Replicated};

/// The same function as the network with its running averages, without batch-norms.
///
/// | | |
/// |---|---|
/// | Computes | `s = scale / sqrt(variance + epsilon)`; weights `W s` and biases `(b - mean) s + shift` in place of `W` and `b` |
/// | Holds | model, parameters, running averages -> model, parameters |
/// | Rounds | 25, and 2 for each batch-norm that is folded into weights; none without batch-norms |
/// | Bytes | as [`trunc`](crate::protocol::trunc) on every weight, and 290 per channel and party |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", arXiv 1712.05877, section 3.2 |
pub fn fold_batch_norms(
    party: &Party,
    model: &Model,
    parameters: &Replicated,
    buffers: &Replicated,
) -> Result<(Model, Replicated), ProtocolError> {
    let wiring = model.wiring().expect("a model that was checked");
    if wiring.buffers() == 0 {
        return Ok((model.clone(), parameters.clone()));
    }
    let mut folded = Folded { nodes: Vec::new(), parameters: Vec::new(), at: Vec::new() };
    for (index, node) in model.nodes.iter().enumerate() {
        let place = wiring.place(index);
        let own = parameters.piece(place.weights.start..place.biases.end);
        let Layer::BatchNorm { epsilon, .. } = node.layer else {
            folded.push(node, own);
            continue;
        };
        let averages = buffers.piece(place.buffers.clone());
        let (scale, shift) = affine(party, &own, &averages, epsilon)?;
        let before = match node.inputs[0] {
            Source::Node(before) if wiring.consumers(before) == 1 => folded.product(before),
            _ => None,
        };
        match before {
            Some(product) => folded.fold(party, product, &scale, &shift)?,
            None => folded.push(&Node { layer: Layer::Scale, ..node.clone() }, Replicated::concat(&[scale, shift])),
        }
    }
    let model = Model { nodes: folded.nodes, ..model.clone() };
    Ok((model, Replicated::concat(&folded.parameters)))
}

/// Scale and shift of a batch-norm with fixed statistics.
fn affine(
    party: &Party,
    own: &Replicated,
    averages: &Replicated,
    epsilon: f64,
) -> Result<(Replicated, Replicated), ProtocolError> {
    let channels = own.len() / 2;
    let pieces = party.run_rows(channels, 1, |tile, range| async move {
        let of = |share: &Replicated, half: usize| tile.enter(share, half + range.start..half + range.end);
        let variance = of(averages, channels).times(1 << GUARD_BITS);
        let inverse = inverse_deviation(&tile, &variance, epsilon).await?;
        let scale = fixed_product(&tile, &of(own, 0), &inverse).await?;
        let shift = of(own, channels).minus(&fixed_product(&tile, &of(averages, 0), &scale).await?);
        Ok((tile.leave(scale), tile.leave(shift)))
    })?;
    let (scales, shifts): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
    Ok((Replicated::concat(&scales), Replicated::concat(&shifts)))
}

/// The network that comes out.
struct Folded {
    nodes: Vec<Node>,
    parameters: Vec<Replicated>,
    /// Where each node of the old network went.
    at: Vec<usize>,
}

impl Folded {
    fn push(&mut self, node: &Node, parameters: Replicated) {
        let moved = |source: &Source| match *source {
            Source::Input => Source::Input,
            Source::Node(old) => Source::Node(self.at[old]),
        };
        let inputs = node.inputs.iter().map(moved).collect();
        self.at.push(self.nodes.len());
        self.nodes.push(Node { inputs, ..node.clone() });
        self.parameters.push(parameters);
    }

    /// Where a product went whose weights have one column per channel of its result.
    fn product(&self, old: usize) -> Option<usize> {
        let columns = matches!(self.nodes[self.at[old]].layer, Layer::Linear { .. } | Layer::Conv(_));
        columns.then_some(self.at[old])
    }

    fn fold(
        &mut self,
        party: &Party,
        product: usize,
        scale: &Replicated,
        shift: &Replicated,
    ) -> Result<(), ProtocolError> {
        let channels = scale.len();
        let old = &self.parameters[product];
        let (bias, layer) = match self.nodes[product].layer {
            Layer::Linear { outputs, bias } => (bias, Layer::Linear { outputs, bias: true }),
            Layer::Conv(conv) => (conv.bias, Layer::Conv(Conv { bias: true, ..conv })),
            _ => unreachable!("a product with columns"),
        };
        // A bias is one more row to scale.
        let rows = old.len() / channels;
        let pieces = party.run_rows(rows, channels, |tile, range| async move {
            let rows = tile.enter(old, range.start * channels..range.end * channels);
            let scales = tile.enter(scale, 0..channels).map(|scale| elementwise::repeated(scale, range.len()));
            Ok(tile.leave(fixed_product(&tile, &rows, &scales).await?))
        })?;
        let mut scaled = Replicated::concat(&pieces);
        let weights = scaled.len() - if bias { channels } else { 0 };
        if bias {
            for (scaled, shift) in [(&mut scaled.first, &shift.first), (&mut scaled.second, &shift.second)] {
                elementwise::add_assign(scaled.at_mut(weights..weights + channels), shift);
            }
        } else {
            scaled = Replicated::concat(&[scaled, shift.clone()]);
        }
        self.parameters[product] = scaled;
        self.nodes[product].layer = layer;
        self.at.push(product);
        Ok(())
    }
}
