//! `dissent init` and `dissent schema`.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Lab, Setup, succeeded};

fn lab() -> Option<Lab> {
    Lab::new(&Setup { prompts: 3, samples: 2, max_new_tokens: 4, ..Setup::default() })
}

fn adapter() -> String {
    format!("{}/models/tests/golden/llama-reward", env!("CARGO_MANIFEST_DIR"))
}

fn init(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
    command
        .arg("init")
        .args(arguments)
        .current_dir(lab.data_dir(""))
        .env_remove("DISSENT_DATA")
        .stdin(Stdio::null());
    command
}

fn options(lab: &Lab) -> Vec<String> {
    let policy = lab.policy().to_str().unwrap().to_owned();
    ["--prompts", "prompts.jsonl", "--policy", &policy, "--reward", &policy, "--reward-adapter", &adapter()]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn a_configuration_from_options_is_commented_and_runs() {
    let Some(lab) = lab() else { return };
    let base = options(&lab);
    let base: Vec<&str> = base.iter().map(String::as_str).collect();
    for (name, more) in [
        ("plain", vec![]),
        ("asked", vec!["--feedback", "people", "--held-out", "held-out.jsonl", "--budget", "3"]),
        ("trial", vec!["--feedback", "oracle", "--held-out", "held-out.jsonl", "--budget", "3"]),
    ] {
        let file = format!("{name}.toml");
        let size = ["--samples", "2", "--max-new-tokens", "4", &file];
        let said = succeeded(init(&lab, &[base.as_slice(), &more, &size].concat())).stdout;
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(&format!("dissent run {file} --dry-run")), "{said}");
        let text = std::fs::read_to_string(lab.data_dir(&file)).unwrap();
        assert!(text.contains(&format!("name = \"{name}\"")), "{text}");
        assert!(text.lines().filter(|line| line.contains('#')).count() > 8, "{text}");
        let run = lab.dissent(
            "data",
            &[
                "run",
                lab.data_dir(&file).to_str().unwrap(),
                "--set",
                "tuning.steps=1",
                "--set",
                "refinement.steps=1",
            ],
        );
        if name == "plain" {
            succeeded(lab.dissent("data", &["run", lab.data_dir(&file).to_str().unwrap()]));
        } else {
            let mut run = run;
            run.args(["--set", "refinement.epochs=", "--set", "tuning.epochs="]);
            succeeded(run);
        }
        succeeded(lab.dissent("data", &["experiment", "show", name]));
    }
}

#[test]
fn a_missing_option_a_bad_file_and_an_existing_one_are_refused_and_nothing_is_written() {
    let Some(lab) = lab() else { return };
    let base = options(&lab);
    let base: Vec<&str> = base.iter().map(String::as_str).collect();
    for (arguments, named) in [
        (vec!["new.toml"], "--prompts"),
        (base[..2].to_vec(), "--policy"),
        ([base.as_slice(), &["--feedback", "people"]].concat(), "--held-out"),
        ([base.as_slice(), &["--budget", "many"]].concat(), "--budget"),
        ([&["--prompts", "none.jsonl"], &base[2..]].concat(), "none.jsonl"),
        ([&base[..2], &["--policy", "none.gguf"], &base[4..]].concat(), "none.gguf"),
        ([base.as_slice(), &["--name", "../x"]].concat(), "--name"),
    ] {
        // Without the model of the demo, no model is the default.
        let output = init(&lab, &arguments).env("DISSENT_CACHE", lab.data_dir("cache")).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(named), "{arguments:?}: {text}");
        assert!(!lab.data_dir("experiment.toml").exists() && !lab.data_dir("new.toml").exists());
    }
    let before = std::fs::read_to_string(lab.config()).unwrap();
    let arguments = [base.as_slice(), &["lab.toml"]].concat();
    let output = init(&lab, &arguments).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("--overwrite"));
    assert_eq!(std::fs::read_to_string(lab.config()).unwrap(), before);
    succeeded(init(&lab, &[arguments.as_slice(), &["--overwrite"]].concat()));
    assert_ne!(std::fs::read_to_string(lab.config()).unwrap(), before);
}

#[test]
fn the_schema_is_json_and_names_every_section() {
    let output = succeeded({
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.arg("schema");
        command
    });
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["$schema"].as_str().unwrap().starts_with("http://json-schema.org/"));
    for section in ["experiment", "prompts", "policy", "reward", "conflict", "feedback", "tuning", "guards"] {
        let found = &schema["properties"][section];
        assert_eq!(found["additionalProperties"], false, "{section}");
        assert!(found["description"].is_string(), "{section}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
    command.args(["schema", "-o", "s.json"]).current_dir(folder.path());
    succeeded(command);
    assert_eq!(
        serde_json::from_slice::<Value>(&std::fs::read(folder.path().join("s.json")).unwrap()).unwrap(),
        schema
    );
}
