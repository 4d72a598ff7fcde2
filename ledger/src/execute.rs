//! Block execution: the one function that changes a ledger.
//!
//! Serial and deterministic. A payment of a block is *skipped* (no receipt, no change) if this ledger may not execute
//! it now: another network, expired or too far ahead at the block's slot time, no paying account, or a sequence that
//! is used or outside the window. Otherwise its sequence is used and it leaves a receipt, applied or rejected. Nothing
//! that a payment holds can make a block invalid.

use std::collections::BTreeMap;

use crate::account::Account;
use crate::amount::{Amount, Balance, TokenId};
use crate::batch::VerifiedBatch;
use crate::genesis::Rules;
use crate::hash::{ReceiptsRoot, StateRoot};
use crate::identity::AccountId;
use crate::merkle::Frontier;
use crate::payment::{KNOWN_FLAGS, Payment};
use crate::receipt::{Outcome, Receipt, Rejection};
use crate::state::{BucketHasher, Place, State};
use crate::undo::Undo;

/// What executing a block gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    pub state_root: StateRoot,
    pub receipts_root: ReceiptsRoot,
    /// Of every payment that used a sequence, in order.
    pub receipts: Vec<Receipt>,
    pub applied: u64,
    pub rejected: u64,
    pub skipped: u64,
    pub undo: Undo,
}

/// Executes the payments of `batches` in order, as a block at `slot_time_ms` (Unix milliseconds).
///
/// # Panics
/// If a token's sum changed: money was made or lost, and nothing may be built on that.
pub fn execute(state: &mut State, rules: &Rules, slot_time_ms: u64, batches: &[VerifiedBatch]) -> Executed {
    let mut execution = Execution::begin(state, slot_time_ms);
    batches.iter().for_each(|batch| execution.batch(state, rules, batch));
    execution.finish(state)
}

/// Takes back the last block that was executed on `state` and returns the root before it.
///
/// # Panics
/// If the record names an account that does not exist: it belongs to another state.
pub fn undo(state: &mut State, undo: &Undo) -> StateRoot {
    for account in &undo.accounts {
        assert!(state.replace(account.clone()), "undo names the unknown account {}", account.id());
    }
    state.commit()
}

/// Whether a payment may be executed in a block at `slot_time_ms`, by its own validity alone.
pub fn validity(payment: &Payment, rules: &Rules, slot_time_ms: u64) -> Validity {
    let until_ms = u64::from(payment.valid_until()) * 1_000;
    if until_ms < slot_time_ms {
        Validity::Expired
    } else if until_ms > slot_time_ms.saturating_add(u64::from(rules.validity_max_s) * 1_000) {
        Validity::TooFar
    } else {
        Validity::Valid
    }
}

/// How a payment's `valid_until` stands to a slot time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Valid,
    Expired,
    TooFar,
}

/// A block's execution, which may go on over many calls. The accounts that it changes stand beside the state, which changes
/// only when the execution is finished; dropping it takes nothing back.
///
/// A state has one at a time: beginning another ends it, and so does changing the state.
#[derive(Debug)]
pub struct Execution {
    slot_time_ms: u64,
    /// The mark of the first account in `accounts`; the others' follow.
    first_mark: u32,
    /// Accounts that were touched, as they are now.
    accounts: Vec<Account>,
    places: Vec<Place>,
    /// Which of them changed since their bucket was hashed, and those once more, each once.
    is_stale: Vec<bool>,
    stale: Vec<u32>,
    /// Buckets and their hashes; the last of a bucket counts.
    buckets: Vec<(u32, [u8; 32])>,
    hasher: BucketHasher,
    receipts: Vec<Receipt>,
    receipts_tree: Frontier,
    applied: u64,
    batches: u32,
    payments: u64,
}

impl Execution {
    /// Begins to execute a block at `slot_time_ms` (Unix milliseconds) on `state`.
    pub fn begin(state: &mut State, slot_time_ms: u64) -> Self {
        Self {
            slot_time_ms,
            first_mark: state.begin_run(),
            accounts: Vec::new(),
            places: Vec::new(),
            is_stale: Vec::new(),
            stale: Vec::new(),
            buckets: Vec::new(),
            hasher: BucketHasher::default(),
            receipts: Vec::new(),
            receipts_tree: Frontier::default(),
            applied: 0,
            batches: 0,
            payments: 0,
        }
    }

    /// Executes the block's next batch.
    ///
    /// # Panics
    /// If the state changed since the execution began.
    pub fn batch(&mut self, state: &mut State, rules: &Rules, batch: &VerifiedBatch) {
        state.assert_running(self.first_mark);
        let payers = state.find_all(batch.payments().iter().map(Payment::from));
        let receivers = receivers(state, batch.payments());
        for (position, (payment, id)) in batch.payments().iter().zip(batch.ids()).enumerate() {
            if let Some(outcome) = self.payment(state, rules, payment, (payers[position], receivers[position])) {
                let receipt = Receipt { batch: self.batches, position: position as u16, id: *id, outcome };
                self.receipts_tree.push(receipt.leaf_hash());
                self.receipts.push(receipt);
                self.applied += u64::from(outcome == Outcome::Applied);
            }
        }
        self.hash_stale(state);
        self.batches += 1;
        self.payments += batch.payments().len() as u64;
    }

    /// Ends the block: the state becomes what its payments made of it.
    ///
    /// # Panics
    /// If the state changed since the execution began, or a token's sum changed.
    pub fn finish(mut self, state: &mut State) -> Executed {
        state.assert_running(self.first_mark);
        self.assert_conservation(state);
        for (place, account) in self.places.iter().zip(&mut self.accounts) {
            std::mem::swap(state.at_mut(*place), account);
        }
        let used = self.receipts.len() as u64;
        Executed {
            state_root: state.commit_hashed(&self.buckets),
            receipts_root: ReceiptsRoot(self.receipts_tree.root()),
            receipts: self.receipts,
            applied: self.applied,
            rejected: used - self.applied,
            skipped: self.payments - used,
            undo: Undo { accounts: self.accounts },
        }
    }

    /// `None` if the payment is skipped.
    fn payment(
        &mut self,
        state: &mut State,
        rules: &Rules,
        payment: &Payment,
        (from, to): (Option<Place>, Option<Place>),
    ) -> Option<Outcome> {
        if payment.network() != rules.network || validity(payment, rules, self.slot_time_ms) != Validity::Valid {
            return None;
        }
        let from = from?;
        self.account(state, from).window().check(payment.sequence()).ok()?;
        let payer = self.touch(state, from);
        self.accounts[payer].window_mut().use_up(payment.sequence()).ok()?;
        Some(match self.transfer(state, rules, payer, payment, to) {
            Ok(()) => Outcome::Applied,
            Err(rejection) => Outcome::Rejected(rejection),
        })
    }

    /// Checks first; then writes both sides or neither.
    fn transfer(
        &mut self,
        state: &mut State,
        rules: &Rules,
        payer: usize,
        payment: &Payment,
        to: Option<Place>,
    ) -> Result<(), Rejection> {
        let (token, amount) = (payment.token(), payment.amount());
        let issuer = *check_fields(payment, rules)?;
        let to = to.ok_or(Rejection::UnknownReceiver)?;
        let before = self.accounts[payer].balance(token);
        let paid = debit(before, amount, payment.from() == issuer)?;
        let received = self.account(state, to).balance(token).checked_add(amount).ok_or(Rejection::HoldingsFull)?;
        let receiver = self.touch(state, to);
        if !self.accounts[payer].set_balance(token, paid) {
            return Err(Rejection::HoldingsFull);
        }
        if !self.accounts[receiver].set_balance(token, received) {
            assert!(self.accounts[payer].set_balance(token, before), "the payer's holding goes back to its place");
            return Err(Rejection::HoldingsFull);
        }
        Ok(())
    }

    /// Where an account that this execution touched stands in its list.
    fn touched(&self, state: &State, place: Place) -> Option<usize> {
        state.at(place).mark.checked_sub(self.first_mark).map(|index| index as usize)
    }

    /// An account as it is now.
    fn account<'a>(&'a self, state: &'a State, place: Place) -> &'a Account {
        self.touched(state, place).map_or_else(|| state.at(place), |index| &self.accounts[index])
    }

    /// Takes an account that is about to change into the list, once. Returns where it stands there.
    fn touch(&mut self, state: &mut State, place: Place) -> usize {
        let index = self.touched(state, place).unwrap_or_else(|| {
            self.accounts.push(state.at(place).clone());
            self.places.push(place);
            self.is_stale.push(false);
            state.mark(place);
            self.accounts.len() - 1
        });
        if !std::mem::replace(&mut self.is_stale[index], true) {
            self.stale.push(index as u32);
        }
        index
    }

    /// Hashes the buckets of what changed since the last time.
    fn hash_stale(&mut self, state: &State) {
        let mut hasher = std::mem::take(&mut self.hasher);
        for index in std::mem::take(&mut self.stale) {
            let index = index as usize;
            // A neighbour in the bucket was hashed with it.
            if !std::mem::replace(&mut self.is_stale[index], false) {
                continue;
            }
            let bucket = self.places[index].bucket;
            let places = state.places(bucket);
            for place in places.clone() {
                if let Some(neighbour) = self.touched(state, place) {
                    self.is_stale[neighbour] = false;
                }
            }
            let accounts = places.map(|place| self.account(state, place));
            self.buckets.push((bucket, hasher.hash(accounts)));
        }
        self.hasher = hasher;
    }

    /// Every token's sum over the touched accounts is what it was before: counted anew, not taken from the transfers.
    fn assert_conservation(&self, state: &State) {
        let mut deltas: BTreeMap<TokenId, i128> = BTreeMap::new();
        for (place, after) in self.places.iter().zip(&self.accounts) {
            for (token, balance) in after.holdings() {
                *deltas.entry(token).or_default() += balance.units();
            }
            for (token, balance) in state.at(*place).holdings() {
                *deltas.entry(token).or_default() -= balance.units();
            }
        }
        let broken: Vec<_> = deltas.iter().filter(|(_, delta)| **delta != 0).collect();
        assert!(broken.is_empty(), "conservation: token sums changed by {broken:?}");
    }
}

/// Where each payment's receiver stands. One that is paid many times in a row is looked up once.
fn receivers(state: &State, payments: &[Payment]) -> Vec<Option<Place>> {
    let runs: Vec<&[Payment]> = payments.chunk_by(|one, next| one.to() == next.to()).collect();
    let places = state.find_all(runs.iter().map(|run| run[0].to()));
    runs.iter().zip(places).flat_map(|(run, place)| std::iter::repeat_n(place, run.len())).collect()
}

/// The checks that need no account but the token's issuer, whom it returns.
fn check_fields<'r>(payment: &Payment, rules: &'r Rules) -> Result<&'r AccountId, Rejection> {
    if payment.flags() & !KNOWN_FLAGS != 0 {
        return Err(Rejection::UnknownFlags);
    }
    if payment.amount() == Amount(0) {
        return Err(Rejection::ZeroAmount);
    }
    if payment.from() == payment.to() {
        return Err(Rejection::ToSelf);
    }
    rules.tokens.get(&payment.token()).map(|token| &token.issuer).ok_or(Rejection::UnknownToken)
}

/// The payer's balance after paying. An issuer mints by paying: its own balance may go negative.
fn debit(balance: Balance, amount: Amount, issues: bool) -> Result<Balance, Rejection> {
    let paid = balance.checked_sub(amount).ok_or(Rejection::InsufficientBalance)?;
    if paid.is_negative() && !issues { Err(Rejection::InsufficientBalance) } else { Ok(paid) }
}
