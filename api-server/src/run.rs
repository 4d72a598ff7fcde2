//! Puts the parts together, runs until a signal or a failure, and takes them apart in order.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot, watch};
use zeni_client::wallet::{Key, KeyFileError};
use zeni_client::{NodeAddress, NodePool, PoolConfig, follow};
use zeni_consensus::Millis;
use zeni_ledger::{Genesis, PublicKey};
use zeni_schemas::{Hello, Role};
use zeni_transport::{BindError, CloseCode, Endpoint, TransportConfig};

use crate::api::{Api, unix_ms};
use crate::config::Config;
use crate::follower::{FollowerFailure, FollowerThread, Surroundings};
use crate::gathering::Gathering;
use crate::node_watch::watch_nodes;
use crate::pending::Pending;
use crate::progress::Progress;
use crate::routes::{PROOFS_AT_ONCE_MAX, metrics_router, router};
use crate::server::Server;
use crate::store::{self, LedgerError};
use crate::submissions::Submissions;
use crate::telemetry::record_metrics;
use crate::waiting::WAITING_PAYMENTS_MAX;

/// Why the server does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error("node {key} is no validator of this ledger; name the nodes as genesis does")]
    NotAValidator { key: String },
    #[error(transparent)]
    Transport(#[from] BindError),
    #[error("{address} cannot be served: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("metrics cannot be recorded: {0}")]
    Metrics(#[from] BuildError),
    #[error("signals cannot be heard: {0}")]
    Signal(io::Error),
    #[error(transparent)]
    Follower(#[from] FollowerFailure),
    #[error("a task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What a config leads to when all its files are read.
#[derive(Debug)]
pub struct Checked {
    pub config: Config,
    pub genesis: Arc<Genesis>,
    pub key: Key,
    pub nodes: Vec<NodeAddress>,
}

/// Reads genesis and key and compares them with the config, as `--check-config` does.
pub fn check(config: Config) -> Result<Checked, RunError> {
    let genesis = Arc::new(store::load_genesis(&config.genesis)?);
    let key = Key::load(&config.key)?;
    let mut nodes = Vec::with_capacity(config.nodes.len());
    for node in &config.nodes {
        let key = PublicKey::from_hex(&node.key).filter(|key| genesis.validator_by_key(key).is_some());
        let key = key.ok_or_else(|| RunError::NotAValidator { key: node.key.clone() })?;
        nodes.push(NodeAddress { key, address: node.address.clone() });
    }
    Ok(Checked { config, genesis, key, nodes })
}

/// Runs until SIGTERM or SIGINT, or until something fails for good.
pub async fn run(checked: Checked) -> Result<(), RunError> {
    let metrics = record_metrics()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    let mut running = Running::start(checked, metrics).await?;
    let failed = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        _ = &mut running.follower_ended => true,
    };
    tracing::info!(failed, "stopping");
    running.stop().await
}

/// The parts of a running server.
#[derive(Debug)]
pub struct Running {
    pub api: Arc<Api>,
    /// Where HTTP is served.
    pub address: SocketAddr,
    /// Resolves when the follower's thread ends by itself.
    pub follower_ended: oneshot::Receiver<()>,
    follower: FollowerThread,
    endpoints: [Endpoint; 2],
    stopping: watch::Sender<bool>,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

impl Running {
    /// Opens the data and starts every part.
    pub async fn start(checked: Checked, metrics: PrometheusHandle) -> Result<Self, RunError> {
        // On the heap, because it holds every part while it puts them together.
        Box::pin(Self::assemble(checked, metrics)).await
    }

    async fn assemble(checked: Checked, metrics: PrometheusHandle) -> Result<Self, RunError> {
        let Checked { config, genesis, key, nodes } = checked;
        let limits = config.limits;
        let listen = |address| move |error| RunError::Listen { address, error };
        let server = Server::bind(config.listen, limits).await.map_err(listen(config.listen))?;
        let address = server.local_address().map_err(listen(config.listen))?;
        let ledger = open_ledger(&config, &genesis).await?;

        let genesis_id = genesis.id();
        let local = local_address(&nodes);
        let dialler =
            |role| Endpoint::dialler(local, key.signing(), Hello::new(genesis_id, role), TransportConfig::default());
        let endpoints = [dialler(Role::Client)?, dialler(Role::Follower)?];
        let pool_config = PoolConfig {
            attempt_timeout: Duration::from_millis(limits.node_timeout_ms),
            call_timeout: limits.answer_timeout(),
            in_flight_max: limits.submissions_max,
            ..PoolConfig::default()
        };
        let pool = Arc::new(NodePool::new(&endpoints[0], nodes.clone(), pool_config));
        let progress = Arc::new(Progress::new(nodes.len()));
        let (follow_handle, events) = follow::follow(endpoints[1].clone(), nodes);
        let stopping = watch::Sender::new(false);
        tokio::spawn(watch_nodes(
            Arc::clone(&pool),
            Arc::clone(&progress),
            follow_handle.clone(),
            stopping.subscribe(),
        ));

        let (chronicle, evidence) = (Arc::clone(&ledger.chronicle), Arc::clone(&ledger.evidence));
        if ledger.index_rebuilt {
            metrics::counter!("zeni_api_index_rebuilt_total").increment(1);
        }
        let around = Surroundings {
            genesis,
            events,
            nodes: follow_handle,
            progress: Arc::clone(&progress),
            checkpoint_interval: Duration::from_secs(config.checkpoint.interval_s),
        };
        let (ended, follower_ended) = oneshot::channel();
        let (follower, questions) = FollowerThread::start(ledger, around, ended)?;

        let api = Arc::new(Api {
            chronicle,
            pending: Pending::start(Arc::clone(&pool)),
            gathering: Gathering::start(Arc::clone(&pool), limits.submissions_max),
            nodes: pool,
            progress,
            evidence,
            submissions: Submissions::new(limits.remembered_max),
            questions,
            limits,
            metrics,
            event_streams: Arc::new(Semaphore::new(limits.event_streams_max)),
            proofs: Arc::new(Semaphore::new(PROOFS_AT_ONCE_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_PAYMENTS_MAX)),
            stopping: stopping.subscribe(),
        });
        let mut servers = vec![tokio::spawn(server.serve(router(Arc::clone(&api)), stopping.subscribe()))];
        if let Some(apart) = config.metrics.0 {
            let server = Server::bind(apart, limits).await.map_err(listen(apart))?;
            servers.push(tokio::spawn(server.serve(metrics_router(Arc::clone(&api)), stopping.subscribe())));
        }
        tracing::info!(%address, genesis = %genesis_id, "serving");
        Ok(Self { api, address, follower_ended, follower, endpoints, stopping, servers })
    }

    /// Answers what was asked, then has everything on disk. If the follower failed, this says why.
    pub async fn stop(self) -> Result<(), RunError> {
        self.api.progress.stop();
        self.stopping.send_replace(true);
        for server in self.servers {
            server.await?;
        }
        let follower = self.follower;
        let ended = tokio::task::spawn_blocking(move || follower.stop()).await?;
        let [asking, following] = &self.endpoints;
        tokio::join!(asking.close(CloseCode::Shutdown), following.close(CloseCode::Shutdown));
        Ok(ended?)
    }
}

async fn open_ledger(config: &Config, genesis: &Arc<Genesis>) -> Result<store::Ledger, RunError> {
    let (data, genesis_path): (PathBuf, PathBuf) = (config.data.clone(), config.genesis.clone());
    let (genesis, depth) = (Arc::clone(genesis), config.checkpoint.depth);
    let opening = move || store::open(&data, &genesis, &genesis_path, depth, Millis(unix_ms()));
    Ok(tokio::task::spawn_blocking(opening).await??)
}

/// The address to dial from: IPv6 only if every node is named by an IPv6 address.
fn local_address(nodes: &[NodeAddress]) -> SocketAddr {
    let all_v6 = nodes.iter().all(|node| node.address.starts_with('['));
    let ip = if all_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}
