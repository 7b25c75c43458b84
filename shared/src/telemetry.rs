//! Every metric of a party: name, kind, unit, labels, help. Dashboards, rules and the exporter name only what is here.
//!
//! Labels are bounded and say nothing about the data: a run's name, party, lane, phase, peer, versions and sizes.

/// One metric family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Name on `/metrics`; base units, unit last.
    pub name: &'static str,
    /// How values behave.
    pub kind: MetricKind,
    /// What one is.
    pub unit: Unit,
    /// Labels of every sample, in this order.
    pub labels: &'static [&'static str],
    /// One line for people.
    pub help: &'static str,
}

/// How the values of a metric behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Only grows, within one incarnation of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution over [`STEP_SECONDS_BUCKETS`].
    Histogram,
}

/// What one of a metric is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A plain count or number.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A part of a whole, 0 to 1.
    Ratio,
    /// Watts.
    Watts,
    /// Degrees Celsius.
    Celsius,
}

const PARTY: &[&str] = &["job_id", "party"];
const LANE: &[&str] = &["job_id", "party", "lane"];
const PHASE: &[&str] = &["job_id", "party", "lane", "phase"];
const REVEAL: &[&str] = &["job_id", "party", "lane", "what"];
const PEER: &[&str] = &["job_id", "party", "lane", "peer"];
const GPU: &[&str] = &["job_id", "party", "gpu"];

const fn metric(
    name: &'static str,
    kind: MetricKind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help }
}

/// Which job this is; always 1.
pub const JOB_INFO: Metric = metric(
    "mpc_job_info",
    MetricKind::Gauge,
    Unit::None,
    &["job_id", "party", "version", "protocol", "ring_bits", "frac_bits", "world_size", "parties"],
    "Job and number formats; always 1. world_size is the number of lanes.",
);
/// Which program this is; always 1.
pub const BUILD_INFO: Metric =
    metric("mpc_build_info", MetricKind::Gauge, Unit::None, &["version", "os", "arch"], "Program; always 1.");
/// Training steps.
pub const STEPS: Metric = metric("mpc_steps_total", MetricKind::Counter, Unit::None, LANE, "Training steps done.");
/// Samples.
pub const SAMPLES: Metric =
    metric("mpc_samples_total", MetricKind::Counter, Unit::None, LANE, "Samples that this lane trained on.");
/// Step time.
pub const STEP_DURATION: Metric = metric(
    "mpc_step_duration_seconds",
    MetricKind::Histogram,
    Unit::Seconds,
    LANE,
    "Wall time from the end of one training step to the end of the next, as lane 0 sees it.",
);
/// Time by phase.
pub const PHASE_SECONDS: Metric = metric(
    "mpc_phase_seconds_total",
    MetricKind::Counter,
    Unit::Seconds,
    PHASE,
    "Wall time in each phase; phases exclude each other and sum to the lane's wall time.",
);
/// Rounds.
pub const ROUNDS: Metric = metric(
    "mpc_rounds_total",
    MetricKind::Counter,
    Unit::None,
    LANE,
    "Longest chain of dependent receives between parties.",
);
/// Bytes to a peer.
pub const SENT_BYTES: Metric = metric(
    "mpc_sent_bytes_total",
    MetricKind::Counter,
    Unit::Bytes,
    PEER,
    "Bytes handed to the transport for a peer; masked words, not openings.",
);
/// Bytes from a peer.
pub const RECEIVED_BYTES: Metric =
    metric("mpc_received_bytes_total", MetricKind::Counter, Unit::Bytes, PEER, "Bytes received from a peer.");
/// Bytes among lanes.
pub const ALLREDUCE_BYTES: Metric = metric(
    "mpc_allreduce_bytes_total",
    MetricKind::Counter,
    Unit::Bytes,
    LANE,
    "Bytes exchanged among the party's own lanes.",
);
/// Time among lanes.
pub const ALLREDUCE_DURATION: Metric = metric(
    "mpc_allreduce_duration_seconds",
    MetricKind::Histogram,
    Unit::Seconds,
    LANE,
    "Wall time of one exchange among the party's own lanes, waiting for the slowest included.",
);
/// Time per wait.
pub const OPEN_DURATION: Metric = metric(
    "mpc_open_duration_seconds",
    MetricKind::Histogram,
    Unit::Seconds,
    LANE,
    "Wall time of one wait for masked words of a peer.",
);
/// Round trip.
pub const PEER_RTT: Metric = metric(
    "mpc_peer_rtt_seconds",
    MetricKind::Gauge,
    Unit::Seconds,
    PEER,
    "Smoothed round-trip time to a peer, as QUIC measures it.",
);
/// Lost packets.
pub const LOST_PACKETS: Metric = metric(
    "mpc_quic_lost_packets_total",
    MetricKind::Counter,
    Unit::None,
    PEER,
    "Packets to a peer that QUIC counted as lost and sent again.",
);
/// Keystream.
pub const PRG_BYTES: Metric =
    metric("mpc_prg_bytes_total", MetricKind::Counter, Unit::Bytes, LANE, "Keystream bytes used.");
/// Epoch of the session.
pub const SESSION_EPOCH: Metric = metric(
    "mpc_session_epoch",
    MetricKind::Gauge,
    Unit::None,
    PARTY,
    "Incarnation of the job; all keys are fresh in each.",
);
/// Time of the last step.
pub const LAST_STEP_TIMESTAMP: Metric = metric(
    "mpc_last_step_timestamp_seconds",
    MetricKind::Gauge,
    Unit::Seconds,
    PARTY,
    "Unix time at which lane 0 ended its last step; 0 before the first.",
);
/// Openings.
pub const REVEALS: Metric = metric(
    "mpc_reveals_total",
    MetricKind::Counter,
    Unit::None,
    REVEAL,
    "Values opened, by their name in the reveal policy.",
);
/// One-lane speed.
pub const BASELINE_SAMPLES_PER_SECOND: Metric = metric(
    "mpc_baseline_samples_per_second",
    MetricKind::Gauge,
    Unit::None,
    &["job_id", "party", "gpus"],
    "Training speed of one lane on the job's batch, from the calibration run; 0 until it is measured.",
);

/// How busy a GPU is.
pub const GPU_UTILISATION: Metric = metric(
    "mpc_gpu_utilisation_ratio",
    MetricKind::Gauge,
    Unit::Ratio,
    GPU,
    "Part of the last moments in which any kernel ran on a GPU of this machine, whoever started it; gpu as nvidia-smi \
     counts. Absent without NVML, as all of mpc_gpu_*.",
);
/// Memory of a GPU.
pub const GPU_MEMORY: Metric = metric(
    "mpc_gpu_memory_bytes",
    MetricKind::Gauge,
    Unit::Bytes,
    &["job_id", "party", "gpu", "kind"],
    "Memory of a GPU of this machine: kind used, by all programs, or free.",
);
/// Power of a GPU.
pub const GPU_POWER: Metric = metric(
    "mpc_gpu_power_watts",
    MetricKind::Gauge,
    Unit::Watts,
    GPU,
    "What a GPU of this machine draws, its memory included.",
);
/// Temperature of a GPU.
pub const GPU_TEMPERATURE: Metric = metric(
    "mpc_gpu_temperature_celsius",
    MetricKind::Gauge,
    Unit::Celsius,
    GPU,
    "Temperature of a GPU of this machine.",
);
/// Critical errors of a GPU.
pub const GPU_XID_ERRORS: Metric = metric(
    "mpc_gpu_xid_errors_total",
    MetricKind::Counter,
    Unit::None,
    GPU,
    "Critical errors (XID) of a GPU of this machine since the party's first scrape; the kernel log has their numbers.",
);

const SCALING_POINT: &[&str] = &["workload", "mode", "gpus"];

/// Measured speed.
pub const SCALING_SAMPLES_PER_SECOND: Metric = metric(
    "mpc_scaling_samples_per_second",
    MetricKind::Gauge,
    Unit::None,
    SCALING_POINT,
    "Training speed of so many lanes.",
);
/// Measured speed-up.
pub const SCALING_SPEEDUP: Metric = metric(
    "mpc_scaling_speedup_ratio",
    MetricKind::Gauge,
    Unit::None,
    SCALING_POINT,
    "Samples per second over those of one lane.",
);
/// Its ceiling.
pub const SCALING_SPEEDUP_CEILING: Metric = metric(
    "mpc_scaling_speedup_ceiling_ratio",
    MetricKind::Gauge,
    Unit::None,
    SCALING_POINT,
    "Most that the measured step of one lane, cores, link and sum among lanes allow.",
);
/// What the simulator says.
pub const SCALING_SPEEDUP_PREDICTED: Metric = metric(
    "mpc_scaling_speedup_predicted_ratio",
    MetricKind::Gauge,
    Unit::None,
    SCALING_POINT,
    "What the simulator predicts from its calibration alone.",
);
/// Measured efficiency.
pub const SCALING_EFFICIENCY: Metric = metric(
    "mpc_scaling_efficiency_ratio",
    MetricKind::Gauge,
    Unit::None,
    SCALING_POINT,
    "Speed-up over the number of lanes.",
);
/// Share of the network.
pub const SCALING_NETWORK_SHARE: Metric = metric(
    "mpc_scaling_network_share_ratio",
    MetricKind::Gauge,
    Unit::None,
    SCALING_POINT,
    "Of a lane's step, sending to peers and waiting for them.",
);
/// Time of a step.
pub const SCALING_STEP_SECONDS: Metric = metric(
    "mpc_scaling_step_seconds",
    MetricKind::Gauge,
    Unit::Seconds,
    SCALING_POINT,
    "Median wall time of a training step.",
);
/// Time of a step, by phase.
pub const SCALING_PHASE_SECONDS: Metric = metric(
    "mpc_scaling_phase_seconds",
    MetricKind::Gauge,
    Unit::Seconds,
    &["workload", "mode", "gpus", "phase"],
    "Mean seconds of a lane per step, by phase.",
);

/// What `mpc-launch bench scaling` tells, for a file that Prometheus' node exporter picks up; no party serves these.
pub const SCALING: &[Metric] = &[
    SCALING_SAMPLES_PER_SECOND,
    SCALING_SPEEDUP,
    SCALING_SPEEDUP_CEILING,
    SCALING_SPEEDUP_PREDICTED,
    SCALING_EFFICIENCY,
    SCALING_NETWORK_SHARE,
    SCALING_STEP_SECONDS,
    SCALING_PHASE_SECONDS,
];

/// All that a party serves.
pub const ALL: &[Metric] = &[
    JOB_INFO,
    BUILD_INFO,
    STEPS,
    SAMPLES,
    STEP_DURATION,
    PHASE_SECONDS,
    ROUNDS,
    SENT_BYTES,
    RECEIVED_BYTES,
    ALLREDUCE_BYTES,
    ALLREDUCE_DURATION,
    OPEN_DURATION,
    PEER_RTT,
    LOST_PACKETS,
    PRG_BYTES,
    SESSION_EPOCH,
    LAST_STEP_TIMESTAMP,
    REVEALS,
    BASELINE_SAMPLES_PER_SECOND,
    GPU_UTILISATION,
    GPU_MEMORY,
    GPU_POWER,
    GPU_TEMPERATURE,
    GPU_XID_ERRORS,
];

/// Upper bounds of the buckets of waits: on one host tens of microseconds, between sites tens of milliseconds.
pub const WAIT_SECONDS_BUCKETS: [f64; 12] = [1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 0.025, 0.1, 1.0, 10.0];

/// Upper bounds of the buckets of step times: one step of a small model takes a millisecond, of a large one minutes.
pub const STEP_SECONDS_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_say_kind_and_unit() {
        let all = || ALL.iter().chain(SCALING);
        assert_eq!(all().map(|metric| metric.name).collect::<BTreeSet<_>>().len(), ALL.len() + SCALING.len());
        for metric in all() {
            let stem = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            assert_eq!(stem != metric.name, metric.kind == MetricKind::Counter, "{}", metric.name);
            assert!(metric.name.starts_with("mpc_"), "{}", metric.name);
            let ending = match metric.unit {
                Unit::None => "",
                Unit::Bytes => "_bytes",
                Unit::Seconds => "_seconds",
                Unit::Ratio => "_ratio",
                Unit::Watts => "_watts",
                Unit::Celsius => "_celsius",
            };
            assert!(stem.ends_with(ending), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn labels_are_those_that_dashboards_may_use() {
        let bounded = ["job_id", "party", "lane", "phase", "peer", "gpu", "gpus", "kind", "what", "workload", "mode"];
        for metric in ALL.iter().chain(SCALING).filter(|metric| !metric.name.ends_with("_info")) {
            assert!(metric.labels.iter().all(|label| bounded.contains(label)), "{}", metric.name);
        }
    }

    #[test]
    fn buckets_grow() {
        assert!(STEP_SECONDS_BUCKETS.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(WAIT_SECONDS_BUCKETS.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
