//! `cargo xtask`: the project's own commands.

mod build;
mod check;
mod codegen;
mod storm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build everything and run the main job: a payment storm through three nodes, with faults, audited.
    ///
    /// Exit codes: 0 passed, 99 a threshold failed, 1 the tool failed. The report is in target/storm/.
    Storm {
        /// A scenario file; names of files in loadgen/scenarios do without directory and ending.
        #[arg(default_value = "quick")]
        scenario: String,
    },
    /// Run all tests of the workspace, and show cargo's result lines.
    Test {
        /// Passed on to `cargo test`, as in `cargo xtask test -- -p zeni-ledger`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Start three nodes and an API server on this machine, print their addresses, and run until Ctrl-C.
    Up {
        /// As for `storm`; only its network is used.
        #[arg(default_value = "up")]
        scenario: String,
    },
    /// Measure, beside the signatures that this machine checks: `cargo xtask bench NAME`; without one, list.
    ///
    /// Builds the programs in release and runs one benchmark, or `all`. `cargo xtask bench list` tells their names and
    /// how long they take, `cargo xtask bench -- --help` every option. The usual ones: `--rounds N` (3 if absent;
    /// medians, spread and ratios are printed), `--quick` (small inputs, to see that it works),
    /// `--accounts 100000,1000000`, `--out DIR`. Every value goes as JSON to target/bench/. Run nothing else meanwhile.
    ///
    /// Exit codes: 0 measured, 99 measured and something that must hold did not, 1 not measured.
    Bench {
        /// Passed on to the benchmarks.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Generate the Rust code of the FlatBuffers schemas; needs cmake (`pip install cmake`).
    Codegen {
        /// Only check that the committed code is that of the committed schemas; needs nothing.
        #[arg(long)]
        check: bool,
    },
    /// Run the simulator on seeds, or on rule mutants: `cargo xtask sim --seeds 1000 --from 0`, `cargo xtask sim -- --help`.
    Sim {
        /// For thousands of seeds: build for four more minutes, and run a fifth faster. Comes first.
        #[arg(long)]
        campaign: bool,
        /// Passed on to the simulator.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let root = workspace::root();
    let done = match Arguments::parse().command {
        Command::Storm { scenario } => storm::storm(&root, &scenario),
        Command::Test { arguments } => check::test(&root, &arguments),
        Command::Up { scenario } => storm::up(&root, &scenario),
        Command::Bench { arguments } => build::bench(&root, &arguments),
        Command::Codegen { check } => codegen::run(&root, check)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| workspace::Failure::Other(error.to_string())),
        Command::Sim { campaign, arguments } => build::simulate(&root, campaign, &arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
