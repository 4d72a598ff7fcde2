//! Snapshots for validators that lost their disks: made by the checkpoint's thread when one asks, served by a thread of
//! its own from the file that it made. Both keep to a rate, so that the node's own work hardly notices; the core has no
//! part in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use zeni_consensus::snapshot::{Manifest, PageName};
use zeni_ledger::{BlockId, Genesis};
use zeni_schemas::request::RequestError;
use zeni_storage::{DiskFiles, Export, Files, Reader, StorageError};

use crate::checkpoint::{NodeCheckpoint, Visit};

/// Bytes a second at which a snapshot is made, and at which pages are served to all who ask together, at most.
pub const SNAPSHOT_BYTES_PER_S: u64 = 32 << 20;
/// Pages that are read or on their way to whoever asked, at most; further ones are to be asked for again.
pub const PAGES_ON_THEIR_WAY_MAX: usize = 8;
/// A snapshot that nobody read from for so long gives way to a newer one.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// A snapshot younger than this is good enough for whoever asks next. One that nobody read from for so long is removed:
/// it takes room on the disk below whose watermark the node refuses payments.
const FRESH_FOR: Duration = Duration::from_secs(300);
/// How often it is looked whether anybody still reads.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long it is remembered that there was nothing to give.
const NOTHING_FOR: Duration = Duration::from_secs(5);
/// When to ask again for a snapshot that is being made, and for a page that found no room.
const MAKING_RETRY_MS: u32 = 500;
const PAGE_RETRY_MS: u32 = 50;

/// What every connection asks for snapshots.
#[derive(Debug)]
pub struct Snapshots {
    genesis: Arc<Genesis>,
    files: DiskFiles,
    reader: Reader<DiskFiles>,
    /// Below this much free space none is made.
    watermark_bytes: u64,
    visits: Sender<Visit>,
    pages: Sender<Wanted>,
    room: Arc<Semaphore>,
    stage: Arc<Stage>,
    stopping: Arc<AtomicBool>,
}

/// A page that the serving thread is to read.
struct Wanted {
    export: Arc<Export<DiskFiles>>,
    page: PageName,
    answer: oneshot::Sender<Result<Vec<u8>, RequestError>>,
}

#[derive(Debug, Default)]
struct Stage(Mutex<Stands>);

/// How far the making is.
#[derive(Debug, Default)]
enum Stands {
    #[default]
    NotMade,
    Making,
    /// There was nothing to give when this height was asked for.
    Nothing {
        since: Instant,
        height_min: u64,
    },
    Ready {
        export: Arc<Export<DiskFiles>>,
        made: Instant,
        read: Instant,
    },
}

impl Stage {
    fn stands(&self) -> MutexGuard<'_, Stands> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a snapshot that nobody read from for [`FRESH_FOR`].
    fn discard_unread(&self, files: &DiskFiles, now: Instant) {
        let mut stands = self.stands();
        match &*stands {
            Stands::Ready { read, .. } if now.saturating_duration_since(*read) >= FRESH_FOR => {}
            _ => return,
        }
        // Under the lock, so that the file is not one that is just being made.
        discard(files);
        let unread = std::mem::take(&mut *stands);
        drop(stands);
        // Its last handle: giving back gigabytes may take a moment.
        drop(unread);
    }
}

/// Held until an answer has left.
pub type Room = OwnedSemaphorePermit;

impl Snapshots {
    /// Starts the serving thread. Also returns what the checkpoint's thread is to take. The thread ends when the last
    /// handle is gone, and holds nothing that must be finished.
    ///
    /// # Errors
    /// If the thread does not start.
    pub fn start(
        genesis: Arc<Genesis>,
        files: DiskFiles,
        reader: Reader<DiskFiles>,
        watermark_bytes: u64,
    ) -> std::io::Result<(Self, Receiver<Visit>)> {
        let (visits, to_visit) = bounded(1);
        let (pages, wanted) = bounded(PAGES_ON_THEIR_WAY_MAX);
        let (room, stopping) = (Arc::new(Semaphore::new(PAGES_ON_THEIR_WAY_MAX)), Arc::default());
        let stage = Arc::<Stage>::default();
        let (served, directory) = (Arc::clone(&stage), files.clone());
        Builder::new().name("snapshot".into()).spawn(move || serve(&wanted, &served, &directory))?;
        Ok((Self { genesis, files, reader, watermark_bytes, visits, pages, room, stage, stopping }, to_visit))
    }

    /// The manifest of a snapshot of this height at least. One that is not there yet is begun.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] while it is being made, [`RequestError::NotHere`] if there is none.
    pub fn manifest(&self, height_min: u64) -> Result<Manifest, RequestError> {
        let mut stands = self.stage.stands();
        match &mut *stands {
            Stands::Making => return Err(RequestError::Overloaded { retry_after_ms: MAKING_RETRY_MS }),
            Stands::Nothing { since, height_min: asked } if since.elapsed() < NOTHING_FOR && height_min >= *asked => {
                return Err(RequestError::NotHere);
            }
            Stands::Ready { export, made, read } => {
                let is_read = read.elapsed() < READ_WITHIN;
                if export.manifest().block().height >= height_min && (is_read || made.elapsed() < FRESH_FOR) {
                    *read = Instant::now();
                    return Ok(export.manifest().clone());
                }
                if is_read {
                    return Err(RequestError::NotHere);
                }
            }
            Stands::NotMade | Stands::Nothing { .. } => {}
        }
        // The thread is gone only while the node ends.
        self.visits.try_send(self.visit(height_min)).map_err(|error| match error {
            TrySendError::Full(_) => RequestError::Overloaded { retry_after_ms: MAKING_RETRY_MS },
            TrySendError::Disconnected(_) => RequestError::Stopping,
        })?;
        *stands = Stands::Making;
        Err(RequestError::Overloaded { retry_after_ms: MAKING_RETRY_MS })
    }

    /// What the checkpoint's thread does: one pass over checkpoint and log into a file.
    fn visit(&self, height_min: u64) -> Visit {
        let (files, reader, genesis) = (self.files.clone(), self.reader.clone(), Arc::clone(&self.genesis));
        let (stage, stopping, watermark) = (Arc::clone(&self.stage), Arc::clone(&self.stopping), self.watermark_bytes);
        Box::new(move |checkpoint| {
            let made = match checkpoint {
                Some(checkpoint) => make(&files, checkpoint, &reader, &genesis, height_min, watermark, &stopping),
                None => None,
            };
            if made.is_none() {
                // There may be an earlier one, which nobody is shown any more.
                discard(&files);
            }
            let now = Instant::now();
            *stage.stands() = match made {
                Some(export) => Stands::Ready { export: Arc::new(export), made: now, read: now },
                None => Stands::Nothing { since: now, height_min },
            };
        })
    }

    /// A page of the snapshot at `block`, and the room that its answer takes until it has left.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] if too many are on their way, [`RequestError::NotHere`] if there is no such page.
    pub async fn page(&self, block: BlockId, page: PageName) -> Result<(Vec<u8>, Room), RequestError> {
        let full = || RequestError::Overloaded { retry_after_ms: PAGE_RETRY_MS };
        let export = match &mut *self.stage.stands() {
            Stands::Ready { export, read, .. } if export.manifest().block().id == block => {
                *read = Instant::now();
                Arc::clone(export)
            }
            _ => return Err(RequestError::NotHere),
        };
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| full())?;
        let (answer, read) = oneshot::channel();
        self.pages.try_send(Wanted { export, page, answer }).map_err(|_| full())?;
        let page = read.await.map_err(|_| RequestError::Stopping)??;
        metrics::counter!("zeni_snapshot_pages_total", "direction" => "out").increment(1);
        Ok((page, room))
    }

    /// Gives up a snapshot that is being made: the node stops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

fn make(
    files: &DiskFiles,
    checkpoint: &NodeCheckpoint,
    reader: &Reader<DiskFiles>,
    genesis: &Genesis,
    height_min: u64,
    watermark_bytes: u64,
    stopping: &AtomicBool,
) -> Option<Export<DiskFiles>> {
    let (start, mut pace) = (Instant::now(), Pace::default());
    let mut go_on = |bytes: usize| {
        pace.wait(bytes);
        // That free space cannot be told is no reason to fill the disk.
        let has_room = files.free_bytes().is_ok_and(|free| free > watermark_bytes);
        has_room && !stopping.load(Ordering::Relaxed)
    };
    match Export::make(files, checkpoint, reader, genesis, height_min, &mut go_on) {
        Ok(Some(export)) => {
            let (height, bytes) = (export.manifest().block().height, export.bytes());
            tracing::info!(height, bytes, seconds = start.elapsed().as_secs_f64(), "made a snapshot for a peer");
            Some(export)
        }
        Ok(None) => None,
        Err(StorageError::SnapshotStopped) => {
            tracing::warn!("a snapshot for a peer was given up: the node stops, or its disk has no room");
            None
        }
        Err(error) => {
            tracing::error!(%error, "no snapshot can be made for a peer");
            None
        }
    }
}

/// That a file nobody needs stays is no reason to end; the next snapshot or start tries again.
fn discard(files: &DiskFiles) {
    if let Err(error) = Export::discard(files) {
        tracing::error!(%error, "a snapshot that nobody needs stays on the disk");
    }
}

fn serve(wanted: &Receiver<Wanted>, stage: &Stage, files: &DiskFiles) {
    let mut pace = Pace::default();
    loop {
        match wanted.recv_timeout(LOOK_EVERY) {
            Ok(wanted) => answer(wanted, &mut pace),
            Err(RecvTimeoutError::Timeout) => stage.discard_unread(files, Instant::now()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn answer(Wanted { export, page, answer }: Wanted, pace: &mut Pace) {
    let read = match export.page(page) {
        Ok(Some(page)) => {
            pace.wait(page.len());
            Ok(page)
        }
        Ok(None) => Err(RequestError::NotHere),
        Err(error) => {
            tracing::error!(%error, %page, "a page of a snapshot cannot be read");
            Err(RequestError::NotHere)
        }
    };
    // Who asked may be gone.
    drop(answer.send(read));
}

/// Keeps to [`SNAPSHOT_BYTES_PER_S`].
#[derive(Debug, Default)]
struct Pace {
    /// When the next bytes may go.
    next: Option<Instant>,
}

impl Pace {
    fn wait(&mut self, bytes: usize) {
        let now = Instant::now();
        let begin = self.next.map_or(now, |next| next.max(now));
        sleep(begin - now);
        self.next = Some(begin + Duration::from_secs_f64(bytes as f64 / SNAPSHOT_BYTES_PER_S as f64));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;
    use zeni_consensus::{CheckpointDelta, Record};
    use zeni_ledger::block::transactions_root;
    use zeni_ledger::{
        Account, AccountId, Block, BlockHeader, CommitCertificate, FinalBlock, ReceiptsRoot, SignatureBytes, StateRoot,
        ValidatorIndex,
    };
    use zeni_storage::{Checkpoint, Limits, SledOverlay, Store};

    use super::*;

    /// A node's disk with a checkpoint at a final block of height 1, and what it serves snapshots with.
    struct Served {
        directory: TempDir,
        files: DiskFiles,
        checkpoint: NodeCheckpoint,
        snapshots: Snapshots,
        visits: Receiver<Visit>,
    }

    impl Served {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let genesis = Genesis::from_toml(include_str!("../../deploy/genesis.example.toml")).unwrap();
            let files = DiskFiles::open(directory.path()).unwrap();
            Store::init(&files, &genesis.id()).unwrap();
            let (mut store, _) = Store::open(files.clone(), &genesis, Limits::default()).unwrap();
            let header = BlockHeader {
                proposer: ValidatorIndex(0),
                rank: 0,
                height: 1,
                slot: 1,
                parent: genesis.block_id(),
                transactions_root: transactions_root(&[]),
                state_root: StateRoot([1; 32]),
                receipts_root: ReceiptsRoot([2; 32]),
                receipts: 0,
            };
            let block = Block { header, digests: Vec::new(), signature: SignatureBytes([0; 64]) };
            let last = FinalBlock { id: block.id(&genesis.id()), height: 1 };
            store.append(&Record::Block(Arc::new(block))).unwrap();
            let certificate = CommitCertificate { decision: 1, round: 0, block: last, signatures: Vec::new() };
            store.append(&Record::Certificate(certificate)).unwrap();
            let overlay = SledOverlay::open(&directory.path().join("checkpoint")).unwrap();
            let opened = Checkpoint::open(files.clone(), overlay, &genesis).map_err(|(error, _)| error);
            let (mut checkpoint, _) = opened.unwrap();
            let accounts = vec![Account::new(AccountId([1; 32]))];
            let step = CheckpointDelta { from: genesis.block_id(), to: last.id, height: 1, accounts };
            checkpoint.apply(&step).unwrap();
            let started = Snapshots::start(Arc::new(genesis), files.clone(), store.reader(), 1);
            let (snapshots, visits) = started.unwrap();
            Self { directory, files, checkpoint, snapshots, visits }
        }

        /// Asks for a snapshot that has to be made, and has it made of what the checkpoint's thread then has open.
        fn ask(&self, height_min: u64, open: Option<&NodeCheckpoint>) -> Result<Manifest, RequestError> {
            let begun = self.snapshots.manifest(height_min);
            assert!(matches!(begun, Err(RequestError::Overloaded { .. })), "{begun:?}");
            let visit = self.visits.try_recv().unwrap();
            visit(open);
            self.snapshots.manifest(height_min)
        }

        fn file(&self) -> PathBuf {
            self.directory.path().join("snapshot.pages")
        }

        /// Nobody read for so long that a newer one may be made.
        fn age(&self) {
            if let Stands::Ready { read, .. } = &mut *self.snapshots.stage.stands() {
                *read = read.checked_sub(READ_WITHIN).unwrap();
            }
        }
    }

    #[test]
    fn a_snapshot_goes_once_nobody_read_it_for_long_and_is_made_again_for_who_asks() {
        let served = Served::start();
        assert_eq!(served.ask(1, Some(&served.checkpoint)).unwrap().block().height, 1);
        let (start, stage) = (Instant::now(), &served.snapshots.stage);
        stage.discard_unread(&served.files, start + FRESH_FOR - LOOK_EVERY);
        assert!(served.file().exists(), "it is fresh");
        stage.discard_unread(&served.files, start + FRESH_FOR);
        assert!(!served.file().exists(), "it takes room for nobody");
        assert_eq!(served.ask(1, Some(&served.checkpoint)).unwrap().block().height, 1);
        assert!(served.file().exists());
    }

    #[test]
    fn a_snapshot_leaves_no_file_behind_if_the_next_one_is_not_made() {
        let served = Served::start();
        // The second time the checkpoint is not high enough, the third time it is closed.
        for (height_min, open) in [(2, Some(&served.checkpoint)), (3, None)] {
            *served.snapshots.stage.stands() = Stands::NotMade;
            served.ask(1, Some(&served.checkpoint)).unwrap();
            assert!(served.file().exists());
            served.age();
            assert_eq!(served.ask(height_min, open).unwrap_err(), RequestError::NotHere);
            assert!(!served.file().exists(), "it takes room for nobody");
        }
    }

    #[test]
    fn a_pace_lets_no_more_bytes_through_than_its_rate() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        // The last ones need not have been waited for.
        (0..5).for_each(|_| pace.wait(1 << 20));
        assert!(start.elapsed() >= Duration::from_millis(4 * 1_000 / 32));
    }
}
