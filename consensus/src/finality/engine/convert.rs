//! From the engine's messages, certificates and log entries to ours and back.

use arc_malachitebft_core_consensus as engine;
use arc_malachitebft_core_types::{
    NilOrVal, PolkaSignature, Round, RoundCertificateType, RoundSignature, SignedMessage, Timeout, TimeoutKind,
    Validity, ValueOrigin, VoteType,
};
use zeni_ledger::CommitCertificate;
use zeni_ledger::finality::VoteKind;

use super::context::{Address, Decision, Proposal, Value, Vote, Zeni, round_number};
use crate::finality::log::{LogEntry, LoggedTimeout};
use crate::finality::message::{
    DoubleSigning, PolkaCertificate, RoundCertificate, RoundReason, RoundVote, SignedProposal, SignedVote,
};

pub(super) type TheirVote = SignedMessage<Zeni, Vote>;
pub(super) type TheirProposal = SignedMessage<Zeni, Proposal>;
type TheirPolka = arc_malachitebft_core_types::PolkaCertificate<Zeni>;
type TheirRound = arc_malachitebft_core_types::RoundCertificate<Zeni>;
type TheirCommit = arc_malachitebft_core_types::CommitCertificate<Zeni>;

pub(super) fn our_vote(signed: &TheirVote) -> SignedVote {
    SignedVote { voter: signed.message.voter.0, vote: signed.message.ours(), signature: signed.signature.into() }
}

pub(super) fn their_vote(signed: &SignedVote) -> TheirVote {
    SignedMessage::new(Vote::theirs(&signed.vote, signed.voter), signed.signature.into())
}

pub(super) fn our_proposal(signed: &TheirProposal) -> SignedProposal {
    let (proposer, proposal) = (signed.message.proposer.0, signed.message.ours());
    SignedProposal { proposer, proposal, signature: signed.signature.into() }
}

pub(super) fn their_proposal(signed: &SignedProposal) -> TheirProposal {
    SignedMessage::new(Proposal::theirs(&signed.proposal, signed.proposer), signed.signature.into())
}

pub(super) fn our_polka(certificate: &TheirPolka) -> PolkaCertificate {
    let mut signatures: Vec<_> =
        certificate.polka_signatures.iter().map(|entry| (entry.address.0, entry.signature.into())).collect();
    signatures.sort_unstable_by_key(|(validator, _)| *validator);
    PolkaCertificate {
        decision: certificate.height.0,
        round: round_number(certificate.round),
        block: certificate.value_id.0,
        signatures,
    }
}

pub(super) fn their_polka(certificate: &PolkaCertificate) -> TheirPolka {
    let entry = |(validator, signature): &(_, zeni_ledger::SignatureBytes)| {
        PolkaSignature::new(Address(*validator), (*signature).into())
    };
    TheirPolka {
        height: Decision(certificate.decision),
        round: Round::new(certificate.round),
        value_id: Value(certificate.block),
        polka_signatures: certificate.signatures.iter().map(entry).collect(),
    }
}

pub(super) fn our_round(certificate: &TheirRound) -> RoundCertificate {
    let vote = |entry: &RoundSignature<Zeni>| RoundVote {
        kind: match entry.vote_type {
            VoteType::Prevote => VoteKind::Prevote,
            VoteType::Precommit => VoteKind::Precommit,
        },
        block: match &entry.value_id {
            NilOrVal::Nil => None,
            NilOrVal::Val(value) => Some(value.0),
        },
        voter: entry.address.0,
        signature: entry.signature.into(),
    };
    RoundCertificate {
        decision: certificate.height.0,
        round: round_number(certificate.round),
        reason: match certificate.cert_type {
            RoundCertificateType::Skip => RoundReason::Skip,
            RoundCertificateType::Precommit => RoundReason::Precommits,
        },
        votes: certificate.round_signatures.iter().map(vote).collect(),
    }
}

pub(super) fn their_round(certificate: &RoundCertificate) -> TheirRound {
    let entry = |vote: &RoundVote| {
        let kind = match vote.kind {
            VoteKind::Prevote => VoteType::Prevote,
            VoteKind::Precommit => VoteType::Precommit,
        };
        let value = vote.block.map_or(NilOrVal::Nil, |block| NilOrVal::Val(Value(block)));
        RoundSignature::new(kind, value, Address(vote.voter), vote.signature.into())
    };
    TheirRound {
        height: Decision(certificate.decision),
        round: Round::new(certificate.round),
        cert_type: match certificate.reason {
            RoundReason::Skip => RoundCertificateType::Skip,
            RoundReason::Precommits => RoundCertificateType::Precommit,
        },
        round_signatures: certificate.votes.iter().map(entry).collect(),
    }
}

pub(super) fn our_commit(certificate: &TheirCommit) -> CommitCertificate {
    let mut signatures: Vec<_> =
        certificate.commit_signatures.iter().map(|entry| (entry.address.0, entry.signature.into())).collect();
    signatures.sort_unstable_by_key(|(validator, _)| *validator);
    CommitCertificate {
        decision: certificate.height.0,
        round: round_number(certificate.round),
        block: certificate.value_id.0,
        signatures,
    }
}

/// The entry for an input that the engine wants logged; `None` for what need not be.
pub(super) fn our_entry(input: &engine::Input<Zeni>) -> Option<LogEntry> {
    Some(match input {
        engine::Input::Vote(signed) => LogEntry::Vote(our_vote(signed)),
        engine::Input::Proposal(signed) => LogEntry::Proposal(our_proposal(signed)),
        engine::Input::PolkaCertificate(certificate) => LogEntry::Polka(our_polka(certificate)),
        engine::Input::TimeoutElapsed(timeout) => LogEntry::Timeout {
            round: round_number(timeout.round),
            timeout: match timeout.kind {
                TimeoutKind::Propose => LoggedTimeout::Propose,
                TimeoutKind::Prevote => LoggedTimeout::Prevote,
                TimeoutKind::Precommit => LoggedTimeout::Precommit,
                TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => return None,
            },
        },
        engine::Input::ProposedValue(proposed, _) => LogEntry::Verdict {
            decision: proposed.height.0,
            round: round_number(proposed.round),
            valid_round: proposed.valid_round.as_u32(),
            proposer: proposed.proposer.0,
            block: proposed.value.0,
            valid: proposed.validity.is_valid(),
        },
        engine::Input::StartHeight(..)
        | engine::Input::RoundCertificate(_)
        | engine::Input::Propose(_)
        | engine::Input::SyncValueResponse(_) => return None,
    })
}

/// The input that was logged; `None` for what is none.
pub(super) fn their_entry(entry: &LogEntry) -> Option<engine::Input<Zeni>> {
    Some(match entry {
        LogEntry::Start => return None,
        LogEntry::Vote(signed) => engine::Input::Vote(their_vote(signed)),
        LogEntry::Proposal(signed) => engine::Input::Proposal(their_proposal(signed)),
        LogEntry::Polka(certificate) => engine::Input::PolkaCertificate(their_polka(certificate)),
        LogEntry::Timeout { round, timeout } => {
            let kind = match timeout {
                LoggedTimeout::Propose => TimeoutKind::Propose,
                LoggedTimeout::Prevote => TimeoutKind::Prevote,
                LoggedTimeout::Precommit => TimeoutKind::Precommit,
            };
            engine::Input::TimeoutElapsed(Timeout::new(Round::new(*round), kind))
        }
        LogEntry::Verdict { decision, round, valid_round, proposer, block, valid } => {
            let proposed = engine::ProposedValue {
                height: Decision(*decision),
                round: Round::new(*round),
                valid_round: valid_round.map_or(Round::Nil, Round::new),
                proposer: Address(*proposer),
                value: Value(*block),
                validity: Validity::from_bool(*valid),
            };
            engine::Input::ProposedValue(proposed, ValueOrigin::Consensus)
        }
    })
}

/// Every pair of conflicting signatures that the engine gathered.
pub(super) fn our_evidence(evidence: &engine::MisbehaviorEvidence<Zeni>) -> Vec<DoubleSigning> {
    let votes = evidence.votes.iter().flat_map(|(_, pairs)| pairs);
    let votes = votes.map(|(first, second)| DoubleSigning::Votes(our_vote(first), our_vote(second)));
    let proposals = evidence.proposals.iter().flat_map(|(_, pairs)| pairs);
    let proposals =
        proposals.map(|(first, second)| DoubleSigning::Proposals(our_proposal(first), our_proposal(second)));
    votes.chain(proposals).collect()
}
