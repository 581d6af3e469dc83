//! `dissent train`, `eval` and `model merge`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::random::Random;
use crate::support::{Lab, Setup, succeeded};

/// A folder with the files of a test.
pub(crate) struct Bench {
    pub(crate) lab: Lab,
}

impl Bench {
    pub(crate) fn new() -> Option<Self> {
        Some(Self { lab: Lab::new(&Setup::default())? })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.lab.data_dir(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes pairs of words of the tiny tokenizer: the chosen completion repeats `w7`, the rejected one
    /// `w30`.
    fn write_pairs(&self, rows: usize) -> String {
        let row = |index: usize| {
            let prompt = format!("w{} w{} ", 40 + index % 50, 91 + index % 7);
            let (better, worse) = ("w7 ".repeat(1 + index % 5), "w30 ".repeat(1 + index % 3));
            let signs = "\"is_chosen_safe\": true, \"is_rejected_safe\": false";
            format!(
                "{{\"prompt\": \"{prompt}\", \"chosen\": \"{better}\", \"rejected\": \"{worse}\", {signs}}}\n"
            )
        };
        std::fs::write(self.path("pairs.jsonl"), (0..rows).map(row).collect::<String>()).unwrap();
        self.text("pairs.jsonl")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.lab.dissent("unused", arguments)
    }

    /// Trains the tiny Llama into the folder `output`.
    pub(crate) fn train(&self, task: &str, output: &str, more: &[&str]) -> Command {
        let (base, output) = (self.lab.policy(), self.text(output));
        let mut arguments = vec!["train", task, "--base", base.to_str().unwrap(), "--output", &output];
        arguments.extend(["--template", "raw", "--threads", "1", "--provider", "cpu", "--lora-r", "4"]);
        arguments.extend(more);
        self.command(&arguments)
    }

    pub(crate) fn metrics(&self, output: &str) -> Vec<Value> {
        lines(&self.path(output).join("metrics.jsonl")).iter().map(|line| parsed(line)).collect()
    }

    fn record(&self, output: &str) -> Value {
        parsed(&std::fs::read_to_string(self.path(output).join("training.json")).unwrap())
    }

    /// The JSON that a command prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        parsed(&String::from_utf8(succeeded(self.command(arguments)).stdout).unwrap())
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Returns the complete lines of a file; an empty list if it is missing.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| line.trim_end().to_owned())
        .collect()
}

pub(crate) fn number(line: &Value, name: &str) -> f64 {
    assert!(line[name].is_number(), "{name} is not a number in {line}");
    line[name].as_f64().unwrap()
}

#[test]
fn a_reward_model_is_trained_evaluated_merged_and_used() {
    let Some(bench) = Bench::new() else { return };
    let data = bench.write_pairs(64);
    let more = ["--data", &data, "--eval-split", "0.2", "--epochs", "6", "--lr", "1e-2", "--json"];
    let output = succeeded(bench.train("reward", "reward", &more));
    let printed = parsed(&String::from_utf8(output.stdout).unwrap());
    assert!(number(&printed, "eval_accuracy") > 0.95, "{printed}");
    let metrics = bench.metrics("reward");
    let record = bench.record("reward");
    assert_eq!(record["finished"], true);
    assert_eq!(record["settings"]["task"], "reward");
    assert_eq!(Some(metrics.len() as u64), printed["step"].as_u64());
    for name in
        ["loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "accuracy", "margin", "mean_reward"]
    {
        assert!(metrics.iter().all(|line| line[name].is_number()), "{name}");
    }
    assert!(number(metrics.last().unwrap(), "loss") < number(&metrics[0], "loss") / 2.0);
    assert!(!bench.path("reward").join("checkpoint.bin").exists());

    let (base, adapter, merged) = (bench.lab.policy(), bench.text("reward"), bench.text("merged"));
    let base = base.to_str().unwrap();
    let merge = ["model", "merge", "--base", base, "--adapter", &adapter, "--output", &merged];
    succeeded(bench.command(&merge));
    let evaluated = |arguments: &[&str]| {
        let common = ["eval", "reward", "--data", &data, "--template", "raw", "--json", "--base"];
        bench.json(&[common.as_slice(), arguments].concat())
    };
    let (apart, whole) = (evaluated(&[base, "--adapter", &adapter]), evaluated(&[&merged]));
    assert_eq!(apart["pairs"], 64);
    assert!(number(&apart["accuracy"], "mean") > 0.95 && number(&apart["accuracy"], "low") > 0.85, "{apart}");
    let difference = number(&apart["margin"], "mean") - number(&whole["margin"], "mean");
    assert!(difference.abs() < 1e-3, "{apart} {whole}");
    // A cost is a negated reward.
    let costs = evaluated(&[base, "--adapter", &adapter, "--kind", "cost"]);
    assert!(number(&costs["accuracy"], "mean") < 0.05, "{costs}");
}

#[test]
fn cost_models_and_policies_are_trained_by_every_loss() {
    let Some(bench) = Bench::new() else { return };
    let data = bench.write_pairs(32);
    let more = ["--data", &data, "--epochs", "4", "--lr", "1e-2", "--batch-size", "8", "--recompute"];
    succeeded(bench.train("cost", "cost", &more));
    let last = bench.metrics("cost").pop().unwrap();
    assert!(number(&last, "sign_accuracy") > 0.8, "{last}");
    for loss in ["sigmoid", "ipo", "hinge"] {
        let more = [more.as_slice(), &["--loss", loss, "--grad-accum", "2"]].concat();
        succeeded(bench.train("dpo", loss, &more));
        let metrics = bench.metrics(loss);
        assert_eq!(metrics.len(), 8, "a step has two micro-batches");
        let margin = |line: &Value| number(line, "rewards/margins");
        assert!(margin(&metrics[0]).abs() < 1e-6, "at first the policy is the reference: {}", metrics[0]);
        assert!(margin(metrics.last().unwrap()) > 0.0);
    }
    let demonstrations = bench.path("demonstrations.jsonl");
    let row = "{\"prompt\": \"w9 w10 \", \"completion\": \"w11 w12 w13 \"}\n";
    std::fs::write(&demonstrations, row.repeat(8)).unwrap();
    let more = [
        "--data",
        demonstrations.to_str().unwrap(),
        "--steps",
        "40",
        "--lr",
        "1e-2",
        "--schedule",
        "constant",
    ];
    succeeded(bench.train("sft", "policy", &more));
    let metrics = bench.metrics("policy");
    assert_eq!(metrics.len(), 40);
    assert!(number(&metrics[39], "loss") < number(&metrics[0], "loss") / 4.0, "{}", metrics[39]);
    assert!(number(&metrics[39], "mean_token_accuracy") > 0.999, "{}", metrics[39]);
    assert!(number(&metrics[39], "entropy") < number(&metrics[0], "entropy") / 2.0, "{}", metrics[39]);
    // The policy repeats the demonstration and stops at its end.
    let (prompts, completions) = (bench.path("one.jsonl"), bench.text("completions.jsonl"));
    std::fs::write(&prompts, "{\"prompt\": \"w9 w10 \"}\n").unwrap();
    let (base, adapter) = (bench.lab.policy(), bench.text("policy"));
    let mut generate = vec!["generate", "--policy", base.to_str().unwrap(), "--adapter", &adapter];
    generate.extend(["--template", "raw", "--temperature", "0", "-n", "1", "--max-new-tokens", "8"]);
    generate.extend(["--input", prompts.to_str().unwrap(), "--output", &completions]);
    succeeded(bench.command(&generate));
    let line = parsed(&lines(Path::new(&completions))[0]);
    assert_eq!(line["completions"][0]["token_ids"], serde_json::json!([11, 12, 13, 1]), "{line}");
}

#[test]
fn all_weights_can_be_trained() {
    let Some(bench) = Bench::new() else { return };
    let data = bench.write_pairs(16);
    let (base, output) = (bench.lab.policy(), bench.text("full"));
    let mut arguments =
        vec!["train", "reward", "--base", base.to_str().unwrap(), "--output", &output, "--full"];
    arguments.extend(["--template", "raw", "--data", &data, "--steps", "3", "--lr", "1e-3"]);
    succeeded(bench.command(&arguments));
    let evaluated =
        bench.json(&["eval", "reward", "--base", &output, "--data", &data, "--template", "raw", "--json"]);
    assert_eq!(evaluated["pairs"], 16);
    let again = bench.command(&arguments).output().unwrap();
    assert_eq!(again.status.code(), Some(2), "the training is finished");
    arguments.push("--overwrite");
    succeeded(bench.command(&arguments));
    assert!(bench.path("full").join("model.safetensors").is_file());
}

#[test]
fn train_refuses_a_folder_with_another_or_a_finished_training() {
    let Some(bench) = Bench::new() else { return };
    let data = bench.write_pairs(8);
    let more = ["--data", &data, "--steps", "2"];
    succeeded(bench.train("reward", "reward", &more));
    let refused = |more: &[&str], expected: &str| {
        let ran = bench.train("reward", "reward", more).output().unwrap();
        let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    };
    let adapter = || std::fs::read(bench.path("reward").join("adapter_model.safetensors")).unwrap();
    let before = adapter();
    refused(&more, "already holds the result");
    refused(&[more.as_slice(), &["--seed", "7"]].concat(), "(training.seed was 0, now 7)");
    assert_eq!(adapter(), before);
    succeeded(bench.train("reward", "reward", &[more.as_slice(), &["--seed", "7", "--overwrite"]].concat()));
    assert_ne!(adapter(), before);
    std::fs::create_dir(bench.path("mine")).unwrap();
    std::fs::write(bench.path("mine").join("thesis.txt"), "years").unwrap();
    let ran = bench.train("reward", "mine", &more).output().unwrap();
    assert_eq!(ran.status.code(), Some(2), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(bench.path("mine").join("thesis.txt").is_file());
}

const EVERY: u64 = 5;

/// Number of steps in the metrics file.
fn steps(path: &Path) -> u64 {
    lines(path).len() as u64
}

/// Waits until the metrics have `wanted` steps; false if the process ends first.
pub(crate) fn wait_for_steps(child: &mut Child, log: &Path, wanted: u64) -> bool {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(120), "no step {wanted} within two minutes");
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if steps(log) >= wanted {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_training_killed_12_times_equals_an_uninterrupted_one() {
    let Some(bench) = Bench::new() else { return };
    let data = bench.write_pairs(48);
    let total = 260;
    let more = [
        "--data",
        &data,
        "--steps",
        "260",
        "--batch-size",
        "2",
        "--grad-accum",
        "2",
        "--checkpoint-every",
        "5",
    ];
    succeeded(bench.train("reward", "whole", &more));
    let mut random = Random::new(0x5eed);
    let log = bench.path("killed").join("metrics.jsonl");
    let mut kills = 0;
    let mut before: Vec<String> = Vec::new();
    loop {
        let mut child = bench
            .train("reward", "killed", &more)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let is_last = kills >= 12;
        if kills % 4 == 3 {
            // During start-up, which must not damage anything.
            std::thread::sleep(Duration::from_millis(random.below(60) as u64));
        } else {
            let target = (before.len() + 1 + random.below(25)) as u64;
            let reached = wait_for_steps(&mut child, &log, if is_last { total } else { target });
            assert!(reached || is_last, "the training ended before the kill");
            std::thread::sleep(Duration::from_micros(random.below(4000) as u64));
        }
        if !is_last {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let after = lines(&log);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let resumed = check_resumed(&stderr, &before, &after);
        if is_last {
            assert!(output.status.success(), "{stderr}");
            break;
        }
        kills += 1;
        if after.len() >= before.len() || resumed > 0 {
            before = after;
        }
    }
    assert!(kills >= 10);
    check_same_result(&bench, total);
}

/// Checks that a resumed training repeats only steps after its checkpoint, at most those since the last one.
/// Returns the step of the checkpoint, 0 without one.
fn check_resumed(stderr: &str, before: &[String], after: &[String]) -> u64 {
    let resumed = stderr.lines().find_map(|line| line.strip_prefix("resuming after step "));
    let resumed: u64 = resumed.map_or(0, |rest| rest.split(' ').next().unwrap().parse().unwrap());
    if resumed > 0 {
        let lost = (before.len() as u64).saturating_sub(resumed);
        assert!(lost <= EVERY, "{lost} steps were lost, more than between two checkpoints");
        // Equal durations show that the steps were not repeated.
        let kept = usize::try_from(resumed).unwrap().min(after.len());
        assert_eq!(after.get(..kept), before.get(..kept));
    }
    resumed
}

pub(crate) fn check_same_result(bench: &Bench, steps: u64) {
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        let read = |output: &str| std::fs::read(bench.path(output).join(file)).unwrap();
        assert_eq!(read("killed"), read("whole"), "{file}");
    }
    let timeless = |output: &str| {
        let mut metrics = bench.metrics(output);
        for line in &mut metrics {
            for name in ["tokens_per_second", "eps", "seconds", "overhead"] {
                line.as_object_mut().unwrap().remove(name);
            }
        }
        metrics
    };
    assert_eq!(timeless("killed").len() as u64, steps);
    assert_eq!(timeless("killed"), timeless("whole"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_keeps_a_checkpoint_and_resumes_from_it() {
    let Some(bench) = Bench::new() else { return };
    let data = bench.write_pairs(48);
    let more = ["--data", &data, "--steps", "200", "--batch-size", "2", "--checkpoint-every", "1000"];
    succeeded(bench.train("dpo", "whole", &more));
    let mut child =
        bench.train("dpo", "stopped", &more).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(wait_for_steps(&mut child, &bench.path("stopped").join("metrics.jsonl"), 7));
    let interrupted = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap();
    assert!(interrupted.success());
    let stopped = child.wait_with_output().unwrap();
    assert_eq!(stopped.status.code(), Some(130), "{}", String::from_utf8_lossy(&stopped.stderr));
    let taken = bench.metrics("stopped").len();
    assert!((7..200).contains(&taken), "{taken}");
    let output = succeeded(bench.train("dpo", "stopped", &[more.as_slice(), &["--resume"]].concat()));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains(&format!("step {taken} of 200")), "{stderr}");
    let adapter = |output: &str| std::fs::read(bench.path(output).join("adapter_model.safetensors")).unwrap();
    assert_eq!(adapter("stopped"), adapter("whole"));
}
