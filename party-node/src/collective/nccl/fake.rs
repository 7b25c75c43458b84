//! A stand-in for NCCL over this host's memory. It adds what the lanes' threads bring, is as slow and as faulty as its
//! script says, and panics when it is used in an order that NCCL does not allow.
#![allow(unsafe_code, reason = "writes results where a step was told to, as a device does")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::api::{Api, Fault, ID_BYTES, Membership, Step, UniqueId};
use crate::compute::elementwise::add_assign;
use crate::compute::{Slice, SliceMut};

/// How it behaves. By default everything goes well and at once.
#[derive(Clone, Copy, Default)]
pub(super) struct Script {
    /// How often joining is not ready after all have come.
    pub(super) join_polls: usize,
    /// How often a step is not queued yet.
    pub(super) queue_polls: usize,
    /// How often a step is not done after all have brought their words.
    pub(super) done_polls: usize,
    /// How often the end is not reached after all have asked for it.
    pub(super) finish_polls: usize,
    /// A lane whose call to join fails.
    pub(super) join_fails: Option<usize>,
    /// A lane whose joining never ends.
    pub(super) join_hangs: Option<usize>,
    /// A lane and the number of its step that fails while it runs.
    pub(super) step_fails: Option<(usize, usize)>,
    /// A lane and the number of its step that is never done.
    pub(super) step_hangs: Option<(usize, usize)>,
    /// Whether the end is never reached.
    pub(super) finish_hangs: bool,
}

/// How places in groups have ended.
#[derive(Default, Debug)]
pub(super) struct Ends {
    /// Not yet.
    pub(super) open: AtomicUsize,
    /// Well.
    pub(super) destroyed: AtomicUsize,
    /// In the middle.
    pub(super) aborted: AtomicUsize,
}

impl Ends {
    /// Open, destroyed, aborted.
    pub(super) fn counts(&self) -> [usize; 3] {
        [&self.open, &self.destroyed, &self.aborted].map(|count| count.load(SeqCst))
    }
}

/// The library.
#[derive(Default)]
pub(super) struct Fake {
    script: Script,
    pub(super) ends: Arc<Ends>,
    groups: Mutex<Vec<Arc<Mutex<Group>>>>,
}

#[derive(Default)]
struct Group {
    joined: usize,
    finishing: usize,
    /// For every step what each lane brought.
    steps: BTreeMap<usize, (Step, BTreeMap<usize, Vec<u64>>)>,
}

struct Place {
    rank: usize,
    size: usize,
    script: Script,
    group: Arc<Mutex<Group>>,
    ends: Arc<Ends>,
    polls: usize,
    /// Steps started.
    steps: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Joining,
    Idle,
    /// A step whose result goes to so many words there.
    Queued(Step, usize, usize),
    Running(Step, usize, usize),
    Finishing,
    Finished,
}

impl Fake {
    pub(super) fn new(script: Script) -> Arc<Self> {
        Arc::new(Self { script, ..Self::default() })
    }
}

impl Api for Fake {
    fn name(&self) -> String {
        "a stand-in for NCCL".into()
    }

    fn unique_id(&self) -> Result<UniqueId, Fault> {
        let mut groups = lock(&self.groups);
        groups.push(Arc::default());
        let mut id = [0; ID_BYTES];
        id[0] = u8::try_from(groups.len() - 1).unwrap();
        Ok(UniqueId(id))
    }

    fn join(&self, id: &UniqueId, rank: usize, size: usize, home: Slice<'_>) -> Result<Box<dyn Membership>, Fault> {
        assert_eq!((home.len(), home.on_host()[0]), (1, 0), "a lane joins with a zero on its device");
        if self.script.join_fails == Some(rank) {
            return Err(Fault("no such device".into()));
        }
        let group = lock(&self.groups)[usize::from(id.0[0])].clone();
        lock(&group).joined += 1;
        self.ends.open.fetch_add(1, SeqCst);
        let (script, ends, polls) = (self.script, self.ends.clone(), self.script.join_polls);
        Ok(Box::new(Place { rank, size, script, group, ends, polls, steps: 0, state: State::Joining }))
    }
}

impl Place {
    /// Whether it has been asked often enough.
    fn patient_enough(&mut self) -> bool {
        let enough = self.polls == 0;
        self.polls = self.polls.saturating_sub(1);
        enough
    }

    fn result(&self, step: Step, words: &BTreeMap<usize, Vec<u64>>) -> Vec<u64> {
        if step == Step::AllGather {
            return words.values().flatten().copied().collect();
        }
        let mut sum = vec![0; words[&0].len()];
        words.values().for_each(|words| add_assign(&mut sum, words));
        let each = sum.len() / self.size;
        if step == Step::AllReduce { sum } else { sum[each * self.rank..each * (self.rank + 1)].to_vec() }
    }
}

impl Membership for Place {
    fn ready(&mut self) -> Result<bool, Fault> {
        let all_joined = lock(&self.group).joined == self.size && self.script.join_hangs != Some(self.rank);
        let all_finish = lock(&self.group).finishing == self.size && !self.script.finish_hangs;
        let state = self.state;
        match state {
            State::Joining if all_joined && self.patient_enough() => self.state = State::Idle,
            State::Queued(step, place, len) if self.patient_enough() => {
                self.polls = self.script.done_polls;
                self.state = State::Running(step, place, len);
            }
            State::Running(..) if self.script.step_fails == Some((self.rank, self.steps)) => {
                return Err(Fault("a link is down".into()));
            }
            State::Finishing if all_finish && self.patient_enough() => self.state = State::Finished,
            _ => {}
        }
        Ok(matches!(self.state, State::Idle | State::Running(..) | State::Finished))
    }

    unsafe fn start(&mut self, step: Step, send: Option<Slice<'_>>, out: SliceMut<'_>) -> Result<(), Fault> {
        assert_eq!(self.state, State::Idle, "a step starts when nothing else is under way");
        let sent = send.unwrap_or(out.reading()).on_host().into_owned();
        let out = match out {
            SliceMut::Host(out) => out,
            #[cfg(feature = "cuda")]
            SliceMut::Gpu(..) => panic!("a lane of this group has its words on the host"),
        };
        let mut group = lock(&self.group);
        let (theirs, words) = group.steps.entry(self.steps).or_insert_with(|| (step, BTreeMap::new()));
        assert_eq!(*theirs, step, "lanes take the same step");
        assert!(words.values().all(|words| words.len() == sent.len()), "lanes bring equally many words");
        words.insert(self.rank, sent);
        self.polls = self.script.queue_polls;
        self.state = State::Queued(step, out.as_mut_ptr() as usize, out.len());
        Ok(())
    }

    fn done(&mut self) -> Result<bool, Fault> {
        let State::Running(step, place, len) = self.state else { panic!("{:?} and not queued", self.state) };
        if self.script.step_hangs == Some((self.rank, self.steps))
            || self.script.step_fails == Some((self.rank, self.steps))
        {
            return Ok(false);
        }
        let group = self.group.clone();
        let group = lock(&group);
        let words = &group.steps[&self.steps].1;
        if words.len() < self.size || !self.patient_enough() {
            return Ok(false);
        }
        let result = self.result(step, words);
        assert_eq!(result.len(), len, "a result fits its place");
        // SAFETY: whoever started the step leaves its place as it is until this returns true.
        unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), place as *mut u64, len) };
        self.state = State::Idle;
        self.steps += 1;
        Ok(true)
    }

    fn finish(&mut self) -> Result<(), Fault> {
        assert_eq!(self.state, State::Idle, "a group ends when nothing is under way");
        lock(&self.group).finishing += 1;
        self.polls = self.script.finish_polls;
        self.state = State::Finishing;
        Ok(())
    }

    fn destroy(self: Box<Self>) {
        assert_eq!(self.state, State::Finished, "what is destroyed has finished");
        self.ends.open.fetch_sub(1, SeqCst);
        self.ends.destroyed.fetch_add(1, SeqCst);
    }

    fn abort(self: Box<Self>) {
        self.ends.open.fetch_sub(1, SeqCst);
        self.ends.aborted.fetch_add(1, SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
