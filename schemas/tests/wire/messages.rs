//! Messages: round trip of every variant, golden bytes, limits, and bytes that are none.

use std::sync::Arc;

use proptest::prelude::*;
use zeni_consensus::finality::message::{RoundReason, RoundVote};
use zeni_consensus::finality::{FinalityMessage, RoundCertificate};
use zeni_consensus::message::{
    FETCH_BATCHES_MAX, LOCATOR_MAX, MESSAGE_BLOCKS_BYTES_MAX, MESSAGE_BLOCKS_MAX, MESSAGE_DIGESTS_MAX, VALIDATORS_MAX,
};
use zeni_consensus::{Evidence, Message, Mode, Status};
use zeni_ledger::batch::BATCH_PAYMENTS_MAX;
use zeni_ledger::block::{BLOCK_BATCHES_LIMIT, transactions_root};
use zeni_ledger::finality::VoteKind;
use zeni_ledger::payment::PAYMENT_BYTES;
use zeni_ledger::{
    Batch, BatchDigest, Block, BlockHeader, BlockId, FinalBlock, Payment, ReceiptsRoot, SignatureBytes, StateRoot,
    ValidatorIndex,
};
use zeni_schemas::WireError;
use zeni_schemas::message::{BATCH_FRAME_BYTES_MAX, CONTROL_FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, decode, encode};

use crate::{checks, golden};

fn payment(number: usize) -> Payment {
    let mut bytes = [0; PAYMENT_BYTES];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = (place * 7 + number * 13) as u8;
    }
    Payment::from_bytes(bytes)
}

fn batch(payments: usize) -> Batch {
    Batch {
        author: ValidatorIndex(2),
        number: 0x0102_0304_0506_0708,
        payments: (0..payments).map(payment).collect(),
        signature: SignatureBytes([9; 64]),
    }
}

fn digests(count: usize) -> Vec<BatchDigest> {
    (0..count)
        .map(|number| {
            let mut digest = [3; 32];
            digest[..8].copy_from_slice(&(number as u64).to_le_bytes());
            BatchDigest(digest)
        })
        .collect()
}

fn block(height: u64, batches: usize) -> Arc<Block> {
    let digests = digests(batches);
    let header = BlockHeader {
        proposer: ValidatorIndex(1),
        rank: 2,
        height,
        slot: height.wrapping_add(40),
        parent: BlockId([4; 32]),
        transactions_root: transactions_root(&digests),
        state_root: StateRoot([5; 32]),
        receipts_root: ReceiptsRoot([6; 32]),
        receipts: 77,
    };
    Arc::new(Block { header, digests, signature: SignatureBytes([8; 64]) })
}

fn status(echoes: usize, mode: Mode) -> Status {
    Status {
        validator: ValidatorIndex(3),
        boot: 0x1111_2222_3333_4444,
        nonce: 0x5555_6666_7777_8888,
        echoes: (0..echoes).map(|index| (ValidatorIndex(index as u16), index as u64 + 100)).collect(),
        mode,
        head: BlockId([7; 32]),
        height: 12,
        slot: 34,
        weight: (5 << 64) + 6,
        pool: 99,
        decision: 10,
        last_final: FinalBlock { id: BlockId([13; 32]), height: 11 },
    }
}

/// A round certificate with so many votes: the largest of what the finality engine says.
fn finality(votes: usize) -> Message<Batch> {
    let vote = |voter: usize| RoundVote {
        kind: VoteKind::Precommit,
        block: Some(FinalBlock { id: BlockId([14; 32]), height: 15 }),
        voter: ValidatorIndex(voter as u16),
        signature: SignatureBytes([16; 64]),
    };
    let votes = (0..votes).map(vote).collect();
    let certificate = RoundCertificate { decision: 17, round: 18, reason: RoundReason::Precommits, votes };
    Message::Finality(Box::new(FinalityMessage::Round(certificate)))
}

/// A bad batch of so many payments: the largest of what is evidence.
fn evidence(payments: usize) -> Message<Batch> {
    Message::Evidence(Box::new(Evidence::of_batch(Arc::new(batch(payments)), 1)))
}

/// One of every variant, small enough to be read.
fn samples() -> Vec<(&'static str, Message<Batch>)> {
    vec![
        ("message_status", Message::Status(status(2, Mode::Active))),
        ("message_batch", Message::Batch(batch(2))),
        ("message_stored", Message::Stored(digests(2))),
        ("message_pool", Message::Pool(digests(3))),
        ("message_block", Message::Block(block(8, 2))),
        ("message_fetch_blocks", Message::FetchBlocks { locator: vec![BlockId([1; 32]), BlockId([2; 32])] }),
        ("message_fetch_ancestors", Message::FetchAncestors { id: BlockId([1; 32]), known_height: 55 }),
        ("message_blocks", Message::Blocks(vec![block(8, 0), block(9, 1)])),
        ("message_fetch_batches", Message::FetchBatches(digests(1))),
        ("message_missing", Message::Missing(digests(1))),
        ("message_finality", finality(3)),
        ("message_evidence", evidence(2)),
        ("message_draft", Message::Draft { slot: 34, parent: BlockId([4; 32]), start: 5, digests: digests(2) }),
    ]
}

/// Every variant at its limit, and empty where it can be.
fn extremes() -> Vec<Message<Batch>> {
    // As many of the largest blocks as go into one message.
    let block_bytes = block(1, BLOCK_BATCHES_LIMIT).encoded_len();
    let largest = (0..(MESSAGE_BLOCKS_BYTES_MAX / block_bytes) as u64).map(|height| block(height, BLOCK_BATCHES_LIMIT));
    vec![
        Message::Status(status(0, Mode::Joining)),
        Message::Status(status(VALIDATORS_MAX, Mode::FollowOnly)),
        Message::Batch(batch(0)),
        Message::Batch(batch(BATCH_PAYMENTS_MAX)),
        evidence(BATCH_PAYMENTS_MAX),
        Message::Stored(vec![]),
        Message::Stored(digests(MESSAGE_DIGESTS_MAX)),
        Message::Pool(digests(MESSAGE_DIGESTS_MAX)),
        Message::Block(block(1, 0)),
        Message::Block(block(u64::MAX, BLOCK_BATCHES_LIMIT)),
        Message::Draft { slot: 0, parent: BlockId([0; 32]), start: 0, digests: vec![] },
        Message::Draft {
            slot: u64::MAX,
            parent: BlockId([4; 32]),
            start: u32::MAX,
            digests: digests(MESSAGE_DIGESTS_MAX),
        },
        Message::FetchBlocks { locator: vec![] },
        Message::FetchBlocks { locator: vec![BlockId([9; 32]); LOCATOR_MAX] },
        Message::Blocks(vec![]),
        Message::Blocks((0..MESSAGE_BLOCKS_MAX as u64).map(|height| block(height, 400)).collect()),
        Message::Blocks(largest.collect()),
        Message::FetchBatches(digests(FETCH_BATCHES_MAX)),
        Message::Missing(digests(MESSAGE_DIGESTS_MAX)),
        finality(0),
        finality(VALIDATORS_MAX),
    ]
}

#[test]
fn every_variant_round_trips_in_its_golden_bytes() {
    for (name, message) in samples() {
        let bytes = encode(&message);
        assert_eq!(decode(&bytes), Ok(message));
        golden::assert_golden(name, &bytes);
    }
}

#[test]
fn every_variant_round_trips_at_its_limits() {
    for message in extremes() {
        let bytes = encode(&message);
        let limit = match &message {
            Message::Batch(_) => BATCH_FRAME_BYTES_MAX,
            _ => CONTROL_FRAME_BYTES_MAX,
        };
        assert!(bytes.len() <= limit, "{} bytes", bytes.len());
        assert!(decode(&bytes) == Ok(message), "a message of {} bytes differs", bytes.len());
    }
}

#[test]
fn every_mode_round_trips() {
    for mode in [Mode::Joining, Mode::Syncing, Mode::Active, Mode::FollowOnly] {
        let message = Message::Status(status(1, mode));
        assert_eq!(decode(&encode(&message)), Ok(message));
    }
}

#[test]
fn every_truncation_and_every_extension_is_refused() {
    for (_, message) in samples() {
        golden::assert_no_other_length(&encode(&message), |bytes| decode(bytes).map(drop));
    }
    for message in extremes() {
        golden::assert_no_other_length(&encode(&message), |bytes| decode(bytes).map(drop));
    }
}

#[test]
fn a_frame_beyond_every_limit_is_refused_unread() {
    let found = MESSAGE_BYTES_MAX + 1;
    let error = WireError::TooLong { what: "message", found, limit: MESSAGE_BYTES_MAX };
    assert_eq!(decode(&vec![0xff; found]), Err(error));
}

/// Copies of the frame with one byte that is `kind` changed to `other`: in one of them that byte is the body's kind.
fn with_body_of_another_kind(message: &Message<Batch>, kind: u8, other: u8) -> Vec<Vec<u8>> {
    let bytes = encode(message);
    let places = (12..bytes.len().min(64)).filter(|place| bytes[*place] == kind);
    places
        .map(|place| {
            let mut changed = bytes.clone();
            changed[place] = other;
            changed
        })
        .collect()
}

#[test]
fn a_list_that_is_allowed_in_one_kind_is_refused_in_another() {
    // `Stored` (3) may hold 4,096 digests, `FetchBatches` (9) only 64; their tables look alike.
    let stored = Message::Stored(digests(FETCH_BATCHES_MAX + 1));
    let refused = with_body_of_another_kind(&stored, 3, 9).iter().any(|bytes| {
        let kept = decode(bytes).is_ok_and(|message| matches!(message, Message::FetchBatches(_)));
        assert!(!kept, "more digests than allowed were read");
        matches!(
            decode(bytes),
            Err(WireError::TooMany { found, limit: FETCH_BATCHES_MAX, .. }) if found == FETCH_BATCHES_MAX + 1
        ) || matches!(decode(bytes), Err(WireError::TooLong { what: "FetchBatches", .. }))
    });
    assert!(refused, "the kind of the body was not found in the frame");
    let long = Message::Stored(digests(MESSAGE_DIGESTS_MAX));
    let refused = with_body_of_another_kind(&long, 3, 9)
        .iter()
        .any(|bytes| matches!(decode(bytes), Err(WireError::TooLong { what: "FetchBatches", .. })));
    assert!(refused, "a long frame of a short kind was parsed");
}

#[test]
fn an_unknown_kind_is_refused() {
    let refused = with_body_of_another_kind(&Message::Missing(vec![]), 10, 14)
        .iter()
        .any(|bytes| decode(bytes) == Err(WireError::UnknownCode { what: "message", found: 14 }));
    assert!(refused, "the kind of the body was not found in the frame");
}

#[test]
fn a_batch_that_is_not_canonical_is_refused() {
    let batch = batch(1);
    let bytes = encode(&Message::Batch(batch.clone()));
    let canonical = batch.to_bytes();
    let start = bytes.windows(canonical.len()).position(|window| window == canonical).expect("travels as it is");
    let mut version = bytes.clone();
    version[start] = 9;
    assert!(matches!(decode(&version), Err(WireError::Contents { what: "batch", .. })));
    let mut count = bytes;
    count[start + 12] = 2;
    assert!(matches!(decode(&count), Err(WireError::Contents { what: "batch", .. })));
}

#[test]
fn the_identifiers_are_those_of_the_schemas() {
    let sample = encode(&samples()[0].1);
    for (schema, identifier) in [
        (include_str!("../../fbs/message.fbs"), &sample[8..12]),
        (include_str!("../../fbs/hello.fbs"), b"ZNHL".as_slice()),
        (include_str!("../../fbs/request.fbs"), b"ZNRQ"),
        (include_str!("../../fbs/reply.fbs"), b"ZNRP"),
    ] {
        let line = format!("file_identifier \"{}\";", std::str::from_utf8(identifier).unwrap());
        assert!(schema.lines().any(|found| found == line), "no schema says {line}");
    }
}

fn any_digests(limit: usize) -> impl Strategy<Value = Vec<BatchDigest>> {
    prop::collection::vec(any::<[u8; 32]>().prop_map(BatchDigest), 0..limit)
}

fn any_block() -> impl Strategy<Value = Arc<Block>> {
    let numbers = (any::<u16>(), any::<u16>(), any::<u64>(), any::<u64>(), any::<u32>());
    let hashes = (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 32]>());
    (numbers, hashes, any_digests(20), any::<[u8; 32]>()).prop_map(|(numbers, hashes, digests, half)| {
        let header = BlockHeader {
            proposer: ValidatorIndex(numbers.0),
            rank: numbers.1,
            height: numbers.2,
            slot: numbers.3,
            parent: BlockId(hashes.0),
            transactions_root: transactions_root(&digests),
            state_root: StateRoot(hashes.1),
            receipts_root: ReceiptsRoot(hashes.2),
            receipts: numbers.4,
        };
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&half);
        Arc::new(Block { header, digests, signature: SignatureBytes(signature) })
    })
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let payments = prop::collection::vec(any::<u64>(), 0..30);
    (any::<u16>(), any::<u64>(), payments).prop_map(|(author, number, payments)| Batch {
        author: ValidatorIndex(author),
        number,
        payments: payments.into_iter().map(|seed| payment(seed as u32 as usize)).collect(),
        signature: SignatureBytes([number as u8; 64]),
    })
}

fn any_status() -> impl Strategy<Value = Status> {
    let modes = prop::sample::select(vec![Mode::Joining, Mode::Syncing, Mode::Active, Mode::FollowOnly]);
    let echoes = prop::collection::vec((any::<u16>().prop_map(ValidatorIndex), any::<u64>()), 0..VALIDATORS_MAX);
    let numbers = (any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u128>(), any::<u32>());
    (modes, echoes, numbers, any::<[u8; 32]>()).prop_map(|(mode, echoes, numbers, head)| Status {
        validator: ValidatorIndex(numbers.0),
        boot: numbers.1,
        nonce: numbers.2,
        echoes,
        mode,
        head: BlockId(head),
        height: numbers.3,
        slot: numbers.4,
        weight: numbers.5,
        pool: numbers.6,
        decision: numbers.1 ^ numbers.2,
        last_final: FinalBlock { id: BlockId(head), height: numbers.2 },
    })
}

fn any_message() -> impl Strategy<Value = Message<Batch>> {
    prop_oneof![
        any_status().prop_map(Message::Status),
        any_batch().prop_map(Message::Batch),
        any_digests(100).prop_map(Message::Stored),
        any_digests(100).prop_map(Message::Pool),
        any_block().prop_map(Message::Block),
        any_digests(LOCATOR_MAX + 1).prop_map(|digests| Message::FetchBlocks {
            locator: digests.into_iter().map(|digest| BlockId(digest.0)).collect()
        }),
        (any::<[u8; 32]>(), any::<u64>())
            .prop_map(|(id, known_height)| Message::FetchAncestors { id: BlockId(id), known_height }),
        prop::collection::vec(any_block(), 0..MESSAGE_BLOCKS_MAX / 4).prop_map(Message::Blocks),
        any_digests(FETCH_BATCHES_MAX + 1).prop_map(Message::FetchBatches),
        any_digests(100).prop_map(Message::Missing),
    ]
}

proptest! {
    #[test]
    fn any_message_round_trips(message in any_message()) {
        prop_assert_eq!(decode(&encode(&message)), Ok(message));
    }

    #[test]
    fn random_bytes_are_no_message(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(decode(&bytes).is_err());
    }

    /// Whatever a mutated frame still says, it is within the limits and can be sent on.
    #[test]
    fn mutated_messages_never_panic(
        message in any_message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = encode(&message);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        checks::message(&bytes);
    }
}
