//! Layers that only put values elsewhere, and those that take several inputs.

use shared::model::{Layer, Shape};

/// Where each element of a result lies in the input; none for layers that keep the order.
pub(crate) fn order(layer: &Layer, input: Shape, output: Shape) -> Option<Vec<usize>> {
    if !matches!(layer, Layer::Flatten | Layer::Reshape { .. }) {
        return None;
    }
    let mut order = vec![0; input.len()];
    output.channels_first().zip(input.channels_first()).for_each(|(to, from)| order[to] = from);
    Some(order)
}

/// The elements of every sample in another order.
pub(crate) fn arranged(x: &[f64], order: &[usize]) -> Vec<f64> {
    x.chunks_exact(order.len()).flat_map(|sample| order.iter().map(|&from| sample[from])).collect()
}

/// Undoes [`arranged`].
pub(crate) fn arranged_back(delta: &[f64], order: &[usize]) -> Vec<f64> {
    let mut back = vec![0.0; delta.len()];
    for (delta, back) in delta.chunks_exact(order.len()).zip(back.chunks_exact_mut(order.len())) {
        delta.iter().zip(order).for_each(|(delta, &from)| back[from] = *delta);
    }
    back
}

/// The channels of all inputs, position by position. `channels` are those of each input.
pub(crate) fn concatenated(inputs: &[&[f64]], channels: &[usize]) -> Vec<f64> {
    let positions = inputs[0].len() / channels[0];
    let parts = |position: usize| {
        inputs.iter().zip(channels).flat_map(move |(input, &n)| &input[position * n..(position + 1) * n])
    };
    (0..positions).flat_map(parts).copied().collect()
}

/// Undoes [`concatenated`].
pub(crate) fn concatenated_back(delta: &[f64], channels: &[usize]) -> Vec<Vec<f64>> {
    let mut back = vec![Vec::new(); channels.len()];
    for mut position in delta.chunks_exact(channels.iter().sum()) {
        for (back, &n) in back.iter_mut().zip(channels) {
            let (part, rest) = position.split_at(n);
            back.extend_from_slice(part);
            position = rest;
        }
    }
    back
}

/// Element by element; inputs are at least one.
pub(crate) fn combined(inputs: &[&[f64]], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let (first, others) = inputs.split_first().expect("a checked layer has inputs");
    let mut result = first.to_vec();
    for other in others {
        result.iter_mut().zip(*other).for_each(|(value, &other)| *value = combine(*value, other));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flattening_counts_channel_by_channel() {
        let (input, output) = (Shape::image(2, 1, 3), Shape::vector(6));
        let order = order(&Layer::Flatten, input, output).unwrap();
        let x = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
        assert_eq!(arranged(&x, &order), [1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
        assert_eq!(arranged_back(&arranged(&x, &order), &order), x);
    }

    #[test]
    fn reshaping_keeps_the_count_by_channel() {
        let (input, output) = (Shape::image(2, 1, 3), Shape::image(3, 1, 2));
        let order = order(&Layer::Reshape { shape: output }, input, output).unwrap();
        // 1 2 3 | 10 20 30 by channel become 1 2 | 3 10 | 20 30.
        let x = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
        assert_eq!(arranged(&x, &order), [1.0, 3.0, 20.0, 2.0, 10.0, 30.0]);
    }

    #[test]
    fn concatenation_joins_channels_of_a_position() {
        let (a, b) = ([1.0, 2.0], [10.0, 11.0, 20.0, 21.0]);
        let joined = concatenated(&[&a, &b], &[1, 2]);
        assert_eq!(joined, [1.0, 10.0, 11.0, 2.0, 20.0, 21.0]);
        assert_eq!(concatenated_back(&joined, &[1, 2]), [a.to_vec(), b.to_vec()]);
    }
}
