//! What a fleet can hold, found by trying everything: a second opinion on the scheduler's search.

use std::collections::{BTreeMap, BTreeSet};

use shared::fleet::{DeviceId, HostReport, MachineId, Requirements};
use shared::ids::PartyId;

/// Whether a job could run on these hosts if nothing else did.
pub(crate) fn fits(hosts: &[&HostReport], need: &Requirements) -> bool {
    let lanes = usize::from(need.lanes);
    match (need.one_host, need.colocate) {
        (true, colocate) => on_one_host_each(hosts, need, lanes, colocate),
        (false, true) => {
            // Hall: every group of parties must reach as many devices as its members need together.
            (1_usize..8).all(|group| {
                let members: Vec<PartyId> =
                    PartyId::ALL.into_iter().filter(|party| group >> party.index() & 1 == 1).collect();
                let reachable: BTreeSet<(&MachineId, &DeviceId)> = hosts
                    .iter()
                    .filter(|host| members.iter().any(|party| host.parties.contains(party)))
                    .flat_map(|host| suitable(host, need).into_iter().map(|device| (&host.machine, device)))
                    .collect();
                reachable.len() >= lanes * members.len()
            })
        }
        (false, false) => {
            let machines: Vec<&MachineId> =
                hosts.iter().map(|host| &host.machine).collect::<BTreeSet<_>>().into_iter().collect();
            owners(hosts, need, lanes, &machines, &mut BTreeMap::new())
        }
    }
}

fn suitable<'a>(host: &'a HostReport, need: &Requirements) -> Vec<&'a DeviceId> {
    if !need.labels.is_subset(&host.labels) {
        return Vec::new();
    }
    let fits =
        host.devices.iter().filter(|device| device.kind == need.kind && device.memory_bytes >= need.memory_bytes);
    fits.map(|device| &device.id).collect()
}

fn on_one_host_each(hosts: &[&HostReport], need: &Requirements, lanes: usize, colocate: bool) -> bool {
    let of = |party: usize| hosts.iter().filter(move |host| host.parties.contains(&PartyId::ALL[party]));
    of(0).any(|a| {
        of(1).any(|b| {
            of(2).any(|c| {
                let trio = [a, b, c];
                let machines: BTreeSet<&MachineId> = trio.iter().map(|host| &host.machine).collect();
                if !colocate && machines.len() < 3 {
                    return false;
                }
                machines.iter().all(|machine| {
                    let on: Vec<_> = trio.iter().filter(|host| host.machine == **machine).collect();
                    let devices: BTreeSet<&DeviceId> = on.iter().flat_map(|host| suitable(host, need)).collect();
                    devices.len() >= lanes * on.len() && on.iter().all(|host| suitable(host, need).len() >= lanes)
                })
            })
        })
    })
}

/// Tries every party as the owner of every machine.
fn owners<'a>(
    hosts: &[&HostReport],
    need: &Requirements,
    lanes: usize,
    machines: &[&'a MachineId],
    owner: &mut BTreeMap<&'a MachineId, PartyId>,
) -> bool {
    let Some((&first, rest)) = machines.split_first() else {
        return PartyId::ALL.into_iter().all(|party| {
            let mine = hosts.iter().filter(|host| host.parties.contains(&party) && owner[&host.machine] == party);
            let devices: BTreeSet<(&MachineId, &DeviceId)> =
                mine.flat_map(|host| suitable(host, need).into_iter().map(|device| (&host.machine, device))).collect();
            devices.len() >= lanes
        });
    };
    let mut candidates: BTreeSet<PartyId> = BTreeSet::new();
    hosts.iter().filter(|host| host.machine == *first).for_each(|host| candidates.extend(&host.parties));
    candidates.into_iter().any(|party| {
        owner.insert(first, party);
        owners(hosts, need, lanes, rest, owner)
    })
}
