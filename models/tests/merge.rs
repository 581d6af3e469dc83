//! Tests written Hugging Face folders: merged models give the outputs of model and adapter, and new models
//! can be run.

mod support;

use std::fs;
use std::path::Path;

use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::write::{FreshModel, initialise, merge};
use dissent_models::checkpoint::{Checkpoint, Dtype};
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::{PolicyScorer, RewardModel};
use serde_json::Value;
use support::{Expected, adapter, golden, open, options, runtime, smollm2, tiny};

fn distance(seen: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(seen.len(), expected.len());
    seen.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn merged(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    dtype: Dtype,
) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("merged");
    merge(checkpoint, adapter, dtype, &target).expect("merged");
    let entries = fs::read_dir(folder.path()).expect("the folder").count();
    assert_eq!(entries, 1, "nothing unfinished is left");
    let merged = open(&target, None);
    (folder, merged)
}

/// Compares with the reference outputs of PyTorch and peft for the model with its adapter.
fn check_logits(checkpoint: &Checkpoint, expected: &Expected, tolerance: f32) {
    let Some(runtime) = runtime() else { return };
    let mut scorer = PolicyScorer::open(runtime, checkpoint, None, &options(1)).expect("the model opens");
    for sequence in 0..3 {
        let ids = expected.ids(&format!("ids.{sequence}")).expect("reference ids");
        let reference = expected.numbers(&format!("logits.{sequence}")).expect("reference logits");
        let distance = distance(&scorer.logits(&ids, &CancelFlag::new()).expect("logits"), &reference);
        assert!(distance <= tolerance, "sequence {sequence}: logits differ by {distance}");
    }
}

#[test]
fn a_merged_policy_agrees_with_peft() {
    for (base, name) in [("llama", "llama-lora"), ("neox-parallel", "neox-lora")] {
        let (_folder, merged) = merged(&tiny(base), Some(&adapter(name)), Dtype::F32);
        check_logits(&merged, &Expected::of(name), 5e-4);
    }
}

#[test]
fn a_merged_reward_model_agrees_with_peft() {
    let Some(runtime) = runtime() else { return };
    for (base, name) in [("llama", "llama-reward"), ("neox-sequential", "neox-reward")] {
        let (_folder, merged) = merged(&tiny(base), Some(&adapter(name)), Dtype::F32);
        assert_eq!(merged.config.num_labels, Some(1));
        let expected = Expected::of(name);
        let ids: Vec<_> = (0..3).map(|i| expected.ids(&format!("ids.{i}")).expect("ids")).collect();
        let reference: Vec<f32> =
            (0..3).map(|i| expected.numbers(&format!("logits.{i}")).expect("a reward")[0]).collect();
        let mut model = RewardModel::open(runtime, &merged, None, &options(1)).expect("the model opens");
        let rewards = model.score(&ids, &CancelFlag::new(), &mut |_| {}).expect("rewards");
        assert!(distance(&rewards, &reference) <= 5e-4, "{rewards:?} against {reference:?}");
    }
}

#[test]
fn a_model_without_an_adapter_is_written_unchanged() {
    for name in ["llama", "llama-bf16", "neox-sequential"] {
        let checkpoint = tiny(name);
        let (_folder, written) = merged(&checkpoint, None, Dtype::F32);
        assert_eq!(written.config, checkpoint.config, "{name}");
        for (tensor, _) in written.weights.iter() {
            let read = |checkpoint: &Checkpoint| checkpoint.weights.read_f32(tensor).expect("a tensor");
            assert_eq!(read(&written), read(&checkpoint), "{name}: {tensor}");
        }
        let encode = |checkpoint: &Checkpoint| checkpoint.tokenizer.encode("w5 w9 w12", true).expect("ids");
        assert_eq!(encode(&written), encode(&checkpoint));
    }
}

#[test]
fn sixteen_bit_weights_are_rounded_to_nearest() {
    let (checkpoint, adapter) = (tiny("llama"), adapter("llama-lora"));
    let (_whole, exact) = merged(&checkpoint, Some(&adapter), Dtype::F32);
    for (dtype, share) in [(Dtype::F16, 2_f32.powi(-11)), (Dtype::BF16, 2_f32.powi(-8))] {
        let (_folder, short) = merged(&checkpoint, Some(&adapter), dtype);
        for (name, tensor) in short.weights.iter() {
            assert_eq!(tensor.dtype, dtype);
            let exact = exact.weights.read_f32(name).expect("a tensor");
            let short = short.weights.read_f32(name).expect("a tensor");
            // Half a unit in the last place. Below 2⁻¹⁴ the spacing of f16 no longer shrinks.
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= (a.abs() * share).max(2_f32.powi(-25));
            assert!(exact.iter().zip(&short).all(near), "{name}");
        }
    }
}

#[test]
fn a_model_of_the_first_layers_is_complete() {
    let Some(runtime) = runtime() else { return };
    let cut = open(&golden("llama"), Some(1));
    let (_folder, written) = merged(&cut, None, Dtype::F32);
    assert_eq!(written.config.layers, 1);
    let ids = Expected::of("llama").ids("ids.0").expect("ids");
    let [a, b] = [&cut, &written].map(|checkpoint| {
        let mut scorer = PolicyScorer::open(runtime, checkpoint, None, &options(1)).expect("the model opens");
        scorer.logits(&ids, &CancelFlag::new()).expect("logits")
    });
    assert_eq!(a, b);
}

#[test]
fn a_quantised_file_with_an_adapter_becomes_a_folder() {
    let (Some(runtime), Some(checkpoint)) = (runtime(), smollm2(Some(6))) else { return };
    let adapter = LoraAdapter::open(&golden("proxy-reward")).expect("the adapter opens");
    let (folder, written) = merged(&checkpoint, Some(&adapter), Dtype::F32);
    let text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n  It's 42  ";
    for add_special in [false, true] {
        let encode = |checkpoint: &Checkpoint| checkpoint.tokenizer.encode(text, add_special).expect("ids");
        assert_eq!(encode(&written), encode(&checkpoint));
    }
    assert_eq!(written.tokenizer.chat_template(), checkpoint.tokenizer.chat_template());
    let mut expected = checkpoint.config.clone();
    (expected.num_labels, expected.class) = (Some(1), Some("LlamaForSequenceClassification".to_owned()));
    // The file's padding is the end token, at which the model is read.
    expected.pad_token_id = expected.bos_token_id;
    assert_eq!(written.config, expected);
    let sequences = [checkpoint.tokenizer.encode(text, false).expect("ids"), vec![5, 6, 7]];
    let score = |checkpoint, adapter| {
        let mut model =
            RewardModel::open(runtime, checkpoint, adapter, &options(1)).expect("the model opens");
        model.score(&sequences, &CancelFlag::new(), &mut |_| {}).expect("rewards")
    };
    let (seen, expected) = (score(&written, None), score(&checkpoint, Some(&adapter)));
    assert!(distance(&seen, &expected) <= 1e-4, "{seen:?} against {expected:?}");
    let config: Value =
        serde_json::from_slice(&fs::read(folder.path().join("merged/config.json")).expect("config"))
            .expect("JSON");
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
}

#[test]
fn a_folder_with_content_is_not_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("mine"), "precious").expect("written");
    let error = merge(&tiny("llama"), None, Dtype::F32, folder.path()).expect_err("refused").to_string();
    assert!(error.contains("not empty"), "{error}");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    merge(&tiny("llama"), None, Dtype::F32, &empty).expect("an empty one may be filled");
}

fn fresh(tokenizer_json: &[u8]) -> FreshModel<'_> {
    FreshModel {
        hidden_size: 32,
        intermediate_size: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        vocab_size: 160,
        context_length: 64,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        tokenizer_json,
        bos_token: Some("<s>"),
        eos_token: "</s>",
        chat_template: None,
        seed: 3,
    }
}

fn weights(path: &Path) -> Vec<u8> {
    fs::read(path.join("model.safetensors")).expect("the weights")
}

#[test]
fn a_new_model_can_be_run_and_is_untrained() {
    let Some(runtime) = runtime() else { return };
    let tokenizer = fs::read(golden("llama/tokenizer.json")).expect("a tokenizer");
    let folder = tempfile::tempdir().expect("a folder");
    for tied_embeddings in [true, false] {
        let path = folder.path().join(tied_embeddings.to_string());
        initialise(&FreshModel { tied_embeddings, ..fresh(&tokenizer) }, &path).expect("a model");
        let checkpoint = open(&path, None);
        assert_eq!(checkpoint.config.eos_token_ids, [1]);
        assert_eq!(checkpoint.weights.contains("lm_head.weight"), !tied_embeddings);
        assert_eq!(checkpoint.tokenizer.encode("w5 w9", false).expect("ids"), [5, 9]);
        let mut scorer =
            PolicyScorer::open(runtime, &checkpoint, None, &options(1)).expect("the model opens");
        let logits = scorer.logits(&[0, 5, 9], &CancelFlag::new()).expect("logits");
        // Close to uniform: no token is preferred yet.
        assert!(logits.iter().all(|logit| logit.abs() < 2.0) && logits.iter().any(|logit| logit.abs() > 0.0));
    }
}

#[test]
fn a_new_model_depends_on_its_seed_only() {
    let tokenizer = fs::read(golden("llama/tokenizer.json")).expect("a tokenizer");
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, seed| {
        let path = folder.path().join(name);
        initialise(&FreshModel { seed, ..fresh(&tokenizer) }, &path).expect("a model");
        weights(&path)
    };
    assert_eq!(write("a", 3), write("b", 3));
    assert_ne!(write("c", 3), write("d", 4));
}

#[test]
fn an_inconsistent_new_model_is_refused() {
    let tokenizer = fs::read(golden("llama/tokenizer.json")).expect("a tokenizer");
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |model: FreshModel<'_>| {
        initialise(&model, &folder.path().join("no")).expect_err("refused").to_string()
    };
    assert!(refused(FreshModel { heads: 3, ..fresh(&tokenizer) }).contains("multiples of 8"));
    assert!(refused(FreshModel { kv_heads: 3, ..fresh(&tokenizer) }).contains("key-value"));
    assert!(refused(FreshModel { vocab_size: 100, ..fresh(&tokenizer) }).contains("160"));
    assert!(refused(FreshModel { eos_token: "<end>", ..fresh(&tokenizer) }).contains("<end>"));
    assert!(refused(fresh(b"{}")).contains("tokenizer"));
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
