//! Measures the index under a storm: blocks of payments with random ids, written as the keeper writes them.

use std::sync::Arc;
use std::time::Instant;

use zeni_consensus::Applied;
use zeni_ledger::block::transactions_root;
use zeni_ledger::execute::Executed;
use zeni_ledger::{
    Block, BlockHeader, BlockId, Outcome, Receipt, ReceiptsRoot, SignatureBytes, StateRoot, TransactionId, Undo,
    ValidatorIndex,
};
use zeni_storage::index::{Index, IndexConfig, IndexedBlock};

fn cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("linux tells");
    let fields: Vec<&str> = text.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    (fields[11].parse::<f64>().expect("a number") + fields[12].parse::<f64>().expect("a number")) / 100.0
}

fn rss_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("linux tells");
    text.split_whitespace().nth(1).expect("a field").parse::<u64>().expect("a number") / 256
}

fn applied(height: u64, payments: u64) -> Applied {
    let id = |number: u64| {
        TransactionId(zeni_ledger::hash::hash_parts("x", &[&(height * 1_000_000 + number).to_le_bytes()]))
    };
    let receipt = |number: u64| Receipt {
        batch: (number / 1_024) as u32,
        position: (number % 1_024) as u16,
        id: id(number),
        outcome: Outcome::Applied,
    };
    let header = BlockHeader {
        proposer: ValidatorIndex(0),
        rank: 0,
        height,
        slot: height,
        parent: BlockId([0; 32]),
        transactions_root: transactions_root(&[]),
        state_root: StateRoot([0; 32]),
        receipts_root: ReceiptsRoot([0; 32]),
        receipts: payments as u32,
    };
    let block = Block { header, digests: Vec::new(), signature: SignatureBytes([0; 64]) };
    let executed = Executed {
        state_root: StateRoot([0; 32]),
        receipts_root: ReceiptsRoot([0; 32]),
        receipts: (0..payments).map(receipt).collect(),
        applied: payments,
        rejected: 0,
        skipped: 0,
        early: Vec::new(),
        undo: Undo::default(),
    };
    Applied {
        id: BlockId(zeni_ledger::hash::hash_parts("b", &[&height.to_le_bytes()])),
        block: Arc::new(block),
        batches: Vec::new(),
        executed: Arc::new(executed),
        undo: Arc::new(Undo::default()),
        fresh: true,
    }
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse::<u64>().expect("numbers: blocks, payments in each, blocks a flush"));
    let (blocks, payments, every) =
        (arguments.next().unwrap_or(84), arguments.next().unwrap_or(36_000), arguments.next().unwrap_or(7));
    let dir = tempfile::tempdir().expect("a directory");
    let index = Index::open(&dir.path().join("index"), BlockId([0; 32]), IndexConfig::default()).expect("opens").index;
    let (mut apply, mut flush) = (0.0, 0.0);
    for height in 1..=blocks {
        let applied = applied(height, payments);
        let begun = cpu_s();
        let wall = Instant::now();
        index.apply(IndexedBlock::of(&applied)).expect("follows");
        apply += wall.elapsed().as_secs_f64();
        if height % every == 0 {
            let wall = Instant::now();
            let mut written = 0;
            loop {
                let some = index.flush().expect("writes");
                written += some;
                if some == 0 {
                    break;
                }
            }
            let spent = cpu_s() - begun;
            flush += spent;
            println!(
                "height {height}: flushed {written} in {:.2} s, {spent:.2} s of CPU, rss {} MiB",
                wall.elapsed().as_secs_f64(),
                rss_mib()
            );
        }
    }
    let total = blocks * payments;
    println!(
        "{total} payments: apply {:.3} us each, flush {:.2} us of CPU each",
        apply * 1e6 / total as f64,
        flush * 1e6 / total as f64
    );
}
