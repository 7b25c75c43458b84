//! AVX-512 kernels: `vpmullq` multiplies eight words at once (one or two micro-operations on AMD, three on Intel).
#![allow(unsafe_code, reason = "vector loads and stores, and calls into AVX-512 code after detection")]

use std::arch::x86_64::*;

use super::super::dispatch::Path;
use super::pack::{View, Window};
use super::{Blocking, Kernel, Tile};

/// Results with at least this many rows go to [`Tall`].
pub(super) const TALL_ROWS_MIN: usize = 192;

/// 8 x 16 tiles: little waste on the batches of training.
#[derive(Clone, Copy)]
pub(super) struct Wide(());

/// 24 x 8 tiles: fewest loads per product where there are rows enough.
#[derive(Clone, Copy)]
pub(super) struct Tall(());

impl Wide {
    pub(super) fn new() -> Self {
        assert!(Path::best() >= Path::Avx512, "this machine has no AVX-512");
        Self(())
    }
}

impl Tall {
    pub(super) fn new() -> Self {
        assert!(Path::best() >= Path::Avx512, "this machine has no AVX-512");
        Self(())
    }
}

impl Kernel for Wide {
    type Session = ();
    const BLOCKING: Blocking = Blocking { mr: 8, nr: 16, mc: 192, kc: 256, nc: 2048, kc_step: 1 };

    fn row_width(self, rows: usize) -> usize {
        if rows <= 4 { 4 } else { 8 }
    }

    fn col_width(self, cols: usize) -> usize {
        if cols <= 8 { 8 } else { 16 }
    }

    fn session(self) {}

    fn pack_left(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        // SAFETY: a value of this type exists only where AVX-512 was detected.
        unsafe { pack(view, window, panel) }
    }

    fn pack_right(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        // SAFETY: a value of this type exists only where AVX-512 was detected.
        unsafe { pack(view, window, panel) }
    }

    fn multiply(self, (): &mut (), left: &[u64], right: &[u64], out: &mut [u64], tile: Tile) {
        // SAFETY: a value of this type exists only where AVX-512 was detected.
        unsafe {
            match (tile.row_width, tile.col_width) {
                (8, 16) => multiply::<8, 2>(left, right, out, tile),
                (8, 8) => multiply::<8, 1>(left, right, out, tile),
                (4, 16) => multiply::<4, 2>(left, right, out, tile),
                (4, 8) => multiply::<4, 1>(left, right, out, tile),
                size => unreachable!("no panels of {size:?}"),
            }
        }
    }
}

impl Kernel for Tall {
    type Session = ();
    const BLOCKING: Blocking = Blocking { mr: 24, nr: 8, mc: 192, kc: 256, nc: 2048, kc_step: 1 };

    fn row_width(self, rows: usize) -> usize {
        if rows <= 4 { 4 } else { rows.next_multiple_of(8) }
    }

    fn col_width(self, _cols: usize) -> usize {
        8
    }

    fn session(self) {}

    fn pack_left(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        // SAFETY: a value of this type exists only where AVX-512 was detected.
        unsafe { pack(view, window, panel) }
    }

    fn pack_right(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        // SAFETY: a value of this type exists only where AVX-512 was detected.
        unsafe { pack(view, window, panel) }
    }

    fn multiply(self, (): &mut (), left: &[u64], right: &[u64], out: &mut [u64], tile: Tile) {
        // SAFETY: a value of this type exists only where AVX-512 was detected.
        unsafe {
            match tile.row_width {
                24 => multiply::<24, 1>(left, right, out, tile),
                16 => multiply::<16, 1>(left, right, out, tile),
                8 => multiply::<8, 1>(left, right, out, tile),
                4 => multiply::<4, 1>(left, right, out, tile),
                size => unreachable!("no panel of {size} rows"),
            }
        }
    }
}

/// Adds the product of a left panel of `MR` rows and a right panel of `8 * NV` columns.
#[target_feature(enable = "avx512f,avx512dq")]
fn multiply<const MR: usize, const NV: usize>(left: &[u64], right: &[u64], out: &mut [u64], tile: Tile) {
    // The result is touched once, at the end: ask for it now.
    for row in 0..tile.rows {
        _mm_prefetch::<_MM_HINT_T0>(tile.row(row, out).as_ptr().cast());
    }
    let mut sums = [[_mm512_setzero_si512(); NV]; MR];
    for (left, right) in left.as_chunks::<MR>().0.iter().zip(right.as_chunks::<8>().0.chunks_exact(NV)) {
        let mut columns = [_mm512_setzero_si512(); NV];
        for (column, words) in columns.iter_mut().zip(right) {
            *column = load(words);
        }
        for (sums, &left) in sums.iter_mut().zip(left) {
            let left = _mm512_set1_epi64(left.cast_signed());
            for (sum, &column) in sums.iter_mut().zip(&columns) {
                *sum = _mm512_add_epi64(*sum, _mm512_mullo_epi64(left, column));
            }
        }
    }
    let whole = tile.cols == 8 * NV;
    for (row, sums) in sums.iter().enumerate().take(tile.rows) {
        let row = tile.row(row, out);
        if whole {
            for (words, &sum) in row.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
                store(words, _mm512_add_epi64(load(words), sum));
            }
        } else {
            for (words, &sum) in row.chunks_mut(8).zip(sums) {
                store_part(words, _mm512_add_epi64(load_part(words), sum));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(words: &[u64; 8]) -> __m512i {
    // SAFETY: the reference covers 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(words: &mut [u64; 8], value: __m512i) {
    // SAFETY: the reference covers 64 bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), value) }
}

/// One bit for each of the first eight elements.
#[inline]
fn mask(len: usize) -> __mmask8 {
    if len >= 8 { 0xff } else { (1 << len) - 1 }
}

/// The first eight words, zeros after the end.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_part(words: &[u64]) -> __m512i {
    // SAFETY: the mask leaves out what lies beyond the slice.
    unsafe { _mm512_maskz_loadu_epi64(mask(words.len()), words.as_ptr().cast()) }
}

/// Stores as many elements as the slice holds, at most eight.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_part(words: &mut [u64], value: __m512i) {
    // SAFETY: the mask leaves out what lies beyond the slice.
    unsafe { _mm512_mask_storeu_epi64(words.as_mut_ptr().cast(), mask(words.len()), value) }
}

/// How the summands of an operand are combined; a constant of the packing loops.
mod mix {
    /// `x`.
    pub(super) const X: u8 = 0;
    /// `kx * x`.
    pub(super) const SCALED_X: u8 = 1;
    /// `x + ky * y`.
    pub(super) const X_AND_SCALED_Y: u8 = 2;
    /// `kx * x + ky * y`.
    pub(super) const BOTH_SCALED: u8 = 3;
}

/// Fills `panel[i * width + o]` with element `(outer + o, inner + i)`.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn pack(view: View<'_>, window: Window, panel: &mut [u64]) {
    match (view.kx, view.y) {
        (1, None) => pack_mixed::<{ mix::X }>(view, window, panel),
        (_, None) => pack_mixed::<{ mix::SCALED_X }>(view, window, panel),
        (1, Some(_)) => pack_mixed::<{ mix::X_AND_SCALED_Y }>(view, window, panel),
        (_, Some(_)) => pack_mixed::<{ mix::BOTH_SCALED }>(view, window, panel),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn pack_mixed<const MIX: u8>(view: View<'_>, window: Window, panel: &mut [u64]) {
    let Window { outer, outers, width, inner, inners } = window;
    let kx = _mm512_set1_epi64(view.kx.cast_signed());
    let ky = _mm512_set1_epi64(view.ky.cast_signed());
    let mixed = |x: __m512i, y: __m512i| match MIX {
        mix::X => x,
        mix::SCALED_X => _mm512_mullo_epi64(kx, x),
        mix::X_AND_SCALED_Y => _mm512_add_epi64(x, _mm512_mullo_epi64(ky, y)),
        _ => _mm512_add_epi64(_mm512_mullo_epi64(kx, x), _mm512_mullo_epi64(ky, y)),
    };
    // Without a second summand `x` stands in for it; its load is dropped.
    let run = |slow: usize, fast: usize, len: usize| {
        let at = slow * view.stride + fast;
        (&view.x[at..at + len], &view.y.unwrap_or(view.x)[at..at + len])
    };
    match (view.outer_adjacent, outers == width && width.is_multiple_of(8)) {
        (true, true) => {
            for (i, line) in panel.chunks_exact_mut(width).take(inners).enumerate() {
                let (x, y) = run(inner + i, outer, width);
                let sources = x.as_chunks::<8>().0.iter().zip(y.as_chunks::<8>().0);
                for (to, (x, y)) in line.as_chunks_mut::<8>().0.iter_mut().zip(sources) {
                    store(to, mixed(load(x), load(y)));
                }
            }
        }
        (true, false) => {
            for (i, line) in panel.chunks_exact_mut(width).take(inners).enumerate() {
                let (x, y) = run(inner + i, outer, outers);
                for (at, to) in (0..).step_by(8).zip(line.chunks_mut(8)) {
                    let part = at.min(outers)..(at + 8).min(outers);
                    store_part(to, mixed(load_part(&x[part.clone()]), load_part(&y[part])));
                }
            }
        }
        (false, _) => {
            for o in (0..width).step_by(8) {
                let rows = outers.saturating_sub(o).min(8);
                let columns = (width - o).min(8);
                for i in (0..inners).step_by(8) {
                    let terms = (inners - i).min(8);
                    let mut block = [_mm512_setzero_si512(); 8];
                    if rows == 8 && terms == 8 {
                        for (r, row) in block.iter_mut().enumerate() {
                            let (x, y) = run(outer + o + r, inner + i, 8);
                            *row = mixed(load_part(x), load_part(y));
                        }
                    } else {
                        for (r, row) in block.iter_mut().enumerate().take(rows) {
                            let (x, y) = run(outer + o + r, inner + i, terms);
                            *row = mixed(load_part(x), load_part(y));
                        }
                    }
                    let lines = panel[i * width + o..].chunks_mut(width).take(terms);
                    if columns == 8 {
                        for (line, value) in lines.zip(transpose(block)) {
                            store(line.first_chunk_mut().expect("eight columns"), value);
                        }
                    } else {
                        for (line, value) in lines.zip(transpose(block)) {
                            store_part(&mut line[..columns], value);
                        }
                    }
                }
            }
        }
    }
}

/// The 8 x 8 transpose: lane `j` of result `i` is lane `i` of argument `j`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: [__m512i; 8]) -> [__m512i; 8] {
    let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
    let gather = |a: __m512i, b: __m512i, c: __m512i, d: __m512i| -> [__m512i; 4] {
        let (ab_02, ab_13) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
        let (cd_02, cd_13) = (_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xdd>(c, d));
        [
            _mm512_shuffle_i64x2::<0x88>(ab_02, cd_02),
            _mm512_shuffle_i64x2::<0x88>(ab_13, cd_13),
            _mm512_shuffle_i64x2::<0xdd>(ab_02, cd_02),
            _mm512_shuffle_i64x2::<0xdd>(ab_13, cd_13),
        ]
    };
    let low = |a: __m512i, b: __m512i| _mm512_unpacklo_epi64(a, b);
    let high = |a: __m512i, b: __m512i| _mm512_unpackhi_epi64(a, b);
    let [e0, e1, e2, e3] = gather(low(r0, r1), low(r2, r3), low(r4, r5), low(r6, r7));
    let [o0, o1, o2, o3] = gather(high(r0, r1), high(r2, r3), high(r4, r5), high(r6, r7));
    [e0, o0, e1, o1, e2, o2, e3, o3]
}
