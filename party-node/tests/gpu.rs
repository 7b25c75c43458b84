//! Training on GPUs gives the same shares as on processors, bit by bit, whatever each party computes with, and no share
//! visits the host on the way. The GPU is an emulated one, which plays the same kernels; with `MPC_TEST_DEVICE=cuda` it
//! is the first of this machine.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop and say where")]

use std::sync::{Arc, Mutex};

use party_node::compute::cuda::Gpu;
use party_node::compute::{Compute, CpuDevice, GpuDevice};
use party_node::train::{LaneOutcome, PartyData, TrainingData};
use party_node::world::{World, emulated_gpu};
use shared::ids::PartyId;
use shared::job::{JobSpec, PROTOCOL_VERSION, ProtocolSpec, Reveal, Start, Training, Work};
use shared::model::{Conv, Layer, Loss, Model, Optimizer, Pool, Shape, TrainSpec};
use shared::share::Share;

mod lanes;

const ROWS: usize = 21;

fn job(model: Model, train: TrainSpec, lanes: u16) -> JobSpec {
    let reveal = match model.loss {
        Loss::SoftmaxCrossEntropy => vec![Reveal::TestAccuracy],
        Loss::BinaryCrossEntropy => vec![Reveal::TestAccuracy, Reveal::TestAuroc],
        _ => vec![Reveal::TestLoss],
    };
    let work = Training {
        model,
        train,
        train_rows: ROWS,
        test_rows: ROWS,
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
        peer_timeout_seconds: 120,
    }
}

/// What a party's first lane ends with.
#[derive(PartialEq)]
struct Trained {
    weights: Share,
    opened: Vec<(Reveal, Vec<f64>)>,
}

/// What every party ends with.
fn trained(job: &JobSpec, device: impl Fn(PartyId) -> Arc<dyn Compute>) -> Vec<Trained> {
    let Work::Train(training) = &job.work else { unreachable!("it trains") };
    let (world, fixed) = (World::new(11), job.protocol.fraction_bits);
    let (inputs, outputs) = (training.model.inputs(), training.model.outputs());
    let value = |i: usize| f64::from(u32::try_from(i * 7919 % 1000).unwrap()) / 500.0 - 1.0;
    let x: Vec<u64> = (0..ROWS * inputs).map(|i| fixed.constant(value(i))).collect();
    let hot = |i: usize| i % outputs == i / outputs % outputs.max(2);
    let y: Vec<u64> = (0..ROWS * outputs).map(|i| fixed.constant(f64::from(u8::from(hot(i))))).collect();
    let (x, y) = (world.share(0, &x), world.share(1, &y));
    let outcomes = lanes::run_on(job, device, |party| {
        let [x, y] = [&x, &y].map(|shares| shares[party.index()].clone());
        PartyData::Training(TrainingData { train_x: x.clone(), train_y: y.clone(), test_x: x, test_y: y, start: None })
    });
    let first = |mut lanes: Vec<LaneOutcome>| lanes.remove(0);
    let of = |outcome: LaneOutcome| Trained { weights: outcome.parameters.unwrap(), opened: outcome.opened };
    outcomes.into_iter().map(first).map(of).collect()
}

/// Whether a GPU takes the place of the emulated one.
fn on_gpu() -> bool {
    std::env::var("MPC_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

fn check(model: &Model, train: &TrainSpec, lanes: u16) {
    if !on_gpu() && emulated_gpu().is_none() {
        assert!(std::env::var_os("CI").is_none(), "a C++ compiler belongs to the machines that check changes");
        return;
    }
    let gpus = Mutex::new(Vec::new());
    let gpu = || {
        let gpu = if on_gpu() { Gpu::open(0).unwrap() } else { emulated_gpu().unwrap() };
        gpus.lock().unwrap().push(gpu.clone());
        Arc::new(GpuDevice::new(gpu)) as Arc<dyn Compute>
    };
    let cpu = || Arc::new(CpuDevice::new(1)) as Arc<dyn Compute>;
    let job = job(model.clone(), train.clone(), lanes);
    let want = trained(&job, |_| cpu());
    assert!(want == trained(&job, |_| gpu()), "three GPUs: {model:?}");
    let mixed = trained(&job, |party| if party.index() == 1 { gpu() } else { cpu() });
    assert!(want == mixed, "a GPU beside processors: {model:?}");
    let visits: Vec<u64> = gpus.lock().unwrap().iter().map(Gpu::visits).collect();
    assert!(visits.iter().all(|visits| *visits == 0), "words came to the host to be computed with: {visits:?}");
}

#[test]
fn a_perceptron_trains_alike() {
    let train = TrainSpec { epochs: 1, batch: 12, lr: 0.25, momentum: 0.5, ..TrainSpec::default() };
    check(&Model::mlp(9, &[7], 3, Loss::SoftmaxCrossEntropy), &train, 1);
}

#[test]
fn lanes_train_alike() {
    let train = TrainSpec { epochs: 1, batch: 14, lr: 0.25, ..TrainSpec::default() };
    check(&Model::logistic(5), &train, 2);
}

#[test]
fn a_convolutional_network_trains_alike() {
    let pool = Pool { kernel: [2, 2], stride: [2, 2], padding: [0; 4] };
    let layers = [
        Layer::Conv(Conv::square(3, 3).padded(1)),
        Layer::BatchNorm { epsilon: 1e-5, momentum: 0.1 },
        Layer::MaxPool(pool),
        Layer::Relu,
        Layer::AveragePool { pool, count_padding: true },
        Layer::Flatten,
        Layer::Linear { outputs: 3, bias: true },
    ];
    let train = TrainSpec { epochs: 1, batch: ROWS, lr: 0.01, optimizer: Optimizer::Adam, ..TrainSpec::default() };
    check(&Model::sequence(Shape::image(2, 8, 8), &layers, Loss::SoftmaxCrossEntropy), &train, 1);
}
