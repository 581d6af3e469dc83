use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::Dtype as StoredDtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::config::AdapterConfig;
use super::read::{CONFIG, WEIGHTS, read_tensors};
use super::*;
use crate::checkpoint::ModelConfig;
use crate::error::ModelError;

fn model() -> ModelConfig {
    ModelConfig::from_json(
        r#"{"model_type": "llama", "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2, "vocab_size": 10,
        "max_position_embeddings": 16, "tie_word_embeddings": true}"#,
    )
}

fn neox() -> ModelConfig {
    ModelConfig::from_json(
        r#"{"model_type": "gpt_neox", "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "rotary_pct": 1.0, "vocab_size": 10, "max_position_embeddings": 16}"#,
    )
}

fn settings() -> Value {
    json!({"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "lora_alpha": 8, "bias": "none",
        "modules_to_save": ["score", "classifier"], "use_dora": false, "some_new_setting": null})
}

fn q(half: &str) -> String {
    format!("base_model.model.model.layers.1.self_attn.q_proj.lora_{half}.weight")
}

const SCORE: &str = "base_model.model.score.weight";

fn weights(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| {
            (0..shape.iter().product::<usize>()).flat_map(|n| (n as f32).to_le_bytes()).collect()
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (*name, TensorView::new(StoredDtype::F32, shape.to_vec(), data).expect("a view"))
    });
    safetensors::serialize(views, None).expect("bytes")
}

struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new(settings: &Value, weights: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join(CONFIG), settings.to_string()).expect("config");
        std::fs::write(folder.path().join(WEIGHTS), weights).expect("weights");
        Self { folder }
    }

    fn open(&self) -> Result<LoraAdapter, ModelError> {
        LoraAdapter::open(self.folder.path())
    }
}

fn plain() -> Vec<u8> {
    weights(&[(&q("A"), &[2, 4]), (&q("B"), &[4, 2]), (SCORE, &[1, 4])])
}

fn with(key: &str, value: Value) -> Value {
    let mut settings = settings();
    settings[key] = value;
    settings
}

fn refusal(settings: &Value, weights: &[u8]) -> String {
    Folder::new(settings, weights).open().expect_err("the value must be refused").to_string()
}

#[test]
fn pairs_and_score_head_are_read_with_their_scaling() {
    let adapter = Folder::new(&settings(), &plain()).open().expect("adapter");
    let target = LoraTarget { layer: 1, module: "self_attn.q_proj".to_owned() };
    let pair = &adapter.layers[&target];
    assert_eq!((pair.rank, pair.inputs, pair.outputs, pair.scaling), (2, 4, 4, 4.0));
    assert_eq!(pair.a, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(adapter.score.as_ref().map(|score| (score.labels, score.hidden)), Some((1, 4)));
    assert_eq!(adapter.task, AdapterTask::SeqCls);
    adapter.check(&model()).expect("it fits");
}

#[test]
fn rank_stabilised_scaling_divides_by_the_root() {
    let adapter = Folder::new(&with("use_rslora", json!(true)), &plain()).open().expect("adapter");
    assert!((adapter.scaling - 8.0 / 2f32.sqrt()).abs() < 1e-6);
}

#[test]
fn patterns_give_single_modules_their_rank_and_alpha() {
    let mut settings = with("rank_pattern", json!({"q_proj": 1}));
    settings["alpha_pattern"] = json!({"layers.1.self_attn.q_proj": 3.0, "proj": 99.0});
    let bytes = weights(&[(&q("A"), &[1, 4]), (&q("B"), &[4, 1]), (SCORE, &[1, 4])]);
    let adapter = Folder::new(&settings, &bytes).open().expect("adapter");
    assert_eq!(adapter.layers.values().map(|pair| pair.scaling).collect::<Vec<_>>(), [3.0]);
    settings["alpha_pattern"] = json!({"^model.*q_(proj)": 5.0});
    let adapter = Folder::new(&settings, &bytes).open().expect("adapter");
    assert_eq!(adapter.layers.values().map(|pair| pair.scaling).collect::<Vec<_>>(), [5.0]);
    settings["alpha_pattern"] = json!({"q_proj": "high"});
    assert!(refusal(&settings, &bytes).contains("alpha"));
}

/// A GPT-NeoX adapter's patterns see the names of that family.
#[test]
fn patterns_match_the_name_of_the_base_models_module() {
    let name = |half: &str| format!("base_model.model.gpt_neox.layers.0.attention.dense.lora_{half}.weight");
    let bytes = weights(&[(&name("A"), &[2, 4]), (&name("B"), &[4, 2])]);
    let mut settings = with("task_type", json!("CAUSAL_LM"));
    settings["alpha_pattern"] = json!({"^gpt_neox.layers.0.attention.dense": 6});
    let adapter = Folder::new(&settings, &bytes).open().expect("adapter");
    assert_eq!(adapter.layers.values().map(|pair| pair.scaling).collect::<Vec<_>>(), [3.0]);
}

#[test]
fn settings_beyond_plain_lora_are_refused_by_name() {
    for (key, value) in [
        ("task_type", json!("TOKEN_CLS")),
        ("bias", json!("all")),
        ("use_dora", json!(true)),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks": 2})),
        ("lora_bias", json!(true)),
        ("layer_replication", json!([[0, 2]])),
        ("modules_to_save", json!(["embed_tokens"])),
        ("trainable_token_indices", json!([3])),
        ("target_parameters", json!(["experts.down_proj"])),
        ("alora_invocation_tokens", json!([1])),
        ("arrow_config", json!({"top_k": 3})),
        ("kasa_config", json!({"beta": 1e-4})),
        ("velora_config", json!({"num_groups": 4})),
        ("monteclora_config", json!({"num_samples": 8})),
        ("a_setting_of_a_later_version", json!(1)),
        ("another_one", json!("on")),
        ("r", json!(0)),
        ("r", json!(2.5)),
        ("lora_alpha", json!("8")),
        ("use_rslora", json!("yes")),
        ("rank_pattern", json!(["q_proj"])),
        ("target_modules", json!(3)),
        ("layers_to_transform", json!("all")),
    ] {
        let reason = refusal(&with(key, value.clone()), &plain());
        assert!(reason.contains(key), "{key}: {reason}");
    }
    for kind in ["IA3", "LOHA", "LOKR", "ADALORA", "OFT", "VERA", "PROMPT_TUNING", "PREFIX_TUNING"] {
        // Such configurations have neither r nor lora_alpha.
        let reason = refusal(&json!({"peft_type": kind, "task_type": "CAUSAL_LM"}), &plain());
        assert!(reason.contains(&format!("adapter type {kind} is not supported: use LORA")), "{reason}");
    }
    assert!(refusal(&json!({"fine_tune_type": "lora"}), &plain()).contains("peft_type is missing"));
}

#[test]
fn settings_at_their_default_and_harmless_ones_change_nothing() {
    let plain_adapter = Folder::new(&settings(), &plain()).open().expect("adapter");
    for (key, value) in [
        ("a_setting_of_a_later_version", json!(null)),
        ("a_setting_of_a_later_version", json!(false)),
        ("a_setting_of_a_later_version", json!([])),
        ("a_setting_of_a_later_version", json!({})),
        ("a_setting_of_a_later_version", json!("")),
        ("runtime_config", json!({"ephemeral_gpu_offload": true})),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("eva_config", json!({"rho": 2.0})),
        ("lora_dropout", json!(0.1)),
        ("megatron_core", json!("megatron.core")),
        ("peft_version", json!("0.21.2")),
        ("qalora_group_size", json!(16)),
        ("auto_mapping", json!({"base_model_class": "LlamaForCausalLM"})),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!(true)),
        ("init_lora_weights", json!(false)),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!("orthogonal")),
        ("target_modules", json!(["q_proj", "v_proj"])),
    ] {
        let adapter = Folder::new(&with(key, value.clone()), &plain()).open().expect(key);
        assert_eq!(adapter.layers, plain_adapter.layers, "{key} {value}");
    }
}

/// Loading such an adapter in PEFT takes its first product off the base model's weights.
#[test]
fn initialisations_that_change_the_base_are_refused_with_the_way_out() {
    for kind in ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", "some_later_one"] {
        let reason = refusal(&with("init_lora_weights", json!(kind)), &plain());
        assert!(
            reason.contains(&format!("init_lora_weights {kind:?}"))
                && reason.contains("path_initial_model_for_weight_conversion"),
            "{reason}"
        );
    }
}

/// PEFT ignores the tensors of such modules.
#[test]
fn a_pair_that_the_settings_do_not_target_is_refused_by_name() {
    let module = "model.layers.1.self_attn.q_proj";
    for (key, value) in [
        ("target_modules", json!(["v_proj"])),
        ("target_modules", json!("q_proj")),
        ("exclude_modules", json!(["q_proj"])),
    ] {
        let reason = refusal(&with(key, value), &plain());
        assert!(reason.contains(module) && reason.contains("target_modules"), "{reason}");
    }
}

#[test]
fn a_tensor_under_two_prefixes_is_refused() {
    let bare = "base_model.model.layers.1.self_attn.q_proj.lora_A.weight";
    let bytes = weights(&[(&q("A"), &[2, 4]), (&q("B"), &[4, 2]), (SCORE, &[1, 4]), (bare, &[2, 4])]);
    assert!(refusal(&settings(), &bytes).contains("twice"));
}

#[test]
fn unknown_tensors_are_refused_by_name() {
    let embedding = "base_model.model.model.embed_tokens.lora_embedding_A";
    let bytes = weights(&[(&q("A"), &[2, 4]), (&q("B"), &[4, 2]), (SCORE, &[1, 4]), (embedding, &[2, 4])]);
    assert!(refusal(&settings(), &bytes).contains(embedding));
    let one_half = weights(&[(&q("A"), &[2, 4]), (SCORE, &[1, 4])]);
    assert!(refusal(&settings(), &one_half).contains("one half"));
    let other_rank = weights(&[(&q("A"), &[3, 4]), (&q("B"), &[4, 3]), (SCORE, &[1, 4])]);
    assert!(refusal(&settings(), &other_rank).contains("rank 3"));
    let headless = weights(&[(&q("A"), &[2, 4]), (&q("B"), &[4, 2])]);
    assert!(refusal(&settings(), &headless).contains("score head"));
    assert!(refusal(&settings(), &weights(&[(SCORE, &[1, 4])])).contains("no LoRA pair"));
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let adapter = Folder::new(&settings(), &plain()).open().expect("adapter");
    for other in [
        ModelConfig { layers: 1, ..model() },
        ModelConfig { hidden_size: 6, ..model() },
        ModelConfig { heads: 1, ..model() },
        neox(),
    ] {
        assert!(adapter.check(&other).is_err(), "{other:?}");
    }
}

#[test]
fn the_fingerprint_follows_settings_and_weights() {
    let of = |settings: &Value, weights: &[u8]| {
        Folder::new(settings, weights).open().expect("adapter").fingerprint
    };
    let other = weights(&[(&q("A"), &[2, 4]), (&q("B"), &[4, 2]), (SCORE, &[2, 4])]);
    assert_eq!(of(&settings(), &plain()), of(&settings(), &plain()));
    assert_ne!(of(&settings(), &plain()), of(&with("lora_alpha", json!(9)), &plain()));
    assert_ne!(of(&settings(), &plain()), of(&settings(), &other));
}

#[test]
fn a_missing_or_pickled_file_is_named() {
    let folder = Folder::new(&settings(), &plain());
    let path: PathBuf = folder.folder.path().join(WEIGHTS);
    std::fs::rename(&path, folder.folder.path().join("adapter_model.bin")).expect("rename");
    let reason = folder.open().expect_err("no weights").to_string();
    assert!(reason.contains(WEIGHTS) && reason.contains("save_pretrained"), "{reason}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_weights_never_panic(
        cut in 0usize..400, flips in prop::collection::vec((0usize..400, any::<u8>()), 0..4)
    ) {
        let mut bytes = plain();
        bytes.truncate(bytes.len().min(cut.max(1)));
        for (at, value) in flips {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        let settings = settings();
        let config = AdapterConfig::read(settings.as_object().expect("an object")).expect("settings");
        let _ = read_tensors(&bytes, &config);
    }
}
