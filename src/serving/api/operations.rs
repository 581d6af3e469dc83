//! The server and its log: state, checks, backups, queues, dead letters.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog as _;
use dissent_queues::{DeadMessage, RabbitBroker};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::experiments::OrderBody;
use super::page::{Params, page_response, rows};
use super::service::{Api, Body, json_response, reading};
use crate::log_access::backups;
use crate::serving::problem::Problem;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(log))
        .routes(routes!(verify))
        .routes(routes!(back_up))
        .routes(routes!(queues))
        .routes(routes!(dead))
        .routes(routes!(retry_dead))
        .routes(routes!(drop_dead))
}

/// The state of the server: whether it is ready, its broker, its models.
#[utoipa::path(
    get, path = "/api/v1/status", tag = "operations",
    responses((status = 200, description = "The state", body = Object))
)]
async fn status(State(api): State<Api>) -> Result<Response, Problem> {
    let service = api.service()?;
    let models = service.status.cache.status();
    Ok(json_response(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "not_ready": service.status.not_ready_reason(),
        "host": service.entry.as_ref().map(|entry| entry.host.clone()),
        "process": std::process::id(),
        "broker": if service.status.broker().is_some_and(|broker| broker.rabbit().is_some()) { "rabbitmq" } else { "embedded" },
        "experiments": service.status.experiments().len(),
        "models": {
            "loaded": models.models, "bytes": models.bytes, "loads": models.loads, "evictions": models.evictions,
        },
    })))
}

/// The event log: its length and the number of its experiments.
#[utoipa::path(
    get, path = "/api/v1/log", tag = "operations",
    responses((status = 200, description = "`{events, experiments}`", body = Object))
)]
async fn log(State(api): State<Api>) -> Result<Response, Problem> {
    let log = api.service()?.log.clone();
    let found = reading(move || Ok((log.head(), log.streams()?.len()))).await?;
    Ok(json_response(&json!({ "events": found.0, "experiments": found.1 })))
}

/// Check the whole log. This reads all of it, and takes as long.
#[utoipa::path(
    post, path = "/api/v1/verifications", tag = "operations",
    responses((status = 200, description = "`{events, findings}`: a sound log has no findings", body = Object))
)]
async fn verify(State(api): State<Api>) -> Result<Response, Problem> {
    let log = api.service()?.log.clone();
    let body = reading(move || {
        let report = log.verify()?;
        let finding = |finding: &dissent_storage::Finding| {
            json!({ "position": finding.position, "what": finding.what })
        };
        let findings: Vec<Value> = report.findings.iter().map(finding).collect();
        Ok(json!({ "events": report.sound_events, "findings": findings }))
    })
    .await?;
    Ok(json_response(&body))
}

/// Copy the log and the accounts to a new folder in `backups` of the data folder.
#[utoipa::path(
    post, path = "/api/v1/backups", tag = "operations", request_body = OrderBody,
    responses(
        (status = 200, description = "`{path, events}`", body = Object),
        (status = 409, description = "Another backup is in progress"),
    )
)]
pub(super) async fn back_up(
    State(api): State<Api>,
    Body(body): Body<OrderBody>,
) -> Result<Response, Problem> {
    body.check_folder(&api)?;
    let busy = Problem::new(StatusCode::CONFLICT, "another backup is in progress: retry after its end");
    let lock = api.backup_lock().try_lock_owned().map_err(|_| busy)?;
    let (log, data_dir) = (api.service()?.log.clone(), api.data_dir().to_owned());
    let made = tokio::task::spawn_blocking(move || {
        // Held to the end of the backup, even if the client disconnects.
        let _lock = lock;
        let to = backups::new_folder(&data_dir);
        let events = backups::make(&log, &data_dir, &to)?;
        anyhow::Ok((to, events))
    });
    let (path, events) = made.await.map_err(Problem::internal)?.map_err(Problem::internal)?;
    tracing::info!(path = %path.display(), events, "wrote backup");
    Ok(json_response(&json!({ "path": path, "events": events })))
}

/// The broker, and the experiments whose queues it has.
fn rabbit(api: &Api) -> Result<(Arc<RabbitBroker>, Vec<ExperimentId>), Problem> {
    let status = &api.service()?.status;
    let broker = status.broker().and_then(|broker| broker.rabbit()).ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            "the embedded broker has no queues to look at: set [broker] kind = \"rabbitmq\"",
        )
    })?;
    Ok((broker, status.experiments().into_iter().map(|(experiment, _)| experiment).collect()))
}

/// The queues of RabbitMQ with their messages and consumers.
#[utoipa::path(
    get, path = "/api/v1/queues", tag = "operations",
    responses(
        (status = 200, description = "`rows` of `{queue, messages, consumers}`", body = Object),
        (status = 409, description = "The broker is embedded"),
    )
)]
async fn queues(State(api): State<Api>) -> Result<Response, Problem> {
    let (broker, _) = rabbit(&api)?;
    let mut names = vec![format!("{}.2.dead", broker.prefix())];
    for experiment in api.service()?.status.running() {
        let groups = dissent_actors::groups(&experiment);
        names.extend(broker.queues_of(&experiment, &groups).map_err(Problem::internal)?);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = broker.queue_stats(&names).await.map_err(Problem::internal)?;
    let row = |queue: &dissent_queues::QueueStats| json!({ "queue": queue.name, "messages": queue.messages, "consumers": queue.consumers });
    page_response(found.iter().map(row).collect::<Vec<_>>(), None)
}

/// Which dead letters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeadParams {
    /// Most rows, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// The dead letters: unreadable messages, rejected proposals, and events that failed their last attempt.
#[utoipa::path(
    get, path = "/api/v1/dead", tag = "operations", params(DeadParams),
    responses(
        (status = 200, description = "`rows` with their reasons", body = Object),
        (status = 409, description = "The broker is embedded"),
    )
)]
async fn dead(
    State(api): State<Api>,
    Params(DeadParams { limit }): Params<DeadParams>,
) -> Result<Response, Problem> {
    let (broker, experiments) = rabbit(&api)?;
    let found = broker.dead_list(&experiments, rows(limit)?).await.map_err(Problem::internal)?;
    let row = |message: &DeadMessage| {
        json!({
            "id": message.id, "kind": message.kind, "parked": message.parked, "queue": message.queue,
            "experiment": message.experiment, "attempts": message.attempts, "reason": message.reason,
            "bytes": message.bytes,
        })
    };
    page_response(found.iter().map(row).collect::<Vec<_>>(), None)
}

/// Send a dead letter back to its queue, as a first attempt.
#[utoipa::path(
    post, path = "/api/v1/dead/{id}/retry", tag = "operations", params(("id" = String, Path)),
    responses(
        (status = 204, description = "Sent back"),
        (status = 404, description = "Unknown"),
        (status = 409, description = "The broker is embedded"),
    )
)]
async fn retry_dead(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, Problem> {
    let (broker, experiments) = rabbit(&api)?;
    found(broker.dead_retry(&experiments, &id).await.map_err(Problem::internal)?)
}

/// Delete a dead letter. Its event stays in the log.
#[utoipa::path(
    delete, path = "/api/v1/dead/{id}", tag = "operations", params(("id" = String, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "Unknown"),
        (status = 409, description = "The broker is embedded"),
    )
)]
async fn drop_dead(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, Problem> {
    let (broker, experiments) = rabbit(&api)?;
    found(broker.dead_drop(&experiments, &id).await.map_err(Problem::internal)?)
}

fn found(is_found: bool) -> Result<Response, Problem> {
    if is_found {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Problem::new(StatusCode::NOT_FOUND, "unknown dead letter"))
    }
}
