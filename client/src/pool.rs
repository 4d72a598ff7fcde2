//! Asks any of several nodes, and the next one when one fails.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_consensus::{Refusal, Verdict};
use zeni_ledger::{AccountId, Payment, TransactionId};
use zeni_schemas::request::{AccountInfo, NodeInfo, Reply, Request, RequestError, STATUS_IDS_MAX, encode_request};
use zeni_transport::Endpoint;

use crate::node::{Node, NodeAddress, NodeError, Standing};

/// The bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// How long one node may take before the same bytes go to another.
    pub attempt_timeout: Duration,
    /// How long a call may take in all.
    pub call_timeout: Duration,
    /// Submissions at once; further ones are refused.
    pub in_flight_max: usize,
    /// Questions at once; further ones are refused. Apart from submissions, so that neither takes the other's places.
    pub questions_max: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(4),
            call_timeout: Duration::from_secs(12),
            in_flight_max: 256,
            questions_max: 16,
        }
    }
}

/// One node's failure within a call.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The node's place in the pool.
    pub node: usize,
    pub address: String,
    pub failure: AttemptFailure,
}

/// How an attempt failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AttemptFailure {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Refused(#[from] RequestError),
}

/// Why a call has no answer. What was sent may have been taken all the same: sending the same bytes again is safe.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PoolError {
    #[error("{in_flight_max} calls are in flight already; try again when some are answered")]
    Busy { in_flight_max: usize },
    #[error("every node that answered is at its limit; try again in {retry_after_ms} ms")]
    Overloaded { retry_after_ms: u32 },
    #[error("no node answered: {}", describe(.attempts))]
    NoNode { attempts: Vec<Attempt> },
    #[error("a node that did not answer may have taken a payment that another one refused: {refusal}")]
    Unclear { refusal: Refusal },
    #[error("a call carries 1 to {limit} items, this one {found}")]
    WrongCount { found: usize, limit: usize },
}

impl AttemptFailure {
    /// Whether the node may have carried out what it was asked.
    fn is_unclear(&self) -> bool {
        match self {
            Self::Node(error) => error.may_have_arrived(),
            // A node that stops may have written what it then cannot confirm.
            Self::Refused(error) => matches!(error, RequestError::Stopping),
        }
    }
}

fn describe(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "the time was over before one was asked".into();
    }
    let each = attempts.iter().map(|attempt| format!("{}: {}", attempt.address, attempt.failure));
    each.collect::<Vec<_>>().join("; ")
}

/// Nodes of one ledger, any of which serves a call.
#[derive(Debug)]
pub struct NodePool {
    nodes: Vec<Node>,
    config: PoolConfig,
    /// Calls take turns, so that load spreads.
    turn: AtomicUsize,
    submissions: Semaphore,
    questions: Semaphore,
    failovers: AtomicU64,
}

impl NodePool {
    /// A pool over `endpoint`, whose hello says for which ledger and in which role. Connects when it is first asked.
    ///
    /// # Panics
    /// If `nodes` is empty.
    pub fn new(endpoint: &Endpoint, nodes: Vec<NodeAddress>, config: PoolConfig) -> Self {
        assert!(!nodes.is_empty(), "a pool has at least one node");
        let nodes = nodes.into_iter().map(|at| Node::new(endpoint.clone(), at)).collect();
        let (submissions, questions) = (Semaphore::new(config.in_flight_max), Semaphore::new(config.questions_max));
        Self { nodes, config, turn: AtomicUsize::new(0), submissions, questions, failovers: AtomicU64::new(0) }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The nodes, in the order of their places.
    pub fn addresses(&self) -> impl Iterator<Item = &NodeAddress> {
        self.nodes.iter().map(|node| &node.at)
    }

    /// How often a call went on to another node.
    pub fn failovers(&self) -> u64 {
        self.failovers.load(Ordering::Relaxed)
    }

    /// Submits payments, at most [`SUBMISSION_PAYMENTS_MAX`], and gives a verdict for each in order. Those that a node
    /// cannot take just now ([`Refusal::Overloaded`], [`Refusal::DiskFull`]) go to the next one.
    ///
    /// # Errors
    /// Besides those of any call [`PoolError::Unclear`]: a refusal says that a payment is not taken only if no other node
    /// may have taken it in this call. The same bytes again, a little later, give an answer.
    pub async fn submit(&self, payments: &[Payment]) -> Result<Vec<Verdict>, PoolError> {
        let mut verdicts: Vec<_> = payments.iter().map(|_| Err(PoolError::NoNode { attempts: Vec::new() })).collect();
        self.submit_each(payments, |place, verdict| verdicts[place] = verdict).await?;
        verdicts.into_iter().collect()
    }

    /// As [`Self::submit`], for payments of several clients: `answered` is told the place and the verdict of each as soon as
    /// it is known, whatever the others still wait for, and what is unclear of one says nothing of the others.
    ///
    /// # Errors
    /// Then no place was answered, and all of them share the error.
    pub async fn submit_each(
        &self,
        payments: &[Payment],
        mut answered: impl FnMut(usize, Result<Verdict, PoolError>),
    ) -> Result<(), PoolError> {
        check_count(payments.len(), SUBMISSION_PAYMENTS_MAX)?;
        let mut call = self.begin(&self.submissions, self.config.in_flight_max)?;
        let mut open: Vec<(usize, Option<Verdict>)> = (0..payments.len()).map(|place| (place, None)).collect();
        // Those that are still open may have been taken by a node that did not say so.
        let mut doubtful = false;
        while let Some(node) = call.next_node() {
            let sent = open.iter().map(|(place, _)| payments[*place]).collect();
            let reply = match call.ask(node, &encode(&Request::Submit(sent))).await {
                Some(Reply::Submitted(reply)) if reply.len() == open.len() => reply,
                reply => {
                    if reply.is_some() {
                        call.failed(node, NodeError::OtherReply);
                    }
                    doubtful |= call.attempts.last().is_some_and(|attempt| attempt.failure.is_unclear());
                    continue;
                }
            };
            let mut verdicts = reply.into_iter();
            open.retain_mut(|(place, last)| {
                let verdict = verdicts.next().expect("the lengths are equal");
                *last = Some(verdict);
                let is_open = is_nodes_trouble(&verdict);
                if !is_open {
                    answered(*place, judged(verdict, doubtful));
                }
                is_open
            });
            if open.is_empty() {
                return Ok(());
            }
            // There is an answer to give: it does not wait for nodes that do not answer.
            call.remaining.retain(|node| !self.nodes[*node].is_sick());
        }
        if open.iter().any(|(_, last)| last.is_none()) {
            return Err(call.into_error());
        }
        for (place, verdict) in open {
            let verdict = verdict.expect("looked at above");
            answered(place, judged(verdict, doubtful));
        }
        Ok(())
    }

    /// An account at the head of some node.
    pub async fn account(&self, id: AccountId) -> Result<AccountInfo, PoolError> {
        self.any(&Request::Account(id), |reply| match reply {
            Reply::Account(info) => Some(info),
            _ => None,
        })
        .await
    }

    /// How many nodes hold each of these payments in their pools, by some node's knowledge; 0 for those that are in none.
    pub async fn pending(&self, ids: Vec<TransactionId>) -> Result<Vec<u16>, PoolError> {
        check_count(ids.len(), STATUS_IDS_MAX)?;
        let expected = ids.len();
        self.any(&Request::Pending(ids), |reply| match reply {
            Reply::Pending(copies) if copies.len() == expected => Some(copies),
            _ => None,
        })
        .await
    }

    /// Where some node stands.
    pub async fn any_node_info(&self) -> Result<NodeInfo, PoolError> {
        self.any(&Request::Node, node_info_of).await
    }

    /// Where the node at `place` stands.
    ///
    /// # Panics
    /// If there is no such place.
    pub async fn node_info(&self, place: usize) -> Result<NodeInfo, NodeError> {
        let node = &self.nodes[place];
        let reply = node.ask(encode(&Request::Node), self.config.attempt_timeout).await?;
        node_info_of(reply).ok_or(NodeError::OtherReply)
    }

    async fn any<T>(&self, request: &Request, read: impl Fn(Reply) -> Option<T>) -> Result<T, PoolError> {
        let mut call = self.begin(&self.questions, self.config.questions_max)?;
        let body = encode(request);
        while let Some(node) = call.next_node() {
            let Some(reply) = call.ask(node, &body).await else { continue };
            match read(reply) {
                Some(answer) => return Ok(answer),
                None => call.failed(node, NodeError::OtherReply),
            }
        }
        Err(call.into_error())
    }

    fn begin<'a>(&'a self, places: &'a Semaphore, in_flight_max: usize) -> Result<Call<'a>, PoolError> {
        let permit = places.try_acquire().map_err(|_| PoolError::Busy { in_flight_max })?;
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let turns = (0..self.nodes.len()).map(|step| first.wrapping_add(step) % self.nodes.len());
        let mut order: Vec<(Standing, usize)> = turns.map(|node| (self.nodes[node].standing(), node)).collect();
        order.sort_by_key(|(standing, _)| *standing);
        let order = order.into_iter().rev().map(|(_, node)| node).collect();
        let deadline = Instant::now() + self.config.call_timeout;
        Ok(Call { pool: self, _permit: permit, remaining: order, deadline, asked: false, attempts: Vec::new() })
    }
}

fn encode(request: &Request) -> Bytes {
    Bytes::from(encode_request(request))
}

fn node_info_of(reply: Reply) -> Option<NodeInfo> {
    match reply {
        Reply::Node(info) => Some(info),
        _ => None,
    }
}

/// Whether another node may take it though this one did not. One that is cut off from the others judges windows by an old
/// final block.
const fn is_nodes_trouble(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Refused(Refusal::Overloaded { .. } | Refusal::DiskFull | Refusal::SequenceOutOfWindow))
}

/// What a verdict says if a node that did not answer may have taken the payment before.
fn judged(verdict: Verdict, doubtful: bool) -> Result<Verdict, PoolError> {
    match verdict {
        Verdict::Refused(refusal) if doubtful && !is_of_the_bytes(&refusal) => Err(PoolError::Unclear { refusal }),
        clear => Ok(clear),
    }
}

/// Whether the payment's own bytes are at fault, so that no node can have taken it.
const fn is_of_the_bytes(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::WrongNetwork { .. }
        | Refusal::UnknownToken
        | Refusal::ZeroAmount
        | Refusal::ToSelf
        | Refusal::UnknownFlags { .. }
        | Refusal::BadSignature => true,
        Refusal::Expired
        | Refusal::ValidUntilTooFar { .. }
        | Refusal::SequenceUsed
        | Refusal::SequenceOutOfWindow
        | Refusal::SequencePending { .. }
        | Refusal::UnknownAccount
        | Refusal::UnknownReceiver
        | Refusal::PendingLimit { .. }
        | Refusal::Overloaded { .. }
        | Refusal::DiskFull => false,
    }
}

fn check_count(found: usize, limit: usize) -> Result<(), PoolError> {
    if (1..=limit).contains(&found) { Ok(()) } else { Err(PoolError::WrongCount { found, limit }) }
}

/// One call on its way from node to node.
struct Call<'a> {
    pool: &'a NodePool,
    _permit: SemaphorePermit<'a>,
    /// Nodes not yet asked, the next one last.
    remaining: Vec<usize>,
    deadline: Instant,
    asked: bool,
    attempts: Vec<Attempt>,
}

impl Call<'_> {
    /// The node to ask now; `None` when all were asked or the time is over.
    fn next_node(&mut self) -> Option<usize> {
        if Instant::now() >= self.deadline {
            return None;
        }
        let node = self.remaining.pop()?;
        if std::mem::replace(&mut self.asked, true) {
            self.pool.failovers.fetch_add(1, Ordering::Relaxed);
        }
        Some(node)
    }

    /// Asks a node. `None` if it gave no reply or refused the request; that is noted.
    async fn ask(&mut self, node: usize, body: &Bytes) -> Option<Reply> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        let timeout = self.pool.config.attempt_timeout.min(remaining);
        match self.pool.nodes[node].ask(body.clone(), timeout).await {
            Ok(Reply::Refused(error)) => self.failed(node, error),
            Ok(reply) => return Some(reply),
            Err(error) => self.failed(node, error),
        }
        None
    }

    fn failed(&mut self, node: usize, failure: impl Into<AttemptFailure>) {
        let (address, failure) = (self.pool.nodes[node].at.address.clone(), failure.into());
        tracing::debug!(node = %address, %failure, "a node failed a call");
        self.attempts.push(Attempt { node, address, failure });
    }

    fn into_error(self) -> PoolError {
        let retry = self.attempts.iter().filter_map(|attempt| match &attempt.failure {
            AttemptFailure::Refused(RequestError::Overloaded { retry_after_ms }) => Some(*retry_after_ms),
            _ => None,
        });
        // "At its limit" says that nothing was taken, which holds only if no other attempt may have got through.
        let unclear = self.attempts.iter().any(|attempt| attempt.failure.is_unclear());
        match retry.min().filter(|_| !unclear) {
            Some(retry_after_ms) => PoolError::Overloaded { retry_after_ms },
            None => PoolError::NoNode { attempts: self.attempts },
        }
    }
}
