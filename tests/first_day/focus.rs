//! `dissent experiment fork --focus`: further pairs about one topic or category.

use serde_json::Value;

use crate::support::{Lab, Learning, Setup, succeeded};

/// An experiment about four subjects of six prompts each. The prompts of the first have a category.
fn lab(change: impl Fn(String) -> String) -> Option<Lab> {
    let learns = Some(Learning { rounds: 1, steps: 2 });
    let lab = Lab::new(&Setup { prompts: 1, max_new_tokens: 8, learns, ..Setup::default() })?;
    let subjects = [
        ["salt", "pepper", "soup"],
        ["engine", "wheel", "road"],
        ["violin", "piano", "opera"],
        ["glacier", "volcano", "river"],
    ];
    let mut prompts = String::new();
    for (subject, words) in subjects.iter().enumerate() {
        for number in 0..6 {
            let text = format!("{} {} {} {number}", words[number % 3], words[(number + 1) % 3], words[0]);
            let category = if subject == 0 { r#", "category": "kitchen""# } else { "" };
            prompts +=
                &format!("{{\"prompt_id\": \"s{subject}-{number}\", \"prompt\": \"{text}\"{category}}}\n");
        }
    }
    std::fs::write(lab.data_dir("prompts.jsonl"), prompts).unwrap();
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), change(config.replace("budget = 7", "budget = 30"))).unwrap();
    Some(lab)
}

fn output(lab: &Lab, arguments: &[&str]) -> String {
    String::from_utf8(succeeded(lab.dissent("data", arguments)).stdout).unwrap()
}

/// The pairs of an experiment, by their numbers, without what judges add.
fn pairs(lab: &Lab, name: &str) -> Vec<Value> {
    let text = output(lab, &["log", "export", "--table", "pairs", "--experiment", name]);
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let kept = ["comparison", "prompt_id", "first", "second", "propensity", "is_audit", "is_focus"];
    rows.map(|row| kept.iter().map(|key| ((*key).to_owned(), row[key].clone())).collect()).collect()
}

fn refused(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.dissent("data", arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

/// Runs the experiment of the lab under another name.
fn run(lab: &Lab, name: &str, settings: &[&str]) -> String {
    let config = lab.config();
    let name = format!("experiment.name={name}");
    output(lab, &[&["run", config.to_str().unwrap(), "--set", &name], settings].concat())
}

#[test]
fn a_focus_asks_further_pairs_of_a_topic_beside_those_of_its_origin() {
    let Some(lab) = lab(|config| config) else { return };
    lab.run("data");
    let report = output(&lab, &["report", "lab", "--format", "md"]);
    let hint = report.lines().find(|line| line.contains("--focus")).unwrap();
    assert!(hint.contains("dissent experiment fork lab --focus"), "{hint}");
    let told =
        output(&lab, &["experiment", "fork", "lab", "--focus", "violin", "--as", "more", "--more", "5"]);
    assert!(told.contains("up to 5 further pairs about 6 prompts"), "{told}");
    run(&lab, "more", &[]);
    let (before, after) = (pairs(&lab, "lab"), pairs(&lab, "more"));
    assert_eq!(before.len() + 5, after.len());
    let (same, new) = after.split_at(before.len());
    assert_eq!(same, before, "the other pairs keep their numbers");
    for pair in new {
        assert_eq!((&pair["is_focus"], &pair["is_audit"]), (&true.into(), &false.into()));
        assert!(pair["prompt_id"].as_str().unwrap().starts_with("s2-"), "{pair}");
        let is_same = |other: &Value| {
            let ends = |pair: &Value| {
                let mut ends = [pair["first"].as_u64(), pair["second"].as_u64()];
                ends.sort_unstable();
                (pair["prompt_id"].clone(), ends)
            };
            ends(other) == ends(pair)
        };
        assert!(!before.iter().any(is_same), "asked before: {pair}");
    }
    // The focus is not part of the design that the lift is estimated from.
    let lift = |name: &str| serde_json::from_str::<Value>(&output(&lab, &["lift", name, "--json"])).unwrap();
    assert_eq!(lift("lab")["table"], lift("more")["table"]);
    let report: Value = serde_json::from_str(&output(&lab, &["report", "more", "--format", "json"])).unwrap();
    let chosen: Vec<&Value> =
        report["learning"]["outcomes"].as_array().unwrap().iter().map(|row| &row["chosen_by"]).collect();
    assert_eq!(chosen, ["rule", "audit", "focus"]);
    output(&lab, &["replay", "more", "--verify"]);
}

#[test]
fn a_category_names_a_focus_too_and_what_is_unknown_is_told() {
    let Some(lab) = lab(|config| config) else { return };
    lab.run("data");
    let told = output(&lab, &["experiment", "fork", "lab", "--focus", "kitchen", "--as", "kitchen"]);
    assert!(told.contains("up to 20 further pairs about 6 prompts: kitchen"), "{told}");
    // The prediction counts the further pairs: 30 by the budget, and 20.
    let predicted = run(&lab, "kitchen", &["--dry-run"]);
    assert!(predicted.contains("at most 50 judgements"), "{predicted}");
    run(&lab, "kitchen", &[]);
    let added: Vec<Value> =
        pairs(&lab, "kitchen").into_iter().filter(|pair| pair["is_focus"] == true).collect();
    assert!(!added.is_empty() && added.iter().all(|p| p["prompt_id"].as_str().unwrap().starts_with("s0-")));
    let text = refused(&lab, &["experiment", "fork", "lab", "--focus", "violni", "--as", "x"]);
    assert!(text.contains("violni") && text.contains("violin"), "{text}");
    let most = u64::MAX.to_string();
    output(&lab, &["experiment", "fork", "lab", "--focus", "kitchen", "--more", &most, "--as", "all"]);
    let text = refused(&lab, &["experiment", "fork", "lab", "--more", "5", "--as", "x"]);
    assert!(text.contains("--focus"), "{text}");
    let text =
        refused(&lab, &["experiment", "fork", "lab", "--before", "tuning", "--focus", "violin", "--as", "x"]);
    assert!(text.contains("--before selection"), "{text}");
}

#[test]
fn a_fork_takes_over_the_judgements_of_people() {
    let Some(lab) = lab(|config| config.replace("source = \"oracle\"", "source = \"people\"\nbudget = 31"))
    else {
        return;
    };
    lab.run("data");
    let rows = output(&lab, &["feedback", "export", "lab", "--annotator", "ann"]);
    let judged: Vec<String> = rows
        .lines()
        .take(9)
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["verdict"] = "first".into();
            row.to_string()
        })
        .collect();
    std::fs::write(lab.data_dir("judged.jsonl"), judged.join("\n")).unwrap();
    let file = lab.data_dir("judged.jsonl");
    output(&lab, &["feedback", "import", file.to_str().unwrap()]);
    let told =
        output(&lab, &["experiment", "fork", "lab", "--focus", "opera", "--as", "more", "--more", "3"]);
    assert!(told.contains("--set feedback.budget=34") && told.contains("the 9 judgements of lab"), "{told}");
    run(&lab, "more", &["--set", "feedback.budget=34"]);
    let file = lab.data_dir("data").join("judgements/more-round-0.jsonl");
    let imported: Value =
        serde_json::from_str(&output(&lab, &["feedback", "import", "--json", file.to_str().unwrap()]))
            .unwrap();
    assert_eq!(imported["imported"]["new"], 9, "{imported}");
    let verdicts = |name: &str| {
        let text = output(&lab, &["log", "export", "--table", "feedback", "--experiment", name]);
        let row = |line: &str| {
            let row: Value = serde_json::from_str(line).unwrap();
            (row["comparison"].clone(), row["annotator"].clone(), row["verdict"].clone())
        };
        text.lines().map(row).collect::<Vec<_>>()
    };
    assert_eq!(verdicts("lab"), verdicts("more"));
}
