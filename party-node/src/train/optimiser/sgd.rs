//! Stochastic gradient descent, with momentum as PyTorch has it.

use super::rates::{Rates, exponent};
use super::{Pace, Piece};
use crate::ops::clamp;
use crate::protocol::{DoubledPartial, ProtocolError, Tile, TileShare, trunc_exact};

/// New weights, and `lr` times PyTorch's momentum buffer if there is one.
pub(super) async fn update(
    tile: &Tile<'_>,
    piece: Piece,
    Pace { spec, lr, last_lr, batch, .. }: Pace<'_>,
) -> Result<(TileShare, Vec<TileShare>), ProtocolError> {
    let Piece { gradient, weights, mut state } = piece;
    let momentum = state.pop();
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
        let new_momentum = momentum.map(|_| step.clone());
        return Ok((weights.minus(&step), new_momentum.into_iter().collect()));
    }
    let (once, nesterov) = rates.integers.split_at(3);
    let sums = combined(gradient.clone(), once).followed_by(&combined(gradient, nesterov));
    let steps = trunc_exact(tile, sums, shift).await?;
    Ok((weights.minus(&steps.slice(n..2 * n)), vec![steps.slice(0..n)]))
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
    fn powers_of_two_above() {
        assert_eq!([1.0, 2.0, 3.0, 64.0, 65.0].map(power_of_two_above), [0, 1, 2, 6, 7]);
    }
}
