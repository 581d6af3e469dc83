//! `SmolLM3`: Llama without position embedding in every fourth layer (arXiv 2501.18795).

use super::description::Family;
use super::llama::LLAMA;
use crate::checkpoint::decoder::{Decoder, LayerAttention};
use crate::checkpoint::rope::RopeDefaults;

pub(super) const SMOLLM3: Family = Family {
    model_type: "smollm3",
    causal_lm: "SmolLM3ForCausalLM",
    classifier: Some("SmolLM3ForSequenceClassification"),
    padding: Some(128_004),
    tied: true,
    rope: RopeDefaults { theta: 2_000_000.0, share: None },
    decoder: |reader| {
        let settings = reader.settings;
        let interval = settings.size("no_rope_layer_interval")?.unwrap_or(4).max(1);
        let rotated: Vec<bool> = match settings.numbers("no_rope_layers")? {
            // 1 stands for a layer with the embedding, against the name.
            Some(marks) if marks.len() >= reader.layers => marks.iter().map(|&mark| mark != 0.0).collect(),
            Some(marks) => {
                let (entries, layers) = (marks.len(), reader.layers);
                let reason = format!("no_rope_layers has {entries} entries for {layers} layers");
                return Err(settings.error(reason));
            }
            None => (0..reader.layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect(),
        };
        let used = settings.flag("use_sliding_window")?.unwrap_or(false);
        let window = reader.window_or(None)?.filter(|_| used);
        let local = reader.local_layers(|layer| window.is_some() && !rotated[layer])?;
        let layer = |(&local, &rotated): (&bool, &bool)| LayerAttention {
            rope: rotated.then_some(0),
            window: window.filter(|_| local),
        };
        let decoder = reader.llama("rms_norm_eps", 1e-6)?;
        Ok(Decoder { layers: local.iter().zip(&rotated).map(layer).collect(), ..decoder })
    },
    ..LLAMA
};
