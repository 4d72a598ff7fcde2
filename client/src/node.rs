//! One node: a connection that is made when it is needed and made again when it is gone.

use std::pin::pin;
use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use zeni_ledger::PublicKey;
use zeni_schemas::WireError;
use zeni_schemas::request::{Reply, decode_reply};
use zeni_transport::{CloseCode, ConnectError, Connection, Endpoint, RequestFailure};

/// How long a node that failed is passed over while others are there, before one call shows whether it is back.
const SICK_FOR: Duration = Duration::from_secs(10);
/// A node that has not answered for so long counts as sick until it does: what comes next need not find out by itself.
const SUSPECT_AFTER: Duration = Duration::from_millis(500);
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
    health: StdMutex<Health>,
}

/// What is known of whether a node answers.
#[derive(Debug, Default)]
struct Health {
    /// Of a sick one: until when it is passed over. It is sick until a call succeeds.
    sick_until: Option<Instant>,
}

impl Health {
    fn sicken(&mut self, now: Instant) {
        self.sick_until = Some(now + SICK_FOR);
    }

    /// For a call that chooses among nodes. Of a sick node whose time is over only one call is told so at a time.
    fn standing(&mut self, now: Instant) -> Standing {
        match self.sick_until {
            None => Standing::Healthy,
            Some(until) if now < until => Standing::Sick,
            Some(_) => {
                self.sicken(now);
                Standing::OnTrial
            }
        }
    }
}

/// Where a node belongs among those that a call may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It failed, and this call is to show whether it is back.
    OnTrial,
    Healthy,
    /// It failed, and others are to be asked before it.
    Sick,
}

#[derive(Debug, Default)]
struct Link {
    connection: Option<Connection>,
    failed: Option<(Instant, String)>,
}

impl Node {
    pub(crate) fn new(endpoint: Endpoint, at: NodeAddress) -> Self {
        Self { at, endpoint, link: Mutex::default(), health: StdMutex::default() }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its last call failed, or one is overdue.
    pub(crate) fn is_sick(&self) -> bool {
        self.health().sick_until.is_some()
    }

    /// Where it belongs in the order of a call that begins now.
    pub(crate) fn standing(&self) -> Standing {
        self.health().standing(Instant::now())
    }

    /// Asks and waits at most `deadline`, a dial included.
    pub(crate) async fn ask(&self, body: Bytes, deadline: Duration) -> Result<Reply, NodeError> {
        let mut exchange = pin!(self.exchange(body, deadline));
        let answer = match timeout(SUSPECT_AFTER, &mut exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                self.health().sicken(Instant::now());
                exchange.await
            }
        };
        match answer {
            Ok(_) => self.health().sick_until = None,
            Err(_) => self.health().sicken(Instant::now()),
        }
        answer
    }

    async fn exchange(&self, body: Bytes, deadline: Duration) -> Result<Reply, NodeError> {
        let until = Instant::now() + deadline;
        let connection = self.connection(until, deadline).await?;
        let reply = timeout_at(until, connection.request_within(body, deadline)).await;
        let reply = reply.map_err(|_| NodeError::Deadline { after: deadline })??;
        decode_reply(&reply).map_err(|error| {
            connection.close(CloseCode::Malformed);
            error.into()
        })
    }

    async fn connection(&self, until: Instant, deadline: Duration) -> Result<Connection, NodeError> {
        let late = |_| NodeError::DialDeadline { after: deadline };
        let mut link = timeout_at(until, self.link.lock()).await.map_err(late)?;
        if let Some(connection) = link.connection.as_ref().filter(|connection| connection.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        if let Some((at, reason)) = link.failed.as_ref().filter(|(at, _)| at.elapsed() < DIAL_PAUSE) {
            tracing::trace!(node = %self.at.address, since = ?at.elapsed(), "not dialled again yet");
            return Err(NodeError::JustFailed(reason.clone()));
        }
        // Who waits for this lock meanwhile hears of a dial that was not answered, and does not wait as long once more.
        match timeout_at(until, dial(&self.endpoint, &self.at)).await.map_err(late).flatten() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_failed_is_passed_over_and_then_tried_by_one_call_at_a_time_until_one_succeeds() {
        let (mut health, failed) = (Health::default(), Instant::now());
        assert_eq!(health.standing(failed), Standing::Healthy);
        health.sicken(failed);
        assert_eq!(health.standing(failed + SICK_FOR / 2), Standing::Sick);
        assert_eq!(health.standing(failed + SICK_FOR), Standing::OnTrial);
        assert_eq!(health.standing(failed + SICK_FOR), Standing::Sick, "one call tries it");
        assert_eq!(health.standing(failed + 3 * SICK_FOR), Standing::OnTrial, "and another later");
        health.sick_until = None;
        assert_eq!(health.standing(failed + 3 * SICK_FOR), Standing::Healthy);
    }

    #[test]
    fn a_node_on_trial_is_asked_first_and_a_sick_one_last() {
        let mut order = [Standing::Sick, Standing::Healthy, Standing::OnTrial];
        order.sort();
        assert_eq!(order, [Standing::OnTrial, Standing::Healthy, Standing::Sick]);
    }
}
