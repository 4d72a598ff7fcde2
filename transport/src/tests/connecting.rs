//! Who gets a connection, and what the others are told.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use zeni_ledger::GenesisId;
use zeni_schemas::{Hello, PROTOCOL_VERSION, Role};

use super::*;
use crate::{BindError, CloseCode, ConnectError, GreetingError, Lost};

#[tokio::test]
async fn both_sides_see_each_others_key_and_role() {
    let pair = pair().await;
    assert_eq!(pair.at_server.peer(), pair.client.key());
    assert_eq!(pair.at_server.role(), Role::Follower);
    assert_eq!(pair.at_client.peer(), pair.server.key());
    assert_eq!(pair.at_client.role(), Role::Validator);
    assert_eq!(pair.at_client.remote_address(), pair.address);
    prove_alive(&pair.at_client, &pair.at_server).await;
    prove_alive(&pair.at_server, &pair.at_client).await;
}

#[tokio::test]
async fn refuses_an_unknown_key_and_counts_it() {
    let (server, address) = server_with(TransportConfig::default());
    let stranger = client_with(STRANGER, TransportConfig::default());
    let error = stranger.connect(address, server.key()).await.unwrap_err();
    assert_eq!(error.close_code(), Some(CloseCode::UnknownPeer), "{error}");
    assert_eq!(server.refusals().count(CloseCode::UnknownPeer), 1);
    let client = client_with(CLIENT, TransportConfig::default());
    let (at_client, at_server) = connect(&client, &server, address).await;
    prove_alive(&at_client, &at_server).await;
}

/// What a dialler with this hello is told.
async fn refused_hello(own: Hello) -> (Endpoint, ConnectError) {
    let (server, address) = server_with(TransportConfig::default());
    let client = Endpoint::dialler(loopback(), &key(CLIENT), own, TransportConfig::default()).unwrap();
    let error = client.connect(address, server.key()).await.unwrap_err();
    (server, error)
}

#[tokio::test]
async fn refuses_another_ledger() {
    let (server, error) = refused_hello(Hello::new(GenesisId([6; 32]), Role::Follower)).await;
    assert_eq!(error.close_code(), Some(CloseCode::WrongGenesis), "{error}");
    assert_eq!(server.refusals().count(CloseCode::WrongGenesis), 1);
}

#[tokio::test]
async fn refuses_another_protocol_version() {
    let hello = Hello { version: PROTOCOL_VERSION + 1, ..Hello::new(GENESIS, Role::Follower) };
    let (server, error) = refused_hello(hello).await;
    assert_eq!(error.close_code(), Some(CloseCode::ProtocolVersion), "{error}");
    assert_eq!(server.refusals().count(CloseCode::ProtocolVersion), 1);
}

#[tokio::test]
async fn refuses_a_role_above_the_admitted_one() {
    let own = Hello::new(GENESIS, Role::Validator);
    let clients_only = |_: &PublicKey| Some(Role::Client);
    let server = Endpoint::bind(loopback(), &key(SERVER), own, clients_only, TransportConfig::default()).unwrap();
    let address = server.local_address().unwrap();
    let follower = client_with(CLIENT, TransportConfig::default());
    let error = follower.connect(address, server.key()).await.unwrap_err();
    assert_eq!(error.close_code(), Some(CloseCode::RoleRefused), "{error}");
    assert_eq!(server.refusals().count(CloseCode::RoleRefused), 1);
}

#[tokio::test]
async fn the_client_refuses_a_server_with_another_key() {
    let (server, address) = server_with(TransportConfig::default());
    let client = client_with(CLIENT, TransportConfig::default());
    let expected = public_key(&key(9));
    let error = client.connect(address, expected).await.unwrap_err();
    assert_eq!(error, ConnectError::WrongServerKey { address, found: server.key(), expected });
}

#[tokio::test]
async fn a_client_without_a_key_gets_no_connection() {
    let (server, address) = server_with(TransportConfig::default());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"zeni".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let quic = quinn::Endpoint::client(loopback()).unwrap();
    let outcome = quic.connect_with(config, address, "zeni").unwrap().await;
    assert!(outcome.is_err(), "a client without a raw public key was connected");
    let client = client_with(CLIENT, TransportConfig::default());
    let (at_client, at_server) = connect(&client, &server, address).await;
    prove_alive(&at_client, &at_server).await;
    assert_eq!(server.refusals().failed(), 1);
}

#[tokio::test]
async fn a_peer_that_never_greets_holds_up_nobody_and_is_closed() {
    let config = TransportConfig { handshake_deadline: Duration::from_millis(300), ..TransportConfig::default() };
    let (server, address) = server_with(config);
    let (_quic, silent) = raw_peer(9, address).await;
    let client = client_with(CLIENT, TransportConfig::default());
    let (at_client, at_server) = connect(&client, &server, address).await;
    prove_alive(&at_client, &at_server).await;
    assert_eq!(Lost::from(silent.closed().await), Lost::ClosedByPeer { code: CloseCode::HandshakeTimeout });
    assert_eq!(server.refusals().count(CloseCode::HandshakeTimeout), 1);
}

#[tokio::test]
async fn a_malformed_or_endless_hello_is_refused() {
    for hello in [vec![7; 20], vec![7; 100_000]] {
        let (server, address) = server_with(TransportConfig::default());
        let (_quic, peer) = raw_peer(CLIENT, address).await;
        let (mut send, _recv) = peer.open_bi().await.unwrap();
        // The server may close before all is written; how it closes is what counts.
        send.write_all(&hello).await.ok();
        send.finish().ok();
        assert_eq!(Lost::from(peer.closed().await), Lost::ClosedByPeer { code: CloseCode::Malformed });
        assert_eq!(server.refusals().count(CloseCode::Malformed), 1);
    }
}

/// The key whose highest role is a validator's at [`server_of_roles`]; all others are followers.
const VALIDATOR: u8 = 3;

fn server_of_roles(config: TransportConfig) -> (Endpoint, SocketAddr) {
    let validator = public_key(&key(VALIDATOR));
    let admission = move |key: &PublicKey| Some(if *key == validator { Role::Validator } else { Role::Follower });
    let own = Hello::new(GENESIS, Role::Validator);
    let endpoint = Endpoint::bind(loopback(), &key(SERVER), own, admission, config).unwrap();
    let address = endpoint.local_address().unwrap();
    (endpoint, address)
}

#[tokio::test]
async fn an_endpoint_full_of_clients_turns_further_ones_away_and_takes_validators() {
    let (server, address) = server_of_roles(TransportConfig { connections_max: 1, ..TransportConfig::default() });
    let client = client_with(CLIENT, TransportConfig::default());
    let (at_client, at_server) = connect(&client, &server, address).await;
    for seed in [CLIENT, STRANGER] {
        let another = client_with(seed, TransportConfig::default());
        let error = another.connect(address, server.key()).await.unwrap_err();
        assert_eq!(error.close_code(), Some(CloseCode::Busy), "{error}");
    }
    assert_eq!(server.refusals().count(CloseCode::Busy), 2);
    let validator = client_with(VALIDATOR, TransportConfig::default());
    let (validator_there, validator_here) = connect(&validator, &server, address).await;
    prove_alive(&validator_there, &validator_here).await;
    prove_alive(&at_client, &at_server).await;
}

#[tokio::test]
async fn one_key_has_a_few_connections_and_others_find_room() {
    let (server, address) =
        server_of_roles(TransportConfig { connections_per_key_max: 2, ..TransportConfig::default() });
    let client = client_with(CLIENT, TransportConfig::default());
    let first = connect(&client, &server, address).await;
    let _second = connect(&client, &server, address).await;
    let error = client.connect(address, server.key()).await.unwrap_err();
    assert_eq!(error.close_code(), Some(CloseCode::Busy), "{error}");
    let other = client_with(STRANGER, TransportConfig::default());
    let (there, here) = connect(&other, &server, address).await;
    prove_alive(&there, &here).await;
    drop(first);
    let (there, here) = connect(&client, &server, address).await;
    prove_alive(&there, &here).await;
}

#[tokio::test]
async fn a_key_that_never_greets_holds_a_few_handshakes_only() {
    let config = TransportConfig { connections_per_key_max: 2, handshakes_max: 4, ..TransportConfig::default() };
    let (server, address) = server_of_roles(config);
    let silent = [raw_peer(CLIENT, address).await, raw_peer(CLIENT, address).await];
    for _ in 0..4 {
        let (_quic, refused) = raw_peer(CLIENT, address).await;
        assert_eq!(Lost::from(refused.closed().await), Lost::ClosedByPeer { code: CloseCode::Busy });
    }
    let other = client_with(STRANGER, TransportConfig::default());
    let (there, here) = connect(&other, &server, address).await;
    prove_alive(&there, &here).await;
    assert!(silent.iter().all(|(_, connection)| connection.close_reason().is_none()), "they still hold theirs");
}

#[tokio::test]
async fn every_close_code_reaches_the_peer() {
    let (server, address) = server_with(TransportConfig::default());
    let client = client_with(CLIENT, TransportConfig::default());
    for code in CloseCode::ALL {
        let (at_client, at_server) = connect(&client, &server, address).await;
        at_server.close(*code);
        assert_eq!(at_client.closed().await, Lost::ClosedByPeer { code: *code });
        assert_eq!(at_server.closed().await, Lost::ClosedHere);
    }
}

#[tokio::test]
async fn closing_an_endpoint_tells_every_peer_and_ends_accepting() {
    let pair = pair().await;
    let (second, _second_at_server) = connect(&pair.client, &pair.server, pair.address).await;
    let (idle, first_lost, second_lost) =
        tokio::join!(pair.server.close(CloseCode::Shutdown), pair.at_client.closed(), second.closed());
    assert!(idle);
    for lost in [first_lost, second_lost] {
        assert_eq!(lost, Lost::ClosedByPeer { code: CloseCode::Shutdown });
    }
    assert!(pair.server.accept().await.is_none());
}

#[tokio::test]
async fn dropping_an_endpoint_closes_its_connections() {
    let Pair { server, client, at_server, at_client, address: _ } = pair().await;
    drop((client, at_client));
    assert_eq!(at_server.closed().await, Lost::ClosedByPeer { code: CloseCode::Done });
    drop(server);
}

#[tokio::test]
async fn dialling_nobody_ends_at_the_deadline() {
    let config = TransportConfig { handshake_deadline: Duration::from_millis(200), ..TransportConfig::default() };
    let client = client_with(CLIENT, config);
    // A bound socket that nobody reads: packets vanish.
    let hole = std::net::UdpSocket::bind(loopback()).unwrap();
    let error = client.connect(hole.local_addr().unwrap(), public_key(&key(SERVER))).await.unwrap_err();
    assert!(matches!(error, ConnectError::Deadline { .. }), "{error}");
}

#[tokio::test]
async fn a_taken_address_and_a_bad_configuration_are_named() {
    let (_server, address) = server_with(TransportConfig::default());
    let own = Hello::new(GENESIS, Role::Client);
    let taken = Endpoint::dialler(address, &key(CLIENT), own, TransportConfig::default());
    assert!(matches!(taken, Err(BindError::Socket { address: named, .. }) if named == address));
    let config = TransportConfig { requests_max: 0, ..TransportConfig::default() };
    let bad = Endpoint::dialler(loopback(), &key(CLIENT), own, config);
    assert!(matches!(bad, Err(BindError::Config(_))));
}

#[tokio::test]
async fn the_client_refuses_a_server_of_another_ledger() {
    let tls = crate::tls::Tls::new(&key(SERVER)).unwrap();
    let quic = quinn::Endpoint::server(tls.server().unwrap(), loopback()).unwrap();
    let address = quic.local_addr().unwrap();
    let client = client_with(CLIENT, TransportConfig::default());
    let impostor = async {
        let connection = quic.accept().await.unwrap().await.unwrap();
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        recv.read_to_end(1_000).await.unwrap();
        send.write_all(&zeni_schemas::hello::encode(&Hello::new(GenesisId([6; 32]), Role::Validator))).await.unwrap();
        send.finish().unwrap();
        Lost::from(connection.closed().await)
    };
    let (outcome, told) = tokio::join!(client.connect(address, public_key(&key(SERVER))), impostor);
    let expected = GreetingError::WrongGenesis { found: GenesisId([6; 32]), expected: GENESIS };
    assert_eq!(outcome.map(|connection| connection.peer()), Err(ConnectError::Greeting(expected)));
    assert_eq!(told, Lost::ClosedByPeer { code: CloseCode::WrongGenesis });
}
