//! What a party agrees to, and how it makes sure that what starts is what it agreed to. The orchestrator carries all of
//! this and is believed in none of it: it can delay, and nothing else.
//!
//! A [`Proposal`] names everything; its digest names it. A [`Policy`] is the party's own opinion. A [`Decision`] is
//! what it says, signed. Before a party starts, [`Gate::enter`] looks at all of it once more.

mod decision;
mod gate;
mod policy;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{JobDigest, JobId};
use crate::job::{JobSpec, Reveal, Work};
use crate::signing::{Hash, PublicKey};

pub use decision::{ConsentError, Decision, Decisions, Endorsement};
pub use gate::{Gate, Start, StartError};
pub use policy::{Approval, Ledger, Policy, PolicyError, Refusal, Rule, Verdict};

/// Everything that the parties agree to when they agree to a job.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// What is computed on which data, and what is revealed.
    pub spec: JobSpec,
    /// What people call it.
    pub name: JobId,
    /// Who asks for it, and receives what is revealed to an owner.
    pub submitter: String,
    /// What for.
    pub purpose: String,
    /// By whom: the keys of P0, P1, P2.
    pub roster: [PublicKey; 3],
    /// Tells two runs of the same job apart.
    pub run: u64,
}

impl Proposal {
    /// Names it. Whoever holds the proposal computes this and believes no other.
    pub fn digest(&self) -> JobDigest {
        let bytes = postcard::to_extend(self, b"trefoil proposal 1\0".to_vec());
        JobDigest(Sha256::digest(bytes.expect("a proposal holds nothing that cannot be encoded")).into())
    }

    /// The data and the secret models that it works on.
    pub fn data(&self) -> Vec<Hash> {
        match &self.spec.work {
            Work::Train(training) => {
                let start = match training.start {
                    crate::job::Start::Seeded => None,
                    crate::job::Start::Shared { model_digest } => Some(Hash(model_digest)),
                };
                [Hash(training.data_digest)].into_iter().chain(start).collect()
            }
            Work::Infer(inference) => {
                let model = Some(Hash(inference.model_digest)).filter(|_| !inference.public_model);
                [Hash(inference.data_digest)].into_iter().chain(model).collect()
            }
            Work::Bench(_) => Vec::new(),
        }
    }

    /// Who learns a result: the submitter alone, or all parties and the submitter.
    pub fn audience(&self, reveal: Reveal) -> Audience<'_> {
        if reveal.is_for_its_owner() { Audience::Submitter(&self.submitter) } else { Audience::Everybody }
    }
}

/// Who learns a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience<'a> {
    /// All parties, and whoever submitted the job.
    Everybody,
    /// Whoever submitted the job.
    Submitter(&'a str),
}

#[cfg(test)]
mod tests;
