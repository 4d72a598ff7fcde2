//! The ledger's rules once more, as slow and plain as possible: maps, sets and i128, nothing cached, nothing packed.
//!
//! Written from the rules in the design, not from the code that it judges, and it shares none with it.

use std::collections::{BTreeMap, BTreeSet};

use zeni_ledger::Payment;

pub(crate) type Id = [u8; 32];

/// How far above the lowest unused sequence a payer may go.
const WINDOW: u128 = 128;
/// Tokens that an account can hold at once.
const TOKENS_PER_ACCOUNT: usize = 1_024;

/// What becomes of a payment. Reasons have the codes that receipts and metrics use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Applied,
    Rejected(&'static str),
    Skipped(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) network: u32,
    pub(crate) validity_max_s: u32,
    /// Each token's issuer.
    pub(crate) issuers: BTreeMap<u32, Id>,
    /// Each account's first sequence: 0, but for one that has nearly used up all there are.
    pub(crate) accounts: BTreeMap<Id, u64>,
    /// Who holds how much of what; no entry means nothing.
    pub(crate) balances: BTreeMap<(Id, u32), i128>,
    /// Every sequence that was ever used.
    pub(crate) used: BTreeSet<(Id, u64)>,
}

impl Model {
    pub(crate) fn balance(&self, id: Id, token: u32) -> i128 {
        self.balances.get(&(id, token)).copied().unwrap_or(0)
    }

    /// Tokens of which the account's balance is not zero.
    pub(crate) fn holdings(&self, id: Id) -> Vec<(u32, i128)> {
        let of_account = self.balances.range((id, 0)..=(id, u32::MAX));
        of_account.filter(|(_, balance)| **balance != 0).map(|((_, token), balance)| (*token, *balance)).collect()
    }

    /// The lowest unused sequence. Wide, because behind the last one there is none.
    pub(crate) fn next(&self, id: Id) -> u128 {
        let mut candidate = u128::from(self.accounts[&id]);
        while u64::try_from(candidate).is_ok_and(|sequence| self.used.contains(&(id, sequence))) {
            candidate += 1;
        }
        candidate
    }

    /// A payment in a block at `slot_time_ms`.
    pub(crate) fn pay(&mut self, payment: &Payment, slot_time_ms: u64) -> Verdict {
        let body = payment.body();
        let (from, to, token, amount) = (body.from.0, body.to.0, body.token.0, i128::from(body.amount.0));
        let until_ms = u128::from(body.valid_until) * 1_000;
        if body.network != self.network {
            return Verdict::Skipped("network");
        }
        if until_ms < u128::from(slot_time_ms) {
            return Verdict::Skipped("expired");
        }
        if until_ms > u128::from(slot_time_ms) + u128::from(self.validity_max_s) * 1_000 {
            return Verdict::Skipped("too far");
        }
        if !self.accounts.contains_key(&from) {
            return Verdict::Skipped("unknown payer");
        }
        if let Err(reason) = self.use_sequence(from, body.sequence.0) {
            return Verdict::Skipped(reason);
        }
        // From here on the sequence is used, whatever comes.
        if body.flags != 0 {
            return Verdict::Rejected("unknown_flags");
        }
        if amount == 0 {
            return Verdict::Rejected("zero_amount");
        }
        if from == to {
            return Verdict::Rejected("to_self");
        }
        if !self.issuers.contains_key(&token) {
            return Verdict::Rejected("unknown_token");
        }
        if !self.accounts.contains_key(&to) {
            return Verdict::Rejected("unknown_receiver");
        }
        if self.issuers[&token] != from && self.balance(from, token) < amount {
            return Verdict::Rejected("insufficient_balance");
        }
        let before = [from, to].map(|id| (id, self.balance(id, token)));
        self.balances.insert((from, token), self.balance(from, token) - amount);
        self.balances.insert((to, token), self.balance(to, token) + amount);
        if [from, to].iter().any(|id| self.holdings(*id).len() > TOKENS_PER_ACCOUNT) {
            self.balances.extend(before.map(|(id, balance)| ((id, token), balance)));
            return Verdict::Rejected("holdings_full");
        }
        Verdict::Applied
    }

    fn use_sequence(&mut self, id: Id, sequence: u64) -> Result<(), &'static str> {
        let next = self.next(id);
        if sequence < self.accounts[&id] || self.used.contains(&(id, sequence)) {
            return Err("spent");
        }
        if u128::from(sequence) >= next + WINDOW {
            return Err("out of window");
        }
        self.used.insert((id, sequence));
        // There must always be a lowest unused sequence, so the last one left is never used.
        if self.next(id) > u128::from(u64::MAX) {
            self.used.remove(&(id, sequence));
            return Err("out of window");
        }
        Ok(())
    }

    /// The sum over all accounts of each token that anyone ever held.
    pub(crate) fn sums(&self) -> BTreeMap<u32, i128> {
        let mut sums = BTreeMap::new();
        for ((_, token), balance) in &self.balances {
            *sums.entry(*token).or_insert(0) += balance;
        }
        sums
    }
}
