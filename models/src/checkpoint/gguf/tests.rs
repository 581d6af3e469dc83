#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "small whole numbers, and floats that must be equal bit for bit"
)]

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::blocks::BlockType;
use super::header::{Value, parse};
use super::*;
use crate::checkpoint::decoder::{Attention, Parallel};
use crate::checkpoint::{Checkpoint, OpenOptions, ReadingRules, TextTokenizer, family};

mod packed;

/// Writes GGUF files.
#[derive(Default)]
struct Writer {
    metadata: Vec<u8>,
    entries: u64,
    infos: Vec<u8>,
    tensors: u64,
    data: Vec<u8>,
}

impl Writer {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }

    fn set(&mut self, key: &str, value: &Value) -> &mut Self {
        Self::text(&mut self.metadata, key);
        self.entries += 1;
        let bytes = &mut self.metadata;
        let array = |bytes: &mut Vec<u8>, kind: u32, length: usize| {
            bytes.extend(9u32.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend((length as u64).to_le_bytes());
        };
        match value {
            Value::Integer(value) => {
                bytes.extend(11u32.to_le_bytes());
                bytes.extend(value.to_le_bytes());
            }
            Value::Float(value) => {
                bytes.extend(12u32.to_le_bytes());
                bytes.extend(value.to_le_bytes());
            }
            Value::Bool(value) => {
                bytes.extend(7u32.to_le_bytes());
                bytes.push((*value).into());
            }
            Value::Text(text) => {
                bytes.extend(8u32.to_le_bytes());
                Self::text(bytes, text);
            }
            Value::Texts(texts) => {
                array(bytes, 8, texts.len());
                texts.iter().for_each(|text| Self::text(bytes, text));
            }
            Value::Integers(values) => {
                array(bytes, 11, values.len());
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Value::Floats(values) => {
                array(bytes, 12, values.len());
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        self
    }

    /// Returns a tensor of row-major shape whose elements count up from `first`.
    fn counting(&mut self, name: &str, shape: &[usize], first: f32) -> &mut Self {
        let count = shape.iter().product::<usize>();
        let bytes: Vec<u8> = (0..count).flat_map(|index| (first + index as f32).to_le_bytes()).collect();
        self.tensor(name, shape, 0, &bytes)
    }

    fn tensor(&mut self, name: &str, shape: &[usize], code: u32, bytes: &[u8]) -> &mut Self {
        Self::text(&mut self.infos, name);
        self.infos.extend((shape.len() as u32).to_le_bytes());
        self.infos.extend(shape.iter().rev().flat_map(|dimension| (*dimension as u64).to_le_bytes()));
        self.infos.extend(code.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensors += 1;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(self.tensors.to_le_bytes());
        bytes.extend(self.entries.to_le_bytes());
        bytes.extend(&self.metadata);
        bytes.extend(&self.infos);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

fn texts(values: &[&str]) -> Value {
    Value::Texts(values.iter().map(|value| (*value).to_owned()).collect())
}

/// Hidden size 8, 2 heads of 4, 1 key-value head, 1 layer, 6 tokens.
fn described(family: &str) -> Writer {
    let mut writer = Writer::default();
    let key = |name: &str| format!("{family}.{name}");
    writer.set("general.architecture", &Value::Text(family.to_owned()));
    for (name, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 8),
        ("feed_forward_length", 12),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        writer.set(&key(name), &Value::Integer(value));
    }
    writer.set(&key("attention.layer_norm_rms_epsilon"), &Value::Float(1e-5));
    writer.set(&key("attention.layer_norm_epsilon"), &Value::Float(1e-5));
    writer.set("tokenizer.ggml.model", &Value::Text("gpt2".to_owned()));
    writer.set("tokenizer.ggml.pre", &Value::Text("smollm".to_owned()));
    writer.set("tokenizer.ggml.tokens", &texts(&["<s>", "a", "b", "ab", "Ġ", "1"]));
    writer.set("tokenizer.ggml.token_type", &Value::Integers(vec![3, 1, 1, 1, 1, 1]));
    writer.set("tokenizer.ggml.merges", &texts(&["a b"]));
    writer.set("tokenizer.ggml.bos_token_id", &Value::Integer(0));
    writer.set("tokenizer.ggml.eos_token_id", &Value::Integer(0));
    writer.set("tokenizer.ggml.padding_token_id", &Value::Integer(3));
    writer
}

fn llama() -> Writer {
    let mut writer = described("llama");
    writer
        .counting("token_embd.weight", &[6, 8], 0.0)
        .counting("output_norm.weight", &[8], 0.0)
        .counting("blk.0.attn_norm.weight", &[8], 0.0)
        .counting("blk.0.attn_q.weight", &[8, 8], 0.0)
        .counting("blk.0.attn_k.weight", &[4, 8], 0.0)
        .counting("blk.0.attn_v.weight", &[4, 8], 0.0)
        .counting("blk.0.attn_output.weight", &[8, 8], 0.0)
        .counting("blk.0.ffn_norm.weight", &[8], 0.0)
        .counting("blk.0.ffn_gate.weight", &[12, 8], 0.0)
        .counting("blk.0.ffn_up.weight", &[12, 8], 0.0)
        .counting("blk.0.ffn_down.weight", &[8, 12], 0.0);
    writer
}

fn neox() -> Writer {
    let mut writer = described("gptneox");
    writer.set("gptneox.rope.dimension_count", &Value::Integer(2));
    writer
        .counting("token_embd.weight", &[6, 8], 0.0)
        .counting("output.weight", &[6, 8], 0.0)
        .counting("blk.0.attn_qkv.weight", &[24, 8], 0.0)
        .counting("blk.0.attn_qkv.bias", &[24], 0.0)
        .counting("blk.0.attn_output.weight", &[8, 8], 0.0)
        .counting("blk.0.ffn_up.weight", &[12, 8], 0.0)
        .counting("blk.0.ffn_down.weight", &[8, 12], 0.0);
    for norm in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        writer.counting(&format!("{norm}.weight"), &[8], 0.0).counting(&format!("{norm}.bias"), &[8], 0.0);
    }
    for (name, length) in [("attn_output", 8), ("ffn_up", 12), ("ffn_down", 8)] {
        writer.counting(&format!("blk.0.{name}.bias"), &[length], 0.0);
    }
    writer
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("model.gguf"), bytes).expect("write");
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("model.gguf")
    }

    fn open(&self) -> Result<Checkpoint, ModelError> {
        self.open_as(WeightForm::F32)
    }

    fn open_as(&self, form: WeightForm) -> Result<Checkpoint, ModelError> {
        let options = OpenOptions {
            layers: None,
            cache_dir: self.folder.path().join("cache"),
            reading: ReadingRules::default(),
        };
        Checkpoint::open_as(&self.file(), &options, form)
    }

    fn refusal(&self) -> String {
        self.open().expect_err("the value must be refused").to_string()
    }
}

/// Returns the rows of a matrix of 8 columns whose elements counted up from 0, by number.
fn rows(values: &[f32]) -> Vec<usize> {
    values.as_chunks::<8>().0.iter().map(|row| row[0] as usize / 8).collect()
}

#[test]
fn every_block_type_dequantises_to_the_reference() {
    let golden: Json =
        serde_json::from_str(include_str!("../../../tests/golden/gguf_blocks.json")).expect("golden");
    let golden = golden.as_object().expect("kinds");
    assert_eq!(golden.len(), 15);
    for (name, case) in golden {
        let code = case["code"].as_u64().expect("code");
        let kind = BlockType::from_code(u32::try_from(code).expect("code")).expect("a kind");
        assert_eq!(kind.name(), name);
        let hex = case["bytes"].as_str().expect("bytes");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
            .collect();
        let expected: Vec<u32> = case["float_bits"]
            .as_array()
            .expect("floats")
            .iter()
            .map(|bits| bits.as_u64().expect("bits") as u32)
            .collect();
        let mut floats = Vec::new();
        kind.dequantise(&bytes, &mut floats);
        assert_eq!(floats.len(), expected.len(), "{name}");
        for (index, (float, expected)) in floats.iter().zip(expected).enumerate() {
            // Equal but for the sign of zero.
            let expected = f32::from_bits(expected);
            assert!(*float == expected, "{name} element {index}: {float} is not {expected}");
        }
    }
}

/// Files of models without a padding token name the end token. Their reward models are read at that token.
#[test]
fn a_padding_token_that_ends_texts_is_no_padding() {
    let mut writer = llama();
    writer.set("tokenizer.ggml.padding_token_id", &Value::Integer(0));
    let checkpoint = Place::new(&writer.bytes()).open().expect("checkpoint");
    assert_eq!((checkpoint.config.pad_token_id, &checkpoint.config.eos_token_ids[..]), (None, &[0][..]));
}

#[test]
fn llama_names_and_row_order_are_restored() {
    let place = Place::new(&llama().bytes());
    let checkpoint = place.open().expect("checkpoint");
    assert_eq!(checkpoint.config.family.model_type, "llama");
    assert!(checkpoint.config.tied_embeddings);
    assert_eq!((checkpoint.config.vocab_size, checkpoint.config.kv_heads), (6, 1));
    assert_eq!(checkpoint.config.pad_token_id, Some(3));
    let read = |name: &str| checkpoint.weights.read_f32(name).expect("weights");
    assert_eq!(rows(&read("model.layers.0.self_attn.q_proj.weight")), [0, 2, 1, 3, 4, 6, 5, 7]);
    assert_eq!(rows(&read("model.layers.0.self_attn.k_proj.weight")), [0, 2, 1, 3]);
    assert_eq!(rows(&read("model.layers.0.self_attn.v_proj.weight")), [0, 1, 2, 3]);
    assert_eq!(rows(&read("model.embed_tokens.weight")), [0, 1, 2, 3, 4, 5]);
}

/// The model of [`llama`] as `gguf-split` writes it: the metadata in the first of three parts. The first part
/// has `first` tensors.
fn split_llama(first: usize) -> Vec<Vec<u8>> {
    let tensors: [(&str, &[usize]); 11] = [
        ("token_embd.weight", &[6, 8]),
        ("output_norm.weight", &[8]),
        ("blk.0.attn_norm.weight", &[8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.attn_k.weight", &[4, 8]),
        ("blk.0.attn_v.weight", &[4, 8]),
        ("blk.0.attn_output.weight", &[8, 8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("blk.0.ffn_gate.weight", &[12, 8]),
        ("blk.0.ffn_up.weight", &[12, 8]),
        ("blk.0.ffn_down.weight", &[8, 12]),
    ];
    let ranges = [0..first, first..8, 8..11];
    let part = |(number, range): (i64, std::ops::Range<usize>)| {
        let mut writer = if number == 0 { described("llama") } else { Writer::default() };
        writer
            .set("split.no", &Value::Integer(number))
            .set("split.count", &Value::Integer(3))
            .set("split.tensors.count", &Value::Integer(11));
        tensors[range].iter().for_each(|(name, shape)| {
            writer.counting(name, shape, 0.0);
        });
        writer.bytes()
    };
    (0..).zip(ranges).map(part).collect()
}

/// Writes the parts under the names of `gguf-split`.
fn put_parts(folder: &std::path::Path, parts: &[Vec<u8>]) -> Vec<PathBuf> {
    let put = |(number, bytes): (usize, &Vec<u8>)| {
        let path = folder.join(format!("m-{number:05}-of-{:05}.gguf", parts.len()));
        fs::write(&path, bytes).expect("write");
        path
    };
    (1..).zip(parts).map(put).collect()
}

#[test]
fn a_split_model_is_read_as_the_whole_one() {
    let whole = Place::new(&llama().bytes());
    let whole = (whole.open().expect("checkpoint"), whole);
    // With 0 tensors in the first part, as `gguf-split --no-tensor-first-split` writes it.
    for first in [0, 3] {
        let folder = tempfile::tempdir().expect("folder");
        let parts = put_parts(folder.path(), &split_llama(first));
        let options = OpenOptions {
            layers: None,
            cache_dir: folder.path().join("cache"),
            reading: ReadingRules::default(),
        };
        let open = |path: &std::path::Path| Checkpoint::open(path, &options);
        let split = open(&parts[0]).expect("the first part");
        assert_eq!(split.config, whole.0.config);
        for (name, _) in whole.0.weights.iter() {
            let read = |checkpoint: &Checkpoint| checkpoint.weights.read_f32(name).expect("weights");
            assert_eq!(read(&split), read(&whole.0), "{name}");
        }
        assert_eq!(open(folder.path()).expect("the folder").fingerprint, split.fingerprint);
        // A change in any part changes the fingerprint.
        let mut bytes = fs::read(&parts[2]).expect("bytes");
        let at = bytes.len() - 40;
        bytes[at] ^= 1;
        fs::write(&parts[2], bytes).expect("write");
        assert_ne!(open(&parts[0]).expect("the first part").fingerprint, split.fingerprint);

        let reason = open(&parts[1]).expect_err("the second part").to_string();
        assert!(reason.contains("part 2") && reason.contains("m-00001-of-00003.gguf"), "{reason}");
        fs::copy(&parts[2], &parts[1]).expect("copy");
        let reason = open(&parts[0]).expect_err("another part").to_string();
        assert!(reason.contains("m-00002-of-00003.gguf") && reason.contains("not part 2"), "{reason}");
        fs::remove_file(&parts[1]).expect("remove");
        let reason = open(&parts[0]).expect_err("a missing part").to_string();
        assert!(
            reason.contains("m-00002-of-00003.gguf is missing") && reason.contains("--merge"),
            "{reason}"
        );
    }
}

#[test]
fn parts_under_other_names_and_joined_files_are_told_apart() {
    let parts = split_llama(3);
    let reason = Place::new(&parts[0]).refusal();
    assert!(reason.contains("one of 3 parts") && reason.contains("--merge"), "{reason}");
    // A joined file keeps the metadata of its first part.
    let mut joined = llama();
    joined
        .set("split.no", &Value::Integer(0))
        .set("split.count", &Value::Integer(3))
        .set("split.tensors.count", &Value::Integer(11));
    Place::new(&joined.bytes()).open().expect("a whole model");
}

#[test]
fn other_things_in_gguf_files_are_named() {
    for (kind, word) in [("adapter", "LoRA adapter"), ("mmproj", "mmproj"), ("imatrix", "imatrix")] {
        let mut writer = Writer::default();
        writer.set("general.type", &Value::Text(kind.to_owned()));
        writer.set("general.architecture", &Value::Text("llama".to_owned()));
        let reason = Place::new(&writer.bytes()).refusal();
        assert!(reason.contains(word) && reason.contains("not a model"), "{reason}");
    }
    let mut model = llama();
    model.set("general.type", &Value::Text("model".to_owned()));
    Place::new(&model.bytes()).open().expect("a model");
}

#[test]
fn neox_queries_keys_and_values_are_regrouped_by_head() {
    let place = Place::new(&neox().bytes());
    let checkpoint = place.open().expect("checkpoint");
    assert_eq!(checkpoint.config.decoder.ropes[0].rotary_dims, 2);
    let decoder = &checkpoint.config.decoder;
    assert!(matches!(decoder.attention, Attention::ByHead(linear) if linear.bias));
    assert_eq!(decoder.parallel, Some(Parallel::OwnNorms));
    // In the file: queries of heads 0 and 1 (rows 0 to 7), keys (8 to 15), values (16 to 23).
    let expected = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23];
    let weight =
        checkpoint.weights.read_f32("gpt_neox.layers.0.attention.query_key_value.weight").expect("weight");
    assert_eq!(rows(&weight), expected);
    let bias = checkpoint.weights.read_f32("gpt_neox.layers.0.attention.query_key_value.bias").expect("bias");
    assert_eq!(bias, expected.map(|row| row as f32));
}

#[test]
fn digits_are_split_and_special_tokens_are_matched() {
    let checkpoint = Place::new(&llama().bytes()).open().expect("checkpoint");
    let ids = |text: &str| checkpoint.tokenizer.encode(text, true).expect("ids");
    assert_eq!(ids("ab 11<s>a"), [3, 4, 5, 5, 0, 1]);
    assert_eq!(checkpoint.tokenizer.decode(&[3, 4, 5, 0], true).expect("text"), "ab 1");
}

/// Returns the metadata of a tokenizer of the golden file.
fn small_tokenizer(case: &Json) -> Header {
    let mut header = Header::default();
    let mut set = |key: &str, value: Value| header.metadata.insert(format!("tokenizer.ggml.{key}"), value);
    set("model", Value::Text(case["model"].as_str().expect("model").to_owned()));
    set("tokens", Value::Texts(serde_json::from_value(case["tokens"].clone()).expect("tokens")));
    set("token_type", Value::Integers(serde_json::from_value(case["types"].clone()).expect("types")));
    set("bos_token_id", Value::Integer(1));
    set("unknown_token_id", Value::Integer(0));
    if let Some(pre) = case["pre"].as_str() {
        set("pre", Value::Text(pre.to_owned()));
        set("merges", Value::Texts(serde_json::from_value(case["merges"].clone()).expect("merges")));
    } else {
        set("scores", Value::Floats(serde_json::from_value(case["scores"].clone()).expect("scores")));
    }
    header
}

fn golden_tokenizers() -> (Vec<String>, Vec<Json>) {
    let golden: Json =
        serde_json::from_str(include_str!("../../../tests/golden/tokenizer.json")).expect("golden");
    let texts = serde_json::from_value(golden["texts"].clone()).expect("texts");
    (texts, golden["small"].as_array().expect("cases").clone())
}

fn built(header: &Header, reading: ReadingRules) -> TextTokenizer {
    let family = family::by_model_type("llama").expect("a family");
    tokenizer::build(header, family, reading).expect("a tokenizer")
}

/// Of SentencePiece's tokenizers, only the first reading rules agree: see the next test.
#[test]
fn tokenizers_of_every_splitting_agree_with_transformers() {
    let (wanted, cases) = golden_tokenizers();
    for case in cases {
        let is_sentence_piece = case["pre"].is_null();
        let reading = if is_sentence_piece { ReadingRules::V1 } else { ReadingRules::V2 };
        let tokenizer = built(&small_tokenizer(&case), reading);
        let ids: Vec<Vec<u32>> = serde_json::from_value(case["ids"].clone()).expect("ids");
        let decoded: Vec<String> = serde_json::from_value(case["decoded"].clone()).expect("texts");
        for ((text, ids), decoded) in wanted.iter().zip(&ids).zip(decoded) {
            assert_eq!(&tokenizer.encode(text, true).expect("ids"), ids, "{} {text:?}", case["pre"]);
            assert_eq!(tokenizer.decode(ids, true).expect("text"), decoded, "{} {text:?}", case["pre"]);
        }
    }
}

/// llama.cpp prepends the space to the text itself.
#[test]
fn a_space_precedes_every_text_of_sentence_piece() {
    let (texts, cases) = golden_tokenizers();
    let case = cases.iter().find(|case| case["pre"].is_null()).expect("a case");
    let mut header = small_tokenizer(case);
    let first = built(&header, ReadingRules::V2);
    header.metadata.insert("tokenizer.ggml.add_space_prefix".to_owned(), Value::Bool(false));
    let without = built(&header, ReadingRules::V2);
    let ids = |tokenizer: &TextTokenizer, text: &str| tokenizer.encode(text, true).expect("ids");
    for text in texts.iter().filter(|text| !text.is_empty() && !text.contains('<')) {
        assert_eq!(ids(&first, text), ids(&without, &format!(" {text}")), "{text:?}");
        assert_eq!(first.decode(&ids(&first, text), true).expect("text"), *text);
    }
    let after_special = [&ids(&first, "a")[..], &[1], &ids(&first, "a")[1..]].concat();
    assert_eq!(ids(&first, "a<s>a"), after_special);
}

#[test]
fn weights_are_dequantised_once_and_again_after_damage() {
    let place = Place::new(&llama().bytes());
    let tensor = place.open().expect("checkpoint").weights.get("model.norm.weight").expect("norm").clone();
    let made = fs::metadata(&tensor.file).expect("file").modified().expect("time");
    place.open().expect("checkpoint");
    assert_eq!(fs::metadata(&tensor.file).expect("file").modified().expect("time"), made);

    let whole = fs::read(&tensor.file).expect("bytes");
    fs::write(&tensor.file, &whole[..whole.len() / 2]).expect("damage");
    fs::write(tensor.file.with_file_name("unfinished-left"), "x").expect("left over");
    place.open().expect("checkpoint");
    assert_eq!(fs::read(&tensor.file).expect("bytes"), whole);
    assert!(!tensor.file.with_file_name("unfinished-left").exists());

    let mut changed = whole.clone();
    *changed.last_mut().expect("a byte") ^= 1;
    fs::write(&tensor.file, &changed).expect("damage");
    place.open().expect("checkpoint");
    assert_eq!(fs::read(&tensor.file).expect("bytes"), whole, "a flipped bit in a weight");
}

#[test]
fn concurrent_starts_dequantise_once() {
    let place = Place::new(&llama().bytes());
    let fingerprints: Vec<String> = std::thread::scope(|scope| {
        let starters: Vec<_> =
            (0..4).map(|_| scope.spawn(|| place.open().expect("checkpoint").fingerprint)).collect();
        starters.into_iter().map(|starter| starter.join().expect("joined")).collect()
    });
    assert!(fingerprints.iter().all(|fingerprint| *fingerprint == fingerprints[0]));
}

#[test]
fn unsupported_files_are_refused_by_name() {
    let mut writer = llama();
    writer.tensor("blk.0.attn_q.bias", &[256], 18, &[0; 98]);
    let reason = Place::new(&writer.bytes()).refusal();
    assert!(reason.contains("blk.0.attn_q.bias") && reason.contains("IQ3"), "{reason}");

    let mut writer = llama();
    writer.counting("blk.0.ffn_gate_exps.weight", &[2, 2], 0.0);
    assert!(Place::new(&writer.bytes()).refusal().contains("ffn_gate_exps"));

    let mut writer = llama();
    writer.set("tokenizer.ggml.pre", &Value::Text("unheard-of".to_owned()));
    assert!(Place::new(&writer.bytes()).refusal().contains("unheard-of"));

    let mut writer = llama();
    writer.set("general.architecture", &Value::Text("mamba".to_owned()));
    assert!(Place::new(&writer.bytes()).refusal().contains("mamba"));

    let mut writer = llama();
    writer.set("llama.embedding_length", &Value::Integer(16));
    assert!(Place::new(&writer.bytes()).refusal().contains("shape"));
}

#[test]
fn stored_rotary_divisors_divide_the_frequencies() {
    let mut writer = llama();
    writer.counting("rope_freqs.weight", &[2], 1.0);
    let config = Place::new(&writer.bytes()).open().expect("checkpoint").config;
    let frequencies = config.decoder.ropes[0].inverse_frequencies();
    assert!(
        (frequencies[0] - 1.0).abs() < 1e-12 && (frequencies[1] - 0.01 / 2.0).abs() < 1e-12,
        "{frequencies:?}"
    );
}

#[test]
fn a_truncated_file_is_an_error() {
    let bytes = llama().bytes();
    for cut in 0..bytes.len() - 32 {
        assert!(parse(&bytes[..cut], cut as u64).is_err(), "cut at {cut}");
    }
    assert!(parse(&bytes[..], bytes.len() as u64).is_ok());
}

#[test]
fn a_file_with_huge_claims_is_refused_at_once() {
    let mut writer = described("llama");
    writer.tensor("token_embd.weight", &[1 << 40, 1 << 40], 0, &[]);
    assert!(parse(&writer.bytes()[..], 1 << 20).is_err());
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    Writer::text(&mut bytes, "k");
    bytes.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
    bytes.extend((1u64 << 24).to_le_bytes());
    assert!(parse(&bytes[..], bytes.len() as u64).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        flips in prop::collection::vec((0usize..2000, any::<u8>()), 1..6)
    ) {
        let mut bytes = llama().bytes();
        for (at, value) in flips {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        let _ = Place::new(&bytes).open();
    }
}
