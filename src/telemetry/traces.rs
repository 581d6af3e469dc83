//! Traces over OTLP, as OpenTelemetry's environment variables ask for them. Off unless they name a collector.

use std::env;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::collector::Collector;
use crate::error::BadInput;

/// Any of them turns traces on; the first is read first.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const PROTOCOL: &str = "http/protobuf";
/// How long a request may take, in milliseconds.
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Longest wait for the last spans to be sent. All that matters is done by then.
const FINISH_MAX: Duration = Duration::from_secs(3);

/// Traces that are being sent.
pub(super) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts sending, from a thread of its own; none if the environment does not ask for it. `name` is what
    /// the process calls itself if the environment does not say.
    ///
    /// # Errors
    /// If the environment asks for what there is not, such as another protocol.
    pub(super) fn of_environment(name: &'static str) -> anyhow::Result<Option<Self>> {
        let is_off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || set("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none");
        let Some((variable, endpoint)) = first_set(&ENDPOINTS).filter(|_| !is_off) else { return Ok(None) };
        let shown = without_password(&endpoint);
        check_transport(variable, &endpoint)?;
        let collector = Collector::new(shown.clone(), timeout()?);
        // Once more, for a hiccup; what is longer than that is not to be waited for at the end.
        let retries = RetryPolicy::recommended().with_max_retries(1);
        let exporter = SpanExporter::builder().with_http().with_http_client(collector);
        let exporter = exporter.with_retry_policy(retries).build();
        let exporter = exporter.map_err(|error| {
            BadInput(format!("{variable} {shown}: {}", error.to_string().replace(&endpoint, &shown)))
        })?;
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(name)).build();
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Some(Self { provider }))
    }

    /// What makes spans of the program's own into spans of a trace; the libraries' are not of interest there.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        OpenTelemetryLayer::new(self.provider.tracer("dissent"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            // What a message carries on is taken from the span itself.
            .with_context_activation(false)
            .with_filter(Targets::new().with_target("dissent", LevelFilter::INFO))
    }

    /// Sends what is left, for a short while.
    pub(super) fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FINISH_MAX) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// The value of a variable that says something: an empty one counts as none.
fn set(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.trim().is_empty())
}

fn first_set(variables: &[&'static str]) -> Option<(&'static str, String)> {
    variables.iter().find_map(|variable| Some((*variable, set(variable)?)))
}

/// An address without its user and password. What is no proper address may have them anywhere: all before the
/// last `@` is left out.
fn without_password(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").map_or(("", endpoint), |(scheme, rest)| (scheme, rest));
    match rest.rsplit_once('@') {
        None => endpoint.to_owned(),
        Some((_, place)) if scheme.is_empty() => place.to_owned(),
        Some((_, place)) => format!("{scheme}://{place}"),
    }
}

/// Refuses what would otherwise fail again and again without a word on why.
fn check_transport(variable: &str, endpoint: &str) -> Result<(), BadInput> {
    if !endpoint.starts_with("http://") {
        return Err(BadInput(format!(
            "{variable} {}: spans are sent over http:// only; let a collector nearby carry them on",
            without_password(endpoint)
        )));
    }
    match first_set(&PROTOCOLS) {
        Some((variable, protocol)) if protocol != PROTOCOL => {
            Err(BadInput(format!("{variable} {protocol}: spans are sent as {PROTOCOL} only")))
        }
        _ => Ok(()),
    }
}

fn timeout() -> Result<Duration, BadInput> {
    let Some((variable, text)) = first_set(&TIMEOUTS) else { return Ok(TIMEOUT_DEFAULT) };
    let milliseconds = text.parse().map_err(|_| BadInput(format!("{variable} {text}: give milliseconds")))?;
    Ok(Duration::from_millis(milliseconds))
}

/// What the spans are of: as `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say, with this process beside
/// it.
fn resource(name: &'static str) -> Resource {
    let described = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())));
    let is_named = set("OTEL_SERVICE_NAME").is_some()
        || Resource::builder_empty()
            .with_detector(Box::new(opentelemetry_sdk::resource::EnvResourceDetector::new()))
            .build()
            .get(&Key::new("service.name"))
            .is_some();
    if is_named { described.build() } else { described.with_service_name(name).build() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_user_and_password() {
        for (endpoint, shown) in [
            ("http://collector:4318", "http://collector:4318"),
            ("http://ann:secret@collector:4318/v1", "http://collector:4318/v1"),
            ("https://ann:se/c@ret@collector", "https://collector"),
            ("ann:secret@collector:4318", "collector:4318"),
        ] {
            assert_eq!(without_password(endpoint), shown);
        }
    }
}
