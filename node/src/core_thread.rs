//! The one thread that owns the core and appends to the log.
//!
//! A turn begins with a tick if one is due, takes up to [`TURN_TASKS_MAX`] waiting tasks or [`TURN_TIME_MAX`] of time, steps the core for each and appends at once what the effects ask
//! for; everything else they ask for goes to the committer in one piece, which says it once it is on disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use zeni_consensus::{Core, Effect, Event, HaltReason, Input, Millis, RequestId};
use zeni_ledger::{Genesis, PublicKey};
use zeni_storage::{DiskFiles, Reader, StorageError, Store};

use crate::checkpoint::Checkpointer;
use crate::clock;
use crate::committer::{Say, Turn};
use crate::core_queue::{CoreReceiver, Received, Task};
use crate::pace::Pace;
use crate::questions;
use crate::submission::PendingSubmission;
use crate::unsynced::Unsynced;

/// Tasks of one turn, at most: what waits behind them is said a little later, but never starves.
pub const TURN_TASKS_MAX: usize = 64;
/// What was said in a turn is handed over once it has taken this long: a status must not wait for what comes after a
/// long execution, nor for the rest of the tasks.
const TURN_TIME_MAX: Duration = Duration::from_millis(20);
/// The core is stepped at least so often, so that it also notices when the clock was set.
const TICK_MAX: Duration = Duration::from_secs(1);
/// Accounts that one turn gathers for a checkpoint: some milliseconds.
const GATHERED_ACCOUNTS_MAX: u64 = 4_096;
/// Once final blocks touched so many accounts since the last checkpoint, the next one does not wait for its time: what it
/// holds in memory meanwhile (88 bytes an account), and what a stop may have to wait for, stay bounded. Fewer would cost
/// more: a checkpoint rewrites nearly all of sled's leaves, however few accounts it brings.
const CHECKPOINT_ACCOUNTS_MAX: u64 = 4 << 20;
/// How often the gauges are set.
const OBSERVE_EVERY: Duration = Duration::from_millis(500);

/// What the core thread works with.
#[derive(Debug)]
pub struct CoreThread {
    core: Core,
    store: Store<DiskFiles>,
    reader: Reader<DiskFiles>,
    identity: Identity,
    tasks: CoreReceiver,
    turns: Sender<Turn>,
    checkpointer: Checkpointer,
    unsynced: Arc<Unsynced>,
    /// Submissions that the core has and has not answered.
    waiting: HashMap<RequestId, PendingSubmission>,
    next_request: u64,
    wake: Option<Millis>,
    observed: Option<Instant>,
    /// Whether the next checkpoint adds up all tokens.
    sums_due: bool,
    pace: Pace,
}

/// What a node says of itself and never changes.
#[derive(Debug, Clone)]
pub struct Identity {
    pub genesis: Arc<Genesis>,
    pub key: PublicKey,
    pub boot: u64,
}

/// Why the core thread ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum CoreFailure {
    #[error("storage failed: {0}")]
    Storage(#[from] StorageError),
    /// The reason is released through the committer, behind what the core said before.
    #[error("the core halted")]
    Halted,
    #[error("a checkpoint cannot be taken: {0}")]
    Checkpoint(HaltReason),
    /// The committer failed and says why itself.
    #[error("the committer ended")]
    CommitterEnded,
}

enum Flow {
    GoOn,
    Stop,
}

impl CoreThread {
    pub fn new(
        core: Core,
        store: Store<DiskFiles>,
        identity: Identity,
        tasks: CoreReceiver,
        turns: Sender<Turn>,
        checkpointer: Checkpointer,
        unsynced: Arc<Unsynced>,
    ) -> Self {
        let (reader, waiting) = (store.reader(), HashMap::new());
        let (next_request, wake, observed) = (0, None, None);
        let pace = Pace::new(identity.genesis.block_interval_ms);
        Self {
            core,
            store,
            reader,
            identity,
            tasks,
            turns,
            checkpointer,
            unsynced,
            waiting,
            next_request,
            wake,
            observed,
            sums_due: false,
            pace,
        }
    }

    /// Runs until it is told to stop; then everything before that is handed to the committer, and the store is
    /// returned to be sealed. `first` are the effects of recovery.
    pub fn run(mut self, first: Vec<Effect>) -> Result<Store<DiskFiles>, CoreFailure> {
        let mut turn = Turn::default();
        self.carry_out(first, &mut turn)?;
        self.hand_over(turn)?;
        loop {
            let task = match self.tasks.next(Some(self.deadline())) {
                Received::Task(task) => Some(task),
                Received::Deadline => None,
                Received::Closed => return Ok(self.store),
            };
            let mut turn = Turn::default();
            let flow = self.turn(task, &mut turn)?;
            self.tasks.tell_backlog(self.core.backlog(), self.pace.backlog_max());
            self.hand_over(turn)?;
            self.gather_checkpoint()?;
            self.observe()?;
            if let Flow::Stop = flow {
                return Ok(self.store);
            }
        }
    }

    fn deadline(&self) -> Instant {
        if self.core.is_gathering() {
            return Instant::now();
        }
        let until = self.wake.map_or(TICK_MAX, |wake| Duration::from_millis(wake.since(clock::now())));
        Instant::now() + until.min(TICK_MAX)
    }

    fn turn(&mut self, mut task: Option<Task>, turn: &mut Turn) -> Result<Flow, CoreFailure> {
        if task.is_none() || self.wake.is_some_and(|wake| wake <= clock::now()) {
            self.wake = None;
            let start = Instant::now();
            self.step(Input::Tick, turn)?;
            // The only tick of this turn: while there is more to execute, the next turn begins with the next one.
            if start.elapsed() >= TURN_TIME_MAX {
                self.hand_over(std::mem::take(turn))?;
            }
        }
        let start = Instant::now();
        for _ in 0..TURN_TASKS_MAX {
            let Some(next) = task.take().or_else(|| self.tasks.try_next()) else { break };
            if let Flow::Stop = self.task(next, turn)? {
                self.finish(turn)?;
                return Ok(Flow::Stop);
            }
            if start.elapsed() >= TURN_TIME_MAX {
                break;
            }
        }
        Ok(Flow::GoOn)
    }

    /// Takes everything that is queued already: it was let in before the node began to stop. What peers go on to push
    /// meanwhile stays.
    fn finish(&mut self, turn: &mut Turn) -> Result<(), CoreFailure> {
        for task in self.tasks.waiting() {
            self.task(task, turn)?;
        }
        Ok(())
    }

    fn task(&mut self, task: Task, turn: &mut Turn) -> Result<Flow, CoreFailure> {
        match task {
            Task::Step(input) => self.step(input, turn)?,
            Task::Submission { pending, payments } => {
                let request = RequestId(self.next_request);
                self.next_request += 1;
                self.waiting.insert(request, pending);
                self.step(Input::Submission { request, payments }, turn)?;
            }
            Task::BlocksAsked { from, question, answered } => {
                self.step(Input::Message { from, message: question }, turn)?;
                turn.say.push(Say::BlocksSaid(answered));
            }
            Task::Ask { question, answer, admitted } => {
                let reply = questions::answer(&self.core, &self.identity, &question);
                turn.say.push(Say::Answer { answer, reply, admitted });
            }
            Task::Checkpoint => {
                self.checkpointer.try_again();
                self.begin_checkpoint(true)?;
            }
            Task::Stop => return Ok(Flow::Stop),
        }
        Ok(Flow::GoOn)
    }

    /// Begins the next checkpoint, if the last one is written. The sums of a timed one that cannot begin are left to the next.
    fn begin_checkpoint(&mut self, sums: bool) -> Result<(), CoreFailure> {
        self.sums_due |= sums;
        if self.checkpointer.is_free() {
            let sums = std::mem::take(&mut self.sums_due);
            self.core.begin_checkpoint(sums, &self.reader).map_err(CoreFailure::Checkpoint)?;
        }
        Ok(())
    }

    /// Gathers a piece of the checkpoint that was begun, and hands it over once it is complete.
    fn gather_checkpoint(&mut self) -> Result<(), CoreFailure> {
        let gathered = self.core.gather_checkpoint(GATHERED_ACCOUNTS_MAX, &self.reader);
        if let Some(delta) = gathered.map_err(CoreFailure::Checkpoint)? {
            self.checkpointer.write(delta);
        }
        Ok(())
    }

    fn step(&mut self, input: Input, turn: &mut Turn) -> Result<(), CoreFailure> {
        let start = Instant::now();
        let before = self.core.executed_payments();
        let effects = self.core.step(clock::now(), input, &self.reader);
        let changes_chain = effects.iter().any(|effect| matches!(effect, Effect::Event(Event::Chain(_))));
        if changes_chain {
            metrics::histogram!("zeni_block_execution_seconds").record(start.elapsed());
        }
        let executed = self.core.executed_payments() - before;
        if changes_chain || executed > 0 {
            self.pace.note(executed, start.elapsed());
        }
        self.carry_out(effects, turn)
    }

    fn carry_out(&mut self, effects: Vec<Effect>, turn: &mut Turn) -> Result<(), CoreFailure> {
        for effect in effects {
            match effect {
                Effect::Append(record) => self.unsynced.append(&mut self.store, &record, turn)?,
                Effect::AppendUndo { block, height, undo } => self.store.append_undo(block, height, &undo)?,
                Effect::Safety(record) => turn.safety = Some(record),
                Effect::Send { to, message } => turn.say.push(Say::Send { to, message }),
                Effect::Broadcast(message) => turn.say.push(Say::Broadcast(message)),
                Effect::Publish(message) => turn.say.push(Say::Publish(message)),
                Effect::Reply { request, verdicts } => {
                    let pending = self.waiting.remove(&request);
                    let pending = pending.expect("the core answers each submission once");
                    turn.say.push(Say::Verdicts { pending, verdicts });
                }
                Effect::WakeAt(time) => self.wake = Some(time),
                Effect::Event(event) => turn.say.push(Say::Event(event)),
                Effect::Halt(reason) => {
                    turn.say.push(Say::Halt(reason));
                    self.hand_over(std::mem::take(turn))?;
                    return Err(CoreFailure::Halted);
                }
            }
        }
        Ok(())
    }

    fn hand_over(&self, turn: Turn) -> Result<(), CoreFailure> {
        if !turn.appended && turn.safety.is_none() && turn.say.is_empty() {
            return Ok(());
        }
        self.turns.send(turn).map_err(|_| CoreFailure::CommitterEnded)
    }

    fn observe(&mut self) -> Result<(), CoreFailure> {
        if self.observed.is_some_and(|observed| observed.elapsed() < OBSERVE_EVERY) {
            return Ok(());
        }
        if self.core.accounts_behind_checkpoint() >= CHECKPOINT_ACCOUNTS_MAX {
            self.begin_checkpoint(false)?;
        }
        self.observed = Some(Instant::now());
        let status = self.core.status();
        let slot_now = self.identity.genesis.slot_at(clock::now().0);
        metrics::gauge!("zeni_height").set(status.height as f64);
        metrics::gauge!("zeni_slot").set(status.slot as f64);
        metrics::gauge!("zeni_head_slot_lag").set(slot_now.saturating_sub(status.slot) as f64);
        metrics::gauge!("zeni_pool_batches").set(f64::from(status.pool));
        metrics::gauge!("zeni_pool_payments").set(self.core.pending_payments() as f64);
        metrics::gauge!("zeni_backlog_payments").set(self.core.backlog() as f64);
        metrics::gauge!("zeni_backlog_payments_max").set(self.pace.backlog_max() as f64);
        let ahead = self.core.executed_ahead().map_or(0, |(_, batches)| batches.len());
        metrics::gauge!("zeni_executed_ahead_batches").set(ahead as f64);
        metrics::gauge!("zeni_validators_live").set(f64::from(self.core.live_validators()));
        metrics::gauge!("zeni_log_bytes").set(self.store.disk_bytes() as f64);
        metrics::gauge!("zeni_queue_depth", "queue" => "commit").set(self.turns.len() as f64);
        crate::events::show_mode(status.mode);
        Ok(())
    }
}
