//! What a core has written, and how it reads that again.

use std::sync::Arc;

use zeni_ledger::{Account, BatchDigest, Block, BlockId, CommitCertificate, Undo, ValidatorIndex, VerifiedBatch};

use crate::finality::{Guard, LogEntry};

/// One record of the log, the truth from which everything else can be rebuilt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Batch(VerifiedBatch),
    Block(Arc<Block>),
    /// A decision of the finality engine, reached here or learnt from another.
    Certificate(CommitCertificate),
    /// What the finality engine must find again after a crash, and the decision that it belongs to.
    Finality {
        decision: u64,
        entry: LogEntry,
    },
}

/// What a validator must never forget, in its own small file that no backup restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SafetyRecord {
    /// The highest slot for which it signed a block (or, re-admitted, can have signed one). It signs only above.
    pub last_signed_slot: u64,
    /// What it signed last for the finality engine.
    pub guard: Guard,
    /// It forgot what it signed for the finality engine: it lost this record and was re-admitted, or its log lost something.
    /// So it votes only after it heard every validator, and knows every decision that they know.
    pub readmitted: bool,
}

/// What recovery tells of a stored batch without reading its payments again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMeta {
    pub digest: BatchDigest,
    pub author: ValidatorIndex,
    pub number: u64,
    pub payments: u32,
}

/// Brings a checkpoint from one block to a later one of the same chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointDelta {
    /// The block that the checkpoint stands at before.
    pub from: BlockId,
    pub to: BlockId,
    pub height: u64,
    /// Every account that the blocks between changed, as it is after `to`. One that several changed may stand more than once,
    /// each time alike.
    pub accounts: Vec<Account>,
}

impl CheckpointDelta {
    /// Sorts the accounts by id and keeps each once: trees take neighbours one behind another for much less.
    pub fn sort(&mut self) {
        self.accounts.sort_unstable_by_key(Account::id);
        self.accounts.dedup_by_key(|account| account.id());
    }
}

/// Why something stored cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    #[error("reading failed: {0}")]
    Io(String),
    #[error("the record at {location} is damaged: {what}")]
    Damaged { location: String, what: String },
}

/// Read access to everything that earlier steps appended, whether or not it is on disk yet.
pub trait Archive {
    /// A stored batch. It was verified before it was stored.
    fn batch(&self, digest: &BatchDigest) -> Result<Option<VerifiedBatch>, ArchiveError>;

    /// A stored block.
    fn block(&self, id: &BlockId) -> Result<Option<Arc<Block>>, ArchiveError>;

    /// The undo record of a block that was executed here.
    fn undo(&self, block: &BlockId) -> Result<Option<Arc<Undo>>, ArchiveError>;
}
