//! Reward models give the numbers of transformers, TRL and PyTorch: the token that they read, the form of
//! their head, and their outputs. `golden/reward_heads.py` makes the reference figures.

mod support;

use std::path::Path;

use dissent_domain::reward::RewardOutput;
use dissent_domain::training::{Dialogue, Hyperparameters, LoraSettings, Schedule, Warmup};
use dissent_models::adapter::LoraAdapter;
use dissent_models::cache::cache_dir;
use dissent_models::checkpoint::{Checkpoint, Dtype, OpenOptions, ReadingRules, write};
use dissent_models::implicit_reward::{ImplicitReward, PolicyModel};
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::RewardModel;
use dissent_models::template::PromptTemplate;
use dissent_models::training::{
    DataOrder, Objective, TokenPair, Trainer, TrainingData, TrainingSequence, TrainingSetup,
};
use dissent_models::{InvalidKind, ModelError};
use safetensors::tensor::TensorView;
use safetensors::{Dtype as StoredDtype, SafeTensors};
use serde_json::{Value, json};
use support::{golden, open, options, runtime};
use tempfile::TempDir;

const TOLERANCE: f32 = 1e-5;
const CLASSIFIER: &str = "LlamaForSequenceClassification";

fn reference() -> Value {
    let bytes = std::fs::read(golden("reward_heads.json")).expect("the reference figures");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn sequences() -> Vec<Vec<u32>> {
    serde_json::from_value(reference()["sequences"].clone()).expect("sequences")
}

/// Rewards by the name of their model, `[sequence][output]`.
fn rewards(name: &str) -> Vec<Vec<f32>> {
    serde_json::from_value(reference()["rewards"][name].clone()).expect("rewards")
}

/// A tensor of a head: its name, its shape and its numbers.
type HeadTensor = (String, Vec<usize>, Vec<f32>);

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "weights are of 32 bits")]
fn sines(count: usize, start: f64, step: f64, scale: f64) -> Vec<f32> {
    (0..count).map(|place| (scale * (step * place as f64 + start).sin()) as f32).collect()
}

fn weight(name: &str, rows: usize, columns: usize, start: f64) -> HeadTensor {
    (name.to_owned(), vec![rows, columns], sines(rows * columns, start, 0.7, 0.3))
}

fn bias(name: &str, size: usize, start: f64) -> HeadTensor {
    (name.to_owned(), vec![size], sines(size, start, 1.0, 1.0))
}

/// Writes a tiny model with a head into a new folder. `class` is the model's class, `pad` its padding token.
fn model(base: &str, class: &str, pad: &Value, head: &[HeadTensor]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden(base).join(name), folder.path().join(name)).expect("a copy");
    }
    let config = std::fs::read(golden(base).join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    config["architectures"] = json!([class]);
    config["pad_token_id"] = pad.clone();
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("a configuration");
    let bytes = std::fs::read(golden(base).join("model.safetensors")).expect("weights");
    let weights = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let encoded: Vec<(&HeadTensor, Vec<u8>)> = head
        .iter()
        .map(|tensor| (tensor, tensor.2.iter().flat_map(|number| number.to_le_bytes()).collect()))
        .collect();
    let views = encoded.iter().map(|((name, shape, _), bytes)| {
        (name.clone(), TensorView::new(StoredDtype::F32, shape.clone(), bytes).expect("a tensor"))
    });
    let all = weights.tensors().into_iter().chain(views);
    let bytes = safetensors::serialize(all, None).expect("weights");
    std::fs::write(folder.path().join("model.safetensors"), bytes).expect("weights");
    folder
}

fn score(checkpoint: &Checkpoint, adapter: Option<&LoraAdapter>) -> Result<Vec<f32>, ModelError> {
    let mut model = RewardModel::open(runtime().expect("a runtime"), checkpoint, adapter, &options(1))?;
    model.score(&sequences(), &CancelFlag::new(), &mut |_| {})
}

fn refusal(checkpoint: &Checkpoint) -> (Option<InvalidKind>, String) {
    let error = score(checkpoint, None).expect_err("the model must be refused");
    (error.invalid_kind(), error.to_string())
}

fn check(seen: &[f32], expected: &[f32], name: &str) {
    let far = seen.iter().zip(expected).any(|(seen, expected)| (seen - expected).abs() > TOLERANCE);
    assert!(seen.len() == expected.len() && !far, "{name}: {seen:?} against {expected:?}");
}

fn check_head(class: &str, head: &[HeadTensor], name: &str) {
    // Padding that also ends texts: these heads do not skip it.
    let folder = model("llama", class, &json!(1), head);
    let seen = score(&open(folder.path(), None), None).expect("rewards");
    check(&seen, &rewards(name).concat(), name);
}

fn score_head(width: usize) -> Vec<HeadTensor> {
    vec![weight("score.weight", 1, width, 1.0)]
}

fn by_first_rules(path: &Path) -> Checkpoint {
    let cache_dir = cache_dir().expect("a cache folder");
    let options = OpenOptions { layers: None, cache_dir, reading: ReadingRules::V1 };
    Checkpoint::open(path, &options).expect("the checkpoint opens")
}

#[test]
fn a_classifier_is_read_at_the_rightmost_token_that_is_not_padding() {
    if runtime().is_none() {
        return;
    }
    for (base, class, width) in
        [("llama", CLASSIFIER, 32), ("neox-sequential", "GPTNeoXForSequenceClassification", 64)]
    {
        // 400 is beyond the vocabulary, and -1 is how older files write "none".
        for (pad, name) in [
            (Value::Null, "None"),
            (json!(1), "1"),
            (json!(2), "2"),
            (json!(400), "400"),
            (json!(-1), "None"),
        ] {
            let folder = model(base, class, &pad, &score_head(width));
            let seen = score(&open(folder.path(), None), None).expect("rewards");
            let name = format!("{base} pad {name}");
            check(&seen, &rewards(&name).concat(), &name);
        }
    }
}

#[test]
fn the_first_rules_read_the_last_token_and_no_bias() {
    if runtime().is_none() {
        return;
    }
    let mut head = score_head(32);
    head.push(bias("score.bias", 1, 3.0));
    let folder = model("llama", CLASSIFIER, &json!(1), &head);
    let seen = score(&by_first_rules(folder.path()), None).expect("rewards");
    check(&seen, &rewards("llama pad None").concat(), "rules 1");
    let folder = model("llama", "LlamaModel", &json!(1), &[weight("value_head.weight", 1, 32, 1.0)]);
    let error = score(&by_first_rules(folder.path()), None).expect_err("no head").to_string();
    assert!(error.contains("score.weight"), "{error}");
}

#[test]
fn heads_of_other_programs_have_their_rewards() {
    if runtime().is_none() {
        return;
    }
    let summary = [weight("v_head.summary.weight", 1, 32, 1.0), bias("v_head.summary.bias", 1, 1.0)];
    check_head("LlamaForCausalLM", &summary, "v_head.summary");
    check_head("LlamaModel", &[weight("value_head.weight", 1, 32, 1.0)], "value_head");
    // OpenRLHF's own class reads the end-of-sequence token, although its head is named as in transformers.
    check_head("RewardModel", &score_head(32), "value_head");
    let stack = [
        weight("v_head.summary.0.weight", 24, 32, 2.0),
        bias("v_head.summary.0.bias", 24, 2.0),
        weight("v_head.summary.2.weight", 20, 24, 3.0),
        bias("v_head.summary.2.bias", 20, 3.0),
        weight("v_head.summary.4.weight", 1, 20, 4.0),
        bias("v_head.summary.4.bias", 1, 4.0),
    ];
    check_head("LlamaForCausalLM", &stack, "v_head.summary mlp");
}

#[test]
fn a_rectified_score_head_is_known_by_its_class() {
    if runtime().is_none() {
        return;
    }
    let head = [
        weight("score.0.weight", 32, 32, 2.0),
        bias("score.0.bias", 32, 2.0),
        weight("score.2.weight", 1, 32, 3.0),
        bias("score.2.bias", 1, 3.0),
    ];
    let folder = model("llama", "Qwen2ForRewardModel", &Value::Null, &head);
    let seen = score(&open(folder.path(), None), None).expect("rewards");
    check(&seen, &rewards("score mlp").concat(), "score mlp");
    let folder = model("llama", CLASSIFIER, &Value::Null, &head);
    let (kind, reason) = refusal(&open(folder.path(), None));
    assert_eq!(kind, Some(InvalidKind::Unsupported));
    assert!(reason.contains("score.0.weight") && reason.contains("activation"), "{reason}");
}

#[test]
fn a_bias_shifts_every_reward() {
    if runtime().is_none() {
        return;
    }
    let mut head = score_head(32);
    head.push(("score.bias".to_owned(), vec![1], vec![5.0]));
    let folder = model("llama", CLASSIFIER, &json!(1), &head);
    let seen = score(&open(folder.path(), None), None).expect("rewards");
    let expected: Vec<f32> = rewards("llama pad 1").concat().iter().map(|reward| reward + 5.0).collect();
    check(&seen, &expected, "score.bias");
}

#[test]
fn unknown_heads_are_refused_by_the_names_of_their_tensors() {
    if runtime().is_none() {
        return;
    }
    for (head, named) in [
        (vec![weight("reward_head.weight", 1, 32, 1.0)], "reward_head.weight"),
        (vec![weight("v_head.weight", 1, 32, 1.0)], "v_head.weight"),
        (
            vec![
                weight("regression_layer.weight", 19, 32, 1.0),
                weight("gating.layers.0.weight", 8, 32, 1.0),
            ],
            "ArmoRM",
        ),
        (
            vec![weight("score.weight", 1, 32, 1.0), weight("score.dense.weight", 32, 32, 1.0)],
            "score.dense.weight",
        ),
    ] {
        let folder = model("llama", CLASSIFIER, &Value::Null, &head);
        let (kind, reason) = refusal(&open(folder.path(), None));
        assert_eq!(kind, Some(InvalidKind::Unsupported), "{reason}");
        assert!(reason.contains(named), "{reason}");
    }
}

#[test]
fn one_of_several_labels_or_their_weighted_sum_is_the_reward() {
    if runtime().is_none() {
        return;
    }
    let folder = model("llama", CLASSIFIER, &json!(1), &[weight("score.weight", 3, 32, 1.0)]);
    let mut checkpoint = open(folder.path(), None);
    assert_eq!(checkpoint.reward_outputs(None).expect("a head"), Some(3));
    let (kind, reason) = refusal(&checkpoint);
    assert_eq!(kind, Some(InvalidKind::ShapeMismatch));
    assert!(reason.contains("3 outputs"), "{reason}");
    let labels = rewards("llama 3 labels pad 1");
    for label in 0..3_u32 {
        checkpoint.reward_output = Some(RewardOutput::Label(label));
        let expected: Vec<f32> = labels.iter().map(|outputs| outputs[label as usize]).collect();
        check(&score(&checkpoint, None).expect("rewards"), &expected, "a label");
    }
    checkpoint.reward_output = Some(RewardOutput::Weights(vec![0.5, -2.0, 0.25]));
    let sum = |outputs: &Vec<f32>| 0.5 * outputs[0] - 2.0 * outputs[1] + 0.25 * outputs[2];
    let expected: Vec<f32> = labels.iter().map(sum).collect();
    check(&score(&checkpoint, None).expect("rewards"), &expected, "weights");
    for output in [RewardOutput::Label(3), RewardOutput::Weights(vec![1.0])] {
        checkpoint.reward_output = Some(output);
        assert_eq!(refusal(&checkpoint).0, Some(InvalidKind::Setting));
    }
}

fn training(settings: Hyperparameters, checkpoint: &Checkpoint) -> Trainer {
    let ids: Vec<Vec<u32>> =
        serde_json::from_value(reference()["training"]["sequences"].clone()).expect("sequences");
    let sequence =
        |ids: &Vec<u32>| TrainingSequence { ids: ids.clone(), completion_start: 0, skipped: Vec::new() };
    let (chosen, rejected) = ids.split_at(ids.len() / 2);
    let pairs = chosen.iter().zip(rejected).map(|(chosen, rejected)| TokenPair {
        chosen: sequence(chosen),
        rejected: sequence(rejected),
        margin: 0.0,
        is_unsafe: None,
    });
    let data = TrainingData::Pairs(pairs.collect());
    let setup =
        TrainingSetup { objective: Objective::Reward { center: 0.0 }, settings, order: DataOrder::AsGiven };
    let runtime = runtime().expect("a runtime");
    Trainer::open(runtime, checkpoint, None, setup, data, &options(1)).expect("a training")
}

fn settings(lora: Option<LoraSettings>) -> Hyperparameters {
    Hyperparameters {
        learning_rate: 1e-3,
        schedule: Schedule::Constant,
        warmup: Warmup::Steps(0),
        steps: Some(3),
        batch_size: 3,
        gradient_accumulation: 1,
        weight_decay: 0.0,
        lora,
        ..Hyperparameters::default()
    }
}

fn losses(trainer: &mut Trainer) -> Vec<f64> {
    while trainer.step(&CancelFlag::new()).expect("a step").is_some() {}
    trainer.metrics().iter().map(|step| step.loss).collect()
}

#[test]
fn a_training_reads_the_token_that_trl_reads() {
    if runtime().is_none() {
        return;
    }
    let folder = model("llama", CLASSIFIER, &json!(1), &score_head(32));
    let seen = losses(&mut training(settings(None), &open(folder.path(), None)));
    let expected: Vec<f64> =
        serde_json::from_value(reference()["training"]["losses"].clone()).expect("losses");
    let near = seen.iter().zip(&expected).all(|(seen, expected)| (seen - expected).abs() < 2e-5);
    assert!(seen.len() == 3 && near, "{seen:?} against {expected:?}");
    let last_token = losses(&mut training(settings(None), &by_first_rules(folder.path())));
    assert!((last_token[0] - expected[0]).abs() > 0.1, "{last_token:?}");
}

/// Returns the result of a training, opened again: a model, or the base with the adapter.
fn saved(trainer: &Trainer, base: &Checkpoint, output: &Path) -> (Checkpoint, Option<LoraAdapter>) {
    trainer.save(None, output).expect("a result");
    if output.join("config.json").exists() {
        // The newest rules are those of transformers.
        return (open(output, None), None);
    }
    (base.clone(), Some(LoraAdapter::open(output).expect("an adapter")))
}

#[test]
fn a_written_reward_model_is_read_as_it_was_trained() {
    let Some(runtime) = runtime() else { return };
    let ids = vec![vec![5, 9, 12, 30, 31, 1], vec![5, 9, 12, 40, 1]];
    let lora = LoraSettings { r: 2, alpha: 4.0, targets: Vec::new() };
    // A written model without padding gets the token that begins texts. By the first rules the end of a text
    // is read, so it may not be padding.
    for (pad, rules, padding) in
        [(json!(1), ReadingRules::V2, 1), (Value::Null, ReadingRules::V2, 0), (json!(1), ReadingRules::V1, 0)]
    {
        let folder = model("llama", CLASSIFIER, &pad, &score_head(32));
        let first = rules == ReadingRules::V1;
        let base = if first { by_first_rules(folder.path()) } else { open(folder.path(), None) };
        for lora in [None, Some(lora.clone())] {
            let is_full = lora.is_none();
            let mut trainer = training(settings(lora), &base);
            losses(&mut trainer);
            let [chosen, rejected] = [0, 1].map(|index: usize| TrainingSequence {
                ids: ids[index].clone(),
                completion_start: 0,
                skipped: Vec::new(),
            });
            let pair = TokenPair { chosen, rejected, margin: 0.0, is_unsafe: None };
            let trained = trainer.evaluate(&TrainingData::Pairs(vec![pair]), &CancelFlag::new());
            let trained = trained.expect("an evaluation").pairs[0];
            let output = folder.path().join(if is_full { "full" } else { "lora" });
            let (result, adapter) = saved(&trainer, &base, &output);
            if is_full {
                assert_eq!(result.config.pad_token_id, Some(padding), "{pad} {rules:?}");
            }
            let mut opened =
                RewardModel::open(runtime, &result, adapter.as_ref(), &options(1)).expect("the model opens");
            let seen = opened.score(&ids, &CancelFlag::new(), &mut |_| {}).expect("rewards");
            check(&seen, &trained, &format!("{pad} {rules:?}, all weights: {is_full}"));
        }
    }
}

#[test]
fn a_training_starts_from_the_chosen_output() {
    if runtime().is_none() {
        return;
    }
    let folder = model("llama", CLASSIFIER, &json!(1), &[weight("score.weight", 3, 32, 1.0)]);
    let mut checkpoint = open(folder.path(), None);
    checkpoint.reward_output = Some(RewardOutput::Label(0));
    let seen = losses(&mut training(settings(None), &checkpoint));
    let one = model("llama", CLASSIFIER, &json!(1), &score_head(32));
    assert_eq!(seen, losses(&mut training(settings(None), &open(one.path(), None))));
}

#[test]
fn a_classifier_that_transformers_would_read_otherwise_is_not_written() {
    let mut head = score_head(32);
    head.push(bias("score.bias", 1, 1.0));
    let folder = model("llama", CLASSIFIER, &json!(1), &head);
    let output = folder.path().join("merged");
    let error = write::merge(&open(folder.path(), None), None, Dtype::F32, &output).expect_err("a bias");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Unsupported));
    assert!(error.to_string().contains("score.bias"), "{error}");
}

#[test]
fn the_implicit_reward_is_that_of_peft() {
    let Some(runtime) = runtime() else { return };
    let (base, adapter) = (support::tiny("llama"), support::adapter("llama-lora"));
    let model = |adapter| PolicyModel { checkpoint: &base, adapter };
    let open = |beta| ImplicitReward::open(runtime, model(Some(&adapter)), model(None), beta, &options(1));
    let mut implicit = open(0.25).expect("the models open");
    let template: PromptTemplate = "{prompt} {completion} </s>".parse().expect("a template");
    let mut score = |prompt: &str, completions: &[&str]| {
        let prompt = Dialogue::Text(prompt.to_owned());
        implicit.score(&template, &prompt, completions, &CancelFlag::new()).expect("rewards")
    };
    let mut seen = score("w5 w9 w12", &["w30 w31", "w40"]);
    seen.extend(score("w7", &["w8 w11 w13"]));
    let expected: Vec<f64> = serde_json::from_value(reference()["implicit"].clone()).expect("rewards");
    let near = seen.iter().zip(&expected).all(|(seen, expected)| (seen - expected).abs() < 1e-5);
    assert!(seen.len() == 3 && near, "{seen:?} against {expected:?}");
    assert_eq!(open(0.0).err().expect("a refusal").invalid_kind(), Some(InvalidKind::Setting));
}
