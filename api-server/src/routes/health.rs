//! Whether the process lives, whether it may be asked, and what it measured.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::api::Api;
use crate::problem::Problem;
use crate::process;
use crate::waiting::WAITING_PAYMENTS_MAX;

pub(super) const OPENAPI: &str = include_str!("../../openapi.json");

/// GET /healthz: the process answers.
pub(super) async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

/// GET /readyz: it follows a node and is near the best one.
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    let head = api.chronicle.head().height;
    match api.progress.ready() {
        Ok(()) => Ok(Json(json!({ "status": "ready", "height": head, "lag": api.progress.lag() }))),
        Err(reason) => Err(Problem::not_ready(reason.to_string()).with("height", head)),
    }
}

/// GET /metrics, for Prometheus.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    process::observe();
    metrics::gauge!("zeni_api_node_failovers").set(api.nodes.failovers() as f64);
    metrics::gauge!("zeni_api_submissions_remembered").set(api.submissions.len() as f64);
    let waited_for = WAITING_PAYMENTS_MAX.saturating_sub(api.waiting.available_permits());
    metrics::gauge!("zeni_api_evidence_kept").set(api.evidence.len() as f64);
    metrics::gauge!("zeni_api_payments_waited_for").set(waited_for as f64);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.metrics.render()).into_response()
}

/// GET /v1/openapi.json.
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
