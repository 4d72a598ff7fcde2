//! What can go wrong between the ledger and its disk.

use std::io;

use zeni_ledger::{BatchDigest, BlockId, GenesisId};

/// Why an operation on the data directory failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused. `doing` says what was tried.
    #[error("{doing} {file} failed: {source}")]
    Io { file: String, doing: &'static str, source: io::Error },
    /// The directory holds no ledger yet.
    #[error("the data directory holds no ledger; initialise it first")]
    NotInitialised,
    /// The directory holds a ledger already.
    #[error("the data directory already holds the ledger {found}")]
    AlreadyInitialised { found: GenesisId },
    /// The directory belongs to another ledger.
    #[error(
        "the data directory belongs to the ledger {found}, this node runs {expected}; point it at its own directory"
    )]
    OtherGenesis { found: GenesisId, expected: GenesisId },
    /// The file that names the ledger is there, but neither of its two copies is readable.
    #[error("both copies in the file {file} are damaged; restore the directory's identity by initialising it again")]
    IdentityDamaged { file: &'static str },
    /// Another process uses the directory and did not let go of it in time.
    #[error("{file} is locked by another process; stop it first (waited {waited_ms} ms)")]
    Locked { file: String, waited_ms: u64 },
    /// Closing the directory failed, so its lock stays with this process until it ends.
    #[error("{file} did not close after a failed write, so only another process can open it again; restart this one")]
    Unclosed { file: String },
    /// A file was written by a newer build.
    #[error("{file} has format version {found}, this build knows {known}")]
    UnknownVersion { file: String, found: u16, known: u16 },
    /// Syncing failed before, so nobody knows what is on disk: the process must be restarted.
    #[error("an earlier write or sync failed ({cause}), so what is on disk is unknown; restart to recover")]
    Poisoned { cause: String },
    /// A record is longer than any reader takes.
    #[error("a record of {found} bytes is above the limit of {limit} for its kind")]
    TooLarge { found: u64, limit: u64 },
    /// The safety record is there but unreadable: what was signed is unknown.
    #[error("both slots of the safety record are damaged; the node may only follow until an operator re-admits it")]
    SafetyLost,
    /// A checkpoint step did not fit the checkpoint's head.
    #[error("the checkpoint stands at {head}, the step begins at {from}")]
    CheckpointMismatch { head: BlockId, from: BlockId },
    /// The checkpoint's content is unreadable; it can be rebuilt from the log.
    #[error("the checkpoint is damaged: {what}")]
    CheckpointDamaged { what: String },
    /// The directory holds a part of a snapshot: its node was stopped while it fetched it.
    #[error("the data directory holds an unfinished snapshot; `node run` throws it away and fetches another one")]
    UnfinishedSnapshot,
    /// A snapshot only goes into a directory without a log.
    #[error("the data directory holds a log, and a snapshot would replace what was promised in it")]
    HoldsLog,
    /// Whoever had a snapshot made wants it no more.
    #[error("the snapshot was given up")]
    SnapshotStopped,
    /// The genesis state could not be built.
    #[error("the genesis state cannot be built: {0}")]
    GenesisState(String),
}

impl StorageError {
    /// For `map_err`: names the file and what was tried.
    pub(crate) fn io(file: &str, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, doing, source }
    }
}

/// Bytes that a crash left behind the last valid record of an active segment. Nothing that was synced is among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    pub file: String,
    /// Where the tail began.
    pub offset: u64,
    pub bytes: u64,
    /// The file that the tail was moved to.
    pub kept: String,
}

/// What a damaged record was, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Batch(BatchDigest),
    Block(BlockId),
    Undo(BlockId),
    /// What made this block final.
    Certificate(BlockId),
    /// An entry of the finality engine's log.
    Finality,
    /// The record's own frame does not say; the blocks that list absent digests do.
    Unknown,
}

/// One damaged place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub file: String,
    /// Where the damaged bytes begin.
    pub offset: u64,
    /// How many bytes lie before the next readable record (0: none are lost, but their order or count is wrong).
    pub bytes: u64,
    pub what: DamageKind,
    /// What the frame said that it holds: a hint, because the hint itself may be what is damaged.
    pub subject: Subject,
}

/// In which way a place is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum DamageKind {
    #[error("a segment file is missing")]
    MissingSegment,
    #[error("neither copy of the segment header is readable")]
    Header,
    #[error("one copy of the segment header is damaged")]
    HeaderCopy,
    #[error("a record's bytes do not have its hash")]
    Record,
    #[error("a record has its hash, but does not decode")]
    Undecodable,
    #[error("a record does not follow the one before it")]
    Chain,
    #[error("the seal counts other records than there are")]
    SealCount,
    #[error("bytes stand behind the seal")]
    BehindSeal,
    #[error("the segment was left without a seal")]
    Unsealed,
    #[error("the segment does not lead to the next one")]
    Link,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}, {} bytes: {}", self.file, self.offset, self.bytes, self.what)?;
        match self.subject {
            Subject::Batch(digest) => write!(f, " (batch {digest})"),
            Subject::Block(id) => write!(f, " (block {id})"),
            Subject::Undo(id) => write!(f, " (undo record of block {id})"),
            Subject::Certificate(id) => write!(f, " (commit certificate of block {id})"),
            Subject::Finality => write!(f, " (log of the finality engine)"),
            Subject::Unknown => Ok(()),
        }
    }
}
