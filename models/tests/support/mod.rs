//! ONNX Runtime, models and reference outputs for the tests.

#![allow(dead_code, reason = "each test program uses some of it")]

#[path = "../../../tests/support/required.rs"]
pub(crate) mod required;

pub(crate) mod families;

use std::path::{Path, PathBuf};

use dissent_domain::weight_form::WeightForm;
use dissent_models::adapter::LoraAdapter;
use dissent_models::cache::{cache_dir, models_dir};
use dissent_models::checkpoint::{Checkpoint, OpenOptions, ReadingRules};
use dissent_models::runtime::{OnnxRuntime, Provider, SessionOptions};
use safetensors::SafeTensors;

use required::{file, required};

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Requires ONNX Runtime.
pub(crate) fn runtime() -> Option<&'static OnnxRuntime> {
    required(OnnxRuntime::load(None))
}

pub(crate) fn open(path: &Path, layers: Option<u32>) -> Checkpoint {
    open_as(path, layers, WeightForm::F32)
}

pub(crate) fn open_as(path: &Path, layers: Option<u32>, form: WeightForm) -> Checkpoint {
    let cache_dir = cache_dir().expect("a cache folder");
    let options = OpenOptions { layers, cache_dir, reading: ReadingRules::default() };
    Checkpoint::open_as(path, &options, form).expect("the checkpoint opens")
}

/// Requires SmolLM2, and opens it with its first `layers`.
pub(crate) fn smollm2(layers: Option<u32>) -> Option<Checkpoint> {
    Some(open(&smollm2_file()?, layers))
}

/// Requires the file of SmolLM2.
pub(crate) fn smollm2_file() -> Option<PathBuf> {
    let path = models_dir(&cache_dir().expect("a cache folder")).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    required(file(path).map_err(|reason| format!("{reason}: run `cargo xtask fetch`")))
}

pub(crate) fn tiny(name: &str) -> Checkpoint {
    open(&golden(name), None)
}

pub(crate) fn adapter(name: &str) -> LoraAdapter {
    LoraAdapter::open(&golden(name)).expect("the adapter opens")
}

pub(crate) fn options(rows: usize) -> SessionOptions {
    SessionOptions { provider: Provider::Cpu, rows, ..SessionOptions::default() }
}

/// PyTorch's outputs for a tiny model: token ids, logits of each, greedy continuations.
pub(crate) struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    pub(crate) fn of(name: &str) -> Self {
        Self {
            bytes: std::fs::read(golden(name).join("expected.safetensors")).expect("the reference figures"),
        }
    }

    fn tensor(&self, name: &str) -> Option<Vec<u8>> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        Some(tensors.tensor(name).ok()?.data().to_vec())
    }

    pub(crate) fn ids(&self, name: &str) -> Option<Vec<u32>> {
        let bytes = self.tensor(name)?;
        let id = |chunk: &[u8; 8]| u32::try_from(i64::from_le_bytes(*chunk)).expect("a token id");
        Some(bytes.as_chunks::<8>().0.iter().map(id).collect())
    }

    pub(crate) fn numbers(&self, name: &str) -> Option<Vec<f32>> {
        let bytes = self.tensor(name)?;
        Some(bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
    }
}
