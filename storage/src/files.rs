//! The small file system that everything in this crate writes through, so that tests and the simulator can lose,
//! tear and flip what a real disk may lose, tear and flip.

use std::fmt::Debug;
use std::io;

/// One flat directory of files. Clones are handles to the same directory.
pub trait Files: Clone + Debug + Send + Sync + 'static {
    type File: File;

    /// Creates an empty file for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of this name.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The names of all files, sorted. Subdirectories are not listed.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name, replacing the file that had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Bytes that may still be written, for the disk watermark.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Bytes that nobody outside this process can predict: they key the record hashes of a segment.
    fn random(&self) -> io::Result<[u8; 32]>;
}

/// An open file. Every method takes the offset, so that readers and the writer never share a position.
pub trait File: Debug + Send + Sync + 'static {
    /// Writes all of `bytes` at `offset`, growing the file if need be. In the page cache when it returns. On an error
    /// any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Cuts the file down to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes content and length durable.
    fn sync_data(&self) -> io::Result<()>;
}
