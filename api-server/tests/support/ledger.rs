//! Chains made by hand: blocks over real payments, executed for real.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ed25519_dalek::Signer as _;
use zeni_api_server::api::unix_ms;
use zeni_client::wallet::{Key, Order};
use zeni_consensus::schedule::Schedule;
use zeni_consensus::{Applied, Archive, ArchiveError, ChainChange};
use zeni_ledger::block::transactions_root;
use zeni_ledger::execute::execute;
use zeni_ledger::genesis::{FaultModel, Purpose, Rules, Token, Validator, account_file, accounts_digest};
use zeni_ledger::{
    AccountId, Amount, Batch, BatchDigest, Block, BlockHeader, BlockId, CommitCertificate, FinalBlock, Genesis,
    GenesisId, Payment, Sequence, SignatureBytes, State, TokenId, TransactionId, Undo, ValidatorIndex, VerifiedBatch,
};

use super::fake_node;

pub(crate) const TOKEN: TokenId = TokenId(1);
pub(crate) const NETWORK: u32 = 77;
pub(crate) const ACCOUNTS: u8 = 8;
pub(crate) const VALIDATORS: u8 = 3;
const INTERVAL_MS: u64 = 1_000;

/// What does not change: genesis and keys. Account `i` holds 100 × (i + 1).
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) genesis: Arc<Genesis>,
    pub(crate) id: GenesisId,
    pub(crate) accounts: Vec<u8>,
}

impl World {
    /// A ledger whose slots began an hour ago.
    pub(crate) fn new() -> Self {
        let holders =
            (0..ACCOUNTS).map(|number| (payer(number).account(), TOKEN, Amount(100 * (u64::from(number) + 1))));
        let accounts = account_file(holders.collect::<Vec<_>>().into_iter());
        let validators = (1..=VALIDATORS).map(|seed| Validator {
            name: format!("node-{seed}"),
            key: fake_node::public(seed),
            stake: 1,
            address: String::new(),
        });
        let issuer = Key::from_seed(&[200; 32]).account();
        let token = Token { symbol: "JPY".into(), decimals: 0, issuer };
        let genesis = Genesis {
            purpose: Purpose::Test,
            fault_model: FaultModel::Crash,
            time_ms: unix_ms() / 1_000 * 1_000 - 3_600_000,
            block_interval_ms: INTERVAL_MS,
            state_depth: 4,
            batches_max: 64,
            rules: Rules { network: NETWORK, validity_max_s: 7 * 86_400, tokens: [(TOKEN, token)].into() },
            validators: validators.collect(),
            accounts: ACCOUNTS.into(),
            accounts_digest: accounts_digest(&accounts),
            accounts_file: "accounts.bin".into(),
        };
        let id = genesis.id();
        Self { genesis: Arc::new(genesis), id, accounts }
    }

    pub(crate) fn state(&self) -> State {
        self.genesis.state(&self.accounts).unwrap()
    }

    /// A payment of account `from` to account `to`.
    pub(crate) fn pay(&self, from: u8, to: u8, sequence: u64, amount: u64) -> Payment {
        self.pay_until(from, to, sequence, amount, self.genesis.time_ms / 1_000 + 86_400)
    }

    pub(crate) fn pay_until(&self, from: u8, to: u8, sequence: u64, amount: u64, valid_until: u64) -> Payment {
        let order = Order {
            network: NETWORK,
            valid_until: u32::try_from(valid_until).unwrap(),
            to: payer(to).account(),
            sequence: Sequence(sequence),
            amount: Amount(amount),
            token: TOKEN,
            reference: [0; 16],
        };
        payer(from).pay(&order, &self.id)
    }

    pub(crate) fn id_of(&self, payment: &Payment) -> TransactionId {
        payment.id(&self.id)
    }
}

pub(crate) fn payer(number: u8) -> Key {
    Key::from_seed(&[100 + number; 32])
}

pub(crate) fn account(number: u8) -> AccountId {
    payer(number).account()
}

/// A chain from genesis. Clone it to fork it.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    world: Arc<World>,
    pub(crate) state: State,
    pub(crate) tip: BlockId,
    slot: u64,
    pub(crate) blocks: Vec<Applied>,
    /// The last decision, as nodes tell it.
    pub(crate) certified: Option<CommitCertificate>,
}

impl Branch {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let (state, tip) = (world.state(), world.genesis.block_id());
        Self { world: world.clone(), state, tip, slot: 0, blocks: Vec::new(), certified: None }
    }

    pub(crate) fn height(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// The block at `height`, genesis included.
    pub(crate) fn block_at(&self, height: u64) -> Option<BlockId> {
        match height.checked_sub(1) {
            None => Some(self.world.genesis.block_id()),
            Some(place) => self.blocks.get(place as usize).map(|applied| applied.id),
        }
    }

    /// The certificate of two validators that makes the block at `height` final.
    pub(crate) fn certificate(&self, decision: u64, height: u64) -> CommitCertificate {
        let block = FinalBlock { id: self.block_at(height).unwrap(), height };
        let mut certificate = CommitCertificate { decision, round: 0, block, signatures: Vec::new() };
        let digest = certificate.vote().digest(&self.world.id);
        let sign = |validator: u16| {
            let signature = fake_node::key(1 + validator as u8).sign(&digest);
            (ValidatorIndex(validator), SignatureBytes(signature.to_bytes()))
        };
        certificate.signatures = [0, 2].map(sign).to_vec();
        certificate
    }

    /// Leaves slots empty, as a branch does that others build without knowing of it.
    pub(crate) fn skip(&mut self, slots: u64) {
        self.slot += slots;
    }

    /// The next block, with these payments in one batch (none if there is none).
    pub(crate) fn extend(&mut self, payments: Vec<Payment>) -> Applied {
        self.extend_by(if payments.is_empty() { Vec::new() } else { vec![payments] })
    }

    /// The next block, with these payments in a batch each.
    pub(crate) fn extend_by(&mut self, batches: Vec<Vec<Payment>>) -> Applied {
        let (genesis, id) = (&self.world.genesis, &self.world.id);
        self.slot += 1;
        let proposer = Schedule::new(genesis).order(self.slot)[0];
        let key = fake_node::key(1 + proposer.0 as u8);
        let sign = |payments| VerifiedBatch::vouch(Batch::sign(proposer, self.slot, payments, &key, id), id);
        let batches: Vec<VerifiedBatch> = batches.into_iter().map(sign).collect();
        let mut executed = execute(&mut self.state, &genesis.rules, genesis.slot_time_ms(self.slot), &batches);
        let digests: Vec<BatchDigest> = batches.iter().map(VerifiedBatch::digest).collect();
        let header = BlockHeader {
            proposer,
            rank: 0,
            height: self.height() + 1,
            slot: self.slot,
            parent: self.tip,
            transactions_root: transactions_root(&digests),
            state_root: executed.state_root,
            receipts_root: executed.receipts_root,
            receipts: executed.receipts.len() as u32,
        };
        let block = Arc::new(Block::sign(header, digests, &key, id));
        let undo = Arc::new(std::mem::take(&mut executed.undo));
        self.tip = block.id(id);
        let applied = Applied { id: self.tip, block, batches, executed: Arc::new(executed), undo, fresh: true };
        self.blocks.push(applied.clone());
        applied
    }

    /// What leads from the tip of `from`, which shares this branch's first `common` blocks, to this one's.
    pub(crate) fn change_from(&self, from: &Self, common: usize) -> ChainChange {
        let undone = from.blocks[common..].iter().rev().map(|applied| applied.id).collect();
        ChainChange { undone, applied: self.blocks[common..].to_vec(), ..ChainChange::default() }
    }
}

pub(crate) fn proposer_seed(validator: ValidatorIndex) -> u8 {
    1 + validator.0 as u8
}

/// What happens while a block is read.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// A log in memory.
#[derive(Default)]
pub(crate) struct MemoryArchive {
    batches: Mutex<HashMap<BatchDigest, VerifiedBatch>>,
    blocks: Mutex<HashMap<BlockId, Arc<Block>>>,
    undos: Mutex<HashMap<BlockId, Arc<Undo>>>,
    /// Done once, when the next block is read.
    pub(crate) meanwhile: Mutex<Option<Meanwhile>>,
}

impl MemoryArchive {
    pub(crate) fn store(&self, applied: &Applied) {
        self.blocks.lock().unwrap().insert(applied.id, applied.block.clone());
        self.undos.lock().unwrap().insert(applied.id, applied.undo.clone());
        for batch in &applied.batches {
            self.batches.lock().unwrap().insert(batch.digest(), batch.clone());
        }
    }
}

impl Archive for MemoryArchive {
    fn batch(&self, digest: &BatchDigest) -> Result<Option<VerifiedBatch>, ArchiveError> {
        Ok(self.batches.lock().unwrap().get(digest).cloned())
    }

    fn block(&self, id: &BlockId) -> Result<Option<Arc<Block>>, ArchiveError> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(happens) = meanwhile {
            happens();
        }
        Ok(self.blocks.lock().unwrap().get(id).cloned())
    }

    fn undo(&self, block: &BlockId) -> Result<Option<Arc<Undo>>, ArchiveError> {
        Ok(self.undos.lock().unwrap().get(block).cloned())
    }
}
