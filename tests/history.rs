//! The history of experiments, questioned through the program: other settings, differences, tables, forks.

mod forks;
pub(crate) mod made;
mod rotation;
mod salvage;
mod snapshots;
mod tables;

use dissent_domain::event::Event;
use serde_json::{Value, json};

use made::{Shelf, asking, in_order, learning_plan, learnt, measured, plan};

/// A shelf with one measured experiment, `history`, that selected five answers by budget.
fn shelf() -> Shelf {
    let shelf = Shelf::new();
    shelf.keep("data", &measured(plan("history"), &in_order(), 0.0).recorded);
    shelf
}

#[test]
fn the_recorded_settings_select_what_was_recorded() {
    let found = shelf().json("data", &["replay", "history", "--what-if", "conflict.budget=5"], 0);
    let total = &found["total"];
    assert_eq!(total["recorded"]["answers"], 5);
    assert_eq!(total["recorded"], total["changed"]);
    assert_eq!(total["answers"], json!({"kept": 5, "new": 0, "dropped": 0, "jaccard": 1.0}));
    assert_eq!(total["comparisons"]["jaccard"], 1.0);
}

#[test]
fn another_budget_keeps_the_most_conflicting_answers() {
    let shelf = shelf();
    let arguments = ["replay", "history", "--what-if", "selection.budget=2"];
    let found = shelf.json("data", &arguments, 0);
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
    let said = shelf.says("data", &arguments, 0);
    assert!(said.contains("2 kept, 0 new, 3 dropped (Jaccard 0.400)"), "{said}");
}

#[test]
fn thresholds_and_rules_of_pairs_can_be_asked_for() {
    let shelf = shelf();
    let none = shelf.json("data", &["replay", "history", "--what-if", "conflict.delta=100"], 0);
    assert_eq!(none["total"]["changed"], json!({"answers": 0, "prompts": 0, "comparisons": 0, "labels": 0}));
    let all = shelf.json(
        "data",
        &["replay", "history", "--what-if", "conflict.rule=all", "--what-if", "conflict.budget="],
        0,
    );
    // Five prompts of four answers that all differ: six pairs each.
    assert_eq!(all["total"]["changed"]["comparisons"], 30);
}

#[test]
fn conflict_is_measured_again_where_other_log_probabilities_are_compared() {
    let found = shelf().json("data", &["replay", "history", "--what-if", "conflict.logprob=mean"], 0);
    // All completions have the same length, so that the mean orders them as the sum does, but for the rounding of a tie.
    assert_eq!(found["total"]["changed"]["answers"], 5);
    assert!(found["total"]["answers"]["kept"].as_u64().unwrap() >= 4, "{}", found["total"]);
    assert_eq!(found["changed"]["conflict"]["logprob"], "mean");
}

#[test]
fn labels_that_the_log_holds_are_not_counted_again() {
    let shelf = Shelf::new();
    shelf.keep("data", &learnt(learning_plan("loop")).recorded);
    let found = shelf.json("data", &["replay", "loop", "--what-if", "feedback.overlap=2"], 0);
    assert_eq!(found["rounds"].as_array().unwrap().len(), 2);
    let total = &found["total"];
    let comparisons = total["recorded"]["comparisons"].as_u64().unwrap();
    assert!(comparisons > 0, "{total}");
    assert_eq!(total["recorded"]["labels"], comparisons);
    assert_eq!(total["changed"]["labels"], 2 * comparisons);
    assert_eq!(total["labels_missing"], comparisons, "one judgement of each is there");
}

#[test]
fn settings_that_do_not_exist_or_cannot_be_are_refused() {
    let shelf = shelf();
    let refused = |setting: &str| shelf.says("data", &["replay", "history", "--what-if", setting], 2);
    let unknown = refused("conflict.dleta=1");
    assert!(unknown.contains("conflict.dleta") && unknown.contains("conflict.delta"), "{unknown}");
    assert!(refused("generation.samples=2").contains("use one of"), "no model is run");
    assert!(refused("conflict.delta=-1").contains("delta = -1 is out of range"));
    assert!(refused("conflict.budget=").contains("needs a budget"));
    assert!(refused("conflict.rule=papre").contains("papre"));
    assert!(refused("feedback.overlap=2").contains("has no [feedback]"));
    assert!(refused("conflict.delta").contains("KEY=VALUE"));
}

#[test]
fn a_round_without_a_selection_is_named_and_left_out() {
    let shelf = shelf();
    let arguments = ["replay", "history", "--at", "9", "--what-if", "conflict.budget=2"];
    let found = shelf.json("data", &arguments, 0);
    assert_eq!((&found["rounds"], &found["undecided"]), (&json!([]), &json!([0])));
}

#[test]
fn experiments_are_listed_with_their_state_and_shown_with_their_plan() {
    let shelf = shelf();
    let asked = asking(learning_plan("loop"));
    shelf.keep("data", &asked.recorded);
    let listed = shelf.json("data", &["experiment", "list"], 0);
    let of =
        |key: &str| -> Vec<Value> { listed.as_array().unwrap().iter().map(|e| e[key].clone()).collect() };
    assert_eq!(of("experiment"), ["history", "loop"]);
    assert_eq!(of("state"), ["finished", "waits_for_people"]);
    assert_eq!(of("events")[1], asked.recorded.len());
    let said = shelf.says("data", &["experiment", "list"], 0);
    assert!(said.contains("waits for people") && said.contains("feedback 0/"), "{said}");

    let shown = shelf.json("data", &["experiment", "show", "history"], 0);
    assert_eq!(shown["plan"]["conflict"]["selection"]["budget"], 5);
    assert_eq!(shown["overview"]["rounds"][0]["measured"], 5);
    assert_eq!(shown["overview"]["rounds"][0]["set_aside"], 1);
    let said = shelf.says("data", &["experiment", "show", "history"], 0);
    assert!(said.contains("conflict.selection.budget") && said.contains("closed"), "{said}");
    let early = shelf.json("data", &["experiment", "show", "history", "--at", "3"], 0);
    assert_eq!(
        (&early["overview"]["events"], &early["overview"]["state"]),
        (&json!(3), &json!("in_progress"))
    );
}

#[test]
fn runs_that_did_the_same_in_another_order_are_the_same() {
    let shelf = shelf();
    let other = measured(plan("again"), &[5, 3, 4, 0, 2, 1], 0.0);
    shelf.keep("data", &other.recorded);
    let found = shelf.json("data", &["log", "diff", "history", "again"], 0);
    assert_eq!((&found["same"], &found["same_order"]), (&json!(true), &json!(false)));
    assert_eq!(found["state_hashes"][0], found["state_hashes"][1]);
    assert_eq!(found["state_hashes"][0], other.experiment.state_hash());
    assert_eq!(found["parting"]["version"], found["common"].as_u64().unwrap() + 1);
}

#[test]
fn a_score_that_differs_is_named_with_what_followed_from_it() {
    let shelf = shelf();
    shelf.keep("there", &measured(plan("history"), &in_order(), 0.25).recorded);
    let (here, there) = (shelf.path("data"), shelf.path("there"));
    let (a, b) = (format!("{}:history", made::utf8(&here)), format!("{}:history", made::utf8(&there)));
    let found = shelf.json("data", &["log", "diff", &a, &b], 1);
    let kinds = &found["kinds"];
    assert_eq!(kinds["generation.completions_sampled"]["different"], 0);
    assert_eq!(kinds["reward.rewards_scored"]["different"], 1);
    assert_eq!(kinds["reward.rewards_scored"]["fields"]["rewards[]"], json!({"events": 1, "largest": 0.25}));
    assert_eq!(kinds["conflict.measured"]["different"], 1);
    assert_ne!(found["state_hashes"][0], found["state_hashes"][1]);
    assert_eq!(found["first"]["subject"], "reward.rewards_scored round 0 prompt p0");
    let said = shelf.says("data", &["log", "diff", &a, &b], 1);
    assert!(said.contains("rewards[] is"), "{said}");
}

#[test]
fn what_only_one_run_has_is_counted() {
    let shelf = shelf();
    let whole = measured(plan("short"), &in_order(), 0.0);
    shelf.keep("data", &whole.recorded[..whole.recorded.len() - 1]);
    let found = shelf.json("data", &["log", "diff", "history", "short"], 1);
    assert_eq!(found["kinds"]["experiment.finished"]["only_a"], 1);
    assert_eq!(found["parting"]["b"], Value::Null);
    let found = shelf.json("data", &["log", "diff", "short", "history"], 1);
    assert_eq!(found["kinds"]["experiment.finished"]["only_b"], 1);
    assert_eq!(found["first"]["what"], "only B has it");
}

#[test]
fn every_experiment_of_a_log_is_verified_at_once() {
    let shelf = shelf();
    shelf.keep("data", &learnt(learning_plan("loop")).recorded);
    let found = shelf.json("data", &["replay", "--verify"], 0);
    assert_eq!(found["sound"], true);
    assert_eq!(found["experiments"].as_array().unwrap().len(), 2);
    assert!(shelf.says("data", &["replay", "--verify"], 0).contains("verified: 2 experiments"));
    assert!(shelf.says("data", &["replay"], 2).contains("name an experiment"));
}

#[test]
fn the_first_fault_of_each_experiment_is_named_and_the_others_are_still_checked() {
    let shelf = Shelf::new();
    let mut bad = measured(plan("bad"), &in_order(), 0.0).recorded;
    let place = bad.iter().position(|e| e.event.event_type == "conflict.measured").unwrap();
    let Event::ConflictMeasured(mut e) = bad[place].decode().unwrap() else { unreachable!() };
    e.conflict.pacs[0] += 1e-9;
    bad[place].event.body = dissent_domain::event::encode(&e.into()).unwrap();
    shelf.keep("data", &bad);
    shelf.keep("data", &measured(plan("good"), &in_order(), 0.0).recorded);
    let found = shelf.json("data", &["replay", "--verify"], 3);
    let [bad, good] = found["experiments"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&bad["sound"], &good["sound"]), (&json!(false), &json!(true)));
    assert_eq!(bad["fault"]["position"], place + 1);
    assert_eq!(bad["events"], place);
}

#[test]
fn an_event_that_follows_from_nothing_in_its_stream_is_a_fault() {
    let shelf = Shelf::new();
    let mut events = measured(plan("history"), &in_order(), 0.0).recorded;
    let place = events.iter().position(|e| e.event.event_type == "generation.completions_sampled").unwrap();
    // A cause that is not there, with the id that would follow from it.
    let cause = dissent_domain::event::EventId::of_experiment(&plan("elsewhere").experiment);
    events[place].event.causation = Some(cause);
    events[place].event.id = cause.caused("generation.completions_sampled", 0);
    shelf.keep("data", &events);
    let found = shelf.json("data", &["replay", "--verify"], 3);
    let fault = &found["experiments"][0]["fault"];
    assert_eq!(fault["position"], place + 1);
    assert!(fault["what"].as_str().unwrap().contains("not in its stream before it"), "{fault}");
}
