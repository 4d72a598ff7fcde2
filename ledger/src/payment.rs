//! The payment, the ledger's fast path: one fixed struct of 176 bytes, canonical because its length is all there is
//! to check.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | network |
//! | 4 | 4 | valid_until, Unix seconds |
//! | 8 | 32 | from |
//! | 40 | 32 | to |
//! | 72 | 8 | sequence |
//! | 80 | 8 | amount, the token's smallest unit |
//! | 88 | 4 | token |
//! | 92 | 4 | flags (none is defined; unknown ones are refused) |
//! | 96 | 16 | reference, the payer's own |
//! | 112 | 64 | ed25519 signature |

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::amount::{Amount, Sequence, TokenId};
use crate::hash::{GenesisId, TransactionId, hash_parts};
use crate::identity::{AccountId, PublicKey, SignatureBytes};

/// Length of a payment in bytes.
pub const PAYMENT_BYTES: usize = 176;
/// Length of the signed part.
pub const PAYMENT_BODY_BYTES: usize = 112;
/// What a payer signs begins with this, then the genesis id and the first 112 bytes.
pub const PAYMENT_DOMAIN: &str = "zeni payment v1";
/// Flag bits that have a meaning in this protocol version.
pub const KNOWN_FLAGS: u32 = 0;

const SIGNED_BYTES: usize = PAYMENT_DOMAIN.len() + 1 + 32 + PAYMENT_BODY_BYTES;

/// A payment in its canonical bytes. Its fields are read in place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Payment([u8; PAYMENT_BYTES]);

/// The fields of a payment before it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaymentBody {
    pub network: u32,
    /// Unix seconds; the payment is executable in blocks whose slot time is not later.
    pub valid_until: u32,
    pub from: AccountId,
    pub to: AccountId,
    pub sequence: Sequence,
    pub amount: Amount,
    pub token: TokenId,
    pub flags: u32,
    pub reference: [u8; 16],
}

impl PaymentBody {
    /// The first 112 bytes of the payment.
    pub fn to_bytes(&self) -> [u8; PAYMENT_BODY_BYTES] {
        let mut bytes = [0; PAYMENT_BODY_BYTES];
        bytes[0..4].copy_from_slice(&self.network.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.valid_until.to_le_bytes());
        bytes[8..40].copy_from_slice(&self.from.0);
        bytes[40..72].copy_from_slice(&self.to.0);
        bytes[72..80].copy_from_slice(&self.sequence.0.to_le_bytes());
        bytes[80..88].copy_from_slice(&self.amount.0.to_le_bytes());
        bytes[88..92].copy_from_slice(&self.token.0.to_le_bytes());
        bytes[92..96].copy_from_slice(&self.flags.to_le_bytes());
        bytes[96..112].copy_from_slice(&self.reference);
        bytes
    }

    /// What the payer signs in the ledger `genesis`.
    pub fn signed_bytes(&self, genesis: &GenesisId) -> Vec<u8> {
        signed_bytes(&self.to_bytes(), genesis).to_vec()
    }

    /// Joins the body and its signature.
    pub fn with_signature(&self, signature: SignatureBytes) -> Payment {
        let mut bytes = [0; PAYMENT_BYTES];
        bytes[..PAYMENT_BODY_BYTES].copy_from_slice(&self.to_bytes());
        bytes[PAYMENT_BODY_BYTES..].copy_from_slice(&signature.0);
        Payment(bytes)
    }

    /// Signs with the payer's key. Whether the key is the payer's is for verification to say.
    pub fn sign(&self, key: &ed25519_dalek::SigningKey, genesis: &GenesisId) -> Payment {
        use ed25519_dalek::Signer;
        let signature = key.sign(&signed_bytes(&self.to_bytes(), genesis));
        self.with_signature(SignatureBytes(signature.to_bytes()))
    }
}

impl Payment {
    pub const fn from_bytes(bytes: [u8; PAYMENT_BYTES]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; PAYMENT_BYTES] {
        &self.0
    }

    /// Reads concatenated payments in place; `None` unless the length is a multiple of 176.
    pub fn slice_from_bytes(bytes: &[u8]) -> Option<&[Self]> {
        <[Self]>::ref_from_bytes(bytes).ok()
    }

    /// The canonical bytes of concatenated payments.
    pub fn slice_as_bytes(payments: &[Self]) -> &[u8] {
        IntoBytes::as_bytes(payments)
    }

    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(&self.0[offset..offset + N]);
        array
    }

    pub fn network(&self) -> u32 {
        u32::from_le_bytes(self.array(0))
    }

    pub fn valid_until(&self) -> u32 {
        u32::from_le_bytes(self.array(4))
    }

    pub fn from(&self) -> AccountId {
        AccountId(self.array(8))
    }

    pub fn to(&self) -> AccountId {
        AccountId(self.array(40))
    }

    pub fn sequence(&self) -> Sequence {
        Sequence(u64::from_le_bytes(self.array(72)))
    }

    pub fn amount(&self) -> Amount {
        Amount(u64::from_le_bytes(self.array(80)))
    }

    pub fn token(&self) -> TokenId {
        TokenId(u32::from_le_bytes(self.array(88)))
    }

    pub fn flags(&self) -> u32 {
        u32::from_le_bytes(self.array(92))
    }

    pub fn reference(&self) -> [u8; 16] {
        self.array(96)
    }

    pub fn signature(&self) -> SignatureBytes {
        SignatureBytes(self.array(112))
    }

    /// The key that must have signed: of a single-key account, the account itself.
    pub fn signer(&self) -> PublicKey {
        PublicKey(self.array(8))
    }

    pub fn body(&self) -> PaymentBody {
        PaymentBody {
            network: self.network(),
            valid_until: self.valid_until(),
            from: self.from(),
            to: self.to(),
            sequence: self.sequence(),
            amount: self.amount(),
            token: self.token(),
            flags: self.flags(),
            reference: self.reference(),
        }
    }

    /// What the payer signed in the ledger `genesis`: domain, genesis id, body.
    pub fn signed_bytes(&self, genesis: &GenesisId) -> [u8; SIGNED_BYTES] {
        signed_bytes(&self.array(0), genesis)
    }

    /// The digest of the same bytes, so that signing twice cannot pay twice.
    pub fn id(&self, genesis: &GenesisId) -> TransactionId {
        TransactionId(hash_parts(PAYMENT_DOMAIN, &[&genesis.0, &self.0[..PAYMENT_BODY_BYTES]]))
    }
}

fn signed_bytes(body: &[u8; PAYMENT_BODY_BYTES], genesis: &GenesisId) -> [u8; SIGNED_BYTES] {
    const GENESIS: usize = PAYMENT_DOMAIN.len() + 1;
    let mut bytes = [0; SIGNED_BYTES];
    bytes[..PAYMENT_DOMAIN.len()].copy_from_slice(PAYMENT_DOMAIN.as_bytes());
    bytes[GENESIS..GENESIS + 32].copy_from_slice(&genesis.0);
    bytes[GENESIS + 32..].copy_from_slice(body);
    bytes
}

impl fmt::Debug for Payment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.body().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> PaymentBody {
        PaymentBody {
            network: 0x0102_0304,
            valid_until: 1_700_000_000,
            from: AccountId([1; 32]),
            to: AccountId([2; 32]),
            sequence: Sequence(3),
            amount: Amount(4),
            token: TokenId(5),
            flags: 6,
            reference: [7; 16],
        }
    }

    #[test]
    fn fields_survive_the_bytes() {
        let payment = body().with_signature(SignatureBytes([9; 64]));
        assert_eq!(payment.body(), body());
        assert_eq!(payment.signature(), SignatureBytes([9; 64]));
        assert_eq!(payment.signer().0, payment.from().0);
    }

    #[test]
    fn the_id_covers_the_body_and_the_genesis_but_not_the_signature() {
        let genesis = GenesisId([3; 32]);
        let payment = body().with_signature(SignatureBytes([9; 64]));
        let resigned = body().with_signature(SignatureBytes([8; 64]));
        assert_eq!(payment.id(&genesis), resigned.id(&genesis));
        assert_ne!(payment.id(&genesis), payment.id(&GenesisId([4; 32])));
        let other = PaymentBody { amount: Amount(5), ..body() }.with_signature(SignatureBytes([9; 64]));
        assert_ne!(payment.id(&genesis), other.id(&genesis));
    }

    #[test]
    fn the_id_is_the_digest_of_the_signed_bytes() {
        let genesis = GenesisId([3; 32]);
        let payment = body().with_signature(SignatureBytes([9; 64]));
        let digest = blake3::hash(&payment.signed_bytes(&genesis));
        assert_eq!(payment.id(&genesis).0, *digest.as_bytes());
    }

    #[test]
    fn concatenated_payments_are_read_in_place() {
        let payments = [body().with_signature(SignatureBytes([9; 64])); 3];
        let bytes = Payment::slice_as_bytes(&payments);
        assert_eq!(bytes.len(), 3 * PAYMENT_BYTES);
        assert_eq!(Payment::slice_from_bytes(bytes), Some(&payments[..]));
        assert_eq!(Payment::slice_from_bytes(&bytes[1..]), None);
    }
}
