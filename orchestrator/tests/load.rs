//! How much processor time a decision takes with a large fleet and a long line, and what it costs in memory. Prints
//! figures and judges none: `cargo test --release -p orchestrator --test load -- --ignored --nocapture`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on should stop and say where")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orchestrator::schedule::{Action, Consent, Event, Scheduler, Settings, State};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use shared::fleet::{
    Device, DeviceId, DeviceKind, HostId, HostReport, LeaseId, Link, MachineId, Millis, Requirements, Submission,
};
use shared::ids::{Epoch, JobDigest, JobId, PartyId};

const HOSTS: usize = 1_000;
const JOBS: u32 = 10_000;
const EVENTS: usize = 100_000;

/// Times of decisions by what caused them.
#[derive(Default)]
struct Times(BTreeMap<&'static str, Vec<Duration>>);

struct Load {
    scheduler: Scheduler,
    times: Times,
    now: Millis,
    rng: ChaCha8Rng,
    running: BTreeSet<JobDigest>,
    submitted: u32,
}

#[test]
#[ignore = "a measurement: run it alone, with --release"]
fn a_thousand_hosts_and_ten_thousand_jobs() {
    let mut load = Load {
        scheduler: Scheduler::new(Settings::default()),
        times: Times::default(),
        now: 1_000_000,
        rng: ChaCha8Rng::seed_from_u64(1),
        running: BTreeSet::new(),
        submitted: 0,
    };
    (0..HOSTS).for_each(|index| load.join(index));
    (0..HOSTS * 30).for_each(|index| load.measure(index));
    (0..JOBS).for_each(|_| load.submit());
    report("after submission", &load);
    load.times = Times::default();
    for turn in 0..EVENTS {
        load.now += 2;
        match turn % 100 {
            0 => load.event("tick", Event::Tick),
            1..3 => load.finish(),
            3 => load.submit(),
            4 if turn % 1_000 == 4 => load.drain(),
            _ => {
                load.event("heartbeat", Event::Heartbeat(host_id(turn % HOSTS)));
            }
        }
    }
    report("at work", &load);
}

impl Load {
    fn event(&mut self, cause: &'static str, event: Event) {
        let mut events = vec![(cause, event)];
        while let Some((cause, event)) = events.pop() {
            let began = processor_time();
            let actions = self.scheduler.step(self.now, event);
            self.times.0.entry(cause).or_default().push(processor_time().saturating_sub(began));
            drop(self.scheduler.take_changes());
            for action in actions {
                match action {
                    Action::Reserve { host, lease, .. } => events.push(("reserved", Event::Reserved(host, lease))),
                    Action::Commit { host, lease, .. } => events.push(("started", Event::Started(host, lease))),
                    Action::Release { host, lease, .. } => events.push(("released", Event::Released(host, lease))),
                    Action::AskConsent { job, party, .. } => {
                        let consent = Consent::Approved { first: Epoch(1), last: Epoch(99), until: Millis::MAX };
                        events.push(("consent", Event::Consent { job, party, consent }));
                    }
                    Action::Moved { job, state: State::Running, .. } => _ = self.running.insert(job),
                    _ => {}
                }
            }
        }
    }

    fn join(&mut self, index: usize) {
        let device = |gpu: usize| Device {
            id: DeviceId(format!("GPU-{index}-{gpu}").into()),
            kind: DeviceKind::Gpu,
            memory_bytes: 80 << 30,
            link_group: Some(0),
        };
        let report = HostReport {
            host: host_id(index),
            machine: MachineId(format!("machine-{index}").into()),
            parties: [PartyId::ALL[index % 3]].into(),
            version: "trefoil-test".into(),
            labels: BTreeSet::new(),
            devices: (0..8).map(device).collect(),
            held: Vec::new(),
        };
        self.event("join", Event::HostJoined(Box::new(report)));
    }

    fn measure(&mut self, index: usize) {
        let to = self.rng.random_range(0..HOSTS);
        let link = Link { round_trip_us: self.rng.random_range(50..40_000), megabits_per_second: 10_000 };
        self.event("measured", Event::Measured(host_id(index % HOSTS), host_id(to), link));
    }

    fn submit(&mut self) {
        self.submitted += 1;
        let mut digest = JobDigest([0; 32]);
        digest.0[..4].copy_from_slice(&self.submitted.to_be_bytes());
        let requirements = Requirements {
            lanes: [1, 2, 4, 8, 16][self.rng.random_range(0..5)],
            kind: DeviceKind::Gpu,
            // Many different wishes, so that little can be remembered from one job for the next.
            memory_bytes: self.rng.random_range(1..81) << 30,
            labels: BTreeSet::new(),
            one_host: self.rng.random(),
            colocate: false,
        };
        let submission = Submission {
            digest,
            name: JobId(format!("job-{}", self.submitted)),
            submitter: "load".into(),
            priority: self.rng.random_range(0..5),
            requirements,
            deadline: None,
            time_limit_ms: self.rng.random::<bool>().then(|| self.rng.random_range(60_000..86_400_000)),
            max_restarts: 3,
        };
        self.event("submit", Event::Submit(Box::new(submission)));
    }

    fn finish(&mut self) {
        let Some(&job) = self.running.iter().nth(self.rng.random_range(0..self.running.len().max(1))) else { return };
        self.running.remove(&job);
        let Some(attempt) = self.scheduler.job(&job).and_then(|job| job.attempt.clone()) else { return };
        for part in attempt.parts {
            let lease = LeaseId { job, epoch: attempt.epoch, party: part.party };
            self.event("done", Event::Done(part.host, lease));
        }
    }

    fn drain(&mut self) {
        let host = host_id(self.rng.random_range(0..HOSTS));
        self.event("drain", Event::Drain(host.clone(), true));
        self.event("drain", Event::Drain(host, false));
    }
}

/// What this thread has computed so far: what others do on the machine does not count.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

fn host_id(index: usize) -> HostId {
    HostId(format!("host-{index}").into())
}

fn report(when: &str, load: &Load) {
    let census = load.scheduler.census();
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = memory.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS unknown").to_owned();
    println!("{when}: {census:?}, {memory}");
    let all: Vec<Duration> = load.times.0.values().flatten().copied().collect();
    for (cause, times) in load.times.0.iter().map(|(cause, times)| (*cause, times.clone())) {
        print_line(cause, times);
    }
    print_line("all", all);
}

fn print_line(cause: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000].as_secs_f64() * 1e3;
    println!(
        "  {cause:>10}: {:>7} decisions, median {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, longest {:.3} ms",
        times.len(),
        at(500),
        at(990),
        at(999),
        at(1000)
    );
}
