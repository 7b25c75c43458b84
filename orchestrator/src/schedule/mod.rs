//! Which jobs run where: a state machine over time and events, without I/O. The same events give the same actions.
//!
//! A job waits for the consent of all three parties, then in line for devices. Devices are reserved at every party and
//! the order to start goes out when all have answered, or nothing happens at all. A host's word decides what is free:
//! a device is sold again only after its host has let go of it.
//!
//! | file | decides |
//! |---|---|
//! | `queue` | who is next, who may pass |
//! | `placement`, `pairing` | where a job can go |
//! | `attempts` | reserve, start, watch, recover, end |
//! | `consents` | whether the parties agree |
//! | `agents` | what is believed of hosts that come, go and come back |
//! | `watch` | deadlines |

mod agents;
mod attempts;
mod consents;
mod events;
mod hosts;
mod jobs;
mod pairing;
mod placement;
mod queue;
mod reasons;
mod records;
mod settings;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use shared::fleet::{HostId, Millis, Submission};
use shared::ids::{JobDigest, PartyId};

pub use events::{Action, Consent, Event, State};
pub use hosts::{Host, Lease, Presence};
pub use jobs::{Attempt, Job, Part, PartPhase, Remnant};
pub use reasons::{Counted, Lack, Reason, Task};
pub use records::{Changes, Meta, Records};
pub use settings::{Quota, Settings};

use hosts::Hosts;
use queue::Queue;

/// Time that passes without a step is the orchestrator's own pause or a clock that jumped, and no host's silence.
const PAUSE_MS: Millis = 5_000;

/// All jobs and all hosts.
#[derive(Clone, PartialEq, Debug)]
pub struct Scheduler {
    settings: Settings,
    now: Millis,
    next_sequence: u64,
    quotas: [Quota; 3],
    jobs: BTreeMap<JobDigest, Job>,
    ended: BTreeSet<(Millis, u64, JobDigest)>,
    hosts: Hosts,
    queue: Queue,
    changed_jobs: BTreeSet<JobDigest>,
    changed_meta: bool,
    actions: Vec<Action>,
}

impl Scheduler {
    /// No jobs, no hosts.
    pub fn new(settings: Settings) -> Self {
        Self::restore(settings, Records::default())
    }

    /// Applies one event. Time may stand still or jump; it never goes back.
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let pause = now.saturating_sub(self.now);
        if pause > PAUSE_MS {
            self.forgive(pause);
        }
        self.now = self.now.max(now);
        self.apply(event);
        self.look_at_queue();
        std::mem::take(&mut self.actions)
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Restarted => self.restarted(),
            Event::Tick => self.watch(),
            Event::Submit(submission) => self.submit(*submission),
            Event::Cancel { job, grace_ms } => self.cancel(job, grace_ms),
            Event::Consent { job, party, consent } => self.consent(job, party, consent),
            Event::DeciderJoined(party) => self.ask_undecided(party),
            Event::SetQuota(party, quota) => self.set_quota(party, quota),
            Event::HostJoined(report) => self.host_joined(*report),
            Event::HostAway(host) => self.host_away(&host),
            Event::HostForgotten(host) => self.host_forgotten(&host),
            Event::Heartbeat(host) => self.heartbeat(&host),
            Event::Drain(host, drained) => self.hosts.update(&host, |host| host.drained = drained),
            Event::Measured(from, to, link) => {
                if let Some(host) = self.hosts.volatile(&from) {
                    host.links.insert(to, link);
                }
            }
            Event::Reserved(host, lease) => self.reserved(&host, lease),
            Event::Refused(host, lease, why) => self.refused(host, lease, why),
            Event::Started(host, lease) => self.started(&host, lease),
            Event::Progress(host, lease, step, steps) => self.progress(&host, lease, step, steps),
            Event::Done(host, lease) => self.done(&host, lease),
            Event::Failed(host, lease, failure) => self.failed(host, lease, failure),
            Event::Released(host, lease) => self.released(&host, lease),
        }
    }

    fn submit(&mut self, submission: Submission) {
        let job = submission.digest;
        if let Err(why) = submission.check() {
            self.actions.push(Action::Rejected { job, why });
            return;
        }
        let known = self.jobs.contains_key(&job);
        self.actions.push(Action::Accepted { job, known });
        if !known {
            let sequence = self.next_sequence;
            self.next_sequence += 1;
            self.changed_meta = true;
            self.jobs.insert(job, Job::new(submission, sequence, self.now));
            self.changed_jobs.insert(job);
            self.ask_consents(job);
        }
    }

    fn set_quota(&mut self, party: PartyId, quota: Quota) {
        self.quotas[party.index()] = quota;
        self.changed_meta = true;
        self.hosts.reshaped = true;
    }

    /// One job, if it is remembered.
    pub fn job(&self, job: &JobDigest) -> Option<&Job> {
        self.jobs.get(job)
    }

    /// All jobs that are remembered.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// One host.
    pub fn host(&self, host: &HostId) -> Option<&Host> {
        self.hosts.get(host)
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter()
    }

    /// What a party lets jobs use.
    pub fn quota(&self, party: PartyId) -> Quota {
        self.quotas[party.index()]
    }

    /// Why a job is where it is.
    pub fn reason(&self, job: &Job) -> Reason {
        let in_line = matches!(job.state, State::Pending | State::Recovering);
        let stopping = if in_line { self.may_still_run(job) } else { None };
        stopping.or_else(|| job.own_reason(self.now)).unwrap_or_else(|| self.waits_for(job))
    }

    /// Changes a job that is to be written down.
    fn job_mut(&mut self, job: JobDigest) -> Option<&mut Job> {
        let found = self.jobs.get_mut(&job)?;
        self.changed_jobs.insert(job);
        Some(found)
    }

    /// Enters a state and tells.
    fn move_to(&mut self, digest: JobDigest, state: State) {
        let now = self.now;
        let Some(job) = self.job_mut(digest) else { return };
        (job.state, job.since, job.alive_at) = (state, now, now);
        let turn = job.turn();
        if matches!(state, State::Pending | State::Recovering) {
            self.enqueue(digest);
        } else {
            self.queue.remove(&turn);
        }
        let job = &self.jobs[&digest];
        let reason = job.own_reason(now).or_else(|| job.cause.clone()).unwrap_or(Reason::Turn);
        self.actions.push(Action::Moved { job: digest, state, reason });
    }

    /// Ends a job. What it holds is let go; nothing else ever happens to it.
    fn end(&mut self, digest: JobDigest, state: State, cause: Reason, grace_ms: Millis) {
        let now = self.now;
        let Some(job) = self.job_mut(digest).filter(|job| !job.state.is_end()) else { return };
        job.cause = Some(cause);
        job.stopping.clear();
        let (sequence, attempt) = (job.sequence, job.attempt.take());
        if let Some(attempt) = attempt {
            self.release_parts(digest, &attempt, grace_ms);
        }
        self.move_to(digest, state);
        self.ended.insert((now, sequence, digest));
        while self.ended.len() > self.settings.ended_jobs_max {
            let Some((_, _, oldest)) = self.ended.pop_first() else { break };
            self.jobs.remove(&oldest);
            self.changed_jobs.insert(oldest);
        }
    }

    fn cancel(&mut self, job: JobDigest, grace_ms: Millis) {
        self.end(job, State::Cancelled, Reason::Cancelled, grace_ms);
    }
}

#[cfg(test)]
mod tests;
