//! Execution ahead of the slot: whoever will propose next tells in which order it will list what waits, and all execute
//! that while the slot has not begun ([`crate::ahead`], decision 0012).

use std::collections::HashSet;

use zeni_ledger::{BatchDigest, BlockId, ValidatorIndex};

use super::Core;
use crate::ahead::{AHEAD_STEP_PAYMENTS_MAX, Ahead, Draft};
use crate::archive::Archive;
use crate::effect::{Effect, HaltReason};
use crate::message::{MESSAGE_DIGESTS_MAX, Message};
use crate::mutation::Mutant;
use crate::time::Millis;

/// The proposer looks this often for what it can draft.
const DRAFT_INTERVAL_MS: u64 = 50;

impl Core {
    /// Executes ahead what this validator will list if it proposes next, or what another said that it will.
    pub(super) fn execute_ahead(
        &mut self,
        now: Millis,
        archive: &dyn Archive,
        out: &mut Vec<Effect>,
    ) -> Result<(), HaltReason> {
        if self.replica.is_unfinished() || self.replaying.is_some() || self.mutation.is(Mutant::ReuseSequence) {
            return Ok(());
        }
        match self.drafts_itself(now) {
            true if now >= self.next_draft => self.extend_draft(now, archive, out),
            true => Ok(()),
            false => self.follow_draft(archive),
        }
    }

    /// The slot of the next block: the one after the present, unless that is still to get its own.
    fn next_slot(&self, now: Millis) -> Option<u64> {
        let middle = self.genesis.slot_time_ms(self.slot.0) + self.genesis.block_interval_ms / 2;
        let is_filled = self.replica.chain.head_node().slot >= self.slot.0;
        (is_filled || now.0 >= middle).then_some(self.slot.0 + 1)
    }

    /// Whether this validator is the first live one of the next slot.
    fn drafts_itself(&self, now: Millis) -> bool {
        let Some(slot) = self.next_slot(now).filter(|slot| self.may_sign(*slot)) else { return false };
        debug_assert_eq!(slot, self.slot.0 + 1);
        let is_live = |validator: &ValidatorIndex| self.replica.peers.is_live(*validator, now);
        !self.next_order.iter().take_while(|validator| **validator != self.config.me).any(is_live)
    }

    /// When there may be something more to draft.
    pub(super) fn next_draft(&self, now: Millis) -> Option<Millis> {
        let done = self.replica.chain.executed_ahead(self.slot.0 + 1).map_or(0, |ahead| ahead.digests().len());
        let waits = done < self.pool.len().min(self.genesis.batches_max as usize);
        (waits && self.drafts_itself(now)).then_some(self.next_draft)
    }

    fn extend_draft(&mut self, now: Millis, archive: &dyn Archive, out: &mut Vec<Effect>) -> Result<(), HaltReason> {
        self.next_draft = now + DRAFT_INTERVAL_MS;
        let slot = self.slot.0 + 1;
        let next = self.listable(now, self.replica.chain.executed_ahead(slot), u64::MAX, MESSAGE_DIGESTS_MAX);
        if next.is_empty() {
            return Ok(());
        }
        let (chain, batches) = (&mut self.replica.chain, &self.replica.batches);
        let mut digests = chain.executed_ahead(slot).map_or(Vec::new(), |ahead| ahead.digests().to_vec());
        let start = digests.len();
        digests.extend(next);
        chain.execute_ahead(AHEAD_STEP_PAYMENTS_MAX, slot, &digests, batches, archive)?;
        let executed = chain.executed_ahead(slot).map_or(start, |ahead| ahead.digests().len());
        if executed < digests.len() {
            self.next_draft = now;
        }
        let (parent, digests) = (chain.head(), digests[start..executed].to_vec());
        out.push(Effect::Broadcast(Message::Draft { slot, parent, start: start as u32, digests }));
        Ok(())
    }

    /// What was executed ahead for this slot, whoever drafted it, and behind it the oldest batches of the pool that arrived
    /// before the slot began, so that a late proposer lists what a timely one would, and leaves the next slot what is its
    /// own; while peers are there to confirm, only those that one of them has on disk.
    pub(super) fn batches_to_list(&self, now: Millis, slot: u64) -> Vec<BatchDigest> {
        let is_confirmed = self.confirmation(now);
        // Who is there to confirm may have changed since.
        let ahead = self.replica.chain.executed_ahead(slot).filter(|ahead| ahead.digests().iter().all(is_confirmed));
        let mut digests = ahead.map_or(Vec::new(), |ahead| ahead.digests().to_vec());
        digests.extend(self.listable(now, ahead, self.slot.1, usize::MAX));
        digests
    }

    /// Whether a batch may be listed now, as far as that hangs on others having it.
    fn confirmation(&self, now: Millis) -> impl Fn(&BatchDigest) -> bool + Copy + '_ {
        let confirming = self.replica.peers.confirming(now);
        move |digest| {
            let confirmed = || self.replica.batches.info(digest).is_some_and(|info| info.holders.meets(&confirming));
            confirming.is_empty() || self.mutation.is(Mutant::ListUnconfirmed) || confirmed()
        }
    }

    /// The oldest batches of the pool that this validator may list behind those that are executed ahead, none that arrived
    /// later than `last_arrival`, and `most` of them at most.
    fn listable(&self, now: Millis, ahead: Option<&Ahead>, last_arrival: u64, most: usize) -> Vec<BatchDigest> {
        let room = (self.genesis.batches_max as usize).saturating_sub(ahead.map_or(0, |ahead| ahead.digests().len()));
        let in_time = self.pool.digests().take_while(|(arrival, _)| *arrival <= last_arrival);
        let rest = in_time.map(|(_, digest)| digest).filter(|digest| !ahead.is_some_and(|ahead| ahead.lists(digest)));
        rest.filter(self.confirmation(now)).take(room.min(most)).collect()
    }

    /// Takes a part of another validator's draft. One that begins anew replaces what it told before.
    pub(super) fn receive_draft(
        &mut self,
        from: ValidatorIndex,
        (slot, parent): (u64, BlockId),
        start: u32,
        mut digests: Vec<BatchDigest>,
    ) {
        // Its clock may be a little ahead. What could never stand in one block is not worth remembering.
        if !(self.slot.0..=self.slot.0 + 2).contains(&slot) {
            return;
        }
        let room = (self.genesis.batches_max as usize).saturating_sub(start as usize);
        digests.truncate(room);
        if start == 0 {
            self.drafts.insert(from, Draft { slot, parent, digests });
        } else if let Some(draft) = self.drafts.get_mut(&from)
            && (draft.slot, draft.parent) == (slot, parent)
            && draft.digests.len() == start as usize
        {
            draft.digests.extend(digests);
        }
    }

    /// Executes what a draft names and is here: of several for the next slot that of the best rank.
    fn follow_draft(&mut self, archive: &dyn Archive) -> Result<(), HaltReason> {
        let (chain, batches) = (&mut self.replica.chain, &self.replica.batches);
        let (head, slot) = (chain.head(), self.slot.0 + 1);
        let mut drafts = self.next_order.iter().filter_map(|validator| self.drafts.get(validator));
        let Some(draft) = drafts.find(|draft| draft.parent == head && draft.slot == slot) else { return Ok(()) };
        // Of another draft that was executed so far nothing is kept.
        let begun = chain.executed_ahead(slot).filter(|ahead| draft.digests.starts_with(ahead.digests()));
        let done = begun.map_or(0, |ahead| ahead.digests().len());
        let mut seen = HashSet::new();
        let is_new = |digest: &BatchDigest| !chain.lists(digest) && !begun.is_some_and(|ahead| ahead.lists(digest));
        let next = draft.digests[done..].iter();
        let next =
            next.take_while(|digest| batches.contains(digest) && is_new(digest) && seen.insert(**digest)).count();
        if next == 0 {
            return Ok(());
        }
        chain.execute_ahead(AHEAD_STEP_PAYMENTS_MAX, slot, &draft.digests[..done + next], batches, archive)
    }
}
