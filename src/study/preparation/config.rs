//! The section `[categories]` of a study.

use dissent_domain::training::Hyperparameters;
use serde::{Deserialize, Serialize};

/// `[categories]`: ten topics of generated questions with a known rule each: two known to policy and proxy,
/// three to the policy only, three to the proxy only, two to neither.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoriesConfig {
    /// Prompts of each topic.
    pub prompts: usize,
    /// Held-out prompts of each topic.
    pub held_out: usize,
    /// Texts to learn the language from, of all topics; their answers are random, and teach no rule.
    pub texts: usize,
    /// Demonstrations of the topics that the policy knows.
    pub demonstrations: usize,
    /// How likely each word of a demonstration is right, in [0, 1]; the others are random.
    pub demonstration_accuracy: f64,
    /// Preferences of the topics that the proxy knows.
    pub preferences: usize,
    /// How likely a preference is the wrong way round, in [0, 0.5].
    pub preference_noise: f64,
    /// The model that is made.
    pub model: ModelSizes,
    /// How it learns the language, all weights.
    pub pretraining: Hyperparameters,
    /// How the policy learns from the demonstrations, all weights.
    pub imitation: Hyperparameters,
    /// How the proxy learns from the preferences, all weights.
    pub proxy: Hyperparameters,
}

/// `[categories.model]`: a small Llama.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSizes {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
}
