//! A few cores in one process, with perfect disks and a network that delivers in order after one millisecond.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part of the harness")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use zeni_consensus::chain::Bounds;
use zeni_consensus::core::{Config, Core, Recovered};
use zeni_consensus::finality::LogEntry;
use zeni_consensus::{
    Archive, ArchiveError, BatchMeta, Effect, Event, HaltReason, Input, Message, Millis, Mode, Peer, Record, RequestId,
    SafetyRecord, Verdict,
};
use zeni_ledger::genesis::{FaultModel, Purpose, Rules, Token, Validator, account_file, accounts_digest};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{
    AccountId, Amount, BatchDigest, Block, BlockId, CommitCertificate, Genesis, Payment, PublicKey, Sequence, State,
    TokenId, Undo, ValidatorIndex, VerifiedBatch,
};

pub const TOKEN: TokenId = TokenId(1);
pub const INTERVAL_MS: u64 = 1_000;
pub const START: u64 = 1_700_000_000_000;
pub const ACCOUNTS: u8 = 20;

/// The key of account `number`.
pub fn account_key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number + 100; 32])
}

pub fn account(number: u8) -> AccountId {
    AccountId(account_key(number).verifying_key().to_bytes())
}

pub fn validator_key(validator: u16) -> SigningKey {
    SigningKey::from_bytes(&[validator as u8 + 1; 32])
}

/// A ledger of `validators` equal ones, in which account i holds 1,000 units.
pub fn genesis(validators: u16) -> (Arc<Genesis>, Vec<u8>) {
    let records: Vec<_> = (0..ACCOUNTS).map(|number| (account(number), TOKEN, Amount(1_000))).collect();
    let file = account_file(records.into_iter());
    let token = Token { symbol: "ZEN".into(), decimals: 0, issuer: AccountId([9; 32]) };
    let validator = |index: u16| Validator {
        name: format!("v{index}"),
        key: PublicKey(validator_key(index).verifying_key().to_bytes()),
        stake: 1,
        address: String::new(),
    };
    let genesis = Genesis {
        purpose: Purpose::Test,
        fault_model: FaultModel::Crash,
        time_ms: START,
        block_interval_ms: INTERVAL_MS,
        state_depth: 4,
        batches_max: 1_000,
        rules: Rules { network: 7, validity_max_s: 7_200, tokens: BTreeMap::from([(TOKEN, token)]) },
        validators: (0..validators).map(validator).collect(),
        accounts: ACCOUNTS.into(),
        accounts_digest: accounts_digest(&file),
        accounts_file: String::new(),
    };
    (Arc::new(genesis), file)
}

/// A signed payment of `amount` from one account to another.
pub fn payment(genesis: &Genesis, from: u8, to: u8, sequence: u64, amount: u64) -> Payment {
    let body = PaymentBody {
        network: 7,
        valid_until: (START / 1_000) as u32 + 7_000,
        from: account(from),
        to: account(to),
        sequence: Sequence(sequence),
        amount: Amount(amount),
        token: TOKEN,
        flags: 0,
        reference: [0; 16],
    };
    body.sign(&account_key(from), &genesis.id())
}

/// A disk that never fails.
#[derive(Debug, Default)]
pub struct Disk {
    pub batches: BTreeMap<BatchDigest, VerifiedBatch>,
    pub batch_order: Vec<BatchMeta>,
    pub blocks: Vec<Arc<Block>>,
    pub block_ids: BTreeMap<BlockId, Arc<Block>>,
    pub undos: BTreeMap<BlockId, Arc<Undo>>,
    /// How often an undo record was read.
    pub undo_reads: Cell<u64>,
    pub safety: Option<SafetyRecord>,
    pub certificates: Vec<CommitCertificate>,
    pub finality: Vec<(u64, LogEntry)>,
    /// The state that a start begins with, its block and height; that of genesis if there is none.
    pub checkpoint: Option<(State, BlockId, u64)>,
}

impl Archive for Disk {
    fn batch(&self, digest: &BatchDigest) -> Result<Option<VerifiedBatch>, ArchiveError> {
        Ok(self.batches.get(digest).cloned())
    }

    fn block(&self, id: &BlockId) -> Result<Option<Arc<Block>>, ArchiveError> {
        Ok(self.block_ids.get(id).cloned())
    }

    fn undo(&self, block: &BlockId) -> Result<Option<Arc<Undo>>, ArchiveError> {
        self.undo_reads.set(self.undo_reads.get() + 1);
        Ok(self.undos.get(block).cloned())
    }
}

/// One node: a core, its disk, and what it said.
pub struct Node {
    pub core: Option<Core>,
    pub disk: Disk,
    pub wake: Millis,
    pub events: Vec<Event>,
    pub replies: BTreeMap<RequestId, Vec<Verdict>>,
    pub halted: Option<HaltReason>,
    pub published: Vec<Message>,
}

/// All of them and the network between.
pub struct Cluster {
    pub genesis: Arc<Genesis>,
    pub file: Vec<u8>,
    pub nodes: Vec<Node>,
    pub now: Millis,
    pub cut: BTreeSet<(u16, u16)>,
    /// What nodes sent to their own key.
    pub said_to_itself: Vec<Message>,
    queue: VecDeque<(u16, Input)>,
    requests: u64,
    boots: u64,
}

impl Cluster {
    /// Starts `validators` nodes that know each other.
    pub fn start(validators: u16) -> Self {
        let (genesis, file) = genesis(validators);
        let mut cluster = Self {
            genesis,
            file,
            nodes: Vec::new(),
            now: Millis(START + 10),
            cut: BTreeSet::new(),
            said_to_itself: Vec::new(),
            queue: VecDeque::new(),
            requests: 0,
            boots: 0,
        };
        for _ in 0..validators {
            let disk = Disk { safety: Some(SafetyRecord::default()), ..Disk::default() };
            cluster.nodes.push(Node {
                core: None,
                disk,
                wake: Millis(0),
                events: Vec::new(),
                replies: BTreeMap::new(),
                halted: None,
                published: Vec::new(),
            });
        }
        for validator in 0..validators {
            cluster.boot(validator);
        }
        cluster
    }

    /// Starts a node from its disk and connects it.
    pub fn boot(&mut self, validator: u16) {
        self.boots += 1;
        let disk = &self.nodes[usize::from(validator)].disk;
        let first = || (self.genesis.state(&self.file).unwrap(), self.genesis.block_id(), 0);
        let (state, checkpoint, checkpoint_height) = disk.checkpoint.clone().unwrap_or_else(first);
        let recovered = Recovered {
            state,
            checkpoint,
            checkpoint_height,
            blocks: disk.blocks.clone(),
            batches: disk.batch_order.clone(),
            certificates: disk.certificates.clone(),
            finality: disk.finality.clone(),
            votes_lost: false,
            safety: disk.safety,
        };
        let config = Config {
            me: ValidatorIndex(validator),
            key: validator_key(validator),
            boot: self.boots,
            nonce: 1_000 + self.boots,
            joining_ms: 60_000,
            bounds: Bounds { step_payments_max: 3, undo_accounts_kept: 3 },
        };
        let (core, effects) = Core::recover(config, self.genesis.clone(), recovered, self.now).unwrap();
        self.nodes[usize::from(validator)].core = Some(core);
        self.apply(validator, effects);
        for other in 0..self.nodes.len() as u16 {
            if other != validator && self.is_up(other) && !self.is_cut(other, validator) {
                self.connect(validator, other);
            }
        }
    }

    fn connect(&mut self, one: u16, other: u16) {
        self.queue.push_back((one, Input::Connected(ValidatorIndex(other))));
        self.queue.push_back((other, Input::Connected(ValidatorIndex(one))));
    }

    /// Ends a node's process; its disk stays.
    pub fn kill(&mut self, validator: u16) {
        self.nodes[usize::from(validator)].core = None;
        self.queue.retain(|(to, _)| *to != validator);
        for other in 0..self.nodes.len() as u16 {
            self.queue.push_back((other, Input::Disconnected(ValidatorIndex(validator))));
        }
    }

    pub fn is_up(&self, validator: u16) -> bool {
        self.nodes[usize::from(validator)].core.is_some()
    }

    fn is_cut(&self, one: u16, other: u16) -> bool {
        self.cut.contains(&(one.min(other), one.max(other)))
    }

    /// Cuts the link between two nodes.
    pub fn cut(&mut self, one: u16, other: u16) {
        self.cut.insert((one.min(other), one.max(other)));
        self.queue.push_back((one, Input::Disconnected(ValidatorIndex(other))));
        self.queue.push_back((other, Input::Disconnected(ValidatorIndex(one))));
    }

    /// Loses whatever is said between two nodes, without a word to either.
    pub fn silence(&mut self, one: u16, other: u16) {
        self.cut.insert((one.min(other), one.max(other)));
    }

    /// Mends every link.
    pub fn heal(&mut self) {
        for (one, other) in std::mem::take(&mut self.cut) {
            if self.is_up(one) && self.is_up(other) {
                self.connect(one, other);
            }
        }
    }

    /// Gives a node one input now.
    pub fn give(&mut self, validator: u16, input: Input) {
        let node = &mut self.nodes[usize::from(validator)];
        let Some(core) = node.core.as_mut() else { return };
        let effects = core.step(self.now, input, &node.disk);
        self.apply(validator, effects);
    }

    fn apply(&mut self, validator: u16, effects: Vec<Effect>) {
        let mut outgoing = Vec::new();
        let node = &mut self.nodes[usize::from(validator)];
        for effect in effects {
            match effect {
                Effect::Append(Record::Batch(batch)) => {
                    let inner = batch.batch();
                    let payments = inner.payments.len() as u32;
                    let (digest, author, number) = (batch.digest(), inner.author, inner.number);
                    node.disk.batch_order.push(BatchMeta { digest, author, number, payments });
                    node.disk.batches.insert(digest, batch);
                }
                Effect::Append(Record::Block(block)) => {
                    node.disk.block_ids.insert(block.id(&self.genesis.id()), block.clone());
                    node.disk.blocks.push(block);
                }
                Effect::Append(Record::Certificate(certificate)) => node.disk.certificates.push(certificate),
                Effect::Append(Record::Finality { decision, entry }) => node.disk.finality.push((decision, entry)),
                Effect::AppendUndo { block, undo, .. } => {
                    node.disk.undos.insert(block, undo);
                }
                Effect::Safety(safety) => node.disk.safety = Some(safety),
                Effect::Send { to: Peer::Validator(to), message } => outgoing.push((to.0, message)),
                Effect::Send { to: Peer::Follower(_), .. } => {}
                Effect::Broadcast(message) => {
                    let others = (0..self.genesis.validators.len() as u16).filter(|other| *other != validator);
                    outgoing.extend(others.map(|other| (other, message.clone())));
                }
                Effect::Publish(message) => node.published.push(message),
                Effect::Reply { request, verdicts } => {
                    assert!(node.replies.insert(request, verdicts).is_none(), "answered twice");
                }
                Effect::WakeAt(wake) => node.wake = wake,
                Effect::Event(event) => node.events.push(event),
                Effect::Halt(reason) => {
                    node.halted = Some(reason);
                    node.core = None;
                }
            }
        }
        for (to, message) in outgoing {
            self.deliver(validator, to, message);
        }
    }

    fn deliver(&mut self, from: u16, to: u16, message: Message) {
        if from == to {
            self.said_to_itself.push(message);
            return;
        }
        if self.is_cut(from, to) || !self.is_up(to) {
            return;
        }
        if let Message::FetchBatches(digests) = message {
            let disk = &self.nodes[usize::from(to)].disk;
            let (there, missing): (Vec<_>, Vec<_>) =
                digests.into_iter().partition(|digest| disk.batches.contains_key(digest));
            let found: Vec<_> = there.iter().map(|digest| Message::Batch(disk.batches[digest].clone())).collect();
            let answers = found.into_iter().chain((!missing.is_empty()).then_some(Message::Missing(missing)));
            for message in answers {
                self.queue.push_back((from, Input::Message { from: Peer::Validator(ValidatorIndex(to)), message }));
            }
            return;
        }
        self.queue.push_back((to, Input::Message { from: Peer::Validator(ValidatorIndex(from)), message }));
    }

    /// Delivers one message, or ticks the node that wakes next.
    pub fn run_one(&mut self) {
        if let Some((to, input)) = self.queue.pop_front() {
            self.give(to, input);
            return;
        }
        let up = (0..self.nodes.len()).filter(|node| self.nodes[*node].core.is_some());
        let next = up.min_by_key(|node| self.nodes[*node].wake).unwrap();
        self.now = self.now.max(self.nodes[next].wake);
        self.nodes[next].wake = Millis(u64::MAX);
        self.give(next as u16, Input::Tick);
    }

    /// Lets `milliseconds` pass.
    pub fn run(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        loop {
            while let Some((to, input)) = self.queue.pop_front() {
                self.give(to, input);
            }
            let up = (0..self.nodes.len()).filter(|node| self.nodes[*node].core.is_some());
            let next = up.min_by_key(|node| self.nodes[*node].wake);
            match next {
                Some(node) if self.nodes[node].wake <= end => {
                    self.now = self.now.max(self.nodes[node].wake);
                    self.nodes[node].wake = Millis(u64::MAX);
                    self.give(node as u16, Input::Tick);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Runs whole slots.
    pub fn run_slots(&mut self, slots: u64) {
        self.run(slots * INTERVAL_MS);
    }

    /// Submits payments to a node and returns the name of the submission.
    pub fn submit(&mut self, validator: u16, payments: &[Payment]) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        let genesis = self.genesis.id();
        let payments = payments.iter().map(|payment| (*payment, payment.id(&genesis))).collect();
        self.give(validator, Input::Submission { request, payments });
        request
    }

    /// Submits, waits for the answer, and returns the verdicts.
    pub fn ask(&mut self, validator: u16, payments: &[Payment]) -> Vec<Verdict> {
        let request = self.submit(validator, payments);
        self.run(150);
        self.nodes[usize::from(validator)].replies[&request].clone()
    }

    pub fn core(&self, validator: u16) -> &Core {
        self.nodes[usize::from(validator)].core.as_ref().unwrap()
    }

    pub fn balance(&self, validator: u16, number: u8) -> i128 {
        self.core(validator).state().account(&account(number)).unwrap().balance(TOKEN).units()
    }

    pub fn height(&self, validator: u16) -> u64 {
        self.core(validator).status().height
    }

    pub fn mode(&self, validator: u16) -> Mode {
        self.core(validator).status().mode
    }

    /// Whether all running nodes have one head and one state.
    pub fn agree(&self) -> bool {
        let heads: BTreeSet<_> = (0..self.nodes.len() as u16)
            .filter(|node| self.is_up(*node))
            .map(|node| (self.core(node).status().head, self.core(node).state().root()))
            .collect();
        heads.len() == 1
    }
}
