//! Files in memory that behave like the worst disk that keeps its promises: what was synced survives a crash, of what
//! was not, any prefix may survive, cut at any byte. Deterministic: every choice is an argument.
//!
//! A file's name, too, survives only once its directory was synced (POSIX promises no more).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::examine::UNREADABLE;
use crate::files::{File, Files};

/// One directory in memory. Clones are handles to the same directory.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles {
    disk: Arc<Mutex<Disk>>,
}

/// What a crash did to what had not been synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrashReport {
    /// Creations, renames and removals that were taken back.
    pub names_lost: usize,
    /// Files that lost writes.
    pub files_cut: usize,
    /// Files whose last surviving write survived in part.
    pub files_torn: usize,
}

/// Errors to come. Each happens once and is then forgotten, except the capacity and the power cut, which last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The write after `after` more successful ones writes half of its bytes and fails.
    Write { after: u64 },
    /// The sync after `after` more successful ones fails; what it should have synced stays unsynced.
    Sync { after: u64 },
    /// After `after` more changes (writes, truncations, syncs, creations, renames, removals) every one fails, until
    /// [`MemoryFiles::crash`].
    PowerCut { after: u64 },
    /// All files together hold at most this many bytes.
    Capacity { bytes: u64 },
}

#[derive(Debug, Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    /// How to take back the name changes since the last directory sync, oldest first.
    unsynced_names: Vec<NameChange>,
    inodes_made: u64,
    /// Crashes so far: handles from before a crash are dead.
    boots: u64,
    randoms: u64,
    syncs: u64,
    changes: u64,
    write_fault: Option<u64>,
    sync_fault: Option<u64>,
    power: Option<u64>,
    capacity: Option<u64>,
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// How to take back what is not synced, oldest first.
    unsynced: Vec<Change>,
    /// Offsets of unreadable bytes.
    spoilt: Vec<u64>,
}

#[derive(Debug)]
enum Change {
    Wrote { offset: usize, written: usize, overwritten: Vec<u8>, len_before: usize },
    Truncated { tail: Vec<u8> },
}

#[derive(Debug)]
enum NameChange {
    Created { name: String },
    Renamed { from: String, to: String, replaced: Option<u64> },
    Removed { name: String, inode: u64 },
}

impl MemoryFiles {
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("nothing panics while it holds the disk")
    }

    /// Power fails and comes back: every open handle is dead, and of what was not synced, survives what `choose`
    /// chooses. `choose(n)` returns a number below `n`.
    pub fn crash(&self, choose: &mut dyn FnMut(u64) -> u64) -> CrashReport {
        let mut disk = self.disk();
        let mut report = CrashReport::default();
        let names_kept = choose(disk.unsynced_names.len() as u64 + 1) as usize;
        report.names_lost = disk.unsynced_names.len() - names_kept;
        while disk.unsynced_names.len() > names_kept {
            disk.take_back_name();
        }
        disk.unsynced_names.clear();
        let named: Vec<u64> = disk.names.values().copied().collect();
        disk.inodes.retain(|inode, _| named.contains(inode));
        for inode in disk.inodes.values_mut() {
            inode.crash(choose, &mut report);
        }
        disk.boots += 1;
        (disk.write_fault, disk.sync_fault, disk.power) = (None, None, None);
        report
    }

    /// A process is killed without a power failure: handles die, every write stays.
    pub fn kill(&self) {
        let mut disk = self.disk();
        disk.boots += 1;
        (disk.write_fault, disk.sync_fault, disk.power) = (None, None, None);
    }

    /// The disk is lost: an empty one takes its place.
    pub fn wipe(&self) {
        let mut disk = self.disk();
        let (boots, randoms) = (disk.boots + 1, disk.randoms);
        *disk = Disk { boots, randoms, ..Disk::default() };
    }

    /// Arms a fault.
    pub fn inject(&self, fault: Fault) {
        let mut disk = self.disk();
        match fault {
            Fault::Write { after } => disk.write_fault = Some(after),
            Fault::Sync { after } => disk.sync_fault = Some(after),
            Fault::PowerCut { after } => disk.power = Some(after),
            Fault::Capacity { bytes } => disk.capacity = Some(bytes),
        }
    }

    /// Flips the bits of `mask` in the byte at `offset`, on disk, behind everyone's back.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        let mut disk = self.disk();
        let inode = disk.names[name];
        let inode = disk.inodes.get_mut(&inode).expect("a name has its file");
        inode.bytes[offset as usize] ^= mask;
    }

    /// Makes the byte at `offset` unreadable: every read that touches it fails as a bad sector does (`EIO`).
    ///
    /// # Panics
    /// If there is no such file.
    pub fn spoil(&self, name: &str, offset: u64) {
        let mut disk = self.disk();
        let inode = disk.names[name];
        disk.inodes.get_mut(&inode).expect("a name has its file").spoilt.push(offset);
    }

    /// The content of a file as it is seen now; `None` if there is none.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        let inode = disk.names.get(name)?;
        Some(disk.inodes[inode].bytes.clone())
    }

    /// Puts a file there as if it had always been there, synced.
    pub fn install(&self, name: &str, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let inode = disk.add_inode();
        disk.inodes.insert(inode, Inode { bytes, ..Inode::default() });
        disk.names.insert(name.into(), inode);
    }

    /// Another directory with the same content, all of it synced.
    pub fn snapshot(&self) -> Self {
        let disk = self.disk();
        let copy = Self::new();
        for (name, inode) in &disk.names {
            copy.install(name, disk.inodes[inode].bytes.clone());
        }
        copy.disk().randoms = disk.randoms;
        copy
    }

    /// Successful syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Changes (writes, truncations, syncs, creations, renames, removals) so far: what [`Fault::PowerCut`] counts.
    pub fn changes(&self) -> u64 {
        self.disk().changes
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.disk().bytes()
    }
}

impl Disk {
    fn add_inode(&mut self) -> u64 {
        self.inodes_made += 1;
        self.inodes_made
    }

    fn bytes(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[inode].bytes.len() as u64).sum()
    }

    /// Counts a change; fails if the power is cut.
    fn change(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.power {
            if *left == 0 {
                return Err(io::Error::other("the power is cut"));
            }
            *left -= 1;
        }
        self.changes += 1;
        Ok(())
    }

    fn inode(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn take_back_name(&mut self) {
        match self.unsynced_names.pop() {
            Some(NameChange::Created { name }) => {
                self.names.remove(&name);
            }
            Some(NameChange::Renamed { from, to, replaced }) => {
                let moved = self.names.remove(&to).expect("later changes are taken back");
                self.names.insert(from, moved);
                if let Some(inode) = replaced {
                    self.names.insert(to, inode);
                }
            }
            Some(NameChange::Removed { name, inode }) => {
                self.names.insert(name, inode);
            }
            None => {}
        }
    }
}

impl Inode {
    fn crash(&mut self, choose: &mut dyn FnMut(u64) -> u64, report: &mut CrashReport) {
        if self.unsynced.is_empty() {
            return;
        }
        let (kept, tear) = match choose(3) {
            0 => (0, false),
            1 => (self.unsynced.len(), false),
            _ => (choose(self.unsynced.len() as u64) as usize, true),
        };
        report.files_cut += usize::from(kept < self.unsynced.len());
        while self.unsynced.len() > kept + usize::from(tear) {
            self.take_back(0);
        }
        if tear {
            let written = match self.unsynced.last() {
                Some(Change::Wrote { written, .. }) => *written,
                _ => 0,
            };
            let survives = choose(written as u64 + 1) as usize;
            report.files_torn += usize::from(survives > 0 && survives < written);
            self.take_back(survives);
        }
        self.unsynced.clear();
    }

    /// Takes back the last change, but for the first `survives` bytes of a write.
    fn take_back(&mut self, survives: usize) {
        match self.unsynced.pop() {
            Some(Change::Wrote { offset, overwritten, len_before, .. }) => {
                let end = if survives == 0 { len_before } else { len_before.max(offset + survives) };
                self.bytes.truncate(end);
                if survives < overwritten.len() {
                    let restored = offset + survives..offset + overwritten.len();
                    self.bytes[restored].copy_from_slice(&overwritten[survives..]);
                }
            }
            Some(Change::Truncated { tail }) => self.bytes.extend_from_slice(&tail),
            None => {}
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let len_before = self.bytes.len();
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        let overwritten = match offset < len_before {
            true => self.bytes[offset..end.min(len_before)].to_vec(),
            false => Vec::new(),
        };
        self.bytes[offset..end].copy_from_slice(bytes);
        self.unsynced.push(Change::Wrote { offset, written: bytes.len(), overwritten, len_before });
    }
}

impl Files for MemoryFiles {
    type File = MemoryFile;

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let mut disk = self.disk();
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.change()?;
        let inode = disk.add_inode();
        disk.inodes.insert(inode, Inode::default());
        disk.names.insert(name.into(), inode);
        disk.unsynced_names.push(NameChange::Created { name: name.into() });
        Ok(MemoryFile { files: self.clone(), inode, boot: disk.boots })
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let disk = self.disk();
        Ok(MemoryFile { files: self.clone(), inode: disk.inode(name)?, boot: disk.boots })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.inode(from)?;
        disk.change()?;
        let moved = disk.names.remove(from).expect("it was just found");
        let replaced = disk.names.insert(to.into(), moved);
        disk.unsynced_names.push(NameChange::Renamed { from: from.into(), to: to.into(), replaced });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let inode = disk.inode(name)?;
        disk.change()?;
        disk.names.remove(name);
        disk.unsynced_names.push(NameChange::Removed { name: name.into(), inode });
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change()?;
        disk.unsynced_names.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = self.disk();
        Ok(disk.capacity.unwrap_or(u64::MAX).saturating_sub(disk.bytes()))
    }

    fn random(&self) -> io::Result<[u8; 32]> {
        let mut disk = self.disk();
        disk.randoms += 1;
        Ok(*blake3::hash(&disk.randoms.to_le_bytes()).as_bytes())
    }
}

/// A file in a [`MemoryFiles`] directory.
#[derive(Debug)]
pub struct MemoryFile {
    files: MemoryFiles,
    inode: u64,
    boot: u64,
}

impl MemoryFile {
    fn with<T>(&self, act: impl FnOnce(&mut Disk, u64) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.files.disk();
        if disk.boots != self.boot {
            return Err(io::Error::other("the handle is from before a crash"));
        }
        act(&mut disk, self.inode)
    }
}

/// Counts an armed fault down; true when it strikes.
fn strikes(fault: &mut Option<u64>) -> bool {
    match fault {
        Some(0) => {
            *fault = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl File for MemoryFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|disk, inode| {
            disk.change()?;
            let len = disk.inodes.get(&inode).ok_or_else(gone)?.bytes.len() as u64;
            let growth = (offset + bytes.len() as u64).saturating_sub(len);
            let room = disk.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.bytes()));
            let fails = strikes(&mut disk.write_fault);
            let inode = disk.inodes.get_mut(&inode).ok_or_else(gone)?;
            if growth > room {
                let fits = bytes.len() - usize::try_from(growth - room).unwrap_or(bytes.len()).min(bytes.len());
                inode.write(offset as usize, &bytes[..fits]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            if fails {
                inode.write(offset as usize, &bytes[..bytes.len() / 2]);
                return Err(io::Error::other("an injected write error"));
            }
            inode.write(offset as usize, bytes);
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.with(|disk, inode| {
            let inode = disk.inodes.get(&inode).ok_or_else(gone)?;
            if inode.spoilt.iter().any(|at| (offset..offset + bytes.len() as u64).contains(at)) {
                return Err(io::Error::from_raw_os_error(UNREADABLE));
            }
            let start = usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let range = inode.bytes.get(start..start.saturating_add(bytes.len()));
            bytes.copy_from_slice(range.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|disk, inode| Ok(disk.inodes.get(&inode).ok_or_else(gone)?.bytes.len() as u64))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|disk, inode| {
            disk.change()?;
            let inode = disk.inodes.get_mut(&inode).ok_or_else(gone)?;
            let tail = inode.bytes.split_off((len as usize).min(inode.bytes.len()));
            inode.unsynced.push(Change::Truncated { tail });
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk, inode| {
            disk.change()?;
            if strikes(&mut disk.sync_fault) {
                return Err(io::Error::other("an injected sync error"));
            }
            disk.syncs += 1;
            disk.inodes.get_mut(&inode).ok_or_else(gone)?.unsynced.clear();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn synced(files: &MemoryFiles, name: &str, bytes: &[u8]) -> MemoryFile {
        let file = files.create(name).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync_data().unwrap();
        files.sync_directory().unwrap();
        file
    }

    #[test]
    fn a_crash_loses_unsynced_bytes_and_unsynced_names() {
        let files = MemoryFiles::new();
        let file = synced(&files, "a", b"safe");
        file.write_at(4, b" lost").unwrap();
        files.create("b").unwrap().sync_data().unwrap();
        files.rename("a", "c").unwrap();
        let report = files.crash(&mut |_| 0);
        assert_eq!(report, CrashReport { names_lost: 2, files_cut: 1, files_torn: 0 });
        assert_eq!(files.list().unwrap(), ["a"]);
        assert_eq!(files.content("a").unwrap(), b"safe");
        assert!(file.len().is_err(), "a handle outlived the crash");
    }

    #[test]
    fn errors_come_when_they_were_ordered() {
        let files = MemoryFiles::new();
        let file = synced(&files, "a", b"");
        files.inject(Fault::Write { after: 1 });
        file.write_at(0, b"12").unwrap();
        assert!(file.write_at(2, b"3456").is_err());
        assert_eq!(files.content("a").unwrap(), b"1234");
        files.inject(Fault::Sync { after: 0 });
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        files.inject(Fault::Capacity { bytes: 6 });
        assert_eq!(file.write_at(4, b"abcd").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(files.content("a").unwrap(), b"1234ab");
        files.inject(Fault::PowerCut { after: 1 });
        file.write_at(0, b"x").unwrap();
        assert!(file.write_at(0, b"y").is_err() && file.sync_data().is_err());
    }

    proptest! {
        /// A crash leaves a state between the synced one and the last one: some prefix of the writes, the next one
        /// cut at some byte.
        #[test]
        fn a_crash_keeps_a_prefix(
            writes in prop::collection::vec((0u64..20, prop::collection::vec(any::<u8>(), 1..12)), 1..12),
            synced_after in 0usize..12,
            choices in prop::collection::vec(any::<u64>(), 8),
        ) {
            let files = MemoryFiles::new();
            let file = synced(&files, "a", b"");
            let mut model = vec![Vec::new()];
            for (index, (offset, bytes)) in writes.iter().enumerate() {
                file.write_at(*offset, bytes).unwrap();
                if index < synced_after {
                    file.sync_data().unwrap();
                    model.clear();
                    model.push(files.content("a").unwrap());
                } else {
                    let before: Vec<u8> = model.last().unwrap().clone();
                    for cut in 1..=bytes.len() {
                        let mut content = before.clone();
                        let end = *offset as usize + cut;
                        content.resize(content.len().max(end), 0);
                        content[*offset as usize..end].copy_from_slice(&bytes[..cut]);
                        model.push(content);
                    }
                }
            }
            let mut next = choices.into_iter();
            files.crash(&mut |bound| next.next().unwrap_or(0) % bound);
            let content = files.content("a").unwrap();
            prop_assert!(model.contains(&content), "{content:?} is no prefix of the writes");
        }
    }
}
