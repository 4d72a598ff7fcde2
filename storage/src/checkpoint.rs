//! The checkpoint: the accounts that changed since genesis, as of one block. It spares a start from executing the whole
//! log, and can always be rebuilt from it.
//!
//! **A step**, from one block to a later one: the delta file is written and synced; its accounts are put into the
//! overlay; the overlay is flushed; its head is set and flushed; the delta file is removed. After a crash a complete
//! delta file is put again, which changes nothing that was put before; an incomplete one is dropped, and then the
//! overlay was not touched.

use zeni_consensus::CheckpointDelta;
use zeni_ledger::encoding::{Decoder, Encoder};
use zeni_ledger::{Account, AccountId, BlockId, Genesis, GenesisId, State};

use crate::delta::{self, DeltaFile, StoredDelta};
use crate::error::StorageError;
use crate::files::Files;
use crate::overlay::{Head, Overlay};

/// Accounts that go to the overlay at once.
const PUT_ACCOUNTS_MAX: usize = 4_096;
/// Accounts that are laid over the genesis state at once.
const LAID_AT_ONCE: usize = 4_096;
/// Accounts after which the overlay is flushed, so that what it keeps in memory is bounded.
const FLUSH_ACCOUNTS: usize = 1 << 20;

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint<F: Files, O: Overlay> {
    files: F,
    overlay: O,
    genesis: GenesisId,
    genesis_block: BlockId,
    /// The last step failed midway: what the delta file says is to be done first.
    unsettled: bool,
    unflushed: usize,
}

/// What an opened checkpoint found of an interrupted step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// Nothing.
    No,
    /// The step's delta file was incomplete: the checkpoint stands before it.
    Dropped,
    /// The step's delta file was complete: the checkpoint stands behind it.
    Finished,
    /// The step did not begin where the checkpoint stands (which was discarded, then): it was dropped.
    Unfitting,
}

impl<F: Files, O: Overlay> Checkpoint<F, O> {
    /// Opens the checkpoint over its overlay and finishes or drops an interrupted step.
    ///
    /// # Errors
    /// [`StorageError::CheckpointDamaged`]: call `overlay.reset()` and open again, as [`crate::recover`] does; I/O.
    pub fn open(files: F, overlay: O, genesis: &Genesis) -> Result<(Self, Interrupted), (StorageError, O)> {
        let (genesis, genesis_block) = (genesis.id(), genesis.block_id());
        let mut checkpoint = Self { files, overlay, genesis, genesis_block, unsettled: true, unflushed: 0 };
        match checkpoint.settle() {
            Ok(interrupted) => Ok((checkpoint, interrupted)),
            Err(error) => Err((error, checkpoint.overlay)),
        }
    }

    /// The block that the checkpoint stands at, and its height.
    pub fn head(&self) -> Result<(BlockId, u64), StorageError> {
        match self.overlay.head()? {
            Some(head) if head.genesis == self.genesis => Ok((head.block, head.height)),
            Some(head) => Err(StorageError::OtherGenesis { found: head.genesis, expected: self.genesis }),
            None => Ok((self.genesis_block, 0)),
        }
    }

    /// As [`Self::head`]; `None` if the last step failed midway, so that the accounts are of two blocks.
    pub(crate) fn settled_head(&self) -> Result<Option<(BlockId, u64)>, StorageError> {
        if self.unsettled { Ok(None) } else { self.head().map(Some) }
    }

    /// Brings the genesis state to the checkpoint, and says where that is. The caller compares the root with the
    /// header of that block.
    ///
    /// # Errors
    /// [`StorageError::CheckpointDamaged`]; `state` is spoilt then.
    pub fn load_into(&self, state: &mut State) -> Result<(BlockId, u64), StorageError> {
        let head = self.head()?;
        let (mut accounts, mut some) = (0u64, Vec::with_capacity(LAID_AT_ONCE));
        self.overlay.each(&mut |id, content| {
            some.push(decode(id, content)?);
            accounts += 1;
            if some.len() < LAID_AT_ONCE {
                return Ok(());
            }
            lay(state, std::mem::replace(&mut some, Vec::with_capacity(LAID_AT_ONCE)))
        })?;
        lay(state, some)?;
        if head.1 == 0 && accounts > 0 {
            return Err(StorageError::CheckpointDamaged { what: "it holds accounts but names no block".into() });
        }
        state.commit();
        Ok(head)
    }

    /// Takes the step. The log and the undo log must be synced up to the step's last block
    /// ([`crate::Syncer::sync_all`]) before this is called.
    ///
    /// # Errors
    /// [`StorageError::CheckpointMismatch`] if the step does not begin where the checkpoint stands: nothing changed.
    /// After any other error the checkpoint is in between, and the next step or start first finishes what the delta
    /// file says.
    pub fn apply(&mut self, delta: &CheckpointDelta) -> Result<(), StorageError> {
        self.settle()?;
        let (head, _) = self.head()?;
        if head != delta.from {
            return Err(StorageError::CheckpointMismatch { head, from: delta.from });
        }
        self.unsettled = true;
        delta::write(&self.files, &self.genesis, delta)?;
        self.put(&delta.accounts)?;
        self.conclude(delta.to, delta.height)
    }

    /// Discards the checkpoint: it stands at genesis.
    pub fn reset(&mut self) -> Result<(), StorageError> {
        self.unsettled = true;
        self.overlay.reset()?;
        // Its step, if there is one, no longer fits; but a step from genesis would, and would be right.
        delta::remove(&self.files)?;
        self.unsettled = false;
        Ok(())
    }

    pub fn overlay(&self) -> &O {
        &self.overlay
    }

    /// Finishes or drops an interrupted step.
    fn settle(&mut self) -> Result<Interrupted, StorageError> {
        if !self.unsettled {
            return Ok(Interrupted::No);
        }
        let (head, _) = self.head()?;
        let interrupted = match delta::open(&self.files, &self.genesis)? {
            DeltaFile::Absent => Interrupted::No,
            DeltaFile::Incomplete => Interrupted::Dropped,
            DeltaFile::Complete(stored) if stored.to == head => Interrupted::Finished,
            DeltaFile::Complete(stored) if stored.from == head => {
                self.finish(&stored)?;
                Interrupted::Finished
            }
            DeltaFile::Complete(_) => Interrupted::Unfitting,
        };
        delta::remove(&self.files)?;
        self.unsettled = false;
        Ok(interrupted)
    }

    fn finish(&mut self, stored: &StoredDelta<F>) -> Result<(), StorageError> {
        stored.accounts(&mut |accounts| self.put(accounts))?;
        self.conclude(stored.to, stored.height)
    }

    fn put(&mut self, accounts: &[Account]) -> Result<(), StorageError> {
        for some in accounts.chunks(PUT_ACCOUNTS_MAX) {
            let contents: Vec<(AccountId, Vec<u8>)> = some.iter().map(content).collect();
            self.overlay.put(&contents)?;
            self.unflushed += some.len();
            if self.unflushed >= FLUSH_ACCOUNTS {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.unflushed = 0;
        self.overlay.flush()
    }

    fn conclude(&mut self, block: BlockId, height: u64) -> Result<(), StorageError> {
        self.flush()?;
        self.overlay.set_head(&Head { genesis: self.genesis, block, height })?;
        self.flush()?;
        delta::remove(&self.files)?;
        self.unsettled = false;
        Ok(())
    }
}

/// Puts accounts into the state, in place of what they were.
fn lay(state: &mut State, accounts: Vec<Account>) -> Result<(), StorageError> {
    state.replace_all(accounts).into_iter().try_for_each(|account| {
        let id = account.id();
        let damaged = |error| StorageError::CheckpointDamaged { what: format!("account {id}: {error}") };
        state.open(account).map_err(damaged)
    })
}

/// An account as an overlay keeps it.
pub(crate) fn content(account: &Account) -> (AccountId, Vec<u8>) {
    let mut encoder = Encoder::with_capacity(48);
    account.encode_content(&mut encoder);
    (account.id(), encoder.finish())
}

fn decode(id: AccountId, content: &[u8]) -> Result<Account, StorageError> {
    let mut decoder = Decoder::new(content);
    let account = Account::decode_content(id, &mut decoder).and_then(|account| decoder.finish().map(|()| account));
    account.map_err(|error| StorageError::CheckpointDamaged { what: format!("account {id}: {error}") })
}

#[cfg(test)]
mod tests;
