//! Rows for a trained model: arrays of NumPy, or a CSV file without a target column. Nothing is standardised, since the
//! model was trained on whatever its owner feeds it.

use std::path::Path;

use model_files::npy::{self, Array, Values};
use model_files::onnx::Port;
use shared::config::Header;
use shared::fixed::FixedError;
use shared::job::ProtocolSpec;

use super::DataError;
use super::table::{self, Cell, Table};

/// Rows, and how they were written.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Samples {
    /// File that they came from.
    pub(crate) name: String,
    /// How many.
    pub(crate) count: usize,
    /// `count x inputs`, each row in memory order.
    pub(crate) x: Vec<f64>,
    /// Whether they were 32-bit floats.
    pub(crate) single: bool,
}

/// Reads the rows that a model's input takes; refuses values that the job's number formats cannot bear.
pub(crate) fn load_samples(
    file: &str,
    header: Header,
    input: &Port,
    protocol: &ProtocolSpec,
) -> Result<Samples, DataError> {
    let extension = Path::new(file).extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str() {
        Some("npy") => from_array(file, &npy::read(Path::new(file))?, input, protocol),
        Some("npz") => {
            let arrays = npy::read_npz(Path::new(file))?;
            let (name, array) = chosen(file, &arrays, &input.name)?;
            from_array(&format!("{file}, array {name:?}"), array, input, protocol)
        }
        _ => from_table(&table::parse(file, &table::read(file)?, header, None)?, input, protocol),
    }
}

/// The only array, or the one with the name of the model's input, or the one that is called x.
fn chosen<'a>(file: &str, arrays: &'a [(String, Array)], input: &str) -> Result<&'a (String, Array), DataError> {
    if let [only] = arrays {
        return Ok(only);
    }
    let named = |wanted: &str| arrays.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    named(input).or_else(|| named("x")).ok_or_else(|| {
        let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
        DataError::WhichArray { file: file.into(), input: input.into(), names: names.join(", ") }
    })
}

fn from_array(name: &str, array: &Array, input: &Port, protocol: &ProtocolSpec) -> Result<Samples, DataError> {
    let (features, dims) = (input.order.len(), &array.dims);
    let fits = |rest: &[usize]| rest == input.dims || rest == [features] || (rest.is_empty() && features == 1);
    let Some(&count) = dims.first().filter(|_| fits(&dims[1..])) else {
        return Err(DataError::SampleShape { file: name.into(), got: shape(dims), due: due(input) });
    };
    if count == 0 {
        return Err(DataError::Empty { file: name.into() });
    }
    let values = array.to_f64();
    for (at, &value) in values.iter().enumerate() {
        protocol.check_value(value).map_err(|source| {
            let element = index(at % features, &dims[1..]);
            DataError::Element { file: name.into(), row: at / features, element, source }
        })?;
    }
    let single = matches!(array.values, Values::F32(_));
    Ok(Samples { name: name.into(), count, x: input.to_memory(&values), single })
}

fn from_table(table: &Table, input: &Port, protocol: &ProtocolSpec) -> Result<Samples, DataError> {
    let features = input.order.len();
    if table.header.len() != features {
        let got = format!("{} columns", table.header.len());
        return Err(DataError::SampleShape { file: table.name.clone(), got, due: due(input) });
    }
    let mut values = Vec::with_capacity(table.rows.len() * features);
    for row in &table.rows {
        for (cell, column) in row.cells.iter().zip(&table.header) {
            let (file, line, column) = (table.name.clone(), row.line, column.clone());
            let value = match Cell::read(cell) {
                Cell::Number(value) => value,
                Cell::Missing => return Err(DataError::MissingInput { file, line, column }),
                Cell::Text => return Err(DataError::NotANumber { file, line, column, cell: cell.clone() }),
            };
            match protocol.check_value(value) {
                Ok(()) => values.push(value),
                Err(FixedError::NotFinite(_)) => {
                    return Err(DataError::NotFinite { file, line, column, cell: cell.clone() });
                }
                Err(source) => return Err(DataError::Cell { file, line, column, source }),
            }
        }
    }
    let count = table.rows.len();
    Ok(Samples { name: table.name.clone(), count, x: input.to_memory(&values), single: false })
}

/// What a model takes, for errors.
fn due(input: &Port) -> String {
    let (dims, features) = (shape(&[&[0], input.dims.as_slice()].concat()), input.order.len());
    let dims = dims.replacen('0', "N", 1);
    if input.dims.len() > 1 { format!("{dims} or [N, {features}]") } else { dims }
}

fn shape(dims: &[usize]) -> String {
    format!("[{}]", dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// Where an element lies, counted from 0 in each dimension.
fn index(mut at: usize, dims: &[usize]) -> String {
    let mut places = Vec::new();
    for size in dims.iter().rev() {
        places.push(at % size);
        at /= size;
    }
    places.reverse();
    shape(&places)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of 2 channels, 1 row, 3 columns.
    fn images() -> Port {
        Port { name: "pixels".into(), dims: vec![2, 1, 3], order: vec![0, 2, 4, 1, 3, 5] }
    }

    fn read(array: &Array) -> Result<Samples, DataError> {
        from_array("x.npy", array, &images(), &ProtocolSpec::default())
    }

    fn csv(text: &str) -> Result<Samples, DataError> {
        let table = table::parse("x.csv", text.as_bytes(), Header::Auto, None)?;
        let port = Port { name: "x".into(), dims: vec![2], order: vec![0, 1] };
        from_table(&table, &port, &ProtocolSpec::default())
    }

    #[test]
    fn images_are_put_into_memory_order_in_both_shapes() {
        for dims in [&[2, 2, 1, 3][..], &[2, 6]] {
            let samples = read(&Array::f64(dims, (0..12).map(f64::from).collect())).unwrap();
            assert_eq!((samples.count, samples.single), (2, false));
            assert_eq!(samples.x, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 9.0, 7.0, 10.0, 8.0, 11.0]);
        }
    }

    #[test]
    fn arrays_of_another_shape_or_without_rows_are_refused() {
        let error = read(&Array::f64(&[2, 3], vec![0.0; 6])).unwrap_err().to_string();
        assert_eq!(error, "x.npy: shape [2, 3] where the model takes [N, 2, 1, 3] or [N, 6]");
        let error = read(&Array::f64(&[0, 6], vec![])).unwrap_err().to_string();
        assert_eq!(error, "x.npy holds no records");
    }

    #[test]
    fn what_is_no_number_is_named_by_row_and_place() {
        for (value, message) in [(f64::NAN, "NaN is not a finite number"), (1e6, "magnitude is too large")] {
            let mut values = vec![0.0; 12];
            values[10] = value;
            let error = read(&Array::f64(&[2, 2, 1, 3], values)).unwrap_err().to_string();
            assert!(error.starts_with("x.npy, row 1, element [1, 0, 1]: ") && error.contains(message), "{error}");
        }
    }

    #[test]
    fn tables_without_a_target_are_read_with_or_without_names() {
        for text in ["a,b\n1,2\n3,-4.5\n", "1,2\n3,-4.5\n"] {
            let samples = csv(text).unwrap();
            assert_eq!((samples.count, samples.x), (2, vec![1.0, 2.0, 3.0, -4.5]));
        }
        let cases = [
            ("1,2,3\n", "x.csv: 3 columns where the model takes [N, 2]"),
            ("1,2\n3,\n", "x.csv, line 2, column \"column 2\": the value is missing"),
            ("1,2\n3,inf\n", "x.csv, line 2, column \"column 2\": \"inf\" is not a finite number"),
            ("1,2\n3,high\n", "x.csv, line 2, column \"column 2\": \"high\" is not a number"),
            ("1,2\n3,1e7\n", "x.csv, line 2, column \"column 2\": the value's magnitude is too large"),
        ];
        for (text, message) in cases {
            let error = csv(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn one_array_of_several_is_chosen_by_name() {
        let named = |names: &[&str]| -> Vec<(String, Array)> {
            names.iter().map(|name| ((*name).to_owned(), Array::f64(&[1], vec![0.0]))).collect()
        };
        assert_eq!(chosen("d.npz", &named(&["anything"]), "pixels").unwrap().0, "anything");
        assert_eq!(chosen("d.npz", &named(&["X", "pixels"]), "pixels").unwrap().0, "pixels");
        assert_eq!(chosen("d.npz", &named(&["y", "X"]), "pixels").unwrap().0, "X");
        let error = chosen("d.npz", &named(&["a", "b"]), "pixels").unwrap_err().to_string();
        assert_eq!(error, "d.npz holds the arrays a, b: name the one with the rows \"pixels\" or \"x\"");
    }
}
