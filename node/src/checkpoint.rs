//! Checkpoints, written by a thread of their own, one at a time.
//!
//! A step that fails (the disk is full, sled reports an error) is kept and tried again at the next interval: the core
//! already counts from where it ends, so no other step fits in its place. The checkpoint is opened anew for that, since
//! sled refuses everything once something failed in it. One that sled does not even close any more (a flush failed) can
//! be opened only by the next process: until then every try fails at once and says so, and the log grows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use zeni_consensus::CheckpointDelta;
use zeni_ledger::Genesis;
use zeni_storage::{Checkpoint, DiskFiles, Files, Overlay, SledOverlay, StorageError, Syncer};

use crate::recovery::CHECKPOINT_DIRECTORY;

/// Tries to open a checkpoint anew. Whoever still holds it is this process, which holds the whole data directory, and
/// will not let go of it.
const REOPEN_TRIES: u32 = 3;

/// The checkpoint as nodes keep it.
pub type NodeCheckpoint = Checkpoint<DiskFiles, SledOverlay>;

/// Opens a checkpoint that was closed, and first finishes the step that it was in.
pub type Reopen<F, O> = Box<dyn Fn() -> Result<Checkpoint<F, O>, StorageError> + Send>;

/// Something that reads the checkpoint while no step is written. `None` if it is closed after a failure.
pub type Visit = Box<dyn FnOnce(Option<&NodeCheckpoint>) + Send>;

/// The core thread's side.
#[derive(Debug)]
pub struct Checkpointer {
    jobs: Sender<Job>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Job {
    Step(CheckpointDelta),
    /// Try the step that failed once more.
    Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Free,
    Writing,
    Failed,
}

#[derive(Debug)]
struct Progress(Mutex<Stage>);

impl Progress {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checkpointer {
    /// Whether the next step may be written.
    pub fn is_free(&self) -> bool {
        *self.progress.stage() == Stage::Free
    }

    /// Has the last step tried again, if it failed. Each try syncs everything and opens sled anew, so it is for once an
    /// interval, however much waits.
    pub fn try_again(&self) {
        let mut stage = self.progress.stage();
        if *stage == Stage::Failed {
            *stage = Stage::Writing;
            // The thread ends before this side only if it panicked; then no checkpoint is written any more.
            let _ = self.jobs.send(Job::Again);
        }
    }

    /// Has a step written.
    ///
    /// # Panics
    /// Unless [`Self::is_free`] said so since the last one.
    pub fn write(&self, delta: CheckpointDelta) {
        let mut stage = self.progress.stage();
        assert_eq!(*stage, Stage::Free, "one step after another");
        *stage = Stage::Writing;
        let _ = self.jobs.send(Job::Step(delta));
    }
}

/// Starts the thread. It ends when the [`Checkpointer`] is dropped. A step waits while a visit goes on, and the core
/// does not wait for it.
pub fn start(
    checkpoint: NodeCheckpoint,
    reopen: Reopen<DiskFiles, SledOverlay>,
    syncer: Syncer<DiskFiles>,
    mut visits: Receiver<Visit>,
) -> std::io::Result<(Checkpointer, JoinHandle<()>)> {
    let (checkpointer, mut writer, jobs) = pair(checkpoint, reopen, syncer);
    let run = move || {
        loop {
            select! {
                recv(jobs) -> job => match job {
                    Ok(job) => writer.work(job),
                    Err(_) => return,
                },
                recv(visits) -> visit => match visit {
                    Ok(visit) => visit(writer.checkpoint.as_ref()),
                    Err(_) => visits = never(),
                },
            }
        }
    };
    Ok((checkpointer, std::thread::Builder::new().name("checkpoint".into()).spawn(run)?))
}

/// How a node opens its checkpoint anew.
pub fn reopen(files: DiskFiles, genesis: Arc<Genesis>) -> Reopen<DiskFiles, SledOverlay> {
    Box::new(move || {
        let path = files.directory().join(CHECKPOINT_DIRECTORY);
        let overlay = SledOverlay::open_within(&path, REOPEN_TRIES).map_err(|error| match error {
            StorageError::Locked { file, .. } => StorageError::Unclosed { file },
            other => other,
        })?;
        let opened = Checkpoint::open(files.clone(), overlay, &genesis);
        opened.map(|(checkpoint, _)| checkpoint).map_err(|(error, _)| error)
    })
}

fn pair<F: Files, O: Overlay>(
    checkpoint: Checkpoint<F, O>,
    reopen: Reopen<F, O>,
    syncer: Syncer<F>,
) -> (Checkpointer, Writer<F, O>, Receiver<Job>) {
    let (jobs, waiting) = bounded(1);
    let progress = Arc::new(Progress(Mutex::new(Stage::Free)));
    let writer = Writer { checkpoint: Some(checkpoint), reopen, syncer, failed: None, progress: Arc::clone(&progress) };
    (Checkpointer { jobs, progress }, writer, waiting)
}

struct Writer<F: Files, O: Overlay> {
    /// Closed after a failure.
    checkpoint: Option<Checkpoint<F, O>>,
    reopen: Reopen<F, O>,
    syncer: Syncer<F>,
    failed: Option<CheckpointDelta>,
    progress: Arc<Progress>,
}

impl<F: Files, O: Overlay> Writer<F, O> {
    fn work(&mut self, job: Job) {
        let delta = match job {
            Job::Step(mut delta) => {
                delta.sort();
                delta
            }
            Job::Again => self.failed.take().expect("only a step that failed is asked for again"),
        };
        let stage = match self.write(&delta) {
            Ok(()) => Stage::Free,
            Err(error) => {
                metrics::counter!("zeni_checkpoint_failures_total").increment(1);
                let (height, advice) = (delta.height, advice(&error));
                tracing::error!(%error, height, advice, "a checkpoint failed; it is tried again at the next interval");
                // Nothing of it is used again.
                self.checkpoint = None;
                self.failed = Some(delta);
                Stage::Failed
            }
        };
        *self.progress.stage() = stage;
    }

    fn write(&mut self, delta: &CheckpointDelta) -> Result<(), StorageError> {
        let start = Instant::now();
        // A state without its undo records could never be taken back: they go first.
        self.syncer.sync_all()?;
        let checkpoint = match self.checkpoint.take() {
            Some(open) => open,
            None => (self.reopen)()?,
        };
        let checkpoint = self.checkpoint.insert(checkpoint);
        // A try that failed midway may have been finished when the checkpoint was opened anew.
        if checkpoint.head()?.0 != delta.to {
            checkpoint.apply(delta)?;
        }
        metrics::histogram!("zeni_checkpoint_seconds").record(start.elapsed());
        metrics::gauge!("zeni_checkpoint_height").set(delta.height as f64);
        tracing::info!(height = delta.height, block = %delta.to, accounts = delta.accounts.len(), "checkpoint");
        Ok(())
    }
}

/// What an operator can do. Payments go on meanwhile: the log is the truth, and a start replays it from the last good
/// checkpoint.
fn advice(error: &StorageError) -> &'static str {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        StorageError::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded) => {
            "free space on the data directory's disk"
        }
        StorageError::Unclosed { .. } => {
            "restart the node once its disk is in order: no checkpoint is written before, and a restart loses nothing"
        }
        StorageError::CheckpointDamaged { .. } | StorageError::CheckpointMismatch { .. } => {
            "if it fails again, restart the node: it rebuilds the checkpoint from the log"
        }
        _ => "if it fails again, look after the disk that the error names; a restart loses nothing",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use zeni_ledger::{Account, AccountId, BlockId};
    use zeni_storage::{Fault, FileOverlay, Limits, MemoryFiles, Store};

    fn genesis() -> Genesis {
        Genesis::from_toml(include_str!("../../deploy/genesis.example.toml")).unwrap()
    }

    fn step(from: BlockId, height: u8) -> CheckpointDelta {
        let accounts = vec![Account::new(AccountId([height; 32]))];
        CheckpointDelta { from, to: BlockId([height; 32]), height: height.into(), accounts }
    }

    fn syncer<F: Files>(files: &F, genesis: &Genesis) -> Syncer<F> {
        Store::init(files, &genesis.id()).unwrap();
        Store::open(files.clone(), genesis, Limits::default()).unwrap().0.syncer()
    }

    fn in_memory(files: &MemoryFiles, genesis: &Genesis) -> Reopen<MemoryFiles, FileOverlay<MemoryFiles>> {
        let (files, genesis) = (files.clone(), genesis.clone());
        Box::new(move || {
            let opened = Checkpoint::open(files.clone(), FileOverlay::open(&files)?, &genesis);
            opened.map(|(checkpoint, _)| checkpoint).map_err(|(error, _)| error)
        })
    }

    #[test]
    fn a_checkpoint_that_met_a_full_disk_is_written_once_there_is_room_and_the_next_fits_behind_it() {
        let (files, genesis) = (MemoryFiles::new(), genesis());
        let (syncer, reopen) = (syncer(&files, &genesis), in_memory(&files, &genesis));
        let checkpoint = reopen().unwrap();
        let (checkpointer, mut writer, jobs) = pair(checkpoint, reopen, syncer);
        let metrics = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&metrics, || {
            files.inject(Fault::Capacity { bytes: 0 });
            let first = step(genesis.block_id(), 1);
            assert!(checkpointer.is_free());
            checkpointer.write(first);
            assert!(!checkpointer.is_free());
            checkpointer.try_again();
            writer.work(jobs.try_recv().unwrap());
            assert!(jobs.try_recv().is_err(), "a second one was asked for while the first was being written");
            assert!(!checkpointer.is_free(), "the step that failed comes first");
            assert!(jobs.try_recv().is_err(), "a look is no try");
            checkpointer.try_again();
            writer.work(jobs.try_recv().unwrap());
            files.inject(Fault::Capacity { bytes: u64::MAX });
            checkpointer.try_again();
            writer.work(jobs.try_recv().unwrap());
            assert!(checkpointer.is_free());
            checkpointer.try_again();
            assert!(jobs.try_recv().is_err(), "it did not fail");
            checkpointer.write(step(BlockId([1; 32]), 2));
            writer.work(jobs.try_recv().unwrap());
        });
        let page = metrics.handle().render();
        assert!(page.contains("zeni_checkpoint_failures_total 2\n"), "{page}");
        assert!(page.contains("zeni_checkpoint_height 2\n"), "{page}");
        drop(writer);
        assert_eq!(in_memory(&files, &genesis)().unwrap().head().unwrap(), (BlockId([2; 32]), 2));
    }

    #[test]
    fn a_checkpoint_that_failed_midway_is_finished() {
        let (files, genesis) = (MemoryFiles::new(), genesis());
        let (syncer, reopen) = (syncer(&files, &genesis), in_memory(&files, &genesis));
        let checkpoint = reopen().unwrap();
        let (checkpointer, mut writer, jobs) = pair(checkpoint, reopen, syncer);
        // Two writes make the step's file; the third would put it into the checkpoint.
        files.inject(Fault::Write { after: 2 });
        checkpointer.write(step(genesis.block_id(), 1));
        writer.work(jobs.try_recv().unwrap());
        assert_eq!(*checkpointer.progress.stage(), Stage::Failed);
        checkpointer.try_again();
        writer.work(jobs.try_recv().unwrap());
        assert_eq!(*checkpointer.progress.stage(), Stage::Free);
        assert_eq!(writer.checkpoint.unwrap().head().unwrap(), (BlockId([1; 32]), 1));
    }

    #[test]
    fn sled_is_opened_anew_after_a_failure() {
        let (directory, genesis) = (tempfile::tempdir().unwrap(), Arc::new(genesis()));
        let files = DiskFiles::open(directory.path()).unwrap();
        let (syncer, reopen) = (syncer(&files, &genesis), reopen(files.clone(), Arc::clone(&genesis)));
        let checkpoint = reopen().unwrap();
        let (checkpointer, mut writer, jobs) = pair(checkpoint, reopen, syncer);
        // A directory where the step's file belongs cannot be replaced by it.
        let obstacle = directory.path().join("checkpoint.delta");
        std::fs::create_dir(&obstacle).unwrap();
        checkpointer.write(step(genesis.block_id(), 1));
        writer.work(jobs.try_recv().unwrap());
        assert_eq!(*checkpointer.progress.stage(), Stage::Failed);
        assert!(writer.checkpoint.is_none(), "sled stays open in whatever state the failure left it");
        std::fs::remove_dir(&obstacle).unwrap();
        checkpointer.try_again();
        writer.work(jobs.try_recv().unwrap());
        assert_eq!(writer.checkpoint.unwrap().head().unwrap(), (BlockId([1; 32]), 1));
    }
    /// Longer than anything here takes that is bounded.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// Leaves no room for anything that a closed and empty sled may yet write: its flushes will fail as on a full disk.
    fn leave_no_room(sled: &Path) {
        for slab in std::fs::read_dir(sled.join("slabs")).unwrap() {
            let slab = slab.unwrap().path();
            std::fs::remove_file(&slab).unwrap();
            symlink("/dev/full", &slab).unwrap();
        }
    }

    #[test]
    fn a_sled_whose_flush_failed_holds_up_no_visit_and_asks_for_a_restart() {
        let (directory, genesis) = (tempfile::tempdir().unwrap(), Arc::new(genesis()));
        let files = DiskFiles::open(directory.path()).unwrap();
        let syncer = syncer(&files, &genesis);
        let open_anew = || reopen(files.clone(), Arc::clone(&genesis));
        drop(open_anew()().unwrap());
        leave_no_room(&directory.path().join(CHECKPOINT_DIRECTORY));
        let checkpoint = open_anew()().unwrap();
        let (visits, to_visit) = bounded(1);
        let (checkpointer, thread) = start(checkpoint, open_anew(), syncer, to_visit).unwrap();
        checkpointer.write(step(genesis.block_id(), 1));
        let (tell, told) = bounded(1);
        let visit: Visit = Box::new(move |checkpoint| tell.send(checkpoint.is_some()).unwrap());
        visits.send(visit).unwrap();
        // If the visit came first, the checkpoint was still open.
        let mut seen = told.recv_timeout(DEADLINE).expect("a visit waits for ever");
        if seen {
            let (tell, told) = bounded(1);
            let visit: Visit = Box::new(move |checkpoint| tell.send(checkpoint.is_some()).unwrap());
            visits.send(visit).unwrap();
            seen = told.recv_timeout(DEADLINE).expect("a visit waits for ever");
        }
        assert!(!seen, "a checkpoint that failed was shown");
        let refused = open_anew()().map(drop).unwrap_err();
        assert!(matches!(refused, StorageError::Unclosed { .. }), "{refused}");
        assert!(advice(&refused).starts_with("restart the node"));
        assert!(!checkpointer.is_free(), "the step that failed comes first");
        drop(checkpointer);
        thread.join().unwrap();
    }
}
