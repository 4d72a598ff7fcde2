//! The `api-server` command: see the library for what it does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use zeni_api_server::config::{Config, Log, LogFormat};
use zeni_api_server::run::{Checked, check, run};
use zeni_storage::keep_freed_memory;

/// Something failed.
const FAILED: u8 = 1;
/// Config, genesis and key do not go together; also what clap says of wrong arguments.
const MISCONFIGURED: u8 = 2;

/// The API server of a Zeni ledger: follows the chain of its nodes, executes it itself, and answers HTTP.
///
/// Exit codes: 0 stopped by SIGTERM or SIGINT (or the config is in order), 1 failed, 2 misconfigured.
#[derive(Debug, Parser)]
#[command(name = "api-server", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Run {
        /// The server's TOML config; `deploy/api-server.toml` explains every field.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only read and check config, genesis and key, and say whether they are in order.
        #[arg(long)]
        check_config: bool,
    },
}

/// What to exit with, and what to say.
type Exit = (u8, String);

fn main() -> ExitCode {
    let Command::Run { config, check_config } = Arguments::parse().command;
    if !check_config {
        keep_freed_memory();
    }
    match load(&config).and_then(|loaded| start(&config, loaded, check_config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            eprintln!("api-server: {text}");
            ExitCode::from(code)
        }
    }
}

/// Everything that a start reads before it touches data or network.
fn load(config: &Path) -> Result<(Checked, EnvFilter), Exit> {
    let config = Config::load(config).map_err(misconfigured)?;
    let filter = EnvFilter::try_new(&config.log.filter).map_err(|error| {
        let text = format!("log.filter {:?} is no filter: {error}; write info or module=level", config.log.filter);
        (MISCONFIGURED, text)
    })?;
    Ok((check(config).map_err(misconfigured)?, filter))
}

fn start(config: &Path, (checked, filter): (Checked, EnvFilter), check_only: bool) -> Result<(), Exit> {
    if check_only {
        let (genesis, nodes) = (checked.genesis.id(), checked.nodes.len());
        println!("{} is in order: genesis {genesis}, {nodes} nodes", config.display());
        return Ok(());
    }
    begin_log(&checked.config.log, filter);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("api").build();
    let ended = runtime.map_err(failed)?.block_on(run(checked));
    ended.map_err(|error| {
        tracing::error!(%error, "the api-server ends");
        failed(error)
    })
}

fn misconfigured(error: impl std::error::Error) -> Exit {
    (MISCONFIGURED, error.to_string())
}

fn failed(error: impl std::error::Error) -> Exit {
    (FAILED, error.to_string())
}

fn begin_log(log: &Log, filter: EnvFilter) {
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => subscriber.json().init(),
        LogFormat::Text => subscriber.init(),
    }
}
