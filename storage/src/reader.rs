//! Reading what was appended, from any thread, synced or not.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use zeni_consensus::{Archive, ArchiveError};
use zeni_ledger::encoding::Decoder;
use zeni_ledger::{Batch, BatchDigest, Block, BlockId, CommitCertificate, GenesisId, Undo, VerifiedBatch};

use crate::files::Files;
use crate::frame;
use crate::stream::{Place, Shared};

/// Where each record stands. Some 60 bytes for each; nothing iterates over it.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) batches: HashMap<BatchDigest, Place>,
    pub(crate) blocks: HashMap<BlockId, Place>,
    pub(crate) undos: HashMap<BlockId, Place>,
    /// By the block that they make final.
    pub(crate) certificates: HashMap<BlockId, Place>,
}

/// Read access to everything appended. Cheap to clone.
#[derive(Debug)]
pub struct Reader<F: Files> {
    pub(crate) genesis: GenesisId,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) chain: Arc<Shared<F>>,
    pub(crate) undo: Arc<Shared<F>>,
}

impl<F: Files> Clone for Reader<F> {
    fn clone(&self) -> Self {
        let (index, chain, undo) = (self.index.clone(), self.chain.clone(), self.undo.clone());
        Self { genesis: self.genesis, index, chain, undo }
    }
}

impl<F: Files> Reader<F> {
    /// The canonical bytes of a stored batch, as they are served to peers.
    pub fn raw_batch(&self, digest: &BatchDigest) -> Result<Option<Vec<u8>>, ArchiveError> {
        let place = self.index().batches.get(digest).copied();
        place.map(|place| payload(&self.chain, place)).transpose()
    }

    /// Whether the log holds this batch.
    pub fn has_batch(&self, digest: &BatchDigest) -> bool {
        self.index().batches.contains_key(digest)
    }

    /// Whether the log holds this block.
    pub fn has_block(&self, id: &BlockId) -> bool {
        self.index().blocks.contains_key(id)
    }

    /// Whether the undo log holds this block's record.
    pub fn has_undo(&self, id: &BlockId) -> bool {
        self.index().undos.contains_key(id)
    }

    /// The certificate of the decision that named this block, if there was one.
    pub fn certificate(&self, block: &BlockId) -> Result<Option<CommitCertificate>, ArchiveError> {
        let Some(place) = self.index().certificates.get(block).copied() else { return Ok(None) };
        let bytes = payload(&self.chain, place)?;
        let certificate = CommitCertificate::from_bytes(&bytes);
        certificate.map(Some).map_err(|error| undecodable(&self.chain, place, &error))
    }

    fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().expect("nothing panics while it holds the index")
    }
}

impl<F: Files> Archive for Reader<F> {
    fn batch(&self, digest: &BatchDigest) -> Result<Option<VerifiedBatch>, ArchiveError> {
        let Some(place) = self.index().batches.get(digest).copied() else { return Ok(None) };
        let bytes = payload(&self.chain, place)?;
        let batch = Batch::from_bytes(&bytes).map_err(|error| undecodable(&self.chain, place, &error))?;
        // Only verified batches are stored, and the frame's hash says that this is what was stored.
        Ok(Some(VerifiedBatch::vouch(batch, &self.genesis)))
    }

    fn block(&self, id: &BlockId) -> Result<Option<Arc<Block>>, ArchiveError> {
        let Some(place) = self.index().blocks.get(id).copied() else { return Ok(None) };
        let bytes = payload(&self.chain, place)?;
        let block = Block::from_bytes(&bytes).map_err(|error| undecodable(&self.chain, place, &error))?;
        Ok(Some(Arc::new(block)))
    }

    fn undo(&self, block: &BlockId) -> Result<Option<Arc<Undo>>, ArchiveError> {
        let Some(place) = self.index().undos.get(block).copied() else { return Ok(None) };
        let bytes = payload(&self.undo, place)?;
        let undo = decode_undo(&bytes).map_err(|error| undecodable(&self.undo, place, &error))?;
        Ok(Some(Arc::new(undo.1)))
    }
}

/// An undo record's payload: height u64, then the canonical bytes.
pub(crate) fn decode_undo(bytes: &[u8]) -> Result<(u64, Undo), zeni_ledger::DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let height = decoder.u64()?;
    Ok((height, Undo::from_bytes(decoder.raw(decoder.remaining())?)?))
}

/// Reads the payload at `place` and checks its hash: disks rot while nodes run, too.
fn payload<F: Files>(shared: &Shared<F>, place: Place) -> Result<Vec<u8>, ArchiveError> {
    let (segment, mut bytes) = shared.read(place).map_err(|error| ArchiveError::Io(error.to_string()))?;
    if frame::read(&segment.key, &bytes).is_none_or(|frame| frame.len() != bytes.len()) {
        let location = location(&segment.name, place);
        return Err(ArchiveError::Damaged { location, what: "the record's bytes do not have its hash".into() });
    }
    bytes.drain(..frame::FRAME_BYTES);
    Ok(bytes)
}

fn undecodable<F: Files>(shared: &Shared<F>, place: Place, error: &zeni_ledger::DecodeError) -> ArchiveError {
    let name = shared.segment(place.segment).map_or_else(String::new, |segment| segment.name.clone());
    ArchiveError::Damaged { location: location(&name, place), what: error.to_string() }
}

fn location(file: &str, place: Place) -> String {
    format!("{file}:{}", place.offset)
}
