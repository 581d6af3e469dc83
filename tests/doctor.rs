//! `dissent doctor` names each requirement of a run, and fails if one is missing.

use std::path::Path;
use std::process::Command;

use dissent_models::cache::cache_dir;
use dissent_models::runtime::OnnxRuntime;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::required::required;

/// A folder in which no process can create a file, not even as root.
const READ_ONLY: &str = "/proc/dissent";

/// `dissent doctor` in an environment where every check succeeds.
struct Doctor {
    folder: TempDir,
    command: Command,
}

impl Doctor {
    /// Requires ONNX Runtime.
    fn new() -> Option<Self> {
        let runtime = required(OnnxRuntime::load(None))?;
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.arg("doctor").env("ORT_DYLIB_PATH", &runtime.path);
        command.env("DISSENT_CACHE", folder.path().join("cache"));
        command.env("DISSENT_DATA", folder.path().join("data"));
        Some(Self { folder, command })
    }

    /// Runs it and returns the exit code, and the findings as `(what, ok, found)`.
    fn findings(mut self) -> (i32, Vec<(String, bool, String)>) {
        let output = self.command.arg("--json").output().unwrap();
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let finding = |finding: &Value| {
            (text(finding, "what"), finding["ok"].as_bool().unwrap(), text(finding, "found"))
        };
        (output.status.code().unwrap(), findings.iter().map(finding).collect())
    }

    /// Runs it, expects that only this check fails, and returns the check's finding.
    fn fails_at(self, failing: &str) -> String {
        let (code, findings) = self.findings();
        assert_eq!(code, 1, "{findings:?}");
        for (what, ok, found) in &findings {
            // The example model is not in an empty cache; a run does not need it.
            assert_eq!(*ok, what != failing && what != EXAMPLE, "{what}: {found}");
        }
        findings.into_iter().find(|(what, ..)| what == failing).unwrap().2
    }
}

const EXAMPLE: &str = "example model";

#[test]
fn doctor_succeeds_with_a_runtime_and_writable_folders() {
    let Some(doctor) = Doctor::new() else { return };
    let cache = doctor.folder.path().join("cache").display().to_string();
    let (code, findings) = doctor.findings();
    assert_eq!(code, 0, "{findings:?}");
    let all: Vec<(&str, bool)> = findings.iter().map(|(what, ok, _)| (what.as_str(), *ok)).collect();
    let expected = [
        ("ONNX Runtime", true),
        ("providers", true),
        ("cache folder", true),
        ("data folder", true),
        (EXAMPLE, false),
    ];
    assert_eq!(all, expected);
    assert!(findings[1].2.contains("cpu"), "{findings:?}");
    assert!(findings[2].2.contains(&cache), "{findings:?}");
    assert!(findings[4].2.contains("cargo xtask fetch"), "{findings:?}");
}

#[test]
fn doctor_finds_the_example_model_in_the_cache() {
    let Some(mut doctor) = Doctor::new() else { return };
    let model = Path::new("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let cache = doctor.folder.path().join("cache");
    std::fs::create_dir_all(cache.join("models")).unwrap();
    std::fs::write(cache.join(model), "a model").unwrap();
    let output = doctor.command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(cache.join(model).to_str().unwrap()), "{text}");
    assert_eq!(text.lines().count(), 5, "a line for each check: {text}");
    let (_, findings) = doctor.findings();
    assert!(findings.iter().all(|(_, ok, _)| *ok), "{findings:?}");
}

#[test]
fn doctor_fails_without_onnx_runtime_and_names_the_way_to_get_it() {
    let Some(mut doctor) = Doctor::new() else { return };
    doctor.command.env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so");
    let found = doctor.fails_at("ONNX Runtime");
    assert!(found.contains("/nowhere/libonnxruntime.so") && found.contains("cargo xtask fetch"), "{found}");
}

#[test]
fn doctor_fails_if_the_named_library_is_not_onnx_runtime() {
    let Some(mut doctor) = Doctor::new() else { return };
    let library = doctor.folder.path().join("libonnxruntime.so");
    std::fs::write(&library, "not a library").unwrap();
    doctor.command.arg("--onnxruntime").arg(&library);
    let found = doctor.fails_at("ONNX Runtime");
    assert!(found.contains(library.to_str().unwrap()), "{found}");
}

#[test]
fn doctor_fails_if_the_cache_folder_is_not_writable() {
    let Some(mut doctor) = Doctor::new() else { return };
    doctor.command.env("DISSENT_CACHE", READ_ONLY);
    assert!(doctor.fails_at("cache folder").contains(READ_ONLY));
}

#[test]
fn doctor_fails_without_a_cache_folder_and_names_the_variable() {
    let Some(mut doctor) = Doctor::new() else { return };
    for variable in ["DISSENT_CACHE", "XDG_CACHE_HOME", "HOME"] {
        doctor.command.env_remove(variable);
    }
    assert!(doctor.fails_at("cache folder").contains("DISSENT_CACHE"));
}

#[test]
fn doctor_fails_if_the_data_folder_is_not_writable() {
    let Some(mut doctor) = Doctor::new() else { return };
    doctor.command.env("DISSENT_DATA", READ_ONLY);
    assert!(doctor.fails_at("data folder").contains(READ_ONLY));
}

/// The cache that the other tests use is the one that `dissent doctor` finds without variables of its own.
#[test]
fn doctor_succeeds_in_the_environment_of_the_tests() {
    if required(OnnxRuntime::load(None)).is_none() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_dissent"));
    doctor.arg("doctor").env("DISSENT_DATA", data.path());
    let output = doctor.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains(cache_dir().unwrap().to_str().unwrap()), "{text}");
}
