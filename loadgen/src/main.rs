//! The `loadgen` command.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use zeni_loadgen::network::Programs;
use zeni_loadgen::prepare::prepare;
use zeni_loadgen::scenario::Scenario;
use zeni_loadgen::storm::{self, Places};
use zeni_loadgen::{clock, process, stored, up};

/// A threshold failed.
const THRESHOLD_FAILED: u8 = 99;
/// The tool failed: there is no verdict.
const TOOL_FAILED: u8 = 1;

/// Prepares, replays and judges payment storms.
///
/// Exit codes of `storm` and `report`: 0 passed, 99 a threshold failed, 1 the tool failed.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a scenario's input (genesis, accounts, signed payments) for later runs to use.
    Prepare {
        scenario: PathBuf,
        #[command(flatten)]
        places: PlacesArguments,
    },
    /// Run a scenario and judge it.
    ///
    /// A storm is over when every acknowledged payment is final and all nodes are equal. What nodes and the API server call
    /// final is recorded while it runs, and nothing of it may ever be contradicted.
    ///
    /// Faults of a scenario strike processes (stop, kill, pause, restart) or what nodes send each other (partition, delay,
    /// loss); a partition may take payments that spend the same money on both sides, and a node may run twice. For faults of
    /// the network and for twins, and only then, datagrams between the nodes go through a relay in this process. However it
    /// ends, its nodes end with it, and nothing is left that would be cut off.
    Storm {
        scenario: PathBuf,
        #[command(flatten)]
        places: PlacesArguments,
    },
    /// Render the report of a run again and judge it again.
    Report {
        /// The directory that holds report.json.
        run: PathBuf,
    },
    /// Start a scenario's network without a storm, print its addresses and run until Ctrl-C.
    Up {
        scenario: PathBuf,
        #[command(flatten)]
        places: PlacesArguments,
    },
    /// Become a program that the kernel kills when the load generator dies.
    #[command(hide = true, name = process::LEASH)]
    Leash {
        parent: u32,
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct PlacesArguments {
    /// Where prepared input is kept.
    #[arg(long, default_value = "target/storm-data")]
    data: PathBuf,
    /// Where run directories are made.
    #[arg(long, default_value = "target/storm")]
    runs: PathBuf,
    /// The node program; beside this one if absent.
    #[arg(long)]
    node: Option<PathBuf>,
    /// The API server program; beside this one if absent.
    #[arg(long)]
    api_server: Option<PathBuf>,
}

impl PlacesArguments {
    fn places(self) -> Result<Places, String> {
        let beside = Programs::beside_this().map_err(|error| format!("finding this program: {error}"))?;
        let node = self.node.unwrap_or(beside.node);
        let api_server = self.api_server.unwrap_or(beside.api_server);
        // Processes are started with paths in their configs, so they must not depend on a working directory.
        let absolute =
            |path: PathBuf| std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()));
        let programs = Programs { loadgen: beside.loadgen, node, api_server };
        Ok(Places { data: absolute(self.data)?, runs: absolute(self.runs)?, programs })
    }
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let done = match Arguments::parse().command {
        Command::Prepare { scenario, places } => prepare_only(&scenario, places),
        Command::Storm { scenario, places } => storm(&scenario, places),
        Command::Report { run } => report(&run),
        Command::Up { scenario, places } => stay_up(&scenario, places),
        Command::Leash { parent, program, arguments } => Err(process::leash(parent, &program, &arguments).to_string()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(THRESHOLD_FAILED),
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::from(TOOL_FAILED)
        }
    }
}

fn prepare_only(scenario: &std::path::Path, places: PlacesArguments) -> Result<bool, String> {
    let scenario = Scenario::load(scenario).map_err(|error| error.to_string())?;
    let prepared =
        prepare(&places.data, &scenario.parameters(), clock::unix_ms()).map_err(|error| error.to_string())?;
    let how = if prepared.reused { "found" } else { "made" };
    let seconds = Duration::from_millis(prepared.meta.prepare_ms).as_secs_f64();
    println!(
        "{how} {} payments in {} (ledger {}; making them took {seconds:.1} s)",
        prepared.meta.payments,
        prepared.directory.display(),
        prepared.genesis_id
    );
    Ok(true)
}

fn storm(scenario: &std::path::Path, places: PlacesArguments) -> Result<bool, String> {
    let scenario = Scenario::load(scenario).map_err(|error| error.to_string())?;
    let places = places.places()?;
    let (report, directory) =
        until_interrupted(async { storm::run(scenario, &places).await.map_err(|error| error.to_string()) })?;
    println!("{}\n  report {}", report.summary(), directory.join(storm_page()).display());
    Ok(report.passed)
}

const fn storm_page() -> &'static str {
    zeni_loadgen::report::HTML_FILE
}

fn report(run: &std::path::Path) -> Result<bool, String> {
    let report = stored::judge_again(run).map_err(|error| error.to_string())?;
    println!("{}\n  report {}", report.summary(), run.join(storm_page()).display());
    Ok(report.passed)
}

fn stay_up(scenario: &std::path::Path, places: PlacesArguments) -> Result<bool, String> {
    let scenario = Scenario::load(scenario).map_err(|error| error.to_string())?;
    let places = places.places()?;
    with_runtime(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let end = async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        };
        up::up(&scenario, &places, end).await.map_err(|error| error.to_string())
    })?;
    Ok(true)
}

/// Runs to the end, or until Ctrl-C or SIGTERM; either way every process that was started is gone afterwards.
fn until_interrupted<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    with_runtime(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        tokio::select! {
            done = Box::pin(work) => done,
            _ = tokio::signal::ctrl_c() => Err("interrupted; everything that was started is ended".into()),
            _ = terminate.recv() => Err("terminated; everything that was started is ended".into()),
        }
    })
}

/// Runs on a runtime whose threads live as long as this process, for the leashes of others hang on them.
fn with_runtime<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| format!("starting the runtime: {error}"))?.block_on(Box::pin(work))
}
