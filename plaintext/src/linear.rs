//! `x W + b` over the channels of every position, and learned scales and shifts per channel.

use crate::matrix::{Matrix, add_product, product};

/// `weights` are inputs x outputs; no biases, or one for each output.
pub(crate) fn forward(x: &[f64], weights: &[f64], biases: &[f64], outputs: usize) -> Vec<f64> {
    let inputs = weights.len() / outputs;
    let positions = x.len() / inputs;
    let mut result = if biases.is_empty() { vec![0.0; positions * outputs] } else { biases.repeat(positions) };
    add_product(&mut result, outputs, Matrix::new(x, positions, inputs), Matrix::new(weights, inputs, outputs));
    result
}

/// Adds the gradients of weights and biases.
pub(crate) fn add_gradient(x: &[f64], delta: &[f64], weights: &mut [f64], biases: &mut [f64], outputs: usize) {
    let (inputs, positions) = (weights.len() / outputs, delta.len() / outputs);
    let x = Matrix::new(x, positions, inputs).transposed();
    add_product(weights, outputs, x, Matrix::new(delta, positions, outputs));
    add_channels(delta, biases);
}

/// Gradient of the input.
pub(crate) fn back(delta: &[f64], weights: &[f64], outputs: usize) -> Vec<f64> {
    let weights = Matrix::new(weights, weights.len() / outputs, outputs);
    product(Matrix::new(delta, delta.len() / outputs, outputs), weights.transposed())
}

/// Adds every position's channels; nothing if there are no sums to add to.
pub(crate) fn add_channels(values: &[f64], sums: &mut [f64]) {
    if !sums.is_empty() {
        for position in values.chunks_exact(sums.len()) {
            sums.iter_mut().zip(position).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// A scale and a shift for each channel.
pub(crate) fn scaled(x: &[f64], scales: &[f64], shifts: &[f64]) -> Vec<f64> {
    let channels = scales.iter().zip(shifts).cycle();
    x.iter().zip(channels).map(|(x, (scale, shift))| x * scale + shift).collect()
}

/// Adds the gradients of scales and shifts; the gradient of what was scaled.
pub(crate) fn scaled_back(
    x: &[f64],
    delta: &[f64],
    scales: &[f64],
    scale_sums: &mut [f64],
    shift_sums: &mut [f64],
) -> Vec<f64> {
    let products: Vec<f64> = x.iter().zip(delta).map(|(x, delta)| x * delta).collect();
    add_channels(&products, scale_sums);
    add_channels(delta, shift_sums);
    delta.iter().zip(scales.iter().cycle()).map(|(delta, scale)| delta * scale).collect()
}
