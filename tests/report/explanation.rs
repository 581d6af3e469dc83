//! `dissent report --explain`: the models of a round run again on its conflicts.

use serde_json::Value;

use crate::support::{Lab, Learning, Setup, succeeded};

fn output(lab: &Lab, arguments: &[&str]) -> String {
    String::from_utf8(succeeded(lab.dissent("data", arguments)).stdout).unwrap()
}

/// Checks an explanation against what the log recorded of the completion.
fn check(shown: &Value) {
    let explanation = &shown["explanation"];
    let tokens = explanation["tokens"].as_array().unwrap();
    let sum: f64 = tokens.iter().map(|token| token["logprob"].as_f64().unwrap()).sum();
    let recorded = shown["figures"]["logprob"].as_f64().unwrap();
    assert!((sum - recorded).abs() < 1e-3 * recorded.abs().max(1.0), "{sum} {recorded}");
    let text: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
    // Special tokens have no place in the text.
    let text = text.replace("<s>", "").replace("</s>", "");
    assert_eq!(text, shown["text"].as_str().unwrap());
    let sentences = explanation["sentences"].as_array().unwrap();
    let whole: String = sentences.iter().map(|row| row["sentence"].as_str().unwrap()).collect();
    assert_eq!(whole, shown["text"].as_str().unwrap());
}

#[test]
fn tokens_add_up_to_the_recorded_log_probability_in_every_round() {
    let learns = Some(Learning { rounds: 2, steps: 3 });
    let Some(lab) = Lab::new(&Setup { prompts: 6, max_new_tokens: 24, learns, ..Setup::default() }) else {
        return;
    };
    lab.run("data");
    let config = lab.config();
    let config = config.to_str().unwrap();
    let data = lab.data_dir("data");
    let data = data.to_str().unwrap();
    // Round 1 has the policy and the proxy that round 0 trained.
    for round in ["0", "1"] {
        let explain =
            ["report", config, "--round", round, "--explain", "2", "--format", "json", "--top", "3"];
        let report: Value = serde_json::from_str(&output(&lab, &explain)).unwrap();
        for list in ["proxy_favours", "policy_favours"] {
            let cases = report[list].as_array().unwrap();
            assert_eq!(cases.len(), 3);
            for case in &cases[..2] {
                check(&case["answer"]);
                if case["preferred"].is_object() {
                    check(&case["preferred"]);
                }
            }
            assert!(cases[2]["answer"].get("explanation").is_none());
        }
    }
    let page = output(&lab, &["report", config, "--explain", "1", "--format", "html", "--output", "-"]);
    assert!(page.contains("What each sentence adds"), "{data}");
    let text = output(&lab, &["report", "lab", "--models", config, "--explain", "1", "--format", "md"]);
    assert!(text.contains("Effect of each sentence") && text.contains("Least likely tokens"), "{text}");
}

#[test]
fn an_explanation_needs_the_models_of_the_experiment() {
    let Some(lab) = Lab::new(&Setup { prompts: 4, max_new_tokens: 8, ..Setup::default() }) else { return };
    lab.run("data");
    let refused = |arguments: &[&str]| {
        let output = lab.dissent("data", arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused(&["report", "lab", "--explain", "1"]);
    assert!(text.contains("--models CONFIG.toml"), "{text}");
    let config = std::fs::read_to_string(lab.config()).unwrap();
    let (policy, reward) = config.split_once("[reward]").unwrap();
    let reward = reward.replacen("golden/llama\"", "golden/neox-parallel\"", 1);
    let other = format!("{policy}[reward]{}", reward.replace("llama-reward", "neox-reward"));
    std::fs::write(lab.config(), other).unwrap();
    let text = refused(&["report", lab.config().to_str().unwrap(), "--explain", "1"]);
    assert!(text.contains("is not the model of this experiment"), "{text}");
}
