//! What must hold of any bytes at all, one function for each parser: no panic, and whatever is accepted is written
//! again as the same bytes. The fuzz targets in `fuzz/` run these functions too.
//!
//! Each function returns whether it accepted the bytes.

use zeni_ledger::encoding::{Decoder, Encoder};
use zeni_ledger::genesis::{account_file as write_account_file, account_records, accounts_digest};
use zeni_ledger::operation::Operation;
use zeni_ledger::proof::{AccountProof, ReceiptProof};
use zeni_ledger::signature::{Claim, verify};
use zeni_ledger::{
    Account, AccountId, Batch, Block, CommitCertificate, FinalityReceipt, Genesis, Payment, PublicKey, Receipt,
    ReceiptsRoot, SignatureBytes, StateRoot, Transaction, Undo,
};

/// Keeps `account_file` from building a state of whatever depth a mutated genesis asks for.
const GENESIS_TOML: &str = include_str!("../golden/genesis.toml");

pub fn payments(bytes: &[u8]) -> bool {
    let Some(payments) = Payment::slice_from_bytes(bytes) else {
        assert_ne!(bytes.len() % 176, 0, "whole payments were refused");
        return false;
    };
    assert_eq!(Payment::slice_as_bytes(payments), bytes);
    for payment in payments {
        assert_eq!(payment.body().with_signature(payment.signature()), *payment);
    }
    true
}

pub fn batch(bytes: &[u8]) -> bool {
    let Ok(batch) = Batch::from_bytes(bytes) else { return false };
    assert_eq!(batch.to_bytes(), bytes);
    assert_eq!(batch.encoded_len(), bytes.len());
    true
}

pub fn block(bytes: &[u8]) -> bool {
    let Ok(block) = Block::from_bytes(bytes) else { return false };
    assert_eq!(block.to_bytes(), bytes);
    assert_eq!(block.encoded_len(), bytes.len());
    true
}

pub fn undo(bytes: &[u8]) -> bool {
    let Ok(undo) = Undo::from_bytes(bytes) else { return false };
    assert_eq!(undo.to_bytes(), bytes);
    true
}

pub fn receipt(bytes: &[u8]) -> bool {
    let Ok(receipt) = Receipt::from_bytes(bytes) else { return false };
    assert_eq!(receipt.to_bytes(), bytes);
    true
}

pub fn account(bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(bytes);
    let Ok(account) = Account::decode(&mut decoder) else { return false };
    let mut encoder = Encoder::default();
    account.encode(&mut encoder);
    assert_eq!(encoder.as_bytes(), &bytes[..bytes.len() - decoder.remaining()]);
    decoder.finish().is_ok()
}

pub fn account_proof(bytes: &[u8]) -> bool {
    let Ok(proof) = AccountProof::from_bytes(bytes) else { return false };
    assert_eq!(proof.to_bytes(), bytes);
    assert!(proof.verify(&StateRoot([1; 32])).is_err(), "a proof of a root that nobody can reach");
    true
}

pub fn receipt_proof(bytes: &[u8]) -> bool {
    let Ok(proof) = ReceiptProof::from_bytes(bytes) else { return false };
    assert_eq!(proof.to_bytes(), bytes);
    assert!(proof.verify(&ReceiptsRoot([1; 32])).is_err(), "a proof of a root that nobody can reach");
    true
}

pub fn commit_certificate(bytes: &[u8]) -> bool {
    let Ok(certificate) = CommitCertificate::from_bytes(bytes) else { return false };
    assert_eq!(certificate.to_bytes(), bytes);
    true
}

pub fn finality_receipt(bytes: &[u8]) -> bool {
    let Ok(receipt) = FinalityReceipt::from_bytes(bytes) else { return false };
    assert_eq!(receipt.to_bytes(), bytes);
    let genesis = Genesis::from_toml(GENESIS_TOML).expect("the golden genesis is valid");
    // As if the file were of this ledger, so that everything in it is looked at.
    assert!(receipt.verify(&genesis, &receipt.genesis).is_err(), "nobody signed for the golden genesis");
    true
}

pub fn transaction(bytes: &[u8]) -> bool {
    let Ok(transaction) = Transaction::from_bytes(bytes) else { return false };
    assert_eq!(transaction.to_bytes(), bytes);
    true
}

pub fn operation(bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(bytes);
    let Ok(operation) = Operation::decode(&mut decoder) else { return false };
    let mut encoder = Encoder::default();
    operation.encode(&mut encoder);
    assert_eq!(encoder.as_bytes(), &bytes[..bytes.len() - decoder.remaining()]);
    decoder.finish().is_ok()
}

pub fn genesis_toml(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(genesis) = Genesis::from_toml(text) else { return false };
    // TOML has no canonical form; what it says survives being written.
    assert_eq!(Genesis::from_toml(&genesis.to_toml()), Ok(genesis));
    true
}

/// The file as bytes, and the state of a genesis that names it.
pub fn account_file(bytes: &[u8]) -> bool {
    let Ok(records) = account_records(bytes) else { return false };
    let records: Vec<_> = records.collect();
    assert_eq!(write_account_file(records.iter().copied()), bytes);
    let genesis = Genesis::from_toml(GENESIS_TOML).expect("the golden genesis is valid");
    let accounts = records.len() as u64;
    let genesis = Genesis { accounts, accounts_digest: accounts_digest(bytes), ..genesis };
    let Ok(state) = genesis.state(bytes) else { return false };
    assert!(state.token_sums().values().all(|sum| *sum == 0), "genesis made money");
    true
}

pub fn account_text(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(id) = text.parse::<AccountId>() else { return false };
    // Bech32m may be written in capitals throughout.
    assert_eq!(id.to_string(), text.to_lowercase());
    true
}

/// Key, signature and message.
pub fn signature(bytes: &[u8]) -> bool {
    let Some((key, rest)) = bytes.split_first_chunk::<32>() else { return false };
    let Some((signature, message)) = rest.split_first_chunk::<64>() else { return false };
    verify(&Claim { key: PublicKey(*key), message, signature: SignatureBytes(*signature) })
}
