//! Checkpoints, written by a thread of their own, one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Sender, bounded};
use zeni_consensus::{CheckpointDelta, HaltReason};
use zeni_storage::{Checkpoint, DiskFiles, SledOverlay, StorageError, Syncer};

/// The checkpoint as nodes keep it.
pub type NodeCheckpoint = Checkpoint<DiskFiles, SledOverlay>;

/// The core thread's side.
#[derive(Debug)]
pub struct Checkpointer {
    /// Blocks below the head.
    depth: u64,
    jobs: Sender<CheckpointDelta>,
    /// A checkpoint is being written, or one failed: then the next would not fit onto what is there.
    busy: Arc<AtomicBool>,
}

impl Checkpointer {
    /// Asks `delta` for what the next checkpoint needs and has it written, unless the last one is not done yet.
    pub fn take(
        &self,
        delta: impl FnOnce(u64) -> Result<Option<CheckpointDelta>, HaltReason>,
    ) -> Result<(), HaltReason> {
        if self.busy.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(delta) = delta(self.depth)? {
            self.busy.store(true, Ordering::Release);
            // The thread ends before this side only if it panicked; then no checkpoint is written any more.
            let _ = self.jobs.send(delta);
        }
        Ok(())
    }
}

/// Starts the thread. It ends when the [`Checkpointer`] is dropped.
pub fn start(
    depth: u64,
    checkpoint: NodeCheckpoint,
    syncer: Syncer<DiskFiles>,
) -> std::io::Result<(Checkpointer, JoinHandle<()>)> {
    let (jobs, waiting) = bounded::<CheckpointDelta>(1);
    let busy = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&busy);
    let mut checkpoint = checkpoint;
    let run = move || {
        for delta in waiting {
            match write(&mut checkpoint, &syncer, &delta) {
                Ok(()) => done.store(false, Ordering::Release),
                Err(error) => {
                    // The log is the truth: a restart replays it from the last good checkpoint, or rebuilds one.
                    metrics::counter!("zeni_checkpoint_failures_total").increment(1);
                    tracing::error!(%error, height = delta.height, "a checkpoint failed; none is taken until a restart");
                }
            }
        }
    };
    let handle = std::thread::Builder::new().name("checkpoint".into()).spawn(run)?;
    Ok((Checkpointer { depth, jobs, busy }, handle))
}

fn write(
    checkpoint: &mut NodeCheckpoint,
    syncer: &Syncer<DiskFiles>,
    delta: &CheckpointDelta,
) -> Result<(), StorageError> {
    let start = Instant::now();
    // A state without its undo records could never be taken back: they go first.
    syncer.sync_all()?;
    checkpoint.apply(delta)?;
    metrics::histogram!("zeni_checkpoint_seconds").record(start.elapsed());
    metrics::gauge!("zeni_checkpoint_height").set(delta.height as f64);
    tracing::info!(height = delta.height, block = %delta.to, accounts = delta.accounts.len(), "checkpoint");
    Ok(())
}
