//! Models and how they are trained: architecture and hyper-parameters, data only. All of it is public.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// A feed-forward network and the loss that trains it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Model {
    /// Features of one sample.
    pub inputs: usize,
    /// Applied first to last. The last layer gives the scores that the loss (and nobody else) sees.
    pub layers: Vec<Layer>,
    /// What training minimises.
    pub loss: Loss,
}

/// One layer of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// `x W + b` with `W` of shape inputs x outputs.
    Linear {
        /// Width of the result.
        outputs: usize,
    },
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
}

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
}

impl Model {
    /// Logistic regression.
    pub fn logistic(inputs: usize) -> Self {
        Self { inputs, layers: vec![Layer::Linear { outputs: 1 }], loss: Loss::BinaryCrossEntropy }
    }

    /// Linear layers of these widths with ReLU between them.
    pub fn mlp(inputs: usize, hidden: &[usize], outputs: usize, loss: Loss) -> Self {
        let mut layers: Vec<_> = hidden.iter().flat_map(|&outputs| [Layer::Linear { outputs }, Layer::Relu]).collect();
        layers.push(Layer::Linear { outputs });
        Self { inputs, layers, loss }
    }

    /// Inputs and outputs of each linear layer, in order.
    pub fn linear_shapes(&self) -> Vec<(usize, usize)> {
        let mut width = self.inputs;
        let widths = self.layers.iter().filter_map(|layer| match layer {
            Layer::Linear { outputs } => Some((std::mem::replace(&mut width, *outputs), *outputs)),
            _ => None,
        });
        widths.collect()
    }

    /// Width of the scores.
    pub fn outputs(&self) -> usize {
        self.linear_shapes().last().map_or(self.inputs, |&(_, outputs)| outputs)
    }

    /// Weights and biases of all linear layers.
    pub fn parameters(&self) -> usize {
        self.linear_shapes().iter().map(|(inputs, outputs)| (inputs + 1) * outputs).sum()
    }

    /// Initial parameters, layer by layer: `W` row-major, then `b`. Uniform within +-1/sqrt(inputs) as PyTorch does;
    /// a single layer starts at zero. Public: the seed is part of the job.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f64> {
        let mut stream = public_stream(seed, u64::MAX);
        let shapes = self.linear_shapes();
        let mut parameters = Vec::with_capacity(self.parameters());
        for (inputs, outputs) in &shapes {
            #[allow(clippy::cast_precision_loss, reason = "a layer has far fewer than 2^52 inputs")]
            let bound = if shapes.len() == 1 { 0.0 } else { 1.0 / (*inputs as f64).sqrt() };
            parameters.extend((0..(inputs + 1) * outputs).map(|_| bound * (2.0 * stream.random::<f64>() - 1.0)));
        }
        parameters
    }
}

/// How a model is trained.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSpec {
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
    /// Seed of initial weights and batch order. Public.
    pub seed: u64,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            epochs: 20,
            batch: 64,
            lr: 0.5,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            schedule: Schedule::Constant,
            clip: None,
            seed: 1,
        }
    }
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

/// Public randomness of a job: same seed and use, same stream.
fn public_stream(seed: u64, purpose: u64) -> ChaCha12Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&purpose.to_le_bytes());
    ChaCha12Rng::from_seed(key)
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
    fn shapes_follow_the_layers() {
        let model = Model::mlp(784, &[128, 128], 10, Loss::SoftmaxCrossEntropy);
        assert_eq!(model.linear_shapes(), [(784, 128), (128, 128), (128, 10)]);
        assert_eq!(model.parameters(), 784 * 128 + 128 + 128 * 128 + 128 + 1280 + 10);
        assert_eq!(model.initial_parameters(1).len(), model.parameters());
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
