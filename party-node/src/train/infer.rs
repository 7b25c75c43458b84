//! A trained model on rows of data: block after block through the network, the results to their owner alone.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use shared::job::{Inference, Reveal};
use shared::model::Model;
use shared::share::{Addend, Share};

use super::{InferenceData, LaneError, LaneOutcome, Weights};
use crate::collective::shard_range;
use crate::layers::{Network, fold_batch_norms};
use crate::protocol::{Party, ProtocolError, open_to_owner, split_in_three};

/// Rows of a block at most: enough to fill every round.
const BLOCK_ROWS_MAX: usize = 1536;
/// Results of all layers together that a block of rows may have, so that large images fit in memory: 64 MiB for each
/// component.
const BLOCK_ELEMENTS_MAX: usize = 1 << 23;

/// Runs the model on this lane's rows. `progress` is told how many of all rows are done, as this lane can tell.
pub(super) fn run(
    party: &Party,
    inference: &Inference,
    data: &InferenceData,
    rank: usize,
    size: usize,
    progress: &dyn Fn(usize, usize),
) -> Result<LaneOutcome, LaneError> {
    let (own, rows) = (shard_range(inference.rows, rank, size), inference.rows);
    let (mut outcome, mut addends) = (LaneOutcome::default(), Vec::new());
    let (before, start) = (party.meter().snapshot(), Instant::now());
    party.meter().revealed(Reveal::Predictions);
    let Weights { parameters, averages } = &data.weights.on(party.device());
    let folded = fold_batch_norms(party, &inference.model, parameters, averages);
    let (model, parameters) = &folded.map_err(|source| LaneError::at(None, source))?;
    let (network, most) = (&Network::new(model, parameters), block_rows(model));
    let block = if inference.batch == 0 { most } else { inference.batch.min(most) };
    for first in own.clone().step_by(block) {
        let (step, begun) = (Some(outcome.step_seconds.len()), Instant::now());
        let rows_now = first..own.end.min(first + block);
        addends.extend(
            predict(party, network, model.inputs(), &data.x, &rows_now)
                .map_err(|source| LaneError::at(step, source))?,
        );
        outcome.step_seconds.push(begun.elapsed().as_secs_f64());
        party.meter().counters().steps.fetch_add(1, Relaxed);
        party.meter().counters().samples.fetch_add(rows_now.len() as u64, Relaxed);
        if rank == 0 {
            progress(rows * (rows_now.end - own.start) / own.len(), rows);
        }
    }
    outcome.train_seconds = start.elapsed().as_secs_f64();
    outcome.during = party.meter().snapshot().since(&before);
    outcome.result = Some((Reveal::Predictions, Addend::concat(&addends)));
    Ok(outcome)
}

/// Addends of a block's results, tile after tile.
fn predict(
    party: &Party,
    network: &Network<'_>,
    inputs: usize,
    x: &Share,
    rows: &Range<usize>,
) -> Result<Vec<Addend>, ProtocolError> {
    let first = rows.start;
    party.run_in(&split_in_three(rows.len()), |tile, rows| async move {
        let x = tile.enter(x, (first + rows.start) * inputs..(first + rows.end) * inputs);
        let (scores, _) = network.forward(&tile, x, rows, None).await?;
        Ok(open_to_owner(&tile, &scores))
    })
}

/// Rows that pass through the network at a time.
pub(super) fn block_rows(model: &Model) -> usize {
    let wiring = model.wiring().expect("a model that was checked");
    let widths: usize = (0..model.nodes.len()).map(|node| wiring.output(node).len()).sum();
    (BLOCK_ELEMENTS_MAX / (model.inputs() + widths)).clamp(1, BLOCK_ROWS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::{Conv, Layer, Loss, Shape};

    #[test]
    fn large_images_come_in_small_blocks() {
        assert_eq!(block_rows(&Model::mlp(784, &[128, 128], 10, Loss::SoftmaxCrossEntropy)), BLOCK_ROWS_MAX);
        let image = Shape::image(3, 224, 224);
        let model = Model::sequence(image, &[Layer::Conv(Conv::square(64, 7).padded(3))], Loss::MeanSquared);
        assert_eq!(block_rows(&model), (1 << 23) / (67 * 224 * 224));
        let vast = Model::sequence(Shape::image(3, 4096, 4096), &[Layer::Relu], Loss::MeanSquared);
        assert_eq!(block_rows(&vast), 1);
    }
}
