//! The plaintext twin of a network: the same layers, masks and optimisers without secrecy. In float64 it says what a
//! run on shares should give, in fixed point what rounding alone does, and it sees how large numbers become.

mod activation;
mod arithmetic;
mod arrange;
mod conv;
mod linear;
mod loss;
mod matrix;
mod network;
mod norm;
mod optimiser;
mod pool;
mod ranges;

pub use arithmetic::Arithmetic;
pub use network::{Network, Pass};
pub use optimiser::Optimiser;
pub use ranges::{Excess, LayerRanges, Range, activation_limit, excesses, result_limits};
