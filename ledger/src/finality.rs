//! Finality as a stranger can check it: what validators sign when they vote, and the certificate by which a quorum of
//! them made a block final.
//!
//! The votes are those of Tendermint (Buchman, Kwon, Milosevic 2018, "The latest gossip on BFT consensus"). Its heights
//! are called decisions here, because they count decisions and not blocks: one decision makes a block and everything
//! below it final. What is signed is the digest of domain, genesis id and every field, so that no vote can be read as
//! one of another ledger, decision, round or kind.
//!
//! Canonical bytes of a certificate: version u16, decision u64, round u32, block 32, height u64, signatures u16, then
//! validator u16 and signature 64 of each, by rising validator.

use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::genesis::{FaultModel, Genesis, VALIDATORS_MAX};
use crate::hash::{BlockId, GenesisId, hash_parts};
use crate::identity::{PublicKey, SignatureBytes, ValidatorIndex};
use crate::signature::{Claim, verify};

/// Bytes of the largest certificate.
pub const CERTIFICATE_BYTES_MAX: usize = CERTIFICATE_HEAD_BYTES + SIGNATURE_ENTRY_BYTES * VALIDATORS_MAX;

const CERTIFICATE_HEAD_BYTES: usize = 2 + 8 + 4 + 32 + 8 + 2;
const SIGNATURE_ENTRY_BYTES: usize = 2 + 64;
const VERSION: u16 = 1;
const VOTE_DOMAIN: &str = "zeni finality vote v1";
const PROPOSAL_DOMAIN: &str = "zeni finality proposal v1";

/// What a decision makes final: this block and all its ancestors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FinalBlock {
    pub id: BlockId,
    /// The block's height in the chain.
    pub height: u64,
}

/// The two votes of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VoteKind {
    Prevote,
    Precommit,
}

/// One validator's vote in one round of one decision. It counts for the validator whose key signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FinalityVote {
    pub kind: VoteKind,
    /// Counts decisions from 1.
    pub decision: u64,
    /// Counts rounds of the decision from 0.
    pub round: u32,
    /// `None`: a vote for nothing in this round.
    pub block: Option<FinalBlock>,
}

/// What the proposer of a round proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FinalityProposal {
    pub decision: u64,
    pub round: u32,
    /// An earlier round in which a quorum prevoted for this block.
    pub valid_round: Option<u32>,
    pub block: FinalBlock,
}

impl FinalBlock {
    /// Writes id 32 and height u64.
    pub fn encode(&self, encoder: &mut Encoder) {
        encoder.raw(&self.id.0).u64(self.height);
    }

    /// Reads what [`Self::encode`] writes.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { id: BlockId(decoder.array()?), height: decoder.u64()? })
    }
}

impl FinalityVote {
    /// What the voter signs.
    pub fn digest(&self, genesis: &GenesisId) -> [u8; 32] {
        let mut encoder = Encoder::with_capacity(64);
        encoder.u8(self.kind as u8).u64(self.decision).u32(self.round).u8(self.block.is_some().into());
        if let Some(block) = &self.block {
            block.encode(&mut encoder);
        }
        hash_parts(VOTE_DOMAIN, &[&genesis.0, encoder.as_bytes()])
    }

    /// Whether `voter` signed this vote.
    pub fn signature_holds(&self, genesis: &GenesisId, voter: &PublicKey, signature: SignatureBytes) -> bool {
        verify(&Claim { key: *voter, message: &self.digest(genesis), signature })
    }
}

impl FinalityProposal {
    /// What the proposer signs.
    pub fn digest(&self, genesis: &GenesisId) -> [u8; 32] {
        let mut encoder = Encoder::with_capacity(64);
        encoder.u64(self.decision).u32(self.round);
        // One more than the round, so that no round can be mistaken for its absence.
        encoder.u64(self.valid_round.map_or(0, |round| u64::from(round) + 1));
        self.block.encode(&mut encoder);
        hash_parts(PROPOSAL_DOMAIN, &[&genesis.0, encoder.as_bytes()])
    }

    /// Whether `proposer` signed this proposal.
    pub fn signature_holds(&self, genesis: &GenesisId, proposer: &PublicKey, signature: SignatureBytes) -> bool {
        verify(&Claim { key: *proposer, message: &self.digest(genesis), signature })
    }
}

impl FaultModel {
    /// Whether this much stake of all is a quorum: more than two thirds, or in the crash model more than half.
    pub const fn is_quorum(self, stake: u64, total: u64) -> bool {
        let (numerator, denominator) = self.quorum_ratio();
        stake as u128 * denominator as u128 > total as u128 * numerator as u128
    }

    /// A quorum is more than this part of all stake: numerator and denominator.
    pub const fn quorum_ratio(self) -> (u64, u64) {
        match self {
            Self::Crash => (1, 2),
            Self::Byzantine => (2, 3),
        }
    }
}

impl Genesis {
    /// Stake of all validators.
    pub fn total_stake(&self) -> u64 {
        self.validators.iter().map(|validator| validator.stake).sum()
    }
}

/// Shows that a quorum made a block final: their precommits of one round of one decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitCertificate {
    pub decision: u64,
    pub round: u32,
    pub block: FinalBlock,
    /// By rising validator, each once.
    pub signatures: Vec<(ValidatorIndex, SignatureBytes)>,
}

/// Why a certificate does not show that a block is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate's signers do not rise strictly at entry {entry}")]
    SignersNotRising { entry: usize },
    #[error("there is no validator {found} in this ledger")]
    UnknownValidator { found: ValidatorIndex },
    #[error("the signature of validator {validator} does not verify")]
    BadSignature { validator: ValidatorIndex },
    #[error("the signers hold {stake} of {total} stake, which is no quorum")]
    NoQuorum { stake: u64, total: u64 },
}

impl CommitCertificate {
    /// The vote that every signer cast.
    pub const fn vote(&self) -> FinalityVote {
        FinalityVote { kind: VoteKind::Precommit, decision: self.decision, round: self.round, block: Some(self.block) }
    }

    /// Checks that a quorum of the validators of `genesis` signed, each once. `id` is that of `genesis`.
    ///
    /// # Errors
    /// The first rule that the certificate breaks; signatures are checked last.
    pub fn verify(&self, genesis: &Genesis, id: &GenesisId) -> Result<(), CertificateError> {
        check_quorum(&self.vote(), &self.signatures, genesis, id)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder =
            Encoder::with_capacity(CERTIFICATE_HEAD_BYTES + SIGNATURE_ENTRY_BYTES * self.signatures.len());
        encoder.u16(VERSION).u64(self.decision).u32(self.round);
        self.block.encode(&mut encoder);
        encode_signatures(&self.signatures, &mut encoder);
        encoder.finish()
    }

    /// Parses canonical bytes. That the signers rise is part of the form: a certificate has one encoding.
    ///
    /// # Errors
    /// Bytes that [`Self::to_bytes`] does not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let certificate = Self::decode(&mut decoder)?;
        decoder.finish()?;
        Ok(certificate)
    }

    /// Reads a certificate from the front of longer bytes.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let found = decoder.u16()?;
        if found != VERSION {
            return Err(DecodeError::UnknownVersion { what: "commit certificate", found, known: VERSION });
        }
        let (decision, round) = (decoder.u64()?, decoder.u32()?);
        let block = FinalBlock::decode(decoder)?;
        let signatures = decode_signatures(decoder)?;
        Ok(Self { decision, round, block, signatures })
    }
}

/// Checks that a quorum of the validators of `genesis` cast this vote, each once, by rising validator.
///
/// # Errors
/// The first rule that is broken; signatures are checked last.
pub fn check_quorum(
    vote: &FinalityVote,
    signatures: &[(ValidatorIndex, SignatureBytes)],
    genesis: &Genesis,
    id: &GenesisId,
) -> Result<(), CertificateError> {
    if let Some(entry) = signatures.windows(2).position(|pair| pair[0].0 >= pair[1].0) {
        return Err(CertificateError::SignersNotRising { entry: entry + 1 });
    }
    let mut stake = 0;
    for (found, _) in signatures {
        let validator = genesis.validators.get(found.as_usize());
        stake += validator.ok_or(CertificateError::UnknownValidator { found: *found })?.stake;
    }
    let total = genesis.total_stake();
    if !genesis.fault_model.is_quorum(stake, total) {
        return Err(CertificateError::NoQuorum { stake, total });
    }
    let message = vote.digest(id);
    let holds = |(validator, signature): &(ValidatorIndex, SignatureBytes)| {
        let key = genesis.validators[validator.as_usize()].key;
        verify(&Claim { key, message: &message, signature: *signature })
    };
    match signatures.iter().find(|entry| !holds(entry)) {
        Some((validator, _)) => Err(CertificateError::BadSignature { validator: *validator }),
        None => Ok(()),
    }
}

/// Writes signatures: how many u16, then validator u16 and signature 64 of each.
pub fn encode_signatures(signatures: &[(ValidatorIndex, SignatureBytes)], encoder: &mut Encoder) {
    encoder.u16(signatures.len() as u16);
    for (validator, signature) in signatures {
        encoder.u16(validator.0).raw(&signature.0);
    }
}

/// Reads signatures; that the signers rise is part of the form, so that there is one encoding.
pub fn decode_signatures(decoder: &mut Decoder<'_>) -> Result<Vec<(ValidatorIndex, SignatureBytes)>, DecodeError> {
    let count = usize::from(decoder.u16()?);
    if count > VALIDATORS_MAX {
        let (found, limit) = (count as u64, VALIDATORS_MAX as u64);
        return Err(DecodeError::OverLimit { what: "signatures of a certificate", found, limit });
    }
    let mut signatures: Vec<(ValidatorIndex, SignatureBytes)> = Vec::with_capacity(count);
    for _ in 0..count {
        let validator = ValidatorIndex(decoder.u16()?);
        if signatures.last().is_some_and(|(last, _)| *last >= validator) {
            let found = u64::from(validator.0);
            return Err(DecodeError::Invalid { what: "order of a certificate's signers", found });
        }
        signatures.push((validator, SignatureBytes(decoder.array()?)));
    }
    Ok(signatures)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;
    use crate::amount::TokenId;
    use crate::genesis::{Purpose, Rules, Token, Validator};
    use crate::identity::AccountId;

    const BLOCK: FinalBlock = FinalBlock { id: BlockId([7; 32]), height: 12 };

    fn key(validator: u16) -> SigningKey {
        SigningKey::from_bytes(&[validator as u8 + 1; 32])
    }

    fn genesis(fault_model: FaultModel, stakes: &[u64]) -> Genesis {
        let validator = |(index, stake): (usize, &u64)| Validator {
            name: format!("v{index}"),
            key: PublicKey(key(index as u16).verifying_key().to_bytes()),
            stake: *stake,
            address: String::new(),
        };
        let token = Token { symbol: "ZEN".into(), decimals: 0, issuer: AccountId([9; 32]) };
        Genesis {
            purpose: Purpose::Test,
            fault_model,
            time_ms: 1_700_000_000_000,
            block_interval_ms: 1_000,
            state_depth: 4,
            batches_max: 10,
            rules: Rules { network: 7, validity_max_s: 7_200, tokens: BTreeMap::from([(TokenId(1), token)]) },
            validators: stakes.iter().enumerate().map(validator).collect(),
            accounts: 0,
            accounts_digest: [0; 32],
            accounts_file: String::new(),
        }
    }

    fn certificate(genesis: &Genesis, signers: &[u16]) -> CommitCertificate {
        let mut certificate = CommitCertificate { decision: 3, round: 1, block: BLOCK, signatures: Vec::new() };
        let digest = certificate.vote().digest(&genesis.id());
        let sign = |signer: &u16| (ValidatorIndex(*signer), SignatureBytes(key(*signer).sign(&digest).to_bytes()));
        certificate.signatures = signers.iter().map(sign).collect();
        certificate
    }

    #[test]
    fn a_quorum_is_more_than_half_or_more_than_two_thirds() {
        let crash = |stake, total| FaultModel::Crash.is_quorum(stake, total);
        assert_eq!([crash(1, 3), crash(2, 3), crash(2, 4), crash(3, 4)], [false, true, false, true]);
        let byzantine = |stake, total| FaultModel::Byzantine.is_quorum(stake, total);
        assert_eq!([byzantine(2, 3), byzantine(3, 3), byzantine(3, 4), byzantine(6, 9)], [false, true, true, false]);
        let most = 256 << 40;
        assert!(byzantine(most, most) && !byzantine(most / 3 * 2, most));
    }

    #[test]
    fn a_quorum_by_stake_makes_a_block_final() {
        let genesis = genesis(FaultModel::Crash, &[5, 1, 1]);
        let verify = |signers: &[u16]| certificate(&genesis, signers).verify(&genesis, &genesis.id());
        assert_eq!(verify(&[0]), Ok(()));
        assert_eq!(verify(&[0, 1, 2]), Ok(()));
        assert_eq!(verify(&[1, 2]), Err(CertificateError::NoQuorum { stake: 2, total: 7 }));
        assert_eq!(verify(&[]), Err(CertificateError::NoQuorum { stake: 0, total: 7 }));
    }

    #[test]
    fn a_signer_counts_once_and_must_be_known() {
        let genesis = genesis(FaultModel::Byzantine, &[1, 1, 1, 1]);
        let id = genesis.id();
        let mut twice = certificate(&genesis, &[0, 1, 2]);
        twice.signatures[1] = twice.signatures[0];
        assert_eq!(twice.verify(&genesis, &id), Err(CertificateError::SignersNotRising { entry: 1 }));
        let unknown = certificate(&genesis, &[0, 1, 2, 4]);
        let error = CertificateError::UnknownValidator { found: ValidatorIndex(4) };
        assert_eq!(unknown.verify(&genesis, &id), Err(error));
    }

    #[test]
    fn every_field_is_signed() {
        let genesis = genesis(FaultModel::Crash, &[1, 1, 1]);
        let (id, good) = (genesis.id(), certificate(&genesis, &[0, 2]));
        assert_eq!(good.verify(&genesis, &id), Ok(()));
        let bad = Err(CertificateError::BadSignature { validator: ValidatorIndex(0) });
        let other_block = FinalBlock { id: BlockId([8; 32]), ..BLOCK };
        let changed = [
            CommitCertificate { decision: 4, ..good.clone() },
            CommitCertificate { round: 0, ..good.clone() },
            CommitCertificate { block: other_block, ..good.clone() },
            CommitCertificate { block: FinalBlock { height: 13, ..BLOCK }, ..good.clone() },
        ];
        for certificate in changed {
            assert_eq!(certificate.verify(&genesis, &id), bad, "{certificate:?}");
        }
        assert_eq!(good.verify(&genesis, &GenesisId([1; 32])), bad, "a certificate of another ledger");
    }

    #[test]
    fn no_two_votes_or_proposals_share_a_digest() {
        let id = GenesisId([4; 32]);
        let mut digests = BTreeSet::new();
        let blocks = [None, Some(BLOCK), Some(FinalBlock { height: 13, ..BLOCK })];
        let mut count = 0;
        for (decision, round) in [(1, 0), (1, 1), (2, 0)] {
            for block in blocks {
                for kind in [VoteKind::Prevote, VoteKind::Precommit] {
                    digests.insert(FinalityVote { kind, decision, round, block }.digest(&id));
                    count += 1;
                }
            }
            for valid_round in [None, Some(0), Some(u32::MAX)] {
                digests.insert(FinalityProposal { decision, round, valid_round, block: BLOCK }.digest(&id));
                count += 1;
            }
        }
        assert_eq!(digests.len(), count);
    }

    #[test]
    fn bytes_round_trip_and_every_truncation_or_disorder_is_refused() {
        let genesis = genesis(FaultModel::Byzantine, &[1, 1, 1, 1]);
        let certificate = certificate(&genesis, &[0, 1, 3]);
        let bytes = certificate.to_bytes();
        assert_eq!(CommitCertificate::from_bytes(&bytes), Ok(certificate));
        for length in 0..bytes.len() {
            assert!(CommitCertificate::from_bytes(&bytes[..length]).is_err(), "{length} bytes were accepted");
        }
        let mut disorder = bytes;
        disorder[CERTIFICATE_HEAD_BYTES + SIGNATURE_ENTRY_BYTES] = 0;
        let refused = CommitCertificate::from_bytes(&disorder);
        assert!(matches!(refused, Err(DecodeError::Invalid { what: "order of a certificate's signers", .. })));
    }
}
