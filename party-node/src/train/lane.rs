//! One lane from its first batch to the opened metrics.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use shared::ids::PartyId;
use shared::job::{JobSpec, Reveal, Training, Work};
use shared::share::{Addend, Share};
use shared::wire::Calibration;

use super::evaluate::evaluate;
use super::optimiser::Optimiser;
use super::{LaneError, LaneOutcome, LaneSetup, PartyData, TrainingData, Weights, bench, infer};
use crate::collective::{Collective, CollectiveError, shard_range};
use crate::compute::Words;
use crate::layers::{Network, Step, loss_gradient};
use crate::meter::{Meter, Phase, Snapshot};
use crate::protocol::{Party, ProtocolError, Replicated, open_to_owner, split_in_three};

/// Runs a lane of a job to its end: calibration, training, evaluation, goodbye.
pub fn run_lane(setup: LaneSetup) -> Result<LaneOutcome, LaneError> {
    let LaneSetup { job, lane: _, transport, keys, device, collective, data, counters, stop, progress } = setup;
    let timeout = Duration::from_secs(job.peer_timeout_seconds.into());
    let meter = Meter::new(counters);
    let party = Party::new(transport, keys, device, meter, job.protocol, timeout, stop);
    let mut lane = LaneRun { party, collective, progress, step: None };
    let outcome = lane.work(&job, data.as_ref());
    if outcome.is_err() {
        lane.collective.abort();
    }
    let outcome = outcome?;
    lane.party.meter().switch(Phase::Idle);
    lane.party.close().map_err(|source| LaneError::at(lane.step, source))?;
    Ok(outcome)
}

/// A lane at work.
struct LaneRun {
    party: Party,
    collective: Box<dyn Collective>,
    progress: Box<dyn Fn(usize, usize) + Send>,
    step: Option<usize>,
}

/// Which lanes take part in a step.
#[derive(Clone, Copy, PartialEq)]
enum Team {
    /// This lane computes the whole batch by itself.
    Alone,
    /// All lanes share the batch.
    All,
}

impl LaneRun {
    fn work(&mut self, job: &Arc<JobSpec>, data: Option<&Arc<PartyData>>) -> Result<LaneOutcome, LaneError> {
        self.party.meter().switch(Phase::Compute);
        let (rank, size) = self.place(Team::All);
        match (&job.work, data.map(|data| &**data)) {
            (Work::Train(training), Some(PartyData::Training(data))) => self.train(job, training, data),
            (Work::Infer(inference), Some(PartyData::Inference(data))) => {
                infer::run(&self.party, inference, data, rank, size, &self.progress)
            }
            (Work::Train(_) | Work::Infer(_), _) => Err(LaneError::Job("the job came without its data".into())),
            (Work::Bench(micro), _) => {
                bench::run(&self.party, *micro, rank, size, &job.reveal).map_err(|source| self.peer(source))
            }
        }
    }

    fn train(&mut self, job: &JobSpec, training: &Training, data: &TrainingData) -> Result<LaneOutcome, LaneError> {
        let first = self.collective.rank() == 0;
        Optimiser::check(&training.train, self.party.fixed().bits()).map_err(LaneError::Job)?;
        let device = self.party.device();
        let start = data.start.as_ref().map(|start| start.on(device));
        let mut weights = start.unwrap_or_else(|| initial(&self.party, training));
        let calibration = self.calibrate(training, data, &weights)?;
        let before = self.party.meter().snapshot();
        let start = Instant::now();
        let mut optimiser = self.optimiser(training, Team::All);
        let steps = training.train.steps(training.train_rows);
        let steps = training.max_steps.map_or(steps, |max| steps.min(max));
        let mut outcome = LaneOutcome { calibration, ..LaneOutcome::default() };
        let mut done = 0;
        'epochs: for epoch in 0..training.train.epochs {
            for batch in training.train.batches(epoch, training.train_rows) {
                if done == steps {
                    break 'epochs;
                }
                self.step = Some(done);
                let begun = Instant::now();
                let lr = training.train.learning_rate(epoch);
                weights = self.step(training, data, &weights, &mut optimiser, &batch, lr, Team::All)?;
                outcome.step_seconds.push(begun.elapsed().as_secs_f64());
                done += 1;
                self.count(batch.len());
                if first {
                    (self.progress)(done, steps);
                }
            }
        }
        outcome.train_seconds = start.elapsed().as_secs_f64();
        outcome.during = self.party.meter().snapshot().since(&before);
        if first {
            let alive = || (self.progress)(done, steps);
            let Weights { parameters, averages } = weights;
            let opened = evaluate(&self.party, &training.model, (&parameters, &averages), data, &job.reveal, &alive);
            outcome.opened = opened.map_err(|source| self.peer(source))?;
            let weights = Replicated::concat(&[parameters, averages]);
            if job.reveal.contains(&Reveal::Weights) {
                let addend = weights_for_owner(&self.party, &weights).map_err(|source| self.peer(source))?;
                outcome.result = Some((Reveal::Weights, addend));
            }
            outcome.parameters = Some(weights.into_share());
        }
        Ok(outcome)
    }

    /// One training step: this lane's slice of the batch, the sum over the lanes, the update of this lane's shard.
    #[allow(clippy::too_many_arguments, reason = "a step is exactly what these name")]
    fn step(
        &mut self,
        training: &Training,
        data: &TrainingData,
        weights: &Weights,
        optimiser: &mut Optimiser,
        batch: &[usize],
        lr: f64,
        team: Team,
    ) -> Result<Weights, LaneError> {
        let (rank, size) = self.place(team);
        let slice = shard_range(batch.len(), rank, size);
        let number = self.step.map_or(0, |step| step as u64);
        let computed = gradient(&self.party, training, data, weights, (number, batch, slice));
        let (gradient, averages) = computed.map_err(|source| self.peer(source))?;
        let parameters = &weights.parameters;
        if size == 1 {
            let updated = optimiser.update(&self.party, &gradient, parameters, lr, batch.len());
            let parameters = updated.map_err(|source| self.peer(source))?;
            return Ok(Weights { parameters, averages });
        }
        let shard = self.among_lanes(8 * gradient.len(), |lanes| lanes.reduce_scatter(&gradient))?;
        let own = parameters.piece(shard_range(parameters.len(), rank, size));
        let updated = optimiser.update(&self.party, &shard, &own, lr, batch.len());
        let updated = updated.map_err(|source| self.peer(source))?;
        let len = parameters.len();
        let parameters = self.among_lanes(16 * len, |lanes| {
            let [first, second] = [&updated.first, &updated.second].map(|shard| lanes.all_gather(shard, len));
            Ok(Replicated { first: first?, second: second? })
        })?;
        Ok(Weights { parameters, averages })
    }

    /// Measures a step of one lane against a step of all lanes, on the same batch and on a batch for each.
    fn calibrate(
        &mut self,
        training: &Training,
        data: &TrainingData,
        weights: &Weights,
    ) -> Result<Option<Calibration>, LaneError> {
        if training.calibration_steps == 0 || self.collective.size() == 1 {
            return Ok(None);
        }
        let batch: Vec<usize> = (0..training.train.batch).map(|i| i % training.train_rows).collect();
        let weak_batch = batch.repeat(self.collective.size());
        let (mut one_lane, mut computing) = (0.0, 0.0);
        if self.collective.rank() == 0 {
            let before = self.party.meter().snapshot();
            one_lane = self.time_steps(training, data, weights, &batch, Team::Alone)?;
            computing = computing_share(&self.party.meter().snapshot().since(&before));
            #[allow(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 samples")]
            let rate = (batch.len() as f64 / one_lane).to_bits();
            self.party.meter().counters().baseline_rate_bits.store(rate, Relaxed);
        }
        self.among_lanes(0, |lanes| lanes.barrier())?;
        let strong = self.time_steps(training, data, weights, &batch, Team::All)?;
        let weak = self.time_steps(training, data, weights, &weak_batch, Team::All)?;
        Ok(Some(Calibration { one_lane, strong, weak, one_lane_compute: computing * one_lane }))
    }

    /// Median seconds of a step on a fixed batch, after one to warm up; the results are thrown away.
    fn time_steps(
        &mut self,
        training: &Training,
        data: &TrainingData,
        weights: &Weights,
        batch: &[usize],
        team: Team,
    ) -> Result<f64, LaneError> {
        let mut optimiser = self.optimiser(training, team);
        let mut seconds = Vec::with_capacity(training.calibration_steps);
        for i in 0..=training.calibration_steps {
            if self.collective.rank() == 0 {
                (self.progress)(0, training.train.steps(training.train_rows));
            }
            let begun = Instant::now();
            self.step(training, data, weights, &mut optimiser, batch, training.train.lr, team)?;
            if i > 0 {
                seconds.push(begun.elapsed().as_secs_f64());
            }
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    fn place(&self, team: Team) -> (usize, usize) {
        if team == Team::Alone { (0, 1) } else { (self.collective.rank(), self.collective.size()) }
    }

    fn optimiser(&self, training: &Training, team: Team) -> Optimiser {
        let (rank, size) = self.place(team);
        Optimiser::new(self.party.device(), training.train.clone(), training.model.parameters(), rank, size)
    }

    fn among_lanes<T>(
        &mut self,
        bytes: usize,
        work: impl FnOnce(&mut dyn Collective) -> Result<T, CollectiveError>,
    ) -> Result<T, LaneError> {
        let step = self.step;
        let Self { party, collective, .. } = self;
        party.meter().counters().allreduce_bytes.fetch_add(bytes as u64, Relaxed);
        party
            .meter()
            .within(Phase::Allreduce, || work(&mut **collective))
            .map_err(|source| LaneError::Collective { step, source })
    }

    fn count(&self, samples: usize) {
        let counters = self.party.meter().counters();
        counters.steps.fetch_add(1, Relaxed);
        counters.samples.fetch_add(samples as u64, Relaxed);
    }

    fn peer(&self, source: ProtocolError) -> LaneError {
        LaneError::at(self.step, source)
    }
}

/// The public initial values, which need no randomness.
fn initial(party: &Party, training: &Training) -> Weights {
    let fixed = party.fixed();
    let public = |values: Vec<f64>| {
        let words = values.iter().map(|&value| fixed.constant(value)).collect();
        Replicated::of_public(party.device(), party.me(), words)
    };
    Weights {
        parameters: public(training.model.initial_parameters(training.train.seed)),
        averages: public(training.model.initial_buffers()),
    }
}

/// This party's addend of the trained model.
fn weights_for_owner(party: &Party, weights: &Replicated) -> Result<Addend, ProtocolError> {
    party.meter().revealed(Reveal::Weights);
    let mut addends = party.run(&PartyId::ALL[..1], |tile, _| async move {
        Ok(open_to_owner(&tile, &tile.enter(weights, 0..weights.len())))
    })?;
    Ok(addends.pop().expect("one tile, one result"))
}

/// An additive sharing of twice the gradient, summed over the samples of this lane's slice, and the running averages
/// after them.
fn gradient(
    party: &Party,
    training: &Training,
    data: &TrainingData,
    weights: &Weights,
    (number, batch, slice): (u64, &[usize], Range<usize>),
) -> Result<(Words, Replicated), ProtocolError> {
    let (model, parameters) = (&training.model, &weights.parameters);
    let (inputs, outputs) = (model.inputs(), model.outputs());
    let rows = &batch[slice.clone()];
    let (x, y) = party
        .meter()
        .within(Phase::Data, || (gather(&data.train_x, rows, inputs), gather(&data.train_y, rows, outputs)));
    let (tiles, network) = (split_in_three(slice.len()), &Network::new(model, parameters));
    let step = Step::new(&training.train, number, party.device().zeros(parameters.len()), slice.clone(), tiles.len());
    let (x, y, collected) = (&x, &y, &step);
    party.run_in(&tiles, |tile, rows| async move {
        let features = tile.enter(x, rows.start * inputs..rows.end * inputs);
        let targets = tile.enter(y, rows.start * outputs..rows.end * outputs);
        let (scores, trace) = network.forward(&tile, features, rows, Some(collected)).await?;
        let gradient = loss_gradient(&tile, model.loss, scores, &targets, outputs).await?;
        network.backward(&tile, trace, gradient, collected).await
    })?;
    let averages = step.running_averages(party, model, weights.averages.clone())?;
    Ok((step.into_gradient(), averages))
}

/// Rows of a shared matrix.
fn gather(share: &Share, rows: &[usize], width: usize) -> Share {
    let pick = |words: &[u64]| {
        let mut picked = Vec::with_capacity(rows.len() * width);
        rows.iter().for_each(|&row| picked.extend_from_slice(&words[row * width..(row + 1) * width]));
        picked
    };
    Share { first: pick(&share.first), second: pick(&share.second) }
}

/// Of the time in between, the share that more lanes would divide among them.
fn computing_share(during: &Snapshot) -> f64 {
    let own = [Phase::Data, Phase::Compute, Phase::Truncate].map(|phase| during.phase_seconds[phase as usize]);
    own.iter().sum::<f64>() / during.phase_seconds.iter().sum::<f64>()
}
