//! In which slots canonical blocks list a batch, as far back as it can matter for what may be listed again.
//!
//! A batch may be listed again once all its payments have expired, so there may be several slots, and whether a block is
//! valid must not hang on which of them this node saw: each is kept and dropped by itself.

use std::collections::{BTreeMap, HashMap};

use zeni_ledger::BatchDigest;

#[derive(Debug, Default)]
pub(crate) struct Listed {
    newest: HashMap<BatchDigest, u64>,
    /// Of the few that are listed several times the slots before the newest, rising.
    older: HashMap<BatchDigest, Vec<u64>>,
    by_slot: BTreeMap<u64, Vec<BatchDigest>>,
}

impl Listed {
    pub(crate) fn contains(&self, digest: &BatchDigest) -> bool {
        self.newest.contains_key(digest)
    }

    /// The slots of a batch, in no order.
    pub(crate) fn slots(&self, digest: &BatchDigest) -> impl Iterator<Item = u64> {
        self.newest.get(digest).into_iter().chain(self.older.get(digest).into_iter().flatten()).copied()
    }

    /// The block at this slot, above all others, lists these.
    pub(crate) fn add(&mut self, slot: u64, digests: &[BatchDigest]) {
        for digest in digests {
            if let Some(before) = self.newest.insert(*digest, slot) {
                self.older.entry(*digest).or_default().push(before);
            }
        }
        self.by_slot.insert(slot, digests.to_vec());
    }

    /// The block at this slot is not canonical any more.
    pub(crate) fn take_back(&mut self, slot: u64, digests: &[BatchDigest]) {
        for digest in digests {
            self.drop_one(digest, slot);
        }
        self.by_slot.remove(&slot);
    }

    /// Drops every slot below `oldest`. Returns the batches that no block lists any more.
    pub(crate) fn forget_below(&mut self, oldest: u64) -> Vec<BatchDigest> {
        let keep = self.by_slot.split_off(&oldest);
        let mut unlisted = Vec::new();
        for (slot, digests) in std::mem::replace(&mut self.by_slot, keep) {
            for digest in digests {
                self.drop_one(&digest, slot);
                if !self.contains(&digest) {
                    unlisted.push(digest);
                }
            }
        }
        unlisted
    }

    fn drop_one(&mut self, digest: &BatchDigest, slot: u64) {
        let Some(newest) = self.newest.get_mut(digest) else { return };
        let Some(older) = self.older.get_mut(digest) else {
            if *newest == slot {
                self.newest.remove(digest);
            }
            return;
        };
        if *newest == slot {
            *newest = older.pop().expect("lists that are empty are removed");
        } else if let Some(place) = older.iter().position(|one| *one == slot) {
            older.remove(place);
        }
        if older.is_empty() {
            self.older.remove(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: BatchDigest = BatchDigest([1; 32]);
    const TWO: BatchDigest = BatchDigest([2; 32]);

    fn slots(listed: &Listed, digest: BatchDigest) -> Vec<u64> {
        let mut slots: Vec<u64> = listed.slots(&digest).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn what_is_taken_back_leaves_the_listing_below_it() {
        let mut listed = Listed::default();
        listed.add(3, &[ONE, TWO]);
        listed.add(9, &[ONE]);
        assert_eq!(slots(&listed, ONE), [3, 9]);
        listed.take_back(9, &[ONE]);
        assert_eq!((slots(&listed, ONE), slots(&listed, TWO)), (vec![3], vec![3]));
        listed.take_back(3, &[ONE, TWO]);
        assert!(!listed.contains(&ONE) && !listed.contains(&TWO) && listed.older.is_empty());
    }

    #[test]
    fn what_is_old_is_forgotten_and_what_is_listed_again_since_stays() {
        let mut listed = Listed::default();
        listed.add(3, &[ONE, TWO]);
        listed.add(9, &[ONE]);
        listed.add(12, &[ONE]);
        assert_eq!(listed.forget_below(4), [TWO]);
        assert_eq!(slots(&listed, ONE), [9, 12]);
        assert!(listed.forget_below(10).is_empty());
        assert_eq!(slots(&listed, ONE), [12]);
        assert_eq!(listed.forget_below(13), [ONE]);
        assert!(listed.newest.is_empty() && listed.older.is_empty() && listed.by_slot.is_empty());
    }

    #[test]
    fn a_batch_that_one_block_lists_twice_is_taken_back_twice() {
        let mut listed = Listed::default();
        listed.add(3, &[ONE, ONE]);
        listed.take_back(3, &[ONE, ONE]);
        assert!(!listed.contains(&ONE) && listed.older.is_empty());
    }
}
