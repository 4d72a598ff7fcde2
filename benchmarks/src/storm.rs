//! Storms of real processes: the scenario's text, the load generator that runs it, and what its report says.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::context::{Context, say, write};
use crate::error::{BenchError, file_error};
use crate::payments::{Receivers, depth};
use crate::sampler::{Cpu, LOADGEN, PACE, Sampler};

/// Between the word that all nodes are active and the first intended send, as the load generator has it.
const BREATH: Duration = Duration::from_millis(500);
/// What the load generator says when all nodes are active.
const ACTIVE: &str = "; storming";
/// What it says of where its report will be.
const DIRECTORY: &str = "run directory ";
/// A threshold or a rule failed; the report says which.
const FAILED: i32 = 99;

/// Where payments go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Spread,
    Api,
}

/// How fast they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rate {
    PerSecond(u32),
    /// So many submissions of up to 1,024 in flight.
    Full {
        in_flight: usize,
    },
}

/// Two of three nodes are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) at_s: u64,
    pub(crate) duration_s: u64,
}

/// A storm as benchmarks vary it; everything else is as in the shipped scenarios.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storm {
    pub(crate) name: String,
    pub(crate) accounts: u64,
    /// How many of them pay, spread evenly.
    pub(crate) payers: u64,
    /// How often each of those pays.
    pub(crate) payments_per_account: u64,
    pub(crate) receivers: Receivers,
    pub(crate) nodes: u16,
    pub(crate) block_interval_ms: u64,
    /// Seconds between two checkpoints of the nodes and of the API server; their own 300 if absent.
    pub(crate) checkpoint_s: Option<u64>,
    pub(crate) api_server: bool,
    pub(crate) target: Target,
    pub(crate) rate: Rate,
    pub(crate) outage: Option<Outage>,
    /// Whether each node's whole log is checked afterwards, which takes about as long as the storm.
    pub(crate) verify: bool,
    /// Between two looks at what the processes use.
    pub(crate) pace: Duration,
}

impl Storm {
    /// Three nodes, an API server, 3 s blocks, full speed, a payment of each account to one receiver.
    pub(crate) fn new(name: impl Into<String>, accounts: u64) -> Self {
        Self {
            name: name.into(),
            accounts,
            payers: accounts,
            payments_per_account: 1,
            receivers: Receivers::Hot,
            nodes: 3,
            block_interval_ms: 3_000,
            checkpoint_s: None,
            api_server: true,
            target: Target::Spread,
            rate: Rate::Full { in_flight: 16 },
            outage: None,
            verify: false,
            pace: PACE,
        }
    }

    pub(crate) fn payments(&self) -> u64 {
        self.payers * self.payments_per_account
    }

    /// The scenario file. What is as the load generator has it by itself is left out.
    pub(crate) fn toml(&self) -> String {
        let target = match self.target {
            Target::Spread => "spread",
            Target::Api => "api",
        };
        let rate = match self.rate {
            Rate::PerSecond(rate) => format!("rate_per_s = {rate}"),
            Rate::Full { in_flight } => format!("rate_per_s = \"full\"\nin_flight = {in_flight}"),
        };
        let mut who = String::new();
        if self.payers != self.accounts {
            who.push_str(&format!("paying_accounts = {}\n", self.payers));
        }
        if self.payments_per_account != 1 {
            who.push_str(&format!("payments_per_account = {}\n", self.payments_per_account));
        }
        if self.receivers == Receivers::Spread {
            who.push_str("receivers = \"spread\"\n");
        }
        let checkpoint = self.checkpoint_s.map_or(String::new(), |interval_s| {
            // Of the load generator's scenarios, which hands it on to the nodes and the API server.
            format!("checkpoint = {{ interval_s = {interval_s} }}\n")
        });
        let mut text = format!(
            "name = \"{}\"\nseed = 2016\naccounts = {}\n{who}target = \"{target}\"\n\n\
             [network]\nnodes = {}\nblock_interval_ms = {}\nstate_depth = {}\napi_server = {}\n{checkpoint}\n\
             [[phases]]\npayments = {}\n{rate}\n\n\
             [audit]\nverify = {}\n\n\
             [timeouts]\nrun_s = {}\nstart_s = 900\nsettle_s = 600\nstop_s = 120\n",
            self.name,
            self.accounts,
            self.nodes,
            self.block_interval_ms,
            depth(self.accounts),
            self.api_server,
            self.payments(),
            self.verify,
            self.run_s(),
        );
        if let Some(Outage { at_s, duration_s }) = self.outage {
            write!(
                text,
                "\n[[faults]]\nkind = \"stop\"\ntargets = [\"node-2\", \"node-3\"]\nat_s = {at_s}\nduration_s = \
                 {duration_s}\nfinal_during_max = 0\n"
            )
            .expect("writing to a text never fails");
        }
        text
    }

    /// Enough for the storm at a tenth of what it is meant to reach, and for everything around it.
    fn run_s(&self) -> u64 {
        let storm_s = match self.rate {
            Rate::PerSecond(rate) => self.payments() / u64::from(rate.max(1)) + 300,
            Rate::Full { .. } => self.payments() / 2_000 + 300,
        };
        1_500 + storm_s + self.outage.map_or(0, |outage| outage.at_s + outage.duration_s)
    }
}

/// What is read of a load generator's `report.json`; what a newer one says besides is passed over.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StormReport {
    pub(crate) failures: Vec<String>,
    pub(crate) scenario: String,
    pub(crate) nodes: u16,
    pub(crate) offered: u64,
    pub(crate) accepted: u64,
    #[serde(rename = "final")]
    pub(crate) finals: Option<u64>,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) nodes_equal: bool,
    pub(crate) throughput_tps: Throughput,
    pub(crate) latency_ms: Latency,
    pub(crate) block_final_ms: Option<BlockFinal>,
    pub(crate) faults: Vec<FaultReport>,
    pub(crate) resources: BTreeMap<String, Usage>,
    pub(crate) limit: StormLimit,
    pub(crate) series: Series,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Throughput {
    pub(crate) mean: Option<f64>,
    pub(crate) best_block: Option<f64>,
    pub(crate) accepted: Option<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Latency {
    pub(crate) accepted: Option<Percentiles>,
    #[serde(rename = "final")]
    pub(crate) finals: Option<Percentiles>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct BlockFinal {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct FaultReport {
    pub(crate) at_s: f64,
    pub(crate) duration_s: f64,
    pub(crate) dip_ratio: Option<f64>,
    pub(crate) resync_s: Option<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Usage {
    pub(crate) rss_max_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) fsyncs: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct StormLimit {
    pub(crate) verify_per_s_per_core: f64,
    pub(crate) cores: usize,
    pub(crate) ratio: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Series {
    pub(crate) blocks: Vec<BlockPoint>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct BlockPoint {
    pub(crate) at_s: f64,
    pub(crate) payments: u64,
}

/// A storm that was run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) report: StormReport,
    sampler: Sampler,
    /// The first intended send.
    begun: Instant,
}

impl Outcome {
    /// What each process used from the first intended send for so many seconds.
    pub(crate) fn cpu(&self, from_s: f64, until_s: f64) -> BTreeMap<String, Cpu> {
        let at = |seconds: f64| self.begun + Duration::from_secs_f64(seconds.max(0.0));
        self.sampler.between(at(from_s), at(until_s))
    }

    /// Seconds from the first intended send until the last payment was final and all nodes equal.
    pub(crate) fn storm_s(&self) -> Option<f64> {
        let mean = self.report.throughput_tps.mean.filter(|mean| *mean > 0.0)?;
        Some(self.report.finals? as f64 / mean)
    }

    /// Seconds from the first intended send until the last payment was accepted.
    pub(crate) fn accepted_s(&self) -> Option<f64> {
        let accepted = self.report.throughput_tps.accepted.filter(|accepted| *accepted > 0.0)?;
        Some(self.report.accepted as f64 / accepted)
    }

    /// What did not hold besides what makes figures worthless.
    pub(crate) fn failures(&self) -> impl Iterator<Item = String> + '_ {
        self.report.failures.iter().map(|failure| format!("{}: {failure}", self.report.scenario))
    }
}

/// Processor seconds of all nodes together.
pub(crate) fn nodes_cpu_s(cpu: &BTreeMap<String, Cpu>) -> f64 {
    cpu.iter().filter(|(name, _)| name.starts_with("node-")).map(|(_, cpu)| cpu.all_s).sum()
}

/// Processor seconds of one process; 0 if there is none of this name.
pub(crate) fn cpu_s(cpu: &BTreeMap<String, Cpu>, name: &str) -> f64 {
    cpu.get(name).map_or(0.0, |cpu| cpu.all_s)
}

/// Processor seconds of the load generator.
pub(crate) fn loadgen_cpu_s(cpu: &BTreeMap<String, Cpu>) -> f64 {
    cpu_s(cpu, LOADGEN)
}

/// Runs a storm and reads its report.
///
/// # Errors
/// If it broke down, or lost or doubled payments, or did not end with all of them final and all nodes equal: then its
/// figures mean nothing. What else failed is in the report.
pub(crate) fn run(context: &Context, storm: &Storm) -> Result<Outcome, BenchError> {
    let file = context.scratch.join("scenarios").join(format!("{}.toml", storm.name));
    write(&file, &storm.toml())?;
    run_file(context, &file, storm.pace)
}

/// As [`run`], of a scenario file, with a look at what the processes use every `pace`.
pub(crate) fn run_file(context: &Context, scenario: &Path, pace: Duration) -> Result<Outcome, BenchError> {
    let program = context.program("loadgen");
    let mut command = Command::new(&program);
    command.arg("storm").arg(scenario).arg("--data").arg(&context.data).arg("--runs").arg(context.scratch.join("runs"));
    let mut child = (command.current_dir(&context.root).stdout(Stdio::null()).stderr(Stdio::piped()).spawn())
        .map_err(file_error("starting", &program))?;
    let (sender, heard) = mpsc::channel();
    let listening = child.stderr.take().map(|stderr| thread::spawn(move || listen(BufReader::new(stderr), &sender)));
    let mut sampler = Sampler::of(child.id());
    let (mut directory, mut begun) = (None, None);
    let status = loop {
        while let Ok(told) = heard.try_recv() {
            match told {
                Told::Directory(found) => directory = Some(found),
                Told::Active(at) => begun = Some(at + BREATH),
            }
        }
        if begun.is_some() {
            sampler.look();
        }
        if let Some(status) = child.try_wait().map_err(file_error("waiting for", &program))? {
            break status;
        }
        thread::sleep(pace);
    };
    let words = listening.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let failed = || BenchError::Program { program: LOADGEN.into(), status: status.to_string(), words };
    let (Some(directory), Some(begun)) = (directory, begun) else { return Err(failed()) };
    if !status.success() && status.code() != Some(FAILED) {
        return Err(failed());
    }
    let path = directory.join("report.json");
    let text = fs::read(&path).map_err(file_error("reading", &path))?;
    let report: StormReport = serde_json::from_slice(&text).map_err(|what| BenchError::Json { path, what })?;
    forget_data(&directory)?;
    let outcome = Outcome { report, sampler, begun };
    match worthless(&outcome.report) {
        true => Err(BenchError::Storm { name: outcome.report.scenario, failures: outcome.report.failures }),
        false => Ok(outcome),
    }
}

fn worthless(report: &StormReport) -> bool {
    let complete = report.finals == Some(report.offered) && report.accepted == report.offered;
    !complete || report.lost > 0 || report.duplicated > 0 || !report.nodes_equal || report.throughput_tps.mean.is_none()
}

/// Removes what the processes stored, gigabytes of it; report, configs and logs stay.
fn forget_data(directory: &Path) -> Result<(), BenchError> {
    for entry in fs::read_dir(directory).map_err(file_error("reading", directory))?.flatten() {
        let data = entry.path().join("data");
        if data.is_dir() {
            fs::remove_dir_all(&data).map_err(file_error("removing", &data))?;
        }
    }
    Ok(())
}

/// What the load generator said that matters here.
enum Told {
    Directory(PathBuf),
    Active(Instant),
}

/// Passes its words on to stderr; gives the last of them back when it ends.
fn listen(words: impl BufRead, sender: &mpsc::Sender<Told>) -> String {
    const KEPT: usize = 12;
    let mut last: Vec<String> = Vec::new();
    for line in words.lines().map_while(Result::ok) {
        let told = match line.strip_prefix(DIRECTORY) {
            Some(directory) => Some(Told::Directory(directory.into())),
            None => line.ends_with(ACTIVE).then(|| Told::Active(Instant::now())),
        };
        // Nobody listens any more once the storm is over.
        told.and_then(|told| sender.send(told).err());
        say(&format!("  {line}"));
        if last.len() == KEPT {
            last.remove(0);
        }
        last.push(line);
    }
    last.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_says_what_the_storm_is() {
        let outage = Some(Outage { at_s: 135, duration_s: 120 });
        let storm = Storm { outage, rate: Rate::PerSecond(3_086), verify: true, ..Storm::new("shape", 1_000) };
        let parsed: toml::Table = storm.toml().parse().unwrap();
        assert_eq!(parsed["accounts"].as_integer(), Some(1_000));
        assert_eq!(parsed["phases"][0]["rate_per_s"].as_integer(), Some(3_086));
        assert_eq!(parsed["faults"][0]["duration_s"].as_integer(), Some(120));
        assert_eq!(parsed["audit"]["verify"].as_bool(), Some(true));
        assert!(parsed["network"].get("checkpoint").is_none(), "as the processes have it");
        let checkpoint_s = Some(20);
        let few = Storm {
            payers: 10,
            checkpoint_s,
            payments_per_account: 6,
            receivers: Receivers::Spread,
            ..Storm::new("few", 100)
        };
        let parsed: toml::Table = few.toml().parse().unwrap();
        assert_eq!(parsed["phases"][0]["payments"].as_integer(), Some(60));
        assert_eq!(parsed["paying_accounts"].as_integer(), Some(10));
        assert_eq!(parsed["network"]["checkpoint"]["interval_s"].as_integer(), Some(20));
        assert_eq!(
            (parsed["payments_per_account"].as_integer(), parsed["receivers"].as_str()),
            (Some(6), Some("spread"))
        );
        let full: toml::Table = Storm::new("full", 5).toml().parse().unwrap();
        assert_eq!(full["phases"][0]["rate_per_s"].as_str(), Some("full"));
        for absent in ["faults", "paying_accounts", "payments_per_account", "receivers"] {
            assert!(full.get(absent).is_none(), "{absent}");
        }
    }

    fn report() -> serde_json::Value {
        serde_json::json!({
            "passed": true, "failures": [], "scenario": "s", "accounts": 9, "nodes": 3, "block_interval_ms": 3000,
            "offered": 9, "sent": 9, "accepted": 9, "final": 9, "lost": 0, "duplicated": 0, "nodes_equal": true,
            "throughput_tps": { "mean": 3.0, "best_block": 4.0, "sent": 9.0, "accepted": 6.0 },
            "latency_ms": { "accepted": { "p50": 500.0, "p90": 1.0, "p99": 2.0 }, "final": null },
            "block_final_ms": { "p50": 8, "p99": 9, "max": 10, "blocks": 3 },
            "faults": [], "resources": {}, "limit": { "verify_per_s_per_core": 5.0, "cores": 2, "ratio": 0.5 },
            "series": { "blocks": [{ "at_s": 1.0, "payments": 9, "height": 1 }] }, "newer": { "field": 1 }
        })
    }

    #[test]
    fn a_report_tells_when_the_storm_was_over() {
        let report: StormReport = serde_json::from_value(report()).unwrap();
        assert!(!worthless(&report));
        let outcome = Outcome { report, sampler: Sampler::of(1), begun: Instant::now() };
        assert_eq!((outcome.storm_s(), outcome.accepted_s()), (Some(3.0), Some(1.5)));
    }

    #[test]
    fn a_storm_that_lost_something_or_did_not_end_gives_no_figures() {
        let changes =
            [("lost", 1.into()), ("duplicated", 1.into()), ("nodes_equal", false.into()), ("final", 8.into())];
        for (field, value) in changes {
            let mut changed = report();
            changed[field] = value;
            assert!(worthless(&serde_json::from_value(changed).unwrap()), "{field}");
        }
    }

    #[test]
    fn the_load_generators_words_are_understood() {
        let words = "prepared input made in x\nrun directory /r/x-1\nall nodes active after 0.9 s; storming\nend\n";
        let (sender, heard) = mpsc::channel();
        assert!(listen(words.as_bytes(), &sender).ends_with("storming\nend"));
        assert!(matches!(heard.recv(), Ok(Told::Directory(path)) if path == Path::new("/r/x-1")));
        assert!(matches!(heard.recv(), Ok(Told::Active(_))));
    }
}
