//! What every node and the API server told of final blocks while the storm ran, in the order in which it was heard; and
//! whether any of it was ever contradicted.
//!
//! A node is not asked at the end what it believes: it is held to what it said. Certificates count only if their
//! signatures hold, and a block's place comes from its own hash, so that nobody is believed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use zeni_consensus::message::LOCATOR_MAX;
use zeni_ledger::{Block, BlockId, CommitCertificate, FinalBlock, Genesis, GenesisId};

use crate::book::Tick;

/// Sayings that are kept, at most; a storm that says more has no verdict on what was taken back.
pub const HEARD_MAX: usize = 1 << 20;
/// Blocks that wait for their parents, at most; further ones are asked for again.
pub const ORPHANS_MAX: usize = 4_096;
/// Certificates that do not hold and are told in words, at most.
const BAD_MAX: usize = 16;

/// The record, shared between those who hear and those who read it.
pub type SharedFinals = Arc<Mutex<Finals>>;

/// Reads or changes the record.
pub fn with<T>(finals: &SharedFinals, act: impl FnOnce(&mut Finals) -> T) -> T {
    act(&mut finals.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What a source said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// This block is canonical there now.
    Head(BlockId),
    /// Nothing above this height is canonical there any more.
    Back { height: u64 },
    /// This block is final.
    Final(FinalBlock),
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    source: usize,
    told: Told,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    parent: BlockId,
    height: u64,
}

/// The record of a storm.
#[derive(Debug)]
pub struct Finals {
    genesis: Genesis,
    id: GenesisId,
    sources: Vec<String>,
    /// Every block of every branch that anyone told, down to genesis.
    tree: HashMap<BlockId, Place>,
    /// Blocks by a parent that is not known.
    orphans: HashMap<BlockId, Vec<(BlockId, Place)>>,
    highest: FinalBlock,
    heard: Vec<Heard>,
    overflowed: u64,
    /// The last certificate of each source: it is repeated once a second.
    last: Vec<Option<CommitCertificate>>,
    /// When a greater height became final for the first time anywhere, rising.
    course: Vec<(Tick, u64)>,
    bad: Vec<String>,
}

/// What the record shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judged {
    /// Final blocks that were told, each once.
    pub finals: u64,
    /// Those of them that another final block or the teller's own chain contradicted later.
    pub reverted: u64,
    /// Those of them whose ancestors nobody told, so that nothing is known of them.
    pub unknown: u64,
}

impl Finals {
    pub fn new(genesis: &Genesis, sources: Vec<String>) -> Self {
        let root = FinalBlock { id: genesis.block_id(), height: 0 };
        Self {
            genesis: genesis.clone(),
            id: genesis.id(),
            last: vec![None; sources.len()],
            sources,
            tree: [(root.id, Place { parent: root.id, height: 0 })].into(),
            orphans: HashMap::new(),
            highest: root,
            heard: Vec::new(),
            overflowed: 0,
            course: Vec::new(),
            bad: Vec::new(),
        }
    }

    /// A source says that a block is canonical there. False if its parent is not known.
    pub fn on_block(&mut self, source: usize, block: &Block) -> bool {
        let id = block.id(&self.id);
        self.note(source, Told::Head(id));
        self.grow(id, block)
    }

    /// Blocks that a source tells because it was asked. True if any of them was new.
    pub fn on_blocks(&mut self, blocks: &[Arc<Block>]) -> bool {
        let mut new = false;
        for block in blocks {
            let id = block.id(&self.id);
            new |= !self.tree.contains_key(&id);
            self.grow(id, block);
        }
        new
    }

    /// A source's certificate. Gives its block if the certificate holds and is not the one that this source told last.
    pub fn on_certificate(&mut self, source: usize, certificate: &CommitCertificate, at: Tick) -> Option<FinalBlock> {
        if self.last[source].as_ref() == Some(certificate) {
            return None;
        }
        if let Err(error) = certificate.verify(&self.genesis, &self.id) {
            if self.bad.len() < BAD_MAX {
                self.bad.push(format!("{} tells a certificate that does not hold: {error}", self.sources[source]));
            }
            return None;
        }
        self.last[source] = Some(certificate.clone());
        self.note(source, Told::Final(certificate.block));
        if self.course.last().is_none_or(|(_, height)| *height < certificate.block.height) {
            self.course.push((at, certificate.block.height));
        }
        Some(certificate.block)
    }

    /// A source that shows no certificate says that a block is final.
    pub fn on_claim(&mut self, source: usize, block: FinalBlock) {
        self.note(source, Told::Final(block));
    }

    /// A source says which block is canonical there, by its id alone.
    pub fn on_head(&mut self, source: usize, id: BlockId) {
        self.note(source, Told::Head(id));
    }

    /// A source says that nothing above this height is canonical there any more.
    pub fn on_reorganisation(&mut self, source: usize, height: u64) {
        self.note(source, Told::Back { height });
    }

    /// The greatest height that was final anywhere at this time.
    pub fn height_at(&self, at: Tick) -> u64 {
        let until = self.course.partition_point(|(heard, _)| *heard <= at);
        until.checked_sub(1).map_or(0, |place| self.course[place].1)
    }

    /// When a greater height than ever before became final for the first time after this.
    pub fn first_after(&self, at: Tick) -> Option<Tick> {
        self.course.get(self.course.partition_point(|(heard, _)| *heard <= at)).map(|(heard, _)| *heard)
    }

    /// What is wrong with the record itself, in words.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.bad.clone();
        if self.overflowed > 0 {
            failures.push(format!("{} sayings about final blocks were not kept: {HEARD_MAX} were", self.overflowed));
        }
        // Who was never heard was not held to anything.
        let told_final = |source| {
            let says = |heard: &Heard| heard.source == source && matches!(heard.told, Told::Final(_));
            self.heard.iter().any(says)
        };
        let silent =
            self.sources.iter().enumerate().filter(|(source, _)| !self.course.is_empty() && !told_final(*source));
        failures.extend(silent.map(|(_, name)| format!("{name} was heard to tell of no final block")));
        failures
    }

    /// Ids from the highest known block down with doubling steps, genesis last.
    pub fn locator(&self) -> Vec<BlockId> {
        let mut locator = Vec::new();
        let (mut id, mut place, mut step) = (self.highest.id, self.tree[&self.highest.id], 1);
        while place.height > 0 && locator.len() < LOCATOR_MAX - 1 {
            locator.push(id);
            for _ in 0..step {
                if place.height > 0 {
                    (id, place) = (place.parent, self.tree[&place.parent]);
                }
            }
            step = if locator.len() < 8 { 1 } else { step * 2 };
        }
        locator.push(self.genesis.block_id());
        locator
    }

    /// Holds everybody to what they said.
    pub fn judge(&self) -> Judged {
        let told: BTreeSet<(u64, BlockId)> = (self.heard.iter())
            .filter_map(|heard| match heard.told {
                Told::Final(block) => Some((block.height, block.id)),
                Told::Head(_) | Told::Back { .. } => None,
            })
            .collect();
        let finals: Vec<FinalBlock> = told.into_iter().map(|(height, id)| FinalBlock { id, height }).collect();
        let known = |block: &FinalBlock| self.tree.get(&block.id).is_some_and(|place| place.height == block.height);
        let unknown = finals.iter().filter(|block| !known(block)).count() as u64;
        let mut reverted = self.on_other_branches(&finals);
        for source in 0..self.sources.len() {
            reverted.extend(self.taken_back_by(source));
        }
        Judged { finals: finals.len() as u64, reverted: reverted.len() as u64, unknown }
    }

    /// The final blocks that do not lie on one chain with all others. `finals` rise.
    fn on_other_branches(&self, finals: &[FinalBlock]) -> HashSet<BlockId> {
        let known = || finals.iter().filter(|block| self.tree.contains_key(&block.id));
        let Some(top) = known().next_back() else { return HashSet::new() };
        let mut chain = HashSet::from([self.genesis.block_id()]);
        let mut id = top.id;
        while chain.insert(id) {
            id = self.tree[&id].parent;
        }
        let mut contradicted = HashSet::new();
        for beside in known().filter(|block| !chain.contains(&block.id)) {
            contradicted.insert(beside.id);
            let mut fork = self.tree[&beside.id];
            while !chain.contains(&fork.parent) {
                fork = self.tree[&fork.parent];
            }
            let above = known().filter(|block| chain.contains(&block.id) && block.height >= fork.height);
            contradicted.extend(above.map(|block| block.id));
        }
        contradicted
    }

    /// The final blocks that a source left again. A certificate may be told before its block is canonical, so a source is
    /// held to it from the first block on that stands on it.
    fn taken_back_by(&self, source: usize) -> HashSet<BlockId> {
        let mut contradicted = HashSet::new();
        let mut head = self.genesis.block_id();
        let (mut told, mut held): (Vec<FinalBlock>, Option<FinalBlock>) = (Vec::new(), None);
        for heard in self.heard.iter().filter(|heard| heard.source == source) {
            match heard.told {
                Told::Final(block) => told.push(block),
                Told::Head(id) => {
                    head = id;
                    if let (Some(held), Some(place)) = (held, self.tree.get(&id)) {
                        let (low, high) = if place.height >= held.height { (held.id, id) } else { (id, held.id) };
                        if !self.descends(&high, &low) {
                            contradicted.insert(held.id);
                        }
                    }
                }
                Told::Back { height } => {
                    contradicted.extend(held.filter(|held| held.height > height).map(|held| held.id));
                }
            }
            if let Some(place) = told.iter().rposition(|block| self.descends(&head, &block.id)) {
                let newest = told[place];
                held = Some(held.filter(|held| held.height >= newest.height).unwrap_or(newest));
                told.drain(..=place);
            }
        }
        contradicted
    }

    /// Whether `low` is `high` or an ancestor of it. False if one of them is not known.
    fn descends(&self, high: &BlockId, low: &BlockId) -> bool {
        let (Some(goal), Some(mut place)) = (self.tree.get(low), self.tree.get(high)) else { return false };
        let mut id = *high;
        while place.height > goal.height {
            id = place.parent;
            place = &self.tree[&id];
        }
        id == *low
    }

    fn grow(&mut self, id: BlockId, block: &Block) -> bool {
        let place = Place { parent: block.header.parent, height: block.header.height };
        if self.tree.contains_key(&id) {
            return true;
        }
        if !self.tree.contains_key(&place.parent) {
            if self.orphans.values().map(Vec::len).sum::<usize>() < ORPHANS_MAX {
                let siblings = self.orphans.entry(place.parent).or_default();
                if !siblings.iter().any(|(sibling, _)| *sibling == id) {
                    siblings.push((id, place));
                }
            }
            return false;
        }
        let mut grown = vec![(id, place)];
        while let Some((id, place)) = grown.pop() {
            self.tree.insert(id, place);
            if place.height > self.highest.height {
                self.highest = FinalBlock { id, height: place.height };
            }
            grown.extend(self.orphans.remove(&id).unwrap_or_default());
        }
        true
    }

    fn note(&mut self, source: usize, told: Told) {
        if self.heard.len() < HEARD_MAX {
            self.heard.push(Heard { source, told });
        } else {
            self.overflowed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Role;
    use crate::prepare::{Parameters, Prepared, prepare};
    use ed25519_dalek::Signer as _;
    use zeni_ledger::block::transactions_root;
    use zeni_ledger::{BlockHeader, ReceiptsRoot, SignatureBytes, StateRoot, ValidatorIndex};

    struct Scene {
        finals: Finals,
        prepared: Prepared,
    }

    fn scene() -> Scene {
        let root = tempfile::tempdir().unwrap();
        let prepared = prepare(root.path(), &Parameters::small(7), 1_760_000_000_000).unwrap();
        let sources = ["node-1", "node-2", "api-server"].map(String::from).into();
        Scene { finals: Finals::new(&prepared.genesis, sources), prepared }
    }

    impl Scene {
        fn block(&self, parent: Option<&Block>, salt: u8) -> Block {
            let id = self.prepared.genesis_id;
            let (height, parent) = parent
                .map_or((1, self.prepared.genesis.block_id()), |parent| (parent.header.height + 1, parent.id(&id)));
            let header = BlockHeader {
                proposer: ValidatorIndex(0),
                rank: 0,
                height,
                slot: height,
                parent,
                transactions_root: transactions_root(&[]),
                state_root: StateRoot([salt; 32]),
                receipts_root: ReceiptsRoot([salt; 32]),
                receipts: 0,
            };
            Block::sign(header, Vec::new(), &self.prepared.plan().role_key(Role::Validator(0)), &id)
        }

        fn chain(&self, from: Option<&Block>, length: usize, salt: u8) -> Vec<Block> {
            let mut blocks: Vec<Block> = Vec::new();
            for _ in 0..length {
                let block = self.block(blocks.last().or(from), salt);
                blocks.push(block);
            }
            blocks
        }

        fn final_block(&self, block: &Block) -> FinalBlock {
            FinalBlock { id: block.id(&self.prepared.genesis_id), height: block.header.height }
        }

        fn certificate(&self, block: &Block, decision: u64, signers: &[u16]) -> CommitCertificate {
            let block = self.final_block(block);
            let mut certificate = CommitCertificate { decision, round: 0, block, signatures: Vec::new() };
            let digest = certificate.vote().digest(&self.prepared.genesis_id);
            let sign = |signer: &u16| {
                let key = self.prepared.plan().role_key(Role::Validator(*signer));
                (ValidatorIndex(*signer), SignatureBytes(key.sign(&digest).to_bytes()))
            };
            certificate.signatures = signers.iter().map(sign).collect();
            certificate
        }

        fn hear(&mut self, source: usize, blocks: &[Block]) {
            for block in blocks {
                self.finals.on_block(source, block);
            }
        }

        fn certify(&mut self, source: usize, block: &Block, decision: u64, at: u32) -> Option<FinalBlock> {
            let certificate = self.certificate(block, decision, &[0, 1]);
            self.finals.on_certificate(source, &certificate, Tick(at))
        }
    }

    #[test]
    fn a_source_that_was_never_heard_is_a_failure_once_others_were() {
        let mut scene = scene();
        assert_eq!(scene.finals.failures(), Vec::<String>::new(), "nothing became final at all: other checks see that");
        let block = scene.block(None, 1);
        let (certificate, claim) = (scene.certificate(&block, 1, &[0, 1, 2]), scene.final_block(&block));
        scene.finals.on_certificate(0, &certificate, Tick(5));
        scene.finals.on_claim(2, claim);
        assert_eq!(scene.finals.failures(), ["node-2 was heard to tell of no final block"]);
        scene.finals.on_certificate(1, &certificate, Tick(6));
        assert_eq!(scene.finals.failures(), Vec::<String>::new());
    }

    #[test]
    fn a_chain_that_only_grows_is_never_contradicted() {
        let mut scene = scene();
        let chain = scene.chain(None, 4, 1);
        for source in [0, 1] {
            scene.hear(source, &chain[..2]);
            assert!(scene.certify(source, &chain[1], 1, 10).is_some());
            assert!(scene.certify(source, &chain[1], 1, 11).is_none(), "it is repeated every second");
            scene.hear(source, &chain[2..]);
            scene.certify(source, &chain[3], 2, 20);
        }
        assert_eq!(scene.finals.judge(), Judged { finals: 2, reverted: 0, unknown: 0 });
        assert_eq!([9, 10, 20].map(|at| scene.finals.height_at(Tick(at))), [0, 2, 4]);
        assert_eq!((scene.finals.first_after(Tick(10)), scene.finals.first_after(Tick(20))), (Some(Tick(20)), None));
    }

    #[test]
    fn two_final_blocks_on_two_branches_contradict_each_other_and_what_lies_above_the_fork() {
        let mut scene = scene();
        let trunk = scene.chain(None, 2, 1);
        let (left, right) = (scene.chain(Some(&trunk[1]), 2, 2), scene.chain(Some(&trunk[1]), 1, 3));
        scene.hear(0, &trunk);
        scene.hear(0, &left);
        scene.hear(1, &right);
        for (decision, block) in [&trunk[0], &left[0], &left[1]].into_iter().enumerate() {
            scene.certify(0, block, decision as u64 + 1, 5);
        }
        assert_eq!(scene.finals.judge().reverted, 0);
        scene.certify(1, &right[0], 2, 6);
        assert_eq!(scene.finals.judge(), Judged { finals: 4, reverted: 3, unknown: 0 }, "the trunk stays final");
    }

    #[test]
    fn a_node_that_leaves_its_own_final_block_is_caught_without_a_second_certificate() {
        let mut scene = scene();
        let trunk = scene.chain(None, 1, 1);
        let (left, right) = (scene.chain(Some(&trunk[0]), 2, 2), scene.chain(Some(&trunk[0]), 3, 3));
        scene.hear(0, &trunk);
        scene.hear(0, &left);
        scene.certify(0, &left[1], 1, 5);
        scene.hear(1, &right);
        assert_eq!(scene.finals.judge().reverted, 0, "another node may stand elsewhere until it hears");
        scene.hear(0, &right[2..]);
        assert_eq!(scene.finals.judge().reverted, 1);
    }

    #[test]
    fn a_certificate_before_its_block_binds_only_once_its_block_is_canonical() {
        let mut scene = scene();
        let (left, right) = (scene.chain(None, 1, 2), scene.chain(None, 3, 3));
        scene.hear(0, &right);
        scene.certify(0, &left[0], 1, 5);
        scene.hear(1, &left);
        let more = scene.chain(Some(&right[2]), 1, 4);
        scene.hear(0, &more);
        assert_eq!(scene.finals.judge().reverted, 0, "it had not come over yet");
        scene.hear(0, &left);
        scene.hear(0, &right[..1]);
        assert_eq!(scene.finals.judge().reverted, 1, "it had");
    }

    #[test]
    fn blocks_that_a_restarted_node_executes_again_are_no_contradiction() {
        let mut scene = scene();
        let chain = scene.chain(None, 3, 1);
        scene.hear(0, &chain);
        scene.certify(0, &chain[2], 1, 5);
        scene.hear(0, &chain);
        assert_eq!(scene.finals.judge().reverted, 0);
    }

    #[test]
    fn a_stream_that_goes_back_below_its_final_block_is_caught() {
        let mut scene = scene();
        let chain = scene.chain(None, 3, 1);
        scene.hear(0, &chain);
        let id = scene.prepared.genesis_id;
        chain.iter().for_each(|block| scene.finals.on_head(2, block.id(&id)));
        let claimed = scene.final_block(&chain[1]);
        scene.finals.on_claim(2, claimed);
        scene.finals.on_reorganisation(2, 2);
        assert_eq!(scene.finals.judge().reverted, 0);
        scene.finals.on_reorganisation(2, 1);
        assert_eq!(scene.finals.judge().reverted, 1);
    }

    #[test]
    fn certificates_count_only_if_a_quorum_signed_them() {
        let mut scene = scene();
        let chain = scene.chain(None, 1, 1);
        let alone = scene.certificate(&chain[0], 1, &[2]);
        assert_eq!(scene.finals.on_certificate(0, &alone, Tick(1)), None);
        assert_eq!((scene.finals.judge().finals, scene.finals.height_at(Tick(1))), (0, 0));
        assert!(scene.finals.failures()[0].contains("node-1 tells a certificate that does not hold"));
    }

    #[test]
    fn a_gap_is_closed_by_what_is_asked_for_and_an_open_one_is_told() {
        let mut scene = scene();
        let chain = scene.chain(None, 40, 1);
        assert!(scene.finals.on_block(0, &chain[0]));
        assert!(!scene.finals.on_block(0, &chain[39]));
        scene.certify(0, &chain[39], 1, 5);
        assert_eq!(scene.finals.judge(), Judged { finals: 1, reverted: 0, unknown: 1 });
        let asked: Vec<Arc<Block>> = chain.into_iter().map(Arc::new).collect();
        assert!(scene.finals.on_blocks(&asked[..39]));
        assert!(!scene.finals.on_blocks(&asked));
        assert_eq!(scene.finals.judge(), Judged { finals: 1, reverted: 0, unknown: 0 });
        let locator = scene.finals.locator();
        assert_eq!((locator.len() < 16, locator.last()), (true, Some(&scene.prepared.genesis.block_id())));
    }
}
