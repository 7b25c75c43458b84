//! Parameters before training. Public: the seed is part of the job.

use rand::Rng;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use super::Model;

impl Model {
    /// Initial parameters, layer by layer: weights (or scales), then biases (or shifts). Uniform within
    /// +-1/sqrt(fan-in) as PyTorch does; a network of a single layer with weights starts at zero; scales start at 1,
    /// shifts at 0.
    ///
    /// # Panics
    /// If the network does not fit together.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f64> {
        let wiring = self.wiring().expect("a network that was checked");
        let mut stream = public_stream(seed, u64::MAX);
        let mut parameters = Vec::with_capacity(wiring.parameters());
        let fans: Vec<_> =
            (0..self.nodes.len()).map(|node| self.nodes[node].layer.fan_in(wiring.input(node))).collect();
        let single = fans.iter().flatten().count() == 1;
        for (node, fan_in) in fans.iter().enumerate() {
            let place = wiring.place(node);
            match fan_in {
                Some(fan_in) => {
                    #[allow(clippy::cast_precision_loss, reason = "a layer has far fewer than 2^52 inputs")]
                    let bound = if single { 0.0 } else { 1.0 / (*fan_in as f64).sqrt() };
                    let count = place.weights.len() + place.biases.len();
                    parameters.extend((0..count).map(|_| bound * (2.0 * stream.random::<f64>() - 1.0)));
                }
                None => {
                    parameters.extend(std::iter::repeat_n(1.0, place.weights.len()));
                    parameters.extend(std::iter::repeat_n(0.0, place.biases.len()));
                }
            }
        }
        parameters
    }

    /// Running averages before the first batch: means 0, variances 1.
    ///
    /// # Panics
    /// If the network does not fit together.
    pub fn initial_buffers(&self) -> Vec<f64> {
        let wiring = self.wiring().expect("a network that was checked");
        let of = |node: usize| {
            let half = wiring.place(node).buffers.len() / 2;
            std::iter::repeat_n(0.0, half).chain(std::iter::repeat_n(1.0, half))
        };
        (0..self.nodes.len()).flat_map(of).collect()
    }
}

/// Public randomness of a job: same seed and use, same stream.
pub fn public_stream(seed: u64, purpose: u64) -> ChaCha12Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&purpose.to_le_bytes());
    ChaCha12Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Conv, Layer, Loss, Shape};

    #[test]
    fn scales_start_at_one_and_weights_within_their_bound() {
        let layers = [
            Layer::Conv(Conv::square(4, 3).unbiased()),
            Layer::BatchNorm { epsilon: 1e-5, momentum: 0.1 },
            Layer::Flatten,
            Layer::Linear { outputs: 2, bias: true },
        ];
        let model = Model::sequence(Shape::image(1, 5, 5), &layers, Loss::SoftmaxCrossEntropy);
        let parameters = model.initial_parameters(7);
        assert_eq!(parameters.len(), 36 + 8 + 36 * 2 + 2);
        assert!(parameters[..36].iter().all(|w| w.abs() <= 1.0 / 3.0 && *w != 0.0));
        assert_eq!(parameters[36..44], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(parameters[44..].iter().all(|w| w.abs() <= 1.0 / 6.0 && *w != 0.0));
        assert_eq!(model.initial_buffers(), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_single_layer_starts_at_zero() {
        assert!(Model::logistic(30).initial_parameters(1).iter().all(|w| *w == 0.0));
    }
}
