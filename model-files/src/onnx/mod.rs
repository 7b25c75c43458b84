//! ONNX: networks as PyTorch, scikit-learn and others export them.

mod constants;
mod export;
mod import;
mod op;
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
#[rustfmt::skip]
mod proto;
pub(crate) mod tensor;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use prost::Message;
use shared::model::{Model, ModelError};

pub use export::write;
use proto::ModelProto;

/// Bytes that a protobuf message can have.
const MESSAGE_BYTES_MAX: u64 = (1 << 31) - 1;

/// Oldest version of the operators that is read.
pub const OPSET_MIN: i64 = 13;

/// Newest version of the operators that is read: that of ONNX 1.23.
pub const OPSET_MAX: i64 = 28;

/// A network from a file.
#[derive(Clone, PartialEq)]
pub struct Imported {
    /// Its layers; the loss is a placeholder, since ONNX has none.
    pub model: Model,
    /// Weights and biases of all layers, in the model's order.
    pub parameters: Vec<f64>,
    /// Running averages of all layers, in the model's order.
    pub buffers: Vec<f64>,
    /// What the file calls the input, and how the file orders a sample's elements.
    pub input: Port,
    /// Likewise the result.
    pub output: Port,
    /// What a user should know about how the file was understood.
    pub notes: Vec<String>,
}

/// An end of the network: its name in the file, and a sample's elements there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Name in the file.
    pub name: String,
    /// Dimensions of one sample, without the batch.
    pub dims: Vec<usize>,
    /// Where each element lies in our order, which has channels last.
    pub order: Vec<usize>,
}

impl std::fmt::Debug for Imported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Imported(<{} parameters> {:?} to {:?})", self.parameters.len(), self.input.name, self.output.name)
    }
}

impl Port {
    /// Samples in the file's order become samples in ours.
    ///
    /// # Panics
    /// If these are not whole samples.
    pub fn to_memory(&self, samples: &[f64]) -> Vec<f64> {
        let mut result = vec![0.0; samples.len()];
        for (sample, result) in self.chunks(samples).zip(result.chunks_exact_mut(self.order.len())) {
            sample.iter().zip(&self.order).for_each(|(value, &at)| result[at] = *value);
        }
        result
    }

    /// Samples in our order become samples in the file's.
    ///
    /// # Panics
    /// If these are not whole samples.
    pub fn from_memory(&self, samples: &[f64]) -> Vec<f64> {
        self.chunks(samples).flat_map(|sample| self.order.iter().map(|&at| sample[at])).collect()
    }

    fn chunks<'a>(&self, samples: &'a [f64]) -> std::slice::ChunksExact<'a, f64> {
        assert!(samples.len().is_multiple_of(self.order.len()), "whole samples");
        samples.chunks_exact(self.order.len())
    }
}

/// Why a file cannot be read as a network, or a network not be written as a file.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// More than a protobuf message can hold.
    #[error(
        "{path}: {bytes} bytes, but an ONNX file holds less than 2 GiB: keep large tensors in a file beside it \
         (onnx.save with save_as_external_data=True, torch.onnx.export with external_data=True)"
    )]
    TooLarge {
        /// Which file.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// Not an ONNX model.
    #[error("{path}: not an ONNX model: {why}")]
    Format {
        /// Which file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Operators of a version that is not read.
    #[error(
        "operators of {domain} of version {version}, but {min} to {max} can be read: convert the model \
         (onnx.version_converter.convert_version, or opset_version of torch.onnx.export)"
    )]
    Opset {
        /// Which set of operators.
        domain: String,
        /// What the file asks for.
        version: i64,
        /// Oldest that would do.
        min: i64,
        /// Newest that would do.
        max: i64,
    },
    /// A constant that cannot be read.
    #[error("tensor {name:?}: {why}")]
    Tensor {
        /// Which.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A weight that is no number.
    #[error("tensor {name:?}: element {at} is {value}: weights must be finite")]
    NotFinite {
        /// Which tensor.
        name: String,
        /// Which element.
        at: usize,
        /// What it is.
        value: f64,
    },
    /// A value that nothing computes.
    #[error("node {node:?} takes {value:?}, which is no input, no initializer, and no result of a node before it")]
    Missing {
        /// Who takes it.
        node: String,
        /// Its name.
        value: String,
    },
    /// An input or output of the graph.
    #[error("{what} {name:?}: {why}")]
    Port {
        /// `input` or `output`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// An operator, or a form of it, that is not supported.
    #[error(transparent)]
    Operator(Box<Unsupported>),
    /// Parameters of another network.
    #[error("{got} {what} where the network has {due}")]
    Count {
        /// Parameters or running averages.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// How many are due.
        due: usize,
    },
    /// Layers that do not fit together.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// An operator that cannot be imported, and what could be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("node {node:?}: operator {operator} of {domain} {opset}: {why}; {nearest}")]
pub struct Unsupported {
    /// Name of the node, or of its first result.
    pub node: String,
    /// What it should compute.
    pub operator: String,
    /// Its set of operators.
    pub domain: String,
    /// Version of that set.
    pub opset: i64,
    /// Why it cannot be.
    pub why: String,
    /// What could be instead.
    pub nearest: String,
}

/// Reads a network and its parameters. Data outside the file must lie in its folder.
pub fn read(path: &Path) -> Result<Imported, OnnxError> {
    let name = path.display().to_string();
    let io_error = |source| OnnxError::Io { path: name.clone(), source };
    let bytes = std::fs::metadata(path).map_err(io_error)?.len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(OnnxError::TooLarge { path: name, bytes });
    }
    let data = std::fs::read(path).map_err(io_error)?;
    decode(&name, data, path.parent().unwrap_or(Path::new("")))
}

/// Reads a network from the bytes of a file; errors name it by `path`. Data outside it must lie in `folder`.
pub fn decode(path: &str, data: Vec<u8>, folder: &Path) -> Result<Imported, OnnxError> {
    // Tensors stay views of this one buffer.
    let model = ModelProto::decode(bytes::Bytes::from(data));
    let model = model.map_err(|why| OnnxError::Format { path: path.to_owned(), why: why.to_string() })?;
    let format_error = |why: &str| OnnxError::Format { path: path.to_owned(), why: why.to_owned() };
    let graph = model.graph.as_ref().ok_or_else(|| format_error("it has no graph"))?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    import::import(&model, graph, folder)
}
