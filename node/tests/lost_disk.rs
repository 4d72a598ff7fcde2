//! A validator whose disk is lost returns by a snapshot, as real processes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kit;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kit::process::{Process, node, scrape, text};
use kit::{Client, Network, OPENING_BALANCE, account, all_accepted, dial_when_up, wait_until};
use zeni_consensus::Mode;
use zeni_consensus::snapshot::{PageName, Part};
use zeni_ledger::{Payment, PublicKey};
use zeni_node::lost_disk::{LostDiskError, Returned, return_by_snapshot};
use zeni_node::verify_data::verify_data;
use zeni_node::{Config, Node, Setup, init};
use zeni_schemas::request::{Reply, Request, RequestError, decode_request, encode_reply};
use zeni_schemas::{Hello, Role};
use zeni_transport::{Endpoint, TransportConfig};

const ACCOUNTS: usize = 12;
const RECEIVER: usize = ACCOUNTS - 1;
/// A snapshot of so many blocks is worth it in these tests.
const LAG_MIN: u64 = 5;

/// A node's config that takes checkpoints often, and where it serves its metrics.
fn config(network: &Network, number: usize) -> (PathBuf, SocketAddr) {
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Few lines: nobody reads them before the end.
    let log = "[log]\nfilter = \"warn,zeni_node::lost_disk=info\"";
    let snapshot = format!("[checkpoint]\ninterval_s = 1\n[snapshot]\nlag_min = {LAG_MIN}");
    (network.config(number, &format!("metrics = \"{metrics}\"\n{snapshot}\n{log}\n")), metrics)
}

/// The value of a metric without labels.
fn metric(metrics: SocketAddr, name: &str) -> f64 {
    let page = scrape(metrics);
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// A payment of one unit from every account but the last to the last.
fn round(network: &Network, sequence: u64) -> Vec<Payment> {
    (0..RECEIVER).map(|payer| network.pay(payer, RECEIVER, sequence, 1)).collect()
}

async fn pay(network: &Network, client: &Client, rounds: std::ops::Range<u64>) {
    for sequence in rounds {
        assert!(all_accepted(&client.submit_when_ready(round(network, sequence)).await));
    }
}

fn after_rounds(rounds: u64) -> i128 {
    i128::from(OPENING_BALANCE) + i128::from(rounds) * RECEIVER as i128
}

async fn wait_mode(client: &Client, mode: Mode) {
    wait_until(&format!("the node is {mode:?}"), async || client.node().await.mode == mode).await;
}

async fn wait_equal(clients: &[&Client]) {
    wait_until("all nodes stand at one block with nothing pending", async || {
        let mut infos = Vec::new();
        for client in clients {
            infos.push(client.node().await);
        }
        let first = (infos[0].head, infos[0].state_root);
        infos.iter().all(|info| (info.head, info.state_root) == first && info.pending == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_whose_data_directory_is_deleted_returns_by_snapshot_to_the_same_state() {
    let network = Network::new(3, ACCOUNTS, 300);
    let configs: Vec<_> = (0..3).map(|number| config(&network, number)).collect();
    let mut processes = Vec::new();
    for (config, _) in &configs {
        assert!(node(&["init", "--first-start", "--config", text(config)]).status.success());
        processes.push(Process::start(config));
    }
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(dial_when_up(&network, number).await);
        wait_mode(&clients[number], Mode::Active).await;
    }
    let receiver = account(&network.accounts[RECEIVER]);
    pay(&network, &clients[0], 0..10).await;
    clients[2].wait_for_balance(receiver, after_rounds(10)).await;
    wait_until("the others have a checkpoint with these payments", async || {
        let far = |(_, metrics): &(PathBuf, SocketAddr)| metric(*metrics, "zeni_checkpoint_height");
        let head = metric(configs[2].1, "zeni_height");
        configs[..2].iter().all(|config| far(config) >= LAG_MIN as f64 && far(config) + 4.0 > head)
    })
    .await;
    // The disk is gone, and payments go on.
    processes.pop().unwrap().signal("-KILL");
    let (lost, data) = (&configs[2].0, network.path("data2"));
    std::fs::remove_dir_all(&data).unwrap();
    pay(&network, &clients[0], 10..15).await;
    assert!(node(&["init", "--config", text(lost)]).status.success());
    let returned = Process::start(lost);
    clients[2] = dial_when_up(&network, 2).await;
    clients[2].wait_for_balance(receiver, after_rounds(15)).await;
    assert_eq!(clients[2].node().await.mode, Mode::FollowOnly);
    wait_equal(&clients.iter().collect::<Vec<_>>()).await;
    assert!(scrape(configs[2].1).contains("zeni_snapshot_pages_total{direction=\"in\"}"));
    let served = |(_, metrics): &(PathBuf, SocketAddr)| {
        scrape(*metrics).contains("zeni_snapshot_pages_total{direction=\"out\"}")
    };
    assert!(configs[..2].iter().any(served), "one of the others served it");
    returned.signal("-TERM");
    let (status, log) = returned.wait().await;
    assert!(status.success() && log.contains("the snapshot is on disk"), "{log}");
    // What it holds can be verified from the snapshot on, and told of.
    let genesis = network.path("genesis.toml");
    let verified = node(&["verify", "--data", text(&data), "--genesis", text(&genesis)]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let verified: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert!(verified["verified_from"].as_u64().unwrap() >= LAG_MIN, "{verified}");
    assert!(verified["height"].as_u64() > verified["verified_from"].as_u64(), "{verified}");
    assert!(verified["applied"].as_u64().unwrap() < 15 * RECEIVER as u64, "it did not execute everything: {verified}");
    let shown = receiver.to_string();
    let told = node(&["inspect", "--data", text(&data), "--genesis", text(&genesis), "--account", &shown]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["base_height"], verified["verified_from"]);
    assert_eq!(told["account"]["balances"][0]["balance"], after_rounds(15).to_string(), "{told}");
    // Once it is readmitted, it takes part again, on the log that it has.
    assert!(node(&["readmit", "--config", text(lost)]).status.success());
    let again = Process::start(lost);
    clients[2] = dial_when_up(&network, 2).await;
    wait_mode(&clients[2], Mode::Active).await;
    pay(&network, &clients[2], 15..17).await;
    for client in &clients {
        client.wait_for_balance(receiver, after_rounds(17)).await;
    }
    wait_equal(&clients.iter().collect::<Vec<_>>()).await;
    drop(again);
}

/// A validator that passes on what another one serves of a snapshot, with a bit of every page flipped. Returns how many
/// pages.
async fn lie(endpoint: Endpoint, source: Client) -> u32 {
    let mut pages = 0;
    while let Some(connection) = endpoint.accept().await {
        while let Ok(incoming) = connection.accept_request().await {
            let reply = match decode_request(&incoming.body).unwrap() {
                request @ (Request::Snapshot { .. } | Request::SnapshotPage { .. }) => source.ask(&request).await,
                _ => Reply::Refused(RequestError::Forbidden),
            };
            let reply = match reply {
                Reply::SnapshotPage(mut records) => {
                    pages += 1;
                    records[0] ^= 1;
                    Reply::SnapshotPage(records)
                }
                other => other,
            };
            // Who lost its faith does not wait for the answer.
            incoming.respond(encode_reply(&reply)).await.ok();
        }
    }
    pages
}

/// A door at the address of a validator that stopped in this process: its socket is free a moment later.
async fn bind_when_free(network: &Network, number: usize) -> Endpoint {
    let start = Instant::now();
    loop {
        let (key, hello) = (&network.validators[number], Hello::new(network.genesis.id(), Role::Validator));
        let everyone = |_: &PublicKey| Some(Role::Validator);
        match Endpoint::bind(network.address(number), key, hello, everyone, TransportConfig::default()) {
            Ok(door) => return door,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_serves_false_pages_is_passed_over_and_a_disk_without_room_is_not_filled() {
    let network = Network::new(3, ACCOUNTS, 300);
    let setup = |number: usize| Setup::of(Config::load(&config(&network, number).0).unwrap()).unwrap();
    let mut nodes = Vec::new();
    for number in 0..2 {
        init::init(&setup(number), init::Past::None).unwrap();
        nodes.push(Node::start(setup(number)).unwrap());
    }
    let client = dial_when_up(&network, 0).await;
    pay(&network, &client, 0..5).await;
    // As the second validator, which is about to lie. A checkpoint comes within a second.
    let second = &network.validators[1];
    let source = network.dial(0, second, Role::Client, TransportConfig::default()).await.unwrap();
    let asked = Request::Snapshot { height_min: LAG_MIN };
    wait_until("the first node has a snapshot", async || matches!(source.ask(&asked).await, Reply::Snapshot(_))).await;
    assert_eq!(client.ask(&asked).await, Reply::Refused(RequestError::Forbidden));
    let Reply::Snapshot(manifest) = source.ask(&asked).await else { panic!("it had one a moment ago") };
    let other =
        Request::SnapshotPage { block: network.genesis.block_id(), page: PageName { part: Part::Blocks, number: 0 } };
    assert_eq!(source.ask(&other).await, Reply::Refused(RequestError::NotHere));
    nodes.pop().unwrap().stop().await.unwrap();
    let door = bind_when_free(&network, 1).await;
    let lying = tokio::spawn(lie(door.clone(), source));
    init::init(&setup(2), init::Past::Unknown).unwrap();
    let mut full = setup(2);
    full.config.limits.disk_watermark_bytes = u64::MAX;
    let error = return_by_snapshot(&full).await.unwrap_err();
    assert!(matches!(error, LostDiskError::NoRoom { watermark: u64::MAX, .. }), "{error}");
    assert!(!network.path("data2").join("snapshot.unfinished").exists(), "nothing is left behind");
    assert_eq!(return_by_snapshot(&setup(2)).await.unwrap(), Returned::At(manifest.block()));
    door.close(zeni_transport::CloseCode::Shutdown).await;
    assert!(lying.await.unwrap() > 0, "the liar was asked");
    let verified = verify_data(&network.path("data2"), &network.path("genesis.toml")).unwrap();
    assert_eq!((verified.verified_from, verified.height), (manifest.block().height, manifest.block().height));
    assert_eq!(verified.block, manifest.block().id.to_string());
    for node in nodes {
        node.stop().await.unwrap();
    }
}

fn alone(network: &Network, patience_s: u64) -> Setup {
    let path = network.config(0, &format!("[snapshot]\npatience_s = {patience_s}\n"));
    Setup::of(Config::load(&path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_nobody_to_ask_starts_from_genesis_and_leaves_nothing_half_done() {
    let network = Network::new(2, 2, 300);
    let setup = alone(&network, 1);
    init::init(&setup, init::Past::Unknown).unwrap();
    // An earlier process was stopped in the middle of it.
    let data = network.path("data0");
    std::fs::write(data.join("snapshot.unfinished"), b"").unwrap();
    std::fs::write(data.join("chain-00000001.log"), b"half a segment").unwrap();
    assert!(Node::start(alone(&network, 1)).is_err(), "half of a snapshot is believed");
    assert_eq!(return_by_snapshot(&setup).await.unwrap(), Returned::NothingFound);
    assert!(!data.join("snapshot.unfinished").exists() && !data.join("chain-00000001.log").exists());
    let started = network.start(0);
    let client = network.client(0).await;
    assert_eq!((client.node().await.mode, client.node().await.height), (Mode::FollowOnly, 0));
    started.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_on_a_first_start_with_a_log_or_if_the_config_says_so() {
    let network = Network::new(2, 2, 300);
    let setup = alone(&network, 0);
    assert_eq!(return_by_snapshot(&setup).await.unwrap(), Returned::NotAsked, "there is no directory");
    init::init(&setup, init::Past::Unknown).unwrap();
    assert_eq!(return_by_snapshot(&setup).await.unwrap(), Returned::NotAsked, "its patience is none");
    std::fs::write(network.path("data0").join("chain-00000001.log"), b"").unwrap();
    assert_eq!(return_by_snapshot(&alone(&network, 3_600)).await.unwrap(), Returned::NotAsked, "it has a log");
    std::fs::remove_dir_all(network.path("data0")).unwrap();
    init::init(&setup, init::Past::None).unwrap();
    assert_eq!(return_by_snapshot(&alone(&network, 3_600)).await.unwrap(), Returned::NotAsked, "it is its first start");
}
