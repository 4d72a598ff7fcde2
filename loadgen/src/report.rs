//! The report of a storm: `report.json`, everything that was found; and whether it passed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::{NodeState, Verified};
use crate::latency::{CoursePoint, Percentiles};
use crate::resources::Usage;
use crate::scenario::Scenario;

/// Name of the report in a run directory.
pub const REPORT_FILE: &str = "report.json";
/// Name of the report for people.
pub const HTML_FILE: &str = "report.html";

/// What a storm found. Fields of finality are `null` until the ledger has it.
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
    /// Acknowledged and not in the chain at the end.
    pub lost: u64,
    /// Executed more than once.
    pub duplicated: u64,
    /// Listed again by a later batch and skipped.
    pub listed_again: u64,
    pub final_reverted: Option<u64>,
    pub double_spends: DoubleSpends,
    pub throughput_tps: Throughput,
    pub latency_ms: Latency,
    /// In the token's smallest unit, as the first node tells it; a text, for it may not fit a JSON number.
    pub receiver_balance: Option<String>,
    pub expected_balance: String,
    pub nodes_state: Vec<NodeState>,
    pub nodes_equal: bool,
    pub verified: Vec<Verified>,
    pub faults: Vec<FaultReport>,
    /// Submissions that went out again, by reason.
    pub resends: BTreeMap<String, u64>,
    pub blocks_undone: u64,
    pub resources: BTreeMap<String, Usage>,
    pub limit: LimitReport,
    /// Seconds for preparing (0 if it was there), making data directories, and until all nodes were active.
    pub start: StartReport,
    pub version: String,
    pub host: Host,
    pub command: String,
    pub series: Series,
    pub settings: Scenario,
}

/// Attempts to spend twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DoubleSpends {
    pub made: u64,
    pub unresolved: u64,
}

/// Payments a second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Throughput {
    /// Payments ÷ (first intended send → the last one included, and all nodes equal); `null` if that never was.
    pub mean: Option<f64>,
    pub best_block: Option<f64>,
    /// Payments that left ÷ the time in which they did.
    pub sent: Option<f64>,
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
    pub targets: Vec<String>,
    /// Seconds from the first intended send.
    pub at_s: f64,
    pub duration_s: f64,
    /// `null` if no node was left, or the fault held no whole slot.
    pub dip_ratio: Option<f64>,
    /// `null` if a target never came back.
    pub resync_s: Option<f64>,
    /// Whether a dip can be told of it at all.
    pub dip_defined: bool,
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
        let mut failures = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        must(self.sent == self.offered, format!("{} of {} payments were sent", self.sent, self.offered));
        must(self.accepted == self.offered, format!("{} of {} payments were accepted", self.accepted, self.offered));
        must(self.included == self.offered, format!("{} of {} payments are in the chain", self.included, self.offered));
        must(self.lost == 0, format!("{} acknowledged payments are lost", self.lost));
        must(self.duplicated == 0, format!("{} payments were executed more than once", self.duplicated));
        must(self.rejected.is_none_or(|rejected| rejected == 0), format!("{:?} payments were rejected", self.rejected));
        must(self.nodes_equal, "the nodes' heights, blocks and state roots differ".into());
        let right = self.receiver_balance.as_ref() == Some(&self.expected_balance);
        let balance = self.receiver_balance.as_deref().unwrap_or("unknown");
        must(right, format!("the receiver's balance is {balance} instead of {}", self.expected_balance));
        for verified in &self.verified {
            let state = self.nodes_state.iter().find(|state| state.node == verified.node);
            let behind = state.is_none_or(|state| verified.height >= state.height);
            must(behind, format!("node verify finds {} only up to height {}", verified.node, verified.height));
            must(verified.sums_are_zero(), format!("token sums of {} are {}", verified.node, verified.sums));
        }
        failures.extend(self.broken_thresholds());
        self.failures.extend(failures);
        self.passed = self.failures.is_empty();
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
        for fault in &self.faults {
            let name = format!("resync_s of the {} at {} s", fault.kind, fault.at_s);
            most(name.clone(), fault.resync_s, thresholds.resync_s_max);
            let outage = thresholds.resync_below_outage.then_some(fault.duration_s);
            most(name, fault.resync_s, outage);
        }
        let rss = self.resources.values().map(|usage| usage.rss_max_bytes).max();
        let rss_most = thresholds.rss_max_bytes.map(|bytes| bytes as f64);
        most("resident memory of the largest process".into(), rss.map(|bytes| bytes as f64), rss_most);
        broken
    }

    /// The report in a few lines for the terminal.
    pub fn summary(&self) -> String {
        let tps = |found: Option<f64>| found.map_or("-".into(), |found| format!("{found:.0}/s"));
        let ms = |found: Option<Percentiles>| {
            found.map_or("-".into(), |found| {
                format!("p50 {:.0}, p90 {:.0}, p99 {:.0} ms", found.p50, found.p90, found.p99)
            })
        };
        let mut lines = vec![
            format!("{} {}", self.scenario, if self.passed { "passed" } else { "FAILED" }),
            format!(
                "  offered {}, accepted {}, included {}, lost {}, duplicated {}, nodes_equal {}",
                self.offered, self.accepted, self.included, self.lost, self.duplicated, self.nodes_equal
            ),
            format!(
                "  receiver_balance {} (expected {})",
                self.receiver_balance.as_deref().unwrap_or("unknown"),
                self.expected_balance
            ),
            format!(
                "  throughput mean {}, best block {}, sent {}",
                tps(self.throughput_tps.mean),
                tps(self.throughput_tps.best_block),
                tps(self.throughput_tps.sent)
            ),
            format!("  accepted {}", ms(self.latency_ms.accepted)),
            format!("  included {}", ms(self.latency_ms.included)),
        ];
        for fault in &self.faults {
            lines.push(format!(
                "  {} of {} at {:.1} s for {:.1} s: dip_ratio {}, resync_s {}",
                fault.kind,
                fault.targets.join(", "),
                fault.at_s,
                fault.duration_s,
                told(fault.dip_ratio),
                told(fault.resync_s)
            ));
        }
        lines.extend(self.failures.iter().map(|failure| format!("  failed: {failure}")));
        lines.join("\n")
    }
}

fn told(found: Option<f64>) -> String {
    found.map_or("unknown".into(), |found| format!("{found:.3}"))
}
