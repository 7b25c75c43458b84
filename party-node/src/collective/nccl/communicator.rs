//! The life of a lane's communicator: joining, steps, end. It waits by asking, never within a call, so that it notices
//! a failure, a lane that has left, and a time that is up.
#![allow(unsafe_code, reason = "lends memory to steps that outlast the call that starts them")]

use std::thread;
use std::time::{Duration, Instant};

use super::api::{Fault, Membership, Step};
use crate::collective::CollectiveError;
use crate::compute::{Slice, SliceMut};

/// A wait begins with turns of this long without sleep: a step over a few megabytes takes less.
const EAGER: Duration = Duration::from_millis(2);
/// Later it sleeps so long between two looks.
const NAP: Duration = Duration::from_micros(100);

/// What ends a wait besides its success.
pub(super) struct Watch<'a> {
    /// What is waited for, for an error.
    pub(super) what: &'static str,
    /// How long at most.
    pub(super) limit: Duration,
    /// Why it would be in vain.
    pub(super) lost: &'a dyn Fn() -> Option<CollectiveError>,
}

impl Watch<'_> {
    /// Asks until the answer is yes.
    pub(super) fn until(&self, mut answer: impl FnMut() -> Result<bool, Fault>) -> Result<(), CollectiveError> {
        let start = Instant::now();
        while !answer().map_err(|fault| self.failed(fault))? {
            if let Some(error) = (self.lost)() {
                return Err(error);
            }
            let waited = start.elapsed();
            if waited >= self.limit {
                return Err(self.failed(Fault(format!("it has not come to an end within {:?}", self.limit))));
            }
            if waited < EAGER { thread::yield_now() } else { thread::sleep(NAP) }
        }
        Ok(())
    }

    /// A lane that has left explains a failure better than what NCCL notices of it.
    pub(super) fn failed(&self, Fault(detail): Fault) -> CollectiveError {
        (self.lost)().unwrap_or(CollectiveError::Nccl { what: self.what, detail })
    }
}

/// A communicator that is ready for steps. Dropping it aborts it.
pub(super) struct Communicator {
    size: usize,
    /// None once it has ended.
    membership: Option<Box<dyn Membership>>,
}

impl Communicator {
    /// Waits until all lanes have joined.
    pub(super) fn join(
        size: usize,
        begin: impl FnOnce() -> Result<Box<dyn Membership>, Fault>,
        watch: &Watch<'_>,
    ) -> Result<Self, CollectiveError> {
        let membership = begin().map_err(|fault| watch.failed(fault))?;
        // What follows drops it if it fails.
        let mut communicator = Self { size, membership: Some(membership) };
        watch.until(|| communicator.membership().ready())?;
        Ok(communicator)
    }

    /// Takes a step together with all other lanes and waits for its end. After an error the communicator has ended.
    /// Panics if the lengths do not fit the step: they are ours.
    pub(super) fn step(
        &mut self,
        step: Step,
        send: Option<Slice<'_>>,
        out: SliceMut<'_>,
        watch: &Watch<'_>,
    ) -> Result<(), CollectiveError> {
        let (sent, received) = (send.map_or(out.len(), Slice::len), out.len());
        let (sent_due, received_due) = match step {
            Step::ReduceScatter => (self.size * received, received),
            Step::AllGather => (sent, self.size * sent),
            Step::AllReduce => (sent, sent),
        };
        assert_eq!((sent, received), (sent_due, received_due), "words of {step:?} among {} lanes", self.size);
        let membership = self.membership();
        // SAFETY: both places are borrowed until this returns, and it returns when the step is done or after an abort.
        let started = unsafe { membership.start(step, send, out) };
        let ended = started.map_err(|fault| watch.failed(fault)).and_then(|()| {
            watch.until(|| membership.ready())?;
            // The group may fail while the device still waits for it, and then only the group says so.
            watch.until(|| Ok(membership.ready()? && membership.done()?))
        });
        if ended.is_err() {
            self.abort();
        }
        ended
    }

    /// Ends well, together with all other lanes; aborts if that fails.
    pub(super) fn finish(mut self, watch: &Watch<'_>) {
        let membership = self.membership();
        let began = membership.finish().map_err(|fault| watch.failed(fault));
        match began.and_then(|()| watch.until(|| membership.ready())) {
            Ok(()) => {
                if let Some(membership) = self.membership.take() {
                    membership.destroy();
                }
            }
            Err(error) => tracing::debug!(%error, "the communicator is aborted at its end"),
        }
    }

    /// Ends at once, whatever is still under way.
    pub(super) fn abort(&mut self) {
        if let Some(membership) = self.membership.take() {
            membership.abort();
        }
    }

    fn membership(&mut self) -> &mut dyn Membership {
        &mut **self.membership.as_mut().expect("nobody uses a communicator after its end")
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.abort();
    }
}
