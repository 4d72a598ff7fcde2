//! The index's tree in sled: keys, values, and when they are written.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use zeni_ledger::encoding::{Decoder, Encoder};
use zeni_ledger::{BlockId, Outcome, TransactionId};

use super::{Fingerprint, IndexError, IndexedBlock, Location, Place};
use crate::closing::close;
use crate::guarded::{SledPanicked, guarded};

/// Payments of one generation of keys, about.
pub(super) const GENERATION_PAYMENTS: u64 = 1 << 21;
/// Payments in one batch to sled, about: blocks are joined until they hold so many. All batches of a flush are written
/// together.
const BATCH_PAYMENTS: usize = 1 << 17;
/// Entries of one leaf of the tree.
const LEAF_FANOUT: usize = 1_024;
/// Spare handles kept, at most.
const HANDLES_MAX: usize = 64;
/// Attempts to open a locked directory: a predecessor may still be stopping.
const LOCK_ATTEMPTS_MAX: u32 = 50;
/// The same after this process closed it: only this process can still hold it, and then until it ends.
const REOPEN_ATTEMPTS_MAX: u32 = 3;
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// Of the marker and of every value: another one is built again from the log.
const VERSION: u16 = 2;
const PAYMENT_PREFIX: u8 = b't';
const USE_PREFIX: u8 = b'q';
const SKIPPED_PREFIX: u8 = b's';
const HEIGHT_PREFIX: u8 = b'h';
const MARKER_KEY: &[u8] = b"marker";

type Db = sled::Db<LEAF_FANOUT>;
/// The first half of a payment's id.
pub(super) type Half = [u8; 16];
pub(super) type Key = Vec<u8>;

/// The tree, open.
///
/// sled's handles can be sent to another thread but not shared by two, so each use takes a spare one, or a new clone if
/// there is only one. And sled keeps in memory every leaf that was ever dirty, so the tree is closed and opened again
/// when a generation is full: a full one is hardly touched any more.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    cache_bytes: usize,
    /// Empty only if opening again failed; the next use tries once more.
    spare: Mutex<Vec<Db>>,
    /// Read while a handle is in use, written while the tree is closed.
    open: RwLock<()>,
}

impl Tree {
    /// Opens the tree in `path`, or begins one that stands at `genesis`.
    pub(super) fn open(path: &Path, cache_bytes: usize, genesis: BlockId) -> Result<(Self, Marker), IndexError> {
        let db = open_db(path, cache_bytes, LOCK_ATTEMPTS_MAX)?;
        let tree = Self { path: path.into(), cache_bytes, spare: Mutex::new(vec![db]), open: RwLock::new(()) };
        let marker = match tree.with(|db| db.get(MARKER_KEY))? {
            None if tree.with(|db| db.is_empty())? => tree.with(|db| begin(db, genesis))?,
            None => return Err(tree.damaged("marker")),
            Some(bytes) => Marker::from_bytes(&bytes).ok_or_else(|| tree.damaged("marker"))?,
        };
        match tree.block_at(0)? {
            Some(found) if found == genesis => Ok((tree, marker)),
            _ => Err(tree.damaged("genesis (it belongs to another ledger)")),
        }
    }

    /// Looks for a payment through the generations, the youngest first.
    pub(super) fn find(
        &self,
        half: &Half,
        marker: &Marker,
        removed: &BTreeSet<Key>,
    ) -> Result<Option<(Key, Location)>, IndexError> {
        let Some((key, bytes)) = self.youngest(PAYMENT_PREFIX, half, marker, removed)? else { return Ok(None) };
        let location = Location::from_bytes(&bytes).ok_or_else(|| self.damaged("location"))?;
        Ok(Some((key, location)))
    }

    /// Looks for the use of a sequence.
    pub(super) fn find_use(
        &self,
        fingerprint: &Fingerprint,
        marker: &Marker,
        removed: &BTreeSet<Key>,
    ) -> Result<Option<(Key, Place)>, IndexError> {
        self.find_place(USE_PREFIX, fingerprint, marker, removed)
    }

    /// Looks for a payment that was skipped.
    pub(super) fn find_skipped(
        &self,
        half: &Half,
        marker: &Marker,
        removed: &BTreeSet<Key>,
    ) -> Result<Option<(Key, Place)>, IndexError> {
        self.find_place(SKIPPED_PREFIX, half, marker, removed)
    }

    fn find_place(
        &self,
        prefix: u8,
        name: &[u8],
        marker: &Marker,
        removed: &BTreeSet<Key>,
    ) -> Result<Option<(Key, Place)>, IndexError> {
        let Some((key, bytes)) = self.youngest(prefix, name, marker, removed)? else { return Ok(None) };
        let place = Place::from_bytes(&bytes).ok_or_else(|| self.damaged("place"))?;
        Ok(Some((key, place)))
    }

    fn youngest(
        &self,
        prefix: u8,
        name: &[u8],
        marker: &Marker,
        removed: &BTreeSet<Key>,
    ) -> Result<Option<(Key, sled::InlineArray)>, IndexError> {
        let keys = (0..=marker.generation).rev().map(|generation| generation_key(prefix, generation, name));
        for key in keys.filter(|key| !removed.contains(key)) {
            if let Some(bytes) = self.with(|db| db.get(&key))? {
                return Ok(Some((key, bytes)));
            }
        }
        Ok(None)
    }

    pub(super) fn block_at(&self, height: u64) -> Result<Option<BlockId>, IndexError> {
        let Some(bytes) = self.with(|db| db.get(height_key(height)))? else { return Ok(None) };
        <[u8; 32]>::try_from(&bytes[..]).map(|id| Some(BlockId(id))).map_err(|_| self.damaged("height"))
    }

    /// Removes these keys, adds these blocks, and has it on disk. Gives the new marker.
    pub(super) fn write(
        &self,
        removals: Vec<Key>,
        blocks: &[Arc<IndexedBlock>],
        before: Marker,
    ) -> Result<Marker, IndexError> {
        let (mut batch, mut marker) = (sled::Batch::default(), before);
        for key in removals {
            batch.remove(key);
        }
        for joined in join(blocks) {
            marker.add_blocks(&mut batch, joined);
            self.with(|db| db.apply_batch(std::mem::take(&mut batch)))?;
        }
        self.with(|db| db.flush())?;
        if marker.generation != before.generation {
            let _closed = self.open.write().unwrap_or_else(PoisonError::into_inner);
            self.close();
        }
        Ok(marker)
    }

    pub(super) fn damaged(&self, what: &'static str) -> IndexError {
        IndexError::Damaged { path: self.path.clone(), what }
    }

    fn with<T>(&self, used: impl FnOnce(&Db) -> io::Result<T>) -> Result<T, IndexError> {
        let _open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let db = {
            let mut spare = self.spare();
            if spare.is_empty() {
                spare.push(self.reopen()?);
            }
            // One always stays, to be cloned from.
            if spare.len() > 1 { spare.swap_remove(0) } else { spare[0].clone() }
        };
        let Ok(result) = guarded(|| used(&db)) else {
            close(&self.path, db);
            return Err(self.damaged("database"));
        };
        if let Some(surplus) = self.keep(db) {
            close(&self.path, surplus);
        }
        result.map_err(|error| IndexError::Io { path: self.path.clone(), error })
    }

    /// Keeps a spare handle, or gives it back if there are enough.
    fn keep(&self, db: Db) -> Option<Db> {
        let mut spare = self.spare();
        if spare.len() >= HANDLES_MAX {
            return Some(db);
        }
        spare.push(db);
        None
    }

    fn reopen(&self) -> Result<Db, IndexError> {
        open_db(&self.path, self.cache_bytes, REOPEN_ATTEMPTS_MAX).map_err(|error| match error {
            IndexError::Locked { path } => IndexError::Unclosed { path },
            other => other,
        })
    }

    /// Closes all handles together: if one does not close, none does.
    fn close(&self) {
        let handles = std::mem::take(&mut *self.spare());
        if !handles.is_empty() {
            close(&self.path, handles);
        }
    }

    // A panic elsewhere leaves the list whole: each change is one push or take.
    fn spare(&self) -> MutexGuard<'_, Vec<Db>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.close();
    }
}

/// Cuts blocks into runs of about [`BATCH_PAYMENTS`].
fn join(blocks: &[Arc<IndexedBlock>]) -> impl Iterator<Item = &[Arc<IndexedBlock>]> {
    let mut rest = blocks;
    std::iter::from_fn(move || {
        let mut payments = 0;
        let full = rest.iter().position(|block| {
            payments += block.entries.len();
            payments >= BATCH_PAYMENTS
        });
        let (run, behind) = rest.split_at(full.map_or(rest.len(), |place| place + 1));
        rest = behind;
        (!run.is_empty()).then_some(run)
    })
}

pub(super) fn half(id: &TransactionId) -> Half {
    let mut half = [0; 16];
    half.copy_from_slice(&id.0[..16]);
    half
}

fn generation_key(prefix: u8, generation: u32, name: &[u8]) -> Key {
    let mut key = Vec::with_capacity(5 + name.len());
    key.push(prefix);
    key.extend(generation.to_be_bytes());
    key.extend(name);
    key
}

pub(super) fn height_key(height: u64) -> [u8; 9] {
    let mut key = [HEIGHT_PREFIX; 9];
    key[1..].copy_from_slice(&height.to_be_bytes());
    key
}

impl Location {
    fn to_bytes(self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(13);
        encoder.u64(self.height).u16(self.batch).u16(self.position).u8(self.outcome.to_byte());
        encoder.finish()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes);
        let (height, batch, position) = (decoder.u64().ok()?, decoder.u16().ok()?, decoder.u16().ok()?);
        let outcome = Outcome::from_byte(decoder.u8().ok()?)?;
        decoder.finish().ok()?;
        Some(Self { height, batch, position, outcome })
    }
}

impl Place {
    /// Eight bytes, because there is one for every payment: height u32, batch u16, position u16.
    fn to_bytes(self) -> Vec<u8> {
        let height = u32::try_from(self.height).expect("a block a second fills 32 bits in 136 years");
        let mut encoder = Encoder::with_capacity(8);
        encoder.u32(height).u16(self.batch).u16(self.position);
        encoder.finish()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes);
        let (height, batch, position) = (decoder.u32().ok()?, decoder.u16().ok()?, decoder.u16().ok()?);
        decoder.finish().ok()?;
        Some(Self { height: height.into(), batch, position })
    }
}

/// What the last flush wrote: up to which block, and to which generation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marker {
    pub(super) height: u64,
    pub(super) id: BlockId,
    /// Where new payments are written to.
    pub(super) generation: u32,
    /// How many stand there, about.
    pub(super) generation_payments: u64,
}

impl Marker {
    pub(super) const fn block(&self) -> (u64, BlockId) {
        (self.height, self.id)
    }

    /// Adds entries and heights of these blocks, and the marker behind them.
    fn add_blocks(&mut self, batch: &mut sled::Batch, blocks: &[Arc<IndexedBlock>]) {
        for block in blocks {
            if self.generation_payments >= GENERATION_PAYMENTS {
                (self.generation, self.generation_payments) = (self.generation + 1, 0);
            }
            let key = |prefix, name: &[u8]| generation_key(prefix, self.generation, name);
            for entry in &block.entries {
                batch.insert(key(PAYMENT_PREFIX, &entry.half), entry.location(block.height).to_bytes());
            }
            for one in &block.uses {
                batch.insert(key(USE_PREFIX, &one.fingerprint), one.place(block.height).to_bytes());
            }
            for one in &block.skipped {
                batch.insert(key(SKIPPED_PREFIX, &one.half), one.place(block.height).to_bytes());
            }
            batch.insert(height_key(block.height), block.id.0);
            self.generation_payments += block.entries.len() as u64;
            (self.height, self.id) = (block.height, block.id);
        }
        batch.insert(MARKER_KEY, self.to_bytes());
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(54);
        encoder.u16(VERSION).u64(self.height).raw(&self.id.0).u32(self.generation).u64(self.generation_payments);
        encoder.finish()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes);
        if decoder.u16().ok()? != VERSION {
            return None;
        }
        let (height, id) = (decoder.u64().ok()?, BlockId(decoder.array().ok()?));
        let (generation, generation_payments) = (decoder.u32().ok()?, decoder.u64().ok()?);
        decoder.finish().ok()?;
        Some(Self { height, id, generation, generation_payments })
    }
}

/// Writes what an empty index holds: genesis at height 0, and the marker there.
fn begin(db: &Db, genesis: BlockId) -> io::Result<Marker> {
    let marker = Marker { height: 0, id: genesis, generation: 0, generation_payments: 0 };
    let mut batch = sled::Batch::default();
    batch.insert(height_key(0), genesis.0);
    batch.insert(MARKER_KEY, marker.to_bytes());
    db.apply_batch(batch)?;
    db.flush()?;
    Ok(marker)
}

fn open_db(path: &Path, cache_bytes: usize, attempts: u32) -> Result<Db, IndexError> {
    // Flushes are ours alone: each one ends with the marker of what it holds.
    let config = sled::Config::new().path(path).cache_capacity_bytes(cache_bytes).flush_every_ms(None);
    for _ in 0..attempts {
        // Some damage makes sled panic while it recovers; to us that is an index to be built again, like any other.
        match guarded(|| config.open()) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOCK_RETRY),
            Ok(Err(error)) => return Err(IndexError::Io { path: path.into(), error }),
            Err(SledPanicked) => return Err(IndexError::Damaged { path: path.into(), what: "database" }),
        }
    }
    Err(IndexError::Locked { path: path.into() })
}

/// Makes the marker what the version before wrote.
#[cfg(test)]
pub(super) fn age_marker(path: &Path) {
    let db = open_db(path, 1 << 20, 1).expect("nobody else has it open");
    let marker = db.get(MARKER_KEY).expect("readable").expect("written by every index");
    db.insert(MARKER_KEY, &marker[2..]).expect("writable");
    db.flush().expect("writable");
}
