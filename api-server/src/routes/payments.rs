//! Submitting payments, and how certain each is.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use zeni_consensus::Refusal;
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_ledger::payment::PAYMENT_BYTES;
use zeni_ledger::{Outcome, TransactionId};

use super::{path_of, query_of, read_body, require_media_type};
use crate::api::{Api, PaymentStatus, Submitted};
use crate::payment_json::{PAYMENT_JSON_BYTES_MAX, parse_bulk, parse_payment, payment_json};
use crate::problem::{Problem, refusal_number};
use crate::status_json::{add_user, outcome_name, status_json};
use crate::waiting::{Goal, Wait};

/// Bytes of an idempotency key, at most.
const IDEMPOTENCY_KEY_MAX: usize = 255;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const OCTETS: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// POST /v1/payments: one payment in JSON; with `?wait=` answered later.
pub(super) async fn submit_one(
    State(api): State<Arc<Api>>,
    query: Result<Query<Wait>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let (wait, until) = wait_of(query)?;
    let (parts, body) = request.into_parts();
    require_media_type(&parts.headers, JSON)?;
    check_idempotency_key(&parts.headers)?;
    let payment = parse_payment(&read_body(body, PAYMENT_JSON_BYTES_MAX).await?)?;
    let _place = api.place_to_wait(wait.goal, 1)?;
    let (id, submitted) = api.submit_one(payment).await?;
    let location = [(header::LOCATION, format!("/v1/payments/{id}"))];
    let (verdict, copies) = match submitted {
        Submitted::Accepted { copies } => ("accepted", copies),
        Submitted::Known { copies } => ("known", copies),
        Submitted::OnChain(_) => ("known", 0),
        Submitted::SequenceUsed(used) => return Err(Problem::sequence_used(used.as_ref()).with("id", id.to_string())),
        Submitted::Refused(refusal) => return Err(Problem::refused(&refusal).with("id", id.to_string())),
    };
    let is_on_chain = matches!(submitted, Submitted::OnChain(_));
    let status = match wait.goal {
        Goal::Accepted if is_on_chain => api.status(id).await?,
        Goal::Accepted => {
            let body = json!({ "id": id.to_string(), "status": "accepted", "verdict": verdict, "copies": copies, "final": false });
            return Ok((StatusCode::ACCEPTED, location, Json(body)).into_response());
        }
        goal => {
            let taken = submitted.taken().map(|status| (id, status)).into_iter().collect();
            api.wait(taken, goal, until).await.first().copied().ok_or_else(Problem::internal)?
        }
    };
    let code = if matches!(status, PaymentStatus::Accepted { .. }) { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((code, location, Json(status_json(api.chronicle.genesis(), &id, &status))).into_response())
}

/// POST /v1/payments/bulk: concatenated payments, answered in JSON or four bytes each; with `?wait=` answered later.
pub(super) async fn submit_bulk(
    State(api): State<Arc<Api>>,
    query: Result<Query<Wait>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let (wait, until) = wait_of(query)?;
    let (parts, body) = request.into_parts();
    require_media_type(&parts.headers, OCTETS)?;
    check_idempotency_key(&parts.headers)?;
    let body = read_body(body, SUBMISSION_PAYMENTS_MAX * PAYMENT_BYTES).await?;
    let payments = parse_bulk(&body, SUBMISSION_PAYMENTS_MAX)?;
    let _place = api.place_to_wait(wait.goal, payments.len())?;
    let answers = api.submit(payments).await?;
    let statuses = match wait.goal {
        Goal::Accepted => vec![None; answers.len()],
        goal => statuses_reached(&api, &answers, goal, until).await,
    };
    let answered = || answers.iter().zip(&statuses);
    if accepts_octets(&parts.headers) {
        let bytes: Vec<u8> =
            answered().flat_map(|((_, submitted), status)| answer_bytes(submitted, status.as_ref())).collect();
        return Ok(([(header::CONTENT_TYPE, OCTETS)], bytes).into_response());
    }
    let taken = answers.iter().filter(|(_, submitted)| submitted.taken().is_some()).count();
    let results = answered().map(|((id, submitted), status)| match (submitted, status) {
        (Submitted::Accepted { copies }, None) => BulkResult::taken(id, "accepted", *copies),
        (Submitted::Known { copies }, None) => BulkResult::taken(id, "known", *copies),
        (_, None) => BulkResult::Other(answer_json(id, submitted)),
        (_, Some(status)) => {
            let mut answer = answer_json(id, submitted);
            if let Some(fields) = answer.as_object_mut() {
                let document = status_json(api.chronicle.genesis(), id, status);
                fields.extend(document.as_object().cloned().unwrap_or_default());
            }
            BulkResult::Other(answer)
        }
    });
    Ok(Json(BulkAnswer { accepted: taken, results: results.collect() }).into_response())
}

#[derive(Serialize)]
struct BulkAnswer {
    accepted: usize,
    results: Vec<BulkResult>,
}

/// One result of a bulk submission.
#[derive(Serialize)]
#[serde(untagged)]
enum BulkResult {
    /// What nearly all are, a thousand at a time: written without a tree of values.
    Taken {
        id: String,
        verdict: &'static str,
        copies: u16,
    },
    Other(Value),
}

impl BulkResult {
    fn taken(id: &TransactionId, verdict: &'static str, copies: u16) -> Self {
        Self::Taken { id: id.to_string(), verdict, copies }
    }
}

/// What to wait for, and until when.
fn wait_of(query: Result<Query<Wait>, QueryRejection>) -> Result<(Wait, Instant), Problem> {
    let wait = query_of(query)?;
    wait.check()?;
    Ok((wait, Instant::now() + wait.time()))
}

/// The statuses that taken payments reach in time; `None` for those that were refused.
async fn statuses_reached(
    api: &Api,
    answers: &[(TransactionId, Submitted)],
    goal: Goal,
    until: Instant,
) -> Vec<Option<PaymentStatus>> {
    let taken = answers.iter().filter_map(|(id, submitted)| Some((*id, submitted.taken()?)));
    let mut reached = api.wait(taken.collect(), goal, until).await.into_iter();
    answers.iter().map(|(_, submitted)| submitted.taken().and_then(|_| reached.next())).collect()
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
    if status == PaymentStatus::Unknown {
        return Err(Problem::unknown_payment(&id));
    }
    let mut document = status_json(api.chronicle.genesis(), &id, &status);
    if let (true, Some(inclusion)) = (with_payment, status.inclusion())
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

/// Verdict, copies (255: as many or more), number u16 little-endian. Verdicts of submissions that do not wait: 0 accepted,
/// 1 known, 2 refused, with the refusal's number. Besides, of those that do: 3 included and applied, 4 final, 5 included
/// and rejected, 6 rejected, both with the number of the reason; 7 rejected because another payment used its sequence, 8
/// expired.
fn answer_bytes(submitted: &Submitted, status: Option<&PaymentStatus>) -> [u8; 4] {
    let copies = |copies: u16| u8::try_from(copies).unwrap_or(u8::MAX);
    match (status, submitted) {
        (Some(PaymentStatus::Included(inclusion)), _) => match inclusion.outcome {
            Outcome::Applied => [3, 0, 0, 0],
            rejected @ Outcome::Rejected(_) => [5, 0, rejected.to_byte(), 0],
        },
        (Some(PaymentStatus::Final(_)), _) => [4, 0, 0, 0],
        (Some(PaymentStatus::Rejected(_, rejection)), _) => [6, 0, Outcome::Rejected(*rejection).to_byte(), 0],
        (Some(PaymentStatus::Superseded(_)), _) => [7, 0, 0, 0],
        (Some(PaymentStatus::Expired { .. }), _) => [8, 0, 0, 0],
        (_, Submitted::Accepted { copies: known }) => [0, copies(*known), 0, 0],
        (_, Submitted::Known { copies: known }) => [1, copies(*known), 0, 0],
        // No copies are counted for what stands on the chain.
        (_, Submitted::OnChain(_)) => [1, 0, 0, 0],
        (_, Submitted::SequenceUsed(_)) => refused_bytes(&Refusal::SequenceUsed),
        (_, Submitted::Refused(refusal)) => refused_bytes(refusal),
    }
}

const fn refused_bytes(refusal: &Refusal) -> [u8; 4] {
    let [low, high] = refusal_number(refusal).to_le_bytes();
    [2, 0, low, high]
}

fn answer_json(id: &TransactionId, submitted: &Submitted) -> Value {
    let id = id.to_string();
    let refused = |refusal: &Refusal| json!({ "id": id, "verdict": "refused", "copies": 0, "code": refusal.code(), "detail": refusal.to_string() });
    match submitted {
        Submitted::Accepted { copies } => json!({ "id": id, "verdict": "accepted", "copies": copies }),
        Submitted::Known { copies } => json!({ "id": id, "verdict": "known", "copies": copies }),
        Submitted::OnChain(inclusion) => {
            let outcome = outcome_name(inclusion.outcome);
            json!({ "id": id, "verdict": "known", "copies": 0, "height": inclusion.height, "outcome": outcome })
        }
        Submitted::SequenceUsed(used) => {
            let mut answer = refused(&Refusal::SequenceUsed);
            if let Some(used) = used {
                add_user(&mut answer, used);
            }
            answer
        }
        Submitted::Refused(refusal) => refused(refusal),
    }
}

#[cfg(test)]
mod tests {
    use zeni_ledger::{BlockId, Rejection};

    use super::*;
    use crate::chronicle::Inclusion;

    #[test]
    fn binary_answers_are_four_bytes() {
        assert_eq!(answer_bytes(&Submitted::Accepted { copies: 3 }, None), [0, 3, 0, 0]);
        assert_eq!(answer_bytes(&Submitted::Known { copies: 300 }, None), [1, 255, 0, 0]);
        assert_eq!(answer_bytes(&Submitted::Refused(Refusal::BadSignature), None), [2, 0, 13, 0]);
        assert_eq!(answer_bytes(&Submitted::SequenceUsed(None), None), [2, 0, 4, 0]);
    }

    #[test]
    fn binary_answers_tell_what_a_wait_reached() {
        let accepted = Submitted::Accepted { copies: 2 };
        let bytes = |status| answer_bytes(&accepted, Some(&status));
        let rejection = Rejection::InsufficientBalance;
        let included = |outcome| Inclusion {
            height: 1,
            block: BlockId([1; 32]),
            slot: 1,
            depth: 0,
            batch: 0,
            position: 0,
            outcome,
            is_final: false,
        };
        assert_eq!(bytes(PaymentStatus::Accepted { copies: 9, accepted_ms: None, doubt: None }), [0, 2, 0, 0]);
        assert_eq!(bytes(PaymentStatus::Included(included(Outcome::Applied))), [3, 0, 0, 0]);
        assert_eq!(bytes(PaymentStatus::Final(included(Outcome::Applied))), [4, 0, 0, 0]);
        let rejected = included(Outcome::Rejected(rejection));
        assert_eq!(bytes(PaymentStatus::Included(rejected)), [5, 0, 6, 0]);
        assert_eq!(bytes(PaymentStatus::Rejected(rejected, rejection)), [6, 0, 6, 0]);
        assert_eq!(bytes(PaymentStatus::Expired { valid_until: 1 }), [8, 0, 0, 0]);
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
