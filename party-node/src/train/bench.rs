//! Timing of single operations on generated, public data.

use std::ops::Range;
use std::time::Instant;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use shared::job::{Micro, Operation, Reveal};
use shared::share::Share;

use super::LaneOutcome;
use crate::collective::shard_range;
use crate::ops::{Windows, max_pool, relu, sigmoid, softmax};
use crate::protocol::{
    Matrix, Party, ProtocolError, Replicated, Tile, TileShare, matmul, open, split_in_three, tile_ranges,
};

/// Times an operation: one repetition to warm up, then the asked number of them, on this lane's slice of the rows.
pub(super) fn run(
    party: &Party,
    micro: Micro,
    rank: usize,
    size: usize,
    policy: &[Reveal],
) -> Result<LaneOutcome, ProtocolError> {
    let rows = shard_range(micro.rows, rank, size);
    let inputs = Inputs::generate(party, micro, rows);
    inputs.repeat(party)?;
    let before = party.meter().snapshot();
    let (start, mut outcome) = (Instant::now(), LaneOutcome::default());
    let mut result = Replicated::default();
    for _ in 0..micro.repetitions {
        let begun = Instant::now();
        result = inputs.repeat(party)?;
        outcome.step_seconds.push(begun.elapsed().as_secs_f64());
    }
    outcome.train_seconds = start.elapsed().as_secs_f64();
    outcome.during = party.meter().snapshot().since(&before);
    if policy.contains(&Reveal::BenchError) && rank == 0 {
        party.meter().revealed(Reveal::BenchError);
        let opened = open_share(party, &result)?;
        outcome.opened = vec![(Reveal::BenchError, vec![inputs.largest_error(party, &opened)])];
    }
    Ok(outcome)
}

fn open_share(party: &Party, share: &Replicated) -> Result<Vec<u64>, ProtocolError> {
    let pieces =
        party.run_rows(share.len(), 1, |tile, range| async move { open(&tile, &tile.enter(share, range)).await })?;
    Ok(pieces.concat())
}

/// Generated operands: the values, which anyone may know, and this party's shares of them.
struct Inputs {
    micro: Micro,
    rows: usize,
    values: Vec<f64>,
    x: Replicated,
    y_values: Vec<f64>,
    y: Replicated,
}

impl Inputs {
    fn generate(party: &Party, micro: Micro, rows: Range<usize>) -> Self {
        let width =
            if micro.operation == Operation::Matmul || micro.operation == Operation::Softmax { micro.cols } else { 1 };
        let (values, x) = generated(party, 2 * rows.start as u64, rows.len() * width);
        let y_len = if micro.operation == Operation::Matmul { micro.cols * micro.cols } else { 0 };
        let (y_values, y) = generated(party, 1, y_len);
        Self { micro, rows: rows.len(), values, x, y_values, y }
    }

    /// Runs the operation once.
    fn repeat(&self, party: &Party) -> Result<Replicated, ProtocolError> {
        let (micro, width) = (self.micro, self.values.len() / self.rows.max(1));
        let (group, tiles) = match micro.operation {
            // Every tile packs the right factor anew, so as few tiles as there are helpers.
            Operation::Matmul => (1, split_in_three(self.rows)),
            Operation::Maxpool => (4, tile_ranges(self.rows / 4, 4)),
            // The largest of a row takes a comparison for every pair.
            Operation::Softmax => (1, tile_ranges(self.rows, width.max(width * width.saturating_sub(1) / 2))),
            _ => (1, tile_ranges(self.rows, 1)),
        };
        let pieces = party.run_in(&tiles, |tile, range| async move {
            let x = tile.enter(&self.x, range.start * group * width..range.end * group * width);
            Ok(tile.leave(self.on_tile(&tile, x, range.len()).await?))
        })?;
        Ok(Replicated::concat(&pieces))
    }

    async fn on_tile(&self, tile: &Tile<'_>, x: TileShare, rows: usize) -> Result<TileShare, ProtocolError> {
        let cols = self.micro.cols;
        match self.micro.operation {
            Operation::Matmul => {
                let y = Matrix::new(tile.view(&self.y), cols, cols);
                matmul(tile, Matrix::new(x.view(), rows, cols), y).await
            }
            Operation::Relu => Ok(relu(tile, &x).await?.0),
            Operation::Sigmoid => sigmoid(tile, &x).await,
            Operation::Softmax => softmax(tile, &x, cols).await,
            Operation::Maxpool => Ok(max_pool(tile, &x, &single_windows(rows)).await?.0),
        }
    }

    /// Largest deviation of an opened result from float64; of a matrix product, in its first rows.
    fn largest_error(&self, party: &Party, opened: &[u64]) -> f64 {
        let (cols, values) = (self.micro.cols, &self.values);
        let expected: Vec<f64> = match self.micro.operation {
            Operation::Matmul => {
                let row =
                    |i: usize, j: usize| (0..cols).map(|k| values[i * cols + k] * self.y_values[k * cols + j]).sum();
                (0..self.rows.min(CHECKED_ROWS) * cols).map(|at| row(at / cols, at % cols)).collect()
            }
            Operation::Relu => values.iter().map(|x| x.max(0.0)).collect(),
            Operation::Sigmoid => values.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Operation::Maxpool => values.chunks_exact(4).map(|x| x.iter().copied().fold(f64::MIN, f64::max)).collect(),
            Operation::Softmax => values.chunks(cols).flat_map(softmax_plain).collect(),
        };
        let errors = expected.iter().zip(opened).map(|(want, got)| (party.fixed().decode(*got) - want).abs());
        errors.fold(0.0, f64::max)
    }
}

/// Images that are one window of two by two.
fn single_windows(images: usize) -> Windows {
    Windows { images, height: 2, width: 2, channels: 1, kernel: [2; 2], stride: [2; 2], padding: [0; 4] }
}

fn softmax_plain(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
    row.iter().map(|x| (x - largest).exp() / sum).collect()
}

/// Rows of a matrix product that are compared with float64, which takes longer than the product itself.
const CHECKED_ROWS: usize = 16;

/// Values in [-4, 4) and this party's share of them; all parties derive the same ones.
fn generated(party: &Party, stream: u64, len: usize) -> (Vec<f64>, Replicated) {
    let mut rng = ChaCha12Rng::seed_from_u64(stream);
    let words: Vec<u64> = (0..len)
        .map(|_| {
            let unit = i64::from(rng.next_u32()) - (1 << 31);
            // In units of the last place, for every number of fraction bits.
            (unit >> (29 - party.fixed().bits())).cast_unsigned()
        })
        .collect();
    let values = words.iter().map(|&word| party.fixed().decode(word)).collect();
    let mut component = |_: usize| -> Vec<u64> { (0..len).map(|_| rng.next_u64()).collect() };
    let (x0, x1) = (component(0), component(1));
    let x2 = words.iter().zip(&x0).zip(&x1).map(|((x, a), b)| x.wrapping_sub(*a).wrapping_sub(*b)).collect();
    let components = [x0, x1, x2];
    let me = party.me();
    let share = Share { first: components[me.index()].clone(), second: components[me.next().index()].clone() };
    (values, Replicated::on(party.device(), share))
}
