//! Named histories, then random ones with invariants.

use proptest::prelude::*;
use shared::ids::Lane;

use super::*;

const DEADLINES: Deadlines = Deadlines { startup_ms: 5_000, progress_ms: 20_000 };

fn entry() -> RosterEntry {
    RosterEntry { certificate: vec![1], lanes: vec!["127.0.0.1:1".into()] }
}

fn p(index: usize) -> PartyId {
    PartyId::ALL[index]
}

/// A job whose parties are connected, at time 10.
fn running() -> Rendezvous {
    let mut job = Rendezvous::new(DEADLINES);
    assert_eq!(job.step(1, Event::Start).len(), 3);
    PartyId::ALL.into_iter().for_each(|party| assert!(job.step(2, Event::PartySpawned(party)).is_empty()));
    let rosters: Vec<usize> =
        PartyId::ALL.into_iter().map(|party| job.step(3, Event::Listening(party, entry())).len()).collect();
    assert_eq!(rosters, [0, 0, 3], "the roster leaves when all three listen");
    PartyId::ALL.into_iter().for_each(|party| assert!(job.step(10, Event::Connected(party)).is_empty()));
    assert_eq!(job.state(), State::Running);
    job
}

fn complaint(peer: usize) -> Failure {
    let reason = "no message for 8 s".into();
    Failure { lane: Some(Lane(2)), peer: Some(p(peer)), step: Some(7), reason, kind: FailureKind::Connection }
}

/// Feeds exits of all parties after `from` and returns the failure.
fn ending(mut job: Rendezvous, from: Millis) -> Ending {
    let mut actions = Vec::new();
    for tick in 0..100 {
        actions.extend(job.step(from + 100 * tick, Event::Tick));
        if actions.iter().any(|action| matches!(action, Action::Stop(_) | Action::Finish(_))) {
            break;
        }
    }
    for party in PartyId::ALL {
        actions.extend(job.step(from + 11_000, Event::Exited(party, "exit code 0".into())));
    }
    let mut endings = actions.into_iter().filter_map(|action| match action {
        Action::Finish(ending) => Some(*ending),
        _ => None,
    });
    endings.next_back().expect("the job ends")
}

#[test]
fn three_reports_succeed() {
    let mut job = running();
    job.step(20, Event::Progress(p(0), 5, 9));
    for party in PartyId::ALL {
        job.step(30, Event::Finished(party, Box::default()));
    }
    assert_eq!(job.state(), State::Succeeded);
    let ending = ending(job, 31);
    assert!(matches!(ending.outcome, Outcome::Succeeded(_)));
    assert_eq!(ending.step, Some(5));
}

#[test]
fn a_death_outranks_the_complaints_about_it_and_takes_lane_and_step_from_them() {
    let mut job = running();
    job.step(20, Event::Progress(p(0), 6, 9));
    job.step(30, Event::Failed(p(0), complaint(1)));
    job.step(31, Event::Failed(p(2), complaint(1)));
    job.step(32, Event::Exited(p(1), "killed by signal 9".into()));
    let Outcome::Failed(failure) = ending(job, 33).outcome else { panic!("the job fails") };
    assert_eq!(failure.party, p(1));
    assert_eq!((failure.failure.lane, failure.failure.step), (Some(Lane(2)), Some(7)));
    assert!(failure.to_string().starts_with("P1, lane 2, step 7: its process ended"), "{failure}");
}

#[test]
fn a_complaint_alone_names_the_peer_and_who_noticed() {
    let mut job = running();
    job.step(30, Event::Failed(p(0), complaint(2)));
    let Outcome::Failed(failure) = ending(job, 31).outcome else { panic!("the job fails") };
    assert_eq!(failure.to_string(), "P2, lane 2, step 7: no message for 8 s (noticed by P0)");
    assert_eq!(failure.failure.kind, FailureKind::Connection);
}

#[test]
fn a_dead_party_ends_the_job_within_ten_seconds_even_if_the_others_hang() {
    let mut job = running();
    let mut now = 1_000;
    let mut actions = job.step(now, Event::Exited(p(1), "killed by signal 9".into()));
    while !actions.iter().any(|action| matches!(action, Action::Finish(_))) {
        now += 100;
        actions.extend(job.step(now, Event::Tick));
    }
    assert!(now <= 11_000, "{now}");
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Kill(_))).count(), 2);
}

#[test]
fn deadlines_name_who_is_late() {
    let mut job = Rendezvous::new(DEADLINES);
    job.step(0, Event::Start);
    PartyId::ALL.into_iter().for_each(|party| drop(job.step(2, Event::PartySpawned(party))));
    job.step(3, Event::Listening(p(0), entry()));
    job.step(3, Event::Listening(p(2), entry()));
    let Outcome::Failed(failure) = ending(job, 5_100).outcome else { panic!("the job fails") };
    assert_eq!((failure.party, failure.failure.kind), (p(1), FailureKind::Timeout));
    assert!(failure.to_string().contains("before the first step: it does not listen after 5 s"), "{failure}");

    let mut job = running();
    job.step(100, Event::Progress(p(0), 3, 9));
    let Outcome::Failed(failure) = ending(job, 20_200).outcome else { panic!("the job fails") };
    assert!(failure.to_string().contains("step 3: no progress for 20 s"), "{failure}");
}

#[test]
fn an_interrupt_stops_all_and_kills_who_does_not_listen() {
    let mut job = running();
    let stops = job.step(50, Event::Interrupt);
    assert_eq!(stops.len(), 3);
    assert!(job.step(60, Event::Interrupt).is_empty(), "asked once");
    job.step(70, Event::Exited(p(0), String::new()));
    let kills = job.step(50 + STOP_GRACE_MS, Event::Tick);
    assert_eq!(kills.len(), 2, "{kills:?}");
    job.step(4_000, Event::Exited(p(1), String::new()));
    let last = job.step(4_001, Event::Exited(p(2), String::new()));
    assert!(matches!(last.as_slice(), [Action::Finish(ending)] if matches!(ending.outcome, Outcome::Cancelled)));
}

#[test]
fn a_process_that_cannot_start_fails_the_job() {
    let mut job = Rendezvous::new(DEADLINES);
    job.step(0, Event::Start);
    job.step(1, Event::PartySpawned(p(0)));
    job.step(1, Event::SpawnFailed(p(1), "no such file".into()));
    job.step(1, Event::PartySpawned(p(2)));
    let Outcome::Failed(failure) = ending(job, 2).outcome else { panic!("the job fails") };
    assert!(failure.to_string().starts_with("P1, before the first step: its process could not be started"));
}

fn event() -> impl Strategy<Value = Event> {
    let party = || (0_usize..3).prop_map(p);
    prop_oneof![
        4 => party().prop_map(|party| Event::Listening(party, entry())),
        4 => party().prop_map(Event::Connected),
        4 => (party(), 0_usize..20).prop_map(|(party, step)| Event::Progress(party, step, 20)),
        3 => party().prop_map(|party| Event::Finished(party, Box::default())),
        1 => (party(), 0_usize..3).prop_map(|(party, peer)| Event::Failed(party, complaint(peer))),
        1 => party().prop_map(|party| Event::Exited(party, "exit code 1".into())),
        1 => party().prop_map(|party| Event::Garbled(party, "nonsense".into())),
        1 => Just(Event::Interrupt),
        4 => Just(Event::Tick),
    ]
}

proptest! {
    /// Parties do anything, in any order, at any time. After it the world falls silent.
    #[test]
    fn every_history_ends_once(
        history in prop::collection::vec((event(), 0_u64..3_000), 0..60),
        spawns in prop::collection::vec(prop::bool::weighted(0.9), 3),
        obedient in prop::bool::ANY,
    ) {
        let mut job = Rendezvous::new(DEADLINES);
        let (mut now, mut pending, mut listening) = (5, vec![Event::Start], [false; 3]);
        let mut history = history.into_iter();
        let (mut rosters, mut endings, mut stopped) = (0, 0, [false; 3]);
        let mut silent_for = 0;
        while silent_for < 60_000 {
            let event = pending.pop().or_else(|| history.next().map(|(event, wait)| { now += wait; event }));
            let event = event.unwrap_or_else(|| { now += 100; silent_for += 100; Event::Tick });
            if let Event::Listening(party, _) = &event {
                listening[party.index()] |= job.state() == State::Starting;
            }
            let ended = endings > 0;
            for action in job.step(now, event) {
                prop_assert!(!ended, "nothing happens after the end");
                match action {
                    Action::Spawn(party) => pending.push(if spawns[party.index()] {
                        Event::PartySpawned(party)
                    } else {
                        Event::SpawnFailed(party, "no".into())
                    }),
                    Action::SendRoster(..) => {
                        rosters += 1;
                        prop_assert_eq!(listening, [true; 3]);
                    }
                    Action::Stop(party) => {
                        prop_assert!(!std::mem::replace(&mut stopped[party.index()], true), "asked to stop once");
                        if obedient {
                            pending.push(Event::Exited(party, String::new()));
                        }
                    }
                    Action::Kill(party) => prop_assert!(stopped[party.index()], "asked before killed"),
                    Action::Finish(ending) => {
                        endings += 1;
                        prop_assert_eq!(matches!(ending.outcome, Outcome::Succeeded(_)), job.state() == State::Succeeded);
                    }
                }
            }
        }
        prop_assert_eq!(endings, 1);
        prop_assert!(rosters == 0 || rosters == 3);
    }
}
