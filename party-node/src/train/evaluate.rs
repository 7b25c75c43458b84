//! Evaluation on shares: only the metrics that the reveal policy names are computed, and only they are opened.

use shared::job::{Reveal, block_rows};
use shared::model::{Loss, Model};
use shared::share::Share;

use super::TrainingData;
use crate::compute::elementwise;
use crate::layers::{Network, fold_batch_norms};
use crate::ops::{argmax, divide};
use crate::protocol::{
    DoubledPartial, Matrix, Party, ProtocolError, Term, Tile, TileShare, inject_sum, matmul_doubled, mul_doubled, open,
    sign, split_in_three, square_doubled, to_arithmetic, trunc, trunc_exact, trunc_floor,
};

/// Score pairs that are compared at a time.
const PAIRS_AT_ONCE: usize = 1 << 20;

/// Opens the allowed metrics of a model on the test rows. Calls `alive` now and then: this can take long.
pub(super) fn evaluate(
    party: &Party,
    model: &Model,
    (parameters, averages): (&Share, &Share),
    data: &TrainingData,
    policy: &[Reveal],
    alive: &dyn Fn(),
) -> Result<Vec<(Reveal, Vec<f64>)>, ProtocolError> {
    let rows = data.test_x.len() / model.inputs();
    let mut opened = Vec::new();
    if rows == 0 || policy.iter().all(|reveal| reveal.is_for_its_owner()) {
        return Ok(opened);
    }
    let (model, parameters) = &fold_batch_norms(party, model, parameters, averages)?;
    let scores = scores(party, model, parameters, &data.test_x, rows)?;
    let targets = &data.test_y;
    for &reveal in policy {
        let metric = match (reveal, model.loss) {
            (Reveal::TestAccuracy, Loss::BinaryCrossEntropy) => binary_hits(party, &scores, targets)?,
            (Reveal::TestAccuracy, Loss::SoftmaxCrossEntropy) => class_hits(party, &scores, targets, model.outputs())?,
            (Reveal::TestConfusion, Loss::BinaryCrossEntropy | Loss::SoftmaxCrossEntropy) => {
                confusion(party, &scores, targets, model.outputs())?
            }
            (Reveal::TestAuroc, Loss::BinaryCrossEntropy) => auroc(party, &scores, targets, alive)?,
            (Reveal::TestLoss, Loss::MeanSquared | Loss::MeanAbsolute) => squared_error(party, &scores, targets)?,
            _ => continue,
        };
        let mut values = open_metric(party, reveal, &metric)?;
        if reveal == Reveal::TestAccuracy {
            #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 rows")]
            values.iter_mut().for_each(|value| *value /= rows as f64);
        }
        opened.push((reveal, values));
    }
    Ok(opened)
}

/// Opens a metric to all parties, and counts it.
fn open_metric(party: &Party, what: Reveal, metric: &Share) -> Result<Vec<f64>, ProtocolError> {
    party.meter().revealed(what);
    let opened = on_one_tile(party, |tile| async move { open(&tile, &tile.enter(metric, 0..metric.len())).await })?;
    Ok(opened.into_iter().map(|word| party.fixed().decode(word)).collect())
}

fn on_one_tile<'p, T: 'p, F>(party: &'p Party, program: impl Fn(Tile<'p>) -> F) -> Result<T, ProtocolError>
where
    F: Future<Output = Result<T, ProtocolError>> + 'p,
{
    let mut results = party.run_in(&split_in_three(1), |tile, _| program(tile))?;
    Ok(results.pop().expect("one tile, one result"))
}

/// Raw scores of all rows, in shares.
fn scores(party: &Party, model: &Model, parameters: &Share, x: &Share, rows: usize) -> Result<Share, ProtocolError> {
    let (inputs, network) = (model.inputs(), &Network::new(model, parameters));
    let (mut scores, block) = (Vec::new(), block_rows(model));
    for start in (0..rows).step_by(block) {
        let count = block.min(rows - start);
        scores.extend(party.run_in(&split_in_three(count), |tile, rows| async move {
            let x = tile.enter(x, (start + rows.start) * inputs..(start + rows.end) * inputs);
            let (scores, _) = network.forward(&tile, x, rows, None).await?;
            Ok(tile.leave(scores))
        })?);
    }
    Ok(Share::concat(&scores))
}

/// Adds up shares, element by element.
fn total(pieces: &[Share]) -> Share {
    let mut sum = Share::zeros(pieces.first().map_or(0, Share::len));
    for piece in pieces {
        elementwise::add_assign(&mut sum.first, &piece.first);
        elementwise::add_assign(&mut sum.second, &piece.second);
    }
    sum
}

fn sum(x: &TileShare) -> TileShare {
    x.map(|x| vec![x.iter().copied().fold(0, u64::wrapping_add)])
}

/// How many rows lie on the right side of zero. Opening this number says what opening the ratio would.
fn binary_hits(party: &Party, scores: &Share, targets: &Share) -> Result<Share, ProtocolError> {
    let one = party.fixed().constant(1.0);
    let hits = party.run_rows(scores.len(), 1, |tile, range| async move {
        let (scores, targets) = (tile.enter(scores, range.clone()), tile.enter(targets, range));
        // b (2y - 1) + (1 - y)
        let positive = sign(&tile, &scores).await?;
        let signed = targets.clone().times(2).plus_public(&tile, one.wrapping_neg());
        let chosen = inject_sum(&tile, &[Term::Share(&positive, &signed, None)], scores.len()).await?;
        let hits = chosen.minus(&targets).plus_public(&tile, one);
        Ok(tile.leave(sum(&hits)))
    })?;
    Ok(total(&hits))
}

/// How many rows have their largest score at their class.
fn class_hits(party: &Party, scores: &Share, targets: &Share, cols: usize) -> Result<Share, ProtocolError> {
    let rows = scores.len() / cols;
    let block = (2 * PAIRS_AT_ONCE / (cols * cols)).max(3);
    let mut hits = Vec::new();
    for start in (0..rows).step_by(block) {
        let count = block.min(rows - start);
        hits.extend(party.run_rows(count, cols * cols / 2, |tile, range| async move {
            let range = (start + range.start) * cols..(start + range.end) * cols;
            let (scores, targets) = (tile.enter(scores, range.clone()), tile.enter(targets, range));
            let planes = argmax(&tile, &scores, cols).await?;
            let column = |i: usize| targets.map(|y| y.iter().skip(i).step_by(cols).copied().collect());
            let columns: Vec<TileShare> = (0..cols).map(column).collect();
            let terms: Vec<_> = planes.iter().zip(&columns).map(|(bits, y)| Term::Share(bits, y, None)).collect();
            let hits = inject_sum(&tile, &terms, scores.len() / cols).await?;
            Ok(tile.leave(sum(&hits)))
        })?);
    }
    Ok(total(&hits))
}

/// Test rows of each class (rows of the result) by the class of their largest score (columns). One score column stands
/// for two classes.
fn confusion(party: &Party, scores: &Share, targets: &Share, cols: usize) -> Result<Share, ProtocolError> {
    let (rows, classes) = (scores.len() / cols, cols.max(2));
    let block = (2 * PAIRS_AT_ONCE / (classes * classes)).max(3);
    let one = party.fixed().constant(1.0);
    let mut counts = Vec::new();
    for start in (0..rows).step_by(block) {
        let count = block.min(rows - start);
        counts.extend(party.run_rows(count, classes * classes / 2, |tile, range| async move {
            let rows = range.len();
            let range = (start + range.start) * cols..(start + range.end) * cols;
            let (scores, targets) = (tile.enter(scores, range.clone()), tile.enter(targets, range));
            let (planes, columns) = if cols == 1 {
                let positive = sign(&tile, &scores).await?;
                let negative = targets.clone().times(u64::MAX).plus_public(&tile, one);
                (vec![positive.clone().negated(), positive], vec![negative, targets])
            } else {
                let column = |i: usize| targets.map(|y| y.iter().skip(i).step_by(cols).copied().collect());
                (argmax(&tile, &scores, cols).await?, (0..cols).map(column).collect())
            };
            let mut taken = Vec::with_capacity(classes);
            for plane in &planes {
                taken.push(to_arithmetic(&tile, plane, rows).await?);
            }
            // Class by row times row by class. A doubled product is even: dropping its lowest bit is exact.
            let of_class = TileShare::concat(&columns.iter().collect::<Vec<_>>());
            let taken_for = TileShare::concat(&taken.iter().collect::<Vec<_>>());
            let mut products = vec![0; classes * classes];
            let left = Matrix::new(of_class.view(), classes, rows);
            matmul_doubled(&tile, left, Matrix::new(taken_for.view(), classes, rows).t(), &mut products);
            Ok(tile.leave(trunc_exact(&tile, DoubledPartial(products), 1).await?))
        })?);
    }
    Ok(total(&counts))
}

/// A sum divided by a public count, rounded down exactly.
fn mean(party: &Party, sum: &Share, count: usize) -> Result<Share, ProtocolError> {
    const SHIFT: u32 = 30;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and below 2^30"
    )]
    let reciprocal = (f64::from(1_u32 << SHIFT) / count as f64).round() as u64;
    on_one_tile(party, |tile| async move {
        let scaled = DoubledPartial::from_share(&tile, &tile.enter(sum, 0..1), reciprocal);
        Ok(tile.leave(trunc_floor(&tile, scaled, SHIFT + 1).await?))
    })
}

/// Mean squared error over all targets, which must stay below `2^(31-f)`.
fn squared_error(party: &Party, scores: &Share, targets: &Share) -> Result<Share, ProtocolError> {
    let fraction = party.fixed().bits();
    let sums = party.run_rows(scores.len(), 1, |tile, range| async move {
        let error = tile.enter(scores, range.clone()).minus(&tile.enter(targets, range));
        let mut squares = square_doubled(&tile, &error);
        let sum = squares.addends().iter().copied().fold(0, u64::wrapping_add);
        Ok(tile.leave(trunc(&tile, DoubledPartial(vec![sum]), fraction + 1).await?))
    })?;
    mean(party, &total(&sums), scores.len())
}

/// Area under the ROC curve.
///
/// With `P` positives, `N` negatives and `b_ij = [s_i >= s_j]`, ties counting half:
/// `area = 1/2 + D / (2 P N)` for `D = sum over i != j of b_ij (y_i - y_j)`: one comparison and one injection per pair.
fn auroc(party: &Party, scores: &Share, targets: &Share, alive: &dyn Fn()) -> Result<Share, ProtocolError> {
    let rows = scores.len();
    let mut excess = Vec::new();
    let block = (PAIRS_AT_ONCE / rows).max(1);
    for start in (0..rows).step_by(block) {
        alive();
        let count = block.min(rows - start);
        excess.extend(party.run_rows(count, rows, |tile, range| async move {
            let (scores, targets) = (tile.enter(scores, 0..rows), tile.enter(targets, 0..rows));
            let pairs = |x: &[u64]| -> Vec<u64> {
                let of = |i: usize| (0..rows).filter(move |&j| j != i).map(move |j| x[i].wrapping_sub(x[j]));
                range.clone().flat_map(|i| of(start + i)).collect()
            };
            let ahead = sign(&tile, &scores.map(pairs)).await?;
            let signed = targets.map(pairs);
            let counted = inject_sum(&tile, &[Term::Share(&ahead, &signed, None)], signed.len()).await?;
            Ok(tile.leave(sum(&counted)))
        })?);
    }
    let excess = total(&excess);
    on_one_tile(party, |tile| {
        let excess = &excess;
        async move {
            let positives = sum(&tile.enter(targets, 0..rows));
            area(&tile, &tile.enter(excess, 0..1), &positives, rows).await.map(|area| tile.leave(area))
        }
    })
}

/// `1/2 + D / (2 P N)`. Both are first divided by the most that they can be, `rows^2 / 4`, and then brought as close to
/// the largest number that a division takes as they can come: rare classes keep their bits.
async fn area(
    tile: &Tile<'_>,
    excess: &TileShare,
    positives: &TileShare,
    rows: usize,
) -> Result<TileShare, ProtocolError> {
    /// Further fraction bits of the share of positive rows.
    const GUARD: u32 = 8;
    let (fixed, window) = (tile.party().fixed(), tile.party().spec().compare_bits);
    let f = fixed.bits();
    let top = 14.min(window - 2 - f) - 1;
    #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52 rows")]
    let n = rows as f64;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive integer below 2^54"
    )]
    let reciprocal = |of: f64, shift: u32| ((1_u64 << shift) as f64 / of).round() as u64;
    let room = 60 - f;
    let excess = DoubledPartial::from_share(tile, excess, reciprocal(n * n / 4.0, room));
    let excess = trunc_exact(tile, excess, room + 1 - top).await?;
    let share = DoubledPartial::from_share(tile, positives, reciprocal(n, 40));
    let share = trunc_exact(tile, share, 41 - GUARD).await?;
    let rest = share.clone().times(u64::MAX).plus_public(tile, 1 << (f + GUARD));
    // 4 p (1 - p), hence two bits fewer.
    let pairs = trunc_exact(tile, mul_doubled(tile, &share, &rest), f + 1 + 2 * GUARD - 2 - top).await?;
    let half = divide(tile, &excess, &pairs).await?;
    // (1 + D / PN) / 2: the half is exact in one more fraction bit, so drop a bit without rounding noise.
    let doubled = half.plus_public(tile, fixed.constant(1.0));
    trunc_floor(tile, DoubledPartial::from_share(tile, &doubled, 1), 2).await
}
