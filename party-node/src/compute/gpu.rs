//! The GPU device: what makes words of its own. What works on words that exist finds its GPU by itself.

use super::cuda::{Gpu, Span, SpanMut};
use super::words::OnGpu;
use super::{Compute, ConvShape, DeviceError, Key, Operand, OperandIn, Slice, SliceMut, Sum, SumIn, Words};

/// A GPU as a lane's device.
pub struct GpuDevice(Gpu);

impl GpuDevice {
    /// Lanes may share a GPU: clones of [`Gpu`] are one device.
    pub fn new(gpu: Gpu) -> Self {
        Self(gpu)
    }

    fn operand<'a>(&self, of: &Operand<'a>) -> Brought<'a> {
        Brought { x: of.x.on(&self.0), y: of.y.map(|y| y.on(&self.0)) }
    }

    fn tensor<'a>(&self, of: &Sum<'a>) -> Brought<'a> {
        Brought { x: of.x.on(&self.0), y: of.y.map(|y| y.on(&self.0)) }
    }
}

/// Summands of an operand, on the GPU.
struct Brought<'a> {
    x: OnGpu<'a>,
    y: Option<OnGpu<'a>>,
}

impl Brought<'_> {
    fn operand(&self, of: &Operand<'_>) -> OperandIn<Span<'_>> {
        let OperandIn { kx, ky, rows, cols, transposed, .. } = *of;
        OperandIn { x: self.x.span(), y: self.y.as_ref().map(OnGpu::span), kx, ky, rows, cols, transposed }
    }

    fn sum(&self, of: &Sum<'_>) -> SumIn<Span<'_>> {
        SumIn { x: self.x.span(), y: self.y.as_ref().map(OnGpu::span), kx: of.kx, ky: of.ky }
    }
}

/// What a product or a keystream is added to lies where the device made it.
fn own(words: SliceMut<'_>) -> SpanMut<'_> {
    match words {
        SliceMut::Gpu(_, words) => words,
        SliceMut::Host(_) => unreachable!("a lane has one device"),
    }
}

impl Compute for GpuDevice {
    fn name(&self) -> String {
        self.0.name()
    }

    fn check(&self) -> Result<(), DeviceError> {
        self.0.check().map_err(|error| DeviceError(error.to_string()))
    }

    fn hold(&self, words: Vec<u64>) -> Words {
        self.0.upload(&words).into()
    }

    fn zeros(&self, len: usize) -> Words {
        self.0.zeros(len).into()
    }

    fn unpack(&self, packed: &[u8], len: usize, bits: u32) -> Words {
        let packed = self.0.upload_bytes(packed);
        self.0.unpack(packed.span(), len, bits).into()
    }

    fn gemm(&self, a: Operand<'_>, b: Operand<'_>, out: SliceMut<'_>) {
        let (left, right) = (self.operand(&a), self.operand(&b));
        self.0.gemm(left.operand(&a), right.operand(&b), own(out));
    }

    fn conv(&self, shape: &ConvShape, images: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>) {
        let (left, right) = (self.tensor(&images), self.tensor(&weights));
        self.0.conv(shape, left.sum(&images), right.sum(&weights), own(out));
    }

    fn conv_weights(&self, shape: &ConvShape, images: Sum<'_>, gradient: Sum<'_>, out: SliceMut<'_>) {
        let (left, right) = (self.tensor(&images), self.tensor(&gradient));
        self.0.conv_weights(shape, left.sum(&images), right.sum(&gradient), own(out));
    }

    fn conv_images(&self, shape: &ConvShape, gradient: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>) {
        let (left, right) = (self.tensor(&gradient), self.tensor(&weights));
        self.0.conv_images(shape, left.sum(&gradient), right.sum(&weights), own(out));
    }

    fn keystream(&self, key: &Key, nonce: [u32; 3], len: usize) -> Words {
        self.0.keystream(key, nonce, len).into()
    }

    fn keystream_add(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>) {
        self.0.keystream_add(key, nonce, own(out));
    }

    fn keystream_xor(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>) {
        self.0.keystream_xor(key, nonce, own(out));
    }

    fn bit_planes(&self, words: Slice<'_>, low: usize, count: usize) -> Words {
        self.0.bit_planes(words.on(&self.0).span(), low, count).into()
    }
}
