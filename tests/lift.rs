//! The lift table and the audit through the program, on tiny models.

use dissent_domain::event::{Event, FeedbackRequested, PolicyEvaluated};
use serde_json::Value;

use crate::support::{Lab, Learning, Setup, succeeded};

fn lab(change: impl Fn(String) -> String) -> Option<Lab> {
    let learns = Some(Learning { rounds: 1, steps: 2 });
    let lab = Lab::new(&Setup { prompts: 24, max_new_tokens: 12, learns, ..Setup::default() })?;
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), change(config)).unwrap();
    Some(lab)
}

/// A configuration with this budget and audit share.
fn with_audit(config: &str, budget: u32, audit: f64) -> String {
    let budget = format!("rule = \"budget\"\nbudget = {budget}\n");
    let without: String = config
        .lines()
        .filter(|line| !line.trim().starts_with("rule =") && !line.trim().starts_with("budget ="))
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    without
        .replace("[conflict]\n", &format!("[conflict]\n{budget}"))
        .replace("[feedback]\n", &format!("[feedback]\naudit = {audit}\n"))
}

fn json(lab: &Lab, data: &str, arguments: &[&str]) -> Value {
    let output = succeeded(lab.dissent(data, arguments));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_audit_is_drawn_recorded_and_turned_into_a_table() {
    let Some(lab) = lab(|config| with_audit(&config, 40, 0.3)) else { return };
    lab.run("data");
    let requested: Vec<Option<f64>> = lab
        .events("data")
        .iter()
        .filter_map(|recorded| FeedbackRequested::try_from(recorded.decode().unwrap()).ok())
        .map(|requested| requested.propensity)
        .collect();
    let drawn: Vec<f64> = requested.iter().flatten().copied().collect();
    assert_eq!(drawn.len(), 12);
    let selected = requested.len() - drawn.len();
    assert!((15..=28).contains(&selected), "{selected}");
    // 12 of the 144 pairs that the rule did not select, or fewer where completions are equal.
    let is_expected = |p: &f64| *p > 12.0 / 145.0 && *p < 0.2 && (p - drawn[0]).abs() < 1e-12;
    assert!(drawn.iter().all(is_expected), "{drawn:?}");

    let found = json(&lab, "data", &["lift", "lab", "--json"]);
    assert_eq!((&found["table"]["audited"], &found["table"]["rule"]), (&12.into(), &"budget".into()));
    assert_eq!(found["table"]["selected"], selected);
    assert!(found["table"]["rules"].as_array().unwrap().len() > 8, "{found}");
    let text = String::from_utf8(succeeded(lab.dissent("data", &["lift", "lab"])).stdout).unwrap();
    assert!(text.contains("budget (in use)") && text.contains("random pairs"), "{text}");
    assert!(text.contains(found["answer"].as_str().unwrap()), "{text}");

    // The same answer stands in every form of the report.
    let report = json(&lab, "data", &["report", "lab", "--format", "json"]);
    assert_eq!(report["learning"]["lift"]["answer"], found["answer"]);
    let page = std::fs::read_to_string(lab.data_dir("data").join("reports/lab.html")).unwrap();
    assert!(page.contains("Do conflicts find the proxy") && page.contains("Is the new policy better?"));
    succeeded(lab.dissent("data", &["replay", "lab", "--verify"]));
    let config = lab.config();
    succeeded(lab.dissent("data", &["replay", "lab", "--recompute", config.to_str().unwrap()]));
}

#[test]
fn annotators_cannot_tell_the_audit_from_the_selection() {
    let Some(lab) =
        lab(|config| with_audit(&config, 40, 0.3).replace("source = \"oracle\"", "source = \"people\""))
    else {
        return;
    };
    lab.run("data");
    let rows = succeeded(lab.dissent("data", &["feedback", "export", "lab"])).stdout;
    let rows = String::from_utf8(rows).unwrap();
    assert!(rows.lines().count() > 20, "{rows}");
    assert!(!rows.contains("propensity") && !rows.contains("audit"), "{rows}");
    let text = String::from_utf8(succeeded(lab.dissent("data", &["lift", "lab"])).stdout).unwrap();
    assert!(text.contains("0 of 4 audit pairs are judged"), "{text}");
}

#[test]
fn without_an_audit_the_command_says_that_nothing_is_known() {
    let Some(lab) = lab(|config| with_audit(&config, 20, 0.0)) else { return };
    lab.run("data");
    let text = String::from_utf8(succeeded(lab.dissent("data", &["lift", "lab"])).stdout).unwrap();
    assert!(text.contains("no audit share") && text.contains("feedback.audit"), "{text}");
}

#[test]
fn an_audit_share_outside_its_range_is_refused() {
    let Some(lab) = lab(|config| with_audit(&config, 20, 1.0)) else { return };
    let config = lab.config();
    let output = lab.dissent("data", &["run", config.to_str().unwrap()]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("feedback.audit = 1"), "{stderr}");
}

#[test]
fn experiments_of_other_names_have_the_same_baseline() {
    let Some(lab) = lab(|config| config) else { return };
    lab.run("one");
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), config.replace("name = \"lab\"", "name = \"other\"")).unwrap();
    let config = lab.config();
    succeeded(lab.dissent("two", &["run", config.to_str().unwrap()]));
    let of = |events: Vec<dissent_domain::event::Recorded>| -> (Vec<Event>, Option<PolicyEvaluated>) {
        let events: Vec<Event> = events.iter().map(|recorded| recorded.decode().unwrap()).collect();
        let baseline = events.iter().find_map(|event| PolicyEvaluated::try_from(event.clone()).ok());
        let mut kept: Vec<Event> = events
            .into_iter()
            .filter(|event| matches!(event, Event::Prompt(_) | Event::Feedback(_)))
            .collect();
        kept.sort_by_key(|event| format!("{event:?}"));
        (kept, baseline)
    };
    let (first, second) = (of(lab.events("one")), of(lab.events("two")));
    assert!(first.0.len() > 100 && first.1.is_some());
    assert_eq!(first.0, second.0);
    assert_eq!(first.1, second.1);
}
