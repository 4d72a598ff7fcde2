//! Follows the canonical chain of one node at a time, and writes into the book what it lists.
//!
//! It executes nothing: it trusts the node that it follows for what is canonical, and leaves judging roots to the
//! audit and to `node verify`. Blocks may arrive before their batches, from another chain after a reorganisation, or
//! not at all when the node dies; then it asks, and after a reconnection it goes on with whichever node answers. A chain
//! that does not hold what a certificate made final is nobody's: it is not followed, whoever tells it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use zeni_consensus::message::{FETCH_BATCHES_MAX, LOCATOR_MAX, Message};
use zeni_ledger::{Batch, BatchDigest, Block, BlockId, FinalBlock, Genesis, GenesisId, StateRoot, TransactionId};

use crate::book::{Book, Tick};
use crate::plan::Plan;

/// How long an unanswered question waits until it is asked again, in ticks (a second).
const ASK_AGAIN: u32 = 100_000;
/// Batches that are asked for at a time.
const ASKED_MAX: usize = 4 * FETCH_BATCHES_MAX;
/// Final blocks that wait for the tracked chain to reach them, at most: the lowest gives way, for a higher one makes it
/// final too.
const AWAITED_MAX: usize = 1_024;

/// A canonical block as the storm sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: BlockId,
    pub height: u64,
    pub slot: u64,
    pub proposer: u16,
    pub rank: u16,
    pub state_root: StateRoot,
    digests: Vec<BatchDigest>,
    /// Payments that used a sequence, as the header says.
    pub receipts: u64,
    /// All payments of its batches.
    pub payments: u64,
    /// Payments of the storm that no earlier block of the chain lists.
    pub ours: u64,
    /// When the tracker first heard of it.
    pub seen: Tick,
    /// When it was known to be final.
    pub finalised: Option<Tick>,
    applied: bool,
}

/// What a batch holds, as far as the storm cares.
#[derive(Debug)]
struct Contents {
    /// Indices of the storm's payments.
    ours: Box<[u32]>,
    /// Payments in all.
    payments: u32,
    /// Ids of watched payments, in their order.
    watched: Box<[TransactionId]>,
}

impl Listed {
    /// Genesis, where the chain begins.
    pub(crate) fn genesis(id: BlockId) -> Self {
        Self {
            id,
            height: 0,
            slot: 0,
            proposer: 0,
            rank: 0,
            state_root: StateRoot::default(),
            digests: Vec::new(),
            receipts: 0,
            payments: 0,
            ours: 0,
            seen: Tick(0),
            finalised: None,
            applied: true,
        }
    }
}

/// The follower of the chain.
#[derive(Debug)]
pub struct Tracker {
    plan: Plan,
    genesis: GenesisId,
    book: Arc<Book>,
    /// The canonical chain as far as it is known, genesis first.
    chain: Vec<Listed>,
    heights: HashMap<BlockId, usize>,
    batches: HashMap<BatchDigest, Contents>,
    /// Payments besides the storm's own whose places in the chain are wanted.
    watched: HashSet<TransactionId>,
    /// Place of the highest block of the chain that is final and written into the book.
    root: usize,
    /// Final blocks above the root by height, and when they were told.
    awaited: BTreeMap<u64, (BlockId, Tick)>,
    /// The followed node told a chain that does not hold what is final.
    beside: bool,
    asked_batches: HashMap<BatchDigest, Tick>,
    asked_blocks: Option<Tick>,
    best_height: u64,
    undone: u64,
    foreign: u64,
}

impl Tracker {
    pub fn new(plan: Plan, genesis: &Genesis, book: Arc<Book>) -> Self {
        let id = genesis.block_id();
        Self {
            plan,
            genesis: genesis.id(),
            book,
            chain: vec![Listed::genesis(id)],
            heights: [(id, 0)].into(),
            batches: HashMap::new(),
            watched: HashSet::new(),
            root: 0,
            awaited: BTreeMap::new(),
            beside: false,
            asked_batches: HashMap::new(),
            asked_blocks: None,
            best_height: 0,
            undone: 0,
            foreign: 0,
        }
    }

    /// The canonical chain without genesis, rising.
    pub fn blocks(&self) -> &[Listed] {
        &self.chain[1..]
    }

    /// The last block whose payments are all in the book, or genesis.
    pub fn head(&self) -> &Listed {
        let applied = self.chain.partition_point(|block| block.applied);
        &self.chain[applied - 1]
    }

    /// The last final block that the tracked chain holds, or genesis.
    pub fn root(&self) -> &Listed {
        &self.chain[self.root]
    }

    /// Wants to know where these payments are listed. To be called before any batch that holds one is heard.
    pub fn watch(&mut self, ids: impl IntoIterator<Item = TransactionId>) {
        self.watched.extend(ids);
    }

    /// Watched payments in the order in which final blocks list them: the first of two with one sequence wins.
    pub fn watched_final(&self) -> Vec<TransactionId> {
        let digests = self.chain[..=self.root].iter().flat_map(|block| &block.digests);
        digests.flat_map(|digest| self.batches[digest].watched.iter().copied()).collect()
    }

    /// Whether the followed node told a chain that does not hold what is final since this was asked last.
    pub fn stood_beside(&mut self) -> bool {
        std::mem::take(&mut self.beside)
    }

    /// A certificate says that a block and all below it are final.
    pub fn on_final(&mut self, block: FinalBlock, now: Tick) {
        if block.height > self.root().height {
            self.awaited.entry(block.height).or_insert((block.id, now));
        }
        if self.awaited.len() > AWAITED_MAX {
            self.awaited.pop_first();
        }
        self.finalise();
    }

    /// The greatest height that the followed nodes told.
    pub fn best_height(&self) -> u64 {
        self.best_height
    }

    /// Blocks that were taken back.
    pub fn undone(&self) -> u64 {
        self.undone
    }

    /// Payments in batches that are not of this storm.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// A connection to another node stands: everything is asked anew.
    pub fn connected(&mut self, now: Tick) -> Vec<Message<Batch>> {
        self.asked_batches.clear();
        self.asked_blocks = None;
        let mut asks = self.ask_blocks(now);
        asks.extend(self.apply(now));
        asks
    }

    /// Takes a message of the followed node and says what to ask it.
    pub fn on_message(&mut self, message: Message<Batch>, now: Tick) -> Vec<Message<Batch>> {
        match message {
            Message::Status(status) => {
                self.best_height = self.best_height.max(status.height);
                let behind = status.height > self.chain.len() as u64;
                if behind { self.ask_blocks(now) } else { Vec::new() }
            }
            Message::Batch(batch) => {
                self.keep(&batch);
                self.apply(now)
            }
            Message::Block(block) => {
                let connected = self.extend(&block, now);
                let mut asks = if connected { Vec::new() } else { self.ask_blocks(now) };
                asks.extend(self.apply(now));
                asks
            }
            Message::Blocks(blocks) => {
                self.asked_blocks = None;
                let before = self.chain.len();
                let known = self.chain[before - 1].id;
                let all = blocks.iter().all(|block| self.extend(block, now));
                let moved = self.chain.last().is_some_and(|head| head.id != known);
                let mut asks = if all && moved { self.ask_blocks(now) } else { Vec::new() };
                asks.extend(self.apply(now));
                asks
            }
            Message::Missing(digests) => {
                // Another answer may come; until then these wait for the next round of questions.
                for digest in &digests {
                    self.asked_batches.insert(*digest, now);
                }
                Vec::new()
            }
            Message::Stored(_)
            | Message::Pool(_)
            | Message::Draft { .. }
            | Message::FetchBlocks { .. }
            | Message::FetchAncestors { .. }
            | Message::FetchBatches(_)
            | Message::Finality(_)
            | Message::Evidence(_) => Vec::new(),
        }
    }

    /// Time passed: unanswered questions are asked again.
    pub fn on_tick(&mut self, now: Tick) -> Vec<Message<Batch>> {
        let waits = |asked: Tick| now.0.saturating_sub(asked.0) < ASK_AGAIN;
        self.asked_batches.retain(|_, asked| waits(*asked));
        let behind = self.best_height >= self.chain.len() as u64;
        if self.asked_blocks.is_some_and(|asked| !waits(asked)) {
            self.asked_blocks = None;
        }
        if behind {
            let mut asks = self.ask_blocks(now);
            asks.extend(self.apply(now));
            return asks;
        }
        self.apply(now)
    }

    /// Puts a block on the chain, after taking back what its branch does not hold. False if its parent is unknown. One
    /// beside what is final is left out.
    fn extend(&mut self, block: &Block, now: Tick) -> bool {
        let id = block.id(&self.genesis);
        if self.heights.contains_key(&id) {
            return true;
        }
        let Some(parent) = self.heights.get(&block.header.parent).copied() else { return false };
        if parent < self.root {
            self.beside = true;
            return true;
        }
        self.take_back(parent + 1);
        let header = &block.header;
        self.best_height = self.best_height.max(header.height);
        self.heights.insert(id, self.chain.len());
        self.chain.push(Listed {
            id,
            height: header.height,
            slot: header.slot,
            proposer: header.proposer.0,
            rank: header.rank,
            state_root: header.state_root,
            digests: block.digests.clone(),
            receipts: header.receipts.into(),
            payments: 0,
            ours: 0,
            seen: now,
            finalised: None,
            applied: false,
        });
        true
    }

    fn take_back(&mut self, keep: usize) {
        for block in self.chain.drain(keep..).rev() {
            self.heights.remove(&block.id);
            self.undone += 1;
            if !block.applied {
                continue;
            }
            for digest in &block.digests {
                let contents = self.batches.get(digest).expect("an applied block's batches are kept");
                contents.ours.iter().for_each(|index| self.book.exclude(u64::from(*index)));
            }
        }
    }

    fn keep(&mut self, batch: &Batch) {
        let digest = batch.digest(&self.genesis);
        self.asked_batches.remove(&digest);
        if self.batches.contains_key(&digest) {
            return;
        }
        let (mut ours, mut watched) = (Vec::with_capacity(batch.payments.len()), Vec::new());
        for payment in &batch.payments {
            if let Some(index) = self.plan.index_of(payment) {
                ours.push(u32::try_from(index).expect("a storm has fewer than 2^32 payments"));
            } else if !self.watched.is_empty() {
                watched.push(payment.id(&self.genesis));
            }
        }
        watched.retain(|id| self.watched.contains(id));
        let payments = batch.payments.len() as u32;
        self.foreign += u64::from(payments) - ours.len() as u64;
        self.batches.insert(digest, Contents { ours: ours.into(), payments, watched: watched.into() });
    }

    /// Writes blocks into the book as far as their batches are here, in order, and asks for those that are not.
    fn apply(&mut self, now: Tick) -> Vec<Message<Batch>> {
        let mut place = self.chain.partition_point(|block| block.applied);
        while place < self.chain.len() && self.apply_one(place) {
            place += 1;
        }
        self.finalise();
        self.ask_batches(place, now)
    }

    /// Moves the root up to the highest final block that is written into the book, and writes there what that makes final.
    fn finalise(&mut self) {
        let written = self.chain.partition_point(|block| block.applied);
        let reached = self.awaited.values().rev().find_map(|(id, told)| {
            let place = *self.heights.get(id)?;
            (place < written).then_some((place, *told))
        });
        let Some((root, told)) = reached else { return };
        for block in &mut self.chain[self.root + 1..=root] {
            // A chain that is heard late shows the block later than its certificate.
            let at = told.max(block.seen);
            block.finalised = Some(at);
            for digest in &block.digests {
                self.batches[digest].ours.iter().for_each(|index| self.book.finalise(u64::from(*index), at));
            }
        }
        self.root = root;
        let height = self.chain[root].height;
        self.awaited.retain(|awaited, _| *awaited > height);
    }

    fn apply_one(&mut self, place: usize) -> bool {
        let block = &mut self.chain[place];
        if !block.digests.iter().all(|digest| self.batches.contains_key(digest)) {
            return false;
        }
        for digest in &block.digests {
            let contents = &self.batches[digest];
            block.payments += u64::from(contents.payments);
            for index in &contents.ours {
                block.ours += u64::from(self.book.include(u64::from(*index), block.seen));
            }
        }
        block.applied = true;
        true
    }

    fn ask_batches(&mut self, from: usize, now: Tick) -> Vec<Message<Batch>> {
        let mut missing = Vec::new();
        let wanted = self.chain[from..].iter().flat_map(|block| &block.digests);
        for digest in wanted {
            if self.asked_batches.len() == ASKED_MAX {
                break;
            }
            if !self.batches.contains_key(digest) && !self.asked_batches.contains_key(digest) {
                self.asked_batches.insert(*digest, now);
                missing.push(*digest);
            }
        }
        missing.chunks(FETCH_BATCHES_MAX).map(|digests| Message::FetchBatches(digests.to_vec())).collect()
    }

    fn ask_blocks(&mut self, now: Tick) -> Vec<Message<Batch>> {
        if self.asked_blocks.is_some() {
            return Vec::new();
        }
        self.asked_blocks = Some(now);
        vec![Message::FetchBlocks { locator: self.locator() }]
    }

    /// Ids from the head down with doubling steps, genesis last.
    fn locator(&self) -> Vec<BlockId> {
        let mut locator = Vec::new();
        let (mut place, mut step) = (self.chain.len() - 1, 1);
        while place > 0 && locator.len() < LOCATOR_MAX - 1 {
            locator.push(self.chain[place].id);
            place = place.saturating_sub(step);
            step = if locator.len() < 8 { 1 } else { step * 2 };
        }
        locator.push(self.chain[0].id);
        locator
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::{Parameters, prepare};
    use zeni_consensus::{Mode, Status};
    use zeni_ledger::block::transactions_root;
    use zeni_ledger::payment::PaymentBody;
    use zeni_ledger::{BlockHeader, ReceiptsRoot, ValidatorIndex};

    /// A storm of 40 payments, cut into 8 batches of 5, and a tracker of it.
    struct Scene {
        tracker: Tracker,
        batches: Vec<Batch>,
        genesis: Genesis,
        key: ed25519_dalek::SigningKey,
    }

    fn scene() -> Scene {
        let root = tempfile::tempdir().unwrap();
        let parameters = Parameters { accounts: 40, ..Parameters::small(3) };
        let prepared = prepare(root.path(), &parameters, 1_760_000_000_000).unwrap();
        let bytes = std::fs::read(prepared.payments_file()).unwrap();
        let payments = zeni_ledger::Payment::slice_from_bytes(&bytes).unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let batches = (payments.chunks(5).enumerate())
            .map(|(number, payments)| {
                let author = ValidatorIndex(0);
                Batch::sign(author, number as u64, payments.to_vec(), &key, &prepared.genesis_id)
            })
            .collect();
        let tracker = Tracker::new(prepared.plan(), &prepared.genesis, Arc::new(Book::new(40)));
        Scene { tracker, batches, genesis: prepared.genesis, key }
    }

    impl Scene {
        /// A block that lists the batches with these numbers. `salt` tells blocks of one place apart.
        fn block(&self, parent: Option<&Arc<Block>>, numbers: &[usize], salt: u8) -> Arc<Block> {
            let id = self.genesis.id();
            let digests: Vec<BatchDigest> = numbers.iter().map(|number| self.batches[*number].digest(&id)).collect();
            let (height, slot, parent) = match parent {
                Some(parent) => (parent.header.height + 1, parent.header.slot + 1, parent.id(&id)),
                None => (1, 100, self.genesis.block_id()),
            };
            let header = BlockHeader {
                proposer: ValidatorIndex(0),
                rank: 0,
                height,
                slot,
                parent,
                transactions_root: transactions_root(&digests),
                state_root: StateRoot([salt; 32]),
                receipts_root: ReceiptsRoot([salt; 32]),
                receipts: 5 * numbers.len() as u32,
            };
            Arc::new(Block::sign(header, digests, &self.key, &id))
        }

        fn push(&mut self, numbers: &[usize]) {
            for number in numbers {
                let batch = self.batches[*number].clone();
                self.tracker.on_message(Message::Batch(batch), Tick(0));
            }
        }

        fn listed(&self) -> u64 {
            self.tracker.book.tally().included
        }
    }

    fn asks_for_batches(asks: &[Message<Batch>]) -> usize {
        asks.iter().map(|ask| if let Message::FetchBatches(digests) = ask { digests.len() } else { 0 }).sum()
    }

    fn asks_for_blocks(asks: &[Message<Batch>]) -> bool {
        asks.iter().any(|ask| matches!(ask, Message::FetchBlocks { .. }))
    }

    #[test]
    fn a_block_after_its_batches_is_listed_with_the_moment_of_its_arrival() {
        let mut scene = scene();
        scene.push(&[0, 1]);
        let block = scene.block(None, &[0, 1], 0);
        assert_eq!(scene.tracker.on_message(Message::Block(block), Tick(77)), []);
        assert_eq!(scene.listed(), 10);
        assert_eq!(scene.tracker.book.included(9), Some(Tick(77)));
        assert_eq!((scene.tracker.head().height, scene.tracker.blocks()[0].ours), (1, 10));
    }

    #[test]
    fn a_block_before_its_batches_waits_for_them_and_keeps_its_moment() {
        let mut scene = scene();
        let first = scene.block(None, &[0, 1], 0);
        let second = scene.block(Some(&first), &[2], 0);
        let asks = scene.tracker.on_message(Message::Block(first), Tick(10));
        assert_eq!(asks_for_batches(&asks), 2);
        scene.push(&[2]);
        scene.tracker.on_message(Message::Block(second), Tick(20));
        assert_eq!((scene.listed(), scene.tracker.head().height), (0, 0));
        scene.push(&[0, 1]);
        assert_eq!((scene.listed(), scene.tracker.head().height), (15, 2));
        assert_eq!(scene.tracker.book.included(0), Some(Tick(10)));
    }

    #[test]
    fn a_reorganisation_takes_payments_back_and_lists_them_again() {
        let mut scene = scene();
        scene.push(&[0, 1, 2, 3]);
        let base = scene.block(None, &[0], 0);
        let old = scene.block(Some(&base), &[1, 2], 1);
        let new = scene.block(Some(&base), &[3, 1], 2);
        for block in [base, old] {
            scene.tracker.on_message(Message::Block(block), Tick(1));
        }
        assert_eq!(scene.listed(), 15);
        scene.tracker.on_message(Message::Block(new), Tick(2));
        assert_eq!((scene.listed(), scene.tracker.undone()), (15, 1));
        assert_eq!((scene.tracker.book.included(10), scene.tracker.book.included(5)), (None, Some(Tick(2))));
        assert_eq!(scene.tracker.book.tally().listed_again, 0);
    }

    #[test]
    fn a_branch_further_back_takes_back_as_many_blocks() {
        let mut scene = scene();
        scene.push(&[0, 1, 2, 3, 4, 5]);
        let base = scene.block(None, &[0], 0);
        let old = scene.block(Some(&base), &[1], 1);
        let older = scene.block(Some(&old), &[2], 1);
        for block in [&base, &old, &older] {
            scene.tracker.on_message(Message::Block(Arc::clone(block)), Tick(1));
        }
        let new = scene.block(Some(&base), &[3], 2);
        let newer = scene.block(Some(&new), &[4, 1, 2], 2);
        scene.tracker.on_message(Message::Blocks(vec![base, new, newer]), Tick(5));
        assert_eq!((scene.listed(), scene.tracker.undone(), scene.tracker.head().height), (25, 2, 3));
        assert_eq!((scene.tracker.blocks()[1].ours, scene.tracker.blocks()[2].ours), (5, 15));
    }

    #[test]
    fn a_block_that_comes_again_changes_nothing() {
        let mut scene = scene();
        scene.push(&[0, 1]);
        let first = scene.block(None, &[0], 0);
        let second = scene.block(Some(&first), &[1], 0);
        for block in [&first, &second, &first, &second] {
            scene.tracker.on_message(Message::Block(Arc::clone(block)), Tick(1));
        }
        assert_eq!((scene.listed(), scene.tracker.undone(), scene.tracker.blocks().len()), (10, 0, 2));
    }

    #[test]
    fn a_payment_in_two_batches_of_one_chain_is_counted_once() {
        let mut scene = scene();
        let again =
            Batch::sign(ValidatorIndex(1), 9, scene.batches[0].payments.clone(), &scene.key, &scene.genesis.id());
        scene.batches.push(again);
        scene.push(&[0, 8]);
        let first = scene.block(None, &[0], 0);
        let second = scene.block(Some(&first), &[8], 0);
        for block in [first, second] {
            scene.tracker.on_message(Message::Block(block), Tick(1));
        }
        let tally = scene.tracker.book.tally();
        assert_eq!((tally.included, tally.listed_again, scene.tracker.blocks()[1].ours), (5, 5, 0));
    }

    impl Scene {
        fn certify(&mut self, block: &Block, at: u32) {
            let block = FinalBlock { id: block.id(&self.genesis.id()), height: block.header.height };
            self.tracker.on_final(block, Tick(at));
        }

        fn finals(&self) -> u64 {
            self.tracker.book.finals()
        }
    }

    #[test]
    fn a_certificate_makes_its_block_and_all_below_it_final() {
        let mut scene = scene();
        scene.push(&[0, 1, 2]);
        let first = scene.block(None, &[0], 0);
        let second = scene.block(Some(&first), &[1], 0);
        let third = scene.block(Some(&second), &[2], 0);
        for block in [&first, &second, &third] {
            scene.tracker.on_message(Message::Block(Arc::clone(block)), Tick(7));
        }
        assert_eq!(scene.finals(), 0);
        scene.certify(&second, 50);
        assert_eq!((scene.finals(), scene.tracker.root().height), (10, 2));
        assert_eq!((scene.tracker.book.finalised(0), scene.tracker.book.finalised(10)), (Some(Tick(50)), None));
        scene.certify(&first, 60);
        assert_eq!((scene.finals(), scene.tracker.book.finalised(0)), (10, Some(Tick(50))), "it was final before");
    }

    #[test]
    fn a_certificate_before_its_block_or_its_batches_waits_for_them() {
        let mut scene = scene();
        let first = scene.block(None, &[0], 0);
        let second = scene.block(Some(&first), &[1], 0);
        scene.push(&[0]);
        scene.certify(&second, 5);
        scene.tracker.on_message(Message::Blocks(vec![first, second]), Tick(9));
        assert_eq!(scene.finals(), 0, "the second block's batch is missing");
        scene.push(&[1]);
        assert_eq!((scene.finals(), scene.tracker.book.finalised(5)), (10, Some(Tick(9))), "never before it was seen");
    }

    #[test]
    fn a_chain_beside_what_is_final_is_not_followed() {
        let mut scene = scene();
        scene.push(&[0, 1, 2]);
        let base = scene.block(None, &[0], 0);
        let right = scene.block(Some(&base), &[1], 1);
        let wrong = scene.block(Some(&base), &[2], 2);
        for block in [&base, &right] {
            scene.tracker.on_message(Message::Block(Arc::clone(block)), Tick(1));
        }
        scene.certify(&right, 2);
        assert!(!scene.tracker.stood_beside());
        scene.tracker.on_message(Message::Block(wrong), Tick(3));
        assert_eq!((scene.finals(), scene.listed(), scene.tracker.undone()), (10, 10, 0));
        assert!(scene.tracker.stood_beside() && !scene.tracker.stood_beside(), "it is told once");
    }

    #[test]
    fn watched_payments_are_told_in_the_order_of_the_final_chain() {
        let mut scene = scene();
        let id = scene.genesis.id();
        let stranger = |reference: u8| {
            let body = PaymentBody { reference: [reference; 16], ..scene.batches[0].payments[0].body() };
            body.sign(&scene.key, &id)
        };
        let (one, two, other) = (stranger(0xf1), stranger(0xf2), stranger(0xf3));
        for (number, payments) in [vec![two], vec![other, one]].into_iter().enumerate() {
            scene.batches.push(Batch::sign(ValidatorIndex(1), number as u64, payments, &scene.key, &id));
        }
        scene.tracker.watch([one.id(&id), two.id(&id)]);
        scene.push(&[8, 9]);
        let first = scene.block(None, &[9], 0);
        let second = scene.block(Some(&first), &[8], 0);
        for block in [&first, &second] {
            scene.tracker.on_message(Message::Block(Arc::clone(block)), Tick(1));
        }
        assert!(scene.tracker.watched_final().is_empty());
        scene.certify(&second, 2);
        assert_eq!(scene.tracker.watched_final(), [one.id(&id), two.id(&id)]);
        assert_eq!(scene.tracker.foreign(), 3);
    }

    #[test]
    fn a_gap_is_asked_for_with_a_locator_and_filled() {
        let mut scene = scene();
        scene.push(&[0, 1, 2]);
        let first = scene.block(None, &[0], 0);
        let second = scene.block(Some(&first), &[1], 0);
        let third = scene.block(Some(&second), &[2], 0);
        scene.tracker.on_message(Message::Block(Arc::clone(&first)), Tick(1));
        let asks = scene.tracker.on_message(Message::Block(Arc::clone(&third)), Tick(2));
        let id = scene.genesis.id();
        assert_eq!(asks, [Message::FetchBlocks { locator: vec![first.id(&id), scene.genesis.block_id()] }]);
        assert!(!asks_for_blocks(&scene.tracker.on_message(Message::Block(Arc::clone(&third)), Tick(3))));
        let more = scene.tracker.on_message(Message::Blocks(vec![second, third]), Tick(4));
        assert!(asks_for_blocks(&more), "it asks on until nothing new comes");
        assert!(!asks_for_blocks(&scene.tracker.on_message(Message::Blocks(Vec::new()), Tick(5))));
        assert_eq!((scene.listed(), scene.tracker.head().height), (15, 3));
    }

    #[test]
    fn another_node_is_asked_for_everything_that_the_dead_one_left_open() {
        let mut scene = scene();
        let first = scene.block(None, &[0, 1], 0);
        scene.tracker.on_message(Message::Block(first), Tick(1));
        let asks = scene.tracker.connected(Tick(2));
        assert!(asks_for_blocks(&asks));
        assert_eq!(asks_for_batches(&asks), 2);
    }

    #[test]
    fn an_unanswered_question_is_asked_again_after_a_while() {
        let mut scene = scene();
        let first = scene.block(None, &[0], 0);
        scene.tracker.on_message(Message::Block(first), Tick(1));
        assert_eq!(scene.tracker.on_tick(Tick(ASK_AGAIN)), []);
        assert_eq!(asks_for_batches(&scene.tracker.on_tick(Tick(ASK_AGAIN + 1))), 1);
    }

    #[test]
    fn a_status_far_ahead_makes_it_ask() {
        let mut scene = scene();
        let status = Status {
            validator: ValidatorIndex(0),
            boot: 1,
            nonce: 2,
            echoes: Vec::new(),
            mode: Mode::Active,
            head: BlockId([1; 32]),
            height: 9,
            slot: 9,
            weight: 3,
            pool: 0,
            decision: 0,
            last_final: FinalBlock { id: scene.genesis.block_id(), height: 0 },
        };
        assert!(asks_for_blocks(&scene.tracker.on_message(Message::Status(status), Tick(1))));
        assert_eq!(scene.tracker.best_height(), 9);
    }

    #[test]
    fn a_locator_reaches_genesis_in_few_steps() {
        let mut scene = scene();
        let mut parent = None;
        for _ in 0..3_000 {
            let block = scene.block(parent.as_ref(), &[], 0);
            scene.tracker.on_message(Message::Block(Arc::clone(&block)), Tick(1));
            parent = Some(block);
        }
        let locator = scene.tracker.locator();
        assert!(locator.len() < 24, "{} ids", locator.len());
        assert_eq!(locator.last(), Some(&scene.genesis.block_id()));
        assert_eq!(locator.first(), Some(&scene.tracker.head().id));
    }
}
