//! Runs every check and says how much each looked at, then a short way to a failure without each rule.
//! With the argument `deep` it runs the longer check only.

use zeni_model::bridge::{Bounds, Omission};
use zeni_model::check::{BRANCHES, CUTS, DEEP, FAULTS, consequence, counterexample, explore};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("deep") {
        return tell("deep", DEEP);
    }
    tell("branches", BRANCHES);
    tell("faults", FAULTS);
    tell("cuts", CUTS);
    for omission in Omission::ALL {
        let (claim, bounds) = consequence(omission);
        println!("\nwithout {omission:?}, not always: {claim}");
        let path = counterexample(bounds, Some(omission), claim).expect("each rule and assumption is needed");
        path.into_actions().iter().enumerate().for_each(|(step, action)| println!("{:>4}  {action:?}", step + 1));
    }
}

fn tell(name: &str, bounds: Bounds) {
    let explored = explore(bounds);
    println!("{name}: {bounds:?}");
    println!(
        "  {} states, {} steps between them, depth {}, {:.1} s",
        explored.states,
        explored.steps,
        explored.depth,
        explored.took.as_secs_f64()
    );
}
