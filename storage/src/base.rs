//! Where a log begins whose state was given by a snapshot: the base. Below it there are blocks, and neither batches nor
//! undo records; the base is final, so nothing ever goes back there.

use std::collections::HashMap;
use std::sync::Arc;

use zeni_consensus::Archive;
use zeni_ledger::execute::undo;
use zeni_ledger::{Block, BlockId, FinalBlock, State};

use crate::error::StorageError;
use crate::files::Files;
use crate::reader::Reader;

/// Brings the genesis state to the checkpoint, and says which block that stands at and its height.
pub type LoadCheckpoint<'a> = dyn FnMut(&mut State) -> Result<(BlockId, u64), StorageError> + 'a;

/// Why the state at a base cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NoBaseState {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(
        "the log begins at the state of block {base} at height {height}, and the checkpoint does not lead there: {what}"
    )]
    Unreachable { base: BlockId, height: u64, what: String },
}

/// The higher of two bases; a certificate of genesis is none.
pub(crate) fn higher(known: Option<FinalBlock>, found: FinalBlock) -> Option<FinalBlock> {
    known.into_iter().chain((found.height > 0).then_some(found)).max_by_key(|base| base.height)
}

/// Brings the genesis state to the base: the checkpoint is loaded, and what was executed between is taken back. The
/// root is compared with the headers at both ends, so that what comes out is what a quorum certified.
pub(crate) fn reach<F: Files>(
    base: FinalBlock,
    blocks: &HashMap<BlockId, Arc<Block>>,
    reader: &Reader<F>,
    load: &mut LoadCheckpoint<'_>,
    state: &mut State,
) -> Result<(), NoBaseState> {
    let lost = |what: String| NoBaseState::Unreachable { base: base.id, height: base.height, what };
    let block = |id: &BlockId| blocks.get(id).ok_or_else(|| lost(format!("the log does not hold block {id}")));
    let has_root = |id: &BlockId, state: &State| match block(id)?.header.state_root == state.root() {
        true => Ok(()),
        false => Err(lost(format!("the state at block {id} does not have the root in its header"))),
    };
    let (mut current, mut height) = load(state)?;
    if height < base.height {
        return Err(lost(format!("it stands at height {height}")));
    }
    has_root(&current, state)?;
    while height > base.height {
        let record = reader.undo(&current).map_err(|error| lost(error.to_string()))?;
        let record = record.ok_or_else(|| lost(format!("there is no undo record of block {current}")))?;
        undo(state, &record);
        current = block(&current)?.header.parent;
        height -= 1;
    }
    match current == base.id {
        true => has_root(&current, state),
        false => Err(lost(format!("it stands on block {current} at that height"))),
    }
}
