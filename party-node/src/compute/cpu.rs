//! The CPU device.

use super::{Compute, Key, Operand, reference};

/// A CPU slice that stands in for a GPU.
pub struct CpuDevice {
    threads: usize,
}

impl CpuDevice {
    /// A device that uses up to `threads` threads.
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1) }
    }
}

impl Compute for CpuDevice {
    fn name(&self) -> String {
        format!("cpu ({} threads)", self.threads)
    }

    fn gemm(&self, a: Operand<'_>, b: Operand<'_>, out: &mut [u64]) {
        reference::gemm(a, b, out);
    }

    fn keystream(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]) {
        reference::keystream(key, nonce, out);
    }

    fn bit_planes(&self, words: &[u64], low: usize, count: usize, planes: &mut [u64]) {
        reference::bit_planes(words, low, count, planes);
    }
}
