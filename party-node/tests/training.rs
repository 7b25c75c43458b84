//! Training over in-memory transports: lanes agree with one lane, and shares with float64.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop and say where")]

use party_node::train::{LaneOutcome, PartyData, StoredWeights, TrainingData};
use party_node::world::World;
use shared::fixed::FixedPoint;
use shared::job::{JobSpec, PROTOCOL_VERSION, ProtocolSpec, Reveal, Start, Training, Truncation, Work};
use shared::model::{Loss, Model, Schedule, TrainSpec};
use shared::share::{Addend, Share, join};

mod lanes;

/// A data set in the clear.
struct Table {
    x: Vec<f64>,
    y: Vec<f64>,
    rows: usize,
}

/// Noisy points on either side of a plane.
fn table(rows: usize, inputs: usize, outputs: usize) -> Table {
    let noise = |i: usize| ((i as f64 * 12.9898).sin() * 43_758.545_3).fract();
    let x: Vec<f64> = (0..rows * inputs).map(noise).collect();
    let mut y = vec![0.0; rows * outputs];
    for (row, features) in x.chunks(inputs).enumerate() {
        let side: f64 =
            features.iter().enumerate().map(|(i, v)| v * (i as f64 + 1.0) * if i % 2 == 0 { 1.0 } else { -1.0 }).sum();
        let class = (1..outputs).filter(|&class| side + 3.0 >= class as f64).count();
        y[row * outputs + class] = if outputs == 1 { f64::from(u8::from(side > 0.0)) } else { 1.0 };
    }
    Table { x, y, rows }
}

fn job(model: Model, train: TrainSpec, lanes: u16, rows: usize, reveal: Vec<Reveal>) -> JobSpec {
    let work = Training {
        model,
        train,
        train_rows: rows,
        test_rows: rows,
        data_digest: [0; 32],
        start: Start::Seeded,
        max_steps: None,
        calibration_steps: 0,
    };
    JobSpec {
        version: PROTOCOL_VERSION.into(),
        lanes,
        threads: 1,
        protocol: ProtocolSpec::default(),
        work: Work::Train(Box::new(work)),
        reveal,
        peer_timeout_seconds: 20,
    }
}

/// Runs a job on all lanes of all parties; outcomes of lane 0, by party.
fn run(job: &JobSpec, table: &Table) -> Vec<LaneOutcome> {
    run_from(job, table, None)
}

/// As [`run`], from shared parameters.
fn run_from(job: &JobSpec, table: &Table, start: Option<&[Share; 3]>) -> Vec<LaneOutcome> {
    let (world, fixed) = (World::new(11), job.protocol.fraction_bits);
    let encode = |values: &[f64]| -> Vec<u64> { values.iter().map(|&v| fixed.constant(v)).collect() };
    let (x, y) = (world.share(0, &encode(&table.x)), world.share(1, &encode(&table.y)));
    let outcomes = lanes::run(job, |party| {
        PartyData::Training(TrainingData {
            train_x: x[party.index()].clone(),
            train_y: y[party.index()].clone(),
            test_x: x[party.index()].clone(),
            test_y: y[party.index()].clone(),
            start: start
                .map(|start| StoredWeights { parameters: start[party.index()].clone(), averages: Share::zeros(0) }),
        })
    });
    outcomes.into_iter().map(|mut party| party.remove(0)).collect()
}

fn parameters(outcomes: &[LaneOutcome]) -> Vec<f64> {
    parameters_in(FixedPoint::DEFAULT, outcomes)
}

fn parameters_in(fixed: FixedPoint, outcomes: &[LaneOutcome]) -> Vec<f64> {
    let shares: Vec<Share> = outcomes.iter().map(|o| o.parameters.clone().unwrap()).collect();
    let words = join(&shares.try_into().unwrap()).expect("the replicated copies agree");
    words.into_iter().map(|w| fixed.decode(w)).collect()
}

fn largest_difference(one: &[f64], two: &[f64]) -> f64 {
    one.iter().zip(two).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

#[test]
fn lanes_equal_one_lane_up_to_rounding_for_any_batch_size() {
    let table = table(37, 5, 3);
    let model = Model::mlp(5, &[6], 3, Loss::SoftmaxCrossEntropy);
    // The last batch has one sample, fewer than lanes.
    let train = TrainSpec { epochs: 2, batch: 9, lr: 0.5, ..TrainSpec::default() };
    let trained = |lanes| parameters(&run(&job(model.clone(), train.clone(), lanes, table.rows, vec![]), &table));
    let one = trained(1);
    for lanes in [2, 4] {
        let difference = largest_difference(&one, &trained(lanes));
        assert!(difference < 2e-3, "{lanes} lanes differ from one by {difference}");
    }
}

#[test]
fn logistic_regression_learns_and_opens_only_what_the_policy_names() {
    let table = table(200, 4, 1);
    let train = TrainSpec { epochs: 10, batch: 32, lr: 1.0, ..TrainSpec::default() };
    let named = vec![Reveal::TestAccuracy, Reveal::TestConfusion, Reveal::TestAuroc];
    let outcomes = run(&job(Model::logistic(4), train.clone(), 1, table.rows, named.clone()), &table);
    let weights = parameters(&outcomes);
    let scores: Vec<f64> =
        table.x.chunks(4).map(|x| x.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>() + weights[4]).collect();
    let hits = scores.iter().zip(&table.y).filter(|(s, y)| (**s >= 0.0) == (**y == 1.0)).count();
    let accuracy = hits as f64 / 200.0;
    assert!(accuracy > 0.9, "accuracy {accuracy}");
    let mut counts = vec![0.0; 4];
    for (score, y) in scores.iter().zip(&table.y) {
        counts[2 * usize::from(*y == 1.0) + usize::from(*score >= 0.0)] += 1.0;
    }
    let (mut pairs, mut above) = (0.0, 0.0);
    for (s, y) in scores.iter().zip(&table.y) {
        for (r, z) in scores.iter().zip(&table.y).filter(|(_, z)| *y == 1.0 && **z == 0.0) {
            (pairs, above) = (pairs + 1.0, above + f64::from(u8::from(s > r)) + 0.0 * z);
        }
    }
    for outcome in &outcomes {
        assert_eq!(outcome.opened.iter().map(|(what, _)| *what).collect::<Vec<_>>(), named);
        assert!((outcome.opened[0].1[0] - accuracy).abs() < 1e-4, "{:?} {accuracy}", outcome.opened[0].1);
        assert!((outcome.opened[2].1[0] - above / pairs).abs() < 1e-3, "{:?} {}", outcome.opened[2].1, above / pairs);
        assert_eq!(outcome.opened[1].1, counts);
    }
    let silent = run(&job(Model::logistic(4), train, 1, table.rows, vec![]), &table);
    assert!(silent.iter().all(|outcome| outcome.opened.is_empty()));
}

#[test]
fn training_goes_on_from_shared_parameters_and_hands_out_weights_only_if_the_policy_says_so() {
    let table = table(40, 3, 1);
    let train = |epochs| TrainSpec { epochs, batch: 40, lr: 0.2, ..TrainSpec::default() };
    let job = |epochs, start, reveal| {
        let mut job = job(Model::mlp(3, &[], 1, Loss::MeanSquared), train(epochs), 2, table.rows, reveal);
        let Work::Train(training) = &mut job.work else { unreachable!("it trains") };
        training.start = start;
        job
    };
    let whole = parameters(&run(&job(6, Start::Seeded, vec![]), &table));
    let half = run(&job(3, Start::Seeded, vec![Reveal::TestLoss]), &table);
    assert!(half.iter().all(|outcome| outcome.result.is_none() && outcome.opened.len() == 1));
    let start: Vec<Share> = half.iter().map(|outcome| outcome.parameters.clone().unwrap()).collect();
    let shared = Start::Shared { model_digest: [0; 32] };
    let job = job(3, shared, vec![Reveal::Weights]);
    let outcomes = run_from(&job, &table, Some(&start.try_into().unwrap()));
    let resumed = parameters(&outcomes);
    let difference = largest_difference(&resumed, &whole);
    assert!(difference < 1e-3 && largest_difference(&resumed, &parameters(&half)) > 0.01, "{difference}");

    assert!(outcomes.iter().all(|outcome| outcome.opened.is_empty()));
    let (what, addends): (Vec<_>, Vec<Addend>) = outcomes.into_iter().map(|outcome| outcome.result.unwrap()).unzip();
    assert_eq!(what, [Reveal::Weights; 3]);
    let words = Addend::join(&addends.try_into().unwrap()).unwrap();
    let weights: Vec<f64> = words.into_iter().map(|word| FixedPoint::DEFAULT.decode(word)).collect();
    assert_eq!(weights, resumed);
}

#[test]
fn every_optimiser_option_follows_float64() {
    let table = table(64, 3, 1);
    let model = Model::mlp(3, &[], 1, Loss::MeanSquared);
    let base = TrainSpec { epochs: 3, batch: 16, lr: 0.2, ..TrainSpec::default() };
    let options = [
        TrainSpec { momentum: 0.9, ..base.clone() },
        TrainSpec { momentum: 0.8, nesterov: true, weight_decay: 0.01, ..base.clone() },
        TrainSpec { clip: Some(0.05), ..base.clone() },
        TrainSpec { momentum: 0.5, schedule: Schedule::Step { every: 1, factor: 0.5 }, ..base.clone() },
        TrainSpec { schedule: Schedule::Cosine, weight_decay: 0.1, ..base },
    ];
    for train in options {
        let plain = linear_regression(&table, &train);
        for (fraction, trunc) in
            [(16, Truncation::Exact), (16, Truncation::Fast), (12, Truncation::Exact), (20, Truncation::Exact)]
        {
            let fraction_bits = FixedPoint::new(fraction).unwrap();
            let protocol = ProtocolSpec { fraction_bits, trunc, ..ProtocolSpec::default() };
            let job = JobSpec { protocol, ..job(model.clone(), train.clone(), 1, table.rows, vec![]) };
            let secret = parameters_in(fraction_bits, &run(&job, &table));
            let difference = largest_difference(&secret, &plain);
            let bound = 2e-3_f64.max(20.0 / fraction_bits.scale());
            assert!(difference < bound, "{fraction} bits, {train:?}: {secret:?} {plain:?}");
        }
    }
}

/// Float64 linear regression with PyTorch's rules for momentum and decay.
fn linear_regression(table: &Table, train: &TrainSpec) -> Vec<f64> {
    let (mut w, mut buffer) = ([0.0; 4], [0.0; 4]);
    for epoch in 0..train.epochs {
        for batch in train.batches(epoch, table.rows) {
            let mut gradient = [0.0; 4];
            for &row in &batch {
                let x = &table.x[row * 3..row * 3 + 3];
                let error = x.iter().zip(&w).map(|(x, w)| x * w).sum::<f64>() + w[3] - table.y[row];
                for (g, x) in gradient.iter_mut().zip(x.iter().chain([&1.0])) {
                    *g += error * x / batch.len() as f64;
                }
            }
            for i in 0..4 {
                let limit = train.clip.unwrap_or(f64::INFINITY);
                let g = gradient[i].clamp(-limit, limit) + train.weight_decay * w[i];
                buffer[i] = train.momentum * buffer[i] + g;
                let step = if train.nesterov { g + train.momentum * buffer[i] } else { buffer[i] };
                w[i] -= train.learning_rate(epoch) * step;
            }
        }
    }
    w.to_vec()
}
