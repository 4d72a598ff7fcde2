//! Turns what a run saw into its report.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api_audit::ApiState;
use crate::audit::{Balances, Halted, Settled, Verified};
use crate::clock;
use crate::dispatch::Outcome;
use crate::double_spends::Resolved;
use crate::faults::FaultRecord;
use crate::finals;
use crate::follow;
use crate::host;
use crate::latency::Latencies;
use crate::limit::Limit;
use crate::measure::{self, BlockLoad, Slots};
use crate::plan::Plan;
use crate::prepare::Prepared;
use crate::relay::DELAYED_MAX;
use crate::report::{
    BlockPoint, FaultReport, Latency, LimitReport, OverloadReport, Report, Series, StartReport, Throughput,
};
use crate::scenario::Fault;
use crate::storm::Run;
use crate::storm_clock::StormClock;
use crate::tracker::Listed;

/// What is known once a run is over, besides what the run itself holds.
#[derive(Debug)]
pub struct Findings {
    pub settled: Settled,
    /// The receiver's balance as each node tells it.
    pub balances: Vec<i128>,
    /// Those of payers, as far as they were looked at.
    pub payers: Balances,
    /// `None` if there is none, or if it could not be asked.
    pub api_server: Option<ApiState>,
    /// What became of the pairs that were sent to both sides of partitions.
    pub double_spends: Resolved,
    pub verified: Vec<Verified>,
    pub halts: Vec<Halted>,
    /// What nodes without twins counted of others, by node and kind.
    pub misbehaviour: BTreeMap<String, BTreeMap<String, u64>>,
    pub faults: Vec<FaultRecord>,
    pub limit: Limit,
    /// What went wrong, in words.
    pub failures: Vec<String>,
    pub prepare_s: f64,
    pub init_s: f64,
    pub active_s: f64,
    /// When the run began, Unix milliseconds.
    pub now_ms: u64,
}

/// Payments by what execution made of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Executed {
    duplicated: u64,
    rejected: Option<u64>,
}

/// The report of a run, judged.
pub fn report(run: &Run, prepared: &Prepared, findings: Findings) -> Report {
    let (scenario, plan) = (&run.scenario, prepared.plan());
    let slots = Slots { genesis_ms: run.genesis.time_ms, interval_ms: run.genesis.block_interval_ms };
    let (blocks, undone, foreign) = follow::with(&run.scene.tracker, |tracker| {
        (storm_blocks(tracker.blocks()), tracker.undone(), tracker.foreign())
    });
    let loads: Vec<BlockLoad> = blocks.iter().map(BlockLoad::from).collect();
    let tally = run.book.tally();
    let offered = offered(run);
    let mut failures = findings.failures;
    failures.extend(findings.double_spends.failures);
    for record in &findings.faults {
        failures.extend(record.unwilling.iter().map(|name| format!("{name} did not stop and was killed")));
    }
    if !findings.settled.tracked && !scenario.audit.halt {
        let head = follow::with(&run.scene.tracker, |tracker| (tracker.head().height, tracker.head().id));
        failures.push(format!("the tracked chain ends at height {} with {}, not at the nodes' block", head.0, head.1));
    }
    let expected = plan.judged_balance(made(run, &plan));
    failures.extend(odd_balances(&findings.balances));
    let complete = findings.settled.equal
        && findings.settled.tracked
        && tally.unfinal == 0
        && (tally.finals == offered || scenario.overload.is_some());
    let mean = measure::mean_tps(tally.finals, 0, findings.settled.at_us).filter(|_| complete);
    let all_us = run.dispatch.with_outcome(|outcome| outcome.last_sent_us);
    let executed =
        executed(&findings.verified, &blocks, tally.included, foreign, findings.balances.first() == Some(&expected));
    let limit = limit_report(&findings.limit, run.scene.everyone.len(), mean);
    let (included, finals) = (Latencies::of_inclusion(&run.book, all_us), Latencies::of_finality(&run.book, all_us));
    let clock = run.scene.clock;
    let judged = finals::with(&run.finals, |finals| {
        failures.extend(finals.failures());
        finals.judge()
    });
    let started_ms = clock.unix_ms(0);
    let at_s = |slot: u64| {
        let begins_ms = slots.genesis_ms + slot * slots.interval_ms;
        (begins_ms.cast_signed() - started_ms.cast_signed()) as f64 / 1e3
    };
    let mut report = run.dispatch.with_outcome(|outcome| Report {
        passed: false,
        failures,
        notes: notes(run, &findings.faults),
        scenario: scenario.name.clone(),
        seed: scenario.seed,
        accounts: scenario.accounts,
        nodes: scenario.network.nodes.into(),
        block_interval_ms: slots.interval_ms,
        started: clock::rfc3339(findings.now_ms),
        offered,
        sent: tally.sent,
        accepted: tally.accepted,
        included: tally.included,
        finals: Some(tally.finals),
        rejected: executed.rejected,
        expired: outcome.refusals.get("expired").copied().unwrap_or(0),
        refused: texts(&outcome.refusals),
        lost: tally.unfinal,
        duplicated: executed.duplicated,
        listed_again: tally.listed_again,
        final_reverted: Some(judged.reverted),
        final_unknown: judged.unknown,
        block_final_ms: measure::block_final_ms(&blocks, slots, |tick| clock.unix_ms(tick.as_us())),
        double_spends: findings.double_spends.counts,
        throughput_tps: Throughput {
            mean,
            best_block: measure::best_block_tps(&loads, slots.interval_ms),
            sent: measure::mean_tps(tally.sent, 0, all_us),
            accepted: measure::mean_tps(tally.accepted, 0, outcome.last_accepted_us),
        },
        latency_ms: Latency {
            accepted: outcome.accepted.percentiles(),
            included: included.percentiles(),
            finals: finals.percentiles(),
        },
        receiver_balance: findings.balances.first().map(i128::to_string),
        expected_balance: expected.to_string(),
        payer_balances: findings.payers,
        nodes_state: findings.settled.states.clone(),
        nodes_equal: findings.settled.equal,
        api_server: findings.api_server.clone(),
        verified: findings.verified.clone(),
        halts: findings.halts,
        misbehaviour: findings.misbehaviour,
        faults: findings.faults.iter().map(|record| fault_report(run, record, &loads, slots)).collect(),
        overload: overload_report(outcome, &loads, slots, clock),
        resends: texts(&outcome.resends),
        blocks_undone: undone,
        resources: run.resources(),
        loopback_sent_bytes: run.loopback_sent_bytes(),
        limit,
        start: StartReport { prepare_s: findings.prepare_s, init_s: findings.init_s, active_s: findings.active_s },
        version: env!("CARGO_PKG_VERSION").into(),
        host: host::host(),
        command: host::command(),
        series: Series {
            blocks: blocks.iter().map(|block| block_point(block, at_s(block.slot))).collect(),
            accepted: outcome.accepted.course(),
            included: included.course(),
            finals: finals.course(),
        },
        settings: scenario.clone(),
    });
    report.judge();
    report
}

/// Payments that the phases want to send: all that were sent if a phase ends by the clock at full speed.
pub fn offered(run: &Run) -> u64 {
    let planned = crate::schedule::planned(&run.scenario.phases, run.book.len());
    planned.unwrap_or_else(|| run.book.tally().sent)
}

/// How many payments each payer has made: all that the phases want to send. After an overload those that are final, for
/// whatever was refused is not made, and what got no answer may be.
pub fn made(run: &Run, plan: &Plan) -> impl Fn(u64) -> u64 {
    let first = plan.first(offered(run));
    let overload = run.scenario.overload.is_some();
    let (book, plan) = (Arc::clone(&run.book), *plan);
    move |payer| match overload {
        true => (0..plan.payments_per_account)
            .filter(|round| book.finalised(round * plan.payers + payer).is_some())
            .count() as u64,
        false => first(payer),
    }
}

/// The overload, and how much of it the chain took.
fn overload_report(outcome: &Outcome, loads: &[BlockLoad], slots: Slots, clock: StormClock) -> Option<OverloadReport> {
    let (offers, last) = (outcome.offers.clone()?, outcome.last_phase);
    let goodput =
        |began_us, ended_us| measure::goodput_tps(loads, slots, clock.unix_ms(began_us), clock.unix_ms(ended_us));
    let calibrated_tps = goodput(last.began_us, last.ended_us);
    let goodput_tps = goodput(offers.began_us, offers.ended_us);
    let goodput_ratio = calibrated_tps.zip(goodput_tps).map(|(before, during)| during / before);
    Some(OverloadReport {
        accepted_before_tps: last.accepted_per_s(),
        calibrated_tps,
        goodput_tps,
        goodput_ratio,
        offered_tps: offers.per_s(),
        offers,
    })
}

/// The blocks from the first to the last that lists payments of the storm, and the one before them.
fn storm_blocks(all: &[Listed]) -> Vec<Listed> {
    let first = all.iter().position(|block| block.ours > 0).unwrap_or(all.len());
    let last = all.iter().rposition(|block| block.ours > 0).map_or(first, |place| place + 1);
    all[first.saturating_sub(1).min(last)..last].to_vec()
}

fn block_point(block: &Listed, at_s: f64) -> BlockPoint {
    let (height, slot, payments) = (block.height, block.slot, block.ours);
    BlockPoint { height, slot, at_s, payments, proposer: block.proposer, rank: block.rank }
}

/// From the verified data if there is any. Otherwise the headers tell how many payments used a sequence, and an exact
/// balance of the receiver that each of them moved its money.
fn executed(verified: &[Verified], blocks: &[Listed], included: u64, foreign: u64, exact: bool) -> Executed {
    if !verified.is_empty() {
        let duplicated = verified.iter().map(|found| found.applied.saturating_sub(found.distinct)).max().unwrap_or(0);
        return Executed { duplicated, rejected: verified.iter().map(|found| found.rejected).max() };
    }
    let receipts: u64 = blocks.iter().map(|block| block.receipts).sum();
    Executed { duplicated: receipts.saturating_sub(included + foreign), rejected: exact.then_some(0) }
}

fn fault_report(run: &Run, record: &FaultRecord, loads: &[BlockLoad], slots: Slots) -> FaultReport {
    let clock = run.scene.clock;
    let dip_defined = run.scenario.dip_is_defined(&record.fault);
    let dip = measure::dip_ratio(loads, slots, clock.unix_ms(record.began_us), clock.unix_ms(record.ended_us));
    FaultReport {
        kind: record.fault.kind.to_string(),
        targets: targets(run, &record.fault),
        whom: record.fault.whom(),
        at_s: record.began_us as f64 / 1e6,
        duration_s: (record.ended_us - record.began_us) as f64 / 1e6,
        dip_ratio: dip.filter(|_| dip_defined && record.undone),
        resync_s: record.resync_s,
        without_checkpoint: record.without_checkpoint.clone(),
        checkpoint_due: run.scenario.checkpoint_is_due(&record.fault),
        dip_defined,
        struck: record.struck,
        final_during: finals::with(&run.finals, |finals| {
            measure::final_during(finals, record.struck_us, record.ended_us)
        })
        .filter(|_| record.undone),
        final_during_max: record.fault.final_during_max,
        first_final_s: finals::with(&run.finals, |finals| measure::first_final_s(finals, record.ended_us))
            .filter(|_| record.undone),
    }
}

/// The processes that a fault strikes; of one of the network, the nodes at both ends of what it strikes.
fn targets(run: &Run, fault: &Fault) -> Vec<String> {
    let names = run.scenario.process_names();
    let ways = fault.ways(&names);
    let touched = |place: &usize| ways.iter().any(|way| way.from == *place || way.to == *place);
    let nodes = (0..names.len()).filter(touched).map(|place| names[place].clone());
    fault.targets.iter().cloned().chain(nodes).collect()
}

fn limit_report(limit: &Limit, nodes: usize, mean: Option<f64>) -> LimitReport {
    let payments_per_s = limit.payments_per_s(nodes);
    LimitReport {
        verify_per_s_per_core: limit.verify_per_s_per_core,
        cores: limit.cores,
        payments_per_s,
        ratio: mean.map(|mean| mean / payments_per_s),
    }
}

fn odd_balances(balances: &[i128]) -> Option<String> {
    let odd = balances.iter().any(|balance| Some(balance) != balances.first());
    odd.then(|| format!("the nodes tell different balances of the receiver: {balances:?}"))
}

fn notes(run: &Run, faults: &[FaultRecord]) -> Vec<String> {
    let mut notes = Vec::new();
    if run.scenario.network.attach.is_none() {
        notes.push("All nodes, the API server and the load generator share one machine.".into());
    }
    if run.scenario.needs_relay() {
        notes.push(
            "Datagrams between the nodes go through the load generator's relay; those of clients and of the API server \
             do not."
                .into(),
        );
    }
    let overflowed: u64 = faults.iter().filter_map(|record| record.struck).map(|struck| struck.overflowed).sum();
    if overflowed > 0 {
        notes.push(format!(
            "{overflowed} delayed datagrams were dropped, because {DELAYED_MAX} waited in their direction already."
        ));
    }
    notes
}

fn texts(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}
