//! The binary itself: how it ends and what it says when it does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop and say where")]

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use party_node::runtime::control::{read_message, write_message};
use shared::ids::{JobId, PartyId};
use shared::job::{JobSpec, Micro, Operation, PROTOCOL_VERSION, ProtocolSpec, Work};
use shared::wire::{DeviceChoice, Failure, FailureKind, FromParty, Setup, ToParty};

fn start() -> Child {
    start_with(&[])
}

fn start_with(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_party-node"))
        .args(arguments)
        .env("MPC_LOG_FORMAT", "json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads the last message, the exit code and the log of a party that is about to end.
fn end(mut child: Child) -> (Failure, i32, String) {
    let FromParty::Failed(failure) = read_message(child.stdout.as_mut().unwrap()).unwrap() else {
        panic!("anything but a failure")
    };
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (failure, child.wait().unwrap().code().unwrap(), log)
}

fn setup() -> Setup {
    let micro = Micro { operation: Operation::Relu, rows: 10, cols: 1, repetitions: 1 };
    let job = JobSpec {
        version: "trefoil-0.0.0".into(),
        lanes: 1,
        threads: 1,
        protocol: ProtocolSpec::default(),
        work: Work::Bench(micro),
        reveal: vec![],
        peer_timeout_seconds: 8,
    };
    let job_id = JobId("test".into());
    let device = DeviceChoice::Cpu;
    let (party, folder) = (PartyId::ALL[1], String::new());
    Setup { job_id, job, party, epoch: 3, device, oversubscribe: false, folder, metrics: None }
}

#[test]
fn a_party_whose_input_ends_does_not_stay() {
    let mut child = start();
    drop(child.stdin.take());
    let started = Instant::now();
    let (failure, code, _) = end(child);
    assert_eq!((failure.reason.as_str(), code), ("stopped as asked", 1));
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn the_exit_code_and_the_log_tell_why() {
    let mut child = start();
    write_message(child.stdin.as_mut().unwrap(), &ToParty::Setup(Box::new(setup()))).unwrap();
    let (failure, code, log) = end(child);
    assert_eq!((failure.kind, code), (FailureKind::Policy, 5));
    let line: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&line["party"], &line["epoch"], &line["level"]), (&1.into(), &3.into(), &"error".into()), "{log}");
    assert_eq!(line["message"], failure.reason.as_str());
}

#[test]
fn bytes_that_are_no_message_end_the_party_with_a_connection_error() {
    let mut child = start();
    child.stdin.as_mut().unwrap().write_all(&[2, 0, 0, 0, 99, 99]).unwrap();
    let (failure, code, _) = end(child);
    assert_eq!((failure.kind, code), (FailureKind::Connection, 4));
    assert!(failure.reason.contains("same version"), "{failure:?}");
}

#[test]
fn lanes_listen_where_the_command_line_says() {
    let mut child = start_with(&["--listen", "127.0.0.2"]);
    let mut setup = setup();
    setup.job.version = PROTOCOL_VERSION.into();
    write_message(child.stdin.as_mut().unwrap(), &ToParty::Setup(Box::new(setup))).unwrap();
    let FromParty::Listening { entry, .. } = read_message(child.stdout.as_mut().unwrap()).unwrap() else {
        panic!("anything but where it listens")
    };
    assert!(entry.lanes[0].starts_with("127.0.0.2:"), "{:?}", entry.lanes);
    drop(child.stdin.take());
    end(child);
    let refused = start_with(&["--listen", "here"]).wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
