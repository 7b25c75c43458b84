//! The CPU device.

mod chacha;
mod conv;
pub(crate) mod dispatch;
mod gemm;
mod planes;
pub(crate) mod registers;

use rayon::{ThreadPool, ThreadPoolBuilder};

use self::chacha::ChaCha12;
pub use self::dispatch::Path;
use super::{Compute, ConvShape, Key, Operand, Sum};

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

    fn gemm(&self, a: Operand<'_>, b: Operand<'_>, out: &mut [u64]) {
        gemm::gemm(self.path, self.pool.as_ref(), &a, &b, out);
    }

    fn conv(&self, shape: &ConvShape, images: Sum<'_>, weights: Sum<'_>, out: &mut [u64]) {
        conv::conv(self.path, self.pool.as_ref(), shape, images, weights, out);
    }

    fn conv_weights(&self, shape: &ConvShape, images: Sum<'_>, gradient: Sum<'_>, out: &mut [u64]) {
        conv::conv_weights(self.path, self.pool.as_ref(), shape, images, gradient, out);
    }

    fn conv_images(&self, shape: &ConvShape, gradient: Sum<'_>, weights: Sum<'_>, out: &mut [u64]) {
        conv::conv_images(self.path, self.pool.as_ref(), shape, gradient, weights, out);
    }

    fn keystream(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]) {
        ChaCha12::new(self.path, key, nonce).fill(0, out);
    }

    fn keystream_add(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]) {
        ChaCha12::new(self.path, key, nonce).add(out);
    }

    fn keystream_sub(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]) {
        ChaCha12::new(self.path, key, nonce).sub(out);
    }

    fn keystream_xor(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]) {
        ChaCha12::new(self.path, key, nonce).xor(out);
    }

    fn bit_planes(&self, words: &[u64], low: usize, count: usize, planes: &mut [u64]) {
        planes::bit_planes(self.path, words, low, count, planes);
    }
}
