//! `mpc-launch`
mod args;
mod data;
mod exit;
mod metrics;
mod plain;
mod settings;
fn main() {}
