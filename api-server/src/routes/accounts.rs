//! What an account holds.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use zeni_ledger::AccountId;
use zeni_ledger::window::WINDOW_WIDTH;

use super::{path_of, query_of};
use crate::api::Api;
use crate::chronicle::LastFinal;
use crate::follower::AccountView;
use crate::problem::Problem;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountQueryFields {
    #[serde(default)]
    proof: bool,
}

/// GET /v1/accounts/{id}: balances and next sequence at the head; with `?proof=true` also the proof against its root.
pub(super) async fn account(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<AccountQueryFields>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    api.require_replayed()?;
    let text = path_of(path)?;
    let id: AccountId = text.parse().map_err(|error: zeni_ledger::identity::AccountIdError| {
        Problem::malformed(error.to_string()).with("field", "id")
    })?;
    // Before the state is asked: what was final then is on every head that it can tell of.
    let last_final = api.chronicle.last_final();
    let view = api.account(id, query_of(query)?.proof).await?;
    account_json(&id, &view, &last_final, &api).map(Json)
}

fn account_json(id: &AccountId, view: &AccountView, last_final: &LastFinal, api: &Api) -> Result<Value, Problem> {
    let Some(account) = &view.account else {
        let problem = Problem::unknown_account(id).with("height", view.height);
        let problem = problem.with("state_root", view.state_root.to_string());
        return Err(match &view.proof {
            Some(proof) => problem.with("proof", hex::encode(proof)),
            None => problem,
        });
    };
    let genesis = api.chronicle.genesis();
    let balances: Vec<Value> = account
        .holdings()
        .map(|(token, balance)| {
            let known = genesis.rules.tokens.get(&token);
            json!({
                "token": token.0,
                "symbol": known.map(|known| &known.symbol),
                "decimals": known.map(|known| known.decimals),
                "balance": balance.to_string(),
            })
        })
        .collect();
    let window = account.window();
    let mut document = json!({
        "account": id.to_string(),
        "balances": balances,
        "next_sequence": window.next().0.to_string(),
        "window": { "width": WINDOW_WIDTH, "used": format!("{:032x}", window.used_bits()) },
        "height": view.height,
        "block": view.head.to_string(),
        "state_root": view.state_root.to_string(),
        "final": view.height <= last_final.height,
    });
    if let Some(proof) = &view.proof {
        document["proof"] = hex::encode(proof).into();
    }
    Ok(document)
}
