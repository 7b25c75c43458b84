//! Real child processes that follow scripts (`examples/scripted_party.rs`): every way a party can go wrong ends the job
//! in time, names the party, and leaves no process behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use orchestrator::{Deadlines, Ending, LocalJob, Notice, Outcome, State, run};
use shared::ids::{JobId, PartyId};
use shared::job::{JobSpec, Micro, Operation, PROTOCOL_VERSION, ProtocolSpec, Reveal, Work};
use shared::share::Addend;
use shared::wire::{DeviceChoice, FailureKind, Setup};

struct Run {
    ending: Ending,
    states: Vec<State>,
    logs: Vec<String>,
    pids: Vec<u32>,
    results: Vec<(PartyId, Reveal, Addend)>,
    took: Duration,
}

/// `cargo test` builds the examples beside the tests.
fn scripted_party() -> PathBuf {
    let deps = std::env::current_exe().expect("a test has an executable");
    deps.ancestors().nth(2).expect("it lies in target/PROFILE/deps").join("examples/scripted_party")
}

fn job(program: PathBuf, script: &str) -> LocalJob {
    let micro = Micro { operation: Operation::Relu, rows: 10, cols: 1, repetitions: 3 };
    let spec = JobSpec {
        version: PROTOCOL_VERSION.into(),
        lanes: 2,
        threads: 1,
        protocol: ProtocolSpec::default(),
        work: Work::Bench(micro),
        reveal: vec![],
        peer_timeout_seconds: 8,
    };
    let setups = PartyId::ALL.map(|party| Setup {
        job_id: JobId("test".into()),
        job: spec.clone(),
        party,
        epoch: 1,
        device: DeviceChoice::Cpu,
        oversubscribe: false,
        folder: ".".into(),
        metrics: None,
    });
    let deadlines = Deadlines { startup_ms: 1_500, progress_ms: 1_500 };
    LocalJob { program, arguments: vec![script.into(), "1".into()], setups, data: None, deadlines }
}

fn perform(job: LocalJob, interrupt: &AtomicBool) -> Run {
    let (mut states, mut logs, mut pids, mut results) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let begin = Instant::now();
    let ending = run(job, interrupt, &mut |notice| match notice {
        Notice::State(state) => states.push(state),
        Notice::Log(party, line) => logs.push(format!("{party} {line}")),
        Notice::Started(_, pid) => pids.push(pid),
        Notice::Result(party, what, addend) => results.push((party, what, addend)),
        Notice::Progress(..) | Notice::Metrics(..) => {}
    });
    let run = Run { ending, states, logs, pids, results, took: begin.elapsed() };
    assert!(run.took < Duration::from_secs(10), "{:?}", run.took);
    for pid in &run.pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is an orphan");
    }
    run
}

fn scripted(script: &str) -> Run {
    perform(job(scripted_party(), script), &AtomicBool::new(false))
}

fn failure(run: &Run) -> (String, FailureKind) {
    match &run.ending.outcome {
        Outcome::Failed(failure) => (failure.to_string(), failure.failure.kind),
        other => panic!("the job should fail: {other:?}"),
    }
}

#[test]
fn a_good_run_goes_through_all_states() {
    let run = scripted("behave");
    let Outcome::Succeeded(reports) = &run.ending.outcome else { panic!("{:?}", run.ending) };
    assert!(reports.iter().all(|report| report.rounds == 40));
    assert_eq!(run.states.first(), Some(&State::Reserving));
    assert!(run.states.contains(&State::Running) && run.states.last() == Some(&State::Succeeded), "{:?}", run.states);
    assert_eq!(run.logs.iter().filter(|line| line.ends_with("script behave")).count(), 3);
    for party in PartyId::ALL {
        assert!(run.logs.contains(&format!("{party} is party {}", party.index())), "{:?}", run.logs);
    }
}

#[test]
fn a_party_s_part_of_a_result_is_passed_on_before_the_job_ends() {
    let run = scripted("result");
    assert!(matches!(run.ending.outcome, Outcome::Succeeded(_)), "{:?}", run.ending);
    assert_eq!(run.results, [(PartyId::ALL[1], Reveal::Weights, Addend::new(vec![1, 2, 3]))]);
}

#[test]
fn a_party_that_dies_is_named_with_its_step_and_end() {
    let run = scripted("exit");
    let (text, kind) = failure(&run);
    assert!(text.starts_with("P1, step ") && text.contains("exit code 7"), "{text}");
    assert_eq!(kind, FailureKind::Job);
}

#[test]
fn silence_at_start_and_at_work_ends_in_a_timeout() {
    let (text, kind) = failure(&scripted("mute"));
    assert!(text.starts_with("P1, before the first step: it does not listen"), "{text}");
    assert_eq!(kind, FailureKind::Timeout);
    let (text, _) = failure(&scripted("hang"));
    assert!(text.contains("no progress for 1 s"), "{text}");
}

#[test]
fn a_deaf_party_is_killed() {
    let (text, _) = failure(&scripted("deaf"));
    assert!(text.contains("no progress"), "{text}");
}

#[test]
fn nonsense_from_a_party_ends_the_job() {
    let (text, _) = failure(&scripted("garble"));
    assert!(text.starts_with("P1") && text.contains("cannot be decoded"), "{text}");
}

#[test]
fn a_blamed_peer_is_named_with_the_witness() {
    let (text, kind) = failure(&scripted("blame"));
    assert_eq!(text, "P2, step 5: no message for 8 s (noticed by P1)");
    assert_eq!(kind, FailureKind::Connection);
}

#[test]
fn a_missing_executable_is_named() {
    let run = perform(job("/does/not/exist".into(), "behave"), &AtomicBool::new(false));
    let (text, _) = failure(&run);
    assert!(text.contains("could not be started: /does/not/exist"), "{text}");
}

#[test]
fn an_interrupt_stops_all_parties() {
    let interrupt = Arc::new(AtomicBool::new(false));
    let setter = interrupt.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        setter.store(true, Ordering::Relaxed);
    });
    let run = perform(job(scripted_party(), "hang"), &interrupt);
    assert!(matches!(run.ending.outcome, Outcome::Cancelled), "{:?}", run.ending);
    assert!(run.took < Duration::from_secs(2), "{:?}", run.took);
}
