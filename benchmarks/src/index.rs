//! The API server's index under a storm: blocks of payments with random ids, written as the API server writes them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use zeni_consensus::Applied;
use zeni_ledger::block::transactions_root;
use zeni_ledger::execute::Executed;
use zeni_ledger::{
    Block, BlockHeader, BlockId, GenesisId, Outcome, Payment, Receipt, ReceiptsRoot, SignatureBytes, StateRoot, Undo,
    ValidatorIndex,
};
use zeni_storage::index::{Index, IndexConfig, IndexError, IndexedBlock};

use crate::context::Context;
use crate::error::BenchError;
use crate::machine::{directory_bytes, own_cpu_s};
use crate::payments::{self, GENESIS_MS, Receivers};
use crate::report::{Findings, Unit, Yardstick};

const GENESIS: GenesisId = GenesisId([0; 32]);

/// How much is indexed, and when it is flushed.
#[derive(Debug, Clone, Copy)]
struct Size {
    blocks: u64,
    payments_a_block: u64,
    /// So many payments in memory are flushed, down to the 20 blocks that may be taken back.
    flush_at: usize,
}

/// Flushed at two million payments, as the API server's `keeper` does: behind the 56th block and behind the 92nd.
const FULL: Size = Size { blocks: 92, payments_a_block: 36_000, flush_at: 2_000_000 };
/// Flushed on the way, too, though no figure of it counts.
const QUICK: Size = Size { blocks: 24, payments_a_block: 2_000, flush_at: 40_000 };

/// What one index cost.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    applying_s: f64,
    flushing_cpu_s: f64,
    /// Payments in what is counted, on the way and at the stop.
    flushed: [u64; 2],
}

/// Blocks of 36,000 payments, flushed when there are as many as the API server lets come together, and the rest as at a
/// stop.
pub(crate) fn run(context: &Context) -> Result<Findings, BenchError> {
    let size = context.choose(QUICK, FULL);
    let Size { blocks, payments_a_block, flush_at } = size;
    let mut findings =
        Findings::of(json!({ "blocks": blocks, "payments_a_block": payments_a_block, "flushed_at": flush_at }));
    for _ in context.rounds("index") {
        let place = context.temporary()?;
        let path = place.path().join("index");
        let cost = measure(&path, size)?;
        let (flushed, total) = (cost.flushed.iter().sum::<u64>(), blocks * payments_a_block);
        if flushed != total {
            return Err(BenchError::Wrong(format!("{flushed} of {total} payments were flushed while it counted")));
        }
        let total = total as f64;
        findings.add("applying", Unit::MicrosPerPayment, cost.applying_s * 1e6 / total);
        findings.add("flushing", Unit::CpuMicrosPerPayment, cost.flushing_cpu_s * 1e6 / total);
        findings.add("on disk", Unit::BytesPerPayment, directory_bytes(&path) as f64 / total);
    }
    for name in ["applying", "flushing"] {
        findings.against(name, &context.limit, Yardstick::OneCore);
    }
    Ok(findings)
}

/// Indexes all blocks and flushes every one of them, and counts both.
fn measure(path: &Path, size: Size) -> Result<Cost, BenchError> {
    let failed = |error: IndexError| BenchError::Wrong(format!("the index: {error}"));
    let index = Index::open(path, BlockId([0; 32]), IndexConfig::default()).map_err(failed)?.index;
    let mut cost = Cost::default();
    for height in 1..=size.blocks {
        let applied = applied(height, size.payments_a_block);
        let begun = Instant::now();
        index.apply(IndexedBlock::of(&applied)).map_err(failed)?;
        cost.applying_s += begun.elapsed().as_secs_f64();
        if index.memory_payments() >= size.flush_at {
            let begun = own_cpu_s();
            cost.flushed[0] += index.flush().map_err(failed)? as u64;
            cost.flushing_cpu_s += own_cpu_s() - begun;
        }
    }
    // Without the last blocks, which may be taken back and so come last, flushing would seem a fifth cheaper.
    let (before, begun) = (index.memory_payments(), own_cpu_s());
    index.flush_all().map_err(failed)?;
    cost.flushing_cpu_s += own_cpu_s() - begun;
    cost.flushed[1] = before.saturating_sub(index.memory_payments()) as u64;
    Ok(cost)
}

/// A block of payments by as many accounts, all applied; its roots are none.
fn applied(height: u64, count: u64) -> Applied {
    let some: Vec<Payment> = payments::unsigned(u64::MAX / 4, height * count, count, 0, Receivers::Hot).collect();
    let batches = payments::batches(&some, &GENESIS, height << 20);
    let receipts = batches.iter().enumerate().flat_map(|(number, batch)| {
        let ids = batch.ids().iter().enumerate();
        ids.map(move |(position, id)| Receipt {
            batch: number as u32,
            position: position as u16,
            id: *id,
            outcome: Outcome::Applied,
        })
    });
    let receipts: Vec<Receipt> = receipts.collect();
    let header = BlockHeader {
        proposer: ValidatorIndex(0),
        rank: 0,
        height,
        slot: GENESIS_MS + height,
        parent: BlockId([0; 32]),
        transactions_root: transactions_root(&[]),
        state_root: StateRoot([0; 32]),
        receipts_root: ReceiptsRoot([0; 32]),
        receipts: receipts.len() as u32,
    };
    let block = Block { header, digests: Vec::new(), signature: SignatureBytes([0; 64]) };
    let executed = Executed {
        state_root: StateRoot([0; 32]),
        receipts_root: ReceiptsRoot([0; 32]),
        applied: receipts.len() as u64,
        receipts,
        rejected: 0,
        skipped: 0,
        undo: Undo::default(),
    };
    let mut id = [7; 32];
    id[..8].copy_from_slice(&height.to_le_bytes());
    Applied {
        id: BlockId(id),
        block: Arc::new(block),
        batches,
        executed: Arc::new(executed),
        undo: Arc::new(Undo::default()),
        fresh: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payment_is_flushed_while_it_counts_on_the_way_and_at_the_end() {
        let place = tempfile::tempdir().unwrap();
        let size = Size { blocks: 23, payments_a_block: 10, flush_at: 210 };
        let cost = measure(&place.path().join("index"), size).unwrap();
        assert_eq!(cost.flushed, [30, 200], "all but the last twenty blocks, then those");
        assert!(cost.applying_s > 0.0);
    }

    #[test]
    fn the_sizes_reach_the_flush_on_the_way_and_stay_below_what_memory_may_hold() {
        for Size { blocks, payments_a_block, flush_at } in [QUICK, FULL] {
            let depth = IndexConfig::default().depth;
            assert!(depth * payments_a_block <= flush_at as u64 && flush_at as u64 <= blocks * payments_a_block);
            assert!(flush_at < IndexConfig::default().memory_payments_max);
        }
    }
}
