//! The whole server: follows scripted nodes over QUIC, keeps its own log, checkpoint and index, and serves HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use support::chain_node;
use support::fake_node::nowhere;
use support::ledger::{Branch, World, account};
use tokio::sync::watch;
use tokio::time::timeout;
use zeni_api_server::config::{Checkpoint, Config, Limits, Log, MetricsAddress, NodeEntry};
use zeni_api_server::run::{RunError, Running, check};
use zeni_api_server::store::LedgerError;
use zeni_client::NodeAddress;
use zeni_client::api::ApiClient;
use zeni_client::wallet::Key;
use zeni_storage::StorageError;

/// No test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Checkpoints as often as the thread looks, one block deep.
const EAGER: Checkpoint = Checkpoint { interval_s: 0, depth: 1 };

fn config(dir: &Path, world: &World, nodes: &[NodeAddress], checkpoint: Checkpoint) -> Config {
    let genesis = dir.join(format!("{}.toml", world.id));
    std::fs::write(&genesis, world.genesis.to_toml()).unwrap();
    std::fs::write(dir.join(&world.genesis.accounts_file), &world.accounts).unwrap();
    let key = dir.join("api.key");
    if !key.exists() {
        Key::generate().save(&key).unwrap();
    }
    let entry = |node: &NodeAddress| NodeEntry { key: node.key.to_string(), address: node.address.clone() };
    Config {
        genesis,
        data: dir.join("data"),
        key,
        listen: "127.0.0.1:0".parse().unwrap(),
        metrics: MetricsAddress(None),
        nodes: nodes.iter().map(entry).collect(),
        checkpoint,
        limits: Limits::default(),
        log: Log::default(),
    }
}

async fn start(config: Config) -> Running {
    Running::start(check(config).unwrap(), PrometheusBuilder::new().build_recorder().handle()).await.unwrap()
}

fn client(running: &Running) -> ApiClient {
    ApiClient::new(&format!("http://{}", running.address), PATIENCE).unwrap()
}

async fn reach(running: &Running, branch: &Branch) {
    let mut head = running.api.chronicle.watch();
    timeout(PATIENCE, head.wait_for(|head| head.id == branch.tip)).await.unwrap().unwrap();
    let mut replayed = running.api.progress.watch_replay();
    timeout(PATIENCE, replayed.wait_for(|replayed| *replayed)).await.unwrap().unwrap();
}

/// Blocks with a payment of 1 each from account 0 to account 1.
fn paying(world: &Arc<World>, branch: &mut Branch, blocks: u64) {
    for _ in 0..blocks {
        branch.extend(vec![world.pay(0, 1, branch.height(), 1)]);
    }
}

async fn balance(client: &ApiClient, number: u8) -> String {
    client.account(&account(number)).await.unwrap().balances[0].balance.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_the_chain_and_goes_on_with_another_node() {
    let (world, dir) = (Arc::new(World::new()), tempfile::tempdir().unwrap());
    let mut branch = Branch::new(&world);
    paying(&world, &mut branch, 5);
    let (chain, seen) = watch::channel(branch.clone());
    let (one, two) = (chain_node::start(&world, 1, seen.clone()), chain_node::start(&world, 2, seen));
    let running = start(config(dir.path(), &world, &[one.at.clone(), two.at.clone()], Checkpoint::default())).await;
    reach(&running, &branch).await;
    let client = client(&running);
    assert_eq!((balance(&client, 0).await, balance(&client, 1).await), ("95".into(), "205".into()));
    let id = world.id_of(&world.pay(0, 1, 2, 1));
    let status = client.status(&id).await.unwrap();
    assert_eq!((status.status.as_str(), status.details["height"].as_u64()), ("included", Some(3)));
    assert_eq!(client.network().await.unwrap().genesis, world.id.to_string());

    one.stop().await;
    paying(&world, &mut branch, 2);
    chain.send_replace(branch.clone());
    reach(&running, &branch).await;
    assert_eq!(balance(&client, 0).await, "93");
    let payment = world.pay(3, 4, 0, 1);
    assert_eq!(client.submit(&payment).await.unwrap().status, "accepted");
    assert_eq!(client.status(&world.id_of(&payment)).await.unwrap().status, "accepted");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_old_batches_is_left_for_one_that_has_them() {
    let (world, dir) = (Arc::new(World::new()), tempfile::tempdir().unwrap());
    let mut branch = Branch::new(&world);
    paying(&world, &mut branch, 5);
    let (_chain, seen) = watch::channel(branch.clone());
    // The first one returned by a state snapshot. Both stand at the same height.
    let returned = chain_node::start_without_batches(&world, 1, seen.clone());
    let other = chain_node::start(&world, 2, seen);
    let nodes = [returned.at.clone(), other.at.clone()];
    let running = start(config(dir.path(), &world, &nodes, Checkpoint::default())).await;
    reach(&running, &branch).await;
    assert_eq!(running.api.progress.followed(), Some(1));
    assert_eq!(balance(&client(&running), 0).await, "95");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_a_reorganisation() {
    let (world, dir) = (Arc::new(World::new()), tempfile::tempdir().unwrap());
    let mut first = Branch::new(&world);
    paying(&world, &mut first, 3);
    let mut second = first.clone();
    paying(&world, &mut first, 2);
    let (chain, seen) = watch::channel(first.clone());
    let node = chain_node::start(&world, 1, seen);
    let running = start(config(dir.path(), &world, std::slice::from_ref(&node.at), EAGER)).await;
    reach(&running, &first).await;
    second.skip(7);
    (0..3).for_each(|_| drop(second.extend(vec![])));
    chain.send_replace(second.clone());
    reach(&running, &second).await;
    let client = client(&running);
    assert_eq!(balance(&client, 0).await, "97");
    let undone = world.id_of(&world.pay(0, 1, 3, 1));
    assert_eq!(client.status(&undone).await.unwrap_err().code(), Some("unknown_payment"));
    running.stop().await.unwrap();
}

/// Asks for account 0 from the first moment on, until there is an answer.
async fn never_an_old_balance(client: &ApiClient, expected: &str) {
    loop {
        match client.account(&account(0)).await {
            Ok(found) => {
                assert_eq!(found.balances[0].balance, expected);
                return;
            }
            Err(error) => assert_eq!(error.code(), Some("not_ready")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_serves_from_its_own_disk() {
    let (world, dir) = (Arc::new(World::new()), tempfile::tempdir().unwrap());
    let mut branch = Branch::new(&world);
    paying(&world, &mut branch, 12);
    let (_chain, seen) = watch::channel(branch.clone());
    let node = chain_node::start(&world, 1, seen);
    for checkpoint in [Checkpoint::default(), EAGER] {
        let running = start(config(dir.path(), &world, std::slice::from_ref(&node.at), checkpoint)).await;
        reach(&running, &branch).await;
        running.stop().await.unwrap();
    }
    node.stop().await;

    for lose_index in [false, true] {
        if lose_index {
            std::fs::remove_dir_all(dir.path().join("data/index")).unwrap();
        }
        // No node is there: everything comes from the disk.
        let running = start(config(dir.path(), &world, &[nowhere(1)], EAGER)).await;
        let client = client(&running);
        // Asked before the chain is executed again, it says so rather than tell of a state that is long past.
        timeout(PATIENCE, never_an_old_balance(&client, "88")).await.unwrap();
        reach(&running, &branch).await;
        for sequence in 0..12 {
            let status = client.status(&world.id_of(&world.pay(0, 1, sequence, 1))).await.unwrap();
            assert_eq!(status.details["height"].as_u64(), Some(sequence + 1));
        }
        running.stop().await.unwrap();
    }
    let running = start(config(dir.path(), &world, &[nowhere(1)], EAGER)).await;
    let mut last = running.api.chronicle.watch();
    timeout(PATIENCE, last.wait_for(|head| head.height == 12)).await.unwrap().unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_log_is_fetched_again() {
    let (world, dir) = (Arc::new(World::new()), tempfile::tempdir().unwrap());
    let mut branch = Branch::new(&world);
    paying(&world, &mut branch, 4);
    let (_chain, seen) = watch::channel(branch.clone());
    let node = chain_node::start(&world, 1, seen);
    let config = || config(dir.path(), &world, std::slice::from_ref(&node.at), EAGER);
    let running = start(config()).await;
    reach(&running, &branch).await;
    running.stop().await.unwrap();
    for entry in std::fs::read_dir(dir.path().join("data")).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let running = start(config()).await;
    reach(&running, &branch).await;
    let status = client(&running).status(&world.id_of(&world.pay(0, 1, 1, 1))).await.unwrap();
    assert_eq!(status.details["height"].as_u64(), Some(2));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_of_another_ledger_is_refused() {
    let (world, dir) = (Arc::new(World::new()), tempfile::tempdir().unwrap());
    start(config(dir.path(), &world, &[nowhere(1)], EAGER)).await.stop().await.unwrap();
    let mut other = World::new();
    Arc::make_mut(&mut other.genesis).rules.network = 78;
    other.id = other.genesis.id();
    let checked = check(config(dir.path(), &other, &[nowhere(1)], EAGER)).unwrap();
    let refused = Running::start(checked, PrometheusBuilder::new().build_recorder().handle()).await;
    let error = refused.err().unwrap();
    assert!(matches!(error, RunError::Ledger(LedgerError::Storage(StorageError::OtherGenesis { .. }))), "{error}");
}

#[tokio::test]
async fn a_config_that_contradicts_its_files_is_refused() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let stranger = config(dir.path(), &world, &[nowhere(42)], EAGER);
    assert!(matches!(check(stranger), Err(RunError::NotAValidator { .. })));
    let mut lost = config(dir.path(), &world, &[nowhere(1)], EAGER);
    lost.genesis = dir.path().join("none.toml");
    assert!(matches!(check(lost), Err(RunError::Ledger(LedgerError::Read { .. }))));
}

#[test]
fn the_process_checks_its_config_serves_and_stops_on_sigterm() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let config = config(dir.path(), &world, &[nowhere(1)], EAGER);
    let path = dir.path().join("api.toml");
    let text = format!(
        "genesis = {:?}\ndata = \"data\"\nkey = \"api.key\"\nlisten = \"127.0.0.1:0\"\n[[node]]\nkey = {:?}\naddress = {:?}\n",
        config.genesis, config.nodes[0].key, config.nodes[0].address
    );
    std::fs::write(&path, text).unwrap();
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_api-server"));
        command.arg("run").arg("--config").arg(&path);
        command
    };
    let checked = command().arg("--check-config").output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(!dir.path().join("data").exists(), "checking writes nothing");

    let mut running = command().stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.contains("serving")), "it never served");
    let killed = Command::new("kill").arg("-TERM").arg(running.id().to_string()).status().unwrap();
    assert!(killed.success());
    let rest: Vec<String> = lines.collect();
    assert!(running.wait().unwrap().success(), "{rest:#?}");

    std::fs::write(&path, "listen = 5").unwrap();
    let refused = command().output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is not a valid config"));
}
