//! What a party believes of files and messages about consent: policies, signed decisions, audit logs.
#![no_main]

use shared::audit::Chain;
use shared::consent::{Decision, Policy, Proposal, Start};
use shared::fleet::{HostReport, Submission};
use shared::ids::PartyId;
use shared::signing::{PublicKey, Signed};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let key = PublicKey([3; 32]);
    if let Ok(decision) = postcard::from_bytes::<Signed<Decision>>(bytes) {
        assert!(decision.verify(&key).is_err(), "nobody holds this key");
    }
    let _ = postcard::from_bytes::<Start>(bytes);
    let _ = postcard::from_bytes::<Proposal>(bytes).map(|proposal| proposal.digest());
    let _ = postcard::from_bytes::<HostReport>(bytes).map(|report| report.check());
    let _ = postcard::from_bytes::<Submission>(bytes).map(|submission| submission.check());
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Policy::parse(text);
        if let Ok((entries, _)) = Chain::verify(text, PartyId::ALL[1], &key, &[]) {
            assert!(entries.is_empty(), "nobody holds this key");
        }
    }
});
