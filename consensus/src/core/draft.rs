//! Execution ahead of the slot: whoever will propose next tells in which order it will list what waits, and all execute
//! that while the slot has not begun ([`crate::ahead`], decision 0012).

use zeni_ledger::{BatchDigest, ValidatorIndex};

use super::Core;
use crate::ahead::{AHEAD_STEP_PAYMENTS_MAX, Ahead, Draft};
use crate::archive::Archive;
use crate::effect::{Effect, HaltReason};
use crate::message::{MESSAGE_DIGESTS_MAX, Message};
use crate::mutation::Mutant;
use crate::time::Millis;

/// The proposer looks this often for what it can draft.
const DRAFT_INTERVAL_MS: u64 = 50;
/// How often a validator may begin its draft anew within one slot of this clock: it does so when the head changes. Each time
/// what was executed ahead may be lost.
const DRAFTS_BEGUN_MAX: u32 = 8;
/// Parts of drafts that are taken of one validator within one slot.
const DRAFT_PARTS_MAX: u32 = 2_048;

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
        // What it executed on this head would be in vain, and what it lacks of the better one would wait for that.
        if self.waits_for_better_head(now) {
            return Ok(());
        }
        match self.drafts_itself(now) {
            true if now >= self.next_draft => self.extend_draft(now, archive, out),
            true => Ok(()),
            false => self.follow_draft(archive),
        }
    }

    /// Whether this validator is the first live one of the next slot, and the present one has its block or will hardly get
    /// one any more.
    fn drafts_itself(&self, now: Millis) -> bool {
        let middle = self.genesis.slot_time_ms(self.slot.0) + self.genesis.block_interval_ms / 2;
        let is_filled = self.replica.chain.head_node().slot >= self.slot.0;
        let is_live = |validator: &ValidatorIndex| self.replica.peers.is_live(*validator, now);
        let mut before = self.next_order.iter().take_while(|validator| **validator != self.config.me);
        (is_filled || now.0 >= middle) && self.may_sign(self.slot.0 + 1) && !before.any(is_live)
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
        let draft = Message::Draft { slot, parent, start: start as u32, digests };
        out.push(Effect::Broadcast(draft.clone()));
        out.push(Effect::Publish(draft));
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

    /// Takes a part of another validator's draft, and passes it on to followers. One that begins anew replaces what it told
    /// before.
    pub(super) fn receive_draft(&mut self, from: ValidatorIndex, part: Draft, start: u32, out: &mut Vec<Effect>) {
        // Its clock may be a little ahead.
        if !(self.slot.0..=self.slot.0 + 2).contains(&part.slot) {
            return;
        }
        let (begun, parts) = self.drafts_told.entry(from).or_default();
        (*begun, *parts) = (*begun + u32::from(start == 0), *parts + 1);
        if *begun > DRAFTS_BEGUN_MAX || *parts > DRAFT_PARTS_MAX {
            return;
        }
        let Draft { slot, parent, digests } = part.clone();
        let most = self.genesis.batches_max as usize;
        let is_taken = Draft::take(self.drafts.entry(from).or_default(), part, start as usize, most);
        if is_taken && self.next_draft_of() == Some(from) {
            out.push(Effect::Publish(Message::Draft { slot, parent, start, digests }));
        }
    }

    /// Whose draft is followed: of several for the next slot on the head that of the best rank.
    fn next_draft_of(&self) -> Option<ValidatorIndex> {
        let (head, slot) = (self.replica.chain.head(), self.slot.0 + 1);
        let is_next = |draft: &Draft| draft.parent == head && draft.slot == slot;
        self.next_order
            .iter()
            .copied()
            .find(|validator| self.drafts.get(validator).and_then(Option::as_ref).is_some_and(is_next))
    }

    fn follow_draft(&mut self, archive: &dyn Archive) -> Result<(), HaltReason> {
        match self.next_draft_of().and_then(|validator| self.drafts.get(&validator)?.as_ref()) {
            Some(draft) => draft.follow(&mut self.replica.chain, &self.replica.batches, archive),
            None => Ok(()),
        }
    }
}
