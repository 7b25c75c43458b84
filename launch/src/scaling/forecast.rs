//! Seconds of a step: what lanes compute, what their links carry, hops that wait for each other, sums among lanes.

use serde::Serialize;

use super::{Calibration, Kind, Link, Network};
use crate::cost::{Cost, Part};

/// Payload of a packet between hosts.
const PACKET_BYTES: f64 = 1452.0;
/// A receiver may keep an acknowledgement for so long, which the sender grants it before it repeats a last packet.
const ACK_DELAY_SECONDS: f64 = 25e-3;
/// Tiles of a batch. Each party evaluates two of them, with operands twice as long, and helps in the third.
const TILES: f64 = 3.0;
/// What lanes exchange for each parameter: a word of the gradient, and both words of a weight's share.
const SUMMED_BYTES: f64 = 8.0;
const GATHERED_BYTES: f64 = 16.0;
/// Exchanges among lanes in a step: the sum, and each component of the weights.
const EXCHANGES: f64 = 3.0;

/// How the batch grows with the lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// A batch for each lane.
    Weak,
    /// One batch for all.
    Strong,
}

impl Mode {
    /// Samples of a step.
    pub(crate) fn batch(self, one_lane: usize, lanes: u16) -> usize {
        if self == Self::Weak { one_lane * usize::from(lanes) } else { one_lane }
    }

    /// As users write it.
    pub(crate) fn name(self) -> &'static str {
        if self == Self::Weak { "weak" } else { "strong" }
    }
}

/// What one lane has to do in a step.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Work {
    /// Bytes sent and hops.
    pub(crate) cost: Cost,
    /// Matrix products and convolutions.
    pub(crate) gemms: f64,
    /// Their multiply-adds.
    pub(crate) products: f64,
    /// Parameters that lanes have in common; none of a network that is not trained.
    pub(crate) parameters: f64,
}

impl Work {
    /// The parts of a lane's step.
    #[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    pub(crate) fn new(parts: &[Part], parameters: usize) -> Self {
        Self {
            cost: parts.iter().fold(Cost::default(), |sum, part| sum + part.cost),
            gemms: parts.iter().map(|part| part.gemms).sum::<usize>() as f64,
            products: parts.iter().map(|part| part.products).sum(),
            parameters: parameters as f64,
        }
    }
}

/// A machine for each party, and the network between them.
#[derive(Clone, Debug)]
pub(crate) struct Simulator<'a> {
    pub(crate) calibration: &'a Calibration,
    pub(crate) network: Network,
    /// Cores of one host of a party, not necessarily a whole number.
    pub(crate) cores: f64,
    /// Compute threads of a lane.
    pub(crate) threads: f64,
}

/// Parts of a step's time, seconds; they follow one another.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize)]
pub(crate) struct Forecast {
    /// Arithmetic, copies, encryption, and waiting for a core.
    pub(crate) compute: f64,
    /// Bytes over the link.
    pub(crate) transfer: f64,
    /// Hops, and the wait for packets that are sent again.
    pub(crate) rounds: f64,
    /// Sums and weights among a party's own lanes.
    pub(crate) allreduce: f64,
}

impl Forecast {
    /// The whole step.
    pub(crate) fn seconds(&self) -> f64 {
        self.compute + self.transfer + self.rounds + self.allreduce
    }

    /// Of the step, what the network between the parties takes.
    pub(crate) fn network_share(&self) -> f64 {
        let seconds = self.seconds();
        if seconds > 0.0 { (self.transfer + self.rounds) / seconds } else { 0.0 }
    }
}

/// A step of one lane, as it was measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Observed {
    /// All of it.
    pub(crate) seconds: f64,
    /// Of that, computing and handing over what is sent, not waiting.
    pub(crate) computing: f64,
}

/// What lanes of a host want of something, seconds: one lane by itself, and all of them one after the other.
#[derive(Clone, Copy)]
struct Demand {
    own: f64,
    all: f64,
}

impl Demand {
    /// With so much of what others want in the way, 0 to 1.
    fn at(self, contention: f64) -> f64 {
        self.own + contention * (self.all - self.own).max(0.0)
    }
}

impl Simulator<'_> {
    /// A step of `lanes` lanes per party that each do `work`.
    pub(crate) fn forecast(&self, work: &Work, lanes: u16) -> Forecast {
        let (compute, transfer) = (self.compute(work, lanes), self.transfer(work.cost.bytes, lanes));
        let contention = self.contention();
        let forecast = Forecast {
            compute: compute.at(contention),
            transfer: transfer.at(contention),
            rounds: self.rounds(&work.cost, lanes).at(contention),
            allreduce: self.allreduce(work.parameters, lanes),
        };
        // No overlap makes more of cores or links than there is.
        let missing = compute.all.max(transfer.all) + forecast.allreduce - forecast.seconds();
        Forecast { compute: forecast.compute + missing.max(0.0), ..forecast }
    }

    /// The least that a step of `lanes` lanes that each do `work` can take, from one in which a single lane was seen to do
    /// `alone`: computing and sending shrink with the work, lanes hide each other's waits, and only then cores, the link
    /// and the sum among lanes are in the way.
    pub(crate) fn least_seconds(&self, one: &Observed, alone: &Work, work: &Work, lanes: u16) -> f64 {
        let computing = one.computing.clamp(0.0, one.seconds);
        let part = self.compute(work, 1).own / self.compute(alone, 1).own;
        let (own, transfer) = (computing * part, self.transfer(work.cost.bytes, lanes));
        let less_to_send = (self.transfer(alone.cost.bytes, 1).own - transfer.own).max(0.0);
        let waiting = (one.seconds - computing - less_to_send).max(0.0);
        // What was seen on a fraction of a core was that much longer than the work.
        let all = match self.calibration.kind {
            Kind::Cpu => f64::from(lanes) * own * self.cores.min(1.0) / self.cores,
            Kind::Gpu => own,
        };
        (waiting + own).max(all).max(transfer.all) + self.allreduce(work.parameters, lanes)
    }

    /// Hosts that a party's lanes fill.
    pub(crate) fn hosts(&self, lanes: u16) -> u16 {
        lanes.div_ceil(self.calibration.host.lanes_max)
    }

    /// Of what other lanes want, the part that is in the way. On one machine a wait for a peer is a wait for its
    /// computing, which the same cores do: nothing is hidden.
    pub(crate) fn contention(&self) -> f64 {
        if self.network == Network::Local { 1.0 } else { self.calibration.host.contention }
    }

    /// Lanes of the fullest host.
    fn lanes_per_host(&self, lanes: u16) -> f64 {
        f64::from(lanes.div_ceil(self.hosts(lanes)))
    }

    fn compute(&self, work: &Work, lanes: u16) -> Demand {
        let Calibration { kind, device, host, .. } = self.calibration;
        let (bytes, count) = (work.cost.bytes, self.lanes_per_host(lanes));
        let local = self.products(work)
            + bytes * device.sent_byte_seconds
            + work.cost.rounds * device.kernels_per_round * device.kernel_seconds;
        let packets = if self.network == Network::Local { 0.0 } else { bytes / PACKET_BYTES };
        let wire = bytes * host.wire_byte_seconds + packets * host.packet_seconds;
        match kind {
            Kind::Cpu => {
                let busy = local + wire;
                Demand { own: busy / self.threads.min(self.cores), all: count * busy / self.cores }
            }
            Kind::Gpu => {
                let own = local + wire / self.cores.min(1.0);
                Demand { own, all: (count * wire / self.cores).max(own) }
            }
        }
    }

    /// Seconds of all matrix products of a lane: tile by tile, twice as evaluator and once as helper.
    fn products(&self, work: &Work) -> f64 {
        if work.gemms == 0.0 {
            return 0.0;
        }
        let tile = work.products / work.gemms / TILES;
        let device = &self.calibration.device;
        work.gemms * (2.0 * device.product_seconds(2.0 * tile) + device.product_seconds(tile))
    }

    fn transfer(&self, bytes: f64, lanes: u16) -> Demand {
        let Network::Remote(Link { bandwidth, .. }) = self.network else { return Demand { own: 0.0, all: 0.0 } };
        let own = bytes * 8.0 / bandwidth;
        Demand { own, all: own * self.lanes_per_host(lanes) }
    }

    fn rounds(&self, cost: &Cost, lanes: u16) -> Demand {
        let host = &self.calibration.host;
        let Network::Remote(Link { round_trip, loss, .. }) = self.network else {
            // All of it is work of cores, which lanes share.
            let own = cost.rounds * host.local_hop_seconds;
            return Demand { own, all: own * self.lanes_per_host(lanes) * self.cores.min(1.0) / self.cores };
        };
        // A message is complete when its last packet is. A hop is at least one packet to each peer.
        let packets_per_hop = (cost.bytes / PACKET_BYTES / cost.rounds.max(1.0)).max(2.0);
        let stalled = 1.0 - (1.0 - loss).powf(packets_per_hop);
        let hop = round_trip / 2.0 + host.remote_hop_seconds + stalled * (round_trip + ACK_DELAY_SECONDS);
        Demand { own: cost.rounds * hop, all: cost.rounds * hop }
    }

    /// The gradient is summed and shared out, the weights are gathered: each lane takes in what the others have. Between
    /// hosts each takes in once what the other hosts have.
    fn allreduce(&self, parameters: f64, lanes: u16) -> f64 {
        if lanes < 2 || parameters == 0.0 {
            return 0.0;
        }
        let (collective, bytes) = (&self.calibration.collective, parameters * (SUMMED_BYTES + GATHERED_BYTES));
        let others = |count: f64| bytes * (count - 1.0) / count;
        let within = others(self.lanes_per_host(lanes)) * collective.byte_seconds;
        let between = others(self.hosts(lanes).into()) * collective.byte_seconds_between_hosts;
        EXCHANGES * collective.exchange_seconds + within + between
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METRO: Network = Network::Remote(Link { round_trip: 5e-3, bandwidth: 1e9, loss: 0.0 });

    fn w2() -> Work {
        Work { cost: Cost { bytes: 3.2e6, rounds: 51.0 }, gemms: 8.0, products: 32.5e6, parameters: 118_282.0 }
    }

    /// The work of a lane that has one of `lanes` parts of a batch.
    fn slice(work: &Work, lanes: u16) -> Work {
        let part = 1.0 / f64::from(lanes);
        let cost = Cost { bytes: work.cost.bytes * part, rounds: work.cost.rounds };
        Work { cost, products: work.products * part, ..*work }
    }

    fn cpu() -> Calibration {
        Calibration::shipped("cpu").unwrap()
    }

    fn speedup(simulator: &Simulator<'_>, work: &Work, mode: Mode, lanes: u16) -> f64 {
        let one = simulator.forecast(work, 1).seconds();
        match mode {
            Mode::Weak => f64::from(lanes) * one / simulator.forecast(work, lanes).seconds(),
            Mode::Strong => one / simulator.forecast(&slice(work, lanes), lanes).seconds(),
        }
    }

    fn works() -> impl Strategy<Value = Work> {
        (1e4..1e9_f64, 1.0..2000.0_f64, 1.0..100.0_f64, 1e3..1e11_f64, 1e2..1e8_f64).prop_map(
            |(bytes, rounds, gemms, products, parameters)| Work {
                cost: Cost { bytes, rounds: rounds.round() },
                gemms: gemms.round(),
                products,
                parameters,
            },
        )
    }

    fn networks() -> impl Strategy<Value = Network> {
        let remote = (1e-5..0.2_f64, 1e7..4e11_f64, 0.0..0.01_f64)
            .prop_map(|(round_trip, bandwidth, loss)| Network::Remote(Link { round_trip, bandwidth, loss }));
        prop_oneof![Just(Network::Local), remote]
    }

    fn calibrations() -> impl Strategy<Value = Calibration> {
        prop_oneof![Just("cpu"), Just("h200")].prop_map(|name| Calibration::shipped(name).unwrap())
    }

    proptest! {
        /// With cores or devices for all lanes, and sums among them for nothing, a lane more never slows a step down as long
        /// as it takes its part of the batch.
        #[test]
        fn with_room_for_all_more_lanes_are_never_slower(
            work in works(), mut calibration in calibrations(), network in networks(), lanes in 1_u16..64
        ) {
            calibration.collective.exchange_seconds = 0.0;
            calibration.collective.byte_seconds = 0.0;
            calibration.collective.byte_seconds_between_hosts = 0.0;
            calibration.host.lanes_max = 256;
            let simulator = Simulator { calibration: &calibration, network, cores: 1e4, threads: 1.0 };
            let seconds = |lanes| simulator.forecast(&slice(&work, lanes), lanes).seconds();
            prop_assert!(seconds(lanes + 1) <= seconds(lanes) * (1.0 + 1e-9));
        }

        /// No more than the ideal, in either way, and a step is never shorter than its longest resource.
        #[test]
        fn no_speedup_is_above_the_lanes(
            work in works(), calibration in calibrations(), network in networks(), cores in 0.3..100.0_f64, lanes in 1_u16..65
        ) {
            let simulator = Simulator { calibration: &calibration, network, cores, threads: 1.0 };
            prop_assert!(speedup(&simulator, &work, Mode::Weak, lanes) <= f64::from(lanes) * (1.0 + 1e-9));
            let forecast = simulator.forecast(&work, lanes);
            let link = simulator.transfer(work.cost.bytes, lanes).all;
            prop_assert!(forecast.seconds() >= link && forecast.seconds() >= simulator.compute(&work, lanes).all);
            prop_assert!((0.0..=1.0).contains(&forecast.network_share()));
        }

        #[test]
        fn what_makes_a_network_worse_makes_a_step_longer(
            work in works(), calibration in calibrations(), lanes in 1_u16..65, worse in 1.01..10.0_f64
        ) {
            let link = Link { round_trip: 1e-3, bandwidth: 1e9, loss: 1e-4 };
            let seconds = |link| {
                let network = Network::Remote(link);
                Simulator { calibration: &calibration, network, cores: 4.0, threads: 1.0 }.forecast(&work, lanes).seconds()
            };
            let longer = Link { round_trip: worse * link.round_trip, ..link };
            let slower = Link { bandwidth: link.bandwidth / worse, ..link };
            let lossier = Link { loss: worse * link.loss, ..link };
            prop_assert!([longer, lossier, slower].map(seconds).iter().all(|worse| *worse >= seconds(link) * (1.0 - 1e-12)));
            if lanes == 1 {
                prop_assert!(seconds(longer) > seconds(link) && seconds(slower) > seconds(link));
            }
        }
    }

    #[test]
    fn in_the_limit_of_computing_lanes_with_cores_of_their_own_scale_ideally() {
        let work = Work { cost: Cost { bytes: 1e4, rounds: 10.0 }, gemms: 10.0, products: 1e13, parameters: 1e3 };
        let (calibration, network) = (cpu(), Network::Local);
        let simulator = Simulator { calibration: &calibration, network, cores: 64.0, threads: 1.0 };
        for lanes in [2, 8, 64] {
            for mode in [Mode::Weak, Mode::Strong] {
                let speedup = speedup(&simulator, &work, mode, lanes);
                assert!((speedup / f64::from(lanes) - 1.0).abs() < 0.01, "{mode:?} {lanes}: {speedup}");
            }
        }
    }

    /// Where the link is the limit, samples per second tend to what it carries, however many lanes there are.
    #[test]
    fn weak_scaling_tends_to_what_the_link_carries() {
        let (calibration, work) = (cpu(), w2());
        let simulator = Simulator { calibration: &calibration, network: METRO, cores: 1e4, threads: 1.0 };
        let one = simulator.forecast(&work, 1).seconds();
        let bound = one * 1e9 / (8.0 * work.cost.bytes);
        let speedups: Vec<f64> = [1, 4, 16, 64, 256].map(|lanes| speedup(&simulator, &work, Mode::Weak, lanes)).into();
        assert!(speedups.windows(2).all(|pair| pair[0] < pair[1] && pair[1] < bound), "{speedups:?} below {bound}");
        let mut calm = calibration.clone();
        calm.host.contention = 0.0;
        let simulator = Simulator { calibration: &calm, ..simulator };
        let many = speedup(&simulator, &work, Mode::Weak, 256);
        assert!(many < bound && many > 0.97 * bound, "{many} where the link allows {bound}");
    }

    /// Rounds do not get fewer: strong scaling ends at the time that they take.
    #[test]
    fn strong_scaling_tends_to_the_rounds() {
        let (calibration, work) = (cpu(), w2());
        let network = Network::Remote(Link { round_trip: 5e-3, bandwidth: 1e15, loss: 0.0 });
        let simulator = Simulator { calibration: &calibration, network, cores: 1e4, threads: 1.0 };
        let hops = 51.0 * (2.5e-3 + 150e-6);
        let many = simulator.forecast(&slice(&work, 256), 256).seconds();
        assert!(many > hops && many < 1.05 * hops, "{many} where the hops take {hops}");
    }

    #[test]
    fn the_least_time_shares_out_computing_and_hides_waits() {
        let calibration = cpu();
        let simulator = |cores, network| Simulator { calibration: &calibration, network, cores, threads: 1.0 };
        let one = Observed { seconds: 0.180, computing: 0.030 };
        let none = Work { parameters: 0.0, ..w2() };
        let least =
            |cores, network, work: &Work, lanes| simulator(cores, network).least_seconds(&one, &none, work, lanes);
        let close = |seconds: f64, expected: f64| assert!((seconds - expected).abs() < 1e-9, "{seconds} {expected}");
        close(least(64.0, METRO, &none, 4), 0.180);
        // A quarter of the computing, and three quarters of 25.6 ms on the link fall away.
        close(least(64.0, METRO, &slice(&none, 4), 4), 0.180 - 0.75 * (0.030 + 0.0256));
        // Twelve lanes fill a link of 1 Gbit/s for 12 x 25.6 ms.
        close(least(64.0, METRO, &none, 12), 12.0 * 0.0256);
        // On two thirds of a core what was seen is what a core and a half would have done.
        close(least(2.0 / 3.0, Network::Local, &none, 12), 12.0 * 0.030);
        let sums = simulator(64.0, METRO).allreduce(w2().parameters, 4);
        let with_sums = simulator(64.0, METRO).least_seconds(&one, &none, &w2(), 4);
        assert!(sums > 0.0 && (with_sums - 0.180 - sums).abs() < 1e-9);
    }

    #[test]
    fn hosts_fill_up_one_after_the_other() {
        let calibration = Calibration::shipped("h200").unwrap();
        let simulator = Simulator { calibration: &calibration, network: METRO, cores: 16.0, threads: 1.0 };
        assert_eq!([1, 8, 9, 64].map(|lanes| simulator.hosts(lanes)), [1, 1, 2, 8]);
        assert_eq!([1, 8, 9, 64].map(|lanes| simulator.lanes_per_host(lanes)), [1.0, 8.0, 5.0, 8.0]);
        // A link for each host: 64 lanes on eight of them transfer as long as 8 on one.
        assert_eq!(simulator.forecast(&w2(), 64).transfer, simulator.forecast(&w2(), 8).transfer);
        assert!(simulator.forecast(&w2(), 64).allreduce > simulator.forecast(&w2(), 8).allreduce);
    }
}
