//! What a validator and a follower have in common: take blocks and batches from peers, fetch what is missing, and
//! follow fork choice.

mod decided;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zeni_ledger::{Block, BlockId, SignedHeader, ValidatorIndex, VerifiedBatch};

use crate::archive::{Archive, Record};
use crate::batches::BatchIndex;
use crate::chain::{Chain, ChainChange, HeaderError};
use crate::effect::{Effect, Event, HaltReason};
use crate::input::Peer;
use crate::message::{LOCATOR_MAX, Message, Status};
use crate::mutation::{Mutant, Mutation};
use crate::peers::Peers;
use crate::sync::{BlockSync, Fetcher, WANTED_MAX};
use crate::time::Millis;
use crate::tree::SIDE_BLOCKS_MAX;
use decided::Decided;

/// A block is taken this long before its slot begins on this clock; earlier ones are held.
pub(crate) const CLOCK_TOLERANCE_MS: u64 = 500;
/// Blocks whose slot has not begun, at most; the earliest are kept.
pub(crate) const HELD_MAX: usize = 256;
/// Blocks whose parent is unknown, at most.
pub(crate) const ORPHANS_MAX: usize = 1_024;
/// While execution is behind and more side blocks than this are here, no further blocks are asked for.
pub(crate) const SYNC_AHEAD_MAX: usize = 512;
/// Blocks of one proposer for one slot that are taken without being asked for.
pub(crate) const BLOCKS_PER_SLOT_MAX: usize = 4;
/// Slots behind the head for which it is remembered who proposed what.
const SEEN_SLOTS: u64 = 1_024;

/// A block whose slot has not begun, and who sent it.
#[derive(Debug)]
struct Held {
    id: BlockId,
    block: Arc<Block>,
    from: Option<ValidatorIndex>,
}

/// The part of a core that needs no vote.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) chain: Chain,
    pub(crate) batches: BatchIndex,
    pub(crate) peers: Peers,
    me: Option<ValidatorIndex>,
    fetcher: Fetcher,
    block_sync: BlockSync,
    orphans: BTreeMap<BlockId, (Arc<Block>, Option<ValidatorIndex>)>,
    held: BTreeMap<(u64, ValidatorIndex), Held>,
    seen: BTreeMap<(u64, ValidatorIndex), Vec<(BlockId, SignedHeader)>>,
    /// The heaviest known block, complete or not: where a new question for blocks begins.
    tip: BlockId,
    /// The last block of the last answer: where the next question begins while answers bring something new. (A branch
    /// that is lighter than the tip until its last blocks are here would be asked for from its fork again and again.)
    resume: Option<BlockId>,
    /// How high the answers of this conversation have reached.
    reached: u64,
    /// Whether fork choice may have something to do.
    changed: bool,
    finality: Decided,
    /// Blocks that the open decision is about.
    proposed: BTreeSet<BlockId>,
    mutation: Mutation,
}

impl Replica {
    pub(crate) fn new(chain: Chain, batches: BatchIndex, me: Option<ValidatorIndex>, mutation: Mutation) -> Self {
        let tip = chain.head();
        Self {
            chain,
            batches,
            peers: Peers::default(),
            me,
            fetcher: Fetcher::default(),
            block_sync: BlockSync::default(),
            orphans: BTreeMap::new(),
            held: BTreeMap::new(),
            seen: BTreeMap::new(),
            tip,
            resume: None,
            reached: 0,
            changed: true,
            finality: Decided::default(),
            proposed: BTreeSet::new(),
            mutation,
        }
    }

    /// Takes a block off the wire.
    pub(crate) fn receive_block(
        &mut self,
        now: Millis,
        from: Option<ValidatorIndex>,
        block: Arc<Block>,
        out: &mut Vec<Effect>,
    ) {
        let id = block.id(&self.chain.genesis_id());
        if self.knows(&id) {
            return;
        }
        if let Err(error) = self.chain.check_header(&block) {
            return report(from, error, out);
        }
        if self.begins(block.header.slot) > now.0 + CLOCK_TOLERANCE_MS && !self.mutation.is(Mutant::NoHold) {
            return self.hold(id, block, from, out);
        }
        self.take(now, from, id, block, out);
    }

    /// Keeps a block until its slot begins: one of each proposer and slot, the nearest slots if there are too many.
    fn hold(&mut self, id: BlockId, block: Arc<Block>, from: Option<ValidatorIndex>, out: &mut Vec<Effect>) {
        let (slot, proposer) = (block.header.slot, block.header.proposer);
        let second = block.signed_header();
        let first = self.held.entry((slot, proposer)).or_insert(Held { id, block, from });
        if first.id != id {
            let headers = Box::new([first.block.signed_header(), second]);
            out.push(Effect::Event(Event::Equivocation { proposer, slot, first: first.id, second: id, headers }));
        }
        if self.held.len() > HELD_MAX {
            self.held.pop_last();
        }
    }

    /// Takes a checked block whose slot has begun. Of a proposer that signs many blocks for one slot only the first
    /// few are taken, and those that something already here builds on or a decision is about.
    fn take(
        &mut self,
        now: Millis,
        from: Option<ValidatorIndex>,
        id: BlockId,
        block: Arc<Block>,
        out: &mut Vec<Effect>,
    ) {
        let twins = self.note_proposal(id, &block, out);
        let built_on = || self.orphans.values().any(|(orphan, _)| orphan.header.parent == id);
        let decided = || self.finality.pending.as_ref().is_some_and(|(pending, _)| pending.block.id == id);
        let awaited = || built_on() || decided() || self.proposed.contains(&id);
        if twins <= BLOCKS_PER_SLOT_MAX || awaited() {
            self.place(now, from, id, block, out);
        }
    }

    /// Whether the block is in the tree or waits for its parent.
    pub(crate) fn knows(&self, id: &BlockId) -> bool {
        self.chain.tree().contains(id) || self.orphans.contains_key(id)
    }

    fn begins(&self, slot: u64) -> u64 {
        self.chain.genesis().slot_time_ms(slot)
    }

    /// Remembers who proposed what in a slot; two blocks of one proposer are evidence. Returns how many there are now.
    pub(crate) fn note_proposal(&mut self, id: BlockId, block: &Block, out: &mut Vec<Effect>) -> usize {
        let (slot, proposer) = (block.header.slot, block.header.proposer);
        let oldest = self.chain.head_node().slot.saturating_sub(SEEN_SLOTS);
        self.seen = self.seen.split_off(&(oldest, ValidatorIndex(0)));
        let blocks = self.seen.entry((slot, proposer)).or_default();
        if blocks.iter().all(|(seen, _)| *seen != id) {
            if let Some((first, header)) = blocks.first() {
                let headers = Box::new([*header, block.signed_header()]);
                out.push(Effect::Event(Event::Equivocation { proposer, slot, first: *first, second: id, headers }));
            }
            if blocks.len() <= BLOCKS_PER_SLOT_MAX {
                blocks.push((id, block.signed_header()));
            }
        }
        blocks.len()
    }

    /// Proposers whose blocks of this slot were seen.
    pub(crate) fn seen_proposers(&self, slot: u64) -> impl Iterator<Item = ValidatorIndex> + '_ {
        let range = (slot, ValidatorIndex(0))..=(slot, ValidatorIndex(u16::MAX));
        self.seen.range(range).map(|((_, proposer), _)| *proposer)
    }

    /// Puts a checked block into the tree, and the orphans that waited for it.
    fn place(
        &mut self,
        now: Millis,
        from: Option<ValidatorIndex>,
        id: BlockId,
        block: Arc<Block>,
        out: &mut Vec<Effect>,
    ) {
        let mut ready = vec![(id, block, from)];
        while let Some((id, block, from)) = ready.pop() {
            let parent = block.header.parent;
            // What is not above the last final block, and not below it, is beside it. (While a decision's block is missing,
            // what comes may lead there, and show that two decisions contradict each other.)
            let settled = self.finality.pending.is_none() && !self.mutation.is(Mutant::IgnoreFinality);
            if settled && block.header.height <= self.chain.root().height {
                self.drop_orphans_on(id);
                continue;
            }
            let has_room = self.make_room_for(&parent);
            if !self.chain.tree().contains(&parent) {
                self.adopt_orphan(now, from, id, block, out);
                continue;
            }
            if !has_room {
                report(from, "too many side blocks", out);
                continue;
            }
            // Whoever sent it has not heard what is final, and is told when it says where it stands.
            if settled && !self.chain.descends_from_root(&parent) {
                self.drop_orphans_on(id);
                continue;
            }
            match self.chain.insert(id, block, &self.batches) {
                Ok(missing) => {
                    self.changed = true;
                    missing.into_iter().for_each(|digest| self.fetcher.want(digest));
                }
                Err(error) => {
                    report(from, error, out);
                    continue;
                }
            }
            if self.chain.tree().expect(&id).weight > self.tip_weight() && self.chain.descends_from_root(&id) {
                self.tip = id;
            }
            let children: Vec<BlockId> =
                self.orphans.iter().filter(|(_, (orphan, _))| orphan.header.parent == id).map(|(id, _)| *id).collect();
            for child in children {
                let (block, from) = self.orphans.remove(&child).expect("listed just now");
                ready.push((child, block, from));
            }
        }
    }

    /// Drops the orphans that build on a block which will never be taken.
    fn drop_orphans_on(&mut self, id: BlockId) {
        let mut dropped = vec![id];
        while let Some(below) = dropped.pop() {
            self.orphans.retain(|id, (orphan, _)| {
                let builds_on_it = orphan.header.parent == below;
                if builds_on_it {
                    dropped.push(*id);
                }
                !builds_on_it
            });
        }
    }

    /// Whether a block on `parent` may be added. Where there are too many side blocks, those that can never matter go
    /// first; and the heaviest chain on offer may always grow, or this node could never follow it.
    fn make_room_for(&mut self, parent: &BlockId) -> bool {
        if self.chain.tree().side_blocks() < SIDE_BLOCKS_MAX {
            return true;
        }
        self.chain.prune();
        let tree = self.chain.tree();
        self.resume = self.resume.filter(|id| tree.contains(id));
        if !tree.contains(&self.tip) {
            self.tip = tree.head();
        }
        self.chain.tree().side_blocks() < SIDE_BLOCKS_MAX || *parent == self.tip || *parent == self.chain.head()
    }

    fn tip_weight(&self) -> u128 {
        self.chain.tree().node(&self.tip).map_or(0, |node| node.weight)
    }

    fn adopt_orphan(
        &mut self,
        now: Millis,
        from: Option<ValidatorIndex>,
        id: BlockId,
        block: Arc<Block>,
        out: &mut Vec<Effect>,
    ) {
        let parent = block.header.parent;
        if self.orphans.len() >= ORPHANS_MAX {
            // Those of the oldest slots give way: what is missing under them was asked for in vain for longest.
            let oldest = self.orphans.iter().min_by_key(|(_, (orphan, _))| orphan.header.slot);
            let (oldest, slot) = oldest.map(|(id, (orphan, _))| (*id, orphan.header.slot)).expect("it is full");
            if block.header.slot <= slot {
                return;
            }
            self.orphans.remove(&oldest);
        }
        self.orphans.insert(id, (block, from));
        if let Some(peer) = from.filter(|_| !self.orphans.contains_key(&parent))
            && self.block_sync.ask_ancestors(parent, now).is_some()
        {
            let known_height = self.chain.head_node().height;
            out.push(send(peer, Message::FetchAncestors { id: parent, known_height }));
        }
    }

    /// Asks for a block that a decision is about, or for the lowest missing one under it: first whoever should have it, and
    /// then, as time goes on, everyone in turn.
    pub(crate) fn seek(&mut self, now: Millis, id: BlockId, first: Option<ValidatorIndex>, out: &mut Vec<Effect>) {
        if self.chain.tree().contains(&id) || self.orphans.len() >= ORPHANS_MAX {
            return;
        }
        let mut missing = id;
        while let Some((orphan, _)) = self.orphans.get(&missing) {
            missing = orphan.header.parent;
        }
        let mut peers = self.peers.reachable(now);
        if self.chain.tree().contains(&missing) || peers.is_empty() {
            return;
        }
        if let Some(place) = peers.iter().position(|peer| Some(*peer) == first) {
            peers.swap(0, place);
        }
        if let Some(asked_before) = self.block_sync.ask_ancestors(missing, now) {
            let peer = peers[asked_before as usize % peers.len()];
            let known_height = self.chain.root().height;
            out.push(send(peer, Message::FetchAncestors { id: missing, known_height }));
        }
    }

    /// What the open decision is about: these blocks are taken however many their proposers signed, and what stands on the
    /// preferred one is preferred.
    pub(crate) fn follow_decision(&mut self, proposed: BTreeSet<BlockId>, preferred: Option<BlockId>) {
        self.proposed = proposed;
        self.changed |= self.chain.prefer(preferred);
    }

    /// Takes the answer to a question for blocks.
    pub(crate) fn receive_blocks(
        &mut self,
        now: Millis,
        from: ValidatorIndex,
        blocks: Vec<Arc<Block>>,
        out: &mut Vec<Effect>,
    ) {
        let last = blocks.last().map(|block| block.id(&self.chain.genesis_id()));
        for block in blocks {
            self.receive_block(now, Some(from), block, out);
        }
        let height = last.and_then(|last| self.chain.tree().node(&last)).map_or(0, |node| node.height);
        let risen = last.filter(|_| height > self.reached);
        // An answer that leads nowhere leaves the question open: it is asked again after its timeout.
        if risen.is_some() && self.block_sync.answered(from) {
            self.resume = risen;
            self.reached = height;
            self.ask_blocks(now, out);
        }
    }

    /// Stores a verified batch. False if it is stored already.
    pub(crate) fn store_batch(&mut self, now: Millis, batch: VerifiedBatch, out: &mut Vec<Effect>) -> bool {
        let digest = batch.digest();
        if !self.batches.insert(&batch, self.me) {
            return false;
        }
        self.fetcher.done(&digest, now);
        self.changed |= self.chain.batch_arrived(&digest);
        if self.me.is_some() {
            out.push(Effect::Publish(Message::Batch(batch.clone())));
        }
        out.push(Effect::Append(Record::Batch(batch)));
        true
    }

    pub(crate) fn peer_connected(&mut self, peer: ValidatorIndex) {
        self.peers.connected(peer);
        self.fetcher.peer_connected();
    }

    /// A peer says that it has a batch.
    pub(crate) fn batch_announced(&mut self, digest: &zeni_ledger::BatchDigest) {
        self.fetcher.announced(digest);
    }

    /// Wants a batch that waits in a peer's pool.
    pub(crate) fn want_offered(&mut self, digest: zeni_ledger::BatchDigest, peer: ValidatorIndex) {
        if !self.batches.contains(&digest) {
            self.fetcher.want_offered(digest, peer);
        }
    }

    /// `peer` has not got these batches.
    pub(crate) fn batches_missing(&mut self, peer: ValidatorIndex, digests: &[zeni_ledger::BatchDigest]) {
        for digest in digests {
            self.fetcher.missing_at(digest, peer);
        }
    }

    /// Follows fork choice and turns what changed into effects.
    pub(crate) fn advance(
        &mut self,
        archive: &dyn Archive,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Arc<ChainChange>>, HaltReason> {
        if !std::mem::take(&mut self.changed) {
            return Ok(None);
        }
        let change = self.chain.advance(&mut self.batches, archive)?;
        self.changed = change.unfinished;
        self.check_final(&change)?;
        if change.is_empty() {
            return Ok(None);
        }
        for id in &change.invalid {
            let proposer = self.chain.tree().body(id).map(|block| block.header.proposer);
            let proposer = proposer.expect("a block that was executed has a body");
            out.push(Effect::Event(Event::InvalidBlock { block: *id, proposer }));
        }
        if change.invalid.contains(&self.tip) || self.tip_weight() < self.chain.head_node().weight {
            self.tip = self.chain.head();
        }
        Ok(Some(self.publish(change, out)))
    }

    /// Keeps the stored blocks under which one is lost until it is fetched: nobody else may have them. The lowest, if there
    /// are too many.
    pub(crate) fn restore_loose(&mut self, loose: Vec<(BlockId, Arc<Block>)>) {
        let mut loose = loose;
        loose.sort_by_key(|(id, block)| (block.header.height, *id));
        self.orphans.extend(loose.into_iter().take(ORPHANS_MAX).map(|(id, block)| (id, (block, None))));
    }

    /// The effects of a change of the canonical chain.
    pub(crate) fn publish(&self, change: ChainChange, out: &mut Vec<Effect>) -> Arc<ChainChange> {
        for applied in &change.applied {
            if applied.fresh {
                out.push(Effect::Append(Record::Block(applied.block.clone())));
            }
            let height = applied.block.header.height;
            out.push(Effect::AppendUndo { block: applied.id, height, undo: applied.undo.clone() });
            if self.me.is_some() {
                out.push(Effect::Publish(Message::Block(applied.block.clone())));
            }
        }
        let change = Arc::new(change);
        if !(change.undone.is_empty() && change.applied.is_empty()) {
            out.push(Effect::Event(Event::Chain(change.clone())));
        }
        change
    }

    /// Takes held blocks whose slot has come.
    pub(crate) fn release_held(&mut self, now: Millis, out: &mut Vec<Effect>) {
        while let Some((key, _)) = self.held.first_key_value() {
            let key = *key;
            if self.begins(key.0) > now.0 + CLOCK_TOLERANCE_MS {
                break;
            }
            let Held { id, block, from } = self.held.remove(&key).expect("the first one is there");
            self.take(now, from, id, block, out);
        }
    }

    /// Asks for what is missing.
    pub(crate) fn drive(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.ask_blocks(now, out);
        if self.fetcher.len() < WANTED_MAX.min(self.chain.tree().awaited_len()) / 2 + 1 {
            let awaited: Vec<_> = self.chain.tree().awaited().take(WANTED_MAX).collect();
            awaited.into_iter().for_each(|digest| self.fetcher.want(digest));
        }
        for (peer, digests) in self.fetcher.questions(now, &self.peers) {
            out.push(send(peer, Message::FetchBatches(digests)));
        }
    }

    /// Asks the peer with the heaviest unknown head for the blocks up to there.
    fn ask_blocks(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if self.changed && self.chain.tree().side_blocks() >= SYNC_AHEAD_MAX {
            return;
        }
        let reachable = self.peers.reachable(now);
        let offers = reachable.iter().filter_map(|peer| self.peers.status(*peer).map(|status| (*peer, status)));
        let unknown = offers.filter(|(_, status)| self.is_wanted(status));
        let choice = unknown
            .max_by_key(|(peer, status)| (!self.block_sync.is_last_choice(*peer, now), status.decision, status.weight));
        let Some((peer, _)) = choice else {
            self.resume = None;
            return;
        };
        if self.block_sync.ask(peer, now) {
            if self.tip_weight() < self.chain.head_node().weight {
                self.tip = self.chain.head();
            }
            let from = self.resume.take().unwrap_or_else(|| {
                self.reached = 0;
                self.tip
            });
            let locator = self.chain.tree().locator(from, LOCATOR_MAX);
            out.push(send(peer, Message::FetchBlocks { locator }));
        }
    }

    /// Whether a status offers a chain that fork choice might prefer and whose head is not here.
    fn is_wanted(&self, status: &Status) -> bool {
        let matters = status.weight >= self.chain.head_node().weight || status.decision > self.decision();
        matters && !self.chain.tree().contains(&status.head)
    }

    /// Whether the last [`Self::advance`] left something to execute.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.changed
    }

    /// Whether everything that live peers offer is executed here, lighter, or false.
    pub(crate) fn is_in_sync(&self, now: Millis) -> bool {
        self.has_executed_final() && self.ahead(now).next().is_none()
    }

    /// Live peers that offer a later decision or a heavier chain than is executed here.
    pub(crate) fn ahead(&self, now: Millis) -> impl Iterator<Item = ValidatorIndex> + '_ {
        let (weight, decision) = (self.chain.head_node().weight, self.decision());
        let heavier = move |status: &Status| status.weight > weight && !self.chain.is_settled(&status.head);
        let told = self.peers.live_statuses(now);
        told.filter(move |status| status.decision > decision || heavier(status)).map(|status| status.validator)
    }

    /// When [`Self::release_held`] or [`Self::drive`] has something to do again, if nothing else happens.
    pub(crate) fn next_wake(&self) -> Option<Millis> {
        let held = self.held.keys().next();
        let release = held.map(|(slot, _)| Millis(self.begins(*slot).saturating_sub(CLOCK_TOLERANCE_MS)));
        release.into_iter().chain(self.fetcher.next_deadline()).min()
    }
}

fn report(from: Option<ValidatorIndex>, what: impl Into<Fault>, out: &mut Vec<Effect>) {
    if let Some(validator) = from {
        out.push(Effect::Event(Event::Misbehaviour { peer: Peer::Validator(validator), what: what.into().0 }));
    }
}

struct Fault(&'static str);

impl From<&'static str> for Fault {
    fn from(what: &'static str) -> Self {
        Self(what)
    }
}

impl From<HeaderError> for Fault {
    fn from(error: HeaderError) -> Self {
        Self(match error {
            HeaderError::UnknownProposer => "unknown proposer",
            HeaderError::WrongRank => "wrong rank",
            HeaderError::TooManyBatches => "too many batches",
            HeaderError::NotAboveParent => "not above its parent",
            HeaderError::BadSignature => "bad block signature",
        })
    }
}

/// A message to one validator.
pub(crate) fn send(to: ValidatorIndex, message: Message) -> Effect {
    Effect::Send { to: Peer::Validator(to), message }
}
