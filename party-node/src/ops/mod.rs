//! Functions on shares, made of protocol steps: what layers and losses call. Knows no sockets and no training.

mod clamp;
mod max;
mod reciprocal;
mod relu;
mod sigmoid;

pub use clamp::clamp;
pub use max::{argmax, maximum, row_max};
pub use reciprocal::{divide_bounded, reciprocal_bounded};
pub use relu::{relu, relu_backward};
pub use sigmoid::{sigmoid, tanh};
