//! What a node sees a validator do wrong is kept, told to followers, shown, and there after a restart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod kit;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kit::{Client, Network};
use tokio::time::timeout;
use zeni_consensus::evidence::EvidenceKind;
use zeni_consensus::schedule::Schedule;
use zeni_consensus::{Evidence, Message};
use zeni_ledger::block::transactions_root;
use zeni_ledger::{
    Batch, Block, BlockHeader, BlockId, ReceiptsRoot, SignatureBytes, StateRoot, ValidatorIndex, VerifiedBatch,
};
use zeni_node::{clock, evidence};
use zeni_schemas::Role;
use zeni_schemas::message::{decode, encode};
use zeni_transport::{Class, TransportConfig};

const OFFENDER: ValidatorIndex = ValidatorIndex(1);
const PATIENCE: Duration = Duration::from_secs(20);

async fn follower(network: &Network) -> Client {
    network.dial(0, &network.follower, Role::Follower, TransportConfig::default()).await.unwrap()
}

/// Every kind of evidence that a follower hears until it heard so many.
async fn hear(network: &Network, follower: &Client, kinds: usize) -> BTreeSet<EvidenceKind> {
    let mut heard = BTreeSet::new();
    let hearing = async {
        // The first stream that a node opens is for all but batches.
        let mut frames = follower.connection.accept_frames().await.unwrap();
        while heard.len() < kinds {
            let frame = frames.recv().await.unwrap().expect("the connection stands");
            if let Message::<Batch>::Evidence(piece) = decode(&frame).unwrap() {
                assert_eq!(piece.verify(&network.genesis, &network.genesis.id()), Ok(()));
                assert_eq!(piece.offender(), OFFENDER);
                heard.insert(piece.kind());
            }
        }
    };
    timeout(PATIENCE, hearing).await.expect("the follower hears of it");
    heard
}

fn block(network: &Network, slot: u64, state: u8) -> Arc<Block> {
    let header = BlockHeader {
        proposer: OFFENDER,
        rank: Schedule::new(&network.genesis).rank(slot, OFFENDER).unwrap(),
        height: 1,
        slot,
        parent: BlockId([9; 32]),
        transactions_root: transactions_root(&[]),
        state_root: StateRoot([state; 32]),
        receipts_root: ReceiptsRoot([0; 32]),
        receipts: 0,
    };
    Arc::new(Block::sign(header, Vec::new(), &network.validators[1], &network.genesis.id()))
}

/// Validator 1 is no node here but the test, which has its key.
#[tokio::test(flavor = "multi_thread")]
async fn two_blocks_for_a_slot_and_a_bad_batch_are_kept_and_told_to_followers() {
    let network = Network::new(2, 2, 200);
    let node = network.start_new(0);
    let early = follower(&network).await;
    let peer = network.dial(0, &network.validators[1], Role::Validator, TransportConfig::default()).await.unwrap();
    let mut control = peer.connection.open_frames(Class::Control).await.unwrap();
    let mut bulk = peer.connection.open_frames(Class::Bulk).await.unwrap();
    let slot = network.genesis.slot_at(clock::now().0);
    for state in [1, 2, 3] {
        control.send(encode::<VerifiedBatch>(&Message::Block(block(&network, slot, state)))).await.unwrap();
    }
    let unsigned = network.body(0, 1, 1, 1).with_signature(SignatureBytes([3; 64]));
    let payments = vec![network.pay(0, 1, 0, 1), unsigned];
    let bad = Batch::sign(OFFENDER, 2, payments, &network.validators[1], &network.genesis.id());
    bulk.send(encode(&Message::Batch(bad))).await.unwrap();

    let both = BTreeSet::from([EvidenceKind::Blocks, EvidenceKind::Batch]);
    assert_eq!(hear(&network, &early, 2).await, both);
    let late = follower(&network).await;
    assert_eq!(hear(&network, &late, 2).await, both);
    node.stop().await.unwrap();

    let export = network.path("evidence");
    std::fs::create_dir(&export).unwrap();
    let shown = evidence::show(&network.path("data0"), Some(&export)).unwrap();
    assert_eq!(shown.len(), 2, "a third block for the slot is the same offence: {shown:?}");
    for piece in &shown {
        assert!(evidence::line(piece).contains("by validator 1"), "{}", evidence::line(piece));
        let id = piece["id"].as_str().unwrap();
        let bytes = std::fs::read(export.join(format!("{id}.evidence"))).unwrap();
        let read = Evidence::from_bytes(&bytes).unwrap();
        assert_eq!((read.id().to_string().as_str(), piece["kind"].as_str()), (id, Some(read.kind().code())));
    }

    let node = network.start(0);
    let again = follower(&network).await;
    assert_eq!(hear(&network, &again, 2).await, both);
    node.stop().await.unwrap();
}
