//! Vectors on a device, and pieces of them.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::driver::{Arrival, Driver};
use super::{CudaError, Gpu};

/// A piece of a device's memory that goes back when nobody needs it. Work is in order, so that what comes next may have it
/// at once.
pub(super) struct Block {
    driver: Arc<dyn Driver>,
    pub(super) address: u64,
    bytes: usize,
}

impl Block {
    pub(super) fn new(driver: &Arc<dyn Driver>, address: u64, bytes: usize) -> Self {
        Self { driver: driver.clone(), address, bytes }
    }
}

impl Block {
    /// No memory.
    pub(super) fn none(driver: &Arc<dyn Driver>) -> Self {
        Self::new(driver, 0, 0)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.driver.free(self.address, self.bytes);
        }
    }
}

/// A vector of words on a device. Its copy is one on the device; it goes back to the pool when it is dropped.
pub struct Memory {
    gpu: Gpu,
    /// None if there are no words, or if the device has failed.
    block: Option<Block>,
    len: usize,
}

impl Memory {
    pub(super) fn new(gpu: &Gpu, block: Option<Block>, len: usize) -> Self {
        Self { gpu: gpu.clone(), block, len }
    }

    /// The device that it lies on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Words.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it.
    pub fn span(&self) -> Span<'_> {
        Span { address: self.address(), len: self.len, memory: PhantomData }
    }

    /// All of it, to be changed.
    pub fn span_mut(&mut self) -> SpanMut<'_> {
        SpanMut { address: self.address(), len: self.len, memory: PhantomData }
    }

    /// A piece of it.
    pub fn slice(&self, range: Range<usize>) -> Span<'_> {
        self.span().slice(range)
    }

    /// A piece of it, to be changed.
    pub fn slice_mut(&mut self, range: Range<usize>) -> SpanMut<'_> {
        self.span_mut().slice(range)
    }

    fn address(&self) -> u64 {
        self.block.as_ref().map_or(0, |block| block.address)
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        self.gpu.copied(self.span())
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory(<{} words>)", self.len)
    }
}

/// Bytes on their way to the host: a copy of what they were when it was started.
pub struct Reading {
    /// None if there are none, or if the device has failed.
    arrival: Option<Box<dyn Arrival>>,
    gpu: Gpu,
    bytes: usize,
}

impl Reading {
    pub(super) fn new(gpu: &Gpu, arrival: Option<Box<dyn Arrival>>, bytes: usize) -> Self {
        Self { arrival, gpu: gpu.clone(), bytes }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Waits for them. Panics unless `into` has their length.
    pub fn finish(self, into: &mut [u8]) -> Result<(), CudaError> {
        assert_eq!(into.len(), self.bytes, "room for what was read");
        let Self { arrival, gpu, .. } = self;
        if let Some(arrival) = arrival {
            gpu.attempt(|_| arrival.finish(into));
        }
        gpu.check()
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reading(<{} bytes>)", self.bytes)
    }
}

/// Words of a [`Memory`].
#[derive(Clone, Copy)]
pub struct Span<'a> {
    pub(super) address: u64,
    len: usize,
    memory: PhantomData<&'a Memory>,
}

impl Span<'_> {
    /// Where it lies, for a library that works on the same device.
    pub(crate) fn address(self) -> u64 {
        self.address
    }

    /// Words.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// A piece of it.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> Self {
        let (address, len) = piece(self.address, self.len, range);
        Self { address, len, ..self }
    }
}

/// Words of a [`Memory`] that may be changed.
pub struct SpanMut<'a> {
    pub(super) address: u64,
    len: usize,
    memory: PhantomData<&'a mut Memory>,
}

impl SpanMut<'_> {
    /// Where it lies, for a library that works on the same device.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Words.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// To read.
    pub fn span(&self) -> Span<'_> {
        Span { address: self.address, len: self.len, memory: PhantomData }
    }

    /// The same words for a while.
    pub fn again(&mut self) -> SpanMut<'_> {
        SpanMut { address: self.address, len: self.len, memory: PhantomData }
    }

    /// A piece of it.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> Self {
        let (address, len) = piece(self.address, self.len, range);
        Self { address, len, ..self }
    }

    /// What lies before and what lies from `middle` on.
    #[must_use]
    pub fn split_at(self, middle: usize) -> (Self, Self) {
        let (first, second) =
            (piece(self.address, self.len, 0..middle), piece(self.address, self.len, middle..self.len));
        let of = |(address, len)| Self { address, len, memory: PhantomData };
        (of(first), of(second))
    }
}

fn piece(address: u64, len: usize, range: Range<usize>) -> (u64, usize) {
    assert!(range.start <= range.end && range.end <= len, "words {range:?} of {len}");
    (address + 8 * range.start as u64, range.end - range.start)
}
