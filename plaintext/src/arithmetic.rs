//! Numbers as they are, or as a ring in fixed point would hold them.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::RngCore;
use shared::fixed::FixedPoint;
use shared::model::public_stream;

/// Which use of the public seed rounds: no batch, no mask and no weight has it.
const ROUNDING: u64 = u64::MAX - 1;

/// How results are rounded.
pub enum Arithmetic {
    /// Not at all beyond float64.
    Float,
    /// To a multiple of `2^-f`: down, after a uniform carry was added, as the parties' truncation does it. Sums of
    /// products are exact before that, as they are in the ring. Nothing wraps: who looks at the ranges sees what would.
    Fixed {
        /// `2^f`.
        scale: f64,
        /// Where carries come from.
        carries: Box<ChaCha12Rng>,
    },
}

impl Arithmetic {
    /// Fixed point, with carries that follow from a seed.
    pub fn fixed(fraction: FixedPoint, seed: u64) -> Self {
        Self::Fixed { scale: fraction.scale(), carries: Box::new(public_stream(seed, ROUNDING)) }
    }

    /// Rounds results of products.
    pub(crate) fn settle(&mut self, values: &mut [f64]) {
        let Self::Fixed { scale, carries } = self else { return };
        let carry = 0.5_f64.powi(32);
        for value in values {
            *value = (*value * *scale + f64::from(carries.next_u32()) * carry).floor() / *scale;
        }
    }

    /// Rounds what was public before it was encoded: to the nearest.
    pub fn encode(&self, mut values: Vec<f64>) -> Vec<f64> {
        if let Self::Fixed { scale, .. } = self {
            values.iter_mut().for_each(|value| *value = (*value * scale).round() / scale);
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_settle_on_a_neighbour_and_on_average_where_they_were() {
        let mut fixed = Arithmetic::fixed(FixedPoint::new(8).unwrap(), 1);
        for value in [0.3, -0.3, 100.001, -7.0] {
            let mut values = vec![value; 40_000];
            fixed.settle(&mut values);
            assert!(values.iter().all(|v| (v - value).abs() < 1.0 / 256.0 && (v * 256.0).fract() == 0.0));
            let mean = values.iter().sum::<f64>() / 40_000.0;
            assert!((mean - value).abs() < 5.0 * 0.5 / 256.0 / 200.0, "{value}: {mean}");
        }
    }

    #[test]
    fn floats_stay_and_constants_go_to_the_nearest() {
        let mut values = [0.3];
        Arithmetic::Float.settle(&mut values);
        assert_eq!(values, [0.3]);
        let fixed = Arithmetic::fixed(FixedPoint::new(8).unwrap(), 1);
        assert_eq!(fixed.encode(vec![0.3, -0.3]), [77.0 / 256.0, -77.0 / 256.0]);
        assert_eq!(Arithmetic::Float.encode(vec![0.3]), [0.3]);
    }
}
