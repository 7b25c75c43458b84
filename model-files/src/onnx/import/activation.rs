//! What flows between operators: which result of a layer, and how the file arranges it.

use shared::model::{Shape, Source};

/// A batch of values of the network. Nothing is computed for what a layout or a neighbouring layer can absorb.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::onnx) struct Activation {
    pub(super) base: Base,
    /// Axes behind the batch, in the file's order.
    pub(super) axes: Vec<Axis>,
    /// Still to be applied to the base.
    pub(super) affine: Option<Affine>,
    /// Zeros still to be put around: top, left, bottom, right.
    pub(super) padding: [usize; 4],
    /// Whether nothing else takes the base, so that what follows can change the layer that computes it.
    pub(super) sole: bool,
}

/// Where elements come from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::onnx) enum Base {
    /// The sample or a layer's result.
    Source(Source),
    /// The error function of that, which only GELU may use.
    Erf(Source),
    /// Whether that is larger than a number so large that softplus does nothing behind it.
    Large(Source),
    /// A step of a layer-norm that the file spells out.
    Norm(NormStep, Source),
}

/// What a spelled-out layer-norm has computed of its input so far.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::onnx) enum NormStep {
    /// Mean over channels.
    Mean,
    /// Less its mean.
    Centred,
    /// The square of that.
    Square,
    /// The mean of the squares.
    Variance,
    /// The root of the variance with this added to it.
    Deviation { epsilon: f64 },
}

/// One axis of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::onnx) struct Axis {
    pub(super) role: Role,
    pub(super) size: usize,
}

/// What an axis counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::onnx) enum Role {
    Channels,
    Height,
    Width,
    /// Nothing: its size is one.
    Unit,
}

/// A scale and a shift, for all channels or for each.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::onnx) struct Affine {
    /// Of the first operator that contributed.
    pub(super) name: String,
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
}

impl Affine {
    pub(super) fn scale(name: &str, scale: Vec<f64>) -> Self {
        Self { name: name.to_owned(), scale, shift: vec![0.0] }
    }

    pub(super) fn shift(name: &str, shift: Vec<f64>) -> Self {
        Self { name: name.to_owned(), scale: vec![1.0], shift }
    }

    /// First `self`, then another.
    pub(super) fn then(&self, next: &Self) -> Self {
        let scale = combine(&self.scale, &next.scale, |a, b| a * b);
        let shift = combine(&combine(&self.shift, &next.scale, |a, b| a * b), &next.shift, |a, b| a + b);
        Self { name: self.name.clone(), scale, shift }
    }

    /// Scale and shift if they are the same for all channels.
    pub(super) fn uniform(&self) -> Option<(f64, f64)> {
        let same = |values: &[f64]| values.iter().all(|value| *value == values[0]).then_some(values[0]);
        Some((same(&self.scale)?, same(&self.shift)?))
    }

    /// One value for each channel.
    pub(super) fn per_channel(&self, channels: usize) -> (Vec<f64>, Vec<f64>) {
        let spread = |values: &[f64]| if values.len() == 1 { vec![values[0]; channels] } else { values.to_vec() };
        (spread(&self.scale), spread(&self.shift))
    }
}

/// Element by element, where one of the two may stand for all.
fn combine(a: &[f64], b: &[f64], with: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let count = a.len().max(b.len());
    let at = |values: &[f64], index: usize| if values.len() == 1 { values[0] } else { values[index] };
    (0..count).map(|index| with(at(a, index), at(b, index))).collect()
}

impl Activation {
    /// The sample itself.
    pub(super) fn of_sample(axes: Vec<Axis>) -> Self {
        Self { base: Base::Source(Source::Input), axes, affine: None, padding: [0; 4], sole: true }
    }

    /// A layer's result in the order of PyTorch, with so many axes behind the batch.
    pub(super) fn channels_first(source: Source, shape: Shape, axes: usize) -> Self {
        let roles = roles_of(axes);
        Self { base: Base::Source(source), axes: arrange(&roles, shape), affine: None, padding: [0; 4], sole: true }
    }

    /// The same arrangement of another layer's result.
    pub(super) fn like(&self, source: Source, shape: Shape) -> Self {
        let roles: Vec<Role> = self.axes.iter().map(|axis| axis.role).collect();
        Self { base: Base::Source(source), axes: arrange(&roles, shape), affine: None, padding: [0; 4], sole: true }
    }

    /// Sizes behind the batch, in the file's order.
    pub(super) fn dims(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.size).collect()
    }

    /// Elements of a sample.
    pub(super) fn len(&self) -> usize {
        self.axes.iter().map(|axis| axis.size).product()
    }

    /// The axis that counts channels, if there is more than one channel.
    pub(super) fn channel_axis(&self) -> Option<usize> {
        self.axes.iter().position(|axis| axis.role == Role::Channels && axis.size > 1)
    }

    pub(super) fn channels(&self) -> usize {
        self.channel_axis().map_or(1, |axis| self.axes[axis].size)
    }

    /// Whether elements are counted channel by channel, row by row.
    pub(super) fn is_channels_first(&self) -> bool {
        self.axes.iter().filter(|axis| axis.size > 1).is_sorted_by(|a, b| a.role < b.role)
    }

    /// Where each element lies in the memory of a sample.
    pub(super) fn order(&self) -> Vec<usize> {
        let size = |role| self.axes.iter().find(|a| a.role == role && a.size > 1).map_or(1, |axis| axis.size);
        let stride = |role| match role {
            Role::Channels => 1,
            Role::Width => size(Role::Channels),
            Role::Height => size(Role::Channels) * size(Role::Width),
            Role::Unit => 0,
        };
        self.axes.iter().fold(vec![0], |order, axis| {
            let step = stride(axis.role);
            order.iter().flat_map(|at| (0..axis.size).map(move |index| at + index * step)).collect()
        })
    }

    /// The same elements under other axes, if only axes of size one come and go.
    pub(super) fn viewed(&self, dims: &[usize]) -> Option<Self> {
        let mut rest = self.axes.iter().filter(|axis| axis.size > 1);
        let mut axes = Vec::with_capacity(dims.len());
        for &size in dims {
            let role = if size == 1 { Role::Unit } else { rest.next().filter(|axis| axis.size == size)?.role };
            axes.push(Axis { role, size });
        }
        if rest.next().is_some() {
            return None;
        }
        name_units(&mut axes);
        Some(Self { axes, ..self.clone() })
    }

    /// Whether another is arranged alike.
    pub(super) fn is_arranged_like(&self, other: &Self) -> bool {
        let alike = |(a, b): (&Axis, &Axis)| a.size == b.size && (a.size == 1 || a.role == b.role);
        self.axes.len() == other.axes.len() && self.axes.iter().zip(&other.axes).all(alike)
    }
}

/// Gives axes of size one the roles that PyTorch's order has for them, as far as others leave those; channels first of
/// all, since layers may change their number.
fn name_units(axes: &mut [Axis]) {
    let usual = roles_of(axes.len());
    for axis in 0..axes.len() {
        let role = usual.get(axis).copied().unwrap_or(Role::Unit);
        if axes[axis].role == Role::Unit && axes.iter().all(|other| other.role != role) {
            axes[axis].role = role;
        }
    }
    if axes.iter().all(|axis| axis.role != Role::Channels)
        && let Some(unit) = axes.iter_mut().rev().find(|axis| axis.size == 1)
    {
        unit.role = Role::Channels;
    }
}

/// Shape of samples that are counted channel by channel with these sizes.
pub(super) fn shape_of(dims: &[usize]) -> Option<Shape> {
    match *dims {
        [] => Some(Shape::vector(1)),
        [channels] => Some(Shape::vector(channels)),
        [channels, width] => Some(Shape { channels, height: 1, width }),
        [channels, height, width] => Some(Shape { channels, height, width }),
        _ => None,
    }
}

fn roles_of(axes: usize) -> Vec<Role> {
    match axes {
        0 => vec![],
        1 => vec![Role::Channels],
        2 => vec![Role::Channels, Role::Width],
        _ => vec![Role::Channels, Role::Height, Role::Width],
    }
}

/// Axes of these roles, with the sizes that a shape gives them.
pub(super) fn arrange(roles: &[Role], shape: Shape) -> Vec<Axis> {
    let size = |role| match role {
        Role::Channels => shape.channels,
        Role::Height => shape.height,
        Role::Width => shape.width,
        Role::Unit => 1,
    };
    roles.iter().map(|&role| Axis { role, size: size(role) }).collect()
}
