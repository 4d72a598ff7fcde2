//! Where a run stands: three validators, what each has on disk and in mind, and what the checker remembers.

use std::fmt;

use stateright::Representative;

use crate::blocks::{BlockId, BlockSet, Blocks};

/// Validators, each with the same stake.
pub const VALIDATORS: usize = 3;
/// More than half of the stake: the crash model's quorum.
pub const QUORUM: usize = 2;
/// Most decisions of a run.
pub const DECISIONS_MAX: usize = 2;

/// A validator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Validator(pub u8);

impl Validator {
    pub fn all() -> impl Iterator<Item = Self> {
        (0..VALIDATORS as u8).map(Self)
    }

    pub fn others(self) -> impl Iterator<Item = Self> {
        Self::all().filter(move |other| *other != self)
    }
}

impl fmt::Debug for Validator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "v{}", self.0)
    }
}

/// A set of validators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ValidatorSet(u8);

impl ValidatorSet {
    pub fn contains(self, validator: Validator) -> bool {
        self.0 & (1 << validator.0) != 0
    }

    pub fn with(self, validator: Validator) -> Self {
        Self(self.0 | 1 << validator.0)
    }
}

/// What a validator does, as in `zeni-consensus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    Down,
    /// Until every validator is heard or the wait is over.
    Joining,
    /// Until every heavier chain on offer is executed here, or none comes any more.
    Syncing,
    /// Proposes blocks and votes.
    Active,
}

/// One validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    pub mode: Mode,
    /// On disk: blocks executed here. A block comes after its parent.
    pub executed: BlockSet,
    /// On disk: how many decisions it holds a certificate of. It knows the certificate of a decision after those before.
    pub certificates: u8,
    /// On disk: its last vote at the decision to come.
    pub vote: Option<BlockId>,
    /// Whose status came since it returned.
    pub heard: ValidatorSet,
    /// Of the heavier chains that those offered: what is not executed here.
    pub wanted: BlockSet,
}

impl Node {
    pub fn is_up(&self) -> bool {
        self.mode != Mode::Down
    }
}

/// Blocks that a validator made alone, and that the joining rule is there to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Promise {
    pub survivor: Validator,
    /// The last block that it made while both others were down.
    pub block: BlockId,
    /// What had votes at the decision to come when it was made: those are on disk, and may decide yet.
    pub voted: BlockSet,
    /// Whether both others came back to their work since: whatever happens to the survivor now, they hold the block.
    pub handed_over: bool,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub blocks: Blocks,
    pub nodes: [Node; VALIDATORS],
    /// What the engine decided, in order, whoever knows.
    pub decisions: [BlockId; DECISIONS_MAX],
    pub decided: u8,
    /// Who is cut off from both others.
    pub isolated: Option<Validator>,
    pub crashes: u8,
    pub isolations: u8,
    /// For the checker: what finality must not abandon.
    pub promise: Option<Promise>,
    /// For the checker: whose promise a decision broke.
    pub abandoned: Option<Validator>,
    /// For the checker: whether a node's last final block ever was followed by one that does not descend from it.
    pub final_moved: bool,
}

impl State {
    /// All active on genesis, which is final.
    pub fn start() -> Self {
        let node = Node {
            mode: Mode::Active,
            executed: BlockSet::of(BlockId::GENESIS),
            certificates: 0,
            vote: None,
            heard: ValidatorSet::default(),
            wanted: BlockSet::default(),
        };
        Self {
            blocks: Blocks::genesis(),
            nodes: [node; VALIDATORS],
            decisions: [BlockId::GENESIS; DECISIONS_MAX],
            decided: 0,
            isolated: None,
            crashes: 0,
            isolations: 0,
            promise: None,
            abandoned: None,
            final_moved: false,
        }
    }

    pub fn node(&self, validator: Validator) -> &Node {
        &self.nodes[usize::from(validator.0)]
    }

    pub fn node_mut(&mut self, validator: Validator) -> &mut Node {
        &mut self.nodes[usize::from(validator.0)]
    }

    pub fn decisions(&self) -> &[BlockId] {
        &self.decisions[..usize::from(self.decided)]
    }

    /// The other validators that a validator exchanges messages with: up, and neither is cut off.
    pub fn reachable(&self, validator: Validator) -> impl Iterator<Item = Validator> {
        let linked = move |other: Validator| self.isolated.is_none_or(|cut| cut != validator && cut != other);
        validator.others().filter(move |other| self.node(*other).is_up() && linked(*other))
    }

    /// The last final block known here: decided by a certificate held here, and executed here.
    pub fn last_final(&self, validator: Validator) -> BlockId {
        let node = self.node(validator);
        let certified = &self.decisions[..usize::from(node.certificates)];
        certified.iter().copied().rfind(|block| node.executed.contains(*block)).unwrap_or(BlockId::GENESIS)
    }

    /// How many validators executed a block.
    pub fn executed_by(&self, block: BlockId) -> usize {
        self.nodes.iter().filter(|node| node.executed.contains(block)).count()
    }

    /// What has a vote at the decision to come.
    pub fn voted(&self) -> BlockSet {
        let votes = self.nodes.iter().filter_map(|node| node.vote);
        votes.fold(BlockSet::default(), |set, block| set.with(BlockSet::of(block)))
    }

    /// Whether the validators stand by these names in the order of what can be compared without names.
    fn is_in_order(&self, names: [u8; VALIDATORS]) -> bool {
        let key = |node: Node| (node.executed, node.mode, node.certificates, node.vote, node.wanted);
        let mut keys = self.nodes.map(key);
        names.into_iter().zip(self.nodes).for_each(|(name, node)| keys[usize::from(name)] = key(node));
        keys.is_sorted()
    }

    /// The same run with the validators renamed: `names[i]` is the new name of validator i.
    fn renamed(&self, names: [u8; VALIDATORS]) -> Self {
        let name = |validator: Validator| Validator(names[usize::from(validator.0)]);
        let mut renamed = *self;
        for (validator, mut node) in Validator::all().zip(self.nodes) {
            let heard = Validator::all().filter(|other| node.heard.contains(*other));
            node.heard = heard.fold(ValidatorSet::default(), |set, other| set.with(name(other)));
            *renamed.node_mut(name(validator)) = node;
        }
        renamed.isolated = self.isolated.map(name);
        renamed.abandoned = self.abandoned.map(name);
        renamed.promise = self.promise.map(|promise| Promise { survivor: name(promise.survivor), ..promise });
        renamed
    }
}

/// The ways to name three validators.
const NAMINGS: [[u8; VALIDATORS]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

impl Representative for State {
    /// The least of the states that differ from this one in the validators' names only, and have the validators in the
    /// order of what is on them. No rule looks at a name.
    fn representative(&self) -> Self {
        let named = NAMINGS.into_iter().filter(|names| self.is_in_order(*names)).map(|names| self.renamed(names));
        named.min().expect("there is an order")
    }
}
