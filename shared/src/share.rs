//! Replicated secret sharing, as the data owner sees it: split before sending, join after opening.
//!
//! `x = x0 + x1 + x2 mod 2^64`; party `i` holds the components `x_i` and `x_{i+1}`.

use std::fmt;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::RngCore;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::ids::PartyId;

/// One party's part of a shared vector: components `x_i` and `x_{i+1}` of every element.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// `x_i`.
    pub first: Vec<u64>,
    /// `x_{i+1}`.
    pub second: Vec<u64>,
}

impl Share {
    /// A sharing of `len` zeros that needs no randomness (only ever public zeros).
    pub fn zeros(len: usize) -> Self {
        Self { first: vec![0; len], second: vec![0; len] }
    }

    /// The part of `party` in a sharing of words that all parties know: all of it in component 0.
    pub fn of_public(party: PartyId, words: Vec<u64>) -> Self {
        let zeros = vec![0; words.len()];
        match party.index() {
            0 => Self { first: words, second: zeros },
            1 => Self { first: zeros.clone(), second: zeros },
            _ => Self { first: zeros, second: words },
        }
    }

    /// Pieces joined end to end.
    pub fn concat(pieces: &[Self]) -> Self {
        let join = |part: fn(&Self) -> &[u64]| pieces.iter().map(part).collect::<Vec<_>>().concat();
        Self { first: join(|piece| &piece.first), second: join(|piece| &piece.second) }
    }

    /// Elements shared.
    pub fn len(&self) -> usize {
        self.first.len()
    }

    /// Whether nothing is shared.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share(<{} elements>)", self.len())
    }
}

/// A seed that stretches to one component of a sharing.
#[derive(Clone, Serialize, Deserialize, Zeroize)]
#[zeroize(drop)]
pub struct Seed([u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(<secret>)")
    }
}

impl Seed {
    /// A fresh seed from the operating system.
    pub fn fresh() -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the operating system gives randomness");
        Self(seed)
    }

    /// The component of `len` elements that this seed stands for.
    pub fn stretch(&self, len: usize) -> Vec<u64> {
        let mut stream = ChaCha20Rng::from_seed(self.0);
        (0..len).map(|_| stream.next_u64()).collect()
    }
}

/// What the data owner sends to one party: two of the three components are seeds, so only P1 and P2 receive words.
#[derive(Clone, Serialize, Deserialize)]
pub enum SealedShare {
    /// For P0: both components are seeds.
    Seeds(Seed, Seed),
    /// For P1: a seed, then the words of component 2.
    SeedWords(Seed, Vec<u64>),
    /// For P2: the words of component 2, then a seed.
    WordsSeed(Vec<u64>, Seed),
}

impl fmt::Debug for SealedShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedShare(<secret>)")
    }
}

impl SealedShare {
    /// The party's share of `len` elements; `None` if the words are not `len` long.
    pub fn into_share(self, len: usize) -> Option<Share> {
        let share = match self {
            Self::Seeds(first, second) => Share { first: first.stretch(len), second: second.stretch(len) },
            Self::SeedWords(first, second) => Share { first: first.stretch(len), second },
            Self::WordsSeed(first, second) => Share { first, second: second.stretch(len) },
        };
        (share.first.len() == len && share.second.len() == len).then_some(share)
    }
}

/// Splits secret words into what P0, P1 and P2 receive, under fresh randomness.
pub fn split(secret: &[u64]) -> [SealedShare; 3] {
    let (seed0, seed1) = (Seed::fresh(), Seed::fresh());
    let mut rest = secret.to_vec();
    for seed in [&seed0, &seed1] {
        for (word, mask) in rest.iter_mut().zip(seed.stretch(secret.len())) {
            *word = word.wrapping_sub(mask);
        }
    }
    [
        SealedShare::Seeds(seed0.clone(), seed1.clone()),
        SealedShare::SeedWords(seed1, rest.clone()),
        SealedShare::WordsSeed(rest, seed0),
    ]
}

/// Joins the three parties' shares; `None` if the replicated copies differ (a lying or broken party).
pub fn join(shares: &[Share; 3]) -> Option<Vec<u64>> {
    let consistent = (0..3).all(|i| shares[i].second == shares[(i + 1) % 3].first);
    consistent.then(|| {
        let components = shares[0].first.iter().zip(&shares[0].second).zip(&shares[1].second);
        components.map(|((a, b), c)| a.wrapping_add(*b).wrapping_add(*c)).collect()
    })
}

/// One party's word of every element of an additive sharing that was made to be joined once, by whoever may know it:
/// masked afresh, so that the three together say their sum and nothing else.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[zeroize(drop)]
pub struct Addend(Vec<u64>);

impl Addend {
    /// Words of one party.
    pub fn new(words: Vec<u64>) -> Self {
        Self(words)
    }

    /// Pieces joined end to end.
    pub fn concat(pieces: &[Self]) -> Self {
        Self(pieces.iter().map(|piece| piece.0.as_slice()).collect::<Vec<_>>().concat())
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the three parties' words add up to; `None` if their numbers differ.
    pub fn join(parts: &[Self; 3]) -> Option<Vec<u64>> {
        let [a, b, c] = parts;
        (a.len() == b.len() && b.len() == c.len()).then(|| {
            let words = a.0.iter().zip(&b.0).zip(&c.0);
            words.map(|((a, b), c)| a.wrapping_add(*b).wrapping_add(*c)).collect()
        })
    }
}

impl fmt::Debug for Addend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Addend(<{} elements>)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn deal(secret: &[u64]) -> [Share; 3] {
        split(secret).map(|sealed| sealed.into_share(secret.len()).unwrap())
    }

    proptest! {
        #[test]
        fn joining_undoes_splitting(secret: Vec<u64>) {
            prop_assert_eq!(join(&deal(&secret)), Some(secret));
        }
    }

    #[test]
    fn a_changed_copy_is_noticed() {
        let mut shares = deal(&[1, 2, 3]);
        shares[2].first[1] ^= 1;
        assert_eq!(join(&shares), None);
    }

    #[test]
    fn public_words_are_a_sharing_of_themselves() {
        let words = vec![7, u64::MAX];
        assert_eq!(join(&PartyId::ALL.map(|party| Share::of_public(party, words.clone()))), Some(words));
    }

    #[test]
    fn addends_add_up_if_there_are_as_many_of_each() {
        let [a, b] = [Addend::new(vec![1, u64::MAX]), Addend::new(vec![5, 1])];
        assert_eq!(Addend::join(&[a.clone(), b.clone(), a.clone()]), Some(vec![7, u64::MAX]));
        assert_eq!(Addend::join(&[a.clone(), b.clone(), Addend::new(vec![1])]), None);
        assert_eq!(Addend::concat(&[a, b]), Addend::new(vec![1, u64::MAX, 5, 1]));
    }

    #[test]
    fn debug_shows_sizes_only() {
        assert_eq!(format!("{:?}", Addend::new(vec![7, 8])), "Addend(<2 elements>)");
        assert_eq!(format!("{:?}", deal(&[7, 8])[0]), "Share(<2 elements>)");
    }
}
