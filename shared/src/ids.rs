//! Names of parties, lanes and jobs: newtypes, never bare integers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the three mutually distrusting organisations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PartyId(u8);

impl PartyId {
    /// P0, P1, P2.
    pub const ALL: [PartyId; 3] = [PartyId(0), PartyId(1), PartyId(2)];

    /// The party with this number, if there is one.
    pub const fn new(index: usize) -> Option<Self> {
        match index {
            0 => Some(Self::ALL[0]),
            1 => Some(Self::ALL[1]),
            2 => Some(Self::ALL[2]),
            _ => None,
        }
    }

    /// 0, 1 or 2.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// P_{i+1}.
    pub const fn next(self) -> Self {
        Self((self.0 + 1) % 3)
    }

    /// P_{i-1}.
    pub const fn prev(self) -> Self {
        Self((self.0 + 2) % 3)
    }
}

impl fmt::Debug for PartyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.0)
    }
}

impl fmt::Display for PartyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.0)
    }
}

impl TryFrom<u8> for PartyId {
    type Error = String;
    fn try_from(value: u8) -> Result<Self, String> {
        Self::new(value.into()).ok_or_else(|| format!("party {value}: there are three, 0 to 2"))
    }
}

impl From<PartyId> for u8 {
    fn from(party: PartyId) -> u8 {
        party.0
    }
}

/// One data-parallel replica: this rank of every party together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Lane(pub u16);

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {}", self.0)
    }
}

/// One agreed incarnation of a job; all keys are fresh in it and every frame carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// Name of a run, unique on the machine that launched it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
