//! Forks: experiments that share the beginning of another experiment's history.

use dissent_domain::event::{EventType, Stage};
use dissent_domain::log::EventLog;
use serde_json::json;

use super::histories::{
    DataFolders, awaiting_judgements, in_order, judge_all, learning_plan, measured, plan, train,
};
use crate::support::{Lab, Setup, succeeded};

/// Returns a data folder with `history`, and the position at which its only round is measured.
fn folders() -> (DataFolders, String) {
    let folders = DataFolders::new();
    folders.append("data", &measured(plan("history"), &in_order(), 0.0).recorded);
    let shown = folders.json("data", &["experiment", "show", "history"], 0);
    let at = shown["overview"]["rounds"][0]["measured_at"].to_string();
    (folders, at)
}

#[test]
fn a_fork_copies_the_shared_past_under_its_own_name_and_verifies() {
    let (folders, at) = folders();
    let arguments =
        ["experiment", "fork", "history", "--at", &at, "--as", "less", "--set", "conflict.budget=2"];
    let output = folders.output("data", &arguments, 0);
    assert!(output.contains("conflict.budget=2"), "{output}");
    folders.output("data", &["replay", "--verify"], 0);

    let shown = folders.json("data", &["experiment", "show", "less"], 0);
    let shared: u64 = at.parse().unwrap();
    assert_eq!(
        shown["overview"]["origin"],
        json!({"experiment": "history", "position": shared, "shared": shared})
    );
    assert_eq!(shown["plan"]["conflict"]["selection"]["budget"], 2);
    assert_eq!(shown["plan"]["experiment"], "less");
    assert_eq!(
        (&shown["overview"]["state"], &shown["overview"]["events"]),
        (&json!("in_progress"), &json!(shared + 1))
    );

    let log = folders.log("data");
    let [past, fork] =
        ["history", "less"].map(|name| log.read_stream(&name.parse().unwrap(), 0, 1000).unwrap());
    for (past, fork) in past.iter().zip(&fork).skip(1).take(usize::try_from(shared).unwrap() - 1) {
        assert_eq!(
            (past.decode().unwrap(), past.event.time_us),
            (fork.decode().unwrap(), fork.event.time_us)
        );
        assert_ne!(past.event.id, fork.event.id);
    }
    assert_eq!(fork.last().unwrap().decode().unwrap().event_type(), EventType::ExperimentForked);
}

#[test]
fn a_fork_verifies_without_its_origin_and_can_be_forked() {
    let (folders, at) = folders();
    folders.output("data", &["experiment", "fork", "history", "--at", &at, "--as", "one"], 0);
    folders.output("data", &["experiment", "fork", "one", "--as", "two", "--set", "conflict.delta=1.25"], 0);
    let file = folders.path("two.jsonl");
    let file = file.to_str().unwrap();
    folders.output("data", &["log", "export", "--experiment", "two", "--output", file], 0);
    folders.output("alone", &["log", "import", file], 0);
    let verified = folders.json("alone", &["replay", "--verify"], 0);
    assert_eq!(verified["experiments"][0]["sound"], true);
    let shown = folders.json("alone", &["experiment", "show", "two"], 0);
    assert_eq!(shown["overview"]["origin"]["experiment"], "one");
    assert_eq!(shown["plan"]["conflict"]["selection"]["delta"], 1.25);
}

#[test]
fn a_fork_refuses_settings_that_contradict_the_shared_past() {
    let (folders, at) = folders();
    let before = folders.log("data").head();
    let refused = |at: &str, setting: &str| {
        let arguments = ["experiment", "fork", "history", "--at", at, "--as", "less", "--set", setting];
        folders.output("data", &arguments, 2)
    };
    let sampled = refused(&at, "generation.samples=2");
    assert!(sampled.contains("generation"), "{sampled}");
    refused(&at, "experiment.seed=8");
    refused(&at, "prompts.path=x");
    assert!(refused(&at, "tuning.beta=0.2").contains("[tuning]"));
    let round: u64 = at.parse().unwrap();
    // After the first of several events of one decision, and after all of them.
    refused(&(round + 1).to_string(), "conflict.budget=2");
    refused("1000", "conflict.budget=2");
    refused("0", "conflict.budget=2");
    assert_eq!(folders.log("data").head(), before, "nothing was written");
}

#[test]
fn a_fork_before_the_first_sample_may_change_every_setting() {
    let (folders, _) = folders();
    let arguments =
        ["experiment", "fork", "history", "--at", "2", "--as", "warm", "--set", "generation.temperature=1.5"];
    folders.output("data", &arguments, 0);
    let shown = folders.json("data", &["experiment", "show", "warm"], 0);
    assert_eq!(shown["plan"]["sampling"]["temperature"], 1.5);
    folders.output("data", &["replay", "--verify"], 0);
}

#[test]
fn a_fork_may_change_settings_of_later_steps_only() {
    let folders = DataFolders::new();
    let mut history = awaiting_judgements(learning_plan("loop"));
    judge_all(&mut history);
    train(&mut history, Stage::Reward);
    folders.append("data", &history.recorded);
    let fork = |name: &str, setting: &str, code| {
        folders.output("data", &["experiment", "fork", "loop", "--as", name, "--set", setting], code)
    };
    fork("a", "refinement.learning_rate=0.1", 2);
    // The tuning is requested at the end of the refinement, with the plan of that time.
    fork("b", "tuning.beta=0.2", 2);
    fork("c", "feedback.overlap=3", 2);
    fork("d", "evaluation.samples=9", 2);
    fork("e", "guards.kl_max=5", 0);
    fork("f", "experiment.rounds=5", 0);
    folders.output("data", &["replay", "--verify"], 0);
}

#[test]
fn a_fork_never_overwrites_an_experiment_and_completes_an_interrupted_fork() {
    let (folders, at) = folders();
    let fork = |name: &str, code| {
        folders.output("data", &["experiment", "fork", "history", "--at", &at, "--as", name], code)
    };
    fork("history", 2);
    folders.append("data", &measured(plan("other"), &in_order(), 0.5).recorded);
    fork("other", 2);
    fork("whole", 0);
    fork("whole", 2);

    // A fork that is killed halfway leaves its first events.
    let half: Vec<_> = folders.log("data").read_stream(&"whole".parse().unwrap(), 0, 7).unwrap();
    let halves = DataFolders::new();
    halves.append("data", &measured(plan("history"), &in_order(), 0.0).recorded);
    halves.append("data", &half);
    halves.output("data", &["experiment", "fork", "history", "--at", &at, "--as", "whole"], 0);
    let a = format!("{}:whole", folders.path("data").display());
    let b = format!("{}:whole", halves.path("data").display());
    assert_eq!(halves.json("data", &["log", "diff", &a, &b], 0)["same_order"], true);
}

#[test]
fn a_run_continues_a_fork() {
    let Some(lab) = Lab::new(&Setup { prompts: 4, ..Setup::default() }) else { return };
    lab.run("data");
    let shown = succeeded(lab.dissent("data", &["experiment", "show", "lab", "--json"])).stdout;
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    let at = shown["overview"]["rounds"][0]["measured_at"].to_string();
    let setting = "conflict.budget=3";
    succeeded(
        lab.dissent("data", &["experiment", "fork", "lab", "--at", &at, "--as", "fork", "--set", setting]),
    );

    let config = lab.config();
    let text = std::fs::read_to_string(&config).unwrap().replace("\"lab\"", "\"fork\"");
    std::fs::write(&config, &text).unwrap();
    let refused = lab.dissent("data", &["run", config.to_str().unwrap()]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let output = String::from_utf8(refused.stderr).unwrap();
    assert!(output.contains("conflict.selection.budget was 3, now 7"), "{output}");

    std::fs::write(&config, text.replace("budget = 7", "budget = 3")).unwrap();
    lab.run("data");
    succeeded(lab.dissent("data", &["replay", "--verify"]));
    let of_fork: Vec<_> =
        lab.events("data").into_iter().filter(|recorded| recorded.experiment.as_str() == "fork").collect();
    let selected = of_fork.iter().filter(|recorded| recorded.event.event_type == "conflict.pair_selected");
    assert_eq!(selected.count(), 3);
    assert_eq!(of_fork.last().unwrap().event.event_type, "experiment.finished");
    let what_if = succeeded(lab.dissent("data", &["replay", "lab", "--what-if", setting, "--json"])).stdout;
    let what_if: serde_json::Value = serde_json::from_slice(&what_if).unwrap();
    assert_eq!(what_if["total"]["changed"]["answers"], 3, "the fork selects as the what-if predicted");
}
