//! Seeded simulation of whole networks: real consensus, ledger and storage code in virtual time, with lossy disks and
//! wires, skewed clocks, liars and twins, and checkers that compare everything with what was promised.
//!
//! [`simulation::run`] runs one seed; [`campaign`] runs many and reports. The same seed gives the same trace.

pub mod ballots;
pub mod breakage;
pub mod campaign;
pub mod checker;
pub mod dice;
pub mod model;
pub mod network;
pub mod process;
pub mod profile;
pub mod progress;
pub mod promises;
pub mod queue;
pub mod simulation;
pub mod trace;
pub mod violation;
pub mod workload;
pub mod world;
