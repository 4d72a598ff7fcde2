//! The tree of known blocks and which path through it is canonical. It knows weights, not states.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use zeni_ledger::{BatchDigest, Block, BlockId};

/// Blocks beside the canonical chain, beyond which those go that can never matter, and no others come but such as
/// extend the heaviest chain.
pub const SIDE_BLOCKS_MAX: usize = 16_384;
/// Lighter branches whose tips are this far below the head are dropped when there are too many side blocks: whoever
/// still builds on one must offer it anew.
const PRUNE_DEPTH: u64 = 1_024;
/// Canonical blocks whose bodies stay in memory; older ones are read from the archive.
pub const BODIES_KEPT: u64 = 128;

/// What is known of a block's execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Not executed here yet.
    Unknown,
    /// Executed here: its roots are what its header says.
    Valid,
    /// Executed here: they are not, or it builds on such a block.
    Invalid,
}

/// A block in the tree.
#[derive(Debug, Clone)]
pub struct Node {
    pub parent: BlockId,
    pub height: u64,
    pub slot: u64,
    /// Of the whole chain up to here.
    pub weight: u128,
    pub validity: Validity,
    /// Whether its record is in the log.
    pub stored: bool,
    /// Listed batches that are not stored here.
    pub missing: u32,
    /// Whether it is the last final block or stands on it.
    pub stands: bool,
    body: Option<Arc<Block>>,
}

/// The tree. Genesis is its root; every other node's parent is in it.
#[derive(Debug)]
pub struct Tree {
    nodes: HashMap<BlockId, Node>,
    /// Canonical ids by height; genesis is the first.
    canonical: Vec<BlockId>,
    /// Blocks beside the canonical chain by height, so that parents come before children.
    side: BTreeMap<(u64, BlockId), ()>,
    /// Which blocks wait for a batch.
    awaited: BTreeMap<BatchDigest, Vec<BlockId>>,
}

impl Tree {
    pub fn new(genesis: BlockId) -> Self {
        let root = Node {
            parent: genesis,
            height: 0,
            slot: 0,
            weight: 0,
            validity: Validity::Valid,
            stored: true,
            missing: 0,
            stands: true,
            body: None,
        };
        Self {
            nodes: HashMap::from([(genesis, root)]),
            canonical: vec![genesis],
            side: BTreeMap::new(),
            awaited: BTreeMap::new(),
        }
    }

    pub fn node(&self, id: &BlockId) -> Option<&Node> {
        self.nodes.get(id)
    }

    pub fn contains(&self, id: &BlockId) -> bool {
        self.nodes.contains_key(id)
    }

    /// The body of a block, while it is in memory.
    pub fn body(&self, id: &BlockId) -> Option<&Arc<Block>> {
        self.nodes.get(id).and_then(|node| node.body.as_ref())
    }

    /// The canonical head.
    pub fn head(&self) -> BlockId {
        *self.canonical.last().expect("genesis is always canonical")
    }

    pub fn head_node(&self) -> &Node {
        self.expect(&self.head())
    }

    /// A node that must be there.
    pub fn expect(&self, id: &BlockId) -> &Node {
        self.nodes.get(id).expect("the tree holds every block that it names")
    }

    /// The canonical block at `height`.
    pub fn canonical_at(&self, height: u64) -> Option<BlockId> {
        self.canonical.get(usize::try_from(height).ok()?).copied()
    }

    pub fn is_canonical(&self, id: &BlockId) -> bool {
        self.nodes.get(id).is_some_and(|node| self.canonical_at(node.height) == Some(*id))
    }

    /// Blocks beside the canonical chain.
    pub fn side_blocks(&self) -> usize {
        self.side.len()
    }

    /// Adds a block whose parent is here. `missing` are the listed batches that are not stored yet.
    ///
    /// # Panics
    /// If the parent is not in the tree: the caller checked.
    pub fn insert(&mut self, id: BlockId, block: Arc<Block>, weight: u128, missing: &[BatchDigest]) {
        let parent = self.expect(&block.header.parent);
        let invalid = parent.validity == Validity::Invalid;
        let node = Node {
            parent: block.header.parent,
            height: block.header.height,
            slot: block.header.slot,
            weight: parent.weight + weight,
            validity: if invalid { Validity::Invalid } else { Validity::Unknown },
            stored: false,
            missing: missing.len() as u32,
            stands: parent.stands,
            body: Some(block),
        };
        for digest in missing {
            self.awaited.entry(*digest).or_default().push(id);
        }
        self.side.insert((node.height, id), ());
        self.nodes.insert(id, node);
    }

    /// Whether some block waits for this batch.
    pub fn awaits(&self, digest: &BatchDigest) -> bool {
        self.awaited.contains_key(digest)
    }

    /// Notes that a batch is stored. True if a block has all its batches now.
    pub fn batch_arrived(&mut self, digest: &BatchDigest) -> bool {
        let mut completed = false;
        for id in self.awaited.remove(digest).unwrap_or_default() {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.missing -= 1;
                completed |= node.missing == 0;
            }
        }
        completed
    }

    /// The heaviest block (ties: the lower id) on top of `root` that can be executed here: not invalid, and all batches
    /// of it and of its ancestors stored. `None` unless it beats the canonical head; a head that does not stand on
    /// `root` is beaten by all that do.
    pub fn better_head(&self, root: &BlockId) -> Option<BlockId> {
        let (on_root, root_height) = (self.is_canonical(root), self.expect(root).height);
        // Of each side block: whether it can be executed, and whether it stands on the root.
        let mut seen: BTreeMap<BlockId, (bool, bool)> = BTreeMap::new();
        let mut best = on_root.then(|| (self.head_node().weight, std::cmp::Reverse(self.head())));
        for (_, id) in self.side.keys() {
            let node = self.expect(id);
            let of_canonical = || {
                let is_canonical = self.is_canonical(&node.parent);
                (is_canonical, is_canonical && on_root && node.height > root_height)
            };
            let (parent_ready, parent_stands) = seen.get(&node.parent).copied().unwrap_or_else(of_canonical);
            let is_ready = parent_ready && node.missing == 0 && node.validity != Validity::Invalid;
            let stands = parent_stands || id == root;
            seen.insert(*id, (is_ready, stands));
            if is_ready && stands {
                best = best.max(Some((node.weight, std::cmp::Reverse(*id))));
            }
        }
        best.map(|(_, found)| found.0).filter(|found| *found != self.head())
    }

    /// Notes which blocks stand on the last final one now. `from` is the height of the one before it.
    pub fn set_final(&mut self, from: u64, last: &BlockId) {
        let (height, on_it) = (self.expect(last).height, self.is_canonical(last));
        for (at, id) in self.canonical.iter().enumerate().skip(from as usize) {
            let node = self.nodes.get_mut(id).expect("canonical blocks are in the tree");
            node.stands = on_it && at as u64 >= height;
        }
        // Parents come before children.
        for (_, id) in self.side.keys() {
            let stands = id == last || self.nodes[&self.nodes[id].parent].stands;
            self.nodes.get_mut(id).expect("side blocks are in the tree").stands = stands;
        }
    }

    /// Whether `id` is `ancestor` or descends from it.
    pub fn descends(&self, id: &BlockId, ancestor: &BlockId) -> bool {
        let Some(height) = self.node(ancestor).map(|node| node.height) else { return false };
        let mut current = *id;
        loop {
            let Some(node) = self.node(&current) else { return false };
            if node.height <= height {
                return current == *ancestor;
            }
            if self.is_canonical(&current) {
                return self.canonical_at(height) == Some(*ancestor);
            }
            current = node.parent;
        }
    }

    /// The highest canonical block that `id` is or descends from.
    pub fn canonical_ancestor(&self, id: &BlockId) -> Option<u64> {
        let mut current = *id;
        loop {
            let node = self.node(&current)?;
            if self.is_canonical(&current) {
                return Some(node.height);
            }
            current = node.parent;
        }
    }

    /// The blocks from the canonical chain (excluded) up to `id`, rising.
    pub fn branch_to(&self, id: BlockId) -> Vec<BlockId> {
        let mut branch = Vec::new();
        let mut current = id;
        while !self.is_canonical(&current) {
            branch.push(current);
            current = self.expect(&current).parent;
        }
        branch.reverse();
        branch
    }

    /// Makes a child of the head canonical.
    pub fn extend(&mut self, id: BlockId) {
        let head = self.head();
        let height = self.canonical.len() as u64;
        let node = self.nodes.get_mut(&id).expect("an executed block is in the tree");
        assert!(node.parent == head && node.height == height, "a canonical block stands on the head");
        node.validity = Validity::Valid;
        self.side.remove(&(height, id));
        self.canonical.push(id);
        if let Some(old) = height.checked_sub(BODIES_KEPT).filter(|old| *old > 0) {
            let old = self.canonical[old as usize];
            let node = self.nodes.get_mut(&old).expect("canonical blocks are in the tree");
            if node.stored {
                node.body = None;
            }
        }
    }

    /// Takes the head off the canonical chain and returns it.
    ///
    /// # Panics
    /// If only genesis is left.
    pub fn retreat(&mut self) -> BlockId {
        assert!(self.canonical.len() > 1, "genesis cannot be undone");
        let id = self.canonical.pop().expect("there is more than genesis");
        self.side.insert((self.expect(&id).height, id), ());
        id
    }

    /// Marks a block and everything that builds on it as invalid.
    pub fn invalidate(&mut self, id: BlockId) {
        self.nodes.get_mut(&id).expect("an executed block is in the tree").validity = Validity::Invalid;
        let above: Vec<BlockId> = self.side.keys().map(|(_, side)| *side).collect();
        for side in above {
            let parent = self.expect(&side).parent;
            if self.expect(&parent).validity == Validity::Invalid {
                self.nodes.get_mut(&side).expect("side blocks are in the tree").validity = Validity::Invalid;
            }
        }
    }

    /// Notes that the block's record goes to the log. False if it went before.
    pub fn mark_stored(&mut self, id: &BlockId) -> bool {
        let node = self.nodes.get_mut(id).expect("a stored block is in the tree");
        !std::mem::replace(&mut node.stored, true)
    }

    /// Takes [`Self::mark_stored`] back: its record did not go to the log after all.
    pub fn unmark_stored(&mut self, id: &BlockId) {
        self.nodes.get_mut(id).expect("a stored block is in the tree").stored = false;
    }

    /// Batches that blocks wait for, those of the lowest blocks first; some more than once.
    pub fn awaited(&self) -> impl Iterator<Item = BatchDigest> + '_ {
        let waiting = self.side.keys().map(|(_, id)| self.expect(id)).filter(|node| node.missing > 0);
        let digests = waiting.filter_map(|node| node.body.as_ref()).flat_map(|block| block.digests.iter().copied());
        digests.filter(|digest| self.awaits(digest))
    }

    /// Lets go of the batches that only canonical blocks list: these need not be executed.
    pub fn await_side_only(&mut self) {
        let side = &self.side;
        let nodes = &self.nodes;
        let waits = |id: &BlockId| nodes.get(id).is_some_and(|node| side.contains_key(&(node.height, *id)));
        self.awaited.retain(|_, waiting| {
            waiting.retain(&waits);
            !waiting.is_empty()
        });
        for id in &self.canonical {
            self.nodes.get_mut(id).expect("canonical blocks are in the tree").missing = 0;
        }
    }

    /// How many batches blocks wait for.
    pub fn awaited_len(&self) -> usize {
        self.awaited.len()
    }

    /// Drops side blocks that are invalid or stand beside `root`, the last final block, and branches that are lighter than
    /// the head and end far below it; `anchor` and what it builds on stay.
    pub fn prune(&mut self, anchor: BlockId, root: &BlockId) {
        let head = self.head_node();
        let (weight, height) = (head.weight, head.height);
        let mut kept: HashSet<BlockId> = self.branch_to(anchor).into_iter().collect();
        let mut dropped = Vec::new();
        // From the top down: what a kept block builds on is kept.
        for (side_height, id) in self.side.keys().rev() {
            let node = self.expect(id);
            let matters = node.weight >= weight || side_height + PRUNE_DEPTH >= height;
            let matters = matters && node.stands || id == root;
            if kept.contains(id) || matters && node.validity != Validity::Invalid {
                kept.insert(node.parent);
            } else {
                dropped.push((*side_height, *id));
            }
        }
        self.drop_side(&dropped);
    }

    /// Drops side blocks that stand beside `root`, the last final block, and will never be chosen; `anchor` and what it
    /// builds on stay.
    pub fn drop_beside(&mut self, anchor: BlockId, root: &BlockId) {
        let mut kept: HashSet<BlockId> = self.branch_to(anchor).into_iter().collect();
        kept.extend(self.branch_to(*root));
        let beside = |id: &BlockId| !kept.contains(id) && !self.expect(id).stands;
        let dropped: Vec<(u64, BlockId)> = self.side.keys().filter(|(_, id)| beside(id)).copied().collect();
        self.drop_side(&dropped);
    }

    fn drop_side(&mut self, dropped: &[(u64, BlockId)]) {
        for key in dropped {
            self.side.remove(key);
            self.nodes.remove(&key.1);
        }
        let nodes = &self.nodes;
        self.awaited.retain(|_, waiting| {
            waiting.retain(|id| nodes.contains_key(id));
            !waiting.is_empty()
        });
    }

    /// Puts a body back that was read from the archive, for execution.
    pub fn set_body(&mut self, id: &BlockId, block: Arc<Block>) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.body = Some(block);
        }
    }

    /// Ids from `from` down to genesis with growing steps, `limit` at most, genesis last.
    pub fn locator(&self, from: BlockId, limit: usize) -> Vec<BlockId> {
        let mut locator = Vec::with_capacity(limit);
        let mut current = from;
        while !self.is_canonical(&current) && locator.len() < limit / 2 {
            locator.push(current);
            current = self.expect(&current).parent;
        }
        while !self.is_canonical(&current) {
            current = self.expect(&current).parent;
        }
        let (mut height, mut step) = (self.expect(&current).height, 1u64);
        while height > 0 && locator.len() + 1 < limit {
            locator.push(self.canonical[height as usize]);
            height = height.saturating_sub(step);
            if locator.len() > 8 {
                step = step.saturating_mul(2);
            }
        }
        locator.push(self.canonical[0]);
        locator
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeni_ledger::block::transactions_root;
    use zeni_ledger::{BlockHeader, ReceiptsRoot, SignatureBytes, StateRoot, ValidatorIndex};

    fn id(branch: u8, height: u64) -> BlockId {
        let mut bytes = [branch; 32];
        bytes[..8].copy_from_slice(&height.to_le_bytes());
        BlockId(bytes)
    }

    fn add(tree: &mut Tree, branch: u8, height: u64, parent: BlockId, digests: Vec<BatchDigest>) {
        let header = BlockHeader {
            proposer: ValidatorIndex(0),
            rank: 0,
            height,
            slot: height,
            parent,
            transactions_root: transactions_root(&digests),
            state_root: StateRoot([0; 32]),
            receipts_root: ReceiptsRoot([0; 32]),
            receipts: 0,
        };
        let missing = digests.clone();
        let block = Arc::new(Block { header, digests, signature: SignatureBytes([0; 64]) });
        tree.insert(id(branch, height), block, 3, &missing);
    }

    /// A canonical chain of `height` blocks.
    fn chain(height: u64) -> Tree {
        let genesis = id(0, 0);
        let mut tree = Tree::new(genesis);
        for at in 1..=height {
            add(&mut tree, 0, at, id(0, at - 1), Vec::new());
            tree.extend(id(0, at));
        }
        tree
    }

    #[test]
    fn pruning_drops_what_can_never_matter_and_nothing_else() {
        let top = PRUNE_DEPTH + 100;
        let mut tree = chain(top);
        // A light old branch, a branch that is as high as the head, the checkpoint's branch, and an invalid one.
        for height in 11..20 {
            add(&mut tree, 1, height, id(u8::from(height > 11), height - 1), vec![BatchDigest([height as u8; 32])]);
            add(&mut tree, 3, height, id(if height > 11 { 3 } else { 0 }, height - 1), Vec::new());
        }
        for height in 51..=top {
            add(&mut tree, 2, height, id(if height > 51 { 2 } else { 0 }, height - 1), Vec::new());
        }
        add(&mut tree, 4, top + 1, id(0, top), Vec::new());
        tree.invalidate(id(4, top + 1));
        tree.prune(id(3, 14), &id(0, 0));
        assert!((11..20).all(|height| !tree.contains(&id(1, height))), "light and old");
        assert_eq!(tree.awaited_len(), 0, "nobody waits for their batches any more");
        assert!((51..=top).all(|height| tree.contains(&id(2, height))), "its tip may still win");
        assert!((11..=14).all(|height| tree.contains(&id(3, height))), "the checkpoint stands there");
        assert!((15..20).all(|height| !tree.contains(&id(3, height))), "above the checkpoint");
        assert!(!tree.contains(&id(4, top + 1)), "invalid");
        assert_eq!(tree.side_blocks() as u64, top - 50 + 4);
    }

    #[test]
    fn what_stands_on_the_final_block_is_known_wherever_it_lies() {
        let mut tree = chain(6);
        for height in 3..=5 {
            add(&mut tree, 1, height, id(u8::from(height > 3), height - 1), Vec::new());
        }
        add(&mut tree, 2, 6, id(0, 5), Vec::new());
        // A side block becomes final: the canonical chain stands beside it.
        tree.set_final(0, &id(1, 4));
        let standing = |tree: &Tree| -> Vec<(u8, u64)> {
            let all = (0..=2).flat_map(|branch| (0..=7).map(move |height| (branch, height)));
            all.filter(|(branch, height)| tree.node(&id(*branch, *height)).is_some_and(|node| node.stands)).collect()
        };
        assert_eq!(standing(&tree), [(1, 4), (1, 5)]);
        add(&mut tree, 1, 6, id(1, 5), Vec::new());
        assert_eq!(standing(&tree), [(1, 4), (1, 5), (1, 6)]);
        tree.drop_beside(id(0, 0), &id(1, 4));
        assert!(
            tree.contains(&id(1, 3)) && !tree.contains(&id(2, 6)),
            "what is final builds on the one, not on the other"
        );
        // A canonical one: what is above it stands, side branches too.
        let mut tree = chain(6);
        add(&mut tree, 1, 3, id(0, 2), Vec::new());
        add(&mut tree, 2, 6, id(0, 5), Vec::new());
        tree.set_final(0, &id(0, 4));
        assert_eq!(standing(&tree), [(0, 4), (0, 5), (0, 6), (2, 6)]);
    }
}
