//! Packed weights against the dequantised ones.
//!
//! Without packed layouts, `MatMulNBits` computes in 32-bit floats. Its results then differ from those of the
//! dequantised weights by the rounding of 32-bit sums only, if every number is the same.

use std::path::Path;

use crate::checkpoint::gguf::header;
use crate::error::InvalidKind;
use crate::random::Random;
use crate::required::required;
use crate::runtime::{CancelFlag, OnnxRuntime, Provider, SessionOptions};
use crate::scoring::PolicyScorer;

use super::*;

/// Largest difference of a logit, relative to the greatest logit. Constants of blocks cancel a part of the
/// sums, which costs digits.
const TOLERANCE: f32 = 2e-5;

/// A quantised type with random integers.
struct Kind {
    code: u32,
    /// The places of half-precision numbers in a block, with their values. All weights are then below 1.
    halves: &'static [(usize, f32)],
}

const SHORT_BLOCKS: [Kind; 6] = [
    Kind { code: 2, halves: &[(0, 0.02)] },
    Kind { code: 3, halves: &[(0, 0.02), (2, -0.15)] },
    Kind { code: 6, halves: &[(0, 0.01)] },
    Kind { code: 7, halves: &[(0, 0.01), (2, -0.15)] },
    Kind { code: 8, halves: &[(0, 0.0015)] },
    Kind { code: 20, halves: &[(0, 0.002)] },
];
const LONG_BLOCKS: [Kind; 6] = [
    Kind { code: 10, halves: &[(80, 0.005), (82, 0.01)] },
    Kind { code: 11, halves: &[(108, 0.0016)] },
    Kind { code: 12, halves: &[(0, 0.0003), (2, 0.004)] },
    Kind { code: 13, halves: &[(0, 0.0002), (2, 0.004)] },
    Kind { code: 14, halves: &[(208, 0.0001)] },
    Kind { code: 23, halves: &[(0, 0.0001)] },
];

impl Kind {
    fn block_type(&self) -> BlockType {
        BlockType::from_code(self.code).expect("a type")
    }

    /// Returns random blocks of a matrix.
    fn blocks(&self, shape: &[usize], random: &mut Random) -> Vec<u8> {
        let (_, block_bytes) = self.block_type().block();
        let bytes = self.block_type().bytes_of(shape).expect("whole blocks");
        let mut bytes = vec![0; usize::try_from(bytes).expect("small")];
        random.fill(&mut bytes);
        for block in bytes.chunks_exact_mut(block_bytes) {
            for &(place, value) in self.halves {
                // Scales of both signs occur.
                let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
                let half = half::f16::from_f32(sign * value * (0.5 + random.unit() as f32 / 2.0));
                block[place..place + 2].copy_from_slice(&half.to_le_bytes());
            }
        }
        bytes
    }
}

/// Returns a model's file with its matrices in blocks of a type, where rows are whole blocks.
fn requantised(file: &Path, kind: &Kind) -> Vec<u8> {
    let header = header::read(file).expect("a header");
    let (mut writer, mut random) = (Writer::default(), Random::new(u64::from(kind.code)));
    for (key, value) in &header.metadata {
        writer.set(key, value);
    }
    let (elements, _) = kind.block_type().block();
    for (name, info) in &header.tensors {
        let matrix = info.shape.len() == 2 && info.columns().is_multiple_of(elements);
        if matrix && !name.starts_with("position") && !name.contains("norm") {
            writer.tensor(name, &info.shape, kind.code, &kind.blocks(&info.shape, &mut random));
        } else {
            assert!([BlockType::F32, BlockType::Bf16].contains(&info.block_type), "{name}");
            let code = if info.block_type == BlockType::F32 { 0 } else { 30 };
            writer.tensor(name, &info.shape, code, &header.read_tensor(info).expect("bytes"));
        }
    }
    writer.bytes()
}

fn runtime() -> Option<&'static OnnxRuntime> {
    required(OnnxRuntime::load(None))
}

fn session_options() -> SessionOptions {
    SessionOptions { provider: Provider::Cpu, threads: 1, rows: 2, ..SessionOptions::default() }
}

fn logits(runtime: &'static OnnxRuntime, checkpoint: &Checkpoint) -> Vec<f32> {
    let mut scorer = PolicyScorer::open(runtime, checkpoint, None, &session_options()).expect("a session");
    let vocabulary = checkpoint.config.vocab_size as u32;
    let ids: Vec<u32> = (0..12).map(|place| place * 7 % vocabulary).collect();
    scorer.logits(&ids, &CancelFlag::new()).expect("logits")
}

/// Returns the largest difference of the logits of packed weights, relative to the greatest logit.
fn difference(runtime: &'static OnnxRuntime, place: &Place) -> f32 {
    let packed = place.open_as(WeightForm::AsStored).expect("packed weights");
    assert!(packed.weights.packed_count() > 0);
    let expected = logits(runtime, &place.open().expect("dequantised weights"));
    let greatest = expected.iter().fold(0.0_f32, |greatest, logit| greatest.max(logit.abs()));
    let pairs = logits(runtime, &packed).into_iter().zip(&expected).map(|(seen, logit)| (seen - logit).abs());
    pairs.fold(0.0, f32::max) / greatest
}

fn twin(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families").join(family).join("model.gguf")
}

/// Rows are interleaved in Llama, transposed in GPT-2, regrouped by head in GPT-NeoX; Phi-3 joins its
/// projections, and Gemma stores its norms plus one. Rows of 48 columns are no whole blocks.
#[test]
fn packed_weights_of_every_family_are_the_dequantised_numbers() {
    let Some(runtime) = runtime() else { return };
    let mut wrong = Vec::new();
    for family in ["llama", "gpt2", "gpt_neox", "phi3", "gemma", "cohere", "mistral", "qwen3", "olmo2"] {
        for kind in &SHORT_BLOCKS {
            let found = difference(runtime, &Place::new(&requantised(&twin(family), kind)));
            if found.is_nan() || found >= TOLERANCE {
                wrong.push(format!("{family} in {}: {found}", kind.block_type().name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Two heads of 128, and rows of one block of 256.
fn wide_llama(kind: &Kind) -> Vec<u8> {
    let (mut writer, mut random) = (described("llama"), Random::new(u64::from(kind.code)));
    for (name, value) in [("embedding_length", 256), ("feed_forward_length", 256)] {
        writer.set(&format!("llama.{name}"), &Value::Integer(value));
    }
    for norm in ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"] {
        let ones: Vec<u8> = (0..256).flat_map(|_| 1.0_f32.to_le_bytes()).collect();
        writer.tensor(norm, &[256], 0, &ones);
    }
    for (name, rows) in [
        ("token_embd", 6),
        ("blk.0.attn_q", 256),
        ("blk.0.attn_k", 128),
        ("blk.0.attn_v", 128),
        ("blk.0.attn_output", 256),
        ("blk.0.ffn_gate", 256),
        ("blk.0.ffn_up", 256),
        ("blk.0.ffn_down", 256),
    ] {
        let shape = [rows, 256];
        writer.tensor(&format!("{name}.weight"), &shape, kind.code, &kind.blocks(&shape, &mut random));
    }
    writer.bytes()
}

#[test]
fn packed_weights_of_every_type_are_the_dequantised_numbers() {
    let Some(runtime) = runtime() else { return };
    let mut wrong = Vec::new();
    for kind in SHORT_BLOCKS.iter().chain(&LONG_BLOCKS) {
        let found = difference(runtime, &Place::new(&wide_llama(kind)));
        if found.is_nan() || found >= TOLERANCE {
            wrong.push(format!("{}: {found}", kind.block_type().name()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn packed_weights_need_no_dequantised_copy_and_serve_generation_only() {
    let place = Place::new(&wide_llama(&SHORT_BLOCKS[0]));
    let checkpoint = place.open_as(WeightForm::AsStored).expect("packed weights");
    assert!(!place.folder.path().join("cache/dequantised").exists());
    assert_eq!(checkpoint.fingerprint, place.open().expect("dequantised").fingerprint);

    let name = "model.layers.0.self_attn.q_proj.weight";
    assert!(checkpoint.weights.contains(name) && checkpoint.weights.packed(name).is_some());
    let error = checkpoint.weights.get(name).expect_err("no floats");
    assert!(error.to_string().contains("f32 weights"), "{error}");
}

#[test]
fn files_without_quantised_matrices_are_refused_with_the_way_out() {
    let file = Place::new(&fs::read(twin("llama")).expect("the twin"));
    let error = file.open_as(WeightForm::AsStored).expect_err("16-bit floats");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Setting), "{error}");
    assert!(error.to_string().contains("int8"), "{error}");
}

#[test]
fn packed_weights_on_a_gpu_are_refused() {
    let Some(runtime) = runtime() else { return };
    let place = Place::new(&wide_llama(&SHORT_BLOCKS[0]));
    let checkpoint = place.open_as(WeightForm::AsStored).expect("packed weights");
    let cuda = SessionOptions { provider: Provider::Cuda, ..session_options() };
    let error = PolicyScorer::open(runtime, &checkpoint, None, &cuda).err().expect("no session");
    assert!(error.to_string().contains("CPU only"), "{error}");
    let auto = SessionOptions { provider: Provider::Auto, ..session_options() };
    PolicyScorer::open(runtime, &checkpoint, None, &auto).map(drop).expect("the CPU");
}
