//! The life of a payment: accepted, included, taken back, included again; rejected, expired, unknown.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::fake_node::{Answer, FakeNode};
use support::harness::{Harness, certificate};
use support::ledger::{Branch, World, account};
use zeni_api_server::config::Limits;
use zeni_consensus::{Refusal, Verdict};
use zeni_ledger::Payment;
use zeni_schemas::request::{Reply, Request};

/// A node that takes everything at two copies, until the chain spends its sequence; and knows pending payments.
fn node(world: &World, verdict: Verdict, pending: u16) -> FakeNode {
    FakeNode::start(1, world.id, move |request| match request {
        Request::Submit(payments) => Answer::Reply(Reply::Submitted(vec![verdict; payments.len()])),
        Request::Pending(ids) => Answer::Reply(Reply::Pending(vec![pending; ids.len()])),
        _ => Answer::Nothing,
    })
}

fn accepting(world: &World) -> FakeNode {
    node(world, Verdict::Accepted { copies: 2 }, 0)
}

async fn submit(harness: &Harness, payment: &Payment) -> support::harness::Answer {
    harness.post_json("/v1/payments", &json!({ "payment": hex::encode(payment.as_bytes()) })).await
}

async fn status(harness: &Harness, payment: &Payment) -> Value {
    harness.get(&format!("/v1/payments/{}", harness.world.id_of(payment))).await.json()
}

#[tokio::test]
async fn a_payment_is_accepted_included_taken_back_and_included_again() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payment = world.pay(0, 1, 0, 30);
    let answer = submit(&harness, &payment).await;
    let id = world.id_of(&payment).to_string();
    assert_eq!((answer.status.as_u16(), answer.json()["copies"].as_u64()), (202, Some(2)));
    assert_eq!(answer.headers["location"], format!("/v1/payments/{id}"));
    let found = status(&harness, &payment).await;
    assert_eq!((found["status"].as_str(), found["copies"].as_u64()), (Some("accepted"), Some(2)));
    assert_eq!(found["id"], id);

    let mut first = Branch::new(&world);
    first.extend(vec![]);
    let mut second = first.clone();
    first.extend(vec![world.pay(2, 3, 0, 1), payment]);
    harness.become_canonical(&first);
    let found = status(&harness, &payment).await;
    assert_eq!(
        (found["status"].as_str(), found["height"].as_u64(), found["depth"].as_u64()),
        (Some("included"), Some(2), Some(0))
    );
    assert_eq!((found["batch"].as_u64(), found["position"].as_u64()), (Some(0), Some(1)));
    assert_eq!(
        (found["block"].as_str(), found["final"].as_bool()),
        (Some(first.tip.to_string().as_str()), Some(false))
    );
    first.extend(vec![]);
    harness.become_canonical(&first);
    assert_eq!(status(&harness, &payment).await["depth"], 1);

    // Another branch without it becomes heavier: it falls back to accepted.
    second.skip(5);
    second.extend(vec![world.pay(2, 3, 0, 1)]);
    second.extend(vec![]);
    second.extend(vec![]);
    harness.become_canonical(&second);
    assert_eq!(status(&harness, &payment).await["status"], "accepted");
    let other = world.pay(2, 3, 0, 1);
    assert_eq!(status(&harness, &other).await["height"], 2);

    second.extend(vec![payment]);
    harness.become_canonical(&second);
    let found = status(&harness, &payment).await;
    assert_eq!((found["status"].as_str(), found["height"].as_u64()), (Some("included"), Some(5)));
}

#[tokio::test]
async fn a_deep_reorganisation_takes_back_what_the_index_has_written() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payments: Vec<Payment> = (0..6).map(|sequence| world.pay(0, 1, sequence, 1)).collect();
    let (mut first, mut second) = (Branch::new(&world), Branch::new(&world));
    for payment in &payments {
        first.extend(vec![*payment]);
    }
    harness.become_canonical(&first);
    harness.api.chronicle.index().flush_all().unwrap();
    second.skip(50);
    second.extend(vec![payments[1], payments[0]]);
    for _ in 0..6 {
        second.extend(vec![]);
    }
    harness.become_canonical(&second);
    for (place, payment) in payments.iter().enumerate() {
        let found = harness.api.chronicle.find(&world.id_of(payment)).unwrap();
        assert_eq!(found.map(|found| found.height), (place < 2).then_some(1), "payment {place}");
    }
    harness.become_canonical(&first);
    for (place, payment) in payments.iter().enumerate() {
        assert_eq!(status(&harness, payment).await["height"], place + 1);
    }
}

#[tokio::test]
async fn a_rejected_payment_says_why_and_where() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payment = world.pay(0, 1, 0, 101);
    let mut branch = Branch::new(&world);
    branch.extend(vec![payment]);
    harness.become_canonical(&branch);
    let found = status(&harness, &payment).await;
    assert_eq!((found["status"].as_str(), found["outcome"].as_str()), (Some("included"), Some("rejected")));
    assert_eq!((found["height"].as_u64(), found["reason"].as_str()), (Some(1), Some("insufficient_balance")));
    assert_eq!(found["final"], false);
    harness.become_final(1);
    let found = status(&harness, &payment).await;
    assert_eq!((found["status"].as_str(), found["reason"].as_str()), (Some("rejected"), Some("insufficient_balance")));
    assert_eq!((found["height"].as_u64(), found["final"].as_bool()), (Some(1), Some(true)));
}

#[tokio::test]
async fn what_is_said_for_ever_comes_from_final_blocks_and_stays_over_every_reorganisation_above_them() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let (applied, rejected) = (world.pay(0, 1, 0, 30), world.pay(2, 1, 0, 301));
    let (winner, loser) = (world.pay(3, 1, 0, 1), world.pay(3, 2, 0, 1));
    let late = world.pay_until(4, 1, 0, 1, world.genesis.time_ms / 1_000 + 3);
    for payment in [&applied, &rejected, &winner, &loser, &late] {
        submit(&harness, payment).await;
    }
    let mut branch = Branch::new(&world);
    branch.extend(vec![applied, rejected, winner]);
    branch.extend(vec![]);
    let mut other = branch.clone();
    branch.skip(10);
    branch.extend(vec![]);
    harness.become_canonical(&branch);
    let told = async || {
        let mut told = Vec::new();
        for payment in [&applied, &rejected, &loser, &late] {
            let found = status(&harness, payment).await;
            told.push((found["status"].as_str().unwrap().to_owned(), found["final"] == true));
        }
        told
    };
    let statuses = |names: [(&str, bool); 4]| names.map(|(name, last)| (name.to_owned(), last)).to_vec();
    let open = [("included", false), ("included", false), ("accepted", false), ("accepted", false)];
    assert_eq!(told().await, statuses(open));
    harness.become_final(1);
    let ended = |late| [("final", true), ("rejected", true), ("rejected", true), late];
    assert_eq!(told().await, statuses(ended(("accepted", false))), "no final block is too late for it yet");
    assert_eq!(status(&harness, &late).await["warning"], "valid_until_passed");
    let found = status(&harness, &loser).await;
    let used_by = Some(world.id_of(&winner).to_string());
    assert_eq!((found["reason"].as_str(), found["used_by"].as_str()), (Some("sequence_used"), used_by.as_deref()));
    // The late block is taken back: the chain is early enough for it again, and takes it.
    other.extend(vec![late]);
    other.extend(vec![]);
    harness.become_canonical(&other);
    assert_eq!(told().await, statuses(ended(("included", false))));
    other.skip(20);
    other.extend(vec![]);
    harness.become_canonical(&other);
    harness.become_final(other.height());
    assert_eq!(told().await, statuses(ended(("final", true))));
}

#[tokio::test]
async fn a_payment_that_expired_stays_so_when_another_one_uses_its_sequence_later() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let late = world.pay_until(0, 1, 0, 1, world.genesis.time_ms / 1_000 + 3);
    submit(&harness, &late).await;
    let mut branch = Branch::new(&world);
    branch.skip(10);
    branch.extend(vec![]);
    harness.become_canonical(&branch);
    harness.become_final(1);
    let found = status(&harness, &late).await;
    assert_eq!((found["status"].as_str(), found["final"].as_bool()), (Some("expired"), Some(true)));
    branch.extend(vec![world.pay(0, 2, 0, 1)]);
    harness.become_canonical(&branch);
    harness.become_final(2);
    assert_eq!(status(&harness, &late).await["status"], "expired");
}

#[tokio::test]
async fn the_loser_of_a_double_spend_that_a_block_lists_is_known_without_its_submission() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let (winner, loser) = (world.pay(0, 1, 0, 30), world.pay(0, 2, 0, 30));
    let mut branch = Branch::new(&world);
    branch.extend(vec![world.pay(1, 2, 0, 1), winner]);
    branch.extend(vec![loser, world.pay(1, 2, 1, 1)]);
    harness.become_canonical(&branch);
    let used_by = world.id_of(&winner).to_string();
    let found = status(&harness, &loser).await;
    assert_eq!((found["status"].as_str(), found["warning"].as_str()), (Some("accepted"), Some("sequence_used")));
    assert_eq!((found["used_by"].as_str(), found["used_by_final"].as_bool()), (Some(used_by.as_str()), Some(false)));
    harness.become_final(2);
    for _ in 0..2 {
        let found = status(&harness, &loser).await;
        assert_eq!((found["status"].as_str(), found["reason"].as_str()), (Some("rejected"), Some("sequence_used")));
        assert_eq!((found["used_by"].as_str(), found["used_by_height"].as_u64()), (Some(used_by.as_str()), Some(1)));
        // The same from sled.
        harness.api.chronicle.index().flush_all().unwrap();
    }
    assert_eq!(status(&harness, &winner).await["status"], "final");
    // It never was executed and never will be: whoever asks for its proof need not come back.
    let answer = harness.get(&format!("/v1/payments/{}/proof", world.id_of(&loser))).await;
    assert_eq!(answer.problem(), (404, "not_executed".into()));
}

#[tokio::test]
async fn a_block_that_is_abandoned_while_it_is_read_is_not_told_final() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let (mut first, mut second) = (Branch::new(&world), Branch::new(&world));
    first.extend(vec![world.pay(0, 1, 0, 1)]);
    second.skip(3);
    second.extend(vec![]);
    second.extend(vec![]);
    harness.become_canonical(&first);
    second.blocks.iter().for_each(|applied| harness.archive.store(applied));
    let (chronicle, change) = (harness.api.chronicle.clone(), second.change_from(&first, 0));
    let decision = certificate(&second, 2);
    *harness.archive.meanwhile.lock().unwrap() = Some(Box::new(move || {
        chronicle.publish(&change).unwrap();
        chronicle.publish_final(&decision).unwrap();
    }));
    let found = harness.get("/v1/blocks/1").await.json();
    assert_eq!((found["id"].as_str(), found["final"].as_bool()), (Some(first.tip.to_string().as_str()), Some(false)));
    let found = harness.get("/v1/blocks/1").await.json();
    assert_eq!(found["final"], true);
}

#[tokio::test]
async fn a_payment_that_came_another_way_is_asked_of_the_nodes() {
    let world = Arc::new(World::new());
    let node = node(&world, Verdict::Accepted { copies: 1 }, 3);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let found = status(&harness, &world.pay(0, 1, 0, 1)).await;
    assert_eq!((found["status"].as_str(), found["copies"].as_u64()), (Some("accepted"), Some(3)));
}

#[tokio::test]
async fn copies_grow_as_nodes_tell_of_them() {
    let world = Arc::new(World::new());
    let node = node(&world, Verdict::Accepted { copies: 1 }, 3);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payment = world.pay(0, 1, 0, 1);
    assert_eq!(submit(&harness, &payment).await.json()["copies"], 1);
    assert_eq!(status(&harness, &payment).await["copies"], 3);
    let asked = node.requests().len();
    assert_eq!(status(&harness, &payment).await["copies"], 3);
    assert_eq!(node.requests().len(), asked, "all three have it, so nobody is asked again");
}

#[tokio::test]
async fn an_accepted_payment_whose_sequence_another_one_used_says_so_until_that_is_taken_back() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payment = world.pay(0, 1, 0, 30);
    submit(&harness, &payment).await;
    assert_eq!(status(&harness, &payment).await.get("warning"), None);
    let (mut first, mut second) = (Branch::new(&world), Branch::new(&world));
    first.extend(vec![world.pay(0, 2, 0, 30)]);
    harness.become_canonical(&first);
    let found = status(&harness, &payment).await;
    assert_eq!((found["status"].as_str(), found["warning"].as_str()), (Some("accepted"), Some("sequence_used")));
    second.skip(3);
    second.extend(vec![]);
    second.extend(vec![]);
    harness.become_canonical(&second);
    assert_eq!(status(&harness, &payment).await.get("warning"), None);
    second.extend(vec![payment]);
    harness.become_canonical(&second);
    let found = status(&harness, &payment).await;
    assert_eq!((found["status"].as_str(), found.get("warning")), (Some("included"), None));
}

#[tokio::test]
async fn many_questions_reach_the_nodes_as_one_and_leave_submissions_their_places() {
    let world = Arc::new(World::new());
    let node = node(&world, Verdict::Accepted { copies: 1 }, 1);
    let limits = Limits { submissions_max: 1, ..Limits::default() };
    let harness = Harness::with_limits(&world, vec![node.at.clone()], limits);
    let payments: Vec<Payment> = (0..40).map(|sequence| world.pay(0, 1, sequence, 1)).collect();
    let statuses = futures_util::future::join_all(payments.iter().map(|payment| status(&harness, payment)));
    let other = world.pay(2, 1, 0, 1);
    let (statuses, submitted) = tokio::join!(statuses, submit(&harness, &other));
    assert!(statuses.iter().all(|found| found["status"] == "accepted"));
    assert_eq!(submitted.status, 202);
    let requests = node.requests();
    let asked = |request: &&Request| matches!(request, Request::Pending(_));
    let questions = requests.iter().filter(asked).count();
    assert!(questions < payments.len() / 2, "{questions} questions for {} statuses", payments.len());
}

#[tokio::test]
async fn an_unknown_payment_is_a_problem_with_its_code() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let answer = harness.get(&format!("/v1/payments/{}", world.id_of(&world.pay(0, 1, 0, 1)))).await;
    assert_eq!(answer.problem(), (404, "unknown_payment".into()));
    assert_eq!(harness.get("/v1/payments/abc").await.problem(), (400, "malformed".into()));
}

#[tokio::test]
async fn a_payment_has_expired_once_a_final_block_is_too_late_for_it() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let mut branch = Branch::new(&world);
    let payment = world.pay_until(0, 1, 0, 1, world.genesis.time_ms / 1_000 + 5);
    submit(&harness, &payment).await;
    branch.extend(vec![]);
    harness.become_canonical(&branch);
    assert_eq!(status(&harness, &payment).await["status"], "accepted");
    branch.skip(10);
    branch.extend(vec![]);
    harness.become_canonical(&branch);
    let found = status(&harness, &payment).await;
    assert_eq!((found["status"].as_str(), found["warning"].as_str()), (Some("accepted"), Some("valid_until_passed")));
    harness.become_final(1);
    assert_eq!(status(&harness, &payment).await["status"], "accepted");
    harness.become_final(2);
    let found = status(&harness, &payment).await;
    assert_eq!((found["status"].as_str(), found["final"].as_bool()), (Some("expired"), Some(true)));
}

#[tokio::test]
async fn repeating_a_submission_tells_its_status_instead_of_a_spent_sequence() {
    let world = Arc::new(World::new());
    let node = node(&world, Verdict::Refused(Refusal::SequenceUsed), 0);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let (payment, other) = (world.pay(0, 1, 0, 30), world.pay(0, 2, 0, 30));
    let mut branch = Branch::new(&world);
    branch.extend(vec![payment]);
    harness.become_canonical(&branch);
    let answer = submit(&harness, &payment).await;
    assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (200, Some("included")));
    // Another payment with the same sequence is another matter.
    let refused = submit(&harness, &other).await;
    assert_eq!(refused.problem(), (409, "sequence_used".into()));
    assert_eq!(refused.json()["used_by"], world.id_of(&payment).to_string());
    let bulk = harness.post(
        "/v1/payments/bulk",
        "application/octet-stream",
        Payment::slice_as_bytes(&[payment, other]).to_vec(),
    );
    let results = bulk.await.json();
    assert_eq!((results["accepted"].as_u64(), results["results"][0]["height"].as_u64()), (Some(1), Some(1)));
    assert_eq!(results["results"][1]["code"], "sequence_used");
    assert_eq!(results["results"][1]["used_by"], world.id_of(&payment).to_string());
}

#[tokio::test]
async fn repeating_a_submission_waits_for_the_block_that_the_node_already_has() {
    let world = Arc::new(World::new());
    let (asked, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let node = FakeNode::start(1, world.id, move |_| {
        asked.send(()).unwrap();
        Answer::Reply(Reply::Submitted(vec![Verdict::Refused(Refusal::SequenceUsed)]))
    });
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payment = world.pay(0, 1, 0, 30);
    let mut branch = Branch::new(&world);
    branch.extend(vec![payment]);
    let arrives = async {
        heard.recv().await.unwrap();
        harness.become_canonical(&branch);
    };
    let (answer, ()) = tokio::join!(submit(&harness, &payment), arrives);
    assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (200, Some("included")));
}

#[tokio::test]
async fn a_used_sequence_is_unclear_until_the_chain_here_has_it_used() {
    let world = Arc::new(World::new());
    let node = node(&world, Verdict::Refused(Refusal::SequenceUsed), 0);
    let limits = Limits { request_timeout_ms: 1_000, node_timeout_ms: 500, ..Limits::default() };
    let harness = Harness::with_limits(&world, vec![node.at.clone()], limits);
    let payment = world.pay(0, 1, 0, 30);
    let answer = submit(&harness, &payment).await;
    assert_eq!((answer.problem(), answer.headers.contains_key("retry-after")), ((503, "unclear".into()), true));
    let mut branch = Branch::new(&world);
    branch.extend(vec![world.pay(0, 2, 0, 30)]);
    harness.become_canonical(&branch);
    // A node is ahead: its next block may show another story.
    harness.api.progress.advance(1, 2);
    assert_eq!(submit(&harness, &payment).await.problem(), (503, "unclear".into()));
    harness.api.progress.advance(2, 2);
    assert_eq!(submit(&harness, &payment).await.problem(), (409, "sequence_used".into()));
}

#[tokio::test]
async fn the_payment_itself_is_shown_on_request() {
    let world = Arc::new(World::new());
    let node = accepting(&world);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payment = world.pay(4, 5, 0, 12);
    let mut branch = Branch::new(&world);
    branch.extend(vec![world.pay(0, 1, 0, 1), payment]);
    harness.become_canonical(&branch);
    let found = harness.get(&format!("/v1/payments/{}?payment=true", world.id_of(&payment))).await.json();
    assert_eq!(
        (found["payment"]["amount"].as_str(), found["payment"]["to"].as_str()),
        (Some("12"), Some(account(5).to_string().as_str()))
    );
}
