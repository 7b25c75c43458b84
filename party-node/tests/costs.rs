//! What every layer and loss costs, counted on the real code and kept in `data/layer-costs.jsonl`, from where the
//! launcher's predictions are checked.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop and say where")]

use party_node::layers::{Network, Step, loss_gradient};
use party_node::protocol::{Party, ProtocolError, Replicated, split_in_three};
use party_node::world::{Cost, Run, World};
use serde::Serialize;
use shared::fixed::FixedPoint;
use shared::job::{ProtocolSpec, Truncation};
use shared::model::{Builder, Conv, Layer, Loss, Model, Pool, Shape, Source, TrainSpec};
use shared::share::Share;

/// A line of the file: payload bytes of all parties, and rounds, of one pass over some rows.
#[derive(Serialize)]
struct Line {
    name: String,
    rows: usize,
    protocol: ProtocolSpec,
    model: Model,
    step_bytes: usize,
    step_rounds: u32,
    /// Forward alone; absent for networks with batch-norms, which are folded before.
    inference_bytes: Option<usize>,
    inference_rounds: Option<u32>,
}

const IMAGE: Shape = Shape { channels: 4, height: 6, width: 5 };

/// A layer on images, with something to learn before it and scores behind it. A layer of one input leaves a branch
/// that leads nowhere.
fn around(layer: Layer) -> Model {
    let mut net = Builder::new(IMAGE);
    let branches = [(); 2].map(|()| net.add(Layer::Scale, &[Source::Input]));
    let joins = matches!(layer, Layer::Concat | Layer::Add | Layer::Subtract | Layer::Multiply);
    let middle = net.add(layer, &branches[..if joins { 2 } else { 1 }]);
    net.chain(&[Layer::Flatten, Layer::Linear { outputs: 3, bias: true }], middle);
    net.finish(Loss::MeanSquared)
}

fn layers() -> Vec<(&'static str, Layer)> {
    let conv = Conv { stride: [2, 1], groups: 2, ..Conv::square(6, 3).padded(1) };
    let pool = |kernel, stride, padding| Pool { kernel, stride, padding };
    let dropout = |probability, secret| Layer::Dropout { probability, secret };
    vec![
        ("linear", Layer::Linear { outputs: 5, bias: false }),
        ("conv", Layer::Conv(conv)),
        ("conv-transpose", Layer::ConvTranspose { conv, extra: [1, 0] }),
        ("max-pool", Layer::MaxPool(Pool::square(2))),
        ("max-pool, overlapping", Layer::MaxPool(pool([3, 3], [2, 1], [1, 1, 0, 1]))),
        ("max-pool, with rows left out", Layer::MaxPool(pool([1, 3], [2, 2], [0; 4]))),
        ("average-pool", Layer::AveragePool { pool: pool([3, 2], [2, 2], [1, 0, 1, 0]), count_padding: false }),
        ("adaptive-average-pool", Layer::AdaptiveAveragePool { output: [4, 2] }),
        ("batch-norm", Layer::BatchNorm { epsilon: 1e-5, momentum: 0.1 }),
        ("layer-norm", Layer::LayerNorm { epsilon: 1e-5 }),
        ("group-norm", Layer::GroupNorm { groups: 2, epsilon: 1e-5 }),
        ("scale", Layer::Scale),
        ("dropout", dropout(0.25, false)),
        ("dropout of half", dropout(0.5, false)),
        ("dropout of none", dropout(0.0, false)),
        ("secret dropout", dropout(0.2, true)),
        ("secret dropout of half", dropout(0.5, true)),
        ("flatten", Layer::Flatten),
        ("reshape", Layer::Reshape { shape: Shape { channels: 2, height: 10, width: 6 } }),
        ("concat", Layer::Concat),
        ("add", Layer::Add),
        ("subtract", Layer::Subtract),
        ("multiply", Layer::Multiply),
        ("relu", Layer::Relu),
        ("clip", Layer::Clip { low: 0.0, high: 6.0 }),
        ("leaky-relu", Layer::LeakyRelu { slope: 0.01 }),
        ("gelu", Layer::Gelu),
        ("silu", Layer::Silu),
        ("softplus", Layer::Softplus),
        ("sigmoid", Layer::Sigmoid),
        ("tanh", Layer::Tanh),
        ("softmax", Layer::Softmax),
        ("log-softmax", Layer::LogSoftmax),
    ]
}

fn cases() -> Vec<(String, usize, ProtocolSpec, Model)> {
    let plain = ProtocolSpec::default();
    let mut cases: Vec<_> =
        layers().into_iter().map(|(name, layer)| (name.to_owned(), 20, plain, around(layer))).collect();
    let losses = [
        ("binary cross-entropy", Loss::BinaryCrossEntropy, 1),
        ("softmax cross-entropy", Loss::SoftmaxCrossEntropy, 10),
        ("softmax cross-entropy of two", Loss::SoftmaxCrossEntropy, 2),
        ("mean absolute error", Loss::MeanAbsolute, 2),
    ];
    cases.extend(losses.map(|(name, loss, outputs)| (name.into(), 50, plain, Model::mlp(7, &[6], outputs, loss))));
    let all: Vec<Layer> =
        [Layer::BatchNorm { epsilon: 1e-5, momentum: 0.1 }, Layer::Gelu, Layer::MaxPool(Pool::square(2))]
            .into_iter()
            .chain([Layer::LogSoftmax, Layer::Clip { low: -1.0, high: 1.0 }, Layer::LayerNorm { epsilon: 1e-5 }])
            .chain([Layer::Flatten, Layer::Linear { outputs: 10, bias: true }])
            .collect();
    let deep = Model::sequence(IMAGE, &all, Loss::SoftmaxCrossEntropy);
    let protocols = [
        ("a chain", 20, plain),
        ("a chain, two rows", 2, plain),
        ("a chain, one row", 1, plain),
        ("a chain, fast truncation", 20, ProtocolSpec { trunc: Truncation::Fast, ..plain }),
        ("a chain, wide comparisons", 20, ProtocolSpec { compare_bits: 64, ..plain }),
        ("a chain, few rounds", 20, ProtocolSpec { round_trip_ms: 20, ..plain }),
        ("a chain, wide comparisons and few rounds", 20, ProtocolSpec { compare_bits: 64, round_trip_ms: 20, ..plain }),
        ("a chain, 20 fraction bits", 20, ProtocolSpec { fraction_bits: FixedPoint::new(20).unwrap(), ..plain }),
    ];
    cases.extend(protocols.map(|(name, rows, protocol)| (name.into(), rows, protocol, deep.clone())));
    cases
}

/// What one pass sends.
fn cost(model: &Model, rows: usize, protocol: ProtocolSpec, training: bool) -> Cost {
    let world = World::new(1).with_spec(protocol);
    let fixed = protocol.fraction_bits;
    let some = |count: usize| -> Vec<u64> { (0..count).map(|i| fixed.constant((i % 13) as f64 / 8.0)).collect() };
    let [x, y, parameters, buffers] = [
        some(rows * model.inputs()),
        some(rows * model.outputs()),
        some(model.parameters()),
        some(model.initial_buffers().len()),
    ];
    let shares = [&x, &y, &parameters, &buffers].map(|words| world.share(0, words));
    let pass = |party: &Party| -> Result<(), ProtocolError> {
        let [x, y, parameters, buffers] = shares.each_ref().map(|share| &share[party.me().index()]);
        let held = |share: &Share| Replicated::on(party.device(), share.clone());
        let (parameters, buffers) = (held(parameters), held(buffers));
        let (tiles, network) = (split_in_three(rows), &Network::new(model, &parameters));
        let gradient = party.device().zeros(parameters.len());
        let step = Step::new(&TrainSpec::default(), 0, gradient, 0..rows, tiles.len());
        let step = &step;
        party.run_in(&tiles, |tile, rows| async move {
            let part = |share: &Share, width: usize| tile.enter(share, rows.start * width..rows.end * width);
            let (x, y) = (part(x, model.inputs()), part(y, model.outputs()));
            let (scores, trace) = network.forward(&tile, x, rows, training.then_some(step)).await?;
            if !training {
                return Ok(());
            }
            let gradient = loss_gradient(&tile, model.loss, scores, &y, model.outputs()).await?;
            network.backward(&tile, trace, gradient, step).await
        })?;
        step.running_averages(party, model, buffers).map(drop)
    };
    let runs = world.run(pass).map(|(result, trace)| (result.expect("no party fails"), trace));
    Run::collect(runs).cost
}

#[test]
fn layers_cost_what_the_table_says() {
    let mut lines = String::new();
    for (name, rows, protocol, model) in cases() {
        model.wiring().unwrap();
        let step = cost(&model, rows, protocol, true);
        let folded = model.nodes.iter().any(|node| matches!(node.layer, Layer::BatchNorm { .. }));
        let inference = (!folded).then(|| cost(&model, rows, protocol, false));
        let line = Line {
            name,
            rows,
            protocol,
            model,
            step_bytes: step.sent_bytes,
            step_rounds: step.rounds,
            inference_bytes: inference.map(|cost| cost.sent_bytes),
            inference_rounds: inference.map(|cost| cost.rounds),
        };
        lines += &(serde_json::to_string(&line).unwrap() + "\n");
    }
    let kept = include_str!("data/layer-costs.jsonl");
    assert!(kept == lines, "data/layer-costs.jsonl should read:\n{lines}");
}
