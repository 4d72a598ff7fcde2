//! Decisions: what is final as far as it is known here, and what follows for the chain.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeni_ledger::{Block, BlockId, CommitCertificate, FinalBlock, ValidatorIndex};

use super::{Replica, report};
use crate::archive::Record;
use crate::chain::ChainChange;
use crate::effect::{Effect, Event, HaltReason};
use crate::finality::FinalityMessage;
use crate::message::{MESSAGE_BLOCKS_BYTES_MAX, MESSAGE_BLOCKS_MAX, Message};
use crate::mutation::Mutant;
use crate::time::Millis;
use crate::tree::Validity;

/// Decisions of which it is not known yet whether they contradict the last one, at most.
const UNJUDGED_MAX: usize = 4;

/// What is known to be final.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// The last decision whose block is known here.
    pub(super) last: Option<CommitCertificate>,
    /// A later decision, whose block is not known here yet, and who told it.
    pub(super) pending: Option<(CommitCertificate, Option<ValidatorIndex>)>,
    /// Observers were told of decisions up to here.
    announced: u64,
    /// Earlier decisions, told while the last one's block was not executed here: so it is not known whether they contradict it.
    unjudged: Vec<CommitCertificate>,
}

impl Replica {
    /// Takes a certificate, whoever tells it. True if it is a later decision than any before.
    ///
    /// # Errors
    /// If two quorums made different blocks final.
    pub(crate) fn learn(
        &mut self,
        now: Millis,
        from: Option<ValidatorIndex>,
        certificate: CommitCertificate,
        out: &mut Vec<Effect>,
    ) -> Result<bool, HaltReason> {
        let newest = self.newest_certificate();
        let known = |newest: &CommitCertificate| {
            let same = newest.decision == certificate.decision && newest.block == certificate.block;
            same || newest.decision > certificate.decision && !self.stands_beside(certificate.block)
        };
        if newest.is_some_and(known) {
            self.keep_unjudged(certificate);
            return Ok(false);
        }
        let genesis_id = self.chain.genesis_id();
        let holds = || certificate.verify(self.chain.genesis(), &genesis_id).is_ok();
        if !holds() && !self.mutation.is(Mutant::CertificateUnchecked) {
            report(from, "a commit certificate that does not hold", out);
            return Ok(false);
        }
        if let Some(newest) = newest {
            // An earlier decision came as far as here because its block stands beside what is final.
            if newest.decision >= certificate.decision || newest.block.height >= certificate.block.height {
                // The next start knows it, too.
                out.push(Effect::Append(Record::Certificate(certificate.clone())));
                return Err(self.conflict(&certificate, out));
            }
        }
        out.push(Effect::Append(Record::Certificate(certificate.clone())));
        self.finality.pending = Some((certificate, from));
        self.adopt_pending(now, out)?;
        Ok(true)
    }

    /// Keeps a decision that cannot be compared with the last one yet.
    fn keep_unjudged(&mut self, certificate: CommitCertificate) {
        let is_earlier = self.newest_decision() > certificate.decision;
        let is_new = self.finality.unjudged.iter().all(|kept| kept.block != certificate.block);
        if is_earlier && is_new && !self.has_executed_final() && self.finality.unjudged.len() < UNJUDGED_MAX {
            let holds = certificate.verify(self.chain.genesis(), &self.chain.genesis_id()).is_ok();
            self.finality.unjudged.extend(holds.then_some(certificate));
        }
    }

    /// Whether a block can be seen to stand beside the final ones.
    fn stands_beside(&self, block: FinalBlock) -> bool {
        let here = self.chain.tree().canonical_at(block.height);
        self.has_executed_final() && (block.height > self.chain.root().height || here != Some(block.id))
    }

    /// Why this node halts. Its last words are the two certificates, because whoever holds one of them may never hear of the
    /// other (only those behind are sent any), and the blocks that lead to them from where they part, as far as they are in
    /// memory: without those nobody can tell that the two contradict each other.
    fn conflict(&self, certificate: &CommitCertificate, out: &mut Vec<Effect>) -> HaltReason {
        let tree = self.chain.tree();
        let fork = tree.canonical_ancestor(&certificate.block.id);
        for certificate in self.newest_certificate().into_iter().chain([certificate]).filter(|_| self.me.is_some()) {
            let commit = Message::Finality(Box::new(FinalityMessage::Commit(certificate.clone())));
            out.extend([Effect::Broadcast(commit.clone()), Effect::Publish(commit)]);
            let mut path = Vec::new();
            let mut current = certificate.block.id;
            while let Some(block) = tree.body(&current).filter(|block| Some(block.header.height) > fork) {
                path.push(block.clone());
                current = block.header.parent;
            }
            let mut bytes = 0;
            let fits = |block: &Arc<Block>| {
                bytes += block.encoded_len();
                bytes <= MESSAGE_BLOCKS_BYTES_MAX
            };
            let path: Vec<_> = path.into_iter().rev().take(MESSAGE_BLOCKS_MAX).take_while(fits).collect();
            if fork.is_some() && !path.is_empty() {
                out.push(Effect::Broadcast(Message::Blocks(path)));
            }
        }
        let before = self.newest_certificate().map_or(self.chain.root(), |newest| newest.block);
        HaltReason::ConflictingFinality {
            decision: certificate.decision,
            block: certificate.block.id,
            height: certificate.block.height,
            before: before.id,
            before_height: before.height,
        }
    }

    /// Puts the certificates of the log back, after the chain.
    pub(crate) fn restore_finality(&mut self, certificates: Vec<CommitCertificate>) -> Result<(), HaltReason> {
        let mut decided: BTreeMap<u64, &CommitCertificate> = BTreeMap::new();
        for certificate in &certificates {
            let first = *decided.entry(certificate.decision).or_insert(certificate);
            if first.block != certificate.block {
                self.finality.last = Some(first.clone());
                return Err(self.conflict(certificate, &mut Vec::new()));
            }
        }
        let tree = self.chain.tree();
        let (here, away): (Vec<_>, Vec<_>) =
            certificates.into_iter().partition(|certificate| tree.contains(&certificate.block.id));
        let last = here.iter().max_by_key(|certificate| certificate.decision).cloned();
        // From the last final block down: all others stand there.
        let mut path = BTreeMap::new();
        let mut current = last.as_ref().map(|last| last.block.id);
        while let Some((id, node)) =
            current.and_then(|id| Some((id, tree.node(&id)?))).filter(|(_, node)| node.height > 0)
        {
            path.insert(node.height, id);
            current = Some(node.parent);
        }
        if let Some(beside) = here.iter().find(|one| path.get(&one.block.height) != Some(&one.block.id)) {
            self.finality.last = last;
            return Err(self.conflict(beside, &mut Vec::new()));
        }
        let newest = away.into_iter().max_by_key(|certificate| certificate.decision);
        let newest = newest.filter(|newest| last.as_ref().is_none_or(|last| last.decision < newest.decision));
        for certificate in last.into_iter().chain(newest) {
            self.finality.pending = Some((certificate, None));
            self.adopt_pending(Millis(0), &mut Vec::new())?;
        }
        Ok(())
    }

    /// Makes the pending decision's block the root of fork choice, if it is here; asks for it otherwise.
    fn adopt_pending(&mut self, now: Millis, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        let Some((certificate, from)) = self.finality.pending.take() else { return Ok(()) };
        let block = certificate.block;
        let Some(node) = self.chain.tree().node(&block.id) else {
            self.seek(now, block.id, from, out);
            self.finality.pending = Some((certificate, from));
            return Ok(());
        };
        if node.height != block.height || !self.chain.descends_from_root(&block.id) {
            return Err(self.conflict(&certificate, out));
        }
        if node.validity == Validity::Invalid {
            return Err(HaltReason::FalseFinality { decision: certificate.decision, block: block.id });
        }
        self.chain.make_final(block);
        // What is not above it leads nowhere, and what builds on that neither.
        let beside: Vec<BlockId> = self
            .orphans
            .iter()
            .filter(|(_, (orphan, _))| orphan.header.height <= block.height)
            .map(|(id, _)| *id)
            .collect();
        for id in beside {
            self.orphans.remove(&id);
            self.drop_orphans_on(id);
        }
        let tree = self.chain.tree();
        self.resume = self.resume.filter(|id| tree.contains(id));
        if !tree.descends(&self.tip, &block.id) {
            (self.tip, self.resume) = (block.id, None);
        }
        self.finality.last = Some(certificate);
        self.changed = true;
        Ok(())
    }

    /// That no final block was found false.
    pub(super) fn check_final(&self, change: &ChainChange) -> Result<(), HaltReason> {
        let root = self.chain.root().id;
        let falsified = change.invalid.iter().any(|id| self.chain.tree().descends(&root, id));
        match &self.finality.last {
            Some(certificate) if falsified => {
                Err(HaltReason::FalseFinality { decision: certificate.decision, block: root })
            }
            _ => Ok(()),
        }
    }

    /// Goes on with a decision whose block was not here, and tells observers once a final block is canonical.
    pub(crate) fn follow_finality(&mut self, now: Millis, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        self.adopt_pending(now, out)?;
        if self.has_executed_final() {
            let unjudged = std::mem::take(&mut self.finality.unjudged);
            if let Some(beside) = unjudged.iter().find(|unjudged| self.stands_beside(unjudged.block)) {
                return Err(self.conflict(beside, out));
            }
        }
        let Some(last) = &self.finality.last else { return Ok(()) };
        if last.decision > self.finality.announced && self.chain.stands_on_root() {
            self.finality.announced = last.decision;
            out.push(Effect::Event(Event::Final(last.clone())));
            if self.me.is_some() {
                out.push(Effect::Publish(Message::Finality(Box::new(FinalityMessage::Commit(last.clone())))));
            }
        }
        Ok(())
    }

    /// The last decision known here, whether or not its block is.
    pub(crate) fn newest_certificate(&self) -> Option<&CommitCertificate> {
        self.finality.pending.as_ref().map(|(certificate, _)| certificate).or(self.finality.last.as_ref())
    }

    /// Number of the last decision known here; 0 for none.
    pub(crate) fn newest_decision(&self) -> u64 {
        self.newest_certificate().map_or(0, |certificate| certificate.decision)
    }

    /// Number of the last decision whose block is known here; 0 for none.
    pub(crate) fn decision(&self) -> u64 {
        self.finality.last.as_ref().map_or(0, |certificate| certificate.decision)
    }

    /// Whether the last decision's block is known and executed here.
    pub(crate) fn has_executed_final(&self) -> bool {
        self.finality.pending.is_none() && self.chain.stands_on_root()
    }
}
