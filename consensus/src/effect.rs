//! What a core asks of its shell, in order.

use std::sync::Arc;

use zeni_ledger::{Batch, BatchDigest, BlockId, CommitCertificate, SignedHeader, Undo, ValidatorIndex};

use crate::archive::{Record, SafetyRecord};
use crate::chain::ChainChange;
use crate::finality::DoubleSigning;
use crate::finality::guard::SignsTwice;
use crate::input::{Peer, RequestId};
use crate::message::{Message, Mode};
use crate::submission::Verdict;
use crate::time::Millis;

/// One thing to do. See the crate's rule: nothing of a step leaves before everything that it and earlier steps had
/// written is on disk.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Append to the log, and have it on disk before anything else of this step leaves.
    Append(Record),
    /// Append to the undo log. It can be rebuilt from the log, so it need only be on disk before a checkpoint is.
    AppendUndo { block: BlockId, height: u64, undo: Arc<Undo> },
    /// Replace the safety record, and have it on disk before anything else of this step leaves.
    Safety(SafetyRecord),
    /// Send to one peer.
    Send { to: Peer, message: Message },
    /// Send to every connected validator.
    Broadcast(Message),
    /// Send to every follower: batches as they are stored, blocks as they become canonical, statuses.
    Publish(Message),
    /// Answer a submission, a verdict for each of its payments in order.
    Reply { request: RequestId, verdicts: Vec<Verdict> },
    /// Call `step` with [`crate::Input::Tick`] at this time or sooner; a later request replaces an earlier one.
    WakeAt(Millis),
    /// Something that observers want to know.
    Event(Event),
    /// Stop this process for good; the core takes no more inputs.
    Halt(HaltReason),
}

/// What observers (metrics, logs, event streams) are told.
#[derive(Debug, Clone)]
pub enum Event {
    /// The canonical chain changed.
    Chain(Arc<ChainChange>),
    Mode(Mode),
    /// A block was proposed here.
    Proposed {
        block: BlockId,
        height: u64,
        slot: u64,
        batches: usize,
    },
    /// A peer sent something that no correct node sends.
    Misbehaviour {
        peer: Peer,
        what: &'static str,
    },
    /// A batch with a bad signature, signed by this validator.
    BadBatch {
        author: ValidatorIndex,
        digest: BatchDigest,
        batch: Arc<Batch>,
        /// The place of the first payment that its payer did not sign.
        unsigned: u16,
    },
    /// Two blocks of one proposer for one slot.
    Equivocation {
        proposer: ValidatorIndex,
        slot: u64,
        first: BlockId,
        second: BlockId,
        /// As they were signed.
        headers: Box<[SignedHeader; 2]>,
    },
    /// A block and everything below it can never be taken back. It is canonical here.
    Final(CommitCertificate),
    /// The finality engine would have signed twice, because its log lost something: it votes again once every validator was
    /// heard.
    VotesForgotten(SignsTwice),
    /// A validator signed twice in one round of the finality engine.
    DoubleSigning(Box<DoubleSigning>),
    /// A block whose execution does not give the roots in its header.
    InvalidBlock {
        block: BlockId,
        proposer: ValidatorIndex,
    },
}

/// Why a core stops for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HaltReason {
    /// Another live node signs with this node's key.
    #[error("another node runs with this node's key (its boot id is {boot:#x}); stop one of the two")]
    TwinFound { boot: u64 },
    /// Quorums made two blocks final of which neither descends from the other: more validators sign twice than the fault
    /// model of this ledger allows for.
    #[error(
        "decision {decision} made block {block} at height {height} final, and it does not descend from the final block {before} at height {before_height}; validators signed both: stop all nodes and find out who"
    )]
    ConflictingFinality { decision: u64, block: BlockId, height: u64, before: BlockId, before_height: u64 },
    /// A quorum made a block final that is false here.
    #[error("decision {decision} made block {block} final, whose execution here does not give its roots")]
    FalseFinality { decision: u64, block: BlockId },
    /// The finality engine cannot go on without breaking its promise.
    #[error("{0}")]
    Finality(String),
    /// What the archive must hold is not there or not readable.
    #[error("the archive failed: {0}")]
    Archive(String),
}
