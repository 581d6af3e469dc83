//! What a running process says of itself over HTTP: is it alive, is it ready, how is it; and, where history
//! is written, the orders that it takes.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::accept::{self, Limits};
use super::control::{self, ControlApi};
use super::metrics;
use super::problem::Problem;
use super::request_id;
use super::status::ServiceStatus;

/// What Prometheus reads.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until dropped with the runtime it runs on. Gives the address that it listens on, which tells the
/// port where 0 was asked for.
///
/// # Errors
/// If the address cannot be listened on.
pub(super) async fn listen(
    address: SocketAddr,
    status: Arc<ServiceStatus>,
    control_api: Option<ControlApi>,
) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address}: choose another with --listen"))?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route("/health", get(|| async { "alive\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .with_state(status);
    let routes = match control_api {
        Some(control_api) => {
            if !control_api.access.is_open() {
                tracing::info!(
                    "no orders are taken over HTTP: other hosts can connect, and there is no control token"
                );
            }
            routes.merge(control::routes(Arc::new(control_api)))
        }
        None => routes,
    };
    tokio::spawn(accept::serve(listener, request_id::layered(routes), Limits::default()));
    Ok(address)
}

/// Ready: it takes part in the work, and its broker is there.
async fn ready(State(status): State<Arc<ServiceStatus>>) -> impl IntoResponse {
    match status.not_ready() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn scrape(State(status): State<Arc<ServiceStatus>>) -> Result<impl IntoResponse, Problem> {
    let text = metrics::text(&status).await.map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text))
}
