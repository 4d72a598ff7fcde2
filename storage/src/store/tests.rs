use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zeni_consensus::finality::{LogEntry, LoggedTimeout};
use zeni_consensus::{Archive, Record};
use zeni_ledger::execute::execute;

use super::*;
use crate::error::DamageKind;
use crate::fixture::{World, blocks};
use crate::memory::{Fault, MemoryFiles};
use crate::segment::FRAMES_AT;
use crate::verification::{Verification, VerifyError, check_serially, verify};

/// Some five records fit.
const SMALL: Limits = Limits { segment_bytes: 4_000 };

fn home(world: &World) -> MemoryFiles {
    let files = MemoryFiles::new();
    Store::init(&files, &world.id).unwrap();
    files
}

fn open(files: &MemoryFiles, world: &World, limits: Limits) -> (Store<MemoryFiles>, Opened) {
    Store::open(files.clone(), &world.genesis, limits).unwrap()
}

/// A directory with these records, sealed.
fn sealed(world: &World, records: &[Record], limits: Limits) -> MemoryFiles {
    let files = home(world);
    let mut store = open(&files, world, limits).0;
    records.iter().for_each(|record| world.append(&mut store, record));
    store.seal().unwrap();
    files
}

fn digests(records: &[Record]) -> Vec<BatchDigest> {
    let digest = |record: &Record| if let Record::Batch(batch) = record { Some(batch.digest()) } else { None };
    records.iter().filter_map(digest).collect()
}

fn check(files: &MemoryFiles, world: &World) -> Result<Verification, VerifyError> {
    verify(
        files,
        &world.genesis,
        world.genesis_state(),
        &mut |_| panic!("the log begins at genesis"),
        &mut check_serially(&world.genesis, || [7; 32]),
    )
}

/// Whether `opened` holds exactly the first `count` records, in their order.
fn holds_prefix(opened: &Opened, records: &[Record], count: usize) -> bool {
    let found: Vec<BatchDigest> = opened.batches.iter().map(|meta| meta.digest).collect();
    found == digests(&records[..count]) && opened.blocks == blocks(&records[..count])
}

#[test]
fn what_was_written_is_there_again_in_its_order() {
    let mut world = World::new(3);
    let records = world.chain(4, 3, 2);
    let files = home(&world);
    let mut store = open(&files, &world, SMALL).0;
    records.iter().for_each(|record| world.append(&mut store, record));
    let bytes = store.disk_bytes();
    drop(store);
    files.kill();
    let (store, opened) = open(&files, &world, SMALL);
    assert!(holds_prefix(&opened, &records, records.len()));
    assert!(opened.torn.is_empty() && opened.damage.is_empty() && opened.missing.is_empty());
    assert_eq!((store.disk_bytes(), opened.undos), (bytes, 4));
    let reader = store.reader();
    for record in &records {
        match record {
            Record::Batch(batch) => {
                assert_eq!(reader.batch(&batch.digest()).unwrap().as_ref(), Some(batch));
                assert_eq!(reader.raw_batch(&batch.digest()).unwrap(), Some(batch.batch().to_bytes()));
            }
            Record::Block(block) => {
                let id = block.id(&world.id);
                assert_eq!(reader.block(&id).unwrap().as_ref(), Some(block));
                assert_eq!(*reader.undo(&id).unwrap().unwrap(), world.undos[&id]);
            }
            Record::Certificate(_) | Record::Finality { .. } => unreachable!("a chain has none"),
        }
    }
    assert_eq!(reader.batch(&BatchDigest([1; 32])).unwrap(), None);
    assert_eq!(reader.undo(&BlockId([1; 32])).unwrap(), None);
}

#[test]
fn what_batch_metadata_says_is_what_the_batch_says() {
    let mut world = World::new(3);
    let records = world.chain(2, 2, 3);
    let opened = open(&sealed(&world, &records, SMALL), &world, SMALL).1;
    let batches: Vec<_> =
        records.iter().filter_map(|r| if let Record::Batch(b) = r { Some(b) } else { None }).collect();
    for (meta, batch) in opened.batches.iter().zip(batches) {
        let batch = batch.batch();
        assert_eq!((meta.author, meta.number, meta.payments), (batch.author, batch.number, 3));
    }
}

#[test]
fn full_segments_are_sealed_and_the_log_goes_on_in_the_next() {
    let mut world = World::new(3);
    let records = world.chain(10, 2, 2);
    let files = sealed(&world, &records[..20], SMALL);
    let segments = |files: &MemoryFiles| {
        files.list().unwrap().iter().filter(|name| Which::Chain.number(name, "log").is_some()).count()
    };
    let before = segments(&files);
    assert!(before >= 3, "{before} segments");
    for (done, record) in records.iter().enumerate().skip(20) {
        let (mut store, opened) = open(&files, &world, SMALL);
        assert!(holds_prefix(&opened, &records, done), "record {done}");
        world.append(&mut store, record);
        store.seal().unwrap();
    }
    assert_eq!(segments(&files), before + 10, "a clean stop seals, and the next start begins a segment");
    assert!(holds_prefix(&open(&files, &world, SMALL).1, &records, 30));
    for name in files.list().unwrap().iter().filter(|name| name.starts_with("chain-")) {
        assert!(files.content(name).unwrap().len() as u64 <= SMALL.segment_bytes + 200, "{name}");
    }
}

#[test]
fn a_record_that_is_there_is_not_written_again() {
    let mut world = World::new(3);
    let records = world.chain(2, 2, 2);
    let files = home(&world);
    let mut store = open(&files, &world, Limits::default()).0;
    records.iter().for_each(|record| world.append(&mut store, record));
    let bytes = store.disk_bytes();
    records.iter().for_each(|record| world.append(&mut store, record));
    assert_eq!(store.disk_bytes(), bytes);
}

#[test]
fn a_sync_makes_durable_and_only_if_there_is_something() {
    let mut world = World::new(3);
    let records = world.chain(2, 3, 1);
    let files = home(&world);
    let mut store = open(&files, &world, Limits::default()).0;
    let syncer = store.syncer();
    records[..5].iter().for_each(|record| world.append(&mut store, record));
    syncer.sync().unwrap();
    let syncs = syncer.syncs();
    syncer.sync().unwrap();
    assert_eq!(syncer.syncs(), syncs, "nothing was appended since");
    records[5..].iter().for_each(|record| world.append(&mut store, record));
    drop(store);
    files.crash(&mut |_| 0);
    let opened = open(&files, &world, Limits::default()).1;
    assert!(holds_prefix(&opened, &records, 5));
    assert_eq!(opened.undos, 0, "the undo log is synced by sync_all alone");
}

#[test]
fn a_failed_sync_stops_everything_after_it() {
    let mut world = World::new(3);
    let records = world.chain(2, 2, 1);
    let files = home(&world);
    let mut store = open(&files, &world, Limits::default()).0;
    let syncer = store.syncer();
    store.append(&records[0]).unwrap();
    files.inject(Fault::Sync { after: 0 });
    assert!(matches!(syncer.sync(), Err(StorageError::Io { doing: "syncing", .. })));
    assert!(matches!(syncer.sync(), Err(StorageError::Poisoned { .. })));
    assert!(matches!(store.append(&records[1]), Err(StorageError::Poisoned { .. })));
    assert!(matches!(store.append_undo(BlockId([1; 32]), 1, &Undo::default()), Err(StorageError::Poisoned { .. })));
}

#[test]
fn a_failed_write_leaves_nothing_behind_and_the_next_one_works() {
    let mut world = World::new(3);
    let records = world.chain(3, 2, 2);
    let files = home(&world);
    let mut store = open(&files, &world, SMALL).0;
    for (index, record) in records.iter().enumerate() {
        // Now the record's own write fails, now that of a segment's end.
        files.inject(Fault::Write { after: index as u64 % 2 });
        let mut tries = 0;
        while store.append(record).is_err() {
            tries += 1;
            assert!(tries < 3, "record {index}");
        }
    }
    drop(store);
    let opened = open(&files, &world, SMALL).1;
    assert!(holds_prefix(&opened, &records, records.len()));
    assert!(opened.torn.is_empty() && opened.damage.is_empty());
}

#[test]
fn a_full_disk_refuses_records_until_there_is_space() {
    let mut world = World::new(3);
    let records = world.chain(4, 2, 2);
    let files = home(&world);
    let mut store = open(&files, &world, SMALL).0;
    files.inject(Fault::Capacity { bytes: files.bytes() + 3_000 });
    let refused = records.iter().position(|record| store.append(record).is_err()).unwrap();
    assert!(refused > 0 && store.free_bytes().unwrap() < 1_000);
    assert!(store.append(&records[refused]).is_err(), "a second try finds no space either");
    files.inject(Fault::Capacity { bytes: u64::MAX });
    records[refused..].iter().for_each(|record| world.append(&mut store, record));
    drop(store);
    assert!(holds_prefix(&open(&files, &world, SMALL).1, &records, records.len()));
}

#[test]
fn a_segment_cut_anywhere_opens_with_the_records_before_the_cut() {
    let mut world = World::new(3);
    let records = world.chain(2, 2, 1);
    let files = home(&world);
    let mut store = open(&files, &world, Limits::default()).0;
    let mut ends = vec![FRAMES_AT];
    for record in &records {
        store.append(record).unwrap();
        ends.push(store.disk_bytes() as usize);
    }
    drop(store);
    let name = Which::Chain.file(1, "log");
    let whole = files.content(&name).unwrap();
    for cut in FRAMES_AT..=whole.len() {
        let copy = files.snapshot();
        copy.install(&name, whole[..cut].to_vec());
        let (mut store, opened) = open(&copy, &world, Limits::default());
        let count = ends.partition_point(|end| *end <= cut) - 1;
        assert!(holds_prefix(&opened, &records, count), "cut at {cut}");
        assert!(opened.damage.is_empty(), "cut at {cut}: {:?}", opened.damage);
        let torn_bytes = cut - ends[count];
        assert_eq!(opened.torn.len(), usize::from(torn_bytes > 0), "cut at {cut}");
        if let Some(tail) = opened.torn.first() {
            assert_eq!((tail.offset, tail.bytes), (ends[count] as u64, torn_bytes as u64));
            assert_eq!(copy.content(&tail.kept).unwrap(), whole[ends[count]..cut]);
        }
        records.iter().for_each(|record| store.append(record).unwrap());
        drop(store);
        assert_eq!(open(&copy, &world, Limits::default()).1.batches.len(), 4);
    }
}

/// Appends at random, syncs at random, cuts the power at random (also while opening), and compares what comes back with
/// what was promised.
fn crash_at_random(seed: u64) -> (bool, usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut world = World::new(3);
    let records = world.chain(8, 3, 1);
    let files = home(&world);
    let (mut next, mut synced, mut torn, mut kept) = (0, 0, 0, 0);
    for _ in 0..6 {
        if rng.random_bool(0.3) {
            files.inject(Fault::PowerCut { after: rng.random_range(0..12) });
        }
        if let Ok((mut store, opened)) = Store::open(files.clone(), &world.genesis, SMALL) {
            let found = opened.batches.len() + opened.blocks.len();
            assert!(found >= synced && found <= next, "seed {seed}: {found} of {next}, synced {synced}");
            assert!(holds_prefix(&opened, &records, found), "seed {seed}: not a prefix of {found}");
            assert!(opened.damage.is_empty() && opened.missing.is_empty(), "seed {seed}: {:?}", opened.damage);
            torn += opened.torn.len();
            next = found;
            let syncer = store.syncer();
            files.inject(Fault::PowerCut { after: rng.random_range(1..25) });
            for record in &records[found..] {
                // A record whose append failed may yet come back, if only what followed its write failed.
                next += 1;
                if store.append(record).is_err() {
                    break;
                }
                if rng.random_bool(0.4) {
                    if syncer.sync().is_err() {
                        break;
                    }
                    synced = next;
                }
            }
        }
        let report = files.crash(&mut |bound| rng.random_range(0..bound));
        kept += report.files_torn;
    }
    (torn > 0 || kept > 0, next)
}

#[test]
fn crashes_at_random_points_lose_nothing_synced_and_invent_nothing() {
    let runs: Vec<(bool, usize)> = (0..400).map(crash_at_random).collect();
    let torn = runs.iter().filter(|run| run.0).count();
    let finished = runs.iter().filter(|run| run.1 > 20).count();
    println!("{torn} of {} seeds tore a write, {finished} wrote over 20 records", runs.len());
    assert!(torn > 40 && finished > 40, "{torn} torn, {finished} finished: the test is not hard enough");
}

#[test]
fn a_rotten_byte_anywhere_is_named_and_healed_from_a_peer() {
    let mut world = World::new(3);
    let records = world.chain(5, 2, 2);
    let clean = sealed(&world, &records, SMALL);
    let expected = check(&clean, &world).unwrap();
    let segments: Vec<String> = clean.list().unwrap().into_iter().filter(|name| name.ends_with(".log")).collect();
    let seed = 11;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for round in 0..250 {
        let name = &segments[rng.random_range(0..segments.len())];
        let offset = rng.random_range(0..clean.content(name).unwrap().len() as u64);
        let files = clean.snapshot();
        files.flip(name, offset, 1 << rng.random_range(0..8));
        let context = format!("seed {seed}, round {round}: {name} at {offset}");

        let Err(VerifyError::Damaged(place)) = check(&files, &world) else { panic!("{context}: not found") };
        assert!(place.file == *name && place.offset <= offset, "{context}: {place}");

        let (mut store, opened) = open(&files, &world, SMALL);
        assert_eq!(opened.damage[0].file, *name, "{context}");
        let lost = &opened.missing;
        assert!(lost.blocks.len() + lost.batches.len() <= 1, "{context}: {lost:?} are lost");
        let is_lost = |record: &Record| match record {
            Record::Batch(batch) => lost.batches.contains(&batch.digest()),
            // The head is nobody's parent: a peer's status tells that it is missing.
            Record::Block(block) => !store.reader().has_block(&block.id(&world.id)),
            Record::Certificate(_) | Record::Finality { .. } => unreachable!("a chain has none"),
        };
        let fetched: Vec<&Record> = records.iter().filter(|record| is_lost(record)).collect();
        let is_head = |record: &Record| matches!(record, Record::Block(block) if block.header.height == 5);
        // Of a rotten head nothing but its own frame tells the id, and that may be what is rotten.
        if let [record] = fetched[..]
            && !(is_head(record) && offset - place.offset < crate::frame::FRAME_BYTES as u64)
        {
            let block = match record {
                Record::Block(block) => block.id(&world.id),
                Record::Batch(batch) => {
                    let lists = blocks(&records).into_iter().find(|block| block.digests.contains(&batch.digest()));
                    lists.unwrap().id(&world.id)
                }
                Record::Certificate(_) | Record::Finality { .. } => unreachable!("a chain has none"),
            };
            assert_eq!(place.block, Some(block), "{context}: {place}");
        }
        fetched.into_iter().for_each(|record| store.append(record).unwrap());
        let undone = blocks(&records).into_iter().map(|block| (block.id(&world.id), block.header.height));
        undone.for_each(|(id, height)| store.append_undo(id, height, &world.undos[&id]).unwrap());
        store.seal().unwrap();
        assert_eq!(check(&files, &world).unwrap(), expected, "{context}: not healed");
    }
}

#[test]
fn healing_that_is_itself_interrupted_loses_no_more() {
    let mut world = World::new(3);
    let records = world.chain(5, 2, 1);
    let clean = sealed(&world, &records, SMALL);
    let name = Which::Chain.file(2, "log");
    clean.flip(&name, FRAMES_AT as u64 + 200, 1);
    let expected = open(&clean.snapshot(), &world, SMALL).1;
    assert_eq!(expected.batches.len() + expected.blocks.len(), records.len() - 1);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for cut in 0.. {
        let files = clean.snapshot();
        files.inject(Fault::PowerCut { after: cut });
        let finished = Store::open(files.clone(), &world.genesis, SMALL).is_ok();
        files.crash(&mut |bound| rng.random_range(0..bound));
        let opened = open(&files, &world, SMALL).1;
        assert_eq!((&opened.batches, &opened.blocks), (&expected.batches, &expected.blocks), "cut at {cut}");
        assert!(opened.torn.is_empty(), "cut at {cut}");
        if finished {
            assert!(cut > 5);
            break;
        }
    }
}

#[test]
fn a_segment_that_is_gone_is_named_and_healed() {
    let mut world = World::new(3);
    let records = world.chain(6, 2, 1);
    let clean = sealed(&world, &records, SMALL);
    let last = (1..).take_while(|number| clean.content(&Which::Chain.file(*number, "log")).is_some()).last().unwrap();
    for number in [1, 2, last] {
        let files = clean.snapshot();
        files.remove(&Which::Chain.file(number, "log")).unwrap();
        assert!(matches!(check(&files, &world), Err(VerifyError::Damaged(_))));
        let (mut store, opened) = open(&files, &world, SMALL);
        assert_eq!(opened.damage[0].what, DamageKind::MissingSegment);
        records.iter().for_each(|record| world.append(&mut store, record));
        store.seal().unwrap();
        assert_eq!(check(&files, &world).unwrap().height, 6);
    }
}

#[test]
fn a_segment_put_in_anothers_place_is_named() {
    let mut world = World::new(3);
    let records = world.chain(6, 2, 1);
    let (one, two) = (Which::Chain.file(1, "log"), Which::Chain.file(2, "log"));
    let files = sealed(&world, &records, SMALL);
    files.install(&two, files.content(&one).unwrap());
    let opened = open(&files, &world, SMALL).1;
    assert_eq!((opened.damage[0].what, &opened.damage[0].file), (DamageKind::Header, &two));
    // The same number, but of another history: the links before and behind do not fit.
    let files = sealed(&world, &records, SMALL);
    files.install(&two, sealed(&world, &records[2..], SMALL).content(&two).unwrap());
    let opened = open(&files, &world, SMALL).1;
    assert_eq!((opened.damage[0].what, &opened.damage[0].file), (DamageKind::Link, &one));
    assert_eq!(check(&files, &world).is_err(), !opened.missing.is_empty());
}

#[test]
fn the_last_seal_may_be_torn_by_a_crash_but_not_after_a_clean_stop() {
    let mut world = World::new(3);
    let records = world.chain(2, 2, 1);
    let files = sealed(&world, &records, Limits::default());
    let name = Which::Chain.file(1, "log");
    files.flip(&name, files.content(&name).unwrap().len() as u64 - 1, 1);
    let crashed = files.snapshot();
    clean_stop::unmark(&crashed).unwrap();
    assert!(check(&crashed, &world).unwrap().torn_bytes > 0);
    let opened = open(&crashed, &world, Limits::default()).1;
    assert_eq!((opened.torn.len(), opened.damage.len()), (1, 0));
    let Err(VerifyError::Damaged(place)) = check(&files, &world) else { panic!("not found") };
    assert_eq!(place.file, name);
    let opened = open(&files, &world, Limits::default()).1;
    assert_eq!((opened.torn.len(), opened.damage[0].what), (0, DamageKind::Record));
    assert!(holds_prefix(&opened, &records, records.len()));
}

#[test]
fn rot_that_strikes_while_the_node_runs_is_an_error_and_not_a_lie() {
    let mut world = World::new(3);
    let records = world.chain(1, 1, 1);
    let files = home(&world);
    let mut store = open(&files, &world, Limits::default()).0;
    records.iter().for_each(|record| store.append(record).unwrap());
    files.flip(&Which::Chain.file(1, "log"), FRAMES_AT as u64 + 150, 1);
    let digest = digests(&records)[0];
    let refused = store.reader().batch(&digest);
    assert!(matches!(refused, Err(zeni_consensus::ArchiveError::Damaged { .. })), "{refused:?}");
    assert!(store.reader().raw_batch(&digest).is_err());
}

#[test]
fn a_sector_that_cannot_be_read_is_damage_like_any_other() {
    let mut world = World::new(3);
    let records = world.chain(5, 4, 4);
    let files = sealed(&world, &records, Limits::default());
    let name = Which::Chain.file(1, "log");
    files.spoil(&name, 9_000);
    let Err(VerifyError::Damaged(place)) = check(&files, &world) else { panic!("not found") };
    assert!(place.file == name && place.block.is_some(), "{place}");
    let (mut store, opened) = open(&files, &world, Limits::default());
    assert!(opened.batches.len() < 20 && opened.batches.len() > 12, "{} batches", opened.batches.len());
    records.iter().for_each(|record| world.append(&mut store, record));
    store.seal().unwrap();
    assert_eq!(check(&files, &world).unwrap().height, 5);
}

#[test]
fn the_directory_of_another_network_is_refused() {
    let (world, other) = (World::of_network(3, 1), World::of_network(3, 2));
    let files = home(&world);
    let refused = Store::open(files.clone(), &other.genesis, Limits::default());
    assert!(matches!(refused, Err(StorageError::OtherGenesis { found, .. }) if found == world.id));
    assert!(matches!(check(&files, &other), Err(VerifyError::Storage(StorageError::OtherGenesis { .. }))));
    let empty = Store::open(MemoryFiles::new(), &world.genesis, Limits::default());
    assert!(matches!(empty, Err(StorageError::NotInitialised)));
    // A segment that was copied here from another network's directory.
    let mut foreign = World::of_network(3, 2);
    let records = foreign.chain(1, 1, 1);
    let segment = sealed(&foreign, &records, SMALL).content("chain-00000001.log").unwrap();
    files.install("chain-00000001.log", segment);
    let refused = Store::open(files, &world.genesis, Limits::default());
    assert!(matches!(refused, Err(StorageError::OtherGenesis { found, .. }) if found == other.id));
}

#[test]
fn readers_and_syncers_work_beside_the_writer() {
    let mut world = World::new(3);
    let records = world.chain(10, 4, 1);
    let files = home(&world);
    let mut store = open(&files, &world, SMALL).0;
    let (reader, syncer) = (store.reader(), store.syncer());
    let (sender, receiver) = std::sync::mpsc::sync_channel::<BatchDigest>(4);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for digest in receiver {
                syncer.sync().unwrap();
                assert_eq!(reader.batch(&digest).unwrap().unwrap().digest(), digest);
            }
        });
        for record in &records {
            world.append(&mut store, record);
            if let Record::Batch(batch) = record {
                sender.send(batch.digest()).unwrap();
            }
        }
        drop(sender);
    });
    let all_synced = store.syncer();
    all_synced.sync_all().unwrap();
    drop(store);
    files.crash(&mut |_| 0);
    let opened = open(&files, &world, SMALL).1;
    assert!(holds_prefix(&opened, &records, records.len()));
    assert_eq!(opened.undos, 10);
}

#[test]
fn real_files_keep_a_ledger_too() {
    let mut world = World::new(3);
    let records = world.chain(5, 2, 2);
    let directory = tempfile::tempdir().unwrap();
    let files = crate::DiskFiles::open(directory.path()).unwrap();
    Store::init(&files, &world.id).unwrap();
    for part in records.chunks(7) {
        let (mut store, opened) = Store::open(files.clone(), &world.genesis, SMALL).unwrap();
        assert!(opened.damage.is_empty() && opened.torn.is_empty());
        part.iter().for_each(|record| world.append(&mut store, record));
        store.syncer().sync_all().unwrap();
    }
    let (store, opened) = Store::open(files.clone(), &world.genesis, SMALL).unwrap();
    assert!(holds_prefix(&opened, &records, records.len()));
    store.seal().unwrap();
    let mut bad_batch = check_serially(&world.genesis, || [7; 32]);
    let verified = verify(
        &files,
        &world.genesis,
        world.genesis_state(),
        &mut |_| panic!("the log begins at genesis"),
        &mut bad_batch,
    )
    .unwrap();
    assert_eq!((verified.height, verified.transactions.applied, verified.transactions.distinct_applied), (5, 20, 20));
    assert_eq!(verified.state_root, world.state.root());
}

#[test]
fn bytes_that_look_like_a_frame_inside_a_payload_are_not_taken_for_one() {
    let mut world = World::new(3);
    let records = world.chain(1, 2, 3);
    let files = home(&world);
    let mut store = open(&files, &world, Limits::default()).0;
    store.append(&records[0]).unwrap();
    // An undo record may hold any bytes: here a frame made for another segment key.
    let planted = crate::frame::encode(&[1; 32], &[0; 32], Kind::Undo, &[5; 32], b"planted").0;
    let place = store.undo.append(Kind::Undo, &[6; 32], &[&[0; 12][..], &planted].concat()).unwrap();
    let after = store.undo.append(Kind::Undo, &[7; 32], &[0; 12]).unwrap();
    drop(store);
    files.flip(&Which::Undo.file(1, "log"), u64::from(place.offset) + 4, 0xff);
    let (store, opened) = open(&files, &world, Limits::default());
    assert_eq!(opened.damage[0].bytes, u64::from(after.offset - place.offset));
    let index = store.index.read().unwrap();
    assert!(index.undos.contains_key(&BlockId([7; 32])) && index.undos.len() == 1);
}

#[test]
fn what_execution_gives_is_what_the_fixture_stored() {
    let mut world = World::new(3);
    let records = world.chain(3, 2, 4);
    let mut state = world.genesis_state();
    let reader = open(&sealed(&world, &records, SMALL), &world, SMALL).0.reader();
    for block in blocks(&records) {
        let batches: Vec<_> = block.digests.iter().map(|digest| reader.batch(digest).unwrap().unwrap()).collect();
        let time = world.genesis.slot_time_ms(block.header.slot);
        let executed = execute(&mut state, &world.genesis.rules, time, &batches);
        assert_eq!((executed.state_root, executed.applied), (block.header.state_root, 8));
    }
}

/// An entry that some decision logged.
fn entry(decision: u64, round: u32) -> Record {
    Record::Finality { decision, entry: LogEntry::Timeout { round, timeout: LoggedTimeout::Propose } }
}

#[test]
fn certificates_and_the_log_of_the_open_decision_are_there_again() {
    let mut world = World::new(3);
    let records = world.chain(3, 1, 1);
    let certificates: Vec<_> = (1..).zip(&blocks(&records)[..2]).map(|(at, block)| world.certify(at, block)).collect();
    let files = home(&world);
    let mut store = open(&files, &world, SMALL).0;
    records.iter().for_each(|record| world.append(&mut store, record));
    for record in [entry(1, 0), Record::Certificate(certificates[0].clone()), entry(2, 0), entry(2, 1)] {
        store.append(&record).unwrap();
    }
    drop(store);
    let (mut store, opened) = open(&files, &world, SMALL);
    assert_eq!(opened.certificates, certificates[..1]);
    let logged = |entries: &[Record]| {
        entries
            .iter()
            .map(|record| match record {
                Record::Finality { decision, entry } => (*decision, entry.clone()),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(opened.finality, logged(&[entry(2, 0), entry(2, 1)]), "the first decision is over");
    store.append(&Record::Certificate(certificates[1].clone())).unwrap();
    store.append(&entry(3, 7)).unwrap();
    store.seal().unwrap();
    let verified = check(&files, &world).unwrap();
    assert_eq!(verified.height, 3);
    let opened = open(&files, &world, SMALL).1;
    assert_eq!((opened.certificates, opened.finality), (certificates, logged(&[entry(3, 7)])));
}

#[test]
fn a_certificate_that_too_few_signed_does_not_verify() {
    let mut world = World::new(3);
    let records = world.chain(2, 1, 1);
    let block = blocks(&records)[0].clone();
    let mut certificate = world.certify(1, &block);
    certificate.signatures.truncate(1);
    let files = sealed(&world, &[&records[..], &[Record::Certificate(certificate)]].concat(), SMALL);
    let Err(VerifyError::Damaged(place)) = check(&files, &world) else { panic!("not found") };
    assert_eq!(place.block, Some(block.id(&world.id)));
    assert!(place.what.contains("no quorum"), "{place}");
}
