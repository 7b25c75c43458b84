//! Operators that move elements about, most of which only change how the file counts them.

use shared::model::{Layer, Shape};

use super::{Activation, Importer, Inputs, OnnxError, Op, Role, shape_of};
use crate::onnx::constants::{Size, Sizes, axes, product, wrap};

impl<'a> Importer<'a> {
    /// An axis behind the batch, from the file's number that counts the batch too.
    pub(super) fn axis(&self, op: &Op<'a>, value: &Activation, axis: i64) -> Result<usize, OnnxError> {
        let rank = value.axes.len() + 1;
        match wrap(axis, rank) {
            Some(0) => Err(op.refused("along the batch", "samples may not be mixed")),
            Some(axis) => Ok(axis - 1),
            None => Err(op.refused(format!("axis {axis} of {rank}"), "there is no such axis")),
        }
    }

    pub(super) fn flatten(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let axis = op.integer("axis", 1);
        let rank = value.axes.len() + 1;
        // A vector may also name its end.
        if axis != 1 && wrap(axis, rank) != Some(1) {
            return Err(op.refused(format!("axis {axis}"), "axis 1, which keeps samples, is supported"));
        }
        self.flat(op, &value)
    }

    fn flat(&mut self, op: &Op<'a>, value: &Activation) -> Result<Activation, OnnxError> {
        let source = self.source(op, value)?;
        if !value.is_channels_first() {
            let nearest = "Transpose to batch, channels, rows, columns in front of it";
            return Err(op.refused("its input has channels behind positions", nearest));
        }
        let result = self.add(op, Layer::Flatten, &[source])?;
        Ok(Activation::channels_first(result, self.shape_at(result), 1))
    }

    pub(super) fn reshape(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let refused =
            |why: String| op.refused(why, "sizes known when the model is exported, the batch first, are supported");
        let target = inputs.get(1).and_then(Sizes::of).ok_or_else(|| refused("its shape is computed".into()))?;
        let dims = self.reshaped(op, &value, &target)?;
        if let Some(view) = value.viewed(&dims) {
            return Ok(view);
        }
        if dims.len() == 1 {
            return self.flat(op, &value);
        }
        let shape = shape_of(&dims).ok_or_else(|| refused(format!("samples of dimensions {dims:?}")))?;
        let source = self.image(op, &value, shape)?;
        Ok(Activation::channels_first(source, shape, dims.len()))
    }

    /// Sizes behind the batch that a shape asks for.
    fn reshaped(&self, op: &Op<'a>, value: &Activation, target: &Sizes) -> Result<Vec<usize>, OnnxError> {
        let refused = || {
            let why = format!("samples of dimensions {:?} as {:?}", value.dims(), target.list);
            op.refused(why, "a shape that keeps the batch in front is supported")
        };
        let zero_copies = op.integer("allowzero", 0) == 0;
        let (first, rest) = target.list.split_first().ok_or_else(refused)?;
        let mut dims = Vec::with_capacity(rest.len());
        let mut open = None;
        for (axis, size) in rest.iter().enumerate() {
            dims.push(match *size {
                Size::Known(-1) if open.is_none() => {
                    open = Some(axis);
                    1
                }
                Size::Known(0) if zero_copies => value.axes.get(axis).ok_or_else(refused)?.size,
                Size::Known(size) => usize::try_from(size).map_err(|_| refused())?,
                Size::Batch => return Err(refused()),
            });
        }
        let batch_kept = match *first {
            Size::Batch => true,
            Size::Known(0) => zero_copies,
            Size::Known(-1) => open.is_none(),
            Size::Known(size) => usize::try_from(size).ok() == self.batch,
        };
        if let Some(open) = open {
            let others = product(&dims).and_then(|others| value.len().checked_div(others));
            dims[open] = others.ok_or_else(refused)?;
        }
        let fits = product(&dims) == Some(value.len());
        if batch_kept && fits { Ok(dims) } else { Err(refused()) }
    }

    pub(super) fn squeeze(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let given = inputs.optional_constant(op, 1)?.map(|axes| axes.integers());
        let dims = value.dims();
        let new = if op.kind() == "Squeeze" {
            let given = match given {
                Some(given) => given.iter().map(|&axis| self.axis(op, &value, axis)).collect::<Result<_, _>>()?,
                None => (0..dims.len()).filter(|axis| dims[*axis] == 1).collect::<Vec<_>>(),
            };
            if given.iter().any(|&axis| dims[axis] != 1) {
                return Err(op.refused(format!("samples of dimensions {dims:?}"), "axes of size 1 can be squeezed"));
            }
            (0..dims.len()).filter(|axis| !given.contains(axis)).map(|axis| dims[axis]).collect()
        } else {
            let given = given.unwrap_or_default();
            let rank = dims.len() + 1 + given.len();
            let given = axes(&given, rank).filter(|given| !given.contains(&0));
            let given = given.ok_or_else(|| op.refused("in front of the batch", "axes behind it are supported"))?;
            let mut rest = dims.iter().copied();
            (1..rank).map(|axis| if given.contains(&axis) { 1 } else { rest.next().unwrap_or(1) }).collect::<Vec<_>>()
        };
        value.viewed(&new).ok_or_else(|| op.refused(format!("samples of dimensions {dims:?}"), "other axes exist"))
    }

    pub(super) fn transpose(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let order = op.integers("perm").and_then(|order| axes(order, value.axes.len() + 1));
        let order = order.filter(|order| order.len() == value.axes.len() + 1 && order[0] == 0);
        let order = order.ok_or_else(|| op.refused("the batch moves", "the batch must stay in front"))?;
        if value.padding != [0; 4] {
            self.source(op, &value)?;
        }
        let axes = order[1..].iter().map(|&axis| value.axes[axis - 1]).collect();
        Ok(Activation { axes, ..value })
    }

    pub(super) fn concat(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Activation, OnnxError> {
        let values = (0..op.proto.input.len()).map(|i| inputs.activation(op, i)).collect::<Result<Vec<_>, _>>()?;
        let [first, .., _] = &values[..] else { return inputs.activation(op, 0) };
        let axis = self.axis(op, first, op.integer("axis", 1))?;
        let mut sources = Vec::with_capacity(values.len());
        for value in &values {
            let role = |axis: usize| value.axes.get(axis).map(|axis| axis.role);
            let alike = value.axes.len() == first.axes.len()
                && (0..first.axes.len()).all(|at| at == axis || value.axes[at].size == first.axes[at].size);
            if role(axis) != Some(Role::Channels) || !alike {
                return Err(op.refused("along positions", "along channels it is supported"));
            }
            let source = self.source(op, value)?;
            let shape = self.shape_at(source);
            let size = |role| first.axes.iter().find(|axis| axis.role == role).map_or(1, |axis| axis.size);
            let wanted = Shape { channels: shape.channels, height: size(Role::Height), width: size(Role::Width) };
            sources.push(if shape == wanted { source } else { self.image(op, value, wanted)? });
        }
        let result = self.add(op, Layer::Concat, &sources)?;
        Ok(first.like(result, self.shape_at(result)))
    }

    pub(super) fn shape(&mut self, op: &Op<'a>, inputs: &Inputs) -> Result<Sizes, OnnxError> {
        let value = inputs.activation(op, 0)?;
        let dims = value.dims().into_iter().map(|size| Size::Known(i64::try_from(size).unwrap_or(i64::MAX)));
        let all: Vec<Size> = std::iter::once(Size::Batch).chain(dims).collect();
        let bound = |name, default| {
            let at = op.integer(name, default);
            let count = i64::try_from(all.len()).unwrap_or(i64::MAX);
            usize::try_from(if at < 0 { at + count } else { at }.clamp(0, count)).unwrap_or(0)
        };
        let (start, end) = (bound("start", 0), bound("end", i64::MAX));
        Ok(Sizes { list: all.get(start..end).unwrap_or_default().to_vec(), is_scalar: false })
    }
}
