//! Server-sent events of the chain, and of payments that a reader names.
//!
//! Of each named payment its status is told when the stream begins and whenever it changes. A reader is told of what is so
//! when it is looked at: what was so for less than that between two looks is passed over, the last change never.
//! These events carry no id: who comes back names the payments again, and hears first how they stand.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use zeni_ledger::{BlockId, Genesis, TransactionId};

use super::blocks::block_json;
use super::query_of;
use crate::api::{Api, PaymentStatus};
use crate::chronicle::{Head, LastFinal};
use crate::events::{ChainEvent, Cursor, EventId, ResumeError};
use crate::problem::Problem;
use crate::status_json::status_json;

/// Payments that one stream tells of, at most.
const WATCHED_MAX: usize = 64;
/// A comment is sent after this much silence, so that proxies keep the stream open.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// For readers that cannot set the header of the same meaning.
    last_event_id: Option<String>,
    /// Begins behind this block; if it is no longer canonical, a `reorg` event comes first.
    after_block: Option<String>,
    /// Ids of payments, with commas between: a `payment` event tells each change of their statuses.
    payments: Option<String>,
}

/// A payment and what its reader was told last.
#[derive(Debug)]
struct Watched {
    id: TransactionId,
    told: Option<PaymentStatus>,
}

impl Watched {
    /// Takes in a look; the event that tells it, if it is news.
    fn news(&mut self, genesis: &Genesis, looked: PaymentStatus) -> Option<Value> {
        if self.told.is_some_and(|told| told.mark() == looked.mark()) {
            return None;
        }
        let mut document = status_json(genesis, &self.id, &looked);
        document["before"] = self.told.map(|told| told.name()).into();
        self.told = Some(looked);
        Some(document)
    }
}

/// GET /v1/events: from `Last-Event-ID` on without a gap, or from now on.
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    api.require_replayed()?;
    let query = query_of(query)?;
    let watched = watched(query.payments.as_deref().unwrap_or_default())?;
    let slot = Arc::clone(&api.event_streams).try_acquire_owned();
    let slot = slot.map_err(|_| Problem::overloaded("too many event streams are open", 5))?;
    let head = api.chronicle.watch();
    let (cursor, first) = begin(&api, &headers, query).await?;
    let stopping = api.stopping.clone();
    let (last_final, ready) = (api.chronicle.watch_final(), first.into_iter().collect());
    let news = VecDeque::new();
    let reader = Reader { api, cursor, ready, watched, news, head, last_final, told_final: 0, stopping, _slot: slot };
    let events = unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn watched(text: &str) -> Result<Vec<Watched>, Problem> {
    let bad = |detail: String| Problem::malformed(detail).with("field", "payments");
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.split(',').nth(WATCHED_MAX).is_some() {
        return Err(bad(format!("one stream tells of at most {WATCHED_MAX} payments")));
    }
    let ids = text.split(',').map(|id| {
        let id = TransactionId::from_hex(id);
        id.ok_or_else(|| bad("payments are ids of 64 hexadecimal digits, with commas between".into()))
    });
    ids.map(|id| Ok(Watched { id: id?, told: None })).collect()
}

async fn begin(api: &Api, headers: &HeaderMap, query: EventsQuery) -> Result<(Cursor, Option<ChainEvent>), Problem> {
    if let Some(text) = query.after_block {
        let bad =
            || Problem::malformed("after_block is a block's id of 64 hexadecimal digits").with("field", "after_block");
        let id = BlockId::from_hex(&text).ok_or_else(bad)?;
        let cursor = api.read(move |chronicle| match Cursor::behind_block(chronicle, id) {
            Ok(cursor) => Ok(Some(cursor)),
            Err(ResumeError::UnknownBlock(_)) => Ok(None),
            Err(ResumeError::Chronicle(error)) => Err(error),
        });
        let cursor = cursor.await?.ok_or_else(|| Problem::unknown_block(&text))?;
        return Ok((cursor, None));
    }
    let header = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default().to_owned());
    let Some(text) = header.or(query.last_event_id) else { return Ok((Cursor::at_head(&api.chronicle), None)) };
    let bad =
        || Problem::malformed("Last-Event-ID is height:index:block, as events carry it").with("field", "Last-Event-ID");
    let last = EventId::parse(&text).ok_or_else(bad)?;
    api.read(move |chronicle| Cursor::behind_event(chronicle, last)).await
}

struct Reader {
    api: Arc<Api>,
    cursor: Cursor,
    /// Events to send before the chain is looked at again.
    ready: VecDeque<ChainEvent>,
    watched: Vec<Watched>,
    /// Documents of payments, to send behind them.
    news: VecDeque<Value>,
    head: watch::Receiver<Head>,
    last_final: watch::Receiver<LastFinal>,
    /// The reader was told that everything up to this height is final.
    told_final: u64,
    stopping: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
}

impl Reader {
    /// The next event; `None` ends the stream (the server stops, or reading the chain failed), after which a reader
    /// comes back with its last id.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(sse(self.api.chronicle.genesis(), &event));
            }
            if let Some(document) = self.news.pop_front() {
                return Some(Event::default().event("payment").data(document.to_string()));
            }
            if *self.stopping.borrow() {
                return None;
            }
            self.head.mark_unchanged();
            let last_final = *self.last_final.borrow_and_update();
            let mut cursor = self.cursor;
            let looked = self.api.read(move |chronicle| cursor.advance(chronicle).map(|events| (cursor, events)));
            let (cursor, events) = looked.await.ok()?;
            self.cursor = cursor;
            self.ready = events.into();
            // Only of what it was told: what is final above that comes with the next look.
            if self.ready.is_empty() && self.told_final < last_final.height && last_final.height <= cursor.height {
                self.told_final = last_final.height;
                self.ready.push_back(ChainEvent::Final { last_final, told: cursor });
            }
            self.look_at_payments().await?;
            if self.ready.is_empty() && self.news.is_empty() {
                tokio::select! {
                    changed = self.head.changed() => changed.ok()?,
                    changed = self.last_final.changed() => changed.ok()?,
                    _ = self.stopping.changed() => return None,
                }
            }
        }
    }
}

impl Reader {
    /// Looks at the payments that may still change, by the chain alone. `None` if it cannot be read.
    async fn look_at_payments(&mut self) -> Option<()> {
        let changing = |one: &&mut Watched| !one.told.is_some_and(|told| told.is_terminal());
        let open: Vec<&mut Watched> = self.watched.iter_mut().filter(changing).collect();
        if open.is_empty() {
            return Some(());
        }
        let ids = open.iter().map(|one| one.id).collect();
        let looked = self.api.chain_statuses(ids).await.ok()?;
        let genesis = self.api.chronicle.genesis();
        let news = open.into_iter().zip(looked).filter_map(|(one, looked)| one.news(genesis, looked));
        self.news.extend(news);
        Some(())
    }
}

fn sse(genesis: &Genesis, event: &ChainEvent) -> Event {
    let (name, data) = match event {
        ChainEvent::Block(found) => ("block", block_json(genesis, found)),
        ChainEvent::Reorg { height, id, undone } => {
            let undone: Vec<String> = undone.iter().map(ToString::to_string).collect();
            ("reorg", json!({ "height": height, "id": id.to_string(), "undone": undone }))
        }
        ChainEvent::Final { last_final, .. } => {
            let LastFinal { decision, height, id, .. } = last_final;
            ("final", json!({ "height": height, "id": id.to_string(), "decision": decision }))
        }
    };
    Event::default().event(name).id(event.id().to_string()).data(data.to_string())
}
