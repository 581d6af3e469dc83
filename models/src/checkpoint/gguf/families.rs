//! The families of GGUF files, by llama.cpp's names.

/// What a family's GGUF files state in another way than its `config.json`.
#[derive(Debug)]
pub(super) struct GgufFamily {
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// The `model_type` of the same model.
    pub(super) model_type: &'static str,
    /// The epsilon of the norms: its key here and in a `config.json`.
    pub(super) epsilon: (&'static str, &'static str),
    /// Settings that are true where a tensor exists.
    pub(super) present: &'static [(&'static str, &'static str)],
    /// Other numbers: the key here and in a `config.json`.
    pub(super) numbers: &'static [(&'static str, &'static str)],
    /// Whether the rows of queries and keys are interleaved for llama.cpp's rotary embedding.
    pub(super) interleaved_rows: bool,
    /// Whether norms are stored plus one.
    pub(super) norms_plus_one: bool,
    /// Whether the settings state the width of heads and the number of key-value heads.
    pub(super) grouped: bool,
    /// The activation function, where the settings of 0.1 state it.
    pub(super) activation: Option<&'static str>,
    /// The keys of the rotary base and of the rotated share of a head.
    pub(super) rope_keys: (&'static str, &'static str),
    /// Whether the rotated share is always stated.
    pub(super) partial: bool,
    /// The layers of the model whose queries are scaled by hidden size / heads; `None` for families without
    /// such a setting.
    pub(super) layers_of_largest: Option<usize>,
}

const RMS: (&str, &str) = ("attention.layer_norm_rms_epsilon", "rms_norm_eps");
const LAYER: &str = "attention.layer_norm_epsilon";
const BIASES: &[(&str, &str)] = &[("blk.0.attn_q.bias", "attention_bias"), ("blk.0.ffn_up.bias", "mlp_bias")];
const WINDOW: (&str, &str) = ("attention.sliding_window", "sliding_window");

const LLAMA: GgufFamily = GgufFamily {
    architecture: "llama",
    model_type: "llama",
    epsilon: RMS,
    present: BIASES,
    numbers: &[],
    interleaved_rows: true,
    norms_plus_one: false,
    grouped: true,
    activation: Some("silu"),
    rope_keys: ("rope_theta", "partial_rotary_factor"),
    partial: false,
    layers_of_largest: None,
};
/// Families that keep the order of rows.
const PLAIN: GgufFamily = GgufFamily { interleaved_rows: false, activation: None, ..LLAMA };
const GEMMA: GgufFamily =
    GgufFamily { architecture: "gemma", model_type: "gemma", norms_plus_one: true, ..PLAIN };

const FAMILIES: [GgufFamily; 17] = [
    LLAMA,
    GgufFamily { architecture: "qwen2", model_type: "qwen2", present: &[], ..PLAIN },
    GgufFamily { architecture: "qwen3", model_type: "qwen3", ..PLAIN },
    GEMMA,
    GgufFamily {
        architecture: "gemma2",
        model_type: "gemma2",
        numbers: &[
            WINDOW,
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ],
        layers_of_largest: Some(46),
        ..GEMMA
    },
    GgufFamily {
        architecture: "gemma3",
        model_type: "gemma3_text",
        numbers: &[WINDOW, ("final_logit_softcapping", "final_logit_softcapping")],
        layers_of_largest: Some(62),
        ..GEMMA
    },
    GgufFamily { architecture: "phi3", model_type: "phi3", present: &[], numbers: &[WINDOW], ..PLAIN },
    GgufFamily { architecture: "olmo2", model_type: "olmo2", ..PLAIN },
    GgufFamily { architecture: "olmo2", model_type: "olmo3", numbers: &[WINDOW], ..PLAIN },
    GgufFamily { architecture: "smollm3", model_type: "smollm3", ..LLAMA },
    GgufFamily {
        architecture: "granite",
        model_type: "granite",
        numbers: &[
            ("attention.scale", "attention_multiplier"),
            ("embedding_scale", "embedding_multiplier"),
            ("residual_scale", "residual_multiplier"),
            ("logit_scale", "logits_scaling"),
        ],
        ..LLAMA
    },
    GgufFamily {
        architecture: "command-r",
        model_type: "cohere",
        epsilon: (LAYER, "layer_norm_eps"),
        present: &[("blk.0.attn_q.bias", "attention_bias"), ("blk.0.attn_q_norm.weight", "use_qk_norm")],
        numbers: &[("logit_scale", "logit_scale")],
        ..PLAIN
    },
    GgufFamily {
        architecture: "cohere2",
        model_type: "cohere2",
        epsilon: (LAYER, "layer_norm_eps"),
        numbers: &[WINDOW, ("logit_scale", "logit_scale")],
        ..PLAIN
    },
    GgufFamily {
        architecture: "gpt2",
        model_type: "gpt2",
        epsilon: (LAYER, "layer_norm_epsilon"),
        present: &[],
        grouped: false,
        ..PLAIN
    },
    GgufFamily {
        architecture: "gptneox",
        model_type: "gpt_neox",
        epsilon: (LAYER, "layer_norm_eps"),
        present: &[("blk.0.attn_qkv.bias", "attention_bias")],
        numbers: &[("use_parallel_residual", "use_parallel_residual")],
        grouped: false,
        activation: Some("gelu"),
        rope_keys: ("rotary_emb_base", "rotary_pct"),
        partial: true,
        ..PLAIN
    },
    GgufFamily {
        architecture: "starcoder2",
        model_type: "starcoder2",
        epsilon: (LAYER, "norm_epsilon"),
        present: &[("blk.0.attn_q.bias", "use_bias")],
        ..PLAIN
    },
    GgufFamily {
        architecture: "stablelm",
        model_type: "stablelm",
        partial: true,
        epsilon: (LAYER, "layer_norm_eps"),
        present: &[("blk.0.attn_q.bias", "use_qkv_bias")],
        numbers: &[("use_parallel_residual", "use_parallel_residual")],
        ..PLAIN
    },
];

/// Returns the family of a `general.architecture`. Two families share a name: one has windows.
pub(super) fn by_architecture(name: &str, windowed: bool) -> Result<&'static GgufFamily, String> {
    let mut found = FAMILIES.iter().filter(|family| family.architecture == name);
    let first = found.next();
    let found = if windowed { found.next().or(first) } else { first };
    found.ok_or_else(|| {
        let mut known: Vec<_> = FAMILIES.iter().map(|family| family.architecture).collect();
        known.dedup();
        format!("architecture {name:?} is not supported: use one of {}", known.join(", "))
    })
}
