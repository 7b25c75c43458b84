//! Networks there and back, and what no network is made of.

use std::path::Path;

use prost::Message;
use shared::model::{Builder, Conv, Layer, Loss, Model, ModelName, Pool, Shape, Source};

use super::export::encode;
use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto};
use super::proto::{TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use super::{Imported, OnnxError, decode, read, write};

fn import(proto: &ModelProto) -> Result<Imported, OnnxError> {
    decode("model.onnx", proto.encode_to_vec(), Path::new(""))
}

/// As many numbers as are asked for, each different, all exact in 32 bits, variances positive.
fn numbers(count: usize, seed: usize) -> Vec<f64> {
    (0..count).map(|index| ((index * 7919 + seed * 104_729) % 65_521 + 1) as f64 / 1024.0).collect()
}

fn returns_unchanged(model: &Model) {
    let wiring = model.wiring().unwrap();
    let (parameters, buffers) = (numbers(wiring.parameters(), 1), numbers(wiring.buffers(), 2));
    let imported = import(&encode(model, &parameters, &buffers).unwrap()).unwrap();
    assert_eq!(imported.model, *model);
    assert!(imported.parameters == parameters && imported.buffers == buffers, "{:?}", model.nodes);
    assert_eq!((imported.input.name.as_str(), imported.output.name.as_str()), ("input", "output"));
    assert_eq!(imported.output.dims.iter().product::<usize>(), model.outputs());
    let order: Vec<usize> = model.input.channels_first().collect();
    assert_eq!(imported.input.order, order);
}

#[test]
fn named_networks_return_unchanged() {
    for name in ModelName::ALL {
        let input = if name.takes_images() { Shape::image(3, 32, 32) } else { Shape::vector(20) };
        returns_unchanged(&name.build(input, &[16, 8], 10, Loss::MeanSquared));
    }
    returns_unchanged(&ModelName::Resnet18.build(Shape::image(3, 64, 64), &[], 5, Loss::MeanSquared));
}

#[test]
fn every_layer_returns_unchanged() {
    let linear = Layer::Linear { outputs: 4, bias: true };
    let pool = Pool { kernel: [3, 2], stride: [2, 1], padding: [1, 0, 0, 1] };
    let conv = Conv {
        kernel: [2, 3],
        stride: [2, 1],
        padding: [0, 1, 2, 0],
        dilation: [1, 2],
        groups: 2,
        ..Conv::square(4, 1)
    };
    let image = [
        vec![Layer::Conv(conv), Layer::Relu],
        vec![Layer::ConvTranspose { conv: Conv { stride: [3, 2], ..conv }, extra: [1, 0] }, Layer::Tanh],
        vec![Layer::MaxPool(pool), Layer::AveragePool { pool, count_padding: true }],
        vec![Layer::AveragePool { pool, count_padding: false }],
        vec![Layer::AdaptiveAveragePool { output: [1, 1] }],
        vec![Layer::BatchNorm { epsilon: 1e-3, momentum: 0.25 }, Layer::Clip { low: -1.0, high: 6.0 }],
        vec![Layer::LayerNorm { epsilon: 1e-5 }, Layer::Gelu, linear, Layer::Sigmoid],
        vec![Layer::GroupNorm { groups: 2, epsilon: 1e-5 }, Layer::Silu, Layer::Scale],
        vec![Layer::Scale, Layer::LeakyRelu { slope: 0.125 }, Layer::Softplus, Layer::Softmax],
        vec![Layer::Dropout { probability: 0.25, secret: false }, Layer::Flatten, linear, Layer::LogSoftmax],
        vec![Layer::Reshape { shape: Shape::image(2, 8, 12) }, Layer::Relu],
        vec![Layer::Linear { outputs: 3, bias: false }, Layer::Relu],
    ];
    for layers in image {
        returns_unchanged(&Model::sequence(Shape::image(4, 6, 8), &layers, Loss::MeanSquared));
    }
    let along = Conv { kernel: [1, 3], padding: [0, 1, 0, 1], ..Conv::square(4, 1) };
    let sequence = [
        vec![Layer::Conv(along), Layer::MaxPool(Pool { kernel: [1, 2], stride: [1, 2], padding: [0; 4] })],
        vec![Layer::LayerNorm { epsilon: 1e-5 }, linear, Layer::Softmax],
    ];
    for layers in sequence {
        returns_unchanged(&Model::sequence(Shape { channels: 4, height: 1, width: 6 }, &layers, Loss::MeanSquared));
    }
    returns_unchanged(&Model::sequence(
        Shape::vector(4),
        &[Layer::GroupNorm { groups: 2, epsilon: 1e-5 }],
        Loss::MeanSquared,
    ));
    returns_unchanged(&Model::sequence(Shape::vector(4), &[], Loss::MeanSquared));
}

#[test]
fn branches_return_unchanged() {
    let mut net = Builder::new(Shape::image(2, 4, 4));
    let a = net.add(Layer::Conv(Conv::square(2, 3).padded(1)), &[Source::Input]);
    let b = net.add(Layer::Relu, &[a]);
    let sum = net.add(Layer::Add, &[a, b, Source::Input]);
    let difference = net.add(Layer::Subtract, &[sum, a]);
    let product = net.add(Layer::Multiply, &[difference, b]);
    net.add(Layer::Concat, &[product, a, Source::Input]);
    returns_unchanged(&net.finish(Loss::MeanSquared));
}

#[test]
fn large_networks_keep_their_tensors_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let model = Model::mlp(5, &[7], 3, Loss::MeanSquared);
    let parameters = numbers(model.parameters(), 3);
    super::export::write_with_limit(&path, &model, &parameters, &[], 100).unwrap();
    assert_eq!(folder.path().join("model.onnx.data").metadata().unwrap().len(), 4 * parameters.len() as u64);
    assert_eq!(read(&path).unwrap().parameters, parameters);
    write(&path, &model, &parameters, &[]).unwrap();
    assert_eq!(read(&path).unwrap().model, model);
    assert!(matches!(write(&path, &model, &parameters[1..], &[]), Err(OnnxError::Count { got: 65, due: 66, .. })));
}

/// A graph of one input `x` of these dimensions behind the batch, and `y`, the result of its last node.
fn graph(dims: &[i64], nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let value = |name: &str, dims: &[i64]| {
        let batch = dimension::Value::DimParam("n".into());
        let dims = std::iter::once(batch).chain(dims.iter().map(|&size| dimension::Value::DimValue(size)));
        let dim = dims.map(|value| Dimension { value: Some(value), ..Dimension::default() }).collect();
        let shape = Some(TensorShapeProto { dim });
        let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape };
        let value = Some(type_proto::Value::TensorType(tensor));
        ValueInfoProto {
            name: name.into(),
            r#type: Some(TypeProto { value, ..TypeProto::default() }),
            ..ValueInfoProto::default()
        }
    };
    let graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![value("x", dims)],
        output: vec![value("y", &[])],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() }
}

fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: operator.into(),
        name: format!("the {operator}"),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn with(mut node: NodeProto, name: &str, i: i64) -> NodeProto {
    let r#type = AttributeType::Int as i32;
    node.attribute.push(AttributeProto { name: name.into(), r#type, i, ..AttributeProto::default() });
    node
}

fn with_list(mut node: NodeProto, name: &str, ints: &[i64]) -> NodeProto {
    let (r#type, ints) = (AttributeType::Ints as i32, ints.to_vec());
    node.attribute.push(AttributeProto { name: name.into(), r#type, ints, ..AttributeProto::default() });
    node
}

fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let (dims, data_type) = (dims.to_vec(), DataType::Float as i32);
    TensorProto { name: name.into(), dims, data_type, float_data: values.to_vec(), ..TensorProto::default() }
}

fn indices(name: &str, values: &[i64]) -> TensorProto {
    let (dims, data_type) = (vec![values.len() as i64], DataType::Int64 as i32);
    TensorProto { name: name.into(), dims, data_type, int64_data: values.to_vec(), ..TensorProto::default() }
}

fn layers(imported: &Imported) -> Vec<Layer> {
    imported.model.nodes.iter().map(|node| node.layer).collect()
}

#[test]
fn weights_are_rearranged() {
    let nodes = vec![with(node("Gemm", &["x", "w", "b"], "y"), "transB", 1)];
    let proto = graph(&[3], nodes, vec![tensor("w", &[2, 3], &[1., 2., 3., 4., 5., 6.]), tensor("b", &[2], &[7., 8.])]);
    assert_eq!(import(&proto).unwrap().parameters, [1., 4., 2., 5., 3., 6., 7., 8.]);

    let weights: Vec<f32> = (0..2 * 3 * 2).map(|x| x as f32).collect();
    let proto = graph(&[3, 1, 4], vec![node("Conv", &["x", "w"], "y")], vec![tensor("w", &[2, 3, 1, 2], &weights)]);
    let imported = import(&proto).unwrap();
    // From (output channel, channel, column) to (column, channel, output channel).
    assert_eq!(imported.parameters, [0., 6., 2., 8., 4., 10., 1., 7., 3., 9., 5., 11.]);
    assert_eq!((imported.output.dims, imported.output.order), (vec![2, 1, 3], vec![0, 2, 4, 1, 3, 5]));
}

#[test]
fn constants_merge_into_the_layer_in_front() {
    let nodes = vec![node("MatMul", &["x", "w"], "a"), node("Add", &["a", "b"], "c"), node("Div", &["c", "two"], "y")];
    let constants = vec![tensor("w", &[1, 2], &[3., 5.]), tensor("b", &[2], &[1., 2.]), tensor("two", &[], &[2.])];
    let imported = import(&graph(&[1], nodes.clone(), constants.clone())).unwrap();
    assert_eq!(layers(&imported), [Layer::Linear { outputs: 2, bias: true }]);
    assert_eq!(imported.parameters, [1.5, 2.5, 0.5, 1.]);
    // A result that something else takes must stay as it is.
    let shared = [nodes, vec![node("Mul", &["a", "y"], "z")]].concat();
    let mut proto = graph(&[1], shared, constants);
    proto.graph.as_mut().unwrap().output[0].name = "z".into();
    let imported = import(&proto).unwrap();
    assert_eq!(layers(&imported), [Layer::Linear { outputs: 2, bias: false }, Layer::Scale, Layer::Multiply]);
    assert_eq!(imported.parameters, [3., 5., 0.5, 0.5, 0.5, 1.]);
}

#[test]
fn a_view_of_symbolic_sizes_is_a_flatten() {
    let nodes = vec![
        node("Shape", &["x"], "s"),
        node("Gather", &["s", "zero"], "n"),
        node("Unsqueeze", &["n", "axes"], "m"),
        with(node("Concat", &["m", "rest"], "t"), "axis", 0),
        node("Reshape", &["x", "t"], "y"),
    ];
    let mut zero = indices("zero", &[0]);
    zero.dims.clear();
    let proto = graph(&[2, 3, 4], nodes, vec![zero, indices("axes", &[0]), indices("rest", &[-1])]);
    let imported = import(&proto).unwrap();
    assert_eq!((layers(&imported), imported.output.dims), (vec![Layer::Flatten], vec![24]));
}

#[test]
fn exported_gelu_and_silu_are_recognised() {
    let nodes = vec![
        node("Div", &["x", "root"], "a"),
        node("Erf", &["a"], "b"),
        node("Add", &["b", "one"], "c"),
        node("Mul", &["x", "c"], "d"),
        node("Mul", &["d", "half"], "e"),
        node("Sigmoid", &["e"], "g"),
        node("Mul", &["g", "e"], "y"),
    ];
    let constants =
        vec![tensor("root", &[], &[std::f32::consts::SQRT_2]), tensor("one", &[], &[1.]), tensor("half", &[], &[0.5])];
    let imported = import(&graph(&[4], nodes.clone(), constants.clone())).unwrap();
    assert_eq!(layers(&imported), [Layer::Gelu, Layer::Silu]);
    assert!(imported.parameters.is_empty());
    let alone = graph(&[4], vec![nodes[0].clone(), node("Erf", &["a"], "y")], constants);
    assert!(import(&alone).unwrap_err().to_string().contains("read as GELU"));
}

#[test]
fn a_layer_norm_in_parts_is_recognised() {
    let steps = |last: &str| {
        vec![
            with_list(node("ReduceMean", &["x"], "m"), "axes", &[-1]),
            node("Sub", &["x", "m"], "c"),
            node("Pow", &["c", "two"], "s"),
            with_list(node("ReduceMean", &["s"], "v"), "axes", &[-1]),
            node("Add", &["v", "epsilon"], "e"),
            node("Sqrt", &["e"], "d"),
            node("Div", &["c", "d"], "n"),
            node("Mul", &["n", "scale"], "a"),
            node("Add", &["a", "shift"], last),
        ]
    };
    let constants = vec![
        tensor("two", &[], &[2.]),
        tensor("epsilon", &[], &[0.5]),
        tensor("scale", &[3], &[1., 2., 3.]),
        tensor("shift", &[3], &[4., 5., 6.]),
    ];
    let imported = import(&graph(&[3], steps("y"), constants.clone())).unwrap();
    assert_eq!(layers(&imported), [Layer::LayerNorm { epsilon: 0.5 }]);
    assert_eq!(imported.parameters, [1., 2., 3., 4., 5., 6.]);
    let mut part = graph(&[3], steps("z"), constants);
    part.graph.as_mut().unwrap().output[0].name = "e".into();
    assert!(import(&part).unwrap_err().to_string().contains("a part of a layer-norm"));
}

#[test]
fn a_softplus_with_a_threshold_is_recognised() {
    let nodes = vec![
        node("Softplus", &["x"], "s"),
        node("Greater", &["x", "threshold"], "g"),
        node("Where", &["g", "x", "s"], "y"),
    ];
    let import = |threshold| import(&graph(&[3], nodes.clone(), vec![tensor("threshold", &[], &[threshold])]));
    assert_eq!(layers(&import(20.0).unwrap()), [Layer::Softplus]);
    assert!(import(1.0).unwrap_err().to_string().contains("a comparison"));
}

#[test]
fn a_sequence_with_channels_last_is_recognised() {
    let weights = tensor("w", &[3, 2], &[1., 2., 3., 4., 5., 6.]);
    let imported = import(&graph(&[5, 3], vec![node("MatMul", &["x", "w"], "y")], vec![weights])).unwrap();
    assert_eq!(imported.model.input, Shape { channels: 3, height: 1, width: 5 });
    assert_eq!(imported.input.order, (0..15).collect::<Vec<_>>());
    assert_eq!(imported.output.dims, [5, 2]);
    let samples: Vec<f64> = (0..20).map(f64::from).collect();
    assert_eq!(imported.output.to_memory(&imported.output.from_memory(&samples)), samples);
}

#[test]
fn zeros_move_into_the_convolution() {
    let pads = indices("pads", &[0, 0, 1, 2, 0, 0, 0, 3]);
    let nodes = vec![node("Pad", &["x", "pads"], "p"), node("Conv", &["p", "w"], "y")];
    let weights = tensor("w", &[1, 1, 1, 1], &[1.]);
    let imported = import(&graph(&[1, 2, 2], nodes, vec![pads.clone(), weights])).unwrap();
    assert_eq!(layers(&imported), [Layer::Conv(Conv { padding: [1, 2, 0, 3], ..Conv::square(1, 1).unbiased() })]);
    let nodes = vec![node("Pad", &["x", "pads"], "p"), node("Relu", &["p"], "y")];
    assert!(import(&graph(&[1, 2, 2], nodes, vec![pads])).unwrap_err().to_string().contains("from Pad"));
}

#[test]
fn what_cannot_be_read_is_refused_with_its_name_and_a_way_out() {
    let linear = || vec![node("MatMul", &["x", "w"], "y")];
    let weights = |values: &[f32]| vec![tensor("w", &[2, 1], values)];
    let quantised = TensorProto { data_type: DataType::Int8 as i32, ..tensor("w", &[2, 1], &[]) };
    let short = tensor("w", &[2, 1], &[1.]);
    let mut old = graph(&[2], linear(), weights(&[1., 2.]));
    old.opset_import[0].version = 12;
    let mut foreign = node("Magic", &["x"], "y");
    foreign.domain = "com.example".into();
    let mut open = graph(&[2], linear(), weights(&[1., 2.]));
    open.graph.as_mut().unwrap().input[0] = graph(&[-1], vec![], vec![]).graph.unwrap().input.remove(0);
    let cases = [
        (graph(&[2], linear(), vec![]), r#"node "the MatMul" takes "w", which is no input, no initializer"#),
        (graph(&[2], linear(), weights(&[1., f32::NAN])), r#"tensor "w": element 1 is NaN"#),
        (graph(&[2], linear(), weights(&[f32::INFINITY, 1.])), r#"tensor "w": element 0 is inf"#),
        (graph(&[2], linear(), vec![quantised]), "elements of type INT8: quantised models are not supported"),
        (graph(&[2], linear(), vec![short]), "1 elements where its dimensions [2, 1] ask for 2"),
        (graph(&[3], linear(), weights(&[1., 2.])), r#"node "the MatMul": operator MatMul of ai.onnx 17: 2 rows"#),
        (graph(&[2], vec![node("Loop", &["x"], "y")], vec![]), "operator Loop of ai.onnx 17: dynamic control flow"),
        (graph(&[2], vec![node("If", &["x"], "y")], vec![]), "tracing"),
        (graph(&[2], vec![node("QLinearMatMul", &["x"], "y")], vec![]), "quantised models are not supported"),
        (graph(&[2], vec![node("QuantizeLinear", &["x"], "y")], vec![]), "export the model in float32"),
        (graph(&[2], vec![node("Elu", &["x"], "y")], vec![]), "LeakyRelu, Clip"),
        (graph(&[2], vec![foreign], vec![]), "operator Magic of com.example 1"),
        (old, "operators of ai.onnx of version 12, but 13 to 28"),
        (graph(&[2], vec![], vec![]), r#"output "y": nothing computes it"#),
        (open, "must be fixed numbers"),
        (graph(&[1, 2, 2, 2], linear(), weights(&[1., 2.])), "one to three"),
        (graph(&[2], vec![with(node("Softmax", &["x"], "y"), "axis", 0)], vec![]), "samples may not be mixed"),
        (
            graph(&[1, 2, 2], vec![node("Conv", &["x", "w"], "y")], vec![tensor("w", &[1, 1, 3, 3], &[0.; 9])]),
            "a window of 3 cells is larger than the image with its padding, 2",
        ),
        (
            graph(&[2, 2, 2], vec![node("Conv", &["x", "w"], "y")], vec![tensor("w", &[1, 1, 1, 1], &[0.])]),
            "for 2 channels",
        ),
    ];
    for (proto, part) in cases {
        let error = import(&proto).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = decode("a.onnx", b"no protobuf".to_vec(), Path::new("")).unwrap_err().to_string();
    assert!(error.starts_with("a.onnx: not an ONNX model"), "{error}");
    assert!(decode("a.onnx", vec![], Path::new("")).unwrap_err().to_string().contains("no graph"));
}

#[test]
fn a_file_of_two_gibibytes_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.onnx");
    // A hole: nothing is written.
    std::fs::File::create(&path).unwrap().set_len(1 << 31).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("2147483648 bytes") && error.contains("save_as_external_data"), "{error}");
}

#[test]
fn external_data_stays_within_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let bytes = [9.0_f32, 1.0, 2.0].map(f32::to_le_bytes).concat();
    std::fs::write(folder.path().join("outside.bin"), &bytes).unwrap();
    std::fs::write(inner.join("inside.bin"), &bytes).unwrap();
    std::os::unix::fs::symlink(folder.path().join("outside.bin"), inner.join("link.bin")).unwrap();
    let read = |entries: &[(&str, &str)]| {
        let entry =
            |&(key, value): &(&str, &str)| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
        let external_data = entries.iter().map(entry).collect();
        let data_location = DataLocation::External as i32;
        let weights = TensorProto { external_data, data_location, ..tensor("w", &[2, 1], &[]) };
        let proto = graph(&[2], vec![node("MatMul", &["x", "w"], "y")], vec![weights]);
        decode("model.onnx", proto.encode_to_vec(), &inner)
    };
    let good = [("location", "inside.bin"), ("offset", "4"), ("length", "8")];
    assert_eq!(read(&good).unwrap().parameters, [1.0, 2.0]);
    for (entries, part) in [
        (vec![("location", "../outside.bin")], "outside the model's folder"),
        (vec![("location", "link.bin"), ("offset", "4")], "outside the model's folder"),
        (vec![("location", "/etc/hostname")], "outside the model's folder"),
        (vec![("location", "inside.bin"), ("offset", "8"), ("length", "8")], "ends before the tensor does"),
        (vec![("location", "inside.bin"), ("offset", "x")], "no valid offset"),
        (vec![("location", "absent.bin")], "cannot be read"),
        (vec![("offset", "4")], "no location"),
    ] {
        let error = read(&entries).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(r#"tensor "w""#), "{error}");
    }
}
