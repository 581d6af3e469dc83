//! `dissent detect` measures conflict, selects completions and names bad input.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn detect() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
    command.arg("detect").env_remove("DISSENT_LOG").env_remove("DISSENT_DATA");
    command
}

fn with_stdin(mut command: Command, input: &[u8]) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("dissent starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // On a thread, so that neither side blocks on a full pipe.
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("dissent ends");
    // The writer fails if dissent stops reading at an error.
    let _ = writer.join().expect("the writer does not panic");
    output
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn values(text: &[u8]) -> Vec<Value> {
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("every line is JSON"))
        .collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

#[track_caller]
fn assert_close(found: &Value, expected: &Value, what: &str) {
    match (found.as_f64(), expected.as_f64()) {
        (Some(found), Some(expected)) => {
            let tolerance = 1e-9 * expected.abs().max(1e-3);
            assert!((found - expected).abs() <= tolerance, "{what}: {found}, expected {expected}");
        }
        _ => assert_eq!(found, expected, "{what}"),
    }
}

#[test]
fn detect_reproduces_the_fixtures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conflict.jsonl");
    let output = detect()
        .arg("--input")
        .arg(fixture("conflict-input.jsonl"))
        .arg("--output")
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let found = values(&fs::read(&path).unwrap());
    let expected = values(&fs::read(fixture("conflict-expected.jsonl")).unwrap());
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        let id = expected["prompt_id"].as_str().unwrap();
        for key in ["prompt_id", "degenerate"] {
            assert_eq!(found[key], expected[key], "{id}");
        }
        for key in ["mean_abs_pacs", "kendall_tau", "kendall_tau_distance"] {
            assert_close(&found[key], &expected[key], &format!("{id} {key}"));
        }
        let (found_pacs, expected_pacs) =
            (found["pacs"].as_array().unwrap(), expected["pacs"].as_array().unwrap());
        assert_eq!(found_pacs.len(), expected_pacs.len(), "{id}");
        for (found, expected) in found_pacs.iter().zip(expected_pacs) {
            assert_close(found, expected, id);
        }
        let n = expected_pacs.len() as u64;
        let pairs = ["concordant", "discordant", "tied"].iter().map(|key| found[*key].as_u64().unwrap());
        assert_eq!(pairs.sum::<u64>(), n * (n - 1) / 2, "{id}");
        assert_selected_as_in_the_paper(found);
    }
}

#[track_caller]
fn assert_selected_as_in_the_paper(found: &Value) {
    let distant = found["kendall_tau_distance"].as_f64().is_some_and(|distance| distance >= 0.5);
    let pacs: Vec<f64> = serde_json::from_value(found["pacs"].clone()).expect("PACS are numbers");
    let expected: Vec<usize> = (0..pacs.len()).filter(|&index| distant && pacs[index].abs() >= 1.0).collect();
    assert_eq!(found["selected"], serde_json::json!(expected), "{}", found["prompt_id"]);
}

#[test]
fn a_dash_means_stdin_and_stdout() {
    let input = fs::read(fixture("conflict-input.jsonl")).unwrap();
    let mut command = detect();
    command.args(["--input", "-", "--output", "-"]);
    let dashes = with_stdin(command, &input);
    assert!(dashes.status.success(), "{}", stderr(&dashes));
    assert_eq!(values(&dashes.stdout).len(), 200);
    assert_eq!(with_stdin(detect(), &input).stdout, dashes.stdout, "both are the default");
}

#[test]
fn keys_keep_their_order_and_undefined_values_are_null() {
    let line = br#"{"prompt_id":"p","completions":[{"logprob":-1,"reward":2,"text":"x","else":[1]}]}"#;
    let output = with_stdin(detect(), line);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        concat!(
            r#"{"prompt_id":"p","degenerate":true,"pacs":[0.0],"mean_abs_pacs":0.0,"kendall_tau":null,"#,
            r#""kendall_tau_distance":null,"concordant":0,"discordant":0,"tied":0,"selected":[],"#,
            r#""completions":[{"logprob":-1,"reward":2,"text":"x","else":[1]}]}"#,
            "\n"
        )
    );
}

#[test]
fn detect_names_a_bad_line_and_writes_no_output() {
    let good = r#"{"prompt_id":"good","completions":[{"logprob":-1,"reward":1},{"logprob":-2,"reward":3}]}"#;
    let cases: [(&[u8], &str); 14] = [
        (b"hello", "not JSON: expected value at column 1"),
        (br#"{"prompt_id":"p","completions":[{"logprob":-1,"reward":1}]"#, "not JSON: EOF"),
        (br#"{"completions":[{"logprob":-1,"reward":1}]}"#, "prompt_id: missing"),
        (br#"{"prompt_id":"p"}"#, "completions: missing"),
        (br#"{"prompt_id":"p","completions":[{"logprob":-1}]}"#, "completions[0].reward: missing"),
        (br#"{"prompt_id":"p","completions":[{"reward":-1}]}"#, "completions[0].logprob: missing"),
        (
            br#"{"prompt_id":"p","completions":[{"logprob":"-1","reward":1}]}"#,
            "completions[0].logprob: invalid type: string",
        ),
        (
            br#"{"prompt_id":"p","completions":[{"logprob":-1,"reward":NaN}]}"#,
            "completions[0].reward: must be a finite number, found NaN",
        ),
        (
            br#"{"prompt_id":"p","completions":[{"logprob":-Infinity,"reward":1}]}"#,
            "completions[0].logprob: must be a finite number, found -Infinity",
        ),
        (
            br#"{"prompt_id":"p","completions":[{"logprob":-1,"reward":1e999}]}"#,
            "completions[0].reward: must be a finite number, found 1e999",
        ),
        (
            br#"{"prompt_id":"p","completions":[{"logprob":-1,"reward":null}]}"#,
            "completions[0].reward: invalid type: null",
        ),
        (
            br#"{"prompt_id":"good","completions":[{"logprob":-1,"reward":1}]}"#,
            r#"prompt_id: "good" is already on line 1: use distinct ids"#,
        ),
        (br#"{"prompt_id":"p","completions":[]}"#, "completions: a prompt needs at least one completion"),
        (
            b"{\"prompt_id\":\"p\",\"completions\":[{\"text\":\"\xff\",\"logprob\":-1,\"reward\":1}]}",
            "completions[0].text: not UTF-8 at column 42",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (bad, expected) in cases {
        let path = folder.path().join("scored.jsonl");
        fs::write(&path, [good.as_bytes(), b"\n\n", bad, b"\n"].concat()).unwrap();
        let target = folder.path().join("conflict.jsonl");
        let output = detect().arg("--input").arg(&path).arg("--output").arg(&target).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(&format!("{}:3: {expected}", path.display())), "{expected}: {message}");
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["scored.jsonl"], "{expected}");
    }
}

#[test]
fn an_error_on_stdin_writes_nothing_to_stdout() {
    let input = b"{\"prompt_id\":\"p\",\"completions\":[{\"logprob\":-1,\"reward\":1}]}\nhello\n";
    let output = with_stdin(detect(), input);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(stderr(&output).contains("stdin:2: not JSON"), "{}", stderr(&output));
}

#[test]
fn a_missing_file_and_bad_options_exit_with_2_and_name_the_problem() {
    for (args, expected) in [
        (&["--input", "no/such.jsonl"][..], "failed to open no/such.jsonl"),
        (&["--rule", "budget"], "--budget"),
        (&["--rule", "random"], "--budget"),
        (&["--rule", "worst"], "paper, mean, budget, quantile, random"),
        (&["--tau", "1.5"], "between 0 and 1"),
        (&["--delta", "-1"], "0 or more"),
        (&["--delta", "NaN"], "0 or more"),
        (&["--quantile", "2"], "between 0 and 1"),
        (&["--logprob", "median"], "sum, mean"),
    ] {
        let output = detect().args(args).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn mean_logprobs_are_read_or_computed_from_token_counts() {
    let run = |completions: &str, kind: &str| {
        let mut command = detect();
        command.args(["--logprob", kind]);
        let line = format!("{{\"prompt_id\":\"p\",\"completions\":[{completions}]}}");
        with_stdin(command, line.as_bytes())
    };
    // Sums rank the second completion last, means rank it first.
    let given = r#"{"logprob":-4,"logprob_mean":-2,"reward":1},{"logprob":-9,"logprob_mean":-1,"reward":2}"#;
    let counted =
        r#"{"logprob":-4,"tokens":2,"reward":1},{"logprob":-9,"token_ids":[1,2,3,4,5,6,7,8,9],"reward":2}"#;
    for completions in [given, counted] {
        let tau = |kind| values(&run(completions, kind).stdout)[0]["kendall_tau"].as_f64();
        assert_eq!((tau("sum"), tau("mean")), (Some(-1.0), Some(1.0)), "{completions}");
    }
    let neither = run(r#"{"logprob":-4,"reward":1}"#, "mean");
    assert_eq!(neither.status.code(), Some(2));
    assert!(
        stderr(&neither).contains("stdin:1: completions[0].logprob_mean: missing"),
        "{}",
        stderr(&neither)
    );
}

fn selected(args: &[&str]) -> Vec<Vec<u64>> {
    let mut command = detect();
    command.args(args).arg("--input").arg(fixture("conflict-input.jsonl"));
    let output = command.output().expect("dissent runs");
    assert!(output.status.success(), "{}", stderr(&output));
    let indices = |prompt: Value| serde_json::from_value(prompt["selected"].clone());
    values(&output.stdout).into_iter().map(|prompt| indices(prompt).expect("indices are numbers")).collect()
}

#[test]
fn selection_rules_and_their_options_take_effect() {
    let total = |args: &[&str]| selected(args).concat().len();
    assert_eq!(total(&["--rule", "budget", "--budget", "17"]), 17);
    assert_eq!(total(&["--rule", "random", "--budget", "17"]), 17);
    assert_eq!(total(&["--budget", "3"]), 3, "the budget caps the paper's rule");
    assert_eq!(total(&["--rule", "quantile", "--quantile", "1"]), 1);
    assert!(total(&["--delta", "2"]) < total(&["--delta", "1"]));
    assert!(total(&["--tau", "0.9"]) < total(&[]));
    assert!(total(&["--rule", "mean"]) > 0);
    let random = |seed| selected(&["--rule", "random", "--budget", "50", "--seed", seed]);
    assert_eq!(random("1"), random("1"));
    assert_ne!(random("1"), random("2"));
}

#[test]
fn the_summary_compares_the_findings_with_noise() {
    let output = detect().arg("--input").arg(fixture("conflict-input.jsonl")).output().unwrap();
    let summary = stderr(&output);
    for expected in [
        "200 prompts, 2174 completions; 19 prompts degenerate",
        "rule paper, delta 1.0, tau 0.5, logprob sum",
        "of pure noise the same rule selects about",
    ] {
        assert!(summary.contains(expected), "{expected} is not in\n{summary}");
    }

    let output = detect().arg("--json").arg("--input").arg(fixture("conflict-input.jsonl")).output().unwrap();
    let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&summary["prompts"], &summary["degenerate"]), (&200.into(), &19.into()));
    let selected: usize =
        values(&output.stdout).iter().map(|prompt| prompt["selected"].as_array().unwrap().len()).sum();
    assert_eq!(summary["selected"], selected);
    let noise = &summary["sizes"][0]["mean_abs_pacs"]["past_threshold_noise"];
    assert!((noise.as_f64().unwrap() - 0.721).abs() < 0.005, "{noise}");
}

#[test]
fn empty_input_is_an_error() {
    let output = with_stdin(detect(), b"\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("the input is empty"));
    assert!(output.stdout.is_empty());
}
