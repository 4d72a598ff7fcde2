//! The way to the core thread: two queues, so that a status or a block never waits behind a flood of payments.
//!
//! The channels themselves are unbounded, and still nothing grows: every item was let in by one of the named limits
//! (`limits.ingress_payments`, `client_requests`, `peer_batches`, `peer_messages`, the verification jobs in flight), and
//! carries the passage that gives the room back when the core has taken the item.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use tokio::sync::oneshot;
use zeni_consensus::{Input, Message, Peer};
use zeni_ledger::{AccountId, Payment, TransactionId};
use zeni_schemas::request::Reply;

use crate::admission::Admitted;
use crate::copies::Passage;
use crate::submission::PendingSubmission;

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

#[derive(Debug)]
struct Queued {
    task: Task,
    _passage: Option<Passage>,
}

/// The senders' end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CoreSender {
    control: Sender<Queued>,
    bulk: Sender<Queued>,
}

/// The core thread's end.
#[derive(Debug)]
pub struct CoreReceiver {
    control: Receiver<Queued>,
    bulk: Receiver<Queued>,
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

/// Both ends.
pub fn core_queue() -> (CoreSender, CoreReceiver) {
    let (control_sender, control) = unbounded();
    let (bulk_sender, bulk) = unbounded();
    (CoreSender { control: control_sender, bulk: bulk_sender }, CoreReceiver { control, bulk })
}

impl CoreSender {
    /// Queues a small task. After the core thread ended it goes nowhere: the process is ending too.
    pub fn control(&self, task: Task, passage: Option<Passage>) {
        let _ = self.control.send(Queued { task, _passage: passage });
    }

    /// Queues payments.
    pub fn bulk(&self, task: Task, passage: Option<Passage>) {
        let _ = self.bulk.send(Queued { task, _passage: passage });
    }

    /// Tasks that wait: small ones, and those with payments.
    pub fn depths(&self) -> (usize, usize) {
        (self.control.len(), self.bulk.len())
    }
}

impl CoreReceiver {
    /// The next task, small ones first, or `None` if none waits.
    pub fn try_next(&self) -> Option<Task> {
        let next = self.control.try_recv().or_else(|_| self.bulk.try_recv());
        next.ok().map(|queued| queued.task)
    }

    /// What waits at this moment, small tasks first. What is sent while these are taken stays.
    pub fn waiting(&self) -> impl Iterator<Item = Task> + use<> {
        let (control, bulk) = (self.control.clone(), self.bulk.clone());
        let (small, large) = (control.len(), bulk.len());
        let take = |queue: Receiver<Queued>, count| (0..count).map_while(move |_| queue.try_recv().ok());
        take(control, small).chain(take(bulk, large)).map(|queued| queued.task)
    }

    /// Waits for a task until `deadline` (for ever, if there is none).
    pub fn next(&self, deadline: Option<Instant>) -> Received {
        if let Some(task) = self.try_next() {
            return Received::Task(task);
        }
        let mut select = crossbeam_channel::Select::new();
        select.recv(&self.control);
        select.recv(&self.bulk);
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
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::Semaphore;

    fn is_disk_full(task: &Task, full: bool) -> bool {
        matches!(task, Task::Step(Input::DiskFull(found)) if *found == full)
    }

    #[test]
    fn small_tasks_overtake_bulk() {
        let (sender, receiver) = core_queue();
        sender.bulk(Task::Step(Input::DiskFull(true)), None);
        sender.control(Task::Step(Input::DiskFull(false)), None);
        assert!(is_disk_full(&receiver.try_next().unwrap(), false));
        assert!(is_disk_full(&receiver.try_next().unwrap(), true));
        assert!(receiver.try_next().is_none());
    }

    #[test]
    fn taking_a_task_gives_its_room_back() {
        let (sender, receiver) = core_queue();
        let room = Arc::new(Semaphore::new(1));
        sender.bulk(Task::Checkpoint, Some(Arc::clone(&room).try_acquire_owned().unwrap().into()));
        assert_eq!(room.available_permits(), 0);
        assert!(matches!(receiver.next(None), Received::Task(Task::Checkpoint)));
        assert_eq!(room.available_permits(), 1);
    }

    #[test]
    fn what_waits_is_bounded_though_more_comes_meanwhile() {
        let (sender, receiver) = core_queue();
        (0..3).for_each(|_| sender.bulk(Task::Checkpoint, None));
        (0..2).for_each(|_| sender.control(Task::Step(Input::Tick), None));
        let taken = receiver.waiting().inspect(|_| {
            sender.control(Task::Step(Input::Tick), None);
            sender.bulk(Task::Checkpoint, None);
        });
        let small: Vec<bool> = taken.map(|task| matches!(task, Task::Step(_))).collect();
        assert_eq!(small, [true, true, false, false, false]);
        assert_eq!(sender.depths(), (5, 5));
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
