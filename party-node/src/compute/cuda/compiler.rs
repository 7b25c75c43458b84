//! Kernels from source to machine code, kept on disk for the next start.
#![allow(unsafe_code, reason = "calls into NVRTC")]

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};

use super::{CudaError, libraries, source};

/// What the compiler made.
pub(super) struct Compiled {
    /// Machine code.
    pub(super) cubin: Vec<u8>,
    /// What the compiler said of it.
    pub(super) log: String,
}

/// Machine code for a compute capability (90 for 9.0): as kept on disk, or compiled and kept. `driver` is the driver's
/// CUDA version, 13000 for 13.0.
pub(super) fn cubin(capability: u32, driver: u32) -> Result<Vec<u8>, CudaError> {
    libraries::compiler()?;
    let version = compiler_version();
    if version / 1000 > driver / 1000 {
        return Err(CudaError::Driver { found: driver, needed: version / 1000 * 1000 });
    }
    let place = cache(capability, driver, version);
    if let Some(cubin) = place.as_ref().and_then(|place| std::fs::read(place).ok()) {
        return Ok(cubin);
    }
    let Compiled { cubin, log } = compile(capability)?;
    tracing::debug!(capability, log, "kernels are compiled");
    if let Some(place) = place {
        keep(&place, &cubin);
    }
    Ok(cubin)
}

/// Compiles all kernels. The library must have been found.
pub(super) fn compile(capability: u32) -> Result<Compiled, CudaError> {
    let failed = |log: String| CudaError::Compile { capability, log };
    let source = CString::new(source::source()).expect("source has no zeros");
    let program = result::create_program(&source, Some(c"kernels.cu")).map_err(|error| failed(error.to_string()))?;
    // SAFETY: the program was just made and lives until it is destroyed below.
    let (outcome, log) = unsafe {
        let outcome = result::compile_program(program, &options(capability));
        (outcome, result::get_program_log(program).unwrap_or_default())
    };
    // SAFETY: NVRTC ends its log with a zero; an absent log is empty.
    let log = if log.is_empty() { "".into() } else { unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy() };
    let log = log.into_owned();
    let compiled = match outcome {
        Ok(()) => code(program).map_err(|error| failed(error.to_string())),
        Err(error) => Err(failed(format!("{error}\n{log}"))),
    };
    // SAFETY: nobody uses the program any more.
    let _ = unsafe { result::destroy_program(program) };
    Ok(Compiled { cubin: compiled?, log })
}

fn options(capability: u32) -> [String; 4] {
    // Rounding of doubles is spelt out in the kernels; no product and sum may become one operation.
    [
        format!("--gpu-architecture=sm_{capability}"),
        "--fmad=false".into(),
        "--std=c++17".into(),
        "--ptxas-options=-v".into(),
    ]
}

fn code(program: sys::nvrtcProgram) -> Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: the program has been compiled; the buffer has the size that NVRTC names.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut cubin = vec![0_u8; size];
        sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()).result()?;
        Ok(cubin)
    }
}

/// 13050 for 13.5.
fn compiler_version() -> u32 {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two places for two numbers.
    let outcome = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    if outcome.result().is_err() {
        return 0;
    }
    1000 * major.unsigned_abs() + 10 * minor.unsigned_abs()
}

/// Where the machine code of this source is kept.
fn cache(capability: u32, driver: u32, compiler: u32) -> Option<PathBuf> {
    let what = format!("{driver} {compiler} {:?}\n{}", options(capability), source::source());
    kept(&format!("kernels-sm{capability}-{}.cubin", digest(&what)))
}

/// Where a file is kept from one start to the next.
pub(super) fn kept(name: &str) -> Option<PathBuf> {
    let under = |variable, below: &str| Some(PathBuf::from(std::env::var_os(variable)?).join(below));
    let folder = under("XDG_CACHE_HOME", "trefoil").or_else(|| under("HOME", ".cache/trefoil"))?;
    Some(folder.join(name))
}

/// Half of a digest, in hexadecimal digits: enough to tell programs apart.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file as a whole or not at all. Whoever cannot keep it compiles again at the next start.
fn keep(place: &PathBuf, cubin: &[u8]) {
    let Some(folder) = place.parent() else { return };
    let unfinished = place.with_extension(std::process::id().to_string());
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&unfinished, cubin))
        .and_then(|()| std::fs::rename(&unfinished, place));
    if let Err(error) = written {
        tracing::debug!(%error, place = %place.display(), "compiled kernels are not kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The compiler on a machine without a GPU, if it is there: on the machines that judge a change it must be.
    fn compiler_is_there() -> bool {
        match libraries::compiler() {
            Ok(()) => true,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "{error}");
                #[allow(clippy::print_stderr, reason = "whoever runs the tests should know")]
                {
                    eprintln!("skipped: {error}");
                }
                false
            }
        }
    }

    #[test]
    fn kernels_compile_for_every_architecture_and_stay_in_registers() {
        if !compiler_is_there() {
            return;
        }
        for capability in [80, 90, 100] {
            let compiled = compile(capability).unwrap();
            assert!(compiled.cubin.starts_with(b"\x7fELF"), "machine code is an ELF file");
            // A word or two is the compiler's bargain; an array means that an index was not constant.
            let large = |line: &&str| {
                let frame = line.split(" bytes stack frame").next().filter(|_| line.contains(" bytes stack frame"));
                frame.and_then(|text| text.split_whitespace().next_back()?.parse::<u32>().ok()).is_some_and(|n| n > 16)
            };
            assert_eq!(compiled.log.lines().filter(large).collect::<Vec<_>>(), Vec::<&str>::new(), "sm_{capability}");
            let kernels = compiled.log.matches("Compiling entry function").count();
            assert_eq!(kernels, source::kernels(&source::source()).len());
        }
    }

    #[test]
    fn a_capability_that_does_not_exist_is_an_error() {
        if compiler_is_there() {
            assert!(matches!(compile(1), Err(CudaError::Compile { capability: 1, .. })));
        }
    }
}
