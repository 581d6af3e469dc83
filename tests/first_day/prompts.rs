//! Fields beside a prompt are used, kept or refused by name.

use crate::support::{Lab, Setup, succeeded};
use serde_json::{Value, json};

fn lab() -> Option<Lab> {
    Lab::new(&Setup { prompts: 2, samples: 2, max_new_tokens: 3, ..Setup::default() })
}

fn run(lab: &Lab, name: &str, prompts: &str, more: &[&str]) -> std::process::Output {
    std::fs::write(lab.data_dir("prompts.jsonl"), prompts).unwrap();
    let config = lab.config();
    let arguments = [&["run", config.to_str().unwrap()], more].concat();
    lab.dissent(name, &arguments).output().unwrap()
}

#[test]
fn a_system_text_becomes_the_first_turn() {
    let Some(lab) = lab() else { return };
    let output = run(
        &lab,
        "data",
        "{\"prompt\": \"What?\", \"system\": \"Answer briefly.\"}\n{\"prompt\": \"Why?\"}\n",
        &[],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = succeeded(lab.dissent("data", &["log", "export", "--table", "completions"])).stdout;
    let rows = String::from_utf8(rows).unwrap();
    assert!(rows.contains("Answer briefly."), "{rows}");
}

#[test]
fn a_field_that_is_not_read_is_refused_by_name_and_can_be_ignored() {
    let Some(lab) = lab() else { return };
    for (row, named) in [
        (json!({"prompt": "p", "catgory": "x"}), "category"),
        (json!({"prompt": "p", "difficulty": 3}), "prompts"),
        (json!({"prompt": "p", "tools": [{"name": "f"}]}), "tools"),
        (json!({"prompt": "p", "system_prompt": "x"}), "system_prompt"),
        (
            json!({"prompt": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], "system": "c"}),
            "system",
        ),
        (json!({"prompt": "p", "system": 3}), "system"),
    ] {
        let output = run(&lab, "refused", &format!("{{\"prompt\": \"first\"}}\n{row}\n"), &[]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("prompts.jsonl:2") && text.contains(named), "{row}: {text}");
    }
    let rows = "{\"prompt\": \"p\", \"difficulty\": 3, \"id\": 7, \"source\": \"s\"}\n{\"prompt\": \"q\", \"tools\": null}\n";
    let output = run(&lab, "ignored", rows, &["--set", "prompts.ignore=[\"difficulty\"]"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn generate_and_score_use_a_system_text_and_keep_other_fields() {
    let Some(lab) = lab() else { return };
    let file = |name: &str| lab.data_dir(name).to_str().unwrap().to_owned();
    let rows = [
        json!({"prompt_id": "a", "prompt": "What?", "system": "Be brief.", "difficulty": 3, "completions": ["old"]}),
        json!({"prompt_id": "b", "prompt": "What?", "difficulty": 4}),
    ];
    std::fs::write(file("in.jsonl"), rows.map(|row| format!("{row}\n")).concat()).unwrap();
    let policy = lab.policy();
    let policy = policy.to_str().unwrap();
    let (input, output) = (file("in.jsonl"), file("out.jsonl"));
    let generate = ["generate", "--policy", policy, "--template", "raw", "-n", "2", "--max-new-tokens", "3"];
    succeeded(
        lab.dissent("data", &[generate.as_slice(), &["--input", &input, "--output", &output]].concat()),
    );
    let lines: Vec<Value> = std::fs::read_to_string(&output)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["prompt"][0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!((&lines[0]["difficulty"], &lines[1]["difficulty"]), (&json!(3), &json!(4)));
    assert!(lines[0]["completions"][0]["logprob"].is_number() && lines[0].get("system").is_none());

    // The same completion after another system text has another log-probability.
    let row = |id: &str, system: Value| json!({"prompt_id": id, "prompt": "What?", "system": system, "note": id, "completions": [{"text": " yes"}]});
    let rows = [row("a", json!("Be brief.")), row("b", Value::Null)];
    std::fs::write(&input, rows.map(|row| format!("{row}\n")).concat()).unwrap();
    let score = ["score", "--policy", policy, "--template", "raw", "--input", &input, "--output", &output];
    succeeded(lab.dissent("data", &score));
    let lines: Vec<Value> = std::fs::read_to_string(&output)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_ne!(lines[0]["completions"][0]["logprob"], lines[1]["completions"][0]["logprob"]);
    assert_eq!(lines[0]["note"], "a");
    // An output is never an input, also under another path.
    for command in [
        ["generate", "--policy", policy, "--input", &input, "--output", &input].as_slice(),
        &["score", "--policy", policy, "--input", &input, "--output", &input],
    ] {
        let refused = lab.dissent("data", command).output().unwrap();
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && text.contains("is the input"), "{text}");
    }
}
