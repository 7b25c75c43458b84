//! Products of matrices on a device by products of int8 matrices, which tensor cores do at sixty times the rate of 64-bit
//! multiply-add. An operand is split once, by digits or by residues, and serves any number of products.

use std::ops::Range;

use super::driver::Int8Gemm;
use super::{Gpu, Memory, Operand, SpanMut};

/// How words become small integers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Splitting {
    /// Eight balanced digits in base 256: 36 products of digits, in eight int8 products of growing depth.
    Digits,
    /// Residues by 18 or 19 coprime moduli: an int8 product for each, and more work around them.
    Residues,
}

/// On which side of a product an operand stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Left,
    Right,
}

/// An operand split for int8 products. It must be used on the side that it was split for.
#[derive(Clone, Debug)]
pub struct SplitOperand {
    splitting: Splitting,
    side: Side,
    /// Rows of a left operand, columns of a right one.
    lines: usize,
    /// What products are summed over.
    depth: usize,
    /// A piece of the depth at a time: sums of products must fit 32 bits.
    pieces: Vec<Memory>,
}

/// Digits of a word.
const DIGITS: usize = 8;
/// The depth at which eight products of digits, each 2^14 at most, still sum up within 2^31; padding included.
const DIGITS_DEPTH_MAX: usize = ((1 << 31) - 1) / (DIGITS << 14) / ALIGNMENT * ALIGNMENT;
/// The depth at which products of residues do.
const RESIDUES_DEPTH_MAX: usize = ((1 << 31) - 1) / (1 << 14) / ALIGNMENT * ALIGNMENT;
/// Lines and depth are padded to multiples of this, as int8 products ask for.
const ALIGNMENT: usize = 16;
/// `2^128`, and what is asked above it: room for errors of a product in double precision.
const TWO_128: f64 = 340_282_366_920_938_463_463_374_607_431_768_211_456.0;
const MARGIN: f64 = 1.000_001;
/// Pairwise coprime moduli, as in kernels/residues.cu.
const MODULI: [u16; 19] =
    [256, 255, 253, 251, 247, 241, 239, 233, 229, 227, 223, 217, 211, 199, 197, 193, 191, 181, 179];

impl Gpu {
    /// Splits the left operand of a product.
    pub fn split_left(&self, a: Operand<'_>, splitting: Splitting) -> SplitOperand {
        let strides = if a.transposed { [1, a.rows] } else { [a.cols, 1] };
        self.split(a, splitting, Side::Left, [a.rows, a.cols], strides)
    }

    /// Splits the right operand of a product.
    pub fn split_right(&self, b: Operand<'_>, splitting: Splitting) -> SplitOperand {
        let strides = if b.transposed { [b.rows, 1] } else { [1, b.cols] };
        self.split(b, splitting, Side::Right, [b.cols, b.rows], strides)
    }

    /// `out += a * b`, row-major. Panics unless both were split the same way, each for its side, and the shapes fit.
    pub fn gemm_split(&self, a: &SplitOperand, b: &SplitOperand, mut out: SpanMut<'_>) {
        assert!(a.side == Side::Left && b.side == Side::Right, "operands stand on the side that they were split for");
        assert!(
            a.splitting == b.splitting && a.depth == b.depth,
            "operands are split alike and inner dimensions agree"
        );
        assert_eq!(out.len(), a.lines * b.lines, "the result has the shape of the product");
        if out.is_empty() {
            return;
        }
        for ((range, left), right) in pieces(a.splitting, a.depth).zip(&a.pieces).zip(&b.pieces) {
            let (rows, columns, depth) = (padded(a.lines), padded(b.lines), padded(range.len()));
            let [left, right] = [left.span().address, right.span().address];
            let factors = match a.splitting {
                // Digits 0 to i of the left, i to 0 of the right.
                Splitting::Digits => (0..DIGITS)
                    .map(|i| (left, right + ((DIGITS - 1 - i) * depth) as u64, (i + 1) * depth))
                    .collect::<Vec<_>>(),
                Splitting::Residues => (0..moduli_for(range.len()))
                    .map(|i| (left + (i * rows * depth) as u64, right + (i * columns * depth) as u64, depth))
                    .collect(),
            };
            let line = if a.splitting == Splitting::Digits { DIGITS * depth } else { depth };
            let plane = rows * columns;
            // Two 32-bit integers to a word; a plane has an even number of them.
            let products = self.uninitialised(factors.len() * plane / 2);
            for (i, &(a, b, depth)) in factors.iter().enumerate() {
                let place = products.span().address + 4 * (i * plane) as u64;
                let product = Int8Gemm { rows, columns, depth, a, a_line: line, b, b_line: line, out: place };
                self.attempt(|driver| driver.int8_gemm(&product));
            }
            self.join(a.splitting, out.again(), &products, factors.len(), [b.lines, columns, plane]);
        }
    }

    /// Starts the int8 products that a product of this shape takes, on bytes of any value: what no way of splitting can be
    /// faster than.
    pub fn int8_products(&self, [rows, depth, columns]: [usize; 3], splitting: Splitting) {
        for range in pieces(splitting, depth) {
            let (rows, columns, depth) = (padded(rows), padded(columns), padded(range.len()));
            let (line, depths) = match splitting {
                Splitting::Digits => (DIGITS * depth, (1..=DIGITS).map(|i| i * depth).collect()),
                Splitting::Residues => (depth, vec![depth; moduli_for(range.len())]),
            };
            let [a, b, out] = [rows * line / 8, columns * line / 8, rows * columns / 2].map(|len| self.zeros(len));
            let [a, b, out] = [&a, &b, &out].map(|memory| memory.span().address);
            for depth in depths {
                let product = Int8Gemm { rows, columns, depth, a, a_line: line, b, b_line: line, out };
                self.attempt(|driver| driver.int8_gemm(&product));
            }
        }
    }

    /// `out +=` what the products of a piece of the depth stand for.
    fn join(&self, splitting: Splitting, out: SpanMut<'_>, products: &Memory, count: usize, sizes: [usize; 3]) {
        let sizes = sizes.map(|size| size as u64);
        let spans = [out.address, products.span().address];
        let n = [out.len() as u64];
        match splitting {
            Splitting::Digits => self.each("join_digits", out.len(), &[&spans[..], &sizes, &n].concat()),
            Splitting::Residues => {
                let table = self.constant(&recombination(&MODULI[..count]));
                let more = [table.address, count as u64];
                self.each("join_residues", out.len(), &[&spans[..], &more, &sizes, &n].concat());
            }
        }
    }

    fn split(
        &self,
        operand: Operand<'_>,
        splitting: Splitting,
        side: Side,
        [lines, depth]: [usize; 2],
        [stride_line, stride_k]: [usize; 2],
    ) -> SplitOperand {
        let form = operand.form();
        let lines_padded = padded(lines);
        let split = |range: Range<usize>| {
            let depth_padded = padded(range.len());
            let (kernel, count, last) = match splitting {
                Splitting::Digits => ("split_digits", DIGITS, usize::from(side == Side::Right)),
                Splitting::Residues => ("split_residues", moduli_for(range.len()), moduli_for(range.len())),
            };
            let out = self.uninitialised(count * lines_padded * depth_padded / 8);
            let sizes = [stride_line, stride_k, range.start, lines, range.len(), lines_padded, depth_padded, last];
            let sizes = sizes.map(|size| size as u64);
            let tiles = lines_padded.div_ceil(TILE) * depth_padded.div_ceil(TILE);
            self.tiles(kernel, tiles, &[&[out.span().address][..], &form, &sizes].concat());
            out
        };
        SplitOperand { splitting, side, lines, depth, pieces: pieces(splitting, depth).map(split).collect() }
    }
}

/// Lines, and elements of each, that a block of threads splits at a time.
const TILE: usize = 32;

fn padded(size: usize) -> usize {
    size.next_multiple_of(ALIGNMENT)
}

/// The depth, cut so that sums of products fit 32 bits.
fn pieces(splitting: Splitting, depth: usize) -> impl Iterator<Item = Range<usize>> {
    let longest = match splitting {
        Splitting::Digits => DIGITS_DEPTH_MAX,
        Splitting::Residues => RESIDUES_DEPTH_MAX,
    };
    (0..depth).step_by(longest).map(move |start| start..depth.min(start + longest))
}

/// How many moduli tell apart all sums of `depth` products of words from -2^63 to 2^63 - 1, with a factor of two to
/// spare on either side: their product must be at least `depth 2^128`.
#[allow(clippy::cast_precision_loss, reason = "a depth is far below 2^52, and there is room for errors")]
fn moduli_for(depth: usize) -> usize {
    let needed = depth as f64 * TWO_128 * MARGIN;
    let products = MODULI.iter().scan(1.0, |product, modulus| {
        *product *= f64::from(*modulus);
        Some(*product)
    });
    1 + products.take_while(|product| *product < needed).count()
}

/// For every modulus `m` of a product `M`: the inverse of `M/m` modulo `m`, `M/m` modulo 2^64, and `1/m`. Then `M` modulo
/// 2^64.
fn recombination(moduli: &[u16]) -> Vec<u64> {
    let product = |skip: usize, modulus: Option<u64>| {
        let factors = moduli.iter().enumerate().filter(|(i, _)| *i != skip).map(|(_, m)| u64::from(*m));
        factors.fold(1_u64, |product, m| modulus.map_or(product.wrapping_mul(m), |modulus| product * m % modulus))
    };
    let mut table = Vec::with_capacity(3 * moduli.len() + 1);
    for (i, &modulus) in moduli.iter().enumerate() {
        let m = u64::from(modulus);
        let rest = product(i, Some(m));
        let inverse = (0..m).find(|inverse| rest * inverse % m == 1).expect("moduli are pairwise coprime");
        table.extend([inverse, product(i, None), (1.0 / f64::from(modulus)).to_bits()]);
    }
    table.push(product(moduli.len(), None));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moduli_are_coprime_and_suffice() {
        let gcd = |mut a: u16, mut b: u16| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        for (i, a) in MODULI.iter().enumerate() {
            assert!(MODULI[..i].iter().all(|b| gcd(*a, *b) == 1), "{a}");
        }
        let source = super::super::source::source();
        let listed = source.split("moduli[MODULI_MAX] = {").nth(1).unwrap().split('}').next().unwrap();
        let listed: Vec<u16> = listed.split(',').map(|m| m.trim().parse().unwrap()).collect();
        assert_eq!(listed, MODULI);
        // In logarithms, with room for their errors.
        for depth in [1, 2, 30, 31, 4096, 5600, 5601, RESIDUES_DEPTH_MAX] {
            let bits = |count: usize| MODULI[..count].iter().map(|m| f64::from(*m).log2()).sum::<f64>();
            let (count, needed) = (moduli_for(depth), 128.0 + (depth as f64).log2());
            assert!(bits(count) >= needed && bits(count - 1) < needed + 1e-3, "{depth}: {count}");
        }
        assert_eq!([17, 18, 19], [30, 5600, RESIDUES_DEPTH_MAX].map(moduli_for));
    }

    #[test]
    fn pieces_are_as_long_as_they_may_be() {
        assert_eq!((DIGITS_DEPTH_MAX, RESIDUES_DEPTH_MAX), (16368, 131_056));
        let all: Vec<_> = pieces(Splitting::Digits, 40_000).collect();
        assert_eq!(all, [0..16368, 16368..32736, 32736..40_000]);
    }
}
