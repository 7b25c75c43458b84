//! Constants of a network: numbers with dimensions, from a file's own bytes or from a file beside it.

use std::path::{Component, Path, PathBuf};

use super::OnnxError;
use super::proto::{TensorProto, tensor_proto::DataLocation, tensor_proto::DataType};
use crate::half::{bfloat16, float16};

/// Numbers in rows of rows, the last dimension running fastest. Integers up to 2^53 are exact.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Tensor {
    /// What the file calls it or what it was computed from.
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) values: Vec<f64>,
}

impl Tensor {
    pub(super) fn scalar(name: &str, value: f64) -> Self {
        Self { name: name.to_owned(), dims: vec![], values: vec![value] }
    }

    pub(super) fn vector(name: &str, values: Vec<f64>) -> Self {
        Self { name: name.to_owned(), dims: vec![values.len()], values }
    }

    /// Its only element.
    pub(super) fn single(&self) -> Option<f64> {
        if let [value] = self.values[..] { Some(value) } else { None }
    }

    /// Its elements as integers.
    pub(super) fn integers(&self) -> Vec<i64> {
        #[allow(clippy::cast_possible_truncation, reason = "ends of slices are meant to saturate")]
        self.values.iter().map(|&x| x as i64).collect()
    }

    /// With its axes in another order.
    pub(super) fn transposed(&self, order: &[usize]) -> Self {
        let (dims, values) = transposed(&self.dims, order, &self.values);
        Self { name: self.name.clone(), dims, values }
    }

    /// Each element of the broadcast dimensions.
    pub(super) fn broadcast(&self, dims: &[usize]) -> Option<Self> {
        let missing = dims.len().checked_sub(self.dims.len())?;
        let mut strides = vec![0; dims.len()];
        for (axis, size) in self.dims.iter().enumerate() {
            if *size == dims[missing + axis] {
                strides[missing + axis] = self.dims[axis + 1..].iter().product();
            } else if *size != 1 {
                return None;
            }
        }
        let values = offsets(dims, &strides).into_iter().map(|at| self.values[at]).collect();
        Some(Self { name: self.name.clone(), dims: dims.to_vec(), values })
    }

    /// Whether all elements can be encoded as parameters.
    pub(super) fn check_finite(&self) -> Result<(), OnnxError> {
        match self.values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => Err(OnnxError::NotFinite { name: self.name.clone(), at, value: self.values[at] }),
        }
    }

    /// Reads a constant. `folder` holds the model's file, and data that is not within it.
    pub(super) fn read(proto: &TensorProto, folder: &Path) -> Result<Self, OnnxError> {
        let error = |why: String| OnnxError::Tensor { name: proto.name.clone(), why };
        let dims = proto.dims.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>();
        let dims = dims.ok_or_else(|| error(format!("its dimensions {:?} are negative", proto.dims)))?;
        let count = dims.iter().try_fold(1_usize, |count, size| count.checked_mul(*size));
        let count = count.ok_or_else(|| error(format!("its dimensions {dims:?} do not fit in memory")))?;
        let data_type = DataType::try_from(proto.data_type).unwrap_or(DataType::Undefined);
        let external = proto.data_location == DataLocation::External as i32;
        let values = if external {
            raw(data_type, &external_bytes(proto, folder)?)
        } else if proto.raw_data.is_empty() {
            fields(data_type, proto)
        } else {
            raw(data_type, &proto.raw_data)
        };
        let values = values.ok_or_else(|| error(unreadable(data_type)))?;
        if values.len() != count {
            return Err(error(format!("{} elements where its dimensions {dims:?} ask for {count}", values.len())));
        }
        Ok(Self { name: proto.name.clone(), dims, values })
    }
}

/// Dimensions and elements of an array with its axes in another order.
pub(crate) fn transposed(dims: &[usize], order: &[usize], values: &[f64]) -> (Vec<usize>, Vec<f64>) {
    let strides: Vec<usize> = order.iter().map(|&axis| dims[axis + 1..].iter().product()).collect();
    let dims: Vec<usize> = order.iter().map(|&axis| dims[axis]).collect();
    let values = offsets(&dims, &strides).into_iter().map(|at| values[at]).collect();
    (dims, values)
}

/// Offsets of all elements, the last dimension running fastest.
fn offsets(dims: &[usize], strides: &[usize]) -> Vec<usize> {
    dims.iter().zip(strides).fold(vec![0], |offsets, (&size, &stride)| {
        offsets.iter().flat_map(|at| (0..size).map(move |step| at + step * stride)).collect()
    })
}

fn unreadable(data_type: DataType) -> String {
    use DataType::{Float4e2m1, Int2, Int4, Int8, Uint2, Uint4, Uint8, Uint16};
    let name = data_type.as_str_name();
    match data_type {
        Int8 | Uint8 | Uint16 | Int4 | Uint4 | Int2 | Uint2 | Float4e2m1 => {
            format!("elements of type {name}: quantised models are not supported, export the model in float32")
        }
        _ => format!("elements of type {name}: FLOAT, DOUBLE, FLOAT16, BFLOAT16, INT32 and INT64 can be read"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "sizes and indices are far below 2^53")]
fn raw(data_type: DataType, data: &[u8]) -> Option<Vec<f64>> {
    fn all<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
        let (numbers, rest) = data.as_chunks();
        rest.is_empty().then(|| numbers.iter().map(|bytes| read(*bytes)).collect())
    }
    match data_type {
        DataType::Float => all(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
        DataType::Double => all(data, f64::from_le_bytes),
        DataType::Float16 => all(data, |bytes| float16(u16::from_le_bytes(bytes))),
        DataType::Bfloat16 => all(data, |bytes| bfloat16(u16::from_le_bytes(bytes))),
        DataType::Int32 => all(data, |bytes| f64::from(i32::from_le_bytes(bytes))),
        DataType::Int64 => all(data, |bytes| i64::from_le_bytes(bytes) as f64),
        DataType::Bool => all(data, |[byte]: [u8; 1]| f64::from(byte)),
        _ => None,
    }
}

/// Data in the field of its type instead of raw bytes.
#[allow(clippy::cast_precision_loss, reason = "sizes and indices are far below 2^53")]
fn fields(data_type: DataType, proto: &TensorProto) -> Option<Vec<f64>> {
    // Formats of 16 bits stand in the lower half of 32-bit integers.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the lower half is meant")]
    let halves = |read: fn(u16) -> f64| proto.int32_data.iter().map(|&bits| read(bits as u16)).collect();
    Some(match data_type {
        DataType::Float => proto.float_data.iter().map(|&x| f64::from(x)).collect(),
        DataType::Double => proto.double_data.clone(),
        DataType::Float16 => halves(float16),
        DataType::Bfloat16 => halves(bfloat16),
        DataType::Int32 | DataType::Bool => proto.int32_data.iter().map(|&x| f64::from(x)).collect(),
        DataType::Int64 => proto.int64_data.iter().map(|&x| x as f64).collect(),
        _ => return None,
    })
}

/// The bytes of a constant that lies in a file beside the model.
fn external_bytes(proto: &TensorProto, folder: &Path) -> Result<Vec<u8>, OnnxError> {
    use std::io::{Read, Seek, SeekFrom};

    let error = |why: String| OnnxError::Tensor { name: proto.name.clone(), why };
    let entry = |key: &str| proto.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let number = |key: &str| {
        let number = entry(key).map(|text| text.parse::<u64>()).transpose();
        number.map_err(|_| error(format!("its external data has no valid {key}")))
    };
    let location = entry("location").ok_or_else(|| error("its external data has no location".into()))?;
    let path = inside(folder, location).ok_or_else(|| {
        error(format!("its external data {location:?} lies outside the model's folder, which is not allowed"))
    })?;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(&path)?;
        file.seek(SeekFrom::Start(number("offset").ok().flatten().unwrap_or(0)))?;
        let mut bytes = Vec::new();
        match number("length").ok().flatten() {
            Some(length) => file.take(length).read_to_end(&mut bytes)?,
            None => file.read_to_end(&mut bytes)?,
        };
        Ok(bytes)
    };
    number("offset")?;
    let due = number("length")?;
    let bytes = read().map_err(|why| error(format!("its external data {location:?} cannot be read: {why}")))?;
    if due.is_some_and(|due| due != bytes.len() as u64) {
        return Err(error(format!("its external data {location:?} ends before the tensor does")));
    }
    Ok(bytes)
}

/// A path below a folder; none if it leads out of it, also by a link.
fn inside(folder: &Path, location: &str) -> Option<PathBuf> {
    let relative = Path::new(location);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return None;
    }
    let path = folder.join(relative);
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(real), Ok(folder)) => real.starts_with(folder).then_some(path),
        // The error about a missing file says more.
        _ => Some(path),
    }
}
