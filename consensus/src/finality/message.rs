//! What validators say to one another about finality, and its canonical bytes.
//!
//! Canonical bytes of a message: a tag u8 (0 proposal, 1 vote, 2 polka, 3 round certificate, 4 commit certificate), then
//! its fields in the order in which they are declared; a round is a u32, a missing earlier round or block is told by a
//! leading 0 byte instead of 1.

use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};
use zeni_ledger::finality::{
    CertificateError, FinalityProposal, FinalityVote, VoteKind, check_quorum, decode_signatures, encode_signatures,
};
use zeni_ledger::genesis::VALIDATORS_MAX;
use zeni_ledger::{CommitCertificate, FinalBlock, Genesis, GenesisId, SignatureBytes, ValidatorIndex};

use crate::batches::ValidatorSet;

/// Bytes of the largest message: a round certificate of every validator.
pub const FINALITY_MESSAGE_BYTES_MAX: usize = 1 + 8 + 4 + 1 + 2 + VALIDATORS_MAX * (1 + 1 + 40 + 2 + 64);

/// A proposal with its proposer's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedProposal {
    pub proposer: ValidatorIndex,
    pub proposal: FinalityProposal,
    pub signature: SignatureBytes,
}

/// A vote with its voter's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedVote {
    pub voter: ValidatorIndex,
    pub vote: FinalityVote,
    pub signature: SignatureBytes,
}

/// A quorum prevoted for one block in one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolkaCertificate {
    pub decision: u64,
    pub round: u32,
    pub block: FinalBlock,
    /// By rising validator, each once.
    pub signatures: Vec<(ValidatorIndex, SignatureBytes)>,
}

/// Why a round may be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoundReason {
    /// Validators of which at least one is honest have voted in this round already.
    Skip,
    /// A quorum precommitted in this round without deciding, so the next one begins.
    Precommits,
}

/// One vote of a round certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundVote {
    pub kind: VoteKind,
    pub block: Option<FinalBlock>,
    pub voter: ValidatorIndex,
    pub signature: SignatureBytes,
}

/// Votes that justify entering a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundCertificate {
    pub decision: u64,
    pub round: u32,
    pub reason: RoundReason,
    /// One of each voter.
    pub votes: Vec<RoundVote>,
}

/// Why votes do not justify entering a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoundCertificateError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("validator {voter} stands in the certificate twice")]
    VotesTwice { voter: ValidatorIndex },
    #[error("the vote of validator {voter} is no precommit")]
    NotAPrecommit { voter: ValidatorIndex },
}

/// A message about finality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinalityMessage {
    Proposal(SignedProposal),
    Vote(SignedVote),
    Polka(PolkaCertificate),
    Round(RoundCertificate),
    /// A decision, for whoever has not got it.
    Commit(CommitCertificate),
}

/// Two signatures of one validator of which a correct one gives at most one: evidence that anybody can check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubleSigning {
    Votes(SignedVote, SignedVote),
    Proposals(SignedProposal, SignedProposal),
}

impl SignedVote {
    /// Whether its voter is a validator of `genesis` and signed it.
    pub fn holds(&self, genesis: &Genesis, id: &GenesisId) -> bool {
        let voter = genesis.validators.get(self.voter.as_usize());
        voter.is_some_and(|voter| self.vote.signature_holds(id, &voter.key, self.signature))
    }

    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.u16(self.voter.0);
        encode_vote(&self.vote, encoder);
        encoder.raw(&self.signature.0);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let voter = ValidatorIndex(decoder.u16()?);
        Ok(Self { voter, vote: decode_vote(decoder)?, signature: SignatureBytes(decoder.array()?) })
    }
}

impl SignedProposal {
    /// Whether its proposer is a validator of `genesis` and signed it. Says nothing of whose turn it is.
    pub fn holds(&self, genesis: &Genesis, id: &GenesisId) -> bool {
        let proposer = genesis.validators.get(self.proposer.as_usize());
        proposer.is_some_and(|proposer| self.proposal.signature_holds(id, &proposer.key, self.signature))
    }

    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        let FinalityProposal { decision, round, valid_round, block } = &self.proposal;
        encoder.u16(self.proposer.0).u64(*decision).u32(*round);
        encode_round(*valid_round, encoder);
        block.encode(encoder);
        encoder.raw(&self.signature.0);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let proposer = ValidatorIndex(decoder.u16()?);
        let (decision, round) = (decoder.u64()?, decoder.u32()?);
        let valid_round = decode_round(decoder)?;
        let block = FinalBlock::decode(decoder)?;
        let proposal = FinalityProposal { decision, round, valid_round, block };
        Ok(Self { proposer, proposal, signature: SignatureBytes(decoder.array()?) })
    }
}

impl PolkaCertificate {
    /// Checks that a quorum prevoted. `id` is that of `genesis`.
    ///
    /// # Errors
    /// The first rule that the certificate breaks.
    pub fn verify(&self, genesis: &Genesis, id: &GenesisId) -> Result<(), CertificateError> {
        let vote = FinalityVote {
            kind: VoteKind::Prevote,
            decision: self.decision,
            round: self.round,
            block: Some(self.block),
        };
        check_quorum(&vote, &self.signatures, genesis, id)
    }

    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.u64(self.decision).u32(self.round);
        self.block.encode(encoder);
        encode_signatures(&self.signatures, encoder);
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (decision, round) = (decoder.u64()?, decoder.u32()?);
        let block = FinalBlock::decode(decoder)?;
        Ok(Self { decision, round, block, signatures: decode_signatures(decoder)? })
    }
}

impl RoundCertificate {
    /// The votes as their voters signed them.
    pub fn signed_votes(&self) -> impl Iterator<Item = SignedVote> + '_ {
        self.votes.iter().map(|vote| SignedVote {
            voter: vote.voter,
            vote: FinalityVote { kind: vote.kind, decision: self.decision, round: self.round, block: vote.block },
            signature: vote.signature,
        })
    }

    /// Checks that the votes justify what the certificate says: distinct validators, and a quorum of precommits, or of
    /// any votes more than a third of all stake. `id` is that of `genesis`.
    ///
    /// # Errors
    /// The first rule that the certificate breaks; signatures are checked last.
    pub fn verify(&self, genesis: &Genesis, id: &GenesisId) -> Result<(), RoundCertificateError> {
        let (mut stake, mut seen) = (0, ValidatorSet::default());
        for vote in &self.votes {
            let voter = genesis.validators.get(vote.voter.as_usize());
            let voter = voter.ok_or(CertificateError::UnknownValidator { found: vote.voter })?;
            if seen.contains(vote.voter) {
                return Err(RoundCertificateError::VotesTwice { voter: vote.voter });
            }
            if self.reason == RoundReason::Precommits && vote.kind != VoteKind::Precommit {
                return Err(RoundCertificateError::NotAPrecommit { voter: vote.voter });
            }
            seen.insert(vote.voter);
            stake += voter.stake;
        }
        let total = genesis.total_stake();
        let enough = match self.reason {
            RoundReason::Skip => u128::from(stake) * 3 > u128::from(total),
            RoundReason::Precommits => genesis.fault_model.is_quorum(stake, total),
        };
        if !enough {
            return Err(CertificateError::NoQuorum { stake, total }.into());
        }
        match self.signed_votes().find(|vote| !vote.holds(genesis, id)) {
            Some(vote) => Err(CertificateError::BadSignature { validator: vote.voter }.into()),
            None => Ok(()),
        }
    }

    fn encode(&self, encoder: &mut Encoder) {
        encoder.u64(self.decision).u32(self.round).u8(self.reason as u8).u16(self.votes.len() as u16);
        for vote in &self.votes {
            encoder.u8(vote.kind as u8);
            encode_block(vote.block.as_ref(), encoder);
            encoder.u16(vote.voter.0).raw(&vote.signature.0);
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (decision, round) = (decoder.u64()?, decoder.u32()?);
        let reason = match decoder.u8()? {
            0 => RoundReason::Skip,
            1 => RoundReason::Precommits,
            found => return Err(DecodeError::Invalid { what: "reason of a round certificate", found: found.into() }),
        };
        let count = usize::from(decoder.u16()?);
        if count > VALIDATORS_MAX {
            let (found, limit) = (count as u64, VALIDATORS_MAX as u64);
            return Err(DecodeError::OverLimit { what: "votes of a round certificate", found, limit });
        }
        let mut votes = Vec::with_capacity(count);
        for _ in 0..count {
            let (kind, block) = (decode_kind(decoder)?, decode_block(decoder)?);
            let voter = ValidatorIndex(decoder.u16()?);
            votes.push(RoundVote { kind, block, voter, signature: SignatureBytes(decoder.array()?) });
        }
        Ok(Self { decision, round, reason, votes })
    }
}

impl FinalityMessage {
    /// Which decision it is about.
    pub const fn decision(&self) -> u64 {
        match self {
            Self::Proposal(signed) => signed.proposal.decision,
            Self::Vote(signed) => signed.vote.decision,
            Self::Polka(certificate) => certificate.decision,
            Self::Round(certificate) => certificate.decision,
            Self::Commit(certificate) => certificate.decision,
        }
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(160);
        match self {
            Self::Proposal(signed) => signed.encode(encoder.u8(0)),
            Self::Vote(signed) => signed.encode(encoder.u8(1)),
            Self::Polka(certificate) => certificate.encode(encoder.u8(2)),
            Self::Round(certificate) => certificate.encode(encoder.u8(3)),
            Self::Commit(certificate) => {
                encoder.u8(4).raw(&certificate.to_bytes());
            }
        }
        encoder.finish()
    }

    /// Parses canonical bytes, limits first. Says nothing about signatures.
    ///
    /// # Errors
    /// Bytes that [`Self::to_bytes`] does not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > FINALITY_MESSAGE_BYTES_MAX {
            let (found, limit) = (bytes.len() as u64, FINALITY_MESSAGE_BYTES_MAX as u64);
            return Err(DecodeError::OverLimit { what: "bytes of a finality message", found, limit });
        }
        let mut decoder = Decoder::new(bytes);
        let message = match decoder.u8()? {
            0 => Self::Proposal(SignedProposal::decode(&mut decoder)?),
            1 => Self::Vote(SignedVote::decode(&mut decoder)?),
            2 => Self::Polka(PolkaCertificate::decode(&mut decoder)?),
            3 => Self::Round(RoundCertificate::decode(&mut decoder)?),
            4 => Self::Commit(CommitCertificate::decode(&mut decoder)?),
            found => return Err(DecodeError::Invalid { what: "tag of a finality message", found: found.into() }),
        };
        decoder.finish()?;
        Ok(message)
    }
}

impl DoubleSigning {
    /// Who signed twice.
    pub const fn signer(&self) -> ValidatorIndex {
        match self {
            Self::Votes(first, _) => first.voter,
            Self::Proposals(first, _) => first.proposer,
        }
    }

    /// Whether the two contradict each other and one validator of `genesis` signed both.
    pub fn holds(&self, genesis: &Genesis, id: &GenesisId) -> bool {
        match self {
            Self::Votes(first, second) => {
                let key =
                    |signed: &SignedVote| (signed.voter, signed.vote.kind, signed.vote.decision, signed.vote.round);
                let contradicts = key(first) == key(second) && first.vote.block != second.vote.block;
                contradicts && first.holds(genesis, id) && second.holds(genesis, id)
            }
            Self::Proposals(first, second) => {
                let key = |signed: &SignedProposal| (signed.proposer, signed.proposal.decision, signed.proposal.round);
                let contradicts = key(first) == key(second) && first.proposal != second.proposal;
                contradicts && first.holds(genesis, id) && second.holds(genesis, id)
            }
        }
    }
}

pub(crate) fn encode_round(round: Option<u32>, encoder: &mut Encoder) {
    encoder.u8(round.is_some().into());
    if let Some(round) = round {
        encoder.u32(round);
    }
}

pub(crate) fn decode_round(decoder: &mut Decoder<'_>) -> Result<Option<u32>, DecodeError> {
    present(decoder, "presence of a round")?.then(|| decoder.u32()).transpose()
}

fn encode_block(block: Option<&FinalBlock>, encoder: &mut Encoder) {
    encoder.u8(block.is_some().into());
    if let Some(block) = block {
        block.encode(encoder);
    }
}

fn decode_block(decoder: &mut Decoder<'_>) -> Result<Option<FinalBlock>, DecodeError> {
    present(decoder, "presence of a block in a vote")?.then(|| FinalBlock::decode(decoder)).transpose()
}

fn present(decoder: &mut Decoder<'_>, what: &'static str) -> Result<bool, DecodeError> {
    match decoder.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(DecodeError::Invalid { what, found: found.into() }),
    }
}

fn decode_kind(decoder: &mut Decoder<'_>) -> Result<VoteKind, DecodeError> {
    match decoder.u8()? {
        0 => Ok(VoteKind::Prevote),
        1 => Ok(VoteKind::Precommit),
        found => Err(DecodeError::Invalid { what: "kind of a vote", found: found.into() }),
    }
}

fn encode_vote(vote: &FinalityVote, encoder: &mut Encoder) {
    encoder.u8(vote.kind as u8).u64(vote.decision).u32(vote.round);
    encode_block(vote.block.as_ref(), encoder);
}

fn decode_vote(decoder: &mut Decoder<'_>) -> Result<FinalityVote, DecodeError> {
    let kind = decode_kind(decoder)?;
    let (decision, round) = (decoder.u64()?, decoder.u32()?);
    Ok(FinalityVote { kind, decision, round, block: decode_block(decoder)? })
}

#[cfg(test)]
mod tests {
    use zeni_ledger::BlockId;

    use super::*;

    const BLOCK: FinalBlock = FinalBlock { id: BlockId([7; 32]), height: 12 };

    fn signatures(signers: &[u16]) -> Vec<(ValidatorIndex, SignatureBytes)> {
        signers.iter().map(|signer| (ValidatorIndex(*signer), SignatureBytes([*signer as u8; 64]))).collect()
    }

    fn round_vote(voter: u16, kind: VoteKind, block: Option<FinalBlock>) -> RoundVote {
        RoundVote { kind, block, voter: ValidatorIndex(voter), signature: SignatureBytes([9; 64]) }
    }

    /// One of every kind, with and without what may be missing.
    fn messages() -> Vec<FinalityMessage> {
        let (voter, signature) = (ValidatorIndex(2), SignatureBytes([5; 64]));
        let proposal = |valid_round| FinalityProposal { decision: 3, round: 1, valid_round, block: BLOCK };
        let proposed = |valid_round| SignedProposal { proposer: voter, proposal: proposal(valid_round), signature };
        let vote = |kind, block| FinalityVote { kind, decision: 3, round: 1, block };
        let voted = |kind, block| SignedVote { voter, vote: vote(kind, block), signature };
        let votes = vec![
            round_vote(0, VoteKind::Prevote, None),
            round_vote(4, VoteKind::Precommit, Some(BLOCK)),
            round_vote(1, VoteKind::Precommit, None),
        ];
        let round = |reason, votes| RoundCertificate { decision: 3, round: 1, reason, votes };
        vec![
            FinalityMessage::Proposal(proposed(None)),
            FinalityMessage::Proposal(proposed(Some(0))),
            FinalityMessage::Vote(voted(VoteKind::Prevote, None)),
            FinalityMessage::Vote(voted(VoteKind::Precommit, Some(BLOCK))),
            FinalityMessage::Polka(PolkaCertificate {
                decision: 3,
                round: 1,
                block: BLOCK,
                signatures: signatures(&[0, 2, 3]),
            }),
            FinalityMessage::Round(round(RoundReason::Skip, votes)),
            FinalityMessage::Round(round(RoundReason::Precommits, Vec::new())),
            FinalityMessage::Commit(CommitCertificate {
                decision: 3,
                round: 1,
                block: BLOCK,
                signatures: signatures(&[1, 2]),
            }),
        ]
    }

    #[test]
    fn bytes_round_trip_and_no_truncation_or_extension_is_read() {
        for message in messages() {
            let bytes = message.to_bytes();
            assert_eq!(FinalityMessage::from_bytes(&bytes).as_ref(), Ok(&message));
            for length in 0..bytes.len() {
                assert!(FinalityMessage::from_bytes(&bytes[..length]).is_err(), "{length} bytes of {message:?}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(FinalityMessage::from_bytes(&longer).is_err(), "a byte behind {message:?}");
        }
    }

    #[test]
    fn a_message_has_one_encoding() {
        // Whatever one byte is changed to: what can still be read is written as it was read.
        for message in messages() {
            let bytes = message.to_bytes();
            for place in 0..bytes.len() {
                for value in [0, 1, 2, 255, bytes[place] ^ 1] {
                    let mut changed = bytes.clone();
                    changed[place] = value;
                    if let Ok(read) = FinalityMessage::from_bytes(&changed) {
                        assert_eq!(read.to_bytes(), changed, "byte {place} of {message:?}");
                        assert_eq!(read == message, changed == bytes, "byte {place} of {message:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_message_fits_and_a_larger_one_is_refused() {
        let votes = (0..VALIDATORS_MAX as u16).map(|voter| round_vote(voter, VoteKind::Precommit, Some(BLOCK)));
        let mut certificate =
            RoundCertificate { decision: 3, round: 1, reason: RoundReason::Precommits, votes: votes.collect() };
        let largest = FinalityMessage::Round(certificate.clone()).to_bytes();
        assert_eq!(largest.len(), FINALITY_MESSAGE_BYTES_MAX);
        assert!(FinalityMessage::from_bytes(&largest).is_ok());
        certificate.votes.push(round_vote(0, VoteKind::Precommit, None));
        let refused = FinalityMessage::from_bytes(&FinalityMessage::Round(certificate).to_bytes());
        assert!(matches!(refused, Err(DecodeError::OverLimit { what: "bytes of a finality message", .. })));
    }
}
