//! Without any one of its rules and assumptions the bridge fails: the checker finds how, in few steps.

use zeni_model::bridge::{Action, Bounds, Omission};
use zeni_model::check::{consequence, counterexample};
use zeni_model::properties::{AGREEMENT, PAIR};

/// Prints the way to the failure; with every rule there is none within the same bounds.
fn fails(omission: Omission, property: &'static str, bounds: Bounds) -> Vec<Action> {
    let sound = counterexample(bounds, None, property);
    assert!(sound.is_none(), "{property} fails with every rule: {:?}", sound.map(|path| path.into_actions()));
    let path = counterexample(bounds, Some(omission), property);
    let actions = path.unwrap_or_else(|| panic!("{property} holds without {omission:?}")).into_actions();
    println!("without {omission:?}, not always: {property}");
    actions.iter().for_each(|action| println!("  {action:?}"));
    actions
}

fn fails_as_said(omission: Omission) -> Vec<Action> {
    let (property, bounds) = consequence(omission);
    fails(omission, property, bounds)
}

fn returns(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Return { .. })).count()
}

#[test]
fn fork_choice_that_ignores_finality_leaves_the_final_block() {
    let actions = fails_as_said(Omission::ForkChoiceFromFinal);
    assert!(actions.iter().any(|action| matches!(action, Action::Certify { .. })), "the node knows the decision");
}

#[test]
fn validity_without_descent_makes_conflicting_blocks_final() {
    fails_as_said(Omission::DescentFromFinal);
}

#[test]
fn a_vote_before_execution_makes_final_what_no_quorum_executed() {
    fails_as_said(Omission::ExecutionBeforeVote);
}

#[test]
fn a_vote_before_execution_makes_conflicting_blocks_final() {
    let (_, bounds) = consequence(Omission::ExecutionBeforeVote);
    fails(Omission::ExecutionBeforeVote, AGREEMENT, bounds);
}

#[test]
fn one_that_returns_without_joining_abandons_the_survivors_chain() {
    assert_eq!(returns(&fails_as_said(Omission::Joining)), 1, "the survivor itself votes for the other branch");
}

#[test]
fn two_that_return_without_joining_abandon_the_chain_of_a_survivor_that_sees_nothing() {
    let (_, bounds) = consequence(Omission::Joining);
    assert_eq!(returns(&fails(Omission::Joining, PAIR, bounds)), 2);
}

#[test]
fn hearing_of_the_survivors_chain_is_not_enough_without_executing_it() {
    let actions = fails_as_said(Omission::Syncing);
    assert!(actions.iter().any(|action| matches!(action, Action::Hear { .. })), "it heard of it");
}

#[test]
fn a_vote_from_before_the_stop_may_still_abandon_the_survivors_chain() {
    let actions = fails_as_said(Omission::VotesBeforeTheStop);
    let vote = actions.iter().position(|action| matches!(action, Action::Vote { .. }));
    let crash = actions.iter().position(|action| matches!(action, Action::Crash { .. }));
    assert!(vote < crash, "the vote is older than the stop");
}

#[test]
fn a_timeout_while_the_survivor_is_cut_off_may_abandon_its_chain() {
    let actions = fails_as_said(Omission::ReachableOnReturn);
    assert!(actions.iter().any(|action| matches!(action, Action::Isolate { .. })));
}

#[test]
fn one_that_was_cut_off_without_a_stop_may_abandon_the_survivors_chain() {
    let actions = fails_as_said(Omission::BothDown);
    assert_eq!(returns(&actions), 0, "nobody that joins takes part");
    assert!(actions.contains(&Action::Heal), "it is heard again before the decision");
}
