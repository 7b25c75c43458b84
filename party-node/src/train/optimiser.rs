//! Stochastic gradient descent on shares. Products with public rates are folded into the truncation of the gradient.

use shared::model::TrainSpec;
use shared::share::Share;

use crate::collective::shard_range;
use crate::ops::clamp;
use crate::protocol::{DoubledPartial, Party, ProtocolError, Tile, TileShare, trunc};

/// Significant bits of a public rate.
const RATE_BITS: i32 = 11;
/// Most bits by which rates widen a truncation; leaves room for steps up to 2^(29-24).
const RATE_SHIFT_MAX: i32 = 24;

/// Optimiser state of one lane: it updates one shard of the parameters and holds that shard's momentum.
pub(super) struct Optimiser {
    spec: TrainSpec,
    /// `lr` times PyTorch's momentum buffer, of this lane's shard.
    momentum: Option<Share>,
    last_lr: f64,
}

/// Public rates as integers over a power of two.
#[derive(Debug, PartialEq, Clone)]
struct Rates {
    integers: Vec<u64>,
    shift: u32,
}

impl Rates {
    /// Keeps at least [`RATE_BITS`] bits of every rate if [`RATE_SHIFT_MAX`] allows.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shift lies in 0..=24")]
    fn new(rates: &[f64]) -> Self {
        let smallest = rates.iter().filter(|rate| **rate != 0.0).map(|rate| rate.abs().log2().floor() as i32).min();
        let shift = (RATE_BITS - smallest.unwrap_or(RATE_BITS)).clamp(0, RATE_SHIFT_MAX);
        let integers: Vec<i64> = rates.iter().map(|rate| (rate * f64::from(1_u32 << shift)).round() as i64).collect();
        let spare = integers.iter().map(|i| i.trailing_zeros()).min().unwrap_or(0).min(shift as u32);
        Self { integers: integers.iter().map(|i| (i >> spare).cast_unsigned()).collect(), shift: shift as u32 - spare }
    }
}

impl Optimiser {
    pub(super) fn new(spec: TrainSpec, parameters: usize, rank: usize, size: usize) -> Self {
        let shard = shard_range(parameters, rank, size).len();
        let momentum = (spec.momentum > 0.0).then(|| Share::zeros(shard));
        Self { last_lr: spec.lr, spec, momentum }
    }

    /// Updates a shard of parameters. `gradient` is an additive sharing of twice the gradient summed over `batch`
    /// samples, with twice the fraction bits.
    pub(super) fn update(
        &mut self,
        party: &Party,
        gradient: &[u64],
        weights: &Share,
        lr: f64,
        batch: usize,
    ) -> Result<Share, ProtocolError> {
        let (spec, momentum, last_lr) = (&self.spec, self.momentum.as_ref(), self.last_lr);
        let pieces = party.run_rows(gradient.len(), 1, |tile, range| async move {
            let piece = Piece {
                gradient: DoubledPartial(gradient[range.clone()].to_vec()),
                weights: tile.enter(weights, range.clone()),
                momentum: momentum.map(|momentum| tile.enter(momentum, range)),
            };
            let (weights, momentum) = piece.update(&tile, spec, lr, last_lr, batch).await?;
            Ok((tile.leave(weights), momentum.map_or_else(Share::default, |momentum| tile.leave(momentum))))
        })?;
        self.last_lr = lr;
        let (updated, momentum): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
        if self.momentum.is_some() {
            self.momentum = Some(Share::concat(&momentum));
        }
        Ok(Share::concat(&updated))
    }
}

/// What one tile updates.
struct Piece {
    gradient: DoubledPartial,
    weights: TileShare,
    momentum: Option<TileShare>,
}

impl Piece {
    async fn update(
        self,
        tile: &Tile<'_>,
        spec: &TrainSpec,
        lr: f64,
        last_lr: f64,
        batch: usize,
    ) -> Result<(TileShare, Option<TileShare>), ProtocolError> {
        let Piece { gradient, weights, momentum } = self;
        let n = gradient.len();
        #[allow(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 samples")]
        let batch = batch as f64;
        let (gradient, per_sample) = match spec.clip {
            None => (gradient, 1.0 / batch),
            Some(limit) => (clipped(tile, gradient, batch, limit).await?, 1.0),
        };
        let (mu, carried) = (spec.momentum, if momentum.is_some() { spec.momentum * lr / last_lr } else { 0.0 });
        // Of the gradient, the weights, and the momentum: first for the new momentum, then for Nesterov's step.
        let once = [lr * per_sample, lr * spec.weight_decay, carried];
        let nesterov = [once[0] * (1.0 + mu), once[1] * (1.0 + mu), mu * carried];
        let looks_ahead = spec.nesterov && momentum.is_some();
        let rates = Rates::new(&[&once[..], if looks_ahead { &nesterov[..] } else { &[] }].concat());
        let fraction = tile.party().fixed().bits();
        let shift = fraction + 1 + rates.shift;
        let combined = |gradient, rates: &[u64]| combined(tile, gradient, &weights, momentum.as_ref(), rates);
        if !looks_ahead {
            let step = trunc(tile, combined(gradient, &rates.integers), shift).await?;
            let new_momentum = momentum.is_some().then(|| step.clone());
            return Ok((weights.minus(&step), new_momentum));
        }
        let (once, nesterov) = rates.integers.split_at(3);
        let mut sums = combined(gradient.clone(), once);
        sums.0.extend(combined(gradient, nesterov).0);
        let steps = trunc(tile, sums, shift).await?;
        Ok((weights.minus(&steps.slice(n..2 * n)), Some(steps.slice(0..n))))
    }
}

/// The gradient, the weights and the momentum, each times its rate.
fn combined(
    tile: &Tile<'_>,
    gradient: DoubledPartial,
    weights: &TileShare,
    momentum: Option<&TileShare>,
    rates: &[u64],
) -> DoubledPartial {
    let fraction = tile.party().fixed().bits();
    let mut sum = gradient.times(rates[0]);
    for (share, rate) in [(Some(weights), rates[1]), (momentum, rates[2])] {
        if let (Some(share), true) = (share, rate != 0) {
            sum = sum.plus(&DoubledPartial::from_share(tile, share, rate << fraction));
        }
    }
    sum
}

/// The averaged gradient, limited to `+-limit`, again as a doubled partial.
async fn clipped(
    tile: &Tile<'_>,
    gradient: DoubledPartial,
    batch: f64,
    limit: f64,
) -> Result<DoubledPartial, ProtocolError> {
    let (fixed, rates) = (tile.party().fixed(), Rates::new(&[1.0 / batch]));
    let mean = trunc(tile, gradient.times(rates.integers[0]), fixed.bits() + 1 + rates.shift).await?;
    let limit = fixed.constant(limit).cast_signed();
    let limited = clamp(tile, &mean, -limit, limit).await?;
    Ok(DoubledPartial::from_share(tile, &limited, 1 << fixed.bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_keep_their_leading_bits() {
        assert_eq!(Rates::new(&[0.5 / 64.0]), Rates { integers: vec![1], shift: 7 });
        let rates = Rates::new(&[0.1 / 128.0, 0.9]);
        for (integer, want) in rates.integers.iter().zip([0.1 / 128.0, 0.9]) {
            let got = *integer as f64 / f64::from(1_u32 << rates.shift);
            assert!((got / want - 1.0).abs() < 1.0 / 2048.0, "{got} {want}");
        }
    }
}
