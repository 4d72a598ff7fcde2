//! Evidence against validators: kept on disk for whoever asks, the first pieces of each offender, and so many at most.
//!
//! One append-only file. Head: magic 8, version u16, genesis id 32, BLAKE3 of these. A record: length u32, Unix
//! milliseconds u64 of when it was found, the canonical bytes, BLAKE3 of genesis id and all before. A file with anything
//! in it that cannot be read, be it the tail that a crash tore, is set aside under another name, and what can be read is
//! written anew.
//!
//! Only what was verified may be kept. A piece costs a sync of its own: an offender has few of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeni_consensus::evidence::{EVIDENCE_BYTES_MAX, Evidence, EvidenceId, EvidenceKind, Place};
use zeni_ledger::encoding::{Decoder, Encoder};
use zeni_ledger::hash::hash_parts;
use zeni_ledger::{GenesisId, ValidatorIndex};

use crate::error::StorageError;
use crate::files::{File, Files};

/// Pieces of one kind against one validator, at most.
pub const KEPT_PER_OFFENDER_MAX: usize = 16;
/// Bad batches of one validator, at most: each may have 180 KB.
pub const BATCHES_PER_OFFENDER_MAX: usize = 4;
/// Bytes of the whole file, at most.
pub const EVIDENCE_FILE_BYTES_MAX: u64 = 64 << 20;

const NAME: &str = "evidence";
/// Where a file is written that is to take the place of an unreadable one.
const DRAFT: &str = "evidence.new";
const MAGIC: &[u8; 8] = b"ZENIEVI1";
const VERSION: u16 = 1;
const HEAD_BYTES: u64 = 8 + 2 + 32 + 32;
/// Of a record, before the evidence and behind it.
const RECORD_HEAD_BYTES: u64 = 4 + 8;
const HASH_BYTES: u64 = 32;
const DOMAIN: &str = "zeni evidence record v1";

/// One kept piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Counts what this file keeps, from 0.
    pub number: u64,
    pub id: EvidenceId,
    pub kind: EvidenceKind,
    pub offender: ValidatorIndex,
    pub place: Place,
    /// Unix milliseconds.
    pub found_ms: u64,
    /// Length of the canonical bytes.
    pub bytes: u32,
    offset: u64,
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It is on disk.
    Kept(Kept),
    /// This offence is known already.
    Known,
    /// There is enough of this kind against this offender, or in all.
    Enough,
}

/// What could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// Of records that stand between readable ones, or after the last.
    pub bytes: u64,
    /// The file that holds them now.
    pub set_aside: Option<String>,
}

/// The open file. Any thread may keep and read.
#[derive(Debug)]
pub struct EvidenceFile<F: Files> {
    file: F::File,
    genesis: GenesisId,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: Vec<Kept>,
    places: BTreeSet<(ValidatorIndex, Place)>,
    counts: BTreeMap<(ValidatorIndex, EvidenceKind), usize>,
    /// Where the next record begins.
    end: u64,
    /// A write failed: what is on disk behind `end` is unknown.
    failed: Option<String>,
}

impl<F: Files> EvidenceFile<F> {
    /// Opens the file, or makes an empty one.
    ///
    /// # Errors
    /// I/O; a file of another ledger or of a newer version.
    pub fn open(files: &F, genesis: GenesisId) -> Result<(Self, Unreadable), StorageError> {
        let names = files.list().map_err(StorageError::io(NAME, "looking for"))?;
        let has = |name: &str| names.iter().any(|found| found == name);
        if !has(NAME) && has(DRAFT) {
            // A crash after the unreadable file was set aside; the draft was on disk before.
            files.rename(DRAFT, NAME).map_err(StorageError::io(DRAFT, "renaming"))?;
        } else if has(DRAFT) {
            files.remove(DRAFT).map_err(StorageError::io(DRAFT, "removing"))?;
        }
        if !has(NAME) && !has(DRAFT) {
            write(files, NAME, &genesis, &[])?;
        }
        files.sync_directory().map_err(StorageError::io(NAME, "syncing the directory of"))?;
        let (file, inner, bytes) = load(files, &genesis)?;
        if bytes == 0 {
            return Ok((Self { file, genesis, inner: Mutex::new(inner) }, Unreadable::default()));
        }
        let mut good = Vec::with_capacity(inner.kept.len());
        for kept in &inner.kept {
            good.extend(read_record(&file, &genesis, kept.offset, kept.bytes)?);
        }
        drop(file);
        write(files, DRAFT, &genesis, &good)?;
        let aside = (1_u32..).map(|number| format!("{NAME}.damaged-{number}")).find(|name| !has(name));
        let aside = aside.expect("fewer than 2^32 files lie there");
        files.rename(NAME, &aside).map_err(StorageError::io(NAME, "setting aside"))?;
        files.rename(DRAFT, NAME).map_err(StorageError::io(DRAFT, "renaming"))?;
        files.sync_directory().map_err(StorageError::io(NAME, "syncing the directory of"))?;
        let (file, inner, _) = load(files, &genesis)?;
        Ok((Self { file, genesis, inner: Mutex::new(inner) }, Unreadable { bytes, set_aside: Some(aside) }))
    }

    /// Keeps a verified piece, unless this offence is known or there is enough. On disk when it returns.
    ///
    /// # Errors
    /// I/O; [`StorageError::Poisoned`] once one has failed.
    pub fn keep(&self, evidence: &Evidence, found_ms: u64) -> Result<Keeping, StorageError> {
        let mut inner = self.lock();
        if let Some(cause) = &inner.failed {
            return Err(StorageError::Poisoned { cause: cause.clone() });
        }
        let (offender, kind, place) = (evidence.offender(), evidence.kind(), evidence.place());
        if inner.places.contains(&(offender, place)) {
            return Ok(Keeping::Known);
        }
        let bytes = evidence.to_bytes();
        let record = record(&self.genesis, found_ms, &bytes);
        let of_kind = inner.counts.get(&(offender, kind)).copied().unwrap_or(0);
        if of_kind >= kept_max(kind) || inner.end + record.len() as u64 > EVIDENCE_FILE_BYTES_MAX {
            return Ok(Keeping::Enough);
        }
        let written = self.file.write_at(inner.end, &record).map_err(StorageError::io(NAME, "writing"));
        let written = written.and_then(|()| self.file.sync_data().map_err(StorageError::io(NAME, "syncing")));
        if let Err(error) = written {
            inner.failed = Some(error.to_string());
            return Err(error);
        }
        Ok(Keeping::Kept(inner.add(evidence, found_ms, bytes.len())))
    }

    /// Up to `most` pieces, from `number` on, in the order in which they were kept.
    pub fn kept(&self, number: u64, most: usize) -> Vec<Kept> {
        let inner = self.lock();
        let from = inner.kept.partition_point(|kept| kept.number < number);
        inner.kept[from..].iter().take(most).copied().collect()
    }

    /// How many pieces are kept.
    pub fn len(&self) -> usize {
        self.lock().kept.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The piece of this id.
    pub fn find(&self, id: &EvidenceId) -> Option<Kept> {
        self.lock().kept.iter().find(|kept| kept.id == *id).copied()
    }

    /// Reads a kept piece. `None` if it rotted since the file was opened.
    ///
    /// # Errors
    /// I/O.
    pub fn read(&self, kept: &Kept) -> Result<Option<Evidence>, StorageError> {
        Ok(read_record(&self.file, &self.genesis, kept.offset, kept.bytes)?.map(|(_, evidence)| evidence))
    }

    // A panic elsewhere leaves it whole: a piece is added at once.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, evidence: &Evidence, found_ms: u64, bytes: usize) -> Kept {
        let (offender, kind, place) = (evidence.offender(), evidence.kind(), evidence.place());
        let (number, offset) = (self.kept.len() as u64, self.end);
        let kept = Kept { number, id: evidence.id(), kind, offender, place, found_ms, bytes: bytes as u32, offset };
        self.kept.push(kept);
        self.places.insert((offender, place));
        *self.counts.entry((offender, kind)).or_default() += 1;
        self.end += RECORD_HEAD_BYTES + bytes as u64 + HASH_BYTES;
        kept
    }
}

const fn kept_max(kind: EvidenceKind) -> usize {
    match kind {
        EvidenceKind::Batch => BATCHES_PER_OFFENDER_MAX,
        EvidenceKind::Blocks | EvidenceKind::Votes | EvidenceKind::Proposals => KEPT_PER_OFFENDER_MAX,
    }
}

/// Writes a file of these records, and has it on disk. Its name is not yet.
fn write<F: Files>(files: &F, name: &str, genesis: &GenesisId, good: &[(u64, Evidence)]) -> Result<(), StorageError> {
    let mut bytes = head(genesis);
    for (found_ms, evidence) in good {
        bytes.extend(record(genesis, *found_ms, &evidence.to_bytes()));
    }
    let file = files.create(name).map_err(StorageError::io(name, "creating"))?;
    file.write_at(0, &bytes).map_err(StorageError::io(name, "writing"))?;
    file.sync_data().map_err(StorageError::io(name, "syncing"))
}

fn head(genesis: &GenesisId) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.raw(MAGIC).u16(VERSION).raw(&genesis.0);
    let hash = hash_parts(DOMAIN, &[encoder.as_bytes()]);
    encoder.raw(&hash);
    encoder.finish()
}

/// Opens the file and reads it; the last value tells how many bytes of it are unreadable.
fn load<F: Files>(files: &F, genesis: &GenesisId) -> Result<(F::File, Inner, u64), StorageError> {
    let file = files.open(NAME).map_err(StorageError::io(NAME, "opening"))?;
    let length = file.len().map_err(StorageError::io(NAME, "measuring"))?;
    let (inner, unreadable) = match has_head(&file, genesis, length)? {
        true => read(&file, genesis, length)?,
        false => (Inner { end: HEAD_BYTES, ..Inner::default() }, length.max(1)),
    };
    Ok((file, inner, unreadable))
}

/// Whether a readable head stands there, which must be of this ledger and version.
fn has_head(file: &impl File, genesis: &GenesisId, length: u64) -> Result<bool, StorageError> {
    if length < HEAD_BYTES {
        return Ok(false);
    }
    let mut head = [0; HEAD_BYTES as usize];
    file.read_at(0, &mut head).map_err(StorageError::io(NAME, "reading"))?;
    let (said, hash) = head.split_at((HEAD_BYTES - HASH_BYTES) as usize);
    let mut decoder = Decoder::new(said);
    let parts = (|| Ok::<_, zeni_ledger::DecodeError>((decoder.array()?, decoder.u16()?, decoder.array()?)))();
    let (magic, version, found) = parts.expect("the head has this length");
    if magic != *MAGIC || hash_parts(DOMAIN, &[said]) != *hash {
        return Ok(false);
    }
    if version != VERSION {
        return Err(StorageError::UnknownVersion { file: NAME.into(), found: version, known: VERSION });
    }
    let found = GenesisId(found);
    if found == *genesis { Ok(true) } else { Err(StorageError::OtherGenesis { found, expected: *genesis }) }
}

fn record_hash(genesis: &GenesisId, bytes: &[u8]) -> [u8; 32] {
    hash_parts(DOMAIN, &[&genesis.0, bytes])
}

fn record(genesis: &GenesisId, found_ms: u64, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.u32(bytes.len() as u32).u64(found_ms).raw(bytes);
    let hash = record_hash(genesis, encoder.as_bytes());
    encoder.raw(&hash);
    encoder.finish()
}

/// Reads every record; the second value counts the bytes of those that cannot be read.
fn read(file: &impl File, genesis: &GenesisId, length: u64) -> Result<(Inner, u64), StorageError> {
    let (mut inner, mut unreadable) = (Inner { end: HEAD_BYTES, ..Inner::default() }, 0);
    while let Some(bytes) = record_length(file, inner.end, length)? {
        match read_record(file, genesis, inner.end, bytes)? {
            Some((found_ms, evidence)) => {
                inner.add(&evidence, found_ms, bytes as usize);
            }
            None => {
                unreadable += record_end(0, bytes);
                inner.end = record_end(inner.end, bytes);
            }
        }
    }
    unreadable += length.saturating_sub(inner.end);
    Ok((inner, unreadable))
}

const fn record_end(offset: u64, bytes: u32) -> u64 {
    offset + RECORD_HEAD_BYTES + bytes as u64 + HASH_BYTES
}

/// The length of the evidence in the record at `offset`; `None` if no whole record stands there.
fn record_length(file: &impl File, offset: u64, length: u64) -> Result<Option<u32>, StorageError> {
    if record_end(offset, 0) > length {
        return Ok(None);
    }
    let mut bytes = [0; 4];
    file.read_at(offset, &mut bytes).map_err(StorageError::io(NAME, "reading"))?;
    let bytes = u32::from_le_bytes(bytes);
    Ok(Some(bytes).filter(|bytes| *bytes as usize <= EVIDENCE_BYTES_MAX && record_end(offset, *bytes) <= length))
}

fn read_record(
    file: &impl File,
    genesis: &GenesisId,
    offset: u64,
    bytes: u32,
) -> Result<Option<(u64, Evidence)>, StorageError> {
    let mut record = vec![0; (record_end(offset, bytes) - offset) as usize];
    file.read_at(offset, &mut record).map_err(StorageError::io(NAME, "reading"))?;
    let (said, hash) = record.split_at(record.len() - HASH_BYTES as usize);
    if record_hash(genesis, said) != *hash {
        return Ok(None);
    }
    let (head, bytes) = said.split_at(RECORD_HEAD_BYTES as usize);
    let found_ms = Decoder::new(&head[4..]).u64().expect("eight bytes stand behind the length");
    Ok(Evidence::from_bytes(bytes).ok().map(|evidence| (found_ms, evidence)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zeni_ledger::{
        Batch, BlockHeader, BlockId, ReceiptsRoot, SignatureBytes, SignedHeader, StateRoot, TransactionsRoot,
    };

    use super::*;
    use crate::memory::{Fault, MemoryFiles};

    const GENESIS: GenesisId = GenesisId([7; 32]);

    fn blocks(proposer: u16, slot: u64, second: u8) -> Evidence {
        let signed = |parent| SignedHeader {
            header: BlockHeader {
                proposer: ValidatorIndex(proposer),
                rank: 0,
                height: 1,
                slot,
                parent: BlockId([parent; 32]),
                transactions_root: TransactionsRoot([0; 32]),
                state_root: StateRoot([0; 32]),
                receipts_root: ReceiptsRoot([0; 32]),
                receipts: 0,
            },
            digests: 0,
            signature: SignatureBytes([1; 64]),
        };
        Evidence::of_blocks(signed(1), signed(second))
    }

    fn batch(number: u64) -> Evidence {
        let (author, signature) = (ValidatorIndex(1), SignatureBytes([1; 64]));
        Evidence::of_batch(Arc::new(Batch { author, number, payments: Vec::new(), signature }), 0)
    }

    fn open(files: &MemoryFiles) -> (EvidenceFile<MemoryFiles>, Unreadable) {
        EvidenceFile::open(files, GENESIS).unwrap()
    }

    fn offenders(file: &EvidenceFile<MemoryFiles>) -> Vec<u16> {
        file.kept(0, 100).iter().map(|kept| kept.offender.0).collect()
    }

    #[test]
    fn what_is_kept_is_found_again_after_a_crash() {
        let files = MemoryFiles::new();
        let (file, _) = open(&files);
        let Keeping::Kept(kept) = file.keep(&blocks(1, 5, 2), 77).unwrap() else { panic!("the first is kept") };
        assert!(matches!(file.keep(&batch(9), 78), Ok(Keeping::Kept(Kept { number: 1, .. }))));
        assert_eq!(file.read(&kept).unwrap(), Some(blocks(1, 5, 2)));
        files.crash(&mut |_| 0);
        let (file, unreadable) = open(&files);
        assert_eq!((file.len(), unreadable), (2, Unreadable::default()));
        assert_eq!(file.kept(0, 1), [kept]);
        assert_eq!(file.find(&batch(9).id()).map(|kept| (kept.number, kept.found_ms)), Some((1, 78)));
        assert_eq!(file.read(&file.kept(1, 1)[0]).unwrap(), Some(batch(9)));
    }

    #[test]
    fn an_offence_is_kept_once_and_an_offender_has_so_many_at_most() {
        let files = MemoryFiles::new();
        let (file, _) = open(&files);
        let keep = |evidence: &Evidence| file.keep(evidence, 1).unwrap();
        assert!(matches!(keep(&blocks(1, 1, 2)), Keeping::Kept(_)));
        assert_eq!(keep(&blocks(1, 1, 3)), Keeping::Known, "a third block for the slot");
        assert!((2..=KEPT_PER_OFFENDER_MAX as u64).all(|slot| matches!(keep(&blocks(1, slot, 2)), Keeping::Kept(_))));
        assert_eq!(keep(&blocks(1, 99, 2)), Keeping::Enough);
        assert!(matches!(keep(&blocks(2, 99, 2)), Keeping::Kept(_)), "another offender has room of its own");
        assert!((1..=BATCHES_PER_OFFENDER_MAX as u64).all(|number| matches!(keep(&batch(number)), Keeping::Kept(_))));
        assert_eq!(keep(&batch(99)), Keeping::Enough);
        let found = file.len();
        files.crash(&mut |_| 0);
        let (file, _) = open(&files);
        assert_eq!((file.len(), file.keep(&blocks(1, 99, 2), 1).unwrap()), (found, Keeping::Enough));
    }

    #[test]
    fn a_torn_file_is_written_anew_wherever_it_was_torn() {
        let full = {
            let files = MemoryFiles::new();
            let (file, _) = open(&files);
            file.keep(&blocks(1, 1, 2), 1).unwrap();
            file.lock().end
        };
        for left in (0..full).filter(|left| *left != HEAD_BYTES) {
            let files = MemoryFiles::new();
            let (file, _) = open(&files);
            file.keep(&blocks(1, 1, 2), 1).unwrap();
            file.file.truncate(left).unwrap();
            let (file, unreadable) = open(&files);
            assert_eq!((file.len(), unreadable.set_aside.as_deref()), (0, Some("evidence.damaged-1")), "{left} bytes");
            file.keep(&blocks(3, 1, 2), 1).unwrap();
            let (file, unreadable) = open(&files);
            assert_eq!((offenders(&file), unreadable), (vec![3], Unreadable::default()));
        }
    }

    #[test]
    fn a_rotten_record_is_set_aside_and_all_others_stay() {
        let files = MemoryFiles::new();
        let (file, _) = open(&files);
        (1..=3).for_each(|offender| assert!(matches!(file.keep(&blocks(offender, 1, 2), 1), Ok(Keeping::Kept(_)))));
        let second = file.kept(1, 1)[0];
        files.flip(NAME, second.offset + 60, 1);
        assert_eq!(file.read(&second).unwrap(), None);
        let (file, unreadable) = open(&files);
        assert_eq!((offenders(&file), unreadable.bytes), (vec![1, 3], record_end(0, second.bytes)));
        file.keep(&blocks(4, 1, 2), 1).unwrap();
        let (file, unreadable) = open(&files);
        assert_eq!((offenders(&file), unreadable), (vec![1, 3, 4], Unreadable::default()));
    }

    #[test]
    fn a_power_cut_at_any_change_while_a_file_is_mended_loses_nothing_that_was_readable() {
        for after in 0..12 {
            let files = MemoryFiles::new();
            let (file, _) = open(&files);
            (1..=3).for_each(|offender| assert!(matches!(file.keep(&blocks(offender, 1, 2), 1), Ok(Keeping::Kept(_)))));
            files.flip(NAME, file.kept(1, 1)[0].offset + 60, 1);
            files.inject(Fault::PowerCut { after });
            drop(EvidenceFile::open(&files, GENESIS));
            files.crash(&mut |choices| choices - 1);
            assert_eq!(offenders(&open(&files).0), [1, 3], "{after} changes");
        }
    }

    #[test]
    fn nothing_is_kept_any_more_once_a_write_or_a_sync_failed() {
        for fault in [Fault::Write { after: 0 }, Fault::Sync { after: 0 }] {
            let files = MemoryFiles::new();
            let (file, _) = open(&files);
            files.inject(fault);
            assert!(matches!(file.keep(&blocks(1, 1, 2), 1), Err(StorageError::Io { .. })));
            assert!(matches!(file.keep(&blocks(2, 1, 2), 1), Err(StorageError::Poisoned { .. })));
            assert_eq!(file.len(), 0);
        }
    }

    #[test]
    fn a_file_of_another_ledger_or_version_is_refused() {
        let files = MemoryFiles::new();
        open(&files);
        let other = EvidenceFile::open(&files, GenesisId([8; 32]));
        assert!(matches!(other, Err(StorageError::OtherGenesis { .. })));
        let mut newer = Encoder::default();
        newer.raw(MAGIC).u16(2).raw(&GENESIS.0);
        let hash = hash_parts(DOMAIN, &[newer.as_bytes()]);
        newer.raw(&hash);
        files.open(NAME).unwrap().write_at(0, newer.as_bytes()).unwrap();
        assert!(matches!(EvidenceFile::open(&files, GENESIS), Err(StorageError::UnknownVersion { .. })));
    }
}
