//! Functions of single numbers and softmax, with their slopes. Where a slope jumps it is the one to the right, as the
//! comparison `x >= 0` gives it.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use shared::model::Layer;

/// Applies a function of single numbers; none for other layers.
pub(crate) fn forward(layer: &Layer, x: &[f64]) -> Option<Vec<f64>> {
    fn each(x: &[f64], f: impl Fn(f64) -> f64) -> Option<Vec<f64>> {
        Some(x.iter().map(|&x| f(x)).collect())
    }
    match *layer {
        Layer::Relu => each(x, |x| x.max(0.0)),
        Layer::Clip { low, high } => each(x, |x| x.clamp(low, high)),
        Layer::LeakyRelu { slope } => each(x, |x| if x >= 0.0 { x } else { slope * x }),
        Layer::Gelu => each(x, |x| x * normal(x)),
        Layer::Silu => each(x, |x| x * sigmoid(x)),
        Layer::Softplus => each(x, |x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        Layer::Sigmoid => each(x, sigmoid),
        Layer::Tanh => each(x, f64::tanh),
        _ => None,
    }
}

/// Multiplies a gradient by the slopes of a function of single numbers at `x`.
pub(crate) fn back(layer: &Layer, x: &[f64], delta: &mut [f64]) {
    fn each(x: &[f64], delta: &mut [f64], slope: impl Fn(f64) -> f64) {
        delta.iter_mut().zip(x).for_each(|(delta, &x)| *delta *= slope(x));
    }
    match *layer {
        Layer::Relu => each(x, delta, |x| f64::from(x >= 0.0)),
        Layer::Clip { low, high } => each(x, delta, |x| f64::from(x >= low && x < high)),
        Layer::LeakyRelu { slope } => each(x, delta, |x| if x >= 0.0 { 1.0 } else { slope }),
        Layer::Gelu => each(x, delta, |x| normal(x) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()),
        Layer::Silu => each(x, delta, |x| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))),
        Layer::Softplus => each(x, delta, sigmoid),
        Layer::Sigmoid => each(x, delta, |x| sigmoid(x) * (1.0 - sigmoid(x))),
        Layer::Tanh => each(x, delta, |x| 1.0 - x.tanh() * x.tanh()),
        _ => {}
    }
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Distribution function of the normal distribution.
fn normal(x: f64) -> f64 {
    0.5 * (1.0 + error_function(x * FRAC_1_SQRT_2))
}

/// By the series `2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!!`, whose terms all have one sign; 1 from 6 on, where
/// float64 knows no other number.
fn error_function(x: f64) -> f64 {
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > f64::EPSILON * 0.1 * sum.abs() {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// Shares of every row, by exponentials.
pub(crate) fn softmax(x: &[f64], columns: usize) -> Vec<f64> {
    log_softmax(x, columns).into_iter().map(f64::exp).collect()
}

/// Logarithms of the shares.
pub(crate) fn log_softmax(x: &[f64], columns: usize) -> Vec<f64> {
    let of_row = |row: &[f64]| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
        row.iter().map(|x| x - total).collect::<Vec<f64>>()
    };
    x.chunks_exact(columns).flat_map(of_row).collect()
}

/// Gradient of what a softmax was taken of, from its result.
pub(crate) fn softmax_back(shares: &[f64], delta: &mut [f64], columns: usize) {
    for (shares, delta) in shares.chunks_exact(columns).zip(delta.chunks_exact_mut(columns)) {
        let mean: f64 = shares.iter().zip(&*delta).map(|(share, delta)| share * delta).sum();
        delta.iter_mut().zip(shares).for_each(|(delta, share)| *delta = share * (*delta - mean));
    }
}

/// Gradient of what a logarithm of a softmax was taken of, from its result.
pub(crate) fn log_softmax_back(logarithms: &[f64], delta: &mut [f64], columns: usize) {
    for (logarithms, delta) in logarithms.chunks_exact(columns).zip(delta.chunks_exact_mut(columns)) {
        let sum: f64 = delta.iter().sum();
        delta.iter_mut().zip(logarithms).for_each(|(delta, logarithm)| *delta -= logarithm.exp() * sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_the_values_of_pytorch() {
        // torch.nn.functional at 1, -1 and 3 (float64), and by hand.
        let cases = [
            (Layer::Gelu, [0.841_344_746_068_542_9, -0.158_655_253_931_457_1, 2.995_950_305_905_110_4]),
            (Layer::Silu, [0.731_058_578_630_004_9, -0.268_941_421_369_995_1, 2.857_722_380_467_3]),
            (Layer::Softplus, [1.313_261_687_518_222_8, 0.313_261_687_518_222_8, 3.048_587_351_573_742]),
            (Layer::LeakyRelu { slope: 0.1 }, [1.0, -0.1, 3.0]),
            (Layer::Clip { low: -0.5, high: 2.0 }, [1.0, -0.5, 2.0]),
        ];
        for (layer, expected) in cases {
            let found = forward(&layer, &[1.0, -1.0, 3.0]).unwrap();
            let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14);
            assert!(near, "{layer:?} {found:?}");
        }
    }

    #[test]
    fn the_error_function_is_known_to_fifteen_digits() {
        let known = [
            (0.5, 0.520_499_877_813_046_5),
            (2.0, 0.995_322_265_018_952_7),
            (4.0, 0.999_999_984_582_742_1),
            (7.0, 1.0),
        ];
        for (x, value) in known {
            assert!((error_function(x) - value).abs() < 1e-15, "{x}");
            assert!((error_function(-x) + value).abs() < 1e-15, "{x}");
        }
        assert_eq!(error_function(0.0), 0.0);
    }

    #[test]
    fn softmax_bears_large_scores() {
        let logarithms = log_softmax(&[1000.0, 1000.0, -1000.0, 0.0], 2);
        assert!((logarithms[0] + 2.0_f64.ln()).abs() < 1e-12);
        assert_eq!(logarithms[2..], [-1000.0, 0.0]);
        assert_eq!(softmax(&[1000.0, -1000.0], 2), [1.0, 0.0]);
    }
}
