//! Requests and their answers: refusals, bad input, bulk calls, accounts, blocks, readiness.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request as HttpRequest;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use support::fake_node::{Answer, FakeNode, nowhere};
use support::harness::Harness;
use support::ledger::{ACCOUNTS, Branch, World, account};
use zeni_api_server::config::Limits;
use zeni_api_server::progress::NodeTold;
use zeni_consensus::{Mode, Refusal, Verdict};
use zeni_ledger::proof::AccountProof;
use zeni_ledger::{AccountId, Payment, TransactionId};
use zeni_schemas::request::{Reply, Request, RequestError};

const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";

fn answering(world: &World, seed: u8, verdict: impl Fn(usize) -> Verdict + Send + Sync + 'static) -> FakeNode {
    FakeNode::start(seed, world.id, move |request| match request {
        Request::Submit(payments) => Answer::Reply(Reply::Submitted((0..payments.len()).map(&verdict).collect())),
        _ => Answer::Nothing,
    })
}

fn one_json(payment: &Payment) -> Value {
    json!({ "payment": hex::encode(payment.as_bytes()) })
}

#[tokio::test]
async fn every_refusal_of_a_node_becomes_its_problem() {
    let world = Arc::new(World::new());
    for (refusal, status) in [
        (Refusal::WrongNetwork { found: 1, expected: 77 }, 422),
        (Refusal::Expired, 422),
        (Refusal::ValidUntilTooFar { validity_max_s: 7 }, 422),
        (Refusal::SequenceUsed, 409),
        (Refusal::SequenceOutOfWindow, 409),
        (Refusal::SequencePending { by: TransactionId([1; 32]) }, 409),
        (Refusal::UnknownToken, 422),
        (Refusal::UnknownAccount, 422),
        (Refusal::UnknownReceiver, 422),
        (Refusal::ZeroAmount, 422),
        (Refusal::ToSelf, 422),
        (Refusal::UnknownFlags { flags: 1 }, 422),
        (Refusal::BadSignature, 422),
        (Refusal::PendingLimit { limit: 9 }, 429),
        (Refusal::Overloaded { retry_after_ms: 10 }, 503),
        (Refusal::DiskFull, 503),
    ] {
        let node = answering(&world, 1, move |_| Verdict::Refused(refusal));
        let harness = Harness::new(&world, vec![node.at.clone()]);
        let mut branch = Branch::new(&world);
        branch.extend(vec![world.pay(0, 2, 0, 1)]);
        harness.become_canonical(&branch);
        let answer = harness.post_json("/v1/payments", &one_json(&world.pay(0, 1, 0, 1))).await;
        assert_eq!(answer.problem(), (status, refusal.code().to_owned()));
        assert_eq!(answer.headers.contains_key("retry-after"), matches!(status, 429 | 503));
    }
}

#[tokio::test]
async fn bad_bodies_never_reach_a_node() {
    let world = Arc::new(World::new());
    let node = answering(&world, 1, |_| Verdict::Accepted { copies: 1 });
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let whole = Payment::slice_as_bytes(&[world.pay(0, 1, 0, 1)]).to_vec();
    let cases: Vec<(&str, &str, Vec<u8>, u16, &str)> = vec![
        ("/v1/payments", JSON, b"{".to_vec(), 400, "malformed"),
        ("/v1/payments", JSON, b"{\"payment\":\"00\"}".to_vec(), 400, "wrong_length"),
        ("/v1/payments", JSON, b"{\"payment\":1}".to_vec(), 400, "malformed"),
        ("/v1/payments", JSON, vec![b' '; 5_000], 413, "too_large"),
        ("/v1/payments", "text/plain", b"{}".to_vec(), 415, "unsupported_media_type"),
        ("/v1/payments", OCTETS, whole.clone(), 415, "unsupported_media_type"),
        ("/v1/payments/bulk", JSON, b"[]".to_vec(), 415, "unsupported_media_type"),
        ("/v1/payments/bulk", OCTETS, vec![], 400, "wrong_length"),
        ("/v1/payments/bulk", OCTETS, whole[1..].to_vec(), 400, "wrong_length"),
        ("/v1/payments/bulk", OCTETS, vec![0; 176 * 1_024 + 1], 413, "too_large"),
    ];
    for (path, media_type, body, status, code) in cases {
        let answer = harness.post(path, media_type, body).await;
        assert_eq!(answer.problem(), (status, code.to_owned()), "{path} {media_type}");
    }
    for length in 0..whole.len() {
        let answer = harness.post("/v1/payments/bulk", OCTETS, whole[..length].to_vec()).await;
        assert_eq!(answer.problem().1, "wrong_length");
    }
    assert!(node.requests().is_empty());
}

#[tokio::test]
async fn unknown_paths_methods_and_parameters_are_problems() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    assert_eq!(harness.get("/v2").await.problem(), (404, "not_found".into()));
    assert_eq!(harness.get("/v1/payments").await.problem(), (405, "method_not_allowed".into()));
    for path in [
        "/v1/accounts/zeni1x",
        "/v1/accounts/%ff",
        "/v1/blocks?limit=0",
        "/v1/blocks?limit=101",
        "/v1/blocks?page=1",
        "/v1/blocks/-1",
        "/v1/blocks/99999999999999999999",
        "/v1/accounts/x?proof=maybe",
        "/v1/events?last_event_id=x",
    ] {
        assert_eq!(harness.get(path).await.problem(), (400, "malformed".into()), "{path}");
    }
    let request = HttpRequest::post("/v1/payments").header("content-type", JSON).header("idempotency-key", "");
    let answer = harness.ask(request.body(Body::from("{}")).unwrap()).await;
    assert_eq!(answer.problem(), (400, "malformed".into()));
}

#[tokio::test]
async fn a_bulk_call_is_one_request_and_gives_each_payment_its_verdict() {
    let world = Arc::new(World::new());
    let node = answering(&world, 1, |place| match place {
        0 => Verdict::Accepted { copies: 3 },
        1 => Verdict::Known { copies: 1 },
        _ => Verdict::Refused(Refusal::BadSignature),
    });
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payments: Vec<Payment> = (0..3).map(|sequence| world.pay(0, 1, sequence, 1)).collect();
    let body = Payment::slice_as_bytes(&payments).to_vec();

    let answer = harness.post("/v1/payments/bulk", OCTETS, body.clone()).await.json();
    assert_eq!(answer["accepted"], 2);
    let verdicts: Vec<&str> = (0..3).map(|place| answer["results"][place]["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["accepted", "known", "refused"]);
    assert_eq!(answer["results"][2]["code"], "bad_signature");
    assert_eq!(answer["results"][0]["id"], world.id_of(&payments[0]).to_string());

    let request = HttpRequest::post("/v1/payments/bulk").header("content-type", OCTETS).header("accept", OCTETS);
    let answer = harness.ask(request.body(Body::from(body)).unwrap()).await;
    assert_eq!(answer.bytes, [0, 3, 0, 0, 1, 1, 0, 0, 2, 0, 13, 0]);
    assert_eq!(node.requests(), vec![Request::Submit(payments.clone()), Request::Submit(payments)]);
}

#[tokio::test]
async fn a_submission_goes_to_another_node_when_one_is_silent() {
    let world = Arc::new(World::new());
    let silent = FakeNode::start(1, world.id, |_| Answer::Hang);
    let live = answering(&world, 2, |_| Verdict::Accepted { copies: 1 });
    let harness = Harness::new(&world, vec![silent.at.clone(), live.at.clone()]);
    let answer = harness.post_json("/v1/payments", &one_json(&world.pay(0, 1, 0, 1))).await;
    assert_eq!(answer.status, 202);
    assert_eq!(silent.requests(), live.requests());
}

#[tokio::test]
async fn a_refusal_behind_a_silent_node_is_unclear() {
    let world = Arc::new(World::new());
    let silent = FakeNode::start(1, world.id, |_| Answer::Hang);
    let pending = Refusal::SequencePending { by: TransactionId([1; 32]) };
    let other = answering(&world, 2, move |_| Verdict::Refused(pending));
    let harness = Harness::new(&world, vec![silent.at.clone(), other.at.clone()]);
    let answer = harness.post_json("/v1/payments", &one_json(&world.pay(0, 1, 0, 1))).await;
    assert_eq!((answer.problem(), answer.headers.contains_key("retry-after")), ((503, "unclear".into()), true));
}

#[tokio::test]
async fn without_a_node_the_answer_is_to_try_again() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let answer = harness.post_json("/v1/payments", &one_json(&world.pay(0, 1, 0, 1))).await;
    assert_eq!((answer.problem(), answer.headers.contains_key("retry-after")), ((503, "no_node".into()), true));
    let busy = FakeNode::start(1, world.id, |_| {
        Answer::Reply(Reply::Refused(RequestError::Overloaded { retry_after_ms: 1_500 }))
    });
    let harness = Harness::new(&world, vec![busy.at.clone()]);
    let answer = harness.post_json("/v1/payments", &one_json(&world.pay(0, 1, 0, 1))).await;
    assert_eq!((answer.problem(), &answer.headers["retry-after"]), ((503, "overloaded".into()), &"2".parse().unwrap()));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_cut() {
    let world = Arc::new(World::new());
    let silent = FakeNode::start(1, world.id, |_| Answer::Hang);
    let limits = Limits { request_timeout_ms: 100, node_timeout_ms: 60_000, ..Limits::default() };
    let harness = Harness::with_limits(&world, vec![silent.at.clone()], limits);
    let answer = harness.post_json("/v1/payments", &one_json(&world.pay(0, 1, 0, 1))).await;
    assert!(matches!(answer.problem().1.as_str(), "timeout" | "no_node"));
}

#[tokio::test]
async fn an_account_comes_with_a_proof_that_holds() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let mut branch = Branch::new(&world);
    branch.extend(vec![world.pay(0, 1, 0, 30), world.pay(0, 1, 2, 1)]);
    harness.become_canonical(&branch);
    let found = harness.get(&format!("/v1/accounts/{}?proof=true", account(0))).await.json();
    assert_eq!(
        (found["balances"][0]["balance"].as_str(), found["balances"][0]["symbol"].as_str()),
        (Some("69"), Some("JPY"))
    );
    assert_eq!((found["next_sequence"].as_str(), found["height"].as_u64()), (Some("1"), Some(1)));
    let proof = AccountProof::from_bytes(&hex::decode(found["proof"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(found["state_root"], branch.state.root().to_string());
    assert_eq!((proof.id, proof.verify(&branch.state.root())), (account(0), Ok(())));
    assert_eq!(harness.get(&format!("/v1/accounts/{}", account(0))).await.json().get("proof"), None);

    let stranger = AccountId([9; 32]);
    let answer = harness.get(&format!("/v1/accounts/{stranger}?proof=true")).await;
    assert_eq!(answer.problem(), (404, "unknown_account".into()));
    let proof = AccountProof::from_bytes(&hex::decode(answer.json()["proof"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!((proof.account.is_none(), proof.verify(&branch.state.root())), (true, Ok(())));
}

#[tokio::test]
async fn blocks_are_found_by_height_and_id_and_in_pages() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    assert_eq!(harness.get("/v1/blocks").await.json()["blocks"], json!([]));
    let mut branch = Branch::new(&world);
    for number in 0..ACCOUNTS {
        branch.extend(vec![world.pay(number, (number + 1) % ACCOUNTS, 0, 1)]);
    }
    harness.become_canonical(&branch);
    let by_height = harness.get("/v1/blocks/3").await.json();
    let id = branch.blocks[2].id.to_string();
    assert_eq!((by_height["id"].as_str(), by_height["depth"].as_u64()), (Some(id.as_str()), Some(5)));
    assert_eq!(by_height["digests"], json!([branch.blocks[2].block.digests[0].to_string()]));
    assert_eq!(harness.get(&format!("/v1/blocks/{id}")).await.json(), by_height);
    for absent in ["0".to_owned(), "9".to_owned(), "f".repeat(64)] {
        assert_eq!(harness.get(&format!("/v1/blocks/{absent}")).await.problem(), (404, "unknown_block".into()));
    }

    let (mut path, mut heights) = (Some("/v1/blocks?limit=3".to_owned()), Vec::new());
    while let Some(next) = path {
        let page = harness.get(&next).await.json();
        heights.extend(page["blocks"].as_array().unwrap().iter().map(|block| block["height"].as_u64().unwrap()));
        path = page["next"].as_str().map(str::to_owned);
    }
    assert_eq!(heights, (1..=8).rev().collect::<Vec<u64>>());
}

#[tokio::test]
async fn the_network_is_what_genesis_fixes_and_nodes_tell() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1), nowhere(2)]);
    harness.api.progress.follow(Some(1));
    let told = NodeTold { mode: Mode::Active, height: 7, pending: 5, live: 3, version: "1".into() };
    harness.api.progress.saw(1, Some(told));
    let found = harness.get("/v1/network").await.json();
    assert_eq!((found["genesis"].as_str(), found["network"].as_u64()), (Some(world.id.to_string().as_str()), Some(77)));
    assert_eq!(
        (found["purpose"].as_str(), found["best_height"].as_u64(), found["lag"].as_u64()),
        (Some("test"), Some(7), Some(7))
    );
    assert_eq!((found["nodes"][0]["answers"].as_bool(), found["nodes"][1]["height"].as_u64()), (Some(false), Some(7)));
    assert_eq!(
        (found["nodes"][1]["followed"].as_bool(), found["nodes"][1]["mode"].as_str()),
        (Some(true), Some("active"))
    );
    assert_eq!(found["tokens"][0]["symbol"], "JPY");
    assert_eq!(found["validators"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn readiness_follows_the_progress() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    assert_eq!(harness.get("/healthz").await.status, 200);
    assert_eq!(harness.get("/readyz").await.problem(), (503, "not_ready".into()));
    harness.api.progress.follow(Some(0));
    harness.api.progress.advance(5, 6);
    assert_eq!(harness.get("/readyz").await.status, 200);
    harness.api.progress.advance(5, 7);
    assert_eq!(harness.get("/readyz").await.problem(), (503, "not_ready".into()));
}

#[tokio::test]
async fn nothing_is_told_of_the_chain_before_the_stored_one_is_executed() {
    let world = Arc::new(World::new());
    let node = answering(&world, 1, |_| Verdict::Accepted { copies: 1 });
    let harness = Harness::replaying(&world, vec![node.at.clone()]);
    let mut branch = Branch::new(&world);
    branch.extend(vec![]);
    harness.become_canonical(&branch);
    let payment = world.pay(0, 1, 0, 1);
    let paths = [
        format!("/v1/payments/{}", world.id_of(&payment)),
        format!("/v1/accounts/{}", account(0)),
        "/v1/blocks".into(),
        "/v1/blocks/1".into(),
        "/v1/events".into(),
        "/readyz".into(),
    ];
    for path in &paths {
        let answer = harness.get(path).await;
        assert_eq!(answer.problem(), (503, "not_ready".into()), "{path}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(harness.post_json("/v1/payments", &one_json(&payment)).await.status, 202);
    assert_eq!(harness.get("/healthz").await.status, 200);
    assert_eq!(harness.get("/metrics").await.status, 200);
    harness.api.progress.finish_replay();
    for path in &paths[..4] {
        assert_eq!(harness.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn each_scrape_tells_what_the_process_uses() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let harness = Harness::new(&Arc::new(World::new()), vec![nowhere(1)]);
    assert_eq!(harness.get("/metrics").await.status, 200);
    let page = recorder.handle().render();
    for name in ["process_resident_memory_bytes ", "process_cpu_seconds ", "process_open_fds "] {
        assert!(page.contains(name), "{name}: {page}");
    }
}

#[tokio::test]
async fn the_document_and_the_metrics_are_served() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    assert_eq!(harness.get("/v1/openapi.json").await.json()["openapi"], "3.1.0");
    let answer = harness.get("/metrics").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
}
