//! Models and how they are trained: architecture and hyper-parameters, data only. All of it is public.

mod dropout;
mod graph;
mod initial;
mod layer;
mod shape;
mod train;
mod zoo;

pub use graph::{Builder, Model, ModelError, Node, Place, Source, Wiring};
pub use initial::public_stream;
pub use layer::{Conv, Layer, LayerError, Pool};
pub use shape::Shape;
pub use train::{Loss, Optimizer, Schedule, TrainSpec};
pub use zoo::{ModelName, UnknownModel};
