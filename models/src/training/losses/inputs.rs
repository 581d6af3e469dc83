//! The inputs of the losses: the numbers that a batch needs besides the model's outputs.

/// What a loss needs besides the model's outputs. `[selected]` stands for one number for each completion token, in the order of the
/// batch.
#[derive(Debug, Clone, PartialEq)]
pub enum LossInputs {
    /// Σ −weight · log π. See [`Loss::Sft`](crate::training::Loss::Sft).
    Sft {
        /// `[selected]`: 1 / the completion tokens of all batches of a step, for their mean.
        weights: Vec<f32>,
    },
    /// Σ weight · (−log σ(r₁ − r₂ − margin) + center · (r₁ + r₂)²). See [`Loss::BradleyTerry`](crate::training::Loss::BradleyTerry).
    BradleyTerry {
        /// `[pairs]`: by how much the preferred answer should be ahead at least.
        margins: Vec<f32>,
        /// `[pairs]`: 1 / the pairs of all batches of a step, for their mean.
        weights: Vec<f32>,
        /// How strongly scores are drawn to a sum of 0 (`center_rewards_coefficient` of TRL); 0: not at all.
        center: f32,
    },
    /// Σ weight · (−log σ(c₁ − c₂) − log σ(s₁ c₁) − log σ(s₂ c₂)). See [`Loss::Cost`](crate::training::Loss::Cost).
    Cost {
        /// `[2 · pairs]`: +1 for an unsafe answer, −1 for a safe one; the first half for the less safe answers.
        signs: Vec<f32>,
        /// `[pairs]`.
        weights: Vec<f32>,
    },
    /// Σ weight · f(β, h), with h the gain of the first over the second answer against the reference. See [`Loss::Dpo`](crate::training::Loss::Dpo).
    Dpo {
        /// `[2 · pairs]`: log-probabilities of the answers under the reference: sums over tokens, or means for IPO, as
        /// [`sequence_logprobs`](super::sequence_logprobs) gives them.
        reference: Vec<f32>,
        /// `[pairs]`.
        weights: Vec<f32>,
        /// β, > 0.
        beta: f32,
    },
    /// Clipped policy and value losses. See [`Loss::Ppo`](crate::training::Loss::Ppo).
    Ppo {
        /// `[selected]`: log π when the tokens were sampled.
        old_logprobs: Vec<f32>,
        /// `[selected]`: values when the tokens were sampled.
        old_values: Vec<f32>,
        /// `[selected]`.
        advantages: Vec<f32>,
        /// `[selected]`.
        returns: Vec<f32>,
        /// `[selected]`.
        weights: Vec<f32>,
        /// How far the ratio may move, in (0, 1).
        clip: f32,
        /// How far a value may move, > 0.
        value_clip: f32,
        /// The weight of the value loss, ≥ 0.
        value_coefficient: f32,
    },
    /// Clipped policy loss and a tie to the reference, token by token. See [`Loss::Grpo`](crate::training::Loss::Grpo).
    Grpo {
        /// `[selected]`: log π when the tokens were sampled.
        old_logprobs: Vec<f32>,
        /// `[selected]`: log π of the reference.
        reference_logprobs: Vec<f32>,
        /// `[selected]`: each token has its completion's.
        advantages: Vec<f32>,
        /// `[selected]`.
        weights: Vec<f32>,
        /// How far the ratio may move, in (0, 1).
        clip: f32,
        /// β, the weight of the KL estimate, ≥ 0.
        kl_coefficient: f32,
    },
    /// Clipped policy loss of whole completions. See [`Loss::Rloo`](crate::training::Loss::Rloo).
    Rloo {
        /// `[sequences]`: log-probabilities of the completions when they were sampled, sums over tokens.
        old_logprobs: Vec<f32>,
        /// `[sequences]`.
        advantages: Vec<f32>,
        /// `[sequences]`.
        weights: Vec<f32>,
        /// How far the ratio may move, in (0, 1).
        clip: f32,
    },
}

/// An input of a loss's graph with its numbers.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::training) struct Feed {
    pub(in crate::training) name: &'static str,
    pub(in crate::training) shape: Vec<usize>,
    pub(in crate::training) numbers: Vec<f32>,
}

pub(super) fn vector(name: &'static str, numbers: &[f32]) -> Feed {
    Feed { name, shape: vec![numbers.len()], numbers: numbers.to_vec() }
}

pub(super) fn scalar(name: &'static str, number: f32) -> Feed {
    Feed { name, shape: Vec::new(), numbers: vec![number] }
}

/// The bounds of a ratio, 1 − clip and 1 + clip.
pub(super) fn clip_range(clip: f32) -> [Feed; 2] {
    [scalar("ratio_min", 1.0 - clip), scalar("ratio_max", 1.0 + clip)]
}
