//! What a checker found wrong.

use zeni_consensus::{HaltReason, Mode, Verdict};
use zeni_ledger::{AccountId, BatchDigest, BlockId, TransactionId};

/// A broken promise of the system. `node` is the process, validators first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("node {node}: {what} at height {height} (block {block})")]
    Chain { node: usize, height: u64, block: BlockId, what: String },
    #[error("node {node}: its state at block {block} differs from the model's at account {account}: {what}")]
    State { node: usize, block: BlockId, account: AccountId, what: String },
    #[error("node {node}: token sums are not zero: {what}")]
    Conservation { node: usize, what: String },
    #[error("validator {validator} signed two blocks for slot {slot}: {first} and {second}")]
    SignedTwice { validator: u16, slot: u64, first: BlockId, second: BlockId },
    #[error("node {node} proposed {after_ms} ms after its start, without having heard of {unheard:?}")]
    ProposedTooSoon { node: usize, after_ms: u64, unheard: Vec<u16> },
    #[error("node {node} listed batch {digest}, which no other disk holds, though peers confirm")]
    ListedUnconfirmed { node: usize, digest: BatchDigest },
    #[error("node {node} prefers block {block} for a quorum of prevotes that were never cast")]
    PolkaUnfounded { node: usize, block: BlockId },
    #[error("node {node} stands on block {head}, though it has executed or received the better block {better}")]
    ForkChoice { node: usize, head: BlockId, better: BlockId },
    #[error("node {node} spoke of batch {digest} and had lost it after a crash")]
    BatchForgotten { node: usize, digest: BatchDigest },
    #[error("node {node} spoke of block {block} and had lost it after a crash")]
    BlockForgotten { node: usize, block: BlockId },
    #[error("node {node} acknowledged payment {payment} and had lost it after a crash")]
    PaymentForgotten { node: usize, payment: TransactionId },
    #[error("node {node} forgot that it signed slot {slot}: its safety record says {found:?}")]
    SlotForgotten { node: usize, slot: u64, found: Option<u64> },
    #[error("node {node} answered {verdict:?} for payment {payment}, which {holders} disks ever held")]
    OverstatedCopies { node: usize, payment: TransactionId, verdict: Verdict, holders: usize },
    #[error("node {node} answered a submission that it did not get, or with another number of verdicts")]
    StrayReply { node: usize },
    #[error("node {node} refuses to go on: {reason}")]
    Halted { node: usize, reason: HaltReason },
    #[error("node {node} cannot start: {what}")]
    CannotStart { node: usize, what: String },
    #[error("node {node} steps without end at one moment")]
    Spinning { node: usize },
    #[error("the nodes exchange messages without end: {events} events")]
    MessageStorm { events: u64 },
    #[error("the acknowledged payment {payment} is not on the chain at the end, though disk {disk} holds it")]
    PaymentLost { payment: TransactionId, disk: usize },
    #[error(
        "the payment {payment}, acknowledged at {copies} disks, is gone; only {lost} of those that held it were lost"
    )]
    PaymentVanished { payment: TransactionId, copies: u16, lost: usize },
    #[error("the acknowledged payment {payment} was listed and skipped: {what}")]
    PaymentSkipped { payment: TransactionId, what: &'static str },
    #[error("the payment {payment}, submitted after healing, is not on the chain")]
    NotLive { payment: TransactionId },
    #[error("after healing node {node} is {mode:?}, not active")]
    NotActive { node: usize, mode: Mode },
    #[error("after healing the nodes stand at different heads: {heads}")]
    Apart { heads: String },
    #[error("two processes ran with validator {validator}'s key, heard by the same peers, and neither stopped")]
    TwinsLive { validator: u16 },
    #[error("validator {validator} voted twice in decision {decision}, round {round} of the finality engine")]
    VotedTwice { validator: u16, decision: u64, round: u32 },
    #[error("node {node} took back block {block} at height {height}, which was final there")]
    FinalReverted { node: usize, height: u64, block: BlockId },
    #[error("node {node} holds block {block} at height {height} final, elsewhere {other} is")]
    FinalConflict { node: usize, height: u64, block: BlockId, other: BlockId },
    #[error("node {node} holds block {block} final without a right to: {what}")]
    FinalUnfounded { node: usize, block: BlockId, what: String },
    #[error("after healing node {node} has nothing above height {height} final, though its head is at {head}")]
    NotFinal { node: usize, height: u64, head: u64 },
    #[error("validators {members:?} were connected and active for {waited_ms} ms, and made nothing final")]
    FinalityStalls { members: Vec<usize>, waited_ms: u64 },
    #[error("the payment {payment} came to an end, and was executed after that")]
    EndedTwice { payment: TransactionId },
    #[error(
        "node {node} voted for block {block}, which it did not execute, or which does not stand on its last final one"
    )]
    VotedBlindly { node: usize, block: BlockId },
    #[error("the same seed gave another trace")]
    NotDeterministic,
    #[error("panic: {0}")]
    Panic(String),
}
