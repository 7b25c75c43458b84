//! AMX: ring products by the int8 matrix tiles.
//!
//! A word is eight unsigned bytes ("limbs"), and `a b = sum over i + j <= 7 of a_i b_j 2^(8 (i + j))` mod 2^64: 36 of the
//! 64 limb products count. `tdpbuud` sums 64 byte products into each of 16 x 16 dwords; the products of one diagonal
//! `s = i + j` share a sum. Diagonals 4 to 7 matter mod 2^32 only; diagonal `s < 4` of `k` terms stays below
//! `(s + 1) k 255^2`, which is below 2^32 up to 16512 terms, far above [`KC`].
#![allow(unsafe_code, reason = "tile instructions have no stable intrinsics; vector loads and stores")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::dispatch::Path;
use super::avx512;
use super::pack::{View, Window};
use super::{Blocking, Kernel, Tile};

/// Terms summed in a tile before the result is touched.
const KC: usize = 512;
const _: () = assert!(4 * KC * 255 * 255 < 1 << 32, "the sums of a diagonal fit into 32 bits");
/// Rows (left) or columns (right) of a tile.
const SIDE: usize = 16;
/// Terms of a tile.
const TERMS: usize = 64;
const LIMBS: usize = 8;
/// Products of limbs that a product of words takes.
const LIMB_PRODUCTS: usize = LIMBS * (LIMBS + 1) / 2;
/// Blocks of terms whose limb tiles, for two by two tiles, stay in L1 while all diagonals pass over them.
const CHUNK_BLOCKS: usize = 2;
/// Words of an operand tile before it is cut into limbs, as many as its eight limb tiles fill.
const TILE_WORDS: usize = SIDE * TERMS;
const TILE_BYTES: usize = SIDE * TERMS;

/// Asks the system for the tile registers; whether they may be used from now on.
#[cfg(target_os = "linux")]
pub(in super::super) fn enable() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    const AMX_TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    let leaves = __cpuid(0).eax;
    if leaves < 7 || __cpuid_count(7, 0).edx & AMX_TILE_AND_INT8 != AMX_TILE_AND_INT8 {
        return false;
    }
    // SAFETY: this call takes two numbers and touches no memory of ours. Kernels before 5.16 answer with an error.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Only Linux is known to hand out the tile registers.
#[cfg(not(target_os = "linux"))]
pub(in super::super) fn enable() -> bool {
    false
}

/// Whether tiles beat `vpmullq` on this shape. They are about three times as fast but work on whole tiles: measured on
/// thin shapes, the two meet where padding makes the work 2.7 times as large.
pub(super) fn pays(rows: usize, terms: usize, cols: usize) -> bool {
    let padded = rows.next_multiple_of(SIDE) * terms.next_multiple_of(TERMS) * cols.next_multiple_of(SIDE);
    2 * padded <= 5 * rows * terms * cols
}

/// 32 x 32 tiles of the result: two by two sums, two left and two right tiles fill the eight tile registers.
#[derive(Clone, Copy)]
pub(super) struct Amx(());

impl Amx {
    pub(super) fn new() -> Self {
        assert!(Path::best() >= Path::Amx, "this machine has no AMX");
        Self(())
    }
}

/// Configured tiles, and the tile of the result whose sums wait to be added.
pub(super) struct Session {
    held_back: Option<Tile>,
    /// Which of the thread's two [`SUMS`] the next tile takes.
    next: usize,
    _tiles: ConfiguredTiles,
}

/// The sums of one pair of 16-wide tiles, columns in the order of [`split_right`].
type TileSums = [[u32; SIDE]; SIDE];

/// `sums[diagonal][row tile * column tiles + column tile]`.
#[repr(C, align(64))]
struct Sums([[TileSums; 4]; LIMBS]);

thread_local! {
    /// Sums of two tiles of the result: one is worked on while the other is added to the result.
    static SUMS: RefCell<Box<[Sums; 2]>> =
        RefCell::new(Box::new([const { Sums([[[[0; SIDE]; SIDE]; 4]; LIMBS]) }; 2]));
}

/// Tile registers set up as 16 rows of 64 bytes each; given back when dropped, so that the system need not save them.
/// They belong to a thread: neither `Send` nor `Sync`.
struct ConfiguredTiles(PhantomData<*mut ()>);

impl ConfiguredTiles {
    fn new(_detected: Amx) -> Self {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        // SAFETY: `Amx` exists only where the tiles may be used; the operand is the 64-byte block that is asked for.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Self(PhantomData)
    }
}

impl Drop for ConfiguredTiles {
    fn drop(&mut self) {
        // SAFETY: `new` configured the tiles of this thread.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

impl Kernel for Amx {
    type Session = Session;
    const BLOCKING: Blocking = Blocking { mr: 32, nr: 32, mc: 192, kc: KC, nc: 1024, kc_step: TERMS };

    fn row_width(self, rows: usize) -> usize {
        rows.next_multiple_of(SIDE)
    }

    fn col_width(self, cols: usize) -> usize {
        cols.next_multiple_of(SIDE)
    }

    fn session(self) -> Session {
        Session { held_back: None, next: 0, _tiles: ConfiguredTiles::new(self) }
    }

    fn pack_left(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        // SAFETY: a value of this type exists only where AVX-512 with VBMI was detected.
        unsafe { pack_left(view, window, panel) }
    }

    fn pack_right(self, view: View<'_>, window: Window, panel: &mut [u64]) {
        // SAFETY: a value of this type exists only where AVX-512 with VBMI was detected.
        unsafe { pack_right(view, window, panel) }
    }

    fn multiply(self, session: &mut Session, left: &[u64], right: &[u64], out: &mut [u64], tile: Tile) {
        SUMS.with_borrow_mut(|sums| {
            let [first, second] = &mut **sums;
            let (sums, previous) = if session.next == 0 { (first, &*second) } else { (second, &*first) };
            let previous = session.held_back.map(|tile| (previous, tile));
            // SAFETY: a value of this type exists only where AVX-512 and AMX were detected; the session configured tiles.
            unsafe {
                match (tile.row_width, tile.col_width) {
                    (32, 32) => multiply::<2, 2>(left, right, sums, previous, out),
                    (32, 16) => multiply::<2, 1>(left, right, sums, previous, out),
                    (16, 32) => multiply::<1, 2>(left, right, sums, previous, out),
                    (16, 16) => multiply::<1, 1>(left, right, sums, previous, out),
                    size => unreachable!("no panels of {size:?}"),
                }
            }
        });
        session.held_back = Some(tile);
        session.next = 1 - session.next;
    }

    fn finish(self, session: &mut Session, out: &mut [u64]) {
        if let Some(tile) = session.held_back.take() {
            // SAFETY: a value of this type exists only where AVX-512 was detected.
            SUMS.with_borrow(|sums| unsafe { add_sums(&sums[1 - session.next], tile, 0..tile.rows, out) });
        }
    }
}

/// At least so many multiply-adds of ones, all in tile registers; how many there were, as their sums tell.
pub(in super::super) fn multiply_ones(count: usize) -> u64 {
    let _tiles = ConfiguredTiles::new(Amx::new());
    let (ones, mut sums) = ([1_u8; TILE_BYTES], [[[0_u32; SIDE]; SIDE]; 4]);
    // A step is four products of tiles; 36 products of bytes make one of words.
    let steps = (count * LIMB_PRODUCTS).div_ceil(4 * SIDE * SIDE * TERMS).max(1);
    // SAFETY: the tiles are configured; each load reads the 1 KiB of `ones`, each store fills one array of `sums`.
    unsafe {
        asm!(
            "tileloadd tmm4, [{ones} + {row}]",
            "tileloadd tmm5, [{ones} + {row}]",
            "tileloadd tmm6, [{ones} + {row}]",
            "tileloadd tmm7, [{ones} + {row}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tdpbuud tmm0, tmm4, tmm6",
            "tdpbuud tmm1, tmm4, tmm7",
            "tdpbuud tmm2, tmm5, tmm6",
            "tdpbuud tmm3, tmm5, tmm7",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 1024], tmm1",
            "tilestored [{sums} + {row} + 2048], tmm2",
            "tilestored [{sums} + {row} + 3072], tmm3",
            ones = in(reg) ones.as_ptr(),
            sums = in(reg) sums.as_mut_ptr(),
            row = in(reg) 64_u64,
            steps = inout(reg) steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    let products: u64 = sums.as_flattened().as_flattened().iter().map(|&sum| u64::from(sum)).sum();
    products / LIMB_PRODUCTS as u64
}

/// Packs a panel of rows: per block of 64 terms and limb, one tile for each 16 rows, `tile[row][term]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi")]
fn pack_left(view: View<'_>, window: Window, panel: &mut [u64]) {
    let tiles = window.width / SIDE;
    let mut words = [0; TILE_WORDS];
    for (block, limbs) in panel.chunks_exact_mut(tiles * TILE_WORDS).enumerate() {
        for tile in 0..tiles {
            let rows = window.outers.saturating_sub(tile * SIDE).min(SIDE);
            let part = Window {
                outer: window.inner + block * TERMS,
                outers: (window.inners - block * TERMS).min(TERMS),
                width: TERMS,
                inner: window.outer + tile * SIDE,
                inners: rows,
            };
            avx512::pack(view.flipped(), part, &mut words);
            words[rows * TERMS..].fill(0);
            split_left(&words, tiles, &mut limbs[tile * TILE_BYTES / 8..]);
        }
    }
}

/// Packs a panel of columns: per block of 64 terms and limb, one tile for each 16 columns,
/// `tile[term / 4][column][term % 4]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi")]
fn pack_right(view: View<'_>, window: Window, panel: &mut [u64]) {
    let tiles = window.width / SIDE;
    let mut words = [0; TILE_WORDS];
    for (block, limbs) in panel.chunks_exact_mut(tiles * TILE_WORDS).enumerate() {
        let terms = (window.inners - block * TERMS).min(TERMS);
        for tile in 0..tiles {
            let part = Window {
                outer: window.outer + tile * SIDE,
                outers: window.outers.saturating_sub(tile * SIDE).min(SIDE),
                width: SIDE,
                inner: window.inner + block * TERMS,
                inners: terms,
            };
            avx512::pack(view, part, &mut words);
            words[terms * SIDE..].fill(0);
            split_right(&words, tiles, &mut limbs[tile * TILE_BYTES / 8..]);
        }
    }
}

/// Cuts `words[row][term]` into limb tiles `tiles` tiles apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn split_left(words: &[u64; TILE_WORDS], tiles: usize, limbs: &mut [u64]) {
    // Byte `8 l + w` of the result is limb `l` of word `w`.
    let by_limb = _mm512_set_epi64(
        0x3f37_2f27_1f17_0f07,
        0x3e36_2e26_1e16_0e06,
        0x3d35_2d25_1d15_0d05,
        0x3c34_2c24_1c14_0c04,
        0x3b33_2b23_1b13_0b03,
        0x3a32_2a22_1a12_0a02,
        0x3931_2921_1911_0901,
        0x3830_2820_1810_0800,
    );
    for (row, words) in words.as_chunks::<TERMS>().0.iter().enumerate() {
        let mut eights = [_mm512_setzero_si512(); 8];
        for (eight, words) in eights.iter_mut().zip(words.as_chunks::<8>().0) {
            *eight = _mm512_permutexvar_epi8(by_limb, avx512::load(words));
        }
        for (limb, bytes) in avx512::transpose(eights).into_iter().enumerate() {
            avx512::store(line(limbs, limb * tiles, row), bytes);
        }
    }
}

/// Cuts `words[term][column]` into limb tiles `tiles` tiles apart. In a tile, column `c < 8` is dword `2 c` and column
/// `8 + c` dword `2 c + 1`: the order in which sums are widened without a shuffle.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split_right(words: &[u64; TILE_WORDS], tiles: usize, limbs: &mut [u64]) {
    for (row, words) in words.as_chunks::<{ 4 * SIDE }>().0.iter().enumerate() {
        // Of four terms and eight columns: in 128-bit lane `l` the limbs of column `2 l` (even) or `2 l + 1` (odd), as
        // dwords of four terms; limbs 0 to 3, then limbs 4 to 7.
        let quads = |half: usize| {
            let eights = words.as_chunks::<8>().0;
            let term = |term: usize| avx512::load(&eights[2 * term + half]);
            let (t0, t1, t2, t3) = (term(0), term(1), term(2), term(3));
            let (even_01, odd_01) = (_mm512_unpacklo_epi8(t0, t1), _mm512_unpackhi_epi8(t0, t1));
            let (even_23, odd_23) = (_mm512_unpacklo_epi8(t2, t3), _mm512_unpackhi_epi8(t2, t3));
            [
                [_mm512_unpacklo_epi16(even_01, even_23), _mm512_unpacklo_epi16(odd_01, odd_23)],
                [_mm512_unpackhi_epi16(even_01, even_23), _mm512_unpackhi_epi16(odd_01, odd_23)],
            ]
        };
        let (low_columns, high_columns) = (quads(0), quads(1));
        for part in 0..2 {
            let [[even_0, odd_0], [even_8, odd_8]] = [low_columns[part], high_columns[part]];
            let (even_01, even_23) = (_mm512_unpacklo_epi32(even_0, even_8), _mm512_unpackhi_epi32(even_0, even_8));
            let (odd_01, odd_23) = (_mm512_unpacklo_epi32(odd_0, odd_8), _mm512_unpackhi_epi32(odd_0, odd_8));
            let four = [
                _mm512_unpacklo_epi64(even_01, odd_01),
                _mm512_unpackhi_epi64(even_01, odd_01),
                _mm512_unpacklo_epi64(even_23, odd_23),
                _mm512_unpackhi_epi64(even_23, odd_23),
            ];
            for (limb, bytes) in (4 * part..).zip(four) {
                avx512::store(line(limbs, limb * tiles, row), bytes);
            }
        }
    }
}

/// Row `row` (64 bytes) of tile `tile`.
#[inline(always)]
fn line(limbs: &mut [u64], tile: usize, row: usize) -> &mut [u64; 8] {
    &mut limbs[tile * TILE_BYTES / 8..].as_chunks_mut::<8>().0[row]
}

/// Sums the product of a panel of `R` row tiles and one of `C` column tiles, and adds the sums of the `previous` tile.
///
/// The panels are taken in chunks; sums go on from chunk to chunk. Diagonals walk over a chunk to and fro, so that each finds
/// in L1 what the one before read last. The previous sums are added in slices between the diagonals: while the tile unit
/// works off its queue, the vector units have nothing else to do.
#[target_feature(enable = "avx512f,avx512dq")]
fn multiply<const R: usize, const C: usize>(
    left: &[u64],
    right: &[u64],
    sums: &mut Sums,
    previous: Option<(&Sums, Tile)>,
    out: &mut [u64],
) {
    let blocks = left.len() / (R * TILE_WORDS);
    assert!(left.len() == blocks * R * TILE_WORDS && right.len() == blocks * C * TILE_WORDS && blocks > 0);
    let lefts = left.chunks(R * TILE_WORDS * CHUNK_BLOCKS);
    let rights = right.chunks(C * TILE_WORDS * CHUNK_BLOCKS);
    for (chunk, (left, right)) in lefts.zip(rights).enumerate() {
        for (diagonal, sums) in sums.0.iter_mut().enumerate() {
            let resume = chunk > 0;
            // SAFETY: a `Session`, without which nothing calls this, configured the tiles; the panels were checked above.
            unsafe {
                if diagonal % 2 == 0 {
                    sum_diagonal::<R, C, false>(left, right, diagonal, resume, sums);
                } else {
                    sum_diagonal::<R, C, true>(left, right, diagonal, resume, sums);
                }
            }
            if let (0, Some((sums, tile))) = (chunk, previous) {
                let slice = tile.rows.div_ceil(LIMBS);
                let rows = (diagonal * slice).min(tile.rows)..((diagonal + 1) * slice).min(tile.rows);
                add_sums(sums, tile, rows, out);
            }
        }
    }
}

/// The loops of [`sum_diagonal`] around the steps for one number of tiles: over blocks of terms, over limbs.
macro_rules! sum_diagonal_by {
    (sums [$($sum:literal at $offset:literal),*], step [$($step:literal),* $(,)?], $($operands:tt)*) => {
        asm!(
            $(concat!("tilezero ", $sum),)*
            "test {resume:e}, {resume:e}",
            "jz 2f",
            $(concat!("tileloadd ", $sum, ", [{sums} + {row} + ", $offset, "]"),)*
            "2:",
            "mov {l}, {left}",
            "mov {r}, {right}",
            "mov {limb:e}, {limbs:e}",
            "3:",
            $($step,)*
            "add {l}, {left_tile}",
            "add {r}, {right_tile}",
            "dec {limb:e}",
            "jnz 3b",
            "add {left}, {left_block}",
            "add {right}, {right_block}",
            "dec {blocks}",
            "jnz 2b",
            $(concat!("tilestored [{sums} + {row} + ", $offset, "], ", $sum),)*
            $($operands)*
        )
    };
}

/// Sums one diagonal: limb `i` of the left factor meets limb `diagonal - i` of the right one. Goes on from `sums` with
/// `resume`.
///
/// # Safety
/// The tiles must be configured, and the panels hold the same number of blocks.
unsafe fn sum_diagonal<const R: usize, const C: usize, const BACKWARD: bool>(
    left: &[u64],
    right: &[u64],
    diagonal: usize,
    resume: bool,
    sums: &mut [TileSums; 4],
) {
    let blocks = left.len() / (R * TILE_WORDS);
    let (left_block, right_block) = (R * TILE_WORDS, C * TILE_WORDS);
    let (left_tile, right_tile) = (R * TILE_BYTES / 8, C * TILE_BYTES / 8);
    let (left_start, right_start) = if BACKWARD {
        ((blocks - 1) * left_block + diagonal * left_tile, (blocks - 1) * right_block)
    } else {
        (0, diagonal * right_tile)
    };
    let (left, right) = (left[left_start..].as_ptr(), right[right_start..].as_ptr());
    macro_rules! with_operands {
        ($($sums_and_steps:tt)*) => {
            // SAFETY: the caller configured the tiles. Tile loads read 1 KiB each: on the left the first `diagonal + 1`
            // limbs of each block, `R` tiles each, on the right as many limbs down from limb `diagonal`, `C` tiles each, so
            // they stay inside the blocks. Sums are stored to and loaded from the four tiles of `sums`.
            unsafe {
                sum_diagonal_by!(
                    $($sums_and_steps)*,
                    left = inout(reg) left => _,
                    right = inout(reg) right => _,
                    blocks = inout(reg) blocks => _,
                    limbs = in(reg) diagonal + 1,
                    resume = in(reg) u32::from(resume),
                    row = in(reg) 64_u64,
                    sums = in(reg) sums.as_mut_ptr(),
                    l = out(reg) _,
                    r = out(reg) _,
                    limb = out(reg) _,
                    left_tile = const step(R * TILE_BYTES, BACKWARD),
                    right_tile = const step(C * TILE_BYTES, !BACKWARD),
                    left_block = const step(R * TILE_BYTES * LIMBS, BACKWARD),
                    right_block = const step(C * TILE_BYTES * LIMBS, BACKWARD),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            }
        };
    }
    match (R, C) {
        (2, 2) => with_operands!(
            sums ["tmm0" at "0", "tmm1" at "1024", "tmm2" at "2048", "tmm3" at "3072"],
            step [
                "tileloadd tmm4, [{l} + {row}]",
                "tileloadd tmm6, [{r} + {row}]",
                "tdpbuud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{r} + {row} + 1024]",
                "tdpbuud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{l} + {row} + 1024]",
                "tdpbuud tmm2, tmm5, tmm6",
                "tdpbuud tmm3, tmm5, tmm7",
            ]
        ),
        (2, 1) => with_operands!(
            sums ["tmm0" at "0", "tmm2" at "1024"],
            step [
                "tileloadd tmm4, [{l} + {row}]",
                "tileloadd tmm6, [{r} + {row}]",
                "tdpbuud tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{l} + {row} + 1024]",
                "tdpbuud tmm2, tmm5, tmm6",
            ]
        ),
        (1, 2) => with_operands!(
            sums ["tmm0" at "0", "tmm1" at "1024"],
            step [
                "tileloadd tmm4, [{l} + {row}]",
                "tileloadd tmm6, [{r} + {row}]",
                "tdpbuud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{r} + {row} + 1024]",
                "tdpbuud tmm1, tmm4, tmm7",
            ]
        ),
        (1, 1) => with_operands!(
            sums ["tmm0" at "0"],
            step [
                "tileloadd tmm4, [{l} + {row}]",
                "tileloadd tmm6, [{r} + {row}]",
                "tdpbuud tmm0, tmm4, tmm6",
            ]
        ),
        _ => unreachable!("tiles come in ones and twos"),
    }
}

/// A distance in bytes, negative on the way back.
const fn step(bytes: usize, backward: bool) -> i32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a few blocks of 16 KiB")]
    let bytes = bytes as i32;
    if backward { -bytes } else { bytes }
}

/// Adds sums to some rows of a tile of the result.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_sums(sums: &Sums, tile: Tile, rows: Range<usize>, out: &mut [u64]) {
    let col_tiles = tile.col_width / SIDE;
    for row in rows {
        for (col_tile, out) in tile.row(row, out).chunks_mut(SIDE).enumerate() {
            let (index, row) = (row / SIDE * col_tiles + col_tile, row % SIDE);
            let mut diagonals = [_mm512_setzero_si512(); LIMBS];
            for (to, tiles) in diagonals.iter_mut().zip(&sums.0) {
                *to = load_sums(&tiles[index][row]);
            }
            let (low, high) = joined(diagonals);
            if let Some([first, second]) = out.as_chunks_mut::<8>().0.first_chunk_mut::<2>() {
                avx512::store(first, _mm512_add_epi64(avx512::load(first), low));
                avx512::store(second, _mm512_add_epi64(avx512::load(second), high));
            } else {
                let (first, second) = out.split_at_mut(out.len().min(8));
                avx512::store_part(first, _mm512_add_epi64(avx512::load_part(first), low));
                avx512::store_part(second, _mm512_add_epi64(avx512::load_part(second), high));
            }
        }
    }
}

/// `sum over s of sums[s] * 2^(8 s)`: columns 0 to 7 come from the even dwords, columns 8 to 15 from the odd ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined([s0, s1, s2, s3, s4, s5, s6, s7]: [__m512i; LIMBS]) -> (__m512i, __m512i) {
    // From diagonal 4 on, 32 bits are all that is left.
    let high = _mm512_add_epi32(
        _mm512_add_epi32(s4, _mm512_slli_epi32::<8>(s5)),
        _mm512_add_epi32(_mm512_slli_epi32::<16>(s6), _mm512_slli_epi32::<24>(s7)),
    );
    let join = |[s0, s1, s2, s3]: [__m512i; 4], high: __m512i| {
        let low = _mm512_add_epi64(s0, _mm512_slli_epi64::<8>(s1));
        let middle = _mm512_add_epi64(_mm512_slli_epi64::<16>(s2), _mm512_slli_epi64::<24>(s3));
        _mm512_add_epi64(_mm512_add_epi64(low, middle), high)
    };
    let even = |sum: __m512i| _mm512_and_si512(sum, _mm512_set1_epi64(0xffff_ffff));
    let odd = |sum: __m512i| _mm512_srli_epi64::<32>(sum);
    let upper = _mm512_set1_epi64(0xffff_ffff_0000_0000_u64.cast_signed());
    (
        join([even(s0), even(s1), even(s2), even(s3)], _mm512_slli_epi64::<32>(high)),
        join([odd(s0), odd(s1), odd(s2), odd(s3)], _mm512_and_si512(high, upper)),
    )
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_sums(sums: &[u32; SIDE]) -> __m512i {
    // SAFETY: the reference covers 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
}
