//! Whole trainings on real data.

use std::time::Instant;

use plaintext::{Excess, activation_limit, excesses};
use shared::config::{BuiltIn, DataSection};
use shared::fixed::FixedPoint;
use shared::job::ProtocolSpec;
use shared::model::{Layer, Loss, Model, ModelName, Optimizer, Schedule, TrainSpec};

use super::*;
use crate::data;

fn breast_cancer() -> Dataset {
    data::load(&DataSection::default(), &ProtocolSpec::default()).unwrap()
}

fn digits() -> Dataset {
    data::load(&DataSection { set: BuiltIn::Digits, ..DataSection::default() }, &ProtocolSpec::default()).unwrap()
}

fn excesses_of(model: &Model, outcome: &Outcome) -> Vec<Excess> {
    excesses(model, &outcome.ranges, &ProtocolSpec::default())
}

#[test]
fn logistic_regression_learns_breast_cancer() {
    let model = Model::logistic(30);
    let outcome = run(&model, &TrainSpec::default(), &breast_cancer());
    assert!(outcome.accuracy.unwrap() > 0.94, "{outcome:?}");
    assert!(outcome.auroc.unwrap() > 0.98, "{outcome:?}");
    assert_eq!(excesses_of(&model, &outcome), []);
    let confusion = outcome.confusion.unwrap();
    let right = (confusion[0][0] + confusion[1][1]) as f64 / 114.0;
    assert!((right - outcome.accuracy.unwrap()).abs() < 1e-12);
    assert_eq!(confusion.concat().iter().sum::<usize>(), 114);
}

#[test]
fn a_small_network_learns_digits() {
    let spec = TrainSpec { epochs: 15, lr: 0.1, ..TrainSpec::default() };
    let outcome = run(&Model::mlp(64, &[64], 10, Loss::SoftmaxCrossEntropy), &spec, &digits());
    assert!(outcome.accuracy.unwrap() > 0.93, "{outcome:?}");
    assert_eq!(outcome.auroc, None);
}

#[test]
fn a_convolutional_network_learns_digits_with_every_optimiser() {
    let data = digits();
    let model = ModelName::Lenet.build(data.shape, &[], 10, Loss::SoftmaxCrossEntropy).pool_before_relu();
    let adam = TrainSpec { epochs: 3, lr: 0.002, ..TrainSpec::default() };
    let specs = [
        TrainSpec { epochs: 3, lr: 0.05, momentum: 0.9, ..TrainSpec::default() },
        TrainSpec { optimizer: Optimizer::Adam, ..adam.clone() },
        TrainSpec { optimizer: Optimizer::Adamw, weight_decay: 0.01, ..adam },
    ];
    for spec in specs {
        let accuracy = run(&model, &spec, &data).accuracy.unwrap();
        assert!(accuracy > 0.9, "{:?}: {accuracy}", spec.optimizer);
    }
}

#[test]
fn a_network_with_norms_and_dropout_learns_digits() {
    let layers = [
        Layer::Conv(shared::model::Conv::square(8, 3).unbiased()),
        Layer::BatchNorm { epsilon: 1e-5, momentum: 0.1 },
        Layer::Gelu,
        Layer::Flatten,
        Layer::Dropout { probability: 0.1, secret: false },
        Layer::Linear { outputs: 10, bias: true },
    ];
    let data = digits();
    let model = Model::sequence(data.shape, &layers, Loss::SoftmaxCrossEntropy);
    let outcome = run(&model, &TrainSpec { epochs: 3, lr: 0.1, ..TrainSpec::default() }, &data);
    assert!(outcome.accuracy.unwrap() > 0.9, "{:?}", outcome.accuracy);
    let norm = &outcome.ranges[1];
    assert!(norm.variances.unwrap().min >= 0.0 && norm.weights.is_some() && norm.gradients.is_some());
    assert_eq!((norm.name.as_str(), norm.kind, outcome.ranges[2].weights), ("batch-norm-1", "batch-norm", None));
}

#[test]
fn a_run_that_leaves_the_range_is_seen_and_its_layer_named() {
    let spec = TrainSpec { lr: 100.0, epochs: 1, schedule: Schedule::Constant, ..TrainSpec::default() };
    let model = Model { loss: Loss::MeanSquared, ..Model::logistic(30) };
    let outcome = run(&model, &spec, &breast_cancer());
    let excess = excesses_of(&model, &outcome).into_iter().next().unwrap();
    assert!(excess.largest > activation_limit(&ProtocolSpec::default()));
    let text = excess.text();
    assert!(text.contains("activations of layer \"linear-1\"") && text.contains("below 16384 only"), "{text}");
}

#[test]
#[ignore = "takes half an hour or more: cargo test --release -p launch two_thousand -- --ignored --nocapture"]
fn two_thousand_steps_of_fixed_point_do_not_diverge() {
    use rand::Rng;
    let mut stream = shared::model::public_stream(1, 1);
    let images = (0..1280 * 784).map(|_| stream.random::<f64>()).collect();
    let labels: Vec<usize> = (0..1280).map(|_| stream.random_range(0..10)).collect();
    let one_hot = |label: &usize| (0..10).map(|class| f64::from(u8::from(class == *label))).collect::<Vec<_>>();
    let train = Rows { count: 1280, x: images, y: labels.iter().flat_map(one_hot).collect() };
    let data = Dataset { test: train.clone(), train, shape: shared::model::Shape::image(1, 28, 28), ..digits() };
    let model = ModelName::Lenet.build(data.shape, &[], 10, Loss::SoftmaxCrossEntropy).pool_before_relu();
    for epochs in [1, 20, 200] {
        let spec = TrainSpec { epochs, batch: 128, lr: 0.1, ..TrainSpec::default() };
        let exact = run(&model, &spec, &data);
        let fixed = run_in(Arithmetic::fixed(FixedPoint::DEFAULT, 1), None, &model, &spec, &data, None);
        let largest = |outcome: &Outcome| outcome.parameters.iter().map(|w| w.abs()).fold(0.0, f64::max);
        let differences = exact.parameters.iter().zip(&fixed.parameters).map(|(a, b)| (a - b).abs());
        eprintln!(
            "{} steps: weights to {:.4} and {:.4}, apart by {:.2e}; accuracy on what was trained {:?} and {:?}",
            10 * epochs,
            largest(&exact),
            largest(&fixed),
            differences.fold(0.0, f64::max),
            exact.accuracy,
            fixed.accuracy
        );
        assert_eq!(excesses_of(&model, &fixed), []);
        assert!(largest(&fixed) < 2.0 * largest(&exact));
    }
}

#[test]
fn a_deadline_ends_the_run_early() {
    let spec = TrainSpec { epochs: 100_000, ..TrainSpec::default() };
    let outcome = run_until(&Model::logistic(30), &spec, &breast_cancer(), Some(Instant::now()));
    assert!(!outcome.complete);
}

#[test]
fn fixed_point_trains_on_its_grid_and_near_float64() {
    let (data, spec) = (breast_cancer(), TrainSpec { epochs: 5, ..TrainSpec::default() });
    let model = Model::logistic(30);
    let exact = run(&model, &spec, &data);
    let mut last = f64::INFINITY;
    for bits in [10, 14, 18] {
        let fraction = FixedPoint::new(bits).unwrap();
        let outcome = run_in(Arithmetic::fixed(fraction, 1), None, &model, &spec, &data, None);
        assert!(outcome.parameters.iter().all(|w| (w * fraction.scale()).fract() == 0.0), "{bits}");
        let furthest = outcome.parameters.iter().zip(&exact.parameters).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // Each of 40 steps is off by less than one unit, and so is what it was computed from.
        assert!(furthest < 80.0 / fraction.scale() && furthest < last, "{bits}: {furthest}");
        last = furthest;
        assert!((outcome.accuracy.unwrap() - exact.accuracy.unwrap()).abs() < 0.03, "{bits}");
    }
}
