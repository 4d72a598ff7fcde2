//! The bridge between fork choice and finality, in small: every state of three validators within named bounds.
//!
//! Validators keep a chain that is always available: who is active makes blocks, even alone, and each follows the heaviest
//! chain that it executed. Beside it an engine that others keep decides from time to time that a block, and so everything
//! below it, is final. The engine has its own proofs. What joins it to the chain is ours, and is checked here, as is
//! what a validator may do after it stopped. Faults are those of the crash model: validators stop and return with what
//! they had on disk, one may be cut off, and every message may be late for ever; nobody lies.
//!
//! # What is checked
//!
//! The rules, each of which can be left out ([`bridge::Omission`]):
//!
//! - Fork choice starts from the last final block known and executed here.
//! - A vote is valid for a block that is executed here and descends from that one, whatever my canonical chain is. Of any
//!   other block there is no verdict until it is executed.
//! - Who returns is joining until it has heard every validator or the wait is over, then syncing until it has executed
//!   every heavier chain that those offered. Meanwhile it fetches and executes, and neither makes blocks nor votes.
//!
//! The claims, in every state ([`properties`]): no two final blocks conflict, also those that no node knows of yet; a
//! canonical chain contains its last final block; a quorum has executed each final block; a final chain only grows; and
//! finality keeps what a survivor made alone. The last has conditions:
//!
//! - *No heavier chain.* A decision may abandon it for a branch that is at least as heavy: so would fork choice.
//! - *No old vote.* What had a vote when the survivor was alone may be decided already, or be decided by that vote yet: a
//!   vote is on disk, the engine comes back to it, and validity does not ask how heavy a block is.
//! - *The survivor can be heard.* Until both others are back at work it stays up, and nobody is cut off. The model's form
//!   of the 60 s: the wait for a validator ends only while that one is down or cut off, and the wait for a chain only
//!   while nobody within reach has it.
//! - *Both others were down*, so that both join. One that was cut off and ran on does not join when it is heard again.
//!
//! Without any of the last three the claim is false, as without any of the rules; `tests/omissions.rs` shows each way. The
//! first is in the claim itself. Other properties say what must be reached in some state: a final block above another, a
//! fork that heals, a return, a heavier branch that finality overrules, and so on.
//!
//! # How far
//!
//! [`check::BRANCHES`], [`check::FAULTS`] and [`check::CUTS`] are the tests: 8,777,809, 2,321,587 and 4,670,344 states, half a
//! minute together on two cores. [`check::DEEP`] is for `cargo run --release --manifest-path model/Cargo.toml deep`. States that differ
//! in the validators' names only count once. The checker keeps 64 bits of each state: with so many, the odds that it
//! took two for one are about one to 500,000.
//!
//! # What is not
//!
//! - The engine: a vote that completes a quorum decides, and at one height nothing else is decided. Rounds, locks and
//!   timeouts are left out; votes may change more freely here than there.
//! - That anything is decided at all: only that it can be. So nothing is said of the rules that are there for progress, to
//!   name the highest block that a quorum has executed, or to call a block that is not known here not invalid. Any
//!   block of the canonical chain may be named here.
//! - Time but for the wait: no slots, no ranks. A block has one of two weights, and ties go to the earlier block.
//! - Statuses that grow old: who was heard once stays heard until the validator is active.
//! - Faults of other kinds: lost disks, lies, two nodes with one key, more than one validator cut off.
//! - The code. These are its rules written once more; `zeni-simulator` runs the code itself.

pub mod blocks;
pub mod bridge;
pub mod check;
pub mod properties;
pub mod state;
