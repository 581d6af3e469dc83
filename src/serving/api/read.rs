//! What a server tells about itself and its experiments.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use dissent_actors::Progress;
use serde_json::{Value, json};

use super::service::{Api, Named, json_response, not_a_server, problem_of_failure};
use crate::experiment::kept_config::KeptConfigs;
use crate::serving::problem::Problem;
use crate::serving::status::{Hosting, HostingState};

pub(super) async fn server(State(api): State<Api>) -> Result<Response, Problem> {
    let service = api.service()?;
    let mut entry = service.entry.clone().ok_or_else(not_a_server)?;
    entry.experiments = service.status.running();
    Ok(json_response(&json!(entry)))
}

pub(super) async fn experiments(State(api): State<Api>) -> Result<Response, Problem> {
    let service = api.service()?;
    let row = |(experiment, hosting): (_, Hosting)| {
        let mut row = json!({ "experiment": experiment, "hosting": hosting.state() });
        match hosting {
            Hosting::Halted(halt) => row["halted"] = json!(halt),
            Hosting::Running(health) => add_progress(&mut row, &health.progress.borrow()),
            Hosting::Ended(progress) => add_progress(&mut row, &progress),
            Hosting::Loading | Hosting::NoConfiguration => {}
        }
        row
    };
    let rows: Vec<Value> = service.status.experiments().into_iter().map(row).collect();
    Ok(json_response(&Value::Array(rows)))
}

fn add_progress(row: &mut Value, progress: &Progress) {
    row["events"] = progress.events.into();
    row["status"] = json!(progress.status);
    row["waits_for_people"] = progress.waits_for_people.into();
}

pub(super) async fn configuration(
    State(api): State<Api>,
    Named(experiment): Named,
) -> Result<Response, Problem> {
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
