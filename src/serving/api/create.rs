//! New experiments: created from a configuration, or forked from another one.

use axum::extract::State;
use axum::response::Response;
use dissent_domain::operator::{Action, ExperimentStatus, OperatorCommand};
use serde::Deserialize;
use serde_json::json;

use super::service::{Api, Body, Named, json_response, not_a_server, problem_of, problem_of_failure};
use crate::config::ConfigSource;
use crate::error::BadInput;
use crate::experiment::create::{record_experiment, record_or_check};
use crate::experiment::fork::{ForkRequest, make_fork};
use crate::experiment::kept_config::KeptConfigs;
use crate::serving::problem::Problem;

/// An experiment to record.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewExperiment {
    source: ConfigSource,
    #[serde(default)]
    by: String,
}

pub(super) async fn create(
    State(api): State<Api>,
    Body(NewExperiment { source, by }): Body<NewExperiment>,
) -> Result<Response, Problem> {
    let service = api.service()?;
    let orders = service.orders.as_ref().ok_or_else(not_a_server)?;
    let (log, artifacts, data_dir) =
        (service.log.clone(), service.artifacts.clone(), api.data_dir().to_owned());
    let recording = tokio::task::spawn_blocking(move || {
        let experiment = record_experiment(&*log, &artifacts, &source, &by)?;
        KeptConfigs::of(&data_dir).keep(&experiment, &source)?;
        anyhow::Ok(experiment)
    });
    let experiment = recording.await.map_err(Problem::internal)?.map_err(problem_of_failure)?;
    orders.host(&experiment).await.map_err(problem_of_failure)?;
    Ok(json_response(&json!({ "experiment": experiment, "state": "created", "changed": true })))
}

/// Runs an experiment from its configuration: records it if it is new, hosts it, and starts it if it waits
/// for its start.
pub(super) async fn run(
    State(api): State<Api>,
    Named(experiment): Named,
    Body(NewExperiment { source, by }): Body<NewExperiment>,
) -> Result<Response, Problem> {
    let service = api.service()?;
    let orders = service.orders.as_ref().ok_or_else(not_a_server)?;
    let (log, artifacts, data_dir, name) =
        (service.log.clone(), service.artifacts.clone(), api.data_dir().to_owned(), experiment.clone());
    let operator = by.clone();
    let recording = tokio::task::spawn_blocking(move || {
        let found = source.load()?.experiment.name;
        anyhow::ensure!(found == name, BadInput(format!("the configuration is that of {found}")));
        if record_or_check(&*log, &artifacts, &source, &by)? {
            KeptConfigs::of(&data_dir).keep(&name, &source)?;
        }
        anyhow::Ok(source)
    });
    let source = recording.await.map_err(Problem::internal)?.map_err(problem_of_failure)?;
    orders.host_from(&experiment, source).await.map_err(problem_of_failure)?;
    let waits = |status: ExperimentStatus| status == ExperimentStatus::Created;
    if service.status.status(&experiment).is_some_and(waits) {
        let reason = Some("dissent run".to_owned());
        let command = OperatorCommand { action: Action::Start, by: operator, reason };
        service.control.command(experiment.clone(), command).await.map_err(problem_of)?;
    }
    Ok(json_response(&json!({ "experiment": experiment })))
}

pub(super) async fn fork(
    State(api): State<Api>,
    Named(origin): Named,
    Body(request): Body<ForkRequest>,
) -> Result<Response, Problem> {
    let service = api.service()?;
    let orders = service.orders.as_ref().ok_or_else(not_a_server)?;
    let (log, data_dir) = (service.log.clone(), api.data_dir().to_owned());
    let making = tokio::task::spawn_blocking(move || make_fork(&*log, &data_dir, &origin, &request));
    let forked = making.await.map_err(Problem::internal)?.map_err(problem_of_failure)?;
    if forked.is_kept {
        orders.host(&forked.experiment).await.map_err(problem_of_failure)?;
    }
    Ok(json_response(&json!(forked)))
}
