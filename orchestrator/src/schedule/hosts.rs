//! The fleet: who is there, and which device is held by which attempt. A device is held until its host says otherwise.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::fleet::{Device, DeviceId, HostId, HostReport, LeaseId, Link, MachineId, Millis};
use shared::ids::{JobDigest, PartyId};

/// An agent's host.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub id: HostId,
    /// The machine it is on.
    pub machine: MachineId,
    /// Parties it works for.
    pub parties: BTreeSet<PartyId>,
    /// Version of its programs.
    pub version: String,
    /// What a job may ask for by name.
    pub labels: BTreeSet<String>,
    /// What it offers.
    pub devices: Vec<Device>,
    /// Whether it takes new jobs.
    pub drained: bool,
    /// What it holds, or may hold as far as is known.
    pub leases: Vec<Lease>,
    /// Whether it is there.
    #[serde(skip)]
    pub presence: Presence,
    /// It refused and is not asked before this.
    #[serde(skip)]
    pub(super) avoid_until: Millis,
    /// What it measured to others.
    #[serde(skip)]
    pub(super) links: BTreeMap<HostId, Link>,
    /// What each device does; follows from the leases of all hosts of the machine.
    #[serde(skip)]
    pub(super) uses: Vec<Use>,
    /// Another host is on its machine, or another party uses this one.
    #[serde(skip)]
    pub(super) shared: bool,
    /// Idle devices as they entered the sums over the fleet; 0 if it takes no jobs.
    #[serde(skip)]
    pub(super) counted: usize,
}

/// What an attempt holds on a host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// For whom.
    pub id: LeaseId,
    /// Which devices.
    pub devices: Vec<DeviceId>,
    /// Since when the host has been asked to let go.
    pub releasing_since: Option<Millis>,
    /// It should have let go long ago.
    pub overdue: bool,
}

/// Whether a host is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Last heard at.
    Connected(Millis),
    /// Not connected since; it may come back without harm.
    Away(Millis),
    /// Gone for so long that its work was given up.
    Lost,
}

impl Default for Presence {
    fn default() -> Self {
        Self::Away(0)
    }
}

/// What a device does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// Nothing.
    Idle,
    /// An attempt holds it and will let go.
    Held,
    /// Held, and nobody knows until when: its host is lost, or does not let go.
    Stuck,
}

impl Host {
    fn new(report: HostReport) -> Self {
        Self {
            id: report.host,
            machine: report.machine,
            parties: report.parties,
            version: report.version,
            labels: report.labels,
            devices: report.devices,
            drained: false,
            leases: Vec::new(),
            presence: Presence::default(),
            avoid_until: 0,
            links: BTreeMap::new(),
            uses: Vec::new(),
            shared: false,
            counted: 0,
        }
    }

    /// Whether messages reach it.
    pub fn is_connected(&self) -> bool {
        matches!(self.presence, Presence::Connected(_))
    }

    /// Leaves what a record holds.
    fn forget_volatile(&mut self) {
        (self.presence, self.avoid_until, self.counted, self.shared) = (Presence::default(), 0, 0, false);
        self.links.clear();
        self.uses.clear();
    }

    pub(super) fn lease(&mut self, id: LeaseId) -> Option<&mut Lease> {
        self.leases.iter_mut().find(|lease| lease.id == id)
    }

    /// Devices that do nothing, if it takes jobs now.
    fn idle(&self) -> usize {
        let open = self.is_connected() && !self.drained;
        if open { self.uses.iter().filter(|device| **device == Use::Idle).count() } else { 0 }
    }
}

/// All hosts.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Hosts {
    all: BTreeMap<HostId, Host>,
    by_machine: BTreeMap<MachineId, BTreeSet<HostId>>,
    by_party: [BTreeSet<HostId>; 3],
    /// Hosts of each party that have idle devices, by how many.
    by_idle: [BTreeSet<(usize, HostId)>; 3],
    /// Idle devices of each party; a device that several can use counts for each.
    idle: [usize; 3],
    /// Devices that each party holds for each job.
    used: [BTreeMap<JobDigest, u32>; 3],
    /// Their sums.
    used_devices: [u32; 3],
    /// Hosts whose records changed.
    changed: BTreeSet<HostId>,
    /// Hosts were added, taken away, drained or lost.
    pub(super) reshaped: bool,
    /// A device may have become free.
    pub(super) grown: bool,
}

impl Hosts {
    pub(super) fn restore(records: impl IntoIterator<Item = Host>) -> Self {
        let mut hosts = Self::default();
        for mut host in records {
            host.forget_volatile();
            hosts.index(&host.id, &host.machine, &host.parties);
            host.leases.iter().for_each(|lease| hosts.count(lease, true));
            hosts.all.insert(host.id.clone(), host);
        }
        let machines: Vec<MachineId> = hosts.by_machine.keys().cloned().collect();
        machines.iter().for_each(|machine| hosts.refresh(machine));
        hosts.changed.clear();
        hosts
    }

    pub(super) fn get(&self, id: &HostId) -> Option<&Host> {
        self.all.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Host> {
        self.all.values()
    }

    pub(super) fn of_party(&self, party: PartyId) -> impl Iterator<Item = &Host> {
        self.by_party[party.index()].iter().map(|id| &self.all[id])
    }

    /// Hosts of a party with at least so many idle devices, those with fewest first.
    pub(super) fn with_idle(&self, party: PartyId, least: usize) -> impl Iterator<Item = &Host> {
        let from = (least.max(1), HostId("".into()));
        self.by_idle[party.index()].range(from..).map(|(_, id)| &self.all[id])
    }

    /// Idle devices of a party.
    pub(super) fn idle(&self, party: PartyId) -> usize {
        self.idle[party.index()]
    }

    /// Devices that a party holds for jobs, and how many jobs that is.
    pub(super) fn used(&self, party: PartyId) -> (u32, u32) {
        let jobs = self.used[party.index()].len();
        (self.used_devices[party.index()], u32::try_from(jobs).unwrap_or(u32::MAX))
    }

    pub(super) fn take_changed(&mut self) -> BTreeSet<HostId> {
        std::mem::take(&mut self.changed)
    }

    /// Adds a host or takes over its new report; it is connected now.
    pub(super) fn join(&mut self, report: HostReport, now: Millis) {
        let id = report.host.clone();
        let before = self.all.remove(&id);
        if let Some(before) = &before {
            self.unindex(before);
        }
        let mut host = Host::new(report);
        if let Some(before) = before {
            (host.drained, host.leases, host.links) = (before.drained, before.leases, before.links);
        }
        host.presence = Presence::Connected(now);
        self.index(&id, &host.machine, &host.parties);
        let machine = host.machine.clone();
        self.all.insert(id.clone(), host);
        self.touched(&id, &machine);
    }

    /// Takes a host away with all it held.
    pub(super) fn forget(&mut self, id: &HostId) -> Option<Host> {
        let host = self.all.remove(id)?;
        self.unindex(&host);
        host.leases.iter().for_each(|lease| self.count(lease, false));
        self.all.values_mut().for_each(|other| _ = other.links.remove(id));
        self.touched(id, &host.machine);
        Some(host)
    }

    /// Changes what is not durable and frees nothing.
    pub(super) fn volatile(&mut self, id: &HostId) -> Option<&mut Host> {
        self.all.get_mut(id)
    }

    /// Changes anything of a host but its leases, which are counted.
    pub(super) fn update(&mut self, id: &HostId, change: impl FnOnce(&mut Host)) {
        let Some(host) = self.all.get_mut(id) else { return };
        change(host);
        let machine = host.machine.clone();
        self.touched(id, &machine);
    }

    /// Changes leases of a host only, which leaves the fleet its shape.
    pub(super) fn update_leases(&mut self, id: &HostId, change: impl FnOnce(&mut Vec<Lease>)) {
        let Some(host) = self.all.get_mut(id) else { return };
        let before = host.leases.clone();
        change(&mut host.leases);
        let (after, machine) = (host.leases.clone(), host.machine.clone());
        before.iter().for_each(|lease| self.count(lease, false));
        after.iter().for_each(|lease| self.count(lease, true));
        self.changed.insert(id.clone());
        self.refresh(&machine);
    }

    fn touched(&mut self, id: &HostId, machine: &MachineId) {
        self.changed.insert(id.clone());
        self.reshaped = true;
        self.refresh(machine);
    }

    fn index(&mut self, id: &HostId, machine: &MachineId, parties: &BTreeSet<PartyId>) {
        self.by_machine.entry(machine.clone()).or_default().insert(id.clone());
        parties.iter().for_each(|party| _ = self.by_party[party.index()].insert(id.clone()));
    }

    fn unindex(&mut self, host: &Host) {
        if let Some(siblings) = self.by_machine.get_mut(&host.machine) {
            siblings.remove(&host.id);
            if siblings.is_empty() {
                self.by_machine.remove(&host.machine);
            }
        }
        for party in &host.parties {
            self.by_party[party.index()].remove(&host.id);
            self.idle[party.index()] -= host.counted;
            self.by_idle[party.index()].remove(&(host.counted, host.id.clone()));
        }
        // Its siblings may have shared devices with it.
        if self.by_machine.contains_key(&host.machine) {
            self.refresh(&host.machine);
        }
    }

    fn count(&mut self, lease: &Lease, more: bool) {
        let devices = u32::try_from(lease.devices.len()).unwrap_or(u32::MAX);
        let index = lease.id.party.index();
        let (used, sum) = (&mut self.used[index], &mut self.used_devices[index]);
        let count = used.entry(lease.id.job).or_default();
        (*count, *sum) = if more { (*count + devices, *sum + devices) } else { (*count - devices, *sum - devices) };
        if *count == 0 {
            used.remove(&lease.id.job);
        }
    }

    /// Works out again what the devices of a machine do.
    fn refresh(&mut self, machine: &MachineId) {
        let Some(siblings) = self.by_machine.get(machine) else { return };
        let mut held: BTreeMap<&DeviceId, Use> = BTreeMap::new();
        for host in siblings.iter().map(|id| &self.all[id]) {
            for lease in &host.leases {
                let stuck = lease.overdue || host.presence == Presence::Lost;
                let now = if stuck { Use::Stuck } else { Use::Held };
                for device in &lease.devices {
                    let entry = held.entry(device).or_insert(now);
                    *entry = if stuck { Use::Stuck } else { *entry };
                }
            }
        }
        let fresh: Vec<(HostId, Vec<Use>)> = siblings
            .iter()
            .map(|id| {
                let devices = self.all[id].devices.iter();
                (id.clone(), devices.map(|device| held.get(&device.id).copied().unwrap_or(Use::Idle)).collect())
            })
            .collect();
        let several = siblings.len() > 1;
        for (id, uses) in fresh {
            let host = self.all.get_mut(&id).expect("an index names hosts that exist");
            let counted = std::mem::take(&mut host.counted);
            let stuck = |uses: &[Use]| uses.iter().filter(|device| **device == Use::Stuck).count();
            self.reshaped |= stuck(&host.uses) != stuck(&uses);
            host.uses = uses;
            host.shared = several || host.parties.len() > 1;
            host.counted = host.idle();
            self.grown |= host.counted > counted || self.reshaped;
            for party in &host.parties {
                let idle = &mut self.idle[party.index()];
                *idle = *idle + host.counted - counted;
                if host.counted != counted {
                    let by_idle = &mut self.by_idle[party.index()];
                    by_idle.remove(&(counted, id.clone()));
                    if host.counted > 0 {
                        by_idle.insert((host.counted, id.clone()));
                    }
                }
            }
        }
    }
}
