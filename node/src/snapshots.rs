//! Snapshots for validators that lost their disks: made by the checkpoint's thread when one asks, served by a thread of
//! its own from the file that it made. Both keep to a rate, so that the node's own work hardly notices; the core has no
//! part in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
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
/// A snapshot younger than this is good enough for whoever asks next.
const FRESH_FOR: Duration = Duration::from_secs(300);
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
        Builder::new().name("snapshot".into()).spawn(move || serve(&wanted))?;
        let (room, stage) = (Arc::new(Semaphore::new(PAGES_ON_THEIR_WAY_MAX)), Arc::default());
        let stopping = Arc::default();
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

fn serve(wanted: &Receiver<Wanted>) {
    let mut pace = Pace::default();
    for Wanted { export, page, answer } in wanted {
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
    use super::*;

    #[test]
    fn a_pace_lets_no_more_bytes_through_than_its_rate() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        // The last ones need not have been waited for.
        (0..5).for_each(|_| pace.wait(1 << 20));
        assert!(start.elapsed() >= Duration::from_millis(4 * 1_000 / 32));
    }
}
