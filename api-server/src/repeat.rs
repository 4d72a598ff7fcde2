//! Whether a payment whose sequence a node calls used is the one that used it.
//!
//! A node refuses by its own head, which may be ahead of what is executed and indexed here. "Another payment used the
//! sequence" is said only when the state here has it used, the index is as far as that state, and no node is known to be
//! ahead; until then the answer waits, and if the time is over it is that the fate is unclear.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use zeni_ledger::{AccountId, Payment, Sequence, TransactionId};

use crate::api::Api;
use crate::chronicle::{Inclusion, SequenceUse};
use crate::follower::{Question, SequenceQuery, SequenceView};
use crate::problem::Problem;

/// Between two looks while the head stands still: what nodes tell of their heights changes without it.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Who used the sequence of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Itself(Inclusion),
    /// `None` if the index does not tell which.
    Another(Option<SequenceUse>),
}

impl Api {
    /// Of each payment whose sequence a node calls used: who used it.
    pub(crate) async fn who_used(
        &self,
        payments: &[(TransactionId, Payment)],
        deadline: Instant,
    ) -> Result<Vec<User>, Problem> {
        let mut answers = vec![None; payments.len()];
        let mut open: Vec<usize> = (0..payments.len()).collect();
        let mut head = self.chronicle.watch();
        if open.is_empty() {
            return Ok(Vec::new());
        }
        loop {
            head.mark_unchanged();
            // Asked before the index is, so that whatever the state has used can be found there.
            let sequences = open.iter().map(|place| &payments[*place].1).map(|one| (one.from(), one.sequence()));
            let view = self.sequences(sequences.collect()).await?;
            let ids: Vec<TransactionId> = open.iter().map(|place| payments[*place].0).collect();
            let found = self.find_all(ids).await?;
            let current = self.progress.replayed().is_ok() && self.progress.lag() == 0;
            let decided = current && self.chronicle.head().height >= view.height;
            let looked = std::mem::take(&mut open).into_iter().zip(found.into_iter().zip(view.used));
            for (place, (found, used)) in looked {
                answers[place] = found;
                if found.is_none() && !(used && decided) {
                    open.push(place);
                }
            }
            if open.is_empty() {
                return self.users(payments, answers).await;
            }
            if Instant::now() >= deadline {
                return Err(Problem::unclear());
            }
            let look = (Instant::now() + LOOK_INTERVAL).min(deadline);
            tokio::select! {
                // An error would mean that the chronicle is gone, which this request holds.
                _ = head.changed() => {}
                () = sleep_until(look) => {}
            }
        }
    }

    /// Names the users of the sequences that payments did not use themselves.
    async fn users(
        &self,
        payments: &[(TransactionId, Payment)],
        found: Vec<Option<Inclusion>>,
    ) -> Result<Vec<User>, Problem> {
        let looked = found.into_iter().zip(payments.iter().map(|(_, one)| (one.from(), one.sequence())));
        let looked: Vec<_> = looked.collect();
        self.read(move |chronicle| {
            let users = looked.iter().map(|(found, (from, sequence))| match found {
                Some(inclusion) => Ok(User::Itself(*inclusion)),
                None => chronicle.user_of(from, *sequence).map(User::Another),
            });
            users.collect()
        })
        .await
    }

    async fn find_all(&self, ids: Vec<TransactionId>) -> Result<Vec<Option<Inclusion>>, Problem> {
        self.read(move |chronicle| ids.iter().map(|id| chronicle.find(id)).collect()).await
    }

    /// Which of these sequences of accounts are used at the head.
    pub(crate) async fn sequences(&self, sequences: Vec<(AccountId, Sequence)>) -> Result<SequenceView, Problem> {
        self.ask(|reply| Question::Sequences(SequenceQuery { sequences, reply })).await
    }

    /// Asks the follower's thread.
    pub(crate) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        self.questions.try_send(question(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Problem::overloaded("too many questions for accounts wait", 1),
            mpsc::error::TrySendError::Closed(_) => Problem::not_ready("the server is stopping"),
        })?;
        answer.await.map_err(|_| Problem::not_ready("the server is stopping"))
    }
}
