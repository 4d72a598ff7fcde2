//! The node's TOML config: what it says, its defaults and its limits.
//!
//! Relative paths are taken from the directory of the config file, so that a node starts the same from anywhere.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeni_ledger::PublicKey;

/// Clients that one config may name, at most.
pub const CLIENTS_MAX: usize = 1_024;

/// Everything that one node process is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The genesis file; the account file that it names lies beside it.
    pub genesis: PathBuf,
    /// The data directory, made by `node init`.
    pub data: PathBuf,
    /// The file with the validator's ed25519 seed in 64 hexadecimal digits.
    pub key: PathBuf,
    /// Where QUIC listens.
    pub listen: SocketAddr,
    /// Where Prometheus metrics are served; nowhere if absent.
    pub metrics: Option<SocketAddr>,
    pub peers: Vec<PeerAddress>,
    pub clients: Vec<Client>,
    pub checkpoint: Checkpoint,
    pub snapshot: Snapshot,
    pub limits: Limits,
    pub log: Log,
}

/// Replaces the address that genesis gives a validator.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerAddress {
    /// The validator's name in genesis.
    pub validator: String,
    /// `host:port`.
    pub address: String,
}

/// Someone other than a validator who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub name: String,
    pub key: PublicKey,
    pub role: ClientRole,
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientRole {
    /// Requests only.
    Client,
    /// Requests, and it is sent batches and blocks as they come.
    Follower,
}

/// When and where checkpoints are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Seconds from one to the next.
    pub interval_s: u64,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { interval_s: 300 }
    }
}

/// How a node that lost its disk gets the state from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Snapshot {
    /// Seconds in which another validator must be reached; 0 asks none, and executes from genesis.
    pub patience_s: u64,
    /// A snapshot of fewer blocks than this is not worth it.
    pub lag_min: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { patience_s: 10, lag_min: 100 }
    }
}

/// The bounds of everything that others can make grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Payments of all clients that are taken in and not answered yet.
    pub ingress_payments: usize,
    /// Payments of one client that are taken in and not answered yet.
    pub client_payments: usize,
    /// Requests of one client that are not answered yet, and requests open on one connection.
    pub client_requests: usize,
    /// Connections of clients and followers together. Validators' do not count, so that they always find room.
    pub connections: usize,
    /// Batches of one connection that are being verified or wait for the core.
    pub peer_batches: usize,
    /// Messages of one connection, batches aside, that wait for the core.
    pub peer_messages: usize,
    /// Messages that wait to be sent on one connection, batches aside. A connection that falls behind is closed.
    pub send_control: usize,
    /// Batches that wait to be sent on one connection. Further ones are dropped; the peer fetches them by digest.
    pub send_bulk: usize,
    /// Verification jobs that run or wait for a core; 0 chooses one more than there are cores.
    pub verify_jobs: usize,
    /// Below this much free space the node takes no payments.
    pub disk_watermark_bytes: u64,
    /// How long a starting node waits to hear from every validator before it takes part, in milliseconds.
    pub joining_ms: u64,
    /// How long a stopping node finishes what it took in, in milliseconds.
    pub stopping_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ingress_payments: 65_536,
            client_payments: 65_536,
            client_requests: 1_024,
            connections: 256,
            peer_batches: 64,
            peer_messages: 256,
            send_control: 1_024,
            send_bulk: 128,
            verify_jobs: 0,
            disk_watermark_bytes: 1 << 30,
            joining_ms: 60_000,
            stopping_ms: 5_000,
        }
    }
}

/// How the node logs, to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: LogFormat,
    /// A filter of tracing's kind: `info`, or `info,zeni_node=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Why a config is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the config {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("the config {path} is not valid: {error}")]
    Toml { path: PathBuf, error: Box<toml::de::Error> },
    #[error("config {field} is {found}; {expected}")]
    Field { field: &'static str, found: String, expected: &'static str },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    genesis: PathBuf,
    data: PathBuf,
    key: PathBuf,
    listen: SocketAddr,
    metrics: Option<SocketAddr>,
    #[serde(default)]
    peer: Vec<PeerAddress>,
    #[serde(default)]
    client: Vec<ClientEntry>,
    #[serde(default)]
    checkpoint: Checkpoint,
    #[serde(default)]
    snapshot: Snapshot,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    log: Log,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientEntry {
    name: String,
    key: String,
    role: ClientRole,
}

impl Config {
    /// Reads and checks a config file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// Checks the text of the config file that lies at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: ConfigFile = toml::from_str(text)
            .map_err(|error| ConfigError::Toml { path: path.to_owned(), error: Box::new(error) })?;
        let base = path.parent().unwrap_or(Path::new(""));
        let clients = file.client.iter().map(parse_client).collect::<Result<Vec<_>, _>>()?;
        let config = Self {
            genesis: base.join(&file.genesis),
            data: base.join(&file.data),
            key: base.join(&file.key),
            listen: file.listen,
            metrics: file.metrics,
            peers: file.peer,
            clients,
            checkpoint: file.checkpoint,
            snapshot: file.snapshot,
            limits: file.limits,
            log: file.log,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        in_range("checkpoint.interval_s", self.checkpoint.interval_s, 1, 86_400, "1 to 86400 seconds")?;
        in_range("snapshot.patience_s", self.snapshot.patience_s, 0, 3_600, "0 to 3600 seconds")?;
        in_range("snapshot.lag_min", self.snapshot.lag_min, 1, u64::MAX, "at least 1")?;
        let sizes = [
            ("limits.ingress_payments", limits.ingress_payments, 1_024, 1 << 24),
            ("limits.client_payments", limits.client_payments, 1_024, 1 << 24),
            ("limits.client_requests", limits.client_requests, 1, 1 << 20),
            ("limits.connections", limits.connections, 1, 65_536),
            ("limits.peer_batches", limits.peer_batches, 1, 4_096),
            ("limits.peer_messages", limits.peer_messages, 1, 65_536),
            ("limits.send_control", limits.send_control, 16, 65_536),
            ("limits.send_bulk", limits.send_bulk, 1, 4_096),
            ("limits.verify_jobs", limits.verify_jobs, 0, 1_024),
        ];
        for (name, found, least, most) in sizes {
            in_range(name, found as u64, least, most, "see `Limits` in the node's documentation for its range")?;
        }
        in_range("limits.joining_ms", limits.joining_ms, 0, 3_600_000, "0 to 3600000 milliseconds")?;
        in_range("limits.stopping_ms", limits.stopping_ms, 0, 600_000, "0 to 600000 milliseconds")?;
        in_range("number of [[client]]", self.clients.len() as u64, 0, CLIENTS_MAX as u64, "at most 1024")?;
        for (place, client) in self.clients.iter().enumerate() {
            if self.clients[..place].iter().any(|other| other.key == client.key) {
                let found = format!("{} of {:?}, which stands twice", client.key, client.name);
                return Err(ConfigError::Field { field: "client.key", found, expected: "each client has its own key" });
            }
        }
        Ok(())
    }
}

fn in_range(field: &'static str, found: u64, least: u64, most: u64, expected: &'static str) -> Result<(), ConfigError> {
    match (least..=most).contains(&found) {
        true => Ok(()),
        false => Err(ConfigError::Field { field, found: found.to_string(), expected }),
    }
}

fn parse_client(entry: &ClientEntry) -> Result<Client, ConfigError> {
    let key = PublicKey::from_hex(&entry.key).ok_or_else(|| ConfigError::Field {
        field: "client.key",
        found: format!("{:?}", entry.key),
        expected: "an ed25519 public key is written in 64 hexadecimal digits",
    })?;
    Ok(Client { name: entry.name.clone(), key, role: entry.role })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
        genesis = "genesis.toml"
        data = "data"
        key = "/etc/zeni/key"
        listen = "127.0.0.1:7401"
    "#;

    fn parse(more: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{LEAST}{more}"), Path::new("/srv/zeni/node.toml"))
    }

    #[test]
    fn the_least_config_gets_the_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.genesis, Path::new("/srv/zeni/genesis.toml"));
        assert_eq!(config.key, Path::new("/etc/zeni/key"));
        assert_eq!(config.checkpoint.interval_s, 300);
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.snapshot, Snapshot { patience_s: 10, lag_min: 100 });
        assert_eq!(config.metrics, None);
    }

    #[test]
    fn an_unknown_field_is_refused_and_named() {
        for (text, name) in [("chekpoint = 3", "chekpoint"), ("[limits]\nqueue = 4", "queue"), ("[log]\nx = 1", "x")] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, ConfigError::Toml { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_and_named() {
        let bad = [
            ("[checkpoint]\ninterval_s = 0", "checkpoint.interval_s"),
            ("[limits]\ningress_payments = 1023", "limits.ingress_payments"),
            ("[snapshot]\npatience_s = 3601", "snapshot.patience_s"),
            ("[snapshot]\nlag_min = 0", "snapshot.lag_min"),
            ("[limits]\nsend_control = 1", "limits.send_control"),
            ("[[client]]\nname = \"a\"\nkey = \"zz\"\nrole = \"client\"", "client.key"),
        ];
        for (text, name) in bad {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, ConfigError::Field { field, .. } if field == name), "{error}");
        }
    }

    #[test]
    fn two_clients_with_one_key_are_refused() {
        let client = format!("\n[[client]]\nname = \"a\"\nkey = \"{}\"\nrole = \"follower\"", "ab".repeat(32));
        assert_eq!(parse(&client).unwrap().clients[0].role, ClientRole::Follower);
        assert!(matches!(parse(&client.repeat(2)), Err(ConfigError::Field { field: "client.key", .. })));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::load(Path::new("/nonexistent/node.toml")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/node.toml"), "{error}");
    }
}
