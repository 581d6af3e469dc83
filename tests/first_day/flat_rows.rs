//! `dissent detect` on tables of one completion a line, and on columns of other names.

use std::process::{Command, Output};

use serde_json::{Value, json};

fn detect(folder: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
    command.arg("detect").args(arguments).env_remove("DISSENT_DATA").current_dir(folder).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const SCORES: [[(f64, f64); 3]; 2] =
    [[(1.0, -9.0), (2.0, -4.0), (0.5, -2.0)], [(3.0, -1.0), (1.0, -2.0), (2.0, -3.0)]];

fn write(folder: &std::path::Path, name: &str, rows: impl IntoIterator<Item = Value>) {
    let text: String = rows.into_iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(folder.join(name), text).unwrap();
}

/// Writes the same scores as a nested file and as flat ones. The rows of the prompts alternate.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let nested = |index: usize| {
        let completions: Vec<Value> = SCORES[index]
            .iter()
            .enumerate()
            .map(|(at, (reward, logprob))| json!({"text": format!("answer {at}"), "reward": reward, "logprob": logprob, "judge": "x"}))
            .collect();
        json!({"prompt_id": format!("q{index}"), "prompt": format!("Question {index}?"), "topic": "t", "completions": completions})
    };
    write(folder.path(), "nested.jsonl", [nested(0), nested(1)]);
    let flat = || (0..3).flat_map(|at| (0..2).map(move |index| (index, at)));
    let of = |(index, at): (usize, usize), by_text: bool| {
        let (reward, logprob) = SCORES[index][at];
        let mut row =
            json!({"text": format!("answer {at}"), "reward": reward, "logprob": logprob, "judge": "x"});
        row["prompt"] = format!("Question {index}?").into();
        if !by_text {
            row["prompt_id"] = format!("q{index}").into();
        }
        row
    };
    write(folder.path(), "flat.jsonl", flat().map(|place| of(place, false)));
    write(folder.path(), "by-text.jsonl", flat().map(|place| of(place, true)));
    let renamed = flat().map(|place| {
        let row = of(place, true);
        json!({"question": row["prompt"], "score": row["reward"], "lp": row["logprob"], "answer": row["text"]})
    });
    write(folder.path(), "renamed.jsonl", renamed);
    let mut csv = "question,score,lp,answer\n".to_owned();
    for (index, at) in flat() {
        let (reward, logprob) = SCORES[index][at];
        csv.push_str(&format!("Question {index}?,{reward},{logprob},answer {at}\n"));
    }
    std::fs::write(folder.path().join("renamed.csv"), csv).unwrap();
    folder
}

const MAP: [&str; 6] = ["--map", "reward=score", "--map", "logprob=lp", "--map", "prompt=question"];

#[test]
fn flat_rows_have_the_figures_of_nested_rows() {
    let folder = folder();
    let nested = lines(&detect(folder.path(), &["--input", "nested.jsonl"]));
    assert_eq!(nested.len(), 2);
    let maps = |input: &'static str| [&["--input", input], MAP.as_slice()].concat();
    for arguments in [
        vec!["--input", "flat.jsonl"],
        vec!["--input", "by-text.jsonl"],
        maps("renamed.jsonl"),
        maps("renamed.csv"),
    ] {
        let flat = lines(&detect(folder.path(), &arguments));
        assert_eq!(flat.len(), 2, "{arguments:?}");
        for (flat, nested) in flat.iter().zip(&nested) {
            for figure in ["pacs", "mean_abs_pacs", "kendall_tau", "selected", "degenerate"] {
                assert_eq!(flat[figure], nested[figure], "{arguments:?} {figure}");
            }
            assert_eq!(flat["completions"].as_array().unwrap().len(), 3, "{arguments:?}");
        }
    }
}

#[test]
fn texts_and_unknown_columns_pass_through() {
    let folder = folder();
    let nested = lines(&detect(folder.path(), &["--input", "nested.jsonl"]));
    assert_eq!((&nested[0]["prompt"], &nested[0]["topic"]), (&json!("Question 0?"), &json!("t")));
    assert_eq!(
        nested[0]["completions"][1],
        json!({"text": "answer 1", "reward": 2.0, "logprob": -4.0, "judge": "x"})
    );
    let flat = lines(&detect(folder.path(), &["--input", "flat.jsonl"]));
    assert_eq!((&flat[1]["prompt_id"], &flat[1]["prompt"]), (&json!("q1"), &json!("Question 1?")));
    assert_eq!(
        flat[1]["completions"][2],
        json!({"text": "answer 2", "reward": 2.0, "logprob": -3.0, "judge": "x"})
    );
    let renamed = lines(&detect(folder.path(), &[&["--input", "renamed.jsonl"], MAP.as_slice()].concat()));
    assert_eq!(renamed[0]["question"], "Question 0?");
    assert_eq!(renamed[0]["completions"][0], json!({"score": 1.0, "lp": -9.0, "answer": "answer 0"}));
    // Its own output can be read again.
    let again = detect(folder.path(), &["--input", "nested.jsonl", "--output", "first.jsonl"]);
    assert!(again.status.success());
    assert_eq!(lines(&detect(folder.path(), &["--input", "first.jsonl"])), nested);
}

#[test]
fn columns_of_nested_rows_can_be_mapped_too() {
    let folder = folder();
    let text = std::fs::read_to_string(folder.path().join("nested.jsonl")).unwrap();
    let text = text.replace("\"reward\"", "\"score\"").replace("\"completions\"", "\"answers\"");
    std::fs::write(folder.path().join("other.jsonl"), text).unwrap();
    let arguments = ["--input", "other.jsonl", "--map", "reward=score", "--map", "completions=answers"];
    let mapped = lines(&detect(folder.path(), &arguments));
    let nested = lines(&detect(folder.path(), &["--input", "nested.jsonl"]));
    assert_eq!(mapped[0]["pacs"], nested[0]["pacs"]);
    assert_eq!(mapped[0]["answers"][0]["score"], 1.0);
}

#[test]
fn an_input_is_never_overwritten() {
    let folder = folder();
    let path = folder.path().join("nested.jsonl");
    let before = std::fs::read(&path).unwrap();
    std::os::unix::fs::symlink(&path, folder.path().join("link.jsonl")).unwrap();
    std::fs::hard_link(&path, folder.path().join("hard.jsonl")).unwrap();
    for output in ["nested.jsonl", "./nested.jsonl", "link.jsonl", "hard.jsonl", path.to_str().unwrap()] {
        let refused = detect(folder.path(), &["--input", "nested.jsonl", "--output", output]);
        let text = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{output}: {text}");
        assert!(text.contains("nested.jsonl") && text.contains("is the input"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

#[test]
fn a_bad_flat_row_is_named_with_its_column() {
    let folder = folder();
    let good = json!({"prompt": "p", "reward": 1, "logprob": -1});
    for (row, named) in [
        (json!({"prompt": "p", "logprob": -1}), "bad.jsonl:2: reward: missing"),
        (json!({"prompt": "p", "reward": 1}), "bad.jsonl:2: logprob: missing"),
        (json!({"reward": 1, "logprob": -1}), "bad.jsonl:2: prompt_id: missing"),
        (json!({"prompt": "p", "reward": "x", "logprob": -1}), "bad.jsonl:2: reward: invalid type"),
        (
            json!({"prompt_id": "p", "completions": [{"reward": 1, "logprob": -1}]}),
            "bad.jsonl:2: completions: one completion",
        ),
    ] {
        write(folder.path(), "bad.jsonl", [good.clone(), row.clone()]);
        let refused = detect(folder.path(), &["--input", "bad.jsonl"]);
        let text = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{text}");
        assert!(text.contains(named), "{row}: {text}");
    }
    let two = [
        json!({"prompt_id": "a", "prompt": "p", "reward": 1, "logprob": -1}),
        json!({"prompt_id": "a", "prompt": "q", "reward": 1, "logprob": -1}),
    ];
    write(folder.path(), "bad.jsonl", two);
    let text = String::from_utf8(detect(folder.path(), &["--input", "bad.jsonl"]).stderr).unwrap();
    assert!(text.contains("bad.jsonl:2: prompt: differs from line 1"), "{text}");
    let missing = detect(folder.path(), &["--input", "flat.jsonl", "--map", "reward=scor"]);
    assert!(String::from_utf8(missing.stderr).unwrap().contains("scor: missing"));
    for (mapping, named) in
        [("score=reward", "reward=score"), ("rewrad=x", "reward"), ("reward", "COLUMN=NAME")]
    {
        let refused = detect(folder.path(), &["--input", "flat.jsonl", "--map", mapping]);
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && text.contains(named), "{mapping}: {text}");
    }
}
