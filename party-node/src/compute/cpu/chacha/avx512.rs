//! Sixteen blocks at a time; `vprold` turns a whole vector of words.
#![allow(unsafe_code, reason = "vector stores, and calls into AVX-512 code after detection")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::dispatch::Path;

/// Blocks per round of the loop.
pub(super) const BLOCKS: u32 = 16;

/// Fills `out` from the block in `start` on.
pub(super) fn fill<const DOUBLE_ROUNDS: usize>(start: [u32; 16], out: &mut [[u64; 128]]) {
    assert!(Path::best() >= Path::Avx512, "this machine has no AVX-512");
    // SAFETY: just checked.
    unsafe { fill_detected::<DOUBLE_ROUNDS>(start, out) }
}

/// A quarter round. A macro, so that the indices are constants and the state stays in registers.
macro_rules! quarter_round {
    ($state:ident, $a:literal, $b:literal, $c:literal, $d:literal) => {
        $state[$a] = _mm512_add_epi32($state[$a], $state[$b]);
        $state[$d] = _mm512_rol_epi32::<16>(_mm512_xor_si512($state[$d], $state[$a]));
        $state[$c] = _mm512_add_epi32($state[$c], $state[$d]);
        $state[$b] = _mm512_rol_epi32::<12>(_mm512_xor_si512($state[$b], $state[$c]));
        $state[$a] = _mm512_add_epi32($state[$a], $state[$b]);
        $state[$d] = _mm512_rol_epi32::<8>(_mm512_xor_si512($state[$d], $state[$a]));
        $state[$c] = _mm512_add_epi32($state[$c], $state[$d]);
        $state[$b] = _mm512_rol_epi32::<7>(_mm512_xor_si512($state[$b], $state[$c]));
    };
}

#[target_feature(enable = "avx512f")]
fn fill_detected<const DOUBLE_ROUNDS: usize>(start: [u32; 16], out: &mut [[u64; 128]]) {
    let mut first = spread(start);
    for words in out {
        store_blocks(blocks::<DOUBLE_ROUNDS>(&first), words);
        first[12] = _mm512_add_epi32(first[12], _mm512_set1_epi32(16));
    }
}

/// Makes as many blocks as `calls` rounds of the loop and leaves them in registers.
pub(super) fn in_registers<const DOUBLE_ROUNDS: usize>(start: [u32; 16], calls: usize) {
    assert!(Path::best() >= Path::Avx512, "this machine has no AVX-512");
    // SAFETY: just checked.
    unsafe { in_registers_detected::<DOUBLE_ROUNDS>(start, calls) }
}

#[target_feature(enable = "avx512f")]
fn in_registers_detected<const DOUBLE_ROUNDS: usize>(start: [u32; 16], calls: usize) {
    let mut first = spread(start);
    for _ in 0..calls {
        for word in blocks::<DOUBLE_ROUNDS>(&first) {
            // SAFETY: no instruction at all; the compiler must have the word in a register here.
            unsafe { asm!("/* {0} */", in(zmm_reg) word, options(nomem, nostack, preserves_flags)) };
        }
        first[12] = _mm512_add_epi32(first[12], _mm512_set1_epi32(16));
    }
}

/// The state in front of the rounds: lane `l` belongs to the `l`-th block from `start` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread(start: [u32; 16]) -> [__m512i; 16] {
    let mut first = [_mm512_setzero_si512(); 16];
    for (first, word) in first.iter_mut().zip(start) {
        *first = _mm512_set1_epi32(word.cast_signed());
    }
    let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    first[12] = _mm512_add_epi32(first[12], lanes);
    first
}

/// The words of sixteen blocks.
#[inline]
#[target_feature(enable = "avx512f")]
fn blocks<const DOUBLE_ROUNDS: usize>(first: &[__m512i; 16]) -> [__m512i; 16] {
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
        *state = _mm512_add_epi32(*state, first);
    }
    state
}

/// Stores lane `l` of all sixteen words as block `l`: a 16 x 16 transpose.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_blocks(state: [__m512i; 16], words: &mut [u64; 128]) {
    // `quads[g][j]`: in 128-bit lane `l` the words `4 g .. 4 g + 4` of block `4 l + j`.
    let mut quads = [[_mm512_setzero_si512(); 4]; 4];
    for (quads, state) in quads.iter_mut().zip(state.as_chunks::<4>().0) {
        let [w0, w1, w2, w3] = *state;
        let (low_01, high_01) = (_mm512_unpacklo_epi32(w0, w1), _mm512_unpackhi_epi32(w0, w1));
        let (low_23, high_23) = (_mm512_unpacklo_epi32(w2, w3), _mm512_unpackhi_epi32(w2, w3));
        *quads = [
            _mm512_unpacklo_epi64(low_01, low_23),
            _mm512_unpackhi_epi64(low_01, low_23),
            _mm512_unpacklo_epi64(high_01, high_23),
            _mm512_unpackhi_epi64(high_01, high_23),
        ];
    }
    let blocks = words.as_chunks_mut::<8>().0;
    for j in 0..4 {
        let [q0, q1, q2, q3] = [quads[0][j], quads[1][j], quads[2][j], quads[3][j]];
        let (low_01, high_01) = (_mm512_shuffle_i32x4::<0x44>(q0, q1), _mm512_shuffle_i32x4::<0xee>(q0, q1));
        let (low_23, high_23) = (_mm512_shuffle_i32x4::<0x44>(q2, q3), _mm512_shuffle_i32x4::<0xee>(q2, q3));
        store(&mut blocks[j], _mm512_shuffle_i32x4::<0x88>(low_01, low_23));
        store(&mut blocks[4 + j], _mm512_shuffle_i32x4::<0xdd>(low_01, low_23));
        store(&mut blocks[8 + j], _mm512_shuffle_i32x4::<0x88>(high_01, high_23));
        store(&mut blocks[12 + j], _mm512_shuffle_i32x4::<0xdd>(high_01, high_23));
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(words: &mut [u64; 8], value: __m512i) {
    // SAFETY: the reference covers 64 bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), value) }
}
