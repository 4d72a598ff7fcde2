//! What a node keeps on its disk, and how it finds it again.
//!
//! - [`Store`] is the truth: append-only segments of batches and blocks, hash-chained, and the undo log beside them,
//!   which can be rebuilt. One writer appends, [`Syncer`]s make durable, [`Reader`]s read.
//! - [`SafetyFile`] is what a validator must never forget.
//! - [`EvidenceFile`] is what it saw others do that no correct validator does.
//! - [`Checkpoint`] is a copy of the state that spares a start from executing the whole log; sled keeps it.
//! - [`Export`] is a snapshot of the checkpoint, for a node that lost its disk; [`Install`] is how that node takes it.
//! - [`recover`] opens all of it; [`verify`] rechecks all of it.
//!
//! Everything but sled does its I/O through [`Files`], so that the simulator can lose, tear and flip it.

mod allocator;
mod base;
mod checkpoint;
mod clean_stop;
mod closing;
mod delta;
mod disk;
mod error;
mod evidence;
mod examine;
mod files;
#[cfg(test)]
mod fixture;
mod frame;
mod guarded;
mod heaviest;
mod identity;
pub mod index;
mod inspection;
mod memory;
mod overlay;
mod reader;
mod recovery;
mod repair;
mod safety;
mod segment;
mod sled_overlay;
mod slot;
mod snapshot;
mod store;
mod stream;
mod syncer;
mod verification;

pub use allocator::keep_freed_memory;
pub use base::{LoadCheckpoint, NoBaseState};
pub use checkpoint::{Checkpoint, Interrupted};
pub use disk::{DiskFile, DiskFiles, LOCK_PAUSE_MS, LOCK_TRIES_MAX};
pub use error::{Damage, DamageKind, StorageError, Subject, TornTail};
pub use evidence::{
    BATCHES_PER_OFFENDER_MAX, EVIDENCE_FILE_BYTES_MAX, EvidenceFile, KEPT_PER_OFFENDER_MAX, Keeping, Kept, Unreadable,
};
pub use files::{File, Files};
pub use frame::UNDO_RECORD_BYTES_MAX;
pub use guarded::is_guarded;
pub use identity::identity;
pub use inspection::{Inspection, SegmentSummary, inspect};
pub use memory::{CrashReport, Fault, MemoryFile, MemoryFiles};
pub use overlay::{FileOverlay, Head, Overlay, TakeAccount};
pub use reader::Reader;
pub use recovery::{Discarded, Recovery, RecoveryReport, Start, recover, recover_disk};
pub use safety::SafetyFile;
pub use sled_overlay::SledOverlay;
pub use snapshot::{Export, Install, abandon_snapshot, can_take_snapshot, is_unfinished};
pub use store::{Missing, Opened, Store};
pub use stream::{Limits, SEGMENT_BYTES, SEGMENT_BYTES_MAX};
pub use syncer::Syncer;
pub use verification::{
    CHECK_BATCHES_MAX, DamagedPlace, Transactions, Verification, VerifyError, check_serially, verify,
};
