//! A stand-in for a GPU: the kernels, built by the C++ compiler, played by the thread that launches them. For tests.
#![allow(unsafe_code, reason = "calls into the kernels, and plays the memory of a device")]

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_int;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use libloading::Library;
use sha2::{Digest, Sha256};

use super::CudaError;
use super::driver::{Arrival, Driver, Int8Gemm};
use super::source;

/// A wrapped kernel: argument words, their number, grid and block; 0 if the number is right.
type Wrapper = unsafe extern "C" fn(*const u64, usize, *const u32) -> c_int;

/// The built kernels; loaded once and never unloaded.
struct Kernels {
    wrappers: HashMap<String, Wrapper>,
    _library: Library,
}

/// A device of ordinary memory. Every piece is surrounded by marks, so that a kernel that writes beside it is found, and
/// starts as garbage, so that a kernel that reads what nobody wrote is found, too.
pub(super) struct Emulated {
    kernels: Arc<Kernels>,
    pieces: Mutex<BTreeMap<u64, usize>>,
    limit: usize,
}

/// Marks before and behind a piece.
const MARK: u8 = 0xa5;
const MARKED_BYTES: usize = 256;
const NAME: &str = "emulated GPU";

impl Emulated {
    /// Builds the kernels unless they have been. `None` if there is no C++ compiler.
    pub(super) fn open(limit: usize) -> Option<Self> {
        static KERNELS: OnceLock<Option<Arc<Kernels>>> = OnceLock::new();
        let kernels = KERNELS.get_or_init(|| {
            let missing = Command::new("g++").arg("--version").output().is_err();
            (!missing).then(|| Arc::new(Kernels::load(&build())))
        });
        Some(Self { kernels: kernels.clone()?, pieces: Mutex::default(), limit })
    }

    /// Panics unless `bytes` from `address` on lie in one piece.
    fn check(&self, address: u64, bytes: usize) {
        let pieces = self.pieces.lock().expect("no holder panics");
        let piece = pieces.range(..=address).next_back();
        let inside = piece.is_some_and(|(start, len)| address + bytes as u64 <= start + *len as u64);
        assert!(inside || bytes == 0, "a copy of {bytes} bytes leaves its piece of memory");
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes + 2 * MARKED_BYTES, 256).expect("sizes are sane")
    }
}

impl Kernels {
    fn load(path: &Path) -> Self {
        // SAFETY: the library is built from this crate's own source, and its initialisers do nothing.
        let library = unsafe { Library::new(path) }.expect("the built kernels load");
        let source = source::source();
        let wrapper = |kernel: source::Declared<'_>| {
            // SAFETY: `wrapped` gives every kernel a wrapper of this type.
            let symbol = unsafe { library.get::<Wrapper>(format!("emulate_{}", kernel.name)) };
            (kernel.name.to_owned(), *symbol.expect("every kernel has a wrapper"))
        };
        Self { wrappers: source::kernels(&source).into_iter().map(wrapper).collect(), _library: library }
    }
}

/// The program with what surrounds it in an emulator.
pub(super) fn wrapped() -> String {
    let source = source::source();
    let mut program = String::from(include_str!("kernels/emulator.hpp"));
    program.push_str(&source);
    for source::Declared { name, cooperative } in source::kernels(&source) {
        let run = format!("emulator::launch({name}, words, count, dims, {cooperative})");
        writeln!(
            program,
            "extern \"C\" int emulate_{name}(const u64 *words, size_t count, const unsigned *dims) {{ return {run}; }}"
        )
        .expect("a string takes it");
    }
    program
}

/// Builds the library beside the tests' executables, under a name that says what is in it.
fn build() -> PathBuf {
    let program = wrapped();
    let digest: String = Sha256::digest(&program).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let executable = std::env::current_exe().expect("a test knows where it is");
    let folder = executable.parent().expect("a file lies in a folder");
    let library = folder.join(format!("kernels-{digest}.so"));
    if library.exists() {
        return library;
    }
    let unique = format!("kernels-{digest}-{}", std::process::id());
    let (text, built) = (folder.join(format!("{unique}.cpp")), folder.join(format!("{unique}.so")));
    std::fs::write(&text, program).expect("the target folder can be written");
    let output = compiler().arg("-o").arg(&built).arg(&text).output().expect("the compiler runs");
    assert!(output.status.success(), "the kernels do not build:\n{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&built, &library).expect("a file can be renamed in its folder");
    std::fs::remove_file(&text).expect("what was written can be removed");
    library
}

/// The C++ compiler with the options that a library of kernels takes.
pub(super) fn compiler() -> Command {
    let mut compiler = Command::new("g++");
    compiler.args(["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing"]);
    compiler.args(["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-variable"]);
    compiler
}

impl Driver for Emulated {
    fn name(&self) -> String {
        NAME.into()
    }

    fn processors(&self) -> u32 {
        4
    }

    fn memory_info(&self) -> Result<(usize, usize), CudaError> {
        let used: usize = self.pieces.lock().expect("no holder panics").values().sum();
        Ok((self.limit.saturating_sub(used), self.limit))
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        let (free, total) = self.memory_info()?;
        if bytes > free {
            let [wanted_mib, free_mib, total_mib] = [bytes, free, total].map(|bytes| bytes >> 20);
            return Err(CudaError::OutOfMemory { device: NAME.into(), wanted_mib, free_mib, total_mib });
        }
        let layout = Self::layout(bytes);
        // SAFETY: the layout is not empty; all of what comes is written.
        let start = unsafe {
            let start = alloc(layout);
            assert!(!start.is_null(), "the machine has memory");
            start.write_bytes(MARK, layout.size());
            start
        };
        let address = (start as usize + MARKED_BYTES) as u64;
        self.pieces.lock().expect("no holder panics").insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: u64, bytes: usize) {
        let known = self.pieces.lock().expect("no holder panics").remove(&address);
        assert_eq!(known, Some(bytes), "memory is given back once, as it was taken");
        let layout = Self::layout(bytes);
        let start = (usize::try_from(address).expect("a pointer") - MARKED_BYTES) as *mut u8;
        // SAFETY: `start` came from `alloc` with this layout, all of which was written, and nobody else has it any more.
        let intact = unsafe {
            let all = std::slice::from_raw_parts(start, layout.size());
            let intact = all[..MARKED_BYTES].iter().chain(&all[MARKED_BYTES + bytes..]).all(|byte| *byte == MARK);
            dealloc(start, layout);
            intact
        };
        // A panic while another one unwinds would end the process without a word.
        assert!(intact || std::thread::panicking(), "a kernel wrote beside its {bytes} bytes");
    }

    fn to_device(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.check(address, bytes.len());
        // SAFETY: the piece was just checked, and no launch is running: launches run in the calling thread.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    fn to_host(&self, bytes: &mut [u8], address: u64) -> Result<(), CudaError> {
        self.check(address, bytes.len());
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn start_to_host(&self, address: u64, bytes: usize) -> Result<Box<dyn Arrival>, CudaError> {
        let mut arrived = vec![0; bytes];
        self.to_host(&mut arrived, address)?;
        Ok(Box::new(Arrived(arrived)))
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        self.check(to, bytes);
        self.check(from, bytes);
        assert!(to.abs_diff(from) >= bytes as u64, "what is copied does not overlap");
        // SAFETY: both were just checked.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        self.check(address, bytes);
        // SAFETY: just checked.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    fn launch(&self, kernel: &'static str, grid: [u32; 3], block: u32, arguments: &[u64]) -> Result<(), CudaError> {
        assert!(grid[1] < 1 << 16 && grid[2] < 1 << 16 && grid[0] < 1 << 31, "{kernel}: a GPU has no grid {grid:?}");
        let wrapper = self.kernels.wrappers.get(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        let dims = [grid[0], grid[1], grid[2], block];
        // SAFETY: the wrapper reads `arguments.len()` words after checking that number, and four dimensions. What the
        // kernel does to the device's memory is what the operations ask for.
        let wrong = unsafe { wrapper(arguments.as_ptr(), arguments.len(), dims.as_ptr()) };
        assert_eq!(wrong, 0, "{kernel} does not take {} words of arguments", arguments.len());
        Ok(())
    }

    fn int8_gemm(&self, product: &Int8Gemm) -> Result<(), CudaError> {
        let Int8Gemm { rows, columns, depth, a, a_line, b, b_line, out } = *product;
        for multiple in [rows, columns, depth, a_line, b_line] {
            assert_eq!(multiple % 16, 0, "{product:?} is aligned");
        }
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        self.check(a, (rows - 1) * a_line + depth);
        self.check(b, (columns - 1) * b_line + depth);
        self.check(out, 4 * rows * columns);
        // SAFETY: all three were just checked, and results do not overlap factors.
        let (a, b, out) = unsafe {
            (
                std::slice::from_raw_parts(a as *const i8, (rows - 1) * a_line + depth),
                std::slice::from_raw_parts(b as *const i8, (columns - 1) * b_line + depth),
                std::slice::from_raw_parts_mut(out as *mut i32, rows * columns),
            )
        };
        for (a, out) in a.chunks(a_line).zip(out.chunks_mut(columns)) {
            for (b, out) in b.chunks(b_line).zip(out) {
                // Overflow panics: the callers' limits on the depth are proven here.
                let products = a[..depth].iter().zip(&b[..depth]).map(|(a, b)| i64::from(*a) * i64::from(*b));
                *out = i32::try_from(products.sum::<i64>()).expect("sums of products fit 32 bits");
            }
        }
        Ok(())
    }

    fn synchronise(&self) -> Result<(), CudaError> {
        Ok(())
    }
}

/// What has arrived at once.
struct Arrived(Vec<u8>);

impl Arrival for Arrived {
    fn finish(self: Box<Self>, into: &mut [u8]) -> Result<(), CudaError> {
        into.copy_from_slice(&self.0);
        Ok(())
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let left = self.pieces.lock().expect("no holder panics").len();
        assert!(left == 0 || std::thread::panicking(), "{left} pieces of memory were never given back");
    }
}
