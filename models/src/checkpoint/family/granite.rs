//! Granite 3: Llama with four factors (maximal update parametrisation, arXiv 2203.03466).

use super::description::{Family, narrow};
use super::llama::LLAMA;
use crate::checkpoint::decoder::Decoder;

pub(super) const GRANITE: Family = Family {
    model_type: "granite",
    causal_lm: "GraniteForCausalLM",
    classifier: None,
    decoder: |reader| {
        let decoder = reader.llama("rms_norm_eps", 1e-6)?;
        let divisor = reader.settings.positive("logits_scaling")?.unwrap_or(1.0);
        Ok(Decoder {
            attention_scale: reader.factor("attention_multiplier", 1.0)?,
            embedding_scale: reader.factor("embedding_multiplier", 1.0)?,
            residual_scale: reader.factor("residual_multiplier", 1.0)?,
            logit_scale: narrow(1.0 / divisor),
            ..decoder
        })
    },
    ..LLAMA
};
