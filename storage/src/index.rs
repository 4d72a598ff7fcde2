//! The index of an API server: where each payment of the canonical chain stands, and which block stands at a height.
//!
//! Always rebuildable: the log is the truth. Blocks of the last [`IndexConfig::depth`] heights stay in memory as sorted
//! vectors, where a reorganisation takes them back for nothing; deeper ones go to sled, many blocks in one flush, because
//! a flush rewrites every leaf that it touches and payment ids are random: measured at 36,000 payments a block and three
//! million payments in the index, a flush of seven blocks costs 4 us of CPU a payment. The marker of the last
//! flushed block is written in the same atomic batch, so that a restart knows from where to index again.
//!
//! A payment is keyed by the first half of its id. Two payments that share it cost 2^64 hashes to make, and a reader
//! compares the whole id with the payment in the log, so that a collision can hide a payment but never lie about one.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use zeni_consensus::Applied;
use zeni_ledger::encoding::{Decoder, Encoder};
use zeni_ledger::{BlockId, Outcome, TransactionId};

/// Entries of one leaf of the tree.
const LEAF_FANOUT: usize = 1_024;
/// Payments in one batch to sled, about: blocks are joined until they hold so many. All batches of a flush are written
/// together.
const BATCH_PAYMENTS: usize = 1 << 17;
/// Spare handles kept, at most.
const HANDLES_MAX: usize = 64;
/// Attempts to open a locked directory: a predecessor may still be stopping.
const LOCK_ATTEMPTS_MAX: u32 = 50;
const LOCK_RETRY: Duration = Duration::from_millis(100);

const PAYMENT_PREFIX: u8 = b't';
const HEIGHT_PREFIX: u8 = b'h';
const MARKER_KEY: &[u8] = b"marker";

type Db = sled::Db<LEAF_FANOUT>;
type Half = [u8; 16];

/// How much of the chain's end stays in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexConfig {
    /// Blocks that stay in memory because a reorganisation may take them back.
    pub depth: u64,
    /// Payments in memory, at most; beyond it blocks are written though they are less deep. 24 bytes each.
    pub memory_payments_max: usize,
    /// Bytes that sled may cache.
    pub cache_bytes: usize,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self { depth: 20, memory_payments_max: 4_000_000, cache_bytes: 64 << 20 }
    }
}

/// Where a payment stands on the canonical chain and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub height: u64,
    /// Which of the block's batches.
    pub batch: u16,
    /// Which of the batch's payments.
    pub position: u16,
    pub outcome: Outcome,
}

/// What one canonical block adds to the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedBlock {
    height: u64,
    id: BlockId,
    /// By rising half.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    half: Half,
    batch: u16,
    position: u16,
    outcome: u8,
}

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index in {path} is locked by another process; stop that one first")]
    Locked { path: PathBuf },
    #[error("the index in {path} failed: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("the index in {path} holds a damaged {what}; move the directory away and start again to rebuild it")]
    Damaged { path: PathBuf, what: &'static str },
    #[error("block {height} does not follow the indexed head {head}")]
    Gap { height: u64, head: u64 },
    #[error("the index stands at genesis; nothing can be taken back")]
    AtGenesis,
}

/// Handles of one tree. sled's can be sent to another thread but not shared by two, so each use takes a spare one, or
/// a new clone if there is only one.
#[derive(Debug)]
struct Handles {
    spare: Mutex<Vec<Db>>,
}

impl Handles {
    fn with<T>(&self, used: impl FnOnce(&Db) -> T) -> T {
        let lock = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let db = {
            let mut spare = lock();
            // One always stays, to be cloned from.
            if spare.len() > 1 { spare.swap_remove(0) } else { spare[0].clone() }
        };
        let result = used(&db);
        let mut spare = lock();
        if spare.len() < HANDLES_MAX {
            spare.push(db);
        }
        result
    }
}

/// What opening found.
#[derive(Debug)]
pub struct OpenedIndex {
    pub index: Index,
    /// The former index was damaged: it lies under this name, and everything is to be indexed again.
    pub set_aside: Option<PathBuf>,
}

/// The index. One thread applies and takes back, another may flush, any number read.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    config: IndexConfig,
    db: Handles,
    memory: RwLock<Memory>,
    /// Held while blocks move to sled, and while one is taken back: the two would meet in the same block.
    moving: Mutex<()>,
}

#[derive(Debug)]
struct Memory {
    /// The highest block that stands in sled, less what was taken back since.
    flushed: (u64, BlockId),
    /// Canonical blocks above `flushed`, by rising height, without a gap.
    blocks: VecDeque<Arc<IndexedBlock>>,
    payments: usize,
    /// Taken back from sled, to be removed by the next flush.
    removed: BTreeSet<Half>,
    removed_heights: BTreeSet<u64>,
}

impl IndexedBlock {
    /// The entries of a canonical block: one for each payment that left a receipt.
    pub fn of(applied: &Applied) -> Self {
        let entry = |receipt: &zeni_ledger::Receipt| Entry {
            half: half(&receipt.id),
            batch: u16::try_from(receipt.batch).expect("a block lists at most 2,048 batches"),
            position: receipt.position,
            outcome: receipt.outcome.to_byte(),
        };
        let mut entries: Vec<Entry> = applied.executed.receipts.iter().map(entry).collect();
        entries.sort_unstable_by_key(|entry| entry.half);
        Self { height: applied.block.header.height, id: applied.id, entries }
    }

    pub fn height(&self) -> u64 {
        self.height
    }

    fn find(&self, half: &Half) -> Option<Location> {
        let place = self.entries.binary_search_by_key(half, |entry| entry.half).ok()?;
        Some(self.entries[place].location(self.height))
    }
}

impl Entry {
    fn location(&self, height: u64) -> Location {
        let outcome = Outcome::from_byte(self.outcome).expect("written by Outcome::to_byte");
        Location { height, batch: self.batch, position: self.position, outcome }
    }
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

fn half(id: &TransactionId) -> Half {
    let mut half = [0; 16];
    half.copy_from_slice(&id.0[..16]);
    half
}

fn payment_key(half: &Half) -> [u8; 17] {
    let mut key = [PAYMENT_PREFIX; 17];
    key[1..].copy_from_slice(half);
    key
}

fn height_key(height: u64) -> [u8; 9] {
    let mut key = [HEIGHT_PREFIX; 9];
    key[1..].copy_from_slice(&height.to_be_bytes());
    key
}

impl Index {
    /// Opens the index in `path`, or begins an empty one that stands at `genesis`. One that belongs to another ledger
    /// or cannot be read is set aside under another name.
    pub fn open(path: &Path, genesis: BlockId, config: IndexConfig) -> Result<OpenedIndex, IndexError> {
        match Self::try_open(path, genesis, config) {
            Ok(index) => Ok(OpenedIndex { index, set_aside: None }),
            Err(error @ IndexError::Locked { .. }) => Err(error),
            Err(error) => {
                let aside = free_name(path);
                tracing::warn!(%error, aside = %aside.display(), "the index is set aside and built again");
                std::fs::rename(path, &aside).map_err(|error| IndexError::Io { path: path.into(), error })?;
                let index = Self::try_open(path, genesis, config)?;
                Ok(OpenedIndex { index, set_aside: Some(aside) })
            }
        }
    }

    fn try_open(path: &Path, genesis: BlockId, config: IndexConfig) -> Result<Self, IndexError> {
        let db = open_db(path, config)?;
        let io_error = |error| IndexError::Io { path: path.into(), error };
        let damaged = |what| IndexError::Damaged { path: path.into(), what };
        let flushed = match db.get(MARKER_KEY).map_err(io_error)? {
            None if db.is_empty().map_err(io_error)? => begin(&db, genesis).map_err(io_error)?,
            None => return Err(damaged("marker")),
            Some(bytes) => parse_marker(&bytes).ok_or_else(|| damaged("marker"))?,
        };
        let memory = Memory {
            flushed,
            blocks: VecDeque::new(),
            payments: 0,
            removed: BTreeSet::new(),
            removed_heights: BTreeSet::new(),
        };
        let db = Handles { spare: Mutex::new(vec![db]) };
        let index = Self { path: path.into(), config, db, memory: RwLock::new(memory), moving: Mutex::new(()) };
        match index.stored_block(0)? {
            Some(found) if found == genesis => Ok(index),
            _ => Err(damaged("genesis (it belongs to another ledger)")),
        }
    }

    /// The highest indexed block, in memory or in sled.
    pub fn head(&self) -> (u64, BlockId) {
        self.read().head()
    }

    /// The highest block that a restart finds indexed.
    pub fn flushed(&self) -> (u64, BlockId) {
        self.read().flushed
    }

    /// Payments that are in memory only.
    pub fn memory_payments(&self) -> usize {
        self.read().payments
    }

    /// Adds the block that follows the head. Memory only: cheap.
    pub fn apply(&self, block: IndexedBlock) -> Result<(), IndexError> {
        let mut memory = self.write();
        let head = memory.head().0;
        if block.height != head + 1 {
            return Err(IndexError::Gap { height: block.height, head });
        }
        memory.payments += block.entries.len();
        memory.blocks.push_back(Arc::new(block));
        Ok(())
    }

    /// Takes the head back. `payments` gives the ids of all payments that the block lists; it is asked only if the
    /// block stands in sled already. Returns the new head.
    pub fn undo<E: From<IndexError>>(
        &self,
        payments: impl FnOnce(BlockId) -> Result<Vec<TransactionId>, E>,
    ) -> Result<(u64, BlockId), E> {
        let _still = self.still();
        let (height, id) = {
            let mut memory = self.write();
            if let Some(block) = memory.blocks.pop_back() {
                memory.payments -= block.entries.len();
                return Ok(memory.head());
            }
            memory.flushed
        };
        let below = height.checked_sub(1).ok_or(IndexError::AtGenesis)?;
        let parent = self.stored_block(below)?.ok_or_else(|| self.damaged("height"))?;
        let halves: Vec<Half> = payments(id)?.iter().map(half).collect();
        let mut memory = self.write();
        // A payment of an abandoned block can stand at another height by now; only its own entry goes.
        for half in halves {
            if self.stored(&half)?.is_some_and(|location| location.height == height) {
                memory.removed.insert(half);
            }
        }
        memory.removed_heights.insert(height);
        memory.flushed = (below, parent);
        Ok(memory.flushed)
    }

    /// Where a payment stands. The caller compares the whole id with the payment in the log.
    pub fn find(&self, id: &TransactionId) -> Result<Option<Location>, IndexError> {
        let half = half(id);
        let memory = self.read();
        if let Some(location) = memory.blocks.iter().rev().find_map(|block| block.find(&half)) {
            return Ok(Some(location));
        }
        if memory.removed.contains(&half) {
            return Ok(None);
        }
        drop(memory);
        self.stored(&half)
    }

    /// The canonical block at `height`.
    pub fn block_at(&self, height: u64) -> Result<Option<BlockId>, IndexError> {
        let memory = self.read();
        if let Some(above) = height.checked_sub(memory.flushed.0 + 1) {
            let place = usize::try_from(above).ok();
            return Ok(place.and_then(|place| memory.blocks.get(place)).map(|block| block.id));
        }
        drop(memory);
        self.stored_block(height)
    }

    /// Writes blocks that are deep enough to sled, or as many as bring memory below its bound. Takes its time: for a
    /// background thread. Returns how many payments it wrote; 0 if nothing was due.
    pub fn flush(&self) -> Result<usize, IndexError> {
        self.flush_down_to(self.config.depth)
    }

    /// Writes every block up to `height`, as far as the chain goes.
    pub fn flush_through(&self, height: u64) -> Result<(), IndexError> {
        while self.read().blocks.front().is_some_and(|block| block.height <= height) {
            self.flush_down_to(self.head().0.saturating_sub(height))?;
        }
        Ok(())
    }

    /// Writes every block, for a clean stop.
    pub fn flush_all(&self) -> Result<(), IndexError> {
        self.flush_through(u64::MAX)
    }

    fn flush_down_to(&self, depth: u64) -> Result<usize, IndexError> {
        let _still = self.still();
        let (blocks, mut batch) = {
            let memory = self.read();
            (memory.due(depth, self.config.memory_payments_max), memory.removals())
        };
        if blocks.is_empty() {
            return Ok(0);
        }
        for joined in join(&blocks) {
            add_blocks(&mut batch, joined);
            self.db.with(|db| db.apply_batch(std::mem::take(&mut batch))).map_err(|error| self.io(error))?;
        }
        self.db.with(|db| db.flush()).map_err(|error| self.io(error))?;
        let mut memory = self.write();
        let mut written = 0;
        for block in blocks {
            memory.blocks.pop_front();
            written += block.entries.len();
            memory.flushed = (block.height, block.id);
        }
        memory.payments -= written;
        memory.removed.clear();
        memory.removed_heights.clear();
        Ok(written)
    }

    fn stored(&self, half: &Half) -> Result<Option<Location>, IndexError> {
        let found = self.db.with(|db| db.get(payment_key(half))).map_err(|error| self.io(error))?;
        let Some(bytes) = found else { return Ok(None) };
        Location::from_bytes(&bytes).map(Some).ok_or_else(|| self.damaged("location"))
    }

    fn stored_block(&self, height: u64) -> Result<Option<BlockId>, IndexError> {
        let found = self.db.with(|db| db.get(height_key(height))).map_err(|error| self.io(error))?;
        let Some(bytes) = found else { return Ok(None) };
        <[u8; 32]>::try_from(&bytes[..]).map(|id| Some(BlockId(id))).map_err(|_| self.damaged("height"))
    }

    fn io(&self, error: io::Error) -> IndexError {
        IndexError::Io { path: self.path.clone(), error }
    }

    fn damaged(&self, what: &'static str) -> IndexError {
        IndexError::Damaged { path: self.path.clone(), what }
    }

    // A panic elsewhere leaves nothing half-done here: each change under a lock is complete or not begun.
    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn still(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn head(&self) -> (u64, BlockId) {
        self.blocks.back().map_or(self.flushed, |block| (block.height, block.id))
    }

    /// The blocks to write next: those at `depth` and deeper, and more while memory is over its bound.
    fn due(&self, depth: u64, payments_max: usize) -> Vec<Arc<IndexedBlock>> {
        let deep = self.head().0.saturating_sub(depth);
        let (mut due, mut left) = (Vec::new(), self.payments);
        for block in &self.blocks {
            if block.height > deep && left <= payments_max {
                break;
            }
            left -= block.entries.len();
            due.push(Arc::clone(block));
        }
        due
    }

    /// Removes what was taken back from sled.
    fn removals(&self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for half in &self.removed {
            batch.remove(&payment_key(half));
        }
        for height in &self.removed_heights {
            batch.remove(&height_key(*height));
        }
        batch
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

/// Adds entries, heights and the marker of these blocks.
fn add_blocks(batch: &mut sled::Batch, blocks: &[Arc<IndexedBlock>]) {
    for block in blocks {
        for entry in &block.entries {
            batch.insert(&payment_key(&entry.half), entry.location(block.height).to_bytes());
        }
        batch.insert(&height_key(block.height), &block.id.0);
        batch.insert(MARKER_KEY, marker_bytes((block.height, block.id)));
    }
}

/// Writes what an empty index holds: genesis at height 0, and the marker there.
fn begin(db: &Db, genesis: BlockId) -> io::Result<(u64, BlockId)> {
    let mut batch = sled::Batch::default();
    batch.insert(&height_key(0), &genesis.0);
    batch.insert(MARKER_KEY, marker_bytes((0, genesis)));
    db.apply_batch(batch)?;
    db.flush()?;
    Ok((0, genesis))
}

fn marker_bytes((height, id): (u64, BlockId)) -> Vec<u8> {
    let mut encoder = Encoder::with_capacity(40);
    encoder.u64(height).raw(&id.0);
    encoder.finish()
}

fn parse_marker(bytes: &[u8]) -> Option<(u64, BlockId)> {
    let mut decoder = Decoder::new(bytes);
    let marker = (decoder.u64().ok()?, BlockId(decoder.array().ok()?));
    decoder.finish().ok()?;
    Some(marker)
}

fn open_db(path: &Path, config: IndexConfig) -> Result<Db, IndexError> {
    // Flushes are ours alone: each one ends with the marker of what it holds.
    let config = sled::Config::new().path(path).cache_capacity_bytes(config.cache_bytes).flush_every_ms(None);
    for _ in 0..LOCK_ATTEMPTS_MAX {
        // Some damage makes sled panic while it recovers; to us that is an index to be built again, like any other.
        let opened = panic::catch_unwind(AssertUnwindSafe(|| config.open()));
        match opened {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOCK_RETRY),
            Ok(Err(error)) => return Err(IndexError::Io { path: path.into(), error }),
            Err(_) => return Err(IndexError::Damaged { path: path.into(), what: "database" }),
        }
    }
    Err(IndexError::Locked { path: path.into() })
}

fn free_name(path: &Path) -> PathBuf {
    let name = |number: u32| path.with_extension(format!("damaged-{number}"));
    (1..).map(name).find(|candidate| !candidate.exists()).expect("fewer than 2^32 damaged indexes lie there")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: IndexConfig = IndexConfig { depth: 2, memory_payments_max: 1_000, cache_bytes: 1 << 20 };
    const GENESIS: BlockId = BlockId([0xee; 32]);

    fn open(path: &Path) -> Index {
        let opened = Index::open(path, GENESIS, CONFIG).unwrap();
        assert_eq!(opened.set_aside, None);
        opened.index
    }

    fn payment(number: u64) -> TransactionId {
        TransactionId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn block_id(height: u64, fork: u8) -> BlockId {
        let mut id = [fork; 32];
        id[..8].copy_from_slice(&height.to_le_bytes());
        BlockId(id)
    }

    /// A block that holds these payments, all applied.
    fn block(height: u64, fork: u8, payments: impl IntoIterator<Item = u64>) -> IndexedBlock {
        let entry = |(position, number): (usize, u64)| Entry {
            half: half(&payment(number)),
            batch: 0,
            position: position as u16,
            outcome: Outcome::Applied.to_byte(),
        };
        let mut entries: Vec<Entry> = payments.into_iter().enumerate().map(entry).collect();
        entries.sort_unstable_by_key(|entry| entry.half);
        IndexedBlock { height, id: block_id(height, fork), entries }
    }

    fn height_of(index: &Index, number: u64) -> Option<u64> {
        index.find(&payment(number)).unwrap().map(|location| location.height)
    }

    fn undo(index: &Index, payments: &[u64]) -> Result<(u64, BlockId), IndexError> {
        index.undo(|_| Ok(payments.iter().map(|number| payment(*number)).collect()))
    }

    #[test]
    fn finds_payments_in_memory_and_in_sled() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(&dir.path().join("index"));
        for height in 1..=10 {
            index.apply(block(height, 0, height * 10..height * 10 + 10)).unwrap();
        }
        assert_eq!(index.flush().unwrap(), 80, "all but the two highest blocks");
        assert_eq!(index.flushed(), (8, block_id(8, 0)));
        for number in 10..110 {
            let found = index.find(&payment(number)).unwrap().unwrap();
            let (height, position) = (number / 10, (number % 10) as u16);
            assert_eq!(found, Location { height, batch: 0, position, outcome: Outcome::Applied });
        }
        assert_eq!(height_of(&index, 9), None);
        assert_eq!(index.block_at(0).unwrap(), Some(GENESIS));
        assert_eq!(index.block_at(3).unwrap(), Some(block_id(3, 0)));
        assert_eq!(index.block_at(10).unwrap(), Some(block_id(10, 0)));
        assert_eq!(index.block_at(11).unwrap(), None);
    }

    #[test]
    fn a_crash_loses_only_what_was_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = open(&path);
        for height in 1..=5 {
            index.apply(block(height, 0, [height])).unwrap();
        }
        index.flush().unwrap();
        drop(index);
        let index = open(&path);
        assert_eq!(index.head(), (3, block_id(3, 0)));
        assert_eq!(height_of(&index, 3), Some(3));
        assert_eq!(height_of(&index, 4), None);
        index.apply(block(4, 0, [4])).unwrap();
        assert_eq!(height_of(&index, 4), Some(4));
    }

    #[test]
    fn a_clean_stop_keeps_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = open(&path);
        for height in 1..=5 {
            index.apply(block(height, 0, [height])).unwrap();
        }
        index.flush_all().unwrap();
        drop(index);
        assert_eq!(open(&path).head(), (5, block_id(5, 0)));
    }

    #[test]
    fn blocks_up_to_a_checkpoint_are_written_though_they_are_not_deep() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(&dir.path().join("index"));
        for height in 1..=5 {
            index.apply(block(height, 0, [height])).unwrap();
        }
        index.flush_through(4).unwrap();
        assert_eq!(index.flushed(), (4, block_id(4, 0)));
        index.flush_through(9).unwrap();
        assert_eq!(index.flushed(), (5, block_id(5, 0)));
    }

    #[test]
    fn an_undone_block_leaves_nothing_behind_in_memory_or_in_sled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = open(&path);
        for height in 1..=3 {
            index.apply(block(height, 0, [height, 100 + height])).unwrap();
        }
        index.flush_all().unwrap();
        index.apply(block(4, 0, [4])).unwrap();

        assert_eq!(undo(&index, &[]).unwrap(), (3, block_id(3, 0)));
        assert_eq!(undo(&index, &[3, 103]).unwrap(), (2, block_id(2, 0)));
        assert_eq!((height_of(&index, 4), height_of(&index, 3), height_of(&index, 103)), (None, None, None));
        assert_eq!(index.block_at(3).unwrap(), None);

        // On the other chain one of the payments stands at another height, the other one nowhere.
        index.apply(block(3, 1, [7])).unwrap();
        index.apply(block(4, 1, [3])).unwrap();
        assert_eq!((height_of(&index, 3), height_of(&index, 103), height_of(&index, 2)), (Some(4), None, Some(2)));
        index.flush_all().unwrap();
        drop(index);
        let index = open(&path);
        assert_eq!((height_of(&index, 3), height_of(&index, 103), height_of(&index, 2)), (Some(4), None, Some(2)));
        assert_eq!(index.block_at(3).unwrap(), Some(block_id(3, 1)));
    }

    #[test]
    fn taking_back_and_applying_again_gives_the_same_answers() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(&dir.path().join("index"));
        let apply = |from: u64| {
            for height in from..=6 {
                index.apply(block(height, 0, [height])).unwrap();
            }
        };
        apply(1);
        index.flush().unwrap();
        for height in (1..=6).rev() {
            assert_eq!(undo(&index, &[height]).unwrap().0, height - 1);
        }
        assert!(matches!(undo(&index, &[]), Err(IndexError::AtGenesis)));
        apply(1);
        index.flush_all().unwrap();
        assert!((1..=6).all(|height| height_of(&index, height) == Some(height)));
    }

    #[test]
    fn memory_over_its_bound_is_written_though_it_is_not_deep() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(&dir.path().join("index"));
        index.apply(block(1, 0, 0..900)).unwrap();
        assert_eq!(index.flush().unwrap(), 0);
        index.apply(block(2, 0, 900..1_800)).unwrap();
        assert_eq!(index.flush().unwrap(), 900);
        assert_eq!(index.memory_payments(), 900);
    }

    #[test]
    fn a_gap_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(&dir.path().join("index"));
        assert!(matches!(index.apply(block(2, 0, [])), Err(IndexError::Gap { height: 2, head: 0 })));
    }

    #[test]
    fn another_ledgers_index_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = open(&path);
        index.apply(block(1, 0, [1])).unwrap();
        index.flush_all().unwrap();
        drop(index);
        let opened = Index::open(&path, BlockId([1; 32]), CONFIG).unwrap();
        assert_eq!(opened.index.head(), (0, BlockId([1; 32])));
        assert!(opened.set_aside.is_some_and(|aside| aside.exists()));
    }

    #[test]
    fn a_damaged_index_is_set_aside_and_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = open(&path);
        index.apply(block(1, 0, 0..500)).unwrap();
        index.flush_all().unwrap();
        drop(index);
        damage_every_file(&path);
        let opened = Index::open(&path, GENESIS, CONFIG).unwrap();
        assert_eq!(opened.index.head(), (0, GENESIS));
        assert!(opened.set_aside.is_some());
    }

    fn damage_every_file(path: &Path) {
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                damage_every_file(&entry.path());
            } else {
                let mut bytes = std::fs::read(entry.path()).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
                std::fs::write(entry.path(), bytes).unwrap();
            }
        }
    }
}
