//! The collective of lanes that are threads of one process: shared memory, sleeping waits.
//!
//! Each lane writes its words into a slot of its own, all meet once, then each reads what it needs from the others'
//! slots. Two slots per lane take turns: a lane can write a slot again only after the meeting that follows the next
//! operation, when all others have long read it, so one meeting per operation is enough.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::meeting::{Meeting, Operation};
use super::{Collective, CollectiveError, LANE_TIMEOUT, shard_range};
use crate::compute::Words;
use crate::compute::elementwise::add_assign;

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
            add_assign(&mut shard, &slot.shown()[own.clone()]);
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
        self.group.slots[turn].iter().for_each(|slot| take(&slot.shown()));
        Ok(())
    }

    /// Shows `words` to the other lanes and waits for theirs; returns whose turn it was.
    fn exchange(&mut self, operation: Operation, words: &[u64]) -> Result<usize, CollectiveError> {
        let turn = self.turn;
        self.turn = 1 - turn;
        let mut slot = self.group.slots[turn][self.rank].fill();
        slot.clear();
        slot.extend_from_slice(words);
        drop(slot);
        self.group.meeting.meet(self.rank, operation)?;
        Ok(turn)
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
struct Slot(RwLock<Vec<u64>>);

impl Slot {
    fn fill(&self) -> RwLockWriteGuard<'_, Vec<u64>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> RwLockReadGuard<'_, Vec<u64>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::conformance;

    #[test]
    fn it_conforms() {
        conformance::conforms(&|lanes, timeout| {
            let boxed = |member| Box::new(member) as Box<dyn Collective>;
            host_with_timeout(lanes, timeout).into_iter().map(boxed).collect()
        });
    }
}
