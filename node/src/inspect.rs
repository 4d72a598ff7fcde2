//! `node inspect`: what a stopped node's data directory holds, for people and scripts, as JSON. Changes nothing and
//! also works on a damaged directory; what it prints was not rechecked, that is `node verify`'s work.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zeni_consensus::{Archive, ArchiveError};
use zeni_ledger::execute::execute;
use zeni_ledger::{AccountId, Block, BlockId, Genesis, State};
use zeni_storage::{DiskFiles, Inspection, NoBaseState, StorageError};

use crate::setup::{GenesisFileError, genesis_state, read_genesis};
use crate::verify_data::load_checkpoint;

/// Batches of a block that are listed, at most.
const LISTED_BATCHES_MAX: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// A block by height or id.
    pub block: Option<String>,
    pub segments: bool,
    pub account: Option<AccountId>,
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("there is no directory {0}")]
    NoDirectory(PathBuf),
    #[error(transparent)]
    Genesis(#[from] GenesisFileError),
    #[error("{0}")]
    Storage(#[from] StorageError),
    #[error("no block {0} is stored here; name a height or 64 hexadecimal digits of an id")]
    NoBlock(String),
    #[error(transparent)]
    NoBaseState(#[from] NoBaseState),
    #[error("block {block} cannot be executed: {what}")]
    Incomplete { block: BlockId, what: String },
}

/// Reads the directory and tells what is wanted.
pub fn inspect(data: &Path, genesis_path: &Path, wanted: &Wanted) -> Result<Value, InspectError> {
    let genesis = read_genesis(genesis_path)?;
    if !data.is_dir() {
        return Err(InspectError::NoDirectory(data.to_owned()));
    }
    let files = DiskFiles::open(data)?;
    let found = zeni_storage::inspect(&files, &genesis)?;
    let mut told = summary(&genesis, &found);
    if wanted.segments {
        told["segments"] = segments(&found);
    }
    if let Some(name) = &wanted.block {
        told["blocks_found"] = blocks(&genesis, &found, name)?;
    }
    if let Some(account) = &wanted.account {
        told["account"] = account_at_head(&genesis, genesis_path, &files, &found, account)?;
    }
    Ok(told)
}

fn summary(genesis: &Genesis, found: &Inspection<DiskFiles>) -> Value {
    let head = found.canonical.last().copied().unwrap_or(genesis.block_id());
    json!({
        "genesis": genesis.id().to_string(),
        "height": found.canonical.len(),
        "head": head.to_string(),
        "base_height": found.base.map_or(0, |base| base.height),
        "blocks": found.blocks.len(),
        "batches": found.batches.len(),
        "payments": found.batches.iter().map(|batch| u64::from(batch.payments)).sum::<u64>(),
        "damage": found.damage.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn segments(found: &Inspection<DiskFiles>) -> Value {
    let tell = |segment: &zeni_storage::SegmentSummary| {
        json!({
            "file": segment.file,
            "bytes": segment.bytes,
            "records": segment.records,
            "sealed": segment.sealed,
            "torn_at": segment.torn_at,
        })
    };
    found.segments.iter().map(tell).collect()
}

/// All blocks at a height, or the one with an id.
fn blocks(genesis: &Genesis, found: &Inspection<DiskFiles>, name: &str) -> Result<Value, InspectError> {
    let (id, height) = (BlockId::from_hex(name), name.parse::<u64>().ok());
    let mut named: Vec<_> = (found.blocks.iter())
        .filter(|(other, block)| id == Some(**other) || height == Some(block.header.height))
        .collect();
    if named.is_empty() {
        return Err(InspectError::NoBlock(name.into()));
    }
    named.sort_by_key(|(id, _)| **id);
    Ok(named.into_iter().map(|(id, block)| tell_block(genesis, found, id, block)).collect())
}

fn tell_block(genesis: &Genesis, found: &Inspection<DiskFiles>, id: &BlockId, block: &Block) -> Value {
    let header = &block.header;
    let proposer = genesis.validators.get(header.proposer.as_usize());
    json!({
        "id": id.to_string(),
        "height": header.height,
        "canonical": found.canonical.contains(id),
        "slot": header.slot,
        "slot_time_ms": genesis.slot_time_ms(header.slot),
        "proposer": proposer.map(|validator| &validator.name),
        "rank": header.rank,
        "parent": header.parent.to_string(),
        "state_root": header.state_root.to_string(),
        "receipts_root": header.receipts_root.to_string(),
        "receipts": header.receipts,
        "batch_count": block.digests.len(),
        "batches": block.digests.iter().take(LISTED_BATCHES_MAX).map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// Executes the canonical chain from genesis, or from where its batches begin, without checking signatures again, and
/// shows one account at its head.
fn account_at_head(
    genesis: &Genesis,
    genesis_path: &Path,
    files: &DiskFiles,
    found: &Inspection<DiskFiles>,
    id: &AccountId,
) -> Result<Value, InspectError> {
    let mut state = genesis_state(genesis, genesis_path)?;
    let mut load = |state: &mut State| load_checkpoint(files, genesis, state);
    let from = found.first_state(&mut state, &mut load)?;
    for block in found.canonical.iter().skip(from as usize) {
        let incomplete = |what: String| InspectError::Incomplete { block: *block, what };
        let digests = &found.blocks[block].digests;
        let batches = (digests.iter())
            .map(|digest| match found.reader.batch(digest) {
                Ok(Some(batch)) => Ok(batch),
                Ok(None) => Err(incomplete(format!("batch {digest} is not stored"))),
                Err(error @ (ArchiveError::Io(_) | ArchiveError::Damaged { .. })) => Err(incomplete(error.to_string())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let slot_time_ms = genesis.slot_time_ms(found.blocks[block].header.slot);
        execute(&mut state, &genesis.rules, slot_time_ms, &batches);
    }
    let Some(account) = state.account(id) else { return Ok(json!({ "id": id.to_string(), "exists": false })) };
    let balances: Vec<Value> = (account.holdings())
        .map(|(token, balance)| json!({ "token": token.0, "balance": balance.to_string() }))
        .collect();
    Ok(json!({
        "id": id.to_string(),
        "exists": true,
        "height": found.canonical.len(),
        "next_sequence": account.next_sequence().0,
        "balances": balances,
    }))
}
