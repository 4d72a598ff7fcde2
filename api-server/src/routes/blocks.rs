//! Blocks of the canonical chain.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use zeni_ledger::{BlockId, Genesis};

use super::{path_of, query_of};
use crate::api::Api;
use crate::chronicle::CanonicalBlock;
use crate::problem::Problem;
use crate::rfc3339;

/// Blocks of one page, at most.
const PAGE_MAX: u64 = 100;
const PAGE_DEFAULT: u64 = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// The page ends below this height.
    before: Option<u64>,
    limit: Option<u64>,
}

/// GET /v1/blocks: the newest first; `next` leads to older ones.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    api.require_replayed()?;
    let query = query_of(query)?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::malformed(format!("limit lies from 1 to {PAGE_MAX}")).with("field", "limit"));
    }
    let head = api.chronicle.head();
    let newest = query.before.map_or(head.height, |before| before.saturating_sub(1)).min(head.height);
    let oldest = newest.saturating_sub(limit - 1).max(1);
    let found = api
        .read(move |chronicle| {
            let blocks = (oldest..=newest).rev().map(|height| chronicle.block_at(height));
            blocks.collect::<Result<Vec<_>, _>>()
        })
        .await?;
    let genesis = api.chronicle.genesis();
    let blocks: Vec<Value> = found.iter().flatten().map(|found| block_json(genesis, found)).collect();
    let next = (oldest > 1 && newest > 0).then(|| format!("/v1/blocks?before={oldest}&limit={limit}"));
    Ok(Json(json!({ "head": { "height": head.height, "id": head.id.to_string() }, "blocks": blocks, "next": next })))
}

/// GET /v1/blocks/{block}: by height or id, with the digests of its batches.
pub(super) async fn block(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Problem> {
    api.require_replayed()?;
    let name = path_of(path)?;
    let bad = || {
        Problem::malformed("a block is named by its height or its id of 64 hexadecimal digits").with("field", "block")
    };
    let found = if let Some(id) = BlockId::from_hex(&name) {
        api.read(move |chronicle| chronicle.canonical(&id)).await?
    } else {
        let digits = name.bytes().all(|byte| byte.is_ascii_digit());
        let height: u64 = name.parse().ok().filter(|_| digits).ok_or_else(bad)?;
        api.read(move |chronicle| chronicle.block_at(height)).await?
    };
    let found = found.ok_or_else(|| Problem::unknown_block(&name))?;
    let mut document = block_json(api.chronicle.genesis(), &found);
    document["digests"] = found.block.digests.iter().map(ToString::to_string).collect::<Vec<_>>().into();
    document["signature"] = hex::encode(found.block.signature.0).into();
    Ok(Json(document))
}

/// What is told of a block wherever one is named.
pub(super) fn block_json(genesis: &Genesis, found: &CanonicalBlock) -> Value {
    let header = &found.block.header;
    json!({
        "height": header.height,
        "id": found.id.to_string(),
        "parent": header.parent.to_string(),
        "slot": header.slot,
        "time": rfc3339::format_ms(genesis.slot_time_ms(header.slot)),
        "proposer": header.proposer.0,
        "proposer_name": genesis.validators.get(header.proposer.as_usize()).map(|validator| &validator.name),
        "rank": header.rank,
        "batches": found.block.digests.len(),
        "receipts": header.receipts,
        "state_root": header.state_root.to_string(),
        "receipts_root": header.receipts_root.to_string(),
        "transactions_root": header.transactions_root.to_string(),
        "depth": found.depth,
        "final": found.is_final,
    })
}
