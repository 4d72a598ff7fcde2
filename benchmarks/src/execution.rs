//! Executing blocks, the state tree, and what a proposer does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use zeni_consensus::core::{Config, Core, Recovered};
use zeni_consensus::{
    Archive, ArchiveError, Effect, Event, Input, Millis, Mode, Record, RequestId, SafetyRecord, Verdict,
};
use zeni_ledger::execute::{execute, undo};
use zeni_ledger::receipt::receipts_root;
use zeni_ledger::{
    Account, BatchDigest, Block, BlockId, Genesis, GenesisId, Payment, Sequence, State, Undo, ValidatorIndex,
    VerifiedBatch,
};

use crate::context::{Context, say};
use crate::error::BenchError;
use crate::payments::{self, BATCH, GENESIS_MS, Receivers};
use crate::report::{Findings, Unit, Yardstick, figure};

const GENESIS: GenesisId = GenesisId([1; 32]);
/// Slot time of the executed blocks.
const SLOT_MS: u64 = GENESIS_MS + 15_000;
/// Of the proposer's ledger.
const INTERVAL_MS: u64 = 1_000;
/// Steps of a core that may pass until it does what is waited for.
const STEPS_MAX: u32 = 100_000;

fn built(what: &str, accounts: u64) -> (State, Duration) {
    let begun = Instant::now();
    let state = payments::state(accounts, |done| say(&format!("{what}: {done} of {accounts} accounts")));
    (state, begun.elapsed())
}

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// Blocks of payments over states of several sizes: the whole of executing them, its parts, and taking them back.
/// Signatures are not made: execution never looks at them.
pub(crate) fn execution(context: &Context) -> Result<Findings, BenchError> {
    let block = context.choose(2_000, 36_000);
    let sizes = context.accounts_or(&[10_000], &[100_000, 1_000_000]);
    let mut findings = Findings::of(json!({ "payments_a_block": block, "accounts": sizes }));
    for accounts in &sizes {
        let (mut state, _) = built("execution", *accounts);
        state.commit();
        for round in context.rounds("execution") {
            for receivers in Receivers::BOTH {
                executed(&mut findings, &mut state, *accounts, block, round as u64, receivers)?;
            }
        }
        for receivers in Receivers::BOTH {
            for part in ["whole", "of that the tree", "of that receipts", "the rest", "undo"] {
                findings.against(&named(*accounts, receivers, part), &context.limit, Yardstick::OneCore);
            }
        }
        let [hot, spread] = Receivers::BOTH.map(|receivers| named(*accounts, receivers, "whole"));
        findings.compare(format!("{} accounts, spread over hot", figure(*accounts as f64)), &spread, &hot);
    }
    findings.notes.push(
        "The tree's share is a commit of the same changes, and the receipts' share their root, each made once more \
         alone; the rest is the difference."
            .into(),
    );
    Ok(findings)
}

fn named(accounts: u64, receivers: Receivers, part: &str) -> String {
    format!("{} accounts, {}: {part}", figure(accounts as f64), receivers.text())
}

fn executed(
    findings: &mut Findings,
    state: &mut State,
    accounts: u64,
    block: u64,
    round: u64,
    receivers: Receivers,
) -> Result<(), BenchError> {
    let some: Vec<Payment> = payments::unsigned(accounts, round * block, block, 0, receivers).collect();
    let batches = payments::batches(&some, &GENESIS, 1);
    let rules = payments::rules();
    let root = state.root();
    let begun = Instant::now();
    let done = execute(state, &rules, SLOT_MS, &batches);
    let whole = begun.elapsed();
    if done.applied != block {
        return Err(BenchError::Wrong(format!("{} of {block} payments were applied", done.applied)));
    }
    let again: Vec<Account> =
        done.undo.accounts.iter().filter_map(|account| state.account(&account.id()).cloned()).collect();
    for account in again {
        assert!(state.replace(account), "it was found a moment ago");
    }
    let begun = Instant::now();
    let committed = state.commit();
    let tree = begun.elapsed();
    let begun = Instant::now();
    let receipts = receipts_root(&done.receipts);
    let receipts_time = begun.elapsed();
    let begun = Instant::now();
    let undone = undo(state, &done.undo);
    let undoing = begun.elapsed();
    if committed != done.state_root || receipts != done.receipts_root || undone != root {
        return Err(BenchError::Wrong("a root is another the second time".into()));
    }
    let rest = whole.saturating_sub(tree + receipts_time);
    let parts = [("whole", whole), ("of that the tree", tree), ("of that receipts", receipts_time), ("the rest", rest)];
    for (part, time) in parts.into_iter().chain([("undo", undoing)]) {
        findings.add(named(accounts, receivers, part), Unit::MicrosPerPayment, micros(time, block));
    }
    Ok(())
}

/// Building the tree, and hashing again what a number of changes touched.
pub(crate) fn state_tree(context: &Context) -> Result<Findings, BenchError> {
    let sizes = context.accounts_or(&[10_000], &[100_000, 1_000_000]);
    let changes = [1_000, 36_000, 450_000];
    let mut findings = Findings::of(json!({ "accounts": sizes, "changed": changes }));
    for accounts in &sizes {
        let size = figure(*accounts as f64);
        let (mut state, opening) = built("state-tree", *accounts);
        let begun = Instant::now();
        state.commit();
        let hashing = begun.elapsed();
        findings.add(format!("{size} accounts: opening them"), Unit::MicrosPerAccount, micros(opening, *accounts));
        findings.add(format!("{size} accounts: first hashing"), Unit::MicrosPerAccount, micros(hashing, *accounts));
        for round in context.rounds("state-tree") {
            for changed in changes.into_iter().filter(|changed| changed <= accounts) {
                let numbers = (0..changed).map(|place| 1 + (place + round as u64 * changed) % accounts);
                let touched: Vec<Account> =
                    numbers.filter_map(|number| state.account(&payments::account_id(number)).cloned()).collect();
                for mut account in touched {
                    let next: Sequence = account.next_sequence();
                    if account.window_mut().use_up(next).is_err() || !state.replace(account) {
                        return Err(BenchError::Wrong("an account does not take its next sequence".into()));
                    }
                }
                let begun = Instant::now();
                state.commit();
                let name = format!("{size} accounts, {} changed: commit", figure(changed as f64));
                findings.add(name, Unit::MicrosPerAccount, micros(begun.elapsed(), changed));
            }
        }
    }
    Ok(findings)
}

/// What was stored, in memory.
#[derive(Debug, Default)]
struct Memory {
    batches: BTreeMap<BatchDigest, VerifiedBatch>,
    blocks: BTreeMap<BlockId, Arc<Block>>,
    undos: BTreeMap<BlockId, Arc<Undo>>,
}

impl Archive for Memory {
    fn batch(&self, digest: &BatchDigest) -> Result<Option<VerifiedBatch>, ArchiveError> {
        Ok(self.batches.get(digest).cloned())
    }

    fn block(&self, id: &BlockId) -> Result<Option<Arc<Block>>, ArchiveError> {
        Ok(self.blocks.get(id).cloned())
    }

    fn undo(&self, block: &BlockId) -> Result<Option<Arc<Undo>>, ArchiveError> {
        Ok(self.undos.get(block).cloned())
    }
}

/// The only validator of a ledger: a real core over a perfect disk.
struct Proposer {
    core: Core,
    memory: Memory,
    id: GenesisId,
    now: Millis,
    requests: u64,
    refused: u64,
}

/// What one step did.
#[derive(Debug, Default)]
struct Done {
    time: Duration,
    proposed: Option<usize>,
}

impl Proposer {
    fn start(genesis: &Genesis, file: &[u8]) -> Result<Self, BenchError> {
        let safety = Some(SafetyRecord::default());
        let recovered = Recovered { safety, ..Recovered::at_genesis(genesis, genesis.state(file)?) };
        let config = Config {
            me: ValidatorIndex(0),
            key: payments::validator_key(),
            boot: 1,
            nonce: 1,
            joining_ms: 1_000,
            bounds: zeni_consensus::chain::Bounds::default(),
        };
        let now = Millis(GENESIS_MS + 10);
        let (core, effects) = Core::recover(config, Arc::new(genesis.clone()), recovered, now)?;
        let memory = Memory::default();
        let mut proposer = Self { core, memory, id: genesis.id(), now, requests: 0, refused: 0 };
        proposer.carry_out(effects)?;
        proposer.until("it is active", |proposer| proposer.core.status().mode == Mode::Active)?;
        Ok(proposer)
    }

    /// Ticks, a millisecond each, until something holds.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), BenchError> {
        for _ in 0..STEPS_MAX {
            if holds(self) {
                return Ok(());
            }
            self.now = self.now + 1;
            self.step(Input::Tick)?;
        }
        Err(BenchError::Wrong(format!("the core steps {STEPS_MAX} times, and still not: {what}")))
    }

    fn step(&mut self, input: Input) -> Result<Done, BenchError> {
        let begun = Instant::now();
        let effects = self.core.step(self.now, input, &self.memory);
        let time = begun.elapsed();
        Ok(Done { time, proposed: self.carry_out(effects)? })
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<Option<usize>, BenchError> {
        let mut proposed = None;
        for effect in effects {
            match effect {
                Effect::Append(Record::Batch(batch)) => {
                    self.memory.batches.insert(batch.digest(), batch);
                }
                Effect::Append(Record::Block(block)) => {
                    self.memory.blocks.insert(block.id(&self.id), block);
                }
                Effect::AppendUndo { block, undo, .. } => {
                    self.memory.undos.insert(block, undo);
                }
                Effect::Event(Event::Proposed { batches, .. }) => proposed = Some(batches),
                Effect::Reply { verdicts, .. } => {
                    let refused = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Refused(_))).count();
                    self.refused += refused as u64;
                }
                Effect::Halt(reason) => return Err(reason.into()),
                _ => {}
            }
        }
        Ok(proposed)
    }
}

/// A validator's core takes submissions and proposes: judging, gathering and signing batches; then choosing them,
/// executing them, roots and signature of the block.
pub(crate) fn block_assembly(context: &Context) -> Result<Findings, BenchError> {
    let block: u64 = context.choose(2 * BATCH as u64, 36 * BATCH as u64);
    let sizes = context.accounts_or(&[10_000], &[100_000, 1_000_000]);
    let mut findings = Findings::of(json!({ "payments_a_block": block, "accounts": sizes, "validators": 1 }));
    for accounts in &sizes {
        let size = figure(*accounts as f64);
        say(&format!("block-assembly: a ledger of {size} accounts"));
        let (genesis, file) = payments::genesis(*accounts, INTERVAL_MS);
        let mut proposer = Proposer::start(&genesis, &file)?;
        let mut sequences = 0;
        for _ in context.rounds("block-assembly") {
            for receivers in Receivers::BOTH {
                let (submitting, proposing) =
                    assembled(&mut proposer, &genesis, *accounts, block, sequences, receivers)?;
                // The same payers again: every block uses one sequence of theirs.
                sequences += 1;
                let name = |what: &str| format!("{size} accounts, {}: {what}", receivers.text());
                findings.add(name("submission"), Unit::MicrosPerPayment, micros(submitting, block));
                findings.add(name("proposal"), Unit::MicrosPerPayment, micros(proposing, block));
                findings.add(name("a block"), Unit::Milliseconds, proposing.as_secs_f64() * 1e3);
            }
        }
        for receivers in Receivers::BOTH {
            for what in ["submission", "proposal"] {
                let name = format!("{size} accounts, {}: {what}", receivers.text());
                findings.against(&name, &context.limit, Yardstick::OneCore);
            }
        }
    }
    Ok(findings)
}

/// Submits a block's payments within one slot and proposes in the next; the times of both.
fn assembled(
    proposer: &mut Proposer,
    genesis: &Genesis,
    accounts: u64,
    block: u64,
    sequence: u64,
    receivers: Receivers,
) -> Result<(Duration, Duration), BenchError> {
    let some: Vec<Payment> = payments::unsigned(accounts, 0, block, sequence, receivers).collect();
    let mut submitting = Duration::ZERO;
    for payments in some.chunks(BATCH) {
        proposer.requests += 1;
        let payments = payments.iter().map(|payment| (*payment, payment.id(&proposer.id))).collect();
        let request = RequestId(proposer.requests);
        submitting += proposer.step(Input::Submission { request, payments })?.time;
    }
    if proposer.refused > 0 {
        return Err(BenchError::Wrong(format!("{} payments were refused", proposer.refused)));
    }
    let slot = genesis.slot_at(proposer.now.0);
    let next = Millis(genesis.slot_time_ms(slot + 1));
    // Nothing happens before the slot begins but what is due anyway.
    proposer.now = next;
    // What was not drafted is executed in steps.
    let (mut proposing, mut proposed) = (Duration::ZERO, None);
    for _ in 0..STEPS_MAX {
        let done = proposer.step(Input::Tick)?;
        proposing += done.time;
        proposed = done.proposed;
        if proposed.is_some() {
            break;
        }
        proposer.now = proposer.now + 1;
    }
    let expected = block.div_ceil(BATCH as u64) as usize;
    if proposed != Some(expected) {
        return Err(BenchError::Wrong(format!("{expected} batches were to be proposed, not {proposed:?}")));
    }
    let height = proposer.core.status().height;
    proposer.until("its block is final", |proposer| proposer.core.last_final().height >= height)?;
    Ok((submitting, proposing))
}
