//! A block executed piece by piece, beside the state: because it is too large for one step, or before it is there.
//!
//! Most of a block's work is done while its slot has not begun yet: whoever will propose next tells the others in which
//! order it will list what waits (a draft, [`crate::Message::Draft`]), and all execute that ahead. A draft promises nothing.
//! The block that comes is executed from where it and the draft part, and if they part at once nothing was lost but time.

use std::collections::HashSet;

use zeni_ledger::execute::{Executed, Execution};
use zeni_ledger::genesis::Rules;
use zeni_ledger::{BatchDigest, BlockId, State, VerifiedBatch};

use crate::archive::Archive;
use crate::batches::BatchIndex;
use crate::chain::Chain;
use crate::effect::HaltReason;

/// Payments that one step executes ahead, at most; the last batch may exceed it.
pub const AHEAD_STEP_PAYMENTS_MAX: u64 = 8_192;

/// Batches executed on top of a block, as the next block at some slot may list them.
#[derive(Debug)]
pub struct Ahead {
    parent: BlockId,
    slot: u64,
    digests: Vec<BatchDigest>,
    listed: HashSet<BatchDigest>,
    batches: Vec<VerifiedBatch>,
    execution: Execution,
}

impl Ahead {
    /// Begins a block at `slot` on `parent`, where `state` stands.
    pub(crate) fn begin(state: &mut State, parent: BlockId, slot: u64, slot_time_ms: u64) -> Self {
        let execution = Execution::begin(state, slot_time_ms);
        Self { parent, slot, digests: Vec::new(), listed: HashSet::new(), batches: Vec::new(), execution }
    }

    pub(crate) fn is_on(&self, parent: BlockId, slot: u64) -> bool {
        self.parent == parent && self.slot == slot
    }

    /// The batches, in the order of execution.
    pub fn digests(&self) -> &[BatchDigest] {
        &self.digests
    }

    /// Whether this batch is among them.
    pub fn lists(&self, digest: &BatchDigest) -> bool {
        self.listed.contains(digest)
    }

    pub(crate) fn execute(&mut self, state: &mut State, rules: &Rules, batch: VerifiedBatch) {
        self.execution.batch(state, rules, &batch);
        self.digests.push(batch.digest());
        self.listed.insert(batch.digest());
        self.batches.push(batch);
    }

    /// Makes the state what the batches leave.
    pub(crate) fn finish(self, state: &mut State) -> (Vec<VerifiedBatch>, Executed) {
        (self.batches, self.execution.finish(state))
    }
}

/// What a validator said of the block that it will propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) slot: u64,
    pub(crate) parent: BlockId,
    pub(crate) digests: Vec<BatchDigest>,
}

impl Draft {
    /// Takes the next part, if it is one and the whole stays within `most` batches: what could never stand in one block is
    /// not worth remembering.
    pub(crate) fn extend(&mut self, next: Self, start: usize, most: usize) {
        if (self.slot, self.parent, self.digests.len()) == (next.slot, next.parent, start) {
            self.digests.extend(next.digests);
            self.digests.truncate(most);
        }
    }

    /// Executes what it names and is here, up to the first batch that no block may list, a bounded piece at a time. Of
    /// another draft that was executed so far nothing is kept.
    pub(crate) fn follow(
        &self,
        chain: &mut Chain,
        batches: &BatchIndex,
        archive: &dyn Archive,
    ) -> Result<(), HaltReason> {
        let begun = chain.executed_ahead(self.slot).filter(|ahead| self.digests.starts_with(ahead.digests()));
        let done = begun.map_or(0, |ahead| ahead.digests().len());
        let mut seen = HashSet::new();
        let is_new = |digest: &BatchDigest| !chain.lists(digest) && !begun.is_some_and(|ahead| ahead.lists(digest));
        let next = self.digests[done..].iter();
        let next =
            next.take_while(|digest| batches.contains(digest) && is_new(digest) && seen.insert(**digest)).count();
        if next == 0 {
            return Ok(());
        }
        chain.execute_ahead(AHEAD_STEP_PAYMENTS_MAX, self.slot, &self.digests[..done + next], batches, archive)
    }
}
