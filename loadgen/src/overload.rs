//! An overload: payments are offered at a rate far above what the ledger clears, whatever is answered.
//!
//! A delivery waits where it is told to, so a full ledger slows it down. Here nothing waits. Each submission is offered
//! once; what is refused goes back among those that may be offered, and is offered again, with the same bytes, once all
//! others that may be were offered. So memory does not grow with what is refused: whether a payment may be offered stands in its
//! line of the book, and there are never more submissions under way than the scenario says. What would be one more is
//! withheld, and told.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_ledger::Payment;

use crate::book::{Book, Tick};
use crate::delivery::{Answer, Failure};
use crate::dispatch::{Dispatch, DispatchError, settled_or_panicked};
use crate::scenario::Overload;
use crate::schedule::{CHUNK_SPAN_US, spaced};

/// Lines of the book that are looked at for one submission, at most: a few milliseconds.
const LOOKED_AT_MAX: u64 = 1 << 20;

/// What was offered, and what came of it. Counts are payments, and each time that one is offered counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Offers {
    /// Microseconds from the start of the storm.
    pub began_us: u64,
    /// When the last one was offered, or the last moment had come at which one was to be.
    pub ended_us: u64,
    /// Wanted.
    pub rate_per_s: u32,
    pub offered: u64,
    /// Taken, now or at an earlier offer of unknown fate.
    pub accepted: u64,
    /// Not taken, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Of those, refusals of whole submissions that named no time to come back.
    pub refused_without_time: u64,
    /// Offers without an answer in time, or whose connection was lost.
    pub unanswered: u64,
    /// Not offered at their time, because too many submissions were under way.
    pub withheld: u64,
    /// Every payment was accepted before the time was over.
    pub ran_out: bool,
}

impl Offers {
    /// Payments a second whose turn really came, those that were withheld included. Below the wanted rate if whoever offers
    /// them has no time to: late moments pass by at once, but they take longer. `None` if no time passed.
    pub fn per_s(&self) -> Option<f64> {
        let span_us = self.ended_us.checked_sub(self.began_us).filter(|span_us| *span_us > 0)?;
        Some((self.offered + self.withheld) as f64 * 1e6 / span_us as f64)
    }

    /// Something was offered now, or the last moment for it has come.
    fn end(&mut self, now_us: u64) {
        self.ended_us = self.ended_us.max(now_us);
    }
}

/// Offers payments as `wanted` says at `rate_per_s`, and waits until all offers are answered or given up. Dropping the
/// future stops everything.
pub async fn offer(dispatch: Arc<Dispatch>, wanted: Overload, rate_per_s: u32) -> Result<Offers, DispatchError> {
    let began_us = dispatch.clock.now_us();
    let until_us = began_us + wanted.duration_s * 1_000_000;
    let rate_per_s = rate_per_s.max(1);
    let together = (u64::from(rate_per_s) * CHUNK_SPAN_US / 1_000_000).clamp(1, SUBMISSION_PAYMENTS_MAX as u64);
    let offers = Arc::new(Mutex::new(Offers { began_us, rate_per_s, ..Offers::default() }));
    let mut cursor = Cursor::new(dispatch.book.len());
    let mut under_way = JoinSet::new();
    for number in 0.. {
        // A submission leaves when its last payment is due.
        let due_us = began_us + spaced((number + 1) * together - 1, rate_per_s);
        if due_us >= until_us {
            break;
        }
        tokio::time::sleep_until(dispatch.clock.instant(due_us).into()).await;
        while let Some(ended) = under_way.try_join_next() {
            settled_or_panicked(ended)?;
        }
        if cursor.is_exhausted(&dispatch.book) && under_way.is_empty() {
            locked(&offers).ran_out = true;
            break;
        }
        let taken = match under_way.len() < wanted.in_flight {
            true => cursor.take(&dispatch.book, together),
            false => Vec::new(),
        };
        locked(&offers).withheld += together - taken.len() as u64;
        if !taken.is_empty() {
            let (dispatch, offers) = (Arc::clone(&dispatch), Arc::clone(&offers));
            under_way.spawn(offer_once(dispatch, offers, number, taken, due_us));
        }
    }
    locked(&offers).end(dispatch.clock.now_us());
    while let Some(ended) = under_way.join_next().await {
        settled_or_panicked(ended)?;
    }
    let offers = locked(&offers).clone();
    Ok(offers)
}

fn locked(offers: &Mutex<Offers>) -> std::sync::MutexGuard<'_, Offers> {
    offers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Offers these payments, which rise, once.
async fn offer_once(
    dispatch: Arc<Dispatch>,
    offers: Arc<Mutex<Offers>>,
    number: u64,
    indices: Vec<u64>,
    due_us: u64,
) -> Result<(), DispatchError> {
    let book = &dispatch.book;
    // What was refused lies scattered, so this may be a thousand reads: not on the threads that keep the time.
    let reading = {
        let dispatch = Arc::clone(&dispatch);
        tokio::task::spawn_blocking(move || read(&dispatch, &indices).map(|payments| (payments, indices)))
    };
    let found = reading.await.map_err(|error| DispatchError::Abort(format!("reading ended unexpectedly: {error}")))?;
    let (payments, indices) = found?;
    indices.iter().for_each(|index| book.send(*index, Tick::from_us(due_us)));
    let count = indices.len() as u64;
    {
        let mut known = locked(&offers);
        known.offered += count;
        known.end(dispatch.clock.now_us());
    }
    let gate = dispatch.router.choose(number, None, |gate| dispatch.gates[gate].is_up(), dispatch.clock.now_us());
    let submitted = dispatch.gates[gate].submit(payments, dispatch.submit_timeout).await;
    let now_us = dispatch.clock.now_us();
    let mut known = locked(&offers);
    match submitted {
        Ok(answers) if answers.len() != indices.len() => {
            return Err(DispatchError::Abort(format!("{} answers to {count} payments", answers.len())));
        }
        Ok(answers) => {
            dispatch.router.trust(gate);
            for (index, answer) in indices.iter().zip(answers) {
                let code = match answer {
                    Answer::SequenceUsed if !book.is_uncertain(*index) => "sequence_used",
                    Answer::Accepted | Answer::SequenceUsed => {
                        known.accepted += 1;
                        if book.accept(*index) {
                            dispatch.with_outcome(|outcome| outcome.accept(due_us, now_us));
                        }
                        continue;
                    }
                    Answer::Later { code, .. } => {
                        *known.refused.entry(code.into()).or_default() += 1;
                        continue;
                    }
                    Answer::Refused { code } => code,
                };
                // Nobody will ever take it: that is told among the storm's refusals, too.
                book.refuse(*index);
                *known.refused.entry(code.into()).or_default() += 1;
                dispatch.with_outcome(|outcome| *outcome.refusals.entry(code).or_default() += 1);
            }
        }
        Err(Failure::Overloaded { after_ms }) => {
            *known.refused.entry("overloaded".into()).or_default() += count;
            known.refused_without_time += if after_ms == 0 { count } else { 0 };
        }
        Err(Failure::Stopping) => *known.refused.entry("stopping".into()).or_default() += count,
        Err(failure @ (Failure::Timeout | Failure::Disconnected(_))) => {
            if failure == Failure::Timeout {
                dispatch.router.suspect(gate, now_us);
            }
            known.unanswered += count;
            indices.iter().for_each(|index| book.doubt(*index));
        }
        Err(Failure::Fatal(what)) => return Err(DispatchError::Abort(what)),
    }
    indices.iter().for_each(|index| book.put_back(*index));
    Ok(())
}

/// Reads payments that lie in the file in this order, neighbours together.
fn read(dispatch: &Dispatch, indices: &[u64]) -> io::Result<Vec<Payment>> {
    let mut payments = Vec::with_capacity(indices.len());
    for run in indices.chunk_by(|one, next| one + 1 == *next) {
        payments.extend(dispatch.file.read(run[0], run.len())?);
    }
    Ok(payments)
}

/// Goes round and round through the payments that may be offered.
#[derive(Debug)]
struct Cursor {
    next: u64,
    end: u64,
    /// None below may be offered any more.
    settled_below: u64,
}

impl Cursor {
    fn new(end: u64) -> Self {
        Self { next: 0, end, settled_below: 0 }
    }

    /// Whether every payment was accepted, or refused for good.
    fn is_exhausted(&mut self, book: &Book) -> bool {
        while self.settled_below < self.end && book.is_settled(self.settled_below) {
            self.settled_below += 1;
        }
        self.settled_below == self.end
    }

    /// Takes up to `count` payments, in rising order, from where it stands on. Fewer if the end comes first, or if too many in
    /// between may not be offered.
    fn take(&mut self, book: &Book, count: u64) -> Vec<u64> {
        if self.next == self.end {
            self.next = self.settled_below;
        }
        let mut taken = Vec::with_capacity(count as usize);
        let looked_at = self.end.min(self.next + LOOKED_AT_MAX);
        while (taken.len() as u64) < count && self.next < looked_at {
            if book.take(self.next) {
                taken.push(self.next);
            }
            self.next += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_what_was_due_in_the_time_that_it_took() {
        let offers =
            Offers { began_us: 2_000_000, ended_us: 6_000_000, offered: 300, withheld: 100, ..Offers::default() };
        assert_eq!(offers.per_s(), Some(100.0));
        assert_eq!(Offers { ended_us: 10_000_000, ..offers.clone() }.per_s(), Some(50.0), "twice the time");
        assert_eq!(Offers { ended_us: 2_000_000, ..offers }.per_s(), None);
    }

    #[test]
    fn all_are_offered_before_any_is_offered_again_and_those_under_way_or_settled_are_left_out() {
        let book = Book::new(7);
        let mut cursor = Cursor::new(7);
        assert_eq!(cursor.take(&book, 3), [0, 1, 2]);
        assert_eq!(cursor.take(&book, 3), [3, 4, 5]);
        book.accept(0);
        book.refuse(4);
        [0, 1, 3, 4, 5].iter().for_each(|index| book.put_back(*index));
        assert_eq!(cursor.take(&book, 3), [6], "the round ends before the next one begins");
        assert_eq!(cursor.take(&book, 9), [1, 3, 5], "0 is accepted, 2 and 6 are under way, 4 is refused for good");
        assert!(!cursor.is_exhausted(&book));
    }

    #[test]
    fn it_is_exhausted_once_everything_is_settled_and_not_while_something_is_under_way() {
        let book = Book::new(3);
        let mut cursor = Cursor::new(3);
        assert_eq!(cursor.take(&book, 3).len(), 3);
        book.accept(0);
        book.accept(1);
        assert!(!cursor.is_exhausted(&book));
        assert_eq!(cursor.take(&book, 3), [0; 0]);
        book.put_back(2);
        assert_eq!(cursor.take(&book, 3), [2]);
        book.refuse(2);
        assert!(cursor.is_exhausted(&book));
    }

    #[test]
    fn it_finds_what_lies_far_behind_after_a_few_looks() {
        let end = 2 * LOOKED_AT_MAX + 5;
        let book = Book::new(end);
        assert!((0..end - 1).all(|index| book.accept(index)));
        let mut cursor = Cursor::new(end);
        let found: Vec<u64> = (0..3).flat_map(|_| cursor.take(&book, 1)).collect();
        assert_eq!(found, [end - 1]);
    }
}
