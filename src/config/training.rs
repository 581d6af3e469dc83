//! The keys that every training has: the same in `[refinement]` and `[tuning]`, beside those of its own.

use dissent_domain::training::{Hyperparameters, LoraSettings, Schedule, Warmup};
use serde::Deserialize;

/// Declares a section with the keys of a training beside its own, so that all of them stand in one table of
/// the file, and a misspelt one is found with its line.
macro_rules! training_section {
    ($(#[$about:meta])* $section:ident { $($(#[$key_about:meta])* $key:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $section {
            $($(#[$key_about])* pub $key: $kind,)*
            /// Peak learning rate.
            pub learning_rate: Option<f64>,
            /// `linear`, `cosine` or `constant`.
            pub schedule: dissent_domain::training::Schedule,
            /// Steps in which the learning rate rises from 0.
            pub warmup_steps: Option<u64>,
            /// The same as a share of all steps.
            pub warmup_ratio: Option<f64>,
            /// Passes over the data.
            pub epochs: Option<f64>,
            /// Optimiser steps, instead of `epochs`.
            pub steps: Option<u64>,
            /// Examples in a micro-batch.
            pub batch_size: Option<u32>,
            /// Micro-batches of a step.
            pub gradient_accumulation: Option<u32>,
            /// Longest example, in tokens.
            pub max_length: Option<u32>,
            /// Of AdamW.
            pub weight_decay: Option<f64>,
            /// Gradients are scaled down to this norm; 0: never.
            pub max_grad_norm: Option<f64>,
            /// Of AdamW.
            pub adam_betas: Option<[f64; 2]>,
            /// Of AdamW.
            pub adam_epsilon: Option<f64>,
            /// The low-rank change that is trained.
            pub lora: Option<super::training::LoraConfig>,
            /// Train all weights instead.
            pub full: bool,
            /// Less memory for more time.
            pub recompute: bool,
            /// Of initial values and of the order of the data; the experiment's where it is left out.
            pub seed: Option<u64>,
        }

        impl $section {
            /// The keys that it shares with other trainings.
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

/// `[refinement.lora]` and `[tuning.lora]`. What is left out is taken from the model's adapter, if it has
/// one.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// The rank of each change.
    pub r: Option<u32>,
    /// The change is scaled by alpha / r.
    pub alpha: Option<f64>,
    /// Names of projections; empty: the query and value projections.
    pub targets: Option<Vec<String>>,
}

impl LoraConfig {
    /// With these settings where it says nothing.
    #[must_use]
    pub fn or(&self, otherwise: &LoraSettings) -> LoraSettings {
        LoraSettings {
            r: self.r.unwrap_or(otherwise.r),
            alpha: self.alpha.unwrap_or(otherwise.alpha),
            targets: self.targets.clone().unwrap_or_else(|| otherwise.targets.clone()),
        }
    }
}

/// The keys that trainings share, as they stand in the file.
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

/// What a training takes where its section says nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TrainingDefaults {
    /// With a low-rank change.
    pub(super) learning_rate_lora: f64,
    /// With all weights.
    pub(super) learning_rate_full: f64,
    pub(super) lora: LoraSettings,
    pub(super) seed: u64,
}

impl TrainingKeys {
    /// The whole of the settings, not yet checked.
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

    /// Checks the keys against one another and against their ranges.
    pub(super) fn validate(&self, section: &str, otherwise: &TrainingDefaults) -> Result<(), String> {
        if self.warmup_steps.is_some() && self.warmup_ratio.is_some() {
            return Err(format!("{section}.warmup_steps and {section}.warmup_ratio: give one of them"));
        }
        if self.full && self.lora.is_some() {
            return Err(format!(
                "{section}.full trains all weights, {section}.lora a change to them: give one of them"
            ));
        }
        if self.steps.is_some() && self.epochs.is_some() {
            return Err(format!("{section}.steps and {section}.epochs: give one of them"));
        }
        self.hyperparameters(otherwise).validate().map_err(|error| {
            // The file says a share and a number of steps by two names.
            let error = error.to_string();
            format!("{section}.{}", error.replacen("warmup = ", "warmup_ratio = ", 1))
        })
    }
}
