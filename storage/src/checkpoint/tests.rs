use std::fs;
use std::path::Path;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zeni_ledger::Block;

use super::*;
use crate::closing::tests::{in_time, leave_no_room};
use crate::disk::DiskFiles;
use crate::fixture::{World, blocks};
use crate::memory::{Fault, MemoryFiles};
use crate::overlay::FileOverlay;
use crate::sled_overlay::SledOverlay;

fn world() -> (World, Vec<Arc<Block>>) {
    let mut world = World::new(3);
    let records = world.chain(6, 2, 5);
    (world, blocks(&records))
}

type InMemory = Checkpoint<MemoryFiles, FileOverlay<MemoryFiles>>;

fn in_memory(files: &MemoryFiles, world: &World) -> (InMemory, Interrupted) {
    let overlay = FileOverlay::open(files).unwrap();
    Checkpoint::open(files.clone(), overlay, &world.genesis).map_err(|(error, _)| error).unwrap()
}

fn on_disk(directory: &Path, world: &World) -> (Checkpoint<DiskFiles, SledOverlay>, Interrupted) {
    let files = DiskFiles::open(directory).unwrap();
    let overlay = SledOverlay::open(&directory.join("checkpoint")).unwrap();
    Checkpoint::open(files, overlay, &world.genesis).map_err(|(error, _)| error).unwrap()
}

/// Loads a checkpoint and checks that its state is that of the block that it names. Returns the height.
fn loaded<F: Files, O: Overlay>(checkpoint: &Checkpoint<F, O>, world: &World, blocks: &[Arc<Block>]) -> u64 {
    let mut state = world.genesis_state();
    let (id, height) = checkpoint.load_into(&mut state).unwrap();
    let expected = match height {
        0 => (world.genesis.block_id(), world.genesis_state().root()),
        _ => {
            let block = &blocks[height as usize - 1];
            (block.id(&world.id), block.header.state_root)
        }
    };
    assert_eq!((id, state.root()), expected, "the checkpoint is in between");
    height
}

#[test]
fn steps_lead_from_genesis_to_each_block() {
    let (world, blocks) = world();
    let files = MemoryFiles::new();
    let (mut checkpoint, interrupted) = in_memory(&files, &world);
    assert_eq!((interrupted, loaded(&checkpoint, &world, &blocks)), (Interrupted::No, 0));
    checkpoint.apply(&world.step(None, &blocks[1])).unwrap();
    checkpoint.apply(&world.step(Some(&blocks[1]), &blocks[4])).unwrap();
    assert_eq!(loaded(&checkpoint, &world, &blocks), 5);
    drop(checkpoint);
    files.crash(&mut |_| 0);
    assert_eq!(loaded(&in_memory(&files, &world).0, &world, &blocks), 5);
}

#[test]
fn a_step_that_begins_elsewhere_is_refused_and_changes_nothing() {
    let (world, blocks) = world();
    let (mut checkpoint, _) = in_memory(&MemoryFiles::new(), &world);
    checkpoint.apply(&world.step(None, &blocks[1])).unwrap();
    let refused = checkpoint.apply(&world.step(Some(&blocks[2]), &blocks[3]));
    assert!(matches!(refused, Err(StorageError::CheckpointMismatch { .. })), "{refused:?}");
    assert_eq!(loaded(&checkpoint, &world, &blocks), 2);
}

#[test]
fn a_crash_at_any_step_ends_before_or_behind_it() {
    let (world, blocks) = world();
    let before = MemoryFiles::new();
    in_memory(&before, &world).0.apply(&world.step(None, &blocks[1])).unwrap();
    before.sync_directory().unwrap();
    let step = world.step(Some(&blocks[1]), &blocks[4]);
    let (mut old, mut new) = (0, 0);
    for cut in 0.. {
        let mut finished = false;
        for seed in 0..40 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let files = before.snapshot();
            let (mut checkpoint, _) = in_memory(&files, &world);
            files.inject(Fault::PowerCut { after: cut });
            finished = checkpoint.apply(&step).is_ok();
            drop(checkpoint);
            files.crash(&mut |bound| rng.random_range(0..bound));
            // The start after the crash may be cut too.
            files.inject(Fault::PowerCut { after: rng.random_range(0..10) });
            if let Ok(overlay) = FileOverlay::open(&files) {
                drop(Checkpoint::open(files.clone(), overlay, &world.genesis));
            }
            files.crash(&mut |bound| rng.random_range(0..bound));
            let (mut checkpoint, _) = in_memory(&files, &world);
            let height = loaded(&checkpoint, &world, &blocks);
            assert!(height == 5 || (height == 2 && !finished), "cut at {cut}, seed {seed}: height {height}");
            (old, new) = (old + usize::from(height == 2), new + usize::from(height == 5));
            // And it goes on from where it stands.
            let next = world.step(Some(&blocks[height as usize - 1]), &blocks[5]);
            checkpoint.apply(&next).unwrap();
            assert_eq!(loaded(&checkpoint, &world, &blocks), 6);
        }
        if finished {
            break;
        }
    }
    assert!(old > 20 && new > 20, "{old} old, {new} new");
}

#[test]
fn a_step_that_failed_is_settled_by_the_next_one() {
    let (world, blocks) = world();
    let files = MemoryFiles::new();
    let (mut checkpoint, _) = in_memory(&files, &world);
    // The delta file is complete after two writes and a sync; the write to the overlay behind them fails.
    files.inject(Fault::Write { after: 2 });
    checkpoint.apply(&world.step(None, &blocks[1])).unwrap_err();
    checkpoint.apply(&world.step(Some(&blocks[1]), &blocks[2])).unwrap();
    assert_eq!(loaded(&checkpoint, &world, &blocks), 3);
    files.inject(Fault::Write { after: 0 });
    checkpoint.apply(&world.step(Some(&blocks[2]), &blocks[3])).unwrap_err();
    let refused = checkpoint.apply(&world.step(Some(&blocks[3]), &blocks[4]));
    assert!(matches!(refused, Err(StorageError::CheckpointMismatch { .. })), "{refused:?}");
    assert_eq!(loaded(&checkpoint, &world, &blocks), 3);
}

#[test]
fn a_reset_checkpoint_stands_at_genesis() {
    let (world, blocks) = world();
    let files = MemoryFiles::new();
    let (mut checkpoint, _) = in_memory(&files, &world);
    checkpoint.apply(&world.step(None, &blocks[1])).unwrap();
    checkpoint.reset().unwrap();
    assert_eq!(loaded(&checkpoint, &world, &blocks), 0);
    checkpoint.apply(&world.step(None, &blocks[3])).unwrap();
    assert_eq!(loaded(&in_memory(&files, &world).0, &world, &blocks), 4);
}

#[test]
fn sled_keeps_a_checkpoint() {
    let (world, blocks) = world();
    let directory = tempfile::tempdir().unwrap();
    {
        let (mut checkpoint, _) = on_disk(directory.path(), &world);
        checkpoint.apply(&world.step(None, &blocks[1])).unwrap();
        checkpoint.apply(&world.step(Some(&blocks[1]), &blocks[4])).unwrap();
    }
    let (checkpoint, interrupted) = on_disk(directory.path(), &world);
    assert_eq!((interrupted, loaded(&checkpoint, &world, &blocks)), (Interrupted::No, 5));
    assert_eq!(checkpoint.overlay().moved_aside(), None);
}

#[test]
fn a_step_of_which_sled_got_a_part_is_finished_at_the_next_start() {
    let (world, blocks) = world();
    let directory = tempfile::tempdir().unwrap();
    let step = world.step(Some(&blocks[1]), &blocks[4]);
    {
        let (mut checkpoint, _) = on_disk(directory.path(), &world);
        checkpoint.apply(&world.step(None, &blocks[1])).unwrap();
        delta::write(&checkpoint.files, &world.id, &step).unwrap();
        let half: Vec<_> = step.accounts[..step.accounts.len() / 2].iter().map(content).collect();
        checkpoint.overlay.put(&half).unwrap();
        checkpoint.overlay.flush().unwrap();
    }
    let (checkpoint, interrupted) = on_disk(directory.path(), &world);
    assert_eq!((interrupted, loaded(&checkpoint, &world, &blocks)), (Interrupted::Finished, 5));
}

#[test]
fn a_corrupt_sled_is_moved_aside_and_begun_anew() {
    let (world, blocks) = world();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint");
    {
        let (mut checkpoint, _) = on_disk(directory.path(), &world);
        checkpoint.apply(&world.step(None, &blocks[1])).unwrap();
    }
    corrupt(&path);
    let (mut checkpoint, _) = on_disk(directory.path(), &world);
    let aside = checkpoint.overlay().moved_aside().unwrap().to_owned();
    assert!(aside.is_dir() && aside != path);
    assert_eq!(loaded(&checkpoint, &world, &blocks), 0);
    checkpoint.apply(&world.step(None, &blocks[3])).unwrap();
    drop(checkpoint);
    assert_eq!(loaded(&on_disk(directory.path(), &world).0, &world, &blocks), 4);
}

/// Overwrites every byte of every file below.
fn corrupt(path: &Path) {
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => corrupt(&entry.path()),
            false => {
                let len = entry.metadata().unwrap().len() as usize;
                fs::write(entry.path(), vec![0xa5; len]).unwrap();
            }
        }
    }
}

#[test]
fn a_locked_sled_is_tried_again_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint");
    let first = SledOverlay::open(&path).unwrap();
    let refused = SledOverlay::open_within(&path, 1);
    assert!(matches!(refused, Err(StorageError::Locked { .. })), "{refused:?}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| SledOverlay::open(&path));
        drop(first);
        let second = waiting.join().unwrap().unwrap();
        assert_eq!(second.moved_aside(), None, "a locked directory is not a corrupt one");
    });
}

/// A sled of which a flush failed as on a full disk.
fn that_failed(path: &Path) -> SledOverlay {
    drop(SledOverlay::open(path).unwrap());
    leave_no_room(path);
    let mut overlay = SledOverlay::open(path).unwrap();
    overlay.put(&[(AccountId([1; 32]), vec![1])]).unwrap();
    let failed = overlay.flush();
    let full = |source: &std::io::Error| source.kind() == std::io::ErrorKind::StorageFull;
    assert!(matches!(&failed, Err(StorageError::Io { source, .. }) if full(source)), "{failed:?}");
    overlay
}

#[test]
fn a_sled_whose_flush_failed_is_let_go_in_time_though_it_keeps_its_lock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint");
    let overlay = that_failed(&path);
    in_time(|| drop(overlay));
    let refused = SledOverlay::open_within(&path, 1);
    assert!(matches!(refused, Err(StorageError::Locked { .. })), "{refused:?}");
}

#[test]
fn a_sled_whose_flush_failed_is_moved_aside_in_time_and_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint");
    let mut overlay = that_failed(&path);
    let mut overlay = in_time(|| {
        overlay.reset().unwrap();
        overlay
    });
    assert!(overlay.moved_aside().is_some_and(Path::is_dir));
    let mut count = 0;
    overlay.put(&[(AccountId([2; 32]), vec![2])]).unwrap();
    overlay.flush().unwrap();
    drop(overlay);
    let counted = SledOverlay::open_within(&path, 1).unwrap().each(&mut |id, content| {
        count += 1;
        assert_eq!((id, content), (AccountId([2; 32]), &[2][..]));
        Ok(())
    });
    assert_eq!((counted.is_ok(), count), (true, 1));
}

#[test]
fn another_ledgers_checkpoint_is_refused() {
    let (world, blocks) = world();
    let files = MemoryFiles::new();
    in_memory(&files, &world).0.apply(&world.step(None, &blocks[1])).unwrap();
    let other = World::of_network(3, 99);
    let overlay = FileOverlay::open(&files).unwrap();
    let refused = Checkpoint::open(files, overlay, &other.genesis).map(drop);
    assert!(matches!(refused, Err((StorageError::OtherGenesis { .. }, _))));
}

#[test]
fn content_that_does_not_decode_is_damage() {
    let (world, _) = world();
    let files = MemoryFiles::new();
    let (mut checkpoint, _) = in_memory(&files, &world);
    checkpoint.overlay.put(&[(AccountId([1; 32]), vec![1, 2, 3])]).unwrap();
    let damaged = checkpoint.load_into(&mut world.genesis_state());
    assert!(matches!(damaged, Err(StorageError::CheckpointDamaged { .. })), "{damaged:?}");
}
