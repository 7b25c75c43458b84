//! Networks that have names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Builder, Conv, Layer, Loss, Model, Pool, Shape, Source};

/// A network that `model.kind` names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelName {
    /// One linear layer: logistic, softmax or linear regression, as the targets ask.
    #[default]
    Logreg,
    /// Fully connected layers of the widths in `model.hidden`.
    Mlp,
    /// Convolutions of 20 and 50 kernels of 5x5, each with ReLU and 2x2 max-pooling; 500 and then the outputs.
    Lenet,
    /// Five convolutions and three linear layers, for images of 32x32.
    AlexnetCifar,
    /// Thirteen 3x3 convolutions with batch-norm and a linear layer, for images of 32x32.
    Vgg16Cifar,
    /// The residual network of 18 layers; images below 64x64 get the small stem without pooling.
    Resnet18,
}

/// No network of that name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no model is called {0:?}: logreg, mlp, lenet, alexnet-cifar, vgg16-cifar and resnet18 are")]
pub struct UnknownModel(String);

impl ModelName {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Logreg, Self::Mlp, Self::Lenet, Self::AlexnetCifar, Self::Vgg16Cifar, Self::Resnet18];

    /// As written in job files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Logreg => "logreg",
            Self::Mlp => "mlp",
            Self::Lenet => "lenet",
            Self::AlexnetCifar => "alexnet-cifar",
            Self::Vgg16Cifar => "vgg16-cifar",
            Self::Resnet18 => "resnet18",
        }
    }

    /// Whether it wants images and not vectors.
    pub fn takes_images(self) -> bool {
        !matches!(self, Self::Logreg | Self::Mlp)
    }

    /// The network for samples of a shape and a number of scores. `hidden` are the widths of [`ModelName::Mlp`].
    pub fn build(self, input: Shape, hidden: &[usize], outputs: usize, loss: Loss) -> Model {
        match self {
            Self::Logreg => Model::mlp(input.len(), &[], outputs, loss),
            Self::Mlp => Model::mlp(input.len(), hidden, outputs, loss),
            Self::Lenet => lenet(input, outputs, loss),
            Self::AlexnetCifar => alexnet(input, outputs, loss),
            Self::Vgg16Cifar => vgg16(input, outputs, loss),
            Self::Resnet18 => resnet18(input, outputs, loss),
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ModelName {
    type Err = UnknownModel;

    fn from_str(name: &str) -> Result<Self, UnknownModel> {
        Self::ALL.into_iter().find(|model| model.name() == name).ok_or_else(|| UnknownModel(name.into()))
    }
}

const NORM: Layer = Layer::BatchNorm { epsilon: 1e-5, momentum: 0.1 };

fn linear(outputs: usize) -> Layer {
    Layer::Linear { outputs, bias: true }
}

/// Images too small for two 5x5 convolutions keep their size by padding.
fn lenet(input: Shape, outputs: usize, loss: Loss) -> Model {
    let padding = if input.height.min(input.width) < 16 { 2 } else { 0 };
    let block = |channels| {
        let conv = Layer::Conv(Conv::square(channels, 5).padded(padding));
        [conv, Layer::Relu, Layer::MaxPool(Pool::square(2))]
    };
    let head = [Layer::Flatten, linear(500), Layer::Relu, linear(outputs)];
    Model::sequence(input, &[&block(20)[..], &block(50), &head].concat(), loss)
}

/// The variant for small images of Wagh et al., "Falcon", eprint 2020/048, without local response normalisation.
fn alexnet(input: Shape, outputs: usize, loss: Loss) -> Model {
    let pool = |stride, kernel| Layer::MaxPool(Pool { kernel: [kernel; 2], stride: [stride; 2], padding: [0; 4] });
    let same = |channels| Layer::Conv(Conv::square(channels, 3).padded(1));
    let features = [
        Layer::Conv(Conv::square(96, 11).padded(9).strided(4)),
        Layer::Relu,
        pool(2, 3),
        Layer::Conv(Conv::square(256, 5).padded(1)),
        Layer::Relu,
        pool(1, 2),
        same(384),
        Layer::Relu,
        same(384),
        Layer::Relu,
        same(256),
        Layer::Relu,
    ];
    let head = [Layer::Flatten, linear(256), Layer::Relu, linear(256), Layer::Relu, linear(outputs)];
    Model::sequence(input, &[&features[..], &head].concat(), loss)
}

/// Configuration D of Simonyan, Zisserman, arXiv 1409.1556, with batch-norm and the one linear layer that small images
/// leave room for.
fn vgg16(input: Shape, outputs: usize, loss: Loss) -> Model {
    let mut layers = Vec::new();
    for (channels, count) in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)] {
        for _ in 0..count {
            layers.extend([Layer::Conv(Conv::square(channels, 3).padded(1).unbiased()), NORM, Layer::Relu]);
        }
        layers.push(Layer::MaxPool(Pool::square(2)));
    }
    layers.extend([Layer::Flatten, linear(outputs)]);
    Model::sequence(input, &layers, loss)
}

/// He, Zhang, Ren, Sun, arXiv 1512.03385: table 1 for large images, the stem of section 4.2 for small ones.
fn resnet18(input: Shape, outputs: usize, loss: Loss) -> Model {
    let mut net = Builder::new(input);
    let mut at = if input.height.min(input.width) < 64 {
        net.chain(&[Layer::Conv(Conv::square(64, 3).padded(1).unbiased()), NORM, Layer::Relu], Source::Input)
    } else {
        let pool = Layer::MaxPool(Pool { kernel: [3; 2], stride: [2; 2], padding: [1; 4] });
        let stem = Layer::Conv(Conv::square(64, 7).padded(3).strided(2).unbiased());
        net.chain(&[stem, NORM, Layer::Relu, pool], Source::Input)
    };
    for (stage, channels) in [64, 128, 256, 512].into_iter().enumerate() {
        at = residual(&mut net, at, channels, if stage == 0 { 1 } else { 2 }, stage > 0);
        at = residual(&mut net, at, channels, 1, false);
    }
    net.chain(&[Layer::AdaptiveAveragePool { output: [1, 1] }, Layer::Flatten, linear(outputs)], at);
    net.finish(loss)
}

/// Two convolutions beside the identity, or beside a projection where the shape changes.
fn residual(net: &mut Builder, from: Source, channels: usize, stride: usize, projected: bool) -> Source {
    let conv = |stride| Layer::Conv(Conv::square(channels, 3).padded(1).strided(stride).unbiased());
    let main = net.chain(&[conv(stride), NORM, Layer::Relu, conv(1), NORM], from);
    let shortcut = if projected {
        net.chain(&[Layer::Conv(Conv::square(channels, 1).strided(stride).unbiased()), NORM], from)
    } else {
        from
    };
    let sum = net.add(Layer::Add, &[main, shortcut]);
    net.add(Layer::Relu, &[sum])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(name: ModelName, input: Shape) -> Model {
        name.build(input, &[64], 10, Loss::SoftmaxCrossEntropy)
    }

    #[test]
    fn parameters_are_those_of_the_known_networks() {
        // Counted by hand; the residual networks also as published with their implementations.
        let cases = [
            (ModelName::Lenet, Shape::image(1, 28, 28), 431_080),
            (ModelName::AlexnetCifar, Shape::image(3, 32, 32), 3_881_354),
            (ModelName::Vgg16Cifar, Shape::image(3, 32, 32), 14_724_042),
            (ModelName::Resnet18, Shape::image(3, 32, 32), 11_173_962),
        ];
        for (name, input, parameters) in cases {
            let model = build(name, input);
            assert_eq!((model.outputs(), model.parameters()), (10, parameters), "{name}");
        }
        let large = ModelName::Resnet18.build(Shape::image(3, 224, 224), &[], 1000, Loss::SoftmaxCrossEntropy);
        assert_eq!(large.parameters(), 11_689_512);
    }

    #[test]
    fn lenet_takes_the_digits() {
        assert_eq!(build(ModelName::Lenet, Shape::image(1, 8, 8)).outputs(), 10);
    }

    #[test]
    fn names_are_read_as_written() {
        for name in ModelName::ALL {
            assert_eq!(name.to_string().parse(), Ok(name));
            assert_eq!(serde_json::to_value(name).unwrap(), name.name());
        }
        assert!("lenet5".parse::<ModelName>().unwrap_err().to_string().contains("lenet"));
    }
}
