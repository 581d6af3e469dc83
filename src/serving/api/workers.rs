//! What workers need of their server.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::service::{Api, Named, json_response, not_a_server, problem_of_failure};
use crate::experiment::kept_config::KeptConfigs;
use crate::serving::problem::Problem;
use crate::serving::status::HostingState;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(server)).routes(routes!(configuration))
}

/// Where the server runs, the names of its queues, and the experiments that its workers take steps of.
#[utoipa::path(
    get, path = "/api/v1/server", tag = "workers",
    responses((status = 200, description = "The server", body = Object))
)]
async fn server(State(api): State<Api>) -> Result<Response, Problem> {
    let service = api.service()?;
    let mut entry = service.entry.clone().ok_or_else(not_a_server)?;
    entry.experiments = service.status.running();
    Ok(json_response(&json!(entry)))
}

/// The configuration of an experiment that the server hosts, for its workers.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}/configuration", tag = "workers", params(("name" = String, Path)),
    responses(
        (status = 200, description = "The configuration, and the folder of its paths", body = Object),
        (status = 404, description = "Unknown"),
        (status = 409, description = "The server does not host it now"),
    )
)]
async fn configuration(State(api): State<Api>, Named(experiment): Named) -> Result<Response, Problem> {
    let kept = KeptConfigs::of(api.data_dir()).find(&experiment).map_err(problem_of_failure)?;
    let source = kept.ok_or_else(|| {
        let reason = format!("the data folder keeps no configuration of {experiment}");
        Problem::new(StatusCode::NOT_FOUND, reason)
    })?;
    let hosting = api.service()?.status.hosting(&experiment).map(|hosting| hosting.state());
    if hosting == Some(HostingState::Running) {
        return Ok(json_response(&json!(source)));
    }
    let reason = format!("the server does not host {experiment} now");
    Err(Problem::new(StatusCode::CONFLICT, reason))
}
