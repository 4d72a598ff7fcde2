//! The checkpoint in sled: writing changed accounts, writing them again, and loading all of it at a start.

use std::time::Instant;

use serde_json::json;
use zeni_consensus::CheckpointDelta;
use zeni_ledger::{Account, Balance, BlockId, State};
use zeni_storage::{Checkpoint, DiskFiles, SledOverlay, Store};

use crate::context::{Context, say};
use crate::error::BenchError;
use crate::machine::{directory_bytes, own_cpu_s, own_rss_bytes};
use crate::payments::{self, TOKEN, account_id};
use crate::report::{Findings, Unit, figure};

/// One step to a new checkpoint, one that changes all of its accounts, one that changes a tenth, and a load.
pub(crate) fn run(context: &Context) -> Result<Findings, BenchError> {
    let sizes = context.accounts_or(&[10_000], &[100_000, 1_000_000]);
    let mut findings = Findings::of(json!({ "accounts": sizes }));
    for accounts in &sizes {
        for _ in context.rounds("checkpoint") {
            measured(&mut findings, context, *accounts)?;
        }
    }
    findings.notes.push(
        "Resident bytes are those of this process after a step beyond those before the first: the accounts of the \
         step, sled's cache and what it keeps besides. Bytes on disk include what sled has not reclaimed yet."
            .into(),
    );
    Ok(findings)
}

fn measured(findings: &mut Findings, context: &Context, accounts: u64) -> Result<(), BenchError> {
    let place = context.temporary()?;
    let (genesis, _) = payments::genesis(16, 1_000);
    let files = DiskFiles::open(place.path())?;
    Store::init(&files, &genesis.id())?;
    let path = place.path().join("checkpoint");
    let before = own_rss_bytes();
    let overlay = SledOverlay::open(&path)?;
    let (mut checkpoint, _) = Checkpoint::open(files, overlay, &genesis).map_err(|(error, _)| error)?;
    let mut from = genesis.block_id();
    for (height, (what, changed)) in
        [("first", accounts), ("all again", accounts), ("a tenth", accounts / 10)].into_iter().enumerate()
    {
        let name = |part: &str| format!("{} accounts, {what}: {part}", figure(accounts as f64));
        say(&name("writing"));
        let height = height as u64 + 1;
        let to = BlockId([height as u8; 32]);
        let accounts = (0..changed).map(|number| account(number, height)).collect();
        let (begun, cpu) = (Instant::now(), own_cpu_s());
        checkpoint.apply(&CheckpointDelta { from, to, height, accounts })?;
        findings.add(name("seconds"), Unit::Seconds, begun.elapsed().as_secs_f64());
        findings.add(name("processor time"), Unit::CpuSeconds, own_cpu_s() - cpu);
        findings.add(name("on disk"), Unit::Bytes, directory_bytes(&path) as f64);
        findings.add(name("resident"), Unit::Bytes, own_rss_bytes().saturating_sub(before) as f64);
        from = to;
    }
    let mut state = State::new(payments::depth(accounts));
    let begun = Instant::now();
    let (head, _) = checkpoint.load_into(&mut state)?;
    let name = format!("{} accounts: loading, tree included", figure(accounts as f64));
    findings.add(name, Unit::Seconds, begun.elapsed().as_secs_f64());
    if state.len() != accounts || head != from {
        return Err(BenchError::Wrong(format!("{} of {accounts} accounts were loaded", state.len())));
    }
    Ok(())
}

/// An account whose content is another at every height.
fn account(number: u64, height: u64) -> Account {
    let mut account = Account::new(account_id(number));
    let units = Balance::new(i128::from(height * 1_000_003 + number));
    assert!(account.set_balance(TOKEN, units), "a new account takes one token");
    account
}
