//! The index's behaviour in memory and in sled.

use super::tree::GENERATION_PAYMENTS;
use super::*;
use crate::closing::tests::{in_time, leave_no_room};

const CONFIG: IndexConfig = IndexConfig { depth: 2, memory_payments_max: 1_000, cache_bytes: 1 << 20 };
const GENESIS: BlockId = BlockId([0xee; 32]);

fn open(path: &Path) -> Index {
    let opened = Index::open(path, GENESIS, CONFIG).unwrap();
    assert_eq!(opened.set_aside, None);
    opened.index
}

fn payment(number: u64) -> TransactionId {
    TransactionId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn block_id(height: u64, fork: u8) -> BlockId {
    let mut id = [fork; 32];
    id[..8].copy_from_slice(&height.to_le_bytes());
    BlockId(id)
}

fn account(number: u64) -> AccountId {
    AccountId(payment(number).0)
}

/// A block that holds these payments, all applied: payment `n` used sequence `n` of account `n`.
fn block(height: u64, fork: u8, payments: impl IntoIterator<Item = u64> + Clone) -> IndexedBlock {
    let entry = |(position, number): (usize, u64)| Entry {
        half: half(&payment(number)),
        batch: 0,
        position: position as u16,
        outcome: Outcome::Applied.to_byte(),
    };
    let mut entries: Vec<Entry> = payments.clone().into_iter().enumerate().map(entry).collect();
    entries.sort_unstable_by_key(|entry| entry.half);
    let used = |(position, number): (usize, u64)| Use {
        fingerprint: fingerprint(&account(number), Sequence(number)),
        batch: 0,
        position: position as u16,
    };
    let mut uses: Vec<Use> = payments.into_iter().enumerate().map(used).collect();
    uses.sort_unstable_by_key(|one| one.fingerprint);
    IndexedBlock { height, id: block_id(height, fork), entries, uses, skipped: Vec::new() }
}

/// A block that lists these payments and skipped them.
fn skipping(height: u64, fork: u8, payments: impl IntoIterator<Item = u64>) -> IndexedBlock {
    let skipped = |(position, number): (usize, u64)| Skipped {
        half: half(&payment(number)),
        batch: 0,
        position: position as u16,
    };
    let mut skipped: Vec<Skipped> = payments.into_iter().enumerate().map(skipped).collect();
    skipped.sort_unstable_by_key(|one| one.half);
    IndexedBlock { skipped, ..block(height, fork, []) }
}

fn use_of(index: &Index, number: u64) -> Option<Place> {
    index.find_use(&account(number), Sequence(number)).unwrap()
}

fn skipped_at(index: &Index, number: u64) -> Option<u64> {
    index.find_skipped(&payment(number)).unwrap().map(|place| place.height)
}

fn height_of(index: &Index, number: u64) -> Option<u64> {
    index.find(&payment(number)).unwrap().map(|location| location.height)
}

fn undo(index: &Index, payments: &[u64]) -> Result<(u64, BlockId), IndexError> {
    let listed = |number: &u64| Listed { id: payment(*number), from: account(*number), sequence: Sequence(*number) };
    index.undo(|_| Ok(payments.iter().map(listed).collect()))
}

#[test]
fn finds_payments_in_memory_and_in_sled() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir.path().join("index"));
    for height in 1..=10 {
        index.apply(block(height, 0, height * 10..height * 10 + 10)).unwrap();
    }
    assert_eq!(index.flush().unwrap(), 80, "all but the two highest blocks");
    assert_eq!(index.flushed(), (8, block_id(8, 0)));
    for number in 10..110 {
        let found = index.find(&payment(number)).unwrap().unwrap();
        let (height, position) = (number / 10, (number % 10) as u16);
        assert_eq!(found, Location { height, batch: 0, position, outcome: Outcome::Applied });
    }
    assert_eq!(height_of(&index, 9), None);
    assert_eq!(index.block_at(0).unwrap(), Some(GENESIS));
    assert_eq!(index.block_at(3).unwrap(), Some(block_id(3, 0)));
    assert_eq!(index.block_at(10).unwrap(), Some(block_id(10, 0)));
    assert_eq!(index.block_at(11).unwrap(), None);
}

#[test]
fn a_crash_loses_only_what_was_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let index = open(&path);
    for height in 1..=5 {
        index.apply(block(height, 0, [height])).unwrap();
    }
    index.flush().unwrap();
    drop(index);
    let index = open(&path);
    assert_eq!(index.head(), (3, block_id(3, 0)));
    assert_eq!(height_of(&index, 3), Some(3));
    assert_eq!(height_of(&index, 4), None);
    index.apply(block(4, 0, [4])).unwrap();
    assert_eq!(height_of(&index, 4), Some(4));
}

#[test]
fn a_clean_stop_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let index = open(&path);
    for height in 1..=5 {
        index.apply(block(height, 0, [height])).unwrap();
    }
    index.flush_all().unwrap();
    drop(index);
    assert_eq!(open(&path).head(), (5, block_id(5, 0)));
}

#[test]
fn blocks_up_to_a_checkpoint_are_written_though_they_are_not_deep() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir.path().join("index"));
    for height in 1..=5 {
        index.apply(block(height, 0, [height])).unwrap();
    }
    index.flush_through(4).unwrap();
    assert_eq!(index.flushed(), (4, block_id(4, 0)));
    index.flush_through(9).unwrap();
    assert_eq!(index.flushed(), (5, block_id(5, 0)));
}

#[test]
fn an_undone_block_leaves_nothing_behind_in_memory_or_in_sled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let index = open(&path);
    for height in 1..=3 {
        index.apply(block(height, 0, [height, 100 + height])).unwrap();
    }
    index.flush_all().unwrap();
    index.apply(block(4, 0, [4])).unwrap();

    assert_eq!(undo(&index, &[]).unwrap(), (3, block_id(3, 0)));
    assert_eq!(undo(&index, &[3, 103]).unwrap(), (2, block_id(2, 0)));
    assert_eq!((height_of(&index, 4), height_of(&index, 3), height_of(&index, 103)), (None, None, None));
    assert_eq!(index.block_at(3).unwrap(), None);

    // On the other chain one of the payments stands at another height, the other one nowhere.
    index.apply(block(3, 1, [7])).unwrap();
    index.apply(block(4, 1, [3])).unwrap();
    assert_eq!((height_of(&index, 3), height_of(&index, 103), height_of(&index, 2)), (Some(4), None, Some(2)));
    index.flush_all().unwrap();
    drop(index);
    let index = open(&path);
    assert_eq!((height_of(&index, 3), height_of(&index, 103), height_of(&index, 2)), (Some(4), None, Some(2)));
    assert_eq!(index.block_at(3).unwrap(), Some(block_id(3, 1)));
}

#[test]
fn taking_back_and_applying_again_gives_the_same_answers() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir.path().join("index"));
    let apply = |from: u64| {
        for height in from..=6 {
            index.apply(block(height, 0, [height])).unwrap();
        }
    };
    apply(1);
    index.flush().unwrap();
    for height in (1..=6).rev() {
        assert_eq!(undo(&index, &[height]).unwrap().0, height - 1);
    }
    assert!(matches!(undo(&index, &[]), Err(IndexError::AtGenesis)));
    apply(1);
    index.flush_all().unwrap();
    assert!((1..=6).all(|height| height_of(&index, height) == Some(height)));
}

#[test]
fn memory_over_its_bound_is_written_though_it_is_not_deep() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir.path().join("index"));
    index.apply(block(1, 0, 0..900)).unwrap();
    assert_eq!(index.flush().unwrap(), 0);
    index.apply(block(2, 0, 900..1_800)).unwrap();
    assert_eq!(index.flush().unwrap(), 900);
    assert_eq!(index.memory_payments(), 900);
}

#[test]
fn payments_of_every_generation_are_found_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let index = open(&path);
    for height in 1..=4 {
        // As if each block filled a generation.
        index.write().marker.generation_payments = GENERATION_PAYMENTS;
        index.apply(block(height, 0, [height])).unwrap();
        index.flush_all().unwrap();
    }
    drop(index);
    let index = open(&path);
    assert_eq!(index.read().marker.generation, 4);
    assert!((1..=4).all(|height| height_of(&index, height) == Some(height)));
    for height in (2..=4).rev() {
        undo(&index, &[height]).unwrap();
    }
    index.apply(block(2, 1, [4])).unwrap();
    index.flush_all().unwrap();
    assert_eq!([1, 2, 3, 4].map(|number| height_of(&index, number)), [Some(1), None, None, Some(2)]);
}

#[test]
fn who_used_a_sequence_is_found_in_memory_and_in_sled_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let index = open(&path);
    for height in 1..=3 {
        index.apply(block(height, 0, [10 + height, height])).unwrap();
    }
    let places = [1, 2, 3].map(|height| Some(Place { height, batch: 0, position: 1 }));
    assert_eq!([1, 2, 3].map(|number| use_of(&index, number)), places);
    index.flush_all().unwrap();
    drop(index);
    let index = open(&path);
    assert_eq!([1, 2, 3].map(|number| use_of(&index, number)), places);
    assert_eq!(index.find_use(&account(1), Sequence(2)).unwrap(), None, "a sequence of another account");
    undo(&index, &[13, 3]).unwrap();
    assert_eq!([2, 3].map(|number| use_of(&index, number)), [places[1], None]);
    index.apply(block(3, 1, [])).unwrap();
    index.flush_all().unwrap();
    drop(index);
    let index = open(&path);
    assert_eq!([2, 3].map(|number| use_of(&index, number)), [places[1], None]);
}

#[test]
fn a_skipped_payment_is_found_again_and_never_hides_where_it_was_executed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let index = open(&path);
    index.apply(block(1, 0, [1])).unwrap();
    // A second batch with payment 1, and one that lost its sequence to another.
    index.apply(skipping(2, 0, [1, 9])).unwrap();
    index.apply(skipping(3, 0, [8])).unwrap();
    let told = |index: &Index| (height_of(index, 1), height_of(index, 9), skipped_at(index, 9), skipped_at(index, 8));
    assert_eq!(told(&index), (Some(1), None, Some(2), Some(3)));
    index.flush_all().unwrap();
    drop(index);
    let index = open(&path);
    assert_eq!(told(&index), (Some(1), None, Some(2), Some(3)));
    undo(&index, &[8]).unwrap();
    assert_eq!(told(&index), (Some(1), None, Some(2), None));
}

#[test]
fn an_index_of_the_version_before_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    drop(open(&path));
    tree::age_marker(&path);
    let opened = Index::open(&path, GENESIS, CONFIG).unwrap();
    assert!(opened.set_aside.is_some());
}

#[test]
fn a_gap_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir.path().join("index"));
    assert!(matches!(index.apply(block(2, 0, [])), Err(IndexError::Gap { height: 2, head: 0 })));
}

#[test]
fn another_ledgers_index_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let index = open(&path);
    index.apply(block(1, 0, [1])).unwrap();
    index.flush_all().unwrap();
    drop(index);
    let opened = Index::open(&path, BlockId([1; 32]), CONFIG).unwrap();
    assert_eq!(opened.index.head(), (0, BlockId([1; 32])));
    assert!(opened.set_aside.is_some_and(|aside| aside.exists()));
}

#[test]
fn a_damaged_index_is_set_aside_and_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let index = open(&path);
    index.apply(block(1, 0, 0..500)).unwrap();
    index.flush_all().unwrap();
    drop(index);
    damage_every_file(&path);
    let opened = Index::open(&path, GENESIS, CONFIG).unwrap();
    assert_eq!(opened.index.head(), (0, GENESIS));
    assert!(opened.set_aside.is_some());
}

fn damage_every_file(path: &Path) {
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            damage_every_file(&entry.path());
        } else {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
            std::fs::write(entry.path(), bytes).unwrap();
        }
    }
}

#[test]
fn an_index_whose_write_failed_says_so_and_is_let_go_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    drop(open(&path));
    leave_no_room(&path);
    let index = open(&path);
    (1..=4).for_each(|height| index.apply(block(height, 0, height * 100..height * 100 + 50)).unwrap());
    let failed = index.flush();
    let full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
    assert!(matches!(&failed, Err(IndexError::Io { error, .. }) if full(error)), "{failed:?}");
    // What is in memory is still told.
    assert_eq!(height_of(&index, 100), Some(1));
    in_time(|| drop(index));
}
