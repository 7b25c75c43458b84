//! What is late. Looked at when time goes by, and at no other event.

use shared::fleet::{HostId, LeaseId, Millis};
use shared::ids::JobDigest;

use super::Scheduler;
use super::events::State;
use super::hosts::Presence;
use super::jobs::{Job, PartPhase};
use super::reasons::{Reason, Task};

/// What becomes of a job that is late.
enum Late {
    /// Its attempt ends.
    Attempt(Reason),
    /// It ends.
    Job(Reason),
    /// Its parties are asked again.
    Consent,
}

impl Scheduler {
    pub(super) fn watch(&mut self) {
        self.queue.time_went_by(self.now);
        self.watch_hosts();
        self.watch_releases();
        let late: Vec<(JobDigest, Late)> =
            self.jobs.values().filter_map(|job| Some((job.digest(), self.late(job)?))).collect();
        for (digest, late) in late {
            match late {
                Late::Attempt(cause) => self.lose_attempt(digest, cause),
                Late::Job(cause) => {
                    let grace_ms = self.settings.stop_grace_ms;
                    self.end(digest, State::Failed, cause, grace_ms);
                }
                Late::Consent => self.ask_consents(digest),
            }
        }
    }

    fn watch_hosts(&mut self) {
        let silent = |at: Millis| self.now.saturating_sub(at) > self.settings.silence_ms;
        let lost: Vec<HostId> = self
            .hosts
            .iter()
            .filter(|host| matches!(host.presence, Presence::Connected(at) | Presence::Away(at) if silent(at)))
            .map(|host| host.id.clone())
            .collect();
        lost.iter().for_each(|host| self.host_lost(host));
    }

    /// A host that does not let go keeps its devices to itself; its job need not wait for it alone.
    fn watch_releases(&mut self) {
        let overdue = |since: Millis| self.now.saturating_sub(since) > self.settings.release_ms;
        let stuck: Vec<(HostId, LeaseId)> = self
            .hosts
            .iter()
            .flat_map(|host| host.leases.iter().map(|lease| (&host.id, lease)))
            .filter(|(_, lease)| !lease.overdue && lease.releasing_since.is_some_and(overdue))
            .map(|(host, lease)| (host.clone(), lease.id))
            .collect();
        for (host, lease) in stuck {
            self.hosts.update(&host, |host| _ = host.lease(lease).map(|lease| lease.overdue = true));
        }
    }

    fn late(&self, job: &Job) -> Option<Late> {
        if job.state.is_end() {
            return None;
        }
        let now = self.now;
        if job.submission.deadline.is_some_and(|deadline| now >= deadline) {
            return Some(Late::Job(Reason::Deadline(Box::new(self.reason(job)))));
        }
        let short_of = |phase| job.attempt.as_ref().map_or_else(Vec::new, |attempt| attempt.short_of(phase));
        let quiet = now.saturating_sub(job.alive_at);
        match job.state {
            State::AwaitingConsent if now.saturating_sub(job.since) > self.settings.consent_ms => {
                Some(Late::Job(Reason::ConsentLate(Box::new(self.reason(job)))))
            }
            State::Pending | State::Recovering if job.without_consent(now).next().is_some() => Some(Late::Consent),
            State::Reserving if job.attempt.as_ref().is_some_and(|attempt| now >= attempt.hold_until) => {
                Some(Late::Attempt(Reason::Late(Task::Reserve, short_of(PartPhase::Reserved))))
            }
            State::Starting | State::Running if self.over_time_limit(job) => {
                Some(Late::Job(Reason::TimeLimit(job.submission.time_limit_ms?)))
            }
            State::Starting if quiet > self.settings.start_ms => {
                Some(Late::Attempt(Reason::Late(Task::Start, short_of(PartPhase::Started))))
            }
            State::Running if quiet > self.settings.progress_ms => Some(Late::Attempt(Reason::NoProgress(quiet))),
            _ => None,
        }
    }

    fn over_time_limit(&self, job: &Job) -> bool {
        let begun = job.attempt.as_ref().and_then(|attempt| attempt.committed_at);
        let limit = job.submission.time_limit_ms;
        begun.zip(limit).is_some_and(|(begun, limit)| self.now.saturating_sub(begun) > limit)
    }
}
