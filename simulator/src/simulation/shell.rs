//! What the shell of a node does: steps its core, appends at once, syncs in groups, and releases in order after that.

use zeni_consensus::finality::FinalityMessage;
use zeni_consensus::finality::message::SignedVote;
use zeni_consensus::{
    CheckpointDelta, Effect, Event, HaltReason, Input, Message, Millis, Mode, Peer, Record, RequestId, Verdict,
};
use zeni_ledger::{BatchDigest, Block, FinalBlock, ValidatorIndex};
use zeni_storage::StorageError;

use super::{Ambush, Happening, STEPS_AT_ONCE_MAX, Simulation, Stimulus};
use crate::breakage::Breakage;
use crate::network::ProcessId;
use crate::process::{Say, TURNS_MAX, Turn};
use crate::trace::short;
use crate::violation::Violation;
use crate::world::GENESIS_TIME_MS;

/// A clock is wrong by this much, at most.
const CLOCK_SKEW_MAX_MS: u64 = 200;
/// A peer that was heard within this time can confirm batches.
const CONFIRMING_MS: u64 = 3_000;
/// A shell ticks its core at least so often.
const TICK_MAX_MS: u64 = 1_000;
/// What waits for a paused process, at most; then the queues to it are full.
const INBOX_MAX: usize = 2_048;

impl Simulation {
    /// Hands something to a process, or to its inbox while it is paused.
    pub(super) fn stimulate(&mut self, node: ProcessId, stimulus: Stimulus) -> Result<(), Violation> {
        let machine = &mut self.nodes[node];
        if machine.process.is_none() {
            return Ok(());
        }
        if machine.paused {
            let full = machine.inbox.len() >= INBOX_MAX && matches!(&stimulus, Stimulus::Input(Input::Message { .. }));
            if !full {
                machine.inbox.push_back(stimulus);
            }
            return Ok(());
        }
        match stimulus {
            Stimulus::Input(input) => {
                self.note_heard(node, &input);
                self.step(node, input)
            }
            Stimulus::Fetch { from, digests } => {
                self.serve_batches(node, from, &digests);
                Ok(())
            }
            Stimulus::Committed => self.finish_commit(node),
        }
    }

    fn note_heard(&mut self, node: ProcessId, input: &Input) {
        let machine = &mut self.nodes[node];
        match input {
            Input::Message { from: Peer::Validator(from), message } => {
                machine.heard.insert(*from, self.now);
                if let Message::Status(status) = message {
                    let mode = machine.told.entry(status.validator).or_insert(status.mode);
                    if status.validator == *from {
                        *mode = status.mode;
                    }
                }
            }
            Input::Disconnected(gone) => {
                machine.heard.remove(gone);
            }
            _ => {}
        }
    }

    pub(super) fn wake(&mut self, node: ProcessId, boot: u64, serial: u64) -> Result<(), Violation> {
        let current = self.nodes[node].process.as_ref().is_some_and(|process| process.wake == serial);
        if !current || !self.is_running(node, boot) || self.nodes[node].paused {
            return Ok(());
        }
        self.note(node, "wake", &[], String::new);
        self.step(node, Input::Tick)
    }

    /// Steps a process's core and does what it asks.
    pub(super) fn step(&mut self, node: ProcessId, input: Input) -> Result<(), Violation> {
        let now = self.clock(node);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        process.stepped = if process.stepped.0 == self.now { (self.now, process.stepped.1 + 1) } else { (self.now, 1) };
        if process.stepped.1 > STEPS_AT_ONCE_MAX {
            return Err(Violation::Spinning { node });
        }
        let effects = process.step(now, input);
        self.carry_out(node, effects)
    }

    pub(super) fn carry_out(&mut self, node: ProcessId, effects: Vec<Effect>) -> Result<(), Violation> {
        self.watch(node, &effects)?;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let checker = &mut self.checker;
        let carried = process.carry_out(effects, &mut |batch| checker.appended(batch));
        let (turn, wake) = match carried {
            Ok(carried) => carried,
            Err(error) => return self.storage_failed(node, &error),
        };
        if let Some(at) = wake {
            self.schedule_wake(node, at);
        }
        self.queue_turn(node, turn)
    }

    /// Checks what a step did to the chain before anything else happens.
    fn watch(&mut self, node: ProcessId, effects: &[Effect]) -> Result<(), Violation> {
        let mut moved = false;
        let root = self.checker.root(node);
        if let Some(process) = &self.nodes[node].process {
            self.checker.stands_on(node, process.last_final());
            self.checker.prefers(node, self.nodes[node].validator, process.newest_polka())?;
        }
        for effect in effects {
            match effect {
                Effect::Event(Event::Chain(change)) => {
                    if let Some(validator) = self.nodes[node].validator {
                        change.applied.iter().for_each(|applied| self.checker.executed_by(validator, applied.id));
                    }
                    self.checker.changed(node, self.clock(node), change)?;
                    moved = true;
                    self.facts.undone += change.undone.len() as u64;
                    self.facts.blocks += change.applied.len() as u64;
                    let (head, height) = self.nodes[node].process.as_ref().expect("it was just stepped").head();
                    let (undone, applied) = (change.undone.len(), change.applied.len());
                    self.note(node, "chain", &[&head.0], || {
                        format!("{undone} undone, {applied} applied; after this step {} at {height}", short(&head.0))
                    });
                }
                Effect::Event(Event::DoubleSigning(evidence)) => {
                    self.facts.double_votes += 1;
                    let signer = evidence.signer();
                    self.note(node, "evidence", &[&signer.0.to_le_bytes()], || format!("{evidence:?}"));
                }
                Effect::Event(Event::VotesForgotten(refused)) => {
                    let what = refused.to_string();
                    self.note(node, "forgot", &[what.as_bytes()], || what.clone());
                }
                Effect::Append(Record::Certificate(certificate)) => self.checker.ballots.certified(node, certificate),
                Effect::Halt(_) => self.nodes[node].halted = true,
                Effect::Broadcast(Message::Finality(said)) => self.watch_vote(node, said, root)?,
                Effect::Event(Event::Equivocation { .. }) => self.facts.equivocations += 1,
                Effect::Event(Event::InvalidBlock { .. }) => self.facts.invalid_blocks += 1,
                Effect::Broadcast(Message::Block(block)) => self.watch_proposal(node, block)?,
                Effect::Event(Event::Mode(mode)) => {
                    let mode = *mode;
                    self.note(node, "mode", &[&[mode as u8]], || format!("{mode:?}"));
                }
                Effect::Event(Event::Misbehaviour { peer, what }) => {
                    let (peer, what) = (*peer, *what);
                    self.note(node, "misbehaviour", &[what.as_bytes()], || format!("{peer:?}: {what}"));
                }
                _ => {}
            }
        }
        match &self.nodes[node].process {
            Some(process) if moved => {
                self.checker.check_state(node, process.state())?;
                if process.is_executing() {
                    return Ok(());
                }
                self.checker.check_choice(node, |digest| process.reader.has_batch(digest))
            }
            _ => Ok(()),
        }
    }

    fn watch_vote(&self, node: ProcessId, said: &FinalityMessage, root: FinalBlock) -> Result<(), Violation> {
        match (said, self.nodes[node].validator) {
            (FinalityMessage::Vote(SignedVote { voter, vote, .. }), Some(me)) if *voter == me => {
                vote.block.map_or(Ok(()), |block| self.checker.votes_for(node, me, block, root))
            }
            _ => Ok(()),
        }
    }

    /// Whether a validator that just proposed was entitled to, and to list what it listed.
    fn watch_proposal(&self, node: ProcessId, block: &Block) -> Result<(), Violation> {
        let machine = &self.nodes[node];
        let after_ms = self.now - machine.started_ms;
        let others =
            (0..self.profile.validators as u16).map(ValidatorIndex).filter(|other| Some(*other) != machine.validator);
        let unheard: Vec<u16> = others.filter(|other| !machine.told.contains_key(other)).map(|other| other.0).collect();
        if after_ms + 2 * CLOCK_SKEW_MAX_MS < self.profile.joining_ms && !unheard.is_empty() {
            return Err(Violation::ProposedTooSoon { node, after_ms, unheard });
        }
        let confirms = |(peer, at): (&ValidatorIndex, &u64)| {
            let is_active = machine.told.get(peer).is_none_or(|mode| *mode == Mode::Active);
            Some(*peer) != machine.validator && is_active && self.now - at + 2 * CLOCK_SKEW_MAX_MS < CONFIRMING_MS
        };
        match machine.heard.iter().any(confirms) {
            true => self.checker.check_listed(node, machine.disk, block),
            false => Ok(()),
        }
    }

    fn schedule_wake(&mut self, node: ProcessId, at: Millis) {
        let elapsed = at.0.saturating_sub(GENESIS_TIME_MS).saturating_add_signed(-self.nodes[node].clock_ms);
        let at = elapsed.clamp(self.now, self.now + TICK_MAX_MS);
        let boot = self.nodes[node].boots;
        let Some(process) = &mut self.nodes[node].process else { return };
        process.wake += 1;
        let serial = process.wake;
        self.queue.at(at, Happening::Wake { node, boot, serial });
    }

    fn queue_turn(&mut self, node: ProcessId, mut turn: Turn) -> Result<(), Violation> {
        for say in self.said_too_early(&mut turn) {
            self.release(node, say)?;
        }
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        if turn.is_empty() {
            return Ok(());
        }
        process.turns.push_back(turn);
        if process.committing.is_empty() { self.begin_commit(node) } else { Ok(()) }
    }

    /// What a broken shell does not hold back.
    fn said_too_early(&self, turn: &mut Turn) -> Vec<Say> {
        let early = |say: &Say| match self.breakage {
            Breakage::ReplyBeforeSync => matches!(say, Say::Reply { .. }),
            Breakage::ConfirmBeforeSync => matches!(say, Say::Broadcast(Message::Stored(_))),
            Breakage::VoteBeforeSync => matches!(say, Say::Broadcast(Message::Finality(_))),
            Breakage::ProposeBeforeSync => matches!(say, Say::Broadcast(Message::Block(_))),
            _ => false,
        };
        let (early, late) = std::mem::take(&mut turn.say).into_iter().partition(early);
        turn.say = late;
        early
    }

    /// Takes every waiting turn; if one of them wrote something, a sync begins, and it takes its time.
    fn begin_commit(&mut self, node: ProcessId) -> Result<(), Violation> {
        loop {
            let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
            let count = process.turns.len().min(TURNS_MAX);
            let group: Vec<Turn> = process.turns.drain(..count).collect();
            if group.is_empty() {
                return Ok(());
            }
            if group.iter().any(Turn::needs_sync) {
                process.committing = group;
                let (boot, (low, high)) = (self.nodes[node].boots, self.profile.sync_ms);
                let slow = self.disk_dice.chance(self.profile.slow_sync);
                let takes = if slow { self.disk_dice.between(100, 1_000) } else { self.disk_dice.between(low, high) };
                self.queue.at(self.now + takes, Happening::Committed { node, boot });
                if let Some(Ambush::InSync(restart_ms, crash_ms)) = self.nodes[node].ambush.filter(|_| takes > 0) {
                    self.kill(node, Some(restart_ms));
                    self.queue.at(self.now + restart_ms + crash_ms, Happening::PowerFailure { node });
                }
                return Ok(());
            }
            self.release_all(node, group)?;
        }
    }

    pub(super) fn committed(&mut self, node: ProcessId, boot: u64) -> Result<(), Violation> {
        if self.is_running(node, boot) { self.stimulate(node, Stimulus::Committed) } else { Ok(()) }
    }

    fn finish_commit(&mut self, node: ProcessId) -> Result<(), Violation> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        match process.commit() {
            Ok(durable) => self.note_durable(node, durable),
            Err(_) if self.breakage == Breakage::SyncErrorIgnored => {}
            Err(error) => return self.storage_failed(node, &error),
        }
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let group = std::mem::take(&mut process.committing);
        self.note(node, "synced", &[], || format!("{} turns", group.len()));
        self.release_all(node, group)?;
        self.begin_commit(node)
    }

    fn note_durable(&mut self, node: ProcessId, durable: Vec<BatchDigest>) {
        self.checker.ballots.synced(node);
        // Validators fetch from validators: what only a follower has counts for nobody.
        if self.nodes[node].validator.is_none() {
            return;
        }
        let disk = self.nodes[node].disk;
        durable.into_iter().for_each(|digest| self.checker.durable(digest, disk));
    }

    fn release_all(&mut self, node: ProcessId, group: Vec<Turn>) -> Result<(), Violation> {
        group.into_iter().flat_map(|turn| turn.say).try_for_each(|say| self.release(node, say))
    }

    /// Something leaves a process. One that crashed in the middle of its turn says nothing more.
    fn release(&mut self, node: ProcessId, say: Say) -> Result<(), Violation> {
        if self.nodes[node].process.is_none() {
            return Ok(());
        }
        match say {
            Say::Send { to, message } => self.say(node, Some(to), message)?,
            Say::Broadcast(message) => self.say(node, None, message)?,
            Say::Publish(message) => self.publish(node, &message),
            Say::Reply { request, verdicts } => self.reply(node, request, &verdicts)?,
            Say::Event(Event::Final(certificate)) => {
                self.checker.finalised(node, &certificate)?;
                self.facts.decisions = self.facts.decisions.max(certificate.decision);
                let (decision, block) = (certificate.decision, certificate.block);
                self.note(node, "final", &[&block.id.0, &decision.to_le_bytes()], || {
                    format!("{} at {} by decision {decision}", short(&block.id.0), block.height)
                });
            }
            Say::Event(_) => {}
            Say::Halt(HaltReason::TwinFound { boot }) => {
                self.note(node, "twin", &[], || format!("another process has boot {boot:#x}"));
                self.facts.twins_stopped += 1;
                self.stop_for_twin(node);
            }
            Say::Halt(reason) => return Err(Violation::Halted { node, reason }),
        }
        Ok(())
    }

    fn say(&mut self, node: ProcessId, to: Option<Peer>, message: Message) -> Result<(), Violation> {
        let me = self.nodes[node].validator;
        self.nodes[node].promises.said(&message, me);
        if let (Message::Blocks(blocks), Some(me)) = (&message, me) {
            // A block of its own that survived a crash unsent is signed all the same.
            let own = blocks.iter().filter(|block| block.header.proposer == me);
            own.into_iter().try_for_each(|block| self.checker.signed(block))?;
        }
        if let (Message::Finality(said), Some(me)) = (&message, me)
            && !self.perjures(node)
        {
            self.checker.ballots.voted(node, me, said)?;
        }
        let own_block = match (&message, me) {
            (Message::Block(block), Some(me)) if block.header.proposer == me => Some(block.clone()),
            _ => None,
        };
        if let Some(block) = own_block {
            self.checker.signed(&block)?;
            let (id, slot) = (block.id(&self.world.genesis_id), block.header.slot);
            self.nodes[node].promises.signed(id, slot);
            self.note(node, "proposed", &[&id.0], || {
                format!("{} at {} slot {slot} rank {}", short(&id.0), block.header.height, block.header.rank)
            });
            if self.is_liar(node) && self.lie(node, &block) {
                return Ok(());
            }
        }
        if self.perjures(node) && self.twist(node, &message) {
            return Ok(());
        }
        let proposed = matches!((&message, to), (Message::Block(_), None));
        self.send_to(node, to, &message);
        if proposed && let Some(Ambush::AtProposal(restart_ms)) = self.nodes[node].ambush {
            self.crash(node, Some(restart_ms));
        }
        Ok(())
    }

    fn reply(&mut self, node: ProcessId, request: RequestId, verdicts: &[Verdict]) -> Result<(), Violation> {
        let boot = self.nodes[node].boots;
        let wishes = self.requests.remove(&(node, boot, request)).unwrap_or_default();
        if wishes.len() != verdicts.len() {
            return Err(Violation::StrayReply { node });
        }
        for (wish, verdict) in wishes.into_iter().zip(verdicts) {
            let id = self.workload.wish(wish).id;
            // Hashed in words: two runs that differ only in what a client is told are not the same run.
            let told = format!("{verdict:?}");
            self.note(node, "verdict", &[&id.0, told.as_bytes()], || format!("{} {told}", short(&id.0)));
            self.checker.answered(node, id, *verdict)?;
            self.nodes[node].promises.acknowledged(id, verdict);
            self.workload.answered(wish, verdict);
        }
        Ok(())
    }

    /// Storage failed under a running process: it stops, and starts again from what the disk kept.
    fn storage_failed(&mut self, node: ProcessId, error: &StorageError) -> Result<(), Violation> {
        self.note(node, "disk error", &[], || error.to_string());
        if !std::mem::take(&mut self.nodes[node].disk_faulty) {
            return Err(Violation::CannotStart { node, what: error.to_string() });
        }
        let restart_ms = self.fault_dice.between(100, 5_000);
        self.crash(node, Some(restart_ms));
        Ok(())
    }

    pub(super) fn checkpoint(&mut self, node: ProcessId, boot: u64) -> Result<(), Violation> {
        if !self.is_running(node, boot) {
            return Ok(());
        }
        self.queue.at(self.now + self.profile.checkpoint_every_ms, Happening::Checkpoint { node, boot });
        let paused = self.nodes[node].paused;
        let process = self.nodes[node].process.as_mut().expect("it runs");
        if process.checkpointing || process.is_gathering() || paused {
            return Ok(());
        }
        let most = self.profile.gathered_accounts_max;
        let delta = process.begin_checkpoint(most).map_err(|reason| Violation::Halted { node, reason })?;
        self.gathered(node, boot, delta);
        Ok(())
    }

    /// A turn in which a node gathers some more for its checkpoint.
    pub(super) fn gather(&mut self, node: ProcessId, boot: u64) -> Result<(), Violation> {
        if !self.is_running(node, boot) {
            return Ok(());
        }
        let (most, paused) = (self.profile.gathered_accounts_max, self.nodes[node].paused);
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let gathered = if paused { Ok(None) } else { process.gather_checkpoint(most) };
        let delta = gathered.map_err(|reason| Violation::Halted { node, reason })?;
        self.gathered(node, boot, delta);
        Ok(())
    }

    fn gathered(&mut self, node: ProcessId, boot: u64, delta: Option<CheckpointDelta>) {
        let process = self.nodes[node].process.as_mut().expect("it runs");
        if let Some(delta) = delta {
            process.checkpointing = true;
            let at = self.now + self.disk_dice.between(1, 500);
            self.queue.at(at, Happening::CheckpointWritten { node, boot, delta: Box::new(delta) });
        } else if process.is_gathering() {
            let at = self.now + self.disk_dice.between(1, 400);
            self.queue.at(at, Happening::Gather { node, boot });
        }
    }

    pub(super) fn checkpoint_written(
        &mut self,
        node: ProcessId,
        boot: u64,
        delta: &CheckpointDelta,
    ) -> Result<(), Violation> {
        if !self.is_running(node, boot) {
            return Ok(());
        }
        let process = self.nodes[node].process.as_mut().expect("it runs");
        process.checkpointing = false;
        let durable = process.syncer.sync_all().map(|()| std::mem::take(&mut process.unsynced));
        let written = durable.and_then(|durable| process.checkpoint.apply(delta).map(|()| durable));
        match written {
            Ok(durable) => {
                self.note_durable(node, durable);
                self.note(node, "checkpoint", &[&delta.to.0], || format!("at height {}", delta.height));
                Ok(())
            }
            Err(error) => self.storage_failed(node, &error),
        }
    }

    pub(super) fn resume(&mut self, node: ProcessId) -> Result<(), Violation> {
        if !std::mem::take(&mut self.nodes[node].paused) {
            return Ok(());
        }
        self.note(node, "resumed", &[], String::new);
        let boot = self.nodes[node].boots;
        self.step(node, Input::Tick)?;
        let waiting = std::mem::take(&mut self.nodes[node].inbox);
        for stimulus in waiting {
            if self.is_running(node, boot) {
                self.stimulate(node, stimulus)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeni_consensus::Refusal;

    /// The trace of a run in which a client gets this verdict and nothing else happens.
    fn trace_of(verdict: Verdict) -> [u8; 32] {
        let mut simulation = Simulation::new(1, Breakage::None, false);
        let wish = simulation.workload.probe(0);
        let request = RequestId(1);
        let boot = simulation.nodes[0].boots;
        simulation.requests.insert((0, boot, request), vec![wish]);
        simulation.reply(0, request, &[verdict]).unwrap();
        simulation.trace.hash()
    }

    #[test]
    fn runs_that_differ_only_in_a_verdict_have_different_traces() {
        let [expired, used] =
            [Refusal::Expired, Refusal::SequenceUsed].map(|refusal| trace_of(Verdict::Refused(refusal)));
        assert_eq!(expired, trace_of(Verdict::Refused(Refusal::Expired)));
        assert_ne!(expired, used);
    }
}
