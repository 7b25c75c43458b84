//! The AVX2 kernel. There is no 64-bit multiply: `vpmuludq` gives the product of the low halves, `vpmulld` of one factor
//! with the halves of the other exchanged gives both cross products, which are summed apart and added once at the end.
#![allow(unsafe_code, reason = "vector loads and stores, and calls into AVX2 code after detection")]

use std::arch::x86_64::*;

use super::super::dispatch::Path;
use super::pack::{View, Window, pack_plain};
use super::{Blocking, Kernel, Tile};

/// 6 x 4 tiles: 12 of 16 registers hold sums.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Self {
        assert!(Path::best() >= Path::Avx2, "this machine has no AVX2");
        Self(())
    }
}

impl Kernel for Avx2 {
    type Session = ();
    const BLOCKING: Blocking = Blocking { mr: 6, nr: 4, mc: 192, kc: 256, nc: 1024, kc_step: 1 };

    fn row_width(self, rows: usize) -> usize {
        if rows <= 2 { 2 } else { rows.next_multiple_of(3) }
    }

    fn col_width(self, _cols: usize) -> usize {
        4
    }

    fn session(self) {}

    fn pack_left(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        pack_plain(view, window, panel);
    }

    fn pack_right(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        pack_plain(view, window, panel);
    }

    fn multiply(self, (): &mut (), left: &[u64], right: &[u64], out: &mut [u64], tile: Tile) {
        // SAFETY: a value of this type exists only where AVX2 was detected.
        unsafe {
            match tile.row_width {
                6 => multiply::<6>(left, right, out, tile),
                3 => multiply::<3>(left, right, out, tile),
                2 => multiply::<2>(left, right, out, tile),
                size => unreachable!("no panel of {size} rows"),
            }
        }
    }
}

/// Adds the product of a left panel of `MR` rows and a right panel of 4 columns.
#[target_feature(enable = "avx2")]
fn multiply<const MR: usize>(left: &[u64], right: &[u64], out: &mut [u64], tile: Tile) {
    let mut low = [_mm256_setzero_si256(); MR];
    let mut cross = [_mm256_setzero_si256(); MR];
    for (left, right) in left.as_chunks::<MR>().0.iter().zip(right.as_chunks::<4>().0) {
        let column = load(right);
        let exchanged = _mm256_shuffle_epi32::<0b10_11_00_01>(column);
        for ((low, cross), &left) in low.iter_mut().zip(&mut cross).zip(left) {
            let left = _mm256_set1_epi64x(left.cast_signed());
            *low = _mm256_add_epi64(*low, _mm256_mul_epu32(left, column));
            *cross = _mm256_add_epi32(*cross, _mm256_mullo_epi32(left, exchanged));
        }
    }
    for (row, (&low, &cross)) in low.iter().zip(&cross).enumerate().take(tile.rows) {
        let cross = _mm256_add_epi32(cross, _mm256_srli_epi64::<32>(cross));
        let sum = _mm256_add_epi64(low, _mm256_slli_epi64::<32>(cross));
        let row = tile.row(row, out);
        if let Some(words) = row.first_chunk_mut::<4>() {
            store(words, _mm256_add_epi64(load(words), sum));
        } else {
            let mut sums = [0; 4];
            store(&mut sums, sum);
            for (out, sum) in row.iter_mut().zip(sums) {
                *out = out.wrapping_add(sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(words: &[u64; 4]) -> __m256i {
    // SAFETY: the reference covers 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(words: &mut [u64; 4], value: __m256i) {
    // SAFETY: the reference covers 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), value) }
}
