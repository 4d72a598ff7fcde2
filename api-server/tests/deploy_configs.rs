//! The example config of `deploy/` as the API server reads it.

use std::fs;
use std::path::{Path, PathBuf};

use zeni_api_server::config::{Checkpoint, Config, Limits, LogFormat};
use zeni_ledger::Genesis;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn config() -> Config {
    Config::load(&deploy("api-server.toml")).expect("the example is a config")
}

#[test]
fn the_example_follows_every_node_of_the_example_genesis() {
    let genesis = Genesis::from_toml(&fs::read_to_string(deploy("genesis.example.toml")).unwrap()).unwrap();
    let followed: Vec<_> = config().nodes.into_iter().map(|node| (node.key, node.address)).collect();
    let validators = genesis.validators.iter();
    let expected: Vec<_> = validators.map(|node| (node.key.to_string(), node.address.clone())).collect();
    assert_eq!(followed, expected);
}

#[test]
fn the_defaults_that_the_example_writes_out_are_the_defaults() {
    let config = config();
    assert_eq!(format!("{:?}", config.limits), format!("{:?}", Limits::default()));
    assert_eq!(format!("{:?}", config.checkpoint), format!("{:?}", Checkpoint::default()));
    assert_eq!((config.log.filter.as_str(), config.log.format), ("info", LogFormat::Text));
    assert!(config.metrics.0.is_some_and(|metrics| metrics != config.listen));
}
