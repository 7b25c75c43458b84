//! From operators to layers: walks the graph towards its result and keeps layouts, constants and sizes symbolic.

mod activation;
mod arithmetic;
mod dense;
mod norms;
mod shapes;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use shared::model::{Layer, Loss, Model, Node, Shape, Source};

use super::constants::{self, Sizes};
use super::op::Op;
use super::proto::{GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, tensor_proto::DataType};
use super::proto::{tensor_shape_proto::dimension, type_proto};
use super::tensor::Tensor;
use super::{Imported, OPSET_MAX, OPSET_MIN, OnnxError, Port};
use activation::{Activation, Affine, Base, Role, arrange, shape_of};

/// The newest version of scikit-learn's operators that is read.
const ML_OPSET_MAX: i64 = 5;

/// What a name in the graph stands for.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Known from the file.
    Constant(Rc<Tensor>),
    /// Sizes of tensors, where the batch's is open.
    Sizes(Sizes),
    /// Computed from the sample.
    Activation(Activation),
}

/// A layer with its parameters.
struct Built {
    node: Node,
    output: Shape,
    weights: Vec<f64>,
    biases: Vec<f64>,
    buffers: Vec<f64>,
}

/// What is known while the graph is walked.
pub(super) struct Importer<'a> {
    graph: &'a GraphProto,
    folder: &'a Path,
    opsets: BTreeMap<&'a str, i64>,
    constants: BTreeMap<&'a str, Rc<Tensor>>,
    /// How many operators take a value.
    uses: BTreeMap<&'a str, usize>,
    values: BTreeMap<&'a str, Value>,
    input: Shape,
    /// Samples in a batch, if the file fixes them.
    batch: Option<usize>,
    built: Vec<Built>,
    notes: Vec<String>,
}

/// Reads a graph as a network.
pub(super) fn import(model: &ModelProto, graph: &GraphProto, folder: &Path) -> Result<Imported, OnnxError> {
    let opsets = opsets(model)?;
    let input = sample(graph)?;
    // Nothing in a file tells channels from positions: operators do. PyTorch's order comes first.
    let mut first_error = None;
    for roles in arrangements(input.dims.len()) {
        let mut importer = Importer::new(graph, folder, opsets.clone())?;
        match importer.run(&input, roles) {
            Ok(imported) => return Ok(imported),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.expect("at least one arrangement was tried"))
}

fn opsets(model: &ModelProto) -> Result<BTreeMap<&str, i64>, OnnxError> {
    let mut opsets = BTreeMap::new();
    for set in &model.opset_import {
        let domain = if set.domain == "ai.onnx" { "" } else { set.domain.as_str() };
        let range = match domain {
            "" => OPSET_MIN..=OPSET_MAX,
            "ai.onnx.ml" => 1..=ML_OPSET_MAX,
            // Nodes of other sets are refused by name.
            _ => i64::MIN..=i64::MAX,
        };
        if !range.contains(&set.version) {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            return Err(OnnxError::Opset {
                domain: domain.to_owned(),
                version: set.version,
                min: *range.start(),
                max: *range.end(),
            });
        }
        opsets.insert(domain, set.version);
    }
    Ok(opsets)
}

/// The one input that is no constant.
struct Sample {
    name: String,
    dims: Vec<usize>,
    batch: Option<usize>,
}

fn sample(graph: &GraphProto) -> Result<Sample, OnnxError> {
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut inputs = graph.input.iter().filter(|input| !constants.contains(input.name.as_str()));
    let error = |name: &str, why: String| OnnxError::Port { what: "input", name: name.to_owned(), why };
    let Some(input) = inputs.next() else {
        return Err(error("", "the graph has none".into()));
    };
    if let Some(other) = inputs.next() {
        let why = format!("{:?} is another one; networks of one input can be read", input.name);
        return Err(error(&other.name, why));
    }
    let Some(type_proto::Value::TensorType(tensor)) = type_of(input) else {
        return Err(error(&input.name, "no tensor".into()));
    };
    let dims = tensor.shape.as_ref().ok_or_else(|| error(&input.name, "its dimensions are not known".into()))?;
    let sizes: Vec<Option<usize>> = dims
        .dim
        .iter()
        .map(|dim| match dim.value {
            Some(dimension::Value::DimValue(size)) => usize::try_from(size).ok(),
            _ => None,
        })
        .collect();
    let Some((batch, rest)) = sizes.split_first() else {
        return Err(error(&input.name, "a single number: the first dimension must be the batch".into()));
    };
    let open =
        "dimensions but the first must be fixed numbers (export the model with dynamic_axes for the batch alone)";
    let rest = rest.iter().copied().collect::<Option<Vec<_>>>().ok_or_else(|| error(&input.name, open.into()))?;
    if rest.len() > 3 || rest.contains(&0) {
        return Err(error(
            &input.name,
            format!("samples of dimensions {rest:?}: one to three, none zero, are possible"),
        ));
    }
    Ok(Sample { name: input.name.clone(), dims: rest, batch: *batch })
}

fn type_of(info: &ValueInfoProto) -> Option<&type_proto::Value> {
    info.r#type.as_ref().and_then(|TypeProto { value, .. }| value.as_ref())
}

/// What a sample's axes may count, most usual first.
fn arrangements(axes: usize) -> &'static [&'static [Role]] {
    use Role::{Channels, Height, Width};
    match axes {
        0 => &[&[]],
        1 => &[&[Channels]],
        2 => &[&[Channels, Width], &[Width, Channels]],
        _ => &[&[Channels, Height, Width], &[Height, Width, Channels]],
    }
}

impl<'a> Importer<'a> {
    fn new(graph: &'a GraphProto, folder: &'a Path, opsets: BTreeMap<&'a str, i64>) -> Result<Self, OnnxError> {
        Ok(Self {
            graph,
            folder,
            opsets,
            constants: BTreeMap::new(),
            uses: BTreeMap::new(),
            values: BTreeMap::new(),
            input: Shape::vector(1),
            batch: None,
            built: Vec::new(),
            notes: Vec::new(),
        })
    }

    fn run(&mut self, sample: &Sample, roles: &[Role]) -> Result<Imported, OnnxError> {
        let size = |role| roles.iter().position(|r| *r == role).map_or(1, |axis| sample.dims[axis]);
        let (channels, height, width) = (size(Role::Channels), size(Role::Height), size(Role::Width));
        self.input = Shape { channels, height, width };
        self.batch = sample.batch;
        let input = Activation::of_sample(arrange(roles, self.input));
        let port = Port { name: sample.name.clone(), dims: sample.dims.clone(), order: input.order() };
        let graph = self.graph;
        if let Some(info) = graph.input.iter().find(|input| input.name == sample.name) {
            self.values.insert(&info.name, Value::Activation(input));
        }
        let output = self.choose_output()?;
        let needed = self.needed(&output)?;
        for tensor in &graph.initializer {
            if self.uses.contains_key(tensor.name.as_str()) {
                self.constants.insert(&tensor.name, Rc::new(Tensor::read(tensor, self.folder)?));
            }
        }
        for node in needed {
            self.step(node)?;
        }
        self.finish(port, &output)
    }

    /// The result to compute: of several, the scores and not the label.
    fn choose_output(&mut self) -> Result<String, OnnxError> {
        let scores = |info: &&ValueInfoProto| match type_of(info) {
            Some(type_proto::Value::TensorType(tensor)) => {
                let kind = DataType::try_from(tensor.elem_type).unwrap_or(DataType::Undefined);
                !matches!(kind, DataType::Int64 | DataType::Int32 | DataType::String | DataType::Bool)
            }
            _ => true,
        };
        let outputs = &self.graph.output;
        let Some(chosen) = outputs.iter().find(scores).or(outputs.first()) else {
            return Err(OnnxError::Port { what: "output", name: String::new(), why: "the graph has none".into() });
        };
        if outputs.len() > 1 {
            let others: Vec<_> = outputs.iter().map(|o| o.name.as_str()).filter(|name| *name != chosen.name).collect();
            self.notes.push(format!("of several outputs {:?} is computed, not {}", chosen.name, others.join(", ")));
        }
        Ok(chosen.name.clone())
    }

    /// Nodes that the output depends on, in the file's order, which must be one in which they can be computed.
    fn needed(&mut self, output: &str) -> Result<Vec<&'a NodeProto>, OnnxError> {
        let graph = self.graph;
        let mut wanted: BTreeSet<&str> = BTreeSet::from([output]);
        let mut nodes = Vec::new();
        for node in graph.node.iter().rev() {
            if node.output.iter().any(|name| !name.is_empty() && wanted.contains(name.as_str())) {
                wanted.extend(node.input.iter().map(String::as_str));
                node.input.iter().for_each(|name| *self.uses.entry(name.as_str()).or_default() += 1);
                nodes.push(node);
            }
        }
        if let Some(info) = graph.output.iter().find(|info| info.name == output) {
            *self.uses.entry(&info.name).or_default() += 1;
        }
        nodes.reverse();
        Ok(nodes)
    }

    fn step(&mut self, node: &'a NodeProto) -> Result<(), OnnxError> {
        let domain = if node.domain == "ai.onnx" { "" } else { node.domain.as_str() };
        let op = Op { proto: node, opset: self.opsets.get(domain).copied().unwrap_or(1) };
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            inputs.push(if name.is_empty() { None } else { Some(self.take(&op, name)?) });
        }
        let values = match constants::fold(&op, &inputs, self.folder)? {
            Some(values) => values,
            None => self.convert(&op, inputs)?,
        };
        for (name, value) in node.output.iter().zip(values) {
            self.values.insert(name, value);
        }
        Ok(())
    }

    /// The value of a name, as one operator takes it.
    fn take(&mut self, op: &Op<'a>, name: &'a str) -> Result<Value, OnnxError> {
        let sole = self.uses.get(name) == Some(&1);
        match (self.values.get(name), self.constants.get(name)) {
            (Some(Value::Activation(value)), _) => {
                Ok(Value::Activation(Activation { sole: value.sole && sole, ..value.clone() }))
            }
            (Some(value), _) => Ok(value.clone()),
            (None, Some(tensor)) => Ok(Value::Constant(tensor.clone())),
            (None, None) => Err(OnnxError::Missing { node: op.name().to_owned(), value: name.to_owned() }),
        }
    }

    /// Layers for an operator; values for its results.
    fn convert(&mut self, op: &Op<'a>, inputs: Vec<Option<Value>>) -> Result<Vec<Value>, OnnxError> {
        let inputs = Inputs(inputs);
        let result = match (op.proto.domain.as_str(), op.kind()) {
            ("" | "ai.onnx", kind) => match kind {
                "Identity" | "Cast" | "CastLike" => inputs.activation(op, 0)?,
                "Relu" => self.pointwise(op, &inputs, Layer::Relu)?,
                "LeakyRelu" => {
                    let slope = op.float("alpha", 0.01);
                    self.pointwise(op, &inputs, Layer::LeakyRelu { slope })?
                }
                "PRelu" => self.prelu(op, &inputs)?,
                "Abs" => self.pointwise(op, &inputs, Layer::LeakyRelu { slope: -1.0 })?,
                "Sigmoid" => self.pointwise(op, &inputs, Layer::Sigmoid)?,
                "Tanh" => self.pointwise(op, &inputs, Layer::Tanh)?,
                "Softplus" => self.pointwise(op, &inputs, Layer::Softplus)?,
                "Gelu" => self.gelu(op, &inputs)?,
                "Swish" => self.swish(op, &inputs)?,
                "Mish" => self.mish(op, &inputs)?,
                "HardSigmoid" | "HardSwish" => self.hard_sigmoid(op, &inputs)?,
                "Erf" => self.erf(op, &inputs)?,
                "Sqrt" => self.deviation(op, &inputs)?,
                "Greater" => self.large(op, &inputs)?,
                "Where" => self.softplus_of(op, &inputs)?,
                "Clip" => self.clip(op, &inputs)?,
                "Dropout" => self.dropout(op, &inputs)?,
                "Softmax" | "LogSoftmax" => self.softmax(op, &inputs)?,
                "Add" | "Sub" | "Mul" | "Div" | "Sum" | "Mean" | "Neg" | "Pow" | "Max" | "Min" => {
                    self.arithmetic(op, &inputs)?
                }
                "Gemm" => self.gemm(op, &inputs)?,
                "MatMul" => self.matmul(op, &inputs)?,
                "Conv" => self.conv(op, &inputs)?,
                "ConvTranspose" => self.conv_transpose(op, &inputs)?,
                "MaxPool" => self.max_pool(op, &inputs)?,
                "AveragePool" => self.average_pool(op, &inputs)?,
                "GlobalAveragePool" | "GlobalMaxPool" => self.global_pool(op, &inputs)?,
                "ReduceMean" | "ReduceSum" => self.reduce(op, &inputs)?,
                "Pad" => self.pad(op, &inputs)?,
                "BatchNormalization" => self.batch_norm(op, &inputs)?,
                "LayerNormalization" => self.layer_norm(op, &inputs)?,
                "InstanceNormalization" | "GroupNormalization" => self.group_norm(op, &inputs)?,
                "Flatten" => self.flatten(op, &inputs)?,
                "Reshape" => self.reshape(op, &inputs)?,
                "Squeeze" | "Unsqueeze" => self.squeeze(op, &inputs)?,
                "Transpose" => self.transpose(op, &inputs)?,
                "Concat" => self.concat(op, &inputs)?,
                "Shape" => return self.shape(op, &inputs).map(|sizes| vec![Value::Sizes(sizes)]),
                _ => return Err(unsupported(op)),
            },
            ("ai.onnx.ml", "LinearClassifier") => {
                let scores = self.linear_classifier(op, &inputs)?;
                // Its first result, the label, is not computed; whoever takes it is refused below.
                self.values.extend(op.proto.output.get(1).map(|name| (name.as_str(), Value::Activation(scores))));
                return Ok(vec![]);
            }
            ("ai.onnx.ml", "LinearRegressor") => self.linear_regressor(op, &inputs)?,
            ("ai.onnx.ml", "Scaler") => self.scaler(op, &inputs)?,
            ("ai.onnx.ml", "Normalizer") => self.normalizer(op, &inputs)?,
            ("ai.onnx.ml", "ZipMap") => inputs.activation(op, 0)?,
            _ => return Err(unsupported(op)),
        };
        Ok(vec![Value::Activation(result)])
    }

    /// Adds a layer behind others.
    fn add(&mut self, op: &Op<'_>, layer: Layer, from: &[Source]) -> Result<Source, OnnxError> {
        self.add_with(op, op.name(), layer, from, [vec![], vec![], vec![]])
    }

    /// Adds a layer with weights, biases and running averages.
    fn add_with(
        &mut self,
        op: &Op<'_>,
        name: &str,
        layer: Layer,
        from: &[Source],
        parameters: [Vec<f64>; 3],
    ) -> Result<Source, OnnxError> {
        let shapes: Vec<Shape> = from.iter().map(|source| self.shape_at(*source)).collect();
        let output = layer.output(&shapes).map_err(|why| op.refused(why.to_string(), "change the model"))?;
        let [weights, biases, buffers] = parameters;
        let due = (layer.parameters(shapes[0]), layer.buffers(shapes[0]));
        if due != ([weights.len(), biases.len()], buffers.len()) {
            let why = format!(
                "{} weights, {} biases and {} averages where {}, {} and {} are due for samples of shape {}",
                weights.len(),
                biases.len(),
                buffers.len(),
                due.0[0],
                due.0[1],
                due.1,
                shapes[0]
            );
            return Err(op.refused(why, "check the shapes of its initializers"));
        }
        let node = Node { name: name.to_owned(), layer, inputs: from.to_vec() };
        self.built.push(Built { node, output, weights, biases, buffers });
        Ok(Source::Node(self.built.len() - 1))
    }

    fn shape_at(&self, source: Source) -> Shape {
        match source {
            Source::Input => self.input,
            Source::Node(node) => self.built[node].output,
        }
    }

    /// The layer's result that an activation stands for, with everything applied that was put off.
    fn source(&mut self, op: &Op<'_>, value: &Activation) -> Result<Source, OnnxError> {
        if value.padding != [0; 4] {
            let nearest = "a Conv, or an AveragePool that counts its padding, must take the padded result";
            return Err(op.refused("its input comes from Pad", nearest));
        }
        let Base::Source(source) = value.base else {
            let (why, nearest) = match value.base {
                Base::Erf(_) => ("the error function on its own", "x * 0.5 * (1 + erf(x / sqrt(2))) is read as GELU"),
                Base::Large(_) => ("comparisons on their own", "Relu, Clip, Max and Min are supported"),
                _ => ("a part of a layer-norm on its own", "LayerNormalization, or all of its parts, can be read"),
            };
            return Err(op.refused(why, nearest));
        };
        let Some(affine) = &value.affine else { return Ok(source) };
        let channels = self.shape_at(source).channels;
        let (scale, shift) = affine.per_channel(channels);
        self.add_with(op, &affine.name, Layer::Scale, &[source], [scale, shift, vec![]])
    }

    /// The source of values that are counted channel by channel, in this shape.
    fn image(&mut self, op: &Op<'_>, value: &Activation, shape: Shape) -> Result<Source, OnnxError> {
        let source = self.source(op, value)?;
        if !value.is_channels_first() {
            let nearest = "PyTorch's order is read: batch, channels, rows, columns";
            return Err(op.refused("its input has channels behind positions", nearest));
        }
        if self.shape_at(source) == shape {
            return Ok(source);
        }
        let layer = if shape == Shape::vector(shape.len()) { Layer::Flatten } else { Layer::Reshape { shape } };
        self.add(op, layer, &[source])
    }

    /// A layer that treats every element, or the channels of every position, alike.
    fn pointwise(&mut self, op: &Op<'a>, inputs: &Inputs, layer: Layer) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let source = self.source(op, &value)?;
        let result = self.add(op, layer, &[source])?;
        Ok(value.like(result, self.shape_at(result)))
    }

    /// The network up to the output.
    fn finish(&mut self, input: Port, output: &str) -> Result<Imported, OnnxError> {
        let error = |why: &str| OnnxError::Port { what: "output", name: output.to_owned(), why: why.into() };
        let value = match self.values.get(output) {
            Some(Value::Activation(value)) => value.clone(),
            Some(_) => return Err(error("it does not depend on the input")),
            None => return Err(error("nothing computes it")),
        };
        let identity = NodeProto { name: output.to_owned(), op_type: "output".into(), ..NodeProto::default() };
        let identity = Op { proto: &identity, opset: self.opsets.get("").copied().unwrap_or(OPSET_MAX) };
        let source = self.source(&identity, &value)?;
        let port = Port { name: output.to_owned(), dims: value.dims(), order: value.order() };
        let kept = self.reachable(source);
        let mut places = vec![0; self.built.len()];
        let (mut nodes, mut parameters, mut buffers) = (Vec::new(), Vec::new(), Vec::new());
        let mut names = BTreeMap::<String, usize>::new();
        for (index, built) in std::mem::take(&mut self.built).into_iter().enumerate() {
            if !kept.contains(&index) {
                continue;
            }
            places[index] = nodes.len();
            let renumber = |source: &Source| match *source {
                Source::Input => Source::Input,
                Source::Node(node) => Source::Node(places[node]),
            };
            let inputs = built.node.inputs.iter().map(renumber).collect();
            let seen = names.entry(built.node.name.clone()).or_default();
            *seen += 1;
            let name = if *seen == 1 { built.node.name } else { format!("{}-{seen}", built.node.name) };
            nodes.push(Node { name, layer: built.node.layer, inputs });
            parameters.extend([built.weights, built.biases].concat());
            buffers.extend(built.buffers);
        }
        let model = Model { input: self.input, nodes, loss: Loss::MeanSquared };
        let wiring = model.wiring()?;
        assert_eq!((wiring.parameters(), wiring.buffers()), (parameters.len(), buffers.len()), "checked when added");
        let notes = std::mem::take(&mut self.notes);
        Ok(Imported { model, parameters, buffers, input, output: port, notes })
    }

    /// Nodes that a result depends on.
    fn reachable(&self, source: Source) -> BTreeSet<usize> {
        let (mut kept, mut open) = (BTreeSet::new(), vec![source]);
        while let Some(source) = open.pop() {
            if let Source::Node(node) = source
                && kept.insert(node)
            {
                open.extend(&self.built[node].node.inputs);
            }
        }
        kept
    }
}

/// What an operator takes.
struct Inputs(Vec<Option<Value>>);

impl Inputs {
    fn get(&self, index: usize) -> Option<&Value> {
        self.0.get(index).and_then(Option::as_ref)
    }

    /// An input that is computed from the sample.
    fn activation(&self, op: &Op<'_>, index: usize) -> Result<Activation, OnnxError> {
        match self.get(index) {
            Some(Value::Activation(value)) => Ok(value.clone()),
            Some(_) => Err(op.refused(format!("input {index} is a constant"), "it must be computed from the sample")),
            None => Err(op.refused(format!("input {index} is missing"), "the operator asks for it")),
        }
    }

    /// An input that is known from the file.
    fn constant(&self, op: &Op<'_>, index: usize) -> Result<Rc<Tensor>, OnnxError> {
        let refused = |why| Err(op.refused(format!("input {index} {why}"), "an initializer or a Constant is read"));
        match self.get(index) {
            Some(Value::Constant(tensor)) => Ok(tensor.clone()),
            Some(Value::Sizes(sizes)) => {
                sizes.constant(op.name()).map_or_else(|| refused("depends on the batch"), |tensor| Ok(Rc::new(tensor)))
            }
            Some(Value::Activation(_)) => refused("is computed from the sample"),
            None => refused("is missing"),
        }
    }

    fn optional_constant(&self, op: &Op<'_>, index: usize) -> Result<Option<Rc<Tensor>>, OnnxError> {
        self.get(index).map(|_| self.constant(op, index)).transpose()
    }
}

/// Why an operator is not supported, and what is near to it.
fn unsupported(op: &Op<'_>) -> OnnxError {
    let kind = op.kind();
    let quantised = ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"];
    if quantised.contains(&kind) || kind.starts_with("QLinear") || kind.starts_with("QGemm") {
        return op.refused("quantised models are not supported", "export the model in float32");
    }
    let (why, nearest) = match kind {
        "Loop" | "If" | "Scan" => {
            ("dynamic control flow", "export the model by tracing, so that its steps do not depend on values")
        }
        "Elu" | "Selu" | "Celu" | "ThresholdedRelu" | "Softsign" | "Hardmax" | "Shrink" => {
            ("no such activation", "Relu, LeakyRelu, Clip, Sigmoid, Tanh, Softplus, Gelu and Swish are supported")
        }
        "LSTM" | "GRU" | "RNN" => ("no recurrent layers", "Conv over the sequence is supported"),
        "Exp" | "Log" | "Reciprocal" => {
            ("of values of the network", "Softmax, LogSoftmax, Softplus and the normalisations are supported")
        }
        "LRN" => ("no local response normalisation", "BatchNormalization is supported"),
        "LpPool" | "GlobalLpPool" | "MaxRoiPool" | "RoiAlign" => {
            ("no such pooling", "MaxPool, AveragePool and GlobalAveragePool are supported")
        }
        "Upsample" | "Resize" | "DepthToSpace" | "SpaceToDepth" => ("no resampling", "ConvTranspose is supported"),
        "ArgMax" | "TopK" | "ArgMin" => ("labels are not computed", "remove it: scores are a result that can be read"),
        "Attention" | "Einsum" => ("no attention", "MatMul with a constant is supported"),
        "TreeEnsembleClassifier" | "TreeEnsembleRegressor" | "TreeEnsemble" => {
            ("no decision trees", "linear models and multi-layer perceptrons of scikit-learn are supported")
        }
        "SVMClassifier" | "SVMRegressor" => {
            ("no kernel machines", "LinearClassifier and LinearRegressor are supported")
        }
        _ => ("it is not supported", "docs/onnx.md lists what is"),
    };
    op.refused(why, nearest)
}
