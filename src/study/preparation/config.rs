//! The configuration section `[categories]`.

use dissent_domain::training::Hyperparameters;
use serde::{Deserialize, Serialize};

/// `[categories]`: generated questions on ten topics, each with its own rule.
///
/// Policy and proxy are both trained on two topics. The policy alone is trained on three others, the proxy
/// alone on three others, and neither on the last two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoriesConfig {
    /// Prompts of each topic.
    pub prompts: usize,
    /// Held-out prompts of each topic.
    pub held_out: usize,
    /// Texts for pretraining, of all topics. Their answers are random and contain no rule.
    pub texts: usize,
    /// Demonstrations of the policy's topics.
    pub demonstrations: usize,
    /// The probability that a word of a demonstration is correct, in [0, 1]. Other words are random.
    pub demonstration_accuracy: f64,
    /// Preferences of the proxy's topics.
    pub preferences: usize,
    /// The probability that a preference is reversed, in [0, 0.5].
    pub preference_noise: f64,
    /// The sizes of the model.
    pub model: ModelSizes,
    /// The pretraining of all weights.
    pub pretraining: Hyperparameters,
    /// The training of the policy on the demonstrations, all weights.
    pub imitation: Hyperparameters,
    /// The training of the proxy on the preferences, all weights.
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
    /// Attention heads.
    pub heads: usize,
}
