//! The API server's index under a storm: blocks of payments with random ids, written as the API server writes them.

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
/// Blocks between two flushes, as many as the API server holds back.
const FLUSH_EVERY: u64 = 7;

/// Blocks of 36,000 payments, a flush after every seventh.
pub(crate) fn run(context: &Context) -> Result<Findings, BenchError> {
    let (blocks, payments) = context.choose((4, 2_000), (56, 36_000));
    let mut findings =
        Findings::of(json!({ "blocks": blocks, "payments_a_block": payments, "blocks_a_flush": FLUSH_EVERY }));
    for _ in context.rounds("index") {
        let place = context.temporary()?;
        let path = place.path().join("index");
        let failed = |error: IndexError| BenchError::Wrong(format!("the index: {error}"));
        let index = Index::open(&path, BlockId([0; 32]), IndexConfig::default()).map_err(failed)?.index;
        let (mut applying, mut flushing_cpu) = (0.0, 0.0);
        for height in 1..=blocks {
            let applied = applied(height, payments);
            let begun = Instant::now();
            index.apply(IndexedBlock::of(&applied)).map_err(failed)?;
            applying += begun.elapsed().as_secs_f64();
            if height % FLUSH_EVERY == 0 || height == blocks {
                let begun = own_cpu_s();
                while index.flush().map_err(failed)? > 0 {}
                flushing_cpu += own_cpu_s() - begun;
            }
        }
        index.flush_all().map_err(failed)?;
        drop(index);
        let total = (blocks * payments) as f64;
        findings.add("applying", Unit::MicrosPerPayment, applying * 1e6 / total);
        findings.add("flushing", Unit::CpuMicrosPerPayment, flushing_cpu * 1e6 / total);
        findings.add("on disk", Unit::BytesPerPayment, directory_bytes(&path) as f64 / total);
    }
    for name in ["applying", "flushing"] {
        findings.against(name, &context.limit, Yardstick::OneCore);
    }
    Ok(findings)
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
