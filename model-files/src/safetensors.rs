//! Parameters alone, for programs that build the network themselves: the safetensors format.

use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};
use shared::model::{Model, ModelError};

use crate::parameters::{Plain, by_layer};

/// Why parameters cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
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

/// Writes parameters and running averages as 32-bit floats, named as PyTorch names them (`conv-1.weight`,
/// `batch-norm-1.running_mean`) and in its order of dimensions.
pub fn write(path: &Path, model: &Model, parameters: &[f64], buffers: &[f64]) -> Result<(), SafetensorsError> {
    let bytes = encode(model, parameters, buffers)?;
    std::fs::write(path, bytes).map_err(|source| SafetensorsError::Io { path: path.display().to_string(), source })
}

fn encode(model: &Model, parameters: &[f64], buffers: &[f64]) -> Result<Vec<u8>, SafetensorsError> {
    let layers = by_layer(model, parameters, buffers)?;
    let layers = layers.map_err(|(what, got, due)| SafetensorsError::Count { what, got, due })?;
    let (mut entries, mut data) = (Map::new(), Vec::new());
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    for (node, tensors) in model.nodes.iter().zip(layers) {
        for (kind, tensor) in [
            ("weight", tensors.weight),
            ("bias", tensors.bias),
            ("running_mean", tensors.running_mean),
            ("running_var", tensors.running_var),
        ] {
            let Some(Plain { dims, values }) = tensor else { continue };
            let start = data.len();
            #[allow(clippy::cast_possible_truncation, reason = "written as 32-bit floats")]
            data.extend(values.iter().flat_map(|&value| (value as f32).to_le_bytes()));
            let entry = json!({ "dtype": "F32", "shape": dims, "data_offsets": [start, data.len()] });
            entries.insert(format!("{}.{kind}", node.name), entry);
        }
    }
    let mut header = Value::Object(entries).to_string();
    // Data begins at a multiple of 8 bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    Ok([&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::{Conv, Layer, Loss, Shape};

    #[test]
    fn tensors_have_the_names_and_the_order_of_pytorch() {
        let layers = [
            Layer::Conv(Conv { kernel: [1, 2], ..Conv::square(2, 1) }),
            Layer::BatchNorm { epsilon: 1e-5, momentum: 0.1 },
            Layer::Flatten,
            Layer::Linear { outputs: 2, bias: false },
        ];
        let model = Model::sequence(Shape::image(1, 1, 3), &layers, Loss::MeanSquared);
        let parameters: Vec<f64> = (0..4 + 2 + 4 + 8).map(f64::from).collect();
        let bytes = encode(&model, &parameters, &[0.5, 1.5, 2.5, 3.5]).unwrap();
        let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        assert!(length.is_multiple_of(8));
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let tensor = |name: &str, shape: Value| {
            assert_eq!((&header[name]["dtype"], &header[name]["shape"]), (&json!("F32"), &shape), "{name}");
            let at = |index: usize| usize::try_from(header[name]["data_offsets"][index].as_u64().unwrap()).unwrap();
            let numbers =
                bytes[8 + length..][at(0)..at(1)].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            numbers.collect::<Vec<f32>>()
        };
        // Ours: (kernel column, output channel).
        assert_eq!(tensor("conv-1.weight", json!([2, 1, 1, 2])), [0.0, 2.0, 1.0, 3.0]);
        assert_eq!(tensor("conv-1.bias", json!([2])), [4.0, 5.0]);
        assert_eq!(tensor("batch-norm-1.weight", json!([2])), [6.0, 7.0]);
        assert_eq!(tensor("batch-norm-1.running_var", json!([2])), [2.5, 3.5]);
        let linear = tensor("linear-1.weight", json!([2, 4]));
        assert_eq!(linear, [10.0, 12.0, 14.0, 16.0, 11.0, 13.0, 15.0, 17.0]);
        assert_eq!(bytes.len(), 8 + length + 4 * (18 + 4));
        assert!(header.get("linear-1.bias").is_none() && header.get("flatten-1.weight").is_none());
    }

    #[test]
    fn parameters_of_another_network_are_refused() {
        let model = Model::logistic(3);
        let error = encode(&model, &[0.0; 3], &[]).unwrap_err().to_string();
        assert_eq!(error, "3 parameters where the network has 4");
    }
}
