//! The real binary: commands, exit codes, signals, metrics.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kit;

use std::net::TcpListener;
use std::path::Path;

use kit::process::{Process, node, scrape, text};
use kit::{Network, OPENING_BALANCE, account, all_accepted, dial_when_up, remove_file, wait_until};
use zeni_ledger::AccountId;
use zeni_storage::{Overlay, SledOverlay};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_seals_the_log_and_verify_confirms_it() {
    let network = Network::new(1, 2, 200);
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = network.config(0, &format!("metrics = \"{metrics}\""));
    let refused = node(&["run", "--config", text(&config)]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("node init"));
    assert!(node(&["init", "--first-start", "--config", text(&config)]).status.success());
    let process = Process::start(&config);
    let client = dial_when_up(&network, 0).await;
    assert!(all_accepted(&client.submit_when_ready((0..9).map(|n| network.pay(0, 1, n, 1)).collect()).await));
    assert!(!all_accepted(&client.submit(vec![network.pay(0, 1, 0, 1), network.pay(0, 0, 20, 1)]).await));
    client.wait_for_balance(account(&network.accounts[1]), i128::from(OPENING_BALANCE) + 9).await;
    wait_until("the metrics tell of it", async || {
        let page = scrape(metrics);
        page.contains("zeni_payments_accepted_total 9")
            && page.contains("zeni_payments_included_total 9")
            && page.contains("zeni_payments_refused_total{reason=\"to_self\"} 1")
            && page.contains("zeni_mode{mode=\"active\"} 1")
    })
    .await;
    process.signal("-TERM");
    let (status, log) = process.wait().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("sealed"), "{log}");
    let (data, genesis) = (network.path("data0"), network.path("genesis.toml"));
    let verified = node(&["verify", "--data", text(&data), "--genesis", text(&genesis)]);
    let json: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert!(verified.status.success(), "{json}");
    assert_eq!((&json["transactions"]["applied"], &json["sums"]["1"]), (&9.into(), &"0".into()), "{json}");
    let receiver = account(&network.accounts[1]).to_string();
    let looks = ["--segments", "--block", "1", "--account", &receiver];
    let told = node(&[&["inspect", "--data", text(&data), "--genesis", text(&genesis)][..], &looks].concat());
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&told["height"], &told["head"]), (&json["height"], &json["block"]));
    assert_eq!(told["account"]["balances"][0]["balance"], (OPENING_BALANCE + 9).to_string(), "{told}");
    assert_eq!((&told["blocks_found"][0]["canonical"], &told["segments"][0]["sealed"]), (&true.into(), &true.into()));
}

#[test]
fn init_says_that_the_validator_only_follows_unless_this_is_its_first_start() {
    let network = Network::new(2, 2, 200);
    let told = |number: usize, flags: &[&str]| {
        let config = network.config(number, "");
        let made = node(&[&["init", "--config", text(&config)], flags].concat());
        assert!(made.status.success());
        String::from_utf8(made.stdout).unwrap()
    };
    assert!(told(0, &[]).contains("node readmit --config"));
    assert!(!told(1, &["--first-start"]).contains("readmit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_a_flipped_byte_and_exits_1() {
    let network = Network::new(1, 2, 200);
    let running = network.start_new(0);
    let client = network.client(0).await;
    assert!(all_accepted(&client.submit_when_ready(vec![network.pay(0, 1, 0, 1)]).await));
    running.stop().await.unwrap();
    let (data, genesis) = (network.path("data0"), network.path("genesis.toml"));
    let segment = std::fs::read_dir(&data).unwrap().flatten().map(|entry| entry.path()).find(|path| {
        path.file_name().unwrap().to_string_lossy().ends_with("log") && std::fs::metadata(path).unwrap().len() > 300
    });
    let segment = segment.expect("a log segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&segment, bytes).unwrap();
    let verified = node(&["verify", "--data", text(&data), "--genesis", text(&genesis)]);
    assert_eq!(verified.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    let file = segment.file_name().unwrap().to_str().unwrap();
    assert_eq!(json["damaged"]["file"], file, "{json}");
    assert!(json["damaged"]["what"].is_string() && json["damaged"]["offset"].is_u64(), "{json}");
}

#[test]
fn a_config_is_checked_without_touching_anything() {
    let network = Network::new(1, 2, 200);
    let config = network.config(0, "");
    assert!(node(&["run", "--check-config", "--config", text(&config)]).status.success());
    assert!(!network.path("data0").exists());
    let wrong = network.config(0, "lisen = 3");
    let refused = node(&["run", "--check-config", "--config", text(&wrong)]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lisen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_has_everything_that_it_accepted() {
    let network = Network::new(1, 2, 400);
    let config = network.config(0, "");
    assert!(node(&["init", "--first-start", "--config", text(&config)]).status.success());
    let process = Process::start(&config);
    let client = dial_when_up(&network, 0).await;
    let mut accepted = 0;
    for first in (0..100).step_by(10) {
        let payments = (first..first + 10).map(|sequence| network.pay(0, 1, sequence, 1)).collect();
        assert!(all_accepted(&client.submit_when_ready(payments).await));
        accepted += 10;
    }
    process.signal("-KILL");
    drop(process);
    let process = Process::start(&config);
    let client = dial_when_up(&network, 0).await;
    client.wait_for_balance(account(&network.accounts[1]), i128::from(OPENING_BALANCE) + accepted).await;
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_cannot_share_a_data_directory() {
    let network = Network::new(1, 2, 200);
    let config = network.config(0, "");
    assert!(node(&["init", "--first-start", "--config", text(&config)]).status.success());
    let first = Process::start(&config);
    let _client = dial_when_up(&network, 0).await;
    let (status, log) = Process::start(&config).wait().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("locked by another process"), "{log}");
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_with_one_key_each_is_told_and_none_goes_on() {
    let network = Network::new(1, 2, 200);
    let config = network.config(0, "");
    let twin = network.path("twin.toml");
    std::fs::write(&twin, network.config_text(0, "data-twin", "127.0.0.1:0", "")).unwrap();
    for config in [&config, &twin] {
        assert!(node(&["init", "--first-start", "--config", text(config)]).status.success());
    }
    let first = Process::start(&config);
    let _client = dial_when_up(&network, 0).await;
    let second = Process::start(&twin);
    for twin in [second, first] {
        let (status, log) = twin.wait().await;
        assert_eq!(status.code(), Some(3), "{log}");
        assert!(log.contains("another node runs with this node's key"), "{log}");
    }
}

/// What the kernel says of a running process: its environment, its arguments.
fn told_of(process: &Process, what: &str) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{}/{what}", process.id())).unwrap();
    bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

#[cfg(target_env = "gnu")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_begins_anew_once_with_an_allocator_that_keeps_memory_unless_the_operator_tuned_it() {
    let network = Network::new(1, 2, 200);
    let config = network.config(0, "");
    assert!(node(&["init", "--first-start", "--config", text(&config)]).status.success());
    let operators = "glibc.malloc.arena_max=4";
    for (operator, expected) in [(None, "glibc.malloc.mmap_threshold=33554432"), (Some(operators), operators)] {
        let process = Process::start_tuned(&config, operator);
        let _client = dial_when_up(&network, 0).await;
        // Of the process that was started: it begins anew under its id and starts no second one.
        // glibc ends each setting in place once it has read it.
        let found = told_of(&process, "environ");
        assert!(found.iter().any(|setting| setting.ends_with(expected)), "{operator:?}: {found:?}");
        let keeps = found.iter().any(|setting| setting.contains("trim_threshold"));
        assert_eq!(keeps, operator.is_none(), "{found:?}");
        assert_eq!(told_of(&process, "cmdline")[1..4], ["run", "--config", text(&config)]);
        process.signal("-TERM");
        let (status, log) = process.wait().await;
        assert_eq!(status.code(), Some(0), "{log}");
    }
}

/// A checkpoint of several leaves whose books are lost but for the last leaf: sled panics when it opens that.
fn lose_sleds_books(checkpoint: &Path) {
    let account = |number: u32| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        (AccountId(id), vec![0])
    };
    let mut overlay = SledOverlay::open(checkpoint).unwrap();
    overlay.put(&(0..3_000).map(account).collect::<Vec<_>>()).unwrap();
    overlay.flush().unwrap();
    drop(overlay);
    // Opening it joined the books so far into one file; this goes into the next one.
    let mut overlay = SledOverlay::open(checkpoint).unwrap();
    overlay.put(&[account(u32::MAX)]).unwrap();
    overlay.flush().unwrap();
    drop(overlay);
    remove_file(&checkpoint.join("metadata"), "snapshot_");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_over_which_sled_panics_is_moved_aside_and_the_node_serves() {
    let network = Network::new(1, 2, 200);
    let config = network.config(0, "");
    assert!(node(&["init", "--first-start", "--config", text(&config)]).status.success());
    let process = Process::start(&config);
    let client = dial_when_up(&network, 0).await;
    assert!(all_accepted(&client.submit_when_ready(vec![network.pay(0, 1, 0, 1)]).await));
    process.signal("-TERM");
    let (status, log) = process.wait().await;
    assert_eq!(status.code(), Some(0), "{log}");
    lose_sleds_books(&network.path("data0/checkpoint"));
    let process = Process::start(&config);
    let client = dial_when_up(&network, 0).await;
    client.wait_for_balance(account(&network.accounts[1]), i128::from(OPENING_BALANCE) + 1).await;
    process.signal("-TERM");
    let (status, log) = process.wait().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("sled panicked when it was opened") && log.contains("moved aside"), "{log}");
    assert!(network.path("data0/checkpoint.discarded").is_dir(), "{log}");
}
