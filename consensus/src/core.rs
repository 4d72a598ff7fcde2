//! Being written.

use std::sync::Arc;

use zeni_ledger::{Block, BlockId, Genesis, State, ValidatorIndex};

use crate::archive::{Archive, BatchMeta, CheckpointDelta, SafetyRecord};
use crate::effect::{Effect, HaltReason};
use crate::input::Input;
use crate::message::Status;
use crate::time::Millis;

/// What one process of a validator is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    pub me: ValidatorIndex,
    /// Signs batches and blocks.
    pub key: ed25519_dalek::SigningKey,
    /// Random, drawn at each process start.
    pub boot: u64,
    /// Random, drawn at each process start.
    pub nonce: u64,
    /// How long a starting node waits to hear from every validator before it takes part, in milliseconds.
    pub joining_ms: u64,
}

/// What a process finds on its disk.
#[derive(Debug)]
pub struct Recovered {
    /// The state at the checkpoint (at genesis, if there is no later one).
    pub state: State,
    /// The block that the state stands at, and its height.
    pub checkpoint: BlockId,
    pub checkpoint_height: u64,
    /// Every stored block, in the order of storing.
    pub blocks: Vec<Arc<Block>>,
    /// Every stored batch, in the order of storing.
    pub batches: Vec<BatchMeta>,
    /// `None` if it is lost: then the node only follows.
    pub safety: Option<SafetyRecord>,
}

/// One validator's consensus.
#[derive(Debug)]
pub struct Core {}

impl Core {
    /// Rebuilds a core from what is on disk: executes the stored chain behind the checkpoint and refills the pool.
    pub fn recover(
        config: Config,
        genesis: Arc<Genesis>,
        recovered: Recovered,
        now: Millis,
        archive: &dyn Archive,
    ) -> Result<(Self, Vec<Effect>), HaltReason> {
        let _ = (config, genesis, recovered, now, archive);
        Err(HaltReason::Archive("being written".into()))
    }

    /// Takes one input at time `now` and says what is to be done.
    pub fn step(&mut self, now: Millis, input: Input, archive: &dyn Archive) -> Vec<Effect> {
        let _ = (now, input, archive);
        Vec::new()
    }

    /// What brings the last checkpoint to the canonical block `depth` blocks below the head; `None` if it is there.
    /// The shell hands it to storage; the next call starts from where this one ended.
    pub fn checkpoint(&mut self, depth: u64, archive: &dyn Archive) -> Result<Option<CheckpointDelta>, HaltReason> {
        let _ = (depth, archive);
        Ok(None)
    }

    /// The state at the canonical head.
    pub fn state(&self) -> &State {
        panic!("being written")
    }

    /// Where this node stands, as its next status will say.
    pub fn status(&self) -> Status {
        panic!("being written")
    }
}
