//! From layers to operators that every runtime knows. A file that this writes is read back as the same network.

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use shared::model::{Conv, Layer, Model, Pool, Shape, Source};

use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto};
use super::proto::{TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use super::{MESSAGE_BYTES_MAX, OnnxError};
use crate::parameters::{LayerTensors, Plain, by_layer};

/// Operators' version where nothing newer is needed.
const OPSET: i64 = 17;

/// First version with an operator for GELU.
const OPSET_GELU: i64 = 20;

/// First version whose group-norm has a scale for each channel.
const OPSET_GROUP_NORM: i64 = 21;

/// Version of the file format that came with those operators.
const IR_VERSION: i64 = 10;

/// Writes a network with its parameters and running averages as 32-bit floats. Tensors go into a file `<name>.data`
/// beside it if one file cannot hold them.
pub fn write(path: &Path, model: &Model, parameters: &[f64], buffers: &[f64]) -> Result<(), OnnxError> {
    write_with_limit(path, model, parameters, buffers, MESSAGE_BYTES_MAX)
}

pub(super) fn write_with_limit(
    path: &Path,
    model: &Model,
    parameters: &[f64],
    buffers: &[f64],
    bytes_max: u64,
) -> Result<(), OnnxError> {
    let mut proto = encode(model, parameters, buffers)?;
    let io_error = |path: &Path| {
        let path = path.display().to_string();
        |source| OnnxError::Io { path, source }
    };
    if proto.encoded_len() as u64 > bytes_max {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".data");
        let data = path.with_file_name(&name);
        let file = std::fs::File::create(&data).map_err(io_error(&data))?;
        move_out(&mut proto, &name.to_string_lossy(), file).map_err(io_error(&data))?;
    }
    std::fs::write(path, proto.encode_to_vec()).map_err(io_error(path))
}

/// Moves the bytes of all tensors into a file.
fn move_out(proto: &mut ModelProto, name: &str, mut file: std::fs::File) -> std::io::Result<()> {
    use std::io::Write;

    let mut offset = 0;
    for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        let bytes = std::mem::take(&mut tensor.raw_data);
        file.write_all(&bytes)?;
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        tensor.external_data = vec![
            entry("location", name.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", bytes.len().to_string()),
        ];
        tensor.data_location = DataLocation::External as i32;
        offset += bytes.len();
    }
    file.sync_all()
}

/// The message of a network.
pub(super) fn encode(model: &Model, parameters: &[f64], buffers: &[f64]) -> Result<ModelProto, OnnxError> {
    let layers = by_layer(model, parameters, buffers)?;
    let layers = layers.map_err(|(what, got, due)| OnnxError::Count { what, got, due })?;
    let wiring = model.wiring()?;
    let input = Value { name: "input".into(), shape: model.input, axes: axes_of(model.input) };
    let mut exporter = Exporter { nodes: Vec::new(), initializers: Vec::new(), values: Vec::new(), input };
    for (index, (node, tensors)) in model.nodes.iter().zip(layers).enumerate() {
        let last = index + 1 == model.nodes.len();
        let mut writer = Writer { exporter: &mut exporter, name: &node.name, last, parts: 0 };
        let inputs = node.inputs.iter().map(|source| writer.exporter.value(*source)).collect::<Vec<_>>();
        let result = writer.layer(&node.layer, &inputs, tensors, wiring.output(index));
        exporter.values.push(result);
    }
    let output = exporter.values.last().cloned();
    let output = output.unwrap_or_else(|| {
        let Value { name, shape, axes } = exporter.input.clone();
        exporter.nodes.push(node("Identity", "identity", vec![name], "output", vec![]));
        Value { name: "output".into(), shape, axes }
    });
    let has = |wanted: fn(&Layer) -> bool| model.nodes.iter().any(|node| wanted(&node.layer));
    let version = if has(|layer| matches!(layer, Layer::GroupNorm { .. })) {
        OPSET_GROUP_NORM
    } else if has(|layer| *layer == Layer::Gelu) {
        OPSET_GELU
    } else {
        OPSET
    };
    let graph = GraphProto {
        name: "trefoil".into(),
        node: exporter.nodes,
        initializer: exporter.initializers,
        input: vec![exporter.input.info()],
        output: vec![output.info()],
        ..GraphProto::default()
    };
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "trefoil".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version }],
        graph: Some(graph),
        ..ModelProto::default()
    })
}

/// A result, counted channel by channel in the file.
#[derive(Clone)]
struct Value {
    name: String,
    shape: Shape,
    /// Dimensions behind the batch: 1 for vectors, 2 for sequences, 3 for images.
    axes: usize,
}

impl Value {
    fn dims(&self) -> Vec<usize> {
        let Shape { channels, height, width } = self.shape;
        match self.axes {
            1 => vec![channels],
            2 => vec![channels, width],
            _ => vec![channels, height, width],
        }
    }

    fn info(&self) -> ValueInfoProto {
        let size = |size: usize| dimension::Value::DimValue(i64::try_from(size).expect("sizes fit in 32 bits"));
        let batch = dimension::Value::DimParam("batch".into());
        let dims = std::iter::once(batch).chain(self.dims().into_iter().map(size));
        let dim = dims.map(|value| Dimension { value: Some(value), ..Dimension::default() }).collect();
        let shape = Some(TensorShapeProto { dim });
        let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape };
        let value = Some(type_proto::Value::TensorType(tensor));
        let r#type = Some(TypeProto { value, ..TypeProto::default() });
        ValueInfoProto { name: self.name.clone(), r#type, ..ValueInfoProto::default() }
    }
}

fn axes_of(shape: Shape) -> usize {
    match shape {
        Shape { height: 1, width: 1, .. } => 1,
        Shape { height: 1, .. } => 2,
        _ => 3,
    }
}

struct Exporter {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    values: Vec<Value>,
    input: Value,
}

impl Exporter {
    fn value(&self, source: Source) -> Value {
        match source {
            Source::Input => self.input.clone(),
            Source::Node(node) => self.values[node].clone(),
        }
    }

    fn constant(&mut self, name: String, dims: &[usize], data_type: DataType, raw_data: Vec<u8>) -> String {
        let dims = dims.iter().map(|&size| i64::try_from(size).expect("sizes fit in 32 bits")).collect();
        let raw_data = Bytes::from(raw_data);
        let tensor =
            TensorProto { name: name.clone(), dims, data_type: data_type as i32, raw_data, ..TensorProto::default() };
        self.initializers.push(tensor);
        name
    }

    fn floats(&mut self, name: String, dims: &[usize], values: &[f64]) -> String {
        #[allow(clippy::cast_possible_truncation, reason = "written as 32-bit floats")]
        let bytes = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
        self.constant(name, dims, DataType::Float, bytes)
    }
}

/// Writes the operators of one layer: the one that matters has its name. Names of values end in a part behind a dot, so
/// that layers whose names differ never share one.
struct Writer<'a> {
    exporter: &'a mut Exporter,
    name: &'a str,
    last: bool,
    parts: usize,
}

impl Writer<'_> {
    fn layer(&mut self, layer: &Layer, inputs: &[Value], tensors: LayerTensors, output: Shape) -> Value {
        let first = &inputs[0];
        let simple = |writer: &mut Self, operator| writer.main(operator, first, vec![], vec![], output);
        match *layer {
            Layer::Linear { .. } => self.linear(first, tensors, output),
            Layer::Conv(conv) => self.conv("Conv", first, &conv, None, tensors, output),
            Layer::ConvTranspose { conv, extra } => {
                self.conv("ConvTranspose", first, &conv, Some(extra), tensors, output)
            }
            Layer::MaxPool(pool) => self.pool("MaxPool", first, &pool, vec![], output),
            Layer::AveragePool { pool, count_padding } => {
                let counts = integer("count_include_pad", i64::from(count_padding));
                self.pool("AveragePool", first, &pool, vec![counts], output)
            }
            Layer::AdaptiveAveragePool { .. } => self.adaptive_pool(first, output),
            Layer::BatchNorm { epsilon, momentum } => {
                let constants = [tensors.weight, tensors.bias, tensors.running_mean, tensors.running_var];
                let names = ["weight", "bias", "running_mean", "running_var"];
                let constants = self.named(names, constants);
                let attributes = vec![float("epsilon", epsilon), float("momentum", 1.0 - momentum)];
                self.main("BatchNormalization", first, constants, attributes, output)
            }
            Layer::LayerNorm { epsilon } => {
                let constants = self.named(["weight", "bias"], [tensors.weight, tensors.bias]);
                let attributes = vec![float("epsilon", epsilon), integer("axis", -1)];
                let last = self.channels_last(first);
                let result = self.main_at(&last, "LayerNormalization", constants, attributes, first.axes > 1);
                self.channels_first(first, result, output)
            }
            Layer::GroupNorm { groups, epsilon } => {
                let constants = self.named(["weight", "bias"], [tensors.weight, tensors.bias]);
                let groups = i64::try_from(groups).expect("sizes fit in 32 bits");
                let attributes = vec![float("epsilon", epsilon), integer("num_groups", groups)];
                self.main("GroupNormalization", first, constants, attributes, output)
            }
            Layer::Scale => {
                let dims = [&[output.channels], &[1, 1][..first.axes - 1]].concat();
                let mut constant = |kind: &str, tensor: Option<Plain>| {
                    let values = tensor.map_or(vec![], |tensor| tensor.values);
                    self.exporter.floats(format!("{}.{kind}", self.name), &dims, &values)
                };
                let (scale, shift) = (constant("weight", tensors.weight), constant("bias", tensors.bias));
                let scaled = self.main_at(&first.name, "Mul", vec![scale], vec![], true);
                Value { name: self.end("Add", vec![scaled, shift], vec![]), shape: output, axes: first.axes }
            }
            Layer::Dropout { probability, .. } => {
                let ratio = self.exporter.floats(format!("{}.ratio", self.name), &[], &[probability]);
                self.main("Dropout", first, vec![ratio], vec![], output)
            }
            Layer::Flatten => {
                let result = self.main("Flatten", first, vec![], vec![integer("axis", 1)], output);
                Value { axes: 1, ..result }
            }
            Layer::Reshape { shape } => self.reshaped(first, shape, axes_of(shape), true),
            Layer::Concat => {
                let names = self.alike(inputs, first.axes);
                let result = self.main_of(names, "Concat", vec![integer("axis", 1)]);
                Value { name: result, shape: output, axes: first.axes }
            }
            Layer::Add | Layer::Subtract | Layer::Multiply => {
                let operator = match layer {
                    Layer::Add if inputs.len() > 2 => "Sum",
                    Layer::Add => "Add",
                    Layer::Subtract => "Sub",
                    _ => "Mul",
                };
                let names = self.alike(inputs, first.axes);
                let result = self.main_of(names, operator, vec![]);
                Value { name: result, shape: output, axes: first.axes }
            }
            Layer::Clip { low, high } => {
                let low = self.exporter.floats(format!("{}.low", self.name), &[], &[low]);
                let high = self.exporter.floats(format!("{}.high", self.name), &[], &[high]);
                self.main("Clip", first, vec![low, high], vec![], output)
            }
            Layer::LeakyRelu { slope } => self.main("LeakyRelu", first, vec![], vec![float("alpha", slope)], output),
            Layer::Silu => {
                let gate = self.part("Sigmoid", vec![first.name.clone()], vec![]);
                let result = self.main_of(vec![first.name.clone(), gate], "Mul", vec![]);
                Value { name: result, shape: output, axes: first.axes }
            }
            Layer::Relu => simple(self, "Relu"),
            Layer::Gelu => simple(self, "Gelu"),
            Layer::Softplus => simple(self, "Softplus"),
            Layer::Sigmoid => simple(self, "Sigmoid"),
            Layer::Tanh => simple(self, "Tanh"),
            Layer::Softmax => self.main("Softmax", first, vec![], vec![integer("axis", 1)], output),
            Layer::LogSoftmax => self.main("LogSoftmax", first, vec![], vec![integer("axis", 1)], output),
        }
    }

    fn linear(&mut self, input: &Value, tensors: LayerTensors, output: Shape) -> Value {
        if input.axes == 1 {
            let constants = self.named(["weight", "bias"], [tensors.weight, tensors.bias]);
            return self.main("Gemm", input, constants, vec![integer("transB", 1)], output);
        }
        // A matrix behind values, of inputs x outputs.
        let weight = tensors.weight.map(|weight| {
            let (dims, values) = super::tensor::transposed(&weight.dims, &[1, 0], &weight.values);
            Plain { dims, values }
        });
        let weights = self.named(["weight"], [weight]);
        let last = self.channels_last(input);
        let mut result = self.main_at(&last, "MatMul", weights, vec![], true);
        if let [bias] = &self.named(["bias"], [tensors.bias])[..] {
            result = self.part("Add", vec![result, bias.clone()], vec![]);
        }
        self.channels_first(input, result, output)
    }

    fn conv(
        &mut self,
        operator: &str,
        input: &Value,
        conv: &Conv,
        extra: Option<[usize; 2]>,
        tensors: LayerTensors,
        output: Shape,
    ) -> Value {
        let Conv { kernel, stride, padding, dilation, groups, .. } = *conv;
        let flat = kernel[0] == 1 && stride[0] == 1 && padding[0] + padding[2] == 0 && extra.is_none_or(|e| e[0] == 0);
        let axes = if input.axes == 2 && flat { 2 } else { 3 };
        let weight = tensors.weight.map(|mut weight| {
            weight.dims.truncate(if axes == 2 { 2 } else { 4 });
            weight.dims.extend((axes == 2).then_some(kernel[1]));
            weight
        });
        let constants = self.named(["weight", "bias"], [weight, tensors.bias]);
        let mut attributes = vec![
            sizes("kernel_shape", &kernel[3 - axes..]),
            sizes("strides", &stride[3 - axes..]),
            sizes("dilations", &dilation[3 - axes..]),
            pads(padding, axes),
            integer("group", i64::try_from(groups).expect("sizes fit in 32 bits")),
        ];
        attributes.extend(extra.map(|extra| sizes("output_padding", &extra[3 - axes..])));
        let input = self.reshaped(input, input.shape, axes, false);
        self.main(operator, &input, constants, attributes, output)
    }

    fn pool(
        &mut self,
        operator: &str,
        input: &Value,
        pool: &Pool,
        mut attributes: Vec<AttributeProto>,
        output: Shape,
    ) -> Value {
        let Pool { kernel, stride, padding } = *pool;
        let flat = kernel[0] == 1 && stride[0] == 1 && padding[0] + padding[2] == 0;
        let axes = if input.axes == 2 && flat { 2 } else { 3 };
        attributes.extend([
            sizes("kernel_shape", &kernel[3 - axes..]),
            sizes("strides", &stride[3 - axes..]),
            pads(padding, axes),
        ]);
        let input = self.reshaped(input, input.shape, axes, false);
        self.main(operator, &input, vec![], attributes, output)
    }

    fn adaptive_pool(&mut self, input: &Value, output: Shape) -> Value {
        let axes = if input.axes == 1 { 3 } else { input.axes };
        let input = self.reshaped(input, input.shape, axes, false);
        let from = [input.shape.height, input.shape.width];
        let to = [output.height, output.width];
        if to == [1, 1] {
            return self.main("GlobalAveragePool", &input, vec![], vec![], output);
        }
        if from[0].is_multiple_of(to[0]) && from[1].is_multiple_of(to[1]) {
            let kernel = [from[0] / to[0], from[1] / to[1]];
            return self.pool("AveragePool", &input, &Pool { kernel, stride: kernel, padding: [0; 4] }, vec![], output);
        }
        // Windows of several sizes: products with matrices of means, over columns and then over rows.
        let mut name = input.name.clone();
        for axis in [1, 0] {
            if from[axis] != to[axis] {
                let means = means(from[axis], to[axis]);
                let kind = ["rows", "columns"][axis];
                let constant = format!("{}.{kind}", self.name);
                let matrix = self.exporter.floats(constant, &[from[axis], to[axis]], &means);
                let swap = vec![integers("perm", &[0, 1, 3, 2])];
                if axis == 0 {
                    name = self.part("Transpose", vec![name], swap.clone());
                }
                name = self.part("MatMul", vec![name, matrix], vec![]);
                if axis == 0 {
                    name = self.part("Transpose", vec![name], swap);
                }
            }
        }
        Value { name: self.end("Identity", vec![name], vec![]), shape: output, axes }
    }

    /// The same elements, counted channel by channel, under other dimensions.
    fn reshaped(&mut self, value: &Value, shape: Shape, axes: usize, is_layer: bool) -> Value {
        let result = Value { name: String::new(), shape, axes };
        if !is_layer && axes == value.axes {
            return value.clone();
        }
        let dims = result.dims();
        let list =
            std::iter::once(-1).chain(dims.iter().map(|&size| i64::try_from(size).expect("sizes fit in 32 bits")));
        let bytes = list.flat_map(i64::to_le_bytes).collect();
        let name = format!("{}.shape-{}", self.name, self.parts);
        let target = self.exporter.constant(name, &[dims.len() + 1], DataType::Int64, bytes);
        let inputs = vec![value.name.clone(), target];
        let name =
            if is_layer { self.main_of(inputs, "Reshape", vec![]) } else { self.part("Reshape", inputs, vec![]) };
        Value { name, ..result }
    }

    /// Values of one shape under the same dimensions.
    fn alike(&mut self, values: &[Value], axes: usize) -> Vec<String> {
        values.iter().map(|value| self.reshaped(value, value.shape, axes, false).name).collect()
    }

    fn channels_last(&mut self, value: &Value) -> String {
        match value.axes {
            1 => value.name.clone(),
            2 => self.part("Transpose", vec![value.name.clone()], vec![integers("perm", &[0, 2, 1])]),
            _ => self.part("Transpose", vec![value.name.clone()], vec![integers("perm", &[0, 2, 3, 1])]),
        }
    }

    fn channels_first(&mut self, input: &Value, name: String, shape: Shape) -> Value {
        let name = match input.axes {
            1 => name,
            2 => self.end("Transpose", vec![name], vec![integers("perm", &[0, 2, 1])]),
            _ => self.end("Transpose", vec![name], vec![integers("perm", &[0, 3, 1, 2])]),
        };
        Value { name, shape, axes: input.axes }
    }

    /// Constants that are there, under the names that PyTorch would give them.
    fn named<const N: usize>(&mut self, kinds: [&str; N], tensors: [Option<Plain>; N]) -> Vec<String> {
        let present = kinds.into_iter().zip(tensors).filter_map(|(kind, tensor)| Some((kind, tensor?)));
        let names = present.map(|(kind, Plain { dims, values })| {
            self.exporter.floats(format!("{}.{kind}", self.name), &dims, &values)
        });
        names.collect()
    }

    /// The operator that the layer is, behind which nothing follows.
    fn main(
        &mut self,
        operator: &str,
        input: &Value,
        constants: Vec<String>,
        attributes: Vec<AttributeProto>,
        output: Shape,
    ) -> Value {
        let name = self.main_at(&input.name, operator, constants, attributes, false);
        Value { name, shape: output, axes: input.axes }
    }

    fn main_at(
        &mut self,
        input: &str,
        operator: &str,
        constants: Vec<String>,
        attributes: Vec<AttributeProto>,
        more_follows: bool,
    ) -> String {
        let inputs = std::iter::once(input.to_owned()).chain(constants).collect();
        let result = if more_follows { format!("{}.0", self.name) } else { self.result() };
        self.exporter.nodes.push(node(operator, self.name, inputs, &result, attributes));
        result
    }

    fn main_of(&mut self, inputs: Vec<String>, operator: &str, attributes: Vec<AttributeProto>) -> String {
        let result = self.result();
        self.exporter.nodes.push(node(operator, self.name, inputs, &result, attributes));
        result
    }

    /// Another operator of the layer.
    fn part(&mut self, operator: &str, inputs: Vec<String>, attributes: Vec<AttributeProto>) -> String {
        self.parts += 1;
        let name = format!("{}.{}", self.name, self.parts);
        self.exporter.nodes.push(node(operator, &name, inputs, &name, attributes));
        name
    }

    /// The last operator of a layer that has several.
    fn end(&mut self, operator: &str, inputs: Vec<String>, attributes: Vec<AttributeProto>) -> String {
        self.parts += 1;
        let (name, result) = (format!("{}.{}", self.name, self.parts), self.result());
        self.exporter.nodes.push(node(operator, &name, inputs, &result, attributes));
        result
    }

    fn result(&self) -> String {
        if self.last { "output".to_owned() } else { format!("{}.result", self.name) }
    }
}

/// A matrix whose products are means over near-equal windows.
fn means(from: usize, to: usize) -> Vec<f64> {
    let mut matrix = vec![0.0; from * to];
    for window in 0..to {
        let cells = window * from / to..((window + 1) * from).div_ceil(to);
        #[allow(clippy::cast_precision_loss, reason = "cells of a window")]
        let share = 1.0 / cells.len() as f64;
        cells.for_each(|cell| matrix[cell * to + window] = share);
    }
    matrix
}

fn node(operator: &str, name: &str, input: Vec<String>, output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let output = vec![output.to_owned()];
    NodeProto { op_type: operator.into(), name: name.into(), input, output, attribute, ..NodeProto::default() }
}

fn integer(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..AttributeProto::default() }
}

fn integers(name: &str, ints: &[i64]) -> AttributeProto {
    let ints = ints.to_vec();
    AttributeProto { name: name.into(), r#type: AttributeType::Ints as i32, ints, ..AttributeProto::default() }
}

fn float(name: &str, value: f64) -> AttributeProto {
    #[allow(clippy::cast_possible_truncation, reason = "attributes are 32-bit floats")]
    let f = value as f32;
    AttributeProto { name: name.into(), r#type: AttributeType::Float as i32, f, ..AttributeProto::default() }
}

fn sizes(name: &str, sizes: &[usize]) -> AttributeProto {
    let ints: Vec<i64> = sizes.iter().map(|&size| i64::try_from(size).expect("sizes fit in 32 bits")).collect();
    integers(name, &ints)
}

/// Padding at the beginnings of all axes, then at their ends.
fn pads([top, left, bottom, right]: [usize; 4], axes: usize) -> AttributeProto {
    if axes == 2 { sizes("pads", &[left, right]) } else { sizes("pads", &[top, left, bottom, right]) }
}
