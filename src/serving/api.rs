//! The HTTP API of a process that has the event log open. While it does, no other process can open the log,
//! so commands send requests. Programs and pages send them over TCP, commands of the host over the local
//! socket.
//!
//! Each file has the routes of a resource, with their description; [`rights`] says who may use which. Over
//! TCP the gate recognises the caller, over the socket the file system decides who may connect.

mod accounts_access;
mod admission;
mod artifacts;
mod audit;
mod description;
mod events;
mod experiments;
mod judgements;
mod limits;
mod operations;
mod page;
mod people;
mod rights;
pub(crate) mod service;
mod session;
mod tables;
pub(crate) mod views;
mod webhooks;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::post;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use self::admission::{Admission, admit};
use self::limits::{BODY_BYTES_MAX, ORDER_BYTES_MAX};
use super::gate::Gate;
use crate::pages;
use service::Api;

/// The routes with a description.
fn described() -> (Router<Api>, OpenApi) {
    let limited = OpenApiRouter::with_openapi(description::base())
        .merge(experiments::router())
        .merge(events::router())
        .merge(tables::router())
        .merge(judgements::router())
        .merge(workers::router())
        .merge(session::router())
        .merge(people::router())
        .merge(audit::router())
        .merge(webhooks::router())
        .merge(operations::router())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    // A part of an upload has a limit of its own.
    limited.merge(artifacts::router().layer(DefaultBodyLimit::disable())).split_for_parts()
}

/// The routes, and those by which version 0.1 gave orders.
fn all() -> Router<Api> {
    let (routes, description) = described();
    let old = Router::new()
        .route("/experiments/{name}/{action}", post(experiments::order))
        .route("/backup", post(operations::back_up))
        .layer(DefaultBodyLimit::max(ORDER_BYTES_MAX));
    routes.merge(description::routes(&description)).merge(old).merge(pages::routes())
}

/// The routes for clients on this and other hosts, behind a gate.
pub(super) fn routes(api: &Api, gate: Gate) -> Router {
    let admission = Admission { api: api.clone(), gate: Some(Arc::new(gate)) };
    all().route_layer(from_fn_with_state(admission, admit)).with_state(api.clone())
}

/// The routes for commands of this host, over the local socket.
pub(crate) fn local_routes(api: &Api) -> Router {
    let admission = Admission { api: api.clone(), gate: None };
    let run = Router::new().route("/api/v1/experiments/{name}/run", post(experiments::run));
    let routes = all().merge(run.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)));
    routes.route_layer(from_fn_with_state(admission, admit)).with_state(api.clone())
}
