//! The benchmark suite: `cargo xtask bench`.
//!
//! Every run measures how many signatures the machine checks just before each benchmark, and every figure stands beside
//! that limit. Results go to `target/bench/` as JSON, and to stdout as a table.

mod api_single;
mod batch_store;
mod checkpoint;
mod context;
mod decode;
mod error;
mod execution;
mod growth;
mod index;
mod machine;
mod network;
mod payments;
mod picture;
mod postgresql;
mod report;
mod sampler;
mod storm;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use zeni_client::rfc3339;

use crate::context::{Context, say, write};
use crate::error::{BenchError, file_error};
use crate::machine::{Commit, Machine};
use crate::report::{Findings, Report};
use crate::verify::Sample;

/// Something failed that is judged, though figures were taken.
const JUDGED_FAILED: u8 = 99;
/// Rounds of one benchmark, at most.
const ROUNDS_MAX: i64 = 1_000;
/// How long the limit is measured on one core, and again on all.
const LIMIT: Duration = Duration::from_millis(500);
const LIMIT_QUICK: Duration = Duration::from_millis(100);

/// One benchmark.
struct Benchmark {
    name: &'static str,
    what: &'static str,
    /// How long three rounds take on two cores: guessed, or reckoned from the sizes.
    takes: &'static str,
    run: fn(&Context) -> Result<Findings, BenchError>,
}

/// All of them, the cheap ones first.
const ALL: [Benchmark; 15] = [
    Benchmark {
        name: "verify",
        what: "signature verification alone, the limit: batches of 512 and 1,024, one core and all",
        takes: "30 s",
        run: verify::run,
    },
    Benchmark {
        name: "decode",
        what: "submissions and batches from their bytes, per payment",
        takes: "12 s",
        run: decode::run,
    },
    Benchmark {
        name: "batch-store",
        what: "batches appended to a node's log, one sync for 1, 8 or 64 of them",
        takes: "30 s",
        run: batch_store::run,
    },
    Benchmark {
        name: "execution",
        what: "blocks executed and taken back, hot and spread receivers, by number of accounts",
        takes: "15 s",
        run: execution::execution,
    },
    Benchmark {
        name: "state-tree",
        what: "the state tree built, and committed after changes",
        takes: "15 s",
        run: execution::state_tree,
    },
    Benchmark {
        name: "block-assembly",
        what: "a validator's core taking submissions and proposing a block of them",
        takes: "20 s",
        run: execution::block_assembly,
    },
    Benchmark {
        name: "checkpoint",
        what: "sled checkpoints of changed accounts: time, bytes, memory; and loading them",
        takes: "1 min",
        run: checkpoint::run,
    },
    Benchmark {
        name: "index",
        what: "the API server's index of payments: applying, flushing, bytes",
        takes: "2 min",
        run: index::run,
    },
    Benchmark {
        name: "ingress",
        what: "one node process taking signed payments over QUIC until they are on disk",
        takes: "8 min",
        run: network::ingress,
    },
    Benchmark {
        name: "api-bulk",
        what: "the same storm to the nodes and through the API server's bulk call",
        takes: "4 min",
        run: network::api_bulk,
    },
    Benchmark {
        name: "api-single",
        what: "single payments as JSON over kept HTTP connections",
        takes: "3 min",
        run: api_single::run,
    },
    Benchmark {
        name: "catch-up",
        what: "two of three node processes return together at 3,086 payments a second (--outage)",
        takes: "18 min",
        run: network::catch_up,
    },
    Benchmark {
        name: "storm",
        what: "a whole storm (--scenario), its report's figures and the CPU of each process",
        takes: "5 min",
        run: network::whole,
    },
    Benchmark {
        name: "postgresql",
        what: "PostgreSQL, its best of 1 to 64 clients, beside a storm in the same run",
        takes: "11 min",
        run: postgresql::run,
    },
    Benchmark {
        name: "growth",
        what: "CPU per payment and latency by accounts, nodes, payers, receivers and block interval (--only)",
        takes: "80 min",
        run: growth::run,
    },
];

/// Measures this ledger, each figure beside the number of signatures that the machine checks.
///
/// Without a name the benchmarks are listed, with `all` every one runs. Each runs several rounds, and medians, spread
/// and ratios are printed; every value of every round goes as JSON to target/bench/ (and to --out), with machine,
/// commit and command. The limit is measured anew before each. Run nothing else meanwhile.
///
/// Exit codes: 0 measured, 99 measured and something that must hold did not, 1 not measured.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// A benchmark's name, `all`, or `list`.
    #[arg(default_value = "list")]
    name: String,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=ROUNDS_MAX))]
    rounds: u16,
    /// Small inputs, to see that it works; no figure of it counts.
    #[arg(long)]
    quick: bool,
    /// Numbers of accounts, separated by commas, for the benchmarks that have a choice of them.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(5_000..=100_000_000))]
    accounts: Vec<u64>,
    /// For `storm`: a scenario file, or the name of one in loadgen/scenarios.
    #[arg(long, default_value = "storm-1m-15s")]
    scenario: String,
    /// For `catch-up`: how long two nodes are stopped, in seconds. The experiment's was 360.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(15..=3_600))]
    outage: u64,
    /// For `growth`: only these variations, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A second directory for the JSON.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The workspace; `cargo xtask bench` says it.
    #[arg(long, default_value = ".", hide = true)]
    root: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen: Vec<&Benchmark> = match arguments.name.as_str() {
        "list" => {
            print!("{}", list());
            return ExitCode::SUCCESS;
        }
        "all" => ALL.iter().collect(),
        name => ALL.iter().filter(|benchmark| benchmark.name == name).collect(),
    };
    if chosen.is_empty() {
        eprintln!("there is no benchmark {}\n{}", arguments.name, list());
        return ExitCode::FAILURE;
    }
    if let Err(error) = machine::allow_open_files() {
        eprintln!("open files stay limited: {error}");
    }
    let (mut failed, mut judged) = (false, false);
    for benchmark in chosen {
        match measure(benchmark, &arguments) {
            Ok(report) => judged |= !report.findings.failures.is_empty(),
            Err(error) => {
                eprintln!("{}: {error}", benchmark.name);
                failed = true;
            }
        }
    }
    match (failed, judged) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(JUDGED_FAILED),
        (false, false) => ExitCode::SUCCESS,
    }
}

fn list() -> String {
    let mut text = String::from("benchmarks (how long three rounds take on two cores is guessed, not measured):\n");
    for Benchmark { name, what, takes, .. } in &ALL {
        text.push_str(&format!("  {name:14} {takes:>6}  {what}\n"));
    }
    text
}

/// Measures the limit, then the benchmark; prints and writes what was found.
fn measure(benchmark: &Benchmark, arguments: &Arguments) -> Result<Report, BenchError> {
    let programs = std::env::current_exe().map_err(file_error("finding", Path::new("this program")))?;
    let programs = programs.parent().map(Path::to_path_buf).unwrap_or_default();
    let target = programs.parent().map(Path::to_path_buf).unwrap_or_default();
    let results = target.join("bench");
    let root = std::path::absolute(&arguments.root).map_err(file_error("finding", &arguments.root))?;
    let started_ms = payments::now_ms();
    say(&format!("{}: measuring how many signatures this machine checks", benchmark.name));
    let limit = Sample::make().limit(if arguments.quick { LIMIT_QUICK } else { LIMIT });
    let context = Context {
        rounds: arguments.rounds.into(),
        quick: arguments.quick,
        accounts: arguments.accounts.clone(),
        scenario: arguments.scenario.clone(),
        outage_s: arguments.outage,
        only: arguments.only.clone(),
        programs,
        data: target.join("storm-data"),
        scratch: results.join("scratch"),
        limit,
        root: root.clone(),
    };
    let findings = (benchmark.run)(&context)?;
    let report = Report {
        benchmark: benchmark.name.into(),
        started: rfc3339::format_ms(started_ms),
        command: machine::command(),
        quick: arguments.quick,
        machine: Machine::of_this(),
        commit: Commit::at(&root),
        limit,
        findings,
    };
    println!("{}", report.table());
    let places = std::iter::once(results).chain(arguments.out.clone());
    for place in places {
        store(&report, &place, started_ms)?;
    }
    Ok(report)
}

/// Writes the JSON and what goes beside it: `<name>-20161215T090000Z.json`.
fn store(report: &Report, place: &Path, started_ms: u64) -> Result<(), BenchError> {
    let compact = rfc3339::format_ms(started_ms / 1_000 * 1_000).replace([':', '-'], "");
    let stem = format!("{}-{compact}", report.benchmark);
    let path = place.join(format!("{stem}.json"));
    let json = serde_json::to_string_pretty(report).map_err(|what| BenchError::Json { path: path.clone(), what })?;
    write(&path, &json)?;
    println!("  {}", path.display());
    for page in &report.findings.pages {
        let path = place.join(format!("{stem}.{}", page.ending));
        write(&path, &page.content)?;
        println!("  {}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_benchmark_has_a_name_of_its_own_and_stands_in_the_list() {
        let names: BTreeSet<&str> = ALL.iter().map(|benchmark| benchmark.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(names.iter().all(|name| list().contains(name)) && !names.contains("all") && !names.contains("list"));
    }

    #[test]
    fn the_table_of_contents_names_every_benchmark() {
        let contents = include_str!("../README.md");
        for Benchmark { name, .. } in &ALL {
            assert!(contents.contains(&format!("| `{name}` |")), "benchmarks/README.md does not tell of {name}");
        }
    }

    #[test]
    fn results_are_written_under_the_name_and_moment() {
        let place = tempfile::tempdir().unwrap();
        let report = Report {
            benchmark: "sample".into(),
            started: String::new(),
            command: String::new(),
            quick: true,
            machine: Machine::of_this(),
            commit: Commit { id: "0".into(), dirty: false },
            limit: report::Limit { batch: 512, cores: 1, one_core_per_s: 1.0, all_cores_per_s: 1.0 },
            findings: Findings::none("nothing to do".into()),
        };
        store(&report, place.path(), 1_481_792_400_250).unwrap();
        let text = std::fs::read_to_string(place.path().join("sample-20161215T090000Z.json")).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
