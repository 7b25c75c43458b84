//! The collective of lanes that are threads of one process: shared memory, sleeping waits.
//!
//! Each lane writes its words into a slot of its own, all meet once, then each reads what it needs from the others'
//! slots. Two slots per lane take turns: a lane can write a slot again only after the meeting that follows the next
//! operation, when all others have long read it, so one meeting per operation is enough.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::{Collective, CollectiveError, shard_range};
use crate::compute::Words;
use crate::compute::elementwise::add_assign;

/// How long lanes wait for the last one. Long, since one lane alone may measure or evaluate while the others wait;
/// a lane that fails is noticed at once, whatever this says.
const LANE_TIMEOUT: Duration = Duration::from_secs(300);

/// One lane's member of a host collective; dropping it before the others are done is an abort.
pub struct HostMember {
    rank: usize,
    turn: usize,
    group: Arc<Group>,
}

/// Makes a collective for `lanes` threads of this process, one member each, in rank order.
pub fn host(lanes: usize) -> Vec<HostMember> {
    host_with_timeout(lanes, LANE_TIMEOUT)
}

/// As [`host`], with another limit on how long lanes wait for the last one.
pub fn host_with_timeout(lanes: usize, timeout: Duration) -> Vec<HostMember> {
    let group = Arc::new(Group {
        slots: [0, 1].map(|_| (0..lanes).map(|_| Slot::default()).collect()),
        meeting: Meeting::new(lanes, timeout),
    });
    (0..lanes).map(|rank| HostMember { rank, turn: 0, group: group.clone() }).collect()
}

impl Collective for HostMember {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.group.meeting.lanes
    }

    fn reduce_scatter(&mut self, data: &Words) -> Result<Words, CollectiveError> {
        let own = shard_range(data.len(), self.rank, self.size());
        let turn = self.exchange(Operation::ReduceScatter(data.len()), &data.all().fetched())?;
        let mut shard = data.at(own.clone()).to_words();
        for (_, slot) in self.group.slots[turn].iter().enumerate().filter(|(lane, _)| *lane != self.rank) {
            add_assign(&mut shard, &slot.shown().words[own.clone()]);
        }
        Ok(shard)
    }

    fn all_gather(&mut self, shard: &Words, total_len: usize) -> Result<Words, CollectiveError> {
        let mut all = Vec::with_capacity(total_len);
        self.gather(&shard.all().fetched(), total_len, |words| all.extend_from_slice(words))?;
        Ok(shard.all().beside(all))
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.exchange(Operation::Barrier, &[]).map(|_| ())
    }

    fn all_reduce(&mut self, data: &mut Words) -> Result<(), CollectiveError> {
        let shard = self.reduce_scatter(data)?;
        *data = self.all_gather(&shard, data.len())?;
        Ok(())
    }

    fn abort(&self) {
        self.group.meeting.leave(self.rank);
    }
}

impl HostMember {
    /// Hands every lane's shard to `take`, in rank order.
    fn gather(&mut self, shard: &[u64], total_len: usize, mut take: impl FnMut(&[u64])) -> Result<(), CollectiveError> {
        let due = shard_range(total_len, self.rank, self.size()).len();
        assert_eq!(shard.len(), due, "lane {} gathers {total_len} words from {} lanes", self.rank, self.size());
        let turn = self.exchange(Operation::AllGather(total_len), shard)?;
        self.group.slots[turn].iter().for_each(|slot| take(&slot.shown().words));
        Ok(())
    }

    /// Shows `words` to the other lanes, waits for theirs, and checks that all do the same; returns whose turn it was.
    fn exchange(&mut self, operation: Operation, words: &[u64]) -> Result<usize, CollectiveError> {
        let turn = self.turn;
        self.turn = 1 - turn;
        let mut slot = self.group.slots[turn][self.rank].fill();
        slot.operation = operation;
        slot.words.clear();
        slot.words.extend_from_slice(words);
        drop(slot);
        self.group.meeting.meet(self.rank)?;
        self.check_agreement(turn, operation)?;
        Ok(turn)
    }

    fn check_agreement(&self, turn: usize, ours: Operation) -> Result<(), CollectiveError> {
        for (lane, slot) in self.group.slots[turn].iter().enumerate() {
            let theirs = slot.shown().operation;
            if theirs != ours {
                return Err(CollectiveError::Mismatch { lane, theirs: theirs.to_string(), ours: ours.to_string() });
            }
        }
        Ok(())
    }
}

impl Drop for HostMember {
    fn drop(&mut self) {
        self.abort();
    }
}

/// What the lanes of a group share.
struct Group {
    slots: [Vec<Slot>; 2],
    meeting: Meeting,
}

/// Where one lane shows the others its words. Turns keep writer and readers apart; the lock only proves it.
#[derive(Default)]
struct Slot(RwLock<Shown>);

#[derive(Default)]
struct Shown {
    operation: Operation,
    words: Vec<u64>,
}

impl Slot {
    fn fill(&self) -> RwLockWriteGuard<'_, Shown> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation and its total length.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Operation {
    #[default]
    Barrier,
    ReduceScatter(usize),
    AllGather(usize),
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Barrier => write!(f, "a barrier"),
            Self::ReduceScatter(len) => write!(f, "a reduce-scatter of {len} words"),
            Self::AllGather(len) => write!(f, "an all-gather of {len} words"),
        }
    }
}

/// Where lanes wait for each other: a barrier that breaks when one of them leaves.
struct Meeting {
    lanes: usize,
    timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone)]
struct State {
    /// Meetings held so far.
    held: u64,
    here: Vec<bool>,
    broken: Option<CollectiveError>,
}

impl Meeting {
    fn new(lanes: usize, timeout: Duration) -> Self {
        let state = State { held: 0, here: vec![false; lanes], broken: None };
        Self { lanes, timeout, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meet(&self, rank: usize) -> Result<(), CollectiveError> {
        let mut state = self.lock();
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        state.here[rank] = true;
        if state.here.iter().all(|here| *here) {
            state.here.fill(false);
            state.held += 1;
            self.changed.notify_all();
            return Ok(());
        }
        self.wait(state)
    }

    /// Sleeps until the meeting is held. One that was held counts, even if a lane has left since.
    fn wait(&self, mut state: MutexGuard<'_, State>) -> Result<(), CollectiveError> {
        let (held, deadline) = (state.held, Instant::now() + self.timeout);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            if state.held != held {
                return Ok(());
            }
            if let Some(error) = &state.broken {
                return Err(error.clone());
            }
            if left.is_zero() {
                let lane = state.here.iter().position(|here| !here).expect("a meeting that all attend is held");
                let error = CollectiveError::LaneLate { lane, after: self.timeout };
                self.break_up(&mut state, error.clone());
                return Err(error);
            }
        }
    }

    fn leave(&self, rank: usize) {
        self.break_up(&mut self.lock(), CollectiveError::LaneGone { lane: rank });
    }

    /// The first reason stays: what follows it is a consequence.
    fn break_up(&self, state: &mut State, error: CollectiveError) {
        state.broken.get_or_insert(error);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngCore, SeedableRng};
    use rand_chacha::ChaCha12Rng;
    use std::thread;

    /// Runs `work` on every lane at once and returns the results in rank order.
    fn on_lanes<T: Send>(members: Vec<HostMember>, work: impl Fn(Box<dyn Collective>) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let run = |member: HostMember| scope.spawn(|| work(Box::new(member)));
            let threads: Vec<_> = members.into_iter().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn words(seed: u64, lane: usize, len: usize) -> Vec<u64> {
        let mut stream = ChaCha12Rng::seed_from_u64(seed ^ (lane as u64) << 32);
        (0..len).map(|_| stream.next_u64()).collect()
    }

    fn plain_sum(seed: u64, lanes: usize, len: usize) -> Vec<u64> {
        let mut sum = vec![0; len];
        (0..lanes).for_each(|lane| add_assign(&mut sum, &words(seed, lane, len)));
        sum
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn every_operation_equals_plain_sums(
            lanes in 1usize..6,
            lens in prop::collection::vec(prop_oneof![Just(0usize), 1..8usize, 8..3000usize], 1..6),
        ) {
            let done = on_lanes(host(lanes), |mut lane| {
                for (seed, &len) in (0..).zip(&lens) {
                    let sum = plain_sum(seed, lanes, len);
                    let mut data = Words::from(words(seed, lane.rank(), len));
                    let shard = lane.reduce_scatter(&data).unwrap();
                    assert_eq!(shard, Words::from(sum[shard_range(len, lane.rank(), lanes)].to_vec()));
                    assert_eq!(lane.all_gather(&shard, len).unwrap().into_host(), sum);
                    lane.barrier().unwrap();
                    lane.all_reduce(&mut data).unwrap();
                    assert_eq!(data.into_host(), sum);
                }
            });
            prop_assert_eq!(done.len(), lanes);
        }
    }

    #[test]
    fn an_abort_wakes_everybody() {
        let results = on_lanes(host(4), |mut lane| {
            if lane.rank() == 2 {
                thread::sleep(Duration::from_millis(30));
                lane.abort();
            }
            (lane.barrier(), lane.all_gather(&Words::none(), 0))
        });
        let gone = CollectiveError::LaneGone { lane: 2 };
        assert!(results.into_iter().all(|result| result == (Err(gone.clone()), Err(gone.clone()))));
    }

    #[test]
    fn a_lane_that_is_dropped_wakes_everybody() {
        let mut members = host(3).into_iter();
        let first = members.next().unwrap();
        let ending = thread::spawn(move || drop(first));
        let results = on_lanes(members.collect(), |mut lane| lane.all_reduce(&mut Words::from(vec![1, 2, 3])));
        ending.join().unwrap();
        assert!(results.into_iter().all(|result| result == Err(CollectiveError::LaneGone { lane: 0 })));
    }

    #[test]
    fn a_lane_that_ends_after_the_last_operation_harms_nobody() {
        for _ in 0..200 {
            let results = on_lanes(host(4), |mut lane| lane.all_reduce(&mut Words::from(vec![1, 2])));
            assert!(results.into_iter().all(|result| result.is_ok()));
        }
    }

    #[test]
    fn a_lane_that_never_comes_is_named() {
        let mut members = host_with_timeout(3, Duration::from_millis(50));
        let late = members.remove(1);
        let results = on_lanes(members, |mut lane| lane.barrier());
        let error = CollectiveError::LaneLate { lane: 1, after: Duration::from_millis(50) };
        assert!(results.into_iter().all(|result| result == Err(error.clone())));
        drop(late);
    }

    #[test]
    fn lanes_that_disagree_are_told_so() {
        let results = on_lanes(host(2), |mut lane| {
            let len = 5 + lane.rank();
            lane.reduce_scatter(&Words::from(vec![0; len]))
        });
        let message = results[0].clone().unwrap_err().to_string();
        assert_eq!(
            message,
            "lane 1 of this party takes part in a reduce-scatter of 6 words where a reduce-scatter of 5 words was due"
        );
    }
}
