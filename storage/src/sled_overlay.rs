//! The checkpoint's overlay in sled. Nothing else in the workspace knows that there is a sled.
//!
//! sled is an alpha release: it may refuse or panic over damaged files. Either way its directory is moved aside and an
//! empty one takes its place, because the log can always rebuild it. A directory that another process still holds (one
//! that is just stopping) is tried again for a while. Every handle is closed in bounded time ([`crate::closing`]).

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use zeni_ledger::AccountId;

use crate::closing::close;
use crate::disk::{LOCK_PAUSE_MS, LOCK_TRIES_MAX};
use crate::error::StorageError;
use crate::guarded::{SledPanicked, guarded};
use crate::overlay::{Head, Overlay, TakeAccount};

/// Entries in one leaf.
const FANOUT: usize = 1_024;
/// What sled may keep of its leaves in memory. The state itself is in memory, so it is read only at the start.
const CACHE_BYTES: usize = 64 << 20;
/// Shorter than any account's key.
const HEAD_KEY: &[u8] = b"head";

type Db = sled::Db<FANOUT>;

/// An overlay in a directory of its own.
#[derive(Debug)]
pub struct SledOverlay {
    /// `None` only while it is reset.
    db: Option<Db>,
    path: PathBuf,
    moved_aside: Option<PathBuf>,
}

impl SledOverlay {
    /// Opens or creates the directory.
    ///
    /// # Errors
    /// [`StorageError::Locked`] if another process holds it for too long; I/O that is not the files' own fault.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        Self::open_within(path, LOCK_TRIES_MAX)
    }

    /// As [`Self::open`], with at most `tries` tries at the lock.
    pub fn open_within(path: &Path, tries: u32) -> Result<Self, StorageError> {
        let mut overlay = Self { db: None, path: path.to_owned(), moved_aside: None };
        match try_open(path, tries) {
            Ok(db) => overlay.db = Some(db),
            Err(StorageError::CheckpointDamaged { what }) => {
                tracing::error!(path = %path.display(), what, "damaged checkpoint moved aside");
                overlay.reset()?;
            }
            Err(error) => return Err(error),
        }
        Ok(overlay)
    }

    /// Acts on sled; that it panics over damaged files is an error like any other.
    fn with<T>(&self, act: impl FnOnce(&Db) -> io::Result<T>) -> Result<T, StorageError> {
        let db = self.db.as_ref().expect("it is open but while it is reset");
        // After a panic the caller discards the database, so whatever state it is in is not used.
        match guarded(|| act(db)) {
            Ok(done) => done.map_err(|error| classify(&self.path, error)),
            Err(SledPanicked) => Err(StorageError::CheckpointDamaged { what: "sled panicked".into() }),
        }
    }

    fn show(&self, entries: &mut sled::Iter<FANOUT>, take: &mut TakeAccount<'_>) -> Result<(), StorageError> {
        while let Some((key, content)) = self.with(|_| entries.next().transpose())? {
            match <[u8; 32]>::try_from(key.as_ref()) {
                Ok(id) => take(AccountId(id), &content)?,
                Err(_) if key.as_ref() == HEAD_KEY => {}
                Err(_) => return Err(StorageError::CheckpointDamaged { what: "a key of no account".into() }),
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(db) = self.db.take() {
            close(&self.path, db);
        }
    }
}

impl Drop for SledOverlay {
    fn drop(&mut self) {
        self.close();
    }
}

fn try_open(path: &Path, tries: u32) -> Result<Db, StorageError> {
    let config = sled::Config::new().path(path).cache_capacity_bytes(CACHE_BYTES).flush_every_ms(None);
    let mut tried = 0;
    loop {
        tried += 1;
        let error = match guarded(|| config.open::<FANOUT>()) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) => error,
            Err(SledPanicked) => {
                return Err(StorageError::CheckpointDamaged { what: "sled panicked when it was opened".into() });
            }
        };
        match error.kind() {
            ErrorKind::WouldBlock if tried < tries => thread::sleep(Duration::from_millis(LOCK_PAUSE_MS)),
            ErrorKind::WouldBlock => {
                let waited_ms = u64::from(tried - 1) * LOCK_PAUSE_MS;
                return Err(StorageError::Locked { file: path.display().to_string(), waited_ms });
            }
            _ => return Err(classify(path, error)),
        }
    }
}

/// Tells a fault of the machine, which moving files aside would not mend, from one of the files.
fn classify(path: &Path, error: io::Error) -> StorageError {
    match error.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::OutOfMemory => StorageError::io(&path.display().to_string(), "using the checkpoint in")(error),
        _ => StorageError::CheckpointDamaged { what: error.to_string() },
    }
}

impl Overlay for SledOverlay {
    fn put(&mut self, accounts: &[(AccountId, Vec<u8>)]) -> Result<(), StorageError> {
        self.with(|db| accounts.iter().try_for_each(|(id, content)| db.insert(id.0, content.as_slice()).map(drop)))
    }

    fn set_head(&mut self, head: &Head) -> Result<(), StorageError> {
        self.with(|db| db.insert(HEAD_KEY, head.to_bytes()).map(drop))
    }

    fn head(&self) -> Result<Option<Head>, StorageError> {
        let found = self.with(|db| db.get(HEAD_KEY))?;
        let head = found.map(|bytes| Head::from_bytes(&bytes)).transpose();
        head.map_err(|error| StorageError::CheckpointDamaged { what: error.to_string() })
    }

    fn each(&self, take: &mut TakeAccount<'_>) -> Result<(), StorageError> {
        let mut entries = self.with(|db| Ok(db.iter()))?;
        let shown = self.show(&mut entries, take);
        // They hold a handle of their own.
        close(&self.path, entries);
        shown
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.with(|db| db.flush().map(drop))
    }

    fn moved_aside(&self) -> Option<&Path> {
        self.moved_aside.as_deref()
    }

    /// The directory is kept as `NAME.discarded`, in place of the one discarded before it.
    fn reset(&mut self) -> Result<(), StorageError> {
        // One that does not close keeps its lock, which goes aside with its directory.
        self.close();
        let aside = self.path.with_extension("discarded");
        let shown = self.path.display().to_string();
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StorageError::io(&aside.display().to_string(), "removing")(error));
            }
            _ => {}
        }
        match fs::rename(&self.path, &aside) {
            Ok(()) => self.moved_aside = Some(aside),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(StorageError::io(&shown, "moving aside")(error)),
        }
        self.db = Some(try_open(&self.path, LOCK_TRIES_MAX)?);
        Ok(())
    }
}
