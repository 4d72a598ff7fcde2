//! Sets the stage for a storm: the network started or found, the links to it up, every node active.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use zeni_consensus::Mode;
use zeni_schemas::Role;
use zeni_transport::{BindError, Endpoint};

use crate::faults::node_info;
use crate::http::Http;
use crate::link::{self, Link, NodeAddress};
use crate::network::{self, Network, NetworkError, Programs};
use crate::plan::Role as KeyOf;
use crate::prepare::Prepared;
use crate::relay::{Relay, Way};
use crate::scenario::{Attach, Network as Wanted};

/// Between two looks at nodes that are starting.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// Why there is no stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("{name}'s address {address} cannot be resolved")]
    Address { name: String, address: String },
    #[error("{node} is another ledger's: its genesis is {found}")]
    OtherLedger { node: String, found: String },
    #[error("not ready within {after:?}: {what}")]
    NotReady { after: Duration, what: String },
}

/// A network that payments can be sent to.
#[derive(Debug)]
pub struct Stage {
    /// Processes that were started here; without members if the network was found.
    pub network: Arc<Mutex<Network>>,
    /// All node processes, twins behind the nodes of genesis.
    pub nodes: Vec<NodeAddress>,
    /// To the nodes without twins, in the order of genesis.
    pub links: Vec<Arc<Link>>,
    /// To all node processes, as in `nodes`.
    pub everyone: Vec<Arc<Link>>,
    /// Dials nodes as a follower.
    pub watcher: Endpoint,
    pub http: Http,
    pub api: Option<String>,
    /// Between the nodes, if it was wanted; they do not reach each other without it.
    pub relay: Option<Relay>,
    /// How long making data directories took.
    pub init: Duration,
    /// How long it took from the start of the processes until all nodes were active.
    pub active: Duration,
    /// Keeps the links up; they go down when it is dropped.
    _keepers: JoinSet<()>,
}

/// Starts the network that a scenario wants below `directory`, if `relayed` with a relay between the nodes in which the
/// directions in it are cut, or finds the one that it names, and waits until every node is active, at most `patience`.
pub async fn set(
    directory: &std::path::Path,
    prepared: &Prepared,
    wanted: &Wanted,
    relayed: Option<&[Way]>,
    programs: &Programs,
    patience: Duration,
) -> Result<Stage, StageError> {
    network::require_test(&prepared.genesis)?;
    let begun = Instant::now();
    let mut network = match &wanted.attach {
        Some(attach) => found(directory, prepared, attach)?,
        None => Network::lay_out(directory, prepared, wanted, relayed.is_some(), programs)?,
    };
    if wanted.attach.is_none() {
        network.init().await?;
    }
    let init = begun.elapsed();
    let plan = prepared.plan();
    let submitter = link::dialler(&plan.role_key(KeyOf::Submitter), prepared.genesis_id, Role::Client)?;
    let watcher = link::dialler(&plan.role_key(KeyOf::Watcher), prepared.genesis_id, Role::Follower)?;
    let (nodes, api) = (network.nodes.clone(), network.api.clone());
    let seed = prepared.meta.parameters.seed;
    let relay = network.fronts.take().map(|fronts| Relay::start(fronts, seed)).transpose();
    let relay = relay.map_err(NetworkError::Relay)?;
    if let (Some(relay), Some(cut)) = (&relay, relayed) {
        relay.lanes().cut(cut);
    }
    let started = Instant::now();
    network.start()?;
    let everyone: Vec<Arc<Link>> = nodes.iter().map(|node| Link::new(node.clone(), submitter.clone())).collect();
    let honest: Vec<String> = network.honest().map(|node| node.name.clone()).collect();
    let links = everyone.iter().filter(|link| honest.contains(&link.node.name)).cloned().collect();
    let mut keepers = JoinSet::new();
    for link in &everyone {
        keepers.spawn(Arc::clone(link).keep_up());
    }
    let mut stage = Stage {
        network: Arc::new(Mutex::new(network)),
        nodes,
        links,
        everyone,
        watcher,
        http: Http::default(),
        api,
        relay,
        init,
        active: Duration::ZERO,
        _keepers: keepers,
    };
    stage.wait_until_ready(prepared, patience).await?;
    stage.active = started.elapsed();
    Ok(stage)
}

/// A network that others started.
fn found(directory: &std::path::Path, prepared: &Prepared, attach: &Attach) -> Result<Network, StageError> {
    use std::net::ToSocketAddrs;
    let mut nodes = Vec::new();
    for (validator, address) in prepared.genesis.validators.iter().zip(&attach.nodes) {
        let name = validator.name.clone();
        let resolved = address.to_socket_addrs().ok().and_then(|mut found| found.next());
        let quic = resolved.ok_or_else(|| StageError::Address { name: name.clone(), address: address.clone() })?;
        nodes.push(NodeAddress { name, quic, key: validator.key });
    }
    Ok(Network {
        directory: directory.to_path_buf(),
        genesis_file: prepared.directory.join(crate::prepare::GENESIS_FILE),
        nodes,
        api: attach.api_server.clone(),
        twins: Vec::new(),
        fronts: None,
        members: Vec::new(),
    })
}

impl Stage {
    /// From now on nodes with twins may halt for good, and if `all` every node.
    pub async fn allow_halts(&self, all: bool) {
        let mut network = self.network.lock().await;
        let honest: Vec<String> = network.honest().map(|node| node.name.clone()).collect();
        for link in &self.everyone {
            let name = &link.node.name;
            if let Some(member) = network.member(name).filter(|_| all || !honest.contains(name)) {
                member.process.allow_halt();
            }
        }
    }

    async fn wait_until_ready(&self, prepared: &Prepared, patience: Duration) -> Result<(), StageError> {
        let deadline = Instant::now() + patience;
        loop {
            for member in &mut self.network.lock().await.members {
                member.process.check().map_err(NetworkError::from)?;
            }
            match self.first_not_ready(prepared).await? {
                None => return Ok(()),
                Some(what) if Instant::now() >= deadline => {
                    return Err(StageError::NotReady { after: patience, what });
                }
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The first node that is not active, or the API server if it is not ready; in words.
    async fn first_not_ready(&self, prepared: &Prepared) -> Result<Option<String>, StageError> {
        for link in &self.everyone {
            let node = &link.node.name;
            match node_info(link, LOOK_DEADLINE).await {
                Ok(info) if info.genesis != prepared.genesis_id => {
                    return Err(StageError::OtherLedger { node: node.clone(), found: info.genesis.to_string() });
                }
                Ok(info) if info.mode == Mode::Active => {}
                Ok(info) => return Ok(Some(format!("{node} is {:?}", info.mode))),
                Err(failure) => {
                    let trouble = link.trouble().unwrap_or_else(|| failure.to_string());
                    return Ok(Some(format!("{node} does not answer: {trouble}")));
                }
            }
        }
        let Some(address) = &self.api else { return Ok(None) };
        match self.http.get(address, "/readyz", LOOK_DEADLINE).await {
            Ok(page) if page.status.is_success() => Ok(None),
            Ok(page) => Ok(Some(format!("the API server answers {}", page.status))),
            Err(error) => Ok(Some(format!("the API server does not answer: {error}"))),
        }
    }
}
