//! Where the parties of a job can go. Looks at the fleet, changes nothing; the same fleet gives the same answer.

use std::collections::{BTreeMap, BTreeSet};

use shared::fleet::{DeviceId, HostId, MachineId, Millis, Requirements};
use shared::ids::PartyId;

use super::hosts::{Host, Hosts, Presence, Use};
use super::pairing;
use super::reasons::Lack;

/// Hosts of one party that are compared with those of the others. At least three, so that three parties that must not
/// share a machine find three machines whenever there are any.
const CANDIDATES_MAX: usize = 8;
/// Hosts with room that are looked at for one party: in a large and empty fleet there is no point in looking at all.
const ROOMY_MAX: usize = 64;

/// A device for each lane of each party.
pub(super) type Placement = [Vec<Spot>; 3];

/// A device of a host.
pub(super) type Spot = (HostId, DeviceId);

/// Devices that are kept for a job.
pub(super) type Devices = BTreeMap<MachineId, BTreeSet<DeviceId>>;

/// Which devices count as available.
#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    /// Idle now, on hosts that are there, and not kept for another job.
    Now {
        /// Kept for another job.
        kept: Option<&'a Devices>,
    },
    /// Anything that will be free some time: what the job would find if it were alone.
    Alone,
}

/// The fleet, seen with a question in mind.
pub(super) struct View<'a> {
    pub(super) hosts: &'a Hosts,
    pub(super) now: Millis,
    pub(super) mode: Mode<'a>,
    pub(super) need: &'a Requirements,
}

/// A host that can take all lanes of a party.
struct Candidate<'a> {
    host: &'a Host,
    devices: Vec<usize>,
    cost: Cost,
}

/// What speaks against a choice, most first: waiting for others, lanes without NVLink between them, gaps left behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
struct Cost {
    held: usize,
    unlinked: usize,
    network: u64,
    left_over: usize,
}

/// Devices that the parties before have been given.
type Taken = BTreeSet<(MachineId, DeviceId)>;

impl<'a> View<'a> {
    /// A place for every lane of every party, or none.
    pub(super) fn place(&self) -> Option<Placement> {
        let candidates = PartyId::ALL.map(|party| self.candidates(party, self.looked_at()));
        self.on_one_host_each(&candidates).or_else(|| if self.need.one_host { None } else { self.spread_out() })
    }

    /// Where many hosts have room, the first of them do; a claim looks at all, for the soonest to be free.
    fn looked_at(&self) -> usize {
        match self.mode {
            Mode::Now { .. } => ROOMY_MAX,
            Mode::Alone => usize::MAX,
        }
    }

    /// What the parties lack, one by one.
    pub(super) fn lacks(&self) -> Vec<Lack> {
        PartyId::ALL.into_iter().filter_map(|party| self.lack(party)).collect()
    }

    fn lack(&self, party: PartyId) -> Option<Lack> {
        let needs = u32::from(self.need.lanes);
        let mut lack = Lack {
            party,
            needs,
            kind: self.need.kind,
            best_host: None,
            free: 0,
            in_use: 0,
            drained: 0,
            away: 0,
            unsuitable: 0,
        };
        let mut best: Option<(&HostId, u32)> = None;
        for host in self.hosts.of_party(party) {
            let mut free = 0;
            for (index, device) in host.devices.iter().enumerate().filter(|(_, device)| device.kind == self.need.kind) {
                let count = match () {
                    () if !self.suits(host, index) => &mut lack.unsuitable,
                    () if host.drained => &mut lack.drained,
                    () if !host.is_connected() => &mut lack.away,
                    () if host.uses[index] != Use::Idle || self.is_kept(host, &device.id) => &mut lack.in_use,
                    () => &mut free,
                };
                *count += 1;
            }
            lack.free += free;
            if best.is_none_or(|(_, most)| free > most) {
                best = Some((&host.id, free));
            }
        }
        let short = if self.need.one_host { best.map_or(0, |(_, most)| most) } else { lack.free };
        if self.need.one_host && lack.free >= needs {
            lack.best_host = best.map(|(host, most)| (host.clone(), most));
        }
        (short < needs).then_some(lack)
    }

    fn suits(&self, host: &Host, index: usize) -> bool {
        let device = &host.devices[index];
        device.kind == self.need.kind
            && device.memory_bytes >= self.need.memory_bytes
            && self.need.labels.is_subset(&host.labels)
    }

    fn is_kept(&self, host: &Host, device: &DeviceId) -> bool {
        let Mode::Now { kept: Some(kept) } = self.mode else { return false };
        kept.get(&host.machine).is_some_and(|devices| devices.contains(device))
    }

    fn is_open(&self, host: &Host) -> bool {
        !host.drained
            && match self.mode {
                Mode::Now { .. } => host.is_connected() && host.avoid_until <= self.now,
                Mode::Alone => host.presence != Presence::Lost,
            }
    }

    fn is_available(&self, host: &Host, index: usize) -> bool {
        let use_ = host.uses[index];
        self.suits(host, index)
            && match self.mode {
                Mode::Now { .. } => use_ == Use::Idle && !self.is_kept(host, &host.devices[index].id),
                Mode::Alone => use_ != Use::Stuck,
            }
    }

    /// Available devices of a host, idle ones first.
    fn available(&self, host: &Host, taken: Option<&Taken>) -> Vec<usize> {
        if !self.is_open(host) {
            return Vec::new();
        }
        let is_taken = |index: &usize| {
            taken.is_some_and(|taken| taken.contains(&(host.machine.clone(), host.devices[*index].id.clone())))
        };
        let mut available: Vec<usize> =
            (0..host.devices.len()).filter(|index| self.is_available(host, *index) && !is_taken(index)).collect();
        available.sort_by_key(|index| host.uses[*index] != Use::Idle);
        available
    }

    /// The best hosts that can take all lanes of a party.
    fn candidates(&self, party: PartyId, most: usize) -> Vec<Candidate<'a>> {
        let lanes = usize::from(self.need.lanes);
        let of = |host: &'a Host| candidate(host, &self.available(host, None), lanes);
        let mut found: Vec<Candidate<'a>> = match self.mode {
            Mode::Now { .. } => self.hosts.with_idle(party, lanes).filter_map(of).take(most).collect(),
            Mode::Alone => {
                let large = self.hosts.of_party(party).filter(|host| host.devices.len() >= lanes);
                large.filter_map(of).take(most).collect()
            }
        };
        found.sort_by_key(|candidate| candidate.cost);
        found.truncate(CANDIDATES_MAX);
        found
    }

    /// Whether there is a place, found faster than the place itself where there is plenty.
    pub(super) fn fits(&self) -> bool {
        let candidates = PartyId::ALL.map(|party| self.candidates(party, CANDIDATES_MAX));
        self.on_one_host_each(&candidates).is_some() || self.is_plenty() || self.place().is_some()
    }

    /// Whether each party has enough on machines that nobody else can use, if it may use several.
    fn is_plenty(&self) -> bool {
        let enough = |party: PartyId| {
            let mut wanted = usize::from(self.need.lanes);
            self.hosts.of_party(party).filter(|host| !host.shared).any(|host| {
                wanted = wanted.saturating_sub(self.available(host, None).len());
                wanted == 0
            })
        };
        !self.need.one_host && PartyId::ALL.into_iter().all(enough)
    }

    fn on_one_host_each(&self, candidates: &[Vec<Candidate<'a>>; 3]) -> Option<Placement> {
        let [first, second, third] = candidates;
        let near = |a: &[Candidate<'a>], b: &[Candidate<'a>]| -> Vec<Vec<u64>> {
            a.iter().map(|a| b.iter().map(|b| pairing::distance(a.host, b.host)).collect()).collect()
        };
        let (d01, d12, d02) = (near(first, second), near(second, third), near(first, third));
        let mut choices = Vec::new();
        for (i, a) in first.iter().enumerate() {
            for (j, b) in second.iter().enumerate() {
                if !self.may_both(a.host, b.host) {
                    continue;
                }
                for (k, c) in third.iter().enumerate() {
                    if self.may_both(a.host, c.host) && self.may_both(b.host, c.host) {
                        let network = d01[i][j].max(d12[j][k]).max(d02[i][k]);
                        choices.push((total([a.cost, b.cost, c.cost], network), [a, b, c]));
                    }
                }
            }
        }
        // Stable, so that among equals the order of names decides.
        choices.sort_by_key(|(cost, _)| *cost);
        choices.into_iter().find_map(|(_, choice)| self.give(choice))
    }

    fn may_both(&self, a: &Host, b: &Host) -> bool {
        self.need.colocate || a.machine != b.machine
    }

    /// Devices for a choice of hosts; parties on one machine get different ones.
    fn give(&self, choice: [&Candidate<'a>; 3]) -> Option<Placement> {
        let spots = |host: &Host, devices: &[usize]| -> Vec<Spot> {
            devices.iter().map(|index| (host.id.clone(), host.devices[*index].id.clone())).collect()
        };
        if !self.need.colocate {
            return Some(choice.map(|candidate| spots(candidate.host, &candidate.devices)));
        }
        let (mut taken, mut placement) = (Taken::new(), Placement::default());
        for (mine, candidate) in placement.iter_mut().zip(choice) {
            let host = candidate.host;
            let chosen = candidate_of(host, &self.available(host, Some(&taken)), usize::from(self.need.lanes))?;
            *mine = spots(host, &chosen);
            taken.extend(mine.iter().map(|(_, device)| (host.machine.clone(), device.clone())));
        }
        Some(placement)
    }

    /// Several hosts for each party, as few as possible, then lanes paired by the network between them.
    fn spread_out(&self) -> Option<Placement> {
        const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let mut offers: [Vec<Offer<'_>>; 3] = Default::default();
        for (party, offers) in PartyId::ALL.into_iter().zip(&mut offers) {
            *offers = self.offers(party)?;
        }
        // Who chooses first matters only where two could choose the same.
        let contested = offers.iter().flatten().any(|offer| offer.host.shared);
        let orders = if contested { &ORDERS[..] } else { &ORDERS[..1] };
        let mut placement = orders.iter().find_map(|order| self.spread_in(*order, &offers))?;
        if matches!(self.mode, Mode::Now { .. }) {
            pairing::pair(self.hosts, &mut placement);
        }
        Some(placement)
    }

    /// What each host could give a party if that is enough in all: machines first that nobody else can use, large ones
    /// before small ones.
    fn offers(&self, party: PartyId) -> Option<Vec<Offer<'a>>> {
        let wanted = usize::from(self.need.lanes);
        let offer = |host: &'a Host| Offer { host, devices: self.available(host, None) };
        let mut offers: Vec<Offer<'a>> = match self.mode {
            Mode::Now { .. } if self.hosts.idle(party) < wanted => return None,
            Mode::Now { .. } => self.hosts.with_idle(party, 1).map(offer).collect(),
            Mode::Alone => self.hosts.of_party(party).map(offer).collect(),
        };
        offers.retain(|offer| !offer.devices.is_empty());
        offers.sort_by_key(|offer| (offer.host.shared, std::cmp::Reverse(offer.devices.len())));
        let enough = offers.iter().map(|offer| offer.devices.len()).sum::<usize>() >= wanted;
        enough.then_some(offers)
    }

    fn spread_in(&self, order: [usize; 3], offers: &[Vec<Offer<'a>>; 3]) -> Option<Placement> {
        let (mut taken, mut machines, mut placement) = (Taken::new(), BTreeSet::new(), Placement::default());
        for index in order {
            let others = machines.clone();
            let mut left: Vec<(&Host, Vec<usize>)> = offers[index]
                .iter()
                .filter(|offer| self.need.colocate || !others.contains(&offer.host.machine))
                .map(|offer| (offer.host, offer.without(&taken)))
                .collect();
            let mut wanted = usize::from(self.need.lanes);
            while wanted > 0 {
                let (host, devices) = take_next(&mut left, wanted)?;
                // Two hosts of the party on one machine may offer the same devices.
                let devices = Offer { host, devices }.without(&taken);
                let count = wanted.min(devices.len());
                for at in candidate_of(host, &devices, count)? {
                    if host.shared {
                        taken.insert((host.machine.clone(), host.devices[at].id.clone()));
                    }
                    placement[index].push((host.id.clone(), host.devices[at].id.clone()));
                }
                if host.shared {
                    machines.insert(&host.machine);
                }
                wanted -= count;
            }
        }
        Some(placement)
    }
}

/// What a host could give.
struct Offer<'a> {
    host: &'a Host,
    devices: Vec<usize>,
}

impl Offer<'_> {
    fn without(&self, taken: &Taken) -> Vec<usize> {
        let is_free = |at: &&usize| {
            !self.host.shared || !taken.contains(&(self.host.machine.clone(), self.host.devices[**at].id.clone()))
        };
        self.devices.iter().filter(is_free).copied().collect()
    }
}

/// The next host to take from, of those in order of [`View::offers`]: of the first kind, the smallest that has enough,
/// so that little is cut up, or else the largest, so that few are needed.
fn take_next<'a>(left: &mut Vec<(&'a Host, Vec<usize>)>, wanted: usize) -> Option<(&'a Host, Vec<usize>)> {
    let kind = left.first()?.0.shared;
    let enough = left.iter().take_while(|(host, devices)| host.shared == kind && devices.len() >= wanted).count();
    Some(left.remove(enough.saturating_sub(1)))
}

fn total(costs: [Cost; 3], network: u64) -> Cost {
    let sum = |of: fn(&Cost) -> usize| costs.iter().map(of).sum();
    Cost { held: sum(|c| c.held), unlinked: sum(|c| c.unlinked), network, left_over: sum(|c| c.left_over) }
}

fn candidate<'a>(host: &'a Host, available: &[usize], lanes: usize) -> Option<Candidate<'a>> {
    let devices = candidate_of(host, available, lanes)?;
    let held = devices.iter().filter(|index| host.uses[**index] != Use::Idle).count();
    let group = |index: usize| host.devices[index].link_group;
    let linked = devices.len() == 1
        || group(devices[0]).is_some() && devices.iter().all(|index| group(*index) == group(devices[0]));
    let cost = Cost { held, unlinked: usize::from(!linked), network: 0, left_over: available.len() - lanes };
    Some(Candidate { host, devices, cost })
}

/// `count` of the available devices: from the smallest NVLink group that has enough, else from the largest groups.
fn candidate_of(host: &Host, available: &[usize], count: usize) -> Option<Vec<usize>> {
    if available.len() < count {
        return None;
    }
    let mut groups: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    let mut single = Vec::new();
    for &index in available {
        match host.devices[index].link_group {
            Some(group) => groups.entry(group).or_default().push(index),
            None => single.push(index),
        }
    }
    let held = |devices: &[usize]| devices.iter().take(count).filter(|at| host.uses[**at] != Use::Idle).count();
    let fitting = groups.values().filter(|group| group.len() >= count);
    if let Some(group) = fitting.min_by_key(|group| (held(group), group.len())) {
        return Some(group[..count].to_vec());
    }
    let mut rest: Vec<Vec<usize>> = groups.into_values().collect();
    rest.sort_by_key(|group| std::cmp::Reverse(group.len()));
    Some(rest.into_iter().flatten().chain(single).take(count).collect())
}
