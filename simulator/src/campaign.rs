//! Many seeds: runs them on every core, counts, and replays.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use crate::breakage::Breakage;
use crate::simulation::{Facts, Outcome, run};
use crate::violation::Violation;

/// Seeds of a hunt that run at once.
const HUNT_CHUNK: u64 = 8;

/// Which seeds to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    pub from: u64,
    pub seeds: u64,
    /// Every so manieth seed is run twice, and the traces compared; 0: none.
    pub replay_every: u64,
}

/// A seed that broke a promise.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    pub seed: u64,
    pub violation: String,
}

/// A seed whose run ended early, and may.
#[derive(Debug, Clone, Serialize)]
pub struct ExcusedSeed {
    pub seed: u64,
    pub violation: String,
    pub reason: String,
}

/// Shares of seeds in which something happened at least once, from 0 to 1.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Shares {
    pub reorg: f64,
    pub torn_write: f64,
    pub lost_disk: f64,
    /// A lost disk whose node returned by a state snapshot.
    pub snapshot: f64,
    pub damaged_disk: f64,
    pub checkpoint_start: f64,
    pub partition: f64,
    pub twins_stopped: f64,
    pub equivocation: f64,
    pub invalid_block: f64,
    pub double_vote: f64,
}

/// The least of any seed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Least {
    pub slots: u64,
    pub payments: u64,
    pub faults: u64,
}

/// What a campaign found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seeds: u64,
    pub from: u64,
    /// Seeds that broke a promise.
    pub violations: u64,
    pub failures: Vec<Failure>,
    /// Seeds with more faults than finality promises to survive, in which it did not.
    pub excused: Vec<ExcusedSeed>,
    pub seeds_per_minute: f64,
    pub shares: Shares,
    pub least: Least,
    pub payments: u64,
    pub acknowledged: u64,
    pub blocks: u64,
    pub events: u64,
    /// Decisions of the finality engine.
    pub decisions: u64,
    /// The longest time in which a calm quorum made nothing final, in milliseconds of virtual time, and the seed.
    pub stalled_ms_max: u64,
    pub stalled_seed: u64,
    /// Seeds that were run twice with one trace hash.
    pub replay_checked: u64,
    /// The hash of all trace hashes in the order of seeds: a change that alters no run leaves it as it was.
    pub traces: String,
}

/// Runs one seed; a panic is a violation like any other.
pub fn run_seed(seed: u64, breakage: Breakage) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run(seed, breakage, false))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
        let violation = Some(Violation::Panic(text.unwrap_or_else(|| "without a message".into())));
        Outcome { seed, violation, excused: None, trace: [0; 32], facts: Facts::default() }
    })
}

/// Runs a seed, and once more if it is one of those to be replayed.
fn run_and_replay(seed: u64, replay: bool) -> (Outcome, Option<Violation>) {
    let outcome = run_seed(seed, Breakage::None);
    if !replay || outcome.violation.is_some() {
        return (outcome, None);
    }
    let again = run_seed(seed, Breakage::None);
    let differs = again.trace != outcome.trace || again.facts != outcome.facts || again.violation.is_some();
    (outcome, differs.then_some(Violation::NotDeterministic))
}

impl Campaign {
    /// Runs every seed. `progress` is told how many are done, and of each failure.
    pub fn run(&self, chunk: u64, mut progress: impl FnMut(u64, &[Failure])) -> Report {
        let start = Instant::now();
        let mut outcomes = Vec::new();
        let mut failures = Vec::new();
        let mut replayed = 0;
        for first in (self.from..self.from + self.seeds).step_by(chunk.max(1) as usize) {
            let last = (first + chunk.max(1)).min(self.from + self.seeds);
            let replays = |seed: u64| self.replay_every > 0 && (seed - self.from).is_multiple_of(self.replay_every);
            let done: Vec<(Outcome, Option<Violation>)> =
                (first..last).into_par_iter().map(|seed| run_and_replay(seed, replays(seed))).collect();
            let found = failures.len();
            for (outcome, differs) in done {
                let violation = outcome.violation.as_ref().or(differs.as_ref());
                replayed += u64::from(replays(outcome.seed) && violation.is_none());
                failures.extend(
                    violation.map(|violation| Failure { seed: outcome.seed, violation: violation.to_string() }),
                );
                outcomes.push(outcome);
            }
            progress(outcomes.len() as u64, &failures[found..]);
        }
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        self.report(&outcomes, failures, replayed, minutes)
    }

    fn report(&self, outcomes: &[Outcome], failures: Vec<Failure>, replay_checked: u64, minutes: f64) -> Report {
        let share = |happened: fn(&Facts) -> bool| {
            let count = outcomes.iter().filter(|outcome| happened(&outcome.facts)).count();
            count as f64 / outcomes.len().max(1) as f64
        };
        let sum = |of: fn(&Facts) -> u64| outcomes.iter().map(|outcome| of(&outcome.facts)).sum();
        let least = |of: fn(&Facts) -> u64| outcomes.iter().map(|outcome| of(&outcome.facts)).min().unwrap_or(0);
        let stalled = outcomes.iter().max_by_key(|outcome| outcome.facts.stalled_ms);
        let mut traces = blake3::Hasher::new();
        outcomes.iter().for_each(|outcome| {
            traces.update(&outcome.trace);
        });
        Report {
            seeds: self.seeds,
            from: self.from,
            violations: failures.len() as u64,
            failures,
            excused: outcomes.iter().filter_map(excused_seed).collect(),
            seeds_per_minute: outcomes.len() as f64 / minutes.max(f64::MIN_POSITIVE),
            shares: Shares {
                reorg: share(|facts| facts.undone > 0),
                torn_write: share(|facts| facts.torn_writes > 0),
                lost_disk: share(|facts| facts.lost_disks > 0),
                snapshot: share(|facts| facts.snapshots > 0),
                damaged_disk: share(|facts| facts.damaged > 0),
                checkpoint_start: share(|facts| facts.checkpoint_starts > 0),
                partition: share(|facts| facts.partitions > 0),
                twins_stopped: share(|facts| facts.twins_stopped > 0),
                equivocation: share(|facts| facts.equivocations > 0),
                invalid_block: share(|facts| facts.invalid_blocks > 0),
                double_vote: share(|facts| facts.double_votes > 0),
            },
            least: Least {
                slots: least(|facts| facts.slots),
                payments: least(|facts| facts.payments),
                faults: least(|facts| facts.faults),
            },
            payments: sum(|facts| facts.payments),
            acknowledged: sum(|facts| facts.acknowledged),
            blocks: sum(|facts| facts.blocks),
            events: sum(|facts| facts.events),
            decisions: sum(|facts| facts.decisions),
            stalled_ms_max: stalled.map_or(0, |outcome| outcome.facts.stalled_ms),
            stalled_seed: stalled.map_or(0, |outcome| outcome.seed),
            replay_checked,
            traces: traces.finalize().to_hex().to_string(),
        }
    }
}

fn excused_seed(outcome: &Outcome) -> Option<ExcusedSeed> {
    let excused = outcome.excused.as_ref()?;
    Some(ExcusedSeed { seed: outcome.seed, violation: excused.violation.to_string(), reason: excused.reason.clone() })
}

/// How a broken rule fared.
#[derive(Debug, Clone, Serialize)]
pub struct Hunt {
    pub mutant: String,
    /// Within how many seeds it must be noticed.
    pub seeds_max: u64,
    /// How many seeds it took until a checker noticed; `None` if none did within the bound, or if what was noticed there
    /// is not the mutant's doing.
    pub seeds: Option<u64>,
    pub violation: Option<String>,
    /// What the honest code violates in the seed that seemed to catch the mutant. It proves nothing then, and is a
    /// defect of its own.
    pub honest_violation: Option<String>,
}

/// Runs seeds with a broken rule until a checker notices, `seeds_max` at most. The honest code must keep every promise
/// in the seed that catches it.
pub fn hunt(breakage: Breakage, from: u64, seeds_max: u64) -> Hunt {
    let violation = |seed, breakage| run_seed(seed, breakage).violation.map(|violation| violation.to_string());
    hunt_with(breakage, from, seeds_max, violation)
}

fn hunt_with(
    breakage: Breakage,
    from: u64,
    seeds_max: u64,
    violation: impl Fn(u64, Breakage) -> Option<String> + Sync,
) -> Hunt {
    let mutant = breakage.name();
    for first in (from..from + seeds_max).step_by(HUNT_CHUNK as usize) {
        let chunk = first..(first + HUNT_CHUNK).min(from + seeds_max);
        let caught = |seed: u64| violation(seed, breakage).map(|violation| (seed, violation));
        if let Some((seed, found)) = chunk.into_par_iter().find_map_first(caught) {
            let honest_violation = violation(seed, Breakage::None);
            let seeds = honest_violation.is_none().then_some(seed - from + 1);
            return Hunt { mutant, seeds_max, seeds, violation: Some(found), honest_violation };
        }
    }
    Hunt { mutant, seeds_max, seeds: None, violation: None, honest_violation: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_caught_by_a_seed_in_which_the_honest_code_is_clean() {
        let violation = |seed, breakage| (seed == 107 && breakage != Breakage::None).then(|| "lost".to_owned());
        let hunt = hunt_with(Breakage::ReplyBeforeSync, 100, 20, violation);
        assert_eq!((hunt.seeds, hunt.violation.as_deref(), hunt.honest_violation), (Some(8), Some("lost"), None));
    }

    #[test]
    fn a_seed_in_which_the_honest_code_fails_too_catches_nothing() {
        let violation = |seed, _| (seed == 107).then(|| "lost".to_owned());
        let hunt = hunt_with(Breakage::ReplyBeforeSync, 100, 20, violation);
        assert_eq!((hunt.seeds, hunt.honest_violation.as_deref()), (None, Some("lost")));
    }
}
