//! Every layer on shares against the plaintext twin: results, gradients, running averages, evaluation.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop and say where")]
#![allow(clippy::cast_precision_loss, reason = "test sizes are small")]

use party_node::layers::{Network, Step, fold_batch_norms, loss_gradient};
use party_node::protocol::{Party, ProtocolError, Replicated, split_in_three};
use party_node::world::World;
use plaintext::Pass;
use rand::Rng;
use shared::fixed::FixedPoint;
use shared::job::ProtocolSpec;
use shared::model::{Builder, Conv, Layer, Loss, Model, Pool, Shape, Source, TrainSpec, public_stream};
use shared::share::{Share, join};

const ROWS: usize = 7;
const STEP: u64 = 3;

fn fixed() -> FixedPoint {
    ProtocolSpec::default().fraction_bits
}

fn words(values: &[f64]) -> Vec<u64> {
    values.iter().map(|&value| fixed().constant(value)).collect()
}

/// A network, numbers for it, and a batch.
struct Case {
    model: Model,
    spec: TrainSpec,
    parameters: Vec<f64>,
    averages: Vec<f64>,
    x: Vec<f64>,
    y: Vec<f64>,
}

/// What one step of training and an evaluation give.
struct Outcome {
    /// Summed over the batch.
    gradient: Vec<f64>,
    averages: Vec<f64>,
    /// With the averages that the step started from.
    scores: Vec<f64>,
}

impl Case {
    fn new(model: Model, seed: u64) -> Self {
        let mut stream = public_stream(seed, 11);
        let mut uniform = |len: usize, low: f64, high: f64| -> Vec<f64> {
            // On the grid, so that both start from the same numbers.
            (0..len).map(|_| (stream.random_range(low..high) * 65_536.0).round() / 65_536.0).collect()
        };
        let wiring = model.wiring().unwrap();
        let mut averages = Vec::new();
        for node in 0..model.nodes.len() {
            let channels = wiring.place(node).buffers.len() / 2;
            averages.extend(uniform(channels, -0.5, 0.5));
            averages.extend(uniform(channels, 0.3, 2.0));
        }
        let parameters = uniform(wiring.parameters(), -0.5, 0.5);
        let x = uniform(ROWS * model.inputs(), -1.5, 1.5);
        let y = uniform(ROWS * model.outputs(), -1.0, 1.0);
        Self { model, spec: TrainSpec { seed, ..TrainSpec::default() }, parameters, averages, x, y }
    }

    fn in_plaintext(&self) -> Outcome {
        let twin = || plaintext::Network::new(&self.model, self.parameters.clone(), self.averages.clone());
        let scores = twin().predict(&self.x, ROWS);
        let mut network = twin();
        let gradient = network.gradient(&self.x, &self.y, ROWS, Pass::Training { spec: &self.spec, step: STEP });
        let gradient = gradient.iter().map(|mean| mean * ROWS as f64).collect();
        Outcome { gradient, averages: network.buffers, scores }
    }

    fn on_shares(&self, seed: u64) -> Outcome {
        let world = World::new(seed);
        let share = |stream: u64, values: &[f64]| world.share(stream, &words(values));
        let [parameters, averages] = [share(0, &self.parameters), share(1, &self.averages)];
        let [x, y] = [share(2, &self.x), share(3, &self.y)];
        let runs = world.run(|party| {
            let me = party.me().index();
            let model = [&parameters, &averages].map(|shares| Replicated::on(party.device(), shares[me].clone()));
            let scores = self.evaluate(party, model.each_ref(), &x[me])?;
            let (gradient, averages) = self.train(party, model.each_ref(), [&x[me], &y[me]])?;
            Ok((scores, gradient, averages))
        });
        let runs = runs.map(|(result, _)| result.unwrap());
        let decoded = |part: fn(&(Share, Vec<u64>, Share)) -> &Share| -> Vec<f64> {
            let shares = [0, 1, 2].map(|party| part(&runs[party]).clone());
            join(&shares).unwrap().into_iter().map(|word| fixed().decode(word)).collect()
        };
        let doubled =
            (0..self.parameters.len()).map(|at| runs.iter().fold(0, |sum: u64, run| sum.wrapping_add(run.1[at])));
        let unit = 2.0 * fixed().scale() * fixed().scale();
        Outcome {
            gradient: doubled.map(|word| word.cast_signed() as f64 / unit).collect(),
            averages: decoded(|run| &run.2),
            scores: decoded(|run| &run.0),
        }
    }

    fn evaluate(
        &self,
        party: &Party,
        [parameters, averages]: [&Replicated; 2],
        x: &Share,
    ) -> Result<Share, ProtocolError> {
        let (model, parameters) = &fold_batch_norms(party, &self.model, parameters, averages)?;
        let (network, inputs) = (&Network::new(model, parameters), model.inputs());
        let pieces = party.run_in(&split_in_three(ROWS), |tile, rows| async move {
            let x = tile.enter(x, rows.start * inputs..rows.end * inputs);
            Ok(tile.leave(network.forward(&tile, x, rows, None).await?.0))
        })?;
        Ok(Replicated::concat(&pieces).into_share())
    }

    fn train(
        &self,
        party: &Party,
        [parameters, averages]: [&Replicated; 2],
        [x, y]: [&Share; 2],
    ) -> Result<(Vec<u64>, Share), ProtocolError> {
        let (network, tiles) = (&Network::new(&self.model, parameters), split_in_three(ROWS));
        let (inputs, outputs, loss) = (self.model.inputs(), self.model.outputs(), self.model.loss);
        let step = Step::new(&self.spec, STEP, party.device().zeros(parameters.len()), 0..ROWS, tiles.len());
        let collected = &step;
        party.run_in(&tiles, |tile, rows| async move {
            let x = tile.enter(x, rows.start * inputs..rows.end * inputs);
            let y = tile.enter(y, rows.start * outputs..rows.end * outputs);
            let (scores, trace) = network.forward(&tile, x, rows, Some(collected)).await?;
            let gradient = loss_gradient(&tile, loss, scores, &y, outputs).await?;
            network.backward(&tile, trace, gradient, collected).await
        })?;
        let averages = step.running_averages(party, &self.model, averages.clone())?;
        Ok((step.into_gradient().into_host(), averages.into_share()))
    }

    /// Both ways of computing agree, up to `error` per unit of the largest number.
    fn check(&self, name: &str, error: f64) {
        let (want, got) = (self.in_plaintext(), self.on_shares(5));
        for (what, want, got) in [
            ("scores", &want.scores, &got.scores),
            ("gradient", &want.gradient, &got.gradient),
            ("averages", &want.averages, &got.averages),
        ] {
            assert_eq!(want.len(), got.len(), "{name}: {what}");
            let scale = want.iter().fold(1.0_f64, |largest, x| largest.max(x.abs()));
            for (at, (want, got)) in want.iter().zip(got).enumerate() {
                assert!((want - got).abs() < error * scale, "{name}: {what} {at} is {got} instead of {want}");
            }
        }
    }
}

/// The layer between a convolution (whose gradient shows the layer's) and a linear layer.
fn around(layer: Layer, image: Shape) -> Model {
    let mut net = Builder::new(image);
    let at = net.add(Layer::Conv(Conv::square(4, 3).padded(1)), &[Source::Input]);
    let at = net.add(layer, &[at]);
    net.chain(&[Layer::Flatten, Layer::Linear { outputs: 3, bias: true }], at);
    net.finish(Loss::MeanSquared)
}

fn check_layers(layers: &[Layer], error: f64) {
    for (seed, layer) in (1..).zip(layers) {
        Case::new(around(*layer, Shape::image(2, 6, 5)), seed).check(&format!("{layer:?}"), error);
    }
}

#[test]
fn convolutions_match_plaintext() {
    let conv = Conv::square(6, 3);
    check_layers(
        &[
            Layer::Conv(conv),
            Layer::Conv(Conv { stride: [2, 1], padding: [1, 0, 2, 1], ..conv }),
            Layer::Conv(Conv { dilation: [2, 2], ..conv.padded(1).unbiased() }),
            Layer::Conv(Conv { groups: 2, ..conv }),
            Layer::Conv(Conv { groups: 4, channels: 4, ..conv }),
            Layer::Conv(Conv { kernel: [1, 3], ..conv }),
            Layer::ConvTranspose { conv, extra: [0, 0] },
            Layer::ConvTranspose { conv: conv.strided(2).padded(1), extra: [1, 0] },
            Layer::ConvTranspose { conv: Conv { groups: 2, ..conv.strided(2) }, extra: [0, 0] },
            Layer::Linear { outputs: 5, bias: true },
        ],
        1e-3,
    );
}

#[test]
fn pooling_matches_plaintext() {
    let overlapping = Pool { kernel: [3; 2], stride: [2; 2], padding: [1; 4] };
    check_layers(
        &[
            Layer::MaxPool(Pool::square(2)),
            Layer::MaxPool(overlapping),
            Layer::AveragePool { pool: Pool::square(2), count_padding: true },
            Layer::AveragePool { pool: overlapping, count_padding: true },
            Layer::AveragePool { pool: overlapping, count_padding: false },
            Layer::AdaptiveAveragePool { output: [1, 1] },
            Layer::AdaptiveAveragePool { output: [4, 3] },
        ],
        1e-3,
    );
}

#[test]
fn normalisation_matches_plaintext() {
    check_layers(
        &[
            Layer::BatchNorm { epsilon: 1e-5, momentum: 0.1 },
            Layer::LayerNorm { epsilon: 1e-5 },
            Layer::GroupNorm { groups: 2, epsilon: 1e-5 },
            Layer::GroupNorm { groups: 1, epsilon: 1e-3 },
            Layer::Scale,
        ],
        4e-3,
    );
}

#[test]
fn activations_match_plaintext() {
    check_layers(
        &[
            Layer::Relu,
            Layer::Clip { low: 0.0, high: 0.75 },
            Layer::LeakyRelu { slope: 0.1 },
            Layer::Dropout { probability: 0.5, secret: false },
            Layer::Dropout { probability: 0.3, secret: false },
        ],
        1e-3,
    );
    check_layers(
        &[Layer::Sigmoid, Layer::Tanh, Layer::Gelu, Layer::Silu, Layer::Softplus, Layer::Softmax, Layer::LogSoftmax],
        6e-3,
    );
}

#[test]
fn graphs_and_losses_match_plaintext() {
    for (seed, loss) in (20..).zip([Loss::MeanSquared, Loss::SoftmaxCrossEntropy, Loss::MeanAbsolute]) {
        let mut net = Builder::new(Shape::image(2, 6, 6));
        let conv = |channels| Layer::Conv(Conv::square(channels, 3).padded(1).unbiased());
        let norm = Layer::BatchNorm { epsilon: 1e-5, momentum: 0.2 };
        let a = net.chain(&[conv(4), norm, Layer::Relu], Source::Input);
        let b = net.chain(&[conv(4), norm], a);
        let sum = net.add(Layer::Add, &[a, b]);
        let difference = net.add(Layer::Subtract, &[sum, b]);
        let product = net.add(Layer::Multiply, &[difference, a]);
        let scaled = net.add(norm, &[sum]);
        let scaled = net.add(Layer::Concat, &[scaled, product, Source::Input]);
        let reshaped = Layer::Reshape { shape: Shape::image(4, 5, 3) };
        let pooled = net.chain(&[Layer::AdaptiveAveragePool { output: [2, 3] }, reshaped], scaled);
        net.chain(&[Layer::Flatten, Layer::Linear { outputs: 4, bias: true }], pooled);
        Case::new(net.finish(loss), seed).check(&format!("{loss:?}"), 5e-3);
    }
}

#[test]
fn a_secret_mask_drops_its_share_and_lets_the_same_gradient_through() {
    let model = Model::sequence(
        Shape::vector(64),
        &[Layer::Scale, Layer::Dropout { probability: 0.25, secret: true }],
        Loss::MeanSquared,
    );
    let mut case = Case::new(model, 9);
    case.parameters = [vec![1.0; 64], vec![0.0; 64]].concat();
    (case.x, case.y) = (vec![1.0; ROWS * 64], vec![0.0; ROWS * 64]);
    // Scores are 0 or 4/3, and so are their gradients: a shift's gradient is 16/9 for every row that was kept.
    let gradient = case.on_shares(5).gradient;
    let kept: Vec<f64> = gradient[64..].iter().map(|sum| sum * 9.0 / 16.0).collect();
    assert!(kept.iter().all(|kept| (kept - kept.round()).abs() < 1e-3), "{kept:?}");
    let share = kept.iter().sum::<f64>() / (ROWS * 64) as f64;
    assert!((share - 0.75).abs() < 0.06, "{share}");
    assert_ne!(gradient, case.on_shares(6).gradient);
}
