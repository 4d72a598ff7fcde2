//! What clients (API servers, wallets' libraries, load generators) ask a node, and what it answers: one request and
//! one reply on each bidirectional QUIC stream.

use zeni_consensus::snapshot::{MANIFEST_BYTES_MAX, Manifest, PAGE_BYTES_MAX, PageName};
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_consensus::{Mode, Verdict};
use zeni_ledger::account::ACCOUNT_BYTES_MAX;
use zeni_ledger::payment::PAYMENT_BYTES;
use zeni_ledger::{AccountId, BlockId, GenesisId, Payment, PublicKey, StateRoot, TransactionId};

use crate::frame::{ENVELOPE_BYTES, FrameKind};

mod ask;
mod reply;
mod verdict;

pub use ask::{decode_request, encode_request};
pub use reply::{decode_reply, encode_reply};

/// Ids in one status request, at most.
pub const STATUS_IDS_MAX: usize = 1_024;
/// Bytes of the proof in one [`AccountInfo`], at most.
pub const PROOF_BYTES_MAX: usize = 64 << 10;
/// Bytes of a node's version text, at most; a longer one is cut.
pub const VERSION_BYTES_MAX: usize = 64;
/// Bytes of the reason in [`RequestError::Malformed`], at most; a longer one is cut.
pub const REASON_BYTES_MAX: usize = 512;
/// Bytes of the longest request: a full submission.
pub const REQUEST_BYTES_MAX: usize = SUBMISSION_PAYMENTS_MAX * PAYMENT_BYTES + ENVELOPE_BYTES;
/// Bytes of the longest reply that has nothing of a snapshot: an account with its proof.
pub const ANSWER_BYTES_MAX: usize = ACCOUNT_BYTES_MAX + PROOF_BYTES_MAX + ENVELOPE_BYTES;
/// Bytes of the longest reply: a page of a snapshot. (A manifest is shorter, and so is every answer.)
pub const REPLY_BYTES_MAX: usize = PAGE_BYTES_MAX + ENVELOPE_BYTES;

const REQUEST: FrameKind =
    FrameKind { what: "request", bytes_max: REQUEST_BYTES_MAX, tables_max: 2, identifier: "ZNRQ" };
const REPLY: FrameKind = FrameKind { what: "reply", bytes_max: REPLY_BYTES_MAX, tables_max: 2, identifier: "ZNRP" };

// A full submission answered with a waiting payment for each must fit into a reply.
const _: () = assert!(SUBMISSION_PAYMENTS_MAX * (12 + 32) + ENVELOPE_BYTES <= ANSWER_BYTES_MAX);
const _: () = assert!(MANIFEST_BYTES_MAX + ENVELOPE_BYTES <= REPLY_BYTES_MAX && ANSWER_BYTES_MAX <= REPLY_BYTES_MAX);

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Submit payments, at most [`zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX`].
    Submit(Vec<Payment>),
    /// Where the node stands.
    Node,
    /// An account at the node's canonical head.
    Account(AccountId),
    /// How many nodes hold each of these payments in their pools.
    Pending(Vec<TransactionId>),
    /// Which snapshot the node can serve, if it has one of this height at least. For validators.
    Snapshot { height_min: u64 },
    /// One page of the snapshot at a block. For validators.
    SnapshotPage { block: BlockId, page: PageName },
}

/// A node's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A verdict for each payment, in order.
    Submitted(Vec<Verdict>),
    Node(NodeInfo),
    Account(AccountInfo),
    /// For each id: 0 if it is not in the pool, otherwise the number of nodes known to hold it.
    Pending(Vec<u16>),
    /// The request was not served.
    Refused(RequestError),
    Snapshot(Manifest),
    /// Whole records of a snapshot, of which the manifest names the hash.
    SnapshotPage(Vec<u8>),
}

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    pub genesis: GenesisId,
    pub key: PublicKey,
    pub boot: u64,
    pub mode: Mode,
    pub height: u64,
    pub slot: u64,
    pub head: BlockId,
    pub state_root: StateRoot,
    /// Payments stored and not on the canonical chain.
    pub pending: u64,
    /// Validators heard from in the last 10 s, this one included.
    pub live: u16,
    pub version: String,
}

/// An account at the node's canonical head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountInfo {
    pub height: u64,
    pub head: BlockId,
    pub state_root: StateRoot,
    /// The account's canonical bytes (`zeni_ledger::Account::encode`); `None` if it does not exist.
    pub account: Option<Vec<u8>>,
    /// The canonical bytes of a `zeni_ledger::proof` of the account or of its absence.
    pub proof: Vec<u8>,
}

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the node is at its limit; try again in {retry_after_ms} ms")]
    Overloaded { retry_after_ms: u32 },
    #[error("this key may not do that here")]
    Forbidden,
    #[error("the request is malformed: {0}")]
    Malformed(String),
    #[error("the node is stopping")]
    Stopping,
    #[error("the node has no such snapshot")]
    NotHere,
}
