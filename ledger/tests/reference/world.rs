//! A small world in which everything happens often: few accounts, few tokens, short steps, and drafts of payments that
//! are drawn towards the edges of every rule.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use zeni_ledger::genesis::{Rules, Token};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::window::Window;
use zeni_ledger::{
    Account, AccountId, Amount, Balance, Batch, GenesisId, Payment, Sequence, SignatureBytes, State, TokenId,
    ValidatorIndex, VerifiedBatch,
};

use crate::model::{Id, Model};

pub(crate) const GENESIS: GenesisId = GenesisId([7; 32]);
pub(crate) const DEPTH: u32 = 4;
const NETWORK: u32 = 99;
const VALIDITY_MAX_S: u32 = 600;
const START_MS: u64 = 1_700_000_000_000;
const INTERVAL_MS: u64 = 1_500;

/// Ordinary accounts; then come the special ones.
const ORDINARY: u8 = 6;
const ISSUER: u8 = 6;
const OTHER_ISSUER: u8 = 7;
/// Holds as many tokens as an account can (in a crowded world), all issued by `MINT`.
const COLLECTOR: u8 = 8;
const MINT: u8 = 9;
/// Has used nearly all sequences there are.
const VETERAN: u8 = 10;
pub(crate) const ACCOUNTS: u8 = 11;
const UNKNOWN: u8 = 11;

/// Tokens in common use; 4 is issued by `MINT`, who holds 1,024 others.
const TOKENS: u32 = 4;
const COLLECTED_FIRST: u32 = 100;

pub(crate) fn id(number: u8) -> Id {
    [number.wrapping_mul(37).wrapping_add(1); 32]
}

/// The first state, as the model sees it. A crowded one has accounts that hold as many tokens as they can, which is
/// slow to compare.
pub(crate) fn model(crowded: bool) -> Model {
    let mut issuers: BTreeMap<u32, Id> = (1..TOKENS).map(|token| (token, id(ISSUER))).collect();
    issuers.insert(3, id(OTHER_ISSUER));
    issuers.insert(TOKENS, id(MINT));
    let mut balances = BTreeMap::new();
    for number in 0..ORDINARY {
        for token in 1..TOKENS {
            let balance = i128::from(number) * 90 * i128::from(token);
            balances.insert((id(number), token), balance);
            *balances.entry((issuers[&token], token)).or_insert(0) -= balance;
        }
    }
    balances.insert((id(VETERAN), 1), 1_000);
    *balances.get_mut(&(id(ISSUER), 1)).unwrap() -= 1_000;
    let collected = if crowded { 1_024 } else { 1 };
    for token in COLLECTED_FIRST..COLLECTED_FIRST + collected {
        issuers.insert(token, id(MINT));
        balances.insert((id(COLLECTOR), token), 5);
        balances.insert((id(MINT), token), -5);
    }
    let mut accounts: BTreeMap<Id, u64> = (0..ACCOUNTS).map(|number| (id(number), 0)).collect();
    accounts.insert(id(VETERAN), u64::MAX - 3);
    Model { network: NETWORK, validity_max_s: VALIDITY_MAX_S, issuers, accounts, balances, used: BTreeSet::new() }
}

/// The model's rules as the ledger knows them.
pub(crate) fn rules(model: &Model) -> Rules {
    let token = |issuer: &Id| Token { symbol: "T".into(), decimals: 2, issuer: AccountId(*issuer) };
    let tokens = model.issuers.iter().map(|(number, issuer)| (TokenId(*number), token(issuer))).collect();
    Rules { network: model.network, validity_max_s: model.validity_max_s, tokens }
}

/// A ledger state built anew from what the model says.
pub(crate) fn fresh_state(model: &Model) -> State {
    let mut state = State::new(DEPTH);
    for id in model.accounts.keys() {
        let next = u64::try_from(model.next(*id)).expect("a lowest unused sequence is always left");
        let used = (0..128).filter(|bit| next.checked_add(*bit).is_some_and(|at| model.used.contains(&(*id, at))));
        let bits = used.fold(0u128, |bits, bit| bits | 1 << bit);
        let mut account = Account::new(AccountId(*id));
        *account.window_mut() = Window::from_parts(Sequence(next), bits).expect("the lowest one is unused");
        for (token, balance) in model.holdings(*id) {
            assert!(account.set_balance(TokenId(token), Balance::new(balance)));
        }
        state.open(account).unwrap();
    }
    state.commit();
    state
}

pub(crate) fn slot_time_ms(slot: u64) -> u64 {
    START_MS + slot * INTERVAL_MS
}

/// A payment before it is known where its payer stands.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    network: u32,
    until: Until,
    from: u8,
    to: u8,
    sequence: Place,
    amount: Quantity,
    token: u32,
    flags: u32,
}

#[derive(Debug, Clone, Copy)]
enum Until {
    /// Seconds after the slot's whole second.
    FromSlot(i64),
    FromLimit(i64),
    Absolute(u32),
}

#[derive(Debug, Clone, Copy)]
enum Place {
    FromNext(i64),
    Absolute(u64),
}

#[derive(Debug, Clone, Copy)]
enum Quantity {
    Units(u64),
    /// The payer's balance, and this much more or less.
    Balance(i64),
}

/// What happens to the ledger.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A block of these batches, some slots later.
    Block { slots: u64, batches: Vec<Vec<Draft>> },
    /// The last blocks are taken back; what comes next is another chain.
    Undo(usize),
    /// The last blocks are taken back and executed again.
    Replay(usize),
}

fn draft() -> impl Strategy<Value = Draft> {
    let until = prop_oneof![
        20 => (1i64..500).prop_map(Until::FromSlot),
        2 => (-2i64..3).prop_map(Until::FromSlot),
        2 => (-2i64..3).prop_map(Until::FromLimit),
        1 => prop_oneof![Just(0), Just(u32::MAX), any::<u32>()].prop_map(Until::Absolute),
    ];
    let sequence = prop_oneof![
        20 => (0i64..6).prop_map(Place::FromNext),
        2 => (-3i64..0).prop_map(Place::FromNext),
        3 => (6i64..128).prop_map(Place::FromNext),
        2 => (126i64..131).prop_map(Place::FromNext),
        1 => prop_oneof![Just(0), Just(u64::MAX), any::<u64>()].prop_map(Place::Absolute),
    ];
    let amount = prop_oneof![
        10 => (0u64..60).prop_map(Quantity::Units),
        3 => (-1i64..2).prop_map(Quantity::Balance),
        1 => prop_oneof![Just(0), Just(u64::MAX), any::<u64>()].prop_map(Quantity::Units),
    ];
    let who = || prop_oneof![20 => 0..=ISSUER, 10 => 0..ACCOUNTS, 1 => Just(UNKNOWN)];
    let token =
        prop_oneof![20 => 1..TOKENS, 3 => Just(TOKENS), 2 => COLLECTED_FIRST..COLLECTED_FIRST + 2, 1 => Just(77)];
    let flags = prop_oneof![20 => Just(0), 1 => Just(1), 1 => any::<u32>()];
    let network = prop_oneof![20 => Just(NETWORK), 1 => any::<u32>()];
    (network, until, who(), who(), sequence, amount, token, flags).prop_map(
        |(network, until, from, to, sequence, amount, token, flags)| Draft {
            network,
            until,
            from,
            to,
            sequence,
            amount,
            token,
            flags,
        },
    )
}

/// Whether the world is crowded, and what happens in it.
pub(crate) fn story() -> impl Strategy<Value = (bool, Vec<Step>)> {
    (prop::bool::weighted(0.15), steps())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let batches = prop::collection::vec(prop::collection::vec(draft(), 0..14), 0..4);
    let step = prop_oneof![
        8 => (1u64..4, batches).prop_map(|(slots, batches)| Step::Block { slots, batches }),
        1 => (0usize..4).prop_map(Step::Undo),
        1 => (0usize..4).prop_map(Step::Replay),
    ];
    prop::collection::vec(step, 1..12)
}

impl Draft {
    /// The payment, as its payer would write it who sees `model` at the block's slot.
    pub(crate) fn payment(&self, model: &Model, slot: u64, reference: u32) -> Payment {
        let (from, seconds) = (id(self.from), (slot_time_ms(slot) / 1_000) as i64);
        let valid_until = match self.until {
            Until::FromSlot(offset) => (seconds + offset) as u32,
            Until::FromLimit(offset) => (seconds + i64::from(VALIDITY_MAX_S) + offset) as u32,
            Until::Absolute(second) => second,
        };
        let next = if self.from == UNKNOWN { 0 } else { model.next(from) as u64 };
        let sequence = match self.sequence {
            Place::FromNext(offset) => next.wrapping_add_signed(offset),
            Place::Absolute(sequence) => sequence,
        };
        let amount = match self.amount {
            Quantity::Units(units) => units,
            Quantity::Balance(more) => {
                (model.balance(from, self.token) + i128::from(more)).clamp(0, u64::MAX.into()) as u64
            }
        };
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&reference.to_le_bytes());
        let body = PaymentBody {
            network: self.network,
            valid_until,
            from: AccountId(from),
            to: AccountId(id(self.to)),
            sequence: Sequence(sequence),
            amount: Amount(amount),
            token: TokenId(self.token),
            flags: self.flags,
            reference: bytes,
        };
        body.with_signature(SignatureBytes([0; 64]))
    }
}

/// Execution asks for no signature, so the batch carries none.
pub(crate) fn batch(number: u64, payments: Vec<Payment>) -> VerifiedBatch {
    let signature = SignatureBytes([0; 64]);
    VerifiedBatch::vouch(Batch { author: ValidatorIndex(0), number, payments, signature }, &GENESIS)
}
