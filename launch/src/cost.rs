//! What a training step costs each party, before it runs: bytes, rounds, products. Per element of a step's result and
//! mean over the parties, as the protocol tables and `reference/protocols.py` of the design state them.

use std::ops::{Add, AddAssign};

use shared::job::{ProtocolSpec, Truncation};
use shared::model::{Layer, Loss, Model};

/// Squarings of the exponential (limit form), each a truncated product.
const EXP_SQUARINGS: f64 = 8.0;
/// Truncated products of a reciprocal: start value and Newton steps.
const RECIPROCAL_PRODUCTS: f64 = 8.0;
/// Truncated products, and sign tests, of a sigmoid or tanh.
const SIGMOID_PRODUCTS: f64 = EXP_SQUARINGS + RECIPROCAL_PRODUCTS;

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
    product: Cost,
    sign: Cost,
    inject: Cost,
    inject_again: Cost,
}

impl Prices {
    pub(crate) fn new(protocol: &ProtocolSpec) -> Self {
        let dropped = f64::from(protocol.fraction_bits.bits() + 1);
        let product = match protocol.trunc {
            // 8 + 8 for the opening, 8 for the helper's share, three times F bits for the wrap; two hops.
            Truncation::Exact => Cost::new((24.0 + 3.0 * dropped / 8.0) / 3.0, 2.0),
            Truncation::Fast => Cost::new(8.0, 1.0),
        };
        // Leaves of 4 + 9 x 3 bits at 32, 21 x 3 at 64.
        let sign = if protocol.compare_bits >= 64 { Cost::new(167.0 / 12.0, 6.0) } else { Cost::new(79.0 / 12.0, 5.0) };
        Self { product, sign, inject: Cost::new(32.0 / 3.0, 1.0), inject_again: Cost::new(8.0, 1.0) }
    }

    fn relu(&self) -> Cost {
        self.sign + self.inject
    }

    fn sigmoid(&self) -> Cost {
        self.sign + self.inject + self.product.times(SIGMOID_PRODUCTS)
    }

    fn activation(&self, layer: Layer) -> Cost {
        match layer {
            Layer::Relu => self.relu(),
            Layer::Sigmoid | Layer::Tanh => self.sigmoid(),
            Layer::Linear { .. } => Cost::default(),
        }
    }

    fn activation_backward(&self, layer: Layer) -> Cost {
        match layer {
            Layer::Relu => self.inject_again,
            Layer::Sigmoid | Layer::Tanh => self.product.times(2.0),
            Layer::Linear { .. } => Cost::default(),
        }
    }

    /// Gradient of the loss by the scores.
    fn loss(&self, loss: Loss, rows: f64, outputs: f64) -> Cost {
        match loss {
            Loss::MeanSquared => Cost::default(),
            Loss::BinaryCrossEntropy => self.sigmoid().of(rows * outputs),
            Loss::SoftmaxCrossEntropy => {
                let maxima = (self.relu().of(rows * (outputs - 1.0))).alongside();
                let levels = Cost::new(0.0, self.relu().rounds * outputs.log2().ceil());
                let exponentials = self.product.of(rows * outputs).times(EXP_SQUARINGS);
                let reciprocals = self.product.of(rows).times(RECIPROCAL_PRODUCTS);
                maxima + levels + exponentials + reciprocals + self.product.of(rows * outputs)
            }
        }
    }
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
pub(crate) fn step(model: &Model, protocol: &ProtocolSpec, batch: usize) -> Vec<Part> {
    let (prices, rows) = (Prices::new(protocol), batch as f64);
    let (mut parts, mut width, mut linear) = (Vec::new(), model.inputs as f64, 0);
    for (index, &layer) in model.layers.iter().enumerate() {
        match layer {
            Layer::Linear { outputs } => {
                let outputs = outputs as f64;
                let forward = prices.product.of(rows * outputs);
                // The weight gradient goes beside the next layer's work; the first layer has no gradient to hand on.
                let weights = prices.product.of((width + 1.0) * outputs);
                let weights = if linear == 0 { weights } else { weights.alongside() };
                let inputs = if linear == 0 { Cost::default() } else { prices.product.of(rows * width) };
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
    parts
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;

    use super::*;

    /// The figures of `reference/protocols.py`'s table at 16 fraction bits.
    #[test]
    fn prices_are_those_of_the_specification() {
        let prices = Prices::new(&ProtocolSpec::default());
        let close = |cost: Cost, bytes: f64, rounds: f64| {
            assert!((cost.bytes - bytes).abs() < 0.006 && cost.rounds == rounds, "{cost:?}");
        };
        close(prices.product, 10.125, 2.0);
        close(prices.relu(), 17.25, 6.0);
        close(prices.inject_again, 8.0, 1.0);
        let wide = Prices::new(&ProtocolSpec { compare_bits: 64, ..ProtocolSpec::default() });
        close(wide.relu(), 24.58, 7.0);
        let fast = Prices::new(&ProtocolSpec { trunc: Truncation::Fast, ..ProtocolSpec::default() });
        close(fast.product, 8.0, 1.0);
        let fine = ProtocolSpec { fraction_bits: FixedPoint::new(20).unwrap(), ..ProtocolSpec::default() };
        close(Prices::new(&fine).product, 10.625, 2.0);
    }

    #[test]
    fn the_reference_network_stays_within_its_bar() {
        let model = Model::mlp(784, &[128, 128], 10, Loss::SoftmaxCrossEntropy);
        let parts = step(&model, &ProtocolSpec::default(), 128);
        let sum = parts.iter().fold(Cost::default(), |sum, part| sum + part.cost);
        assert!(sum.bytes > 2.0e6 && sum.bytes < 3.3e6, "{sum:?}");
        assert!(sum.rounds > 20.0 && sum.rounds < 120.0, "{sum:?}");
        assert_eq!(parts.iter().map(|part| part.gemms).sum::<usize>(), 8);
    }
}
