//! One party of Trefoil: computes on secret shares and talks to the two others.

pub mod collective;
pub mod compute;
pub mod kernels;
pub mod layers;
pub mod meter;
pub mod ops;
pub mod protocol;
pub mod runtime;
pub mod train;
pub mod transport;
#[cfg(any(test, feature = "test-world"))]
pub mod world;

pub use runtime::run;
