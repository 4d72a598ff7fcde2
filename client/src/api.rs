//! HTTP to an API server, for wallets.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use zeni_ledger::finality_receipt::FINALITY_RECEIPT_BYTES_MAX;
use zeni_ledger::{AccountId, Payment, TransactionId};

/// Bytes of an answer, at most.
const ANSWER_BYTES_MAX: usize = 4 << 20;
const _: () = assert!(FINALITY_RECEIPT_BYTES_MAX <= ANSWER_BYTES_MAX, "every proof can be fetched");
const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";
/// Tries of a submission whose answer was lost. The payment's id makes repeating it safe.
const SUBMIT_TRIES_MAX: u32 = 3;

/// Between two tries, at most, whatever the server asks for.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Codes of problems with the bytes themselves.
const BYTES_AT_FAULT: &[&str] = &[
    "malformed",
    "wrong_length",
    "too_large",
    "unsupported_media_type",
    "wrong_network",
    "unknown_token",
    "zero_amount",
    "to_self",
    "unknown_flags",
    "bad_signature",
];

/// Why the API server gave no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{url} is not the address of an API server: {reason}; use http://host:port")]
    BadUrl { url: String, reason: String },
    #[error("{url} cannot be reached: {reason}; is the API server running, and is this its address?")]
    Unreachable { url: String, reason: String },
    #[error("{url} did not answer within {after:?}")]
    Timeout { url: String, after: Duration },
    /// The server's own words (RFC 9457).
    #[error("{detail} ({code})")]
    Problem { status: u16, code: String, detail: String, retry_after_s: Option<u64> },
    #[error("an earlier try got no answer and may have been taken; then: {refusal}")]
    Doubtful { refusal: Box<ApiError> },
    #[error("{url} answered {status} with something else than expected: {reason}")]
    Unexpected { url: String, status: u16, reason: String },
}

impl ApiError {
    /// The stable code of a problem.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the request may have been carried out though its answer is missing.
    pub fn is_unclear(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Doubtful { .. } => true,
            // The only two that the server gives because nothing was taken.
            Self::Problem { status, code, .. } => {
                *status >= 500 && !matches!(code.as_str(), "overloaded" | "disk_full")
            }
            // Something between here and the server spoke, or the answer was damaged.
            Self::Unexpected { status, .. } => *status == 408 || !(400..500).contains(status),
            Self::BadUrl { .. } => false,
        }
    }

    /// Whether what was sent is at fault, so that no try of it can have been taken.
    fn is_of_the_bytes(&self) -> bool {
        self.code().is_some_and(|code| BYTES_AT_FAULT.contains(&code))
    }

    /// When the server would be asked again, in seconds.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Problem { retry_after_s, .. } => *retry_after_s,
            _ => None,
        }
    }

    /// How long to wait before the next try.
    fn pause(&self) -> Duration {
        match self {
            Self::Problem { retry_after_s: Some(seconds), .. } => Duration::from_secs(*seconds).min(PAUSE_MAX),
            _ => Duration::ZERO,
        }
    }
}

/// The ledger that a server follows.
#[derive(Debug, Clone, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub genesis: String,
    pub network: u32,
    pub validity_max_s: u32,
    pub tokens: Vec<Token>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Token {
    pub id: u32,
    pub symbol: String,
    pub decimals: u8,
}

/// An account as the server's head has it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct AccountAnswer {
    pub account: String,
    pub balances: Vec<BalanceAnswer>,
    /// Decimal.
    pub next_sequence: String,
    pub height: u64,
    pub state_root: String,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct BalanceAnswer {
    pub token: u32,
    /// Decimal, in minor units.
    pub balance: String,
}

/// A payment's status. Fields that a status has not are absent.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct StatusAnswer {
    pub id: String,
    pub status: String,
    #[serde(flatten)]
    pub details: serde_json::Map<String, Value>,
}

/// Payments that a block executed, a page of them.
#[derive(Debug, Clone, Deserialize)]
pub struct BlockPayments {
    pub height: u64,
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Of the whole block.
    pub receipts: u32,
    pub payments: Vec<BlockPayment>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct BlockPayment {
    /// 64 hexadecimal digits.
    pub id: String,
}

/// Speaks to one API server.
#[derive(Debug, Clone)]
pub struct ApiClient {
    base: String,
    http: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

impl ApiClient {
    /// A client of the server at `url` (`http://host:port`), giving each request so long.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, ApiError> {
        let bad = |reason: &str| ApiError::BadUrl { url: url.into(), reason: reason.into() };
        let base = url.trim_end_matches('/');
        let uri: Uri = base.parse().map_err(|error: hyper::http::uri::InvalidUri| bad(&error.to_string()))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("only plain http is spoken here; put a proxy before it for anything else"));
        }
        if uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
            return Err(bad("it names no host, or a query"));
        }
        Ok(Self { base: base.into(), http: Client::builder(TokioExecutor::new()).build_http(), timeout })
    }

    pub async fn network(&self) -> Result<Network, ApiError> {
        self.get("/v1/network").await
    }

    pub async fn account(&self, id: &AccountId) -> Result<AccountAnswer, ApiError> {
        self.get(&format!("/v1/accounts/{id}")).await
    }

    pub async fn status(&self, id: &TransactionId) -> Result<StatusAnswer, ApiError> {
        self.get(&format!("/v1/payments/{id}")).await
    }

    /// The bytes of a payment's finality receipt, unchecked.
    pub async fn payment_proof(&self, id: &TransactionId) -> Result<Bytes, ApiError> {
        self.file(&format!("/v1/payments/{id}/proof")).await
    }

    /// The bytes of an account's finality receipt, unchecked.
    pub async fn account_proof(&self, id: &AccountId) -> Result<Bytes, ApiError> {
        self.file(&format!("/v1/accounts/{id}/proof")).await
    }

    /// Payments that the block at `height` executed, from the one numbered `from` on.
    pub async fn block_payments(&self, height: u64, from: u32) -> Result<BlockPayments, ApiError> {
        self.get(&format!("/v1/blocks/{height}/payments?from={from}")).await
    }

    /// Submits a payment; if the answer is lost on the way, the same bytes again. A refusal behind a lost answer is
    /// [`ApiError::Doubtful`]: paying anew could pay twice.
    pub async fn submit(&self, payment: &Payment) -> Result<StatusAnswer, ApiError> {
        let body = json!({ "payment": hex::encode(payment.as_bytes()) }).to_string();
        let mut tries = 1;
        loop {
            let answer = self.send(Method::POST, "/v1/payments", Bytes::from(body.clone())).await;
            match answer {
                Err(error) if error.is_unclear() && tries < SUBMIT_TRIES_MAX => {
                    tries += 1;
                    sleep(error.pause()).await;
                }
                Err(refusal) if tries > 1 && !refusal.is_unclear() && !refusal.is_of_the_bytes() => {
                    return Err(ApiError::Doubtful { refusal: Box::new(refusal) });
                }
                answer => return answer,
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    async fn file(&self, path: &str) -> Result<Bytes, ApiError> {
        let (_, _, body) = self.request(Method::GET, path, OCTETS, Bytes::new()).await?;
        Ok(body)
    }

    async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ApiError> {
        let (url, status, body) = self.request(method, path, JSON, body).await?;
        serde_json::from_slice(&body).map_err(|error| {
            let reason = error.to_string();
            ApiError::Unexpected { url, status: status.as_u16(), reason }
        })
    }

    /// The body of a successful answer, with the address and the status.
    async fn request(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: Bytes,
    ) -> Result<(String, StatusCode, Bytes), ApiError> {
        let url = format!("{}{path}", self.base);
        let bad = |reason: String| ApiError::BadUrl { url: url.clone(), reason };
        let request = Request::builder().method(method).uri(&url).header(ACCEPT, accept);
        let request = request.header(CONTENT_TYPE, JSON).body(Full::new(body));
        let request = request.map_err(|error| bad(error.to_string()))?;
        match timeout(self.timeout, self.exchange(&url, request)).await {
            Ok(answer) => answer.map(|(status, body)| (url, status, body)),
            Err(_) => Err(ApiError::Timeout { url, after: self.timeout }),
        }
    }

    async fn exchange(&self, url: &str, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ApiError> {
        let unreachable = |reason: String| ApiError::Unreachable { url: url.into(), reason };
        let answer = self.http.request(request).await.map_err(|error| unreachable(innermost(&error)))?;
        let status = answer.status();
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
        let unexpected = |reason: String| ApiError::Unexpected { url: url.into(), status: status.as_u16(), reason };
        if status.is_success() {
            return Ok((status, body));
        }
        Err(problem(status, retry_after, &body).unwrap_or_else(|| unexpected("no problem document".into())))
    }
}

fn problem(status: StatusCode, retry_after_s: Option<u64>, body: &[u8]) -> Option<ApiError> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| document.get(name).and_then(Value::as_str).map(String::from);
    Some(ApiError::Problem { status: status.as_u16(), code: text("code")?, detail: text("detail")?, retry_after_s })
}

/// The cause at the bottom: hyper's own words say only that something failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_with_its_reason() {
        for url in ["", "localhost:80", "https://localhost", "http://", "ftp://x", "http://a/?b"] {
            let refused = ApiClient::new(url, Duration::from_secs(1));
            assert!(matches!(refused, Err(ApiError::BadUrl { .. })), "{url}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_to_be_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = ApiClient::new(&url, Duration::from_secs(5)).unwrap();
        let error = client.network().await.unwrap_err();
        assert!(matches!(error, ApiError::Unreachable { .. }) && error.is_unclear(), "{error}");
    }

    /// A server that takes one request on each connection and answers by the list; `None` drops the request.
    async fn scripted(answers: Vec<Option<(u16, &'static str)>>) -> ApiClient {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                // The body is JSON in one object, and ends the request.
                while !request.ends_with(b"}") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                let Some((status, code)) = answer else { continue };
                let body = json!({ "code": code, "detail": code }).to_string();
                let head =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        ApiClient::new(&url, Duration::from_secs(20)).unwrap()
    }

    async fn refusal(answers: Vec<Option<(u16, &'static str)>>) -> ApiError {
        let payment = Payment::from_bytes([0; zeni_ledger::payment::PAYMENT_BYTES]);
        scripted(answers).await.submit(&payment).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_refusal_behind_a_try_that_may_have_been_taken_is_in_doubt() {
        for first in
            [None, Some((504, "timeout")), Some((503, "no_node")), Some((503, "unclear")), Some((500, "internal"))]
        {
            for code in ["sequence_used", "sequence_pending", "overloaded"] {
                let status = if code == "overloaded" { 503 } else { 409 };
                let error = refusal(vec![first, Some((status, code))]).await;
                assert!(matches!(error, ApiError::Doubtful { .. }) && error.is_unclear(), "{first:?}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_of_the_first_try_or_of_the_bytes_is_clear() {
        for answers in [
            vec![Some((409, "sequence_used"))],
            vec![Some((503, "overloaded"))],
            vec![None, Some((422, "bad_signature"))],
        ] {
            let error = refusal(answers).await;
            assert!(matches!(error, ApiError::Problem { .. }) && !error.is_unclear(), "{error}");
        }
    }

    #[test]
    fn a_problem_document_keeps_its_code() {
        let body = json!({ "code": "zero_amount", "detail": "the amount is zero" }).to_string();
        let error = problem(StatusCode::UNPROCESSABLE_ENTITY, None, body.as_bytes()).unwrap();
        assert_eq!((error.code(), error.is_unclear()), (Some("zero_amount"), false));
        assert!(problem(StatusCode::BAD_GATEWAY, None, b"<html>").is_none());
    }
}
