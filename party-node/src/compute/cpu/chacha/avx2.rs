//! Eight blocks at a time; turns by 16 and 8 bits are byte shuffles.
#![allow(unsafe_code, reason = "vector stores, and calls into AVX2 code after detection")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::dispatch::Path;

/// Blocks per round of the loop.
pub(super) const BLOCKS: u32 = 8;

/// Fills `out` from the block in `start` on.
pub(super) fn fill<const DOUBLE_ROUNDS: usize>(start: [u32; 16], out: &mut [[u64; 64]]) {
    assert!(Path::best() >= Path::Avx2, "this machine has no AVX2");
    // SAFETY: just checked.
    unsafe { fill_detected::<DOUBLE_ROUNDS>(start, out) }
}

/// A quarter round. A macro, so that the indices are constants and the state stays in registers.
macro_rules! quarter_round {
    ($state:ident, $a:literal, $b:literal, $c:literal, $d:literal) => {
        $state[$a] = _mm256_add_epi32($state[$a], $state[$b]);
        $state[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($state[$d], $state[$a]), bytes_by_16());
        $state[$c] = _mm256_add_epi32($state[$c], $state[$d]);
        $state[$b] = turn::<12, 20>(_mm256_xor_si256($state[$b], $state[$c]));
        $state[$a] = _mm256_add_epi32($state[$a], $state[$b]);
        $state[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($state[$d], $state[$a]), bytes_by_8());
        $state[$c] = _mm256_add_epi32($state[$c], $state[$d]);
        $state[$b] = turn::<7, 25>(_mm256_xor_si256($state[$b], $state[$c]));
    };
}

#[target_feature(enable = "avx2")]
fn fill_detected<const DOUBLE_ROUNDS: usize>(start: [u32; 16], out: &mut [[u64; 64]]) {
    let mut first = spread(start);
    for words in out {
        store_blocks(blocks::<DOUBLE_ROUNDS>(&first), words);
        first[12] = _mm256_add_epi32(first[12], _mm256_set1_epi32(8));
    }
}

/// Makes as many blocks as `calls` rounds of the loop and leaves them in registers.
pub(super) fn in_registers<const DOUBLE_ROUNDS: usize>(start: [u32; 16], calls: usize) {
    assert!(Path::best() >= Path::Avx2, "this machine has no AVX2");
    // SAFETY: just checked.
    unsafe { in_registers_detected::<DOUBLE_ROUNDS>(start, calls) }
}

#[target_feature(enable = "avx2")]
fn in_registers_detected<const DOUBLE_ROUNDS: usize>(start: [u32; 16], calls: usize) {
    let mut first = spread(start);
    for _ in 0..calls {
        for word in blocks::<DOUBLE_ROUNDS>(&first) {
            // SAFETY: no instruction at all; the compiler must have the word in a register here.
            unsafe { asm!("/* {0} */", in(ymm_reg) word, options(nomem, nostack, preserves_flags)) };
        }
        first[12] = _mm256_add_epi32(first[12], _mm256_set1_epi32(8));
    }
}

/// The state in front of the rounds: lane `l` belongs to the `l`-th block from `start` on.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(start: [u32; 16]) -> [__m256i; 16] {
    let mut first = [_mm256_setzero_si256(); 16];
    for (first, word) in first.iter_mut().zip(start) {
        *first = _mm256_set1_epi32(word.cast_signed());
    }
    first[12] = _mm256_add_epi32(first[12], _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
    first
}

/// The words of eight blocks.
#[inline]
#[target_feature(enable = "avx2")]
fn blocks<const DOUBLE_ROUNDS: usize>(first: &[__m256i; 16]) -> [__m256i; 16] {
    let mut state = *first;
    for _ in 0..DOUBLE_ROUNDS {
        quarter_round!(state, 0, 4, 8, 12);
        quarter_round!(state, 1, 5, 9, 13);
        quarter_round!(state, 2, 6, 10, 14);
        quarter_round!(state, 3, 7, 11, 15);
        quarter_round!(state, 0, 5, 10, 15);
        quarter_round!(state, 1, 6, 11, 12);
        quarter_round!(state, 2, 7, 8, 13);
        quarter_round!(state, 3, 4, 9, 14);
    }
    for (state, &first) in state.iter_mut().zip(first) {
        *state = _mm256_add_epi32(*state, first);
    }
    state
}

/// The byte shuffle that turns every word by 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes_by_16() -> __m256i {
    let [low, high] = [0x0504_0706_0100_0302, 0x0d0c_0f0e_0908_0b0a];
    _mm256_set_epi64x(high, low, high, low)
}

/// The byte shuffle that turns every word left by 8 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes_by_8() -> __m256i {
    let [low, high] = [0x0605_0407_0201_0003, 0x0e0d_0c0f_0a09_080b];
    _mm256_set_epi64x(high, low, high, low)
}

/// Turns every word left by `LEFT = 32 - RIGHT` bits.
#[inline]
#[target_feature(enable = "avx2")]
fn turn<const LEFT: i32, const RIGHT: i32>(words: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(words), _mm256_srli_epi32::<RIGHT>(words))
}

/// Stores lane `l` of all sixteen words as block `l`.
#[inline]
#[target_feature(enable = "avx2")]
fn store_blocks(state: [__m256i; 16], words: &mut [u64; 64]) {
    // `quads[g][j]`: in 128-bit half `h` the words `4 g .. 4 g + 4` of block `4 h + j`.
    let mut quads = [[_mm256_setzero_si256(); 4]; 4];
    for (quads, state) in quads.iter_mut().zip(state.as_chunks::<4>().0) {
        let [w0, w1, w2, w3] = *state;
        let (low_01, high_01) = (_mm256_unpacklo_epi32(w0, w1), _mm256_unpackhi_epi32(w0, w1));
        let (low_23, high_23) = (_mm256_unpacklo_epi32(w2, w3), _mm256_unpackhi_epi32(w2, w3));
        *quads = [
            _mm256_unpacklo_epi64(low_01, low_23),
            _mm256_unpackhi_epi64(low_01, low_23),
            _mm256_unpacklo_epi64(high_01, high_23),
            _mm256_unpackhi_epi64(high_01, high_23),
        ];
    }
    let halves = words.as_chunks_mut::<4>().0;
    for j in 0..4 {
        for (pair, at) in [(0, 0), (2, 1)] {
            let (x, y) = (quads[pair][j], quads[pair + 1][j]);
            store(&mut halves[2 * j + at], _mm256_permute2x128_si256::<0x20>(x, y));
            store(&mut halves[2 * (4 + j) + at], _mm256_permute2x128_si256::<0x31>(x, y));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(words: &mut [u64; 4], value: __m256i) {
    // SAFETY: the reference covers 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), value) }
}
