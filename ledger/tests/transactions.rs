//! The general transaction's bytes: what they hold, who signs what, and all that is refused.
#![expect(clippy::unwrap_used, reason = "what a test builds for itself is well-formed")]

use ed25519_dalek::{Signer as _, SigningKey};
use zeni_ledger::operation::{
    AccountChange, Decimals, Hold, HoldId, KeyPolicy, OPERATION_BYTES_MAX, POLICY_KEYS_MAX, Symbol, TokenChange,
    WindowWidth,
};
use zeni_ledger::signature::verify_batch;
use zeni_ledger::transaction::{LEGS_MAX, Leg, SIGNERS_MAX, Signer, TRANSACTION_BYTES_MAX, TransactionBody};
use zeni_ledger::{
    AccountId, Amount, DecodeError, GenesisId, Operation, PublicKey, Sequence, SignatureBytes, TokenId, Transaction,
    TransactionId,
};

const GENESIS: GenesisId = GenesisId([3; 32]);

fn account(number: u8) -> AccountId {
    AccountId([number; 32])
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn signer(number: u8, sequence: u64) -> Signer {
    let key = PublicKey(key(number).verifying_key().to_bytes());
    Signer { account: account(number), key, sequence: Sequence(sequence) }
}

fn transfer(from: u8) -> Leg {
    let operation = Operation::Transfer { to: account(9), token: TokenId(1), amount: Amount(5), reference: [6; 16] };
    Leg { account: account(from), operation }
}

fn policy(keys: u8) -> KeyPolicy {
    let keys: Vec<(PublicKey, u16)> = (1..=keys).map(|number| (PublicKey([number; 32]), number.into())).collect();
    KeyPolicy::new(1, keys).unwrap()
}

fn operations() -> Vec<Operation> {
    let hold = Hold {
        to: account(4),
        settler: account(5),
        token: TokenId(6),
        amount: Amount(7),
        expires: 8,
        condition: Some([9; 32]),
        reference: [10; 16],
    };
    let open = |keys, window| AccountChange::Open { id: account(7), policy: policy(keys), window };
    let symbol = Symbol::new("JPY").unwrap();
    vec![
        transfer(1).operation,
        Operation::Hold(hold),
        Operation::Hold(Hold { condition: None, ..hold }),
        Operation::Settle { hold: HoldId([1; 32]), amount: Amount(2), preimage: Some([3; 32]) },
        Operation::Settle { hold: HoldId([1; 32]), amount: Amount(0), preimage: None },
        Operation::Account(open(1, WindowWidth::new(128).unwrap())),
        Operation::Account(open(16, WindowWidth::new(65_536).unwrap())),
        Operation::Account(AccountChange::Keys(policy(3))),
        Operation::Account(AccountChange::Window(WindowWidth::new(1_024).unwrap())),
        Operation::Token(TokenChange::Define {
            token: TokenId(1),
            issuer: account(2),
            decimals: Decimals::new(2).unwrap(),
            symbol,
        }),
        Operation::Token(TokenChange::HandOver { token: TokenId(1), issuer: account(2) }),
    ]
}

fn body() -> TransactionBody {
    let legs = operations().into_iter().map(|operation| Leg { account: account(2), operation }).collect();
    TransactionBody::new(1, 2, vec![signer(1, 7), signer(2, 8)], legs).unwrap()
}

fn sign(body: TransactionBody, keys: &[u8]) -> Transaction {
    let message = body.signed_bytes(&GENESIS);
    let signatures = keys.iter().map(|number| SignatureBytes(key(*number).sign(&message).to_bytes()));
    let signatures = signatures.collect();
    body.with_signatures(signatures).unwrap()
}

fn why_refused(signers: Vec<Signer>, legs: Vec<Leg>) -> DecodeError {
    TransactionBody::new(1, 2, signers, legs).unwrap_err()
}

#[test]
fn every_operation_survives_the_bytes() {
    let transaction = sign(body(), &[1, 2]);
    let bytes = transaction.to_bytes();
    assert_eq!(Transaction::from_bytes(&bytes), Ok(transaction));
}

#[test]
fn the_largest_transaction_is_as_long_as_the_limit_says() {
    let signers = (0..SIGNERS_MAX as u8).map(|number| signer(number, 0)).collect();
    let policy = policy(POLICY_KEYS_MAX as u8);
    let window = WindowWidth::new(128).unwrap();
    let open = Operation::Account(AccountChange::Open { id: account(7), policy, window });
    let legs = vec![Leg { account: account(0), operation: open }; LEGS_MAX];
    let body = TransactionBody::new(1, 2, signers, legs).unwrap();
    let bytes = body.with_signatures(vec![SignatureBytes([0; 64]); SIGNERS_MAX]).unwrap().to_bytes();
    assert_eq!(bytes.len(), TRANSACTION_BYTES_MAX);
    assert!(Transaction::from_bytes(&bytes).is_ok());
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(Transaction::from_bytes(&longer), Err(DecodeError::OverLimit { .. })));
}

#[test]
fn no_operation_is_longer_than_the_limit_says() {
    for operation in operations() {
        let mut encoder = zeni_ledger::encoding::Encoder::default();
        operation.encode(&mut encoder);
        assert!(encoder.as_bytes().len() <= OPERATION_BYTES_MAX, "{operation:?}");
    }
}

#[test]
fn every_truncation_and_extension_is_a_typed_error() {
    let bytes = sign(body(), &[1, 2]).to_bytes();
    for length in 0..bytes.len() {
        assert!(Transaction::from_bytes(&bytes[..length]).is_err(), "{length} bytes were accepted");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Transaction::from_bytes(&longer), Err(DecodeError::TrailingBytes { extra: 1 }));
}

#[test]
fn no_flipped_bit_yields_the_same_transaction_or_a_valid_signature() {
    let transaction = sign(TransactionBody::new(1, 2, vec![signer(1, 7)], vec![transfer(1)]).unwrap(), &[1]);
    let bytes = transaction.to_bytes();
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 1 << (place % 8);
        if let Ok(other) = Transaction::from_bytes(&changed) {
            assert_eq!(other.to_bytes(), changed);
            assert!(!other.signatures_hold(&GENESIS), "byte {place} is not signed");
        }
    }
}

#[test]
fn the_id_covers_the_body_and_the_genesis_but_not_the_signatures() {
    let (one, other) = (sign(body(), &[1, 2]), sign(body(), &[2, 1]));
    assert_eq!(one.id(&GENESIS), other.id(&GENESIS));
    assert_ne!(one.id(&GENESIS), one.id(&GenesisId([4; 32])));
    let digest = blake3::hash(&one.body().signed_bytes(&GENESIS));
    assert_eq!(one.id(&GENESIS), TransactionId(*digest.as_bytes()));
    let later = TransactionBody::new(1, 3, body().signers().to_vec(), body().legs().to_vec()).unwrap();
    assert_ne!(later.id(&GENESIS), body().id(&GENESIS));
}

#[test]
fn every_signer_must_have_signed() {
    assert!(sign(body(), &[1, 2]).signatures_hold(&GENESIS));
    assert!(!sign(body(), &[1, 2]).signatures_hold(&GenesisId([4; 32])));
    assert!(!sign(body(), &[1, 1]).signatures_hold(&GENESIS));
    assert!(!sign(body(), &[2, 1]).signatures_hold(&GENESIS));
    assert_eq!(body().with_signatures(vec![SignatureBytes([0; 64])]), None);
    let half = sign(body(), &[1, 1]);
    let message = half.body().signed_bytes(&GENESIS);
    let claims: Vec<_> = half.claims(&message).collect();
    assert_eq!(verify_batch(&claims, [1; 32]), vec![1]);
}

#[test]
fn signers_rise_strictly_and_stand_once() {
    let order = |found| DecodeError::Invalid { what: "order of a transaction's signers at", found };
    assert_eq!(why_refused(vec![signer(2, 0), signer(1, 0)], vec![transfer(1)]), order(1));
    assert_eq!(why_refused(vec![signer(1, 0), signer(2, 0), signer(2, 0)], vec![transfer(1)]), order(2));
}

#[test]
fn the_keys_of_one_account_use_one_sequence() {
    let mut both = [signer(1, 7), Signer { account: account(1), ..signer(2, 7) }];
    both.sort_by_key(|signer| signer.key);
    assert!(TransactionBody::new(1, 2, both.to_vec(), vec![transfer(1)]).is_ok());
    both[1].sequence = Sequence(8);
    let what = "second sequence of one account at signer";
    assert_eq!(why_refused(both.to_vec(), vec![transfer(1)]), DecodeError::Invalid { what, found: 1 });
}

#[test]
fn a_leg_of_an_account_that_does_not_sign_is_refused() {
    let refused = why_refused(vec![signer(1, 0)], vec![transfer(1), transfer(2)]);
    assert_eq!(refused, DecodeError::Invalid { what: "account, which does not sign, of leg", found: 1 });
}

#[test]
fn none_and_too_many_signers_and_legs_are_refused() {
    let many = |count: usize| vec![transfer(1); count];
    assert!(matches!(why_refused(vec![], many(1)), DecodeError::OverLimit { found: 0, .. }));
    assert!(matches!(why_refused(vec![signer(1, 0)], vec![]), DecodeError::OverLimit { found: 0, .. }));
    assert!(matches!(why_refused(vec![signer(1, 0)], many(257)), DecodeError::OverLimit { found: 257, .. }));
    let signers = (0..33).map(|number| signer(number, 0)).collect();
    assert!(matches!(why_refused(signers, many(1)), DecodeError::OverLimit { found: 33, .. }));
}

#[test]
fn unknown_versions_tags_kinds_and_presences_are_refused() {
    let encode = |operation: &Operation| {
        let leg = Leg { account: account(1), operation: operation.clone() };
        TransactionBody::new(1, 2, vec![signer(1, 0)], vec![leg]).unwrap().to_bytes()
    };
    const OPERATION: usize = 2 + 4 + 4 + 2 + 72 + 2 + 32;
    let all = operations();
    let refused = |operation: &Operation, place: usize, byte: u8| {
        let mut bytes = encode(operation);
        bytes[place] = byte;
        bytes.extend([0; 64]);
        Transaction::from_bytes(&bytes).unwrap_err()
    };
    assert!(matches!(refused(&all[0], 0, 2), DecodeError::UnknownVersion { found: 2, .. }));
    for tag in [0, 6, 255] {
        let found = u64::from(tag);
        assert_eq!(refused(&all[0], OPERATION, tag), DecodeError::Invalid { what: "tag of an operation", found });
    }
    for (operation, place) in [(&all[1], 1 + 32 + 32 + 16), (&all[3], 1 + 32 + 8)] {
        let error = refused(operation, OPERATION + place, 2);
        assert_eq!(error, DecodeError::Invalid { what: "presence of a condition or preimage", found: 2 });
    }
    let error = refused(&all[7], OPERATION + 1, 4);
    assert_eq!(error, DecodeError::Invalid { what: "kind of an account operation", found: 4 });
    let error = refused(&all[10], OPERATION + 1, 3);
    assert_eq!(error, DecodeError::Invalid { what: "kind of a token operation", found: 3 });
    let error = refused(&all[9], OPERATION + 1 + 1 + 36, 19);
    assert_eq!(error, DecodeError::Invalid { what: "decimals of a token", found: 19 });
    let error = refused(&all[9], OPERATION + 1 + 1 + 36 + 2, b' ');
    assert_eq!(error, DecodeError::Invalid { what: "character of a token's symbol", found: 32 });
    let error = refused(&all[9], OPERATION + 1 + 1 + 36 + 2, 0xff);
    assert_eq!(error, DecodeError::Invalid { what: "symbol of a token at byte", found: 0 });
}

#[test]
fn key_policies_that_nobody_can_meet_or_write_twice_are_refused() {
    let keys = |weights: &[(u8, u16)]| {
        weights.iter().map(|(number, weight)| (PublicKey([*number; 32]), *weight)).collect::<Vec<_>>()
    };
    assert!(KeyPolicy::new(3, keys(&[(1, 1), (2, 2)])).is_ok());
    let invalid = |threshold, weights: &[(u8, u16)]| KeyPolicy::new(threshold, keys(weights)).unwrap_err();
    let what = "threshold of an account's keys";
    assert_eq!(invalid(4, &[(1, 1), (2, 2)]), DecodeError::Invalid { what, found: 4 });
    assert_eq!(invalid(0, &[(1, 1)]), DecodeError::Invalid { what, found: 0 });
    let what = "order of an account's keys at";
    assert_eq!(invalid(1, &[(2, 1), (1, 1)]), DecodeError::Invalid { what, found: 1 });
    assert_eq!(invalid(1, &[(1, 1), (1, 1)]), DecodeError::Invalid { what, found: 1 });
    let what = "weight 0 of an account's key at";
    assert_eq!(invalid(1, &[(1, 1), (2, 0)]), DecodeError::Invalid { what, found: 1 });
    assert!(matches!(invalid(1, &[]), DecodeError::OverLimit { found: 0, .. }));
    assert!(matches!(invalid(1, &[(1, 1); 17]), DecodeError::OverLimit { found: 17, .. }));
}

#[test]
fn settings_outside_their_bounds_are_refused() {
    for width in [0, 127, 65_537, u32::MAX] {
        assert!(WindowWidth::new(width).is_err(), "{width}");
    }
    assert!(Decimals::new(19).is_err());
    for symbol in ["", "ABCDEFGHIJKLMNOPQ", "JP Y", "円", "A\n"] {
        assert!(Symbol::new(symbol).is_err(), "{symbol:?}");
    }
}

#[test]
fn holds_of_two_legs_have_two_names() {
    let id = body().id(&GENESIS);
    assert_ne!(HoldId::of(&id, 0), HoldId::of(&id, 1));
    assert_ne!(HoldId::of(&id, 0), HoldId::of(&TransactionId([0; 32]), 0));
}
