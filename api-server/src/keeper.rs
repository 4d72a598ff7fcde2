//! The thread that writes in the background: the index, and checkpoints of the state.
//!
//! A checkpoint is written only when the index and the proof log hold its block on disk: what stands below a checkpoint
//! is not executed again, so nothing would tell them of it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use zeni_consensus::CheckpointDelta;
use zeni_storage::index::{Index, IndexError};
use zeni_storage::{Checkpoint, DiskFiles, SledOverlay, StorageError, Syncer};

use crate::proof_log::{ProofLog, ProofLogError};

/// Between two looks at whether the index has much to write.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Payments that the index holds in memory before some are written without a checkpoint. Each write touches most of the
/// tree's leaves, so fewer and larger ones cost less, and only a checkpoint needs one.
const FLUSH_PAYMENTS: usize = 2_000_000;
/// How long a stop goes on writing the index.
const STOP_FLUSHES: Duration = Duration::from_secs(10);

/// Why the background work cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error("the index cannot be written: {0}")]
    Index(#[from] IndexError),
    #[error("the checkpoint cannot be written: {0}")]
    Storage(#[from] StorageError),
    #[error(transparent)]
    ProofLog(#[from] ProofLogError),
    #[error("the background thread panicked")]
    Panicked,
    #[error("the background thread does not start: {0}")]
    Spawn(std::io::Error),
}

/// Hands work to the thread.
#[derive(Debug)]
pub struct Keeper {
    checkpoints: Sender<CheckpointDelta>,
    thread: JoinHandle<Result<(), KeeperError>>,
}

impl Keeper {
    /// Starts the thread.
    pub fn start(
        index: Arc<Index>,
        proof_log: Arc<ProofLog>,
        syncer: Syncer<DiskFiles>,
        checkpoint: Checkpoint<DiskFiles, SledOverlay>,
    ) -> Result<Self, KeeperError> {
        let (checkpoints, work) = bounded(1);
        let thread = std::thread::Builder::new().name("keeper".into());
        let thread =
            thread.spawn(move || run(&index, &proof_log, &syncer, checkpoint, &work)).map_err(KeeperError::Spawn)?;
        Ok(Self { checkpoints, thread })
    }

    /// Whether another checkpoint would be taken now.
    pub fn is_free(&self) -> bool {
        self.checkpoints.is_empty()
    }

    /// Hands over a checkpoint. False if the thread has ended.
    ///
    /// # Panics
    /// If one waits already: steps must not be lost, so ask [`Self::is_free`] first.
    #[must_use]
    pub fn checkpoint(&self, delta: CheckpointDelta) -> bool {
        match self.checkpoints.try_send(delta) {
            Ok(()) => true,
            Err(TrySendError::Disconnected(_)) => false,
            Err(TrySendError::Full(_)) => panic!("a checkpoint waits already"),
        }
    }

    /// Whether the thread has ended, which it does only by failing.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Finishes what was handed over, writes the index as far as [`STOP_FLUSHES`] goes, and ends the thread.
    pub fn stop(self) -> Result<(), KeeperError> {
        drop(self.checkpoints);
        self.thread.join().unwrap_or(Err(KeeperError::Panicked))
    }
}

fn run(
    index: &Index,
    proof_log: &ProofLog,
    syncer: &Syncer<DiskFiles>,
    mut checkpoint: Checkpoint<DiskFiles, SledOverlay>,
    work: &Receiver<CheckpointDelta>,
) -> Result<(), KeeperError> {
    loop {
        match work.recv_timeout(LOOK_INTERVAL) {
            Ok(delta) => {
                index.flush_through(delta.height)?;
                proof_log.sync()?;
                syncer.sync_all()?;
                checkpoint.apply(&delta)?;
                tracing::info!(height = delta.height, accounts = delta.accounts.len(), "checkpoint written");
                metrics::gauge!("zeni_api_checkpoint_height").set(delta.height as f64);
            }
            Err(RecvTimeoutError::Timeout) => {
                if index.memory_payments() >= FLUSH_PAYMENTS {
                    index.flush()?;
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return flush_at_stop(index);
            }
        }
        metrics::gauge!("zeni_api_index_flushed_height").set(index.flushed().0 as f64);
        metrics::gauge!("zeni_api_index_memory_payments").set(index.memory_payments() as f64);
    }
}

/// Writes one block after another, and leaves the rest to the next start, which takes it from the log as after a crash.
fn flush_at_stop(index: &Index) -> Result<(), KeeperError> {
    let start = Instant::now();
    while index.memory_payments() > 0 {
        if start.elapsed() >= STOP_FLUSHES {
            let payments = index.memory_payments();
            tracing::warn!(payments, "the index is not written whole; the next start executes what is missing");
            break;
        }
        index.flush_through(index.flushed().0 + 1)?;
    }
    Ok(())
}
