//! Virtual time: what will happen, in the order of time and, within a millisecond, of scheduling.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// The queue of what will happen.
#[derive(Debug)]
pub struct Queue<E> {
    order: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: BTreeMap<u64, E>,
    scheduled: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { order: BinaryHeap::new(), waiting: BTreeMap::new(), scheduled: 0 }
    }
}

impl<E> Queue<E> {
    /// Schedules an event for a moment, in milliseconds.
    pub fn at(&mut self, at_ms: u64, event: E) {
        self.scheduled += 1;
        self.order.push(Reverse((at_ms, self.scheduled)));
        self.waiting.insert(self.scheduled, event);
    }

    /// The next event and its moment.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse((at_ms, number)) = self.order.pop()?;
        let event = self.waiting.remove(&number).expect("every number in the order waits");
        Some((at_ms, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_moment_come_in_the_order_of_scheduling() {
        let mut queue = Queue::default();
        for (at_ms, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b')] {
            queue.at(at_ms, event);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(1, 'a'), (1, 'b'), (5, 'c'), (5, 'd')]);
    }
}
