//! The scheduler against random histories. A violation prints its seed and the smallest history that still shows it.
//!
//! `TREFOIL_SIMULATION_SEEDS=10000 cargo test --release -p orchestrator --test simulation` runs more of them;
//! `TREFOIL_SIMULATION_FIRST=7` begins elsewhere; `TREFOIL_SIMULATION_TRACE=1` prints what happens in the smallest one.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on should stop and say where")]

mod agent;
mod facts;
mod history;
mod oracle;
mod shrink;
mod world;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use history::history;
use world::{Lived, Planted, World};

/// Operations of a history.
const LENGTH: usize = 500;
/// Operations of a history in which every step waits for the disk.
const DURABLE_LENGTH: usize = 120;
/// Histories if nothing else is asked for.
const SEEDS: u64 = 400;

#[test]
fn invariants_hold_in_random_histories() {
    let (first, seeds) = (number("TREFOIL_SIMULATION_FIRST", 0), number("TREFOIL_SIMULATION_SEEDS", SEEDS));
    let (began, next, steps) = (Instant::now(), AtomicU64::new(first), AtomicU64::new(0));
    let violation: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || violation.lock().unwrap().is_some() {
                        return;
                    }
                    match run(seed) {
                        Ok(lived) => _ = steps.fetch_add(lived.steps, Ordering::Relaxed),
                        Err(what) => _ = violation.lock().unwrap().get_or_insert((seed, what)),
                    }
                }
            });
        }
    });
    if let Some((seed, what)) = violation.into_inner().unwrap() {
        let (history, what_is_left) = shrink::shrink(Planted::Nothing, &history(seed, LENGTH), is_crowded(seed), &what);
        if std::env::var_os("TREFOIL_SIMULATION_TRACE").is_some() {
            let _ = World::trace(Planted::Nothing, &history, is_crowded(seed));
        }
        let lines: Vec<String> = history.iter().map(|operation| format!("    {operation:?}")).collect();
        panic!(
            "seed {seed}: {what}\nsmallest history, {} operations: {what_is_left}\n{}",
            lines.len(),
            lines.join("\n")
        );
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{seeds} histories, {} steps, {seconds:.1} s", steps.into_inner());
}

#[test]
fn planted_faults_are_found_and_shrunk() {
    let planted = [
        Planted::Colocates,
        Planted::CommitsEarly,
        Planted::SkipsConsent,
        Planted::SellsEarly,
        Planted::KeepsNothing,
        Planted::WritesNoHosts,
        Planted::Sleeps,
        Planted::StartsTheDead,
    ];
    for fault in planted {
        let found = (0..200).find_map(|seed| {
            let history = history(seed, LENGTH);
            let what = World::run(fault, &history, is_crowded(seed)).err()?;
            Some((seed, history, what))
        });
        let Some((seed, history, what)) = found else { panic!("{fault:?} was not found") };
        let (smallest, _) = shrink::shrink(fault, &history, is_crowded(seed), &what);
        println!("{fault:?}: seed {seed}, {} operations left: {what}", smallest.len());
        assert!(smallest.len() <= 60, "{fault:?}: {} operations are left of {LENGTH}", smallest.len());
        assert!(World::run(Planted::Nothing, &smallest, is_crowded(seed)).is_ok(), "{fault:?}: a real fault");
    }
}

#[test]
fn a_database_gives_back_the_same_scheduler() {
    for seed in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let history = history(seed, DURABLE_LENGTH);
        World::run_on_disk(&history, &folder.path().join("orchestrator.db")).unwrap();
    }
}

#[test]
fn histories_repeat() {
    assert_eq!(run(1), run(1));
}

/// Histories that never lead anywhere interesting would prove nothing.
#[test]
fn histories_lead_to_every_state_and_every_reason() {
    let mut seen = BTreeSet::new();
    (0..100).for_each(|seed| seen.extend(run(seed).unwrap().coverage));
    let missing: Vec<&str> = EVERYTHING.iter().filter(|kind| !seen.contains(**kind)).copied().collect();
    assert!(missing.is_empty(), "never seen: {missing:?}");
}

/// States, then kinds of reason.
const EVERYTHING: &[&str] = &[
    "pending",
    "awaiting-consent",
    "reserving",
    "starting",
    "running",
    "recovering",
    "succeeded",
    "failed",
    "cancelled",
    "Undecided",
    "ConsentEnded",
    "Denied",
    "Lacks",
    "Quota",
    "Behind",
    "SharedMachines",
    "Turn",
    "Retrying",
    "Stopping",
    "Unaccounted",
    "Waiting",
    "Working",
    "Refused",
    "Late",
    "HostLost",
    "HostForgot",
    "PartyFailed",
    "NoProgress",
    "TimeLimit",
    "Deadline",
    "RestartsSpent",
    "Cancelled",
    "Delivered",
];

fn run(seed: u64) -> Result<Lived, String> {
    World::run(Planted::Nothing, &history(seed, LENGTH), is_crowded(seed))
}

/// Whether a crowd of small jobs comes in at the end, behind the first in line.
fn is_crowded(seed: u64) -> bool {
    seed.is_multiple_of(4)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}
