//! TLS 1.3 in which each side accepts exactly the certificates its roster pins, while they are valid.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    RootCertStore, ServerConfig, SignatureScheme, version,
};

use super::identity::Identity;

const ALPN: &[u8] = b"trefoil-lane";

/// For dialling a peer who must show `pinned`.
pub(super) fn client_config(identity: &Identity, pinned: &[u8]) -> Result<ClientConfig, Error> {
    let provider = provider();
    let pins = Arc::new(PinnedCertificates::new([pinned], &provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pins)
        .with_client_auth_cert(identity.chain(), identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Each session shall have a handshake of its own: keys are exported from it.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// For accepting peers who must show one of `pinned`.
pub(super) fn server_config<'a>(
    identity: &Identity,
    pinned: impl IntoIterator<Item = &'a [u8]>,
) -> Result<ServerConfig, Error> {
    let provider = provider();
    let pins = Arc::new(PinnedCertificates::new(pinned, &provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(pins)
        .with_single_cert(identity.chain(), identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Whether a pinned certificate can be used at this moment; says until when if it cannot.
pub(super) fn check_validity(certificate: &[u8], now: UnixTime) -> Result<(), Error> {
    check_dates(&CertificateDer::from(certificate), now, &provider())
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime, provider: &CryptoProvider) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let no_anchors = RootCertStore::empty();
    let algorithms = provider.signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&parsed, &no_anchors, &[], now, algorithms) {
        // Form, dates and purpose are checked before the issuer, and the pin stands in for an issuer.
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Ok(()),
        verdict => verdict,
    }
}

/// AES-128-GCM first: the fastest with AES instructions, and QUIC needs it for its first packets anyway.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

#[derive(Debug)]
struct PinnedCertificates {
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl PinnedCertificates {
    fn new<'a>(pinned: impl IntoIterator<Item = &'a [u8]>, provider: &Arc<CryptoProvider>) -> Self {
        let pinned = pinned.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        Self { pinned, provider: provider.clone() }
    }

    fn check(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        if !self.pinned.iter().any(|pinned| pinned == certificate) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        check_dates(certificate, now, &self.provider)
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
}

fn refuse_tls12() -> Error {
    PeerMisbehaved::SelectedUnofferedCipherSuite.into()
}

impl ServerCertVerifier for PinnedCertificates {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PinnedCertificates {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn valid_for(seconds: u64) -> Identity {
        Identity::generate("p.test", Duration::from_secs(seconds)).unwrap()
    }

    fn at(offset_s: i64) -> UnixTime {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        UnixTime::since_unix_epoch(Duration::from_secs(now.strict_add_signed(offset_s)))
    }

    #[test]
    fn only_the_pinned_certificate_passes_and_only_while_it_is_valid() {
        let (ours, other) = (valid_for(60), valid_for(60));
        let pins = PinnedCertificates::new([ours.certificate()], &provider());
        let check = |identity: &Identity, now| pins.check(&identity.chain()[0], now);

        assert_eq!(check(&ours, at(0)), Ok(()));
        assert_eq!(check(&other, at(0)), Err(CertificateError::ApplicationVerificationFailure.into()));
        let expired = check(&ours, at(120)).unwrap_err();
        assert!(matches!(expired, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{expired}");
        let early = check(&ours, at(-3600)).unwrap_err();
        assert!(matches!(early, Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })), "{early}");
    }

    #[test]
    fn a_certificate_of_an_unknown_issuer_may_be_pinned_but_not_outlive_its_dates() {
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(rcgen::CertificateParams::new(vec!["ca.test".into()]).unwrap(), key);
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new(vec!["p.test".into()]).unwrap();
        leaf.not_after = (SystemTime::now() + Duration::from_secs(60)).into();
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        assert_eq!(check_validity(leaf.der(), at(0)), Ok(()));
        assert!(check_validity(leaf.der(), at(120)).is_err());
        assert!(check_validity(b"not a certificate", at(0)).is_err());
    }
}
