//! Being written.

use std::sync::Arc;

use zeni_ledger::execute::Executed;
use zeni_ledger::{Block, BlockId, VerifiedBatch};

/// A block that became canonical, with all that executing it gave.
#[derive(Debug, Clone)]
pub struct Applied {
    pub id: BlockId,
    pub block: Arc<Block>,
    pub batches: Vec<VerifiedBatch>,
    pub executed: Arc<Executed>,
}

/// How the canonical chain changed: first these blocks were taken back, from the head down, then these applied.
#[derive(Debug, Clone, Default)]
pub struct ChainChange {
    pub undone: Vec<BlockId>,
    pub applied: Vec<Applied>,
}
