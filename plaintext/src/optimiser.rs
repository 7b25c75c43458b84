//! What turns gradients into steps, as PyTorch's SGD, Adam and AdamW do.

use shared::model::{Optimizer, TrainSpec};

use crate::arithmetic::Arithmetic;

/// State between steps.
pub struct Optimiser<'a> {
    spec: &'a TrainSpec,
    /// Learning rate times PyTorch's momentum buffer (SGD), or the mean of gradients (Adam).
    first: Vec<f64>,
    /// Mean of squared gradients (Adam).
    second: Vec<f64>,
    /// Learning rate of the last step.
    last_lr: f64,
    /// `beta^t` after `t` steps.
    powers: [f64; 2],
}

impl<'a> Optimiser<'a> {
    /// For so many parameters.
    pub fn new(spec: &'a TrainSpec, parameters: usize) -> Self {
        let zeros = |wanted: bool| vec![0.0; if wanted { parameters } else { 0 }];
        let adam = spec.optimizer != Optimizer::Sgd;
        let (first, second) = (zeros(adam || spec.momentum > 0.0), zeros(adam));
        Self { spec, first, second, last_lr: spec.lr, powers: [1.0; 2] }
    }

    /// One step along the mean gradient of a batch. In fixed point a step of SGD is rounded once, as a whole, and so is
    /// one of Adam, whose state stays in float64.
    pub fn step(&mut self, weights: &mut [f64], mut gradient: Vec<f64>, lr: f64, arithmetic: &mut Arithmetic) {
        let spec = self.spec;
        if let Some(clip) = spec.clip {
            gradient.iter_mut().for_each(|g| *g = g.clamp(-clip, clip));
        }
        if spec.optimizer == Optimizer::Adamw {
            weights.iter_mut().for_each(|w| *w *= 1.0 - lr * spec.weight_decay);
        } else {
            gradient.iter_mut().zip(&*weights).for_each(|(g, w)| *g += spec.weight_decay * w);
        }
        let mut step = gradient;
        match spec.optimizer {
            Optimizer::Sgd => self.momentum(&mut step, lr, arithmetic),
            Optimizer::Adam | Optimizer::Adamw => self.adam(&mut step, lr),
        }
        weights.iter_mut().zip(step).for_each(|(w, step)| *w -= step);
        arithmetic.settle(weights);
        self.last_lr = lr;
    }

    /// Turns a gradient into a step of SGD.
    fn momentum(&mut self, step: &mut [f64], lr: f64, arithmetic: &mut Arithmetic) {
        let (mu, carried) = (self.spec.momentum, self.spec.momentum * lr / self.last_lr);
        step.iter_mut().for_each(|g| *g *= lr);
        if self.first.is_empty() {
            return;
        }
        for (step, momentum) in step.iter_mut().zip(&mut self.first) {
            *momentum = carried * *momentum + *step;
            *step = if self.spec.nesterov { *step + mu * *momentum } else { *momentum };
        }
        arithmetic.settle(&mut self.first);
        if !self.spec.nesterov {
            step.copy_from_slice(&self.first);
        }
    }

    /// Turns a gradient into a step of Adam.
    fn adam(&mut self, step: &mut [f64], lr: f64) {
        let TrainSpec { beta1, beta2, epsilon, .. } = *self.spec;
        self.powers = [self.powers[0] * beta1, self.powers[1] * beta2];
        let [bias1, bias2] = self.powers.map(|power| 1.0 - power);
        for ((g, mean), square) in step.iter_mut().zip(&mut self.first).zip(&mut self.second) {
            *mean = beta1 * *mean + (1.0 - beta1) * *g;
            *square = beta2 * *square + (1.0 - beta2) * *g * *g;
            *g = lr / bias1 * *mean / ((*square / bias2).sqrt() + epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(spec: &TrainSpec, gradients: &[f64], lrs: &[f64]) -> Vec<f64> {
        let (mut optimiser, mut weights) = (Optimiser::new(spec, 1), [1.0]);
        let step = |(g, lr): (&f64, &f64)| {
            optimiser.step(&mut weights, vec![*g], *lr, &mut Arithmetic::Float);
            weights[0]
        };
        gradients.iter().zip(lrs).map(step).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(near && found.len() == expected.len(), "{found:?} {expected:?}");
    }

    #[test]
    fn updates_follow_pytorch() {
        // torch.optim.SGD([1.0], lr=0.1, momentum=0.9, nesterov, weight_decay=0.5), gradients 2.0 (clipped to 1.5), 1.
        let spec = TrainSpec { momentum: 0.9, weight_decay: 0.5, clip: Some(1.5), ..TrainSpec::default() };
        close(&steps(&spec, &[2.0, 1.0], &[0.1; 2]), &[0.8, 0.48]);
        close(&steps(&TrainSpec { nesterov: true, ..spec }, &[2.0, 1.0], &[0.1; 2]), &[0.62, 0.2091]);
    }

    #[test]
    fn momentum_does_not_follow_the_learning_rate() {
        // The buffer is 1, then 1.5, whatever the rates: 1 - 0.1, then less 0.01 * 1.5.
        let spec = TrainSpec { momentum: 0.5, ..TrainSpec::default() };
        close(&steps(&spec, &[1.0, 1.0], &[0.1, 0.01]), &[0.9, 0.885]);
    }

    #[test]
    fn adam_follows_pytorch() {
        // By hand, after torch.optim.Adam: m = 0.1 g and v = 0.001 g^2 at first, corrected to g and g^2.
        let spec = TrainSpec { optimizer: Optimizer::Adam, epsilon: 1e-8, ..TrainSpec::default() };
        let second = {
            let (mean, square) = (0.9 * 0.2 - 0.1, 0.999 * 0.004 + 0.001);
            0.1 * (mean / (1.0 - 0.81)) / ((square / (1.0 - 0.998_001_f64)).sqrt() + 1e-8)
        };
        let first = 1.0 - 0.1 * 2.0 / (2.0 + 1e-8);
        close(&steps(&spec, &[2.0, -1.0], &[0.1; 2]), &[first, first - second]);
        // Adam adds the decay to the gradient, 2 + 0.5, which its quotient takes out again; AdamW shrinks the weight.
        let decayed = TrainSpec { weight_decay: 0.5, ..spec };
        close(&steps(&decayed, &[2.0], &[0.1]), &[1.0 - 0.1 * 2.5 / (2.5 + 1e-8)]);
        let adamw = TrainSpec { optimizer: Optimizer::Adamw, ..decayed };
        close(&steps(&adamw, &[2.0], &[0.1]), &[0.95 - 0.1 * 2.0 / (2.0 + 1e-8)]);
    }

    #[test]
    fn steps_in_fixed_point_stay_on_its_grid_and_near_the_exact_ones() {
        for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
            let spec = TrainSpec { momentum, nesterov, weight_decay: 0.01, ..TrainSpec::default() };
            let mut fixed = Arithmetic::fixed(shared::fixed::FixedPoint::new(12).unwrap(), 3);
            let (mut rounded, mut exact) = (vec![0.5; 100], vec![0.5; 100]);
            let (mut a, mut b) = (Optimiser::new(&spec, 100), Optimiser::new(&spec, 100));
            for _ in 0..10 {
                a.step(&mut rounded, vec![0.123; 100], 0.1, &mut fixed);
                b.step(&mut exact, vec![0.123; 100], 0.1, &mut Arithmetic::Float);
            }
            assert!(rounded.iter().all(|w| (w * 4096.0).fract() == 0.0));
            let furthest = rounded.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(furthest > 0.0 && furthest < 40.0 / 4096.0, "{furthest}");
            let bias = rounded.iter().zip(&exact).map(|(a, b)| a - b).sum::<f64>() / 100.0;
            assert!(bias.abs() < 8.0 / 4096.0, "{bias}");
        }
    }
}
