//! The files of `deploy/` as a node reads them: configs, genesis and the account file that its script makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use zeni_ledger::genesis::{Purpose, account_records, accounts_digest};
use zeni_ledger::{Genesis, TokenId};
use zeni_node::config::{Checkpoint, ClientRole, Config, Limits, Log};

const WATERMARK_BYTES: u64 = 4 << 30;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn genesis() -> Genesis {
    let text = fs::read_to_string(deploy("genesis.example.toml")).expect("the example is there");
    Genesis::from_toml(&text).expect("the example is a genesis")
}

fn configs() -> Vec<(&'static str, Config)> {
    let load = |name| (name, Config::load(&deploy(&format!("{name}.toml"))).expect("the example is a config"));
    ["node-a", "node-b", "node-c"].map(load).to_vec()
}

#[test]
fn the_example_genesis_is_the_three_hosts_of_2016() {
    let genesis = genesis();
    assert_eq!(genesis.purpose, Purpose::Production);
    assert_eq!(genesis.block_interval_ms, 15_000);
    let names: Vec<&str> = genesis.validators.iter().map(|validator| validator.name.as_str()).collect();
    assert_eq!(names, ["node-a", "node-b", "node-c"]);
    assert_eq!(Genesis::from_toml(&genesis.to_toml()).unwrap().id(), genesis.id());
}

#[test]
fn each_example_config_is_taken_and_listens_where_genesis_says() {
    let genesis = genesis();
    for ((name, config), validator) in configs().iter().zip(&genesis.validators) {
        assert_eq!(*name, validator.name);
        assert_eq!(config.listen.to_string(), validator.address);
        assert!(config.metrics.is_some_and(|metrics| metrics.ip() == config.listen.ip()), "{name}");
        assert_eq!(config.clients.len(), 1);
        assert_eq!(config.clients[0].role, ClientRole::Follower);
        assert!(genesis.validator_by_key(&config.clients[0].key).is_none(), "{name}: a client has a key of its own");
    }
}

#[test]
fn the_defaults_that_the_examples_write_out_are_the_defaults() {
    for (name, config) in configs() {
        let limits = Limits { disk_watermark_bytes: WATERMARK_BYTES, ..Limits::default() };
        assert_eq!(config.limits, limits, "{name}");
        assert_eq!(config.checkpoint, Checkpoint::default(), "{name}");
        assert_eq!(config.log, Log::default(), "{name}");
    }
}

#[test]
fn a_field_that_no_node_knows_is_refused_in_the_examples_too() {
    let path = deploy("node-a.toml");
    let text = fs::read_to_string(&path).unwrap();
    let error = Config::parse(&text.replace("peer_batches", "peer_batchs"), &path).unwrap_err();
    assert!(error.to_string().contains("peer_batchs"), "{error}");
}

#[test]
fn the_script_makes_the_account_file_that_the_example_genesis_names() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("accounts.bin");
    let made = make_accounts(&deploy("accounts.example.csv"), &file);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bytes = fs::read(&file).unwrap();
    let mut genesis = genesis();
    assert_eq!(accounts_digest(&bytes), genesis.accounts_digest);
    assert_eq!(String::from_utf8_lossy(&made.stdout).trim(), format!("count = {}", genesis.accounts));
    let amounts: Vec<u64> = account_records(&bytes).unwrap().map(|(_, _, amount)| amount.0).collect();
    assert_eq!(amounts, [500_000_000, 0, 25_000_000]);
    // Three accounts need no two million buckets.
    genesis.state_depth = 4;
    let state = genesis.state(&bytes).unwrap();
    let issuer = genesis.rules.tokens[&TokenId(1)].issuer;
    assert_eq!(state.account(&issuer).unwrap().balance(TokenId(1)).units(), -525_000_000);
}

#[test]
fn the_script_refuses_bad_lines_and_leaves_no_half_file() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (directory.path().join("accounts.csv"), directory.path().join("accounts.bin"));
    let account = "12".repeat(32);
    for (bad, complaint) in [
        (format!("{account},1"), "expected account,token,amount"),
        (format!("{account},1,-1"), "out of range"),
        (format!("{account},1,18446744073709551616"), "out of range"),
        ("1234,1,5".into(), "2 bytes instead of 32"),
        (format!("{account},1,5\n{account},1,5"), "stands twice"),
    ] {
        fs::write(&source, format!("{},1,7\n{bad}\n", "34".repeat(32))).unwrap();
        let made = make_accounts(&source, &target);
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(!made.status.success() && said.contains(complaint), "{bad}: {said}");
        assert!(!target.exists(), "{bad}");
    }
}

fn make_accounts(source: &Path, target: &Path) -> std::process::Output {
    let script = deploy("make_accounts.py");
    Command::new("python3").arg(script).arg(source).arg(target).output().expect("python3 is installed")
}
