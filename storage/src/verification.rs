//! The full recheck of a stopped data directory: nothing is believed because it was checked before, and nothing is
//! changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use zeni_consensus::finality::LogEntry;
use zeni_consensus::schedule::Schedule;
use zeni_consensus::{Archive, ArchiveError};
use zeni_ledger::execute::execute;
use zeni_ledger::{
    Batch, BatchDigest, Block, BlockId, CommitCertificate, FinalBlock, Genesis, GenesisId, Outcome, State, StateRoot,
    TokenId, TransactionId, VerifiedBatch,
};

use crate::base::{self, LoadCheckpoint, NoBaseState};
use crate::clean_stop;
use crate::error::{Damage, StorageError, Subject};
use crate::examine::survey;
use crate::files::Files;
use crate::frame::{Frame, Kind};
use crate::heaviest::heaviest_chain;
use crate::identity;
use crate::reader::{Index, Reader, decode_undo};
use crate::snapshot;
use crate::stream::{Health, Place, Segment, Shared, Which};

/// Batches that are handed to the signature check at once, at most (some 12 MB).
pub const CHECK_BATCHES_MAX: usize = 64;

/// What a clean data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The canonical head.
    pub height: u64,
    pub block: BlockId,
    pub state_root: StateRoot,
    /// The height from which the chain was executed: 0, or that of the block whose state was given by a snapshot. That
    /// state was compared with the header of its block, which a quorum certified.
    pub verified_from: u64,
    /// Of each token; all zero.
    pub token_sums: BTreeMap<TokenId, i128>,
    /// Of the blocks that were executed.
    pub transactions: Transactions,
    /// Stored, on the canonical chain or not.
    pub blocks: u64,
    pub batches: u64,
    /// Canonical blocks without an undo record: a start makes them again.
    pub undos_missing: u64,
    /// Bytes that a crash left behind the last record; the next start moves them aside.
    pub torn_bytes: u64,
}

/// What became of the payments of the canonical chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transactions {
    pub applied: u64,
    pub rejected: u64,
    pub skipped: u64,
    /// Different ids among the applied ones: as many as `applied`, or money moved twice.
    pub distinct_applied: u64,
}

/// The first damage that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPlace {
    pub file: String,
    pub offset: u64,
    /// The block that is damaged, or that lists what is.
    pub block: Option<BlockId>,
    pub what: String,
}

impl std::fmt::Display for DamagedPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}: {}", self.file, self.offset, self.what)?;
        self.block.map_or(Ok(()), |block| write!(f, " (block {block})"))
    }
}

/// Why a data directory does not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("damaged: {0}")]
    Damaged(Box<DamagedPlace>),
    /// The log is sound, but nothing leads to the state that it begins at.
    #[error(transparent)]
    NoBaseState(#[from] NoBaseState),
}

/// Rechecks a stopped data directory: every byte of the log's segments, every digest, signature, link, rank, root and
/// sum, by executing the canonical chain from `state`, which must be that of genesis.
///
/// If the log begins with a snapshot, the state is first brought to its block: `load` gives the checkpoint, and what
/// was executed since is taken back.
///
/// `bad_batch` is given some batches and returns the index of one whose author's or any payment's signature does not
/// hold ([`zeni_ledger::signature`]); it may spread the work over threads.
///
/// # Errors
/// The first damage; a directory of another ledger; I/O.
pub fn verify<F: Files>(
    files: &F,
    genesis: &Genesis,
    mut state: State,
    load: &mut LoadCheckpoint<'_>,
    bad_batch: &mut dyn FnMut(&[Batch]) -> Option<usize>,
) -> Result<Verification, VerifyError> {
    let id = genesis.id();
    identity::require(files, &id)?;
    snapshot::require_finished(files)?;
    let mut scan = Scan::new(genesis, id, bad_batch);
    scan.read(files)?;
    scan.refuse_damage()?;
    scan.check_blocks()?;
    if let Some(base) = scan.base {
        base::reach(base, &scan.blocks, &scan.reader, load, &mut state)?;
    }
    scan.execute(state)
}

struct Scan<'a, F: Files> {
    genesis: &'a Genesis,
    id: GenesisId,
    bad_batch: &'a mut dyn FnMut(&[Batch]) -> Option<usize>,
    reader: Reader<F>,
    blocks: HashMap<BlockId, Arc<Block>>,
    damage: Vec<Damage>,
    /// What a record's content is, beside its frame, in the order of the log.
    wrong: Vec<(Which, Place, Option<BlockId>, String)>,
    unchecked: Vec<(Place, Batch)>,
    certificates: Vec<CommitCertificate>,
    base: Option<FinalBlock>,
    torn_bytes: u64,
}

impl<'a, F: Files> Scan<'a, F> {
    fn new(genesis: &'a Genesis, id: GenesisId, bad_batch: &'a mut dyn FnMut(&[Batch]) -> Option<usize>) -> Self {
        let health = Arc::new(Health::default());
        let [chain, undo] = [(); 2].map(|()| Arc::new(Shared::new(health.clone())));
        let reader = Reader { genesis: id, index: Arc::new(RwLock::new(Index::default())), chain, undo };
        let (blocks, damage, wrong, unchecked) = (HashMap::new(), Vec::new(), Vec::new(), Vec::new());
        let (certificates, base, torn_bytes) = (Vec::new(), None, 0);
        Self { genesis, id, bad_batch, reader, blocks, damage, wrong, unchecked, certificates, base, torn_bytes }
    }

    /// Reads every segment of both streams.
    fn read(&mut self, files: &F) -> Result<(), StorageError> {
        let stop = clean_stop::read(files, &self.id)?;
        for which in Which::ALL {
            let last = stop.map(|stop| if which == Which::Chain { stop.chain } else { stop.undo });
            let survey = survey(files, which, &self.id, last)?;
            for (index, found) in survey.segments.iter().enumerate() {
                let mut show = |segment: u32, offset: usize, frame: &Frame<'_>| {
                    self.record(which, Place { segment, offset: offset as u32, bytes: frame.len() as u32 }, frame)
                };
                let mut examined = survey.examine(files, index, &mut show)?;
                self.damage.append(&mut examined.damage);
                self.torn_bytes += examined.torn_at.map_or(0, |offset| examined.len - offset);
                if let Some(header) = found.header {
                    let file = files.open(&found.file).map_err(StorageError::io(&found.file, "opening"))?;
                    let segment = Segment { name: found.file.clone(), key: header.key(), file };
                    self.shared(which).add(found.number, Arc::new(segment));
                }
            }
        }
        self.check_signatures();
        Ok(())
    }

    fn shared(&self, which: Which) -> &Shared<F> {
        match which {
            Which::Chain => &self.reader.chain,
            Which::Undo => &self.reader.undo,
        }
    }

    /// Checks one record's own content and notes its place; false if it does not decode.
    fn record(&mut self, which: Which, place: Place, frame: &Frame<'_>) -> bool {
        let key = frame.head.key;
        let index = self.reader.index.clone();
        let mut index = index.write().expect("nothing panics while it holds the index");
        match (which, frame.head.kind) {
            (Which::Chain, Kind::Batch) => {
                let Ok(batch) = Batch::from_bytes(frame.payload) else { return false };
                if batch.digest(&self.id).0 != key {
                    self.wrong.push((which, place, None, "the batch does not have its digest".into()));
                }
                index.batches.insert(BatchDigest(key), place);
                self.unchecked.push((place, batch));
                if self.unchecked.len() == CHECK_BATCHES_MAX {
                    self.check_signatures();
                }
            }
            (Which::Chain, Kind::Block) => {
                let Ok(block) = Block::from_bytes(frame.payload) else { return false };
                if block.id(&self.id).0 != key {
                    self.wrong.push((which, place, Some(BlockId(key)), "the block does not have its id".into()));
                }
                index.blocks.insert(BlockId(key), place);
                self.blocks.insert(BlockId(key), Arc::new(block));
            }
            (Which::Chain, kind @ (Kind::Certificate | Kind::Base)) => {
                let Ok(certificate) = CommitCertificate::from_bytes(frame.payload) else { return false };
                if kind == Kind::Base {
                    self.base = base::higher(self.base, certificate.block);
                }
                let block = certificate.block.id;
                if block.0 != key {
                    self.wrong.push((which, place, Some(block), "the certificate is not of its block".into()));
                }
                if let Err(error) = certificate.verify(self.genesis, &self.id) {
                    self.wrong.push((which, place, Some(block), error.to_string()));
                }
                self.certificates.push(certificate);
            }
            (Which::Chain, Kind::Finality) => {
                if LogEntry::from_bytes(frame.payload).is_err() {
                    return false;
                }
            }
            (Which::Undo, Kind::Undo) => {
                if decode_undo(frame.payload).is_err() {
                    return false;
                }
                index.undos.insert(BlockId(key), place);
            }
            _ => return false,
        }
        true
    }

    fn check_signatures(&mut self) {
        let (places, batches): (Vec<Place>, Vec<Batch>) = std::mem::take(&mut self.unchecked).into_iter().unzip();
        let unknown = batches.iter().position(|batch| batch.author.as_usize() >= self.genesis.validators.len());
        if let Some(index) = unknown {
            self.wrong.push((Which::Chain, places[index], None, "the batch's author is no validator".into()));
        } else if !batches.is_empty()
            && let Some(index) = (self.bad_batch)(&batches)
        {
            self.wrong.push((Which::Chain, places[index], None, "a signature in the batch does not hold".into()));
        }
    }

    /// Fails with the first damage of the files, and names the block that it concerns.
    fn refuse_damage(&self) -> Result<(), VerifyError> {
        if let Some(damage) = self.damage.first() {
            let block = if damage.bytes > 0 { self.concerned(damage.subject) } else { None };
            let (file, offset, what) = (damage.file.clone(), damage.offset, damage.what.to_string());
            return Err(VerifyError::Damaged(Box::new(DamagedPlace { file, offset, block, what })));
        }
        match self.wrong.first() {
            Some((which, place, block, what)) => Err(self.damaged(*which, *place, *block, what.clone())),
            None => Ok(()),
        }
    }

    /// The block that unreadable bytes were or were listed by. What the frame says of itself counts only if some block
    /// bears it out; otherwise the lowest block that the log cannot complete is meant.
    fn concerned(&self, subject: Subject) -> Option<BlockId> {
        match subject {
            Subject::Undo(id) => self.blocks.contains_key(&id).then_some(id),
            Subject::Block(id) if self.blocks.values().any(|block| block.header.parent == id) => Some(id),
            Subject::Block(id) => self.first_incomplete().or(Some(id)),
            Subject::Batch(digest) => self.listing(&digest).or_else(|| self.first_incomplete()),
            Subject::Certificate(id) => self.blocks.contains_key(&id).then_some(id),
            Subject::Finality | Subject::Unknown => self.first_incomplete(),
        }
    }

    /// A block that lists this batch: the lowest.
    fn listing(&self, digest: &BatchDigest) -> Option<BlockId> {
        let listing = self.blocks.iter().filter(|(_, block)| block.digests.contains(digest));
        listing.map(|(id, block)| (block.header.height, *id)).min().map(|(_, id)| id)
    }

    /// The lowest block that is absent itself, or of which a batch is.
    fn first_incomplete(&self) -> Option<BlockId> {
        let parents = self.blocks.values().map(|block| (block.header.height - 1, block.header.parent));
        let absent = parents.filter(|(height, parent)| *height > 0 && !self.blocks.contains_key(parent));
        let lacks_batch = |block: &Block| block.digests.iter().any(|digest| !self.reader.has_batch(digest));
        let from = self.base.map_or(0, |base| base.height);
        let lacking = self.blocks.iter().filter(|(_, block)| block.header.height > from && lacks_batch(block));
        absent.chain(lacking.map(|(id, block)| (block.header.height, *id))).min().map(|(_, id)| id)
    }

    fn damaged(&self, which: Which, place: Place, block: Option<BlockId>, what: String) -> VerifyError {
        let name = which.file(place.segment.into(), "log");
        VerifyError::Damaged(Box::new(DamagedPlace { file: name, offset: place.offset.into(), block, what }))
    }

    /// As [`Self::damaged`], at the place of a stored block.
    fn wrong_block(&self, id: BlockId, what: String) -> VerifyError {
        let index = self.reader.index.read().expect("nothing panics while it holds the index");
        self.damaged(Which::Chain, index.blocks[&id], Some(id), what)
    }

    /// Checks what each stored block says of itself and of its parent.
    fn check_blocks(&self) -> Result<(), VerifyError> {
        let schedule = Schedule::new(self.genesis);
        let mut order: Vec<(u64, BlockId)> = self.blocks.iter().map(|(id, block)| (block.header.height, *id)).collect();
        order.sort_unstable();
        for (_, id) in order {
            let block = &self.blocks[&id];
            let header = &block.header;
            let wrong = |what: String| Err(self.wrong_block(id, what));
            let Some(proposer) = self.genesis.validators.get(header.proposer.as_usize()) else {
                return wrong("its proposer is no validator".into());
            };
            if !block.signature_holds(&self.id, &proposer.key) {
                return wrong("its proposer's signature does not hold".into());
            }
            if schedule.rank(header.slot, header.proposer) != Some(header.rank) {
                return wrong("its rank is not the proposer's place in its slot".into());
            }
            let (height, slot) = match self.blocks.get(&header.parent) {
                Some(parent) => (parent.header.height, parent.header.slot),
                None if header.parent == self.genesis.block_id() => (0, 0),
                None => return wrong(format!("the log does not hold its parent {}", header.parent)),
            };
            if header.height != height + 1 || header.slot <= slot {
                return wrong("its height or slot does not follow its parent's".into());
            }
        }
        Ok(())
    }

    /// Executes the canonical chain and compares every root.
    fn execute(&self, mut state: State) -> Result<Verification, VerifyError> {
        let mut transactions = Transactions::default();
        let (mut applied, mut undos_missing) = (Vec::new(), 0);
        let chain = heaviest_chain(&self.blocks, &self.certificates, self.genesis);
        let verified_from = self.base.map_or(0, |base| base.height);
        if let Some(base) = self.base
            && chain.get(base.height as usize - 1) != Some(&base.id)
        {
            return Err(
                self.wrong_block(base.id, "its state was given, and the canonical chain does not hold it".into())
            );
        }
        for id in chain.iter().skip(verified_from as usize) {
            let block = &self.blocks[id];
            let batches = block.digests.iter().map(|digest| self.batch(*id, digest)).collect::<Result<Vec<_>, _>>()?;
            let slot_time_ms = self.genesis.slot_time_ms(block.header.slot);
            let executed = execute(&mut state, &self.genesis.rules, slot_time_ms, &batches);
            let header = &block.header;
            if executed.state_root != header.state_root {
                return Err(self.wrong_block(*id, "executing it does not give its state root".into()));
            }
            if executed.receipts_root != header.receipts_root || executed.receipts.len() != header.receipts as usize {
                return Err(self.wrong_block(*id, "executing it does not give its receipts root".into()));
            }
            match self.reader.undo(id).map_err(|error| self.wrong_block(*id, error.to_string()))? {
                Some(undo) if *undo != executed.undo => {
                    return Err(self.wrong_block(*id, "its undo record is not what executing it gives".into()));
                }
                Some(_) => {}
                None => undos_missing += 1,
            }
            transactions.applied += executed.applied;
            transactions.rejected += executed.rejected;
            transactions.skipped += executed.skipped;
            applied
                .extend(executed.receipts.iter().filter(|receipt| receipt.outcome == Outcome::Applied).map(|r| r.id));
        }
        transactions.distinct_applied = count_distinct(applied);
        let token_sums = state.token_sums();
        let head = chain.last().copied().unwrap_or(self.genesis.block_id());
        if let Some((token, sum)) = token_sums.iter().find(|(_, sum)| **sum != 0) {
            return Err(self.wrong_block(head, format!("the balances of token {token} sum to {sum} instead of 0")));
        }
        let index = self.reader.index.read().expect("nothing panics while it holds the index");
        Ok(Verification {
            height: chain.len() as u64,
            block: head,
            state_root: state.root(),
            verified_from,
            token_sums,
            transactions,
            blocks: self.blocks.len() as u64,
            batches: index.batches.len() as u64,
            undos_missing,
            torn_bytes: self.torn_bytes,
        })
    }

    fn batch(&self, block: BlockId, digest: &BatchDigest) -> Result<VerifiedBatch, VerifyError> {
        match self.reader.batch(digest) {
            Ok(Some(batch)) => Ok(batch),
            Ok(None) => Err(self.wrong_block(block, format!("the log does not hold batch {digest}, which it lists"))),
            Err(ArchiveError::Io(error)) => {
                Err(StorageError::io("the log", "reading")(std::io::Error::other(error)).into())
            }
            Err(error) => Err(self.wrong_block(block, error.to_string())),
        }
    }
}

fn count_distinct(mut ids: Vec<TransactionId>) -> u64 {
    ids.sort_unstable();
    ids.dedup();
    ids.len() as u64
}

/// A signature check on this thread alone, for [`verify`]. `seed` is called for 32 bytes that nobody can predict, once
/// for each batch.
pub fn check_serially<'a>(
    genesis: &'a Genesis,
    mut seed: impl FnMut() -> [u8; 32] + 'a,
) -> impl FnMut(&[Batch]) -> Option<usize> + 'a {
    let id = genesis.id();
    move |batches| {
        batches.iter().position(|batch| {
            let author = &genesis.validators[batch.author.as_usize()].key;
            !batch.author_signature_holds(&id, author)
                || !zeni_ledger::signature::verify_payments(&batch.payments, &id, seed()).is_empty()
        })
    }
}

#[cfg(test)]
mod tests;
