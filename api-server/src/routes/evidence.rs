//! Evidence against validators, as the followed nodes told it and this server checked it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use zeni_consensus::EvidenceId;
use zeni_consensus::evidence::Place;
use zeni_ledger::Genesis;
use zeni_storage::Kept;

use super::{path_of, query_of};
use crate::api::Api;
use crate::problem::Problem;
use crate::rfc3339;

/// Pieces of one page, at most.
const PAGE_MAX: usize = 100;
const PAGE_DEFAULT: usize = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// The number of the last piece that the reader has.
    after: Option<u64>,
    limit: Option<usize>,
}

/// GET /v1/evidence: in the order in which it came; `next` leads to what came later.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let query = query_of(query)?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::malformed(format!("limit lies from 1 to {PAGE_MAX}")).with("field", "limit"));
    }
    let from = query.after.map_or(0, |after| after.saturating_add(1));
    let mut found = api.evidence.kept(from, limit + 1);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more);
    let next = next.map(|last| format!("/v1/evidence?after={}&limit={limit}", last.number));
    let genesis = api.chronicle.genesis();
    let evidence: Vec<Value> = found.iter().map(|kept| kept_json(genesis, kept)).collect();
    Ok(Json(json!({ "kept": api.evidence.len(), "evidence": evidence, "next": next })))
}

/// GET /v1/evidence/{id}: the canonical bytes, which `zeni evidence verify` checks with genesis alone.
pub(super) async fn piece(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let name = path_of(path)?;
    let bad = || Problem::malformed("evidence is named by 64 hexadecimal digits").with("field", "id");
    let id = EvidenceId::from_hex(&name).ok_or_else(bad)?;
    let kept = api.evidence.find(&id).ok_or_else(|| Problem::unknown_evidence(&name))?;
    let file = Arc::clone(&api.evidence);
    let read = tokio::task::spawn_blocking(move || file.read(&kept)).await;
    let evidence = match read {
        Ok(Ok(Some(evidence))) => evidence,
        Ok(Ok(None)) => {
            tracing::error!(%id, "kept evidence cannot be read any more");
            return Err(Problem::internal());
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "reading evidence failed");
            return Err(Problem::internal());
        }
        Err(error) => {
            tracing::error!(%error, "a reading task failed");
            return Err(Problem::internal());
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], evidence.to_bytes()).into_response())
}

fn kept_json(genesis: &Genesis, kept: &Kept) -> Value {
    let mut document = json!({
        "number": kept.number,
        "id": kept.id.to_string(),
        "kind": kept.kind.code(),
        "offender": kept.offender.0,
        "offender_name": genesis.validators.get(kept.offender.as_usize()).map(|validator| &validator.name),
        "heard_at": rfc3339::format_ms(kept.found_ms),
        "bytes": kept.bytes,
    });
    match kept.place {
        Place::Slot(slot) => document["slot"] = slot.into(),
        Place::Vote { decision, round, is_precommit } => {
            let vote = if is_precommit { "precommit" } else { "prevote" };
            (document["decision"], document["round"], document["vote"]) = (decision.into(), round.into(), vote.into());
        }
        Place::Proposal { decision, round } => {
            (document["decision"], document["round"]) = (decision.into(), round.into());
        }
        Place::Batch(number) => document["batch_number"] = number.into(),
    }
    document
}
