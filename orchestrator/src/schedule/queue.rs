//! Who is next. Highest priority first, first come first within; whoever fits may pass, but devices that the first in
//! line needs are kept for it as they become free, so that nobody passes it for ever.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use shared::fleet::{DeviceId, HostId, Millis, Requirements};
use shared::ids::{JobDigest, PartyId};

use super::Scheduler;
use super::events::State;
use super::hosts::{Presence, Use};
use super::jobs::Job;
use super::placement::{Devices, Mode, Placement, View};
use super::reasons::{Counted, Reason};
use super::settings::Quota;

/// Searches for a place per step: bounds the time of a decision. What is left is looked at in the next step.
const SEARCHES_MAX: u32 = 8;

/// Kinds of job whose chances are remembered; beyond that, those that nobody asks for are forgotten.
const SHAPES_MAX: usize = 50_000;

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
    waiting: BTreeMap<Turn, Shape>,
    shapes: BTreeMap<Requirements, Shape>,
    chances: Vec<Chances>,
    /// The first in line and the devices kept for it.
    claim: Option<Claim>,
    /// Something changed that the whole line has not been looked at for.
    stale: bool,
    /// Jobs that joined the line since.
    fresh: BTreeSet<Turn>,
    /// Where the last look ended because it had searched enough, and who was first in line then.
    stopped_at: Option<(Turn, Option<JobDigest>)>,
    /// Times at which something becomes possible.
    reminders: BTreeSet<Millis>,
}

/// Index of [`Chances`]: jobs with the same requirements share theirs.
type Shape = usize;

/// What is known of jobs with the same requirements.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Chances {
    /// Whether the fleet could hold one if it were alone.
    fits_alone: Option<bool>,
    /// There is no room for one since a device last became free, not even with what is kept.
    no_room: bool,
    /// Nor beside what is kept.
    no_room_beside: bool,
}

#[derive(Clone, PartialEq, Debug)]
struct Claim {
    job: JobDigest,
    spots: Vec<(HostId, DeviceId)>,
    devices: Devices,
}

impl Queue {
    fn add(&mut self, turn: Turn, need: &Requirements) {
        let shape = match self.shapes.get(need) {
            Some(&shape) => shape,
            None => {
                self.chances.push(Chances::default());
                self.shapes.insert(need.clone(), self.chances.len() - 1);
                self.chances.len() - 1
            }
        };
        self.waiting.insert(turn, shape);
        self.fresh.insert(turn);
        self.stopped_at = self.stopped_at.filter(|(at, _)| *at < turn);
    }

    pub(super) fn remove(&mut self, turn: &Turn) {
        self.waiting.remove(turn);
        self.fresh.remove(turn);
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
        self.chances.iter_mut().for_each(|chances| (chances.no_room, chances.no_room_beside) = (false, false));
        self.look_at_all();
    }

    fn fleet_changed(&mut self) {
        self.chances.fill(Chances::default());
        self.look_at_all();
    }

    fn look_at_all(&mut self) {
        self.stale = true;
        self.stopped_at = None;
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
    /// Puts a job in line.
    pub(super) fn enqueue(&mut self, digest: JobDigest) {
        let Some(job) = self.jobs.get(&digest) else { return };
        self.queue.add(job.turn(), &job.submission.requirements);
    }

    /// Makes the line anew from the jobs that wait; what was remembered and nobody asks for is gone.
    pub(super) fn requeue(&mut self) {
        self.queue = Queue { reminders: std::mem::take(&mut self.queue.reminders), stale: true, ..Queue::default() };
        for job in self.jobs.values().filter(|job| matches!(job.state, State::Pending | State::Recovering)) {
            self.queue.add(job.turn(), &job.submission.requirements);
            self.queue.reminders.insert(job.not_before);
        }
    }

    /// Starts attempts of whatever fits.
    pub(super) fn look_at_queue(&mut self) {
        if self.queue.shapes.len() > SHAPES_MAX {
            self.requeue();
        }
        if std::mem::take(&mut self.hosts.reshaped) {
            self.queue.fleet_changed();
        }
        if std::mem::take(&mut self.hosts.grown) {
            self.queue.room_grew();
        }
        let fresh = std::mem::take(&mut self.queue.fresh);
        let mut pass = Pass { searches: SEARCHES_MAX, first: None, claim_free_at: None };
        if !self.queue.stale {
            let Some(foremost) = fresh.first() else { return };
            let claim = self.queue.claim.as_ref().and_then(|claim| self.jobs.get(&claim.job));
            if let Some(first) = claim.filter(|first| first.turn() < *foremost) {
                // Nothing changed for those who waited: only the new ones have a chance.
                pass.first = Some(first.digest());
                let fresh = fresh.iter().filter_map(|turn| Some((*turn, *self.queue.waiting.get(turn)?)));
                let fresh: Vec<(Turn, Shape)> = fresh.collect();
                self.look_at(&fresh, &mut pass);
                return;
            }
        }
        self.queue.stale = false;
        let from = match self.queue.stopped_at.take() {
            Some((turn, first)) => {
                pass.first = first;
                Bound::Included(turn)
            }
            None => Bound::Unbounded,
        };
        let line = self.queue.waiting.range((from, Bound::Unbounded)).map(|(turn, shape)| (*turn, *shape));
        let line: Vec<(Turn, Shape)> = line.collect();
        if self.look_at(&line, &mut pass) && pass.first.is_none() && self.queue.claim.is_some() {
            self.queue.drop_claim();
        }
    }

    /// Looks at jobs in their turn; whether all were looked at.
    fn look_at(&mut self, line: &[(Turn, Shape)], pass: &mut Pass) -> bool {
        for &(turn, shape) in line {
            if pass.first.is_some() && self.queue.chances[shape].no_room {
                continue;
            }
            if pass.searches == 0 {
                (self.queue.stale, self.queue.stopped_at) = (true, Some((turn, pass.first)));
                return false;
            }
            if !self.consider(turn.job, shape, pass) {
                return false;
            }
        }
        true
    }

    /// Looks at one job; whether there is a point in looking at more.
    fn consider(&mut self, digest: JobDigest, shape: Shape, pass: &mut Pass) -> bool {
        let Some(job) = self.jobs.get(&digest) else { return true };
        if job.without_consent(self.now).next().is_some() {
            self.ask_consents(digest);
            return true;
        }
        if !self.fits_alone(digest, shape, pass) {
            return true;
        }
        let is_first = pass.first.is_none();
        if is_first {
            pass.first = Some(digest);
            self.renew_claim(digest, pass);
        }
        let Some(job) = self.jobs.get(&digest) else { return true };
        if self.now < job.not_before || self.may_still_run(job).is_some() || self.over_quota(job).is_some() {
            return true;
        }
        if PartyId::ALL.into_iter().any(|party| self.hosts.idle(party) == 0) {
            return false;
        }
        if let Some(placement) = self.find_room(digest, shape, is_first, pass) {
            self.reserve(digest, placement);
            if is_first {
                // The next in line is the first now, and what was kept for this one is used or free.
                pass.first = None;
            }
        }
        true
    }

    fn find_room(&mut self, digest: JobDigest, shape: Shape, is_first: bool, pass: &mut Pass) -> Option<Placement> {
        let job = self.jobs.get(&digest)?;
        let passes_claim = is_first || self.ends_before_claim(job, pass);
        let known = self.queue.chances[shape];
        if !is_first && (known.no_room || known.no_room_beside && !passes_claim) {
            return None;
        }
        pass.searches = pass.searches.saturating_sub(1);
        let kept = self.queue.claim.as_ref().filter(|_| !passes_claim).map(|claim| &claim.devices);
        let (mode, need) = (Mode::Now { kept }, &job.submission.requirements);
        let placement = View { hosts: &self.hosts, now: self.now, mode, need }.place();
        if placement.is_none() {
            let chances = &mut self.queue.chances[shape];
            chances.no_room_beside = true;
            chances.no_room |= passes_claim;
        }
        placement
    }

    /// Whether the job could run if nothing else did.
    fn fits_alone(&mut self, digest: JobDigest, shape: Shape, pass: &mut Pass) -> bool {
        let Some(job) = self.jobs.get(&digest) else { return false };
        let need = &job.submission.requirements;
        let too_much = |party: PartyId| {
            let quota = self.quotas[party.index()];
            quota.devices.is_some_and(|most| u32::from(need.lanes) > most) || quota.jobs == Some(0)
        };
        if PartyId::ALL.into_iter().any(too_much) {
            return false;
        }
        if let Some(known) = self.queue.chances[shape].fits_alone {
            return known;
        }
        pass.searches = pass.searches.saturating_sub(1);
        let fits = View { hosts: &self.hosts, now: self.now, mode: Mode::Alone, need }.fits();
        self.queue.chances[shape].fits_alone = Some(fits);
        fits
    }

    /// Keeps devices for the first in line: those that it holds a claim on, or else those that promise to be free
    /// soonest.
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
