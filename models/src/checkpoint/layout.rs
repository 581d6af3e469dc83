//! The tensors that a model needs, with their shapes.

use std::collections::BTreeMap;

use super::config::ModelConfig;
use super::decoder::{Attention, Linear, Mlp, Norm, QueryKeyNorm};

/// The name of the score head of a sequence classifier, in every family.
pub(crate) const SCORE_HEAD: &str = "score.weight";
/// The names of the norms of queries and keys within a layer.
pub(crate) const QUERY_NORM: &str = "self_attn.q_norm";
pub(crate) const KEY_NORM: &str = "self_attn.k_norm";

impl ModelConfig {
    /// Returns the name of a layer's tensors without their last part, such as `model.layers.3`.
    #[must_use]
    pub fn layer_name(&self, layer: usize) -> String {
        let names = self.family.names;
        format!("{}{}.{layer}", names.prefix, names.layers)
    }

    /// Returns the name of a layer in an adapter of PEFT.
    pub(crate) fn adapter_layer_name(&self, layer: usize) -> String {
        let prefix = self.family.adapter_prefix.unwrap_or(self.family.names.prefix);
        format!("{prefix}{}.{layer}", self.family.names.layers)
    }

    /// Returns the layer of a tensor with the rest of its name, if it belongs to a layer.
    pub(crate) fn layer_of<'n>(&self, name: &'n str) -> Option<(usize, &'n str)> {
        let names = self.family.names;
        let rest = name.strip_prefix(names.prefix)?.strip_prefix(names.layers)?.strip_prefix('.')?;
        let (layer, rest) = rest.split_once('.')?;
        Some((layer.parse().ok()?, rest))
    }

    /// Returns the name of the token embedding.
    pub(crate) fn embedding(&self) -> String {
        format!("{}{}.weight", self.family.names.prefix, self.family.names.embedding)
    }

    /// Returns the name of the table of learned positions, if there is one.
    pub(crate) fn positions(&self) -> Option<String> {
        let table = self.family.names.positions?;
        Some(format!("{}{table}.weight", self.family.names.prefix))
    }

    /// Returns the name of the final norm, without its last part.
    pub(crate) fn final_norm(&self) -> String {
        format!("{}{}", self.family.names.prefix, self.family.names.final_norm)
    }

    /// Returns the name of the vocabulary head, for a model with untied embeddings.
    pub(crate) fn head(&self) -> &'static str {
        self.family.names.head
    }
}

/// One linear projection of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Projection {
    /// Width of its result.
    pub outputs: usize,
    /// Width of its operand.
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

/// Returns the linear projections of a layer, by their names within the layer.
pub(crate) fn projections(config: &ModelConfig) -> Vec<(&'static str, Projection)> {
    let decoder = &config.decoder;
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let queries = config.heads * config.head_dim;
    let keys = config.kv_heads * config.head_dim;
    let mut projections = Vec::new();
    let mut add = |linear: Linear, outputs: usize, inputs: usize| {
        projections.push((linear.name, Projection { outputs, inputs, bias: linear.bias }));
    };
    match decoder.attention {
        Attention::Apart { query, key, value } => {
            add(query, queries, hidden);
            add(key, keys, hidden);
            add(value, keys, hidden);
        }
        Attention::Joined(joined) | Attention::ByHead(joined) => add(joined, queries + 2 * keys, hidden),
    }
    add(decoder.output, hidden, queries);
    match decoder.mlp {
        Mlp::Gated { gate, up, down } => {
            add(gate, inner, hidden);
            add(up, inner, hidden);
            add(down, hidden, inner);
        }
        Mlp::GatedJoined { gate_up, down } => {
            add(gate_up, 2 * inner, hidden);
            add(down, hidden, inner);
        }
        Mlp::Plain { up, down } => {
            add(up, inner, hidden);
            add(down, hidden, inner);
        }
    }
    projections
}

/// Returns all tensors of the model with their shapes, without the heads: the required head depends on the
/// use of the model.
pub(crate) fn required(config: &ModelConfig) -> BTreeMap<String, Vec<usize>> {
    let (decoder, hidden) = (&config.decoder, config.hidden_size);
    let mut tensors = BTreeMap::new();
    let mut norm = |name: String| {
        if decoder.norm == Norm::Layer {
            tensors.insert(format!("{name}.bias"), vec![hidden]);
        }
        tensors.insert(format!("{name}.weight"), vec![hidden]);
    };
    norm(config.final_norm());
    let norms = decoder.norms;
    for layer in 0..config.layers {
        let block = config.layer_name(layer);
        [norms.before_attention, norms.after_attention, norms.before_mlp, norms.after_mlp]
            .into_iter()
            .flatten()
            .for_each(|name| norm(format!("{block}.{name}")));
    }
    tensors.insert(config.embedding(), vec![config.vocab_size, hidden]);
    if let Some(positions) = config.positions() {
        tensors.insert(positions, vec![config.context_length, hidden]);
    }
    for layer in 0..config.layers {
        let block = config.layer_name(layer);
        for (name, Projection { outputs, inputs, bias }) in projections(config) {
            if bias {
                tensors.insert(format!("{block}.{name}.bias"), vec![outputs]);
            }
            let shape = if decoder.inputs_first { vec![inputs, outputs] } else { vec![outputs, inputs] };
            tensors.insert(format!("{block}.{name}.weight"), shape);
        }
        for (name, heads) in [(QUERY_NORM, config.heads), (KEY_NORM, config.kv_heads)] {
            if let Some(kind) = decoder.query_key_norm {
                tensors.insert(format!("{block}.{name}.weight"), kind.shape(heads, config.head_dim));
            }
        }
    }
    tensors
}

impl QueryKeyNorm {
    /// Returns the shape of its weight.
    pub(crate) fn shape(self, heads: usize, head_dim: usize) -> Vec<usize> {
        match self {
            Self::Head => vec![head_dim],
            Self::Whole => vec![heads * head_dim],
            Self::LayerByHead => vec![heads, head_dim],
        }
    }
}
