//! Evaluates an ONNX file on rows of a NumPy array in float64, by the plainest loops: what tools/onnx-check compares
//! with other runtimes.
//!
//! cargo run --release -p model-files --example evaluate -- --model model.onnx --data x.npy --out y.npy
//!
//! With `--export copy.onnx` also writes the network as it was understood.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::path::{Path, PathBuf};

use model_files::npy::{self, Array};
use model_files::onnx::{self, Imported};
use shared::model::{Conv, Layer, Pool, Shape, Source, Wiring};

type Error = Box<dyn std::error::Error>;

fn main() -> std::process::ExitCode {
    let Err(error) = run() else { return std::process::ExitCode::SUCCESS };
    println!("{error}");
    std::process::ExitCode::FAILURE
}

fn run() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let path = |name: &str| -> Result<PathBuf, Error> {
        let place = arguments.iter().position(|argument| argument == name);
        Ok(place.and_then(|place| arguments.get(place + 1)).ok_or(format!("{name} is missing"))?.into())
    };
    let imported = onnx::read(&path("--model")?)?;
    imported.notes.iter().for_each(|note| println!("{note}"));
    let data = npy::read(&path("--data")?)?;
    write(&imported, &data, &path("--out")?)?;
    if let Ok(copy) = path("--export") {
        onnx::write(&copy, &imported.model, &imported.parameters, &imported.buffers)?;
    }
    Ok(())
}

fn write(imported: &Imported, data: &Array, out: &Path) -> Result<(), Error> {
    let samples = imported.input.to_memory(&data.to_f64());
    let count = samples.len() / imported.model.inputs();
    let evaluator = Evaluator { imported, wiring: imported.model.wiring()? };
    let mut scores = Vec::new();
    for sample in samples.chunks_exact(imported.model.inputs()) {
        scores.extend(imported.output.from_memory(&evaluator.scores(sample)));
    }
    let dims = [&[count], &imported.output.dims[..]].concat();
    npy::write(out, &Array::f64(&dims, scores))?;
    Ok(())
}

struct Evaluator<'a> {
    imported: &'a Imported,
    wiring: Wiring,
}

impl Evaluator<'_> {
    fn scores(&self, sample: &[f64]) -> Vec<f64> {
        let mut results: Vec<Vec<f64>> = Vec::new();
        for (index, node) in self.imported.model.nodes.iter().enumerate() {
            let value = |source: &Source| match *source {
                Source::Input => sample.to_vec(),
                Source::Node(earlier) => results[earlier].clone(),
            };
            let inputs: Vec<_> = node.inputs.iter().map(value).collect();
            results.push(self.node(index, &node.layer, &inputs));
        }
        results.pop().unwrap_or_else(|| sample.to_vec())
    }

    fn node(&self, index: usize, layer: &Layer, inputs: &[Vec<f64>]) -> Vec<f64> {
        let (input, output) = (self.wiring.input(index), self.wiring.output(index));
        let place = self.wiring.place(index);
        let weights = &self.imported.parameters[place.weights.clone()];
        let biases = &self.imported.parameters[place.biases.clone()];
        let buffers = &self.imported.buffers[place.buffers.clone()];
        let x = &inputs[0];
        let map = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(x)).collect::<Vec<f64>>();
        let pairs = |f: &dyn Fn(f64, f64) -> f64| {
            inputs[1..].iter().fold(x.clone(), |sum, y| sum.iter().zip(y).map(|(&x, &y)| f(x, y)).collect())
        };
        let channels = input.channels;
        match layer {
            Layer::Linear { outputs, .. } => linear(x, channels, *outputs, weights, biases),
            Layer::Conv(conv) => convolve(x, input, output, conv, weights, biases),
            Layer::ConvTranspose { conv, .. } => deconvolve(x, input, output, conv, weights, biases),
            Layer::MaxPool(pool) => {
                windows(x, input, output, pool, |values, _| values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
            }
            Layer::AveragePool { pool, count_padding } => windows(x, input, output, pool, |values, all| {
                #[allow(clippy::cast_precision_loss, reason = "cells of a window")]
                let count = if *count_padding { all } else { values.len() } as f64;
                values.iter().sum::<f64>() / count
            }),
            Layer::AdaptiveAveragePool { .. } => adaptive(x, input, output),
            Layer::BatchNorm { epsilon, .. } => {
                let (means, variances) = buffers.split_at(channels);
                let scale = |c: usize| weights[c] / (variances[c] + epsilon).sqrt();
                x.iter()
                    .enumerate()
                    .map(|(i, x)| (x - means[i % channels]) * scale(i % channels) + biases[i % channels])
                    .collect()
            }
            Layer::LayerNorm { epsilon } => normalise(x, channels, |i| i / channels, *epsilon, weights, biases),
            Layer::GroupNorm { groups, epsilon } => {
                normalise(x, channels, |i| i % channels / (channels / groups), *epsilon, weights, biases)
            }
            Layer::Scale => {
                x.iter().enumerate().map(|(i, x)| x * weights[i % channels] + biases[i % channels]).collect()
            }
            Layer::Dropout { .. } => x.clone(),
            Layer::Flatten => input.channels_first().map(|at| x[at]).collect(),
            Layer::Reshape { shape } => {
                let mut result = vec![0.0; x.len()];
                input.channels_first().zip(shape.channels_first()).for_each(|(from, to)| result[to] = x[from]);
                result
            }
            Layer::Concat => {
                let widths: Vec<usize> = inputs.iter().map(|input| input.len() / output.positions()).collect();
                let row = |at: usize| inputs.iter().zip(&widths).flat_map(move |(x, &w)| x[at * w..][..w].to_vec());
                (0..output.positions()).flat_map(row).collect()
            }
            Layer::Add => pairs(&|x, y| x + y),
            Layer::Subtract => pairs(&|x, y| x - y),
            Layer::Multiply => pairs(&|x, y| x * y),
            Layer::Relu => map(&|x| x.max(0.0)),
            Layer::Clip { low, high } => map(&|x| x.clamp(*low, *high)),
            Layer::LeakyRelu { slope } => map(&|x| x.max(0.0) + slope * x.min(0.0)),
            Layer::Gelu => map(&|x| x * normal(x)),
            Layer::Silu => map(&|x| x / (1.0 + (-x).exp())),
            Layer::Softplus => map(&|x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
            Layer::Sigmoid => map(&|x| 1.0 / (1.0 + (-x).exp())),
            Layer::Tanh => map(&f64::tanh),
            Layer::Softmax => x.chunks_exact(channels).flat_map(softmax).collect(),
            Layer::LogSoftmax => x.chunks_exact(channels).flat_map(log_softmax).collect(),
        }
    }
}

fn linear(x: &[f64], inputs: usize, outputs: usize, weights: &[f64], biases: &[f64]) -> Vec<f64> {
    let one = |row: &[f64], output: usize| {
        let sum: f64 = row.iter().enumerate().map(|(i, x)| x * weights[i * outputs + output]).sum();
        sum + biases.get(output).unwrap_or(&0.0)
    };
    x.chunks_exact(inputs).flat_map(|row| (0..outputs).map(move |output| one(row, output))).collect()
}

/// Calls `f` with rows and columns of a kernel, and of the larger and the smaller image of a convolution.
fn taps(large: Shape, small: Shape, conv: &Conv, mut f: impl FnMut(usize, usize, usize)) {
    for y in 0..small.height {
        for x in 0..small.width {
            for ky in 0..conv.kernel[0] {
                for kx in 0..conv.kernel[1] {
                    let row = (y * conv.stride[0] + ky * conv.dilation[0]).checked_sub(conv.padding[0]);
                    let column = (x * conv.stride[1] + kx * conv.dilation[1]).checked_sub(conv.padding[1]);
                    if let (Some(row), Some(column)) = (row, column)
                        && row < large.height
                        && column < large.width
                    {
                        f(ky * conv.kernel[1] + kx, row * large.width + column, y * small.width + x);
                    }
                }
            }
        }
    }
}

fn convolve(x: &[f64], input: Shape, output: Shape, conv: &Conv, weights: &[f64], biases: &[f64]) -> Vec<f64> {
    let (of_group, outputs) = (input.channels / conv.groups, conv.channels / conv.groups);
    let mut result = if conv.bias { biases.repeat(output.positions()) } else { vec![0.0; output.len()] };
    taps(input, output, conv, |tap, from, to| {
        for channel in 0..conv.channels {
            for c in 0..of_group {
                let value = x[from * input.channels + channel / outputs * of_group + c];
                result[to * conv.channels + channel] += value * weights[(tap * of_group + c) * conv.channels + channel];
            }
        }
    });
    result
}

fn deconvolve(x: &[f64], input: Shape, output: Shape, conv: &Conv, weights: &[f64], biases: &[f64]) -> Vec<f64> {
    let (of_group, outputs) = (input.channels / conv.groups, conv.channels / conv.groups);
    let mut result = if conv.bias { biases.repeat(output.positions()) } else { vec![0.0; output.len()] };
    taps(output, input, conv, |tap, to, from| {
        for c in 0..input.channels {
            for m in 0..outputs {
                let weight = weights[(tap * outputs + m) * input.channels + c];
                result[to * conv.channels + c / of_group * outputs + m] += x[from * input.channels + c] * weight;
            }
        }
    });
    result
}

fn windows(x: &[f64], input: Shape, output: Shape, pool: &Pool, f: impl Fn(&[f64], usize) -> f64) -> Vec<f64> {
    let Pool { kernel, stride, padding } = *pool;
    let mut cells = vec![Vec::new(); output.positions()];
    let as_conv = Conv { kernel, stride, padding, ..Conv::square(1, 1) };
    taps(input, output, &as_conv, |_, from, to| cells[to].push(from));
    let channels = input.channels;
    let value = |cells: &[usize], c| cells.iter().map(|cell| x[cell * channels + c]).collect::<Vec<_>>();
    let all = kernel[0] * kernel[1];
    cells.iter().flat_map(|cells| (0..channels).map(|c| f(&value(cells, c), all)).collect::<Vec<_>>()).collect()
}

fn adaptive(x: &[f64], input: Shape, output: Shape) -> Vec<f64> {
    let range = |at: usize, count: usize, size: usize| at * size / count..((at + 1) * size).div_ceil(count);
    let mut result = Vec::new();
    for row in 0..output.height {
        for column in 0..output.width {
            for c in 0..input.channels {
                let columns = range(column, output.width, input.width);
                let cells = range(row, output.height, input.height)
                    .flat_map(|y| columns.clone().map(move |x| (y * input.width + x) * input.channels + c));
                let cells: Vec<f64> = cells.map(|at| x[at]).collect();
                result.push(mean(&cells));
            }
        }
    }
    result
}

#[allow(clippy::cast_precision_loss, reason = "elements of a sample")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn normalise(
    x: &[f64],
    channels: usize,
    set: impl Fn(usize) -> usize,
    epsilon: f64,
    weights: &[f64],
    biases: &[f64],
) -> Vec<f64> {
    let count = (0..x.len()).map(&set).max().map_or(0, |last| last + 1);
    let mut sets = vec![Vec::new(); count];
    x.iter().enumerate().for_each(|(i, x)| sets[set(i)].push(*x));
    let moments: Vec<(f64, f64)> = sets
        .iter()
        .map(|set| {
            let centre = mean(set);
            let squares: Vec<f64> = set.iter().map(|x| (x - centre) * (x - centre)).collect();
            (centre, mean(&squares))
        })
        .collect();
    let one = |(i, x): (usize, &f64)| {
        let (mean, variance) = moments[set(i)];
        (x - mean) / (variance + epsilon).sqrt() * weights[i % channels] + biases[i % channels]
    };
    x.iter().enumerate().map(one).collect()
}

fn softmax(row: &[f64]) -> Vec<f64> {
    log_softmax(row).into_iter().map(f64::exp).collect()
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
    row.iter().map(|x| x - largest - sum.ln()).collect()
}

/// The normal distribution function, by the series of its integral; beyond 8 it is 0 or 1 to 1e-15.
fn normal(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}
