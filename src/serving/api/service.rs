//! The process behind the API, and the parts of requests and responses that all routes share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dissent_actors::{CommandError, Control};
use dissent_domain::id::ExperimentId;
use dissent_storage::accounts::{Accounts, Role};
use dissent_storage::{ArtifactStore, SledLog};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};

use super::accounts_access::blocking;

use crate::error::FailureKind;
use crate::serving::audit_trail::AuditTrail;
use crate::serving::clock::Clock;
use crate::serving::experiments::Orders;
use crate::serving::gate::{COOKIE_NAME, Caller, Gate, Via};
use crate::serving::problem::Problem;
use crate::serving::status::ServiceStatus;
use crate::serving::table_cache::TableCache;
use crate::serving::worker_directory::ServerEntry;

/// Longest wait for the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The parts of a working process behind the API.
pub(crate) struct Service {
    pub(crate) control: Control,
    pub(crate) log: Arc<SledLog>,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) status: Arc<ServiceStatus>,
    /// Orders to the experiments; `None` in a process that runs one experiment to its end.
    pub(crate) orders: Option<Orders>,
    /// The server without its experiments; `None` in a process that runs one experiment to its end.
    pub(crate) entry: Option<ServerEntry>,
    /// The models and data that the server's settings name for configurations over HTTP.
    pub(crate) names: Arc<BTreeMap<String, PathBuf>>,
}

/// The accounts of a server, and how people sign in.
#[derive(Clone)]
pub(crate) struct SignIn {
    pub(crate) accounts: Accounts,
    pub(crate) audit: AuditTrail,
    pub(crate) gate: Gate,
}

/// The API of a process. Its routes exist before the process works, and answer 503 until then.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

struct Inner {
    data_dir: PathBuf,
    /// `None` in a process that runs one experiment to its end.
    sign_in: Option<SignIn>,
    service: OnceLock<Service>,
    clock: OnceLock<Clock>,
    tables: TableCache,
    /// Locked while a backup is made, so that there is one at a time.
    backup_lock: Arc<Mutex<()>>,
}

impl Api {
    /// The API of a process that runs one experiment to its end.
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self::with(data_dir, None)
    }

    /// The API of a server.
    pub(crate) fn of_server(data_dir: &Path, sign_in: SignIn) -> Self {
        Self::with(data_dir, Some(sign_in))
    }

    fn with(data_dir: &Path, sign_in: Option<SignIn>) -> Self {
        let data_dir = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
        Self(Arc::new(Inner {
            data_dir,
            sign_in,
            service: OnceLock::new(),
            clock: OnceLock::new(),
            tables: TableCache::default(),
            backup_lock: Arc::default(),
        }))
    }

    /// Answers requests from now on.
    pub(crate) fn begin(&self, service: Service) {
        let _begun = self.0.clock.set(Clock::of(service.log.clone()));
        // It is called once.
        let _begun = self.0.service.set(service);
    }

    /// The accounts, if this process is a server.
    pub(super) fn accounts(&self) -> Option<Accounts> {
        self.0.sign_in.as_ref().map(|sign_in| sign_in.accounts.clone())
    }

    /// The accounts.
    ///
    /// # Errors
    /// If this process is no server.
    pub(super) fn require_accounts(&self) -> Result<Accounts, Problem> {
        self.accounts().ok_or_else(not_a_server)
    }

    /// The accounts, where people sign in.
    ///
    /// # Errors
    /// If nobody can sign in here.
    pub(super) fn require_sign_in(&self) -> Result<Accounts, Problem> {
        let reason = "nobody signs in to this server: set [accounts] auth = \"accounts\" in its settings";
        let missing = || Problem::new(StatusCode::CONFLICT, reason);
        self.accounts().filter(|_| self.has_accounts()).ok_or_else(missing)
    }

    /// The names of models and data that configurations over HTTP may use.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.service.get().map(|service| service.names.keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether people sign in.
    pub(crate) fn has_accounts(&self) -> bool {
        self.0.sign_in.as_ref().is_some_and(|sign_in| sign_in.gate.has_accounts())
    }

    /// The name of the cookie of a session, and whether TLS protects it.
    pub(super) fn cookie(&self) -> (&'static str, bool) {
        let gate = self.0.sign_in.as_ref().map(|sign_in| &sign_in.gate);
        gate.map_or((COOKIE_NAME, false), |gate| (gate.cookie_name(), gate.is_secure()))
    }

    /// The audit trail, if this process is a server.
    pub(super) fn audit(&self) -> Option<&AuditTrail> {
        self.0.sign_in.as_ref().map(|sign_in| &sign_in.audit)
    }

    /// The clock of messages to listeners.
    ///
    /// # Errors
    /// If the process still starts.
    pub(super) fn clock(&self) -> Result<&Clock, Problem> {
        self.0.clock.get().ok_or_else(starting)
    }

    /// The tables that were read last.
    pub(super) fn tables(&self) -> &TableCache {
        &self.0.tables
    }

    /// The experiments that a caller may read; `None`: all.
    pub(super) async fn visible_to(&self, caller: &Caller) -> Result<Option<BTreeSet<String>>, Problem> {
        let listed = if let Via::Token { experiments: Some(listed), .. } = &caller.via {
            Some(listed.iter().cloned().collect())
        } else {
            None
        };
        let (Some(person), Some(accounts)) = (caller.person.clone(), self.accounts()) else {
            return Ok(listed);
        };
        if caller.role == Some(Role::Admin) {
            return Ok(listed);
        }
        let shared: BTreeSet<String> =
            blocking(move || accounts.visible(&person)).await?.into_iter().collect();
        Ok(Some(match listed {
            Some(listed) => shared.intersection(&listed).cloned().collect(),
            None => shared,
        }))
    }

    /// The data folder.
    pub(super) fn data_dir(&self) -> &Path {
        &self.0.data_dir
    }

    /// Locked while a backup is made.
    pub(super) fn backup_lock(&self) -> Arc<Mutex<()>> {
        self.0.backup_lock.clone()
    }

    /// The working process.
    ///
    /// # Errors
    /// If the process still starts.
    pub(super) fn service(&self) -> Result<&Service, Problem> {
        self.0.service.get().ok_or_else(starting)
    }
}

fn starting() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is starting: retry in a moment")
}

/// Most reads of histories at the same time: each takes a core and memory from the experiments.
const READS_MAX: usize = 2;

/// Reads histories on a thread that may block.
///
/// # Errors
/// The response to the failure.
pub(super) async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    static TURNS: Semaphore = Semaphore::const_new(READS_MAX);
    let _turn = TURNS.acquire().await.map_err(Problem::internal)?;
    tokio::task::spawn_blocking(read).await.map_err(Problem::internal)?.map_err(problem_of_failure)
}

/// The response to an order that only a server can obey.
pub(super) fn not_a_server() -> Problem {
    let reason = "`dissent run` has the event log open: stop it, or use a server (`dissent serve`)";
    Problem::new(StatusCode::CONFLICT, reason)
}

/// The experiment that a path names, and its rest.
pub(super) struct Named(pub(super) ExperimentId);

impl FromRequestParts<Api> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Api) -> Result<Self, Problem> {
        let params = axum::extract::Path::<HashMap<String, String>>::from_request_parts(parts, state);
        let params = params.await.map_err(|error| Problem::new(error.status(), error.body_text()))?;
        let name = params.get("name").cloned().unwrap_or_default();
        let named = ExperimentId::new(name);
        named.map(Self).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))
    }
}

/// A JSON body within the limits of size and time.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_is_json(request.headers())?;
        let bytes = read_within(Bytes::from_request(request, state), BODY_TIMEOUT).await?;
        let parsed = serde_json::from_slice(&bytes);
        parsed
            .map(Self)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("invalid request body: {error}")))
    }
}

/// A body of text within the limits of size and time. The handler checks its type.
pub(super) struct Text(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = read_within(Bytes::from_request(request, state), BODY_TIMEOUT).await?;
        let text = String::from_utf8(bytes.into());
        text.map(Self)
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "invalid request body: it is not UTF-8"))
    }
}

/// Refuses other bodies than JSON: a form in a page cannot send this content type.
fn check_is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let reason = "unsupported content type: send a body of application/json";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason))
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

pub(super) fn problem_of(error: CommandError) -> Problem {
    match error {
        CommandError::Unknown(_) => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
        CommandError::Rejected { .. } | CommandError::JudgementsRejected { .. } => {
            Problem::new(StatusCode::CONFLICT, error.to_string())
        }
        CommandError::Gone => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
        CommandError::Load(_) | CommandError::Log(_) | CommandError::Encode(_) => Problem::internal(error),
    }
}

/// The response to a request whose input is at fault, or to one that failed here.
pub(super) fn problem_of_failure(error: anyhow::Error) -> Problem {
    match FailureKind::of(&error) {
        FailureKind::BadInput => Problem::new(StatusCode::CONFLICT, format!("{error:#}")),
        FailureKind::Failed | FailureKind::Differs | FailureKind::Interrupted => Problem::internal(error),
    }
}

pub(super) fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[tokio::test]
    async fn a_late_body_is_refused() {
        let refused = read_within(std::future::pending(), Duration::ZERO).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[test]
    fn json_is_accepted_with_any_case_and_parameters() {
        let checked = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            check_is_json(&headers).map_err(|problem| problem.status())
        };
        for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"]
        {
            assert_eq!(checked(kind), Ok(()), "{kind}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert_eq!(checked(kind), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{kind:?}");
        }
        assert!(check_is_json(&HeaderMap::new()).is_err());
    }
}
