//! A pool against scripted nodes on the real transport.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/fake_node.rs"]
mod fake_node;

use std::time::Duration;

use fake_node::{Answer, FakeNode, dialler, nowhere};
use zeni_client::{NodeAddress, NodeError, NodePool, PoolConfig, PoolError};
use zeni_consensus::{Refusal, Verdict};
use zeni_ledger::payment::PAYMENT_BYTES;
use zeni_ledger::{GenesisId, Payment, TransactionId};
use zeni_schemas::Role;
use zeni_schemas::request::{Reply, Request, RequestError};
use zeni_transport::TransportConfig;

const GENESIS: GenesisId = GenesisId([7; 32]);
const ACCEPTED: Verdict = Verdict::Accepted { copies: 1 };
const OVERLOADED: Verdict = Verdict::Refused(Refusal::Overloaded { retry_after_ms: 50 });

fn payments(count: u8) -> Vec<Payment> {
    (0..count).map(|number| Payment::from_bytes([number; PAYMENT_BYTES])).collect()
}

fn pool_with(nodes: Vec<NodeAddress>, config: PoolConfig) -> NodePool {
    // A dead address is found out quickly, so that tests are too.
    let transport = TransportConfig { handshake_deadline: Duration::from_millis(300), ..TransportConfig::default() };
    NodePool::new(&dialler(GENESIS, Role::Client, transport), nodes, config)
}

fn pool(nodes: Vec<NodeAddress>) -> NodePool {
    pool_with(nodes, PoolConfig::default())
}

fn impatient(nodes: Vec<NodeAddress>) -> NodePool {
    pool_with(nodes, PoolConfig { attempt_timeout: Duration::from_millis(300), ..PoolConfig::default() })
}

fn count(request: &Request) -> usize {
    match request {
        Request::Submit(payments) => payments.len(),
        other => panic!("{other:?} is no submission"),
    }
}

fn accepting(seed: u8) -> FakeNode {
    FakeNode::start(seed, GENESIS, |request| Answer::Reply(Reply::Submitted(vec![ACCEPTED; count(request)])))
}

fn answering(seed: u8, answer: Answer) -> FakeNode {
    FakeNode::start(seed, GENESIS, move |_| answer.clone())
}

#[tokio::test]
async fn calls_take_turns_over_the_nodes() {
    let (one, two) = (accepting(1), accepting(2));
    let pool = pool(vec![one.at.clone(), two.at.clone()]);
    for _ in 0..4 {
        assert_eq!(pool.submit(&payments(3)).await.unwrap(), vec![ACCEPTED; 3]);
    }
    assert_eq!((one.requests().len(), two.requests().len(), pool.failovers()), (2, 2, 0));
    assert_eq!((one.connections(), two.connections()), (1, 1), "connections are kept");
}

#[tokio::test]
async fn a_node_that_is_not_there_is_passed_over() {
    let live = accepting(2);
    let pool = impatient(vec![nowhere(1), live.at.clone()]);
    for _ in 0..4 {
        pool.submit(&payments(1)).await.unwrap();
    }
    assert_eq!(live.requests().len(), 4);
    assert_eq!(pool.failovers(), 1, "after its failure it is asked last");
}

#[tokio::test]
async fn the_same_bytes_go_to_another_node_when_one_does_not_answer() {
    for silence in [Answer::Hang, Answer::Nothing, Answer::Garbage] {
        let (silent, live) = (answering(1, silence), accepting(2));
        let pool = impatient(vec![silent.at.clone(), live.at.clone()]);
        assert_eq!(pool.submit(&payments(5)).await.unwrap(), vec![ACCEPTED; 5]);
        assert_eq!(silent.requests(), live.requests());
        assert_eq!(live.requests(), vec![Request::Submit(payments(5))]);
        assert_eq!(pool.failovers(), 1);
    }
}

#[tokio::test]
async fn only_what_a_node_cannot_take_just_now_goes_to_the_next() {
    let full = Verdict::Refused(Refusal::DiskFull);
    let spent = Verdict::Refused(Refusal::SequenceUsed);
    // A node that is cut off judges windows by an old final block.
    let beyond = Verdict::Refused(Refusal::SequenceOutOfWindow);
    let verdicts = vec![ACCEPTED, OVERLOADED, spent, full, beyond];
    let (busy, live) = (answering(1, Answer::Reply(Reply::Submitted(verdicts))), accepting(2));
    let pool = pool(vec![busy.at.clone(), live.at.clone()]);
    let all = payments(5);
    assert_eq!(pool.submit(&all).await.unwrap(), vec![ACCEPTED, ACCEPTED, spent, ACCEPTED, ACCEPTED]);
    assert_eq!(live.requests(), vec![Request::Submit(vec![all[1], all[3], all[4]])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_payment_that_is_taken_does_not_wait_for_one_that_goes_on_to_the_next_node() {
    let (answered, gate) = std::sync::mpsc::channel::<usize>();
    let gate = std::sync::Mutex::new(gate);
    let busy = answering(1, Answer::Reply(Reply::Submitted(vec![ACCEPTED, OVERLOADED])));
    // The second node takes nothing before the first payment is answered.
    let second = FakeNode::start(2, GENESIS, move |request| {
        assert_eq!(gate.lock().unwrap().recv(), Ok(0));
        Answer::Reply(Reply::Submitted(vec![ACCEPTED; count(request)]))
    });
    let pool = pool(vec![busy.at.clone(), second.at.clone()]);
    let mut answers = Vec::new();
    let told = |place, answer: Result<Verdict, PoolError>| {
        answered.send(place).ok();
        answers.push((place, answer.unwrap()));
    };
    pool.submit_each(&payments(2), told).await.unwrap();
    assert_eq!(answers, [(0, ACCEPTED), (1, ACCEPTED)]);
}

#[tokio::test]
async fn what_a_node_refuses_for_its_own_trouble_does_not_wait_for_nodes_that_do_not_answer() {
    let (silent, busy) = (answering(1, Answer::Hang), answering(2, Answer::Reply(Reply::Submitted(vec![OVERLOADED]))));
    let pool = impatient(vec![silent.at.clone(), busy.at.clone()]);
    assert!(matches!(pool.submit(&payments(1)).await, Err(PoolError::Unclear { .. })));
    for asked in 2..4 {
        assert_eq!(pool.submit(&payments(1)).await.unwrap(), [OVERLOADED]);
        assert_eq!((silent.requests().len(), busy.requests().len()), (1, asked));
    }
}

#[tokio::test]
async fn a_refusal_behind_an_attempt_that_may_have_been_taken_is_unclear() {
    let refusals = [
        Refusal::SequenceUsed,
        Refusal::SequencePending { by: TransactionId([9; 32]) },
        Refusal::Expired,
        Refusal::PendingLimit { limit: 1 },
        Refusal::DiskFull,
    ];
    for silence in [Answer::Hang, Answer::Nothing, Answer::Reply(Reply::Refused(RequestError::Stopping))] {
        for refusal in refusals {
            let refused = vec![ACCEPTED, Verdict::Refused(refusal)];
            let (silent, other) =
                (answering(1, silence.clone()), answering(2, Answer::Reply(Reply::Submitted(refused))));
            let pool = impatient(vec![silent.at.clone(), other.at.clone()]);
            let answer = pool.submit(&payments(2)).await;
            assert!(matches!(answer, Err(PoolError::Unclear { refusal: told }) if told == refusal), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn what_is_unclear_of_one_payment_is_told_of_it_alone() {
    let refusal = Refusal::SequenceUsed;
    let refused = vec![ACCEPTED, Verdict::Refused(refusal), Verdict::Refused(Refusal::BadSignature)];
    let (silent, other) =
        (answering(1, Answer::Nothing), answering(2, Answer::Reply(Reply::Submitted(refused.clone()))));
    let pool = impatient(vec![silent.at.clone(), other.at.clone()]);
    let mut answers: Vec<_> = (0..3).map(|_| None).collect();
    pool.submit_each(&payments(3), |place, answer| answers[place] = Some(answer)).await.unwrap();
    let answers: Vec<_> = answers.into_iter().map(Option::unwrap).collect();
    assert!(matches!(answers[0], Ok(ACCEPTED)), "{answers:?}");
    assert!(matches!(answers[1], Err(PoolError::Unclear { refusal: told }) if told == refusal), "{answers:?}");
    assert!(matches!(answers[2], Ok(verdict) if verdict == refused[2]), "{answers:?}");
}

#[tokio::test]
async fn a_refusal_before_an_attempt_that_may_have_been_taken_is_unclear_too() {
    let (busy, silent) = (answering(1, Answer::Reply(Reply::Submitted(vec![OVERLOADED]))), answering(2, Answer::Hang));
    let pool = impatient(vec![busy.at.clone(), silent.at.clone()]);
    assert!(matches!(pool.submit(&payments(1)).await, Err(PoolError::Unclear { .. })));

    let overloaded = Answer::Reply(Reply::Refused(RequestError::Overloaded { retry_after_ms: 9 }));
    let (busy, silent) = (answering(3, overloaded), answering(4, Answer::Hang));
    let pool = impatient(vec![busy.at.clone(), silent.at.clone()]);
    assert!(matches!(pool.submit(&payments(1)).await, Err(PoolError::NoNode { .. })));
}

#[tokio::test]
async fn a_refusal_is_clear_where_nothing_was_sent_before_or_the_bytes_are_at_fault() {
    let refused = |refusal| Answer::Reply(Reply::Submitted(vec![Verdict::Refused(refusal)]));
    let other = answering(2, refused(Refusal::SequenceUsed));
    let pool_of_one = impatient(vec![nowhere(1), other.at.clone()]);
    let answer = pool_of_one.submit(&payments(1)).await.unwrap();
    assert_eq!(answer, vec![Verdict::Refused(Refusal::SequenceUsed)]);

    let (silent, other) = (answering(3, Answer::Nothing), answering(4, refused(Refusal::BadSignature)));
    let pool_of_two = impatient(vec![silent.at.clone(), other.at.clone()]);
    let answer = pool_of_two.submit(&payments(1)).await.unwrap();
    assert_eq!(answer, vec![Verdict::Refused(Refusal::BadSignature)]);
}

#[tokio::test]
async fn a_refusal_that_every_node_would_repeat_is_final() {
    let verdict = Verdict::Refused(Refusal::ZeroAmount);
    let (one, two) = (answering(1, Answer::Reply(Reply::Submitted(vec![verdict]))), accepting(2));
    let pool = pool(vec![one.at.clone(), two.at.clone()]);
    assert_eq!(pool.submit(&payments(1)).await.unwrap(), vec![verdict]);
    assert!(two.requests().is_empty());
}

#[tokio::test]
async fn what_no_node_can_take_is_refused_with_their_reason() {
    for (refusal, seed) in [(OVERLOADED, 1), (Verdict::Refused(Refusal::SequenceOutOfWindow), 3)] {
        let refusing = |seed| answering(seed, Answer::Reply(Reply::Submitted(vec![refusal])));
        let (one, two) = (refusing(seed), refusing(seed + 1));
        let pool = pool(vec![one.at.clone(), two.at.clone()]);
        assert_eq!(pool.submit(&payments(1)).await.unwrap(), vec![refusal]);
        assert_eq!((one.requests().len(), two.requests().len()), (1, 1));
    }
}

#[tokio::test]
async fn requests_that_nodes_refuse_as_a_whole_go_on_too() {
    let refused = |error| Answer::Reply(Reply::Refused(error));
    let (stopping, live) = (answering(1, refused(RequestError::Stopping)), accepting(2));
    let pool_of_two = pool(vec![stopping.at.clone(), live.at.clone()]);
    pool_of_two.submit(&payments(1)).await.unwrap();
    assert_eq!(live.requests().len(), 1);

    let busy = |seed, retry_after_ms| answering(seed, refused(RequestError::Overloaded { retry_after_ms }));
    let (one, two) = (busy(3, 900), busy(4, 400));
    let pool_of_busy = pool(vec![one.at.clone(), two.at.clone()]);
    let error = pool_of_busy.submit(&payments(1)).await.unwrap_err();
    assert!(matches!(error, PoolError::Overloaded { retry_after_ms: 400 }), "{error}");
}

#[tokio::test]
async fn a_reply_with_another_number_of_verdicts_counts_as_none() {
    let short = answering(1, Answer::Reply(Reply::Submitted(vec![ACCEPTED])));
    let other = answering(2, Answer::Reply(Reply::Pending(vec![1, 1])));
    let pool = pool(vec![short.at.clone(), other.at.clone()]);
    let error = pool.submit(&payments(2)).await.unwrap_err();
    let PoolError::NoNode { attempts } = error else { panic!("{error}") };
    assert_eq!(attempts.iter().map(|attempt| attempt.node).collect::<Vec<_>>(), vec![0, 1]);
}

#[tokio::test]
async fn without_any_node_the_error_names_each_attempt() {
    let pool = impatient(vec![nowhere(1), nowhere(2)]);
    let error = pool.submit(&payments(1)).await.unwrap_err();
    let PoolError::NoNode { attempts } = &error else { panic!("{error}") };
    assert_eq!(attempts.len(), 2);
    for attempt in attempts {
        assert!(error.to_string().contains(&attempt.address));
    }
}

#[tokio::test]
async fn a_process_with_another_key_is_not_believed() {
    let imposter = accepting(1);
    let expected = NodeAddress { key: fake_node::public(5), address: imposter.at.address.clone() };
    let pool = pool(vec![expected]);
    assert!(matches!(pool.submit(&payments(1)).await, Err(PoolError::NoNode { .. })));
    assert!(imposter.requests().is_empty());
}

#[tokio::test]
async fn calls_in_flight_are_bounded() {
    let (silent, sent) = (answering(1, Answer::Hang), payments(1));
    let config = PoolConfig { in_flight_max: 2, questions_max: 1, ..PoolConfig::default() };
    let pool = pool_with(vec![silent.at.clone()], config);
    let first = async { tokio::join!(pool.any_node_info(), pool.submit(&sent), pool.submit(&sent)) };
    let second = async {
        // Those before hold every place once they were polled, which happens in order.
        assert!(matches!(pool.any_node_info().await, Err(PoolError::Busy { in_flight_max: 1 })));
        assert!(matches!(pool.submit(&sent).await, Err(PoolError::Busy { in_flight_max: 2 })));
    };
    tokio::select! {
        biased;
        _ = first => panic!("nobody answers"),
        () = second => {}
    }
}

#[tokio::test]
async fn counts_out_of_bounds_are_refused_before_anything_is_sent() {
    let node = accepting(1);
    let pool = pool(vec![node.at.clone()]);
    let too_many = vec![payments(1)[0]; 1_025];
    assert!(matches!(pool.submit(&too_many).await, Err(PoolError::WrongCount { found: 1_025, limit: 1_024 })));
    assert!(matches!(pool.submit(&[]).await, Err(PoolError::WrongCount { found: 0, .. })));
    assert!(matches!(pool.pending(vec![TransactionId([0; 32]); 1_025]).await, Err(PoolError::WrongCount { .. })));
    assert_eq!(node.connections(), 0);
}

#[tokio::test]
async fn pending_copies_come_from_any_node() {
    let node = answering(2, Answer::Reply(Reply::Pending(vec![0, 3])));
    let pool = impatient(vec![nowhere(1), node.at.clone()]);
    let ids = vec![TransactionId([1; 32]), TransactionId([2; 32])];
    assert_eq!(pool.pending(ids.clone()).await.unwrap(), vec![0, 3]);
    assert_eq!(node.requests(), vec![Request::Pending(ids)]);
    assert!(matches!(pool.node_info(1).await, Err(NodeError::OtherReply)));
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let (connections, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let script = |request: &Request| Answer::Reply(Reply::Submitted(vec![ACCEPTED; count(request)]));
    let node = FakeNode::start_with(1, GENESIS, script, fake_node::hand_over(connections));
    let pool = pool(vec![node.at.clone()]);
    pool.submit(&payments(1)).await.unwrap();
    let first = seen.recv().await.unwrap();
    first.close(zeni_transport::CloseCode::Shutdown);
    // The close may reach the client before or within the next call; the one after that finds a new connection.
    pool.submit(&payments(1)).await.ok();
    pool.submit(&payments(1)).await.unwrap();
    assert_eq!(node.connections(), 2);
}
