//! Files with results: made before the run, so that a run is not in vain, and whole or not there at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use model_files::npy::{self, Array, Values};
use model_files::onnx::Port;

use crate::exit::LaunchError;

/// A file that will be there once it is complete.
#[derive(Debug)]
pub(crate) struct OutFile {
    path: PathBuf,
    unfinished: PathBuf,
    kind: String,
}

impl OutFile {
    /// Makes an empty file beside `path`, which must have one of these extensions.
    pub(crate) fn create(path: &str, kinds: &[&str]) -> Result<Self, LaunchError> {
        let refuse = |reason: String| Err(LaunchError::Unwritable { path: path.into(), reason });
        let path = PathBuf::from(path);
        let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default().to_ascii_lowercase();
        if !kinds.contains(&kind.as_str()) {
            return refuse(format!("its name must end in .{}", kinds.join(" or .")));
        }
        if path.is_dir() {
            return refuse("it is a folder".into());
        }
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(".unfinished");
        match File::create(&unfinished) {
            Ok(_) => Ok(Self { path, unfinished: unfinished.into(), kind }),
            Err(error) => refuse(error.to_string()),
        }
    }

    /// Its extension, in small letters.
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// Lets `write` fill the file, and puts it in its place.
    pub(crate) fn complete<E: Into<io::Error>>(
        self,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), LaunchError> {
        let written = write(&self.unfinished).map_err(Into::into);
        written.and_then(|()| fs::rename(&self.unfinished, &self.path)).map_err(|error| LaunchError::Unwritten {
            path: self.path.display().to_string(),
            reason: error.to_string(),
        })
    }
}

impl Drop for OutFile {
    /// What is not complete goes away.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.unfinished);
    }
}

/// Writes results, `values` in memory order: an array of the model's shape, or a line per row.
pub(crate) fn write_results(out: OutFile, values: &[f64], output: &Port, single: bool) -> Result<(), LaunchError> {
    let (values, width) = (output.from_memory(values), output.order.len());
    let dims = [&[values.len() / width], output.dims.as_slice()].concat();
    if out.kind() == "csv" {
        return out.complete(|path| write_table(path, &output.name, &values, width));
    }
    #[allow(clippy::cast_possible_truncation, reason = "rows in single precision get results in single precision")]
    let values = if single { Values::F32(values.iter().map(|&x| x as f32).collect()) } else { Values::F64(values) };
    out.complete(|path| npy::write(path, &Array { dims, values }).map_err(io::Error::other))
}

fn write_table(path: &Path, name: &str, values: &[f64], width: usize) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let names: Vec<String> = match width {
        1 => vec![name.replace(',', "_")],
        _ => (0..width).map(|column| format!("{}_{column}", name.replace(',', "_"))).collect(),
    };
    writeln!(file, "{}", names.join(","))?;
    for row in values.chunks_exact(width) {
        writeln!(file, "{}", row.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> Port {
        Port { name: "y".into(), dims: vec![2, 1, 2], order: vec![0, 2, 1, 3] }
    }

    #[test]
    fn results_come_in_the_order_and_precision_of_the_model_s_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("y.npy");
        let out = || OutFile::create(path.to_str().unwrap(), &["npy", "csv"]).unwrap();
        let values: Vec<f64> = (0..8).map(f64::from).collect();
        write_results(out(), &values, &port(), false).unwrap();
        let array = npy::read(&path).unwrap();
        assert_eq!(array, Array::f64(&[2, 2, 1, 2], vec![0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]));
        write_results(out(), &values, &port(), true).unwrap();
        assert!(matches!(npy::read(&path).unwrap().values, Values::F32(_)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn tables_have_a_column_per_score() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("y.csv");
        let out = OutFile::create(path.to_str().unwrap(), &["npy", "csv"]).unwrap();
        write_results(out, &[0.5, 1.0, 2.0, -3.25], &port(), false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "y_0,y_1,y_2,y_3\n0.5,2,1,-3.25\n");
    }

    #[test]
    fn what_cannot_be_written_is_refused_at_once_and_nothing_is_left_of_what_is_not_completed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let refused = |name: &str| OutFile::create(&path(name), &["npy", "csv"]).unwrap_err().to_string();
        assert!(refused("y.txt").ends_with("its name must end in .npy or .csv"));
        assert!(refused("none/y.npy").contains("No such file"));
        fs::create_dir(folder.path().join("y.npy")).unwrap();
        assert!(refused("y.npy").ends_with("it is a folder"));
        drop(OutFile::create(&path("z.npy"), &["npy"]).unwrap());
        let full = OutFile::create(&path("z.npy"), &["npy"]).unwrap();
        let error = full.complete(|_| Err(io::Error::from(io::ErrorKind::StorageFull))).unwrap_err().to_string();
        assert!(error.contains("z.npy: no storage space"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
