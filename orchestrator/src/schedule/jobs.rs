//! Jobs and their attempts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::fleet::{DeviceId, HostId, LeaseId, Millis, Submission};
use shared::ids::{Epoch, JobDigest, Lane, PartyId};

use super::events::{Consent, State};
use super::queue::Turn;
use super::reasons::{Reason, Task};

/// One job.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Job {
    /// As submitted.
    pub submission: Submission,
    /// Order of submission.
    pub sequence: u64,
    /// When it was submitted.
    pub submitted_at: Millis,
    /// Where it is.
    pub state: State,
    /// Since when.
    pub since: Millis,
    /// Why it ended, or why its last attempt did.
    pub cause: Option<Reason>,
    /// What the parties decided.
    pub consents: [Consent; 3],
    /// Number of its newest attempt; 0 before the first.
    pub epoch: Epoch,
    /// Attempts that were started and lost.
    pub restarts: u32,
    /// Attempts in a row that came to nothing.
    pub setbacks: u32,
    /// No attempt before this.
    pub not_before: Millis,
    /// The attempt under way.
    pub attempt: Option<Attempt>,
    /// What may be left of earlier attempts.
    pub stopping: BTreeSet<Remnant>,
    /// Last step that each party told.
    #[serde(skip)]
    pub(super) progress: BTreeMap<PartyId, (u64, u64)>,
    /// When anything was last heard of its work, or its attempt entered its state.
    #[serde(skip)]
    pub(super) alive_at: Millis,
}

/// A part of an earlier attempt of which its host has not said that it is gone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Remnant {
    /// Where.
    pub host: HostId,
    /// Of which attempt and party.
    pub lease: LeaseId,
    /// Whether it was told to start.
    pub ran: bool,
}

/// Three parties' parts, placed together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number.
    pub epoch: Epoch,
    /// Reservations end here.
    pub hold_until: Millis,
    /// When the order to start went out.
    pub committed_at: Option<Millis>,
    /// A part for each party and host.
    pub parts: Vec<Part>,
}

/// What one party has on one host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Who.
    pub party: PartyId,
    /// Where.
    pub host: HostId,
    /// Which lane on which device.
    pub lanes: Vec<(Lane, DeviceId)>,
    /// How far it is.
    pub phase: PartPhase,
}

/// How far a part is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum PartPhase {
    /// The host was asked to keep devices free.
    Asked,
    /// It does.
    Reserved,
    /// It was told to start.
    Committed,
    /// It did.
    Started,
    /// Its process delivered.
    Done,
}

impl Part {
    /// The devices, in lane order.
    pub fn devices(&self) -> Vec<DeviceId> {
        self.lanes.iter().map(|(_, device)| device.clone()).collect()
    }
}

impl Attempt {
    /// The part that a host has for a party.
    pub(super) fn part(&mut self, host: &HostId, party: PartyId) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.party == party && part.host == *host)
    }

    /// Whether every part is at least this far.
    pub(super) fn all_reached(&self, phase: PartPhase) -> bool {
        self.parts.iter().all(|part| part.phase >= phase)
    }

    /// Parts that are not this far.
    pub(super) fn short_of(&self, phase: PartPhase) -> Vec<(PartyId, HostId)> {
        let behind = self.parts.iter().filter(|part| part.phase < phase);
        behind.map(|part| (part.party, part.host.clone())).collect()
    }
}

impl Job {
    pub(super) fn new(submission: Submission, sequence: u64, now: Millis) -> Self {
        Self {
            submission,
            sequence,
            submitted_at: now,
            state: State::AwaitingConsent,
            since: now,
            cause: None,
            consents: Default::default(),
            epoch: Epoch(0),
            restarts: 0,
            setbacks: 0,
            not_before: 0,
            attempt: None,
            stopping: BTreeSet::new(),
            progress: BTreeMap::new(),
            alive_at: now,
        }
    }

    /// Its place in line.
    pub(super) fn turn(&self) -> Turn {
        Turn::new(self.submission.priority, self.sequence, self.submission.digest)
    }

    /// Its name.
    pub fn digest(&self) -> JobDigest {
        self.submission.digest
    }

    /// The number of the attempt after this one.
    pub fn next_epoch(&self) -> Epoch {
        Epoch(self.epoch.0 + 1)
    }

    /// Parties under whose consent the next attempt could not begin.
    pub(super) fn without_consent(&self, now: Millis) -> impl Iterator<Item = PartyId> + '_ {
        let epoch = self.next_epoch();
        PartyId::ALL.into_iter().filter(move |party| !self.consents[party.index()].covers(epoch, now))
    }

    /// What it waits for, as far as the job alone knows: none while it waits in line.
    pub(super) fn own_reason(&self, now: Millis) -> Option<Reason> {
        match self.state {
            State::AwaitingConsent => {
                let (mut silent, mut by_hand, mut outdated) = (Vec::new(), Vec::new(), Vec::new());
                for party in self.without_consent(now) {
                    match self.consents[party.index()] {
                        Consent::ByHand => by_hand.push(party),
                        Consent::Approved { .. } => outdated.push(party),
                        Consent::Unknown | Consent::Denied(_) => silent.push(party),
                    }
                }
                Some(Reason::Undecided { silent, by_hand, outdated })
            }
            State::Reserving => Some(Reason::Waiting(Task::Reserve, self.short_of(PartPhase::Reserved))),
            State::Starting => Some(Reason::Waiting(Task::Start, self.short_of(PartPhase::Started))),
            State::Running => {
                let slowest = self.progress.iter().min_by_key(|(_, (step, _))| *step);
                Some(Reason::Working { step: slowest.map(|(party, (step, steps))| (*party, *step, *steps)) })
            }
            State::Succeeded | State::Failed | State::Cancelled => self.cause.clone(),
            State::Pending | State::Recovering => {
                let after = self.cause.clone().filter(|_| now < self.not_before)?;
                Some(Reason::Retrying { at: self.not_before, after: Box::new(after) })
            }
        }
    }

    fn short_of(&self, phase: PartPhase) -> Vec<(PartyId, HostId)> {
        self.attempt.as_ref().map_or_else(Vec::new, |attempt| attempt.short_of(phase))
    }
}
