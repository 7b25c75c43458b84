//! A device as a [`Compute`] for words that lie on the host: every call takes them there and back. What does many steps
//! keeps them in [`Memory`](super::Memory) instead.

use super::{Gpu, Memory, Operand, Span, SpanMut, Sum};
use crate::compute::{self, Compute, ConvShape, Key};

/// A product's operand whose words have been taken to the device.
struct Taken {
    x: Memory,
    y: Option<Memory>,
}

impl Gpu {
    fn take(&self, x: &[u64], y: Option<&[u64]>) -> Taken {
        Taken { x: self.upload(x), y: y.map(|y| self.upload(y)) }
    }

    fn take_sum(&self, sum: &compute::Sum<'_>) -> Taken {
        self.take(sum.x, sum.y)
    }

    /// Runs an operation on a copy of `out` and takes the result back. Panics if the device has failed: whoever computes on
    /// the host has no other way to learn of it.
    fn on_copy(&self, out: &mut [u64], operation: impl FnOnce(SpanMut<'_>)) {
        let mut copy = self.upload(out);
        operation(copy.span_mut());
        self.back(copy.span(), out);
    }

    fn back(&self, from: Span<'_>, out: &mut [u64]) {
        if let Err(failure) = self.read(from, bytemuck::cast_slice_mut(out)) {
            panic!("{failure}");
        }
    }
}

impl Taken {
    fn sum(&self, of: &compute::Sum<'_>) -> Sum<'_> {
        Sum { x: self.x.span(), y: self.y.as_ref().map(Memory::span), kx: of.kx, ky: of.ky }
    }

    fn operand(&self, of: &compute::Operand<'_>) -> Operand<'_> {
        let compute::Operand { kx, ky, rows, cols, transposed, .. } = *of;
        Operand { x: self.x.span(), y: self.y.as_ref().map(Memory::span), kx, ky, rows, cols, transposed }
    }
}

impl Compute for Gpu {
    fn name(&self) -> String {
        Self::name(self)
    }

    fn gemm(&self, a: compute::Operand<'_>, b: compute::Operand<'_>, out: &mut [u64]) {
        let (left, right) = (self.take(a.x, a.y), self.take(b.x, b.y));
        self.on_copy(out, |out| Self::gemm(self, left.operand(&a), right.operand(&b), out));
    }

    fn conv(&self, shape: &ConvShape, images: compute::Sum<'_>, weights: compute::Sum<'_>, out: &mut [u64]) {
        let (left, right) = (self.take_sum(&images), self.take_sum(&weights));
        self.on_copy(out, |out| Self::conv(self, shape, left.sum(&images), right.sum(&weights), out));
    }

    fn conv_weights(&self, shape: &ConvShape, images: compute::Sum<'_>, gradient: compute::Sum<'_>, out: &mut [u64]) {
        let (left, right) = (self.take_sum(&images), self.take_sum(&gradient));
        self.on_copy(out, |out| Self::conv_weights(self, shape, left.sum(&images), right.sum(&gradient), out));
    }

    fn conv_images(&self, shape: &ConvShape, gradient: compute::Sum<'_>, weights: compute::Sum<'_>, out: &mut [u64]) {
        let (left, right) = (self.take_sum(&gradient), self.take_sum(&weights));
        self.on_copy(out, |out| Self::conv_images(self, shape, left.sum(&gradient), right.sum(&weights), out));
    }

    fn keystream(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]) {
        let stream = Self::keystream(self, key, nonce, out.len());
        self.back(stream.span(), out);
    }

    fn keystream_add(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]) {
        self.on_copy(out, |out| Self::keystream_add(self, key, nonce, out));
    }

    fn keystream_sub(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]) {
        self.on_copy(out, |out| Self::keystream_sub(self, key, nonce, out));
    }

    fn keystream_xor(&self, key: &Key, nonce: [u32; 3], out: &mut [u64]) {
        self.on_copy(out, |out| Self::keystream_xor(self, key, nonce, out));
    }

    fn bit_planes(&self, words: &[u64], low: usize, count: usize, planes: &mut [u64]) {
        let words = self.upload(words);
        self.back(Self::bit_planes(self, words.span(), low, count).span(), planes);
    }
}
