//! The chain: the tree of blocks, the state at its canonical head, and the way from one head to another.
//!
//! Fork choice begins at the last final block: a chain that does not hold it does not count. From there it follows the
//! heaviest chain of blocks that are fully fetched and executed here (ties: the lower id). A branch that claims more
//! weight is tried: undo to the common ancestor, execute, and if a block does not give its
//! roots, it and all above it are invalid and the choice is made anew.

mod checkpointing;
mod execution;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use zeni_ledger::block::transactions_root;
use zeni_ledger::execute::{Executed, undo};
use zeni_ledger::window::WINDOW_WIDTH;
use zeni_ledger::{Account, BatchDigest, Block, BlockHeader, BlockId, FinalBlock, Genesis, GenesisId, Sequence, State};
use zeni_ledger::{Undo, ValidatorIndex, VerifiedBatch};

use crate::ahead::Ahead;
use crate::archive::Archive;
use crate::batches::BatchIndex;
use crate::effect::HaltReason;
use crate::gathering::Gathering;
use crate::listed::Listed;
use crate::mutation::{Mutant, Mutation};
use crate::schedule::Schedule;
use crate::tree::{Node, Tree, Validity};
use crate::windows::FinalWindows;
use execution::Tried;

/// Payments that one [`Chain::advance`] executes, or accounts that it takes back, before it returns, in a node (some tens of
/// milliseconds): so one that catches up, or executes a large block, goes on hearing its peers and clients. The last batch
/// and the last block taken back may exceed it.
pub const STEP_PAYMENTS_MAX: u64 = 16_384;
/// Accounts in undo records that a node keeps in memory for the next checkpoint (88 bytes each), at most, beyond the records
/// that are kept anyway.
pub const UNDO_ACCOUNTS_KEPT: usize = 2 << 20;
/// Accounts whose windows at the last final block are gathered in one step.
const GATHERED_ACCOUNTS_MAX: usize = 200_000;
/// Undo records kept in memory besides those of the running step.
const UNDOS_KEPT: usize = 2;

/// A block that became canonical, with all that executing it gave.
#[derive(Debug, Clone)]
pub struct Applied {
    pub id: BlockId,
    pub block: Arc<Block>,
    pub batches: Vec<VerifiedBatch>,
    /// Roots, receipts and counts; its undo record is moved to `undo`.
    pub executed: Arc<Executed>,
    pub undo: Arc<Undo>,
    /// Whether its record must be appended to the log now.
    pub fresh: bool,
}

/// How the canonical chain changed: first these blocks were taken back, from the head down, then these applied.
#[derive(Debug, Clone, Default)]
pub struct ChainChange {
    pub undone: Vec<BlockId>,
    pub applied: Vec<Applied>,
    /// Batches of the undone blocks that no applied block lists.
    pub requeued: Vec<BatchDigest>,
    /// Blocks that were executed and found false.
    pub invalid: Vec<BlockId>,
    /// There is more to execute; advance again soon.
    pub unfinished: bool,
}

impl ChainChange {
    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.undone.is_empty() && self.applied.is_empty() && self.invalid.is_empty() && !self.unfinished
    }
}

/// Why a block's header is refused, whatever its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("there is no such proposer")]
    UnknownProposer,
    #[error("the rank is not the proposer's place in this slot")]
    WrongRank,
    #[error("more batches are listed than genesis allows")]
    TooManyBatches,
    #[error("the height is not one above the parent's, or the slot does not rise")]
    NotAboveParent,
    #[error("the proposer's signature does not verify")]
    BadSignature,
}

/// The tree of blocks with the state at its head.
#[derive(Debug)]
pub struct Chain {
    genesis: Arc<Genesis>,
    genesis_id: GenesisId,
    schedule: Schedule,
    tree: Tree,
    state: State,
    /// In which slots canonical blocks list a batch, back to twice the validity horizon.
    listed: Listed,
    undos: BTreeMap<u64, (BlockId, Arc<Undo>)>,
    checkpoint: BlockId,
    /// The last final block: nothing else is chosen than what stands on it.
    root: FinalBlock,
    /// The block that a quorum prevoted for last in the decision that is open.
    preferred: Option<BlockId>,
    final_windows: FinalWindows,
    /// A block on the head that is executed in part, in whole, or before it is there. The state is not changed by it.
    ahead: Option<Ahead>,
    /// Payments executed since the start, each as often as it was.
    executed_payments: u64,
    /// The checkpoint that is being gathered.
    gathering: Option<Gathering>,
    /// Whether the next one adds up all tokens.
    sums_due: bool,
    /// Of each canonical block behind the checkpoint, how many accounts it touched.
    unchecked_accounts: BTreeMap<u64, u64>,
    /// Batches of blocks adopted since the last [`Self::release_executed`].
    executed_batches: Vec<BatchDigest>,
    bounds: Bounds,
    mutation: Mutation,
}

/// How much a chain does at once, and how much it keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Payments that one step executes, or accounts that it takes back, before peers and clients are heard again; at least
    /// 1.
    pub step_payments_max: u64,
    /// Accounts in undo records that are kept in memory for the next checkpoint.
    pub undo_accounts_kept: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { step_payments_max: STEP_PAYMENTS_MAX, undo_accounts_kept: UNDO_ACCOUNTS_KEPT }
    }
}

impl Chain {
    /// A chain at genesis.
    pub fn new(genesis: Arc<Genesis>, state: State, mutation: Mutation, bounds: Bounds) -> Self {
        let root = genesis.block_id();
        Self {
            genesis_id: genesis.id(),
            schedule: Schedule::new(&genesis),
            tree: Tree::new(root),
            state,
            listed: Listed::default(),
            undos: BTreeMap::new(),
            checkpoint: root,
            root: FinalBlock { id: root, height: 0 },
            preferred: None,
            final_windows: FinalWindows::default(),
            ahead: None,
            executed_payments: 0,
            gathering: None,
            sums_due: false,
            unchecked_accounts: BTreeMap::new(),
            executed_batches: Vec::new(),
            bounds,
            genesis,
            mutation,
        }
    }

    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    pub fn genesis_id(&self) -> GenesisId {
        self.genesis_id
    }

    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn head(&self) -> BlockId {
        self.tree.head()
    }

    pub fn head_node(&self) -> &Node {
        self.tree.head_node()
    }

    /// The last final block.
    pub fn root(&self) -> FinalBlock {
        self.root
    }

    /// Whether the last final block is canonical, so that it was executed here.
    pub fn stands_on_root(&self) -> bool {
        self.tree.is_canonical(&self.root.id)
    }

    /// Whether a known block is the last final one or stands on it.
    pub fn descends_from_root(&self, id: &BlockId) -> bool {
        self.tree.node(id).is_some_and(|node| node.stands)
    }

    /// Makes a known block final. The next [`Self::advance`] goes there, however heavy the present chain is.
    ///
    /// # Panics
    /// If it does not stand on the last final block: the caller checked.
    pub fn make_final(&mut self, block: FinalBlock) {
        assert!(self.descends_from_root(&block.id), "what is final stays final");
        self.tree.set_final(self.root.height, &block.id);
        self.root = block;
        if !self.mutation.is(Mutant::IgnoreFinality) && self.tree.is_canonical(&block.id) {
            self.tree.drop_beside(self.checkpoint, &block.id);
        }
    }

    /// While a decision is open, what stands on the block of its newest polka is preferred to all that is heavier, if it
    /// can be executed here: whoever precommitted that block waits for the others' votes, and they vote for nothing that
    /// they have not executed. True if that changes anything.
    pub fn prefer(&mut self, block: Option<BlockId>) -> bool {
        std::mem::replace(&mut self.preferred, block) != block
    }

    /// The preferred block, if it is known and can become final.
    fn preferred(&self) -> Option<BlockId> {
        let stands = |id: &BlockId| *id != self.root.id && self.descends_from_root(id);
        self.preferred.filter(|id| stands(id) && !self.mutation.is(Mutant::IgnorePolka))
    }

    /// Whether a canonical block lists this batch.
    pub fn lists(&self, digest: &BatchDigest) -> bool {
        self.listed.contains(digest)
    }

    /// Checks what a header says of itself.
    pub fn check_header(&self, block: &Block) -> Result<(), HeaderError> {
        let rank_counts = !self.mutation.is(Mutant::RankUnchecked);
        check_header(&self.genesis, &self.genesis_id, &self.schedule, block, rank_counts)
    }

    /// Adds a checked block whose parent is in the tree. Returns the listed batches that are not stored here.
    pub fn insert(
        &mut self,
        id: BlockId,
        block: Arc<Block>,
        batches: &BatchIndex,
    ) -> Result<Vec<BatchDigest>, HeaderError> {
        let parent = self.tree.expect(&block.header.parent);
        let slot_rises = block.header.slot > parent.slot || self.mutation.is(Mutant::SlotsFall);
        if block.header.height != parent.height + 1 || !slot_rises {
            return Err(HeaderError::NotAboveParent);
        }
        let mut missing: Vec<BatchDigest> = Vec::new();
        for digest in &block.digests {
            if !batches.contains(digest) && !missing.contains(digest) {
                missing.push(*digest);
            }
        }
        let weight = self.schedule.weight(block.header.rank);
        self.tree.insert(id, block, weight, &missing);
        Ok(missing)
    }

    /// Drops side blocks that can never matter. The checkpoint's block stays: the next one starts from it.
    pub fn prune(&mut self) {
        self.tree.prune(self.checkpoint, &self.root.id);
    }

    /// Notes that a batch is stored now. True if a block has all its batches with it.
    pub fn batch_arrived(&mut self, digest: &BatchDigest) -> bool {
        self.tree.batch_arrived(digest)
    }

    /// The body of a block, from memory or from the archive.
    pub fn block(&self, id: &BlockId, archive: &dyn Archive) -> Result<Option<Arc<Block>>, HaltReason> {
        if let Some(body) = self.tree.body(id) {
            return Ok(Some(body.clone()));
        }
        if !self.tree.contains(id) || *id == self.genesis.block_id() {
            return Ok(None);
        }
        archive.block(id).map_err(|error| HaltReason::Archive(error.to_string()))
    }

    /// Follows fork choice from the current head, as far as one step's budget goes; says if there is more. A
    /// reorganisation, too, goes on in the next step: until then the head is lighter than it was, and nobody proposes on
    /// it because execution is unfinished.
    pub fn advance(&mut self, batches: &mut BatchIndex, archive: &dyn Archive) -> Result<ChainChange, HaltReason> {
        let mut change = ChainChange::default();
        let mut spent = 0;
        self.trim_undos();
        self.release_executed(batches);
        while let Some(goal) = self.better_head() {
            let branch = self.tree.branch_to(goal);
            let first = *branch.first().expect("a better head stands beside the canonical chain");
            let fork = self.tree.expect(&first).parent;
            while self.head() != fork && spent < self.bounds.step_payments_max {
                spent += self.retreat(&mut change, archive)?;
            }
            for id in branch {
                if spent >= self.bounds.step_payments_max {
                    change.unfinished = true;
                    self.settle(&mut change);
                    return Ok(change);
                }
                match self.try_block(id, batches, archive, &mut spent)? {
                    Tried::Applied(applied) => change.applied.push(*applied),
                    Tried::Unfinished => {
                        change.unfinished = true;
                        self.settle(&mut change);
                        return Ok(change);
                    }
                    Tried::Invalid => {
                        change.invalid.push(id);
                        break;
                    }
                }
            }
        }
        self.settle(&mut change);
        Ok(change)
    }

    fn better_head(&self) -> Option<BlockId> {
        let unrooted = self.genesis.block_id();
        let root = if self.mutation.is(Mutant::IgnoreFinality) { &unrooted } else { &self.root.id };
        let preferred = self.preferred();
        let root = match &preferred {
            Some(preferred) if self.tree.is_canonical(preferred) => preferred,
            Some(preferred) => match self.tree.better_head(preferred) {
                Some(goal) => return Some(goal),
                // It cannot be executed here yet.
                None => root,
            },
            None => root,
        };
        let goal = self.tree.better_head(root)?;
        let heavier = self.tree.expect(&goal).weight > self.head_node().weight || !self.tree.is_canonical(root);
        (heavier || !self.mutation.is(Mutant::FirstSeenWins)).then_some(goal)
    }

    /// Takes the head back. Returns what it cost, in accounts.
    fn retreat(&mut self, change: &mut ChainChange, archive: &dyn Archive) -> Result<u64, HaltReason> {
        let id = self.head();
        let is_final = id == self.root.id && !self.mutation.is(Mutant::IgnoreFinality);
        assert!(!is_final, "a final block is never taken back");
        self.ahead = None;
        let record = self.undo_record(&id, archive)?;
        self.final_windows.retreat(self.head_node().height, &record);
        if let Some(gathering) = &mut self.gathering {
            gathering.taken_back(&record, &self.state);
        }
        if !self.mutation.is(Mutant::SkipUndo) {
            if self.mutation.is(Mutant::UndoTooShort) {
                let kept = record.accounts.len().saturating_sub(1);
                undo(&mut self.state, &Undo { accounts: record.accounts[..kept].to_vec() });
            } else {
                undo(&mut self.state, &record);
            }
        }
        let block = self.block(&id, archive)?.ok_or_else(|| lost_block(&id))?;
        self.listed.take_back(block.header.slot, &block.digests);
        change.requeued.extend(&block.digests);
        self.tree.set_body(&id, block);
        self.tree.retreat();
        match change.applied.last() {
            Some(applied) if applied.id == id => {
                if applied.fresh {
                    self.tree.unmark_stored(&id);
                }
                change.applied.pop();
            }
            _ => change.undone.push(id),
        }
        Ok(record.accounts.len() as u64 + 1)
    }

    /// The undo record of an executed block.
    fn undo_record(&self, id: &BlockId, archive: &dyn Archive) -> Result<Arc<Undo>, HaltReason> {
        let height = self.tree.expect(id).height;
        if let Some((_, record)) = self.undos.get(&height).filter(|(of, _)| of == id) {
            return Ok(record.clone());
        }
        match archive.undo(id) {
            Ok(Some(record)) => Ok(record),
            Ok(None) => Err(HaltReason::Archive(format!("the undo record of block {id} is not there"))),
            Err(error) => Err(HaltReason::Archive(error.to_string())),
        }
    }

    /// Whether a digest stands twice in the block, or in it and in a recent ancestor. Older ones hold nothing that is
    /// still valid.
    fn lists_twice(&self, header: &BlockHeader, digests: &[BatchDigest]) -> bool {
        let mut sorted = digests.to_vec();
        sorted.sort_unstable();
        let inside = sorted.windows(2).any(|pair| pair[0] == pair[1]);
        let horizon = self.horizon_slots();
        let mut before = digests.iter().flat_map(|digest| self.listed.slots(digest));
        let again = before.any(|slot| header.slot.saturating_sub(slot) <= horizon);
        (inside || again) && !self.mutation.is(Mutant::ListTwice)
    }

    /// Slots after which every payment of a listed batch has expired.
    fn horizon_slots(&self) -> u64 {
        u64::from(self.genesis.rules.validity_max_s) * 1_000 / self.genesis.block_interval_ms + 1
    }

    /// Makes an executed child of the head canonical.
    fn adopt(
        &mut self,
        id: BlockId,
        block: Arc<Block>,
        listed: Vec<VerifiedBatch>,
        mut executed: Executed,
        batches: &mut BatchIndex,
    ) -> Applied {
        self.listed.add(block.header.slot, &block.digests);
        self.executed_batches.extend(&block.digests);
        let undo = Arc::new(std::mem::take(&mut executed.undo));
        if let Some(gathering) = &mut self.gathering {
            gathering.executed(&undo, &self.state);
        }
        self.unchecked_accounts.insert(block.header.height, undo.accounts.len() as u64);
        self.undos.insert(block.header.height, (id, undo.clone()));
        let fresh = self.tree.mark_stored(&id);
        self.tree.extend(id);
        self.forget_listed(block.header.slot, batches);
        Applied { id, block, batches: listed, executed: Arc::new(executed), undo, fresh }
    }

    /// Drops what was listed so long ago that listing it again would change nothing. Twice the horizon, so that every
    /// fork that can still be weighed is judged alike.
    fn forget_listed(&mut self, slot: u64, batches: &mut BatchIndex) {
        let Some(oldest) = slot.checked_sub(2 * self.horizon_slots()) else { return };
        for digest in self.listed.forget_below(oldest) {
            batches.forget(&digest);
        }
    }

    /// Completes what `change` says: what returns to the pool is what no canonical block lists now, each batch once.
    fn settle(&self, change: &mut ChainChange) {
        let mut seen = HashSet::new();
        change.requeued.retain(|digest| !self.listed.contains(digest) && seen.insert(*digest));
    }

    /// Lets go of what earlier steps executed. Not sooner: a batch that arrived in this very step is in no archive yet,
    /// and its block may be taken back and executed again before the step ends.
    fn release_executed(&mut self, batches: &mut BatchIndex) {
        for digest in self.executed_batches.drain(..) {
            if self.listed.contains(&digest) {
                batches.release(&digest);
            }
        }
    }

    /// Records behind the checkpoint stay as far as there is room: the next one needs them.
    fn trim_undos(&mut self) {
        let checkpoint = self.tree.node(&self.checkpoint).map_or(0, |node| node.height);
        let mut kept: usize = self.undos.values().map(|(_, record)| record.accounts.len()).sum();
        while self.undos.len() > UNDOS_KEPT
            && let Some(first) = self.undos.first_entry()
            && (*first.key() <= checkpoint || kept > self.bounds.undo_accounts_kept)
        {
            kept -= first.get().1.accounts.len();
            first.remove();
        }
    }

    /// Gathers where the windows of accounts begin at the last final block, as far as one step's budget goes.
    ///
    /// # Errors
    /// If an undo record is not there.
    pub fn gather_windows(&mut self, archive: &dyn Archive) -> Result<(), HaltReason> {
        let last_final = self.stands_on_root().then_some(self.root.height);
        let mut spent = 0;
        while spent < GATHERED_ACCOUNTS_MAX
            && let Some(height) = self.final_windows.next(last_final, self.head_node().height)
        {
            let id = self.tree.canonical_at(height).expect("it is not above the head");
            let record = self.undo_record(&id, archive)?;
            self.final_windows.gather(&record);
            spent += record.accounts.len() + 1;
        }
        Ok(())
    }

    /// Whether every branch that can still be chosen will find `sequence` of this account used or within its window.
    /// `None`: not known before [`Self::gather_windows`] was called again.
    pub fn is_within_final_window(&self, account: &Account, sequence: Sequence) -> Option<bool> {
        // No window begins lower than at 0.
        if sequence.0 < WINDOW_WIDTH {
            return Some(true);
        }
        let start = self.final_windows.start(account, self.head_node().height)?;
        Some(sequence.0 - start.min(sequence.0) < WINDOW_WIDTH)
    }

    /// Builds, signs and adopts a block of `digests` on the canonical head.
    pub fn propose(
        &mut self,
        slot: u64,
        proposer: ValidatorIndex,
        key: &ed25519_dalek::SigningKey,
        digests: Vec<BatchDigest>,
        batches: &mut BatchIndex,
        archive: &dyn Archive,
    ) -> Result<Applied, HaltReason> {
        self.trim_undos();
        self.release_executed(batches);
        let (listed, executed) = self.finish(slot, &digests, batches, archive)?;
        let rank = self.schedule.rank(slot, proposer).expect("the proposer is a validator");
        let header = BlockHeader {
            proposer,
            rank,
            height: self.head_node().height + 1,
            slot,
            parent: self.head(),
            transactions_root: transactions_root(&digests),
            state_root: executed.state_root,
            receipts_root: executed.receipts_root,
            receipts: executed.receipts.len() as u32,
        };
        let block = Arc::new(Block::sign(header, digests, key, &self.genesis_id));
        let id = block.id(&self.genesis_id);
        self.tree.insert(id, block.clone(), self.schedule.weight(rank), &[]);
        Ok(self.adopt(id, block, listed, executed, batches))
    }

    /// Puts stored blocks back into the tree and the chain at its checkpoint: every block up to there becomes
    /// canonical without execution, because the given state stands there. Returns those under which a block is lost.
    ///
    /// # Errors
    /// If the checkpoint's block or one of its ancestors is not among the stored ones.
    pub fn restore(
        &mut self,
        blocks: Vec<Arc<Block>>,
        checkpoint: BlockId,
        batches: &mut BatchIndex,
    ) -> Result<Vec<(BlockId, Arc<Block>)>, HaltReason> {
        let mut loose = Vec::new();
        for block in blocks {
            let id = block.id(&self.genesis_id);
            if self.tree.contains(&id) {
                continue;
            }
            if !self.tree.contains(&block.header.parent) {
                loose.push((id, block));
                continue;
            }
            if self.insert(id, block, batches).is_ok() {
                self.tree.mark_stored(&id);
            }
        }
        if !self.tree.contains(&checkpoint) {
            return Err(HaltReason::Archive(format!("the checkpoint's block {checkpoint} is not in the log")));
        }
        for id in self.tree.branch_to(checkpoint) {
            let block = self.tree.body(&id).expect("restored blocks have bodies").clone();
            self.listed.add(block.header.slot, &block.digests);
            self.tree.extend(id);
        }
        // What a process that went on has forgotten counts here no more either.
        self.forget_listed(self.head_node().slot, batches);
        // Below a state that was given there are no batches, and nobody asks for them.
        self.tree.await_side_only();
        self.checkpoint = checkpoint;
        self.final_windows = FinalWindows::at(self.head_node().height);
        Ok(loose)
    }

    /// Whether a block is known and there is nothing left to do about it: canonical, lighter than the head, false, or
    /// beside what is final or preferred.
    pub fn is_settled(&self, id: &BlockId) -> bool {
        let root = self.preferred().filter(|preferred| self.tree.is_canonical(preferred)).unwrap_or(self.root.id);
        self.tree.node(id).is_some_and(|node| {
            let beside = || !node.stands || root != self.root.id && !self.tree.descends(id, &root);
            let light = || node.weight <= self.head_node().weight || beside();
            self.tree.is_canonical(id) || node.validity == Validity::Invalid || light()
        })
    }
}

/// Checks what a block's header says of itself; `rank_counts` is false only where a test breaks that rule on purpose.
pub(crate) fn check_header(
    genesis: &Genesis,
    genesis_id: &GenesisId,
    schedule: &Schedule,
    block: &Block,
    rank_counts: bool,
) -> Result<(), HeaderError> {
    let header = &block.header;
    let validator = genesis.validators.get(header.proposer.as_usize()).ok_or(HeaderError::UnknownProposer)?;
    if rank_counts && schedule.rank(header.slot, header.proposer) != Some(header.rank) {
        return Err(HeaderError::WrongRank);
    }
    if block.digests.len() > genesis.batches_max as usize {
        return Err(HeaderError::TooManyBatches);
    }
    match block.signature_holds(genesis_id, &validator.key) {
        true => Ok(()),
        false => Err(HeaderError::BadSignature),
    }
}

fn lost_block(id: &BlockId) -> HaltReason {
    HaltReason::Archive(format!("block {id} was stored and is not there"))
}
