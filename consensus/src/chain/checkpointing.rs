//! What the next checkpoint needs of the chain.

use zeni_ledger::{BlockId, FinalBlock};

use super::Chain;
use crate::archive::{Archive, CheckpointDelta};
use crate::effect::HaltReason;
use crate::gathering::Gathering;

impl Chain {
    /// What brings the checkpoint to the last final block that was executed here; `None` if it stands there. Adds up all
    /// tokens, and sorts the accounts.
    ///
    /// # Panics
    /// If a token's sum is not zero.
    pub fn checkpoint(&mut self, archive: &dyn Archive) -> Result<Option<CheckpointDelta>, HaltReason> {
        self.begin_checkpoint(true, archive)?;
        let mut delta = self.gather_checkpoint(u64::MAX, archive)?;
        delta.iter_mut().for_each(CheckpointDelta::sort);
        Ok(delta)
    }

    /// Begins to gather what brings the checkpoint to the last final block that was executed here, unless that is being done,
    /// or the checkpoint stands there. With `sums`, tokens are added up on the way, if not of this one, then of the next.
    pub fn begin_checkpoint(&mut self, sums: bool, archive: &dyn Archive) -> Result<(), HaltReason> {
        self.sums_due |= sums;
        let Some(goal) = self.final_and_executed() else { return Ok(()) };
        if self.gathering.is_some() || goal.id == self.checkpoint {
            return Ok(());
        }
        let blocks = self.path_between(self.checkpoint, goal.id);
        let mut gathering = Gathering::new(self.checkpoint, goal, blocks, std::mem::take(&mut self.sums_due));
        for height in goal.height + 1..=self.head_node().height {
            let id = self.tree.canonical_at(height).expect("it is not above the head");
            gathering.executed(&*self.undo_record(&id, archive)?, &self.state);
        }
        self.gathering = Some(gathering);
        Ok(())
    }

    /// Whether a checkpoint is being gathered.
    pub fn is_gathering(&self) -> bool {
        self.gathering.is_some()
    }

    /// Gathers about `most` accounts more for the checkpoint that was begun. What it needs, once that is complete.
    ///
    /// # Errors
    /// If an undo record is not there.
    ///
    /// # Panics
    /// If a token's sum is not zero.
    pub fn gather_checkpoint(
        &mut self,
        most: u64,
        archive: &dyn Archive,
    ) -> Result<Option<CheckpointDelta>, HaltReason> {
        let Some(mut gathering) = self.gathering.take() else { return Ok(None) };
        let mut spent = 0;
        while spent < most {
            if let Some(id) = gathering.needs() {
                gathering.give(self.undo_record(&id, archive)?);
            }
            match gathering.take(most - spent, &self.state) {
                Some(cost) => spent = spent.saturating_add(cost),
                None => break,
            }
        }
        if spent >= most || !gathering.sum(most - spent, &self.state) {
            self.gathering = Some(gathering);
            return Ok(None);
        }
        self.checkpoint = gathering.goal().id;
        self.unchecked_accounts = self.unchecked_accounts.split_off(&(gathering.goal().height + 1));
        Ok(Some(gathering.finish()))
    }

    /// Accounts that final blocks behind the checkpoint touched, those that several did as often, as far as they were executed
    /// since this process started.
    pub fn accounts_behind_checkpoint(&self) -> u64 {
        self.unchecked_accounts.range(..=self.root.height).map(|(_, accounts)| accounts).sum()
    }

    /// The highest block that is final and canonical, so that the state can be had there. While the chain catches up with the
    /// last final block, the head is on the way to it, and final too. `None` if the head is beside that way.
    fn final_and_executed(&self) -> Option<FinalBlock> {
        if self.stands_on_root() {
            return Some(self.root);
        }
        let head = self.head();
        self.tree.descends(&self.root.id, &head).then(|| FinalBlock { id: head, height: self.head_node().height })
    }

    /// The blocks that lie between two blocks, on both sides of their common ancestor.
    fn path_between(&self, from: BlockId, to: BlockId) -> Vec<BlockId> {
        let (mut left, mut right, mut path) = (from, to, Vec::new());
        while left != right {
            let deeper = match self.tree.expect(&left).height >= self.tree.expect(&right).height {
                true => &mut left,
                false => &mut right,
            };
            path.push(*deeper);
            *deeper = self.tree.expect(deeper).parent;
        }
        path
    }
}
