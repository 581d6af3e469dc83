//! Logs and traces of the program.

use std::process::Command;

use serde_json::Value;

use crate::support::{Lab, Setup, succeeded};

/// The JSON objects that a command writes to stderr.
fn said_as_json(mut command: Command) -> Vec<Value> {
    let output = command.env("DISSENT_LOG_FORMAT", "json").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        assert!(value.is_object(), "no object: {line:?}");
        value
    };
    said.lines().map(object).collect()
}

#[test]
fn json_log_lines_are_objects_with_the_fields_of_their_spans() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let config = lab.config();
    let arguments = ["run", config.to_str().unwrap(), "--log-filter", "dissent=debug,dissent_actors=debug"];
    let said = said_as_json(lab.dissent("data", &arguments));
    let in_step = |line: &Value, step: &str| {
        line["spans"].as_array().is_some_and(|spans| spans.iter().any(|span| span["step"] == step))
    };
    for step in ["generation", "reward", "conflict"] {
        assert!(said.iter().any(|line| in_step(line, step)), "nothing is said by {step}: {said:?}");
    }
    assert!(said.iter().any(|line| line["message"] == "opening the models"), "{said:?}");
}

#[test]
fn a_failure_is_printed_in_the_log_format() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
    command.arg("--data-dir").arg(folder.path()).args(["report", "nothing", "--log-format", "json"]);
    let said = said_as_json(command);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["level"], "ERROR");
    assert!(said[0]["message"].as_str().unwrap().contains("no event log in"), "{said:?}");
}

#[test]
fn an_unreachable_collector_costs_one_warning() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let config = lab.config();
    let mut command = lab.dissent("data", &["run", config.to_str().unwrap()]);
    // A port without a listener, and frequent exports.
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").env("OTEL_BSP_SCHEDULE_DELAY", "20");
    let output = succeeded(command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("the collector does not take spans").count(), 1, "{said}");
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
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(name) && said.contains("only"), "{said}");
    }
}

#[test]
fn the_password_of_a_collector_is_never_printed() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    let config = lab.config();
    for (endpoint, told) in [
        ("https://ann:secret@collector:4318", "https://collector:4318: spans are sent over http:// only"),
        ("http://ann:secret@col lector:4318", "http://col lector:4318: "),
        ("http://ann:secret@127.0.0.1:9", "endpoint=\"http://127.0.0.1:9\""),
    ] {
        let mut command = lab.dissent("data", &["run", config.to_str().unwrap()]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "20");
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(said.contains(told) && !said.contains("secret"), "{said}");
    }
}
