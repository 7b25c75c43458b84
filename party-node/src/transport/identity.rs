//! Who a party is on the wire: its certificate and key, and the roster of certificates and addresses it trusts.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use shared::ids::{Lane, PartyId};
use zeroize::Zeroizing;

/// How far a fresh certificate reaches into the past, for parties whose clocks differ.
const CLOCK_SKEW_ALLOWED: Duration = Duration::from_secs(300);

/// A party's own certificate and private key.
///
/// Not serialisable on purpose: the key stays where it was made, only [`Identity::certificate`] travels.
#[derive(Clone)]
pub struct Identity {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(certificate <{} bytes>, key <hidden>)", self.certificate.len())
    }
}

/// Why an identity cannot be made or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Generate(String),
    /// The key is not PKCS#8 of a supported algorithm.
    #[error("the private key cannot be used: {0}")]
    Key(String),
}

impl Identity {
    /// Makes a self-signed Ed25519 certificate for `name`, valid from now for `validity`.
    pub fn generate(name: &str, validity: Duration) -> Result<Self, IdentityError> {
        let now = SystemTime::now();
        Self::generate_between(name, now - CLOCK_SKEW_ALLOWED, now + validity)
    }

    /// The same with both dates given.
    pub fn generate_between(name: &str, from: SystemTime, until: SystemTime) -> Result<Self, IdentityError> {
        let failed = |e: rcgen::Error| IdentityError::Generate(e.to_string());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(failed)?;
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = from.into();
        params.not_after = until.into();
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self { certificate: certificate.der().to_vec(), key: Zeroizing::new(key.serialize_der()) })
    }

    /// Takes up a stored certificate (DER) and its key (PKCS#8 DER).
    pub fn from_der(certificate: Vec<u8>, key: Vec<u8>) -> Result<Self, IdentityError> {
        let identity = Self { certificate, key: Zeroizing::new(key) };
        rustls::crypto::ring::sign::any_supported_type(&identity.key())
            .map_err(|e| IdentityError::Key(e.to_string()))?;
        Ok(identity)
    }

    /// The certificate, DER: what the other parties pin.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key, PKCS#8 DER, to be stored where only this party reads.
    pub fn private_key(&self) -> &Zeroizing<Vec<u8>> {
        &self.key
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(self.certificate.clone())]
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }
}

/// The three parties' pinned certificates, and where each of their lanes listens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    parties: [RosterEntry; 3],
}

/// One party in the roster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RosterEntry {
    /// The one certificate accepted from this party, DER.
    pub certificate: Vec<u8>,
    /// UDP address of each lane, by lane number.
    pub lanes: Vec<SocketAddr>,
}

impl Roster {
    /// From the entries of P0, P1 and P2.
    pub fn new(parties: [RosterEntry; 3]) -> Self {
        Self { parties }
    }

    /// The pinned certificate of a party, DER.
    pub fn certificate(&self, party: PartyId) -> &[u8] {
        &self.parties[party.index()].certificate
    }

    /// Where a party's lane listens, if the roster has that lane.
    pub fn address(&self, party: PartyId, lane: Lane) -> Option<SocketAddr> {
        self.parties[party.index()].lanes.get(usize::from(lane.0)).copied()
    }
}

impl fmt::Debug for RosterEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RosterEntry(certificate <{} bytes>, lanes {:?})", self.certificate.len(), self.lanes)
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.parties).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_identity_comes_back_and_its_key_never_prints() {
        let made = Identity::generate("p0.test", Duration::from_secs(60)).unwrap();
        let stored = Identity::from_der(made.certificate().to_vec(), made.private_key().to_vec()).unwrap();
        assert_eq!(stored.certificate(), made.certificate());
        assert_eq!(
            format!("{stored:?}"),
            format!("Identity(certificate <{} bytes>, key <hidden>)", { made.certificate().len() })
        );
        assert!(matches!(Identity::from_der(vec![], vec![1, 2, 3]), Err(IdentityError::Key(_))));
    }

    #[test]
    fn a_roster_survives_the_control_channel() {
        let address: SocketAddr = "127.0.0.1:7433".parse().unwrap();
        let entry = |n: u8| RosterEntry { certificate: vec![n; 9], lanes: vec![address] };
        let roster = Roster::new([entry(0), entry(1), entry(2)]);
        let bytes = postcard::to_stdvec(&roster).unwrap();
        assert_eq!(postcard::from_bytes::<Roster>(&bytes).unwrap(), roster);
        assert_eq!(roster.address(PartyId::ALL[1], Lane(0)), Some(address));
        assert_eq!(roster.address(PartyId::ALL[1], Lane(1)), None);
    }
}
