//! Tests parity with PyTorch: logits, greedy tokens, adapters, log-probabilities, rewards.
//!
//! The reference outputs in `golden/` come from `golden/make_golden.py`.

mod support;

use dissent_domain::generation::{FinishReason, SamplingParams};
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::Checkpoint;
use dissent_models::generation::{GenerationJob, Generator};
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use serde_json::Value;
use support::{Expected, adapter, golden, open, options, runtime, smollm2, tiny};

const LOGIT_TOLERANCE: f32 = 5e-4;

fn distance(seen: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(seen.len(), expected.len());
    seen.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn check_logits(checkpoint: &Checkpoint, adapter: Option<&LoraAdapter>, expected: &Expected) {
    let Some(runtime) = runtime() else { return };
    let mut scorer = PolicyScorer::open(runtime, checkpoint, adapter, &options(1)).expect("the model opens");
    for sequence in 0.. {
        let Some(ids) = expected.ids(&format!("ids.{sequence}")) else {
            assert!(sequence > 0, "no reference figures");
            return;
        };
        let logits = scorer.logits(&ids, &CancelFlag::new()).expect("logits");
        let reference = expected.numbers(&format!("logits.{sequence}")).expect("reference logits");
        let distance = distance(&logits, &reference);
        assert!(distance <= LOGIT_TOLERANCE, "sequence {sequence}: logits differ by {distance}");
    }
}

fn check_greedy(checkpoint: &Checkpoint, prompts: &[Vec<u32>], expected: &[Vec<u32>]) {
    let Some(runtime) = runtime() else { return };
    let longest = expected.iter().map(Vec::len).max().expect("some prompts");
    let params = SamplingParams {
        temperature: 0.0,
        max_new_tokens: u32::try_from(longest).expect("a short completion"),
        ..SamplingParams::default()
    };
    let job = |ids: &Vec<u32>| GenerationJob { prompt_ids: ids.clone(), seeds: vec![[0; 32]] };
    let jobs: Vec<GenerationJob> = prompts.iter().map(job).collect();
    let mut generator = Generator::open(runtime, checkpoint, None, &options(8)).expect("the model opens");
    let seen = generator.generate(&jobs, &params, &CancelFlag::new(), &mut |_| {}).expect("completions");
    for (index, (seen, expected)) in seen.iter().zip(expected).enumerate() {
        assert_eq!(&seen[0].token_ids, expected, "prompt {index}");
        let stopped = expected.last().is_some_and(|last| checkpoint.config.eos_token_ids.contains(last));
        assert_eq!(seen[0].finish_reason == FinishReason::Stop, stopped, "prompt {index}");
    }
}

fn check_tiny(name: &str) {
    let (checkpoint, expected) = (tiny(name), Expected::of(name));
    check_logits(&checkpoint, None, &expected);
    let prompts: Vec<_> = (0..3).filter_map(|i| expected.ids(&format!("ids.{i}"))).collect();
    let greedy: Vec<_> = (0..3).filter_map(|i| expected.ids(&format!("greedy.{i}"))).collect();
    assert_eq!(greedy.len(), 3);
    check_greedy(&checkpoint, &prompts, &greedy);
}

#[test]
fn a_llama_with_biases_grouped_heads_and_scaled_rotary_agrees() {
    check_tiny("llama");
}

#[test]
fn a_llama_in_16_bits_with_shards_and_unusual_heads_agrees() {
    check_tiny("llama-bf16");
}

#[test]
fn a_neox_with_parallel_residual_agrees() {
    check_tiny("neox-parallel");
}

#[test]
fn a_neox_with_sequential_residual_agrees() {
    check_tiny("neox-sequential");
}

#[test]
fn a_llama_with_an_adapter_agrees() {
    check_logits(&tiny("llama"), Some(&adapter("llama-lora")), &Expected::of("llama-lora"));
}

#[test]
fn a_neox_with_a_rank_stabilised_adapter_agrees() {
    check_logits(&tiny("neox-parallel"), Some(&adapter("neox-lora")), &Expected::of("neox-lora"));
}

fn check_rewards(base: &str, name: &str) {
    let Some(runtime) = runtime() else { return };
    let expected = Expected::of(name);
    let (ids, rewards): (Vec<_>, Vec<f32>) = (0..)
        .map_while(|i| {
            let reward = expected.numbers(&format!("logits.{i}"))?;
            Some((expected.ids(&format!("ids.{i}"))?, reward[0]))
        })
        .unzip();
    assert!(!ids.is_empty());
    let mut model =
        RewardModel::open(runtime, &tiny(base), Some(&adapter(name)), &options(1)).expect("the model opens");
    let seen = model.score(&ids, &CancelFlag::new(), &mut |_| {}).expect("rewards");
    let distance = distance(&seen, &rewards);
    assert!(distance <= LOGIT_TOLERANCE, "{seen:?} against {rewards:?}");
}

#[test]
fn a_llama_reward_adapter_agrees() {
    check_rewards("llama", "llama-reward");
}

#[test]
fn a_neox_reward_adapter_agrees() {
    check_rewards("neox-sequential", "neox-reward");
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

fn smollm2_figures() -> Value {
    let text = std::fs::read_to_string(golden("smollm2.json")).expect("the reference figures");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn smollm2_logits_agree() {
    let (Some(runtime), Some(checkpoint)) = (runtime(), smollm2(None)) else { return };
    let mut scorer = PolicyScorer::open(runtime, &checkpoint, None, &options(1)).expect("the model opens");
    let mut worst = 0.0_f64;
    for sequence in smollm2_figures()["logits"].as_array().expect("sequences") {
        let logits = scorer.logits(&ids(&sequence["ids"]), &CancelFlag::new()).expect("logits");
        for place in sequence["positions"].as_array().expect("positions") {
            let position =
                usize::try_from(place["position"].as_u64().expect("a position")).expect("a position");
            let row = &logits[position * checkpoint.config.vocab_size..][..checkpoint.config.vocab_size];
            for (token, expected) in ids(&place["tokens"]).into_iter().zip(numbers(&place["logits"])) {
                worst = worst.max((f64::from(row[token as usize]) - expected).abs());
            }
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            worst = worst.max((sum.ln() - place["log_sum_exp"].as_f64().expect("a number")).abs());
        }
    }
    assert!(worst <= f64::from(LOGIT_TOLERANCE), "logits differ by {worst}");
}

#[test]
fn smollm2_greedy_tokens_agree_on_20_prompts() {
    let Some(checkpoint) = smollm2(None) else { return };
    let figures = smollm2_figures();
    let greedy = figures["greedy"].as_array().expect("prompts");
    assert_eq!(greedy.len(), 20);
    let prompts: Vec<_> = greedy.iter().map(|prompt| ids(&prompt["ids"])).collect();
    let expected: Vec<_> = greedy.iter().map(|prompt| ids(&prompt["tokens"])).collect();
    check_greedy(&checkpoint, &prompts, &expected);
}

/// Returns the pairs of completions and reference scores of the scoring fixture, as (prompt, completion,
/// scores).
fn score_fixture() -> Vec<(String, String, Value)> {
    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(golden(name)).expect("the fixture");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mut completions = Vec::new();
    for (input, expected) in lines("score-input.jsonl").iter().zip(&lines("score-expected.jsonl")) {
        assert_eq!(input["prompt_id"], expected["prompt_id"]);
        let scores = expected["completions"].as_array().expect("scores");
        for (completion, scores) in input["completions"].as_array().expect("completions").iter().zip(scores) {
            completions.push((text(&input["prompt"]), text(&completion["text"]), scores.clone()));
        }
    }
    completions
}

#[test]
fn the_scoring_fixture_is_reproduced_by_the_policy() {
    let (Some(runtime), Some(checkpoint)) = (runtime(), smollm2(None)) else { return };
    let encode = |text: &str| checkpoint.tokenizer.encode(text, false).expect("token ids");
    let fixture = score_fixture();
    let items: Vec<ScoreItem> = fixture
        .iter()
        .map(|(prompt, completion, _)| ScoreItem {
            prompt_ids: encode(&format!("Question: {prompt}\n\nAnswer: ")),
            completion_ids: encode(completion),
        })
        .collect();
    let mut scorer = PolicyScorer::open(runtime, &checkpoint, None, &options(1)).expect("the model opens");
    let seen = scorer.score(&items, &CancelFlag::new(), &mut |_| {}).expect("log-probabilities");
    for (index, (seen, (.., expected))) in seen.iter().zip(&fixture).enumerate() {
        assert_eq!(Some(seen.len() as u64), expected["tokens"].as_u64(), "completion {index}");
        let sum: f64 = seen.iter().map(|&logprob| f64::from(logprob)).sum();
        let expected = expected["logprob"].as_f64().expect("a number");
        assert!((sum - expected).abs() <= 1e-2, "completion {index}: {sum} against {expected}");
    }
}

#[test]
fn the_scoring_fixture_is_reproduced_by_the_reward_model() {
    let (Some(runtime), Some(checkpoint)) = (runtime(), smollm2(Some(6))) else { return };
    let dir = golden("proxy-reward");
    let adapter = LoraAdapter::open(&dir).expect("the adapter opens");
    let encode = |text: &str| checkpoint.tokenizer.encode(text, false).expect("token ids");
    let fixture = score_fixture();
    let text = |(prompt, completion, _): &(String, String, Value)| {
        format!("Question: {prompt}\n\nAnswer: {completion}")
    };
    let sequences: Vec<Vec<u32>> = fixture.iter().map(|item| encode(&text(item))).collect();
    let mut model =
        RewardModel::open(runtime, &checkpoint, Some(&adapter), &options(1)).expect("the model opens");
    let seen = model.score(&sequences, &CancelFlag::new(), &mut |_| {}).expect("rewards");
    for (index, (&seen, (.., expected))) in seen.iter().zip(&fixture).enumerate() {
        let expected = expected["reward"].as_f64().expect("a number");
        assert!((f64::from(seen) - expected).abs() <= 1e-3, "completion {index}: {seen} against {expected}");
    }
}

#[test]
fn a_reward_model_needs_a_score_head() {
    let Some(runtime) = runtime() else { return };
    let error = RewardModel::open(runtime, &open(&golden("llama"), None), None, &options(1))
        .err()
        .expect("no score head");
    assert!(error.to_string().contains("score.weight"), "{error}");
}
