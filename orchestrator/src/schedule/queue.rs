//! Who is next. Highest priority first, first come first within; whoever fits may pass, but devices that the first in line
//! needs are kept for it as they become free, so that nobody passes it for ever.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use shared::fleet::{DeviceId, HostId, Millis, Requirements};
use shared::ids::{JobDigest, PartyId};

use super::Scheduler;
use super::hosts::{Presence, Use};
use super::jobs::Job;
use super::placement::{Devices, Mode, Placement, View};
use super::reasons::{Counted, Reason};
use super::settings::Quota;

/// Searches for a place per step: bounds the time of a decision. What is left is looked at in the next step.
const SEARCHES_MAX: u32 = 32;

/// Kinds of job whose chances are remembered; then all are forgotten and found out again.
const REMEMBERED_MAX: usize = 20_000;

/// A place in line: lower is earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Turn {
    priority: Reverse<i32>,
    sequence: u64,
    pub(super) job: JobDigest,
}

impl Turn {
    pub(super) fn new(priority: i32, sequence: u64, job: JobDigest) -> Self {
        Self { priority: Reverse(priority), sequence, job }
    }
}

/// Jobs that wait for devices, and what is known of their chances.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeSet<Turn>,
    /// The first in line and the devices kept for it.
    claim: Option<Claim>,
    /// Whether the fleet could hold such a job if it were alone.
    fits_alone: BTreeMap<Requirements, bool>,
    /// There was no room for such a job, with or without what is kept, since a device last became free.
    no_room: BTreeSet<(Requirements, bool)>,
    /// Something changed that the queue has not been looked at for.
    stale: bool,
    /// Times at which something becomes possible.
    reminders: BTreeSet<Millis>,
}

#[derive(Clone, PartialEq, Debug)]
struct Claim {
    job: JobDigest,
    spots: Vec<(HostId, DeviceId)>,
    devices: Devices,
}

impl Queue {
    pub(super) fn add(&mut self, turn: Turn) {
        self.waiting.insert(turn);
        self.stale = true;
    }

    pub(super) fn remove(&mut self, turn: &Turn) {
        self.waiting.remove(turn);
        if self.claim.as_ref().is_some_and(|claim| claim.job == turn.job) {
            self.drop_claim();
        }
    }

    /// Looks again at this time.
    pub(super) fn remind(&mut self, at: Millis) {
        self.reminders.insert(at);
    }

    pub(super) fn time_went_by(&mut self, now: Millis) {
        let later = self.reminders.split_off(&(now + 1));
        if !std::mem::replace(&mut self.reminders, later).is_empty() {
            self.room_grew();
        }
    }

    /// Something may be possible that was not.
    pub(super) fn room_grew(&mut self) {
        self.no_room.clear();
        self.stale = true;
    }

    /// Begins again with these in line.
    pub(super) fn restart(&mut self, waiting: BTreeSet<Turn>, reminders: BTreeSet<Millis>) {
        *self = Self { waiting, reminders, stale: true, ..Self::default() };
    }

    fn fleet_changed(&mut self) {
        self.fits_alone.clear();
        self.room_grew();
    }

    fn drop_claim(&mut self) {
        self.claim = None;
        self.room_grew();
    }
}

/// What one look at the queue has left.
struct Pass {
    searches: u32,
    /// The first in line.
    first: Option<JobDigest>,
    /// When all that is kept for it is free at the latest, once that has been asked.
    claim_free_at: Option<Option<Millis>>,
}

impl Scheduler {
    /// Starts attempts of whatever fits.
    pub(super) fn look_at_queue(&mut self) {
        if std::mem::take(&mut self.hosts.reshaped) {
            self.queue.fleet_changed();
        }
        if std::mem::take(&mut self.hosts.grown) {
            self.queue.room_grew();
        }
        if !std::mem::take(&mut self.queue.stale) {
            return;
        }
        let mut pass = Pass { searches: SEARCHES_MAX, first: None, claim_free_at: None };
        let line: Vec<JobDigest> = self.queue.waiting.iter().map(|turn| turn.job).collect();
        for job in line {
            if !self.consider(job, &mut pass) {
                return;
            }
        }
        if pass.first.is_none() && self.queue.claim.is_some() {
            self.queue.drop_claim();
        }
    }

    /// Looks at one job in its turn; whether there is a point in looking at more.
    fn consider(&mut self, digest: JobDigest, pass: &mut Pass) -> bool {
        if pass.searches == 0 {
            self.queue.stale = true;
            return false;
        }
        let Some(job) = self.jobs.get(&digest) else { return true };
        if job.without_consent(self.now).next().is_some() {
            self.ask_consents(digest);
            return true;
        }
        if !self.fits_alone(digest, pass) {
            return true;
        }
        let is_first = pass.first.is_none();
        if is_first {
            pass.first = Some(digest);
            self.renew_claim(digest, pass);
        }
        let Some(job) = self.jobs.get(&digest) else { return true };
        if self.now < job.not_before || !job.stopping.is_empty() || self.over_quota(job).is_some() {
            return true;
        }
        if PartyId::ALL.into_iter().any(|party| self.hosts.idle(party) == 0) {
            return false;
        }
        if let Some(placement) = self.find_room(digest, is_first, pass) {
            self.reserve(digest, placement);
            if is_first {
                // The next in line is the first now, and what was kept for this one is used or free.
                pass.first = None;
            }
        }
        true
    }

    fn find_room(&mut self, digest: JobDigest, is_first: bool, pass: &mut Pass) -> Option<Placement> {
        let job = self.jobs.get(&digest)?;
        let mut key = (job.submission.requirements.clone(), true);
        if !is_first && self.queue.no_room.contains(&key) {
            return None;
        }
        key.1 = is_first || self.ends_before_claim(job, pass);
        if !is_first && self.queue.no_room.contains(&key) {
            return None;
        }
        let passes_claim = key.1;
        pass.searches -= 1;
        let kept = self.queue.claim.as_ref().filter(|_| !passes_claim).map(|claim| &claim.devices);
        let view = View { hosts: &self.hosts, now: self.now, mode: Mode::Now { kept }, need: &key.0 };
        let placement = view.place();
        if placement.is_none() && !is_first {
            if self.queue.no_room.len() >= REMEMBERED_MAX {
                self.queue.no_room.clear();
            }
            self.queue.no_room.insert(key);
        }
        placement
    }

    /// Whether the job could run if nothing else did.
    fn fits_alone(&mut self, digest: JobDigest, pass: &mut Pass) -> bool {
        let Some(job) = self.jobs.get(&digest) else { return false };
        let need = &job.submission.requirements;
        let too_much = |party: PartyId| {
            let quota = self.quotas[party.index()];
            quota.devices.is_some_and(|most| u32::from(need.lanes) > most) || quota.jobs == Some(0)
        };
        if PartyId::ALL.into_iter().any(too_much) {
            return false;
        }
        if let Some(&known) = self.queue.fits_alone.get(need) {
            return known;
        }
        pass.searches = pass.searches.saturating_sub(1);
        let fits = View { hosts: &self.hosts, now: self.now, mode: Mode::Alone, need }.fits();
        let need = need.clone();
        if self.queue.fits_alone.len() >= REMEMBERED_MAX {
            self.queue.fits_alone.clear();
        }
        self.queue.fits_alone.insert(need, fits);
        fits
    }

    /// Keeps devices for the first in line: those that it holds a claim on, or else those that promise to be free soonest.
    fn renew_claim(&mut self, digest: JobDigest, pass: &mut Pass) {
        if !self.settings.claims {
            return;
        }
        if let Some(claim) = &self.queue.claim {
            if claim.job == digest && claim.spots.iter().all(|spot| self.is_claimable(spot)) {
                return;
            }
            self.queue.drop_claim();
        }
        pass.claim_free_at = None;
        let Some(job) = self.jobs.get(&digest) else { return };
        pass.searches = pass.searches.saturating_sub(1);
        let view = View { hosts: &self.hosts, now: self.now, mode: Mode::Alone, need: &job.submission.requirements };
        let Some(placement) = view.place() else { return };
        let spots: Vec<_> = placement.into_iter().flatten().collect();
        let mut devices = Devices::new();
        for (host, device) in &spots {
            if let Some(host) = self.hosts.get(host) {
                devices.entry(host.machine.clone()).or_default().insert(device.clone());
            }
        }
        self.queue.claim = Some(Claim { job: digest, spots, devices });
    }

    fn is_claimable(&self, (host, device): &(HostId, DeviceId)) -> bool {
        self.hosts.get(host).is_some_and(|host| {
            let at = host.devices.iter().position(|own| own.id == *device);
            !host.drained && host.presence != Presence::Lost && at.is_some_and(|at| host.uses[at] != Use::Stuck)
        })
    }

    /// Whether a job that states its time limit is over before the devices kept for the first in line are all free.
    fn ends_before_claim(&self, job: &Job, pass: &mut Pass) -> bool {
        let Some(limit) = job.submission.time_limit_ms else { return false };
        let free_at = *pass.claim_free_at.get_or_insert_with(|| self.claim_free_at());
        let own = self.settings.hold_ms + self.settings.start_ms + self.settings.release_ms;
        free_at.is_some_and(|free_at| self.now.saturating_add(own).saturating_add(limit) <= free_at)
    }

    fn claim_free_at(&self) -> Option<Millis> {
        let mut free_at = None;
        for (host, device) in &self.queue.claim.as_ref()?.spots {
            for lease in self.hosts.get(host)?.leases.iter().filter(|lease| lease.devices.contains(device)) {
                free_at = free_at.max(Some(self.latest_end(lease.id.job)?));
            }
        }
        free_at
    }

    /// When a running job's attempt ends at the latest, before what it takes to let go.
    fn latest_end(&self, digest: JobDigest) -> Option<Millis> {
        let job = self.jobs.get(&digest)?;
        let begun = job.attempt.as_ref()?.committed_at?;
        Some(begun.saturating_add(job.submission.time_limit_ms?))
    }

    /// The quota that a job would break now. What the first in line needs is set aside for it, like its devices.
    pub(super) fn over_quota(&self, job: &Job) -> Option<Reason> {
        let first = self.queue.claim.as_ref().map(|claim| claim.job).filter(|first| *first != job.digest());
        let set_aside = first.and_then(|first| self.jobs.get(&first));
        PartyId::ALL.into_iter().find_map(|party| {
            let quota = self.quotas[party.index()];
            if quota == Quota::default() {
                return None;
            }
            let mut used = self.hosts.used(party);
            if let Some(first) = set_aside {
                used = (used.0 + u32::from(first.submission.requirements.lanes), used.1 + 1);
            }
            let counts = [
                (Counted::Devices, u32::from(job.submission.requirements.lanes), used.0, quota.devices),
                (Counted::Jobs, 1, used.1, quota.jobs),
            ];
            counts.into_iter().find_map(|(what, needs, used, quota)| {
                let quota = quota.filter(|quota| used + needs > *quota)?;
                Some(Reason::Quota { party, what, needs, used, quota })
            })
        })
    }

    /// Why a job that waits in line does.
    pub(super) fn waits_for(&self, job: &Job) -> Reason {
        if let Some(reason) = self.over_quota(job) {
            return reason;
        }
        let need = &job.submission.requirements;
        let look = |kept| View { hosts: &self.hosts, now: self.now, mode: Mode::Now { kept }, need };
        let claim = self.queue.claim.as_ref().filter(|claim| claim.job != job.digest());
        let lacks = look(None).lacks();
        if !lacks.is_empty() {
            return Reason::Lacks(lacks);
        }
        if look(None).place().is_none() {
            return Reason::SharedMachines;
        }
        match claim.and_then(|claim| Some((claim, self.jobs.get(&claim.job)?))) {
            Some((claim, first)) if look(Some(&claim.devices)).place().is_none() => {
                Reason::Behind(first.submission.name.clone())
            }
            _ => Reason::Turn,
        }
    }
}
