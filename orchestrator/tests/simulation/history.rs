//! A random history: a list of operations that depend on nothing but their own numbers, so that any of them can be left
//! out and the rest still means something.

use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// One thing that happens to the fleet or its users.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Time passes, in slices of which each is a tick, heartbeats and messages.
    Pass { slices: u8, slice_ms: u16 },
    /// A new job.
    Submit(JobPlan),
    /// A job that is known already.
    SubmitAgain(u8),
    /// A user gives up.
    Cancel(u8),
    /// A party decides on a job again.
    Decide { job: u8, party: u8, decision: Decision },
    /// An agent's connection breaks; it connects again after a while.
    Break { host: u8, away_ms: u16 },
    /// An agent cannot be reached and does not know; or it can again.
    Cut { host: u8, cut: bool },
    /// A machine restarts: nothing that it held is left.
    Crash { host: u8, away_ms: u16, noticed: bool },
    /// An agent is switched off, or on.
    Power { host: u8, on: bool },
    /// An operator declares a switched-off host gone.
    Forget(u8),
    /// A party's process dies.
    ProcessDies { host: u8, blames: bool, permanent: bool },
    /// An agent will refuse the next reservation.
    Refuse(u8),
    /// An agent takes long to let go from now on, or not any more.
    Slow { host: u8, slow: bool },
    /// An agent's next job hangs: it starts and makes no progress.
    Hang(u8),
    /// An operator takes a host out of use, or back in.
    Drain { host: u8, drained: bool },
    /// A party limits what jobs may use.
    Quota { party: u8, devices: Option<u8> },
    /// The orchestrator dies and comes back from its records.
    Restart { away_ms: u16 },
    /// The orchestrator's clock jumps.
    Jump { back: bool, by_ms: u32 },
    /// Agents measure each other.
    Measure { from: u8, to: u8, round_trip_us: u16 },
}

/// A job as a history describes it.
#[derive(Clone, Debug)]
pub(crate) struct JobPlan {
    pub(crate) lanes: u16,
    pub(crate) priority: i32,
    pub(crate) big_memory: bool,
    pub(crate) cpu: bool,
    pub(crate) labelled: bool,
    pub(crate) one_host: bool,
    pub(crate) colocate: bool,
    pub(crate) deadline_ms: Option<u32>,
    pub(crate) limit_ms: Option<u32>,
    pub(crate) max_restarts: u32,
    pub(crate) work_ms: u32,
    pub(crate) decisions: [Decision; 3],
}

/// How a party answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    Approve,
    Briefly,
    Once,
    ByHand,
    Deny,
    Silence,
}

impl JobPlan {
    /// One lane per party, soon done.
    pub(crate) fn tiny(priority: i32) -> Self {
        Self {
            lanes: 1,
            priority,
            big_memory: false,
            cpu: false,
            labelled: false,
            one_host: true,
            colocate: false,
            deadline_ms: None,
            limit_ms: None,
            max_restarts: 3,
            work_ms: 8_000,
            decisions: [Decision::Approve; 3],
        }
    }
}

/// The history of a seed.
pub(crate) fn history(seed: u64, length: usize) -> Vec<Operation> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..length).map(|_| operation(&mut rng)).collect()
}

fn operation(rng: &mut ChaCha8Rng) -> Operation {
    let byte = |rng: &mut ChaCha8Rng| rng.next_u32().to_le_bytes()[0];
    match rng.random_range(0..100) {
        0..40 => Operation::Pass { slices: rng.random_range(1..6), slice_ms: rng.random_range(50..1500) },
        40..54 => Operation::Submit(job_plan(rng)),
        54..55 => Operation::SubmitAgain(byte(rng)),
        55..57 => Operation::Cancel(byte(rng)),
        57..63 => Operation::Decide { job: byte(rng), party: byte(rng), decision: decision(rng) },
        63..67 => Operation::Break { host: byte(rng), away_ms: rng.random_range(0..15_000) },
        67..70 => Operation::Cut { host: byte(rng), cut: true },
        70..74 => Operation::Cut { host: byte(rng), cut: false },
        74..77 => Operation::Crash { host: byte(rng), away_ms: rng.random_range(0..20_000), noticed: rng.random() },
        77..78 => Operation::Power { host: byte(rng), on: false },
        78..81 => Operation::Power { host: byte(rng), on: true },
        81..82 => Operation::Forget(byte(rng)),
        82..86 => {
            let permanent = rng.random_range(0..8) == 0;
            Operation::ProcessDies { host: byte(rng), blames: rng.random(), permanent }
        }
        86..88 => Operation::Refuse(byte(rng)),
        88..90 => Operation::Slow { host: byte(rng), slow: rng.random_range(0..3) == 0 },
        90..91 => Operation::Hang(byte(rng)),
        91..94 => Operation::Drain { host: byte(rng), drained: rng.random_range(0..3) == 0 },
        94..95 => Operation::Quota { party: byte(rng), devices: rng.random::<bool>().then(|| rng.random_range(0..6)) },
        95..97 => Operation::Restart { away_ms: rng.random_range(0..12_000) },
        97..98 => Operation::Jump { back: rng.random(), by_ms: rng.random_range(0..100_000) },
        _ => Operation::Measure { from: byte(rng), to: byte(rng), round_trip_us: rng.random_range(50..50_000) },
    }
}

fn job_plan(rng: &mut ChaCha8Rng) -> JobPlan {
    JobPlan {
        lanes: [1, 1, 1, 2, 2, 3, 4, 6, 8][rng.random_range(0..9)],
        priority: rng.random_range(0..3),
        big_memory: rng.random_range(0..12) == 0,
        cpu: rng.random_range(0..12) == 0,
        labelled: rng.random_range(0..20) == 0,
        one_host: rng.random(),
        colocate: rng.random_range(0..5) == 0,
        deadline_ms: (rng.random_range(0..6) == 0).then(|| rng.random_range(1_000..120_000)),
        limit_ms: (rng.random_range(0..3) == 0).then(|| rng.random_range(2_000..40_000)),
        max_restarts: rng.random_range(0..4),
        work_ms: rng.random_range(100..10_000),
        decisions: std::array::from_fn(|_| decision(rng)),
    }
}

fn decision(rng: &mut ChaCha8Rng) -> Decision {
    match rng.random_range(0..40) {
        0..32 => Decision::Approve,
        32..34 => Decision::Briefly,
        34..36 => Decision::Once,
        36..38 => Decision::ByHand,
        38..39 => Decision::Silence,
        _ => Decision::Deny,
    }
}
