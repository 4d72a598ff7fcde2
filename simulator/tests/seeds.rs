//! A handful of seeds, as on every commit; thousands are run with `cargo xtask sim`.

use zeni_simulator::breakage::Breakage;
use zeni_simulator::campaign::{Campaign, hunt, run_seed};
use zeni_simulator::profile::{FAULTS_MIN, PAYMENTS_MIN, SLOTS_MIN};

/// Seeds in which a broken rule must be noticed here; in the full hunt it may take 300.
const HUNT_SEEDS: u64 = 40;

#[test]
fn every_promise_is_kept_in_thirty_seeds() {
    let campaign = Campaign { from: 500_000, seeds: 30, replay_every: 0 };
    let report = campaign.run(30, |_, _| {});
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    assert!(report.least.slots >= SLOTS_MIN, "{:?}", report.least);
    assert!(report.least.payments >= PAYMENTS_MIN, "{:?}", report.least);
    assert!(report.least.faults >= FAULTS_MIN, "{:?}", report.least);
    let shares = [report.shares.reorg, report.shares.torn_write, report.shares.lost_disk];
    assert!(shares.iter().all(|share| *share >= 0.1), "{:?}", report.shares);
    assert!(report.acknowledged * 2 > report.payments, "most payments are acknowledged: {report:?}");
}

#[test]
fn a_seed_replays_to_the_same_trace() {
    for seed in [1, 7, 500_003] {
        let (once, again) = (run_seed(seed, Breakage::None), run_seed(seed, Breakage::None));
        assert_eq!(once.trace, again.trace, "seed {seed}");
        assert_eq!(once.facts, again.facts, "seed {seed}");
    }
}

#[test]
fn different_seeds_are_different_runs() {
    assert_ne!(run_seed(1, Breakage::None).trace, run_seed(2, Breakage::None).trace);
}

#[test]
fn twins_that_only_a_follower_hears_are_not_to_blame() {
    // Both other validators are down while the twins run; what remains, a follower, tells nobody whom it hears.
    let outcome = run_seed(902_165, Breakage::None);
    assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
}

fn assert_caught(breakages: &[Breakage]) {
    for breakage in breakages {
        let hunt = hunt(*breakage, 0, HUNT_SEEDS);
        assert!(hunt.seeds.is_some(), "it was not noticed in {HUNT_SEEDS} seeds: {hunt:?}");
    }
}

#[test]
fn a_shell_that_speaks_before_it_syncs_is_noticed() {
    assert_caught(&[Breakage::ReplyBeforeSync, Breakage::ConfirmBeforeSync]);
}

#[test]
fn a_forgotten_safety_record_is_noticed() {
    assert_caught(&[Breakage::SafetyUnwritten]);
}

#[cfg(feature = "mutants")]
#[test]
fn broken_rules_of_the_core_are_noticed() {
    use zeni_consensus::mutation::Mutant;
    assert_caught(&[Mutant::SignTwice, Mutant::SkipUndo, Mutant::ListTwice, Mutant::NoHold].map(Breakage::Core));
}
