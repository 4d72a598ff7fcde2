//! Asks every node where it stands, and leaves a followed node that has fallen behind, or that has not got what this
//! server misses: a node that returned by a state snapshot has no batches below its base (decision 0010).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use zeni_client::NodePool;
use zeni_client::follow::FollowHandle;

use crate::progress::{LAG_MAX, NodeTold, Progress, Standing};

/// Between two rounds of questions.
const INTERVAL: Duration = Duration::from_secs(2);
/// Rounds in which another node must be ahead before the followed one is left: a block takes a moment to arrive.
const ROUNDS_BEHIND: u32 = 3;
/// Rounds in which this server must stand still, although there is more to have, before the followed node is left.
/// What a node takes that long to bring of one block is not lost by then: every batch is kept as it comes.
const ROUNDS_STILL: u32 = 8;

/// Why the followed node is left, and for which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// The other one is ahead of it.
    Behind { better: usize },
    /// It brought nothing, though nodes have more.
    Fruitless { next: usize },
}

/// Decides round by round whether the followed node is left.
#[derive(Debug, Default)]
struct Choice {
    followed: Option<usize>,
    /// Rounds in a row in which another node was ahead of the followed one.
    behind: u32,
    /// The height executed here in the last round, and for how many rounds it has stood there.
    height: u64,
    still: u32,
    /// Nodes that brought nothing. They are passed over until this server has caught up, or until all were tried:
    /// one of them may be ahead of the node that has what is missing.
    fruitless: BTreeSet<usize>,
}

impl Choice {
    fn round(&mut self, standing: Option<&Standing>) -> Option<Leave> {
        let Some(standing) = standing else {
            (self.behind, self.still) = (0, 0);
            return None;
        };
        let caught_up = standing.best.saturating_sub(standing.height) <= LAG_MAX;
        if caught_up {
            self.fruitless.clear();
        }
        let same = self.height == standing.height && self.followed == Some(standing.followed);
        (self.height, self.followed) = (standing.height, Some(standing.followed));
        self.still = if caught_up || !same { 0 } else { self.still + 1 };
        if self.still >= ROUNDS_STILL {
            (self.behind, self.still) = (0, 0);
            return self.next(standing).map(|next| Leave::Fruitless { next });
        }
        let better = self.better(standing);
        self.behind = if better.is_some() { self.behind + 1 } else { 0 };
        if self.behind < ROUNDS_BEHIND {
            return None;
        }
        (self.behind, self.still) = (0, 0);
        better.map(|better| Leave::Behind { better })
    }

    /// A node that is more than [`LAG_MAX`] blocks ahead of the followed one.
    fn better(&self, standing: &Standing) -> Option<usize> {
        let told = standing.heights.iter().enumerate().filter_map(|(node, height)| Some(((*height)?, node)));
        let highest = told.filter(|(_, node)| !self.fruitless.contains(node)).max();
        highest.filter(|(height, _)| *height > standing.followed_height + LAG_MAX).map(|(_, node)| node)
    }

    /// The next node in turn that has more than this server and did not bring nothing already; never the followed one.
    fn next(&mut self, standing: &Standing) -> Option<usize> {
        let (count, followed) = (standing.heights.len(), standing.followed);
        let has_more = |node: &usize| standing.heights[*node].is_some_and(|height| height > standing.height);
        let in_turn = || (1..count).map(|step| (followed + step) % count).filter(has_more);
        self.fruitless.insert(followed);
        let untried = in_turn().find(|node| !self.fruitless.contains(node));
        untried.or_else(|| {
            self.fruitless = BTreeSet::from([followed]);
            in_turn().next()
        })
    }
}

/// Runs until the server stops.
pub async fn watch_nodes(
    nodes: Arc<NodePool>,
    progress: Arc<Progress>,
    follow: FollowHandle,
    mut stopping: watch::Receiver<bool>,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut choice = Choice::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Both a change and a gone sender mean the end.
            _ = stopping.changed() => return,
        }
        join_all((0..nodes.len()).map(|place| ask(&nodes, &progress, place))).await;
        let standing = progress.standing();
        match choice.round(standing.as_ref()) {
            Some(Leave::Behind { better }) => {
                tracing::info!(node = better, "the followed node is behind; following another one");
                follow.prefer(better);
            }
            Some(Leave::Fruitless { next }) => {
                let (height, best) = standing.map_or((0, 0), |standing| (standing.height, standing.best));
                tracing::warn!(node = next, height, best, "the followed node brings nothing; following another one");
                follow.prefer(next);
            }
            None => {}
        }
    }
}

async fn ask(nodes: &NodePool, progress: &Progress, place: usize) {
    let told = match nodes.node_info(place).await {
        Ok(info) => Some(NodeTold {
            mode: info.mode,
            height: info.height,
            pending: info.pending,
            live: info.live,
            version: info.version,
        }),
        Err(error) => {
            tracing::debug!(node = place, %error, "a node does not say where it stands");
            None
        }
    };
    let up = if told.is_some() { 1.0 } else { 0.0 };
    metrics::gauge!("zeni_api_node_up", "node" => place.to_string()).set(up);
    progress.saw(place, told);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(followed: usize, height: u64, heights: &[u64]) -> Standing {
        let best = heights.iter().copied().max().unwrap_or(0).max(height);
        let heights: Vec<Option<u64>> = heights.iter().map(|height| Some(*height)).collect();
        Standing { followed, followed_height: heights[followed].unwrap_or(0), height, best, heights }
    }

    /// The first thing that comes of so many equal rounds, and in which of them.
    fn rounds(choice: &mut Choice, most: u32, standing: &Standing) -> Option<(u32, Leave)> {
        (1..=most).find_map(|round| Some((round, choice.round(Some(standing))?)))
    }

    #[test]
    fn a_node_far_ahead_is_followed_after_some_rounds() {
        let mut choice = Choice::default();
        assert_eq!(rounds(&mut choice, 50, &standing(0, 5, &[5, 6, 6])), None);
        let ahead = standing(0, 5, &[5, 6, 7]);
        assert_eq!(rounds(&mut choice, 50, &ahead), Some((ROUNDS_BEHIND, Leave::Behind { better: 2 })));
    }

    #[test]
    fn a_node_that_brings_nothing_is_left_for_the_next_in_turn() {
        let mut choice = Choice::default();
        // The first round finds the connection, and the others that nothing came of it.
        let patience = ROUNDS_STILL + 1;
        for (followed, next) in [(0, 1), (1, 2), (2, 0), (0, 1)] {
            let stuck = standing(followed, 0, &[9, 9, 9]);
            assert_eq!(rounds(&mut choice, 50, &stuck), Some((patience, Leave::Fruitless { next })));
        }
    }

    #[test]
    fn a_node_that_brings_something_is_kept_however_far_this_server_is_behind() {
        let mut choice = Choice::default();
        for height in 0..50 {
            // A block takes a while.
            assert_eq!(rounds(&mut choice, ROUNDS_STILL, &standing(0, height, &[900, 900])), None);
        }
        assert_eq!(rounds(&mut choice, 50, &standing(0, 899, &[900, 900])), None, "there is hardly more to have");
    }

    #[test]
    fn nobody_is_followed_who_does_not_answer_or_has_no_more() {
        let mut choice = Choice::default();
        let mut stuck = standing(0, 4, &[9, 4, 9, 9]);
        stuck.heights[2] = None;
        assert_eq!(rounds(&mut choice, 50, &stuck).map(|(_, leave)| leave), Some(Leave::Fruitless { next: 3 }));
        assert_eq!(rounds(&mut choice, 50, &standing(0, 4, &[9])), None, "there is no other");
        assert_eq!((0..50).find_map(|_| choice.round(None)), None, "no connection stands");
    }

    #[test]
    fn who_brought_nothing_is_not_returned_to_for_being_ahead_until_this_server_caught_up() {
        let mut choice = Choice::default();
        let left = rounds(&mut choice, 50, &standing(0, 0, &[900, 890]));
        assert_eq!(left.map(|(_, leave)| leave), Some(Leave::Fruitless { next: 1 }));
        for height in 1..889 {
            assert_eq!(choice.round(Some(&standing(1, height, &[900, 890]))), None);
        }
        assert_eq!(choice.round(Some(&standing(1, 900, &[900, 900]))), None);
        let behind = rounds(&mut choice, 50, &standing(1, 900, &[903, 900]));
        assert_eq!(behind, Some((ROUNDS_BEHIND, Leave::Behind { better: 0 })));
    }
}
