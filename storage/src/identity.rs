//! The file that says to which ledger a data directory belongs.

use zeni_ledger::GenesisId;

use crate::error::StorageError;
use crate::files::Files;
use crate::slot::{Content, SlotFile};

const NAME: &str = "identity";
const MAGIC: [u8; 8] = *b"ZENIIDN1";

/// Writes the identity of a new data directory, durable on return.
pub(crate) fn init<F: Files>(files: &F, genesis: &GenesisId) -> Result<(), StorageError> {
    match identity(files)? {
        Some(found) => return Err(StorageError::AlreadyInitialised { found }),
        // Damaged, or a crash cut its first writing: both slots are written anew.
        None if files.open(NAME).is_ok() => files.remove(NAME).map_err(StorageError::io(NAME, "removing"))?,
        None => {}
    }
    let mut slots = SlotFile::create(files, NAME, MAGIC, *genesis, &[])?;
    slots.write(&[])
}

/// The ledger that a data directory belongs to; `None` if it was not initialised or its identity is damaged.
pub fn identity<F: Files>(files: &F) -> Result<Option<GenesisId>, StorageError> {
    match SlotFile::open(files, NAME, MAGIC, GenesisId::default())? {
        Some((_, Content::Payload { genesis, .. })) => Ok(Some(genesis)),
        Some((_, Content::Damaged)) | None => Ok(None),
    }
}

/// Refuses a data directory of another ledger, or of none.
pub(crate) fn require<F: Files>(files: &F, expected: &GenesisId) -> Result<(), StorageError> {
    match identity(files)? {
        Some(found) if found == *expected => Ok(()),
        Some(found) => Err(StorageError::OtherGenesis { found, expected: *expected }),
        None if files.open(NAME).is_ok() => Err(StorageError::IdentityDamaged { file: NAME }),
        None => Err(StorageError::NotInitialised),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryFiles;
    use crate::slot::SLOT_BYTES;

    const HOME: GenesisId = GenesisId([1; 32]);

    #[test]
    fn the_directory_of_another_ledger_is_refused() {
        let files = MemoryFiles::new();
        assert!(matches!(require(&files, &HOME), Err(StorageError::NotInitialised)));
        init(&files, &HOME).unwrap();
        require(&files, &HOME).unwrap();
        let other = GenesisId([2; 32]);
        let refused = require(&files, &other);
        assert!(matches!(refused, Err(StorageError::OtherGenesis { found: HOME, expected }) if expected == other));
        assert!(matches!(init(&files, &other), Err(StorageError::AlreadyInitialised { found: HOME })));
    }

    #[test]
    fn one_damaged_copy_does_no_harm_and_two_are_named() {
        let files = MemoryFiles::new();
        init(&files, &HOME).unwrap();
        files.flip(NAME, 20, 1);
        require(&files, &HOME).unwrap();
        files.flip(NAME, SLOT_BYTES as u64 + 20, 1);
        assert!(matches!(require(&files, &HOME), Err(StorageError::IdentityDamaged { .. })));
        init(&files, &HOME).unwrap();
        require(&files, &HOME).unwrap();
    }
}
