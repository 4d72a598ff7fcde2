//! Datagrams that wait for their time. Pure: the caller says what time it is.

use std::collections::BTreeMap;
use std::time::Instant;

/// Datagrams that wait in one direction between two nodes, at most; what comes then is dropped.
pub const DELAYED_MAX: usize = 16_384;

/// A bounded queue in the order of due times; what is due at once leaves as it came.
#[derive(Debug)]
pub(super) struct Delayed<T> {
    waiting: BTreeMap<(Instant, u64), T>,
    /// How many were ever put in, so that equal times keep their order.
    pushed: u64,
}

impl<T> Default for Delayed<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), pushed: 0 }
    }
}

impl<T> Delayed<T> {
    /// Takes one in, or gives it back if [`DELAYED_MAX`] wait already.
    pub(super) fn push(&mut self, due: Instant, datagram: T) -> Result<(), T> {
        if self.waiting.len() >= DELAYED_MAX {
            return Err(datagram);
        }
        self.waiting.insert((due, self.pushed), datagram);
        self.pushed += 1;
        Ok(())
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// The first one that is due by `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        self.next_due().filter(|due| *due <= now)?;
        self.waiting.pop_first().map(|(_, datagram)| datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn leaves_in_the_order_of_due_times_and_not_before() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut delayed = Delayed::default();
        for (ms, name) in [(30, "late"), (10, "early"), (20, "first of two"), (20, "second of two")] {
            delayed.push(after(ms), name).unwrap();
        }
        assert_eq!(delayed.next_due(), Some(after(10)));
        assert_eq!(delayed.pop_due(after(9)), None);
        assert_eq!(delayed.pop_due(after(10)), Some("early"));
        assert_eq!(delayed.pop_due(after(10)), None);
        let rest: Vec<_> = std::iter::from_fn(|| delayed.pop_due(after(99))).collect();
        assert_eq!(rest, ["first of two", "second of two", "late"]);
        assert_eq!(delayed.next_due(), None);
    }

    #[test]
    fn a_full_queue_gives_back_what_does_not_fit() {
        let (now, mut delayed) = (Instant::now(), Delayed::default());
        for number in 0..DELAYED_MAX {
            delayed.push(now, number).unwrap();
        }
        assert_eq!(delayed.push(now, DELAYED_MAX), Err(DELAYED_MAX));
        assert_eq!(delayed.pop_due(now), Some(0));
        assert_eq!(delayed.push(now, DELAYED_MAX), Ok(()));
    }
}
