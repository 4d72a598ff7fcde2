//! One running process: a core or follower, its open storage, and what waits for a sync.

use std::collections::VecDeque;

use zeni_consensus::chain::Bounds;
use zeni_consensus::{
    Archive, CheckpointDelta, Config, Core, Effect, Event, Follower, HaltReason, Input, Message, Millis, Mode, Peer,
    RequestId, SafetyRecord, Verdict,
};
use zeni_ledger::{BatchDigest, BlockId, FinalBlock, State, ValidatorIndex};
use zeni_storage::{
    Checkpoint, FileOverlay, Limits, MemoryFiles, Reader, Recovery, RecoveryReport, SafetyFile, StorageError, Store,
    Syncer, recover,
};

use crate::breakage::Breakage;
use crate::world::World;

/// Turns that one sync serves, at most, as in the node.
pub const TURNS_MAX: usize = 64;

/// What thinks in a process.
#[derive(Debug)]
pub enum Machine {
    Core(Box<Core>),
    Follower(Box<Follower>),
}

/// One thing to release once what came before it is on disk.
#[derive(Debug)]
pub enum Say {
    Send { to: Peer, message: Message },
    Broadcast(Message),
    Publish(Message),
    Reply { request: RequestId, verdicts: Vec<Verdict> },
    Event(Event),
    Halt(HaltReason),
}

/// What one step wants on disk and then said.
#[derive(Debug, Default)]
pub struct Turn {
    pub appended: bool,
    pub safety: Option<SafetyRecord>,
    pub say: Vec<Say>,
}

impl Turn {
    /// Whether nothing is to be said or written.
    pub fn is_empty(&self) -> bool {
        !self.appended && self.safety.is_none() && self.say.is_empty()
    }

    /// Whether it waits for a sync.
    pub fn needs_sync(&self) -> bool {
        self.appended || self.safety.is_some()
    }
}

/// Who a process is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `None`: a follower.
    pub validator: Option<ValidatorIndex>,
    pub boot: u64,
    pub nonce: u64,
    pub joining_ms: u64,
    pub bounds: Bounds,
    pub breakage: Breakage,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    pub machine: Machine,
    pub store: Store<MemoryFiles>,
    pub reader: Reader<MemoryFiles>,
    pub syncer: Syncer<MemoryFiles>,
    pub safety: SafetyFile<MemoryFiles>,
    pub checkpoint: Checkpoint<MemoryFiles, FileOverlay<MemoryFiles>>,
    /// A checkpoint is being written.
    pub checkpointing: bool,
    pub turns: VecDeque<Turn>,
    /// The turns that the running sync serves.
    pub committing: Vec<Turn>,
    /// Batches appended since the last sync.
    pub unsynced: Vec<BatchDigest>,
    /// Distinguishes the wake-up that was asked for last from earlier ones.
    pub wake: u64,
    /// When it was stepped last, and how often at that moment.
    pub stepped: (u64, u32),
    breakage: Breakage,
}

/// A started process, the effects of its recovery, and what it found.
#[derive(Debug)]
pub struct Started {
    pub process: Process,
    pub first: Vec<Effect>,
    pub report: RecoveryReport,
    /// The safety record as found.
    pub safety: Option<SafetyRecord>,
    /// The last decision whose certificate the log holds.
    pub decision: u64,
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Core(#[from] HaltReason),
}

/// Makes a new data directory; a validator's has a safety record.
pub fn init(files: &MemoryFiles, world: &World, validator: bool) -> Result<(), StorageError> {
    Store::init(files, &world.genesis_id)?;
    if validator {
        SafetyFile::open(files.clone(), world.genesis_id)?.write(&SafetyRecord::default())?;
    }
    Ok(())
}

/// Starts a process from what is on its disk.
pub fn start(
    files: &MemoryFiles,
    world: &World,
    identity: &Identity,
    segment_bytes: u64,
    now: Millis,
) -> Result<Started, StartError> {
    let overlay = FileOverlay::open(files)?;
    let state = || Ok(world.state.clone());
    let Recovery { recovered, store, safety, checkpoint, report } =
        recover(files.clone(), overlay, &world.genesis, state, Limits { segment_bytes })?;
    let found = recovered.safety;
    let decision = recovered.certificates.last().map_or(0, |certificate| certificate.decision);
    let (machine, first) = match identity.validator {
        Some(me) => {
            let key = world.keys[me.as_usize()].clone();
            let config = Config {
                me,
                key,
                boot: identity.boot,
                nonce: identity.nonce,
                joining_ms: identity.joining_ms,
                bounds: identity.bounds,
            };
            let mutation = identity.breakage.mutation();
            let (core, first) = Core::recover_with(config, world.genesis.clone(), recovered, now, mutation)?;
            (Machine::Core(Box::new(core)), first)
        }
        None => {
            let (follower, first) = Follower::recover(world.genesis.clone(), recovered, now)?;
            (Machine::Follower(Box::new(follower)), first)
        }
    };
    let process = Process {
        machine,
        reader: store.reader(),
        syncer: store.syncer(),
        store,
        safety,
        checkpoint,
        checkpointing: false,
        turns: VecDeque::new(),
        committing: Vec::new(),
        unsynced: Vec::new(),
        wake: 0,
        stepped: (0, 0),
        breakage: identity.breakage,
    };
    Ok(Started { process, first, report, safety: found, decision })
}

impl Process {
    /// One step of the core or follower.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        let archive: &dyn Archive = &self.reader;
        match &mut self.machine {
            Machine::Core(core) => core.step(now, input, archive),
            Machine::Follower(follower) => follower.step(now, input, archive),
        }
    }

    pub fn state(&self) -> &State {
        match &self.machine {
            Machine::Core(core) => core.state(),
            Machine::Follower(follower) => follower.state(),
        }
    }

    pub fn head(&self) -> (BlockId, u64) {
        match &self.machine {
            Machine::Core(core) => {
                let status = core.status();
                (status.head, status.height)
            }
            Machine::Follower(follower) => follower.head(),
        }
    }

    /// The last final block that it knows.
    pub fn last_final(&self) -> FinalBlock {
        match &self.machine {
            Machine::Core(core) => core.last_final(),
            Machine::Follower(follower) => follower.last_final(),
        }
    }

    /// As [`Core::newest_polka`]; a follower knows of none.
    pub fn newest_polka(&self) -> Option<(u64, u32, FinalBlock)> {
        match &self.machine {
            Machine::Core(core) => core.newest_polka(),
            Machine::Follower(_) => None,
        }
    }

    /// Whether its core has more to execute before its head is what fork choice makes it.
    pub fn is_executing(&self) -> bool {
        match &self.machine {
            Machine::Core(core) => core.is_executing(),
            Machine::Follower(follower) => follower.is_executing(),
        }
    }

    /// The last decision that a validator knows; a follower tells of none.
    pub fn decision(&self) -> u64 {
        match &self.machine {
            Machine::Core(core) => core.status().decision,
            Machine::Follower(_) => 0,
        }
    }

    /// Whether it is a validator that forgot what it signed, and waits to hear every other one.
    pub fn forgot_votes(&self) -> bool {
        matches!(&self.machine, Machine::Core(core) if core.forgot_votes())
    }

    /// A validator's mode; a follower has none.
    pub fn mode(&self) -> Option<Mode> {
        match &self.machine {
            Machine::Core(core) => Some(core.status().mode),
            Machine::Follower(_) => None,
        }
    }

    /// The canonical chain, genesis first.
    pub fn chain(&self) -> Vec<BlockId> {
        let at = |height| match &self.machine {
            Machine::Core(core) => core.block_at(height),
            Machine::Follower(follower) => follower.block_at(height),
        };
        (0..=self.head().1).map(|height| at(height).expect("a canonical chain has no gap")).collect()
    }

    /// Whether its log holds every block of its canonical chain, and every batch that they list.
    pub fn holds_its_chain(&self) -> bool {
        let holds = |id: &BlockId| match self.reader.block(id) {
            Ok(Some(block)) => block.digests.iter().all(|digest| self.reader.has_batch(digest)),
            Ok(None) | Err(_) => false,
        };
        self.chain().iter().skip(1).all(holds)
    }

    /// Begins the next checkpoint; what it needs, if gathering `most` accounts is enough.
    pub fn begin_checkpoint(&mut self, most: u64) -> Result<Option<CheckpointDelta>, HaltReason> {
        let archive: &dyn Archive = &self.reader;
        match &mut self.machine {
            Machine::Core(core) => {
                core.begin_checkpoint(true, archive)?;
                core.gather_checkpoint(most, archive)
            }
            Machine::Follower(follower) => follower.checkpoint(archive),
        }
    }

    /// Goes on with the checkpoint that was begun. `None` for ever, once it is complete or if none is under way.
    pub fn gather_checkpoint(&mut self, most: u64) -> Result<Option<CheckpointDelta>, HaltReason> {
        match &mut self.machine {
            Machine::Core(core) => core.gather_checkpoint(most, &self.reader),
            Machine::Follower(_) => Ok(None),
        }
    }

    /// Whether a checkpoint is being gathered.
    pub fn is_gathering(&self) -> bool {
        matches!(&self.machine, Machine::Core(core) if core.is_gathering())
    }

    /// Appends what the effects ask for, and gathers the rest into a turn. The time asked for, if any, is returned.
    pub fn carry_out(
        &mut self,
        effects: Vec<Effect>,
        appended: &mut dyn FnMut(&zeni_ledger::VerifiedBatch),
    ) -> Result<(Turn, Option<Millis>), StorageError> {
        let (mut turn, mut wake) = (Turn::default(), None);
        for effect in effects {
            match effect {
                Effect::Append(zeni_consensus::Record::Certificate(_))
                    if self.breakage == Breakage::CertificateUnwritten => {}
                Effect::Append(record) => {
                    self.store.append(&record)?;
                    turn.appended = true;
                    if let zeni_consensus::Record::Batch(batch) = &record {
                        self.unsynced.push(batch.digest());
                        appended(batch);
                    }
                }
                Effect::AppendUndo { block, height, undo } => self.store.append_undo(block, height, &undo)?,
                Effect::Safety(record) => turn.safety = Some(record),
                Effect::Send { to, message } => turn.say.push(Say::Send { to, message }),
                Effect::Broadcast(message) => turn.say.push(Say::Broadcast(message)),
                Effect::Publish(message) => turn.say.push(Say::Publish(message)),
                Effect::Reply { request, verdicts } => turn.say.push(Say::Reply { request, verdicts }),
                Effect::WakeAt(at) => wake = Some(at),
                Effect::Event(event) => turn.say.push(Say::Event(event)),
                Effect::Halt(reason) => turn.say.push(Say::Halt(reason)),
            }
        }
        Ok((turn, wake))
    }

    /// Makes durable what the committing turns ask for: the log first, then the newest safety record. Returns the
    /// batches that are durable since.
    pub fn commit(&mut self) -> Result<Vec<BatchDigest>, StorageError> {
        let synced = match self.committing.iter().any(|turn| turn.appended) {
            true => self.sync()?,
            false => Vec::new(),
        };
        if let Some(record) = self.committing.iter().rev().find_map(|turn| turn.safety)
            && self.breakage != Breakage::SafetyUnwritten
        {
            self.safety.write(&record)?;
        }
        Ok(synced)
    }

    /// Syncs the log. Returns the batches that are durable since.
    pub fn sync(&mut self) -> Result<Vec<BatchDigest>, StorageError> {
        self.syncer.sync()?;
        Ok(std::mem::take(&mut self.unsynced))
    }
}
