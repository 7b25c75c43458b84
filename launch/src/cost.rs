//! What a training step costs each party, before it runs: bytes, rounds, products. Per element of a step's result and
//! mean over the parties, as the tables in the protocol code and the executable specification state them.

use std::ops::{Add, AddAssign};

use shared::job::{ProtocolSpec, Truncation};
use shared::model::{Layer, Loss, Model, TrainSpec};

/// Headers of the frames that carry a round, mean per party.
const FRAMES_PER_ROUND_BYTES: f64 = 200.0;
/// Significant bits that the optimiser keeps of a public rate, and the most bits by which it widens a truncation.
const RATE_BITS: f64 = 11.0;
const RATE_SHIFT_MAX: f64 = 24.0;

/// Bytes that a party sends (mean of the three), and hops that follow one another.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Cost {
    pub(crate) bytes: f64,
    pub(crate) rounds: f64,
}

impl Cost {
    const fn new(bytes: f64, rounds: f64) -> Self {
        Self { bytes, rounds }
    }

    /// The same for so many elements at once: more bytes, no more rounds.
    fn of(self, elements: f64) -> Self {
        Self { bytes: self.bytes * elements, ..self }
    }

    /// So many times one after the other.
    fn times(self, repeats: f64) -> Self {
        Self { bytes: self.bytes * repeats, rounds: self.rounds * repeats }
    }

    /// Beside something that takes longer: the bytes count, the rounds do not.
    fn alongside(self) -> Self {
        Self { rounds: 0.0, ..self }
    }
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

/// Costs of single operations under a job's protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prices {
    fraction: u32,
    compare_bits: u32,
    trunc: Truncation,
    sign: Cost,
    inject: Cost,
    inject_again: Cost,
}

impl Prices {
    pub(crate) fn new(protocol: &ProtocolSpec) -> Self {
        Self {
            fraction: protocol.fraction_bits.bits(),
            compare_bits: protocol.compare_bits,
            trunc: protocol.trunc,
            sign: carry(protocol.compare_bits - 1),
            inject: Cost::new(32.0 / 3.0, 1.0),
            inject_again: Cost::new(8.0, 1.0),
        }
    }

    /// Dropping so many bits: 8 + 8 bytes for the opening, 8 for the helper's share, three times the bits for the wrap.
    fn truncation(&self, bits: f64) -> Cost {
        match self.trunc {
            Truncation::Exact => Cost::new((24.0 + 3.0 * bits / 8.0) / 3.0, 2.0),
            Truncation::Fast => Cost::new(8.0, 1.0),
        }
    }

    /// A product, back at the job's fraction bits.
    fn product(&self) -> Cost {
        self.truncation(f64::from(self.fraction + 1))
    }

    fn relu(&self) -> Cost {
        self.sign + self.inject
    }

    /// Series on a masked argument, with the signs against both ends of a window of 16 beside it.
    fn sigmoid(&self) -> Cost {
        let series = Cost::new(80.0 / 3.0, 0.0) + self.truncation(f64::from(40 - self.fraction)).alongside();
        series + carries(self.compare_bits - 1, Some(self.fraction + 4)) + Cost::new(40.0 / 3.0, 1.0)
    }

    fn activation(&self, layer: Layer) -> Cost {
        match layer {
            Layer::Relu => self.relu(),
            Layer::Sigmoid | Layer::Tanh => self.sigmoid(),
            _ => Cost::default(),
        }
    }

    fn activation_backward(&self, layer: Layer) -> Cost {
        match layer {
            Layer::Relu => self.inject_again,
            Layer::Sigmoid | Layer::Tanh => self.product().times(2.0),
            _ => Cost::default(),
        }
    }

    /// Gradient of the loss by the scores.
    fn loss(&self, loss: Loss, rows: f64, outputs: f64) -> Cost {
        match loss {
            Loss::MeanSquared | Loss::MeanAbsolute => Cost::default(),
            Loss::BinaryCrossEntropy => self.sigmoid().of(rows * outputs),
            Loss::SoftmaxCrossEntropy => self.softmax(rows, outputs),
        }
    }

    /// Largest of each row by all pairs, exponentials by a table with a sign beside them, division by Goldschmidt steps.
    fn softmax(&self, rows: f64, outputs: f64) -> Cost {
        let pairs = self.sign.of(rows * outputs * (outputs - 1.0) / 2.0);
        let gates = Cost::new(rows * outputs * (outputs - 2.0) / 8.0, (outputs - 1.0).log2().ceil());
        let select = Cost::new(16.0 / 3.0, 1.0).of(rows * (outputs + 1.0));
        let table = Cost::new(16.0 / 3.0, 2.0) + carry(self.fraction + 4);
        let exponentials = table + self.truncation(f64::from(61 - self.fraction)).alongside() + self.sign.alongside();
        let factors = match outputs {
            outputs if outputs <= 3.0 => 3.0,
            outputs if outputs <= 10.0 => 4.0,
            outputs if outputs <= 40.0 => 5.0,
            _ => 6.0,
        };
        let division = Cost::new(12.0 * (factors * (outputs + 1.0) - 1.0) * rows, 2.0 * factors);
        pairs + gates + select + exponentials.of(rows * outputs) + self.inject.of(rows * outputs) + division
    }

    /// Update of one parameter: its gradient is truncated once, with the rates folded in.
    #[allow(clippy::cast_precision_loss, reason = "batches are far below 2^52")]
    fn update(&self, train: &TrainSpec) -> Cost {
        let fraction = f64::from(self.fraction + 1);
        let mean = 1.0 / train.batch as f64;
        let mut rates = vec![if train.clip.is_some() { train.lr } else { train.lr * mean }];
        rates.extend([train.lr * train.weight_decay, train.momentum].into_iter().filter(|rate| *rate != 0.0));
        let step = self.truncation(fraction + rate_shift(&rates));
        let step = if train.nesterov { step + step.alongside() } else { step };
        let clip = self.truncation(fraction + rate_shift(&[mean])) + self.sign + self.sign.alongside();
        let clip = clip + Cost::new(16.0, 1.0);
        if train.clip.is_some() { step + clip } else { step }
    }
}

/// Bits by which public rates widen a truncation; none beyond those that a power of two needs.
fn rate_shift(rates: &[f64]) -> f64 {
    let smallest = rates.iter().map(|rate| rate.abs().log2().floor()).fold(f64::INFINITY, f64::min);
    let shift = (RATE_BITS - smallest).clamp(0.0, RATE_SHIFT_MAX);
    let spare = |rate: &f64| {
        let integer = (rate * shift.exp2()).round();
        (0..24).take_while(|bits| (integer / f64::from(1 << (bits + 1))).fract() == 0.0).count()
    };
    let spare = rates.iter().map(spare).min().unwrap_or(0);
    #[allow(clippy::cast_precision_loss, reason = "at most 24")]
    (shift - spare as f64).max(0.0)
}

/// Carry out of so many low bits.
fn carry(bits: u32) -> Cost {
    carries(bits, None)
}

/// The same, and that of a second number that agrees with the first in so many low bits: leaves of three bits (fours
/// or a two to fit), then a tree of AND gates. What agrees is computed once, and the monomials are dealt once.
#[allow(clippy::cast_precision_loss, reason = "a few hundred bits")]
fn carries(bits: u32, agreeing: Option<u32>) -> Cost {
    let mut sizes = match bits % 3 {
        1 if bits >= 4 => vec![4],
        2 if bits >= 8 => vec![4, 4],
        0 => vec![],
        rest => vec![rest],
    };
    sizes.resize(sizes.len() + ((bits - sizes.iter().sum::<u32>()) / 3) as usize, 3);
    let monomials: u32 = sizes.iter().map(|size| (1 << size) - 1).sum();
    let mut ends: Vec<u32> = (1..=sizes.len()).map(|leaves| sizes[..leaves].iter().sum()).collect();
    let nodes = |end: u32| if agreeing.is_some_and(|agreeing| end > agreeing) { 2 } else { 1 };
    let wires = 2 * ends.iter().copied().map(nodes).sum::<u32>() - nodes(ends[0]);
    let (mut gates, mut depth) = (0, 0);
    while ends.len() > 1 {
        let lowest = nodes(ends[1]);
        gates += 2 * ends.chunks_exact(2).map(|pair| nodes(pair[1])).sum::<u32>() - lowest;
        ends = ends.chunks(2).filter_map(|pair| pair.last().copied()).collect();
        depth += 1;
    }
    Cost::new(f64::from(monomials + 2 * wires + 3 * gates) / 24.0, 1.0 + f64::from(depth))
}

/// One part of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) cost: Cost,
    /// Matrix products that each party computes.
    pub(crate) gemms: usize,
    /// Their multiply-adds.
    pub(crate) products: f64,
}

/// Costs of one training step, part by part.
#[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
pub(crate) fn step(model: &Model, train: &TrainSpec, protocol: &ProtocolSpec) -> Vec<Part> {
    let (prices, rows) = (Prices::new(protocol), train.batch as f64);
    let (mut parts, mut width, mut linear) = (Vec::new(), model.inputs() as f64, 0);
    for (index, layer) in model.nodes.iter().map(|node| node.layer).enumerate() {
        match layer {
            Layer::Linear { outputs, .. } => {
                let outputs = outputs as f64;
                let forward = prices.product().of(rows * outputs);
                // The weight gradient goes beside the next layer's work; the first layer has no gradient to hand on.
                let weights = prices.update(train).of((width + 1.0) * outputs);
                let weights = if linear == 0 { weights } else { weights.alongside() };
                let inputs = if linear == 0 { Cost::default() } else { prices.product().of(rows * width) };
                let gemms = if linear == 0 { 2 } else { 3 };
                linear += 1;
                parts.push(Part {
                    name: format!("layer {} linear {width} -> {outputs}", index + 1),
                    cost: forward + weights + inputs,
                    gemms,
                    products: gemms as f64 * rows * width * outputs,
                });
                width = outputs;
            }
            other => {
                let cost =
                    prices.activation(other).of(rows * width) + prices.activation_backward(other).of(rows * width);
                parts.push(Part { name: format!("layer {} {other:?}", index + 1), cost, gemms: 0, products: 0.0 });
            }
        }
    }
    let cost = prices.loss(model.loss, rows, width);
    parts.push(Part { name: format!("loss {:?}", model.loss), cost, gemms: 0, products: 0.0 });
    let rounds: f64 = parts.iter().map(|part| part.cost.rounds).sum();
    let cost = Cost::new(rounds * FRAMES_PER_ROUND_BYTES, 0.0);
    parts.push(Part { name: "frame headers".into(), cost, gemms: 0, products: 0.0 });
    parts
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;

    use super::*;

    /// The figures of the executable specification at 16 fraction bits.
    #[test]
    fn prices_are_those_of_the_specification() {
        let prices = Prices::new(&ProtocolSpec::default());
        let close = |cost: Cost, bytes: f64, rounds: f64| {
            assert!((cost.bytes - bytes).abs() < 0.006 && cost.rounds == rounds, "{cost:?}");
        };
        close(prices.product(), 10.125, 2.0);
        close(prices.sign, 6.58, 5.0);
        close(prices.relu(), 17.25, 6.0);
        close(prices.inject_again, 8.0, 1.0);
        close(prices.sigmoid(), 59.25, 6.0);
        let wide = Prices::new(&ProtocolSpec { compare_bits: 64, ..ProtocolSpec::default() });
        close(wide.relu(), 24.58, 7.0);
        let fast = Prices::new(&ProtocolSpec { trunc: Truncation::Fast, ..ProtocolSpec::default() });
        close(fast.product(), 8.0, 1.0);
        let fine = ProtocolSpec { fraction_bits: FixedPoint::new(20).unwrap(), ..ProtocolSpec::default() };
        close(Prices::new(&fine).product(), 10.625, 2.0);
    }

    #[test]
    fn rates_that_are_powers_of_two_widen_little() {
        assert_eq!(rate_shift(&[0.5 / 64.0]), 7.0);
        assert_eq!(rate_shift(&[0.1 / 128.0]), 22.0);
        assert_eq!(rate_shift(&[1e-6]), RATE_SHIFT_MAX);
    }

    /// Measured over QUIC with one lane: `bench w2` 3.20 MB and 51 rounds, `run` on digits 343 kB (full batch) and 40,
    /// on breast-cancer with full batches 6.5 kB (65 rows) and 10.
    #[test]
    fn predictions_are_within_a_tenth_of_measurements() {
        let train = |batch, lr| TrainSpec { batch, lr, ..TrainSpec::default() };
        let network = |inputs, hidden: &[usize]| Model::mlp(inputs, hidden, 10, Loss::SoftmaxCrossEntropy);
        let cases = [
            (network(784, &[128, 128]), train(128, 0.1), 3.20e6, 51.0),
            (network(64, &[64]), train(64, 0.1), 343e3, 40.0),
            (Model::logistic(30), train(64, 0.5), 6.4e3, 10.0),
        ];
        for (model, train, bytes, rounds) in cases {
            let parts = step(&model, &train, &ProtocolSpec::default());
            let sum = parts.iter().fold(Cost::default(), |sum, part| sum + part.cost);
            assert!((sum.bytes / bytes - 1.0).abs() < 0.1, "{sum:?} where {bytes} were sent");
            assert!((sum.rounds - rounds).abs() < 0.5, "{sum:?} where {rounds} were counted");
        }
    }
}
