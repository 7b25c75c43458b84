//! What a training step asks of the allocator: how often, and that memory does not grow from step to step.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop and say where")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use party_node::train::{PartyData, TrainingData};
use party_node::world::World;
use shared::fixed::FixedPoint;
use shared::job::{JobSpec, PROTOCOL_VERSION, ProtocolSpec, Start, Training, Work};
use shared::model::{Conv, Layer, Loss, Model, Pool, Shape, TrainSpec};
use shared::share::Share;

mod lanes;

/// An allocation above this is one of a tensor, a message or a frame.
const LARGE_BYTES: usize = 4 << 10;
/// Large allocations of one step, of all three parties together: every operation of a tile makes the vectors that it
/// returns, masks and sends. Runs counted 1392 to 1396 of them; frames merge as they may.
const LARGE_PER_STEP_MAX: usize = 1450;

static LARGE: AtomicUsize = AtomicUsize::new(0);
static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which keeps count.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[allow(unsafe_code, reason = "counting what is allocated takes an allocator of one's own")]
// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGE_BYTES {
            LARGE.fetch_add(1, Relaxed);
        }
        let live = LIVE_BYTES.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK_BYTES.fetch_max(live, Relaxed);
        // SAFETY: the caller's promise for this call is the one that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Large allocations and the most bytes in use while a small convolutional network is trained for some steps.
fn trained(steps: usize) -> (usize, usize) {
    const ROWS: usize = 48;
    let input = Shape::image(1, 12, 12);
    let layers = [
        Layer::Conv(Conv::square(8, 3)),
        Layer::Relu,
        Layer::MaxPool(Pool::square(2)),
        Layer::Flatten,
        Layer::Linear { outputs: 10, bias: true },
    ];
    let model = Model::sequence(input, &layers, Loss::SoftmaxCrossEntropy);
    let fixed = FixedPoint::DEFAULT;
    let pixel = |i: usize| fixed.constant(((i * 7919 % 256) as f64) / 256.0);
    let x: Vec<u64> = (0..ROWS * input.len()).map(pixel).collect();
    let y: Vec<u64> = (0..ROWS * 10).map(|i| fixed.constant(f64::from(u8::from(i % 10 == i / 10 % 10)))).collect();
    let training = Training {
        model,
        train: TrainSpec { epochs: steps.try_into().unwrap(), batch: ROWS, lr: 0.1, ..TrainSpec::default() },
        train_rows: ROWS,
        test_rows: 0,
        data_digest: [0; 32],
        start: Start::Seeded,
        max_steps: Some(steps),
        calibration_steps: 0,
    };
    let job = JobSpec {
        version: PROTOCOL_VERSION.into(),
        lanes: 1,
        threads: 1,
        protocol: ProtocolSpec::default(),
        work: Work::Train(Box::new(training)),
        reveal: vec![],
        peer_timeout_seconds: 60,
    };
    let world = World::new(1);
    let (x, y) = (world.share(0, &x), world.share(1, &y));
    let before = LARGE.load(Relaxed);
    PEAK_BYTES.store(LIVE_BYTES.load(Relaxed), Relaxed);
    lanes::run(&job, |party| {
        PartyData::Training(TrainingData {
            train_x: x[party.index()].clone(),
            train_y: y[party.index()].clone(),
            test_x: Share::zeros(0),
            test_y: Share::zeros(0),
            start: None,
        })
    });
    (LARGE.load(Relaxed) - before, PEAK_BYTES.load(Relaxed))
}

#[test]
fn a_step_allocates_as_often_as_stated_and_steps_leave_nothing_behind() {
    trained(1);
    let ((few, peak_of_few), (many, peak_of_many)) = (trained(4), trained(16));
    let per_step = (many - few) / 12;
    assert!(per_step <= LARGE_PER_STEP_MAX, "{per_step} large allocations in a step");
    // Twelve steps that kept what they make would multiply it; how far a helper runs ahead is chance.
    assert!(peak_of_many < peak_of_few + peak_of_few / 2, "{peak_of_few} bytes at most, then {peak_of_many}");
}
