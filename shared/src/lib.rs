//! What every part of Trefoil agrees on. No I/O, no async, no GPU.

pub mod ids;
