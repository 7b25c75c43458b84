//! What a party says of a job, so that the other two and the orchestrator can hold it to it: bound to the job, the
//! party, a window of attempts, a time, and a number used once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Verdict;
use crate::fleet::Millis;
use crate::ids::{Epoch, JobDigest, PartyId};
use crate::signing::{Hash, Nonce, PublicKey, Signed, SigningError, Statement};

/// What a party says of a job. A later one of the same party on the same job replaces it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// On which job.
    pub job: JobDigest,
    /// Who.
    pub party: PartyId,
    /// Yes or no.
    pub approved: bool,
    /// Why not.
    pub reason: String,
    /// First attempt that it covers.
    pub first: Epoch,
    /// Last one.
    pub last: Epoch,
    /// When it was made.
    pub issued: Millis,
    /// An attempt must begin before.
    pub until: Millis,
    /// Tells it from all others.
    pub nonce: Nonce,
}

impl Statement for Decision {
    const CONTEXT: &'static str = "decision 1";
}

/// A party's word that a certificate is its own in one attempt: so the orchestrator, which carries the roster, cannot
/// put in one of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endorsement {
    /// In which job.
    pub job: JobDigest,
    /// Whose.
    pub party: PartyId,
    /// In which attempt.
    pub epoch: Epoch,
    /// SHA-256 of the certificate.
    pub certificate: Hash,
}

impl Statement for Endorsement {
    const CONTEXT: &'static str = "endorsement 1";
}

impl Endorsement {
    /// Of a certificate in DER.
    pub fn of(job: JobDigest, party: PartyId, epoch: Epoch, certificate: &[u8]) -> Self {
        Self { job, party, epoch, certificate: Hash(Sha256::digest(certificate).into()) }
    }
}

/// Why a decision does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConsentError {
    /// Not this party's.
    #[error("{party}: {source}")]
    Signature {
        /// Who should have signed.
        party: PartyId,
        /// What is wrong.
        source: SigningError,
    },
    /// Of another job.
    #[error("{0}: its decision is on another job")]
    Job(PartyId),
    /// Of another party.
    #[error("{0}: the decision is another party's")]
    Party(PartyId),
    /// No.
    #[error("{0}: it said no")]
    Denied(PartyId),
    /// Outside its window.
    #[error("{party}: its consent is for attempts {} to {}, not {}", first.0, last.0, epoch.0)]
    Epoch {
        /// Whose.
        party: PartyId,
        /// First that it covers.
        first: Epoch,
        /// Last that it covers.
        last: Epoch,
        /// The one in question.
        epoch: Epoch,
    },
    /// Too old.
    #[error("{0}: its consent has expired")]
    Expired(PartyId),
    /// It said something else since.
    #[error("{0}: an old decision was replayed")]
    Replayed(PartyId),
}

/// The newest decisions seen, so that an old one does not come back. To be kept on disk: it is what a replay meets.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Decisions {
    newest: BTreeMap<JobDigest, BTreeMap<PartyId, (Millis, Nonce)>>,
}

impl Decisions {
    /// Takes note of a decision by the holder of `key`: genuine, on this job, and not older than what was seen. Yes or
    /// no is not asked here.
    pub fn receive<'a>(
        &mut self,
        signed: &'a Signed<Decision>,
        job: JobDigest,
        party: PartyId,
        key: &PublicKey,
    ) -> Result<&'a Decision, ConsentError> {
        let decision = signed.verify(key).map_err(|source| ConsentError::Signature { party, source })?;
        if decision.party != party {
            return Err(ConsentError::Party(party));
        }
        if decision.job != job {
            return Err(ConsentError::Job(party));
        }
        let of_job = self.newest.entry(job).or_default();
        let (issued, nonce) = (decision.issued, decision.nonce);
        match of_job.get(&party) {
            // The same once more, within what it covers, is no replay.
            Some(&newest) if newest == (issued, nonce) => {}
            Some(&(newest, _)) if issued <= newest => return Err(ConsentError::Replayed(party)),
            _ => _ = of_job.insert(party, (issued, nonce)),
        }
        Ok(decision)
    }

    /// Forgets a job that has ended and that its [`Gate`](super::Gate) lets in no more.
    pub fn forget(&mut self, job: &JobDigest) {
        self.newest.remove(job);
    }
}

impl Decision {
    /// What follows from a verdict, ready to be signed. Where the verdict asks for a person, that person has agreed.
    pub fn new(job: JobDigest, party: PartyId, verdict: &Verdict, now: Millis) -> Result<Self, SigningError> {
        let no = |reason| (false, reason, Epoch(0), Millis::MAX);
        let (approved, reason, last, until) = match verdict {
            Verdict::Allowed { last, until, .. } => (true, String::new(), *last, *until),
            Verdict::Refused(refusal) => no(refusal.to_string()),
        };
        Ok(Self { job, party, approved, reason, first: Epoch(1), last, issued: now, until, nonce: Nonce::random()? })
    }

    /// A no of a person, or to a job that was agreed to before.
    pub fn denial(job: JobDigest, party: PartyId, reason: String, now: Millis) -> Result<Self, SigningError> {
        let (first, last, until, nonce) = (Epoch(1), Epoch(0), Millis::MAX, Nonce::random()?);
        Ok(Self { job, party, approved: false, reason, first, last, issued: now, until, nonce })
    }

    /// Whether an attempt may begin now.
    pub fn covers(&self, epoch: Epoch, now: Millis) -> Result<(), ConsentError> {
        let &Self { party, first, last, .. } = self;
        if !self.approved {
            return Err(ConsentError::Denied(party));
        }
        if !(first..=last).contains(&epoch) {
            return Err(ConsentError::Epoch { party, first, last, epoch });
        }
        if now >= self.until {
            return Err(ConsentError::Expired(party));
        }
        Ok(())
    }
}
