//! The process behind the API, and the parts of requests and responses that all routes share.

use std::collections::HashMap;
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
use dissent_storage::{ArtifactStore, SledLog};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::error::FailureKind;
use crate::serving::experiments::Orders;
use crate::serving::problem::Problem;
use crate::serving::status::ServiceStatus;
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
}

/// The API of a process. Its routes exist before the process works, and answer 503 until then.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

struct Inner {
    data_dir: PathBuf,
    service: OnceLock<Service>,
    /// Locked while a backup is made, so that there is one at a time.
    backup_lock: Arc<Mutex<()>>,
}

impl Api {
    pub(crate) fn of(data_dir: &Path) -> Self {
        let data_dir = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
        Self(Arc::new(Inner { data_dir, service: OnceLock::new(), backup_lock: Arc::default() }))
    }

    /// Answers requests from now on.
    pub(crate) fn begin(&self, service: Service) {
        // It is called once.
        let _begun = self.0.service.set(service);
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
        self.0.service.get().ok_or_else(|| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is starting: retry in a moment")
        })
    }
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
