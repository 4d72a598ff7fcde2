//! Proofs for strangers: of a payment, of an account, and which payments of a block there are to be proved.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use zeni_ledger::{AccountId, Outcome, TransactionId};

use super::{path_of, query_of};
use crate::api::{Api, PaymentStatus};
use crate::chronicle::{Chronicle, Inclusion};
use crate::final_state::FinalAccount;
use crate::follower::{FinalAccountQuery, Question};
use crate::problem::Problem;
use crate::proofs::{PaymentAnswer, ProofError, prove_account, prove_payment, receipt_page};

/// Proofs that are put together at the same time, at most; each reads some batches from disk.
pub const PROOFS_AT_ONCE_MAX: usize = 8;
/// Payments of one page, at most.
const PAGE_MAX: u32 = 1_000;
/// Seconds after which a client is told to come back, at most.
const RETRY_MAX_S: u64 = 60;

const OCTETS: &str = "application/octet-stream";

/// GET /v1/payments/{id}/proof: the finality receipt of a payment.
pub(super) async fn payment(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    api.require_replayed()?;
    let id = TransactionId::from_hex(&path_of(path)?)
        .ok_or_else(|| Problem::malformed("a payment's id is 64 hexadecimal digits").with("field", "id"))?;
    let answer = build(&api, move |chronicle| prove_payment(chronicle, &id)).await?;
    match answer {
        PaymentAnswer::Proven(bytes) => Ok(file(&format!("zeni-payment-{id}.proof"), bytes)),
        PaymentAnswer::NotFinal(inclusion) => Err(not_final(&api, &id, Some(&inclusion))),
        PaymentAnswer::NotOnChain => Err(match api.status(id).await? {
            PaymentStatus::Unknown => Problem::unknown_payment(&id),
            PaymentStatus::Expired { .. } | PaymentStatus::Superseded(_) => Problem::not_executed(&id),
            _ => not_final(&api, &id, None),
        }),
    }
}

/// GET /v1/accounts/{id}/proof: what an account holds at the last final block, or that it does not exist there.
pub(super) async fn account(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    api.require_replayed()?;
    let id: AccountId = path_of(path)?.parse().map_err(|error: zeni_ledger::identity::AccountIdError| {
        Problem::malformed(error.to_string()).with("field", "id")
    })?;
    let deadline = Instant::now() + api.limits.answer_timeout();
    let (mut head, mut last_final) = (api.chronicle.watch(), api.chronicle.watch_final());
    loop {
        head.mark_unchanged();
        last_final.mark_unchanged();
        match api.ask(|reply| Question::FinalAccount(FinalAccountQuery { id, reply })).await? {
            FinalAccount::At { height, proof } => {
                let bytes = build(&api, move |chronicle| prove_account(chronicle, height, proof)).await?;
                return Ok(file(&format!("zeni-account-{id}-{height}.proof"), bytes));
            }
            FinalAccount::NoFinalBlock => {
                return Err(Problem::no_final_block(retry_after_s(&api)).with("height", api.chronicle.head().height));
            }
            FinalAccount::Apart { head, last_final } if Instant::now() >= deadline => {
                return Err(Problem::state_apart(head, last_final, retry_after_s(&api)));
            }
            FinalAccount::Apart { .. } => {}
            FinalAccount::Failed => return Err(Problem::internal()),
        }
        tokio::select! {
            // An error would mean that the chronicle is gone, which this request holds.
            _ = head.changed() => {}
            _ = last_final.changed() => {}
            () = sleep_until(deadline) => {}
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// The first receipt of the page.
    #[serde(default)]
    from: u32,
    limit: Option<u32>,
}

/// GET /v1/blocks/{block}/payments: the payments that a canonical block executed, by its height, a page at a time.
pub(super) async fn block_payments(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    api.require_replayed()?;
    let name = path_of(path)?;
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let height: u64 = name.parse().ok().filter(|_| digits).ok_or_else(|| {
        Problem::malformed("the payments of a block are asked for by its height").with("field", "block")
    })?;
    let query = query_of(query)?;
    let limit = query.limit.unwrap_or(PAGE_MAX);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::malformed(format!("limit lies from 1 to {PAGE_MAX}")).with("field", "limit"));
    }
    let page = build(&api, move |chronicle| receipt_page(chronicle, height, query.from, limit as usize)).await?;
    let page = page.ok_or_else(|| Problem::unknown_block(&name))?;
    let payments: Vec<Value> = (page.receipts.iter())
        .map(|receipt| match receipt.outcome {
            Outcome::Applied => json!({ "id": receipt.id.to_string(), "outcome": "applied" }),
            Outcome::Rejected(reason) => {
                json!({ "id": receipt.id.to_string(), "outcome": "rejected", "reason": reason.code() })
            }
        })
        .collect();
    let (end, count) = (u64::from(query.from) + payments.len() as u64, u64::from(page.found.block.header.receipts));
    let next =
        (end < count && !payments.is_empty()).then(|| format!("/v1/blocks/{height}/payments?from={end}&limit={limit}"));
    Ok(Json(json!({
        "height": height,
        "id": page.found.id.to_string(),
        "final": page.found.is_final,
        "receipts": count,
        "payments": payments,
        "next": next,
    })))
}

/// Puts something together on a thread that may wait for the disk, a bounded number at a time.
async fn build<T: Send + 'static>(
    api: &Api,
    build: impl FnOnce(&Chronicle) -> Result<T, ProofError> + Send + 'static,
) -> Result<T, Problem> {
    let chronicle = Arc::clone(&api.chronicle);
    let permit = Arc::clone(&api.proofs).try_acquire_owned();
    let permit = permit.map_err(|_| Problem::overloaded("too many proofs are being made", 1))?;
    let task = move || {
        let _held: OwnedSemaphorePermit = permit;
        build(&chronicle)
    };
    match tokio::task::spawn_blocking(task).await {
        Ok(Ok(built)) => Ok(built),
        Ok(Err(error @ ProofError::TooFar { .. })) => Err(Problem::proof_too_long(error.to_string())),
        Ok(Err(error)) => {
            tracing::error!(%error, "a proof cannot be made");
            Err(Problem::internal())
        }
        Err(error) => {
            tracing::error!(%error, "a task that makes a proof failed");
            Err(Problem::internal())
        }
    }
}

fn file(name: &str, bytes: Vec<u8>) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    ([(header::CONTENT_TYPE, OCTETS.to_owned()), (header::CONTENT_DISPOSITION, disposition)], bytes).into_response()
}

fn not_final(api: &Api, id: &TransactionId, inclusion: Option<&Inclusion>) -> Problem {
    let problem = Problem::not_final_yet(retry_after_s(api), inclusion.is_some());
    let problem = problem.with("id", id.to_string()).with("final_height", api.chronicle.last_final().height);
    match inclusion {
        Some(inclusion) => {
            problem.with("payment_status", "included").with("height", inclusion.height).with("depth", inclusion.depth)
        }
        None => problem.with("payment_status", "accepted"),
    }
}

/// A block from now something more may be final.
fn retry_after_s(api: &Api) -> u32 {
    let interval_s = api.chronicle.genesis().block_interval_ms.div_ceil(1_000);
    interval_s.clamp(1, RETRY_MAX_S) as u32
}
