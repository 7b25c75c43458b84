//! Hosts that come, go and come back. What a host reports is the truth about what it holds; what it holds without need
//! it is told to let go.

use shared::fleet::{Held, HeldPhase, HostId, HostReport, LeaseId, Millis};

use super::Scheduler;
use super::events::Action;
use super::hosts::{Lease, Presence};
use super::jobs::PartPhase;
use super::reasons::Reason;

impl Scheduler {
    /// Nobody is connected and nobody is lost: whoever comes back in time goes on undisturbed.
    pub(super) fn restarted(&mut self) {
        let now = self.now;
        let ids: Vec<HostId> = self.hosts.iter().map(|host| host.id.clone()).collect();
        for id in ids {
            self.hosts.update(&id, |host| {
                host.presence = Presence::Away(now);
                host.avoid_until = 0;
                host.links.clear();
            });
        }
        for job in self.jobs.values_mut() {
            job.alive_at = now;
            job.progress.clear();
        }
        self.queue = super::Queue::default();
        self.requeue();
    }

    /// A pause of the orchestrator is nobody else's silence.
    pub(super) fn forgive(&mut self, pause: Millis) {
        let ids: Vec<HostId> = self.hosts.iter().map(|host| host.id.clone()).collect();
        for id in ids {
            if let Some(host) = self.hosts.volatile(&id) {
                match &mut host.presence {
                    Presence::Connected(at) | Presence::Away(at) => *at = at.saturating_add(pause),
                    Presence::Lost => {}
                }
            }
        }
        for job in self.jobs.values_mut() {
            job.alive_at = job.alive_at.saturating_add(pause);
        }
    }

    pub(super) fn heartbeat(&mut self, id: &HostId) {
        let now = self.now;
        let Some(host) = self.hosts.volatile(id) else { return };
        match &mut host.presence {
            Presence::Connected(at) => *at = now,
            // It was given up; what it holds must be heard before it counts again.
            Presence::Away(_) | Presence::Lost => self.actions.push(Action::Disconnect(id.clone())),
        }
    }

    pub(super) fn host_away(&mut self, id: &HostId) {
        let now = self.now;
        if self.hosts.get(id).is_some_and(super::Host::is_connected) {
            self.hosts.update(id, |host| host.presence = Presence::Away(now));
        }
    }

    /// Gives a host up, and every attempt that has a part there.
    pub(super) fn host_lost(&mut self, id: &HostId) {
        let Some(host) = self.hosts.get(id) else { return };
        if host.is_connected() {
            self.actions.push(Action::Disconnect(id.clone()));
        }
        let leases: Vec<LeaseId> = host.leases.iter().map(|lease| lease.id).collect();
        self.hosts.update(id, |host| host.presence = Presence::Lost);
        self.give_up(id, &leases);
    }

    pub(super) fn host_forgotten(&mut self, id: &HostId) {
        let Some(host) = self.hosts.forget(id) else { return };
        if host.is_connected() {
            self.actions.push(Action::Disconnect(id.clone()));
        }
        let leases: Vec<LeaseId> = host.leases.iter().map(|lease| lease.id).collect();
        self.give_up(id, &leases);
    }

    fn give_up(&mut self, id: &HostId, leases: &[LeaseId]) {
        for &lease in leases {
            if self.part(id, lease).is_some() {
                self.lose_attempt(lease.job, Reason::HostLost(lease.party, id.clone()));
            }
            if self.hosts.get(id).is_none() {
                self.stopped(id, lease);
            }
        }
    }

    pub(super) fn host_joined(&mut self, report: HostReport) {
        if report.check().is_err() {
            self.actions.push(Action::Disconnect(report.host));
            return;
        }
        let (id, held) = (report.host.clone(), report.held.clone());
        self.hosts.join(report, self.now);
        let known: Vec<LeaseId> =
            self.hosts.get(&id).map_or_else(Vec::new, |host| host.leases.iter().map(|lease| lease.id).collect());
        for lease in known {
            if !held.iter().any(|held| held.lease == lease) {
                self.forgotten_by(&id, lease);
            }
        }
        held.into_iter().for_each(|held| self.still_held(&id, held));
    }

    /// A host does not hold a lease any more.
    pub(super) fn forgotten_by(&mut self, id: &HostId, lease: LeaseId) {
        let is_part = self.part(id, lease).is_some();
        self.drop_lease(id, lease);
        if is_part {
            self.lose_attempt(lease.job, Reason::HostForgot(lease.party, id.clone()));
        }
    }

    /// A host came back with a lease: it goes on if it is of the attempt under way, and is let go otherwise.
    fn still_held(&mut self, id: &HostId, held: Held) {
        let Held { lease, devices, phase } = held;
        self.hosts.update_leases(id, |leases| match leases.iter_mut().find(|known| known.id == lease) {
            Some(known) => (known.devices, known.overdue) = (devices, false),
            None => leases.push(Lease { id: lease, devices, releasing_since: None, overdue: false }),
        });
        let Some(part) = self.part(id, lease) else {
            let grace_ms = self.settings.stop_grace_ms;
            let ran = phase != HeldPhase::Reserved;
            self.release(id, lease, ran, grace_ms);
            return;
        };
        let (mine, lanes) = (part.phase, part.lanes.clone());
        match phase {
            HeldPhase::Reserved if mine >= PartPhase::Started => {
                self.lose_attempt(lease.job, Reason::HostForgot(lease.party, id.clone()));
            }
            HeldPhase::Reserved if mine == PartPhase::Committed => {
                self.actions.push(Action::Commit { host: id.clone(), lease, lanes });
            }
            HeldPhase::Reserved => self.reserved(id, lease),
            HeldPhase::Running => self.started(id, lease),
            HeldPhase::Done => self.done(id, lease),
            HeldPhase::Failed(failure) => self.failed(id.clone(), lease, failure),
        }
    }
}
