//! That validators' names do not matter is what makes the checks small: here it is checked itself.

use std::collections::HashSet;

use stateright::{Model, Representative};
use zeni_model::bridge::{Bounds, Bridge};
use zeni_model::check::explore;
use zeni_model::state::State;

/// Small enough to keep every state, whatever its names.
const BOUNDS: Bounds = Bounds { blocks: 2, weights: &[1], decisions: 1, crashes: 2, isolations: 0 };

#[test]
fn a_search_by_representatives_looks_at_each_state_that_differs_in_more_than_names() {
    let bridge = Bridge { bounds: BOUNDS, omission: None };
    let mut seen: HashSet<State> = bridge.init_states().into_iter().collect();
    let mut pending: Vec<State> = seen.iter().copied().collect();
    while let Some(state) = pending.pop() {
        pending.extend(bridge.next_states(&state).into_iter().filter(|next| seen.insert(*next)));
    }
    let different: HashSet<State> = seen.iter().map(Representative::representative).collect();
    assert!(different.iter().all(|state| seen.contains(state)), "each naming of a state can be reached");
    assert!(seen.len() > 5 * different.len(), "{} states, {} without names", seen.len(), different.len());
    assert_eq!(explore(BOUNDS).states, different.len());
}
