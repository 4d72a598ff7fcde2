//! What a process said that its disk holds, to be compared with what the disk holds after a crash.

use std::collections::BTreeSet;

use zeni_consensus::{Message, Verdict};
use zeni_ledger::{BatchDigest, BlockId, TransactionId, ValidatorIndex};
use zeni_storage::{MemoryFiles, Reader};

use crate::checker::Checker;
use crate::network::ProcessId;
use crate::violation::Violation;

/// Everything that was said while one disk was in use.
#[derive(Debug, Default)]
pub struct Promises {
    batches: BTreeSet<BatchDigest>,
    blocks: BTreeSet<BlockId>,
    payments: BTreeSet<TransactionId>,
    /// The highest slot for which a block was signed and sent.
    signed_slot: u64,
}

impl Promises {
    /// A message of validator `me` leaves its process: what it says is stored must be stored. A status of another
    /// validator, passed on, says nothing of this disk.
    pub fn said(&mut self, message: &Message, me: Option<ValidatorIndex>) {
        match message {
            Message::Stored(digests) | Message::Pool(digests) => self.batches.extend(digests),
            Message::Batch(batch) => {
                self.batches.insert(batch.digest());
            }
            Message::Status(status) if status.height > 0 && Some(status.validator) == me => {
                self.blocks.insert(status.head);
            }
            _ => {}
        }
    }

    /// A process's own block leaves it.
    pub fn signed(&mut self, block: BlockId, slot: u64) {
        self.blocks.insert(block);
        self.signed_slot = slot.max(self.signed_slot);
    }

    /// A client is told that a payment is on disk.
    pub fn acknowledged(&mut self, payment: TransactionId, verdict: &Verdict) {
        if matches!(verdict, Verdict::Accepted { .. } | Verdict::Known { .. }) {
            self.payments.insert(payment);
        }
    }

    /// Compares all of it with what a start found.
    pub fn check(
        &self,
        node: ProcessId,
        log: &Reader<MemoryFiles>,
        signed_slot: Option<u64>,
        checker: &Checker,
    ) -> Result<(), Violation> {
        if let Some(digest) = self.batches.iter().find(|digest| !log.has_batch(digest)) {
            return Err(Violation::BatchForgotten { node, digest: *digest });
        }
        if let Some(block) = self.blocks.iter().find(|block| !log.has_block(block)) {
            return Err(Violation::BlockForgotten { node, block: *block });
        }
        let forgotten = |payment: &&TransactionId| !checker.carriers(payment).any(|digest| log.has_batch(digest));
        if let Some(payment) = self.payments.iter().find(forgotten) {
            return Err(Violation::PaymentForgotten { node, payment: *payment });
        }
        if signed_slot.unwrap_or(0) < self.signed_slot {
            return Err(Violation::SlotForgotten { node, slot: self.signed_slot, found: signed_slot });
        }
        Ok(())
    }

    /// The disk was damaged behind its process's back: only what it still holds is promised from here on.
    pub fn forget_lost(&mut self, log: &Reader<MemoryFiles>, signed_slot: Option<u64>, checker: &Checker) {
        self.batches.retain(|digest| log.has_batch(digest));
        self.blocks.retain(|block| log.has_block(block));
        self.payments.retain(|payment| checker.carriers(payment).any(|digest| log.has_batch(digest)));
        self.signed_slot = signed_slot.unwrap_or(0).min(self.signed_slot);
    }
}
