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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use zeni_ledger::{Account, AccountId, BlockId, Genesis};
    use zeni_storage::index::IndexConfig;
    use zeni_storage::{Limits, Store};

    use super::*;

    /// Longer than anything here takes that is bounded.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// Leaves no room for anything that a closed and empty sled may yet write: its flushes will fail as on a full disk.
    fn leave_no_room(sled: &Path) {
        for slab in std::fs::read_dir(sled.join("slabs")).unwrap() {
            let slab = slab.unwrap().path();
            std::fs::remove_file(&slab).unwrap();
            symlink("/dev/full", &slab).unwrap();
        }
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_ends_the_thread_with_its_error() {
        let directory = tempfile::tempdir().unwrap();
        let genesis = Genesis::from_toml(include_str!("../../deploy/genesis.example.toml")).unwrap();
        let files = DiskFiles::open(directory.path()).unwrap();
        Store::init(&files, &genesis.id()).unwrap();
        let syncer = Store::open(files.clone(), &genesis, Limits::default()).unwrap().0.syncer();
        let (index, proofs) = (directory.path().join("index"), directory.path().join("proofs.log"));
        let index = Arc::new(Index::open(&index, genesis.block_id(), IndexConfig::default()).unwrap().index);
        let proof_log = Arc::new(ProofLog::open(&proofs, &genesis.id()).unwrap());
        let overlay = directory.path().join("checkpoint");
        drop(SledOverlay::open(&overlay).unwrap());
        leave_no_room(&overlay);
        let overlay = SledOverlay::open(&overlay).unwrap();
        let (checkpoint, _) = Checkpoint::open(files, overlay, &genesis).map_err(|(error, _)| error).unwrap();
        let keeper = Keeper::start(index, proof_log, syncer, checkpoint).unwrap();
        let accounts = vec![Account::new(AccountId([1; 32]))];
        let step = CheckpointDelta { from: genesis.block_id(), to: BlockId([1; 32]), height: 1, accounts };
        assert!(keeper.checkpoint(step));
        let start = Instant::now();
        while !keeper.has_failed() {
            assert!(start.elapsed() < DEADLINE, "the thread neither ends nor goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        let failed = keeper.stop();
        assert!(matches!(failed, Err(KeeperError::Storage(StorageError::Io { .. }))), "{failed:?}");
    }
}
