//! People, their links and tokens, and what is shared with them.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use dissent_storage::accounts::{Access, Person, PersonChange, PersonId, Role, Scope, may_link};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts_access::{blocking, problem_of_accounts};
use super::page::{Params, page_response, rows};
use super::service::{Api, Body, Named, json_response};
use crate::serving::gate::{Caller, now};
use crate::serving::problem::Problem;

const DAY_SECONDS: u64 = 86_400;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change, erase))
        .routes(routes!(invite))
        .routes(routes!(links, create_link))
        .routes(routes!(revoke_link))
        .routes(routes!(tokens, create_token))
        .routes(routes!(revoke_token))
        .routes(routes!(shared_with))
        .routes(routes!(share, unshare))
}

/// A page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PageParams {
    /// Rows of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
}

/// A person to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPerson {
    /// 1 to 80 characters, unique.
    #[schema(min_length = 1, max_length = 80)]
    name: String,
    #[schema(value_type = RoleName)]
    role: Role,
}

/// What a person may do.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes the role of the accounts, which know nothing of HTTP")]
enum RoleName {
    Admin,
    Researcher,
    Annotator,
    Viewer,
    Worker,
}

/// A change of a person. Absent fields stay.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Change {
    #[schema(min_length = 1, max_length = 80)]
    name: Option<String>,
    #[schema(value_type = Option<RoleName>)]
    role: Option<Role>,
    /// Whether the person may not sign in.
    disabled: Option<bool>,
}

/// How long a link or a token is valid.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewLink {
    /// Days from now, 1 to 366.
    #[schema(minimum = 1, maximum = 366)]
    days: u32,
}

/// An API token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewToken {
    /// What it is for, to tell it from others.
    #[schema(min_length = 1, max_length = 80)]
    name: String,
    /// What it allows: `read`, `write`, `judge`, `operate`, `work`.
    #[schema(value_type = Vec<String>)]
    scope: Vec<Scope>,
    /// The experiments that it is limited to; all of its person if absent.
    #[serde(default)]
    experiments: Option<Vec<String>>,
    /// Days until it expires, 1 to 366.
    #[schema(minimum = 1, maximum = 366)]
    days: u32,
}

/// How an experiment is shared.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewShare {
    /// `read` or `write`.
    #[schema(value_type = String)]
    access: Access,
}

/// The people, by name.
#[utoipa::path(
    get, path = "/api/v1/people", tag = "people", params(PageParams),
    responses((status = 200, description = "A page of people", body = Object))
)]
async fn list(State(api): State<Api>, Params(params): Params<PageParams>) -> Result<Response, Problem> {
    let (accounts, limit) = (api.require_accounts()?, rows(params.limit)?);
    let page = blocking(move || accounts.people(limit, params.cursor.as_deref())).await?;
    page_response(page.rows, page.next)
}

/// Add a person. An invitation lets them set a password; a personal link needs none.
#[utoipa::path(
    post, path = "/api/v1/people", tag = "people", request_body = NewPerson,
    responses(
        (status = 201, description = "The person", body = Object),
        (status = 409, description = "The name is taken"),
        (status = 422, description = "The name is not allowed"),
    )
)]
async fn create(
    State(api): State<Api>,
    Body(NewPerson { name, role }): Body<NewPerson>,
) -> Result<Response, Problem> {
    let accounts = api.require_accounts()?;
    let person = blocking(move || accounts.create(&name, role, now())).await?;
    person_response(StatusCode::CREATED, &person)
}

/// A person. The `ETag` is the revision for `If-Match`.
#[utoipa::path(
    get, path = "/api/v1/people/{person}", tag = "people", params(("person" = String, Path)),
    responses((status = 200, description = "The person", body = Object), (status = 404, description = "Unknown"))
)]
async fn show(State(api): State<Api>, Path(person): Path<String>) -> Result<Response, Problem> {
    let (accounts, person) = (api.require_accounts()?, parse(&person)?);
    let person = blocking(move || accounts.person(&person)).await?;
    person_response(StatusCode::OK, &person)
}

/// Change a person's name, role or state. With `If-Match`, only if nobody changed it in between.
#[utoipa::path(
    patch, path = "/api/v1/people/{person}", tag = "people", request_body = Change,
    params(("person" = String, Path), ("If-Match" = Option<String>, Header, description = "The revision that was read")),
    responses(
        (status = 200, description = "The changed person", body = Object),
        (status = 404, description = "Unknown"),
        (status = 409, description = "The name is taken, or nobody would be admin"),
        (status = 412, description = "Somebody changed the person in between"),
    )
)]
async fn change(
    State(api): State<Api>,
    Path(person): Path<String>,
    headers: HeaderMap,
    Body(Change { name, role, disabled }): Body<Change>,
) -> Result<Response, Problem> {
    let (accounts, person) = (api.require_accounts()?, parse(&person)?);
    let revision = revision(&headers)?;
    let change = PersonChange { name, role, disabled };
    let changed = blocking(move || accounts.change(&person, &change, revision)).await?;
    person_response(StatusCode::OK, &changed)
}

/// Erase a person: name, password, links and tokens. Their judgements and comments stay, without a name.
/// This cannot be undone, also not by a restore.
#[utoipa::path(
    delete, path = "/api/v1/people/{person}", tag = "people", params(("person" = String, Path)),
    responses(
        (status = 204, description = "Erased"),
        (status = 404, description = "Unknown"),
        (status = 409, description = "Nobody would be admin"),
    )
)]
async fn erase(State(api): State<Api>, Path(person): Path<String>) -> Result<Response, Problem> {
    let (accounts, person) = (api.require_accounts()?, parse(&person)?);
    blocking(move || accounts.erase(&person)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Make an invitation: a secret, shown once, with which the person sets a password.
#[utoipa::path(
    post, path = "/api/v1/people/{person}/invitation", tag = "people", request_body = NewLink,
    params(("person" = String, Path)),
    responses((status = 201, description = "`{secret, path}`: the path opens the page", body = Object))
)]
async fn invite(
    State(api): State<Api>,
    Path(person): Path<String>,
    Body(NewLink { days }): Body<NewLink>,
) -> Result<Response, Problem> {
    let (accounts, person, until) = (api.require_accounts()?, parse(&person)?, until(days)?);
    let secret = blocking(move || accounts.invite(&person, until, now())).await?;
    let path = format!("/invitation#{secret}");
    Ok(created(&json!({ "secret": secret, "path": path, "expires_at": until })))
}

/// The personal links of a person, without their secrets.
#[utoipa::path(
    get, path = "/api/v1/people/{person}/links", tag = "people", params(("person" = String, Path)),
    responses((status = 200, description = "The links", body = Object))
)]
async fn links(State(api): State<Api>, Path(person): Path<String>) -> Result<Response, Problem> {
    let (accounts, person) = (api.require_accounts()?, parse(&person)?);
    let links = blocking(move || accounts.links(&person)).await?;
    page_response(links, None)
}

/// Make a personal link: a secret, shown once, which opens a session of this person without a password.
#[utoipa::path(
    post, path = "/api/v1/people/{person}/links", tag = "people", request_body = NewLink,
    params(("person" = String, Path)),
    responses((status = 201, description = "`{id, secret, path}`: the path opens the page", body = Object))
)]
async fn create_link(
    State(api): State<Api>,
    caller: Caller,
    Path(person): Path<String>,
    Body(NewLink { days }): Body<NewLink>,
) -> Result<Response, Problem> {
    let (accounts, person, until) = (api.require_accounts()?, parse(&person)?, until(days)?);
    let made = blocking(move || {
        let of = accounts.person(&person)?.role;
        if !caller.role.is_some_and(|role| may_link(role, of)) {
            return Ok(None);
        }
        accounts.create_link(&person, until, now()).map(Some)
    });
    let link = made.await?.ok_or_else(more_rights)?;
    let path = format!("/link#{}", link.secret);
    Ok(created(&json!({ "id": link.id, "secret": link.secret, "path": path, "expires_at": until })))
}

/// Revoke a personal link.
#[utoipa::path(
    delete, path = "/api/v1/links/{id}", tag = "people", params(("id" = String, Path)),
    responses((status = 204, description = "Revoked"), (status = 404, description = "Unknown"))
)]
async fn revoke_link(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let accounts = api.require_accounts()?;
    let revoked = blocking(move || {
        let of = accounts.person_of_link(&id)?.role;
        if !caller.role.is_some_and(|role| may_link(role, of)) {
            return Ok(None);
        }
        accounts.revoke_link(&id).map(Some)
    });
    revoked.await?.ok_or_else(more_rights)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The API tokens of the caller, or of everybody for an admin; without their secrets.
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "people",
    responses((status = 200, description = "The tokens", body = Object))
)]
async fn tokens(State(api): State<Api>, caller: Caller) -> Result<Response, Problem> {
    let accounts = api.require_accounts()?;
    let owner = caller.person.filter(|_| caller.role != Some(Role::Admin));
    let tokens = blocking(move || accounts.tokens(owner.as_ref())).await?;
    page_response(tokens, None)
}

/// Make an API token of the caller. The answer shows it once.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "people", request_body = NewToken,
    responses((status = 201, description = "`{id, token}`", body = Object))
)]
async fn create_token(
    State(api): State<Api>,
    caller: Caller,
    Body(NewToken { name, scope, experiments, days }): Body<NewToken>,
) -> Result<Response, Problem> {
    let (accounts, until) = (api.require_accounts()?, until(days)?);
    let Some(owner) = caller.person else {
        return Err(Problem::forbidden("a token belongs to a person: sign in first"));
    };
    let made =
        blocking(move || accounts.create_token(&owner, &name, &scope, experiments.as_deref(), until, now()))
            .await?;
    Ok(created(&json!({ "id": made.id, "token": made.text, "expires_at": until })))
}

/// Revoke an API token of the caller, or of anybody for an admin.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "people", params(("id" = String, Path)),
    responses((status = 204, description = "Revoked"), (status = 404, description = "Unknown"))
)]
async fn revoke_token(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let accounts = api.require_accounts()?;
    let owner = caller.person.filter(|_| caller.role != Some(Role::Admin));
    blocking(move || accounts.revoke_token(owner.as_ref(), &id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The owner of an experiment, and the people it is shared with.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}/sharing", tag = "people", params(("name" = String, Path)),
    responses((status = 200, description = "The people, each with `access`", body = Object))
)]
async fn shared_with(State(api): State<Api>, Named(experiment): Named) -> Result<Response, Problem> {
    let accounts = api.require_accounts()?;
    let shares = blocking(move || accounts.shares(experiment.as_str())).await?;
    page_response(shares, None)
}

/// Share an experiment with a person.
#[utoipa::path(
    put, path = "/api/v1/experiments/{name}/sharing/{person}", tag = "people", request_body = NewShare,
    params(("name" = String, Path), ("person" = String, Path)),
    responses((status = 204, description = "Shared"), (status = 404, description = "Unknown"))
)]
async fn share(
    State(api): State<Api>,
    Path((experiment, person)): Path<(String, String)>,
    Body(NewShare { access }): Body<NewShare>,
) -> Result<Response, Problem> {
    let (accounts, person) = (api.require_accounts()?, parse(&person)?);
    blocking(move || accounts.share(&experiment, &person, access)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Stop sharing an experiment with a person.
#[utoipa::path(
    delete, path = "/api/v1/experiments/{name}/sharing/{person}", tag = "people",
    params(("name" = String, Path), ("person" = String, Path)),
    responses((status = 204, description = "Not shared any more"), (status = 404, description = "Unknown"))
)]
async fn unshare(
    State(api): State<Api>,
    Path((experiment, person)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (accounts, person) = (api.require_accounts()?, parse(&person)?);
    blocking(move || accounts.unshare(&experiment, &person)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A link acts as its person.
fn more_rights() -> Problem {
    Problem::forbidden("the person of the link has more rights than you, or signs in with a password")
}

fn parse(person: &str) -> Result<PersonId, Problem> {
    person.parse().map_err(problem_of_accounts)
}

/// The time until which something is valid, in seconds since 1970 UTC.
fn until(days: u32) -> Result<u64, Problem> {
    if (1..=366).contains(&days) {
        Ok(now() + u64::from(days) * DAY_SECONDS)
    } else {
        Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "days: use 1 to 366"))
    }
}

/// The revision that `If-Match` names, if there is one.
fn revision(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(sent) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let number = sent.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    let bad = || Problem::new(StatusCode::BAD_REQUEST, "If-Match: send the ETag of the person");
    number.map(Some).ok_or_else(bad)
}

fn person_response(status: StatusCode, person: &Person) -> Result<Response, Problem> {
    let tag = HeaderValue::from_str(&format!("\"{}\"", person.revision)).map_err(Problem::internal)?;
    let mut response = json_response(&serde_json::to_value(person).map_err(Problem::internal)?);
    *response.status_mut() = status;
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

fn created(value: &serde_json::Value) -> Response {
    let mut response = json_response(value);
    *response.status_mut() = StatusCode::CREATED;
    response
}
