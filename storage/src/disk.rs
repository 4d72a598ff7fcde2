//! Real files in a real directory.

use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::error::StorageError;
use crate::files::{File, Files};

/// How often a locked directory is tried again before its opening fails.
pub const LOCK_TRIES_MAX: u32 = 50;
/// The pause between two tries, in milliseconds.
pub const LOCK_PAUSE_MS: u64 = 100;

const LOCK_FILE: &str = "lock";

/// A directory that this process alone uses, until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct DiskFiles {
    directory: Arc<PathBuf>,
    _lock: Arc<fs::File>,
}

impl DiskFiles {
    /// Takes the directory, which is created if need be. A process that is just stopping gets a few seconds to let go.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        Self::open_within(directory, LOCK_TRIES_MAX)
    }

    /// As [`Self::open`], with at most `tries` tries at the lock.
    pub fn open_within(directory: &Path, tries: u32) -> Result<Self, StorageError> {
        let shown = directory.display().to_string();
        create_durably(directory).map_err(StorageError::io(&shown, "creating the directory"))?;
        let path = directory.join(LOCK_FILE);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = file.map_err(StorageError::io(&shown, "opening the lock file in"))?;
        let mut tried = 0;
        while let Err(error) = lock.try_lock() {
            tried += 1;
            match error {
                TryLockError::WouldBlock if tried < tries => thread::sleep(Duration::from_millis(LOCK_PAUSE_MS)),
                TryLockError::WouldBlock => {
                    let waited_ms = u64::from(tried.saturating_sub(1)) * LOCK_PAUSE_MS;
                    return Err(StorageError::Locked { file: shown, waited_ms });
                }
                TryLockError::Error(error) => return Err(StorageError::io(&shown, "locking")(error)),
            }
        }
        Ok(Self { directory: Arc::new(directory.to_owned()), _lock: Arc::new(lock) })
    }

    /// The directory itself, for what does its own I/O (sled).
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Creates the directory if need be, and makes its name durable.
fn create_durably(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    match directory.canonicalize()?.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

impl Files for DiskFiles {
    type File = DiskFile;

    fn create(&self, name: &str) -> io::Result<DiskFile> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(self.directory.join(name))?;
        Ok(DiskFile { file })
    }

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        let file = OpenOptions::new().read(true).write(true).open(self.directory.join(name))?;
        Ok(DiskFile { file })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&*self.directory)? {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (entry.file_type()?.is_file(), entry.file_name().into_string())
                && name != LOCK_FILE
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&*self.directory)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let figures = rustix::fs::statvfs(&*self.directory)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    fn random(&self) -> io::Result<[u8; 32]> {
        let mut bytes = [0; 32];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// A file in a [`DiskFiles`] directory.
#[derive(Debug)]
pub struct DiskFile {
    file: fs::File,
}

impl File for DiskFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let files = DiskFiles::open(directory.path()).unwrap();
        let file = files.create("a").unwrap();
        file.write_at(2, b"xyz").unwrap();
        file.sync_data().unwrap();
        assert_eq!(files.create("a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        files.rename("a", "b").unwrap();
        files.sync_directory().unwrap();
        assert_eq!(files.list().unwrap(), ["b"]);
        let mut bytes = [9; 5];
        files.open("b").unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0\0xyz");
        assert_eq!(file.read_at(1, &mut bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(files.free_bytes().unwrap() > 0);
        assert_ne!(files.random().unwrap(), files.random().unwrap());
    }

    #[test]
    fn a_directory_in_use_is_refused_and_free_again_after() {
        let directory = tempfile::tempdir().unwrap();
        let first = DiskFiles::open(directory.path()).unwrap();
        let second = DiskFiles::open_within(directory.path(), 1);
        assert!(matches!(second, Err(StorageError::Locked { .. })), "{second:?}");
        drop(first);
        DiskFiles::open_within(directory.path(), 1).unwrap();
    }

    #[test]
    fn a_directory_that_is_let_go_in_time_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let first = DiskFiles::open(directory.path()).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| DiskFiles::open(directory.path()));
            drop(first);
            waiting.join().unwrap().unwrap();
        });
    }
}
