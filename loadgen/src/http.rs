//! HTTP as far as a load generator needs it: the API server's bulk submission, and reading a page.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use crate::delivery::{Answer, Failure};

/// Bytes of one answer, at most.
const BODY_BYTES_MAX: usize = 4 << 20;
const BINARY: &str = "application/octet-stream";
/// Bytes that the compact answer spends on a payment: verdict u8, copies u8, refusal code u16.
const COMPACT_BYTES: usize = 4;

/// A client that keeps connections open. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A page that was read.
#[derive(Debug, Clone)]
pub struct Page {
    pub status: StatusCode,
    pub content_type: String,
    /// Milliseconds after which the server wants to be asked again.
    pub retry_after_ms: Option<u64>,
    pub body: Bytes,
}

/// Why a page was not read.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Broken(String),
}

#[derive(Deserialize)]
struct BulkAnswer {
    results: Vec<BulkResult>,
}

#[derive(Deserialize)]
struct BulkResult {
    verdict: String,
    code: Option<String>,
}

impl Default for Http {
    fn default() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build(HttpConnector::new()) }
    }
}

impl Http {
    /// Reads the page at `http://address/path`.
    pub async fn get(&self, address: &str, path: &str, deadline: Duration) -> Result<Page, HttpError> {
        let request = Request::builder().method(Method::GET).uri(format!("http://{address}{path}"));
        self.exchange(request.body(Full::default()), deadline).await
    }

    /// Opens the page at `http://address/path`, whose body is to be read as it comes. Any status but success is an error.
    pub async fn open(
        &self,
        address: &str,
        path: &str,
        header: Option<(HeaderName, &str)>,
        deadline: Duration,
    ) -> Result<Incoming, HttpError> {
        let mut request = Request::builder().method(Method::GET).uri(format!("http://{address}{path}"));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Full::default()).map_err(|error| HttpError::Broken(error.to_string()))?;
        match tokio::time::timeout(deadline, self.client.request(request)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(response.into_body()),
            Ok(Ok(response)) => Err(HttpError::Broken(format!("the answer is {}", response.status()))),
            Ok(Err(error)) => Err(HttpError::Broken(error.to_string())),
            Err(_) => Err(HttpError::Timeout(deadline)),
        }
    }

    /// Submits concatenated payments through the API server's bulk call.
    pub async fn submit(&self, address: &str, payments: Bytes, deadline: Duration) -> Result<Vec<Answer>, Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}/v1/payments/bulk"))
            .header(CONTENT_TYPE, BINARY)
            .header(ACCEPT, BINARY);
        let page = self.exchange(request.body(Full::new(payments)), deadline).await.map_err(|error| match error {
            HttpError::Timeout(_) => Failure::Timeout,
            HttpError::Broken(what) => Failure::Disconnected(what),
        })?;
        bulk_answers(&page)
    }

    async fn exchange(
        &self,
        request: hyper::http::Result<Request<Full<Bytes>>>,
        deadline: Duration,
    ) -> Result<Page, HttpError> {
        let broken = |error: String| HttpError::Broken(error);
        let request = request.map_err(|error| broken(error.to_string()))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| broken(error.to_string()))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
            let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
            let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
            let content_type = text(CONTENT_TYPE).unwrap_or_default().to_owned();
            let retry_after_ms = text(RETRY_AFTER).and_then(|value| value.parse::<u64>().ok()).map(|s| s * 1_000);
            Ok(Page { status: head.status, content_type, retry_after_ms, body })
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(page) => page,
            Err(_) => Err(HttpError::Timeout(deadline)),
        }
    }
}

/// Reads the answer to a bulk submission.
fn bulk_answers(page: &Page) -> Result<Vec<Answer>, Failure> {
    let said = || String::from_utf8_lossy(&page.body[..page.body.len().min(300)]).into_owned();
    match page.status {
        status if status.is_success() => {}
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE if problem_code(page) == "overloaded" => {
            return Err(Failure::Overloaded { after_ms: page.retry_after_ms.unwrap_or(0) });
        }
        // The server gave up waiting for its nodes, or on itself: the payments may have been taken.
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => return Err(Failure::Disconnected(said())),
        status if status.is_server_error() => return Err(Failure::Disconnected(said())),
        status => return Err(Failure::Fatal(format!("the API server answers {status}: {}", said()))),
    }
    if page.content_type.starts_with(BINARY) {
        return compact_answers(&page.body);
    }
    let answer: BulkAnswer = serde_json::from_slice(&page.body)
        .map_err(|error| Failure::Fatal(format!("the API server answers nonsense: {error}")))?;
    answer.results.iter().map(json_answer).collect()
}

/// The stable code of a problem document (RFC 9457); empty if the page is none.
fn problem_code(page: &Page) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(&page.body).ok();
    document.and_then(|document| Some(document.get("code")?.as_str()?.to_owned())).unwrap_or_default()
}

fn json_answer(result: &BulkResult) -> Result<Answer, Failure> {
    let code = result.code.as_deref().unwrap_or_default();
    match (result.verdict.as_str(), CODES.iter().find(|(_, known)| *known == code)) {
        ("accepted" | "known", _) => Ok(Answer::Accepted),
        ("refused", Some((_, code))) => Ok(refusal(code)),
        (verdict, _) => Err(Failure::Fatal(format!("the API server answers {verdict:?} with the code {code:?}"))),
    }
}

fn compact_answers(body: &[u8]) -> Result<Vec<Answer>, Failure> {
    let (records, rest) = body.as_chunks::<COMPACT_BYTES>();
    if !rest.is_empty() {
        return Err(Failure::Fatal(format!("the API server answers with {} bytes, no multiple of 4", body.len())));
    }
    let read = |record: &[u8; COMPACT_BYTES]| match record[0] {
        0 | 1 => Ok(Answer::Accepted),
        2 => {
            let number = u16::from_le_bytes([record[2], record[3]]);
            let known = CODES.iter().find(|(known, _)| *known == number);
            known.map(|(_, code)| refusal(code)).ok_or_else(|| Failure::Fatal(format!("unknown refusal {number}")))
        }
        other => Err(Failure::Fatal(format!("the API server answers with the unknown verdict {other}"))),
    };
    records.iter().map(read).collect()
}

/// The numbers and stable codes of refusals in the API server's compact answer.
const CODES: [(u16, &str); 16] = [
    (1, "wrong_network"),
    (2, "expired"),
    (3, "valid_until_too_far"),
    (4, "sequence_used"),
    (5, "sequence_out_of_window"),
    (6, "sequence_pending"),
    (7, "unknown_token"),
    (8, "unknown_account"),
    (9, "unknown_receiver"),
    (10, "zero_amount"),
    (11, "to_self"),
    (12, "unknown_flags"),
    (13, "bad_signature"),
    (14, "pending_limit"),
    (15, "overloaded"),
    (16, "disk_full"),
];

fn refusal(code: &'static str) -> Answer {
    match code {
        // The API server resends on its own, so its first answer may come after an attempt of unknown fate.
        "sequence_used" => Answer::Accepted,
        "sequence_out_of_window" | "pending_limit" | "overloaded" | "disk_full" => Answer::Later { after_ms: 0, code },
        code => Answer::Refused { code },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(status: u16, content_type: &str, body: &[u8]) -> Page {
        Page {
            status: StatusCode::from_u16(status).unwrap(),
            content_type: content_type.into(),
            retry_after_ms: None,
            body: Bytes::copy_from_slice(body),
        }
    }

    #[test]
    fn reads_the_compact_answer() {
        let body = [0, 2, 0, 0, 1, 1, 0, 0, 2, 0, 4, 0, 2, 0, 15, 0, 2, 0, 13, 0];
        let answers = bulk_answers(&page(200, BINARY, &body)).unwrap();
        let expected = [
            Answer::Accepted,
            Answer::Accepted,
            Answer::Accepted,
            Answer::Later { after_ms: 0, code: "overloaded" },
            Answer::Refused { code: "bad_signature" },
        ];
        assert_eq!(answers, expected);
    }

    #[test]
    fn reads_the_json_answer() {
        let body = br#"{"accepted":1,"results":[{"id":"00","verdict":"accepted","copies":2},
            {"id":"01","verdict":"refused","code":"expired"}]}"#;
        let answers = bulk_answers(&page(200, "application/json", body)).unwrap();
        assert_eq!(answers, [Answer::Accepted, Answer::Refused { code: "expired" }]);
    }

    #[test]
    fn nonsense_is_an_error_and_no_answer() {
        for body in [&[0u8, 0, 0][..], &[9, 0, 0, 0], &[2, 0, 99, 0]] {
            assert!(matches!(bulk_answers(&page(200, BINARY, body)), Err(Failure::Fatal(_))), "{body:?}");
        }
        let unknown = br#"{"results":[{"verdict":"refused","code":"of course"}]}"#;
        assert!(matches!(bulk_answers(&page(200, "application/json", unknown)), Err(Failure::Fatal(_))));
    }

    #[test]
    fn statuses_tell_whether_to_ask_again() {
        let problem = |code: &str| Page {
            retry_after_ms: Some(2_000),
            ..page(503, "application/problem+json", format!("{{\"code\":\"{code}\"}}").as_bytes())
        };
        assert_eq!(bulk_answers(&problem("overloaded")), Err(Failure::Overloaded { after_ms: 2_000 }));
        assert!(matches!(bulk_answers(&problem("no_node")), Err(Failure::Disconnected(_))));
        assert!(matches!(bulk_answers(&page(504, "", b"")), Err(Failure::Disconnected(_))));
        assert!(matches!(bulk_answers(&page(400, "", b"")), Err(Failure::Fatal(_))));
    }
}
