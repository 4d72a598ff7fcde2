//! Payments that clients submit one at a time, sent to the nodes together: a request costs a node and this server much the
//! same for one payment as for a hundred.
//!
//! Nothing waits for company. While fewer than [`GROUPS_MAX`] groups are on their way, a payment leaves at once, with what
//! came meanwhile; otherwise it leaves with all that wait as soon as a group is answered. So groups grow with the load.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use zeni_client::{NodePool, PoolError};
use zeni_consensus::Verdict;
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_ledger::Payment;

/// Payments that wait to leave, at most.
pub const WAITING_MAX: usize = 4 * SUBMISSION_PAYMENTS_MAX;
/// Groups on their way to nodes, at most.
pub const GROUPS_MAX: usize = 8;

/// Takes single payments.
#[derive(Debug, Clone)]
pub struct Gathering {
    waiting: mpsc::Sender<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    payment: Payment,
    reply: oneshot::Sender<Result<Verdict, PoolError>>,
}

impl Gathering {
    /// Starts the task that sends; it ends once nobody can submit any more. At most `in_flight_max` groups are on their way,
    /// because the pool takes no more. Within a tokio runtime.
    pub fn start(nodes: Arc<NodePool>, in_flight_max: usize) -> Self {
        let (waiting, taken) = mpsc::channel(WAITING_MAX);
        tokio::spawn(gather(nodes, taken, in_flight_max.clamp(1, GROUPS_MAX)));
        Self { waiting }
    }

    /// As [`NodePool::submit`], of one payment.
    ///
    /// # Errors
    /// Besides those of the pool [`PoolError::Busy`] if [`WAITING_MAX`] payments wait.
    pub async fn submit(&self, payment: Payment) -> Result<Verdict, PoolError> {
        let (reply, answer) = oneshot::channel();
        let busy = |_| PoolError::Busy { in_flight_max: WAITING_MAX };
        self.waiting.try_send(Waiting { payment, reply }).map_err(busy)?;
        // The task drops no payment that somebody waits for, unless the runtime ends.
        answer.await.unwrap_or(Err(PoolError::NoNode { attempts: Vec::new() }))
    }
}

async fn gather(nodes: Arc<NodePool>, mut waiting: mpsc::Receiver<Waiting>, groups_max: usize) {
    let places = Arc::new(Semaphore::new(groups_max));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let mut group = Vec::new();
        if waiting.recv_many(&mut group, SUBMISSION_PAYMENTS_MAX).await == 0 {
            return;
        }
        // Nothing was promised to who left before it was sent.
        group.retain(|one| !one.reply.is_closed());
        if !group.is_empty() {
            let nodes = Arc::clone(&nodes);
            tokio::spawn(async move {
                send(&nodes, group).await;
                drop(place);
            });
        }
    }
}

async fn send(nodes: &NodePool, group: Vec<Waiting>) {
    metrics::counter!("zeni_api_gathered_groups_total").increment(1);
    let payments: Vec<Payment> = group.iter().map(|one| one.payment).collect();
    let mut answers = nodes.submit_each(&payments).await.map(Vec::into_iter);
    for one in group {
        let answer = match &mut answers {
            Ok(answers) => answers.next().unwrap_or(Err(PoolError::NoNode { attempts: Vec::new() })),
            Err(error) => Err(error.clone()),
        };
        // Who asked may wait no more.
        one.reply.send(answer).ok();
    }
}
