//! The bridge between fork choice and finality as a model: what may happen next in each state.

use stateright::{Model, Property};

use crate::blocks::{BLOCKS_MAX, BlockId, BlockSet};
use crate::properties;
use crate::state::{DECISIONS_MAX, Mode, Node, Promise, QUORUM, State, Validator, ValidatorSet};

/// A rule of the bridge or an assumption of its claims, to be left out: a check must then fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Omission {
    /// Rule: fork choice starts from the last final block.
    ForkChoiceFromFinal,
    /// Rule: only what descends from the last final block is valid.
    DescentFromFinal,
    /// Rule: nobody votes for what it has not executed.
    ExecutionBeforeVote,
    /// Rule: who returns neither proposes nor votes until it heard every validator or waited long enough.
    Joining,
    /// Rule: nor then, until it executed every heavier chain that those offered.
    Syncing,
    /// Assumption: what had a vote before the survivor was alone may become final after all.
    VotesBeforeTheStop,
    /// Assumption: nobody is cut off while the stopped ones return.
    ReachableOnReturn,
    /// Assumption: both others were down, so that both join; not one of them cut off.
    BothDown,
}

/// How far a check goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Blocks above genesis.
    pub blocks: usize,
    /// What a block may add to its chain's weight.
    pub weights: &'static [u8],
    /// Decisions of the engine.
    pub decisions: usize,
    /// Times that a validator stops.
    pub crashes: u8,
    /// Times that a validator is cut off.
    pub isolations: u8,
}

/// The bridge, with all rules or all but one.
#[derive(Debug, Clone, Copy)]
pub struct Bridge {
    pub bounds: Bounds,
    pub omission: Option<Omission>,
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Makes a block on its canonical head.
    Propose {
        by: Validator,
        weight: u8,
    },
    /// Fetches a block from someone, and executes it.
    Execute {
        at: Validator,
        block: BlockId,
    },
    /// Votes at the decision to come; the vote that completes a quorum decides.
    Vote {
        by: Validator,
        block: BlockId,
    },
    /// Gathers or is sent the certificate that it lacks.
    Certify {
        at: Validator,
    },
    Crash {
        of: Validator,
    },
    Return {
        of: Validator,
    },
    /// A status arrives at one that is not active.
    Hear {
        at: Validator,
        from: Validator,
    },
    /// One that is not active waited long enough for those that it does not hear.
    Timeout {
        at: Validator,
    },
    Isolate {
        of: Validator,
    },
    Heal,
}

impl Omission {
    pub const ALL: [Self; 8] = [
        Self::ForkChoiceFromFinal,
        Self::DescentFromFinal,
        Self::ExecutionBeforeVote,
        Self::Joining,
        Self::Syncing,
        Self::VotesBeforeTheStop,
        Self::ReachableOnReturn,
        Self::BothDown,
    ];
}

impl Bridge {
    fn omits(&self, omission: Omission) -> bool {
        self.omission == Some(omission)
    }

    /// The canonical head: the best executed block above the last final one.
    pub fn head(&self, state: &State, validator: Validator) -> BlockId {
        let root =
            if self.omits(Omission::ForkChoiceFromFinal) { BlockId::GENESIS } else { state.last_final(validator) };
        state.blocks.best_above(root, state.node(validator).executed.iter())
    }

    /// Whether a validator's engine may vote for a block. What it has not executed it neither accepts nor refuses.
    fn is_valid(&self, state: &State, validator: Validator, block: BlockId) -> bool {
        let executed = state.node(validator).executed.contains(block);
        let last_final = state.last_final(validator);
        let descends = block != last_final && state.blocks.descends(block, last_final);
        if executed {
            descends || self.omits(Omission::DescentFromFinal)
        } else {
            self.omits(Omission::ExecutionBeforeVote)
        }
    }

    /// Whether the engine may show a block to a validator: it names it itself, as one on its canonical chain, or another
    /// has voted for it.
    fn is_proposed(&self, state: &State, to: Validator, block: BlockId) -> bool {
        let canonical = state.blocks.descends(self.head(state, to), block);
        canonical || to.others().any(|other| state.node(other).vote == Some(block))
    }

    /// Votes are for the decision to come, by those who know all before.
    fn may_vote(&self, state: &State, by: Validator, block: BlockId) -> bool {
        let node = state.node(by);
        node.mode == Mode::Active
            && node.certificates == state.decided
            && usize::from(state.decided) < self.bounds.decisions
            && node.vote != Some(block)
            && self.is_valid(state, by, block)
            && self.is_proposed(state, by, block)
    }

    fn may_execute(&self, state: &State, at: Validator, block: BlockId) -> bool {
        let node = state.node(at);
        node.is_up()
            && !node.executed.contains(block)
            && state.blocks.ancestors(block).without(node.executed).is_empty()
            && state.reachable(at).any(|other| state.node(other).executed.contains(block))
    }

    /// One that takes part and has executed what was decided can gather the votes itself; everyone else is sent the
    /// certificate by one who holds it.
    fn may_certify(&self, state: &State, at: Validator) -> bool {
        let node = state.node(at);
        let Some(decision) = state.decisions().get(usize::from(node.certificates)) else { return false };
        let gathers = node.mode == Mode::Active && node.executed.contains(*decision);
        let sent = || state.reachable(at).any(|other| state.node(other).certificates > node.certificates);
        node.is_up() && (gathers || sent())
    }

    /// The timing assumption: whoever is up and not cut off is heard before the wait is over, and delivers what it
    /// offered.
    fn may_time_out(&self, state: &State, at: Validator) -> bool {
        let node = state.node(at);
        match node.mode {
            Mode::Joining => state.reachable(at).all(|other| node.heard.contains(other)),
            Mode::Syncing => state.reachable(at).all(|other| !state.node(other).executed.meets(node.wanted)),
            Mode::Down | Mode::Active => false,
        }
    }

    /// Makes a block. Where nobody else is up, it is one that finality should keep.
    fn propose(&self, state: &mut State, by: Validator, weight: u8) {
        let parent = self.head(state, by);
        let block = state.blocks.make(parent, weight);
        let node = state.node_mut(by);
        node.executed = node.executed.with(BlockSet::of(block));
        let down = by.others().filter(|other| !state.node(*other).is_up()).count();
        let cut = state.reachable(by).next().is_none() && self.omits(Omission::BothDown);
        if down == by.others().count() || down > 0 && cut {
            let conflicts = state.decisions().iter().any(|decision| state.blocks.conflict(*decision, block));
            let voted = if self.omits(Omission::VotesBeforeTheStop) { BlockSet::default() } else { state.voted() };
            let promise = Promise { survivor: by, block, voted, handed_over: false };
            state.promise = (!conflicts).then_some(promise);
        }
    }

    fn vote(&self, state: &mut State, by: Validator, block: BlockId) {
        state.node_mut(by).vote = Some(block);
        if state.nodes.iter().filter(|node| node.vote == Some(block)).count() >= QUORUM {
            decide(state, block);
        }
    }

    /// What follows from the last action at once: changes of mode, and whether a promise still stands.
    fn settle(&self, state: &mut State) {
        Validator::all().for_each(|validator| self.change_mode(state, validator));
        let Some(mut promise) = state.promise else { return };
        let modes = || promise.survivor.others().map(|other| state.node(other).mode);
        let (working, returning) = (modes().all(|mode| mode == Mode::Active), modes().any(|mode| mode != Mode::Down));
        promise.handed_over |= working;
        let cut = match self.omission {
            Some(Omission::ReachableOnReturn) => false,
            Some(Omission::BothDown) => state.isolated == Some(promise.survivor),
            _ => state.isolated.is_some() && returning,
        };
        let lost = !state.node(promise.survivor).is_up() || cut;
        state.promise = (promise.handed_over || !lost).then_some(promise);
    }

    fn change_mode(&self, state: &mut State, validator: Validator) {
        let last_final = state.last_final(validator);
        let blocks = state.blocks;
        let node = state.node_mut(validator);
        if node.mode == Mode::Joining
            && (self.omits(Omission::Joining) || validator.others().all(|other| node.heard.contains(other)))
        {
            node.mode = Mode::Syncing;
        }
        let useless = |block: &BlockId| node.executed.contains(*block) || blocks.conflict(*block, last_final);
        let done = node.wanted.iter().filter(useless).fold(BlockSet::default(), |set, it| set.with(BlockSet::of(it)));
        node.wanted = node.wanted.without(done);
        if node.mode == Mode::Syncing && (node.wanted.is_empty() || self.omits(Omission::Syncing)) {
            be_active(node);
        }
    }

    /// A status names the sender's canonical head; its chain is wanted if it is heavier than mine.
    fn hear(&self, state: &mut State, at: Validator, from: Validator) {
        let (mine, offered) = (self.head(state, at), self.head(state, from));
        let chain = state.blocks.chain(offered);
        let heavier = state.blocks.is_heavier(offered, mine);
        let node = state.node_mut(at);
        node.heard = node.heard.with(from);
        if heavier {
            node.wanted = node.wanted.with(chain);
        }
    }
}

/// The engine decides, once for each height; votes at that height are of no use any more. A promise is broken by a lighter
/// chain without an old vote; by a heavier one, or an old vote, it is void.
fn decide(state: &mut State, block: BlockId) {
    if let Some(promise) = state.promise
        && state.blocks.conflict(promise.block, block)
    {
        let rival = state.blocks.best_above(block, state.blocks.iter());
        let lighter = state.blocks.is_heavier(promise.block, rival);
        if lighter && !promise.voted.contains(block) {
            state.abandoned = Some(promise.survivor);
        }
        state.promise = None;
    }
    state.decisions[usize::from(state.decided)] = block;
    state.decided += 1;
    state.nodes.iter_mut().for_each(|node| node.vote = None);
}

fn be_active(node: &mut Node) {
    (node.mode, node.heard, node.wanted) = (Mode::Active, ValidatorSet::default(), BlockSet::default());
}

impl Model for Bridge {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        assert!(self.bounds.decisions <= DECISIONS_MAX, "the state holds {DECISIONS_MAX} decisions");
        assert!(self.bounds.blocks < BLOCKS_MAX, "a set of blocks is one byte");
        vec![State::start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for validator in Validator::all() {
            let node = state.node(validator);
            match node.mode {
                Mode::Down => actions.push(Action::Return { of: validator }),
                Mode::Joining | Mode::Syncing => {
                    actions.extend(state.reachable(validator).map(|from| Action::Hear { at: validator, from }));
                }
                Mode::Active if state.blocks.above_genesis() < self.bounds.blocks => {
                    let weights = self.bounds.weights.iter();
                    actions.extend(weights.map(|weight| Action::Propose { by: validator, weight: *weight }));
                }
                Mode::Active => {}
            }
            for block in state.blocks.iter() {
                if self.may_execute(state, validator, block) {
                    actions.push(Action::Execute { at: validator, block });
                }
                if self.may_vote(state, validator, block) {
                    actions.push(Action::Vote { by: validator, block });
                }
            }
            if self.may_certify(state, validator) {
                actions.push(Action::Certify { at: validator });
            }
            if self.may_time_out(state, validator) {
                actions.push(Action::Timeout { at: validator });
            }
            if node.is_up() && state.crashes < self.bounds.crashes {
                actions.push(Action::Crash { of: validator });
            }
            if state.isolated.is_none() && state.isolations < self.bounds.isolations {
                actions.push(Action::Isolate { of: validator });
            }
        }
        if state.isolated.is_some() {
            actions.push(Action::Heal);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        match action {
            Action::Propose { by, weight } => self.propose(&mut state, by, weight),
            Action::Execute { at, block } => {
                let node = state.node_mut(at);
                node.executed = node.executed.with(BlockSet::of(block));
            }
            Action::Vote { by, block } => self.vote(&mut state, by, block),
            Action::Certify { at } => state.node_mut(at).certificates += 1,
            Action::Crash { of } => {
                let node = state.node_mut(of);
                (node.mode, node.heard, node.wanted) = (Mode::Down, ValidatorSet::default(), BlockSet::default());
                state.crashes += 1;
            }
            Action::Return { of } => state.node_mut(of).mode = Mode::Joining,
            Action::Hear { at, from } => self.hear(&mut state, at, from),
            Action::Timeout { at } => {
                let node = state.node_mut(at);
                match node.mode {
                    Mode::Joining => node.mode = Mode::Syncing,
                    Mode::Syncing => be_active(node),
                    Mode::Down | Mode::Active => unreachable!("only those that wait time out"),
                }
            }
            Action::Isolate { of } => {
                state.isolated = Some(of);
                state.isolations += 1;
            }
            Action::Heal => state.isolated = None,
        }
        self.settle(&mut state);
        for validator in Validator::all() {
            let (before, after) = (last.last_final(validator), state.last_final(validator));
            state.final_moved |= !state.blocks.descends(after, before);
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
