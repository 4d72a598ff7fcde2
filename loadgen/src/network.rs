//! A local network: directories, keys and configs of its processes, and the processes.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use zeni_ledger::Genesis;
use zeni_ledger::genesis::Purpose;

use crate::link::NodeAddress;
use crate::plan::{self, Plan, Role};
use crate::prepare::Prepared;
use crate::process::{Process, ProcessError};
use crate::relay::Fronts;
use crate::scenario::{API_SERVER, Checkpoint, Network as Wanted};

/// Ports are taken from here: below those that the system gives to outgoing connections, so that none of these takes
/// the port of a node that is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How long `node init` may take: 10.8 million accounts are hashed in it.
const INIT: Duration = Duration::from_secs(900);

/// Why a network cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{action} {}: {error}", path.display())]
    File { action: &'static str, path: PathBuf, error: io::Error },
    #[error("the genesis is for production; storms and faults run only where it says purpose = \"test\"")]
    Production,
    #[error("there is no program {}; build it with cargo build --release -p {package}", path.display())]
    NoProgram { path: PathBuf, package: &'static str },
    #[error("no free port between {} and {}", PORTS.start, PORTS.end)]
    NoPort,
    #[error("opening the sockets of the relay between the nodes: {0}")]
    Relay(io::Error),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// A process's place in the network.
#[derive(Debug)]
pub struct Member {
    pub process: Process,
    /// Its data directory.
    pub data: PathBuf,
    pub config: PathBuf,
    pub metrics: SocketAddr,
}

/// The processes of a network, nodes in the order of genesis and the API server behind them.
#[derive(Debug)]
pub struct Network {
    pub directory: PathBuf,
    pub genesis_file: PathBuf,
    pub nodes: Vec<NodeAddress>,
    /// HTTP address of the API server.
    pub api: Option<String>,
    /// Twins among the nodes, which stand behind those of genesis.
    pub twins: Vec<TwinPlace>,
    /// Where nodes find each other, if a relay is to be between them.
    pub fronts: Option<Fronts>,
    pub members: Vec<Member>,
}

/// A node with two processes, by their places among the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinPlace {
    pub original: usize,
    pub twin: usize,
    /// Those that look for the node's key where the twin is.
    pub heard_by: Vec<usize>,
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    pub loadgen: PathBuf,
    pub node: PathBuf,
    pub api_server: PathBuf,
}

impl Programs {
    /// The programs beside the running one.
    pub fn beside_this() -> io::Result<Self> {
        let loadgen = std::env::current_exe()?;
        let beside = |name: &str| loadgen.with_file_name(name);
        Ok(Self { node: beside("node"), api_server: beside("api-server"), loadgen })
    }

    fn check(&self, api_server: bool) -> Result<(), NetworkError> {
        let api_server = api_server.then_some((&self.api_server, "zeni-api-server"));
        for (path, package) in [Some((&self.node, "zeni-node")), api_server].into_iter().flatten() {
            if !path.is_file() {
                return Err(NetworkError::NoProgram { path: path.clone(), package });
            }
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct NodeConfig<'a> {
    genesis: &'a Path,
    data: &'a Path,
    key: &'a Path,
    listen: SocketAddr,
    metrics: SocketAddr,
    client: Vec<ClientConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peer: Vec<PeerConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Checkpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsConfig>,
}

#[derive(Serialize)]
struct LimitsConfig {
    joining_ms: u64,
}

#[derive(Serialize)]
struct ClientConfig {
    name: &'static str,
    key: String,
    role: &'static str,
}

#[derive(Serialize)]
struct PeerConfig {
    validator: String,
    address: SocketAddr,
}

#[derive(Serialize)]
struct ApiServerConfig<'a> {
    genesis: &'a Path,
    data: &'a Path,
    key: &'a Path,
    listen: SocketAddr,
    metrics: SocketAddr,
    node: Vec<NodeEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Checkpoint>,
}

#[derive(Serialize)]
struct NodeEntry {
    key: String,
    address: String,
}

impl Network {
    /// Lays out a network below `directory` for prepared input, `relayed` with a relay between the nodes. Nothing is
    /// started yet.
    pub fn lay_out(
        directory: &Path,
        prepared: &Prepared,
        wanted: &Wanted,
        relayed: bool,
        programs: &Programs,
    ) -> Result<Self, NetworkError> {
        require_test(&prepared.genesis)?;
        programs.check(wanted.api_server)?;
        let mut ports = Ports::new();
        let plan = prepared.plan();
        let mut nodes = Vec::new();
        for validator in &prepared.genesis.validators {
            let (name, key) = (validator.name.clone(), validator.key);
            nodes.push(NodeAddress { name, quic: ports.next_address()?, key });
        }
        let mut twins = Vec::new();
        for twin in &wanted.twins {
            let place = |name: &String| nodes.iter().position(|node| node.name == *name);
            let original = place(&twin.of).expect("a checked scenario's twins are those of its nodes");
            let heard_by = twin.heard_by.iter().filter_map(place).collect();
            twins.push(TwinPlace { original, twin: nodes.len(), heard_by });
            nodes.push(NodeAddress { name: twin.name(), quic: ports.next_address()?, key: nodes[original].key });
        }
        let genesis_file = directory.join("genesis.toml");
        write(&genesis_file, &located_genesis(prepared, &nodes).to_toml())?;
        let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.quic).collect();
        let fronts = relayed.then(|| Fronts::bind(&addresses)).transpose().map_err(NetworkError::Relay)?;
        let directory = directory.to_path_buf();
        let mut network = Self { directory, genesis_file, nodes, api: None, twins, fronts, members: Vec::new() };
        for place in 0..network.nodes.len() {
            let member = network.lay_out_node(place, &plan, wanted, programs, ports.next_address()?)?;
            network.members.push(member);
        }
        if wanted.api_server {
            let (http, metrics) = (ports.next_address()?, ports.next_address()?);
            let member = network.lay_out_api_server(&plan, wanted, programs, http, metrics)?;
            network.api = Some(http.to_string());
            network.members.push(member);
        }
        Ok(network)
    }

    fn lay_out_node(
        &self,
        place: usize,
        plan: &Plan,
        wanted: &Wanted,
        programs: &Programs,
        metrics: SocketAddr,
    ) -> Result<Member, NetworkError> {
        let node = &self.nodes[place];
        let directory = self.directory.join(&node.name);
        let key = write_key(&directory, plan, Role::Validator(self.validator(place) as u16))?;
        let (config, data) = (directory.join("node.toml"), directory.join("data"));
        let client = |name, role, wire| ClientConfig {
            name,
            key: plan::public_of(&plan.role_key(role)).to_string(),
            role: wire,
        };
        let peer = |(other, address): (usize, SocketAddr)| {
            let validator = self.nodes[self.validator(other)].name.clone();
            PeerConfig { validator, address }
        };
        let fronts = self.fronts.iter().flat_map(|fronts| fronts.of(place));
        let content = NodeConfig {
            genesis: &self.genesis_file,
            data: &data,
            key: &key,
            listen: node.quic,
            metrics,
            client: vec![
                client("loadgen-submitter", Role::Submitter, "client"),
                client("loadgen-watcher", Role::Watcher, "follower"),
                client("api-server", Role::ApiServer, "follower"),
            ],
            peer: fronts.filter(|(other, _)| self.looks_for(place, *other)).map(peer).collect(),
            checkpoint: wanted.checkpoint,
            limits: wanted.joining_ms.map(|joining_ms| LimitsConfig { joining_ms }),
        };
        write(&config, &toml::to_string(&content).expect("plain tables of text and numbers"))?;
        let process = self.process(&node.name, programs, &programs.node, &config);
        Ok(Member { process, data, config, metrics })
    }

    fn lay_out_api_server(
        &self,
        plan: &Plan,
        wanted: &Wanted,
        programs: &Programs,
        http: SocketAddr,
        metrics: SocketAddr,
    ) -> Result<Member, NetworkError> {
        let directory = self.directory.join(API_SERVER);
        let key = write_key(&directory, plan, Role::ApiServer)?;
        let (config, data) = (directory.join("api-server.toml"), directory.join("data"));
        let entry = |node: &NodeAddress| NodeEntry { key: node.key.to_string(), address: node.quic.to_string() };
        let content = ApiServerConfig {
            genesis: &self.genesis_file,
            data: &data,
            key: &key,
            listen: http,
            metrics,
            node: self.honest().map(entry).collect(),
            checkpoint: wanted.checkpoint,
        };
        write(&config, &toml::to_string(&content).expect("plain tables of text and numbers"))?;
        let process = self.process(API_SERVER, programs, &programs.api_server, &config);
        Ok(Member { process, data, config, metrics })
    }

    /// Whose key a process has, by place in genesis.
    fn validator(&self, place: usize) -> usize {
        self.twins.iter().find(|twins| twins.twin == place).map_or(place, |twins| twins.original)
    }

    /// Whether a process looks for another one's key where that one is. A twin looks for its node, so that they meet once
    /// nothing parts them; the node knows of no twin.
    fn looks_for(&self, place: usize, other: usize) -> bool {
        let hears_twin = |twins: &TwinPlace| twins.heard_by.contains(&place);
        match self.twins.iter().find(|twins| twins.twin == other || twins.original == other) {
            None => true,
            Some(twins) if twins.original == place => false,
            Some(twins) if twins.twin == other => hears_twin(twins),
            Some(twins) => !hears_twin(twins),
        }
    }

    /// The nodes that have no twin, in the order of genesis.
    pub fn honest(&self) -> impl Iterator<Item = &NodeAddress> {
        let twinned = |place: &usize| self.twins.iter().any(|twins| twins.original == *place || twins.twin == *place);
        (0..self.nodes.len()).filter(move |place| !twinned(place)).map(|place| &self.nodes[place])
    }

    fn process(&self, name: &str, programs: &Programs, program: &Path, config: &Path) -> Process {
        let log = self.directory.join(format!("{name}.log"));
        let arguments = vec!["run".into(), "--config".into(), config.display().to_string()];
        Process::new(name.into(), programs.loadgen.clone(), program.to_path_buf(), arguments, log)
    }

    /// Makes every node's data directory.
    pub async fn init(&self) -> Result<(), NetworkError> {
        // One after the other: each holds the whole first state in memory.
        for member in &self.members[..self.nodes.len()] {
            let arguments =
                ["init".into(), "--first-start".into(), "--config".into(), member.config.display().to_string()];
            member.process.run_well(&arguments, INIT).await?;
        }
        Ok(())
    }

    /// Starts every process.
    pub fn start(&mut self) -> Result<(), NetworkError> {
        for member in &mut self.members {
            member.process.start()?;
        }
        Ok(())
    }

    /// The member with this name.
    pub fn member(&mut self, name: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.process.name == name)
    }

    /// Asks every process to end, all at once, and kills those that do not. Names of those that had to be killed.
    pub async fn stop(&mut self, patience: Duration) -> Result<Vec<String>, NetworkError> {
        let stops = self.members.iter_mut().map(|member| async move {
            let willing = member.process.stop(patience).await?;
            Ok::<_, ProcessError>((!willing).then(|| member.process.name.clone()))
        });
        let mut killed = Vec::new();
        for stopped in futures_join(stops).await {
            killed.extend(stopped?);
        }
        Ok(killed)
    }
}

/// Polls all futures to their ends, together.
pub async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut all = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}

/// Refuses a ledger that is not for tests.
pub fn require_test(genesis: &Genesis) -> Result<(), NetworkError> {
    match genesis.purpose {
        Purpose::Test => Ok(()),
        Purpose::Production => Err(NetworkError::Production),
    }
}

/// The prepared genesis with the places that its id does not cover: addresses, and the way to the account file.
fn located_genesis(prepared: &Prepared, nodes: &[NodeAddress]) -> Genesis {
    let mut genesis = prepared.genesis.clone();
    for (validator, node) in genesis.validators.iter_mut().zip(nodes) {
        validator.address = node.quic.to_string();
    }
    let accounts = prepared.accounts_file();
    let accounts = fs::canonicalize(&accounts).unwrap_or(accounts);
    genesis.accounts_file = accounts.display().to_string();
    genesis
}

fn write(path: &Path, text: &str) -> Result<(), NetworkError> {
    fs::write(path, text).map_err(|error| NetworkError::File { action: "writing", path: path.to_path_buf(), error })
}

/// Makes a process's directory and its key file, readable by its owner alone.
fn write_key(directory: &Path, plan: &Plan, role: Role) -> Result<PathBuf, NetworkError> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(directory).map_err(|error| NetworkError::File {
        action: "creating",
        path: directory.to_path_buf(),
        error,
    })?;
    let path = directory.join("key");
    write(&path, &hex::encode(plan.role_key(role).to_bytes()))?;
    let owner_only = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
    owner_only.map_err(|error| NetworkError::File { action: "protecting", path: path.clone(), error })?;
    Ok(path)
}

/// Finds ports that are free for UDP and TCP.
struct Ports {
    next: u16,
}

impl Ports {
    /// Begins at a place that depends on the process, so that two runs at once seldom meet.
    fn new() -> Self {
        let span = u32::from(PORTS.end - PORTS.start);
        Self { next: PORTS.start + (std::process::id().wrapping_mul(64) % span) as u16 }
    }

    fn next_address(&mut self) -> Result<SocketAddr, NetworkError> {
        for _ in PORTS {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next));
            self.next = if self.next + 1 == PORTS.end { PORTS.start } else { self.next + 1 };
            if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        Err(NetworkError::NoPort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::{Parameters, prepare};
    use crate::scenario::Twin;
    use zeni_ledger::genesis::FaultModel;

    fn prepared(root: &Path) -> Prepared {
        prepare(root, &Parameters::small(1), 1_760_000_000_000).unwrap()
    }

    fn wanted() -> Wanted {
        Wanted {
            nodes: 3,
            block_interval_ms: 1_000,
            state_depth: 4,
            batches_max: 64,
            api_server: true,
            checkpoint: Some(Checkpoint { interval_s: 5 }),
            attach: None,
            fault_model: FaultModel::Crash,
            joining_ms: None,
            twins: Vec::new(),
        }
    }

    fn programs() -> Programs {
        let this = std::env::current_exe().unwrap();
        Programs { loadgen: this.clone(), node: this.clone(), api_server: this }
    }

    #[test]
    fn the_layout_has_a_config_and_a_key_for_each_process() {
        let root = tempfile::tempdir().unwrap();
        let prepared = prepared(root.path());
        let network = Network::lay_out(root.path(), &prepared, &wanted(), false, &programs()).unwrap();
        assert_eq!(network.members.len(), 4);
        for (place, member) in network.members[..3].iter().enumerate() {
            let text = fs::read_to_string(&member.config).unwrap();
            let config: toml::Table = toml::from_str(&text).unwrap();
            assert_eq!(config["listen"].as_str(), Some(network.nodes[place].quic.to_string().as_str()));
            let checkpoint = config["checkpoint"].as_table().unwrap();
            assert_eq!((checkpoint["interval_s"].as_integer(), checkpoint.len()), (Some(5), 1), "nodes know no more");
            assert_eq!(config["client"].as_array().map(Vec::len), Some(3));
            assert!(!config.contains_key("peer"), "without a relay they find each other by genesis");
            let key = fs::read_to_string(config["key"].as_str().unwrap()).unwrap();
            let key = ed25519_dalek::SigningKey::from_bytes(&zeni_ledger::hash::array_from_hex(&key).unwrap());
            assert_eq!(plan::public_of(&key), network.nodes[place].key);
        }
        let api = fs::read_to_string(&network.members[3].config).unwrap();
        let api: toml::Table = toml::from_str(&api).unwrap();
        assert_eq!(api["node"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn the_located_genesis_keeps_its_id() {
        let root = tempfile::tempdir().unwrap();
        let prepared = prepared(root.path());
        let network = Network::lay_out(root.path(), &prepared, &wanted(), false, &programs()).unwrap();
        let genesis = Genesis::from_toml(&fs::read_to_string(&network.genesis_file).unwrap()).unwrap();
        assert_eq!(genesis.id(), prepared.genesis_id);
        assert_eq!(genesis.validators[1].address, network.nodes[1].quic.to_string());
        assert!(Path::new(&genesis.accounts_file).is_absolute());
    }

    #[test]
    fn with_a_relay_each_node_finds_the_others_at_addresses_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let network = Network::lay_out(root.path(), &prepared(root.path()), &wanted(), true, &programs()).unwrap();
        let mut addresses = std::collections::BTreeSet::new();
        for (place, member) in network.members[..3].iter().enumerate() {
            let config: toml::Table = toml::from_str(&fs::read_to_string(&member.config).unwrap()).unwrap();
            let peers: Vec<_> =
                config["peer"].as_array().unwrap().iter().map(|peer| peer.as_table().unwrap()).collect();
            let named: Vec<_> = peers.iter().map(|peer| peer["validator"].as_str().unwrap()).collect();
            let others = network.nodes.iter().enumerate().filter(|(other, _)| *other != place);
            assert_eq!(named, others.map(|(_, node)| node.name.as_str()).collect::<Vec<_>>());
            addresses.extend(peers.iter().map(|peer| peer["address"].as_str().unwrap().to_owned()));
        }
        assert_eq!(addresses.len(), 6);
        assert!(network.nodes.iter().all(|node| !addresses.contains(&node.quic.to_string())));
    }

    #[test]
    fn a_twin_has_its_nodes_key_and_is_found_by_those_that_are_to_hear_it() {
        let root = tempfile::tempdir().unwrap();
        let twin = Twin { of: "node-2".into(), heard_by: vec!["node-3".into()] };
        let wanted = Wanted { twins: vec![twin], joining_ms: Some(2_000), ..wanted() };
        let network = Network::lay_out(root.path(), &prepared(root.path()), &wanted, true, &programs()).unwrap();
        assert_eq!(network.nodes[3].name, "node-2-twin");
        assert_eq!(network.nodes[3].key, network.nodes[1].key);
        assert_ne!(network.nodes[3].quic, network.nodes[1].quic);
        assert_eq!(network.honest().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["node-1", "node-3"]);
        let read = |place: usize| {
            let text = fs::read_to_string(&network.members[place].config).unwrap();
            toml::from_str::<toml::Table>(&text).unwrap()
        };
        let fronts = network.fronts.as_ref().unwrap();
        let front = |from: usize, to: usize| fronts.of(from).find(|(other, _)| *other == to).unwrap().1.to_string();
        // Of each process: whose key it looks for, and at which process.
        let looks = [
            (0, vec![("node-2", 1), ("node-3", 2)]),
            (1, vec![("node-1", 0), ("node-3", 2)]),
            (2, vec![("node-1", 0), ("node-2", 3)]),
            (3, vec![("node-1", 0), ("node-2", 1), ("node-3", 2)]),
        ];
        for (place, wanted) in looks {
            let config = read(place);
            let peers: Vec<(String, String)> = (config["peer"].as_array().unwrap().iter())
                .map(|peer| (peer["validator"].as_str().unwrap().into(), peer["address"].as_str().unwrap().into()))
                .collect();
            let wanted: Vec<(String, String)> =
                wanted.into_iter().map(|(name, other)| (name.to_owned(), front(place, other))).collect();
            assert_eq!(peers, wanted, "of process {place}");
            assert_eq!(config["limits"]["joining_ms"].as_integer(), Some(2_000));
        }
        let api: toml::Table = toml::from_str(&fs::read_to_string(&network.members[4].config).unwrap()).unwrap();
        assert_eq!(api["node"].as_array().map(Vec::len), Some(2), "it follows nobody who has a twin");
    }

    #[test]
    fn every_address_is_another_one() {
        let root = tempfile::tempdir().unwrap();
        let network = Network::lay_out(root.path(), &prepared(root.path()), &wanted(), false, &programs()).unwrap();
        let mut addresses: Vec<String> = network.nodes.iter().map(|node| node.quic.to_string()).collect();
        addresses.extend(network.members.iter().map(|member| member.metrics.to_string()));
        addresses.extend(network.api.clone());
        let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), addresses.len());
        assert_eq!(addresses.len(), 8);
    }

    #[test]
    fn a_production_ledger_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let mut prepared = prepared(root.path());
        prepared.genesis.purpose = Purpose::Production;
        let refused = Network::lay_out(root.path(), &prepared, &wanted(), false, &programs());
        assert!(matches!(refused, Err(NetworkError::Production)));
    }

    #[test]
    fn a_missing_program_is_named_with_how_to_build_it() {
        let root = tempfile::tempdir().unwrap();
        let programs = Programs { node: root.path().join("node"), ..programs() };
        let refused = Network::lay_out(root.path(), &prepared(root.path()), &wanted(), false, &programs).unwrap_err();
        assert!(refused.to_string().contains("cargo build --release -p zeni-node"), "{refused}");
    }
}
