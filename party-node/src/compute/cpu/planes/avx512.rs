//! Byte `b` of 64 words gathered into one vector; then one `vptestmb` reads one plane of it.
#![allow(unsafe_code, reason = "vector loads, and calls into AVX-512 code after detection")]

use std::arch::x86_64::*;

use super::super::dispatch::Path;
use super::Planes;

/// Turns bits `low .. low + 32` of each group.
pub(super) fn turn(groups: &[[u64; 64]], low: usize, planes: &mut Planes) {
    assert!(Path::best() >= Path::Avx512, "this machine has no AVX-512");
    // SAFETY: just checked.
    unsafe { turn_detected(groups, low, planes) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn turn_detected(groups: &[[u64; 64]], low: usize, planes: &mut Planes) {
    let by = _mm512_set1_epi64(i64::try_from(low).expect("below 64"));
    let shifted = |words: &[u64; 8]| _mm512_srlv_epi64(load(words), by);
    let low_halves = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    // In each 128-bit lane: the lowest byte of its four words, then the second bytes, ...
    let by_byte = _mm512_broadcast_i32x4(_mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0));
    for (index, group) in groups.iter().enumerate() {
        let mut bytes = [_mm512_setzero_si512(); 4];
        for (bytes, [first, second]) in bytes.iter_mut().zip(group.as_chunks::<8>().0.as_chunks::<2>().0) {
            let halves = _mm512_permutex2var_epi32(shifted(first), low_halves, shifted(second));
            *bytes = _mm512_shuffle_epi8(halves, by_byte);
        }
        let planes = planes.as_chunks_mut::<8>().0;
        for (planes, bytes) in planes.iter_mut().zip(exchange(bytes)) {
            for (plane, bit) in planes.iter_mut().zip(0..) {
                plane[index] = _mm512_test_epi8_mask(bytes, _mm512_set1_epi8(1i8.rotate_left(bit)));
            }
        }
    }
}

/// From vectors of 16 words, bytes grouped in each lane, to vectors that hold one byte of all 64 words in order.
#[inline]
#[target_feature(enable = "avx512f")]
fn exchange([w0, w1, w2, w3]: [__m512i; 4]) -> [__m512i; 4] {
    let (low_01, high_01) = (_mm512_unpacklo_epi32(w0, w1), _mm512_unpackhi_epi32(w0, w1));
    let (low_23, high_23) = (_mm512_unpacklo_epi32(w2, w3), _mm512_unpackhi_epi32(w2, w3));
    // Now lane `l` holds four bytes of each argument; argument `a` belongs into lane `a`.
    let lanes = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    [
        _mm512_permutexvar_epi32(lanes, _mm512_unpacklo_epi64(low_01, low_23)),
        _mm512_permutexvar_epi32(lanes, _mm512_unpackhi_epi64(low_01, low_23)),
        _mm512_permutexvar_epi32(lanes, _mm512_unpacklo_epi64(high_01, high_23)),
        _mm512_permutexvar_epi32(lanes, _mm512_unpackhi_epi64(high_01, high_23)),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(words: &[u64; 8]) -> __m512i {
    // SAFETY: the reference covers 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}
