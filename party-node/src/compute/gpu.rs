//! The GPU device: what makes words of its own. What works on words that exist finds its GPU by itself.

use super::cuda::{Gpu, Memory, Span, SpanMut};
use super::{
    Compute, ConvShape, DeviceError, Key, Operand, OperandIn, Slice, SliceMut, Sum, SumIn, Words, elementwise,
};

/// A GPU as a lane's device.
pub struct GpuDevice(Gpu);

impl GpuDevice {
    /// Lanes may share a GPU: clones of [`Gpu`] are one device.
    pub fn new(gpu: Gpu) -> Self {
        Self(gpu)
    }

    fn operand<T>(&self, operand: Operand<'_>, with: impl FnOnce(OperandIn<Span<'_>>) -> T) -> T {
        let OperandIn { x, y, kx, ky, rows, cols, transposed } = operand;
        let (x, y) = (x.on(&self.0), y.map(|y| y.on(&self.0)));
        with(OperandIn { x: x.span(), y: y.as_ref().map(|y| y.span()), kx, ky, rows, cols, transposed })
    }

    fn sum<T>(&self, sum: Sum<'_>, with: impl FnOnce(SumIn<Span<'_>>) -> T) -> T {
        let SumIn { x, y, kx, ky } = sum;
        let (x, y) = (x.on(&self.0), y.map(|y| y.on(&self.0)));
        with(SumIn { x: x.span(), y: y.as_ref().map(|y| y.span()), kx, ky })
    }

    /// Does with words on this device what the caller asks; with others, on a copy that goes back.
    fn changed(&self, words: SliceMut<'_>, with: impl FnOnce(SpanMut<'_>)) {
        match words {
            SliceMut::Gpu(_, words) => with(words),
            words @ SliceMut::Host(_) => words.change(|words| {
                let mut held: Memory = self.0.upload(words);
                with(held.span_mut());
                if let Ok(changed) = self.0.download(held.span()) {
                    words.copy_from_slice(&changed);
                }
            }),
        }
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
        self.operand(a, |a| self.operand(b, |b| self.changed(out, |out| self.0.gemm(a, b, out))));
    }

    fn conv(&self, shape: &ConvShape, images: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>) {
        let conv = |images, weights, out: SpanMut<'_>| self.0.conv(shape, images, weights, out);
        self.sum(images, |images| self.sum(weights, |weights| self.changed(out, |out| conv(images, weights, out))));
    }

    fn conv_weights(&self, shape: &ConvShape, images: Sum<'_>, gradient: Sum<'_>, out: SliceMut<'_>) {
        let conv = |images, gradient, out: SpanMut<'_>| self.0.conv_weights(shape, images, gradient, out);
        self.sum(images, |images| self.sum(gradient, |gradient| self.changed(out, |out| conv(images, gradient, out))));
    }

    fn conv_images(&self, shape: &ConvShape, gradient: Sum<'_>, weights: Sum<'_>, out: SliceMut<'_>) {
        let conv = |gradient, weights, out: SpanMut<'_>| self.0.conv_images(shape, gradient, weights, out);
        self.sum(gradient, |gradient| {
            self.sum(weights, |weights| self.changed(out, |out| conv(gradient, weights, out)))
        });
    }

    fn keystream(&self, key: &Key, nonce: [u32; 3], len: usize) -> Words {
        self.0.keystream(key, nonce, len).into()
    }

    fn keystream_add(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>) {
        self.changed(out, |out| self.0.keystream_add(key, nonce, out));
    }

    fn keystream_xor(&self, key: &Key, nonce: [u32; 3], out: SliceMut<'_>) {
        self.changed(out, |out| self.0.keystream_xor(key, nonce, out));
    }

    fn bit_planes(&self, words: Slice<'_>, low: usize, count: usize) -> Words {
        self.0.bit_planes(words.on(&self.0).span(), low, count).into()
    }
}
