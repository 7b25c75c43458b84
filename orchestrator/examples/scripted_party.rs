//! A party that computes nothing: it follows the control messages and then does what its script says. For the tests of
//! whoever starts parties. `scripted_party SCRIPT PARTY`: party number PARTY follows SCRIPT, the others behave well.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use orchestrator::control::{read_message, write_message};
use shared::ids::PartyId;
use shared::job::{Reveal, Work};
use shared::share::Addend;
use shared::wire::{Calibration, Failure, FailureKind, FromParty, PartyReport, RosterEntry, Setup, ToParty};

const STEPS: usize = 20;
const STEP_SECONDS: f64 = 0.02;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let script = arguments.get(1).map_or("behave", String::as_str);
    let chosen = arguments.get(2).and_then(|number| number.parse().ok()).unwrap_or(0);
    let orders = orders();
    let Some(ToParty::Setup(setup)) = orders.recv().ok() else { std::process::exit(1) };
    let script = if setup.party.index() == chosen { script } else { "behave" };
    follow(script, &setup, &orders);
}

/// Orders from standard input; the process ends with the input, as a real party does.
fn orders() -> Receiver<ToParty> {
    let (sender, orders) = channel();
    thread::spawn(move || {
        let deaf = std::env::args().any(|argument| argument == "deaf");
        while let Ok(Some(message)) = read_message::<ToParty>(&mut io::stdin().lock()) {
            if matches!(message, ToParty::Stop) && !deaf {
                std::process::exit(0);
            }
            if sender.send(message).is_err() {
                break;
            }
        }
        if !deaf {
            std::process::exit(0);
        }
    });
    orders
}

fn follow(script: &str, setup: &Setup, orders: &Receiver<ToParty>) {
    eprintln!("script {script}");
    eprintln!("is party {}", std::env::var("MPC_PARTY").unwrap_or_default());
    if script == "mute" {
        thread::sleep(Duration::from_secs(60));
    }
    let lanes = (0..setup.job.lanes).map(|lane| format!("127.0.0.1:{}", 40_000 + lane)).collect();
    tell(&FromParty::Listening { entry: RosterEntry { certificate: vec![1], lanes }, metrics: None });
    let Ok(ToParty::Roster(_)) = orders.recv() else { std::process::exit(1) };
    if matches!(setup.job.work, Work::Train(_) | Work::Infer(_)) {
        let Ok(ToParty::Data(_)) = orders.recv() else { std::process::exit(1) };
    }
    tell(&FromParty::Connected);
    for step in 1..=STEPS {
        thread::sleep(Duration::from_secs_f64(STEP_SECONDS));
        tell(&FromParty::Progress { step, steps: STEPS });
        if step == 5 {
            misbehave(script);
        }
    }
    if script == "result" {
        tell(&FromParty::Result { what: Reveal::Weights, addend: Addend::new(vec![1, 2, 3]) });
    }
    tell(&FromParty::Finished(Box::new(report(setup))));
}

fn misbehave(script: &str) {
    match script {
        "exit" => std::process::exit(7),
        "hang" | "deaf" => thread::sleep(Duration::from_secs(60)),
        "garble" => {
            let mut out = io::stdout().lock();
            let written = out.write_all(&[5, 0, 0, 0, 250, 250, 250, 250, 250]).and_then(|()| out.flush());
            written.expect("standard output is open");
            thread::sleep(Duration::from_secs(60));
        }
        "blame" => {
            let reason = "no message for 8 s".into();
            let peer = PartyId::new(2);
            tell(&FromParty::Failed(Failure {
                lane: None,
                peer,
                step: Some(5),
                reason,
                kind: FailureKind::Connection,
            }));
            std::process::exit(1);
        }
        _ => {}
    }
}

fn report(setup: &Setup) -> PartyReport {
    PartyReport {
        device: "none (scripted)".into(),
        opened: setup.job.reveal.iter().map(|reveal| (reveal.name().into(), vec![0.5])).collect(),
        step_seconds: vec![STEP_SECONDS; STEPS],
        train_seconds: STEP_SECONDS * 20.0,
        sent_bytes: 2000,
        rounds: 40,
        phase_seconds: vec![("compute".into(), 0.015), ("open_wait".into(), 0.005)],
        calibration: Some(Calibration { one_lane: 0.04, strong: 0.02, weak: 0.04, one_lane_compute: 0.03 }),
        peak_rss_bytes: 1 << 20,
        peer_rtt_seconds: 1e-4,
    }
}

fn tell(message: &FromParty) {
    write_message(&mut io::stdout().lock(), message).expect("standard output is open");
}
