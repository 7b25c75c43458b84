//! Keystream on a device: the words that every other device makes.

use super::{Gpu, Memory, SpanMut};
use crate::compute::Key;

/// Words that a block of threads makes at a time: a ChaCha block for each thread.
const TILE_WORDS: usize = 2048;

impl Gpu {
    /// The first `len` words of ChaCha12 keystream (block counter from 0, little-endian words, 8 per block).
    pub fn keystream(&self, key: &Key, nonce: [u32; 3], len: usize) -> Memory {
        let mut out = self.uninitialised(len);
        self.stream("keystream", key, nonce, out.span_mut());
        out
    }

    /// `out` = keystream.
    pub fn keystream_fill(&self, key: &Key, nonce: [u32; 3], out: SpanMut<'_>) {
        self.stream("keystream", key, nonce, out);
    }

    /// `out += keystream`, wrapping.
    pub fn keystream_add(&self, key: &Key, nonce: [u32; 3], out: SpanMut<'_>) {
        self.stream("keystream_add", key, nonce, out);
    }

    /// `out -= keystream`, wrapping.
    pub fn keystream_sub(&self, key: &Key, nonce: [u32; 3], out: SpanMut<'_>) {
        self.stream("keystream_sub", key, nonce, out);
    }

    /// `out ^= keystream`.
    pub fn keystream_xor(&self, key: &Key, nonce: [u32; 3], out: SpanMut<'_>) {
        self.stream("keystream_xor", key, nonce, out);
    }

    /// The negative of [`Gpu::keystream`].
    pub fn keystream_negated(&self, key: &Key, nonce: [u32; 3], len: usize) -> Memory {
        let mut out = self.uninitialised(len);
        self.stream("keystream_negated", key, nonce, out.span_mut());
        out
    }

    /// `values -= keystream`; returns the keystream.
    pub fn keystream_deal(&self, key: &Key, nonce: [u32; 3], values: SpanMut<'_>) -> Memory {
        let half = self.uninitialised(values.len());
        let spans = [values.address, half.span().address];
        self.streams("keystream_deal", &spans, &[(key, nonce)], values.len());
        half
    }

    /// `out +=` the sum of two keystreams.
    pub fn keystreams_add(&self, streams: [(&Key, [u32; 3]); 2], out: SpanMut<'_>) {
        self.streams("keystreams_add", &[out.address], &streams, out.len());
    }

    /// The exclusive or of two keystreams.
    pub fn keystreams_of_bits(&self, streams: [(&Key, [u32; 3]); 2], len: usize) -> Memory {
        let out = self.uninitialised(len);
        self.streams("keystreams_of_bits", &[out.span().address], &streams, len);
        out
    }

    fn stream(&self, kernel: &'static str, key: &Key, nonce: [u32; 3], out: SpanMut<'_>) {
        self.streams(kernel, &[out.address], &[(key, nonce)], out.len());
    }

    fn streams(&self, kernel: &'static str, spans: &[u64], streams: &[(&Key, [u32; 3])], len: usize) {
        assert!(u32::try_from(len.div_ceil(8)).is_ok(), "a stream is shorter than 256 GiB");
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let mut arguments = spans.to_vec();
        for (key, [n0, n1, n2]) in streams {
            let [k0, k1, k2, k3, k4, k5, k6, k7] = **key;
            arguments.extend([pair(k0, k1), pair(k2, k3), pair(k4, k5), pair(k6, k7), pair(*n0, *n1), (*n2).into()]);
        }
        arguments.push(len as u64);
        self.tiles(kernel, len.div_ceil(TILE_WORDS), &arguments);
    }

    /// Starts a kernel whose blocks go over so many pieces of work.
    pub(super) fn tiles(&self, kernel: &'static str, tiles: usize, arguments: &[u64]) {
        let blocks = tiles.min(32 * self.0.driver.processors() as usize);
        self.start(kernel, [u32::try_from(blocks).expect("bounded"), 1, 1], arguments);
    }
}
