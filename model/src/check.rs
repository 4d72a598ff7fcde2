//! The checks that are run: within which bounds, and how.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::bridge::{Action, Bounds, Bridge, Omission};
use crate::properties::{AGREEMENT, CANONICAL, EXECUTED, KEPT};
use crate::state::State;

/// Worker threads of a check.
const THREADS: usize = 2;

/// The least and the greatest weight of a block among three validators: the greater breaks ties of length either way, and
/// lets a shorter chain be the heavier one.
const WEIGHTS: &[u8] = &[1, 3];

/// Long branches of any weight, while two stop and return.
pub const BRANCHES: Bounds = Bounds { blocks: 3, weights: WEIGHTS, decisions: 2, crashes: 2, isolations: 0 };
/// Stopping again while the others return, and being cut off.
pub const FAULTS: Bounds = Bounds { blocks: 2, weights: WEIGHTS, decisions: 2, crashes: 3, isolations: 1 };
/// Branches of equal blocks, while two stop and return and one is cut off.
pub const CUTS: Bounds = Bounds { blocks: 3, weights: &[1], decisions: 2, crashes: 2, isolations: 1 };
/// Longer branches of equal blocks: for a patient reader, not for every day.
pub const DEEP: Bounds = Bounds { blocks: 4, weights: &[1], decisions: 2, crashes: 2, isolations: 0 };

/// How much was looked at.
#[derive(Debug, Clone, Copy)]
pub struct Explored {
    /// Different states; those that differ in the validators' names only count once.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// Steps of the longest way that was gone.
    pub depth: usize,
    pub took: Duration,
}

/// Looks at every state within the bounds.
///
/// # Panics
/// If a claim fails in one of them, with the way there, or if something that must be reached is not.
pub fn explore(bounds: Bounds) -> Explored {
    let begun = Instant::now();
    let checker = Bridge { bounds, omission: None }.checker().symmetry().threads(THREADS).spawn_dfs().join();
    checker.assert_properties();
    Explored {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took: begun.elapsed(),
    }
}

/// Which claim fails without a rule or an assumption, and bounds that suffice to see it.
pub fn consequence(omission: Omission) -> (&'static str, Bounds) {
    let calm = Bounds { blocks: 2, weights: WEIGHTS, decisions: 2, crashes: 0, isolations: 0 };
    let stops = Bounds { decisions: 1, crashes: 2, ..calm };
    match omission {
        Omission::ForkChoiceFromFinal => (CANONICAL, calm),
        Omission::DescentFromFinal => (AGREEMENT, calm),
        Omission::ExecutionBeforeVote => (EXECUTED, calm),
        Omission::Joining | Omission::Syncing | Omission::VotesBeforeTheStop => (KEPT, stops),
        Omission::ReachableOnReturn | Omission::BothDown => (KEPT, Bounds { isolations: 1, ..stops }),
    }
}

/// A way to a state in which `property` fails, among the shortest; `None` if there is none within the bounds.
pub fn counterexample(
    bounds: Bounds,
    omission: Option<Omission>,
    property: &'static str,
) -> Option<Path<State, Action>> {
    let until = HasDiscoveries::AnyOf([property].into());
    let checker = Bridge { bounds, omission }.checker().finish_when(until).spawn_bfs().join();
    checker.discovery(property)
}
