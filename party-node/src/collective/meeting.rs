//! Where the lanes of one process wait for each other, and say what they have come for.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::CollectiveError;

/// An operation and its total length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Barrier,
    ReduceScatter(usize),
    AllGather(usize),
    #[cfg(any(feature = "cuda", test))]
    AllReduce(usize),
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Barrier => write!(f, "a barrier"),
            Self::ReduceScatter(len) => write!(f, "a reduce-scatter of {len} words"),
            Self::AllGather(len) => write!(f, "an all-gather of {len} words"),
            #[cfg(any(feature = "cuda", test))]
            Self::AllReduce(len) => write!(f, "an all-reduce of {len} words"),
        }
    }
}

/// Where lanes wait for each other: a barrier that breaks when one of them leaves.
pub(super) struct Meeting {
    pub(super) lanes: usize,
    timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Meetings held so far.
    held: u64,
    here: Vec<bool>,
    /// What each lane came for. Meetings take turns, so that a lane can come to the next while others read of this one.
    operations: [Vec<Operation>; 2],
    broken: Option<CollectiveError>,
}

impl Meeting {
    pub(super) fn new(lanes: usize, timeout: Duration) -> Self {
        let operations = [0, 1].map(|_| vec![Operation::Barrier; lanes]);
        let state = State { held: 0, here: vec![false; lanes], operations, broken: None };
        Self { lanes, timeout, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all lanes are here, and checks that they have come for the same.
    pub(super) fn meet(&self, rank: usize, ours: Operation) -> Result<(), CollectiveError> {
        let mut state = self.lock();
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        let turn = turn(state.held);
        state.here[rank] = true;
        state.operations[turn][rank] = ours;
        if state.here.iter().all(|here| *here) {
            state.here.fill(false);
            state.held += 1;
            self.changed.notify_all();
        } else {
            state = self.wait(state)?;
        }
        let differs = state.operations[turn].iter().enumerate().find(|(_, theirs)| **theirs != ours);
        differs.map_or(Ok(()), |(lane, theirs)| {
            Err(CollectiveError::Mismatch { lane, theirs: theirs.to_string(), ours: ours.to_string() })
        })
    }

    /// Sleeps until the meeting is held. One that was held counts, even if a lane has left since.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, CollectiveError> {
        let (held, deadline) = (state.held, Instant::now() + self.timeout);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            if state.held != held {
                return Ok(state);
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

    /// Tells all others, now and from now on, that a lane is not to be waited for.
    pub(super) fn leave(&self, rank: usize) {
        self.break_up(&mut self.lock(), CollectiveError::LaneGone { lane: rank });
    }

    /// The first reason stays: what follows it is a consequence.
    fn break_up(&self, state: &mut State, error: CollectiveError) {
        state.broken.get_or_insert(error);
        self.changed.notify_all();
    }
}

/// Which half of [`State::operations`] belongs to the meeting after so many.
fn turn(held: u64) -> usize {
    usize::from(held % 2 == 1)
}
