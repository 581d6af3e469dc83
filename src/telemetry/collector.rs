//! The way to a collector: one request at a time, from the thread that sends spans.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;

/// Most bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// A collector. One that is away costs spans and a warning, no more.
pub(super) struct Collector {
    agent: Agent,
    /// Where it is, as it may be shown.
    endpoint: String,
    /// It is said once for each absence: one may last for days.
    is_away: AtomicBool,
}

impl Collector {
    pub(super) fn new(endpoint: String, timeout: Duration) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            // What the collector answers is looked at here and by the exporter.
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .new_agent();
        Self { agent, endpoint, is_away: AtomicBool::new(false) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }

    fn take_note(&self, trouble: Option<String>) {
        let was_away = self.is_away.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(error) if !was_away => {
                tracing::warn!(endpoint = self.endpoint, %error, "the collector does not take spans: they are lost");
            }
            None if was_away => tracing::info!(endpoint = self.endpoint, "the collector takes spans again"),
            _ => {}
        }
    }
}

impl HttpClient for Collector {
    // As `async_trait` writes it. The thread that sends spans has nothing else to do: it may block.
    fn send_bytes<'this, 'answer>(
        &'this self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'answer>>
    where
        'this: 'answer,
        Self: 'answer,
    {
        let answer = self.send(request);
        self.take_note(match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error.to_string()),
        });
        Box::pin(std::future::ready(answer.map_err(Into::into)))
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
