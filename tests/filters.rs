//! `dissent generate` and `dissent score`, filters over JSON Lines.

use std::path::Path;

use dissent_models::cache;
use serde_json::Value;

use crate::support::required::{file, required};
use crate::support::{Lab, Setup, succeeded};

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden").join(name);
    path.to_str().unwrap().to_owned()
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Samples from the tiny Llama; `more` are further arguments.
fn generate(lab: &Lab, output: &Path, more: &[&str]) -> Vec<Value> {
    let input = lab.config().with_file_name("prompts.jsonl");
    let (policy, input) = (golden("llama"), input.to_str().unwrap().to_owned());
    let output_text = output.to_str().unwrap();
    let mut arguments =
        vec!["generate", "--policy", &policy, "--template", "raw", "--max-new-tokens", "8", "-n", "3"];
    arguments.extend(["--input", &input, "--output", output_text]);
    arguments.extend(more);
    succeeded(lab.dissent("unused", &arguments));
    lines(output)
}

#[test]
fn score_reproduces_the_log_probabilities_of_generate() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let (sampled, scored) = (lab.data_dir("sampled.jsonl"), lab.data_dir("scored.jsonl"));
    let before = generate(&lab, &sampled, &[]);
    let (policy, adapter) = (golden("llama"), golden("llama-reward"));
    succeeded(lab.dissent(
        "unused",
        &[
            "score",
            "--policy",
            &policy,
            "--reward",
            &policy,
            "--reward-adapter",
            &adapter,
            "--template",
            "raw",
            "--reward-template",
            "{prompt} {completion}",
            "--input",
            sampled.to_str().unwrap(),
            "--output",
            scored.to_str().unwrap(),
        ],
    ));
    let after = lines(&scored);
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        for sample in 0..3 {
            let (sampled, scored) = (&before["completions"][sample], &after["completions"][sample]);
            assert_eq!(sampled["token_ids"], scored["token_ids"]);
            let difference = sampled["logprob"].as_f64().unwrap() - scored["logprob"].as_f64().unwrap();
            assert!(difference.abs() < 1e-3, "{difference}");
            assert!(scored["reward"].is_number());
        }
    }
    succeeded(lab.dissent(
        "unused",
        &[
            "detect",
            "--input",
            scored.to_str().unwrap(),
            "--output",
            lab.data_dir("conflict.jsonl").to_str().unwrap(),
        ],
    ));
}

#[test]
fn samples_depend_on_the_seed_and_not_on_threads() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let first = generate(&lab, &lab.data_dir("1.jsonl"), &[]);
    assert_eq!(first, generate(&lab, &lab.data_dir("2.jsonl"), &["--threads", "1"]));
    assert_ne!(first, generate(&lab, &lab.data_dir("3.jsonl"), &["--seed", "1"]));
}

#[test]
fn generate_and_score_name_a_bad_line_and_write_no_output() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let output = lab.data_dir("out.jsonl");
    let cases = [
        ("generate", r#"{"prompt_id": "a"}"#, "prompt: missing"),
        ("generate", r#"{"prompt": ""}"#, "prompt: must not be empty"),
        ("score", r#"{"prompt_id": "a", "prompt": "?", "completions": []}"#, "completions: empty list"),
        (
            "score",
            r#"{"prompt_id": "a", "prompt": "?", "completions": [{}]}"#,
            "completions[0].text: missing",
        ),
    ];
    for (command, line, expected) in cases {
        let input = lab.data_dir("bad.jsonl");
        std::fs::write(&input, format!("{line}\n")).unwrap();
        let policy = golden("llama");
        let ran = lab
            .dissent(
                "unused",
                &[
                    command,
                    "--policy",
                    &policy,
                    "--template",
                    "raw",
                    "--input",
                    input.to_str().unwrap(),
                    "--output",
                    output.to_str().unwrap(),
                ],
            )
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(&format!("bad.jsonl:1: {expected}")), "{stderr}");
        assert!(!output.exists());
    }
}

#[test]
fn input_that_the_model_cannot_process_is_bad_input() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let (input, output) = (lab.data_dir("in.jsonl"), lab.data_dir("out.jsonl"));
    let cases = [
        (
            golden("llama"),
            r#"{"prompt_id": "a", "prompt": "?", "completions": [{"text": "w", "token_ids": [999999]}]}"#,
            "prompt a: token 999999 is outside the vocabulary",
        ),
        (
            golden("llama"),
            r#"{"prompt_id": "a", "prompt": "", "completions": [{"text": "w1"}]}"#,
            "prompt a: a prompt without a single token",
        ),
        (
            golden("missing"),
            r#"{"prompt_id": "a", "prompt": "?", "completions": [{"text": "w1"}]}"#,
            "golden/missing",
        ),
    ];
    for (policy, line, expected) in cases {
        std::fs::write(&input, line).unwrap();
        let (input, output_text) = (input.to_str().unwrap(), output.to_str().unwrap());
        let arguments =
            ["score", "--policy", &policy, "--template", "raw", "--input", input, "--output", output_text];
        let ran = lab.dissent("unused", &arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert!(!output.exists());
    }
}

#[test]
fn an_empty_completion_has_a_log_probability_of_positive_zero() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let (input, output) = (lab.data_dir("in.jsonl"), lab.data_dir("out.jsonl"));
    std::fs::write(&input, r#"{"prompt_id": "a", "prompt": "w1", "completions": [{"text": ""}]}"#).unwrap();
    let (input, output_text) = (input.to_str().unwrap(), output.to_str().unwrap());
    let policy = golden("llama");
    succeeded(lab.dissent(
        "unused",
        &["score", "--policy", &policy, "--template", "raw", "--input", input, "--output", output_text],
    ));
    let written = std::fs::read_to_string(output).unwrap();
    assert!(written.contains(r#""logprob":0.0,"#), "{written}");
}

#[test]
fn a_cost_is_the_negated_reward() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    let sampled = lab.data_dir("sampled.jsonl");
    generate(&lab, &sampled, &[]);
    let (model, adapter) = (golden("llama"), golden("llama-reward"));
    let [reward, cost] = ["reward", "cost"].map(|kind| {
        let output = lab.data_dir(kind);
        succeeded(lab.dissent(
            "unused",
            &[
                "score",
                "--reward",
                &model,
                "--reward-adapter",
                &adapter,
                "--template",
                "{prompt} {completion}",
                "--reward-kind",
                kind,
                "--input",
                sampled.to_str().unwrap(),
                "--output",
                output.to_str().unwrap(),
            ],
        ));
        lines(&output)[0]["completions"][0]["reward"].as_f64().unwrap()
    });
    assert!((reward + cost).abs() < f64::EPSILON, "{reward} and {cost}");
}

#[test]
fn score_agrees_with_transformers_and_peft_on_the_fixture() {
    let model = cache::cache_dir().unwrap().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let model = file(model).map_err(|reason| format!("{reason}: run `cargo xtask fetch`"));
    let Some(model) = required(model) else { return };
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    // Three prompts are enough here. The tests of `dissent-models` score the whole fixture.
    let input = lab.data_dir("input.jsonl");
    let fixture = std::fs::read_to_string(golden("score-input.jsonl")).unwrap();
    std::fs::write(&input, fixture.lines().take(3).map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    let (output, model) = (lab.data_dir("output.jsonl"), model.to_str().unwrap().to_owned());
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden/proxy-reward");
    succeeded(lab.dissent(
        "unused",
        &[
            "score",
            "--policy",
            &model,
            "--reward",
            &model,
            "--reward-layers",
            "6",
            "--reward-adapter",
            adapter.to_str().unwrap(),
            "--template",
            r"Question: {prompt}\n\nAnswer: {completion}",
            "--input",
            input.to_str().unwrap(),
            "--output",
            output.to_str().unwrap(),
        ],
    ));
    let expected = lines(Path::new(&golden("score-expected.jsonl")));
    for (scored, expected) in lines(&output).iter().zip(&expected) {
        for (scored, expected) in
            scored["completions"].as_array().unwrap().iter().zip(expected["completions"].as_array().unwrap())
        {
            assert_eq!(scored["tokens"], expected["tokens"]);
            let difference =
                |field: &str| scored[field].as_f64().unwrap() - expected[field].as_f64().unwrap();
            assert!(difference("logprob").abs() <= 1e-2, "{}", difference("logprob"));
            assert!(difference("reward").abs() <= 1e-3, "{}", difference("reward"));
        }
    }
}

/// Runs a command on the tiny Llama. Returns its success, its messages and its output.
fn filter(lab: &Lab, arguments: &[&str], input: &str, name: &str) -> (bool, String, Vec<Value>) {
    let (given, output) = (lab.data_dir(name), lab.data_dir("filtered.jsonl"));
    std::fs::write(&given, input).unwrap();
    let policy = golden("llama");
    let files = ["--policy", &policy, "--template", "raw", "--input", given.to_str().unwrap(), "--output"];
    let arguments = [arguments, &files, &[output.to_str().unwrap()]].concat();
    let ran = lab.dissent("unused", &arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
    let written = if output.exists() { lines(&output) } else { Vec::new() };
    let _ = std::fs::remove_file(&output);
    (ran.status.success(), stderr, written)
}

#[test]
fn rows_that_are_too_long_are_refused_before_a_model_runs_or_skipped_or_null() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let long = "w5 ".repeat(100);
    let row = |id: &str, prompt: &str| {
        serde_json::json!({"prompt_id": id, "prompt": prompt, "completions": [{"text": "w7"}]}).to_string()
            + "\n"
    };
    let input = [row("a", "w5 w6"), row("b", &long), row("c", "w7")].concat();
    for command in [&["generate", "-n", "2", "--max-new-tokens", "3"][..], &["score"]] {
        let (done, message, written) = filter(&lab, command, &input, "rows.jsonl");
        assert!(!done && written.is_empty());
        assert!(message.contains("1 prompt is too long for the model's context (b)"), "{message}");
        let (done, message, written) =
            filter(&lab, &[command, &["--too-long", "skip"]].concat(), &input, "rows.jsonl");
        assert!(done && message.contains("(b): left out"), "{message}");
        assert_eq!(written.iter().map(|row| row["prompt_id"].clone()).collect::<Vec<_>>(), ["a", "c"]);
        let (done, message, with_null) =
            filter(&lab, &[command, &["--too-long", "null"]].concat(), &input, "rows.jsonl");
        assert!(done && message.contains("(b): written with null"), "{message}");
        assert_eq!((&with_null[0], &with_null[2]), (&written[0], &written[1]));
        let missing = with_null[1].pointer("/completions/0/logprob").unwrap_or(&with_null[1]["completions"]);
        assert!(missing.is_null(), "{missing}");
    }
}

#[test]
fn a_stop_text_ends_a_completion_and_is_not_part_of_its_text() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let sample = |more: &[&str]| {
        let greedy =
            [&["generate", "-n", "1", "--max-new-tokens", "12", "--temperature", "0"], more].concat();
        let (done, message, written) = filter(&lab, &greedy, "{\"prompt\": \"w5 w6\"}\n", "rows.jsonl");
        assert!(done, "{message}");
        written[0]["completions"][0].clone()
    };
    let free = sample(&[]);
    let text = free["text"].as_str().unwrap();
    let stop = text.split_whitespace().nth(3).unwrap();
    let (before, _) = text.split_once(stop).unwrap();
    let stopped = sample(&["--stop", "never", "--stop", stop]);
    assert_eq!(stopped["text"], before);
    assert_eq!(stopped["finish_reason"], "stop");
    let ids = |completion: &Value| completion["token_ids"].as_array().unwrap().clone();
    let kept = ids(&stopped).len();
    assert_eq!(ids(&stopped), ids(&free)[..kept]);
    assert!(kept < ids(&free).len(), "{kept}");
    let (done, message, _) =
        filter(&lab, &["generate", "--stop", ""], "{\"prompt\": \"w5\"}\n", "rows.jsonl");
    assert!(!done && message.contains("stop = 0 is out of range"), "{message}");
}

#[test]
fn prompts_are_turns_or_texts_in_any_container() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let turns = r#"[{"role":"system","content":"w5"},{"role":"user","content":"w6"}]"#;
    let greedy = ["generate", "-n", "1", "--max-new-tokens", "3", "--temperature", "0"];
    let array = format!("[\n {{\"prompt_id\": \"a\",\n \"prompt\": {turns}}},\n {{\"prompt\": \"w7\"}}\n]");
    let (done, message, sampled) = filter(&lab, &greedy, &array, "rows.json");
    assert!(done, "{message}");
    assert_eq!(sampled[0]["prompt"].to_string(), turns);
    assert_eq!((&sampled[1]["prompt_id"], &sampled[1]["prompt"]), (&"p2".into(), &"w7".into()));
    let cells = format!("prompt_id,prompt\na,\"{}\"\np2,w7\n", turns.replace('"', "\"\""));
    assert_eq!(filter(&lab, &greedy, &cells, "rows.csv").2, sampled);
    let input: String = sampled.iter().map(|row| format!("{row}\n")).collect();
    let (done, message, scored) = filter(&lab, &["score"], &input, "rows.jsonl");
    assert!(done, "{message}");
    for (sampled, scored) in sampled.iter().zip(&scored) {
        assert_eq!(sampled["prompt"], scored["prompt"]);
        let logprob = |row: &Value| row["completions"][0]["logprob"].as_f64().unwrap();
        assert!((logprob(sampled) - logprob(scored)).abs() < 1e-3);
    }
    let (done, message, _) = filter(&lab, &greedy, "PK\u{3}\u{4}x", "rows.zip");
    assert!(!done && message.contains("rows.zip is a ZIP archive"), "{message}");
}
