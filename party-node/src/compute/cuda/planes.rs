//! Bit planes on a device.

use super::{Gpu, Memory, Span};

/// Groups of 64 words that a block of threads turns at a time.
const TILE_GROUPS: usize = 32;

impl Gpu {
    /// Bits `low .. low + count` of every word, as `count` planes of `words.len().div_ceil(64)` words each.
    pub fn bit_planes(&self, words: Span<'_>, low: usize, count: usize) -> Memory {
        self.bit_planes_of_difference(words, 0, low, count)
    }

    /// [`Gpu::bit_planes`] of `words - minus`. Padding bits are zero.
    pub fn bit_planes_of_difference(&self, words: Span<'_>, minus: u64, low: usize, count: usize) -> Memory {
        assert!(low + count <= 64, "a word has 64 bits");
        let width = words.len().div_ceil(64);
        let planes = self.uninitialised(count * width);
        let sizes = [words.len(), low, count, width].map(|size| size as u64);
        let arguments = [&[planes.span().address, words.address, minus][..], &sizes].concat();
        self.tiles("bit_planes", if count == 0 { 0 } else { width.div_ceil(TILE_GROUPS) }, &arguments);
        planes
    }
}
