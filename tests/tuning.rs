//! `dissent train ppo`, `grpo` and `rloo` tune policies against a reward model.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::succeeded;
use crate::train::{Bench, check_same_result, lines, number, wait_for_steps};

/// A base model, a reward model and prompts for tunings.
struct TuningBench {
    bench: Bench,
    base: String,
    reward: String,
    prompts: String,
}

impl TuningBench {
    fn new() -> Option<Self> {
        let bench = Bench::new()?;
        let rows: String = (0..6).map(|index| format!("{{\"prompt\": \"w{} w5\"}}\n", 20 + index)).collect();
        std::fs::write(bench.path("prompts.jsonl"), rows).unwrap();
        let reward = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden/llama-reward");
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let (base, prompts) = (text(bench.lab.policy()), bench.text("prompts.jsonl"));
        Some(Self { bench, base, reward: text(reward), prompts })
    }

    /// The options of the reward model and of the prompts.
    fn options(&self) -> [&str; 8] {
        let (template, Self { base, reward, prompts, .. }) = ("{prompt} {completion}", self);
        let reward_model = ["--reward", base, "--reward-adapter", reward, "--reward-template", template];
        let [a, b, c, d, e, f] = reward_model;
        [a, b, c, d, e, f, "--prompts", prompts]
    }

    /// Tunes for `iterations` into the folder `output`.
    fn tune(&self, method: &str, iterations: &str, output: &str) -> Command {
        let samples = if method == "ppo" { "1" } else { "3" };
        let mut more = self.options().to_vec();
        more.extend(["--iterations", iterations, "--prompts-per-iteration", "4", "--epochs", "1"]);
        more.extend(["-n", samples, "--max-new-tokens", "6", "--temperature", "1", "--lr", "1e-3"]);
        self.bench.train(method, output, &more)
    }
}

#[test]
fn policies_are_tuned_against_a_reward_model_and_evaluated() {
    let Some(tuning) = TuningBench::new() else { return };
    let bench = &tuning.bench;
    let methods = [
        ("ppo", ["objective/kl", "objective/scores", "loss/value_avg"]),
        ("grpo", ["kl", "reward", "clip_ratio"]),
        ("rloo", ["kl", "reward", "entropy"]),
    ];
    for (method, names) in methods {
        succeeded(tuning.tune(method, "3", method));
        let metrics = bench.metrics(method);
        assert_eq!(metrics.len(), 3);
        for name in names {
            assert!(metrics.iter().all(|line| line[name].is_number()), "{method}: {name}: {}", metrics[0]);
        }
        let adapter = bench.text(method);
        let mut eval = vec!["eval", "policy", "--policy", &tuning.base, "--adapter", &adapter];
        eval.extend(["--template", "raw", "--json"]);
        eval.extend(tuning.options());
        eval.extend(["-n", "3", "--max-new-tokens", "6", "--temperature", "1"]);
        let printed = bench.json(&eval);
        assert_eq!(printed["completions"], 18);
        assert!(number(&printed, "kl_k3") > 0.0 && number(&printed, "kl_k1").is_finite(), "{printed}");
        assert!(printed["mean_abs_pacs"].is_number() && printed["stopped"].is_number(), "{printed}");
    }
    assert!(bench.path("ppo").join("training.json").is_file());
}

/// Kills a tuning after its first and after a later iteration, then lets it finish.
fn killed_and_resumed(method: &str) {
    const ITERATIONS: &str = "8";
    let Some(tuning) = TuningBench::new() else { return };
    succeeded(tuning.tune(method, ITERATIONS, "whole"));
    let log = tuning.bench.path("killed").join("metrics.jsonl");
    let mut before = Vec::new();
    for target in [1, 4] {
        let mut child = tuning
            .tune(method, ITERATIONS, "killed")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let reached = wait_for_steps(&mut child, &log, target);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(reached && status.code().is_none(), "the tuning ended before the kill: {status}");
        let after = lines(&log);
        // Each iteration has a checkpoint, so at most the current one was repeated, with other times.
        let kept = before.len().saturating_sub(1);
        assert_eq!(after.get(..kept), before.get(..kept));
        before = after;
    }
    let last = succeeded(tuning.tune(method, ITERATIONS, "killed"));
    let stderr = String::from_utf8_lossy(&last.stderr).into_owned();
    let resumed = stderr.lines().find_map(|line| line.strip_prefix("resuming after "));
    assert!(resumed.is_some(), "{stderr}");
    check_same_result(&tuning.bench, ITERATIONS.parse().unwrap());
}

#[test]
fn ppo_killed_and_resumed_equals_an_uninterrupted_run() {
    killed_and_resumed("ppo");
}

#[test]
fn grpo_killed_and_resumed_equals_an_uninterrupted_run() {
    killed_and_resumed("grpo");
}

#[test]
fn rloo_killed_and_resumed_equals_an_uninterrupted_run() {
    killed_and_resumed("rloo");
}
