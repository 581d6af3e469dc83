//! Traces over OTLP. OpenTelemetry's environment variables configure them; without a collector there are
//! none.

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

/// Variables that name a collector and so turn traces on. The first overrides the second.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const PROTOCOL: &str = "http/protobuf";
/// Variables with the time limit of a request, in milliseconds.
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Longest wait for the last spans at the end of the process.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);

/// The running exporter of traces.
pub(super) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts an exporter on its own thread; none if the environment names no collector. `name` is the
    /// default service name.
    ///
    /// # Errors
    /// If the environment has an invalid or unsupported setting, such as another protocol.
    pub(super) fn of_environment(name: &'static str) -> anyhow::Result<Option<Self>> {
        let is_off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || set("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none");
        let Some((variable, endpoint)) = first_set(&ENDPOINTS).filter(|_| !is_off) else { return Ok(None) };
        let shown = without_password(&endpoint);
        check_transport(variable, &endpoint)?;
        let collector = Collector::new(shown.clone(), timeout()?);
        // One retry covers a short failure. More would delay the end of the process.
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

    /// Returns the layer that exports the program's own spans. Spans of libraries are not exported.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        OpenTelemetryLayer::new(self.provider.tracer("dissent"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            // Messages take their trace context from the span itself.
            .with_context_activation(false)
            .with_filter(Targets::new().with_target("dissent", LevelFilter::INFO))
    }

    /// Sends the remaining spans, within a time limit.
    pub(super) fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FINISH_TIMEOUT) {
            tracing::warn!(%error, "dropping the last spans");
        }
    }
}

/// Returns the value of a variable; none if it is unset or blank.
fn set(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.trim().is_empty())
}

fn first_set(variables: &[&'static str]) -> Option<(&'static str, String)> {
    variables.iter().find_map(|variable| Some((*variable, set(variable)?)))
}

/// Removes user and password from an address. Everything before the last `@` goes, because an invalid address
/// may have them anywhere.
fn without_password(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").map_or(("", endpoint), |(scheme, rest)| (scheme, rest));
    match rest.rsplit_once('@') {
        None => endpoint.to_owned(),
        Some((_, host)) if scheme.is_empty() => host.to_owned(),
        Some((_, host)) => format!("{scheme}://{host}"),
    }
}

/// Refuses unsupported schemes and protocols, which would otherwise fail on every request without a reason.
fn check_transport(variable: &str, endpoint: &str) -> Result<(), BadInput> {
    if !endpoint.starts_with("http://") {
        return Err(BadInput(format!(
            "{variable} {} is not supported: use http:// to a local collector that forwards the spans",
            without_password(endpoint)
        )));
    }
    match first_set(&PROTOCOLS) {
        Some((variable, protocol)) if protocol != PROTOCOL => {
            Err(BadInput(format!("{variable} {protocol} is not supported: use {PROTOCOL}")))
        }
        _ => Ok(()),
    }
}

fn timeout() -> Result<Duration, BadInput> {
    let Some((variable, text)) = first_set(&TIMEOUTS) else { return Ok(TIMEOUT_DEFAULT) };
    let milliseconds = text
        .parse()
        .map_err(|_| BadInput(format!("{variable} {text} is not a number: use whole milliseconds")))?;
    Ok(Duration::from_millis(milliseconds))
}

/// Returns the resource of the spans: `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`, and version and id
/// of the process.
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
