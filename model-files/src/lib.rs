//! Networks and arrays as other programs write them. Knows files and [`shared::model`], no shares and no parties.

mod half;
pub mod npy;
pub mod onnx;
mod parameters;
pub mod safetensors;
