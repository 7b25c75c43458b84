//! One job in local mode, as a state machine: `(now, event) -> actions`. The same events give the same actions.
//!
//! Gang start: the roster leaves only when all three parties listen. Every history ends in exactly one [`Outcome`], after
//! every party that was started has been seen to exit or has been killed.

mod events;

use std::collections::BTreeMap;

use shared::ids::PartyId;
use shared::wire::{Failure, FailureKind, PartyReport, Roster, RosterEntry};

pub use events::{Action, Deadlines, Ending, Event, JobFailure, Outcome, State};

/// Milliseconds since any fixed moment.
pub type Millis = u64;

/// After a first sign of failure, wait this long for the party at fault to show itself.
const EVIDENCE_MS: Millis = 1_000;
/// A party asked to stop is killed after this long.
const STOP_GRACE_MS: Millis = 3_000;
/// After a kill, the outcome waits no longer than this for the exit.
const KILL_GRACE_MS: Millis = 2_000;

#[derive(Default, Debug)]
struct Member {
    process: Process,
    entry: Option<RosterEntry>,
    connected: bool,
    report: Option<PartyReport>,
    stop_asked: bool,
    killed_at: Option<Millis>,
}

/// What is known of a party's process.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Process {
    /// Not asked for.
    #[default]
    None,
    /// Asked for, no answer yet.
    Asked,
    /// Runs.
    Alive,
    /// Ended, or never came to be.
    Gone,
}

/// What a party owes at the start, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Milestone {
    Process,
    Listening,
    Connection,
}

impl Milestone {
    fn text(self) -> &'static str {
        match self {
            Self::Process => "its process did not start",
            Self::Listening => "it does not listen",
            Self::Connection => "it has no connection to its peers; a firewall may block UDP between them",
        }
    }
}

impl Member {
    /// The first milestone that is not reached.
    fn missing_at_start(&self) -> Option<Milestone> {
        match self {
            _ if self.process != Process::Alive => Some(Milestone::Process),
            _ if self.entry.is_none() => Some(Milestone::Listening),
            _ if !self.connected => Some(Milestone::Connection),
            _ => None,
        }
    }

    /// Whether nothing more will be heard, or waited for, `waited` after the job was asked to stop.
    fn is_gone(&self, now: Millis, waited: Millis) -> bool {
        match self.process {
            Process::None | Process::Gone => true,
            Process::Asked => waited >= STOP_GRACE_MS,
            Process::Alive => self.killed_at.is_some_and(|at| now.saturating_sub(at) >= KILL_GRACE_MS),
        }
    }
}

/// A reason to end the job; the most telling one is shown.
#[derive(Clone, Debug)]
struct Cause {
    rank: Rank,
    party: PartyId,
    failure: Failure,
}

/// How much a sign of failure tells, most first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rank {
    /// A process could not start, died without a word, or sent nonsense.
    Died,
    /// A party says why it gives up, and no peer is to blame.
    Own,
    /// A party blames a peer.
    Peer,
    /// Nothing happened for too long.
    Deadline,
}

/// One job.
#[derive(Debug)]
pub struct Rendezvous {
    deadlines: Deadlines,
    state: State,
    members: BTreeMap<PartyId, Member>,
    causes: Vec<Cause>,
    failing_since: Option<Millis>,
    stopping_since: Option<Millis>,
    milestone: Millis,
    step: Option<usize>,
    finished: bool,
}

impl Rendezvous {
    /// A job that has not begun.
    pub fn new(deadlines: Deadlines) -> Self {
        Self {
            deadlines,
            state: State::Pending,
            members: PartyId::ALL.into_iter().map(|party| (party, Member::default())).collect(),
            causes: Vec::new(),
            failing_since: None,
            stopping_since: None,
            milestone: 0,
            step: None,
            finished: false,
        }
    }

    /// Where the job is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Applies one event.
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Action> {
        if self.finished {
            return Vec::new();
        }
        let mut actions = self.apply(now, event);
        self.watch(now);
        actions.extend(self.wind_down(now));
        actions
    }

    fn apply(&mut self, now: Millis, event: Event) -> Vec<Action> {
        match event {
            Event::Start if self.state == State::Pending => {
                (self.state, self.milestone) = (State::Reserving, now);
                self.members.values_mut().for_each(|member| member.process = Process::Asked);
                return PartyId::ALL.map(Action::Spawn).into();
            }
            Event::PartySpawned(party) => {
                self.member(party).process = Process::Alive;
                if self.state == State::Reserving
                    && self.members.values().all(|member| member.process == Process::Alive)
                {
                    self.state = State::Starting;
                }
            }
            Event::SpawnFailed(party, reason) => {
                self.member(party).process = Process::Gone;
                self.died(now, party, format!("its process could not be started: {reason}"));
            }
            Event::Listening(party, entry) => return self.listening(party, entry),
            Event::Connected(party) => self.connected(now, party),
            Event::Progress(_, step, _) => self.progress(now, step),
            Event::Finished(party, report) => self.reported(now, party, *report),
            Event::Failed(party, failure) => {
                let rank = if failure.peer.is_some() { Rank::Peer } else { Rank::Own };
                self.fail(now, Cause { rank, party, failure });
            }
            Event::Garbled(party, reason) => self.died(now, party, reason),
            Event::Exited(party, how) => self.exited(now, party, &how),
            Event::Interrupt => self.end(now, State::Cancelled),
            Event::Start | Event::Tick => {}
        }
        Vec::new()
    }

    fn listening(&mut self, party: PartyId, entry: RosterEntry) -> Vec<Action> {
        if self.state != State::Starting || self.members.values().all(|member| member.entry.is_some()) {
            return Vec::new();
        }
        self.member(party).entry = Some(entry);
        let entries: Vec<RosterEntry> = self.members.values().filter_map(|member| member.entry.clone()).collect();
        let Ok(parties) = <[RosterEntry; 3]>::try_from(entries) else { return Vec::new() };
        PartyId::ALL.map(|party| Action::SendRoster(party, Roster { parties: parties.clone() })).into()
    }

    fn connected(&mut self, now: Millis, party: PartyId) {
        self.member(party).connected = true;
        if self.state == State::Starting && self.members.values().all(|member| member.connected) {
            (self.state, self.milestone) = (State::Running, now);
        }
    }

    fn progress(&mut self, now: Millis, step: usize) {
        self.milestone = now;
        self.step = self.step.max(Some(step));
    }

    fn reported(&mut self, now: Millis, party: PartyId, report: PartyReport) {
        self.milestone = now;
        self.member(party).report = Some(report);
        if self.members.values().all(|member| member.report.is_some()) && self.causes.is_empty() {
            self.end(now, State::Succeeded);
        }
    }

    fn exited(&mut self, now: Millis, party: PartyId, how: &str) {
        let member = self.member(party);
        member.process = Process::Gone;
        let explained = member.report.is_some() || self.stopping_since.is_some();
        if !explained && !self.causes.iter().any(|cause| cause.party == party) {
            self.died(now, party, format!("its process ended, and all its lanes with it: {how}"));
        }
    }

    fn died(&mut self, now: Millis, party: PartyId, reason: String) {
        let failure = Failure { lane: None, peer: None, step: self.step, reason, kind: FailureKind::Job };
        self.fail(now, Cause { rank: Rank::Died, party, failure });
    }

    fn fail(&mut self, now: Millis, cause: Cause) {
        if self.stopping_since.is_none() {
            self.failing_since.get_or_insert(now);
            self.causes.push(cause);
        }
    }

    fn end(&mut self, now: Millis, state: State) {
        if self.stopping_since.is_none() {
            (self.state, self.stopping_since) = (state, Some(now));
        }
    }

    /// Deadlines.
    fn watch(&mut self, now: Millis) {
        if self.failing_since.is_some() || self.stopping_since.is_some() {
            return;
        }
        let waited = now.saturating_sub(self.milestone);
        let late = match self.state {
            State::Reserving | State::Starting if waited > self.deadlines.startup_ms => self.late_at_start(waited),
            State::Running if waited > self.deadlines.progress_ms => self.late_at_work(waited),
            _ => return,
        };
        let (party, reason) = late;
        let failure = Failure { lane: None, peer: None, step: self.step, reason, kind: FailureKind::Timeout };
        self.fail(now, Cause { rank: Rank::Deadline, party, failure });
    }

    fn late_at_start(&self, waited: Millis) -> (PartyId, String) {
        let seconds = waited / 1000;
        let late = self.members.iter().filter_map(|(party, member)| Some((member.missing_at_start()?, *party)));
        let (missing, party) = late.min().unwrap_or((Milestone::Connection, PartyId::ALL[0]));
        (party, format!("{} after {seconds} s (job.startup_timeout_seconds)", missing.text()))
    }

    fn late_at_work(&self, waited: Millis) -> (PartyId, String) {
        let silent = self.members.iter().find(|(_, member)| member.report.is_none()).map(|(party, _)| *party);
        let seconds = waited / 1000;
        (silent.unwrap_or(PartyId::ALL[0]), format!("no progress for {seconds} s (job.progress_timeout_seconds)"))
    }

    /// Ends what must end, kills what does not, and tells the outcome once.
    fn wind_down(&mut self, now: Millis) -> Vec<Action> {
        if self.stopping_since.is_none() && self.evidence_is_in(now) {
            self.end(now, State::Failed);
        }
        let Some(since) = self.stopping_since else { return Vec::new() };
        let waited = now.saturating_sub(since);
        let mut actions = Vec::new();
        for (&party, member) in self.members.iter_mut().filter(|(_, member)| member.process == Process::Alive) {
            if !std::mem::replace(&mut member.stop_asked, true) {
                actions.push(Action::Stop(party));
            }
            if waited >= STOP_GRACE_MS && member.killed_at.is_none() {
                member.killed_at = Some(now);
                actions.push(Action::Kill(party));
            }
        }
        if self.members.values().all(|member| member.is_gone(now, waited)) {
            self.finished = true;
            actions.push(Action::Finish(Box::new(Ending { outcome: self.outcome(), step: self.step })));
        }
        actions
    }

    /// A death speaks for itself once its peers have told lane and step; a peer's complaint waits for the death.
    fn evidence_is_in(&self, now: Millis) -> bool {
        self.failing_since.is_some_and(|since| {
            let all_gone =
                self.members.values().all(|member| member.process == Process::Gone || member.report.is_some());
            all_gone || now.saturating_sub(since) >= EVIDENCE_MS
        })
    }

    fn outcome(&mut self) -> Outcome {
        match self.state {
            State::Succeeded => {
                let reports = self.members.values_mut().filter_map(|member| member.report.take()).collect::<Vec<_>>();
                Outcome::Succeeded(Box::new(reports.try_into().expect("all three reported")))
            }
            State::Cancelled => Outcome::Cancelled,
            _ => Outcome::Failed(self.most_telling()),
        }
    }

    /// The strongest cause, earliest first, with lane and step from whoever blames that party.
    fn most_telling(&self) -> JobFailure {
        let cause = self.causes.iter().min_by_key(|cause| cause.rank).expect("a job fails for a cause");
        let blamed = if cause.rank == Rank::Peer { cause.failure.peer.unwrap_or(cause.party) } else { cause.party };
        let mut failure = cause.failure.clone();
        if cause.rank == Rank::Peer {
            failure.reason = format!("{} (noticed by {})", failure.reason, cause.party);
        }
        let witness = self.causes.iter().find(|other| other.failure.peer == Some(blamed));
        if let Some(witness) = witness {
            failure.lane = failure.lane.or(witness.failure.lane);
            failure.step = failure.step.max(witness.failure.step);
        }
        JobFailure { party: blamed, failure }
    }

    fn member(&mut self, party: PartyId) -> &mut Member {
        self.members.get_mut(&party).expect("every party is a member")
    }
}

#[cfg(test)]
mod tests;
