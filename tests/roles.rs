//! Models and adapters in a wrong role, with another base or missing, as users of the commands meet them.

use std::path::{Path, PathBuf};

use crate::support::succeeded;
use crate::train::Bench;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden").join(name)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Replaces a piece of a text file, which must have it.
fn replace(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

struct RoleBench {
    bench: Bench,
    rows: String,
    prompts: String,
    pairs: String,
    demonstrations: String,
}

impl RoleBench {
    fn new() -> Option<Self> {
        let bench = Bench::new()?;
        let put = |name: &str, text: &str| {
            std::fs::write(bench.path(name), text).unwrap();
            bench.text(name)
        };
        let rows = put(
            "rows.jsonl",
            "{\"prompt_id\": \"a\", \"prompt\": \"w5\", \"completions\": [{\"text\": \"w7\"}]}\n",
        );
        let prompts = put("prompts.jsonl", "{\"prompt_id\": \"a\", \"prompt\": \"w5\"}\n");
        let pairs = put(
            "pairs.jsonl",
            "{\"prompt\": \"w5 \", \"chosen\": \"w7\", \"rejected\": \"w9\"}\n{\"prompt\": \"w6 \", \"chosen\": \"w8\", \
             \"rejected\": \"w9\"}\n",
        );
        let demonstrations = put("demonstrations.jsonl", "{\"prompt\": \"w5 \", \"completion\": \"w7\"}\n");
        Some(Self { bench, rows, prompts, pairs, demonstrations })
    }

    /// A checkpoint of another class than `LlamaForCausalLM`, without a language head.
    fn headless(&self, class: &str) -> String {
        let folder = self.bench.path(class);
        copy(&golden("llama"), &folder);
        replace(&folder.join("config.json"), "LlamaForCausalLM", class);
        let file = folder.join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        // The name of the head, as long as before: no model has such a tensor.
        let at = bytes.windows(14).position(|window| window == b"lm_head.weight").unwrap();
        let renamed = [&bytes[..at], b"no_head.weight", &bytes[at + 14..]].concat();
        std::fs::write(file, renamed).unwrap();
        text(&folder)
    }

    /// Every command that opens a policy, with this model and adapter as the policy.
    fn uses(&self, model: &str, adapter: Option<&str>) -> Vec<Vec<String>> {
        let (base, reward, output) =
            (text(&golden("llama")), text(&golden("llama-reward")), self.bench.text("none"));
        let judge =
            ["--reward", &base, "--reward-adapter", &reward, "--reward-template", "{prompt}{completion}"];
        let prompts = ["--prompts", &self.prompts];
        let mut commands: Vec<Vec<&str>> = vec![
            vec!["score", "--policy", model, "--input", &self.rows, "--output", "-"],
            vec!["generate", "--policy", model, "--input", &self.prompts, "--output", "-"],
            [&["eval", "policy", "--policy", model], judge.as_slice(), &prompts].concat(),
        ];
        let train = |method| vec!["train", method, "--base", model, "--output", &output];
        commands.extend(
            [("sft", &self.demonstrations), ("dpo", &self.pairs)]
                .map(|(method, data)| [train(method), vec!["--data", data.as_str()]].concat()),
        );
        commands.extend(
            ["ppo", "grpo", "rloo"].map(|method| [train(method), judge.to_vec(), prompts.to_vec()].concat()),
        );
        for command in &mut commands {
            command.extend(["--template", "raw", "--threads", "1"]);
            command.extend(adapter.iter().flat_map(|adapter| ["--adapter", *adapter]));
        }
        let owned = |command: Vec<&str>| command.into_iter().map(str::to_owned).collect();
        commands.into_iter().map(owned).collect()
    }

    /// Expects that a command fails before it writes anything; returns its message.
    fn refusal(&self, command: &[String]) -> String {
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        let output = self.bench.command(&arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{command:?} succeeded");
        assert!(output.stdout.is_empty() && !self.bench.path("none").exists(), "{command:?} {message}");
        message
    }

    fn score(&self, policy: &str, adapter: &str) -> String {
        let mut command = vec!["score", "--policy", policy, "--adapter", adapter, "--template", "raw"];
        command.extend(["--input", &self.rows, "--output", "-"]);
        String::from_utf8_lossy(&succeeded(self.bench.command(&command)).stderr).into_owned()
    }
}

#[test]
fn checkpoints_without_a_language_head_are_refused_as_policies_by_every_command() {
    let Some(bench) = RoleBench::new() else { return };
    for (class, way_out) in [
        ("LlamaModel", "saved with its head"),
        ("LlamaForSequenceClassification", "use it as the reward model"),
    ] {
        let model = bench.headless(class);
        for command in bench.uses(&model, None) {
            let message = bench.refusal(&command);
            for part in [class, "lm_head.weight", way_out] {
                assert!(message.contains(part), "{command:?}: {message}");
            }
        }
        let config = bench.bench.lab.config();
        let lab = std::fs::read_to_string(&config).unwrap();
        let changed = lab.replacen(&text(&golden("llama")), &model, 1);
        std::fs::write(&config, changed).unwrap();
        let message = bench.refusal(&["run".to_owned(), text(&config)]);
        assert!(message.contains("failed to open the policy") && message.contains(class), "{message}");
        std::fs::write(&config, lab).unwrap();
    }
}

#[test]
fn an_adapter_of_a_reward_model_is_refused_for_policies_by_every_command() {
    let Some(bench) = RoleBench::new() else { return };
    for command in bench.uses(&text(&golden("llama")), Some(&text(&golden("llama-reward")))) {
        let message = bench.refusal(&command);
        for part in ["llama-reward", "SEQ_CLS", "give it to the reward model"] {
            assert!(message.contains(part), "{command:?}: {message}");
        }
    }
}

#[test]
fn a_base_that_is_not_the_adapters_is_warned_of() {
    const WARNING: &str = "another base model than its own";
    let Some(bench) = RoleBench::new() else { return };
    let (own, other, twin) = (bench.bench.path("own"), bench.bench.path("other"), bench.bench.path("twin"));
    for folder in [&own, &other, &twin] {
        copy(&golden("llama"), folder);
    }
    replace(&other.join("config.json"), "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 2e-05");
    let adapter = bench.bench.path("adapter");
    copy(&golden("llama-lora"), &adapter);
    let config = adapter.join("adapter_config.json");
    let mut named = "\"llama\"".to_owned();
    let mut name = |name: &str| {
        replace(
            &config,
            &format!("\"base_model_name_or_path\": {named}"),
            &format!("\"base_model_name_or_path\": {name}"),
        );
        named = name.to_owned();
    };
    // Absolute, and relative to the adapter's folder.
    for own_name in [format!("{own:?}"), "\"../own\"".to_owned()] {
        name(&own_name);
        let warned = bench.score(&text(&other), &text(&adapter));
        assert!(warned.matches(WARNING).count() == 1, "{warned}");
        assert!(warned.contains("own") && warned.contains(&text(&other)), "{warned}");
        for same in [&own, &twin] {
            let silent = bench.score(&text(same), &text(&adapter));
            assert!(!silent.contains(WARNING), "{silent}");
        }
    }
    // A name on the hub says nothing about a folder, unless the folder is of the hub's cache.
    name("\"owner/model\"");
    assert!(!bench.score(&text(&other), &text(&adapter)).contains(WARNING));
    for (folder, expected) in [("models--owner--model", 0), ("models--owner--another", 1)] {
        let snapshot = bench.bench.path(folder).join("snapshots").join("1");
        copy(&golden("llama"), &snapshot);
        let warned = bench.score(&text(&snapshot), &text(&adapter));
        assert_eq!(warned.matches(WARNING).count(), expected, "{warned}");
    }
    let printed = bench.bench.json(&["model", "inspect", &text(&adapter), "--json"]);
    assert_eq!(printed["base_model"], "owner/model");
}

#[test]
fn a_name_on_the_hub_gets_the_command_that_downloads_it() {
    let Some(bench) = RoleBench::new() else { return };
    let name = "HuggingFaceTB/SmolLM2-135M";
    for command in bench.uses(name, None) {
        let message = bench.refusal(&command);
        assert!(message.contains(&format!("hf download {name} --local-dir DIR")), "{message}");
    }
    let adapter = bench.refusal(&bench.uses(&text(&golden("llama")), Some("someone/an-adapter"))[0]);
    assert!(adapter.contains("hf download someone/an-adapter"), "{adapter}");
    let config = bench.bench.lab.config();
    let lab = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, lab.replacen(&text(&golden("llama")), name, 1)).unwrap();
    let message = bench.refusal(&["run".to_owned(), text(&config)]);
    assert!(message.contains(&format!("hf download {name}")), "{message}");
}
