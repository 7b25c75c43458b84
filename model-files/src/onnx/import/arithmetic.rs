//! Sums, products and activation functions.

use shared::model::{Layer, Source};

use super::{Activation, Affine, Base, Importer, Inputs, OnnxError, Op, Role, Tensor, Value};
use crate::onnx::constants::broadcast_dims;

/// How far constants of an exported formula may be from the exact ones: they are rounded to 32 bits.
const TOLERANCE: f64 = 1e-4;

/// From here on `ln(1 + exp(x))` is `x` to 4e-7.
const SOFTPLUS_MIN: f64 = 15.0;

impl<'a> Importer<'a> {
    pub(super) fn arithmetic(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let count = op.proto.input.len();
        match op.kind() {
            "Neg" => {
                let value = inputs.activation(op, 0)?;
                self.affine(op, value, &Affine::scale(op.name(), vec![-1.0]))
            }
            "Pow" => self.power(op, inputs),
            "Max" | "Min" => self.bound(op, inputs),
            "Sum" | "Mean" => {
                let values = (0..count).map(|i| inputs.activation(op, i)).collect::<Result<Vec<_>, _>>()?;
                let [first, .., _] = &values[..] else { return inputs.activation(op, 0) };
                let sum = self.join(op, Layer::Add, first, &values[1..])?;
                #[allow(clippy::cast_precision_loss, reason = "a handful of inputs")]
                let mean = Affine::scale(op.name(), vec![1.0 / count as f64]);
                if op.kind() == "Mean" { self.affine(op, sum, &mean) } else { Ok(sum) }
            }
            _ => match (inputs.get(0), inputs.get(1)) {
                (Some(Value::Activation(a)), Some(Value::Activation(b))) => self.two(op, a, b),
                (Some(Value::Activation(a)), Some(_)) => self.with_constant(op, a, &*inputs.constant(op, 1)?, false),
                _ => {
                    let b = inputs.activation(op, 1)?;
                    self.with_constant(op, &b, &*inputs.constant(op, 0)?, true)
                }
            },
        }
    }

    /// Two values that depend on the sample.
    fn two(&mut self, op: &Op<'a>, a: &Activation, b: &Activation) -> Result<Activation, OnnxError> {
        if let Some(step) = self.norm_step(op, a, b)? {
            return Ok(step);
        }
        match op.kind() {
            "Add" => self.join(op, Layer::Add, a, std::slice::from_ref(b)),
            "Sub" => self.join(op, Layer::Subtract, a, std::slice::from_ref(b)),
            "Mul" => {
                if let Some(result) = self.gelu_of(op, a, b)?.or(self.gelu_of(op, b, a)?) {
                    return Ok(result);
                }
                if let Some(result) = self.silu_of(op, a, b)?.or(self.silu_of(op, b, a)?) {
                    return Ok(result);
                }
                self.join(op, Layer::Multiply, a, std::slice::from_ref(b))
            }
            _ => Err(op.refused("both inputs depend on the sample", "division by a constant is supported")),
        }
    }

    /// A sum, difference or product of values of one shape.
    fn join(
        &mut self,
        op: &Op<'a>,
        layer: Layer,
        first: &Activation,
        others: &[Activation],
    ) -> Result<Activation, OnnxError> {
        let source = self.source(op, first)?;
        let shape = self.shape_at(source);
        let mut sources = vec![source];
        for other in others {
            if first.dims() != other.dims() {
                let why = format!("samples of dimensions {:?} and {:?}", first.dims(), other.dims());
                return Err(op.refused(why, "values of equal dimensions, or a value and a constant, are supported"));
            }
            if first.is_arranged_like(other) && matches!(other.base, Base::Source(at) if self.shape_at(at) == shape) {
                sources.push(self.source(op, other)?);
            } else if first.is_channels_first() {
                sources.push(self.image(op, other, shape)?);
            } else {
                return Err(op.refused("its inputs are arranged differently", "Transpose one of them"));
            }
        }
        let result = self.add(op, layer, &sources)?;
        Ok(first.like(result, self.shape_at(result)))
    }

    fn with_constant(
        &mut self,
        op: &Op<'a>,
        value: &Activation,
        constant: &Tensor,
        constant_first: bool,
    ) -> Result<Activation, OnnxError> {
        constant.check_finite()?;
        let numbers = match self.per_channel(op, value, constant) {
            Ok(numbers) => numbers,
            Err(error) => {
                // Every element as a channel of its own; the layout behind it is the one in front.
                let Some((flat, constant)) = self.per_element(op, value, constant)? else { return Err(error) };
                let Base::Source(before) = value.base else { return Err(error) };
                let result = self.with_constant(op, &flat, &constant, constant_first)?;
                let shape = self.shape_at(before);
                let source = self.source(op, &result)?;
                let source = self.add(op, Layer::Reshape { shape }, &[source])?;
                return Ok(value.like(source, shape));
            }
        };
        let name = op.name();
        let negated = |numbers: &[f64]| numbers.iter().map(|x| -x).collect::<Vec<_>>();
        let affine = match (op.kind(), constant_first) {
            ("Add", _) => Affine::shift(name, numbers),
            ("Sub", false) => Affine::shift(name, negated(&numbers)),
            ("Sub", true) => Affine { name: name.to_owned(), scale: vec![-1.0], shift: numbers },
            ("Mul", _) => Affine::scale(name, numbers),
            ("Div", false) if numbers.iter().all(|x| *x != 0.0) => {
                Affine::scale(name, numbers.iter().map(|x| 1.0 / x).collect())
            }
            ("Div", false) => return Err(op.refused("division by zero", "a divisor must not be zero")),
            _ => return Err(op.refused("a constant divided by values", "division by a constant is supported")),
        };
        self.affine(op, value.clone(), &affine)
    }

    /// One number for all, or one for each channel.
    pub(super) fn per_channel(
        &self,
        op: &Op<'a>,
        value: &Activation,
        constant: &Tensor,
    ) -> Result<Vec<f64>, OnnxError> {
        if let Some(number) = constant.single() {
            return Ok(vec![number]);
        }
        let dims = [&[1], &value.dims()[..]].concat();
        let nearest = "one number, or one for each channel, is supported";
        let refused = || {
            let why = format!("a constant of dimensions {:?} for samples of {:?}", constant.dims, value.dims());
            op.refused(why, nearest)
        };
        if broadcast_dims(&dims, &constant.dims).as_ref() != Some(&dims) {
            return Err(refused());
        }
        let numbers = constant.broadcast(&dims).ok_or_else(refused)?;
        let inner = value.channel_axis().map_or(0, |axis| value.axes[axis + 1..].iter().map(|a| a.size).product());
        let channels = value.channels();
        let channel = |at: usize| at.checked_div(inner).map_or(0, |block| block % channels);
        let mut result = vec![None; channels];
        for (at, number) in numbers.values.iter().enumerate() {
            if *result[channel(at)].get_or_insert(*number) != *number {
                return Err(refused());
            }
        }
        result.into_iter().collect::<Option<Vec<_>>>().ok_or_else(refused)
    }

    /// A value as a vector, and a constant with a number for each of its elements.
    fn per_element(
        &mut self,
        op: &Op<'a>,
        value: &Activation,
        constant: &Tensor,
    ) -> Result<Option<(Activation, Tensor)>, OnnxError> {
        let dims = [&[1], &value.dims()[..]].concat();
        if broadcast_dims(&dims, &constant.dims).as_ref() != Some(&dims) {
            return Ok(None);
        }
        let Some(numbers) = constant.broadcast(&dims) else { return Ok(None) };
        let source = self.source(op, value)?;
        let shape = self.shape_at(source);
        let mut in_memory = vec![0.0; shape.len()];
        value.order().into_iter().zip(&numbers.values).for_each(|(at, number)| in_memory[at] = *number);
        let numbers = shape.channels_first().map(|at| in_memory[at]).collect();
        let flat = self.add(op, Layer::Flatten, &[source])?;
        let flat = Activation::channels_first(flat, self.shape_at(flat), 1);
        Ok(Some((flat, Tensor::vector(&constant.name, numbers))))
    }

    /// Puts off a scale and a shift, or merges them into the layer in front.
    pub(super) fn affine(&mut self, op: &Op<'a>, value: Activation, next: &Affine) -> Result<Activation, OnnxError> {
        if value.padding != [0; 4] {
            self.source(op, &value)?;
        }
        let affine = match &value.affine {
            Some(before) => before.then(next),
            None => next.clone(),
        };
        if affine.uniform() == Some((1.0, 0.0)) {
            return Ok(Activation { affine: None, ..value });
        }
        if value.sole
            && let Base::Source(Source::Node(node)) = value.base
            && self.merge(node, &affine)
        {
            return Ok(Activation { affine: None, ..value });
        }
        Ok(Activation { affine: Some(affine), ..value })
    }

    /// Merges a scale and a shift into the parameters of a layer, if it has any.
    fn merge(&mut self, node: usize, affine: &Affine) -> bool {
        let channels = self.built[node].output.channels;
        let inputs = self.built[node].node.inputs[0];
        let inputs = self.shape_at(inputs).channels;
        let (scale, shift) = affine.per_channel(channels);
        let built = &mut self.built[node];
        let mut always = true;
        let bias = match &mut built.node.layer {
            Layer::Linear { bias, .. } => bias,
            Layer::Conv(conv) | Layer::ConvTranspose { conv, .. } => &mut conv.bias,
            Layer::Scale | Layer::LayerNorm { .. } | Layer::GroupNorm { .. } => &mut always,
            _ => return false,
        };
        if !*bias && shift.iter().any(|shift| *shift != 0.0) {
            *bias = true;
            built.biases = vec![0.0; channels];
        }
        built.biases.iter_mut().zip(scale.iter().zip(&shift)).for_each(|(b, (scale, shift))| *b = *b * scale + shift);
        // Which output channel a weight belongs to.
        let transposed = match built.node.layer {
            Layer::ConvTranspose { conv, .. } => Some((channels / conv.groups, inputs / conv.groups)),
            _ => None,
        };
        for (at, weight) in built.weights.iter_mut().enumerate() {
            *weight *= match transposed {
                Some((outputs, of_group)) => scale[at % inputs / of_group * outputs + at / inputs % outputs],
                None => scale[at % channels],
            };
        }
        true
    }

    fn power(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let exponent = inputs.constant(op, 1)?.single();
        let Some(count) = [1_u8, 2, 3, 4].into_iter().find(|count| exponent == Some(f64::from(*count))) else {
            return Err(op.refused("this exponent", "1, 2, 3 and 4 are supported"));
        };
        if let Some(square) = Self::norm_square(&value).filter(|_| count == 2) {
            return Ok(square);
        }
        let source = self.source(op, &value)?;
        let mut result = source;
        for _ in 1..count.min(3) {
            result = self.add(op, Layer::Multiply, &[result, source])?;
        }
        if count == 4 {
            result = self.add(op, Layer::Multiply, &[result, source])?;
        }
        Ok(value.like(result, self.shape_at(result)))
    }

    /// The larger or smaller of several, of which constants are single numbers.
    fn bound(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let mut result: Option<Activation> = None;
        let mut numbers = Vec::new();
        for index in 0..op.proto.input.len() {
            let Some(Value::Activation(value)) = inputs.get(index) else {
                let number = inputs.constant(op, index)?.single().filter(|number| number.is_finite());
                let refused = || op.refused("a constant that is not one finite number", "one number is supported");
                numbers.push(number.ok_or_else(refused)?);
                continue;
            };
            result = Some(match &result {
                None => value.clone(),
                Some(first) => self.larger(op, first, value)?,
            });
        }
        let mut result = result.ok_or_else(|| op.refused("of constants alone", "fold constants when exporting"))?;
        for number in numbers {
            result = match op.kind() {
                "Max" => self.at_least(op, result, number)?,
                _ => self.at_most(op, result, number)?,
            };
        }
        Ok(result)
    }

    /// `max(a, b) = a + max(b - a, 0)`, `min(a, b) = a - max(a - b, 0)`.
    fn larger(&mut self, op: &Op<'a>, a: &Activation, b: &Activation) -> Result<Activation, OnnxError> {
        let (minuend, subtrahend, layer) = match op.kind() {
            "Max" => (b, a, Layer::Add),
            _ => (a, b, Layer::Subtract),
        };
        let difference = self.join(op, Layer::Subtract, minuend, std::slice::from_ref(subtrahend))?;
        let difference = self.applied(op, &difference, Layer::Relu)?;
        self.join(op, layer, a, &[difference])
    }

    fn at_least(&mut self, op: &Op<'a>, value: Activation, low: f64) -> Result<Activation, OnnxError> {
        let above = self.shifted(op, value, -low)?;
        let above = self.rectified(op, &above)?;
        self.shifted(op, above, low)
    }

    fn at_most(&mut self, op: &Op<'a>, value: Activation, high: f64) -> Result<Activation, OnnxError> {
        let mirror = Affine { name: op.name().to_owned(), scale: vec![-1.0], shift: vec![high] };
        let below = self.affine(op, value, &mirror)?;
        let below = self.rectified(op, &below)?;
        self.affine(op, below, &mirror)
    }

    fn shifted(&mut self, op: &Op<'a>, value: Activation, shift: f64) -> Result<Activation, OnnxError> {
        if shift == 0.0 { Ok(value) } else { self.affine(op, value, &Affine::shift(op.name(), vec![shift])) }
    }

    fn rectified(&mut self, op: &Op<'a>, value: &Activation) -> Result<Activation, OnnxError> {
        self.applied(op, value, Layer::Relu)
    }

    fn applied(&mut self, op: &Op<'a>, value: &Activation, layer: Layer) -> Result<Activation, OnnxError> {
        let source = self.source(op, value)?;
        let result = self.add(op, layer, &[source])?;
        Ok(value.like(result, self.shape_at(result)))
    }

    pub(super) fn clip(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let mut bounds = [None; 2];
        for (index, bound) in bounds.iter_mut().enumerate() {
            *bound = inputs.optional_constant(op, index + 1)?.and_then(|constant| constant.single());
            // The ends of the 32-bit range bound nothing.
            *bound = bound.filter(|bound: &f64| bound.abs() < f64::from(f32::MAX));
        }
        match bounds {
            [None, None] => Ok(value),
            [Some(low), None] => self.at_least(op, value, low),
            [None, Some(high)] => self.at_most(op, value, high),
            [Some(low), Some(high)] => self.applied(op, &value, Layer::Clip { low, high }),
        }
    }

    pub(super) fn prelu(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let slopes = inputs.constant(op, 1)?;
        slopes.check_finite()?;
        let value = inputs.activation(op, 0)?;
        let slopes = self.per_channel(op, &value, &slopes)?;
        if slopes.iter().all(|slope| *slope == slopes[0] && slope.abs() <= 1.0) {
            self.notes.push(format!("{:?}: its learned slope is kept as a constant", op.name()));
            return self.pointwise(op, inputs, Layer::LeakyRelu { slope: slopes[0] });
        }
        // max(x, 0) + a min(x, 0) = a x + (1 - a) max(x, 0)
        let shared = Activation { sole: false, ..value };
        let above = self.applied(op, &shared, Layer::Relu)?;
        let rest = Affine::scale(op.name(), slopes.iter().map(|a| 1.0 - a).collect());
        let above = self.affine(op, above, &rest)?;
        let line = self.affine(op, shared, &Affine::scale(op.name(), slopes))?;
        self.join(op, Layer::Add, &line, &[above])
    }

    pub(super) fn dropout(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let training = inputs.optional_constant(op, 2)?.and_then(|constant| constant.single());
        if training.is_some_and(|training| training != 0.0) {
            return Err(op.refused("training_mode", "export the model for inference; our own training drops values"));
        }
        let probability = match inputs.optional_constant(op, 1)? {
            Some(ratio) => ratio.single().unwrap_or(0.5),
            None => 0.5,
        };
        self.pointwise(op, inputs, Layer::Dropout { probability, secret: false })
    }

    pub(super) fn softmax(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let axis = self.axis(op, &value, op.integer("axis", -1))?;
        if value.axes[axis].role != Role::Channels {
            return Err(op.refused("over positions", "over channels it is supported"));
        }
        let layer = if op.kind() == "Softmax" { Layer::Softmax } else { Layer::LogSoftmax };
        self.applied(op, &value, layer)
    }

    pub(super) fn gelu(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        if op.text("approximate", "none") == "tanh" {
            self.notes.push(format!("{:?}: its tanh form is computed exactly; they differ by up to 5e-4", op.name()));
        }
        self.pointwise(op, inputs, Layer::Gelu)
    }

    pub(super) fn swish(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let alpha = op.float("alpha", 1.0);
        if alpha == 1.0 {
            return self.pointwise(op, inputs, Layer::Silu);
        }
        let value = inputs.activation(op, 0)?;
        let scaled = Activation { sole: false, ..value.clone() };
        let scaled = self.affine(op, scaled, &Affine::scale(op.name(), vec![alpha]))?;
        let gate = self.applied(op, &scaled, Layer::Sigmoid)?;
        self.join(op, Layer::Multiply, &value, &[gate])
    }

    pub(super) fn mish(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let softplus = self.applied(op, &value, Layer::Softplus)?;
        let gate = self.applied(op, &softplus, Layer::Tanh)?;
        self.join(op, Layer::Multiply, &value, &[gate])
    }

    pub(super) fn hard_sigmoid(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let (alpha, beta) = match op.kind() {
            "HardSwish" => (1.0 / 6.0, 0.5),
            _ => (op.float("alpha", 0.2), op.float("beta", 0.5)),
        };
        let line = Affine { name: op.name().to_owned(), scale: vec![alpha], shift: vec![beta] };
        let unshared = Activation { sole: value.sole && op.kind() == "HardSigmoid", ..value.clone() };
        let line = self.affine(op, unshared, &line)?;
        let gate = self.applied(op, &line, Layer::Clip { low: 0.0, high: 1.0 })?;
        if op.kind() == "HardSigmoid" { Ok(gate) } else { self.join(op, Layer::Multiply, &value, &[gate]) }
    }

    /// The error function, as part of GELU: of `x / sqrt 2`.
    pub(super) fn erf(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let factor = value.affine.as_ref().map_or(Some((1.0, 0.0)), Affine::uniform);
        let wanted = std::f64::consts::FRAC_1_SQRT_2;
        match (value.base, factor) {
            (Base::Source(source), Some((factor, 0.0)))
                if (factor - wanted).abs() < TOLERANCE && value.padding == [0; 4] =>
            {
                Ok(Activation { base: Base::Erf(source), affine: None, ..value })
            }
            _ => Err(op.refused("not of x / sqrt(2)", "x * 0.5 * (1 + erf(x / sqrt(2))) is read as GELU")),
        }
    }

    /// A comparison with a number, as part of PyTorch's softplus.
    pub(super) fn large(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let number = inputs.constant(op, 1)?.single();
        match value.base {
            Base::Source(source)
                if number.is_some_and(|number| number >= SOFTPLUS_MIN)
                    && value.affine.is_none()
                    && value.padding == [0; 4] =>
            {
                Ok(Activation { base: Base::Large(source), ..value })
            }
            _ => Err(op.refused("a comparison", "Relu, Clip, Max and Min are supported")),
        }
    }

    /// `x` where it is large, else `softplus(x)`: the same.
    pub(super) fn softplus_of(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let refused = || op.refused("a choice between values", "where(x > 20, x, softplus(x)) is read as Softplus");
        let [condition, x, softplus] = [0, 1, 2].map(|index| inputs.activation(op, index));
        let (condition, x, softplus) = (condition?, x.map_err(|_| refused())?, softplus.map_err(|_| refused())?);
        let plain = x.affine.is_none() && softplus.affine.is_none();
        match (condition.base, x.base, softplus.base) {
            (Base::Large(of), Base::Source(source), Base::Source(Source::Node(node)))
                if of == source
                    && plain
                    && self.built[node].node.layer == Layer::Softplus
                    && self.built[node].node.inputs[0] == source
                    && x.is_arranged_like(&softplus) =>
            {
                Ok(softplus)
            }
            _ => Err(refused()),
        }
    }

    /// `c x` times `k (1 + erf(x / sqrt 2))` is `2 c k GELU(x)`.
    fn gelu_of(&mut self, op: &Op<'a>, x: &Activation, erf: &Activation) -> Result<Option<Activation>, OnnxError> {
        let uniform = |value: &Activation| value.affine.as_ref().map_or(Some((1.0, 0.0)), Affine::uniform);
        let (Base::Source(source), Base::Erf(of)) = (x.base, erf.base) else { return Ok(None) };
        let (Some((c, shift)), Some((k, one))) = (uniform(x), uniform(erf)) else { return Ok(None) };
        if source != of || shift != 0.0 || (one - k).abs() > TOLERANCE * k.abs() || !x.is_arranged_like(erf) {
            return Ok(None);
        }
        let result = self.add(op, Layer::Gelu, &[source])?;
        let result = x.like(result, self.shape_at(result));
        let factor = 2.0 * c * k;
        if (factor - 1.0).abs() < TOLERANCE {
            return Ok(Some(result));
        }
        self.affine(op, result, &Affine::scale(op.name(), vec![factor])).map(Some)
    }

    /// `x` times `sigmoid(x)`. The sigmoid is left out of the network if nothing else takes it.
    fn silu_of(&mut self, op: &Op<'a>, x: &Activation, gate: &Activation) -> Result<Option<Activation>, OnnxError> {
        let (Base::Source(source), Base::Source(Source::Node(node))) = (x.base, gate.base) else { return Ok(None) };
        let built = &self.built[node].node;
        let plain = x.affine.is_none() && gate.affine.is_none() && x.is_arranged_like(gate);
        if built.layer != Layer::Sigmoid || built.inputs[0] != source || !plain {
            return Ok(None);
        }
        let result = self.add(op, Layer::Silu, &[source])?;
        Ok(Some(x.like(result, self.shape_at(result))))
    }

    /// Whether every sample's values are probabilities.
    pub(super) fn sums_to_one(&self, value: &Activation) -> bool {
        let Base::Source(Source::Node(node)) = value.base else { return false };
        let built = &self.built[node];
        match built.node.layer {
            Layer::Softmax => value.affine.is_none(),
            // Two classes: the sigmoids of a number and of its negative.
            Layer::Sigmoid if built.output.len() == 2 && value.affine.is_none() => {
                let Source::Node(scores) = built.node.inputs[0] else { return false };
                let scores = &self.built[scores];
                let opposite = |pair: &[f64]| pair[0] == -pair[1];
                matches!(scores.node.layer, Layer::Linear { .. })
                    && scores.weights.chunks_exact(2).chain(scores.biases.chunks_exact(2)).all(opposite)
            }
            _ => false,
        }
    }
}
