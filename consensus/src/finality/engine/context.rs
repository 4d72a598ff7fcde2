//! The types that the engine asks for. Nothing outside [`super`] names them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_malachitebft_core_types as engine;
use engine::{NilOrVal, Round, Timeout, TimeoutKind, VoteType};
use zeni_ledger::finality::{FinalityProposal, FinalityVote, VoteKind};
use zeni_ledger::{FinalBlock, Genesis, GenesisId, PublicKey, SignatureBytes, ValidatorIndex};

const PROPOSER_DOMAIN: &str = "zeni finality proposer v1";

/// Names the types, and knows the ledger.
#[derive(Debug, Clone)]
pub(super) struct Zeni {
    pub(super) genesis: GenesisId,
}

/// A validator's place in genesis is its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(pub(super) ValidatorIndex);

/// Counts decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Decision(pub(super) u64);

/// The block to be made final is its own id, so that a certificate says all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value(pub(super) FinalBlock);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) proposer: Address,
    pub(super) decision: Decision,
    pub(super) round: Round,
    pub(super) valid_round: Round,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vote {
    pub(super) voter: Address,
    pub(super) kind: VoteType,
    pub(super) decision: Decision,
    pub(super) round: Round,
    pub(super) value: NilOrVal<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validator {
    address: Address,
    key: Key,
    stake: u64,
}

/// All validators. They are those of genesis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validators(Arc<Vec<Validator>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(pub(super) PublicKey);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Signature(pub(super) [u8; 64]);

/// Blocks travel as the chain's own messages: a proposal names one and has no parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoPart;

/// Votes carry nothing but the vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoExtension;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scheme;

/// The engine's own notion of time is unused: see [`super::timers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct NoTimeouts;

impl Validators {
    pub(super) fn of(genesis: &Genesis) -> Self {
        let validator = |(place, validator): (usize, &zeni_ledger::genesis::Validator)| Validator {
            address: Address(ValidatorIndex(place as u16)),
            key: Key(validator.key),
            stake: validator.stake,
        };
        Self(Arc::new(genesis.validators.iter().enumerate().map(validator).collect()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.0.id, self.0.height)
    }
}

impl engine::Address for Address {}

impl engine::Height for Decision {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

impl engine::Value for Value {
    type Id = Self;

    fn id(&self) -> Self {
        *self
    }
}

impl engine::Proposal<Zeni> for Proposal {
    fn height(&self) -> Decision {
        self.decision
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Value {
        &self.value
    }

    fn take_value(self) -> Value {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.valid_round
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

impl engine::Vote<Zeni> for Vote {
    fn height(&self) -> Decision {
        self.decision
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<Value> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<Value> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.voter
    }

    fn extension(&self) -> Option<&engine::SignedExtension<Zeni>> {
        None
    }

    fn take_extension(&mut self) -> Option<engine::SignedExtension<Zeni>> {
        None
    }

    fn extend(self, _: engine::SignedExtension<Zeni>) -> Self {
        self
    }
}

impl engine::Validator<Zeni> for Validator {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &Key {
        &self.key
    }

    fn voting_power(&self) -> u64 {
        self.stake
    }
}

impl engine::ValidatorSet<Zeni> for Validators {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.0.iter().map(|validator| validator.stake).sum()
    }

    fn get_by_address(&self, address: &Address) -> Option<&Validator> {
        self.0.get(address.0.as_usize())
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.0.get(index)
    }
}

impl engine::ProposalPart<Zeni> for NoPart {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

impl engine::Extension for NoExtension {
    fn size_bytes(&self) -> usize {
        0
    }
}

impl engine::SigningScheme for Scheme {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = Key;
    type PrivateKey = ();

    fn decode_signature(bytes: &[u8]) -> Result<Signature, &'static str> {
        bytes.try_into().map(Signature).map_err(|_| "a signature has 64 bytes")
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<Key, &'static str> {
        bytes.try_into().map(|bytes| Key(PublicKey(bytes))).map_err(|_| "a key has 32 bytes")
    }

    fn encode_public_key(key: &Key) -> Vec<u8> {
        key.0.0.to_vec()
    }
}

impl engine::Timeouts<Zeni> for NoTimeouts {
    fn duration_for(&self, timeout: Timeout) -> Duration {
        match timeout.kind {
            TimeoutKind::FinalizeHeight(duration) => duration,
            _ => Duration::ZERO,
        }
    }
}

impl engine::Context for Zeni {
    type Address = Address;
    type Height = Decision;
    type ProposalPart = NoPart;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = Validators;
    type Timeouts = NoTimeouts;
    type Value = Value;
    type Vote = Vote;
    type Extension = NoExtension;
    type SigningScheme = Scheme;

    /// Drawn with a probability in proportion to stake, from decision and round alone.
    fn select_proposer<'a>(&self, validators: &'a Validators, decision: Decision, round: Round) -> &'a Validator {
        let round = round.as_u32().unwrap_or(0);
        let seed = zeni_ledger::hash::hash_parts(
            PROPOSER_DOMAIN,
            &[&self.genesis.0, &decision.0.to_le_bytes(), &round.to_le_bytes()],
        );
        let draw = u64::from_le_bytes(*seed.first_chunk().expect("a digest has 32 bytes"));
        let total: u128 = validators.0.iter().map(|validator| u128::from(validator.stake)).sum();
        // Stakes are below 2^48 together, so the product fits and the bias is below 2^-16.
        let mut point = (u128::from(draw) * total) >> 64;
        let drawn = validators.0.iter().find(|validator| {
            let stake = u128::from(validator.stake);
            let hit = point < stake;
            point = point.saturating_sub(stake);
            hit
        });
        drawn.expect("the point lies below the sum of all stakes")
    }

    fn new_proposal(
        &self,
        decision: Decision,
        round: Round,
        value: Value,
        valid_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal { proposer, decision, round, valid_round, value }
    }

    fn new_prevote(&self, decision: Decision, round: Round, value: NilOrVal<Value>, voter: Address) -> Vote {
        Vote { voter, kind: VoteType::Prevote, decision, round, value }
    }

    fn new_precommit(&self, decision: Decision, round: Round, value: NilOrVal<Value>, voter: Address) -> Vote {
        Vote { voter, kind: VoteType::Precommit, decision, round, value }
    }
}

/// A round that is not before the first one.
pub(super) fn round_number(round: Round) -> u32 {
    round.as_u32().expect("the engine signs and sends in rounds from 0")
}

impl Vote {
    /// The vote as this ledger signs it.
    pub(super) fn ours(&self) -> FinalityVote {
        let kind = match self.kind {
            VoteType::Prevote => VoteKind::Prevote,
            VoteType::Precommit => VoteKind::Precommit,
        };
        let block = match &self.value {
            NilOrVal::Nil => None,
            NilOrVal::Val(value) => Some(value.0),
        };
        FinalityVote { kind, decision: self.decision.0, round: round_number(self.round), block }
    }

    pub(super) fn theirs(vote: &FinalityVote, voter: ValidatorIndex) -> Self {
        let kind = match vote.kind {
            VoteKind::Prevote => VoteType::Prevote,
            VoteKind::Precommit => VoteType::Precommit,
        };
        let value = vote.block.map_or(NilOrVal::Nil, |block| NilOrVal::Val(Value(block)));
        Self { voter: Address(voter), kind, decision: Decision(vote.decision), round: Round::new(vote.round), value }
    }
}

impl Proposal {
    /// The proposal as this ledger signs it.
    pub(super) fn ours(&self) -> FinalityProposal {
        FinalityProposal {
            decision: self.decision.0,
            round: round_number(self.round),
            valid_round: self.valid_round.as_u32(),
            block: self.value.0,
        }
    }

    pub(super) fn theirs(proposal: &FinalityProposal, proposer: ValidatorIndex) -> Self {
        Self {
            proposer: Address(proposer),
            decision: Decision(proposal.decision),
            round: Round::new(proposal.round),
            valid_round: proposal.valid_round.map_or(Round::Nil, Round::new),
            value: Value(proposal.block),
        }
    }
}

impl From<SignatureBytes> for Signature {
    fn from(signature: SignatureBytes) -> Self {
        Self(signature.0)
    }
}

impl From<Signature> for SignatureBytes {
    fn from(signature: Signature) -> Self {
        Self(signature.0)
    }
}
