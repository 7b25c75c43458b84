//! Stochastic gradient descent on shares. Products with public rates are folded into the truncation of the gradient.

use shared::model::TrainSpec;
use shared::share::Share;

use crate::collective::shard_range;
use crate::ops::clamp;
use crate::protocol::{DoubledPartial, Party, ProtocolError, Tile, TileShare, trunc_exact};

/// Significant bits of a public rate.
const RATE_BITS: i32 = 11;
/// Bits that a learning rate must keep; a smaller one would train with a rate that is far from what was asked.
const RATE_BITS_MIN: u64 = 1 << 5;

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
    /// Keeps at least [`RATE_BITS`] bits of every rate, as far as steps up to 32 still fit a truncation: `2^62` must hold
    /// twice a step with twice the fraction bits and the shift.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shift lies in 0..=24")]
    fn new(rates: &[f64], fraction: u32) -> Self {
        let most = (56 - 2 * fraction as i32).min(24);
        let smallest = rates.iter().filter(|rate| **rate != 0.0).map(|rate| exponent(*rate)).min();
        let shift = (RATE_BITS - smallest.unwrap_or(RATE_BITS)).clamp(0, most);
        let integers: Vec<i64> = rates.iter().map(|rate| (rate * f64::from(1_u32 << shift)).round() as i64).collect();
        let spare = integers.iter().map(|i| i.trailing_zeros()).min().unwrap_or(0).min(shift as u32);
        Self { integers: integers.iter().map(|i| (i >> spare).cast_unsigned()).collect(), shift: shift as u32 - spare }
    }
}

/// The power of two at or below a positive number, on every machine the same.
#[allow(clippy::cast_possible_truncation, reason = "an exponent has 11 bits")]
fn exponent(rate: f64) -> i32 {
    (rate.to_bits() >> 52) as i32 - 1023
}

impl Optimiser {
    /// Refuses a learning rate that fixed point cannot hold.
    pub(super) fn check(spec: &TrainSpec, batch: usize, fraction: u32) -> Result<(), String> {
        #[allow(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 samples")]
        let rate = spec.lr / batch as f64;
        let rates = Rates::new(&[rate], fraction);
        let exact = rates.integers[0] != 0 && rates.integers[0].is_power_of_two();
        if rate == 0.0 || exact || rates.integers[0] >= RATE_BITS_MIN {
            return Ok(());
        }
        let why = "is too small for fixed point; raise train.lr, or lower train.batch or protocol.fraction_bits";
        Err(format!("the learning rate {} over a batch of {batch} {why}", spec.lr))
    }

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
        let (n, fraction) = (gradient.len(), tile.party().fixed().bits());
        #[allow(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 samples")]
        let batch = batch as f64;
        let (gradient, per_sample) = match spec.clip {
            None => (gradient, 1.0 / batch),
            Some(limit) => {
                let power = power_of_two_above(batch);
                (clipped(tile, gradient, power, limit * batch / unit(power)).await?, unit(power) / batch)
            }
        };
        let (mu, carried) = (spec.momentum, if momentum.is_some() { spec.momentum * lr / last_lr } else { 0.0 });
        // Of the gradient, the weights, and the momentum: first for the new momentum, then for Nesterov's step.
        let once = [lr * per_sample, lr * spec.weight_decay, carried];
        let nesterov = [once[0] * (1.0 + mu), once[1] * (1.0 + mu), mu * carried];
        let looks_ahead = spec.nesterov && momentum.is_some();
        let rates = Rates::new(&[&once[..], if looks_ahead { &nesterov[..] } else { &[] }].concat(), fraction);
        let shift = fraction + 1 + rates.shift;
        let combined = |gradient, rates: &[u64]| combined(tile, gradient, &weights, momentum.as_ref(), rates);
        if !looks_ahead {
            let step = trunc_exact(tile, combined(gradient, &rates.integers), shift).await?;
            let new_momentum = momentum.is_some().then(|| step.clone());
            return Ok((weights.minus(&step), new_momentum));
        }
        let (once, nesterov) = rates.integers.split_at(3);
        let mut sums = combined(gradient.clone(), once);
        sums.0.extend(combined(gradient, nesterov).0);
        let steps = trunc_exact(tile, sums, shift).await?;
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

/// The gradient over `2^power`, limited to `+-limit`, again as a doubled partial. Dividing by a power of two first takes
/// any gradient that fits the ring; dividing by the batch would need room for its reciprocal.
async fn clipped(
    tile: &Tile<'_>,
    gradient: DoubledPartial,
    power: u32,
    limit: f64,
) -> Result<DoubledPartial, ProtocolError> {
    let fixed = tile.party().fixed();
    let scaled = trunc_exact(tile, gradient, fixed.bits() + 1 + power).await?;
    let limit = fixed.constant(limit).cast_signed();
    let limited = clamp(tile, &scaled, -limit, limit).await?;
    Ok(DoubledPartial::from_share(tile, &limited, 1 << fixed.bits()))
}

/// The smallest `p` with `2^p >= x`, for `x >= 1`.
fn power_of_two_above(x: f64) -> u32 {
    let below = exponent(x).unsigned_abs();
    below + u32::from(unit(below) < x)
}

fn unit(power: u32) -> f64 {
    f64::from(1_u32 << power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_keep_their_leading_bits() {
        assert_eq!(Rates::new(&[0.5 / 64.0], 16), Rates { integers: vec![1], shift: 7 });
        let rates = Rates::new(&[0.1 / 128.0, 0.9], 16);
        for (integer, want) in rates.integers.iter().zip([0.1 / 128.0, 0.9]) {
            let got = *integer as f64 / f64::from(1_u32 << rates.shift);
            assert!((got / want - 1.0).abs() < 1.0 / 2048.0, "{got} {want}");
        }
    }

    #[test]
    fn a_rate_that_fixed_point_cannot_hold_is_refused() {
        let spec = |lr| TrainSpec { lr, ..TrainSpec::default() };
        assert!(Optimiser::check(&spec(0.1), 128, 16).is_ok());
        assert!(Optimiser::check(&spec(0.1), 128, 20).is_ok());
        assert!(Optimiser::check(&spec(1e-5), 1024, 16).unwrap_err().contains("too small"));
    }

    #[test]
    fn powers_of_two_above() {
        assert_eq!([1.0, 2.0, 3.0, 64.0, 65.0].map(power_of_two_above), [0, 1, 2, 6, 7]);
    }
}
