//! Local arithmetic in Z_2^64, on processors and on GPUs. Knows words and where they lie, no parties.
//!
//! | module | what |
//! |---|---|
//! | `words` | vectors of words, each in the memory of the device that computes with it |
//! | `elementwise`, `circuit`, `curves`, `moves` | local steps of protocols: each runs where its first operand lies |
//! | `cpu` | the processor's device and its kernels |
//! | `gpu`, `cuda` | the GPU's device; its kernels, memory and driver |
//! | `open` | which devices there are |
//! | `reference`, `conformance` | what every device must compute, and the suite that says whether it does |

pub mod circuit;
#[cfg(test)]
mod conformance;
mod conv;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod curves;
pub mod elementwise;
#[cfg(feature = "cuda")]
mod gpu;
pub mod moves;
mod open;
pub mod reference;
mod words;

pub use conv::ConvShape;
pub use cpu::{CpuDevice, Path};
#[cfg(feature = "cuda")]
pub use gpu::GpuDevice;
pub use open::{Opened, gpus, open};
pub use words::{Payload, Slice, SliceMut, Words};

/// A matrix operand `kx * x + ky * y`, combined while it is packed.
///
/// `rows` and `cols` are those of the operand as multiplied; with `transposed` the slices hold it column by column
/// (that is, row-major `cols x rows`).
#[derive(Clone, Copy)]
pub struct OperandIn<S> {
    /// First summand, row-major.
    pub x: S,
    /// Second summand, same layout; `None` when the operand is `kx * x` alone.
    pub y: Option<S>,
    /// Coefficient of `x` in the ring.
    pub kx: u64,
    /// Coefficient of `y` in the ring.
    pub ky: u64,
    /// Rows of the operand.
    pub rows: usize,
    /// Columns of the operand.
    pub cols: usize,
    /// Whether the slices hold the transpose.
    pub transposed: bool,
}

/// A tensor `kx * x + ky * y`, combined while it is read; what is computed with it knows its shape.
#[derive(Clone, Copy)]
pub struct SumIn<S> {
    /// First summand.
    pub x: S,
    /// Second summand, same layout; `None` when the tensor is `kx * x` alone.
    pub y: Option<S>,
    /// Coefficient of `x` in the ring.
    pub kx: u64,
    /// Coefficient of `y` in the ring.
    pub ky: u64,
}

/// An operand wherever it lies.
pub type Operand<'a> = OperandIn<Slice<'a>>;

/// An operand in this process's memory.
pub type HostOperand<'a> = OperandIn<&'a [u64]>;

/// A tensor wherever it lies.
pub type Sum<'a> = SumIn<Slice<'a>>;

/// A tensor in this process's memory.
pub type HostSum<'a> = SumIn<&'a [u64]>;

/// A ChaCha12 key.
pub type Key = [u32; 8];

/// A device that can no longer be relied on, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// A device that computes in Z_2^64. All results wrap; all devices agree bit for bit.
///
/// What works on words that exist is in [`elementwise`] and runs where they lie; a device makes words, and multiplies.
pub trait Compute: Send + Sync {
    /// What a report calls this device: `cpu (avx512, 2 threads)`.
    fn name(&self) -> String;

    /// Whether all that was asked of the device so far has been done rightly, as far as is known by now. Operations
    /// return no errors: after a failure what they make means nothing, and nothing of it may leave.
    fn check(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The words in this device's memory.
    fn hold(&self, words: Vec<u64>) -> Words;

    /// So many zeros in this device's memory.
    fn zeros(&self, len: usize) -> Words {
        self.hold(vec![0; len])
    }

    /// Values of `bits` bits as [`elementwise::pack`] made them and a message brought them.
    fn unpack(&self, packed: &[u8], len: usize, bits: u32) -> Words;

    /// `out += a * b`, row-major `a.rows x b.cols`. Panics if the shapes do not fit: they are ours, not a peer's.
    fn gemm(&self, a: Operand<'_>, b: Operand<'_>, out: SliceMut<'_>);

    /// `out +=` the convolution of `images` with `weights`. Panics if the slices do not fit the shape: they are ours.
    fn conv(&self, shape: &ConvShape, images: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>);

    /// `out +=` the gradient of the weights of [`Compute::conv`], given that of its result.
    fn conv_weights(&self, shape: &ConvShape, images: Sum<'_>, gradient: Sum<'_>, out: SliceMut<'_>);

    /// `out +=` the gradient of the images of [`Compute::conv`], given that of its result.
    fn conv_images(&self, shape: &ConvShape, gradient: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>);

    /// ChaCha12 keystream (block counter from 0, little-endian words, 8 per block).
    fn keystream(&self, key: &Key, nonce: [u32; 3], len: usize) -> Words;

    /// `out += keystream`, wrapping: the same words as [`Compute::keystream`], which never leave the cache.
    fn keystream_add(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>);

    /// `out ^= keystream`.
    fn keystream_xor(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>);

    /// Cuts bits `low .. low + count` of every word into `count` planes of `words.len().div_ceil(64)` words each;
    /// bit `i % 64` of word `i / 64` of plane `j` is bit `low + j` of `words[i]`. Padding bits are zero.
    fn bit_planes(&self, words: Slice<'_>, low: usize, count: usize) -> Words;
}
