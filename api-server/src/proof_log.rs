//! What proofs need and the log does not hold: how each executed block's payments ended, and every decision's
//! certificate by height.
//!
//! One append-only file. It begins with the magic `ZENIPRL1` and the genesis id; of each record: kind u8, block 32,
//! height u64, length u32, then a hash of all that and the payload 32, then the payload. Every record is written again by
//! whoever executes the block anew, or stands in the chain's log; so a torn tail is cut off and nothing is asked for. What
//! lies below a checkpoint is not executed again, so the keeper syncs this file before it writes one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use zeni_consensus::Applied;
use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};
use zeni_ledger::hash::hash_parts;
use zeni_ledger::{BlockId, CommitCertificate, GenesisId};

use crate::block_receipts::{BLOCK_RECEIPTS_BYTES_MAX, BlockReceipts};

const MAGIC: &[u8; 8] = b"ZENIPRL1";
const DOMAIN: &str = "zeni proof log v1";
const FILE_HEAD_BYTES: usize = 8 + 32;
const RECORD_HEAD_BYTES: usize = 1 + 32 + 8 + 4;
const HASH_BYTES: usize = 32;
const RECEIPTS: u8 = 1;
const CERTIFICATE: u8 = 2;
/// Bytes of the largest payload. (The largest certificate is smaller.)
const PAYLOAD_BYTES_MAX: usize = BLOCK_RECEIPTS_BYTES_MAX;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProofLogError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path} is not the proof log of this ledger; move it away and it is built again")]
    Foreign { path: PathBuf },
    #[error("{path}: the record at {offset} is damaged; move the file away and it is built again")]
    Damaged { path: PathBuf, offset: u64 },
}

/// The open file. Any number read; the follower's thread writes.
#[derive(Debug)]
pub struct ProofLog {
    path: PathBuf,
    file: File,
    contents: RwLock<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    /// Where the next record goes.
    end: u64,
    receipts: HashMap<BlockId, Place>,
    /// By the height of the certified block.
    certificates: BTreeMap<u64, Place>,
}

/// A record's payload in the file.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Where the record begins.
    offset: u64,
    /// Bytes of the payload.
    length: u32,
}

impl ProofLog {
    /// Opens the file, or begins it, and reads every record once. What stands behind the last whole record is cut off.
    ///
    /// # Errors
    /// I/O; a file of another ledger.
    pub fn open(path: &Path, genesis: &GenesisId) -> Result<Self, ProofLogError> {
        let io = |error| ProofLogError::Io { path: path.into(), error };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let head = [&MAGIC[..], &genesis.0].concat();
        let length = file.metadata().map_err(io)?.len();
        let mut contents = Contents { end: FILE_HEAD_BYTES as u64, ..Contents::default() };
        if length < FILE_HEAD_BYTES as u64 {
            file.set_len(0).and_then(|()| file.write_all_at(&head, 0)).map_err(io)?;
        } else {
            let mut reader = BufReader::with_capacity(1 << 20, &file);
            let mut found = vec![0; FILE_HEAD_BYTES];
            reader.read_exact(&mut found).map_err(io)?;
            if found != head {
                return Err(ProofLogError::Foreign { path: path.into() });
            }
            while let Some((kind, block, height, place)) = next_record(&mut reader, contents.end).map_err(io)? {
                contents.take(kind, block, height, place);
            }
            if contents.end < length {
                tracing::warn!(path = %path.display(), bytes = length - contents.end, "torn tail of the proof log cut off");
                file.set_len(contents.end).map_err(io)?;
            }
        }
        Ok(Self { path: path.into(), file, contents: RwLock::new(contents) })
    }

    /// Keeps how the payments of an executed block ended, unless that is kept already.
    pub fn keep_receipts(&self, applied: &Applied) -> Result<(), ProofLogError> {
        if self.has_receipts(&applied.id) {
            return Ok(());
        }
        let payload = BlockReceipts::of(applied).to_bytes();
        self.append(RECEIPTS, applied.id, applied.block.header.height, &payload)
    }

    /// Keeps a decision's certificate, unless one for this height is kept already.
    pub fn keep_certificate(&self, certificate: &CommitCertificate) -> Result<(), ProofLogError> {
        let block = certificate.block;
        if self.read().certificates.contains_key(&block.height) {
            return Ok(());
        }
        self.append(CERTIFICATE, block.id, block.height, &certificate.to_bytes())
    }

    /// Whether the block's receipts are kept. Blocks are kept in the order of execution, so those below it are too.
    pub fn has_receipts(&self, block: &BlockId) -> bool {
        self.read().receipts.contains_key(block)
    }

    /// How the payments of a block ended; `None` if it was never executed here.
    pub fn receipts(&self, block: &BlockId) -> Result<Option<BlockReceipts>, ProofLogError> {
        let Some(place) = self.read().receipts.get(block).copied() else { return Ok(None) };
        let payload = self.payload(place)?;
        BlockReceipts::from_bytes(&payload).map(Some).map_err(|_| self.damaged(place))
    }

    /// The certificate of the lowest certified block from height `from` to `to`.
    pub fn certificate(&self, from: u64, to: u64) -> Result<Option<CommitCertificate>, ProofLogError> {
        if from > to {
            return Ok(None);
        }
        let Some(place) = self.read().certificates.range(from..=to).next().map(|(_, place)| *place) else {
            return Ok(None);
        };
        let payload = self.payload(place)?;
        CommitCertificate::from_bytes(&payload).map(Some).map_err(|_| self.damaged(place))
    }

    /// Has everything on disk.
    pub fn sync(&self) -> Result<(), ProofLogError> {
        self.file.sync_data().map_err(|error| self.io(error))
    }

    fn append(&self, kind: u8, block: BlockId, height: u64, payload: &[u8]) -> Result<(), ProofLogError> {
        let mut encoder = Encoder::with_capacity(RECORD_HEAD_BYTES + HASH_BYTES + payload.len());
        let length = u32::try_from(payload.len()).expect("payloads are bounded");
        encoder.u8(kind).raw(&block.0).u64(height).u32(length);
        let hash = hash_parts(DOMAIN, &[encoder.as_bytes(), payload]);
        encoder.raw(&hash).raw(payload);
        // One writer: the end moves only here, and only behind a whole record.
        let offset = self.read().end;
        self.file.write_all_at(encoder.as_bytes(), offset).map_err(|error| self.io(error))?;
        self.write().take(kind, block, height, Place { offset, length });
        Ok(())
    }

    fn payload(&self, place: Place) -> Result<Vec<u8>, ProofLogError> {
        let mut bytes = vec![0; RECORD_HEAD_BYTES + HASH_BYTES + place.length as usize];
        self.file.read_exact_at(&mut bytes, place.offset).map_err(|error| self.io(error))?;
        let (head, rest) = bytes.split_at(RECORD_HEAD_BYTES);
        let (hash, payload) = rest.split_at(HASH_BYTES);
        if hash_parts(DOMAIN, &[head, payload])[..] != *hash {
            return Err(self.damaged(place));
        }
        Ok(bytes.split_off(RECORD_HEAD_BYTES + HASH_BYTES))
    }

    fn io(&self, error: io::Error) -> ProofLogError {
        ProofLogError::Io { path: self.path.clone(), error }
    }

    fn damaged(&self, place: Place) -> ProofLogError {
        ProofLogError::Damaged { path: self.path.clone(), offset: place.offset }
    }

    // A panic elsewhere leaves the contents whole: each change is one insertion behind a whole record.
    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn take(&mut self, kind: u8, block: BlockId, height: u64, place: Place) {
        match kind {
            RECEIPTS => drop(self.receipts.insert(block, place)),
            _ => drop(self.certificates.insert(height, place)),
        }
        self.end = place.offset + (RECORD_HEAD_BYTES + HASH_BYTES) as u64 + u64::from(place.length);
    }
}

/// The record at `offset`, where the reader stands; `None` if there is no whole one.
fn next_record(reader: &mut impl Read, offset: u64) -> io::Result<Option<(u8, BlockId, u64, Place)>> {
    let mut head = [0; RECORD_HEAD_BYTES + HASH_BYTES];
    if !fill(reader, &mut head)? {
        return Ok(None);
    }
    let (head, hash) = head.split_at(RECORD_HEAD_BYTES);
    let mut decoder = Decoder::new(head);
    let fields = (|| Ok::<_, DecodeError>((decoder.u8()?, decoder.array()?, decoder.u64()?, decoder.u32()?)))();
    let Ok((kind @ (RECEIPTS | CERTIFICATE), block, height, length)) = fields else { return Ok(None) };
    if length as usize > PAYLOAD_BYTES_MAX {
        return Ok(None);
    }
    let mut payload = vec![0; length as usize];
    if !fill(reader, &mut payload)? || hash_parts(DOMAIN, &[head, &payload])[..] != *hash {
        return Ok(None);
    }
    Ok(Some((kind, BlockId(block), height, Place { offset, length })))
}

/// Whether the reader had so many bytes.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use zeni_ledger::finality::FinalBlock;

    use super::*;

    const GENESIS: GenesisId = GenesisId([5; 32]);

    fn certificate(decision: u64, height: u64) -> CommitCertificate {
        let block = FinalBlock { id: BlockId([height as u8; 32]), height };
        CommitCertificate { decision, round: 0, block, signatures: Vec::new() }
    }

    fn open(path: &Path) -> ProofLog {
        ProofLog::open(path, &GENESIS).unwrap()
    }

    #[test]
    fn gives_the_nearest_certificate_at_or_above_and_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proofs.log");
        let log = open(&path);
        for (decision, height) in [(1, 3), (2, 4), (3, 9)] {
            log.keep_certificate(&certificate(decision, height)).unwrap();
        }
        drop(log);
        let log = open(&path);
        let nearest = |from, to| log.certificate(from, to).unwrap().map(|found| found.decision);
        assert_eq!([nearest(1, 9), nearest(3, 9), nearest(4, 9), nearest(5, 9)], [Some(1), Some(1), Some(2), Some(3)]);
        assert_eq!([nearest(5, 8), nearest(10, 20), nearest(9, 5)], [None, None, None]);
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_what_stands_before_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proofs.log");
        open(&path).keep_certificate(&certificate(1, 3)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        open(&path).keep_certificate(&certificate(2, 4)).unwrap();
        let longer = std::fs::read(&path).unwrap();
        for length in whole.len()..longer.len() {
            std::fs::write(&path, &longer[..length]).unwrap();
            let log = open(&path);
            assert_eq!(log.certificate(4, 4).unwrap(), None);
            assert_eq!(log.certificate(3, 3).unwrap(), Some(certificate(1, 3)));
            log.keep_certificate(&certificate(2, 4)).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), longer);
        }
        let mut damaged = longer;
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(open(&path).certificate(4, 4).unwrap(), None);
    }

    #[test]
    fn a_file_of_another_ledger_is_refused_and_rot_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proofs.log");
        let log = open(&path);
        log.keep_certificate(&certificate(1, 3)).unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        log.file.write_all_at(&[0xff], length - 1).unwrap();
        assert!(matches!(log.certificate(3, 3), Err(ProofLogError::Damaged { offset: 40, .. })));
        let foreign = ProofLog::open(&path, &GenesisId([6; 32]));
        assert!(matches!(foreign, Err(ProofLogError::Foreign { .. })));
    }
}
