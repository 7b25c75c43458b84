//! What must hold whatever happens, checked against what agents and users know, not against what the scheduler
//! believes.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator::schedule::{Action, Consent, Reason, Scheduler, Settings, State};
use shared::fleet::{DeviceId, HostId, HostReport, LeaseId, MachineId, Millis, Requirements};
use shared::ids::{Epoch, JobDigest, PartyId};

/// What was seen so far.
#[derive(Default, Debug)]
pub(crate) struct Facts {
    jobs: BTreeMap<JobDigest, Seen>,
    /// Jobs as they were really submitted.
    pub(crate) asked: BTreeMap<JobDigest, Requirements>,
    /// Decisions that parties really sent and the scheduler received.
    pub(crate) decided: BTreeMap<(JobDigest, PartyId), Consent>,
    /// Hosts that really answered a reservation.
    pub(crate) answered: BTreeSet<(HostId, LeaseId)>,
    /// Restarts that a user allowed.
    pub(crate) allowed: BTreeMap<JobDigest, u32>,
    /// States and kinds of reason that occurred.
    pub(crate) coverage: BTreeSet<String>,
    looks: usize,
}

#[derive(Default, Debug)]
struct Seen {
    epoch: Epoch,
    placed: BTreeMap<(PartyId, HostId), Vec<DeviceId>>,
    committed: u32,
    ended: Option<State>,
}

/// What agents say of themselves.
pub(crate) type Reports = BTreeMap<HostId, HostReport>;

impl Facts {
    /// Checks the actions of one step, all of them together: a gang is asked and told in one go.
    pub(crate) fn actions(
        &mut self,
        now: Millis,
        actions: &[Action],
        reports: &Reports,
        scheduler: &Scheduler,
    ) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Reserve { host, lease, devices, .. } => {
                    self.reserve(now, host, *lease, devices, reports, scheduler)?
                }
                Action::Commit { host, lease, lanes } => {
                    let devices: Vec<DeviceId> = lanes.iter().map(|(_, device)| device.clone()).collect();
                    self.commit(host, *lease, &devices)?;
                }
                Action::Moved { job, state, reason } => {
                    self.coverage.insert(state.name().to_owned());
                    self.coverage.insert(kind(reason));
                    let seen = self.jobs.entry(*job).or_default();
                    if let Some(before) = seen.ended.filter(|before| before != state) {
                        return Err(format!("{job:?} moved from {before:?} to {state:?}"));
                    }
                    seen.ended = state.is_end().then_some(*state);
                    if *state == State::Starting {
                        seen.committed += 1;
                        if seen.committed > self.allowed[job] + 1 {
                            return Err(format!("{job:?} started {} times", seen.committed));
                        }
                    }
                }
                _ => {}
            }
        }
        self.gangs(actions, reports)
    }

    fn reserve(
        &mut self,
        now: Millis,
        host: &HostId,
        lease: LeaseId,
        devices: &[DeviceId],
        reports: &Reports,
        scheduler: &Scheduler,
    ) -> Result<(), String> {
        let LeaseId { job, epoch, party } = lease;
        let seen = self.jobs.entry(job).or_default();
        if let Some(state) = seen.ended {
            return Err(format!("{job:?} is {state:?} and reserves"));
        }
        if epoch < seen.epoch {
            return Err(format!("{job:?} went back to {epoch}"));
        }
        if epoch > seen.epoch {
            (seen.epoch, seen.placed) = (epoch, BTreeMap::new());
        }
        if seen.placed.insert((party, host.clone()), devices.to_vec()).is_some() {
            return Err(format!("{job:?} reserves {epoch} twice"));
        }
        let consent = self.decided.get(&(job, party)).cloned().unwrap_or_default();
        if !consent.covers(epoch, now) {
            return Err(format!("{job:?} reserves {epoch} at {party} under {consent:?}"));
        }
        let (report, known) = (&reports[host], scheduler.host(host).ok_or("an unknown host")?);
        let need = &self.asked[&job];
        if known.drained || !known.is_connected() || !report.parties.contains(&party) {
            return Err(format!("{job:?} reserves on {host}, which is not for {party} now"));
        }
        for wanted in devices {
            let device = report.devices.iter().find(|device| device.id == *wanted).ok_or("no such device")?;
            let suits = device.kind == need.kind && device.memory_bytes >= need.memory_bytes;
            if !suits || !need.labels.is_subset(&report.labels) {
                return Err(format!("{job:?} reserves {wanted}, which it did not ask for"));
            }
        }
        Ok(())
    }

    fn commit(&mut self, host: &HostId, lease: LeaseId, devices: &[DeviceId]) -> Result<(), String> {
        let LeaseId { job, epoch, party } = lease;
        let seen = self.jobs.entry(job).or_default();
        if let Some(state) = seen.ended {
            return Err(format!("{job:?} is {state:?} and starts"));
        }
        if epoch != seen.epoch {
            return Err(format!("{job:?} starts {epoch}, reserved is {}", seen.epoch));
        }
        if seen.placed.get(&(party, host.clone())).is_none_or(|placed| placed != devices) {
            return Err(format!("{job:?} starts on devices of {host} that were not reserved"));
        }
        for (party, host) in seen.placed.keys() {
            if !self.answered.contains(&(host.clone(), LeaseId { job, epoch, party: *party })) {
                return Err(format!("{job:?} starts before {host} answered"));
            }
        }
        Ok(())
    }

    /// A reservation is for all parties or for none, with a device for each lane, on machines that they do not share.
    fn gangs(&self, actions: &[Action], reports: &Reports) -> Result<(), String> {
        let reserving = actions.iter().filter_map(|action| match action {
            Action::Reserve { lease, .. } => Some(lease.job),
            _ => None,
        });
        for job in reserving.collect::<BTreeSet<_>>() {
            let (seen, need) = (&self.jobs[&job], &self.asked[&job]);
            let mut machines: BTreeMap<&MachineId, PartyId> = BTreeMap::new();
            for party in PartyId::ALL {
                let mine = seen.placed.iter().filter(|((owner, _), _)| *owner == party);
                let lanes: usize = mine.clone().map(|(_, devices)| devices.len()).sum();
                if lanes != usize::from(need.lanes) || need.one_host && mine.clone().count() != 1 {
                    return Err(format!("{job:?} has {lanes} lanes at {party}"));
                }
                for ((_, host), _) in mine {
                    let before = machines.insert(&reports[host].machine, party);
                    if before.is_some_and(|before| before != party) && !need.colocate {
                        return Err(format!("{job:?} puts {party} on {host}, a machine of another party"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks what the scheduler says of itself.
    pub(crate) fn state(&mut self, now: Millis, scheduler: &Scheduler, settings: &Settings) -> Result<(), String> {
        // Finding a reason is the dearest of all: one job in turn.
        self.looks += 1;
        let turn = self.looks % scheduler.jobs().count().max(1);
        if let Some(job) = scheduler.jobs().nth(turn) {
            let reason = scheduler.reason(job);
            if reason.to_string().is_empty() {
                return Err(format!("{:?} is {:?} without a reason", job.digest(), job.state));
            }
            self.coverage.insert(kind(&reason));
        }
        for job in scheduler.jobs() {
            if let Some(attempt) = &job.attempt
                && job.state == State::Reserving
                && now > attempt.hold_until.saturating_add(settings.silence_ms)
            {
                return Err(format!("{:?} holds devices for longer than it may", job.digest()));
            }
            if job.attempt.is_some() != matches!(job.state, State::Reserving | State::Starting | State::Running) {
                return Err(format!("{:?} is {:?}, attempt {:?}", job.digest(), job.state, job.attempt));
            }
        }
        Ok(())
    }
}

/// A reason's variant.
fn kind(reason: &Reason) -> String {
    format!("{reason:?}").chars().take_while(|letter| letter.is_alphanumeric()).collect()
}
