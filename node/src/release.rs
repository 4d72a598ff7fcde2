//! What happens to things said, once they are on disk.

use std::sync::Arc;

use metrics::counter;
use zeni_consensus::{Event, Evidence, HaltReason, Message, SafetyRecord, Verdict};
use zeni_storage::{DiskFiles, SafetyFile, StorageError, Syncer};

use crate::committer::{Durable, Say};
use crate::events;
use crate::evidence::EvidenceKeeper;
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

/// Where things said go.
#[derive(Debug, Clone)]
pub struct Outlets {
    pub links: Arc<Links>,
    pub unsynced: Arc<Unsynced>,
    pub evidence: Arc<EvidenceKeeper>,
}

/// Says one thing. A halt goes to `halted`.
///
/// # Errors
/// Evidence could not be kept, which has to be before it is told.
pub fn release(say: Say, to: &Outlets, halted: &impl Fn(HaltReason)) -> Result<(), StorageError> {
    let Outlets { links, unsynced, .. } = to;
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
        Say::Event(event) => return observe(&event, to),
        Say::Halt(reason) => halted(reason),
    }
    Ok(())
}

fn observe(event: &Event, to: &Outlets) -> Result<(), StorageError> {
    events::observe(event);
    let Some(evidence) = Evidence::of(event) else { return Ok(()) };
    if to.evidence.keep(&evidence)? {
        to.links.publish(&Message::Evidence(Box::new(evidence)));
    }
    Ok(())
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
