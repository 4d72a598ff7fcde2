//! The blocks of a run: a tree that only grows, small enough for a byte to hold any set of them.

use std::fmt;

/// Most blocks of a run, genesis among them: a set of them is one byte.
pub const BLOCKS_MAX: usize = 8;

/// A block by its number in the order of making. Genesis is 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u8);

impl BlockId {
    pub const GENESIS: Self = Self(0);

    fn place(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "b{}", self.0)
    }
}

/// A set of blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockSet(u8);

impl BlockSet {
    pub fn of(block: BlockId) -> Self {
        Self(1 << block.0)
    }

    pub fn contains(self, block: BlockId) -> bool {
        self.0 & Self::of(block).0 != 0
    }

    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = BlockId> {
        (0..BLOCKS_MAX as u8).map(BlockId).filter(move |block| self.contains(*block))
    }
}

impl fmt::Debug for BlockSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter()).finish()
    }
}

/// A block, by what fork choice needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Block {
    /// It and its ancestors.
    chain: BlockSet,
    /// Of the whole chain up to here.
    weight: u8,
}

/// Every block that was ever made, known to whomever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blocks {
    made: u8,
    blocks: [Block; BLOCKS_MAX],
}

impl Blocks {
    pub fn genesis() -> Self {
        let mut blocks = [Block::default(); BLOCKS_MAX];
        blocks[0].chain = BlockSet::of(BlockId::GENESIS);
        Self { made: 1, blocks }
    }

    /// How many there are above genesis.
    pub fn above_genesis(&self) -> usize {
        usize::from(self.made) - 1
    }

    /// Makes a block of this weight on `parent`.
    pub fn make(&mut self, parent: BlockId, weight: u8) -> BlockId {
        let id = BlockId(self.made);
        let below = self.blocks[parent.place()];
        self.blocks[id.place()] = Block { chain: below.chain.with(BlockSet::of(id)), weight: below.weight + weight };
        self.made += 1;
        id
    }

    pub fn iter(&self) -> impl Iterator<Item = BlockId> + use<> {
        (0..self.made).map(BlockId)
    }

    /// A block and its ancestors.
    pub fn chain(&self, block: BlockId) -> BlockSet {
        self.blocks[block.place()].chain
    }

    /// The ancestors of a block.
    pub fn ancestors(&self, block: BlockId) -> BlockSet {
        self.chain(block).without(BlockSet::of(block))
    }

    /// Whether `block` is `ancestor` or builds on it.
    pub fn descends(&self, block: BlockId, ancestor: BlockId) -> bool {
        self.chain(block).contains(ancestor)
    }

    /// Whether no chain holds both.
    pub fn conflict(&self, one: BlockId, other: BlockId) -> bool {
        !self.descends(one, other) && !self.descends(other, one)
    }

    /// Whether the chain up to `one` weighs more.
    pub fn is_heavier(&self, one: BlockId, other: BlockId) -> bool {
        self.blocks[one.place()].weight > self.blocks[other.place()].weight
    }

    /// Whether fork choice prefers the chain up to `one`: it is heavier, or as heavy and made earlier (for lower hash).
    pub fn beats(&self, one: BlockId, other: BlockId) -> bool {
        let rank = |block: BlockId| (self.blocks[block.place()].weight, std::cmp::Reverse(block));
        rank(one) > rank(other)
    }

    /// The best of these blocks that descend from `root`, which is the best if there is no other.
    pub fn best_above(&self, root: BlockId, among: impl Iterator<Item = BlockId>) -> BlockId {
        let above = among.filter(|block| self.descends(*block, root));
        above.fold(root, |best, block| if self.beats(block, best) { block } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_chain_may_be_the_heavier_one_and_ties_go_to_the_earlier() {
        let mut blocks = Blocks::genesis();
        let long = [1, 1].into_iter().fold(BlockId::GENESIS, |parent, weight| blocks.make(parent, weight));
        let heavy = blocks.make(BlockId::GENESIS, 3);
        assert!(blocks.beats(heavy, long) && blocks.is_heavier(heavy, long));
        let longer = blocks.make(long, 1);
        assert!(blocks.beats(heavy, longer) && !blocks.is_heavier(heavy, longer));
        assert!(blocks.conflict(heavy, longer) && !blocks.conflict(long, longer));
        assert_eq!(blocks.best_above(BlockId::GENESIS, blocks.iter()), heavy);
        assert_eq!(blocks.best_above(long, blocks.iter()), longer, "what does not descend from the root is no choice");
    }
}
