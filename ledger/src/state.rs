//! The state: every account, in a bucketed Merkle tree.
//!
//! An account's key is the BLAKE3 of its id; the key's first `depth` bits choose one of 2^depth buckets, in which
//! entries stand by rising key. A bucket's hash covers, of each entry, the key and the hash of its content, so a proof
//! shows strangers only as hashes, and an absence by the gap between two keys. A perfect binary tree stands above the
//! buckets; `nodes[1]` is its top and `nodes[2^depth + i]` is bucket i. The root binds the number of accounts.
//!
//! Changes mark buckets; [`State::commit`] rehashes the marked ones and what is above them, each node once.

use crate::account::Account;
use crate::amount::TokenId;
use crate::encoding::Encoder;
use crate::hash::{StateRoot, TreeDomain, hash_parts};
use crate::identity::AccountId;
use crate::merkle;
use std::collections::BTreeMap;
use std::ops::Range;

/// The least and greatest depth that genesis may choose.
pub const DEPTH_MIN: u32 = 4;
pub const DEPTH_MAX: u32 = 26;
/// Accounts that are read ahead of the one that is put into its bucket.
const READ_AHEAD: usize = 256;
/// Entries in one bucket, at most.
pub const BUCKET_ENTRIES_MAX: usize = 256;

const KEY_DOMAIN: TreeDomain = TreeDomain::new("zeni key v1");
const CONTENT_DOMAIN: TreeDomain = TreeDomain::new("zeni account v1");
const BUCKET_DOMAIN: TreeDomain = TreeDomain::new("zeni bucket v1");
const ROOT_DOMAIN: &str = "zeni state v1";

/// Why an account cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the account exists")]
    Exists,
    #[error("the account's bucket is full; genesis should choose a greater state depth")]
    BucketFull,
}

/// Every account of the ledger and the tree above them.
#[derive(Debug, Clone)]
pub struct State {
    depth: u32,
    /// Bucket by bucket, in each by rising key: one array, because an account of each of millions of buckets by itself is one
    /// more wait for memory.
    accounts: Vec<Account>,
    /// Where each bucket begins among the accounts, and behind the last one their number.
    starts: Vec<u32>,
    nodes: Vec<[u8; 32]>,
    marked: Vec<u32>,
    /// The mark that an account gets next. 0 is never given, so it means that no execution touched an account.
    next_mark: u32,
    /// The first mark of the running execution; `None` if the state changed since that began.
    run: Option<u32>,
}

/// Where an account stands: found once, used many times (nothing moves while none is opened).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub(crate) bucket: u32,
    /// Among all accounts.
    index: u32,
}

impl Place {
    /// The bucket's number.
    pub fn bucket(self) -> u64 {
        self.bucket.into()
    }
}

/// The key of an account in the tree.
pub fn account_key(id: &AccountId) -> [u8; 32] {
    KEY_DOMAIN.hash(&id.0)
}

/// The hash of an account's content.
pub fn content_hash(account: &Account) -> [u8; 32] {
    let mut encoder = Encoder::with_capacity(64);
    account.encode_content(&mut encoder);
    CONTENT_DOMAIN.hash(encoder.as_bytes())
}

/// Hashes buckets, again and again in the same memory.
#[derive(Debug, Default)]
pub(crate) struct BucketHasher {
    entries: Encoder,
    content: Encoder,
}

impl BucketHasher {
    /// As [`bucket_hash`], of accounts by rising key.
    pub(crate) fn hash<'a>(&mut self, accounts: impl Iterator<Item = &'a Account>) -> [u8; 32] {
        self.entries.clear();
        for account in accounts {
            self.content.clear();
            account.encode_content(&mut self.content);
            self.entries.raw(&account_key(&account.id())).raw(&CONTENT_DOMAIN.hash(self.content.as_bytes()));
        }
        BUCKET_DOMAIN.hash(self.entries.as_bytes())
    }
}

/// The hash of a bucket from the keys and content hashes of its entries, by rising key: 64 bytes of each, so that the
/// length tells how many there are.
pub fn bucket_hash(entries: &[([u8; 32], [u8; 32])]) -> [u8; 32] {
    let mut encoder = Encoder::with_capacity(64 * entries.len());
    for (key, content) in entries {
        encoder.raw(key).raw(content);
    }
    BUCKET_DOMAIN.hash(encoder.as_bytes())
}

/// The root from the top of the tree and what it binds besides.
pub fn state_root(depth: u32, accounts: u64, top: &[u8; 32]) -> StateRoot {
    StateRoot(hash_parts(ROOT_DOMAIN, &[&depth.to_le_bytes(), &accounts.to_le_bytes(), top]))
}

/// The bucket that a key belongs to.
pub fn bucket_of(key: &[u8; 32], depth: u32) -> u32 {
    let head = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    head >> (32 - depth)
}

/// Numbers from 0 on by rising bucket, and where each bucket's numbers end.
fn sorted_by_bucket(buckets: &[u32], width: usize) -> (Vec<u32>, Vec<u32>) {
    let mut places = vec![0u32; width];
    for bucket in buckets {
        places[*bucket as usize] += 1;
    }
    let mut sum = 0;
    for place in &mut places {
        sum += std::mem::replace(place, sum);
    }
    let mut order = vec![0u32; buckets.len()];
    for (number, bucket) in (0..).zip(buckets) {
        let place = &mut places[*bucket as usize];
        order[*place as usize] = number;
        *place += 1;
    }
    (order, places)
}

impl State {
    /// An empty state of 2^depth buckets.
    ///
    /// # Panics
    /// If the depth is outside [`DEPTH_MIN`] to [`DEPTH_MAX`]; parsing a genesis refuses such depths.
    pub fn new(depth: u32) -> Self {
        assert!((DEPTH_MIN..=DEPTH_MAX).contains(&depth), "state depth {depth} is out of range");
        let width = 1usize << depth;
        let mut nodes = vec![[0; 32]; 2 * width];
        let mut hash = bucket_hash(&[]);
        for level in (0..=depth).rev() {
            let start = 1usize << level;
            nodes[start..2 * start].fill(hash);
            hash = merkle::node_hash(&hash, &hash);
        }
        Self {
            depth,
            accounts: Vec::new(),
            starts: vec![0; width + 1],
            nodes,
            marked: Vec::new(),
            next_mark: 1,
            run: None,
        }
    }

    /// The state of `count` accounts in any order, each of which is told by its number: first its id, then itself. Its root
    /// comes with the next [`Self::commit`].
    ///
    /// In millions of accounts each bucket is a wait for memory, so the accounts are sorted by bucket first, and each bucket
    /// is made once.
    ///
    /// # Errors
    /// An account that stands there twice, or whose bucket is full.
    ///
    /// # Panics
    /// If there are 2^32 accounts or more, or the depth is out of range.
    pub fn of_accounts(
        depth: u32,
        count: usize,
        id: impl Fn(usize) -> AccountId,
        account: impl Fn(usize) -> Account,
    ) -> Result<Self, (AccountId, OpenError)> {
        assert!(u32::try_from(count).is_ok(), "memory holds fewer than 2^32 accounts");
        let mut state = Self::new(depth);
        state.accounts.reserve_exact(count);
        let buckets: Vec<u32> = (0..count).map(|number| bucket_of(&account_key(&id(number)), depth)).collect();
        let (order, ends) = sorted_by_bucket(&buckets, 1 << depth);
        drop(buckets);
        let (mut start, mut warm) = (0, 0);
        let mut keys: Vec<([u8; 32], u32)> = Vec::new();
        for (bucket, end) in ends.into_iter().enumerate() {
            let end = end as usize;
            if end > warm {
                // Nobody wants the sum: it makes the processor read these without waiting for one after the other.
                let next = &order[warm..(end + READ_AHEAD).min(count)];
                std::hint::black_box(next.iter().map(|number| u64::from(id(*number as usize).0[0])).sum::<u64>());
                warm += next.len();
            }
            keys.clear();
            keys.extend(order[start..end].iter().map(|number| (account_key(&id(*number as usize)), *number)));
            keys.sort_unstable();
            let refused = |number: u32, error| Err((id(number as usize), error));
            if let Some(pair) = keys.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return refused(pair[1].1, OpenError::Exists);
            }
            if let Some((_, number)) = keys.get(BUCKET_ENTRIES_MAX) {
                return refused(*number, OpenError::BucketFull);
            }
            if !keys.is_empty() {
                state.accounts.extend(keys.iter().map(|(_, number)| account(*number as usize)));
                state.marked.push(bucket as u32);
            }
            state.starts[bucket + 1] = end as u32;
            start = end;
        }
        Ok(state)
    }

    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// How many accounts there are.
    pub fn len(&self) -> u64 {
        self.accounts.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// The account, if it exists.
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.find(id).map(|place| self.at(place))
    }

    /// Every account, in the tree's order.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter()
    }

    /// Adds an account, and moves those behind it: for many use [`Self::of_accounts`]. The root changes with the next
    /// [`Self::commit`].
    ///
    /// # Panics
    /// If there are 2^32 - 1 accounts.
    pub fn open(&mut self, account: Account) -> Result<(), OpenError> {
        let key = account_key(&account.id());
        let bucket = bucket_of(&key, self.depth);
        let entries = self.bucket(bucket);
        if entries.iter().any(|entry| entry.id() == account.id()) {
            return Err(OpenError::Exists);
        }
        if entries.len() == BUCKET_ENTRIES_MAX {
            return Err(OpenError::BucketFull);
        }
        assert!(self.len() < u64::from(u32::MAX), "memory holds fewer than 2^32 accounts");
        let before = entries.partition_point(|entry| account_key(&entry.id()) < key);
        let index = self.starts[bucket as usize] as usize + before;
        self.accounts.insert(index, account);
        self.accounts[index].mark = 0;
        self.starts[bucket as usize + 1..].iter_mut().for_each(|start| *start += 1);
        self.marked.push(bucket);
        self.run = None;
        Ok(())
    }

    /// Replaces the account with the same id by `account`. False if there is none.
    #[must_use]
    pub fn replace(&mut self, account: Account) -> bool {
        let Some(place) = self.find(&account.id()) else { return false };
        self.put(place, account);
        true
    }

    /// As [`Self::replace`], of many accounts, whose places are waited for together. Returns those that do not exist.
    #[must_use]
    pub fn replace_all(&mut self, accounts: Vec<Account>) -> Vec<Account> {
        let places = self.find_all(accounts.iter().map(Account::id));
        let mut absent = Vec::new();
        for (account, place) in accounts.into_iter().zip(places) {
            match place {
                Some(place) => self.put(place, account),
                None => absent.push(account),
            }
        }
        absent
    }

    fn put(&mut self, place: Place, account: Account) {
        self.marked.push(place.bucket);
        *self.at_mut(place) = account;
        self.at_mut(place).mark = 0;
        self.run = None;
    }

    /// Begins an execution: its accounts get marks from the returned one on. Executions begun before it are over.
    pub(crate) fn begin_run(&mut self) -> u32 {
        // One execution touches far fewer accounts than half of all marks.
        if self.next_mark > u32::MAX / 2 {
            self.accounts.iter_mut().for_each(|account| account.mark = 0);
            self.next_mark = 1;
        }
        self.run = Some(self.next_mark);
        self.next_mark
    }

    /// Asserts that the execution whose first mark this is may go on.
    ///
    /// # Panics
    /// If the state changed since it began, or another one began.
    pub(crate) fn assert_running(&self, first: u32) {
        assert_eq!(self.run, Some(first), "the state changed beside an execution that goes on");
    }

    /// Gives an account its mark in the running execution.
    pub(crate) fn mark(&mut self, place: Place) {
        let mark = self.next_mark;
        self.next_mark = mark.checked_add(1).expect("an execution touches fewer than 2^31 accounts");
        self.at_mut(place).mark = mark;
    }

    pub(crate) fn find(&self, id: &AccountId) -> Option<Place> {
        self.find_in(bucket_of(&account_key(id), self.depth), id)
    }

    fn find_in(&self, bucket: u32, id: &AccountId) -> Option<Place> {
        let entry = self.bucket(bucket).iter().position(|entry| entry.id() == *id)?;
        Some(Place { bucket, index: self.starts[bucket as usize] + entry as u32 })
    }

    /// Where each of these accounts stands, if it exists: in millions of accounts each is a wait for memory, and here they
    /// are waited for together. First all keys are hashed, then all buckets read, then all accounts.
    pub fn find_all(&self, ids: impl Iterator<Item = AccountId>) -> Vec<Option<Place>> {
        let wanted: Vec<(AccountId, u32)> = ids.map(|id| (id, bucket_of(&account_key(&id), self.depth))).collect();
        let buckets: Vec<&[Account]> = wanted.iter().map(|(_, bucket)| self.bucket(*bucket)).collect();
        let ends = buckets.iter().map(|bucket| match bucket {
            [first, .., last] => u64::from(first.mark) + u64::from(last.mark),
            [only] => u64::from(only.mark),
            [] => 0,
        });
        // Nobody wants the sum: it makes the processor read without waiting for what it reads.
        std::hint::black_box(ends.sum::<u64>());
        wanted.iter().map(|(id, bucket)| self.find_in(*bucket, id)).collect()
    }

    /// The account that stands there.
    ///
    /// # Panics
    /// If the place is another state's.
    pub fn at(&self, place: Place) -> &Account {
        &self.accounts[place.index as usize]
    }

    pub(crate) fn at_mut(&mut self, place: Place) -> &mut Account {
        &mut self.accounts[place.index as usize]
    }

    /// Rehashes what changed and returns the root.
    pub fn commit(&mut self) -> StateRoot {
        self.commit_hashed(&[])
    }

    /// As [`Self::commit`], for an execution that hashed the buckets which it changed; of two hashes of one bucket the later
    /// one counts.
    pub(crate) fn commit_hashed(&mut self, hashed: &[(u32, [u8; 32])]) -> StateRoot {
        self.run = None;
        let width = 1usize << self.depth;
        for (bucket, hash) in hashed {
            self.nodes[width + *bucket as usize] = *hash;
        }
        let mut level = std::mem::take(&mut self.marked);
        level.sort_unstable();
        level.dedup();
        let mut hasher = BucketHasher::default();
        for bucket in &level {
            self.nodes[width + *bucket as usize] = hasher.hash(self.bucket(*bucket).iter());
        }
        level.extend(hashed.iter().map(|(bucket, _)| *bucket));
        level.sort_unstable();
        level.dedup();
        let mut start = width;
        while start > 1 {
            start /= 2;
            for index in &mut level {
                *index /= 2;
            }
            level.dedup();
            for index in &level {
                let node = start + *index as usize;
                self.nodes[node] = merkle::node_hash(&self.nodes[2 * node], &self.nodes[2 * node + 1]);
            }
        }
        self.root()
    }

    /// The root as of the last [`Self::commit`].
    pub fn root(&self) -> StateRoot {
        state_root(self.depth, self.len(), &self.nodes[1])
    }

    /// The accounts of a bucket, by rising key.
    pub(crate) fn bucket(&self, bucket: u32) -> &[Account] {
        let bucket = bucket as usize;
        &self.accounts[self.starts[bucket] as usize..self.starts[bucket + 1] as usize]
    }

    /// Where the accounts of a bucket stand, by rising key.
    pub(crate) fn places(&self, bucket: u32) -> impl Iterator<Item = Place> + Clone + use<> {
        let (start, end) = (self.starts[bucket as usize], self.starts[bucket as usize + 1]);
        (start..end).map(move |index| Place { bucket, index })
    }

    /// A node of the tree as of the last [`Self::commit`]; 1 is its top and 2^depth + i is bucket i.
    pub(crate) fn node(&self, node: u32) -> &[u8; 32] {
        &self.nodes[node as usize]
    }

    /// Keys and content hashes of a bucket's entries, as its hash covers them.
    pub fn bucket_entries(&self, bucket: u32) -> Vec<([u8; 32], [u8; 32])> {
        self.bucket(bucket).iter().map(|entry| (account_key(&entry.id()), content_hash(entry))).collect()
    }

    /// The siblings on a bucket's way to the top, from the bottom up.
    pub fn bucket_path(&self, bucket: u32) -> Vec<[u8; 32]> {
        let mut node = (1usize << self.depth) + bucket as usize;
        let mut siblings = Vec::with_capacity(self.depth as usize);
        while node > 1 {
            siblings.push(self.nodes[node ^ 1]);
            node /= 2;
        }
        siblings
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> u64 {
        1 << self.depth
    }

    /// The sum of all balances of each token that anyone holds. Every one of them must be zero.
    pub fn token_sums(&self) -> BTreeMap<TokenId, i128> {
        let mut sums = BTreeMap::new();
        self.add_token_sums(0..self.buckets(), &mut sums);
        sums
    }

    /// Adds to `sums` what the accounts in these buckets hold of each token.
    pub fn add_token_sums(&self, buckets: Range<u64>, sums: &mut BTreeMap<TokenId, i128>) {
        let start_of = |bucket: u64| self.starts[bucket.min(self.buckets()) as usize] as usize;
        let range = start_of(buckets.start)..start_of(buckets.end);
        let mut add = |token, units| {
            let sum = sums.entry(token).or_insert(0i128);
            *sum = sum.checked_add(units).expect("2^64 accounts of 2^63 units fit an i128");
        };
        // Of neighbours that hold the same token one entry is made.
        let mut run: Option<(TokenId, i128)> = None;
        for (token, balance) in self.accounts[range].iter().flat_map(Account::holdings) {
            match &mut run {
                Some((of, units)) if *of == token => {
                    *units = units.checked_add(balance.units()).expect("2^64 accounts of 2^63 units fit an i128");
                }
                _ => {
                    if let Some((of, units)) = run.replace((token, balance.units())) {
                        add(of, units);
                    }
                }
            }
        }
        if let Some((token, units)) = run {
            add(token, units);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Balance;

    fn account(number: u8, units: i128) -> Account {
        let mut account = Account::new(AccountId([number; 32]));
        assert!(account.set_balance(TokenId(1), Balance::new(units)));
        account
    }

    #[test]
    fn the_root_does_not_depend_on_the_order_of_opening() {
        let (mut up, mut down) = (State::new(4), State::new(4));
        for number in 0..100 {
            up.open(account(number, i128::from(number))).unwrap();
            down.open(account(99 - number, i128::from(99 - number))).unwrap();
        }
        assert_eq!(up.commit(), down.commit());
    }

    #[test]
    fn a_state_of_many_accounts_is_that_of_opening_them_one_by_one() {
        for (depth, count) in [(4, 0), (4, 1), (4, 1_000), (8, 1_000), (12, 1_000)] {
            let id = |number: usize| AccountId(*blake3::hash(&number.to_le_bytes()).as_bytes());
            let account = |number: usize| {
                let mut account = Account::new(id(number));
                assert!(account.set_balance(TokenId(1), Balance::new(number as i128)));
                account
            };
            let mut built = State::of_accounts(depth, count, id, account).unwrap();
            let mut opened = State::new(depth);
            (0..count).for_each(|number| opened.open(account(number)).unwrap());
            assert_eq!(built.commit(), opened.commit());
            assert_eq!((&built.accounts, &built.starts), (&opened.accounts, &opened.starts));
        }
    }

    #[test]
    fn a_state_of_many_accounts_refuses_doubles_and_full_buckets() {
        let numbers = [7, 3, 9, 3];
        let id = |number: usize| AccountId([numbers[number]; 32]);
        let refused = State::of_accounts(4, 4, id, |number| Account::new(id(number))).unwrap_err();
        assert_eq!(refused, (AccountId([3; 32]), OpenError::Exists));
        let id = |number: usize| AccountId(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let (_, error) = State::of_accounts(4, 16 * 300, id, |number| Account::new(id(number))).unwrap_err();
        assert_eq!(error, OpenError::BucketFull);
    }

    #[test]
    fn many_accounts_are_replaced_as_each_would_be_and_those_that_are_not_there_come_back() {
        let mut one_by_one = State::new(4);
        (0..100).for_each(|number| one_by_one.open(account(number, 1)).unwrap());
        let mut together = one_by_one.clone();
        let changed: Vec<Account> = (50..150).map(|number| account(number, 2)).collect();
        let absent: Vec<Account> = (100..150).map(|number| account(number, 2)).collect();
        assert_eq!(together.replace_all(changed.clone()), absent);
        assert!(changed.into_iter().take(50).all(|account| one_by_one.replace(account)));
        assert_eq!(together.commit(), one_by_one.commit());
    }

    #[test]
    fn incremental_commits_give_the_root_of_a_fresh_build() {
        let mut state = State::new(5);
        for number in 0..60 {
            state.open(account(number, 1)).unwrap();
            state.commit();
        }
        assert!(state.replace(account(7, 70)));
        let mut fresh = State::new(5);
        for number in 0..60 {
            fresh.open(account(number, if number == 7 { 70 } else { 1 })).unwrap();
        }
        assert_eq!(state.commit(), fresh.commit());
    }

    #[test]
    fn marks_begin_anew_before_they_run_out_and_no_account_keeps_an_old_one() {
        let mut state = State::new(4);
        (0..20).for_each(|number| state.open(account(number, 1)).unwrap());
        let place = state.find(&AccountId([3; 32])).unwrap();
        state.next_mark = u32::MAX / 2;
        assert_eq!(state.begin_run(), u32::MAX / 2);
        state.mark(place);
        let kept = state.at(place).clone();
        assert_eq!(state.begin_run(), 1);
        assert!(state.accounts().all(|account| account.mark == 0));
        // What an undo record kept from before must not pass for an account of this run.
        assert!(state.replace(kept));
        assert_eq!(state.at(place).mark, 0);
    }

    #[test]
    fn the_root_binds_every_content_and_the_count() {
        let mut state = State::new(4);
        let empty = state.commit();
        state.open(account(1, 5)).unwrap();
        let one = state.commit();
        assert!(state.replace(account(1, 6)));
        let changed = state.commit();
        assert!(empty != one && one != changed);
    }

    #[test]
    fn an_account_opens_once_and_a_full_bucket_says_so() {
        let mut state = State::new(4);
        state.open(account(1, 5)).unwrap();
        assert_eq!(state.open(account(1, 5)), Err(OpenError::Exists));
        let mut refused = 0;
        for number in 0u32..6_000 {
            let mut id = [9; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            match state.open(Account::new(AccountId(id))) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error, OpenError::BucketFull);
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
        assert_eq!(state.len() + refused, 6_001);
    }
}
