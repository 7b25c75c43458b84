//! What every part of Trefoil agrees on. No I/O, no async, no GPU.

pub mod audit;
pub mod config;
pub mod consent;
pub mod fixed;
pub mod fleet;
pub mod ids;
pub mod job;
pub mod model;
pub mod share;
pub mod signing;
pub mod telemetry;
pub mod wire;
