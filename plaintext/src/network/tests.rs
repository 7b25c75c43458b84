//! Gradients against finite differences, for every kind of layer.

use proptest::prelude::*;
use shared::model::{Builder, Conv, Loss, Pool, Shape, public_stream};

use super::*;

/// Numbers without ties or kinks nearby, so that differences see one slope.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    use rand::Rng;
    let mut stream = public_stream(seed, 1);
    (0..count).map(|_| 3.0 * stream.random::<f64>() - 1.5).collect()
}

fn spec() -> TrainSpec {
    TrainSpec::default()
}

fn network(model: &Model, seed: u64) -> Network<'_> {
    let parameters = numbers(model.parameters(), seed);
    Network::new(model, parameters, model.initial_buffers())
}

/// Targets that the loss can have.
fn targets(loss: Loss, rows: usize, outputs: usize) -> Vec<f64> {
    match loss {
        Loss::SoftmaxCrossEntropy => {
            (0..rows * outputs).map(|i| f64::from(u8::from(i % outputs == i / outputs % outputs))).collect()
        }
        Loss::BinaryCrossEntropy => (0..rows).map(|row| f64::from(u8::from(row % 2 == 0))).collect(),
        Loss::MeanSquared | Loss::MeanAbsolute => numbers(rows * outputs, 99),
    }
}

fn loss_value(loss: Loss, scores: &[f64], y: &[f64], outputs: usize) -> f64 {
    let rows = scores.chunks_exact(outputs).zip(y.chunks_exact(outputs));
    let of_row = |(s, y): (&[f64], &[f64])| match loss {
        Loss::BinaryCrossEntropy => (1.0 + s[0].exp()).ln() - y[0] * s[0],
        Loss::SoftmaxCrossEntropy => {
            let logarithms = activation::log_softmax(s, outputs);
            logarithms.iter().zip(y).map(|(logarithm, y)| -y * logarithm).sum()
        }
        Loss::MeanSquared => s.iter().zip(y).map(|(s, y)| (s - y) * (s - y) / 2.0).sum(),
        Loss::MeanAbsolute => s.iter().zip(y).map(|(s, y)| (s - y).abs()).sum(),
    };
    rows.map(of_row).sum()
}

/// Compares the gradient of every parameter with the difference that it makes. What a layer hands on to the layers
/// before it shows in their parameters.
fn check(model: &Model, rows: usize, training: bool) {
    let (spec, mut network) = (spec(), network(model, 7));
    let pass = if training { Pass::Training { spec: &spec, step: 3 } } else { Pass::Prediction };
    network.buffers = numbers(network.buffers.len(), 5).iter().map(|x| x.abs() + 0.5).collect();
    let buffers = network.buffers.clone();
    let (x, outputs) = (numbers(rows * model.inputs(), 3), model.outputs());
    let y = targets(model.loss, rows, outputs);
    let gradient = network.gradient(&x, &y, rows, pass);
    assert!(gradient.iter().any(|g| *g != 0.0), "nothing to compare");
    for (index, expected) in gradient.iter().enumerate() {
        let mut at = |change: f64| {
            network.parameters[index] += change;
            network.buffers.clone_from(&buffers);
            let scores = network.forward(&x, rows, pass).into_scores(&x);
            network.parameters[index] -= change;
            loss_value(model.loss, &scores, &y, outputs) / f64::from(u32::try_from(rows).unwrap())
        };
        let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        let near = (slope - expected).abs() < 1e-6 * (1.0 + expected.abs());
        assert!(near, "{:?} parameter {index}: {slope} {expected}", model.nodes[1].layer);
    }
}

/// A layer between a convolution, which learns from what it hands on, and a linear layer.
fn around(layer: Layer, input: Shape) -> Model {
    let first = Layer::Conv(Conv::square(input.channels, 1));
    let layers = [first, layer, Layer::Flatten, Layer::Linear { outputs: 2, bias: true }];
    Model::sequence(input, &layers, Loss::SoftmaxCrossEntropy)
}

#[test]
fn gradients_of_all_layers_equal_finite_differences() {
    let pool = Pool { kernel: [2, 3], stride: [2, 1], padding: [1, 0, 0, 2] };
    let conv = Conv { kernel: [2, 3], stride: [2, 1], padding: [1, 0, 0, 2], dilation: [1, 2], ..Conv::square(4, 2) };
    let layers = [
        Layer::Linear { outputs: 3, bias: true },
        Layer::Linear { outputs: 3, bias: false },
        Layer::Conv(conv),
        Layer::Conv(Conv { groups: 2, ..conv.unbiased() }),
        Layer::Conv(Conv { groups: 4, ..Conv::square(8, 2) }),
        Layer::ConvTranspose { conv, extra: [1, 0] },
        Layer::ConvTranspose { conv: Conv { groups: 2, ..conv.unbiased() }, extra: [0, 1] },
        Layer::MaxPool(pool),
        Layer::AveragePool { pool, count_padding: true },
        Layer::AveragePool { pool, count_padding: false },
        Layer::AdaptiveAveragePool { output: [2, 3] },
        Layer::BatchNorm { epsilon: 1e-3, momentum: 0.1 },
        Layer::LayerNorm { epsilon: 1e-3 },
        Layer::GroupNorm { groups: 2, epsilon: 1e-3 },
        Layer::Scale,
        Layer::Dropout { probability: 0.4, secret: false },
        Layer::Reshape { shape: Shape::image(8, 1, 8) },
        Layer::Relu,
        Layer::Clip { low: -0.7, high: 1.1 },
        Layer::LeakyRelu { slope: 0.3 },
        Layer::Gelu,
        Layer::Silu,
        Layer::Softplus,
        Layer::Sigmoid,
        Layer::Tanh,
        Layer::Softmax,
        Layer::LogSoftmax,
    ];
    for layer in layers {
        check(&around(layer, Shape::image(4, 4, 4)), 3, true);
    }
}

#[test]
fn gradients_of_layers_of_several_inputs_equal_finite_differences() {
    let image = Shape::image(2, 2, 3);
    for layer in [Layer::Concat, Layer::Add, Layer::Subtract, Layer::Multiply] {
        let mut net = Builder::new(image);
        let a = net.add(Layer::Conv(Conv::square(2, 1)), &[Source::Input]);
        let b = net.add(Layer::Conv(Conv::square(2, 3).padded(1)), &[a]);
        let joined = net.add(layer, &[b, a]);
        // A value that feeds itself in twice, and the sample beside what is learned.
        let doubled = net.add(Layer::Add, &[joined, joined]);
        let with_input = net.add(Layer::Concat, &[doubled, Source::Input]);
        net.chain(&[Layer::Flatten, Layer::Linear { outputs: 2, bias: true }], with_input);
        check(&net.finish(Loss::MeanSquared), 2, true);
    }
}

#[test]
fn gradients_of_a_residual_network_equal_finite_differences() {
    let norm = Layer::BatchNorm { epsilon: 1e-2, momentum: 0.1 };
    let conv = |channels, stride| Layer::Conv(Conv::square(channels, 3).padded(1).strided(stride).unbiased());
    let mut net = Builder::new(Shape::image(2, 4, 4));
    let stem = net.chain(&[conv(3, 1), norm, Layer::Relu], Source::Input);
    let main = net.chain(&[conv(3, 1), norm, Layer::Relu, conv(3, 1), norm], stem);
    let sum = net.add(Layer::Add, &[main, stem]);
    let first = net.add(Layer::Relu, &[sum]);
    let main = net.chain(&[conv(4, 2), norm, Layer::Relu, conv(4, 1), norm], first);
    let shortcut = net.chain(&[Layer::Conv(Conv::square(4, 1).strided(2).unbiased()), norm], first);
    let sum = net.add(Layer::Add, &[main, shortcut]);
    let second = net.add(Layer::Relu, &[sum]);
    let pooled = net.add(Layer::AdaptiveAveragePool { output: [1, 1] }, &[second]);
    net.chain(&[Layer::Flatten, Layer::Linear { outputs: 3, bias: true }], pooled);
    let model = net.finish(Loss::SoftmaxCrossEntropy);
    check(&model, 3, true);
}

#[test]
fn gradients_of_all_losses_equal_finite_differences() {
    let cases = [
        (Loss::BinaryCrossEntropy, 1),
        (Loss::MeanSquared, 1),
        (Loss::MeanSquared, 2),
        (Loss::MeanAbsolute, 2),
        (Loss::SoftmaxCrossEntropy, 3),
    ];
    for (loss, outputs) in cases {
        let mut model = Model::mlp(3, &[4, 5, 3], outputs, loss);
        model.nodes[1].layer = Layer::Tanh;
        model.nodes[3].layer = Layer::Sigmoid;
        check(&model, 4, true);
    }
}

#[test]
fn dropout_drops_in_training_only_and_keeps_the_mean() {
    let model =
        Model::sequence(Shape::vector(1000), &[Layer::Dropout { probability: 0.25, secret: false }], Loss::MeanSquared);
    let (spec, mut network) = (spec(), network(&model, 1));
    let x = vec![3.0; 5000];
    assert_eq!(network.predict(&x, 5), x);
    let mut dropped = |step| network.forward(&x, 5, Pass::Training { spec: &spec, step }).into_scores(&x);
    let found = dropped(1);
    assert!(found.iter().all(|value| *value == 0.0 || *value == 4.0));
    let mask = spec.dropout_mask(1, 0, 0.25, 0..5000);
    assert!(found.iter().zip(mask).all(|(value, kept)| (*value != 0.0) == kept));
    assert!((found.iter().sum::<f64>() / 5000.0 - 3.0).abs() < 0.1);
    assert_ne!(found, dropped(2));
}

#[test]
fn running_averages_follow_training_and_serve_predictions() {
    let layer = Layer::BatchNorm { epsilon: 1e-9, momentum: 0.5 };
    let model = Model::sequence(Shape::vector(1), &[layer], Loss::MeanSquared);
    let (spec, mut network) = (spec(), Network::new(&model, vec![1.0, 0.0], vec![0.0, 1.0]));
    // Mean 2, biased variance 1, unbiased 2.
    network.forward(&[1.0, 3.0], 2, Pass::Training { spec: &spec, step: 0 });
    assert_eq!(network.buffers, [1.0, 1.5]);
    let found = network.predict(&[1.0, 1.0 + 1.5_f64.sqrt()], 2);
    assert!(found[0].abs() < 1e-8 && (found[1] - 1.0).abs() < 1e-8, "{found:?}");
    assert_eq!(network.buffers, [1.0, 1.5]);
    // In predictions the layer is linear; its gradient too.
    let mut predicting = around(layer, Shape::image(2, 2, 2));
    predicting.loss = Loss::MeanSquared;
    check(&predicting, 2, true);
}

#[test]
fn predictions_in_parts_are_those_of_the_whole() {
    let model = shared::model::ModelName::Lenet.build(Shape::image(1, 8, 8), &[], 10, Loss::SoftmaxCrossEntropy);
    let parameters = model.initial_parameters(1);
    let mut network = Network::new(&model, parameters, Vec::new());
    // A sample keeps about 6000 values, so 1500 samples make three parts.
    let x = numbers(1500 * 64, 2);
    let scores = network.predict(&x, 1500);
    assert_eq!(scores.len(), 15_000);
    assert_eq!(scores[14_990..], network.predict(&x[1499 * 64..], 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn convolutions_are_their_definition(
        (height, width) in (3_usize..7, 3_usize..7),
        kernel: [bool; 2],
        stride: [bool; 2],
        dilation: [bool; 2],
        padding in [0_usize..3, 0..3, 0..3, 0..3],
        groups in 1_usize..3,
    ) {
        let [kernel, stride, dilation] = [kernel, stride, dilation].map(|two| two.map(|more| 1 + usize::from(more)));
        let conv = Conv { channels: 2 * groups, kernel, stride, padding, dilation, groups, bias: true };
        let input = Shape::image(3 * groups, height, width);
        let model = Model::sequence(input, &[Layer::Conv(conv)], Loss::MeanSquared);
        let output = model.output();
        let mut network = network(&model, 4);
        let (x, parameters) = (numbers(2 * input.len(), 9), network.parameters.clone());
        let found = network.predict(&x, 2);
        let weights = kernel[0] * kernel[1] * 3 * conv.channels;
        for (at, found) in found.iter().enumerate() {
            let (sample, element) = (at / output.len(), at % output.len());
            let (position, channel) = (element / output.channels, element % output.channels);
            let (y, x0) = (position / output.width * stride[0], position % output.width * stride[1]);
            let mut sum = parameters[weights + channel];
            let columns = |ky| (0..kernel[1]).flat_map(move |kx| (0..3).map(move |c| (ky, kx, c)));
            for (ky, kx, c) in (0..kernel[0]).flat_map(columns) {
                let row = (y + ky * dilation[0]).checked_sub(padding[0]).filter(|row| *row < height);
                let column = (x0 + kx * dilation[1]).checked_sub(padding[1]).filter(|column| *column < width);
                let (Some(row), Some(column)) = (row, column) else { continue };
                let from = c + channel / 2 * 3;
                let weight = ((ky * kernel[1] + kx) * 3 + c) * conv.channels + channel;
                sum += x[sample * input.len() + (row * width + column) * input.channels + from] * parameters[weight];
            }
            prop_assert!((sum - found).abs() < 1e-12, "{conv:?} {at}: {sum} {found}");
        }
    }
}
