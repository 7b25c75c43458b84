//! GPUs: vectors in a device's memory and everything that protocols do with them, bit for bit as on the host.
//!
//! [`Gpu`] is a device and its one stream: operations happen in the order of the calls, and none of them waits. They
//! return no errors: the first failure is remembered, all that follows does nothing, and [`Gpu::check`], which every copy
//! to the host calls, returns it. The CUDA libraries are loaded when a device is opened; nothing needs them before.
#![allow(clippy::needless_pass_by_value, reason = "a span to change is given away, as a mutable reference is")]

mod blas;
mod choice;
mod compare;
mod compiler;
#[cfg(test)]
mod conformance;
mod driver;
mod elementwise;
#[cfg(any(test, feature = "test-world"))]
mod emulated;
mod error;
mod gemm;
#[cfg(test)]
mod imitation;
mod int8;
mod keystream;
mod libraries;
mod memory;
mod movement;
mod nvidia;
mod planes;
mod source;
mod staging;
mod tables;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use self::driver::Driver;
pub use self::error::CudaError;
pub use self::gemm::{Operand, Sum};
pub use self::int8::{SplitOperand, Splitting};
pub(crate) use self::libraries::{FOLDERS_VARIABLE, folders as library_folders};
use self::memory::Block;
pub use self::memory::{Memory, Reading, Span, SpanMut};
pub use self::tables::Circle;

/// A device. Clones are the same device; it closes when the last of them and of its vectors is gone.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    driver: Arc<dyn Driver>,
    failure: OnceLock<CudaError>,
    /// Short public vectors that kernels read, such as lists of places: copied once.
    constants: Mutex<Constants>,
    /// How often words have come to the host to be computed with there.
    visits: AtomicU64,
    /// How products of matrices are done; unset as long as nothing has been measured.
    thresholds: OnceLock<choice::Thresholds>,
}

#[derive(Default)]
struct Constants {
    blocks: HashMap<Vec<u64>, Arc<Block>>,
    words: usize,
}

/// Threads of a block.
const BLOCK: u32 = 256;
/// Words of a constant that is kept, and of all of them together.
const CONSTANT_WORDS_MAX: usize = 1 << 16;
const ALL_CONSTANTS_WORDS_MAX: usize = 1 << 22;

impl Gpu {
    /// How many devices there are. No driver is an error that says so; none of this panics.
    pub fn count() -> Result<usize, CudaError> {
        nvidia::count()
    }

    /// Opens a device by its number. At its first use on this machine the kernels are compiled, and products are timed.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let gpu = Self::with_driver(nvidia::Nvidia::open(ordinal)?);
        gpu.learn_choice();
        gpu.check()?;
        Ok(gpu)
    }

    fn with_driver(driver: impl Driver + 'static) -> Self {
        let (failure, constants, thresholds) = (OnceLock::new(), Mutex::default(), OnceLock::new());
        Self(Arc::new(Inner { driver: Arc::new(driver), failure, constants, visits: AtomicU64::new(0), thresholds }))
    }

    /// A stand-in for a GPU that plays the kernels on the CPU, with so many bytes of memory; `None` if this machine has
    /// no C++ compiler.
    #[cfg(any(test, feature = "test-world"))]
    pub fn emulated(memory_bytes: usize) -> Option<Self> {
        emulated::Emulated::open(memory_bytes).map(Self::with_driver)
    }

    /// What a report calls the device.
    pub fn name(&self) -> String {
        self.0.driver.name()
    }

    /// Bytes free, and bytes in all.
    pub fn memory_info(&self) -> Result<(usize, usize), CudaError> {
        self.0.driver.memory_info()
    }

    /// The first failure of all operations so far, as far as it is known by now.
    pub fn check(&self) -> Result<(), CudaError> {
        self.0.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// The stream that all of this happens on, for a library that queues work of its own there, with the device current in
    /// the calling thread. None of a stand-in.
    pub(crate) fn stream_handle(&self) -> Option<u64> {
        self.0.driver.stream()
    }

    /// Whether all is done that was called before.
    pub(crate) fn idle(&self) -> Result<bool, CudaError> {
        self.check()?;
        self.0.driver.idle()
    }

    /// Waits until all is done that was called before.
    pub fn synchronise(&self) -> Result<(), CudaError> {
        self.attempt(|driver| driver.synchronise());
        self.check()
    }

    /// Words that are zero.
    pub fn zeros(&self, len: usize) -> Memory {
        let memory = self.uninitialised(len);
        self.attempt(|driver| if len == 0 { Ok(()) } else { driver.clear(memory.span().address, 8 * len) });
        memory
    }

    /// Words that all have one value.
    pub fn filled(&self, value: u64, len: usize) -> Memory {
        let memory = self.uninitialised(len);
        self.each("fill", len, &[memory.span().address, value, len as u64]);
        memory
    }

    /// A copy of words of the host.
    pub fn upload(&self, words: &[u64]) -> Memory {
        let mut memory = self.uninitialised(words.len());
        self.write(memory.span_mut(), words);
        memory
    }

    /// A copy of bytes of the host, with zeros to the end of the last word.
    pub fn upload_bytes(&self, bytes: &[u8]) -> Memory {
        let memory = self.uninitialised(bytes.len().div_ceil(8));
        self.attempt(|driver| {
            let (whole, rest) = bytes.split_at(bytes.len() / 8 * 8);
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            if !whole.is_empty() {
                driver.to_device(memory.span().address, whole)?;
            }
            if rest.is_empty() { Ok(()) } else { driver.to_device(memory.span().address + whole.len() as u64, &last) }
        });
        memory
    }

    /// Copies words of the host into a vector. As long as the shorter one.
    pub fn write(&self, into: SpanMut<'_>, words: &[u64]) {
        let words = &words[..words.len().min(into.len())];
        if !words.is_empty() {
            self.attempt(|driver| driver.to_device(into.address, bytemuck::cast_slice(words)));
        }
    }

    /// How often words have come to the host because an operation has no kernel; messages and results do not count.
    pub fn visits(&self) -> u64 {
        self.0.visits.load(Relaxed)
    }

    /// As [`Gpu::download`], to compute with the words on the host: zeros if the device has failed, which it remembers.
    pub(super) fn visit(&self, words: Span<'_>) -> Vec<u64> {
        self.0.visits.fetch_add(1, Relaxed);
        self.download(words).unwrap_or_else(|_| vec![0; words.len()])
    }

    /// A copy on the host, when all that was called before is done.
    pub fn download(&self, words: Span<'_>) -> Result<Vec<u64>, CudaError> {
        let mut out = vec![0; words.len()];
        self.read(words, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    /// Copies the first bytes of a vector to the host: as many as `bytes` takes. Panics if there are fewer.
    pub fn read(&self, words: Span<'_>, bytes: &mut [u8]) -> Result<(), CudaError> {
        assert!(bytes.len() <= 8 * words.len(), "a vector holds what is read");
        if !bytes.is_empty() {
            self.attempt(|driver| driver.to_host(bytes, words.address));
        }
        self.check()
    }

    /// Starts a copy of the first bytes of a vector to the host, to be waited for when they are needed. What is called
    /// after this does not change them. Panics if there are fewer.
    pub fn start_read(&self, words: Span<'_>, bytes: usize) -> Reading {
        assert!(bytes <= 8 * words.len(), "a vector holds what is read");
        let mut arrival = None;
        if bytes > 0 {
            self.attempt(|driver| {
                arrival = Some(driver.start_to_host(words.address, bytes)?);
                Ok(())
            });
        }
        Reading::new(self, arrival, bytes)
    }

    /// A copy on the device.
    pub fn copied(&self, words: Span<'_>) -> Memory {
        let mut copy = self.uninitialised(words.len());
        self.copy(copy.span_mut(), words);
        copy
    }

    /// Copies words on the device. As long as the shorter one.
    pub fn copy(&self, into: SpanMut<'_>, from: Span<'_>) {
        let len = into.len().min(from.len());
        if len > 0 {
            self.attempt(|driver| driver.copy(into.address, from.address, 8 * len));
        }
    }

    /// Pieces end to end.
    pub fn concat(&self, pieces: &[Span<'_>]) -> Memory {
        let mut all = self.uninitialised(pieces.iter().map(|piece| piece.len()).sum());
        let mut rest = all.span_mut();
        for piece in pieces {
            let (here, after) = rest.split_at(piece.len());
            self.copy(here, *piece);
            rest = after;
        }
        all
    }

    /// Words without a value yet.
    fn uninitialised(&self, len: usize) -> Memory {
        let mut block = None;
        if len > 0 {
            self.attempt(|driver| {
                block = Some(Block::new(&self.0.driver, driver.allocate(8 * len)?, 8 * len));
                Ok(())
            });
        }
        Memory::new(self, block, len)
    }

    /// A public vector on the device, copied there at its first use. For lists that come again and again.
    fn constant(&self, words: &[u64]) -> Arc<Block> {
        let mut constants = self.0.constants.lock().expect("no holder panics");
        if let Some(block) = constants.blocks.get(words) {
            return block.clone();
        }
        let driver = &self.0.driver;
        let mut block = Arc::new(Block::none(driver));
        self.attempt(|_| {
            if !words.is_empty() {
                let piece = Block::new(driver, driver.allocate(8 * words.len())?, 8 * words.len());
                driver.to_device(piece.address, bytemuck::cast_slice(words))?;
                block = Arc::new(piece);
            }
            Ok(())
        });
        if words.len() <= CONSTANT_WORDS_MAX && self.check().is_ok() {
            if constants.words + words.len() > ALL_CONSTANTS_WORDS_MAX {
                *constants = Constants::default();
            }
            constants.words += words.len();
            constants.blocks.insert(words.to_vec(), block.clone());
        }
        block
    }

    /// Does something unless the device has failed before; remembers if it fails now.
    fn attempt(&self, work: impl FnOnce(&dyn Driver) -> Result<(), CudaError>) {
        if self.0.failure.get().is_none()
            && let Err(failure) = work(&*self.0.driver)
        {
            // Another thread may have been first; one failure is enough.
            let _ = self.0.failure.set(failure);
        }
    }

    /// Starts a kernel that goes over `n` elements, each by itself.
    fn each(&self, kernel: &'static str, n: usize, arguments: &[u64]) {
        let blocks = n.div_ceil(BLOCK as usize).min(32 * self.0.driver.processors() as usize);
        self.start(kernel, [u32::try_from(blocks).expect("bounded above"), 1, 1], arguments);
    }

    /// Starts a kernel on a grid of blocks, if there are any.
    fn start(&self, kernel: &'static str, grid: [u32; 3], arguments: &[u64]) {
        if grid.iter().all(|blocks| *blocks > 0) {
            self.attempt(|driver| driver.launch(kernel, grid, BLOCK, arguments));
        }
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.name())
    }
}
