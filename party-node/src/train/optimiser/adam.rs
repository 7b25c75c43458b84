//! Adam and AdamW, with averages that need no correction.
//!
//! PyTorch divides its averages `m` and `v` by `1 - beta^t`. The quotients themselves follow `x += a (new - x)` with
//! `a = (1 - beta) / (1 - beta^t)`, so these are what is kept: no power of `beta` ever scales a share. Gradients are
//! kept with more fraction bits than other numbers, since `v` holds their squares.

use shared::model::Optimizer;

use super::rates::Rates;
use super::{Pace, Piece};
use crate::ops::{clamp, inverse_sqrt};
use crate::protocol::{DoubledPartial, ProtocolError, Tile, TileShare, square_doubled, trunc_exact};

/// Bits of the rates by which averages move.
const AVERAGE_BITS: u32 = 24;

/// Gradients are multiplied by two to this power, and then limited to it: their squares must be comparable.
fn gain_bits(tile: &Tile<'_>) -> u32 {
    let spec = tile.party().spec();
    (spec.compare_bits - 2 - spec.fraction_bits.bits()).min(14) / 2
}

/// New weights, mean gradient and mean squared gradient.
///
/// | | |
/// |---|---|
/// | Computes | PyTorch's `Adam` or `AdamW` with `sqrt(v + epsilon^2)` in place of `sqrt(v) + epsilon`; gradients limited to `+-1` (or to `train.clip`), roots to `2^-15` and more at `f = 16` |
/// | Holds | gradient, weights, two averages, `n` of each -> weights, two averages |
/// | Rounds | those of [`clamp`] and [`inverse_sqrt`](crate::ops::inverse_sqrt), and 8 |
/// | Bytes | those of [`clamp`] and [`inverse_sqrt`](crate::ops::inverse_sqrt), and five truncations |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | Kingma, Ba, "Adam: A Method for Stochastic Optimization", arXiv 1412.6980; Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101 |
pub(super) async fn update(
    tile: &Tile<'_>,
    piece: Piece,
    Pace { spec, lr, batch, step, .. }: Pace<'_>,
) -> Result<(TileShare, Vec<TileShare>), ProtocolError> {
    let (fixed, n) = (tile.party().fixed(), piece.weights.len());
    let (fraction, gain) = (fixed.bits(), gain_bits(tile));
    let gained = f64::from(1_u32 << gain);
    let [mean, square] = <[TileShare; 2]>::try_from(piece.state).expect("two averages");
    let adam = spec.optimizer == Optimizer::Adam;

    #[allow(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 samples")]
    let of_gradient = [gained / batch as f64, if adam { gained * spec.weight_decay } else { 0.0 }];
    let rates = Rates::new(&of_gradient, fraction);
    let mut sum = piece.gradient.times(rates.integers[0]);
    if rates.integers[1] != 0 {
        sum = sum.plus(&DoubledPartial::from_share(tile, &piece.weights, rates.integers[1] << fraction));
    }
    let gradient = trunc_exact(tile, sum, fraction + 1 + rates.shift).await?;
    let limit = fixed.constant(spec.clip.map_or(gained, |clip| (clip * gained).min(gained))).cast_signed();
    let gradient = clamp(tile, &gradient, -limit, limit).await?;
    let squared = trunc_exact(tile, square_doubled(tile, &gradient), fraction + 1).await?;

    let towards = |old: &TileShare, new: &TileShare, beta: f64| {
        let rate = average_rate(beta, step);
        let kept = DoubledPartial::from_share(tile, old, (1 << AVERAGE_BITS) - rate);
        kept.plus(&DoubledPartial::from_share(tile, new, rate))
    };
    let averages = towards(&mean, &gradient, spec.beta1).followed_by(&towards(&square, &squared, spec.beta2));
    let averages = trunc_exact(tile, averages, AVERAGE_BITS + 1).await?;
    let (mean, square) = (averages.slice(0..n), averages.slice(n..2 * n));

    let epsilon = spec.epsilon * gained;
    let under_root = square.clone().plus_public(tile, fixed.constant(epsilon * epsilon));
    let scale = inverse_sqrt(tile, &under_root).await?;
    let rates = Rates::new(&[lr, if adam { 0.0 } else { lr * spec.weight_decay }], fraction);
    let mut change = crate::protocol::mul_doubled(tile, &mean, &scale).times(rates.integers[0]);
    if rates.integers[1] != 0 {
        change = change.plus(&DoubledPartial::from_share(tile, &piece.weights, rates.integers[1] << fraction));
    }
    let change = trunc_exact(tile, change, fraction + 1 + rates.shift).await?;
    Ok((piece.weights.minus(&change), vec![mean, square]))
}

/// `(1 - beta) / (1 - beta^step)` as an integer over `2^AVERAGE_BITS`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate lies between 0 and 1")]
fn average_rate(beta: f64, step: u32) -> u64 {
    // Powers by products alone: the same word on every machine. Beyond so many steps the power is zero for any beta.
    let power = (0..step.min(1 << 20)).fold(1.0, |power, _| power * beta);
    ((1.0 - beta) / (1.0 - power) * f64::from(1_u32 << AVERAGE_BITS)).round() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "test numbers are small")]

    use shared::model::TrainSpec;

    use super::*;
    use crate::compute::Words;
    use crate::protocol::Replicated;
    use crate::train::optimiser::Optimiser;
    use crate::world::World;

    #[test]
    fn rates_follow_the_corrected_averages() {
        assert_eq!(average_rate(0.9, 1), 1 << AVERAGE_BITS);
        // m2 / (1 - 0.81) = (0.9 * 0.1 g1 + 0.1 g2) / 0.19: the new gradient weighs 10/19.
        let want = 10.0 / 19.0 * f64::from(1_u32 << AVERAGE_BITS);
        assert!((average_rate(0.9, 2) as f64 - want).abs() <= 1.0);
        assert_eq!(average_rate(0.0, 7), 1 << AVERAGE_BITS);
    }

    /// PyTorch's update in float64.
    struct Float {
        weights: Vec<f64>,
        m: Vec<f64>,
        v: Vec<f64>,
    }

    impl Float {
        fn step(&mut self, spec: &TrainSpec, gradient: &[f64], t: i32) {
            let decoupled = spec.optimizer == Optimizer::Adamw;
            for (i, g) in gradient.iter().enumerate() {
                let w = self.weights[i];
                let g = if decoupled { *g } else { g + spec.weight_decay * w };
                self.m[i] = spec.beta1 * self.m[i] + (1.0 - spec.beta1) * g;
                self.v[i] = spec.beta2 * self.v[i] + (1.0 - spec.beta2) * g * g;
                let (m, v) = (self.m[i] / (1.0 - spec.beta1.powi(t)), self.v[i] / (1.0 - spec.beta2.powi(t)));
                let shrunk = if decoupled { w * (1.0 - spec.lr * spec.weight_decay) } else { w };
                self.weights[i] = shrunk - spec.lr * m / (v.sqrt() + spec.epsilon);
            }
        }
    }

    #[test]
    fn steps_follow_pytorch() {
        for optimizer in [Optimizer::Adam, Optimizer::Adamw] {
            let spec = TrainSpec { optimizer, lr: 0.01, weight_decay: 0.1, ..TrainSpec::default() };
            let start = [0.5, -0.25, 1.0, 0.0, -2.0];
            let gradients =
                [[0.3, -0.02, 0.001, 0.9, -0.5], [0.1, 0.04, 0.002, -0.9, -0.6], [-0.2, 0.01, 0.0, 0.3, 0.1]];
            let (batch, world) = (8.0, World::new(4));
            let fixed = shared::job::ProtocolSpec::default().fraction_bits;
            let shares = world.share(0, &start.map(|w| fixed.constant(w)));
            let outputs = world.run(|party| {
                let mut optimiser = Optimiser::new(party.device(), spec.clone(), start.len(), 0, 1);
                let mut weights = Replicated::on(party.device(), shares[party.me().index()].clone());
                for gradient in &gradients {
                    // Twice the sum over the batch with twice the fraction bits, all of it held by P0.
                    let word =
                        |g: &f64| ((2.0 * batch * g * fixed.scale() * fixed.scale()).round() as i64).cast_unsigned();
                    let own = u64::from(party.me().index() == 0);
                    let additive: Words = gradient.iter().map(|g| own.wrapping_mul(word(g))).collect();
                    weights = optimiser.update(party, &additive, &weights, spec.lr, 8)?;
                }
                Ok(weights.into_share())
            });
            let weights: Vec<_> = outputs.into_iter().map(|(share, _)| share.unwrap()).collect();
            let weights = shared::share::join(&weights.try_into().unwrap()).unwrap();
            let mut float = Float { weights: start.to_vec(), m: vec![0.0; 5], v: vec![0.0; 5] };
            for (t, gradient) in (1..).zip(&gradients) {
                float.step(&spec, gradient, t);
            }
            for (got, want) in weights.iter().zip(&float.weights) {
                let got = fixed.decode(*got);
                assert!((got - want).abs() < 3e-4, "{optimizer:?}: {got} {want}");
            }
        }
    }
}
