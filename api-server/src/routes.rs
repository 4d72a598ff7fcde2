//! The HTTP interface: every route in one table, which the OpenAPI document is tested against.

mod accounts;
mod blocks;
mod events;
mod evidence;
mod health;
mod network;
mod payments;
mod proofs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::api::Api;
use crate::problem::{Problem, ProblemCode};
use crate::waiting::Wait;

pub use proofs::PROOFS_AT_ONCE_MAX;

/// Every route: method, path as axum and OpenAPI both write it, handler.
fn table() -> Vec<(Method, &'static str, MethodRouter<Arc<Api>>)> {
    vec![
        (Method::POST, "/v1/payments", post(payments::submit_one)),
        (Method::POST, "/v1/payments/bulk", post(payments::submit_bulk)),
        (Method::GET, "/v1/payments/{id}", get(payments::status)),
        (Method::GET, "/v1/payments/{id}/proof", get(proofs::payment)),
        (Method::GET, "/v1/accounts/{id}", get(accounts::account)),
        (Method::GET, "/v1/accounts/{id}/proof", get(proofs::account)),
        (Method::GET, "/v1/blocks", get(blocks::list)),
        (Method::GET, "/v1/blocks/{block}", get(blocks::block)),
        (Method::GET, "/v1/blocks/{block}/payments", get(proofs::block_payments)),
        (Method::GET, "/v1/evidence", get(evidence::list)),
        (Method::GET, "/v1/evidence/{id}", get(evidence::piece)),
        (Method::GET, "/v1/network", get(network::network)),
        (Method::GET, "/v1/events", get(events::stream)),
        (Method::GET, "/v1/openapi.json", get(health::openapi)),
        (Method::GET, "/healthz", get(health::healthz)),
        (Method::GET, "/readyz", get(health::readyz)),
        (Method::GET, "/metrics", get(health::metrics)),
    ]
}

/// The whole interface.
pub fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    for (_, path, handler) in table() {
        router = router.route(path, handler);
    }
    router
        .fallback(|request: Request| async move { Problem::not_found(request.uri().path()) })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(from_fn_with_state(Arc::clone(&api), observe))
        .with_state(api)
}

/// Only /metrics, for an address of its own.
pub fn metrics_router(api: Arc<Api>) -> Router {
    Router::new().route("/metrics", get(health::metrics)).with_state(api)
}

/// Bounds every request in time, and counts it.
async fn observe(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let begun = Instant::now();
    // A submission that waits takes as much longer; its handler refuses what is no such query.
    let waits = Query::<Wait>::try_from_uri(request.uri()).map_or(Duration::ZERO, |Query(wait)| wait.time());
    let answered = tokio::time::timeout(api.limits.request_timeout() + waits, next.run(request)).await;
    let response = answered.unwrap_or_else(|_| Problem::timeout().into_response());
    let code = response.extensions().get::<ProblemCode>().map_or("ok", |code| code.0);
    let status = response.status().as_u16().to_string();
    metrics::counter!("zeni_api_requests_total", "route" => route.clone(), "status" => status, "code" => code)
        .increment(1);
    metrics::histogram!("zeni_api_request_seconds", "route" => route).record(begun.elapsed().as_secs_f64());
    response
}

/// Reads a body of at most `bytes_max` bytes.
async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Problem::too_large(format!("the body is longer than {bytes_max} bytes")))
        }
        Err(error) => Err(Problem::malformed(format!("the body did not arrive whole: {error}"))),
    }
}

/// Requires a media type; parameters behind it are allowed.
fn require_media_type(headers: &HeaderMap, expected: &str) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case(expected) { Ok(()) } else { Err(Problem::unsupported_media_type(expected)) }
}

fn path_of(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    path.map(|Path(text)| text).map_err(|error| Problem::malformed(error.body_text()))
}

fn query_of<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(fields)| fields).map_err(|error| Problem::malformed(error.body_text()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_openapi_document_names_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(health::OPENAPI).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut documented = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                documented.insert((method.to_uppercase(), path.clone()));
            }
        }
        let served = table().into_iter().map(|(method, path, _)| (method.to_string(), path.to_owned())).collect();
        assert_eq!(documented, served);
    }

    #[test]
    fn the_openapi_document_has_every_reference_it_uses() {
        let document: serde_json::Value = serde_json::from_str(health::OPENAPI).unwrap();
        let mut references = 0;
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            match value {
                serde_json::Value::Object(fields) => open.extend(fields.values()),
                serde_json::Value::Array(items) => open.extend(items),
                _ => {}
            }
            if let Some(reference) = value.get("$ref").and_then(|reference| reference.as_str()) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference} is not there");
                references += 1;
            }
        }
        assert!(references > 10);
    }
}
