//! Batch-norm, layer-norm and group-norm: values less their mean, over their deviation, within sets that differ.

use shared::model::{Layer, Shape};

use crate::arithmetic::Arithmetic;
use crate::linear::{scaled, scaled_back};

/// Which values share a mean and a deviation.
#[derive(Clone, Copy)]
enum Sets {
    /// All of a channel in the batch.
    Channels,
    /// All of a position.
    Positions,
    /// A group of channels of a sample.
    Groups { positions: usize, channels: usize, groups: usize },
}

impl Sets {
    /// None for layers that do not normalise.
    fn of(layer: &Layer, input: Shape) -> Option<(Self, f64)> {
        match *layer {
            Layer::BatchNorm { epsilon, .. } => Some((Self::Channels, epsilon)),
            Layer::LayerNorm { epsilon } => Some((Self::Positions, epsilon)),
            Layer::GroupNorm { groups, epsilon } => {
                let channels = input.channels / groups;
                Some((Self::Groups { positions: input.positions(), channels, groups }, epsilon))
            }
            _ => None,
        }
    }

    fn count(self, positions: usize, channels: usize) -> usize {
        match self {
            Self::Channels => channels,
            Self::Positions => positions,
            Self::Groups { positions: per_sample, groups, .. } => positions / per_sample * groups,
        }
    }

    fn index(self, position: usize, channel: usize) -> usize {
        match self {
            Self::Channels => channel,
            Self::Positions => position,
            Self::Groups { positions, channels, groups } => position / positions * groups + channel / channels,
        }
    }
}

/// What normalising leaves for the backward pass.
pub(crate) struct Normalised {
    sets: Sets,
    channels: usize,
    values: Vec<f64>,
    /// One over the deviation, of each set.
    factors: Vec<f64>,
    /// Means and variances of each set.
    moments: [Vec<f64>; 2],
}

impl Normalised {
    /// Normalises with the statistics of the values themselves.
    pub(crate) fn new(layer: &Layer, input: Shape, x: &[f64], arithmetic: &mut Arithmetic) -> Option<Self> {
        let (sets, epsilon) = Sets::of(layer, input)?;
        let channels = input.channels;
        let count = sets.count(x.len() / channels, channels);
        #[allow(clippy::cast_precision_loss, reason = "batches have far fewer than 2^52 values")]
        let members = (x.len() / count) as f64;
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let mut sums = vec![0.0; count];
            let indices = (0..x.len()).map(|i| sets.index(i / channels, i % channels));
            values.zip(indices).for_each(|(value, set)| sums[set] += value);
            sums.into_iter().map(|sum| sum / members).collect::<Vec<f64>>()
        };
        let mut means = mean(&mut x.iter().copied());
        arithmetic.settle(&mut means);
        let off = |(i, x): (usize, &f64)| x - means[sets.index(i / channels, i % channels)];
        let mut values: Vec<f64> = x.iter().enumerate().map(off).collect();
        let mut variances = mean(&mut values.iter().map(|value| value * value));
        arithmetic.settle(&mut variances);
        let mut factors: Vec<f64> = variances.iter().map(|variance| 1.0 / (variance + epsilon).sqrt()).collect();
        arithmetic.settle(&mut factors);
        values.iter_mut().enumerate().for_each(|(i, value)| *value *= factors[sets.index(i / channels, i % channels)]);
        arithmetic.settle(&mut values);
        Some(Self { sets, channels, values, factors, moments: [means, variances] })
    }

    /// Variance of each set.
    pub(crate) fn variances(&self) -> &[f64] {
        &self.moments[1]
    }

    pub(crate) fn scaled(&self, scales: &[f64], shifts: &[f64]) -> Vec<f64> {
        scaled(&self.values, scales, shifts)
    }

    /// Moves running averages towards this batch's; the variance that they take is the unbiased one.
    #[allow(clippy::cast_precision_loss, reason = "batches have far fewer than 2^52 values")]
    pub(crate) fn average(&self, momentum: f64, running: &mut [f64]) {
        let members = self.values.len() / self.channels;
        let unbiased = members as f64 / members.saturating_sub(1).max(1) as f64;
        let [means, variances] = &self.moments;
        let new = means.iter().copied().chain(variances.iter().map(|variance| variance * unbiased));
        running.iter_mut().zip(new).for_each(|(old, new)| *old += momentum * (new - *old));
    }

    /// Adds the gradients of scales and shifts; the gradient of what was normalised.
    pub(crate) fn back(&self, delta: &[f64], scales: &[f64], into: [&mut [f64]; 2]) -> Vec<f64> {
        let [scale_sums, shift_sums] = into;
        let mut back = scaled_back(&self.values, delta, scales, scale_sums, shift_sums);
        let set = |i: usize| self.sets.index(i / self.channels, i % self.channels);
        let (mut sums, mut products) = (vec![0.0; self.factors.len()], vec![0.0; self.factors.len()]);
        for (i, (delta, value)) in back.iter().zip(&self.values).enumerate() {
            sums[set(i)] += delta;
            products[set(i)] += delta * value;
        }
        #[allow(clippy::cast_precision_loss, reason = "batches have far fewer than 2^52 values")]
        let members = (self.values.len() / self.factors.len()) as f64;
        for (i, (delta, value)) in back.iter_mut().zip(&self.values).enumerate() {
            let set = set(i);
            *delta = self.factors[set] * (*delta - (sums[set] + value * products[set]) / members);
        }
        back
    }
}

/// Batch-norm with running averages: means, then variances.
pub(crate) fn with_running(x: &[f64], epsilon: f64, running: &[f64], scales: &[f64], shifts: &[f64]) -> Vec<f64> {
    let (means, variances) = running.split_at(scales.len());
    let factors: Vec<f64> =
        scales.iter().zip(variances).map(|(scale, variance)| scale / (variance + epsilon).sqrt()).collect();
    let channels = means.iter().zip(&factors).zip(shifts).cycle();
    x.iter().zip(channels).map(|(x, ((mean, factor), shift))| (x - mean) * factor + shift).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], expected: &[f64]) {
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(near && found.len() == expected.len(), "{found:?} {expected:?}");
    }

    #[test]
    fn batches_normalise_by_the_biased_and_remember_the_unbiased_variance() {
        // Channels (1, 3, 5) and (2, 2, 8): means 3 and 4, sums of squares 8 and 24.
        let (layer, shape) = (Layer::BatchNorm { epsilon: 1e-9, momentum: 0.1 }, Shape::vector(2));
        let x = [1.0, 2.0, 3.0, 2.0, 5.0, 8.0];
        let normalised = Normalised::new(&layer, shape, &x, &mut Arithmetic::Float).unwrap();
        close(normalised.variances(), &[8.0 / 3.0, 8.0]);
        let mut running = [0.0, 0.0, 1.0, 1.0];
        normalised.average(0.1, &mut running);
        close(&running, &[0.3, 0.4, 0.9 + 0.4, 0.9 + 1.2]);
        let root = (8.0_f64 / 3.0 + 1e-9).sqrt();
        let found = normalised.scaled(&[2.0, 0.0], &[1.0, 7.0]);
        close(&found, &[1.0 - 4.0 / root, 7.0, 1.0, 7.0, 1.0 + 4.0 / root, 7.0]);
        let later = with_running(&[5.0, 1.0], 0.0, &[3.0, 1.0, 4.0, 1.0], &[1.5, 2.0], &[0.5, 0.25]);
        close(&later, &[2.0, 0.25]);
    }

    #[test]
    fn layers_and_groups_normalise_within_a_sample() {
        let x = [1.0, 3.0, 10.0, 30.0, 5.0, 7.0, 50.0, 70.0];
        let of = |layer: Layer, shape: Shape| {
            Normalised::new(&layer, shape, &x, &mut Arithmetic::Float).unwrap().moments[0].clone()
        };
        let epsilon = 1e-5;
        close(&of(Layer::LayerNorm { epsilon }, Shape::image(2, 1, 2)), &[2.0, 20.0, 6.0, 60.0]);
        close(&of(Layer::GroupNorm { groups: 2, epsilon }, Shape::vector(4)), &[2.0, 20.0, 6.0, 60.0]);
        close(&of(Layer::GroupNorm { groups: 1, epsilon }, Shape::image(2, 1, 2)), &[11.0, 33.0]);
        close(&of(Layer::GroupNorm { groups: 2, epsilon }, Shape::image(2, 1, 2)), &[5.5, 16.5, 27.5, 38.5]);
    }
}
