//! Tests opening checkpoints in all common layouts, and compares a real one with transformers.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dissent_models::ModelError;
use dissent_models::checkpoint::{Checkpoint, Dtype, OpenOptions, ReadingRules, SpecialToken};
use dissent_models::inspect::{ModelSummary, inspect};
use dissent_models::template::{ChatInput, PromptTemplate, TemplateDate, render_chat};
use proptest::prelude::*;
use safetensors::Dtype as StoredDtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null, "model": {"type": "WordLevel",
    "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "?": 4}, "unk_token": "?"}}"#;

fn config() -> Value {
    json!({"model_type": "llama", "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 5, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "eos_token_id": 1, "tie_word_embeddings": true})
}

/// Names and shapes of the tensors of [`config`].
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors =
        vec![("model.embed_tokens.weight".to_owned(), vec![5, 4]), ("model.norm.weight".to_owned(), vec![4])];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![4]),
            ("self_attn.q_proj", vec![4, 4]),
            ("self_attn.k_proj", vec![2, 4]),
            ("self_attn.v_proj", vec![2, 4]),
            ("self_attn.o_proj", vec![4, 4]),
            ("post_attention_layernorm", vec![4]),
            ("mlp.gate_proj", vec![6, 4]),
            ("mlp.up_proj", vec![6, 4]),
            ("mlp.down_proj", vec![4, 6]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    tensors
}

/// Returns a safetensors file. The elements of each tensor count up from 0.
fn file(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| {
            (0..shape.iter().product::<usize>()).flat_map(|n| (n as f32).to_le_bytes()).collect()
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (name, TensorView::new(StoredDtype::F32, shape.clone(), data).expect("a view"))
    });
    safetensors::serialize(views, None).expect("bytes")
}

struct Folder(tempfile::TempDir);

impl Folder {
    /// Returns a folder without weights.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("folder"));
        folder.put("config.json", config().to_string());
        folder.put("tokenizer.json", TOKENIZER);
        folder
    }

    fn whole() -> Self {
        let folder = Self::new();
        folder.put("model.safetensors", file(&tensors()));
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), bytes).expect("write");
    }

    fn options(&self, layers: Option<u32>) -> OpenOptions {
        OpenOptions { layers, cache_dir: self.path().join("cache"), reading: ReadingRules::default() }
    }

    fn open(&self) -> Result<Checkpoint, ModelError> {
        Checkpoint::open(self.path(), &self.options(None))
    }

    fn open_as_first_version(&self) -> Checkpoint {
        let options = OpenOptions { reading: ReadingRules::V1, ..self.options(None) };
        Checkpoint::open(self.path(), &options).expect("checkpoint")
    }

    fn refusal(&self) -> String {
        self.open().expect_err("it must be refused").to_string()
    }
}

#[test]
fn a_folder_is_opened_and_its_weights_are_located() {
    let folder = Folder::whole();
    let checkpoint = folder.open().expect("checkpoint");
    assert_eq!(checkpoint.config.eos_token_ids, [1]);
    assert_eq!(checkpoint.tokenizer.eos_token(), Some("</s>"));
    let tensor = checkpoint.weights.get("model.layers.1.self_attn.k_proj.weight").expect("tensor");
    assert_eq!((tensor.dtype, tensor.bytes, &tensor.shape), (Dtype::F32, 32, &vec![2, 4]));
    let values = checkpoint.weights.read_f32("model.layers.1.self_attn.k_proj.weight").expect("values");
    assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert!(checkpoint.weights.get("model.layers.2.mlp.up_proj.weight").is_err());
}

#[test]
fn shards_are_joined_and_a_missing_tensor_is_named() {
    let folder = Folder::new();
    let tensors = tensors();
    let (first, second) = tensors.split_at(7);
    folder.put("model-1.safetensors", file(first));
    folder.put("model-2.safetensors", file(second));
    let map: BTreeMap<_, _> = first
        .iter()
        .map(|(name, _)| (name, "model-1.safetensors"))
        .chain(second.iter().map(|(name, _)| (name, "model-2.safetensors")))
        .collect();
    folder.put("model.safetensors.index.json", json!({"metadata": {}, "weight_map": map}).to_string());
    let checkpoint = folder.open().expect("checkpoint");
    assert_eq!(checkpoint.weights.iter().count(), tensors.len());

    folder.put("model-2.safetensors", file(&second[1..]));
    let reason = folder.refusal();
    assert!(reason.contains(&second[0].0) && reason.contains("model-2"), "{reason}");
}

#[test]
fn an_index_cannot_point_outside_its_folder() {
    for shard in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".."] {
        let folder = Folder::new();
        let map = json!({"weight_map": {"model.norm.weight": shard}});
        folder.put("model.safetensors.index.json", map.to_string());
        assert!(folder.refusal().contains("not a file of this folder"), "{shard}");
    }
}

#[cfg(unix)]
#[test]
fn symbolic_links_of_the_hugging_face_cache_lead_to_real_files() {
    let (blobs, snapshot) = (Folder::whole(), tempfile::tempdir().expect("folder"));
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::os::unix::fs::symlink(blobs.path().join(name), snapshot.path().join(name)).expect("link");
    }
    let checkpoint = Checkpoint::open(snapshot.path(), &blobs.options(None)).expect("checkpoint");
    let tensor = checkpoint.weights.get("model.norm.weight").expect("tensor");
    assert_eq!(tensor.file, blobs.path().join("model.safetensors").canonicalize().expect("real"));
}

#[test]
fn headless_models_get_their_prefix_and_classifiers_their_labels() {
    let folder = Folder::new();
    let mut bare: Vec<_> =
        tensors().into_iter().map(|(name, shape)| (name.replacen("model.", "", 1), shape)).collect();
    bare.push(("score.weight".to_owned(), vec![3, 4]));
    folder.put("model.safetensors", file(&bare));
    let checkpoint = folder.open().expect("checkpoint");
    assert!(checkpoint.weights.contains("model.embed_tokens.weight"));
    assert_eq!(checkpoint.config.num_labels, Some(3));
}

#[test]
fn a_model_of_the_first_layers_has_another_fingerprint() {
    let folder = Folder::whole();
    let whole = folder.open().expect("checkpoint");
    let cut = Checkpoint::open(folder.path(), &folder.options(Some(1))).expect("checkpoint");
    assert_eq!(cut.config.layers, 1);
    assert!(
        cut.weights.contains("model.norm.weight")
            && cut.weights.contains("model.layers.0.mlp.up_proj.weight")
    );
    assert!(!cut.weights.contains("model.layers.1.mlp.up_proj.weight"));
    assert_ne!(cut.fingerprint, whole.fingerprint);
    let all = Checkpoint::open(folder.path(), &folder.options(Some(2))).expect("checkpoint");
    assert_eq!(all.fingerprint, whole.fingerprint);
    for layers in [0, 3, u32::MAX] {
        let reason =
            Checkpoint::open(folder.path(), &folder.options(Some(layers))).expect_err("refused").to_string();
        assert!(reason.contains("1 to 2"), "{reason}");
    }
}

#[test]
fn the_fingerprint_follows_weights_configuration_and_tokenizer() {
    let plain = Folder::whole().open().expect("checkpoint").fingerprint;
    assert_eq!(plain, Folder::whole().open().expect("checkpoint").fingerprint);
    let changed = |name: &str, bytes: &[u8]| {
        let folder = Folder::whole();
        folder.put(name, bytes);
        folder.open().expect("checkpoint").fingerprint
    };
    let mut weights = file(&tensors());
    *weights.last_mut().expect("a byte") ^= 1;
    assert_ne!(plain, changed("model.safetensors", &weights));
    assert_ne!(plain, changed("tokenizer.json", TOKENIZER.replace("\"b\"", "\"c\"").as_bytes()));
    assert_ne!(plain, changed("config.json", config().to_string().replace("32", "64").as_bytes()));
    assert_ne!(plain, changed("chat_template.jinja", b"{{ messages }}"));
}

#[test]
fn special_tokens_follow_the_tokenizer_configuration() {
    let folder = Folder::whole();
    folder.put(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>"}, "add_bos_token": true, "chat_template": "{{ bos_token }}{{ messages[0].content }}"}"#,
    );
    // Transformers 5 does not read the flag beside tokenizer.json. Version 0.1 did.
    let tokenizer = folder.open().expect("checkpoint").tokenizer;
    assert_eq!(PromptTemplate::Raw.encode_prompt(&tokenizer, "a b").expect("ids"), [2, 3]);
    assert_eq!(PromptTemplate::Chat.render_prompt(&tokenizer, "a b").expect("text"), "<s>a b");
    let tokenizer = folder.open_as_first_version().tokenizer;
    assert_eq!(PromptTemplate::Raw.encode_prompt(&tokenizer, "a b").expect("ids"), [0, 2, 3]);
}

#[test]
fn one_set_of_special_tokens_comes_from_all_files() {
    let folder = Folder::whole();
    let end = r#"{"content": "b", "special": true}"#;
    folder.put("tokenizer_config.json", r#"{"bos_token": null}"#);
    folder.put("special_tokens_map.json", format!(r#"{{"eos_token": {end}, "pad_token": "<s>"}}"#));
    let checkpoint = folder.open().expect("checkpoint");
    assert_eq!(checkpoint.config.eos_token_ids, [1, 3]);
    assert_eq!(checkpoint.tokenizer.eos_token(), Some("b"));
    let sources = |token: &SpecialToken| token.sources.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(sources(&checkpoint.special_tokens.stop[0]), ["config.json"]);
    assert_eq!(sources(&checkpoint.special_tokens.stop[1]), ["special_tokens_map.json"]);
    folder.put("chat_template.jinja", "[{{ bos_token }}{{ eos_token }}{{ pad_token }}]");
    let tokenizer = folder.open().expect("checkpoint").tokenizer;
    assert_eq!(PromptTemplate::Chat.render_prompt(&tokenizer, "a").expect("text"), "[b<s>]");
    // By the rules of version 0.1, neither file nor null counts.
    let first = folder.open_as_first_version();
    assert_eq!(first.config.eos_token_ids, [1]);
    assert_eq!(first.tokenizer.eos_token(), Some("</s>"));
    assert_eq!(PromptTemplate::Chat.render_prompt(&first.tokenizer, "a").expect("text"), "[</s>]");
    let ModelSummary::Model(summary) = inspect(folder.path(), &folder.options(None)).expect("summary") else {
        panic!("a model");
    };
    assert_eq!(summary.special_tokens, checkpoint.special_tokens.clone());
}

#[test]
fn the_first_rules_keep_the_fingerprint() {
    let folder = Folder::whole();
    let before = folder.open_as_first_version().fingerprint;
    assert_eq!(folder.open().expect("checkpoint").fingerprint, before);
    folder.put("special_tokens_map.json", r#"{"pad_token": "<s>"}"#);
    assert_eq!(folder.open_as_first_version().fingerprint, before);
    assert_ne!(folder.open().expect("checkpoint").fingerprint, before);
}

#[test]
fn a_template_for_tools_and_several_templates_are_read() {
    let folder = Folder::whole();
    fs::create_dir(folder.path().join("additional_chat_templates")).expect("a folder");
    folder.put("additional_chat_templates/rag.jinja", "R");
    let open = || folder.open().expect("checkpoint").tokenizer;
    let reason = PromptTemplate::Chat.render_prompt(&open(), "a").expect_err("no default").to_string();
    assert!(reason.contains("none of the model's chat templates (rag) is named default"), "{reason}");
    folder.put("chat_template.jinja", "D");
    assert_eq!(PromptTemplate::Chat.render_prompt(&open(), "a").expect("text"), "D");
    let (messages, tools) = ([json!({"role": "user", "content": "a"})], [json!({"type": "function"})]);
    let input = ChatInput {
        messages: &messages,
        tools: Some(&tools),
        documents: None,
        variables: None,
        add_generation_prompt: true,
        date: TemplateDate::default(),
    };
    assert_eq!(render_chat(&open(), &input).expect("text"), "D");
    folder.put("additional_chat_templates/tool_use.jinja", "T{{ tools | length }}");
    assert_eq!(render_chat(&open(), &input).expect("text"), "T1");
}

#[test]
fn errors_name_the_problem_of_a_folder() {
    let empty = tempfile::tempdir().expect("folder");
    let at = |path: &Path| {
        let options = OpenOptions {
            layers: None,
            cache_dir: empty.path().join("cache"),
            reading: ReadingRules::default(),
        };
        Checkpoint::open(path, &options).expect_err("it must be refused").to_string()
    };
    assert!(at(empty.path()).contains("neither config.json nor a .gguf file"));
    assert!(at(&empty.path().join("missing")).contains("missing"));
    for name in ["a.gguf", "b.gguf"] {
        fs::write(empty.path().join(name), "x").expect("write");
    }
    assert!(at(empty.path()).contains("2 .gguf files"));
    assert!(at(&empty.path().join("a.gguf")).contains("not a GGUF file"));

    let folder = Folder::new();
    folder.put("pytorch_model.bin", "");
    assert!(folder.refusal().contains("save_pretrained"));
    let mut short = tensors();
    short.retain(|(name, _)| name != "model.layers.1.mlp.up_proj.weight");
    folder.put("model.safetensors", file(&short));
    assert!(folder.refusal().contains("model.layers.1.mlp.up_proj.weight"));
    let mut wide = tensors();
    wide[0].1 = vec![5, 8];
    folder.put("model.safetensors", file(&wide));
    assert!(folder.refusal().contains("[5, 8]"));
    let mut header = u64::MAX.to_le_bytes().to_vec();
    header.extend(b"{}");
    folder.put("model.safetensors", header);
    assert!(folder.refusal().contains("header"));
}

#[test]
fn truncated_weights_are_an_error() {
    let (folder, bytes) = (Folder::new(), file(&tensors()));
    for cut in (0..bytes.len()).step_by(13).chain([bytes.len() - 1]) {
        folder.put("model.safetensors", &bytes[..cut]);
        assert!(folder.open().is_err(), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        which in 0usize..3, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)
    ) {
        let folder = Folder::whole();
        let name = ["model.safetensors", "config.json", "tokenizer.json"][which];
        let mut bytes = fs::read(folder.path().join(name)).expect("read");
        for (at, value) in flips {
            let at = at.index(bytes.len().min(2600));
            bytes[at] = value;
        }
        folder.put(name, &bytes);
        let _ = folder.open();
    }
}

#[test]
fn an_adapter_of_peft_is_described() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/proxy-reward");
    let cache = tempfile::tempdir().expect("folder");
    let options =
        OpenOptions { layers: None, cache_dir: cache.path().to_owned(), reading: ReadingRules::default() };
    let ModelSummary::Adapter(summary) = inspect(&folder, &options).expect("summary") else {
        panic!("not an adapter")
    };
    assert_eq!((summary.task, summary.r, summary.layers, summary.num_labels), ("seq_cls", 8, 6, Some(1)));
    assert_eq!(summary.modules, ["k", "o", "q", "v"].map(|name| format!("self_attn.{name}_proj")));
    let reason = Checkpoint::open(&folder, &options).expect_err("not a model").to_string();
    assert!(reason.contains("an adapter, not a model"), "{reason}");
}

/// SmolLM2 in the cache folder, with the options to open it.
fn smollm2() -> Option<(PathBuf, OpenOptions)> {
    let cache_dir = dissent_models::cache::cache_dir().expect("a cache folder");
    Some((
        support::smollm2_file()?,
        OpenOptions { layers: None, cache_dir, reading: ReadingRules::default() },
    ))
}

#[test]
fn smollm2_has_the_weights_that_transformers_reads() {
    let Some((path, options)) = smollm2() else { return };
    let checkpoint = Checkpoint::open(&path, &options).expect("checkpoint");
    let golden: BTreeMap<String, (Vec<usize>, f64, f64)> =
        serde_json::from_str(include_str!("golden/smollm2_weights.json")).expect("golden");
    assert_eq!(
        checkpoint.weights.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        golden.keys().collect::<Vec<_>>()
    );
    for (name, (shape, magnitude, ordered)) in golden {
        assert_eq!(checkpoint.weights.get(&name).expect("tensor").shape, shape, "{name}");
        let values = checkpoint.weights.read_f32(&name).expect("values");
        let (mut found_magnitude, mut found_ordered) = (0.0, 0.0);
        for (index, value) in values.iter().enumerate() {
            found_magnitude += f64::from(value.abs());
            found_ordered += f64::from(*value) * (index % 251 + 1) as f64;
        }
        assert!((found_magnitude - magnitude).abs() < 1e-9 * magnitude, "{name}");
        assert!(
            (found_ordered - ordered).abs() < 1e-7 * magnitude,
            "{name}: {found_ordered} is not {ordered}"
        );
    }
}

#[test]
fn smollm2_tokenises_and_renders_chats_as_in_transformers() {
    let Some((path, options)) = smollm2() else { return };
    let golden: Value = serde_json::from_str(include_str!("golden/tokenizer.json")).expect("golden");
    let tokenizer = Checkpoint::open(&path, &options).expect("checkpoint").tokenizer;
    let model = &golden["smollm2"];
    for (index, text) in golden["texts"].as_array().expect("texts").iter().enumerate() {
        let text = text.as_str().expect("text");
        let ids = tokenizer.encode(text, true).expect("ids");
        assert_eq!(json!(ids), model["ids"][index], "{text:?}");
        assert_eq!(json!(tokenizer.decode(&ids, false).expect("text")), model["decoded"][index], "{text:?}");
        assert_eq!(
            json!(tokenizer.decode(&ids, true).expect("text")),
            model["decoded_plain"][index],
            "{text:?}"
        );
    }
    for chat in model["chats"].as_array().expect("chats") {
        let (prompt, completion) =
            (chat["prompt"].as_str().expect("prompt"), chat["completion"].as_str().expect("completion"));
        let template = PromptTemplate::Chat;
        assert_eq!(json!(template.render_prompt(&tokenizer, prompt).expect("text")), chat["rendered"]);
        assert_eq!(json!(template.encode_prompt(&tokenizer, prompt).expect("ids")), chat["ids"]);
        assert_eq!(
            json!(template.render_with_completion(&tokenizer, prompt, completion).expect("text")),
            chat["whole"]
        );
    }
}

#[test]
fn smollm2_is_described_without_dequantising_it() {
    let Some((path, options)) = smollm2() else { return };
    let elsewhere = tempfile::tempdir().expect("folder");
    let options = OpenOptions { cache_dir: elsewhere.path().to_owned(), ..options };
    let ModelSummary::Model(summary) = inspect(&path, &options).expect("summary") else {
        panic!("not a model")
    };
    assert_eq!((summary.parameters, summary.layers, summary.vocab_size), (134_515_008, 30, 49152));
    assert_eq!((summary.format, summary.architecture, summary.chat_template), ("gguf", "llama", true));
    assert_eq!(summary.dtypes["Q4_1"], 210);
    assert!(!elsewhere.path().join("dequantised").exists());
    let cut = inspect(&path, &OpenOptions { layers: Some(6), ..options }).expect("summary");
    let ModelSummary::Model(cut) = cut else { panic!("not a model") };
    assert!(cut.layers == 6 && cut.parameters < summary.parameters && cut.fingerprint != summary.fingerprint);
}
