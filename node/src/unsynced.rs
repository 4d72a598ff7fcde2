//! Batches that were appended to the log and are not yet known to be on disk.
//!
//! Peers and followers that ask by digest are served off the core thread, from all that was appended. But whoever gets
//! a batch counts its sender among those that hold it, so even these bytes promise something, and wait for the sync
//! like everything else that is said.

use std::collections::HashSet;

use tokio::sync::watch;
use zeni_consensus::Record;
use zeni_ledger::BatchDigest;
use zeni_storage::{Files, StorageError, Store};

use crate::committer::{Say, Turn};

/// The batches of turns that the committer has not released; `TURNS_MAX` bounds how many turns those are.
#[derive(Debug, Default)]
pub struct Unsynced {
    digests: watch::Sender<HashSet<BatchDigest>>,
}

impl Unsynced {
    /// Appends a record to the log. A batch is noted before anyone can read it, and released with the turn.
    pub fn append<F: Files>(&self, store: &mut Store<F>, record: &Record, turn: &mut Turn) -> Result<(), StorageError> {
        if let Record::Batch(batch) = record {
            let digest = batch.digest();
            // Nobody waits for a batch to become unsynced, so nobody is woken.
            self.digests.send_if_modified(|digests| {
                digests.insert(digest);
                false
            });
            turn.say.push(Say::Synced(digest));
        }
        store.append(record)?;
        turn.appended = true;
        Ok(())
    }

    /// The batch is on disk.
    pub fn synced(&self, digest: &BatchDigest) {
        self.digests.send_if_modified(|digests| digests.remove(digest));
    }

    /// Returns once a batch that was read from the log is on disk. After a failed sync that is never, like everything
    /// else that waits to be said: the process ends.
    pub async fn wait(&self, digest: &BatchDigest) {
        if self.digests.borrow().contains(digest) {
            let mut changes = self.digests.subscribe();
            let on_disk = changes.wait_for(|digests| !digests.contains(digest)).await;
            on_disk.expect("the sending side is borrowed for as long as this waits");
        }
    }

    /// How many wait for a sync just now.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.digests.receiver_count()
    }
}
