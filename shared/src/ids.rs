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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

/// Name of a run, unique on the machine that launched it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Digest that names a job wherever parties and orchestrator speak of it; text is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobDigest(pub [u8; 32]);

impl fmt::Display for JobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for JobDigest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        bytes_from_hex(text).map(Self).ok_or_else(|| "a job digest is 64 hexadecimal digits".into())
    }
}

impl Serialize for JobDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `N` bytes from exactly `2 N` lower-case hexadecimal digits, so that one value has one spelling.
pub fn bytes_from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_digest_survives_its_text(bytes: [u8; 32]) {
            let digest = JobDigest(bytes);
            prop_assert_eq!(digest.to_string().parse::<JobDigest>(), Ok(digest));
        }

        #[test]
        fn any_text_is_a_digest_or_an_error(text: String) {
            if let Ok(digest) = text.parse::<JobDigest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
