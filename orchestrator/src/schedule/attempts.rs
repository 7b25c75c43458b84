//! One attempt of a job: reserve at every party, then start everywhere, then watch; an attempt that is lost anywhere is
//! stopped everywhere before the next begins.

use std::collections::BTreeMap;

use shared::fleet::{AttemptFailure, HostId, LeaseId, Millis};
use shared::ids::{Epoch, JobDigest, Lane, PartyId};

use super::Scheduler;
use super::events::{Action, State};
use super::hosts::{Lease, Presence};
use super::jobs::{Attempt, Job, Part, PartPhase, Remnant};
use super::placement::Placement;
use super::reasons::{Reason, clipped};

/// Doublings of the pause between attempts.
const DOUBLINGS_MAX: u32 = 16;

impl Scheduler {
    /// Asks the hosts of all parties to keep devices free.
    pub(super) fn reserve(&mut self, digest: JobDigest, placement: Placement) {
        let hold_ms = self.settings.hold_ms;
        let hold_until = self.now + hold_ms;
        let Some(job) = self.job_mut(digest) else { return };
        let epoch = job.next_epoch();
        job.epoch = epoch;
        job.progress.clear();
        let parts = parts(placement);
        job.attempt = Some(Attempt { epoch, hold_until, committed_at: None, parts: parts.clone() });
        for part in parts {
            let (devices, host) = (part.devices(), part.host);
            let lease = LeaseId { job: digest, epoch, party: part.party };
            let entry = Lease { id: lease, devices: devices.clone(), releasing_since: None, overdue: false };
            self.hosts.update_leases(&host, |leases| leases.push(entry));
            self.actions.push(Action::Reserve { host, lease, devices, hold_ms });
        }
        self.move_to(digest, State::Reserving);
    }

    pub(super) fn reserved(&mut self, host: &HostId, lease: LeaseId) {
        let Some(part) = self.part(host, lease).filter(|part| part.phase == PartPhase::Asked) else { return };
        part.phase = PartPhase::Reserved;
        self.commit_if_all_reserved(lease.job);
    }

    fn commit_if_all_reserved(&mut self, digest: JobDigest) {
        let now = self.now;
        let Some(job) = self.job_mut(digest) else { return };
        let Some(attempt) = job.attempt.as_mut().filter(|attempt| attempt.all_reached(PartPhase::Reserved)) else {
            return;
        };
        if job.state != State::Reserving || now >= attempt.hold_until {
            return;
        }
        if !job.consents.iter().all(|consent| consent.covers(attempt.epoch, now)) {
            let cause = Reason::ConsentEnded;
            self.lose_attempt(digest, cause);
            return;
        }
        attempt.committed_at = Some(now);
        attempt.parts.iter_mut().for_each(|part| part.phase = PartPhase::Committed);
        let (epoch, parts) = (attempt.epoch, attempt.parts.clone());
        for part in parts {
            let lease = LeaseId { job: digest, epoch, party: part.party };
            self.actions.push(Action::Commit { host: part.host, lease, lanes: part.lanes });
        }
        self.move_to(digest, State::Starting);
    }

    pub(super) fn refused(&mut self, host: HostId, lease: LeaseId, why: String) {
        if self.part(&host, lease).is_none() {
            return;
        }
        let avoid_until = self.now + self.settings.retry_max_ms;
        if let Some(host) = self.hosts.volatile(&host) {
            host.avoid_until = avoid_until;
            self.queue.remind(avoid_until);
        }
        self.drop_lease(&host, lease);
        self.lose_attempt(lease.job, Reason::Refused(lease.party, host, clipped(why)));
    }

    pub(super) fn started(&mut self, host: &HostId, lease: LeaseId) {
        let Some(part) = self.part(host, lease).filter(|part| part.phase == PartPhase::Committed) else { return };
        part.phase = PartPhase::Started;
        let Some(job) = self.jobs.get(&lease.job) else { return };
        let all = job.attempt.as_ref().is_some_and(|attempt| attempt.all_reached(PartPhase::Started));
        if all && job.state == State::Starting {
            self.move_to(lease.job, State::Running);
        }
    }

    /// Progress is not written down: a restarted orchestrator hears of the next step soon enough.
    pub(super) fn progress(&mut self, host: &HostId, lease: LeaseId, step: u64, steps: u64) {
        let Some(job) = self.jobs.get_mut(&lease.job) else { return };
        let current = job.attempt.as_mut().filter(|attempt| attempt.epoch == lease.epoch);
        if current.and_then(|attempt| attempt.part(host, lease.party)).is_none() {
            return;
        }
        let before = job.progress.insert(lease.party, (step, steps));
        if before.is_none_or(|(before, _)| step > before) {
            job.alive_at = self.now;
            // Attempts in a row that came to nothing: this one did not.
            if job.setbacks > 0 {
                job.setbacks = 0;
                self.changed_jobs.insert(lease.job);
            }
        }
    }

    pub(super) fn done(&mut self, host: &HostId, lease: LeaseId) {
        let Some(part) = self.part(host, lease).filter(|part| part.phase >= PartPhase::Committed) else { return };
        part.phase = PartPhase::Done;
        let Some(job) = self.jobs.get_mut(&lease.job) else { return };
        job.alive_at = self.now;
        let Some(attempt) = &job.attempt else { return };
        if attempt.all_reached(PartPhase::Done) {
            let grace_ms = self.settings.stop_grace_ms;
            self.end(lease.job, State::Succeeded, Reason::Delivered, grace_ms);
        } else if job.state == State::Starting && attempt.all_reached(PartPhase::Started) {
            self.move_to(lease.job, State::Running);
        }
    }

    pub(super) fn failed(&mut self, host: HostId, lease: LeaseId, failure: AttemptFailure) {
        let current = self.part(&host, lease).is_some();
        let AttemptFailure { reason: why, permanent, peer, .. } = failure;
        let cause = Reason::PartyFailed { party: lease.party, host, peer, why: clipped(why) };
        if current {
            if permanent {
                let grace_ms = self.settings.stop_grace_ms;
                self.end(lease.job, State::Failed, cause, grace_ms);
            } else {
                self.lose_attempt(lease.job, cause);
            }
            return;
        }
        // Whoever speaks first may only have noticed; a party that blames itself knows better.
        let Some(job) = self.job_mut(lease.job) else { return };
        let blamed =
            matches!(&job.cause, Some(Reason::PartyFailed { peer: Some(blamed), .. }) if *blamed == lease.party);
        if job.state == State::Recovering && job.epoch == lease.epoch && blamed && peer.is_none() {
            job.cause = Some(cause);
        }
    }

    /// Nothing of a lease is left on a host.
    pub(super) fn released(&mut self, host: &HostId, lease: LeaseId) {
        // Let go without being asked: a reservation that ran out there, or a process that is gone.
        self.forgotten_by(host, lease);
    }

    /// Strikes a lease out.
    pub(super) fn drop_lease(&mut self, host: &HostId, lease: LeaseId) {
        self.hosts.update_leases(host, |leases| leases.retain(|held| held.id != lease));
        self.stopped(host, lease);
    }

    /// An old part is gone, or as good as: the next attempt need not wait for it.
    pub(super) fn stopped(&mut self, host: &HostId, lease: LeaseId) {
        let Some(job) = self.jobs.get_mut(&lease.job) else { return };
        let before = job.stopping.len();
        job.stopping.retain(|remnant| remnant.lease != lease || remnant.host != *host);
        if job.stopping.len() < before {
            self.changed_jobs.insert(lease.job);
            self.queue.room_grew();
        }
    }

    /// Ends an attempt; another follows unless there were too many.
    pub(super) fn lose_attempt(&mut self, digest: JobDigest, cause: Reason) {
        let (retry_ms, retry_max_ms) = (self.settings.retry_ms, self.settings.retry_max_ms);
        let (grace_ms, now) = (self.settings.stop_grace_ms, self.now);
        let Some(job) = self.job_mut(digest) else { return };
        let Some(attempt) = job.attempt.take() else { return };
        let was_started = attempt.committed_at.is_some();
        let pause = retry_ms.saturating_mul(1 << job.setbacks.min(DOUBLINGS_MAX)).min(retry_max_ms);
        job.setbacks = job.setbacks.saturating_add(1);
        job.not_before = now + pause;
        job.cause = Some(cause.clone());
        job.progress.clear();
        let limit = job.submission.max_restarts;
        let spent = was_started && job.restarts >= limit;
        if was_started && !spent {
            job.restarts += 1;
        }
        let state = if job.restarts == 0 { State::Pending } else { State::Recovering };
        let not_before = job.not_before;
        if spent {
            job.attempt = Some(attempt);
            self.end(digest, State::Failed, Reason::RestartsSpent { limit, last: Box::new(cause) }, grace_ms);
            return;
        }
        self.release_parts(digest, &attempt, grace_ms);
        self.queue.remind(not_before);
        self.move_to(digest, state);
    }

    /// Has every host of an attempt let go.
    pub(super) fn release_parts(&mut self, digest: JobDigest, attempt: &Attempt, grace_ms: Millis) {
        for part in &attempt.parts {
            let lease = LeaseId { job: digest, epoch: attempt.epoch, party: part.party };
            self.release(&part.host, lease, attempt.committed_at.is_some(), grace_ms);
        }
    }

    /// Has a host let go of a lease that it holds, or may hold; `ran` if more than a reservation may be there.
    pub(super) fn release(&mut self, host_id: &HostId, lease: LeaseId, ran: bool, grace_ms: Millis) {
        let now = self.now;
        let Some(host) = self.hosts.get(host_id) else { return };
        let connected = host.is_connected();
        if !host.leases.iter().any(|held| held.id == lease) {
            return;
        }
        self.hosts.update_leases(host_id, |leases| {
            if let Some(held) = leases.iter_mut().find(|held| held.id == lease) {
                held.releasing_since.get_or_insert(now);
            }
        });
        if connected {
            self.actions.push(Action::Release { host: host_id.clone(), lease, grace_ms });
        }
        if let Some(job) = self.jobs.get_mut(&lease.job).filter(|job| !job.state.is_end()) {
            job.stopping.insert(Remnant { host: host_id.clone(), lease, ran });
            self.changed_jobs.insert(lease.job);
        }
    }

    /// Why the next attempt cannot begin yet. Hosts that can answer are waited for. Of the others nobody knows whether
    /// they still run, which is harmless while one party of the attempt is known to be gone: without it nothing is
    /// computed and nothing revealed.
    pub(super) fn may_still_run(&self, job: &Job) -> Option<Reason> {
        let mut stopping = Vec::new();
        let mut unknown: BTreeMap<Epoch, BTreeMap<PartyId, &HostId>> = BTreeMap::new();
        for Remnant { host: id, lease, ran } in &job.stopping {
            let Some(host) = self.hosts.get(id) else { continue };
            let Some(held) = host.leases.iter().find(|held| held.id == *lease) else { continue };
            if host.presence != Presence::Lost && !held.overdue {
                stopping.push((lease.party, id.clone()));
            } else if *ran {
                unknown.entry(lease.epoch).or_default().insert(lease.party, id);
            }
        }
        if !stopping.is_empty() {
            return Some(Reason::Stopping(stopping));
        }
        let whole = unknown.into_values().find(|parties| parties.len() == PartyId::ALL.len())?;
        Some(Reason::Unaccounted(whole.into_iter().map(|(party, host)| (party, host.clone())).collect()))
    }

    /// The part of the attempt under way that a lease names, to be changed.
    pub(super) fn part(&mut self, host: &HostId, lease: LeaseId) -> Option<&mut Part> {
        let current = self.jobs.get(&lease.job)?.attempt.as_ref()?.epoch == lease.epoch;
        let job = if current { self.job_mut(lease.job)? } else { return None };
        job.attempt.as_mut()?.part(host, lease.party)
    }
}

/// A part for each party and host.
fn parts(placement: Placement) -> Vec<Part> {
    let mut parts = Vec::new();
    for (party, spots) in PartyId::ALL.into_iter().zip(placement) {
        let mut by_host: BTreeMap<HostId, Vec<(Lane, _)>> = BTreeMap::new();
        for (lane, (host, device)) in (0..).zip(spots) {
            by_host.entry(host).or_default().push((Lane(lane), device));
        }
        let of_host = |(host, lanes)| Part { party, host, lanes, phase: PartPhase::Asked };
        parts.extend(by_host.into_iter().map(of_host));
    }
    parts
}
