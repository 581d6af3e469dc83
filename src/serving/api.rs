//! The HTTP API of a process that has the event log open. While it does, no other process can open the log,
//! so commands send requests.
//!
//! | request | effect |
//! |---|---|
//! | `GET /api/v1/server` | where the server runs, the names of its queues, and its experiments |
//! | `GET /api/v1/experiments` | the server's experiments, with what it does with each |
//! | `POST /api/v1/experiments` | records and hosts an experiment; local socket only |
//! | `GET /api/v1/experiments/NAME/configuration` | the kept configuration, for workers |
//! | `POST /api/v1/experiments/NAME/retry` | continues a halted experiment |
//! | `POST /api/v1/experiments/NAME/fork` | records and hosts a fork; local socket only |
//! | `POST /api/v1/experiments/NAME/run` | as `dissent run`; over the local socket only |
//! | `POST /api/v1/experiments/NAME/judgements` | records judgements of people, all or none |
//! | `POST /experiments/NAME/start`, `/pause`, `/resume`, `/cancel` | as `dissent experiment start` … |
//! | `POST /backup` | copies the log to a new folder in `backups` of the data folder |
//!
//! Over TCP every request needs access (`access.rs`). Over the local socket the file system decides who may
//! connect, and no request is refused.

mod create;
mod orders;
mod read;
pub(crate) mod service;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};

use super::access::AccessCheck;
use service::Api;

/// Longest body of an order, in bytes.
const ORDER_BYTES_MAX: usize = 8 << 10;
/// Longest body with judgements or a configuration, in bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// The routes for clients on this and other hosts, behind an access check.
pub(super) fn routes(api: &Api, access: AccessCheck) -> Router {
    let access = Arc::new(access);
    common(api).layer(from_fn(move |request: Request, next: Next| {
        let access = access.clone();
        async move {
            match access.check(request.headers()) {
                Ok(()) => next.run(request).await,
                Err(problem) => problem.into_response(),
            }
        }
    }))
}

/// The routes for commands of this host, over the local socket.
pub(crate) fn local_routes(api: &Api) -> Router {
    let local = Router::new()
        .route("/api/v1/experiments", post(create::create))
        .route("/api/v1/experiments/{name}/fork", post(create::fork))
        .route("/api/v1/experiments/{name}/run", post(create::run))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api.clone());
    common(api).merge(local)
}

fn common(api: &Api) -> Router {
    let orders = Router::new()
        .route("/experiments/{name}/{action}", post(orders::command))
        .route("/backup", post(orders::back_up))
        .route("/api/v1/experiments/{name}/retry", post(orders::retry))
        .layer(DefaultBodyLimit::max(ORDER_BYTES_MAX));
    let judgements = Router::new()
        .route("/api/v1/experiments/{name}/judgements", post(orders::judge))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    Router::new()
        .route("/api/v1/server", get(read::server))
        .route("/api/v1/experiments", get(read::experiments))
        .route("/api/v1/experiments/{name}/configuration", get(read::configuration))
        .merge(orders)
        .merge(judgements)
        .with_state(api.clone())
}
