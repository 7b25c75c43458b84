//! A party's own record of what it agreed to, started and revealed: lines of JSON, each signed and chained to the one
//! before. Knows no files: who keeps the lines appends them and has them on the disk before acting on them.
//!
//! A chain shows what was changed, moved or taken out. That its newest lines are missing it cannot show by itself: for
//! that there are [`Head`]s kept elsewhere, in a file of its own and in the logs of the peers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fleet::Millis;
use crate::ids::{Epoch, JobDigest, PartyId};
use crate::job::Reveal;
use crate::signing::{Hash, Nonce, PublicKey, SecretKey, Signed, SigningError, Statement};

/// Longest line.
pub const AUDIT_LINE_BYTES_MAX: usize = 64 * 1024;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// 0, 1, 2 and so on.
    pub number: u64,
    /// When.
    pub at: Millis,
    /// Whose log.
    pub party: PartyId,
    /// What happened.
    pub event: AuditEvent,
    /// Newest lines of the peers' logs that this party had heard of.
    pub peers: BTreeMap<PartyId, Head>,
    /// Digest of the line before; zeros before the first.
    pub previous: Hash,
}

impl Statement for Entry {
    const CONTEXT: &'static str = "audit entry 1";
}

impl Entry {
    /// Digest that the next line names.
    pub fn hash(&self) -> Hash {
        let bytes = postcard::to_extend(self, b"trefoil audit hash 1\0".to_vec());
        Hash(Sha256::digest(bytes.expect("an entry holds nothing that cannot be encoded")).into())
    }
}

/// What is recorded. No names of patients or data sets, no values.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AuditEvent {
    /// The policy in force from here on.
    Policy {
        /// SHA-256 of its file.
        digest: Hash,
    },
    /// A job was put before the party.
    Asked {
        /// Which.
        job: JobDigest,
        /// By whom.
        submitter: String,
        /// What for.
        purpose: String,
    },
    /// The party decided.
    Decided {
        /// On which job.
        job: JobDigest,
        /// Yes or no.
        approved: bool,
        /// Under which rule, or why not.
        because: String,
        /// The person who agreed, if one had to.
        person: Option<String>,
        /// Of the signed decision.
        nonce: Nonce,
    },
    /// An attempt was let in.
    Started {
        /// Of which job.
        job: JobDigest,
        /// Which attempt.
        epoch: Epoch,
    },
    /// A checkpoint was kept.
    Checkpoint {
        /// Of which job.
        job: JobDigest,
        /// After which step.
        step: u64,
    },
    /// A result was opened, or this party's part of one handed out.
    Revealed {
        /// In which job.
        job: JobDigest,
        /// What.
        what: Reveal,
        /// How many numbers.
        size: u64,
    },
    /// An attempt ended here.
    Ended {
        /// Of which job.
        job: JobDigest,
        /// Which attempt.
        epoch: Epoch,
        /// How, in words.
        how: String,
    },
    /// This party's shares were renewed with another party that had lost its own.
    Reshared {
        /// Of which job.
        job: JobDigest,
        /// Who had lost them.
        lost: PartyId,
    },
}

impl AuditEvent {
    /// The job that it is about.
    pub fn job(&self) -> Option<JobDigest> {
        match self {
            Self::Policy { .. } => None,
            Self::Asked { job, .. }
            | Self::Decided { job, .. }
            | Self::Started { job, .. }
            | Self::Checkpoint { job, .. }
            | Self::Revealed { job, .. }
            | Self::Ended { job, .. }
            | Self::Reshared { job, .. } => Some(*job),
        }
    }
}

/// How far a log has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Lines.
    pub entries: u64,
    /// Digest of the last; zeros if there is none.
    pub hash: Hash,
}

impl Head {
    /// Of a log without lines.
    pub const EMPTY: Self = Self { entries: 0, hash: Hash([0; 32]) };
}

/// A head for others to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// Whose log.
    pub party: PartyId,
    /// How far it has come.
    pub head: Head,
}

impl Statement for Anchor {
    const CONTEXT: &'static str = "audit anchor 1";
}

/// What is wrong with a log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuditError {
    /// Not a line of a log.
    #[error("line {line}: cannot be read: {why}")]
    Form {
        /// From 1.
        line: u64,
        /// Why.
        why: String,
    },
    /// Not this party's line.
    #[error("line {line}: {source}")]
    Signature {
        /// From 1.
        line: u64,
        /// What is wrong.
        source: SigningError,
    },
    /// Of another party.
    #[error("line {line}: of the log of {found}")]
    Party {
        /// From 1.
        line: u64,
        /// Whose.
        found: PartyId,
    },
    /// Lines before it are missing, or were moved or changed.
    #[error("line {line}: does not follow the line before it")]
    Chain {
        /// From 1.
        line: u64,
    },
    /// Time goes back.
    #[error("line {line}: is older than the line before it")]
    Time {
        /// From 1.
        line: u64,
    },
    /// The last line was not written to its end, as after a crash.
    #[error("line {line}: is cut off")]
    Torn {
        /// From 1.
        line: u64,
    },
    /// The newest lines are missing.
    #[error("the log has {found} lines, an anchor has seen {known}")]
    Truncated {
        /// Lines.
        found: u64,
        /// Lines that there were.
        known: u64,
    },
    /// Written anew, with the party's key.
    #[error("line {line}: is not the one that an anchor has seen")]
    Rewritten {
        /// From 1.
        line: u64,
    },
}

/// The end of a log, to which lines are appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    party: PartyId,
    head: Head,
    newest: Millis,
}

impl Chain {
    /// A log without lines.
    pub fn new(party: PartyId) -> Self {
        Self { party, head: Head::EMPTY, newest: 0 }
    }

    /// How far it has come.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The head, signed, for others to keep.
    pub fn anchor(&self, key: &SecretKey) -> Signed<Anchor> {
        key.sign(Anchor { party: self.party, head: self.head })
    }

    /// The next line, with its end of line. A clock that went back stands still here.
    pub fn append(&mut self, key: &SecretKey, at: Millis, event: AuditEvent, peers: BTreeMap<PartyId, Head>) -> String {
        self.newest = self.newest.max(at);
        let Head { entries: number, hash: previous } = self.head;
        let entry = Entry { number, at: self.newest, party: self.party, event, peers, previous };
        self.head = Head { entries: number + 1, hash: entry.hash() };
        let mut line = serde_json::to_string(&key.sign(entry)).expect("an entry holds nothing that JSON cannot say");
        line.push('\n');
        line
    }

    /// Checks a whole log and gives its entries and its end. `anchors` are heads of this log that were kept elsewhere;
    /// their signatures have been checked.
    pub fn verify(
        text: &str,
        party: PartyId,
        key: &PublicKey,
        anchors: &[Head],
    ) -> Result<(Vec<Entry>, Self), AuditError> {
        let (mut chain, mut entries) = (Self::new(party), Vec::new());
        for (line, text) in (1..).zip(text.split_inclusive('\n')) {
            let Some(text) = text.strip_suffix('\n') else { return Err(AuditError::Torn { line }) };
            let entry = chain.follow(line, text, key)?;
            if anchors.iter().any(|anchor| anchor.entries == line && anchor.hash != chain.head.hash) {
                return Err(AuditError::Rewritten { line });
            }
            entries.push(entry);
        }
        let known = anchors.iter().map(|anchor| anchor.entries).max().unwrap_or(0);
        if known > chain.head.entries {
            return Err(AuditError::Truncated { found: chain.head.entries, known });
        }
        Ok((entries, chain))
    }

    fn follow(&mut self, line: u64, text: &str, key: &PublicKey) -> Result<Entry, AuditError> {
        if text.len() > AUDIT_LINE_BYTES_MAX {
            return Err(AuditError::Form { line, why: format!("longer than {AUDIT_LINE_BYTES_MAX} bytes") });
        }
        let signed: Signed<Entry> =
            serde_json::from_str(text).map_err(|why| AuditError::Form { line, why: why.to_string() })?;
        signed.verify(key).map_err(|source| AuditError::Signature { line, source })?;
        let entry = signed.body;
        if entry.party != self.party {
            return Err(AuditError::Party { line, found: entry.party });
        }
        if (entry.number, entry.previous) != (self.head.entries, self.head.hash) {
            return Err(AuditError::Chain { line });
        }
        if entry.at < self.newest {
            return Err(AuditError::Time { line });
        }
        self.newest = entry.at;
        self.head = Head { entries: entry.number + 1, hash: entry.hash() };
        Ok(entry)
    }
}

/// Entries as lines of JSON for other programs, without signatures: all, or those of one job.
pub fn export(entries: &[Entry], job: Option<JobDigest>) -> String {
    let wanted = entries.iter().filter(|entry| job.is_none() || entry.event.job() == job);
    let line = |entry| serde_json::to_string(entry).expect("an entry holds nothing that JSON cannot say") + "\n";
    wanted.map(line).collect()
}

#[cfg(test)]
mod tests;
