//! Submitting payments, and how certain each is.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_ledger::payment::PAYMENT_BYTES;
use zeni_ledger::{Genesis, Rejection, TransactionId};

use super::{path_of, query_of, read_body, require_media_type};
use crate::api::{Api, PaymentStatus, Submitted};
use crate::chronicle::Inclusion;
use crate::payment_json::{PAYMENT_JSON_BYTES_MAX, parse_bulk, parse_payment, payment_json};
use crate::problem::{Problem, refusal_number};
use crate::rfc3339;

/// Bytes of an idempotency key, at most.
const IDEMPOTENCY_KEY_MAX: usize = 255;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What is said of an accepted payment whose sequence another one used.
const SUPERSEDED: &str = "another payment used its sequence on the canonical chain; unless a reorganisation takes that \
                          one back, this one will not be executed";
const OCTETS: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// POST /v1/payments: one payment in JSON.
pub(super) async fn submit_one(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    require_media_type(&parts.headers, JSON)?;
    check_idempotency_key(&parts.headers)?;
    let payment = parse_payment(&read_body(body, PAYMENT_JSON_BYTES_MAX).await?)?;
    let answers = api.submit(&[payment]).await?;
    let (id, submitted) = answers.first().ok_or_else(Problem::internal)?;
    let location = [(header::LOCATION, format!("/v1/payments/{id}"))];
    let (verdict, copies) = match submitted {
        Submitted::Accepted { copies } => ("accepted", *copies),
        Submitted::Known { copies } => ("known", *copies),
        Submitted::OnChain(_) => {
            let status = api.status(*id).await?;
            return Ok((StatusCode::OK, location, Json(status_json(&api, *id, &status)?)).into_response());
        }
        Submitted::Refused(refusal) => return Err(Problem::refused(refusal).with("id", id.to_string())),
    };
    let body =
        json!({ "id": id.to_string(), "status": "accepted", "verdict": verdict, "copies": copies, "final": false });
    Ok((StatusCode::ACCEPTED, location, Json(body)).into_response())
}

/// POST /v1/payments/bulk: concatenated payments, answered in JSON or four bytes each.
pub(super) async fn submit_bulk(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    require_media_type(&parts.headers, OCTETS)?;
    check_idempotency_key(&parts.headers)?;
    let body = read_body(body, SUBMISSION_PAYMENTS_MAX * PAYMENT_BYTES).await?;
    let payments = parse_bulk(&body, SUBMISSION_PAYMENTS_MAX)?;
    let answers = api.submit(payments).await?;
    if accepts_octets(&parts.headers) {
        let bytes: Vec<u8> = answers.iter().flat_map(|(_, submitted)| answer_bytes(submitted)).collect();
        return Ok(([(header::CONTENT_TYPE, OCTETS)], bytes).into_response());
    }
    let taken = answers.iter().filter(|(_, submitted)| !matches!(submitted, Submitted::Refused(_))).count();
    let results: Vec<Value> = answers.iter().map(|(id, submitted)| answer_json(id, submitted)).collect();
    Ok(Json(json!({ "accepted": taken, "results": results })).into_response())
}

/// GET /v1/payments/{id}: how certain the payment is; with `?payment=true` also what it says.
pub(super) async fn status(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    api.require_replayed()?;
    let text = path_of(path)?;
    let id = TransactionId::from_hex(&text)
        .ok_or_else(|| Problem::malformed("a payment's id is 64 hexadecimal digits").with("field", "id"))?;
    let with_payment = query_of(query)?.payment;
    let status = api.status(id).await?;
    let mut document = status_json(&api, id, &status)?;
    if let (true, PaymentStatus::Included(inclusion) | PaymentStatus::Rejected(inclusion, _)) = (with_payment, status)
        && let Some(payment) = api.read(move |chronicle| chronicle.payment(&id, &inclusion)).await?
    {
        document["payment"] = payment_json(&payment);
    }
    Ok(Json(document))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusQuery {
    #[serde(default)]
    payment: bool,
}

/// Payments are idempotent by their id, so a key adds nothing; one that is sent is checked and needs no store.
fn check_idempotency_key(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(()) };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_MAX || key.to_str().is_err() {
        let detail = format!("Idempotency-Key has 1 to {IDEMPOTENCY_KEY_MAX} visible characters");
        return Err(Problem::malformed(detail).with("field", "Idempotency-Key"));
    }
    Ok(())
}

fn accepts_octets(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(OCTETS))
}

/// Verdict (0 accepted, 1 known, 2 refused), copies (255: as many or more), refusal number u16 little-endian.
fn answer_bytes(submitted: &Submitted) -> [u8; 4] {
    let copies = |copies: u16| u8::try_from(copies).unwrap_or(u8::MAX);
    match submitted {
        Submitted::Accepted { copies: known } => [0, copies(*known), 0, 0],
        Submitted::Known { copies: known } => [1, copies(*known), 0, 0],
        // No copies are counted for what stands on the chain.
        Submitted::OnChain(_) => [1, 0, 0, 0],
        Submitted::Refused(refusal) => {
            let [low, high] = refusal_number(refusal).to_le_bytes();
            [2, 0, low, high]
        }
    }
}

fn answer_json(id: &TransactionId, submitted: &Submitted) -> Value {
    let id = id.to_string();
    match submitted {
        Submitted::Accepted { copies } => json!({ "id": id, "verdict": "accepted", "copies": copies }),
        Submitted::Known { copies } => json!({ "id": id, "verdict": "known", "copies": copies }),
        Submitted::OnChain(inclusion) => {
            json!({ "id": id, "verdict": "known", "copies": 0, "height": inclusion.height })
        }
        Submitted::Refused(refusal) => {
            json!({ "id": id, "verdict": "refused", "copies": 0, "code": refusal.code(), "detail": refusal.to_string() })
        }
    }
}

/// The status document; an unknown payment is a problem.
fn status_json(api: &Api, id: TransactionId, status: &PaymentStatus) -> Result<Value, Problem> {
    let genesis = api.chronicle.genesis();
    let named = id.to_string();
    Ok(match status {
        PaymentStatus::Unknown => return Err(Problem::unknown_payment(&id)),
        PaymentStatus::Accepted { copies, accepted_ms, superseded } => {
            let accepted_at = accepted_ms.map(rfc3339::format_ms);
            let mut document = json!({
                "id": named, "status": "accepted", "copies": copies, "accepted_at": accepted_at, "final": false
            });
            if *superseded {
                document["warning"] = "sequence_used".into();
                document["detail"] = SUPERSEDED.into();
            }
            document
        }
        PaymentStatus::Included(inclusion) => {
            let status = if inclusion.is_final { "final" } else { "included" };
            included_json(genesis, &named, status, inclusion)
        }
        PaymentStatus::Rejected(inclusion, rejection) => rejected_json(genesis, &named, inclusion, *rejection),
        PaymentStatus::Expired { valid_until } => {
            let valid_until = rfc3339::format_s(*valid_until);
            json!({ "id": named, "status": "expired", "valid_until": valid_until, "final": false })
        }
    })
}

fn included_json(genesis: &Genesis, id: &str, status: &str, inclusion: &Inclusion) -> Value {
    json!({
        "id": id,
        "status": status,
        "height": inclusion.height,
        "block": inclusion.block.to_string(),
        "block_time": rfc3339::format_ms(genesis.slot_time_ms(inclusion.slot)),
        "depth": inclusion.depth,
        "batch": inclusion.batch,
        "position": inclusion.position,
        "final": inclusion.is_final,
    })
}

fn rejected_json(genesis: &Genesis, id: &str, inclusion: &Inclusion, rejection: Rejection) -> Value {
    let mut document = included_json(genesis, id, "rejected", inclusion);
    document["reason"] = rejection.code().into();
    document["detail"] = rejection.to_string().into();
    document
}

#[cfg(test)]
mod tests {
    use zeni_consensus::Refusal;

    use super::*;

    #[test]
    fn binary_answers_are_four_bytes() {
        assert_eq!(answer_bytes(&Submitted::Accepted { copies: 3 }), [0, 3, 0, 0]);
        assert_eq!(answer_bytes(&Submitted::Known { copies: 300 }), [1, 255, 0, 0]);
        assert_eq!(answer_bytes(&Submitted::Refused(Refusal::BadSignature)), [2, 0, 13, 0]);
    }

    #[test]
    fn media_types_are_read_with_their_parameters() {
        let mut headers = HeaderMap::new();
        assert!(!accepts_octets(&headers));
        headers.insert(header::ACCEPT, "text/html, application/octet-stream;q=0.9".parse().unwrap());
        assert!(accepts_octets(&headers));
    }

    #[test]
    fn idempotency_keys_are_bounded() {
        let mut headers = HeaderMap::new();
        assert_eq!(check_idempotency_key(&headers), Ok(()));
        headers.insert(IDEMPOTENCY_KEY, "order-7".parse().unwrap());
        assert_eq!(check_idempotency_key(&headers), Ok(()));
        headers.insert(IDEMPOTENCY_KEY, "k".repeat(256).parse().unwrap());
        assert_eq!(check_idempotency_key(&headers).unwrap_err().code, "malformed");
    }
}
