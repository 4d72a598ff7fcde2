//! `node verify`: rechecks everything that a stopped node stored, and says so in JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use zeni_ledger::signature::verify_payments;
use zeni_ledger::{Batch, BlockId, Genesis, State};
use zeni_storage::{
    Checkpoint, DamagedPlace, DiskFiles, NoBaseState, SledOverlay, StorageError, Verification, VerifyError,
};

use crate::recovery::CHECKPOINT_DIRECTORY;
use crate::setup::{GenesisFileError, genesis_state, read_genesis};

/// A clean data directory.
#[derive(Debug, Serialize)]
pub struct Verified {
    pub height: u64,
    pub block: String,
    pub state_root: String,
    /// The height from which the chain was executed anew: 0, or where the log begins with the state of a snapshot.
    pub verified_from: u64,
    /// Of each token, in its smallest unit; all "0".
    pub sums: BTreeMap<u32, String>,
    pub transactions: Transactions,
    /// The same four counts beside the rest, for readers that want a flat object.
    #[serde(flatten)]
    pub flat: Transactions,
    pub blocks: u64,
    pub batches: u64,
    pub undos_missing: u64,
    /// Bytes behind the last record that a crash left; the next start moves them aside.
    pub torn_bytes: u64,
}

/// What became of the payments of the blocks that were executed anew.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Transactions {
    pub applied: u64,
    pub rejected: u64,
    pub skipped: u64,
    /// Applied ones with different ids.
    pub distinct: u64,
}

/// The first damage of a data directory.
#[derive(Debug, Serialize)]
pub struct Damaged {
    pub file: String,
    pub offset: u64,
    pub block: Option<String>,
    pub what: String,
}

/// Why a data directory cannot be called clean.
#[derive(Debug, thiserror::Error)]
pub enum VerifyDataError {
    #[error("there is no directory {0}")]
    NoDirectory(PathBuf),
    #[error(transparent)]
    Genesis(#[from] GenesisFileError),
    #[error("{0}")]
    Storage(#[from] StorageError),
    #[error("damaged")]
    Damaged(Damaged),
    #[error(transparent)]
    NoBaseState(NoBaseState),
}

/// Rechecks the data directory of a stopped node against its genesis; signatures on all cores.
pub fn verify_data(data: &Path, genesis_path: &Path) -> Result<Verified, VerifyDataError> {
    let genesis = read_genesis(genesis_path)?;
    if !data.is_dir() {
        return Err(VerifyDataError::NoDirectory(data.to_owned()));
    }
    let files = DiskFiles::open(data)?;
    let state = genesis_state(&genesis, genesis_path)?;
    let mut load = |state: &mut State| load_checkpoint(&files, &genesis, state);
    match zeni_storage::verify(&files, &genesis, state, &mut load, &mut |batches| bad_batch(&genesis, batches)) {
        Ok(verification) => Ok(verified(&verification)),
        Err(VerifyError::Storage(error)) => Err(error.into()),
        Err(VerifyError::Damaged(place)) => Err(VerifyDataError::Damaged(damaged(*place))),
        Err(VerifyError::NoBaseState(error)) => Err(VerifyDataError::NoBaseState(error)),
    }
}

/// Brings the genesis state to the checkpoint of a stopped node. An interrupted step is finished first, as a start
/// would.
pub(crate) fn load_checkpoint(
    files: &DiskFiles,
    genesis: &Genesis,
    state: &mut State,
) -> Result<(BlockId, u64), StorageError> {
    let overlay = SledOverlay::open(&files.directory().join(CHECKPOINT_DIRECTORY))?;
    let opened = Checkpoint::open(files.clone(), overlay, genesis);
    let (checkpoint, _) = opened.map_err(|(error, _)| error)?;
    checkpoint.load_into(state)
}

/// The first batch of which a signature does not hold. Authors are validators: storage checks that before.
fn bad_batch(genesis: &Genesis, batches: &[Batch]) -> Option<usize> {
    let id = genesis.id();
    batches.par_iter().position_first(|batch| {
        let author = &genesis.validators[batch.author.as_usize()].key;
        !batch.author_signature_holds(&id, author) || !verify_payments(&batch.payments, &id, rand::random()).is_empty()
    })
}

fn verified(verification: &Verification) -> Verified {
    let counts = &verification.transactions;
    let transactions = Transactions {
        applied: counts.applied,
        rejected: counts.rejected,
        skipped: counts.skipped,
        distinct: counts.distinct_applied,
    };
    Verified {
        height: verification.height,
        block: verification.block.to_string(),
        state_root: verification.state_root.to_string(),
        verified_from: verification.verified_from,
        sums: verification.token_sums.iter().map(|(token, sum)| (token.0, sum.to_string())).collect(),
        transactions,
        flat: transactions,
        blocks: verification.blocks,
        batches: verification.batches,
        undos_missing: verification.undos_missing,
        torn_bytes: verification.torn_bytes,
    }
}

fn damaged(place: DamagedPlace) -> Damaged {
    let DamagedPlace { file, offset, block, what } = place;
    Damaged { file, offset, block: block.map(|block| block.to_string()), what }
}
