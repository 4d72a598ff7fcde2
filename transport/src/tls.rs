//! TLS 1.3 with raw public keys both ways (RFC 7250): a key is its own certificate, and there is no authority.
//!
//! Resumption and 0-RTT are off: every connection proves both keys anew, and no first flight can be replayed.

use std::fmt;
use std::sync::{Arc, OnceLock};

use ed25519_dalek::SigningKey;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, SignatureScheme, version,
};
use zeni_ledger::PublicKey;

use crate::identity::{certified_key, key_from_spki};

/// The protocol's name in TLS. Its version is in the hello, where a mismatch gets a typed answer.
const ALPN: &[u8] = b"zeni";
/// TLS wants a name for the server; keys are what is checked.
pub(crate) const SERVER_NAME: &str = "zeni";

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Rustls(#[from] Error),
    #[error(transparent)]
    CipherSuite(#[from] NoInitialCipherSuite),
}

/// A process's key, ready for handshakes.
#[derive(Clone)]
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    pub(crate) fn new(key: &SigningKey) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = certified_key(key, &provider)?;
        Ok(Self { provider, key })
    }

    /// Takes any ed25519 key; whether it is admitted is for admission to say, which can answer with a reason.
    pub(crate) fn server(&self) -> Result<quinn::ServerConfig, TlsError> {
        let verifier = Arc::new(AnyKey { algorithms: self.provider.signature_verification_algorithms });
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config)?)))
    }

    /// Takes the key `expected` only. Any other that the server proves is left in the second value.
    pub(crate) fn client(
        &self,
        expected: PublicKey,
    ) -> Result<(quinn::ClientConfig, Arc<OnceLock<PublicKey>>), TlsError> {
        let other = Arc::new(OnceLock::new());
        let verifier = Arc::new(PinnedKey {
            expected,
            other: Arc::clone(&other),
            algorithms: self.provider.signature_verification_algorithms,
        });
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok((quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?)), other))
    }
}

/// The client's key, whatever it is, as long as it is one ed25519 key.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

/// The one key that the server must have.
#[derive(Debug)]
struct PinnedKey {
    expected: PublicKey,
    other: Arc<OnceLock<PublicKey>>,
    algorithms: WebPkiSupportedAlgorithms,
}

fn only_key(key: &CertificateDer<'_>, further: &[CertificateDer<'_>]) -> Result<PublicKey, Error> {
    match further {
        [] => key_from_spki(key).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding)),
        _ => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
    }
}

fn verify(
    message: &[u8],
    key: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if signed.scheme != SignatureScheme::ED25519 {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key.as_ref()), signed, algorithms)
}

/// TLS 1.2 is not offered, so its signatures never come.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme))
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        only_key(key, further).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = only_key(key, further)?;
        if found != self.expected {
            self.other.get_or_init(|| found);
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
