//! Durability before speech: everything that the core wants said passes here, behind one sync for all turns that wait.
//!
//! The core thread has already appended what a turn must have on disk. The committer syncs the log once for every turn
//! that waits (group commit), writes the newest safety record, and only then releases what those turns say, in order.
//! After a failed write or sync nothing is ever released again: what is on disk is unknown, and the process ends.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;
use zeni_consensus::{Event, HaltReason, Message, Peer, SafetyRecord, Verdict};
use zeni_ledger::BatchDigest;
use zeni_schemas::request::Reply;

use crate::admission::Admitted;
use crate::submission::PendingSubmission;

/// Turns that wait for the committer, at most; then the core thread waits.
pub const TURNS_MAX: usize = 64;

/// What one turn of the core thread wants on disk and then said.
#[derive(Debug, Default)]
pub struct Turn {
    /// Whether something was appended that must be on disk first.
    pub appended: bool,
    pub safety: Option<SafetyRecord>,
    pub say: Vec<Say>,
}

/// One thing to release. `Synced` tells those that read the log that a batch which the turn appended is on disk.
#[derive(Debug)]
pub enum Say {
    Synced(BatchDigest),
    Send {
        to: Peer,
        message: Message,
    },
    Broadcast(Message),
    Publish(Message),
    Verdicts {
        pending: PendingSubmission,
        verdicts: Vec<Verdict>,
    },
    Answer {
        answer: oneshot::Sender<Reply>,
        reply: Reply,
        admitted: Admitted,
    },
    /// The answer to a question for blocks was said before this.
    BlocksSaid(oneshot::Sender<()>),
    Event(Event),
    Halt(HaltReason),
}

/// What the committer needs of storage.
pub trait Durable {
    type Error;

    /// Replaces the safety record; on disk when it returns.
    fn write_safety(&mut self, record: SafetyRecord) -> Result<(), Self::Error>;

    /// Everything that was appended before this call is on disk when it returns.
    fn sync(&mut self) -> Result<(), Self::Error>;
}

/// The way from the core thread to the committer.
pub fn turns() -> (Sender<Turn>, Receiver<Turn>) {
    bounded(TURNS_MAX)
}

/// Runs until the core thread drops its sender, or storage fails.
/// What is released may have to be on disk first, too: then `release` sees to it, and fails as the disk does.
pub fn run<D: Durable>(
    turns: &Receiver<Turn>,
    disk: &mut D,
    mut release: impl FnMut(Say) -> Result<(), D::Error>,
) -> Result<(), D::Error> {
    while let Ok(first) = turns.recv() {
        let mut group = vec![first];
        // Only turns that wait already: their records were appended before they were sent here.
        group.extend(turns.try_iter().take(TURNS_MAX - 1));
        commit(&group, disk)?;
        group.into_iter().flat_map(|turn| turn.say).try_for_each(&mut release)?;
    }
    Ok(())
}

/// The log goes first. If the process dies between the two, a start finds in the log what the safety record was not told
/// of: own blocks count as signed, and own votes raise the guard. The other order could leave a guard that knows of a
/// vote and a log that does not, and then the finality engine could not go on.
fn commit<D: Durable>(group: &[Turn], disk: &mut D) -> Result<(), D::Error> {
    if group.iter().any(|turn| turn.appended) {
        let start = Instant::now();
        disk.sync()?;
        metrics::histogram!("zeni_fsync_seconds").record(start.elapsed());
        metrics::counter!("zeni_fsyncs_total").increment(1);
    }
    if let Some(record) = group.iter().rev().find_map(|turn| turn.safety) {
        disk.write_safety(record)?;
        metrics::counter!("zeni_fsyncs_total").increment(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use zeni_consensus::Mode;

    /// Writes down what happens, and fails from the given sync on.
    struct Journal<'a> {
        lines: &'a RefCell<Vec<String>>,
        syncs_left: usize,
    }

    impl Durable for Journal<'_> {
        type Error = &'static str;

        fn write_safety(&mut self, record: SafetyRecord) -> Result<(), Self::Error> {
            self.lines.borrow_mut().push(format!("safety {}", record.last_signed_slot));
            Ok(())
        }

        fn sync(&mut self) -> Result<(), Self::Error> {
            self.syncs_left = self.syncs_left.checked_sub(1).ok_or("the disk is gone")?;
            self.lines.borrow_mut().push("sync".into());
            Ok(())
        }
    }

    fn turn(appended: bool, safety: Option<u64>, modes: &[Mode]) -> Turn {
        Turn {
            appended,
            safety: safety.map(|last_signed_slot| SafetyRecord { last_signed_slot, ..SafetyRecord::default() }),
            say: modes.iter().map(|mode| Say::Event(Event::Mode(*mode))).collect(),
        }
    }

    fn run_turns(group: Vec<Turn>, syncs: usize) -> (Vec<String>, Result<(), &'static str>) {
        let lines = RefCell::new(Vec::new());
        let (sender, receiver) = turns();
        group.into_iter().for_each(|turn| sender.send(turn).unwrap());
        drop(sender);
        let mut disk = Journal { lines: &lines, syncs_left: syncs };
        let result = run(&receiver, &mut disk, |say| match say {
            Say::Event(Event::Mode(mode)) => {
                lines.borrow_mut().push(format!("{mode:?}"));
                Ok(())
            }
            other => panic!("{other:?} was never handed in"),
        });
        (lines.into_inner(), result)
    }

    #[test]
    fn one_sync_serves_all_waiting_turns_and_order_stays() {
        let group = vec![
            turn(true, None, &[Mode::Joining, Mode::Syncing]),
            turn(false, None, &[Mode::Active]),
            turn(true, None, &[Mode::FollowOnly]),
        ];
        let (lines, result) = run_turns(group, 1);
        assert_eq!((lines.join(" ").as_str(), result), ("sync Joining Syncing Active FollowOnly", Ok(())));
    }

    #[test]
    fn the_newest_safety_record_is_written_once_the_log_is_synced() {
        let group = vec![turn(true, Some(4), &[Mode::Joining]), turn(true, Some(7), &[]), turn(true, None, &[])];
        let (lines, _) = run_turns(group, 1);
        assert_eq!(lines.join(", "), "sync, safety 7, Joining");
    }

    #[test]
    fn a_turn_that_appended_nothing_needs_no_sync() {
        let (lines, result) = run_turns(vec![turn(false, None, &[Mode::Active])], 0);
        assert_eq!((lines.join(" ").as_str(), result), ("Active", Ok(())));
    }

    #[test]
    fn after_a_failed_sync_nothing_is_released() {
        let (lines, result) = run_turns(vec![turn(true, None, &[Mode::Active]), turn(false, None, &[Mode::Active])], 0);
        assert_eq!((lines, result), (Vec::new(), Err("the disk is gone")));
    }
}
