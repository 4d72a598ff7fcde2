//! What happens to things said, once they are on disk.

use std::sync::Arc;

use metrics::counter;
use zeni_consensus::{HaltReason, SafetyRecord, Verdict};
use zeni_storage::{DiskFiles, SafetyFile, StorageError, Syncer};

use crate::committer::{Durable, Say};
use crate::events;
use crate::links::Links;
use crate::unsynced::Unsynced;

/// The validator's disk, as the committer needs it.
#[derive(Debug)]
pub struct Disk {
    pub safety: SafetyFile<DiskFiles>,
    pub log: Syncer<DiskFiles>,
}

impl Durable for Disk {
    type Error = StorageError;

    fn write_safety(&mut self, record: SafetyRecord) -> Result<(), StorageError> {
        self.safety.write(&record)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.log.sync()
    }
}

/// Says one thing. A halt goes to `halted`.
pub fn release(say: Say, links: &Arc<Links>, unsynced: &Unsynced, halted: &impl Fn(HaltReason)) {
    match say {
        Say::Synced(digest) => unsynced.synced(&digest),
        Say::Send { to, message } => links.send(to, &message),
        Say::Broadcast(message) => links.broadcast(&message),
        Say::Publish(message) => links.publish(&message),
        Say::Verdicts { pending, verdicts } => {
            count(&verdicts);
            pending.answer(verdicts);
        }
        Say::Answer { answer, reply, admitted } => {
            // A client that is gone does not hear its answer.
            let _ = answer.send(reply);
            drop(admitted);
        }
        Say::BlocksSaid(answered) => {
            // The connection that asked may be gone.
            let _ = answered.send(());
        }
        Say::Event(event) => events::observe(&event),
        Say::Halt(reason) => halted(reason),
    }
}

fn count(verdicts: &[Verdict]) {
    let (mut accepted, mut known) = (0, 0);
    for verdict in verdicts {
        match verdict {
            Verdict::Accepted { .. } => accepted += 1,
            Verdict::Known { .. } => known += 1,
            Verdict::Refused(refusal) => {
                counter!("zeni_payments_refused_total", "reason" => refusal.code()).increment(1);
            }
        }
    }
    counter!("zeni_payments_accepted_total").increment(accepted);
    counter!("zeni_payments_known_total").increment(known);
}
