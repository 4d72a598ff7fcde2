//! A snapshot of a checkpoint, in a file of its own: pages are read from there while the checkpoint goes on.

use zeni_consensus::snapshot::{Manifest, PAGES_MAX, PageName, PageWriter, Part, page_hash};
use zeni_consensus::{Archive, ArchiveError};
use zeni_ledger::{BlockId, CommitCertificate, Genesis};

use super::remove;
use crate::checkpoint::Checkpoint;
use crate::error::StorageError;
use crate::files::{File, Files};
use crate::overlay::Overlay;
use crate::reader::Reader;

const NAME: &str = "snapshot.pages";

/// Pages of a snapshot and its manifest. The file can be made again, so it is never synced, and a start removes it.
#[derive(Debug)]
pub struct Export<F: Files> {
    file: F::File,
    manifest: Manifest,
    /// Where each page stands, blocks first.
    places: Vec<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    bytes: usize,
}

/// Writes pages one after the other.
struct Draft<'a, F: Files> {
    file: F::File,
    end: u64,
    places: Vec<Place>,
    hashes: Vec<[u8; 32]>,
    pace: &'a mut dyn FnMut(usize) -> bool,
}

impl<F: Files> Draft<'_, F> {
    fn put(&mut self, page: Option<Vec<u8>>) -> Result<(), StorageError> {
        let Some(page) = page else { return Ok(()) };
        if self.places.len() == PAGES_MAX {
            tracing::error!(limit = PAGES_MAX, "the state has more pages than a snapshot may have");
            return Err(StorageError::SnapshotStopped);
        }
        if !(self.pace)(page.len()) {
            return Err(StorageError::SnapshotStopped);
        }
        self.file.write_at(self.end, &page).map_err(StorageError::io(NAME, "writing"))?;
        self.places.push(Place { offset: self.end, bytes: page.len() });
        self.hashes.push(page_hash(&page));
        self.end += page.len() as u64;
        Ok(())
    }
}

impl<F: Files> Export<F> {
    /// Makes a snapshot of the checkpoint, in place of an earlier one (which may still be read). `None` if there is
    /// nothing to give: the checkpoint stands below `height_min`, or at no block that a certificate of this log names.
    ///
    /// `pace` is told the bytes of each page before it is written; it may take its time, and says whether to go on.
    ///
    /// # Errors
    /// [`StorageError::SnapshotStopped`] if `pace` says so or the state is too large; a damaged checkpoint or log; I/O.
    pub fn make<O: Overlay>(
        files: &F,
        checkpoint: &Checkpoint<F, O>,
        reader: &Reader<F>,
        genesis: &Genesis,
        height_min: u64,
        pace: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Self>, StorageError> {
        let Some((block, height)) = checkpoint.settled_head()?.filter(|(_, height)| *height >= height_min.max(1))
        else {
            return Ok(None);
        };
        let Some(certificate) = reader.certificate(&block).map_err(unreadable)? else {
            tracing::warn!(%block, height, "no snapshot: the log holds no certificate of the checkpoint's block");
            return Ok(None);
        };
        Self::discard(files)?;
        let file = files.create(NAME).map_err(StorageError::io(NAME, "creating"))?;
        let draft = Draft { file, end: 0, places: Vec::new(), hashes: Vec::new(), pace };
        let made = Self::fill(draft, checkpoint.overlay(), reader, genesis, certificate);
        if made.is_err() {
            Self::discard(files)?;
        }
        made.map(Some)
    }

    fn fill(
        mut draft: Draft<'_, F>,
        overlay: &impl Overlay,
        reader: &Reader<F>,
        genesis: &Genesis,
        certificate: CommitCertificate,
    ) -> Result<Self, StorageError> {
        let mut pages = PageWriter::default();
        for id in chain(reader, certificate.block.id, genesis.block_id())? {
            let block = reader.block(&id).map_err(unreadable)?.ok_or_else(|| lost(&id))?;
            draft.put(pages.block(&block))?;
        }
        draft.put(pages.finish())?;
        let blocks = std::mem::take(&mut draft.hashes);
        let mut pages = PageWriter::default();
        overlay.each(&mut |id, content| draft.put(pages.account(&id, content)))?;
        draft.put(pages.finish())?;
        let manifest = Manifest { certificate, blocks, accounts: draft.hashes };
        Ok(Self { file: draft.file, manifest, places: draft.places })
    }

    /// Removes the file of an earlier process or export.
    pub fn discard(files: &F) -> Result<(), StorageError> {
        remove(files, NAME)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> u64 {
        self.places.last().map_or(0, |last| last.offset + last.bytes as u64)
    }

    /// Reads a page; `None` if there is no such page.
    ///
    /// # Errors
    /// I/O; bytes that do not have their hash any more.
    pub fn page(&self, name: PageName) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(hash) = self.manifest.hash(name) else { return Ok(None) };
        let before = if name.part == Part::Accounts { self.manifest.blocks.len() } else { 0 };
        let place = self.places[before + name.number as usize];
        let mut page = vec![0; place.bytes];
        self.file.read_at(place.offset, &mut page).map_err(StorageError::io(NAME, "reading"))?;
        match page_hash(&page) == *hash {
            true => Ok(Some(page)),
            false => Err(StorageError::io(NAME, "reading")(std::io::Error::other("a page does not have its hash"))),
        }
    }
}

/// The blocks from height 1 up to `head`.
fn chain<F: Files>(reader: &Reader<F>, head: BlockId, genesis: BlockId) -> Result<Vec<BlockId>, StorageError> {
    let (mut ids, mut current) = (Vec::new(), head);
    while current != genesis {
        ids.push(current);
        current = reader.block(&current).map_err(unreadable)?.ok_or_else(|| lost(&current))?.header.parent;
    }
    ids.reverse();
    Ok(ids)
}

fn unreadable(error: ArchiveError) -> StorageError {
    StorageError::io("the log", "reading")(std::io::Error::other(error))
}

fn lost(block: &BlockId) -> StorageError {
    StorageError::io("the log", "reading")(std::io::Error::other(format!("block {block} is not there")))
}
