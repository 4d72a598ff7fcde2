use std::sync::Arc;

use zeni_consensus::snapshot::{Assembly, FalseSnapshot, Fetch};
use zeni_consensus::{Effect, Follower, Input, Message, Millis, Peer, Record};
use zeni_ledger::{Block, ValidatorIndex};

use super::*;
use crate::checkpoint::Checkpoint;
use crate::fixture::{World, blocks};
use crate::memory::{Fault, MemoryFiles};
use crate::overlay::{FileOverlay, Overlay};
use crate::recovery::{Discarded, Recovery, Start, recover};
use crate::store::Store;
use crate::stream::Limits;
use crate::verification::{VerifyError, check_serially, verify};

const PEER: ValidatorIndex = ValidatorIndex(1);
/// Some five records fit.
const SMALL: Limits = Limits { segment_bytes: 4_000 };

type InMemory = Recovery<MemoryFiles, FileOverlay<MemoryFiles>>;

fn started(files: &MemoryFiles, world: &World) -> InMemory {
    try_start(files, world).unwrap()
}

fn try_start(files: &MemoryFiles, world: &World) -> Result<InMemory, StorageError> {
    let overlay = FileOverlay::open(files)?;
    recover(files.clone(), overlay, &world.genesis, || Ok(world.genesis_state()), SMALL)
}

fn initialised(world: &World) -> MemoryFiles {
    let files = MemoryFiles::new();
    Store::init(&files, &world.id).unwrap();
    files
}

/// A node with a chain of seven blocks, the fourth of them final and its checkpoint.
fn served() -> (World, Vec<Record>, InMemory) {
    let mut world = World::new(3);
    let records = world.chain(7, 2, 4);
    let files = initialised(&world);
    let mut start = started(&files, &world);
    records.iter().for_each(|record| world.append(&mut start.store, record));
    let fourth = &blocks(&records)[3];
    start.store.append(&Record::Certificate(world.certify(1, fourth))).unwrap();
    start.checkpoint.apply(&world.step(None, fourth)).unwrap();
    (world, records, start)
}

fn export(start: &InMemory, world: &World, height_min: u64) -> Option<Export<MemoryFiles>> {
    let reader = start.store.reader();
    Export::make(start.store.files(), &start.checkpoint, &reader, &world.genesis, height_min, &mut |_| true).unwrap()
}

/// Fetches what `export` serves into a directory.
fn install(export: &Export<MemoryFiles>, files: &MemoryFiles, world: &World) -> Result<(), StorageError> {
    let genesis = Arc::new(world.genesis.clone());
    let mut install = Install::begin(files.clone(), FileOverlay::open(files)?)?;
    let mut fetch = Fetch::new(genesis.clone());
    fetch.offer(PEER, export.manifest().clone()).unwrap();
    let mut assembly = Assembly::new(genesis, world.genesis_state(), fetch.begin().unwrap());
    while !fetch.is_complete() {
        for (peer, page) in fetch.questions(Millis(0)) {
            fetch.page(peer, page, export.page(page)?.expect("a page that the manifest names"), Millis(0)).unwrap();
        }
        while let Some(page) = fetch.next_page() {
            install.accounts(&assembly.take(&page).unwrap())?;
        }
    }
    install.finish(&assembly.finish().unwrap(), &world.genesis, SMALL)
}

fn follow(start: InMemory, world: &World, more: &[Record]) -> (Follower, Store<MemoryFiles>) {
    let genesis = Arc::new(world.genesis.clone());
    let mut store = start.store;
    let (mut follower, _) = Follower::recover(genesis, start.recovered, Millis(0)).unwrap();
    let now = |tick: u64| Millis(world.genesis.slot_time_ms(tick + 10));
    follower.step(now(0), Input::Connected(PEER), &store.reader());
    for (tick, record) in more.iter().enumerate() {
        let message = match record {
            Record::Batch(batch) => Message::Batch(batch.clone()),
            Record::Block(block) => Message::Block(block.clone()),
            other => panic!("{other:?}"),
        };
        let input = Input::Message { from: Peer::Validator(PEER), message };
        let effects = follower.step(now(tick as u64), input, &store.reader());
        carry_out(effects, &mut store);
    }
    for tick in 0..30 {
        let effects = follower.step(now(100 + tick), Input::Tick, &store.reader());
        carry_out(effects, &mut store);
    }
    (follower, store)
}

fn carry_out(effects: Vec<Effect>, store: &mut Store<MemoryFiles>) {
    for effect in effects {
        match effect {
            Effect::Append(record) => store.append(&record).unwrap(),
            Effect::AppendUndo { block, height, undo } => store.append_undo(block, height, &undo).unwrap(),
            Effect::Halt(reason) => panic!("{reason}"),
            _ => {}
        }
    }
}

/// What comes behind the fourth block of the chain.
fn behind_fourth(records: &[Record]) -> &[Record] {
    let fourth = records.iter().enumerate().filter(|(_, record)| matches!(record, Record::Block(_))).nth(3).unwrap().0;
    &records[fourth + 1..]
}

fn checkpoint(files: &MemoryFiles, world: &World) -> Checkpoint<MemoryFiles, FileOverlay<MemoryFiles>> {
    Checkpoint::open(files.clone(), FileOverlay::open(files).unwrap(), &world.genesis).unwrap().0
}

#[test]
fn a_node_begins_at_a_snapshot_goes_on_and_can_be_verified_from_there() {
    let (world, records, home) = served();
    let fourth = blocks(&records)[3].clone();
    let files = initialised(&world);
    install(&export(&home, &world, 1).unwrap(), &files, &world).unwrap();
    let start = started(&files, &world);
    assert_eq!(start.report.start, Start::Checkpoint { height: 4 });
    assert_eq!(start.report.base.map(|base| (base.id, base.height)), Some((fourth.id(&world.id), 4)));
    assert!(start.report.missing.is_empty(), "below the base nothing is missing");
    assert_eq!(start.recovered.safety, None, "it knows nothing of what it signed");
    let (follower, store) = follow(start, &world, behind_fourth(&records));
    assert_eq!((follower.head().1, follower.state().root()), (7, world.state.root()));
    assert_eq!(follower.last_final().height, 4);
    store.seal().unwrap();
    // The checkpoint moves on; what was executed since the base is taken back, and executed again.
    checkpoint(&files, &world).apply(&world.step(Some(&fourth), &blocks(&records)[5])).unwrap();
    let mut bad_batch = check_serially(&world.genesis, || [3; 32]);
    let mut load = |state: &mut zeni_ledger::State| checkpoint(&files, &world).load_into(state);
    let found = verify(&files, &world.genesis, world.genesis_state(), &mut load, &mut bad_batch).unwrap();
    assert_eq!((found.height, found.state_root, found.verified_from), (7, world.state.root(), 4));
    assert_eq!((found.transactions.applied, found.undos_missing), (3 * 2 * 4, 0));
    let inspected = crate::inspect(&files, &world.genesis).unwrap();
    let mut state = world.genesis_state();
    assert_eq!(inspected.first_state(&mut state, &mut load).unwrap(), 4);
    assert_eq!(state.root(), fourth.header.state_root);
    // And it can serve a snapshot itself.
    let start = started(&files, &world);
    assert_eq!(start.report.start, Start::Checkpoint { height: 6 });
    assert!(export(&start, &world, 1).is_none(), "no certificate names the sixth block");
}

#[test]
fn a_node_that_came_by_snapshot_serves_the_same_one() {
    let (world, _, home) = served();
    let first = export(&home, &world, 4).unwrap();
    let files = initialised(&world);
    install(&first, &files, &world).unwrap();
    let second = export(&started(&files, &world), &world, 4).unwrap();
    assert_eq!(first.manifest(), second.manifest());
    let pages = (first.manifest().blocks.len(), first.manifest().accounts.len());
    assert_eq!((pages, first.bytes()), ((1, 1), second.bytes()));
}

#[test]
fn nothing_is_served_below_what_is_asked_for_or_without_a_certificate() {
    let (world, records, mut home) = served();
    assert!(export(&home, &world, 5).is_none());
    let (fourth, fifth) = (blocks(&records)[3].clone(), blocks(&records)[4].clone());
    home.checkpoint.apply(&world.step(Some(&fourth), &fifth)).unwrap();
    assert!(export(&home, &world, 1).is_none());
    let reader = home.store.reader();
    home.store.append(&Record::Certificate(world.certify(2, &fifth))).unwrap();
    let stopped =
        Export::make(home.store.files(), &home.checkpoint, &reader, &world.genesis, 1, &mut |_| false).unwrap_err();
    assert!(matches!(stopped, StorageError::SnapshotStopped));
    let names = home.store.files().list().unwrap();
    assert!(!names.contains(&"snapshot.pages".to_owned()), "what was given up is removed: {names:?}");
}

#[test]
fn a_page_that_rots_on_the_disk_is_not_served() {
    let (world, _, home) = served();
    let export = export(&home, &world, 1).unwrap();
    let page = |part| export.page(zeni_consensus::snapshot::PageName { part, number: 0 });
    assert!(page(zeni_consensus::snapshot::Part::Blocks).unwrap().is_some());
    home.store.files().flip("snapshot.pages", 100, 4);
    assert!(page(zeni_consensus::snapshot::Part::Blocks).is_err());
    assert!(page(zeni_consensus::snapshot::Part::Accounts).unwrap().is_some());
    let beyond = zeni_consensus::snapshot::PageName { part: zeni_consensus::snapshot::Part::Accounts, number: 1 };
    assert!(export.page(beyond).unwrap().is_none());
}

#[test]
fn wherever_a_crash_cuts_it_nothing_is_half_believed_and_the_next_try_succeeds() {
    let (world, records, home) = served();
    let export = export(&home, &world, 1).unwrap();
    let fourth = blocks(&records)[3].header.state_root;
    let (mut unfinished, mut finished, mut untouched, mut after) = (0, 0, 0, 0);
    loop {
        for choice in [0, 1, 2] {
            let files = initialised(&world);
            files.inject(Fault::PowerCut { after });
            let tried = install(&export, &files, &world);
            if tried.is_ok() {
                assert!(unfinished > 20 && finished > 0 && untouched > 0, "{unfinished} {finished} {untouched}");
                return;
            }
            files.crash(&mut |bound| match choice {
                0 => 0,
                1 => bound - 1,
                _ => bound / 2,
            });
            if is_unfinished(&files).unwrap() {
                unfinished += 1;
                assert!(matches!(try_start(&files, &world), Err(StorageError::UnfinishedSnapshot)));
                let mut bad_batch = check_serially(&world.genesis, || [3; 32]);
                let load = &mut |_: &mut zeni_ledger::State| panic!("not so far");
                let verified = verify(&files, &world.genesis, world.genesis_state(), load, &mut bad_batch);
                assert!(matches!(verified, Err(VerifyError::Storage(StorageError::UnfinishedSnapshot))));
                assert!(crate::inspect(&files, &world.genesis).is_err());
            } else if can_take_snapshot(&files).unwrap() {
                untouched += 1;
                assert_eq!(started(&files, &world).report.start, Start::Genesis);
                continue;
            } else {
                finished += 1;
            }
            if is_unfinished(&files).unwrap() {
                install(&export, &files, &world).unwrap();
            }
            let start = started(&files, &world);
            assert_eq!(start.report.start, Start::Checkpoint { height: 4 }, "cut after {after}");
            assert_eq!(start.recovered.state.root(), fourth);
            assert!(start.report.torn.is_empty() && start.report.damage.is_empty());
        }
        after += 1;
    }
}

#[test]
fn what_was_given_up_leaves_the_directory_as_it_was() {
    let (world, _, home) = served();
    let files = initialised(&world);
    drop(FileOverlay::open(&files).unwrap());
    let before = files.list().unwrap();
    let abandon = || abandon_snapshot(&files, &mut FileOverlay::open(&files).unwrap()).unwrap();
    let mut begun = Install::begin(files.clone(), FileOverlay::open(&files).unwrap()).unwrap();
    let accounts: Vec<_> = home.recovered.state.accounts().take(3).cloned().collect();
    begun.accounts(&accounts).unwrap();
    assert!(matches!(try_start(&files, &world), Err(StorageError::UnfinishedSnapshot)));
    drop(begun);
    abandon();
    assert_eq!(files.list().unwrap(), before);
    abandon();
    assert_eq!(started(&files, &world).report.start, Start::Genesis);
}

#[test]
fn a_log_is_never_replaced_by_a_snapshot() {
    let (world, _, home) = served();
    let export = export(&home, &world, 1).unwrap();
    let files = initialised(&world);
    let mut store = Store::open(files.clone(), &world.genesis, SMALL).unwrap().0;
    store.append(&Record::Batch(World::new(3).batch(1))).unwrap();
    drop(store);
    assert!(!can_take_snapshot(&files).unwrap());
    assert!(matches!(install(&export, &files, &world), Err(StorageError::HoldsLog)));
}

#[test]
fn without_its_checkpoint_such_a_node_executes_from_genesis_once_peers_give_the_batches() {
    let (world, records, home) = served();
    let files = initialised(&world);
    install(&export(&home, &world, 1).unwrap(), &files, &world).unwrap();
    FileOverlay::open(&files).unwrap().reset().unwrap();
    let start = started(&files, &world);
    assert_eq!((start.report.start.clone(), start.recovered.checkpoint_height), (Start::Genesis, 0));
    let mut bad_batch = check_serially(&world.genesis, || [3; 32]);
    let mut load = |state: &mut zeni_ledger::State| checkpoint(&files, &world).load_into(state);
    let verified = verify(&files, &world.genesis, world.genesis_state(), &mut load, &mut bad_batch);
    assert!(matches!(verified, Err(VerifyError::NoBaseState(_))), "{verified:?}");
    let batches: Vec<Record> = records.iter().filter(|record| matches!(record, Record::Batch(_))).cloned().collect();
    let (follower, _) = follow(start, &world, &batches);
    assert_eq!((follower.head().1, follower.state().root()), (4, blocks(&records)[3].header.state_root));
}

#[test]
fn a_rotten_base_record_takes_the_given_state_with_it() {
    let (world, records, home) = served();
    let files = initialised(&world);
    let export = export(&home, &world, 1).unwrap();
    install(&export, &files, &world).unwrap();
    let certificate = export.manifest().certificate.to_bytes();
    let place = |name: &String| {
        let bytes = files.content(name).unwrap();
        bytes.windows(certificate.len()).position(|window| window == certificate).map(|place| (name.clone(), place))
    };
    let (name, place) = files.list().unwrap().iter().find_map(place).unwrap();
    files.flip(&name, place as u64 + 20, 1);
    let start = started(&files, &world);
    let block = blocks(&records)[3].id(&world.id);
    assert_eq!(start.report.start, Start::Discarded(Discarded::UndoMissing { block }));
    assert_eq!((start.report.base, start.report.damage.len()), (None, 1));
    assert!(start.recovered.certificates.is_empty(), "the certificate is the record");
    let batches: Vec<Record> = records.iter().filter(|record| matches!(record, Record::Batch(_))).cloned().collect();
    let (follower, _) = follow(start, &world, &batches);
    assert_eq!((follower.head().1, follower.state().root()), (4, blocks(&records)[3].header.state_root));
}

#[test]
fn a_checkpoint_that_lies_about_the_base_is_discarded() {
    let (world, records, home) = served();
    let files = initialised(&world);
    install(&export(&home, &world, 1).unwrap(), &files, &world).unwrap();
    let mut overlay = FileOverlay::open(&files).unwrap();
    let account = home.recovered.state.accounts().next().unwrap();
    overlay.put(&[crate::checkpoint::content(account)]).unwrap();
    overlay.flush().unwrap();
    let block = blocks(&records)[3].id(&world.id);
    assert_eq!(started(&files, &world).report.start, Start::Discarded(Discarded::WrongRoot { block }));
}

/// A manifest that is true of false pages: made by hand, as a liar would.
#[test]
fn a_snapshot_with_a_false_account_is_found_at_its_end() {
    let (world, records, mut home) = served();
    let genesis = Arc::new(world.genesis.clone());
    let fourth: Arc<Block> = blocks(&records)[3].clone();
    let mut rich = home.recovered.state.accounts().next().unwrap().clone();
    let (token, balance) = rich.holdings().next().unwrap();
    assert!(rich.set_balance(token, zeni_ledger::Balance::new(balance.units() + 1_000)));
    let from = fourth.id(&world.id);
    let lie = zeni_consensus::CheckpointDelta { from, to: from, height: 4, accounts: vec![rich] };
    home.checkpoint.apply(&lie).unwrap();
    let export = export(&home, &world, 1).unwrap();
    let mut fetch = Fetch::new(genesis.clone());
    fetch.offer(PEER, export.manifest().clone()).unwrap();
    let mut assembly = Assembly::new(genesis, world.genesis_state(), fetch.begin().unwrap());
    for (peer, page) in fetch.questions(Millis(0)) {
        fetch.page(peer, page, export.page(page).unwrap().unwrap(), Millis(0)).unwrap();
    }
    while let Some(page) = fetch.next_page() {
        assembly.take(&page).unwrap();
    }
    assert!(matches!(assembly.finish(), Err(FalseSnapshot::WrongRoot { .. })));
    assert_eq!((fetch.refute(), fetch.begin()), (vec![PEER], None));
}
