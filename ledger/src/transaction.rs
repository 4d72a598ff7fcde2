//! The general transaction: several signers, several legs, all of them or none. Its envelope and bytes are fixed now;
//! batches carry none yet, and executing them comes with a later protocol version.
//!
//! Canonical bytes: version u16, network u32, valid_until u32, signers u16, then account 32, key 32 and sequence u64 of
//! each, legs u16, then account 32 and [`Operation`] of each; and a signature 64 for each signer, in their order. What
//! everyone signs is the domain, the genesis id and all of it but the signatures; the id is the BLAKE3 of the same.
//!
//! Signers rise strictly by account, then key. An account that several keys sign for uses one sequence, so its entries
//! name the same one. Every leg's account is among the signers.

use crate::amount::Sequence;
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::hash::{GenesisId, TransactionId, hash_parts};
use crate::identity::{AccountId, PublicKey, SignatureBytes};
use crate::operation::{OPERATION_BYTES_MAX, Operation};
use crate::signature::{Claim, verify};

/// Signers of one transaction, at most.
pub const SIGNERS_MAX: usize = 32;
/// Legs of one transaction, at most.
pub const LEGS_MAX: usize = 256;
/// Bytes of the largest transaction.
pub const TRANSACTION_BYTES_MAX: usize =
    2 + 4 + 4 + 2 + SIGNERS_MAX * (SIGNER_BYTES + 64) + 2 + LEGS_MAX * (32 + OPERATION_BYTES_MAX);
/// What signers sign begins with this, then the genesis id and the body.
pub const TRANSACTION_DOMAIN: &str = "zeni transaction v1";

const VERSION: u16 = 1;
const SIGNER_BYTES: usize = 32 + 32 + 8;

/// Who signs for which account, and the sequence of that account which is used up by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signer {
    pub account: AccountId,
    pub key: PublicKey,
    pub sequence: Sequence,
}

/// One part of a transaction: what an account asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    pub account: AccountId,
    pub operation: Operation,
}

/// What the signers sign. Always well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionBody {
    network: u32,
    valid_until: u32,
    signers: Vec<Signer>,
    legs: Vec<Leg>,
}

/// A transaction in its canonical form. Well-formed, which says nothing yet about its signatures or its keys' rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    body: TransactionBody,
    signatures: Vec<SignatureBytes>,
}

impl TransactionBody {
    /// Refuses what has no canonical form: none or too many signers or legs, signers that do not rise strictly, two
    /// sequences of one account, a leg whose account does not sign. `valid_until` is in Unix seconds.
    pub fn new(network: u32, valid_until: u32, signers: Vec<Signer>, legs: Vec<Leg>) -> Result<Self, DecodeError> {
        in_limit("signers of a transaction (which has one at least)", signers.len(), SIGNERS_MAX)?;
        in_limit("legs of a transaction (which has one at least)", legs.len(), LEGS_MAX)?;
        for (place, pair) in signers.windows(2).enumerate() {
            let found = place as u64 + 1;
            if (pair[0].account, pair[0].key) >= (pair[1].account, pair[1].key) {
                return Err(DecodeError::Invalid { what: "order of a transaction's signers at", found });
            }
            if pair[0].account == pair[1].account && pair[0].sequence != pair[1].sequence {
                return Err(DecodeError::Invalid { what: "second sequence of one account at signer", found });
            }
        }
        let signs = |leg: &Leg| signers.binary_search_by(|signer| signer.account.cmp(&leg.account)).is_ok();
        if let Some(place) = legs.iter().position(|leg| !signs(leg)) {
            return Err(DecodeError::Invalid { what: "account, which does not sign, of leg", found: place as u64 });
        }
        Ok(Self { network, valid_until, signers, legs })
    }

    pub fn network(&self) -> u32 {
        self.network
    }

    /// Unix seconds; executable in blocks whose slot time is not later.
    pub fn valid_until(&self) -> u32 {
        self.valid_until
    }

    /// By rising account, then key.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// In the order of execution.
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// The canonical bytes without the signatures.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(16 + self.signers.len() * SIGNER_BYTES + self.legs.len() * 128);
        encoder.u16(VERSION).u32(self.network).u32(self.valid_until).u16(self.signers.len() as u16);
        for signer in &self.signers {
            encoder.raw(&signer.account.0).raw(&signer.key.0).u64(signer.sequence.0);
        }
        encoder.u16(self.legs.len() as u16);
        for leg in &self.legs {
            encoder.raw(&leg.account.0);
            leg.operation.encode(&mut encoder);
        }
        encoder.finish()
    }

    /// What each signer signs in the ledger `genesis`: domain, genesis id, body.
    pub fn signed_bytes(&self, genesis: &GenesisId) -> Vec<u8> {
        let body = self.to_bytes();
        let mut encoder = Encoder::with_capacity(TRANSACTION_DOMAIN.len() + 33 + body.len());
        encoder.raw(TRANSACTION_DOMAIN.as_bytes()).u8(0).raw(&genesis.0).raw(&body);
        encoder.finish()
    }

    /// The digest of the same bytes.
    pub fn id(&self, genesis: &GenesisId) -> TransactionId {
        TransactionId(hash_parts(TRANSACTION_DOMAIN, &[&genesis.0, &self.to_bytes()]))
    }

    /// Joins the body and its signatures, one for each signer in their order; `None` if there are more or fewer.
    pub fn with_signatures(self, signatures: Vec<SignatureBytes>) -> Option<Transaction> {
        (signatures.len() == self.signers.len()).then_some(Transaction { body: self, signatures })
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let version = decoder.u16()?;
        if version != VERSION {
            return Err(DecodeError::UnknownVersion { what: "transaction", found: version, known: VERSION });
        }
        let (network, valid_until) = (decoder.u32()?, decoder.u32()?);
        let count = usize::from(decoder.u16()?);
        in_limit("signers of a transaction (which has one at least)", count, SIGNERS_MAX)?;
        let mut signers = Vec::with_capacity(count);
        for _ in 0..count {
            let (account, key) = (AccountId(decoder.array()?), PublicKey(decoder.array()?));
            signers.push(Signer { account, key, sequence: Sequence(decoder.u64()?) });
        }
        let count = usize::from(decoder.u16()?);
        in_limit("legs of a transaction (which has one at least)", count, LEGS_MAX)?;
        let mut legs = Vec::with_capacity(count);
        for _ in 0..count {
            legs.push(Leg { account: AccountId(decoder.array()?), operation: Operation::decode(decoder)? });
        }
        Self::new(network, valid_until, signers, legs)
    }
}

impl Transaction {
    pub fn body(&self) -> &TransactionBody {
        &self.body
    }

    /// One for each signer, in their order.
    pub fn signatures(&self) -> &[SignatureBytes] {
        &self.signatures
    }

    /// The body's id: signing twice makes no second transaction.
    pub fn id(&self, genesis: &GenesisId) -> TransactionId {
        self.body.id(genesis)
    }

    /// Whether every signer's key signed the body for the ledger `genesis`. Whether those keys may act for their
    /// accounts is decided at execution.
    pub fn signatures_hold(&self, genesis: &GenesisId) -> bool {
        let message = self.body.signed_bytes(genesis);
        self.claims(&message).all(|claim| verify(&claim))
    }

    /// What each signer claims, for a batch check; `message` is the body's signed bytes.
    pub fn claims<'a>(&'a self, message: &'a [u8]) -> impl Iterator<Item = Claim<'a>> {
        let pairs = self.body.signers.iter().zip(&self.signatures);
        pairs.map(move |(signer, signature)| Claim { key: signer.key, message, signature: *signature })
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body.to_bytes();
        for signature in &self.signatures {
            bytes.extend_from_slice(&signature.0);
        }
        bytes
    }

    /// Parses canonical bytes; the length and every count are checked before anything is allocated for them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > TRANSACTION_BYTES_MAX {
            let (found, limit) = (bytes.len() as u64, TRANSACTION_BYTES_MAX as u64);
            return Err(DecodeError::OverLimit { what: "bytes of a transaction", found, limit });
        }
        let mut decoder = Decoder::new(bytes);
        let body = TransactionBody::decode(&mut decoder)?;
        let (chunks, _) = decoder.raw(64 * body.signers.len())?.as_chunks::<64>();
        let signatures = chunks.iter().map(|chunk| SignatureBytes(*chunk)).collect();
        decoder.finish()?;
        Ok(Self { body, signatures })
    }
}

fn in_limit(what: &'static str, found: usize, limit: usize) -> Result<(), DecodeError> {
    match (1..=limit).contains(&found) {
        true => Ok(()),
        false => Err(DecodeError::OverLimit { what, found: found as u64, limit: limit as u64 }),
    }
}
