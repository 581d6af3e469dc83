//! Tests each family of models against transformers: logits, rewards, gradients, and each feature's effect.
//!
//! The reference values in `golden/families` come from `golden/families/generate.py`, which computes in 64
//! bits.

mod support;

use std::path::Path;

use dissent_domain::generation::SamplingParams;
use dissent_domain::training::LoraSettings;
use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::Checkpoint;
use dissent_models::generation::{GenerationJob, Generator, SampledTokens};
use dissent_models::runtime::{CancelFlag, ComputeType, OnnxRuntime, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::training::{
    LoraPlan, Loss, LossInputs, PackedBatch, ParameterLayout, StepSession, StepSpec, Trainable,
    TrainingSequence, TrainingState,
};
use support::families::{Family, Figures, Lora, Row, Tensor};
use support::{open, options, runtime};

const TOLERANCE: f32 = 1e-5;

/// The families that Dissent opens.
const OPENED: [&str; 28] = [
    "cohere",
    "cohere2",
    "cohere_plain",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_renamed",
    "gemma3_text",
    "gpt2",
    "gpt2_bare",
    "gpt_neox",
    "gpt_neox_sequential",
    "granite",
    "llama",
    "ministral",
    "mistral",
    "olmo2",
    "olmo3",
    "phi3",
    "phi4_mini",
    "qwen2",
    "qwen2_yarn",
    "qwen3",
    "smollm3",
    "smollm3_varied",
    "stablelm",
    "stablelm_parallel",
    "starcoder2",
];

fn furthest<'a>(pairs: impl IntoIterator<Item = (&'a f32, &'a f32)>) -> f32 {
    pairs.into_iter().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Returns the largest difference of a chosen logit from transformers' figures.
fn logits_error(runtime: &'static OnnxRuntime, folder: &Path, figures: &Figures) -> f32 {
    let chosen: Vec<_> = figures.rows.iter().map(|row| row.logits.clone()).collect();
    logits_error_from(runtime, folder, figures, &chosen)
}

fn logits_error_from(
    runtime: &'static OnnxRuntime,
    path: &Path,
    figures: &Figures,
    chosen: &[Vec<Vec<f32>>],
) -> f32 {
    let checkpoint = open(path, None);
    let mut scorer = PolicyScorer::open(runtime, &checkpoint, None, &options(1)).expect("the model opens");
    let mut worst = 0.0_f32;
    for (row, chosen) in figures.rows.iter().zip(chosen) {
        // LongRoPE is read up to its original context.
        if row.ids.len() > checkpoint.config.context_length {
            continue;
        }
        let logits = scorer.logits(&row.ids, &CancelFlag::new()).expect("logits");
        for (position, expected) in row.positions.iter().zip(chosen) {
            let seen = &logits[position * expected.len()..][..expected.len()];
            worst = worst.max(furthest(seen.iter().zip(expected)));
        }
    }
    worst
}

/// Runs a check of every family that Dissent opens, and reports all failures at once.
fn each_family(check: impl Fn(&'static OnnxRuntime, &Family) -> Vec<String>) {
    let Some(runtime) = runtime() else { return };
    let of = |name: &&str| -> Vec<String> {
        let failures = check(runtime, &Family::named(name));
        failures.into_iter().map(|failure| format!("{name}: {failure}")).collect()
    };
    let failures: Vec<String> = OPENED.iter().flat_map(of).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Whether a row exceeds the original context of `LongRoPE`, up to which such models are opened.
fn is_too_long(family: &Family, checkpoint: &Checkpoint) -> bool {
    family.figures.rows[0].ids.len() > checkpoint.config.context_length
}

#[test]
fn weights_follow_the_formula_of_the_generator() {
    let values = Tensor("lm_head.weight".into(), vec![2, 2], 0.5, 2.0).values();
    assert_eq!(values, [2.471_12, 2.438_943_6, -1.332_603, 0.191_112_76]);
}

#[test]
fn logits_agree_with_transformers() {
    each_family(|runtime, family| {
        let error = logits_error(runtime, family.policy().path(), &family.figures);
        Vec::from_iter((error > TOLERANCE).then(|| format!("logits differ by {error}")))
    });
}

/// Decodes completions token by token, three at a time, and returns the largest difference of their
/// log-probabilities from those of the whole sequences.
fn decoding_error(runtime: &'static OnnxRuntime, family: &Family) -> f64 {
    let (folder, row) = (family.policy(), &family.figures.rows[0]);
    let checkpoint = open(folder.path(), None);
    let room = checkpoint.config.context_length.min(row.ids.len());
    let prompt_ids = row.ids[..family.figures.prefill.min(room - 4)].to_vec();
    let job = GenerationJob { prompt_ids: prompt_ids.clone(), seeds: vec![[1; 32], [2; 32], [3; 32]] };
    let max_new_tokens = u32::try_from(room - prompt_ids.len()).expect("few tokens");
    let params = SamplingParams { temperature: 1.0, max_new_tokens, ..SamplingParams::default() };
    let cancel = CancelFlag::new();
    let mut generator = Generator::open(runtime, &checkpoint, None, &options(3)).expect("the model opens");
    let completions = generator.generate(&[job], &params, &cancel, &mut |_| {}).expect("completions");
    let mut scorer = PolicyScorer::open(runtime, &checkpoint, None, &options(1)).expect("the model opens");
    let error = |completion: &SampledTokens| {
        let ids = [&prompt_ids[..], &completion.token_ids].concat();
        let logits = scorer.logits(&ids, &cancel).expect("logits");
        let rows = logits.chunks_exact(checkpoint.config.vocab_size).skip(prompt_ids.len() - 1);
        let logprob = |(row, &id): (&[f32], &u32)| {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            f64::from(row[id as usize]) - total.ln()
        };
        let whole: f64 = rows.zip(&completion.token_ids).map(logprob).sum();
        (whole - completion.logprob).abs() / completion.token_ids.len() as f64
    };
    completions[0].iter().map(error).fold(0.0, f64::max)
}

#[test]
fn decoding_token_by_token_agrees_with_whole_sequences() {
    each_family(|runtime, family| {
        let error = decoding_error(runtime, family);
        Vec::from_iter((error > f64::from(TOLERANCE)).then(|| format!("log-probabilities differ by {error}")))
    });
}

#[test]
fn files_of_llama_cpp_agree_with_transformers() {
    each_family(|runtime, family| {
        let Some(path) = family.gguf() else { return vec![] };
        let figures = &family.figures;
        let own: Vec<_> = figures.rows.iter().map(|row| row.logits.clone()).collect();
        let error = logits_error_from(runtime, &path, figures, figures.gguf.as_ref().unwrap_or(&own));
        Vec::from_iter((error > TOLERANCE).then(|| format!("logits differ by {error}")))
    });
}

#[test]
fn other_spellings_of_a_configuration_mean_the_same() {
    each_family(|runtime, family| {
        let wrong = family.figures.same.iter().filter_map(|same| {
            let error = logits_error(runtime, family.edited(&same.edit).path(), &family.figures);
            (error > TOLERANCE).then(|| format!("{}: logits differ by {error}", same.name))
        });
        wrong.collect()
    });
}

#[test]
fn leaving_out_a_feature_moves_the_logits_as_in_transformers() {
    each_family(|runtime, family| {
        let checkpoint = open(family.policy().path(), None);
        let wrong = family.figures.features.iter().filter_map(|feature| {
            if feature.name == "long factors" && is_too_long(family, &checkpoint) {
                return None;
            }
            let moved = logits_error(runtime, family.edited(&feature.edit).path(), &family.figures);
            let expected = feature.moves_by;
            let near = (moved - expected).abs() <= 0.01 * expected + 2.0 * TOLERANCE;
            (!near || moved < 10.0 * TOLERANCE)
                .then(|| format!("{} moves logits by {moved}, not {expected}", feature.name))
        });
        wrong.collect()
    });
}

#[test]
fn rewards_agree_with_transformers() {
    each_family(|runtime, family| {
        let Some(classifier) = &family.figures.classifier else { return vec![] };
        let folder = family.classifier();
        let checkpoint = open(folder.path(), None);
        if is_too_long(family, &checkpoint) {
            return vec![];
        }
        let mut model = RewardModel::open(runtime, &checkpoint, None, &options(1)).expect("the model opens");
        let rows: Vec<_> = family.figures.rows.iter().map(|row| row.ids.clone()).collect();
        let seen = model.score(&rows, &CancelFlag::new(), &mut |_| {}).expect("rewards");
        let error = furthest(seen.iter().zip(&classifier.rewards));
        Vec::from_iter((error > TOLERANCE).then(|| format!("rewards differ by {error}")))
    });
}

#[test]
fn an_adapter_changes_the_logits_as_in_peft() {
    each_family(|runtime, family| {
        let (folder, adapter) = (family.policy(), family.adapter());
        let checkpoint = open(folder.path(), None);
        if is_too_long(family, &checkpoint) {
            return vec![];
        }
        let adapter = LoraAdapter::open(adapter.path()).expect("the adapter opens");
        let mut scorer =
            PolicyScorer::open(runtime, &checkpoint, Some(&adapter), &options(1)).expect("the model opens");
        let logits = scorer.logits(&family.figures.rows[0].ids, &CancelFlag::new()).expect("logits");
        let expected = &family.figures.lora.logits;
        let error = furthest(logits[logits.len() - expected.len()..].iter().zip(expected));
        Vec::from_iter((error > TOLERANCE).then(|| format!("logits differ by {error}")))
    });
}

/// Returns the relative L2 distance of the gradient of every A and B.
fn gradient_error(runtime: &'static OnnxRuntime, family: &Family) -> f64 {
    let (figures, folder) = (&family.figures, family.policy());
    let Lora { r, alpha, targets, completion_starts, tensors, gradients, .. } = &figures.lora;
    let checkpoint = open(folder.path(), None);
    if is_too_long(family, &checkpoint) {
        return 0.0;
    }
    let settings = LoraSettings { r: *r, alpha: *alpha, targets: targets.clone() };
    let trainable = Trainable::Lora(LoraPlan::new(&checkpoint.config, &settings).expect("a plan"));
    let layout = ParameterLayout::new(&checkpoint.config, &checkpoint.weights, &trainable, Loss::Sft.head())
        .expect("a layout");
    let mut initial = vec![0.0; layout.elements()];
    let mut expected = vec![0.0; layout.elements()];
    for tensor in tensors {
        let parameter = layout.parameters().iter().find(|parameter| parameter.name == tensor.0);
        let range = parameter.ok_or(&tensor.0).expect("a parameter of that name").range();
        initial[range.clone()].copy_from_slice(&tensor.values());
        expected[range].copy_from_slice(&gradients[&tensor.0]);
    }
    let sequence = |(row, &completion_start): (&Row, _)| TrainingSequence {
        ids: row.ids.clone(),
        completion_start,
        skipped: Vec::new(),
    };
    let sequences: Vec<_> = figures.rows.iter().zip(completion_starts).map(sequence).collect();
    let batch = PackedBatch::new(&sequences, Loss::Sft.head()).expect("a batch");
    let tokens: usize = sequences.iter().map(|sequence| sequence.ids.len() - sequence.completion_start).sum();
    let inputs = LossInputs::Sft { weights: vec![1.0 / tokens as f32; tokens] };
    let spec = StepSpec { trainable, loss: Loss::Sft, recompute: false };
    let state = TrainingState::new(initial);
    let mut session = StepSession::open(runtime, &checkpoint, &spec, state, &options(1)).expect("a session");
    let output = session.accumulate(&batch, &inputs, &CancelFlag::new()).expect("a gradient");
    let loss = f64::from(output.loss) - figures.lora.loss;
    let square = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>();
    let pairs = session.gradient().iter().zip(&expected);
    let difference = square(&mut pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)));
    let whole = square(&mut expected.iter().map(|&number| f64::from(number)));
    (difference / whole).sqrt().max(loss.abs())
}

/// Returns the greatest difference of log-probabilities in 16 bits from those in 32: of a given sequence, and
/// of completions that 16 bits decode.
fn rounding_of_16_bits(runtime: &'static OnnxRuntime, family: &Family) -> f64 {
    let folder = family.policy();
    let checkpoint = open(folder.path(), None);
    let ids = &family.figures.rows[0].ids;
    let ids = &ids[..ids.len().min(checkpoint.config.context_length)];
    let (prompt_ids, completion_ids) = ids.split_at(ids.len() / 2);
    let (prompt_ids, cancel) = (prompt_ids.to_vec(), CancelFlag::new());
    let rounded = SessionOptions { dtype: ComputeType::F16, ..options(3) };
    let score = |options: &SessionOptions, completions: &[Vec<u32>]| {
        let item = |ids: &Vec<u32>| ScoreItem { prompt_ids: prompt_ids.clone(), completion_ids: ids.clone() };
        let items: Vec<_> = completions.iter().map(item).collect();
        let mut scorer = PolicyScorer::open(runtime, &checkpoint, None, options).expect("the model opens");
        scorer.score(&items, &cancel, &mut |_| {}).expect("log-probabilities")
    };
    let job =
        GenerationJob { prompt_ids: prompt_ids.clone(), seeds: vec![[1; 32], [2; 32], [3; 32], [4; 32]] };
    let max_new_tokens = u32::try_from(completion_ids.len()).expect("few tokens");
    let params = SamplingParams { temperature: 1.0, max_new_tokens, ..SamplingParams::default() };
    let mut generator = Generator::open(runtime, &checkpoint, None, &rounded).expect("the model opens");
    let sampled = generator.generate(&[job], &params, &cancel, &mut |_| {}).expect("completions").remove(0);
    let completions: Vec<_> = std::iter::once(completion_ids.to_vec())
        .chain(sampled.iter().map(|completion| completion.token_ids.clone()))
        .collect();
    let exact = score(&options(1), &completions);
    let of_scores = exact.iter().flatten().zip(score(&rounded, &completions).into_iter().flatten());
    let of_scores = of_scores.map(|(x, y)| f64::from(x - y).abs());
    let of_samples = exact[1..].iter().zip(&sampled).map(|(exact, completion)| {
        let sum: f64 = exact.iter().copied().map(f64::from).sum();
        (sum - completion.logprob).abs() / exact.len() as f64
    });
    of_scores.chain(of_samples).fold(0.0, f64::max)
}

/// 16-bit floats have 11 bits. What a family leaves out in one of the two graphs is far greater.
const TOLERANCE_OF_16_BITS: f64 = 0.005;

#[test]
fn log_probabilities_in_16_bits_agree_with_those_in_32() {
    each_family(|runtime, family| {
        let folder = family.policy();
        let checkpoint = open(folder.path(), None);
        // Gemma's hidden states exceed 16 bits, so that the type is refused.
        if checkpoint.config.family.model_type.starts_with("gemma") {
            let options = SessionOptions { dtype: ComputeType::F16, ..options(1) };
            let refusal = PolicyScorer::open(runtime, &checkpoint, None, &options).err();
            let refused = refusal.is_some_and(|error| error.to_string().contains("bf16"));
            return Vec::from_iter((!refused).then(|| "f16 is not refused".to_owned()));
        }
        let error = rounding_of_16_bits(runtime, family);
        let wrong = error > TOLERANCE_OF_16_BITS || error == 0.0;
        Vec::from_iter(wrong.then(|| format!("log-probabilities differ by {error}")))
    });
}

#[test]
fn gradients_of_an_adapter_agree_with_pytorch() {
    each_family(|runtime, family| {
        let error = gradient_error(runtime, family);
        Vec::from_iter((error > f64::from(TOLERANCE)).then(|| format!("the gradient is off by {error}")))
    });
}
