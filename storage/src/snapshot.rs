//! Snapshots on disk: [`Export`] makes one of a node's checkpoint and log, [`Install`] makes a log and a checkpoint of
//! one.
//!
//! While an [`Install`] goes on, a marker file stands in the directory, and nothing but another one opens it. So a part
//! of a snapshot is never believed, wherever a crash cuts it: the marker is durable before anything else is written,
//! and removed after everything is synced.

mod export;
mod install;

use std::io::ErrorKind;

use crate::error::StorageError;
use crate::files::Files;

pub use export::Export;
pub use install::{Install, abandon_snapshot, can_take_snapshot};

const MARKER: &str = "snapshot.unfinished";

/// Whether the directory holds a part of a snapshot.
pub fn is_unfinished<F: Files>(files: &F) -> Result<bool, StorageError> {
    match files.open(MARKER) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StorageError::io(MARKER, "looking for")(error)),
    }
}

/// Refuses a directory that holds a part of a snapshot.
pub(crate) fn require_finished<F: Files>(files: &F) -> Result<(), StorageError> {
    match is_unfinished(files)? {
        true => Err(StorageError::UnfinishedSnapshot),
        false => Ok(()),
    }
}

/// Removes a file that may be absent.
fn remove<F: Files>(files: &F, name: &str) -> Result<(), StorageError> {
    match files.remove(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StorageError::io(name, "removing")(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
