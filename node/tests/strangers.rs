//! Peers that should not be there, or do not behave: each is turned away by its code and costs nobody else anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kit;

use std::time::Duration;

use ed25519_dalek::SigningKey;
use kit::{Network, all_accepted, wait_until};
use zeni_consensus::Message;
use zeni_ledger::{Batch, BatchDigest, Genesis, SignatureBytes, ValidatorIndex};
use zeni_schemas::message::encode;
use zeni_schemas::{Hello, Role};
use zeni_transport::{Class, CloseCode, ConnectError, Endpoint, TransportConfig};

/// Sends one control frame as a follower and returns what the node closes the connection with.
async fn closed_after(network: &Network, frame: Vec<u8>) -> Option<CloseCode> {
    let config = TransportConfig { control_frame_bytes_max: 8 << 20, ..TransportConfig::default() };
    let follower = network.dial(0, &network.follower, Role::Follower, config).await.unwrap();
    let mut frames = follower.connection.open_frames(Class::Control).await.unwrap();
    // The node may close before all of it is sent.
    let _ = frames.send(frame).await;
    follower.connection.closed().await.close_code()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_another_ledger_and_a_too_high_role_are_turned_away() {
    let network = Network::new(1, 2, 200);
    let node = network.start_new(0);
    let stranger = SigningKey::from_bytes(&[9; 32]);
    let refused = network.dial(0, &stranger, Role::Client, TransportConfig::default()).await.err().unwrap();
    assert_eq!(refused.close_code(), Some(CloseCode::UnknownPeer));
    let refused = network.dial(0, &network.client, Role::Validator, TransportConfig::default()).await.err().unwrap();
    assert_eq!(refused.close_code(), Some(CloseCode::RoleRefused));
    let other = Genesis { block_interval_ms: 300, ..network.genesis.clone() };
    let own = Hello::new(other.id(), Role::Client);
    let any = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::dialler(any, &network.client, own, TransportConfig::default()).unwrap();
    let refused = endpoint.connect(network.address(0), kit::public(&network.validators[0])).await.unwrap_err();
    let wrong = refused.close_code() == Some(CloseCode::WrongGenesis) || matches!(refused, ConnectError::Greeting(_));
    assert!(wrong, "{refused}");
    let client = network.client(0).await;
    assert!(all_accepted(&client.submit_when_ready(vec![network.pay(0, 1, 0, 1)]).await));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_misbehaves_loses_its_connection_and_nobody_else_theirs() {
    let network = Network::new(1, 2, 200);
    let node = network.start_new(0);
    let client = network.client(0).await;
    assert_eq!(closed_after(&network, vec![0; 4 << 20]).await, Some(CloseCode::OversizedFrame));
    assert_eq!(closed_after(&network, b"no message".to_vec()).await, Some(CloseCode::Malformed));
    let stored: Message = Message::Stored(vec![BatchDigest([1; 32])]);
    assert_eq!(closed_after(&network, encode(&stored)).await, Some(CloseCode::Misbehaviour));
    assert!(all_accepted(&client.submit_when_ready(vec![network.pay(0, 1, 0, 1)]).await));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_too_long_closes_its_connection_only() {
    let network = Network::new(1, 2, 200);
    let node = network.start_new(0);
    let config = TransportConfig { request_bytes_max: 8 << 20, ..TransportConfig::default() };
    let greedy = network.dial(0, &network.client, Role::Client, config).await.unwrap();
    let client = network.client(0).await;
    greedy.connection.request(vec![0; 4 << 20]).await.unwrap_err();
    assert_eq!(greedy.connection.closed().await.close_code(), Some(CloseCode::OversizedFrame));
    assert!(all_accepted(&client.submit_when_ready(vec![network.pay(0, 1, 0, 1)]).await));
    node.stop().await.unwrap();
}

/// Validator 1 is no node here but the test, which has its key.
#[tokio::test(flavor = "multi_thread")]
async fn a_validators_batch_is_taken_only_if_every_signature_in_it_holds() {
    let network = Network::new(2, 2, 200);
    let node = network.start_new(0);
    let genesis = network.genesis.id();
    let peer = network.dial(0, &network.validators[1], Role::Validator, TransportConfig::default()).await.unwrap();
    let mut frames = peer.connection.open_frames(Class::Bulk).await.unwrap();
    let (me, author) = (&network.validators[1], ValidatorIndex(1));
    let good = Batch::sign(author, 1, vec![network.pay(0, 1, 0, 1)], me, &genesis);
    let unsigned = network.body(0, 1, 1, 1).with_signature(SignatureBytes([3; 64]));
    let bad_payment = Batch::sign(author, 2, vec![unsigned], me, &genesis);
    let forged = Batch::sign(ValidatorIndex(0), 3, vec![network.pay(0, 1, 2, 1)], me, &genesis);
    for batch in [&bad_payment, &forged, &good] {
        frames.send(encode(&Message::Batch(batch.clone()))).await.unwrap();
    }
    let client = network.client(0).await;
    let ids: Vec<_> = [&good, &bad_payment, &forged].iter().map(|batch| batch.payments[0].id(&genesis)).collect();
    wait_until("the good batch is executed", async || {
        client.balance(kit::account(&network.accounts[1])).await == i128::from(kit::OPENING_BALANCE) + 1
    })
    .await;
    let pending = client.ask(&zeni_schemas::request::Request::Pending(ids)).await;
    assert_eq!(pending, zeni_schemas::request::Reply::Pending(vec![0, 0, 0]));
    assert!(tokio::time::timeout(Duration::ZERO, peer.connection.closed()).await.is_err(), "it is still connected");
    node.stop().await.unwrap();
}
