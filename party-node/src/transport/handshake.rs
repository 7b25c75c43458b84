//! What two parties tell each other before a lane carries data, and whether it fits. Pure: bytes in, verdict out.
//!
//! Each party says hello to both others with a fresh nonce, then repeats to each the three nonces it knows. When all
//! three lists agree, every key of the session depends on fresh randomness of every party.

use serde::{Deserialize, Serialize};
use shared::ids::{Epoch, Lane, PartyId};

use super::TransportError;
use super::secrets::{Nonce, SessionContext};

/// Version of the framing and of these messages.
pub const PROTOCOL_VERSION: u16 = 1;

/// First message each way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub protocol: u16,
    /// Version of the sender's program.
    pub version: String,
    /// Who it says it is; its certificate must say the same.
    pub party: PartyId,
    /// Which lane it serves.
    pub lane: Lane,
    /// Which incarnation of the job it means.
    pub epoch: Epoch,
    /// Which job it approved.
    pub job_digest: [u8; 32],
    /// Its contribution to the session's keys.
    pub nonce: Nonce,
}

/// Second message each way: the nonces of P0, P1 and P2 as the sender knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoncesHeard(pub [Nonce; 3]);

impl Hello {
    /// What this party says of itself.
    pub fn new(context: &SessionContext<'_>, party: PartyId, nonce: Nonce) -> Self {
        Self {
            protocol: PROTOCOL_VERSION,
            version: context.version.to_owned(),
            party,
            lane: context.lane,
            epoch: context.epoch,
            job_digest: *context.job_digest,
            nonce,
        }
    }

    /// Bytes for the wire.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a hello always encodes")
    }

    /// Reads the hello of `peer`, as its certificate names it.
    pub fn decode(peer: PartyId, bytes: &[u8]) -> Result<Self, TransportError> {
        decode(peer, "hello", bytes)
    }

    /// Whether the peer that `theirs` came from means the same session as we do.
    pub fn check(&self, peer: PartyId, theirs: &Hello) -> Result<(), TransportError> {
        let differs = |what: &str, theirs: String, ours: String| {
            Err(TransportError::Connect { peer, reason: format!("its {what} is {theirs}, ours is {ours}") })
        };
        if theirs.protocol != self.protocol {
            return differs("protocol version", theirs.protocol.to_string(), self.protocol.to_string());
        }
        if theirs.version != self.version {
            return differs("program version", printable(&theirs.version), printable(&self.version));
        }
        if theirs.party != peer {
            let reason = format!("it calls itself {} but shows the certificate of {peer}", theirs.party);
            return Err(TransportError::Connect { peer, reason });
        }
        if theirs.lane != self.lane {
            return differs("lane number", theirs.lane.0.to_string(), self.lane.0.to_string());
        }
        if theirs.job_digest != self.job_digest {
            return differs("job digest", abbreviated(&theirs.job_digest), abbreviated(&self.job_digest));
        }
        if theirs.epoch != self.epoch {
            return differs("session epoch", theirs.epoch.0.to_string(), self.epoch.0.to_string());
        }
        Ok(())
    }
}

impl NoncesHeard {
    /// Gathers the nonces, refusing any that is not fresh randomness: zero, or equal to another's.
    pub fn gather(me: PartyId, mine: Nonce, next: Nonce, prev: Nonce) -> Result<Self, TransportError> {
        for (peer, nonce) in [(me.next(), next), (me.prev(), prev)] {
            if nonce == [0; 32] {
                return Err(TransportError::Connect { peer, reason: "its nonce is all zero".into() });
            }
            if nonce == mine {
                return Err(TransportError::Connect { peer, reason: "its nonce repeats ours".into() });
            }
        }
        if next == prev {
            let reason = format!("its nonce repeats that of {}", me.prev());
            return Err(TransportError::Connect { peer: me.next(), reason });
        }
        let mut nonces = [mine; 3];
        nonces[me.next().index()] = next;
        nonces[me.prev().index()] = prev;
        Ok(Self(nonces))
    }

    /// Bytes for the wire.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("nonces always encode")
    }

    /// Reads what `peer` heard and compares it with what we heard.
    pub fn check(&self, peer: PartyId, bytes: &[u8]) -> Result<(), TransportError> {
        let theirs: NoncesHeard = decode(peer, "list of nonces", bytes)?;
        let Some(party) = PartyId::ALL.into_iter().find(|p| theirs.0[p.index()] != self.0[p.index()]) else {
            return Ok(());
        };
        let reason = format!("it heard another nonce from {party} than we did: someone runs two sessions at once");
        Err(TransportError::Connect { peer, reason })
    }
}

fn decode<'a, T: Deserialize<'a>>(peer: PartyId, what: &str, bytes: &'a [u8]) -> Result<T, TransportError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => {
            Err(TransportError::BadFrame { peer, reason: format!("a {what} of {} bytes does not parse", bytes.len()) })
        }
    }
}

/// Text of a peer, cut and cleaned for an error message.
fn printable(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_default).collect()
}

fn abbreviated(digest: &[u8; 32]) -> String {
    let mut text: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    text.push_str("..");
    text
}

/// Body of the fuzz target: whatever a peer says, we answer with a verdict.
#[cfg(any(test, feature = "test-world"))]
pub fn fuzz_handshake(data: &[u8]) {
    let [me, peer, _] = PartyId::ALL;
    let context = SessionContext { version: "1", job_digest: &[1; 32], epoch: Epoch(1), lane: Lane(0) };
    let ours = Hello::new(&context, me, [1; 32]);
    if let Ok(theirs) = Hello::decode(peer, data) {
        let verdict = ours.check(peer, &theirs);
        assert_eq!(verdict.is_ok(), theirs == Hello { party: peer, nonce: theirs.nonce, ..ours });
        assert_eq!(Hello::decode(peer, &theirs.encode()), Ok(theirs));
    }
    let heard = NoncesHeard([[1; 32], [2; 32], [3; 32]]);
    assert_eq!(heard.check(peer, data).is_ok(), data == heard.encode());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTEXT: SessionContext<'_> =
        SessionContext { version: "0.1.0", job_digest: &[0xab; 32], epoch: Epoch(3), lane: Lane(2) };

    fn hello(index: usize) -> Hello {
        Hello::new(&CONTEXT, PartyId::ALL[index], [7; 32])
    }

    fn refusal(theirs: &Hello) -> String {
        hello(0).check(PartyId::ALL[1], theirs).unwrap_err().to_string()
    }

    #[test]
    fn each_mismatch_names_the_peer_and_both_values() {
        assert_eq!(hello(0).check(PartyId::ALL[1], &hello(1)), Ok(()));
        let cases = [
            (Hello { protocol: 9, ..hello(1) }, "its protocol version is 9, ours is 1"),
            (Hello { version: "0.2\u{1b}".into(), ..hello(1) }, "its program version is 0.2\\u{1b}, ours is 0.1.0"),
            (Hello { lane: Lane(0), ..hello(1) }, "its lane number is 0, ours is 2"),
            (Hello { job_digest: [1; 32], ..hello(1) }, "its job digest is 010101010101.., ours is abababababab.."),
            (Hello { epoch: Epoch(2), ..hello(1) }, "its session epoch is 2, ours is 3"),
            (hello(2), "it calls itself P2 but shows the certificate of P1"),
        ];
        for (theirs, reason) in cases {
            assert_eq!(refusal(&theirs), format!("cannot connect to P1: {reason}"));
        }
    }

    #[test]
    fn stale_nonces_are_refused() {
        let [p0, p1, p2] = PartyId::ALL;
        let gather = |next, prev| NoncesHeard::gather(p0, [1; 32], next, prev);
        assert_eq!(gather([2; 32], [3; 32]), Ok(NoncesHeard([[1; 32], [2; 32], [3; 32]])));
        for (next, prev, culprit) in [
            ([0; 32], [3; 32], p1),
            ([2; 32], [0; 32], p2),
            ([1; 32], [3; 32], p1),
            ([2; 32], [1; 32], p2),
            ([2; 32], [2; 32], p1),
        ] {
            assert!(matches!(gather(next, prev), Err(TransportError::Connect { peer, .. }) if peer == culprit));
        }
    }

    #[test]
    fn a_party_that_tells_two_stories_is_found_out() {
        let ours = NoncesHeard([[1; 32], [2; 32], [3; 32]]);
        let theirs = NoncesHeard([[1; 32], [2; 32], [4; 32]]);
        assert_eq!(ours.check(PartyId::ALL[1], &ours.encode()), Ok(()));
        let refusal = ours.check(PartyId::ALL[1], &theirs.encode()).unwrap_err().to_string();
        assert!(refusal.contains("another nonce from P2"), "{refusal}");
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_handshake(data: Vec<u8>) {
            fuzz_handshake(&data);
        }

        #[test]
        fn no_near_valid_hello_breaks_the_handshake(flip in 0_usize..90, bit in 0_u8..8) {
            let mut bytes = hello(1).encode();
            if let Some(byte) = bytes.get_mut(flip) {
                *byte ^= 1 << bit;
            }
            fuzz_handshake(&bytes);
        }
    }
}
