//! What is said over HTTP when a request is not followed: problem details (RFC 9457).

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request is not followed.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// A fault of this process: what it is goes to its log, and not to whoever asks.
    pub(super) fn internal(error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        tracing::error!(error = format!("{error:#}"), "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "it failed: the server's log says why")
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail } = self;
        let title = status.canonical_reason().unwrap_or("failed");
        let body = json!({ "title": title, "status": status.as_u16(), "detail": detail }).to_string();
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, kind, body).into_response();
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

    use super::*;

    #[test]
    fn the_log_has_the_causes_of_a_failure_and_who_asked_is_told_none_of_them() {
        let written = tempfile::NamedTempFile::new().unwrap();
        let writer = Arc::new(written.reopen().unwrap());
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        let error = anyhow::anyhow!("the disk is full").context("failed to back up");
        let problem = tracing::subscriber::with_default(log, || Problem::internal(error));
        assert_eq!(problem.detail, "it failed: the server's log says why");
        let logged = std::fs::read_to_string(written.path()).unwrap();
        assert!(logged.contains("failed to back up: the disk is full"), "{logged}");
    }
}
