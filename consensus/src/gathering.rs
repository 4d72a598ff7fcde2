//! What the next checkpoint needs, gathered a bounded piece at a time while the chain goes on.
//!
//! A gathering begins with a final block as its goal. Of every account that the blocks up to there changed it takes the
//! value at the goal: the present one, or, if a later block touched the account, the one in the first such block's undo
//! record.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use zeni_ledger::{Account, AccountId, BlockId, FinalBlock, State, TokenId, Undo};

use crate::archive::CheckpointDelta;

/// Accounts whose tokens one piece of work adds up for each that it gathers: reading them in a row is so much cheaper.
const SUMMED_PER_GATHERED: u64 = 16;
/// Accounts that are gathered before those that stand there several times are first taken out.
const GATHERED_BEFORE_MERGING: usize = 65_536;

/// A checkpoint that is being gathered.
#[derive(Debug)]
pub(crate) struct Gathering {
    from: BlockId,
    goal: FinalBlock,
    /// Blocks whose accounts are still to be taken, and how many of the last one's were.
    blocks: Vec<BlockId>,
    taken: usize,
    /// The undo record of the last one, once it was read.
    record: Option<Arc<Undo>>,
    /// Accounts that blocks above the goal touched, as they were at the goal.
    at_goal: HashMap<AccountId, Account>,
    /// Those that several blocks touched stand here several times, alike, until they are merged.
    accounts: Vec<Account>,
    sums: Sums,
}

impl Gathering {
    /// `blocks` lie between `from` and `goal`. With `sums`, all tokens are added up, too.
    pub(crate) fn new(from: BlockId, goal: FinalBlock, blocks: Vec<BlockId>, sums: bool) -> Self {
        Self {
            from,
            goal,
            blocks,
            taken: 0,
            record: None,
            at_goal: HashMap::new(),
            accounts: Vec::new(),
            sums: if sums { Sums::Under { sums: BTreeMap::new(), next_bucket: 0 } } else { Sums::Done },
        }
    }

    /// A block above the goal was executed, and this is its undo record. The lowest such block must be told first. The state
    /// is the one behind it.
    pub(crate) fn executed(&mut self, record: &Undo, state: &State) {
        for account in &record.accounts {
            self.at_goal.entry(account.id()).or_insert_with(|| account.clone());
        }
        self.sums.changed(record, state, 1);
    }

    /// A block above the goal is taken back; the state is still the one behind it. What its record told of the goal stays
    /// true.
    pub(crate) fn taken_back(&mut self, record: &Undo, state: &State) {
        self.sums.changed(record, state, -1);
    }

    /// The block whose undo record [`Self::take`] needs.
    pub(crate) fn needs(&self) -> Option<BlockId> {
        self.blocks.last().copied().filter(|_| self.record.is_none())
    }

    /// Takes the undo record of the block that [`Self::needs`] named.
    pub(crate) fn give(&mut self, record: Arc<Undo>) {
        self.record = Some(record);
    }

    /// Takes up to `most` accounts of one block. Returns what that cost, in accounts; `None` if all blocks were taken.
    pub(crate) fn take(&mut self, most: u64, state: &State) -> Option<u64> {
        let record = self.record.clone()?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let end = record.accounts.len().min(self.taken.saturating_add(most));
        let part = &record.accounts[self.taken..end];
        let places = state.find_all(part.iter().map(Account::id));
        for (account, place) in part.iter().zip(places) {
            let now = place.map(|place| state.at(place));
            self.accounts.extend(self.at_goal.get(&account.id()).or(now).cloned());
        }
        self.merge_if_many(state);
        let looked_at = part.len();
        self.taken += looked_at;
        if self.taken >= record.accounts.len() {
            self.blocks.pop();
            (self.taken, self.record) = (0, None);
        }
        Some(looked_at as u64 + 1)
    }

    /// Keeps memory within twice the accounts that there are, however many blocks lie behind the last checkpoint.
    fn merge_if_many(&mut self, state: &State) {
        let accounts = usize::try_from(state.len()).unwrap_or(usize::MAX);
        if self.accounts.len() >= GATHERED_BEFORE_MERGING.max(accounts.saturating_mul(2)) {
            self.accounts.sort_unstable_by_key(Account::id);
            self.accounts.dedup_by_key(|account| account.id());
        }
    }

    /// Adds up tokens, as far as the budget of `most` gathered accounts goes. True once it is done.
    ///
    /// # Panics
    /// If a token's sum is not zero.
    pub(crate) fn sum(&mut self, most: u64, state: &State) -> bool {
        self.sums.go_on(most.saturating_mul(SUMMED_PER_GATHERED), state)
    }

    pub(crate) fn goal(&self) -> FinalBlock {
        self.goal
    }

    pub(crate) fn finish(self) -> CheckpointDelta {
        let Self { from, goal, accounts, .. } = self;
        CheckpointDelta { from, to: goal.id, height: goal.height, accounts }
    }
}

/// The sums of all tokens at the state, whatever that becomes meanwhile.
#[derive(Debug)]
enum Sums {
    /// What the accounts in the buckets below the next one hold.
    Under {
        sums: BTreeMap<TokenId, i128>,
        next_bucket: u64,
    },
    Done,
}

impl Sums {
    /// The accounts of an undo record are added as they are now and subtracted as they were before, `sign` times, as far as
    /// their buckets were added up.
    fn changed(&mut self, record: &Undo, state: &State, sign: i128) {
        let Self::Under { sums, next_bucket: next_bucket @ 1.. } = self else { return };
        let mut add = |account: &Account, sign: i128| {
            for (token, balance) in account.holdings() {
                let sum = sums.entry(token).or_insert(0);
                *sum = sum.checked_add(sign * balance.units()).expect("2^64 accounts of 2^63 units fit an i128");
            }
        };
        let places = state.find_all(record.accounts.iter().map(Account::id));
        for (before, place) in record.accounts.iter().zip(places) {
            let Some(place) = place.filter(|place| place.bucket() < *next_bucket) else { continue };
            add(state.at(place), sign);
            add(before, -sign);
        }
    }

    fn go_on(&mut self, most: u64, state: &State) -> bool {
        let Self::Under { sums, next_bucket } = self else { return true };
        let buckets = state.buckets();
        let part: Range<u64> = *next_bucket..next_bucket.saturating_add(most.max(1)).min(buckets);
        *next_bucket = part.end;
        state.add_token_sums(part, sums);
        if *next_bucket < buckets {
            return false;
        }
        assert!(sums.values().all(|sum| *sum == 0), "conservation: token sums are {sums:?}");
        *self = Self::Done;
        true
    }
}

#[cfg(test)]
mod tests {
    use zeni_ledger::Balance;

    use super::*;

    #[test]
    fn what_is_gathered_of_many_blocks_that_touch_the_same_accounts_stays_in_bounds() {
        let mut state = State::new(4);
        let accounts: Vec<Account> = (0..100).map(|number| Account::new(AccountId([number; 32]))).collect();
        accounts.iter().for_each(|account| state.open(account.clone()).unwrap());
        let record = Arc::new(Undo { accounts });
        let blocks = (0..2_000).map(|_| BlockId([1; 32])).collect();
        let goal = FinalBlock { id: BlockId([2; 32]), height: 2_000 };
        let mut gathering = Gathering::new(BlockId([0; 32]), goal, blocks, false);
        let mut most = 0;
        while gathering.needs().is_some() {
            gathering.give(Arc::clone(&record));
            gathering.take(u64::MAX, &state);
            most = most.max(gathering.accounts.len());
        }
        assert!((GATHERED_BEFORE_MERGING / 2..GATHERED_BEFORE_MERGING + 100).contains(&most), "{most} of 200,000");
        let mut delta = gathering.finish();
        delta.sort();
        assert_eq!(delta.accounts.len(), 100);
    }

    /// A hundred accounts whose units of token 1 sum to zero.
    fn balanced() -> State {
        let mut state = State::new(4);
        for number in 0..100u8 {
            let mut account = Account::new(AccountId([number; 32]));
            let units = if number < 50 { 1_000 } else { -1_000 };
            assert!(account.set_balance(TokenId(1), Balance::new(units)));
            state.open(account).unwrap();
        }
        state
    }

    /// Moves units between two accounts, and says what they were.
    fn pay(state: &mut State, from: u8, to: u8, units: i128) -> Undo {
        let ids = [AccountId([from; 32]), AccountId([to; 32])];
        let before: Vec<Account> = ids.iter().map(|id| state.account(id).unwrap().clone()).collect();
        for (account, units) in before.iter().zip([-units, units]) {
            let mut account = account.clone();
            let units = account.balance(TokenId(1)).units() + units;
            assert!(account.set_balance(TokenId(1), Balance::new(units)));
            assert!(state.replace(account));
        }
        Undo { accounts: before }
    }

    fn sums() -> Sums {
        Sums::Under { sums: BTreeMap::new(), next_bucket: 0 }
    }

    #[test]
    fn the_sums_are_those_of_the_state_however_it_changes_while_they_are_added_up() {
        let (mut state, mut sums) = (balanced(), sums());
        let mut pieces = 0;
        for round in 0u32.. {
            let [from, to] = [round * 7 % 100, (round * 31 + 1) % 100].map(|number| number as u8);
            let record = pay(&mut state, from, to, 10);
            sums.changed(&record, &state, 1);
            if round % 3 == 0 {
                sums.changed(&record, &state, -1);
                record.accounts.into_iter().for_each(|account| assert!(state.replace(account)));
            }
            pieces += 1;
            if sums.go_on(1, &state) {
                break;
            }
        }
        assert_eq!(pieces, 16, "one pass over the buckets");
    }

    #[test]
    #[should_panic(expected = "conservation")]
    fn units_that_come_from_nowhere_are_found() {
        let (mut state, mut sums) = (balanced(), sums());
        assert!(!sums.go_on(8, &state));
        let record = pay(&mut state, 3, 60, 10);
        sums.changed(&record, &state, 1);
        let mut account = state.account(&AccountId([7; 32])).unwrap().clone();
        let before = Undo { accounts: vec![account.clone()] };
        assert!(account.set_balance(TokenId(1), Balance::new(5)));
        assert!(state.replace(account));
        sums.changed(&before, &state, 1);
        sums.go_on(8, &state);
    }
}
