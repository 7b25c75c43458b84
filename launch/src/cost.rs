//! What a training step, or a pass of rows through a network, costs each party before it runs: bytes, rounds, products.
//! Layer by layer it walks the way that the parties' code takes, and adds up what would be sent.

use std::ops::{Add, AddAssign, Sub};

use shared::job::ProtocolSpec;
use shared::model::{Layer, Model, TrainSpec, Wiring};

use self::layers::Pass;
use self::update::Folding;
use self::walk::Walk;

mod carries;
mod functions;
mod layers;
mod update;
mod walk;

/// What a layer has in flight for each number: shares, products, messages as they are built and taken apart. Measured
/// on convolutions.
const IN_FLIGHT_BYTES: f64 = 115.0;
/// The same where nothing is kept for a way back.
const IN_FLIGHT_INFERENCE_BYTES: f64 = 90.0;

/// Bytes that a party sends (mean of the three), and hops that follow one another.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Cost {
    pub(crate) bytes: f64,
    pub(crate) rounds: f64,
}

impl Add for Cost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, rounds: self.rounds + other.rounds }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Cost {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { bytes: self.bytes - other.bytes, rounds: self.rounds - other.rounds }
    }
}

/// One part of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) cost: Cost,
    /// Matrix products and convolutions that each party computes.
    pub(crate) gemms: usize,
    /// Their multiply-adds.
    pub(crate) products: f64,
}

impl Part {
    fn new(name: impl Into<String>, cost: Cost) -> Self {
        Self { name: name.into(), cost, gemms: 0, products: 0.0 }
    }
}

/// Costs of one training step, part by part.
///
/// # Panics
/// If the network does not fit together.
#[cfg(test)]
pub(crate) fn step(model: &Model, train: &TrainSpec, protocol: &ProtocolSpec) -> Vec<Part> {
    lane_step(model, train, protocol, 1)
}

/// What one of so many lanes has of a training step: its slice of the batch (the largest one), and the update of its
/// share of the parameters.
///
/// # Panics
/// If the network does not fit together.
pub(crate) fn lane_step(model: &Model, train: &TrainSpec, protocol: &ProtocolSpec, lanes: usize) -> Vec<Part> {
    let mut walk = Walk::new(protocol);
    // Parties come out of a step with different depths; from the second one on the chain grows evenly.
    walk_step(&mut walk, model, train, lanes);
    let headers = walk.header_bytes();
    let mut parts = walk_step(&mut walk, model, train, lanes);
    let headers = Cost { bytes: walk.header_bytes() - headers, rounds: 0.0 };
    parts.push(Part::new("headers", headers));
    parts
}

fn walk_step(walk: &mut Walk, model: &Model, train: &TrainSpec, lanes: usize) -> Vec<Part> {
    let wiring = &model.wiring().expect("a network that was checked");
    let rows = train.batch.div_ceil(lanes);
    let pass = Pass { model, wiring, rows };
    let mut parts = Vec::with_capacity(model.nodes.len() + 4);
    walk.begin(rows);
    for (node, layer) in model.nodes.iter().enumerate() {
        let cost = added(walk, |walk| pass.forward(walk, node, true));
        let (gemms, products) = products(model, wiring, node, rows);
        parts.push(Part { gemms, products, ..Part::new(name(&layer.name, wiring, node), cost) });
    }
    let loss = added(walk, |walk| pass.loss(walk));
    let reached = pass.gradients();
    for node in (0..model.nodes.len()).rev().filter(|node| reached[*node]) {
        let part = &mut parts[node];
        part.cost += added(walk, |walk| pass.backward(walk, node));
        // Another product for the weights, and one for what was read.
        let passes = if pass.hands_on(node) { 3 } else { 2 };
        part.gemms *= passes;
        part.products *= if passes == 3 { 3.0 } else { 2.0 };
    }
    parts.push(Part::new("loss", loss));
    let averages = added(walk, |walk| update::averages(walk, wiring));
    if wiring.buffers() > 0 {
        parts.push(Part::new("running averages", averages));
    }
    let parameters = wiring.parameters().div_ceil(lanes);
    let update = added(walk, |walk| update::update(walk, train, parameters));
    parts.push(Part::new(format!("update of {parameters} parameters"), update));
    parts
}

/// Costs of a trained network at work.
pub(crate) struct Inference {
    /// Once, before any row: batch-norms are folded away.
    pub(crate) once: Vec<Part>,
    /// A block of rows.
    pub(crate) block: Vec<Part>,
}

/// Costs of so many rows that pass through a trained network at once. Results for their owner leave without a message
/// to a party.
///
/// # Panics
/// If the network does not fit together.
pub(crate) fn inference(model: &Model, rows: usize, protocol: &ProtocolSpec) -> Inference {
    let wiring = &model.wiring().expect("a network that was checked");
    let pass = Pass { model, wiring, rows };
    let (mut walk, mut once, mut block) = (Walk::new(protocol), Vec::new(), Vec::new());
    let foldings = update::foldings(model, wiring);
    for (node, folding) in foldings.iter().enumerate().filter(|(_, folding)| **folding != Folding::Kept) {
        let cost = added(&mut walk, |walk| update::fold(walk, wiring, node, *folding));
        once.push(Part::new(format!("{} folded", model.nodes[node].name), cost));
    }
    let headers = walk.header_bytes();
    if headers > 0.0 {
        once.push(Part::new("headers", Cost { bytes: headers, rounds: 0.0 }));
    }
    walk.begin(rows);
    for (node, layer) in model.nodes.iter().enumerate() {
        let cost = added(&mut walk, |walk| match foldings[node] {
            Folding::Scale => walk.product(walk.each(wiring.output(node).len())),
            _ => pass.forward(walk, node, false),
        });
        let (gemms, products) = products(model, wiring, node, rows);
        block.push(Part { gemms, products, ..Part::new(name(&layer.name, wiring, node), cost) });
    }
    block.push(Part::new("headers", Cost { bytes: walk.header_bytes() - headers, rounds: 0.0 }));
    Inference { once, block }
}

/// Bytes of memory that a training takes for each row of a batch: what layers keep for their way back, and what the
/// largest of them has in flight.
#[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
pub(crate) fn row_memory(model: &Model) -> (f64, f64) {
    let wiring = model.wiring().expect("a network that was checked");
    let kept: f64 = (0..model.nodes.len()).map(|node| layers::kept_bytes(model, &wiring, node)).sum();
    (kept, IN_FLIGHT_BYTES * widest(model, &wiring) as f64)
}

/// Bytes of memory that an inference takes for each row of a block.
#[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
pub(crate) fn inference_row_memory(model: &Model) -> f64 {
    let wiring = model.wiring().expect("a network that was checked");
    IN_FLIGHT_INFERENCE_BYTES * widest(model, &wiring) as f64
}

/// Numbers that the widest layer reads or makes of a row.
fn widest(model: &Model, wiring: &Wiring) -> usize {
    let nodes = 0..model.nodes.len();
    nodes.map(|node| wiring.output(node).len().max(wiring.input(node).len())).max().unwrap_or(0)
}

fn name(layer: &str, wiring: &Wiring, node: usize) -> String {
    format!("{layer} -> {}", wiring.output(node))
}

/// What a part of a walk adds.
fn added(walk: &mut Walk, part: impl FnOnce(&mut Walk)) -> Cost {
    let before = walk.cost();
    part(walk);
    walk.cost() - before
}

/// Products of a node's forward pass, and their multiply-adds.
#[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn products(model: &Model, wiring: &Wiring, node: usize, rows: usize) -> (usize, f64) {
    let (from, to) = (wiring.input(node), wiring.output(node));
    let each = match model.nodes[node].layer {
        Layer::Linear { .. } => to.len() * from.channels,
        Layer::Conv(conv) => to.len() * conv.kernel[0] * conv.kernel[1] * from.channels / conv.groups,
        Layer::ConvTranspose { conv, .. } => from.len() * conv.kernel[0] * conv.kernel[1] * to.channels / conv.groups,
        _ => return (0, 0.0),
    };
    (1, each as f64 * rows as f64)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use shared::fixed::FixedPoint;
    use shared::job::Truncation;
    use shared::model::{Loss, ModelName, Optimizer, Shape};

    use super::walk::Sizes;
    use super::*;

    /// A line of what the party's tests counted.
    #[derive(Deserialize)]
    struct Counted {
        name: String,
        rows: usize,
        protocol: ProtocolSpec,
        model: Model,
        step_bytes: usize,
        step_rounds: u32,
        inference_bytes: Option<usize>,
        inference_rounds: Option<u32>,
    }

    #[test]
    fn every_layer_costs_what_the_parties_count() {
        let lines = include_str!("../../party-node/tests/data/layer-costs.jsonl");
        let mut wrong = Vec::new();
        for line in lines.lines() {
            let counted: Counted = serde_json::from_str(line).unwrap();
            let wiring = &counted.model.wiring().unwrap();
            let pass = Pass { model: &counted.model, wiring, rows: counted.rows };
            let nodes = 0..counted.model.nodes.len();
            let mut walk = Walk::new(&counted.protocol);
            walk.begin(counted.rows);
            nodes.clone().for_each(|node| pass.forward(&mut walk, node, true));
            pass.loss(&mut walk);
            let reached = pass.gradients();
            nodes.clone().rev().filter(|node| reached[*node]).for_each(|node| pass.backward(&mut walk, node));
            update::averages(&mut walk, wiring);
            let step = (walk.payload(), walk.cost().rounds);
            if step != (counted.step_bytes, f64::from(counted.step_rounds)) {
                let counted = (counted.step_bytes, counted.step_rounds);
                wrong.push(format!("{}: step {step:?}, counted {counted:?}", line.split('"').nth(3).unwrap()));
            }
            let (Some(bytes), Some(rounds)) = (counted.inference_bytes, counted.inference_rounds) else { continue };
            let mut walk = Walk::new(&counted.protocol);
            walk.begin(counted.rows);
            nodes.for_each(|node| pass.forward(&mut walk, node, false));
            if (walk.payload(), walk.cost().rounds) != (bytes, f64::from(rounds)) {
                wrong.push(format!(
                    "{}: inference {} {:?}, counted {bytes} {rounds}",
                    counted.name,
                    walk.payload(),
                    walk.cost()
                ));
            }
        }
        assert!(wrong.is_empty() && lines.lines().count() > 40, "{}", wrong.join("\n"));
    }

    /// The figures of the executable specification.
    #[test]
    fn prices_are_those_of_the_specification() {
        let close = |protocol: &ProtocolSpec, operation: fn(&mut Walk, Sizes), bytes: f64, rounds: f64| {
            let mut walk = Walk::new(protocol);
            walk.begin(3 * 6400);
            // So that helpers are ahead.
            walk.product(walk.each(1));
            let cost = added(&mut walk, |walk| operation(walk, walk.each(1)));
            assert!((cost.bytes / 19_200.0 - bytes).abs() < 0.006 && cost.rounds == rounds, "{cost:?}");
        };
        let plain = ProtocolSpec::default();
        close(&plain, Walk::product, 10.125, 2.0);
        close(&plain, Walk::sign, 6.58, 5.0);
        close(&plain, Walk::relu, 17.25, 6.0);
        close(&plain, Walk::inject_again, 8.0, 1.0);
        close(&plain, Walk::sigmoid, 59.25, 6.0);
        close(&ProtocolSpec { compare_bits: 64, ..plain }, Walk::relu, 24.58, 7.0);
        close(&ProtocolSpec { round_trip_ms: 2, ..plain }, Walk::relu, 17.83, 4.0);
        close(&ProtocolSpec { trunc: Truncation::Fast, ..plain }, Walk::product, 8.0, 1.0);
        close(&ProtocolSpec { fraction_bits: FixedPoint::new(20).unwrap(), ..plain }, Walk::product, 10.625, 2.0);
    }

    /// Measured over QUIC with one lane: `bench` of w2 (also with Adam, and with clipped gradients and Nesterov's
    /// momentum), w3 and resnet18; `run` on digits with full batches, and on breast-cancer.
    #[test]
    fn predictions_are_within_a_hundredth_of_measurements() {
        let train = |batch, lr| TrainSpec { batch, lr, ..TrainSpec::default() };
        let network = |inputs, hidden: &[usize]| Model::mlp(inputs, hidden, 10, Loss::SoftmaxCrossEntropy);
        let named = |name: ModelName, input| name.build(input, &[], 10, Loss::SoftmaxCrossEntropy).pool_before_relu();
        let w2 = network(784, &[128, 128]);
        let adam = TrainSpec { optimizer: Optimizer::Adam, ..train(128, 0.01) };
        let clipped = TrainSpec { momentum: 0.9, nesterov: true, clip: Some(1.0), ..train(128, 0.1) };
        let cases = [
            (w2.clone(), train(128, 0.1), 3_198_829.0, 51.0),
            (w2.clone(), adam, 34_648_359.0, 81.0),
            (w2, clipped, 8_421_999.0, 59.0),
            (network(64, &[64]), train(64, 0.1), 343e3, 40.0),
            (Model::logistic(30), train(65, 0.5), 6.5e3, 10.0),
            (named(ModelName::Lenet, Shape::image(1, 28, 28)), train(128, 0.1), 80_072_034.0, 90.0),
            (named(ModelName::Resnet18, Shape::image(3, 32, 32)), train(8, 0.1), 456_344_367.0, 1154.0),
        ];
        for (model, train, bytes, rounds) in cases {
            let parts = step(&model, &train, &ProtocolSpec::default());
            let sum = parts.iter().fold(Cost::default(), |sum, part| sum + part.cost);
            assert!((sum.bytes / bytes - 1.0).abs() < 0.01, "{sum:?} where {bytes} were sent");
            assert!((sum.rounds - rounds).abs() < 0.5, "{sum:?} where {rounds} were counted");
        }
    }

    /// Measured over QUIC with one lane: `bench w3 --only w3-infer`.
    #[test]
    fn a_planned_inference_is_within_a_hundredth_of_the_measurement() {
        let model = ModelName::Lenet.build(Shape::image(1, 28, 28), &[], 10, Loss::SoftmaxCrossEntropy);
        let Inference { once, block } = inference(&model.pool_before_relu(), 128, &ProtocolSpec::default());
        let sum = block.iter().fold(Cost::default(), |sum, part| sum + part.cost);
        assert!(once.is_empty() && (sum.bytes / 53.35e6 - 1.0).abs() < 0.01, "{sum:?}");
        assert!((sum.rounds - 50.0).abs() < 0.5, "{sum:?}");
    }

    /// Measured with lanes that have a batch of 128 each: a party's lanes share out the update.
    #[test]
    fn lanes_send_what_was_measured() {
        let model = Model::mlp(784, &[128, 128], 10, Loss::SoftmaxCrossEntropy);
        for (lanes, bytes) in [(1, 3_198_829.0), (2, 4_889_389.0), (4, 8_255_891.0)] {
            let train = TrainSpec { batch: 128 * lanes, lr: 0.1, ..TrainSpec::default() };
            let parts = lane_step(&model, &train, &ProtocolSpec::default(), lanes);
            let sum = parts.iter().fold(Cost::default(), |sum, part| sum + part.cost);
            #[allow(clippy::cast_precision_loss, reason = "a small number")]
            let predicted = lanes as f64 * sum.bytes;
            assert!((predicted / bytes - 1.0).abs() < 0.005, "{lanes} lanes: {predicted} where {bytes} were sent");
            assert_eq!(sum.rounds, 51.0);
        }
    }

    #[test]
    fn batch_norms_are_folded_before_inference() {
        let model = ModelName::Resnet18.build(Shape::image(3, 32, 32), &[], 10, Loss::SoftmaxCrossEntropy);
        let Inference { once, block } = inference(&model, 8, &ProtocolSpec::default());
        assert_eq!(once.iter().filter(|part| part.name.ends_with("folded")).count(), 20);
        let norm = block.iter().find(|part| part.name.starts_with("batch-norm-1 ->")).unwrap();
        assert_eq!(norm.cost, Cost::default());
        let training = step(&model, &TrainSpec { batch: 8, ..TrainSpec::default() }, &ProtocolSpec::default());
        assert_eq!(block[0].products * 2.0, training[0].products);
        assert_eq!((training[3].gemms, training[3].products), (3, 3.0 * block[3].products));
    }
}
