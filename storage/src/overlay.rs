//! Where a checkpoint keeps the accounts that changed since genesis.
//!
//! Two stores do: sled on real disks ([`crate::SledOverlay`]), and one file over [`Files`] ([`FileOverlay`]) where a
//! simulator must decide what a crash leaves.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};
use zeni_ledger::{AccountId, BlockId, GenesisId};

use crate::error::StorageError;
use crate::files::{File, Files};

/// Which block the accounts of an overlay stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub genesis: GenesisId,
    pub block: BlockId,
    pub height: u64,
}

impl Head {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        encoder.raw(&self.genesis.0).raw(&self.block.0).u64(self.height);
        encoder.finish()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let (genesis, block) = (GenesisId(decoder.array()?), BlockId(decoder.array()?));
        let head = Self { genesis, block, height: decoder.u64()? };
        decoder.finish()?;
        Ok(head)
    }
}

/// What is shown every account of an overlay, with its canonical content.
pub type TakeAccount<'a> = dyn FnMut(AccountId, &[u8]) -> Result<(), StorageError> + 'a;

/// A map from accounts to their canonical content, with one head. What was put is durable after a flush; before it,
/// any part may or may not be.
pub trait Overlay: Debug + Send + 'static {
    /// Sets the content of accounts.
    fn put(&mut self, accounts: &[(AccountId, Vec<u8>)]) -> Result<(), StorageError>;

    fn set_head(&mut self, head: &Head) -> Result<(), StorageError>;

    fn head(&self) -> Result<Option<Head>, StorageError>;

    /// Shows every account to `take`.
    fn each(&self, take: &mut TakeAccount<'_>) -> Result<(), StorageError>;

    fn flush(&mut self) -> Result<(), StorageError>;

    /// Discards everything; what was there may be kept aside for people to look at.
    fn reset(&mut self) -> Result<(), StorageError>;

    /// Where a damaged or discarded store was moved to since this one was opened.
    fn moved_aside(&self) -> Option<&Path> {
        None
    }
}

const NAME: &str = "checkpoint.overlay";
const ACCOUNTS: u8 = 1;
const HEAD: u8 = 2;

/// An overlay in one appended file, held in memory besides. For simulations: nothing is ever compacted.
#[derive(Debug)]
pub struct FileOverlay<F: Files> {
    file: F::File,
    end: u64,
    accounts: BTreeMap<AccountId, Vec<u8>>,
    head: Option<Head>,
}

impl<F: Files> FileOverlay<F> {
    /// Opens or creates the file; a torn end is cut off.
    pub fn open(files: &F) -> Result<Self, StorageError> {
        let file = match files.open(NAME) {
            Ok(file) => file,
            Err(_) => {
                let file = files.create(NAME).map_err(StorageError::io(NAME, "creating"))?;
                files.sync_directory().map_err(StorageError::io(NAME, "syncing the directory of"))?;
                file
            }
        };
        let len = file.len().map_err(StorageError::io(NAME, "measuring"))?;
        let mut bytes = vec![0; len as usize];
        file.read_at(0, &mut bytes).map_err(StorageError::io(NAME, "reading"))?;
        let mut overlay = Self { file, end: 0, accounts: BTreeMap::new(), head: None };
        while let Some(payload) = next_entry(&bytes[overlay.end as usize..]) {
            let damaged = |error: DecodeError| StorageError::CheckpointDamaged { what: error.to_string() };
            overlay.replay(payload).map_err(damaged)?;
            overlay.end += (36 + payload.len()) as u64;
        }
        overlay.file.truncate(overlay.end).map_err(StorageError::io(NAME, "truncating"))?;
        Ok(overlay)
    }

    fn replay(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        let mut decoder = Decoder::new(payload);
        match decoder.u8()? {
            HEAD => self.head = Some(Head::from_bytes(decoder.raw(decoder.remaining())?)?),
            _ => {
                while decoder.remaining() > 0 {
                    let id = AccountId(decoder.array()?);
                    let length = decoder.u32()? as usize;
                    self.accounts.insert(id, decoder.raw(length)?.to_vec());
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, payload: &[u8]) -> Result<(), StorageError> {
        let mut encoder = Encoder::with_capacity(36 + payload.len());
        encoder.u32(payload.len() as u32).raw(blake3::hash(payload).as_bytes()).raw(payload);
        self.file.write_at(self.end, encoder.as_bytes()).map_err(StorageError::io(NAME, "writing"))?;
        self.end += encoder.as_bytes().len() as u64;
        Ok(())
    }
}

/// The payload of the entry at the front of `bytes`; `None` if it is torn or absent.
fn next_entry(bytes: &[u8]) -> Option<&[u8]> {
    let mut decoder = Decoder::new(bytes);
    let length = decoder.u32().ok()? as usize;
    let hash: [u8; 32] = decoder.array().ok()?;
    let payload = decoder.raw(length).ok()?;
    (*blake3::hash(payload).as_bytes() == hash).then_some(payload)
}

impl<F: Files> Overlay for FileOverlay<F> {
    fn put(&mut self, accounts: &[(AccountId, Vec<u8>)]) -> Result<(), StorageError> {
        let mut encoder = Encoder::default();
        encoder.u8(ACCOUNTS);
        for (id, content) in accounts {
            encoder.raw(&id.0).u32(content.len() as u32).raw(content);
        }
        self.append(encoder.as_bytes())?;
        self.accounts.extend(accounts.iter().cloned());
        Ok(())
    }

    fn set_head(&mut self, head: &Head) -> Result<(), StorageError> {
        let mut encoder = Encoder::default();
        encoder.u8(HEAD).raw(&head.to_bytes());
        self.append(encoder.as_bytes())?;
        self.head = Some(*head);
        Ok(())
    }

    fn head(&self) -> Result<Option<Head>, StorageError> {
        Ok(self.head)
    }

    fn each(&self, take: &mut TakeAccount<'_>) -> Result<(), StorageError> {
        self.accounts.iter().try_for_each(|(id, content)| take(*id, content))
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(StorageError::io(NAME, "syncing"))
    }

    fn reset(&mut self) -> Result<(), StorageError> {
        self.file.truncate(0).map_err(StorageError::io(NAME, "truncating"))?;
        (self.end, self.head) = (0, None);
        self.accounts.clear();
        self.flush()
    }
}
