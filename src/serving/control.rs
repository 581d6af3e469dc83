//! Orders over HTTP: while a server holds the event log, nobody else can open it, so it is the server that is
//! asked.
//!
//! | request | what it does |
//! |---|---|
//! | `POST /experiments/NAME/start`, `/pause`, `/resume`, `/cancel` | `dissent experiment start` … |
//! | `POST /backup` | copies the log to a new folder below the data folder that the server chooses |
//!
//! Bodies are JSON objects, `{"by"?, "reason"?, "data"?}`; `data` is the data folder that is meant, where
//! whoever asks cannot know whether it is this server's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use dissent_actors::{CommandError, CommandOutcome, Control};
use dissent_domain::id::ExperimentId;
use dissent_domain::operator::{Action, OperatorCommand};
use dissent_storage::SledLog;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::access::AccessCheck;
use super::problem::Problem;
use crate::log_access::backups;

/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 8 << 10;
/// Longest wait for all of it.
const BODY_MAX: Duration = Duration::from_secs(10);

/// Where orders are taken.
pub(super) struct ControlApi {
    pub(super) control: Control,
    pub(super) log: Arc<SledLog>,
    pub(super) data_dir: PathBuf,
    pub(super) access: AccessCheck,
    /// Held while a backup is made: one at a time.
    pub(super) backing_up: Arc<Mutex<()>>,
}

/// What a request may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlRequest {
    #[serde(default)]
    by: String,
    reason: Option<String>,
    data: Option<PathBuf>,
}

pub(super) fn routes(control_api: Arc<ControlApi>) -> Router {
    Router::new()
        .route("/experiments/{name}/{action}", post(order))
        .route("/backup", post(back_up))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(control_api)
}

async fn order(
    State(control_api): State<Arc<ControlApi>>,
    headers: HeaderMap,
    Path((name, action)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response, Problem> {
    let ControlRequest { by, reason, .. } = control_api.admit(&headers, &body)?;
    let action: Action = serde_json::from_value(Value::String(action))
        .map_err(|_| Problem::new(StatusCode::NOT_FOUND, "orders are start, pause, resume and cancel"))?;
    let experiment =
        ExperimentId::new(name).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    tracing::info!(experiment_id = %experiment, order = action.name(), by, "an order over HTTP");
    let ordered =
        control_api.control.command(experiment.clone(), OperatorCommand { action, by, reason }).await;
    let CommandOutcome { status, changed } = ordered.map_err(refused)?;
    Ok(answer(&json!({ "experiment": experiment, "state": status, "changed": changed })))
}

async fn back_up(
    State(control_api): State<Arc<ControlApi>>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    control_api.admit(&headers, &body)?;
    let at_work = Problem::new(StatusCode::CONFLICT, "a backup is being made: ask again when it is done");
    let turn = control_api.backing_up.clone().try_lock_owned().map_err(|_| at_work)?;
    let (log, data_dir) = (control_api.log.clone(), control_api.data_dir.clone());
    let made = tokio::task::spawn_blocking(move || {
        // Until it is made, even if whoever asked has gone.
        let _turn = turn;
        let to = backups::new_folder(&data_dir);
        log.backup(&to).map(|events| (to, events))
    });
    let (path, events) = made.await.map_err(Problem::internal)?.map_err(Problem::internal)?;
    tracing::info!(path = %path.display(), events, "backed up");
    Ok(answer(&json!({ "path": path, "events": events })))
}

/// A body that came whole, in time, and is not too long.
struct Body(Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        whole(Bytes::from_request(request, state), BODY_MAX).await.map(Self)
    }
}

async fn whole(
    body: impl Future<Output = Result<Bytes, BytesRejection>>,
    patience: Duration,
) -> Result<Bytes, Problem> {
    let in_time = tokio::time::timeout(patience, body).await;
    let came = in_time.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body does not come"))?;
    came.map_err(|refused| Problem::new(refused.status(), format!("the body: {}", refused.body_text())))
}

impl ControlApi {
    /// What a request says, if whoever sends it may give orders here.
    fn admit(&self, headers: &HeaderMap, body: &[u8]) -> Result<ControlRequest, Problem> {
        self.access.check(headers)?;
        // A form in a page could not say so.
        if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
            let reason = "the body must be application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        let asked: ControlRequest = serde_json::from_slice(body)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))?;
        if asked.data.as_ref().is_some_and(|meant| *meant != self.data_dir) {
            let reason = "this server has another data folder: name the one that is meant with --server";
            return Err(Problem::new(StatusCode::CONFLICT, reason));
        }
        Ok(asked)
    }
}

fn refused(error: CommandError) -> Problem {
    match error {
        CommandError::Unknown(_) => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
        CommandError::Rejected { .. } => Problem::new(StatusCode::CONFLICT, error.to_string()),
        CommandError::Gone => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
        CommandError::Load(_) | CommandError::Log(_) => Problem::internal(error),
    }
}

fn answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let refused = whole(std::future::pending(), Duration::ZERO).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
