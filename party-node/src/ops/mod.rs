//! Functions on shares, made of protocol steps: what layers and losses call. Knows no sockets and no training.
//!
//! Public constants are computed with additions, products, quotients and square roots alone: these are exact to the
//! last bit on every machine, and both evaluators must arrive at the same word.

mod clamp;
mod exp;
mod max;
mod reciprocal;
mod relu;
mod sigmoid;
mod softmax;

pub use clamp::clamp;
pub use exp::{exp, exp_negative};
pub use max::{argmax, maximum, row_max};
pub use reciprocal::{divide_bounded, reciprocal_bounded};
pub use relu::{relu, relu_backward};
pub use sigmoid::{sigmoid, tanh};
pub use softmax::softmax;

use crate::protocol::Bits;

/// Cuts bits that were computed for `count` vectors of `n` elements end to end.
fn split(bits: &Bits, n: usize, count: usize) -> Vec<Bits> {
    if n.is_multiple_of(64) && n > 0 {
        return bits.planes(n / 64);
    }
    (0..count).map(|i| bits.gather(n, |j| i * n + j)).collect()
}

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
