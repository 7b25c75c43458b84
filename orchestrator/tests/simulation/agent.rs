//! An agent as the scheduler meets it: holds devices, runs parts of jobs, forgets nothing but in a crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use orchestrator::schedule::{Action, Event};
use shared::fleet::{
    AttemptFailure, Device, DeviceId, DeviceKind, Held, HeldPhase, HostId, HostReport, LeaseId, MachineId, Millis,
};
use shared::ids::PartyId;

/// An agent and its machine's part for it.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) report: HostReport,
    pub(crate) holds: BTreeMap<LeaseId, Hold>,
    /// To the agent.
    pub(crate) inbox: VecDeque<Action>,
    /// From the agent.
    pub(crate) outbox: VecDeque<Event>,
    /// The orchestrator takes it for connected.
    pub(crate) connected: bool,
    /// Nothing passes, though the connection seems to be there.
    pub(crate) cut: bool,
    pub(crate) powered: bool,
    pub(crate) back_at: Millis,
    pub(crate) refuses_next: bool,
    pub(crate) slow: bool,
    pub(crate) hangs_next: bool,
}

/// What it holds.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) devices: Vec<DeviceId>,
    pub(crate) phase: HeldPhase,
    pub(crate) until: Millis,
    pub(crate) hangs: bool,
    pub(crate) worked_ms: Millis,
    pub(crate) lets_go_at: Option<Millis>,
}

impl Agent {
    fn new(host: &str, machine: &str, parties: &[usize], devices: Vec<Device>) -> Self {
        let report = HostReport {
            host: HostId(host.into()),
            machine: MachineId(machine.into()),
            parties: parties.iter().map(|party| PartyId::ALL[*party]).collect(),
            version: "trefoil-test".into(),
            labels: BTreeSet::new(),
            devices,
            held: Vec::new(),
        };
        Self {
            report,
            holds: BTreeMap::new(),
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            connected: false,
            cut: false,
            powered: true,
            back_at: 0,
            refuses_next: false,
            slow: false,
            hangs_next: false,
        }
    }

    /// Messages pass.
    pub(crate) fn is_reachable(&self) -> bool {
        self.connected && !self.cut && self.powered
    }

    /// What it says when it connects.
    pub(crate) fn hello(&self) -> HostReport {
        let held = self.holds.iter().map(|(lease, hold)| Held {
            lease: *lease,
            devices: hold.devices.clone(),
            phase: hold.phase.clone(),
        });
        HostReport { held: held.collect(), ..self.report.clone() }
    }

    /// The connection is gone with all that was under way on it.
    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.inbox.clear();
        self.outbox.clear();
    }

    fn say(&mut self, event: impl FnOnce(HostId) -> Event) {
        self.outbox.push_back(event(self.report.host.clone()));
    }

    /// Performs an order.
    pub(crate) fn obey(&mut self, now: Millis, action: Action) {
        match action {
            Action::Reserve { lease, devices, hold_ms, .. } => self.keep(now, lease, devices, hold_ms),
            Action::Commit { lease, .. } => match self.holds.get_mut(&lease) {
                Some(hold) if hold.lets_go_at.is_none() && hold.phase == HeldPhase::Reserved && now < hold.until => {
                    hold.phase = HeldPhase::Running;
                    hold.hangs = std::mem::take(&mut self.hangs_next);
                    self.say(|host| Event::Started(host, lease));
                }
                Some(hold) if hold.phase == HeldPhase::Running => self.say(|host| Event::Started(host, lease)),
                _ => self.say(|host| Event::Refused(host, lease, "it is not reserved".into())),
            },
            Action::Release { lease, .. } => match self.holds.get_mut(&lease) {
                Some(hold) => {
                    let patience = if self.slow { 45_000 } else { 0 };
                    hold.lets_go_at.get_or_insert(now + patience);
                }
                None => self.say(|host| Event::Released(host, lease)),
            },
            Action::Disconnect(_) => self.disconnect(),
            other => panic!("{} got {other:?}", self.report.host),
        }
    }

    fn keep(&mut self, now: Millis, lease: LeaseId, devices: Vec<DeviceId>, hold_ms: Millis) {
        if std::mem::take(&mut self.refuses_next) {
            return self.say(|host| Event::Refused(host, lease, "a neighbour uses the device".into()));
        }
        let until = now + hold_ms;
        let (phase, hangs, worked_ms, lets_go_at) = (HeldPhase::Reserved, false, 0, None);
        self.holds.insert(lease, Hold { devices, phase, until, hangs, worked_ms, lets_go_at });
        self.say(|host| Event::Reserved(host, lease));
    }

    /// Lets go of what is due, and of reservations that ran out.
    pub(crate) fn let_go(&mut self, now: Millis) {
        let due = |hold: &Hold| {
            hold.lets_go_at.is_some_and(|at| now >= at) || hold.phase == HeldPhase::Reserved && now >= hold.until
        };
        let leases: Vec<LeaseId> = self.holds.iter().filter(|(_, hold)| due(hold)).map(|(lease, _)| *lease).collect();
        for lease in leases {
            self.holds.remove(&lease);
            self.say(|host| Event::Released(host, lease));
        }
    }

    /// Its first running process ends badly.
    pub(crate) fn lose_process(&mut self, blames: bool, permanent: bool) {
        let running = self.holds.iter_mut().find(|(_, hold)| hold.phase == HeldPhase::Running);
        let Some((&lease, hold)) = running else { return };
        let peer = blames.then(|| lease.party.next());
        let failure = AttemptFailure { reason: "out of memory".into(), permanent, lane: None, peer };
        hold.phase = HeldPhase::Failed(failure.clone());
        self.say(|host| Event::Failed(host, lease, failure));
    }
}

/// The fleet of every history: two or three hosts for each party, one machine that two parties share, one that all do.
pub(crate) fn fleet() -> Vec<Agent> {
    let gpus = |machine: &str, count: usize, group: Option<usize>, gigabytes: u64| -> Vec<Device> {
        (0..count)
            .map(|index| Device {
                id: DeviceId(format!("{machine}-gpu{index}").into()),
                kind: DeviceKind::Gpu,
                memory_bytes: gigabytes << 30,
                link_group: group.and_then(|size| u16::try_from(index / size).ok()),
            })
            .collect()
    };
    let slices = |count: usize| -> Vec<Device> {
        let slice = |index| Device {
            id: DeviceId(format!("cpu{index}").into()),
            kind: DeviceKind::Cpu,
            memory_bytes: 64 << 30,
            link_group: None,
        };
        (0..count).map(slice).collect()
    };
    let mut hosts = vec![
        Agent::new("a0", "m0", &[0], gpus("m0", 4, Some(4), 80)),
        Agent::new("a1", "m1", &[0], [gpus("m1", 2, None, 40), slices(2)].concat()),
        Agent::new("b0", "m2", &[1], [gpus("m2", 4, Some(2), 80), slices(1)].concat()),
        Agent::new("b1", "m3", &[1], [gpus("m3", 2, Some(2), 40), slices(1)].concat()),
        Agent::new("c0", "m4", &[2], gpus("m4", 4, Some(2), 80)),
        Agent::new("c1", "m5", &[2], gpus("m5", 1, None, 40)),
        Agent::new("c2", "m9", &[2], [gpus("m9", 2, None, 40), slices(3)].concat()),
        Agent::new("a2", "m6", &[0], gpus("m6", 2, Some(2), 40)),
        Agent::new("b2", "m6", &[1], gpus("m6", 2, Some(2), 40)),
        Agent::new("all", "m8", &[0, 1, 2], gpus("m8", 6, Some(3), 80)),
    ];
    for host in [0, 2, 5, 6, 9] {
        hosts[host].report.labels.insert("certified".into());
    }
    hosts
}
