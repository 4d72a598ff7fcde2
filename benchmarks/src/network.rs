//! Benchmarks of real processes over loopback: ingress alone, bulk through the API server, returning nodes, whole
//! storms.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::context::Context;
use crate::error::BenchError;
use crate::report::{Findings, Unit, Yardstick};
use crate::sampler::{Cpu, PACE};
use crate::storm::{
    self, FaultReport, Outage, Outcome, Rate, Storm, StormReport, Target, cpu_s, loadgen_cpu_s, nodes_cpu_s,
};

const API_SERVER: &str = "api-server";
const SCENARIOS: &str = "loadgen/scenarios";
/// Threads of a node by which its cost is told; the rest (checkpoints, the verifier that cuts jobs, sled) counts
/// together.
const THREADS: [&str; 4] = ["verify", "core", "tokio-rt-worker", "committer"];

/// Between two looks at what the processes of `ingress` use: it lasts some 10 s, of which half a second would be much.
const INGRESS_PACE: Duration = Duration::from_millis(100);

/// One node takes signed payments over QUIC until they are on its disk. Its blocks are a minute apart, but that keeps no
/// execution away: it is the only validator, so it is the next proposer, too, and executes ahead whatever it takes for the
/// next block, up to the 2,048 batches that one lists. How much of that was done when the last payment was accepted is not
/// told; its cost is part of that of the core thread.
pub(crate) fn ingress(context: &Context) -> Result<Findings, BenchError> {
    let storm = Storm {
        // Two million payments: some ten seconds. With 2,097,152 waiting, no more are taken in before a block (decision 0013).
        // Four of an account lie far within its window of 128.
        payments_per_account: context.choose(1, 4),
        nodes: 1,
        api_server: false,
        block_interval_ms: context.choose(3_000, 60_000),
        rate: Rate::Full { in_flight: 32 },
        pace: INGRESS_PACE,
        ..Storm::new("bench-ingress", context.choose(50_000, 500_000))
    };
    let mut findings = Findings::of(settings(&storm));
    for _ in context.rounds("ingress") {
        let outcome = storm::run(context, &storm)?;
        let report = &outcome.report;
        let accepted_s = required(outcome.accepted_s(), "no payment was accepted")?;
        let (rate, payments) = (report.accepted as f64 / accepted_s, report.accepted as f64);
        let cpu = outcome.cpu(0.0, accepted_s);
        let node_s = cpu_s(&cpu, "node-1");
        let limit = report.limit.verify_per_s_per_core * report.limit.cores as f64;
        findings.add("accepted", Unit::PaymentsPerS, rate);
        findings.add("accepted over the limit measured just before, all cores", Unit::Ratio, rate / limit);
        if node_s > 0.0 {
            let per_cpu_s = payments / node_s;
            findings.add("accepted in a second of the node's processor time", Unit::PaymentsPerCpuS, per_cpu_s);
            // All cores are measured together, so this is not what one of them does while the others rest.
            let ratio = per_cpu_s / report.limit.verify_per_s_per_core;
            findings.add(
                "the same over a core's share of the limit measured just before, all cores",
                Unit::Ratio,
                ratio,
            );
        }
        findings.add("node", Unit::CpuMicrosPerPayment, node_s * 1e6 / payments);
        findings.add("load generator", Unit::CpuMicrosPerPayment, loadgen_cpu_s(&cpu) * 1e6 / payments);
        add_threads(&mut findings, "node", &cpu, payments, 1);
        findings.failures.extend(outcome.failures());
    }
    findings.against("accepted", &context.limit, Yardstick::AllCores);
    findings.against("accepted in a second of the node's processor time", &context.limit, Yardstick::OneCore);
    findings.against("node", &context.limit, Yardstick::OneCore);
    findings.notes.push(
        "The load generator runs on the same cores, so the first ratio cannot reach 1; the second counts only what \
         the node used. Accepted in the time until the last payment was. The node executes ahead meanwhile, which its core \
         thread's cost holds."
            .into(),
    );
    Ok(findings)
}

/// The same storm to the nodes and through the API server's bulk call, in turn.
pub(crate) fn api_bulk(context: &Context) -> Result<Findings, BenchError> {
    let accounts = context.choose(50_000, 1_000_000);
    let storms = [("nodes", Target::Spread), ("API server", Target::Api)].map(|(name, target)| {
        let storm = Storm { target, ..Storm::new(format!("bench-bulk-{}", name.replace(' ', "-")), accounts) };
        (name, storm)
    });
    let mut findings = Findings::of(settings(&storms[1].1));
    for round in context.rounds("api-bulk") {
        // In the order ab, ba, ab: a machine that drifts strikes both alike.
        for place in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let (name, storm) = &storms[place];
            add_storm(&mut findings, &format!("to the {name}: "), &storm::run(context, storm)?)?;
        }
    }
    for what in ["mean", "accepted"] {
        let [nodes, api] = ["nodes", "API server"].map(|name| format!("to the {name}: {what}"));
        findings.compare(format!("{what}: API server over nodes"), &api, &nodes);
    }
    against_limit(&mut findings, context, 3);
    Ok(findings)
}

/// The experiment's shape: 3,086 payments a second, two of three nodes stopped and started together, and what they do
/// until they are level again.
pub(crate) fn catch_up(context: &Context) -> Result<Findings, BenchError> {
    const RATE: u32 = 3_086;
    let (interval_s, duration_s) = context.choose((1, 10), (15, context.outage_s));
    // The dip can only be told with as many whole blocks before the outage as in it.
    let outage = Outage { at_s: duration_s + 2 * interval_s, duration_s };
    let after_s = 30 + duration_s / 4;
    let storm = Storm {
        block_interval_ms: interval_s * 1_000,
        rate: Rate::PerSecond(RATE),
        outage: Some(outage),
        ..Storm::new("bench-catch-up", u64::from(RATE) * (outage.at_s + duration_s + after_s))
    };
    let mut findings = Findings::of(settings(&storm));
    for _ in context.rounds("catch-up") {
        let outcome = storm::run(context, &storm)?;
        let fault = outcome.report.faults.first().copied();
        let fault = required(fault, "the report tells of no fault")?;
        let resync_s = required(fault.resync_s, "the nodes did not come back")?;
        let back_s = fault.at_s + fault.duration_s;
        let missed = listed(&outcome.report, fault.at_s, back_s);
        let meanwhile = listed(&outcome.report, back_s, back_s + resync_s);
        let level = (missed + meanwhile) as f64;
        findings.add("from process start to level", Unit::Seconds, resync_s);
        findings.add("missed in the outage", Unit::Count, missed as f64);
        findings.add("missed ones, each node", Unit::PaymentsPerS, missed as f64 / resync_s);
        findings.add("missed and new ones, each node", Unit::PaymentsPerS, level / resync_s);
        findings.failures.extend(outcome.failures());
        add_dip(&mut findings, &fault);
        let cpu = outcome.cpu(back_s, back_s + resync_s);
        let returning: BTreeMap<String, Cpu> =
            cpu.iter().filter(|(name, _)| ["node-2", "node-3"].contains(&name.as_str())).map(clone).collect();
        let name = "returning node";
        findings.add(name, Unit::CpuMicrosPerPayment, nodes_cpu_s(&returning) * 1e6 / level / 2.0);
        add_threads(&mut findings, name, &returning, level, 2);
        findings.add("node that went on", Unit::CpuSeconds, cpu_s(&cpu, "node-1"));
    }
    findings.against("missed and new ones, each node", &context.limit, Yardstick::Nodes(2));
    findings.against("returning node", &context.limit, Yardstick::OneCore);
    findings.notes.push(
        "Three real processes, not a core in memory: two nodes that return together share cores, disk and a peer that \
         serves both and goes on taking payments, and starting is part of what a user waits for."
            .into(),
    );
    Ok(findings)
}

/// A whole storm of a scenario file.
pub(crate) fn whole(context: &Context) -> Result<Findings, BenchError> {
    let scenario = if context.quick { "check".into() } else { context.scenario.clone() };
    let named = context.root.join(SCENARIOS).join(&scenario).with_extension("toml");
    let given = [context.root.join(&scenario), named].into_iter().find(|path| path.is_file());
    let path: PathBuf = required(given, "there is no scenario of that name in loadgen/scenarios, and no such file")?;
    let mut findings = Findings::of(json!({ "scenario": scenario }));
    let mut nodes = 3;
    for _ in context.rounds("storm") {
        let outcome = storm::run_file(context, &path, PACE)?;
        nodes = outcome.report.nodes;
        add_storm(&mut findings, "", &outcome)?;
        for fault in &outcome.report.faults {
            add_dip(&mut findings, fault);
            if let Some(resync_s) = fault.resync_s {
                findings.add(format!("resync after {:.0} s", fault.at_s), Unit::Seconds, resync_s);
            }
        }
    }
    against_limit(&mut findings, context, nodes);
    Ok(findings)
}

/// Everything about a storm that is worth comparing, each name behind `prefix`.
pub(crate) fn add_storm(findings: &mut Findings, prefix: &str, outcome: &Outcome) -> Result<(), BenchError> {
    let report = &outcome.report;
    let (payments, nodes) = (report.offered as f64, f64::from(report.nodes));
    let name = |what: &str| format!("{prefix}{what}");
    let storm_s = required(outcome.storm_s(), "the storm has no mean")?;
    findings.add(name("mean"), Unit::PaymentsPerS, payments / storm_s);
    if let Some(accepted_s) = outcome.accepted_s() {
        findings.add(name("accepted"), Unit::PaymentsPerS, report.accepted as f64 / accepted_s);
    }
    if let Some(best) = report.throughput_tps.best_block {
        findings.add(name("best block"), Unit::PaymentsPerS, best);
    }
    if let Some(ratio) = report.limit.ratio {
        findings.add(name("mean over the limit measured just before"), Unit::Ratio, ratio);
    }
    for (what, latency) in [("accepted", report.latency_ms.accepted), ("final", report.latency_ms.finals)] {
        if let Some(latency) = latency {
            findings.add(name(&format!("{what} p50")), Unit::Milliseconds, latency.p50);
            findings.add(name(&format!("{what} p99")), Unit::Milliseconds, latency.p99);
        }
    }
    if let Some(block) = report.block_final_ms {
        findings.add(name("slot to final p50"), Unit::Milliseconds, block.p50 as f64);
        findings.add(name("slot to final p99"), Unit::Milliseconds, block.p99 as f64);
    }
    let cpu = outcome.cpu(0.0, storm_s);
    findings.add(name("a node"), Unit::CpuMicrosPerPayment, nodes_cpu_s(&cpu) * 1e6 / payments / nodes);
    add_threads(findings, &name("a node"), &cpu, payments, report.nodes);
    if report.resources.contains_key(API_SERVER) {
        findings.add(name("API server"), Unit::CpuMicrosPerPayment, cpu_s(&cpu, API_SERVER) * 1e6 / payments);
    }
    findings.add(name("load generator"), Unit::CpuMicrosPerPayment, loadgen_cpu_s(&cpu) * 1e6 / payments);
    let ours = report.resources.iter().filter(|(process, _)| process.starts_with("node-")).map(|(_, used)| used);
    let (mut rss, mut disk, mut fsyncs) = (0, 0, 0);
    for used in ours {
        rss = rss.max(used.rss_max_bytes);
        disk = disk.max(used.disk_bytes);
        fsyncs = fsyncs.max(used.fsyncs.unwrap_or(0));
    }
    findings.add(name("largest node, resident"), Unit::Bytes, rss as f64);
    findings.add(name("largest node, on disk"), Unit::BytesPerPayment, disk as f64 / payments);
    findings.add(name("busiest node, syncs"), Unit::Count, fsyncs as f64);
    findings.failures.extend(outcome.failures());
    Ok(())
}

/// Compares rates and costs of storms with what this many nodes can check.
pub(crate) fn against_limit(findings: &mut Findings, context: &Context, nodes: u16) {
    for found in findings.measurements.iter().map(|found| found.name.clone()).collect::<Vec<_>>() {
        let of = if found.ends_with("mean") {
            Yardstick::Nodes(nodes)
        } else if found.ends_with("a node") || found.ends_with("API server") {
            Yardstick::OneCore
        } else {
            continue;
        };
        findings.against(&found, &context.limit, of);
    }
}

/// What the threads of the nodes used, for each node and payment.
fn add_threads(findings: &mut Findings, name: &str, cpu: &BTreeMap<String, Cpu>, payments: f64, nodes: u16) {
    let mut threads = [0.0; THREADS.len() + 1];
    for (_, cpu) in cpu.iter().filter(|(process, _)| process.starts_with("node-")) {
        for (thread, seconds) in &cpu.threads_s {
            let place = THREADS.iter().position(|known| known == thread).unwrap_or(THREADS.len());
            threads[place] += seconds;
        }
    }
    for (thread, seconds) in THREADS.into_iter().chain(["other"]).zip(threads) {
        let micros = seconds * 1e6 / payments / f64::from(nodes);
        findings.add(format!("{name}, {thread} threads"), Unit::CpuMicrosPerPayment, micros);
    }
}

fn add_dip(findings: &mut Findings, fault: &FaultReport) {
    if let Some(dip) = fault.dip_ratio {
        findings.add(format!("dip after {:.0} s", fault.at_s), Unit::Ratio, dip);
    }
}

/// Payments in blocks whose slots begin within a stretch of the storm.
fn listed(report: &StormReport, from_s: f64, until_s: f64) -> u64 {
    let within = report.series.blocks.iter().filter(|block| (from_s..until_s).contains(&block.at_s));
    within.map(|block| block.payments).sum()
}

fn clone((name, cpu): (&String, &Cpu)) -> (String, Cpu) {
    (name.clone(), cpu.clone())
}

pub(crate) fn required<T>(found: Option<T>, why: &str) -> Result<T, BenchError> {
    found.ok_or_else(|| BenchError::Wrong(why.into()))
}

/// The storm's scenario, for the report.
pub(crate) fn settings(storm: &Storm) -> serde_json::Value {
    json!({ "scenario": storm.toml() })
}
