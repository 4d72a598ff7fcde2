//! What happens to a core.

use std::sync::Arc;

use zeni_ledger::{Batch, BatchDigest, Payment, TransactionId, ValidatorIndex};

use crate::message::Message;

/// Someone that a core talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    Validator(ValidatorIndex),
    /// An API server or another reader, by the shell's connection number.
    Follower(u64),
}

/// Names a submission, so that the shell can route its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time passed: a wake-up that [`crate::Effect::WakeAt`] asked for, or any later moment.
    Tick,
    /// Payments of a client. Their structure and signatures are verified; everything else is for the core to judge.
    Submission { request: RequestId, payments: Vec<(Payment, TransactionId)> },
    /// An authenticated connection to a validator stands. Also after a reconnection.
    Connected(ValidatorIndex),
    /// The last connection to a validator is gone.
    Disconnected(ValidatorIndex),
    /// A message of an authenticated peer. Batches in it are verified; the signature of a block is not yet.
    Message { from: Peer, message: Message },
    /// A batch signed by `author` holds payments whose signatures do not verify, the first of them at `unsigned`: evidence
    /// against the author.
    BadBatch { author: ValidatorIndex, digest: BatchDigest, batch: Arc<Batch>, unsigned: u16 },
    /// The shell says whether the disk has room: while it has not, payments are refused.
    DiskFull(bool),
}
