//! `node init`: makes a data directory for one ledger, with a validator's first safety record.

use zeni_consensus::SafetyRecord;
use zeni_storage::{DiskFiles, Files, SafetyFile, StorageError, Store};

use crate::setup::Setup;

/// Makes the data directory.
///
/// The safety record is written before the identity, without which no node runs: so a directory with an identity and
/// no safety record has lost it. A directory that holds anything already gets no fresh record, because that would
/// forget what was signed; then `node readmit` is the way.
///
/// # Errors
/// [`StorageError::AlreadyInitialised`] and I/O.
pub fn init(setup: &Setup) -> Result<(), StorageError> {
    let files = DiskFiles::open(&setup.config.data)?;
    let genesis = setup.genesis.id();
    let is_new = files.list().is_ok_and(|names| names.is_empty());
    if is_new {
        SafetyFile::open(files.clone(), genesis)?.write(&SafetyRecord::default())?;
    }
    Store::init(&files, &genesis)
}
