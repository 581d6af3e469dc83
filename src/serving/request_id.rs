//! The id of an HTTP request, which appears in the response header, in problem details and in the log.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn};
use axum::response::Response;

/// The response header with the id.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: RequestId;
}

/// Identifies a request across processes by a random number of the process and a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RequestId {
    process: u32,
    count: u32,
}

impl RequestId {
    pub(crate) fn new() -> Self {
        static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let process = u32::try_from(*PROCESS >> 32).unwrap_or_default();
        Self { process, count: COUNT.fetch_add(1, Ordering::Relaxed) }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.process, self.count)
    }
}

/// Returns the id of the request that this task handles; none outside a request.
pub(crate) fn current() -> Option<RequestId> {
    CURRENT.try_with(|id| *id).ok()
}

/// Adds an id to each request of the routes.
pub(crate) fn with_request_ids(routes: Router) -> Router {
    routes.layer(from_fn(handle))
}

async fn handle(request: Request, next: Next) -> Response {
    let id = RequestId::new();
    let mut response = CURRENT.scope(id, next.run(request)).await;
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}
