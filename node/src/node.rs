//! A running node: its threads, its tasks, and how they start and stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use zeni_consensus::{Effect, HaltReason};
use zeni_ledger::ValidatorIndex;
use zeni_ledger::signature::batch_backend;
use zeni_schemas::{Hello, Role};
use zeni_storage::{DiskFiles, StorageError, Store};
use zeni_transport::{BindError, CloseCode, Endpoint, TransportConfig};

use crate::admission::Admission;
use crate::checked::deliver;
use crate::checkpoint::{self, Visit};
use crate::clock;
use crate::committer::{self, Turn};
use crate::copies::UnderWay;
use crate::core_queue::{CoreReceiver, CoreSender, Task, core_queue};
use crate::core_thread::{CoreFailure, CoreThread, Identity};
use crate::key;
use crate::links::Links;
use crate::recovery::{Recovery, RecoveryError, recover};
use crate::release::{Disk, Outlets, release};
use crate::services::Services;
use crate::setup::Setup;
use crate::snapshots::Snapshots;
use crate::unsynced::Unsynced;
use crate::verify::pool::{self, Deliver, PoolError, VerifySender};
use crate::{dial, doors, watch};

/// How long the last answers get to leave before the connections close.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// How long a stopping node waits for a checkpoint that is being written. One that takes longer ends with the process, as in
/// a crash: its step stands in a file of its own, which the next start finishes.
const CHECKPOINT_FINISHES: Duration = Duration::from_secs(3);
/// How often a stopping node looks whether everything is answered.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("the bound address cannot be told: {0}")]
    Address(io::Error),
}

/// Why a running node cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("storage failed: {0}")]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Core(CoreFailure),
    /// For good: starting again without an operator's hand makes no sense.
    #[error("{0}")]
    Halted(HaltReason),
    #[error("a thread of the node panicked; its last log lines say where")]
    Panicked,
    #[error("the node did not stop within {0:?}")]
    StopTooSlow(Duration),
}

type CoreHandle = JoinHandle<Option<Store<DiskFiles>>>;

/// A running node.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    endpoint: Endpoint,
    services: Arc<Services>,
    tasks: JoinSet<()>,
    core: CoreHandle,
    committer: JoinHandle<()>,
    checkpoint: JoinHandle<()>,
    failures: mpsc::UnboundedReceiver<Failure>,
}

impl Node {
    /// Recovers what is on disk and starts. Blocks while it recovers; must be called inside a tokio runtime.
    pub fn start(setup: Setup) -> Result<Self, StartError> {
        let boot = rand::random();
        let recovery = recover(&setup, boot, clock::now())?;
        let (core_sender, core_receiver) = core_queue();
        let links = Arc::new(Links::new(setup.me, core_sender.clone()));
        let (failed, failures) = mpsc::unbounded_channel();
        let endpoint = bind(&setup)?;
        let address = endpoint.local_address().map_err(StartError::Address)?;
        let verify = start_verifier(&setup, &core_sender)?;
        let files = recovery.files.clone();
        let reader = recovery.store.reader();
        let identity = Identity { genesis: Arc::clone(&setup.genesis), key: key::public(&setup.key), boot };
        let unsynced = Arc::new(Unsynced::default());
        let evidence = Arc::clone(&recovery.evidence);
        let outlets =
            Outlets { links: Arc::clone(&links), unsynced: Arc::clone(&unsynced), evidence: evidence.clone() };
        let watermark = setup.config.limits.disk_watermark_bytes;
        let snapshots = Snapshots::start(Arc::clone(&setup.genesis), files.clone(), reader.clone(), watermark);
        let (snapshots, visits) = snapshots.map_err(StartError::Thread)?;
        let threads = Threads { outlets, failed: &failed };
        let (core, committer, checkpoint) =
            threads.start(recovery, identity, core_receiver, visits).map_err(StartError::Thread)?;
        let services = Arc::new(Services {
            genesis: setup.genesis,
            me: setup.me,
            boot,
            limits: setup.config.limits,
            admission: Arc::new(Admission::new(setup.config.limits)),
            verify,
            core: core_sender,
            links,
            reader,
            unsynced,
            under_way: UnderWay::default(),
            evidence,
            snapshots,
        });
        let guests = Arc::new(setup.guests);
        let mut tasks = JoinSet::new();
        tasks.spawn(doors::keep(endpoint.clone(), Arc::clone(&guests), Arc::clone(&services)));
        for neighbour in setup.neighbours {
            let (guests, services) = (Arc::clone(&guests), Arc::clone(&services));
            tasks.spawn(dial::keep(endpoint.clone(), neighbour, guests, services));
        }
        tasks.spawn(watch::watch(files, endpoint.clone(), Arc::clone(&services)));
        tasks.spawn(ask_for_checkpoints(setup.config.checkpoint.interval_s, services.core.clone()));
        tracing::info!(%address, me = %services.me, boot, signatures = batch_backend(), "running");
        Ok(Self { address, endpoint, services, tasks, core, committer, checkpoint, failures })
    }

    /// Where QUIC listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// This node's place in genesis.
    pub fn validator(&self) -> ValidatorIndex {
        self.services.me
    }

    /// Waits for a reason to give up.
    pub async fn failure(&mut self) -> Failure {
        self.failures.recv().await.unwrap_or(Failure::Panicked)
    }

    /// Leaves after a failure: what was said before it gets a moment to leave, at most [`LAST_ANSWERS`] and the
    /// transport's close deadline. A node that met its twin has said so last, and without it the twin would go on.
    pub async fn abandon(self) {
        self.services.admission.close();
        leave(self.tasks, &self.endpoint).await;
    }

    /// Takes nothing more, finishes what was taken in (at most `limits.stopping_ms`), seals the log.
    pub async fn stop(mut self) -> Result<(), Failure> {
        let limit = Duration::from_millis(self.services.limits.stopping_ms);
        self.services.admission.close();
        self.services.snapshots.stop();
        let start = Instant::now();
        while self.services.admission.requests() > 0 && start.elapsed() < limit {
            sleep(LOOK_EVERY).await;
        }
        self.services.core.control(Task::Stop, None);
        let (core, committer, checkpoint) = (self.core, self.committer, self.checkpoint);
        let join = tokio::task::spawn_blocking(move || {
            let store = core.join();
            committer.join().and(store)
        });
        let store = join.await.ok().and_then(Result::ok).ok_or(Failure::Panicked)?;
        let start = Instant::now();
        while !checkpoint.is_finished() && start.elapsed() < CHECKPOINT_FINISHES {
            sleep(LOOK_EVERY).await;
        }
        if !checkpoint.is_finished() {
            tracing::warn!("a checkpoint is still being written; the next start finishes it");
        } else if checkpoint.join().is_err() {
            return Err(Failure::Panicked);
        }
        if let Ok(failure) = self.failures.try_recv() {
            leave(self.tasks, &self.endpoint).await;
            return Err(failure);
        }
        if let Some(store) = store {
            store.seal()?;
        }
        leave(self.tasks, &self.endpoint).await;
        tracing::info!("stopped; the log is sealed");
        Ok(())
    }
}

/// Lets what was said leave, and closes every connection.
async fn leave(mut tasks: JoinSet<()>, endpoint: &Endpoint) {
    sleep(LAST_ANSWERS).await;
    tasks.shutdown().await;
    endpoint.close(CloseCode::Shutdown).await;
}

fn bind(setup: &Setup) -> Result<Endpoint, BindError> {
    let limits = &setup.config.limits;
    let config = TransportConfig {
        requests_max: u32::try_from(limits.client_requests).unwrap_or(u32::MAX),
        connections_max: limits.connections,
        ..TransportConfig::default()
    };
    let own = Hello::new(setup.genesis.id(), Role::Validator);
    let guests = setup.guests.roles();
    Endpoint::bind(setup.config.listen, &setup.key, own, move |key| guests.get(key).copied(), config)
}

fn start_verifier(setup: &Setup, core: &CoreSender) -> Result<VerifySender, PoolError> {
    let core = core.clone();
    let deliver: Deliver = Arc::new(move |checked| deliver(checked, &core));
    // It ends by itself when its senders are gone, and holds nothing that must be finished.
    let (sender, _thread) = pool::start(&setup.genesis, setup.config.limits.verify_jobs, deliver)?;
    Ok(sender)
}

struct Threads<'a> {
    outlets: Outlets,
    failed: &'a mpsc::UnboundedSender<Failure>,
}

impl Threads<'_> {
    fn start(
        &self,
        recovery: Recovery,
        identity: Identity,
        tasks: CoreReceiver,
        visits: crossbeam_channel::Receiver<Visit>,
    ) -> io::Result<(CoreHandle, JoinHandle<()>, JoinHandle<()>)> {
        let Recovery { core, effects, store, checkpoint, safety, files, .. } = recovery;
        let (turns, waiting) = committer::turns();
        let disk = Disk { safety, log: store.syncer() };
        let committer = self.start_committer(disk, waiting)?;
        let reopen = checkpoint::reopen(files, Arc::clone(&identity.genesis));
        let (checkpointer, checkpoint) = checkpoint::start(checkpoint, reopen, store.syncer(), visits)?;
        let unsynced = Arc::clone(&self.outlets.unsynced);
        let thread = CoreThread::new(core, store, identity, tasks, turns, checkpointer, unsynced);
        Ok((self.start_core(thread, effects)?, committer, checkpoint))
    }

    fn start_core(&self, thread: CoreThread, effects: Vec<Effect>) -> io::Result<CoreHandle> {
        let failed = self.failed.clone();
        Builder::new().name("core".into()).spawn(move || match thread.run(effects) {
            Ok(store) => Some(store),
            // The committer tells why, in order behind what was said before.
            Err(CoreFailure::Halted | CoreFailure::CommitterEnded) => None,
            Err(failure) => {
                report(&failed, Failure::Core(failure));
                None
            }
        })
    }

    fn start_committer(&self, mut disk: Disk, turns: crossbeam_channel::Receiver<Turn>) -> io::Result<JoinHandle<()>> {
        let (outlets, failed) = (self.outlets.clone(), self.failed.clone());
        Builder::new().name("committer".into()).spawn(move || {
            let halted = |reason| report(&failed, Failure::Halted(reason));
            if let Err(error) = committer::run(&turns, &mut disk, |say| release(say, &outlets, &halted)) {
                report(&failed, Failure::Storage(error));
            }
        })
    }
}

/// Nobody may be left to hear it: then the process is ending already.
fn report(failed: &mpsc::UnboundedSender<Failure>, failure: Failure) {
    tracing::error!(%failure, "the node cannot go on");
    let _ = failed.send(failure);
}

async fn ask_for_checkpoints(interval_s: u64, core: CoreSender) {
    let mut ticks = interval(Duration::from_secs(interval_s));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once, when the checkpoint has just been loaded.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        core.control(Task::Checkpoint, None);
    }
}
