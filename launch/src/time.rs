//! How long a step will take: local arithmetic, what the links can carry, and hops that wait for each other.

use crate::cost::Cost;

/// Multiply-adds per second of one core, by instruction set.
const PRODUCTS_PER_SECOND: [(&str, f64); 3] = [("avx512", 40e9), ("avx2", 11e9), ("portable", 3e9)];
/// Bytes per second of one core for masking, truncating and moving what is sent, three times per byte.
const MASKED_BYTES_PER_SECOND: f64 = 1e9;
/// What a hop takes besides the way: local work between two messages, waking up, encryption. On one machine, where a
/// party looks for the next message before it sleeps, and between hosts.
const LOCAL_HOP_SECONDS: f64 = 80e-6;
const REMOTE_HOP_SECONDS: f64 = 150e-6;
/// Payload of a packet between hosts, and processor time for one on both ends together.
const PACKET_BYTES: f64 = 1452.0;
const PACKET_SECONDS: f64 = 7.5e-6;
/// A receiver may keep an acknowledgement for so long, which the sender grants it before it repeats a last packet.
const ACK_DELAY_SECONDS: f64 = 25e-3;

/// What lies between two parties.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Network {
    /// All parties on one machine.
    Local,
    /// A link for each party, to both others.
    Remote {
        /// There and back, seconds.
        round_trip: f64,
        /// Of each party's link, bits per second.
        bandwidth: f64,
        /// Share of packets lost.
        loss: f64,
    },
}

/// Parts of a step's time, seconds; they follow one another.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Prediction {
    /// Arithmetic, copies, encryption.
    pub(crate) compute: f64,
    /// Bytes over the link.
    pub(crate) transfer: f64,
    /// Hops, and the wait for packets that are sent again.
    pub(crate) rounds: f64,
}

impl Prediction {
    /// Of a step with these costs and multiply-adds, by parties with so many cores each.
    pub(crate) fn new(total: Cost, products: f64, cores: f64, network: Network) -> Self {
        let arithmetic = products / products_per_second() + total.bytes * 3.0 / MASKED_BYTES_PER_SECOND;
        match network {
            Network::Local => {
                Self { compute: arithmetic / cores, transfer: 0.0, rounds: total.rounds * LOCAL_HOP_SECONDS }
            }
            Network::Remote { round_trip, bandwidth, loss } => {
                let packets = total.bytes / PACKET_BYTES;
                let hop = round_trip / 2.0 + REMOTE_HOP_SECONDS;
                // A message is complete when its last packet is. A hop is at least one packet to each peer.
                let packets_per_hop = (packets / total.rounds.max(1.0)).max(2.0);
                let stalled = 1.0 - (1.0 - loss).powf(packets_per_hop);
                Self {
                    compute: (arithmetic + packets * PACKET_SECONDS) / cores,
                    transfer: total.bytes * 8.0 / bandwidth,
                    rounds: total.rounds * (hop + stalled * (round_trip + ACK_DELAY_SECONDS)),
                }
            }
        }
    }

    /// The whole step.
    pub(crate) fn seconds(&self) -> f64 {
        self.compute + self.transfer + self.rounds
    }
}

fn products_per_second() -> f64 {
    #[cfg(target_arch = "x86_64")]
    let set = match () {
        () if is_x86_feature_detected!("avx512dq") => "avx512",
        () if is_x86_feature_detected!("avx2") => "avx2",
        () => "portable",
    };
    #[cfg(not(target_arch = "x86_64"))]
    let set = "portable";
    PRODUCTS_PER_SECOND.iter().find(|(name, _)| *name == set).map_or(1e9, |(_, rate)| *rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAN: Network = Network::Remote { round_trip: 0.2e-3, bandwidth: 4e9, loss: 0.0 };
    const METRO: Network = Network::Remote { round_trip: 5e-3, bandwidth: 1e9, loss: 0.0 };
    const WAN: Network = Network::Remote { round_trip: 40e-3, bandwidth: 100e6, loss: 1e-3 };

    /// Measured on two cores (`docs/benchmarks.md`). A training of W1 has 160 steps of 10 rounds.
    #[test]
    fn predictions_are_within_a_quarter_of_measurements() {
        let (w1, w2) = (Cost { bytes: 7.2e3, rounds: 10.0 }, Cost { bytes: 3.2e6, rounds: 51.0 });
        let cases = [
            (w1, 2e3, 160.0, [(Network::Local, 0.135), (LAN, 0.385), (METRO, 4.2), (WAN, 33.7)]),
            (w2, 32.5e6, 1.0, [(Network::Local, 0.0195), (LAN, 0.060), (METRO, 0.179), (WAN, 1.44)]),
        ];
        for (cost, products, steps, measured) in cases {
            for (network, seconds) in measured {
                let predicted = steps * Prediction::new(cost, products, 2.0 / 3.0, network).seconds();
                assert!(
                    (predicted / seconds - 1.0).abs() < 0.25,
                    "{network:?}: {predicted} where {seconds} were measured"
                );
            }
        }
    }

    #[test]
    fn what_makes_a_network_worse_makes_a_step_longer() {
        let seconds = |round_trip, bandwidth, loss| {
            let network = Network::Remote { round_trip, bandwidth, loss };
            Prediction::new(Cost { bytes: 1e6, rounds: 20.0 }, 1e6, 1.0, network).seconds()
        };
        let best = seconds(1e-3, 1e9, 0.0);
        assert!(seconds(2e-3, 1e9, 0.0) > best + 20.0 * 0.4e-3);
        assert!(seconds(1e-3, 1e8, 0.0) > best + 0.07);
        assert!(seconds(1e-3, 1e9, 0.01) > best);
        let nothing = Prediction::new(Cost::default(), 0.0, 1.0, WAN);
        assert_eq!(nothing.seconds(), 0.0);
    }
}
