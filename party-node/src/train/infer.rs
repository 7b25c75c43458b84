//! A trained model on rows of data: block after block through the network, the results to their owner alone.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use shared::job::{Inference, Reveal};
use shared::share::{Addend, Share};

use super::{InferenceData, LaneError, LaneOutcome, Weights};
use crate::collective::shard_range;
use crate::layers::{Network, fold_batch_norms};
use crate::protocol::{Party, ProtocolError, open_to_owner, split_in_three};

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
    let Weights { parameters, averages } = &data.weights;
    let folded = fold_batch_norms(party, &inference.model, parameters, averages);
    let (model, parameters) = &folded.map_err(|source| LaneError::at(None, source))?;
    let (network, block) = (&Network::new(model, parameters), inference.block_rows());
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
