//! One validator's consensus: takes inputs, keeps the pool and the chain, proposes blocks.
//!
//! Every step ends alike: cut the forming batch if it is due, follow fork choice, change mode, propose if it is this
//! validator's turn, say hello, ask for what is missing, and name the next wake-up.

mod draft;
mod finality;
mod gossip;
mod propose;
mod submit;

use std::collections::BTreeMap;
use std::sync::Arc;

use zeni_ledger::batch::BATCH_PAYMENTS_MAX;
use zeni_ledger::{
    BatchDigest, Block, BlockId, CommitCertificate, FinalBlock, Genesis, State, TransactionId, ValidatorIndex,
};

use crate::ahead::Draft;
use crate::archive::{Archive, BatchMeta, CheckpointDelta, SafetyRecord};
use crate::batches::{BatchIndex, ValidatorSet};
use crate::chain::{Bounds, Chain, ChainChange};
use crate::effect::{Effect, Event, HaltReason};
use crate::finality::{EngineConfig, Guard, LogEntry};
use crate::input::Input;
use crate::message::{Mode, Status};
use crate::mutation::{Mutant, Mutation};
use crate::peers::LIVE_MS;
use crate::pool::{Pool, Waiting};
use crate::replica::Replica;
use crate::time::Millis;

use crate::finality::engine::Timeouts;
use finality::{Ballot, TIMEOUTS};
use propose::Offer;
use submit::Forming;

/// A head whose slot is this long past may belong to a chain that is still being executed.
const SLOTS_BEHIND_MIN: u64 = 2;

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
    /// Where nothing speaks for others, the default ones.
    pub bounds: Bounds,
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
    /// Stored certificates, by rising decision.
    pub certificates: Vec<CommitCertificate>,
    /// What the finality engine logged for decisions behind the last certificate, in the order of storing.
    pub finality: Vec<(u64, LogEntry)>,
    /// Of what the finality engine logged for those decisions some may be missing, because the log is damaged.
    pub votes_lost: bool,
    /// `None` if it is lost: then the node only follows.
    pub safety: Option<SafetyRecord>,
}

impl Recovered {
    /// What a process finds that stored nothing behind genesis, whose first state this is, and no record of what it signed.
    pub fn at_genesis(genesis: &Genesis, state: State) -> Self {
        Self {
            state,
            checkpoint: genesis.block_id(),
            checkpoint_height: 0,
            blocks: Vec::new(),
            batches: Vec::new(),
            certificates: Vec::new(),
            finality: Vec::new(),
            votes_lost: false,
            safety: None,
        }
    }
}

/// One validator's consensus.
#[derive(Debug)]
pub struct Core {
    config: Config,
    genesis: Arc<Genesis>,
    replica: Replica,
    pool: Pool,
    ballot: Ballot,
    forming: Forming,
    batch_number: u64,
    mode: Mode,
    /// When the present mode began, or the last progress within it.
    mode_since: Millis,
    safety: Option<SafetyRecord>,
    /// Stored batches to be put into the pool once the stored chain is executed.
    replaying: Option<Vec<BatchMeta>>,
    disk_full: bool,
    halted: bool,
    last_step: Millis,
    next_status: Millis,
    next_pool_exchange: Millis,
    /// Batches that arrived up to here were in the pool at the last exchange.
    exchanged: u64,
    /// The present slot, and the last batch that arrived before it began: its block lists none of a later arrival.
    slot: (u64, u64),
    /// What each live peer offers that is not executed here, and since when; under this validator's own index, the last final
    /// block.
    behind_since: BTreeMap<ValidatorIndex, Offer>,
    /// Who may propose before this validator in the present slot.
    ahead: Vec<ValidatorIndex>,
    /// Who may propose in the next slot, in that order.
    next_order: Vec<ValidatorIndex>,
    /// What each validator said of the block that it will propose.
    drafts: BTreeMap<ValidatorIndex, Option<Draft>>,
    /// How many drafts each began in the present slot, and how many parts it sent.
    drafts_told: BTreeMap<ValidatorIndex, (u32, u32)>,
    /// When this validator looks again for what it can draft.
    next_draft: Millis,
    /// For which slot it executes what it will propose, and since when.
    preparing: Option<(u64, Millis)>,
    mutation: Mutation,
}

impl Core {
    /// Rebuilds a core from what is on disk. It executes the stored chain behind the checkpoint in its first steps,
    /// and refills the pool after that; until then it refuses submissions with "try again".
    ///
    /// # Errors
    /// If the log does not hold the chain up to the checkpoint.
    pub fn recover(
        config: Config,
        genesis: Arc<Genesis>,
        recovered: Recovered,
        now: Millis,
    ) -> Result<(Self, Vec<Effect>), HaltReason> {
        Self::recover_with(config, genesis, recovered, now, Mutation::none())
    }

    /// As [`Self::recover`], for a core that breaks a rule on purpose.
    pub fn recover_with(
        config: Config,
        genesis: Arc<Genesis>,
        recovered: Recovered,
        now: Millis,
        mutation: Mutation,
    ) -> Result<(Self, Vec<Effect>), HaltReason> {
        let mut batches = BatchIndex::default();
        for meta in &recovered.batches {
            batches.restore(*meta, Some(config.me));
        }
        let mine = recovered.batches.iter().filter(|meta| meta.author == config.me);
        let batch_number = mine.map(|meta| meta.number).max().unwrap_or(0);
        // A crash may come after a block's record and before the safety record that goes with it.
        let signed = own_slots(&recovered.blocks, config.me).max().unwrap_or(0);
        let safety = recovered.safety.map(|safety| SafetyRecord {
            last_signed_slot: if mutation.is(Mutant::SignTwice) { 0 } else { safety.last_signed_slot.max(signed) },
            ..safety
        });
        let mut chain = Chain::new(genesis.clone(), recovered.state, mutation, config.bounds);
        let loose = chain.restore(recovered.blocks, recovered.checkpoint, &mut batches)?;
        let mode = if safety.is_some() { Mode::Joining } else { Mode::FollowOnly };
        let mut replica = Replica::new(chain, batches, Some(config.me), mutation);
        replica.restore_loose(loose);
        replica.restore_finality(recovered.certificates)?;
        let forgets = mutation.is(Mutant::ForgetVotes);
        let guard = safety.filter(|_| !forgets).map_or(Guard::default(), |safety| safety.guard);
        let voter = EngineConfig {
            me: config.me,
            key: config.key.clone(),
            genesis: genesis.clone(),
            timeouts: timeouts(mutation),
            quorum: quorum(&genesis, mutation),
        };
        let log = if forgets { Vec::new() } else { recovered.finality };
        let (ballot, remembers) = Ballot::new(voter, guard, log, replica.newest_decision());
        let forgot = (!remembers || recovered.votes_lost) && !forgets;
        let safety = safety.map(|safety| SafetyRecord {
            guard: ballot.guard(),
            readmitted: safety.readmitted || forgot,
            ..safety
        });
        let core = Self {
            replica,
            ballot,
            config,
            genesis,
            pool: Pool::default(),
            forming: Forming::default(),
            batch_number,
            mode,
            mode_since: now,
            safety,
            replaying: Some(recovered.batches),
            disk_full: false,
            halted: false,
            last_step: now,
            next_status: now,
            next_pool_exchange: now,
            exchanged: 0,
            slot: (0, 0),
            behind_since: BTreeMap::new(),
            ahead: Vec::new(),
            next_order: Vec::new(),
            drafts: BTreeMap::new(),
            drafts_told: BTreeMap::new(),
            next_draft: now,
            preparing: None,
            mutation,
        };
        let mut first = vec![Effect::Event(Event::Mode(mode)), Effect::WakeAt(now)];
        first.extend(core.safety.filter(|safety| safety.readmitted).map(Effect::Safety));
        Ok((core, first))
    }

    /// Takes one input at time `now` and says what is to be done. Time that runs backwards is taken as standing still.
    pub fn step(&mut self, now: Millis, input: Input, archive: &dyn Archive) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.halted {
            return out;
        }
        let now = now.max(self.last_step);
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
        self.notice_pause(now, out);
        self.notice_slot(now);
        self.last_step = now;
        // While there is more to execute, only ticks go on with it: what peers and clients say is taken in between.
        let executes = matches!(input, Input::Tick) || !self.replica.is_unfinished();
        match input {
            Input::Tick => {}
            Input::Submission { request, payments } => self.submit(now, request, payments, archive, out)?,
            Input::Connected(validator) => self.connected(validator, out),
            Input::Disconnected(validator) => self.replica.peers.disconnected(validator),
            Input::Message { from, message } => self.receive(now, from, message, archive, out)?,
            Input::BadBatch { author, digest, batch, unsigned } => {
                out.push(Effect::Event(Event::BadBatch { author, digest, batch, unsigned }));
            }
            Input::DiskFull(full) => self.disk_full = full,
        }
        self.cut_if_due(now, out);
        self.replica.release_held(now, out);
        if executes {
            self.follow_fork_choice(now, archive, out)?;
        }
        self.change_mode(now, out);
        // Whoever proposes keeps its own account of what peers offer. Whoever does not would wait for a liar for ever.
        if self.mode == Mode::FollowOnly {
            self.note_offers(now);
        }
        if !self.propose_if_due(now, archive, out)? {
            self.execute_ahead(now, archive, out)?;
        }
        self.drive_finality(now, out)?;
        self.replica.drive(now, out);
        self.say_hello(now, out);
        out.push(Effect::WakeAt(self.next_wake(now)));
        Ok(())
    }

    /// A process that did not run for longer than a live validator may be silent heard nobody meanwhile: it joins anew.
    fn notice_pause(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if now.since(self.last_step) > LIVE_MS {
            self.replica.peers.forget_liveness();
            if matches!(self.mode, Mode::Active | Mode::Syncing) {
                self.enter(Mode::Joining, now, out);
            }
        }
    }

    fn notice_slot(&mut self, now: Millis) {
        let slot = self.genesis.slot_at(now.0);
        if slot != self.slot.0 {
            self.slot = (slot, self.replica.batches.last_arrival());
            self.drafts_told.clear();
            let schedule = self.replica.chain.schedule();
            let order = schedule.order(slot);
            self.next_order = schedule.order(slot + 1);
            self.ahead = order.into_iter().take_while(|validator| *validator != self.config.me).collect();
        }
    }

    fn enter(&mut self, mode: Mode, now: Millis, out: &mut Vec<Effect>) {
        if self.mode != mode {
            self.mode = mode;
            out.push(Effect::Event(Event::Mode(mode)));
            self.next_status = now;
        }
        self.mode_since = now;
    }

    fn follow_fork_choice(
        &mut self,
        now: Millis,
        archive: &dyn Archive,
        out: &mut Vec<Effect>,
    ) -> Result<(), HaltReason> {
        if let Some(change) = self.replica.advance(archive, out)? {
            self.update_pool(&change, archive)?;
            // Where a block is executed in part, nothing new is to be told.
            let moved = !(change.applied.is_empty() && change.undone.is_empty() && change.invalid.is_empty());
            if moved {
                self.next_status = now;
            }
            // What catches up with time comes nearer; a chain that grows by its newest block does not.
            if moved && self.slot.0 > self.replica.chain.head_node().slot + SLOTS_BEHIND_MIN {
                // Whoever offered what it now executes delivers: it is waited for from here on.
                self.behind_since.values_mut().for_each(|offer| offer.since = now);
                if self.mode == Mode::Syncing {
                    self.mode_since = now;
                }
            }
        }
        if !self.replica.is_unfinished()
            && let Some(stored) = self.replaying.take()
        {
            self.refill_pool(&stored, archive)?;
        }
        Ok(())
    }

    /// Takes what became canonical out of the pool, and puts back what is not canonical any more.
    fn update_pool(&mut self, change: &ChainChange, archive: &dyn Archive) -> Result<(), HaltReason> {
        for applied in &change.applied {
            for batch in &applied.batches {
                if let Some(info) = self.replica.batches.info(&batch.digest()) {
                    self.pool.remove(info.arrival, batch);
                }
            }
        }
        if self.mutation.is(Mutant::ForgetAbandoned) {
            return Ok(());
        }
        change.requeued.iter().try_for_each(|digest| self.add_to_pool(digest, archive))
    }

    fn refill_pool(&mut self, stored: &[BatchMeta], archive: &dyn Archive) -> Result<(), HaltReason> {
        let waiting: Vec<BatchDigest> =
            stored.iter().map(|meta| meta.digest).filter(|digest| !self.replica.chain.lists(digest)).collect();
        waiting.iter().try_for_each(|digest| self.add_to_pool(digest, archive))
    }

    fn add_to_pool(&mut self, digest: &BatchDigest, archive: &dyn Archive) -> Result<(), HaltReason> {
        if let Some(info) = self.replica.batches.info(digest) {
            let arrival = info.arrival;
            let batch = self.replica.batches.load(digest, archive)?;
            self.pool.add(arrival, &batch, false);
        }
        Ok(())
    }

    /// Joining, until every validator is heard or long enough has passed; syncing, until every valid chain on offer is
    /// executed here, or none of them has come nearer for as long; then active.
    fn change_mode(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let waited = now.since(self.mode_since) >= self.config.joining_ms;
        if self.mode == Mode::Joining && self.replaying.is_none() {
            let heard_all = self.others().all(|validator| self.replica.peers.told_status(validator, now));
            if heard_all || waited || self.mutation.is(Mutant::NoJoining) {
                self.enter(Mode::Syncing, now, out);
            }
        }
        let waited = now.since(self.mode_since) >= self.config.joining_ms;
        if self.mode == Mode::Syncing && (waited || self.replica.is_in_sync(now)) {
            self.enter(Mode::Active, now, out);
        }
    }

    fn others(&self) -> impl Iterator<Item = ValidatorIndex> + use<> {
        let me = self.config.me;
        (0..self.genesis.validators.len() as u16).map(ValidatorIndex).filter(move |validator| *validator != me)
    }

    fn next_wake(&self, now: Millis) -> Millis {
        if self.replica.is_unfinished() || self.replaying.is_some() {
            return now;
        }
        let candidates = [
            Some(self.next_status),
            self.forming.due(),
            self.next_turn(now),
            self.replica.next_wake(),
            Some(self.next_pool_exchange),
            self.next_finality(now),
            self.next_draft(now),
            self.preparing.map(|_| now),
        ];
        candidates.into_iter().flatten().min().expect("there is always a next status").max(now + 1)
    }

    /// Begins to gather what brings the last checkpoint to the last final block, unless that is being done or it is there.
    /// With `sums`, all tokens are added up on the way. [`Self::gather_checkpoint`] does the work, in pieces.
    pub fn begin_checkpoint(&mut self, sums: bool, archive: &dyn Archive) -> Result<(), HaltReason> {
        self.replica.chain.begin_checkpoint(sums, archive)
    }

    /// Gathers about `most` accounts more for the checkpoint that was begun. What brings the last checkpoint to the block
    /// that was the last final one when it was begun, once that is complete: the shell hands it to storage, and the next
    /// checkpoint starts from there.
    ///
    /// # Panics
    /// If a token's sum is not zero.
    pub fn gather_checkpoint(
        &mut self,
        most: u64,
        archive: &dyn Archive,
    ) -> Result<Option<CheckpointDelta>, HaltReason> {
        self.replica.chain.gather_checkpoint(most, archive)
    }

    /// Whether a checkpoint was begun and is not complete.
    pub fn is_gathering(&self) -> bool {
        self.replica.chain.is_gathering()
    }

    /// How many accounts final blocks touched since the last checkpoint, those that several did as often.
    pub fn accounts_behind_checkpoint(&self) -> u64 {
        self.replica.chain.accounts_behind_checkpoint()
    }

    /// Both at once: what brings the last checkpoint to the last final block; `None` if it is there.
    ///
    /// # Panics
    /// If a token's sum is not zero.
    pub fn checkpoint(&mut self, archive: &dyn Archive) -> Result<Option<CheckpointDelta>, HaltReason> {
        self.replica.chain.checkpoint(archive)
    }

    /// The state at the canonical head.
    pub fn state(&self) -> &State {
        self.replica.chain.state()
    }

    /// Where this node stands, as its next status will say.
    pub fn status(&self) -> Status {
        let head = self.replica.chain.head_node();
        Status {
            validator: self.config.me,
            boot: self.config.boot,
            nonce: self.config.nonce,
            echoes: self.replica.peers.nonces(),
            mode: self.mode,
            head: self.replica.chain.head(),
            height: head.height,
            slot: head.slot,
            weight: head.weight,
            pool: self.pool.len() as u32,
            decision: self.replica.decision(),
            last_final: self.replica.chain.root(),
        }
    }

    /// The last final block; genesis before the first decision.
    pub fn last_final(&self) -> FinalBlock {
        self.replica.chain.root()
    }

    /// In the open decision, the last round in which a quorum is known to have prevoted for a block, and that block: fork
    /// choice prefers what stands on it. With the number of the decision.
    pub fn newest_polka(&self) -> Option<(u64, u32, FinalBlock)> {
        let engine = self.ballot.engine();
        engine.newest_polka().map(|(round, block)| (engine.decision(), round, block))
    }

    /// Whether it forgot what it signed for the finality engine, and so waits until it heard every other validator.
    pub fn forgot_votes(&self) -> bool {
        self.safety.is_some_and(|safety| safety.readmitted)
    }

    /// Whether stored blocks wait to be executed, so that the head is not yet what fork choice will make it.
    pub fn is_executing(&self) -> bool {
        self.replica.is_unfinished()
    }

    /// How many validators are known to have a waiting payment on disk; 0 if none waits here with that id.
    pub fn pending_copies(&self, id: &TransactionId) -> u16 {
        match self.pool.waiting(id) {
            Some(Waiting::Batch(digest)) => self.replica.batches.info(&digest).map_or(0, |info| info.holders.len()),
            Some(Waiting::Forming) | None => 0,
        }
    }

    /// The batches that are executed already of the next block, or of one that is too large for a step; the slot they are
    /// meant for.
    pub fn executed_ahead(&self) -> Option<(u64, &[BatchDigest])> {
        let next = [self.slot.0, self.slot.0 + 1].map(|slot| (slot, self.replica.chain.executed_ahead(slot)));
        next.into_iter().find_map(|(slot, ahead)| ahead.map(|ahead| (slot, ahead.digests())))
    }

    /// Payments stored here that no canonical block lists.
    pub fn pending_payments(&self) -> u64 {
        self.pool.payments()
    }

    /// Payments that this node has still to execute: those that wait here, and while a heavier chain is waited for a full batch
    /// for each that a block lists and that is not here yet. Not longer: or one validator could close every door with a block
    /// of batches that nobody has.
    pub fn backlog(&self) -> u64 {
        let waits = self.waits_for_better_head(self.last_step);
        let awaited = if waits { self.replica.chain.tree().awaited_len() * BATCH_PAYMENTS_MAX } else { 0 };
        self.pool.payments().saturating_add(awaited as u64)
    }

    /// Payments executed since the start, ahead of a block or for it, each as often as it was.
    pub fn executed_payments(&self) -> u64 {
        self.replica.chain.executed_payments()
    }

    /// Validators heard from in the last 10 s, this one included.
    pub fn live_validators(&self) -> u16 {
        let mut live: ValidatorSet = self.replica.peers.live(self.last_step);
        live.insert(self.config.me);
        live.len()
    }

    /// The greatest height that a live validator has told, this one included.
    pub fn best_height(&self) -> u64 {
        let told = self.replica.peers.live_statuses(self.last_step).map(|status| status.height);
        told.chain([self.replica.chain.head_node().height]).max().unwrap_or(0)
    }

    /// The canonical block at `height`.
    pub fn block_at(&self, height: u64) -> Option<BlockId> {
        self.replica.chain.tree().canonical_at(height)
    }
}

/// The timeouts of the finality engine.
fn timeouts(mutation: Mutation) -> Timeouts {
    const NEVER_MS: u64 = 1 << 40;
    match mutation.is(Mutant::NoRoundChange) {
        true => Timeouts { propose_ms: NEVER_MS, most_ms: NEVER_MS, ..TIMEOUTS },
        false => TIMEOUTS,
    }
}

/// The share of all stake that a quorum must exceed.
fn quorum(genesis: &Genesis, mutation: Mutation) -> (u64, u64) {
    let (numerator, denominator) = genesis.fault_model.quorum_ratio();
    match mutation.is(Mutant::QuorumOffByOne) {
        true => (numerator * genesis.total_stake() - 1, denominator * genesis.total_stake()),
        false => (numerator, denominator),
    }
}

/// Slots of the stored blocks that this validator proposed.
fn own_slots(blocks: &[Arc<Block>], me: ValidatorIndex) -> impl Iterator<Item = u64> {
    blocks.iter().map(|block| &block.header).filter(move |header| header.proposer == me).map(|header| header.slot)
}
