//! What must hold in every state, and what must be reached in some, so that the former is not held for want of events.

use stateright::Property;

use crate::bridge::Bridge;
use crate::state::{Mode, QUORUM, State, Validator};

pub const AGREEMENT: &str = "no two final blocks conflict";
pub const CANONICAL: &str = "a canonical chain contains its last final block";
pub const EXECUTED: &str = "a quorum has executed each final block";
pub const GROWING: &str = "a final chain only grows";
pub const KEPT: &str = "finality keeps what a survivor made alone";
pub const PAIR: &str = "two that return make nothing final past a survivor that has not seen it";

/// Every property. Those that hold always are claims, the others show that the checks are not empty.
pub fn all() -> Vec<Property<Bridge>> {
    vec![
        Property::always(AGREEMENT, |_, state: &State| final_blocks_agree(state)),
        Property::always(CANONICAL, |bridge: &Bridge, state: &State| {
            Validator::all().all(|it| state.blocks.descends(bridge.head(state, it), state.last_final(it)))
        }),
        Property::always(EXECUTED, |_, state: &State| {
            state.decisions().iter().all(|decision| state.executed_by(*decision) >= QUORUM)
        }),
        Property::always(GROWING, |_, state: &State| !state.final_moved),
        Property::always(KEPT, |_, state: &State| state.abandoned.is_none()),
        Property::always(PAIR, |_, state: &State| {
            state.abandoned.is_none_or(|survivor| {
                state.decisions().last().is_none_or(|decision| state.node(survivor).executed.contains(*decision))
            })
        }),
        Property::sometimes("one final block follows another", |bridge: &Bridge, state: &State| {
            state.decisions().len() == bridge.bounds.decisions && Validator::all().all(|it| is_current(state, it))
        }),
        Property::sometimes("a validator has a certificate of what it has not executed", |_, state: &State| {
            Validator::all().any(|it| {
                let certificates = usize::from(state.node(it).certificates);
                state.decisions()[..certificates].iter().any(|block| !state.node(it).executed.contains(*block))
            })
        }),
        Property::sometimes("who stopped is back at work", |_, state: &State| {
            state.crashes > 0 && state.nodes.iter().all(|node| node.mode == Mode::Active)
        }),
        Property::sometimes("one of two that stopped is back at work without the other", |_, state: &State| {
            state.promise.is_some_and(|promise| {
                let modes = || promise.survivor.others().map(|other| state.node(other).mode);
                modes().any(|mode| mode == Mode::Active) && modes().any(|mode| mode == Mode::Down)
            })
        }),
        Property::sometimes("a fork has healed", fork_has_healed),
        Property::sometimes("finality overrules a heavier branch", |bridge: &Bridge, state: &State| {
            Validator::all().any(|it| {
                let (head, last_final) = (bridge.head(state, it), state.last_final(it));
                let mut beside = state.node(it).executed.iter().filter(|it| state.blocks.conflict(*it, last_final));
                beside.any(|block| state.blocks.beats(block, head))
            })
        }),
        Property::sometimes("what a survivor made alone is final", |_, state: &State| {
            state.promise.is_some_and(|promise| {
                state.decisions().iter().any(|decision| state.blocks.descends(*decision, promise.block))
            })
        }),
    ]
}

fn final_blocks_agree(state: &State) -> bool {
    let decisions = state.decisions();
    decisions.iter().all(|one| decisions.iter().all(|other| !state.blocks.conflict(*one, *other)))
}

/// Whether a validator holds every certificate, and has executed the last decision.
fn is_current(state: &State, validator: Validator) -> bool {
    state.node(validator).certificates == state.decided
        && state.decisions().last() == Some(&state.last_final(validator))
}

/// Whether all share one head although each has executed blocks in conflict: each of those was someone's head once.
fn fork_has_healed(bridge: &Bridge, state: &State) -> bool {
    let head = bridge.head(state, Validator(0));
    Validator::all().all(|it| bridge.head(state, it) == head)
        && state.blocks.iter().any(|it| state.blocks.conflict(it, head) && state.executed_by(it) == state.nodes.len())
}
