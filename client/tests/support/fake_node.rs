//! A node's outside on the real transport, with an inside that a test scripts.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ed25519_dalek::SigningKey;
use tokio::sync::mpsc;
use zeni_client::NodeAddress;
use zeni_ledger::{GenesisId, PublicKey};
use zeni_schemas::request::{Reply, Request, decode_request, encode_reply};
use zeni_schemas::{Hello, Role};
use zeni_transport::{CloseCode, Connection, Endpoint, TransportConfig};

/// How a scripted node takes a request.
#[allow(dead_code, reason = "each test uses some of them")]
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Reply(Reply),
    /// Bytes that are no reply.
    Garbage,
    /// Drops the request.
    Nothing,
    /// Never answers.
    Hang,
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;
type ConnectionTask = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Debug)]
pub(crate) struct FakeNode {
    pub(crate) at: NodeAddress,
    endpoint: Endpoint,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
}

#[allow(dead_code, reason = "each test uses some of them")]
impl FakeNode {
    /// A node that answers requests by a script.
    pub(crate) fn start(
        seed: u8,
        genesis: GenesisId,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(seed, genesis, script, |_| Box::pin(std::future::pending()))
    }

    /// A node that besides does something with each connection.
    pub(crate) fn start_with(
        seed: u8,
        genesis: GenesisId,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        with_connection: impl Fn(Connection) -> ConnectionTask + Send + 'static,
    ) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let hello = Hello::new(genesis, Role::Validator);
        let config = TransportConfig::default();
        let endpoint = Endpoint::bind(any, &key(seed), hello, |_| Some(Role::Follower), config).unwrap();
        let address = endpoint.local_address().unwrap().to_string();
        let at = NodeAddress { key: public(seed), address };
        let node = Self { at, endpoint, requests: Arc::default(), connections: Arc::default() };
        let (endpoint, requests, connections) =
            (node.endpoint.clone(), node.requests.clone(), node.connections.clone());
        let script: Arc<Script> = Arc::new(script);
        tokio::spawn(async move {
            while let Some(connection) = endpoint.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(with_connection(connection.clone()));
                tokio::spawn(serve(connection, script.clone(), requests.clone()));
            }
        });
        node
    }

    /// What it was asked, in order.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many connections it took.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) async fn stop(self) {
        self.endpoint.close(CloseCode::Shutdown).await;
    }
}

async fn serve(connection: Connection, script: Arc<Script>, requests: Arc<Mutex<Vec<Request>>>) {
    let mut hanging = Vec::new();
    while let Ok(incoming) = connection.accept_request().await {
        let request = decode_request(&incoming.body).unwrap();
        requests.lock().unwrap().push(request.clone());
        match script(&request) {
            Answer::Reply(reply) => drop(incoming.respond(encode_reply(&reply)).await),
            Answer::Garbage => drop(incoming.respond(&b"garbage"[..]).await),
            Answer::Nothing => drop(incoming),
            Answer::Hang => hanging.push(incoming),
        }
    }
}

/// An address that nobody listens at.
#[allow(dead_code, reason = "each test uses some of them")]
pub(crate) fn nowhere(seed: u8) -> NodeAddress {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    NodeAddress { key: public(seed), address: socket.local_addr().unwrap().to_string() }
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn public(seed: u8) -> PublicKey {
    PublicKey(key(seed).verifying_key().to_bytes())
}

/// A client's endpoint.
#[allow(dead_code, reason = "each test uses some of them")]
pub(crate) fn dialler(genesis: GenesisId, role: Role, config: TransportConfig) -> Endpoint {
    Endpoint::dialler("127.0.0.1:0".parse().unwrap(), &key(99), Hello::new(genesis, role), config).unwrap()
}

/// A connection task that hands the connection to the test.
#[allow(dead_code, reason = "each test uses some of them")]
pub(crate) fn hand_over(to: mpsc::UnboundedSender<Connection>) -> impl Fn(Connection) -> ConnectionTask + Send {
    move |connection| {
        to.send(connection).ok();
        Box::pin(std::future::pending())
    }
}
