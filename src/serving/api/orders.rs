//! Orders: operator commands, judgements, retries, backups.

use std::path::PathBuf;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use dissent_actors::CommandOutcome;
use dissent_domain::event::FeedbackReceived;
use dissent_domain::id::ExperimentId;
use dissent_domain::operator::{Action, OperatorCommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::service::{Api, Body, Named, json_response, not_a_server, problem_of, problem_of_failure};
use crate::log_access::backups;
use crate::serving::problem::Problem;

/// The body of an operator command or of a backup.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderBody {
    #[serde(default)]
    by: String,
    reason: Option<String>,
    /// The client's data folder, sent if the client does not know whether the server has the same one.
    data: Option<PathBuf>,
}

impl OrderBody {
    fn check_folder(&self, api: &Api) -> Result<(), Problem> {
        if self.data.as_ref().is_some_and(|data_dir| data_dir != api.data_dir()) {
            let reason =
                "this server has another data folder: use --server with the server of your data folder";
            return Err(Problem::new(StatusCode::CONFLICT, reason));
        }
        Ok(())
    }
}

pub(super) async fn command(
    State(api): State<Api>,
    Path((name, action)): Path<(String, String)>,
    Body(body): Body<OrderBody>,
) -> Result<Response, Problem> {
    body.check_folder(&api)?;
    let service = api.service()?;
    let action: Action = serde_json::from_value(Value::String(action)).map_err(|_| {
        Problem::new(StatusCode::NOT_FOUND, "unknown operator command: use start, pause, resume or cancel")
    })?;
    let experiment =
        ExperimentId::new(name).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let OrderBody { by, reason, .. } = body;
    tracing::info!(experiment_id = %experiment, command = action.name(), by, "received operator command");
    let outcome = service.control.command(experiment.clone(), OperatorCommand { action, by, reason }).await;
    let CommandOutcome { status, changed } = outcome.map_err(problem_of)?;
    Ok(json_response(&json!({ "experiment": experiment, "state": status, "changed": changed })))
}

pub(super) async fn retry(
    State(api): State<Api>,
    Named(experiment): Named,
    Body(body): Body<OrderBody>,
) -> Result<Response, Problem> {
    body.check_folder(&api)?;
    let orders = api.service()?.orders.as_ref().ok_or_else(not_a_server)?;
    tracing::info!(experiment_id = %experiment, by = body.by, "received order to retry");
    orders.host(&experiment).await.map_err(problem_of_failure)?;
    Ok(json_response(&json!({ "experiment": experiment })))
}

pub(super) async fn judge(
    State(api): State<Api>,
    Named(experiment): Named,
    Body(judgements): Body<Vec<FeedbackReceived>>,
) -> Result<Response, Problem> {
    let judged = api.service()?.control.judge(experiment, judgements).await.map_err(problem_of)?;
    Ok(json_response(&json!({ "new": judged.new, "already_there": judged.already_there })))
}

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
        log.backup(&to).map(|events| (to, events))
    });
    let (path, events) = made.await.map_err(Problem::internal)?.map_err(Problem::internal)?;
    tracing::info!(path = %path.display(), events, "wrote backup");
    Ok(json_response(&json!({ "path": path, "events": events })))
}
