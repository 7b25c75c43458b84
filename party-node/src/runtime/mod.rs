//! The process of one party: control channel, threads, metrics, logs, failure. Decides nothing about shares.

pub mod control;
pub mod logs;
pub mod sealed_model;

mod connect;
mod failure;
mod gpus;
mod lanes;
mod metrics;
#[cfg(feature = "cuda")]
mod nvml;
mod panics;
mod party;
mod process;
mod report;
mod scrape;
mod unseal;

use std::io;
use std::net::IpAddr;
use std::process::ExitCode;

use shared::wire::{Failure, FailureKind, FromParty, PartyReport};
use tracing::warn;

pub use failure::exit_code;

use self::control::{Commands, Reports};
use crate::train;

/// Runs one party: commands come on standard input, reports leave on standard output, logs on standard error. Its lanes
/// listen at `listen`, under which the peers must reach this host.
///
/// Ends when the job does, when it is told to stop, or when standard input ends, so that no party outlives whoever
/// started it.
pub fn run(listen: IpAddr) -> ExitCode {
    logs::start();
    process::harden();
    process::keep_memory();
    panics::keep_quiet();
    let reports = Reports::new(io::stdout());
    let commands = Commands::listen(io::stdin(), || std::process::exit(1));
    let served = panics::catch(|| party::serve(&commands, &reports, listen, train::run_lane));
    let served = served.unwrap_or_else(|panicked| {
        let reason = format!("a defect at {} ended the party; please report it with the job file", panicked.place);
        Err(failure::failure(FailureKind::Job, reason))
    });
    conclude(&reports, served)
}

/// Reports how it ended; what cannot be reported is still in the log and the exit code.
fn conclude(reports: &Reports, served: Result<PartyReport, Failure>) -> ExitCode {
    let (message, code) = match served {
        Ok(report) => (FromParty::Finished(Box::new(report)), ExitCode::SUCCESS),
        Err(failure) => {
            let code = exit_code(failure.kind);
            (FromParty::Failed(failure), code)
        }
    };
    match reports.send(&message) {
        Err(error) if code == ExitCode::SUCCESS => {
            warn!("the report could not be delivered: {error}");
            exit_code(FailureKind::Connection)
        }
        _ => code,
    }
}

#[cfg(test)]
mod tests;
