//! Submissions that are answered once their payments got somewhere, or their time is over.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use zeni_ledger::TransactionId;

use crate::api::{Api, PaymentStatus};
use crate::problem::Problem;

/// The longest wait that a client may ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(120);
/// How long is waited if the client does not say: two blocks of 15 s.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Payments that are waited for, of all clients together, at most: each is looked up whenever the chain changes.
pub const WAITING_PAYMENTS_MAX: usize = 65_536;

/// What a submission waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// On disk at a node at least.
    #[default]
    Accepted,
    /// In a block, or at a status that it keeps for ever.
    Included,
    /// At a status that it keeps for ever.
    Final,
}

/// The query of a submission.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    #[serde(default, rename = "wait")]
    pub goal: Goal,
    /// Milliseconds. Of no meaning for [`Goal::Accepted`].
    timeout_ms: Option<u64>,
}

impl Wait {
    /// How long a submission may take beyond what one takes that does not wait. Zero if it asks for too much, which is
    /// refused elsewhere.
    pub fn time(&self) -> Duration {
        let asked = self.timeout_ms.map_or(WAIT_DEFAULT, Duration::from_millis);
        if self.goal > Goal::Accepted && asked <= WAIT_MAX { asked } else { Duration::ZERO }
    }

    /// Refuses a wait that is too long.
    pub fn check(&self) -> Result<(), Problem> {
        let most = WAIT_MAX.as_millis();
        match self.timeout_ms {
            Some(asked) if u128::from(asked) > most => {
                Err(Problem::malformed(format!("timeout_ms is at most {most}")).with("field", "timeout_ms"))
            }
            _ => Ok(()),
        }
    }
}

impl PaymentStatus {
    /// Whether it stays for ever.
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Final(_) | Self::Rejected(..) | Self::Superseded(_) | Self::Expired { .. })
    }

    /// Whether who waits for `goal` waits no more.
    pub fn has_reached(&self, goal: Goal) -> bool {
        match goal {
            Goal::Accepted => true,
            Goal::Included => self.is_terminal() || matches!(self, Self::Included(_)),
            Goal::Final => self.is_terminal(),
        }
    }
}

impl Api {
    /// A place for a submission that waits; taken before anything is submitted.
    pub fn place_to_wait(&self, goal: Goal, payments: usize) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        if goal == Goal::Accepted {
            return Ok(None);
        }
        let places = u32::try_from(payments).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.waiting).try_acquire_many_owned(places);
        taken.map(Some).map_err(|_| Problem::overloaded("too many payments are waited for; submit without wait", 5))
    }

    /// Waits until all of these payments, as their submission was answered, reached `goal`, until the time is over, the
    /// server stops or the chain cannot be read. The statuses reached by then, in order.
    pub async fn wait(
        &self,
        taken: Vec<(TransactionId, PaymentStatus)>,
        goal: Goal,
        until: Instant,
    ) -> Vec<PaymentStatus> {
        let (mut head, mut last_final) = (self.chronicle.watch(), self.chronicle.watch_final());
        let (mut replayed, mut stopping) = (self.progress.watch_replay(), self.stopping.clone());
        let (ids, mut statuses): (Vec<TransactionId>, Vec<PaymentStatus>) = taken.into_iter().unzip();
        loop {
            head.mark_unchanged();
            last_final.mark_unchanged();
            // Before, the index stands elsewhere than what was told before the start.
            if *replayed.borrow_and_update() {
                // What was submitted is taken all the same; the log says what failed.
                let Ok(looked) = self.chain_statuses(ids.clone()).await else { return statuses };
                for (status, looked) in statuses.iter_mut().zip(looked) {
                    // Forgotten here is not unknown.
                    if looked != PaymentStatus::Unknown {
                        *status = looked;
                    }
                }
            }
            let done = statuses.iter().all(|status| status.has_reached(goal));
            if done || Instant::now() >= until || *stopping.borrow_and_update() {
                return statuses;
            }
            let alive = tokio::select! {
                changed = head.changed() => changed.is_ok(),
                changed = last_final.changed() => changed.is_ok(),
                changed = replayed.changed() => changed.is_ok(),
                changed = stopping.changed() => changed.is_ok(),
                () = sleep_until(until) => true,
            };
            if !alive {
                return statuses;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wait_for_more_than_acceptance_takes_longer_and_never_longer_than_the_bound() {
        let wait = |goal, timeout_ms| Wait { goal, timeout_ms };
        assert_eq!(wait(Goal::Accepted, Some(5)).time(), Duration::ZERO);
        assert_eq!(wait(Goal::Included, None).time(), WAIT_DEFAULT);
        assert_eq!(wait(Goal::Final, Some(120_000)).time(), WAIT_MAX);
        assert!(wait(Goal::Final, Some(120_000)).check().is_ok());
        assert_eq!(wait(Goal::Final, Some(120_001)).time(), Duration::ZERO);
        assert_eq!(wait(Goal::Final, Some(120_001)).check().unwrap_err().code, "malformed");
    }
}
