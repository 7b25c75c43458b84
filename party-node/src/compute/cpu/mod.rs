//! The CPU device.

mod chacha;
mod conv;
pub(crate) mod dispatch;
pub(in crate::compute) mod elementwise;
mod gemm;
mod planes;
pub(crate) mod registers;

use rayon::{ThreadPool, ThreadPoolBuilder};

use self::chacha::ChaCha12;
pub use self::dispatch::Path;
use super::{Compute, ConvShape, HostOperand, HostSum, Key, Operand, OperandIn, Slice, SliceMut, Sum, SumIn, Words};

/// A CPU slice that stands in for a GPU.
pub struct CpuDevice {
    path: Path,
    threads: usize,
    /// None with a single thread: then the caller does the work.
    pool: Option<ThreadPool>,
}

impl CpuDevice {
    /// A device that uses up to `threads` threads and the best kernels of this machine.
    pub fn new(threads: usize) -> Self {
        Self::with_path(Path::best(), threads)
    }

    /// A device that uses the kernels of `path`, for tests and measurements. Panics if this machine lacks `path`.
    pub fn with_path(path: Path, threads: usize) -> Self {
        assert!(path <= Path::best(), "this machine has no {path}");
        let threads = threads.max(1);
        let pool = (threads > 1).then(|| {
            let named = ThreadPoolBuilder::new().thread_name(|i| format!("compute-{i}"));
            named.num_threads(threads).build().expect("the system can start threads")
        });
        Self { path, threads, pool }
    }

    /// What a report calls so many of its threads.
    pub(crate) fn name_on(&self, threads: usize) -> String {
        format!("cpu ({}, {threads} thread{})", self.path, if threads == 1 { "" } else { "s" })
    }

    /// Whose kernels it uses.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Threads that work on a product or a convolution.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whose instructions multiply factors of this shape.
    pub fn product_path(&self, rows: usize, terms: usize, cols: usize) -> Path {
        gemm::taken(self.path, rows, terms, cols)
    }
}

impl Compute for CpuDevice {
    fn name(&self) -> String {
        self.name_on(self.threads)
    }

    fn hold(&self, words: Vec<u64>) -> Words {
        words.into()
    }

    fn unpack(&self, packed: &[u8], len: usize, bits: u32) -> Words {
        elementwise::unpack(packed, len, bits).into()
    }

    fn gemm(&self, a: Operand<'_>, b: Operand<'_>, out: SliceMut<'_>) {
        gemm::gemm(self.path, self.pool.as_ref(), &operand(a), &operand(b), own(out));
    }

    fn conv(&self, shape: &ConvShape, images: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>) {
        conv::conv(self.path, self.pool.as_ref(), shape, sum(images), sum(weights), own(out));
    }

    fn conv_weights(&self, shape: &ConvShape, images: Sum<'_>, gradient: Sum<'_>, out: SliceMut<'_>) {
        conv::conv_weights(self.path, self.pool.as_ref(), shape, sum(images), sum(gradient), own(out));
    }

    fn conv_images(&self, shape: &ConvShape, gradient: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>) {
        conv::conv_images(self.path, self.pool.as_ref(), shape, sum(gradient), sum(weights), own(out));
    }

    fn keystream(&self, key: &Key, nonce: [u32; 3], len: usize) -> Words {
        let mut words = vec![0; len];
        ChaCha12::new(self.path, key, nonce).fill(0, &mut words);
        words.into()
    }

    fn keystream_add(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>) {
        ChaCha12::new(self.path, key, nonce).add(own(out));
    }

    fn keystream_xor(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>) {
        ChaCha12::new(self.path, key, nonce).xor(own(out));
    }

    fn bit_planes(&self, words: Slice<'_>, low: usize, count: usize) -> Words {
        let mut planes = vec![0; count * words.len().div_ceil(64)];
        planes::bit_planes(self.path, read(words), low, count, &mut planes);
        planes.into()
    }
}

/// Words of this device, which are those of the host.
fn read(words: Slice<'_>) -> &[u64] {
    match words {
        Slice::Host(words) => words,
        #[cfg(feature = "cuda")]
        Slice::Gpu(..) => unreachable!("a lane has one device"),
    }
}

fn own(words: SliceMut<'_>) -> &mut [u64] {
    match words {
        SliceMut::Host(words) => words,
        #[cfg(feature = "cuda")]
        SliceMut::Gpu(..) => unreachable!("a lane has one device"),
    }
}

fn operand(operand: Operand<'_>) -> HostOperand<'_> {
    let OperandIn { x, y, kx, ky, rows, cols, transposed } = operand;
    OperandIn { x: read(x), y: y.map(read), kx, ky, rows, cols, transposed }
}

fn sum(sum: Sum<'_>) -> HostSum<'_> {
    let SumIn { x, y, kx, ky } = sum;
    SumIn { x: read(x), y: y.map(read), kx, ky }
}
