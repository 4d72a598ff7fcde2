//! Who may bring in more work: payments that are taken in and not yet answered are counted, for all clients together
//! and for each, so that memory stays bounded whatever they send; and none is taken in while as many wait to be executed as
//! may, before anything is spent on them. A refusal says when to come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::config::Limits;
use crate::core_queue::Backlog;

/// The least and greatest time to come back that a refusal names, in milliseconds.
const RETRY_AFTER_MS_MIN: u32 = 20;
const RETRY_AFTER_MS_MAX: u32 = 5_000;
/// How long the drain rate is averaged, in milliseconds.
const RATE_WINDOW_MS: u64 = 500;

/// The node is at a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overload {
    pub retry_after_ms: u32,
}

/// Counts what is taken in and not yet answered.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    payments: AtomicUsize,
    requests: AtomicUsize,
    started: Instant,
    rate: Mutex<DrainRate>,
    closed: AtomicBool,
}

/// The part of one client, over all its connections.
#[derive(Debug, Default)]
pub struct ClientShare {
    payments: AtomicUsize,
    requests: AtomicUsize,
}

/// A request that was taken in. Dropping it, when the answer is on its way, makes room.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    client: Arc<ClientShare>,
    payments: usize,
    /// Whether dropping it means an answer (and not a refusal at the door), which the drain rate counts.
    answered: bool,
}

impl Admission {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            payments: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            started: Instant::now(),
            rate: Mutex::new(DrainRate::default()),
            closed: AtomicBool::new(false),
        }
    }

    /// Takes in a request with so many payments (0: a question), or says when to come back. `backlog`:
    /// what the core has still to execute.
    pub fn admit(
        self: &Arc<Self>,
        client: &Arc<ClientShare>,
        payments: usize,
        backlog: Backlog,
    ) -> Result<Admitted, Overload> {
        let all = self.payments.fetch_add(payments, Ordering::AcqRel) + payments;
        self.requests.fetch_add(1, Ordering::AcqRel);
        let own = client.payments.fetch_add(payments, Ordering::AcqRel) + payments;
        let requests = client.requests.fetch_add(1, Ordering::AcqRel) + 1;
        let ahead = backlog.payments.saturating_add(all as u64);
        let full = payments > 0 && ahead > backlog.most
            || all > self.limits.ingress_payments
            || own > self.limits.client_payments
            || requests > self.limits.client_requests;
        // The guard takes back exactly what was counted above, also when it is dropped here.
        let admitted = Admitted { admission: Arc::clone(self), client: Arc::clone(client), payments, answered: !full };
        if full { Err(Overload { retry_after_ms: self.retry_after_ms(ahead) }) } else { Ok(admitted) }
    }

    /// Refuses everything from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Payments that are taken in and not yet answered.
    pub fn payments(&self) -> usize {
        self.payments.load(Ordering::Acquire)
    }

    /// Requests that are taken in and not yet answered.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// How long a client does well to wait while so many payments are ahead of it, in milliseconds.
    pub fn retry_after_ms(&self, waiting: u64) -> u32 {
        let now_ms = self.now_ms();
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.time_for(waiting, now_ms)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.payments.fetch_sub(self.payments, Ordering::AcqRel);
        self.admission.requests.fetch_sub(1, Ordering::AcqRel);
        self.client.payments.fetch_sub(self.payments, Ordering::AcqRel);
        self.client.requests.fetch_sub(1, Ordering::AcqRel);
        if self.answered {
            let now_ms = self.admission.now_ms();
            self.admission.rate.lock().unwrap_or_else(PoisonError::into_inner).record(now_ms, self.payments);
        }
    }
}

/// Payments answered per second, averaged over the last complete window.
#[derive(Debug, Default)]
struct DrainRate {
    window_start_ms: u64,
    in_window: usize,
    per_second: u64,
}

impl DrainRate {
    fn record(&mut self, now_ms: u64, payments: usize) {
        self.roll(now_ms);
        self.in_window += payments;
    }

    fn roll(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.window_start_ms);
        if elapsed_ms >= RATE_WINDOW_MS {
            self.per_second = self.in_window as u64 * 1_000 / elapsed_ms;
            (self.window_start_ms, self.in_window) = (now_ms, 0);
        }
    }

    /// Half of what waits must go before coming back is of any use. Without a rate the answer is the greatest time.
    fn time_for(&mut self, waiting: u64, now_ms: u64) -> u32 {
        self.roll(now_ms);
        let Some(ms) = waiting.saturating_mul(500).checked_div(self.per_second) else { return RETRY_AFTER_MS_MAX };
        u32::try_from(ms).unwrap_or(u32::MAX).clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Backlog = waiting(0);

    const fn waiting(payments: u64) -> Backlog {
        Backlog { payments, most: 10_000 }
    }

    fn limited() -> (Arc<Admission>, Arc<ClientShare>) {
        let limits =
            Limits { ingress_payments: 2_000, client_payments: 1_500, client_requests: 3, ..Limits::default() };
        (Arc::new(Admission::new(limits)), Arc::default())
    }

    #[test]
    fn a_client_is_refused_at_its_own_limit_and_others_are_not() {
        let (admission, greedy) = limited();
        let first = admission.admit(&greedy, 1_000, IDLE).unwrap();
        assert!(admission.admit(&greedy, 501, IDLE).is_err());
        assert!(admission.admit(&Arc::default(), 501, IDLE).is_ok());
        drop(first);
        assert!(admission.admit(&greedy, 501, IDLE).is_ok());
        assert_eq!((admission.payments(), admission.requests()), (0, 0));
    }

    #[test]
    fn everyone_is_refused_at_the_common_limit() {
        let (admission, one) = limited();
        let other = Arc::default();
        let _held = (admission.admit(&one, 1_500, IDLE).unwrap(), admission.admit(&other, 500, IDLE).unwrap());
        assert!(admission.admit(&other, 1, IDLE).is_err());
        assert_eq!(admission.payments(), 2_000);
    }

    #[test]
    fn payments_are_refused_while_too_many_wait_to_be_executed_and_questions_are_not() {
        let (admission, client) = limited();
        let held = admission.admit(&client, 1_000, waiting(9_000)).unwrap();
        assert!(admission.admit(&client, 1, waiting(9_000)).is_err());
        assert!(admission.admit(&client, 0, waiting(10_000)).is_ok());
        drop(held);
        assert!(admission.admit(&client, 1_000, waiting(9_000)).is_ok());
    }

    #[test]
    fn requests_without_payments_are_counted_too() {
        let (admission, client) = limited();
        let _held: Vec<_> = (0..3).map(|_| admission.admit(&client, 0, IDLE).unwrap()).collect();
        assert!(admission.admit(&client, 0, IDLE).is_err());
    }

    #[test]
    fn the_time_to_come_back_follows_the_drain_rate() {
        let mut rate = DrainRate::default();
        assert_eq!(rate.time_for(1_000, 0), RETRY_AFTER_MS_MAX);
        rate.record(100, 5_000);
        // 10,000 a second: half of 20,000 take a second.
        assert_eq!(rate.time_for(20_000, 500), 1_000);
        assert_eq!(rate.time_for(1, 600), RETRY_AFTER_MS_MIN);
        assert_eq!(rate.time_for(u64::MAX, 700), RETRY_AFTER_MS_MAX);
    }
}
