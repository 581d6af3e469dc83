//! HTTP errors as problem details (RFC 9457), with the id of the request.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::request_id;

/// The reason why a request is refused or has failed.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    /// Seconds after which the request may succeed.
    retry_after: Option<u64>,
    /// Further fields of the body.
    more: Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        // Not looked at, while the process starts or stops.
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Self { status, detail: detail.into(), retry_after, more: Map::new() }
    }

    /// Too many requests: the client may try again after these seconds.
    pub(crate) fn too_many(detail: impl Into<String>, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    /// Adds a field to the body.
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.more.insert(key.to_owned(), value);
        self
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// Reports a fault of this process. The causes go to the log with the id of the request, and the client
    /// gets the id alone.
    pub(crate) fn internal(error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        let id = request_id::current().unwrap_or_default();
        tracing::error!(request_id = %id, error = format!("{error:#}"), "failed to handle request");
        let detail = format!("internal error: see the server log, request id {id}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail, retry_after, more } = self;
        let title = status.canonical_reason().unwrap_or("failed");
        let mut body = json!({ "title": title, "status": status.as_u16(), "detail": detail });
        if let Some(id) = request_id::current() {
            body["request_id"] = id.to_string().into();
        }
        for (key, value) in more {
            body[key] = value;
        }
        let body = body.to_string();
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, kind, body).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::routing::get;
    use http_body_util::BodyExt as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    async fn failing() -> Result<(), Problem> {
        Err(Problem::internal(anyhow::anyhow!("the disk is full").context("failed to back up")))
    }

    #[test]
    fn header_body_and_log_of_a_failure_have_the_request_id_and_only_the_log_has_the_causes() {
        use hyper::service::Service as _;

        let written = tempfile::NamedTempFile::new().unwrap();
        let writer = Arc::new(written.reopen().unwrap());
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        let routes = request_id::with_request_ids(Router::new().route("/", get(failing)));
        let service = TowerToHyperService::new(routes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (header, body) = tracing::subscriber::with_default(log, || {
            runtime.block_on(async {
                let request = hyper::Request::get("/").body(axum::body::Body::empty()).unwrap();
                let response = service.call(request).await.unwrap();
                assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
                assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
                let id = response.headers()[request_id::HEADER].to_str().unwrap().to_owned();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                (id, serde_json::from_slice::<serde_json::Value>(&body).unwrap())
            })
        });
        assert_eq!(body["request_id"], header);
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.ends_with(&header) && !detail.contains("disk"), "{detail}");
        let logged = std::fs::read_to_string(written.path()).unwrap();
        let id = format!("request_id={header}");
        assert!(logged.contains("failed to back up: the disk is full") && logged.contains(&id), "{logged}");
    }

    #[test]
    fn ids_of_requests_differ() {
        assert_ne!(request_id::RequestId::new(), request_id::RequestId::new());
    }
}
