//! The collective of lanes that have a GPU each: NCCL moves and adds the words from GPU to GPU.
//!
//! Before each operation all lanes meet on the party's own [`channel`](Channel), asleep, and agree on what they do and
//! how long it is; NCCL checks neither, and a GPU that waits for a lane that never comes would wait for ever. Only then
//! the step starts on the lane's stream, and its thread looks after it until it is done: for failures of the group, for
//! lanes that have left, for the clock. So no stream ever holds a step that nobody watches. Overlap with the host's own
//! work is given up for that; what follows an operation here is an exchange between parties, which needs its result
//! anyway.
//!
//! NCCL wants equally many words of each lane, and shards differ by one. Where they do, words are laid out with a zero
//! behind each shorter shard: one copy within the GPU's memory, several times faster than any link between GPUs,
//! against as many rooted reductions as there are lanes.
//!
//! A communicator lives and ends on the thread of its lane. It belongs to one epoch, since its party does.

mod api;
mod channel;
mod communicator;
#[cfg(test)]
mod fake;
#[cfg(feature = "cuda")]
mod library;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub(super) use self::api::Api;
use self::api::Step;
use self::channel::{Channel, InProcess};
use self::communicator::{Communicator, Watch};
#[cfg(feature = "cuda")]
pub(super) use self::library::Library;
use super::meeting::Operation;
use super::{Collective, CollectiveError, LANE_TIMEOUT, shard_range};
use crate::compute::{Compute, Slice, SliceMut, Words};

/// How long waits may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// For the last lane, before an operation.
    pub(super) lanes: Duration,
    /// For a group to form once all lanes are there.
    pub(super) join: Duration,
    /// For the devices to be through with a step, which may have much to do before.
    pub(super) step: Duration,
    /// For a group to end once a lane has.
    pub(super) finish: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lanes: LANE_TIMEOUT,
            join: Duration::from_secs(120),
            step: LANE_TIMEOUT,
            finish: Duration::from_secs(10),
        }
    }
}

/// One lane's member of a collective over GPUs; dropping it before the others are done is an abort.
pub(super) struct NcclMember {
    rank: usize,
    size: usize,
    api: Arc<dyn Api>,
    channel: Arc<dyn Channel>,
    device: Arc<dyn Compute>,
    limits: Limits,
    /// Steps that this lane has done.
    steps: u64,
    work: Option<Work>,
}

/// What a member has from the first operation on.
struct Work {
    communicator: Communicator,
    /// A zero in the memory of the lane's device.
    home: Arc<Words>,
}

/// Makes a collective for threads of this process that have these devices, one member each, in rank order.
pub(super) fn in_process(api: &Arc<dyn Api>, devices: &[Arc<dyn Compute>], limits: Limits) -> Vec<NcclMember> {
    let channel: Arc<dyn Channel> = Arc::new(InProcess::new(devices.len(), limits.lanes));
    let member = |(rank, device): (usize, &Arc<dyn Compute>)| NcclMember {
        rank,
        size: devices.len(),
        api: api.clone(),
        channel: channel.clone(),
        device: device.clone(),
        limits,
        steps: 0,
        work: None,
    };
    devices.iter().enumerate().map(member).collect()
}

impl Collective for NcclMember {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn reduce_scatter(&mut self, data: &Words) -> Result<Words, CollectiveError> {
        let (len, size) = (data.len(), self.size);
        let own = shard_range(len, self.rank, size).len();
        self.together(Operation::ReduceScatter(len), |member| {
            if len == 0 {
                return Ok(data.at(0..0).to_words());
            }
            let home = member.home()?;
            let shards = (0..size).map(|lane| data.at(shard_range(len, lane, size)));
            let laid = laid_out(&home, data.all(), shards, len.div_ceil(size));
            let mut sum = member.device.zeros(len.div_ceil(size));
            member.step(Step::ReduceScatter, Some(laid.words()), sum.all_mut())?;
            let sum = if own == sum.len() { sum } else { sum.at(0..own).to_words() };
            Ok(back(&home, data.all(), sum))
        })
    }

    fn all_gather(&mut self, shard: &Words, total_len: usize) -> Result<Words, CollectiveError> {
        let size = self.size;
        let due = shard_range(total_len, self.rank, size).len();
        assert_eq!(shard.len(), due, "lane {} gathers {total_len} words from {size} lanes", self.rank);
        self.together(Operation::AllGather(total_len), |member| {
            if total_len == 0 {
                return Ok(shard.clone());
            }
            let each = total_len.div_ceil(size);
            let home = member.home()?;
            let laid = laid_out(&home, shard.all(), std::iter::once(shard.all()), each);
            let mut all = member.device.zeros(each * size);
            member.step(Step::AllGather, Some(laid.words()), all.all_mut())?;
            if each * size != total_len {
                let own = |lane| each * lane..each * lane + shard_range(total_len, lane, size).len();
                all = Words::concat((0..size).map(|lane| all.at(own(lane))));
            }
            Ok(back(&home, shard.all(), all))
        })
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.together(Operation::Barrier, |_| Ok(()))
    }

    fn all_reduce(&mut self, data: &mut Words) -> Result<(), CollectiveError> {
        self.together(Operation::AllReduce(data.len()), |member| {
            if data.is_empty() {
                return Ok(());
            }
            let home = member.home()?;
            if same_place(&home, data.all()) {
                return member.step(Step::AllReduce, None, data.all_mut());
            }
            let mut sum = Words::concat([home.at(0..0), data.all()]);
            member.step(Step::AllReduce, None, sum.all_mut())?;
            *data = back(&home, data.all(), sum);
            Ok(())
        })
    }

    fn abort(&self) {
        self.channel.leave(self.rank);
    }
}

impl NcclMember {
    /// Does what all lanes have met for. A lane that fails leaves, so that the others do not wait for it.
    fn together<T>(
        &mut self,
        operation: Operation,
        work: impl FnOnce(&mut Self) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        let sound = |member: &Self| member.device.check().map_err(CollectiveError::Device);
        let done = sound(self)
            .and_then(|()| self.channel.meet(self.rank, operation))
            .and_then(|()| work(self))
            // Words of a device that has failed mean nothing.
            .and_then(|result| sound(self).map(|()| result));
        if done.is_err() {
            self.channel.leave(self.rank);
            self.work = None;
        }
        done
    }

    /// A zero in the memory of the lane's device, once the lane is in the group.
    fn home(&mut self) -> Result<Arc<Words>, CollectiveError> {
        if let Some(work) = &self.work {
            return Ok(work.home.clone());
        }
        let home = Arc::new(self.device.zeros(1));
        self.device.check().map_err(CollectiveError::Device)?;
        let lost = || self.channel.lost(self.steps + 1);
        let watch = Watch { what: "the forming of a group", limit: self.limits.join, lost: &lost };
        if self.rank == 0 {
            self.channel.tell_id(self.api.unique_id().map_err(|fault| watch.failed(fault))?);
        }
        let mut id = None;
        watch.until(|| {
            id = self.channel.id();
            Ok(id.is_some())
        })?;
        let id = id.expect("the wait was for it");
        let begin = || self.api.join(&id, self.rank, self.size, home.all());
        let communicator = Communicator::join(self.size, begin, &watch)?;
        tracing::debug!(lanes = self.size, "joined the party's group of {}", self.api.name());
        self.work = Some(Work { communicator, home: home.clone() });
        Ok(home)
    }

    fn step(&mut self, step: Step, send: Option<Slice<'_>>, out: SliceMut<'_>) -> Result<(), CollectiveError> {
        // An operation of a device that failed meanwhile may have left no memory behind.
        self.device.check().map_err(CollectiveError::Device)?;
        let lost = || self.channel.lost(self.steps + 1);
        let watch = Watch { what: step.name(), limit: self.limits.step, lost: &lost };
        let work = self.work.as_mut().expect("a lane is in the group before its first step");
        work.communicator.step(step, send, out, &watch)?;
        self.steps += 1;
        self.channel.did_step(self.rank);
        Ok(())
    }
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::ReduceScatter => "a reduce-scatter",
            Self::AllGather => "an all-gather",
            Self::AllReduce => "an all-reduce",
        }
    }
}

impl Drop for NcclMember {
    fn drop(&mut self) {
        let well = !self.channel.has_left(self.rank) && !thread::panicking();
        self.channel.leave(self.rank);
        if let Some(work) = self.work.take().filter(|_| well) {
            let lost = || self.channel.lost(self.steps);
            work.communicator.finish(&Watch { what: "the end of a group", limit: self.limits.finish, lost: &lost });
        }
    }
}

/// Words as a step wants them: where they were, or a copy.
enum Laid<'a> {
    There(Slice<'a>),
    Copied(Words),
}

impl Laid<'_> {
    fn words(&self) -> Slice<'_> {
        match self {
            Self::There(words) => *words,
            Self::Copied(words) => words.all(),
        }
    }
}

/// Brings words to where `home` is, each shard with a zero behind it unless it has `each` words.
fn laid_out<'a>(
    home: &Words,
    all: Slice<'a>,
    shards: impl Iterator<Item = Slice<'a>> + Clone,
    each: usize,
) -> Laid<'a> {
    if same_place(home, all) && shards.clone().all(|shard| shard.len() == each) {
        return Laid::There(all);
    }
    let padded = shards.flat_map(|shard| [shard, home.at(0..each - shard.len())]);
    Laid::Copied(Words::concat(std::iter::once(home.at(0..0)).chain(padded)))
}

/// Brings a result to where the operand was.
fn back(home: &Words, operand: Slice<'_>, result: Words) -> Words {
    if same_place(home, operand) { result } else { operand.beside(result.into_host()) }
}

/// Whether words lie where `home` is: a lane has no more than one GPU.
fn same_place(home: &Words, words: Slice<'_>) -> bool {
    std::mem::discriminant(&home.all()) == std::mem::discriminant(&words)
}

#[cfg(test)]
mod tests;
