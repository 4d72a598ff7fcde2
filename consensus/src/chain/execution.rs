//! Execution on the head: of a block, of as much of it as a step may, or ahead of one.

use zeni_ledger::execute::{Executed, undo};
use zeni_ledger::{BatchDigest, BlockId, VerifiedBatch};

use super::{Applied, Chain, lost_block};
use crate::ahead::Ahead;
use crate::archive::Archive;
use crate::batches::BatchIndex;
use crate::effect::HaltReason;
use crate::mutation::Mutant;

/// What came of executing a block.
pub(super) enum Tried {
    Applied(Box<Applied>),
    /// The step's budget is spent.
    Unfinished,
    /// It does not give its roots; the state is as before.
    Invalid,
}

impl Chain {
    /// Executes a child of the head, as far as the budget goes, and adds to `spent` what it cost.
    pub(super) fn try_block(
        &mut self,
        id: BlockId,
        batches: &mut BatchIndex,
        archive: &dyn Archive,
        spent: &mut u64,
    ) -> Result<Tried, HaltReason> {
        let block = self.block(&id, archive)?.ok_or_else(|| lost_block(&id))?;
        if self.lists_twice(&block.header, &block.digests) {
            self.tree.invalidate(id);
            return Ok(Tried::Invalid);
        }
        let (slot, most) = (block.header.slot, self.bounds.step_payments_max);
        if !self.execute_up_to(most, spent, slot, &block.digests, batches, archive)? {
            return Ok(Tried::Unfinished);
        }
        let (listed, executed) = self.finish(slot, &block.digests, batches, archive)?;
        let header = &block.header;
        let receipts_hold =
            (header.receipts_root, header.receipts) == (executed.receipts_root, executed.receipts.len() as u32);
        let receipts_hold = receipts_hold || self.mutation.is(Mutant::ReceiptsUnchecked);
        let roots_hold = header.state_root == executed.state_root && receipts_hold;
        if !roots_hold && !self.mutation.is(Mutant::AdoptUnchecked) {
            undo(&mut self.state, &executed.undo);
            self.tree.invalidate(id);
            return Ok(Tried::Invalid);
        }
        *spent += 1;
        Ok(Tried::Applied(Box::new(self.adopt(id, block, listed, executed, batches))))
    }

    /// Executes batches of a block at `slot` on the head, as long as less than `most` is spent; goes on where an earlier call
    /// for the same batches ended. True if all of them are executed now.
    fn execute_up_to(
        &mut self,
        most: u64,
        spent: &mut u64,
        slot: u64,
        digests: &[BatchDigest],
        batches: &BatchIndex,
        archive: &dyn Archive,
    ) -> Result<bool, HaltReason> {
        let head = self.head();
        let begun = self.ahead.take().filter(|ahead| ahead.is_on(head, slot) && digests.starts_with(ahead.digests()));
        let slot_time_ms = self.genesis.slot_time_ms(slot);
        let mut ahead = begun.unwrap_or_else(|| Ahead::begin(&mut self.state, head, slot, slot_time_ms));
        let rest = digests[ahead.digests().len()..].iter();
        let mut done = true;
        for digest in rest {
            if *spent >= most {
                done = false;
                break;
            }
            let batch = batches.load(digest, archive)?;
            let payments = batch.payments().len() as u64;
            *spent += payments + 1;
            self.executed_payments += payments;
            ahead.execute(&mut self.state, &self.genesis.rules, batch);
        }
        self.ahead = Some(ahead);
        Ok(done)
    }

    /// Executes what is left of a block's batches, and makes the state what they leave.
    pub(super) fn finish(
        &mut self,
        slot: u64,
        digests: &[BatchDigest],
        batches: &BatchIndex,
        archive: &dyn Archive,
    ) -> Result<(Vec<VerifiedBatch>, Executed), HaltReason> {
        #[cfg(feature = "mutants")]
        if self.mutation.is(Mutant::ReuseSequence) {
            self.ahead = None;
            let listed: Vec<_> =
                digests.iter().map(|digest| batches.load(digest, archive)).collect::<Result<_, _>>()?;
            let slot_time_ms = self.genesis.slot_time_ms(slot);
            let rules = &self.genesis.rules;
            let executed = crate::mutation::execute_anew(&mut self.state, rules, slot_time_ms, &listed);
            return Ok((listed, executed));
        }
        self.execute_up_to(u64::MAX, &mut 0, slot, digests, batches, archive)?;
        let ahead = self.ahead.take().expect("it was begun just now");
        Ok(ahead.finish(&mut self.state))
    }

    /// Payments executed since the start, ahead of a block or for it, each as often as it was.
    pub fn executed_payments(&self) -> u64 {
        self.executed_payments
    }

    /// What is executed already of a block at `slot` on the head.
    pub fn executed_ahead(&self, slot: u64) -> Option<&Ahead> {
        self.ahead.as_ref().filter(|ahead| ahead.is_on(self.head(), slot))
    }

    /// Executes these batches ahead of a block at `slot` on the head, about `most` payments of them more than are executed
    /// already. What else was executed ahead is dropped.
    ///
    /// # Errors
    /// A batch that is stored and cannot be read.
    pub fn execute_ahead(
        &mut self,
        most: u64,
        slot: u64,
        digests: &[BatchDigest],
        batches: &BatchIndex,
        archive: &dyn Archive,
    ) -> Result<(), HaltReason> {
        self.execute_up_to(most, &mut 0, slot, digests, batches, archive).map(|_| ())
    }
}
