//! What every route shares, and the answers that are more than one look-up.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use zeni_client::{NodePool, PoolError};
use zeni_consensus::{Refusal, Verdict};
use zeni_ledger::{AccountId, Outcome, Payment, Rejection, TransactionId};
use zeni_storage::{DiskFiles, EvidenceFile};

use crate::chronicle::{Chronicle, ChronicleError, Inclusion, OpenStanding, SequenceUse, Standing, Terms};
use crate::config::Limits;
use crate::follower::{AccountQuery, AccountView, Question};
use crate::gathering::Gathering;
use crate::pending::Pending;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::repeat::User;
use crate::submissions::{Promise, Submissions};

/// How long nodes may take to tell the copies of a payment, before those that are known here are told.
const COPIES_WAIT: Duration = Duration::from_secs(1);

/// State of the server, shared by all requests.
#[derive(Debug)]
pub struct Api {
    pub chronicle: Arc<Chronicle>,
    pub nodes: Arc<NodePool>,
    pub progress: Arc<Progress>,
    /// What the followed nodes showed against validators.
    pub evidence: Arc<EvidenceFile<DiskFiles>>,
    pub submissions: Submissions,
    /// To the nodes' pools.
    pub pending: Pending,
    /// Payments that come one at a time.
    pub gathering: Gathering,
    /// To the follower's state.
    pub questions: mpsc::Sender<Question>,
    pub limits: Limits,
    pub metrics: PrometheusHandle,
    /// Event streams that may still be opened.
    pub event_streams: Arc<Semaphore>,
    /// Proofs that may still be put together at the same time.
    pub proofs: Arc<Semaphore>,
    /// Payments that may still be waited for.
    pub waiting: Arc<Semaphore>,
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
    /// Refused: another payment used its sequence. `None` if the index does not tell which.
    SequenceUsed(Option<SequenceUse>),
    Refused(Refusal),
}

impl Submitted {
    /// How certain it is by the answer alone; `None` if it was refused.
    pub const fn taken(&self) -> Option<PaymentStatus> {
        match self {
            Self::Accepted { copies } | Self::Known { copies } => {
                Some(PaymentStatus::Accepted { copies: *copies, accepted_ms: None, doubt: None })
            }
            Self::OnChain(inclusion) => Some(executed(*inclusion)),
            Self::SequenceUsed(_) | Self::Refused(_) => None,
        }
    }
}

/// How certain a payment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentStatus {
    /// On disk at `copies` nodes.
    Accepted {
        copies: u16,
        accepted_ms: Option<u64>,
        /// Why it will probably not be executed.
        doubt: Option<Doubt>,
    },
    /// Executed, applied or rejected, in a block that can still be taken back.
    Included(Inclusion),
    /// For ever: executed, and money moved.
    Final(Inclusion),
    /// For ever: executed, and no money moved.
    Rejected(Inclusion, Rejection),
    /// For ever: another payment used its sequence.
    Superseded(SequenceUse),
    /// For ever: its validity ended before a block took it.
    Expired {
        valid_until: u32,
    },
    Unknown,
}

/// What only a reorganisation can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// Another payment used its sequence.
    SequenceUsed(SequenceUse),
    /// The head is too late for it.
    Late,
}

impl Api {
    /// Submits payments to a node, and to another one if it does not answer in time. Answers for each in order, once at
    /// least one node has on disk what is accepted.
    pub async fn submit(&self, payments: &[Payment]) -> Result<Vec<(TransactionId, Submitted)>, Problem> {
        let deadline = Instant::now() + self.limits.answer_timeout();
        let verdicts = self.nodes.submit(payments).await.map_err(|error| pool_problem(&error))?;
        self.judge(payments, verdicts, deadline).await
    }

    /// As [`Self::submit`], of one payment, which goes to a node together with others that come at the same time.
    pub async fn submit_one(&self, payment: Payment) -> Result<(TransactionId, Submitted), Problem> {
        let deadline = Instant::now() + self.limits.answer_timeout();
        let verdict = self.gathering.submit(payment).await.map_err(|error| pool_problem(&error))?;
        let answers = self.judge(&[payment], vec![verdict], deadline).await?;
        answers.into_iter().next().ok_or_else(Problem::internal)
    }

    /// What the verdicts of nodes mean for who submitted these payments.
    async fn judge(
        &self,
        payments: &[Payment],
        verdicts: Vec<Verdict>,
        deadline: Instant,
    ) -> Result<Vec<(TransactionId, Submitted)>, Problem> {
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
            Verdict::Refused(Refusal::SequenceUsed) => match users.next() {
                Some(User::Itself(inclusion)) => Submitted::OnChain(inclusion),
                Some(User::Another(used)) => Submitted::SequenceUsed(used),
                None => Submitted::SequenceUsed(None),
            },
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
                let (from, sequence) = (payment.from(), payment.sequence());
                let terms = Terms { from, sequence, valid_until: payment.valid_until() };
                Some((*id, Promise { copies: *copies, accepted_ms, terms }))
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
        let known = self.chain_status(id).await?;
        let promise = self.submissions.find(&id);
        match (known, promise) {
            (PaymentStatus::Accepted { accepted_ms, doubt, .. }, Some(promise)) => {
                let copies = self.copies(id, promise).await;
                Ok(PaymentStatus::Accepted { copies, accepted_ms, doubt })
            }
            // Only a node can know it; or nobody asked through this server, and a block listed it and skipped it.
            (PaymentStatus::Unknown | PaymentStatus::Accepted { .. }, None) => {
                let told = self.pending.copies(id).await;
                // A block may have taken it from the pool between the two questions.
                match self.chain_status(id).await? {
                    PaymentStatus::Accepted { copies, accepted_ms, doubt } => {
                        let copies = copies.max(told.unwrap_or(0));
                        Ok(PaymentStatus::Accepted { copies, accepted_ms, doubt })
                    }
                    PaymentStatus::Unknown => match told? {
                        0 => Ok(PaymentStatus::Unknown),
                        copies => Ok(PaymentStatus::Accepted { copies, accepted_ms: None, doubt: None }),
                    },
                    other => Ok(other),
                }
            }
            (other, _) => Ok(other),
        }
    }

    /// At how many nodes a promised payment is by now.
    async fn copies(&self, id: TransactionId, promise: Promise) -> u16 {
        let everywhere = usize::from(promise.copies) >= self.chronicle.genesis().validators.len();
        if !everywhere && let Ok(Ok(told)) = timeout(COPIES_WAIT, self.pending.copies(id)).await {
            return self.submissions.grow(&id, told).map_or(promise.copies.max(told), |promise| promise.copies);
        }
        promise.copies
    }

    async fn chain_status(&self, id: TransactionId) -> Result<PaymentStatus, Problem> {
        let statuses = self.chain_statuses(vec![id]).await?;
        statuses.first().copied().ok_or_else(Problem::internal)
    }

    /// How certain payments are, in order, by the chain and by what nodes promised through this server: no node is asked.
    pub async fn chain_statuses(&self, ids: Vec<TransactionId>) -> Result<Vec<PaymentStatus>, Problem> {
        let promises: Vec<Option<Promise>> = ids.iter().map(|id| self.submissions.find(id)).collect();
        self.read(move |chronicle| {
            let looks = ids.iter().zip(promises).map(|(id, promise)| {
                let standing = chronicle.standing(id, promise.map(|promise| promise.terms))?;
                Ok(status_of(&standing, promise))
            });
            looks.collect()
        })
        .await
    }

    /// An account at the head.
    pub async fn account(&self, id: AccountId, with_proof: bool) -> Result<AccountView, Problem> {
        self.ask(|reply| Question::Account(AccountQuery { id, with_proof, reply })).await
    }
}

fn status_of(standing: &Standing, promise: Option<Promise>) -> PaymentStatus {
    match standing {
        Standing::Executed(inclusion) => executed(*inclusion),
        Standing::Superseded(used) => PaymentStatus::Superseded(*used),
        Standing::Expired { valid_until } => PaymentStatus::Expired { valid_until: *valid_until },
        Standing::Open(OpenStanding { is_stored, used, is_late }) => {
            let late = is_late.then_some(Doubt::Late);
            let doubt = used.map(Doubt::SequenceUsed).or(late);
            match promise {
                Some(promise) => accepted(&promise, doubt),
                // The node that this server follows has it.
                None if *is_stored => PaymentStatus::Accepted { copies: 1, accepted_ms: None, doubt },
                None => PaymentStatus::Unknown,
            }
        }
    }
}

const fn accepted(promise: &Promise, doubt: Option<Doubt>) -> PaymentStatus {
    PaymentStatus::Accepted { copies: promise.copies, accepted_ms: Some(promise.accepted_ms), doubt }
}

const fn executed(inclusion: Inclusion) -> PaymentStatus {
    match inclusion.outcome {
        _ if !inclusion.is_final => PaymentStatus::Included(inclusion),
        Outcome::Applied => PaymentStatus::Final(inclusion),
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
        Submitted::SequenceUsed(_) => Refusal::SequenceUsed.code(),
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
