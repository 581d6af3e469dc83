//! Sign in and out.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use dissent_storage::accounts::SignedIn;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accounts_access::blocking;
use super::service::{Api, Body, json_response};
use crate::serving::gate::{Caller, Via, now};
use crate::serving::problem::Problem;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(show, sign_in, sign_out))
        .routes(routes!(open_link))
        .routes(routes!(accept_invitation))
        .routes(routes!(set_password))
}

/// A name and its password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Credentials {
    name: String,
    #[schema(format = Password)]
    password: String,
}

/// The secret of a personal link.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LinkSecret {
    secret: String,
}

/// The secret of an invitation, with the password to set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Acceptance {
    secret: String,
    /// The name of the first admin. Other invitations name their person themselves.
    #[serde(default)]
    name: Option<String>,
    /// 10 to 1024 bytes.
    #[schema(format = Password, min_length = 10, max_length = 1024)]
    password: String,
}

/// A change of the own password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    #[schema(format = Password)]
    old: String,
    /// 10 to 1024 bytes.
    #[schema(format = Password, min_length = 10, max_length = 1024)]
    new: String,
}

/// Who sends the request.
#[derive(Serialize, ToSchema)]
struct Me {
    /// Whether the server has accounts. Without them, the user of its host may do everything.
    accounts: bool,
    /// `null` for nobody.
    role: Option<String>,
    /// The id by which events name the person.
    person: Option<String>,
    name: String,
    /// The CSRF token of the session: pages send it as `X-CSRF-Token` with each change.
    csrf: String,
}

impl Me {
    fn of(api: &Api, caller: &Caller) -> Self {
        Self {
            accounts: api.has_accounts(),
            role: caller.role.map(|role| role.to_string()),
            person: caller.person.as_ref().map(ToString::to_string),
            name: caller.name.clone(),
            csrf: caller.csrf().to_owned(),
        }
    }
}

/// Who sends this request.
#[utoipa::path(
    get, path = "/api/v1/session", tag = "session",
    responses((status = 200, description = "The caller", body = Me))
)]
async fn show(State(api): State<Api>, caller: Caller) -> Result<Response, Problem> {
    let me = serde_json::to_value(Me::of(&api, &caller)).map_err(Problem::internal)?;
    Ok(json_response(&me))
}

/// Sign in with name and password. The answer sets the cookie of the session.
#[utoipa::path(
    post, path = "/api/v1/session", tag = "session", request_body = Credentials,
    responses(
        (status = 200, description = "The caller, signed in", body = Me),
        (status = 401, description = "The name or the password is wrong"),
        (status = 429, description = "Too many wrong passwords: wait as Retry-After says"),
    )
)]
async fn sign_in(
    State(api): State<Api>,
    caller: Caller,
    Body(Credentials { name, password }): Body<Credentials>,
) -> Result<Response, Problem> {
    let accounts = api.require_sign_in()?;
    let address = caller.address.map(|address| address.to_string()).unwrap_or_default();
    let signed_in = blocking(move || accounts.sign_in(&name, &password, &address, now())).await?;
    session_response(&api, signed_in)
}

/// Open a session with a personal link.
#[utoipa::path(
    post, path = "/api/v1/session/link", tag = "session", request_body = LinkSecret,
    responses(
        (status = 200, description = "The caller, signed in", body = Me),
        (status = 401, description = "The link is unknown, expired or revoked"),
    )
)]
async fn open_link(
    State(api): State<Api>,
    Body(LinkSecret { secret }): Body<LinkSecret>,
) -> Result<Response, Problem> {
    let accounts = api.require_sign_in()?;
    let signed_in = blocking(move || accounts.open_link(&secret, now())).await?;
    session_response(&api, signed_in)
}

/// Set a password by an invitation, and open a session. The first admin also gives a name.
#[utoipa::path(
    post, path = "/api/v1/session/invitation", tag = "session", request_body = Acceptance,
    responses(
        (status = 200, description = "The caller, signed in", body = Me),
        (status = 401, description = "The invitation is unknown, used or expired"),
        (status = 422, description = "The name or the password is not allowed"),
    )
)]
async fn accept_invitation(
    State(api): State<Api>,
    Body(Acceptance { secret, name, password }): Body<Acceptance>,
) -> Result<Response, Problem> {
    let accounts = api.require_sign_in()?;
    let signed_in = blocking(move || accounts.redeem(&secret, name.as_deref(), &password, now())).await?;
    session_response(&api, signed_in)
}

/// Change the own password. Other sessions end.
#[utoipa::path(
    put, path = "/api/v1/session/password", tag = "session", request_body = NewPassword,
    responses(
        (status = 204, description = "Changed"),
        (status = 401, description = "The old password is wrong"),
        (status = 422, description = "The new password is not allowed"),
    )
)]
async fn set_password(
    State(api): State<Api>,
    caller: Caller,
    Body(NewPassword { old, new }): Body<NewPassword>,
) -> Result<Response, Problem> {
    let accounts = api.require_sign_in()?;
    let (Some(person), Via::Session { secret, .. }) = (caller.person, caller.via) else {
        return Err(Problem::forbidden("only a person who signed in has a password"));
    };
    blocking(move || accounts.change_password(&person, &old, &new, &secret, now())).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Sign out.
#[utoipa::path(
    delete, path = "/api/v1/session", tag = "session",
    responses((status = 204, description = "Signed out, or there was no session"))
)]
async fn sign_out(State(api): State<Api>, caller: Caller) -> Result<Response, Problem> {
    if let Via::Session { secret, .. } = caller.via {
        let accounts = api.require_accounts()?;
        blocking(move || accounts.sign_out(&secret)).await?;
    }
    let cookie = cookie(&api, "", 0)?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

fn session_response(api: &Api, signed_in: SignedIn) -> Result<Response, Problem> {
    let cookie = cookie(api, &signed_in.secret, signed_in.seconds)?;
    let caller = Caller {
        via: Via::Session { csrf: signed_in.csrf, secret: signed_in.secret, link: None },
        name: signed_in.person.name,
        role: Some(signed_in.person.role),
        person: Some(signed_in.person.id),
        address: None,
    };
    let me = serde_json::to_value(Me::of(api, &caller)).map_err(Problem::internal)?;
    let mut response = json_response(&me);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

/// The cookie of a session: no script reads it, and no other site sends it.
fn cookie(api: &Api, secret: &str, seconds: u64) -> Result<HeaderValue, Problem> {
    let (name, secure) = api.cookie();
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    HeaderValue::from_str(&text).map_err(Problem::internal)
}
