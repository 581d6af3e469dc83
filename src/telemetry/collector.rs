//! The HTTP client of a collector: one request at a time, on the thread that sends spans.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;

/// Largest response body, in bytes.
const RESPONSE_BYTES_MAX: u64 = 64 << 10;

/// A collector. While it is unavailable, spans are lost and one warning is logged.
pub(super) struct Collector {
    agent: Agent,
    /// The endpoint without user and password.
    endpoint: String,
    /// Whether the last request failed. Only a change is logged, because an outage may last for days.
    is_failing: AtomicBool,
}

impl Collector {
    pub(super) fn new(endpoint: String, timeout: Duration) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            // The status is checked here and by the exporter.
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .new_agent();
        Self { agent, endpoint, is_failing: AtomicBool::new(false) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let response = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = response.into_parts();
        let body = body.with_config().limit(RESPONSE_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }

    fn log_change(&self, failure: Option<String>) {
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_failing => {
                tracing::warn!(endpoint = self.endpoint, %error, "dropping spans that the collector does not accept");
            }
            None if was_failing => tracing::info!(endpoint = self.endpoint, "resumed sending spans"),
            _ => {}
        }
    }
}

impl HttpClient for Collector {
    // The signature is that of `async_trait`. The call blocks, which the thread for spans may do.
    fn send_bytes<'this, 'response>(
        &'this self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'response>>
    where
        'this: 'response,
        Self: 'response,
    {
        let response = self.send(request);
        self.log_change(match &response {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("status {}", response.status())),
            Err(error) => Some(error.to_string()),
        });
        Box::pin(std::future::ready(response.map_err(Into::into)))
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
