//! Tuning a policy against a reward, by PPO, GRPO or RLOO.
//!
//! [`PolicyTuner`] runs the iterations over a [`TunedPolicy`], for models a [`LoraPolicy`]. A [`Scorer`]
//! rewards the completions, for example a [`RewardScorer`]. Token ids are kept from end to end, so a policy
//! is trained on exactly the sampled tokens.
//!
//! An iteration follows the order of TRL:
//!
//! 1. draw prompts and sample completions,
//! 2. cut the completions at the stop token and score their text,
//! 3. compute log-probabilities by policy and reference, and advantages,
//! 4. take epochs of steps over shuffled completions.
//!
//! [`preference_pairs`] makes pairs of scored completions, for methods that train on pairs (DPO, RSO).

mod checkpoint;
mod grpo;
mod lora_policy;
pub mod memory;
mod method;
mod phases;
mod policy;
mod ppo;
pub mod preference_pairs;
mod reward_scorer;
mod rloo;
mod rollout;
mod rollout_math;
mod tuner;

pub use checkpoint::TuningCheckpoint;
pub use lora_policy::{LoraPolicy, PolicyStart, ReferencePolicy};
pub use phases::PhaseTimes;
pub use policy::{EvaluatedModel, TunedPolicy};
pub use reward_scorer::RewardScorer;
pub use rollout::{Rollout, SampledCompletion, Scorer, TuningPrompt};
pub use tuner::{IterationReport, PolicyTuner, TuningHooks, TuningSettings};

#[cfg(test)]
mod tests;
