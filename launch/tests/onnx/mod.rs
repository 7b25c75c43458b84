//! ONNX files of linear layers, byte by byte, so that tests need no other program.

/// A field of a protobuf message that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![number << 3 | 2], varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A field that holds a number.
fn number(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
    bytes
}

/// A tensor of 32-bit floats.
fn tensor(name: &str, dims: &[usize], values: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dims: Vec<u8> = dims.iter().flat_map(|&size| number(1, size as u64)).collect();
    [dims, number(2, 1), field(8, name.as_bytes()), field(9, &raw)].concat()
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|name| field(1, name.as_bytes())).collect();
    [inputs, field(2, output.as_bytes()), field(3, output.as_bytes()), field(4, operator.as_bytes())].concat()
}

/// An end of the graph: a batch of any size, then so many features.
fn port(name: &str, features: usize) -> Vec<u8> {
    let shape = [field(1, &field(2, b"N")), field(1, &number(1, features as u64))].concat();
    let kind = field(1, &[number(1, 1), field(2, &shape)].concat());
    [field(1, name.as_bytes()), field(2, &kind)].concat()
}

/// A layer `x W + b`: `weights` holds a row per input, then the biases.
pub(crate) struct Linear<'a> {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) weights: &'a [f32],
}

/// Linear layers with ReLU between them.
pub(crate) fn network(layers: &[Linear<'_>]) -> Vec<u8> {
    let (mut graph, mut value) = (Vec::new(), "x".to_owned());
    for (index, layer) in layers.iter().enumerate() {
        let names = [format!("w{index}"), format!("b{index}"), format!("y{index}")];
        let (weights, biases) = layer.weights.split_at(layer.inputs * layer.outputs);
        graph.extend(field(5, &tensor(&names[0], &[layer.inputs, layer.outputs], weights)));
        graph.extend(field(5, &tensor(&names[1], &[layer.outputs], biases)));
        graph.extend(field(1, &node("Gemm", &[&value, &names[0], &names[1]], &names[2])));
        value.clone_from(&names[2]);
        if index + 1 < layers.len() {
            let relu = format!("r{index}");
            graph.extend(field(1, &node("Relu", &[&value], &relu)));
            value = relu;
        }
    }
    let outputs = layers.last().expect("a layer").outputs;
    graph.extend(
        [field(2, b"test"), field(11, &port("x", layers[0].inputs)), field(12, &port(&value, outputs))].concat(),
    );
    [number(1, 8), field(8, &number(2, 17)), field(7, &graph)].concat()
}
