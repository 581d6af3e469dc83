//! Tests determinism: completions, log-probabilities and rewards do not depend on the rest of a batch, bit
//! for bit.

mod support;

use dissent_domain::generation::SamplingParams;
use dissent_domain::weight_form::WeightForm;
use dissent_models::adapter::{AdapterTask, LoraAdapter, LoraPair, LoraTarget};
use dissent_models::checkpoint::Checkpoint;
use dissent_models::generation::{GenerationJob, Generator, SampledTokens};
use dissent_models::runtime::{CancelFlag, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use support::{adapter, open_as, options, runtime, smollm2, smollm2_file, tiny};

/// Prompts of many lengths, including a single token, with 1 to 5 samples each.
fn jobs(prompts: u32, vocabulary: u32) -> Vec<GenerationJob> {
    let seed = |prompt: u32, sample: u32| {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&prompt.to_le_bytes());
        seed[4..8].copy_from_slice(&sample.to_le_bytes());
        seed
    };
    (0..prompts)
        .map(|prompt| GenerationJob {
            prompt_ids: (0..1 + prompt * 7 % 31).map(|i| (2 + prompt * 131 + i * 17) % vocabulary).collect(),
            seeds: (0..1 + prompt % 5).map(|sample| seed(prompt, sample)).collect(),
        })
        .collect()
}

fn generate(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    options: &SessionOptions,
    batches: &[&[GenerationJob]],
) -> Option<Vec<Vec<SampledTokens>>> {
    let runtime = runtime()?;
    let params = SamplingParams { temperature: 0.9, max_new_tokens: 12, ..SamplingParams::default() };
    let mut generator = Generator::open(runtime, checkpoint, adapter, options).expect("the model opens");
    let mut all = Vec::new();
    for batch in batches {
        all.extend(generator.generate(batch, &params, &CancelFlag::new(), &mut |_| {}).expect("completions"));
    }
    Some(all)
}

fn assert_same(seen: &[Vec<SampledTokens>], expected: &[Vec<SampledTokens>], what: &str) {
    assert_eq!(seen.len(), expected.len());
    for (prompt, (seen, expected)) in seen.iter().zip(expected).enumerate() {
        for (sample, (seen, expected)) in seen.iter().zip(expected).enumerate() {
            assert_eq!(seen.token_ids, expected.token_ids, "{what}: prompt {prompt}, sample {sample}");
            let bits = [seen.logprob.to_bits(), expected.logprob.to_bits()];
            assert_eq!(bits[0], bits[1], "{what}: prompt {prompt}, sample {sample}: log-probability");
        }
    }
}

/// Numbers of rows that are decoded together, and of prompts per call.
const BATCHES: [(usize, usize); 7] = [(2, 4), (3, 16), (4, 1), (7, 16), (8, 4), (16, 16), (33, 16)];

/// Compares single prompts with batches of many sizes, in both orders.
fn check_batches(
    checkpoint: &Checkpoint,
    adapter: Option<&LoraAdapter>,
    prompts: u32,
    rows_and_prompts: &[(usize, usize)],
) {
    let vocabulary = u32::try_from(checkpoint.config.vocab_size).expect("a vocabulary");
    let jobs = jobs(prompts, vocabulary);
    let one_by_one: Vec<&[GenerationJob]> = jobs.chunks(1).collect();
    let Some(expected) = generate(checkpoint, adapter, &options(1), &one_by_one) else { return };
    for (rows, prompts_together) in rows_and_prompts.iter().copied() {
        let batches: Vec<&[GenerationJob]> = jobs.chunks(prompts_together).collect();
        let seen = generate(checkpoint, adapter, &options(rows), &batches).expect("a runtime");
        assert_same(&seen, &expected, &format!("{rows} rows, {prompts_together} prompts"));
    }
    let reversed: Vec<GenerationJob> = jobs.iter().rev().cloned().collect();
    let mut seen = generate(checkpoint, adapter, &options(5), &[&reversed]).expect("a runtime");
    seen.reverse();
    assert_same(&seen, &expected, "in reverse");
    let one_thread = SessionOptions { threads: 1, ..options(6) };
    let seen = generate(checkpoint, adapter, &one_thread, &[&jobs]).expect("a runtime");
    assert_same(&seen, &expected, "on one thread");
}

#[test]
fn completions_of_a_llama_do_not_depend_on_the_batch() {
    check_batches(&tiny("llama"), None, 16, &BATCHES);
}

#[test]
fn completions_of_16_bit_weights_do_not_depend_on_the_batch() {
    check_batches(&tiny("llama-bf16"), None, 16, &BATCHES);
}

#[test]
fn completions_of_a_neox_do_not_depend_on_the_batch() {
    check_batches(&tiny("neox-parallel"), None, 16, &BATCHES);
    check_batches(&tiny("neox-sequential"), None, 16, &BATCHES);
}

#[test]
fn completions_with_an_adapter_do_not_depend_on_the_batch() {
    check_batches(&tiny("llama"), Some(&adapter("llama-lora")), 16, &BATCHES);
    check_batches(&tiny("neox-parallel"), Some(&adapter("neox-lora")), 16, &BATCHES);
}

#[test]
fn completions_of_smollm2_do_not_depend_on_the_batch() {
    let Some(checkpoint) = smollm2(None) else { return };
    check_batches(&checkpoint, None, 4, &[(3, 4), (16, 4)]);
}

/// Inputs are rounded to 8 bits row by row.
#[test]
fn completions_of_packed_weights_do_not_depend_on_the_batch() {
    let Some(file) = smollm2_file() else { return };
    for form in [WeightForm::AsStored, WeightForm::Int8] {
        let checkpoint = open_as(&file, Some(3), form);
        assert!(checkpoint.weights.packed_count() > 20);
        check_batches(&checkpoint, None, 5, &[(2, 2), (3, 5), (16, 5)]);
    }
}

/// Returns an adapter of rank 40 on every attention projection: wide enough for threads to share its
/// products.
fn wide_adapter(checkpoint: &Checkpoint) -> LoraAdapter {
    let config = &checkpoint.config;
    let (rank, kv_width) = (40, config.kv_heads * config.head_dim);
    let numbers = |length: usize, scale: f32| -> Vec<f32> {
        (0_u16..=u16::MAX).cycle().map(|i| (f32::from(i % 251) / 125.0 - 1.0) * scale).take(length).collect()
    };
    let mut layers = std::collections::BTreeMap::new();
    for layer in 0..config.layers {
        for (module, outputs) in [("q_proj", config.hidden_size), ("k_proj", kv_width), ("v_proj", kv_width)]
        {
            let (inputs, module) = (config.hidden_size, format!("self_attn.{module}"));
            let (a, b) = (numbers(rank * inputs, 0.05), numbers(outputs * rank, 0.02));
            let pair = LoraPair { a, b, rank, inputs, outputs, scaling: 1.0 };
            layers.insert(LoraTarget { layer, module }, pair);
        }
    }
    LoraAdapter::new(rank, 40.0, layers, None, AdapterTask::CausalLm, None).expect("an adapter")
}

#[test]
fn completions_with_a_wide_adapter_do_not_depend_on_the_batch() {
    let Some(checkpoint) = smollm2(Some(2)) else { return };
    check_batches(&checkpoint, Some(&wide_adapter(&checkpoint)), 6, &BATCHES);
}

fn items(vocabulary: u32) -> Vec<ScoreItem> {
    let ids =
        |start: u32, length: u32| (0..length).map(|i| (start + i * 29) % vocabulary).collect::<Vec<u32>>();
    (0..12)
        .map(|i| ScoreItem {
            prompt_ids: ids(3 + i / 3, 1 + i / 3 * 9),
            completion_ids: ids(50 + i, i * 5 % 23),
        })
        .collect()
}

fn check_scores(checkpoint: &Checkpoint, adapter: Option<&LoraAdapter>) {
    let Some(runtime) = runtime() else { return };
    let items = items(u32::try_from(checkpoint.config.vocab_size).expect("a vocabulary"));
    let score = |options: &SessionOptions, batches: &[&[ScoreItem]]| -> Vec<Vec<u32>> {
        let mut scorer = PolicyScorer::open(runtime, checkpoint, adapter, options).expect("the model opens");
        let mut all = Vec::new();
        for batch in batches {
            all.extend(scorer.score(batch, &CancelFlag::new(), &mut |_| {}).expect("log-probabilities"));
        }
        all.iter().map(|logprobs| logprobs.iter().map(|logprob| logprob.to_bits()).collect()).collect()
    };
    let expected = score(&options(1), &items.chunks(1).collect::<Vec<_>>());
    assert!(expected.iter().zip(&items).all(|(bits, item)| bits.len() == item.completion_ids.len()));
    assert_eq!(score(&options(1), &[&items]), expected);
    let one_thread = SessionOptions { threads: 1, ..options(1) };
    assert_eq!(score(&one_thread, &[&items[..7], &items[7..]]), expected);
}

#[test]
fn log_probabilities_do_not_depend_on_the_other_items() {
    check_scores(&tiny("llama"), None);
    check_scores(&tiny("neox-sequential"), None);
    check_scores(&tiny("llama"), Some(&adapter("llama-lora")));
    if let Some(checkpoint) = smollm2(None) {
        check_scores(&checkpoint, None);
    }
}

#[test]
fn rewards_do_not_depend_on_the_other_sequences() {
    let Some(runtime) = runtime() else { return };
    for (base, name) in [("llama", "llama-reward"), ("neox-sequential", "neox-reward")] {
        let mut model = RewardModel::open(runtime, &tiny(base), Some(&adapter(name)), &options(1))
            .expect("the model opens");
        let mut score = |sequences: &[Vec<u32>]| -> Vec<u32> {
            let rewards = model.score(sequences, &CancelFlag::new(), &mut |_| {}).expect("rewards");
            rewards.iter().map(|reward| reward.to_bits()).collect()
        };
        let sequences: Vec<Vec<u32>> = items(160).into_iter().map(|item| item.prompt_ids).collect();
        let expected: Vec<u32> =
            sequences.iter().flat_map(|sequence| score(std::slice::from_ref(sequence))).collect();
        assert_eq!(score(&sequences), expected);
    }
}
