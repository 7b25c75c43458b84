//! `mpc-launch`
mod data;
fn main() {}
