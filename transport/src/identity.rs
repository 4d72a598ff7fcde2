//! Ed25519 keys in the two DER forms that TLS wants them in (RFC 8410).

use std::any::Any;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeni_ledger::PublicKey;

/// SubjectPublicKeyInfo of an ed25519 key is this and the 32 bytes of the key: there is one encoding only.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// PKCS#8 v1 of an ed25519 key is this and the 32 bytes of the seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The key as the raw public key that a handshake carries.
fn spki(key: &PublicKey) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), key.as_bytes()].concat()
}

/// The ed25519 key in a raw public key; `None` for any other kind of key or certificate.
pub(crate) fn key_from_spki(spki: &[u8]) -> Option<PublicKey> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    key.try_into().ok().map(PublicKey)
}

/// The public half of a signing key.
pub(crate) fn public_key(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

/// What a process proves its key with.
pub(crate) fn certified_key(key: &SigningKey, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let pkcs8 = [PKCS8_PREFIX.as_slice(), key.as_bytes()].concat();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
    let signer = provider.key_provider.load_private_key(private)?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki(&public_key(key)))], signer)))
}

/// The key that the other side of an established connection proved.
pub(crate) fn proven_key(identity: Option<Box<dyn Any>>) -> Option<PublicKey> {
    let chain = identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match chain.as_slice() {
        [spki] => key_from_spki(spki),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_public_keys_round_trip_and_nothing_else_is_one() {
        let key = PublicKey([7; 32]);
        let good = spki(&key);
        assert_eq!(key_from_spki(&good), Some(key));
        for length in 0..good.len() {
            assert_eq!(key_from_spki(&good[..length]), None);
        }
        assert_eq!(key_from_spki(&[good.clone(), vec![0]].concat()), None);
        let mut x25519 = good;
        x25519[8] = 0x6e;
        assert_eq!(key_from_spki(&x25519), None);
    }

    #[test]
    fn the_public_half_agrees_with_the_private_one() {
        let provider = rustls::crypto::ring::default_provider();
        let key = SigningKey::from_bytes(&[9; 32]);
        let certified = certified_key(&key, &provider).unwrap();
        let public = certified.key.public_key().expect("ring tells the public half");
        assert_eq!(key_from_spki(&public), Some(public_key(&key)));
        assert_eq!(key_from_spki(&certified.cert[0]), Some(public_key(&key)));
    }
}
