//! Runs a job with all three parties on this machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orchestrator::{Deadlines, LocalJob, Notice, Outcome};
use shared::ids::{JobId, PartyId};
use shared::job::{JobSpec, Reveal};
use shared::share::Addend;
use shared::wire::{DeviceChoice, PartyReport, Setup, ToParty};

use crate::args::JobArgs;
use crate::exit::LaunchError;
use crate::folder::RunFolder;
use crate::follow::Follower;
use crate::settings::Settings;

/// Ctrl-C and SIGTERM, for the whole program.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on signals are noted instead of ending the program.
    pub(crate) fn install() -> Self {
        let flag = Arc::new(AtomicBool::new(false));
        let noted = flag.clone();
        if let Err(error) = ctrlc::set_handler(move || noted.store(true, Ordering::Relaxed)) {
            eprintln!("Ctrl-C will not stop the parties in order: {error}");
        }
        Self(flag)
    }
}

/// How parties are started and watched.
pub(crate) struct Start {
    /// Executable of a party; this program itself if none.
    pub(crate) program: Option<PathBuf>,
    /// What lanes compute with.
    pub(crate) device: DeviceChoice,
    /// Whether parties serve `/metrics`.
    pub(crate) metrics: bool,
    /// Seconds until all lanes must be connected.
    pub(crate) startup_timeout_seconds: u32,
    /// Longest pause between steps, seconds.
    pub(crate) progress_timeout_seconds: u32,
}

impl Start {
    /// As a job file and the flags of its verb say.
    pub(crate) fn new(args: &JobArgs, settings: &Settings) -> Self {
        let job = &settings.job.job;
        Self {
            program: args.party_program.clone(),
            device: job.device,
            metrics: job.metrics,
            startup_timeout_seconds: job.startup_timeout_seconds,
            progress_timeout_seconds: job.progress_timeout_seconds,
        }
    }
}

/// What a completed job brought.
pub(crate) struct Completed {
    /// Reports of P0, P1, P2.
    pub(crate) reports: [PartyReport; 3],
    /// From start to all lanes connected.
    pub(crate) startup_seconds: f64,
    /// What the parties handed out for this program to join.
    pub(crate) result: Option<(Reveal, Vec<u64>)>,
}

/// Runs a job to its end. All parties have ended when this returns.
pub(crate) fn run(
    spec: &JobSpec,
    data: Option<[ToParty; 3]>,
    start: &Start,
    folder: &RunFolder,
    follower: &mut Follower,
    interrupt: &Interrupt,
) -> Result<Completed, LaunchError> {
    let program = match &start.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|error| LaunchError::Usage(format!("own executable: {error}")))?,
    };
    let setups = PartyId::ALL.map(|party| Setup {
        job_id: JobId(folder.job_id.clone()),
        job: spec.clone(),
        party,
        epoch: 1,
        device: start.device,
        // All parties share the GPUs of this machine.
        oversubscribe: true,
        folder: folder.party(party).display().to_string(),
        metrics: start.metrics.then(|| "127.0.0.1:0".to_owned()),
    });
    let deadlines = Deadlines {
        startup_ms: 1000 * u64::from(start.startup_timeout_seconds),
        progress_ms: 1000 * u64::from(start.progress_timeout_seconds),
    };
    let job = LocalJob { program, arguments: vec!["party".into()], setups, data, deadlines };
    let mut parts = [const { None }; 3];
    let ending = orchestrator::run(job, &interrupt.0, &mut |notice| match notice {
        Notice::Result(party, what, addend) => parts[party.index()] = Some((what, addend)),
        notice => follower.notice(&notice),
    });
    let startup_seconds = follower.startup().map_or(0.0, |time| time.as_secs_f64());
    match ending.outcome {
        Outcome::Succeeded(reports) => Ok(Completed { reports: *reports, startup_seconds, result: join(parts)? }),
        Outcome::Cancelled => Err(LaunchError::Interrupted),
        Outcome::Failed(failure) => {
            Err(LaunchError::Job { failure: Box::new(failure), logs: folder.path().display().to_string() })
        }
    }
}

/// What the parties' parts of a result add up to; none if they handed out nothing.
fn join(parts: [Option<(Reveal, Addend)>; 3]) -> Result<Option<(Reveal, Vec<u64>)>, LaunchError> {
    let [Some((what, first)), Some((second_what, second)), Some((third_what, third))] = parts else {
        return if parts.iter().all(Option::is_none) { Ok(None) } else { Err(LaunchError::PartsDiffer) };
    };
    let words = Addend::join(&[first, second, third]).filter(|_| what == second_what && what == third_what);
    words.map(|words| Some((what, words))).ok_or(LaunchError::PartsDiffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_one_result_are_joined() {
        let part = |what, words: &[u64]| Some((what, Addend::new(words.to_vec())));
        let [a, b] = [Reveal::Predictions, Reveal::Weights];
        assert_eq!(join([part(a, &[1]), part(a, &[2]), part(a, &[u64::MAX])]).unwrap(), Some((a, vec![2])));
        assert_eq!(join([None, None, None]).unwrap(), None);
        for broken in [[part(a, &[1]), part(a, &[2]), None], [part(a, &[1]), part(b, &[2]), part(a, &[3])]] {
            assert!(join(broken).is_err());
        }
        assert!(join([part(a, &[1]), part(a, &[2, 3]), part(a, &[4])]).is_err());
    }
}
