//! Operators on constants and on sizes of tensors, computed while a graph is read. Sizes may hold the batch's, which
//! is known to nobody yet.

use std::path::Path;
use std::rc::Rc;

use super::OnnxError;
use super::import::Value;
use super::op::Op;
use super::tensor::Tensor;

/// A size of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    /// As many as there are samples.
    Batch,
    /// A number.
    Known(i64),
}

/// Sizes in a list, or one alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sizes {
    pub(super) list: Vec<Size>,
    pub(super) is_scalar: bool,
}

impl Sizes {
    /// The numbers, if the batch is not among them.
    pub(super) fn constant(&self, name: &str) -> Option<Tensor> {
        #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^53")]
        let number = |size: &Size| if let Size::Known(size) = size { Some(*size as f64) } else { None };
        let values = self.list.iter().map(number).collect::<Option<Vec<_>>>()?;
        let dims = if self.is_scalar { vec![] } else { vec![values.len()] };
        Some(Tensor { name: name.to_owned(), dims, values })
    }

    /// Sizes that a value stands for.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Sizes(sizes) => Some(sizes.clone()),
            Value::Constant(tensor) if tensor.dims.len() <= 1 => {
                let list = tensor.integers().into_iter().map(Size::Known).collect();
                Some(Self { list, is_scalar: tensor.dims.is_empty() })
            }
            _ => None,
        }
    }
}

/// The results of an operator that takes constants and sizes alone; none if it takes anything else.
pub(super) fn fold(op: &Op<'_>, inputs: &[Option<Value>], folder: &Path) -> Result<Option<Vec<Value>>, OnnxError> {
    if op.kind() == "Constant" {
        return constant(op, folder).map(|tensor| Some(vec![Value::Constant(Rc::new(tensor))]));
    }
    let mut tensors = Vec::with_capacity(inputs.len());
    for input in inputs {
        match input {
            Some(Value::Activation(_)) => return Ok(None),
            Some(Value::Sizes(_)) => {
                let sizes = fold_sizes(op, inputs);
                let refused = || op.refused("of the number of samples", "sizes may be taken apart and put together");
                return sizes.map(|sizes| Some(vec![Value::Sizes(sizes)])).ok_or_else(refused);
            }
            Some(Value::Constant(tensor)) => tensors.push(Some(tensor.as_ref())),
            None => tensors.push(None),
        }
    }
    if tensors.is_empty() {
        return Ok(None);
    }
    let refused = || op.refused("of constants alone, in this form", "fold constants when exporting the model");
    fold_tensors(op, &tensors, folder)?.map(|tensor| Some(vec![Value::Constant(Rc::new(tensor))])).ok_or_else(refused)
}

fn constant(op: &Op<'_>, folder: &Path) -> Result<Tensor, OnnxError> {
    if let Some(tensor) = op.tensor("value") {
        return Tensor::read(tensor, folder).map(|tensor| Tensor { name: op.name().to_owned(), ..tensor });
    }
    #[allow(clippy::cast_precision_loss, reason = "sizes and indices are far below 2^53")]
    let tensor = if op.has("value_float") {
        Tensor::scalar(op.name(), op.float("value_float", 0.0))
    } else if op.has("value_int") {
        Tensor::scalar(op.name(), op.integer("value_int", 0) as f64)
    } else if let Some(values) = op.integers("value_ints") {
        Tensor::vector(op.name(), values.iter().map(|&x| x as f64).collect())
    } else if op.has("value_floats") {
        Tensor::vector(op.name(), op.floats("value_floats"))
    } else {
        return Err(op.refused("neither dense numbers nor sizes", "a dense tensor can be read"));
    };
    Ok(tensor)
}

fn fold_sizes(op: &Op<'_>, inputs: &[Option<Value>]) -> Option<Sizes> {
    let sizes = |index: usize| inputs.get(index)?.as_ref().and_then(Sizes::of);
    let first = sizes(0)?;
    match op.kind() {
        "Identity" | "Cast" => Some(first),
        "Squeeze" => Some(Sizes { is_scalar: first.list.len() == 1, ..first }),
        "Unsqueeze" => Some(Sizes { is_scalar: false, ..first }),
        "Concat" => {
            let parts = (0..inputs.len()).map(|index| Some(sizes(index)?.list)).collect::<Option<Vec<_>>>()?;
            Some(Sizes { list: parts.concat(), is_scalar: false })
        }
        "Gather" => {
            let Some(Value::Constant(indices)) = inputs.get(1)? else { return None };
            let at = |index: i64| first.list.get(wrap(index, first.list.len())?).copied();
            let list = indices.integers().into_iter().map(at).collect::<Option<_>>()?;
            Some(Sizes { list, is_scalar: indices.dims.is_empty() })
        }
        "Slice" => {
            let bound = |index: usize, default| match inputs.get(index) {
                Some(Some(Value::Constant(tensor))) => tensor.integers().first().copied(),
                Some(Some(_)) => None,
                _ => Some(default),
            };
            let range = slice(first.list.len(), bound(1, 0)?, bound(2, i64::MAX)?, bound(4, 1)?)?;
            Some(Sizes { list: range.into_iter().map(|at| first.list[at]).collect(), is_scalar: false })
        }
        "Add" | "Sub" | "Mul" | "Div" => {
            let second = sizes(1)?;
            let count = first.list.len().max(second.list.len());
            let at =
                |sizes: &Sizes, index: usize| sizes.list.get(if sizes.list.len() == 1 { 0 } else { index }).copied();
            let pairs = (0..count).map(|index| Some((at(&first, index)?, at(&second, index)?)));
            let list = pairs.map(|pair| size_of(op.kind(), pair?)).collect::<Option<_>>()?;
            Some(Sizes { list, is_scalar: first.is_scalar && second.is_scalar })
        }
        _ => None,
    }
}

/// A sum or product of two sizes. Only what leaves the batch as it is can be said of it.
fn size_of(kind: &str, pair: (Size, Size)) -> Option<Size> {
    use Size::{Batch, Known};
    match (kind, pair) {
        ("Add", (Known(a), Known(b))) => a.checked_add(b).map(Known),
        ("Sub", (Known(a), Known(b))) => a.checked_sub(b).map(Known),
        ("Mul", (Known(a), Known(b))) => a.checked_mul(b).map(Known),
        ("Div", (Known(a), Known(b))) => a.checked_div(b).map(Known),
        ("Mul", (Batch, Known(1)) | (Known(1), Batch)) | ("Div", (Batch, Known(1))) => Some(Batch),
        ("Add", (Batch, Known(0)) | (Known(0), Batch)) | ("Sub", (Batch, Known(0))) => Some(Batch),
        _ => None,
    }
}

fn fold_tensors(op: &Op<'_>, inputs: &[Option<&Tensor>], folder: &Path) -> Result<Option<Tensor>, OnnxError> {
    let Some(first) = inputs[0] else { return Ok(None) };
    let second = inputs.get(1).copied().flatten();
    let map =
        |f: fn(f64) -> f64| Some(Tensor { values: first.values.iter().map(|&x| f(x)).collect(), ..first.clone() });
    let with = |f: fn(f64, f64) -> f64| second.and_then(|second| elementwise(first, second, f));
    Ok(match op.kind() {
        "Identity" | "CastLike" => Some(first.clone()),
        // Only whole numbers are cast to integers in exported models: sizes.
        "Cast" => Some(first.clone()),
        "Neg" => map(|x| -x),
        "Sqrt" => map(f64::sqrt),
        "Exp" => map(f64::exp),
        "Log" => map(f64::ln),
        "Abs" => map(f64::abs),
        "Floor" => map(f64::floor),
        "Ceil" => map(f64::ceil),
        "Reciprocal" => map(|x| 1.0 / x),
        "Add" => with(|a, b| a + b),
        "Sub" => with(|a, b| a - b),
        "Mul" => with(|a, b| a * b),
        "Div" if first.is_whole() && second.is_some_and(Tensor::is_whole) => with(|a, b| (a / b).trunc()),
        "Div" => with(|a, b| a / b),
        "Pow" => with(f64::powf),
        "Max" => with(f64::max),
        "Min" => with(f64::min),
        "Equal" => with(|a, b| f64::from(a == b)),
        "Where" => {
            let (Some(second), Some(third)) = (second, inputs.get(2).copied().flatten()) else { return Ok(None) };
            let chosen = elementwise(first, second, |c, a| if c == 0.0 { f64::NAN } else { a });
            chosen.and_then(|chosen| elementwise(&chosen, third, |c, b| if c.is_nan() { b } else { c }))
        }
        "Transpose" => {
            let reversed: Vec<i64> = (0..first.dims.len() as i64).rev().collect();
            axes(op.integers("perm").unwrap_or(&reversed), first.dims.len()).map(|order| first.transposed(&order))
        }
        "Reshape" => second.and_then(|target| reshaped(first, &target.integers())),
        "Flatten" => {
            let rank = i64::try_from(first.dims.len()).unwrap_or(i64::MAX);
            let axis = op.integer("axis", 1);
            let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok();
            axis.filter(|axis| *axis <= first.dims.len()).map(|axis| {
                let dims = vec![first.dims[..axis].iter().product(), first.dims[axis..].iter().product()];
                Tensor { dims, ..first.clone() }
            })
        }
        "Squeeze" => {
            let kept = match second {
                Some(given) => axes(&given.integers(), first.dims.len())
                    .map(|given| (0..first.dims.len()).filter(|axis| !given.contains(axis)).collect::<Vec<_>>()),
                None => Some((0..first.dims.len()).filter(|axis| first.dims[*axis] != 1).collect()),
            };
            kept.map(|kept| Tensor { dims: kept.iter().map(|&axis| first.dims[axis]).collect(), ..first.clone() })
        }
        "Unsqueeze" => second.and_then(|given| unsqueezed(first, &given.integers())),
        "Concat" => concatenated(op, inputs),
        "Gather" => second.and_then(|indices| gathered(op, first, indices)),
        "Slice" => sliced(first, inputs),
        "Shape" => {
            #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^53")]
            let dims = first.dims.iter().map(|&size| size as f64).collect();
            Some(Tensor::vector(op.name(), dims))
        }
        "Expand" => {
            let dims = second.map(Tensor::integers).unwrap_or_default();
            let dims = dims.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>();
            dims.and_then(|dims| first.broadcast(&broadcast_dims(&first.dims, &dims)?))
        }
        "ConstantOfShape" => {
            let value = match op.tensor("value") {
                Some(value) => Tensor::read(value, folder)?.single(),
                None => Some(0.0),
            };
            let dims = first.integers().iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>();
            value.zip(dims).and_then(|(value, dims)| Tensor::scalar(op.name(), value).broadcast(&dims))
        }
        _ => return Err(op.refused("of constants alone", "fold constants when exporting the model")),
    })
}

impl Tensor {
    /// Integers are divided as such. Floats that happen to be whole and divide each other give the same.
    fn is_whole(&self) -> bool {
        self.values.iter().all(|x| x.fract() == 0.0)
    }
}

pub(super) fn elementwise(a: &Tensor, b: &Tensor, f: fn(f64, f64) -> f64) -> Option<Tensor> {
    let dims = broadcast_dims(&a.dims, &b.dims)?;
    let (left, right) = (a.broadcast(&dims)?, b.broadcast(&dims)?);
    let values = left.values.iter().zip(&right.values).map(|(&a, &b)| f(a, b)).collect();
    Some(Tensor { name: a.name.clone(), dims, values })
}

pub(super) fn broadcast_dims(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    let both = |axis| match (size(a, axis), size(b, axis)) {
        (1, size) | (size, 1) => Some(size),
        (one, other) => (one == other).then_some(one),
    };
    (0..rank).map(both).collect()
}

/// An axis or index that may count from the end.
pub(super) fn wrap(index: i64, count: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(i64::try_from(count).ok()?)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < count)
}

/// Axes that may count from the end, each at most once.
pub(super) fn axes(given: &[i64], rank: usize) -> Option<Vec<usize>> {
    let axes = given.iter().map(|&axis| wrap(axis, rank)).collect::<Option<Vec<_>>>()?;
    let distinct: std::collections::BTreeSet<_> = axes.iter().collect();
    (distinct.len() == axes.len()).then_some(axes)
}

fn reshaped(tensor: &Tensor, target: &[i64]) -> Option<Tensor> {
    let known = |(axis, &size): (usize, &i64)| match size {
        0 => tensor.dims.get(axis).copied(),
        -1 => Some(1),
        size => usize::try_from(size).ok(),
    };
    let mut dims = target.iter().enumerate().map(known).collect::<Option<Vec<_>>>()?;
    if let Some(open) = target.iter().position(|size| *size == -1) {
        dims[open] = tensor.values.len().checked_div(product(&dims)?)?;
    }
    (product(&dims)? == tensor.values.len()).then(|| Tensor { dims, ..tensor.clone() })
}

/// Elements of so many rows of rows.
pub(super) fn product(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1_usize, |count, size| count.checked_mul(*size))
}

fn unsqueezed(tensor: &Tensor, given: &[i64]) -> Option<Tensor> {
    let rank = tensor.dims.len() + given.len();
    let new = axes(given, rank)?;
    let mut rest = tensor.dims.iter();
    let dims = (0..rank).map(|axis| if new.contains(&axis) { Some(1) } else { rest.next().copied() });
    Some(Tensor { dims: dims.collect::<Option<_>>()?, ..tensor.clone() })
}

fn concatenated(op: &Op<'_>, inputs: &[Option<&Tensor>]) -> Option<Tensor> {
    let parts = inputs.iter().copied().collect::<Option<Vec<_>>>()?;
    let axis = wrap(op.integer("axis", 0), parts[0].dims.len())?;
    let fits = |part: &&Tensor| part.dims.len() == parts[0].dims.len() && !part.values.is_empty();
    if !parts.iter().all(fits) {
        return None;
    }
    let mut dims = parts[0].dims.clone();
    dims[axis] = parts.iter().map(|part| part.dims[axis]).sum();
    let rows: usize = dims[..axis].iter().product();
    let mut values = Vec::with_capacity(dims.iter().product());
    for row in 0..rows {
        for part in &parts {
            let width = part.values.len() / rows;
            values.extend(&part.values[row * width..(row + 1) * width]);
        }
    }
    (values.len() == dims.iter().product::<usize>()).then(|| Tensor { name: parts[0].name.clone(), dims, values })
}

fn gathered(op: &Op<'_>, tensor: &Tensor, indices: &Tensor) -> Option<Tensor> {
    let axis = wrap(op.integer("axis", 0), tensor.dims.len())?;
    let size = tensor.dims[axis];
    let picked = indices.integers().into_iter().map(|index| wrap(index, size)).collect::<Option<Vec<_>>>()?;
    Some(pick(tensor, axis, &picked, &indices.dims))
}

/// The named positions along an axis, which the dimensions `instead` replace.
fn pick(tensor: &Tensor, axis: usize, picked: &[usize], instead: &[usize]) -> Tensor {
    let inner: usize = tensor.dims[axis + 1..].iter().product();
    let outer: usize = tensor.dims[..axis].iter().product();
    let size = tensor.dims[axis];
    let mut values = Vec::with_capacity(outer * picked.len() * inner);
    for row in 0..outer {
        for &at in picked {
            let start = (row * size + at) * inner;
            values.extend(&tensor.values[start..start + inner]);
        }
    }
    let dims = [&tensor.dims[..axis], instead, &tensor.dims[axis + 1..]].concat();
    Tensor { name: tensor.name.clone(), dims, values }
}

fn sliced(tensor: &Tensor, inputs: &[Option<&Tensor>]) -> Option<Tensor> {
    let list = |index: usize| inputs.get(index).copied().flatten().map(Tensor::integers);
    let (starts, ends) = (list(1)?, list(2)?);
    let given = list(3).unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(4).unwrap_or_else(|| vec![1; starts.len()]);
    let mut result = tensor.clone();
    for (index, axis) in axes(&given, tensor.dims.len())?.into_iter().enumerate() {
        let picked = slice(result.dims[axis], starts[index], *ends.get(index)?, *steps.get(index)?)?;
        result = pick(&result, axis, &picked, &[picked.len()]);
    }
    Some(result)
}

/// Positions from `start` to before `end`.
fn slice(count: usize, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    let count = i64::try_from(count).ok()?;
    let from_end = |at: i64| if at < 0 { at.saturating_add(count) } else { at };
    if count == 0 {
        return (step != 0).then(Vec::new);
    }
    let (start, end) = if step > 0 {
        (from_end(start).clamp(0, count), from_end(end).clamp(0, count))
    } else {
        (from_end(start).clamp(0, count - 1), from_end(end).clamp(-1, count - 1))
    };
    let mut picked = Vec::new();
    let mut at = start;
    while step != 0 && if step > 0 { at < end } else { at > end } {
        picked.push(usize::try_from(at).ok()?);
        at = at.saturating_add(step);
    }
    (step != 0).then_some(picked)
}
