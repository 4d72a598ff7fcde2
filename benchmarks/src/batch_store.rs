//! Appending batches to a node's log on a real disk, with one sync for several of them.

use std::time::{Duration, Instant};

use serde_json::json;
use zeni_consensus::Record;
use zeni_ledger::VerifiedBatch;
use zeni_storage::{DiskFiles, Limits, Store};

use crate::context::Context;
use crate::error::BenchError;
use crate::payments::{self, BATCH};
use crate::report::{Findings, Unit, Yardstick};

/// Batches that share a sync: an idle node's, and what gathers behind a sync at tens of thousands of payments a second.
const GROUPS: [usize; 3] = [1, 8, 64];

/// A new log for every round and group; appending and syncing take turns on one thread, where a node does them on two.
pub(crate) fn run(context: &Context) -> Result<Findings, BenchError> {
    let count = context.choose(64, 512);
    let (genesis, _) = payments::genesis(16, 1_000);
    let id = genesis.id();
    let some: Vec<_> = payments::signed(BATCH, &id);
    // The same payments under other numbers: other digests, other records.
    let batches: Vec<VerifiedBatch> =
        (0..count as u64).flat_map(|number| payments::batches(&some, &id, 1 + number)).collect();
    let payments = (count * BATCH) as f64;
    let mut findings = Findings::of(json!({ "batches": count, "payments_each": BATCH, "groups": GROUPS }));
    for _ in context.rounds("batch-store") {
        for group in GROUPS {
            let place = context.temporary()?;
            let files = DiskFiles::open(place.path())?;
            Store::init(&files, &id)?;
            let (mut store, _) = Store::open(files, &genesis, Limits::default())?;
            let syncer = store.syncer();
            let (before, bytes_before) = (syncer.syncs(), syncer.disk_bytes());
            let (mut appending, begun) = (Duration::ZERO, Instant::now());
            for some in batches.chunks(group) {
                let appended = Instant::now();
                some.iter().try_for_each(|batch| store.append(&Record::Batch(batch.clone())))?;
                appending += appended.elapsed();
                syncer.sync()?;
            }
            let whole = begun.elapsed();
            let syncs = syncer.syncs() - before;
            let bytes = (syncer.disk_bytes() - bytes_before) as f64;
            let name = |what: &str| format!("{group:2} a sync: {what}");
            findings.add(name("on disk"), Unit::PaymentsPerS, payments / whole.as_secs_f64());
            findings.add(name("appending"), Unit::MicrosPerPayment, appending.as_secs_f64() * 1e6 / payments);
            let syncing = (whole - appending).as_secs_f64();
            findings.add(name("a sync"), Unit::Milliseconds, syncing * 1e3 / syncs as f64);
            findings.add(name("syncs"), Unit::Count, syncs as f64);
            findings.add(name("written"), Unit::BytesPerPayment, bytes / payments);
        }
    }
    for group in GROUPS {
        findings.against(&format!("{group:2} a sync: on disk"), &context.limit, Yardstick::AllCores);
        findings.against(&format!("{group:2} a sync: appending"), &context.limit, Yardstick::OneCore);
    }
    findings.notes.push("Syncs at the end of a 64 MiB segment count, and their time is part of appending.".into());
    Ok(findings)
}
