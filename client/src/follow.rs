//! Hears the chain from one node at a time, and from another when that one is lost.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use zeni_consensus::Message;
use zeni_ledger::{Batch, PublicKey};
use zeni_schemas::message::{decode, encode};
use zeni_transport::{Class, CloseCode, Connection, Endpoint, FrameReceiver};

use crate::node::{NodeAddress, NodeError, dial};

/// Events that wait for their reader, at most; beyond that the node is made to wait.
pub const EVENTS_MAX: usize = 256;
/// Messages that wait for the connection, at most; further ones are refused.
pub const OUTGOING_MAX: usize = 256;
/// Streams of frames that one node may have open at once.
const STREAMS_MAX: usize = 8;
/// Pauses between two rounds over all nodes in which none was reached: doubled from the first to the second.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What happens to the connection.
#[derive(Debug)]
pub enum FollowEvent {
    /// A node is followed from now on. `node` is its place in the list.
    Connected { node: usize, key: PublicKey },
    /// The followed node says something. Nobody checked a signature yet.
    Message { node: usize, message: Message<Batch> },
    /// The node is followed no more; none of its messages comes after this.
    Disconnected { node: usize, key: PublicKey },
}

/// Why a message was not taken for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    #[error("{OUTGOING_MAX} messages wait already")]
    Full,
    #[error("the follow task has ended")]
    Ended,
}

/// Sends to the followed node and chooses it.
#[derive(Debug, Clone)]
pub struct FollowHandle {
    outgoing: mpsc::Sender<(usize, Message)>,
    preferred: watch::Sender<Option<usize>>,
}

impl FollowHandle {
    /// Sends to `node` if it is still the followed one when the message's turn comes; otherwise it is dropped, as a
    /// lost connection would.
    pub fn send(&self, node: usize, message: Message) -> Result<(), NotSent> {
        self.outgoing.try_send((node, message)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotSent::Full,
            mpsc::error::TrySendError::Closed(_) => NotSent::Ended,
        })
    }

    /// Leaves the followed node for this one.
    pub fn prefer(&self, node: usize) {
        self.preferred.send_replace(Some(node));
    }
}

/// Begins to follow. The task ends when the receiver is dropped.
///
/// # Panics
/// If `nodes` is empty.
pub fn follow(endpoint: Endpoint, nodes: Vec<NodeAddress>) -> (FollowHandle, mpsc::Receiver<FollowEvent>) {
    assert!(!nodes.is_empty(), "there is at least one node to follow");
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    let (outgoing, messages) = mpsc::channel(OUTGOING_MAX);
    let preferred = watch::Sender::new(None);
    let task = Task { endpoint, nodes: nodes.into(), events, outgoing: messages, preferred: preferred.subscribe() };
    tokio::spawn(task.run());
    (FollowHandle { outgoing, preferred }, receiver)
}

struct Task {
    endpoint: Endpoint,
    nodes: Arc<[NodeAddress]>,
    events: mpsc::Sender<FollowEvent>,
    outgoing: mpsc::Receiver<(usize, Message)>,
    preferred: watch::Receiver<Option<usize>>,
}

impl Task {
    async fn run(mut self) {
        let (mut next, mut failed, mut pause) = (0, 0, PAUSE_MIN);
        while !self.events.is_closed() {
            if let Some(preferred) = self.take_preferred() {
                next = preferred;
            }
            let node = next % self.nodes.len();
            match self.connect(node).await {
                Ok(connection) => {
                    (failed, pause) = (0, PAUSE_MIN);
                    self.stay(node, &connection).await;
                    connection.close(CloseCode::Done);
                }
                Err(error) => {
                    tracing::debug!(node = %self.nodes[node].address, %error, "a node cannot be followed");
                    failed += 1;
                }
            }
            next = node + 1;
            if failed == self.nodes.len() {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.events.closed() => return,
                }
                (failed, pause) = (0, (2 * pause).min(PAUSE_MAX));
            }
        }
    }

    fn take_preferred(&mut self) -> Option<usize> {
        if self.preferred.has_changed().unwrap_or(false) { *self.preferred.borrow_and_update() } else { None }
    }

    async fn connect(&self, node: usize) -> Result<Connection, NodeError> {
        tokio::select! {
            connection = dial(&self.endpoint, &self.nodes[node]) => connection,
            () = self.events.closed() => Err(NodeError::JustFailed("nobody follows any more".into())),
        }
    }

    /// Follows one node until it is lost, malformed, or another one is preferred.
    async fn stay(&mut self, node: usize, connection: &Connection) {
        let key = self.nodes[node].key;
        tracing::info!(node = %self.nodes[node].address, "following");
        if self.events.send(FollowEvent::Connected { node, key }).await.is_err() {
            return;
        }
        let reason = tokio::select! {
            reason = hear(node, connection, &self.events) => reason,
            reason = speak(node, connection, &mut self.outgoing) => reason,
            _ = self.preferred.changed() => {
                self.preferred.mark_changed();
                "another node is preferred".into()
            }
            () = self.events.closed() => "nobody follows any more".into(),
        };
        tracing::info!(node = %self.nodes[node].address, %reason, "following no more");
        // The reader may be gone, which the caller sees next.
        self.events.send(FollowEvent::Disconnected { node, key }).await.ok();
    }
}

/// Takes the node's streams and passes their messages on until the connection ends. Says why it did.
async fn hear(node: usize, connection: &Connection, events: &mpsc::Sender<FollowEvent>) -> String {
    // Read in this task, so that nothing is heard any more once it is dropped.
    let mut streams = FuturesUnordered::new();
    loop {
        tokio::select! {
            stream = connection.accept_frames(), if streams.len() < STREAMS_MAX => match stream {
                Ok(stream) => streams.push(read(node, stream, events)),
                Err(error) => return error.to_string(),
            },
            Some(ended) = streams.next() => {
                if let Err(reason) = ended {
                    connection.close(CloseCode::Malformed);
                    return reason;
                }
            }
            lost = connection.closed() => return lost.to_string(),
        }
    }
}

/// Reads one stream to its end. An error is the node's fault.
async fn read(node: usize, mut stream: FrameReceiver, events: &mpsc::Sender<FollowEvent>) -> Result<(), String> {
    while let Some(frame) = stream.recv().await.map_err(|error| error.to_string())? {
        let message = decode(&frame).map_err(|error| error.to_string())?;
        if events.send(FollowEvent::Message { node, message }).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends what is to be said to this node until the connection ends. Says why it did.
async fn speak(node: usize, connection: &Connection, outgoing: &mut mpsc::Receiver<(usize, Message)>) -> String {
    let mut stream = match connection.open_frames(Class::Control).await {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    loop {
        let Some((to, message)) = outgoing.recv().await else {
            // Nobody will speak again; hearing goes on.
            return std::future::pending().await;
        };
        // What was meant for an earlier node is as lost as its connection.
        if to != node {
            continue;
        }
        if let Err(error) = stream.send(encode(&message)).await {
            return error.to_string();
        }
    }
}
