//! Tables for data frames, what-if with texts, the comparison of runs, and the prediction of a run.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::history::histories::{DataFolders, awaiting_judgements, learning_plan, learnt};
use crate::support::{Lab, Learning, Setup, succeeded};

#[test]
fn a_row_of_pairs_has_texts_scores_verdicts_and_the_outcome() {
    let folders = DataFolders::new();
    folders.append("data", &learnt(learning_plan("judged")).recorded);
    folders.append("data", &awaiting_judgements(learning_plan("asked")).recorded);
    let table = |experiment: &str| -> Vec<BTreeMap<String, Value>> {
        let arguments = ["log", "export", "--table", "pairs", "--experiment", experiment];
        let text = folders.output("data", &arguments, 0);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (judged, asked) = (table("judged"), table("asked"));
    assert!(!judged.is_empty() && !asked.is_empty());
    for row in &judged {
        for text in ["prompt", "first_text", "second_text"] {
            assert!(row[text].is_string(), "{text}: {row:?}");
        }
        for side in ["first", "second"] {
            for score in ["reward", "logprob", "pacs"] {
                assert!(row[&format!("{side}_{score}")].is_f64(), "{side}_{score}: {row:?}");
            }
        }
        assert_eq!((&row["verdict"], &row["verdicts"]), (&"first".into(), &vec!["first"].into()));
        assert_eq!(row["annotators"], Value::from(vec!["ann"]));
        let proxy = row["first_reward"].as_f64() > row["second_reward"].as_f64();
        let policy = row["first_logprob"].as_f64() > row["second_logprob"].as_f64();
        let expected = match (proxy, policy) {
            (true, true) => "false_alarm",
            (false, true) => "proxy_wrong",
            (true, false) => "policy_wrong",
            (false, false) => "both_wrong",
        };
        assert_eq!(row["outcome"], expected, "{row:?}");
    }
    assert!(
        asked
            .iter()
            .all(|row| row["verdict"].is_null() && row["outcome"].is_null() && row["first_text"].is_string())
    );
    let all = folders.output("data", &["log", "export", "--table", "pairs"], 0);
    assert_eq!(all.lines().count(), judged.len() + asked.len());
}

#[test]
fn a_what_if_shows_texts_and_known_verdicts() {
    let folders = DataFolders::new();
    folders.append("data", &learnt(learning_plan("loop")).recorded);
    let what_if = ["replay", "loop", "--what-if", "conflict.rule=margin", "--what-if", "conflict.budget=3"];
    let text = folders.output("data", &what_if, 0);
    assert!(text.contains("new:") && text.contains("dropped:"), "{text}");
    assert!(text.contains("judged: ") && text.contains("is better"), "{text}");
    assert!(text.contains("verdicts     recorded selection:"), "{text}");
    let found = folders.json("data", &what_if, 0);
    let (recorded, changed) = (&found["known"]["recorded"], &found["known"]["changed"]);
    assert_eq!(recorded["judged"], recorded["comparisons"], "every recorded comparison is judged");
    assert!(changed["judged"].as_u64() <= changed["comparisons"].as_u64());
    let missing = found["total"]["labels_missing"].as_u64().unwrap();
    let unjudged = changed["comparisons"].as_u64().unwrap() - changed["judged"].as_u64().unwrap();
    assert_eq!(missing, unjudged, "known verdicts are not asked for again");
    for pair in found["different"].as_array().unwrap() {
        assert!(pair["texts"][0].is_string() && pair["prompt"].is_string(), "{pair}");
        if pair["new"] == false {
            assert!(pair["outcome"].is_string(), "{pair}");
        }
    }
    let same = folders.json("data", &["replay", "loop", "--what-if", "feedback.overlap=1"], 0);
    assert_eq!(same["known"]["recorded"], same["known"]["changed"]);
}

#[test]
fn many_runs_are_one_table_in_every_format() {
    let folders = DataFolders::new();
    let names: Vec<String> = (0..40).map(|number| format!("run-{number:02}")).collect();
    for name in &names {
        folders.append("data", &learnt(learning_plan(name)).recorded);
    }
    folders.append("elsewhere", &awaiting_judgements(learning_plan("open")).recorded);
    let compare = |more: &[&str]| {
        let mut arguments = vec!["compare"];
        arguments.extend(names.iter().map(String::as_str));
        arguments.extend(more);
        folders.output("data", &arguments, 0)
    };
    let begun = Instant::now();
    let text = compare(&[]);
    assert!(begun.elapsed().as_secs_f64() < 2.0 * slowness(), "{:?}", begun.elapsed());
    assert_eq!(text.lines().filter(|line| line.starts_with("run-")).count(), 40, "{text}");
    let elsewhere = format!("{}:open", folders.path("elsewhere").display());
    let json: Value = serde_json::from_str(&compare(&["--format", "json", &elsewhere])).unwrap();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &json["schema"]), (41, &"dissent.compare/1".into()));
    assert_eq!((&runs[0]["experiment"], &runs[40]["state"]), (&"run-00".into(), &"waits_for_people".into()));
    assert!(runs[0]["gold_difference"].is_null());
    let csv = compare(&["--format", "csv", &elsewhere]);
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let headers = reader.headers().unwrap().clone();
    assert!(headers.iter().any(|name| name == "gold_difference_low"), "{headers:?}");
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert!(records.len() == 41 && records.iter().all(|record| record.len() == headers.len()));
    let markdown = compare(&["--format", "md"]);
    assert_eq!(markdown.lines().filter(|line| line.starts_with("| run")).count(), 41, "{markdown}");
    let page = folders.path("runs.html");
    compare(&["--format", "html", "-o", page.to_str().unwrap()]);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(
        page.starts_with("<!DOCTYPE html>")
            && page.matches("<tr>").count() == 41
            && !page.contains("<script")
    );
    let unknown = folders.output("data", &["compare", "run-00", "run-99"], 2);
    assert!(unknown.contains("run-99"), "{unknown}");
}

/// Allows for builds without optimisation on busy machines.
fn slowness() -> f64 {
    if cfg!(debug_assertions) { 5.0 } else { 1.0 }
}

#[test]
fn a_dry_run_checks_everything_and_predicts_time_memory_disk_and_labels() {
    let learns = Some(Learning { rounds: 2, steps: 2 });
    let Some(lab) = Lab::new(&Setup { prompts: 4, max_new_tokens: 8, learns, ..Setup::default() }) else {
        return;
    };
    let config = lab.config();
    let dry = ["run", config.to_str().unwrap(), "--dry-run"];
    let text = String::from_utf8(succeeded(lab.dissent("data", &dry)).stdout).unwrap();
    for part in [
        "checked:",
        "labels  at most 14 judgements",
        "time    generation",
        "time    whole run",
        "memory  ",
        "disk    ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!lab.data_dir("data").exists(), "nothing is written");
    let found = succeeded(lab.dissent("data", &[dry.as_slice(), &["--json"]].concat())).stdout;
    let found: Value = serde_json::from_slice(&found).unwrap();
    assert!(found["time"]["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(found["labels"]["judgements_max"], 7);
    assert!(found["disk"]["free_bytes"].as_u64().unwrap() > 0 && found["process"]["peak_bytes"].is_u64());

    // What a run would refuse, a dry run refuses, too.
    lab.run("data");
    let changed =
        lab.dissent("data", &[dry.as_slice(), &["--set", "conflict.budget=3"]].concat()).output().unwrap();
    let text = String::from_utf8(changed.stderr).unwrap();
    assert!(changed.status.code() == Some(2) && text.contains("dissent experiment fork lab"), "{text}");
    std::fs::write(lab.data_dir("held-out.jsonl"), std::fs::read(lab.data_dir("prompts.jsonl")).unwrap())
        .unwrap();
    let shared = lab.dissent("new", &dry).output().unwrap();
    assert_eq!(shared.status.code(), Some(2), "held-out prompts are those of the run");
}

/// A run that waits for people, and is ended with the test.
struct WaitingRun(Child);

impl Drop for WaitingRun {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn lines_of_progress_have_counts_and_never_an_unknown_total() {
    let learns = Some(Learning { rounds: 1, steps: 3 });
    let Some(lab) = Lab::new(&Setup { prompts: 6, max_new_tokens: 24, learns, ..Setup::default() }) else {
        return;
    };
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), config.replace("source = \"oracle\"", "source = \"people\"")).unwrap();
    let log = lab.data_dir("run.log");
    let mut run = lab.dissent("data", &["run", lab.config().to_str().unwrap(), "--wait"]);
    run.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let mut run = WaitingRun(run.spawn().unwrap());
    // The end of a phase has a line; this run then waits for people.
    let begun = Instant::now();
    let said = loop {
        let said = std::fs::read_to_string(&log).unwrap();
        if said.contains("6 of 6 prompts measured") {
            break said;
        }
        let ended = run.0.try_wait().unwrap();
        assert!(ended.is_none() && begun.elapsed() < Duration::from_secs(90), "{ended:?}: {said}");
        std::thread::yield_now();
    };
    assert!(!said.contains("0 of 0"), "{said}");
}
