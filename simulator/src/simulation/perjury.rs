//! A validator that lies about finality, with its own key only: it holds back what it says, says different things to different
//! peers, and what nobody did: votes and certificates in the name of others, blocks that are unknown, beside the final chain or
//! never executed, what was true long ago, and what lies far ahead.

use std::sync::Arc;

use zeni_consensus::Message;
use zeni_consensus::finality::FinalityMessage;
use zeni_consensus::finality::message::{
    PolkaCertificate, RoundCertificate, RoundReason, RoundVote, SignedProposal, SignedVote,
};
use zeni_ledger::finality::{FinalityProposal, FinalityVote, VoteKind};
use zeni_ledger::signature::sign;
use zeni_ledger::{Block, BlockId, CommitCertificate, FinalBlock, SignatureBytes, ValidatorIndex};

use super::{Happening, Simulation};
use crate::network::ProcessId;
use crate::violation::Violation;

/// Of a thousand messages of each kind, those that are held back or replaced.
const WITHHELD_BATCHES: u64 = 150;
const WITHHELD_BLOCKS: u64 = 100;
const FALSE_STATUSES: u64 = 200;
const FALSE_DRAFTS: u64 = 300;
const WITHHELD_VOTES: u64 = 200;
const DOUBLE_VOTES: u64 = 300;
/// Rounds and decisions that are far ahead.
const FAR: u64 = 1_000;

impl Simulation {
    /// Whether this process lies about finality now: where the fault model allows for it, before healing.
    pub(super) fn perjures(&self, node: ProcessId) -> bool {
        self.is_liar(node) && self.profile.byzantine_quorums && !self.healed
    }

    /// Perhaps does something else with what the liar's core says. True if it did.
    pub(super) fn twist(&mut self, node: ProcessId, message: &Message) -> bool {
        match message {
            Message::Batch(_) => self.liar_dice.chance(WITHHELD_BATCHES),
            Message::Block(_) => self.liar_dice.chance(WITHHELD_BLOCKS),
            Message::Draft { slot, parent, start, digests } if self.liar_dice.chance(FALSE_DRAFTS) => {
                let mut digests = digests.clone();
                match self.liar_dice.below(3) {
                    0 => digests.reverse(),
                    1 => digests.extend(digests.clone()),
                    _ => digests.truncate(digests.len() / 2),
                }
                self.tell_some(node, &[Message::Draft { slot: *slot, parent: *parent, start: *start, digests }]);
                true
            }
            Message::Status(status) if status.validator.as_usize() == node && self.liar_dice.chance(FALSE_STATUSES) => {
                let mut status = status.clone();
                match self.liar_dice.below(3) {
                    0 => status.decision += self.liar_dice.below(FAR),
                    1 => status.weight += u128::from(self.liar_dice.below(FAR)),
                    _ => status.last_final = self.any_block(node),
                }
                if self.liar_dice.chance(500) {
                    let block = self.any_block(node);
                    (status.head, status.height) = (block.id, block.height);
                }
                self.tell_some(node, &[Message::Status(status)]);
                true
            }
            Message::Finality(said) => match &**said {
                FinalityMessage::Vote(signed) if signed.voter.as_usize() == node => self.twist_vote(node, &signed.vote),
                FinalityMessage::Proposal(signed) if signed.proposer.as_usize() == node => {
                    self.twist_proposal(node, &signed.proposal)
                }
                _ => false,
            },
            _ => false,
        }
    }

    fn twist_vote(&mut self, node: ProcessId, vote: &FinalityVote) -> bool {
        if self.liar_dice.chance(WITHHELD_VOTES) {
            return true;
        }
        let twists = self.liar_dice.chance(DOUBLE_VOTES);
        if twists {
            let other = if self.liar_dice.chance(500) { None } else { Some(self.any_block(node)) };
            let said = [*vote, FinalityVote { block: other, ..*vote }].map(|vote| self.own_vote(node, vote));
            self.tell_some(node, &said);
        }
        twists
    }

    fn twist_proposal(&mut self, node: ProcessId, proposal: &FinalityProposal) -> bool {
        if self.liar_dice.chance(WITHHELD_VOTES) {
            return true;
        }
        let twists = self.liar_dice.chance(DOUBLE_VOTES);
        if twists {
            let other = FinalityProposal { block: self.any_block(node), ..*proposal };
            let said = [*proposal, other].map(|proposal| self.own_proposal(node, proposal));
            self.tell_some(node, &said);
        }
        twists
    }

    /// Says something false of itself, and comes back to it.
    pub(super) fn perjure(&mut self) -> Result<(), Violation> {
        let Some(node) = self.profile.byzantine.filter(|node| self.perjures(*node)) else { return Ok(()) };
        let wait = self.liar_dice.between(200, 2_500);
        self.queue.at(self.now + wait, Happening::Perjure);
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let open = process.decision() + 1;
        let kind = self.liar_dice.below(9);
        self.note(node, "perjury", &[&[kind as u8]], || format!("of kind {kind} in decision {open}"));
        let said = self.falsehood(node, kind, open);
        self.tell_some(node, &[said]);
        Ok(())
    }

    fn falsehood(&mut self, node: ProcessId, kind: u64, open: u64) -> Message {
        let me = ValidatorIndex(node as u16);
        let round = self.liar_dice.below(4) as u32;
        let block = self.any_block(node);
        let vote_kind = if self.liar_dice.chance(500) { VoteKind::Prevote } else { VoteKind::Precommit };
        let vote = FinalityVote { kind: vote_kind, decision: open, round, block: Some(block) };
        let finality = |message| Message::Finality(Box::new(message));
        match kind {
            // A vote that another one never signed.
            0 => {
                let other = ValidatorIndex(self.liar_dice.place(self.profile.validators) as u16);
                let signature = sign(&self.world.keys[node], &vote.digest(&self.world.genesis_id));
                finality(FinalityMessage::Vote(SignedVote { voter: other, vote, signature }))
            }
            // Certificates of everybody, signed by one.
            1 => {
                let signatures = self.forged(node, &FinalityVote { kind: VoteKind::Precommit, ..vote });
                finality(FinalityMessage::Commit(CommitCertificate { decision: open, round, block, signatures }))
            }
            2 => {
                let signatures = self.forged(node, &FinalityVote { kind: VoteKind::Prevote, ..vote });
                finality(FinalityMessage::Polka(PolkaCertificate { decision: open, round, block, signatures }))
            }
            3 => {
                let signatures = self.forged(node, &vote).into_iter();
                let vote = |(voter, signature)| RoundVote { kind: vote.kind, block: vote.block, voter, signature };
                let reason = if vote_kind == VoteKind::Prevote { RoundReason::Skip } else { RoundReason::Precommits };
                let votes = signatures.map(vote).collect();
                finality(FinalityMessage::Round(RoundCertificate { decision: open, round, reason, votes }))
            }
            // A proposal whose turn it may not be, of whatever block.
            4 => {
                let valid_round = self.liar_dice.chance(300).then(|| self.liar_dice.below(4) as u32);
                self.own_proposal(node, FinalityProposal { decision: open, round, valid_round, block })
            }
            // What lies far ahead.
            5 => {
                let decision = open + self.liar_dice.between(1, FAR);
                self.own_vote(node, FinalityVote { decision, ..vote })
            }
            6 => {
                let round = self.liar_dice.between(4, FAR) as u32;
                self.own_vote(node, FinalityVote { round, block: None, ..vote })
            }
            // What was decided long ago.
            7 => {
                let decision = self.liar_dice.between(1, open);
                let old = self.checker.ballots.decision(decision).cloned();
                match old {
                    Some(certificate) => finality(FinalityMessage::Commit(certificate)),
                    None => self.own_vote(node, vote),
                }
            }
            // A block for a slot that is over, on a parent that is.
            _ => {
                let len = self.checker.chain(node).len();
                let place = self.liar_dice.place(len);
                let id = self.checker.chain(node)[place];
                let process = self.nodes[node].process.as_ref().expect("it runs");
                match zeni_consensus::Archive::block(&process.reader, &id) {
                    Ok(Some(block)) => Message::Block(Arc::new(self.back_dated(node, &block, me))),
                    Ok(None) | Err(_) => self.own_vote(node, vote),
                }
            }
        }
    }

    /// A block with the slot and the parent of this one, as the liar's.
    fn back_dated(&self, node: ProcessId, block: &Block, me: ValidatorIndex) -> Block {
        let schedule = zeni_consensus::schedule::Schedule::new(&self.world.genesis);
        let mut header = block.header;
        header.proposer = me;
        header.rank = schedule.rank(header.slot, me).expect("the liar is a validator");
        Block::sign(header, block.digests.clone(), &self.world.keys[node], &self.world.genesis_id)
    }

    /// Signatures in everybody's name, of which one is real.
    fn forged(&self, node: ProcessId, vote: &FinalityVote) -> Vec<(ValidatorIndex, SignatureBytes)> {
        let real = sign(&self.world.keys[node], &vote.digest(&self.world.genesis_id));
        let signature = |validator: ProcessId| (ValidatorIndex(validator as u16), real);
        (0..self.profile.validators).map(signature).collect()
    }

    fn own_vote(&self, node: ProcessId, vote: FinalityVote) -> Message {
        let signature = sign(&self.world.keys[node], &vote.digest(&self.world.genesis_id));
        let signed = SignedVote { voter: ValidatorIndex(node as u16), vote, signature };
        Message::Finality(Box::new(FinalityMessage::Vote(signed)))
    }

    fn own_proposal(&self, node: ProcessId, proposal: FinalityProposal) -> Message {
        let signature = sign(&self.world.keys[node], &proposal.digest(&self.world.genesis_id));
        let signed = SignedProposal { proposer: ValidatorIndex(node as u16), proposal, signature };
        Message::Finality(Box::new(FinalityMessage::Proposal(signed)))
    }

    /// A block to speak of: of somebody's chain, wherever that stands, with a false height, beside it, or unknown.
    fn any_block(&mut self, node: ProcessId) -> FinalBlock {
        let whose = if self.liar_dice.chance(500) { node } else { self.liar_dice.place(self.profile.validators) };
        let recent = self.liar_dice.between(1, 6) as usize;
        let beside = self.checker.beside(self.liar_dice.word());
        let kind = self.liar_dice.below(5);
        let unknown = BlockId([self.liar_dice.below(256) as u8; 32]);
        let chain = self.checker.chain(whose);
        let height = chain.len().saturating_sub(recent);
        let canonical = FinalBlock { id: chain[height], height: height as u64 };
        match kind {
            0 => FinalBlock { id: unknown, ..canonical },
            1 => FinalBlock { height: canonical.height + 1, ..canonical },
            2 => beside.unwrap_or(FinalBlock { id: chain[0], height: 0 }),
            _ => canonical,
        }
    }

    /// To each peer one of these.
    fn tell_some(&mut self, node: ProcessId, said: &[Message]) {
        for other in self.network.neighbours(node) {
            let message = said[self.liar_dice.place(said.len())].clone();
            self.transmit(node, other, message);
        }
    }
}
