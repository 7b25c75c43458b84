//! Packed matrix products: one blocked loop nest, one small kernel per instruction set.
//!
//! The loops follow Goto and van de Geijn ("Anatomy of High-Performance Matrix Multiplication", 2008): the right factor
//! is packed into panels that stay in the outer caches, the left one into panels for L2, and a kernel multiplies one
//! pair of panels into a tile of the result held in registers. Linear combinations are formed while packing. A left
//! factor need not exist: it can be gathered piece by piece while it is packed; and a result can be scattered likewise.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
mod portable;

use std::cell::RefCell;
use std::ops::Range;

use rayon::ThreadPool;
use rayon::prelude::*;

pub(super) use self::pack::View;
use self::pack::Window;
use super::dispatch::Path;
use crate::compute::Operand;

/// Fewer multiplications than this do not pay for waking a second thread: 50 us with AMX, 170 us with AVX-512.
pub(super) const PARALLEL_MULTIPLICATIONS_MIN: usize = 1 << 21;

/// Words of a left factor that are gathered at a time: they wait in L2 until they are packed.
const GATHERED_WORDS_MAX: usize = 1 << 15;

/// Words of a product that wait in L2 until they are scattered.
const SCATTERED_WORDS_MAX: usize = 1 << 16;

/// `out += a * b` by the kernels of `path`.
pub(super) fn gemm(path: Path, pool: Option<&ThreadPool>, a: &Operand<'_>, b: &Operand<'_>, out: &mut [u64]) {
    check_shapes(a, b, out);
    let (left, right) = (Left::Stored(View::left(a)), View::right(b));
    let product = Product { rows: a.rows, terms: a.cols, cols: b.cols, left, right };
    product.add_to(path, pool, Target::Rows { out, stride: b.cols, first_col: 0 });
}

/// Two factors to be multiplied.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) rows: usize,
    pub(super) terms: usize,
    pub(super) cols: usize,
    pub(super) left: Left<'a>,
    pub(super) right: View<'a>,
}

/// A left factor.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// It lies in memory.
    Stored(View<'a>),
    /// Its rows are gathered when they are needed.
    Rows(&'a dyn Gather),
    /// Its columns are gathered when they are needed: it is the transpose.
    Columns(&'a dyn Gather),
}

/// A matrix that exists in pieces only.
pub(super) trait Gather: Sync {
    /// Distance between the rows of a piece that is `cols` columns wide.
    fn stride(&self, cols: usize) -> usize;
    /// Fills row-major `to`, whose rows are [`Gather::stride`] apart, with the rows and columns asked for.
    fn gather(&self, rows: Range<usize>, cols: Range<usize>, to: &mut [u64]);
}

/// Where the rows of a product go.
pub(super) enum Target<'a> {
    /// They are added to rows of `stride` words, from column `first_col` on.
    Rows { out: &'a mut [u64], stride: usize, first_col: usize },
    /// Each `part_rows` of them are added to `part_words` words, wherever `scatter` says.
    Parts { out: &'a mut [u64], part_rows: usize, part_words: usize, scatter: &'a dyn Scatter },
}

/// Adds pieces of a product to a part of a result.
pub(super) trait Scatter: Sync {
    /// Adds row-major `products`. Rows count from the first one of the part.
    fn add(&self, rows: Range<usize>, cols: Range<usize>, products: &[u64], part: &mut [u64]);
}

impl Product<'_> {
    /// Adds the product to `target` by the kernels of `path`.
    pub(super) fn add_to(&self, path: Path, pool: Option<&ThreadPool>, target: Target<'_>) {
        let pool = pool.filter(|_| self.multiplications() >= PARALLEL_MULTIPLICATIONS_MIN);
        match taken(path, self.rows, self.terms, self.cols) {
            Path::Portable => run(portable::Portable, pool, self, target),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => run(avx2::Avx2::new(), pool, self, target),
            #[cfg(target_arch = "x86_64")]
            Path::Amx => run(amx::Amx::new(), pool, self, target),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 if self.rows < avx512::TALL_ROWS_MIN => run(avx512::Wide::new(), pool, self, target),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => run(avx512::Tall::new(), pool, self, target),
            #[cfg(not(target_arch = "x86_64"))]
            path => unreachable!("{path} is never detected here"),
        }
    }

    pub(super) fn multiplications(&self) -> usize {
        self.rows * self.terms * self.cols
    }
}

/// Whose instructions multiply factors of this shape where those of `path` are at hand.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables, reason = "there is nothing to choose from"))]
pub(super) fn taken(path: Path, rows: usize, terms: usize, cols: usize) -> Path {
    match path {
        #[cfg(target_arch = "x86_64")]
        Path::Amx if !amx::pays(rows, terms, cols) => Path::Avx512,
        path => path,
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
pub(super) struct Scratch(Vec<u64>);

impl Scratch {
    /// `len` words, the first on a cache line of its own. Contents are whatever was left there.
    pub(super) fn words(&mut self, len: usize) -> &mut [u64] {
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
    static GATHERED: RefCell<Scratch> = RefCell::default();
    static SCATTERED: RefCell<Scratch> = RefCell::default();
}

/// `len` cut into equal parts of at most `max`, rounded up to a multiple of `step`.
fn even_part(len: usize, max: usize, step: usize) -> usize {
    len.div_ceil(len.div_ceil(max)).next_multiple_of(step)
}

fn run<K: Kernel>(kernel: K, pool: Option<&ThreadPool>, product: &Product<'_>, target: Target<'_>) {
    let Product { rows, terms, cols, left, right } = *product;
    if rows == 0 || terms == 0 || cols == 0 {
        return;
    }
    let Blocking { mr, nr, mc, kc, nc, kc_step } = K::BLOCKING;
    let kc = even_part(terms, kc, kc_step);
    let nc = even_part(cols, nc, nr);
    let threads = pool.map_or(1, ThreadPool::current_num_threads);
    // As many blocks for each thread as for any other.
    let mc_even = rows.div_ceil(rows.div_ceil(mc).next_multiple_of(threads)).next_multiple_of(mr);
    let (out, part_words, place) = match target {
        Target::Rows { out, stride, first_col } => (out, mc_even * stride, Place::Rows { stride, first_col }),
        Target::Parts { out, part_rows, part_words, scatter } => {
            let mc = even_part(part_rows, mc.min(SCATTERED_WORDS_MAX / nc).max(mr), mr);
            (out, part_words, Place::Parts { part_rows, mc, scatter })
        }
    };
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
                let multiply = |panels: &[u64], (index, part): (usize, &mut [u64])| {
                    let block = Block { first_row: 0, block_cols, term, block_terms, padded_terms };
                    match place {
                        Place::Rows { stride, first_col } => {
                            let block = Block { first_row: index * mc_even, ..block };
                            multiply_rows(kernel, left, panels, block, [stride, first_col + col], part);
                        }
                        Place::Parts { part_rows, mc, scatter } => SCATTERED.with_borrow_mut(|scratch| {
                            let part_rows = index * part_rows..((index + 1) * part_rows).min(rows);
                            for first_row in part_rows.clone().step_by(mc) {
                                let block_rows = mc.min(part_rows.end - first_row);
                                let products = scratch.words(block_rows * block_cols);
                                products.fill(0);
                                multiply_rows(
                                    kernel,
                                    left,
                                    panels,
                                    Block { first_row, ..block },
                                    [block_cols, 0],
                                    products,
                                );
                                let row = first_row - part_rows.start;
                                scatter.add(row..row + block_rows, col..col + block_cols, products, part);
                            }
                        }),
                    }
                };
                match pool {
                    None => {
                        panels.chunks_mut(nr * padded_terms).enumerate().for_each(pack);
                        out.chunks_mut(part_words).enumerate().for_each(|part| multiply(panels, part));
                    }
                    Some(pool) => pool.install(|| {
                        panels.par_chunks_mut(nr * padded_terms).enumerate().for_each(pack);
                        let panels = &*panels;
                        out.par_chunks_mut(part_words).enumerate().for_each(|part| multiply(panels, part));
                    }),
                }
            }
        }
    });
}

/// A [`Target`] without its memory.
#[derive(Clone, Copy)]
enum Place<'a> {
    Rows { stride: usize, first_col: usize },
    Parts { part_rows: usize, mc: usize, scatter: &'a dyn Scatter },
}

/// A block of the product: columns whose right panels are at hand, and the terms to add to it.
#[derive(Clone, Copy)]
struct Block {
    first_row: usize,
    block_cols: usize,
    term: usize,
    block_terms: usize,
    padded_terms: usize,
}

/// Adds one block of terms to the rows in `out`, all of them `stride` words long, from column `first_col` on.
fn multiply_rows<K: Kernel>(
    kernel: K,
    left: Left<'_>,
    right_panels: &[u64],
    block: Block,
    [stride, first_col]: [usize; 2],
    out: &mut [u64],
) {
    let Blocking { mr, nr, .. } = K::BLOCKING;
    let Block { first_row, block_cols, padded_terms, .. } = block;
    let rows = out.len() / stride;
    let mut session = kernel.session();
    LEFT.with_borrow_mut(|scratch| {
        let left_panels = scratch.words(rows.next_multiple_of(mr) * padded_terms);
        pack_left_panels(kernel, left, block, first_row..first_row + rows, left_panels);
        for (right_index, right_panel) in right_panels.chunks_exact(nr * padded_terms).enumerate() {
            let tile_cols = nr.min(block_cols - right_index * nr);
            let col_width = kernel.col_width(tile_cols);
            for (left_index, left_panel) in left_panels.chunks_exact(mr * padded_terms).enumerate() {
                let tile_rows = mr.min(rows - left_index * mr);
                let row_width = kernel.row_width(tile_rows);
                let tile = Tile {
                    start: left_index * mr * stride + first_col + right_index * nr,
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

/// Packs `rows` of the left factor, if need be gathering a few panels at a time.
fn pack_left_panels<K: Kernel>(kernel: K, left: Left<'_>, block: Block, rows: Range<usize>, panels: &mut [u64]) {
    let Block { term, block_terms, padded_terms, .. } = block;
    let mr = K::BLOCKING.mr;
    let pack = |view: View<'_>, rows: Range<usize>, inner: usize, panels: &mut [u64]| {
        for (outer, panel) in rows.clone().step_by(mr).zip(panels.chunks_exact_mut(mr * padded_terms)) {
            let outers = mr.min(rows.end - outer);
            let width = kernel.row_width(outers);
            let window = Window { outer, outers, width, inner, inners: block_terms };
            kernel.pack_left(view, window, &mut panel[..width * padded_terms]);
        }
    };
    let (source, outer_adjacent) = match left {
        Left::Stored(view) => return pack(view, rows, term, panels),
        Left::Rows(source) => (source, false),
        Left::Columns(source) => (source, true),
    };
    let step = (GATHERED_WORDS_MAX / (mr * padded_terms)).max(1) * mr;
    for (first, panels) in rows.clone().step_by(step).zip(panels.chunks_mut(step * padded_terms)) {
        let outers = first..(first + step).min(rows.end);
        let terms = term..term + block_terms;
        let (rows, cols) = if outer_adjacent { (terms, outers.clone()) } else { (outers.clone(), terms) };
        let stride = source.stride(cols.len());
        GATHERED.with_borrow_mut(|scratch| {
            let gathered = scratch.words(rows.len() * stride);
            source.gather(rows, cols, gathered);
            let view = View { x: gathered, y: None, kx: 1, ky: 0, stride, outer_adjacent };
            pack(view, 0..outers.len(), 0, panels);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::conformance::words;

    /// Runs a product on every kernel of this machine, whether or not it would be picked for the shape.
    fn on_every_kernel(a: &Operand<'_>, b: &Operand<'_>, check: impl Fn(&str, &[u64])) {
        let (left, right) = (Left::Stored(View::left(a)), View::right(b));
        let factors = Product { rows: a.rows, terms: a.cols, cols: b.cols, left, right };
        let product = |run: &dyn Fn(&Product<'_>, Target<'_>)| {
            let mut out = vec![0; a.rows * b.cols];
            run(&factors, Target::Rows { out: &mut out, stride: b.cols, first_col: 0 });
            out
        };
        check("portable", &product(&|factors, target| run(portable::Portable, None, factors, target)));
        #[cfg(target_arch = "x86_64")]
        {
            if Path::best() >= Path::Avx2 {
                check("avx2", &product(&|factors, target| run(avx2::Avx2::new(), None, factors, target)));
            }
            if Path::best() >= Path::Avx512 {
                check("avx512 wide", &product(&|factors, target| run(avx512::Wide::new(), None, factors, target)));
                check("avx512 tall", &product(&|factors, target| run(avx512::Tall::new(), None, factors, target)));
            }
            if Path::best() >= Path::Amx {
                check("amx", &product(&|factors, target| run(amx::Amx::new(), None, factors, target)));
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
