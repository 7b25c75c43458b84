//! How a model is trained: loss, optimiser, batches. Data only, and all of it public.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::public_stream;

/// What training minimises, averaged over the batch. Each takes the raw scores of the last layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Sigmoid, then binary cross-entropy; one target column in {0, 1}.
    BinaryCrossEntropy,
    /// Softmax, then cross-entropy; one-hot targets.
    SoftmaxCrossEntropy,
    /// Half the squared difference; any target columns.
    MeanSquared,
    /// The magnitude of the difference; any target columns.
    MeanAbsolute,
}

impl Loss {
    /// Whether it compares scores with a number instead of a class.
    pub fn is_regression(self) -> bool {
        matches!(self, Self::MeanSquared | Self::MeanAbsolute)
    }
}

/// How a model is trained.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSpec {
    /// What turns gradients into steps.
    pub optimizer: Optimizer,
    /// Passes over the training data.
    pub epochs: u32,
    /// Samples per step, over all lanes together.
    pub batch: usize,
    /// Learning rate.
    pub lr: f64,
    /// Momentum in [0, 1).
    pub momentum: f64,
    /// Nesterov's form of momentum.
    pub nesterov: bool,
    /// L2 penalty, added to the gradient as `weight_decay * w`.
    pub weight_decay: f64,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// Gradients are clipped to +- this value; none by default.
    pub clip: Option<f64>,
    /// Decay of Adam's mean of gradients, in [0, 1).
    pub beta1: f64,
    /// Decay of Adam's mean of squared gradients, in [0, 1).
    pub beta2: f64,
    /// Added to the root of Adam's mean of squared gradients.
    pub epsilon: f64,
    /// Share of the target that is spread evenly over all classes, in [0, 1).
    pub label_smoothing: f64,
    /// Seed of initial weights and batch order. Public.
    pub seed: u64,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::Sgd,
            epochs: 20,
            batch: 64,
            lr: 0.5,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            schedule: Schedule::Constant,
            clip: None,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            label_smoothing: 0.0,
            seed: 1,
        }
    }
}

/// What turns gradients into steps, as PyTorch's classes of these names do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Gradient descent, with momentum if asked for.
    #[default]
    Sgd,
    /// Mean gradient over the root of the mean squared gradient; `weight_decay` is added to the gradient.
    Adam,
    /// Adam with the weights shrunk by `lr weight_decay` each step instead.
    Adamw,
}

/// Learning rate over time.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Always `lr`.
    #[default]
    Constant,
    /// Multiplied by `factor` after every `every` epochs.
    Step {
        /// Epochs between changes.
        every: u32,
        /// What `lr` is multiplied by.
        factor: f64,
    },
    /// Half a cosine from `lr` down to zero over all epochs.
    Cosine,
}

impl TrainSpec {
    /// Learning rate during an epoch. All parties fold it into secret sums, so it is computed with operations that give
    /// the same bits on every machine.
    pub fn learning_rate(&self, epoch: u32) -> f64 {
        match self.schedule {
            Schedule::Constant => self.lr,
            Schedule::Step { every, factor } => (0..epoch / every.max(1)).fold(self.lr, |lr, _| lr * factor),
            Schedule::Cosine => {
                let progress = f64::from(epoch) / f64::from(self.epochs.max(1));
                // (1 + cos x) / 2 = cos^2 (x/2) = 1 - sin^2 (x/2)
                let sine = portable_sine(std::f64::consts::FRAC_PI_2 * progress);
                self.lr * (1.0 - sine * sine)
            }
        }
    }

    /// The batches of an epoch: every row once, in a public random order; the last batch may be smaller.
    pub fn batches(&self, epoch: u32, rows: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..rows).collect();
        order.shuffle(&mut public_stream(self.seed, u64::from(epoch)));
        order.chunks(self.batch.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// Steps of the whole training.
    pub fn steps(&self, rows: usize) -> usize {
        rows.div_ceil(self.batch.max(1)) * self.epochs as usize
    }
}

/// Sine of an angle in [0, pi/2] to 1e-15, with products and sums alone: the library's may differ between machines.
fn portable_sine(x: f64) -> f64 {
    let term = |(n, term): (f64, f64)| (n + 2.0, -term * x * x / ((n + 1.0) * (n + 2.0)));
    std::iter::successors(Some((1.0, x)), |&last| Some(term(last))).take(12).map(|(_, term)| term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_every_row_once() {
        let spec = TrainSpec { batch: 64, ..TrainSpec::default() };
        let batches = spec.batches(3, 455);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 64, 64, 64, 64, 64, 7]);
        let mut rows = batches.concat();
        rows.sort_unstable();
        assert_eq!(rows, (0..455).collect::<Vec<_>>());
        assert_ne!(batches, spec.batches(4, 455));
    }

    #[test]
    fn schedules_start_at_lr_and_fall() {
        let spec = |schedule| TrainSpec { epochs: 10, lr: 0.1, schedule, ..TrainSpec::default() };
        for epoch in 0..10 {
            let want = 0.05 * (1.0 + (std::f64::consts::PI * f64::from(epoch) / 10.0).cos());
            assert!((spec(Schedule::Cosine).learning_rate(epoch) - want).abs() < 1e-15);
        }
        assert!((spec(Schedule::Step { every: 3, factor: 0.5 }).learning_rate(7) - 0.025).abs() < 1e-12);
        assert!((spec(Schedule::Constant).learning_rate(9) - 0.1).abs() < 1e-12);
    }
}
