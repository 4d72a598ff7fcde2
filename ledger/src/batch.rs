//! A batch: payments that one node has verified, under that node's signature. Blocks list batches by digest.
//!
//! Canonical bytes: version u16, author u16, number u64, payments u32, transactions u32 (0 until general transactions
//! are executed), the payments, signature 64. The digest covers domain, genesis id and everything but the signature.

use std::sync::Arc;

use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::hash::{BatchDigest, GenesisId, TransactionId, hash_parts};
use crate::identity::{SignatureBytes, ValidatorIndex};
use crate::payment::{PAYMENT_BYTES, Payment};

/// Payments in one batch, at most.
pub const BATCH_PAYMENTS_MAX: usize = 1_024;
/// Bytes of a batch without payments.
pub const BATCH_OVERHEAD_BYTES: usize = HEADER_BYTES + 64;
/// Bytes of the largest batch.
pub const BATCH_BYTES_MAX: usize = BATCH_OVERHEAD_BYTES + BATCH_PAYMENTS_MAX * PAYMENT_BYTES;

pub(crate) const HEADER_BYTES: usize = 2 + 2 + 8 + 4 + 4;
pub(crate) const VERSION: u16 = 1;
pub(crate) const DOMAIN: &str = "zeni batch v1";

/// A batch as it is signed, stored and sent. Well-formed, which says nothing yet about any signature in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub author: ValidatorIndex,
    /// Counts the author's batches, for order and for people; identity is the digest.
    pub number: u64,
    pub payments: Vec<Payment>,
    pub signature: SignatureBytes,
}

impl Batch {
    /// A batch signed by its author.
    pub fn sign(
        author: ValidatorIndex,
        number: u64,
        payments: Vec<Payment>,
        key: &ed25519_dalek::SigningKey,
        genesis: &GenesisId,
    ) -> Self {
        assert!(payments.len() <= BATCH_PAYMENTS_MAX, "a batch is cut at {BATCH_PAYMENTS_MAX} payments");
        let mut batch = Self { author, number, payments, signature: SignatureBytes([0; 64]) };
        batch.signature = crate::signature::sign(key, batch.digest(genesis).as_bytes());
        batch
    }

    /// What the author signs, and the batch's name.
    pub fn digest(&self, genesis: &GenesisId) -> BatchDigest {
        let header = self.header_bytes();
        BatchDigest(hash_parts(DOMAIN, &[&genesis.0, &header, Payment::slice_as_bytes(&self.payments)]))
    }

    pub(crate) fn header_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(HEADER_BYTES);
        encoder.u16(VERSION).u16(self.author.0).u64(self.number).u32(self.payments.len() as u32).u32(0);
        encoder.finish()
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(self.encoded_len());
        encoder.raw(&self.header_bytes()).raw(Payment::slice_as_bytes(&self.payments)).raw(&self.signature.0);
        encoder.finish()
    }

    /// Length of the canonical bytes.
    pub fn encoded_len(&self) -> usize {
        BATCH_OVERHEAD_BYTES + self.payments.len() * PAYMENT_BYTES
    }

    /// Parses canonical bytes; the payment count is checked before anything is allocated.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let version = decoder.u16()?;
        if version != VERSION {
            return Err(DecodeError::UnknownVersion { what: "batch", found: version, known: VERSION });
        }
        let author = ValidatorIndex(decoder.u16()?);
        let number = decoder.u64()?;
        let count = decoder.count("payments of a batch", BATCH_PAYMENTS_MAX)?;
        decoder.count("transactions of a batch", 0)?;
        let raw = decoder.raw(count * PAYMENT_BYTES)?;
        let payments = Payment::slice_from_bytes(raw).expect("a multiple of the payment's length").to_vec();
        let signature = SignatureBytes(decoder.array()?);
        decoder.finish()?;
        Ok(Self { author, number, payments, signature })
    }
}

/// A batch whose author's signature and payments' signatures hold, with the digests that checking computed anyway.
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedBatch {
    inner: Arc<VerifiedInner>,
}

#[derive(Debug, PartialEq, Eq)]
struct VerifiedInner {
    batch: Batch,
    digest: BatchDigest,
    ids: Vec<TransactionId>,
}

impl VerifiedBatch {
    /// Vouches for a batch: for the verification path, for batches this node signed itself, and for those that it
    /// verified before it stored them. Nobody else has a reason to call it.
    pub fn vouch(batch: Batch, genesis: &GenesisId) -> Self {
        let digest = batch.digest(genesis);
        let ids = batch.payments.iter().map(|payment| payment.id(genesis)).collect();
        Self { inner: Arc::new(VerifiedInner { batch, digest, ids }) }
    }

    pub fn batch(&self) -> &Batch {
        &self.inner.batch
    }

    pub fn digest(&self) -> BatchDigest {
        self.inner.digest
    }

    /// The ids of its payments, in order.
    pub fn ids(&self) -> &[TransactionId] {
        &self.inner.ids
    }

    pub fn payments(&self) -> &[Payment] {
        &self.inner.batch.payments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payment::PaymentBody;
    use crate::{AccountId, Amount, Sequence, TokenId};

    fn batch(count: usize) -> Batch {
        let body = PaymentBody {
            network: 1,
            valid_until: 2,
            from: AccountId([3; 32]),
            to: AccountId([4; 32]),
            sequence: Sequence(5),
            amount: Amount(6),
            token: TokenId(7),
            flags: 0,
            reference: [8; 16],
        };
        let payments = vec![body.with_signature(SignatureBytes([9; 64])); count];
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        Batch::sign(ValidatorIndex(2), 11, payments, &key, &GenesisId([5; 32]))
    }

    #[test]
    fn bytes_round_trip() {
        for count in [0, 1, BATCH_PAYMENTS_MAX] {
            let batch = batch(count);
            let bytes = batch.to_bytes();
            assert_eq!(bytes.len(), batch.encoded_len());
            assert_eq!(Batch::from_bytes(&bytes), Ok(batch));
        }
    }

    #[test]
    fn every_truncation_is_a_typed_error() {
        let bytes = batch(2).to_bytes();
        for length in 0..bytes.len() {
            assert!(Batch::from_bytes(&bytes[..length]).is_err(), "{length} bytes were accepted");
        }
    }

    #[test]
    fn general_transactions_and_too_many_payments_are_refused() {
        let mut bytes = batch(1).to_bytes();
        bytes[16] = 1;
        assert!(matches!(Batch::from_bytes(&bytes), Err(DecodeError::OverLimit { found: 1, limit: 0, .. })));
        let mut bytes = batch(1).to_bytes();
        bytes[12..16].copy_from_slice(&1_025u32.to_le_bytes());
        assert!(matches!(Batch::from_bytes(&bytes), Err(DecodeError::OverLimit { found: 1_025, .. })));
    }

    #[test]
    fn the_digest_covers_author_number_and_payments() {
        let genesis = GenesisId([5; 32]);
        let base = batch(2);
        let others = [
            Batch { author: ValidatorIndex(1), ..base.clone() },
            Batch { number: 12, ..base.clone() },
            Batch { payments: base.payments[..1].to_vec(), ..base.clone() },
        ];
        for other in others {
            assert_ne!(other.digest(&genesis), base.digest(&genesis));
        }
        let resigned = Batch { signature: SignatureBytes([0; 64]), ..base.clone() };
        assert_eq!(resigned.digest(&genesis), base.digest(&genesis));
    }
}
