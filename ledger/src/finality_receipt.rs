//! The finality receipt: one file by which a stranger, with the genesis file and without a network, sees that a payment
//! was executed, or what an account held, in a block that can never be taken back.
//!
//! From the bottom: the statement is bound to the roots of a block's header; each further header names the one before it
//! as its parent; the last is the block that the certificate makes final, and with it all below. The certificate's signers
//! are validators of genesis, whose id the file names. A proposer's signature adds nothing to a quorum's, so there is none.
//!
//! Canonical bytes: magic `ZENIPROF`, version u16, statement u8 (1 payment, 2 account), changes of the validator set u8
//! (0: the validators are those of genesis; later versions list here what leads from them to the signers), genesis id 32,
//! the commit certificate, headers u32 and 160 bytes of each by rising height, the statement. Of a payment: the receipt's
//! proof, siblings u8 and 32 bytes of each on the batch digest's way to the transactions root, the batch slice. Of an
//! account: a check of 8 bytes over its id, then its proof, of presence or absence. (No root binds the id of an account
//! that is not there: with a byte of it changed the file would prove, truly, the absence of another. The check is for
//! that; it is no more of a secret than the check of an account's text form.) `docs/proofs.md` has it byte by byte.

mod batch_slice;

use crate::account::Account;
use crate::batch::Batch;
use crate::block::{Block, BlockHeader, HEADER_BYTES, SealedHeader};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::finality::{CERTIFICATE_BYTES_MAX, CertificateError, CommitCertificate, FinalBlock};
use crate::genesis::Genesis;
use crate::hash::{BlockId, GenesisId, TransactionId, hash_parts};
use crate::identity::{AccountId, ValidatorIndex};
use crate::merkle;
use crate::payment::Payment;
use crate::proof::{
    ACCOUNT_PROOF_BYTES_MAX, AccountProof, ProofError, RECEIPT_PROOF_BYTES_MAX, ReceiptProof, check_canonical,
    decode_path, encode_path,
};
use crate::receipt::Outcome;
use crate::signature::{Claim, verify};

pub use batch_slice::{BATCH_SLICE_BYTES_MAX, BatchSlice};

/// Headers from the statement's block to the certified one, at most: 2.8 days of 15 s blocks without a quorum.
pub const HEADERS_MAX: usize = 16_384;
/// Bytes of the largest finality receipt.
pub const FINALITY_RECEIPT_BYTES_MAX: usize = HEAD_BYTES
    + CERTIFICATE_BYTES_MAX
    + 4
    + HEADERS_MAX * HEADER_BYTES
    + if ACCOUNT_BYTES_MAX > PAYMENT_BYTES_MAX { ACCOUNT_BYTES_MAX } else { PAYMENT_BYTES_MAX };

const MAGIC: &[u8; 8] = b"ZENIPROF";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = MAGIC.len() + 2 + 1 + 1 + 32;
const PAYMENT_BYTES_MAX: usize = RECEIPT_PROOF_BYTES_MAX + 1 + 32 * merkle::PATH_MAX + BATCH_SLICE_BYTES_MAX;
const ACCOUNT_CHECK_BYTES: usize = 8;
const ACCOUNT_BYTES_MAX: usize = ACCOUNT_CHECK_BYTES + ACCOUNT_PROOF_BYTES_MAX;
const ACCOUNT_CHECK_DOMAIN: &str = "zeni account check v1";
const PAYMENT: u8 = 1;
const ACCOUNT: u8 = 2;

/// What a file says, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalityReceipt {
    pub genesis: GenesisId,
    pub certificate: CommitCertificate,
    /// From the statement's block to the certified one.
    pub headers: Vec<SealedHeader>,
    pub statement: Statement,
}

/// What is said of the first header's block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    Payment(PaymentProof),
    Account(AccountProof),
}

/// That a block executed a payment, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentProof {
    pub receipt: ReceiptProof,
    /// From the batch digest's sibling up to the transactions root.
    pub digest_siblings: Vec<[u8; 32]>,
    pub slice: BatchSlice,
}

/// Why a file proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FinalityReceiptError {
    #[error("the file is malformed: {0}")]
    Malformed(#[from] DecodeError),
    #[error("the file is of the ledger {found}, the genesis given is {expected}")]
    OtherGenesis { found: GenesisId, expected: GenesisId },
    #[error("header {place} does not name the one before it as its parent, one height and at least one slot below")]
    BrokenChain { place: usize },
    #[error("the headers lead to block {found} at height {height}, the certificate is for {} at {}", expected.id, expected.height)]
    OtherBlock { found: BlockId, height: u64, expected: FinalBlock },
    #[error("the payment does not stand at place {position} of batch {batch} of the block")]
    NotInBlock { batch: u32, position: u16 },
    #[error("the block has {expected} receipts, the proof speaks of {found}")]
    OtherReceipts { found: u32, expected: u32 },
    #[error("the receipt is of payment {found}, the file shows {expected}")]
    OtherPayment { found: TransactionId, expected: TransactionId },
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("the payer's signature does not verify")]
    PayerSignature,
    #[error("the certificate does not hold: {0}")]
    Certificate(#[from] CertificateError),
}

impl FinalityReceiptError {
    /// A stable code for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::OtherGenesis { .. } => "other_genesis",
            Self::BrokenChain { .. } => "broken_chain",
            Self::OtherBlock { .. } => "other_block",
            Self::NotInBlock { .. } => "not_in_block",
            Self::OtherReceipts { .. } => "other_receipts",
            Self::OtherPayment { .. } => "other_payment",
            Self::Proof(_) => "not_under_root",
            Self::PayerSignature => "payer_signature",
            Self::Certificate(_) => "certificate",
        }
    }
}

/// What a checked file proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The statement's block.
    pub block: BlockId,
    pub header: BlockHeader,
    /// When the block's slot began, Unix milliseconds.
    pub slot_time_ms: u64,
    /// The certified block, which is that one or stands on it.
    pub certified: FinalBlock,
    pub decision: u64,
    pub signers: Vec<ValidatorIndex>,
    /// Stake of the signers, and of all validators.
    pub stake: u64,
    pub total_stake: u64,
    pub fact: Fact,
}

/// The statement, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Payment {
        id: TransactionId,
        payment: Payment,
        outcome: Outcome,
    },
    /// `None`: there is no such account.
    Account {
        id: AccountId,
        account: Option<Account>,
    },
}

impl FinalityReceipt {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(8_192 + self.headers.len() * HEADER_BYTES);
        let kind = match self.statement {
            Statement::Payment(_) => PAYMENT,
            Statement::Account(_) => ACCOUNT,
        };
        encoder.raw(MAGIC).u16(VERSION).u8(kind).u8(0).raw(&self.genesis.0).raw(&self.certificate.to_bytes());
        encoder.u32(self.headers.len() as u32);
        for header in &self.headers {
            header.encode(&mut encoder);
        }
        match &self.statement {
            Statement::Payment(payment) => {
                encoder.raw(&payment.receipt.to_bytes());
                encode_path(&payment.digest_siblings, &mut encoder);
                payment.slice.encode(&mut encoder);
            }
            Statement::Account(proof) => {
                encoder.raw(&account_check(&self.genesis, &proof.id)).raw(&proof.to_bytes());
            }
        }
        encoder.finish()
    }

    /// Parses canonical bytes: limits first, and the same bytes when written again.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > FINALITY_RECEIPT_BYTES_MAX {
            let (found, limit) = (bytes.len() as u64, FINALITY_RECEIPT_BYTES_MAX as u64);
            return Err(DecodeError::OverLimit { what: "length of a finality receipt", found, limit });
        }
        let mut decoder = Decoder::new(bytes);
        if let Some(place) = decoder.raw(MAGIC.len())?.iter().zip(MAGIC).position(|(one, other)| one != other) {
            return Err(DecodeError::Invalid { what: "magic of a finality receipt at byte", found: place as u64 });
        }
        let found = decoder.u16()?;
        if found != VERSION {
            return Err(DecodeError::UnknownVersion { what: "finality receipt", found, known: VERSION });
        }
        let (kind, changes) = (decoder.u8()?, decoder.u8()?);
        if changes != 0 {
            return Err(DecodeError::OverLimit {
                what: "changes of the validator set",
                found: changes.into(),
                limit: 0,
            });
        }
        let genesis = GenesisId(decoder.array()?);
        let certificate = CommitCertificate::decode(&mut decoder)?;
        let count = decoder.count("headers of a finality receipt", HEADERS_MAX)?;
        let mut headers = Vec::with_capacity(count.min(decoder.remaining() / HEADER_BYTES));
        for _ in 0..count {
            headers.push(SealedHeader::decode(&mut decoder)?);
        }
        let statement = match kind {
            PAYMENT => Statement::Payment(PaymentProof::decode(&mut decoder)?),
            ACCOUNT => Statement::Account(decode_account(&mut decoder, &genesis)?),
            found => {
                return Err(DecodeError::Invalid { what: "statement of a finality receipt", found: found.into() });
            }
        };
        decoder.finish()?;
        let receipt = Self { genesis, certificate, headers, statement };
        check_canonical(bytes, &receipt.to_bytes(), "finality receipt")?;
        Ok(receipt)
    }

    /// Parses and checks a file with nothing but the genesis that the reader trusts. `id` is that of `genesis`.
    pub fn check(bytes: &[u8], genesis: &Genesis, id: &GenesisId) -> Result<Proven, FinalityReceiptError> {
        Self::from_bytes(bytes)?.verify(genesis, id)
    }

    /// Checks everything that the file says. `id` is that of `genesis`.
    ///
    /// # Errors
    /// The first thing that does not hold; hashes come before signatures.
    pub fn verify(&self, genesis: &Genesis, id: &GenesisId) -> Result<Proven, FinalityReceiptError> {
        if self.genesis != *id {
            return Err(FinalityReceiptError::OtherGenesis { found: self.genesis, expected: *id });
        }
        let (first, block) = self.verify_headers(id)?;
        let fact = match &self.statement {
            Statement::Payment(payment) => payment.verify(first, id)?,
            Statement::Account(proof) => {
                proof.verify(&first.header.state_root)?;
                Fact::Account { id: proof.id, account: proof.account.clone() }
            }
        };
        self.certificate.verify(genesis, id)?;
        let signers: Vec<ValidatorIndex> = self.certificate.signatures.iter().map(|(signer, _)| *signer).collect();
        Ok(Proven {
            block,
            header: first.header,
            slot_time_ms: genesis.slot_time_ms(first.header.slot),
            certified: self.certificate.block,
            decision: self.certificate.decision,
            stake: signers.iter().map(|signer| genesis.validators[signer.as_usize()].stake).sum(),
            total_stake: genesis.total_stake(),
            signers,
            fact,
        })
    }

    /// Replaces each byte of a valid file, one after the other, by what `other` makes of it. Gives the first place at which
    /// the changed file is still accepted: there must be none. A self-test of format and verifier.
    pub fn first_accepted_change(
        bytes: &[u8],
        genesis: &Genesis,
        id: &GenesisId,
        mut other: impl FnMut(u8) -> u8,
    ) -> Option<usize> {
        let mut changed = bytes.to_vec();
        (0..bytes.len()).find(|place| {
            changed[*place] = other(bytes[*place]);
            let accepted = Self::check(&changed, genesis, id).is_ok();
            changed[*place] = bytes[*place];
            accepted
        })
    }

    /// That the headers are a chain which ends in the certified block. Gives the first of them and its id.
    fn verify_headers(&self, id: &GenesisId) -> Result<(&SealedHeader, BlockId), FinalityReceiptError> {
        let expected = self.certificate.block;
        let ids: Vec<BlockId> = self.headers.iter().map(|header| header.id(id)).collect();
        let ends = self.headers.first().zip(self.headers.last()).zip(ids.first().zip(ids.last()));
        let Some(((first, last), (first_id, last_id))) = ends else {
            return Err(FinalityReceiptError::BrokenChain { place: 0 });
        };
        let follows = |(pair, below): (&[SealedHeader], &BlockId)| {
            let (lower, upper) = (&pair[0].header, &pair[1].header);
            upper.parent == *below && lower.height.checked_add(1) == Some(upper.height) && lower.slot < upper.slot
        };
        if let Some(place) = self.headers.windows(2).zip(&ids).position(|pair| !follows(pair)) {
            return Err(FinalityReceiptError::BrokenChain { place: place + 1 });
        }
        let (found, height) = (*last_id, last.header.height);
        if (FinalBlock { id: found, height }) != expected {
            return Err(FinalityReceiptError::OtherBlock { found, height, expected });
        }
        Ok((first, *first_id))
    }
}

fn account_check(genesis: &GenesisId, id: &AccountId) -> [u8; ACCOUNT_CHECK_BYTES] {
    let mut check = [0; ACCOUNT_CHECK_BYTES];
    check.copy_from_slice(&hash_parts(ACCOUNT_CHECK_DOMAIN, &[&genesis.0, &id.0])[..ACCOUNT_CHECK_BYTES]);
    check
}

fn decode_account(decoder: &mut Decoder<'_>, genesis: &GenesisId) -> Result<AccountProof, DecodeError> {
    let check = decoder.array()?;
    let proof = AccountProof::decode(decoder)?;
    if check == account_check(genesis, &proof.id) {
        return Ok(proof);
    }
    Err(DecodeError::Invalid { what: "check of an account's id", found: u64::from_le_bytes(check) })
}

impl PaymentProof {
    /// Adds to a receipt's proof what leads from its payment to the transactions root of `block`; `batch` is the one that
    /// the receipt names. `None` if they do not belong together.
    pub fn new(receipt: ReceiptProof, block: &Block, batch: &Batch, genesis: &GenesisId) -> Option<Self> {
        let leaves: Vec<[u8; 32]> = block.digests.iter().map(|digest| merkle::leaf_hash(&digest.0)).collect();
        let digest_siblings = merkle::path(&leaves, receipt.receipt.batch as usize)?;
        let slice = BatchSlice::of(batch, receipt.receipt.position, genesis)?;
        Some(Self { receipt, digest_siblings, slice })
    }

    /// Checks the payment against a header that the caller trusts.
    fn verify(&self, sealed: &SealedHeader, id: &GenesisId) -> Result<Fact, FinalityReceiptError> {
        let (header, receipt) = (&sealed.header, &self.receipt.receipt);
        let digest = self.slice.digest(receipt.position, id);
        let stands = digest.is_some_and(|digest| {
            let (root, leaf) = (&header.transactions_root.0, merkle::leaf_hash(&digest.0));
            merkle::verify(root, sealed.digests.into(), receipt.batch.into(), &leaf, &self.digest_siblings)
        });
        if !stands {
            return Err(FinalityReceiptError::NotInBlock { batch: receipt.batch, position: receipt.position });
        }
        if self.receipt.count != header.receipts {
            let (found, expected) = (self.receipt.count, header.receipts);
            return Err(FinalityReceiptError::OtherReceipts { found, expected });
        }
        self.receipt.verify(&header.receipts_root)?;
        let payment = self.slice.payment;
        let expected = payment.id(id);
        if receipt.id != expected {
            return Err(FinalityReceiptError::OtherPayment { found: receipt.id, expected });
        }
        let claim = Claim { key: payment.signer(), message: &payment.signed_bytes(id), signature: payment.signature() };
        if !verify(&claim) {
            return Err(FinalityReceiptError::PayerSignature);
        }
        Ok(Fact::Payment { id: expected, payment, outcome: receipt.outcome })
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let receipt = ReceiptProof::decode(decoder)?;
        let digest_siblings = decode_path(decoder, "siblings of a batch digest")?;
        let slice = BatchSlice::decode(decoder, receipt.receipt.position)?;
        Ok(Self { receipt, digest_siblings, slice })
    }
}
