//! The thread that owns the follower and its log: hears the chain, executes it, has it on disk, then tells of it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use zeni_client::follow::{FollowEvent, FollowHandle};
use zeni_consensus::{
    ChainChange, Effect, Event, Evidence, Follower, HaltReason, Input, Message, Millis, Peer, Record,
};
use zeni_ledger::window::SequenceError;
use zeni_ledger::{
    Account, AccountId, BlockId, CommitCertificate, Genesis, GenesisId, PublicKey, Sequence, State, StateRoot,
    ValidatorIndex, VerifiedBatch,
};
use zeni_storage::{DiskFiles, EvidenceFile, Keeping, StorageError, Store, Syncer};

use crate::chronicle::{Chronicle, ChronicleError, SharedArchive};
use crate::final_state::{Executed, FinalAccount, FinalState};
use crate::keeper::{Keeper, KeeperError};
use crate::progress::Progress;
use crate::store::Ledger;

/// Questions that wait for the thread, at most.
pub const QUERIES_MAX: usize = 1_024;
/// Inputs that the thread takes before it looks at questions again.
const INPUTS_MAX: usize = 64;

/// An account at the canonical head.
#[derive(Debug, Clone)]
pub struct AccountView {
    pub height: u64,
    pub head: BlockId,
    pub state_root: StateRoot,
    pub account: Option<Account>,
    /// The canonical bytes of the proof, if it was asked for.
    pub proof: Option<Vec<u8>>,
}

/// A question to the follower's state.
#[derive(Debug)]
pub enum Question {
    Account(AccountQuery),
    Sequences(SequenceQuery),
    FinalAccount(FinalAccountQuery),
}

/// What an account holds.
#[derive(Debug)]
pub struct AccountQuery {
    pub id: AccountId,
    pub with_proof: bool,
    pub reply: oneshot::Sender<AccountView>,
}

/// What an account holds at the last final block, with proof.
#[derive(Debug)]
pub struct FinalAccountQuery {
    pub id: AccountId,
    pub reply: oneshot::Sender<FinalAccount>,
}

/// Which sequences of accounts are used.
#[derive(Debug)]
pub struct SequenceQuery {
    pub sequences: Vec<(AccountId, Sequence)>,
    pub reply: oneshot::Sender<SequenceView>,
}

/// Which sequences are used at a height, in the order of the question.
#[derive(Debug, Clone)]
pub struct SequenceView {
    pub height: u64,
    pub used: Vec<bool>,
}

impl SequenceView {
    /// As `state`, which stands at `height`, has them. An account that does not exist has used none.
    pub fn of(state: &State, height: u64, sequences: &[(AccountId, Sequence)]) -> Self {
        let is_used = |(id, sequence): &(AccountId, Sequence)| {
            let account = state.account(id);
            account.is_some_and(|account| account.window().check(*sequence) == Err(SequenceError::Used))
        };
        Self { height, used: sequences.iter().map(is_used).collect() }
    }
}

/// Why the thread ended.
#[derive(Debug, thiserror::Error)]
pub enum FollowerFailure {
    #[error("the follower halted: {0}")]
    Halted(HaltReason),
    #[error("the log failed: {0}")]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Chronicle(#[from] ChronicleError),
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    #[error("the follow task has ended")]
    FollowEnded,
    #[error("the follower's thread panicked")]
    Panicked,
    #[error("the follower's thread does not start: {0}")]
    Spawn(std::io::Error),
}

/// What the thread works with besides the ledger.
#[derive(Debug)]
pub struct Surroundings {
    pub genesis: Arc<Genesis>,
    pub events: mpsc::Receiver<FollowEvent>,
    pub nodes: FollowHandle,
    pub progress: Arc<Progress>,
    /// Seconds between checkpoints, and how deep they stand.
    pub checkpoint_interval: Duration,
}

/// The running thread.
#[derive(Debug)]
pub struct FollowerThread {
    thread: JoinHandle<Result<(), FollowerFailure>>,
    stop: oneshot::Sender<()>,
}

impl FollowerThread {
    /// Starts the thread. Questions go to the returned sender; `ended` is told when the thread ends.
    pub fn start(
        ledger: Ledger,
        around: Surroundings,
        ended: oneshot::Sender<()>,
    ) -> Result<(Self, mpsc::Sender<Question>), FollowerFailure> {
        let (queries, questions) = mpsc::channel(QUERIES_MAX);
        let (stop, stopped) = oneshot::channel();
        let runtime = Handle::current();
        let following = Following::new(ledger, around)?;
        let thread = std::thread::Builder::new().name("follower".into());
        let thread = thread.spawn(move || {
            let result = runtime.block_on(following.run(questions, stopped));
            if let Err(failure) = &result {
                tracing::error!(%failure, "the follower stops");
            }
            // Nobody listens any more when the server stops first.
            ended.send(()).ok();
            result
        });
        Ok((Self { thread: thread.map_err(FollowerFailure::Spawn)?, stop }, queries))
    }

    /// Has everything on disk and ends the thread. Blocks; for a thread that may.
    pub fn stop(self) -> Result<(), FollowerFailure> {
        // It may have ended by itself; then joining says why.
        self.stop.send(()).ok();
        self.thread.join().unwrap_or(Err(FollowerFailure::Panicked))
    }
}

struct Following {
    follower: Follower,
    store: Store<DiskFiles>,
    syncer: Syncer<DiskFiles>,
    archive: SharedArchive,
    chronicle: Arc<Chronicle>,
    evidence: Arc<EvidenceFile<DiskFiles>>,
    keeper: Keeper,
    final_state: FinalState,
    around: Surroundings,
    genesis_id: GenesisId,
    /// The node that is followed: its place among the nodes and in genesis.
    followed: Option<(usize, ValidatorIndex)>,
    /// Changes of the chain that are not told yet.
    changes: Vec<Arc<ChainChange>>,
    /// The last decision, to be told after them.
    decided: Option<CommitCertificate>,
    /// Decisions that were logged and are not kept for proofs yet.
    certificates: Vec<CommitCertificate>,
    wake: Instant,
    next_checkpoint: Instant,
}

impl Following {
    fn new(ledger: Ledger, around: Surroundings) -> Result<Self, FollowerFailure> {
        let Ledger { follower, effects, store, checkpoint, chronicle, evidence, .. } = ledger;
        let (syncer, reader) = (store.syncer(), store.reader());
        let (index, proof_log) = (Arc::clone(chronicle.index()), Arc::clone(chronicle.proof_log()));
        let keeper = Keeper::start(index, proof_log, syncer.clone(), checkpoint)?;
        let now = Instant::now();
        let mut following = Self {
            follower,
            store,
            syncer,
            archive: Arc::new(reader),
            chronicle,
            evidence,
            keeper,
            final_state: FinalState::default(),
            genesis_id: around.genesis.id(),
            followed: None,
            changes: Vec::new(),
            decided: None,
            certificates: Vec::new(),
            wake: now,
            next_checkpoint: now + around.checkpoint_interval,
            around,
        };
        following.perform(effects)?;
        Ok(following)
    }

    async fn run(
        mut self,
        mut questions: mpsc::Receiver<Question>,
        mut stopped: oneshot::Receiver<()>,
    ) -> Result<(), FollowerFailure> {
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                Some(question) = questions.recv() => self.answer(question),
                event = self.around.events.recv() => {
                    let mut event = Some(event.ok_or(FollowerFailure::FollowEnded)?);
                    let mut taken = 0;
                    while let Some(some) = event {
                        self.hear(some)?;
                        taken += 1;
                        event = if taken < INPUTS_MAX { self.around.events.try_recv().ok() } else { None };
                    }
                }
                () = sleep_until(self.wake) => self.step(Input::Tick)?,
            }
            self.tell()?;
            if self.keeper.has_failed() {
                break;
            }
            self.checkpoint()?;
        }
        self.finish()
    }

    /// A clean stop: everything is told, synced and sealed, and the next start finds a fresh index. If the keeper has
    /// failed, this says why.
    fn finish(mut self) -> Result<(), FollowerFailure> {
        self.tell()?;
        self.keeper.stop()?;
        Ok(self.store.seal()?)
    }

    fn hear(&mut self, event: FollowEvent) -> Result<(), FollowerFailure> {
        match event {
            FollowEvent::Connected { node, key } => {
                let Some(validator) = self.validator(&key) else { return Ok(()) };
                self.followed = Some((node, validator));
                self.around.progress.follow(Some(node));
                self.step(Input::Connected(validator))
            }
            FollowEvent::Disconnected { key, .. } => {
                let Some(validator) = self.validator(&key) else { return Ok(()) };
                self.followed = None;
                self.around.progress.follow(None);
                metrics::counter!("zeni_api_follow_failovers_total").increment(1);
                self.step(Input::Disconnected(validator))
            }
            FollowEvent::Message { node, message } => {
                let Some((_, validator)) = self.followed.filter(|(followed, _)| *followed == node) else {
                    return Ok(());
                };
                if let Message::Evidence(evidence) = &message {
                    return self.keep(evidence);
                }
                // The operator's own node verified the payments before it stored them; every root is checked here.
                let vouched = message.try_map_batch(|batch| {
                    Ok::<_, std::convert::Infallible>(VerifiedBatch::vouch(batch, &self.genesis_id))
                });
                let Ok(message) = vouched;
                self.step(Input::Message { from: Peer::Validator(validator), message })
            }
        }
    }

    /// Has what a node shows against a validator on disk, once it is checked here.
    fn keep(&self, evidence: &Evidence) -> Result<(), FollowerFailure> {
        if let Err(error) = evidence.verify(&self.around.genesis, &self.genesis_id) {
            tracing::warn!(%error, "a node told of evidence that shows nothing");
            metrics::counter!("zeni_api_misbehaviour_total").increment(1);
            return Ok(());
        }
        if let Keeping::Kept(kept) = self.evidence.keep(evidence, unix_now().0)? {
            tracing::error!(kind = kept.kind.code(), offender = %kept.offender, place = %kept.place, "evidence");
        }
        Ok(())
    }

    fn validator(&self, key: &PublicKey) -> Option<ValidatorIndex> {
        self.around.genesis.validator_by_key(key)
    }

    fn step(&mut self, input: Input) -> Result<(), FollowerFailure> {
        let archive = Arc::clone(&self.archive);
        let effects = self.follower.step(unix_now(), input, &*archive);
        self.perform(effects)
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), FollowerFailure> {
        for effect in effects {
            match effect {
                Effect::Append(record) => {
                    self.store.append(&record)?;
                    if let Record::Certificate(certificate) = record {
                        self.certificates.push(certificate);
                    }
                }
                Effect::AppendUndo { block, height, undo } => self.store.append_undo(block, height, &undo)?,
                Effect::Send { to: Peer::Validator(to), message } => self.send(to, message),
                Effect::WakeAt(at) => {
                    self.wake = Instant::now() + Duration::from_millis(at.since(unix_now()));
                }
                Effect::Event(Event::Chain(change)) => self.changes.push(change),
                Effect::Event(Event::Final(certificate)) => self.decided = Some(certificate),
                Effect::Event(event) => observe(&event),
                Effect::Halt(reason) => return Err(FollowerFailure::Halted(reason)),
                // A follower has no vote and no followers of its own.
                Effect::Safety(_)
                | Effect::Send { .. }
                | Effect::Broadcast(_)
                | Effect::Publish(_)
                | Effect::Reply { .. } => {}
            }
        }
        Ok(())
    }

    /// A follower's messages are questions, which promise nothing and are asked again if they are lost.
    fn send(&self, to: ValidatorIndex, message: Message) {
        let Some((node, _)) = self.followed.filter(|(_, validator)| *validator == to) else { return };
        if let Err(error) = self.around.nodes.send(node, message) {
            tracing::debug!(%error, "a question to the node is dropped");
        }
    }

    /// Has the log on disk, then tells of the changes.
    fn tell(&mut self) -> Result<(), FollowerFailure> {
        if !self.changes.is_empty() || self.decided.is_some() || !self.certificates.is_empty() {
            self.syncer.sync()?;
            for change in std::mem::take(&mut self.changes) {
                self.chronicle.publish(&change)?;
                count(&change);
            }
        }
        for certificate in std::mem::take(&mut self.certificates) {
            self.chronicle.proof_log().keep_certificate(&certificate).map_err(ChronicleError::from)?;
        }
        if let Some(certificate) = self.decided.take() {
            self.chronicle.publish_final(&certificate)?;
            metrics::gauge!("zeni_api_final_height").set(certificate.block.height as f64);
            tracing::info!(decision = certificate.decision, height = certificate.block.height, "final");
        }
        let ((head, height), told) = (self.follower.head(), self.follower.best_height());
        self.around.progress.advance(height, told);
        // An index that knows blocks which are not executed yet would tell of a head that nobody can ask.
        if !self.follower.is_executing() && self.chronicle.head().id == head {
            self.around.progress.finish_replay();
        }
        metrics::gauge!("zeni_api_follower_height").set(height as f64);
        metrics::gauge!("zeni_api_follower_lag_blocks").set(self.around.progress.lag() as f64);
        metrics::gauge!("zeni_api_index_lag_blocks").set(height.saturating_sub(self.chronicle.head().height) as f64);
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), FollowerFailure> {
        let now = Instant::now();
        if now < self.next_checkpoint || !self.keeper.is_free() {
            return Ok(());
        }
        self.next_checkpoint = now + self.around.checkpoint_interval;
        let archive = Arc::clone(&self.archive);
        let delta = self.follower.checkpoint(&*archive).map_err(FollowerFailure::Halted)?;
        if let Some(delta) = delta
            && !self.keeper.checkpoint(delta)
        {
            tracing::warn!("a checkpoint is dropped: the background thread has ended");
        }
        Ok(())
    }

    fn answer(&mut self, question: Question) {
        let ((head, height), state) = (self.follower.head(), self.follower.state());
        let question = match question {
            Question::Account(question) => question,
            Question::FinalAccount(question) => {
                let executed = Executed { state, head, height, block_at: |height| self.follower.block_at(height) };
                let last_final = self.chronicle.last_final();
                let found = self.final_state.account(&question.id, last_final, &executed, &*self.archive);
                // Who asked may wait no more.
                question.reply.send(found).ok();
                return;
            }
            Question::Sequences(question) => {
                // Who asked may wait no more.
                question.reply.send(SequenceView::of(state, height, &question.sequences)).ok();
                return;
            }
        };
        let account = state.account(&question.id).cloned();
        let proof = question.with_proof.then(|| zeni_ledger::proof::prove(state, &question.id).to_bytes());
        let view = AccountView { height, head, state_root: state.root(), account, proof };
        // Who asked may wait no more.
        question.reply.send(view).ok();
    }
}

fn unix_now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(since.as_millis().try_into().unwrap_or(u64::MAX))
}

fn observe(event: &Event) {
    match event {
        Event::InvalidBlock { block, proposer } => {
            tracing::error!(%block, %proposer, "a block does not give its roots");
            metrics::counter!("zeni_api_invalid_blocks_total").increment(1);
        }
        Event::Misbehaviour { peer, what } => {
            tracing::warn!(?peer, what, "a node misbehaves");
            metrics::counter!("zeni_api_misbehaviour_total").increment(1);
        }
        other => tracing::debug!(event = ?other, "observed"),
    }
}

fn count(change: &ChainChange) {
    metrics::counter!("zeni_api_blocks_total").increment(change.applied.len() as u64);
    metrics::counter!("zeni_api_blocks_undone_total").increment(change.undone.len() as u64);
    for applied in &change.applied {
        let executed = &applied.executed;
        metrics::counter!("zeni_api_payments_total", "outcome" => "applied").increment(executed.applied);
        metrics::counter!("zeni_api_payments_total", "outcome" => "rejected").increment(executed.rejected);
        let (height, payments) = (applied.block.header.height, executed.applied + executed.rejected);
        tracing::info!(height, payments, skipped = executed.skipped, "block");
    }
}
