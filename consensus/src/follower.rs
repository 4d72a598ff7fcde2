//! Being written.

use std::sync::Arc;

use zeni_ledger::{BlockId, Genesis, State};

use crate::archive::{Archive, CheckpointDelta};
use crate::core::Recovered;
use crate::effect::{Effect, HaltReason};
use crate::input::Input;
use crate::time::Millis;

/// Follows the chain without a vote, as an API server does: it fetches, executes and checks every root.
///
/// Inputs and effects are those of the core. It takes `Tick`, `Connected`, `Disconnected` and `Message`; it emits
/// `Append`, `AppendUndo`, `Send`, `WakeAt`, `Event` and `Halt`.
#[derive(Debug)]
pub struct Follower {}

impl Follower {
    /// Rebuilds a follower from what is on disk. `recovered.safety` is ignored.
    pub fn recover(
        genesis: Arc<Genesis>,
        recovered: Recovered,
        now: Millis,
        archive: &dyn Archive,
    ) -> Result<(Self, Vec<Effect>), HaltReason> {
        let _ = (genesis, recovered, now, archive);
        Err(HaltReason::Archive("being written".into()))
    }

    pub fn step(&mut self, now: Millis, input: Input, archive: &dyn Archive) -> Vec<Effect> {
        let _ = (now, input, archive);
        Vec::new()
    }

    /// As [`crate::Core::checkpoint`].
    pub fn checkpoint(&mut self, depth: u64, archive: &dyn Archive) -> Result<Option<CheckpointDelta>, HaltReason> {
        let _ = (depth, archive);
        Ok(None)
    }

    /// The state at the canonical head.
    pub fn state(&self) -> &State {
        panic!("being written")
    }

    /// The canonical head and its height.
    pub fn head(&self) -> (BlockId, u64) {
        panic!("being written")
    }

    /// The canonical block at `height`.
    pub fn block_at(&self, height: u64) -> Option<BlockId> {
        let _ = height;
        panic!("being written")
    }

    /// The greatest height that any connected validator has told.
    pub fn best_height(&self) -> u64 {
        panic!("being written")
    }
}
