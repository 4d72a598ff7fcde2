//! The scenario file: what a storm is, what goes wrong during it, and what must hold in the end.

mod check;
mod network_fault;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeni_ledger::genesis::FaultModel;
use zeni_ledger::window::WINDOW_WIDTH;

use crate::double_spends;
use crate::plan::Receivers;
use crate::prepare::{self, Parameters};
use crate::relay::Way;

/// Phases of one scenario, at most.
pub const PHASES_MAX: usize = 64;
/// Faults of one scenario, at most.
pub const FAULTS_MAX: usize = 64;
/// Nodes that one scenario starts, at most.
pub const NODES_MAX: u16 = 32;
/// The name of the API server's process.
pub const API_SERVER: &str = "api-server";

/// A checked scenario.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Letters, digits and dashes; part of the run directory's name.
    pub name: String,
    /// Of keys and payments.
    pub seed: u64,
    /// Accounts that hold something at genesis.
    pub accounts: u64,
    /// How many of them pay, spread evenly over all; all if absent. So the same payments can be made among more accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paying_accounts: Option<u64>,
    /// How often each of those pays. Everybody's first payment comes before anyone's second, and an account has as many
    /// payments under way as its window of 128 sequences takes from the last final block on: whoever pays more often waits for
    /// finality, so that a single payer gets at most 128 payments into a block.
    #[serde(default = "prepare::once", skip_serializing_if = "prepare::is_once")]
    pub payments_per_account: u64,
    /// One account gets everything (`"hot"`), or each paying account gets from another one (`"spread"`).
    #[serde(default, skip_serializing_if = "prepare::is_hot")]
    pub receivers: Receivers,
    pub target: Target,
    /// The node that `target = "one"` means; the first if absent.
    #[serde(default)]
    pub target_node: Option<String>,
    pub network: Network,
    pub phases: Vec<Phase>,
    /// What follows the phases, of which the last is then at full speed for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overload: Option<Overload>,
    #[serde(default)]
    pub faults: Vec<Fault>,
    #[serde(default)]
    pub audit: Audit,
    #[serde(default)]
    pub thresholds: Thresholds,
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// Who the payments go to first. What does not answer is replaced by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// All to one node.
    One,
    /// To every node in turn.
    Spread,
    /// All to the API server's bulk call.
    Api,
}

/// The network: started here, unless `attach` names one that runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub nodes: u16,
    pub block_interval_ms: u64,
    /// The state tree has 2^depth buckets.
    pub state_depth: u32,
    #[serde(default = "default_batches_max")]
    pub batches_max: u32,
    #[serde(default = "default_true")]
    pub api_server: bool,
    #[serde(default)]
    pub checkpoint: Option<Checkpoint>,
    #[serde(default)]
    pub attach: Option<Attach>,
    /// Of genesis: what validators may do without two final blocks contradicting each other.
    #[serde(default = "prepare::crash", skip_serializing_if = "prepare::is_crash")]
    pub fault_model: FaultModel,
    /// How long a starting node waits to hear from every validator, in milliseconds; as long as nodes do by themselves if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joining_ms: Option<u64>,
    /// Second processes with the key of a node, each with an address and data of its own. Neither the node nor its twin is
    /// honest: payments go to others, and what is audited is the others'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub twins: Vec<Twin>,
}

/// A second process with the key of a node. It is named after it: `node-2-twin`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Twin {
    pub of: String,
    /// Nodes that look for the node's key where the twin is. All others look where the node is.
    pub heard_by: Vec<String>,
}

impl Twin {
    pub fn name(&self) -> String {
        format!("{}-twin", self.of)
    }
}

/// When the processes take checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    pub interval_s: u64,
}

/// A network that runs already, on the genesis of this scenario's prepared input.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// QUIC addresses in the order of genesis.
    pub nodes: Vec<String>,
    /// HTTP address of the API server, `host:port`.
    #[serde(default)]
    pub api_server: Option<String>,
}

/// A stretch of the storm. Exactly one of `payments` and `duration_s`; the last phase takes what is left.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    #[serde(default)]
    pub payments: Option<u64>,
    #[serde(default)]
    pub duration_s: Option<u64>,
    pub rate_per_s: Rate,
    /// Submissions of up to 1,024 payments that wait for an answer at full speed.
    #[serde(default = "default_in_flight")]
    pub in_flight: usize,
}

/// Payments are offered at a rate that the ledger does not clear, whatever is answered: see [`crate::overload`]. Those that
/// are not taken in the end are not lost, for nobody promised anything.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Overload {
    /// The rate, as a multiple of what was accepted a second in the last phase.
    pub times: f64,
    pub duration_s: u64,
    /// Submissions of up to 1,024 payments that wait for an answer, at most; further ones are not offered at their time. It must
    /// be enough for the nodes' queues, or nobody has anything to refuse: 64 fill one of 65,536 payments.
    pub in_flight: usize,
}

/// How fast payments are sent.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Rate {
    /// Open loop: each payment has its moment, whatever became of those before it.
    PerSecond(u32),
    /// Closed loop, a bounded number of submissions in flight.
    Full(Full),
}

/// The word `full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Full {
    Full,
}

/// Something that goes wrong, and is undone.
///
/// Faults of processes have `targets`. Faults of the network say between whom they lie by exactly one of `groups`,
/// `nodes`, or `from` and `to`; they strike what nodes send each other, and neither clients nor the API server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub kind: FaultKind,
    /// Names of nodes (`node-1` …) or `api-server`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Seconds from the first intended send. A partition at 0 s is there before the processes start.
    pub at_s: u64,
    /// Until it is undone.
    #[serde(default)]
    pub duration_s: u64,
    /// Everything between nodes of different groups, both ways. A node in no group is not struck.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Vec<String>>,
    /// Everything from and to these nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Everything from these nodes to those in `to`, one way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// Of a delay, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// What a delay is longer at most, in milliseconds; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<u64>,
    /// Datagrams of a hundred that a loss drops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    /// Blocks that may become final while it lasts, at most: 0 if it leaves no quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_during_max: Option<u64>,
    /// Of a partition: pairs of payments that spend the same money, one sent to each side while it lasts. Each pair takes
    /// one of the last accounts, their receivers two more; none of these pays anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub double_spends: Option<u64>,
}

/// What is done to a process, or to the network between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// SIGTERM, and started again at the end.
    Stop,
    /// SIGKILL, and started again at the end.
    Kill,
    /// SIGSTOP, and SIGCONT at the end.
    Pause,
    /// SIGTERM, and started again as soon as it has ended.
    Restart,
    /// Every datagram is dropped.
    Partition,
    /// Every datagram waits `ms` and up to `jitter_ms` more; their order may change.
    Delay,
    /// `percent` of the datagrams are dropped, by the scenario's seed.
    Loss,
}

/// What is checked after the storm besides what always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Stop the nodes and run `node verify` on the data of each.
    pub verify: bool,
    /// The faults go beyond what the ledger can bear: every node must halt, because it met a twin or learnt of two final
    /// blocks that contradict each other, and say so. Then nothing is asked of payments beyond their acknowledgement.
    #[serde(skip_serializing_if = "is_false")]
    pub halt: bool,
    /// An honest node must have counted a validator that signed twice.
    #[serde(skip_serializing_if = "is_false")]
    pub evidence: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// What must hold besides what always must: nothing lost, nothing twice, every payment final, nothing final ever taken
/// back, the receiver's balance exact and all nodes equal.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Mean throughput in payments a second, at least.
    pub mean_tps_min: Option<f64>,
    /// Payments a second that were actually sent over the storm, at least: the offered rate was held.
    pub sent_tps_min: Option<f64>,
    pub accepted_p90_ms_max: Option<f64>,
    pub accepted_p99_ms_max: Option<f64>,
    pub included_p99_ms_max: Option<f64>,
    pub final_p99_ms_max: Option<f64>,
    /// Of every fault for which the ratio is defined.
    pub dip_ratio_min: Option<f64>,
    /// Of every fault.
    pub resync_s_max: Option<f64>,
    /// Every fault's `resync_s` is below its outage.
    pub resync_below_outage: bool,
    /// Resident memory of the largest process.
    pub rss_max_bytes: Option<u64>,
    /// Of the largest node; once all are active, and at any time.
    pub node_rss_after_start_max_bytes: Option<u64>,
    pub node_rss_max_bytes: Option<u64>,
    pub api_server_rss_max_bytes: Option<u64>,
    pub loadgen_rss_max_bytes: Option<u64>,
    /// Payments that blocks of the overload list a second, over the same in the last phase.
    pub goodput_ratio_min: Option<f64>,
}

impl Thresholds {
    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How long things may take. All of them together are below `run_s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// The whole run, preparing aside.
    pub run_s: u64,
    /// Until every node is active.
    pub start_s: u64,
    /// From the last payment answered until all of them are final and all nodes equal.
    pub settle_s: u64,
    /// Until a submission goes to another node.
    pub submit_ms: u64,
    /// Until a process that was asked to stop is killed.
    pub stop_s: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self { verify: true, halt: false, evidence: false }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { run_s: 600, start_s: 90, settle_s: 120, submit_ms: 5_000, stop_s: 30 }
    }
}

fn default_true() -> bool {
    true
}

fn default_batches_max() -> u32 {
    2_048
}

fn default_in_flight() -> usize {
    16
}

/// Why a scenario is refused.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("reading {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("the scenario is not valid: {0}")]
    Toml(#[from] Box<toml::de::Error>),
    #[error("scenario {field} is {found}; {expected}")]
    Field { field: String, found: String, expected: String },
    #[error(
        "fault {number} begins at {at_s} s, too early to judge the dip: with blocks of {block_interval_ms} ms and \
         {slots} whole slots within the fault it must begin at {least_s} s or later"
    )]
    FaultTooEarly { number: usize, at_s: u64, block_interval_ms: u64, slots: u64, least_s: u64 },
}

impl Scenario {
    /// Whether every node that this fault ends surely has a checkpoint to start from: the scenario says when they are
    /// taken, and so much time has passed that a block was final and a further interval was there to write it.
    pub fn checkpoint_is_due(&self, fault: &Fault) -> bool {
        self.network.checkpoint.is_some_and(|checkpoint| {
            let final_ms = 2 * self.network.block_interval_ms;
            fault.kind.ends_processes() && fault.at_s * 1_000 >= 2 * checkpoint.interval_s * 1_000 + final_ms
        })
    }

    /// Whether the network that this storm goes through has an API server.
    pub fn has_api_server(&self) -> bool {
        match &self.network.attach {
            Some(attach) => attach.api_server.is_some(),
            None => self.network.api_server,
        }
    }

    /// Reads and checks a scenario file.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ScenarioError::Read { path: path.to_path_buf(), error })?;
        Self::parse(&text)
    }

    /// Parses and checks the text of a scenario file.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(Box::new)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// What its input is prepared from.
    pub fn parameters(&self) -> Parameters {
        Parameters {
            seed: self.seed,
            accounts: self.accounts,
            nodes: self.network.nodes,
            block_interval_ms: self.network.block_interval_ms,
            state_depth: self.network.state_depth,
            batches_max: self.network.batches_max,
            fault_model: self.network.fault_model,
            paying_accounts: self.paying_accounts,
            payments_per_account: self.payments_per_account,
            receivers: self.receivers,
        }
    }

    /// Accounts that pay.
    pub fn payers(&self) -> u64 {
        self.paying_accounts.unwrap_or(self.accounts)
    }

    /// Payments that the phases may send: those of all paying accounts but the ones that double spends take.
    pub fn payments(&self) -> u64 {
        let all = self.payers().saturating_mul(self.payments_per_account);
        all.saturating_sub(self.accounts_of_double_spends())
    }

    /// How many payments further on a payment is whose payer needs this one to be final first, so that its window takes it;
    /// `None` if every window takes all of its payer's payments.
    pub fn window_span(&self) -> Option<u64> {
        (self.payments_per_account > WINDOW_WIDTH).then(|| self.payers() * WINDOW_WIDTH)
    }

    /// Accounts that double spends take from the end.
    pub fn accounts_of_double_spends(&self) -> u64 {
        let pairs: u64 = self.faults.iter().filter_map(|fault| fault.double_spends).fold(0, u64::saturating_add);
        if pairs == 0 { 0 } else { pairs.saturating_add(double_spends::RECEIVERS) }
    }

    /// Names of the nodes in the order of genesis.
    pub fn node_names(&self) -> Vec<String> {
        (0..self.network.nodes).map(prepare::node_name).collect()
    }

    /// Names of all node processes: the nodes, then twins.
    pub fn process_names(&self) -> Vec<String> {
        let twins = self.network.twins.iter().map(Twin::name);
        self.node_names().into_iter().chain(twins).collect()
    }

    /// Names of the nodes that have no twin, in the order of genesis.
    pub fn honest_names(&self) -> Vec<String> {
        let honest = |name: &String| !self.network.twins.iter().any(|twin| twin.of == *name);
        self.node_names().into_iter().filter(honest).collect()
    }

    /// The directions that are cut before the processes start.
    pub fn cut_at_first(&self) -> Vec<Way> {
        let first = self.faults.iter().filter(|fault| fault.kind == FaultKind::Partition && fault.at_s == 0);
        first.flat_map(|fault| fault.ways(&self.process_names())).collect()
    }

    /// The place of the node that `target = "one"` means, among those without a twin.
    pub fn target_place(&self) -> usize {
        let names = self.honest_names();
        self.target_node.as_ref().and_then(|node| names.iter().position(|name| name == node)).unwrap_or(0)
    }

    /// The place of the node that is followed first, among those without a twin: one that no fault strikes if there is one,
    /// for noticing that the followed node is gone takes seconds, which would count as latency.
    pub fn watched_place(&self) -> usize {
        let struck = |name: &String| self.faults.iter().any(|fault| fault.targets.contains(name));
        let spared = self.honest_names().iter().position(|name| !struck(name));
        spared.unwrap_or_else(|| self.target_place())
    }

    /// Whether a fault leaves a node that can go on, and lasts long enough to count whole slots.
    pub fn dip_is_defined(&self, fault: &Fault) -> bool {
        let survivor = self.node_names().iter().any(|name| !fault.targets.contains(name));
        let a_node_falls = self.node_names().iter().any(|name| fault.targets.contains(name));
        survivor && a_node_falls && fault.whole_slots(self.network.block_interval_ms) > 0
    }
}

impl FaultKind {
    /// Whether its targets are started again.
    pub fn ends_processes(self) -> bool {
        match self {
            Self::Stop | Self::Kill | Self::Restart => true,
            Self::Pause | Self::Partition | Self::Delay | Self::Loss => false,
        }
    }
}

impl Fault {
    /// A fault of processes.
    pub fn of_processes(kind: FaultKind, targets: Vec<String>, at_s: u64, duration_s: u64) -> Self {
        let (groups, nodes, from, to) = Default::default();
        let (ms, jitter_ms, percent, final_during_max, double_spends) = Default::default();
        Self {
            kind,
            targets,
            at_s,
            duration_s,
            groups,
            nodes,
            from,
            to,
            ms,
            jitter_ms,
            percent,
            final_during_max,
            double_spends,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.at_s < other.end_s() && other.at_s < self.end_s()
    }

    /// When it is undone, in seconds from the first intended send.
    pub fn end_s(&self) -> u64 {
        self.at_s + self.duration_s
    }

    /// Whole slots that surely lie between one block after the fault and its end.
    pub fn whole_slots(&self, block_interval_ms: u64) -> u64 {
        (self.duration_s * 1_000).saturating_sub(block_interval_ms) / block_interval_ms
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::Partition => "partition",
            Self::Delay => "delay",
            Self::Loss => "loss",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        name = "least"
        seed = 1
        accounts = 1000
        target = "one"

        [network]
        nodes = 3
        block_interval_ms = 3000
        state_depth = 8

        [[phases]]
        payments = 1000
        rate_per_s = 100
    "#;

    fn refused(text: &str) -> String {
        Scenario::parse(text).expect_err("the scenario must be refused").to_string()
    }

    fn with(addition: &str) -> String {
        format!("{LEAST}\n{addition}")
    }

    #[test]
    fn the_least_scenario_has_defaults() {
        let scenario = Scenario::parse(LEAST).unwrap();
        assert!(scenario.network.api_server && scenario.audit.verify);
        assert_eq!(scenario.phases[0].rate_per_s, Rate::PerSecond(100));
        assert_eq!(scenario.node_names(), ["node-1", "node-2", "node-3"]);
        assert_eq!(scenario.target_place(), 0);
    }

    const TWIN: &str = "[[network.twins]]\nof = \"node-2\"\nheard_by = [\"node-3\"]\n";

    #[test]
    fn a_twin_is_a_process_that_faults_of_the_network_may_name_and_nobody_pays() {
        let cut = "[[faults]]\nkind = \"partition\"\nat_s = 0\nduration_s = 5\n\
                   groups = [[\"node-2\"], [\"node-2-twin\"]]\n";
        let scenario = Scenario::parse(&with(&format!("{TWIN}{cut}"))).unwrap();
        assert_eq!(scenario.process_names(), ["node-1", "node-2", "node-3", "node-2-twin"]);
        assert_eq!(scenario.honest_names(), ["node-1", "node-3"]);
        assert!(scenario.needs_relay() && Scenario::parse(&with(TWIN)).unwrap().needs_relay());
        let places: Vec<_> = scenario.cut_at_first().iter().map(|way| (way.from, way.to)).collect();
        assert_eq!(places, [(1, 3), (3, 1)]);
        let bad = [
            (TWIN.replace("of = \"node-2\"", "of = \"node-9\""), "node-9"),
            (format!("{TWIN}{TWIN}"), "one twin"),
            (TWIN.replace("node-3", "node-2"), "without twins"),
            (format!("{TWIN}{}", fault("stop", r#"["node-2"]"#, 30, 5)), "node-1, node-3"),
            (format!("{TWIN}{}", fault("stop", r#"["node-2-twin"]"#, 30, 5)), "node-1, node-3"),
        ];
        for (text, word) in bad {
            let told = refused(&with(&text));
            assert!(told.contains(word), "{text}: {told}");
        }
        let paid = LEAST.replace("target = \"one\"", "target = \"one\"\ntarget_node = \"node-2\"");
        assert!(refused(&format!("{paid}\n{TWIN}")).contains("target_node"));
    }

    #[test]
    fn what_is_to_halt_is_asked_nothing_else() {
        let halt = "[audit]\nhalt = true\nverify = false\n";
        let quiet = LEAST.replace("state_depth = 8", "state_depth = 8\napi_server = false");
        assert!(Scenario::parse(&format!("{quiet}\n{halt}")).is_ok());
        for text in [
            with(halt),
            format!("{quiet}\n[audit]\nhalt = true\n"),
            format!("{quiet}\n{halt}[thresholds]\nmean_tps_min = 1.0\n"),
        ] {
            assert!(refused(&text).contains("audit.halt"), "{text}");
        }
    }

    #[test]
    fn full_speed_is_a_word() {
        let scenario = Scenario::parse(&LEAST.replace("rate_per_s = 100", "rate_per_s = \"full\"")).unwrap();
        assert_eq!(scenario.phases[0].rate_per_s, Rate::Full(Full::Full));
        assert!(Scenario::parse(&LEAST.replace("rate_per_s = 100", "rate_per_s = \"fast\"")).is_err());
        assert!(refused(&LEAST.replace("rate_per_s = 100", "rate_per_s = 0")).contains("rate_per_s"));
    }

    #[test]
    fn an_unknown_field_is_refused_wherever_it_stands() {
        assert!(refused(&LEAST.replace("seed = 1", "seed = 1\nsped = 2")).contains("sped"));
        assert!(refused(&LEAST.replace("nodes = 3", "nodes = 3\nregion = 2")).contains("region"));
        assert!(refused(&with("[thresholds]\nlost_max = 3")).contains("lost_max"));
        assert!(
            refused(&with("[[faults]]\nkind = \"stop\"\ntargets = [\"node-2\"]\nat_s = 9\nfor = 1")).contains("for")
        );
    }

    #[test]
    fn thresholds_that_mean_nothing_are_refused() {
        assert!(refused(&with("[thresholds]\nmean_tps_min = -1.0")).contains("mean_tps_min"));
        assert!(refused(&with("[thresholds]\naccepted_p90_ms_max = nan")).contains("accepted_p90_ms_max"));
        assert!(refused(&with("[thresholds]\ndip_ratio_min = 0.98")).contains("dip_ratio_min"));
        assert!(refused(&with("[thresholds]\nresync_below_outage = true")).contains("resync"));
    }

    fn fault(kind: &str, targets: &str, at_s: u64, duration_s: u64) -> String {
        format!("[[faults]]\nkind = \"{kind}\"\ntargets = {targets}\nat_s = {at_s}\nduration_s = {duration_s}\n")
    }

    #[test]
    fn a_fault_too_early_to_judge_its_dip_is_refused() {
        // 15 s hold 4 whole slots of 3 s behind the first block; as many before it, and two intervals to begin.
        let early = Scenario::parse(&with(&fault("stop", r#"["node-2", "node-3"]"#, 17, 15)));
        assert!(matches!(early, Err(ScenarioError::FaultTooEarly { slots: 4, least_s: 18, .. })), "{early:?}");
        assert!(Scenario::parse(&with(&fault("stop", r#"["node-2", "node-3"]"#, 18, 15))).is_ok());
    }

    #[test]
    fn a_fault_that_leaves_no_survivor_has_no_dip_and_may_come_early() {
        let all = r#"["node-1", "node-2", "node-3", "api-server"]"#;
        let scenario = Scenario::parse(&with(&fault("kill", all, 3, 15))).unwrap();
        assert!(!scenario.dip_is_defined(&scenario.faults[0]));
    }

    #[test]
    fn faults_name_processes_that_exist_once_at_a_time() {
        assert!(refused(&with(&fault("stop", r#"["node-4"]"#, 30, 5))).contains("node-4"));
        assert!(refused(&with(&fault("stop", "[]", 30, 5))).contains("targets"));
        assert!(refused(&with(&fault("stop", r#"["node-2", "node-2"]"#, 30, 5))).contains("once"));
        assert!(refused(&with(&fault("stop", r#"["node-2"]"#, 30, 0))).contains("duration_s"));
        let twice = fault("stop", r#"["node-2"]"#, 30, 5) + &fault("kill", r#"["node-2"]"#, 34, 5);
        assert!(refused(&with(&twice)).contains("one fault at a time"));
        let apart = fault("stop", r#"["node-2"]"#, 30, 5) + &fault("kill", r#"["node-2"]"#, 35, 5);
        assert!(Scenario::parse(&with(&apart)).is_ok());
    }

    #[test]
    fn a_node_that_no_fault_strikes_is_followed() {
        let scenario = |targets| Scenario::parse(&with(&fault("pause", targets, 30, 5))).unwrap();
        assert_eq!(scenario(r#"["node-1"]"#).watched_place(), 1);
        assert_eq!(scenario(r#"["node-1", "node-2"]"#).watched_place(), 2);
        assert_eq!(scenario(r#"["node-1", "node-2", "node-3"]"#).watched_place(), 0);
    }

    #[test]
    fn phases_fit_the_accounts() {
        assert!(refused(&LEAST.replace("payments = 1000", "payments = 1001")).contains("payments"));
        let second = "[[phases]]\npayments = 1\nrate_per_s = 5";
        assert!(refused(&with(second)).contains("payments of all phases"));
        let rest = LEAST.replace("payments = 1000", "duration_s = 4") + "[[phases]]\nrate_per_s = \"full\"";
        assert!(Scenario::parse(&rest).is_ok());
        let both = LEAST.replace("payments = 1000", "payments = 1000\nduration_s = 4");
        assert!(refused(&both).contains("either"));
    }

    #[test]
    fn a_network_of_others_is_stormed_but_not_harmed() {
        let attach = "[network.attach]\nnodes = [\"a:1\", \"b:1\", \"c:1\"]\n";
        assert!(Scenario::parse(&with(attach)).is_ok());
        let harmed = with(&format!("{attach}{}", fault("stop", r#"["node-2"]"#, 30, 5)));
        assert!(refused(&harmed).contains("started itself"));
        assert!(refused(&with("[network.attach]\nnodes = [\"a:1\"]")).contains("attach"));
    }

    #[test]
    fn a_checkpoint_is_due_once_one_lies_deep_enough_and_could_be_written() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/kill-all.toml")).unwrap();
        let mut scenario = Scenario::parse(&text).unwrap();
        let mut fault = scenario.faults[0].clone();
        assert!(scenario.checkpoint_is_due(&fault), "kill-all is about checkpoints");
        fault.at_s = 15;
        assert!(!scenario.checkpoint_is_due(&fault), "twice 5 s, and two blocks of 3 s, are 16 s");
        fault.at_s = 16;
        assert!(scenario.checkpoint_is_due(&fault));
        fault.kind = FaultKind::Pause;
        assert!(!scenario.checkpoint_is_due(&fault), "nothing is started again");
        fault.kind = FaultKind::Restart;
        scenario.network.checkpoint = None;
        assert!(!scenario.checkpoint_is_due(&fault), "the scenario does not say when they are taken");
    }

    #[test]
    fn every_scenario_in_the_repository_is_valid() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut found = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(Some(scenario.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
            found += 1;
        }
        assert!(found >= 17, "only {found} scenarios");
    }
}
