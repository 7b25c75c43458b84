//! Keys that two parties of a lane share for one session. Derived, never stored: a new session has new keys.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use shared::ids::{Epoch, Lane, PartyId};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::compute::Key;

/// Label of the TLS exporter (RFC 8446, section 7.5) from which a pair's secret is taken.
pub(super) const EXPORTER_LABEL: &[u8] = b"EXPORTER-trefoil-pair";
const KEY_LABEL: &[u8] = b"trefoil pair key";

/// A fresh random value that each party contributes to the keys of a session.
pub type Nonce = [u8; 32];

/// What the three parties must agree on before a lane carries data.
#[derive(Clone, Copy, Debug)]
pub struct SessionContext<'a> {
    /// Version of the program.
    pub version: &'a str,
    /// Digest of the job that all parties approved.
    pub job_digest: &'a [u8; 32],
    /// Incarnation of the job.
    pub epoch: Epoch,
    /// Which replica.
    pub lane: Lane,
}

/// This party's keys with each of the two others.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionSecrets {
    #[zeroize(skip)]
    me: PartyId,
    next: Key,
    prev: Key,
}

impl fmt::Debug for SessionSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionSecrets({}, 2 keys)", self.me)
    }
}

impl SessionSecrets {
    /// Derives both keys from the exporter secrets of this party's two connections.
    pub(super) fn derive(
        me: PartyId,
        exported_next: &[u8; 32],
        exported_prev: &[u8; 32],
        nonces: &[Nonce; 3],
        context: &SessionContext<'_>,
    ) -> Self {
        let key = |exported, peer| derive_pair_key(exported, nonces, context, [me, peer]);
        Self { me, next: key(exported_next, me.next()), prev: key(exported_prev, me.prev()) }
    }

    /// The keys of three parties in one process; `seed` stands in for all that is random in a real session.
    #[cfg(any(test, feature = "test-world"))]
    pub fn for_tests(me: PartyId, lane: Lane, seed: u64) -> Self {
        let exported = |peer: PartyId| {
            let mut secret = [0; 32];
            secret[..8].copy_from_slice(&seed.to_le_bytes());
            secret[8] = u8::from(me.min(peer));
            secret[9] = u8::from(me.max(peer));
            secret
        };
        let context = SessionContext { version: "test", job_digest: &[0; 32], epoch: Epoch(seed), lane };
        let nonces = [[1; 32], [2; 32], [3; 32]];
        Self::derive(me, &exported(me.next()), &exported(me.prev()), &nonces, &context)
    }

    /// Whose keys these are.
    pub fn me(&self) -> PartyId {
        self.me
    }

    /// The ChaCha12 key that this party and `peer` share, and the third does not know. Panics if `peer` is this party.
    pub fn key_with(&self, peer: PartyId) -> Key {
        assert!(peer != self.me, "{peer} has no key with itself");
        if peer == self.me.next() { self.next } else { self.prev }
    }
}

/// HKDF-SHA256 (RFC 5869): the pair's exporter secret as input key, the sorted nonces of all parties as salt, and
/// all that the parties agreed on as context. Both ends of a pair compute the same; nobody else can.
pub fn derive_pair_key(
    exported: &[u8; 32],
    nonces: &[Nonce; 3],
    context: &SessionContext<'_>,
    pair: [PartyId; 2],
) -> Key {
    let mut sorted = *nonces;
    sorted.sort_unstable();
    let version_length = u32::try_from(context.version.len()).expect("a version is a few bytes").to_le_bytes();
    let [low, high] = if pair[0] < pair[1] { pair } else { [pair[1], pair[0]] };

    let mut bytes = Zeroizing::new([0_u8; 32]);
    Hkdf::<Sha256>::new(Some(sorted.as_flattened()), exported)
        .expand_multi_info(
            &[
                KEY_LABEL,
                &version_length,
                context.version.as_bytes(),
                context.job_digest,
                &context.epoch.0.to_le_bytes(),
                &context.lane.0.to_le_bytes(),
                &[low.into(), high.into()],
            ],
            bytes.as_mut_slice(),
        )
        .expect("32 bytes are one block of the hash");

    let mut key = Key::default();
    for (word, chunk) in key.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(chunk.try_into().expect("four bytes"));
    }
    key
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const CONTEXT: SessionContext<'_> =
        SessionContext { version: "0.1.0", job_digest: &[9; 32], epoch: Epoch(1), lane: Lane(0) };
    const NONCES: [Nonce; 3] = [[3; 32], [1; 32], [2; 32]];
    const PAIR: [PartyId; 2] = [PartyId::ALL[0], PartyId::ALL[1]];

    #[test]
    fn both_ends_agree_whatever_order_they_hold_things_in() {
        let key = derive_pair_key(&[5; 32], &NONCES, &CONTEXT, PAIR);
        let other = derive_pair_key(&[5; 32], &[[2; 32], [3; 32], [1; 32]], &CONTEXT, [PAIR[1], PAIR[0]]);
        assert_eq!(key, other);
    }

    #[test]
    fn every_ingredient_changes_the_key() {
        let [p0, p1, p2] = PartyId::ALL;
        let mut nonces = NONCES;
        nonces[2][31] ^= 1;
        let keys = [
            derive_pair_key(&[5; 32], &NONCES, &CONTEXT, PAIR),
            derive_pair_key(&[6; 32], &NONCES, &CONTEXT, PAIR),
            derive_pair_key(&[5; 32], &nonces, &CONTEXT, PAIR),
            derive_pair_key(&[5; 32], &NONCES, &CONTEXT, [p0, p2]),
            derive_pair_key(&[5; 32], &NONCES, &CONTEXT, [p1, p2]),
            derive_pair_key(&[5; 32], &NONCES, &SessionContext { version: "0.1.1", ..CONTEXT }, PAIR),
            derive_pair_key(&[5; 32], &NONCES, &SessionContext { job_digest: &[8; 32], ..CONTEXT }, PAIR),
            derive_pair_key(&[5; 32], &NONCES, &SessionContext { epoch: Epoch(2), ..CONTEXT }, PAIR),
            derive_pair_key(&[5; 32], &NONCES, &SessionContext { lane: Lane(1), ..CONTEXT }, PAIR),
        ];
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
    }

    /// Computed with Python's hmac module after RFC 5869, so that a change of the derivation cannot pass unseen.
    #[test]
    fn the_derivation_is_fixed() {
        let key = derive_pair_key(&[5; 32], &NONCES, &CONTEXT, PAIR);
        assert_eq!(key, KNOWN);
    }

    const KNOWN: Key = [0xc84f9818, 0x63a74563, 0x0e38c8e3, 0xee752e34, 0x8f8ebdcb, 0x256bb247, 0x1f6673a6, 0xcd155192];

    #[test]
    fn the_three_parties_of_a_test_hold_matching_keys() {
        let secrets = PartyId::ALL.map(|me| SessionSecrets::for_tests(me, Lane(0), 42));
        for me in PartyId::ALL {
            let peer = me.next();
            assert_eq!(secrets[me.index()].key_with(peer), secrets[peer.index()].key_with(me));
            assert_ne!(secrets[me.index()].key_with(peer), secrets[me.index()].key_with(me.prev()));
        }
        let other = SessionSecrets::for_tests(PartyId::ALL[0], Lane(0), 43);
        assert_ne!(other.key_with(PartyId::ALL[1]), secrets[0].key_with(PartyId::ALL[1]));
        assert_eq!(format!("{:?}", secrets[0]), "SessionSecrets(P0, 2 keys)");
    }
}
