//! A network in float64: forward and backward through the graph of its layers.

use shared::model::{Layer, Model, Place, Source, TrainSpec, Wiring};

use crate::arithmetic::Arithmetic;
use crate::conv::Correlation;
use crate::norm::{self, Normalised};
use crate::pool::{Windows, largest_back};
use crate::ranges::{LayerRanges, Range};
use crate::{activation, arrange, linear, loss};

/// Values that one pass of a prediction may keep at most.
const PREDICTED_VALUES_MAX: usize = 1 << 22;

/// A network with its parameters, running averages, and the ranges of the numbers it has seen.
pub struct Network<'a> {
    /// The layers.
    pub model: &'a Model,
    wiring: Wiring,
    /// Parameters, layer by layer.
    pub parameters: Vec<f64>,
    /// Running averages.
    pub buffers: Vec<f64>,
    /// What numbers are.
    pub arithmetic: Arithmetic,
    /// How large numbers became.
    pub ranges: Vec<LayerRanges>,
}

/// What a forward pass is for.
#[derive(Clone, Copy)]
pub enum Pass<'s> {
    /// A step of training: batch statistics, dropout.
    Training {
        /// Seed of the masks.
        spec: &'s TrainSpec,
        /// Number of the step, from 0.
        step: u64,
    },
    /// A prediction: running averages, nothing dropped.
    Prediction,
}

/// What the backward pass needs of a forward pass.
struct Trace {
    results: Vec<Vec<f64>>,
    caches: Vec<Cache>,
}

/// What a layer keeps beside its inputs and its result.
enum Cache {
    Nothing,
    Winners(Vec<usize>),
    Normalised(Normalised),
    Factors(Vec<f64>),
}

impl<'a> Network<'a> {
    /// A network with these parameters and running averages.
    ///
    /// # Panics
    /// If the network does not fit together, or these are not its sizes.
    pub fn new(model: &'a Model, parameters: Vec<f64>, buffers: Vec<f64>) -> Self {
        let wiring = model.wiring().expect("a network that was checked");
        assert_eq!(parameters.len(), wiring.parameters(), "parameters of the network");
        assert_eq!(buffers.len(), wiring.buffers(), "running averages of the network");
        let arithmetic = Arithmetic::Float;
        Self { wiring, parameters, buffers, arithmetic, ranges: LayerRanges::of(model), model }
    }

    /// The same network, in other numbers.
    pub fn computing_in(self, arithmetic: Arithmetic) -> Self {
        let (parameters, buffers) = (arithmetic.encode(self.parameters), arithmetic.encode(self.buffers));
        Self { parameters, buffers, arithmetic, ..self }
    }

    /// Scores of so many samples.
    pub fn predict(&mut self, x: &[f64], rows: usize) -> Vec<f64> {
        let width = self.model.inputs();
        assert_eq!(x.len(), rows * width, "as many values as samples say");
        let of_sample: usize = (0..self.model.nodes.len()).map(|node| self.wiring.output(node).len()).sum();
        let block = (PREDICTED_VALUES_MAX / of_sample.max(1)).max(1);
        let blocks = x.chunks(block * width);
        blocks.flat_map(|x| self.forward(x, x.len() / width, Pass::Prediction).into_scores(x)).collect()
    }

    /// Gradient of a batch's mean loss, in the order of the parameters.
    pub fn gradient(&mut self, x: &[f64], y: &[f64], rows: usize, pass: Pass<'_>) -> Vec<f64> {
        let trace = self.forward(x, rows, pass);
        let scores = trace.results.last().map_or(x, Vec::as_slice);
        let outputs = scores.len() / rows;
        let delta = loss::gradient(self.model.loss, scores, y, outputs, &mut self.arithmetic);
        let mut gradient = self.backward(x, &trace, delta);
        #[allow(clippy::cast_precision_loss, reason = "batches are far below 2^52")]
        gradient.iter_mut().for_each(|sum| *sum /= rows as f64);
        gradient
    }

    fn forward(&mut self, x: &[f64], rows: usize, pass: Pass<'_>) -> Trace {
        let count = self.model.nodes.len();
        let mut trace = Trace { results: Vec::with_capacity(count), caches: Vec::with_capacity(count) };
        for node in 0..count {
            let inputs = trace.inputs(self.model, node, x);
            let (mut result, cache) = self.layer_forward(node, &inputs, rows, pass);
            if !is_exact(&self.model.nodes[node].layer) {
                self.arithmetic.settle(&mut result);
            }
            let (ranges, place) = (&mut self.ranges[node], self.wiring.place(node));
            Range::see(&mut ranges.results, &result);
            Range::see(&mut ranges.weights, &self.parameters[place.weights.start..place.biases.end]);
            if let Cache::Normalised(normalised) = &cache {
                Range::see(&mut ranges.variances, normalised.variances());
            }
            trace.results.push(result);
            trace.caches.push(cache);
        }
        trace
    }

    fn layer_forward(&mut self, node: usize, inputs: &[&[f64]], rows: usize, pass: Pass<'_>) -> (Vec<f64>, Cache) {
        let (layer, x) = (&self.model.nodes[node].layer, inputs[0]);
        let (input, output, place) = (self.wiring.input(node), self.wiring.output(node), self.wiring.place(node));
        let (weights, biases) = parameters(&self.parameters, place);
        let training = matches!(pass, Pass::Training { .. });
        let result = match layer {
            Layer::Linear { outputs, .. } => linear::forward(x, weights, biases, *outputs),
            Layer::Conv(conv) => biased(Correlation::new(*conv, input, output).forward(x, weights), biases),
            Layer::ConvTranspose { conv, .. } => {
                biased(Correlation::new(*conv, output, input).back(x, weights), biases)
            }
            Layer::MaxPool(_) => {
                let (values, winners) = self.windows(node).largest(x);
                return (values, Cache::Winners(winners));
            }
            Layer::AveragePool { .. } | Layer::AdaptiveAveragePool { .. } => self.windows(node).means(x),
            Layer::BatchNorm { epsilon, .. } if !training => {
                norm::with_running(x, *epsilon, &self.buffers[place.buffers.clone()], weights, biases)
            }
            Layer::BatchNorm { .. } | Layer::LayerNorm { .. } | Layer::GroupNorm { .. } => {
                let normalised = Normalised::new(layer, input, x, &mut self.arithmetic).expect("a layer of this kind");
                if let Layer::BatchNorm { momentum, .. } = layer {
                    let running = &mut self.buffers[place.buffers.clone()];
                    normalised.average(*momentum, running);
                    self.arithmetic.settle(running);
                }
                return (normalised.scaled(weights, biases), Cache::Normalised(normalised));
            }
            Layer::Scale => linear::scaled(x, weights, biases),
            Layer::Dropout { probability, .. } => {
                let Pass::Training { spec, step } = pass else { return (x.to_vec(), Cache::Nothing) };
                let kept = spec.dropout_mask(step, node, *probability, 0..rows * input.len());
                let factor = 1.0 / (1.0 - probability);
                let factors: Vec<f64> = kept.into_iter().map(|kept| if kept { factor } else { 0.0 }).collect();
                return (arrange::combined(&[x, &factors], |x, factor| x * factor), Cache::Factors(factors));
            }
            Layer::Flatten | Layer::Reshape { .. } => arrange::arranged(x, &self.order(node)),
            Layer::Concat => arrange::concatenated(inputs, &self.channels(node)),
            Layer::Add => arrange::combined(inputs, |sum, x| sum + x),
            Layer::Subtract => arrange::combined(inputs, |sum, x| sum - x),
            Layer::Multiply => arrange::combined(inputs, |product, x| product * x),
            Layer::Softmax => activation::softmax(x, input.channels),
            Layer::LogSoftmax => activation::log_softmax(x, input.channels),
            Layer::Relu
            | Layer::Clip { .. }
            | Layer::LeakyRelu { .. }
            | Layer::Gelu
            | Layer::Silu
            | Layer::Softplus
            | Layer::Sigmoid
            | Layer::Tanh => activation::forward(layer, x).expect("a function of single numbers"),
        };
        (result, Cache::Nothing)
    }

    /// Takes the gradient of the scores back through the layers: the sum over the samples, for every parameter.
    fn backward(&mut self, x: &[f64], trace: &Trace, delta: Vec<f64>) -> Vec<f64> {
        let mut gradient = vec![0.0; self.parameters.len()];
        let mut deltas: Vec<Option<Vec<f64>>> = vec![None; self.model.nodes.len()];
        if let Some(last) = deltas.last_mut() {
            *last = Some(delta);
        }
        for node in (0..self.model.nodes.len()).rev() {
            let Some(delta) = deltas[node].take().filter(|_| self.wiring.learns(node)) else { continue };
            Range::see(&mut self.ranges[node].gradients, &delta);
            let inputs = trace.inputs(self.model, node, x);
            let back = self.layer_backward(node, &inputs, trace, delta, &mut gradient);
            for (source, mut back) in self.model.nodes[node].inputs.iter().zip(back) {
                let Some(earlier) = self.learner(*source) else { continue };
                if !is_exact(&self.model.nodes[node].layer) {
                    self.arithmetic.settle(&mut back);
                }
                match &mut deltas[earlier] {
                    Some(sum) => sum.iter_mut().zip(back).for_each(|(sum, back)| *sum += back),
                    none => *none = Some(back),
                }
            }
        }
        gradient
    }

    /// The node of a source, if anything learns from its gradient.
    fn learner(&self, source: Source) -> Option<usize> {
        match source {
            Source::Node(node) => self.wiring.learns(node).then_some(node),
            Source::Input => None,
        }
    }

    /// Adds a layer's parameters' gradients; the gradients of its inputs, missing at the end where nobody wants them.
    fn layer_backward(
        &self,
        node: usize,
        inputs: &[&[f64]],
        trace: &Trace,
        mut delta: Vec<f64>,
        gradient: &mut [f64],
    ) -> Vec<Vec<f64>> {
        let (this, x, result) = (&self.model.nodes[node], inputs[0], &trace.results[node]);
        let (input, output, place) = (self.wiring.input(node), self.wiring.output(node), self.wiring.place(node));
        let (weights, _) = parameters(&self.parameters, place);
        let own = &mut gradient[place.weights.start..place.biases.end];
        let (weight_sums, bias_sums) = own.split_at_mut(place.weights.len());
        let wanted = this.inputs.iter().any(|source| self.learner(*source).is_some());
        let only = |back: &dyn Fn() -> Vec<f64>| if wanted { vec![back()] } else { Vec::new() };
        match (&this.layer, &trace.caches[node]) {
            (Layer::Linear { outputs, .. }, _) => {
                linear::add_gradient(x, &delta, weight_sums, bias_sums, *outputs);
                only(&|| linear::back(&delta, weights, *outputs))
            }
            (Layer::Conv(conv), _) => {
                let correlation = Correlation::new(*conv, input, output);
                correlation.add_gradient(x, &delta, weight_sums);
                linear::add_channels(&delta, bias_sums);
                only(&|| correlation.back(&delta, weights))
            }
            (Layer::ConvTranspose { conv, .. }, _) => {
                let correlation = Correlation::new(*conv, output, input);
                correlation.add_gradient(&delta, x, weight_sums);
                linear::add_channels(&delta, bias_sums);
                only(&|| correlation.forward(&delta, weights))
            }
            (_, Cache::Winners(winners)) => vec![largest_back(&delta, winners, x.len())],
            (Layer::AveragePool { .. } | Layer::AdaptiveAveragePool { .. }, _) => {
                vec![self.windows(node).means_back(&delta)]
            }
            (_, Cache::Normalised(normalised)) => vec![normalised.back(&delta, weights, [weight_sums, bias_sums])],
            (Layer::Scale, _) => vec![linear::scaled_back(x, &delta, weights, weight_sums, bias_sums)],
            (_, Cache::Factors(factors)) => vec![arrange::combined(&[&delta, factors], |delta, factor| delta * factor)],
            (Layer::Flatten | Layer::Reshape { .. }, _) => vec![arrange::arranged_back(&delta, &self.order(node))],
            (Layer::Concat, _) => arrange::concatenated_back(&delta, &self.channels(node)),
            (Layer::Add, _) => vec![delta; inputs.len()],
            (Layer::Subtract, _) => {
                let negative = delta.iter().map(|delta| -delta).collect();
                vec![delta, negative]
            }
            (Layer::Multiply, _) => {
                [inputs[1], inputs[0]].map(|other| arrange::combined(&[&delta, other], |delta, x| delta * x)).into()
            }
            (Layer::Softmax, _) => {
                activation::softmax_back(result, &mut delta, input.channels);
                vec![delta]
            }
            (Layer::LogSoftmax, _) => {
                activation::log_softmax_back(result, &mut delta, input.channels);
                vec![delta]
            }
            (layer, _) => {
                activation::back(layer, x, &mut delta);
                vec![delta]
            }
        }
    }

    fn windows(&self, node: usize) -> Windows {
        let (input, output) = (self.wiring.input(node), self.wiring.output(node));
        Windows::of(&self.model.nodes[node].layer, input, output).expect("a pooling layer")
    }

    fn order(&self, node: usize) -> Vec<usize> {
        let (input, output) = (self.wiring.input(node), self.wiring.output(node));
        arrange::order(&self.model.nodes[node].layer, input, output).expect("a layer that reorders")
    }

    /// Channels of each of a node's inputs.
    fn channels(&self, node: usize) -> Vec<usize> {
        let channels = |source: &Source| match *source {
            Source::Input => self.model.input.channels,
            Source::Node(earlier) => self.wiring.output(earlier).channels,
        };
        self.model.nodes[node].inputs.iter().map(channels).collect()
    }
}

impl Trace {
    /// What a node takes.
    fn inputs<'t>(&'t self, model: &Model, node: usize, x: &'t [f64]) -> Vec<&'t [f64]> {
        let value = |source: &Source| match *source {
            Source::Input => x,
            Source::Node(earlier) => &self.results[earlier],
        };
        model.nodes[node].inputs.iter().map(value).collect()
    }

    fn into_scores(mut self, x: &[f64]) -> Vec<f64> {
        self.results.pop().unwrap_or_else(|| x.to_vec())
    }
}

/// Weights and biases of a layer.
fn parameters<'p>(parameters: &'p [f64], place: &Place) -> (&'p [f64], &'p [f64]) {
    (&parameters[place.weights.clone()], &parameters[place.biases.clone()])
}

fn biased(mut result: Vec<f64>, biases: &[f64]) -> Vec<f64> {
    if !biases.is_empty() {
        for position in result.chunks_exact_mut(biases.len()) {
            position.iter_mut().zip(biases).for_each(|(value, bias)| *value += bias);
        }
    }
    result
}

/// Whether a layer moves, adds or drops numbers but makes no products, so that fixed point needs no rounding.
fn is_exact(layer: &Layer) -> bool {
    matches!(
        layer,
        Layer::Relu
            | Layer::MaxPool(_)
            | Layer::Flatten
            | Layer::Reshape { .. }
            | Layer::Concat
            | Layer::Add
            | Layer::Subtract
    )
}

#[cfg(test)]
mod tests;
