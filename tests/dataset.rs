//! Commands name errors of a data set before they open a model.

use std::process::Output;

use crate::support::{Lab, Setup};

fn train(lab: &Lab, task: &str, data: &str, more: &[&str]) -> Output {
    let (policy, output) = (lab.policy(), lab.data_dir("out"));
    let mut arguments = vec!["train", task, "--base", policy.to_str().unwrap(), "--template", "raw"];
    arguments.extend(["--data", data, "--output", output.to_str().unwrap()]);
    arguments.extend(more);
    lab.dissent("unused", &arguments).output().unwrap()
}

#[test]
fn train_names_a_bad_row_before_it_writes_anything() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let good = r#"{"prompt": "w5", "chosen": "w6", "rejected": "w7"}"#;
    let cases = [
        (
            "reward",
            format!("{good}\n{{\"prompt\": \"w5\", \"chosen\": 3, \"rejected\": \"w7\"}}"),
            ":2: chosen:",
        ),
        ("reward", format!("{good}\n{{\"prompt\": \"w5\"}}"), ":2:"),
        ("sft", good.to_owned(), ":1:"),
        ("cost", good.to_owned(), ":1: is_response_0_safe:"),
        ("dpo", String::new(), ":1:"),
    ];
    for (task, rows, expected) in cases {
        let data = lab.data_dir("rows.jsonl");
        std::fs::write(&data, rows).unwrap();
        let ran = train(&lab, task, data.to_str().unwrap(), &[]);
        let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(&format!("rows.jsonl{expected}")), "{stderr}");
        assert!(!lab.data_dir("out").exists());
    }
}

#[test]
fn rows_that_are_too_long_are_counted_and_reported() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let data = lab.data_dir("rows.jsonl");
    let long = "w9 ".repeat(40);
    let rows = format!(
        "{{\"prompt\": \"w5 w6\", \"completion\": \" w7\"}}\n{{\"prompt\": \"w5 \", \"completion\": \"{long}\"}}\n"
    );
    std::fs::write(&data, rows).unwrap();
    let ran = train(&lab, "sft", data.to_str().unwrap(), &["--max-length", "20", "--lora-r", "2"]);
    let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{stderr}");
    assert!(stderr.contains("20 tokens") && stderr.contains("line 2"), "{stderr}");
    let record = std::fs::read_to_string(lab.data_dir("out").join("training.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["about"]["examples"], 1);
    assert_eq!(record["about"]["left_out"]["too_long"], 1);
}
