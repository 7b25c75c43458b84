//! The float64 twin of a training run: same model, initial weights, batches and optimiser, no secrecy. Reports stand its
//! metrics beside those under MPC, and it warns when activations would leave the range that comparisons look at.

use std::time::Instant;

use shared::job::ProtocolSpec;
use shared::model::{Layer, Loss, Model, Source, TrainSpec};

use crate::data::{Dataset, Rows, Task};
use crate::metrics::{accuracy, auroc, mean_squared};

/// What the plaintext run found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Whether all steps were done; figures of a run that ran out of time are of no use but the last.
    pub(crate) complete: bool,
    /// Share of test rows classified correctly; none for regression.
    pub(crate) accuracy: Option<f64>,
    /// Area under the ROC curve; two classes only.
    pub(crate) auroc: Option<f64>,
    /// Mean squared error over the test rows; regression only.
    pub(crate) loss: Option<f64>,
    /// Largest magnitude of any linear layer's result during training and test.
    pub(crate) largest_activation: f64,
}

/// Trains and evaluates in float64.
pub(crate) fn run(model: &Model, spec: &TrainSpec, data: &Dataset) -> Outcome {
    run_until(model, spec, data, None)
}

/// As [`run`], but stops training at the deadline.
pub(crate) fn run_until(model: &Model, spec: &TrainSpec, data: &Dataset, deadline: Option<Instant>) -> Outcome {
    let mut network = Network::new(model, spec.seed);
    let complete = network.train(spec, &data.train, deadline);
    let scores = network.forward(&data.test.x, data.test.count);
    let (outputs, y) = (model.outputs(), &data.test.y);
    let classes = data.task != Task::Regression;
    Outcome {
        complete,
        accuracy: classes.then(|| accuracy(&scores, y, outputs)),
        auroc: (data.task == Task::Binary).then(|| auroc(&scores, y)).flatten(),
        loss: (!classes).then(|| mean_squared(&scores, y)),
        largest_activation: network.largest_activation,
    }
}

/// Results of a model on rows; none if it has layers that the twin does not know.
pub(crate) fn predict(model: &Model, parameters: &[f64], x: &[f64], count: usize) -> Option<Vec<f64>> {
    let known = |layer| {
        matches!(layer, Layer::Linear { bias: true, .. } | Layer::Relu | Layer::Sigmoid | Layer::Tanh | Layer::Flatten)
    };
    let vectors = model.input.positions() == 1 && model.nodes.iter().all(|node| known(node.layer));
    let chain = model.nodes.iter().enumerate().all(|(index, node)| match node.inputs[..] {
        [Source::Input] => index == 0,
        [Source::Node(earlier)] => earlier + 1 == index,
        _ => false,
    });
    (vectors && chain).then(|| {
        let parameters = parameters.to_vec();
        Network { model, parameters, momentum: None, inputs: Vec::new(), largest_activation: 0.0 }.forward(x, count)
    })
}

/// Magnitude below which comparisons of differences are exact: both operands below half the window.
pub(crate) fn activation_limit(protocol: &ProtocolSpec) -> f64 {
    // With the 64-bit window products bound the range instead: |xy| <= 2^61 at twice the fraction bits.
    let product_max = f64::from(61 - 2 * protocol.fraction_bits.bits()).exp2();
    protocol.comparable_max().min(product_max)
}

/// Parameters, momentum and what the backward pass needs.
struct Network<'a> {
    model: &'a Model,
    parameters: Vec<f64>,
    momentum: Option<Vec<f64>>,
    /// Input of every layer, in order.
    inputs: Vec<Vec<f64>>,
    largest_activation: f64,
}

impl<'a> Network<'a> {
    fn new(model: &'a Model, seed: u64) -> Self {
        let parameters = model.initial_parameters(seed);
        Self { model, parameters, momentum: None, inputs: Vec::new(), largest_activation: 0.0 }
    }

    /// All epochs; false if the deadline came first.
    fn train(&mut self, spec: &TrainSpec, rows: &Rows, deadline: Option<Instant>) -> bool {
        for epoch in 0..spec.epochs {
            let lr = spec.learning_rate(epoch);
            for batch in spec.batches(epoch, rows.count) {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return false;
                }
                let x = gather(&rows.x, self.model.inputs(), &batch);
                let y = gather(&rows.y, self.model.outputs(), &batch);
                let gradient = self.gradient(&x, &y, batch.len());
                self.update(spec, lr, gradient);
            }
        }
        true
    }

    /// Scores of a batch; keeps the inputs of every layer.
    fn forward(&mut self, x: &[f64], count: usize) -> Vec<f64> {
        self.inputs.clear();
        let (mut value, mut width, mut offset) = (x.to_vec(), self.model.inputs(), 0);
        for layer in self.model.nodes.iter().map(|node| &node.layer) {
            let next = match layer {
                Layer::Linear { outputs, .. } => {
                    let size = (width + 1) * outputs;
                    let result = linear(&value, &self.parameters[offset..offset + size], count, width, *outputs);
                    (offset, width) = (offset + size, *outputs);
                    let largest = result.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
                    self.largest_activation = self.largest_activation.max(largest);
                    result
                }
                Layer::Relu => value.iter().map(|x| x.max(0.0)).collect(),
                Layer::Sigmoid => value.iter().map(|&x| sigmoid(x)).collect(),
                Layer::Tanh => value.iter().map(|x| x.tanh()).collect(),
                Layer::Flatten => value.clone(),
                other => unimplemented!("{}", other.kind()),
            };
            self.inputs.push(std::mem::replace(&mut value, next));
        }
        value
    }

    /// Gradient of the mean loss over the batch, in the order of the parameters.
    fn gradient(&mut self, x: &[f64], y: &[f64], count: usize) -> Vec<f64> {
        let scores = self.forward(x, count);
        let mut delta = loss_gradient(self.model.loss, &scores, y, self.model.outputs(), count);
        let mut gradient = vec![0.0; self.parameters.len()];
        let wiring = self.model.wiring().expect("a checked model");
        let mut shapes: Vec<_> = (0..self.model.nodes.len())
            .filter(|n| matches!(self.model.nodes[*n].layer, Layer::Linear { .. }))
            .map(|n| (wiring.input(n).len(), wiring.output(n).len()))
            .collect();
        let mut end = gradient.len();
        for (layer, input) in self.model.nodes.iter().map(|node| &node.layer).zip(&self.inputs).rev() {
            match layer {
                Layer::Linear { .. } => {
                    let (width, outputs) = shapes.pop().expect("one shape per linear layer");
                    let start = end - (width + 1) * outputs;
                    weight_gradient(input, &delta, &mut gradient[start..end], width, outputs);
                    delta = input_gradient(&delta, &self.parameters[start..end], count, width, outputs);
                    end = start;
                }
                Layer::Relu => chain(&mut delta, input, |x| f64::from(x >= 0.0)),
                Layer::Sigmoid => chain(&mut delta, input, |x| sigmoid(x) * (1.0 - sigmoid(x))),
                Layer::Tanh => chain(&mut delta, input, |x| 1.0 - x.tanh() * x.tanh()),
                other => unimplemented!("{}", other.kind()),
            }
        }
        gradient
    }

    /// One step of SGD as PyTorch defines it: clip, decay, momentum, Nesterov.
    fn update(&mut self, spec: &TrainSpec, lr: f64, mut gradient: Vec<f64>) {
        if let Some(clip) = spec.clip {
            gradient.iter_mut().for_each(|g| *g = g.clamp(-clip, clip));
        }
        for (g, w) in gradient.iter_mut().zip(&self.parameters) {
            *g += spec.weight_decay * w;
        }
        if spec.momentum > 0.0 {
            match &mut self.momentum {
                None => self.momentum = Some(gradient.clone()),
                Some(buffer) => {
                    buffer.iter_mut().zip(&gradient).for_each(|(b, g)| *b = spec.momentum * *b + g);
                }
            }
            let buffer = self.momentum.as_ref().expect("set above");
            for (g, b) in gradient.iter_mut().zip(buffer) {
                *g = if spec.nesterov { *g + spec.momentum * b } else { *b };
            }
        }
        self.parameters.iter_mut().zip(&gradient).for_each(|(w, g)| *w -= lr * g);
    }
}

/// The rows of a row-major matrix that a batch names.
fn gather(values: &[f64], width: usize, batch: &[usize]) -> Vec<f64> {
    batch.iter().flat_map(|&row| &values[row * width..(row + 1) * width]).copied().collect()
}

/// `x W + b`; `parameters` holds `W` row-major, then `b`.
fn linear(x: &[f64], parameters: &[f64], count: usize, width: usize, outputs: usize) -> Vec<f64> {
    let (weights, bias) = parameters.split_at(width * outputs);
    let mut result = bias.repeat(count);
    for (row, result) in x.chunks_exact(width).zip(result.chunks_exact_mut(outputs)) {
        for (&x, weights) in row.iter().zip(weights.chunks_exact(outputs)) {
            result.iter_mut().zip(weights).for_each(|(sum, w)| *sum += x * w);
        }
    }
    result
}

fn weight_gradient(input: &[f64], delta: &[f64], gradient: &mut [f64], width: usize, outputs: usize) {
    let (weights, bias) = gradient.split_at_mut(width * outputs);
    for (row, delta) in input.chunks_exact(width).zip(delta.chunks_exact(outputs)) {
        for (&x, weights) in row.iter().zip(weights.chunks_exact_mut(outputs)) {
            weights.iter_mut().zip(delta).for_each(|(sum, d)| *sum += x * d);
        }
        bias.iter_mut().zip(delta).for_each(|(sum, d)| *sum += d);
    }
}

fn input_gradient(delta: &[f64], parameters: &[f64], count: usize, width: usize, outputs: usize) -> Vec<f64> {
    let mut result = Vec::with_capacity(count * width);
    for delta in delta.chunks_exact(outputs) {
        let products = parameters[..width * outputs].chunks_exact(outputs);
        result.extend(products.map(|weights| weights.iter().zip(delta).map(|(w, d)| w * d).sum::<f64>()));
    }
    result
}

fn chain(delta: &mut [f64], input: &[f64], derivative: impl Fn(f64) -> f64) {
    delta.iter_mut().zip(input).for_each(|(d, &x)| *d *= derivative(x));
}

/// Derivative of the mean loss by the scores.
#[allow(clippy::cast_precision_loss, reason = "batches are far below 2^52")]
fn loss_gradient(loss: Loss, scores: &[f64], y: &[f64], outputs: usize, count: usize) -> Vec<f64> {
    let predicted: Vec<f64> = match loss {
        Loss::BinaryCrossEntropy => scores.iter().map(|&score| sigmoid(score)).collect(),
        Loss::SoftmaxCrossEntropy => scores.chunks_exact(outputs).flat_map(softmax).collect(),
        Loss::MeanSquared | Loss::MeanAbsolute => scores.to_vec(),
    };
    predicted.iter().zip(y).map(|(p, y)| (p - y) / count as f64).collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;
    use shared::config::{BuiltIn, DataSection};
    use shared::model::Schedule;

    fn breast_cancer() -> Dataset {
        data::load(&DataSection::default(), &ProtocolSpec::default()).unwrap()
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (x, count) = ([0.3, -1.2, 0.8, 2.0, -0.5, 0.1], 2);
        let cases = [
            (Loss::BinaryCrossEntropy, vec![1.0, 0.0], 1),
            (Loss::MeanSquared, vec![0.4, -0.7], 1),
            (Loss::SoftmaxCrossEntropy, vec![1.0, 0.0, 0.0, 1.0], 2),
        ];
        for (loss, y, outputs) in cases {
            let mut model = Model::mlp(3, &[4, 5, 3], outputs, loss);
            model.nodes[1].layer = Layer::Tanh;
            model.nodes[3].layer = Layer::Sigmoid;
            let mut network = Network::new(&model, 7);
            let gradient = network.gradient(&x, &y, count);
            for (index, expected) in gradient.iter().enumerate() {
                let mut at = |change: f64| {
                    network.parameters[index] += change;
                    let scores = network.forward(&x, count);
                    network.parameters[index] -= change;
                    loss_value(loss, &scores, &y, outputs) / 2.0
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope - expected).abs() < 1e-7, "{loss:?} {index}: {slope} {expected}");
            }
        }
    }

    fn loss_value(loss: Loss, scores: &[f64], y: &[f64], outputs: usize) -> f64 {
        let rows = scores.chunks_exact(outputs).zip(y.chunks_exact(outputs));
        let of_row = |(s, y): (&[f64], &[f64])| match loss {
            Loss::BinaryCrossEntropy => (1.0 + s[0].exp()).ln() - y[0] * s[0],
            Loss::SoftmaxCrossEntropy => softmax(s).iter().zip(y).map(|(p, y)| -y * p.ln()).sum(),
            Loss::MeanSquared => s.iter().zip(y).map(|(s, y)| (s - y) * (s - y) / 2.0).sum(),
            Loss::MeanAbsolute => s.iter().zip(y).map(|(s, y)| (s - y).abs()).sum(),
        };
        rows.map(of_row).sum()
    }

    #[test]
    fn updates_follow_pytorch() {
        // torch.optim.SGD([1.0], lr=0.1, momentum=0.9, nesterov, weight_decay=0.5), gradients 2.0 (clipped to 1.5), 1.0.
        let model = Model::sequence(shared::model::Shape::vector(1), &[], Loss::MeanSquared);
        let spec = |nesterov| TrainSpec {
            momentum: 0.9,
            nesterov,
            weight_decay: 0.5,
            clip: Some(1.5),
            ..TrainSpec::default()
        };
        for (nesterov, expected) in [(false, [0.8, 0.48]), (true, [0.62, 0.2091])] {
            let mut network = Network::new(&model, 1);
            network.parameters = vec![1.0];
            for (gradient, expected) in [2.0, 1.0].into_iter().zip(expected) {
                network.update(&spec(nesterov), 0.1, vec![gradient]);
                assert!((network.parameters[0] - expected).abs() < 1e-12, "{nesterov}: {:?}", network.parameters);
            }
        }
    }

    #[test]
    fn logistic_regression_learns_breast_cancer() {
        let outcome = run(&Model::logistic(30), &TrainSpec::default(), &breast_cancer());
        assert!(outcome.accuracy.unwrap() > 0.94, "{outcome:?}");
        assert!(outcome.auroc.unwrap() > 0.98, "{outcome:?}");
        assert!(outcome.largest_activation < activation_limit(&ProtocolSpec::default()));
    }

    #[test]
    fn a_small_network_learns_digits() {
        let data =
            data::load(&DataSection { set: BuiltIn::Digits, ..DataSection::default() }, &ProtocolSpec::default())
                .unwrap();
        let spec = TrainSpec { epochs: 15, lr: 0.1, ..TrainSpec::default() };
        let outcome = run(&Model::mlp(64, &[64], 10, Loss::SoftmaxCrossEntropy), &spec, &data);
        assert!(outcome.accuracy.unwrap() > 0.93, "{outcome:?}");
        assert_eq!(outcome.auroc, None);
    }

    #[test]
    fn a_run_that_leaves_the_range_is_seen() {
        let spec = TrainSpec { lr: 100.0, epochs: 1, schedule: Schedule::Constant, ..TrainSpec::default() };
        let model = Model { loss: Loss::MeanSquared, ..Model::logistic(30) };
        let outcome = run(&model, &spec, &breast_cancer());
        assert!(outcome.largest_activation > activation_limit(&ProtocolSpec::default()));
    }

    #[test]
    fn a_deadline_ends_the_run_early() {
        let spec = TrainSpec { epochs: 100_000, ..TrainSpec::default() };
        let outcome = run_until(&Model::logistic(30), &spec, &breast_cancer(), Some(Instant::now()));
        assert!(!outcome.complete);
    }

    #[test]
    fn the_limit_is_half_the_window_or_that_of_products() {
        for (bits, compare_bits, exponent) in [(16, 32, 14), (20, 32, 10), (8, 32, 22), (16, 64, 29), (20, 64, 21)] {
            let fraction_bits = shared::fixed::FixedPoint::new(bits).unwrap();
            let protocol = ProtocolSpec { fraction_bits, compare_bits, ..ProtocolSpec::default() };
            assert!((activation_limit(&protocol) - f64::from(1 << exponent)).abs() < 1e-9, "{bits} {compare_bits}");
        }
    }
}
