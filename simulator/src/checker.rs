//! Watches everything that nodes do and say, and compares it with what they promised.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zeni_consensus::{ChainChange, Millis, Verdict};
use zeni_ledger::{
    BatchDigest, Block, BlockId, CommitCertificate, FinalBlock, State, TransactionId, ValidatorIndex, VerifiedBatch,
};

use crate::ballots::Ballots;
use crate::model::{Fate, Model, compare};
use crate::network::ProcessId;
use crate::violation::Violation;
use crate::world::World;

/// A block is taken this long before its slot begins on a node's clock.
const CLOCK_TOLERANCE_MS: u64 = 500;

/// Blocks below the last final one that are looked at for one beside the chain.
const NEAR_FINAL: u64 = 8;

/// A disk; a lost one is replaced by one with another number.
pub type DiskId = usize;

/// On which disks a batch is.
#[derive(Debug, Clone, Default)]
struct Holders {
    now: BTreeSet<DiskId>,
    ever: BTreeSet<DiskId>,
}

/// The invariants.
#[derive(Debug)]
pub struct Checker {
    world: Arc<World>,
    pub model: Model,
    /// The canonical chain of each process, genesis first.
    chains: Vec<Vec<BlockId>>,
    /// What each process executed since its start, or starts from.
    executed: Vec<BTreeSet<BlockId>>,
    signed: BTreeMap<(ValidatorIndex, u64), BlockId>,
    pub ballots: Ballots,
    /// Which validators ever executed a block.
    executors: BTreeMap<BlockId, BTreeSet<ValidatorIndex>>,
    /// The final chain, genesis first, as any node told of it.
    final_chain: Vec<BlockId>,
    /// The last final block that each process told of from its disk, and whether its chain held it since the start.
    told_final: Vec<Option<(FinalBlock, bool)>>,
    /// Where the fork choice of each process begins.
    roots: Vec<FinalBlock>,
    /// The block that each process prefers while a decision is open.
    preferred: Vec<Option<(u64, u32, FinalBlock)>>,
    /// Certificates whose signatures were checked.
    certificates: BTreeSet<(u64, u32, BlockId)>,
    /// Validators that are known to sign twice: liars, and twins while they do not know of each other.
    excused: BTreeSet<ValidatorIndex>,
    holders: BTreeMap<BatchDigest, Holders>,
    /// The batches that hold a payment.
    carriers: BTreeMap<TransactionId, BTreeSet<BatchDigest>>,
    /// Payments that a client was told are on disk, and at how many, at most.
    acknowledged: BTreeMap<TransactionId, u16>,
}

impl Checker {
    pub fn new(world: Arc<World>, processes: usize) -> Self {
        let genesis = world.genesis.block_id();
        Self {
            model: Model::new(world.clone()),
            ballots: Ballots::new(world.clone()),
            world,
            chains: vec![vec![genesis]; processes],
            executed: vec![BTreeSet::new(); processes],
            signed: BTreeMap::new(),
            executors: BTreeMap::new(),
            final_chain: vec![genesis],
            told_final: vec![None; processes],
            roots: vec![FinalBlock { id: genesis, height: 0 }; processes],
            preferred: vec![None; processes],
            certificates: BTreeSet::new(),
            excused: BTreeSet::new(),
            holders: BTreeMap::new(),
            carriers: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
        }
    }

    /// From now on this validator may sign twice.
    pub fn excuse(&mut self, validator: ValidatorIndex) {
        self.excused.insert(validator);
    }

    /// A process appended a batch.
    pub fn appended(&mut self, batch: &VerifiedBatch) {
        self.model.learn_batch(batch);
        self.holders.entry(batch.digest()).or_default();
        for id in batch.ids() {
            self.carriers.entry(*id).or_default().insert(batch.digest());
        }
    }

    /// A batch is durable on a disk.
    pub fn durable(&mut self, digest: BatchDigest, disk: DiskId) {
        let holders = self.holders.entry(digest).or_default();
        holders.now.insert(disk);
        holders.ever.insert(disk);
    }

    /// After a start: what the disk holds now.
    pub fn holds(&mut self, disk: DiskId, has: impl Fn(&BatchDigest) -> bool) {
        for (digest, holders) in &mut self.holders {
            if has(digest) {
                holders.now.insert(disk);
                holders.ever.insert(disk);
            } else {
                holders.now.remove(&disk);
            }
        }
    }

    /// A disk is gone for good.
    pub fn disk_lost(&mut self, disk: DiskId) {
        self.holders.values_mut().for_each(|holders| {
            holders.now.remove(&disk);
        });
    }

    /// The batches of a payment.
    pub fn carriers(&self, payment: &TransactionId) -> impl Iterator<Item = &BatchDigest> {
        self.carriers.get(payment).into_iter().flatten()
    }

    /// A validator's own block leaves its process.
    pub fn signed(&mut self, block: &Block) -> Result<(), Violation> {
        let (validator, slot) = (block.header.proposer, block.header.slot);
        let id = block.id(&self.world.genesis_id);
        let first = *self.signed.entry((validator, slot)).or_insert(id);
        if first != id && !self.excused.contains(&validator) {
            return Err(Violation::SignedTwice { validator: validator.0, slot, first, second: id });
        }
        Ok(())
    }

    /// A validator executed a block.
    pub fn executed_by(&mut self, validator: ValidatorIndex, block: BlockId) {
        self.executors.entry(block).or_default().insert(validator);
    }

    /// Where a process's fork choice began when it was looked at last.
    pub fn root(&self, node: ProcessId) -> FinalBlock {
        self.roots[node]
    }

    /// A validator votes for a block: it executed it, and it stands on the block that was final there before the step.
    pub fn votes_for(
        &self,
        node: ProcessId,
        validator: ValidatorIndex,
        block: FinalBlock,
        root: FinalBlock,
    ) -> Result<(), Violation> {
        let executed = self.executors.get(&block.id).is_some_and(|executors| executors.contains(&validator));
        match executed && self.descends(block.id, root) {
            true => Ok(()),
            false => Err(Violation::VotedBlindly { node, block: block.id }),
        }
    }

    /// Where a process's fork choice begins now.
    pub fn stands_on(&mut self, node: ProcessId, root: FinalBlock) {
        if self.roots[node] != root {
            self.roots[node] = root;
            let model = &self.model;
            // What is below does not stand on it, and never matters again.
            self.executed[node].retain(|id| model.block(id).is_none_or(|block| block.height >= root.height));
        }
    }

    /// A process prefers a block because a quorum prevoted for it, itself perhaps not aloud yet.
    pub fn prefers(
        &mut self,
        node: ProcessId,
        itself: Option<ValidatorIndex>,
        polka: Option<(u64, u32, FinalBlock)>,
    ) -> Result<(), Violation> {
        let before = std::mem::replace(&mut self.preferred[node], polka);
        let Some((decision, round, block)) = polka.filter(|_| before != polka) else { return Ok(()) };
        match self.ballots.has_polka(itself, decision, round, block) {
            true => Ok(()),
            false => Err(Violation::PolkaUnfounded { node, block: block.id }),
        }
    }

    /// A process tells that a block is final: its chain holds it, a quorum signed it and executed it, and what others hold
    /// final is on the same chain.
    pub fn finalised(&mut self, node: ProcessId, certificate: &CommitCertificate) -> Result<(), Violation> {
        let block = certificate.block;
        let unfounded = |what: String| Violation::FinalUnfounded { node, block: block.id, what };
        let height = block.height as usize;
        if self.chains[node].get(height) != Some(&block.id) {
            return Err(unfounded("its chain does not hold it".into()));
        }
        let known = (certificate.decision, certificate.round, block.id);
        if self.certificates.insert(known) {
            let world = &self.world;
            certificate.verify(&world.genesis, &world.genesis_id).map_err(|error| unfounded(error.to_string()))?;
            let nobody = BTreeSet::new();
            let executed = self.executors.get(&block.id).unwrap_or(&nobody);
            // One that lies signs what it did not execute.
            let stake = executed
                .union(&self.excused)
                .map(|validator| world.genesis.validators[validator.as_usize()].stake)
                .sum();
            if !world.genesis.fault_model.is_quorum(stake, world.genesis.total_stake()) {
                return Err(unfounded(format!("stake {stake} of {} executed it", world.genesis.total_stake())));
            }
        }
        for (height, (mine, other)) in self.chains[node][..=height].iter().zip(&self.final_chain).enumerate() {
            if mine != other {
                let height = height as u64;
                return Err(Violation::FinalConflict { node, height, block: *mine, other: *other });
            }
        }
        if self.final_chain.len() <= height {
            self.final_chain = self.chains[node][..=height].to_vec();
        }
        self.told_final[node] = Some((block, true));
        Ok(())
    }

    /// Nothing that was told to be final from a process's disk is off its chain. (After a start its chain may have to grow up
    /// to there again.)
    fn check_final(&mut self, node: ProcessId) -> Result<(), Violation> {
        let Some((FinalBlock { id, height }, reached)) = &mut self.told_final[node] else { return Ok(()) };
        match self.chains[node].get(*height as usize) {
            Some(found) if found == id => *reached = true,
            // A checkpoint may stand on a branch that was abandoned for it.
            _ if !*reached => {}
            _ => return Err(Violation::FinalReverted { node, height: *height, block: *id }),
        }
        Ok(())
    }

    /// Some block that was executed and does not stand on the final chain, if there is one.
    pub fn beside(&self, chance: u64) -> Option<FinalBlock> {
        let is_final = |id: &BlockId, height: u64| self.final_chain.get(height as usize) == Some(id);
        let low = self.final_height();
        let beside: Vec<FinalBlock> = (self.model.blocks())
            .filter(|(id, block)| block.height + NEAR_FINAL > low && block.height <= low && !is_final(id, block.height))
            .map(|(id, block)| FinalBlock { id: *id, height: block.height })
            .collect();
        (!beside.is_empty()).then(|| beside[(chance % beside.len() as u64) as usize])
    }

    /// How high the final chain is.
    pub fn final_height(&self) -> u64 {
        self.final_chain.len() as u64 - 1
    }

    /// A verdict leaves a process.
    pub fn answered(&mut self, node: ProcessId, payment: TransactionId, verdict: Verdict) -> Result<(), Violation> {
        let (Verdict::Accepted { copies } | Verdict::Known { copies }) = verdict else { return Ok(()) };
        let on = |digest: &BatchDigest| self.holders.get(digest).map_or(0, |holders| holders.ever.len());
        let holders = self.carriers(&payment).map(on).max().unwrap_or(0);
        if holders < usize::from(copies) || copies == 0 {
            return Err(Violation::OverstatedCopies { node, payment, verdict, holders });
        }
        let most = self.acknowledged.entry(payment).or_default();
        *most = copies.max(*most);
        Ok(())
    }

    /// What was told to be final from a process's disk is not on it any more.
    pub fn forget_final(&mut self, node: ProcessId) {
        self.told_final[node] = None;
    }

    /// A process started: its canonical chain is that of its checkpoint, and its fork choice begins at `root`.
    pub fn started(
        &mut self,
        node: ProcessId,
        chain: Vec<BlockId>,
        root: FinalBlock,
        state: &State,
    ) -> Result<(), Violation> {
        self.executed[node] = chain.iter().copied().collect();
        self.chains[node] = chain;
        self.roots[node] = root;
        if let Some((told, reached)) = &mut self.told_final[node] {
            *reached = false;
            let told = *told;
            if root.height < told.height || !self.descends(root.id, told) {
                return Err(Violation::FinalReverted { node, height: told.height, block: told.id });
            }
            self.check_final(node)?;
        }
        self.check_state(node, state)
    }

    /// A process's canonical chain changed. After the last change of a step, [`Self::check_state`] looks at its state.
    pub fn changed(&mut self, node: ProcessId, now: Millis, change: &ChainChange) -> Result<(), Violation> {
        for undone in &change.undone {
            let head = self.chains[node].pop();
            if head != Some(*undone) {
                let height = self.chains[node].len() as u64;
                let what = format!("it was taken back while {head:?} was the head");
                return Err(Violation::Chain { node, height, block: *undone, what });
            }
        }
        for applied in &change.applied {
            let (id, block) = (applied.id, &applied.block);
            let broken = |what| Violation::Chain { node, height: block.header.height, block: id, what };
            applied.batches.iter().for_each(|batch| self.model.learn_batch(batch));
            if self.chains[node].last() != Some(&block.header.parent) {
                return Err(broken("it does not stand on the head".into()));
            }
            if block.id(&self.world.genesis_id) != id {
                return Err(broken("it was announced under another id".into()));
            }
            if self.world.genesis.slot_time_ms(block.header.slot) > now.0 + CLOCK_TOLERANCE_MS {
                return Err(broken("its slot has not begun on this node's clock".into()));
            }
            let model = self.model.execute(id, block).map_err(broken)?;
            let executed = model.fates.iter().filter_map(|(payment, fate)| match fate {
                Fate::Executed(outcome) => Some((*payment, *outcome)),
                _ => None,
            });
            let receipts = applied.executed.receipts.iter().map(|receipt| (receipt.id, receipt.outcome));
            if !executed.eq(receipts) {
                return Err(broken("its receipts are not those of the model".into()));
            }
            self.chains[node].push(id);
            self.executed[node].insert(id);
        }
        self.check_final(node)
    }

    /// Fork choice: nothing that a process executed is better than its head, and that stands on what is final, unless
    /// batches of that are missing.
    pub fn check_choice(&self, node: ProcessId, has: impl Fn(&BatchDigest) -> bool) -> Result<(), Violation> {
        let head = *self.chains[node].last().expect("genesis is always there");
        let root = self.roots[node];
        if !self.descends(head, root) && self.is_executable(node, root.id, has) {
            return Err(Violation::ForkChoice { node, head, better: root.id });
        }
        self.executed[node].iter().try_for_each(|block| self.check_not_better(node, head, *block))
    }

    /// Fork choice: a block that a process received, whose parent it executed and whose batches it has, is not better
    /// than its head. A block that was never executed anywhere may be false.
    pub fn check_taken(
        &self,
        node: ProcessId,
        block: &Block,
        has: impl Fn(&BatchDigest) -> bool,
    ) -> Result<(), Violation> {
        if self.executed[node].contains(&block.header.parent) && block.digests.iter().all(has) {
            let head = *self.chains[node].last().expect("genesis is always there");
            return self.check_not_better(node, head, block.id(&self.world.genesis_id));
        }
        Ok(())
    }

    fn check_not_better(&self, node: ProcessId, head: BlockId, other: BlockId) -> Result<(), Violation> {
        let preferred = self.preferred[node].map(|(_, _, block)| block);
        // One that was not executed here may be one that cannot be.
        let preferred = preferred.filter(|block| self.executed[node].contains(&block.id));
        let root = preferred.filter(|block| self.descends(block.id, self.roots[node])).unwrap_or(self.roots[node]);
        if self.descends(other, root) && preferred.is_some() && !self.descends(head, root) {
            return Err(Violation::ForkChoice { node, head, better: other });
        }
        if !self.descends(other, root) || !self.descends(head, root) {
            return Ok(());
        }
        let rank = |id: &BlockId| self.model.block(id).map(|block| (block.weight, std::cmp::Reverse(*id)));
        match (rank(&other), rank(&head)) {
            (Some(other_rank), Some(head_rank)) if other_rank > head_rank => {
                Err(Violation::ForkChoice { node, head, better: other })
            }
            _ => Ok(()),
        }
    }

    /// Whether a process has every batch from its chain up to a block.
    fn is_executable(&self, node: ProcessId, mut id: BlockId, has: impl Fn(&BatchDigest) -> bool) -> bool {
        let chain = &self.chains[node];
        while let Some(block) = self.model.block(&id).filter(|block| chain.get(block.height as usize) != Some(&id)) {
            if !block.digests.iter().all(&has) {
                return false;
            }
            id = block.parent;
        }
        self.model.block(&id).is_some()
    }

    /// Whether a block is `root` or stands on it.
    fn descends(&self, mut id: BlockId, root: FinalBlock) -> bool {
        while let Some(block) = self.model.block(&id).filter(|block| block.height > root.height) {
            id = block.parent;
        }
        id == root.id
    }

    /// A validator lists only what another disk holds, while peers are there to confirm.
    pub fn check_listed(&self, node: ProcessId, disk: DiskId, block: &Block) -> Result<(), Violation> {
        let elsewhere = |digest: &BatchDigest| {
            self.holders.get(digest).is_some_and(|holders| holders.ever.iter().any(|holder| *holder != disk))
        };
        match block.digests.iter().find(|digest| !elsewhere(digest)) {
            Some(digest) => Err(Violation::ListedUnconfirmed { node, digest: *digest }),
            None => Ok(()),
        }
    }

    /// A process's state is that of its head, by the model, and its token sums are zero.
    pub fn check_state(&self, node: ProcessId, state: &State) -> Result<(), Violation> {
        let sums = state.token_sums();
        if sums.values().any(|sum| *sum != 0) {
            return Err(Violation::Conservation { node, what: format!("{sums:?}") });
        }
        let block = *self.chains[node].last().expect("genesis is always there");
        let Some(model) = self.model.block(&block) else {
            let height = self.chains[node].len() as u64 - 1;
            let what = "a process stands on it, and none ever executed it".into();
            return Err(Violation::Chain { node, height, block, what });
        };
        compare(&model.books, state, &self.world.tokens).map_err(|(account, what)| Violation::State {
            node,
            block,
            account,
            what,
        })
    }

    /// The canonical chain of a process, genesis first.
    pub fn chain(&self, node: ProcessId) -> &[BlockId] {
        &self.chains[node]
    }

    /// At the end, on the final chain: no payment came to an end twice, and every acknowledged one did once, unless every disk
    /// that held it was lost. What was executed may be listed again, and is skipped then.
    pub fn check_ends(&self, chain: &[BlockId]) -> Result<(), Violation> {
        let mut fates: BTreeMap<TransactionId, Fate> = BTreeMap::new();
        for block in chain {
            for (payment, fate) in &self.model.block(block).expect("the chain was executed").fates {
                match fates.entry(*payment) {
                    Entry::Vacant(entry) => {
                        entry.insert(*fate);
                    }
                    Entry::Occupied(mut entry) if matches!(entry.get(), Fate::Untimely(_)) => {
                        entry.insert(*fate);
                    }
                    Entry::Occupied(_) if matches!(fate, Fate::Executed(_)) => {
                        return Err(Violation::EndedTwice { payment: *payment });
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
        for (payment, copies) in &self.acknowledged {
            match fates.get(payment) {
                Some(Fate::Executed(_) | Fate::SequenceUsed | Fate::Expired) => {}
                Some(Fate::Untimely(what)) => return Err(Violation::PaymentSkipped { payment: *payment, what }),
                None => self.excuse_loss(*payment, *copies)?,
            }
        }
        Ok(())
    }

    fn excuse_loss(&self, payment: TransactionId, copies: u16) -> Result<(), Violation> {
        let holders = || self.carriers(&payment).filter_map(|digest| self.holders.get(digest));
        if let Some(disk) = holders().flat_map(|holders| &holders.now).next() {
            return Err(Violation::PaymentLost { payment, disk: *disk });
        }
        let lost: BTreeSet<DiskId> = holders().flat_map(|holders| &holders.ever).copied().collect();
        if lost.len() < usize::from(copies) {
            return Err(Violation::PaymentVanished { payment, copies, lost: lost.len() });
        }
        Ok(())
    }

    /// Whether a payment was executed on the chain of a process.
    pub fn is_executed(&self, node: ProcessId, payment: &TransactionId) -> bool {
        let executed = |(id, fate): &(TransactionId, Fate)| id == payment && matches!(fate, Fate::Executed(_));
        self.chains[node]
            .iter()
            .filter_map(|block| self.model.block(block))
            .any(|block| block.fates.iter().any(executed))
    }

    /// How many payments clients were told are on disk.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}
