//! The few calls of NCCL that a group of lanes needs, so that a test can answer them in its stead.
#![allow(unsafe_code, reason = "declares a call whose caller has a promise to keep")]

use std::fmt;

use crate::compute::{Slice, SliceMut};

/// Bytes of NCCL's id of a group.
pub(super) const ID_BYTES: usize = 128;

/// Names a group that is about to form. Whoever knows it can join, so it stays within the party and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::collective) struct UniqueId(pub(super) [u8; ID_BYTES]);

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UniqueId(<{ID_BYTES} bytes>)")
    }
}

/// What a call failed with, in NCCL's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::collective) struct Fault(pub(super) String);

/// A step that all lanes of a group take together. Words are `u64`; sums wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::collective) enum Step {
    /// The sum of all lanes' words: to each lane its part, all parts equally long.
    ReduceScatter,
    /// All lanes' words end to end, equally many of each.
    AllGather,
    /// The sum of all lanes' words to each lane.
    AllReduce,
}

/// The library.
pub(in crate::collective) trait Api: Send + Sync {
    /// What a log calls it.
    fn name(&self) -> String;

    /// A name for a new group.
    fn unique_id(&self) -> Result<UniqueId, Fault>;

    /// Begins to join a group as lane `rank` of `size`, with the device that holds `home`, and does not wait for the
    /// others: [`Membership::ready`] says when they are there.
    fn join(&self, id: &UniqueId, rank: usize, size: usize, home: Slice<'_>) -> Result<Box<dyn Membership>, Fault>;
}

/// A lane's place in a group that is forming, at work, or ending. It must end with [`Membership::destroy`] or
/// [`Membership::abort`]. One thread at a time may use it, any: NCCL's guide on thread safety asks for no more.
pub(in crate::collective) trait Membership: Send {
    /// Whether what was begun last (to join, a step, to finish) has gone through, as far as this host is concerned.
    /// Failures of the group show here.
    fn ready(&mut self) -> Result<bool, Fault>;

    /// Queues a step on the device. Without `send` it takes place in `out`.
    ///
    /// # Safety
    ///
    /// Both places must stay as they are until [`Membership::done`] says that the step is done, or until this is
    /// aborted.
    unsafe fn start(&mut self, step: Step, send: Option<Slice<'_>>, out: SliceMut<'_>) -> Result<(), Fault>;

    /// Whether the device has done all that was queued.
    fn done(&mut self) -> Result<bool, Fault>;

    /// Begins to end the group; all its lanes must. [`Membership::ready`] says when nothing is left to do.
    fn finish(&mut self) -> Result<(), Fault>;

    /// Gives a finished place back.
    fn destroy(self: Box<Self>);

    /// Stops what is queued and gives the place back.
    fn abort(self: Box<Self>);
}
