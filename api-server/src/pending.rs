//! Asks the nodes which payments wait in their pools, merged: however many clients ask this server, the nodes hear one
//! question at a time, with a pause before the next. So the public reaches no validator at its own pace.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use zeni_client::{NodePool, PoolError};
use zeni_ledger::TransactionId;
use zeni_schemas::request::STATUS_IDS_MAX;

use crate::api::pool_problem;
use crate::problem::Problem;

/// From one question to the next.
const PAUSE: Duration = Duration::from_millis(100);
/// Payments that wait to be asked for, at most.
const WAITING_MAX: usize = 2 * STATUS_IDS_MAX;

/// Takes what clients ask.
#[derive(Debug, Clone)]
pub struct Pending {
    waiting: mpsc::Sender<Asked>,
}

#[derive(Debug)]
struct Asked {
    id: TransactionId,
    reply: oneshot::Sender<Result<u16, PoolError>>,
}

impl Pending {
    /// Starts the task that asks; it ends once nobody can ask it any more. Within a tokio runtime.
    pub fn start(nodes: Arc<NodePool>) -> Self {
        let (waiting, asked) = mpsc::channel(WAITING_MAX);
        tokio::spawn(ask(nodes, asked));
        Self { waiting }
    }

    /// At how many nodes a payment waits, by some node's knowledge; 0 if it is in no pool.
    pub async fn copies(&self, id: TransactionId) -> Result<u16, Problem> {
        let (reply, answer) = oneshot::channel();
        let asked = self.waiting.try_send(Asked { id, reply });
        asked.map_err(|_| Problem::overloaded("too many questions for the nodes wait", 1))?;
        // The task drops no question that it took.
        let answer = answer.await.map_err(|_| Problem::not_ready("the server is stopping"))?;
        answer.map_err(|error| pool_problem(&error))
    }
}

async fn ask(nodes: Arc<NodePool>, mut waiting: mpsc::Receiver<Asked>) {
    let mut asked = Vec::with_capacity(STATUS_IDS_MAX);
    while waiting.recv_many(&mut asked, STATUS_IDS_MAX).await > 0 {
        let next = Instant::now() + PAUSE;
        // Who waits no more needs no answer.
        asked.retain(|one| !one.reply.is_closed());
        if !asked.is_empty() {
            let answer = nodes.pending(asked.iter().map(|one| one.id).collect()).await;
            for (place, one) in asked.drain(..).enumerate() {
                let copies = answer.as_ref().map(|copies| copies.get(place).copied().unwrap_or(0));
                one.reply.send(copies.map_err(PoolError::clone)).ok();
            }
        }
        sleep_until(next).await;
    }
}
