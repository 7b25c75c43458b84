//! `/metrics`: the lanes' counters in Prometheus' text format, under the names of `shared::telemetry`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Sample, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use shared::ids::PartyId;
use shared::job::Reveal;
use shared::telemetry::{self, Metric, MetricKind, STEP_SECONDS_BUCKETS, WAIT_SECONDS_BUCKETS};
use shared::wire::Setup;

use super::gpus::{Gpus, Reading};
use crate::meter::{Durations, LaneCounters, Phase};

/// What a connection of a lane to a peer can tell about itself.
pub(super) trait Link: Send + Sync {
    /// Smoothed round-trip time in seconds.
    fn rtt_seconds(&self, peer: PartyId) -> f64;
    /// Packets counted as lost so far.
    fn lost_packets(&self, peer: PartyId) -> u64;
}

/// All that `/metrics` shows of one party.
pub(super) struct Metrics {
    party: PartyId,
    job_id: String,
    frac_bits: u32,
    epoch: u64,
    lanes: Vec<Arc<LaneCounters>>,
    links: Mutex<Vec<Arc<dyn Link>>>,
    gpus: Gpus,
    steps: StepClock,
}

impl Metrics {
    /// Metrics of the job in `setup`, read from `lanes` and asked of `gpus` at each scrape.
    pub(super) fn new(setup: &Setup, lanes: Vec<Arc<LaneCounters>>, gpus: Gpus) -> Self {
        Self {
            party: setup.party,
            job_id: setup.job_id.to_string(),
            frac_bits: setup.job.protocol.fraction_bits.bits(),
            epoch: setup.epoch,
            lanes,
            links: Mutex::default(),
            gpus,
            steps: StepClock::default(),
        }
    }

    /// Adds the connections, in lane order, once they are made.
    pub(super) fn connected(&self, links: Vec<Arc<dyn Link>>) {
        *self.links.lock().unwrap_or_else(PoisonError::into_inner) = links;
    }

    /// Notes that lane 0 ended a step now.
    pub(super) fn step_ended(&self) {
        self.steps.tick();
    }

    /// The whole page.
    pub(super) fn encode(&self) -> String {
        let mut page = Vec::new();
        let gpus = self.gpus.readings();
        let families: Vec<_> = telemetry::ALL.iter().map(|metric| self.family(metric, &gpus)).collect();
        let filled: Vec<_> = families.into_iter().filter(|family| !family.get_metric().is_empty()).collect();
        TextEncoder::new().encode(&filled, &mut page).expect("families with samples encode into memory");
        String::from_utf8(page).expect("the encoder writes text")
    }

    fn family(&self, metric: &Metric, gpus: &[Reading]) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(metric.name.into());
        family.set_help(metric.help.into());
        family.set_field_type(match metric.kind {
            MetricKind::Counter => MetricType::COUNTER,
            MetricKind::Gauge => MetricType::GAUGE,
            MetricKind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(self.samples(metric, gpus));
        family
    }

    fn samples(&self, metric: &Metric, gpus: &[Reading]) -> Vec<Sample> {
        match *metric {
            telemetry::JOB_INFO => vec![self.job_info()],
            telemetry::BUILD_INFO => {
                let labels = [env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH];
                vec![sample(metric, labels.map(String::from).into(), 1.0)]
            }
            telemetry::SESSION_EPOCH => vec![sample(metric, self.party_labels(), count(self.epoch))],
            telemetry::LAST_STEP_TIMESTAMP => vec![sample(metric, self.party_labels(), self.steps.last_unix_seconds())],
            telemetry::BASELINE_SAMPLES_PER_SECOND => self.baseline(metric),
            telemetry::STEP_DURATION => vec![self.step_duration(metric)],
            telemetry::PHASE_SECONDS => self.by_phase(metric),
            telemetry::SENT_BYTES => self.by_peer(metric, |lane, peer| count(lane.sent_bytes[peer].load(Relaxed))),
            telemetry::RECEIVED_BYTES => {
                self.by_peer(metric, |lane, peer| count(lane.received_bytes[peer].load(Relaxed)))
            }
            telemetry::PEER_RTT => self.by_link(metric, |link, peer| link.rtt_seconds(peer)),
            telemetry::LOST_PACKETS => self.by_link(metric, |link, peer| count(link.lost_packets(peer))),
            telemetry::STEPS => self.by_lane(metric, |lane| &lane.steps),
            telemetry::SAMPLES => self.by_lane(metric, |lane| &lane.samples),
            telemetry::ROUNDS => self.by_lane(metric, |lane| &lane.rounds),
            telemetry::ALLREDUCE_BYTES => self.by_lane(metric, |lane| &lane.allreduce_bytes),
            telemetry::PRG_BYTES => self.by_lane(metric, |lane| &lane.prg_bytes),
            telemetry::REVEALS => self.by_reveal(metric),
            telemetry::OPEN_DURATION => self.durations(metric, |lane| &lane.open_waits),
            telemetry::ALLREDUCE_DURATION => self.durations(metric, |lane| &lane.allreduces),
            telemetry::GPU_UTILISATION => self.by_gpu(metric, gpus, |gpu| gpu.utilisation),
            telemetry::GPU_MEMORY => self.gpu_memory(metric, gpus),
            telemetry::GPU_POWER => self.by_gpu(metric, gpus, |gpu| gpu.power_watts),
            telemetry::GPU_TEMPERATURE => self.by_gpu(metric, gpus, |gpu| gpu.temperature_celsius),
            telemetry::GPU_XID_ERRORS => self.by_gpu(metric, gpus, |gpu| gpu.xid_errors.map(count)),
            _ => Vec::new(),
        }
    }

    fn job_info(&self) -> Sample {
        let mut labels = self.party_labels();
        labels.extend([
            env!("CARGO_PKG_VERSION").into(),
            "replicated-3".into(),
            "64".into(),
            self.frac_bits.to_string(),
            self.lanes.len().to_string(),
            "3".into(),
        ]);
        sample(&telemetry::JOB_INFO, labels, 1.0)
    }

    fn baseline(&self, metric: &Metric) -> Vec<Sample> {
        let mut labels = self.party_labels();
        labels.push("1".into());
        let rate = self.lanes.first().map_or(0.0, |lane| f64::from_bits(lane.baseline_rate_bits.load(Relaxed)));
        vec![sample(metric, labels, rate)]
    }

    fn step_duration(&self, metric: &Metric) -> Sample {
        let mut sample = Sample::default();
        sample.set_label(labels(metric, self.lane_labels(0)));
        sample.set_histogram(self.steps.histogram());
        sample
    }

    fn by_lane(&self, metric: &Metric, value: impl Fn(&LaneCounters) -> &AtomicU64) -> Vec<Sample> {
        let lanes = self.lanes.iter().enumerate();
        lanes.map(|(i, lane)| sample(metric, self.lane_labels(i), count(value(lane).load(Relaxed)))).collect()
    }

    fn by_phase(&self, metric: &Metric) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (i, lane) in self.lanes.iter().enumerate() {
            for (phase, seconds) in Phase::ALL.iter().zip(lane.snapshot().phase_seconds) {
                samples.push(sample(metric, self.with(i, phase.name()), seconds));
            }
        }
        samples
    }

    fn by_reveal(&self, metric: &Metric) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (i, lane) in self.lanes.iter().enumerate() {
            for (what, opened) in Reveal::ALL.iter().zip(&lane.reveals) {
                samples.push(sample(metric, self.with(i, what.name()), count(opened.load(Relaxed))));
            }
        }
        samples
    }

    fn durations(&self, metric: &Metric, of: impl Fn(&LaneCounters) -> &Durations) -> Vec<Sample> {
        let lane = |(i, lane): (usize, &Arc<LaneCounters>)| {
            let Durations { buckets, number, nanos } = of(lane);
            let counts = buckets.iter().map(|bucket| bucket.load(Relaxed));
            let seconds = count(nanos.load(Relaxed)) * 1e-9;
            let mut sample = Sample::default();
            sample.set_label(labels(metric, self.lane_labels(i)));
            sample.set_histogram(histogram(counts.zip(WAIT_SECONDS_BUCKETS), number.load(Relaxed), seconds));
            sample
        };
        self.lanes.iter().enumerate().map(lane).collect()
    }

    fn by_peer(&self, metric: &Metric, value: impl Fn(&LaneCounters, usize) -> f64) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (i, lane) in self.lanes.iter().enumerate() {
            for peer in [self.party.next(), self.party.prev()] {
                samples.push(sample(metric, self.with(i, peer.index().to_string()), value(lane, peer.index())));
            }
        }
        samples
    }

    fn by_link(&self, metric: &Metric, value: impl Fn(&dyn Link, PartyId) -> f64) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (i, link) in self.links.lock().unwrap_or_else(PoisonError::into_inner).iter().enumerate() {
            for peer in [self.party.next(), self.party.prev()] {
                samples.push(sample(metric, self.with(i, peer.index().to_string()), value(&**link, peer)));
            }
        }
        samples
    }

    /// A sample of each GPU that tells the value.
    fn by_gpu(&self, metric: &Metric, gpus: &[Reading], value: impl Fn(&Reading) -> Option<f64>) -> Vec<Sample> {
        let told = gpus.iter().filter_map(|gpu| Some((gpu, value(gpu)?)));
        told.map(|(gpu, value)| sample(metric, self.gpu_labels(gpu), value)).collect()
    }

    fn gpu_memory(&self, metric: &Metric, gpus: &[Reading]) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (gpu, bytes) in gpus.iter().filter_map(|gpu| Some((gpu, gpu.used_free_bytes?))) {
            for (kind, bytes) in ["used", "free"].into_iter().zip(bytes) {
                let mut labels = self.gpu_labels(gpu);
                labels.push(kind.into());
                samples.push(sample(metric, labels, count(bytes)));
            }
        }
        samples
    }

    fn gpu_labels(&self, gpu: &Reading) -> Vec<String> {
        let mut labels = self.party_labels();
        labels.push(gpu.gpu.to_string());
        labels
    }

    fn party_labels(&self) -> Vec<String> {
        vec![self.job_id.clone(), self.party.index().to_string()]
    }

    fn lane_labels(&self, lane: usize) -> Vec<String> {
        let mut labels = self.party_labels();
        labels.push(lane.to_string());
        labels
    }

    fn with(&self, lane: usize, last: impl Into<String>) -> Vec<String> {
        let mut labels = self.lane_labels(lane);
        labels.push(last.into());
        labels
    }
}

/// When steps ended, and how long they took.
#[derive(Default)]
struct StepClock(Mutex<StepTimes>);

#[derive(Default)]
struct StepTimes {
    last: Option<(Instant, SystemTime)>,
    buckets: [u64; STEP_SECONDS_BUCKETS.len()],
    number: u64,
    seconds: f64,
}

impl StepClock {
    fn tick(&self) {
        let now = (Instant::now(), SystemTime::now());
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, _)) = times.last.replace(now) {
            let seconds = now.0.duration_since(before).as_secs_f64();
            times.number += 1;
            times.seconds += seconds;
            for (bucket, bound) in times.buckets.iter_mut().zip(STEP_SECONDS_BUCKETS) {
                *bucket += u64::from(seconds <= *bound);
            }
        }
    }

    fn last_unix_seconds(&self) -> f64 {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.last.and_then(|(_, at)| at.duration_since(UNIX_EPOCH).ok()).map_or(0.0, |since| since.as_secs_f64())
    }

    fn histogram(&self) -> Histogram {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = times.buckets.iter().copied().zip(STEP_SECONDS_BUCKETS.iter().copied());
        histogram(buckets, times.number, times.seconds)
    }
}

/// A histogram of cumulative counts and upper bounds.
fn histogram(buckets: impl Iterator<Item = (u64, f64)>, number: u64, seconds: f64) -> Histogram {
    let bucket = |(count, bound)| {
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(count);
        bucket.set_upper_bound(bound);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.map(bucket).collect());
    histogram.set_sample_count(number);
    histogram.set_sample_sum(seconds);
    histogram
}

fn sample(metric: &Metric, values: Vec<String>, value: f64) -> Sample {
    let mut sample = Sample::default();
    sample.set_label(labels(metric, values));
    match metric.kind {
        MetricKind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        }
        _ => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
    }
    sample
}

fn labels(metric: &Metric, values: Vec<String>) -> Vec<LabelPair> {
    assert_eq!(metric.labels.len(), values.len(), "labels of {}", metric.name);
    let pair = |(name, value): (&&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value(value);
        pair
    };
    metric.labels.iter().zip(values).map(pair).collect()
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus counts in doubles; 2^53 bytes are nine petabytes")]
fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Meter;
    use crate::runtime::gpus::Sampler;
    use crate::runtime::scrape::{self, MetricsServer};
    use crate::runtime::tests::setup;
    use std::collections::BTreeMap;
    use std::thread;
    use std::time::Duration;

    struct FixedLink;

    impl Link for FixedLink {
        fn rtt_seconds(&self, _: PartyId) -> f64 {
            0.00025
        }

        fn lost_packets(&self, _: PartyId) -> u64 {
            3
        }
    }

    /// Two GPUs, the second of which tells less.
    struct FixedGpus;

    impl Sampler for FixedGpus {
        fn sample(&mut self) -> Vec<Reading> {
            let first = Reading {
                gpu: 0,
                utilisation: Some(0.75),
                used_free_bytes: Some([6 << 30, 74 << 30]),
                power_watts: Some(412.5),
                temperature_celsius: Some(61.0),
                xid_errors: Some(2),
            };
            vec![first, Reading { gpu: 5, utilisation: Some(0.0), ..Reading::default() }]
        }
    }

    /// A lane that computes and waits for a while; returns its wall time.
    fn busy_lane(counters: Arc<LaneCounters>) -> std::ops::Range<f64> {
        let outer = Instant::now();
        let meter = Meter::new(counters);
        let start = Instant::now();
        meter.within(Phase::Compute, || {
            thread::sleep(Duration::from_millis(40));
            meter.within(Phase::OpenWait, || thread::sleep(Duration::from_millis(60)));
        });
        meter.sent(PartyId::ALL[0], 1000);
        let inner = start.elapsed().as_secs_f64();
        meter.switch(Phase::Idle);
        inner..outer.elapsed().as_secs_f64()
    }

    #[test]
    fn a_scrape_shows_exactly_the_table_and_phases_sum_to_wall_time() {
        let lanes: Vec<_> = (0..2).map(|_| Arc::new(LaneCounters::default())).collect();
        let metrics = Arc::new(Metrics::new(&setup(1, 2), lanes.clone(), Gpus::of(FixedGpus, Duration::ZERO)));
        metrics.connected(vec![Arc::new(FixedLink), Arc::new(FixedLink)]);
        let server = MetricsServer::start("127.0.0.1:0", metrics.clone()).unwrap();
        let walls: Vec<_> = lanes.into_iter().map(busy_lane).collect();
        (0..3).for_each(|_| metrics.step_ended());
        let page = scrape::get(server.address(), "/metrics").unwrap();

        let mut families = BTreeMap::new();
        for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            families.insert(name.to_owned(), kind.to_owned());
        }
        let table = telemetry::ALL.iter().map(|m| (m.name.to_owned(), format!("{:?}", m.kind).to_lowercase()));
        assert_eq!(families, table.collect());
        for (lane, wall) in walls.iter().enumerate() {
            let prefix = format!("mpc_phase_seconds_total{{job_id=\"test\",party=\"1\",lane=\"{lane}\",phase=");
            let phases: Vec<_> = page.lines().filter(|line| line.starts_with(&prefix)).collect();
            let sum: f64 = phases.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
            assert_eq!(phases.len(), Phase::ALL.len());
            assert!(wall.start <= sum + 1e-6 && sum <= wall.end + 1e-6, "{sum} of {wall:?}");
        }
        assert!(page.contains("mpc_sent_bytes_total{job_id=\"test\",party=\"1\",lane=\"0\",peer=\"0\"} 1000"));
        assert!(page.contains("mpc_step_duration_seconds_count{job_id=\"test\",party=\"1\",lane=\"0\"} 2"), "{page}");
    }

    #[test]
    fn gpus_show_what_they_tell_and_nothing_else() {
        let page = Metrics::new(&setup(1, 1), vec![], Gpus::of(FixedGpus, Duration::ZERO)).encode();
        let shown: Vec<_> = page.lines().filter(|line| line.starts_with("mpc_gpu_")).collect();
        let wanted = [
            "mpc_gpu_utilisation_ratio{job_id=\"test\",party=\"1\",gpu=\"0\"} 0.75",
            "mpc_gpu_utilisation_ratio{job_id=\"test\",party=\"1\",gpu=\"5\"} 0",
            "mpc_gpu_memory_bytes{job_id=\"test\",party=\"1\",gpu=\"0\",kind=\"used\"} 6442450944",
            "mpc_gpu_memory_bytes{job_id=\"test\",party=\"1\",gpu=\"0\",kind=\"free\"} 79456894976",
            "mpc_gpu_power_watts{job_id=\"test\",party=\"1\",gpu=\"0\"} 412.5",
            "mpc_gpu_temperature_celsius{job_id=\"test\",party=\"1\",gpu=\"0\"} 61",
            "mpc_gpu_xid_errors_total{job_id=\"test\",party=\"1\",gpu=\"0\"} 2",
        ];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn without_gpus_their_metrics_are_absent() {
        struct None;
        impl Sampler for None {
            fn sample(&mut self) -> Vec<Reading> {
                vec![]
            }
        }
        let page = Metrics::new(&setup(1, 1), vec![], Gpus::of(None, Duration::ZERO)).encode();
        assert!(page.contains("mpc_job_info") && !page.contains("mpc_gpu_"), "{page}");
    }
}
