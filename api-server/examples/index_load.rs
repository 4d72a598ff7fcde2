//! Measures the index under a storm: blocks of payments with random ids, written as the keeper writes them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use zeni_consensus::Applied;
use zeni_ledger::block::transactions_root;
use zeni_ledger::execute::Executed;
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{
    AccountId, Amount, Batch, Block, BlockHeader, BlockId, GenesisId, Outcome, Receipt, ReceiptsRoot, Sequence,
    SignatureBytes, StateRoot, TokenId, Undo, ValidatorIndex, VerifiedBatch,
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

fn disk_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable").path());
    entries
        .map(|entry| if entry.is_dir() { disk_bytes(&entry) } else { entry.metadata().expect("readable").len() })
        .sum()
}

fn bytes32(domain: &'static str, number: u64) -> [u8; 32] {
    zeni_ledger::hash::hash_parts(domain, &[&number.to_le_bytes()])
}

/// A batch of payments, each of another account.
fn batch(first: u64, payments: u64) -> VerifiedBatch {
    let payment = |number: u64| {
        let body = PaymentBody {
            network: 1,
            valid_until: 1,
            from: AccountId(bytes32("from", number)),
            to: AccountId([2; 32]),
            sequence: Sequence(number),
            amount: Amount(1),
            token: TokenId(1),
            flags: 0,
            reference: [0; 16],
        };
        body.with_signature(SignatureBytes([0; 64]))
    };
    let payments = (first..first + payments).map(payment).collect();
    let batch = Batch { author: ValidatorIndex(0), number: first, payments, signature: SignatureBytes([0; 64]) };
    VerifiedBatch::vouch(batch, &GenesisId([0; 32]))
}

fn applied(height: u64, payments: u64) -> Applied {
    let starts = (0..payments).step_by(1_024);
    let batches: Vec<VerifiedBatch> =
        starts.map(|first| batch(height * 1_000_000 + first, (payments - first).min(1_024))).collect();
    let receipts = batches.iter().enumerate().flat_map(|(number, batch)| {
        let ids = batch.ids().iter().enumerate();
        ids.map(move |(position, id)| Receipt {
            batch: number as u32,
            position: position as u16,
            id: *id,
            outcome: Outcome::Applied,
        })
    });
    let receipts = receipts.collect();
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
        receipts,
        applied: payments,
        rejected: 0,
        skipped: 0,
        undo: Undo::default(),
    };
    Applied {
        id: BlockId(bytes32("b", height)),
        block: Arc::new(block),
        batches,
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
    let path = dir.path().join("index");
    let index = Index::open(&path, BlockId([0; 32]), IndexConfig::default()).expect("opens").index;
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
    index.flush_all().expect("writes");
    drop(index);
    println!("{:.1} bytes on disk each", disk_bytes(&path) as f64 / total as f64);
    println!(
        "{total} payments: apply {:.3} us each, flush {:.2} us of CPU each",
        apply * 1e6 / total as f64,
        flush * 1e6 / total as f64
    );
}
