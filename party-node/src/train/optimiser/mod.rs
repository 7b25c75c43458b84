//! Optimisers on shares: each turns a sum of gradients into new weights. Products with public rates are folded into
//! truncations.

mod adam;
mod rates;
mod sgd;

use shared::model::{Optimizer, TrainSpec};

use crate::collective::shard_range;
use crate::compute::{Compute, Words};
use crate::protocol::{DoubledPartial, Party, ProtocolError, Replicated, TileShare};

/// Optimiser state of one lane: it updates one shard of the parameters and holds that shard's averages.
pub(super) struct Optimiser {
    spec: TrainSpec,
    state: Vec<Replicated>,
    steps: u32,
    last_lr: f64,
}

/// What one tile updates.
struct Piece {
    /// Twice the gradient summed over the batch, with twice the fraction bits.
    gradient: DoubledPartial,
    weights: TileShare,
    state: Vec<TileShare>,
}

/// Public numbers of one step.
#[derive(Clone, Copy)]
struct Pace<'a> {
    spec: &'a TrainSpec,
    lr: f64,
    last_lr: f64,
    /// Samples that the gradient is summed over.
    batch: usize,
    /// This step's number, from 1.
    step: u32,
}

impl Optimiser {
    /// Refuses a learning rate that fixed point cannot hold.
    pub(super) fn check(spec: &TrainSpec, fraction: u32) -> Result<(), String> {
        match spec.optimizer {
            Optimizer::Sgd => rates::check(spec.lr, spec.batch, fraction),
            // The batch is divided out before the rate comes in.
            Optimizer::Adam | Optimizer::Adamw => rates::check(spec.lr, 1, fraction),
        }
    }

    pub(super) fn new(device: &dyn Compute, spec: TrainSpec, parameters: usize, rank: usize, size: usize) -> Self {
        let shard = shard_range(parameters, rank, size).len();
        let averages = match spec.optimizer {
            Optimizer::Sgd => usize::from(spec.momentum > 0.0),
            Optimizer::Adam | Optimizer::Adamw => 2,
        };
        Self { last_lr: spec.lr, spec, state: vec![Replicated::zeros(device, shard); averages], steps: 0 }
    }

    /// Updates a shard of parameters. `gradient` is an additive sharing of twice the gradient summed over `batch`
    /// samples, with twice the fraction bits.
    pub(super) fn update(
        &mut self,
        party: &Party,
        gradient: &Words,
        weights: &Replicated,
        lr: f64,
        batch: usize,
    ) -> Result<Replicated, ProtocolError> {
        self.steps += 1;
        let pace = Pace { spec: &self.spec, lr, last_lr: self.last_lr, batch, step: self.steps };
        let state = &self.state;
        let pieces = party.run_rows(gradient.len(), 1, |tile, range| async move {
            let piece = Piece {
                gradient: DoubledPartial(gradient.at(range.clone()).to_words()),
                weights: tile.enter(weights, range.clone()),
                state: state.iter().map(|share| tile.enter(share, range.clone())).collect(),
            };
            let (weights, state) = match pace.spec.optimizer {
                Optimizer::Sgd => sgd::update(&tile, piece, pace).await?,
                Optimizer::Adam | Optimizer::Adamw => adam::update(&tile, piece, pace).await?,
            };
            let state: Vec<Replicated> = state.into_iter().map(|value| tile.leave(value)).collect();
            Ok((tile.leave(weights), state))
        })?;
        self.last_lr = lr;
        let (updated, states): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
        for (at, state) in self.state.iter_mut().enumerate() {
            *state = Replicated::concat(&states.iter().map(|piece| piece[at].clone()).collect::<Vec<_>>());
        }
        Ok(Replicated::concat(&updated))
    }
}
