//! A stream of segments: `chain-*.log` is the truth, `undo-*.log` can be rebuilt from it. One writer appends; readers
//! read by place.
//!
//! **Roll-over.** Before a segment is created, the one before is sealed and synced, on the writer's thread. That
//! costs two or three syncs for each segment and buys two rules: only the last segment can have a torn tail, and a
//! syncer need only look at the last one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use zeni_ledger::GenesisId;

use crate::error::StorageError;
use crate::files::{File, Files};
use crate::frame::{self, FRAME_BYTES, Kind};
use crate::segment::{FRAMES_AT, Header, Seal};

/// Bytes after which a segment is sealed and the next one begun, unless [`Limits`] say otherwise.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// The greatest such number: places are kept in 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How storage is dimensioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A segment that would grow beyond this is sealed first. Clamped to [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES }
    }
}

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Chain = 1,
    Undo = 2,
}

impl Which {
    pub(crate) const ALL: [Self; 2] = [Self::Chain, Self::Undo];

    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Undo => "undo",
        }
    }

    /// The file of a segment; `ending` is `log`, `new`, `torn-1`, `damaged-1` and so on.
    pub(crate) fn file(self, number: u64, ending: &str) -> String {
        format!("{}-{number:08}.{ending}", self.prefix())
    }

    /// The segment's number, if `name` is one of this stream's files with this ending.
    pub(crate) fn number(self, name: &str, ending: &str) -> Option<u64> {
        let number = name.strip_prefix(self.prefix())?.strip_prefix('-')?.strip_suffix(ending)?.strip_suffix('.')?;
        let parsed = number.parse().ok()?;
        (self.file(parsed, ending) == name).then_some(parsed)
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// Bytes of the whole frame.
    pub(crate) bytes: u32,
}

/// A segment open for reading (and, the last one, for appending).
#[derive(Debug)]
pub(crate) struct Segment<F: Files> {
    pub(crate) name: String,
    pub(crate) key: [u8; 32],
    pub(crate) file: F::File,
}

/// Whether a write or sync failed in a way after which nobody knows what is on disk.
#[derive(Debug, Default)]
pub(crate) struct Health {
    cause: Mutex<Option<String>>,
}

impl Health {
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        match &*self.cause.lock().expect("nothing panics while it holds the cause") {
            Some(cause) => Err(StorageError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn poison(&self, error: &StorageError) {
        let mut cause = self.cause.lock().expect("nothing panics while it holds the cause");
        cause.get_or_insert_with(|| error.to_string());
    }
}

/// What writer, syncers and readers of a stream share.
#[derive(Debug)]
pub(crate) struct Shared<F: Files> {
    pub(crate) segments: RwLock<BTreeMap<u32, Arc<Segment<F>>>>,
    /// The segment that is appended to.
    last: Mutex<Option<Arc<Segment<F>>>>,
    /// Something was appended to it since the last sync began.
    unsynced: AtomicBool,
    /// Held during a sync, so that a second syncer waits for what the first has begun.
    syncing: Mutex<()>,
    pub(crate) syncs: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) health: Arc<Health>,
}

impl<F: Files> Shared<F> {
    pub(crate) fn new(health: Arc<Health>) -> Self {
        Self {
            segments: RwLock::default(),
            last: Mutex::default(),
            unsynced: AtomicBool::new(false),
            syncing: Mutex::default(),
            syncs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            health,
        }
    }

    pub(crate) fn add(&self, number: u32, segment: Arc<Segment<F>>) {
        self.segments.write().expect("nothing panics while it holds the segments").insert(number, segment);
    }

    pub(crate) fn segment(&self, number: u32) -> Option<Arc<Segment<F>>> {
        self.segments.read().expect("nothing panics while it holds the segments").get(&number).cloned()
    }

    fn set_last(&self, segment: Option<Arc<Segment<F>>>) {
        *self.last.lock().expect("nothing panics while it holds the last segment") = segment;
    }

    /// Makes durable everything that was appended before the call.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        let _turn = self.syncing.lock().expect("nothing panics while it syncs");
        self.health.check()?;
        // The mark is cleared first: what is appended from here on sets it again, whichever segment it goes to, and
        // what was appended before is in the last segment or was synced when its segment was sealed.
        if !self.unsynced.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let last = self.last.lock().expect("nothing panics while it holds the last segment").clone();
        match last {
            Some(segment) => self.sync_segment(&segment),
            None => Ok(()),
        }
    }

    fn sync_segment(&self, segment: &Segment<F>) -> Result<(), StorageError> {
        let synced = segment.file.sync_data().map_err(StorageError::io(&segment.name, "syncing"));
        self.syncs.fetch_add(1, Ordering::Relaxed);
        // After a failed sync the kernel may have dropped the pages, and a second one would falsely succeed.
        synced.inspect_err(|error| self.health.poison(error))
    }

    /// Reads the whole frame at `place`.
    pub(crate) fn read(&self, place: Place) -> Result<(Arc<Segment<F>>, Vec<u8>), std::io::Error> {
        let segment = self.segment(place.segment).ok_or(std::io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; place.bytes as usize];
        segment.file.read_at(place.offset.into(), &mut bytes)?;
        Ok((segment, bytes))
    }
}

/// The writing end of a stream.
#[derive(Debug)]
pub(crate) struct Stream<F: Files> {
    pub(crate) files: F,
    pub(crate) which: Which,
    pub(crate) genesis: GenesisId,
    pub(crate) segment_bytes: u64,
    pub(crate) shared: Arc<Shared<F>>,
    /// The unsealed last segment.
    pub(crate) active: Option<Active<F>>,
    /// Number of the last segment; 0 if there is none.
    pub(crate) last_number: u32,
    /// The hash that the next segment's header will name.
    pub(crate) link: [u8; 32],
}

/// The segment that is appended to.
#[derive(Debug)]
pub(crate) struct Active<F: Files> {
    pub(crate) segment: Arc<Segment<F>>,
    pub(crate) end: u64,
    pub(crate) records: u64,
    pub(crate) chain: [u8; 32],
}

impl<F: Files> Stream<F> {
    pub(crate) fn new(files: F, which: Which, genesis: GenesisId, limits: Limits, health: Arc<Health>) -> Self {
        let segment_bytes = limits.segment_bytes.min(SEGMENT_BYTES_MAX);
        let shared = Arc::new(Shared::new(health));
        Self { files, which, genesis, segment_bytes, shared, active: None, last_number: 0, link: [0; 32] }
    }

    /// Takes up a segment that is unsealed and whole as the one to append to.
    pub(crate) fn resume(&mut self, active: Active<F>) {
        self.shared.set_last(Some(active.segment.clone()));
        // What is in it may be in the page cache only, if the process was killed and the machine was not.
        self.shared.unsynced.store(true, Ordering::Release);
        self.active = Some(active);
    }

    /// Appends a record. It is in the page cache when this returns, and durable after the next sync.
    ///
    /// # Errors
    /// I/O, full disk: nothing was appended then, and a later try may succeed.
    pub(crate) fn append(&mut self, kind: Kind, key: &[u8; 32], payload: &[u8]) -> Result<Place, StorageError> {
        self.shared.health.check()?;
        if payload.len() > kind.payload_max() {
            let (found, limit) = (payload.len() as u64, kind.payload_max() as u64);
            return Err(StorageError::TooLarge { found, limit });
        }
        let bytes = (FRAME_BYTES + payload.len()) as u64;
        let full = |active: &Active<F>| active.records > 0 && active.end + bytes > self.segment_bytes;
        if self.active.as_ref().is_some_and(full) {
            self.seal()?;
        }
        if self.active.is_none() {
            self.begin()?;
        }
        let offset = self.write(kind, key, payload)?;
        Ok(Place { segment: self.last_number, offset: offset as u32, bytes: bytes as u32 })
    }

    /// Seals the last segment, if it is not, and syncs it.
    pub(crate) fn seal(&mut self) -> Result<(), StorageError> {
        let Some(active) = &self.active else { return Ok(()) };
        let seal = Seal { records: active.records, next: active.chain };
        self.write(Kind::Seal, &[0; 32], &seal.to_bytes())?;
        let active = self.active.take().expect("it was just written to");
        self.link = seal.next;
        self.shared.sync_segment(&active.segment)?;
        self.shared.set_last(None);
        Ok(())
    }

    /// Creates the next segment. Its header is durable before its name is.
    fn begin(&mut self) -> Result<(), StorageError> {
        let number = self.last_number + 1;
        let header = self.next_header(number, self.link)?;
        let name = self.which.file(number.into(), "log");
        let draft = self.which.file(number.into(), "new");
        let file = write_draft(&self.files, &draft, &header.to_bytes())?;
        self.files.rename(&draft, &name).map_err(StorageError::io(&draft, "renaming"))?;
        self.files.sync_directory().map_err(StorageError::io(&name, "syncing the directory of"))?;
        self.shared.syncs.fetch_add(2, Ordering::Relaxed);
        self.shared.bytes.fetch_add(FRAMES_AT as u64, Ordering::Relaxed);
        let segment = Arc::new(Segment { name, key: header.key(), file });
        self.shared.add(number, segment.clone());
        self.shared.set_last(Some(segment.clone()));
        self.active = Some(Active { segment, end: FRAMES_AT as u64, records: 0, chain: header.hash() });
        self.last_number = number;
        Ok(())
    }

    pub(crate) fn next_header(&self, number: u32, previous: [u8; 32]) -> Result<Header, StorageError> {
        let salt = self.files.random().map_err(StorageError::io("random bytes", "reading"))?;
        let (stream, genesis) = (self.which as u8, self.genesis);
        Ok(Header { stream, number: number.into(), genesis, previous, salt })
    }

    /// Writes a frame at the end of the active segment and returns its offset.
    fn write(&mut self, kind: Kind, key: &[u8; 32], payload: &[u8]) -> Result<u64, StorageError> {
        let active = self.active.as_mut().expect("callers begin a segment first");
        let (bytes, hash) = frame::encode(&active.segment.key, &active.chain, kind, key, payload);
        let offset = active.end;
        if let Err(source) = active.segment.file.write_at(offset, &bytes) {
            let error = StorageError::Io { file: active.segment.name.clone(), doing: "appending to", source };
            // What was written of it is taken back, so that the next record follows the last whole one.
            if let Err(source) = active.segment.file.truncate(offset) {
                let file = active.segment.name.clone();
                self.shared.health.poison(&StorageError::Io { file, doing: "truncating", source });
            }
            return Err(error);
        }
        active.end += bytes.len() as u64;
        active.chain = hash;
        active.records += u64::from(kind != Kind::Seal);
        self.shared.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.shared.unsynced.store(true, Ordering::Release);
        Ok(offset)
    }
}

/// Writes a file under its draft name, with its content durable; a leftover of an earlier try is replaced.
pub(crate) fn write_draft<F: Files>(files: &F, draft: &str, bytes: &[u8]) -> Result<F::File, StorageError> {
    if files.open(draft).is_ok() {
        files.remove(draft).map_err(StorageError::io(draft, "removing"))?;
    }
    let file = files.create(draft).map_err(StorageError::io(draft, "creating"))?;
    file.write_at(0, bytes).map_err(StorageError::io(draft, "writing"))?;
    file.sync_data().map_err(StorageError::io(draft, "syncing"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_file_names_are_taken_for_segments() {
        assert_eq!(Which::Chain.file(7, "log"), "chain-00000007.log");
        assert_eq!(Which::Chain.number("chain-00000007.log", "log"), Some(7));
        assert_eq!(Which::Chain.number("chain-123456789.log", "log"), Some(123_456_789));
        for other in ["undo-00000007.log", "chain-7.log", "chain-0000000x.log", "chain-00000007.torn-1", "chain-.log"] {
            assert_eq!(Which::Chain.number(other, "log"), None, "{other}");
        }
    }
}
