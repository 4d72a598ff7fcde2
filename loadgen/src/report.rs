//! The report of a storm: `report.json`, everything that was found; and whether it passed.

mod overload;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api_audit::ApiState;
use crate::audit::{Balances, Halted, NodeState, Verified};
use crate::latency::{CoursePoint, Percentiles};
use crate::relay::Struck;
use crate::resources::Usage;
use crate::scenario::{API_SERVER, Scenario};
use crate::watch::LOADGEN;

pub use overload::OverloadReport;

/// Name of the report in a run directory.
pub const REPORT_FILE: &str = "report.json";
/// Name of the report for people.
pub const HTML_FILE: &str = "report.html";

/// What nodes say that halt because a validator signs twice: see `HaltReason::TwinFound` and
/// `HaltReason::ConflictingFinality`.
const HALT_REASONS: [&str; 2] = ["another node runs with this node's key", "does not descend from the final block"];
/// Kinds of misbehaviour that only a validator shows who signed twice.
const EVIDENCE: [&str; 2] = ["equivocation", "double_vote"];

/// What a storm found. Fields of finality are `null` in reports from before the ledger had it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub passed: bool,
    /// Every threshold that failed, in words.
    pub failures: Vec<String>,
    /// What a reader should know about the figures.
    pub notes: Vec<String>,
    pub scenario: String,
    pub seed: u64,
    pub accounts: u64,
    pub nodes: u64,
    pub block_interval_ms: u64,
    pub started: String,
    /// Payments that were to be sent.
    pub offered: u64,
    /// Payments that left.
    pub sent: u64,
    pub accepted: u64,
    pub included: u64,
    #[serde(rename = "final")]
    pub finals: Option<u64>,
    /// Executed payments that moved no money; `null` if no audit could tell.
    pub rejected: Option<u64>,
    pub expired: u64,
    /// Payments that no node took, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Acknowledged and in no final block at the end.
    pub lost: u64,
    /// Executed more than once.
    pub duplicated: u64,
    /// Listed again by a later batch and skipped.
    pub listed_again: u64,
    /// Final blocks that were contradicted later by a final block or by the teller's own chain, as heard from every node
    /// and from the API server's events during the storm.
    pub final_reverted: Option<u64>,
    /// Final blocks of which it is not known whether they were contradicted.
    #[serde(default)]
    pub final_unknown: u64,
    /// From the beginning of a block's slot until it was final; `null` if none was.
    #[serde(default)]
    pub block_final_ms: Option<BlockFinal>,
    pub double_spends: DoubleSpends,
    pub throughput_tps: Throughput,
    pub latency_ms: Latency,
    /// Of the one receiver, or where receivers are spread of the last payer, which is one: in the token's smallest unit, as
    /// the first node tells it; a text, for it may not fit a JSON number.
    pub receiver_balance: Option<String>,
    pub expected_balance: String,
    /// Balances of payers that were looked at at every node.
    #[serde(default)]
    pub payer_balances: Balances,
    pub nodes_state: Vec<NodeState>,
    pub nodes_equal: bool,
    /// `null` if there is none, or if it did not answer.
    #[serde(default)]
    pub api_server: Option<ApiState>,
    pub verified: Vec<Verified>,
    /// Node processes that stopped for good, and why.
    #[serde(default)]
    pub halts: Vec<Halted>,
    /// What nodes without twins counted of what no correct node does, by node and kind.
    #[serde(default)]
    pub misbehaviour: BTreeMap<String, BTreeMap<String, u64>>,
    pub faults: Vec<FaultReport>,
    /// `null` if the scenario has none.
    #[serde(default)]
    pub overload: Option<OverloadReport>,
    /// Submissions that went out again, by reason.
    pub resends: BTreeMap<String, u64>,
    pub blocks_undone: u64,
    pub resources: BTreeMap<String, Usage>,
    /// Bytes that went over this machine's loopback from the first intended send until the last payment was final, headers
    /// included and whoever sent them; `null` if that is not known.
    #[serde(default)]
    pub loopback_sent_bytes: Option<u64>,
    pub limit: LimitReport,
    /// Seconds for preparing (0 if it was there), making data directories, and until all nodes were active.
    pub start: StartReport,
    pub version: String,
    pub host: Host,
    pub command: String,
    pub series: Series,
    pub settings: Scenario,
}

/// Attempts to spend twice, one payment on each side of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DoubleSpends {
    /// Pairs of which both sides took their payment.
    pub made: u64,
    /// Those that do not end with one final payment and its name told to whoever asks for the other.
    pub unresolved: u64,
}

/// Payments a second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Throughput {
    /// Payments ÷ (first intended send → the last one final, and all nodes equal); `null` if that never was.
    pub mean: Option<f64>,
    pub best_block: Option<f64>,
    /// Payments that left ÷ the time in which they did.
    pub sent: Option<f64>,
    /// Payments that were accepted ÷ (first intended send → the last one of them was).
    #[serde(default)]
    pub accepted: Option<f64>,
}

/// Milliseconds from the beginning of a block's slot until it was final, over the blocks that list payments of the storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockFinal {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
    /// How many blocks that is.
    pub blocks: u64,
}

/// From the intended send time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Latency {
    pub accepted: Option<Percentiles>,
    pub included: Option<Percentiles>,
    #[serde(rename = "final")]
    pub finals: Option<Percentiles>,
}

/// A fault and what it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultReport {
    pub kind: String,
    /// The processes; of a fault of the network, the nodes between which it lay.
    pub targets: Vec<String>,
    /// The same for people, who is parted from whom included; empty in reports of older versions.
    #[serde(default)]
    pub whom: String,
    /// Seconds from the first intended send.
    pub at_s: f64,
    pub duration_s: f64,
    /// `null` if no node was left, or the fault held no whole slot.
    pub dip_ratio: Option<f64>,
    /// From the restart until active and within one block of the head; of a fault of the network, from the healing until
    /// all nodes stood at the same block. `null` if that never was.
    pub resync_s: Option<f64>,
    /// Nodes that were started again and loaded no checkpoint; `null` if that is not known.
    #[serde(default)]
    pub without_checkpoint: Option<Vec<String>>,
    /// Whether each of them surely had one to load.
    #[serde(default)]
    pub checkpoint_due: bool,
    /// Whether a dip can be told of it at all.
    pub dip_defined: bool,
    /// Datagrams between nodes that it struck; `null` for faults of processes.
    #[serde(default)]
    pub struck: Option<Struck>,
    /// Blocks that became final while it lasted; `null` if it was too short to tell.
    #[serde(default)]
    pub final_during: Option<u64>,
    /// How many of those its scenario allows.
    #[serde(default)]
    pub final_during_max: Option<u64>,
    /// Seconds from its end until a block became final that was not final before; `null` if the storm was over before.
    #[serde(default)]
    pub first_final_s: Option<f64>,
}

impl FaultReport {
    /// What a chart's mark says: kind and whom.
    pub fn label(&self) -> String {
        match self.whom.is_empty() {
            true => format!("{} {}", self.kind, self.targets.join(", ")),
            false => format!("{} {}", self.kind, self.whom),
        }
    }
}

/// What the machine could check, and how much of that the storm reached.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LimitReport {
    pub verify_per_s_per_core: f64,
    pub cores: usize,
    /// Payments a second at which this many nodes on this machine do nothing but check signatures.
    pub payments_per_s: f64,
    /// Mean throughput over that.
    pub ratio: Option<f64>,
}

/// How long it took to begin.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct StartReport {
    pub prepare_s: f64,
    pub init_s: f64,
    pub active_s: f64,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
}

/// What the charts show.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Series {
    pub blocks: Vec<BlockPoint>,
    pub accepted: Vec<CoursePoint>,
    pub included: Vec<CoursePoint>,
    #[serde(default, rename = "final")]
    pub finals: Vec<CoursePoint>,
}

/// A block of the storm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BlockPoint {
    pub height: u64,
    pub slot: u64,
    /// Seconds from the first intended send to the beginning of its slot.
    pub at_s: f64,
    pub payments: u64,
    pub proposer: u16,
    pub rank: u16,
}

impl Report {
    /// Judges everything that must hold, and sets `passed` and `failures`. What is found before stays.
    pub fn judge(&mut self) {
        let failures = if self.settings.audit.halt { self.broken_by_halting() } else { self.broken() };
        for failure in failures {
            // Judging a stored report again must not tell everything twice.
            if !self.failures.contains(&failure) {
                self.failures.push(failure);
            }
        }
        self.passed = self.failures.is_empty();
    }

    /// What does not hold of a storm that the nodes are not to outlive.
    fn broken_by_halting(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        must(self.accepted == self.offered, format!("{} of {} payments were accepted", self.accepted, self.offered));
        for node in self.settings.process_names() {
            let halted = self.halts.iter().find(|halted| halted.node == node);
            must(halted.is_some(), format!("{node} did not halt"));
            let reason = halted.map_or("", |halted| halted.reason.as_str());
            let expected = HALT_REASONS.iter().any(|expected| reason.contains(expected));
            must(halted.is_none() || expected, format!("{node} halted for another reason: {reason}"));
        }
        let (found, planned) = (self.faults.len(), self.settings.faults.len());
        must(found == planned, format!("{found} of {planned} faults are recorded"));
        failures
    }

    /// What does not hold of a storm that the nodes are to outlive.
    fn broken(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        must(self.sent == self.offered, format!("{} of {} payments were sent", self.sent, self.offered));
        // In an overload most are refused, and some of those without an answer were taken.
        let wanted = self.settings.overload.map_or(self.offered, |_| self.accepted);
        must(self.accepted == wanted, format!("{} of {wanted} payments were accepted", self.accepted));
        let all = self.included == wanted || self.included > wanted && self.settings.overload.is_some();
        must(all, format!("{} of {wanted} payments are in the chain", self.included));
        must(self.overload.is_some() == self.settings.overload.is_some(), "there is no record of the overload".into());
        for broken in self.overload.iter().flat_map(OverloadReport::broken) {
            must(false, broken);
        }
        must(self.lost == 0, format!("{} acknowledged payments are lost: in no final block", self.lost));
        let DoubleSpends { made, unresolved } = self.double_spends;
        must(unresolved == 0, format!("{unresolved} of {made} double spends are unresolved"));
        let wanted = self.settings.accounts_of_double_spends() > 0;
        must(!wanted || made > 0, "no double spend was taken by both sides".into());
        let reverted = self.final_reverted.unwrap_or(0);
        must(reverted == 0, format!("{reverted} final blocks were contradicted later"));
        let unknown = self.final_unknown;
        must(unknown == 0, format!("of {unknown} final blocks it is not known whether they were contradicted"));
        must(self.duplicated == 0, format!("{} payments were executed more than once", self.duplicated));
        must(self.rejected.is_none_or(|rejected| rejected == 0), format!("{:?} payments were rejected", self.rejected));
        must(self.nodes_equal, "the nodes' heights, blocks and state roots differ".into());
        let right = self.receiver_balance.as_ref() == Some(&self.expected_balance);
        let balance = self.receiver_balance.as_deref().unwrap_or("unknown");
        must(right, format!("the receiver's balance is {balance} instead of {}", self.expected_balance));
        for wrong in &self.payer_balances.wrong {
            must(false, format!("a payer's balance is wrong: {wrong}"));
        }
        if self.settings.has_api_server() {
            let known = self.api_server.as_ref();
            let level = known.is_some_and(|api| api.as_the_nodes);
            must(level, "the API server's height, block or state root is not the nodes'".into());
            let balance = known.map_or("unknown", |api| api.receiver_balance.as_str());
            let right = balance == self.expected_balance;
            must(right, format!("the API server tells the balance {balance} instead of {}", self.expected_balance));
        }
        for verified in &self.verified {
            let state = self.nodes_state.iter().find(|state| state.node == verified.node);
            let behind = state.is_none_or(|state| verified.height >= state.height);
            must(behind, format!("node verify finds {} only up to height {}", verified.node, verified.height));
            must(verified.sums_are_zero(), format!("token sums of {} are {}", verified.node, verified.sums));
            // Blocks after the audit carry no payments, so the root stays what it was.
            let root = state.is_none_or(|state| verified.state_root == state.state_root);
            must(root, format!("node verify finds the state root {} of {}", verified.state_root, verified.node));
        }
        // Thresholds look only at faults that are here; one that is missing must not pass them.
        let (found, planned) = (self.faults.len(), self.settings.faults.len());
        must(found == planned, format!("{found} of {planned} faults are recorded"));
        for fault in &self.faults {
            let back =
                format!("resync_s of the {} at {} s is unknown: not all targets came back", fault.kind, fault.at_s);
            must(fault.resync_s.is_some(), back);
            let real = fault.struck.is_none_or(|struck| struck.total() > 0);
            must(real, format!("the {} at {} s struck no datagram", fault.kind, fault.at_s));
        }
        for fault in &self.faults {
            let most = fault.final_during_max;
            let held = most.is_none_or(|most| fault.final_during.is_some_and(|found| found <= most));
            let found = fault.final_during.map_or("an unknown number of".into(), |found| found.to_string());
            let most = most.unwrap_or_default();
            must(
                held,
                format!(
                    "{found} blocks became final during the {} at {} s, at most {most} are allowed",
                    fault.kind, fault.at_s
                ),
            );
        }
        for fault in self.faults.iter().filter(|fault| fault.checkpoint_due && fault.resync_s.is_some()) {
            let without = fault.without_checkpoint.as_ref().map_or("unknown nodes".into(), |nodes| nodes.join(", "));
            let loaded = fault.without_checkpoint.as_ref().is_some_and(Vec::is_empty);
            must(loaded, format!("{without} loaded no checkpoint after the {} at {} s", fault.kind, fault.at_s));
        }
        let signed_twice: u64 =
            self.misbehaviour.values().flat_map(|counted| EVIDENCE.map(|kind| counted.get(kind))).flatten().sum();
        let evident = !self.settings.audit.evidence || signed_twice > 0;
        must(evident, "no node counted a validator that signed twice".into());
        failures.extend(self.broken_thresholds());
        failures
    }

    fn broken_thresholds(&self) -> Vec<String> {
        let thresholds = &self.settings.thresholds;
        let accepted = self.latency_ms.accepted;
        let mut broken = Vec::new();
        let mut least = |name: String, found: Option<f64>, wanted: Option<f64>| {
            if let Some(wanted) = wanted
                && found.is_none_or(|found| found < wanted)
            {
                broken.push(format!("{name} is {}, at least {wanted} is wanted", told(found)));
            }
        };
        least("mean throughput".into(), self.throughput_tps.mean, thresholds.mean_tps_min);
        least("sent throughput".into(), self.throughput_tps.sent, thresholds.sent_tps_min);
        let goodput_ratio = self.overload.as_ref().and_then(|overload| overload.goodput_ratio);
        least("goodput_ratio".into(), goodput_ratio, thresholds.goodput_ratio_min);
        for fault in self.faults.iter().filter(|fault| fault.dip_defined) {
            least(
                format!("dip_ratio of the {} at {} s", fault.kind, fault.at_s),
                fault.dip_ratio,
                thresholds.dip_ratio_min,
            );
        }
        let mut most = |name: String, found: Option<f64>, wanted: Option<f64>| {
            if let Some(wanted) = wanted
                && found.is_none_or(|found| found > wanted)
            {
                broken.push(format!("{name} is {}, at most {wanted} is wanted", told(found)));
            }
        };
        most("accepted p90 in ms".into(), accepted.map(|found| found.p90), thresholds.accepted_p90_ms_max);
        most("accepted p99 in ms".into(), accepted.map(|found| found.p99), thresholds.accepted_p99_ms_max);
        let included = self.latency_ms.included;
        most("included p99 in ms".into(), included.map(|found| found.p99), thresholds.included_p99_ms_max);
        let finals = self.latency_ms.finals;
        most("final p99 in ms".into(), finals.map(|found| found.p99), thresholds.final_p99_ms_max);
        // One without a figure has failed already, whether the scenario bounds it or not.
        for fault in self.faults.iter().filter(|fault| fault.resync_s.is_some()) {
            let name = format!("resync_s of the {} at {} s", fault.kind, fault.at_s);
            most(name.clone(), fault.resync_s, thresholds.resync_s_max);
            let outage = thresholds.resync_below_outage.then_some(fault.duration_s);
            most(name, fault.resync_s, outage);
        }
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
        let peak = |usage: &Usage| Some(usage.rss_max_bytes);
        let memory = [
            ("resident memory of the largest process", self.largest(|_| true, peak), thresholds.rss_max_bytes),
            (
                "resident memory of the largest node after the start",
                self.largest(is_node, |usage| usage.rss_after_start_bytes),
                thresholds.node_rss_after_start_max_bytes,
            ),
            ("resident memory of the largest node", self.largest(is_node, peak), thresholds.node_rss_max_bytes),
            (
                "resident memory of the API server",
                self.largest(|name| name == API_SERVER, peak),
                thresholds.api_server_rss_max_bytes,
            ),
            (
                "resident memory of the load generator",
                self.largest(|name| name == LOADGEN, peak),
                thresholds.loadgen_rss_max_bytes,
            ),
        ];
        for (name, found, wanted) in memory {
            most(name.into(), bytes(found), bytes(wanted));
        }
        broken
    }

    /// The most that a process of some kind used.
    fn largest(&self, kind: fn(&str) -> bool, used: fn(&Usage) -> Option<u64>) -> Option<u64> {
        let found = self.resources.iter().filter(|(name, _)| kind(name));
        found.filter_map(|(_, usage)| used(usage)).max()
    }

    /// The report in a few lines for the terminal.
    pub fn summary(&self) -> String {
        let count = |found: Option<u64>| found.map_or("-".into(), |found| found.to_string());
        let ms = |found: Option<Percentiles>| {
            found.map_or("-".into(), |found| {
                format!("p50 {:.0}, p90 {:.0}, p99 {:.0} ms", found.p50, found.p90, found.p99)
            })
        };
        let mut lines = vec![
            format!("{} {}", self.scenario, if self.passed { "passed" } else { "FAILED" }),
            format!(
                "  offered {}, accepted {}, included {}, final {}, lost {}, duplicated {}, final_reverted {}, nodes_equal {}",
                self.offered,
                self.accepted,
                self.included,
                count(self.finals),
                self.lost,
                self.duplicated,
                count(self.final_reverted),
                self.nodes_equal
            ),
            format!(
                "  receiver_balance {} (expected {})",
                self.receiver_balance.as_deref().unwrap_or("unknown"),
                self.expected_balance
            ),
            format!(
                "  throughput mean {}, best block {}, sent {}, accepted {}",
                per_s(self.throughput_tps.mean),
                per_s(self.throughput_tps.best_block),
                per_s(self.throughput_tps.sent),
                per_s(self.throughput_tps.accepted)
            ),
            format!("  accepted {}", ms(self.latency_ms.accepted)),
            format!("  included {}", ms(self.latency_ms.included)),
            format!("  final {}", ms(self.latency_ms.finals)),
        ];
        lines.extend(self.overload.as_ref().map(OverloadReport::in_words));
        lines.extend(self.block_final_ms.map(|found| {
            let BlockFinal { p50, p99, max, blocks } = found;
            format!("  blocks final after p50 {p50}, p99 {p99}, max {max} ms from their slots ({blocks} blocks)")
        }));
        if self.settings.accounts_of_double_spends() > 0 {
            let DoubleSpends { made, unresolved } = self.double_spends;
            lines.push(format!("  double spends made {made}, unresolved {unresolved}"));
        }
        lines.extend(self.misbehaviour.iter().map(|(node, counted)| {
            let counted: Vec<String> = counted.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            format!("  {node} counted {}", counted.join(", "))
        }));
        lines.extend(self.halts.iter().map(|Halted { node, reason }| format!("  {node} halted: {reason}")));
        for fault in &self.faults {
            lines.push(format!(
                "  {} at {:.1} s for {:.1} s: dip_ratio {}, resync_s {}, final_during {}, first_final_s {}",
                fault.label(),
                fault.at_s,
                fault.duration_s,
                told(fault.dip_ratio),
                told(fault.resync_s),
                count(fault.final_during),
                told(fault.first_final_s)
            ));
            lines.extend(fault.struck.map(|struck| format!("    {}", struck.in_words())));
        }
        lines.extend(self.failures.iter().map(|failure| format!("  failed: {failure}")));
        lines.join("\n")
    }
}

fn is_node(name: &str) -> bool {
    name != API_SERVER && name != LOADGEN
}

fn told(found: Option<f64>) -> String {
    found.map_or("unknown".into(), |found| format!("{found:.3}"))
}

fn per_s(found: Option<f64>) -> String {
    found.map_or("-".into(), |found| format!("{found:.0}/s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report_sample::sample;

    /// A word of the failure that is expected, and what brings it about.
    type Break<T> = (&'static str, fn(&mut T));

    #[test]
    fn the_json_holds_every_field_that_was_promised() {
        let json = serde_json::to_value(sample()).unwrap();
        let fields = [
            "passed",
            "scenario",
            "seed",
            "accounts",
            "nodes",
            "block_interval_ms",
            "offered",
            "accepted",
            "included",
            "final",
            "rejected",
            "expired",
            "lost",
            "duplicated",
            "final_reverted",
            "double_spends",
            "throughput_tps",
            "latency_ms",
            "receiver_balance",
            "expected_balance",
            "nodes_state",
            "nodes_equal",
            "faults",
            "resources",
            "limit",
            "version",
            "host",
            "command",
        ];
        for field in fields {
            assert!(json.get(field).is_some(), "the report lacks {field}");
        }
        let nested = [
            ("/double_spends", "made unresolved"),
            ("/throughput_tps", "mean best_block sent accepted"),
            ("/latency_ms", "accepted included final"),
            ("/latency_ms/accepted", "p50 p90 p99 p999 max"),
            ("/latency_ms/final", "p50 p90 p99 p999 max"),
            ("/block_final_ms", "p50 p99"),
            ("/nodes_state/0", "node height block state_root"),
            ("/faults/0", "kind targets at_s duration_s dip_ratio resync_s final_during first_final_s"),
            ("/resources/node-1", "cpu_s storm_cpu_s rss_max_bytes rss_after_start_bytes disk_bytes fsyncs"),
            ("/limit", "verify_per_s_per_core ratio"),
        ];
        for (place, fields) in nested {
            let part = json.pointer(place).unwrap_or_else(|| panic!("the report lacks {place}"));
            for field in fields.split(' ') {
                assert!(part.get(field).is_some(), "{place} lacks {field}");
            }
        }
    }

    #[test]
    fn the_json_is_read_again_as_it_was_written() {
        let report = sample();
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }

    fn judged(change: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut report = sample();
        change(&mut report);
        report.judge();
        assert_eq!(report.passed, report.failures.is_empty());
        report.failures
    }

    #[test]
    fn a_good_storm_passes() {
        assert_eq!(judged(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn what_must_always_hold_is_judged_without_a_threshold() {
        let broken: [Break<Report>; 13] = [
            ("a payer's balance", |report| report.payer_balances.wrong.push("payer 3 holds 5, not 0".into())),
            ("double spends are unresolved", |report| report.double_spends = DoubleSpends { made: 2, unresolved: 1 }),
            ("no double spend was taken", |report| report.settings.faults[0].double_spends = Some(1)),
            ("lost", |report| report.lost = 1),
            ("contradicted later", |report| report.final_reverted = Some(1)),
            ("not known whether", |report| report.final_unknown = 1),
            ("more than once", |report| report.duplicated = 1),
            ("rejected", |report| report.rejected = Some(2)),
            ("differ", |report| report.nodes_equal = false),
            ("balance", |report| report.receiver_balance = Some("5000049999".into())),
            ("balance is unknown", |report| report.receiver_balance = None),
            ("in the chain", |report| report.included -= 1),
            ("accepted", |report| report.accepted -= 1),
        ];
        for (word, change) in broken {
            let failures = judged(change);
            assert!(failures.iter().any(|failure| failure.contains(word)), "{word}: {failures:?}");
        }
    }

    #[test]
    fn an_api_server_must_stand_with_the_nodes_and_tell_their_balance() {
        let api = |report: &mut Report, change: fn(&mut ApiState)| change(report.api_server.as_mut().unwrap());
        let failures = judged(|report| api(report, |api| api.as_the_nodes = false));
        assert!(failures.len() == 1 && failures[0].contains("not the nodes'"), "{failures:?}");
        let failures = judged(|report| api(report, |api| api.receiver_balance = "5000049999".into()));
        assert!(failures.len() == 1 && failures[0].contains("5000049999"), "{failures:?}");
        assert_eq!(judged(|report| report.api_server = None).len(), 2);
        let without = judged(|report| {
            report.settings.network.api_server = false;
            report.api_server = None;
        });
        assert_eq!(without, Vec::<String>::new());
    }

    #[test]
    fn a_fault_without_a_record_or_without_an_end_fails_also_without_thresholds() {
        let without = |change: fn(&mut Report)| {
            judged(|report| {
                report.settings.thresholds = crate::scenario::Thresholds::default();
                change(report);
            })
        };
        assert_eq!(without(|_| {}), Vec::<String>::new());
        assert_eq!(without(|report| report.faults.clear()), ["0 of 1 faults are recorded"]);
        let unknown = "resync_s of the kill at 20 s is unknown: not all targets came back";
        assert_eq!(without(|report| report.faults[0].resync_s = None), [unknown]);
    }

    #[test]
    fn where_all_nodes_are_to_halt_each_must_have_said_why() {
        let halted = |node: &str, reason: &str| Halted { node: node.into(), reason: reason.into() };
        let twin = "another node runs with this node's key (its boot id is 0x1); stop one of the two";
        let conflict = "decision 4 made block ab at height 9 final, and it does not descend from the final block cd";
        let good = || vec![halted("node-1", conflict), halted("node-2", twin), halted("node-3", conflict)];
        let judged = |change: fn(&mut Report), halts: Vec<Halted>| {
            judged(|report| {
                report.settings.audit.halt = true;
                (report.lost, report.nodes_equal, report.final_reverted) = (7, false, Some(3));
                report.halts = halts;
                change(report);
            })
        };
        assert_eq!(judged(|_| {}, good()), Vec::<String>::new());
        assert_eq!(judged(|_| {}, good()[1..].to_vec()), ["node-1 did not halt"]);
        let archive = vec![halted("node-1", "the archive failed: gone"), good()[1].clone(), good()[2].clone()];
        assert_eq!(judged(|_| {}, archive), ["node-1 halted for another reason: the archive failed: gone"]);
        assert_eq!(judged(|report| report.faults.clear(), good()), ["0 of 1 faults are recorded"]);
    }

    #[test]
    fn evidence_must_be_counted_by_an_honest_node_if_it_is_wanted() {
        let counted = |kind: &str| {
            judged(|report| {
                report.settings.audit.evidence = true;
                report.misbehaviour = [("node-1".to_owned(), [(kind.to_owned(), 2)].into())].into();
            })
        };
        assert_eq!(counted("equivocation"), Vec::<String>::new());
        assert_eq!(counted("double_vote"), Vec::<String>::new());
        assert_eq!(counted("bad_signature"), ["no node counted a validator that signed twice"]);
    }

    #[test]
    fn a_fault_of_the_network_must_have_struck_something() {
        let struck = |dropped| judged(|report| report.faults[0].struck = Some(Struck { dropped, ..Struck::default() }));
        assert_eq!(struck(1), Vec::<String>::new());
        assert_eq!(struck(0), ["the kill at 20 s struck no datagram"]);
    }

    #[test]
    fn nodes_that_are_started_again_must_load_the_checkpoint_that_was_due() {
        let restarted = |found: Option<&[&str]>, due| {
            judged(|report| {
                report.faults[0].checkpoint_due = due;
                report.faults[0].without_checkpoint =
                    found.map(|names| names.iter().map(|&name| name.into()).collect());
            })
        };
        assert_eq!(restarted(Some(&[]), true), Vec::<String>::new());
        assert_eq!(restarted(Some(&["node-3"]), true), ["node-3 loaded no checkpoint after the kill at 20 s"]);
        assert_eq!(restarted(None, true), ["unknown nodes loaded no checkpoint after the kill at 20 s"]);
        assert_eq!(restarted(Some(&["node-3"]), false), Vec::<String>::new());
    }

    #[test]
    fn thresholds_of_the_scenario_are_judged_and_unknown_figures_fail_them() {
        let broken: [Break<Report>; 9] = [
            ("dip_ratio", |report| report.faults[0].dip_ratio = Some(0.979)),
            ("dip_ratio", |report| report.faults[0].dip_ratio = None),
            ("resync_s", |report| report.faults[0].resync_s = Some(15.1)),
            ("resync_s", |report| report.faults[0].resync_s = None),
            ("accepted p90", |report| report.latency_ms.accepted = None),
            ("1 blocks became final during the kill", |report| report.faults[0].final_during = Some(1)),
            ("unknown number of blocks became final", |report| report.faults[0].final_during = None),
            ("final p99", |report| report.settings.thresholds.final_p99_ms_max = Some(3_000.0)),
            ("mean", |report| {
                report.settings.thresholds.mean_tps_min = Some(5_000.0);
            }),
        ];
        for (word, change) in broken {
            let failures = judged(change);
            assert_eq!(failures.len(), 1, "{failures:?}");
            assert!(failures[0].contains(word), "{word}: {failures:?}");
        }
    }

    #[test]
    fn memory_is_judged_by_kind_of_process() {
        let usage = |rss_max_bytes| Usage { rss_max_bytes, rss_after_start_bytes: Some(7), ..Usage::default() };
        let resources = [("node-1", 30), ("node-2", 40), (API_SERVER, 50), (LOADGEN, 20)];
        let memory = |change: fn(&mut crate::scenario::Thresholds)| {
            judged(|report| {
                report.resources = resources.map(|(name, bytes)| (name.to_owned(), usage(bytes))).into();
                change(&mut report.settings.thresholds);
            })
        };
        assert_eq!(memory(|most| most.node_rss_max_bytes = Some(40)), Vec::<String>::new());
        assert_eq!(memory(|most| most.node_rss_max_bytes = Some(39)).len(), 1);
        assert_eq!(memory(|most| most.api_server_rss_max_bytes = Some(50)), Vec::<String>::new());
        assert_eq!(memory(|most| most.api_server_rss_max_bytes = Some(49)).len(), 1);
        assert_eq!(memory(|most| most.loadgen_rss_max_bytes = Some(19)).len(), 1);
        assert_eq!(memory(|most| most.node_rss_after_start_max_bytes = Some(6)).len(), 1);
        assert_eq!(memory(|most| most.rss_max_bytes = Some(49)).len(), 1);
    }

    #[test]
    fn verified_data_must_reach_the_audited_state_and_sum_to_zero() {
        let verified = Verified {
            node: "node-2".into(),
            height: 21,
            block: "ef".into(),
            state_root: "cd".into(),
            applied: 100_000,
            rejected: 0,
            skipped: 0,
            distinct: 100_000,
            sums: serde_json::json!({ "1": "0" }),
        };
        assert_eq!(judged(|report| report.verified.push(verified.clone())), Vec::<String>::new());
        let broken: [Break<Verified>; 3] = [
            ("up to height 19", |verified| verified.height = 19),
            ("state root", |verified| verified.state_root = "00".into()),
            ("sums", |verified| verified.sums = serde_json::json!({ "1": "-5" })),
        ];
        for (word, change) in broken {
            let mut wrong = verified.clone();
            change(&mut wrong);
            let failures = judged(|report| report.verified.push(wrong));
            assert!(failures.len() == 1 && failures[0].contains(word), "{word}: {failures:?}");
        }
    }

    #[test]
    fn a_dip_that_is_not_defined_is_not_judged() {
        let failures = judged(|report| {
            report.faults[0].dip_defined = false;
            report.faults[0].dip_ratio = None;
        });
        assert_eq!(failures, Vec::<String>::new());
    }
}
