//! Compatibility with data of version 0.1 (`tests/fixtures/past`): it verifies, replays to the same states
//! and continues.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use dissent_domain::event::EventType;
use dissent_models::runtime::OnnxRuntime;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{required::required, succeeded};

const EXPERIMENTS: [&str; 9] = [
    "cancelled",
    "created",
    "finished",
    "forked",
    "forked-finished",
    "half-way",
    "paused",
    "people",
    "stopped",
];

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/past")
}

fn exported(file: &str) -> String {
    std::fs::read_to_string(fixture().join("exports").join(file)).unwrap()
}

/// A writable copy of the fixture.
struct FixtureCopy(TempDir);

impl FixtureCopy {
    fn new() -> Self {
        let past = Self(tempfile::tempdir().unwrap());
        copy(&fixture(), past.0.path());
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        for name in EXPERIMENTS.into_iter().filter(|&name| past.config(name).exists()) {
            let text = std::fs::read_to_string(past.config(name)).unwrap();
            std::fs::write(past.config(name), text.replace("../../../models", models.to_str().unwrap()))
                .unwrap();
        }
        past
    }

    fn config(&self, experiment: &str) -> PathBuf {
        self.0.path().join(experiment).with_extension("toml")
    }

    fn dissent(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.current_dir(&self.0).args(["--data-dir", "data"]).args(arguments);
        String::from_utf8(succeeded(command).stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.dissent(arguments)).unwrap()
    }

    fn run(&self, experiment: &str) {
        self.dissent(&["run", self.config(experiment).to_str().unwrap()]);
    }

    fn states(&self) -> BTreeMap<String, (Value, Value)> {
        let listed = self.json(&["experiment", "--json", "list"]);
        let of = |it: &Value| {
            (it["experiment"].as_str().unwrap().to_owned(), (it["state"].clone(), it["events"].clone()))
        };
        listed.as_array().unwrap().iter().map(of).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Returns the fields of `now` that `then` has, too. Later versions may add fields but change none.
fn common_fields(then: &Value, now: &Value) -> Value {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            let of = |(key, value)| Some((String::clone(key), common_fields(value, now.get(key)?)));
            Value::Object(then.iter().filter_map(of).collect())
        }
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            Value::Array(then.iter().zip(now).map(|(then, now)| common_fields(then, now)).collect())
        }
        _ => now.clone(),
    }
}

#[test]
fn the_fixture_of_version_0_1_has_every_event_type() {
    let log = exported("events.jsonl");
    for kind in EventType::ALL.iter().filter(|kind| kind.version() <= 2) {
        assert!(log.contains(&format!("\"event_type\":\"{}\"", kind.name())), "{}", kind.name());
    }
}

#[test]
fn data_of_version_0_1_verifies_and_replays_to_the_same_states() {
    let past = FixtureCopy::new();
    past.dissent(&["log", "verify"]);
    let verified = past.json(&["replay", "--verify", "--json"]);
    assert_eq!(verified["experiments"].as_array().unwrap().len(), EXPERIMENTS.len());
    for experiment in EXPERIMENTS {
        let then: Value = serde_json::from_str(&exported(&format!("{experiment}.json"))).unwrap();
        let now = past.json(&["experiment", "--json", "show", experiment]);
        assert_eq!(common_fields(&then, &now), then, "{experiment}");
        let sound =
            verified["experiments"].as_array().unwrap().iter().find(|it| it["experiment"] == experiment);
        assert_eq!(sound.unwrap()["sound"], true, "{experiment}");
        assert_eq!(sound.unwrap()["state_hash"], then["overview"]["state_hash"], "{experiment}");
    }
}

#[test]
fn data_of_version_0_1_exports_and_imports_the_same_bytes() {
    let past = FixtureCopy::new();
    assert!(past.dissent(&["log", "export"]) == exported("events.jsonl"), "the export of the log changed");
    let tables =
        ["completions", "scores", "conflicts", "comparisons", "feedback", "trainings", "evaluations"];
    for table in tables {
        let now = past.dissent(&["log", "export", "--table", table]);
        assert!(now == exported(&format!("{table}.jsonl")), "the table {table} changed");
    }
    let comparisons = past.dissent(&["feedback", "export", "people", "--format", "jsonl", "--output", "-"]);
    assert_eq!(comparisons.lines().count() + 1, exported("people-comparisons.jsonl").lines().count());
    let events = fixture().join("exports/events.jsonl");
    let mut import = Command::new(env!("CARGO_BIN_EXE_dissent"));
    import.current_dir(&past.0).args(["--data-dir", "imported", "log", "import", events.to_str().unwrap()]);
    succeeded(import);
    let mut export = Command::new(env!("CARGO_BIN_EXE_dissent"));
    export.current_dir(&past.0).args(["--data-dir", "imported", "log", "export"]);
    assert!(succeeded(export).stdout == exported("events.jsonl").into_bytes(), "an import changed something");
}

#[test]
fn reports_of_version_0_1_keep_their_fields_and_values() {
    let past = FixtureCopy::new();
    for experiment in EXPERIMENTS {
        let then: Value = serde_json::from_str(&exported(&format!("{experiment}-report.json"))).unwrap();
        let now = past.json(&["report", experiment, "--format", "json", "--output", "-"]);
        assert_eq!(common_fields(&then, &now), then, "{experiment}");
    }
}

#[test]
fn unfinished_experiments_of_version_0_1_continue_to_their_end() {
    if required(OnnxRuntime::load(None)).is_none() {
        return;
    }
    let past = FixtureCopy::new();
    let before = past.states();
    past.run("half-way");
    past.run("forked");
    past.dissent(&["experiment", "start", "created"]);
    past.run("created");
    past.dissent(&["experiment", "resume", "paused"]);
    for experiment in ["paused", "people"] {
        let exported =
            past.dissent(&["feedback", "export", experiment, "--format", "jsonl", "--output", "-"]);
        let judge = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["annotator"] = json!("ben");
            line["verdict"] = json!("second");
            format!("{line}\n")
        };
        std::fs::write(past.0.path().join("judged.jsonl"), exported.lines().map(judge).collect::<String>())
            .unwrap();
        past.dissent(&["feedback", "import", "judged.jsonl"]);
        past.run(experiment);
    }
    let verified = past.json(&["replay", "--verify", "--json"]);
    assert_eq!(verified["sound"], true);
    let after = past.states();
    for experiment in EXPERIMENTS {
        let (state, events) = &after[experiment];
        let (state_before, events_before) = &before[experiment];
        if matches!(experiment, "half-way" | "forked" | "created" | "paused" | "people") {
            assert_eq!(state, "finished", "{experiment}");
            assert!(events.as_u64() > events_before.as_u64(), "{experiment}");
        } else {
            assert_eq!((state, events), (state_before, events_before), "{experiment}");
        }
    }
    // The recorded events are unchanged; new events follow them.
    let then = exported("events.jsonl");
    let now = past.dissent(&["log", "export"]);
    let events = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert!(events(&now).starts_with(&events(&then)), "recorded events changed");
}
