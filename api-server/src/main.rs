//! `api-server run --config FILE`: see the library for what it does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use zeni_api_server::config::{Config, Log, LogFormat};
use zeni_api_server::run::{check, run};

#[derive(Parser)]
#[command(name = "api-server", version, about = "Follows a Zeni ledger and answers HTTP")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves until SIGTERM.
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// The TOML config.
    #[arg(long)]
    config: PathBuf,
    /// Only checks the config and the files that it names.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let Command::Run(command) = Cli::parse().command;
    match start(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the api-server ends");
            eprintln!("api-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: &Run) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(&command.config)?;
    let filter = EnvFilter::try_new(&config.log.filter).map_err(|error| {
        format!("log.filter {:?} is no filter: {error}; write info or module=level", config.log.filter)
    })?;
    let log = config.log.clone();
    let checked = check(config)?;
    if command.check_config {
        println!("the config is good: genesis {}, {} nodes", checked.genesis.id(), checked.nodes.len());
        return Ok(());
    }
    begin_log(&log, filter);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("api").build()?;
    Ok(runtime.block_on(run(checked))?)
}

fn begin_log(log: &Log, filter: EnvFilter) {
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => subscriber.json().init(),
        LogFormat::Text => subscriber.init(),
    }
}
