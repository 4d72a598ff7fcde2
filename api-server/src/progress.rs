//! How far this server is, and whether it may be asked.

use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;
use zeni_consensus::Mode;

/// Blocks that this server may be behind the best node and still be ready.
pub const LAG_MAX: u64 = 1;

/// What a node last told of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// `None` while it does not answer.
    pub told: Option<NodeTold>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTold {
    pub mode: Mode,
    pub height: u64,
    pub pending: u64,
    pub live: u16,
    pub version: String,
}

/// Where this server and its nodes stand at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The node that the chain is followed from, by its place in the config.
    pub followed: usize,
    /// The height that the followed node told.
    pub followed_height: u64,
    /// The height executed here.
    pub height: u64,
    /// The greatest height that any node told.
    pub best: u64,
    /// What each node told; `None` while it does not answer.
    pub heights: Vec<Option<u64>>,
}

/// Why the server is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    #[error("the stored chain is still being executed, up to height {height} so far")]
    Replaying { height: u64 },
    #[error("no node is connected")]
    NoConnection,
    #[error("no node has told its height yet")]
    NoHeight,
    #[error("the chain is followed up to height {height}, the best node has {best}")]
    Behind { height: u64, best: u64 },
    #[error("the server is stopping")]
    Stopping,
}

/// Written by the follower's thread and the node watch, read by requests.
#[derive(Debug)]
pub struct Progress {
    inner: RwLock<Inner>,
    /// Whether the chain that was on disk at the start is executed and indexed. Before, the index and the state are at
    /// different places, and neither is what was told before the start.
    replayed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The node that the chain is followed from, by its place in the config.
    followed: Option<usize>,
    height: u64,
    /// The greatest height that the followed node told.
    told: u64,
    nodes: Vec<NodeSeen>,
    stopping: bool,
}

impl Progress {
    pub fn new(nodes: usize) -> Self {
        let nodes = vec![NodeSeen::default(); nodes];
        Self { inner: RwLock::new(Inner { nodes, ..Inner::default() }), replayed: watch::Sender::new(false) }
    }

    /// The chain that was on disk at the start is executed and indexed, which it then stays.
    pub fn finish_replay(&self) {
        self.replayed.send_if_modified(|replayed| !std::mem::replace(replayed, true));
    }

    /// Becomes true once the stored chain is executed and indexed.
    pub fn watch_replay(&self) -> watch::Receiver<bool> {
        self.replayed.subscribe()
    }

    /// Whether questions about the chain can be answered.
    pub fn replayed(&self) -> Result<(), NotReady> {
        if *self.replayed.borrow() { Ok(()) } else { Err(NotReady::Replaying { height: self.read().height }) }
    }

    /// The node that the chain is followed from, `None` if no connection stands.
    pub fn follow(&self, node: Option<usize>) {
        self.write().followed = node;
    }

    /// The height executed here, and the best one that the followed node told.
    pub fn advance(&self, height: u64, told: u64) {
        let mut inner = self.write();
        (inner.height, inner.told) = (height, told);
    }

    /// What a node told of itself; `None` if it did not answer.
    pub fn saw(&self, node: usize, told: Option<NodeTold>) {
        if let Some(seen) = self.write().nodes.get_mut(node) {
            seen.told = told;
        }
    }

    pub fn stop(&self) {
        self.write().stopping = true;
    }

    pub fn followed(&self) -> Option<usize> {
        self.read().followed
    }

    pub fn nodes(&self) -> Vec<NodeSeen> {
        self.read().nodes.clone()
    }

    /// The greatest height that any node told.
    pub fn best_height(&self) -> u64 {
        self.read().best_height()
    }

    /// Blocks behind the best node.
    pub fn lag(&self) -> u64 {
        let inner = self.read();
        inner.best_height().saturating_sub(inner.height)
    }

    /// Whether this server may be asked.
    pub fn ready(&self) -> Result<(), NotReady> {
        let inner = self.read();
        if inner.stopping {
            return Err(NotReady::Stopping);
        }
        if !*self.replayed.borrow() {
            return Err(NotReady::Replaying { height: inner.height });
        }
        if inner.followed.is_none() {
            return Err(NotReady::NoConnection);
        }
        if inner.told == 0 && inner.nodes.iter().all(|node| node.told.is_none()) {
            return Err(NotReady::NoHeight);
        }
        let (height, best) = (inner.height, inner.best_height());
        if height + LAG_MAX < best {
            return Err(NotReady::Behind { height, best });
        }
        Ok(())
    }

    /// Where everything stands together; `None` if no connection stands.
    pub fn standing(&self) -> Option<Standing> {
        let inner = self.read();
        let heights: Vec<Option<u64>> =
            inner.nodes.iter().map(|node| node.told.as_ref().map(|told| told.height)).collect();
        let followed = inner.followed?;
        let followed_height = heights.get(followed).copied().flatten().unwrap_or(inner.told);
        Some(Standing { followed, followed_height, height: inner.height, best: inner.best_height(), heights })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn best_height(&self) -> u64 {
        let nodes = self.nodes.iter().filter_map(|node| node.told.as_ref()).map(|told| told.height);
        nodes.max().unwrap_or(0).max(self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(height: u64) -> Option<NodeTold> {
        Some(NodeTold { mode: Mode::Active, height, pending: 0, live: 1, version: String::new() })
    }

    #[test]
    fn is_ready_only_with_a_connection_and_near_the_best_node() {
        let progress = Progress::new(2);
        assert_eq!(progress.ready(), Err(NotReady::Replaying { height: 0 }));
        progress.finish_replay();
        assert_eq!((progress.replayed(), progress.ready()), (Ok(()), Err(NotReady::NoConnection)));
        progress.follow(Some(0));
        assert_eq!(progress.ready(), Err(NotReady::NoHeight));
        progress.saw(1, told(10));
        assert_eq!(progress.ready(), Err(NotReady::Behind { height: 0, best: 10 }));
        progress.advance(8, 8);
        assert_eq!(progress.ready(), Err(NotReady::Behind { height: 8, best: 10 }));
        progress.advance(9, 9);
        assert_eq!(progress.ready(), Ok(()));
        progress.follow(None);
        assert_eq!(progress.ready(), Err(NotReady::NoConnection));
        progress.follow(Some(1));
        progress.stop();
        assert_eq!(progress.ready(), Err(NotReady::Stopping));
    }

    #[test]
    fn a_node_that_stopped_answering_no_longer_counts() {
        let progress = Progress::new(2);
        progress.finish_replay();
        progress.follow(Some(0));
        progress.saw(1, told(10));
        progress.saw(0, told(1));
        progress.advance(1, 1);
        assert_eq!(progress.lag(), 9);
        progress.saw(1, None);
        assert_eq!((progress.lag(), progress.ready()), (0, Ok(())));
    }

    #[test]
    fn where_everything_stands_is_told_while_a_connection_does() {
        let progress = Progress::new(3);
        progress.saw(1, told(7));
        progress.advance(2, 5);
        assert_eq!(progress.standing(), None);
        progress.follow(Some(0));
        let heights = vec![None, Some(7), None];
        // While it answers no questions, what it told its follower counts.
        let expected = Standing { followed: 0, followed_height: 5, height: 2, best: 7, heights };
        assert_eq!(progress.standing(), Some(expected));
        progress.saw(0, told(6));
        assert_eq!(progress.standing().unwrap().followed_height, 6);
    }
}
