//! How fast the core thread executes now, and how much may therefore wait.
//!
//! What is taken in must be executed by the next block. A node that takes in more lags behind: its blocks come late or are
//! small, others take its turn, what it executed ahead was in vain, and it lags further. So what may wait is what the core
//! executes in a part of a block's interval, at the pace at which it really does, whoever else wants the processor.

use std::time::Duration;

use zeni_consensus::pool::POOL_PAYMENTS_MAX;

/// The part of a block's interval in which what waits must be executed: the rest is for taking in and for others.
const INTERVAL_PART: f64 = 2.0 / 3.0;
/// However slow it is, so many may wait: what one door lets in at once, twice.
pub const BACKLOG_MIN: u64 = 131_072;
/// The pace is told anew after so many payments, the half of it being what it was.
const WINDOW_PAYMENTS: u64 = 65_536;

/// The core's pace.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    executed: u64,
    took: Duration,
    /// Seconds for one payment; none was executed yet if absent.
    per_payment: Option<f64>,
}

impl Pace {
    pub fn new(interval_ms: u64) -> Self {
        Self { interval: Duration::from_millis(interval_ms), executed: 0, took: Duration::ZERO, per_payment: None }
    }

    /// A step executed so many payments, or finished a block of them, and took so long.
    pub fn note(&mut self, executed: u64, took: Duration) {
        self.executed += executed;
        self.took += took;
        if self.executed >= WINDOW_PAYMENTS {
            let found = self.took.as_secs_f64() / self.executed as f64;
            self.per_payment = Some(self.per_payment.map_or(found, |before| (before + found) / 2.0));
            (self.executed, self.took) = (0, Duration::ZERO);
        }
    }

    /// Payments that may wait to be executed.
    pub fn backlog_max(&self) -> u64 {
        let Some(per_payment) = self.per_payment else { return POOL_PAYMENTS_MAX };
        let payments = self.interval.as_secs_f64() * INTERVAL_PART / per_payment;
        // Casts of floats saturate.
        (payments.round() as u64).clamp(BACKLOG_MIN, POOL_PAYMENTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_may_wait_as_are_executed_in_two_thirds_of_an_interval() {
        let mut pace = Pace::new(15_000);
        assert_eq!(pace.backlog_max(), POOL_PAYMENTS_MAX, "nothing is known yet");
        // 100,000 a second, in steps of which one only finishes a block.
        pace.note(60_000, Duration::from_millis(400));
        assert_eq!(pace.backlog_max(), POOL_PAYMENTS_MAX);
        pace.note(0, Duration::from_millis(500));
        pace.note(40_000, Duration::from_millis(100));
        assert_eq!(pace.backlog_max(), 1_000_000);
        // 50,000 a second: half of the difference counts at once, and it takes 15 µs instead of 10.
        pace.note(100_000, Duration::from_secs(2));
        assert_eq!(pace.backlog_max(), 666_667);
    }

    #[test]
    fn neither_a_slow_machine_nor_a_fast_one_leaves_the_bounds() {
        let (mut slow, mut fast) = (Pace::new(1_000), Pace::new(60_000));
        slow.note(WINDOW_PAYMENTS, Duration::from_secs(60));
        fast.note(WINDOW_PAYMENTS, Duration::ZERO);
        assert_eq!((slow.backlog_max(), fast.backlog_max()), (BACKLOG_MIN, POOL_PAYMENTS_MAX));
    }
}
