//! Products. The truncated ones need one local product per party; the plain one needs two.

use super::value::{DoubledPartial, TileShare, View};
use super::{ProtocolError, Purpose, Role, Tile, trunc};
use crate::compute::{ConvShape, Operand, SliceMut, Sum, elementwise};

/// Coefficients `(of u, of v)` of a party's factor in `2xy = (t+2a)(t'+2a') + (t+2b)(t'+2b') - 2(a-b)(a'-b')`.
const EVALUATOR: (u64, u64) = (1, 2);
const HELPER: (u64, u64) = (1, u64::MAX);

/// The multiple of a product that this party contributes, and the coefficients of `u` and `v` in either factor.
fn coefficients(tile: &Tile<'_>) -> (u64, (u64, u64)) {
    if tile.is_helper() { (u64::MAX - 1, HELPER) } else { (1, EVALUATOR) }
}

/// An additive sharing of `2 x y`, element by element. Local.
pub fn mul_doubled(tile: &Tile<'_>, x: &TileShare, y: &TileShare) -> DoubledPartial {
    let (scale, (_, c)) = coefficients(tile);
    DoubledPartial(elementwise::product_of_sums(scale, c, [x.u.all(), x.v.all()], [y.u.all(), y.v.all()]))
}

/// An additive sharing of `2 x^2`. Local.
pub fn square_doubled(tile: &Tile<'_>, x: &TileShare) -> DoubledPartial {
    mul_doubled(tile, x, x)
}

/// A factor of a matrix product: a view and its shape as multiplied; `transposed` if it is stored the other way round.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The elements, row-major as stored.
    pub view: View<'a>,
    /// Rows as multiplied.
    pub rows: usize,
    /// Columns as multiplied.
    pub cols: usize,
    /// Whether the elements are stored column by column.
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A matrix stored as multiplied.
    pub fn new(view: View<'a>, rows: usize, cols: usize) -> Self {
        Self { view, rows, cols, transposed: false }
    }

    /// The transpose of a matrix.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    fn operand(self, scale: u64, (ku, kv): (u64, u64)) -> Operand<'a> {
        let View { u, v } = self.view;
        let (kx, ky) = (scale.wrapping_mul(ku), scale.wrapping_mul(kv));
        Operand { x: u, y: Some(v), kx, ky, rows: self.rows, cols: self.cols, transposed: self.transposed }
    }
}

/// An additive sharing of twice a matrix product, added to `out`. Local; one GEMM.
pub fn matmul_doubled(tile: &Tile<'_>, x: Matrix<'_>, y: Matrix<'_>, out: SliceMut<'_>) {
    let (scale, factors) = coefficients(tile);
    tile.device().gemm(x.operand(scale, factors), y.operand(1, factors), out);
}

/// Truncated matrix product.
///
/// | | |
/// |---|---|
/// | Computes | `z = floor((2 X Y + p) / 2^(f+1))` for a uniform `p`, that is `XY / 2^f` with error 0 or +1 unit |
/// | Holds | `X` of `m x k`, `Y` of `k x n`, `abs(XY) <= 2^61` -> `Z` of `m x n` |
/// | Rounds | as [`trunc`] |
/// | Bytes | as [`trunc`] on `m n` elements; none for the products |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`trunc`]; one product per party is the identity at [`mul_doubled`] |
pub async fn matmul(tile: &Tile<'_>, x: Matrix<'_>, y: Matrix<'_>) -> Result<TileShare, ProtocolError> {
    let mut out = tile.device().zeros(x.rows * y.cols);
    matmul_doubled(tile, x, y, out.all_mut());
    trunc(tile, DoubledPartial(out), tile.party().fixed().bits() + 1).await
}

/// An additive sharing of twice a convolution, added to `out`. Local; one convolution.
pub fn conv_doubled(tile: &Tile<'_>, shape: &ConvShape, x: View<'_>, w: View<'_>, out: SliceMut<'_>) {
    let [x, w] = factors(tile, x, w);
    tile.device().conv(shape, x, w, out);
}

/// An additive sharing of twice the gradient of a convolution's weights, added to `out`. Local; one convolution.
pub fn conv_weights_doubled(tile: &Tile<'_>, shape: &ConvShape, x: View<'_>, gradient: View<'_>, out: SliceMut<'_>) {
    let [x, gradient] = factors(tile, x, gradient);
    tile.device().conv_weights(shape, x, gradient, out);
}

/// An additive sharing of twice the gradient of a convolution's images, added to `out`. Local; one convolution.
pub fn conv_images_doubled(tile: &Tile<'_>, shape: &ConvShape, gradient: View<'_>, w: View<'_>, out: SliceMut<'_>) {
    let [gradient, w] = factors(tile, gradient, w);
    tile.device().conv_images(shape, gradient, w, out);
}

/// What this party multiplies.
fn factors<'a>(tile: &Tile<'_>, x: View<'a>, y: View<'a>) -> [Sum<'a>; 2] {
    let (scale, (ku, kv)) = coefficients(tile);
    [(scale, x), (1, y)].map(|(scale, View { u, v })| {
        let (kx, ky) = (ku.wrapping_mul(scale), kv.wrapping_mul(scale));
        Sum { x: u, y: Some(v), kx, ky }
    })
}

/// Truncated convolution.
///
/// | | |
/// |---|---|
/// | Computes | `z = floor((2 X * W + p) / 2^(f+1))` for a uniform `p`: the convolution over `2^f`, error 0 or +1 unit |
/// | Holds | images and weights of `shape`, every sum of products within `2^61` -> the result, of `n` elements |
/// | Rounds | as [`trunc`] |
/// | Bytes | as [`trunc`] on `n` elements; none for the products |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`trunc`]; a convolution is bilinear, so the identity at [`mul_doubled`] holds for it |
pub async fn conv(tile: &Tile<'_>, shape: &ConvShape, x: View<'_>, w: View<'_>) -> Result<TileShare, ProtocolError> {
    let mut out = tile.device().zeros(shape.output_len());
    conv_doubled(tile, shape, x, w, out.all_mut());
    trunc(tile, DoubledPartial(out), tile.party().fixed().bits() + 1).await
}

/// Multiplies two shared vectors element by element, without truncation.
///
/// | | |
/// |---|---|
/// | Computes | `z = x y` in `Z_{2^64}` |
/// | Holds | `x`, `y` -> `z`, all of `n` elements |
/// | Rounds | 1 |
/// | Bytes | `24 n` over the three parties: `8 n` from each evaluator, `8 n` ahead from the helper to B |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | Araki, Furukawa, Lindell, Nof, Ohara, "High-Throughput Semi-Honest Secure Three-Party Computation with an Honest Majority", eprint 2016/768; with the helper's message made independent of the data as in Chaudhari, Choudhury, Patra, Suresh, "ASTRA", eprint 2019/429 |
///
/// `xy` less the product of the helper's masks is a sum of what A knows and what B knows; the helper deals the rest.
pub async fn mul(tile: &Tile<'_>, x: &TileShare, y: &TileShare) -> Result<TileShare, ProtocolError> {
    let (op, n) = (tile.op(), x.len());
    if tile.is_helper() {
        let mut d = elementwise::product_of_sums(1, 1, [x.u.all(), x.v.all()], [y.u.all(), y.v.all()]);
        let (mask_a, mask_b) = op.masks(Purpose::Product, n);
        elementwise::sub_assign(&mut d, &mask_a);
        elementwise::sub_assign(&mut d, &mask_b);
        let (a, b) = op.deal(Purpose::Output, d);
        return Ok(TileShare { u: a, v: b });
    }
    let mut mine = op.own_mask(Purpose::Product, n);
    let with_both = tile.role() == Role::A;
    elementwise::add_cross_products(&mut mine, with_both, [x.u.all(), x.v.all()], [y.u.all(), y.v.all()]);
    op.open_sum(&mut mine, 0).await?;
    Ok(TileShare { u: mine, v: op.dealt(Purpose::Output, n).await? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compute::{HostSum, reference};
    use crate::world::{Cost, World, assert_masked};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn mul_matches_plaintext(pairs in prop::collection::vec(any::<(u64, u64)>(), 1..40), helper in 0_usize..3, seed: u64) {
            let (x, y): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let (z, run) = World::new(seed).tile(helper, [&x, &y], async |tile, [x, y]| mul(tile, &x, &y).await);
            let want: Vec<u64> = x.iter().zip(&y).map(|(x, y)| x.wrapping_mul(*y)).collect();
            prop_assert_eq!(z, want);
            prop_assert_eq!(run.cost, Cost { rounds: 1, sent_bytes: 24 * x.len() });
        }

        #[test]
        fn matmul_matches_plaintext(seed: u64, m in 1_usize..5, k in 1_usize..6, n in 1_usize..5, helper in 0_usize..3) {
            let entry = |i: usize| (seed.rotate_left(u32::try_from(i).unwrap()) % (1 << 20)).wrapping_sub(1 << 19);
            let (x, y): (Vec<_>, Vec<_>) = ((0..m * k).map(entry).collect(), (0..k * n).map(|i| entry(i + 31)).collect());
            let (z, run) = World::new(seed).tile(helper, [&x, &y], async |tile, [x, y]| {
                matmul(tile, Matrix::new(x.view(), m, k), Matrix::new(y.view(), k, n)).await
            });
            for i in 0..m {
                for j in 0..n {
                    let product: i64 = (0..k).map(|l| x[i * k + l].cast_signed() * y[l * n + j].cast_signed()).sum();
                    let error = z[i * n + j].cast_signed() - (product >> 16);
                    prop_assert!((0..=1).contains(&error), "error {error}");
                }
            }
            prop_assert_eq!(run.cost, Cost { rounds: 2, sent_bytes: 24 * m * n + 3 * (17 * m * n).div_ceil(8) });
        }
    }

    const SHAPE: ConvShape = ConvShape {
        images: 2,
        height: 5,
        width: 6,
        channels: 4,
        kernel: [3, 2],
        stride: [2, 1],
        padding: [1, 0, 2, 1],
        dilation: [1, 2],
        groups: 2,
        out_channels: 6,
    };

    /// A device's pass over plain words.
    type Pass = fn(&ConvShape, HostSum<'_>, HostSum<'_>, &mut [u64]);
    /// Its sharing.
    type DoubledPass = fn(&Tile<'_>, &ConvShape, View<'_>, View<'_>, SliceMut<'_>);

    /// Words of both signs up to 2^27: sums of products stay within 2^61.
    fn entries(seed: u64, len: usize) -> Vec<u64> {
        let entry = |i: u64| seed.wrapping_add(i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 36;
        (0..len as u64).map(|i| entry(i).wrapping_sub(1 << 27)).collect()
    }

    fn plain(words: &[u64]) -> HostSum<'_> {
        HostSum { x: words, y: None, kx: 1, ky: 0 }
    }

    #[test]
    fn convolutions_match_plaintext() {
        let passes: [(Pass, DoubledPass, [usize; 3]); 3] = [
            (reference::conv, conv_doubled, [SHAPE.input_len(), SHAPE.weights_len(), SHAPE.output_len()]),
            (
                reference::conv_weights,
                conv_weights_doubled,
                [SHAPE.input_len(), SHAPE.output_len(), SHAPE.weights_len()],
            ),
            (reference::conv_images, conv_images_doubled, [SHAPE.output_len(), SHAPE.weights_len(), SHAPE.input_len()]),
        ];
        for (pass, doubled, [left, right, len]) in passes {
            for seed in 0..3 {
                let (x, y) = (entries(seed, left), entries(seed + 1000, right));
                let helper = usize::try_from(seed).unwrap();
                let (z, run) = World::new(seed).tile(helper, [&x, &y], async |tile, [x, y]| {
                    let mut out = tile.device().zeros(len);
                    doubled(tile, &SHAPE, x.view(), y.view(), out.all_mut());
                    trunc(tile, DoubledPartial(out), 17).await
                });
                let mut want = vec![0; len];
                pass(&SHAPE, plain(&x), plain(&y), &mut want);
                for (z, want) in z.iter().zip(&want) {
                    let error = z.cast_signed() - (want.cast_signed() >> 16);
                    assert!((0..=1).contains(&error), "error {error}");
                }
                assert_eq!(run.cost, Cost { rounds: 2, sent_bytes: 24 * len + 3 * (17 * len).div_ceil(8) });
            }
        }
    }

    #[test]
    fn conv_truncates_and_sends_only_masked_words() {
        let (x, w) = (entries(1, SHAPE.input_len()), entries(2, SHAPE.weights_len()));
        let run = |keys| {
            let program = async |tile: &Tile<'_>, [x, w]: [TileShare; 2]| conv(tile, &SHAPE, x.view(), w.view()).await;
            World::new(5).with_keys(keys).tile(1, [&x, &w], program)
        };
        let ((z, one), (_, two)) = (run(2), run(3));
        let mut want = vec![0; SHAPE.output_len()];
        reference::conv(&SHAPE, plain(&x), plain(&w), &mut want);
        for (z, want) in z.iter().zip(&want) {
            assert!((0..=1).contains(&(z.cast_signed() - (want.cast_signed() >> 16))));
        }
        let n = SHAPE.output_len();
        assert_eq!(one.cost, Cost { rounds: 2, sent_bytes: 24 * n + 3 * (17 * n).div_ceil(8) });
        assert_masked(&one, &two);
    }

    #[test]
    fn mul_sends_only_masked_words() {
        let x: Vec<u64> = (0..64).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x, &x], async |t, [x, y]| mul(t, &x, &y).await).1;
        assert_masked(&run(2), &run(3));
    }
}
