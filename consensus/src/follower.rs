//! Follows the chain without a vote, as an API server does: fetches, executes and checks every root.

use std::sync::Arc;

use zeni_ledger::{BatchDigest, BlockId, FinalBlock, Genesis, State};

use crate::ahead::Draft;
use crate::archive::{Archive, CheckpointDelta};
use crate::batches::BatchIndex;
use crate::chain::{Bounds, Chain};
use crate::core::Recovered;
use crate::effect::{Effect, HaltReason};
use crate::finality::FinalityMessage;
use crate::input::{Input, Peer};
use crate::message::Message;
use crate::mutation::Mutation;
use crate::replica::Replica;
use crate::time::Millis;

/// A follower looks around at least this often.
const WAKE_INTERVAL_MS: u64 = 1_000;

/// Follows the chain from any of the validators.
///
/// Inputs and effects are those of the core. It takes `Tick`, `Connected`, `Disconnected` and `Message`; it emits
/// `Append`, `AppendUndo`, `Send`, `WakeAt`, `Event` and `Halt`.
#[derive(Debug)]
pub struct Follower {
    replica: Replica,
    draft: Option<Draft>,
    halted: bool,
    last_step: Millis,
}

impl Follower {
    /// Rebuilds a follower from what is on disk; it executes the stored chain in its first steps. `recovered.safety`
    /// is ignored.
    ///
    /// # Errors
    /// If the log does not hold the chain up to the checkpoint.
    pub fn recover(
        genesis: Arc<Genesis>,
        recovered: Recovered,
        now: Millis,
    ) -> Result<(Self, Vec<Effect>), HaltReason> {
        let mut batches = BatchIndex::default();
        for meta in &recovered.batches {
            batches.restore(*meta, None);
        }
        let mut chain = Chain::new(genesis, recovered.state, Mutation::none(), Bounds::default());
        let loose = chain.restore(recovered.blocks, recovered.checkpoint, &mut batches)?;
        let mut replica = Replica::new(chain, batches, None, Mutation::none());
        replica.restore_loose(loose);
        replica.restore_finality(recovered.certificates)?;
        Ok((Self { replica, draft: None, halted: false, last_step: now }, vec![Effect::WakeAt(now)]))
    }

    /// Takes one input at time `now` and says what is to be done.
    pub fn step(&mut self, now: Millis, input: Input, archive: &dyn Archive) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.halted {
            return out;
        }
        let now = now.max(self.last_step);
        self.last_step = now;
        if let Err(reason) = self.try_step(now, input, archive, &mut out) {
            self.halted = true;
            out.push(Effect::Halt(reason));
        }
        out
    }

    fn try_step(
        &mut self,
        now: Millis,
        input: Input,
        archive: &dyn Archive,
        out: &mut Vec<Effect>,
    ) -> Result<(), HaltReason> {
        let executes = matches!(input, Input::Tick) || !self.replica.is_unfinished();
        match input {
            Input::Connected(validator) => {
                self.replica.peer_connected(validator);
                self.replica.peers.heard(validator, now);
            }
            Input::Disconnected(validator) => self.replica.peers.disconnected(validator),
            Input::Message { from: from @ Peer::Validator(validator), message } => {
                self.replica.peers.heard(validator, now);
                match self.replica.serve(now, from, message, archive, out)? {
                    Some(Message::Status(status)) if status.validator == validator => {
                        self.replica.peers.note_status(status, now);
                    }
                    Some(Message::Batch(batch)) => {
                        self.replica.store_batch(now, batch, out);
                    }
                    Some(Message::Draft { slot, parent, start, digests }) => {
                        self.receive_draft(Draft { slot, parent, digests }, start);
                    }
                    Some(Message::Finality(message)) => {
                        if let FinalityMessage::Commit(certificate) = *message {
                            self.replica.learn(now, Some(validator), certificate, out)?;
                        }
                    }
                    _ => {}
                }
            }
            Input::Tick
            | Input::Message { .. }
            | Input::Submission { .. }
            | Input::BadBatch { .. }
            | Input::DiskFull(_) => {}
        }
        self.replica.release_held(now, out);
        if executes {
            self.replica.advance(archive, out)?;
        }
        self.follow_draft(archive)?;
        self.replica.follow_finality(now, out)?;
        self.replica.drive(now, out);
        let soon = if self.replica.is_unfinished() { now } else { now + WAKE_INTERVAL_MS };
        let wake = self.replica.next_wake().map_or(soon, |wake| wake.clamp(now, soon));
        out.push(Effect::WakeAt(wake));
        Ok(())
    }

    /// Takes a part of a draft. A validator passes on what it follows itself, so the last one that begins counts.
    fn receive_draft(&mut self, part: Draft, start: u32) {
        let most = self.replica.chain.genesis().batches_max as usize;
        Draft::take(&mut self.draft, part, start as usize, most);
    }

    /// Executes ahead what the draft for a block on the head names.
    fn follow_draft(&mut self, archive: &dyn Archive) -> Result<(), HaltReason> {
        let replica = &mut self.replica;
        let head = replica.chain.head();
        match self.draft.as_ref().filter(|draft| draft.parent == head && !replica.is_unfinished()) {
            Some(draft) => draft.follow(&mut replica.chain, &replica.batches, archive),
            None => Ok(()),
        }
    }

    /// As [`crate::Core::checkpoint`].
    pub fn checkpoint(&mut self, archive: &dyn Archive) -> Result<Option<CheckpointDelta>, HaltReason> {
        self.replica.chain.checkpoint(archive)
    }

    /// The state at the canonical head.
    pub fn state(&self) -> &State {
        self.replica.chain.state()
    }

    /// As [`crate::Core::is_executing`].
    pub fn is_executing(&self) -> bool {
        self.replica.is_unfinished()
    }

    /// The batches that are executed already of the block that the last draft was about.
    pub fn executed_ahead(&self) -> &[BatchDigest] {
        let ahead = self.draft.as_ref().and_then(|draft| self.replica.chain.executed_ahead(draft.slot));
        ahead.map_or(&[], |ahead| ahead.digests())
    }

    /// The canonical head and its height.
    pub fn head(&self) -> (BlockId, u64) {
        (self.replica.chain.head(), self.replica.chain.head_node().height)
    }

    /// The last final block; genesis before the first decision.
    pub fn last_final(&self) -> FinalBlock {
        self.replica.chain.root()
    }

    /// The canonical block at `height`.
    pub fn block_at(&self, height: u64) -> Option<BlockId> {
        self.replica.chain.tree().canonical_at(height)
    }

    /// The greatest height that a live validator has told, or that is executed here.
    pub fn best_height(&self) -> u64 {
        let told = self.replica.peers.live_statuses(self.last_step).map(|status| status.height);
        told.chain([self.head().1]).max().unwrap_or(0)
    }
}
