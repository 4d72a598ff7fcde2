//! Making durable what was appended, on another thread than the one that appends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::StorageError;
use crate::files::Files;
use crate::stream::Shared;

/// Syncs the log. Cheap to clone; the committer's thread holds one while the core's thread appends on.
#[derive(Debug)]
pub struct Syncer<F: Files> {
    pub(crate) chain: Arc<Shared<F>>,
    pub(crate) undo: Arc<Shared<F>>,
}

impl<F: Files> Clone for Syncer<F> {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), undo: self.undo.clone() }
    }
}

impl<F: Files> Syncer<F> {
    /// Makes durable every record that was appended before the call. Does nothing if nothing was.
    ///
    /// # Errors
    /// After one failed sync every later call fails, as does every append: the kernel may have dropped what it could
    /// not write, so only a restart can tell what is on disk.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.chain.sync()
    }

    /// As [`Self::sync`], and the undo log too: before a checkpoint is recorded, because the undo records of blocks up
    /// to it cannot be made again by executing the blocks after it.
    pub fn sync_all(&self) -> Result<(), StorageError> {
        self.sync()?;
        self.sync_undo()
    }

    /// Makes the undo log durable. Nothing but a checkpoint waits for that; but the end of a segment syncs on the
    /// appending thread, so a thread that is in no hurry should call this every few seconds.
    pub fn sync_undo(&self) -> Result<(), StorageError> {
        self.undo.sync()
    }

    /// Bytes of log and undo log.
    pub fn disk_bytes(&self) -> u64 {
        self.chain.bytes.load(Ordering::Relaxed) + self.undo.bytes.load(Ordering::Relaxed)
    }

    /// Syncs of log and undo log since the start, those at segments' ends included.
    pub fn syncs(&self) -> u64 {
        self.chain.syncs.load(Ordering::Relaxed) + self.undo.syncs.load(Ordering::Relaxed)
    }
}
