//! Liveness of finality while faults go on: a quorum that is active and connected for long enough makes blocks final.

use crate::network::ProcessId;

/// Validators, one bit each.
pub type Members = u32;

/// A quorum of which every member is connected with every other one.
#[derive(Debug, Clone, Copy)]
struct Calm {
    /// Since when they are so, or last had nothing to make final, or one of them told of something that became final.
    since_ms: u64,
    /// The least height that is final at all of them.
    height: u64,
}

/// What one validator tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Those with which it exchanges everything, and itself; 0 while it takes no part.
    pub linked: Members,
    pub final_height: u64,
    pub height: u64,
    pub stake: u64,
}

/// Every calm quorum.
#[derive(Debug, Default)]
pub struct Progress {
    calm: Vec<Option<Calm>>,
    /// The longest that a calm quorum took to make something final.
    pub longest_ms: u64,
}

impl Progress {
    /// Looks at all validators. Returns the members of a quorum that was calm for longer than `bound_ms`, had something to
    /// make final all the time, and did not.
    pub fn look(
        &mut self,
        now_ms: u64,
        bound_ms: u64,
        standings: &[Standing],
        is_quorum: impl Fn(u64) -> bool,
    ) -> Option<Vec<ProcessId>> {
        let sets = 1 << standings.len();
        self.calm.resize(sets, None);
        let mut stalled = None;
        for members in 1..sets as Members {
            let of = || standings.iter().enumerate().filter(move |(place, _)| members >> place & 1 == 1);
            let connected = of().all(|(_, standing)| standing.linked & members == members);
            let calm = &mut self.calm[members as usize];
            if !connected || !is_quorum(of().map(|(_, standing)| standing.stake).sum()) {
                *calm = None;
                continue;
            }
            let height = of().map(|(_, standing)| standing.final_height).min().unwrap_or(0);
            let idle = of().all(|(_, standing)| standing.height <= height);
            let before = calm.get_or_insert(Calm { since_ms: now_ms, height });
            let waited = now_ms - before.since_ms;
            if height > before.height || idle {
                *before = Calm { since_ms: now_ms, height };
            }
            self.longest_ms = self.longest_ms.max(waited);
            if waited > bound_ms && stalled.is_none() {
                stalled = Some(of().map(|(place, _)| place).collect());
            }
        }
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(linked: Members, final_height: u64, height: u64) -> Standing {
        Standing { linked, final_height, height, stake: 1 }
    }

    /// Looks once a second for so long; says who stalled, if anybody did.
    fn looks(progress: &mut Progress, seconds: std::ops::Range<u64>, standings: &[Standing]) -> Option<Vec<ProcessId>> {
        seconds.into_iter().find_map(|second| progress.look(1_000 * second, 5_000, standings, |stake| stake >= 2))
    }

    #[test]
    fn a_connected_quorum_that_makes_nothing_final_stalls() {
        let standings = [standing(0b011, 3, 4), standing(0b011, 3, 5), standing(0b100, 0, 9)];
        assert_eq!(looks(&mut Progress::default(), 0..6, &standings), None, "not yet");
        assert_eq!(looks(&mut Progress::default(), 0..7, &standings), Some(vec![0, 1]));
    }

    #[test]
    fn nothing_to_do_a_step_forward_or_a_broken_link_begin_the_wait_anew() {
        let waits = [standing(0b011, 3, 4), standing(0b011, 3, 5)];
        let others = [
            [standing(0b011, 5, 5), standing(0b011, 5, 5)],
            [standing(0b011, 4, 4), standing(0b011, 4, 5)],
            [standing(0b001, 3, 4), standing(0b011, 3, 5)],
        ];
        for other in others {
            let mut progress = Progress::default();
            assert_eq!(looks(&mut progress, 0..4, &waits), None);
            assert_eq!(looks(&mut progress, 4..5, &other), None);
            assert_eq!(looks(&mut progress, 5..10, &other), None, "{other:?}");
        }
    }

    #[test]
    fn one_that_is_not_told_stalls_the_quorum() {
        let standings = |height| [standing(0b011, 3, 9), standing(0b011, height, 9)];
        let mut progress = Progress::default();
        let stalled =
            (0..9).find_map(|second| progress.look(1_000 * second, 5_000, &standings(3 + second), |stake| stake >= 2));
        assert_eq!(stalled, Some(vec![0, 1]));
    }
}
