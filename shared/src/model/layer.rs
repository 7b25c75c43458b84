//! Layers: what each computes, which shapes it takes, how many parameters it has.

use serde::{Deserialize, Serialize};

use super::Shape;

/// One layer of a network. Shapes are those of one sample.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// `x W + b` over the channels of every position. `W` has shape inputs x outputs.
    Linear {
        /// Channels of the result.
        outputs: usize,
        /// Whether a bias is added.
        bias: bool,
    },
    /// Cross-correlation with learned kernels. Weights have shape (kernel rows, kernel columns, channels of a group,
    /// output channels).
    Conv(Conv),
    /// The transpose of a convolution as a linear map: upsamples by its stride. Weights have shape (kernel rows, kernel
    /// columns, output channels of a group, channels): those of the convolution that it transposes.
    ConvTranspose {
        /// Its geometry; `channels` are those of the result.
        conv: Conv,
        /// Rows and columns added at the bottom and at the right of the result.
        extra: [usize; 2],
    },
    /// Largest value of every window; cells outside the image never win.
    MaxPool(Pool),
    /// Mean of every window.
    AveragePool {
        /// Windows.
        pool: Pool,
        /// Whether cells outside the image count (as zeros).
        count_padding: bool,
    },
    /// Means over so many rows and columns of near-equal windows, as in PyTorch; `[1, 1]` is the global mean.
    AdaptiveAveragePool {
        /// Rows and columns of the result.
        output: [usize; 2],
    },
    /// Per channel: less the mean, over the deviation, of the batch in training and of running averages afterwards;
    /// times a learned scale, plus a learned shift.
    BatchNorm {
        /// Added to the variance.
        epsilon: f64,
        /// Weight of a new batch in the running averages.
        momentum: f64,
    },
    /// As batch-norm, but over the channels of each position of each sample.
    LayerNorm {
        /// Added to the variance.
        epsilon: f64,
    },
    /// As batch-norm, but over the positions and a group of channels of each sample.
    GroupNorm {
        /// Groups of channels.
        groups: usize,
        /// Added to the variance.
        epsilon: f64,
    },
    /// A learned scale per channel, and a learned shift.
    Scale,
    /// Drops values in training, scales the others up; does nothing afterwards.
    Dropout {
        /// Share of the values dropped.
        probability: f64,
        /// Whether nobody knows which ones; else they follow from the job's public seed.
        secret: bool,
    },
    /// All elements as one vector, channel by channel as PyTorch counts them.
    Flatten,
    /// The same elements, counted channel by channel, in another shape.
    Reshape {
        /// Shape of the result.
        shape: Shape,
    },
    /// The channels of all inputs, one after another.
    Concat,
    /// Sum of its inputs.
    Add,
    /// Its first input less its second.
    Subtract,
    /// Product of its two inputs.
    Multiply,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, low), high)`: ReLU6, hard-tanh.
    Clip {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// `max(x, 0) + slope min(x, 0)`.
    LeakyRelu {
        /// For negative numbers.
        slope: f64,
    },
    /// `x` times the normal distribution function of `x`.
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `ln(1 + exp(x))`.
    Softplus,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
    /// Over the channels of every position.
    Softmax,
    /// Logarithm of the softmax.
    LogSoftmax,
}

/// Geometry of a convolution.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conv {
    /// Channels of the result.
    pub channels: usize,
    /// Rows and columns of a kernel.
    pub kernel: [usize; 2],
    /// Steps between kernels, down and across.
    pub stride: [usize; 2],
    /// Zeros around the image: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Distance between the cells of a kernel, down and across.
    pub dilation: [usize; 2],
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Conv {
    /// A square kernel with stride 1, no padding, and a bias.
    pub const fn square(channels: usize, size: usize) -> Self {
        Self { channels, kernel: [size; 2], stride: [1; 2], padding: [0; 4], dilation: [1; 2], groups: 1, bias: true }
    }

    /// With so many zeros on every side.
    #[must_use]
    pub const fn padded(self, padding: usize) -> Self {
        Self { padding: [padding; 4], ..self }
    }

    /// With so large steps both ways.
    #[must_use]
    pub const fn strided(self, stride: usize) -> Self {
        Self { stride: [stride; 2], ..self }
    }

    /// Without a bias, as before a batch-norm.
    #[must_use]
    pub const fn unbiased(self) -> Self {
        Self { bias: false, ..self }
    }

    /// Rows and columns that a kernel covers.
    pub fn reach(&self) -> [usize; 2] {
        [0, 1].map(|axis| (self.kernel[axis] - 1) * self.dilation[axis] + 1)
    }

    fn check(&self, inputs: usize) -> Result<(), LayerError> {
        let sizes = [self.kernel, self.stride, self.dilation].concat();
        if self.channels == 0 || self.groups == 0 || sizes.contains(&0) {
            return Err(LayerError::Empty);
        }
        let Self { groups, channels, .. } = *self;
        if !inputs.is_multiple_of(groups) || !channels.is_multiple_of(groups) {
            return Err(LayerError::Groups { groups, inputs, outputs: channels });
        }
        Ok(())
    }

    /// Rows or columns of the transposed convolution's result.
    fn transposed(&self, axis: usize, input: usize, extra: usize) -> Result<usize, LayerError> {
        let full = (input - 1) * self.stride[axis] + self.reach()[axis] + extra;
        let cut = self.padding[axis] + self.padding[axis + 2];
        if extra >= self.stride[axis].max(self.dilation[axis]) {
            return Err(LayerError::Extra { extra, stride: self.stride[axis] });
        }
        full.checked_sub(cut).filter(|size| *size > 0).ok_or(LayerError::Window { window: full, available: cut })
    }
}

/// Windows of a pooling layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// Steps between windows, down and across.
    pub stride: [usize; 2],
    /// Cells around the image: top, left, bottom, right.
    pub padding: [usize; 4],
}

impl Pool {
    /// Square windows side by side.
    pub const fn square(size: usize) -> Self {
        Self { kernel: [size; 2], stride: [size; 2], padding: [0; 4] }
    }

    fn output(&self, input: Shape) -> Result<Shape, LayerError> {
        if self.kernel.contains(&0) || self.stride.contains(&0) {
            return Err(LayerError::Empty);
        }
        for (axis, kernel) in self.kernel.iter().enumerate() {
            let padding = self.padding[axis].max(self.padding[axis + 2]);
            if padding >= *kernel {
                return Err(LayerError::PoolPadding { padding, kernel: *kernel });
            }
        }
        let height = slots(input.height, self.kernel[0], self.stride[0], self.padding[0] + self.padding[2])?;
        let width = slots(input.width, self.kernel[1], self.stride[1], self.padding[1] + self.padding[3])?;
        Ok(Shape { channels: input.channels, height, width })
    }
}

/// How many windows of size `window` fit, `stride` apart.
fn slots(input: usize, window: usize, stride: usize, padding: usize) -> Result<usize, LayerError> {
    let available = input + padding;
    let rest = available.checked_sub(window).ok_or(LayerError::Window { window, available })?;
    Ok(rest / stride + 1)
}

/// Why a layer cannot take what it is given.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum LayerError {
    /// A size of zero.
    #[error("a size is zero: channels, kernels, strides, dilations and groups are at least 1")]
    Empty,
    /// Kernel or window does not fit.
    #[error("a window of {window} cells is larger than the image with its padding, {available}")]
    Window {
        /// Cells that it covers.
        window: usize,
        /// Cells that there are.
        available: usize,
    },
    /// Channels do not divide.
    #[error("{groups} groups divide neither {inputs} input nor {outputs} output channels evenly")]
    Groups {
        /// Groups asked for.
        groups: usize,
        /// Channels that come in.
        inputs: usize,
        /// Channels that go out.
        outputs: usize,
    },
    /// A pooling window that could lie outside the image.
    #[error("{padding} cells of padding for windows of {kernel}: a window must reach the image")]
    PoolPadding {
        /// Cells on one side.
        padding: usize,
        /// Cells of a window.
        kernel: usize,
    },
    /// Transposed convolution with more extra cells than a stride has.
    #[error(
        "{extra} extra cells behind a transposed convolution of stride {stride}: fewer than the stride are possible"
    )]
    Extra {
        /// Cells asked for.
        extra: usize,
        /// The stride.
        stride: usize,
    },
    /// Number of inputs.
    #[error("{got} inputs where {due} are due")]
    Inputs {
        /// What it takes.
        due: &'static str,
        /// What it was given.
        got: usize,
    },
    /// Inputs that must have one shape do not.
    #[error("inputs of shapes {first} and {other} do not fit together")]
    Shapes {
        /// Of the first input.
        first: Shape,
        /// Of another one.
        other: Shape,
    },
    /// A reshape that would lose or invent elements.
    #[error("{input} has {} elements, {output} has {}", .input.len(), .output.len())]
    Reshape {
        /// What comes in.
        input: Shape,
        /// What should go out.
        output: Shape,
    },
    /// A number out of range.
    #[error("{what} = {value} is out of range: {allowed}")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// What would do.
        allowed: &'static str,
    },
    /// Statistics of a single value.
    #[error("a batch of one has no deviation: batch-norm needs at least two values per channel")]
    SingleValue,
}

impl Layer {
    /// What it is called in errors and reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::Conv(_) => "conv",
            Self::ConvTranspose { .. } => "conv-transpose",
            Self::MaxPool(_) => "max-pool",
            Self::AveragePool { .. } => "average-pool",
            Self::AdaptiveAveragePool { .. } => "adaptive-average-pool",
            Self::BatchNorm { .. } => "batch-norm",
            Self::LayerNorm { .. } => "layer-norm",
            Self::GroupNorm { .. } => "group-norm",
            Self::Scale => "scale",
            Self::Dropout { .. } => "dropout",
            Self::Flatten => "flatten",
            Self::Reshape { .. } => "reshape",
            Self::Concat => "concat",
            Self::Add => "add",
            Self::Subtract => "subtract",
            Self::Multiply => "multiply",
            Self::Relu => "relu",
            Self::Clip { .. } => "clip",
            Self::LeakyRelu { .. } => "leaky-relu",
            Self::Gelu => "gelu",
            Self::Silu => "silu",
            Self::Softplus => "softplus",
            Self::Sigmoid => "sigmoid",
            Self::Tanh => "tanh",
            Self::Softmax => "softmax",
            Self::LogSoftmax => "log-softmax",
        }
    }

    /// Shape of the result, or why there is none.
    pub fn output(&self, inputs: &[Shape]) -> Result<Shape, LayerError> {
        self.check_inputs(inputs)?;
        let input = inputs[0];
        match self {
            Self::Linear { outputs: 0, .. } => Err(LayerError::Empty),
            Self::Linear { outputs, .. } => Ok(Shape { channels: *outputs, ..input }),
            Self::Conv(conv) => {
                conv.check(input.channels)?;
                let ([rows, columns], [top, left, bottom, right]) = (conv.reach(), conv.padding);
                let height = slots(input.height, rows, conv.stride[0], top + bottom)?;
                let width = slots(input.width, columns, conv.stride[1], left + right)?;
                Ok(Shape { channels: conv.channels, height, width })
            }
            Self::ConvTranspose { conv, extra } => {
                conv.check(input.channels)?;
                let height = conv.transposed(0, input.height, extra[0])?;
                let width = conv.transposed(1, input.width, extra[1])?;
                Ok(Shape { channels: conv.channels, height, width })
            }
            Self::MaxPool(pool) | Self::AveragePool { pool, .. } => pool.output(input),
            Self::AdaptiveAveragePool { output: [height, width] } => {
                let fits = (1..=input.height).contains(height) && (1..=input.width).contains(width);
                let (window, available) = (height * width, input.positions());
                let shape = Shape { channels: input.channels, height: *height, width: *width };
                fits.then_some(shape).ok_or(LayerError::Window { window, available })
            }
            Self::GroupNorm { groups, .. } => {
                let (inputs, outputs) = (input.channels, input.channels);
                let fits = *groups > 0 && inputs.is_multiple_of(*groups);
                fits.then_some(input).ok_or(LayerError::Groups { groups: *groups, inputs, outputs })
            }
            Self::Flatten => Ok(Shape::vector(input.len())),
            Self::Reshape { shape } if shape.len() == input.len() => Ok(*shape),
            Self::Reshape { shape } => Err(LayerError::Reshape { input, output: *shape }),
            Self::Concat => {
                let other = inputs.iter().find(|s| (s.height, s.width) != (input.height, input.width));
                let channels = inputs.iter().map(|shape| shape.channels).sum();
                other.map_or(Ok(Shape { channels, ..input }), |&other| Err(LayerError::Shapes { first: input, other }))
            }
            Self::Add | Self::Subtract | Self::Multiply => {
                let other = inputs.iter().find(|shape| **shape != input);
                other.map_or(Ok(input), |&other| Err(LayerError::Shapes { first: input, other }))
            }
            _ => Ok(input),
        }
        .and_then(|shape| self.check_numbers().map(|()| shape))
    }

    fn check_inputs(&self, inputs: &[Shape]) -> Result<(), LayerError> {
        let (due, fits) = match self {
            Self::Concat | Self::Add => ("at least two", inputs.len() >= 2),
            Self::Subtract | Self::Multiply => ("two", inputs.len() == 2),
            _ => ("one", inputs.len() == 1),
        };
        if !fits {
            return Err(LayerError::Inputs { due, got: inputs.len() });
        }
        if inputs.iter().any(Shape::is_empty) { Err(LayerError::Empty) } else { Ok(()) }
    }

    fn check_numbers(&self) -> Result<(), LayerError> {
        let within = |fits: bool, what, value, allowed| {
            if fits { Ok(()) } else { Err(LayerError::Range { what, value, allowed }) }
        };
        match *self {
            Self::BatchNorm { epsilon, momentum } => {
                within((0.0..=1.0).contains(&momentum), "momentum", momentum, "from 0 to 1")?;
                within(epsilon > 0.0 && epsilon < 1.0, "epsilon", epsilon, "above 0 and below 1")
            }
            Self::LayerNorm { epsilon } | Self::GroupNorm { epsilon, .. } => {
                within(epsilon > 0.0 && epsilon < 1.0, "epsilon", epsilon, "above 0 and below 1")
            }
            Self::Dropout { probability, .. } => {
                within((0.0..1.0).contains(&probability), "probability", probability, "from 0 to below 1")
            }
            Self::Clip { low, high } => within(
                low < high && low.is_finite() && high.is_finite(),
                "low",
                low,
                "finite, and below the upper bound",
            ),
            Self::LeakyRelu { slope } => within(slope.abs() <= 1.0, "slope", slope, "from -1 to 1"),
            _ => Ok(()),
        }
    }

    /// Weights (or scales) and biases (or shifts) that it learns.
    pub fn parameters(&self, input: Shape) -> [usize; 2] {
        match self {
            Self::Linear { outputs, bias } => [input.channels * outputs, usize::from(*bias) * outputs],
            Self::Conv(conv) | Self::ConvTranspose { conv, .. } => {
                let weights = conv.kernel[0] * conv.kernel[1] * input.channels / conv.groups * conv.channels;
                [weights, usize::from(conv.bias) * conv.channels]
            }
            Self::BatchNorm { .. } | Self::LayerNorm { .. } | Self::GroupNorm { .. } | Self::Scale => {
                [input.channels; 2]
            }
            _ => [0; 2],
        }
    }

    /// Running averages that it keeps: means, then variances.
    pub fn buffers(&self, input: Shape) -> usize {
        if matches!(self, Self::BatchNorm { .. }) { 2 * input.channels } else { 0 }
    }

    /// Terms of one sum: what PyTorch calls the fan-in. None for layers without products.
    pub fn fan_in(&self, input: Shape) -> Option<usize> {
        match self {
            Self::Linear { .. } => Some(input.channels),
            Self::Conv(conv) => Some(conv.kernel[0] * conv.kernel[1] * input.channels / conv.groups),
            // PyTorch counts the second dimension of the weights, the output channels of a group.
            Self::ConvTranspose { conv, .. } => Some(conv.kernel[0] * conv.kernel[1] * conv.channels / conv.groups),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(layer: Layer, input: Shape) -> Result<Shape, LayerError> {
        layer.output(&[input])
    }

    #[test]
    fn shapes_are_those_of_pytorch() {
        let image = Shape::image(3, 32, 32);
        let cases = [
            (Layer::Conv(Conv::square(20, 5)), Shape::image(20, 28, 28)),
            (Layer::Conv(Conv::square(64, 3).padded(1).strided(2)), Shape::image(64, 16, 16)),
            (Layer::Conv(Conv { dilation: [2, 3], ..Conv::square(6, 3) }), Shape::image(6, 28, 26)),
            (
                Layer::ConvTranspose { conv: Conv::square(5, 3).strided(2).padded(1), extra: [1, 0] },
                Shape::image(5, 64, 63),
            ),
            (Layer::MaxPool(Pool::square(2)), Shape::image(3, 16, 16)),
            (Layer::MaxPool(Pool { kernel: [3; 2], stride: [2; 2], padding: [1; 4] }), Shape::image(3, 16, 16)),
            (Layer::AdaptiveAveragePool { output: [7, 5] }, Shape::image(3, 7, 5)),
            (Layer::Flatten, Shape::vector(3072)),
            (Layer::Linear { outputs: 7, bias: true }, Shape::image(7, 32, 32)),
        ];
        for (layer, want) in cases {
            assert_eq!(shape(layer, image), Ok(want), "{layer:?}");
        }
        assert_eq!(Layer::Concat.output(&[image, Shape::image(5, 32, 32)]), Ok(Shape::image(8, 32, 32)));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        let image = Shape::image(3, 4, 4);
        let cases = [
            (Layer::Conv(Conv::square(1, 5)), "larger than the image"),
            (Layer::Conv(Conv { groups: 2, ..Conv::square(4, 3) }), "2 groups"),
            (Layer::Conv(Conv::square(1, 0)), "zero"),
            (Layer::MaxPool(Pool { padding: [2; 4], ..Pool::square(2) }), "must reach the image"),
            (Layer::ConvTranspose { conv: Conv::square(1, 3), extra: [1, 1] }, "fewer than the stride"),
            (Layer::AdaptiveAveragePool { output: [5, 1] }, "larger than"),
            (Layer::Reshape { shape: Shape::vector(47) }, "48 elements"),
            (Layer::Dropout { probability: 1.0, secret: false }, "out of range"),
            (Layer::BatchNorm { epsilon: 0.0, momentum: 0.1 }, "epsilon"),
            (Layer::Clip { low: 1.0, high: 1.0 }, "low"),
            (Layer::Add, "at least two"),
        ];
        for (layer, part) in cases {
            let error = shape(layer, image).unwrap_err().to_string();
            assert!(error.contains(part), "{layer:?}: {error}");
        }
        let error = Layer::Add.output(&[image, Shape::vector(48)]).unwrap_err().to_string();
        assert_eq!(error, "inputs of shapes 3x4x4 and 48 do not fit together");
    }
}
