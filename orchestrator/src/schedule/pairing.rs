//! Which lane of a party works with which lanes of the others: rank `r` of all three exchange messages at every step, and
//! the slowest rank sets the pace of all.

use shared::ids::PartyId;

use super::hosts::{Host, Hosts};
use super::placement::{Placement, Spot};

/// What two hosts that never measured each other are taken to be apart, in microseconds: worse than any measured pair
/// within a country.
const UNKNOWN_US: u64 = 50_000;
/// Bytes of a message between two lanes, as far as a comparison of networks needs to know.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Rounds of improvement; each looks at every pair of lanes.
const ROUNDS_MAX: usize = 8;

/// Microseconds that a message there and back takes between two hosts.
pub(super) fn distance(a: &Host, b: &Host) -> u64 {
    if a.machine == b.machine {
        return 0;
    }
    let measured = a.links.get(&b.id).or_else(|| b.links.get(&a.id));
    measured.map_or(UNKNOWN_US, |link| {
        // Bits over megabits per second are microseconds.
        u64::from(link.round_trip_us) + MESSAGE_BYTES * 8 / u64::from(link.megabits_per_second.max(1))
    })
}

/// Reorders the lanes of P1 and P2 so that the farthest rank is as near as exchanges of two lanes can make it, then the
/// sum over all ranks.
pub(super) fn pair(hosts: &Hosts, placement: &mut Placement) {
    for _ in 0..ROUNDS_MAX {
        let mut better = false;
        for party in [PartyId::ALL[1], PartyId::ALL[2]] {
            better |= exchange(hosts, placement, party);
        }
        if !better {
            return;
        }
    }
}

/// Exchanges pairs of lanes of a party where that helps; whether any did.
fn exchange(hosts: &Hosts, placement: &mut Placement, party: PartyId) -> bool {
    let (lanes, mine) = (placement[0].len(), party.index());
    let mut better = false;
    for a in 0..lanes {
        for b in a + 1..lanes {
            if placement[mine][a].0 == placement[mine][b].0 {
                continue;
            }
            let before = both(hosts, placement, a, b);
            placement[mine].swap(a, b);
            if both(hosts, placement, a, b) < before {
                better = true;
            } else {
                placement[mine].swap(a, b);
            }
        }
    }
    better
}

/// The farther of two ranks, then their sum.
fn both(hosts: &Hosts, placement: &Placement, a: usize, b: usize) -> (u64, u64) {
    let (a, b) = (rank(hosts, placement, a), rank(hosts, placement, b));
    (a.max(b), a + b)
}

/// The longest way between two parties' devices of a rank.
pub(super) fn rank(hosts: &Hosts, placement: &Placement, rank: usize) -> u64 {
    let between = |a: &Spot, b: &Spot| match (hosts.get(&a.0), hosts.get(&b.0)) {
        (Some(a), Some(b)) => distance(a, b),
        _ => UNKNOWN_US,
    };
    let [a, b, c] = [&placement[0][rank], &placement[1][rank], &placement[2][rank]];
    between(a, b).max(between(b, c)).max(between(a, c))
}
