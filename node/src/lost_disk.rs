//! How a node that lost its disk gets the state: before anything else starts, it asks the other validators for a
//! snapshot, checks every byte of it (`zeni_consensus::snapshot`), and writes a data directory from which the start
//! goes on as after any restart.
//!
//! A node lost its disk if its directory holds no log, and no safety record but one of a re-admission: `node init`
//! without `--first-start`.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zeni_consensus::Millis;
use zeni_consensus::snapshot::{Assembly, FalseSnapshot, Fetch, Manifest, PageName, WINDOW_PAGES};
use zeni_ledger::{BlockId, FinalBlock, Genesis, ValidatorIndex};
use zeni_schemas::request::{Reply, Request, RequestError, decode_reply, encode_request};
use zeni_schemas::{Hello, Role};
use zeni_storage::{
    DiskFiles, Files, Install, Limits, SafetyFile, SledOverlay, StorageError, abandon_snapshot, can_take_snapshot,
    identity, is_unfinished,
};
use zeni_transport::{BindError, CloseCode, Connection, Endpoint, TransportConfig};

use crate::dial::{Neighbour, dial};
use crate::recovery::CHECKPOINT_DIRECTORY;
use crate::setup::{GenesisFileError, Setup, genesis_state};

/// How long a peer may take to make its snapshot, and to give a page that it had no room for at first.
const MAKING_MAX: Duration = Duration::from_secs(300);
const PAGE_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether peers keep their pace, while no page comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often everyone is asked, at most: a peer that was restarted has its snapshot no more, and makes another one.
const SEARCHES_MAX: usize = 3;
/// The pause between two dials of a peer that does not answer.
const DIAL_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause that a peer may ask for.
const RETRY_MS_MAX: u32 = 2_000;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// The disk is not lost, or the config says not to ask.
    NotAsked,
    /// No peer had a snapshot that is worth it, and true.
    NothingFound,
    /// The data directory now stands at this final block.
    At(FinalBlock),
}

/// Why a snapshot could not be taken, for reasons that lie here.
#[derive(Debug, thiserror::Error)]
pub enum LostDiskError {
    #[error("the data directory: {0}")]
    Storage(#[from] StorageError),
    #[error("cannot remove {path}: {error}")]
    Remove { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Genesis(#[from] GenesisFileError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the free space of the data directory cannot be told: {error}")]
    FreeSpace { error: std::io::Error },
    /// What was written of it is removed again.
    #[error(
        "there is no room for a snapshot in {path}: {free} bytes are free, {unwritten} more are to be written, and \
         limits.disk_watermark_bytes keeps {watermark}; make room and start again"
    )]
    NoRoom { path: PathBuf, free: u64, unwritten: u64, watermark: u64 },
    #[error("the thread that checks a snapshot panicked")]
    Panicked,
}

/// Returns by a snapshot, if the disk is lost and peers have one. Dropping the future midway leaves a directory that
/// the next call empties again. Must be called before [`crate::Node::start`], inside a tokio runtime.
pub async fn return_by_snapshot(setup: &Setup) -> Result<Returned, LostDiskError> {
    let patience = Duration::from_secs(setup.config.snapshot.patience_s);
    if !is_lost(setup)? || patience.is_zero() {
        return Ok(Returned::NotAsked);
    }
    let listen = (setup.config.listen.ip(), 0).into();
    let own = Hello::new(setup.genesis.id(), Role::Client);
    let endpoint = Endpoint::dialler(listen, &setup.key, own, TransportConfig::default())?;
    let returned = search_often(setup, &endpoint, patience).await;
    endpoint.close(CloseCode::Done).await;
    returned
}

async fn search_often(setup: &Setup, endpoint: &Endpoint, patience: Duration) -> Result<Returned, LostDiskError> {
    let mut fetch = Fetch::new(Arc::clone(&setup.genesis));
    for _ in 0..SEARCHES_MAX {
        match search(setup, endpoint, patience, &mut fetch).await? {
            Search::Found(block) => return Ok(Returned::At(block)),
            Search::Stranded => {}
            Search::Nothing => break,
        }
    }
    tracing::warn!("no snapshot found: executing from genesis");
    Ok(Returned::NothingFound)
}

/// Whether the disk is lost; what an earlier call left unfinished is thrown away.
fn is_lost(setup: &Setup) -> Result<bool, LostDiskError> {
    let directory = &setup.config.data;
    // What is wrong with the directory is for recovery to say.
    if !directory.is_dir() {
        return Ok(false);
    }
    let files = DiskFiles::open(directory)?;
    let id = setup.genesis.id();
    if identity(&files)? != Some(id) {
        return Ok(false);
    }
    if is_unfinished(&files)? {
        tracing::warn!("throwing away an unfinished snapshot");
        abandon_snapshot(&files, &mut fresh_overlay(directory)?)?;
    }
    let forgot = match SafetyFile::open(files.clone(), id)?.read() {
        Ok(record) => record.is_none_or(|record| record.readmitted),
        Err(StorageError::SafetyLost) => true,
        Err(error) => return Err(error.into()),
    };
    Ok(forgot && can_take_snapshot(&files)?)
}

/// An empty checkpoint. Without a log the one that is there is of no use.
fn fresh_overlay(directory: &Path) -> Result<SledOverlay, LostDiskError> {
    let path = directory.join(CHECKPOINT_DIRECTORY);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(LostDiskError::Remove { path, error }),
        _ => Ok(SledOverlay::open(&path)?),
    }
}

/// How a search ended.
enum Search {
    Found(FinalBlock),
    /// Somebody offered a snapshot and did not serve it to its end.
    Stranded,
    Nothing,
}

async fn search(
    setup: &Setup,
    endpoint: &Endpoint,
    patience: Duration,
    fetch: &mut Fetch,
) -> Result<Search, LostDiskError> {
    let others = setup.neighbours.iter().filter(|neighbour| neighbour.validator != setup.me);
    let mut asked = JoinSet::new();
    for neighbour in others.cloned() {
        let (endpoint, height_min) = (endpoint.clone(), setup.config.snapshot.lag_min);
        asked.spawn(async move { (neighbour.validator, offer_of(&endpoint, &neighbour, height_min, patience).await) });
    }
    tracing::info!(peers = asked.len(), "no log and no safety record: asking for a snapshot");
    let mut connections = HashMap::new();
    while let Some(found) = asked.join_next().await {
        let Ok((peer, Some((connection, manifest)))) = found else { continue };
        match fetch.offer(peer, manifest) {
            Ok(()) => drop(connections.insert(peer, connection)),
            Err(error) => report(peer, &error),
        }
    }
    let (mut end, mut no_room) = (Search::Nothing, None);
    while let Some(manifest) = fetch.begin() {
        let block = manifest.block();
        tracing::info!(height = block.height, pages = manifest.pages(), "fetching a snapshot");
        match transfer(setup, fetch, manifest, &connections).await? {
            Transfer::Done => {
                tracing::info!(height = block.height, block = %block.id, "the snapshot is on disk");
                return Ok(Search::Found(block));
            }
            Transfer::False(error) => fetch.refute().into_iter().for_each(|peer| report(peer, &error)),
            // Another one may be smaller; a false one may be very large.
            Transfer::NoRoom(error) => {
                tracing::error!(height = block.height, %error, "this snapshot is given up");
                fetch.give_up();
                no_room = Some(error);
            }
            Transfer::Stranded => {
                tracing::warn!(height = block.height, "nobody is left who serves this snapshot");
                end = Search::Stranded;
                if !fetch.is_stranded() {
                    break;
                }
            }
        }
    }
    no_room.map_or(Ok(end), Err)
}

fn report(peer: ValidatorIndex, error: &FalseSnapshot) {
    metrics::counter!("zeni_misbehaviour_total", "kind" => "false_snapshot").increment(1);
    tracing::error!(%peer, %error, "a peer offered a false snapshot; it is not asked again");
}

/// Dials a peer for as long as `patience` lasts, and asks it until it has an answer.
async fn offer_of(
    endpoint: &Endpoint,
    neighbour: &Neighbour,
    height_min: u64,
    patience: Duration,
) -> Option<(Connection, Manifest)> {
    let start = Instant::now();
    let connection = loop {
        match dial(endpoint, neighbour).await {
            Ok(connection) => break connection,
            Err(error) if start.elapsed() >= patience => {
                tracing::warn!(name = neighbour.name, %error, "it cannot be asked for a snapshot");
                return None;
            }
            Err(_) => sleep(DIAL_PAUSE).await,
        }
    };
    match ask(&connection, &Request::Snapshot { height_min }, MAKING_MAX).await {
        Ok(Reply::Snapshot(manifest)) => Some((connection, manifest)),
        Ok(other) => {
            let answer = if let Reply::Refused(error) = other { error.to_string() } else { "another answer".into() };
            tracing::info!(name = neighbour.name, answer, "it gives no snapshot");
            None
        }
        Err(error) => {
            tracing::warn!(name = neighbour.name, error, "it gives no snapshot");
            None
        }
    }
}

/// Asks until there is another answer than to ask again, for at most so long.
async fn ask(connection: &Connection, request: &Request, patience: Duration) -> Result<Reply, String> {
    let start = Instant::now();
    loop {
        let reply = connection.request(encode_request(request)).await.map_err(|error| error.to_string())?;
        match decode_reply(&reply).map_err(|error| error.to_string())? {
            Reply::Refused(RequestError::Overloaded { retry_after_ms }) if start.elapsed() < patience => {
                sleep(Duration::from_millis(retry_after_ms.min(RETRY_MS_MAX).into())).await;
            }
            reply => return Ok(reply),
        }
    }
}

/// How a transfer ended.
enum Transfer {
    Done,
    False(FalseSnapshot),
    /// Nobody is left who serves it.
    Stranded,
    NoRoom(LostDiskError),
}

/// Fetches pages from everyone who offered them, and hands them in order to a thread that checks and writes them.
async fn transfer(
    setup: &Setup,
    fetch: &mut Fetch,
    manifest: Manifest,
    connections: &HashMap<ValidatorIndex, Connection>,
) -> Result<Transfer, LostDiskError> {
    let block = manifest.block().id;
    let (hand_over, pages) = mpsc::channel(WINDOW_PAGES);
    let (genesis, config) = (Arc::clone(&setup.genesis), setup.config.clone());
    let watermark = config.limits.disk_watermark_bytes;
    let writer = Writer { genesis, genesis_file: config.genesis, directory: config.data, watermark };
    let writing = tokio::task::spawn_blocking(move || writer.write(manifest, pages));
    let start = Instant::now();
    let now = move || Millis(start.elapsed().as_millis() as u64);
    let mut open = JoinSet::new();
    'fetching: while !fetch.is_complete() && !fetch.is_stranded() {
        for (peer, page) in fetch.questions(now()) {
            // An offer of an earlier search, whose peer was not reached again.
            let Some(connection) = connections.get(&peer).cloned() else {
                fetch.unanswered(peer, page);
                continue;
            };
            // When it came, and not when this task finds time for it: a slow disk here is no fault of the peer.
            open.spawn(async move { (peer, page, page_of(&connection, block, page).await, now()) });
        }
        while let Some(page) = fetch.next_page() {
            // It ended before the last page: it says why.
            if hand_over.send(page).await.is_err() {
                break 'fetching;
            }
        }
        if fetch.is_complete() {
            break;
        }
        let mut answer = match timeout(LOOK_EVERY, open.join_next()).await {
            Ok(None) => break,
            Ok(answer) => answer,
            Err(_) => None,
        };
        while let Some(answered) = answer {
            let Ok((peer, page, records, at)) = answered else { return Err(LostDiskError::Panicked) };
            take(fetch, peer, page, records, at);
            answer = open.try_join_next();
        }
        for peer in fetch.leave_slow(now()) {
            tracing::warn!(%peer, "a peer gives its snapshot too slowly; it is not asked again");
        }
    }
    drop(hand_over);
    writing.await.map_err(|_| LostDiskError::Panicked)?
}

/// Takes one answer.
fn take(fetch: &mut Fetch, peer: ValidatorIndex, page: PageName, records: Result<Vec<u8>, String>, at: Millis) {
    match records {
        Ok(records) => {
            metrics::counter!("zeni_snapshot_pages_total", "direction" => "in").increment(1);
            if let Err(error) = fetch.page(peer, page, records, at) {
                report(peer, &error);
            }
        }
        Err(error) => {
            tracing::warn!(%peer, %page, error, "a peer does not give its snapshot any more");
            fetch.unanswered(peer, page);
        }
    }
}

async fn page_of(connection: &Connection, block: BlockId, page: PageName) -> Result<Vec<u8>, String> {
    match ask(connection, &Request::SnapshotPage { block, page }, PAGE_MAX).await? {
        Reply::SnapshotPage(records) => Ok(records),
        Reply::Refused(error) => Err(error.to_string()),
        _ => Err("it answered something else than was asked".into()),
    }
}

/// Checks pages and writes what they hold.
struct Writer {
    genesis: Arc<Genesis>,
    genesis_file: PathBuf,
    directory: PathBuf,
    /// Bytes that are left free.
    watermark: u64,
}

impl Writer {
    /// A snapshot that is false, does not come whole or finds no room leaves nothing behind.
    fn write(&self, manifest: Manifest, mut pages: mpsc::Receiver<Vec<u8>>) -> Result<Transfer, LostDiskError> {
        let files = DiskFiles::open(&self.directory)?;
        if !can_take_snapshot(&files)? {
            return Err(StorageError::HoldsLog.into());
        }
        let mut install = Install::begin(files.clone(), fresh_overlay(&self.directory)?)?;
        let state = genesis_state(&self.genesis, &self.genesis_file)?;
        let count = manifest.pages();
        let mut assembly = Assembly::new(Arc::clone(&self.genesis), state, manifest);
        let assembled = match self.assemble(&files, count, &mut assembly, &mut install, &mut pages)? {
            None => assembly.finish().map_err(Transfer::False),
            Some(failed) => Err(failed),
        };
        match assembled {
            Ok(assembled) => {
                install.finish(&assembled, &self.genesis, Limits::default())?;
                Ok(Transfer::Done)
            }
            Err(failed) => {
                drop(install);
                abandon_snapshot(&files, &mut fresh_overlay(&self.directory)?)?;
                Ok(failed)
            }
        }
    }

    /// Takes every page. Says what went wrong, if anything did.
    fn assemble(
        &self,
        files: &DiskFiles,
        count: usize,
        assembly: &mut Assembly,
        install: &mut Install<DiskFiles, SledOverlay>,
        pages: &mut mpsc::Receiver<Vec<u8>>,
    ) -> Result<Option<Transfer>, LostDiskError> {
        // Blocks are written once everything is checked.
        let mut unwritten = 0;
        for _ in 0..count {
            let Some(page) = pages.blocking_recv() else { return Ok(Some(Transfer::Stranded)) };
            match assembly.take(&page) {
                Ok(accounts) if accounts.is_empty() => unwritten += page.len() as u64,
                Ok(accounts) => install.accounts(&accounts)?,
                Err(error) => return Ok(Some(Transfer::False(error))),
            }
            let free = files.free_bytes().map_err(|error| LostDiskError::FreeSpace { error })?;
            let (path, watermark) = (self.directory.clone(), self.watermark);
            if free < watermark.saturating_add(unwritten) {
                return Ok(Some(Transfer::NoRoom(LostDiskError::NoRoom { path, free, unwritten, watermark })));
            }
        }
        Ok(None)
    }
}
