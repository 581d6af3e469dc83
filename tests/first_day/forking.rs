//! Forks by the names of their points, and the commands that the program suggests for them.

use std::process::Command;

use dissent_domain::event::Stage;
use serde_json::Value;

use crate::history::histories::{
    DataFolders, awaiting_judgements, in_order, judge_all, learning_plan, learnt, measured, plan, train,
};
use crate::support::{Lab, Setup, succeeded};

fn fork(folders: &DataFolders, from: &str, more: &[&str], code: i32) -> String {
    folders.output("data", &[&["experiment", "fork", from], more].concat(), code)
}

fn shown(folders: &DataFolders, name: &str) -> Value {
    folders.json("data", &["experiment", "show", name], 0)
}

#[test]
fn the_point_before_the_selection_is_where_the_round_is_measured() {
    let folders = DataFolders::new();
    folders.append("data", &measured(plan("history"), &in_order(), 0.0).recorded);
    let at = shown(&folders, "history")["overview"]["rounds"][0]["measured_at"].clone();
    let options = ["--round", "0", "--before", "selection", "--as", "less", "--set", "conflict.budget=2"];
    let text = fork(&folders, "history", &options, 0);
    assert!(
        text.contains("dissent run CONFIG.toml --set experiment.name=less --set conflict.budget=2"),
        "{text}"
    );
    assert_eq!(shown(&folders, "less")["overview"]["origin"]["position"], at);
    fork(&folders, "history", &["--before", "selection", "--as", "last"], 0);
    assert_eq!(
        shown(&folders, "last")["overview"]["origin"]["position"],
        at,
        "the last round is the default"
    );
    folders.output("data", &["replay", "--verify"], 0);
}

#[test]
fn every_step_of_a_round_names_a_point_that_can_be_forked() {
    let folders = DataFolders::new();
    folders.append("data", &learnt(learning_plan("loop")).recorded);
    let mut positions = Vec::new();
    for (round, step, setting) in [
        ("0", "opening", "evaluation.samples=5"),
        ("0", "generation", "generation.temperature=1.5"),
        ("0", "reward", "conflict.budget=2"),
        ("0", "conflict", "conflict.budget=2"),
        ("0", "selection", "feedback.opponent=random"),
        ("0", "feedback", "feedback.overlap=2"),
        ("0", "refinement", "refinement.warmup_steps=3"),
        ("0", "tuning", "tuning.beta=0.3"),
        ("0", "evaluation", "guards.kl_max=5"),
        ("1", "opening", "generation.stop=[\"x\"]"),
        ("1", "generation", "generation.samples=4"),
        ("1", "tuning", "tuning.lora.targets=[\"q_proj\"]"),
    ] {
        let name = format!("{step}-{round}");
        fork(&folders, "loop", &["--round", round, "--before", step, "--as", &name, "--set", setting], 0);
        positions.push(shown(&folders, &name)["overview"]["origin"]["position"].as_u64().unwrap());
    }
    assert!(positions.is_sorted(), "{positions:?}");
    folders.output("data", &["replay", "--verify"], 0);
}

#[test]
fn a_step_that_is_not_reached_and_a_round_that_is_not_there_are_named() {
    let folders = DataFolders::new();
    folders.append("data", &awaiting_judgements(learning_plan("asked")).recorded);
    let text = fork(&folders, "asked", &["--round", "0", "--before", "tuning", "--as", "x"], 2);
    assert!(text.contains("tuning") && text.contains("selection"), "{text}");
    let text = fork(&folders, "asked", &["--round", "3", "--before", "selection", "--as", "x"], 2);
    assert!(text.contains("unknown round 3") && text.contains("--round 0"), "{text}");
    let text = fork(&folders, "asked", &["--round", "0", "--as", "x"], 2);
    assert!(text.contains("--before"), "{text}");
    let text = fork(&folders, "asked", &["--before", "lunch", "--as", "x"], 2);
    assert!(text.contains("selection"), "{text}");
}

/// Returns the position after `use --at `.
fn suggested(text: &str) -> String {
    let rest = text.split_once("use --at ").map(|(_, rest)| rest);
    assert!(rest.is_some(), "no position in: {text}");
    rest.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn an_error_names_the_last_position_that_can_be_forked() {
    let folders = DataFolders::new();
    let mut history = awaiting_judgements(learning_plan("loop"));
    judge_all(&mut history);
    train(&mut history, Stage::Reward);
    folders.append("data", &history.recorded);
    folders.append("data", &measured(plan("done"), &in_order(), 0.0).recorded);
    let measured_at = shown(&folders, "done")["overview"]["rounds"][0]["measured_at"].as_u64().unwrap();
    for (number, (from, at, setting)) in [
        ("loop", None, "refinement.learning_rate=0.1"),
        ("loop", None, "feedback.overlap=3"),
        ("loop", None, "evaluation.samples=9"),
        ("loop", None, "generation.temperature=0.5"),
        ("done", None, "conflict.budget=2"),
        ("done", Some(measured_at + 1), "conflict.budget=2"),
        ("done", Some(100_000), "generation.samples=2"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("fork-{number}");
        let at = at.map(|at| at.to_string());
        let mut options = vec!["--as", name.as_str(), "--set", setting];
        options.extend(at.iter().flat_map(|at| ["--at", at.as_str()]));
        let text = fork(&folders, from, &options, 2);
        assert!(!folders.output("data", &["experiment", "list"], 0).contains(&name), "nothing is written");
        let last = suggested(&text);
        let next = (last.parse::<u64>().unwrap() + 1).to_string();
        // One further, it is refused, with the same suggestion; at the suggestion it works.
        let further = fork(&folders, from, &["--as", &name, "--set", setting, "--at", &next], 2);
        assert_eq!(suggested(&further), last, "{setting}: {further}");
        fork(&folders, from, &["--as", &name, "--set", setting, "--at", &last], 0);
    }
    let text = fork(&folders, "loop", &["--as", "x", "--set", "conflict.budgte=3"], 2);
    assert!(text.contains("conflict.budgte") && text.contains("conflict.budget"), "{text}");
}

/// Returns the lines after the error's first one: commands for a shell.
fn commands(text: &str) -> Vec<String> {
    text.lines().skip_while(|line| !line.ends_with(':')).skip(1).map(|line| line.trim().to_owned()).collect()
}

/// Runs a suggested command in a shell, with the program of this build as `dissent`.
fn in_shell(folder: &std::path::Path, command: &str) -> String {
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_dissent")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("PATH", path).env_remove("DISSENT_DATA").current_dir(folder);
    String::from_utf8(succeeded(shell).stdout).unwrap()
}

#[test]
fn a_changed_budget_prints_the_commands_that_fork_and_run_it() {
    let Some(lab) = Lab::new(&Setup { prompts: 4, max_new_tokens: 8, ..Setup::default() }) else { return };
    let data = "a folder with 'quotes' & $HOME";
    lab.run(data);
    let config = lab.config();
    let config = config.to_str().unwrap();
    for (changes, fork, settings) in [
        (vec!["--set", "conflict.budget=3"], "lab-2", vec![("conflict", "budget", Value::from(3))]),
        (
            vec!["--set", "conflict.rule=gap", "--set", "generation.stop=[\"it's a \\\"stop\\\"\"]"],
            "lab-3",
            vec![("conflict", "rule", Value::from("gap"))],
        ),
    ] {
        let refused = lab.dissent(data, &[&["run", config], changes.as_slice()].concat()).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let text = String::from_utf8(refused.stderr).unwrap();
        let commands = commands(&text);
        assert_eq!(commands.len(), 2, "{text}");
        assert!(
            commands[0].starts_with("dissent experiment fork lab ") && commands[0].contains(fork),
            "{text}"
        );
        for command in &commands {
            in_shell(&lab.data_dir(""), command);
        }
        let shown = succeeded(lab.dissent(data, &["experiment", "show", fork, "--json"])).stdout;
        let shown: Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(shown["overview"]["state"], "finished");
        for (section, key, value) in settings {
            assert_eq!(shown["plan"][section]["selection"][key], value);
        }
    }
    // A change that no fork can make keeps its message.
    std::fs::write(lab.data_dir("prompts.jsonl"), "{\"prompt\": \"another\"}\n").unwrap();
    let refused = lab.dissent(data, &["run", config]).output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("the prompts differ") && !text.contains("experiment fork"), "{text}");
}
