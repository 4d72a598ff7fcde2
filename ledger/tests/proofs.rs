//! Proofs of accounts, of their absence and of receipts: what holds, and that nothing else does.
#![expect(clippy::unwrap_used, reason = "what a test builds for itself is well-formed")]

use zeni_ledger::proof::{
    ACCOUNT_PROOF_BYTES_MAX, AccountProof, ProofError, RECEIPT_PROOF_BYTES_MAX, ReceiptProof, prove, prove_receipt,
};
use zeni_ledger::receipt::receipts_root;
use zeni_ledger::state::{account_key, bucket_of};
use zeni_ledger::{
    Account, AccountId, Balance, DecodeError, Outcome, Receipt, Rejection, Sequence, State, StateRoot, TokenId,
    TransactionId,
};

const DEPTH: u32 = 4;

fn id(number: u32) -> AccountId {
    let mut bytes = [0x5a; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    AccountId(bytes)
}

fn account(number: u32) -> Account {
    let mut account = Account::new(id(number));
    for token in 0..=number % 3 {
        assert!(account.set_balance(TokenId(token), Balance::new(i128::from(number) + 1)));
    }
    account.window_mut().use_up(Sequence(u64::from(number % 5))).unwrap();
    account
}

fn state(accounts: u32) -> State {
    let mut state = State::new(DEPTH);
    for number in 0..accounts {
        state.open(account(number)).unwrap();
    }
    state.commit();
    state
}

/// Parses and checks as a wallet does that asked for `id`.
fn holds(bytes: &[u8], id: &AccountId, root: &StateRoot) -> bool {
    AccountProof::from_bytes(bytes).is_ok_and(|proof| proof.id == *id && proof.verify(root).is_ok())
}

#[test]
fn every_account_is_proved_with_its_content() {
    for accounts in [1, 2, 16, 60] {
        let state = state(accounts);
        for number in 0..accounts {
            let proof = prove(&state, &id(number));
            assert_eq!(proof.account, Some(account(number)));
            assert_eq!(proof.verify(&state.root()), Ok(()));
            assert_eq!(AccountProof::from_bytes(&proof.to_bytes()), Ok(proof));
        }
    }
}

#[test]
fn every_absence_is_proved_in_empty_and_in_shared_buckets() {
    for accounts in [0, 1, 60] {
        let state = state(accounts);
        for number in accounts..accounts + 60 {
            let proof = prove(&state, &id(number));
            assert_eq!(proof.account, None);
            assert_eq!(proof.verify(&state.root()), Ok(()));
            assert_eq!(AccountProof::from_bytes(&proof.to_bytes()), Ok(proof));
        }
    }
}

#[test]
fn a_proof_of_presence_with_any_bit_flipped_is_refused() {
    let state = state(60);
    let bytes = prove(&state, &id(5)).to_bytes();
    assert!(holds(&bytes, &id(5), &state.root()));
    assert_no_flip_holds(&bytes, |changed| holds(changed, &id(5), &state.root()));
}

#[test]
fn a_proof_of_absence_with_any_bit_flipped_is_refused() {
    let state = state(60);
    let bytes = prove(&state, &id(77)).to_bytes();
    assert!(holds(&bytes, &id(77), &state.root()));
    assert_no_flip_holds(&bytes, |changed| holds(changed, &id(77), &state.root()));
}

#[test]
fn every_truncation_and_every_extension_of_a_proof_is_refused() {
    let state = state(60);
    let bytes = prove(&state, &id(5)).to_bytes();
    for length in 0..bytes.len() {
        assert!(AccountProof::from_bytes(&bytes[..length]).is_err(), "{length} bytes were accepted");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(AccountProof::from_bytes(&longer), Err(DecodeError::TrailingBytes { extra: 1 }));
}

#[test]
fn a_proof_of_yesterday_does_not_hold_against_the_root_of_today() {
    let mut state = state(60);
    let proof = prove(&state, &id(5));
    let mut changed = account(6);
    assert!(changed.set_balance(TokenId(0), Balance::new(999)));
    assert!(state.replace(changed));
    let today = state.commit();
    assert!(matches!(proof.verify(&today), Err(ProofError::OtherStateRoot { expected, .. }) if expected == today));
    assert_eq!(prove(&state, &id(5)).verify(&today), Ok(()));
}

#[test]
fn an_existing_account_cannot_be_shown_to_be_absent() {
    let state = state(60);
    let present = prove(&state, &id(5));
    let hidden = AccountProof { account: None, ..present };
    assert!(matches!(hidden.verify(&state.root()), Err(ProofError::OtherStateRoot { .. })));
    let mut as_stranger = hidden;
    let whole = state.bucket_entries(bucket_of(&account_key(&id(5)), DEPTH));
    as_stranger.strangers = whole;
    assert_eq!(as_stranger.verify(&state.root()), Err(ProofError::NotAbsent));
}

#[test]
fn another_accounts_content_cannot_be_shown() {
    let state = state(60);
    let forged = AccountProof { account: Some(account(6)), ..prove(&state, &id(5)) };
    let refused = forged.verify(&state.root());
    assert_eq!(refused, Err(ProofError::OtherAccount { found: id(6), expected: id(5) }));
    let mut richer = prove(&state, &id(5));
    assert!(richer.account.as_mut().unwrap().set_balance(TokenId(0), Balance::new(1_000_000)));
    assert!(matches!(richer.verify(&state.root()), Err(ProofError::OtherStateRoot { .. })));
}

#[test]
fn malformed_proofs_say_what_is_wrong() {
    let state = state(60);
    let root = state.root();
    let good = prove(&state, &id(5));
    assert!(good.strangers.len() >= 2);
    let change = |edit: &dyn Fn(&mut AccountProof)| {
        let mut proof = good.clone();
        edit(&mut proof);
        proof.verify(&root).unwrap_err()
    };
    assert_eq!(change(&|proof| proof.depth = 3), ProofError::Depth { found: 3 });
    assert_eq!(change(&|proof| proof.depth = 33), ProofError::Depth { found: 33 });
    assert_eq!(change(&|proof| proof.depth = 5), ProofError::Siblings { found: 4, expected: 5 });
    assert!(matches!(change(&|proof| proof.strangers.swap(0, 1)), ProofError::KeysNotRising { .. }));
    assert!(matches!(change(&|proof| proof.strangers[1] = proof.strangers[0]), ProofError::KeysNotRising { .. }));
    let many = |proof: &mut AccountProof| proof.strangers = vec![([0; 32], [0; 32]); 256];
    assert_eq!(change(&many), ProofError::BucketOverfull { found: 257 });
    let foreign = |proof: &mut AccountProof| proof.strangers.last_mut().unwrap().0 = [0xff; 32];
    assert!(matches!(change(&foreign), ProofError::ForeignKey { .. }));
    assert!(matches!(change(&|proof| proof.accounts = 61), ProofError::OtherStateRoot { .. }));
}

#[test]
fn limits_are_checked_before_anything_else_is_read() {
    let mut bytes = prove(&state(0), &id(5)).to_bytes();
    assert!(bytes.len() <= ACCOUNT_PROOF_BYTES_MAX);
    bytes[44..46].copy_from_slice(&257u16.to_le_bytes());
    let refused = AccountProof::from_bytes(&bytes);
    assert!(matches!(refused, Err(DecodeError::OverLimit { found: 257, limit: 256, .. })), "{refused:?}");
    bytes[2] = 27;
    assert!(matches!(AccountProof::from_bytes(&bytes), Err(DecodeError::Invalid { found: 27, .. })));
    bytes[0] = 2;
    assert!(matches!(AccountProof::from_bytes(&bytes), Err(DecodeError::UnknownVersion { found: 2, .. })));
}

fn receipts(count: u32) -> Vec<Receipt> {
    (0..count)
        .map(|number| {
            let outcome = match number % 3 {
                0 => Outcome::Rejected(Rejection::ALL[number as usize % 7]),
                _ => Outcome::Applied,
            };
            let (batch, position) = (number / 10, (number % 10) as u16);
            Receipt { batch, position, id: TransactionId([number as u8; 32]), outcome }
        })
        .collect()
}

#[test]
fn every_receipt_is_proved_at_its_place_only() {
    for count in [1, 2, 3, 7, 33] {
        let receipts = receipts(count);
        let root = receipts_root(&receipts);
        for index in 0..count {
            let proof = prove_receipt(&receipts, index as usize).unwrap();
            assert_eq!(proof.verify(&root), Ok(()));
            let elsewhere = ReceiptProof { index: (index + 1) % (count + 1), ..proof.clone() };
            assert!(elsewhere.verify(&root).is_err());
            assert!(proof.to_bytes().len() <= RECEIPT_PROOF_BYTES_MAX);
            assert_eq!(ReceiptProof::from_bytes(&proof.to_bytes()), Ok(proof));
        }
        assert_eq!(prove_receipt(&receipts, count as usize), None);
    }
}

#[test]
fn a_receipt_proof_with_any_bit_flipped_is_refused() {
    let receipts = receipts(33);
    let root = receipts_root(&receipts);
    for index in [0, 17, 32] {
        let bytes = prove_receipt(&receipts, index).unwrap().to_bytes();
        let holds = |bytes: &[u8]| ReceiptProof::from_bytes(bytes).is_ok_and(|proof| proof.verify(&root).is_ok());
        assert!(holds(&bytes));
        assert_no_flip_holds(&bytes, holds);
        for length in 0..bytes.len() {
            assert!(ReceiptProof::from_bytes(&bytes[..length]).is_err(), "{length} bytes were accepted");
        }
    }
}

fn assert_no_flip_holds(bytes: &[u8], holds: impl Fn(&[u8]) -> bool) {
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.to_vec();
            changed[place] ^= 1 << bit;
            assert!(!holds(&changed), "bit {bit} of byte {place} makes no difference");
        }
    }
}
