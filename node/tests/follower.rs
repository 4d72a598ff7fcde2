//! A follower hears what a node stores and decides, and is served the batches that it asks for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kit;

use std::sync::Arc;
use std::time::Duration;

use kit::{Client, Network, account, all_accepted};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeni_consensus::Message;
use zeni_ledger::{Batch, BatchDigest};
use zeni_node::{Node, Setup, init};
use zeni_schemas::Role;
use zeni_schemas::message::{decode, encode};
use zeni_schemas::request::{Reply, Request, RequestError};
use zeni_transport::{Class, TransportConfig};

/// Everything that a follower hears, from all streams.
fn hear(follower: &Client) -> mpsc::Receiver<Message<Batch>> {
    let (sender, heard) = mpsc::channel(1_024);
    let connection = follower.connection.clone();
    tokio::spawn(async move {
        while let Ok(mut frames) = connection.accept_frames().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Ok(Some(frame)) = frames.recv().await {
                    if sender.send(decode(&frame).unwrap()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    heard
}

async fn wait_for<T>(heard: &mut mpsc::Receiver<Message<Batch>>, pick: impl Fn(Message<Batch>) -> Option<T>) -> T {
    let picked = async {
        loop {
            if let Some(found) = pick(heard.recv().await.expect("the connection stands")) {
                return found;
            }
        }
    };
    timeout(Duration::from_secs(20), picked).await.expect("the follower hears of it")
}

#[tokio::test(flavor = "multi_thread")]
async fn hears_the_batch_then_the_block_that_lists_it_and_fetches_by_digest() {
    let network = Network::new(1, 2, 200);
    let node = network.start_new(0);
    let client = network.client(0).await;
    let follower = network.dial(0, &network.follower, Role::Follower, TransportConfig::default()).await.unwrap();
    let mut heard = hear(&follower);
    wait_for(&mut heard, |message| matches!(message, Message::Status(_)).then_some(())).await;
    let payment = network.pay(0, 1, 0, 5);
    assert!(all_accepted(&client.submit_when_ready(vec![payment]).await));
    let genesis = network.genesis.id();
    let digest = wait_for(&mut heard, |message| match message {
        Message::Batch(batch) if batch.payments == [payment] => Some(batch.digest(&genesis)),
        _ => None,
    })
    .await;
    let mut frames = follower.connection.open_frames(Class::Control).await.unwrap();
    let stranger = BatchDigest([9; 32]);
    let fetch: Message<Batch> = Message::FetchBatches(vec![stranger, digest]);
    frames.send(encode(&fetch)).await.unwrap();
    let mut awaited = vec!["served", "missing", "listed"];
    while !awaited.is_empty() {
        let found = wait_for(&mut heard, |message| match message {
            Message::Batch(batch) => (batch.digest(&genesis) == digest).then_some("served"),
            Message::Missing(digests) => (digests == [stranger]).then_some("missing"),
            Message::Block(block) => block.digests.contains(&digest).then_some("listed"),
            _ => None,
        })
        .await;
        awaited.retain(|other| *other != found);
    }
    client.wait_for_balance(account(&network.accounts[1]), i128::from(kit::OPENING_BALANCE) + 5).await;
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_says_when_to_come_back_and_takes_the_payments_then() {
    let network = Network::new(1, 16, 200);
    let mut setup: Setup = network.setup(0);
    setup.config.limits.ingress_payments = 1_024;
    init::init(&setup, init::Past::None).unwrap();
    let node = Node::start(setup).unwrap();
    let client = network.client(0).await;
    assert!(all_accepted(&client.submit_when_ready(vec![network.pay(0, 1, 120, 1)]).await));
    let submission = |round: usize| {
        let payments = (0..256).map(|n| network.pay(n % 16, (n + 1) % 16, (round * 16 + n / 16) as u64, 1));
        Request::Submit(payments.collect())
    };
    let requests: Vec<Request> = (0..7).map(submission).collect();
    let client = Arc::new(client);
    let mut asking = JoinSet::new();
    for request in requests.clone() {
        let client = Arc::clone(&client);
        asking.spawn(async move { client.ask(&request).await });
    }
    let answers = asking.join_all().await;
    let refused = answers.iter().filter(|answer| {
        matches!(answer, Reply::Refused(RequestError::Overloaded { retry_after_ms }) if (1..=5_000).contains(retry_after_ms))
    });
    assert!(refused.count() > 0, "1,792 payments at once did not fill a queue of 1,024");
    for request in &requests {
        while matches!(client.ask(request).await, Reply::Refused(_)) {
            tokio::task::yield_now().await;
        }
    }
    node.stop().await.unwrap();
}
