//! Ring kernels over Z_2^64: products, keystream, bit planes. Knows words, no parties.

#[cfg(test)]
mod conformance;
mod conv;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod elementwise;
pub mod reference;

pub use conv::ConvShape;
pub use cpu::{CpuDevice, Path};

/// A matrix operand `kx * x + ky * y`, combined while it is packed.
///
/// `rows` and `cols` are those of the operand as multiplied; with `transposed` the slices hold it column by column
/// (that is, row-major `cols x rows`).
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// First summand, row-major.
    pub x: &'a [u64],
    /// Second summand, same layout; `None` when the operand is `kx * x` alone.
    pub y: Option<&'a [u64]>,
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
pub struct Sum<'a> {
    /// First summand.
    pub x: &'a [u64],
    /// Second summand, same layout; `None` when the tensor is `kx * x` alone.
    pub y: Option<&'a [u64]>,
    /// Coefficient of `x` in the ring.
    pub kx: u64,
    /// Coefficient of `y` in the ring.
    pub ky: u64,
}

/// A ChaCha12 key.
pub type Key = [u32; 8];

/// A device that computes in Z_2^64. All results wrap; all devices agree bit for bit.
pub trait Compute: Send + Sync {
    /// What a report calls this device: `cpu (avx512, 2 threads)`.
    fn name(&self) -> String;

    /// `out += a * b`, row-major `a.rows x b.cols`. Panics if the shapes do not fit: they are ours, not a peer's.
    fn gemm(&self, a: Operand<'_>, b: Operand<'_>, out: &mut [u64]);

    /// `out +=` the convolution of `images` with `weights`. Panics if the slices do not fit the shape: they are ours.
    fn conv(&self, shape: &ConvShape, images: Sum<'_>, weights: Sum<'_>, out: &mut [u64]);

    /// `out +=` the gradient of the weights of [`Compute::conv`], given that of its result.
    fn conv_weights(&self, shape: &ConvShape, images: Sum<'_>, gradient: Sum<'_>, out: &mut [u64]);

    /// `out +=` the gradient of the images of [`Compute::conv`], given that of its result.
    fn conv_images(&self, shape: &ConvShape, gradient: Sum<'_>, weights: Sum<'_>, out: &mut [u64]);

    /// Fills `out` with ChaCha12 keystream (block counter from 0, little-endian words, 8 per block).
    fn keystream(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]);

    /// `out += keystream`, wrapping: the same words as [`Compute::keystream`], which never leave the cache.
    fn keystream_add(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]);

    /// `out -= keystream`, wrapping.
    fn keystream_sub(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]);

    /// `out ^= keystream`.
    fn keystream_xor(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]);

    /// Cuts bits `low .. low + count` of every word into `count` planes of `words.len().div_ceil(64)` words each;
    /// bit `i % 64` of word `i / 64` of plane `j` is bit `low + j` of `words[i]`. Padding bits are zero.
    fn bit_planes(&self, words: &[u64], low: usize, count: usize, planes: &mut [u64]);
}
