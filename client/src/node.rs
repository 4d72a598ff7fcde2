//! One node: a connection that is made when it is needed and made again when it is gone.

use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use zeni_ledger::PublicKey;
use zeni_schemas::WireError;
use zeni_schemas::request::{Reply, decode_reply};
use zeni_transport::{CloseCode, ConnectError, Connection, Endpoint, RequestFailure};

/// How long a node that failed is passed over while others are there.
const SICK_FOR: Duration = Duration::from_secs(3);
/// How long after a failed dial further requests fail at once instead of dialling again.
const DIAL_PAUSE: Duration = Duration::from_millis(250);

/// Where a node is and which key it must prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    pub key: PublicKey,
    /// `host:port`; names are looked up at every dial.
    pub address: String,
}

/// Why a node gave no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    #[error("{address} cannot be resolved: {reason}")]
    Resolve { address: String, reason: String },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("it could not be reached a moment ago: {0}")]
    JustFailed(String),
    #[error("no connection within {after:?}")]
    DialDeadline { after: Duration },
    #[error("no answer within {after:?}")]
    Deadline { after: Duration },
    #[error(transparent)]
    Request(#[from] RequestFailure),
    #[error("its reply is malformed: {0}")]
    Malformed(#[from] WireError),
    #[error("it answered something else than was asked")]
    OtherReply,
}

impl NodeError {
    /// Whether the request may have reached the node, so that it may have been carried out.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect(_) | Self::JustFailed(_) | Self::DialDeadline { .. } => false,
            Self::Request(failure) => !matches!(failure, RequestFailure::TooLong { .. }),
            Self::Deadline { .. } | Self::Malformed(_) | Self::OtherReply => true,
        }
    }
}

/// A node of a pool.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: NodeAddress,
    endpoint: Endpoint,
    link: Mutex<Link>,
    sick_until: StdMutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Link {
    connection: Option<Connection>,
    failed: Option<(Instant, String)>,
}

impl Node {
    pub(crate) fn new(endpoint: Endpoint, at: NodeAddress) -> Self {
        Self { at, endpoint, link: Mutex::default(), sick_until: StdMutex::default() }
    }

    /// Whether it failed a moment ago.
    pub(crate) fn is_sick(&self) -> bool {
        let until = *self.sick_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Asks and waits at most `deadline`, a dial included.
    pub(crate) async fn ask(&self, body: Bytes, deadline: Duration) -> Result<Reply, NodeError> {
        let answer = self.exchange(body, deadline).await;
        let sick_until = answer.is_err().then(|| Instant::now() + SICK_FOR);
        *self.sick_until.lock().unwrap_or_else(PoisonError::into_inner) = sick_until;
        answer
    }

    async fn exchange(&self, body: Bytes, deadline: Duration) -> Result<Reply, NodeError> {
        let until = Instant::now() + deadline;
        let connection = timeout_at(until, self.connection()).await;
        let connection = connection.map_err(|_| NodeError::DialDeadline { after: deadline })??;
        let reply = timeout_at(until, connection.request_within(body, deadline)).await;
        let reply = reply.map_err(|_| NodeError::Deadline { after: deadline })??;
        decode_reply(&reply).map_err(|error| {
            connection.close(CloseCode::Malformed);
            error.into()
        })
    }

    async fn connection(&self) -> Result<Connection, NodeError> {
        let mut link = self.link.lock().await;
        if let Some(connection) = link.connection.as_ref().filter(|connection| connection.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        if let Some((at, reason)) = link.failed.as_ref().filter(|(at, _)| at.elapsed() < DIAL_PAUSE) {
            tracing::trace!(node = %self.at.address, since = ?at.elapsed(), "not dialled again yet");
            return Err(NodeError::JustFailed(reason.clone()));
        }
        match dial(&self.endpoint, &self.at).await {
            Ok(connection) => {
                *link = Link { connection: Some(connection.clone()), failed: None };
                Ok(connection)
            }
            Err(error) => {
                *link = Link { connection: None, failed: Some((Instant::now(), error.to_string())) };
                Err(error)
            }
        }
    }
}

/// Looks the name up and dials its addresses in turn.
pub(crate) async fn dial(endpoint: &Endpoint, at: &NodeAddress) -> Result<Connection, NodeError> {
    let resolve = |reason: String| NodeError::Resolve { address: at.address.clone(), reason };
    let addresses = lookup_host(&at.address).await.map_err(|error| resolve(error.to_string()))?;
    let mut failure = resolve("the name has no address".into());
    for address in addresses {
        match endpoint.connect(address, at.key).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}
