//! Packed matrix products: one blocked loop nest, one small kernel per instruction set.
//!
//! The loops follow Goto and van de Geijn ("Anatomy of High-Performance Matrix Multiplication", 2008): the right factor
//! is packed into panels that stay in the outer caches, the left one into panels for L2, and a kernel multiplies one
//! pair of panels into a tile of the result held in registers. Linear combinations are formed while packing.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
mod portable;

use std::cell::RefCell;

use rayon::ThreadPool;
use rayon::prelude::*;

use self::pack::{View, Window};
use super::dispatch::Path;
use crate::compute::Operand;

/// Fewer multiplications than this do not pay for waking a second thread: 50 us with AMX, 170 us with AVX-512.
const PARALLEL_MULTIPLICATIONS_MIN: usize = 1 << 21;

/// `out += a * b` by the kernels of `path`.
pub(super) fn gemm(path: Path, pool: Option<&ThreadPool>, a: &Operand<'_>, b: &Operand<'_>, out: &mut [u64]) {
    check_shapes(a, b, out);
    let pool = pool.filter(|_| a.rows * a.cols * b.cols >= PARALLEL_MULTIPLICATIONS_MIN);
    match path {
        Path::Portable => run(portable::Portable, pool, a, b, out),
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => run(avx2::Avx2::new(), pool, a, b, out),
        #[cfg(target_arch = "x86_64")]
        Path::Amx if amx::pays(a.rows, a.cols, b.cols) => run(amx::Amx::new(), pool, a, b, out),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 | Path::Amx if a.rows < avx512::TALL_ROWS_MIN => run(avx512::Wide::new(), pool, a, b, out),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 | Path::Amx => run(avx512::Tall::new(), pool, a, b, out),
        #[cfg(not(target_arch = "x86_64"))]
        path => unreachable!("{path} is never detected here"),
    }
}

fn check_shapes(a: &Operand<'_>, b: &Operand<'_>, out: &[u64]) {
    assert_eq!(a.cols, b.rows, "inner dimensions of a product");
    assert_eq!(out.len(), a.rows * b.cols, "elements of a product");
    for operand in [a, b] {
        assert_eq!(operand.x.len(), operand.rows * operand.cols, "elements of an operand");
        assert!(operand.y.is_none_or(|y| y.len() == operand.x.len()), "summands of an operand differ in length");
    }
}

/// Tile and cache block sizes of a kernel, in elements.
struct Blocking {
    /// Rows of a left panel.
    mr: usize,
    /// Columns of a right panel.
    nr: usize,
    /// Rows of the left block that stays in L2.
    mc: usize,
    /// Terms summed before the result is touched.
    kc: usize,
    /// Columns of the right block that stays in L3.
    nc: usize,
    /// Panels are padded with zeros to a multiple of this many terms.
    kc_step: usize,
}

/// A kernel multiplies one packed pair of panels. Panels hold one word per element in an order of the kernel's choice.
trait Kernel: Copy + Send + Sync {
    /// What a thread holds while it multiplies.
    type Session;
    const BLOCKING: Blocking;

    /// Padded height of a panel that has `rows <= mr` rows left to cover.
    fn row_width(self, rows: usize) -> usize;
    /// Padded width of a panel that has `cols <= nr` columns left to cover.
    fn col_width(self, cols: usize) -> usize;
    fn session(self) -> Self::Session;
    fn pack_left(self, view: View<'_>, window: Window, panel: &mut [u64]);
    fn pack_right(self, view: View<'_>, window: Window, panel: &mut [u64]);
    /// Adds the product of two panels to `tile` of `out`, or holds it back until the next call or [`Kernel::finish`].
    fn multiply(self, session: &mut Self::Session, left: &[u64], right: &[u64], out: &mut [u64], tile: Tile);
    /// Adds what was held back.
    fn finish(self, _session: &mut Self::Session, _out: &mut [u64]) {}
}

/// A rectangle of a block of the result.
#[derive(Clone, Copy)]
struct Tile {
    /// Index of its first element.
    start: usize,
    stride: usize,
    rows: usize,
    cols: usize,
    /// Height of the left panel, `>= rows`.
    row_width: usize,
    /// Width of the right panel, `>= cols`.
    col_width: usize,
}

impl Tile {
    /// A row of this tile in the block `out`.
    #[inline(always)]
    fn row(self, row: usize, out: &mut [u64]) -> &mut [u64] {
        &mut out[self.start + row * self.stride..][..self.cols]
    }
}

/// Scratch memory that a thread keeps between products, so that the steady state allocates nothing.
#[derive(Default)]
struct Scratch(Vec<u64>);

impl Scratch {
    /// `len` words, the first on a cache line of its own. Contents are whatever was left there.
    fn words(&mut self, len: usize) -> &mut [u64] {
        const LINE_BYTES: usize = 64;
        if self.0.len() < len + LINE_BYTES / 8 {
            self.0.resize(len + LINE_BYTES / 8, 0);
        }
        let start = self.0.as_ptr().align_offset(LINE_BYTES);
        &mut self.0[start..start + len]
    }
}

thread_local! {
    static LEFT: RefCell<Scratch> = RefCell::default();
    static RIGHT: RefCell<Scratch> = RefCell::default();
}

/// `len` cut into equal parts of at most `max`, rounded up to a multiple of `step`.
fn even_part(len: usize, max: usize, step: usize) -> usize {
    len.div_ceil(len.div_ceil(max)).next_multiple_of(step)
}

fn run<K: Kernel>(kernel: K, pool: Option<&ThreadPool>, a: &Operand<'_>, b: &Operand<'_>, out: &mut [u64]) {
    let (rows, terms, cols) = (a.rows, a.cols, b.cols);
    if rows == 0 || terms == 0 || cols == 0 {
        return;
    }
    let Blocking { mr, nr, mc, kc, nc, kc_step } = K::BLOCKING;
    let (left, right) = (View::left(a), View::right(b));
    let kc = even_part(terms, kc, kc_step);
    let nc = even_part(cols, nc, nr);
    let threads = pool.map_or(1, ThreadPool::current_num_threads);
    let mc = even_part(rows, mc.min(rows.div_ceil(threads)), mr);
    RIGHT.with_borrow_mut(|scratch| {
        for col in (0..cols).step_by(nc) {
            let block_cols = nc.min(cols - col);
            for term in (0..terms).step_by(kc) {
                let block_terms = kc.min(terms - term);
                let padded_terms = block_terms.next_multiple_of(kc_step);
                let panels = scratch.words(block_cols.next_multiple_of(nr) * padded_terms);
                let pack = |(index, panel): (usize, &mut [u64])| {
                    let outers = nr.min(block_cols - index * nr);
                    let width = kernel.col_width(outers);
                    let window = Window { outer: col + index * nr, outers, width, inner: term, inners: block_terms };
                    kernel.pack_right(right, window, &mut panel[..width * padded_terms]);
                };
                let multiply = |panels: &[u64], (index, out): (usize, &mut [u64])| {
                    let block = Block { first_row: index * mc, col, block_cols, term, block_terms, padded_terms };
                    multiply_rows(kernel, left, panels, block, cols, out);
                };
                match pool {
                    None => {
                        panels.chunks_mut(nr * padded_terms).enumerate().for_each(pack);
                        out.chunks_mut(mc * cols).enumerate().for_each(|rows| multiply(panels, rows));
                    }
                    Some(pool) => pool.install(|| {
                        panels.par_chunks_mut(nr * padded_terms).enumerate().for_each(pack);
                        let panels = &*panels;
                        out.par_chunks_mut(mc * cols).enumerate().for_each(|rows| multiply(panels, rows));
                    }),
                }
            }
        }
    });
}

/// A block of rows of the result and the terms to add to it.
#[derive(Clone, Copy)]
struct Block {
    first_row: usize,
    col: usize,
    block_cols: usize,
    term: usize,
    block_terms: usize,
    padded_terms: usize,
}

/// Adds one block of terms to the rows in `out`, all of them `stride` words long.
fn multiply_rows<K: Kernel>(
    kernel: K,
    left: View<'_>,
    right_panels: &[u64],
    block: Block,
    stride: usize,
    out: &mut [u64],
) {
    let Blocking { mr, nr, .. } = K::BLOCKING;
    let Block { first_row, col, block_cols, term, block_terms, padded_terms } = block;
    let rows = out.len() / stride;
    let mut session = kernel.session();
    LEFT.with_borrow_mut(|scratch| {
        let left_panels = scratch.words(rows.next_multiple_of(mr) * padded_terms);
        for (index, panel) in left_panels.chunks_exact_mut(mr * padded_terms).enumerate() {
            let outers = mr.min(rows - index * mr);
            let width = kernel.row_width(outers);
            let window = Window { outer: first_row + index * mr, outers, width, inner: term, inners: block_terms };
            kernel.pack_left(left, window, &mut panel[..width * padded_terms]);
        }
        for (right_index, right_panel) in right_panels.chunks_exact(nr * padded_terms).enumerate() {
            let tile_cols = nr.min(block_cols - right_index * nr);
            let col_width = kernel.col_width(tile_cols);
            for (left_index, left_panel) in left_panels.chunks_exact(mr * padded_terms).enumerate() {
                let tile_rows = mr.min(rows - left_index * mr);
                let row_width = kernel.row_width(tile_rows);
                let tile = Tile {
                    start: left_index * mr * stride + col + right_index * nr,
                    stride,
                    rows: tile_rows,
                    cols: tile_cols,
                    row_width,
                    col_width,
                };
                let left_panel = &left_panel[..row_width * padded_terms];
                kernel.multiply(&mut session, left_panel, &right_panel[..col_width * padded_terms], out, tile);
            }
        }
        kernel.finish(&mut session, out);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::conformance::words;

    /// Runs a product on every kernel of this machine, whether or not it would be picked for the shape.
    fn on_every_kernel(a: &Operand<'_>, b: &Operand<'_>, check: impl Fn(&str, &[u64])) {
        let product = |run: &dyn Fn(&mut [u64])| {
            let mut out = vec![0; a.rows * b.cols];
            run(&mut out);
            out
        };
        check("portable", &product(&|out| run(portable::Portable, None, a, b, out)));
        #[cfg(target_arch = "x86_64")]
        {
            if Path::best() >= Path::Avx2 {
                check("avx2", &product(&|out| run(avx2::Avx2::new(), None, a, b, out)));
            }
            if Path::best() >= Path::Avx512 {
                check("avx512 wide", &product(&|out| run(avx512::Wide::new(), None, a, b, out)));
                check("avx512 tall", &product(&|out| run(avx512::Tall::new(), None, a, b, out)));
            }
            if Path::best() >= Path::Amx {
                check("amx", &product(&|out| run(amx::Amx::new(), None, a, b, out)));
            }
        }
    }

    fn plain(x: &[u64], rows: usize, cols: usize) -> Operand<'_> {
        Operand { x, y: None, kx: 1, ky: 0, rows, cols, transposed: false }
    }

    /// The product in 128-bit integers, cut at the end.
    fn wide_product(a: &[u64], b: &[u64], [rows, terms, cols]: [usize; 3]) -> Vec<u64> {
        let element = |i: usize, j: usize| {
            let products = (0..terms).map(|k| u128::from(a[i * terms + k]) * u128::from(b[k * cols + j]));
            products.fold(0, u128::wrapping_add)
        };
        let cut = |sum: u128| u64::try_from(sum & u128::from(u64::MAX)).expect("64 bits");
        (0..rows * cols).map(|at| cut(element(at / cols, at % cols))).collect()
    }

    /// Numbers of terms around every block size, and more than a tile's 32-bit sums can hold at once.
    const TERMS: [usize; 14] = [1, 2, 63, 64, 65, 127, 128, 129, 192, 511, 512, 513, 1025, 17_000];

    fn check_pattern(fill: impl Fn(u64, usize) -> Vec<u64>) {
        for terms in TERMS {
            for [rows, cols] in [[3, 5], [17, 33]] {
                if rows * terms * cols > 2_000_000 {
                    continue;
                }
                let (x, y) = (fill(1, rows * terms), fill(2, terms * cols));
                let want = wide_product(&x, &y, [rows, terms, cols]);
                on_every_kernel(&plain(&x, rows, terms), &plain(&y, terms, cols), |kernel, got| {
                    assert!(got == want, "{kernel}: {rows} x {terms} x {cols}");
                });
            }
        }
    }

    #[test]
    fn products_of_random_words_are_exact() {
        check_pattern(words);
    }

    #[test]
    fn products_of_all_ones_are_exact() {
        check_pattern(|_, len| vec![u64::MAX; len]);
    }

    #[test]
    fn products_of_alternating_bytes_are_exact() {
        check_pattern(|seed, len| vec![if seed == 1 { 0x00ff_00ff_00ff_00ff } else { 0xff00_ff00_ff00_ff00 }; len]);
        check_pattern(|seed, len| {
            (0..len).map(|at| if at % 2 == 0 { 0xaaaa_aaaa_aaaa_aaaa } else { 1 << (at as u64 * seed % 64) }).collect()
        });
    }

    #[test]
    fn every_small_shape_is_exact_on_every_kernel() {
        for rows in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 25, 33] {
            for cols in [1, 4, 7, 8, 9, 15, 16, 17, 24, 31, 33, 40] {
                for terms in [1, 8, 43, 70] {
                    let (x, y) = (words(1, rows * terms), words(2, terms * cols));
                    let want = wide_product(&x, &y, [rows, terms, cols]);
                    on_every_kernel(&plain(&x, rows, terms), &plain(&y, terms, cols), |kernel, got| {
                        assert!(got == want, "{kernel}: {rows} x {terms} x {cols}");
                    });
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "inner dimensions")]
    fn shapes_that_do_not_fit_are_refused() {
        gemm(Path::Portable, None, &plain(&[1, 2], 1, 2), &plain(&[1, 2, 3], 3, 1), &mut [0]);
    }

    #[test]
    #[should_panic(expected = "elements of an operand")]
    fn short_operands_are_refused() {
        gemm(Path::Portable, None, &plain(&[1, 2], 1, 3), &plain(&[1, 2, 3], 3, 1), &mut [0]);
    }
}
