//! Proposing: whose turn it is, and what goes into the block.

use std::collections::BTreeSet;

use zeni_ledger::{BatchDigest, BlockId, Genesis, ValidatorIndex};

use super::Core;
use crate::archive::{Archive, SafetyRecord};
use crate::chain::ChainChange;
use crate::effect::{Effect, Event, HaltReason};
use crate::message::{Message, Mode};
use crate::mutation::Mutant;
use crate::time::Millis;

/// An offer holds nobody back for longer than this.
const OFFER_WAITS_SLOTS: u64 = 2;
/// Whoever takes back an offer that it did not deliver is not waited for again before this: or it could begin anew each time.
const OFFER_KEPT_SLOTS: u64 = 8;

/// What a peer offered when it began to be ahead of this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) since: Millis,
    head: BlockId,
    decision: u64,
}

/// How long each live validator is given to propose before the next one does.
fn turn_ms(genesis: &Genesis) -> u64 {
    genesis.block_interval_ms / (genesis.validators.len() as u64 + 1)
}

impl Core {
    /// Proposes a block if the present slot is open, has none of a better rank, and it is this validator's turn. True while it
    /// executes what it will propose: then nothing else is executed.
    pub(super) fn propose_if_due(
        &mut self,
        now: Millis,
        archive: &dyn Archive,
        out: &mut Vec<Effect>,
    ) -> Result<bool, HaltReason> {
        let slot = self.genesis.slot_at(now.0);
        if self.replica.is_unfinished()
            || !self.may_sign(slot)
            || self.is_behind(now)
            || now < self.turn(now)
            || self.is_taken(slot)
        {
            self.preparing = None;
            return Ok(false);
        }
        let digests = self.batches_to_list(now, slot);
        let Some(digests) = self.prepare(now, slot, digests, archive)? else { return Ok(true) };
        self.preparing = None;
        let (me, key) = (self.config.me, self.config.key.clone());
        let safety = SafetyRecord { last_signed_slot: slot, ..self.safety.unwrap_or_default() };
        let applied = self.replica.chain.propose(slot, me, &key, digests, &mut self.replica.batches, archive)?;
        let (id, block) = (applied.id, applied.block.clone());
        self.safety = Some(safety);
        out.push(Effect::Safety(safety));
        self.replica.note_proposal(id, &block, out);
        let change = self.replica.publish(ChainChange { applied: vec![applied], ..ChainChange::default() }, out);
        self.update_pool(&change, archive)?;
        let (height, batches) = (block.header.height, block.digests.len());
        out.push(Effect::Broadcast(Message::Block(block)));
        out.push(Effect::Event(Event::Proposed { block: id, height, slot, batches }));
        self.next_status = now;
        Ok(false)
    }

    /// Executes what was not executed ahead, step by step, so that peers and clients are heard meanwhile. What the block
    /// lists, once no more than a step is left, or half of this validator's time to propose is over: then the rest is left to
    /// the next block. `None` before that.
    fn prepare(
        &mut self,
        now: Millis,
        slot: u64,
        mut digests: Vec<BatchDigest>,
        archive: &dyn Archive,
    ) -> Result<Option<Vec<BatchDigest>>, HaltReason> {
        let most = self.config.bounds.step_payments_max;
        let (chain, batches) = (&mut self.replica.chain, &self.replica.batches);
        let ahead = chain.executed_ahead(slot).filter(|ahead| digests.starts_with(ahead.digests()));
        let executed = ahead.map_or(0, |ahead| ahead.digests().len());
        let mut payments = 0;
        let fits = |digest: &&BatchDigest| {
            payments += batches.info(digest).map_or(0, |info| u64::from(info.meta.payments)) + 1;
            payments <= most
        };
        let ready = executed + digests[executed..].iter().take_while(fits).count();
        if ready == digests.len() {
            return Ok(Some(digests));
        }
        let since = self.preparing.filter(|(of, _)| *of == slot).map_or(now, |(_, since)| since);
        self.preparing = Some((slot, since));
        let turn = turn_ms(&self.genesis);
        let slot_ends = Millis(self.genesis.slot_time_ms(slot + 1));
        if now < since + turn / 2 && now + turn / 4 < slot_ends {
            chain.execute_ahead(most, slot, &digests, batches, archive)?;
            return Ok(None);
        }
        digests.truncate(ready.max(1));
        Ok(Some(digests))
    }

    /// Whether this validator may sign a block for this slot on its head, at whatever moment.
    pub(super) fn may_sign(&self, slot: u64) -> bool {
        let above_head = slot > self.replica.chain.head_node().slot || self.mutation.is(Mutant::SlotsFall);
        let unsigned = self.safety.is_some_and(|safety| slot > safety.last_signed_slot);
        let unsigned = unsigned || self.mutation.is(Mutant::SignTwice) && self.safety.is_some();
        self.mode == Mode::Active && slot > 0 && above_head && unsigned
    }

    /// Whether a live peer offers a heavier chain that may still be executed here: a block on the old head would only
    /// be abandoned. Whoever offers what it does not deliver holds nobody back for longer than two slots.
    pub(super) fn is_behind(&mut self, now: Millis) -> bool {
        let interval = self.genesis.block_interval_ms;
        let ahead = self.note_offers(now);
        let waits = |offer: &Offer| now.since(offer.since) < OFFER_WAITS_SLOTS * interval;
        ahead.iter().filter_map(|validator| self.behind_since.get(validator)).any(waits)
    }

    /// Keeps since when each peer offers what is not executed here. Returns who does now, this validator among them if it
    /// has not executed what is final.
    pub(super) fn note_offers(&mut self, now: Millis) -> BTreeSet<ValidatorIndex> {
        let mut ahead: BTreeSet<ValidatorIndex> = self.replica.ahead(now).collect();
        if !self.replica.has_executed_final() {
            ahead.insert(self.config.me);
        }
        let interval = self.genesis.block_interval_ms;
        let (tree, decision) = (self.replica.chain.tree(), self.replica.decision());
        self.behind_since.retain(|validator, offer| {
            let delivered = *validator == self.config.me || tree.contains(&offer.head) && offer.decision <= decision;
            ahead.contains(validator) || !delivered && now.since(offer.since) < OFFER_KEPT_SLOTS * interval
        });
        for validator in &ahead {
            let told = self.replica.peers.status(*validator);
            let (head, decision) = told.map_or((self.replica.chain.head(), 0), |status| (status.head, status.decision));
            self.behind_since.entry(*validator).or_insert(Offer { since: now, head, decision });
        }
        ahead
    }

    /// Whether a live peer offers a heavier chain, and is still waited for. Asking changes nothing, other than
    /// [`Self::is_behind`].
    pub(super) fn waits_for_better_head(&self, now: Millis) -> bool {
        let interval = self.genesis.block_interval_ms;
        let is_waited_for = |validator: &ValidatorIndex| {
            let offer = self.behind_since.get(validator);
            offer.is_none_or(|offer| now.since(offer.since) < OFFER_WAITS_SLOTS * interval)
        };
        self.replica.ahead(now).any(|validator| is_waited_for(&validator))
    }

    /// When this validator's turn in the present slot comes: each live validator ahead of it is given interval / (n + 1).
    fn turn(&self, now: Millis) -> Millis {
        let live_ahead = self.ahead.iter().filter(|validator| self.replica.peers.is_live(**validator, now)).count();
        Millis(self.genesis.slot_time_ms(self.slot.0)) + live_ahead as u64 * turn_ms(&self.genesis)
    }

    /// Whether a block of a better rank was seen for this slot.
    fn is_taken(&self, slot: u64) -> bool {
        let schedule = self.replica.chain.schedule();
        let mine = schedule.rank(slot, self.config.me);
        self.replica.seen_proposers(slot).any(|proposer| schedule.rank(slot, proposer) < mine)
    }

    /// The next moment at which proposing may become due.
    pub(super) fn next_turn(&self, now: Millis) -> Option<Millis> {
        let slot = self.genesis.slot_at(now.0);
        let turn = if slot == 0 { Millis(0) } else { self.turn(now) };
        let next_slot = Millis(self.genesis.slot_time_ms(slot + 1));
        Some(if turn > now && self.may_sign(slot) { turn.min(next_slot) } else { next_slot })
    }
}
