//! A look at a stopped data directory for people: what is there and where, damage included. Changes nothing, and
//! believes every record whose hash holds; to recheck a directory is [`crate::verify`]'s work.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use zeni_consensus::BatchMeta;
use zeni_consensus::finality::LogEntry;
use zeni_ledger::{Batch, BatchDigest, Block, BlockId, CommitCertificate, FinalBlock, Genesis, State};

use crate::base::{self, LoadCheckpoint, NoBaseState};
use crate::clean_stop;
use crate::error::{Damage, StorageError};
use crate::examine::survey;
use crate::files::Files;
use crate::frame::{Frame, Kind};
use crate::heaviest::heaviest_chain;
use crate::identity;
use crate::reader::{Index, Reader};
use crate::snapshot;
use crate::stream::{Health, Place, Segment, Shared, Which};

/// One segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSummary {
    pub file: String,
    pub bytes: u64,
    /// Readable records.
    pub records: u64,
    pub sealed: bool,
    /// Where a tail begins that a crash left.
    pub torn_at: Option<u64>,
}

/// What a data directory holds.
#[derive(Debug)]
pub struct Inspection<F: Files> {
    /// Of the log, then of the undo log.
    pub segments: Vec<SegmentSummary>,
    pub damage: Vec<Damage>,
    pub blocks: HashMap<BlockId, Arc<Block>>,
    /// The canonical chain from height 1.
    pub canonical: Vec<BlockId>,
    /// In the log's order.
    pub batches: Vec<BatchMeta>,
    /// In the log's order.
    pub certificates: Vec<CommitCertificate>,
    /// The block whose state was given by a snapshot, if the chain was.
    pub base: Option<FinalBlock>,
    pub reader: Reader<F>,
}

/// Reads a stopped data directory.
///
/// # Errors
/// A directory of another ledger, or of none; I/O. Damage is no error here.
pub fn inspect<F: Files>(files: &F, genesis: &Genesis) -> Result<Inspection<F>, StorageError> {
    let id = genesis.id();
    identity::require(files, &id)?;
    snapshot::require_finished(files)?;
    let stop = clean_stop::read(files, &id)?;
    let health = Arc::new(Health::default());
    let [chain, undo] = [(); 2].map(|()| Arc::new(Shared::new(health.clone())));
    let reader = Reader { genesis: id, index: Arc::new(RwLock::new(Index::default())), chain, undo };
    let (segments, damage, blocks) = (Vec::new(), Vec::new(), HashMap::new());
    let (canonical, batches, certificates) = (Vec::new(), Vec::new(), Vec::new());
    let mut found = Inspection { segments, damage, blocks, canonical, batches, certificates, base: None, reader };
    for which in Which::ALL {
        let last = stop.map(|stop| if which == Which::Chain { stop.chain } else { stop.undo });
        found.read(files, genesis, which, last)?;
    }
    found.canonical = heaviest_chain(&found.blocks, &found.certificates, genesis);
    Ok(found)
}

impl<F: Files> Inspection<F> {
    /// Brings the genesis state to where the log's batches begin, and says at which height that is. `load` is called
    /// only if that is not genesis.
    ///
    /// # Errors
    /// If the checkpoint does not lead there; I/O.
    pub fn first_state(&self, state: &mut State, load: &mut LoadCheckpoint<'_>) -> Result<u64, NoBaseState> {
        let Some(base) = self.base else { return Ok(0) };
        base::reach(base, &self.blocks, &self.reader, load, state)?;
        Ok(base.height)
    }

    fn read(&mut self, files: &F, genesis: &Genesis, which: Which, last: Option<u32>) -> Result<(), StorageError> {
        let survey = survey(files, which, &genesis.id(), last)?;
        for (place, segment) in survey.segments.iter().enumerate() {
            let mut records = 0;
            let mut note = |number: u32, offset: usize, frame: &Frame<'_>| {
                records += 1;
                self.note(Place { segment: number, offset: offset as u32, bytes: frame.len() as u32 }, frame)
            };
            let mut examined = survey.examine(files, place, &mut note)?;
            self.damage.append(&mut examined.damage);
            self.segments.push(SegmentSummary {
                file: segment.file.clone(),
                bytes: examined.len,
                records,
                sealed: examined.walk.is_some_and(|walk| walk.seal.is_some()),
                torn_at: examined.torn_at,
            });
            if let Some(header) = segment.header {
                let file = files.open(&segment.file).map_err(StorageError::io(&segment.file, "opening"))?;
                let opened = Segment { name: segment.file.clone(), key: header.key(), file };
                let shared = if which == Which::Chain { &self.reader.chain } else { &self.reader.undo };
                shared.add(segment.number, Arc::new(opened));
            }
        }
        Ok(())
    }

    /// Notes one record; false if it does not decode.
    fn note(&mut self, place: Place, frame: &Frame<'_>) -> bool {
        let key = frame.head.key;
        let mut index = self.reader.index.write().expect("nothing panics while it holds the index");
        match frame.head.kind {
            Kind::Batch => {
                let Ok(batch) = Batch::from_bytes(frame.payload) else { return false };
                let (digest, payments) = (BatchDigest(key), batch.payments.len() as u32);
                index.batches.insert(digest, place);
                self.batches.push(BatchMeta { digest, author: batch.author, number: batch.number, payments });
            }
            Kind::Block => {
                let Ok(block) = Block::from_bytes(frame.payload) else { return false };
                index.blocks.insert(BlockId(key), place);
                self.blocks.insert(BlockId(key), Arc::new(block));
            }
            kind @ (Kind::Certificate | Kind::Base) => {
                let Ok(certificate) = CommitCertificate::from_bytes(frame.payload) else { return false };
                if kind == Kind::Base {
                    self.base = base::higher(self.base, certificate.block);
                }
                self.certificates.push(certificate);
            }
            Kind::Finality => return LogEntry::from_bytes(frame.payload).is_ok(),
            Kind::Undo => {
                index.undos.insert(BlockId(key), place);
            }
            Kind::Seal => return false,
        }
        true
    }
}
