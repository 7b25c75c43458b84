//! Pseudo-random secret sharing: streams that exactly two parties can derive, addressed by position.
//!
//! A stream is ChaCha12 under a key of one pair of parties, one lane and one epoch; its nonce is the position
//! (call, channel, operation, purpose). Nothing here is ever written to disk or restored: a new epoch has new keys.

use std::fmt;

use shared::ids::PartyId;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::compute::Key;

/// The two keys that a party shares with its peers, for one lane and one epoch.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PairKeys {
    next: Key,
    prev: Key,
}

impl PairKeys {
    /// Keys shared with P_{i+1} and with P_{i-1}.
    pub fn new(next: Key, prev: Key) -> Self {
        Self { next, prev }
    }

    pub(super) fn with(&self, me: PartyId, peer: PartyId) -> &Key {
        if peer == me.next() { &self.next } else { &self.prev }
    }

    /// The keys themselves, for tests that look for them where they must not be.
    #[cfg(test)]
    pub(crate) fn for_inspection(&self) -> [Key; 2] {
        [self.next, self.prev]
    }

    /// Keys of all parties from one seed, for tests.
    #[cfg(any(test, feature = "test-world"))]
    pub fn for_test(seed: u32) -> [PairKeys; 3] {
        let key = |i: u32| [seed, i, 0x7365_7421, 0, 0, 0, 0, 0];
        [PairKeys::new(key(0), key(2)), PairKeys::new(key(1), key(0)), PairKeys::new(key(2), key(1))]
    }
}

impl fmt::Debug for PairKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairKeys(<secret>)")
    }
}

/// What a stream of an operation is for; streams of different purposes are independent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Purpose {
    /// Masks of a product before it is exchanged.
    Product,
    /// A component of the result.
    Output,
    /// Top bit of the mask of a truncation.
    MaskTop,
    /// Masks of the wrap bit of a truncation.
    Wrap,
    /// Monomials of the helper's bits.
    Monomials,
    /// Masks of leaf bits.
    Leaf,
    /// Dealt products of AND gates.
    Gate,
    /// Wire masks of AND gates.
    GateMask,
    /// The helper's bit as a number.
    Bit,
    /// The helper's bit times its mask.
    BitTimesMask,
    /// Values that the helper tabulates for the evaluators.
    Table,
    /// A component of a value that the helper shares.
    Input,
    /// Random bits of the evaluators.
    RandomBit,
    /// Masks of an addend that leaves the parties.
    Zero,
}

/// Where a stream lies: never used twice under one key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Position {
    pub(super) call: u32,
    pub(super) channel: u32,
    pub(super) operation: u32,
    pub(super) purpose: Purpose,
}

impl Position {
    pub(super) fn nonce(self) -> [u32; 3] {
        assert!(self.operation < 1 << 24, "a tile runs fewer than 2^24 operations");
        [self.call, self.channel, self.operation << 8 | self.purpose as u32]
    }
}

/// Panics when a stream position is used twice: the one mistake that would break every mask.
#[cfg(any(test, feature = "test-world"))]
#[derive(Default)]
pub struct Recorder(std::sync::Mutex<std::collections::HashSet<(Key, [u32; 3])>>);

#[cfg(any(test, feature = "test-world"))]
impl Recorder {
    pub(super) fn note(&self, key: &Key, nonce: [u32; 3]) {
        let fresh = self.0.lock().expect("no holder panics").insert((*key, nonce));
        assert!(fresh, "stream position {nonce:?} used twice under one key");
    }

    /// Whether another recorder saw none of the streams that this one saw.
    pub fn is_disjoint(&self, other: &Recorder) -> bool {
        self.0.lock().expect("no holder panics").is_disjoint(&other.0.lock().expect("no holder panics"))
    }

    /// Streams seen.
    pub fn len(&self) -> usize {
        self.0.lock().expect("no holder panics").len()
    }

    /// Whether no stream was used.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
