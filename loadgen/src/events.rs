//! Hears the API server's event stream for as long as the storm lasts: which blocks it calls canonical and final.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderName;
use serde::Deserialize;
use zeni_ledger::{BlockId, FinalBlock};

use crate::finals::{self, SharedFinals};
use crate::http::Http;

/// Between losing the stream and asking for it again, from where it ended.
const PAUSE: Duration = Duration::from_millis(200);
const OPEN_DEADLINE: Duration = Duration::from_secs(2);
/// The server breaks its silence every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of one line of the stream, at most.
const LINE_BYTES_MAX: usize = 1 << 20;
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Hears the stream of the API server at `address`, again after every loss, for as long as it is polled. `source` is its
/// number in the record.
pub async fn listen(finals: SharedFinals, source: usize, http: Http, address: String) {
    let mut last_id: Option<String> = None;
    loop {
        let header = last_id.as_deref().map(|id| (LAST_EVENT_ID, id));
        let left = match http.open(&address, "/v1/events", header, OPEN_DEADLINE).await {
            Ok(body) => hear(&finals, source, body, &mut last_id).await,
            Err(error) => error.to_string(),
        };
        tracing::debug!("no event stream of the API server: {left}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Hears until the stream ends, and says why.
async fn hear(finals: &SharedFinals, source: usize, mut body: Incoming, last_id: &mut Option<String>) -> String {
    let mut parser = Parser::default();
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return error.to_string(),
            Ok(None) => return "it ended".into(),
            Err(_) => return format!("it was silent for {SILENCE:?}"),
        };
        let Ok(bytes) = frame.into_data() else { continue };
        for event in parser.take(&bytes) {
            if let Some(said) = Said::read(&event) {
                said.note(finals, source);
            }
            *last_id = event.id.or(last_id.take());
        }
        if parser.line.len() > LINE_BYTES_MAX {
            return format!("a line is longer than {LINE_BYTES_MAX} bytes");
        }
    }
}

/// An event as the stream carries it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct RawEvent {
    name: String,
    id: Option<String>,
    data: String,
}

/// Cuts a stream of server-sent events into events. Fields other than event, id and data are passed over.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    event: RawEvent,
}

impl Parser {
    /// The events that these bytes complete.
    fn take(&mut self, bytes: &[u8]) -> Vec<RawEvent> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end_matches('\r').to_owned();
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                events.extend((event != RawEvent::default()).then_some(event));
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event.name),
                "id" => self.event.id = Some(value.to_owned()),
                "data" => self.event.data.push_str(value),
                _ => {}
            }
        }
        events
    }
}

/// What the record wants of an event.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Head(BlockId),
    Back { height: u64 },
    Final(FinalBlock),
}

#[derive(Deserialize)]
struct Named {
    height: u64,
    id: String,
}

impl Said {
    fn read(event: &RawEvent) -> Option<Self> {
        let read = || {
            let named: Named = serde_json::from_str(&event.data).ok()?;
            Some((named.height, BlockId::from_hex(&named.id)?))
        };
        match event.name.as_str() {
            "block" => read().map(|(_, id)| Self::Head(id)),
            "reorg" => read().map(|(height, _)| Self::Back { height }),
            "final" => read().map(|(height, id)| Self::Final(FinalBlock { id, height })),
            _ => None,
        }
    }

    fn note(self, finals: &SharedFinals, source: usize) {
        finals::with(finals, |finals| match self {
            Self::Head(id) => finals.on_head(source, id),
            Self::Back { height } => finals.on_reorganisation(source, height),
            Self::Final(block) => finals.on_claim(source, block),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finals::Finals;
    use crate::prepare::{Parameters, prepare};
    use std::sync::{Arc, Mutex};

    #[test]
    fn events_are_cut_wherever_the_bytes_are() {
        let id = "ab".repeat(32);
        let stream = format!(
            ": keep\n\nevent: block\nid: 3:0:{id}\ndata: {{\"height\":3,\"id\":\"{id}\",\"rank\":0}}\n\n\
             event: final\r\nid: 3:2:{id}\r\ndata: {{\"height\":2,\"id\":\"{id}\",\"decision\":1}}\r\n\r\n\
             event: reorg\ndata: {{\"height\":1,\"id\":\"{id}\",\"undone\":[]}}\n\nevent: block\ndata: {{"
        );
        let block = BlockId([0xab; 32]);
        let expected = [Said::Head(block), Said::Final(FinalBlock { id: block, height: 2 }), Said::Back { height: 1 }];
        for size in [1, 7, stream.len()] {
            let mut parser = Parser::default();
            let events: Vec<RawEvent> = stream.as_bytes().chunks(size).flat_map(|bytes| parser.take(bytes)).collect();
            assert_eq!(events.iter().filter_map(Said::read).collect::<Vec<_>>(), expected, "in pieces of {size}");
            assert_eq!(events[1].id, Some(format!("3:2:{id}")));
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_is_asked_for_again_from_its_last_event() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let root = tempfile::tempdir().unwrap();
        let prepared = prepare(root.path(), &Parameters::small(1), 1_760_000_000_000).unwrap();
        let sources = vec!["api-server".to_owned()];
        let finals = Arc::new(Mutex::new(Finals::new(&prepared.genesis, sources)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let genesis = prepared.genesis.block_id();
        let hearing = tokio::spawn(listen(Arc::clone(&finals), 0, Http::default(), address));
        for (number, expected) in ["", "last-event-id: 0:2:first"].into_iter().enumerate() {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            assert!(head.contains("GET /v1/events") && head.contains(expected), "request {number}: {head}");
            let told = format!("event: final\nid: 0:2:first\ndata: {{\"height\":0,\"id\":\"{genesis}\"}}\n\n");
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{told}");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        hearing.abort();
        assert_eq!(finals::with(&finals, |finals| finals.judge().finals), 1);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for (name, data) in [("block", "{}"), ("final", "{\"height\":1,\"id\":\"ab\"}"), ("other", "")] {
            assert_eq!(Said::read(&RawEvent { name: name.into(), id: None, data: data.into() }), None);
        }
    }
}
