//! Evidence: what a stranger with genesis believes, what it does not, and that its bytes are as recorded.
//!
//! `ZENI_BLESS=1 cargo test -p zeni-consensus --test evidence` records the bytes anew; the difference is then for review.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::sync::Arc;

use cluster::{Cluster, account, account_key, genesis, validator_key};
use ed25519_dalek::Signer;
use zeni_consensus::evidence::{EVIDENCE_BYTES_MAX, EvidenceError, EvidenceKind, Place};
use zeni_consensus::finality::{DoubleSigning, SignedProposal, SignedVote};
use zeni_consensus::{Event, Evidence, Input, Message, Peer};
use zeni_ledger::batch::BATCH_PAYMENTS_MAX;
use zeni_ledger::block::transactions_root;
use zeni_ledger::encoding::DecodeError;
use zeni_ledger::finality::{FinalityProposal, FinalityVote, VoteKind};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{
    Amount, Batch, BatchDigest, Block, BlockHeader, BlockId, FinalBlock, Genesis, GenesisId, Payment, ReceiptsRoot,
    Sequence, SignatureBytes, SignedHeader, StateRoot, ValidatorIndex,
};

const OFFENDER: u16 = 1;

fn ledger() -> (Arc<Genesis>, GenesisId) {
    let (genesis, _) = genesis(3);
    let id = genesis.id();
    (genesis, id)
}

fn sign(signer: u16, message: &[u8]) -> SignatureBytes {
    SignatureBytes(validator_key(signer).sign(message).to_bytes())
}

fn header(proposer: u16, signer: u16, slot: u64, state: u8) -> SignedHeader {
    let digests = vec![BatchDigest([state; 32])];
    let header = BlockHeader {
        proposer: ValidatorIndex(proposer),
        rank: 0,
        height: 4,
        slot,
        parent: BlockId([3; 32]),
        transactions_root: transactions_root(&digests),
        state_root: StateRoot([state; 32]),
        receipts_root: ReceiptsRoot([6; 32]),
        receipts: 5,
    };
    Block::sign(header, digests, &validator_key(signer), &ledger().1).signed_header()
}

fn vote(voter: u16, signer: u16, round: u32, kind: VoteKind, block: Option<u8>) -> SignedVote {
    let block = block.map(|id| FinalBlock { id: BlockId([id; 32]), height: 4 });
    let vote = FinalityVote { kind, decision: 9, round, block };
    SignedVote { voter: ValidatorIndex(voter), vote, signature: sign(signer, &vote.digest(&ledger().1)) }
}

fn proposal(signer: u16, round: u32, block: u8) -> SignedProposal {
    let block = FinalBlock { id: BlockId([block; 32]), height: 4 };
    let proposal = FinalityProposal { decision: 9, round, valid_round: None, block };
    let signature = sign(signer, &proposal.digest(&ledger().1));
    SignedProposal { proposer: ValidatorIndex(OFFENDER), proposal, signature }
}

fn payment(sequence: u64, is_signed: bool) -> Payment {
    let body = PaymentBody {
        network: 7,
        valid_until: 1_700_000_100,
        from: account(1),
        to: account(2),
        sequence: Sequence(sequence),
        amount: Amount(1),
        token: cluster::TOKEN,
        flags: 0,
        reference: [0; 16],
    };
    let signer = account_key(if is_signed { 1 } else { 2 });
    body.sign(&signer, &ledger().1)
}

fn batch(signer: u16, payments: Vec<Payment>) -> Arc<Batch> {
    Arc::new(Batch::sign(ValidatorIndex(OFFENDER), 12, payments, &validator_key(signer), &ledger().1))
}

fn votes(one: SignedVote, other: SignedVote) -> Evidence {
    Evidence::of_double_signing(&DoubleSigning::Votes(one, other))
}

fn proposals(one: SignedProposal, other: SignedProposal) -> Evidence {
    Evidence::of_double_signing(&DoubleSigning::Proposals(one, other))
}

/// One of each kind, with its golden file and where it happened.
fn good() -> Vec<(&'static str, Evidence, EvidenceKind, Place)> {
    let (precommit, prevote) = (VoteKind::Precommit, VoteKind::Prevote);
    let of_vote = |is_precommit| Place::Vote { decision: 9, round: 2, is_precommit };
    let blocks = Evidence::of_blocks(header(OFFENDER, OFFENDER, 8, 1), header(OFFENDER, OFFENDER, 8, 2));
    let voted = |kind, block| vote(OFFENDER, OFFENDER, 2, kind, block);
    let precommits = votes(voted(precommit, Some(1)), voted(precommit, Some(2)));
    let prevotes = votes(voted(prevote, Some(1)), voted(prevote, None));
    let proposed = proposals(proposal(OFFENDER, 2, 1), proposal(OFFENDER, 2, 2));
    let bad = Evidence::of_batch(batch(OFFENDER, vec![payment(0, true), payment(1, false)]), 1);
    vec![
        ("evidence_blocks", blocks, EvidenceKind::Blocks, Place::Slot(8)),
        ("evidence_precommits", precommits, EvidenceKind::Votes, of_vote(true)),
        ("evidence_prevotes", prevotes, EvidenceKind::Votes, of_vote(false)),
        ("evidence_proposals", proposed, EvidenceKind::Proposals, Place::Proposal { decision: 9, round: 2 }),
        ("evidence_batch", bad, EvidenceKind::Batch, Place::Batch(12)),
    ]
}

fn assert_golden(name: &str, bytes: &[u8]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let digits = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    let found = digits.chunks(32).map(|line| line.concat()).collect::<Vec<_>>().join("\n") + "\n";
    if std::env::var_os("ZENI_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &found).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(recorded, found, "{name} is no longer encoded as recorded: kept evidence would become unreadable");
}

#[test]
fn each_kind_convinces_a_stranger_and_is_encoded_as_recorded() {
    let (genesis, id) = ledger();
    for (name, evidence, kind, place) in good() {
        assert_eq!(evidence.verify(&genesis, &id), Ok(()), "{name}");
        assert_eq!((evidence.offender(), evidence.kind(), evidence.place()), (ValidatorIndex(OFFENDER), kind, place));
        let bytes = evidence.to_bytes();
        assert_golden(name, &bytes);
        assert_eq!(Evidence::from_bytes(&bytes), Ok(evidence));
    }
}

#[test]
fn the_order_in_which_the_two_were_seen_is_of_no_account() {
    let (one, other) = (header(OFFENDER, OFFENDER, 8, 1), header(OFFENDER, OFFENDER, 8, 2));
    let evidence = Evidence::of_blocks(one, other);
    assert_eq!(evidence, Evidence::of_blocks(other, one));
    // The other order is not canonical.
    let bytes = evidence.to_bytes();
    let middle = (bytes.len() + 3) / 2;
    let swapped = [&bytes[..3], &bytes[middle..], &bytes[3..middle]].concat();
    assert!(matches!(Evidence::from_bytes(&swapped), Err(DecodeError::Invalid { .. })));
}

#[test]
fn what_shows_nothing_is_refused_with_its_reason() {
    let (genesis, id) = ledger();
    let refused = |evidence: Evidence| evidence.verify(&genesis, &id).unwrap_err();
    let (me, precommit) = (OFFENDER, VoteKind::Precommit);
    let bad = |which| EvidenceError::BadSignature { validator: ValidatorIndex(OFFENDER), which };

    let stranger = Evidence::of_blocks(header(7, 7, 8, 1), header(7, 7, 8, 2));
    assert_eq!(refused(stranger), EvidenceError::UnknownValidator { found: ValidatorIndex(7) });
    for other in [header(me, me, 9, 2), header(2, 2, 8, 2)] {
        assert_eq!(refused(Evidence::of_blocks(header(me, me, 8, 1), other)), EvidenceError::NotOnePlace);
    }
    let mut resigned = header(me, me, 8, 1);
    resigned.signature = SignatureBytes([9; 64]);
    assert_eq!(refused(Evidence::of_blocks(header(me, me, 8, 1), resigned)), EvidenceError::SameTwice);
    let framed = Evidence::of_blocks(header(me, me, 8, 1), header(me, 2, 8, 2));
    assert!(matches!(refused(framed), EvidenceError::BadSignature { validator: ValidatorIndex(OFFENDER), .. }));

    let voted = |block| vote(me, me, 2, precommit, block);
    for other in [
        vote(me, me, 3, precommit, Some(2)),
        vote(me, me, 2, VoteKind::Prevote, Some(2)),
        vote(2, 2, 2, precommit, Some(2)),
    ] {
        assert_eq!(refused(votes(voted(Some(1)), other)), EvidenceError::NotOnePlace);
    }
    assert_eq!(refused(votes(voted(None), voted(None))), EvidenceError::SameTwice);
    let framed = votes(voted(Some(1)), vote(me, 2, 2, precommit, Some(2)));
    assert!(matches!(refused(framed), EvidenceError::BadSignature { .. }));
    let framed = proposals(proposal(me, 2, 1), proposal(2, 2, 2));
    assert!(matches!(refused(framed), EvidenceError::BadSignature { .. }));
    assert_eq!(refused(proposals(proposal(me, 2, 1), proposal(me, 3, 2))), EvidenceError::NotOnePlace);

    let mixed = vec![payment(0, true), payment(1, false)];
    assert_eq!(refused(Evidence::of_batch(batch(2, mixed.clone()), 1)), bad("only"));
    let honest = Evidence::of_batch(batch(me, mixed.clone()), 0);
    assert_eq!(refused(honest), EvidenceError::PaymentIsSigned { place: 0 });
    let beyond = Evidence::of_batch(batch(me, mixed), 2);
    assert_eq!(refused(beyond), EvidenceError::NoSuchPayment { place: 2, payments: 2 });
}

#[test]
fn evidence_of_another_ledger_shows_nothing_here() {
    let (genesis, _) = ledger();
    for (name, evidence, ..) in good() {
        let found = evidence.verify(&genesis, &GenesisId([1; 32]));
        // In another ledger nobody signed any payment of this batch, and its author did not sign the batch.
        assert!(matches!(found, Err(EvidenceError::BadSignature { .. })), "{name}: {found:?}");
    }
}

#[test]
fn no_truncation_is_read_and_the_largest_batch_fits() {
    for (name, evidence, ..) in good() {
        let bytes = evidence.to_bytes();
        for length in 0..bytes.len() {
            assert!(Evidence::from_bytes(&bytes[..length]).is_err(), "{length} bytes of {name}");
        }
        assert!(Evidence::from_bytes(&[&bytes[..], &[0]].concat()).is_err(), "a byte behind {name}");
    }
    let largest = Evidence::of_batch(batch(OFFENDER, vec![payment(0, false); BATCH_PAYMENTS_MAX]), 0).to_bytes();
    assert_eq!(largest.len(), EVIDENCE_BYTES_MAX);
    assert!(Evidence::from_bytes(&largest).is_ok());
    let longer = Evidence::from_bytes(&[&largest[..], &[0]].concat());
    assert!(matches!(longer, Err(DecodeError::OverLimit { what: "bytes of evidence", .. })));
}

#[test]
fn a_core_tells_of_two_blocks_for_one_slot_in_a_way_that_convinces_a_stranger() {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    let slot = cluster.genesis.slot_at(cluster.now.0);
    for state in [1, 2] {
        let digests = Vec::new();
        let head = cluster.core(0).status();
        let rank =
            zeni_consensus::schedule::Schedule::new(&cluster.genesis).rank(slot, ValidatorIndex(OFFENDER)).unwrap();
        let header = BlockHeader {
            rank,
            height: head.height + 1,
            slot,
            parent: head.head,
            transactions_root: transactions_root(&digests),
            receipts: 0,
            ..header(OFFENDER, OFFENDER, slot, state).header
        };
        let block = Block::sign(header, digests, &validator_key(OFFENDER), &cluster.genesis.id());
        let from = Peer::Validator(ValidatorIndex(2));
        cluster.give(0, Input::Message { from, message: Message::Block(Arc::new(block)) });
    }
    let seen: Vec<Evidence> = cluster.nodes[0].events.iter().filter_map(Evidence::of).collect();
    assert!(!seen.is_empty());
    for evidence in seen {
        assert_eq!(evidence.verify(&cluster.genesis, &cluster.genesis.id()), Ok(()));
        assert_eq!((evidence.offender(), evidence.place()), (ValidatorIndex(OFFENDER), Place::Slot(slot)));
    }
    assert_eq!(Evidence::of(&Event::Mode(zeni_consensus::Mode::Active)), None);
}
