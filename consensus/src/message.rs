//! What validators say to one another, and to followers.

use std::sync::Arc;

use zeni_ledger::{BatchDigest, Block, BlockId, FinalBlock, ValidatorIndex, VerifiedBatch};

use crate::evidence::Evidence;
use crate::finality::FinalityMessage;

/// Digests in one message, at most (128 KiB of them).
pub const MESSAGE_DIGESTS_MAX: usize = 4_096;
/// Block ids in one locator, at most: with doubling steps that reaches over 2^32 blocks.
pub const LOCATOR_MAX: usize = 64;
/// Blocks in one [`Message::Blocks`], at most.
pub const MESSAGE_BLOCKS_MAX: usize = 64;
/// Bytes of blocks in one [`Message::Blocks`], at most, unless a single block is larger.
pub const MESSAGE_BLOCKS_BYTES_MAX: usize = 1 << 20;
/// Digests in one [`Message::FetchBatches`], at most.
pub const FETCH_BATCHES_MAX: usize = 64;
/// Echoes in one status, at most: validators in one ledger.
pub const VALIDATORS_MAX: usize = 256;

/// What a validator does just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Accepts, stores, fetches and executes; neither proposes nor votes until it heard everyone or waited long enough.
    Joining,
    /// As joining, until every valid chain on offer is executed here.
    Syncing,
    /// Proposes and votes.
    Active,
    /// Lost its safety record: follows until an operator re-admits it.
    FollowOnly,
}

/// A validator's heartbeat: where it stands, and proof that it is alive now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub validator: ValidatorIndex,
    /// Drawn at random at each process start: two live ones under one key are two nodes.
    pub boot: u64,
    /// Fresh in every boot; peers echo it.
    pub nonce: u64,
    /// The last nonce heard of each validator.
    pub echoes: Vec<(ValidatorIndex, u64)>,
    pub mode: Mode,
    /// The sender's canonical head.
    pub head: BlockId,
    pub height: u64,
    pub slot: u64,
    /// Weight of the sender's canonical chain.
    pub weight: u128,
    /// Batches in the sender's pool.
    pub pool: u32,
    /// The last decision of the finality engine that the sender knows, 0 for none, and the block that it made final.
    pub decision: u64,
    pub last_final: FinalBlock,
}

/// A message between validators, or from a validator to a follower. `B` is [`VerifiedBatch`] inside the core and a
/// plain [`zeni_ledger::Batch`] as it comes off the wire, before anyone vouched for its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<B = VerifiedBatch> {
    Status(Status),
    /// A batch, pushed by its author or sent on request.
    Batch(B),
    /// These batches are on the sender's disk.
    Stored(Vec<BatchDigest>),
    /// The sender's pool, exchanged on every new connection: also on its disk, and listed nowhere yet.
    Pool(Vec<BatchDigest>),
    /// A new block.
    Block(Arc<Block>),
    /// What the sender (to followers: or the validator whose draft it follows) will list first if it proposes a block at
    /// `slot` on `parent`: these batches, behind the `start` that it told before. A promise of nothing; whoever executes
    /// them ahead has less to do when the block comes.
    Draft {
        slot: u64,
        parent: BlockId,
        start: u32,
        digests: Vec<BatchDigest>,
    },
    /// Asks for the blocks behind the first of these ids that stands on the receiver's canonical chain. The ids go from
    /// the sender's head down with growing steps to genesis.
    FetchBlocks {
        locator: Vec<BlockId>,
    },
    /// Asks for one block and its ancestors by id: `id` is wanted, `known_height` is where the asker's chain ends.
    FetchAncestors {
        id: BlockId,
        known_height: u64,
    },
    /// Blocks of one chain in rising height.
    Blocks(Vec<Arc<Block>>),
    /// Asks for batches by digest. Answered from the archive, outside the core.
    FetchBatches(Vec<BatchDigest>),
    /// The answer where batches are not there.
    Missing(Vec<BatchDigest>),
    /// What the finality engine says.
    Finality(Box<FinalityMessage>),
    /// What a node saw a validator do wrong; to followers alone.
    Evidence(Box<Evidence>),
}

impl<B> Message<B> {
    /// Rewrites the batch, if there is one; everything else stays.
    pub fn try_map_batch<C, E>(self, vouch: impl FnOnce(B) -> Result<C, E>) -> Result<Message<C>, E> {
        Ok(match self {
            Self::Batch(batch) => Message::Batch(vouch(batch)?),
            Self::Status(status) => Message::Status(status),
            Self::Stored(digests) => Message::Stored(digests),
            Self::Pool(digests) => Message::Pool(digests),
            Self::Block(block) => Message::Block(block),
            Self::Draft { slot, parent, start, digests } => Message::Draft { slot, parent, start, digests },
            Self::FetchBlocks { locator } => Message::FetchBlocks { locator },
            Self::FetchAncestors { id, known_height } => Message::FetchAncestors { id, known_height },
            Self::Blocks(blocks) => Message::Blocks(blocks),
            Self::FetchBatches(digests) => Message::FetchBatches(digests),
            Self::Missing(digests) => Message::Missing(digests),
            Self::Finality(message) => Message::Finality(message),
            Self::Evidence(evidence) => Message::Evidence(evidence),
        })
    }
}
