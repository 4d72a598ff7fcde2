//! Finality receipts as the server gives them: over HTTP, at every stage of a payment, and after a restart.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use support::chain_node;
use support::fake_node::{FakeNode, nowhere};
use support::harness::{Answer, Harness};
use support::ledger::{Branch, TOKEN, World, account};
use tokio::sync::watch;
use tokio::time::timeout;
use zeni_api_server::config::{Checkpoint, Config, Limits, Log, MetricsAddress, NodeEntry};
use zeni_api_server::final_state::REWIND_PAYMENTS_MAX;
use zeni_api_server::run::{Running, check};
use zeni_client::api::ApiClient;
use zeni_client::wallet::Key;
use zeni_ledger::finality_receipt::{Fact, Proven};
use zeni_ledger::{AccountId, Balance, FinalityReceipt, Outcome, Payment, Rejection, TransactionId};

/// No test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Payments of 1 from account 0 to 1, one of more than it has, and none in every fourth block.
fn grow(world: &Arc<World>, branch: &mut Branch, blocks: u64) -> Vec<(u64, TransactionId, Outcome)> {
    let mut paid = Vec::new();
    let mut sequence = branch.blocks.iter().map(|applied| applied.executed.receipts.len() as u64).sum();
    for _ in 0..blocks {
        let height = branch.height() + 1;
        let amounts: &[u64] = if height.is_multiple_of(4) { &[] } else { &[1, 5_000, 1] };
        let mut payments = Vec::new();
        for amount in amounts {
            payments.push(world.pay(0, 1, sequence, *amount));
            sequence += 1;
            let rejected = Outcome::Rejected(Rejection::InsufficientBalance);
            let outcome = if *amount == 1 { Outcome::Applied } else { rejected };
            paid.push((height, world.id_of(payments.last().unwrap()), outcome));
        }
        // Used already: it leaves no receipt, and the receipts of others move up.
        payments.insert(0, world.pay(7, 1, 0, 1));
        branch.extend(payments);
    }
    paid
}

fn verified(world: &World, answer: &Answer) -> Proven {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(answer.headers["content-type"], "application/octet-stream");
    FinalityReceipt::check(&answer.bytes, &world.genesis, &world.id).unwrap()
}

/// What account `number` held at which height.
fn held(proven: &Proven, number: u8) -> (u64, Option<i128>) {
    let Fact::Account { id, account: held } = &proven.fact else { panic!("{proven:?}") };
    assert_eq!(*id, account(number));
    (proven.header.height, held.as_ref().map(|held| held.balance(TOKEN).units()))
}

#[tokio::test]
async fn payments_are_proved_up_to_the_last_final_block_with_the_nearest_certificate() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let mut branch = Branch::new(&world);
    let paid = grow(&world, &mut branch, 11);
    harness.become_canonical(&branch);
    let ask = |id: TransactionId| format!("/v1/payments/{id}/proof");
    let early = harness.get(&ask(paid[0].1)).await;
    assert_eq!(early.problem(), (409, "not_final_yet".into()));
    assert_eq!((early.headers["retry-after"].to_str().unwrap(), &early.json()["height"]), ("1", &1.into()));
    for (decision, height) in [(1, 2), (2, 3), (4, 9)] {
        harness.decide(&branch.certificate(decision, height));
    }
    for (height, id, outcome) in &paid {
        let answer = harness.get(&ask(*id)).await;
        if *height > 9 {
            assert_eq!(answer.problem(), (409, "not_final_yet".into()));
            continue;
        }
        let proven = verified(&world, &answer);
        let Fact::Payment { id: found, payment, outcome: how } = proven.fact else { panic!("{proven:?}") };
        assert_eq!((found, how, proven.header.height), (*id, *outcome, *height));
        assert_eq!((payment.from(), payment.to()), (account(0), account(1)));
        let nearest = [2, 3, 9].into_iter().find(|certified| certified >= height).unwrap();
        assert_eq!(proven.certified.height, nearest);
        let name = answer.headers["content-disposition"].to_str().unwrap();
        assert_eq!(name, format!("attachment; filename=\"zeni-payment-{id}.proof\""));
    }
    assert_eq!(harness.get("/v1/payments/xyz/proof").await.problem(), (400, "malformed".into()));
}

#[tokio::test]
async fn a_payment_among_thousands_is_proved_from_the_batches_around_it() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let mut branch = Branch::new(&world);
    let mut number = 0;
    let mut batch = |size: u64| -> Vec<Payment> {
        let payments = (number..number + size).map(|place| world.pay((place % 8) as u8, 9, place / 8, 1)).collect();
        number += size;
        payments
    };
    let batches = vec![batch(600), batch(1), batch(700), batch(900)];
    let ids: Vec<TransactionId> = batches.iter().flatten().map(|payment| world.id_of(payment)).collect();
    branch.extend_by(batches);
    harness.become_canonical(&branch);
    harness.decide(&branch.certificate(1, 1));
    for place in [0, 599, 600, 601, 1_023, 1_024, 1_300, 1_301, 2_047, 2_048, 2_200] {
        let proven = verified(&world, &harness.get(&format!("/v1/payments/{}/proof", ids[place])).await);
        assert!(matches!(proven.fact, Fact::Payment { id, .. } if id == ids[place]), "payment {place}");
    }
    let page = harness.get("/v1/blocks/1/payments?from=1000").await.json();
    assert_eq!(page["payments"].as_array().unwrap().len(), 1_000);
    assert_eq!(page["payments"][301]["id"], ids[1_301].to_string());
}

#[tokio::test]
async fn a_payment_that_nobody_knows_has_no_proof() {
    let world = Arc::new(World::new());
    let node = FakeNode::start(1, world.id, |request| match request {
        zeni_schemas::request::Request::Pending(ids) => {
            let reply = zeni_schemas::request::Reply::Pending(vec![0; ids.len()]);
            support::fake_node::Answer::Reply(reply)
        }
        _ => support::fake_node::Answer::Nothing,
    });
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let answer = harness.get(&format!("/v1/payments/{}/proof", TransactionId([3; 32]))).await;
    assert_eq!(answer.problem(), (404, "unknown_payment".into()));
}

#[tokio::test]
async fn accounts_are_proved_at_the_last_final_block_wherever_the_head_is() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let mut branch = Branch::new(&world);
    grow(&world, &mut branch, 3);
    harness.become_canonical(&branch);
    let (one, nobody) = (account(1), AccountId([9; 32]));
    let ask = |id: AccountId| format!("/v1/accounts/{id}/proof");
    let early = harness.get(&ask(one)).await;
    assert_eq!(early.problem(), (409, "no_final_block".into()));
    assert!(early.headers.contains_key("retry-after"));
    harness.decide(&branch.certificate(1, 3));
    // Account 7 paid 1 in the first block.
    assert_eq!(held(&verified(&world, &harness.get(&ask(one)).await), 1), (3, Some(207)));
    for _ in 0..3 {
        grow(&world, &mut branch, 2);
        harness.become_canonical(&branch);
        assert_eq!(held(&verified(&world, &harness.get(&ask(one)).await), 1), (3, Some(207)));
        assert_eq!(held(&verified(&world, &harness.get(&ask(account(0))).await), 0), (3, Some(94)));
        let absent = verified(&world, &harness.get(&ask(nobody)).await);
        assert_eq!((absent.header.height, absent.fact), (3, Fact::Account { id: nobody, account: None }));
    }
    harness.decide(&branch.certificate(2, 8));
    let proven = verified(&world, &harness.get(&ask(one)).await);
    assert_eq!((proven.header.height, proven.decision), (8, 2));
    let Fact::Account { account: Some(held), .. } = proven.fact else { panic!() };
    assert_eq!(held.balance(TOKEN), Balance::new(200 + 1 + 2 * 6));
}

#[tokio::test]
async fn too_much_above_the_last_final_block_waits_for_finality_and_then_says_so() {
    let world = Arc::new(World::new());
    let limits = Limits { request_timeout_ms: 2_000, node_timeout_ms: 500, ..Limits::default() };
    let harness = Harness::with_limits(&world, vec![nowhere(1)], limits);
    let mut branch = Branch::new(&world);
    branch.extend(vec![]);
    harness.become_canonical(&branch);
    harness.decide(&branch.certificate(1, 1));
    let mut payments = 0;
    while payments <= REWIND_PAYMENTS_MAX {
        let number = |place: u64| world.pay(2 + (place % 4) as u8, 1, (payments + place) / 4, 1);
        branch.extend((0..500).map(number).collect());
        payments += branch.blocks.last().unwrap().block.header.receipts as u64;
    }
    harness.become_canonical(&branch);
    let path = format!("/v1/accounts/{}/proof", account(1));
    let answer = harness.get(&path).await;
    assert_eq!(answer.problem(), (503, "state_apart".into()));
    assert_eq!((&answer.json()["final_height"], &answer.json()["height"]), (&1.into(), &branch.height().into()));
    let waiting = harness.get(&path);
    let deciding = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        harness.decide(&branch.certificate(2, branch.height()));
    };
    let (answer, ()) = tokio::join!(waiting, deciding);
    assert_eq!(held(&verified(&world, &answer), 1).0, branch.height());
}

#[tokio::test]
async fn the_payments_of_a_block_come_in_pages() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let mut branch = Branch::new(&world);
    let paid = grow(&world, &mut branch, 2);
    harness.become_canonical(&branch);
    let expected: Vec<String> =
        paid.iter().filter(|(height, ..)| *height == 2).map(|(_, id, _)| id.to_string()).collect();
    let first = harness.get("/v1/blocks/2/payments?limit=2").await.json();
    assert_eq!((&first["receipts"], &first["final"]), (&3.into(), &false.into()));
    let ids = |page: &serde_json::Value| -> Vec<String> {
        page["payments"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&first), expected[..2]);
    assert_eq!(first["payments"][1]["reason"], "insufficient_balance");
    let second = harness.get(first["next"].as_str().unwrap()).await.json();
    assert_eq!((ids(&second), second["next"].is_null()), (expected[2..].to_vec(), true));
    assert_eq!(harness.get("/v1/blocks/3/payments").await.problem(), (404, "unknown_block".into()));
    assert_eq!(harness.get("/v1/blocks/2/payments?limit=0").await.problem(), (400, "malformed".into()));
    assert_eq!(harness.get("/v1/blocks/+2/payments").await.problem(), (400, "malformed".into()));
}

fn config(dir: &std::path::Path, world: &World, node: &FakeNode, checkpoint: Checkpoint) -> Config {
    let genesis = dir.join("genesis.toml");
    std::fs::write(&genesis, world.genesis.to_toml()).unwrap();
    std::fs::write(dir.join(&world.genesis.accounts_file), &world.accounts).unwrap();
    let key = dir.join("api.key");
    if !key.exists() {
        Key::generate().save(&key).unwrap();
    }
    Config {
        genesis,
        data: dir.join("data"),
        key,
        listen: "127.0.0.1:0".parse().unwrap(),
        metrics: MetricsAddress(None),
        nodes: vec![NodeEntry { key: node.at.key.to_string(), address: node.at.address.clone() }],
        checkpoint,
        limits: Limits::default(),
        log: Log::default(),
    }
}

/// A running server that has heard of the branch and of what is final.
async fn start(config: Config, branch: &Branch, final_height: u64) -> (Running, ApiClient) {
    let running =
        Running::start(check(config).unwrap(), PrometheusBuilder::new().build_recorder().handle()).await.unwrap();
    let mut head = running.api.chronicle.watch();
    timeout(PATIENCE, head.wait_for(|head| head.id == branch.tip)).await.unwrap().unwrap();
    let mut last_final = running.api.chronicle.watch_final();
    timeout(PATIENCE, last_final.wait_for(|last| last.height == final_height)).await.unwrap().unwrap();
    let mut replayed = running.api.progress.watch_replay();
    timeout(PATIENCE, replayed.wait_for(|replayed| *replayed)).await.unwrap().unwrap();
    let client = ApiClient::new(&format!("http://{}", running.address), PATIENCE).unwrap();
    (running, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_proves_what_it_followed_and_still_does_after_restarts() {
    let (world, dir) = (Arc::new(World::new()), tempfile::tempdir().unwrap());
    let mut branch = Branch::new(&world);
    let paid = grow(&world, &mut branch, 5);
    branch.certified = Some(branch.certificate(3, 4));
    let (chain, seen) = watch::channel(branch.clone());
    let node = chain_node::start(&world, 1, seen);
    let lazy = config(dir.path(), &world, &node, Checkpoint::default());
    let (running, client) = start(lazy, &branch, 4).await;
    running.stop().await.unwrap();
    let eager = || config(dir.path(), &world, &node, Checkpoint { interval_s: 0, depth: 1 });
    drop(client);
    let mut all = paid;
    all.extend(grow(&world, &mut branch, 5));
    branch.certified = Some(branch.certificate(5, 9));
    chain.send_replace(branch.clone());
    for _ in 0..3 {
        let (running, client) = start(eager(), &branch, 9).await;
        for (height, id, outcome) in &all {
            if *height > 9 {
                assert_eq!(client.payment_proof(id).await.unwrap_err().code(), Some("not_final_yet"));
                continue;
            }
            let bytes = client.payment_proof(id).await.unwrap();
            let proven = FinalityReceipt::check(&bytes, &world.genesis, &world.id).unwrap();
            assert!(
                matches!(proven.fact, Fact::Payment { id: found, outcome: how, .. } if (found, how) == (*id, *outcome))
            );
            assert_eq!(proven.decision, if *height <= 4 { 3 } else { 5 });
        }
        let bytes = client.account_proof(&account(1)).await.unwrap();
        let proven = FinalityReceipt::check(&bytes, &world.genesis, &world.id).unwrap();
        assert_eq!(held(&proven, 1), (9, Some(200 + 1 + 2 * 7)));
        let page = client.block_payments(5, 1).await.unwrap();
        assert_eq!((page.receipts, page.payments.len(), page.is_final), (3, 2, true));
        running.stop().await.unwrap();
    }
    // Lost, and built again from the log.
    std::fs::remove_file(dir.path().join("data/proofs.log")).unwrap();
    let (running, client) = start(eager(), &branch, 9).await;
    assert!(client.payment_proof(&all[0].1).await.is_ok());
    running.stop().await.unwrap();
}
