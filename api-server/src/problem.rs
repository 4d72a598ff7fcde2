//! Errors as RFC 9457 problem details, each with a code that stays the same between versions.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use zeni_consensus::Refusal;

use crate::chronicle::SequenceUse;

/// Why a request got no other answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable; clients branch on it.
    pub code: &'static str,
    pub title: &'static str,
    /// For people: what happened and what to do.
    pub detail: String,
    /// When the same request may succeed, in seconds.
    pub retry_after_s: Option<u32>,
    /// Members besides those of RFC 9457.
    pub members: Map<String, Value>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, title, detail: detail.into(), retry_after_s: None, members: Map::new() }
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.into(), value.into());
        self
    }

    /// Bytes or fields that are not what the route takes.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request is malformed", detail)
    }

    /// A length that no such value has.
    pub fn wrong_length(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "wrong_length", "The length is wrong", detail)
    }

    /// A body or a list above its limit.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is too large", detail)
    }

    pub fn unsupported_media_type(expected: &str) -> Self {
        let detail = format!("send the body as {expected} and say so in Content-Type");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Another media type is needed", detail)
    }

    pub fn not_found(path: &str) -> Self {
        let detail = format!("nothing is served at {path}; GET /v1/openapi.json lists what is");
        Self::new(StatusCode::NOT_FOUND, "not_found", "No such resource", detail)
    }

    pub fn method_not_allowed() -> Self {
        let detail = "the resource exists, but not with this method; GET /v1/openapi.json lists the methods";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "The method is not allowed", detail)
    }

    pub fn unknown_payment(id: &zeni_ledger::TransactionId) -> Self {
        let detail = "neither the chain nor the nodes know it; send the same signed bytes again if it was yours";
        Self::new(StatusCode::NOT_FOUND, "unknown_payment", "The payment is not known", detail)
            .with("id", id.to_string())
            .with("payment_status", "unknown")
    }

    /// There is nothing to prove: the payment's validity is over and no block executed it.
    pub fn not_executed(id: &zeni_ledger::TransactionId) -> Self {
        let detail = "no block executed the payment and its validity is over, so there is nothing to prove";
        Self::new(StatusCode::NOT_FOUND, "not_executed", "The payment was not executed", detail)
            .with("id", id.to_string())
    }

    /// The payment is known, and its block can still be taken back.
    pub fn not_final_yet(retry_after_s: u32, included: bool) -> Self {
        let detail = match included {
            true => "the payment is included and its block is not final yet; a proof exists once it is",
            false => "the payment is accepted and in no block yet; a proof exists once its block is final",
        };
        Self::new(StatusCode::CONFLICT, "not_final_yet", "Not final yet", detail).retry_after(retry_after_s)
    }

    /// No decision was made in this ledger yet.
    pub fn no_final_block(retry_after_s: u32) -> Self {
        let detail = "no block of this ledger is final yet, so there is no height to prove an account at";
        Self::new(StatusCode::CONFLICT, "no_final_block", "No final block yet", detail).retry_after(retry_after_s)
    }

    /// The state stands so far above the last final block that it cannot be told as it was there.
    pub fn state_apart(head: u64, last_final: u64, retry_after_s: u32) -> Self {
        let detail = "the state is too many payments above the last final block; accounts can be proved again once \
                      finality has caught up";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "state_apart", "Finality is behind", detail)
            .retry_after(retry_after_s)
            .with("height", head)
            .with("final_height", last_final)
    }

    /// Too many blocks lie between a payment's and the next certified one.
    pub fn proof_too_long(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "proof_too_long", "The proof would be too long", detail)
    }

    pub fn unknown_account(id: &zeni_ledger::AccountId) -> Self {
        let detail = format!("the ledger holds no account {id}; a payment does not open one");
        Self::new(StatusCode::NOT_FOUND, "unknown_account", "The account does not exist", detail)
    }

    pub fn unknown_block(name: &str) -> Self {
        let detail = format!("the chain holds no block {name}");
        Self::new(StatusCode::NOT_FOUND, "unknown_block", "The block does not exist", detail)
    }

    pub fn unknown_evidence(name: &str) -> Self {
        let detail = format!("no evidence {name} is kept here; GET /v1/evidence lists what is");
        Self::new(StatusCode::NOT_FOUND, "unknown_evidence", "The evidence does not exist", detail)
    }

    /// This server is at one of its own limits.
    pub fn overloaded(detail: impl Into<String>, retry_after_s: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "At the limit", detail).retry_after(retry_after_s)
    }

    /// No node took the request in time. What was sent may still be taken: send the same bytes again.
    pub fn no_node(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_node", "No node answered", detail).retry_after(1)
    }

    /// Whether the payment was or will be executed cannot be said yet.
    pub fn unclear() -> Self {
        let detail = "whether the payment was taken is not clear yet; send the same signed bytes again, which is always \
                      safe, or ask for its status";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unclear", "Not clear yet", detail).retry_after(1)
    }

    pub fn timeout() -> Self {
        let detail = "the answer took too long; a payment may have been taken: send the same signed bytes again, \
                      or ask for its status";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "The time is over", detail).retry_after(1)
    }

    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "Not ready to serve", reason).retry_after(1)
    }

    /// We fail; the log says why.
    pub fn internal() -> Self {
        let detail = "the server failed; its log tells why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    /// A payment that was not taken.
    pub fn refused(refusal: &Refusal) -> Self {
        let problem =
            Self::new(refusal_status(refusal), refusal.code(), "The payment was refused", refusal.to_string());
        match refusal {
            Refusal::Overloaded { retry_after_ms } => problem.retry_after(retry_after_ms.div_ceil(1_000).max(1)),
            Refusal::PendingLimit { limit } => problem.retry_after(15).with("limit", *limit),
            Refusal::DiskFull => problem.retry_after(60),
            Refusal::WrongNetwork { found, expected } => problem.with("found", *found).with("expected", *expected),
            Refusal::ValidUntilTooFar { validity_max_s } => problem.with("validity_max_s", *validity_max_s),
            Refusal::SequencePending { by } => problem.with("by", by.to_string()),
            Refusal::UnknownFlags { flags } => problem.with("flags", *flags),
            _ => problem,
        }
    }

    /// A payment that was not taken because another one, if it is known which, used its sequence.
    pub fn sequence_used(used: Option<&SequenceUse>) -> Self {
        let problem = Self::refused(&Refusal::SequenceUsed);
        match used {
            None => problem,
            Some(used) => problem
                .with("used_by", used.by.to_string())
                .with("used_by_height", used.height)
                .with("used_by_final", used.is_final),
        }
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Value {
        let mut body = json!({
            "type": format!("urn:zeni:problem:{}", self.code),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if let Some(fields) = body.as_object_mut() {
            fields.extend(self.members.clone());
        }
        body
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.to_json().to_string()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(ProblemCode(self.code));
        response
    }
}

/// Rides along with a problem's response, so that metrics can count it by code.
#[derive(Debug, Clone, Copy)]
pub struct ProblemCode(pub &'static str);

/// What HTTP says of a refusal: 409 where another payment is in the way, 429 where the payer must slow down, 503 where
/// the service must catch up, 422 where the payment itself can never be taken.
pub const fn refusal_status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::SequenceUsed | Refusal::SequenceOutOfWindow | Refusal::SequencePending { .. } => StatusCode::CONFLICT,
        Refusal::PendingLimit { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Overloaded { .. } | Refusal::DiskFull => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::WrongNetwork { .. }
        | Refusal::Expired
        | Refusal::ValidUntilTooFar { .. }
        | Refusal::UnknownToken
        | Refusal::UnknownAccount
        | Refusal::UnknownReceiver
        | Refusal::ZeroAmount
        | Refusal::ToSelf
        | Refusal::UnknownFlags { .. }
        | Refusal::BadSignature => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// The number of a refusal in binary bulk answers. Numbers are never given to another refusal.
pub const fn refusal_number(refusal: &Refusal) -> u16 {
    match refusal {
        Refusal::WrongNetwork { .. } => 1,
        Refusal::Expired => 2,
        Refusal::ValidUntilTooFar { .. } => 3,
        Refusal::SequenceUsed => 4,
        Refusal::SequenceOutOfWindow => 5,
        Refusal::SequencePending { .. } => 6,
        Refusal::UnknownToken => 7,
        Refusal::UnknownAccount => 8,
        Refusal::UnknownReceiver => 9,
        Refusal::ZeroAmount => 10,
        Refusal::ToSelf => 11,
        Refusal::UnknownFlags { .. } => 12,
        Refusal::BadSignature => 13,
        Refusal::PendingLimit { .. } => 14,
        Refusal::Overloaded { .. } => 15,
        Refusal::DiskFull => 16,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use zeni_ledger::TransactionId;

    use super::*;

    fn refusals() -> Vec<(Refusal, u16, &'static str)> {
        vec![
            (Refusal::WrongNetwork { found: 1, expected: 2 }, 422, "wrong_network"),
            (Refusal::Expired, 422, "expired"),
            (Refusal::ValidUntilTooFar { validity_max_s: 7_200 }, 422, "valid_until_too_far"),
            (Refusal::SequenceUsed, 409, "sequence_used"),
            (Refusal::SequenceOutOfWindow, 409, "sequence_out_of_window"),
            (Refusal::SequencePending { by: TransactionId([7; 32]) }, 409, "sequence_pending"),
            (Refusal::UnknownToken, 422, "unknown_token"),
            (Refusal::UnknownAccount, 422, "unknown_account"),
            (Refusal::UnknownReceiver, 422, "unknown_receiver"),
            (Refusal::ZeroAmount, 422, "zero_amount"),
            (Refusal::ToSelf, 422, "to_self"),
            (Refusal::UnknownFlags { flags: 8 }, 422, "unknown_flags"),
            (Refusal::BadSignature, 422, "bad_signature"),
            (Refusal::PendingLimit { limit: 128 }, 429, "pending_limit"),
            (Refusal::Overloaded { retry_after_ms: 1_200 }, 503, "overloaded"),
            (Refusal::DiskFull, 503, "disk_full"),
        ]
    }

    #[test]
    fn every_refusal_has_its_own_code_status_and_number() {
        let mut numbers = BTreeSet::new();
        for (refusal, status, code) in refusals() {
            let problem = Problem::refused(&refusal);
            assert_eq!((problem.status.as_u16(), problem.code), (status, code));
            assert_eq!(problem.to_json()["type"], format!("urn:zeni:problem:{code}"));
            assert_eq!(problem.to_json()["status"], status);
            assert!(numbers.insert(refusal_number(&refusal)), "{code} shares its number");
        }
        assert_eq!(numbers, (1..=16).collect());
    }

    #[test]
    fn transient_service_refusals_say_when_to_come_back() {
        let header = |refusal| Problem::refused(&refusal).into_response().headers().get(RETRY_AFTER).cloned();
        assert_eq!(header(Refusal::Overloaded { retry_after_ms: 1_200 }).unwrap(), "2");
        assert!(header(Refusal::DiskFull).is_some() && header(Refusal::PendingLimit { limit: 1 }).is_some());
        assert_eq!(header(Refusal::ZeroAmount), None);
    }

    #[test]
    fn the_answer_is_a_problem_document() {
        let response = Problem::malformed("no").into_response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }
}
