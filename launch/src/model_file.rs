//! A trained model from a file: its network, and numbers that fixed point can hold.

use std::path::Path;

use model_files::onnx::{self, Imported, OnnxError, Port};
use shared::fixed::FixedError;
use shared::job::ProtocolSpec;
use shared::model::Model;

use crate::data::Weights;

/// Why a model file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelFileError {
    /// A file of another kind.
    #[error("{file}: models are read from .onnx files")]
    Extension { file: String },
    /// Not readable, or not supported.
    #[error("{file}: {source}")]
    Onnx { file: String, source: Box<OnnxError> },
    /// A number that fixed point cannot hold.
    #[error("{file}, layer {layer:?}: {what} {at} is {value}: {source}")]
    TooLarge { file: String, layer: String, what: &'static str, at: usize, value: f64, source: FixedError },
}

/// A model from a file.
#[derive(Debug)]
pub(crate) struct ModelFile {
    /// Name of the file.
    pub(crate) name: String,
    /// What was read.
    pub(crate) imported: Imported,
}

impl ModelFile {
    /// Reads an ONNX file; refuses numbers that the job's formats cannot hold.
    pub(crate) fn read(file: &str, protocol: &ProtocolSpec) -> Result<Self, ModelFileError> {
        let path = Path::new(file);
        if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx")) {
            return Err(ModelFileError::Extension { file: file.into() });
        }
        let imported =
            onnx::read(path).map_err(|source| ModelFileError::Onnx { file: file.into(), source: Box::new(source) })?;
        let read = Self { name: file.into(), imported };
        read.check(protocol)?;
        Ok(read)
    }

    /// Its network; the loss is whatever.
    pub(crate) fn model(&self) -> &Model {
        &self.imported.model
    }

    /// How the file orders the elements of a sample.
    pub(crate) fn input(&self) -> &Port {
        &self.imported.input
    }

    /// How the file orders the elements of a result.
    pub(crate) fn output(&self) -> &Port {
        &self.imported.output
    }

    /// Its numbers.
    pub(crate) fn weights(&self) -> Weights<'_> {
        Weights { parameters: &self.imported.parameters, buffers: &self.imported.buffers }
    }

    fn check(&self, protocol: &ProtocolSpec) -> Result<(), ModelFileError> {
        let model = self.model();
        let wiring = model
            .wiring()
            .map_err(|error| ModelFileError::Onnx { file: self.name.clone(), source: Box::new(error.into()) })?;
        for (index, node) in model.nodes.iter().enumerate() {
            let place = wiring.place(index);
            let parts = [
                ("weight", &self.imported.parameters[place.weights.clone()]),
                ("bias", &self.imported.parameters[place.biases.clone()]),
                ("running average", &self.imported.buffers[place.buffers.clone()]),
            ];
            for (what, values) in parts {
                for (at, &value) in values.iter().enumerate() {
                    protocol.check_value(value).map_err(|source| {
                        let (file, layer) = (self.name.clone(), node.name.clone());
                        ModelFileError::TooLarge { file, layer, what, at, value, source }
                    })?;
                }
            }
        }
        Ok(())
    }
}
