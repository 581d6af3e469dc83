//! Commands on the history of experiments: what-if, diff, tables, forks, archives.

mod forks;
pub(crate) mod histories;
mod rotation;
mod salvage;
mod snapshots;
mod tables;

use dissent_domain::event::ConflictMeasured;
use serde_json::{Value, json};

use histories::{DataFolders, awaiting_judgements, in_order, learning_plan, learnt, measured, plan};

/// Returns a data folder with the measured experiment `history`, which selected five completions by budget.
fn folders() -> DataFolders {
    let folders = DataFolders::new();
    folders.append("data", &measured(plan("history"), &in_order(), 0.0).recorded);
    folders
}

#[test]
fn what_if_with_the_recorded_settings_selects_the_recorded_pairs() {
    let found = folders().json("data", &["replay", "history", "--what-if", "conflict.budget=5"], 0);
    let total = &found["total"];
    assert_eq!(total["recorded"]["answers"], 5);
    assert_eq!(total["recorded"], total["changed"]);
    assert_eq!(total["answers"], json!({"kept": 5, "new": 0, "dropped": 0, "jaccard": 1.0}));
    assert_eq!(total["comparisons"]["jaccard"], 1.0);
}

#[test]
fn what_if_with_a_smaller_budget_keeps_the_pairs_of_most_conflict() {
    let folders = folders();
    let arguments = ["replay", "history", "--what-if", "selection.budget=2"];
    let found = folders.json("data", &arguments, 0);
    assert_eq!(found["total"]["answers"], json!({"kept": 2, "new": 0, "dropped": 3, "jaccard": 0.4}));
    assert_eq!(found["changed"]["conflict"]["selection"]["budget"], 2);
    assert_eq!(found["recorded"]["conflict"]["selection"]["budget"], 5);
    let changed: u64 = found["rounds"][0]["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|prompt| prompt["changed"].as_array().unwrap().len() as u64)
        .sum();
    assert_eq!(changed, 2);
}

#[test]
fn what_if_accepts_thresholds_and_rules_of_pairs() {
    let folders = folders();
    let none = folders.json("data", &["replay", "history", "--what-if", "conflict.delta=100"], 0);
    assert_eq!(none["total"]["changed"], json!({"answers": 0, "prompts": 0, "comparisons": 0, "labels": 0}));
    let all = folders.json(
        "data",
        &["replay", "history", "--what-if", "conflict.rule=all", "--what-if", "conflict.budget="],
        0,
    );
    // Five prompts of four different completions: six pairs each.
    assert_eq!(all["total"]["changed"]["comparisons"], 30);
}

#[test]
fn what_if_with_mean_logprobs_measures_conflict_again() {
    let found = folders().json("data", &["replay", "history", "--what-if", "conflict.logprob=mean"], 0);
    // All completions have the same length: the mean orders them like the sum, except for the rounding of a
    // tie.
    assert_eq!(found["total"]["changed"]["answers"], 5);
    assert!(found["total"]["answers"]["kept"].as_u64().unwrap() >= 4, "{}", found["total"]);
    assert_eq!(found["changed"]["conflict"]["logprob"], "mean");
}

#[test]
fn what_if_counts_recorded_labels_once() {
    let folders = DataFolders::new();
    folders.append("data", &learnt(learning_plan("loop")).recorded);
    let found = folders.json("data", &["replay", "loop", "--what-if", "feedback.overlap=2"], 0);
    assert_eq!(found["rounds"].as_array().unwrap().len(), 2);
    let total = &found["total"];
    let comparisons = total["recorded"]["comparisons"].as_u64().unwrap();
    assert!(comparisons > 0, "{total}");
    assert_eq!(total["recorded"]["labels"], comparisons);
    assert_eq!(total["changed"]["labels"], 2 * comparisons);
    assert_eq!(total["labels_missing"], comparisons, "one judgement of each is recorded");
}

#[test]
fn what_if_refuses_unknown_and_invalid_settings() {
    let folders = folders();
    let refused = |setting: &str| folders.output("data", &["replay", "history", "--what-if", setting], 2);
    let unknown = refused("conflict.dleta=1");
    assert!(unknown.contains("conflict.dleta") && unknown.contains("conflict.delta"), "{unknown}");
    refused("generation.samples=2");
    assert!(refused("conflict.delta=-1").contains("delta"));
    assert!(refused("conflict.budget=").contains("budget"));
    assert!(refused("conflict.rule=papre").contains("papre"));
    assert!(refused("feedback.overlap=2").contains("[feedback]"));
    assert!(refused("conflict.delta").contains("KEY=VALUE"));
}

#[test]
fn what_if_lists_rounds_without_a_selection_as_undecided() {
    let folders = folders();
    let arguments = ["replay", "history", "--at", "9", "--what-if", "conflict.budget=2"];
    let found = folders.json("data", &arguments, 0);
    assert_eq!((&found["rounds"], &found["undecided"]), (&json!([]), &json!([0])));
}

#[test]
fn experiments_are_listed_with_their_state_and_shown_with_their_plan() {
    let folders = folders();
    let waiting = awaiting_judgements(learning_plan("loop"));
    folders.append("data", &waiting.recorded);
    let listed = folders.json("data", &["experiment", "list"], 0);
    let of =
        |key: &str| -> Vec<Value> { listed.as_array().unwrap().iter().map(|e| e[key].clone()).collect() };
    assert_eq!(of("experiment"), ["history", "loop"]);
    assert_eq!(of("state"), ["finished", "waits_for_people"]);
    assert_eq!(of("events")[1], waiting.recorded.len());
    let output = folders.output("data", &["experiment", "list"], 0);
    assert!(output.contains("loop") && output.contains("0/"), "{output}");

    let shown = folders.json("data", &["experiment", "show", "history"], 0);
    assert_eq!(shown["plan"]["conflict"]["selection"]["budget"], 5);
    assert_eq!(shown["overview"]["rounds"][0]["measured"], 5);
    assert_eq!(shown["overview"]["rounds"][0]["set_aside"], 1);
    let output = folders.output("data", &["experiment", "show", "history"], 0);
    assert!(output.contains("conflict.selection.budget") && output.contains("closed"), "{output}");
    let early = folders.json("data", &["experiment", "show", "history", "--at", "3"], 0);
    assert_eq!(
        (&early["overview"]["events"], &early["overview"]["state"]),
        (&json!(3), &json!("in_progress"))
    );
}

#[test]
fn diff_finds_runs_equal_if_they_differ_in_order_only() {
    let folders = folders();
    let other = measured(plan("again"), &[5, 3, 4, 0, 2, 1], 0.0);
    folders.append("data", &other.recorded);
    let found = folders.json("data", &["log", "diff", "history", "again"], 0);
    assert_eq!((&found["same"], &found["same_order"]), (&json!(true), &json!(false)));
    assert_eq!(found["state_hashes"][0], found["state_hashes"][1]);
    assert_eq!(found["state_hashes"][0], other.experiment.state_hash());
    assert_eq!(found["parting"]["version"], found["common"].as_u64().unwrap() + 1);
}

#[test]
fn diff_names_a_differing_score_and_its_consequences() {
    let folders = folders();
    folders.append("there", &measured(plan("history"), &in_order(), 0.25).recorded);
    let (here, there) = (folders.path("data"), folders.path("there"));
    let (a, b) =
        (format!("{}:history", histories::utf8(&here)), format!("{}:history", histories::utf8(&there)));
    let found = folders.json("data", &["log", "diff", &a, &b], 1);
    let kinds = &found["kinds"];
    assert_eq!(kinds["generation.completions_sampled"]["different"], 0);
    assert_eq!(kinds["reward.rewards_scored"]["different"], 1);
    assert_eq!(kinds["reward.rewards_scored"]["fields"]["rewards[]"], json!({"events": 1, "largest": 0.25}));
    assert_eq!(kinds["conflict.measured"]["different"], 1);
    assert_ne!(found["state_hashes"][0], found["state_hashes"][1]);
    assert_eq!(found["first"]["subject"], "reward.rewards_scored round 0 prompt p0");
}

#[test]
fn diff_counts_events_of_one_run_only() {
    let folders = folders();
    let whole = measured(plan("short"), &in_order(), 0.0);
    folders.append("data", &whole.recorded[..whole.recorded.len() - 1]);
    let found = folders.json("data", &["log", "diff", "history", "short"], 1);
    assert_eq!(found["kinds"]["experiment.finished"]["only_a"], 1);
    assert_eq!(found["parting"]["b"], Value::Null);
    let found = folders.json("data", &["log", "diff", "short", "history"], 1);
    assert_eq!(found["kinds"]["experiment.finished"]["only_b"], 1);
    assert_eq!(found["first"]["what"], "missing in A");
}

#[test]
fn verify_checks_every_experiment_of_a_log() {
    let folders = folders();
    folders.append("data", &learnt(learning_plan("loop")).recorded);
    let found = folders.json("data", &["replay", "--verify"], 0);
    assert_eq!(found["sound"], true);
    assert_eq!(found["experiments"].as_array().unwrap().len(), 2);
    folders.output("data", &["replay"], 2);
}

#[test]
fn verify_reports_the_first_fault_of_each_experiment() {
    let folders = DataFolders::new();
    let mut bad = measured(plan("bad"), &in_order(), 0.0).recorded;
    let place = bad.iter().position(|e| e.event.event_type == "conflict.measured").unwrap();
    let mut e = ConflictMeasured::try_from(bad[place].decode().unwrap()).unwrap();
    e.conflict.pacs[0] += 1e-9;
    bad[place].event.body = dissent_domain::event::encode(&e.into()).unwrap();
    folders.append("data", &bad);
    folders.append("data", &measured(plan("good"), &in_order(), 0.0).recorded);
    let found = folders.json("data", &["replay", "--verify"], 3);
    let [bad, good] = found["experiments"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&bad["sound"], &good["sound"]), (&json!(false), &json!(true)));
    assert_eq!(bad["fault"]["position"], place + 1);
    assert_eq!(bad["events"], place);
}

#[test]
fn verify_reports_an_event_without_a_cause_in_its_stream() {
    let folders = DataFolders::new();
    let mut events = measured(plan("history"), &in_order(), 0.0).recorded;
    let place = events.iter().position(|e| e.event.event_type == "generation.completions_sampled").unwrap();
    // A cause outside the stream, and the id that follows from it.
    let cause = dissent_domain::event::EventId::of_experiment(&plan("elsewhere").experiment);
    events[place].event.causation = Some(cause);
    events[place].event.id = cause.caused("generation.completions_sampled", 0);
    folders.append("data", &events);
    let found = folders.json("data", &["replay", "--verify"], 3);
    let fault = &found["experiments"][0]["fault"];
    assert_eq!(fault["position"], place + 1);
}
