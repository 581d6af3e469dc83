//! The predicted peak memory of commands, against the peak of the same commands.
//!
//! The short profile has a model of 30 MiB; `DISSENT_MEMORY_LONG=1` adds SmolLM2-135M and a model of
//! Qwen2.5-0.5B's shape, which take minutes and up to 6 GiB.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dissent_models::cache::{cache_dir, models_dir};
use dissent_models::runtime::OnnxRuntime;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::random::Random;
use crate::support::required::{file, optional, required};

/// The largest accepted error of a prediction, as a share of the measured peak.
const ERROR_MAX: f64 = 0.1;
/// Environment variable: at `1`, large models are measured too.
const LONG: &str = "DISSENT_MEMORY_LONG";

/// The sizes of a model with random weights.
struct Shape {
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    inner: usize,
    vocabulary: usize,
    /// Whether numbers have 16 bits (bf16), not 32.
    is_bf16: bool,
}

const SMALL: Shape =
    Shape { layers: 6, hidden: 256, heads: 4, kv_heads: 2, inner: 768, vocabulary: 8192, is_bf16: false };

/// Qwen2.5-0.5B.
const QWEN: Shape = Shape {
    layers: 24,
    hidden: 896,
    heads: 14,
    kv_heads: 2,
    inner: 4864,
    vocabulary: 151_936,
    is_bf16: true,
};

impl Shape {
    /// Writes a model of the family Qwen 2 with a small tokenizer.
    fn write(&self, folder: &Path) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/golden/families");
        fs::create_dir_all(folder).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(golden.join(name), folder.join(name)).unwrap();
        }
        let dtype = if self.is_bf16 { "bfloat16" } else { "float32" };
        let config = json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-6,
            "hidden_size": self.hidden, "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096, "rope_theta": 1e6, "tie_word_embeddings": true, "use_sliding_window": false,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "dtype": dtype,
        });
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        self.write_weights(&folder.join("model.safetensors")).unwrap();
    }

    /// Writes a safetensors file: the length of the header, the header, the numbers.
    fn write_weights(&self, path: &Path) -> std::io::Result<()> {
        let (tensors, width) = (self.tensors(), if self.is_bf16 { 2 } else { 4 });
        let (mut header, mut offset) = (serde_json::Map::new(), 0);
        for (name, shape) in &tensors {
            let end = offset + width * shape.iter().product::<usize>();
            let dtype = if self.is_bf16 { "BF16" } else { "F32" };
            header
                .insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}));
            offset = end;
        }
        // Spaces after the header align the numbers.
        let header = Value::Object(header).to_string();
        let header = format!("{header:width$}", width = header.len().next_multiple_of(8));
        let mut out = BufWriter::new(fs::File::create(path)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        let mut random = Random::new(1);
        for (_, shape) in &tensors {
            for _ in 0..shape.iter().product() {
                // Norms and biases are vectors; these values keep all outputs finite.
                #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
                let number = if shape.len() == 1 { 1.0 } else { (0.06 * (random.unit() - 0.5)) as f32 };
                // A bf16 is the upper half of a 32-bit float.
                out.write_all(&number.to_le_bytes()[4 - width..])?;
            }
        }
        out.flush()
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, keys) = (self.hidden, self.hidden / self.heads * self.kv_heads);
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        for layer in 0..self.layers {
            let of_layer = [
                ("input_layernorm.weight", vec![hidden]),
                ("post_attention_layernorm.weight", vec![hidden]),
                ("self_attn.q_proj.weight", vec![hidden, hidden]),
                ("self_attn.q_proj.bias", vec![hidden]),
                ("self_attn.k_proj.weight", vec![keys, hidden]),
                ("self_attn.k_proj.bias", vec![keys]),
                ("self_attn.v_proj.weight", vec![keys, hidden]),
                ("self_attn.v_proj.bias", vec![keys]),
                ("self_attn.o_proj.weight", vec![hidden, hidden]),
                ("mlp.gate_proj.weight", vec![self.inner, hidden]),
                ("mlp.up_proj.weight", vec![self.inner, hidden]),
                ("mlp.down_proj.weight", vec![hidden, self.inner]),
            ];
            tensors.extend(of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
        }
        tensors
    }
}

/// A folder with data, and the commands that are measured.
struct Bench {
    folder: TempDir,
    runtime: PathBuf,
}

impl Bench {
    /// Requires ONNX Runtime, and the process statistics of Linux.
    fn new() -> Option<Self> {
        let runtime = required(OnnxRuntime::load(None))?.path.clone();
        required(file(PathBuf::from("/proc/self/status")))?;
        let bench = Self { folder: tempfile::tempdir().unwrap(), runtime };
        // One letter is one token of the small tokenizer.
        let text = |seed: u64, length: usize| -> String {
            let mut random = Random::new(seed);
            (0..length).map(|_| char::from(b"bcdfgkmp"[random.below(8)])).collect()
        };
        let rows = |row: &dyn Fn(u64) -> Value| (0..8).map(|seed| format!("{}\n", row(seed))).collect();
        let write = |name: &str, lines: String| fs::write(bench.path(name), lines).unwrap();
        write(
            "prompts.jsonl",
            rows(&|seed| json!({"prompt_id": format!("p{seed}"), "prompt": text(seed, 96)})),
        );
        let completion = |seed| json!({"text": text(seed + 50, 64)});
        write(
            "answers.jsonl",
            rows(&|seed| {
                json!({
                    "prompt_id": format!("p{seed}"), "prompt": text(seed, 64), "completions": [completion(seed)],
                })
            }),
        );
        write("sft.jsonl", rows(&|seed| json!({"prompt": text(seed, 64), "completion": text(seed + 9, 64)})));
        write(
            "pairs.jsonl",
            rows(&|seed| {
                json!({
                    "prompt": text(seed, 64), "chosen": text(seed + 9, 64), "rejected": text(seed + 99, 64),
                })
            }),
        );
        Some(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.args(arguments).env("ORT_DYLIB_PATH", &self.runtime).stderr(Stdio::piped());
        command
    }

    /// Runs a command with and without `--dry-run`, and compares the peaks.
    fn check(&self, what: &str, arguments: &[&str]) {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| match argument.strip_prefix('@') {
                Some(name) => self.path(name).to_str().unwrap().to_owned(),
                None => (*argument).to_owned(),
            })
            .chain(["--provider".to_owned(), "cpu".to_owned()])
            .collect();
        let mut dry = self.command(&arguments);
        let dry = dry.arg("--dry-run").output().unwrap();
        assert!(dry.status.success(), "{what}: {}", String::from_utf8_lossy(&dry.stderr));
        let forecast: Value = serde_json::from_slice(&dry.stdout).unwrap();
        let predicted = forecast["process"]["peak_bytes"].as_f64().unwrap();
        let begun = Instant::now();
        let measured = self.measured(what, &arguments);
        let error = predicted / measured - 1.0;
        let mib = f64::from(1 << 20);
        let (predicted, measured, seconds) = (predicted / mib, measured / mib, begun.elapsed().as_secs_f64());
        let _ = writeln!(
            std::io::stderr(),
            "{what}: predicted {predicted:.0} MiB, measured {measured:.0} MiB, {error:+.3}, {seconds:.0} s"
        );
        assert!(
            error.abs() <= ERROR_MAX,
            "{what}: {predicted:.0} MiB predicted, {measured:.0} MiB measured: {forecast}"
        );
    }

    /// Returns the peak resident set of a command, in bytes.
    fn measured(&self, what: &str, arguments: &[String]) -> f64 {
        let mut child = self.command(arguments).stdout(Stdio::null()).spawn().unwrap();
        let status = PathBuf::from(format!("/proc/{}/status", child.id()));
        let mut peak = 0.0_f64;
        let ended = loop {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
            peak = peak.max(kib.unwrap_or(0.0) * 1024.0);
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            // The peak never falls, so only one that the last milliseconds add can be missed.
            std::thread::sleep(Duration::from_millis(5));
        };
        let output = child.wait_with_output().unwrap();
        assert!(ended.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        peak
    }

    /// Checks every kind of step with one model.
    fn check_steps(&self, name: &str, base: &str, batch: &str, tokens: &str) {
        let what = |step: &str| format!("{name}, {step}");
        let template = ["--template", "{prompt}{completion}"];
        let generate =
            ["generate", "--policy", base, "--template", "raw", "-n", "2", "--max-new-tokens", tokens];
        let files = ["--input", "@prompts.jsonl", "--output", "@completions.jsonl"];
        self.check(&what("generate"), &[&generate[..], &files].concat());
        let score = ["score", "--policy", base, "--input", "@answers.jsonl", "--output", "@scored.jsonl"];
        self.check(&what("score"), &[&score[..], &template].concat());
        for (step, data, more) in [
            ("sft", "@sft.jsonl", &["--template", "raw"][..]),
            ("sft", "@sft.jsonl", &["--template", "raw", "--recompute"]),
            ("dpo", "@pairs.jsonl", &["--template", "raw"]),
            ("reward", "@pairs.jsonl", &template),
            ("sft", "@sft.jsonl", &["--template", "raw", "--full", "--recompute"]),
        ] {
            let output = format!("@{step}-{}", more.len());
            let train = ["train", step, "--base", base, "--data", data, "--output", &output, "--json"];
            let length = ["--steps", "2", "--batch-size", batch];
            self.check(
                &what(&format!("train {step} {}", more.join(" "))),
                &[&train[..], &length, more].concat(),
            );
        }
    }
}

/// Whether large models are measured; else the test says that it skips.
fn is_long() -> bool {
    let is_set = std::env::var(LONG).is_ok_and(|value| value == "1");
    optional(is_set.then_some(()).ok_or("large models are measured with DISSENT_MEMORY_LONG=1")).is_some()
}

#[test]
fn predicted_memory_is_within_a_tenth_of_the_peak() {
    let Some(bench) = Bench::new() else { return };
    SMALL.write(&bench.path("small"));
    bench.check_steps("small", "@small", "4", "32");
}

#[test]
fn predicted_memory_of_smollm2_is_within_a_tenth_of_the_peak() {
    if !is_long() {
        return;
    }
    let model = models_dir(&cache_dir().unwrap()).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let (Some(bench), Some(model)) = (Bench::new(), required(file(model))) else { return };
    bench.check_steps("SmolLM2-135M", model.to_str().unwrap(), "4", "256");
}

#[test]
fn a_model_of_the_shape_of_qwen_generates_scores_and_trains_in_the_predicted_memory() {
    if !is_long() {
        return;
    }
    let Some(bench) = Bench::new() else { return };
    QWEN.write(&bench.path("qwen"));
    let generate = [
        "generate",
        "--policy",
        "@qwen",
        "--template",
        "raw",
        "-n",
        "2",
        "--max-new-tokens",
        "16",
        "--input",
        "@prompts.jsonl",
        "--output",
        "@completions.jsonl",
    ];
    bench.check("Qwen2.5-0.5B's shape, generate", &generate);
    let score = [
        "score",
        "--policy",
        "@qwen",
        "--template",
        "{prompt}{completion}",
        "--input",
        "@answers.jsonl",
        "--output",
        "@scored.jsonl",
    ];
    bench.check("Qwen2.5-0.5B's shape, score", &score);
    let train = [
        "train",
        "sft",
        "--base",
        "@qwen",
        "--data",
        "@sft.jsonl",
        "--template",
        "raw",
        "--output",
        "@tuned",
        "--json",
        "--steps",
        "2",
        "--batch-size",
        "2",
    ];
    bench.check("Qwen2.5-0.5B's shape, train sft", &train);
}

#[test]
fn a_dry_run_changes_nothing() {
    let Some(bench) = Bench::new() else { return };
    SMALL.write(&bench.path("small"));
    let path = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    let (base, data, output) = (path("small"), path("sft.jsonl"), path("tuned"));
    let arguments =
        ["train", "sft", "--base", &base, "--data", &data, "--template", "raw", "--output", &output];
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let dry = bench.command(&arguments).arg("--dry-run").output().unwrap();
    assert!(dry.status.success(), "{}", String::from_utf8_lossy(&dry.stderr));
    let text = String::from_utf8(dry.stdout).unwrap();
    assert!(text.contains("training") && text.contains("activations"), "{text}");
    assert!(!bench.path("tuned").exists(), "a dry run writes no folder");
}
