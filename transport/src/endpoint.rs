//! A UDP socket that dials and takes connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use quinn::TokioRuntime;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use zeni_ledger::PublicKey;
use zeni_schemas::{Hello, Role};

use crate::admission::{self, Admission, Door, Refusals};
use crate::close::{CloseCode, Lost};
use crate::config::{ConfigError, TransportConfig};
use crate::connection::Connection;
use crate::greeting::{self, GreetingError};
use crate::identity::public_key;
use crate::places::Places;
use crate::tls::{SERVER_NAME, Tls, TlsError};

/// Why an endpoint does not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("the transport is misconfigured: {0}")]
    Config(#[from] ConfigError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] TlsError),
    #[error("UDP address {address} cannot be bound: {source}")]
    Socket { address: SocketAddr, source: io::Error },
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nothing was sent.
    #[error("cannot dial {address}: {reason}")]
    Dial { address: SocketAddr, reason: String },
    #[error("no connection to {address} within {after:?}")]
    Deadline { address: SocketAddr, after: Duration },
    /// Someone else answers at this address.
    #[error("the process at {address} has key {found} instead of {expected}")]
    WrongServerKey { address: SocketAddr, found: PublicKey, expected: PublicKey },
    #[error(transparent)]
    Greeting(GreetingError),
    /// See [`Lost::close_code`] for the reason that the peer gave.
    #[error("{address} did not take the connection: {lost}")]
    Lost { address: SocketAddr, lost: Lost },
}

impl ConnectError {
    /// The reason that the peer gave, if it gave one.
    pub const fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Lost { lost, .. } => lost.close_code(),
            _ => None,
        }
    }
}

/// Dials with one key and takes connections on one UDP address. Cheap to clone; when the last clone is dropped, every
/// connection of it is closed.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    quic: quinn::Endpoint,
    tls: Tls,
    key: PublicKey,
    own: Hello,
    config: Arc<TransportConfig>,
    quic_config: Arc<quinn::TransportConfig>,
    ready: Mutex<mpsc::Receiver<Connection>>,
    refusals: Arc<Refusals>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.quic.close(CloseCode::Done.into(), CloseCode::Done.name().as_bytes());
    }
}

impl Endpoint {
    /// An endpoint that takes connections of the keys that `admission` admits, and dials. `own` is what it says of
    /// itself on both. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] names what stands in the way.
    pub fn bind(
        address: SocketAddr,
        key: &SigningKey,
        own: Hello,
        admission: impl Fn(&PublicKey) -> Option<Role> + Send + Sync + 'static,
        config: TransportConfig,
    ) -> Result<Self, BindError> {
        Self::start(address, key, own, Some(Arc::new(admission)), config)
    }

    /// An endpoint that only dials; [`Self::accept`] returns `None` at once. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] names what stands in the way.
    pub fn dialler(
        address: SocketAddr,
        key: &SigningKey,
        own: Hello,
        config: TransportConfig,
    ) -> Result<Self, BindError> {
        Self::start(address, key, own, None, config)
    }

    fn start(
        address: SocketAddr,
        key: &SigningKey,
        own: Hello,
        admission: Option<Admission>,
        config: TransportConfig,
    ) -> Result<Self, BindError> {
        let quic_config = config.quic()?;
        let (config, tls) = (Arc::new(config), Tls::new(key)?);
        let mut server = None;
        if admission.is_some() {
            let mut offered = tls.server()?;
            offered.transport_config(Arc::clone(&quic_config));
            server = Some(offered);
        }
        let quic = bind_quic(address, server, &config).map_err(|source| BindError::Socket { address, source })?;
        let refusals = Arc::new(Refusals::default());
        let (sender, ready) = mpsc::channel(config.accept_backlog);
        if let Some(admission) = admission {
            let places = Places::new(config.connections_max, config.connections_per_key_max);
            let door = Door { own, admission, config: Arc::clone(&config), refusals: Arc::clone(&refusals), places };
            tokio::spawn(admission::run(quic.clone(), Arc::new(door), sender));
        }
        let (key, ready) = (public_key(key), Mutex::new(ready));
        Ok(Self { inner: Arc::new(Inner { quic, tls, key, own, config, quic_config, ready, refusals }) })
    }

    /// The key that this endpoint proves.
    pub fn key(&self) -> PublicKey {
        self.inner.key
    }

    /// The bound address, with the port that the system chose if it was asked to.
    ///
    /// # Errors
    /// The system's error if the socket is broken.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.inner.quic.local_addr()
    }

    /// How many were turned away, and why.
    pub fn refusals(&self) -> &Refusals {
        &self.inner.refusals
    }

    /// Connections that stand, dialled and taken, with handshakes under way.
    pub fn open_connections(&self) -> usize {
        self.inner.quic.open_connections()
    }

    /// Dials the process that holds `server`, within [`TransportConfig::handshake_deadline`].
    ///
    /// # Errors
    /// [`ConnectError`]; trying again makes sense after each of them except
    /// [`ConnectError::WrongServerKey`] and [`ConnectError::Greeting`], which an operator must look into.
    pub async fn connect(&self, address: SocketAddr, server: PublicKey) -> Result<Connection, ConnectError> {
        let after = self.inner.config.handshake_deadline;
        match timeout(after, self.dial(address, server)).await {
            Ok(connection) => connection,
            Err(_) => Err(ConnectError::Deadline { address, after }),
        }
    }

    async fn dial(&self, address: SocketAddr, expected: PublicKey) -> Result<Connection, ConnectError> {
        let inner = &self.inner;
        let dial = |reason: String| ConnectError::Dial { address, reason };
        let (mut client, other) = inner.tls.client(expected).map_err(|error| dial(error.to_string()))?;
        client.transport_config(Arc::clone(&inner.quic_config));
        let connecting = inner.quic.connect_with(client, address, SERVER_NAME);
        let quic = connecting.map_err(|error| dial(error.to_string()))?.await.map_err(|error| match other.get() {
            Some(found) => ConnectError::WrongServerKey { address, found: *found, expected },
            None => ConnectError::Lost { address, lost: error.into() },
        })?;
        match greeting::greet(&quic, &inner.own).await {
            Ok(peer) => Ok(Connection::new(expected, peer.role, quic, Arc::clone(&inner.config))),
            Err(GreetingError::Lost(lost)) => Err(ConnectError::Lost { address, lost }),
            Err(error) => {
                let code = error.close_code();
                quic.close(code.into(), code.name().as_bytes());
                Err(ConnectError::Greeting(error))
            }
        }
    }

    /// The next peer that was admitted; `None` once the endpoint is closed. Dropping the future loses nothing.
    pub async fn accept(&self) -> Option<Connection> {
        self.inner.ready.lock().await.recv().await
    }

    /// Closes every connection with this code and takes no more; waits until the peers can have heard of it, at most
    /// [`TransportConfig::close_deadline`]. True if all connections are gone, false if the deadline passed.
    pub async fn close(&self, code: CloseCode) -> bool {
        self.inner.quic.close(code.into(), code.name().as_bytes());
        timeout(self.inner.config.close_deadline, self.inner.quic.wait_idle()).await.is_ok()
    }
}

fn bind_quic(
    address: SocketAddr,
    server: Option<quinn::ServerConfig>,
    config: &TransportConfig,
) -> io::Result<quinn::Endpoint> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel grants less than asked without an error; bursts beyond what it grants are lost and sent again.
    socket.set_recv_buffer_size(config.socket_buffer_bytes)?;
    socket.set_send_buffer_size(config.socket_buffer_bytes)?;
    let (received, sent) = (socket.recv_buffer_size()?, socket.send_buffer_size()?);
    tracing::debug!(%address, received, sent, asked = config.socket_buffer_bytes, "UDP buffers granted");
    socket.bind(&address.into())?;
    let mut endpoint = quinn::EndpointConfig::default();
    endpoint
        .max_udp_payload_size(config.datagram_bytes_max.max(ETHERNET_PAYLOAD_BYTES))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    quinn::Endpoint::new(endpoint, server, socket.into(), Arc::new(TokioRuntime))
}

/// What peers may send whatever path this side hopes for: an Ethernet frame's UDP payload.
const ETHERNET_PAYLOAD_BYTES: u16 = 1_472;
