//! `node run`: a node from its start to a signal or a failure.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::lost_disk::{LostDiskError, return_by_snapshot};
use crate::node::{Failure, Node, StartError};
use crate::setup::Setup;
use crate::telemetry::{self, TelemetryError};

/// Beyond `limits.stopping_ms`, how long syncing, sealing and closing may take.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Threads that serve blocking reads, at most.
const BLOCKING_THREADS_MAX: usize = 8;

/// Why `node run` ended other than by a clean stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error("the node lost its disk and cannot take a snapshot: {0}")]
    LostDisk(#[from] LostDiskError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// Runs the node until SIGTERM or SIGINT, then stops it cleanly.
pub fn run(setup: Setup) -> Result<(), RunError> {
    die_on_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(RunError::Runtime)?;
    let result = runtime.block_on(run_until_signal(setup));
    // After a failure other tasks may never end.
    runtime.shutdown_background();
    result
}

async fn run_until_signal(setup: Setup) -> Result<(), RunError> {
    if let Some(address) = setup.config.metrics {
        telemetry::start_metrics(address)?;
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let limit = Duration::from_millis(setup.config.limits.stopping_ms) + STOP_GRACE;
    tokio::select! {
        returned = return_by_snapshot(&setup) => drop(returned?),
        // What was fetched so far is thrown away by the next start.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    let mut node = Node::start(setup)?;
    tokio::select! {
        failure = node.failure() => {
            // After a halt others may wait for the last words; after any other failure there are none.
            if let Failure::Halted(_) = failure {
                node.abandon().await;
            }
            return Err(failure.into());
        }
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    match timeout(limit, node.stop()).await {
        Ok(stopped) => Ok(stopped?),
        Err(_) => Err(Failure::StopTooSlow(limit).into()),
    }
}

/// A panic anywhere is a broken invariant: the process must not go on half alive. Only sled's are caught where it is
/// called, and cost a checkpoint that the log rebuilds; what that gives up, [`zeni_storage::is_guarded`] tells.
fn die_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tracing::error!("panic: {info}");
        print(info);
        if !zeni_storage::is_guarded() {
            std::process::abort();
        }
    }));
}
