//! One claim each, on small fleets. Random histories are in `tests/simulation`.

use std::collections::BTreeSet;

use shared::fleet::{
    Device, DeviceId, DeviceKind, Held, HeldPhase, HostReport, LeaseId, Link, MachineId, Requirements, Submission,
};
use shared::ids::{Epoch, JobId};

use proptest::prelude::*;

use super::*;

const APPROVED: Consent = Consent::Approved { first: Epoch(1), last: Epoch(100), until: Millis::MAX };

/// A scheduler whose agents do as they are told.
struct Fleet {
    scheduler: Scheduler,
    now: Millis,
    /// What was asked of agents and not answered, if they are told to wait.
    unanswered: Option<Vec<Action>>,
    seen: Vec<Action>,
}

impl Fleet {
    /// One host for each party, with so many GPUs.
    fn new(gpus: usize) -> Self {
        let scheduler = Scheduler::new(Settings::default());
        let mut fleet = Self { scheduler, now: 1_000, unanswered: None, seen: Vec::new() };
        (0..3).for_each(|party| fleet.join(&format!("h{party}"), party, gpus, None));
        fleet
    }

    fn join(&mut self, name: &str, party: usize, gpus: usize, group: Option<usize>) {
        self.event(Event::HostJoined(Box::new(report(name, party, gpus, group))));
    }

    fn event(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let actions = self.scheduler.step(self.now, event);
            for action in &actions {
                match (&mut self.unanswered, action) {
                    (_, Action::AskConsent { .. } | Action::Moved { .. } | Action::Accepted { .. }) => {}
                    (Some(unanswered), action) => unanswered.push(action.clone()),
                    (None, Action::Reserve { host, lease, .. }) => events.push(Event::Reserved(host.clone(), *lease)),
                    (None, Action::Commit { host, lease, .. }) => events.push(Event::Started(host.clone(), *lease)),
                    (None, Action::Release { host, lease, .. }) => events.push(Event::Released(host.clone(), *lease)),
                    (None, _) => {}
                }
            }
            self.seen.extend(actions);
        }
    }

    fn submit(&mut self, submission: Submission) -> JobDigest {
        let job = submission.digest;
        self.event(Event::Submit(Box::new(submission)));
        for party in PartyId::ALL {
            self.event(Event::Consent { job, party, consent: APPROVED });
        }
        job
    }

    fn finish(&mut self, job: JobDigest) {
        let attempt = self.scheduler.job(&job).unwrap().attempt.clone().unwrap();
        for part in attempt.parts {
            self.event(Event::Done(part.host, LeaseId { job, epoch: attempt.epoch, party: part.party }));
        }
    }

    fn wait(&mut self, ms: Millis) {
        for _ in 0..ms.div_ceil(1_000) {
            self.now += 1_000;
            let hosts: Vec<HostId> = self.scheduler.hosts().map(|host| host.id.clone()).collect();
            hosts.into_iter().for_each(|host| self.event(Event::Heartbeat(host)));
            self.event(Event::Tick);
        }
    }

    fn state(&self, job: JobDigest) -> State {
        self.scheduler.job(&job).unwrap().state
    }

    fn reason(&self, job: JobDigest) -> String {
        self.scheduler.reason(self.scheduler.job(&job).unwrap()).to_string()
    }

    fn hosts_of(&self, job: JobDigest) -> Vec<String> {
        let attempt = self.scheduler.job(&job).unwrap().attempt.clone().unwrap();
        attempt.parts.iter().map(|part| part.host.to_string()).collect()
    }

    fn told(&self, what: impl Fn(&Action) -> bool) -> usize {
        self.seen.iter().filter(|action| what(action)).count()
    }
}

fn report(name: &str, party: usize, gpus: usize, group: Option<usize>) -> HostReport {
    let device = |index| Device {
        id: DeviceId(format!("{name}-gpu{index}").into()),
        kind: DeviceKind::Gpu,
        memory_bytes: 80 << 30,
        link_group: group.map(|size| u16::try_from(index / size).unwrap()),
    };
    HostReport {
        host: HostId(name.into()),
        machine: MachineId(format!("machine of {name}").into()),
        parties: [PartyId::ALL[party]].into(),
        version: "test".into(),
        labels: BTreeSet::new(),
        devices: (0..gpus).map(device).collect(),
        held: Vec::new(),
    }
}

fn job(number: u8, lanes: u16) -> Submission {
    Submission {
        digest: JobDigest([number; 32]),
        name: JobId(format!("job-{number}")),
        submitter: "ada".into(),
        priority: 0,
        requirements: Requirements {
            lanes,
            kind: DeviceKind::Gpu,
            memory_bytes: 1 << 30,
            labels: BTreeSet::new(),
            one_host: true,
            colocate: false,
        },
        deadline: None,
        time_limit_ms: None,
        max_restarts: 2,
    }
}

#[test]
fn a_job_goes_from_submission_to_success() {
    let mut fleet = Fleet::new(4);
    let job = fleet.submit(job(1, 4));
    assert_eq!(fleet.state(job), State::Running);
    fleet.finish(job);
    assert_eq!(fleet.state(job), State::Succeeded);
    let states = fleet.seen.iter().filter_map(|action| match action {
        Action::Moved { state, .. } => Some(state.name()),
        _ => None,
    });
    let expected = ["awaiting-consent", "pending", "reserving", "starting", "running", "succeeded"];
    assert_eq!(states.collect::<Vec<_>>(), expected);
    assert!(fleet.scheduler.hosts().all(|host| host.leases.is_empty()));
}

#[test]
fn a_digest_is_one_job_however_often_it_is_submitted() {
    let mut fleet = Fleet::new(4);
    let first = fleet.submit(job(1, 1));
    fleet.submit(job(1, 1));
    assert_eq!(fleet.told(|action| matches!(action, Action::Accepted { known: true, .. })), 1);
    assert_eq!((fleet.scheduler.jobs().count(), fleet.state(first)), (1, State::Running));
}

#[test]
fn a_waiting_job_names_party_and_lack() {
    let mut fleet = Fleet::new(4);
    let taken = report("h2b", 2, 1, None);
    fleet.event(Event::HostJoined(Box::new(taken)));
    fleet.event(Event::Drain(HostId("h2b".into()), true));
    fleet.submit(job(1, 2));
    let waits = fleet
        .submit(Submission { requirements: Requirements { one_host: false, ..job(2, 4).requirements }, ..job(2, 4) });
    assert_eq!(fleet.state(waits), State::Pending);
    let reason = fleet.reason(waits);
    assert!(reason.contains("P2: needs 4 GPUs, has 2 free, 2 in use, 1 drained"), "{reason}");
}

#[test]
fn nothing_is_held_when_one_party_refuses() {
    let mut fleet = Fleet::new(4);
    fleet.unanswered = Some(Vec::new());
    let job = fleet.submit(job(1, 4));
    let leases: Vec<(HostId, LeaseId)> = fleet
        .unanswered
        .take()
        .unwrap()
        .into_iter()
        .filter_map(|action| match action {
            Action::Reserve { host, lease, .. } => Some((host, lease)),
            _ => None,
        })
        .collect();
    assert_eq!(leases.len(), 3);
    for (host, lease) in &leases[..2] {
        fleet.event(Event::Reserved(host.clone(), *lease));
    }
    fleet.event(Event::Refused(leases[2].0.clone(), leases[2].1, "another user's process".into()));
    assert_eq!(fleet.told(|action| matches!(action, Action::Commit { .. })), 0);
    assert!(fleet.scheduler.hosts().all(|host| host.leases.is_empty()));
    assert!(fleet.reason(job).contains("P2: h2 refused: another user's process"), "{}", fleet.reason(job));
    fleet.wait(61_000);
    assert_eq!((fleet.state(job), fleet.scheduler.job(&job).unwrap().restarts), (State::Running, 0));
}

#[test]
fn a_reservation_that_nobody_answers_ends_after_its_hold() {
    let mut fleet = Fleet::new(4);
    fleet.unanswered = Some(Vec::new());
    let job = fleet.submit(job(1, 4));
    fleet.wait(29_000);
    assert_eq!(fleet.state(job), State::Reserving);
    assert_eq!(fleet.reason(job), "waits for the reservation: P0 on h0, P1 on h1, P2 on h2");
    fleet.wait(2_000);
    assert_eq!(fleet.state(job), State::Pending);
    assert_eq!(fleet.told(|action| matches!(action, Action::Release { .. })), 3);
}

#[test]
fn priority_goes_first_then_order_of_submission() {
    let mut fleet = Fleet::new(4);
    let running = fleet.submit(job(1, 4));
    let low = fleet.submit(job(2, 4));
    let high = fleet.submit(Submission { priority: 5, ..job(3, 4) });
    let low_too = fleet.submit(job(4, 4));
    for next in [high, low, low_too] {
        let before = fleet.scheduler.jobs().find(|job| job.state == State::Running).unwrap().digest();
        fleet.finish(before);
        assert_eq!(fleet.state(next), State::Running);
    }
    assert_eq!(fleet.state(running), State::Succeeded);
}

#[test]
fn small_jobs_pass_a_large_one_only_beside_what_it_needs() {
    let mut fleet = Fleet::new(4);
    (0..3).for_each(|party| fleet.join(&format!("small{party}"), party, 2, None));
    let first = fleet.submit(job(1, 2));
    assert_eq!(fleet.hosts_of(first), ["small0", "small1", "small2"], "the smallest gap that fits");
    let second = fleet.submit(job(2, 2));
    let large = fleet.submit(job(3, 4));
    let small = fleet.submit(job(4, 2));
    assert_eq!((fleet.state(large), fleet.state(small)), (State::Pending, State::Pending));
    assert_eq!(fleet.reason(small), "devices are kept for job-3, which comes before");
    fleet.finish(first);
    assert_eq!((fleet.state(large), fleet.state(small)), (State::Pending, State::Running));
    fleet.finish(second);
    assert_eq!(fleet.state(large), State::Running);
}

#[test]
fn a_job_that_ends_in_time_may_use_what_is_kept() {
    let mut fleet = Fleet::new(4);
    let long = fleet.submit(Submission { time_limit_ms: Some(3_600_000), ..job(1, 2) });
    let large = fleet.submit(job(2, 4));
    let brief = fleet.submit(Submission { time_limit_ms: Some(600_000), ..job(3, 2) });
    let too_long = fleet.submit(Submission { time_limit_ms: Some(3_600_000), ..job(4, 1) });
    assert_eq!([long, large, brief, too_long].map(|job| fleet.state(job)), {
        [State::Running, State::Pending, State::Running, State::Pending]
    });
}

#[test]
fn a_quota_is_kept_and_named() {
    let mut fleet = Fleet::new(4);
    fleet.event(Event::SetQuota(PartyId::ALL[1], Quota { devices: Some(3), jobs: None }));
    fleet.submit(job(1, 2));
    let second = fleet.submit(job(2, 2));
    assert_eq!(fleet.reason(second), "P1: needs 2 of its quota of 3 devices, 2 are in use");
    fleet.event(Event::SetQuota(PartyId::ALL[1], Quota::default()));
    assert_eq!(fleet.state(second), State::Running);
}

#[test]
fn lanes_of_a_party_share_an_nvlink_group() {
    let mut fleet = Fleet::new(0);
    (0..3).for_each(|party| fleet.join(&format!("plain{party}"), party, 2, None));
    (0..3).for_each(|party| fleet.join(&format!("linked{party}"), party, 4, Some(2)));
    let blocker = fleet.submit(job(1, 1));
    assert!(fleet.hosts_of(blocker)[0].starts_with("plain"));
    let pair = fleet.submit(job(2, 2));
    assert_eq!(fleet.hosts_of(pair), ["linked0", "linked1", "linked2"]);
    let attempt = fleet.scheduler.job(&pair).unwrap().attempt.clone().unwrap();
    let names: Vec<String> = attempt.parts[0].devices().iter().map(DeviceId::to_string).collect();
    assert_eq!(names, ["linked0-gpu0", "linked0-gpu1"]);
}

#[test]
fn parties_meet_where_the_network_is_short() {
    let mut fleet = Fleet::new(0);
    for site in ["east", "west"] {
        (0..3).for_each(|party| fleet.join(&format!("{site}{party}"), party, 2, None));
    }
    let link = |ms: u32| Link { round_trip_us: ms * 1_000, megabits_per_second: 10_000 };
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        for (from, to, ms) in [("east", "east", 9), ("east", "west", 30), ("west", "east", 30), ("west", "west", 1)] {
            let [from, to] = [format!("{from}{a}"), format!("{to}{b}")].map(|host| HostId(host.as_str().into()));
            fleet.event(Event::Measured(from, to, link(ms)));
        }
    }
    let near = fleet.submit(job(1, 2));
    assert_eq!(fleet.hosts_of(near), ["west0", "west1", "west2"]);
    fleet.finish(near);
    // Four lanes need both sites; rank r of all parties is at one of them.
    let wide = fleet
        .submit(Submission { requirements: Requirements { one_host: false, ..job(2, 4).requirements }, ..job(2, 4) });
    let parts = fleet.scheduler.job(&wide).unwrap().attempt.clone().unwrap().parts;
    for rank in 0..4 {
        let at = parts.iter().filter(|part| part.lanes.iter().any(|(lane, _)| lane.0 == rank));
        let sites: BTreeSet<String> = at.map(|part| part.host.to_string()[..4].to_owned()).collect();
        assert_eq!(sites.len(), 1, "lane {rank} spans {sites:?}");
    }
}

#[test]
fn a_party_that_says_no_ends_the_job_and_is_named() {
    let mut fleet = Fleet::new(4);
    let job = fleet.submit(job(1, 4));
    let consent = Consent::Denied("the study ended".into());
    fleet.event(Event::Consent { job, party: PartyId::ALL[1], consent });
    assert_eq!((fleet.state(job), fleet.reason(job).as_str()), (State::Failed, "P1: denied: the study ended"));
    assert!(fleet.scheduler.hosts().all(|host| host.leases.is_empty()));
}

#[test]
fn an_attempt_beyond_the_consent_asks_again() {
    let mut fleet = Fleet::new(4);
    let job = fleet.submit(job(1, 4));
    let once = Consent::Approved { first: Epoch(1), last: Epoch(1), until: Millis::MAX };
    fleet.event(Event::Consent { job, party: PartyId::ALL[2], consent: once });
    let lease = LeaseId { job, epoch: Epoch(1), party: PartyId::ALL[0] };
    fleet.event(Event::Released(HostId("h0".into()), lease));
    fleet.wait(3_000);
    assert_eq!((fleet.state(job), fleet.reason(job).as_str()), (State::AwaitingConsent, "P2: has not answered"));
    fleet.event(Event::Consent { job, party: PartyId::ALL[2], consent: APPROVED });
    assert_eq!((fleet.state(job), fleet.scheduler.job(&job).unwrap().epoch), (State::Running, Epoch(2)));
}

#[test]
fn a_silent_host_ends_the_attempt_and_the_job_moves() {
    let mut fleet = Fleet::new(4);
    let job = fleet.submit(job(1, 4));
    fleet.join("h1b", 1, 4, None);
    fleet.event(Event::HostAway(HostId("h1".into())));
    fleet.wait(9_000);
    assert_eq!(fleet.state(job), State::Running, "it may come back");
    fleet.wait(5_000);
    assert_eq!((fleet.state(job), fleet.hosts_of(job)[1].as_str()), (State::Running, "h1b"));
    // What still runs there is told to stop when it is heard of again, and only then its devices are free.
    let lease = LeaseId { job, epoch: Epoch(1), party: PartyId::ALL[1] };
    let devices = (0..4).map(|index| DeviceId(format!("h1-gpu{index}").into())).collect();
    let held = vec![Held { lease, devices, phase: HeldPhase::Running }];
    fleet.event(Event::HostJoined(Box::new(HostReport { held, ..report("h1", 1, 4, None) })));
    assert_eq!(fleet.told(|action| matches!(action, Action::Release { lease: old, .. } if *old == lease)), 1);
    assert!(fleet.scheduler.host(&HostId("h1".into())).unwrap().leases.is_empty());
}

#[test]
fn no_attempt_begins_while_the_one_before_may_still_run_whole() {
    let mut fleet = Fleet::new(4);
    let job = fleet.submit(job(1, 4));
    (0..3).for_each(|party| fleet.join(&format!("spare{party}"), party, 4, None));
    (0..3).for_each(|party| fleet.event(Event::HostAway(HostId(format!("h{party}").into()))));
    // Its hosts may see each other though the orchestrator sees none of them.
    fleet.wait(20_000);
    assert_eq!(fleet.state(job), State::Recovering);
    assert!(fleet.reason(job).contains("may still run, and no host can tell: P0 on h0, P1 on h1, P2 on h2"));
    // Without one of its parties it computes nothing.
    fleet.event(Event::HostJoined(Box::new(report("h1", 1, 4, None))));
    assert_eq!((fleet.state(job), fleet.hosts_of(job)[0].as_str()), (State::Running, "spare0"));
}

#[test]
fn a_job_fails_after_its_restarts_and_says_of_what() {
    let mut fleet = Fleet::new(4);
    let job = fleet.submit(job(1, 4));
    for epoch in 1..=3 {
        let lease = LeaseId { job, epoch: Epoch(epoch), party: PartyId::ALL[2] };
        let failure =
            shared::fleet::AttemptFailure { reason: "out of memory".into(), permanent: false, lane: None, peer: None };
        fleet.event(Event::Failed(HostId("h2".into()), lease, failure));
        fleet.wait(10_000);
    }
    assert_eq!(fleet.state(job), State::Failed);
    assert_eq!(fleet.reason(job), "failed after 2 restarts: P2: on h2: out of memory");
}

#[test]
fn an_orchestrator_that_restarts_disturbs_nobody() {
    let mut fleet = Fleet::new(4);
    let running = fleet.submit(job(1, 2));
    fleet.unanswered = Some(Vec::new());
    let starting = fleet.submit(job(2, 2));
    let changes = fleet.scheduler.take_changes();
    let records = Records {
        jobs: changes.jobs.into_values().flatten().collect(),
        hosts: changes.hosts.into_values().flatten().collect(),
        meta: changes.meta.unwrap(),
    };
    let before = fleet.scheduler.job(&running).unwrap().attempt.clone();
    (fleet.scheduler, fleet.unanswered) = (Scheduler::restore(Settings::default(), records), None);
    fleet.event(Event::Restarted);
    fleet.seen.clear();
    for party in 0..3 {
        let host = format!("h{party}");
        let held = |job, phase, first: usize| Held {
            lease: LeaseId { job, epoch: Epoch(1), party: PartyId::ALL[party] },
            devices: (first..first + 2).map(|index| DeviceId(format!("{host}-gpu{index}").into())).collect(),
            phase,
        };
        let held = vec![held(running, HeldPhase::Running, 0), held(starting, HeldPhase::Reserved, 2)];
        fleet.event(Event::HostJoined(Box::new(HostReport { held, ..report(&host, party, 4, None) })));
    }
    assert_eq!(fleet.scheduler.job(&running).unwrap().attempt, before);
    assert_eq!([running, starting].map(|job| fleet.state(job)), [State::Running; 2]);
    assert_eq!(fleet.told(|action| matches!(action, Action::Release { .. } | Action::Reserve { .. })), 0);
}

/// What agents may say if they lie: any host about any lease, with any devices.
fn lie() -> impl Strategy<Value = Event> {
    let host = (0_usize..4).prop_map(|index| HostId(format!("h{index}").into()));
    let lease = (0_u8..3, 0_u64..4, 0_usize..3).prop_map(|(job, epoch, party)| LeaseId {
        job: JobDigest([job; 32]),
        epoch: Epoch(epoch),
        party: PartyId::ALL[party],
    });
    let failure = (any::<String>(), any::<bool>()).prop_map(|(reason, permanent)| shared::fleet::AttemptFailure {
        reason,
        permanent,
        lane: None,
        peer: None,
    });
    let phase = prop_oneof![
        Just(HeldPhase::Reserved),
        Just(HeldPhase::Running),
        Just(HeldPhase::Done),
        failure.clone().prop_map(HeldPhase::Failed),
    ];
    let device = (0_usize..4, 0_usize..5).prop_map(|(host, gpu)| DeviceId(format!("h{host}-gpu{gpu}").into()));
    let held = (lease.clone(), prop::collection::vec(device, 0..5), phase).prop_map(|(lease, devices, phase)| Held {
        lease,
        devices,
        phase,
    });
    let held = prop::collection::vec(held, 0..4);
    let on = (host.clone(), lease).boxed();
    prop_oneof![
        Just(Event::Tick),
        host.clone().prop_map(Event::HostAway),
        host.clone().prop_map(Event::Heartbeat),
        host.prop_map(Event::HostForgotten),
        (0_usize..4, 0_usize..3, held).prop_map(|(index, party, held)| {
            Event::HostJoined(Box::new(HostReport { held, ..report(&format!("h{index}"), party, 4, Some(2)) }))
        }),
        on.clone().prop_map(|(host, lease)| Event::Reserved(host, lease)),
        on.clone().prop_map(|(host, lease)| Event::Started(host, lease)),
        on.clone().prop_map(|(host, lease)| Event::Done(host, lease)),
        on.clone().prop_map(|(host, lease)| Event::Released(host, lease)),
        (on.clone(), any::<u64>()).prop_map(|((host, lease), step)| Event::Progress(host, lease, step, 3)),
        (on.clone(), any::<String>()).prop_map(|((host, lease), why)| Event::Refused(host, lease, why)),
        (on, failure).prop_map(|((host, lease), failure)| Event::Failed(host, lease, failure)),
    ]
}

proptest! {
    /// Agents that lie harm their own party's jobs, and nobody's bookkeeping.
    #[test]
    fn whatever_agents_say_the_books_agree(lies in prop::collection::vec((lie(), 0_u64..20_000), 0..80)) {
        let mut fleet = Fleet::new(4);
        fleet.unanswered = Some(Vec::new());
        (0..3).for_each(|number| _ = fleet.submit(job(number, 2)));
        for (event, ms) in lies {
            fleet.now += ms;
            fleet.event(event);
            for party in PartyId::ALL {
                let leases = fleet.scheduler.hosts().flat_map(|host| &host.leases).filter(|lease| lease.id.party == party);
                let devices: usize = leases.map(|lease| lease.devices.len()).sum();
                prop_assert_eq!(fleet.scheduler.hosts.used(party).0 as usize, devices);
            }
            for job in fleet.scheduler.jobs() {
                prop_assert!(!fleet.scheduler.reason(job).to_string().is_empty());
                for part in job.attempt.iter().flat_map(|attempt| &attempt.parts) {
                    let id = LeaseId { job: job.digest(), epoch: job.epoch, party: part.party };
                    let host = fleet.scheduler.host(&part.host).unwrap();
                    prop_assert!(host.leases.iter().any(|lease| lease.id == id), "{} has no lease of {:?}", host.id, id);
                }
            }
        }
    }
}
