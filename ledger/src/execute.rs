//! Block execution: the one function that changes a ledger.
//!
//! Serial and deterministic. A payment of a block is *skipped* (no receipt, no change) if this ledger may not execute
//! it now: another network, expired or too far ahead at the block's slot time, no paying account, or a sequence that
//! is used or outside the window. Otherwise its sequence is used and it leaves a receipt, applied or rejected. Nothing
//! that a payment holds can make a block invalid.

use std::collections::BTreeMap;

use crate::amount::{Amount, Balance, TokenId};
use crate::batch::VerifiedBatch;
use crate::genesis::Rules;
use crate::hash::{ReceiptsRoot, StateRoot};
use crate::identity::AccountId;
use crate::payment::{KNOWN_FLAGS, Payment};
use crate::receipt::{Outcome, Receipt, Rejection, receipts_root};
use crate::state::{Place, State};
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
    let payments = batches.iter().map(|batch| batch.payments().len()).sum();
    let mut block = Execution::begin(state, rules, slot_time_ms, payments);
    for (number, batch) in batches.iter().enumerate() {
        for (position, (payment, id)) in batch.payments().iter().zip(batch.ids()).enumerate() {
            if let Some(outcome) = block.payment(payment) {
                let receipt = Receipt { batch: number as u32, position: position as u16, id: *id, outcome };
                block.receipts.push(receipt);
            }
        }
    }
    block.finish(payments as u64)
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

struct Execution<'a> {
    state: &'a mut State,
    rules: &'a Rules,
    slot_time_ms: u64,
    receipts: Vec<Receipt>,
    touched: Vec<Place>,
    undo: Undo,
}

impl<'a> Execution<'a> {
    fn begin(state: &'a mut State, rules: &'a Rules, slot_time_ms: u64, payments: usize) -> Self {
        state.epoch = state.epoch.checked_add(1).expect("a process executes fewer than 2^32 blocks");
        Self {
            state,
            rules,
            slot_time_ms,
            receipts: Vec::with_capacity(payments),
            touched: Vec::with_capacity(payments),
            undo: Undo { accounts: Vec::with_capacity(payments) },
        }
    }

    /// `None` if the payment is skipped.
    fn payment(&mut self, payment: &Payment) -> Option<Outcome> {
        if payment.network() != self.rules.network
            || validity(payment, self.rules, self.slot_time_ms) != Validity::Valid
        {
            return None;
        }
        let from = self.state.find(&payment.from())?;
        self.state.at(from).window().check(payment.sequence()).ok()?;
        self.touch(from);
        self.state.at_mut(from).window_mut().use_up(payment.sequence()).ok()?;
        Some(match self.transfer(from, payment) {
            Ok(()) => Outcome::Applied,
            Err(rejection) => Outcome::Rejected(rejection),
        })
    }

    /// Checks first; then writes both sides or neither.
    fn transfer(&mut self, from: Place, payment: &Payment) -> Result<(), Rejection> {
        let (token, amount) = (payment.token(), payment.amount());
        let issuer = *check_fields(payment, self.rules)?;
        let to = self.state.find(&payment.to()).ok_or(Rejection::UnknownReceiver)?;
        let paid = debit(self.state.at(from).balance(token), amount, payment.from() == issuer)?;
        let received = self.state.at(to).balance(token).checked_add(amount).ok_or(Rejection::HoldingsFull)?;
        self.touch(to);
        let before = self.state.at(from).balance(token);
        if !self.state.at_mut(from).set_balance(token, paid) {
            return Err(Rejection::HoldingsFull);
        }
        if !self.state.at_mut(to).set_balance(token, received) {
            assert!(self.state.at_mut(from).set_balance(token, before), "the payer's holding goes back to its place");
            return Err(Rejection::HoldingsFull);
        }
        Ok(())
    }

    /// Keeps the account as it was before this block, once.
    fn touch(&mut self, place: Place) {
        if self.state.at(place).touched != self.state.epoch {
            self.undo.accounts.push(self.state.at(place).clone());
            self.touched.push(place);
            let epoch = self.state.epoch;
            self.state.at_mut(place).touched = epoch;
            self.state.mark(place);
        }
    }

    fn finish(self, payments: u64) -> Executed {
        self.assert_conservation();
        let receipts_root = receipts_root(&self.receipts);
        let applied = self.receipts.iter().filter(|receipt| receipt.outcome == Outcome::Applied).count() as u64;
        let used = self.receipts.len() as u64;
        Executed {
            state_root: self.state.commit(),
            receipts_root,
            receipts: self.receipts,
            applied,
            rejected: used - applied,
            skipped: payments - used,
            undo: self.undo,
        }
    }

    /// Every token's sum over the touched accounts is what it was before: counted anew, not taken from the transfers.
    fn assert_conservation(&self) {
        let mut deltas: BTreeMap<TokenId, i128> = BTreeMap::new();
        for (place, before) in self.touched.iter().zip(&self.undo.accounts) {
            for (token, balance) in self.state.at(*place).holdings() {
                *deltas.entry(token).or_default() += balance.units();
            }
            for (token, balance) in before.holdings() {
                *deltas.entry(token).or_default() -= balance.units();
            }
        }
        let broken: Vec<_> = deltas.iter().filter(|(_, delta)| **delta != 0).collect();
        assert!(broken.is_empty(), "conservation: token sums changed by {broken:?}");
    }
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
