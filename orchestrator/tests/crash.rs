//! An orchestrator killed at any moment finds its state whole: nothing that it was told is on disk is missing, and jobs
//! and hosts agree.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on should stop and say where")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use orchestrator::schedule::{Action, Consent, Event, Records, Scheduler, Settings};
use orchestrator::store::{JournalEntry, Store};
use shared::fleet::{
    Device, DeviceId, DeviceKind, HostId, HostReport, LeaseId, MachineId, Millis, Requirements, Submission,
};
use shared::ids::{Epoch, JobDigest, JobId, PartyId};

/// Set for the process that writes until it is killed: the database.
const VARIABLE: &str = "TREFOIL_CRASH_TEST_DATABASE";
const KILLS: u64 = 12;

#[test]
fn a_killed_orchestrator_finds_its_state_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.db");
    let mut saved = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_it_is_killed", "--nocapture"])
            .env(VARIABLE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = thread::spawn(move || {
            let told = output.lines().map_while(Result::ok);
            told.filter_map(|line| line.strip_prefix("saved ")?.parse::<u64>().ok()).last()
        });
        thread::sleep(Duration::from_millis(150 + 37 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = reader.join().unwrap();
        let store = Store::open(&path).unwrap();
        store.check().unwrap();
        let records = store.load().unwrap();
        if let Some(told) = told {
            assert!(records.meta.next_sequence >= told, "{told} were saved, {} are there", records.meta.next_sequence);
        }
        agree(&records);
        saved = records.meta.next_sequence;
    }
    println!("{saved} jobs saved across {KILLS} kills");
    assert!(saved > KILLS, "hardly anything was written: {saved}");
}

/// Every part of an attempt has its lease at its host, and every lease that is not to end has its attempt.
fn agree(records: &Records) {
    let mut parts = BTreeSet::new();
    for job in &records.jobs {
        for part in job.attempt.iter().flat_map(|attempt| &attempt.parts) {
            parts.insert((part.host.clone(), LeaseId { job: job.digest(), epoch: job.epoch, party: part.party }));
        }
    }
    let mut leases = BTreeSet::new();
    for host in &records.hosts {
        let lasting = host.leases.iter().filter(|lease| lease.releasing_since.is_none());
        leases.extend(lasting.map(|lease| (host.id.clone(), lease.id)));
    }
    assert_eq!(parts, leases);
}

#[test]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(VARIABLE) else { return };
    let mut store = Store::open(Path::new(&path)).unwrap();
    let settings = Settings { ended_jobs_max: 20, ..Settings::default() };
    let mut scheduler = Scheduler::restore(settings, store.load().unwrap());
    let mut now = 1_000_000;
    let mut apply = |event: Event| {
        now += 1;
        let actions = scheduler.step(now, event);
        let (changes, journal) = (scheduler.take_changes(), JournalEntry::of_actions(now, &actions));
        store.save(&changes, &journal).unwrap();
        (actions, changes.meta.map(|meta| meta.next_sequence))
    };
    apply(Event::Restarted);
    (0..3).for_each(|party| _ = apply(Event::HostJoined(Box::new(report(party)))));
    loop {
        let mut number = 0;
        let mut events = vec![Event::Submit(Box::new(submission(std::process::id(), now_digest())))];
        while let Some(event) = events.pop() {
            let (actions, next) = apply(event);
            number = next.unwrap_or(number);
            events.extend(actions.into_iter().filter_map(answer));
        }
        let mut output = std::io::stdout().lock();
        writeln!(output, "saved {number}").unwrap();
        output.flush().unwrap();
    }
}

/// A digest that no other submission has.
fn now_digest() -> [u8; 16] {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos().to_be_bytes()
}

fn answer(action: Action) -> Option<Event> {
    match action {
        Action::AskConsent { job, party, .. } => {
            let consent = Consent::Approved { first: Epoch(1), last: Epoch(9), until: Millis::MAX };
            Some(Event::Consent { job, party, consent })
        }
        Action::Reserve { host, lease, .. } => Some(Event::Reserved(host, lease)),
        Action::Commit { host, lease, .. } => Some(Event::Done(host, lease)),
        Action::Release { host, lease, .. } => Some(Event::Released(host, lease)),
        _ => None,
    }
}

fn submission(process: u32, unique: [u8; 16]) -> Submission {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&process.to_be_bytes());
    digest[4..20].copy_from_slice(&unique);
    Submission {
        digest: JobDigest(digest),
        name: JobId("crash".into()),
        submitter: "ada".into(),
        priority: 0,
        requirements: Requirements {
            lanes: 1,
            kind: DeviceKind::Gpu,
            memory_bytes: 0,
            labels: BTreeSet::new(),
            one_host: true,
            colocate: false,
        },
        deadline: None,
        time_limit_ms: None,
        max_restarts: 1,
    }
}

fn report(party: usize) -> HostReport {
    let name = format!("h{party}");
    let device =
        Device { id: DeviceId(format!("{name}-gpu").into()), kind: DeviceKind::Gpu, memory_bytes: 1, link_group: None };
    HostReport {
        host: HostId(name.as_str().into()),
        machine: MachineId(name.as_str().into()),
        parties: [PartyId::ALL[party]].into(),
        version: "test".into(),
        labels: BTreeSet::new(),
        devices: vec![device],
        held: Vec::new(),
    }
}
