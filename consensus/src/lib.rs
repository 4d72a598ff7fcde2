//! The pure consensus core: batches, pool, slots, fork choice and the follower.
//!
//! [`Core::step`] takes the time, one [`Input`] and read access to what was stored before, and returns [`Effect`]s in
//! order. It does no I/O, reads no clock and starts no thread, so the node and the seeded simulator run the same code.
//!
//! The one rule of the shell around it: **durability before speech.** Everything that a step asks to have written
//! ([`Effect::Append`], [`Effect::Safety`]), and everything that earlier steps asked, is on disk before any message,
//! reply or event of that step leaves.

pub mod ahead;
pub mod archive;
pub mod batches;
pub mod chain;
pub mod core;
pub mod effect;
pub mod evidence;
pub mod finality;
pub mod follower;
mod gathering;
pub mod input;
mod listed;
pub mod message;
pub mod mutation;
pub mod peers;
pub mod pool;
mod replica;
pub mod schedule;
pub mod snapshot;
pub mod submission;
pub mod sync;
pub mod time;
pub mod tree;
mod windows;

pub use archive::{Archive, ArchiveError, BatchMeta, CheckpointDelta, Record, SafetyRecord};
pub use chain::{Applied, ChainChange};
pub use core::{Config, Core, Recovered};
pub use effect::{Effect, Event, HaltReason};
pub use evidence::{Evidence, EvidenceId};
pub use follower::Follower;
pub use input::{Input, Peer, RequestId};
pub use message::{Message, Mode, Status};
pub use submission::{Refusal, Verdict};
pub use time::Millis;
