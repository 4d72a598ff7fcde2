//! A small ledger for tests: real keys, real payments, real execution.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use zeni_consensus::schedule::Schedule;
use zeni_consensus::{CheckpointDelta, Record};
use zeni_ledger::block::transactions_root;
use zeni_ledger::execute::execute;
use zeni_ledger::genesis::{FaultModel, Purpose, Rules, Token, Validator, account_file, accounts_digest};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{
    Account, AccountId, Amount, Batch, BatchDigest, Block, BlockHeader, BlockId, CommitCertificate, FinalBlock,
    Genesis, GenesisId, PublicKey, Sequence, SignatureBytes, State, TokenId, Undo, ValidatorIndex, VerifiedBatch,
};

use crate::files::Files;
use crate::store::Store;

const ACCOUNTS: usize = 24;
const TOKEN: TokenId = TokenId(1);

pub(crate) struct World {
    pub(crate) genesis: Genesis,
    pub(crate) id: GenesisId,
    account_file: Vec<u8>,
    payers: Vec<SigningKey>,
    validators: Vec<SigningKey>,
    /// At the tip.
    pub(crate) state: State,
    states: HashMap<BlockId, State>,
    tip: BlockId,
    height: u64,
    pub(crate) undos: HashMap<BlockId, Undo>,
    payments: u64,
    batches: u64,
}

fn key(kind: u8, number: usize) -> SigningKey {
    let mut seed = [kind; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    SigningKey::from_bytes(&seed)
}

fn public(key: &SigningKey) -> [u8; 32] {
    key.verifying_key().to_bytes()
}

impl World {
    pub(crate) fn new(validators: usize) -> Self {
        Self::of_network(validators, 7)
    }

    pub(crate) fn of_network(validators: usize, network: u32) -> Self {
        let payers: Vec<SigningKey> = (0..ACCOUNTS).map(|number| key(1, number)).collect();
        let validators: Vec<SigningKey> = (0..validators).map(|number| key(2, number)).collect();
        let account_file = account_file(payers.iter().map(|key| (AccountId(public(key)), TOKEN, Amount(1_000))));
        let token = Token { symbol: "TST".into(), decimals: 2, issuer: AccountId([9; 32]) };
        let validator = |key: &SigningKey| Validator {
            name: "v".into(),
            key: PublicKey(public(key)),
            stake: 1,
            address: String::new(),
        };
        let genesis = Genesis {
            purpose: Purpose::Test,
            fault_model: FaultModel::Crash,
            time_ms: 1_700_000_000_000,
            block_interval_ms: 1_000,
            state_depth: 4,
            batches_max: 64,
            rules: Rules { network, validity_max_s: 86_400, tokens: BTreeMap::from([(TOKEN, token)]) },
            validators: validators.iter().map(validator).collect(),
            accounts: ACCOUNTS as u64,
            accounts_digest: accounts_digest(&account_file),
            accounts_file: String::new(),
        };
        let (id, tip) = (genesis.id(), genesis.block_id());
        let state = genesis.state(&account_file).unwrap();
        let states = HashMap::from([(tip, state.clone())]);
        let (height, undos, payments, batches) = (0, HashMap::new(), 0, 0);
        Self { genesis, id, account_file, payers, validators, state, states, tip, height, undos, payments, batches }
    }

    pub(crate) fn genesis_state(&self) -> State {
        self.genesis.state(&self.account_file).unwrap()
    }

    /// A batch of payments that will all be applied.
    pub(crate) fn batch(&mut self, payments: usize) -> VerifiedBatch {
        let payments = (0..payments).map(|_| {
            let number = self.payments;
            self.payments += 1;
            let from = number as usize % ACCOUNTS;
            let to = (from + 1 + number as usize % (ACCOUNTS - 1)) % ACCOUNTS;
            let body = PaymentBody {
                network: self.genesis.rules.network,
                valid_until: 1_700_000_000 + 40_000,
                from: AccountId(public(&self.payers[from])),
                to: AccountId(public(&self.payers[to])),
                sequence: Sequence(number / ACCOUNTS as u64),
                amount: Amount(1 + number % 3),
                token: TOKEN,
                flags: 0,
                reference: [0; 16],
            };
            body.sign(&self.payers[from], &self.id)
        });
        let payments = payments.collect();
        self.batches += 1;
        let author = self.batches as usize % self.validators.len();
        let signer = &self.validators[author];
        let batch = Batch::sign(ValidatorIndex(author as u16), self.batches, payments, signer, &self.id);
        VerifiedBatch::vouch(batch, &self.id)
    }

    /// Executes the batches in a block on the tip, by the first proposer of the slot.
    pub(crate) fn extend(&mut self, slot: u64, batches: &[VerifiedBatch]) -> Arc<Block> {
        self.build(slot, 0, batches)
    }

    /// An empty block on the tip, by the proposer of this rank.
    pub(crate) fn extend_ranked(&mut self, slot: u64, rank: u16) -> Arc<Block> {
        self.build(slot, rank, &[])
    }

    fn build(&mut self, slot: u64, rank: u16, batches: &[VerifiedBatch]) -> Arc<Block> {
        let executed = execute(&mut self.state, &self.genesis.rules, self.genesis.slot_time_ms(slot), batches);
        let digests: Vec<_> = batches.iter().map(VerifiedBatch::digest).collect();
        let proposer = Schedule::new(&self.genesis).order(slot)[usize::from(rank)];
        let header = BlockHeader {
            proposer,
            rank,
            height: self.height + 1,
            slot,
            parent: self.tip,
            transactions_root: transactions_root(&digests),
            state_root: executed.state_root,
            receipts_root: executed.receipts_root,
            receipts: executed.receipts.len() as u32,
        };
        let block = self.sign(header, digests);
        let id = block.id(&self.id);
        (self.tip, self.height) = (id, header.height);
        self.states.insert(id, self.state.clone());
        self.undos.insert(id, executed.undo);
        block
    }

    /// A block with whatever header, signed by the proposer that it names.
    pub(crate) fn sign(&self, header: BlockHeader, digests: Vec<BatchDigest>) -> Arc<Block> {
        let signer = &self.validators[header.proposer.as_usize()];
        Arc::new(Block::sign(header, digests, signer, &self.id))
    }

    /// Makes a block final by the votes of all validators.
    pub(crate) fn certify(&self, decision: u64, block: &Block) -> CommitCertificate {
        let block = FinalBlock { id: block.id(&self.id), height: block.header.height };
        let mut certificate = CommitCertificate { decision, round: 0, block, signatures: Vec::new() };
        let digest = certificate.vote().digest(&self.id);
        let sign = |(index, key): (usize, &SigningKey)| {
            (ValidatorIndex(index as u16), SignatureBytes(key.sign(&digest).to_bytes()))
        };
        certificate.signatures = self.validators.iter().enumerate().map(sign).collect();
        certificate
    }

    /// Makes a block that was built before the tip again.
    pub(crate) fn rewind_to(&mut self, block: &Block) {
        self.tip = block.id(&self.id);
        self.height = block.header.height;
        self.state = self.states[&self.tip].clone();
    }

    /// A chain of blocks, each of some batches, as records in the order in which a core stores them.
    pub(crate) fn chain(&mut self, blocks: u64, batches: usize, payments: usize) -> Vec<Record> {
        let mut records = Vec::new();
        for slot in 1..=blocks {
            let listed: Vec<_> = (0..batches).map(|_| self.batch(payments)).collect();
            records.extend(listed.iter().cloned().map(Record::Batch));
            records.push(Record::Block(self.extend(slot, &listed)));
        }
        records
    }

    /// Appends a record, and a block's undo record with it.
    pub(crate) fn append<F: Files>(&self, store: &mut Store<F>, record: &Record) {
        store.append(record).unwrap();
        if let Record::Block(block) = record {
            let id = block.id(&self.id);
            store.append_undo(id, block.header.height, &self.undos[&id]).unwrap();
        }
    }

    /// The checkpoint step from one block (or genesis) to another.
    pub(crate) fn step(&self, from: Option<&Block>, to: &Block) -> CheckpointDelta {
        let from = from.map_or(self.genesis.block_id(), |block| block.id(&self.id));
        let to_id = to.id(&self.id);
        let (before, after) = (&self.states[&from], &self.states[&to_id]);
        let changed = |account: &&Account| before.account(&account.id()) != Some(*account);
        let accounts = after.accounts().filter(changed).cloned().collect();
        CheckpointDelta { from, to: to_id, height: to.header.height, accounts }
    }
}

/// The blocks among records.
pub(crate) fn blocks(records: &[Record]) -> Vec<Arc<Block>> {
    let block = |record: &Record| if let Record::Block(block) = record { Some(block.clone()) } else { None };
    records.iter().filter_map(block).collect()
}
