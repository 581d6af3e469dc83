//! The telemetry of the program: log lines on stderr, and traces if the environment names a collector.

mod collector;
mod traces;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;

use anyhow::Context as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::error::BadInput;
use traces::Traces;

/// The filter of the log lines of this process.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Format of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line, for programs
    Json,
}

/// Settings of log and traces.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    /// Filter of the log lines, such as `info` or `dissent_actors=debug`.
    pub(crate) filter: &'a str,
    pub(crate) format: LogFormat,
    /// Default service name of this process in traces. Without one, the process sends no traces.
    pub(crate) traced_as: Option<&'static str>,
}

/// The running telemetry. Call [`finish`](Self::finish) before the process ends.
pub(crate) struct Telemetry {
    traces: Option<Traces>,
}

impl Telemetry {
    /// Starts the log, and the traces if the environment names a collector.
    ///
    /// # Errors
    /// If the filter is invalid, or the environment asks for an unsupported way of sending traces.
    pub(crate) fn start(settings: &Settings<'_>) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(parsed(settings.filter)?);
        // The telemetry starts once in a process.
        let _first = FILTER.set(handle);
        let log = log_layer(settings.format, io::stderr).with_filter(filter);
        let traces = settings.traced_as.map(Traces::of_environment).transpose()?.flatten();
        match &traces {
            // No layer at all is cheaper than an absent one.
            None => tracing_subscriber::registry().with(log).init(),
            Some(traces) => tracing_subscriber::registry().with(log).with(traces.layer()).init(),
        }
        Ok(Self { traces })
    }

    /// Sends the last spans.
    pub(crate) fn finish(&mut self) {
        if let Some(traces) = self.traces.take() {
            traces.finish();
        }
    }
}

/// Replaces the filter of the log lines.
///
/// # Errors
/// If the filter is invalid, or the telemetry has not started.
pub(crate) fn set_filter(filter: &str) -> anyhow::Result<()> {
    let handle = FILTER.get().context("the telemetry has not started")?;
    Ok(handle.reload(parsed(filter)?)?)
}

fn parsed(filter: &str) -> Result<EnvFilter, BadInput> {
    // The error's text repeats its source, so the chain would print it twice.
    EnvFilter::try_new(filter).map_err(|error| BadInput(format!("--log-filter {filter}: {error}")))
}

/// Prints the error of a failed command on stderr, independent of the log filter.
pub(crate) fn print_failure(format: LogFormat, error: &anyhow::Error) {
    match format {
        LogFormat::Text => print_line(format, "ERROR", &format!("dissent: {error:#}")),
        LogFormat::Json => print_line(format, "ERROR", &format!("{error:#}")),
    }
}

/// Prints a line on stderr in the format of the log, independent of the log filter.
pub(crate) fn print_line(format: LogFormat, level: &str, text: &str) {
    // A closed stderr is ignored.
    let _ = match format {
        LogFormat::Text => writeln!(io::stderr(), "{text}"),
        LogFormat::Json => {
            let line = serde_json::json!({"level": level, "message": text, "target": "dissent"});
            writeln!(io::stderr(), "{line}")
        }
    };
}

fn log_layer<W>(format: LogFormat, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        // The event's fields stand beside its message. The fields of its spans are in `spans`, outermost
        // first.
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_has_the_fields_of_its_event_and_of_its_spans() {
        let written = Written::default();
        let made = written.clone();
        let subscriber = Registry::default().with(log_layer(LogFormat::Json, move || made.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let _outer = tracing::info_span!("delivery", step = "reward", event_seq = 7).entered();
            tracing::warn!(attempt = 2, error = "a line\nbreak", "retrying");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((line["level"].as_str(), line["message"].as_str()), (Some("WARN"), Some("retrying")));
        assert_eq!((line["attempt"].as_u64(), line["error"].as_str()), (Some(2), Some("a line\nbreak")));
        let span = &line["spans"][0];
        assert_eq!((span["name"].as_str(), span["step"].as_str()), (Some("delivery"), Some("reward")));
        assert_eq!(span["event_seq"].as_u64(), Some(7));
    }
}
