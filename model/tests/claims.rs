//! With every rule, every claim holds in every state within the bounds, and what must be reached is.

use zeni_model::bridge::Bounds;
use zeni_model::check::{BRANCHES, CUTS, FAULTS, explore};

fn holds(bounds: Bounds) {
    println!("{bounds:?}: {:?}", explore(bounds));
}

#[test]
fn claims_hold_on_branches_of_any_weight() {
    holds(BRANCHES);
}

#[test]
fn claims_hold_when_validators_stop_again() {
    holds(FAULTS);
}

#[test]
fn claims_hold_when_one_is_cut_off() {
    holds(CUTS);
}
