//! What follows the gradients: running averages, the optimiser's step, and batch-norms folded away for evaluation.

use shared::model::{Layer, Model, Optimizer, Source, TrainSpec, Wiring};

use super::walk::Walk;

/// Bits of the rates by which running averages, and those of Adam, move.
const AVERAGE_BITS: u32 = 20;
const ADAM_BITS: u32 = 24;
/// Significant bits that the optimiser keeps of a public rate.
const RATE_BITS: i32 = 11;

/// New running averages of batch-norms.
pub(super) fn averages(walk: &mut Walk, wiring: &Wiring) {
    if wiring.buffers() > 0 {
        walk.begin_elements(wiring.buffers());
        walk.trunc_exact(walk.each(1), AVERAGE_BITS + 1);
    }
}

/// New weights.
pub(super) fn update(walk: &mut Walk, train: &TrainSpec, parameters: usize) {
    walk.begin_elements(parameters);
    match train.optimizer {
        Optimizer::Sgd => sgd(walk, train),
        Optimizer::Adam | Optimizer::Adamw => adam(walk, train),
    }
}

#[allow(clippy::cast_precision_loss, reason = "batches are far below 2^52")]
fn sgd(walk: &mut Walk, train: &TrainSpec) {
    let (n, f, batch) = (walk.each(1), walk.fraction(), train.batch as f64);
    let mut per_sample = 1.0 / batch;
    if let Some(clip) = train.clip {
        let power = train.batch.next_power_of_two();
        per_sample *= power as f64;
        walk.trunc_exact(n, f + 1 + power.ilog2());
        let limit = clip / per_sample;
        walk.clamp(n, -limit, limit);
    }
    let mu = train.momentum;
    let once = [train.lr * per_sample, train.lr * train.weight_decay, mu];
    let nesterov = [once[0] * (1.0 + mu), once[1] * (1.0 + mu), mu * mu];
    let looks_ahead = train.nesterov && mu > 0.0;
    let rates = [&once[..], if looks_ahead { &nesterov[..] } else { &[] }].concat();
    walk.trunc_exact(n.times(if looks_ahead { 2 } else { 1 }), f + 1 + rate_shift(&rates, f));
}

#[allow(clippy::cast_precision_loss, reason = "batches are far below 2^52")]
fn adam(walk: &mut Walk, train: &TrainSpec) {
    let (n, f) = (walk.each(1), walk.fraction());
    let gained = f64::from(1_u32 << ((walk.spec().compare_bits - 2 - f).min(14) / 2));
    let coupled = train.optimizer == Optimizer::Adam;
    let decay = |of: f64, here: bool| if here { of * train.weight_decay } else { 0.0 };
    walk.trunc_exact(n, f + 1 + rate_shift(&[gained / train.batch as f64, decay(gained, coupled)], f));
    let limit = train.clip.map_or(gained, |clip| (clip * gained).min(gained));
    walk.clamp(n, -limit, limit);
    walk.trunc_exact(n, f + 1);
    walk.trunc_exact(n.times(2), ADAM_BITS + 1);
    walk.inverse_sqrt(n);
    walk.trunc_exact(n, f + 1 + rate_shift(&[train.lr, decay(train.lr, !coupled)], f));
}

/// Bits by which public rates widen a truncation; none beyond those that a power of two needs.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are at most 2^20, shifts 24")]
fn rate_shift(rates: &[f64], fraction: u32) -> u32 {
    let exponent = |rate: &f64| (rate.to_bits() >> 52) as i32 - 1023;
    let most = (56 - 2 * fraction.cast_signed()).min(24);
    let smallest = rates.iter().filter(|rate| **rate != 0.0).map(exponent).min();
    let shift = (RATE_BITS - smallest.unwrap_or(RATE_BITS)).clamp(0, most) as u32;
    let spare = rates.iter().map(|rate| ((rate * f64::from(1_u32 << shift)).round() as u64).trailing_zeros()).min();
    shift - spare.unwrap_or(0).min(shift)
}

/// What becomes of a batch-norm in evaluation.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Folding {
    /// It is none.
    Kept,
    /// It goes into the product whose node this is.
    Into(usize),
    /// It becomes a scale and a shift.
    Scale,
}

/// Which batch-norms go where.
pub(super) fn foldings(model: &Model, wiring: &Wiring) -> Vec<Folding> {
    let mut all: Vec<Folding> = Vec::new();
    for node in &model.nodes {
        let batch_norm = matches!(node.layer, Layer::BatchNorm { .. });
        let product = match node.inputs[0] {
            Source::Node(before) if wiring.consumers(before) == 1 => match (all[before], model.nodes[before].layer) {
                (Folding::Into(product), _) => Some(product),
                (Folding::Kept, Layer::Linear { .. } | Layer::Conv(_)) => Some(before),
                _ => None,
            },
            _ => None,
        };
        all.push(if batch_norm { product.map_or(Folding::Scale, Folding::Into) } else { Folding::Kept });
    }
    all
}

/// Folds a batch-norm away.
pub(super) fn fold(walk: &mut Walk, wiring: &Wiring, node: usize, folding: Folding) {
    if folding == Folding::Kept {
        return;
    }
    walk.begin_elements(wiring.input(node).channels);
    let n = walk.each(1);
    walk.inverse_sqrt(n);
    walk.product(n);
    walk.product(n);
    if let Folding::Into(product) = folding {
        let place = wiring.place(product);
        walk.begin_elements(place.biases.end - place.weights.start);
        walk.product(walk.each(1));
    }
}
