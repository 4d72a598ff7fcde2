//! The engine's timers as data: what runs out when. The caller owns the clock.

use std::collections::BTreeMap;

use arc_malachitebft_core_types::{Timeout, TimeoutKind};

use super::context::round_number;
use crate::time::Millis;

/// How long the steps of a round may take, in milliseconds. Each later round is given more, so that rounds become long
/// enough whatever the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub propose_ms: u64,
    pub prevote_ms: u64,
    pub precommit_ms: u64,
    /// By so much each of these grows from round to round.
    pub growth_ms: u64,
    /// After this long without progress the own votes are said again.
    pub rebroadcast_ms: u64,
    /// No timeout is longer.
    pub most_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            propose_ms: 1_000,
            prevote_ms: 500,
            precommit_ms: 500,
            growth_ms: 250,
            rebroadcast_ms: 1_000,
            most_ms: 10_000,
        }
    }
}

/// What runs. A timer that is set again runs anew.
#[derive(Debug, Default)]
pub(super) struct Timers {
    running: BTreeMap<(u32, u8), (Timeout, Millis)>,
}

impl Timers {
    pub(super) fn set(&mut self, timeout: Timeout, now: Millis, timeouts: &Timeouts) {
        let round = round_number(timeout.round);
        let growth = timeouts.growth_ms.saturating_mul(u64::from(round));
        let duration = match timeout.kind {
            TimeoutKind::Propose => timeouts.propose_ms.saturating_add(growth),
            TimeoutKind::Prevote => timeouts.prevote_ms.saturating_add(growth),
            TimeoutKind::Precommit => timeouts.precommit_ms.saturating_add(growth),
            TimeoutKind::Rebroadcast => timeouts.rebroadcast_ms,
            TimeoutKind::FinalizeHeight(duration) => duration.as_millis() as u64,
        };
        self.running.insert(key(&timeout), (timeout, now + duration.min(timeouts.most_ms)));
    }

    pub(super) fn cancel(&mut self, timeout: &Timeout) {
        self.running.remove(&key(timeout));
    }

    pub(super) fn clear(&mut self) {
        self.running.clear();
    }

    /// Takes the timer that ran out first, if one did.
    pub(super) fn take_due(&mut self, now: Millis) -> Option<Timeout> {
        let due = self.running.iter().filter(|(_, (_, at))| *at <= now).min_by_key(|(key, (_, at))| (*at, **key));
        let key = *due?.0;
        self.running.remove(&key).map(|(timeout, _)| timeout)
    }

    pub(super) fn next(&self) -> Option<Millis> {
        self.running.values().map(|(_, at)| *at).min()
    }
}

fn key(timeout: &Timeout) -> (u32, u8) {
    let kind = match timeout.kind {
        TimeoutKind::Propose => 0,
        TimeoutKind::Prevote => 1,
        TimeoutKind::Precommit => 2,
        TimeoutKind::Rebroadcast => 3,
        TimeoutKind::FinalizeHeight(_) => 4,
    };
    (round_number(timeout.round), kind)
}
