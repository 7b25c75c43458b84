//! Functions on shares, made of protocol steps: what layers and losses call. Knows no sockets and no training.
//!
//! Public constants are computed with additions, products, quotients and square roots alone: these are exact to the
//! last bit on every machine, and both evaluators must arrive at the same word.

mod clamp;
mod exp;
mod log;
mod max;
mod normalise;
mod pool;
mod reciprocal;
mod relu;
mod root;
mod series;
mod sigmoid;
mod smooth;
mod softmax;

pub use clamp::{clamp, clip, clip_backward};
pub use exp::{exp, exp_negative};
pub use log::log;
pub use max::{argmax, maximum, minimum, row_max, select};
pub use pool::{PoolKept, Windows, max_pool, max_pool_backward};
pub use reciprocal::{divide, divide_bounded, reciprocal, reciprocal_bounded};
pub use relu::{leaky_relu, leaky_relu_backward, relu, relu_backward};
pub use root::{inverse_sqrt, sqrt};
pub use sigmoid::{sigmoid, tanh};
pub use smooth::{gelu, gelu_and_slope, silu, silu_and_slope, softplus, softplus_and_slope};
pub use softmax::{log_softmax, softmax};

/// `2^bits`. (`powi` may differ in the last bit between machines.)
#[allow(clippy::cast_precision_loss, reason = "powers of two are exact")]
fn unit(bits: u32) -> f64 {
    (1_u64 << bits) as f64
}

/// The ring element nearest to a number.
#[allow(clippy::cast_possible_truncation, reason = "public constants are far below 2^63")]
fn word(value: f64) -> u64 {
    (value.round() as i64).cast_unsigned()
}

/// `2^exponent`.
fn power(exponent: i32) -> f64 {
    if exponent < 0 { 1.0 / unit(exponent.unsigned_abs()) } else { unit(exponent.unsigned_abs()) }
}

/// The constant at which the range of a function that grows with it lies evenly around 1. `guess` is at least half of it.
fn balanced(guess: f64, range: impl Fn(f64) -> [f64; 2]) -> f64 {
    let (mut below, mut above) = (0.0, 2.0 * guess);
    for _ in 0..60 {
        let middle = 0.5 * (below + above);
        let [min, max] = range(middle);
        if min + max < 2.0 { below = middle } else { above = middle }
    }
    above
}

/// Bytes of a truncation over the three parties.
#[cfg(test)]
fn trunc_bytes(n: usize, shift: u32) -> usize {
    24 * n + 3 * (n * shift as usize).div_ceil(8)
}

/// A job with so many fraction bits.
#[cfg(test)]
fn spec(bits: u32) -> shared::job::ProtocolSpec {
    let fraction_bits = shared::fixed::FixedPoint::new(bits).expect("supported");
    shared::job::ProtocolSpec { fraction_bits, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use shared::job::{ProtocolSpec, Truncation};

    use super::*;
    use crate::protocol::TileShare;
    use crate::world::World;

    #[test]
    fn functions_do_not_fail_where_products_are_truncated_fast() {
        let spec = ProtocolSpec { trunc: Truncation::Fast, ..ProtocolSpec::default() };
        let fixed = spec.fraction_bits;
        let x: Vec<u64> = (1..2000).map(|i| fixed.constant(f64::from(i) / 256.0)).collect();
        let (z, _) = World::new(6).with_spec(spec).tile(1, [&x], async |tile, [x]| {
            let all = [
                exp(tile, &x).await?,
                log(tile, &x).await?,
                sqrt(tile, &x).await?,
                inverse_sqrt(tile, &x).await?,
                reciprocal(tile, &x).await?,
                sigmoid(tile, &x).await?,
            ];
            Ok(TileShare::concat(&all.each_ref()))
        });
        let functions: [fn(f64) -> f64; 6] =
            [f64::exp, f64::ln, f64::sqrt, |x| x.sqrt().recip(), f64::recip, |x| 1.0 / (1.0 + (-x).exp())];
        for (z, function) in z.chunks(x.len()).zip(functions) {
            for (z, x) in z.iter().zip(&x) {
                let (z, want) = (fixed.decode(*z), function(fixed.decode(*x)));
                assert!((z - want).abs() < 5.7e-4 + want.abs() * 1e-4, "{z} {want}");
            }
        }
    }
}
