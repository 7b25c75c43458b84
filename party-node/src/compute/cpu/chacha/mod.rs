//! ChaCha keystream (RFC 8439 layout), many blocks side by side: lane `l` of a vector belongs to block `l`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::dispatch::{Path, multiversion};
use crate::compute::Key;

/// Words of a block.
const BLOCK_WORDS: usize = 8;
/// Words of keystream that are made at a time where the stream is combined with something: 4 KiB stay in L1.
const PART_WORDS: usize = 512;

/// A keystream; `DOUBLE_ROUNDS` is 6 for ChaCha12.
pub(super) struct Stream<const DOUBLE_ROUNDS: usize> {
    path: Path,
    /// State of block 0 before the rounds.
    start: [u32; 16],
}

/// The stream of all masks.
pub(super) type ChaCha12 = Stream<6>;

impl<const DOUBLE_ROUNDS: usize> Stream<DOUBLE_ROUNDS> {
    pub(super) fn new(path: Path, key: &Key, nonce: [u32; 3]) -> Self {
        assert!(path <= Path::best(), "this machine has no {path}");
        let [k0, k1, k2, k3, k4, k5, k6, k7] = *key;
        let [n0, n1, n2] = nonce;
        let [c0, c1, c2, c3] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
        Self { path, start: [c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, 0, n0, n1, n2] }
    }

    /// Fills `out` with the stream from the start of block `first_block` on.
    pub(super) fn fill(&self, first_block: usize, out: &mut [u64]) {
        let blocks = first_block + out.len().div_ceil(BLOCK_WORDS);
        assert!(u32::try_from(blocks).is_ok(), "a stream is shorter than 256 GiB");
        let mut start = self.start;
        start[12] = u32::try_from(first_block).expect("checked above");
        match self.path {
            Path::Portable => fill_by::<_, { portable::BLOCKS }>(start, out, portable::fill::<DOUBLE_ROUNDS>),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => fill_by::<_, { avx2::BLOCKS }>(start, out, avx2::fill::<DOUBLE_ROUNDS>),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Amx => fill_by::<_, { avx512::BLOCKS }>(start, out, avx512::fill::<DOUBLE_ROUNDS>),
            #[cfg(not(target_arch = "x86_64"))]
            path => unreachable!("{path} is never detected here"),
        }
    }

    /// Makes at least so many bytes of the stream and stores none of them; how many it made.
    pub(super) fn in_registers(&self, bytes: usize) -> usize {
        let (blocks, run): (_, fn([u32; 16], usize)) = match self.path {
            Path::Portable => (portable::BLOCKS, portable::in_registers::<DOUBLE_ROUNDS>),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => (avx2::BLOCKS, avx2::in_registers::<DOUBLE_ROUNDS>),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Amx => (avx512::BLOCKS, avx512::in_registers::<DOUBLE_ROUNDS>),
            #[cfg(not(target_arch = "x86_64"))]
            path => unreachable!("{path} is never detected here"),
        };
        let each = 8 * BLOCK_WORDS * blocks as usize;
        let calls = bytes.div_ceil(each);
        run(self.start, calls);
        calls * each
    }

    /// `out += stream`, wrapping.
    pub(super) fn add(&self, out: &mut [u64]) {
        self.combine(out, add);
    }

    /// `out -= stream`, wrapping.
    pub(super) fn sub(&self, out: &mut [u64]) {
        self.combine(out, sub);
    }

    /// `out ^= stream`.
    pub(super) fn xor(&self, out: &mut [u64]) {
        self.combine(out, xor);
    }

    fn combine(&self, out: &mut [u64], with: fn(&mut [u64], &[u64])) {
        let mut part = [0; PART_WORDS];
        for (index, out) in out.chunks_mut(PART_WORDS).enumerate() {
            let part = &mut part[..out.len()];
            self.fill(index * (PART_WORDS / BLOCK_WORDS), part);
            with(out, part);
        }
    }
}

/// Fills `out` by a kernel that makes `BLOCKS` blocks (`WORDS` words) at a time.
fn fill_by<const WORDS: usize, const BLOCKS: u32>(
    mut start: [u32; 16],
    out: &mut [u64],
    kernel: fn([u32; 16], &mut [[u64; WORDS]]),
) {
    let (whole, rest) = out.as_chunks_mut::<WORDS>();
    kernel(start, whole);
    if !rest.is_empty() {
        let calls = u32::try_from(whole.len()).expect("fewer than 2^32 blocks");
        start[12] = start[12].wrapping_add(calls * BLOCKS);
        let mut words = [[0; WORDS]];
        kernel(start, &mut words);
        rest.copy_from_slice(&words[0][..rest.len()]);
    }
}

multiversion! {
    fn add(out: &mut [u64], stream: &[u64]) {
        for (out, stream) in out.iter_mut().zip(stream) {
            *out = out.wrapping_add(*stream);
        }
    }
}

multiversion! {
    fn sub(out: &mut [u64], stream: &[u64]) {
        for (out, stream) in out.iter_mut().zip(stream) {
            *out = out.wrapping_sub(*stream);
        }
    }
}

multiversion! {
    fn xor(out: &mut [u64], stream: &[u64]) {
        for (out, stream) in out.iter_mut().zip(stream) {
            *out ^= *stream;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The ChaCha20 block function of RFC 8439, section 2.3.2: key 00..1f, nonce 000000090000004a00000000, block 1.
    #[test]
    fn twenty_rounds_give_the_block_of_rfc_8439() {
        let key = std::array::from_fn(|i| {
            let first = u32::try_from(4 * i).unwrap();
            u32::from_le_bytes([first, first + 1, first + 2, first + 3].map(|byte| u8::try_from(byte).unwrap()))
        });
        let nonce = [0x0900_0000, 0x4a00_0000, 0];
        let want = [
            0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15, 0x50, 0x0f, 0xdd, 0x1f, 0xa3, 0x20, 0x71, 0xc4, //
            0xc7, 0xd1, 0xf4, 0xc7, 0x33, 0xc0, 0x68, 0x03, 0x04, 0x22, 0xaa, 0x9a, 0xc3, 0xd4, 0x6c, 0x4e, //
            0xd2, 0x82, 0x64, 0x46, 0x07, 0x9f, 0xaa, 0x09, 0x14, 0xc2, 0xd7, 0x05, 0xd9, 0x8b, 0x02, 0xa2, //
            0xb5, 0x12, 0x9c, 0xd1, 0xde, 0x16, 0x4e, 0xb9, 0xcb, 0xd0, 0x83, 0xe8, 0xa2, 0x50, 0x3c, 0x4e,
        ];
        for path in Path::available() {
            let mut block = [0; BLOCK_WORDS];
            Stream::<10>::new(path, &key, nonce).fill(1, &mut block);
            assert_eq!(bytes(&block), want, "{path}");
            let mut stream = [0; 5 * PART_WORDS];
            Stream::<10>::new(path, &key, nonce).fill(0, &mut stream);
            assert_eq!(bytes(&stream[BLOCK_WORDS..2 * BLOCK_WORDS]), want, "{path}");
        }
    }

    /// Zero key and nonce: the ChaCha12 vectors (256-bit key, IV 0, block 0) of the estream set.
    #[test]
    fn twelve_rounds_give_the_published_stream() {
        for path in Path::available() {
            let mut block = [0; BLOCK_WORDS];
            ChaCha12::new(path, &[0; 8], [0; 3]).fill(0, &mut block);
            let want = [0x9b, 0xf4, 0x9a, 0x6a, 0x07, 0x55, 0xf9, 0x53];
            assert_eq!(bytes(&block)[..8], want, "{path}");
        }
    }

    #[test]
    fn a_stream_may_start_at_any_block() {
        for path in Path::available() {
            let stream = ChaCha12::new(path, &[7; 8], [1, 2, 3]);
            let mut whole = vec![0; 40 * BLOCK_WORDS];
            stream.fill(0, &mut whole);
            for first in [1, 3, 15, 16, 17, 33] {
                let mut tail = vec![0; whole.len() - first * BLOCK_WORDS];
                stream.fill(first, &mut tail);
                assert_eq!(tail, whole[first * BLOCK_WORDS..], "{path}, block {first}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "shorter than 256 GiB")]
    fn a_counter_never_wraps() {
        ChaCha12::new(Path::Portable, &[0; 8], [0; 3]).fill(u32::MAX as usize, &mut [0; 9]);
    }
}
