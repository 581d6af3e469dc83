//! The keys that `[refinement]` and `[tuning]` share.

use dissent_domain::training::{Hyperparameters, LoraSettings, Schedule, SettingError, Warmup};
use serde::Deserialize;

use super::{ConfigError, KeyErrorKind};

/// Declares a section with its own keys and the shared keys of a training. One table of the file holds both,
/// so that a misspelt key is reported with its line.
macro_rules! training_section {
    ($(#[$about:meta])* $section:ident { $($(#[$key_about:meta])* $key:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $section {
            $($(#[$key_about])* pub $key: $kind,)*
            /// The peak learning rate.
            pub learning_rate: Option<f64>,
            /// `linear`, `cosine` or `constant`.
            pub schedule: dissent_domain::training::Schedule,
            /// Optimiser steps in which the learning rate rises from 0.
            pub warmup_steps: Option<u64>,
            /// Warmup as a share of all steps, instead of `warmup_steps`.
            pub warmup_ratio: Option<f64>,
            /// Passes over the data.
            pub epochs: Option<f64>,
            /// Optimiser steps, instead of `epochs`.
            pub steps: Option<u64>,
            /// Examples in a micro-batch.
            pub batch_size: Option<u32>,
            /// Micro-batches per optimiser step.
            pub gradient_accumulation: Option<u32>,
            /// Longest example, in tokens.
            pub max_length: Option<u32>,
            /// AdamW's weight decay.
            pub weight_decay: Option<f64>,
            /// Largest global norm of the gradients; 0 disables clipping.
            pub max_grad_norm: Option<f64>,
            /// AdamW's β₁ and β₂.
            pub adam_betas: Option<[f64; 2]>,
            /// AdamW's ε.
            pub adam_epsilon: Option<f64>,
            /// The LoRA settings.
            pub lora: Option<super::training::LoraConfig>,
            /// Trains all weights instead of a LoRA adapter.
            pub full: bool,
            /// Recomputes activations in the backward pass: less memory, more time.
            pub recompute: bool,
            /// The seed of initial values and of the data order; the experiment's seed if omitted.
            pub seed: Option<u64>,
        }

        impl $section {
            /// Returns the keys that trainings share.
            pub(super) fn keys(&self) -> super::training::TrainingKeys {
                super::training::TrainingKeys {
                    learning_rate: self.learning_rate,
                    schedule: self.schedule,
                    warmup_steps: self.warmup_steps,
                    warmup_ratio: self.warmup_ratio,
                    epochs: self.epochs,
                    steps: self.steps,
                    batch_size: self.batch_size,
                    gradient_accumulation: self.gradient_accumulation,
                    max_length: self.max_length,
                    weight_decay: self.weight_decay,
                    max_grad_norm: self.max_grad_norm,
                    adam_betas: self.adam_betas,
                    adam_epsilon: self.adam_epsilon,
                    lora: self.lora.clone(),
                    full: self.full,
                    recompute: self.recompute,
                    seed: self.seed,
                }
            }
        }
    };
}
pub(super) use training_section;

/// `[refinement.lora]` and `[tuning.lora]`. Omitted keys come from the model's adapter, if one exists.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// The rank of the adapter.
    pub r: Option<u32>,
    /// The adapter is scaled by alpha / r.
    pub alpha: Option<f64>,
    /// Names of the adapted projections; an empty list means the query and value projections.
    pub targets: Option<Vec<String>>,
}

impl LoraConfig {
    /// Returns the settings, with those of `otherwise` for omitted keys.
    #[must_use]
    pub fn or(&self, otherwise: &LoraSettings) -> LoraSettings {
        LoraSettings {
            r: self.r.unwrap_or(otherwise.r),
            alpha: self.alpha.unwrap_or(otherwise.alpha),
            targets: self.targets.clone().unwrap_or_else(|| otherwise.targets.clone()),
        }
    }
}

/// The keys that trainings share, as the file has them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TrainingKeys {
    pub(super) learning_rate: Option<f64>,
    pub(super) schedule: Schedule,
    pub(super) warmup_steps: Option<u64>,
    pub(super) warmup_ratio: Option<f64>,
    pub(super) epochs: Option<f64>,
    pub(super) steps: Option<u64>,
    pub(super) batch_size: Option<u32>,
    pub(super) gradient_accumulation: Option<u32>,
    pub(super) max_length: Option<u32>,
    pub(super) weight_decay: Option<f64>,
    pub(super) max_grad_norm: Option<f64>,
    pub(super) adam_betas: Option<[f64; 2]>,
    pub(super) adam_epsilon: Option<f64>,
    pub(super) lora: Option<LoraConfig>,
    pub(super) full: bool,
    pub(super) recompute: bool,
    pub(super) seed: Option<u64>,
}

/// The values of omitted keys.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TrainingDefaults {
    /// The learning rate with LoRA.
    pub(super) learning_rate_lora: f64,
    /// The learning rate with all weights.
    pub(super) learning_rate_full: f64,
    pub(super) lora: LoraSettings,
    pub(super) seed: u64,
}

impl TrainingKeys {
    /// Returns the complete settings, not yet checked.
    pub(super) fn hyperparameters(&self, otherwise: &TrainingDefaults) -> Hyperparameters {
        let usual = Hyperparameters::default();
        let lora =
            (!self.full).then(|| self.lora.as_ref().unwrap_or(&LoraConfig::default()).or(&otherwise.lora));
        let rate = if self.full { otherwise.learning_rate_full } else { otherwise.learning_rate_lora };
        let warmup = match (self.warmup_ratio, self.warmup_steps) {
            (Some(ratio), _) => Warmup::Ratio(ratio),
            (None, Some(steps)) => Warmup::Steps(steps),
            (None, None) => usual.warmup,
        };
        Hyperparameters {
            learning_rate: self.learning_rate.unwrap_or(rate),
            schedule: self.schedule,
            warmup,
            epochs: self.epochs.unwrap_or(usual.epochs),
            steps: self.steps,
            batch_size: self.batch_size.unwrap_or(usual.batch_size),
            gradient_accumulation: self.gradient_accumulation.unwrap_or(usual.gradient_accumulation),
            max_length: self.max_length.unwrap_or(usual.max_length),
            weight_decay: self.weight_decay.unwrap_or(usual.weight_decay),
            max_grad_norm: self.max_grad_norm.unwrap_or(usual.max_grad_norm),
            adam_betas: self.adam_betas.unwrap_or(usual.adam_betas),
            adam_epsilon: self.adam_epsilon.unwrap_or(usual.adam_epsilon),
            lora,
            recompute: self.recompute,
            seed: self.seed.unwrap_or(otherwise.seed),
        }
    }

    /// Checks the keys against each other and against their ranges.
    pub(super) fn validate(&self, section: &str, otherwise: &TrainingDefaults) -> Result<(), ConfigError> {
        let exclusive = |one: &str, other: &str, way_out: &str| {
            let reason = format!("{section}.{one} and {section}.{other} exclude each other: {way_out}");
            Err(ConfigError::key(format!("{section}.{one}"), KeyErrorKind::Exclusive, reason))
        };
        if self.warmup_steps.is_some() && self.warmup_ratio.is_some() {
            return exclusive("warmup_steps", "warmup_ratio", "set one of them");
        }
        if self.full && self.lora.is_some() {
            return exclusive("full", "lora", "train all weights or an adapter");
        }
        if self.steps.is_some() && self.epochs.is_some() {
            return exclusive("steps", "epochs", "set one of them");
        }
        self.hyperparameters(otherwise).validate().map_err(|error| setting_error(section, &error))
    }
}

/// Converts an error of a training's settings, whose names are those of the section's keys.
pub(super) fn setting_error(section: &str, error: &SettingError) -> ConfigError {
    // The file has two keys for the warmup, and only the ratio can be out of range.
    let (key, text) = match error.name {
        "warmup" => ("warmup_ratio", error.to_string().replacen("warmup", "warmup_ratio", 1)),
        name => (name, error.to_string()),
    };
    ConfigError::key(format!("{section}.{key}"), KeyErrorKind::OutOfRange, format!("{section}.{text}"))
}
