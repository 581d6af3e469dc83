//! The experiments: list, show, create, fork, order.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use dissent_actors::CommandOutcome;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog as _;
use dissent_domain::operator::{Action, ExperimentStatus, OperatorCommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts_access::blocking;
use super::limits::ORDER_BYTES_MAX;
use super::page::{Params, page_response, rows};
use super::service::{
    Api, Body, Named, json_response, not_a_server, problem_of, problem_of_failure, reading,
};
use crate::config::ConfigSource;
use crate::error::BadInput;
use crate::experiment::create::{record_experiment, record_or_check};
use crate::experiment::fork::{ForkRequest, make_fork};
use crate::experiment::kept_config::{Halt, KeptConfigs};
use crate::experiment::uploaded_config::UploadedConfig;
use crate::history::overview::ExperimentHistory;
use crate::report::{self, ReportData, ReportError};
use crate::serving::gate::{Caller, Via};
use crate::serving::problem::Problem;
use crate::serving::status::{Hosting, HostingState};

/// Folder of the inputs of uploaded configurations, in the data folder.
const INPUTS: &str = "inputs/http";

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show))
        .routes(routes!(hosting))
        .routes(routes!(state))
        .routes(routes!(report))
        .routes(routes!(fork))
        .merge(orders())
}

/// The routes whose bodies are short.
fn orders() -> OpenApiRouter<Api> {
    let routes = OpenApiRouter::new().routes(routes!(order)).routes(routes!(retry));
    routes.layer(DefaultBodyLimit::max(ORDER_BYTES_MAX))
}

/// What the server does with an experiment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Row {
    #[schema(value_type = String)]
    experiment: ExperimentId,
    /// Events in its history.
    events: u64,
    /// `null`: the server does nothing with it, for example because it ended long ago.
    pub(super) hosting: Option<HostingState>,
    /// Why and when the server halted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    halted: Option<Halt>,
    /// `created`, `going`, `paused`, `finished` or `cancelled`; `null` if the server does not host it.
    #[schema(value_type = Option<String>)]
    pub(super) status: Option<ExperimentStatus>,
    /// Whether it waits for judgements of people.
    pub(super) waits_for_people: bool,
    /// The open or last round, from 0.
    round: Option<u32>,
    /// Rounds planned; 0 if the server does not host it.
    rounds: u32,
    /// Judgements received in that round, and the number that it waits for.
    judgements: u64,
    judgements_wanted: u64,
}

impl Row {
    pub(super) fn of(experiment: ExperimentId, events: u64, hosting: Option<Hosting>) -> Self {
        let state = hosting.as_ref().map(Hosting::state);
        let (halted, progress) = match hosting {
            Some(Hosting::Halted(halt)) => (Some(halt), None),
            Some(Hosting::Running(health)) => (None, Some(health.progress.borrow().clone())),
            Some(Hosting::Ended(progress)) => (None, Some(progress)),
            Some(Hosting::Loading | Hosting::NoConfiguration) | None => (None, None),
        };
        let status = progress.as_ref().map(|progress| progress.status);
        let progress = progress.unwrap_or_default();
        Self {
            experiment,
            events: events.max(progress.events),
            hosting: state,
            halted,
            status,
            waits_for_people: progress.waits_for_people,
            round: progress.round,
            rounds: progress.rounds,
            judgements: progress.judgements,
            judgements_wanted: progress.judgements_wanted,
        }
    }
}

/// A page of experiments.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParams {
    /// Rows of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
}

/// The experiments that the caller may read, by name.
#[utoipa::path(
    get, path = "/api/v1/experiments", tag = "experiments", params(ListParams),
    responses((status = 200, description = "A page: `rows`, and `next` for the page after", body = [Row]))
)]
async fn list(
    State(api): State<Api>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let limit = rows(params.limit)?;
    let (mut rows, next) = page_of_experiments(&api, &caller, limit, params.cursor.as_deref()).await?;
    rows.truncate(limit);
    page_response(rows, next)
}

/// Returns the rows after a cursor, and the cursor of the rows after them.
pub(super) async fn page_of_experiments(
    api: &Api,
    caller: &Caller,
    limit: usize,
    cursor: Option<&str>,
) -> Result<(Vec<Row>, Option<String>), Problem> {
    let service = api.service()?;
    let log = service.log.clone();
    let streams = reading(move || Ok(log.streams()?)).await?;
    let mut streams: BTreeMap<ExperimentId, u64> = streams.into_iter().collect();
    for (experiment, _) in service.status.experiments() {
        streams.entry(experiment).or_default();
    }
    if let Some(visible) = api.visible_to(caller).await? {
        streams.retain(|experiment, _| visible.contains(experiment.as_str()));
    }
    let after = |experiment: &ExperimentId| cursor.is_none_or(|cursor| experiment.as_str() > cursor);
    let mut rows: Vec<Row> = streams
        .into_iter()
        .filter(|(experiment, _)| after(experiment))
        .take(limit + 1)
        .map(|(experiment, events)| {
            let hosting = service.status.hosting(&experiment);
            Row::of(experiment, events, hosting)
        })
        .collect();
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.experiment.to_string());
    Ok((rows, next))
}

/// An experiment to record. Over HTTP, `configuration` and `files` describe it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewExperiment {
    /// TOML as a text, or the same as an object. Its inputs are paths in `files`, or `server:NAME` with a
    /// name of the server's settings. It has no section `[broker]`, `[artifacts]` or `[runtime]`.
    #[serde(default)]
    #[schema(value_type = Object)]
    configuration: Option<Value>,
    /// The BLAKE3 hash of each uploaded file, by its path in the configuration.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// Values in place of those of the configuration, `KEY=VALUE`.
    #[serde(default)]
    overrides: Vec<String>,
    /// Whether it starts at once, rather than by an order.
    #[serde(default)]
    start: bool,
    /// A configuration of this host, over its local socket only.
    #[serde(default)]
    #[schema(ignore)]
    source: Option<ConfigSource>,
    /// The operator, where the caller has no account.
    #[serde(default)]
    by: String,
}

/// Record an experiment. Its models and data are checked first; a refused one changes nothing.
#[utoipa::path(
    post, path = "/api/v1/experiments", tag = "experiments", request_body = NewExperiment,
    responses(
        (status = 201, description = "`{experiment, state, changed}`", body = Object),
        (status = 409, description = "The configuration cannot be used, or the name is taken"),
    )
)]
async fn create(
    State(api): State<Api>,
    caller: Caller,
    Body(new): Body<NewExperiment>,
) -> Result<Response, Problem> {
    let by = by(&caller, new.by.clone());
    let service = api.service()?;
    let orders = service.orders.as_ref().ok_or_else(not_a_server)?;
    let (log, artifacts, names) = (service.log.clone(), service.artifacts.clone(), service.names.clone());
    let data_dir = api.data_dir().to_owned();
    let (is_local, start, operator) = (caller.via == Via::Door, new.start, by.clone());
    let recording = tokio::task::spawn_blocking(move || {
        let source = match (new.source, &new.configuration) {
            (Some(source), None) if is_local => source,
            (None, Some(configuration)) => {
                let uploaded = UploadedConfig { configuration, overrides: &new.overrides, files: &new.files };
                uploaded.place(&data_dir.join(INPUTS), &artifacts, &names)?
            }
            (Some(_), _) => {
                anyhow::bail!(BadInput("`source` is for commands on the server's host".to_owned()))
            }
            (None, None) => anyhow::bail!(BadInput("send `configuration`".to_owned())),
        };
        let experiment = record_experiment(&*log, &artifacts, &source, &by)?;
        KeptConfigs::of(&data_dir).keep(&experiment, &source)?;
        anyhow::Ok(experiment)
    });
    let experiment = recording.await.map_err(Problem::internal)?.map_err(problem_of_failure)?;
    own(&api, &caller, &experiment).await?;
    orders.host(&experiment).await.map_err(problem_of_failure)?;
    let mut state = ExperimentStatus::Created;
    if start {
        let command = OperatorCommand { action: Action::Start, by: operator, reason: None };
        state = service.control.command(experiment.clone(), command).await.map_err(problem_of)?.status;
    }
    let body = json!({ "experiment": experiment, "state": state, "changed": true });
    Ok((StatusCode::CREATED, json_response(&body)).into_response())
}

/// Notes the owner of a new experiment.
async fn own(api: &Api, caller: &Caller, experiment: &ExperimentId) -> Result<(), Problem> {
    let (Some(person), Some(accounts)) = (caller.person.clone(), api.accounts()) else { return Ok(()) };
    let experiment = experiment.to_string();
    blocking(move || accounts.set_owner(&experiment, &person)).await
}

/// The name by which events know a caller: the opaque id of a person, or what a caller without an account
/// says.
pub(super) fn by(caller: &Caller, said: String) -> String {
    caller.person.as_ref().map_or(said, ToString::to_string)
}

/// An experiment: its figures now, and what the server does with it.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}", tag = "experiments", params(("name" = String, Path)),
    responses(
        (status = 200, description = "`{overview, plan, hosting}`", body = Object),
        (status = 404, description = "Unknown"),
    )
)]
async fn show(State(api): State<Api>, Named(experiment): Named) -> Result<Response, Problem> {
    let mut shown = state_at(&api, &experiment, None).await?;
    let hosting = api.service()?.status.hosting(&experiment);
    let events = shown["overview"]["events"].as_u64().unwrap_or_default();
    shown["hosting"] =
        serde_json::to_value(Row::of(experiment, events, hosting)).map_err(Problem::internal)?;
    Ok(json_response(&shown))
}

/// What the server does with an experiment, without its history.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}/hosting", tag = "experiments", params(("name" = String, Path)),
    responses(
        (status = 200, description = "What the server does with it", body = Row),
        (status = 404, description = "The server does nothing with it"),
    )
)]
async fn hosting(State(api): State<Api>, Named(experiment): Named) -> Result<Response, Problem> {
    let hosting = api.service()?.status.hosting(&experiment).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, format!("the server does nothing with {experiment}"))
    })?;
    Ok(json_response(&json!(Row::of(experiment, 0, Some(hosting)))))
}

/// A moment of a history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StateParams {
    /// The last position of the log that counts; all of it if absent.
    at: Option<u64>,
}

/// The state of an experiment as of any event.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}/state", tag = "experiments",
    params(("name" = String, Path), StateParams),
    responses(
        (status = 200, description = "`{overview, plan}`", body = Object),
        (status = 404, description = "Unknown, or it begins later"),
    )
)]
async fn state(
    State(api): State<Api>,
    Named(experiment): Named,
    Params(StateParams { at }): Params<StateParams>,
) -> Result<Response, Problem> {
    Ok(json_response(&state_at(&api, &experiment, at).await?))
}

/// Returns the overview and the plan of an experiment at a position of the log.
pub(super) async fn state_at(
    api: &Api,
    experiment: &ExperimentId,
    at: Option<u64>,
) -> Result<Value, Problem> {
    let (log, name) = (api.service()?.log.clone(), experiment.clone());
    let read = reading(move || {
        let history = ExperimentHistory::read(&*log, &name, at)?;
        let plan = history.experiment().plan().map(serde_json::to_value).transpose()?;
        Ok(plan.map(|plan| json!({ "overview": history.overview(&name), "plan": plan })))
    })
    .await?;
    read.ok_or_else(|| unknown(experiment))
}

pub(super) fn unknown(experiment: &ExperimentId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("unknown experiment {experiment}, or it begins later"))
}

/// A report to make.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReportParams {
    /// `html`, `json` or `md`; default `json`.
    #[param(value_type = Option<String>)]
    format: Option<ReportFormat>,
    /// The round, from 0; the last one if absent.
    round: Option<u32>,
    /// Texts in each list, 0 to 1000; default 10.
    #[param(maximum = 1000)]
    top: Option<u16>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReportFormat {
    Html,
    #[default]
    Json,
    Md,
}

/// The report of a round.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}/report", tag = "experiments",
    params(("name" = String, Path), ReportParams),
    responses(
        (status = 200, description = "The report, with the fields of `dissent report --format json`", body = Object),
        (status = 404, description = "Unknown, or it has no such round"),
    )
)]
async fn report(
    State(api): State<Api>,
    Named(experiment): Named,
    Params(ReportParams { format, round, top }): Params<ReportParams>,
) -> Result<Response, Problem> {
    let top = top.map_or(report::TOP_DEFAULT, usize::from);
    if top > 1000 {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "top: use 0 to 1000"));
    }
    let (log, format) = (api.service()?.log.clone(), format.unwrap_or_default());
    let made = reading(move || {
        let data = match ReportData::from_log_with_top(&*log, &experiment, round, top) {
            Ok(data) => data,
            Err(error @ (ReportError::UnknownExperiment { .. } | ReportError::UnknownRound { .. })) => {
                return Ok(Err(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Ok(match format {
            ReportFormat::Html => report::html(&data)?,
            ReportFormat::Json => report::json(&data)?,
            ReportFormat::Md => report::markdown(&data)?,
        }))
    })
    .await?;
    let text = made.map_err(|_| Problem::new(StatusCode::NOT_FOUND, "unknown experiment or round"))?;
    let kind = match format {
        ReportFormat::Html => "text/html; charset=utf-8",
        ReportFormat::Json => "application/json",
        ReportFormat::Md => "text/markdown; charset=utf-8",
    };
    let mut response = ([(header::CONTENT_TYPE, kind)], text).into_response();
    // The report has its own styles and no scripts.
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; img-src data:");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// Fork an experiment at a position, with other settings. The fork shares the history up to there.
#[utoipa::path(
    post, path = "/api/v1/experiments/{name}/fork", tag = "experiments", request_body = Object,
    params(("name" = String, Path)),
    responses(
        (status = 201, description = "`{experiment, shared, plan, is_kept}`", body = Object),
        (status = 409, description = "The name is taken, or the position or a setting cannot be used"),
    )
)]
async fn fork(
    State(api): State<Api>,
    caller: Caller,
    Named(origin): Named,
    Body(request): Body<ForkRequest>,
) -> Result<Response, Problem> {
    let service = api.service()?;
    let orders = service.orders.as_ref().ok_or_else(not_a_server)?;
    let (log, data_dir) = (service.log.clone(), api.data_dir().to_owned());
    let making = tokio::task::spawn_blocking(move || make_fork(&*log, &data_dir, &origin, &request));
    let mut forked = making.await.map_err(Problem::internal)?.map_err(problem_of_failure)?;
    own(&api, &caller, &forked.experiment).await?;
    if forked.is_kept {
        orders.host(&forked.experiment).await.map_err(problem_of_failure)?;
    }
    if caller.via != Via::Door {
        // A path of the server.
        forked.judgements = None;
    }
    Ok((StatusCode::CREATED, json_response(&json!(forked))).into_response())
}

/// Who orders, and why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderBody {
    /// The operator, where the caller has no account.
    #[serde(default)]
    pub(super) by: String,
    /// Shown with the state.
    pub(super) reason: Option<String>,
    /// The client's data folder, sent if the client does not know whether the server has the same one.
    #[schema(ignore)]
    data: Option<PathBuf>,
}

impl OrderBody {
    pub(super) fn check_folder(&self, api: &Api) -> Result<(), Problem> {
        if self.data.as_ref().is_some_and(|data_dir| data_dir != api.data_dir()) {
            let reason =
                "this server has another data folder: use --server with the server of your data folder";
            return Err(Problem::new(StatusCode::CONFLICT, reason));
        }
        Ok(())
    }
}

/// Start, pause, resume or cancel an experiment. An order that changes nothing succeeds.
#[utoipa::path(
    post, path = "/api/v1/experiments/{name}/orders/{action}", tag = "experiments", request_body = OrderBody,
    params(("name" = String, Path), ("action" = String, Path, description = "`start`, `pause`, `resume` or `cancel`")),
    responses(
        (status = 200, description = "`{experiment, state, changed}`", body = Object),
        (status = 404, description = "Unknown"),
        (status = 409, description = "The state does not allow the order"),
    )
)]
pub(super) async fn order(
    State(api): State<Api>,
    caller: Caller,
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
    let by = by(&caller, body.by);
    tracing::info!(experiment_id = %experiment, command = action.name(), by, "received operator command");
    let command = OperatorCommand { action, by, reason: body.reason };
    let outcome = service.control.command(experiment.clone(), command).await;
    let CommandOutcome { status, changed } = outcome.map_err(problem_of)?;
    Ok(json_response(&json!({ "experiment": experiment, "state": status, "changed": changed })))
}

/// Go on with a halted experiment.
#[utoipa::path(
    post, path = "/api/v1/experiments/{name}/retry", tag = "experiments", request_body = OrderBody,
    params(("name" = String, Path)),
    responses(
        (status = 200, description = "`{experiment}`", body = Object),
        (status = 409, description = "It fails again"),
    )
)]
async fn retry(
    State(api): State<Api>,
    caller: Caller,
    Named(experiment): Named,
    Body(body): Body<OrderBody>,
) -> Result<Response, Problem> {
    body.check_folder(&api)?;
    let service = api.service()?;
    let orders = service.orders.as_ref().ok_or_else(not_a_server)?;
    let (log, name) = (service.log.clone(), experiment.clone());
    if reading(move || Ok(log.read_stream(&name, 0, 1)?.is_empty())).await? {
        return Err(unknown(&experiment));
    }
    tracing::info!(experiment_id = %experiment, by = by(&caller, body.by), "received order to retry");
    orders.host(&experiment).await.map_err(problem_of_failure)?;
    Ok(json_response(&json!({ "experiment": experiment })))
}

/// The order of `dissent run` to a server, over the local socket.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    source: ConfigSource,
    #[serde(default)]
    by: String,
}

/// Runs an experiment from its configuration: records it if it is new, hosts it, and starts it if it waits
/// for its start.
pub(super) async fn run(
    State(api): State<Api>,
    Named(experiment): Named,
    Body(Run { source, by }): Body<Run>,
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
