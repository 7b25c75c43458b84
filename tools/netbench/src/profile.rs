//! The networks that are built.

use std::time::Duration;

use clap::ValueEnum;

/// Bytes that wait in front of a link before it drops: the thousand packets of 1500 bytes that `tc netem` grants.
pub(crate) const QUEUE_BYTES: u64 = 1_500_000;

/// A network by name.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Profile {
    /// 10 Gbit/s, 0.2 ms
    Lan,
    /// 1 Gbit/s, 5 ms
    Metro,
    /// 100 Mbit/s, 40 ms, 1 ms jitter, 0.1 % loss
    Wan,
}

/// What a network does to packets. Each party has one link to it; the rate holds for what leaves the party.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Shape {
    /// Bits per second of a party's link.
    pub(crate) rate: f64,
    /// There and back; half of it each way.
    pub(crate) round_trip: Duration,
    /// A packet takes up to so much more or less time, each way; packets overtake each other.
    pub(crate) jitter: Duration,
    /// Share of packets lost, each way.
    pub(crate) loss: f64,
}

impl Profile {
    /// As users write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Metro => "metro",
            Self::Wan => "wan",
        }
    }

    /// What the network shall do.
    pub(crate) fn shape(self) -> Shape {
        let shape = |mbit: f64, round_trip_us, jitter_us, loss| Shape {
            rate: mbit * 1e6,
            round_trip: Duration::from_micros(round_trip_us),
            jitter: Duration::from_micros(jitter_us),
            loss,
        };
        match self {
            Self::Lan => shape(10_000.0, 200, 0, 0.0),
            Self::Metro => shape(1_000.0, 5_000, 0, 0.0),
            Self::Wan => shape(100.0, 40_000, 1_000, 0.001),
        }
    }
}

impl Shape {
    /// A network that only passes packets on.
    pub(crate) const OPEN: Self =
        Self { rate: f64::INFINITY, round_trip: Duration::ZERO, jitter: Duration::ZERO, loss: 0.0 };

    /// Whether the network handles packets one by one. Where it does not, the batches in which a sender hands packets
    /// to its kernel stay whole, as they do between virtual machines, and cost this machine a tenth of the time.
    pub(crate) fn is_per_packet(&self) -> bool {
        self.loss > 0.0 || !self.jitter.is_zero()
    }

    /// The command that makes `tc netem` do this to what leaves `device`.
    pub(crate) fn netem(&self, device: &str) -> Vec<String> {
        let microseconds = |time: Duration| format!("{}us", time.as_micros());
        let mut words: Vec<String> =
            ["qdisc", "replace", "dev", device, "root", "netem", "delay"].map(Into::into).into();
        words.push(microseconds(self.round_trip / 2));
        if !self.jitter.is_zero() {
            words.push(microseconds(self.jitter));
        }
        if self.loss > 0.0 {
            words.extend(["loss".into(), format!("{}%", 100.0 * self.loss)]);
        }
        words.extend(["rate".into(), format!("{:.0}mbit", self.rate / 1e6)]);
        words.extend(["limit".into(), (QUEUE_BYTES / 1500).to_string()]);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_netem_names_everything() {
        let words = Profile::Wan.shape().netem("party").join(" ");
        let delay = "delay 20000us 1000us loss 0.1% rate 100mbit limit 1000";
        assert_eq!(words, format!("qdisc replace dev party root netem {delay}"));
        let words = Profile::Lan.shape().netem("party").join(" ");
        assert_eq!(words, "qdisc replace dev party root netem delay 100us rate 10000mbit limit 1000");
    }
}
