//! Real endpoints on loopback. Nothing here sleeps: every wait is for something that happens.

mod connecting;
mod framing;
mod requesting;

use std::net::SocketAddr;

use ed25519_dalek::SigningKey;
use zeni_ledger::{GenesisId, PublicKey};
use zeni_schemas::{Hello, Role};

use crate::identity::public_key;
use crate::{Connection, Endpoint, TransportConfig};

const GENESIS: GenesisId = GenesisId([5; 32]);
const SERVER: u8 = 1;
const CLIENT: u8 = 2;
const STRANGER: u8 = 66;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Admits everyone as a validator but the stranger.
fn admission(stranger: PublicKey) -> impl Fn(&PublicKey) -> Option<Role> + Send + Sync + 'static {
    move |key| (*key != stranger).then_some(Role::Validator)
}

fn server_with(config: TransportConfig) -> (Endpoint, SocketAddr) {
    let own = Hello::new(GENESIS, Role::Validator);
    let endpoint =
        Endpoint::bind(loopback(), &key(SERVER), own, admission(public_key(&key(STRANGER))), config).unwrap();
    let address = endpoint.local_address().unwrap();
    (endpoint, address)
}

fn client_with(seed: u8, config: TransportConfig) -> Endpoint {
    Endpoint::dialler(loopback(), &key(seed), Hello::new(GENESIS, Role::Follower), config).unwrap()
}

/// Two endpoints and a connection between them, as each side sees it.
struct Pair {
    server: Endpoint,
    client: Endpoint,
    address: SocketAddr,
    at_server: Connection,
    at_client: Connection,
}

async fn pair() -> Pair {
    pair_with(TransportConfig::default(), TransportConfig::default()).await
}

async fn pair_with(server: TransportConfig, client: TransportConfig) -> Pair {
    let (server, address) = server_with(server);
    let client = client_with(CLIENT, client);
    let (at_client, at_server) = connect(&client, &server, address).await;
    Pair { server, client, address, at_server, at_client }
}

async fn connect(client: &Endpoint, server: &Endpoint, address: SocketAddr) -> (Connection, Connection) {
    let (at_client, at_server) =
        tokio::try_join!(client.connect(address, server.key()), async { Ok(server.accept().await) }).unwrap();
    (at_client, at_server.unwrap())
}

/// Bytes that differ from place to place and from number to number.
fn pattern(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 31 + place / 251 + number * 17) as u8).collect()
}

/// A question and its answer prove that a connection works.
async fn prove_alive(asker: &Connection, answerer: &Connection) {
    let (answer, ()) = tokio::join!(asker.request("alive?"), async {
        let request = answerer.accept_request().await.unwrap();
        assert_eq!(request.body.as_ref(), b"alive?");
        request.respond("yes").await.unwrap();
    });
    assert_eq!(answer.unwrap().as_ref(), b"yes");
}

/// A peer that proves its key and then does whatever the test wants.
async fn raw_peer(seed: u8, address: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    let tls = crate::tls::Tls::new(&key(seed)).unwrap();
    let (mut config, _) = tls.client(public_key(&key(SERVER))).unwrap();
    config.transport_config(TransportConfig::default().quic().unwrap());
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let connection = endpoint.connect_with(config, address, "zeni").unwrap().await.unwrap();
    (endpoint, connection)
}
