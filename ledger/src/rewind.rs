//! The state as it was some blocks ago, laid over the state as it is now: for proofs at a block below the head.
//!
//! Only what those blocks touched is held: their accounts as they were, and the tree's nodes above them.

use std::collections::{BTreeMap, BTreeSet};

use crate::account::Account;
use crate::hash::StateRoot;
use crate::identity::AccountId;
use crate::merkle;
use crate::proof::{AccountProof, BucketEntry};
use crate::state::{State, account_key, bucket_hash, bucket_of, content_hash, state_root};
use crate::undo::Undo;

/// A state before the last blocks that were executed on it.
#[derive(Debug, Clone)]
pub struct Rewound {
    /// The root of the state that it lies over.
    over: StateRoot,
    root: StateRoot,
    accounts: BTreeMap<AccountId, Account>,
    nodes: BTreeMap<u32, [u8; 32]>,
}

impl Rewound {
    /// The state before the blocks whose undo records these are, from the last block down. Takes two hashes for each
    /// account beside a touched one and one for each node above; `state` is not changed.
    pub fn new<'u>(state: &State, undos: impl IntoIterator<Item = &'u Undo>) -> Self {
        let mut accounts = BTreeMap::new();
        for account in undos.into_iter().flat_map(|undo| &undo.accounts) {
            accounts.insert(account.id(), account.clone());
        }
        let mut rewound = Self { over: state.root(), root: state.root(), accounts, nodes: BTreeMap::new() };
        rewound.rehash(state);
        rewound
    }

    fn rehash(&mut self, state: &State) {
        let depth = state.depth();
        let mut level: BTreeSet<u32> =
            self.accounts.keys().map(|id| (1 << depth) + bucket_of(&account_key(id), depth)).collect();
        for node in &level {
            let hash = bucket_hash(&self.bucket_entries(state, node - (1 << depth)));
            self.nodes.insert(*node, hash);
        }
        for _ in 0..depth {
            level = level.iter().map(|node| node / 2).collect();
            for node in &level {
                let hash = merkle::node_hash(self.node(state, 2 * node), self.node(state, 2 * node + 1));
                self.nodes.insert(*node, hash);
            }
        }
        self.root = state_root(depth, state.len(), self.node(state, 1));
    }

    /// The root of the state as it was.
    pub fn root(&self) -> StateRoot {
        self.root
    }

    /// The account as it was, if it exists. (Payments open none.)
    pub fn account<'a>(&'a self, state: &'a State, id: &AccountId) -> Option<&'a Account> {
        self.accounts.get(id).or_else(|| state.account(id))
    }

    /// As [`crate::proof::prove`], against [`Self::root`].
    ///
    /// # Panics
    /// If `state` is not the one that it was made from.
    pub fn prove(&self, state: &State, id: &AccountId) -> AccountProof {
        assert_eq!(state.root(), self.over, "what was rewound lies over one state");
        let depth = state.depth();
        let key = account_key(id);
        let bucket = bucket_of(&key, depth);
        let mut strangers = self.bucket_entries(state, bucket);
        strangers.retain(|(stranger, _)| *stranger != key);
        let (mut node, mut siblings) = ((1 << depth) + bucket, Vec::with_capacity(depth as usize));
        while node > 1 {
            siblings.push(*self.node(state, node ^ 1));
            node /= 2;
        }
        let account = self.account(state, id).cloned();
        AccountProof { id: *id, account, strangers, siblings, depth, accounts: state.len() }
    }

    fn node<'a>(&'a self, state: &'a State, node: u32) -> &'a [u8; 32] {
        self.nodes.get(&node).unwrap_or_else(|| state.node(node))
    }

    fn bucket_entries(&self, state: &State, bucket: u32) -> Vec<BucketEntry> {
        let entry = |account: &Account| {
            let account = self.accounts.get(&account.id()).unwrap_or(account);
            (account_key(&account.id()), content_hash(account))
        };
        state.bucket(bucket).iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::amount::{Balance, TokenId};
    use crate::execute::undo;
    use crate::proof::prove;

    fn id(number: u8) -> AccountId {
        AccountId([number; 32])
    }

    fn state() -> State {
        let mut state = State::new(4);
        for number in 0..60 {
            state.open(Account::new(id(number))).unwrap();
        }
        state.commit();
        state
    }

    /// Sets balances as a block would, and gives its undo record.
    fn change(state: &mut State, numbers: &[u8], units: i128) -> Undo {
        let numbers: BTreeSet<&u8> = numbers.iter().collect();
        let accounts: Vec<Account> =
            numbers.iter().filter_map(|number| state.account(&id(**number)).cloned()).collect();
        for account in &accounts {
            let mut changed = account.clone();
            assert!(changed.set_balance(TokenId(1), Balance::new(units)));
            assert!(state.replace(changed));
        }
        state.commit();
        Undo { accounts }
    }

    proptest! {
        /// Against the state itself, kept from then.
        #[test]
        fn proves_what_the_state_of_then_proves(
            blocks in prop::collection::vec(prop::collection::vec(0u8..60, 0..20), 0..6),
            asked in prop::collection::vec(0u8..80, 1..10),
        ) {
            let mut state = state();
            let then = state.clone();
            let mut undos: Vec<Undo> = Vec::new();
            for (number, block) in blocks.iter().enumerate() {
                undos.push(change(&mut state, block, number as i128 + 1));
            }
            let now = state.root();
            let rewound = Rewound::new(&state, undos.iter().rev());
            prop_assert_eq!(rewound.root(), then.root());
            for number in asked {
                let proof = rewound.prove(&state, &id(number));
                prop_assert_eq!(&proof, &prove(&then, &id(number)));
                prop_assert_eq!(proof.verify(&then.root()), Ok(()));
            }
            prop_assert_eq!(state.root(), now);
            for record in undos.iter().rev() {
                undo(&mut state, record);
            }
            prop_assert_eq!(state.root(), then.root());
        }
    }

    #[test]
    #[should_panic(expected = "lies over one state")]
    fn does_not_answer_for_another_state() {
        let mut state = state();
        let record = change(&mut state, &[1], 5);
        let rewound = Rewound::new(&state, [&record]);
        change(&mut state, &[2], 5);
        rewound.prove(&state, &id(1));
    }
}
