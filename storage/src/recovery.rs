//! A start: opens everything that a process kept, and hands the consensus core what it needs to go on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use zeni_consensus::{Recovered, SafetyRecord};
use zeni_ledger::{Block, BlockId, FinalBlock, Genesis, State};

use crate::checkpoint::{Checkpoint, Interrupted};
use crate::disk::DiskFiles;
use crate::error::{Damage, StorageError, TornTail};
use crate::files::Files;
use crate::overlay::Overlay;
use crate::reader::Reader;
use crate::safety::SafetyFile;
use crate::sled_overlay::SledOverlay;
use crate::snapshot;
use crate::store::{Missing, Opened, Store};
use crate::stream::Limits;

/// Everything open, and what it told.
#[derive(Debug)]
pub struct Recovery<F: Files, O: Overlay> {
    /// For the core or follower. Its blocks are ordered by height, so that parents come before children even where a
    /// healed block was appended late.
    pub recovered: Recovered,
    pub store: Store<F>,
    pub safety: SafetyFile<F>,
    pub checkpoint: Checkpoint<F, O>,
    pub report: RecoveryReport,
}

/// What a start found, for logs and metrics.
#[derive(Debug)]
pub struct RecoveryReport {
    pub torn: Vec<TornTail>,
    pub damage: Vec<Damage>,
    /// What peers must be asked for.
    pub missing: Missing,
    /// The block whose state was given by a snapshot, if the chain was.
    pub base: Option<FinalBlock>,
    /// The safety file is there but unreadable, so the node only follows.
    pub safety_damaged: bool,
    pub interrupted: Interrupted,
    pub start: Start,
}

/// Where the state comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// There was no checkpoint yet.
    Genesis,
    Checkpoint {
        height: u64,
    },
    /// There was one, but it could not be used and was discarded; the log is executed from genesis.
    Discarded(Discarded),
}

/// Why a checkpoint could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Discarded {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("its state does not have the root in the header of block {block}")]
    WrongRoot { block: BlockId },
    #[error("the log does not hold block {block}, which it builds on")]
    BlockMissing { block: BlockId },
    #[error("the undo log does not hold the record of block {block}, which a reorganisation may need")]
    UndoMissing { block: BlockId },
}

/// Opens a data directory on disk, with its checkpoint in sled. See [`recover`].
pub fn recover_disk(
    directory: &Path,
    genesis: &Genesis,
    genesis_state: impl Fn() -> Result<State, StorageError>,
    limits: Limits,
) -> Result<Recovery<DiskFiles, SledOverlay>, StorageError> {
    let files = DiskFiles::open(directory)?;
    crate::identity::require(&files, &genesis.id())?;
    let overlay = SledOverlay::open(&directory.join("checkpoint"))?;
    recover(files, overlay, genesis, genesis_state, limits)
}

/// Opens a data directory.
///
/// The checkpoint is used if its state has the root in its block's header and the log holds all that the chain up to
/// it consists of; otherwise it is discarded and the state is that of genesis. `genesis_state` builds that, and need not
/// compute its root; it is called twice in that case.
pub fn recover<F: Files, O: Overlay>(
    files: F,
    overlay: O,
    genesis: &Genesis,
    genesis_state: impl Fn() -> Result<State, StorageError>,
    limits: Limits,
) -> Result<Recovery<F, O>, StorageError> {
    snapshot::require_finished(&files)?;
    let mut safety = SafetyFile::open(files.clone(), genesis.id())?;
    let (safety_record, safety_damaged) = match safety.read() {
        Ok(record) => (record, false),
        Err(StorageError::SafetyLost) => (None, true),
        Err(error) => return Err(error),
    };
    // Once the log is mended no start can tell that votes are missing: that must be on disk before.
    let mut noted = false;
    let (store, opened) = Store::open_guarded(files.clone(), genesis, limits, &mut || match safety_record {
        Some(record) if !noted && !record.readmitted => {
            noted = true;
            safety.write(&SafetyRecord { readmitted: true, ..record })
        }
        _ => Ok(()),
    })?;
    let votes_lost = opened.votes_lost;
    if let Some(record) = safety_record.filter(|_| noted && !votes_lost) {
        safety.write(&record)?;
    }
    // A process that was killed leaves what it wrote in the page cache, names included. The next one speaks of what it
    // finds, so that is made durable first.
    files.sync_directory().map_err(StorageError::io("the data directory", "syncing"))?;
    store.syncer().sync_all()?;
    let (mut checkpoint, interrupted, damaged) = open_checkpoint(files, overlay, genesis)?;
    let mut state = genesis_state()?;
    let moved_aside = || checkpoint.overlay().moved_aside().map(|path| path.display().to_string());
    let damaged = damaged.or_else(|| moved_aside().map(|path| Discarded::Damaged(format!("it was moved to {path}"))));
    let mut start = damaged.map_or(Start::Genesis, Start::Discarded);
    let (mut block, mut height) = (genesis.block_id(), 0);
    match try_checkpoint(&checkpoint, &mut state, &opened, &store.reader(), genesis)? {
        Ok((_, 0)) => {}
        Ok(found) => {
            (block, height) = found;
            start = Start::Checkpoint { height };
        }
        Err(reason) => {
            tracing::warn!(%reason, "checkpoint discarded, executing from genesis");
            checkpoint.reset()?;
            state = genesis_state()?;
            state.commit();
            start = Start::Discarded(reason);
        }
    }
    let Opened { mut blocks, batches, base, mut certificates, finality, torn, damage, missing, .. } = opened;
    certificates.sort_by_key(|certificate| certificate.decision);
    blocks.sort_by_key(|block| block.header.height);
    let recovered = Recovered {
        state,
        checkpoint: block,
        checkpoint_height: height,
        blocks,
        batches,
        certificates,
        finality,
        votes_lost,
        safety: safety_record,
    };
    let report = RecoveryReport { torn, damage, missing, base, safety_damaged, interrupted, start };
    Ok(Recovery { recovered, store, safety, checkpoint, report })
}

type OpenCheckpoint<F, O> = (Checkpoint<F, O>, Interrupted, Option<Discarded>);

/// Opens the checkpoint; a damaged one is emptied first.
fn open_checkpoint<F: Files, O: Overlay>(
    files: F,
    overlay: O,
    genesis: &Genesis,
) -> Result<OpenCheckpoint<F, O>, StorageError> {
    match Checkpoint::open(files.clone(), overlay, genesis) {
        Ok((checkpoint, interrupted)) => Ok((checkpoint, interrupted, None)),
        Err((StorageError::CheckpointDamaged { what }, mut overlay)) => {
            overlay.reset()?;
            let (checkpoint, interrupted) = Checkpoint::open(files, overlay, genesis).map_err(|(error, _)| error)?;
            Ok((checkpoint, interrupted, Some(Discarded::Damaged(what))))
        }
        Err((error, _)) => Err(error),
    }
}

/// Loads the checkpoint and judges whether it can be used.
fn try_checkpoint<F: Files, O: Overlay>(
    checkpoint: &Checkpoint<F, O>,
    state: &mut State,
    opened: &Opened,
    reader: &Reader<F>,
    genesis: &Genesis,
) -> Result<Result<(BlockId, u64), Discarded>, StorageError> {
    let (id, height) = match checkpoint.load_into(state) {
        Ok(head) => head,
        Err(StorageError::CheckpointDamaged { what }) => return Ok(Err(Discarded::Damaged(what))),
        Err(error) => return Err(error),
    };
    if height == 0 {
        return Ok(Ok((id, height)));
    }
    let by_id: HashMap<BlockId, &Arc<Block>> = opened.block_ids.iter().copied().zip(&opened.blocks).collect();
    match by_id.get(&id) {
        Some(block) if block.header.state_root != state.root() => return Ok(Err(Discarded::WrongRoot { block: id })),
        _ => {}
    }
    let mut block = id;
    while block != genesis.block_id() {
        let Some(stored) = by_id.get(&block) else { return Ok(Err(Discarded::BlockMissing { block })) };
        // Nothing is taken back below a given state.
        let may_go = opened.base.is_none_or(|base| stored.header.height > base.height);
        if may_go && !reader.has_undo(&block) {
            return Ok(Err(Discarded::UndoMissing { block }));
        }
        block = stored.header.parent;
    }
    Ok(Ok((id, height)))
}

#[cfg(test)]
mod tests;
