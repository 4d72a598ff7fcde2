//! The mark of a clean stop: a file that names the last segment of each stream.
//!
//! While it is there every segment must have its seal, so that a rotten byte in the very last record of the log is told
//! from a torn write. It is removed before anything is appended.

use zeni_ledger::GenesisId;
use zeni_ledger::encoding::{Decoder, Encoder};

use crate::error::StorageError;
use crate::files::Files;
use crate::slot::{Content, SlotFile};

const NAME: &str = "stopped";
const MAGIC: [u8; 8] = *b"ZENISTP1";

/// The last segment's number of each stream when they were sealed; 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CleanStop {
    pub(crate) chain: u32,
    pub(crate) undo: u32,
}

/// Marks that everything is sealed and synced.
pub(crate) fn mark<F: Files>(files: &F, genesis: &GenesisId, stop: CleanStop) -> Result<(), StorageError> {
    let mut encoder = Encoder::default();
    encoder.u32(stop.chain).u32(stop.undo);
    unmark(files)?;
    SlotFile::create(files, NAME, MAGIC, *genesis, encoder.as_bytes()).map(drop)
}

/// The mark, if it is there. A damaged one still says that everything was sealed, only not up to where.
pub(crate) fn read<F: Files>(files: &F, genesis: &GenesisId) -> Result<Option<CleanStop>, StorageError> {
    Ok(match SlotFile::open(files, NAME, MAGIC, *genesis)? {
        None => None,
        Some((_, Content::Damaged)) => Some(CleanStop::default()),
        Some((_, Content::Payload { payload, .. })) => {
            let mut decoder = Decoder::new(&payload);
            let numbers = decoder.u32().and_then(|chain| Ok(CleanStop { chain, undo: decoder.u32()? }));
            Some(numbers.unwrap_or_default())
        }
    })
}

/// Takes the mark away, durable on return.
pub(crate) fn unmark<F: Files>(files: &F) -> Result<(), StorageError> {
    match files.remove(NAME) {
        Ok(()) => files.sync_directory().map_err(StorageError::io(NAME, "syncing the directory of")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StorageError::io(NAME, "removing")(error)),
    }
}
