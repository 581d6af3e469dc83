//! The families of models, with one file for each.
//!
//! A family's file says in which way its settings and its layers differ from Llama's. Nothing else in the
//! program asks for a family.

mod cohere;
mod description;
mod gemma;
mod gpt2;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod olmo;
mod phi3;
mod qwen;
mod smollm3;
mod stablelm;
mod starcoder2;

pub use description::Family;
pub(super) use description::Reader;

/// All supported families.
pub(crate) static FAMILIES: [Family; 20] = [
    llama::LLAMA,
    qwen::QWEN2,
    qwen::QWEN3,
    mistral::MISTRAL,
    mistral::MINISTRAL,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3_TEXT,
    gemma::GEMMA3,
    phi3::PHI3,
    olmo::OLMO2,
    olmo::OLMO3,
    smollm3::SMOLLM3,
    granite::GRANITE,
    cohere::COHERE,
    cohere::COHERE2,
    gpt2::GPT2,
    gpt_neox::GPT_NEOX,
    starcoder2::STARCODER2,
    stablelm::STABLELM,
];

/// Returns the family of a `model_type`.
pub(crate) fn by_model_type(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_type == model_type)
}

/// Returns the family of a class in transformers.
pub(super) fn by_class(class: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| {
        let base = family.causal_lm.trim_end_matches("ForCausalLM").trim_end_matches("LMHeadModel");
        family.causal_lm == class || family.classifier == Some(class) || class == format!("{base}Model")
    })
}

/// Returns the names of all families, for errors.
pub(super) fn known() -> String {
    FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ")
}

/// Returns the layer of a tensor of any family, with the rest of its name. A name may lack the prefix.
pub(crate) fn layer_of(name: &str) -> Option<(usize, &str)> {
    let name = name.strip_prefix("language_model.").unwrap_or(name);
    FAMILIES.iter().find_map(|Family { names, .. }| {
        let name = name.strip_prefix(names.prefix).unwrap_or(name);
        let name = name.strip_prefix("language_model.").unwrap_or(name);
        let (layer, rest) = name.strip_prefix(names.layers)?.strip_prefix('.')?.split_once('.')?;
        Some((layer.parse().ok()?, rest))
    })
}
