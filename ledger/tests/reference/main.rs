//! The ledger against a slow, obvious model of its rules, over random blocks, undo and re-execution.
#![expect(clippy::unwrap_used, reason = "what a test builds for itself is well-formed")]

mod model;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use zeni_ledger::execute::{Executed, execute, undo};
use zeni_ledger::genesis::Rules;
use zeni_ledger::proof::prove;
use zeni_ledger::{AccountId, Outcome, Receipt, State, StateRoot, TokenId, VerifiedBatch};

use model::{Model, Verdict};
use world::{ACCOUNTS, Draft, Step, batch, fresh_state, id, rules, slot_time_ms, story};

/// How often each verdict was reached.
type Coverage = BTreeMap<Verdict, u64>;

struct Block {
    slot: u64,
    batches: Vec<VerifiedBatch>,
    executed: Executed,
    /// The model and the root before the block.
    before: Model,
    root_before: StateRoot,
}

/// Both ledgers, side by side.
struct Pair {
    crowded: bool,
    rules: Rules,
    state: State,
    model: Model,
    chain: Vec<Block>,
    slot: u64,
    coverage: Coverage,
}

impl Pair {
    fn new(crowded: bool) -> Self {
        let model = world::model(crowded);
        let (rules, state) = (rules(&model), fresh_state(&model));
        Self { crowded, rules, state, model, chain: Vec::new(), slot: 0, coverage: Coverage::new() }
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Block { slots, batches } => self.block(self.slot + slots, batches)?,
            Step::Undo(blocks) => {
                for _ in 0..(*blocks).min(self.chain.len()) {
                    self.undo_one()?;
                }
            }
            Step::Replay(blocks) => self.replay(*blocks)?,
        }
        self.compare()
    }

    fn block(&mut self, slot: u64, drafts: &[Vec<Draft>]) -> Result<(), TestCaseError> {
        let mut batches = Vec::new();
        for (number, drafts) in drafts.iter().enumerate() {
            let reference = |place: usize| (number * 100 + place) as u32;
            let payments = drafts.iter().enumerate();
            let payments = payments.map(|(place, draft)| draft.payment(&self.model, slot, reference(place)));
            batches.push(batch(slot, payments.collect()));
        }
        let (before, root_before) = (self.model.clone(), self.state.root());
        let executed = execute(&mut self.state, &self.rules, slot_time_ms(slot), &batches);
        self.judge(slot, &batches, &executed)?;
        self.slot = slot;
        self.chain.push(Block { slot, batches, executed, before, root_before });
        Ok(())
    }

    /// Lets the model pay the same and compares every outcome.
    fn judge(&mut self, slot: u64, batches: &[VerifiedBatch], executed: &Executed) -> Result<(), TestCaseError> {
        let (mut receipts, mut counts) = (Vec::new(), [0u64; 3]);
        for (number, batch) in batches.iter().enumerate() {
            for (position, payment) in batch.payments().iter().enumerate() {
                let verdict = self.model.pay(payment, slot_time_ms(slot));
                *self.coverage.entry(verdict).or_default() += 1;
                let (count, code) = match verdict {
                    Verdict::Applied => (0, Some(None)),
                    Verdict::Rejected(code) => (1, Some(Some(code))),
                    Verdict::Skipped(_) => (2, None),
                };
                counts[count] += 1;
                receipts.extend(code.map(|code| (number as u32, position as u16, batch.ids()[position], code)));
            }
        }
        let plain = |receipt: &Receipt| {
            let code = match receipt.outcome {
                Outcome::Applied => None,
                Outcome::Rejected(rejection) => Some(rejection.code()),
            };
            (receipt.batch, receipt.position, receipt.id, code)
        };
        prop_assert_eq!(executed.receipts.iter().map(plain).collect::<Vec<_>>(), receipts);
        prop_assert_eq!([executed.applied, executed.rejected, executed.skipped], counts);
        Ok(())
    }

    fn undo_one(&mut self) -> Result<Block, TestCaseError> {
        let block = self.chain.pop().expect("no more blocks are taken back than there are");
        prop_assert_eq!(undo(&mut self.state, &block.executed.undo), block.root_before);
        self.model = block.before.clone();
        self.slot = self.chain.last().map_or(0, |last| last.slot);
        Ok(block)
    }

    fn replay(&mut self, blocks: usize) -> Result<(), TestCaseError> {
        let mut taken = Vec::new();
        for _ in 0..blocks.min(self.chain.len()) {
            taken.push(self.undo_one()?);
            self.compare()?;
        }
        for block in taken.into_iter().rev() {
            let executed = execute(&mut self.state, &self.rules, slot_time_ms(block.slot), &block.batches);
            prop_assert_eq!(&executed, &block.executed, "the same block gave another result the second time");
            self.judge(block.slot, &block.batches, &executed)?;
            self.slot = block.slot;
            self.chain.push(block);
        }
        Ok(())
    }

    /// Balances and sequences one by one, sums, the root of a state built anew, and a proof against it.
    fn compare(&self) -> Result<(), TestCaseError> {
        for number in 0..ACCOUNTS {
            let id = id(number);
            let account = self.state.account(&AccountId(id)).expect("accounts are never closed");
            let held: Vec<_> = account.holdings().map(|(token, balance)| (token.0, balance.units())).collect();
            prop_assert_eq!(held, self.model.holdings(id), "holdings of account {}", number);
            prop_assert_eq!(u128::from(account.next_sequence().0), self.model.next(id), "account {}", number);
        }
        prop_assert_eq!(self.state.len(), self.model.accounts.len() as u64);
        prop_assert!(self.model.sums().values().all(|sum| *sum == 0), "the model lost money");
        prop_assert!(self.state.token_sums().values().all(|sum| *sum == 0), "the ledger lost money");
        let root = self.state.root();
        prop_assert_eq!(root, fresh_state(&self.model).root(), "a state built anew has another root");
        let known = prove(&self.state, &AccountId(id(self.chain.len() as u8 % ACCOUNTS)));
        prop_assert_eq!(known.verify(&root), Ok(()));
        Ok(())
    }

    /// The chain that is left, executed from the beginning, leads to the same root.
    fn compare_with_a_fresh_run(&self) -> Result<(), TestCaseError> {
        let mut state = fresh_state(&world::model(self.crowded));
        for block in &self.chain {
            let executed = execute(&mut state, &self.rules, slot_time_ms(block.slot), &block.batches);
            prop_assert_eq!(&executed, &block.executed);
        }
        prop_assert_eq!(state.root(), self.state.root());
        Ok(())
    }
}

fn run(crowded: bool, steps: &[Step]) -> Result<Coverage, TestCaseError> {
    let mut pair = Pair::new(crowded);
    pair.compare()?;
    for step in steps {
        pair.step(step)?;
    }
    pair.compare_with_a_fresh_run()?;
    Ok(pair.coverage)
}

proptest! {
    #![proptest_config(Config { cases: 300, ..Config::default() })]

    #[test]
    fn the_ledger_agrees_with_the_model_through_blocks_undo_and_re_execution((crowded, steps) in story()) {
        run(crowded, &steps)?;
    }
}

/// The same cases on every run, so that a change of the world which loses a rule is noticed.
#[test]
fn the_random_world_reaches_every_rejection_and_every_skip() {
    let coverage = RefCell::new(Coverage::new());
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 100, failure_persistence: None, ..Config::default() },
        TestRunner::deterministic().new_rng(),
    );
    runner
        .run(&story(), |(crowded, steps)| {
            for (verdict, count) in run(crowded, &steps)? {
                *coverage.borrow_mut().entry(verdict).or_default() += count;
            }
            Ok(())
        })
        .unwrap();
    let coverage = coverage.into_inner();
    let rejections = zeni_ledger::Rejection::ALL.map(|rejection| Verdict::Rejected(rejection.code()));
    let skips = ["network", "expired", "too far", "unknown payer", "spent", "out of window"].map(Verdict::Skipped);
    for verdict in rejections.into_iter().chain(skips) {
        assert!(coverage.get(&verdict).is_some_and(|count| *count >= 10), "{verdict:?} is rare: {coverage:?}");
    }
    assert!(coverage[&Verdict::Applied] >= 500, "{coverage:?}");
}

#[test]
fn issuers_mint_by_paying_and_burn_by_being_paid() {
    let mut pair = Pair::new(false);
    let (issuer, token) = (AccountId(pair.model.issuers[&1]), TokenId(1));
    let before = pair.state.account(&issuer).unwrap().balance(token);
    let mint = payment(&pair, issuer.0, id(1), 0, 500);
    let burn = payment(&pair, id(1), issuer.0, 0, 200);
    let executed = execute(&mut pair.state, &pair.rules, slot_time_ms(1), &[batch(1, vec![mint, burn])]);
    pair.judge(1, &[batch(1, vec![mint, burn])], &executed).unwrap();
    assert_eq!(executed.applied, 2);
    let after = pair.state.account(&issuer).unwrap().balance(token);
    assert_eq!(after.units(), before.units() - 300);
    assert!(after.is_negative());
    pair.compare().unwrap();
}

fn payment(pair: &Pair, from: [u8; 32], to: [u8; 32], sequence: u64, amount: u64) -> zeni_ledger::Payment {
    let body = zeni_ledger::payment::PaymentBody {
        network: pair.rules.network,
        valid_until: (slot_time_ms(1) / 1_000 + 60) as u32,
        from: AccountId(from),
        to: AccountId(to),
        sequence: zeni_ledger::Sequence(sequence),
        amount: zeni_ledger::Amount(amount),
        token: TokenId(1),
        flags: 0,
        reference: [0; 16],
    };
    body.with_signature(zeni_ledger::SignatureBytes([0; 64]))
}
