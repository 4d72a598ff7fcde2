//! Evidence over HTTP: paged, as canonical bytes, and taken from a node only if it shows something.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::Signer;
use metrics_exporter_prometheus::PrometheusBuilder;
use support::chain_node;
use support::fake_node::{key, nowhere};
use support::harness::Harness;
use support::ledger::{Branch, World};
use tokio::sync::watch;
use zeni_api_server::config::{Checkpoint, Config, Limits, Log, MetricsAddress, NodeEntry};
use zeni_api_server::run::{Running, check};
use zeni_client::wallet::Key;
use zeni_consensus::Evidence;
use zeni_consensus::finality::{DoubleSigning, SignedVote};
use zeni_ledger::finality::{FinalityVote, VoteKind};
use zeni_ledger::{BlockId, FinalBlock, SignatureBytes, ValidatorIndex};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two precommits of validator 1 in a round of this decision; only `signer` can have signed them.
fn double_vote(world: &World, decision: u64, signer: u8) -> Evidence {
    let vote = |block: u8| {
        let block = Some(FinalBlock { id: BlockId([block; 32]), height: 4 });
        let vote = FinalityVote { kind: VoteKind::Precommit, decision, round: 2, block };
        let signature = SignatureBytes(key(signer).sign(&vote.digest(&world.id)).to_bytes());
        SignedVote { voter: ValidatorIndex(1), vote, signature }
    };
    Evidence::of_double_signing(&DoubleSigning::Votes(vote(1), vote(2)))
}

#[tokio::test]
async fn evidence_is_listed_in_pages_and_shown_as_its_bytes() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let pieces: Vec<Evidence> = (1..=5).map(|decision| double_vote(&world, decision, 2)).collect();
    for piece in &pieces {
        harness.api.evidence.keep(piece, 1_700_000_000_000).unwrap();
    }
    let (mut path, mut listed) = ("/v1/evidence?limit=2".to_owned(), Vec::new());
    loop {
        let page = harness.get(&path).await.json();
        assert_eq!(page["kept"], 5);
        listed.extend(page["evidence"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = next.to_owned();
    }
    let ids: Vec<&str> = listed.iter().map(|piece| piece["id"].as_str().unwrap()).collect();
    assert_eq!(ids, pieces.iter().map(|piece| piece.id().to_string()).collect::<Vec<_>>());
    let first = &listed[0];
    assert_eq!((first["kind"].as_str(), first["offender_name"].as_str()), (Some("double_vote"), Some("node-2")));
    assert_eq!((first["decision"].as_u64(), first["round"].as_u64()), (Some(1), Some(2)));
    assert_eq!((first["vote"].as_str(), first["heard_at"].as_str()), (Some("precommit"), Some("2023-11-14T22:13:20Z")));

    let answer = harness.get(&format!("/v1/evidence/{}", ids[3])).await;
    assert_eq!(answer.headers["content-type"], "application/octet-stream");
    let read = Evidence::from_bytes(&answer.bytes).unwrap();
    assert_eq!(read.verify(&world.genesis, &world.id), Ok(()));
    assert_eq!(read, pieces[3]);

    assert_eq!(harness.get("/v1/evidence?limit=101").await.problem(), (400, "malformed".into()));
    assert_eq!(harness.get("/v1/evidence/abc").await.problem(), (400, "malformed".into()));
    let unknown = format!("/v1/evidence/{}", "ab".repeat(32));
    assert_eq!(harness.get(&unknown).await.problem(), (404, "unknown_evidence".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_followed_node_tells_is_checked_and_kept_over_a_restart() {
    let (world, dir) = (Arc::new(World::new()), tempfile::tempdir().unwrap());
    let mut branch = Branch::new(&world);
    branch.extend(vec![]);
    let (_chain, seen) = watch::channel(branch);
    // Validator 1 signs with the key of seed 2. The first two show nothing: somebody else signed them.
    let told = vec![double_vote(&world, 7, 1), double_vote(&world, 8, 3), double_vote(&world, 9, 2)];
    let node = chain_node::start_with_evidence(&world, 1, seen, told);
    let key = dir.path().join("api.key");
    Key::generate().save(&key).unwrap();
    let genesis = dir.path().join("genesis.toml");
    std::fs::write(&genesis, world.genesis.to_toml()).unwrap();
    std::fs::write(dir.path().join(&world.genesis.accounts_file), &world.accounts).unwrap();
    let config = Config {
        genesis,
        data: dir.path().join("data"),
        key,
        listen: "127.0.0.1:0".parse().unwrap(),
        metrics: MetricsAddress(None),
        nodes: vec![NodeEntry { key: node.at.key.to_string(), address: node.at.address.clone() }],
        checkpoint: Checkpoint::default(),
        limits: Limits::default(),
        log: Log::default(),
    };
    for _ in 0..2 {
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let running = Running::start(check(config.clone()).unwrap(), metrics).await.unwrap();
        let begun = std::time::Instant::now();
        while running.api.evidence.is_empty() {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for evidence");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let kept = running.api.evidence.kept(0, 10);
        assert_eq!(kept.iter().map(|kept| kept.id).collect::<Vec<_>>(), [double_vote(&world, 9, 2).id()]);
        running.stop().await.unwrap();
    }
}
