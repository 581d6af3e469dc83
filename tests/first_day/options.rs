//! One spelling of every option, with the old ones as hidden forms, and `cache:` in every path.

use std::process::{Command, Output};

fn dissent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dissent")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Commands with old and neighbouring spellings. They fail for their missing files, not for an option.
const SPELLINGS: &[(&[&str], &[&str])] = &[
    (
        &["eval", "reward"],
        &[
            "--base",
            "none",
            "--layers",
            "2",
            "--adapter",
            "none",
            "--template",
            "raw",
            "--kind",
            "cost",
            "--label",
            "1",
            "--data",
            "none",
            "--prefer",
            "safer",
        ],
    ),
    (&["eval", "reward"], &["--model", "none", "--weights", "1,2", "--input", "none"]),
    (
        &["train", "reward"],
        &[
            "--reward",
            "none",
            "--reward-layers",
            "2",
            "--data",
            "none",
            "--output",
            "none",
            "--lr",
            "1e-3",
            "--grad-accum",
            "2",
            "--warmup",
            "0.1",
            "--prefer",
            "better",
        ],
    ),
    (
        &["train", "ppo"],
        &[
            "--policy",
            "none",
            "--layers",
            "2",
            "--reward",
            "none",
            "--reward-layers",
            "2",
            "--prompts",
            "none",
            "--output",
            "none",
            "--lr",
            "1e-3",
        ],
    ),
    (
        &["score"],
        &[
            "--reward",
            "none",
            "--layers",
            "2",
            "--policy",
            "none",
            "--policy-adapter",
            "none",
            "--input",
            "none",
            "--output",
            "none",
        ],
    ),
    (&["generate"], &["--policy", "none", "--policy-adapter", "none", "--prompts", "none", "-o", "none"]),
    (
        &["model", "merge"],
        &["--reward", "none", "--reward-layers", "2", "--reward-adapter", "none", "-o", "none"],
    ),
];

#[test]
fn old_spellings_are_accepted_and_help_does_not_show_them() {
    for (command, options) in SPELLINGS {
        let output = dissent(&[*command, *options].concat());
        let said = text(&output);
        assert!(
            !output.status.success() && !said.contains("unexpected argument"),
            "{command:?} {options:?}: {said}"
        );
        assert!(!said.contains("Usage:"), "{command:?} {options:?}: {said}");
    }
    let help = text(&dissent(&["eval", "reward", "--help"]));
    for shown in ["--reward ", "--reward-layers", "--reward-adapter", "--reward-template", "--preferred"] {
        assert!(help.contains(shown), "{shown}: {help}");
    }
    for hidden in ["--base", "--layers", "--prefer ", "--model"] {
        assert!(!help.lines().any(|line| line.trim_start().starts_with(hidden)), "{hidden}: {help}");
    }
    let help = text(&dissent(&["train", "sft", "--help"]));
    for shown in ["--learning-rate", "--gradient-accumulation", "--warmup-steps", "--warmup-ratio"] {
        assert!(help.contains(shown), "{shown}: {help}");
    }
    assert!(!help.contains("--lr") && !help.contains("--grad-accum"), "{help}");
}

#[test]
fn paths_of_options_begin_at_the_cache_and_home_folders() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, home) = (folder.path().join("cache"), folder.path().join("home"));
    std::fs::create_dir_all(cache.join("data")).unwrap();
    std::fs::create_dir_all(&home).unwrap();
    let row =
        r#"{"prompt_id": "p", "completions": [{"logprob": -1, "reward": 2}, {"logprob": -2, "reward": 3}]}"#;
    std::fs::write(cache.join("data/scored.jsonl"), row).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.args(arguments).env("DISSENT_CACHE", &cache).env("HOME", &home).current_dir(folder.path());
        command.output().unwrap()
    };
    let output = run(&["detect", "--input", "cache:data/scored.jsonl", "--output", "~/conflict.jsonl"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(home.join("conflict.jsonl").is_file());
    for arguments in [
        vec!["model", "inspect", "cache:models/none.gguf"],
        vec!["run", "cache:none.toml"],
        vec!["report", "cache:none.toml"],
        vec!["train", "sft", "--base", "cache:none.gguf", "--data", "cache:none.jsonl", "--output", "out"],
        vec!["generate", "--policy", "cache:none.gguf", "--input", "cache:none.jsonl", "--output", "out"],
    ] {
        let output = run(&arguments);
        let said = text(&output);
        assert!(!output.status.success() && said.contains(cache.to_str().unwrap()), "{arguments:?}: {said}");
    }
}
