//! Layers that only move values: no message, no product.

use shared::model::Shape;

use crate::protocol::TileShare;

/// The elements of a sample of shape `from`, counted channel by channel, as one of shape `to`.
pub(super) fn reshape(x: TileShare, from: Shape, to: Shape) -> TileShare {
    let apart = |shape: Shape| shape.channels > 1 && shape.positions() > 1;
    if from == to || (!apart(from) && !apart(to)) {
        return x;
    }
    let mut source = vec![0; from.len()];
    to.channels_first().zip(from.channels_first()).for_each(|(to, from)| source[to] = from);
    x.map(|x| x.chunks(from.len()).flat_map(|sample| source.iter().map(|&at| sample[at])).collect())
}

/// Channels of several inputs, position by position.
pub(super) fn concat(inputs: &[TileShare], channels: &[usize]) -> TileShare {
    let positions = inputs[0].len() / channels[0];
    TileShare::merged(inputs, |parts| {
        let mut out = Vec::with_capacity(positions * channels.iter().sum::<usize>());
        for position in 0..positions {
            for (part, channels) in parts.iter().zip(channels) {
                out.extend_from_slice(&part[position * channels..(position + 1) * channels]);
            }
        }
        out
    })
}

/// The channels of one input among those of [`concat`].
pub(super) fn channels(x: &TileShare, all: usize, range: std::ops::Range<usize>) -> TileShare {
    x.map(|x| x.chunks(all).flat_map(|position| position[range.clone()].iter().copied()).collect())
}
