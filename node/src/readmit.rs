//! `node readmit`: gives a validator that lost its safety record a new one.
//!
//! Without a safety record nobody knows for which slots the validator has signed blocks, and signing a second one for
//! a slot would be equivocation. The new record forbids every slot that it can have signed: all up to now, and two
//! more for a clock that ran ahead. Votes on finality it gives only after it heard every other validator. An operator runs this, after making sure that no other node has the same key.

use zeni_consensus::finality::Guard;
use zeni_consensus::{Millis, SafetyRecord};
use zeni_storage::{DiskFiles, SafetyFile, StorageError, identity};

use crate::setup::Setup;

/// Slots beyond the present one that the node can have signed: its clock may have run ahead.
const SLOTS_AHEAD: u64 = 2;

/// Why there is nothing to re-admit, or it failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadmitError {
    #[error("the safety record is in order (last signed slot {last_signed_slot}); there is nothing to re-admit")]
    NotLost { last_signed_slot: u64 },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Writes a safety record above everything that this validator can have signed, and returns it.
pub fn readmit(setup: &Setup, now: Millis) -> Result<SafetyRecord, ReadmitError> {
    let files = DiskFiles::open(&setup.config.data)?;
    let genesis = setup.genesis.id();
    match identity(&files)? {
        Some(found) if found == genesis => {}
        Some(found) => return Err(StorageError::OtherGenesis { found, expected: genesis }.into()),
        None => return Err(StorageError::NotInitialised.into()),
    }
    let mut safety = SafetyFile::open(files, genesis)?;
    match safety.read() {
        Ok(Some(record)) => return Err(ReadmitError::NotLost { last_signed_slot: record.last_signed_slot }),
        Ok(None) | Err(StorageError::SafetyLost) => {}
        Err(error) => return Err(error.into()),
    }
    let last_signed_slot = setup.genesis.slot_at(now.0) + SLOTS_AHEAD;
    let record = SafetyRecord { last_signed_slot, guard: Guard::default(), readmitted: true };
    safety.write(&record)?;
    Ok(record)
}
