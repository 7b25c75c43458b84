//! Normalisations.

use shared::model::{Layer, Shape};

use super::activation::{Axis, NormStep};
use super::{Activation, Affine, Base, Importer, Inputs, OnnxError, Op, Role, shape_of};

impl<'a> Importer<'a> {
    pub(super) fn batch_norm(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        if op.integer("training_mode", 0) != 0 {
            let nearest = "export the model for inference: statistics of batches are taken in our own training";
            return Err(op.refused("training_mode", nearest));
        }
        if value.axes.first().is_none_or(|axis| axis.role != Role::Channels) {
            return Err(op.refused("channels are not its second axis", "put them there (Transpose)"));
        }
        let channels = value.channels();
        let [scale, shift, mean, variance] = self.numbers(op, inputs, [1, 2, 3, 4], channels)?;
        // ONNX's momentum is the weight of the old averages.
        let momentum = ((1.0 - op.float("momentum", 0.9)) * 1e6).round() / 1e6;
        let layer = Layer::BatchNorm { epsilon: op.float("epsilon", 1e-5), momentum };
        if let Some(at) = variance.iter().position(|variance| *variance < 0.0) {
            return Err(op.refused(format!("the variance of channel {at} is negative"), "variances are 0 or more"));
        }
        let source = self.source(op, &value)?;
        let parameters = [scale, shift, [mean, variance].concat()];
        let result = self.add_with(op, op.name(), layer, &[source], parameters)?;
        Ok(value.like(result, self.shape_at(result)))
    }

    /// Constants of one number for each channel.
    fn numbers<const N: usize>(
        &self,
        op: &Op<'a>,
        inputs: &Inputs,
        places: [usize; N],
        channels: usize,
    ) -> Result<[Vec<f64>; N], OnnxError> {
        let mut numbers = [const { Vec::new() }; N];
        for (numbers, place) in numbers.iter_mut().zip(places) {
            let constant = inputs.constant(op, place)?;
            constant.check_finite()?;
            if constant.values.len() != channels {
                let why = format!("{} values in {:?} for {channels} channels", constant.values.len(), constant.name);
                return Err(op.refused(why, "one for each channel is due"));
            }
            *numbers = constant.values.clone();
        }
        Ok(numbers)
    }

    pub(super) fn layer_norm(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let first = self.axis(op, &value, op.integer("axis", -1))?;
        let epsilon = op.float("epsilon", 1e-5);
        let channels = value.channels();
        let over_channels = value.axes[first..].iter().all(|axis| axis.role == Role::Channels || axis.size == 1);
        let layer = match first {
            _ if over_channels => Layer::LayerNorm { epsilon },
            0 if value.is_channels_first() => Layer::GroupNorm { groups: 1, epsilon },
            _ => {
                return Err(op.refused("over some positions", "over channels, or over a whole sample, it is supported"));
            }
        };
        let scale = self.per_channel(op, &value, &*inputs.constant(op, 1)?)?;
        let shift = match inputs.optional_constant(op, 2)? {
            Some(shift) => self.per_channel(op, &value, &shift)?,
            None => vec![0.0],
        };
        inputs.constant(op, 1)?.check_finite()?;
        let source = self.source(op, &value)?;
        let affine = super::Affine { name: op.name().to_owned(), scale, shift };
        let (scale, shift) = affine.per_channel(channels);
        let result = self.add_with(op, op.name(), layer, &[source], [scale, shift, vec![]])?;
        Ok(value.like(result, self.shape_at(result)))
    }

    pub(super) fn group_norm(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let refused = || op.refused("its input has more axes", "batch, channels, rows, columns are supported");
        let shape: Shape = shape_of(&value.dims()).ok_or_else(refused)?;
        let channels = shape.channels;
        let epsilon = op.float("epsilon", 1e-5);
        let groups = match op.kind() {
            "InstanceNormalization" => channels,
            _ => usize::try_from(op.integer("num_groups", 0)).unwrap_or(0),
        };
        // Until version 21 a group had one scale.
        let count = inputs.constant(op, 1)?.values.len();
        let [scale, shift] = self.numbers(op, inputs, [1, 2], if count == groups { groups } else { channels })?;
        let spread = |numbers: Vec<f64>| -> Vec<f64> {
            let times = channels / numbers.len().max(1);
            numbers.into_iter().flat_map(|number| std::iter::repeat_n(number, times)).collect()
        };
        let source = self.image(op, &value, shape)?;
        let parameters = [spread(scale), spread(shift), vec![]];
        let result = self.add_with(op, op.name(), Layer::GroupNorm { groups, epsilon }, &[source], parameters)?;
        Ok(Activation::channels_first(result, self.shape_at(result), value.axes.len()))
    }

    /// The mean over channels, as the first or the second mean of a layer-norm.
    pub(super) fn channel_mean(&self, op: &Op<'a>, value: &Activation, axis: usize) -> Result<Activation, OnnxError> {
        let step = match value.base {
            Base::Source(source) => Some((NormStep::Mean, source)),
            Base::Norm(NormStep::Square, source) => Some((NormStep::Variance, source)),
            _ => None,
        };
        let plain = value.affine.is_none() && value.padding == [0; 4] && op.integer("keepdims", 1) != 0;
        let Some((step, source)) = step.filter(|_| plain && op.kind() == "ReduceMean") else {
            return Err(op.refused("over channels", "over positions, and within a layer-norm, it is supported"));
        };
        let mut axes = value.axes.clone();
        axes[axis] = Axis { role: Role::Unit, size: 1 };
        Ok(Activation { base: Base::Norm(step, source), axes, ..value.clone() })
    }

    /// The next step of a layer-norm, if two of them meet; its layer, if they complete it.
    pub(super) fn norm_step(
        &mut self,
        op: &Op<'a>,
        a: &Activation,
        b: &Activation,
    ) -> Result<Option<Activation>, OnnxError> {
        let plain = a.affine.is_none() && b.affine.is_none();
        let base = match (op.kind(), a.base, b.base) {
            ("Sub", Base::Source(x), Base::Norm(NormStep::Mean, of)) if x == of => Base::Norm(NormStep::Centred, x),
            ("Mul", Base::Norm(NormStep::Centred, x), Base::Norm(NormStep::Centred, of)) if x == of => {
                Base::Norm(NormStep::Square, x)
            }
            ("Div", Base::Norm(NormStep::Centred, x), Base::Norm(NormStep::Deviation { epsilon }, of)) if x == of => {
                let channels = self.shape_at(x).channels;
                let parameters = [vec![1.0; channels], vec![0.0; channels], vec![]];
                let result = self.add_with(op, op.name(), Layer::LayerNorm { epsilon }, &[x], parameters)?;
                return Ok(plain.then(|| a.like(result, self.shape_at(result))));
            }
            _ => return Ok(None),
        };
        Ok(plain.then(|| Activation { base, ..a.clone() }))
    }

    /// The square of values that a layer-norm has centred.
    pub(super) fn norm_square(value: &Activation) -> Option<Activation> {
        let Base::Norm(NormStep::Centred, source) = value.base else { return None };
        value.affine.is_none().then(|| Activation { base: Base::Norm(NormStep::Square, source), ..value.clone() })
    }

    /// The root of a layer-norm's variance.
    pub(super) fn deviation(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        match (value.base, value.affine.as_ref().and_then(Affine::uniform)) {
            (Base::Norm(NormStep::Variance, source), Some((1.0, epsilon))) => {
                let base = Base::Norm(NormStep::Deviation { epsilon }, source);
                Ok(Activation { base, affine: None, ..value })
            }
            _ => Err(op.refused("of values of the network", "the root within a layer-norm is supported")),
        }
    }
}
