//! `dissent study` on tiny models, also killed and resumed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use dissent_models::runtime::OnnxRuntime;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::required::required;
use crate::support::succeeded;

pub(crate) struct Study {
    folder: TempDir,
}

impl Study {
    /// Returns a folder with a study. Requires ONNX Runtime.
    fn new(config: &str, files: &[(&str, String)]) -> Option<Self> {
        required(OnnxRuntime::load(None))?;
        let study = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(study.config(), config).unwrap();
        for (name, text) in files {
            std::fs::write(study.folder.path().join(name), text).unwrap();
        }
        Some(study)
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("study.toml")
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.arg("--data-dir").arg(self.data_dir()).arg("study").arg(self.config());
        command
    }

    pub(crate) fn run(&self) -> Output {
        succeeded(self.command())
    }

    pub(crate) fn report(&self, name: &str, extension: &str) -> String {
        std::fs::read_to_string(self.data_dir().join("reports").join(format!("{name}.{extension}"))).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.report(name, "json")).unwrap()
    }

    /// Modification times of the files below a folder of the data folder.
    fn written(&self, below: &str) -> BTreeMap<PathBuf, SystemTime> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.data_dir().join(below)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.clone(), path.metadata().unwrap().modified().unwrap());
                }
            }
        }
        found
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden").join(name)
}

/// Questions with four completions each: the one with more of the word `w5` is preferred.
fn labelled(questions: usize) -> String {
    let entry = |question: usize| {
        let count = |completion: usize| (question * 7 + completion * 3) % 5;
        let text = |completion: usize| {
            let filler = 10 + (question * 11 + completion * 17) % 80;
            format!("{} w{filler} w{}", "w5 ".repeat(count(completion)), filler + 1)
        };
        let preference = |(first, second): (usize, usize)| match count(first).cmp(&count(second)) {
            std::cmp::Ordering::Greater => 1,
            std::cmp::Ordering::Less => 2,
            std::cmp::Ordering::Equal => 0,
        };
        let pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
        serde_json::json!({
            "question": format!("w{} w{}", 20 + question, 30 + question),
            "passages": [["w2", "w3 w4", "w6"]],
            "prediction 1": text(0), "prediction 2": text(1), "prediction 3": text(2), "prediction 4": text(3),
            "preference": pairs.map(preference),
        })
    };
    serde_json::to_string(&(0..questions).map(entry).collect::<Vec<_>>()).unwrap()
}

pub(crate) fn labelled_study() -> Option<Study> {
    let config = format!(
        r#"
        [study]
        name = "labelled"
        seed = 3
        [labelled]
        path = "labelled.json"
        held_out = 12
        [policy]
        path = {model:?}
        template = "{{prompt}} {{completion}}"
        prompt = "{{passages}} {{question}}"
        [proxy]
        path = {model:?}
        template = "{{prompt}} {{completion}}"
        prompt = "{{question}}"
        members = 2
        pairs = 24
        [proxy.training]
        learning_rate = 1e-3
        batch_size = 8
        [runtime]
        provider = "cpu"
        threads = 1
        "#,
        model = golden("llama"),
    );
    Study::new(&config, &[("labelled.json", labelled(30))])
}

/// Checks that the result follows from the interval.
fn assert_result_follows(interval: &Value, result: &str) {
    let (low, high) = (interval["low"].as_f64().unwrap(), interval["high"].as_f64().unwrap());
    let expected = if low > 0.0 {
        "won"
    } else if high < 0.0 {
        "lost"
    } else {
        "tied"
    };
    assert_eq!(result, expected, "{interval}");
}

#[test]
fn a_labelled_study_compares_every_rule_with_the_judgements() {
    let Some(study) = labelled_study() else { return };
    let output = String::from_utf8(study.run().stdout).unwrap();
    let report = study.json("labelled");
    assert_eq!(report["schema"], "dissent.study/1");
    let predictions = &report["labelled"]["predictions"];
    let rules: Vec<&str> =
        predictions["rules"].as_array().unwrap().iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
    for rule in
        ["random", "margin", "ensemble variance", "conflict", "doubt", "conflict, log-probability mean"]
    {
        assert!(rules.contains(&rule), "{rules:?}");
    }
    assert_eq!(predictions["samples"], 2);
    assert!(predictions["pairs"].as_f64().unwrap() > 20.0);
    for advantage in predictions["advantages"].as_array().unwrap() {
        assert_result_follows(&advantage["auroc"], advantage["standing"].as_str().unwrap());
    }
    let verdict = report["verdict"][0].as_str().unwrap();
    assert!(verdict.starts_with("In finding the proxy's errors, conflict (SHF-CAS) "), "{verdict}");
    assert!(output.contains(verdict), "{output}");
    let page = study.report("labelled", "html");
    assert!(
        page.starts_with("<!DOCTYPE html>") && page.matches("<svg class=\"chart\"").count() == 2,
        "two charts"
    );
    let table = study.report("labelled", "md");
    assert!(table.contains("| ensemble variance |") && table.contains("| 25 % | matched |"), "{table}");
    assert!(page.contains("Which opponent finds the most errors"));
    assert_opponents(&report["labelled"]["opponents"]);
}

/// Checks a table of opponents: four at three shares for two kinds of log-probability.
fn assert_opponents(table: &Value) {
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 24, "{table}");
    for row in rows {
        assert!(row["labels"].as_f64().unwrap() > 0.0, "{row}");
        let differences = row["differences"].as_array().unwrap();
        assert!(differences.iter().all(|difference| difference["over"] != row["opponent"]), "{row}");
        for difference in differences {
            assert_result_follows(&difference["errors_per_label"], difference["result"].as_str().unwrap());
        }
    }
}

#[test]
fn json_lines_of_the_same_judgements_give_the_same_result() {
    let Some(study) = labelled_study() else { return };
    study.run();
    let expected = study.json("labelled");
    let entries: Vec<Value> = serde_json::from_str(&labelled(30)).unwrap();
    let pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
    let line = |entry: &Value| {
        let (mut preferences, mut ties) = (Vec::new(), Vec::new());
        for (&(first, second), preference) in pairs.iter().zip(entry["preference"].as_array().unwrap()) {
            match preference.as_u64().unwrap() {
                1 => preferences.push([first, second]),
                2 => preferences.push([second, first]),
                _ => ties.push([first, second]),
            }
        }
        let completion =
            |place: usize| entry[format!("prediction {place}")].as_str().unwrap().trim().to_owned();
        let row = serde_json::json!({
            "prompt": entry["question"], "passages": "w2: w3 w4 w6",
            "completions": [completion(1), completion(2), completion(3), completion(4)],
            "preferences": preferences, "ties": ties,
        });
        format!("{row}\n")
    };
    let file = study.folder.path().join("labelled.jsonl");
    std::fs::write(&file, entries.iter().map(line).collect::<String>()).unwrap();
    let mut command = study.command();
    command.arg("--labelled").arg(&file);
    succeeded(command);
    let found = study.json("labelled");
    assert_eq!(found["labelled"]["source"], "labelled.jsonl");
    assert_eq!(found["labelled"]["predictions"], expected["labelled"]["predictions"]);
    assert_eq!(found["labelled"]["opponents"], expected["labelled"]["opponents"]);
    std::fs::write(&file, "{\"prompt\": \"p\", \"completions\": [\"a\"], \"scores\": [1]}\n").unwrap();
    let mut command = study.command();
    let output = command.arg("--labelled").arg(&file).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("labelled.jsonl: line 1: completions has 1 entries"), "{stderr}");
}

#[test]
fn a_killed_study_resumes_to_the_same_report() {
    let Some(study) = labelled_study() else { return };
    study.run();
    let (report, steps) = (study.report("labelled", "json"), study.written("steps"));
    study.run();
    assert_eq!(study.report("labelled", "json"), report);
    assert_eq!(study.written("steps"), steps, "no step is repeated");
    // A kill during the policy's scoring leaves such a file.
    let scores = steps.keys().find(|path| path.to_string_lossy().contains("logprobs")).unwrap();
    let text = std::fs::read_to_string(scores).unwrap();
    let kept: usize = text.lines().take(5).map(|line| line.len() + 1).sum();
    std::fs::write(scores, &text[..kept + 7]).unwrap();
    study.run();
    assert_eq!(std::fs::read_to_string(scores).unwrap(), text);
    assert_eq!(study.report("labelled", "json"), report);
}

#[test]
fn a_study_without_its_labelled_data_names_their_source() {
    let Some(study) = labelled_study() else { return };
    std::fs::remove_file(study.folder.path().join("labelled.json")).unwrap();
    let output = study.command().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("allenai/FineGrainedRLHF") && stderr.contains("--labelled"), "{stderr}");
}

/// Full feedback, a random selection, and a selection by |PACS| with two opponents; two seeds each.
fn arms_config() -> String {
    format!(
        r#"
        [study]
        name = "arms"
        seeds = [1, 2]
        parallel = 2
        [[arm]]
        rule = "all"
        [[arm]]
        rule = "random"
        budgets = [4]
        [[arm]]
        rule = "budget"
        budgets = [4]
        [[arm]]
        rule = "budget"
        budgets = [4]
        opponent = "matched"
        [experiment]
        rounds = 1
        [prompts]
        path = "prompts.jsonl"
        [policy]
        path = {policy:?}
        template = "{{prompt}} {{completion}}"
        [reward]
        path = {policy:?}
        adapter = {adapter:?}
        template = "{{prompt}} {{completion}}"
        [generation]
        samples = 3
        temperature = 1.0
        max_new_tokens = 6
        [gold]
        kind = "answers"
        path = "answers.jsonl"
        [feedback]
        source = "oracle"
        [refinement]
        steps = 2
        batch_size = 4
        [tuning]
        method = "dpo"
        steps = 2
        batch_size = 4
        [evaluation]
        prompts = "held-out.jsonl"
        [runtime]
        provider = "cpu"
        threads = 1
        "#,
        policy = golden("llama"),
        adapter = golden("llama-reward"),
    )
}

pub(crate) fn arms_study() -> Option<Study> {
    let prompts = |name: &str, first: usize, count: usize| -> String {
        (0..count).fold(String::new(), |mut lines, index| {
            let _ = writeln!(
                lines,
                r#"{{"prompt_id": "{name}{index}", "prompt": "w{} w{}"}}"#,
                first + index,
                40 + index
            );
            lines
        })
    };
    let answers: String = [("p", 6), ("h", 3)].into_iter().fold(String::new(), |lines, (name, count)| {
        (0..count).fold(lines, |mut lines, index| {
            let words: Vec<String> =
                (0..40).map(|word| format!("w{}", 2 + (index * 13 + word * 3) % 150)).collect();
            let _ = writeln!(lines, r#"{{"prompt_id": "{name}{index}", "answer": "{}"}}"#, words.join(" "));
            lines
        })
    });
    Study::new(
        &arms_config(),
        &[
            ("prompts.jsonl", prompts("p", 9, 6)),
            ("held-out.jsonl", prompts("h", 20, 3)),
            ("answers.jsonl", answers),
        ],
    )
}

#[test]
fn four_arms_and_two_seeds_make_eight_experiments_and_one_report() {
    let Some(study) = arms_study() else { return };
    study.run();
    let report = study.json("arms");
    let points = report["arms"]["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    for (point, rule) in points.iter().zip(["all", "random", "budget", "budget"]) {
        assert_eq!((point["rule"].as_str(), point["seeds"].as_u64()), (Some(rule), Some(2)));
        assert!(point["gold"]["mean"].as_f64().is_some(), "{point}");
    }
    // All pairs of three completions of six prompts, unless degenerate; four pairs of the budget.
    assert!(points[0]["labels"].as_f64().unwrap() > 9.0 && points[0]["labels"].as_f64().unwrap() <= 18.0);
    assert!(points[1]["labels"].as_f64().unwrap() <= 4.0);
    let before = &report["arms"]["before"][0];
    assert!(before["mean"].as_f64().is_some(), "{before}");
    let first_gold = |rule: &str| -> BTreeMap<String, String> {
        let of_rule = study.written("arms").into_keys().filter(|path| {
            path.ends_with("outcome.json") && path.to_string_lossy().contains(&format!("arms-{rule}"))
        });
        let gold = |path: PathBuf| {
            let outcome: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let seed = path.to_string_lossy().split("seed").last().unwrap()[..1].to_owned();
            (seed, outcome["gold_before"].to_string())
        };
        of_rule.map(gold).collect()
    };
    assert_eq!(first_gold("all"), first_gold("random"), "the arms of a seed begin with the same completions");
    let predictions = &report["arms"]["predictions"];
    assert_eq!(predictions["samples"], 2, "one for each seed of the arm that judges every pair");
    assert!(study.report("arms", "html").contains("<svg"));
    assert_opponents(&report["arms"]["opponents"]);
    assert!(points[2].get("opponent").is_none() && points[3]["opponent"] == "matched", "{points:?}");
    let contests = report["arms"]["contests"].as_array().unwrap();
    assert!(contests.iter().any(|contest| contest["opponent"] == "matched" && contest["over"] == "budget"));
    assert!(study.report("arms", "md").contains("| budget, opponent matched | 4 | 2 |"));
}

#[test]
fn an_outcome_without_ties_is_read_from_its_log_again() {
    let Some(study) = arms_study() else { return };
    study.run();
    let report = study.report("arms", "json");
    let outcomes = study.written("arms").into_keys();
    let all: Vec<PathBuf> = outcomes
        .filter(|path| path.ends_with("outcome.json") && path.to_string_lossy().contains("arms-all"))
        .collect();
    assert_eq!(all.len(), 2);
    for path in all {
        let mut outcome: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        outcome["judged"].as_object_mut().unwrap().remove("ties").unwrap();
        std::fs::write(&path, outcome.to_string()).unwrap();
    }
    study.run();
    assert_eq!(study.report("arms", "json"), report);
}

#[test]
fn a_study_repeats_lost_experiments_only() {
    let Some(study) = arms_study() else { return };
    study.run();
    let (report, arms) = (study.report("arms", "json"), study.written("arms"));
    study.run();
    assert_eq!(study.written("arms"), arms);
    assert_eq!(study.report("arms", "json"), report);
    let lost = arms.keys().find(|path| path.ends_with("outcome.json")).unwrap();
    std::fs::remove_dir_all(lost.parent().unwrap()).unwrap();
    study.run();
    assert_eq!(study.report("arms", "json"), report, "a repeated experiment has the same outcome");
    let others = |written: &BTreeMap<PathBuf, SystemTime>| -> BTreeMap<PathBuf, SystemTime> {
        let kept = written.iter().filter(|(path, _)| path.parent() != lost.parent());
        kept.filter(|(path, _)| path.ends_with("outcome.json"))
            .map(|(path, time)| (path.clone(), *time))
            .collect()
    };
    assert_eq!(others(&study.written("arms")), others(&arms));
}
