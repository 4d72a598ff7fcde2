//! Which gate a chunk goes through: the one the scenario wants, unless it does not answer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How long a gate that did not answer in time is passed over, in microseconds.
pub const SUSPECT_US: u64 = 2_000_000;

/// Whom the scenario wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// Always this gate.
    One(usize),
    /// Each in turn.
    Spread,
}

/// Remembers which gates did not answer.
#[derive(Debug)]
pub struct Router {
    preference: Preference,
    suspect_until_us: Vec<AtomicU64>,
}

impl Router {
    /// A router among `gates` gates, at least one.
    pub fn new(preference: Preference, gates: usize) -> Self {
        assert!(gates > 0, "a storm has somewhere to go");
        Self { preference, suspect_until_us: (0..gates).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The gate for a chunk: of those behind the preferred one, the first that is connected, not suspect and not the
    /// one to avoid; failing that the first connected one; failing that the preferred one, for it may come back.
    pub fn choose(&self, chunk: u64, avoid: Option<usize>, up: impl Fn(usize) -> bool, now_us: u64) -> usize {
        let gates = self.suspect_until_us.len();
        let preferred = match self.preference {
            Preference::One(gate) => gate,
            Preference::Spread => (chunk % gates as u64) as usize,
        };
        let order = || (0..gates).map(|step| (preferred + step) % gates);
        let trusted = |gate: &usize| now_us >= self.suspect_until_us[*gate].load(Relaxed);
        order()
            .find(|gate| up(*gate) && trusted(gate) && avoid != Some(*gate))
            .or_else(|| order().find(|gate| up(*gate)))
            .unwrap_or(preferred)
    }

    /// A gate did not answer in time.
    pub fn suspect(&self, gate: usize, now_us: u64) {
        self.suspect_until_us[gate].store(now_us + SUSPECT_US, Relaxed);
    }

    /// A gate answered.
    pub fn trust(&self, gate: usize) {
        self.suspect_until_us[gate].store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gate_gets_everything_while_it_answers() {
        let router = Router::new(Preference::One(1), 3);
        assert_eq!(router.choose(7, None, |_| true, 0), 1);
        assert_eq!(router.choose(7, None, |gate| gate != 1, 0), 2);
        assert_eq!(router.choose(7, Some(1), |_| true, 0), 2);
    }

    #[test]
    fn spreading_takes_turns_and_leaves_the_fallen_out() {
        let router = Router::new(Preference::Spread, 3);
        let route = |up: fn(usize) -> bool| (0..6).map(|chunk| router.choose(chunk, None, up, 0)).collect::<Vec<_>>();
        assert_eq!(route(|_| true), [0, 1, 2, 0, 1, 2]);
        assert_eq!(route(|gate| gate == 1), [1; 6]);
    }

    #[test]
    fn a_gate_that_did_not_answer_is_passed_over_for_a_while_or_until_it_does() {
        let router = Router::new(Preference::One(0), 2);
        router.suspect(0, 1_000);
        assert_eq!(router.choose(0, None, |_| true, 1_001), 1);
        assert_eq!(router.choose(0, None, |_| true, 1_000 + SUSPECT_US), 0);
        router.suspect(0, 5_000_000);
        router.trust(0);
        assert_eq!(router.choose(0, None, |_| true, 5_000_001), 0);
    }

    #[test]
    fn with_nobody_up_it_waits_for_the_preferred_one() {
        let router = Router::new(Preference::One(2), 3);
        assert_eq!(router.choose(0, Some(2), |_| false, 0), 2);
        assert_eq!(router.choose(0, Some(2), |gate| gate == 2, 0), 2);
    }
}
