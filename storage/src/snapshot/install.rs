//! A snapshot on its way into a data directory that has no log.

use zeni_consensus::Record;
use zeni_consensus::snapshot::Assembled;
use zeni_ledger::{Account, Genesis};

use super::{MARKER, is_unfinished, remove};
use crate::checkpoint::content;
use crate::clean_stop;
use crate::delta;
use crate::error::StorageError;
use crate::files::Files;
use crate::overlay::{Head, Overlay};
use crate::store::Store;
use crate::stream::{Limits, Which};

/// Accounts after which the overlay is flushed, so that what it keeps in memory is bounded.
const FLUSH_ACCOUNTS: usize = 1 << 20;

/// Takes accounts as they come, and makes a data directory of them in the end.
#[derive(Debug)]
pub struct Install<F: Files, O: Overlay> {
    files: F,
    overlay: O,
    unflushed: usize,
}

impl<F: Files, O: Overlay> Install<F, O> {
    /// Marks the directory as unfinished and empties it of an earlier try.
    ///
    /// # Errors
    /// [`StorageError::HoldsLog`] if there is a log that is no part of an earlier try; I/O.
    pub fn begin(files: F, mut overlay: O) -> Result<Self, StorageError> {
        if !is_unfinished(&files)? {
            if !logs(&files)?.is_empty() {
                return Err(StorageError::HoldsLog);
            }
            files.create(MARKER).map_err(StorageError::io(MARKER, "creating"))?;
            files.sync_directory().map_err(StorageError::io(MARKER, "syncing the directory of"))?;
        }
        empty(&files, &mut overlay)?;
        Ok(Self { files, overlay, unflushed: 0 })
    }

    /// Takes some accounts; they need not be right yet.
    pub fn accounts(&mut self, accounts: &[Account]) -> Result<(), StorageError> {
        let contents: Vec<_> = accounts.iter().map(content).collect();
        self.overlay.put(&contents)?;
        self.unflushed += contents.len();
        if self.unflushed >= FLUSH_ACCOUNTS {
            self.unflushed = 0;
            self.overlay.flush()?;
        }
        Ok(())
    }

    /// Everything was checked: writes log and checkpoint, syncs them and takes the marker away.
    pub fn finish(mut self, assembled: &Assembled, genesis: &Genesis, limits: Limits) -> Result<(), StorageError> {
        let base = assembled.certificate.block;
        self.overlay.flush()?;
        self.overlay.set_head(&Head { genesis: genesis.id(), block: base.id, height: base.height })?;
        self.overlay.flush()?;
        let (mut store, _) = Store::open(self.files.clone(), genesis, limits)?;
        assembled.blocks.iter().try_for_each(|block| store.append(&Record::Block(block.clone())))?;
        store.append_base(&assembled.certificate)?;
        store.syncer().sync_all()?;
        store.seal()?;
        self.files.sync_directory().map_err(StorageError::io("the data directory", "syncing"))?;
        unmark(&self.files)
    }
}

/// Whether the directory has no log, but perhaps an unfinished snapshot, so that a snapshot may go into it.
pub fn can_take_snapshot<F: Files>(files: &F) -> Result<bool, StorageError> {
    Ok(is_unfinished(files)? || logs(files)?.is_empty())
}

/// Throws away what came so far, or what an earlier process left: the directory is as if nothing had been asked for.
pub fn abandon_snapshot<F: Files, O: Overlay>(files: &F, overlay: &mut O) -> Result<(), StorageError> {
    if is_unfinished(files)? {
        empty(files, overlay)?;
        unmark(files)?;
    }
    Ok(())
}

/// The files of log and undo log, mended and torn ones included.
fn logs<F: Files>(files: &F) -> Result<Vec<String>, StorageError> {
    let names = files.list().map_err(StorageError::io("the data directory", "listing"))?;
    let is_log = |name: &String| Which::ALL.iter().any(|which| name.starts_with(&format!("{}-", which.prefix())));
    Ok(names.into_iter().filter(is_log).collect())
}

fn empty<F: Files, O: Overlay>(files: &F, overlay: &mut O) -> Result<(), StorageError> {
    // What says that a log was closed must not outlive it.
    clean_stop::unmark(files)?;
    logs(files)?.iter().try_for_each(|name| remove(files, name))?;
    delta::remove(files)?;
    let mut found = overlay.head()?.is_some();
    let looked = overlay.each(&mut |_, _| {
        found = true;
        Err(StorageError::SnapshotStopped)
    });
    match looked {
        Ok(()) | Err(StorageError::SnapshotStopped) => {}
        Err(StorageError::CheckpointDamaged { .. }) => found = true,
        Err(error) => return Err(error),
    }
    if found {
        overlay.reset()?;
    }
    files.sync_directory().map_err(StorageError::io("the data directory", "syncing"))
}

fn unmark<F: Files>(files: &F) -> Result<(), StorageError> {
    remove(files, MARKER)?;
    files.sync_directory().map_err(StorageError::io(MARKER, "syncing the directory of"))
}
