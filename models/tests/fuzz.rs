//! Fuzzes untrusted bytes: checkpoints, adapters, GGUF files, chat templates, training checkpoints. The bytes
//! are arbitrary or mutated. `PROPTEST_CASES` sets the number of cases.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../domain/tests/mutation/mod.rs"]
mod mutation;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dissent_models::adapter::LoraAdapter;
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules};
use dissent_models::inspect::inspect;
use dissent_models::template::PromptTemplate;
use dissent_models::training::{DataCursor, StepMetrics, TrainingCheckpoint, TrainingState};
use dissent_models::tuning::TuningCheckpoint;
use proptest::prelude::*;
use tempfile::TempDir;

use mutation::{bounded_beside, cases, mutated, mutations};

/// Memory allowed besides the file, in bytes: a vocabulary and its tables, dequantised weights, graphs.
const MEMORY_BESIDES_FILE: usize = 12 << 20;
/// The time limit of a case, far above the time to read a small file.
const TIME_MAX: Duration = Duration::from_secs(20);

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Returns a copy of a folder with one file changed.
fn folder(name: &str, change: Option<(&str, &[u8])>) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    if let Some((file, bytes)) = change {
        fs::write(copy.path().join(file), bytes).unwrap();
    }
    copy
}

fn in_time<T>(read: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let outcome = read();
    assert!(began.elapsed() < TIME_MAX, "the read took {:?}", began.elapsed());
    outcome
}

fn options(cache: &TempDir) -> OpenOptions {
    OpenOptions { layers: None, cache_dir: cache.path().to_owned(), reading: ReadingRules::default() }
}

/// Opens and describes a checkpoint. Also runs the tokenizer and the template of a model that opens.
fn open(path: &Path, bytes: usize) {
    let cache = tempfile::tempdir().unwrap();
    let opened =
        in_time(|| bounded_beside(bytes, MEMORY_BESIDES_FILE, || Checkpoint::open(path, &options(&cache))));
    let _ = in_time(|| bounded_beside(bytes, MEMORY_BESIDES_FILE, || inspect(path, &options(&cache))));
    if let Ok(checkpoint) = opened {
        let ids = checkpoint.tokenizer.encode("why? \u{1F600}", true).unwrap_or_default();
        let _ = checkpoint.tokenizer.decode(&ids, true);
        let _ = in_time(|| PromptTemplate::Chat.render_prompt(&checkpoint.tokenizer, "why?"));
    }
}

fn adapter(path: &Path, bytes: usize) {
    let _ = in_time(|| bounded_beside(bytes, MEMORY_BESIDES_FILE, || LoraAdapter::open(path)));
}

fn bytes_in(folder: &Path) -> usize {
    let lengths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    usize::try_from(lengths.sum::<u64>()).unwrap()
}

fn training() -> TrainingCheckpoint {
    TrainingCheckpoint {
        training: "a".repeat(64),
        state: TrainingState {
            parameters: vec![0.5; 40],
            first_moment: vec![0.1; 40],
            second_moment: vec![0.2; 40],
        },
        step: 3,
        cursor: DataCursor::default(),
        seed: 7,
        num_tokens: 99,
        reference: vec![1.0; 40],
        metrics: Vec::<StepMetrics>::new(),
    }
}

fn tuning() -> TuningCheckpoint {
    let TrainingCheckpoint { training: plan, state, .. } = training();
    TuningCheckpoint { plan, iteration: 3, steps: 24, kl_coefficient: 0.05, state }
}

/// Returns a GGUF file with an architecture, a vocabulary and one tensor.
fn gguf() -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(3_u32.to_le_bytes());
    out.extend([1_u64, 5].map(u64::to_le_bytes).concat());
    text(&mut out, "general.architecture");
    out.extend(8_u32.to_le_bytes());
    text(&mut out, "llama");
    for (key, number) in [("llama.block_count", 1_u32), ("llama.embedding_length", 32)] {
        text(&mut out, key);
        out.extend(4_u32.to_le_bytes());
        out.extend(number.to_le_bytes());
    }
    text(&mut out, "tokenizer.ggml.tokens");
    out.extend([9_u32, 8].map(u32::to_le_bytes).concat());
    out.extend(3_u64.to_le_bytes());
    for token in ["<s>", "a", "b"] {
        text(&mut out, token);
    }
    text(&mut out, "tokenizer.ggml.scores");
    out.extend([9_u32, 6].map(u32::to_le_bytes).concat());
    out.extend(3_u64.to_le_bytes());
    out.extend([0.0_f32, -1.0, -2.0].map(f32::to_le_bytes).concat());
    text(&mut out, "token_embd.weight");
    out.extend(2_u32.to_le_bytes());
    out.extend([32_u64, 3].map(u64::to_le_bytes).concat());
    out.extend(0_u32.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32) + 32 * 3 * 4, 0);
    out
}

const MODEL_FILES: [&str; 4] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
/// Files of a model that the example lacks.
const FURTHER_FILES: [&str; 4] =
    ["generation_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"];
const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn opening_a_mutated_model_folder_never_panics_and_stays_bounded(
        file in prop::sample::select(MODEL_FILES.to_vec()), mutations in mutations(),
    ) {
        let whole = fs::read(golden("llama").join(file)).unwrap();
        let folder = folder("llama", Some((file, &mutated(&whole, &mutations))));
        open(folder.path(), bytes_in(folder.path()));
    }

    #[test]
    fn opening_a_mutated_sharded_model_never_panics_and_stays_bounded(mutations in mutations()) {
        let file = "model.safetensors.index.json";
        let whole = fs::read(golden("llama-bf16").join(file)).unwrap();
        let folder = folder("llama-bf16", Some((file, &mutated(&whole, &mutations))));
        open(folder.path(), bytes_in(folder.path()));
    }

    #[test]
    fn opening_a_mutated_adapter_never_panics_and_stays_bounded(
        name in prop::sample::select(vec!["llama-lora", "neox-lora"]),
        file in prop::sample::select(ADAPTER_FILES.to_vec()),
        mutations in mutations(),
    ) {
        let whole = fs::read(golden(name).join(file)).unwrap();
        let folder = folder(name, Some((file, &mutated(&whole, &mutations))));
        adapter(folder.path(), bytes_in(folder.path()));
    }

    #[test]
    fn opening_a_model_with_a_file_of_arbitrary_bytes_never_panics_and_stays_bounded(
        file in prop::sample::select([&MODEL_FILES[..], &FURTHER_FILES].concat()),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let folder = folder("llama", Some((file, &bytes)));
        open(folder.path(), bytes_in(folder.path()));
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn reading_a_mutated_artifact_never_panics_and_stays_bounded(mutations in mutations()) {
        let whole = LoraAdapter::artifact_of_folder(&golden("llama-lora")).unwrap();
        let bytes = mutated(&whole, &mutations);
        let _ = in_time(|| bounded_beside(bytes.len(), MEMORY_BESIDES_FILE, || LoraAdapter::from_artifact(&bytes)));
    }

    #[test]
    fn opening_a_mutated_gguf_file_never_panics_and_stays_bounded(mutations in mutations(), magic in any::<bool>()) {
        let mut bytes = mutated(&gguf(), &mutations);
        if magic && bytes.len() > 8 {
            bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, &bytes).unwrap();
        open(&path, bytes.len());
    }

    /// The checksum matches, as in a file by an attacker.
    #[test]
    fn reading_a_mutated_training_checkpoint_never_panics_and_stays_bounded(mutations in mutations()) {
        const BODY: usize = 32;
        let whole = training().to_bytes().unwrap();
        let hash = whole.windows(BODY).position(|window| {
            let at = window.as_ptr() as usize - whole.as_ptr() as usize;
            blake3::hash(&whole[at + BODY..]).as_bytes() == window
        });
        let start = hash.unwrap();
        let body = mutated(&whole[start + BODY..], &mutations);
        let bytes = [&whole[..start], blake3::hash(&body).as_bytes(), &body].concat();
        let _ = bounded_beside(bytes.len(), MEMORY_BESIDES_FILE, || TrainingCheckpoint::from_bytes(&bytes));
    }

    #[test]
    fn reading_a_mutated_tuning_checkpoint_never_panics_and_stays_bounded(mutations in mutations()) {
        let bytes = mutated(&tuning().to_bytes().unwrap(), &mutations);
        if let Ok(read) = bounded_beside(bytes.len(), MEMORY_BESIDES_FILE, || TuningCheckpoint::from_bytes(&bytes)) {
            prop_assert!(TuningCheckpoint::from_bytes(&read.to_bytes().unwrap()).is_ok());
        }
    }

    /// Templates are programs. They must neither run forever nor exhaust memory.
    #[test]
    fn arbitrary_chat_templates_terminate_in_bounded_memory(
        template in "(\\{% for m in messages %\\}|\\{% for i in range\\(99999999\\) %\\}|\\{% endfor %\\}|\\{\\{ m.content \\}\\}|\
            \\{\\{ 'x' \\* 999999999 \\}\\}|\\{% if loop.first %\\}|\\{% endif %\\}|\\{% set x = x ~ x ~ 'y' %\\}|\\{\\{ x \\}\\}|\
            \\{% macro f\\(\\) %\\}\\{\\{ f\\(\\) \\}\\}\\{% endmacro %\\}\\{\\{ f\\(\\) \\}\\}|\\{\\{ messages\\|tojson \\}\\}|[a-z{}% ]){0,8}",
    ) {
        let config = serde_json::json!({ "chat_template": template }).to_string();
        let folder = folder("llama", Some(("tokenizer_config.json", config.as_bytes())));
        let cache = tempfile::tempdir().unwrap();
        if let Ok(checkpoint) = Checkpoint::open(folder.path(), &options(&cache)) {
            let render = || PromptTemplate::Chat.render_prompt(&checkpoint.tokenizer, "why?");
            let _ = in_time(|| bounded_beside(config.len(), MEMORY_BESIDES_FILE, render));
        }
    }
}
