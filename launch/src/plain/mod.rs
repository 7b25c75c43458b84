//! The plaintext twin of a training run: same model, initial weights, batches, masks and optimiser, no secrecy. In
//! float64 its metrics stand beside those under MPC, and it warns when numbers would leave the ranges that the
//! protocols are made for; in fixed point it shows what rounding alone does.

mod shadow;

use std::time::Instant;

use plaintext::{Arithmetic, LayerRanges, Network, Optimiser, Pass};
use shared::model::{Model, TrainSpec};

use crate::data::{Dataset, Rows, Task, Weights};
use crate::metrics::{accuracy, auroc, confusion, mean_squared};

pub(crate) use shadow::Shadow;

/// What the plaintext run found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Whether all steps were done; figures of a run that ran out of time are of no use but the ranges.
    pub(crate) complete: bool,
    /// Share of test rows classified correctly; none for regression.
    pub(crate) accuracy: Option<f64>,
    /// Area under the ROC curve; two classes only.
    pub(crate) auroc: Option<f64>,
    /// Mean squared error over the test rows; regression only.
    pub(crate) loss: Option<f64>,
    /// Test rows of each class (outer), by the class that they were taken for (inner); none for regression.
    pub(crate) confusion: Option<Vec<Vec<usize>>>,
    /// How large the numbers of each layer got, in training and test.
    pub(crate) ranges: Vec<LayerRanges>,
    /// Parameters after training.
    pub(crate) parameters: Vec<f64>,
}

/// Trains and evaluates in float64.
pub(crate) fn run(model: &Model, spec: &TrainSpec, data: &Dataset) -> Outcome {
    run_until(model, spec, data, None)
}

/// As [`run`], from the numbers of a model instead of those of the job's seed, if there are any.
pub(crate) fn run_from(
    start: Option<Weights<'_>>,
    model: &Model,
    spec: &TrainSpec,
    data: &Dataset,
    deadline: Option<Instant>,
) -> Outcome {
    run_in(Arithmetic::Float, start, model, spec, data, deadline)
}

/// As [`run`], but stops training at the deadline.
pub(crate) fn run_until(model: &Model, spec: &TrainSpec, data: &Dataset, deadline: Option<Instant>) -> Outcome {
    run_in(Arithmetic::Float, None, model, spec, data, deadline)
}

/// As [`run_from`], in this arithmetic.
pub(crate) fn run_in(
    arithmetic: Arithmetic,
    start: Option<Weights<'_>>,
    model: &Model,
    spec: &TrainSpec,
    data: &Dataset,
    deadline: Option<Instant>,
) -> Outcome {
    let (parameters, buffers) = match start {
        Some(start) => (start.parameters.to_vec(), start.buffers.to_vec()),
        None => (model.initial_parameters(spec.seed), model.initial_buffers()),
    };
    let mut network = Network::new(model, parameters, buffers).computing_in(arithmetic);
    let complete = train(&mut network, model, spec, &data.train, deadline);
    let x = network.arithmetic.encode(data.test.x.clone());
    let scores = network.predict(&x, data.test.count);
    let (outputs, y) = (model.outputs(), &data.test.y);
    let classes = data.task != Task::Regression;
    Outcome {
        complete,
        accuracy: classes.then(|| accuracy(&scores, y, outputs)),
        auroc: (data.task == Task::Binary).then(|| auroc(&scores, y)).flatten(),
        loss: (!classes).then(|| mean_squared(&scores, y)),
        confusion: classes.then(|| confusion(&scores, y, outputs)),
        ranges: network.ranges,
        parameters: network.parameters,
    }
}

/// All epochs; false if the deadline came first.
fn train(network: &mut Network<'_>, model: &Model, spec: &TrainSpec, rows: &Rows, deadline: Option<Instant>) -> bool {
    let mut optimiser = Optimiser::new(spec, network.parameters.len());
    let (inputs, outputs, mut step) = (model.inputs(), model.outputs(), 0);
    for epoch in 0..spec.epochs {
        let lr = spec.learning_rate(epoch);
        for batch in spec.batches(epoch, rows.count) {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
            let x = network.arithmetic.encode(gather(&rows.x, inputs, &batch));
            let y = network.arithmetic.encode(gather(&rows.y, outputs, &batch));
            let gradient = network.gradient(&x, &y, batch.len(), Pass::Training { spec, step });
            optimiser.step(&mut network.parameters, gradient, lr, &mut network.arithmetic);
            step += 1;
        }
    }
    true
}

/// The rows of a row-major matrix that a batch names.
fn gather(values: &[f64], width: usize, batch: &[usize]) -> Vec<f64> {
    batch.iter().flat_map(|&row| &values[row * width..(row + 1) * width]).copied().collect()
}

#[cfg(test)]
mod tests;
