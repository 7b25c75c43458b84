//! What goes into the state machine of a job and what comes out.

use shared::ids::PartyId;
use shared::wire::{Failure, PartyReport, Roster, RosterEntry};

use super::Millis;

/// How long a job may go without the next milestone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// From the start until all parties are connected.
    pub startup_ms: Millis,
    /// From one sign of progress to the next.
    pub progress_ms: Millis,
}

/// Where a job is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// Not begun.
    Pending,
    /// Parties are being placed.
    Reserving,
    /// All are placed; they listen and connect.
    Starting,
    /// All are connected.
    Running,
    /// Every party delivered its report.
    Succeeded,
    /// The job cannot go on.
    Failed,
    /// Somebody asked to stop.
    Cancelled,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Begin.
    Start,
    /// The party's process runs.
    PartySpawned(PartyId),
    /// The party's process could not be started.
    SpawnFailed(PartyId, String),
    /// Its lanes listen.
    Listening(PartyId, RosterEntry),
    /// Its lanes are connected to both peers.
    Connected(PartyId),
    /// It works.
    Progress(PartyId, usize, usize),
    /// It is done.
    Finished(PartyId, Box<PartyReport>),
    /// It gave up.
    Failed(PartyId, Failure),
    /// It sent what cannot be read.
    Garbled(PartyId, String),
    /// Its process ended; how, in words.
    Exited(PartyId, String),
    /// Time went by.
    Tick,
    /// The user asks to stop.
    Interrupt,
}

/// What the caller must do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Start the party's process and send it its setup.
    Spawn(PartyId),
    /// Tell the party where its peers listen, then send its data.
    SendRoster(PartyId, Roster),
    /// Ask it to stop: a message, then the end of its input.
    Stop(PartyId),
    /// End its process.
    Kill(PartyId),
    /// The last action of a job.
    Finish(Box<Ending>),
}

/// How a job ended, and what was known of it.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The result.
    pub outcome: Outcome,
    /// Last step that any party reported.
    pub step: Option<usize>,
}

/// The result of a job.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Reports of P0, P1, P2.
    Succeeded(Box<[PartyReport; 3]>),
    /// Which party, why.
    Failed(JobFailure),
    /// Stopped on request.
    Cancelled,
}

/// Why a job failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}{}{}: {}", self.party, self.lane_text(), self.step_text(), self.failure.reason)]
pub struct JobFailure {
    /// Party at fault, or the one that noticed.
    pub party: PartyId,
    /// Lane, step, reason, class.
    pub failure: Failure,
}

impl JobFailure {
    fn lane_text(&self) -> String {
        self.failure.lane.map_or(String::new(), |lane| format!(", {lane}"))
    }

    fn step_text(&self) -> String {
        self.failure.step.map_or(", before the first step".into(), |step| format!(", step {step}"))
    }
}
