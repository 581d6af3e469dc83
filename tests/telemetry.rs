//! Log lines and traces of the program.

use std::process::Command;

use serde_json::Value;

use crate::support::{Lab, Setup, succeeded};

/// Runs a command and returns the JSON objects of its stderr.
fn stderr_objects(mut command: Command) -> Vec<Value> {
    let output = command.env("DISSENT_LOG_FORMAT", "json").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        assert!(value.is_object(), "not an object: {line:?}");
        value
    };
    stderr.lines().map(object).collect()
}

#[test]
fn json_log_lines_are_objects_with_the_fields_of_their_spans() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let config = lab.config();
    let arguments = ["run", config.to_str().unwrap(), "--log-filter", "dissent=debug,dissent_actors=debug"];
    let lines = stderr_objects(lab.dissent("data", &arguments));
    let in_step = |line: &Value, step: &str| {
        line["spans"].as_array().is_some_and(|spans| spans.iter().any(|span| span["step"] == step))
    };
    for step in ["generation", "reward", "conflict"] {
        assert!(lines.iter().any(|line| in_step(line, step)), "no line of the {step} step: {lines:?}");
    }
    assert!(lines.iter().any(|line| line["message"] == "opening the models"), "{lines:?}");
}

#[test]
fn a_failure_is_printed_in_the_log_format() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
    command.arg("--data-dir").arg(folder.path()).args(["report", "nothing", "--log-format", "json"]);
    let lines = stderr_objects(command);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["level"], "ERROR");
    assert!(lines[0]["message"].as_str().unwrap().contains("no event log in"), "{lines:?}");
}

#[test]
fn an_unreachable_collector_costs_one_warning() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let config = lab.config();
    let mut command = lab.dissent("data", &["run", config.to_str().unwrap()]);
    // A port without a listener, and frequent exports.
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").env("OTEL_BSP_SCHEDULE_DELAY", "20");
    let output = succeeded(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.matches("dropping spans that the collector does not accept").count(), 1, "{stderr}");
    succeeded(lab.dissent("data", &["replay", "lab", "--verify"]));
}

#[test]
fn unsupported_trace_settings_are_refused() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let config = lab.config();
    for (name, value) in
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]
    {
        let mut command = lab.dissent("data", &["run", config.to_str().unwrap()]);
        let output = command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
            .env(name, value)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.contains(name) && stderr.contains(value) && stderr.contains("not supported"),
            "{stderr}"
        );
    }
}

#[test]
fn the_password_of_a_collector_is_never_printed() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    let config = lab.config();
    for (endpoint, expected) in [
        ("https://ann:secret@collector:4318", "https://collector:4318 is not supported"),
        ("http://ann:secret@col lector:4318", "http://col lector:4318: "),
        ("http://ann:secret@127.0.0.1:9", "endpoint=\"http://127.0.0.1:9\""),
    ] {
        let mut command = lab.dissent("data", &["run", config.to_str().unwrap()]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "20");
        let stderr = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(stderr.contains(expected) && !stderr.contains("secret"), "{stderr}");
    }
}
