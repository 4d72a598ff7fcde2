//! Batches that a proposer leaves in the pool, because a payment in them lies beyond its payer's window for now.

use std::collections::BTreeMap;

use zeni_ledger::BatchDigest;

/// For so many slots a batch waits; then it is listed as it is, and the payments that are still too early are skipped.
/// Long enough for whoever holds the payments before them to return; bounded, because the batch's other payments wait too.
pub(crate) const EARLY_SLOTS_MAX: u64 = 100;
/// A waiting batch is tried again after 1, 2, 4 … slots, at most this many: each try executes the block anew.
const EARLY_REST_MAX: u64 = 4;

#[derive(Debug, Clone, Copy)]
struct Wait {
    since: u64,
    tried: u64,
    rest: u64,
}

/// The batches that wait, by digest. Each is in the pool, which bounds them.
#[derive(Debug, Default)]
pub(crate) struct EarlyBatches {
    waits: BTreeMap<BatchDigest, Wait>,
}

impl EarlyBatches {
    /// Whether a block at `slot` should try to list the batch.
    pub(crate) fn may_be_tried(&self, digest: &BatchDigest, slot: u64) -> bool {
        self.waits.get(digest).is_none_or(|wait| slot >= wait.tried + wait.rest)
    }

    /// Notes that the batch is too early for a block at `slot`. False once it has waited long enough.
    pub(crate) fn waits(&mut self, digest: &BatchDigest, slot: u64) -> bool {
        let wait = self.waits.entry(*digest).or_insert(Wait { since: slot, tried: slot, rest: 0 });
        if wait.tried < slot || wait.rest == 0 {
            *wait = Wait { since: wait.since, tried: slot, rest: (2 * wait.rest).clamp(1, EARLY_REST_MAX) };
        }
        slot - wait.since < EARLY_SLOTS_MAX
    }

    /// The batch is listed.
    pub(crate) fn forget(&mut self, digest: &BatchDigest) {
        self.waits.remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_waits_with_growing_rests_and_not_for_ever() {
        let (mut early, digest) = (EarlyBatches::default(), BatchDigest([1; 32]));
        let mut tried = Vec::new();
        for slot in 10.. {
            if early.may_be_tried(&digest, slot) {
                tried.push(slot);
                if !early.waits(&digest, slot) {
                    break;
                }
            }
        }
        assert_eq!(tried[..6], [10, 11, 13, 17, 21, 25]);
        assert!((10 + EARLY_SLOTS_MAX..10 + EARLY_SLOTS_MAX + EARLY_REST_MAX).contains(tried.last().unwrap()));
        early.forget(&digest);
        assert!(early.may_be_tried(&digest, 12));
    }
}
