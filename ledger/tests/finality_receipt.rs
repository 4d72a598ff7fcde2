//! Finality receipts of a small ledger that was really executed: what they prove, and that no other byte does.
//!
//! `ZENI_SEED=n` repeats a run; the seed is printed.
#![expect(clippy::unwrap_used, reason = "what a test builds for itself is well-formed")]
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test measures, and may be told its seed")]

use std::collections::BTreeMap;
use std::time::Instant;

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use zeni_ledger::block::{SealedHeader, transactions_root};
use zeni_ledger::execute::execute;
use zeni_ledger::finality::CertificateError;
use zeni_ledger::finality_receipt::{
    FINALITY_RECEIPT_BYTES_MAX, Fact, FinalityReceipt, FinalityReceiptError, HEADERS_MAX, PaymentProof, Statement,
};
use zeni_ledger::genesis::{FaultModel, Purpose, Rules, Token, Validator, account_file, accounts_digest};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::proof::{ProofError, prove, prove_receipt, prove_receipt_in_run, receipt_tops};
use zeni_ledger::{
    AccountId, Amount, Balance, Batch, Block, BlockHeader, CommitCertificate, DecodeError, FinalBlock, Genesis,
    GenesisId, Outcome, Payment, PublicKey, Receipt, Rejection, Sequence, SignatureBytes, State, TokenId,
    TransactionId, ValidatorIndex, VerifiedBatch,
};

const TOKEN: TokenId = TokenId(1);
const NETWORK: u32 = 5;
const ACCOUNTS: u8 = 40;
const VALIDATORS: u8 = 3;
/// Blocks between two decisions.
const BLOCKS_PER_DECISION: u64 = 3;
/// What one run proves and then breaks byte by byte.
const PROOFS: usize = 1_000;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public(number: u8) -> PublicKey {
    PublicKey(key(number).verifying_key().to_bytes())
}

fn account(number: u8) -> AccountId {
    AccountId(public(number).0)
}

/// An executed block with what proofs are made of.
struct Executed {
    block: Block,
    batches: Vec<Batch>,
    receipts: Vec<Receipt>,
    /// After the block.
    state: State,
}

struct Ledger {
    genesis: Genesis,
    id: GenesisId,
    blocks: Vec<Executed>,
    certificates: BTreeMap<u64, CommitCertificate>,
    sequences: BTreeMap<u8, u64>,
}

impl Ledger {
    fn new() -> Self {
        let holders = (0..ACCOUNTS).map(|number| (account(number), TOKEN, Amount(1_000_000)));
        let accounts = account_file(holders.collect::<Vec<_>>().into_iter());
        let validator =
            |number: u8| Validator { name: String::new(), key: public(200 + number), stake: 1, address: String::new() };
        let token = Token { symbol: "JPY".into(), decimals: 0, issuer: account(150) };
        let genesis = Genesis {
            purpose: Purpose::Test,
            fault_model: FaultModel::Crash,
            time_ms: 1_700_000_000_000,
            block_interval_ms: 1_000,
            state_depth: 4,
            batches_max: 64,
            rules: Rules { network: NETWORK, validity_max_s: 7_200, tokens: [(TOKEN, token)].into() },
            validators: (0..VALIDATORS).map(validator).collect(),
            accounts: ACCOUNTS.into(),
            accounts_digest: accounts_digest(&accounts),
            accounts_file: String::new(),
        };
        let state = genesis.state(&accounts).unwrap();
        let id = genesis.id();
        let mut ledger =
            Self { genesis, id, blocks: Vec::new(), certificates: BTreeMap::new(), sequences: BTreeMap::new() };
        ledger.extend_from(state, &[]);
        ledger
    }

    fn extend(&mut self, sizes: &[usize]) {
        let state = self.blocks.last().unwrap().state.clone();
        self.extend_from(state, sizes);
    }

    /// The next block, with batches of so many payments; every third block is decided on.
    fn extend_from(&mut self, mut state: State, sizes: &[usize]) {
        let height = self.blocks.len() as u64 + 1;
        let batches: Vec<Batch> = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| {
                let payments = (0..*size).map(|place| self.payment((place + number) as u8 % ACCOUNTS, place)).collect();
                Batch::sign(ValidatorIndex(0), height * 100 + number as u64, payments, &key(200), &self.id)
            })
            .collect();
        let verified: Vec<VerifiedBatch> =
            batches.iter().map(|batch| VerifiedBatch::vouch(batch.clone(), &self.id)).collect();
        let executed = execute(&mut state, &self.genesis.rules, self.genesis.slot_time_ms(height), &verified);
        let digests: Vec<_> = verified.iter().map(VerifiedBatch::digest).collect();
        let header = BlockHeader {
            proposer: ValidatorIndex(0),
            rank: 0,
            height,
            slot: height,
            parent: self.blocks.last().map_or(self.genesis.block_id(), |below| below.block.id(&self.id)),
            transactions_root: transactions_root(&digests),
            state_root: executed.state_root,
            receipts_root: executed.receipts_root,
            receipts: executed.receipts.len() as u32,
        };
        let block = Block::sign(header, digests, &key(200), &self.id);
        if height.is_multiple_of(BLOCKS_PER_DECISION) {
            let block = FinalBlock { id: block.id(&self.id), height };
            self.certificates.insert(height, self.certificate(height / BLOCKS_PER_DECISION, block, &[0, 2]));
        }
        self.blocks.push(Executed { block, batches, receipts: executed.receipts, state });
    }

    fn certificate(&self, decision: u64, block: FinalBlock, signers: &[u8]) -> CommitCertificate {
        let mut certificate = CommitCertificate { decision, round: 1, block, signatures: Vec::new() };
        let digest = certificate.vote().digest(&self.id);
        let sign = |number: &u8| {
            (ValidatorIndex(u16::from(*number)), SignatureBytes(key(200 + number).sign(&digest).to_bytes()))
        };
        certificate.signatures = signers.iter().map(sign).collect();
        certificate
    }

    /// Every seventh asks for more than its payer has, and every eleventh is of another network, so it is skipped.
    fn payment(&mut self, from: u8, place: usize) -> Payment {
        let network = if place % 11 == 10 { NETWORK + 1 } else { NETWORK };
        let next = self.sequences.entry(from).or_default();
        let sequence = Sequence(*next);
        *next += u64::from(network == NETWORK);
        let body = PaymentBody {
            network,
            valid_until: 1_700_003_600,
            from: account(from),
            to: account((from + 1) % ACCOUNTS),
            sequence,
            amount: Amount(if place % 7 == 6 { 1 << 40 } else { 1 + place as u64 }),
            token: TOKEN,
            flags: 0,
            reference: *b"invoice 2016-12 ",
        };
        body.sign(&key(from), &self.id)
    }

    /// Certificate and headers for a block: from its own up to the nearest certified one.
    fn finality(&self, height: u64) -> (CommitCertificate, Vec<SealedHeader>) {
        let (certified, certificate) = self.certificates.range(height..).next().unwrap();
        let blocks = &self.blocks[height as usize - 1..*certified as usize];
        (certificate.clone(), blocks.iter().map(|executed| executed.block.sealed_header()).collect())
    }

    fn receipt_of(&self, height: u64, index: usize) -> FinalityReceipt {
        let executed = &self.blocks[height as usize - 1];
        let receipt = prove_receipt(&executed.receipts, index).unwrap();
        let batch = &executed.batches[receipt.receipt.batch as usize];
        let payment = PaymentProof::new(receipt, &executed.block, batch, &self.id).unwrap();
        let (certificate, headers) = self.finality(height);
        FinalityReceipt { genesis: self.id, certificate, headers, statement: Statement::Payment(payment) }
    }

    fn account_at(&self, height: u64, id: &AccountId) -> FinalityReceipt {
        let (certificate, headers) = self.finality(height);
        let statement = Statement::Account(prove(&self.blocks[height as usize - 1].state, id));
        FinalityReceipt { genesis: self.id, certificate, headers, statement }
    }

    fn verify(&self, receipt: &FinalityReceipt) -> Result<Fact, FinalityReceiptError> {
        receipt.verify(&self.genesis, &self.id).map(|proven| proven.fact)
    }
}

fn small() -> Ledger {
    let mut ledger = Ledger::new();
    for sizes in [&[3, 20][..], &[1], &[40], &[7, 7, 7], &[]] {
        ledger.extend(sizes);
    }
    ledger
}

#[test]
fn proves_who_paid_whom_and_how_it_ended() {
    let ledger = small();
    let (mut applied, mut rejected) = (0, 0);
    for height in 1..=6 {
        let executed = &ledger.blocks[height as usize - 1];
        for index in 0..executed.receipts.len() {
            let receipt = ledger.receipt_of(height, index);
            let bytes = receipt.to_bytes();
            assert_eq!(FinalityReceipt::from_bytes(&bytes).as_ref(), Ok(&receipt));
            let proven = FinalityReceipt::check(&bytes, &ledger.genesis, &ledger.id).unwrap();
            assert_eq!((proven.header, proven.block), (executed.block.header, executed.block.id(&ledger.id)));
            assert_eq!(proven.slot_time_ms, 1_700_000_000_000 + height * 1_000);
            assert_eq!((proven.stake, proven.total_stake), (2, 3));
            assert_eq!(proven.signers, [ValidatorIndex(0), ValidatorIndex(2)]);
            let Fact::Payment { id, payment, outcome } = proven.fact else { panic!("a payment was asked for") };
            let stands = &executed.receipts[index];
            assert_eq!((id, outcome), (stands.id, stands.outcome));
            assert_eq!(payment, executed.batches[stands.batch as usize].payments[usize::from(stands.position)]);
            match outcome {
                Outcome::Applied => applied += 1,
                Outcome::Rejected(reason) => {
                    assert_eq!(reason, Rejection::InsufficientBalance);
                    rejected += 1;
                }
            }
        }
    }
    assert!(applied > 50 && rejected > 5, "{applied} applied, {rejected} rejected");
}

#[test]
fn proves_what_an_account_holds_and_that_there_is_none() {
    let ledger = small();
    for height in [3, 5, 6] {
        let held = ledger.blocks[height as usize - 1].state.account(&account(3)).cloned();
        let fact = ledger.verify(&ledger.account_at(height, &account(3))).unwrap();
        assert_eq!(fact, Fact::Account { id: account(3), account: held });
        let fact = ledger.verify(&ledger.account_at(height, &account(99))).unwrap();
        assert_eq!(fact, Fact::Account { id: account(99), account: None });
    }
}

#[test]
fn says_what_does_not_hold() {
    let ledger = small();
    let good = ledger.receipt_of(4, 30);
    assert!(ledger.verify(&good).is_ok());
    let change = |edit: &dyn Fn(&mut FinalityReceipt)| {
        let mut receipt = good.clone();
        edit(&mut receipt);
        ledger.verify(&receipt).unwrap_err()
    };
    let payment = |receipt: &mut FinalityReceipt, edit: &dyn Fn(&mut PaymentProof)| match &mut receipt.statement {
        Statement::Payment(payment) => edit(payment),
        Statement::Account(_) => panic!("it is of a payment"),
    };
    let other = GenesisId([1; 32]);
    let refused = change(&|receipt| receipt.genesis = other);
    assert_eq!(refused, FinalityReceiptError::OtherGenesis { found: other, expected: ledger.id });
    assert_eq!(change(&|receipt| receipt.headers.clear()), FinalityReceiptError::BrokenChain { place: 0 });
    let refused = change(&|receipt| receipt.headers.swap(1, 2));
    assert_eq!(refused, FinalityReceiptError::BrokenChain { place: 1 });
    let refused = change(&|receipt| receipt.headers[1].header.slot += 1);
    assert_eq!(refused, FinalityReceiptError::BrokenChain { place: 2 });
    let refused = change(&|receipt| receipt.headers.truncate(2));
    assert!(matches!(refused, FinalityReceiptError::OtherBlock { height: 5, .. }), "{refused}");
    let refused = change(&|receipt| receipt.certificate = ledger.certificates[&3].clone());
    assert!(matches!(refused, FinalityReceiptError::OtherBlock { height: 6, .. }), "{refused}");
    let refused = change(&|receipt| payment(receipt, &|payment| payment.receipt.receipt.position += 1));
    assert_eq!(refused, FinalityReceiptError::NotInBlock { batch: 0, position: 34 });
    let refused = change(&|receipt| payment(receipt, &|payment| payment.receipt.count += 1));
    assert_eq!(refused, FinalityReceiptError::OtherReceipts { found: 38, expected: 37 });
    let refused = change(&|receipt| payment(receipt, &|payment| payment.receipt.index -= 1));
    assert!(matches!(refused, FinalityReceiptError::Proof(ProofError::OtherReceiptsRoot { .. })), "{refused}");
    let lone = ledger.certificate(2, good.certificate.block, &[1]);
    let refused = change(&|receipt| receipt.certificate = lone.clone());
    let no_quorum = CertificateError::NoQuorum { stake: 1, total: 3 };
    assert_eq!(refused, FinalityReceiptError::Certificate(no_quorum));
    let refused = change(&|receipt| receipt.certificate.round = 0);
    assert_eq!(refused.code(), "certificate");
    let elsewhere = Genesis { time_ms: 1, ..ledger.genesis.clone() };
    assert_eq!(good.verify(&elsewhere, &elsewhere.id()).unwrap_err().code(), "other_genesis");
}

#[test]
fn a_payment_that_its_payer_did_not_sign_is_refused_though_a_quorum_executed_it() {
    let mut ledger = Ledger::new();
    ledger.extend(&[4]);
    let mut forged = ledger.blocks.pop().unwrap();
    let mut payments = forged.batches[0].payments.clone();
    payments[2] = payments[2].body().with_signature(payments[1].signature());
    forged.batches[0] = Batch::sign(ValidatorIndex(0), 7, payments, &key(200), &ledger.id);
    let digests = vec![forged.batches[0].digest(&ledger.id)];
    let header = BlockHeader { transactions_root: transactions_root(&digests), ..forged.block.header };
    forged.block = Block::sign(header, digests, &key(200), &ledger.id);
    let block = FinalBlock { id: forged.block.id(&ledger.id), height: 2 };
    ledger.certificates.insert(2, ledger.certificate(1, block, &[0, 1]));
    ledger.blocks.push(forged);
    assert!(ledger.verify(&ledger.receipt_of(2, 1)).is_ok());
    assert_eq!(ledger.verify(&ledger.receipt_of(2, 2)), Err(FinalityReceiptError::PayerSignature));
}

#[test]
fn every_truncation_and_every_extension_is_refused() {
    let ledger = small();
    for receipt in [ledger.receipt_of(4, 30), ledger.account_at(6, &account(3)), ledger.account_at(6, &account(99))] {
        let bytes = receipt.to_bytes();
        for length in 0..bytes.len() {
            assert!(FinalityReceipt::from_bytes(&bytes[..length]).is_err(), "{length} bytes were accepted");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(FinalityReceipt::from_bytes(&longer), Err(DecodeError::TrailingBytes { extra: 1 }));
    }
}

#[test]
fn limits_are_checked_before_anything_is_allocated_for_them() {
    let ledger = small();
    let receipt = ledger.account_at(3, &account(3));
    let mut bytes = receipt.to_bytes();
    let headers = 44 + receipt.certificate.to_bytes().len();
    bytes[headers..headers + 4].copy_from_slice(&(HEADERS_MAX as u32 + 1).to_le_bytes());
    let refused = FinalityReceipt::from_bytes(&bytes);
    assert!(matches!(refused, Err(DecodeError::OverLimit { found: 16_385, limit: 16_384, .. })), "{refused:?}");
    bytes[headers..headers + 4].copy_from_slice(&(HEADERS_MAX as u32).to_le_bytes());
    assert!(FinalityReceipt::from_bytes(&bytes).is_err());
    bytes[11] = 1;
    let refused = FinalityReceipt::from_bytes(&bytes);
    assert!(matches!(refused, Err(DecodeError::OverLimit { what: "changes of the validator set", .. })));
    bytes[8] = 2;
    assert!(matches!(FinalityReceipt::from_bytes(&bytes), Err(DecodeError::UnknownVersion { found: 2, .. })));
    let long = vec![0; FINALITY_RECEIPT_BYTES_MAX + 1];
    assert!(matches!(FinalityReceipt::from_bytes(&long), Err(DecodeError::OverLimit { .. })));
}

#[test]
fn a_run_and_the_tops_prove_what_all_receipts_prove() {
    for count in [1, 2, 1_023, 1_024, 1_025, 3_000, 5_121] {
        let receipt = |number: u32| Receipt {
            batch: number / 7,
            position: (number % 7) as u16,
            id: TransactionId([number as u8; 32]),
            outcome: Outcome::Applied,
        };
        let receipts: Vec<Receipt> = (0..count).map(receipt).collect();
        let tops = receipt_tops(&receipts);
        for index in (0..count).step_by(97).chain([count - 1]) {
            let run = receipts.chunks(1_024).nth(index as usize / 1_024).unwrap();
            let proof = prove_receipt_in_run(run, index, count, &tops);
            assert_eq!(proof, prove_receipt(&receipts, index as usize), "receipt {index} of {count}");
        }
        assert_eq!(prove_receipt_in_run(&receipts[..1], 1, count, &tops), None);
    }
}

/// Three blocks a decision, each of batches between one payment and 260, so that proofs of every shape are among them.
fn long_run(rng: &mut ChaCha20Rng) -> Ledger {
    let mut ledger = Ledger::new();
    while ledger.blocks.len() < 24 {
        let sizes: Vec<usize> = (0..rng.random_range(1..5)).map(|_| rng.random_range(1..260)).collect();
        ledger.extend(&sizes);
    }
    ledger
}

#[test]
fn a_thousand_proofs_hold_and_none_does_with_any_byte_replaced() {
    let seed = std::env::var("ZENI_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("ZENI_SEED={seed}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let ledger = long_run(&mut rng);
    let begun = Instant::now();
    let (mut bytes_tried, mut longest) = (0, 0);
    for number in 0..PROOFS {
        let height = rng.random_range(2..=24);
        let receipts = ledger.blocks[height as usize - 1].receipts.len();
        let receipt = match number % 10 {
            8 => ledger.account_at(height, &account(rng.random_range(0..ACCOUNTS))),
            9 => ledger.account_at(height, &account(rng.random_range(160..190))),
            _ => ledger.receipt_of(height, rng.random_range(0..receipts)),
        };
        let bytes = receipt.to_bytes();
        assert!(FinalityReceipt::check(&bytes, &ledger.genesis, &ledger.id).is_ok(), "proof {number}");
        let other = |byte: u8| byte.wrapping_add(rng.random_range(1..=255));
        let accepted = FinalityReceipt::first_accepted_change(&bytes, &ledger.genesis, &ledger.id, other);
        assert_eq!(accepted, None, "proof {number} holds with another byte there");
        (bytes_tried, longest) = (bytes_tried + bytes.len(), longest.max(bytes.len()));
    }
    println!("{bytes_tried} changed files, the longest of {longest} bytes, refused in {:?}", begun.elapsed());
}

proptest! {
    /// More than one byte at a time, and pieces of one file in another.
    #[test]
    fn no_mixture_of_two_files_holds(
        first in 0usize..30, second in 0usize..30, cut in any::<prop::sample::Index>(), run in 1usize..400,
    ) {
        let ledger = small();
        let receipt = |number: usize| match number {
            0 => ledger.account_at(4, &account(1)),
            1 => ledger.account_at(4, &account(99)),
            index => ledger.receipt_of(4, index),
        };
        let (good, donor) = (receipt(first).to_bytes(), receipt(second).to_bytes());
        let mut mixed = good.clone();
        let from = cut.index(good.len().min(donor.len()));
        let end = (from + run).min(good.len()).min(donor.len());
        mixed[from..end].copy_from_slice(&donor[from..end]);
        let holds = FinalityReceipt::check(&mixed, &ledger.genesis, &ledger.id).is_ok();
        prop_assert!(!holds || mixed == good || mixed == donor);
    }
}

#[test]
fn a_balance_is_the_one_after_the_block() {
    let mut ledger = Ledger::new();
    ledger.extend(&[1]);
    ledger.extend(&[]);
    let balance = |height| match ledger.verify(&ledger.account_at(height, &account(0))).unwrap() {
        Fact::Account { account: Some(held), .. } => held.balance(TOKEN),
        other => panic!("{other:?}"),
    };
    assert_eq!((balance(1), balance(2)), (Balance::new(1_000_000), Balance::new(999_999)));
}
