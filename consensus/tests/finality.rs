//! Networks of finality engines in virtual time: messages late, lost and cut off, processes killed between any two
//! writes, validators that sign twice. Everything follows from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use zeni_consensus::Millis;
use zeni_consensus::finality::engine::Timeouts;
use zeni_consensus::finality::guard::Step;
use zeni_consensus::finality::{
    DoubleSigning, Engine, EngineConfig, EngineFailure, FinalityMessage, Guard, LogEntry, Output, Signed,
    SignedProposal, SignedVote,
};
use zeni_ledger::amount::TokenId;
use zeni_ledger::finality::{FinalityProposal, FinalityVote, VoteKind};
use zeni_ledger::genesis::{FaultModel, Purpose, Rules, Token, Validator};
use zeni_ledger::hash::hash_parts;
use zeni_ledger::{
    AccountId, BlockId, CommitCertificate, FinalBlock, Genesis, GenesisId, PublicKey, SignatureBytes, ValidatorIndex,
};

const START: Millis = Millis(1_700_000_000_000);
/// What a message takes, in milliseconds.
const DELAY_MS: std::ops::RangeInclusive<u64> = 5..=60;
/// No run needs more steps; one that does has stopped making progress.
const STEPS_MAX: usize = 200_000;

fn key(validator: usize) -> SigningKey {
    SigningKey::from_bytes(&[validator as u8 + 1; 32])
}

fn genesis(fault_model: FaultModel, stakes: &[u64]) -> Arc<Genesis> {
    let validator = |(place, stake): (usize, &u64)| Validator {
        name: format!("v{place}"),
        key: PublicKey(key(place).verifying_key().to_bytes()),
        stake: *stake,
        address: String::new(),
    };
    let token = Token { symbol: "ZEN".into(), decimals: 0, issuer: AccountId([9; 32]) };
    Arc::new(Genesis {
        purpose: Purpose::Test,
        fault_model,
        time_ms: START.0,
        block_interval_ms: 1_000,
        state_depth: 4,
        batches_max: 10,
        rules: Rules { network: 7, validity_max_s: 7_200, tokens: BTreeMap::from([(TokenId(1), token)]) },
        validators: stakes.iter().enumerate().map(validator).collect(),
        accounts: 0,
        accounts_digest: [0; 32],
        accounts_file: String::new(),
    })
}

/// What a validator's disk holds.
#[derive(Debug, Default, Clone)]
struct Disk {
    log: Vec<LogEntry>,
    guard: Guard,
    certificates: BTreeMap<u64, CommitCertificate>,
}

struct Node {
    validator: usize,
    /// `None` while it is down.
    engine: Option<Engine>,
    disk: Disk,
    /// Whether it answers what it is asked for a verdict.
    judges: bool,
    /// What its own proposals differ in from those of other copies of it.
    flavour: u8,
    /// Writes and messages so far; it dies before the one of this number, and starts again a little later.
    operations: usize,
    dies_at: Option<usize>,
}

/// What is to happen.
enum Happening {
    Message { from: usize, to: usize, message: FinalityMessage },
    Verdict { node: usize, block: FinalBlock },
    Restart { node: usize },
}

struct Network {
    genesis: Arc<Genesis>,
    id: GenesisId,
    now: Millis,
    dice: ChaCha8Rng,
    nodes: Vec<Node>,
    to_come: BTreeMap<(Millis, u64), Happening>,
    count: u64,
    /// Pairs of nodes, from and to, between which nothing passes.
    cut: BTreeSet<(usize, usize)>,
    /// Of a hundred messages so many are lost.
    loss_percent: u32,
    /// Blocks that no honest validator finds valid.
    invalid: BTreeSet<FinalBlock>,
    /// Everything that left a node: what was signed at each place.
    said: BTreeMap<(usize, u64, u32, Step), BTreeSet<[u8; 32]>>,
    evidence: Vec<DoubleSigning>,
    failures: Vec<(usize, EngineFailure)>,
    /// Decisions after which a node rests.
    last_decision: u64,
    /// On a restart the log is not there.
    log_lost: bool,
    /// On a restart the guard's record is not there.
    guard_lost: bool,
}

impl Network {
    fn new(fault_model: FaultModel, stakes: &[u64], seed: u64) -> Self {
        let genesis = genesis(fault_model, stakes);
        let node = |validator| Node {
            validator,
            engine: None,
            disk: Disk::default(),
            judges: true,
            flavour: 0,
            operations: 0,
            dies_at: None,
        };
        Self {
            id: genesis.id(),
            now: START,
            dice: ChaCha8Rng::seed_from_u64(seed),
            nodes: (0..stakes.len()).map(node).collect(),
            genesis,
            to_come: BTreeMap::new(),
            count: 0,
            cut: BTreeSet::new(),
            loss_percent: 0,
            invalid: BTreeSet::new(),
            said: BTreeMap::new(),
            evidence: Vec::new(),
            failures: Vec::new(),
            last_decision: 3,
            log_lost: false,
            guard_lost: false,
        }
    }

    fn equal(fault_model: FaultModel, validators: usize, seed: u64) -> Self {
        Self::new(fault_model, &vec![1; validators], seed)
    }

    /// Adds a second copy of a validator. It proposes other blocks.
    fn add_twin(&mut self, validator: usize) -> usize {
        self.nodes.push(Node {
            validator,
            engine: None,
            disk: Disk::default(),
            judges: true,
            flavour: 1,
            operations: 0,
            dies_at: None,
        });
        self.nodes.len() - 1
    }

    fn cut_between(&mut self, some: &[usize], others: &[usize]) {
        for a in some {
            for b in others {
                self.cut.extend([(*a, *b), (*b, *a)]);
            }
        }
    }

    fn engine_of(&self, node: usize) -> Engine {
        let config = EngineConfig {
            me: ValidatorIndex(self.nodes[node].validator as u16),
            key: key(self.nodes[node].validator),
            genesis: Arc::clone(&self.genesis),
            timeouts: Timeouts::default(),
            quorum: self.genesis.fault_model.quorum_ratio(),
        };
        let guard = if self.guard_lost { Guard::default() } else { self.nodes[node].disk.guard };
        Engine::new(config, guard)
    }

    /// Starts a process on what the disk holds.
    fn start(&mut self, node: usize) {
        let mut engine = self.engine_of(node);
        let disk = &self.nodes[node].disk;
        let decision = disk.certificates.keys().next_back().map_or(1, |last| last + 1);
        let log = if self.log_lost { Vec::new() } else { disk.log.clone() };
        let outputs = engine.recover(self.now, decision, &log);
        self.nodes[node].engine = Some(engine);
        self.carry_out(node, outputs);
    }

    fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.start(node));
    }

    fn later(&mut self, delay: u64, happening: Happening) {
        self.count += 1;
        self.to_come.insert((self.now + delay, self.count), happening);
    }

    /// Counts a write or a message. False: the process dies before it.
    fn lives(&mut self, node: usize) -> bool {
        let entry = &mut self.nodes[node];
        if entry.dies_at == Some(entry.operations) {
            entry.dies_at = None;
            entry.engine = None;
            self.later(200, Happening::Restart { node });
            return false;
        }
        entry.operations += 1;
        true
    }

    /// Does what the engine asks in the order that it prescribes: entries, then the guard, then messages.
    fn carry_out(&mut self, node: usize, outputs: Result<Vec<Output>, EngineFailure>) {
        let outputs = match outputs {
            Ok(outputs) => outputs,
            Err(failure) => {
                self.nodes[node].engine = None;
                return self.failures.push((node, failure));
            }
        };
        for output in &outputs {
            if let Output::Log(entry) = output {
                if !self.lives(node) {
                    return;
                }
                self.nodes[node].disk.log.push(entry.clone());
            }
        }
        let guard = self.nodes[node].engine.as_ref().expect("it gave these outputs").guard();
        if guard != self.nodes[node].disk.guard {
            if !self.lives(node) {
                return;
            }
            self.nodes[node].disk.guard = guard;
        }
        let mut decided = None;
        for output in outputs {
            match output {
                Output::Log(_) => {}
                Output::Send(message) => {
                    if !self.lives(node) {
                        return;
                    }
                    self.note(&message);
                    self.send_to_all(node, &message);
                }
                Output::Propose { decision, round } => {
                    let block = self.block(node, decision, round);
                    let outputs = self.nodes[node].engine.as_mut().map(|engine| engine.propose(self.now, round, block));
                    if let Some(outputs) = outputs {
                        self.carry_out(node, outputs);
                    }
                }
                Output::Judge(block) => {
                    if self.nodes[node].judges {
                        let delay = self.dice.random_range(DELAY_MS);
                        self.later(delay, Happening::Verdict { node, block });
                    }
                }
                Output::Decided(certificate) => decided = Some(certificate),
                Output::Evidence(evidence) => self.evidence.push(evidence),
            }
        }
        if let Some(certificate) = decided {
            assert_eq!(certificate.verify(&self.genesis, &self.id), Ok(()), "a decision convinces a stranger");
            self.decided(node, certificate);
        }
    }

    /// What a proposer finds worth making final: a name that tells who proposed it.
    fn block(&self, node: usize, decision: u64, round: u32) -> FinalBlock {
        let Node { validator, flavour, .. } = &self.nodes[node];
        let who = [*validator as u8, *flavour];
        let id = hash_parts("test block", &[&decision.to_le_bytes(), &round.to_le_bytes(), &who]);
        FinalBlock { id: BlockId(id), height: decision * 10 }
    }

    /// Keeps a decision and begins the next.
    fn decided(&mut self, node: usize, certificate: CommitCertificate) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        for other in &self.nodes {
            if let Some(theirs) = other.disk.certificates.get(&certificate.decision) {
                assert_eq!(theirs.block, certificate.block, "two blocks became final in one decision");
            }
        }
        let decision = certificate.decision;
        if !self.lives(node) {
            return;
        }
        let disk = &mut self.nodes[node].disk;
        disk.certificates.insert(decision, certificate);
        disk.log.clear();
        if decision < self.last_decision {
            let outputs = self.nodes[node].engine.as_mut().map(|engine| engine.start(self.now, decision + 1));
            self.carry_out(node, outputs.expect("it is up"));
        }
    }

    /// Notes what a message signs, to find out whether anybody signs twice.
    fn note(&mut self, message: &FinalityMessage) {
        let (place, digest) = match message {
            FinalityMessage::Vote(SignedVote { voter, vote, .. }) => {
                let step = if vote.kind == VoteKind::Prevote { Step::Prevote } else { Step::Precommit };
                ((voter.as_usize(), vote.decision, vote.round, step), vote.digest(&self.id))
            }
            FinalityMessage::Proposal(SignedProposal { proposer, proposal, .. }) => {
                ((proposer.as_usize(), proposal.decision, proposal.round, Step::Propose), proposal.digest(&self.id))
            }
            FinalityMessage::Polka(_) | FinalityMessage::Round(_) | FinalityMessage::Commit(_) => return,
        };
        self.said.entry(place).or_default().insert(digest);
    }

    fn signed_twice(&self) -> bool {
        self.said.values().any(|digests| digests.len() > 1)
    }

    fn send_to_all(&mut self, from: usize, message: &FinalityMessage) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            self.send(from, to, message);
        }
    }

    /// Every message crosses as bytes.
    fn send(&mut self, from: usize, to: usize, message: &FinalityMessage) {
        let delay = self.dice.random_range(DELAY_MS);
        if self.cut.contains(&(from, to)) || self.dice.random_range(0..100) < self.loss_percent {
            return;
        }
        let message = FinalityMessage::from_bytes(&message.to_bytes()).expect("what is written can be read");
        self.later(delay, Happening::Message { from, to, message });
    }

    fn receive(&mut self, from: usize, to: usize, message: &FinalityMessage) {
        let Node { engine: Some(engine), disk, .. } = &mut self.nodes[to] else { return };
        if let FinalityMessage::Commit(certificate) = message {
            let new =
                certificate.decision >= engine.decision() && !disk.certificates.contains_key(&certificate.decision);
            if new && certificate.verify(&self.genesis, &self.id).is_ok() {
                self.decided(to, certificate.clone());
            }
            return;
        }
        // Who speaks of a decision that is over has not heard of its end.
        if let Some(certificate) = disk.certificates.get(&message.decision()) {
            let commit = FinalityMessage::Commit(certificate.clone());
            return self.send(to, from, &commit);
        }
        let outputs = engine.receive(self.now, message);
        self.carry_out(to, outputs);
    }

    /// Lets one thing happen, or a timer run out.
    fn step(&mut self) {
        let timer = |(node, entry): (usize, &Node)| Some((entry.engine.as_ref()?.next_deadline()?, node));
        let timer = self.nodes.iter().enumerate().filter_map(timer).min();
        let next = self.to_come.keys().next().copied();
        match (next, timer) {
            (Some(key), deadline) if deadline.is_none_or(|(at, _)| key.0 <= at) => {
                self.now = self.now.max(key.0);
                match self.to_come.remove(&key).expect("it is the first") {
                    Happening::Message { from, to, message } => self.receive(from, to, &message),
                    Happening::Restart { node } => self.start(node),
                    Happening::Verdict { node, block } => {
                        let valid = !self.invalid.contains(&block);
                        let engine = self.nodes[node].engine.as_mut();
                        if let Some(outputs) = engine.map(|engine| engine.judge(self.now, block, valid)) {
                            self.carry_out(node, outputs);
                        }
                    }
                }
            }
            (_, Some((at, node))) => {
                self.now = self.now.max(at);
                let outputs = self.nodes[node].engine.as_mut().map(|engine| engine.tick(self.now));
                self.carry_out(node, outputs.expect("its timer runs"));
            }
            _ => self.now = self.now + 1_000,
        }
    }

    fn run_for(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end {
            self.step();
        }
    }

    fn all_decided(&self, among: &[usize]) -> bool {
        among.iter().all(|node| self.nodes[*node].disk.certificates.contains_key(&self.last_decision))
    }

    /// Runs until these nodes know the last decision.
    fn run_until_decided(&mut self, among: &[usize]) {
        let mut steps = 0;
        while !self.all_decided(among) {
            self.step();
            steps += 1;
            assert!(steps < STEPS_MAX, "no decision after {} ms", self.now.since(START));
        }
    }

    fn last_block(&self, node: usize) -> FinalBlock {
        self.nodes[node].disk.certificates[&self.last_decision].block
    }
}

fn everybody(network: &Network) -> Vec<usize> {
    (0..network.nodes.len()).collect()
}

#[test]
fn validators_agree_however_late_and_lost_their_messages_are() {
    for seed in 0..40 {
        for (model, validators) in [
            (FaultModel::Crash, 1),
            (FaultModel::Crash, 2),
            (FaultModel::Crash, 3),
            (FaultModel::Byzantine, 4),
            (FaultModel::Byzantine, 7),
        ] {
            let mut network = Network::equal(model, validators, seed);
            network.loss_percent = [0, 10, 30][seed as usize % 3];
            network.start_all();
            network.run_until_decided(&everybody(&network));
            assert!(!network.signed_twice() && network.evidence.is_empty(), "seed {seed}, {model:?} of {validators}");
            assert_eq!(network.failures, [], "seed {seed}, {model:?} of {validators}");
        }
    }
}

#[test]
fn a_quorum_is_needed_and_enough() {
    // Stake of all, who is up, and whether that decides.
    let cases: [(FaultModel, &[u64], &[usize], bool); 8] = [
        (FaultModel::Crash, &[1, 1, 1], &[0, 1], true),
        (FaultModel::Crash, &[1, 1, 1], &[2], false),
        (FaultModel::Crash, &[1, 1, 1, 1], &[0, 1], false),
        (FaultModel::Crash, &[5, 1, 1], &[0], true),
        (FaultModel::Crash, &[5, 1, 1], &[1, 2], false),
        (FaultModel::Byzantine, &[1, 1, 1, 1], &[0, 1, 3], true),
        (FaultModel::Byzantine, &[1, 1, 1, 1], &[0, 3], false),
        (FaultModel::Byzantine, &[1, 1, 1], &[0, 1], false),
    ];
    for (model, stakes, up, decides) in cases {
        let mut network = Network::new(model, stakes, 1);
        up.iter().for_each(|node| network.start(*node));
        network.run_for(120_000);
        assert_eq!(network.all_decided(up), decides, "{model:?}, stakes {stakes:?}, up {up:?}");
        assert!(decides || network.nodes.iter().all(|node| node.disk.certificates.is_empty()), "not even one");
    }
}

#[test]
fn nothing_becomes_final_in_parts_and_everything_after_healing() {
    for seed in 0..30 {
        let mut network = Network::equal(FaultModel::Crash, 3, seed);
        network.cut_between(&[0], &[1, 2]);
        network.cut_between(&[1], &[2]);
        network.start_all();
        network.run_for(60_000);
        assert!(network.nodes.iter().all(|node| node.disk.certificates.is_empty()), "seed {seed}");
        network.cut.clear();
        let healed = network.now;
        network.run_until_decided(&[0, 1, 2]);
        let took = network.now.since(healed);
        assert!(took < 60_000, "seed {seed}: {took} ms of virtual time after healing");
        assert!(!network.signed_twice(), "seed {seed}");
    }
}

#[test]
fn one_that_was_cut_off_catches_up_by_certificates() {
    for seed in 0..30 {
        let mut network = Network::equal(FaultModel::Crash, 3, seed);
        network.last_decision = 6;
        network.cut_between(&[0], &[1, 2]);
        network.start_all();
        network.run_until_decided(&[1, 2]);
        network.run_for(5_000);
        assert!(network.nodes[0].disk.certificates.is_empty(), "seed {seed}");
        network.cut.clear();
        network.run_until_decided(&[0]);
        assert_eq!(network.last_block(0), network.last_block(1), "seed {seed}");
    }
}

/// Three validators of which one dies before its operation `dies_at`.
fn killed(validator: usize, dies_at: usize) -> Network {
    let mut network = Network::equal(FaultModel::Crash, 3, 5);
    network.nodes[validator].dies_at = Some(dies_at);
    network
}

/// How many writes and messages a validator makes when nobody dies.
fn operations(validator: usize) -> usize {
    let mut network = killed(validator, usize::MAX);
    network.start_all();
    network.run_until_decided(&[0, 1, 2]);
    network.nodes[validator].operations
}

#[test]
fn a_crash_between_any_two_writes_never_signs_twice() {
    for validator in 0..3 {
        let positions = operations(validator);
        assert!(positions > 20, "a run has writes and messages to die between: {positions}");
        for dies_at in 0..positions {
            let mut network = killed(validator, dies_at);
            network.start_all();
            network.run_until_decided(&[0, 1, 2]);
            assert_eq!(network.nodes[validator].dies_at, None, "validator {validator} died before {dies_at}");
            assert!(!network.signed_twice(), "validator {validator} died before {dies_at} and signed twice");
            assert_eq!(network.failures, [], "validator {validator} died before {dies_at}");
        }
    }
}

/// A torn write may keep what led to a vote and lose the vote. The replay casts it then, for the first time: into the log.
#[test]
fn what_a_replay_signs_is_logged() {
    let network = Network::equal(FaultModel::Crash, 3, 1);
    let proposer = network.engine_of(0).proposer(1, 0).as_usize();
    let mut engine = network.engine_of(proposer);
    let mut outputs = engine.recover(START, 1, &[]).unwrap();
    let block = FinalBlock { id: BlockId([7; 32]), height: 1 };
    outputs.extend(engine.propose(START, 0, block).unwrap());
    let logged = |outputs: &[Output]| -> Vec<LogEntry> {
        outputs
            .iter()
            .filter_map(|output| if let Output::Log(entry) = output { Some(entry.clone()) } else { None })
            .collect()
    };
    let log = logged(&outputs);
    let mut cast_anew = 0;
    for kept in 0..=log.len() {
        let mut restarted = network.engine_of(proposer);
        let outputs = restarted.recover(START, 1, &log[..kept]).unwrap();
        let written = logged(&outputs);
        for output in &outputs {
            let entry = match output {
                Output::Send(FinalityMessage::Vote(signed)) => LogEntry::Vote(*signed),
                Output::Send(FinalityMessage::Proposal(signed)) => LogEntry::Proposal(*signed),
                _ => continue,
            };
            let before = log[..kept].contains(&entry);
            assert!(before || written.contains(&entry), "{kept} of {} entries kept: {entry:?}", log.len());
            assert!(!(before && written.contains(&entry)), "logged twice: {entry:?}");
            cast_anew += usize::from(!before);
        }
    }
    assert!(cast_anew > 0, "a vote is lost between what led to it and the end: {log:?}");
}

#[test]
fn all_crash_at_once_and_decide_after_all() {
    for dies_at in 0..operations(0) {
        let mut network = Network::equal(FaultModel::Crash, 3, 5);
        network.nodes.iter_mut().for_each(|node| node.dies_at = Some(dies_at));
        network.start_all();
        network.run_until_decided(&[0, 1, 2]);
        assert!(!network.signed_twice(), "all died before {dies_at}");
        assert_eq!(network.failures, [], "all died before {dies_at}");
    }
}

/// How often one of three signs twice or is stopped by its guard when it dies anywhere.
fn harm(log_lost: bool, guard_lost: bool) -> (usize, usize) {
    let (mut twice, mut stopped) = (0, 0);
    for validator in 0..3 {
        for dies_at in 0..operations(validator) {
            let mut network = killed(validator, dies_at);
            (network.log_lost, network.guard_lost) = (log_lost, guard_lost);
            network.start_all();
            network.run_for(30_000);
            twice += usize::from(network.signed_twice());
            stopped += usize::from(!network.failures.is_empty());
        }
    }
    (twice, stopped)
}

#[test]
fn the_guard_holds_where_the_log_is_lost() {
    let (twice, stopped) = harm(true, true);
    assert!(twice > 0 && stopped == 0, "without log and guard, of all deaths some sign twice: {twice}, {stopped}");
    let (twice, stopped) = harm(true, false);
    assert!(twice == 0 && stopped > 0, "the guard refuses what the log would have prevented: {twice}, {stopped}");
}

#[test]
fn the_log_alone_recalls_what_the_guard_forgot() {
    let (twice, stopped) = harm(false, true);
    assert_eq!((twice, stopped), (0, 0));
}

#[test]
fn what_was_not_judged_gets_no_vote_and_what_is_invalid_is_not_decided() {
    let mut network = Network::equal(FaultModel::Crash, 3, 9);
    network.last_decision = 1;
    network.nodes.iter_mut().for_each(|node| node.judges = false);
    network.start_all();
    network.run_for(30_000);
    assert!(network.nodes.iter().all(|node| node.disk.certificates.is_empty()), "nobody executed what was proposed");

    let mut network = Network::equal(FaultModel::Crash, 3, 9);
    network.last_decision = 1;
    let first = network.engine_of(0).proposer(1, 0).as_usize();
    let invalid = network.block(first, 1, 0);
    network.invalid.insert(invalid);
    network.start_all();
    network.run_until_decided(&[0, 1, 2]);
    assert_ne!(network.last_block(0), invalid);
    assert!(network.nodes[0].disk.certificates[&1].round > 0, "another round's proposer proposed a valid one");
}

#[test]
fn proposers_are_drawn_in_proportion_to_stake() {
    let network = Network::new(FaultModel::Crash, &[6, 3, 1], 0);
    let engine = network.engine_of(0);
    let mut drawn = [0; 3];
    for decision in 1..=1_000 {
        for round in 0..10 {
            drawn[engine.proposer(decision, round).as_usize()] += 1;
        }
    }
    for (count, expected) in drawn.into_iter().zip([6_000_i64, 3_000, 1_000]) {
        // Six standard deviations of ten thousand draws, at most 49 each.
        assert!((i64::from(count) - expected).abs() < 300, "{drawn:?}");
    }
}

#[test]
fn one_of_four_that_signs_twice_changes_nothing_and_leaves_evidence() {
    let mut found = 0;
    for seed in 0..30 {
        let mut network = Network::equal(FaultModel::Byzantine, 4, seed);
        network.last_decision = 8;
        let twin = network.add_twin(3);
        // Each copy is heard by everybody but the other.
        network.cut_between(&[3], &[twin]);
        network.start_all();
        network.run_until_decided(&[0, 1, 2]);
        network.nodes.iter_mut().for_each(|node| {
            let rest = node.engine.as_mut().map(Engine::give_up).unwrap_or_default();
            network.evidence.extend(rest.into_iter().filter_map(|output| match output {
                Output::Evidence(evidence) => Some(evidence),
                _ => None,
            }));
        });
        for evidence in &network.evidence {
            assert!(evidence.holds(&network.genesis, &network.id), "seed {seed}: {evidence:?}");
            assert_eq!(evidence.signer(), ValidatorIndex(3), "seed {seed}: nobody else is accused");
        }
        assert_eq!(network.signed_twice(), !network.evidence.is_empty(), "seed {seed}");
        found += usize::from(!network.evidence.is_empty());
    }
    assert!(found > 10, "most runs have the two copies contradict each other: {found} of 30");
}

#[test]
fn what_is_signed_by_nobody_moves_nothing() {
    let mut network = Network::equal(FaultModel::Byzantine, 4, 3);
    let mut engine = network.engine_of(0);
    engine.recover(START, 1, &[]).expect("it starts");
    let block = network.block(1, 1, 0);
    let vote = |voter: u16, decision| {
        let vote = FinalityVote { kind: VoteKind::Precommit, decision, round: 0, block: Some(block) };
        // Signed with another's key.
        let signature = SignatureBytes(key(0).sign(&vote.digest(&network.id)).to_bytes());
        FinalityMessage::Vote(SignedVote { voter: ValidatorIndex(voter), vote, signature })
    };
    let proposer = engine.proposer(1, 0);
    let proposal = FinalityProposal { decision: 1, round: 0, valid_round: None, block };
    let forged = SignatureBytes(key(9).sign(&proposal.digest(&network.id)).to_bytes());
    let proposal = FinalityMessage::Proposal(SignedProposal { proposer, proposal, signature: forged });
    for message in [proposal, vote(1, 1), vote(2, 1), vote(3, 1), vote(900, 1), vote(2, 2), vote(2, 5), vote(2, 0)] {
        assert_eq!(engine.receive(START, &message), Ok(Vec::new()), "{message:?}");
    }
    network.start_all();
    network.run_until_decided(&[0, 1, 2, 3]);
}

#[test]
fn messages_of_coming_decisions_are_kept_within_bounds() {
    let network = Network::equal(FaultModel::Byzantine, 4, 3);
    let mut engine = network.engine_of(0);
    engine.recover(START, 1, &[]).expect("it starts");
    for decision in 2..2_000 {
        for round in 0..20 {
            let block = Some(network.block(1, decision, round));
            let vote = FinalityVote { kind: VoteKind::Prevote, decision, round, block };
            let signature = SignatureBytes(key(1).sign(&vote.digest(&network.id)).to_bytes());
            let message = FinalityMessage::Vote(SignedVote { voter: ValidatorIndex(1), vote, signature });
            assert_eq!(engine.receive(START, &message), Ok(Vec::new()));
        }
        if decision == 20 {
            break;
        }
    }
    assert!(engine.messages_ahead() <= 4 * 8 * 4, "{} are kept", engine.messages_ahead());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut network = Network::equal(FaultModel::Byzantine, 4, seed);
        network.loss_percent = 20;
        network.start_all();
        network.run_until_decided(&[0, 1, 2, 3]);
        let said: Vec<_> = network.said.into_iter().collect();
        (network.now, network.count, said)
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn a_guard_is_raised_by_every_signature() {
    let mut network = Network::equal(FaultModel::Crash, 1, 0);
    network.last_decision = 1;
    network.start_all();
    network.run_until_decided(&[0]);
    let last: Signed = network.nodes[0].disk.guard.last().expect("it voted");
    assert_eq!((last.decision, last.round, last.step), (1, 0, Step::Precommit));
}
