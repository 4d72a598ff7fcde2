//! Execution by its rules, one by one.
#![expect(clippy::unwrap_used, reason = "what a test builds for itself is well-formed")]

use std::collections::BTreeMap;

use zeni_ledger::execute::{Executed, Execution, Validity, execute, undo, validity};
use zeni_ledger::genesis::{Rules, Token};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::receipt::receipts_root;
use zeni_ledger::window::Window;
use zeni_ledger::{
    Account, AccountId, Amount, Balance, Batch, GenesisId, Outcome, Payment, Rejection, Sequence, SignatureBytes,
    State, TokenId, ValidatorIndex, VerifiedBatch,
};

const GENESIS: GenesisId = GenesisId([3; 32]);
const SLOT_MS: u64 = 1_700_000_000_500;
const VALIDITY_MAX_S: u32 = 7_200;
const YEN: TokenId = TokenId(1);
const ALICE: AccountId = AccountId([1; 32]);
const BOB: AccountId = AccountId([2; 32]);
const ISSUER: AccountId = AccountId([9; 32]);
const NOBODY: AccountId = AccountId([7; 32]);

fn rules() -> Rules {
    let token = Token { symbol: "JPY".into(), decimals: 0, issuer: ISSUER };
    let tokens: BTreeMap<TokenId, Token> = (1..=1_100).map(|number| (TokenId(number), token.clone())).collect();
    Rules { network: 1, validity_max_s: VALIDITY_MAX_S, tokens }
}

fn holding(id: AccountId, holdings: impl IntoIterator<Item = (TokenId, i128)>) -> Account {
    let mut account = Account::new(id);
    for (token, units) in holdings {
        assert!(account.set_balance(token, Balance::new(units)));
    }
    account
}

fn state_of(accounts: impl IntoIterator<Item = Account>) -> State {
    let mut state = State::new(4);
    for account in accounts {
        state.open(account).unwrap();
    }
    state.commit();
    state
}

/// Alice has 100 yen, Bob nothing; the issuer owes them.
fn state() -> State {
    state_of([holding(ALICE, [(YEN, 100)]), Account::new(BOB), holding(ISSUER, [(YEN, -100)])])
}

/// A good payment: Alice pays Bob 10 yen with her first sequence.
fn body() -> PaymentBody {
    PaymentBody {
        network: 1,
        valid_until: (SLOT_MS / 1_000) as u32 + 60,
        from: ALICE,
        to: BOB,
        sequence: Sequence(0),
        amount: Amount(10),
        token: YEN,
        flags: 0,
        reference: [0; 16],
    }
}

fn batch(bodies: &[PaymentBody]) -> VerifiedBatch {
    let signature = SignatureBytes([0; 64]);
    let payments: Vec<Payment> = bodies.iter().map(|body| body.with_signature(signature)).collect();
    VerifiedBatch::vouch(Batch { author: ValidatorIndex(0), number: 0, payments, signature }, &GENESIS)
}

fn run(state: &mut State, bodies: &[PaymentBody]) -> Executed {
    execute(state, &rules(), SLOT_MS, &[batch(bodies)])
}

fn units(state: &State, id: AccountId) -> i128 {
    state.account(&id).unwrap().balance(YEN).units()
}

fn next(state: &State, id: AccountId) -> u64 {
    state.account(&id).unwrap().next_sequence().0
}

/// The payment is rejected with a receipt, uses its sequence and moves nothing.
fn assert_rejected_in(mut state: State, body: PaymentBody, rejection: Rejection) {
    let before: Vec<Account> = state.accounts().cloned().collect();
    let executed = run(&mut state, &[body]);
    assert_eq!(executed.receipts.len(), 1);
    assert_eq!(executed.receipts[0].outcome, Outcome::Rejected(rejection));
    assert_eq!((executed.applied, executed.rejected, executed.skipped), (0, 1, 0));
    assert_eq!(next(&state, body.from), 1, "the sequence is used");
    for account in before {
        let after = state.account(&account.id()).unwrap();
        assert!(after.holdings().eq(account.holdings()), "{} holds something else", account.id());
    }
    assert_eq!(run(&mut state, &[body]).skipped, 1, "a rejection is final");
}

fn assert_rejected(body: PaymentBody, rejection: Rejection) {
    assert_rejected_in(state(), body, rejection);
}

/// The payment leaves no trace.
fn assert_skipped(body: PaymentBody) {
    let mut state = state();
    let root = state.root();
    let executed = run(&mut state, &[body]);
    assert_eq!((executed.receipts.len(), executed.skipped), (0, 1));
    assert_eq!((executed.state_root, state.root()), (root, root));
}

#[test]
fn applies_a_payment_and_uses_its_sequence() {
    let mut state = state();
    let executed = run(&mut state, &[body()]);
    assert_eq!((executed.applied, executed.rejected, executed.skipped), (1, 0, 0));
    assert_eq!((units(&state, ALICE), units(&state, BOB), units(&state, ISSUER)), (90, 10, -100));
    assert_eq!((next(&state, ALICE), next(&state, BOB)), (1, 0));
    let receipt = executed.receipts[0];
    assert_eq!((receipt.batch, receipt.position, receipt.outcome), (0, 0, Outcome::Applied));
    assert_eq!(receipt.id, body().with_signature(SignatureBytes([5; 64])).id(&GENESIS));
    assert_eq!(executed.receipts_root, receipts_root(&executed.receipts));
    assert_eq!(executed.state_root, state.root());
}

#[test]
fn pays_out_a_whole_balance() {
    let mut state = state();
    assert_eq!(run(&mut state, &[PaymentBody { amount: Amount(100), ..body() }]).applied, 1);
    assert_eq!((units(&state, ALICE), units(&state, BOB)), (0, 100));
    assert_eq!(state.account(&ALICE).unwrap().holdings().count(), 0);
}

#[test]
fn rejects_insufficient_balance_and_uses_the_sequence() {
    assert_rejected(PaymentBody { amount: Amount(101), ..body() }, Rejection::InsufficientBalance);
    assert_rejected(PaymentBody { amount: Amount(u64::MAX), ..body() }, Rejection::InsufficientBalance);
    assert_rejected(PaymentBody { token: TokenId(2), ..body() }, Rejection::InsufficientBalance);
}

#[test]
fn rejects_a_zero_amount_and_uses_the_sequence() {
    assert_rejected(PaymentBody { amount: Amount(0), ..body() }, Rejection::ZeroAmount);
}

#[test]
fn rejects_a_payment_to_oneself_and_uses_the_sequence() {
    assert_rejected(PaymentBody { to: ALICE, ..body() }, Rejection::ToSelf);
}

#[test]
fn rejects_an_unknown_token_and_uses_the_sequence() {
    assert_rejected(PaymentBody { token: TokenId(0), ..body() }, Rejection::UnknownToken);
}

#[test]
fn rejects_an_unknown_receiver_and_opens_no_account() {
    assert_rejected(PaymentBody { to: NOBODY, ..body() }, Rejection::UnknownReceiver);
}

#[test]
fn rejects_unknown_flag_bits_and_uses_the_sequence() {
    for bit in 0..32 {
        assert_rejected(PaymentBody { flags: 1 << bit, ..body() }, Rejection::UnknownFlags);
    }
}

#[test]
fn rejects_one_token_too_many_for_the_receiver() {
    let full = holding(BOB, (2..=1_025).map(|token| (TokenId(token), 1)));
    let state = state_of([holding(ALICE, [(YEN, 100)]), full, holding(ISSUER, [(YEN, -100)])]);
    assert_rejected_in(state, body(), Rejection::HoldingsFull);
}

#[test]
fn rejects_minting_by_an_issuer_that_holds_as_many_tokens_as_it_can() {
    let full = holding(ISSUER, (2..=1_025).map(|token| (TokenId(token), -1)));
    let mint = PaymentBody { from: ISSUER, ..body() };
    assert_rejected_in(state_of([full, Account::new(BOB)]), mint, Rejection::HoldingsFull);
}

#[test]
fn rejects_a_balance_beyond_the_greatest_number() {
    let rich = holding(BOB, [(YEN, i128::MAX)]);
    let state = state_of([holding(ALICE, [(YEN, 100)]), rich]);
    assert_rejected_in(state, body(), Rejection::HoldingsFull);
    let deep = holding(ISSUER, [(YEN, i128::MIN)]);
    let mint = PaymentBody { from: ISSUER, ..body() };
    assert_rejected_in(state_of([deep, Account::new(BOB)]), mint, Rejection::InsufficientBalance);
}

#[test]
fn the_first_broken_rule_is_the_reason() {
    let everything = PaymentBody { flags: 1, amount: Amount(0), to: ALICE, token: TokenId(0), ..body() };
    assert_rejected(everything, Rejection::UnknownFlags);
    assert_rejected(PaymentBody { flags: 0, ..everything }, Rejection::ZeroAmount);
    assert_rejected(PaymentBody { flags: 0, amount: Amount(1_000), ..everything }, Rejection::ToSelf);
    let unknown = PaymentBody { flags: 0, amount: Amount(1_000), to: NOBODY, ..everything };
    assert_rejected(unknown, Rejection::UnknownToken);
    assert_rejected(PaymentBody { token: YEN, ..unknown }, Rejection::UnknownReceiver);
}

#[test]
fn skips_another_network_without_a_receipt() {
    assert_skipped(PaymentBody { network: 2, ..body() });
}

#[test]
fn skips_an_expired_payment_without_a_receipt() {
    let second = (SLOT_MS / 1_000) as u32;
    assert_skipped(PaymentBody { valid_until: second, ..body() });
    assert_skipped(PaymentBody { valid_until: 0, ..body() });
    let mut state = state();
    assert_eq!(run(&mut state, &[PaymentBody { valid_until: second + 1, ..body() }]).applied, 1);
}

#[test]
fn skips_a_payment_that_is_valid_for_too_long_without_a_receipt() {
    let last = (SLOT_MS / 1_000) as u32 + VALIDITY_MAX_S;
    assert_skipped(PaymentBody { valid_until: last + 1, ..body() });
    assert_skipped(PaymentBody { valid_until: u32::MAX, ..body() });
    let mut state = state();
    assert_eq!(run(&mut state, &[PaymentBody { valid_until: last, ..body() }]).applied, 1);
}

#[test]
fn validity_includes_both_of_its_ends() {
    let at = |valid_until: u32, slot_time_ms: u64| {
        let payment = PaymentBody { valid_until, ..body() }.with_signature(SignatureBytes([0; 64]));
        validity(&payment, &rules(), slot_time_ms)
    };
    assert_eq!(at(1_000, 1_000_000), Validity::Valid);
    assert_eq!(at(1_000, 1_000_001), Validity::Expired);
    assert_eq!(at(1_000 + VALIDITY_MAX_S, 1_000_000), Validity::Valid);
    assert_eq!(at(1_001 + VALIDITY_MAX_S, 1_000_999), Validity::TooFar);
    assert_eq!(at(u32::MAX, u64::MAX), Validity::Expired);
}

#[test]
fn skips_an_unknown_payer_without_a_receipt() {
    assert_skipped(PaymentBody { from: NOBODY, ..body() });
}

#[test]
fn skips_a_spent_sequence_even_of_another_payment() {
    let mut state = state();
    let executed = run(&mut state, &[body(), body(), PaymentBody { amount: Amount(20), ..body() }]);
    assert_eq!((executed.applied, executed.skipped), (1, 2));
    assert_eq!(units(&state, BOB), 10);
}

#[test]
fn skips_a_sequence_beyond_the_window_without_a_receipt() {
    assert_skipped(PaymentBody { sequence: Sequence(128), ..body() });
    assert_skipped(PaymentBody { sequence: Sequence(u64::MAX), ..body() });
    let mut state = state();
    assert_eq!(run(&mut state, &[PaymentBody { sequence: Sequence(127), ..body() }]).applied, 1);
    assert_eq!(next(&state, ALICE), 0);
}

#[test]
fn skips_the_last_sequence_of_all() {
    let mut alice = holding(ALICE, [(YEN, 100)]);
    *alice.window_mut() = Window::from_parts(Sequence(u64::MAX), 0).unwrap();
    let mut state = state_of([alice, Account::new(BOB)]);
    let root = state.root();
    let executed = run(&mut state, &[PaymentBody { sequence: Sequence(u64::MAX), ..body() }]);
    assert_eq!((executed.skipped, executed.receipts.len(), executed.state_root), (1, 0, root));
}

#[test]
fn an_issuer_mints_by_paying_and_others_cannot() {
    let mut state = state();
    let mint = PaymentBody { from: ISSUER, amount: Amount(1_000), ..body() };
    assert_eq!(run(&mut state, &[mint]).applied, 1);
    assert_eq!((units(&state, ISSUER), units(&state, BOB)), (-1_100, 1_000));
    assert!(state.token_sums().values().all(|sum| *sum == 0));
}

#[test]
fn an_issuer_burns_by_being_paid() {
    let mut state = state();
    assert_eq!(run(&mut state, &[PaymentBody { to: ISSUER, amount: Amount(100), ..body() }]).applied, 1);
    assert_eq!(units(&state, ISSUER), 0);
    assert_eq!(state.token_sums(), BTreeMap::new());
}

#[test]
fn money_received_in_a_block_can_be_paid_on_in_the_same_block() {
    let mut state = state();
    let on = PaymentBody { from: BOB, to: ALICE, amount: Amount(10), ..body() };
    let executed = run(&mut state, &[body(), on]);
    assert_eq!((executed.applied, units(&state, ALICE), units(&state, BOB)), (2, 100, 0));
    assert_eq!(executed.undo.accounts.len(), 2, "each account is kept once");
}

#[test]
fn receipts_name_batch_and_position_in_the_order_of_execution() {
    let mut state = state();
    let at = |sequence| PaymentBody { sequence: Sequence(sequence), ..body() };
    let batches = [batch(&[at(0), at(0)]), batch(&[]), batch(&[at(0), at(2), at(1)])];
    let executed = execute(&mut state, &rules(), SLOT_MS, &batches);
    let places: Vec<_> = executed.receipts.iter().map(|receipt| (receipt.batch, receipt.position)).collect();
    assert_eq!(places, vec![(0, 0), (2, 1), (2, 2)]);
    assert_eq!(executed.skipped, 2);
}

#[test]
fn an_empty_block_changes_nothing() {
    let mut state = state();
    let root = state.root();
    let executed = execute(&mut state, &rules(), SLOT_MS, &[]);
    assert_eq!((executed.state_root, executed.undo.accounts.len()), (root, 0));
    assert_eq!(executed.receipts_root, receipts_root(&[]));
}

#[test]
fn undo_restores_the_root_and_the_same_block_gives_the_same_result_again() {
    let mut state = state();
    let before = state.root();
    let rejected = PaymentBody { sequence: Sequence(1), amount: Amount(1_000), ..body() };
    let bodies = [body(), rejected, PaymentBody { from: ISSUER, ..body() }];
    let first = run(&mut state, &bodies);
    assert_eq!(undo(&mut state, &first.undo), before);
    assert_eq!((units(&state, ALICE), next(&state, ALICE)), (100, 0));
    assert_eq!(run(&mut state, &bodies), first);
}

#[test]
#[should_panic(expected = "undo names the unknown account")]
fn undo_of_another_ledger_stops_the_process() {
    let executed = run(&mut state(), &[body()]);
    undo(&mut State::new(4), &executed.undo);
}

#[test]
fn an_execution_leaves_the_state_alone_until_it_is_finished() {
    let (mut state, rules) = (state(), rules());
    let before: Vec<Account> = state.accounts().cloned().collect();
    let root = state.root();
    let batches = [batch(&[body()]), batch(&[PaymentBody { sequence: Sequence(1), ..body() }])];
    let mut dropped = Execution::begin(&mut state, SLOT_MS);
    batches.iter().for_each(|batch| dropped.batch(&mut state, &rules, batch));
    drop(dropped);
    assert!(state.accounts().eq(&before) && state.root() == root);
    // Begun anew it gives what one call gives.
    let mut pieces = Execution::begin(&mut state, SLOT_MS);
    pieces.batch(&mut state, &rules, &batches[0]);
    assert_eq!(units(&state, BOB), 0, "readers see the state before");
    pieces.batch(&mut state, &rules, &batches[1]);
    let pieces = pieces.finish(&mut state);
    let mut other = self::state();
    assert_eq!(pieces, execute(&mut other, &rules, SLOT_MS, &batches));
    assert_eq!((units(&state, BOB), state.root()), (20, other.root()));
}

#[test]
#[should_panic(expected = "the state changed beside an execution")]
fn an_execution_does_not_go_on_over_a_state_that_changed() {
    let (mut state, rules) = (state(), rules());
    let mut execution = Execution::begin(&mut state, SLOT_MS);
    assert!(state.replace(holding(BOB, [(YEN, 5)])));
    execution.batch(&mut state, &rules, &batch(&[body()]));
}
