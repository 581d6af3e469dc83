//! Control requests over HTTP. While a server has the event log open, no other process can open it, so
//! commands send a request to the server.
//!
//! | request | effect |
//! |---|---|
//! | `POST /experiments/NAME/start`, `/pause`, `/resume`, `/cancel` | as `dissent experiment start` … |
//! | `POST /backup` | copies the log to a new folder in `backups` of the data folder |
//!
//! Bodies are JSON objects, `{"by"?, "reason"?, "data"?}`. `data` is the client's data folder, sent if the
//! client does not know whether the server has the same one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
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
/// Longest wait for the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The state behind the routes of control requests.
pub(super) struct ControlApi {
    pub(super) control: Control,
    pub(super) log: Arc<SledLog>,
    pub(super) data_dir: PathBuf,
    pub(super) access: AccessCheck,
    /// Locked while a backup is made, so that there is one at a time.
    pub(super) backup_lock: Arc<Mutex<()>>,
}

/// The body of a control request.
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
        .route("/experiments/{name}/{action}", post(command))
        .route("/backup", post(back_up))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(control_api)
}

async fn command(
    State(control_api): State<Arc<ControlApi>>,
    headers: HeaderMap,
    Path((name, action)): Path<(String, String)>,
    Body(body): Body,
) -> Result<Response, Problem> {
    let ControlRequest { by, reason, .. } = control_api.authorize(&headers, &body)?;
    let action: Action = serde_json::from_value(Value::String(action)).map_err(|_| {
        Problem::new(StatusCode::NOT_FOUND, "unknown operator command: use start, pause, resume or cancel")
    })?;
    let experiment =
        ExperimentId::new(name).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    tracing::info!(experiment_id = %experiment, command = action.name(), by, "received operator command");
    let outcome =
        control_api.control.command(experiment.clone(), OperatorCommand { action, by, reason }).await;
    let CommandOutcome { status, changed } = outcome.map_err(problem_of)?;
    Ok(json_response(&json!({ "experiment": experiment, "state": status, "changed": changed })))
}

async fn back_up(
    State(control_api): State<Arc<ControlApi>>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    control_api.authorize(&headers, &body)?;
    let busy = Problem::new(StatusCode::CONFLICT, "another backup is in progress: retry after its end");
    let lock = control_api.backup_lock.clone().try_lock_owned().map_err(|_| busy)?;
    let (log, data_dir) = (control_api.log.clone(), control_api.data_dir.clone());
    let made = tokio::task::spawn_blocking(move || {
        // Held to the end of the backup, even if the client disconnects.
        let _lock = lock;
        let to = backups::new_folder(&data_dir);
        log.backup(&to).map(|events| (to, events))
    });
    let (path, events) = made.await.map_err(Problem::internal)?.map_err(Problem::internal)?;
    tracing::info!(path = %path.display(), events, "wrote backup");
    Ok(json_response(&json!({ "path": path, "events": events })))
}

/// A whole body within the limits of size and time.
struct Body(Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        read_within(Bytes::from_request(request, state), BODY_TIMEOUT).await.map(Self)
    }
}

async fn read_within(
    body: impl Future<Output = Result<Bytes, BytesRejection>>,
    time_limit: Duration,
) -> Result<Bytes, Problem> {
    let in_time = tokio::time::timeout(time_limit, body).await;
    let read = in_time.map_err(|_| {
        let reason =
            format!("incomplete request body after {} s: send the request again", time_limit.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, reason)
    })?;
    read.map_err(|error| Problem::new(error.status(), format!("invalid request body: {}", error.body_text())))
}

impl ControlApi {
    /// Returns the same state for requests at the Unix socket of the data folder.
    pub(super) fn of_unix_socket(&self) -> Self {
        Self {
            control: self.control.clone(),
            log: self.log.clone(),
            data_dir: self.data_dir.clone(),
            access: AccessCheck::of_unix_socket(),
            backup_lock: self.backup_lock.clone(),
        }
    }

    /// Checks the access of a request, and parses its body.
    ///
    /// # Errors
    /// The response to a request that is refused.
    fn authorize(&self, headers: &HeaderMap, body: &[u8]) -> Result<ControlRequest, Problem> {
        self.access.check(headers)?;
        // A form in a page cannot send this content type.
        if !headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
            let reason = "unsupported content type: send a body of application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        let request: ControlRequest = serde_json::from_slice(body).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("invalid request body: {error}"))
        })?;
        if request.data.as_ref().is_some_and(|data_dir| *data_dir != self.data_dir) {
            let reason =
                "this server has another data folder: use --server with the server of your data folder";
            return Err(Problem::new(StatusCode::CONFLICT, reason));
        }
        Ok(request)
    }
}

/// Whether a content type is JSON, with any parameters.
fn is_json(kind: &HeaderValue) -> bool {
    let essence = kind.to_str().ok().and_then(|kind| kind.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn problem_of(error: CommandError) -> Problem {
    match error {
        CommandError::Unknown(_) => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
        CommandError::Rejected { .. } => Problem::new(StatusCode::CONFLICT, error.to_string()),
        CommandError::Gone => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
        CommandError::Load(_) | CommandError::Log(_) => Problem::internal(error),
    }
}

fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_accepted_with_parameters_and_in_any_case() {
        for (kind, accepted) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/jsonl", false),
            ("text/plain; a=application/json", false),
            ("", false),
        ] {
            assert_eq!(is_json(&HeaderValue::from_static(kind)), accepted, "{kind}");
        }
    }

    #[tokio::test]
    async fn a_late_body_is_refused() {
        let refused = read_within(std::future::pending(), Duration::ZERO).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
