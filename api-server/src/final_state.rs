//! Accounts as the last final block left them, though the follower's state stands some blocks above it.
//!
//! Why so, and what it costs: `docs/decisions/0009-proofs-at-a-final-height.md`.

use zeni_consensus::{Archive, ArchiveError};
use zeni_ledger::proof::{AccountProof, prove};
use zeni_ledger::rewind::Rewound;
use zeni_ledger::{AccountId, BlockId, State};

use crate::chronicle::LastFinal;

/// Payments of the blocks above the last final one that are taken back for a proof, at most: the follower executes nothing
/// meanwhile. Each touches two accounts.
pub const REWIND_PAYMENTS_MAX: u64 = 20_000;
/// How many such blocks, at most: 8.5 h of 15 s blocks.
pub const REWIND_BLOCKS_MAX: u64 = 2_048;

/// An account at the last final block, or why it is not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinalAccount {
    At {
        /// Of the last final block.
        height: u64,
        proof: AccountProof,
    },
    /// The state stands too far above the last final block, or is on the way to it. Changes with head or last final block.
    Apart {
        head: u64,
        last_final: u64,
    },
    NoFinalBlock,
    /// Reading failed; the log says why.
    Failed,
}

/// The canonical chain as the follower has executed it.
#[derive(Debug, Clone, Copy)]
pub struct Executed<'a, F> {
    pub state: &'a State,
    pub head: BlockId,
    pub height: u64,
    /// The canonical block at a height.
    pub block_at: F,
}

/// What was taken back for the last question, for the next one.
#[derive(Debug, Default)]
pub struct FinalState {
    /// Last final block and head that `rewound` is for.
    stands: Option<(BlockId, BlockId)>,
    /// `None` if too much would have to be taken back.
    rewound: Option<Rewound>,
}

impl FinalState {
    /// The account at the last final block.
    pub fn account(
        &mut self,
        id: &AccountId,
        last_final: LastFinal,
        executed: &Executed<'_, impl Fn(u64) -> Option<BlockId>>,
        archive: &dyn Archive,
    ) -> FinalAccount {
        let height = last_final.height;
        if last_final.decision == 0 {
            return FinalAccount::NoFinalBlock;
        }
        if executed.head == last_final.id {
            *self = Self::default();
            return FinalAccount::At { height, proof: prove(executed.state, id) };
        }
        let apart = FinalAccount::Apart { head: executed.height, last_final: height };
        if (executed.block_at)(height) != Some(last_final.id) {
            return apart;
        }
        let stands = Some((last_final.id, executed.head));
        if self.stands != stands {
            match rewind(height, executed, archive) {
                Ok(rewound) => *self = Self { stands, rewound },
                Err(error) => {
                    tracing::error!(%error, "the last final state cannot be told");
                    return FinalAccount::Failed;
                }
            }
        }
        match &self.rewound {
            Some(rewound) => FinalAccount::At { height, proof: rewound.prove(executed.state, id) },
            None => apart,
        }
    }
}

/// Why blocks cannot be taken back.
#[derive(Debug, thiserror::Error)]
enum RewindError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the log lacks the block or the undo record of height {height}")]
    Lacking { height: u64 },
}

/// The state at `height`, below the head; `None` if the blocks between hold too much.
fn rewind(
    height: u64,
    executed: &Executed<'_, impl Fn(u64) -> Option<BlockId>>,
    archive: &dyn Archive,
) -> Result<Option<Rewound>, RewindError> {
    if executed.height - height > REWIND_BLOCKS_MAX {
        return Ok(None);
    }
    let (mut above, mut payments) = (Vec::new(), 0);
    for height in (height + 1..=executed.height).rev() {
        let lacking = RewindError::Lacking { height };
        let Some(id) = (executed.block_at)(height) else { return Err(lacking) };
        payments += u64::from(archive.block(&id)?.ok_or(lacking)?.header.receipts);
        if payments > REWIND_PAYMENTS_MAX {
            return Ok(None);
        }
        above.push((height, id));
    }
    let undo = |(height, id): &(u64, BlockId)| archive.undo(id)?.ok_or(RewindError::Lacking { height: *height });
    let undos = above.iter().map(undo).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Rewound::new(executed.state, undos.iter().map(|undo| &**undo))))
}
