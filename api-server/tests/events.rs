//! The event stream: live, resumed, across reorganisations, and its end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::Value;
use support::fake_node::nowhere;
use support::harness::Harness;
use support::ledger::{Branch, World};
use tokio::time::timeout;
use tower::ServiceExt;
use zeni_api_server::config::Limits;

/// No test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Stream {
    body: BodyDataStream,
    text: String,
}

#[derive(Debug, PartialEq)]
struct Event {
    name: String,
    /// Height and index.
    id: String,
    /// The block in the event's id.
    block: String,
    data: Value,
}

impl Stream {
    async fn open(harness: &Harness, path: &str, last: Option<&str>) -> Self {
        let mut request = Request::get(path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = harness.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
                };
                let Some(data) = field("data:") else { continue };
                let name = field("event:").unwrap();
                let data: Value = serde_json::from_str(&data).unwrap();
                let Some(id) = field("id:") else {
                    assert_eq!(name, "payment", "every event of the chain has an id to come back to");
                    return Some(Event { name, id: String::new(), block: String::new(), data });
                };
                let (id, block) = id.rsplit_once(':').map(|(id, block)| (id.into(), block.into())).unwrap();
                assert_eq!(data["id"], block);
                return Some(Event { name, id, block, data });
            }
            let chunk = timeout(PATIENCE, self.body.next()).await.unwrap()?.unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.next().await.unwrap().id);
        }
        ids
    }
}

fn long(world: &Arc<World>, blocks: usize) -> Branch {
    let mut branch = Branch::new(world);
    (0..blocks).for_each(|_| drop(branch.extend(vec![])));
    branch
}

#[tokio::test]
async fn a_live_stream_tells_of_each_block_once() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let mut branch = long(&world, 2);
    harness.become_canonical(&branch);
    let mut stream = Stream::open(&harness, "/v1/events", None).await;
    for height in 3..6 {
        branch.extend(vec![world.pay(0, 1, height, 1)]);
        harness.become_canonical(&branch);
        let event = stream.next().await.unwrap();
        assert_eq!((event.name.as_str(), event.id), ("block", format!("{height}:0")));
        assert_eq!(
            (event.data["id"].as_str(), event.data["receipts"].as_u64()),
            (Some(branch.tip.to_string().as_str()), Some(1))
        );
    }
}

#[tokio::test]
async fn a_resumed_stream_has_no_gap() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    // More than one look gives.
    let mut branch = long(&world, 150);
    harness.become_canonical(&branch);
    for (path, last) in [("/v1/events", Some("20:0")), ("/v1/events?last_event_id=20:0", None)] {
        let mut stream = Stream::open(&harness, path, last).await;
        let expected: Vec<String> = (21..=150).map(|height| format!("{height}:0")).collect();
        assert_eq!(stream.ids(130).await, expected);
        branch.extend(vec![]);
        harness.become_canonical(&branch);
        assert_eq!(stream.ids(1).await, [format!("{}:0", branch.height())]);
        branch = long(&world, 150);
        harness.become_canonical(&branch);
    }
    let mut stream = Stream::open(&harness, "/v1/events", Some("0:0")).await;
    assert_eq!(stream.ids(2).await, ["1:0", "2:0"]);
}

#[tokio::test]
async fn a_reorganisation_is_told_between_the_blocks() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let mut first = long(&world, 3);
    let mut second = first.clone();
    harness.become_canonical(&first);
    let mut stream = Stream::open(&harness, "/v1/events", None).await;
    first.extend(vec![]);
    first.extend(vec![]);
    harness.become_canonical(&first);
    assert_eq!(stream.ids(2).await, ["4:0", "5:0"]);
    second.skip(9);
    (0..3).for_each(|_| drop(second.extend(vec![])));
    harness.become_canonical(&second);
    let event = stream.next().await.unwrap();
    assert_eq!((event.name.as_str(), event.id.as_str()), ("reorg", "3:1"));
    let undone: Vec<String> = [4, 3].map(|place: usize| first.blocks[place].id.to_string()).to_vec();
    assert_eq!((event.data["height"].as_u64(), &event.data["undone"]), (Some(3), &Value::from(undone)));
    let mut parent = event.data["id"].clone();
    for height in 4..=6 {
        let event = stream.next().await.unwrap();
        assert_eq!((event.id, &event.data["parent"]), (format!("{height}:0"), &parent));
        parent = event.data["id"].clone();
    }
}

#[tokio::test]
async fn a_reader_that_was_away_during_a_reorganisation_can_be_told_of_it() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let first = long(&world, 4);
    let mut second = long(&world, 2);
    harness.become_canonical(&first);
    second.skip(9);
    second.extend(vec![]);
    harness.become_canonical(&second);

    let mut stream = Stream::open(&harness, &format!("/v1/events?after_block={}", first.tip), None).await;
    let event = stream.next().await.unwrap();
    assert_eq!((event.id.as_str(), event.data["undone"].as_array().unwrap().len()), ("2:1", 2));
    assert_eq!(stream.ids(1).await, ["3:0"]);
    // By height alone, one that lies above the new head is known to be gone.
    let mut stream = Stream::open(&harness, "/v1/events", Some("4:0")).await;
    let event = stream.next().await.unwrap();
    assert_eq!((event.name.as_str(), event.id.as_str()), ("reorg", "3:1"));
    let unknown = format!("/v1/events?after_block={}", "ab".repeat(32));
    assert_eq!(harness.get(&unknown).await.problem(), (404, "unknown_block".into()));
}

#[tokio::test]
async fn a_reader_that_comes_back_with_its_last_id_is_told_that_its_block_was_replaced() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let (first, mut second) = (long(&world, 4), long(&world, 2));
    harness.become_canonical(&first);
    let mut stream = Stream::open(&harness, "/v1/events", Some("3:0")).await;
    let seen = stream.next().await.unwrap();
    assert_eq!(seen.block, first.tip.to_string());
    let last = format!("{}:{}", seen.id, seen.block);
    second.skip(9);
    (0..4).for_each(|_| drop(second.extend(vec![])));
    harness.become_canonical(&second);

    // The new chain is longer, so that height 4 alone would tell nothing.
    let mut stream = Stream::open(&harness, "/v1/events", Some(&last)).await;
    let event = stream.next().await.unwrap();
    let undone: Vec<String> = [3, 2].map(|place: usize| first.blocks[place].id.to_string()).to_vec();
    assert_eq!((event.name.as_str(), event.id.as_str()), ("reorg", "2:1"));
    assert_eq!(event.data["undone"], Value::from(undone));
    assert_eq!(stream.ids(4).await, ["3:0", "4:0", "5:0", "6:0"]);
    // The event itself is a place to come back to.
    let mut stream = Stream::open(&harness, "/v1/events", Some(&format!("{}:{}", event.id, event.block))).await;
    assert_eq!(stream.ids(1).await, ["3:0"]);
    // A block that was never here may be of any branch.
    let mut stream = Stream::open(&harness, "/v1/events", Some(&format!("4:0:{}", "ab".repeat(32)))).await;
    assert_eq!(stream.ids(3).await, ["0:1", "1:0", "2:0"]);
}

#[tokio::test]
async fn streams_are_bounded_and_end_when_the_server_stops() {
    let world = Arc::new(World::new());
    let limits = Limits { event_streams_max: 1, ..Limits::default() };
    let harness = Harness::with_limits(&world, vec![nowhere(1)], limits);
    let mut stream = Stream::open(&harness, "/v1/events", None).await;
    assert_eq!(harness.get("/v1/events").await.problem(), (503, "overloaded".into()));
    harness.stop.send_replace(true);
    assert_eq!(stream.next().await, None);
    drop(stream);
    let mut stream = Stream::open(&harness, "/v1/events", None).await;
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_named_payment_is_told_at_every_change_of_its_status() {
    let world = Arc::new(World::new());
    let harness = Harness::new(&world, vec![nowhere(1)]);
    let (mut first, mut second) = (long(&world, 1), long(&world, 1));
    harness.become_canonical(&first);
    let (winner, loser) = (world.pay(0, 1, 0, 30), world.pay(0, 2, 0, 30));
    let (one, two) = (world.id_of(&winner), world.id_of(&loser));
    let mut stream = Stream::open(&harness, &format!("/v1/events?payments={one},{two}"), None).await;
    let mut told = async |count: usize| {
        let mut told = Vec::new();
        while told.len() < count {
            let event = stream.next().await.unwrap();
            if event.name == "payment" {
                let text = |name: &str| event.data[name].as_str().unwrap_or("-").to_owned();
                let who = if event.data["id"] == one.to_string() { "one" } else { "two" };
                told.push(format!("{who} {} {}", text("before"), text("status")));
            }
        }
        told.join(", ")
    };
    assert_eq!(told(2).await, "one - unknown, two - unknown");
    first.extend(vec![winner]);
    harness.become_canonical(&first);
    assert_eq!(told(1).await, "one unknown included");
    // Depth is no change.
    first.extend(vec![]);
    harness.become_canonical(&first);
    second.skip(9);
    (0..3).for_each(|_| drop(second.extend(vec![])));
    harness.become_canonical(&second);
    assert_eq!(told(1).await, "one included unknown", "no node promised it through this server");
    second.extend(vec![winner, loser]);
    harness.become_canonical(&second);
    assert_eq!(told(2).await, "one unknown included, two unknown accepted");
    harness.become_final(5);
    assert_eq!(told(2).await, "one included final, two accepted rejected");
    let many = vec![one.to_string(); 65].join(",");
    for bad in [many.as_str(), "abc", ","] {
        assert_eq!(harness.get(&format!("/v1/events?payments={bad}")).await.problem(), (400, "malformed".into()));
    }
}
