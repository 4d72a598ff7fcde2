//! The index of an API server: where each payment of the canonical chain stands, and which block stands at a height.
//!
//! Always rebuildable: the log is the truth. The blocks at the chain's end stay in memory as sorted vectors, where a
//! reorganisation takes them back for nothing; deeper ones go to sled, many blocks in one flush, with the marker of the
//! last one, so that a restart knows from where to index again.
//!
//! A payment is keyed by a generation, a running number for every two million payments, then by the first half of its
//! id. Ids are random and a flush rewrites every leaf that it touches: without generations each flush would rewrite,
//! and hold in memory, the whole index. A look-up asks one key of each generation, the youngest first. Two payments
//! that share half an id cost 2^64 hashes to make, and whoever shows a payment compares the whole id with the log, so
//! a collision can hide a payment but never show another one for it.
//!
//! Two more questions are answered the same way. Who used a sequence of an account: keyed by eight bytes of a hash of
//! both, 21 bytes a payment before compression; a collision (2^32 hashes) can hide the user and never name another. And
//! where a payment stands that a block lists and skipped, which is how the loser of a double spend is known again after
//! the memory of its submission is gone; that costs nothing but for what was skipped.

mod tree;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use zeni_consensus::Applied;
use zeni_ledger::hash::hash_parts;
use zeni_ledger::{AccountId, BlockId, Outcome, Sequence, TransactionId};

use tree::{Half, Key, Marker, Tree, half};

/// How much of the chain's end stays in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexConfig {
    /// Blocks that stay in memory because a reorganisation may take them back.
    pub depth: u64,
    /// Payments in memory, at most; beyond it blocks are written though they are less deep. 36 bytes each.
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

/// Which payment of the canonical chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub height: u64,
    /// Which of the block's batches.
    pub batch: u16,
    /// Which of the batch's payments.
    pub position: u16,
}

/// A payment as a block lists it, for taking that block back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub id: TransactionId,
    pub from: AccountId,
    pub sequence: Sequence,
}

/// What one canonical block adds to the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedBlock {
    height: u64,
    id: BlockId,
    /// Of each payment that left a receipt, by rising half.
    entries: Vec<Entry>,
    /// Of the same payments, by rising fingerprint.
    uses: Vec<Use>,
    /// Of each payment that was skipped, by rising half.
    skipped: Vec<Skipped>,
}

/// Eight bytes of the hash of an account and a sequence of it.
type Fingerprint = [u8; 8];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    fingerprint: Fingerprint,
    batch: u16,
    position: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Skipped {
    half: Half,
    batch: u16,
    position: u16,
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
    /// Closing it failed, so the lock stays with this process.
    #[error("the index in {path} did not close after a failed write; restart this process")]
    Unclosed { path: PathBuf },
    #[error("the index in {path} failed: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("the index in {path} holds a damaged {what}; move the directory away and start again to rebuild it")]
    Damaged { path: PathBuf, what: &'static str },
    #[error("block {height} does not follow the indexed head {head}")]
    Gap { height: u64, head: u64 },
    #[error("the index stands at genesis; nothing can be taken back")]
    AtGenesis,
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
    config: IndexConfig,
    tree: Tree,
    memory: RwLock<Memory>,
    /// Held while blocks move to sled, and while one is taken back: the two would meet in the same block.
    moving: Mutex<()>,
}

#[derive(Debug)]
struct Memory {
    /// The highest block that stands in sled, less what was taken back since, and the generation that it is in.
    marker: Marker,
    /// Canonical blocks above the marker, by rising height, without a gap.
    blocks: VecDeque<Arc<IndexedBlock>>,
    payments: usize,
    /// Taken back from sled, to be removed by the next flush.
    removed: BTreeSet<Key>,
}

impl IndexedBlock {
    /// The entries of a canonical block: one for each payment that left a receipt, and one for each that was skipped.
    pub fn of(applied: &Applied) -> Self {
        let receipts = &applied.executed.receipts;
        let number = |batch: usize| u16::try_from(batch).expect("a block lists at most 2,048 batches");
        let entry = |receipt: &zeni_ledger::Receipt| Entry {
            half: half(&receipt.id),
            batch: number(receipt.batch as usize),
            position: receipt.position,
            outcome: receipt.outcome.to_byte(),
        };
        let mut entries: Vec<Entry> = receipts.iter().map(entry).collect();
        entries.sort_unstable_by_key(|entry| entry.half);
        let (mut uses, mut skipped) = (Vec::with_capacity(receipts.len()), Vec::new());
        // Receipts stand in the order of the payments: one that is not next in line was skipped.
        let mut receipts = receipts.iter().peekable();
        for (batch, listed) in applied.batches.iter().enumerate() {
            for (position, (payment, id)) in listed.payments().iter().zip(listed.ids()).enumerate() {
                let (batch, position) = (number(batch), position as u16);
                let here =
                    |receipt: &&zeni_ledger::Receipt| receipt.batch == u32::from(batch) && receipt.position == position;
                if receipts.next_if(here).is_some() {
                    let fingerprint = fingerprint(&payment.from(), payment.sequence());
                    uses.push(Use { fingerprint, batch, position });
                } else {
                    skipped.push(Skipped { half: half(id), batch, position });
                }
            }
        }
        uses.sort_unstable_by_key(|one| one.fingerprint);
        skipped.sort_unstable_by_key(|one| one.half);
        Self { height: applied.block.header.height, id: applied.id, entries, uses, skipped }
    }

    pub fn height(&self) -> u64 {
        self.height
    }

    fn find(&self, half: &Half) -> Option<Location> {
        let place = self.entries.binary_search_by_key(half, |entry| entry.half).ok()?;
        Some(self.entries[place].location(self.height))
    }

    fn find_use(&self, fingerprint: &Fingerprint) -> Option<Place> {
        let place = self.uses.binary_search_by_key(fingerprint, |one| one.fingerprint).ok()?;
        Some(self.uses[place].place(self.height))
    }

    fn find_skipped(&self, half: &Half) -> Option<Place> {
        let place = self.skipped.binary_search_by_key(half, |one| one.half).ok()?;
        Some(self.skipped[place].place(self.height))
    }
}

impl Use {
    const fn place(&self, height: u64) -> Place {
        Place { height, batch: self.batch, position: self.position }
    }
}

impl Skipped {
    const fn place(&self, height: u64) -> Place {
        Place { height, batch: self.batch, position: self.position }
    }
}

fn fingerprint(account: &AccountId, sequence: Sequence) -> Fingerprint {
    let hash = hash_parts("zeni index sequence v1", &[&account.0, &sequence.0.to_le_bytes()]);
    *hash.first_chunk().expect("a hash has 32 bytes")
}

impl Entry {
    fn location(&self, height: u64) -> Location {
        let outcome = Outcome::from_byte(self.outcome).expect("written by Outcome::to_byte");
        Location { height, batch: self.batch, position: self.position, outcome }
    }
}

impl Index {
    /// Opens the index in `path`, or begins an empty one that stands at `genesis`. One that belongs to another ledger
    /// or cannot be read is set aside under another name.
    pub fn open(path: &Path, genesis: BlockId, config: IndexConfig) -> Result<OpenedIndex, IndexError> {
        match Self::try_open(path, genesis, config) {
            Ok(index) => Ok(OpenedIndex { index, set_aside: None }),
            Err(error @ IndexError::Locked { .. }) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the index is built again");
                let aside = Self::set_aside(path)?;
                let index = Self::try_open(path, genesis, config)?;
                Ok(OpenedIndex { index, set_aside: Some(aside) })
            }
        }
    }

    /// Moves a closed index to another name, so that the next opening begins an empty one. Gives that name.
    pub fn set_aside(path: &Path) -> Result<PathBuf, IndexError> {
        let aside = free_name(path);
        std::fs::rename(path, &aside).map_err(|error| IndexError::Io { path: path.into(), error })?;
        tracing::warn!(aside = %aside.display(), "the index is set aside");
        Ok(aside)
    }

    fn try_open(path: &Path, genesis: BlockId, config: IndexConfig) -> Result<Self, IndexError> {
        let (tree, marker) = Tree::open(path, config.cache_bytes, genesis)?;
        let memory = Memory { marker, blocks: VecDeque::new(), payments: 0, removed: BTreeSet::new() };
        Ok(Self { config, tree, memory: RwLock::new(memory), moving: Mutex::new(()) })
    }

    /// The highest indexed block, in memory or in sled.
    pub fn head(&self) -> (u64, BlockId) {
        self.read().head()
    }

    /// The highest block that a restart finds indexed.
    pub fn flushed(&self) -> (u64, BlockId) {
        self.read().marker.block()
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

    /// Takes the head back. `payments` gives all payments that the block lists; it is asked only if the block stands in
    /// sled already. Returns the new head.
    pub fn undo<E: From<IndexError>>(
        &self,
        payments: impl FnOnce(BlockId) -> Result<Vec<Listed>, E>,
    ) -> Result<(u64, BlockId), E> {
        let _still = self.still();
        let (height, id) = {
            let mut memory = self.write();
            if let Some(block) = memory.blocks.pop_back() {
                memory.payments -= block.entries.len();
                return Ok(memory.head());
            }
            memory.marker.block()
        };
        let below = height.checked_sub(1).ok_or(IndexError::AtGenesis)?;
        let parent = self.tree.block_at(below)?.ok_or_else(|| self.tree.damaged("height"))?;
        let payments = payments(id)?;
        let mut memory = self.write();
        // A payment of an abandoned block can stand at another height by now; only its own entries go.
        for payment in payments {
            let (half, fingerprint) = (half(&payment.id), fingerprint(&payment.from, payment.sequence));
            let (marker, removed) = (&memory.marker, &memory.removed);
            let executed = self.tree.find(&half, marker, removed)?.map(|(key, at)| (key, at.height));
            let used = self.tree.find_use(&fingerprint, marker, removed)?.map(|(key, at)| (key, at.height));
            let skipped = self.tree.find_skipped(&half, marker, removed)?.map(|(key, at)| (key, at.height));
            let found = [executed, used, skipped].into_iter().flatten();
            let own: Vec<Key> = found.filter(|(_, at)| *at == height).map(|(key, _)| key).collect();
            memory.removed.extend(own);
        }
        memory.removed.insert(tree::height_key(height).to_vec());
        (memory.marker.height, memory.marker.id) = (below, parent);
        Ok((below, parent))
    }

    /// Where a payment stands. The caller compares the whole id with the payment in the log.
    pub fn find(&self, id: &TransactionId) -> Result<Option<Location>, IndexError> {
        let half = half(id);
        let memory = self.read();
        if let Some(location) = memory.blocks.iter().rev().find_map(|block| block.find(&half)) {
            return Ok(Some(location));
        }
        // Few or none: only what a deep reorganisation took back since the last flush.
        let (marker, removed) = (memory.marker, memory.removed.clone());
        drop(memory);
        Ok(self.tree.find(&half, &marker, &removed)?.map(|(_, location)| location))
    }

    /// Which payment used a sequence of an account. The caller compares both with the payment in the log: another one's
    /// may have the same fingerprint.
    pub fn find_use(&self, account: &AccountId, sequence: Sequence) -> Result<Option<Place>, IndexError> {
        let fingerprint = fingerprint(account, sequence);
        let memory = self.read();
        if let Some(place) = memory.blocks.iter().rev().find_map(|block| block.find_use(&fingerprint)) {
            return Ok(Some(place));
        }
        let (marker, removed) = (memory.marker, memory.removed.clone());
        drop(memory);
        Ok(self.tree.find_use(&fingerprint, &marker, &removed)?.map(|(_, place)| place))
    }

    /// A place at which a block lists a payment and skipped it: it may have been executed elsewhere, which
    /// [`Self::find`] tells. The caller compares the whole id with the payment in the log.
    pub fn find_skipped(&self, id: &TransactionId) -> Result<Option<Place>, IndexError> {
        let half = half(id);
        let memory = self.read();
        if let Some(place) = memory.blocks.iter().rev().find_map(|block| block.find_skipped(&half)) {
            return Ok(Some(place));
        }
        let (marker, removed) = (memory.marker, memory.removed.clone());
        drop(memory);
        Ok(self.tree.find_skipped(&half, &marker, &removed)?.map(|(_, place)| place))
    }

    /// The canonical block at `height`.
    pub fn block_at(&self, height: u64) -> Result<Option<BlockId>, IndexError> {
        let memory = self.read();
        if let Some(above) = height.checked_sub(memory.marker.height + 1) {
            let place = usize::try_from(above).ok();
            return Ok(place.and_then(|place| memory.blocks.get(place)).map(|block| block.id));
        }
        drop(memory);
        self.tree.block_at(height)
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
        let (blocks, removals, marker) = {
            let memory = self.read();
            (memory.due(depth, self.config.memory_payments_max), memory.removals(), memory.marker)
        };
        if blocks.is_empty() {
            return Ok(0);
        }
        let marker = self.tree.write(removals, &blocks, marker)?;
        let mut memory = self.write();
        let mut written = 0;
        for block in blocks {
            memory.blocks.pop_front();
            written += block.entries.len();
        }
        memory.payments -= written;
        memory.marker = marker;
        memory.removed.clear();
        Ok(written)
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
        self.blocks.back().map_or(self.marker.block(), |block| (block.height, block.id))
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

    /// The keys of what was taken back from sled.
    fn removals(&self) -> Vec<Key> {
        self.removed.iter().cloned().collect()
    }
}

fn free_name(path: &Path) -> PathBuf {
    let name = |number: u32| path.with_extension(format!("damaged-{number}"));
    (1..).map(name).find(|candidate| !candidate.exists()).expect("fewer than 2^32 damaged indexes lie there")
}
