//! The ledger, its validators, and how far everyone is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use zeni_consensus::Mode;
use zeni_ledger::Genesis;
use zeni_ledger::genesis::{FaultModel, Purpose};

use crate::api::Api;
use crate::progress::NodeSeen;
use crate::rfc3339;

/// GET /v1/network.
pub(super) async fn network(State(api): State<Arc<Api>>) -> Json<Value> {
    let (genesis, head) = (api.chronicle.genesis(), api.chronicle.head());
    let (seen, followed) = (api.progress.nodes(), api.progress.followed());
    let nodes: Vec<Value> = (api.nodes.addresses().zip(&seen).enumerate())
        .map(|(place, (at, seen))| node_json(&at.key.to_string(), &at.address, seen, followed == Some(place)))
        .collect();
    let mut document = ledger_json(genesis);
    document["genesis"] = api.chronicle.genesis_id().to_string().into();
    document["head"] = json!({
        "height": head.height,
        "id": head.id.to_string(),
        "slot": head.slot,
        "time": rfc3339::format_ms(genesis.slot_time_ms(head.slot)),
        "state_root": head.state_root.map(|root| root.to_string()),
    });
    let last_final = api.chronicle.last_final();
    document["final"] =
        json!({ "height": last_final.height, "id": last_final.id.to_string(), "decision": last_final.decision });
    document["best_height"] = api.progress.best_height().into();
    document["lag"] = api.progress.lag().into();
    document["nodes"] = nodes.into();
    Json(document)
}

/// What genesis fixes.
fn ledger_json(genesis: &Genesis) -> Value {
    let tokens: Vec<Value> = (genesis.rules.tokens.iter())
        .map(|(id, token)| {
            let issuer = token.issuer.to_string();
            json!({ "id": id.0, "symbol": token.symbol, "decimals": token.decimals, "issuer": issuer })
        })
        .collect();
    let validators: Vec<Value> = (genesis.validators.iter())
        .map(|validator| json!({ "name": validator.name, "key": validator.key.to_string(), "stake": validator.stake }))
        .collect();
    json!({
        "network": genesis.rules.network,
        "purpose": match genesis.purpose { Purpose::Test => "test", Purpose::Production => "production" },
        "fault_model": match genesis.fault_model { FaultModel::Crash => "crash", FaultModel::Byzantine => "byzantine" },
        "genesis_time": rfc3339::format_ms(genesis.time_ms),
        "block_interval_ms": genesis.block_interval_ms,
        "validity_max_s": genesis.rules.validity_max_s,
        "accounts_at_genesis": genesis.accounts,
        "tokens": tokens,
        "validators": validators,
    })
}

fn node_json(key: &str, address: &str, seen: &NodeSeen, followed: bool) -> Value {
    let told = seen.told.as_ref();
    json!({
        "key": key,
        "address": address,
        "answers": told.is_some(),
        "followed": followed,
        "mode": told.map(|told| mode_name(told.mode)),
        "height": told.map(|told| told.height),
        "pending": told.map(|told| told.pending),
        "live": told.map(|told| told.live),
        "version": told.map(|told| &told.version),
    })
}

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Joining => "joining",
        Mode::Syncing => "syncing",
        Mode::Active => "active",
        Mode::FollowOnly => "follow_only",
    }
}
