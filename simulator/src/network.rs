//! Connections between processes, and what becomes of messages on them.

use std::collections::{BTreeMap, BTreeSet};

/// A process: validators by index, then followers, then second processes under a validator's key.
pub type ProcessId = usize;

/// Names one connection; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Which of a connection's two streams a message takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Control,
    Bulk,
}

/// Who is connected with whom, and which ways are blocked.
#[derive(Debug, Default)]
pub struct Network {
    connections: BTreeMap<(ProcessId, ProcessId), ConnectionId>,
    made: u64,
    /// How many faults block a direction.
    blocked: BTreeMap<(ProcessId, ProcessId), u32>,
    /// Processes whose bulk queues are full.
    pub bulk_dropped: BTreeSet<ProcessId>,
    /// When the last message on a stream arrives, for streams that keep order.
    last_arrival: BTreeMap<(ConnectionId, ProcessId, Class), u64>,
}

fn pair(one: ProcessId, other: ProcessId) -> (ProcessId, ProcessId) {
    (one.min(other), one.max(other))
}

impl Network {
    /// The connection between two processes.
    pub fn connection(&self, one: ProcessId, other: ProcessId) -> Option<ConnectionId> {
        self.connections.get(&pair(one, other)).copied()
    }

    /// Connects two processes.
    pub fn connect(&mut self, one: ProcessId, other: ProcessId) -> ConnectionId {
        self.made += 1;
        let connection = ConnectionId(self.made);
        self.connections.insert(pair(one, other), connection);
        connection
    }

    /// Cuts a connection. False if there was none.
    pub fn cut(&mut self, one: ProcessId, other: ProcessId) -> bool {
        let Some(connection) = self.connections.remove(&pair(one, other)) else { return false };
        self.last_arrival.retain(|(of, _, _), _| *of != connection);
        true
    }

    /// Whom a process is connected with, the newest connection first.
    pub fn neighbours(&self, of: ProcessId) -> Vec<ProcessId> {
        let mut found: Vec<(ConnectionId, ProcessId)> = self
            .connections
            .iter()
            .filter(|((one, other), _)| *one == of || *other == of)
            .map(|((one, other), connection)| (*connection, if *one == of { *other } else { *one }))
            .collect();
        found.sort_unstable_by_key(|(connection, _)| std::cmp::Reverse(*connection));
        found.into_iter().map(|(_, process)| process).collect()
    }

    /// Blocks one direction until it is unblocked as often.
    pub fn block(&mut self, from: ProcessId, to: ProcessId) {
        *self.blocked.entry((from, to)).or_default() += 1;
    }

    pub fn unblock(&mut self, from: ProcessId, to: ProcessId) {
        if let Some(count) = self.blocked.get_mut(&(from, to)) {
            *count = count.saturating_sub(1);
        }
    }

    pub fn unblock_all(&mut self) {
        self.blocked.clear();
        self.bulk_dropped.clear();
    }

    pub fn is_blocked(&self, from: ProcessId, to: ProcessId) -> bool {
        self.blocked.get(&(from, to)).is_some_and(|count| *count > 0)
    }

    /// Whether anything is blocked anywhere.
    pub fn is_disturbed(&self) -> bool {
        self.blocked.values().any(|count| *count > 0)
    }

    /// Whether either direction is blocked, so that a connection dies or cannot be made.
    pub fn is_broken(&self, one: ProcessId, other: ProcessId) -> bool {
        self.is_blocked(one, other) || self.is_blocked(other, one)
    }

    /// When a message arrives on a stream that keeps order, if its own way would have it arrive at `arrival_ms`.
    pub fn in_order(&mut self, connection: ConnectionId, to: ProcessId, class: Class, arrival_ms: u64) -> u64 {
        let last = self.last_arrival.entry((connection, to, class)).or_default();
        *last = arrival_ms.max(*last);
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_the_same_from_both_ends_and_a_new_one_is_another() {
        let mut network = Network::default();
        let first = network.connect(2, 1);
        assert_eq!((network.connection(1, 2), network.connection(2, 1)), (Some(first), Some(first)));
        assert!(network.cut(1, 2) && !network.cut(1, 2));
        assert_ne!(network.connect(1, 2), first);
    }

    #[test]
    fn neighbours_come_with_the_newest_connection_first() {
        let mut network = Network::default();
        network.connect(0, 1);
        network.connect(2, 0);
        network.connect(1, 2);
        assert_eq!(network.neighbours(0), [2, 1]);
    }

    #[test]
    fn a_way_is_free_when_every_fault_that_blocked_it_ended() {
        let mut network = Network::default();
        network.block(0, 1);
        network.block(0, 1);
        network.unblock(0, 1);
        assert!(network.is_blocked(0, 1) && !network.is_blocked(1, 0) && network.is_broken(1, 0));
        network.unblock(0, 1);
        assert!(!network.is_disturbed());
    }

    #[test]
    fn a_stream_that_keeps_order_delays_what_would_overtake() {
        let mut network = Network::default();
        let connection = network.connect(0, 1);
        assert_eq!(network.in_order(connection, 1, Class::Control, 50), 50);
        assert_eq!(network.in_order(connection, 1, Class::Control, 20), 50);
        assert_eq!(network.in_order(connection, 1, Class::Bulk, 20), 20);
        assert_eq!(network.in_order(connection, 0, Class::Control, 20), 20);
    }
}
