//! A block executed piece by piece, beside the state: because it is too large for one step, or before it is there.
//!
//! Most of a block's work is done while its slot has not begun yet: whoever will propose next tells the others in which
//! order it will list what waits (a draft, [`crate::Message::Draft`]), and all execute that ahead. A draft promises nothing.
//! A block that begins with all that was executed is executed from there; any other from the head, and nothing was lost but
//! time.

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
    /// Takes a part that stands behind `start` batches: the first one begins the draft anew, another is taken if it is the
    /// next. Never more than `most` batches, which is what a block may list. False if the part is not taken.
    pub(crate) fn take(kept: &mut Option<Self>, part: Self, start: usize, most: usize) -> bool {
        if start.saturating_add(part.digests.len()) > most {
            return false;
        }
        match kept {
            _ if start == 0 => *kept = Some(part),
            Some(draft) if (draft.slot, draft.parent, draft.digests.len()) == (part.slot, part.parent, start) => {
                draft.digests.extend(part.digests);
            }
            _ => return false,
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    fn part(slot: u64, digests: std::ops::Range<u8>) -> Draft {
        Draft { slot, parent: BlockId([1; 32]), digests: digests.map(|number| BatchDigest([number; 32])).collect() }
    }

    #[test]
    fn a_draft_grows_by_its_next_part_and_never_beyond_what_a_block_may_list() {
        let mut kept = None;
        assert!(!Draft::take(&mut kept, part(7, 0..2), 1, 5), "what comes before is not known");
        assert!(!Draft::take(&mut kept, part(7, 0..6), 0, 5), "too long at once");
        assert!(Draft::take(&mut kept, part(7, 0..2), 0, 5));
        assert!(!Draft::take(&mut kept, part(7, 3..5), 3, 5), "a gap");
        assert!(!Draft::take(&mut kept, part(8, 2..4), 2, 5), "another slot");
        assert!(!Draft::take(&mut kept, part(7, 2..6), 2, 5), "too long in all");
        assert!(Draft::take(&mut kept, part(7, 2..5), 2, 5));
        assert_eq!(kept, Some(part(7, 0..5)));
        assert!(Draft::take(&mut kept, part(8, 1..2), 0, 5));
        assert_eq!(kept, Some(part(8, 1..2)), "it begins anew");
    }
}
