//! The way to the core thread: three queues, so that a status or a block never waits behind a flood of payments, and what
//! peers took in already does not wait behind what clients of this node would like to add.
//!
//! The channels themselves are unbounded, and still nothing grows: every item was let in by one of the named limits
//! (`limits.ingress_payments`, `client_requests`, `peer_batches`, `peer_messages`, the verification jobs in flight), and
//! carries the passage that gives the room back when the core has taken the item.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use tokio::sync::oneshot;
use zeni_consensus::pool::POOL_PAYMENTS_MAX;
use zeni_consensus::{Input, Message, Peer};
use zeni_ledger::{AccountId, Payment, TransactionId};
use zeni_schemas::request::Reply;

use crate::admission::Admitted;
use crate::copies::Passage;
use crate::submission::PendingSubmission;

/// Batches of peers that are taken one after another while a client's submission waits, at most. Peers were promised
/// nothing, but their clients were: blocks wait for these batches, and a node that lags behind makes all others wait. So
/// they go first, and still a peer that sends without end holds no client up for ever.
const PEERS_IN_A_ROW_MAX: u32 = 8;

/// Something that the core thread is to do.
#[derive(Debug)]
pub enum Task {
    /// Step the core.
    Step(Input),
    /// Step the core with payments whose signatures hold.
    Submission { pending: PendingSubmission, payments: Vec<(Payment, TransactionId)> },
    /// Step the core with a peer's question for blocks, and tell when the answer is said.
    BlocksAsked { from: Peer, question: Message, answered: oneshot::Sender<()> },
    /// Answer a question from the core's state.
    Ask { question: Question, answer: oneshot::Sender<Reply>, admitted: Admitted },
    /// Take a checkpoint, unless one is still being written.
    Checkpoint,
    /// Finish what is queued, seal the log and end.
    Stop,
}

/// What a client can ask of the core's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Node,
    Account(AccountId),
    Pending(Vec<TransactionId>),
}

/// What the core has still to execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    pub payments: u64,
    /// How many these may be before no client's payments are taken in.
    pub most: u64,
}

#[derive(Debug)]
struct Told {
    payments: AtomicU64,
    most: AtomicU64,
}

#[derive(Debug)]
struct Queued {
    task: Task,
    _passage: Option<Passage>,
}

/// The senders' end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CoreSender {
    control: Sender<Queued>,
    batches: Sender<Queued>,
    submissions: Sender<Queued>,
    backlog: Arc<Told>,
}

/// The core thread's end.
#[derive(Debug)]
pub struct CoreReceiver {
    control: Receiver<Queued>,
    batches: Receiver<Queued>,
    submissions: Receiver<Queued>,
    /// Batches taken since the last submission.
    in_a_row: Cell<u32>,
    backlog: Arc<Told>,
}

/// What waiting gave.
#[derive(Debug)]
pub enum Received {
    Task(Task),
    /// The deadline passed.
    Deadline,
    /// All senders are gone.
    Closed,
}

/// How many tasks wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depths {
    pub control: usize,
    pub batches: usize,
    pub submissions: usize,
}

/// Both ends.
pub fn core_queue() -> (CoreSender, CoreReceiver) {
    let (control_sender, control) = unbounded();
    let (batches_sender, batches) = unbounded();
    let (submissions_sender, submissions) = unbounded();
    let backlog = Arc::new(Told { payments: AtomicU64::new(0), most: AtomicU64::new(POOL_PAYMENTS_MAX) });
    let receiver =
        CoreReceiver { control, batches, submissions, in_a_row: Cell::new(0), backlog: Arc::clone(&backlog) };
    let sender =
        CoreSender { control: control_sender, batches: batches_sender, submissions: submissions_sender, backlog };
    (sender, receiver)
}

impl CoreSender {
    /// Queues a small task. After the core thread ended it goes nowhere: the process is ending too.
    pub fn control(&self, task: Task, passage: Option<Passage>) {
        let _ = self.control.send(Queued { task, _passage: passage });
    }

    /// Queues a peer's batch.
    pub fn batch(&self, task: Task, passage: Option<Passage>) {
        let _ = self.batches.send(Queued { task, _passage: passage });
    }

    /// Queues a client's payments.
    pub fn submission(&self, task: Task) {
        let _ = self.submissions.send(Queued { task, _passage: None });
    }

    /// Tasks that wait: small ones, peers' batches, and clients' submissions.
    pub fn depths(&self) -> Depths {
        Depths { control: self.control.len(), batches: self.batches.len(), submissions: self.submissions.len() }
    }

    /// What the core had still to execute when its thread last told.
    pub fn backlog(&self) -> Backlog {
        let Told { payments, most } = &*self.backlog;
        Backlog { payments: payments.load(Ordering::Relaxed), most: most.load(Ordering::Relaxed) }
    }
}

impl CoreReceiver {
    /// The next task, or `None` if none waits: small ones first, then peers' batches, but [`PEERS_IN_A_ROW_MAX`] of them at
    /// most before a submission.
    pub fn try_next(&self) -> Option<Task> {
        let small = self.control.try_recv().ok();
        small.or_else(|| self.try_next_large()).map(|queued| queued.task)
    }

    fn try_next_large(&self) -> Option<Queued> {
        let submission = || self.submissions.try_recv().inspect(|_| self.in_a_row.set(0));
        let batch = || self.batches.try_recv().inspect(|_| self.in_a_row.set(self.in_a_row.get() + 1));
        match self.in_a_row.get() >= PEERS_IN_A_ROW_MAX {
            true => submission().or_else(|_| batch()).ok(),
            false => batch().or_else(|_| submission()).ok(),
        }
    }

    /// What waits at this moment, small tasks first. What is sent while these are taken stays.
    pub fn waiting(&self) -> impl Iterator<Item = Task> + use<> {
        let queues = [&self.control, &self.batches, &self.submissions].map(|queue| (queue.len(), queue.clone()));
        let take = |(count, queue): (usize, Receiver<Queued>)| (0..count).map_while(move |_| queue.try_recv().ok());
        queues.into_iter().flat_map(take).map(|queued| queued.task)
    }

    /// Tells the senders how many payments the core has still to execute, and how many these may be.
    pub fn tell_backlog(&self, payments: u64, most: u64) {
        self.backlog.payments.store(payments, Ordering::Relaxed);
        self.backlog.most.store(most, Ordering::Relaxed);
    }

    /// Waits for a task until `deadline` (for ever, if there is none).
    pub fn next(&self, deadline: Option<Instant>) -> Received {
        if let Some(task) = self.try_next() {
            return Received::Task(task);
        }
        let mut select = crossbeam_channel::Select::new();
        select.recv(&self.control);
        select.recv(&self.batches);
        select.recv(&self.submissions);
        let ready = match deadline {
            Some(deadline) => select.ready_deadline(deadline).is_ok(),
            None => {
                select.ready();
                true
            }
        };
        match (self.try_next(), ready) {
            (Some(task), _) => Received::Task(task),
            (None, true) if self.is_closed() => Received::Closed,
            (None, _) => Received::Deadline,
        }
    }

    fn is_closed(&self) -> bool {
        matches!(self.control.try_recv(), Err(TryRecvError::Disconnected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::Semaphore;

    fn is_disk_full(task: &Task, full: bool) -> bool {
        matches!(task, Task::Step(Input::DiskFull(found)) if *found == full)
    }

    #[test]
    fn small_tasks_overtake_bulk() {
        let (sender, receiver) = core_queue();
        sender.batch(Task::Step(Input::DiskFull(true)), None);
        sender.control(Task::Step(Input::DiskFull(false)), None);
        assert!(is_disk_full(&receiver.try_next().unwrap(), false));
        assert!(is_disk_full(&receiver.try_next().unwrap(), true));
        assert!(receiver.try_next().is_none());
    }

    #[test]
    fn batches_of_peers_overtake_submissions_which_still_get_their_turn() {
        let (sender, receiver) = core_queue();
        (0..2).for_each(|_| sender.submission(Task::Checkpoint));
        (0..2 * PEERS_IN_A_ROW_MAX + 3).for_each(|_| sender.batch(Task::Step(Input::Tick), None));
        let order = std::iter::from_fn(|| receiver.try_next());
        let order: Vec<bool> = order.map(|task| matches!(task, Task::Checkpoint)).collect();
        let row = [vec![false; PEERS_IN_A_ROW_MAX as usize], vec![true]].concat();
        assert_eq!(order, [row.clone(), row, vec![false; 3]].concat());
    }

    #[test]
    fn taking_a_task_gives_its_room_back() {
        let (sender, receiver) = core_queue();
        let room = Arc::new(Semaphore::new(1));
        sender.batch(Task::Checkpoint, Some(Arc::clone(&room).try_acquire_owned().unwrap().into()));
        assert_eq!(room.available_permits(), 0);
        assert!(matches!(receiver.next(None), Received::Task(Task::Checkpoint)));
        assert_eq!(room.available_permits(), 1);
    }

    #[test]
    fn what_waits_is_bounded_though_more_comes_meanwhile() {
        let (sender, receiver) = core_queue();
        (0..2).for_each(|_| sender.batch(Task::Checkpoint, None));
        sender.submission(Task::Checkpoint);
        (0..2).for_each(|_| sender.control(Task::Step(Input::Tick), None));
        let taken = receiver.waiting().inspect(|_| {
            sender.control(Task::Step(Input::Tick), None);
            sender.batch(Task::Checkpoint, None);
            sender.submission(Task::Checkpoint);
        });
        let small: Vec<bool> = taken.map(|task| matches!(task, Task::Step(_))).collect();
        assert_eq!(small, [true, true, false, false, false]);
        assert_eq!(sender.depths(), Depths { control: 5, batches: 5, submissions: 5 });
    }

    #[test]
    fn waiting_ends_at_the_deadline_and_when_all_senders_are_gone() {
        let (sender, receiver) = core_queue();
        let deadline = Some(Instant::now() + Duration::from_millis(1));
        assert!(matches!(receiver.next(deadline), Received::Deadline));
        drop(sender);
        assert!(matches!(receiver.next(None), Received::Closed));
    }
}
