//! New experiments: created from a configuration, or forked from another one.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::orders::not_a_server;
use super::{Api, Body, Named, json_response, problem_of_failure};
use crate::config::ConfigSource;
use crate::experiment::create::record_experiment;
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
        (service.log.clone(), service.artifacts.clone(), api.0.data_dir.clone());
    let recording = tokio::task::spawn_blocking(move || {
        let experiment = record_experiment(&*log, &artifacts, &source, &by)?;
        KeptConfigs::of(&data_dir).keep(&experiment, &source)?;
        anyhow::Ok(experiment)
    });
    let experiment = recording.await.map_err(Problem::internal)?.map_err(problem_of_failure)?;
    orders.host(&experiment).await.map_err(problem_of_failure)?;
    Ok(json_response(&json!({ "experiment": experiment, "state": "created", "changed": true })))
}

pub(super) async fn fork(
    State(api): State<Api>,
    Named(origin): Named,
    Body(request): Body<ForkRequest>,
) -> Result<Response, Problem> {
    let service = api.service()?;
    let orders = service.orders.as_ref().ok_or_else(not_a_server)?;
    let (log, data_dir) = (service.log.clone(), api.0.data_dir.clone());
    let making = tokio::task::spawn_blocking(move || make_fork(&*log, &data_dir, &origin, &request));
    let forked = making.await.map_err(Problem::internal)?.map_err(problem_of_failure)?;
    if forked.is_kept {
        orders.host(&forked.experiment).await.map_err(problem_of_failure)?;
    }
    Ok(json_response(&json!(forked)))
}
