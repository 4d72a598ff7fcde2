//! Payments that clients submit one at a time, sent to the nodes together: a request costs a node and this server much the
//! same for one payment as for a hundred.
//!
//! Nothing waits for company. While fewer than [`GROUPS_MAX`] groups are on their way, a payment leaves at once, with what
//! came meanwhile; otherwise it leaves with all that wait as soon as a group is answered. So groups grow with the load. A
//! group that a silent node holds up keeps the others waiting for [`OVERDUE`] only, and a payment that one node refuses keeps
//! nobody waiting who came with it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use zeni_client::{NodePool, PoolError};
use zeni_consensus::Verdict;
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_ledger::Payment;

/// Payments that wait to leave, at most.
pub const WAITING_MAX: usize = 4 * SUBMISSION_PAYMENTS_MAX;
/// Groups on their way to nodes, at most, not counting those that are overdue.
pub const GROUPS_MAX: usize = 8;
/// Groups on their way with those that are overdue, at most.
pub const GROUPS_WITH_OVERDUE_MAX: usize = 64;
/// A group that is not answered after so long gives its place to the next.
pub const OVERDUE: Duration = Duration::from_millis(500);

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
        tokio::spawn(gather(nodes, taken, in_flight_max.clamp(1, GROUPS_WITH_OVERDUE_MAX)));
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
    let (places, all_places) = (semaphore(groups_max.min(GROUPS_MAX)), semaphore(groups_max));
    loop {
        let open = "a semaphore is never closed";
        let of_all = Arc::clone(&all_places).acquire_owned().await.expect(open);
        let place = Arc::clone(&places).acquire_owned().await.expect(open);
        let mut group = Vec::new();
        if waiting.recv_many(&mut group, SUBMISSION_PAYMENTS_MAX).await == 0 {
            return;
        }
        // Nothing was promised to who left before it was sent.
        group.retain(|one| !one.reply.is_closed());
        if !group.is_empty() {
            let nodes = Arc::clone(&nodes);
            tokio::spawn(async move {
                let mut sending = pin!(send(&nodes, group));
                if timeout(OVERDUE, &mut sending).await.is_err() {
                    drop(place);
                    sending.await;
                }
                drop(of_all);
            });
        }
    }
}

fn semaphore(places: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(places))
}

async fn send(nodes: &NodePool, group: Vec<Waiting>) {
    metrics::counter!("zeni_api_gathered_groups_total").increment(1);
    let mut payments: Vec<Payment> = Vec::new();
    // The same bytes twice are one payment: a node would tell the second to come back when the first is taken.
    let mut places: HashMap<Payment, usize> = HashMap::new();
    let mut replies: Vec<Vec<oneshot::Sender<Result<Verdict, PoolError>>>> = Vec::new();
    for Waiting { payment, reply } in group {
        let place = *places.entry(payment).or_insert(payments.len());
        if place == payments.len() {
            payments.push(payment);
            replies.push(Vec::with_capacity(1));
        }
        replies[place].push(reply);
    }
    let mut answer = |place: usize, verdict: Result<Verdict, PoolError>| {
        for reply in replies[place].drain(..) {
            // Who asked may wait no more.
            reply.send(verdict.clone()).ok();
        }
    };
    if let Err(error) = nodes.submit_each(&payments, &mut answer).await {
        (0..payments.len()).for_each(|place| answer(place, Err(error.clone())));
    }
}
