//! Arrays of NumPy: `.npy` and `.npz`, without pickled objects.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::half::float16;

/// Bytes that an array's header may have: NumPy writes about a hundred.
const HEADER_BYTES_MAX: usize = 1 << 16;

const MAGIC: &[u8] = b"\x93NUMPY";

/// Numbers in rows of rows, the last dimension running fastest.
#[derive(Clone, PartialEq, Debug)]
pub struct Array {
    /// Sizes of the dimensions.
    pub dims: Vec<usize>,
    /// As many numbers as the dimensions multiply to.
    pub values: Values,
}

/// Numbers of one type.
#[derive(Clone, PartialEq, Debug)]
pub enum Values {
    /// `float32`.
    F32(Vec<f32>),
    /// `float64`; also what `float16` is read as.
    F64(Vec<f64>),
    /// `int64`; also what truth values and shorter integers are read as.
    I64(Vec<i64>),
}

/// Why an array cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Not an array, or cut short.
    #[error("{path}: not a NumPy array: {why}")]
    Format {
        /// Which file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Numbers of another type.
    #[error(
        "{path}: elements of type {descr:?}: float16, float32, float64, integers of up to 64 bits and truth values can \
         be read (in NumPy: x.astype('float32'))"
    )]
    Type {
        /// Which file.
        path: String,
        /// The type as NumPy writes it.
        descr: String,
    },
}

impl Array {
    /// An array of 64-bit floats.
    ///
    /// # Panics
    /// If dimensions and number of values do not agree.
    pub fn f64(dims: &[usize], values: Vec<f64>) -> Self {
        assert_eq!(dims.iter().product::<usize>(), values.len(), "one value per element");
        Self { dims: dims.to_vec(), values: Values::F64(values) }
    }

    /// The numbers as 64-bit floats; integers beyond 2^53 are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.values {
            Values::F32(values) => values.iter().map(|&x| f64::from(x)).collect(),
            Values::F64(values) => values.clone(),
            #[allow(clippy::cast_precision_loss, reason = "documented")]
            Values::I64(values) => values.iter().map(|&x| x as f64).collect(),
        }
    }
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn descr(&self) -> &'static str {
        match self {
            Self::F32(_) => "<f4",
            Self::F64(_) => "<f8",
            Self::I64(_) => "<i8",
        }
    }

    fn permuted(&self, order: impl Iterator<Item = usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(order.map(|at| values[at]).collect()),
            Self::F64(values) => Self::F64(order.map(|at| values[at]).collect()),
            Self::I64(values) => Self::I64(order.map(|at| values[at]).collect()),
        }
    }
}

/// Reads a `.npy` file.
pub fn read(path: &Path) -> Result<Array, NpyError> {
    let bytes = std::fs::read(path).map_err(|source| NpyError::Io { path: path.display().to_string(), source })?;
    decode(&path.display().to_string(), &bytes)
}

/// Reads all arrays of a `.npz` file, in its order, named without `.npy`.
pub fn read_npz(path: &Path) -> Result<Vec<(String, Array)>, NpyError> {
    let name = path.display().to_string();
    let io_error = |source| NpyError::Io { path: name.clone(), source };
    let zip_error = |error: zip::result::ZipError| NpyError::Format { path: name.clone(), why: error.to_string() };
    let mut archive = zip::ZipArchive::new(File::open(path).map_err(io_error)?).map_err(zip_error)?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(zip_error)?;
        let inside = entry.name().map_err(zip_error)?.into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(io_error)?;
        let array = decode(&format!("{name}, array {inside:?}"), &bytes)?;
        arrays.push((inside.trim_end_matches(".npy").to_owned(), array));
    }
    Ok(arrays)
}

/// Writes a `.npy` file.
pub fn write(path: &Path, array: &Array) -> Result<(), NpyError> {
    let io_error = |source| NpyError::Io { path: path.display().to_string(), source };
    let mut file = io::BufWriter::new(File::create(path).map_err(io_error)?);
    file.write_all(&encode(array)).and_then(|()| file.flush()).map_err(io_error)
}

/// Writes arrays under their names into a `.npz` file, as `numpy.savez` does.
pub fn write_npz(path: &Path, arrays: &[(&str, &Array)]) -> Result<(), NpyError> {
    let io_error = |source| NpyError::Io { path: path.display().to_string(), source };
    let mut archive = zip::ZipWriter::new(File::create(path).map_err(io_error)?);
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut write = || -> zip::result::ZipResult<()> {
        for (name, array) in arrays {
            let bytes = encode(array);
            let large = u32::try_from(bytes.len()).is_err();
            archive.start_file(format!("{name}.npy"), options.large_file(large))?;
            archive.write_all(&bytes)?;
        }
        Ok(())
    };
    write().and_then(|()| archive.finish().map(drop)).map_err(|error| io_error(io::Error::other(error)))
}

fn encode(array: &Array) -> Vec<u8> {
    let dims: String = array.dims.iter().map(|size| format!("{size}, ")).collect();
    let descr = array.values.descr();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end());
    // Data begins at a multiple of 64 bytes, behind magic, version, length and a line's end.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len()).expect("few dimensions");
    let mut bytes = [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes()].concat();
    match &array.values {
        Values::F32(values) => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        Values::F64(values) => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        Values::I64(values) => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
    }
    bytes
}

/// Reads the bytes of a `.npy` file; errors name it by `path`.
pub fn decode(path: &str, bytes: &[u8]) -> Result<Array, NpyError> {
    let format_error = |why: &str| NpyError::Format { path: path.to_owned(), why: why.to_owned() };
    let (header, data) = split(bytes).ok_or_else(|| format_error("its header is missing or damaged"))?;
    let fields = Header::parse(header).ok_or_else(|| format_error("its header cannot be read"))?;
    let count = fields.dims.iter().try_fold(1_usize, |count, size| count.checked_mul(*size));
    let count = count.ok_or_else(|| format_error("more elements than fit in memory"))?;
    let type_error = || NpyError::Type { path: path.to_owned(), descr: fields.descr.to_owned() };
    let size = fields.descr.chars().last().and_then(|digit| digit.to_digit(10)).ok_or_else(type_error)? as usize;
    let values = typed(fields.descr, data).ok_or_else(type_error)?;
    if count.checked_mul(size) != Some(data.len()) {
        return Err(format_error(&format!("{} bytes where {count} elements of {size} are due", data.len())));
    }
    if fields.fortran {
        let order = fortran_order(&fields.dims);
        return Ok(Array { values: values.permuted(order.into_iter()), dims: fields.dims });
    }
    Ok(Array { dims: fields.dims, values })
}

/// Header and data.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (version, rest) = (rest.first()?, rest.get(2..)?);
    let (length, rest) = match version {
        1 => (usize::from(u16::from_le_bytes(*rest.first_chunk()?)), &rest[2..]),
        2 | 3 => (u32::from_le_bytes(*rest.first_chunk()?) as usize, &rest[4..]),
        _ => return None,
    };
    if length > HEADER_BYTES_MAX {
        return None;
    }
    let (header, data) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

struct Header<'a> {
    descr: &'a str,
    fortran: bool,
    dims: Vec<usize>,
}

impl<'a> Header<'a> {
    /// Reads the dictionary of three entries that NumPy writes, as Python spells it.
    fn parse(text: &'a str) -> Option<Self> {
        let after = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}'"))?;
            rest.trim_start().strip_prefix(':').map(str::trim_start)
        };
        // A list in its place describes records, which the error about types shows.
        let descr = after("descr")?;
        let descr = match descr.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next()?,
            None => descr.split("'fortran_order'").next()?.trim_end_matches([' ', ',']),
        };
        let fortran = after("fortran_order")?.starts_with("True");
        let dims = after("shape")?.strip_prefix('(')?.split(')').next()?;
        let dims = dims.split(',').map(str::trim).filter(|size| !size.is_empty());
        let dims = dims.map(|size| size.trim_end_matches('L').parse().ok()).collect::<Option<_>>()?;
        Some(Self { descr, fortran, dims })
    }
}

fn typed(descr: &str, data: &[u8]) -> Option<Values> {
    fn all<const N: usize, T>(data: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
        data.as_chunks().0.iter().map(|bytes| read(*bytes)).collect()
    }
    Some(match descr {
        "<f2" => Values::F64(all(data, |bytes| float16(u16::from_le_bytes(bytes)))),
        "<f4" => Values::F32(all(data, f32::from_le_bytes)),
        "<f8" => Values::F64(all(data, f64::from_le_bytes)),
        "|b1" | "|u1" => Values::I64(all(data, |[byte]: [u8; 1]| i64::from(byte))),
        "|i1" => Values::I64(all(data, |bytes| i64::from(i8::from_le_bytes(bytes)))),
        "<i2" => Values::I64(all(data, |bytes| i64::from(i16::from_le_bytes(bytes)))),
        "<u2" => Values::I64(all(data, |bytes| i64::from(u16::from_le_bytes(bytes)))),
        "<i4" => Values::I64(all(data, |bytes| i64::from(i32::from_le_bytes(bytes)))),
        "<u4" => Values::I64(all(data, |bytes| i64::from(u32::from_le_bytes(bytes)))),
        "<i8" => Values::I64(all(data, i64::from_le_bytes)),
        _ => return None,
    })
}

/// Where each element lies if the first dimension runs fastest.
fn fortran_order(dims: &[usize]) -> Vec<usize> {
    let mut order = vec![0];
    let mut stride = 1;
    let mut strides = Vec::new();
    for size in dims {
        strides.push(stride);
        stride *= size;
    }
    for (size, stride) in dims.iter().zip(strides) {
        order = order.iter().flat_map(|at| (0..*size).map(move |step| at + step * stride)).collect();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.save` of `numpy.array([[1, 2, 3], [4, 5, 6]], order='F', dtype='float32')`.
    fn fortran() -> Vec<u8> {
        let header = "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }";
        let padded = format!("{header:<117}\n");
        let values = [1.0_f32, 4.0, 2.0, 5.0, 3.0, 6.0].map(f32::to_le_bytes).concat();
        [MAGIC, &[1, 0, 118, 0], padded.as_bytes(), &values].concat()
    }

    #[test]
    fn arrays_are_read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let arrays = [
            Array { dims: vec![2, 3], values: Values::F32(vec![1.0, -2.5, 0.0, 3.0, f32::MAX, 1e-30]) },
            Array::f64(&[3], vec![0.1, -1e300, 5.0]),
            Array { dims: vec![], values: Values::I64(vec![i64::MIN]) },
            Array::f64(&[0, 4], vec![]),
        ];
        for array in &arrays {
            let path = folder.path().join("a.npy");
            write(&path, array).unwrap();
            assert_eq!(read(&path).unwrap(), *array);
            assert!(std::fs::read(&path).unwrap().len().is_multiple_of(4));
        }
        let path = folder.path().join("a.npz");
        write_npz(&path, &[("x", &arrays[0]), ("y", &arrays[2])]).unwrap();
        let read = read_npz(&path).unwrap();
        assert_eq!(read, [("x".to_owned(), arrays[0].clone()), ("y".to_owned(), arrays[2].clone())]);
    }

    #[test]
    fn columns_first_are_turned_into_rows_first() {
        let array = decode("x", &fortran()).unwrap();
        assert_eq!(array, Array { dims: vec![2, 3], values: Values::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) });
    }

    #[test]
    fn what_is_no_array_of_numbers_is_refused() {
        let good = fortran();
        let replaced = |from: &str, to: &str| {
            let text = String::from_utf8_lossy(&good[10..128]).replace(from, to);
            [&good[..10], text.as_bytes(), &good[128..]].concat()
        };
        for (bytes, part) in [
            (replaced("<f4", "|O8"), "\"|O8\""),
            (replaced("<f4", ">f4"), "\">f4\""),
            (replaced("(2, 3)", "(2, 4)"), "24 bytes where 8 elements of 4 are due"),
            (replaced("(2, 3)", "(x, 3)"), "cannot be read"),
            (good[..good.len() - 1].to_vec(), "23 bytes"),
            (good[..60].to_vec(), "damaged"),
            (b"hello".to_vec(), "damaged"),
        ] {
            let error = decode("data.npy", &bytes).unwrap_err().to_string();
            assert!(error.contains(part) && error.starts_with("data.npy: "), "{error}");
        }
        let huge = replaced("(2, 3)", "(9223372036854775807, 4)");
        let length = u16::try_from(huge.len() - 34).unwrap();
        let huge = [&huge[..8], &length.to_le_bytes(), &huge[10..]].concat();
        assert!(decode("x", &huge).is_err());
    }
}
