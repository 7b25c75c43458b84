//! Layers that only move values: no message, no product.

use shared::model::Shape;

use crate::compute::moves::Pieces;
use crate::protocol::{Tile, TileShare};

/// The elements of a sample of shape `from`, counted channel by channel, as one of shape `to`.
pub(super) fn reshape(x: TileShare, from: Shape, to: Shape) -> TileShare {
    let apart = |shape: Shape| shape.channels > 1 && shape.positions() > 1;
    if from == to || (!apart(from) && !apart(to)) {
        return x;
    }
    let mut source = vec![0; from.len()];
    to.channels_first().zip(from.channels_first()).for_each(|(to, from)| source[to] = from);
    x.gather((0..x.len()).step_by(from.len()).flat_map(|sample| source.iter().map(move |at| sample + at)))
}

/// Channels of several inputs, position by position.
pub(super) fn concat(tile: &Tile<'_>, inputs: &[TileShare], channels: &[usize]) -> TileShare {
    let (positions, all) = (inputs[0].len() / channels[0], channels.iter().sum());
    let (mut joined, mut first) = (TileShare::zeros(tile, positions * all), 0);
    for (input, &channels) in inputs.iter().zip(channels) {
        let places: Vec<[usize; 2]> = (0..channels).map(|channel| [first + channel, channel]).collect();
        let pieces = Pieces { from_count: channels, into_count: all, inner: 1, places: &places };
        joined.update(input, |into, from| pieces.copy(into, from));
        first += channels;
    }
    joined
}

/// The channels of one input among those of [`concat`].
pub(super) fn channels(x: &TileShare, all: usize, range: std::ops::Range<usize>) -> TileShare {
    x.gather((0..x.len()).step_by(all).flat_map(|position| range.clone().map(move |channel| position + channel)))
}
