//! Where the sequence windows of accounts begin at the last final block.
//!
//! A payment is taken only if it lies in its payer's window *there*: every branch that can still be chosen holds that
//! block, and windows only move up along a branch, so no branch will ever find the payment beyond its window
//! (decision 0006).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use zeni_ledger::{Account, AccountId, Undo};

/// The windows' beginnings at the last final block, as far as they may differ from those at the canonical head. They are
/// gathered from the undo records of the blocks between the two, and only when someone asks.
#[derive(Debug, Default)]
pub(crate) struct FinalWindows {
    /// The height of the block that this is about: the last final one, or an earlier one.
    base: u64,
    /// The undo records of the canonical blocks above the base up to this height are gathered.
    gathered: u64,
    /// Of each account that one of these blocks touched: the lowest unused sequence before the first that did, and the
    /// height of that.
    starts: HashMap<AccountId, (u64, u64)>,
}

impl FinalWindows {
    /// Where everything up to a final block at this height is executed.
    pub(crate) fn at(height: u64) -> Self {
        Self { base: height, gathered: height, starts: HashMap::new() }
    }

    /// The next canonical block whose undo record is to be gathered, given the heights of the last final block, if that
    /// is canonical, and of the head. `None` if all are.
    pub(crate) fn next(&mut self, last_final: Option<u64>, head: u64) -> Option<u64> {
        if let Some(height) = last_final.filter(|height| *height > self.base) {
            *self = Self::at(height);
        }
        (self.gathered < head).then_some(self.gathered + 1)
    }

    /// Takes the undo record of the block that [`Self::next`] named.
    pub(crate) fn gather(&mut self, record: &Undo) {
        self.gathered += 1;
        for account in &record.accounts {
            self.starts.entry(account.id()).or_insert((account.next_sequence().0, self.gathered));
        }
    }

    /// The canonical block at `height`, the head, is taken back.
    pub(crate) fn retreat(&mut self, height: u64, record: &Undo) {
        if self.gathered < height {
            return;
        }
        self.gathered = height - 1;
        self.base = self.base.min(self.gathered);
        for account in &record.accounts {
            if let Entry::Occupied(start) = self.starts.entry(account.id())
                && start.get().1 == height
            {
                start.remove();
            }
        }
    }

    /// The lowest sequence that was unused at the last final block, given the account at the head, at `head`. It may be
    /// told too low, never too high; `None` while undo records are still to be gathered.
    pub(crate) fn start(&self, account: &Account, head: u64) -> Option<u64> {
        let at_head = account.next_sequence().0;
        let start = || self.starts.get(&account.id()).map_or(at_head, |(start, _)| *start);
        (self.gathered == head).then(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zeni_ledger::Sequence;

    const ACCOUNTS: u8 = 4;

    fn account(number: u8, next: u64) -> Account {
        let mut account = Account::new(AccountId([number; 32]));
        (0..next).for_each(|sequence| account.window_mut().use_up(Sequence(sequence)).unwrap());
        account
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A block in which these accounts use so many sequences (none: it only touches them).
        Block(Vec<(u8, u64)>),
        Retreat,
        /// The last final block moves this far towards the head.
        Final(u64),
        Ask,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => prop::collection::vec((0..ACCOUNTS, 0u64..3), 0..4).prop_map(Step::Block),
            2 => Just(Step::Retreat),
            1 => (1u64..3).prop_map(Step::Final),
            3 => Just(Step::Ask),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Against the obvious model: every state of the chain is kept.
        #[test]
        fn tells_what_the_state_at_the_last_final_block_says(steps in steps()) {
            let mut states = vec![[0u64; ACCOUNTS as usize]];
            let mut records: Vec<Undo> = Vec::new();
            let (mut windows, mut last_final) = (FinalWindows::default(), 0u64);
            for step in steps {
                let head = records.len() as u64;
                match step {
                    Step::Block(uses) => {
                        let before = *states.last().unwrap();
                        let mut after = before;
                        uses.iter().for_each(|(number, count)| after[*number as usize] += count);
                        let mut touched: Vec<u8> = uses.iter().map(|(number, _)| *number).collect();
                        touched.sort_unstable();
                        touched.dedup();
                        let accounts = touched.iter().map(|number| account(*number, before[*number as usize]));
                        records.push(Undo { accounts: accounts.collect() });
                        states.push(after);
                    }
                    Step::Retreat if head > last_final => {
                        windows.retreat(head, &records.pop().unwrap());
                        states.pop();
                    }
                    Step::Retreat => {}
                    Step::Final(by) => last_final = head.min(last_final + by),
                    Step::Ask => {
                        while let Some(height) = windows.next(Some(last_final), head) {
                            prop_assert_eq!(windows.start(&account(0, 0), head), None);
                            windows.gather(&records[height as usize - 1]);
                        }
                        for number in 0..ACCOUNTS {
                            let at_head = account(number, states[head as usize][number as usize]);
                            let expected = states[last_final as usize][number as usize];
                            prop_assert_eq!(windows.start(&at_head, head), Some(expected));
                        }
                    }
                }
            }
        }
    }
}
