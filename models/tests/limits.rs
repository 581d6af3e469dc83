//! Tests refused inputs, and cancellation.

mod support;

use std::path::{Path, PathBuf};

use dissent_domain::generation::{FinishReason, SamplingParams};
use dissent_models::checkpoint::Checkpoint;
use dissent_models::generation::{GenerationJob, GenerationProgress, Generator};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, Provider, SessionOptions};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::{InvalidKind, ModelError};
use support::required::optional;
use support::{adapter, golden, open, options, runtime, tiny};

fn job(prompt_ids: Vec<u32>, samples: u8) -> GenerationJob {
    GenerationJob { prompt_ids, seeds: (0..samples).map(|sample| [sample; 32]).collect() }
}

fn params(max_new_tokens: u32) -> SamplingParams {
    SamplingParams { max_new_tokens, ..SamplingParams::default() }
}

fn generator(checkpoint: &Checkpoint) -> Option<Generator> {
    Some(Generator::open(runtime()?, checkpoint, None, &options(4)).expect("the model opens"))
}

fn refusal(prompt_ids: Vec<u32>) -> Option<InvalidKind> {
    let mut generator = generator(&tiny("llama"))?;
    let result = generator.generate(&[job(prompt_ids, 2)], &params(4), &CancelFlag::new(), &mut |_| {});
    let error = result.expect_err("it cannot be run");
    Some(error.invalid_kind().expect("the error is of the input"))
}

#[test]
fn a_prompt_that_fills_the_context_is_refused_with_both_lengths() {
    let Some(kind) = refusal(vec![5; 96]) else { return };
    assert_eq!(kind, InvalidKind::TooLong { tokens: 96, max: 96 });
}

#[test]
fn a_token_outside_the_vocabulary_is_refused() {
    let Some(kind) = refusal(vec![5, 160]) else { return };
    assert_eq!(kind, InvalidKind::UnknownToken { id: 160 });
}

#[test]
fn an_empty_prompt_is_refused() {
    let Some(kind) = refusal(Vec::new()) else { return };
    assert_eq!(kind, InvalidKind::Empty);
}

#[test]
fn a_completion_ends_at_the_end_of_the_context() {
    let mut checkpoint = tiny("llama");
    checkpoint.config.eos_token_ids.clear();
    let Some(mut generator) = generator(&checkpoint) else { return };
    let jobs = [job((2..92).collect(), 3), job(vec![7], 1)];
    let completions =
        generator.generate(&jobs, &params(30), &CancelFlag::new(), &mut |_| {}).expect("completions");
    let lengths: Vec<Vec<usize>> = completions
        .iter()
        .map(|samples| samples.iter().map(|sample| sample.token_ids.len()).collect())
        .collect();
    assert_eq!(lengths, [vec![6; 3], vec![30]]);
    assert!(completions.iter().flatten().all(|sample| sample.finish_reason == FinishReason::Length));
}

#[test]
fn progress_counts_every_token_and_completion() {
    let mut checkpoint = tiny("neox-parallel");
    checkpoint.config.eos_token_ids.clear();
    let Some(mut generator) = generator(&checkpoint) else { return };
    let jobs = [job(vec![2, 3], 5), job(vec![9], 2)];
    let mut last = GenerationProgress::default();
    let mut note = |progress| last = progress;
    generator.generate(&jobs, &params(6), &CancelFlag::new(), &mut note).expect("completions");
    assert_eq!(last, GenerationProgress { prompts_done: 2, completions_done: 7, tokens: 42 });
}

#[test]
fn a_job_without_seeds_has_no_completions() {
    let Some(mut generator) = generator(&tiny("llama")) else { return };
    let jobs = [job(vec![2], 0), job(vec![3], 1)];
    let completions =
        generator.generate(&jobs, &params(2), &CancelFlag::new(), &mut |_| {}).expect("completions");
    assert_eq!(completions.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn cancelling_from_another_thread_ends_generation() {
    let mut checkpoint = tiny("llama");
    checkpoint.config.eos_token_ids.clear();
    let Some(mut generator) = generator(&checkpoint) else { return };
    let cancel = CancelFlag::new();
    let mut steps = 0;
    let result = generator.generate(&[job(vec![4; 8], 4)], &params(80), &cancel, &mut |_| {
        steps += 1;
        if steps == 3 {
            let cancel = cancel.clone();
            std::thread::spawn(move || cancel.cancel()).join().expect("the thread ends");
        }
    });
    assert!(matches!(result, Err(ModelError::Cancelled)));
    assert_eq!(steps, 3);
}

#[test]
fn cancelled_scoring_returns_cancelled() {
    let Some(runtime) = runtime() else { return };
    let mut scorer = PolicyScorer::open(runtime, &tiny("llama"), None, &options(1)).expect("the model opens");
    let cancel = CancelFlag::new();
    let item = ScoreItem { prompt_ids: vec![3], completion_ids: vec![4, 5] };
    let mut stop = |_| cancel.cancel();
    assert!(matches!(scorer.score(&[item.clone(), item], &cancel, &mut stop), Err(ModelError::Cancelled)));
}

/// Returns a copy of a tiny model with one infinite element in a tensor.
fn damaged(name: &str, tensor: &str, dir: &Path) -> PathBuf {
    let place = tiny(name).weights.get(tensor).expect("the tensor").clone();
    for entry in golden(name).read_dir().expect("the model").flatten() {
        std::fs::copy(entry.path(), dir.join(entry.file_name())).expect("a copy");
    }
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("the weights");
    let offset = usize::try_from(place.offset).expect("a small file");
    bytes[offset..offset + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(&path, bytes).expect("the weights");
    dir.to_owned()
}

#[test]
fn a_model_with_infinite_outputs_is_named() {
    let Some(runtime) = runtime() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = damaged("llama", "model.norm.weight", dir.path());
    let checkpoint = open(&path, None);
    let mut generator = Generator::open(runtime, &checkpoint, None, &options(2)).expect("the model opens");
    let error = generator
        .generate(&[job(vec![3], 2)], &params(2), &CancelFlag::new(), &mut |_| {})
        .expect_err("not finite");
    // The error contains the model's name only: events must not record its location.
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(!error.to_string().contains(&path.display().to_string()), "{error}");
    assert!(error.to_string().contains(&name) && error.to_string().contains("finite"), "{error}");
    let reward = adapter("llama-reward");
    let mut model =
        RewardModel::open(runtime, &checkpoint, Some(&reward), &options(1)).expect("the model opens");
    let error =
        model.score(&[vec![3, 4]], &CancelFlag::new(), &mut |_| {}).expect_err("not finite").to_string();
    assert!(error.contains(&name), "{error}");
}

#[test]
fn cuda_without_a_gpu_is_an_error_that_names_the_missing_part() {
    let Some(runtime) = runtime() else { return };
    let has_gpu = Path::new("/dev/nvidia0").exists();
    let Some(()) = optional(if has_gpu { Err("this machine has a GPU") } else { Ok(()) }) else { return };
    let cuda = SessionOptions { provider: Provider::Cuda, ..options(2) };
    let error = Generator::open(runtime, &tiny("llama"), None, &cuda).err().expect("no GPU").to_string();
    assert!(error.contains("CUDA"), "{error}");
    let auto = SessionOptions { provider: Provider::Auto, ..options(2) };
    assert!(Generator::open(runtime, &tiny("llama"), None, &auto).is_ok());
}

#[test]
fn a_second_runtime_is_refused() {
    let Some(runtime) = runtime() else { return };
    assert!(OnnxRuntime::load(Some(&runtime.path)).is_ok());
    let error = OnnxRuntime::load(Some(Path::new("/elsewhere/libonnxruntime.so"))).expect_err("another one");
    assert!(error.to_string().contains("already loaded"), "{error}");
}
