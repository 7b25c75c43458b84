//! What a GPU, or a stand-in for one, must be able to do. Addresses are the device's; nothing here reads them.

use super::CudaError;

/// A device and its one stream: everything happens in the order of the calls.
pub(super) trait Driver: Send + Sync {
    /// What a report calls the device.
    fn name(&self) -> String;

    /// Multiprocessors, for sizing grids.
    fn processors(&self) -> u32;

    /// Bytes free, and bytes in all.
    fn memory_info(&self) -> Result<(usize, usize), CudaError>;

    /// Memory of at least so many bytes, aligned to 256, with undefined content.
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Takes memory back, once what has been called before is done with it.
    fn free(&self, address: u64, bytes: usize);

    /// Copies to the device. The bytes may change as soon as this returns.
    fn to_device(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError>;

    /// Copies from the device, when all that was called before is done.
    fn to_host(&self, bytes: &mut [u8], address: u64) -> Result<(), CudaError>;

    /// Starts a copy from the device that is waited for later; what is called after this does not change it.
    fn start_to_host(&self, address: u64, bytes: usize) -> Result<Box<dyn Arrival>, CudaError>;

    /// Copies on the device; the two places do not overlap.
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError>;

    /// Sets bytes to zero.
    fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError>;

    /// Starts a kernel. `arguments` are the words of all its parameters, in order.
    fn launch(&self, kernel: &'static str, grid: [u32; 3], block: u32, arguments: &[u64]) -> Result<(), CudaError>;

    /// Starts a product of int8 matrices. Its library may be missing: an error then, which is no fault of the device.
    fn int8_gemm(&self, product: &Int8Gemm) -> Result<(), CudaError>;

    /// Waits for all that was called before.
    fn synchronise(&self) -> Result<(), CudaError>;

    /// The stream, for a library that queues work of its own there, with the device current in the calling thread. None
    /// of a stand-in.
    fn stream(&self) -> Option<u64> {
        None
    }

    /// Whether all that was called before is done.
    fn idle(&self) -> Result<bool, CudaError> {
        self.synchronise().map(|()| true)
    }
}

/// Bytes on their way to the host.
pub(super) trait Arrival: Send {
    /// Waits for them and puts them where they belong; as many as were asked for.
    fn finish(self: Box<Self>, into: &mut [u8]) -> Result<(), CudaError>;
}

/// `out = a * b^T` in 32-bit integers: `a` is `rows x depth`, `b` is `columns x depth`, both of bytes in row-major order
/// with lines `a_line` and `b_line` bytes apart; `out` is `rows x columns`. Rows, columns, depth and lines are multiples
/// of 16, addresses of 16 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Int8Gemm {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
    pub(super) a: u64,
    pub(super) a_line: usize,
    pub(super) b: u64,
    pub(super) b_line: usize,
    pub(super) out: u64,
}
