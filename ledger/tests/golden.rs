//! The bytes and digests that nodes agree on, pinned in files: a change of any of them is a change of the protocol.
//!
//! `ZENI_BLESS=1 cargo test -p zeni-ledger --test golden` writes them anew; the difference is then for review.
#![expect(clippy::unwrap_used, reason = "what a test builds for itself is well-formed")]
#![expect(clippy::disallowed_methods, reason = "golden files are read and written here, by tests alone")]

use std::path::PathBuf;

use ed25519_dalek::{Signer as _, SigningKey};
use zeni_ledger::block::{SealedHeader, transactions_root};
use zeni_ledger::encoding::Encoder;
use zeni_ledger::execute::{Executed, execute};
use zeni_ledger::finality::{CommitCertificate, FinalBlock, FinalityProposal, FinalityVote, VoteKind};
use zeni_ledger::finality_receipt::{FinalityReceipt, PaymentProof, Statement};
use zeni_ledger::genesis::{account_file, accounts_digest};
use zeni_ledger::hash::BatchDigest;
use zeni_ledger::operation::{AccountChange, Decimals, Hold, HoldId, KeyPolicy, Symbol, TokenChange, WindowWidth};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::proof::{AccountProof, ReceiptProof, prove, prove_receipt};
use zeni_ledger::transaction::{Leg, Signer, TransactionBody};
use zeni_ledger::{
    Account, AccountId, Amount, Balance, Batch, Block, BlockHeader, BlockId, Genesis, GenesisId, Operation, Payment,
    PublicKey, Receipt, Sequence, SignatureBytes, State, TokenId, Transaction, Undo, ValidatorIndex, VerifiedBatch,
};

const GENESIS: GenesisId = GenesisId([0x47; 32]);
const BYTES_PER_LINE: usize = 32;

/// Compares `bytes` with the file `name`, or writes it.
fn pin(name: &str, bytes: &[u8]) {
    let text: String = bytes.chunks(BYTES_PER_LINE).map(|line| hex::encode(line) + "\n").collect();
    pin_text(&format!("{name}.hex"), &text);
}

fn pin_text(name: &str, text: &str) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/golden", name].iter().collect();
    if std::env::var("ZENI_BLESS").is_ok_and(|value| value == "1") {
        std::fs::write(&path, text).unwrap();
    }
    let pinned = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let pinned = String::from_utf8(pinned).unwrap();
    assert_eq!(text, pinned, "the bytes of {name} changed; if that is meant, bless them");
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public(number: u8) -> PublicKey {
    PublicKey(key(number).verifying_key().to_bytes())
}

fn account_id(number: u8) -> AccountId {
    AccountId(public(number).0)
}

fn payment(from: u8, sequence: u64) -> Payment {
    let body = PaymentBody {
        network: 0x0403_0201,
        valid_until: 1_700_003_600,
        from: account_id(from),
        to: account_id(2),
        sequence: Sequence(sequence),
        amount: Amount(1_234_567),
        token: TokenId(1),
        flags: 0,
        reference: *b"invoice 2016-12 ",
    };
    body.sign(&key(from), &GENESIS)
}

fn batch() -> Batch {
    Batch::sign(ValidatorIndex(2), 7, vec![payment(1, 0), payment(1, 5)], &key(9), &GENESIS)
}

/// Account `number` with some holdings and a gap in its window.
fn account(number: u8) -> Account {
    let mut account = Account::new(account_id(number));
    for (token, units) in [(1, 10_000_000), (7, i128::from(number)), (9, -5)] {
        assert!(account.set_balance(TokenId(token), Balance::new(units)));
    }
    account.window_mut().use_up(Sequence(0)).unwrap();
    account.window_mut().use_up(Sequence(3)).unwrap();
    account
}

fn genesis() -> Genesis {
    Genesis::from_toml(include_str!("golden/genesis.toml")).unwrap()
}

/// A state of 40 accounts after one block, and what the block gave.
fn executed() -> (State, Executed) {
    let mut state = State::new(4);
    for number in 1..=40 {
        state.open(account(number)).unwrap();
    }
    state.commit();
    let mut rules = genesis().rules;
    rules.network = 0x0403_0201;
    let payments = vec![payment(1, 0), payment(1, 1), payment(2, 1), payment(3, 4)];
    let batch = Batch::sign(ValidatorIndex(0), 1, payments, &key(9), &GENESIS);
    let executed = execute(&mut state, &rules, 1_700_000_000_000, &[VerifiedBatch::vouch(batch, &GENESIS)]);
    (state, executed)
}

#[test]
fn payment_bytes_and_id() {
    let payment = payment(1, 42);
    pin("payment", payment.as_bytes());
    pin("payment.signed", &payment.signed_bytes(&GENESIS));
    pin("payment.id", &payment.id(&GENESIS).0);
}

#[test]
fn batch_bytes_and_digest() {
    let batch = batch();
    pin("batch", &batch.to_bytes());
    pin("batch.digest", &batch.digest(&GENESIS).0);
    assert_eq!(Batch::from_bytes(&batch.to_bytes()), Ok(batch));
}

#[test]
fn block_bytes_and_id() {
    let digests = vec![batch().digest(&GENESIS), BatchDigest([0x33; 32]), BatchDigest([0x44; 32])];
    let (_, executed) = executed();
    let header = BlockHeader {
        proposer: ValidatorIndex(1),
        rank: 2,
        height: 3,
        slot: 4,
        parent: BlockId([0x55; 32]),
        transactions_root: transactions_root(&digests),
        state_root: executed.state_root,
        receipts_root: executed.receipts_root,
        receipts: executed.receipts.len() as u32,
    };
    let block = Block::sign(header, digests, &key(9), &GENESIS);
    pin("block", &block.to_bytes());
    pin("block.id", &block.id(&GENESIS).0);
    assert_eq!(Block::from_bytes(&block.to_bytes()), Ok(block));
}

#[test]
fn account_bytes() {
    let encode = |account: &Account| {
        let mut encoder = Encoder::default();
        account.encode(&mut encoder);
        encoder.finish()
    };
    pin("account", &encode(&account(1)));
    pin("account.new", &encode(&Account::new(account_id(1))));
}

#[test]
fn execution_roots_receipts_and_undo() {
    let (_, executed) = executed();
    pin("state.root", &executed.state_root.0);
    pin("receipts.root", &executed.receipts_root.0);
    let receipts: Vec<u8> = executed.receipts.iter().flat_map(Receipt::to_bytes).collect();
    assert_eq!((executed.applied, executed.rejected, executed.skipped), (2, 1, 1));
    pin("receipts", &receipts);
    pin("undo", &executed.undo.to_bytes());
    assert_eq!(Undo::from_bytes(&executed.undo.to_bytes()), Ok(executed.undo));
    pin("state.root.empty", &State::new(4).root().0);
}

#[test]
fn proofs() {
    let (state, executed) = executed();
    for (name, number) in [("proof.present", 1), ("proof.absent", 99)] {
        let proof = prove(&state, &account_id(number));
        assert_eq!(proof.verify(&executed.state_root), Ok(()));
        pin(name, &proof.to_bytes());
        assert_eq!(AccountProof::from_bytes(&proof.to_bytes()), Ok(proof));
    }
    let proof = prove_receipt(&executed.receipts, 1).unwrap();
    pin("proof.receipt", &proof.to_bytes());
    assert_eq!(ReceiptProof::from_bytes(&proof.to_bytes()), Ok(proof));
}

#[test]
fn finality_digests_and_certificate() {
    let block = FinalBlock { id: BlockId([0x55; 32]), height: 3 };
    let vote = |kind, block| FinalityVote { kind, decision: 2, round: 1, block }.digest(&GENESIS);
    let proposal = |valid_round| FinalityProposal { decision: 2, round: 1, valid_round, block }.digest(&GENESIS);
    let digests = [
        vote(VoteKind::Prevote, Some(block)),
        vote(VoteKind::Prevote, None),
        vote(VoteKind::Precommit, Some(block)),
        vote(VoteKind::Precommit, None),
        proposal(None),
        proposal(Some(0)),
    ];
    pin("finality.digests", &digests.concat());
    let mut certificate = CommitCertificate { decision: 2, round: 1, block, signatures: Vec::new() };
    let digest = certificate.vote().digest(&GENESIS);
    let sign = |number: u8| (ValidatorIndex(number.into()), SignatureBytes(key(number).sign(&digest).to_bytes()));
    certificate.signatures = [0, 2, 3].map(sign).to_vec();
    pin("commit_certificate", &certificate.to_bytes());
    assert_eq!(CommitCertificate::from_bytes(&certificate.to_bytes()), Ok(certificate));
}

/// Two blocks that execute `batches` on forty accounts, the second decided on: their headers and the certificate.
fn final_blocks(
    genesis: &Genesis,
    state: &mut State,
    batches: &[Batch],
) -> (Block, [SealedHeader; 2], CommitCertificate, Vec<Receipt>) {
    let id = genesis.id();
    let verified: Vec<_> = batches.iter().map(|batch| VerifiedBatch::vouch(batch.clone(), &id)).collect();
    let slot = 4;
    let executed = execute(state, &genesis.rules, genesis.slot_time_ms(slot), &verified);
    let block = |height: u64, parent, digests: Vec<BatchDigest>| {
        let header = BlockHeader {
            proposer: ValidatorIndex(0),
            rank: 0,
            height,
            slot: slot + height,
            parent,
            transactions_root: transactions_root(&digests),
            state_root: executed.state_root,
            receipts_root: executed.receipts_root,
            receipts: executed.receipts.len() as u32,
        };
        Block::sign(header, digests, &key(11), &id)
    };
    let first = block(1, genesis.block_id(), verified.iter().map(VerifiedBatch::digest).collect());
    let second = block(2, first.id(&id), Vec::new());
    let certified = FinalBlock { id: second.id(&id), height: 2 };
    let mut certificate = CommitCertificate { decision: 1, round: 0, block: certified, signatures: Vec::new() };
    let digest = certificate.vote().digest(&id);
    let sign = |number: u16| (ValidatorIndex(number), SignatureBytes(key(11 + number as u8).sign(&digest).to_bytes()));
    certificate.signatures = [0, 1].map(sign).to_vec();
    let headers = [first.sealed_header(), second.sealed_header()];
    (first, headers, certificate, executed.receipts)
}

#[test]
fn finality_receipts_of_payments_and_of_an_account_and_its_absence() {
    let mut genesis = genesis();
    for (validator, number) in genesis.validators.iter_mut().zip(11..) {
        validator.key = public(number);
    }
    let id = genesis.id();
    pin_text("finality_receipt.genesis.toml", &genesis.to_toml());
    let mut state = State::new(4);
    (1..=40).for_each(|number| state.open(account(number)).unwrap());
    state.commit();
    let pay = |sequence, amount: Option<Amount>| {
        let body = payment(1, sequence).body();
        PaymentBody { network: 1, amount: amount.unwrap_or(body.amount), ..body }.sign(&key(1), &id)
    };
    let sign = |payments: Vec<Payment>| Batch::sign(ValidatorIndex(0), 1, payments, &key(11), &id);
    let poor = [vec![pay(1, None)], (4..20).map(|sequence| pay(sequence, None)).collect()].map(sign);
    let mut after = state.clone();
    let (block, headers, certificate, receipts) = final_blocks(&genesis, &mut after, &poor);
    let proof_of = |receipts: &[Receipt], place, block: &Block, batches: &[Batch]| {
        let proof = prove_receipt(receipts, place).unwrap();
        let batch = &batches[proof.receipt.batch as usize];
        Statement::Payment(PaymentProof::new(proof, block, batch, &id).unwrap())
    };
    let rejected = proof_of(&receipts, 9, &block, &poor);
    let small = [vec![pay(4, Some(Amount(1))), pay(5, Some(Amount(2)))]].map(sign);
    let (small_block, small_headers, small_certificate, receipts) = final_blocks(&genesis, &mut state, &small);
    let applied = proof_of(&receipts, 1, &small_block, &small);
    let holder = Statement::Account(prove(&after, &account_id(1)));
    let nobody = Statement::Account(prove(&after, &account_id(99)));
    let all = [
        ("payment", rejected, &headers, &certificate),
        ("applied", applied, &small_headers, &small_certificate),
        ("account", holder, &headers, &certificate),
        ("absent", nobody, &headers, &certificate),
    ];
    for (name, statement, headers, certificate) in all {
        let receipt =
            FinalityReceipt { genesis: id, certificate: certificate.clone(), headers: headers.to_vec(), statement };
        pin(&format!("finality_receipt.{name}"), &receipt.to_bytes());
        assert_eq!(FinalityReceipt::from_bytes(&receipt.to_bytes()).as_ref(), Ok(&receipt));
        assert!(receipt.verify(&genesis, &id).is_ok(), "{name}");
    }
}

fn operations() -> Vec<(&'static str, Operation)> {
    let hold = Hold {
        to: account_id(2),
        settler: account_id(3),
        token: TokenId(1),
        amount: Amount(500),
        expires: 1_700_007_200,
        condition: None,
        reference: *b"room 204, 2 days",
    };
    let mut keys = vec![(public(1), 2), (public(2), 1), (public(3), 1)];
    keys.sort_unstable();
    let policy = KeyPolicy::new(3, keys).unwrap();
    let window = WindowWidth::new(1_024).unwrap();
    let transfer = Operation::Transfer {
        to: account_id(2),
        token: TokenId(1),
        amount: Amount(1_234_567),
        reference: *b"invoice 2016-12 ",
    };
    let define = TokenChange::Define {
        token: TokenId(7),
        issuer: account_id(1),
        decimals: Decimals::new(2).unwrap(),
        symbol: Symbol::new("ZEN").unwrap(),
    };
    let open = AccountChange::Open { id: AccountId([0x77; 32]), policy: policy.clone(), window };
    let hand_over = TokenChange::HandOver { token: TokenId(7), issuer: account_id(2) };
    let settle = |preimage| Operation::Settle { hold: HoldId([0x66; 32]), amount: Amount(450), preimage };
    vec![
        ("transfer", transfer),
        ("hold", Operation::Hold(hold)),
        ("hold.conditional", Operation::Hold(Hold { condition: Some([0x88; 32]), ..hold })),
        ("settle", settle(None)),
        ("settle.preimage", settle(Some([0x99; 32]))),
        ("account.open", Operation::Account(open)),
        ("account.keys", Operation::Account(AccountChange::Keys(policy))),
        ("account.window", Operation::Account(AccountChange::Window(window))),
        ("token.define", Operation::Token(define)),
        ("token.hand_over", Operation::Token(hand_over)),
    ]
}

fn transaction(numbers: &[u8], operations: Vec<Operation>) -> Transaction {
    let mut signers: Vec<(Signer, u8)> = (numbers.iter())
        .map(|number| {
            let sequence = Sequence(40 + u64::from(*number));
            (Signer { account: account_id(*number), key: public(*number), sequence }, *number)
        })
        .collect();
    signers.sort_by_key(|(signer, _)| (signer.account, signer.key));
    let legs = operations.into_iter().map(|operation| Leg { account: account_id(numbers[0]), operation }).collect();
    let list = signers.iter().map(|(signer, _)| *signer).collect();
    let body = TransactionBody::new(0x0403_0201, 1_700_003_600, list, legs).unwrap();
    let message = body.signed_bytes(&GENESIS);
    let sign = |number: u8| SignatureBytes(key(number).sign(&message).to_bytes());
    let signatures = signers.iter().map(|(_, number)| sign(*number)).collect();
    body.with_signatures(signatures).unwrap()
}

#[test]
fn transactions_of_each_operation_and_of_all_together() {
    for (name, operation) in operations() {
        let transaction = transaction(&[1], vec![operation]);
        pin(&format!("transaction.{name}"), &transaction.to_bytes());
        assert_eq!(Transaction::from_bytes(&transaction.to_bytes()), Ok(transaction));
    }
    let all = operations().into_iter().map(|(_, operation)| operation).collect();
    let transaction = transaction(&[1, 2, 3], all);
    pin("transaction.all", &transaction.to_bytes());
    pin("transaction.all.id", &transaction.id(&GENESIS).0);
    assert!(transaction.signatures_hold(&GENESIS));
    assert_eq!(Transaction::from_bytes(&transaction.to_bytes()), Ok(transaction));
}

#[test]
fn genesis_id_and_account_file() {
    let accounts = [(account_id(1), TokenId(1), Amount(5)), (account_id(2), TokenId(2), Amount(0))];
    let file = account_file(accounts.into_iter());
    pin("accounts", &file);
    let genesis = genesis();
    assert_eq!(
        genesis.accounts_digest,
        accounts_digest(&file),
        "genesis.toml names {:?}",
        hex::encode(accounts_digest(&file))
    );
    pin("genesis.id", &genesis.id().0);
    pin("genesis.block_id", &genesis.block_id().0);
    pin("genesis.state_root", &genesis.state(&file).unwrap().root().0);
    assert_eq!(Genesis::from_toml(&genesis.to_toml()), Ok(genesis));
}
