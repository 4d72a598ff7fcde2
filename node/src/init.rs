//! `node init`: makes a data directory for one ledger.
//!
//! What a validator has signed is in its safety record only. An empty directory says nothing of that: it may be a new
//! validator's first, or stand in for a disk that was lost. So the validator gets a record, and may sign, only if the
//! operator says that it is its first start; otherwise it follows until `node readmit`.

use zeni_consensus::SafetyRecord;
use zeni_storage::{DiskFiles, Files, SafetyFile, StorageError, Store};

use crate::setup::Setup;

/// What the operator knows of the validator's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// No node has ever run with this key on this ledger, so nothing was signed.
    None,
    /// It may have signed.
    Unknown,
}

/// What the validator may do from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Signs,
    /// It has no safety record: it only follows until an operator re-admits it.
    FollowsOnly,
}

/// Makes the data directory.
///
/// The safety record is written before the identity, without which no node runs: so a directory with an identity and
/// no safety record has lost it, or never had one. A directory that holds anything already gets no fresh record
/// whatever the operator says, because that would forget what was signed; one that it holds is left as it is.
///
/// # Errors
/// [`StorageError::AlreadyInitialised`] and I/O.
pub fn init(setup: &Setup, past: Past) -> Result<Standing, StorageError> {
    let files = DiskFiles::open(&setup.config.data)?;
    let genesis = setup.genesis.id();
    let is_new = files.list().is_ok_and(|names| names.is_empty());
    let mut safety = SafetyFile::open(files.clone(), genesis)?;
    if is_new && past == Past::None {
        safety.write(&SafetyRecord::default())?;
    }
    Store::init(&files, &genesis)?;
    Ok(if matches!(safety.read(), Ok(Some(_))) { Standing::Signs } else { Standing::FollowsOnly })
}
