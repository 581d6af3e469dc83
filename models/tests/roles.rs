//! Tests which checkpoints and adapters can be a policy, and which output head they have.

mod support;

use std::fs;
use std::path::Path;

use dissent_models::ModelError;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::write::merge;
use dissent_models::checkpoint::{Checkpoint, Dtype, OpenOptions, ReadingRules};
use dissent_models::inspect::{ModelSummary, inspect};
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::PolicyScorer;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use support::{Expected, adapter, golden, open, options, runtime, tiny};

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A copy of the golden model `llama`, which has a head of its own.
struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    /// Copies the model with other settings. `stored` returns the name under which a tensor is stored, and
    /// the tensor whose values it gets; `None` leaves it out.
    fn new(
        settings: &[(&str, Value)],
        stored: impl for<'a> Fn(&'a str) -> Option<(&'a str, &'a str)>,
    ) -> Self {
        let (source, folder) = (golden("llama"), tempfile::tempdir().expect("a folder"));
        let to = |name: &str| folder.path().join(name);
        fs::copy(source.join("tokenizer.json"), to("tokenizer.json")).expect("copied");
        let config = fs::read(source.join("config.json")).expect("the configuration");
        let mut config: Value = serde_json::from_slice(&config).expect("json");
        for (key, value) in settings {
            config[key] = value.clone();
        }
        fs::write(to("config.json"), config.to_string()).expect("written");
        let bytes = fs::read(source.join("model.safetensors")).expect("the weights");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let names = tensors.names();
        let views: Vec<(&str, TensorView<'_>)> = names
            .iter()
            .filter_map(|name| stored(name))
            .map(|(name, from)| (name, tensors.tensor(from).expect("a tensor")))
            .collect();
        fs::write(to("model.safetensors"), safetensors::serialize(views, None).expect("bytes"))
            .expect("written");
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn open(&self) -> Checkpoint {
        self.try_open().expect("the checkpoint opens")
    }

    fn try_open(&self) -> Result<Checkpoint, ModelError> {
        Checkpoint::open(self.path(), &self.options())
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { layers: None, cache_dir: self.path().join("cache"), reading: ReadingRules::default() }
    }

    /// Returns whether the embeddings are tied, and the number of weights.
    fn summary(&self) -> (bool, u64) {
        summary(self.path(), &self.options())
    }
}

fn summary(path: &Path, options: &OpenOptions) -> (bool, u64) {
    let model = match inspect(path, options).expect("a summary") {
        ModelSummary::Model(summary) => Some(summary),
        ModelSummary::Adapter(_) => None,
    };
    let summary = model.expect("a model");
    (summary.tied_embeddings, summary.parameters)
}

fn whole(name: &str) -> Option<(&str, &str)> {
    Some((name, name))
}

fn headless(name: &str) -> Option<(&str, &str)> {
    (name != HEAD).then_some((name, name))
}

fn class(name: &str) -> (&'static str, Value) {
    ("architectures", json!([name]))
}

fn tied(on: bool) -> (&'static str, Value) {
    ("tie_word_embeddings", json!(on))
}

fn logits(checkpoint: &Checkpoint, ids: &[u32]) -> Option<Vec<f32>> {
    let mut scorer = PolicyScorer::open(runtime()?, checkpoint, None, &options(1)).expect("the model opens");
    Some(scorer.logits(ids, &CancelFlag::new()).expect("logits"))
}

fn distance(seen: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(seen.len(), expected.len());
    seen.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn refusal(checkpoint: &Checkpoint) -> String {
    checkpoint.check_policy(None).expect_err("no policy").to_string()
}

/// transformers 5 keeps a stored head that differs from the embeddings: the logits are those of the model
/// without the flag.
#[test]
fn a_different_head_is_kept_beside_a_tied_flag() {
    let copy = Copy::new(&[tied(true)], whole);
    let checkpoint = copy.open();
    assert!(!checkpoint.config.tied_embeddings);
    checkpoint.check_policy(None).expect("a policy");
    let expected = Expected::of("llama");
    let ids = expected.ids("ids.0").expect("ids");
    let Some(seen) = logits(&checkpoint, &ids) else { return };
    assert!(distance(&seen, &expected.numbers("logits.0").expect("logits")) <= 1e-5);

    let merged = copy.path().join("merged");
    merge(&checkpoint, None, Dtype::F32, &merged).expect("written");
    let settings: Value =
        serde_json::from_slice(&fs::read(merged.join("config.json")).expect("written")).expect("json");
    assert_eq!(settings["tie_word_embeddings"], json!(false));
    assert_eq!(logits(&open(&merged, None), &ids), Some(seen));

    assert_eq!(copy.summary(), summary(&golden("llama"), &copy.options()));
}

#[test]
fn an_equal_head_and_a_missing_one_are_tied() {
    let equal = Copy::new(&[tied(true)], |name| Some((name, if name == HEAD { EMBEDDING } else { name })));
    let missing = Copy::new(&[tied(true)], headless);
    let (equal, missing) = (equal.open(), missing.open());
    for checkpoint in [&equal, &missing] {
        assert!(checkpoint.config.tied_embeddings);
        checkpoint.check_policy(None).expect("a policy");
    }
    let ids = [1, 5, 77, 12];
    assert_eq!(logits(&equal, &ids), logits(&missing, &ids));
}

/// transformers 5 ties in both directions: the tensor that is stored serves as both.
#[test]
fn a_stored_head_serves_as_the_missing_embeddings() {
    let head_only = Copy::new(&[tied(true)], |name| {
        (name != EMBEDDING).then_some((name, if name == HEAD { EMBEDDING } else { name }))
    });
    let embedding_only = Copy::new(&[tied(true)], headless);
    let ids = [1, 5, 77, 12];
    assert_eq!(logits(&head_only.open(), &ids), logits(&embedding_only.open(), &ids));
    assert_eq!(head_only.summary(), embedding_only.summary());
    let untied = Copy::new(&[tied(false)], |name| (name != EMBEDDING).then_some((name, name)));
    let reason = untied.try_open().expect_err("no embeddings").to_string();
    assert!(reason.contains(EMBEDDING), "{reason}");
}

#[test]
fn a_headless_checkpoint_is_no_policy() {
    let copy = Copy::new(&[tied(false), class("LlamaModel")], headless);
    let checkpoint = copy.open();
    let reason = refusal(&checkpoint);
    for part in ["LlamaModel", HEAD, "no policy", "ForCausalLM"] {
        assert!(reason.contains(part), "{reason}");
    }
    let target = copy.path().join("merged");
    assert!(merge(&checkpoint, None, Dtype::F32, &target).is_err() && !target.exists());
    if let Some(runtime) = runtime() {
        assert!(PolicyScorer::open(runtime, &checkpoint, None, &options(1)).is_err());
    }
}

#[test]
fn a_classifier_is_a_policy_only_with_a_language_head() {
    for flag in [false, true] {
        let copy = Copy::new(&[tied(flag), class("LlamaForSequenceClassification")], headless);
        let reason = refusal(&copy.open());
        for part in ["LlamaForSequenceClassification", HEAD, "use it as the reward model"] {
            assert!(reason.contains(part), "{reason}");
        }
        Copy::new(&[tied(flag), class("LlamaForSequenceClassification")], whole)
            .open()
            .check_policy(None)
            .expect("a policy");
    }
}

#[test]
fn an_adapter_of_a_reward_model_is_no_policy_adapter() {
    let (checkpoint, of_reward, of_policy) = (tiny("llama"), adapter("llama-reward"), adapter("llama-lora"));
    checkpoint.check_policy(Some(&of_policy)).expect("a policy");
    let reason = checkpoint.check_policy(Some(&of_reward)).expect_err("a reward model's").to_string();
    assert!(reason.contains("SEQ_CLS") && reason.contains("give it to the reward model"), "{reason}");
    if let Some(runtime) = runtime() {
        assert!(PolicyScorer::open(runtime, &checkpoint, Some(&of_reward), &options(1)).is_err());
    }
}

/// Python writes bare words that JSON lacks.
#[test]
fn infinity_in_a_setting_that_is_not_read_is_harmless() {
    let copy = Copy::new(&[("unused", json!("PLACEHOLDER"))], whole);
    let path = copy.path().join("config.json");
    let text = fs::read_to_string(&path).expect("the configuration");
    fs::write(&path, text.replace("\"PLACEHOLDER\"", "[Infinity, -Infinity, NaN, \"NaN\"]"))
        .expect("written");
    let checkpoint = copy.open();
    // The form in which transformers 5 writes and reads them.
    let merged = copy.path().join("merged");
    merge(&checkpoint, None, Dtype::F32, &merged).expect("written");
    let settings: Value =
        serde_json::from_slice(&fs::read(merged.join("config.json")).expect("written")).expect("json");
    let float = |word: &str| json!({"__float__": word});
    assert_eq!(settings["unused"], json!([float("Infinity"), float("-Infinity"), float("NaN"), "NaN"]));

    let copy = Copy::new(&[("rms_norm_eps", json!("PLACEHOLDER"))], whole);
    let path = copy.path().join("config.json");
    let text = fs::read_to_string(&path).expect("the configuration");
    fs::write(&path, text.replace("\"PLACEHOLDER\"", "Infinity")).expect("written");
    let reason = copy.try_open().expect_err("an infinite epsilon").to_string();
    assert!(reason.contains("config.json") && reason.contains("NaN or Infinity"), "{reason}");
}

#[test]
fn stand_ins_for_files_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n";
    let page = "<!DOCTYPE html>\n<html>Access denied</html>";
    for name in ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"] {
        for (content, word) in [(pointer, "git lfs pull"), (page, "web page")] {
            let copy = Copy::new(&[], whole);
            fs::write(copy.path().join(name), content).expect("written");
            let reason = copy.try_open().expect_err("a stand-in").to_string();
            assert!(reason.contains(name) && reason.contains(word), "{reason}");
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let options = OpenOptions {
        layers: None,
        cache_dir: folder.path().join("cache"),
        reading: ReadingRules::default(),
    };
    for (content, word) in
        [(pointer, "git lfs pull"), (page, "web page"), ("Entry not found", "download it again")]
    {
        let path = folder.path().join("model.gguf");
        fs::write(&path, content).expect("written");
        let reason = Checkpoint::open(&path, &options).expect_err("a stand-in").to_string();
        assert!(reason.contains("model.gguf") && reason.contains(word), "{reason}");
    }
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(golden("llama-lora").join(file), folder.path().join(file)).expect("copied");
        }
        fs::write(folder.path().join(name), pointer).expect("written");
        let reason = LoraAdapter::open(folder.path()).expect_err("a stand-in").to_string();
        assert!(reason.contains(name) && reason.contains("git lfs pull"), "{reason}");
    }
}
