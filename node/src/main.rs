//! The `node` command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;
use zeni_ledger::AccountId;
use zeni_node::init::{Past, Standing};
use zeni_node::inspect::{Wanted, inspect};
use zeni_node::node::Failure;
use zeni_node::run::RunError;
use zeni_node::verify_data::{VerifyDataError, verify_data};
use zeni_node::{Setup, clock, evidence, init, readmit, run, telemetry};
use zeni_storage::keep_freed_memory;

/// Something failed.
const FAILED: u8 = 1;
/// Config, genesis and key do not go together; also what clap says of wrong arguments.
const MISCONFIGURED: u8 = 2;
/// Stopped for good: an operator must act before another start makes sense.
const HALTED: u8 = 3;

/// The ledger node. Exit codes: 0 done, 1 failed, 2 misconfigured, 3 halted for good.
#[derive(Debug, Parser)]
#[command(name = "node", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the data directory that the config names. Without --first-start the validator signs nothing until it is
    /// re-admitted.
    ///
    /// An empty disk does not tell whether this validator has signed blocks before, and signing twice for a slot would
    /// be equivocation. So on a disk that replaces a lost one: `node init`, then `node readmit`. The first `node run` then
    /// fetches a snapshot of the state from the other validators.
    Init {
        #[arg(long)]
        config: PathBuf,
        /// No node has ever run with this validator's key on this ledger: let it sign at once.
        #[arg(long)]
        first_start: bool,
    },
    /// Run the node until SIGTERM.
    Run {
        #[arg(long)]
        config: PathBuf,
        /// Only read and check config, genesis and key.
        #[arg(long)]
        check_config: bool,
    },
    /// Recheck everything that a stopped node stored, and print what it holds as JSON. Exits 1 at the first damage.
    Verify {
        /// The data directory.
        #[arg(long)]
        data: PathBuf,
        /// The genesis file; its account file lies beside it.
        #[arg(long)]
        genesis: PathBuf,
    },
    /// Tell what a stopped node's data directory holds, as JSON, without rechecking it.
    Inspect {
        /// The data directory.
        #[arg(long)]
        data: PathBuf,
        /// The genesis file.
        #[arg(long)]
        genesis: PathBuf,
        /// Show the blocks at this height, or the one with this id.
        #[arg(long)]
        block: Option<String>,
        /// Show every segment file.
        #[arg(long)]
        segments: bool,
        /// Show this account (zeni1…) at the head; executes the chain.
        #[arg(long)]
        account: Option<AccountId>,
    },
    /// Show the evidence against validators that a stopped node has kept. (Of a running one, ask an API server that follows
    /// it: GET /v1/evidence.)
    Evidence {
        /// The data directory.
        #[arg(long)]
        data: PathBuf,
        /// As a JSON array instead of lines.
        #[arg(long)]
        json: bool,
        /// Also write each piece into this directory, as ID.evidence, for `zeni evidence verify`.
        #[arg(long, value_name = "DIR")]
        export: Option<PathBuf>,
    },
    /// Let a validator that lost its safety record sign again, above every slot that it can have signed.
    Readmit {
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Run { check_config: false, .. } | Command::Verify { .. } = arguments.command {
        keep_freed_memory();
    }
    match arguments.command {
        Command::Init { config, first_start } => with_setup(&config, |setup| {
            let past = if first_start { Past::None } else { Past::Unknown };
            let standing = init::init(&setup, past).map_err(failed)?;
            println!("{} now holds the ledger {}", setup.config.data.display(), setup.genesis.id());
            if standing == Standing::FollowsOnly {
                println!(
                    "it has no safety record: the validator only follows until node readmit --config {}",
                    config.display()
                );
            }
            Ok(())
        }),
        Command::Run { config, check_config: true } => with_setup(&config, |setup| {
            println!("{} is in order: validator {} of {}", config.display(), setup.me, setup.genesis.id());
            Ok(())
        }),
        Command::Run { config, check_config: false } => with_setup(&config, |setup| {
            telemetry::start_logs(&setup.config.log).map_err(|error| (MISCONFIGURED, error.to_string()))?;
            run::run(setup).map_err(|error| match error {
                RunError::Failure(Failure::Halted(_)) => (HALTED, error.to_string()),
                other => failed(other),
            })
        }),
        Command::Verify { data, genesis } => verify(&data, &genesis),
        Command::Inspect { data, genesis, block, segments, account } => {
            let wanted = Wanted { block, segments, account };
            done(inspect(&data, &genesis, &wanted).map_err(failed).map(|told| println!("{told:#}")))
        }
        Command::Evidence { data, json, export } => {
            let shown = evidence::show(&data, export.as_deref()).map_err(failed);
            done(shown.map(|shown| match json {
                true => println!("{:#}", Value::from(shown)),
                false => shown.iter().for_each(|piece| println!("{}", evidence::line(piece))),
            }))
        }
        Command::Readmit { config } => with_setup(&config, |setup| {
            let record = readmit::readmit(&setup, clock::now()).map_err(failed)?;
            println!(
                "re-admitted: this validator signs blocks again for slots above {}; make sure that no other node runs \
                 with its key",
                record.last_signed_slot
            );
            Ok(())
        }),
    }
}

fn verify(data: &Path, genesis: &Path) -> ExitCode {
    let print = |json: serde_json::Result<String>| println!("{}", json.expect("plain fields of text and numbers"));
    match verify_data(data, genesis) {
        Ok(verified) => {
            print(serde_json::to_string(&verified));
            ExitCode::SUCCESS
        }
        Err(VerifyDataError::Damaged(damaged)) => {
            print(serde_json::to_string(&serde_json::json!({ "damaged": damaged })));
            ExitCode::from(FAILED)
        }
        Err(error) => {
            eprintln!("node: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// What to exit with, and what to say.
type Exit = (u8, String);

fn failed(error: impl std::error::Error) -> Exit {
    (FAILED, error.to_string())
}

fn with_setup(config: &Path, command: impl FnOnce(Setup) -> Result<(), Exit>) -> ExitCode {
    let done = Setup::load(config).map_err(|error| (MISCONFIGURED, error.to_string())).and_then(command);
    self::done(done)
}

fn done(done: Result<(), Exit>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            eprintln!("node: {text}");
            ExitCode::from(code)
        }
    }
}
