//! The tensors that a model needs, with their shapes.

use std::collections::BTreeMap;

use super::config::{Architecture, ModelConfig};

/// The name of the score head of a sequence classifier, in every architecture.
pub(crate) const SCORE_HEAD: &str = "score.weight";

/// The tensor names of one architecture.
struct Names {
    /// The prefix of all names but the heads'.
    prefix: &'static str,
    embedding: &'static str,
    final_norm: &'static str,
    head: &'static str,
    norms: [&'static str; 2],
    /// Layer norms have biases, RMS norms none.
    norm_bias: bool,
}

const LLAMA: Names = Names {
    prefix: "model.",
    embedding: "embed_tokens",
    final_norm: "norm",
    head: "lm_head.weight",
    norms: ["input_layernorm", "post_attention_layernorm"],
    norm_bias: false,
};
const NEOX: Names = Names {
    prefix: "gpt_neox.",
    embedding: "embed_in",
    final_norm: "final_layer_norm",
    head: "embed_out.weight",
    norms: ["input_layernorm", "post_attention_layernorm"],
    norm_bias: true,
};

fn names(architecture: Architecture) -> &'static Names {
    match architecture {
        Architecture::Llama => &LLAMA,
        Architecture::GptNeoX => &NEOX,
    }
}

/// Returns the prefix of the tensors of a headless model in a model with a head: `model.` or `gpt_neox.`.
pub(crate) fn prefix(architecture: Architecture) -> &'static str {
    names(architecture).prefix
}

/// Returns the name of the output head's weight, for a model with untied embeddings.
pub(crate) fn head(architecture: Architecture) -> &'static str {
    names(architecture).head
}

/// Returns the name of the token embedding's weight.
pub(crate) fn embedding(architecture: Architecture) -> String {
    let names = names(architecture);
    format!("{}{}.weight", names.prefix, names.embedding)
}

/// Returns the layer of a tensor, if it belongs to one.
pub(crate) fn layer_of(architecture: Architecture, name: &str) -> Option<usize> {
    let rest = name.strip_prefix(prefix(architecture))?.strip_prefix("layers.")?;
    rest.split_once('.')?.0.parse().ok()
}

/// One linear projection of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Projection {
    /// Rows of its weight.
    pub outputs: usize,
    /// Columns of its weight.
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

/// Returns the linear projections of a layer, by their names within the layer.
pub(crate) fn projections(config: &ModelConfig) -> Vec<(&'static str, Projection)> {
    let hidden = config.hidden_size;
    let inner = config.intermediate_size;
    let queries = config.heads * config.head_dim;
    let keys = config.kv_heads * config.head_dim;
    let attention = |outputs, inputs| Projection { outputs, inputs, bias: config.attention_bias };
    let mlp = |outputs, inputs| Projection { outputs, inputs, bias: config.mlp_bias };
    match config.architecture {
        Architecture::Llama => vec![
            ("self_attn.q_proj", attention(queries, hidden)),
            ("self_attn.k_proj", attention(keys, hidden)),
            ("self_attn.v_proj", attention(keys, hidden)),
            ("self_attn.o_proj", attention(hidden, queries)),
            ("mlp.gate_proj", mlp(inner, hidden)),
            ("mlp.up_proj", mlp(inner, hidden)),
            ("mlp.down_proj", mlp(hidden, inner)),
        ],
        Architecture::GptNeoX => vec![
            ("attention.query_key_value", attention(3 * hidden, hidden)),
            ("attention.dense", attention(hidden, hidden)),
            ("mlp.dense_h_to_4h", mlp(inner, hidden)),
            ("mlp.dense_4h_to_h", mlp(hidden, inner)),
        ],
    }
}

/// Returns all tensors of the model with their shapes, without the heads: the required head depends on the
/// use of the model.
pub(crate) fn required(config: &ModelConfig) -> BTreeMap<String, Vec<usize>> {
    let names = names(config.architecture);
    let hidden = config.hidden_size;
    let mut tensors = BTreeMap::new();
    let mut norm = |name: String| {
        if names.norm_bias {
            tensors.insert(format!("{name}.bias"), vec![hidden]);
        }
        tensors.insert(format!("{name}.weight"), vec![hidden]);
    };
    norm(format!("{}{}", names.prefix, names.final_norm));
    for layer in 0..config.layers {
        names.norms.iter().for_each(|name| norm(format!("{}layers.{layer}.{name}", names.prefix)));
    }
    tensors.insert(format!("{}{}.weight", names.prefix, names.embedding), vec![config.vocab_size, hidden]);
    for layer in 0..config.layers {
        for (name, projection) in projections(config) {
            let name = format!("{}layers.{layer}.{name}", names.prefix);
            if projection.bias {
                tensors.insert(format!("{name}.bias"), vec![projection.outputs]);
            }
            tensors.insert(format!("{name}.weight"), vec![projection.outputs, projection.inputs]);
        }
    }
    tensors
}
