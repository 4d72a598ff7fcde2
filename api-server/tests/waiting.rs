//! Submissions that wait for their payments to get somewhere.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use serde_json::{Value, json};
use support::fake_node::{Answer, FakeNode};
use support::harness::Harness;
use support::ledger::{Branch, World};
use zeni_api_server::config::Limits;
use zeni_api_server::waiting::WAITING_PAYMENTS_MAX;
use zeni_consensus::{Refusal, Verdict};
use zeni_ledger::Payment;
use zeni_schemas::request::{Reply, Request as Asked};

/// A node that takes everything but payments of sequence 9, and says of each payment when it came.
fn node(world: &World) -> (FakeNode, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (asked, heard) = tokio::sync::mpsc::unbounded_channel();
    let verdict = |payment: &Payment| match payment.sequence().0 {
        9 => Verdict::Refused(Refusal::BadSignature),
        _ => Verdict::Accepted { copies: 2 },
    };
    let node = FakeNode::start(1, world.id, move |request| match request {
        Asked::Submit(payments) => {
            payments.iter().for_each(|_| asked.send(()).unwrap());
            Answer::Reply(Reply::Submitted(payments.iter().map(verdict).collect()))
        }
        _ => Answer::Nothing,
    });
    (node, heard)
}

fn harness(world: &Arc<World>, node: &FakeNode) -> Harness {
    let harness = Harness::new(world, vec![node.at.clone()]);
    harness.api.progress.finish_replay();
    harness
}

async fn submit(harness: &Harness, query: &str, payment: &Payment) -> (u16, Value) {
    let body = json!({ "payment": hex::encode(payment.as_bytes()) });
    let answer = harness.post_json(&format!("/v1/payments{query}"), &body).await;
    (answer.status.as_u16(), answer.json())
}

#[tokio::test]
async fn a_submission_waits_until_its_payment_is_included_or_final() {
    let world = Arc::new(World::new());
    let (node, mut heard) = node(&world);
    let harness = harness(&world, &node);
    let payments = [world.pay(0, 1, 0, 30), world.pay(0, 1, 1, 900)];
    let mut branch = Branch::new(&world);
    branch.extend(payments.to_vec());
    let arrives = async {
        // The second payment is submitted twice at once, and sent once.
        for _ in &payments {
            heard.recv().await.unwrap();
        }
        harness.become_canonical(&branch);
    };
    let (included, rejected, last, ()) = tokio::join!(
        submit(&harness, "?wait=included", &payments[0]),
        submit(&harness, "?wait=included&timeout_ms=60000", &payments[1]),
        async {
            let answer = submit(&harness, "?wait=final", &payments[1]);
            let decided = async {
                // Not before the others have seen it included.
                harness.api.chronicle.watch().wait_for(|head| head.height == 1).await.unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
                harness.become_final(1);
            };
            tokio::join!(answer, decided).0
        },
        arrives,
    );
    let told = |(code, found): &(u16, Value)| {
        let text = |name: &str| found[name].as_str().map(String::from);
        (*code, text("status").unwrap(), text("outcome").unwrap(), text("reason"))
    };
    let (applied, refused, reason) = ("applied".into(), "rejected".into(), Some("insufficient_balance".into()));
    assert_eq!(told(&included), (200, "included".into(), applied, None));
    assert_eq!(told(&rejected), (200, "included".into(), refused, reason.clone()));
    assert_eq!(told(&last), (200, "rejected".into(), "rejected".into(), reason));
}

#[tokio::test]
async fn a_wait_ends_with_the_status_that_was_reached_and_may_be_longer_than_other_requests() {
    let world = Arc::new(World::new());
    let (node, _heard) = node(&world);
    let limits = Limits { request_timeout_ms: 400, ..Limits::default() };
    let harness = Harness::with_limits(&world, vec![node.at.clone()], limits);
    harness.api.progress.finish_replay();
    let (code, found) = submit(&harness, "?wait=final&timeout_ms=900", &world.pay(0, 1, 0, 30)).await;
    assert_eq!((code, found["status"].as_str(), found["copies"].as_u64()), (202, Some("accepted"), Some(2)));
    let mut branch = Branch::new(&world);
    branch.extend(vec![world.pay(0, 1, 0, 30)]);
    harness.become_canonical(&branch);
    let (code, found) = submit(&harness, "?wait=final&timeout_ms=100", &world.pay(0, 1, 0, 30)).await;
    assert_eq!((code, found["status"].as_str(), found["height"].as_u64()), (200, Some("included"), Some(1)));
}

#[tokio::test]
async fn a_bulk_submission_waits_for_all_that_were_taken() {
    let world = Arc::new(World::new());
    let (node, mut heard) = node(&world);
    let harness = harness(&world, &node);
    let payments = [world.pay(0, 1, 0, 30), world.pay(1, 2, 9, 1), world.pay(2, 1, 0, 900)];
    let mut branch = Branch::new(&world);
    branch.extend(vec![payments[0], payments[2]]);
    let arrives = async {
        heard.recv().await.unwrap();
        harness.become_canonical(&branch);
        harness.become_final(1);
    };
    let bytes = Payment::slice_as_bytes(&payments).to_vec();
    let path = "/v1/payments/bulk?wait=final";
    let (answer, ()) = tokio::join!(harness.post(path, "application/octet-stream", bytes.clone()), arrives);
    let found = answer.json();
    let statuses: Vec<Option<&str>> = (0..3).map(|place| found["results"][place]["status"].as_str()).collect();
    assert_eq!((found["accepted"].as_u64(), statuses), (Some(2), vec![Some("final"), None, Some("rejected")]));
    assert_eq!(found["results"][1]["code"], "bad_signature");
    assert_eq!(found["results"][2]["reason"], "insufficient_balance");
    let request = Request::post(path).header("content-type", "application/octet-stream");
    let request = request.header("accept", "application/octet-stream").body(bytes.into()).unwrap();
    assert_eq!(harness.ask(request).await.bytes, [4, 0, 0, 0, 2, 0, 13, 0, 6, 0, 6, 0]);
}

#[tokio::test]
async fn waits_are_bounded_in_time_and_number_and_end_when_the_server_stops() {
    let world = Arc::new(World::new());
    let (node, _heard) = node(&world);
    let harness = harness(&world, &node);
    let payment = world.pay(0, 1, 0, 30);
    for query in ["?wait=final&timeout_ms=120001", "?wait=soon", "?wait=final&timeout_ms=-1", "?patience=1"] {
        assert_eq!(submit(&harness, query, &payment).await.0, 400, "{query}");
    }
    assert_eq!(node.requests().len(), 0, "nothing is submitted that is not answered");
    let all = u32::try_from(WAITING_PAYMENTS_MAX).unwrap();
    let taken = harness.api.waiting.clone().try_acquire_many_owned(all).unwrap();
    let (code, found) = submit(&harness, "?wait=included", &payment).await;
    assert_eq!((code, found["code"].as_str(), node.requests().len()), (503, Some("overloaded"), 0));
    drop(taken);
    let stops = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        harness.stop.send_replace(true);
    };
    let ((code, found), ()) = tokio::join!(submit(&harness, "?wait=included", &payment), stops);
    assert_eq!((code, found["status"].as_str()), (202, Some("accepted")));
    assert_eq!(harness.api.waiting.available_permits(), WAITING_PAYMENTS_MAX);
}
