//! Evidence that a validator broke its promise: self-contained, so that a stranger who has genesis can check it.
//!
//! Each kind holds what the offender itself signed, and nothing that anybody else says:
//!
//! - two headers of one proposer for one slot;
//! - two votes of one kind, or two proposals, of one validator in one round of a decision;
//! - a batch with a payment that its payer did not sign. Its author signed a flat hash over all of the batch's bytes, so
//!   nothing less than the whole batch shows that it did: up to 180,308 bytes.
//!
//! Canonical bytes: version u16 (1), kind u8 (0 blocks, 1 votes, 2 proposals, 3 batch), then of the first three kinds the
//! two signed parts, the one with the lesser bytes first; of a batch the place of its first unsigned payment, u16, and
//! the batch.

use std::fmt;
use std::sync::Arc;

use zeni_ledger::batch::BATCH_BYTES_MAX;
use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};
use zeni_ledger::finality::VoteKind;
use zeni_ledger::hash::hash_parts;
use zeni_ledger::{Batch, Genesis, GenesisId, SignedHeader, ValidatorIndex};

use crate::effect::Event;
use crate::finality::{DoubleSigning, SignedProposal, SignedVote};

/// Bytes of the longest piece: a batch of as many payments as there can be.
pub const EVIDENCE_BYTES_MAX: usize = 2 + 1 + 2 + BATCH_BYTES_MAX;

const VERSION: u16 = 1;
const DOMAIN: &str = "zeni evidence v1";

/// A piece of evidence. Well-formed, which says nothing yet about any signature in it: that is [`Self::verify`]'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence(Content);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Blocks(SignedHeader, SignedHeader),
    Votes(SignedVote, SignedVote),
    Proposals(SignedProposal, SignedProposal),
    Batch { unsigned: u16, batch: Arc<Batch> },
}

/// Names a piece of evidence: the digest of its canonical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EvidenceId(pub [u8; 32]);

impl fmt::Display for EvidenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl EvidenceId {
    /// Parses 64 hexadecimal digits, as [`fmt::Display`] writes them.
    pub fn from_hex(text: &str) -> Option<Self> {
        zeni_ledger::hash::array_from_hex(text).map(Self)
    }
}

/// Where the offence happened. One offender does each of them once, however often it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Slot(u64),
    Vote {
        decision: u64,
        round: u32,
        /// Otherwise it is a prevote.
        is_precommit: bool,
    },
    Proposal {
        decision: u64,
        round: u32,
    },
    /// The author's number of the batch.
    Batch(u64),
}

/// What the offence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvidenceKind {
    /// Two blocks for one slot.
    Blocks,
    /// Two votes of one kind in one round.
    Votes,
    /// Two proposals in one round.
    Proposals,
    /// A batch with a payment that its payer did not sign.
    Batch,
}

/// Why something shows nothing against anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    #[error("genesis names no validator {found}")]
    UnknownValidator { found: ValidatorIndex },
    #[error("the two do not stand at one place of one validator, where it may sign one of them")]
    NotOnePlace,
    #[error("the two say the same")]
    SameTwice,
    #[error("validator {validator} did not sign the {which} part")]
    BadSignature { validator: ValidatorIndex, which: &'static str },
    #[error("the batch has {payments} payments and none at place {place}")]
    NoSuchPayment { place: u16, payments: usize },
    #[error("the payment at place {place} is signed by its payer")]
    PaymentIsSigned { place: u16 },
}

impl EvidenceKind {
    /// A stable code for metrics, files and people.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Blocks => "equivocation",
            Self::Votes => "double_vote",
            Self::Proposals => "double_proposal",
            Self::Batch => "bad_batch",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => write!(f, "slot {slot}"),
            Self::Vote { decision, round, is_precommit } => {
                let kind = if *is_precommit { "precommit" } else { "prevote" };
                write!(f, "{kind} of round {round} of decision {decision}")
            }
            Self::Proposal { decision, round } => write!(f, "round {round} of decision {decision}"),
            Self::Batch(number) => write!(f, "batch {number}"),
        }
    }
}

impl Evidence {
    /// Of two blocks for one slot, in any order.
    pub fn of_blocks(one: SignedHeader, other: SignedHeader) -> Self {
        let (first, second) = in_order(one, other, SignedHeader::encode);
        Self(Content::Blocks(first, second))
    }

    /// Of a validator that signed twice in a round.
    pub fn of_double_signing(signed: &DoubleSigning) -> Self {
        match signed {
            DoubleSigning::Votes(one, other) => {
                let (first, second) = in_order(*one, *other, SignedVote::encode);
                Self(Content::Votes(first, second))
            }
            DoubleSigning::Proposals(one, other) => {
                let (first, second) = in_order(*one, *other, SignedProposal::encode);
                Self(Content::Proposals(first, second))
            }
        }
    }

    /// Of a batch, and the place of a payment in it that its payer did not sign.
    pub const fn of_batch(batch: Arc<Batch>, unsigned: u16) -> Self {
        Self(Content::Batch { unsigned, batch })
    }

    /// What an event shows, if it shows anything.
    pub fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Equivocation { headers, .. } => Some(Self::of_blocks(headers[0], headers[1])),
            Event::DoubleSigning(signed) => Some(Self::of_double_signing(signed)),
            Event::BadBatch { batch, unsigned, .. } => Some(Self::of_batch(Arc::clone(batch), *unsigned)),
            _ => None,
        }
    }

    pub const fn kind(&self) -> EvidenceKind {
        match &self.0 {
            Content::Blocks(..) => EvidenceKind::Blocks,
            Content::Votes(..) => EvidenceKind::Votes,
            Content::Proposals(..) => EvidenceKind::Proposals,
            Content::Batch { .. } => EvidenceKind::Batch,
        }
    }

    /// Whom it is against.
    pub fn offender(&self) -> ValidatorIndex {
        match &self.0 {
            Content::Blocks(first, _) => first.header.proposer,
            Content::Votes(first, _) => first.voter,
            Content::Proposals(first, _) => first.proposer,
            Content::Batch { batch, .. } => batch.author,
        }
    }

    pub fn place(&self) -> Place {
        match &self.0 {
            Content::Blocks(first, _) => Place::Slot(first.header.slot),
            Content::Votes(first, _) => place_of_vote(first),
            Content::Proposals(first, _) => place_of_proposal(first),
            Content::Batch { batch, .. } => Place::Batch(batch.number),
        }
    }

    pub fn id(&self) -> EvidenceId {
        EvidenceId(hash_parts(DOMAIN, &[&self.to_bytes()]))
    }

    /// Checks that it shows what it says, against a validator of `genesis`, whose id is `id`. Costs two signatures and,
    /// of a batch, one hash over it.
    ///
    /// # Errors
    /// The first thing that is missing; signatures are checked last.
    pub fn verify(&self, genesis: &Genesis, id: &GenesisId) -> Result<(), EvidenceError> {
        let found = self.offender();
        let offender = genesis.validators.get(found.as_usize()).ok_or(EvidenceError::UnknownValidator { found })?;
        let signed = |holds: bool, which| match holds {
            true => Ok(()),
            false => Err(EvidenceError::BadSignature { validator: found, which }),
        };
        match &self.0 {
            Content::Blocks(first, second) => {
                let place = |signed: &SignedHeader| (signed.header.proposer, signed.header.slot);
                contradict(place(first) == place(second), first.id(id) != second.id(id))?;
                signed(first.signature_holds(id, &offender.key), "first")?;
                signed(second.signature_holds(id, &offender.key), "second")
            }
            Content::Votes(first, second) => {
                let place = |signed: &SignedVote| (signed.voter, place_of_vote(signed));
                contradict(place(first) == place(second), first.vote != second.vote)?;
                signed(first.holds(genesis, id), "first")?;
                signed(second.holds(genesis, id), "second")
            }
            Content::Proposals(first, second) => {
                let place = |signed: &SignedProposal| (signed.proposer, place_of_proposal(signed));
                contradict(place(first) == place(second), first.proposal != second.proposal)?;
                signed(first.holds(genesis, id), "first")?;
                signed(second.holds(genesis, id), "second")
            }
            Content::Batch { unsigned: place, batch } => {
                let (place, payments) = (*place, batch.payments.len());
                let payment = batch.payments.get(usize::from(place));
                let payment = payment.ok_or(EvidenceError::NoSuchPayment { place, payments })?;
                signed(batch.author_signature_holds(id, &offender.key), "only")?;
                if payment.signature_holds(id) { Err(EvidenceError::PaymentIsSigned { place }) } else { Ok(()) }
            }
        }
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        encoder.u16(VERSION);
        match &self.0 {
            Content::Blocks(first, second) => {
                first.encode(encoder.u8(0));
                second.encode(&mut encoder);
            }
            Content::Votes(first, second) => {
                first.encode(encoder.u8(1));
                second.encode(&mut encoder);
            }
            Content::Proposals(first, second) => {
                first.encode(encoder.u8(2));
                second.encode(&mut encoder);
            }
            Content::Batch { unsigned, batch } => {
                encoder.u8(3).u16(*unsigned).raw(&batch.to_bytes());
            }
        }
        encoder.finish()
    }

    /// Parses canonical bytes, limits first. Says nothing about signatures.
    ///
    /// # Errors
    /// Bytes that [`Self::to_bytes`] does not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > EVIDENCE_BYTES_MAX {
            let (found, limit) = (bytes.len() as u64, EVIDENCE_BYTES_MAX as u64);
            return Err(DecodeError::OverLimit { what: "bytes of evidence", found, limit });
        }
        let mut decoder = Decoder::new(bytes);
        let version = decoder.u16()?;
        if version != VERSION {
            return Err(DecodeError::UnknownVersion { what: "evidence", found: version, known: VERSION });
        }
        let content = match decoder.u8()? {
            0 => {
                let (first, second) = two(&mut decoder, SignedHeader::decode, SignedHeader::encode)?;
                Content::Blocks(first, second)
            }
            1 => {
                let (first, second) = two(&mut decoder, SignedVote::decode, SignedVote::encode)?;
                Content::Votes(first, second)
            }
            2 => {
                let (first, second) = two(&mut decoder, SignedProposal::decode, SignedProposal::encode)?;
                Content::Proposals(first, second)
            }
            3 => {
                let unsigned = decoder.u16()?;
                let batch = Arc::new(Batch::from_bytes(decoder.raw(decoder.remaining())?)?);
                Content::Batch { unsigned, batch }
            }
            found => return Err(DecodeError::Invalid { what: "kind of evidence", found: found.into() }),
        };
        decoder.finish()?;
        Ok(Self(content))
    }
}

fn place_of_vote(signed: &SignedVote) -> Place {
    let vote = &signed.vote;
    Place::Vote { decision: vote.decision, round: vote.round, is_precommit: vote.kind == VoteKind::Precommit }
}

const fn place_of_proposal(signed: &SignedProposal) -> Place {
    Place::Proposal { decision: signed.proposal.decision, round: signed.proposal.round }
}

const fn contradict(one_place: bool, different: bool) -> Result<(), EvidenceError> {
    match (one_place, different) {
        (false, _) => Err(EvidenceError::NotOnePlace),
        (true, false) => Err(EvidenceError::SameTwice),
        (true, true) => Ok(()),
    }
}

fn bytes_of<T>(part: &T, encode: fn(&T, &mut Encoder)) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encode(part, &mut encoder);
    encoder.finish()
}

fn in_order<T>(one: T, other: T, encode: fn(&T, &mut Encoder)) -> (T, T) {
    if bytes_of(&one, encode) <= bytes_of(&other, encode) { (one, other) } else { (other, one) }
}

/// Reads two parts, which stand in order.
fn two<T>(
    decoder: &mut Decoder<'_>,
    decode: fn(&mut Decoder<'_>) -> Result<T, DecodeError>,
    encode: fn(&T, &mut Encoder),
) -> Result<(T, T), DecodeError> {
    let (first, second) = (decode(decoder)?, decode(decoder)?);
    if bytes_of(&first, encode) > bytes_of(&second, encode) {
        return Err(DecodeError::Invalid { what: "order of the two parts of evidence", found: 1 });
    }
    Ok((first, second))
}
