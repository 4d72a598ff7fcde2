//! Requests and replies: round trip of every variant, golden bytes, limits, and bytes that are none.

use proptest::prelude::*;
use zeni_consensus::snapshot::{Manifest, PAGE_BYTES_MAX, PAGES_MAX, PageName, Part};
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_consensus::{Mode, Refusal, Verdict};
use zeni_ledger::account::ACCOUNT_BYTES_MAX;
use zeni_ledger::payment::PAYMENT_BYTES;
use zeni_ledger::{
    AccountId, BlockId, CommitCertificate, FinalBlock, GenesisId, Payment, PublicKey, SignatureBytes, StateRoot,
    TransactionId, ValidatorIndex,
};
use zeni_schemas::WireError;
use zeni_schemas::request::{
    AccountInfo, NodeInfo, PROOF_BYTES_MAX, REASON_BYTES_MAX, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request,
    RequestError, STATUS_IDS_MAX, VERSION_BYTES_MAX, decode_reply, decode_request, encode_reply, encode_request,
};

use crate::{checks, golden};

fn payment(number: usize) -> Payment {
    let mut bytes = [0; PAYMENT_BYTES];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = (place * 7 + number * 13) as u8;
    }
    Payment::from_bytes(bytes)
}

fn ids(count: usize) -> Vec<TransactionId> {
    (0..count).map(|number| TransactionId([number as u8; 32])).collect()
}

/// A refusal of every kind.
fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::WrongNetwork { found: 1, expected: u32::MAX },
        Refusal::Expired,
        Refusal::ValidUntilTooFar { validity_max_s: 7_200 },
        Refusal::SequenceUsed,
        Refusal::SequenceOutOfWindow,
        Refusal::SequencePending { by: TransactionId([1; 32]) },
        Refusal::UnknownToken,
        Refusal::UnknownAccount,
        Refusal::UnknownReceiver,
        Refusal::ZeroAmount,
        Refusal::ToSelf,
        Refusal::UnknownFlags { flags: 0x8000_0001 },
        Refusal::BadSignature,
        Refusal::PendingLimit { limit: 128 },
        Refusal::SequencePending { by: TransactionId([2; 32]) },
        Refusal::Overloaded { retry_after_ms: 250 },
        Refusal::DiskFull,
    ]
}

fn verdicts() -> Vec<Verdict> {
    let taken = [Verdict::Accepted { copies: 1 }, Verdict::Known { copies: u16::MAX }];
    taken.into_iter().chain(refusals().into_iter().map(Verdict::Refused)).collect()
}

fn node_info() -> NodeInfo {
    NodeInfo {
        genesis: GenesisId([1; 32]),
        key: PublicKey([2; 32]),
        boot: 3,
        mode: Mode::Syncing,
        height: 4,
        slot: 5,
        head: BlockId([6; 32]),
        state_root: StateRoot([7; 32]),
        pending: 8,
        live: 9,
        version: "0.1.0".into(),
    }
}

fn account_info(account: Option<usize>, proof: usize) -> AccountInfo {
    AccountInfo {
        height: 1,
        head: BlockId([2; 32]),
        state_root: StateRoot([3; 32]),
        account: account.map(|length| vec![4; length]),
        proof: vec![5; proof],
    }
}

fn snapshot_page(part: Part, number: u32) -> Request {
    Request::SnapshotPage { block: BlockId([4; 32]), page: PageName { part, number } }
}

fn manifest(blocks: usize, accounts: usize) -> Manifest {
    let block = FinalBlock { id: BlockId([4; 32]), height: 5 };
    let signatures = vec![(ValidatorIndex(1), SignatureBytes([6; 64]))];
    let certificate = CommitCertificate { decision: 2, round: 3, block, signatures };
    Manifest { certificate, blocks: vec![[7; 32]; blocks], accounts: vec![[8; 32]; accounts] }
}

fn requests() -> Vec<(&'static str, Request)> {
    vec![
        ("request_submit", Request::Submit(vec![payment(1), payment(2)])),
        ("request_node", Request::Node),
        ("request_account", Request::Account(AccountId([8; 32]))),
        ("request_pending", Request::Pending(ids(2))),
        ("request_snapshot", Request::Snapshot { height_min: 100 }),
        ("request_snapshot_page", snapshot_page(Part::Accounts, 7)),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    vec![
        ("reply_submitted", Reply::Submitted(verdicts())),
        ("reply_node", Reply::Node(node_info())),
        ("reply_account", Reply::Account(account_info(Some(86), 100))),
        ("reply_account_absent", Reply::Account(account_info(None, 100))),
        ("reply_pending", Reply::Pending(vec![0, 1, 65_535])),
        ("reply_overloaded", Reply::Refused(RequestError::Overloaded { retry_after_ms: 20 })),
        ("reply_forbidden", Reply::Refused(RequestError::Forbidden)),
        ("reply_malformed", Reply::Refused(RequestError::Malformed("not a request".into()))),
        ("reply_stopping", Reply::Refused(RequestError::Stopping)),
        ("reply_not_here", Reply::Refused(RequestError::NotHere)),
        ("reply_snapshot", Reply::Snapshot(manifest(2, 3))),
        ("reply_snapshot_page", Reply::SnapshotPage(vec![9; 100])),
    ]
}

#[test]
fn every_request_round_trips_in_its_golden_bytes() {
    for (name, request) in requests() {
        let bytes = encode_request(&request);
        assert_eq!(decode_request(&bytes), Ok(request));
        golden::assert_golden(name, &bytes);
        golden::assert_no_other_length(&bytes, |bytes| decode_request(bytes).map(drop));
    }
}

#[test]
fn every_reply_round_trips_in_its_golden_bytes() {
    for (name, reply) in replies() {
        let bytes = encode_reply(&reply);
        assert_eq!(decode_reply(&bytes), Ok(reply));
        golden::assert_golden(name, &bytes);
        golden::assert_no_other_length(&bytes, |bytes| decode_reply(bytes).map(drop));
    }
}

#[test]
fn the_largest_requests_and_replies_fit() {
    let payments = (0..SUBMISSION_PAYMENTS_MAX).map(payment).collect();
    for request in [Request::Submit(payments), Request::Submit(vec![]), Request::Pending(ids(STATUS_IDS_MAX))] {
        let bytes = encode_request(&request);
        assert!(bytes.len() <= REQUEST_BYTES_MAX);
        assert_eq!(decode_request(&bytes), Ok(request));
    }
    let waiting = Verdict::Refused(Refusal::SequencePending { by: TransactionId([1; 32]) });
    for reply in [
        Reply::Submitted(vec![waiting; SUBMISSION_PAYMENTS_MAX]),
        Reply::Submitted(vec![]),
        Reply::Pending(vec![7; STATUS_IDS_MAX]),
        Reply::Account(account_info(Some(ACCOUNT_BYTES_MAX), PROOF_BYTES_MAX)),
        Reply::Snapshot(manifest(1, PAGES_MAX - 1)),
        Reply::SnapshotPage(vec![3; PAGE_BYTES_MAX]),
    ] {
        let bytes = encode_reply(&reply);
        assert!(bytes.len() <= REPLY_BYTES_MAX);
        assert_eq!(decode_reply(&bytes), Ok(reply));
    }
}

#[test]
fn payments_travel_as_their_canonical_bytes() {
    let payments: Vec<Payment> = (0..10).map(payment).collect();
    let canonical = Payment::slice_as_bytes(&payments).to_vec();
    let bytes = encode_request(&Request::Submit(payments));
    assert!(bytes.windows(canonical.len()).any(|window| window == canonical));
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let version = "é".repeat(VERSION_BYTES_MAX);
    let reply = decode_reply(&encode_reply(&Reply::Node(NodeInfo { version, ..node_info() })));
    let Ok(Reply::Node(info)) = reply else { panic!("{reply:?}") };
    assert_eq!(info.version, "é".repeat(VERSION_BYTES_MAX / 2));
    let reason = format!("x{}", "é".repeat(REASON_BYTES_MAX));
    let reply = decode_reply(&encode_reply(&Reply::Refused(RequestError::Malformed(reason))));
    let Ok(Reply::Refused(RequestError::Malformed(reason))) = reply else { panic!("{reply:?}") };
    assert_eq!(reason.len(), REASON_BYTES_MAX - 1);
}

#[test]
fn a_frame_beyond_its_limit_is_refused_unread() {
    let (found, limit) = (REQUEST_BYTES_MAX + 1, REQUEST_BYTES_MAX);
    let error = WireError::TooLong { what: "request", found, limit };
    assert_eq!(decode_request(&vec![0; found]), Err(error));
    let (found, limit) = (REPLY_BYTES_MAX + 1, REPLY_BYTES_MAX);
    let error = WireError::TooLong { what: "reply", found, limit };
    assert_eq!(decode_reply(&vec![0; found]), Err(error));
}

#[test]
fn one_kind_of_frame_is_not_taken_for_another() {
    let (request, reply) = (encode_request(&Request::Node), encode_reply(&Reply::Refused(RequestError::Forbidden)));
    assert_eq!(decode_reply(&request), Err(WireError::WrongIdentifier { what: "reply" }));
    assert_eq!(decode_request(&reply), Err(WireError::WrongIdentifier { what: "request" }));
}

#[test]
fn a_verdict_cannot_point_beyond_the_waiting_payments() {
    let waiting = Verdict::Refused(Refusal::SequencePending { by: TransactionId([1; 32]) });
    let bytes = encode_reply(&Reply::Submitted(vec![waiting]));
    let refused = (0..bytes.len()).any(|place| {
        let mut changed = bytes.clone();
        changed[place] = changed[place].wrapping_add(1);
        matches!(decode_reply(&changed), Err(WireError::Invalid { what: "place of a waiting payment", found: 1 }))
    });
    assert!(refused, "no byte of the frame is the place");
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        any::<u16>().prop_map(|copies| Verdict::Accepted { copies }),
        any::<u16>().prop_map(|copies| Verdict::Known { copies }),
        prop::sample::select(refusals()).prop_map(Verdict::Refused),
        any::<[u8; 32]>().prop_map(|id| Verdict::Refused(Refusal::SequencePending { by: TransactionId(id) })),
    ]
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        prop::collection::vec(any_verdict(), 0..100).prop_map(Reply::Submitted),
        prop::collection::vec(any::<u16>(), 0..100).prop_map(Reply::Pending),
        (any::<u64>(), any::<u64>(), any::<u16>(), "[a-z0-9.]{0,64}").prop_map(|(boot, height, live, version)| {
            Reply::Node(NodeInfo { boot, height, live, version, ..node_info() })
        }),
        (any::<u64>(), prop::option::of(bytes()), bytes()).prop_map(|(height, account, proof)| {
            Reply::Account(AccountInfo { height, account, proof, ..account_info(None, 0) })
        }),
        (0usize..5, 0usize..5).prop_map(|(blocks, accounts)| Reply::Snapshot(manifest(blocks, accounts))),
        bytes().prop_map(Reply::SnapshotPage),
        any::<u32>().prop_map(|retry_after_ms| Reply::Refused(RequestError::Overloaded { retry_after_ms })),
        "\\PC{0,100}".prop_map(|reason| Reply::Refused(RequestError::Malformed(reason))),
    ]
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        prop::collection::vec(any::<u16>(), 0..40)
            .prop_map(|seeds| Request::Submit(seeds.into_iter().map(|seed| payment(usize::from(seed))).collect())),
        Just(Request::Node),
        any::<[u8; 32]>().prop_map(|account| Request::Account(AccountId(account))),
        prop::collection::vec(any::<[u8; 32]>().prop_map(TransactionId), 0..40).prop_map(Request::Pending),
        any::<u64>().prop_map(|height_min| Request::Snapshot { height_min }),
        any::<u32>().prop_map(|number| snapshot_page(Part::Blocks, number)),
    ]
}

fn mutate(bytes: &mut [u8], changes: Vec<(prop::sample::Index, u8)>) {
    for (place, value) in changes {
        bytes[place.index(bytes.len())] = value;
    }
}

proptest! {
    #[test]
    fn any_request_round_trips(request in any_request()) {
        prop_assert_eq!(decode_request(&encode_request(&request)), Ok(request));
    }

    #[test]
    fn any_reply_round_trips(reply in any_reply()) {
        prop_assert_eq!(decode_reply(&encode_reply(&reply)), Ok(reply));
    }

    #[test]
    fn random_bytes_are_neither(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(decode_request(&bytes).is_err());
        prop_assert!(decode_reply(&bytes).is_err());
    }

    /// Whatever a mutated frame still says, it is within the limits and can be sent on.
    #[test]
    fn mutated_requests_never_panic(
        request in any_request(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = encode_request(&request);
        mutate(&mut bytes, changes);
        checks::request(&bytes);
    }

    #[test]
    fn mutated_replies_never_panic(
        reply in any_reply(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = encode_reply(&reply);
        mutate(&mut bytes, changes);
        checks::reply(&bytes);
    }
}
