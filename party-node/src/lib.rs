//! One party of Trefoil: computes on secret shares and talks to the two others.

pub mod collective;
pub mod compute;
pub mod meter;
pub mod runtime;
pub mod train;
pub mod transport;

pub use runtime::run;
