//! A network: layers wired into a graph without cycles, in an order in which each can be computed.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Layer, LayerError, Loss, Shape};

/// A network and the loss that trains it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Model {
    /// What one sample looks like.
    pub input: Shape,
    /// Each takes the network's input or results of nodes before it. The last one gives the scores that the loss (and
    /// nobody else) sees.
    pub nodes: Vec<Node>,
    /// What training minimises.
    pub loss: Loss,
}

/// A layer and where its inputs come from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// What errors and reports call it.
    pub name: String,
    /// What it computes.
    pub layer: Layer,
    /// What it takes, in order.
    pub inputs: Vec<Source>,
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Source {
    /// The sample itself.
    Input,
    /// The result of a node.
    Node(usize),
}

/// Why a network does not fit together.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ModelError {
    /// A layer cannot take its inputs.
    #[error("layer {name:?} ({kind}): {why}")]
    Layer {
        /// Which.
        name: String,
        /// What it computes.
        kind: &'static str,
        /// Why not.
        why: LayerError,
    },
    /// A node takes the result of itself or of a later one.
    #[error("layer {name:?} takes the result of a layer that is not before it")]
    Order {
        /// Which.
        name: String,
    },
    /// No sample, or none that fits in memory.
    #[error("a sample of shape {0}: at least one element and fewer than 2^32 are possible")]
    Input(Shape),
}

/// What follows from a network's layers: shapes, and where parameters lie.
#[derive(Clone, PartialEq, Debug)]
pub struct Wiring {
    inputs: Vec<Shape>,
    outputs: Vec<Shape>,
    places: Vec<Place>,
    consumers: Vec<usize>,
    learns: Vec<bool>,
}

/// Where a layer's parameters lie among all parameters, and its running averages among all of those.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Weights or scales.
    pub weights: Range<usize>,
    /// Biases or shifts, right behind them.
    pub biases: Range<usize>,
    /// Running averages: means, then variances.
    pub buffers: Range<usize>,
}

impl Model {
    /// Layers one after another, named by what they are and a number.
    pub fn sequence(input: Shape, layers: &[Layer], loss: Loss) -> Self {
        let mut builder = Builder::new(input);
        layers.iter().fold(Source::Input, |from, layer| builder.add(*layer, &[from]));
        builder.finish(loss)
    }

    /// Logistic regression.
    pub fn logistic(inputs: usize) -> Self {
        Self::mlp(inputs, &[], 1, Loss::BinaryCrossEntropy)
    }

    /// Linear layers of these widths with ReLU between them.
    pub fn mlp(inputs: usize, hidden: &[usize], outputs: usize, loss: Loss) -> Self {
        let linear = |outputs| Layer::Linear { outputs, bias: true };
        let mut layers: Vec<_> = hidden.iter().flat_map(|&outputs| [linear(outputs), Layer::Relu]).collect();
        layers.push(linear(outputs));
        Self::sequence(Shape::vector(inputs), &layers, loss)
    }

    /// Shapes and places, if the layers fit together.
    pub fn wiring(&self) -> Result<Wiring, ModelError> {
        if self.input.is_empty() || u32::try_from(self.input.len()).is_err() {
            return Err(ModelError::Input(self.input));
        }
        let count = self.nodes.len();
        let mut wiring = Wiring {
            inputs: Vec::with_capacity(count),
            outputs: Vec::with_capacity(count),
            places: Vec::with_capacity(count),
            consumers: vec![0; count],
            learns: Vec::with_capacity(count),
        };
        let (mut parameters, mut buffers) = (0, 0);
        let next = |start: &mut usize, len: usize| {
            *start += len;
            *start - len..*start
        };
        for (index, node) in self.nodes.iter().enumerate() {
            let mut shapes = Vec::with_capacity(node.inputs.len());
            let mut learns = false;
            for source in &node.inputs {
                shapes.push(match *source {
                    Source::Input => self.input,
                    Source::Node(earlier) if earlier < index => {
                        wiring.consumers[earlier] += 1;
                        learns |= wiring.learns[earlier];
                        wiring.outputs[earlier]
                    }
                    Source::Node(_) => return Err(ModelError::Order { name: node.name.clone() }),
                });
            }
            let error = |why| ModelError::Layer { name: node.name.clone(), kind: node.layer.kind(), why };
            let output = node.layer.output(&shapes).map_err(error)?;
            let [weights, biases] = node.layer.parameters(shapes[0]);
            let place = Place {
                weights: next(&mut parameters, weights),
                biases: next(&mut parameters, biases),
                buffers: next(&mut buffers, node.layer.buffers(shapes[0])),
            };
            wiring.learns.push(learns || weights + biases > 0);
            wiring.inputs.push(shapes[0]);
            wiring.outputs.push(output);
            wiring.places.push(place);
        }
        Ok(wiring)
    }

    /// Elements of one sample.
    pub fn inputs(&self) -> usize {
        self.input.len()
    }

    /// Shape of the scores.
    ///
    /// # Panics
    /// If the network does not fit together.
    pub fn output(&self) -> Shape {
        self.wiring().expect("a network that was checked").outputs.last().copied().unwrap_or(self.input)
    }

    /// Scores of one sample.
    ///
    /// # Panics
    /// If the network does not fit together.
    pub fn outputs(&self) -> usize {
        self.output().len()
    }

    /// Parameters of all layers.
    ///
    /// # Panics
    /// If the network does not fit together.
    pub fn parameters(&self) -> usize {
        self.wiring().expect("a network that was checked").parameters()
    }

    /// The same function with fewer comparisons: a ReLU in front of a max-pool moves behind it, where fewer values are
    /// left. Results are equal, gradients too except where several cells of a window tie.
    #[must_use]
    pub fn pool_before_relu(mut self) -> Self {
        let Ok(wiring) = self.wiring() else { return self };
        for pool in 0..self.nodes.len() {
            let (Layer::MaxPool(_), Source::Node(relu)) = (self.nodes[pool].layer, self.nodes[pool].inputs[0]) else {
                continue;
            };
            // Both keep their places in the order, and the pool is all that the ReLU feeds.
            if self.nodes[relu].layer == Layer::Relu && wiring.consumers[relu] == 1 {
                let (first, second) = self.nodes.split_at_mut(pool);
                std::mem::swap(&mut first[relu].layer, &mut second[0].layer);
                std::mem::swap(&mut first[relu].name, &mut second[0].name);
            }
        }
        self
    }
}

impl Wiring {
    /// Shape of a node's first input.
    pub fn input(&self, node: usize) -> Shape {
        self.inputs[node]
    }

    /// Shape of a node's result.
    pub fn output(&self, node: usize) -> Shape {
        self.outputs[node]
    }

    /// Where a node's parameters lie.
    pub fn place(&self, node: usize) -> &Place {
        &self.places[node]
    }

    /// How many inputs a node's result feeds.
    pub fn consumers(&self, node: usize) -> usize {
        self.consumers[node]
    }

    /// Whether parameters are in a node or before it, so that its gradient is needed.
    pub fn learns(&self, node: usize) -> bool {
        self.learns[node]
    }

    /// Parameters of all layers.
    pub fn parameters(&self) -> usize {
        self.places.last().map_or(0, |place| place.biases.end)
    }

    /// Running averages of all layers.
    pub fn buffers(&self) -> usize {
        self.places.last().map_or(0, |place| place.buffers.end)
    }
}

/// Wires layers together.
#[derive(Debug)]
pub struct Builder {
    input: Shape,
    nodes: Vec<Node>,
}

impl Builder {
    /// A network of samples of this shape, without layers yet.
    pub fn new(input: Shape) -> Self {
        Self { input, nodes: Vec::new() }
    }

    /// Adds a layer, named by what it is and how many of its kind there are.
    pub fn add(&mut self, layer: Layer, inputs: &[Source]) -> Source {
        let same = self.nodes.iter().filter(|node| node.layer.kind() == layer.kind()).count();
        self.add_named(format!("{}-{}", layer.kind(), same + 1), layer, inputs)
    }

    /// Adds a layer under a name.
    pub fn add_named(&mut self, name: String, layer: Layer, inputs: &[Source]) -> Source {
        self.nodes.push(Node { name, layer, inputs: inputs.to_vec() });
        Source::Node(self.nodes.len() - 1)
    }

    /// Adds layers one after another.
    pub fn chain(&mut self, layers: &[Layer], from: Source) -> Source {
        layers.iter().fold(from, |from, layer| self.add(*layer, &[from]))
    }

    /// The network, with the last layer's result as scores.
    pub fn finish(self, loss: Loss) -> Model {
        Model { input: self.input, nodes: self.nodes, loss }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Conv, Pool};

    #[test]
    fn parameters_lie_one_after_another() {
        let model = Model::mlp(784, &[128, 128], 10, Loss::SoftmaxCrossEntropy);
        assert_eq!(model.parameters(), 784 * 128 + 128 + 128 * 128 + 128 + 1280 + 10);
        let wiring = model.wiring().unwrap();
        assert_eq!(wiring.place(2).weights, 784 * 128 + 128..784 * 128 + 128 + 128 * 128);
        assert_eq!((wiring.input(2), wiring.output(2)), (Shape::vector(128), Shape::vector(128)));
        assert_eq!((model.outputs(), model.nodes[2].name.as_str()), (10, "linear-2"));
    }

    #[test]
    fn a_residual_block_fits_together() {
        let mut net = Builder::new(Shape::image(3, 8, 8));
        let a = net.add(Layer::Conv(Conv::square(3, 3).padded(1)), &[Source::Input]);
        let sum = net.add(Layer::Add, &[a, Source::Input]);
        net.add(Layer::Relu, &[sum]);
        let wiring = net.finish(Loss::MeanSquared).wiring().unwrap();
        assert_eq!(wiring.output(2), Shape::image(3, 8, 8));
        assert_eq!((wiring.consumers(0), wiring.consumers(2)), (1, 0));
        assert!(wiring.learns(2));
    }

    #[test]
    fn what_does_not_fit_names_its_layer() {
        let model = Model::sequence(Shape::image(1, 4, 4), &[Layer::Conv(Conv::square(2, 5))], Loss::MeanSquared);
        let error = model.wiring().unwrap_err().to_string();
        assert_eq!(error, "layer \"conv-1\" (conv): a window of 5 cells is larger than the image with its padding, 4");
        let node = Node { name: "loop".into(), layer: Layer::Relu, inputs: vec![Source::Node(0)] };
        let model = Model { input: Shape::vector(1), nodes: vec![node], loss: Loss::MeanSquared };
        assert!(matches!(model.wiring(), Err(ModelError::Order { .. })));
        let empty = Model { input: Shape::image(0, 4, 4), nodes: vec![], loss: Loss::MeanSquared };
        assert!(matches!(empty.wiring(), Err(ModelError::Input(_))));
    }

    #[test]
    fn a_pool_moves_in_front_of_its_relu_and_no_other() {
        let pool = Layer::MaxPool(Pool::square(2));
        let layers = [Layer::Conv(Conv::square(2, 3)), Layer::Relu, pool, Layer::Flatten];
        let model = Model::sequence(Shape::image(1, 8, 8), &layers, Loss::MeanSquared).pool_before_relu();
        let kinds: Vec<_> = model.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(kinds, ["conv-1", "max-pool-1", "relu-1", "flatten-1"]);
        assert_eq!(model.wiring().unwrap().output(2), Shape::image(2, 3, 3));

        let mut net = Builder::new(Shape::image(1, 8, 8));
        let relu = net.add(Layer::Relu, &[Source::Input]);
        let pooled = net.chain(&[pool, Layer::Flatten, Layer::Linear { outputs: 64, bias: true }], relu);
        let flat = net.add(Layer::Flatten, &[relu]);
        net.add(Layer::Add, &[pooled, flat]);
        let model = net.finish(Loss::MeanSquared);
        assert_eq!(model.clone().pool_before_relu(), model);
    }
}
