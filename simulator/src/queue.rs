//! Virtual time: what will happen, in the order of time and, within a millisecond, of scheduling.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The queue of what will happen.
#[derive(Debug)]
pub struct Queue<E> {
    /// Moment, number and place of each.
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// Apart, so that the heap moves only numbers.
    waiting: Vec<Option<E>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { order: BinaryHeap::new(), waiting: Vec::new(), free: Vec::new(), scheduled: 0 }
    }
}

impl<E> Queue<E> {
    /// Schedules an event for a moment, in milliseconds.
    pub fn at(&mut self, at_ms: u64, event: E) {
        self.scheduled += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            self.waiting.len() - 1
        });
        self.waiting[place] = Some(event);
        self.order.push(Reverse((at_ms, self.scheduled, place)));
    }

    /// The next event and its moment.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse((at_ms, _, place)) = self.order.pop()?;
        let event = self.waiting[place].take().expect("each place in the order holds an event");
        self.free.push(place);
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
