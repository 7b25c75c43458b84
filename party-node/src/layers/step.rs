//! What a training step collects from all tiles of a lane's slice of the batch.

use std::cell::RefCell;
use std::ops::Range;

use shared::model::{Layer, Model, TrainSpec};

use super::norm::GUARD_BITS;
use crate::compute::{Words, elementwise};
use crate::protocol::{DoubledPartial, Gathering, Party, ProtocolError, Replicated, Tile, TileShare, trunc_exact};

/// Bits of the rates by which running averages move.
const RATE_BITS: u32 = 20;

/// Sums over tiles, and where tiles meet.
pub struct Step {
    /// Additive sharing of twice the gradient of every parameter, summed over the samples.
    pub(super) gradient: RefCell<Words>,
    pub(super) gathering: Gathering,
    /// Samples of all tiles together.
    pub(super) rows: usize,
    /// The first of them in the batch.
    first: usize,
    spec: TrainSpec,
    number: u64,
    statistics: RefCell<Vec<Statistics>>,
}

/// Of one batch-norm.
struct Statistics {
    /// Where its running averages lie.
    place: Range<usize>,
    mean: Replicated,
    /// With guard bits.
    variance: Replicated,
    /// Values per channel.
    count: usize,
}

impl Step {
    /// Step `number` of a training: samples `rows` of the batch, in so many tiles.
    pub fn new(spec: &TrainSpec, number: u64, gradient: Words, rows: Range<usize>, tiles: usize) -> Self {
        Self {
            gradient: RefCell::new(gradient),
            gathering: Gathering::new(tiles),
            rows: rows.len(),
            first: rows.start,
            spec: spec.clone(),
            number,
            statistics: RefCell::default(),
        }
    }

    /// The gradient, once all tiles have ended.
    pub fn into_gradient(self) -> Words {
        self.gradient.into_inner()
    }

    /// Which of the values that a dropout layer has for these samples (of all tiles together) stay. `per_sample` values
    /// belong to one sample.
    pub(super) fn dropout_mask(
        &self,
        node: usize,
        probability: f64,
        samples: Range<usize>,
        per_sample: usize,
    ) -> Vec<bool> {
        let elements = (self.first + samples.start) * per_sample..(self.first + samples.end) * per_sample;
        self.spec.dropout_mask(self.number, node, probability, elements)
    }

    pub(super) fn add_gradient(&self, place: &Range<usize>, part: &DoubledPartial) {
        elementwise::add_assign(self.gradient.borrow_mut().at_mut(place.clone()), &part.0);
    }

    pub(super) fn note_statistics(
        &self,
        tile: &Tile<'_>,
        place: &Range<usize>,
        mean: &TileShare,
        variance: &TileShare,
        count: usize,
    ) {
        let (mean, variance) = (tile.leave(mean.clone()), tile.leave(variance.clone()));
        self.statistics.borrow_mut().push(Statistics { place: place.clone(), mean, variance, count });
    }

    /// Running averages after this step: `(1 - momentum) old + momentum new`, with the unbiased variance as in PyTorch.
    pub fn running_averages(&self, party: &Party, model: &Model, old: Replicated) -> Result<Replicated, ProtocolError> {
        let mut statistics = self.statistics.take();
        if statistics.is_empty() {
            return Ok(old);
        }
        statistics.sort_by_key(|statistics| statistics.place.start);
        let momenta = model.nodes.iter().filter_map(|node| match node.layer {
            Layer::BatchNorm { momentum, .. } => Some(momentum),
            _ => None,
        });
        let (mut new, mut kept, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for (Statistics { mean, variance, count, .. }, momentum) in statistics.into_iter().zip(momenta) {
            #[allow(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 values")]
            let unbiased = count as f64 / (count as f64 - 1.0) / f64::from(1 << GUARD_BITS);
            for (statistic, scale) in [(mean, 1.0), (variance, unbiased)] {
                kept.extend(vec![rate(1.0 - momentum); statistic.len()]);
                taken.extend(vec![rate(momentum * scale); statistic.len()]);
                new.push(statistic);
            }
        }
        let new = Replicated::concat(&new);
        let (old, new, kept, taken) = (&old, &new, &kept, &taken);
        let pieces = party.run_rows(new.len(), 1, |tile, range| async move {
            let of = |share: &Replicated, rates: &[u64]| {
                let share = tile.enter(share, range.clone());
                DoubledPartial::from_share(&tile, &share, 1).times_each(&rates[range.clone()])
            };
            Ok(tile.leave(trunc_exact(&tile, of(old, kept).plus(&of(new, taken)), RATE_BITS + 1).await?))
        })?;
        Ok(Replicated::concat(&pieces))
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates lie between 0 and 2")]
fn rate(rate: f64) -> u64 {
    (rate * f64::from(1_u32 << RATE_BITS)).round() as u64
}
