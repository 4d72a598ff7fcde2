//! The log and the undo log of one data directory, and its single writer.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use zeni_consensus::finality::LogEntry;
use zeni_consensus::{BatchMeta, Record};
use zeni_ledger::encoding::Encoder;
use zeni_ledger::{Batch, BatchDigest, Block, BlockId, CommitCertificate, FinalBlock, Genesis, GenesisId, Undo};

use crate::base;
use crate::clean_stop::{self, CleanStop};
use crate::error::{Damage, StorageError, TornTail};
use crate::examine::survey;
use crate::files::Files;
use crate::frame::{Frame, Kind};
use crate::identity;
use crate::reader::{Index, Reader};
use crate::repair::{Mended, settle_drafts};
use crate::stream::{Health, Limits, Place, Stream, Which};
use crate::syncer::Syncer;

/// The writing end of a data directory. Dropping it without [`Store::seal`] is what a crash leaves.
///
/// Every segment stays open for reading: with 64 MiB each, a terabyte of log needs some 16,000 file descriptors.
#[derive(Debug)]
pub struct Store<F: Files> {
    files: F,
    genesis: GenesisId,
    chain: Stream<F>,
    undo: Stream<F>,
    index: Arc<RwLock<Index>>,
}

/// What a data directory held when it was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// Every stored block, in the log's order.
    pub blocks: Vec<Arc<Block>>,
    /// Their ids.
    pub block_ids: Vec<BlockId>,
    /// Every stored batch, in the log's order.
    pub batches: Vec<BatchMeta>,
    /// The block whose state was given by a snapshot, if the chain was: below it there are no batches and no undo
    /// records.
    pub base: Option<FinalBlock>,
    /// Every certificate, in the log's order.
    pub certificates: Vec<CommitCertificate>,
    /// What the finality engine logged, and for which decision, in the log's order.
    pub finality: Vec<(u64, LogEntry)>,
    /// The log is damaged behind the last certificate, so that of `finality` something may be missing.
    pub votes_lost: bool,
    /// Blocks that have an undo record.
    pub undos: usize,
    /// Torn tails that were moved aside, at most one a stream. Nothing synced was in them.
    pub torn: Vec<TornTail>,
    /// Damage that was found. The damaged segments are rewritten, what was unreadable is lost here: see `missing`.
    pub damage: Vec<Damage>,
    pub missing: Missing,
}

/// What the stored blocks speak of and the log does not hold. After damage that is what peers must be asked for; it is
/// healed by appending it. (A batch that no block lists yet is not known to be missing; peers' pools name it.)
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// Parents of stored blocks, genesis aside.
    pub blocks: BTreeSet<BlockId>,
    /// Batches that stored blocks above the base list.
    pub batches: BTreeSet<BatchDigest>,
}

impl Missing {
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.batches.is_empty()
    }
}

impl<F: Files> Store<F> {
    /// Makes `files` the data directory of a ledger.
    ///
    /// # Errors
    /// [`StorageError::AlreadyInitialised`]; I/O.
    pub fn init(files: &F, genesis: &GenesisId) -> Result<(), StorageError> {
        identity::init(files, genesis)
    }

    /// Opens the data directory, reads every record once and checks its hash. Torn tails are moved aside and damaged
    /// segments rewritten, and both reported, so that a node with a rotten disk still starts.
    ///
    /// # Errors
    /// A directory of another ledger, or of none; a file of a newer build; I/O.
    pub fn open(files: F, genesis: &Genesis, limits: Limits) -> Result<(Self, Opened), StorageError> {
        Self::open_guarded(files, genesis, limits, &mut || Ok(()))
    }

    /// As [`Self::open`]. `before_mending` is called before a damaged segment of the log is rewritten, since no later
    /// start will know that anything is missing there.
    pub(crate) fn open_guarded(
        files: F,
        genesis: &Genesis,
        limits: Limits,
        before_mending: &mut dyn FnMut() -> Result<(), StorageError>,
    ) -> Result<(Self, Opened), StorageError> {
        let id = genesis.id();
        identity::require(&files, &id)?;
        let stop = clean_stop::read(&files, &id)?;
        let health = Arc::new(Health::default());
        let [mut chain, mut undo] =
            Which::ALL.map(|which| Stream::new(files.clone(), which, id, limits, health.clone()));
        let (mut index, mut opened, mut mended) = (Index::default(), Opened::default(), Mended::default());
        let mut votes = Votes::default();
        let mut before = |which| if which == Which::Chain { before_mending() } else { Ok(()) };
        for (stream, last) in [(&mut chain, stop.map(|stop| stop.chain)), (&mut undo, stop.map(|stop| stop.undo))] {
            settle_drafts(&files, stream.which)?;
            let survey = survey(&files, stream.which, &id, last)?;
            let which = stream.which;
            let mut visit =
                |place: Place, frame: &Frame<'_>| take(which, &mut index, &mut opened, &mut votes, place, frame);
            stream.take_up(&survey, &mut mended, &mut visit, &mut before)?;
        }
        clean_stop::unmark(&files)?;
        opened.undos = index.undos.len();
        opened.missing = missing(&opened, &index, genesis.block_id());
        opened.votes_lost = mended.last_in_log.is_some_and(|damage| Some(damage) >= votes.last_certificate);
        opened.certificates = votes.certificates.into_iter().map(|(_, certificate)| certificate).collect();
        opened.finality = votes.entries.into_iter().map(|(_, decision, entry)| (decision, entry)).collect();
        (opened.torn, opened.damage) = (mended.torn, mended.damage);
        for tail in &opened.torn {
            tracing::warn!(file = tail.file, offset = tail.offset, bytes = tail.bytes, kept = tail.kept, "torn tail");
        }
        for damage in &opened.damage {
            tracing::error!(%damage, "damaged segment rewritten without its unreadable records");
        }
        Ok((Self { files, genesis: id, chain, undo, index: Arc::new(RwLock::new(index)) }, opened))
    }

    /// Appends a batch or block. It is in the page cache, and readable, when this returns; durable after the next sync.
    /// A record that the log already holds is not written again.
    ///
    /// # Errors
    /// I/O, full disk: nothing was appended then. [`StorageError::Poisoned`] after a failed sync.
    pub fn append(&mut self, record: &Record) -> Result<(), StorageError> {
        match record {
            Record::Batch(batch) => {
                let digest = batch.digest();
                if !self.reads(|index| index.batches.contains_key(&digest)) {
                    let place = self.chain.append(Kind::Batch, &digest.0, &batch.batch().to_bytes())?;
                    self.writes(|index| index.batches.insert(digest, place));
                }
            }
            Record::Block(block) => {
                let id = block.id(&self.genesis);
                if !self.reads(|index| index.blocks.contains_key(&id)) {
                    let place = self.chain.append(Kind::Block, &id.0, &block.to_bytes())?;
                    self.writes(|index| index.blocks.insert(id, place));
                }
            }
            Record::Certificate(certificate) => {
                let block = certificate.block.id;
                let place = self.chain.append(Kind::Certificate, &block.0, &certificate.to_bytes())?;
                self.writes(|index| index.certificates.insert(block, place));
            }
            Record::Finality { decision, entry } => {
                self.chain.append(Kind::Finality, &decision_key(*decision), &entry.to_bytes())?;
            }
        }
        Ok(())
    }

    /// Appends that the state at this certificate's block was given by a snapshot.
    pub(crate) fn append_base(&mut self, certificate: &CommitCertificate) -> Result<(), StorageError> {
        let block = certificate.block.id;
        let place = self.chain.append(Kind::Base, &block.0, &certificate.to_bytes())?;
        self.writes(|index| index.certificates.insert(block, place));
        Ok(())
    }

    /// Appends the undo record of an executed block to the undo log, unless it is there. As [`Self::append`], but only
    /// [`Syncer::sync_all`] makes it durable.
    pub fn append_undo(&mut self, block: BlockId, height: u64, undo: &Undo) -> Result<(), StorageError> {
        if !self.reads(|index| index.undos.contains_key(&block)) {
            let mut encoder = Encoder::with_capacity(8 + undo.bytes_about());
            undo.encode(encoder.u64(height));
            let place = self.undo.append(Kind::Undo, &block.0, encoder.as_bytes())?;
            self.writes(|index| index.undos.insert(block, place));
        }
        Ok(())
    }

    /// What another thread syncs with.
    pub fn syncer(&self) -> Syncer<F> {
        Syncer { chain: self.chain.shared.clone(), undo: self.undo.shared.clone() }
    }

    /// Read access for any thread.
    pub fn reader(&self) -> Reader<F> {
        let (chain, undo) = (self.chain.shared.clone(), self.undo.shared.clone());
        Reader { genesis: self.genesis, index: self.index.clone(), chain, undo }
    }

    /// A clean stop: seals and syncs the last segments and marks that this was done. Readers stay usable.
    pub fn seal(mut self) -> Result<(), StorageError> {
        self.chain.seal()?;
        self.undo.seal()?;
        let stop = CleanStop { chain: self.chain.last_number, undo: self.undo.last_number };
        clean_stop::mark(&self.files, &self.genesis, stop)
    }

    /// The data directory, for what else is kept in it.
    pub fn files(&self) -> &F {
        &self.files
    }

    /// Bytes of log and undo log.
    pub fn disk_bytes(&self) -> u64 {
        self.syncer().disk_bytes()
    }

    /// Bytes that may still be written to the disk, for its watermark.
    pub fn free_bytes(&self) -> Result<u64, StorageError> {
        self.files.free_bytes().map_err(StorageError::io("the data directory", "asking for the free space of"))
    }

    fn reads<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.index.read().expect("nothing panics while it holds the index"))
    }

    fn writes<T>(&self, write: impl FnOnce(&mut Index) -> T) -> T {
        write(&mut self.index.write().expect("nothing panics while it holds the index"))
    }
}

fn decision_key(decision: u64) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&decision.to_le_bytes());
    key
}

fn decision_of(key: &[u8; 32]) -> u64 {
    u64::from_le_bytes(*key.first_chunk().expect("a key has 32 bytes"))
}

/// What the log holds about finality, each with its segment.
#[derive(Debug, Default)]
struct Votes {
    entries: Vec<(u32, u64, LogEntry)>,
    certificates: Vec<(u32, CommitCertificate)>,
    /// Where the last certificate stood before anything was mended: segment and offset.
    last_certificate: Option<(u32, u64)>,
    shown: Option<Place>,
}

impl Votes {
    /// Begins again with a segment that is shown a second time, because it was rewritten.
    fn show(&mut self, place: Place) {
        let again = |shown: &Place| shown.segment == place.segment && place.offset <= shown.offset;
        if self.shown.as_ref().is_some_and(again) {
            self.entries.retain(|(segment, ..)| *segment != place.segment);
            self.certificates.retain(|(segment, _)| *segment != place.segment);
        }
        self.shown = Some(place);
    }
}

/// Notes one record of the log; false if it does not decode or does not belong into this stream.
fn take(
    which: Which,
    index: &mut Index,
    opened: &mut Opened,
    votes: &mut Votes,
    place: Place,
    frame: &Frame<'_>,
) -> bool {
    let key = frame.head.key;
    if which == Which::Chain {
        votes.show(place);
    }
    match (which, frame.head.kind) {
        (Which::Chain, Kind::Batch) => {
            let Ok(batch) = Batch::from_bytes(frame.payload) else { return false };
            let digest = BatchDigest(key);
            if index.batches.insert(digest, place).is_none() {
                let payments = batch.payments.len() as u32;
                opened.batches.push(BatchMeta { digest, author: batch.author, number: batch.number, payments });
            }
        }
        (Which::Chain, Kind::Block) => {
            let Ok(block) = Block::from_bytes(frame.payload) else { return false };
            if index.blocks.insert(BlockId(key), place).is_none() {
                opened.blocks.push(Arc::new(block));
                opened.block_ids.push(BlockId(key));
            }
        }
        (Which::Chain, kind @ (Kind::Certificate | Kind::Base)) => {
            let Ok(certificate) = CommitCertificate::from_bytes(frame.payload) else { return false };
            if kind == Kind::Base {
                opened.base = base::higher(opened.base, certificate.block);
            }
            // What was logged for a decision that is over is of no use any more.
            votes.entries.retain(|(_, decision, _)| *decision > certificate.decision);
            index.certificates.insert(BlockId(key), place);
            votes.certificates.push((place.segment, certificate));
            votes.last_certificate = votes.last_certificate.max(Some((place.segment, place.offset.into())));
        }
        (Which::Chain, Kind::Finality) => {
            let Ok(entry) = LogEntry::from_bytes(frame.payload) else { return false };
            votes.entries.push((place.segment, decision_of(&key), entry));
        }
        (Which::Undo, Kind::Undo) => {
            index.undos.insert(BlockId(key), place);
        }
        _ => return false,
    }
    true
}

fn missing(opened: &Opened, index: &Index, genesis_block: BlockId) -> Missing {
    let absent = |parent: &BlockId| *parent != genesis_block && !index.blocks.contains_key(parent);
    let parents = opened.blocks.iter().map(|block| block.header.parent).filter(absent).collect();
    let base = opened.base.map_or(0, |base| base.height);
    let executed = opened.blocks.iter().filter(|block| block.header.height > base);
    let listed = executed.flat_map(|block| &block.digests);
    let batches = listed.filter(|digest| !index.batches.contains_key(*digest)).copied().collect();
    Missing { blocks: parents, batches }
}

#[cfg(test)]
mod tests;
