//! The pages of a server, for people: rendered here, with scripts that call the API.
//!
//! Completions and names are untrusted: templates escape every text, scripts set texts only as texts, and the
//! policy of the pages allows no other script. Pages need no network beyond the server.

mod files;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use dissent_domain::id::ExperimentId;
use dissent_storage::accounts::{Action, Role, may};
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::report::page::html_environment;
use crate::serving::api::service::Api;
use crate::serving::api::views;
use crate::serving::gate::Caller;
use crate::serving::problem::Problem;
use crate::tables::TableName;

/// Rows of the list of experiments.
const ROWS: usize = 100;

/// The policy of the pages: files of this server only, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const TEMPLATES: [(&str, &str); 11] = [
    ("frame", include_str!("templates/frame.html")),
    ("experiment-nav", include_str!("templates/experiment-nav.html")),
    ("sign-in", include_str!("templates/sign-in.html")),
    ("invitation", include_str!("templates/invitation.html")),
    ("link", include_str!("templates/link.html")),
    ("experiments", include_str!("templates/experiments.html")),
    ("experiment", include_str!("templates/experiment.html")),
    ("conflicts", include_str!("templates/conflicts.html")),
    ("history", include_str!("templates/history.html")),
    ("server", include_str!("templates/server.html")),
    ("people", include_str!("templates/people.html")),
];

/// The routes of the pages.
pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/", get(experiments))
        .route("/sign-in", get(async |State(api), caller| door(&api, &caller, "sign-in")))
        .route("/invitation", get(async |State(api), caller| door(&api, &caller, "invitation")))
        .route("/link", get(async |State(api), caller| door(&api, &caller, "link")))
        .route("/experiments/{name}", get(experiment))
        .route("/experiments/{name}/conflicts", get(conflicts))
        .route("/experiments/{name}/history", get(history))
        .route("/server", get(async |State(api), caller| plain(&api, &caller, "server")))
        .route("/people", get(async |State(api), caller| plain(&api, &caller, "people")))
        .layer(from_fn(protect))
        .route("/static/{version}/{file}", get(files::file))
}

/// Adds the headers that every page has.
async fn protect(request: axum::extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // A page has the CSRF token of its session.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = html_environment()?;
    for (name, template) in TEMPLATES {
        environment.add_template(name, template)?;
    }
    Ok(environment)
}

/// Renders a page of a caller.
fn page(api: &Api, caller: &Caller, name: &str, more: Value) -> Result<Response, Problem> {
    let role = caller.role;
    let mut context = json!({
        "page": name,
        "version": files::version(),
        "csrf": caller.csrf(),
        "accounts": api.has_accounts(),
        "role": role.map(|role| role.to_string()),
        "name": caller.name,
        "experiment": null,
        "may_order": role.is_some_and(|role| may(role, Action::OrderExperiments)),
        "may_create": role.is_some_and(|role| may(role, Action::CreateExperiments)),
    });
    if let (Some(context), Value::Object(more)) = (context.as_object_mut(), more) {
        context.extend(more);
    }
    let environment = environment().map_err(Problem::internal)?;
    let template = environment.get_template(name).map_err(Problem::internal)?;
    let text = template.render(context! { ..Serde(context) }).map_err(Problem::internal)?;
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    Ok((kind, text.trim_start().to_owned()).into_response())
}

/// Who signed in already goes on.
fn door(api: &Api, caller: &Caller, name: &'static str) -> Result<Response, Problem> {
    if name == "sign-in" && caller.role.is_some() {
        return Ok(Redirect::to("/").into_response());
    }
    page(api, caller, name, json!({}))
}

/// A page that its script fills.
fn plain(api: &Api, caller: &Caller, name: &'static str) -> Result<Response, Problem> {
    page(api, caller, name, json!({}))
}

#[derive(Debug, Deserialize)]
struct After {
    after: Option<String>,
}

async fn experiments(
    State(api): State<Api>,
    caller: Caller,
    Query(After { after }): Query<After>,
) -> Result<Response, Problem> {
    if matches!(caller.role, Some(Role::Annotator | Role::Worker)) {
        return page(&api, &caller, "experiments", json!({ "rows": [], "next": null, "names": [] }));
    }
    let (rows, next) = views::experiments(&api, &caller, ROWS, after.as_deref()).await?;
    let names = api.names();
    page(&api, &caller, "experiments", json!({ "rows": rows, "next": next, "names": names }))
}

async fn experiment(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    of_experiment(&api, &caller, &name, "experiment").await
}

async fn conflicts(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    of_experiment(&api, &caller, &name, "conflicts").await
}

async fn history(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    of_experiment(&api, &caller, &name, "history").await
}

async fn of_experiment(api: &Api, caller: &Caller, name: &str, of: &str) -> Result<Response, Problem> {
    let experiment = ExperimentId::new(name)
        .map_err(|_| Problem::new(StatusCode::NOT_FOUND, "no experiment has such a name"))?;
    let shown = views::experiment(api, &experiment).await?;
    let tables = TableName::ALL.map(TableName::name);
    let more = json!({
        "experiment": experiment, "overview": shown.overview, "state": shown.words, "halted": shown.halted,
        "tables": tables,
    });
    page(api, caller, of, more)
}
