//! The chain as this server tells it: the log for blocks and payments, the index for where they stand.
//!
//! The follower's thread publishes each change of the canonical chain once it is on disk; any number of requests read.

use std::sync::Arc;

use tokio::sync::watch;
use zeni_consensus::{Applied, Archive, ArchiveError, ChainChange};
use zeni_ledger::{
    AccountId, BatchDigest, Block, BlockId, CommitCertificate, Genesis, GenesisId, Outcome, Payment, Sequence,
    StateRoot, TransactionId, VerifiedBatch,
};
use zeni_storage::index::{Index, IndexError, IndexedBlock, Listed, Location, Place};

use crate::proof_log::{ProofLog, ProofLogError};

/// Read access to the log from any thread.
pub type SharedArchive = Arc<dyn Archive + Send + Sync>;

/// Looks at a payment's place while the chain changes, at most.
const LOOKS_MAX: u32 = 4;

/// The canonical head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub height: u64,
    pub id: BlockId,
    pub slot: u64,
    /// `None` at genesis, which has no block.
    pub state_root: Option<StateRoot>,
}

/// The last final block; genesis before the first decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastFinal {
    /// Which decision of the finality engine made it final; 0 for genesis.
    pub decision: u64,
    pub height: u64,
    pub id: BlockId,
    pub slot: u64,
}

/// A block of the canonical chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalBlock {
    pub id: BlockId,
    pub block: Arc<Block>,
    /// Blocks on top of it.
    pub depth: u64,
    /// It can never be taken back.
    pub is_final: bool,
}

/// Where a payment stands on the canonical chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inclusion {
    pub height: u64,
    pub block: BlockId,
    pub slot: u64,
    /// Blocks on top of it.
    pub depth: u64,
    pub batch: u16,
    pub position: u16,
    pub outcome: Outcome,
    /// Its block can never be taken back.
    pub is_final: bool,
}

/// What decides whether a payment can still be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub from: AccountId,
    pub sequence: Sequence,
    /// Unix seconds; after that no block takes it.
    pub valid_until: u32,
}

/// The payment that used a sequence, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceUse {
    pub by: TransactionId,
    pub height: u64,
    pub block: BlockId,
    pub slot: u64,
    /// Its block can never be taken back.
    pub is_final: bool,
}

/// How a payment stands, by the chain alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A block executed it.
    Executed(Inclusion),
    /// For ever: another payment used its sequence, in a final block, while it was valid.
    Superseded(SequenceUse),
    /// For ever: a final block's slot time is past its `valid_until`, and no block up to that one executed it.
    Expired { valid_until: u32 },
    /// Nothing that cannot change.
    Open(OpenStanding),
}

/// What the chain says of a payment that it has not executed and may still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenStanding {
    /// A block lists it and skipped it, so this server's log holds it.
    pub is_stored: bool,
    /// Who used its sequence, in a block that is not final.
    pub used: Option<SequenceUse>,
    /// The head's slot time is past its `valid_until`, and no final block's is.
    pub is_late: bool,
}

/// Why the chain cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ChronicleError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    ProofLog(#[from] ProofLogError),
    #[error(
        "the log lacks {what} {id}, which the chain lists; stop the server and move its data away to fetch it again"
    )]
    Lacking { what: &'static str, id: String },
}

/// Finds where something is and then what stands there, while both may change in between: what stands there counts only
/// if it is still the place afterwards. `None` if it is nowhere, or moved in each of [`LOOKS_MAX`] looks.
fn steadily<L: PartialEq, T, E>(
    mut locate: impl FnMut() -> Result<Option<L>, E>,
    mut look: impl FnMut(&L) -> Result<Option<T>, E>,
) -> Result<Option<(L, T)>, E> {
    let mut place = locate()?;
    for _ in 0..LOOKS_MAX {
        let Some(location) = place else { return Ok(None) };
        let found = look(&location)?;
        place = locate()?;
        if let (Some(found), true) = (found, place.as_ref() == Some(&location)) {
            return Ok(Some((location, found)));
        }
    }
    Ok(None)
}

/// The chain's story so far.
pub struct Chronicle {
    genesis: Arc<Genesis>,
    genesis_id: GenesisId,
    archive: SharedArchive,
    index: Arc<Index>,
    proof_log: Arc<ProofLog>,
    head: watch::Sender<Head>,
    last_final: watch::Sender<LastFinal>,
}

impl std::fmt::Debug for Chronicle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chronicle").field("head", &*self.head.borrow()).finish_non_exhaustive()
    }
}

impl Chronicle {
    /// The chain as far as the index goes.
    pub fn new(
        genesis: Arc<Genesis>,
        archive: SharedArchive,
        index: Arc<Index>,
        proof_log: Arc<ProofLog>,
    ) -> Result<Self, ChronicleError> {
        let genesis_id = genesis.id();
        let start = Head { height: 0, id: genesis.block_id(), slot: 0, state_root: None };
        let head = watch::Sender::new(start);
        let last_final = watch::Sender::new(LastFinal { decision: 0, height: 0, id: start.id, slot: 0 });
        let chronicle = Self { genesis, genesis_id, archive, index, proof_log, head, last_final };
        chronicle.announce()?;
        Ok(chronicle)
    }

    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.genesis
    }

    pub fn genesis_id(&self) -> GenesisId {
        self.genesis_id
    }

    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// What proofs need besides the log.
    pub fn proof_log(&self) -> &Arc<ProofLog> {
        &self.proof_log
    }

    pub fn head(&self) -> Head {
        *self.head.borrow()
    }

    /// Wakes whenever the head changes.
    pub fn watch(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// The last final block that is executed here.
    pub fn last_final(&self) -> LastFinal {
        *self.last_final.borrow()
    }

    /// Wakes whenever something more is final.
    pub fn watch_final(&self) -> watch::Receiver<LastFinal> {
        self.last_final.subscribe()
    }

    /// Takes in a decision whose certificate was checked and is on disk, and whose block is executed here.
    pub fn publish_final(&self, certificate: &CommitCertificate) -> Result<(), ChronicleError> {
        let CommitCertificate { decision, block, .. } = certificate;
        let slot = self.stored_block(block.id)?.header.slot;
        let found = LastFinal { decision: *decision, height: block.height, id: block.id, slot };
        self.last_final.send_if_modified(|current| {
            let later = current.decision < found.decision;
            if later {
                *current = found;
            }
            later
        });
        Ok(())
    }

    /// Takes in a change of the canonical chain that is on disk. What the index knows from before a restart is told
    /// again by the follower and is passed over; where the two disagree, the follower is right.
    pub fn publish(&self, change: &ChainChange) -> Result<(), ChronicleError> {
        for id in &change.undone {
            if self.index.head().1 == *id {
                self.undo_head()?;
            }
        }
        for applied in &change.applied {
            self.apply(applied)?;
        }
        self.announce()
    }

    fn apply(&self, applied: &Applied) -> Result<(), ChronicleError> {
        let height = applied.block.header.height;
        self.proof_log.keep_receipts(applied)?;
        if self.index.block_at(height)? == Some(applied.id) {
            return Ok(());
        }
        while self.index.head().0 >= height {
            self.undo_head()?;
        }
        Ok(self.index.apply(IndexedBlock::of(applied))?)
    }

    fn undo_head(&self) -> Result<(), ChronicleError> {
        self.index.undo(|block| self.listed_payments(block))?;
        Ok(())
    }

    fn listed_payments(&self, id: BlockId) -> Result<Vec<Listed>, ChronicleError> {
        let block = self.stored_block(id)?;
        let mut listed = Vec::with_capacity(block.header.receipts as usize);
        for digest in &block.digests {
            let batch = self.stored_batch(digest)?;
            let payments = batch.payments().iter().zip(batch.ids());
            listed.extend(payments.map(|(one, id)| Listed { id: *id, from: one.from(), sequence: one.sequence() }));
        }
        Ok(listed)
    }

    fn announce(&self) -> Result<(), ChronicleError> {
        let (height, id) = self.index.head();
        let head = match height {
            0 => Head { height, id, slot: 0, state_root: None },
            _ => {
                let header = self.stored_block(id)?.header;
                Head { height, id, slot: header.slot, state_root: Some(header.state_root) }
            }
        };
        self.head.send_if_modified(|current| {
            let changed = *current != head;
            *current = head;
            changed
        });
        Ok(())
    }

    fn stored_block(&self, id: BlockId) -> Result<Arc<Block>, ChronicleError> {
        let block = self.archive.block(&id)?;
        block.ok_or_else(|| ChronicleError::Lacking { what: "block", id: id.to_string() })
    }

    /// A batch that the chain lists.
    pub(crate) fn stored_batch(&self, digest: &BatchDigest) -> Result<VerifiedBatch, ChronicleError> {
        let batch = self.archive.batch(digest)?;
        batch.ok_or_else(|| ChronicleError::Lacking { what: "batch", id: digest.to_string() })
    }

    /// Any stored block, canonical or abandoned.
    pub fn any_block(&self, id: &BlockId) -> Result<Option<Arc<Block>>, ChronicleError> {
        Ok(self.archive.block(id)?)
    }

    /// The canonical block at `height`; `None` above the head and for genesis, which has no block.
    pub fn block_at(&self, height: u64) -> Result<Option<CanonicalBlock>, ChronicleError> {
        if height == 0 {
            return Ok(None);
        }
        // Before the look-up: what stands at this height later may be another block, and only that one final.
        let last_final = self.last_final();
        let Some(id) = self.index.block_at(height)? else { return Ok(None) };
        let depth = self.index.head().0.saturating_sub(height);
        let is_final = height <= last_final.height;
        Ok(Some(CanonicalBlock { id, block: self.stored_block(id)?, depth, is_final }))
    }

    /// The id of the canonical block at `height`, genesis included.
    pub fn id_at(&self, height: u64) -> Result<Option<BlockId>, ChronicleError> {
        Ok(self.index.block_at(height)?)
    }

    /// A block by id, if it is canonical.
    pub fn canonical(&self, id: &BlockId) -> Result<Option<CanonicalBlock>, ChronicleError> {
        let Some(block) = self.archive.block(id)? else { return Ok(None) };
        let found = self.block_at(block.header.height)?;
        Ok(found.filter(|found| found.id == *id))
    }

    /// Where a payment stands, if the canonical chain executed it.
    pub fn find(&self, id: &TransactionId) -> Result<Option<Inclusion>, ChronicleError> {
        let found = steadily(|| Ok(self.index.find(id)?), |location: &Location| self.block_at(location.height))?;
        Ok(found.map(|(location, found)| Inclusion {
            height: location.height,
            block: found.id,
            slot: found.block.header.slot,
            depth: found.depth,
            batch: location.batch,
            position: location.position,
            outcome: location.outcome,
            is_final: found.is_final,
        }))
    }

    /// How a payment stands. `terms` are those of the payment, if the caller knows them; otherwise they are looked for
    /// among what blocks skipped.
    ///
    /// What it calls for ever stays: the block that superseded it came before its `valid_until`, and is final; an expired
    /// one cannot be in a block above a final one that is too late for it already.
    pub fn standing(&self, id: &TransactionId, terms: Option<Terms>) -> Result<Standing, ChronicleError> {
        // Before every look-up, as in [`Self::block_at`].
        let (last_final, head) = (self.last_final(), self.head());
        if let Some(inclusion) = self.find(id)? {
            return Ok(Standing::Executed(inclusion));
        }
        let skipped = self.skipped(id)?;
        let is_stored = skipped.is_some();
        let Some(terms) = terms.or(skipped) else {
            return Ok(Standing::Open(OpenStanding { is_stored, used: None, is_late: false }));
        };
        let used = self.user_of(&terms.from, terms.sequence)?;
        if used.is_some_and(|used| used.by == *id) {
            // A block took it since.
            if let Some(inclusion) = self.find(id)? {
                return Ok(Standing::Executed(inclusion));
            }
        }
        let used = used.filter(|used| used.by != *id);
        let is_too_late = |slot| u64::from(terms.valid_until) * 1_000 < self.genesis.slot_time_ms(slot);
        Ok(match used {
            Some(used) if used.is_final && !is_too_late(used.slot) => Standing::Superseded(used),
            _ if is_too_late(last_final.slot) => Standing::Expired { valid_until: terms.valid_until },
            _ => Standing::Open(OpenStanding { is_stored, used, is_late: is_too_late(head.slot) }),
        })
    }

    /// Who used a sequence of an account on the canonical chain. `None` also if another use hides it in the index.
    pub fn user_of(&self, account: &AccountId, sequence: Sequence) -> Result<Option<SequenceUse>, ChronicleError> {
        let locate = || Ok(self.index.find_use(account, sequence)?);
        let found = steadily(locate, |place: &Place| {
            let Some(found) = self.block_at(place.height)? else { return Ok(None) };
            let listed = self.listed(&found.block, *place)?;
            Ok::<_, ChronicleError>(listed.map(|(by, payment)| (found, by, payment)))
        })?;
        let same = |payment: &Payment| payment.from() == *account && payment.sequence() == sequence;
        Ok(found.filter(|(_, (_, _, payment))| same(payment)).map(|(place, (found, by, _))| SequenceUse {
            by,
            height: place.height,
            block: found.id,
            slot: found.block.header.slot,
            is_final: found.is_final,
        }))
    }

    /// The terms of a payment that a block lists and skipped.
    fn skipped(&self, id: &TransactionId) -> Result<Option<Terms>, ChronicleError> {
        let found = steadily(
            || Ok(self.index.find_skipped(id)?),
            |place: &Place| {
                let Some(found) = self.block_at(place.height)? else { return Ok(None) };
                self.listed(&found.block, *place)
            },
        )?;
        let same = found.filter(|(_, (listed, _))| listed == id);
        Ok(same.map(|(_, (_, payment))| Terms {
            from: payment.from(),
            sequence: payment.sequence(),
            valid_until: payment.valid_until(),
        }))
    }

    /// The payment that a block lists at a place.
    fn listed(&self, block: &Block, place: Place) -> Result<Option<(TransactionId, Payment)>, ChronicleError> {
        let Some(digest) = block.digests.get(usize::from(place.batch)) else { return Ok(None) };
        let Some(batch) = self.archive.batch(digest)? else { return Ok(None) };
        let position = usize::from(place.position);
        Ok(batch.ids().get(position).copied().zip(batch.payments().get(position).copied()))
    }

    /// The payment itself, from the log. `None` if another payment shares half of its id, or the chain just changed.
    pub fn payment(&self, id: &TransactionId, inclusion: &Inclusion) -> Result<Option<Payment>, ChronicleError> {
        let block = self.stored_block(inclusion.block)?;
        let Inclusion { height, batch, position, .. } = *inclusion;
        let listed = self.listed(&block, Place { height, batch, position })?;
        Ok(listed.filter(|(listed, _)| listed == id).map(|(_, payment)| payment))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Looks while the places are, one after the other, as listed; each holds its own number times ten.
    fn look(places: &[Option<u32>]) -> Option<(u32, u32)> {
        let mut places = VecDeque::from(places.to_vec());
        let locate = || Ok::<_, ()>(places.pop_front().unwrap());
        steadily(locate, |place| Ok(Some(place * 10))).unwrap()
    }

    #[test]
    fn what_stands_at_a_place_counts_only_if_the_payment_is_still_there() {
        assert_eq!(look(&[None]), None);
        assert_eq!(look(&[Some(1), Some(1)]), Some((1, 10)));
        // A reorganisation took the payment off the chain, or to another block, after its place was looked up.
        assert_eq!(look(&[Some(1), None]), None);
        assert_eq!(look(&[Some(1), Some(2), Some(2)]), Some((2, 20)));
        assert_eq!(look(&[Some(1), Some(2), Some(3), Some(4), Some(5)]), None);
    }

    #[test]
    fn a_place_that_holds_nothing_any_more_is_looked_up_again() {
        let mut held = VecDeque::from([None, Some(7)]);
        let found = steadily(|| Ok::<_, ()>(Some(1)), |_| Ok(held.pop_front().unwrap()));
        assert_eq!(found, Ok(Some((1, 7))));
    }
}
