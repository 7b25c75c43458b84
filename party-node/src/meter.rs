//! Where a lane's time and bytes go. Phases are exclusive: at any moment a lane is in exactly one, so they sum to wall time.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use shared::ids::PartyId;
use shared::job::Reveal;
use shared::telemetry::WAIT_SECONDS_BUCKETS;

/// What a lane is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Gathering a batch.
    Data,
    /// Local arithmetic.
    Compute,
    /// Handing masked words to the transport.
    OpenSend,
    /// Waiting for masked words of a peer.
    OpenWait,
    /// Local work of truncations.
    Truncate,
    /// Summing gradients and sharing weights among the party's own lanes, and waiting for them.
    Allreduce,
    /// Writing a checkpoint or the sealed model.
    Checkpoint,
    /// Before the first and after the last step, or a lane without work.
    Idle,
}

impl Phase {
    /// All phases, in the order of [`LaneCounters::phase_nanos`].
    pub const ALL: [Phase; 8] = [
        Phase::Data,
        Phase::Compute,
        Phase::OpenSend,
        Phase::OpenWait,
        Phase::Truncate,
        Phase::Allreduce,
        Phase::Checkpoint,
        Phase::Idle,
    ];

    /// Name in metrics and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Data => "data",
            Phase::Compute => "compute",
            Phase::OpenSend => "open_send",
            Phase::OpenWait => "open_wait",
            Phase::Truncate => "truncate",
            Phase::Allreduce => "allreduce",
            Phase::Checkpoint => "checkpoint",
            Phase::Idle => "idle",
        }
    }
}

/// Counters of one lane, written by its thread and read by `/metrics` and reports.
#[derive(Default, Debug)]
pub struct LaneCounters {
    /// Nanoseconds in each phase, in the order of [`Phase::ALL`].
    pub phase_nanos: [AtomicU64; 8],
    /// Longest chain of dependent receives so far.
    pub rounds: AtomicU64,
    /// Bytes handed to the transport, by peer (own entry stays 0).
    pub sent_bytes: [AtomicU64; 3],
    /// Bytes received, by peer.
    pub received_bytes: [AtomicU64; 3],
    /// Training steps done.
    pub steps: AtomicU64,
    /// Samples trained on.
    pub samples: AtomicU64,
    /// Bytes exchanged among the party's own lanes.
    pub allreduce_bytes: AtomicU64,
    /// Keystream bytes used.
    pub prg_bytes: AtomicU64,
    /// Values opened under the reveal policy, in the order of [`Reveal::ALL`].
    pub reveals: [AtomicU64; Reveal::ALL.len()],
    /// How long each wait for a peer took.
    pub open_waits: Durations,
    /// How long each exchange among the party's own lanes took.
    pub allreduces: Durations,
    /// Samples per second of one lane alone, from the calibration, as the bits of a double; lane 0 sets it.
    pub baseline_rate_bits: AtomicU64,
}

/// How long something took, each time.
#[derive(Default, Debug)]
pub struct Durations {
    /// Times at most as long as the bucket's bound, by bucket of [`WAIT_SECONDS_BUCKETS`].
    pub buckets: [AtomicU64; WAIT_SECONDS_BUCKETS.len()],
    /// Times in all.
    pub number: AtomicU64,
    /// Nanoseconds in all.
    pub nanos: AtomicU64,
}

impl Durations {
    fn add(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for (bucket, bound) in self.buckets.iter().zip(WAIT_SECONDS_BUCKETS) {
            bucket.fetch_add(u64::from(seconds <= bound), Relaxed);
        }
        self.number.fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// A copy of the counters at one moment.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Snapshot {
    /// Seconds in each phase, in the order of [`Phase::ALL`].
    pub phase_seconds: [f64; 8],
    /// Longest chain of dependent receives.
    pub rounds: u64,
    /// Bytes sent to both peers.
    pub sent_bytes: u64,
}

impl Snapshot {
    /// What happened since an earlier one.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            phase_seconds: std::array::from_fn(|i| self.phase_seconds[i] - before.phase_seconds[i]),
            rounds: self.rounds - before.rounds,
            sent_bytes: self.sent_bytes - before.sent_bytes,
        }
    }
}

impl LaneCounters {
    /// Reads the counters.
    #[allow(clippy::cast_precision_loss, reason = "nanoseconds of a run fit a double's 53 bits for 100 days")]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            phase_seconds: std::array::from_fn(|i| self.phase_nanos[i].load(Relaxed) as f64 * 1e-9),
            rounds: self.rounds.load(Relaxed),
            sent_bytes: self.sent_bytes.iter().map(|bytes| bytes.load(Relaxed)).sum(),
        }
    }
}

/// The stop-watch that a lane's thread carries.
pub struct Meter {
    counters: Arc<LaneCounters>,
    phase: Cell<Phase>,
    since: Cell<Instant>,
}

impl Meter {
    /// Starts in [`Phase::Idle`].
    pub fn new(counters: Arc<LaneCounters>) -> Self {
        Self { counters, phase: Cell::new(Phase::Idle), since: Cell::new(Instant::now()) }
    }

    /// Ends the current phase and begins another; returns the one that ended.
    pub fn switch(&self, to: Phase) -> Phase {
        let now = Instant::now();
        let from = self.phase.replace(to);
        let duration = now.duration_since(self.since.replace(now));
        let nanos = duration.as_nanos();
        self.counters.phase_nanos[from as usize].fetch_add(u64::try_from(nanos).unwrap_or(u64::MAX), Relaxed);
        match from {
            Phase::OpenWait => self.counters.open_waits.add(duration),
            Phase::Allreduce => self.counters.allreduces.add(duration),
            _ => {}
        }
        from
    }

    /// Runs `work` in a phase of its own.
    pub fn within<T>(&self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let outer = self.switch(phase);
        let result = work();
        self.switch(outer);
        result
    }

    /// The counters up to now, the running phase included.
    pub fn snapshot(&self) -> Snapshot {
        self.switch(self.phase.get());
        self.counters.snapshot()
    }

    /// Counts a message handed to the transport.
    pub fn sent(&self, to: PartyId, bytes: usize) {
        self.counters.sent_bytes[to.index()].fetch_add(bytes as u64, Relaxed);
    }

    /// Counts a message taken from the transport.
    pub fn received(&self, from: PartyId, bytes: usize) {
        self.counters.received_bytes[from.index()].fetch_add(bytes as u64, Relaxed);
    }

    /// Counts a value opened under the reveal policy.
    pub fn revealed(&self, what: Reveal) {
        self.counters.reveals[what as usize].fetch_add(1, Relaxed);
    }

    /// The counters behind this meter.
    pub fn counters(&self) -> &LaneCounters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_exclusive_and_sum_to_wall_time() {
        let counters = Arc::new(LaneCounters::default());
        let outer = Instant::now();
        let meter = Meter::new(counters.clone());
        let inner = Instant::now();
        meter.within(Phase::Compute, || {
            std::thread::sleep(Duration::from_millis(20));
            meter.within(Phase::OpenWait, || std::thread::sleep(Duration::from_millis(20)));
        });
        let inner = inner.elapsed().as_secs_f64();
        meter.switch(Phase::Idle);
        let (outer, snapshot) = (outer.elapsed().as_secs_f64(), counters.snapshot());
        let sum: f64 = snapshot.phase_seconds.iter().sum();
        // The meter's own life lies between the two; nothing in it is counted twice or lost.
        assert!(inner <= sum + 1e-9 && sum <= outer + 1e-9, "{sum} between {inner} and {outer}");
        assert!(snapshot.phase_seconds[Phase::Compute as usize] >= 0.019);
        assert!(snapshot.phase_seconds[Phase::OpenWait as usize] >= 0.019);
        assert_eq!(counters.open_waits.number.load(Relaxed), 1);
    }
}
