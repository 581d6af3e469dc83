//! The way of a request to its route: who sends it, whether they may, whether it was sent before, and a line
//! in the audit trail.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts as _, MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use dissent_storage::accounts::{Accounts, AuditEntry, Channel, Claim};

use super::accounts_access::blocking;
use super::audit;
use super::limits::BODY_BYTES_MAX;
use super::rights::{self, Need};
use super::service::Api;
use crate::serving::client_address::ClientAddress;
use crate::serving::gate::{Caller, Gate, Via, now};
use crate::serving::problem::Problem;
use crate::serving::request_id;

/// The header by which a client repeats a change without making it twice.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 200;
/// Largest answer that is kept for a repeated request, in bytes.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// What admits requests to the routes of the API.
#[derive(Clone)]
pub(super) struct Admission {
    pub(super) api: Api,
    /// `None` at the door of the data folder, whose clients the file system chooses.
    pub(super) gate: Option<Arc<Gate>>,
}

/// Admits a request, or answers why not.
pub(super) async fn admit(State(admission): State<Admission>, request: Request, next: Next) -> Response {
    let is_page = request.method() == Method::GET && !request.uri().path().starts_with("/api/");
    match admitted(&admission, request, next).await {
        // People sign in first.
        Ok(response) if is_page && response.status() == StatusCode::UNAUTHORIZED => {
            Redirect::to("/sign-in").into_response()
        }
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn admitted(admission: &Admission, request: Request, next: Next) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let caller = admission.caller(&parts.method, &parts.headers, &parts.extensions).await?;
    let path = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let need = match rights::need(&parts.method, &path) {
        // The file system has decided already.
        _ if admission.gate.is_none() => Need::Nothing,
        Some(need) => need,
        None if rights::has_path(&path) => {
            let reason = format!("{} is not allowed here", parts.method);
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, reason));
        }
        None => return Err(Problem::internal(anyhow::anyhow!("the rights table lacks {path}"))),
    };
    let named = RawPathParams::from_request_parts(&mut parts, &()).await.ok();
    let named = named
        .and_then(|params| params.iter().find(|(key, _)| *key == "name").map(|(_, value)| value.to_owned()));
    let accounts = admission.api.accounts();
    let checked = {
        let (caller, named, accounts) = (caller.clone(), named.clone(), accounts.clone());
        let check = move || rights::check(&caller, need, named.as_deref(), accounts.as_ref());
        // Only the access of a person to an experiment is read from the accounts.
        let reads = matches!(need, Need::On(..));
        if reads { tokio::task::spawn_blocking(check).await.map_err(Problem::internal)? } else { check() }
    };
    let entry = AuditEntry {
        at: now(),
        person: caller.person.clone(),
        via: channel(&caller.via),
        action: format!("{} {path}", parts.method),
        object: parts.uri.path().to_owned(),
        request_id: request_id::current().map(|id| id.to_string()).unwrap_or_default(),
        outcome: String::new(),
    };
    let is_change = !parts.method.is_safe();
    let answered = match checked {
        Err(problem) => Err(problem),
        Ok(()) => {
            parts.extensions.insert(caller.clone());
            let request = Request::from_parts(parts, body);
            match &accounts {
                Some(accounts) if is_change && request.headers().contains_key(IDEMPOTENCY_KEY) => {
                    once(accounts, &caller, request, next).await
                }
                Some(_) | None => Ok(next.run(request).await),
            }
        }
    };
    let response = answered.unwrap_or_else(IntoResponse::into_response);
    if is_change || admission.gate.as_ref().is_some_and(|gate| gate.has_accounts()) {
        let outcome = response.status().as_u16().to_string();
        audit::note(&admission.api, AuditEntry { outcome, ..entry });
    }
    Ok(response)
}

impl Admission {
    async fn caller(
        &self,
        method: &Method,
        headers: &axum::http::HeaderMap,
        extensions: &axum::http::Extensions,
    ) -> Result<Caller, Problem> {
        let Some(gate) = &self.gate else { return Ok(Caller::operator(Via::Door)) };
        let address = extensions.get::<ClientAddress>().map(|address| address.0);
        let found = if gate.has_accounts() {
            let (gate, method, headers) = (gate.clone(), method.clone(), headers.clone());
            let finding = tokio::task::spawn_blocking(move || gate.caller(&method, &headers));
            finding.await.map_err(Problem::internal)?
        } else {
            gate.caller(method, headers)
        };
        found.map(|caller| Caller { address, ..caller })
    }
}

fn channel(via: &Via) -> Channel {
    match via {
        Via::Door | Via::ControlToken | Via::Loopback => Channel::Local,
        Via::Session { link: Some(link), .. } => Channel::Link(link.clone()),
        Via::Session { link: None, .. } => Channel::Session,
        Via::Token { id, .. } => Channel::Token(id.clone()),
        Via::Nobody => Channel::Nobody,
    }
}

/// Makes a change once: a request with the same key gets the first one's answer.
async fn once(
    accounts: &Accounts,
    caller: &Caller,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let bad = |reason: &str| Problem::new(StatusCode::BAD_REQUEST, reason.to_owned());
    let key = request.headers().get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(bad("an Idempotency-Key must have 1 to 200 visible ASCII characters"));
    }
    let key = key.to_owned();
    let (method, path) = (request.method().to_string(), request.uri().to_string());
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the request body is too large or incomplete")
    })?;
    let mut hasher = blake3::Hasher::new();
    for part in [method.as_bytes(), path.as_bytes(), &body] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let hash = *hasher.finalize().as_bytes();
    let person = caller.person.clone();
    let claimed = {
        let (accounts, person, key) = (accounts.clone(), person.clone(), key.clone());
        blocking(move || accounts.claim(person.as_ref(), &key, &hash, now())).await?
    };
    match claimed {
        Claim::Done { status, body, content_type } => {
            let status = StatusCode::from_u16(status).map_err(Problem::internal)?;
            return Ok((status, [(header::CONTENT_TYPE, content_type)], body).into_response());
        }
        Claim::InFlight => {
            let reason = "a request with this Idempotency-Key is in progress: retry in a second";
            return Err(Problem::new(StatusCode::CONFLICT, reason));
        }
        Claim::Mismatch => {
            let reason = "this Idempotency-Key was sent with another request: use a new one";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, reason));
        }
        Claim::New => {}
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (head, body) = response.into_parts();
    let body: Bytes = to_bytes(body, BODY_BYTES_MAX).await.map_err(Problem::internal)?;
    let is_kept = head.status.is_success() && body.len() <= KEPT_BYTES_MAX;
    let (accounts, status) = (accounts.clone(), head.status.as_u16());
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let (kind, answer) = (kind.to_owned(), body.clone());
    blocking(move || {
        if is_kept {
            accounts.finish(person.as_ref(), &key, status, &answer, &kind)
        } else {
            accounts.abandon(person.as_ref(), &key)
        }
    })
    .await?;
    Ok(Response::from_parts(head, Body::from(body)))
}
