//! `mpc-launch`
mod data;
mod metrics;
mod plain;
fn main() {}
