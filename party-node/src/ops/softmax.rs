//! Softmax over short rows.

use super::log::log_within;
use super::max::row_max;
use super::normalise::BinaryRange;
use super::{divide_bounded, exp_negative};
use crate::compute::elementwise;
use crate::protocol::{ProtocolError, Term, Tile, TileShare, inject_sum, join, sign};

/// `exp(x_i) / sum exp(x_j)` over each row.
///
/// | | |
/// |---|---|
/// | Computes | softmax, absolute error below 1e-3; terms more than 15 below the largest count as zero |
/// | Holds | `x` of `rows x cols`, row-major, `2 <= cols <= 128` -> probabilities |
/// | Rounds | those of [`row_max`], of a [`sign`] beside [`exp_negative`], 1, and those of [`divide_bounded`] |
/// | Bytes | those of its parts |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | the usual shift by the largest value; parts as named |
pub async fn softmax(tile: &Tile<'_>, x: &TileShare, cols: usize) -> Result<TileShare, ProtocolError> {
    let terms = exp_clamped(tile, &below_max(tile, x, cols).await?).await?;
    #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 classes")]
    divide_bounded(tile, &terms, &row_sums(&terms, cols), cols, cols as f64).await
}

/// `ln softmax(x)`.
///
/// | | |
/// |---|---|
/// | Computes | `x_i - ln sum exp(x_j)` over each row, absolute error below `1.5e-5 (2 + cols)` for `f = 16`; terms more than 15 below the largest count as zero in the sum |
/// | Holds | `x` of `rows x cols`, row-major, `cols >= 2` -> logarithms of probabilities |
/// | Rounds | those of [`row_max`], of a [`sign`] beside [`exp_negative`], 1, and those of [`log`](super::log) |
/// | Bytes | those of its parts; per row a logarithm with `2 + log2 cols` thresholds instead of all |
/// | Secure against | one semi-honest party (honest majority) |
/// | Reveals | nothing |
/// | Source | as [`softmax`] |
pub async fn log_softmax(tile: &Tile<'_>, x: &TileShare, cols: usize) -> Result<TileShare, ProtocolError> {
    let below = below_max(tile, x, cols).await?;
    let terms = exp_clamped(tile, &below).await?;
    // Rounding may take a sum out of [1, cols], but not by a factor of 2.
    let highest = cols.next_power_of_two().ilog2().cast_signed() + 1;
    let range = BinaryRange { highest, lowest: -1, stride: 1 };
    let logs = log_within(tile, &row_sums(&terms, cols), &range).await?;
    Ok(below.minus(&spread(&logs, cols)))
}

/// Every element less the largest of its row.
async fn below_max(tile: &Tile<'_>, x: &TileShare, cols: usize) -> Result<TileShare, ProtocolError> {
    Ok(x.clone().minus(&spread(&row_max(tile, x, cols).await?, cols)))
}

/// One number per row, for every column.
fn spread(rows: &TileShare, cols: usize) -> TileShare {
    rows.map(|rows| elementwise::each_repeated(rows, cols))
}

fn row_sums(x: &TileShare, cols: usize) -> TileShare {
    x.map(|x| elementwise::row_sums(x, cols))
}

/// `exp(x)` for `x <= 0`; zero below -15.
async fn exp_clamped(tile: &Tile<'_>, x: &TileShare) -> Result<TileShare, ProtocolError> {
    let side = tile.fork();
    let in_range = x.clone().plus_public(tile, tile.party().fixed().constant(15.0));
    let (exp, in_range) = join(exp_negative(tile, x), sign(&side, &in_range)).await?;
    tile.rejoin(&side);
    inject_sum(tile, &[Term::Share(&in_range, &exp, None)], x.len()).await
}

#[cfg(test)]
mod tests {
    use shared::fixed::FixedPoint;
    use shared::job::SOFTMAX_CLASSES_MAX;

    use super::*;
    use crate::world::{World, assert_masked};

    #[test]
    fn softmax_is_close_to_float64() {
        let fixed = FixedPoint::DEFAULT;
        for (cols, rows) in [(2, 40), (3, 40), (10, 40), (SOFTMAX_CLASSES_MAX, 10)] {
            let values: Vec<f64> = (0..cols * rows)
                .map(|i| (f64::from(u32::try_from(i).unwrap()) * 1.7).sin() * [0.0, 1.0, 8.0, 40.0, 3000.0][i / 8 % 5])
                .collect();
            let x: Vec<u64> = values.iter().map(|&x| fixed.constant(x)).collect();
            let (z, _) = World::new(4).tile(1, [&x], async |tile, [x]| softmax(tile, &x, cols).await);
            for (row, z) in values.chunks(cols).zip(z.chunks(cols)) {
                let max = row.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
                for (x, z) in row.iter().zip(z) {
                    let error = (fixed.decode(*z) - (x - max).exp() / sum).abs();
                    assert!(error < 1e-3, "softmax {x} in {row:?} is off by {error}");
                }
            }
        }
    }

    #[test]
    fn log_softmax_is_close_to_float64() {
        let fixed = FixedPoint::DEFAULT;
        let mut worst = 0.0_f64;
        for cols in [2, 3, 10] {
            let values: Vec<f64> = (0..cols * 100)
                .map(|i| (f64::from(u32::try_from(i).unwrap()) * 1.7).sin() * [0.0, 1.0, 8.0, 40.0, 3000.0][i / 8 % 5])
                .collect();
            let x: Vec<u64> = values.iter().map(|&x| fixed.constant(x)).collect();
            let (z, run) = World::new(4).tile(1, [&x], async |tile, [x]| log_softmax(tile, &x, cols).await);
            for (row, z) in x.chunks(cols).zip(z.chunks(cols)) {
                let row: Vec<f64> = row.iter().map(|x| fixed.decode(*x)).collect();
                let max = row.iter().copied().fold(f64::MIN, f64::max);
                let log: f64 = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
                for (x, z) in row.iter().zip(z) {
                    worst = worst.max((fixed.decode(*z) - (x - max - log)).abs());
                }
            }
            let (_, max) = World::new(4).tile(1, [&x], async |tile, [x]| row_max(tile, &x, cols).await);
            assert_eq!(run.cost.rounds, max.cost.rounds + 5 + 1 + 5 + 1 + 8 + 1);
            println!("{cols} columns: absolute error {worst:e}");
            #[allow(clippy::cast_precision_loss, reason = "ten")]
            let bound = (2 + cols) as f64 * 1.5e-5;
            assert!(worst < bound, "{worst}");
        }
    }

    #[test]
    fn softmax_sends_only_masked_words() {
        let x: Vec<u64> = (0..256).map(|i| (i * 37) << 14 & 0x3f_ffff).collect();
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], async |t, [x]| softmax(t, &x, 4).await).1;
        assert_masked(&run(2), &run(3));
        let run = |keys| World::new(1).with_keys(keys).tile(0, [&x], async |t, [x]| log_softmax(t, &x, 4).await).1;
        assert_masked(&run(2), &run(3));
    }
}
