//! The HTTP interface of a running process: health, readiness, metrics, and on a server the API.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::get;

use super::accept::{self, Limits};
use super::gate::Gate;
use super::metrics;
use super::problem::Problem;
use super::request_id;
use super::status::ServiceStatus;

/// The content type of metrics for Prometheus.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Starts to serve on the current runtime, until that is dropped: health, readiness and metrics, and `more`.
/// Returns the address, whose port is the chosen one if `address` has port 0.
///
/// # Errors
/// If the address cannot be bound.
pub(super) async fn listen(
    address: SocketAddr,
    status: Arc<ServiceStatus>,
    gate: Gate,
    more: Router,
) -> anyhow::Result<SocketAddr> {
    let listener = accept::listen(address)
        .with_context(|| format!("failed to listen on {address}: choose another with --listen"))?;
    let address = listener.local_addr()?;
    let routes = request_id::with_request_ids(routes(status, gate).merge(more));
    tokio::spawn(accept::serve(listener, routes, Limits::default()));
    tracing::info!(%address, "listening");
    Ok(address)
}

fn routes(status: Arc<ServiceStatus>, gate: Gate) -> Router {
    let readable = Router::new().route("/metrics", get(scrape)).route_layer(from_fn(
        move |request: Request, next: Next| {
            let checked = gate.check_reader(request.headers());
            async move {
                match checked {
                    Ok(()) => next.run(request).await,
                    Err(problem) => problem.into_response(),
                }
            }
        },
    ));
    Router::new()
        .route("/health", get(|| async { "alive\n" }))
        .route("/ready", get(ready))
        .merge(readable)
        .with_state(status)
}

/// Responds whether the process is at work and connected to its broker.
async fn ready(State(status): State<Arc<ServiceStatus>>) -> impl IntoResponse {
    match status.not_ready_reason() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn scrape(State(status): State<Arc<ServiceStatus>>) -> Result<impl IntoResponse, Problem> {
    let text = metrics::text(&status).await.map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text))
}
