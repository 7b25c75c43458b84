//! How large a run's numbers get, layer by layer, and where a run on shares would leave its ranges.

use serde::Serialize;
use shared::job::ProtocolSpec;
use shared::model::{Layer, Model, Source};

/// The numbers seen: infinite bounds once one of them was not finite.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Range {
    /// Smallest; 0 before any was seen.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Range {
    /// Furthest from zero.
    pub fn largest(self) -> f64 {
        self.max.max(-self.min)
    }

    fn of(values: &[f64]) -> Option<Self> {
        let (mut range, mut poison) = (Self { min: *values.first()?, max: values[0] }, 0.0);
        for &value in values {
            range = Self { min: range.min.min(value), max: range.max.max(value) };
            poison += value * 0.0;
        }
        // Zero times what is not finite is no number, and stays none in the sum.
        let unbounded = Self { min: f64::NEG_INFINITY, max: f64::INFINITY };
        Some(if poison.is_nan() { unbounded } else { range })
    }

    /// Widens a range by numbers.
    pub fn see(range: &mut Option<Self>, values: &[f64]) {
        let Some(seen) = Self::of(values) else { return };
        *range = Some(range.map_or(seen, |range| Self { min: range.min.min(seen.min), max: range.max.max(seen.max) }));
    }
}

/// What one layer's numbers were over a run, in training and test.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct LayerRanges {
    /// Name of the layer.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// Its results.
    pub results: Option<Range>,
    /// Derivatives of a sample's loss by its results.
    pub gradients: Option<Range>,
    /// Its weights and biases, or scales and shifts.
    pub weights: Option<Range>,
    /// Variances that it divides by.
    pub variances: Option<Range>,
}

impl LayerRanges {
    /// Of every layer, before a run.
    pub(crate) fn of(model: &Model) -> Vec<Self> {
        let of =
            |node: &shared::model::Node| Self { name: node.name.clone(), kind: node.layer.kind(), ..Self::default() };
        model.nodes.iter().map(of).collect()
    }
}

/// Magnitude below which comparisons of differences are exact: both operands below half the window.
pub fn activation_limit(protocol: &ProtocolSpec) -> f64 {
    // With the 64-bit window products bound the range instead.
    protocol.comparable_max().min(product_limit(protocol))
}

/// Magnitude of sums of products that truncation bears: `|xy| <= 2^61` at twice the fraction bits.
fn product_limit(protocol: &ProtocolSpec) -> f64 {
    f64::from(61 - 2 * protocol.fraction_bits.bits()).exp2()
}

/// A layer's numbers that a run on shares could not bear.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Excess {
    /// Name of the layer.
    pub layer: String,
    /// Which numbers: `results`, `gradients`, `weights` or `variances`.
    pub numbers: &'static str,
    /// Their largest magnitude.
    pub largest: f64,
    /// Below what it must stay.
    pub limit: f64,
}

impl Excess {
    /// For people, with what to do.
    pub fn text(&self) -> String {
        let Self { layer, numbers, largest, limit } = self;
        let numbers = if *numbers == "results" { "activations" } else { *numbers };
        format!(
            "in plaintext, {numbers} of layer {layer:?} reach {largest:.3e}; computing is exact below {limit} only: \
             lower train.lr, set train.clip, or set fewer protocol.fraction_bits or protocol.compare_bits=64"
        )
    }
}

/// Below what each layer's results must stay: what is compared within the window of comparisons, what is a sum of
/// products within the range of truncation. Scores are compared by losses and metrics.
pub fn result_limits(model: &Model, protocol: &ProtocolSpec) -> Vec<f64> {
    let mut compared = vec![false; model.nodes.len()];
    compared.last_mut().into_iter().for_each(|scores| *scores = true);
    for node in model.nodes.iter().filter(|node| compares(&node.layer)) {
        for source in &node.inputs {
            if let Source::Node(earlier) = source {
                compared[*earlier] = true;
            }
        }
    }
    let limit = |compared| if compared { activation_limit(protocol) } else { product_limit(protocol) };
    compared.into_iter().map(limit).collect()
}

/// Whether a layer compares its inputs, with each other or with constants.
fn compares(layer: &Layer) -> bool {
    matches!(
        layer,
        Layer::MaxPool(_)
            | Layer::Relu
            | Layer::Clip { .. }
            | Layer::LeakyRelu { .. }
            | Layer::Gelu
            | Layer::Silu
            | Layer::Softplus
            | Layer::Sigmoid
            | Layer::Tanh
            | Layer::Softmax
            | Layer::LogSoftmax
    )
}

/// Everything that a run on shares could not bear, layer by layer.
pub fn excesses(model: &Model, ranges: &[LayerRanges], protocol: &ProtocolSpec) -> Vec<Excess> {
    let (product, limits) = (product_limit(protocol), result_limits(model, protocol));
    let of_layer = |(layer, limit): (&LayerRanges, f64)| {
        let numbers = [
            ("results", layer.results, limit),
            ("gradients", layer.gradients, product),
            ("weights", layer.weights, product),
            // Roots are made for the range that data must keep to.
            ("variances", layer.variances, protocol.magnitude_max().min(product)),
        ];
        let name = layer.name.clone();
        numbers.into_iter().filter_map(move |(numbers, range, limit)| {
            let largest = range?.largest();
            (largest >= limit).then(|| Excess { layer: name.clone(), numbers, largest, limit })
        })
    };
    ranges.iter().zip(limits).flat_map(of_layer).collect()
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;
    use shared::model::{Loss, Pool, Shape};

    use super::*;

    fn protocol(bits: u32, compare_bits: u32) -> ProtocolSpec {
        let fraction_bits = FixedPoint::new(bits).unwrap();
        ProtocolSpec { fraction_bits, compare_bits, ..ProtocolSpec::default() }
    }

    #[test]
    fn the_limit_is_half_the_window_or_that_of_products() {
        for (bits, compare_bits, exponent) in [(16, 32, 14), (20, 32, 10), (8, 32, 22), (16, 64, 29), (20, 64, 21)] {
            let limit = activation_limit(&protocol(bits, compare_bits));
            assert!((limit - f64::from(1 << exponent)).abs() < 1e-9, "{bits} {compare_bits}");
        }
    }

    #[test]
    fn ranges_widen_and_know_what_is_no_number() {
        let mut range = None;
        Range::see(&mut range, &[]);
        assert_eq!(range, None);
        Range::see(&mut range, &[1.0, 3.0]);
        Range::see(&mut range, &[-7.0, 2.0]);
        assert_eq!(range, Some(Range { min: -7.0, max: 3.0 }));
        assert_eq!(range.unwrap().largest(), 7.0);
        Range::see(&mut range, &[0.0, f64::NAN]);
        assert_eq!(range.unwrap().largest(), f64::INFINITY);
    }

    #[test]
    fn what_is_compared_has_less_room_than_what_is_multiplied() {
        let layers = [
            Layer::Linear { outputs: 4, bias: true },
            Layer::Scale,
            Layer::MaxPool(Pool::square(1)),
            Layer::Linear { outputs: 1, bias: true },
        ];
        let model = Model::sequence(Shape::vector(3), &layers, Loss::MeanSquared);
        let protocol = protocol(16, 32);
        let (compared, product) = (14.0_f64.exp2(), 29.0_f64.exp2());
        assert_eq!(result_limits(&model, &protocol), [product, compared, product, compared]);

        let mut ranges = LayerRanges::of(&model);
        let large = Some(Range { min: -20_000.0, max: 1.0 });
        ranges.iter_mut().for_each(|layer| layer.results = large);
        ranges[0].gradients = Some(Range { min: 0.0, max: 6e8 });
        ranges[1].variances = Some(Range { min: 0.0, max: 16_384.0 });
        let found: Vec<_> = excesses(&model, &ranges, &protocol).into_iter().map(|e| (e.layer, e.numbers)).collect();
        let expected =
            [("linear-1", "gradients"), ("scale-1", "results"), ("scale-1", "variances"), ("linear-2", "results")];
        assert_eq!(found, expected.map(|(layer, numbers)| (layer.to_owned(), numbers)));
    }
}
