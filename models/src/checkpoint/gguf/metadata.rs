//! A model's configuration from GGUF metadata.

use super::header::{Header, Value};
use super::names::ROTARY_DIVISORS;
use crate::checkpoint::config::{Activation, Architecture, ModelConfig, Rope, RopeScaling};

/// Reads the configuration. The rotary divisors, if there are any, come from the tensor data.
pub(super) fn config(header: &Header) -> Result<ModelConfig, String> {
    let family = header.text("general.architecture").ok_or("general.architecture is missing")?;
    let architecture = match family {
        "llama" => Architecture::Llama,
        "gptneox" => Architecture::GptNeoX,
        other => return Err(format!("architecture {other:?} is not supported: use llama or gptneox")),
    };
    let keys = Keys { header, family };
    if keys.integer("expert_count")?.is_some_and(|count| count > 0) {
        return Err("mixtures of experts are not supported".to_owned());
    }
    let neox = architecture == Architecture::GptNeoX;
    let hidden_size = keys.size("embedding_length")?;
    let heads = keys.size("attention.head_count")?;
    let kv_heads = if neox { heads } else { keys.size_or("attention.head_count_kv", heads)? };
    let head_dim = keys.size_or("attention.key_length", hidden_size.checked_div(heads).unwrap_or(0))?;
    let epsilon = if neox { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    let norm_eps = keys.float(epsilon)?.ok_or_else(|| format!("{family}.{epsilon} is missing"))?;
    let vocab_size = match header.tensors.get("token_embd.weight") {
        Some(embedding) => embedding.rows(),
        None => return Err("tensor token_embd.weight is missing".to_owned()),
    };
    let config = ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        layers: keys.size("block_count")?,
        heads,
        kv_heads,
        head_dim,
        vocab_size,
        context_length: keys.size("context_length")?,
        norm_eps: narrow(norm_eps),
        rope: rope(&keys, head_dim)?,
        tied_embeddings: !header.tensors.contains_key("output.weight"),
        attention_bias: header.tensors.contains_key(if neox {
            "blk.0.attn_qkv.bias"
        } else {
            "blk.0.attn_q.bias"
        }),
        mlp_bias: header.tensors.contains_key("blk.0.ffn_up.bias"),
        parallel_residual: neox && header.bool("gptneox.use_parallel_residual").unwrap_or(true),
        // GGUF does not store the activation function; these are the families' own.
        activation: if neox { Activation::Gelu } else { Activation::Silu },
        bos_token_id: token_id(header, "bos"),
        eos_token_ids: stop_tokens(header),
        num_labels: None,
    };
    config.validate()?;
    Ok(config)
}

/// Returns the end-of-sequence, end-of-turn and end-of-message tokens that the file names.
fn stop_tokens(header: &Header) -> Vec<u32> {
    let mut ids = Vec::new();
    for id in ["eos", "eot", "eom"].into_iter().filter_map(|name| token_id(header, name)) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// Returns the id of a special token in the metadata.
pub(super) fn token_id(header: &Header, name: &str) -> Option<u32> {
    u32::try_from(header.integer(&format!("tokenizer.ggml.{name}_token_id"))?).ok()
}

fn rope(keys: &Keys<'_>, head_dim: usize) -> Result<Rope, String> {
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let rotary_dims = keys.size_or("rope.dimension_count", head_dim)?;
    let factor = keys.float("rope.scaling.factor")?;
    let kind = keys.header.text(&format!("{}.rope.scaling.type", keys.family)).unwrap_or("none");
    let scaling = match kind {
        "none" => rotary_divisors(keys.header, rotary_dims)?.map(RopeScaling::Divisors),
        "linear" => {
            let factor = factor.filter(|factor| factor.is_finite() && *factor > 0.0);
            Some(RopeScaling::Linear {
                factor: factor.ok_or("rope.scaling.factor is not a positive number")?,
            })
        }
        other => return Err(format!("rope scaling {other:?} is not supported: use none or linear")),
    };
    Ok(Rope { theta, rotary_dims, scaling })
}

/// Llama 3's scaling: llama.cpp's converter stores it as one divisor per frequency.
fn rotary_divisors(header: &Header, rotary_dims: usize) -> Result<Option<Vec<f64>>, String> {
    let Some(info) = header.tensors.get(ROTARY_DIVISORS) else { return Ok(None) };
    if info.shape != [rotary_dims / 2] {
        return Err(format!(
            "tensor {ROTARY_DIVISORS} has shape {:?}, not [{}]",
            info.shape,
            rotary_dims / 2
        ));
    }
    let bytes = header.read_tensor(info).map_err(|error| error.to_string())?;
    let mut divisors = Vec::new();
    info.block_type.dequantise(&bytes, &mut divisors);
    if divisors.iter().any(|divisor| !(divisor.is_finite() && *divisor > 0.0)) {
        return Err(format!("tensor {ROTARY_DIVISORS} holds a value that is not positive"));
    }
    Ok(Some(divisors.into_iter().map(f64::from).collect()))
}

#[expect(clippy::cast_possible_truncation, reason = "epsilons are used in 32 bits")]
fn narrow(epsilon: f64) -> f32 {
    epsilon as f32
}

/// The metadata of one family: keys with its name as prefix.
struct Keys<'a> {
    header: &'a Header,
    family: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(&format!("{}.{key}", self.family))
    }

    fn integer(&self, key: &str) -> Result<Option<i64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => Ok(Some(*value)),
            Some(_) => Err(format!("{}.{key} is not one whole number", self.family)),
        }
    }

    fn float(&self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(format!("{}.{key} is not a number", self.family)),
        }
    }

    fn size(&self, key: &str) -> Result<usize, String> {
        let value = self.integer(key)?.ok_or_else(|| format!("{}.{key} is missing", self.family))?;
        usize::try_from(value).map_err(|_| format!("{}.{key} is negative", self.family))
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, String> {
        if self.get(key).is_none() { Ok(default) } else { self.size(key) }
    }
}
