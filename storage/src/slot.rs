//! A small record in two slots of one file, written alternately, so that a write cut anywhere leaves the older one.
//!
//! A slot: magic 8, counter u64, genesis id 32, length u32, payload, zeros, and in the last 32 bytes the BLAKE3 of all
//! before. The readable slot with the greater counter holds.

use zeni_ledger::GenesisId;
use zeni_ledger::encoding::{Decoder, Encoder};

use crate::error::StorageError;
use crate::files::{File, Files};

/// Bytes of one slot.
pub(crate) const SLOT_BYTES: usize = 4_096;
/// Bytes that one record may have.
pub(crate) const SLOT_PAYLOAD_MAX: usize = SLOT_BYTES - HEADER_BYTES - 32;

const HEADER_BYTES: usize = 8 + 8 + 32 + 4;

/// A record file, open for writing.
#[derive(Debug)]
pub(crate) struct SlotFile<F: Files> {
    file: F::File,
    name: &'static str,
    magic: [u8; 8],
    genesis: GenesisId,
    counter: u64,
    syncs: u64,
    failed: Option<String>,
}

/// What a record file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Payload {
        genesis: GenesisId,
        payload: Vec<u8>,
    },
    /// The file is there, but no slot is readable.
    Damaged,
}

impl<F: Files> SlotFile<F> {
    /// Creates the file with a first record in one of its slots.
    pub(crate) fn create(
        files: &F,
        name: &'static str,
        magic: [u8; 8],
        genesis: GenesisId,
        payload: &[u8],
    ) -> Result<Self, StorageError> {
        let file = files.create(name).map_err(StorageError::io(name, "creating"))?;
        let mut slots = Self { file, name, magic, genesis, counter: 0, syncs: 0, failed: None };
        slots.write(payload)?;
        files.sync_directory().map_err(StorageError::io(name, "syncing the directory of"))?;
        Ok(slots)
    }

    /// Opens the file and reads what it holds; `None` if there is no file.
    pub(crate) fn open(
        files: &F,
        name: &'static str,
        magic: [u8; 8],
        genesis: GenesisId,
    ) -> Result<Option<(Self, Content)>, StorageError> {
        let file = match files.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(name, "opening")(error)),
        };
        let len = file.len().map_err(StorageError::io(name, "measuring"))?.min(2 * SLOT_BYTES as u64);
        let mut bytes = vec![0; len as usize];
        file.read_at(0, &mut bytes).map_err(StorageError::io(name, "reading"))?;
        let newest =
            bytes.chunks_exact(SLOT_BYTES).filter_map(|slot| read_slot(slot, &magic)).max_by_key(|slot| slot.0);
        let (counter, content) = match newest {
            Some((counter, genesis, payload)) => (counter, Content::Payload { genesis, payload }),
            None => (0, Content::Damaged),
        };
        Ok(Some((Self { file, name, magic, genesis, counter, syncs: 0, failed: None }, content)))
    }

    /// Replaces the record, durable on return.
    ///
    /// # Errors
    /// After a failed sync it is unknown which record a restart will find, so every later write fails too.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<(), StorageError> {
        if let Some(cause) = &self.failed {
            return Err(StorageError::Poisoned { cause: cause.clone() });
        }
        if payload.len() > SLOT_PAYLOAD_MAX {
            let (found, limit) = (payload.len() as u64, SLOT_PAYLOAD_MAX as u64);
            return Err(StorageError::TooLarge { found, limit });
        }
        let counter = self.counter + 1;
        let slot = slot_bytes(&self.magic, counter, &self.genesis, payload);
        let offset = counter % 2 * SLOT_BYTES as u64;
        let written = self.file.write_at(offset, &slot).map_err(StorageError::io(self.name, "writing"));
        let synced = written.and_then(|()| self.file.sync_data().map_err(StorageError::io(self.name, "syncing")));
        self.syncs += 1;
        self.counter = counter;
        synced.inspect_err(|error| self.failed = Some(error.to_string()))
    }

    /// Syncs since the file was opened.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs
    }
}

fn slot_bytes(magic: &[u8; 8], counter: u64, genesis: &GenesisId, payload: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::with_capacity(SLOT_BYTES);
    encoder.raw(magic).u64(counter).raw(&genesis.0).u32(payload.len() as u32).raw(payload);
    let mut bytes = encoder.finish();
    bytes.resize(SLOT_BYTES - 32, 0);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

fn read_slot(slot: &[u8], magic: &[u8; 8]) -> Option<(u64, GenesisId, Vec<u8>)> {
    let (content, hash) = slot.split_last_chunk::<32>()?;
    if blake3::hash(content).as_bytes() != hash {
        return None;
    }
    let mut decoder = Decoder::new(content);
    if decoder.array::<8>().ok()? != *magic {
        return None;
    }
    let (counter, genesis) = (decoder.u64().ok()?, GenesisId(decoder.array().ok()?));
    let length = decoder.count("bytes of a slot's record", SLOT_PAYLOAD_MAX).ok()?;
    Some((counter, genesis, decoder.raw(length).ok()?.to_vec()))
}
