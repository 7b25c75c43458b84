//! A network with a hidden layer, trained as a job is, to the opened accuracy; the model stays in shares.
//!
//! `cargo run --release -p party-node --features test-world --example mlp`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::sync::Arc;

use party_node::collective::host;
use party_node::compute::CpuDevice;
use party_node::protocol::PairKeys;
use party_node::train::{LaneError, LaneOutcome, LaneSetup, PartyData, TrainingData, run_lane};
use party_node::transport::memory_triangle;
use party_node::world::World;
use shared::fixed::FixedPoint;
use shared::ids::Lane;
use shared::job::{JobSpec, PROTOCOL_VERSION, ProtocolSpec, Reveal, Start, Training, Work};
use shared::model::{Loss, Model, TrainSpec};

const ROWS: usize = 256;

fn main() -> Result<(), LaneError> {
    let model = Model::mlp(2, &[16], 1, Loss::BinaryCrossEntropy);
    let train = TrainSpec { epochs: 25, batch: 32, lr: 0.5, momentum: 0.9, ..TrainSpec::default() };
    let (train_rows, test_rows, data_digest, max_steps, calibration_steps) = (ROWS, ROWS, [0; 32], None, 0);
    let start = Start::Seeded;
    let work = Training { model, train, train_rows, test_rows, data_digest, start, max_steps, calibration_steps };
    let (work, reveal, protocol) = (Work::Train(Box::new(work)), vec![Reveal::TestAccuracy], ProtocolSpec::default());
    let (version, lanes, threads) = (PROTOCOL_VERSION.into(), 1, 1);
    let job = Arc::new(JobSpec { version, lanes, threads, protocol, work, reveal, peer_timeout_seconds: 10 });

    // Points of a grid, inside or outside a circle: no line separates them.
    let point = |i: usize| [(i % 16) as f64 / 8.0 - 0.94, (i / 16) as f64 / 8.0 - 0.94];
    let inside = |i: usize| f64::from(u8::from(point(i)[0].hypot(point(i)[1]) < 0.7));
    let encode = |values: Vec<f64>| -> Vec<u64> { values.iter().map(|&v| FixedPoint::DEFAULT.constant(v)).collect() };
    let x = World::new(3).share(0, &encode((0..ROWS).flat_map(point).collect()));
    let y = World::new(3).share(1, &encode((0..ROWS).map(inside).collect()));
    let parties = memory_triangle().into_iter().zip(PairKeys::for_test(1)).zip(x.into_iter().zip(y));
    let threads: Vec<_> = parties
        .map(|((transport, keys), (x, y))| {
            let data = TrainingData { train_x: x.clone(), train_y: y.clone(), test_x: x, test_y: y, start: None };
            let data = PartyData::Training(data);
            let (job, lane, counters, stop) = (job.clone(), Lane(0), Arc::default(), Arc::default());
            let (transport, device) = (Box::new(transport), Arc::new(CpuDevice::new(1)));
            let (collective, data, progress) = (Box::new(host(1).remove(0)), Some(Arc::new(data)), Box::new(|_, _| ()));
            let setup = LaneSetup { job, lane, transport, keys, device, collective, data, counters, stop, progress };
            std::thread::spawn(move || run_lane(setup))
        })
        .collect();
    for (party, thread) in threads.into_iter().enumerate() {
        let LaneOutcome { opened, parameters, .. } = thread.join().expect("no lane panics")?;
        println!("P{party} opened {opened:?} and keeps {parameters:?}");
        assert!(opened[0].1[0] > 0.9, "{opened:?}");
    }
    Ok(())
}
