//! The inputs of the losses besides the model's outputs.

/// The inputs of a loss besides the model's outputs. `[selected]` means one number per completion token, in
/// the order of the batch.
#[derive(Debug, Clone, PartialEq)]
pub enum LossInputs {
    /// Σ −weight · log π. See [`Loss::Sft`](crate::training::Loss::Sft).
    Sft {
        /// `[selected]`: 1 / the completion tokens of all batches of a step, for their mean.
        weights: Vec<f32>,
    },
    /// Σ weight · (−log σ(r₁ − r₂ − margin) + center · (r₁ + r₂)²). See
    /// [`Loss::BradleyTerry`](crate::training::Loss::BradleyTerry).
    BradleyTerry {
        /// `[pairs]`: the minimum lead of the preferred completion.
        margins: Vec<f32>,
        /// `[pairs]`: 1 / the pairs of all batches of a step, for their mean.
        weights: Vec<f32>,
        /// The weight of the centring term, which draws the scores' sum to 0 (TRL's
        /// `center_rewards_coefficient`); 0 disables it.
        center: f32,
    },
    /// Σ weight · (−log σ(c₁ − c₂) − log σ(s₁ c₁) − log σ(s₂ c₂)). See
    /// [`Loss::Cost`](crate::training::Loss::Cost).
    Cost {
        /// `[2 · pairs]`: +1 for an unsafe completion, −1 for a safe one. The less safe completions come
        /// first.
        signs: Vec<f32>,
        /// `[pairs]`.
        weights: Vec<f32>,
    },
    /// Σ weight · f(β, h), with h the gain of the first over the second completion relative to the reference.
    /// See [`Loss::Dpo`](crate::training::Loss::Dpo).
    Dpo {
        /// `[2 · pairs]`: log-probabilities of the completions under the reference. Sums over tokens, or
        /// means for IPO, as [`sequence_logprobs`](super::sequence_logprobs) returns them.
        reference: Vec<f32>,
        /// `[pairs]`.
        weights: Vec<f32>,
        /// β, > 0.
        beta: f32,
        /// The weight of βh in the sigmoid loss; 0 for trusted labels.
        linear: f32,
    },
    /// Clipped policy and value losses. See [`Loss::Ppo`](crate::training::Loss::Ppo).
    Ppo {
        /// `[selected]`: log π at sampling time.
        old_logprobs: Vec<f32>,
        /// `[selected]`: values at sampling time.
        old_values: Vec<f32>,
        /// `[selected]`.
        advantages: Vec<f32>,
        /// `[selected]`.
        returns: Vec<f32>,
        /// `[selected]`.
        weights: Vec<f32>,
        /// ε: the range of the ratio is 1 ± ε, in (0, 1).
        clip: f32,
        /// The largest change of a value, > 0.
        value_clip: f32,
        /// The weight of the value loss, ≥ 0.
        value_coefficient: f32,
    },
    /// Clipped policy loss with a KL term to the reference, token by token. See
    /// [`Loss::Grpo`](crate::training::Loss::Grpo).
    Grpo {
        /// `[selected]`: log π at sampling time.
        old_logprobs: Vec<f32>,
        /// `[selected]`: log π of the reference.
        reference_logprobs: Vec<f32>,
        /// `[selected]`: each token has the advantage of its completion.
        advantages: Vec<f32>,
        /// `[selected]`.
        weights: Vec<f32>,
        /// ε: the range of the ratio is 1 ± ε, in (0, 1).
        clip: f32,
        /// β, the weight of the KL estimate, ≥ 0.
        kl_coefficient: f32,
    },
    /// Clipped policy loss of whole completions. See [`Loss::Rloo`](crate::training::Loss::Rloo).
    Rloo {
        /// `[sequences]`: log-probabilities of the completions at sampling time, sums over tokens.
        old_logprobs: Vec<f32>,
        /// `[sequences]`.
        advantages: Vec<f32>,
        /// `[sequences]`.
        weights: Vec<f32>,
        /// ε: the range of the ratio is 1 ± ε, in (0, 1).
        clip: f32,
    },
}

/// One input of a loss's graph, with its numbers.
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

/// Returns the bounds of a ratio, 1 − clip and 1 + clip.
pub(super) fn clip_range(clip: f32) -> [Feed; 2] {
    [scalar("ratio_min", 1.0 - clip), scalar("ratio_max", 1.0 + clip)]
}
