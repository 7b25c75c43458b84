//! What the lanes of a party tell each other beside NCCL.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::api::UniqueId;
use crate::collective::CollectiveError;
use crate::collective::meeting::{Meeting, Operation};

/// The party's own channel. Within a process it is memory; between hosts it has to be the authenticated control
/// channel, since whoever learns the id of a group can join it.
pub(super) trait Channel: Send + Sync {
    /// Waits until all lanes are here, and checks that they have come for the same.
    fn meet(&self, lane: usize, operation: Operation) -> Result<(), CollectiveError>;

    /// Tells all lanes the id of their group.
    fn tell_id(&self, id: UniqueId);

    /// The id of the group, once lane 0 has told it.
    fn id(&self) -> Option<UniqueId>;

    /// Notes that a lane has done one more step.
    fn did_step(&self, lane: usize);

    /// Notes that a lane goes no further, and wakes all that wait for it.
    fn leave(&self, lane: usize);

    /// Whether a lane has left.
    fn has_left(&self, lane: usize) -> bool;

    /// Why the lanes cannot do `steps` steps together: one has left before. One that left later harms no step that it
    /// has done its part of.
    fn lost(&self, steps: u64) -> Option<CollectiveError>;
}

/// The channel of lanes that are threads of one process.
pub(super) struct InProcess {
    meeting: Meeting,
    id: Mutex<Option<UniqueId>>,
    /// Steps that each lane has done.
    steps: Vec<AtomicU64>,
    /// Lanes that have left, in the order of their leaving: the first is the cause of what follows.
    left: Mutex<Vec<usize>>,
}

impl InProcess {
    pub(super) fn new(lanes: usize, timeout: Duration) -> Self {
        let steps = (0..lanes).map(|_| AtomicU64::new(0)).collect();
        Self { meeting: Meeting::new(lanes, timeout), id: Mutex::default(), steps, left: Mutex::default() }
    }

    fn left(&self) -> MutexGuard<'_, Vec<usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel for InProcess {
    fn meet(&self, lane: usize, operation: Operation) -> Result<(), CollectiveError> {
        self.meeting.meet(lane, operation)
    }

    fn tell_id(&self, id: UniqueId) {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    fn id(&self) -> Option<UniqueId> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn did_step(&self, lane: usize) {
        self.steps[lane].fetch_add(1, SeqCst);
    }

    fn leave(&self, lane: usize) {
        let mut left = self.left();
        if !left.contains(&lane) {
            left.push(lane);
        }
        self.meeting.leave(lane);
    }

    fn has_left(&self, lane: usize) -> bool {
        self.left().contains(&lane)
    }

    fn lost(&self, steps: u64) -> Option<CollectiveError> {
        let left = self.left();
        let cause = left.iter().find(|lane| self.steps[**lane].load(SeqCst) < steps);
        cause.map(|&lane| CollectiveError::LaneGone { lane })
    }
}
