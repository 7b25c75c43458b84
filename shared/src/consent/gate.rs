//! The last look before a party starts: whatever the orchestrator sent must be what this party agreed to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ConsentError, Decision, Decisions, Endorsement, Policy, Proposal, Refusal};
use crate::fleet::Millis;
use crate::ids::{Epoch, JobDigest, PartyId};
use crate::signing::{Signed, SigningError};
use crate::wire::Roster;

/// What the orchestrator sends to have a party start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The job, as the orchestrator names it.
    pub job: JobDigest,
    /// The attempt.
    pub epoch: Epoch,
    /// What P0, P1, P2 said.
    pub decisions: [Signed<Decision>; 3],
}

/// Why a party does not start.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum StartError {
    /// It is not the job that this party agreed to.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not all three agreed.
    #[error(transparent)]
    Consent(#[from] ConsentError),
    /// An attempt that was here already, or is older.
    #[error("attempt {} of the job has been here, the newest is {}", epoch.0, newest.0)]
    Fenced {
        /// The attempt in question.
        epoch: Epoch,
        /// The newest that was let in.
        newest: Epoch,
    },
    /// A peer's certificate is not its own.
    #[error("{party}: the certificate in the roster is not the one that it endorsed for this attempt")]
    Certificate {
        /// Whose.
        party: PartyId,
    },
    /// An endorsement that is not the peer's.
    #[error("{party}: {source}")]
    Endorsement {
        /// Whose.
        party: PartyId,
        /// What is wrong.
        source: SigningError,
    },
}

/// What a party remembers of starts and decisions. To be kept on disk, and written before the party starts: it is what
/// keeps an attempt from running twice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Gate {
    decisions: Decisions,
    newest: BTreeMap<JobDigest, Epoch>,
}

impl Gate {
    /// Lets an attempt in, once: the job is the one that its digest names, with the parties of this party's own roster;
    /// all three agreed to this attempt and still do. `proposal` is what this party judged, from its own memory.
    pub fn enter(
        &mut self,
        policy: &Policy,
        proposal: &Proposal,
        start: &Start,
        now: Millis,
    ) -> Result<(), StartError> {
        policy.check(start.job, proposal)?;
        if let Some(&newest) = self.newest.get(&start.job).filter(|newest| **newest >= start.epoch) {
            return Err(StartError::Fenced { epoch: start.epoch, newest });
        }
        for (party, signed) in PartyId::ALL.into_iter().zip(&start.decisions) {
            let key = &policy.roster[party.index()];
            self.decisions.receive(signed, start.job, party, key)?.covers(start.epoch, now)?;
        }
        self.newest.insert(start.job, start.epoch);
        Ok(())
    }

    /// Takes note of a peer's decision, such as a no that follows a yes.
    pub fn hear(
        &mut self,
        policy: &Policy,
        job: JobDigest,
        party: PartyId,
        signed: &Signed<Decision>,
    ) -> Result<(), ConsentError> {
        self.decisions.receive(signed, job, party, &policy.roster[party.index()]).map(|_| ())
    }

    /// Checks that every certificate of the roster is its party's own, in this attempt.
    pub fn check_roster(
        policy: &Policy,
        (job, epoch): (JobDigest, Epoch),
        roster: &Roster,
        endorsements: &[Signed<Endorsement>; 3],
    ) -> Result<(), StartError> {
        for ((party, entry), signed) in PartyId::ALL.into_iter().zip(&roster.parties).zip(endorsements) {
            let said = signed
                .verify(&policy.roster[party.index()])
                .map_err(|source| StartError::Endorsement { party, source })?;
            if *said != Endorsement::of(job, party, epoch, &entry.certificate) {
                return Err(StartError::Certificate { party });
            }
        }
        Ok(())
    }
}
