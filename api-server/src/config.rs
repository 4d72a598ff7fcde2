//! The server's one TOML file. Unknown fields are refused, so that a typing error never passes for a setting.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use zeni_ledger::PublicKey;

/// What an operator sets.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The ledger's genesis file; its account file stands beside it. Relative paths start at the config's directory.
    pub genesis: PathBuf,
    /// Directory of the log, the checkpoint and the index.
    pub data: PathBuf,
    /// File with the 64 hexadecimal digits of this server's ed25519 seed; nodes know its public key.
    pub key: PathBuf,
    /// Where HTTP is served.
    pub listen: SocketAddr,
    /// Another address for /metrics alone; "none" or absent: only on `listen`.
    #[serde(default)]
    pub metrics: MetricsAddress,
    /// The nodes to follow and to submit to, of the same operator: their word is taken for payments' signatures.
    #[serde(rename = "node")]
    pub nodes: Vec<NodeEntry>,
    #[serde(default)]
    pub checkpoint: Checkpoint,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub log: Log,
}

/// A node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// Its ed25519 public key, 64 hexadecimal digits, as genesis names it.
    pub key: String,
    /// Its QUIC address, `host:port`.
    pub address: String,
}

/// When the state is written to disk.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Seconds between two checkpoints.
    pub interval_s: u64,
    /// Newest blocks whose index stays in memory, because a reorganisation may take them back.
    pub depth: u64,
}

/// The bounds of what this server takes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections.
    pub connections_max: usize,
    /// Event streams among them.
    pub event_streams_max: usize,
    /// Submissions in flight to nodes.
    pub submissions_max: usize,
    /// Milliseconds for a request's headers.
    pub header_timeout_ms: u64,
    /// Milliseconds for a request in all; event streams last.
    pub request_timeout_ms: u64,
    /// Milliseconds for one node to answer a submission, before the same bytes go to another.
    pub node_timeout_ms: u64,
    /// Submitted payments that are remembered until the chain holds them.
    pub remembered_max: usize,
}

/// How the log is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A filter like `info` or `zeni_api_server=debug,info`.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Text,
}

/// An address, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MetricsAddress(pub Option<SocketAddr>);

impl TryFrom<String> for MetricsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        text.parse()
            .map(|address| Self(Some(address)))
            .map_err(|_| format!("{text:?} is neither host:port nor \"none\""))
    }
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { interval_s: 300, depth: 20 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 2_048,
            event_streams_max: 512,
            submissions_max: 256,
            header_timeout_ms: 5_000,
            request_timeout_ms: 15_000,
            node_timeout_ms: 4_000,
            remembered_max: 1_000_000,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Text }
    }
}

/// Why a config is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path} cannot be read: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path} is not a valid config: {error}")]
    Toml { path: PathBuf, error: Box<toml::de::Error> },
    #[error("{field} is {found}; {expected}")]
    Field { field: &'static str, found: String, expected: &'static str },
}

impl Config {
    /// Reads and checks a config; its relative paths become relative to its directory.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.into(), error })?;
        let mut config = Self::parse(&text).map_err(|error| match error {
            ParseError::Toml(error) => ConfigError::Toml { path: path.into(), error },
            ParseError::Config(error) => error,
        })?;
        let directory = path.parent().unwrap_or(Path::new("."));
        for relative in [&mut config.genesis, &mut config.data, &mut config.key] {
            *relative = directory.join(&*relative);
        }
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self, ParseError> {
        let config: Self = toml::from_str(text).map_err(|error| ParseError::Toml(Box::new(error)))?;
        config.check().map_err(ParseError::Config)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let field = |field, found: String, expected| Err(ConfigError::Field { field, found, expected });
        if !(1..=NODES_MAX).contains(&self.nodes.len()) {
            return field("number of [[node]] entries", self.nodes.len().to_string(), "name 1 to 64 nodes");
        }
        for (place, node) in self.nodes.iter().enumerate() {
            if PublicKey::from_hex(&node.key).is_none() {
                return field("node.key", node.key.clone(), "an ed25519 public key in 64 hexadecimal digits");
            }
            if !node
                .address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            {
                return field("node.address", node.address.clone(), "host:port");
            }
            if self.nodes[..place].iter().any(|other| other.key == node.key) {
                return field("node.key", node.key.clone(), "each node stands once");
            }
        }
        let limits = &self.limits;
        for (name, value, most) in [
            ("checkpoint.interval_s", self.checkpoint.interval_s, 86_400),
            ("checkpoint.depth", self.checkpoint.depth, 10_000),
            ("limits.connections_max", limits.connections_max as u64, 1 << 20),
            ("limits.event_streams_max", limits.event_streams_max as u64, 1 << 20),
            ("limits.submissions_max", limits.submissions_max as u64, 1 << 16),
            ("limits.header_timeout_ms", limits.header_timeout_ms, 600_000),
            ("limits.request_timeout_ms", limits.request_timeout_ms, 600_000),
            ("limits.node_timeout_ms", limits.node_timeout_ms, 600_000),
            ("limits.remembered_max", limits.remembered_max as u64, 1 << 26),
        ] {
            if !(1..=most).contains(&value) {
                return field(name, value.to_string(), "it lies from 1 to a sane bound; leave it out for the default");
            }
        }
        Ok(())
    }
}

/// Nodes that one server follows, at most.
pub const NODES_MAX: usize = 64;

impl Limits {
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// How long nodes and the chain may be waited for, so that what was learnt can still be answered.
    pub fn answer_timeout(&self) -> Duration {
        self.request_timeout().mul_f32(0.9)
    }

    pub fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }
}

#[derive(Debug)]
enum ParseError {
    Toml(Box<toml::de::Error>),
    Config(ConfigError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(extra: &str, node: &str) -> String {
        format!("genesis = \"g\"\ndata = \"d\"\nkey = \"k\"\nlisten = \"127.0.0.1:0\"\n{extra}\n{node}")
    }

    fn node(byte: &str, address: &str) -> String {
        format!("[[node]]\nkey = \"{}\"\naddress = \"{address}\"\n", byte.repeat(32))
    }

    #[test]
    fn a_short_config_gets_the_defaults() {
        let config = Config::parse(&text("", &node("ab", "localhost:7000"))).unwrap();
        assert_eq!(config.metrics, MetricsAddress(None));
        assert_eq!((config.checkpoint.interval_s, config.checkpoint.depth), (300, 20));
        let config = Config::parse(&text("metrics = \"127.0.0.1:1\"", &node("ab", "localhost:7000"))).unwrap();
        assert_eq!(config.metrics.0, Some("127.0.0.1:1".parse().unwrap()));
    }

    #[test]
    fn unknown_fields_are_refused_at_every_level() {
        for extra in ["port = 1", "[limits]\nspeed = 1", "[checkpoint]\ndeep = 2", "[log]\ncolour = 1"] {
            assert!(matches!(Config::parse(&text(extra, &node("ab", "a:1"))), Err(ParseError::Toml(_))), "{extra}");
        }
        let odd = format!("{}name = \"x\"\n", node("ab", "a:1"));
        assert!(matches!(Config::parse(&text("", &odd)), Err(ParseError::Toml(_))));
    }

    #[test]
    fn bad_values_are_named() {
        let field = |extra: &str, nodes: &str| match Config::parse(&text(extra, nodes)) {
            Err(ParseError::Config(ConfigError::Field { field, .. })) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field("", "node = []"), "number of [[node]] entries");
        assert_eq!(field("", &node("xy", "a:1")), "node.key");
        assert_eq!(field("", &node("ab", "a")), "node.address");
        assert_eq!(field("", &format!("{}{}", node("ab", "a:1"), node("ab", "b:1"))), "node.key");
        assert_eq!(field("[limits]\nconnections_max = 0", &node("ab", "a:1")), "limits.connections_max");
        assert!(matches!(Config::parse(&text("metrics = \"here\"", &node("ab", "a:1"))), Err(ParseError::Toml(_))));
    }

    #[test]
    fn paths_start_at_the_config() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.toml");
        std::fs::write(&path, text("", &node("ab", "a:1"))).unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.genesis, dir.path().join("g"));
        assert!(matches!(Config::load(&dir.path().join("none")), Err(ConfigError::Read { .. })));
    }
}
