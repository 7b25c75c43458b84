//! Parameters of a network layer by layer, as PyTorch arranges them.

use shared::model::{Layer, Model, ModelError};

use crate::onnx::tensor::transposed;

/// One layer's.
#[derive(Clone, PartialEq, Default)]
pub(crate) struct LayerTensors {
    pub(crate) weight: Option<Plain>,
    pub(crate) bias: Option<Plain>,
    pub(crate) running_mean: Option<Plain>,
    pub(crate) running_var: Option<Plain>,
}

/// Numbers with dimensions.
#[derive(Clone, PartialEq)]
pub(crate) struct Plain {
    pub(crate) dims: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

impl Plain {
    fn vector(values: &[f64]) -> Option<Self> {
        (!values.is_empty()).then(|| Self { dims: vec![values.len()], values: values.to_vec() })
    }
}

/// What does not fit: its name, how many there are and how many are due.
pub(crate) type Miscount = (&'static str, usize, usize);

/// All layers' parameters, in PyTorch's order of dimensions.
pub(crate) fn by_layer(
    model: &Model,
    parameters: &[f64],
    buffers: &[f64],
) -> Result<Result<Vec<LayerTensors>, Miscount>, ModelError> {
    let wiring = model.wiring()?;
    for (what, got, due) in
        [("parameters", parameters.len(), wiring.parameters()), ("running averages", buffers.len(), wiring.buffers())]
    {
        if got != due {
            return Ok(Err((what, got, due)));
        }
    }
    let tensors = model.nodes.iter().enumerate().map(|(index, node)| {
        let (place, input) = (wiring.place(index), wiring.input(index));
        let weights = &parameters[place.weights.clone()];
        let weight = match node.layer {
            Layer::Linear { outputs, .. } => Some(rearranged(&[input.channels, outputs], &[1, 0], weights)),
            Layer::Conv(conv) => {
                let dims = [conv.kernel[0], conv.kernel[1], input.channels / conv.groups, conv.channels];
                Some(rearranged(&dims, &[3, 2, 0, 1], weights))
            }
            Layer::ConvTranspose { conv, .. } => {
                let dims = [conv.kernel[0], conv.kernel[1], conv.channels / conv.groups, input.channels];
                Some(rearranged(&dims, &[3, 2, 0, 1], weights))
            }
            _ => Plain::vector(weights),
        };
        let (means, variances) = buffers[place.buffers.clone()].split_at(place.buffers.len() / 2);
        LayerTensors {
            weight,
            bias: Plain::vector(&parameters[place.biases.clone()]),
            running_mean: Plain::vector(means),
            running_var: Plain::vector(variances),
        }
    });
    Ok(Ok(tensors.collect()))
}

fn rearranged(dims: &[usize], order: &[usize], values: &[f64]) -> Plain {
    let (dims, values) = transposed(dims, order, values);
    Plain { dims, values }
}
