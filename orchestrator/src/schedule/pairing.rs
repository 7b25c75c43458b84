//! Which lane of a party works with which lanes of the others: rank `r` of all three exchange messages at every step,
//! and the slowest rank sets the pace of all.

use shared::fleet::HostId;

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
    let mut ranks = Ranks::new(hosts, placement);
    for _ in 0..ROUNDS_MAX {
        let better = [1, 2].map(|party| ranks.exchange(party, placement));
        if better == [false; 2] {
            return;
        }
    }
}

/// Which host each lane is on, and how far the hosts are from each other.
struct Ranks {
    host_of: [Vec<usize>; 3],
    distances: Vec<Vec<u64>>,
}

impl Ranks {
    fn new(hosts: &Hosts, placement: &Placement) -> Self {
        let mut names: Vec<&HostId> = placement.iter().flatten().map(|(host, _)| host).collect();
        names.sort();
        names.dedup();
        let between = |a: &HostId, b: &HostId| match (hosts.get(a), hosts.get(b)) {
            (Some(a), Some(b)) => distance(a, b),
            _ => UNKNOWN_US,
        };
        let distances = names.iter().map(|a| names.iter().map(|b| between(a, b)).collect()).collect();
        let index = |(host, _): &Spot| names.binary_search(&host).expect("every host of a placement was listed");
        Self { host_of: std::array::from_fn(|party| placement[party].iter().map(index).collect()), distances }
    }

    /// Exchanges pairs of lanes of a party where that helps; whether any did.
    fn exchange(&mut self, party: usize, placement: &mut Placement) -> bool {
        let lanes = placement[party].len();
        let mut better = false;
        for a in 0..lanes {
            for b in a + 1..lanes {
                if self.host_of[party][a] == self.host_of[party][b] {
                    continue;
                }
                let before = self.both(a, b);
                self.host_of[party].swap(a, b);
                if self.both(a, b) < before {
                    placement[party].swap(a, b);
                    better = true;
                } else {
                    self.host_of[party].swap(a, b);
                }
            }
        }
        better
    }

    /// The farther of two ranks, then their sum.
    fn both(&self, a: usize, b: usize) -> (u64, u64) {
        let (a, b) = (self.reach(a), self.reach(b));
        (a.max(b), a + b)
    }

    /// The longest way between two parties' devices of a rank.
    fn reach(&self, rank: usize) -> u64 {
        let [a, b, c] = [0, 1, 2].map(|party| self.host_of[party][rank]);
        self.distances[a][b].max(self.distances[b][c]).max(self.distances[a][c])
    }
}
