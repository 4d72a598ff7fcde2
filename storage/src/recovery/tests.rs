use zeni_consensus::finality::{LogEntry, LoggedTimeout};
use zeni_consensus::{Follower, Input, Millis, Record};
use zeni_ledger::BatchDigest;

use super::*;
use crate::fixture::{World, blocks};
use crate::memory::MemoryFiles;
use crate::overlay::FileOverlay;

type InMemory = Recovery<MemoryFiles, FileOverlay<MemoryFiles>>;

fn started(files: &MemoryFiles, world: &World) -> InMemory {
    let overlay = FileOverlay::open(files).unwrap();
    recover(files.clone(), overlay, &world.genesis, || Ok(world.genesis_state()), Limits::default()).unwrap()
}

/// A directory with a chain of six blocks and a checkpoint at the fourth, stopped cleanly.
fn home() -> (World, Vec<Record>, MemoryFiles) {
    let mut world = World::new(3);
    let records = world.chain(6, 2, 4);
    let files = MemoryFiles::new();
    Store::init(&files, &world.id).unwrap();
    let mut start = started(&files, &world);
    records.iter().for_each(|record| world.append(&mut start.store, record));
    start.store.syncer().sync_all().unwrap();
    start.checkpoint.apply(&world.step(None, &blocks(&records)[3])).unwrap();
    start.safety.write(&SafetyRecord { last_signed_slot: 6, ..SafetyRecord::default() }).unwrap();
    start.store.seal().unwrap();
    (world, records, files)
}

/// Lets a follower take up what was recovered, and steps it until it has executed all that it can.
fn follow(start: InMemory, world: &World) -> Follower {
    let archive = start.store.reader();
    let genesis = Arc::new(world.genesis.clone());
    let (mut follower, _) = Follower::recover(genesis, start.recovered, Millis(0)).unwrap();
    for tick in 1..20 {
        follower.step(Millis(tick * 1_000), Input::Tick, &archive);
    }
    follower
}

#[test]
fn an_empty_directory_starts_at_genesis() {
    let world = World::new(3);
    let files = MemoryFiles::new();
    Store::init(&files, &world.id).unwrap();
    let start = started(&files, &world);
    assert_eq!((start.report.start, start.recovered.checkpoint_height), (Start::Genesis, 0));
    assert_eq!(start.recovered.checkpoint, world.genesis.block_id());
    assert_eq!(start.recovered.state.root(), world.genesis_state().root());
    assert_eq!((start.recovered.safety, start.report.safety_damaged), (None, false));
}

#[test]
fn a_start_loads_the_checkpoint_and_a_follower_executes_the_rest() {
    let (world, records, files) = home();
    let start = started(&files, &world);
    assert_eq!(start.report.start, Start::Checkpoint { height: 4 });
    assert_eq!(start.recovered.state.root(), blocks(&records)[3].header.state_root);
    assert_eq!(start.recovered.safety, Some(SafetyRecord { last_signed_slot: 6, ..SafetyRecord::default() }));
    assert_eq!(start.recovered.blocks, blocks(&records));
    let follower = follow(start, &world);
    assert_eq!((follower.head().1, follower.state().root()), (6, world.state.root()));
}

/// The start must discard the checkpoint for this reason and still come to the right state.
fn discards(files: &MemoryFiles, world: &World, expected: &Discarded) {
    let start = started(files, world);
    assert_eq!(start.report.start, Start::Discarded(expected.clone()));
    assert_eq!(start.checkpoint.head().unwrap(), (world.genesis.block_id(), 0));
    assert_eq!(start.recovered.state.root(), world.genesis_state().root());
    drop(start);
    assert_eq!(started(files, world).report.start, Start::Genesis, "it was discarded once and for all");
}

#[test]
fn a_checkpoint_with_a_wrong_state_is_discarded() {
    let (world, records, files) = home();
    let start = started(&files, &world);
    let block = blocks(&records)[4].id(&world.id);
    let mut checkpoint = start.checkpoint;
    let mut step = world.step(Some(&blocks(&records)[3]), &blocks(&records)[4]);
    step.accounts.pop();
    checkpoint.apply(&step).unwrap();
    discards(&files, &world, &Discarded::WrongRoot { block });
}

#[test]
fn a_checkpoint_whose_block_was_lost_is_discarded_and_the_rest_waits_for_peers() {
    let (world, records, files) = home();
    // The log is a peer's that holds everything but the third block.
    let shorter = MemoryFiles::new();
    Store::init(&shorter, &world.id).unwrap();
    let lost = blocks(&records)[2].clone();
    let mut start = started(&shorter, &world);
    let kept = records.iter().filter(|record| **record != Record::Block(lost.clone()));
    kept.for_each(|record| world.append(&mut start.store, record));
    start.store.seal().unwrap();
    for name in files.list().unwrap().iter().filter(|name| name.starts_with("checkpoint")) {
        shorter.install(name, files.content(name).unwrap());
    }
    let block = lost.id(&world.id);
    discards(&shorter, &world, &Discarded::BlockMissing { block });
    let mut start = started(&shorter, &world);
    assert_eq!(start.report.missing.blocks, [block].into());
    // It is fetched and appended behind its children; the next start has it in its place.
    start.store.append(&Record::Block(lost)).unwrap();
    drop(start);
    let start = started(&shorter, &world);
    assert!(start.report.missing.is_empty());
    assert_eq!(follow(start, &world).head().1, 6);
}

#[test]
fn a_checkpoint_without_undo_records_below_it_is_discarded() {
    let (world, records, files) = home();
    files.remove("undo-00000001.log").unwrap();
    files.remove("stopped").unwrap();
    let block = blocks(&records)[3].id(&world.id);
    discards(&files, &world, &Discarded::UndoMissing { block });
}

#[test]
fn a_damaged_safety_file_makes_the_node_follow_only() {
    let (world, _, files) = home();
    let len = files.content("safety").unwrap().len() as u64;
    for offset in [100, len - 100] {
        files.flip("safety", offset, 1);
    }
    let start = started(&files, &world);
    assert_eq!((start.recovered.safety, start.report.safety_damaged), (None, true));
}

#[test]
fn damage_is_reported_with_what_peers_must_be_asked_for() {
    let (world, records, files) = home();
    let Record::Batch(batch) = &records[0] else { panic!("the first record is a batch") };
    files.flip("chain-00000001.log", 500, 1);
    let start = started(&files, &world);
    assert_eq!(start.report.damage.len(), 1);
    let expected: std::collections::BTreeSet<BatchDigest> = [batch.digest()].into();
    assert_eq!(start.report.missing.batches, expected);
    assert_eq!(start.report.start, Start::Checkpoint { height: 4 }, "the state does not need the batch again");
}

#[test]
fn a_directory_on_disk_starts_again_with_sled() {
    let mut world = World::new(3);
    let records = world.chain(4, 2, 3);
    let directory = tempfile::tempdir().unwrap();
    let genesis_state = || Ok(world.genesis_state());
    let refused = recover_disk(directory.path(), &world.genesis, genesis_state, Limits::default()).map(drop);
    assert!(matches!(refused, Err(StorageError::NotInitialised)), "{refused:?}");
    Store::init(&DiskFiles::open(directory.path()).unwrap(), &world.id).unwrap();
    {
        let mut start = recover_disk(directory.path(), &world.genesis, genesis_state, Limits::default()).unwrap();
        records.iter().for_each(|record| world.append(&mut start.store, record));
        start.store.syncer().sync_all().unwrap();
        start.checkpoint.apply(&world.step(None, &blocks(&records)[2])).unwrap();
    }
    let start = recover_disk(directory.path(), &world.genesis, genesis_state, Limits::default()).unwrap();
    assert_eq!(start.report.start, Start::Checkpoint { height: 3 });
    assert_eq!(start.recovered.state.root(), blocks(&records)[2].header.state_root);
}

/// Whichever byte of a sealed log rots: what it held of the open decision is either all there or said to be lost, also to
/// the start after the one that mended it; and nothing is there twice.
#[test]
fn lost_votes_are_remembered_from_before_the_log_is_mended() {
    let mut world = World::new(3);
    let records = world.chain(2, 1, 1);
    let certificate = world.certify(1, &blocks(&records)[0]);
    let entry = |decision, round| (decision, LogEntry::Timeout { round, timeout: LoggedTimeout::Propose });
    let logged = [entry(1, 0), entry(2, 0), entry(2, 1)];
    let safety = SafetyRecord { last_signed_slot: 2, ..SafetyRecord::default() };
    let home = || {
        let files = MemoryFiles::new();
        Store::init(&files, &world.id).unwrap();
        let mut start = started(&files, &world);
        start.safety.write(&safety).unwrap();
        let append = |store: &mut Store<MemoryFiles>, (decision, entry): &(u64, LogEntry)| {
            store.append(&Record::Finality { decision: *decision, entry: entry.clone() }).unwrap();
        };
        append(&mut start.store, &logged[0]);
        start.store.append(&Record::Certificate(certificate.clone())).unwrap();
        records.iter().for_each(|record| world.append(&mut start.store, record));
        logged[1..].iter().for_each(|entry| append(&mut start.store, entry));
        start.store.seal().unwrap();
        files
    };
    let name = home().list().unwrap().into_iter().find(|name| name.starts_with("chain-")).unwrap();
    let (mut lost, mut kept) = (0, 0);
    for offset in 0..home().content(&name).unwrap().len() as u64 {
        let files = home();
        files.flip(&name, offset, 1);
        let Recovery { recovered, report, .. } = started(&files, &world);
        let whole = recovered.finality == logged[1..] && recovered.certificates.len() == 1;
        assert!(whole || recovered.votes_lost, "offset {offset}: {:?}", recovered.finality);
        let open: Vec<_> = recovered.finality.iter().filter(|(decision, _)| *decision == 2).collect();
        assert!(open.len() <= 2 && (open.len() < 2 || open[0] != open[1]), "offset {offset}: {open:?}");
        let again = started(&files, &world);
        let record = again.recovered.safety.unwrap();
        assert_eq!(record, SafetyRecord { readmitted: recovered.votes_lost, ..safety }, "offset {offset}");
        let named = report.damage.iter().any(|damage| damage.file == name);
        assert!(named || report.torn.iter().any(|tail| tail.file == name), "offset {offset}: {report:?}");
        *(if recovered.votes_lost { &mut lost } else { &mut kept }) += 1;
    }
    assert!(lost > 100 && kept > 100, "{lost} lost, {kept} kept");
}
