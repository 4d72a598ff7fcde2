//! What every route shares, and the answers that are more than one look-up.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use zeni_client::{NodePool, PoolError};
use zeni_consensus::{Refusal, Verdict};
use zeni_ledger::{AccountId, Outcome, Payment, Rejection, TransactionId};

use crate::chronicle::{Chronicle, ChronicleError, Inclusion};
use crate::config::Limits;
use crate::follower::{AccountQuery, AccountView, Question};
use crate::pending::Pending;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::submissions::{Promise, Submissions};

/// How long nodes may take to tell the copies of a payment, before those that are known here are told.
const COPIES_WAIT: Duration = Duration::from_secs(1);

/// State of the server, shared by all requests.
#[derive(Debug)]
pub struct Api {
    pub chronicle: Arc<Chronicle>,
    pub nodes: Arc<NodePool>,
    pub progress: Arc<Progress>,
    pub submissions: Submissions,
    /// To the nodes' pools.
    pub pending: Pending,
    /// To the follower's state.
    pub questions: mpsc::Sender<Question>,
    pub limits: Limits,
    pub metrics: PrometheusHandle,
    /// Event streams that may still be opened.
    pub event_streams: Arc<Semaphore>,
    /// Proofs that may still be put together at the same time.
    pub proofs: Arc<Semaphore>,
    /// Becomes true when the server stops: event streams end then.
    pub stopping: watch::Receiver<bool>,
}

/// What became of a submitted payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    Accepted {
        copies: u16,
    },
    Known {
        copies: u16,
    },
    /// It stands on the chain already: a repeated submission.
    OnChain(Inclusion),
    Refused(Refusal),
}

/// How certain a payment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentStatus {
    /// On disk at `copies` nodes.
    Accepted {
        copies: u16,
        accepted_ms: Option<u64>,
        /// Another payment used its sequence: unless a reorganisation takes that one back, no block can execute this
        /// one. Not yet `rejected`, which is for ever.
        superseded: bool,
    },
    Included(Inclusion),
    Rejected(Inclusion, Rejection),
    /// Its validity ended before a block took it, and no node holds it any more.
    Expired {
        valid_until: u32,
    },
    Unknown,
}

impl Api {
    /// Submits payments to a node, and to another one if it does not answer in time. Answers for each in order, once at
    /// least one node has on disk what is accepted.
    pub async fn submit(&self, payments: &[Payment]) -> Result<Vec<(TransactionId, Submitted)>, Problem> {
        let deadline = Instant::now() + self.limits.answer_timeout();
        let verdicts = self.nodes.submit(payments).await.map_err(|error| pool_problem(&error))?;
        let genesis = self.chronicle.genesis_id();
        let ids: Vec<TransactionId> = payments.iter().map(|payment| payment.id(&genesis)).collect();
        self.remember(payments, &ids, &verdicts);
        let used = |verdict: &Verdict| *verdict == Verdict::Refused(Refusal::SequenceUsed);
        let repeated = ids.iter().zip(payments).zip(&verdicts).filter(|(_, verdict)| used(verdict));
        let repeated: Vec<(TransactionId, Payment)> = repeated.map(|((id, payment), _)| (*id, *payment)).collect();
        // Others of the call may have been taken already, so no failure from here on says that none was.
        let users = self.who_used(&repeated, deadline).await.map_err(|problem| {
            tracing::info!(problem = problem.code, "a submission is unclear");
            Problem::unclear()
        });
        let mut users = users?.into_iter();
        let judge = |verdict: Verdict| match verdict {
            Verdict::Accepted { copies } => Submitted::Accepted { copies },
            Verdict::Known { copies } => Submitted::Known { copies },
            // The sequence may have been used by this very payment.
            Verdict::Refused(Refusal::SequenceUsed) => {
                users.next().flatten().map_or(Submitted::Refused(Refusal::SequenceUsed), Submitted::OnChain)
            }
            Verdict::Refused(refusal) => Submitted::Refused(refusal),
        };
        let answers: Vec<_> = ids.into_iter().zip(verdicts.into_iter().map(judge)).collect();
        count(&answers);
        Ok(answers)
    }

    fn remember(&self, payments: &[Payment], ids: &[TransactionId], verdicts: &[Verdict]) {
        let accepted_ms = unix_ms();
        let promises = payments.iter().zip(ids).zip(verdicts).filter_map(|((payment, id), verdict)| match verdict {
            Verdict::Accepted { copies } | Verdict::Known { copies } => {
                let (valid_until, from) = (payment.valid_until(), payment.from());
                let sequence = payment.sequence();
                Some((*id, Promise { copies: *copies, valid_until, accepted_ms, from, sequence }))
            }
            Verdict::Refused(_) => None,
        });
        self.submissions.remember(promises);
    }

    /// Questions about the chain wait until the one that was on disk at the start is executed and indexed: before, old
    /// balances would be told, and blocks that were told already would seem to be taken back.
    pub fn require_replayed(&self) -> Result<(), Problem> {
        self.progress.replayed().map_err(|reason| Problem::not_ready(reason.to_string()))
    }

    async fn find(&self, id: TransactionId) -> Result<Option<Inclusion>, Problem> {
        self.read(move |chronicle| chronicle.find(&id)).await
    }

    /// Reads from the log or the index, on a thread that may wait for the disk.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Chronicle) -> Result<T, ChronicleError> + Send + 'static,
    ) -> Result<T, Problem> {
        let chronicle = Arc::clone(&self.chronicle);
        match tokio::task::spawn_blocking(move || read(&chronicle)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                tracing::error!(%error, "reading the chain failed");
                Err(Problem::internal())
            }
            Err(error) => {
                tracing::error!(%error, "a reading task failed");
                Err(Problem::internal())
            }
        }
    }

    /// How certain a payment is: by the chain, by what nodes promised through this server, or by what nodes say.
    pub async fn status(&self, id: TransactionId) -> Result<PaymentStatus, Problem> {
        if let Some(inclusion) = self.find(id).await? {
            return Ok(executed(inclusion));
        }
        let promise = self.submissions.find(&id);
        if let Some(promise) = promise.filter(|promise| !self.is_over(promise.valid_until)) {
            return self.promised(id, promise).await;
        }
        let copies = match self.pending.copies(id).await {
            Ok(copies) => copies,
            // Without a node's word, a promise still stands.
            Err(_) if promise.is_some() => promise.map_or(0, |promise| promise.copies),
            Err(problem) => return Err(problem),
        };
        if copies > 0 {
            let accepted_ms = promise.map(|promise| promise.accepted_ms);
            return Ok(PaymentStatus::Accepted { copies, accepted_ms, superseded: false });
        }
        // A block may have taken it from the pool between the two questions.
        if let Some(inclusion) = self.find(id).await? {
            return Ok(executed(inclusion));
        }
        Ok(promise
            .map_or(PaymentStatus::Unknown, |promise| PaymentStatus::Expired { valid_until: promise.valid_until }))
    }

    /// The status of a payment that nodes promised through this server and no block was seen to hold.
    async fn promised(&self, id: TransactionId, promise: Promise) -> Result<PaymentStatus, Problem> {
        let used = self.sequences(vec![(promise.from, promise.sequence)]).await?.used;
        // The index was published before the state answered: what used the sequence can be found, if it is this one.
        if let Some(inclusion) = self.find(id).await? {
            return Ok(executed(inclusion));
        }
        let superseded = used.first().copied().unwrap_or(false);
        let everywhere = usize::from(promise.copies) >= self.chronicle.genesis().validators.len();
        let mut copies = promise.copies;
        if !everywhere && let Ok(Ok(told)) = timeout(COPIES_WAIT, self.pending.copies(id)).await {
            copies = self.submissions.grow(&id, told).map_or(copies.max(told), |promise| promise.copies);
        }
        Ok(PaymentStatus::Accepted { copies, accepted_ms: Some(promise.accepted_ms), superseded })
    }

    /// Whether blocks from now on are too late for a payment valid until then.
    fn is_over(&self, valid_until: u32) -> bool {
        let head_ms = self.chronicle.genesis().slot_time_ms(self.chronicle.head().slot);
        u64::from(valid_until) * 1_000 < head_ms
    }

    /// An account at the head.
    pub async fn account(&self, id: AccountId, with_proof: bool) -> Result<AccountView, Problem> {
        self.ask(|reply| Question::Account(AccountQuery { id, with_proof, reply })).await
    }
}

fn executed(inclusion: Inclusion) -> PaymentStatus {
    match inclusion.outcome {
        Outcome::Applied => PaymentStatus::Included(inclusion),
        Outcome::Rejected(rejection) => PaymentStatus::Rejected(inclusion, rejection),
    }
}

pub(crate) fn pool_problem(error: &PoolError) -> Problem {
    match error {
        PoolError::Busy { .. } => Problem::overloaded(error.to_string(), 1),
        PoolError::Overloaded { retry_after_ms } => {
            Problem::overloaded(error.to_string(), retry_after_ms.div_ceil(1_000).max(1))
        }
        PoolError::NoNode { .. } => {
            tracing::warn!(%error, "no node answers");
            Problem::no_node("no node answered in time; send the same signed bytes again, which is always safe")
        }
        PoolError::Unclear { .. } => {
            tracing::info!(%error, "a submission is unclear");
            Problem::unclear()
        }
        PoolError::WrongCount { .. } => Problem::too_large(error.to_string()),
    }
}

fn count(answers: &[(TransactionId, Submitted)]) {
    let verdict = |submitted: &Submitted| match submitted {
        Submitted::Accepted { .. } => "accepted",
        Submitted::Known { .. } => "known",
        Submitted::OnChain(_) => "on_chain",
        Submitted::Refused(refusal) => refusal.code(),
    };
    // Most calls have one verdict for all, so runs of equal ones are counted at once.
    for run in answers.chunk_by(|(_, left), (_, right)| verdict(left) == verdict(right)) {
        let verdict = verdict(&run[0].1);
        metrics::counter!("zeni_api_submissions_total", "verdict" => verdict).increment(run.len() as u64);
    }
}

/// Now, in Unix milliseconds.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
