//! Payments that came through this server and are not yet seen on the chain: what the nodes promised about them.
//!
//! Bounded by two generations: when the young one is full it becomes the old one, and the former old one is forgotten.
//! Nothing depends on this memory; a forgotten payment is asked of the nodes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeni_ledger::TransactionId;

use crate::chronicle::Terms;

/// What nodes promised about a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// Nodes that had it on disk when they last said so.
    pub copies: u16,
    /// Unix milliseconds of the first promise.
    pub accepted_ms: u64,
    pub terms: Terms,
}

impl Promise {
    /// Takes in a later promise about the same payment, of `copies` copies.
    fn repeat(&mut self, copies: u16) {
        self.copies = self.copies.max(copies);
    }
}

/// A bounded memory of promises.
#[derive(Debug)]
pub struct Submissions {
    generation_max: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<TransactionId, Promise>,
    old: HashMap<TransactionId, Promise>,
}

impl Submissions {
    /// Remembers about `payments_max` payments, and at least half of that of the latest ones.
    pub fn new(payments_max: usize) -> Self {
        Self { generation_max: payments_max.div_ceil(2), generations: Mutex::default() }
    }

    /// Remembers promises that one reply made. A repeated one keeps its first time.
    pub fn remember(&self, promises: impl IntoIterator<Item = (TransactionId, Promise)>) {
        let mut generations = self.lock();
        let Generations { young, old } = &mut *generations;
        for (id, promise) in promises {
            if young.len() >= self.generation_max && !young.contains_key(&id) {
                *old = std::mem::take(young);
            }
            // Each look-up is a walk to memory, so none is made twice.
            match young.entry(id) {
                Entry::Occupied(mut known) => known.get_mut().repeat(promise.copies),
                Entry::Vacant(place) => {
                    let mut known = old.get(&id).copied().unwrap_or(promise);
                    known.repeat(promise.copies);
                    place.insert(known);
                }
            }
        }
    }

    /// Takes in that `copies` nodes have a remembered payment by now; fewer than before is no news, because blocks take
    /// payments out of pools. What is known of it then.
    pub fn grow(&self, id: &TransactionId, copies: u16) -> Option<Promise> {
        let mut generations = self.lock();
        let Generations { young, old } = &mut *generations;
        let promise = young.get_mut(id).or_else(|| old.get_mut(id))?;
        promise.repeat(copies);
        Some(*promise)
    }

    /// What is remembered of a payment.
    pub fn find(&self, id: &TransactionId) -> Option<Promise> {
        self.lock().find(id)
    }

    /// How many payments are remembered.
    pub fn len(&self) -> usize {
        let generations = self.lock();
        generations.young.len() + generations.old.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // A panic elsewhere leaves the maps whole: each change is one insertion.
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn find(&self, id: &TransactionId) -> Option<Promise> {
        self.young.get(id).or_else(|| self.old.get(id)).copied()
    }
}

#[cfg(test)]
mod tests {
    use zeni_ledger::{AccountId, Sequence};

    use super::*;

    fn id(number: u8) -> TransactionId {
        TransactionId([number; 32])
    }

    fn promise(copies: u16, accepted_ms: u64) -> Promise {
        let terms = Terms { from: AccountId([1; 32]), sequence: Sequence(0), valid_until: 9 };
        Promise { copies, accepted_ms, terms }
    }

    #[test]
    fn a_repeated_promise_keeps_its_first_time_and_most_copies() {
        let submissions = Submissions::new(10);
        submissions.remember([(id(1), promise(2, 100))]);
        submissions.remember([(id(1), promise(1, 200))]);
        assert_eq!(submissions.find(&id(1)), Some(promise(2, 100)));
        assert_eq!(submissions.find(&id(2)), None);
    }

    #[test]
    fn copies_grow_and_never_shrink() {
        let submissions = Submissions::new(10);
        submissions.remember([(id(1), promise(2, 100))]);
        assert_eq!(submissions.grow(&id(1), 3), Some(promise(3, 100)));
        assert_eq!(submissions.grow(&id(1), 0), Some(promise(3, 100)));
        assert_eq!(submissions.find(&id(1)), Some(promise(3, 100)));
        assert_eq!(submissions.grow(&id(2), 3), None);
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let submissions = Submissions::new(10);
        submissions.remember((0..100).map(|number| (id(number), promise(1, 0))));
        assert!(submissions.len() <= 10);
        assert!((95..100).all(|number| submissions.find(&id(number)).is_some()));
        assert_eq!(submissions.find(&id(0)), None);
    }
}
