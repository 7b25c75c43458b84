//! A party's own opinion: what it agrees to without being asked twice. What no rule allows is refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Audience, Proposal};
use crate::fleet::Millis;
use crate::ids::{Epoch, JobDigest, PartyId};
use crate::job::{JobError, PROTOCOL_VERSION, Reveal};
use crate::signing::{Hash, PublicKey};

/// Longest policy file.
pub(super) const POLICY_BYTES_MAX: usize = 1 << 20;
/// In a list: anybody, anything.
const ANY: &str = "*";
/// Among those who may learn a result: all parties.
const PARTIES: &str = "parties";

/// A party's policy, from a TOML file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Keys of P0, P1, P2 as this party was told them by their owners. No job with others is agreed to.
    pub roster: [PublicKey; 3],
    /// What is allowed; the first rule that allows all of a job counts.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
}

/// What one rule allows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name in refusals and in the audit log.
    pub name: String,
    /// Who may submit; `"*"` is anybody whom the orchestrator lets in.
    pub submitters: Vec<String>,
    /// Digests of data sets and secret models, all of which must be listed; `"*"` is any.
    #[serde(default)]
    pub data: Vec<String>,
    /// What for; none is anything.
    #[serde(default)]
    pub purposes: Vec<String>,
    /// For each result that may be revealed, to whom: submitters, or `"parties"` for what all parties learn.
    #[serde(default)]
    pub reveal: BTreeMap<Reveal, Vec<String>>,
    /// Different jobs that may run under it; none is no limit. An approval counts whether or not the job ran.
    pub runs_max: Option<u64>,
    /// Attempts of one job, counting reservations that came to nothing.
    #[serde(default = "epochs_max")]
    pub epochs_max: u64,
    /// No longer valid from then on, in seconds since 1970; none is always valid.
    pub expires: Option<u64>,
    /// How long a decision under it is good for starting, in seconds.
    #[serde(default = "decision_seconds")]
    pub decision_seconds: u64,
    /// Whether a person must agree too.
    pub approval: Approval,
}

fn epochs_max() -> u64 {
    1000
}

fn decision_seconds() -> u64 {
    7 * 24 * 3600
}

/// Whether a person must agree too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approval {
    /// No: the rule is the agreement.
    Automatic,
    /// Yes, with `mpc-launch approve`.
    ByHand,
}

/// Jobs that this party has agreed to, by rule.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    approved: BTreeMap<String, BTreeSet<JobDigest>>,
}

impl Ledger {
    /// Counts an approval; once, however often it is given.
    pub fn count(&mut self, rule: &str, job: JobDigest) {
        self.approved.entry(rule.into()).or_default().insert(job);
    }

    fn others(&self, rule: &str, job: JobDigest) -> u64 {
        let approved = self.approved.get(rule);
        approved.map_or(0, |jobs| jobs.iter().filter(|other| **other != job).count() as u64)
    }
}

/// What a policy says of a job.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// Yes, or yes once a person agrees.
    Allowed {
        /// Under which rule.
        rule: String,
        /// Whether a person must agree too.
        approval: Approval,
        /// Last attempt.
        last: Epoch,
        /// An attempt must begin before.
        until: Millis,
    },
    /// No.
    Refused(Refusal),
}

/// Why a policy refuses a job.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Refusal {
    /// What was asked for is not what the digest names.
    #[error("the orchestrator named another digest than the proposal has")]
    Digest,
    /// Other parties than this one knows.
    #[error("the key of {0} is not the one in this party's own roster")]
    Roster(PartyId),
    /// Another version of the protocol.
    #[error("the job is for {0}, this party runs {PROTOCOL_VERSION}")]
    Version(String),
    /// Nobody should compute it.
    #[error(transparent)]
    Job(#[from] JobError),
    /// No rule allows it; what each lacks.
    #[error("no rule allows it: {}", .0.join("; "))]
    Rules(Vec<String>),
}

/// Why a policy file is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML, or not of this form.
    #[error("the policy cannot be read: {0}")]
    Form(String),
    /// Too long.
    #[error("a policy of {0} bytes: the limit is {POLICY_BYTES_MAX}")]
    TooLong(usize),
    /// Two rules with one name, or one without.
    #[error("rule {0:?}: every rule needs a name of its own")]
    Name(String),
    /// One key for two parties.
    #[error("the roster has one key for two parties")]
    SameKey,
    /// Neither a digest nor `"*"`.
    #[error("rule {rule:?}: {entry:?} is no digest of data (64 hexadecimal digits, or \"*\")")]
    Data {
        /// Which rule.
        rule: String,
        /// Which entry.
        entry: String,
    },
}

impl Policy {
    /// Reads a policy file. Unknown keys are errors: a rule that is misspelt must not be a rule that is missing.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::TooLong(text.len()));
        }
        let policy: Self = toml::from_str(text).map_err(|error| PolicyError::Form(error.to_string()))?;
        let mut names = BTreeSet::new();
        for rule in &policy.rules {
            if rule.name.is_empty() || !names.insert(&rule.name) {
                return Err(PolicyError::Name(rule.name.clone()));
            }
            let is_digest = |entry: &String| entry == ANY || crate::ids::bytes_from_hex::<32>(entry).is_some();
            if let Some(entry) = rule.data.iter().find(|entry| !is_digest(entry)) {
                return Err(PolicyError::Data { rule: rule.name.clone(), entry: entry.clone() });
            }
        }
        if policy.roster.iter().collect::<BTreeSet<_>>().len() < policy.roster.len() {
            return Err(PolicyError::SameKey);
        }
        Ok(policy)
    }

    /// What this party thinks of a job that the orchestrator calls `named`.
    pub fn judge(&self, named: JobDigest, proposal: &Proposal, ledger: &Ledger, now: Millis) -> Verdict {
        if let Err(refusal) = self.check(named, proposal) {
            return Verdict::Refused(refusal);
        }
        let mut lacks = Vec::new();
        for rule in &self.rules {
            let lacking = rule.lacks(named, proposal, ledger, now);
            if lacking.is_empty() {
                let for_long = now.saturating_add(rule.decision_seconds.saturating_mul(1000));
                let until = rule.expires.map_or(for_long, |expires| for_long.min(expires.saturating_mul(1000)));
                let (rule, approval, last) = (rule.name.clone(), rule.approval, Epoch(rule.epochs_max));
                return Verdict::Allowed { rule, approval, last, until };
            }
            lacks.push(format!("{}: {}", rule.name, lacking.join(", ")));
        }
        Verdict::Refused(Refusal::Rules(lacks))
    }

    /// What no rule can allow.
    pub(super) fn check(&self, named: JobDigest, proposal: &Proposal) -> Result<(), Refusal> {
        if proposal.digest() != named {
            return Err(Refusal::Digest);
        }
        if let Some(party) = PartyId::ALL.into_iter().find(|party| {
            let index = party.index();
            self.roster[index] != proposal.roster[index]
        }) {
            return Err(Refusal::Roster(party));
        }
        if proposal.spec.version != PROTOCOL_VERSION {
            return Err(Refusal::Version(proposal.spec.version.clone()));
        }
        Ok(proposal.spec.check()?)
    }
}

impl Rule {
    /// What of a job this rule does not allow.
    fn lacks(&self, job: JobDigest, proposal: &Proposal, ledger: &Ledger, now: Millis) -> Vec<String> {
        let mut lacks = Vec::new();
        if self.expires.is_some_and(|expires| now >= expires.saturating_mul(1000)) {
            lacks.push("it has expired".into());
        }
        if !lists(&self.submitters, &proposal.submitter) {
            lacks.push(format!("{:?} may not submit", proposal.submitter));
        }
        if !self.purposes.is_empty() && !lists(&self.purposes, &proposal.purpose) {
            lacks.push(format!("not for {:?}", proposal.purpose));
        }
        let unknown = proposal.data().into_iter().filter(|data: &Hash| !lists(&self.data, &data.to_string()));
        lacks.extend(unknown.map(|data| format!("data {data:?} is not listed")));
        for reveal in &proposal.spec.reveal {
            let to: &[String] = self.reveal.get(reveal).map_or(&[], Vec::as_slice);
            let (allowed, whom) = match proposal.audience(*reveal) {
                // What all parties learn is a matter between the parties, not of a name in a list.
                Audience::Everybody => (to.iter().any(|name| name == PARTIES), PARTIES),
                Audience::Submitter(name) => (name != PARTIES && lists(to, name), name),
            };
            if !allowed {
                lacks.push(format!("{} may not be revealed to {whom:?}", reveal.name()));
            }
        }
        if self.runs_max.is_some_and(|most| ledger.others(&self.name, job) >= most) {
            lacks.push("its runs are used up".into());
        }
        lacks
    }
}

fn lists(list: &[String], name: &str) -> bool {
    list.iter().any(|entry| entry == ANY || entry == name)
}
