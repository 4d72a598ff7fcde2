//! Requests: many at once, each with its own end.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::*;
use crate::{CloseCode, Lost, RequestFailure, RespondError};

#[tokio::test]
async fn requests_run_at_once_and_answers_find_their_askers() {
    const REQUESTS: usize = 100;
    let pair = pair().await;
    let mut asking = JoinSet::new();
    for number in 0..REQUESTS {
        let connection = pair.at_client.clone();
        asking.spawn(async move { (number, connection.request(pattern(number, 1_000 + number)).await) });
    }
    // No answer leaves before all questions are there, and the last comes first.
    let mut requests = Vec::new();
    for _ in 0..REQUESTS {
        requests.push(pair.at_server.accept_request().await.unwrap());
    }
    for request in requests.into_iter().rev() {
        let answer = [b"re: ".as_slice(), &request.body].concat();
        request.respond(answer).await.unwrap();
    }
    while let Some(asked) = asking.join_next().await {
        let (number, answer) = asked.unwrap();
        let expected = [b"re: ".as_slice(), &pattern(number, 1_000 + number)].concat();
        assert_eq!(answer, Ok(Bytes::from(expected)));
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_and_are_served() {
    const REQUESTS: usize = 40;
    let few = TransportConfig { requests_max: 3, ..TransportConfig::default() };
    let pair = pair_with(few, TransportConfig::default()).await;
    let mut asking = JoinSet::new();
    for number in 0..REQUESTS {
        let connection = pair.at_client.clone();
        asking.spawn(async move { connection.request(pattern(number, 10)).await });
    }
    for _ in 0..REQUESTS {
        let request = pair.at_server.accept_request().await.unwrap();
        request.respond("served").await.unwrap();
    }
    while let Some(asked) = asking.join_next().await {
        assert_eq!(asked.unwrap(), Ok(Bytes::from("served")));
    }
}

#[tokio::test]
async fn a_request_ends_at_its_deadline() {
    let pair = pair().await;
    let after = Duration::from_millis(100);
    let (failure, request) = tokio::join!(pair.at_client.request_within("?", after), pair.at_server.accept_request());
    assert_eq!(failure, Err(RequestFailure::Deadline { after }));
    assert_eq!(request.unwrap().body.as_ref(), b"?");
    prove_alive(&pair.at_client, &pair.at_server).await;
}

#[tokio::test]
async fn an_answer_that_nobody_awaits_is_a_typed_error() {
    let pair = pair().await;
    let (failure, request) =
        tokio::join!(pair.at_client.request_within("?", Duration::from_millis(50)), pair.at_server.accept_request());
    assert!(matches!(failure, Err(RequestFailure::Deadline { .. })));
    // What the client sent before this question and answer has arrived: also that it gave up.
    prove_alive(&pair.at_client, &pair.at_server).await;
    assert_eq!(request.unwrap().respond("late").await, Err(RespondError::GivenUp));
}

#[tokio::test]
async fn a_dropped_request_is_no_empty_answer() {
    let pair = pair().await;
    let (failure, ()) = tokio::join!(pair.at_client.request("?"), async {
        drop(pair.at_server.accept_request().await.unwrap());
    });
    assert_eq!(failure, Err(RequestFailure::Unanswered));
    let (empty, ()) = tokio::join!(pair.at_client.request(""), async {
        pair.at_server.accept_request().await.unwrap().respond("").await.unwrap();
    });
    assert_eq!(empty, Ok(Bytes::new()));
}

#[tokio::test]
async fn a_half_written_request_reaches_nobody() {
    let narrow = TransportConfig { stream_window_bytes: 1_000, ..TransportConfig::default() };
    let pair = pair_with(narrow, TransportConfig::default()).await;
    let asking = pair.at_client.request_within(pattern(1, 100_000), Duration::from_millis(50));
    assert!(matches!(asking.await, Err(RequestFailure::Deadline { .. })));
    // The next request that arrives is another one.
    prove_alive(&pair.at_client, &pair.at_server).await;
}

#[tokio::test]
async fn a_slow_request_holds_up_no_other() {
    let (server, address) = server_with(TransportConfig::default());
    let (_quic, raw) = raw_peer(CLIENT, address).await;
    let hello = Hello::new(GENESIS, Role::Client);
    let (_, at_server) =
        tokio::try_join!(crate::greeting::greet(&raw, &hello), async { Ok(server.accept().await) }).unwrap();
    let at_server = at_server.unwrap();
    let (mut slow, _slow_answer) = raw.open_bi().await.unwrap();
    slow.write_all(b"slo").await.unwrap();
    let (mut fast, _fast_answer) = raw.open_bi().await.unwrap();
    fast.write_all(b"fast").await.unwrap();
    fast.finish().unwrap();
    assert_eq!(at_server.accept_request().await.unwrap().body.as_ref(), b"fast");
    slow.write_all(b"w").await.unwrap();
    slow.finish().unwrap();
    assert_eq!(at_server.accept_request().await.unwrap().body.as_ref(), b"slow");
}

#[tokio::test]
async fn an_oversized_request_closes_its_connection_and_no_other() {
    let narrow = TransportConfig { request_bytes_max: 1_000, ..TransportConfig::default() };
    let pair = pair_with(narrow, TransportConfig::default()).await;
    let (other_client, other_server) = connect(&pair.client, &pair.server, pair.address).await;
    let (failure, lost) = tokio::join!(pair.at_client.request(pattern(1, 1_001)), pair.at_server.accept_request());
    let closed = Lost::ClosedByPeer { code: CloseCode::OversizedFrame };
    assert_eq!(failure, Err(RequestFailure::Lost(closed)));
    assert_eq!(lost.map(|request| request.body), Err(Lost::ClosedHere));
    prove_alive(&other_client, &other_server).await;
}

#[tokio::test]
async fn lengths_are_checked_before_anything_is_sent() {
    let pair = pair().await;
    let config = TransportConfig::default();
    let (found, limit) = (config.request_bytes_max + 1, config.request_bytes_max);
    assert_eq!(pair.at_client.request(vec![0; found]).await, Err(RequestFailure::TooLong { found, limit }));
    let (failure, ()) = tokio::join!(pair.at_client.request("?"), async {
        let request = pair.at_server.accept_request().await.unwrap();
        let (found, limit) = (config.reply_bytes_max + 1, config.reply_bytes_max);
        assert_eq!(request.respond(vec![0; found]).await, Err(RespondError::TooLong { found, limit }));
    });
    assert_eq!(failure, Err(RequestFailure::Unanswered));
}

#[tokio::test]
async fn an_answer_beyond_the_askers_limit_is_refused() {
    let narrow = TransportConfig { reply_bytes_max: 1_000, ..TransportConfig::default() };
    let pair = pair_with(TransportConfig::default(), narrow).await;
    let (failure, ()) = tokio::join!(pair.at_client.request("?"), async {
        let request = pair.at_server.accept_request().await.unwrap();
        request.respond(pattern(1, 1_001)).await.unwrap();
    });
    assert_eq!(failure, Err(RequestFailure::AnswerTooLong { limit: 1_000 }));
}

#[tokio::test]
async fn open_requests_end_with_the_connection() {
    let pair = pair().await;
    let (failure, request) = tokio::join!(pair.at_client.request("?"), async {
        let request = pair.at_server.accept_request().await.unwrap();
        pair.at_server.close(CloseCode::Shutdown);
        request
    });
    assert_eq!(failure, Err(RequestFailure::Lost(Lost::ClosedByPeer { code: CloseCode::Shutdown })));
    assert_eq!(request.respond("late").await, Err(RespondError::Lost(Lost::ClosedHere)));
}
