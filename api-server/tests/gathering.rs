//! Payments that come one at a time and leave together.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use support::fake_node::{Answer, FakeNode};
use support::harness::Harness;
use support::ledger::World;
use tokio::time::timeout;
use zeni_api_server::config::Limits;
use zeni_api_server::gathering::{GROUPS_MAX, WAITING_MAX};
use zeni_client::PoolError;
use zeni_consensus::Verdict;
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_ledger::Payment;
use zeni_schemas::request::{Reply, Request};

/// A node that answers each payment with as many copies as it pays units, once the gate is open.
fn gated(world: &World, gate: &Arc<RwLock<()>>) -> FakeNode {
    let gate = Arc::clone(gate);
    FakeNode::start(1, world.id, move |request| {
        drop(gate.read().unwrap());
        let Request::Submit(payments) = request else { return Answer::Nothing };
        let verdict = |payment: &Payment| Verdict::Accepted { copies: payment.amount().0 as u16 };
        Answer::Reply(Reply::Submitted(payments.iter().map(verdict).collect()))
    })
}

fn groups(node: &FakeNode) -> Vec<Vec<Payment>> {
    let submitted = |request| match request {
        Request::Submit(payments) => Some(payments),
        _ => None,
    };
    node.requests().into_iter().filter_map(submitted).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn payments_leave_in_a_few_groups_and_each_gets_its_own_answer() {
    let (world, gate) = (Arc::new(World::new()), Arc::default());
    let node = gated(&world, &gate);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payments: Vec<Payment> = (0..100).map(|number| world.pay(0, 1, number, 1 + number)).collect();
    let closed = gate.write().unwrap();
    let mut waiting: Vec<_> = payments.iter().map(|payment| Box::pin(harness.api.gathering.submit(*payment))).collect();
    for one in &mut waiting {
        assert!(one.now_or_never().is_none(), "the gate is closed");
    }
    drop(closed);
    let answers = join_all(waiting).await;
    for (answer, number) in answers.into_iter().zip(1..) {
        assert_eq!(answer.unwrap(), Verdict::Accepted { copies: number });
    }
    let groups = groups(&node);
    assert!(groups.len() <= GROUPS_MAX + 1, "{} groups", groups.len());
    let sent: usize = groups.iter().map(Vec::len).sum();
    assert_eq!(sent, payments.len());
}

#[tokio::test]
async fn a_payment_alone_leaves_alone() {
    let (world, gate) = (Arc::new(World::new()), Arc::default());
    let node = gated(&world, &gate);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    for number in 0..3 {
        let payment = world.pay(0, 1, number, 7);
        assert_eq!(harness.api.gathering.submit(payment).await.unwrap(), Verdict::Accepted { copies: 7 });
        assert_eq!(groups(&node).last(), Some(&vec![payment]));
    }
}

#[tokio::test]
async fn what_waits_is_bounded_and_no_group_is_longer_than_a_node_takes() {
    let (world, gate) = (Arc::new(World::new()), Arc::default());
    let node = gated(&world, &gate);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let payments: Vec<Payment> = (0..WAITING_MAX as u64).map(|number| world.pay(0, 1, number, 7)).collect();
    // The task that takes them does not run in between.
    let mut waiting: Vec<_> = payments.iter().map(|payment| Box::pin(harness.api.gathering.submit(*payment))).collect();
    assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
    let payment = world.pay(0, 1, WAITING_MAX as u64, 7);
    let refused = harness.api.gathering.submit(payment).await;
    assert!(matches!(refused, Err(PoolError::Busy { in_flight_max: WAITING_MAX })), "{refused:?}");
    assert!(join_all(waiting).await.into_iter().all(|answer| answer.is_ok()));
    let lengths: Vec<usize> = groups(&node).iter().map(Vec::len).collect();
    assert!(lengths.iter().all(|length| *length <= SUBMISSION_PAYMENTS_MAX), "{lengths:?}");
    assert_eq!(lengths.iter().sum::<usize>(), WAITING_MAX);
}

#[tokio::test]
async fn the_same_payment_of_several_clients_is_sent_once_and_answers_them_all() {
    let (world, gate) = (Arc::new(World::new()), Arc::default());
    let node = gated(&world, &gate);
    let harness = Harness::new(&world, vec![node.at.clone()]);
    let (payment, other) = (world.pay(0, 1, 0, 7), world.pay(0, 1, 1, 8));
    let sent = [payment, other, payment, payment];
    // The task that takes them does not run in between, so they are one group.
    let mut waiting: Vec<_> = sent.iter().map(|payment| Box::pin(harness.api.gathering.submit(*payment))).collect();
    assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
    let answers: Vec<Verdict> = join_all(waiting).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, [7, 8, 7, 7].map(|copies| Verdict::Accepted { copies }));
    assert_eq!(groups(&node), [[payment, other]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_node_that_falls_silent_does_not_hold_up_payments_that_others_would_take() {
    let (world, gate) = (Arc::new(World::new()), Arc::default());
    let silent = FakeNode::start(2, world.id, |_| Answer::Hang);
    let live = gated(&world, &gate);
    // Whoever waits for the silent node waits much longer than this test does.
    let limits = Limits { node_timeout_ms: 600_000, request_timeout_ms: 600_000, ..Limits::default() };
    let harness = Harness::with_limits(&world, vec![silent.at.clone(), live.at.clone()], limits);
    let stuck = || groups(&silent).iter().map(Vec::len).sum::<usize>();
    let mut waiting = Vec::new();
    // Each in a group of its own, until the silent node has as many as may be on their way.
    for number in 0..4 * GROUPS_MAX as u64 {
        if stuck() >= GROUPS_MAX {
            break;
        }
        let (gathering, payment, before) = (harness.api.gathering.clone(), world.pay(0, 1, number, 7), stuck());
        waiting.push(tokio::spawn(async move { gathering.submit(payment).await }));
        while stuck() == before && !waiting.last().unwrap().is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(stuck() > 0, "the silent node was asked");
    for number in 100..120 {
        let answer = timeout(Duration::from_secs(20), harness.api.gathering.submit(world.pay(0, 1, number, 7))).await;
        assert_eq!(answer.expect("it waits for the silent node").unwrap(), Verdict::Accepted { copies: 7 });
    }
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}
