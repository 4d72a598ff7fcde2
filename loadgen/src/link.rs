//! A connection to one node that is dialled again whenever it is lost.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use zeni_consensus::{Refusal, Verdict};
use zeni_ledger::{GenesisId, Payment, PublicKey};
use zeni_schemas::request::{Reply, Request, RequestError, decode_reply, encode_request};
use zeni_schemas::{Hello, Role};
use zeni_transport::{Connection, Endpoint, RequestFailure, TransportConfig};

use crate::delivery::{Answer, Failure};

/// Between two attempts to reach a node.
const REDIAL: Duration = Duration::from_millis(100);
/// A node that is away must be noticed well within a block.
const HANDSHAKE: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(4);

/// Where a node is and who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    pub name: String,
    pub quic: SocketAddr,
    pub key: PublicKey,
}

/// What a dialling endpoint of the load generator allows.
pub fn transport_config() -> TransportConfig {
    TransportConfig {
        handshake_deadline: HANDSHAKE,
        keep_alive: KEEP_ALIVE,
        idle_timeout: IDLE,
        ..TransportConfig::default()
    }
}

/// An endpoint that dials nodes of a ledger under a key.
pub fn dialler(key: &SigningKey, genesis: GenesisId, role: Role) -> Result<Endpoint, zeni_transport::BindError> {
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    Endpoint::dialler(any, key, Hello::new(genesis, role), transport_config())
}

/// A node and, if it stands, the connection to it.
#[derive(Debug)]
pub struct Link {
    pub node: NodeAddress,
    endpoint: Endpoint,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    trouble: Option<String>,
}

impl Link {
    pub fn new(node: NodeAddress, endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Self { node, endpoint, state: Mutex::default() })
    }

    /// Keeps the connection up for as long as it is polled.
    pub async fn keep_up(self: Arc<Self>) {
        loop {
            match self.endpoint.connect(self.node.quic, self.node.key).await {
                Ok(connection) => {
                    self.set(State { connection: Some(connection.clone()), trouble: None });
                    let lost = connection.closed().await;
                    self.set(State { connection: None, trouble: Some(lost.to_string()) });
                }
                Err(error) => self.set(State { connection: None, trouble: Some(error.to_string()) }),
            }
            tokio::time::sleep(REDIAL).await;
        }
    }

    pub fn is_up(&self) -> bool {
        self.connection().is_some()
    }

    /// Why there was no connection when it was last looked for.
    pub fn trouble(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn connection(&self) -> Option<Connection> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).connection.clone()
    }

    /// Asks the node.
    pub async fn ask(&self, request: &Request, deadline: Duration) -> Result<Reply, Failure> {
        self.exchange(encode_request(request).into(), deadline).await
    }

    async fn exchange(&self, body: Bytes, deadline: Duration) -> Result<Reply, Failure> {
        let connection = self.connection().ok_or_else(|| Failure::Disconnected("not connected".into()))?;
        let answer = connection.request_within(body, deadline).await.map_err(request_failure)?;
        match decode_reply(&answer) {
            Ok(Reply::Refused(error)) => Err(refused(error)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(Failure::Fatal(format!("{} answers nonsense: {error}", self.node.name))),
        }
    }

    /// Submits payments and reads the verdict of each.
    pub async fn submit(&self, payments: Vec<Payment>, deadline: Duration) -> Result<Vec<Answer>, Failure> {
        // The payments themselves are gone before the answer is waited for.
        let body = Bytes::from(encode_request(&Request::Submit(payments)));
        match self.exchange(body, deadline).await? {
            Reply::Submitted(verdicts) => Ok(verdicts.iter().map(answer).collect()),
            other => Err(Failure::Fatal(format!("{} answers a submission with {other:?}", self.node.name))),
        }
    }
}

fn request_failure(failure: RequestFailure) -> Failure {
    match failure {
        RequestFailure::Deadline { .. } => Failure::Timeout,
        RequestFailure::Unanswered | RequestFailure::Lost(_) => Failure::Disconnected(failure.to_string()),
        RequestFailure::TooLong { .. } | RequestFailure::AnswerTooLong { .. } => Failure::Fatal(failure.to_string()),
    }
}

fn refused(error: RequestError) -> Failure {
    match error {
        RequestError::Overloaded { retry_after_ms } => Failure::Overloaded { after_ms: retry_after_ms.into() },
        RequestError::Stopping => Failure::Stopping,
        RequestError::Forbidden | RequestError::Malformed(_) | RequestError::NotHere => {
            Failure::Fatal(error.to_string())
        }
    }
}

/// How a verdict bears on delivery.
fn answer(verdict: &Verdict) -> Answer {
    match verdict {
        Verdict::Accepted { .. } | Verdict::Known { .. } => Answer::Accepted,
        Verdict::Refused(Refusal::SequenceUsed) => Answer::SequenceUsed,
        Verdict::Refused(refusal) if refusal.is_transient() => {
            let after_ms = if let Refusal::Overloaded { retry_after_ms } = refusal { *retry_after_ms } else { 0 };
            Answer::Later { after_ms: after_ms.into(), code: refusal.code() }
        }
        Verdict::Refused(refusal) => Answer::Refused { code: refusal.code() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_say_what_is_to_be_done() {
        let refused = |refusal| answer(&Verdict::Refused(refusal));
        assert_eq!(answer(&Verdict::Accepted { copies: 1 }), Answer::Accepted);
        assert_eq!(answer(&Verdict::Known { copies: 2 }), Answer::Accepted);
        assert_eq!(refused(Refusal::SequenceUsed), Answer::SequenceUsed);
        assert_eq!(
            refused(Refusal::Overloaded { retry_after_ms: 40 }),
            Answer::Later { after_ms: 40, code: "overloaded" }
        );
        assert_eq!(refused(Refusal::DiskFull), Answer::Later { after_ms: 0, code: "disk_full" });
        assert_eq!(refused(Refusal::BadSignature), Answer::Refused { code: "bad_signature" });
    }

    #[test]
    fn failures_tell_whether_the_payments_may_have_been_taken() {
        assert_eq!(request_failure(RequestFailure::Deadline { after: IDLE }), Failure::Timeout);
        assert!(matches!(request_failure(RequestFailure::Unanswered), Failure::Disconnected(_)));
        let overloaded = RequestError::Overloaded { retry_after_ms: 9 };
        assert_eq!(refused(overloaded), Failure::Overloaded { after_ms: 9 });
        assert!(matches!(refused(RequestError::Forbidden), Failure::Fatal(_)));
    }
}
