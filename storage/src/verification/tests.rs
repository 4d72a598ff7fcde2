use std::collections::BTreeSet;

use zeni_consensus::Record;
use zeni_ledger::SignatureBytes;

use super::*;
use crate::fixture::{World, blocks};
use crate::memory::MemoryFiles;
use crate::store::Store;
use crate::stream::Limits;

fn stored(world: &World, records: &[Record]) -> MemoryFiles {
    let files = MemoryFiles::new();
    Store::init(&files, &world.id).unwrap();
    let mut store = Store::open(files.clone(), &world.genesis, Limits { segment_bytes: 4_000 }).unwrap().0;
    records.iter().for_each(|record| store.append(record).unwrap());
    for block in blocks(records) {
        if let Some(undo) = world.undos.get(&block.id(&world.id)) {
            store.append_undo(block.id(&world.id), block.header.height, undo).unwrap();
        }
    }
    store.seal().unwrap();
    files
}

fn checked(world: &World, records: &[Record]) -> Result<Verification, VerifyError> {
    let mut bad_batch = check_serially(&world.genesis, || [3; 32]);
    verify(
        &stored(world, records),
        &world.genesis,
        world.genesis_state(),
        &mut |_| panic!("the log begins at genesis"),
        &mut bad_batch,
    )
}

/// The damage that must be found.
fn damage(world: &World, records: &[Record]) -> DamagedPlace {
    match checked(world, records) {
        Err(VerifyError::Damaged(place)) => *place,
        other => panic!("expected damage, found {other:?}"),
    }
}

#[test]
fn a_sound_directory_tells_what_it_holds() {
    let mut world = World::new(3);
    let records = world.chain(4, 2, 3);
    let found = checked(&world, &records).unwrap();
    let head = blocks(&records)[3].clone();
    assert_eq!((found.height, found.block, found.state_root), (4, head.id(&world.id), head.header.state_root));
    let expected = Transactions { applied: 24, rejected: 0, skipped: 0, distinct_applied: 24 };
    assert_eq!(found.transactions, expected);
    assert_eq!(found.token_sums, BTreeMap::from([(TokenId(1), 0)]));
    assert_eq!((found.blocks, found.batches, found.undos_missing, found.torn_bytes), (4, 8, 0, 0));
    let empty = checked(&world, &[]).unwrap();
    assert_eq!((empty.height, empty.block), (0, world.genesis.block_id()));
}

#[test]
fn a_batch_listed_twice_applies_its_payments_once() {
    let mut world = World::new(3);
    let batch = world.batch(5);
    let first = world.extend(1, std::slice::from_ref(&batch));
    let second = world.extend(2, std::slice::from_ref(&batch));
    let found = checked(&world, &[Record::Batch(batch), Record::Block(first), Record::Block(second)]).unwrap();
    let expected = Transactions { applied: 5, rejected: 0, skipped: 5, distinct_applied: 5 };
    assert_eq!(found.transactions, expected);
}

#[test]
fn a_block_whose_roots_execution_does_not_give_is_named() {
    let mut world = World::new(3);
    let records = world.chain(2, 1, 2);
    // The same chain from another genesis state would have these roots: here they are wrong.
    let batch = world.batch(1);
    let mut other = World::new(3);
    other.chain(2, 1, 2);
    other.batch(2);
    let false_block = {
        let wrong = other.batch(1);
        let block = other.extend(3, &[wrong]);
        let mut header = block.header;
        header.transactions_root = zeni_ledger::block::transactions_root(&[batch.digest()]);
        other.sign(header, vec![batch.digest()])
    };
    let id = false_block.id(&world.id);
    let records = [&records[..], &[Record::Batch(batch), Record::Block(false_block)]].concat();
    let place = damage(&world, &records);
    assert_eq!(place.block, Some(id));
    assert!(place.what.contains("state root"), "{place}");
}

#[test]
fn a_batch_or_parent_that_is_not_there_is_named() {
    let mut world = World::new(3);
    let records = world.chain(3, 2, 1);
    let ids: Vec<BlockId> = blocks(&records).iter().map(|block| block.id(&world.id)).collect();
    let without = |lost: usize| -> Vec<Record> {
        records.iter().enumerate().filter(|(index, _)| *index != lost).map(|(_, record)| record.clone()).collect()
    };
    let place = damage(&world, &without(3));
    assert_eq!(place.block, Some(ids[1]));
    assert!(place.what.contains("does not hold batch"), "{place}");
    let place = damage(&world, &without(5));
    assert_eq!(place.block, Some(ids[2]));
    assert!(place.what.contains("does not hold its parent"), "{place}");
}

#[test]
fn bad_signatures_are_found_wherever_they_are() {
    let mut world = World::new(3);
    let mut records = world.chain(2, 70, 1);
    let Record::Batch(good) = &records[100] else { panic!("it is a batch") };
    let mut batch = good.batch().clone();
    batch.signature = SignatureBytes([1; 64]);
    records[100] = Record::Batch(VerifiedBatch::vouch(batch, &world.id));
    assert!(damage(&world, &records).what.contains("signature"));

    let mut world = World::new(3);
    let mut records = world.chain(1, 1, 1);
    let Record::Block(block) = &records[1] else { panic!("it is a block") };
    let unsigned = Block { signature: SignatureBytes([1; 64]), ..Block::clone(block) };
    let id = unsigned.id(&world.id);
    records[1] = Record::Block(Arc::new(unsigned));
    let place = damage(&world, &records);
    assert_eq!(place.block, Some(id));
    assert!(place.what.contains("signature"), "{place}");
}

#[test]
fn a_false_rank_slot_or_undo_record_is_named() {
    let mut world = World::new(3);
    let first = world.extend(5, &[]);
    let mut header = first.header;
    (header.parent, header.height) = (first.id(&world.id), 2);
    let late = world.sign(header, Vec::new());
    let place = damage(&world, &[Record::Block(first.clone()), Record::Block(late)]);
    assert!(place.what.contains("slot"), "{place}");
    let mut header = first.header;
    header.rank = 1;
    let place = damage(&world, &[Record::Block(world.sign(header, Vec::new()))]);
    assert!(place.what.contains("rank"), "{place}");

    let mut world = World::new(3);
    let records = world.chain(1, 1, 2);
    let id = blocks(&records)[0].id(&world.id);
    world.undos.get_mut(&id).unwrap().accounts.pop();
    let place = damage(&world, &records);
    assert!(place.block == Some(id) && place.what.contains("undo"), "{place}");
}

#[test]
fn the_check_is_given_every_batch_in_bounded_groups() {
    let mut world = World::new(3);
    let records = world.chain(2, 80, 1);
    let (mut seen, mut most) = (BTreeSet::new(), 0);
    let mut bad_batch = |batches: &[Batch]| {
        most = most.max(batches.len());
        seen.extend(batches.iter().map(|batch| batch.number));
        None
    };
    verify(
        &stored(&world, &records),
        &world.genesis,
        world.genesis_state(),
        &mut |_| panic!("the log begins at genesis"),
        &mut bad_batch,
    )
    .unwrap();
    assert_eq!((seen.len(), most), (160, CHECK_BATCHES_MAX));
}
