//! Following scripted nodes on the real transport.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/fake_node.rs"]
mod fake_node;

use std::time::Duration;

use fake_node::{Answer, FakeNode, dialler, hand_over, nowhere};
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeni_client::NodeAddress;
use zeni_client::follow::{FollowEvent, FollowHandle, follow};
use zeni_consensus::Message;
use zeni_ledger::{BatchDigest, BlockId, GenesisId};
use zeni_schemas::Role;
use zeni_schemas::message::{decode, encode};
use zeni_transport::{Class, CloseCode, Connection, FrameSender, TransportConfig};

const GENESIS: GenesisId = GenesisId([7; 32]);
/// No test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Heard {
    node: FakeNode,
    connections: mpsc::UnboundedReceiver<Connection>,
}

fn node(seed: u8) -> Heard {
    let (sender, connections) = mpsc::unbounded_channel();
    let node = FakeNode::start_with(seed, GENESIS, |_| Answer::Nothing, hand_over(sender));
    Heard { node, connections }
}

impl Heard {
    async fn connection(&mut self) -> Connection {
        timeout(PATIENCE, self.connections.recv()).await.unwrap().unwrap()
    }

    async fn stream(&mut self) -> (Connection, FrameSender) {
        let connection = self.connection().await;
        let stream = connection.open_frames(Class::Control).await.unwrap();
        (connection, stream)
    }
}

fn start(nodes: Vec<NodeAddress>) -> (FollowHandle, mpsc::Receiver<FollowEvent>) {
    let transport = TransportConfig { handshake_deadline: Duration::from_millis(300), ..TransportConfig::default() };
    follow(dialler(GENESIS, Role::Follower, transport), nodes)
}

async fn next(events: &mut mpsc::Receiver<FollowEvent>) -> FollowEvent {
    timeout(PATIENCE, events.recv()).await.unwrap().unwrap()
}

async fn connected(events: &mut mpsc::Receiver<FollowEvent>) -> usize {
    match next(events).await {
        FollowEvent::Connected { node, .. } => node,
        other => panic!("{other:?}"),
    }
}

async fn disconnected(events: &mut mpsc::Receiver<FollowEvent>) -> usize {
    match next(events).await {
        FollowEvent::Disconnected { node, .. } => node,
        other => panic!("{other:?}"),
    }
}

fn stored(byte: u8) -> Message {
    Message::Stored(vec![BatchDigest([byte; 32])])
}

#[tokio::test]
async fn messages_of_every_stream_arrive() {
    let mut one = node(1);
    let (_handle, mut events) = start(vec![one.node.at.clone()]);
    assert_eq!(connected(&mut events).await, 0);
    let (connection, mut control) = one.stream().await;
    let mut bulk = connection.open_frames(Class::Bulk).await.unwrap();
    control.send(encode(&stored(1))).await.unwrap();
    bulk.send(encode(&stored(2))).await.unwrap();
    let mut bytes = Vec::new();
    for _ in 0..2 {
        match next(&mut events).await {
            FollowEvent::Message { node: 0, message: Message::Stored(digests) } => bytes.push(digests[0].0[0]),
            other => panic!("{other:?}"),
        }
    }
    bytes.sort_unstable();
    assert_eq!(bytes, [1, 2]);
}

#[tokio::test]
async fn another_node_is_followed_when_one_is_lost_and_dead_ones_are_passed_over() {
    let (mut one, mut two) = (node(1), node(3));
    let (_handle, mut events) = start(vec![one.node.at.clone(), nowhere(2), two.node.at.clone()]);
    assert_eq!(connected(&mut events).await, 0);
    one.connection().await.close(CloseCode::Shutdown);
    assert_eq!(disconnected(&mut events).await, 0);
    assert_eq!(connected(&mut events).await, 2);
    two.connection().await.close(CloseCode::Shutdown);
    assert_eq!(disconnected(&mut events).await, 2);
    assert_eq!(connected(&mut events).await, 0);
}

#[tokio::test]
async fn what_is_said_reaches_the_followed_node_and_no_later_one() {
    let (mut one, mut two) = (node(1), node(2));
    let (handle, mut events) = start(vec![one.node.at.clone(), two.node.at.clone()]);
    assert_eq!(connected(&mut events).await, 0);
    let question = Message::FetchBlocks { locator: vec![BlockId([5; 32])] };
    handle.send(0, question.clone()).unwrap();
    let connection = one.connection().await;
    let mut stream = connection.accept_frames().await.unwrap();
    let heard = decode(&stream.recv().await.unwrap().unwrap()).unwrap();
    assert_eq!(heard, Message::FetchBlocks { locator: vec![BlockId([5; 32])] });

    connection.close(CloseCode::Shutdown);
    assert_eq!(disconnected(&mut events).await, 0);
    handle.send(0, question).unwrap();
    handle.send(1, Message::FetchBatches(vec![BatchDigest([6; 32])])).unwrap();
    assert_eq!(connected(&mut events).await, 1);
    let mut stream = two.connection().await.accept_frames().await.unwrap();
    let heard = decode(&stream.recv().await.unwrap().unwrap()).unwrap();
    assert_eq!(heard, Message::FetchBatches(vec![BatchDigest([6; 32])]));
}

#[tokio::test]
async fn a_preferred_node_is_followed_instead() {
    let (one, two, three) = (node(1), node(2), node(3));
    let (handle, mut events) = start(vec![one.node.at.clone(), two.node.at.clone(), three.node.at.clone()]);
    assert_eq!(connected(&mut events).await, 0);
    handle.prefer(2);
    assert_eq!(disconnected(&mut events).await, 0);
    assert_eq!(connected(&mut events).await, 2);
}

#[tokio::test]
async fn a_node_that_sends_garbage_is_left() {
    let (mut one, two) = (node(1), node(2));
    let (_handle, mut events) = start(vec![one.node.at.clone(), two.node.at.clone()]);
    assert_eq!(connected(&mut events).await, 0);
    let (connection, mut stream) = one.stream().await;
    stream.send(&b"garbage"[..]).await.unwrap();
    assert_eq!(disconnected(&mut events).await, 0);
    assert_eq!(connected(&mut events).await, 1);
    assert_eq!(timeout(PATIENCE, connection.closed()).await.unwrap().close_code(), Some(CloseCode::Malformed));
}

#[tokio::test]
async fn the_task_ends_with_its_reader() {
    let mut one = node(1);
    let (_handle, mut events) = start(vec![one.node.at.clone()]);
    assert_eq!(connected(&mut events).await, 0);
    drop(events);
    let closed = timeout(PATIENCE, one.connection().await.closed()).await.unwrap();
    assert_eq!(closed.close_code(), Some(CloseCode::Done));
}
