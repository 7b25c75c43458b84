//! Where the CUDA libraries may lie: wherever the loader looks, and where pip, conda, CUDA's installer and NVIDIA's images
//! put them.
#![allow(unsafe_code, reason = "loads libraries, whose initialisers run")]

use std::env;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::CudaError;

/// A folder, or several with colons between them, that is searched before all others.
pub(crate) const FOLDERS_VARIABLE: &str = "TREFOIL_CUDA_LIBRARIES";

/// The GPU driver.
pub(super) fn driver() -> Result<(), CudaError> {
    // SAFETY: loads libcuda, whose initialisers do nothing that this process could not bear.
    if unsafe { cudarc::driver::sys::is_culib_present() } {
        return Ok(());
    }
    let remedy = "install the NVIDIA driver, or run on a machine (or in a container) that has a GPU";
    Err(CudaError::Library { library: "libcuda.so.1", remedy })
}

/// The compiler of kernels.
pub(super) fn compiler() -> Result<(), CudaError> {
    // SAFETY: as above.
    let present = || unsafe { cudarc::nvrtc::sys::is_culib_present() };
    let remedy = "pip install nvidia-cuda-nvrtc, or set TREFOIL_CUDA_LIBRARIES to its folder";
    find("libnvrtc.so", &["libnvrtc-builtins.so.", "libnvrtc.so."], present, remedy)
}

/// Products of int8 matrices.
pub(super) fn products() -> Result<(), CudaError> {
    // SAFETY: as above.
    let present = || unsafe { cudarc::cublaslt::sys::is_culib_present() };
    let remedy = "pip install nvidia-cublas, or set TREFOIL_CUDA_LIBRARIES to its folder";
    find("libcublasLt.so", &["libcublasLt.so."], present, remedy)
}

/// Loads files with these beginnings, unless the library is there without: once loaded, a library is found by its name.
fn find(
    library: &'static str,
    beginnings: &[&str],
    present: impl Fn() -> bool,
    remedy: &'static str,
) -> Result<(), CudaError> {
    if env::var_os(FOLDERS_VARIABLE).is_none() && present() {
        return Ok(());
    }
    for folder in folders() {
        let found: Vec<PathBuf> = beginnings.iter().filter_map(|beginning| newest(&folder, beginning)).collect();
        if found.len() == beginnings.len() && found.iter().all(|path| load(path)) {
            break;
        }
    }
    if present() { Ok(()) } else { Err(CudaError::Library { library, remedy }) }
}

fn load(path: &Path) -> bool {
    // SAFETY: a file that bears the library's name in a folder that holds such libraries; it stays loaded for good.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    library.map(std::mem::forget).is_ok()
}

/// The file of a folder that has this beginning and the highest name.
fn newest(folder: &Path, beginning: &str) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))).max()
}

/// All folders that libraries may lie in, the user's own first.
pub(crate) fn folders() -> Vec<PathBuf> {
    let of = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut folders: Vec<PathBuf> =
        env::var_os(FOLDERS_VARIABLE).map(|all| env::split_paths(&all).collect()).unwrap_or_default();
    let mut roots: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(of).collect();
    roots.push("/usr/local/cuda".into());
    folders.extend(roots.iter().flat_map(|root| [root.join("lib64"), root.join("lib")]));
    let mut pythons: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(of).collect();
    pythons.extend(of("HOME").map(|home| home.join(".local")));
    pythons.extend(["/usr/local", "/usr", "/opt/conda"].map(PathBuf::from));
    for python in &pythons {
        folders.push(python.join("lib"));
        for version in children(&python.join("lib")).filter(|path| path.to_string_lossy().contains("/python3")) {
            for packages in ["site-packages", "dist-packages"] {
                folders.extend(children(&version.join(packages).join("nvidia")).map(|package| package.join("lib")));
            }
        }
    }
    folders
}

/// What lies in a folder, in descending order: newer versions first.
fn children(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_by(|a, b| b.cmp(a));
    paths.into_iter()
}
